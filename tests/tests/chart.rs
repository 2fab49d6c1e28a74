//! Renders the Helm chart and holds it to golden files, to its own documentation and to what clusters enforce.
//!
//! Never talks to a cluster: the kubeconfig it gives Helm is empty.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::chart::{NAMESPACE, RELEASE, template};
use plimsoll_tests::{command, paths};
use serde_json::Value;

const UPDATE: &str = "cargo xtask generate";
/// Rendering takes well under a second; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

fn chart() -> PathBuf {
    paths::project().join("charts/plimsoll")
}

fn golden() -> PathBuf {
    paths::project().join("tests/golden/chart")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

async fn helm(arguments: &[&str]) -> Result<String> {
    command::run(plimsoll_tests::chart::offline_helm().await?.args(arguments), LIMIT).await
}

/// What the schema says against `--set SETTING`.
async fn refusal(setting: &str) -> String {
    match template(&["--set", setting]).await {
        Ok(_) => panic!("{setting} is accepted"),
        Err(error) => format!("{error:#}"),
    }
}

/// Each file of values in the chart's `ci`, by name, with what it renders.
async fn cases() -> BTreeMap<String, String> {
    let mut cases = BTreeMap::new();
    for entry in std::fs::read_dir(chart().join("ci")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let name = file.strip_suffix("-values.yaml").expect("files in ci end in -values.yaml").to_owned();
        cases.insert(name, template(&["--values", path.to_str().unwrap()]).await.unwrap());
    }
    assert!(!cases.is_empty());
    cases
}

fn documents(rendered: &str) -> Vec<&str> {
    rendered.split("---\n").map(str::trim).filter(|document| !document.is_empty()).collect()
}

fn objects(rendered: &str) -> Vec<Value> {
    documents(rendered).into_iter().map(yaml).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// All rules, with the kind and the namespace of their role.
fn rules(objects: &[Value]) -> Vec<(&Value, &Value, &Value)> {
    objects
        .iter()
        .filter_map(|object| Some((object, object["rules"].as_array()?)))
        .flat_map(|(role, rules)| {
            rules.iter().map(|rule| (&role["kind"], &role["metadata"]["namespace"], rule))
        })
        .collect()
}

fn holds(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == word))
}

/// Fails with the first line that differs, or writes the file when asked to.
fn check(path: &Path, actual: &str) {
    if updating() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let line = expected.lines().zip(actual.lines()).take_while(|(one, other)| one == other).count();
    panic!(
        "{} differs from line {} on:\n  it has     {:?}\n  the chart  {:?}\nif the chart is right: {UPDATE}",
        path.display(),
        line + 1,
        expected.lines().nth(line),
        actual.lines().nth(line),
    );
}

#[tokio::test]
async fn renders_as_the_golden_files_say() {
    let mut used = BTreeSet::new();
    for (name, rendered) in cases().await {
        let mut text = String::new();
        for document in documents(&rendered) {
            // Other tests compare these with what they are made from; here their metadata is enough.
            let cut = |kind: &str, field: &str| {
                document.split_once(field).map(|(head, _)| head).filter(|head| head.contains(kind))
            };
            let kept = cut("\nkind: CustomResourceDefinition", "\nspec:");
            let kept = kept.or_else(|| cut("\nkind: PrometheusRule", "\nspec:"));
            let kept = kept.or_else(|| cut("\nkind: ConfigMap", "\ndata:")).unwrap_or(document);
            text.extend(["---\n", kept, "\n"]);
        }
        let file = format!("{name}.yaml");
        check(&golden().join(&file), &text);
        used.insert(file);
    }
    for entry in std::fs::read_dir(golden()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(used.contains(&file), "{file} is of no file in the chart's ci: remove it");
    }
}

#[tokio::test]
async fn lints_strictly() {
    let chart = chart();
    for entry in std::fs::read_dir(chart.join("ci")).unwrap() {
        let values = entry.unwrap().path();
        helm(&["lint", "--strict", chart.to_str().unwrap(), "--values", values.to_str().unwrap()])
            .await
            .unwrap();
    }
}

#[test]
fn carries_the_generated_definition() {
    let path = chart().join("files/crds/apideployments.yaml");
    assert_eq!(
        read(&path),
        read(&paths::project().join("crds/generated/apideployments.yaml")),
        "the chart's copy is stale: cargo xtask generate"
    );
}

#[tokio::test]
async fn renders_the_definition_unchanged() {
    // As its type: on the way through Helm `1.0` becomes `1`, which is the same number.
    let typed = |object| serde_json::from_value::<CustomResourceDefinition>(object).unwrap();
    let generated = typed(yaml(&read(&paths::project().join("crds/generated/apideployments.yaml"))));
    for keep in [true, false] {
        let rendered = template(&["--set", &format!("crds.keep={keep}")]).await.unwrap();
        let objects = objects(&rendered);
        let [definition] = of_kind(&objects, "CustomResourceDefinition")[..] else {
            panic!("one definition")
        };
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", keep);
        let definition = typed(definition.clone());
        assert_eq!(definition.spec, generated.spec);
        assert_eq!(definition.metadata.name, generated.metadata.name);
    }
    let without = template(&["--set", "crds.install=false"]).await.unwrap();
    assert!(of_kind(&objects(&without), "CustomResourceDefinition").is_empty());
}

#[tokio::test]
async fn refuses_misspelt_keys() {
    for (setting, key) in [
        ("watchNamespaces=a", "watchNamespaces"),
        ("image.repo=a", "repo"),
        ("crds.enabled=true", "enabled"),
        ("resources.limit.cpu=1", "limit"),
        ("serviceMonitor.enable=true", "enable"),
        ("networkPolicy.apiServer.port=443", "port"),
    ] {
        let said = refusal(setting).await;
        assert!(
            said.contains("additional properties") && said.contains(&format!("'{key}'")),
            "{setting}: {said}"
        );
    }
}

#[tokio::test]
async fn refuses_wrong_values() {
    for (setting, place, reason) in [
        ("replicaCount=two", "/replicaCount", "got string, want integer"),
        ("crds.keep=sometimes", "/crds/keep", "got string, want boolean"),
        ("image.tag=17", "/image/tag", "got number, want string"),
        ("image.digest=sha256:0123", "/image/digest", "does not match pattern"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"),
        ("shards=0", "/shards", "minimum"),
        ("logFormat=xml", "/logFormat", "'json', 'text'"),
        ("watchNamespace=Team_A", "/watchNamespace", "does not match pattern"),
        ("extraEnv[0].name=POD_NAME", "/extraEnv/0/name", "not"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval", "does not match pattern"),
        ("podMonitor.enabled=maybe", "/podMonitor/enabled", "got string, want boolean"),
        (
            "prometheusRule.operatorSelector={job}",
            "/prometheusRule/operatorSelector",
            "got array, want string",
        ),
        ("networkPolicy.apiServer.ports={70000}", "/networkPolicy/apiServer/ports/0", "maximum"),
        (
            "networkPolicy.apiServer.cidrs={here}",
            "/networkPolicy/apiServer/cidrs/0",
            "does not match pattern",
        ),
    ] {
        let said = refusal(setting).await;
        assert!(said.contains(place) && said.contains(reason), "{setting}: {said}");
    }
}

#[tokio::test]
async fn accepts_what_a_parent_chart_passes() {
    template(&["--set", "global.imageRegistry=registry.example.com", "--set", "enabled=true"]).await.unwrap();
}

#[tokio::test]
async fn grants_no_wildcard_and_no_list_of_secrets() {
    for (name, rendered) in cases().await {
        let objects = objects(&rendered);
        for (_, _, rule) in rules(&objects) {
            assert!(!rule.to_string().contains('*'), "{name}: {rule}");
            let verbs = &rule["verbs"];
            let reads_all = holds(verbs, "list") || holds(verbs, "watch");
            assert!(!(holds(&rule["resources"], "secrets") && reads_all), "{name}: {rule}");
        }
    }
}

#[tokio::test]
async fn grants_leases_in_its_own_namespace_alone() {
    for (name, rendered) in cases().await {
        let objects = objects(&rendered);
        let leases: Vec<_> =
            rules(&objects).into_iter().filter(|(_, _, rule)| holds(&rule["resources"], "leases")).collect();
        assert!(!leases.is_empty(), "{name}");
        for (kind, namespace, rule) in leases {
            assert_eq!((kind, namespace), (&Value::from("Role"), &Value::from(NAMESPACE)), "{name}");
            let deployment = &of_kind(&objects, "Deployment")[0];
            let lease = deployment["metadata"]["name"].as_str().unwrap();
            let arguments = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
            assert!(holds(arguments, &format!("--lease-name={lease}")), "{name}: {arguments}");
            if holds(&rule["verbs"], "create") {
                // These cannot be bound to names, and change nothing that is there.
                assert_eq!(rule["verbs"], serde_json::json!(["create", "list"]), "{name}");
                continue;
            }
            let shards = (0..32).find(|shards| holds(arguments, &format!("--shards={shards}"))).unwrap();
            // As `operator/src/lease.rs` names them.
            let others = (1..shards).map(|shard| format!("{lease}-shard-{shard}"));
            let names: Vec<String> = std::iter::once(lease.to_owned()).chain(others).collect();
            assert_eq!(
                rule["resourceNames"],
                serde_json::json!(names),
                "{name}: the names that the operator uses"
            );
        }
    }
}

#[tokio::test]
async fn gives_a_reason_for_each_rule() {
    for (name, rendered) in cases().await {
        let lines: Vec<_> = rendered.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[1].starts_with("- apiGroups:")) {
            assert!(pair[0].starts_with("# "), "{name}: {} follows no comment", pair[1]);
        }
    }
}

#[tokio::test]
async fn needs_nothing_of_the_cluster_in_one_namespace() {
    let options = [
        "watchNamespace=team-a",
        "crds.install=false",
        "rbac.aggregateClusterRoles=false",
        "admissionPolicy.install=false",
    ];
    let rendered = template(&options.map(|option| ["--set", option]).concat()).await.unwrap();
    for object in objects(&rendered) {
        let namespace = object["metadata"]["namespace"].as_str();
        assert!(matches!(namespace, Some(NAMESPACE | "team-a")), "{} is in {namespace:?}", object["kind"]);
    }
}

#[tokio::test]
async fn pods_satisfy_the_restricted_profile() {
    for (name, rendered) in cases().await {
        let objects = objects(&rendered);
        let templates =
            of_kind(&objects, "Deployment").into_iter().map(|deployment| &deployment["spec"]["template"]);
        for pod in templates.chain(of_kind(&objects, "Pod")) {
            let pod = &pod["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(pod["securityContext"]["runAsUser"], 10001, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for host in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
                assert!(pod[host].is_null(), "{name}: {host}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                assert!(volume["secret"].is_object() || volume["configMap"].is_object(), "{name}: {volume}");
            }
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{name}");
                assert!(context["privileged"].is_null(), "{name}");
                let mut ports = container["ports"].as_array().into_iter().flatten();
                assert!(ports.all(|port| port["hostPort"].is_null()), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn selectors_find_the_pods() {
    for (name, rendered) in cases().await {
        let objects = objects(&rendered);
        let [deployment] = of_kind(&objects, "Deployment")[..] else { panic!("{name}: one Deployment") };
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let [service] = of_kind(&objects, "Service")[..] else { panic!("{name}: one Service") };
        for selector in [&deployment["spec"]["selector"]["matchLabels"], &service["spec"]["selector"]] {
            for (key, value) in selector.as_object().unwrap() {
                assert_eq!(&labels[key], value, "{name}: {key}");
            }
        }
    }
}

#[tokio::test]
async fn a_test_pod_is_taken_for_no_operator_and_asks_the_service() {
    for (name, rendered) in cases().await {
        let objects = objects(&rendered);
        let [pod] = of_kind(&objects, "Pod")[..] else { panic!("{name}: one Pod") };
        let [service] = of_kind(&objects, "Service")[..] else { panic!("{name}: one Service") };
        let selector = service["spec"]["selector"].as_object().unwrap();
        assert!(selector.iter().any(|(key, value)| pod["metadata"]["labels"][key] != *value), "{name}");
        assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
        let host = format!("{}.{NAMESPACE}.svc", service["metadata"]["name"].as_str().unwrap());
        let url = format!("--url=http://{host}:{}", service["spec"]["ports"][0]["port"]);
        assert!(holds(&pod["spec"]["containers"][0]["args"], &url), "{name}: {url}");
        let operator = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(pod["spec"]["containers"][0]["image"], operator["image"], "{name}");
    }
}

#[tokio::test]
async fn a_budget_for_disruptions_never_holds_a_drain_up() {
    for (replicas, budgets) in [(0, 0), (1, 0), (2, 1)] {
        let objects = objects(&template(&["--set", &format!("replicaCount={replicas}")]).await.unwrap());
        let budget = of_kind(&objects, "PodDisruptionBudget");
        assert_eq!(budget.len(), budgets, "{replicas} replicas");
        assert!(budget.iter().all(|budget| budget["spec"]["maxUnavailable"] == 1));
    }
}

#[tokio::test]
async fn a_network_policy_lets_through_what_the_operator_needs() {
    let policy = async |settings: &[&str]| {
        let mut options = vec!["--set", "networkPolicy.enabled=true"];
        options.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let objects = objects(&template(&options).await.unwrap());
        of_kind(&objects, "NetworkPolicy")[0]["spec"].clone()
    };
    let open = policy(&[]).await;
    assert!(open["ingress"][0]["from"].is_null(), "everybody may ask");
    let ports = |rule: &Value| {
        let ports = rule["ports"].as_array().unwrap().iter();
        ports.map(|port| port["port"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let egress = open["egress"].as_array().unwrap();
    assert_eq!((ports(&egress[0]), ports(&egress[1])), (vec![53, 53], vec![443, 6443]));
    assert_eq!(egress[2]["to"][0]["namespaceSelector"], serde_json::json!({}), "pods of all namespaces");

    let label = "kubernetes\\.io/metadata\\.name";
    let from = format!("networkPolicy.from[0].namespaceSelector.matchLabels.{label}=monitoring");
    let narrow =
        policy(&[&from, "watchNamespace=team-a", "networkPolicy.apiServer.cidrs[0]=10.0.0.1/32"]).await;
    let from = narrow["ingress"][0]["from"].as_array().unwrap();
    let labels = |peer: &Value, selector: &str, label: &str| peer[selector]["matchLabels"][label].clone();
    assert_eq!(labels(&from[0], "namespaceSelector", "kubernetes.io/metadata.name"), "monitoring");
    assert_eq!(
        labels(&from[1], "podSelector", "app.kubernetes.io/component"),
        "test",
        "`helm test` may ask too"
    );
    assert_eq!(narrow["egress"][1]["to"][0]["ipBlock"]["cidr"], "10.0.0.1/32");
    let pods = &narrow["egress"][2]["to"][0];
    assert_eq!(labels(pods, "namespaceSelector", "kubernetes.io/metadata.name"), "team-a");
}

#[tokio::test]
async fn a_digest_wins_over_the_tag() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("apiService.image.tag=9,apiService.image.digest={digest}");
    let objects = objects(&template(&["--set-string", &pinned]).await.unwrap());
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let version = yaml(&read(&chart().join("Chart.yaml")))["appVersion"].as_str().unwrap().to_owned();
    assert_eq!(version, env!("CARGO_PKG_VERSION"), "appVersion is the version of the images");
    assert_eq!(container["image"], format!("ghcr.io/plimsoll/plimsoll-operator:{version}"));
    assert_eq!(container["env"][0]["name"], "PLIMSOLL_API_IMAGE");
    assert_eq!(container["env"][0]["value"], format!("ghcr.io/plimsoll/plimsoll-api@{digest}"));
}

#[tokio::test]
async fn notes_hold_an_api_that_can_be_pasted() {
    let chart = chart();
    let install = ["install", RELEASE, chart.to_str().unwrap(), "--namespace", NAMESPACE, "--dry-run=client"];
    for (option, namespace) in [("watchNamespace=", "default"), ("watchNamespace=team-a", "team-a")] {
        let said = helm(&[&install[..], &["--set", option]].concat()).await.unwrap();
        let (_, notes) = said.split_once("\nNOTES:\n").expect("notes");
        let (_, rest) = notes.split_once("\nkubectl apply -f - <<EOF\n").expect("a command to paste");
        let (text, rest) = rest.split_once("\nEOF\n").expect("the end of what is pasted");
        let app: ApiDeployment = serde_yaml::from_str(text).unwrap();
        assert_eq!(app.metadata.namespace.as_deref(), Some(namespace));
        assert_eq!(app.spec.latency.p99.as_deref(), Some("250ms"));
        assert_eq!(app.spec.replicas.max, 1, "the embedded database allows one replica");
        assert!(rest.contains("spec.database.external.urlFrom.secretKeyRef"), "how to scale out");
        assert!(rest.contains(&format!("--namespace {namespace} get apid -w")), "how to watch");
        assert!(
            rest.contains(&format!("/proxy/decisions?namespace={namespace}&name=posts'")),
            "how to see decisions"
        );
    }
}

#[tokio::test]
async fn the_annotations_for_artifact_hub_say_what_is_so() {
    let about = yaml(&read(&chart().join("Chart.yaml")));
    let annotation =
        |name: &str| yaml(about["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap());
    let listed = annotation("images");
    let listed = listed.as_array().unwrap().iter().map(|image| image["image"].as_str().unwrap());
    let objects = objects(&template(&[]).await.unwrap());
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let named = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|variable| variable["name"].as_str().is_some_and(|name| name.ends_with("_IMAGE")));
    let definition = yaml(&read(&chart().join("files/crds/apideployments.yaml")));
    let exporter = definition
        .pointer(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cache/properties/managed",
        )
        .and_then(|managed| managed.pointer("/properties/exporter/properties/image/default"));
    let used = named.map(|variable| &variable["value"]).chain([&container["image"], exporter.unwrap()]);
    assert_eq!(listed.collect::<BTreeSet<_>>(), used.map(|image| image.as_str().unwrap()).collect());

    let crds = annotation("crds");
    let [crd] = &crds.as_array().unwrap()[..] else { panic!("one definition") };
    assert_eq!(crd["name"], definition["metadata"]["name"]);
    assert_eq!(crd["kind"], definition["spec"]["names"]["kind"]);
    assert_eq!(crd["version"], definition["spec"]["versions"][0]["name"]);
    for example in annotation("crdsExamples").as_array().unwrap() {
        serde_json::from_value::<ApiDeployment>(example.clone()).unwrap();
    }
    for change in annotation("changes").as_array().unwrap() {
        let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
        assert!(kinds.iter().any(|kind| change["kind"] == *kind), "{change}");
    }
}

/// Comments above the keys of values.yaml, by path. Items of lists are not keys.
fn comments(text: &str) -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let mut parents: Vec<(usize, &str)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut list = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(words) = content.strip_prefix("# ") {
            comment.push(words);
        } else if content.starts_with("- ") {
            list = Some(indent);
        } else if let Some((key, _)) = content.split_once(':')
            && list.is_none_or(|list| indent < list)
        {
            list = None;
            parents.retain(|(parent, _)| *parent < indent);
            parents.push((indent, key));
            let path: Vec<_> = parents.iter().map(|(_, key)| *key).collect();
            comments.insert(path.join("."), std::mem::take(&mut comment).join(" "));
        } else {
            comment.clear();
        }
    }
    comments
}

/// Every path of keys, parents included, in the order of the file.
fn walk(value: &serde_yaml::Value, parent: &str, visit: &mut impl FnMut(&str, &serde_yaml::Value)) {
    for (key, value) in value.as_mapping().into_iter().flatten() {
        let key = key.as_str().unwrap();
        let path = if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        visit(&path, value);
        walk(value, &path, visit);
    }
}

#[test]
fn the_readme_lists_all_values() {
    let text = read(&chart().join("values.yaml"));
    let comments = comments(&text);
    let mut table = String::from("\n| Value | What it does | Default |\n|---|---|---|\n");
    walk(&serde_yaml::from_str(&text).unwrap(), "", &mut |path, value| {
        let comment = comments.get(path).map_or("", String::as_str);
        assert!(!comment.is_empty(), "values.yaml: {path} has no comment above it");
        if value.as_mapping().is_none_or(serde_yaml::Mapping::is_empty) {
            let default = serde_json::to_string(value).unwrap();
            table.extend([format!("| `{path}` | {comment} | `{default}` |\n")]);
        }
    });
    table.push('\n');

    let path = chart().join("README.md");
    let readme = read(&path);
    let (head, rest) = readme.split_once("<!-- values: begin").expect("where the table begins");
    let (begin, rest) = rest.split_once("-->\n").expect("the end of the mark");
    let (_, tail) = rest.split_once("<!-- values: end -->").expect("where the table ends");
    check(&path, &format!("{head}<!-- values: begin{begin}-->\n{table}<!-- values: end -->{tail}"));
}

#[test]
fn the_schema_describes_all_values() {
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    walk(&serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap(), "", &mut |path, _| {
        let mut place = &schema;
        for key in path.split('.') {
            if place["properties"].is_null() {
                // An object of Kubernetes' own, which the API server checks.
                return;
            }
            assert_eq!(place["additionalProperties"], false, "{path}: its parent accepts any key");
            place = &place["properties"][key];
        }
        assert!(
            place["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{path} is not described"
        );
    });
}
