//! The keys that tokens are checked with, from a setting or a file. Each is good for one algorithm, which is the key's own.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::Value;

use super::{AuthError, Options};

/// The shortest secret: as long as the hash (RFC 7518, section 3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;

/// The shortest RSA modulus that ring checks with, 2048 bits.
const MODULUS_BYTES_MIN: usize = 256;

/// A key and what it is good for.
pub(super) struct Key {
    /// What tokens call it; absent: it is the only one, and checks tokens whatever they call theirs.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) material: DecodingKey,
}

/// What the settings name; empty when they name none.
pub(super) fn read(options: &Options) -> Result<Vec<Key>, AuthError> {
    let secret = options.auth_jwt_secret.0.as_bytes();
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    match (secret, given(&options.auth_jwt_public_key), given(&options.auth_jwt_jwks)) {
        ([], None, None) => Ok(Vec::new()),
        ([], Some(path), None) => {
            let (algorithm, material) = public_key(&contents(&path)?).ok_or(AuthError::Key { path })?;
            Ok(vec![Key { id: None, algorithm, material }])
        }
        ([], None, Some(path)) => key_set(&contents(&path)?).map_err(|what| AuthError::KeySet { path, what }),
        (secret, None, None) if secret.len() < SECRET_BYTES_MIN => Err(AuthError::ShortSecret),
        (secret, None, None) => {
            let material = DecodingKey::from_secret(secret);
            Ok(vec![Key { id: None, algorithm: Algorithm::HS256, material }])
        }
        _ => Err(AuthError::SeveralSources),
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, AuthError> {
    std::fs::read(path).map_err(|source| AuthError::Read { path: path.to_owned(), source })
}

/// The key and the one algorithm that it is good for here. A private key is no public key.
fn public_key(pem: &[u8]) -> Option<(Algorithm, DecodingKey)> {
    // Only the label tells: the library reads an RSA private key as if it were a public one.
    if pem.windows(7).any(|word| word == b"PRIVATE") {
        return None;
    }
    let of = |algorithm, key: jsonwebtoken::errors::Result<DecodingKey>| {
        key.ok().filter(|key| fits(algorithm, key)).map(|key| (algorithm, key))
    };
    of(Algorithm::EdDSA, DecodingKey::from_ed_pem(pem))
        .or_else(|| of(Algorithm::ES256, DecodingKey::from_ec_pem(pem)))
        .or_else(|| of(Algorithm::RS256, DecodingKey::from_rsa_pem(pem)))
}

/// Whether the key is of the algorithm's family, and as long as its keys are.
fn fits(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let bytes = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    key.family() == algorithm.family()
        && match algorithm.family() {
            AlgorithmFamily::Ed => bytes == 32,
            // An uncompressed point of P-256; one of P-384 is longer.
            AlgorithmFamily::Ec => bytes == 65,
            AlgorithmFamily::Rsa => bytes >= MODULUS_BYTES_MIN,
            AlgorithmFamily::Hmac => false,
        }
}

/// The keys of a JWK set (RFC 7517, section 5) that check signatures in a way that is known here; the others are left out.
fn key_set(json: &[u8]) -> Result<Vec<Key>, &'static str> {
    let set: Value = serde_json::from_slice(json).map_err(|_| "it is no JSON")?;
    let entries = set["keys"].as_array().ok_or("it has no list `keys`")?;
    // What signs belongs to the issuer alone; here it would only wait to be stolen.
    if entries.iter().any(|entry| entry.get("d").is_some() || entry.get("k").is_some()) {
        return Err("it holds a private or secret key; give the public ones only");
    }
    let keys: Vec<Key> = entries.iter().filter_map(key).collect();
    if keys.is_empty() {
        return Err("it has no key for EdDSA, ES256, or RS256 of 2048 to 8192 bits");
    }
    let ids: HashSet<_> = keys.iter().filter_map(|key| key.id.as_deref()).collect();
    if keys.len() > 1 && ids.len() < keys.len() {
        return Err("of several keys, each needs a `kid` of its own");
    }
    Ok(keys)
}

fn key(entry: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(entry.clone()).ok()?;
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return None,
    };
    let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let meant = jwk.common.key_algorithm.is_none_or(|algorithm| algorithm == named);
    let material = DecodingKey::from_jwk(&jwk).ok().filter(|key| signs && meant && fits(algorithm, key))?;
    Some(Key { id: jwk.common.key_id, algorithm, material })
}
