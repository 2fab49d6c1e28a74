//! How many replicas a metric asks for, as documented in
//! <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details> and as the
//! controller does it where that leaves a choice
//! (<https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/replica_calculator.go>): utilisation
//! is a whole percentage, quantities are in thousandths, and a pod without a metric counts, on the way down, as using its
//! whole request or the target if that is more.

use std::time::Duration;

/// The controller's settings, for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `--horizontal-pod-autoscaler-tolerance`.
    pub tolerance: f64,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub cpu_initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub initial_readiness_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tolerance: 0.1,
            cpu_initialization: Duration::from_mins(5),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

/// A pod as the HPA sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuPod {
    /// Its phase.
    pub phase: Phase,
    /// Its condition Ready, and when that changed last.
    pub ready: (bool, Duration),
    /// When it started.
    pub started: Duration,
    /// Its CPU request in thousandths of a core.
    pub request: i64,
    /// What it uses, if that is known.
    pub usage: Option<Usage>,
}

/// What a pod's phase means to the HPA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its containers have not all started.
    Pending,
    /// They have.
    Running,
    /// It is being deleted, or has failed.
    Ending,
}

/// The CPU that a pod used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Thousandths of a core.
    pub milli: i64,
    /// When the last of it was measured.
    pub at: Duration,
    /// The time over which it is a mean.
    pub window: Duration,
}

/// No pod that counts has a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Ready pod has a metric")]
pub struct NoMetrics;

/// Replicas for a target of CPU utilisation, in percent of the pods' requests.
///
/// # Errors
/// [`NoMetrics`].
pub fn for_cpu(
    settings: &Settings,
    now: Duration,
    current: u32,
    target_percent: i64,
    pods: &[CpuPod],
) -> Result<u32, NoMetrics> {
    let mut known = Vec::with_capacity(pods.len());
    let (mut unready, mut missing) = (Vec::new(), Vec::new());
    for pod in pods.iter().filter(|pod| pod.phase != Phase::Ending) {
        match pod.usage {
            _ if pod.phase == Phase::Pending => unready.push(pod),
            None => missing.push(pod),
            Some(usage) if is_starting(settings, now, pod, usage) => unready.push(pod),
            Some(usage) => known.push((pod.request, usage.milli)),
        }
    }
    let ready = known.len();
    let ratio = utilization_ratio(&known, target_percent).ok_or(NoMetrics)?;
    let unready_matter = !unready.is_empty() && ratio > 1.0;
    if !unready_matter && missing.is_empty() {
        let near = (1.0 - ratio).abs() <= settings.tolerance;
        return Ok(if near { current } else { (ratio * ready as f64).ceil() as u32 });
    }
    if ratio < 1.0 {
        known.extend(missing.iter().map(|pod| (pod.request, pod.request * target_percent.max(100) / 100)));
    } else if ratio > 1.0 {
        known.extend(missing.iter().map(|pod| (pod.request, 0)));
    }
    if unready_matter {
        known.extend(unready.iter().map(|pod| (pod.request, 0)));
    }
    let again = utilization_ratio(&known, target_percent).ok_or(NoMetrics)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if (1.0 - again).abs() <= settings.tolerance || turned {
        return Ok(current);
    }
    let replicas = (again * known.len() as f64).ceil() as u32;
    let turned = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok(if turned { current } else { replicas })
}

/// Whether a pod's CPU is still that of its start.
fn is_starting(settings: &Settings, now: Duration, pod: &CpuPod, usage: Usage) -> bool {
    let (ready, changed) = pod.ready;
    if pod.started + settings.cpu_initialization > now {
        !ready || usage.at < changed + usage.window
    } else {
        !ready && pod.started + settings.initial_readiness_delay > changed
    }
}

/// Utilisation over its target; the utilisation is a whole percentage.
fn utilization_ratio(pods: &[(i64, i64)], target_percent: i64) -> Option<f64> {
    let requested: i64 = pods.iter().map(|(request, _)| request).sum();
    let used: i64 = pods.iter().map(|(_, usage)| usage).sum();
    (requested > 0).then(|| (used * 100 / requested) as f64 / target_percent as f64)
}

/// Replicas for one value of a whole, such as a percentile: the Ready pods, times the value over its target.
pub fn for_value(settings: &Settings, current: u32, ready: u32, value_milli: i64, target_milli: i64) -> u32 {
    let ratio = value_milli as f64 / target_milli as f64;
    if current == 0 {
        return ratio.ceil() as u32;
    }
    if (1.0 - ratio).abs() <= settings.tolerance { current } else { (ratio * f64::from(ready)).ceil() as u32 }
}

/// Replicas for one value that they share, such as requests a second; `replicas` are those that exist.
pub fn for_average_value(settings: &Settings, replicas: u32, total_milli: i64, target_milli: i64) -> u32 {
    let ratio = total_milli as f64 / (target_milli as f64 * f64::from(replicas));
    if (1.0 - ratio).abs() <= settings.tolerance {
        replicas
    } else {
        (total_milli as f64 / target_milli as f64).ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_hours(1);

    /// Ready and running for 35 minutes, with a metric of half a minute ago.
    fn pod(usage: i64) -> CpuPod {
        let started = NOW.saturating_sub(Duration::from_mins(35));
        let at = NOW.saturating_sub(Duration::from_secs(30));
        let usage = Some(Usage { milli: usage, at, window: Duration::from_mins(1) });
        CpuPod { phase: Phase::Running, ready: (true, started), started, request: 1000, usage }
    }

    /// Started three minutes ago and not Ready.
    fn unready(usage: i64) -> CpuPod {
        let started = NOW.saturating_sub(Duration::from_mins(3));
        CpuPod { ready: (false, started), started, ..pod(usage) }
    }

    /// Ready for less than the window of its metric, half a minute after its start.
    fn hot(usage: i64) -> CpuPod {
        let started = NOW.saturating_sub(Duration::from_secs(30));
        CpuPod { ready: (true, started), started, ..pod(usage) }
    }

    fn ending(usage: i64) -> CpuPod {
        CpuPod { phase: Phase::Ending, ..pod(usage) }
    }

    fn missing() -> CpuPod {
        CpuPod { usage: None, ..pod(0) }
    }

    fn pending() -> CpuPod {
        CpuPod { phase: Phase::Pending, usage: None, ..pod(0) }
    }

    fn cpu(current: u32, target: i64, pods: &[CpuPod]) -> u32 {
        for_cpu(&Settings::default(), NOW, current, target, pods).unwrap()
    }

    /// Numbers of the cases named in each line, of
    /// <https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/replica_calculator_test.go>.
    #[test]
    fn cpu_gives_the_replicas_of_the_controllers_own_cases() {
        let pods = |usages: &[i64]| usages.iter().map(|&usage| pod(usage)).collect::<Vec<_>>();
        // TestReplicaCalcScaleUp
        assert_eq!(cpu(3, 30, &pods(&[300, 500, 700])), 5);
        // TestReplicaCalcScaleUpUnreadyLessScale
        assert_eq!(cpu(3, 30, &[unready(300), pod(500), pod(700)]), 4);
        // TestReplicaCalcScaleUpHotCpuLessScale
        assert_eq!(cpu(3, 30, &[hot(300), pod(500), pod(700)]), 4);
        // TestReplicaCalcScaleUpUnreadyNoScale
        assert_eq!(cpu(3, 30, &[pod(400), unready(500), unready(700)]), 3);
        // TestReplicaCalcScaleUpIgnoresDeletionPods
        assert_eq!(cpu(2, 30, &[pod(500), pod(700), ending(500), ending(500)]), 4);
        // TestReplicaCalcScaleDown
        assert_eq!(cpu(5, 50, &pods(&[100, 300, 500, 250, 250])), 3);
        // TestReplicaCalcScaleDownIncludeUnreadyPods
        assert_eq!(cpu(5, 50, &[pod(100), pod(300), pod(500), unready(250), unready(250)]), 2);
        // TestReplicaCalcScaleDownExcludeUnscheduledPods
        assert_eq!(cpu(5, 50, &[pod(100), pending(), pending(), pending(), pending()]), 1);
        // TestReplicaCalcScaleDownIgnoreHotCpuPods
        assert_eq!(cpu(5, 50, &[pod(100), pod(300), pod(500), hot(250), hot(250)]), 2);
        // TestReplicaCalcMissingMetrics
        assert_eq!(cpu(4, 100, &[pod(400), pod(95), missing(), missing()]), 3);
        // TestReplicaCalcMissingMetricsNoChangeEq, …Gt, …Lt
        for usage in [1000, 1900, 600] {
            assert_eq!(cpu(2, 100, &[pod(usage), missing()]), 2);
        }
        // TestReplicaCalcMissingMetricsUnreadyChange, TestReplicaCalcMissingMetricsHotCpuNoChange
        assert_eq!(cpu(3, 50, &[unready(100), pod(450), missing()]), 3);
        assert_eq!(cpu(3, 50, &[hot(100), pod(450), missing()]), 3);
        // TestReplicaCalcMissingMetricsUnreadyScaleUp, …UnreadyScaleDown
        assert_eq!(cpu(3, 50, &[unready(100), pod(2000), missing()]), 4);
        assert_eq!(cpu(4, 50, &[unready(100), pod(100), pod(100), missing()]), 3);
        // TestReplicaCalcDuringRollingUpdateWithMaxSurge
        assert_eq!(cpu(2, 50, &[pod(100), pod(100), missing()]), 2);
        // TestReplicaCalcEmptyMetrics
        assert_eq!(for_cpu(&Settings::default(), NOW, 4, 100, &[missing()]), Err(NoMetrics));
    }

    /// The documentation's first example: 200m where 100m are wanted doubles, 50m halves.
    #[test]
    fn a_ratio_scales_and_the_tolerance_holds() {
        let settings = Settings::default();
        assert_eq!(for_value(&settings, 4, 4, 200, 100), 8);
        assert_eq!(for_value(&settings, 4, 4, 50, 100), 2);
        assert_eq!(for_value(&settings, 4, 4, 109, 100), 4);
        assert_eq!(for_value(&settings, 4, 4, 111, 100), 5);
    }

    /// Numbers of the cases named in each line, of the same file.
    #[test]
    fn values_give_the_replicas_of_the_controllers_own_cases() {
        let settings = Settings::default();
        // TestReplicaCalcScaleUpCMObject
        assert_eq!(for_value(&settings, 3, 3, 20_000, 15_000), 4);
        // TestReplicaCalcScaleUpCMObjectIgnoresUnreadyPods
        assert_eq!(for_value(&settings, 3, 1, 50_000, 10_000), 5);
        // TestReplicaCalcScaleUpCMExternalIgnoresUnreadyPods
        assert_eq!(for_value(&settings, 3, 1, 8600, 4400), 2);
        // TestReplicaCalcScaleDownCMExternal
        assert_eq!(for_value(&settings, 5, 5, 8600, 14_334), 3);
        // TestReplicaCalcScaleUpCMPerPodObject
        assert_eq!(for_average_value(&settings, 3, 20_000, 5000), 4);
        // TestReplicaCalcScaleUpPerPodCMExternal
        assert_eq!(for_average_value(&settings, 3, 8600, 2150), 4);
        // TestReplicaCalcScaleDownPerPodCMExternal
        assert_eq!(for_average_value(&settings, 5, 8600, 2867), 3);
        // TestReplicaCalcToleranceCMExternal, TestReplicaCalcTolerancePerPodCMExternal
        assert_eq!(for_value(&settings, 3, 3, 8600, 8888), 3);
        assert_eq!(for_average_value(&settings, 3, 8600, 2900), 3);
        // TestReplicaCalcScaleDownPerPodCMObject
        assert_eq!(for_average_value(&settings, 5, 6000, 2000), 3);
    }
}
