//! Asks over HTTP what Prometheus speaks: a server for the answer to a query, a pod for its exposition.
//!
//! In reading order: [`tls`] (whose certificate is taken), [`mod@fetch`] (one request, bounded in time and in size) and
//! [`answer`] (what a server's answer says). It never decides what to ask, follows no redirect, and tries nothing twice.

pub mod answer;
pub mod fetch;
pub mod tls;

pub use fetch::{FetchError, Head, Limits, Peer, Response, fetch, fetch_pieces};
pub use tls::{Trust, TrustError, client_config};
