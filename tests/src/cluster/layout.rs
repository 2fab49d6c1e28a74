//! Where the local cluster keeps its files, and the addresses it uses. One machine holds one local cluster.

use std::path::{Path, PathBuf};

/// Everything the cluster writes, but sockets.
pub const STATE: &str = "/var/lib/plimsoll/cluster";
/// Sockets and mounts; their paths must be short.
pub const RUN: &str = "/run/plimsoll";

/// Pods. Of the benchmarking ranges (RFC 2544), which are never routed on the internet.
pub const POD_RANGE: &str = "198.18.0.0/16";
/// The node's pods, within [`POD_RANGE`].
pub const NODE_POD_RANGE: &str = "198.18.0.0/24";
/// Services.
pub const SERVICE_RANGE: &str = "198.19.0.0/16";
/// The node: the bridge's own address, so that nothing listens on the machine's network.
pub const NODE_ADDRESS: &str = "198.18.0.1";
/// Service `kubernetes` of namespace `default`.
pub const KUBERNETES_SERVICE_ADDRESS: &str = "198.19.0.1";
/// The bridge that joins the pods.
pub const BRIDGE: &str = "plimsoll0";
/// Its hardware address, locally administered. Without one of its own a bridge takes the lowest of its ports', another one as pods come
/// and go, and what pods send to the node is lost until they have heard of it.
pub const BRIDGE_HARDWARE_ADDRESS: &str = "0a:58:c6:12:00:01";
/// Name of the pods' network in the plugins' files.
pub const NETWORK: &str = "plimsoll";
/// Name of the only node.
pub const NODE: &str = "plimsoll-local";
/// Name of the context in the kubeconfig.
pub const CONTEXT: &str = "plimsoll-local";
/// Parent of all cgroups of pods, so that whatever a crash leaves is known by it.
pub const CGROUP: &str = "plimsoll";

/// Port of the API server on [`NODE_ADDRESS`].
pub const API_PORT: u16 = 6443;
/// Port of etcd on 127.0.0.1, not its usual one: a machine may have an etcd of its own.
pub const ETCD_PORT: u16 = 12379;
/// Port for etcd's peers, of which there are none.
pub const ETCD_PEER_PORT: u16 = 12380;
/// Port of the kubelet on [`NODE_ADDRESS`].
pub const KUBELET_PORT: u16 = 10250;

/// Ports that must be free, with who listens there.
pub const PORTS: [(&str, u16, &str); 9] = [
    (NODE_ADDRESS, API_PORT, "kube-apiserver"),
    ("127.0.0.1", ETCD_PORT, "etcd"),
    ("127.0.0.1", ETCD_PEER_PORT, "etcd"),
    (NODE_ADDRESS, KUBELET_PORT, "kubelet"),
    ("127.0.0.1", 10248, "kubelet (health)"),
    ("127.0.0.1", 10257, "kube-controller-manager"),
    ("127.0.0.1", 10259, "kube-scheduler"),
    ("127.0.0.1", 10249, "kube-proxy (metrics)"),
    ("127.0.0.1", 10256, "kube-proxy (health)"),
];

/// A path under [`STATE`].
pub fn state(path: impl AsRef<Path>) -> PathBuf {
    Path::new(STATE).join(path)
}

/// A path under [`RUN`].
pub fn run(path: impl AsRef<Path>) -> PathBuf {
    Path::new(RUN).join(path)
}

/// The administrator's kubeconfig.
pub fn kubeconfig() -> PathBuf {
    state("kubeconfig")
}

/// What the operators of the tests ask of the API server, which writes it there. Alone in its folder with older files.
pub fn audit_log() -> PathBuf {
    state("audit/audit.log")
}

/// The socket of the cluster's containerd.
pub fn containerd_socket() -> PathBuf {
    run("containerd.sock")
}
