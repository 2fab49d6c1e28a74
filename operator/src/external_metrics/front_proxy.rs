//! Whom the external metrics are told: the API server alone, which shows the client certificate of its front proxy.
//!
//! The API server has authenticated and authorized a request before it passes it on, so that certificate is all that is left
//! to check. What makes a good one is published in a ConfigMap of `kube-system`. It never takes a bearer token.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};

/// Where every API server publishes how its front proxy is known.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// The object identifier of a common name, as DER writes it: 2.5.4.3.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// How the front proxy is known.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    authorities: Vec<CertificateDer<'static>>,
    /// Common names of its certificate; none means any.
    names: Vec<String>,
}

/// The server's own certificate and key.
pub struct Identity {
    /// The certificate, and what signed it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl FrontProxy {
    /// Reads it from the cluster.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read, or tells of no front proxy.
    pub async fn read(client: &Client) -> anyhow::Result<Self> {
        let configmaps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let configmap =
            configmaps.get(NAME).await.with_context(|| format!("read ConfigMap {NAMESPACE}/{NAME}"))?;
        let data = configmap.data.unwrap_or_default();
        let value = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
        Self::of(value("requestheader-client-ca-file"), value("requestheader-allowed-names"))
    }

    /// From certificates in PEM, and names as a JSON list.
    fn of(authorities: &str, names: &str) -> anyhow::Result<Self> {
        let authorities = CertificateDer::pem_slice_iter(authorities.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("read the certificates of requestheader-client-ca-file")?;
        ensure!(
            !authorities.is_empty(),
            "the cluster has no front proxy: start kube-apiserver with --requestheader-client-ca-file"
        );
        let names = if names.is_empty() { Ok(Vec::new()) } else { serde_json::from_str(names) };
        Ok(Self { authorities, names: names.context("read the list requestheader-allowed-names")? })
    }

    /// TLS that takes connections of the front proxy only. The name on its certificate is looked at later, by [`Self::knows`].
    ///
    /// # Errors
    /// When a certificate or the key cannot be used.
    pub fn server_config(&self, identity: &Identity) -> anyhow::Result<ServerConfig> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).context("use a certificate of requestheader-client-ca-file")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .context("check client certificates")?;
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose versions of TLS")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .context("use the server's certificate")
    }

    /// Whether a certificate, which the authority has been found to have signed, is the front proxy's.
    pub fn knows(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
        let name = common_name(certificate.subject());
        self.names.is_empty() || name.is_some_and(|name| self.names.iter().any(|known| known == name))
    }
}

/// The common name within a subject: after its identifier come the type, the length and the text.
fn common_name(subject: &[u8]) -> Option<&str> {
    let at = subject.windows(COMMON_NAME.len()).position(|bytes| bytes == COMMON_NAME)?;
    let rest = subject.get(at + COMMON_NAME.len()..)?;
    // A length below 128 is one byte; a longer name is none of ours.
    let length = usize::from(*rest.get(1).filter(|length| **length < 0x80)?);
    std::str::from_utf8(rest.get(2..2 + length)?).ok()
}

impl Identity {
    /// Makes a certificate that nobody has signed, for the life of the process.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn self_signed() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["plimsoll-external-metrics".to_owned()])
            .context("make a certificate")?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok(Self { chain: vec![made.cert.der().clone()], key })
    }

    /// Reads `tls.crt` and `tls.key` of a folder, as a Secret of the type `kubernetes.io/tls` is mounted.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn read(dir: &std::path::Path) -> anyhow::Result<Self> {
        let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let chain = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("read certificates from {}", certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&key)
            .with_context(|| format!("read a key from {}", key.display()))?;
        Ok(Self { chain, key })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn named(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "plimsoll");
        params.distinguished_name.push(DnType::CommonName, name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn front_proxy(names: &str) -> FrontProxy {
        let authority = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        FrontProxy::of(&authority.cert.pem(), names).unwrap()
    }

    #[test]
    fn only_the_names_that_the_cluster_allows_are_known() {
        let some = front_proxy(r#"["front-proxy-client"]"#);
        assert!(some.knows(&named("front-proxy-client")));
        assert!(!some.knows(&named("somebody")));
        assert!(!some.knows(&named("front-proxy-client-2")));
        assert!(front_proxy("[]").knows(&named("somebody")), "an empty list allows every name");
        assert!(front_proxy("").knows(&named("somebody")));
    }

    #[test]
    fn a_cluster_without_a_front_proxy_is_told_what_it_lacks() {
        let error = FrontProxy::of("", "[]").unwrap_err();
        assert!(error.to_string().contains("--requestheader-client-ca-file"), "{error}");
    }

    #[test]
    fn an_own_certificate_makes_a_server() {
        front_proxy("[]").server_config(&Identity::self_signed().unwrap()).unwrap();
    }
}
