//! The cluster's certificate authority, certificates and kubeconfigs, made anew by every `up`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::layout::{API_PORT, CONTEXT, KUBERNETES_SERVICE_ADDRESS, NODE, NODE_ADDRESS, state};

/// An authority that signs for this cluster only.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Writes all certificates under `pki/` and a kubeconfig for each component.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all() -> Result<()> {
    let cluster = Authority::new("plimsoll-local")?;
    let front_proxy = Authority::new("plimsoll-local-front-proxy")?;
    write("pki/ca.crt", &cluster.certificate)?;
    write("pki/ca.key", &cluster.issuer.key().serialize_pem())?;
    write("pki/front-proxy-ca.crt", &front_proxy.certificate)?;
    front_proxy.sign("pki/front-proxy", "front-proxy-client", None, &[])?;
    let service_accounts = KeyPair::generate()?;
    write("pki/service-accounts.key", &service_accounts.serialize_pem())?;
    write("pki/service-accounts.pub", &service_accounts.public_key_pem())?;

    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        KUBERNETES_SERVICE_ADDRESS,
        NODE_ADDRESS,
        "127.0.0.1",
    ];
    cluster.sign("pki/apiserver", "kube-apiserver", None, &names)?;
    cluster.sign("pki/kubelet", NODE, None, &[NODE, NODE_ADDRESS])?;
    cluster.sign(
        "pki/apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
        &[],
    )?;

    let node = format!("system:node:{NODE}");
    for (file, user, group) in [
        ("kubeconfig", "plimsoll-admin", Some("system:masters")),
        ("kube-controller-manager.kubeconfig", "system:kube-controller-manager", None),
        ("kube-scheduler.kubeconfig", "system:kube-scheduler", None),
        ("kube-proxy.kubeconfig", "system:kube-proxy", None),
        ("coredns.kubeconfig", "system:coredns", None),
        ("kubelet.kubeconfig", node.as_str(), Some("system:nodes")),
    ] {
        let (certificate, key) = cluster.issue(user, group, &[])?;
        write(file, &kubeconfig(user, &cluster.certificate, &certificate, &key))?;
    }
    Ok(())
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// A certificate for serving under `names` and for calling as `user`, with its key.
    fn issue(&self, user: &str, group: Option<&str>, names: &[&str]) -> Result<(String, String)> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    fn sign(&self, path: &str, user: &str, group: Option<&str>, names: &[&str]) -> Result<()> {
        let (certificate, key) = self.issue(user, group, names)?;
        write(format!("{path}.crt"), &certificate)?;
        write(format!("{path}.key"), &key)
    }
}

fn kubeconfig(user: &str, authority: &str, certificate: &str, key: &str) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {CONTEXT}\n\
         clusters:\n- name: {CONTEXT}\n  cluster:\n    server: https://{NODE_ADDRESS}:{API_PORT}\n    certificate-authority-data: {}\n\
         users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: {CONTEXT}\n  context: {{cluster: {CONTEXT}, user: \"{user}\"}}\n",
        encode(authority),
        encode(certificate),
        encode(key),
    )
}

/// Writes a file that only root reads.
fn write(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = state(path);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {}", path.display()))
}
