//! The handlers: extract, call, answer. No SQL, no Redis, no status codes of failures.

pub mod html;
pub mod metrics;
pub mod posts;
pub mod public;
pub mod work;
