{{/*
Name of the chart, for labels.
*/}}
{{- define "plimsoll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
Begin of all objects' names. 44 characters leave room for the longest ending and for a pod's own suffix.
*/}}
{{- define "plimsoll.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Name of the operator's Deployment, Service, Lease and, unless another is named, ServiceAccount.
*/}}
{{- define "plimsoll.operatorName" -}}
{{- printf "%s-operator" (include "plimsoll.fullname" . | trimSuffix "-operator") -}}
{{- end -}}

{{- define "plimsoll.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "plimsoll.operatorName" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
Labels by which the operator's pods are found. A Deployment's selector cannot change, so neither can these.
*/}}
{{- define "plimsoll.selectorLabels" -}}
app.kubernetes.io/name: {{ include "plimsoll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/*
Labels of every object.
*/}}
{{- define "plimsoll.labels" -}}
{{- $own := include "plimsoll.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" (.Chart.AppVersion | trunc 63) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "plimsoll" -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- merge $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{/*
Labels by which the pod of `helm test` is found. It must not be taken for an operator.
*/}}
{{- define "plimsoll.testLabels" -}}
app.kubernetes.io/name: {{ include "plimsoll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{/*
Reference of an image. Call with a dict of `image` (repository, tag, digest) and `root`.
*/}}
{{- define "plimsoll.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/*
What a ServiceMonitor and a PodMonitor have in common. Call with the values of either.
*/}}
{{- define "plimsoll.monitorEndpoint" -}}
path: /metrics
# The namespace of a series is that of its ApiDeployment, not the operator's.
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
What the operator may do where it watches: the rules of a ClusterRole, or of a Role with watchNamespace.
Each rule carries its reason; whoever adds one writes it.
*/}}
{{- define "plimsoll.operatorRules" -}}
# The resources that it operates. Their spec belongs to their users: it never writes it.
- apiGroups: [plimsoll.dev]
  resources: [apideployments]
  verbs: [get, list, watch]
# Reports what it saw and did, by server-side apply.
- apiGroups: [plimsoll.dev]
  resources: [apideployments/status]
  verbs: [patch]
# Runs the API and its managed cache; server-side apply is create and patch. Deletes a cache that is no longer wanted.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Runs a managed cache that survives the loss of a server. Deletes one that is no longer wanted.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Gives the API and its managed cache their addresses.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Keeps the drain of nodes from taking too many replicas at once, and deletes a budget that is no longer wanted.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Restricts who may connect to the API and its managed cache, where a resource asks for it.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Looks whether a ConfigMap that a resource names is there and whether it has changed. It neither lists nor watches
# ConfigMaps.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
# Makes the managed cache's password once, and looks whether a Secret that a resource names is there and whether it has
# changed. It neither lists nor watches Secrets.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
# Finds the pods whose latency it reads.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Sees which of them scale a Deployment that it would scale too; it writes none.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
# Tells why it scaled; repeated events are counted up in place.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
