//! The service from outside: over its router, over real connections, and as a process. Never reaches into its insides.

// Clippy knows test functions, but not their helpers: in both, a panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod auth;
mod cache;
mod connections;
mod database;
mod fuzz;
mod harness;
mod html;
mod inputs;
mod observability;
mod openapi;
mod overload;
mod postgres;
mod posts;
mod process;
mod public;
mod rate_limit;
mod redis_kinds;
