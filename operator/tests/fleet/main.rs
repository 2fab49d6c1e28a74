//! The operator as one of a fleet, and in trouble: leaders of shards, a watch that freezes, an object whose writes hang,
//! a process that is told to end. Against an API server in memory.
#![allow(clippy::unwrap_used, missing_docs)]

mod crash;
mod isolation;
mod leaders;
mod process;
mod server;
mod silence;
