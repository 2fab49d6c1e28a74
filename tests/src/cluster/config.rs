//! Configuration files of the components, as text.

use super::layout::{
    BRIDGE, CGROUP, KUBELET_PORT, NETWORK, NODE, NODE_ADDRESS, NODE_POD_RANGE, POD_RANGE, RUN, STATE,
};
use crate::images::PAUSE_IMAGE;

/// containerd, with its own root, state and socket. Without the right to raise limits, as in many containers and
/// small virtual machines, it must not set out-of-memory scores below its own.
pub fn containerd() -> String {
    format!(
        r#"version = 2
root = "{STATE}/containerd"
state = "{RUN}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = "{RUN}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE}/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    Root = "{RUN}/runc"
"#
    )
}

/// The network of the pods: one bridge, addresses counted on this machine, no masquerading.
pub fn cni() -> String {
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "{NETWORK}",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "{BRIDGE}",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {{
        "type": "host-local",
        "dataDir": "{RUN}/ipam",
        "ranges": [[{{"subnet": "{NODE_POD_RANGE}", "gateway": "{NODE_ADDRESS}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }}
  ]
}}
"#
    )
}

/// The kubelet. Images are imported, not pulled, so they must never be collected as unused.
pub fn kubelet() -> String {
    format!(
        r"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_ADDRESS}
port: {KUBELET_PORT}
healthzBindAddress: 127.0.0.1
healthzPort: 10248
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {STATE}/pki/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {STATE}/pki/kubelet.crt
tlsPrivateKeyFile: {STATE}/pki/kubelet.key
containerRuntimeEndpoint: unix://{RUN}/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
podLogsDir: {STATE}/pod-logs
volumePluginDir: {STATE}/volume-plugins
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [{NODE_ADDRESS}]
resolvConf: {STATE}/resolv.conf
maxPods: 200
serializeImagePulls: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}}
"
    )
}

/// kube-proxy, which must not raise the machine's limits on connection tracking.
pub fn kube_proxy() -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {STATE}/kube-proxy.kubeconfig}}
hostnameOverride: {NODE}
mode: iptables
clusterCIDR: {POD_RANGE}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: ["127.0.0.0/8"]
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"#
    )
}

/// The cluster's DNS, which knows the cluster's names and no others.
pub fn coredns() -> String {
    format!(
        r"cluster.local:53 in-addr.arpa:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {STATE}/coredns.kubeconfig
        pods insecure
        ttl 5
    }}
    cache 5
}}
"
    )
}

/// What the API server writes down: who of the operator's namespace asked for what, when somebody took its roles from it, and
/// no object's content.
pub fn audit_policy() -> String {
    format!(
        r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:{}"]
- level: Metadata
  verbs: [delete]
  resources: [{{group: rbac.authorization.k8s.io, resources: [rolebindings, clusterrolebindings]}}]
- level: None
"#,
        crate::chart::NAMESPACE
    )
}

/// What pods fall back on: nothing.
pub fn resolv_conf() -> String {
    format!("nameserver {NODE_ADDRESS}\n")
}

/// Objects without which the cluster is not complete: the right of CoreDNS to read Services.
pub fn objects() -> &'static str {
    r#"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- apiGroups: [""]
  resources: [services, pods, namespaces]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: system:coredns}
"#
}
