//! Open-loop HTTP load that follows a trace, and what a client felt of it, second by second.
//!
//! Requests are sent when the trace says so, whether or not earlier ones were answered, and latency counts from the
//! moment at which a request was due: a server that stalls cannot hide it by holding the generator back (coordinated
//! omission).

pub mod client;
pub mod record;
pub mod run;
pub mod trace;

pub use record::{End, Ends, Percentiles, Second, Summary};
pub use trace::Trace;
