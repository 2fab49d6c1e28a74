//! The command line of each component, and how to tell that it serves.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::layout::{
    API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBERNETES_SERVICE_ADDRESS, NODE, NODE_ADDRESS, SERVICE_RANGE,
    STATE, audit_log, containerd_socket, kubeconfig, state,
};
use super::process;
use crate::command;

/// How long a component has to come up.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// etcd without `fsync`: what a local cluster holds is not worth waiting for a disk.
///
/// # Errors
/// When the program cannot be started.
pub fn etcd() -> Result<()> {
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{ETCD_PEER_PORT}");
    process::start(
        "etcd",
        Path::new("/usr/bin/etcd"),
        &[
            format!("--data-dir={STATE}/etcd"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    )
}

/// The API server, listening on the bridge only.
///
/// # Errors
/// When the program cannot be started.
pub fn kube_apiserver(bin: &Path) -> Result<()> {
    let pki = |file: &str| format!("{STATE}/pki/{file}");
    process::start(
        "kube-apiserver",
        &bin.join("kube-apiserver"),
        &[
            format!("--advertise-address={NODE_ADDRESS}"),
            format!("--bind-address={NODE_ADDRESS}"),
            format!("--secure-port={API_PORT}"),
            format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            format!("--cert-dir={STATE}/pki"),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
            // Names of nodes are not in any DNS here.
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", pki("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
            format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy.key")),
            "--enable-aggregator-routing=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--audit-policy-file={STATE}/audit-policy.yaml"),
            format!("--audit-log-path={}", audit_log().display()),
            // Megabytes, and files kept beside the one that is written: hours of all tests.
            "--audit-log-maxsize=64".into(),
            "--audit-log-maxbackup=3".into(),
        ],
    )
}

/// The controllers of Kubernetes: Deployments, ReplicaSets, garbage collection and the rest.
///
/// # Errors
/// When the program cannot be started.
pub fn kube_controller_manager(bin: &Path) -> Result<()> {
    let own = format!("{STATE}/kube-controller-manager.kubeconfig");
    process::start(
        "kube-controller-manager",
        &bin.join("kube-controller-manager"),
        &[
            format!("--kubeconfig={own}"),
            format!("--authentication-kubeconfig={own}"),
            format!("--authorization-kubeconfig={own}"),
            format!("--requestheader-client-ca-file={STATE}/pki/front-proxy-ca.crt"),
            format!("--cert-dir={STATE}/pki"),
            format!("--root-ca-file={STATE}/pki/ca.crt"),
            format!("--cluster-signing-cert-file={STATE}/pki/ca.crt"),
            format!("--cluster-signing-key-file={STATE}/pki/ca.key"),
            format!("--service-account-private-key-file={STATE}/pki/service-accounts.key"),
            "--use-service-account-credentials=true".into(),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            "--allocate-node-cidrs=false".into(),
        ],
    )
}

/// The scheduler.
///
/// # Errors
/// When the program cannot be started.
pub fn kube_scheduler(bin: &Path) -> Result<()> {
    let own = format!("{STATE}/kube-scheduler.kubeconfig");
    process::start(
        "kube-scheduler",
        &bin.join("kube-scheduler"),
        &[
            format!("--kubeconfig={own}"),
            format!("--authentication-kubeconfig={own}"),
            format!("--authorization-kubeconfig={own}"),
            format!("--cert-dir={STATE}/pki"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ],
    )
}

/// The container runtime.
///
/// # Errors
/// When the program cannot be started.
pub fn containerd() -> Result<()> {
    process::start(
        "containerd",
        Path::new("/usr/bin/containerd"),
        &["--config", &format!("{STATE}/containerd.toml")],
    )
}

/// The node's agent.
///
/// # Errors
/// When the program cannot be started.
pub fn kubelet(bin: &Path) -> Result<()> {
    process::start(
        "kubelet",
        &bin.join("kubelet"),
        &[
            format!("--config={STATE}/kubelet.yaml"),
            format!("--kubeconfig={STATE}/kubelet.kubeconfig"),
            format!("--root-dir={STATE}/kubelet"),
            format!("--cert-dir={STATE}/pki"),
            format!("--node-ip={NODE_ADDRESS}"),
            format!("--hostname-override={NODE}"),
        ],
    )
}

/// What makes Services reachable.
///
/// # Errors
/// When the program cannot be started.
pub fn kube_proxy(bin: &Path) -> Result<()> {
    process::start("kube-proxy", &bin.join("kube-proxy"), &[format!("--config={STATE}/kube-proxy.yaml")])
}

/// The cluster's DNS.
///
/// # Errors
/// When the program cannot be started.
pub fn coredns(bin: &Path) -> Result<()> {
    process::start("coredns", &bin.join("coredns"), &[format!("-conf={STATE}/Corefile")])
}

/// Removes kube-proxy's rules from the machine.
pub async fn clean_kube_proxy() {
    let mut clean = Command::new(state("kube-proxy"));
    let _ = command::run(clean.arg("--cleanup"), Duration::from_secs(30)).await;
}

/// Waits until the API server says that it is ready.
///
/// # Errors
/// When it ends, or is not ready in time.
pub async fn api_ready(bin: &Path) -> Result<()> {
    until("kube-apiserver", async || {
        process::check("etcd")?;
        Ok(kubectl(bin, &["get", "--raw=/readyz", "--request-timeout=2s"]).await.is_ok())
    })
    .await
}

/// Waits until containerd answers.
///
/// # Errors
/// When it ends, or does not answer in time.
pub async fn containerd_ready() -> Result<()> {
    until("containerd", async || Ok(ctr(&["version"]).await.is_ok())).await
}

/// Waits until the node is Ready and the default service account is there, without which no pod is admitted.
///
/// # Errors
/// When the kubelet ends, or the node is not ready in time.
pub async fn node_ready(bin: &Path) -> Result<()> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    until("kubelet", async || {
        process::check("kube-controller-manager")?;
        let ready = kubectl(bin, &["get", "node", NODE, "-o", path])
            .await
            .is_ok_and(|status| status.trim() == "True");
        let account = kubectl(bin, &["get", "serviceaccount", "default", "-n", "default"]).await.is_ok();
        Ok(ready && account)
    })
    .await
}

/// Waits until the cluster's DNS and the way to Services work: a name is looked up through the one, the API server is
/// reached through the other.
///
/// # Errors
/// When kube-proxy or CoreDNS ends, or does not serve in time.
pub async fn services_ready() -> Result<()> {
    until("kube-proxy", async || {
        process::check("coredns")?;
        let connect = |address: String| async move {
            let connected =
                tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await;
            matches!(connected, Ok(Ok(_)))
        };
        Ok(connect(format!("{KUBERNETES_SERVICE_ADDRESS}:443")).await
            && connect(format!("{NODE_ADDRESS}:53")).await)
    })
    .await
}

/// Runs kubectl as the administrator.
///
/// # Errors
/// When it fails.
pub async fn kubectl(bin: &Path, args: &[&str]) -> Result<String> {
    let mut kubectl = Command::new(bin.join("kubectl"));
    kubectl.arg("--kubeconfig").arg(kubeconfig()).args(args);
    command::run(&mut kubectl, Duration::from_mins(1)).await
}

/// Applies objects of the cluster itself.
///
/// # Errors
/// When the API server refuses them.
pub async fn apply(bin: &Path, yaml: &str) -> Result<()> {
    let mut kubectl = Command::new(bin.join("kubectl"));
    kubectl.arg("--kubeconfig").arg(kubeconfig()).args(["apply", "--server-side", "-f", "-"]);
    command::run_with_input(&mut kubectl, yaml.as_bytes(), Duration::from_mins(1)).await.map(drop)
}

/// Runs containerd's client in the namespace of Kubernetes.
///
/// # Errors
/// When it fails.
pub async fn ctr(args: &[&str]) -> Result<String> {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(containerd_socket()).args(["--namespace", "k8s.io"]).args(args);
    command::run(&mut ctr, Duration::from_mins(3)).await
}

async fn until(component: &str, ready: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        process::check(component)?;
        if ready().await? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{component} is not ready after {} s; see {}",
                READY_LIMIT.as_secs(),
                process::log(component).display()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes a configuration file of a component.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(path: &str, text: &str) -> Result<()> {
    let path = state(path);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
