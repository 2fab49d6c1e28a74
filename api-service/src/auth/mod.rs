//! Bearer tokens (RFC 6750, RFC 7519) for writes. Keeps no session: all that it knows of a caller is in the token.
//!
//! # Guarantees
//! - The algorithm is the setting's, never the token's: a token that names another one, or `none`, is refused.
//! - A token is checked whenever one is sent; requests that write need one with the scope [`SCOPE`].
//! - The key is the one that the token's `kid` names, when the keys have names; a token for another is refused unread.
//! - Neither a token nor what was wrong inside it is logged.

mod keys;
mod ring_provider;
#[cfg(test)]
pub(crate) mod tests;
mod verified;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use axum::http::{HeaderMap, Method, header};
use clap::Args;
use jsonwebtoken::{DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;

use self::{
    keys::{Key, SECRET_BYTES_MIN},
    verified::Verified,
};
use crate::{duration, error::ApiError};

/// What a token must be good for, among the words of its claim `scope`.
pub const SCOPE: &str = "posts:write";

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
    /// The secret of tokens signed with HS256, of at least 32 bytes. With this or public keys, writes need a token.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_SECRET", default_value = "", hide_env_values = true)]
    pub auth_jwt_secret: JwtSecret,

    /// A PEM file with the public key of tokens signed with `EdDSA`, ES256 or RS256, told by the kind of key.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_PUBLIC_KEY", value_name = "FILE")]
    pub auth_jwt_public_key: Option<PathBuf>,

    /// A file with the public keys in force, as a JWK set (RFC 7517); a token's `kid` says which of them it was signed with.
    /// To change keys without a gap: add the new one here, restart, let the issuer sign with it, and remove the old one
    /// once the last token signed with it has expired.
    #[arg(long, env = "PLIMSOLL_AUTH_JWT_JWKS", value_name = "FILE")]
    pub auth_jwt_jwks: Option<PathBuf>,

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
    /// Which of them would a token be checked with?
    #[error(
        "set only one of PLIMSOLL_AUTH_JWT_SECRET, PLIMSOLL_AUTH_JWT_PUBLIC_KEY and PLIMSOLL_AUTH_JWT_JWKS"
    )]
    SeveralSources,
    /// A file of public keys cannot be read.
    #[error("read the public keys for tokens in {path}")]
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
    /// The file is no JWK set that can be used.
    #[error("{path} must hold a JWK set of public keys: {what}")]
    KeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
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

/// Checks tokens against the keys in force.
pub struct Verifier {
    /// At least one.
    keys: Vec<Checks>,
    leeway: Duration,
    verified: Verified,
}

/// One key, and what tokens signed with it are held to.
struct Checks {
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> =
            self.keys.iter().map(|checks| (&checks.id, &checks.validation.algorithms)).collect();
        f.debug_struct("Verifier").field("keys", &keys).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    scope: String,
    /// Checked by the library, whatever it is.
    #[serde(default)]
    exp: Value,
}

impl Verifier {
    /// What the settings ask for; nothing when they name no key, and then writes are open.
    ///
    /// # Errors
    /// [`AuthError`] for a key that cannot be used.
    pub fn new(options: &Options) -> Result<Option<Self>, AuthError> {
        let keys = keys::read(options)?;
        if keys.is_empty() {
            return Ok(None);
        }
        ring_provider::install();
        let keys = keys.into_iter().map(|key| checks(key, options)).collect();
        Ok(Some(Self { keys, leeway: options.auth_jwt_leeway, verified: Verified::new() }))
    }

    /// Who sent a request with these headers; nothing when they hold no bearer token.
    ///
    /// # Errors
    /// [`ApiError::InvalidToken`] for one that is not good.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<Identity>, ApiError> {
        bearer(headers)?.map(|token| self.check(token)).transpose()
    }

    fn check(&self, text: &str) -> Result<Identity, ApiError> {
        if let Some(identity) = self.verified.find(text, verified::now_unix_seconds()) {
            return Ok(identity);
        }
        let Checks { key, validation, .. } = self.checks_for(text)?;
        let token = jsonwebtoken::decode::<Claims>(text, key, validation)
            .map_err(|error| ApiError::InvalidToken(why(error.kind())))?;
        // The library does not refuse extensions that it does not know (RFC 7515, section 4.1.11).
        if token.header.crit.is_some() {
            return Err(ApiError::InvalidToken("the token has an extension that is not known here"));
        }
        let Claims { sub, scope, exp } = token.claims;
        if !(1..=SUBJECT_BYTES_MAX).contains(&sub.len()) {
            return Err(ApiError::InvalidToken("the token's sub must have 1 to 255 bytes"));
        }
        let writes = scope.split(' ').any(|word| word == SCOPE);
        let identity = Identity { subject: Subject(sub.into()), writes };
        let until = exp.as_f64().unwrap_or_default() + self.leeway.as_secs_f64();
        self.verified.remember(text, identity.clone(), until as u64);
        Ok(identity)
    }

    /// The key that the token names, or the only one.
    fn checks_for(&self, token: &str) -> Result<&Checks, ApiError> {
        if let [only @ Checks { id: None, .. }] = self.keys.as_slice() {
            return Ok(only);
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|error| ApiError::InvalidToken(why(error.kind())))?;
        match (header.kid, self.keys.as_slice()) {
            (Some(id), keys) => keys
                .iter()
                .find(|checks| checks.id.as_ref() == Some(&id))
                .ok_or(ApiError::InvalidToken("the token's kid is none of the keys in use here")),
            (None, [only]) => Ok(only),
            (None, _) => Err(ApiError::InvalidToken("the token lacks kid, and several keys are in use here")),
        }
    }
}

/// What a token is held to besides its signature.
fn checks(Key { id, algorithm, material: key }: Key, options: &Options) -> Checks {
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
    Checks { id, key, validation }
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
