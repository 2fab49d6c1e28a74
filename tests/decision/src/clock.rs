//! The time that is measured.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// CPU time of this thread: what others take of the machine meanwhile is not in it.
///
/// # Errors
/// When the system does not tell it.
pub fn cpu_time() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Into::into).context("read the thread's CPU time")
}
