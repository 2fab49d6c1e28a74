//! Tokens that were found good, so that each is checked once. Holds no token, only its hash.
//!
//! A signature costs 20 to 70 µs of the event loop (RSA of 2048 to 4096 bits; P-256 and Ed25519 are between), more than a read
//! from memory does in all, and clients send the same token with every request until it expires.

use std::time::{SystemTime, UNIX_EPOCH};

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Identity;

/// Tokens that are remembered: more than clients of one replica in any minute, in about a megabyte.
const TOKENS_MAX: usize = 4096;

/// Good tokens and until when they are.
#[derive(Debug)]
pub(super) struct Verified(Cache<[u8; 32], Good>);

#[derive(Debug, Clone)]
struct Good {
    identity: Identity,
    until_unix_seconds: u64,
}

impl Verified {
    pub(super) fn new() -> Self {
        Self(Cache::new(TOKENS_MAX))
    }

    /// Who sent the token, when it was found good before and still is at `now`.
    pub(super) fn find(&self, token: &str, now_unix_seconds: u64) -> Option<Identity> {
        let good = self.0.get(&hash(token))?;
        (now_unix_seconds <= good.until_unix_seconds).then_some(good.identity)
    }

    /// Remembers a token that was found good. Only such: what strangers make up must not push out what is of use.
    pub(super) fn remember(&self, token: &str, identity: Identity, until_unix_seconds: u64) {
        self.0.insert(hash(token), Good { identity, until_unix_seconds });
    }
}

/// No two tokens share one: else one would be taken for the other.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The second that it is.
pub(super) fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::{super::Subject, *};

    fn identity(subject: &str) -> Identity {
        Identity { subject: Subject(subject.into()), writes: true }
    }

    #[test]
    fn a_token_is_good_until_it_expires_and_no_other_is() {
        let verified = Verified::new();
        verified.remember("a.b.c", identity("ada"), 100);
        assert_eq!(verified.find("a.b.c", 100).unwrap().subject, Subject("ada".into()));
        assert!(verified.find("a.b.c", 101).is_none());
        assert!(verified.find("a.b.d", 100).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let verified = Verified::new();
        for number in 0..3 * TOKENS_MAX {
            verified.remember(&number.to_string(), identity("ada"), 100);
        }
        assert!(verified.0.len() <= TOKENS_MAX);
    }
}
