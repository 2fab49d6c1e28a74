//! What can go wrong in a reconcile, and what to do then.

use std::time::Duration;

/// A failed reconcile. The text says what was tried; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read from the API server failed.
    #[error("read {what}")]
    Read {
        /// Kind and name.
        what: String,
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// A write to the API server failed.
    #[error("write {what}")]
    Write {
        /// Kind and name.
        what: String,
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// A write got no answer in time; it may or may not have been carried out.
    #[error("write {what}: no answer within {} s", timeout.as_secs())]
    WriteTimeout {
        /// Kind and name.
        what: String,
        /// The time waited.
        timeout: Duration,
    },
    /// A decision was made from something that has changed since.
    #[error("{what} has changed since it was read")]
    Stale {
        /// Kind and name.
        what: String,
    },
    /// This process does not hold the lease, so it must not write.
    #[error("leadership is not held")]
    Fenced,
    /// The program met what it does not allow for; only this object is held up by it.
    #[error("a defect of the operator: {message}; report it with the log")]
    Panicked {
        /// What it says.
        message: String,
    },
    /// The reconcile as a whole took too long.
    #[error("reconcile took longer than {} s", timeout.as_secs())]
    Timeout {
        /// The time allowed.
        timeout: Duration,
    },
}

/// When a failed reconcile is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Soon: the cause has gone or goes by itself.
    Waiting,
    /// With growing pauses: the API server or the network is in trouble.
    Transient,
    /// Slowly: only a change of the spec or of rights helps.
    Permanent,
}

impl Error {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Stale { .. } | Self::Fenced => Retry::Waiting,
            Self::WriteTimeout { .. } | Self::Timeout { .. } | Self::Panicked { .. } => Retry::Transient,
            Self::Read { source, .. } | Self::Write { source, .. } => match source {
                kube::Error::Api(status) if namespace_is_ending(status) => Retry::Waiting,
                kube::Error::Api(status) => match status.code {
                    404 | 409 => Retry::Waiting,
                    400 | 403 | 405 | 413 | 415 | 422 => Retry::Permanent,
                    _ => Retry::Transient,
                },
                _ => Retry::Transient,
            },
        }
    }

    /// The error in one word, for metrics.
    pub fn outcome(&self) -> &'static str {
        match self.retry() {
            Retry::Waiting => "waiting",
            Retry::Transient => "transient",
            Retry::Permanent => "permanent",
        }
    }

    /// The error with its cause, for a condition and the log. Debug forms and request bodies stay out of it.
    pub fn chain(&self) -> String {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => match source {
                kube::Error::Api(status) => format!("{self}: {}", status.message),
                other => format!("{self}: {other}"),
            },
            _ => self.to_string(),
        }
    }
}

/// A namespace that is being deleted takes no new objects; the resource will soon be gone too.
fn namespace_is_ending(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
