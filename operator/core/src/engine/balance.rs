//! Which new pods the load has not reached yet: connections that are kept alive stay with the pods that were there before.
//!
//! A new pod gets its share only as clients open connections anew. Until then the mean over all pods understates what the
//! others carry, and still more pods would get nothing either.

/// A pod is waited for this long after it became ready: servers and proxies close a connection after half a minute or a
/// minute. Then it counts like any other, and the fleet for what it does.
const AWAITED_SECONDS: f64 = 90.0;
/// A pod has not been reached while it gets less than this part of what the hottest third gets,
const UNREACHED: f64 = 0.6;
/// and less by so many standard deviations of the number of requests that would come by chance.
const DEVIATIONS: f64 = 1.5;

/// What one pod got in a round.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests per second that arrived.
    pub per_second: f64,
    /// Length of the round.
    pub seconds: f64,
    /// Since when it has been ready, at the end of the round.
    pub since_ready_seconds: f64,
}

/// For each pod, whether the load has still to reach it.
pub fn unreached(loads: &[Load]) -> Vec<bool> {
    let mut sorted = loads.iter().map(|load| load.per_second).collect::<Vec<_>>();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let hottest = &sorted[..sorted.len().div_ceil(3)];
    let hot = hottest.iter().sum::<f64>() / (hottest.len() as f64).max(1.0);
    loads
        .iter()
        .map(|load| {
            let due = hot * load.seconds;
            load.since_ready_seconds < AWAITED_SECONDS
                && load.per_second * load.seconds < UNREACHED * due - DEVIATIONS * due.sqrt()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(per_second: f64) -> Load {
        Load { per_second, seconds: 5.0, since_ready_seconds: 3600.0 }
    }

    fn new(per_second: f64) -> Load {
        Load { since_ready_seconds: 20.0, ..old(per_second) }
    }

    #[test]
    fn a_new_pod_without_its_share_is_told_from_the_others() {
        let loads = [old(100.0), old(90.0), new(0.0), old(95.0), new(30.0), new(80.0)];
        assert_eq!(unreached(&loads), [false, false, true, false, true, false]);
    }

    #[test]
    fn a_pod_that_is_not_new_is_never_waited_for() {
        let late = Load { since_ready_seconds: AWAITED_SECONDS + 1.0, ..new(0.0) };
        assert_eq!(unreached(&[old(100.0), old(0.0), late]), [false; 3]);
    }

    #[test]
    fn chance_is_no_sign() {
        assert_eq!(unreached(&[old(1.0), new(0.2), new(0.0)]), [false; 3], "of five requests, one or none");
        let short = Load { seconds: 0.1, ..new(0.0) };
        assert_eq!(unreached(&[old(50.0), short]), [false; 2], "ready for a tenth of a second");
        assert_eq!(unreached(&[]), [false; 0]);
    }
}
