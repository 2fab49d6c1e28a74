//! metrics-server as a process of the local cluster, so that Kubernetes' own autoscaler has something to go by.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::layout::{NODE_ADDRESS, STATE};
use super::{components, process};
use crate::progress::step;
use crate::tools;

const NAME: &str = "metrics-server";
/// On the node's address, where nothing else of the cluster listens.
const PORT: u16 = 4443;
/// It asks the kubelet every fifteen seconds, as its own manifests have it, and needs two answers.
const RESOLUTION: &str = "15s";
const LIMIT: Duration = Duration::from_mins(2);

/// Builds it if need be, starts it, and waits until it tells the node's use. `down` ends it with the rest of the cluster.
///
/// # Errors
/// When it cannot be built or started, or does not serve in time.
pub async fn up() -> Result<()> {
    let (bin, kubernetes) = (tools::METRICS_SERVER.ensure().await?, tools::KUBERNETES.cached()?);
    step("Start metrics-server", async {
        if process::check(NAME).is_err() {
            start(&bin)?;
        }
        components::apply(&kubernetes, &objects()).await?;
        serving(&kubernetes).await
    })
    .await
}

fn start(bin: &Path) -> Result<()> {
    let kubeconfig = format!("{STATE}/kubeconfig");
    process::start(
        NAME,
        &bin.join(NAME),
        &[
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--bind-address={NODE_ADDRESS}"),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={STATE}/{NAME}"),
            "--kubelet-insecure-tls".into(),
            // Names of nodes are not in any DNS here.
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--metric-resolution={RESOLUTION}"),
        ],
    )
}

async fn serving(kubernetes: &Path) -> Result<()> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        process::check(NAME)?;
        let nodes = ["get", "--raw=/apis/metrics.k8s.io/v1beta1/nodes", "--request-timeout=5s"];
        if components::kubectl(kubernetes, &nodes).await.is_ok_and(|said| said.contains("\"cpu\"")) {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "metrics-server tells nothing after {} s; see {}",
                LIMIT.as_secs(),
                process::log(NAME).display()
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A Service without a selector, which is this process, and the API that it is.
fn objects() -> String {
    format!(
        r"apiVersion: v1
kind: Service
metadata: {{name: {NAME}, namespace: kube-system}}
spec:
  ports: [{{name: https, port: 443, targetPort: {PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {NAME}
  namespace: kube-system
  labels: {{kubernetes.io/service-name: {NAME}}}
addressType: IPv4
ports: [{{name: https, port: {PORT}, protocol: TCP}}]
endpoints: [{{addresses: [{NODE_ADDRESS}], conditions: {{ready: true}}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.metrics.k8s.io}}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {{name: {NAME}, namespace: kube-system, port: 443}}
"
    )
}
