//! Signatures of tokens, checked by ring. It never signs, and knows no algorithm beyond the four that the settings name.

// The signatures are those of `CryptoProvider`.
#![allow(clippy::trivially_copy_pass_by_ref)]

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result, new_error},
};
use ring::{hmac, signature as rules};
use signature::{Error, Verifier};

/// What `jsonwebtoken` checks signatures with.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes ring the cryptography of this process' tokens; may be called again.
pub fn install() {
    // Err says that it was called before.
    let _ = PROVIDER.install_default();
}

fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // A public key must never be taken for a secret: the key's own family has to be the algorithm's.
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidKeyFormat));
    }
    let key = match (algorithm, key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(bytes)) => {
            Key::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(bytes)) => Key::public(&rules::ED25519, bytes),
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => {
            Key::public(&rules::ECDSA_P256_SHA256_FIXED, bytes)
        }
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(bytes)) => {
            Key::public(&rules::RSA_PKCS1_2048_8192_SHA256, bytes)
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Key::Rsa(rules::RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key }))
}

enum Key {
    Secret(hmac::Key),
    Public(rules::UnparsedPublicKey<Vec<u8>>),
    /// From a JWK, which has the numbers apart.
    Rsa(rules::RsaPublicKeyComponents<Vec<u8>>),
}

impl Key {
    fn public(rule: &'static dyn rules::VerificationAlgorithm, bytes: &[u8]) -> Self {
        Self::Public(rules::UnparsedPublicKey::new(rule, bytes.to_vec()))
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: Key,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        match &self.key {
            Key::Secret(key) => hmac::verify(key, message, signature),
            Key::Public(key) => key.verify(message, signature),
            Key::Rsa(key) => key.verify(&rules::RSA_PKCS1_2048_8192_SHA256, message, signature),
        }
        .map_err(|_| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
