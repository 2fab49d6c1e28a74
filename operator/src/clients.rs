//! How the operator speaks with the API server: one client for watches, one for everything else. It sends nothing.

use std::time::Duration;

use kube::Config;

/// Longest wait for one answer of the API server, outside of watches.
/// Several are made in a reconcile, which must decide although they hang.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration of the client for watches. It has no read timeout, which would end an idle watch: the watcher has
/// one of its own. A refusal is seen at once, counted and tried again by the watch's own backoff.
pub fn for_watches(cluster: &Config) -> Config {
    let mut config = cluster.clone();
    config.default_retry = false;
    config
}

/// The configuration of the client for reads and writes. A connection that hangs must fail, and a write must not be tried
/// again behind our back: by the time it passes, the decision that it carries may be minutes old.
pub fn for_calls(cluster: &Config) -> Config {
    let mut config = cluster.clone();
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Config {
        Config::new("http://127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn a_call_that_hangs_ends_and_none_is_repeated_unseen() {
        let config = for_calls(&cluster());
        assert!(config.read_timeout.is_some_and(|timeout| timeout <= Duration::from_mins(1)));
        assert!(config.reset_reader_on_write && !config.default_retry);
    }

    #[test]
    fn an_idle_watch_lives_and_its_refusals_are_seen() {
        let config = for_watches(&cluster());
        assert_eq!(config.read_timeout, None);
        assert!(!config.default_retry);
    }
}
