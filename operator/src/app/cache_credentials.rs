//! Makes up the managed cache's passwords and certificates. It writes none.

use plimsoll_core::build::cache_host_names;
use plimsoll_core::input::{Certificates, Credentials};
use plimsoll_crds::ApiDeployment;
use rand::Rng as _;
use rand::distr::Alphanumeric;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tracing::warn;

/// Fresh ones: 190 bits for each password; the generator is the thread's, which is seeded by the system. Certificates cost
/// more, and are made only when they will be `kept`.
pub fn fresh(app: &ApiDeployment, kept: bool) -> Credentials {
    let text =
        |length| rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect::<String>();
    let certificates = kept.then(|| certificates(cache_host_names(app)));
    Credentials {
        password: text(32),
        operator_password: text(32),
        exporter_password: text(32),
        replication_password: text(32),
        sentinel_password: text(32),
        certificates: certificates.and_then(|made| {
            made.inspect_err(|error| warn!(%error, "no certificates could be made for the cache")).ok()
        }),
        revision: text(8).to_lowercase(),
    }
}

/// A certificate for `names`, of an authority whose key is thrown away: it signs nothing else. Neither ends before the
/// Secret that holds them is deleted.
fn certificates(names: Vec<String>) -> Result<Certificates, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "plimsoll cache authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "plimsoll cache");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    let server = server.signed_by(&server_key, &issuer)?.pem();
    Ok(Certificates { authority: authority_certificate, server, server_key: server_key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_for_the_names_of_the_cache() {
        let made = certificates(vec!["posts-cache.shop.svc".into(), "localhost".into()]).unwrap();
        assert!(made.authority.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(made.server.starts_with("-----BEGIN CERTIFICATE-----") && made.server != made.authority);
        assert!(made.server_key.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
