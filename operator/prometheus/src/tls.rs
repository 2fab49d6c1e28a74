//! Whose certificate is taken.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whose certificate is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust<'a> {
    /// One that is signed by an authority that the machine trusts.
    Machine,
    /// One that is signed by an authority of this PEM text.
    Authorities(&'a [u8]),
    /// Any: whoever is on the way can read what is sent and make the answer up.
    Anyone,
}

/// Why there is nobody to trust. It goes on where the name of the text left off.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The machine's own authorities are asked for, and there are none.
    #[error("this machine trusts no authority")]
    NobodyTrusted,
    /// Something else than PEM.
    #[error("is no PEM: {0}")]
    NoPem(rustls::pki_types::pem::Error),
    /// PEM around something that is no certificate.
    #[error("holds a certificate that is none")]
    BadCertificate(#[source] rustls::Error),
    /// PEM without a certificate.
    #[error("holds no certificate; it should begin with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// No version of TLS can be spoken.
    #[error("TLS cannot be spoken")]
    Protocol(#[source] rustls::Error),
}

/// The client's side of TLS, without a certificate of its own.
///
/// # Errors
/// [`TrustError`], when there is nobody to trust.
pub fn client_config(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Protocol)?;
    let config = match trust {
        Trust::Anyone => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAny(provider)))
            .with_no_client_auth(),
        Trust::Machine => config.with_root_certificates(machine_authorities()?).with_no_client_auth(),
        Trust::Authorities(pem) => config.with_root_certificates(authorities(pem)?).with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn machine_authorities() -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(TrustError::NobodyTrusted) } else { Ok(store) }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.map_err(TrustError::NoPem)?).map_err(TrustError::BadCertificate)?;
    }
    if store.is_empty() { Err(TrustError::NoCertificate) } else { Ok(store) }
}

/// Takes any certificate, but its owner must have the key.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
