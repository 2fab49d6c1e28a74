//! Bearer tokens (RFC 6750, RFC 7519) for writes. Keeps no session: all that it knows of a caller is in the token.
//!
//! # Guarantees
//! - The algorithm is the setting's, never the token's: a token that names another one, or `none`, is refused.
//! - A token is checked whenever one is sent; requests that write need one with the scope [`SCOPE`].
//! - Neither a token nor what was wrong inside it is logged.

mod ring_provider;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use axum::http::{HeaderMap, Method, header};
use clap::Args;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;

use crate::{duration, error::ApiError};

/// What a token must be good for, among the words of its claim `scope`.
pub const SCOPE: &str = "posts:write";

/// The shortest secret: as long as the hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// The longest token that is looked at; the largest in use carry group lists of a few kilobytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The longest subject: what `OpenID` Connect admits for `sub`.
const SUBJECT_BYTES_MAX: usize = 255;

/// How far two clocks may be apart: beyond that, a token that has expired would be good for too long.
const LEEWAY_MAX: Duration = Duration::from_mins(1);

/// The settings for tokens.
#[derive(Debug, Clone, Args)]
#[group(id = "auth-options")]
pub struct Options {
    /// The secret of tokens signed with HS256, of at least 32 bytes. With this or a public key, writes need a token.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_SECRET", default_value = "", hide_env_values = true)]
    pub auth_jwt_secret: JwtSecret,

    /// A PEM file with the public key of tokens signed with `EdDSA`, ES256 or RS256, told by the kind of key.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_PUBLIC_KEY", value_name = "FILE")]
    pub auth_jwt_public_key: Option<PathBuf>,

    /// The only `iss` that tokens may have; absent: any or none.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_ISSUER")]
    pub auth_jwt_issuer: Option<String>,

    /// The `aud` that tokens must name; absent: any or none.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_AUDIENCE")]
    pub auth_jwt_audience: Option<String>,

    /// How far the issuer's clock may be from ours, at most 60s.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_LEEWAY", default_value = "30s", value_parser = leeway)]
    pub auth_jwt_leeway: Duration,
}

/// The text of a shared secret; prints nothing of itself.
#[derive(Clone)]
pub struct JwtSecret(String);

impl FromStr for JwtSecret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "[redacted]" })
    }
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = duration::parse(text).map_err(|error| error.to_string())?;
    if leeway > LEEWAY_MAX { Err("must be at most 60s".to_owned()) } else { Ok(leeway) }
}

/// Settings for tokens that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A short secret can be guessed from one token.
    #[error("PLIMSOLL_AUTH_JWT_SECRET must have at least {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
    /// Which of the two would a token be checked with?
    #[error("set either PLIMSOLL_AUTH_JWT_SECRET or PLIMSOLL_AUTH_JWT_PUBLIC_KEY, not both")]
    TwoKeys,
    /// The file of the public key cannot be read.
    #[error("read PLIMSOLL_AUTH_JWT_PUBLIC_KEY {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no public key of a kind that we know.
    #[error("{path} must hold a public key in PEM: Ed25519, P-256, or RSA of 2048 to 8192 bits")]
    Key {
        /// The file.
        path: PathBuf,
    },
}

/// Who sent a request, by its token's `sub`: 1 to 255 bytes. Handlers find it among the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub Arc<str>);

/// A token that was found good.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who it was given to.
    pub subject: Subject,
    /// Whether it may write.
    pub writes: bool,
}

/// Checks tokens against one key.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    scope: String,
}

impl Verifier {
    /// What the settings ask for; nothing when they name no key, and then writes are open.
    ///
    /// # Errors
    /// [`AuthError`] for a key that cannot be used.
    pub fn new(options: &Options) -> Result<Option<Self>, AuthError> {
        let secret = options.auth_jwt_secret.0.as_bytes();
        let path = options.auth_jwt_public_key.as_ref().filter(|path| !path.as_os_str().is_empty());
        let (algorithm, key) = match (secret, path) {
            ([], None) => return Ok(None),
            ([], Some(path)) => read_public_key(path)?,
            (_, Some(_)) => return Err(AuthError::TwoKeys),
            (secret, None) if secret.len() < SECRET_BYTES_MIN => return Err(AuthError::ShortSecret),
            (secret, None) => (Algorithm::HS256, DecodingKey::from_secret(secret)),
        };
        ring_provider::install();
        let mut validation = Validation::new(algorithm);
        validation.leeway = options.auth_jwt_leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &options.auth_jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &options.auth_jwt_audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        Ok(Some(Self { key, validation }))
    }

    /// Who sent a request with these headers; nothing when they hold no bearer token.
    ///
    /// # Errors
    /// [`ApiError::InvalidToken`] for one that is not good.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<Identity>, ApiError> {
        bearer(headers)?.map(|token| self.check(token)).transpose()
    }

    fn check(&self, token: &str) -> Result<Identity, ApiError> {
        let token = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| ApiError::InvalidToken(why(error.kind())))?;
        // The library does not refuse extensions that it does not know (RFC 7515, section 4.1.11).
        if token.header.crit.is_some() {
            return Err(ApiError::InvalidToken("the token has an extension that is not known here"));
        }
        let Claims { sub, scope } = token.claims;
        if !(1..=SUBJECT_BYTES_MAX).contains(&sub.len()) {
            return Err(ApiError::InvalidToken("the token's sub must have 1 to 255 bytes"));
        }
        let writes = scope.split(' ').any(|word| word == SCOPE);
        Ok(Identity { subject: Subject(sub.into()), writes })
    }
}

/// Whether a request of this method, from this caller, may go on.
///
/// # Errors
/// For a method that changes something: [`ApiError::MissingToken`] without a token, [`ApiError::InsufficientScope`] with
/// one that may not write.
pub fn authorize(method: &Method, identity: Option<&Identity>) -> Result<(), ApiError> {
    match identity {
        _ if method.is_safe() => Ok(()),
        Some(identity) if identity.writes => Ok(()),
        Some(_) => Err(ApiError::InsufficientScope),
        None => Err(ApiError::MissingToken),
    }
}

/// The token of the header `Authorization`, when it is there with the scheme `Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::InvalidToken("send one Authorization header"));
    }
    let text = value.to_str().map_err(|_| ApiError::InvalidToken("the Authorization header is not text"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim_matches(' ');
    if token.len() > TOKEN_BYTES_MAX {
        return Err(ApiError::InvalidToken("the token is longer than any that is accepted"));
    }
    Ok(Some(token))
}

/// For the client, in characters that a quoted string of a header may hold.
fn why(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::InvalidAlgorithm => "the token's algorithm is not the one in use here",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token lacks exp",
            "sub" => "the token lacks sub",
            "iss" => "the token lacks iss",
            _ => "the token lacks aud",
        },
        _ => "the token cannot be read",
    }
}

fn read_public_key(path: &PathBuf) -> Result<(Algorithm, DecodingKey), AuthError> {
    let pem = std::fs::read(path).map_err(|source| AuthError::Read { path: path.clone(), source })?;
    public_key(&pem).ok_or_else(|| AuthError::Key { path: path.clone() })
}

/// The key and the one algorithm that it is good for here. A private key is no public key.
fn public_key(pem: &[u8]) -> Option<(Algorithm, DecodingKey)> {
    // Only the label tells: the library reads an RSA private key as if it were a public one.
    if pem.windows(7).any(|word| word == b"PRIVATE") {
        return None;
    }
    let of = |algorithm, key: jsonwebtoken::errors::Result<DecodingKey>, bytes: fn(usize) -> bool| {
        let key = key.ok()?;
        let fits = bytes(key.try_get_as_bytes().ok()?.len());
        fits.then_some((algorithm, key))
    };
    of(Algorithm::EdDSA, DecodingKey::from_ed_pem(pem), |bytes| bytes == 32)
        // An uncompressed point of P-256; one of P-384 is longer.
        .or_else(|| of(Algorithm::ES256, DecodingKey::from_ec_pem(pem), |bytes| bytes == 65))
        // 2048 bits of modulus; ring refuses less.
        .or_else(|| of(Algorithm::RS256, DecodingKey::from_rsa_pem(pem), |bytes| bytes >= 256))
}
