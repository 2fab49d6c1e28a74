//! The service as it is simulated: what a request costs a pod, and how long a pod takes to start.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use plimsoll_crds::parse_duration;
use plimsoll_simulator::distribution::Distribution;
use plimsoll_simulator::service::Service;

use crate::manifest::Manifest;

/// CPU that a read costs the bundled API; `docs/latency.md` has 58 to 63 µs.
const BUNDLED_CPU: Duration = Duration::from_micros(60);
/// How much start-up times differ: standard deviation over mean.
const START_UP_VARIATION: f64 = 0.2;

/// What a request costs.
#[derive(Args, Clone, Debug)]
pub struct Cost {
    /// How long a request keeps a worker busy on the mean, in an idle pod. Absent, for the bundled API: as measured.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    service_time: Option<Duration>,
    /// How much service times differ: their standard deviation over their mean, 0.3 for alike requests, 1.5 for a heavy tail
    #[arg(long, value_name = "N", default_value_t = 0.5, value_parser = variation)]
    variation: f64,
    /// Requests that a pod works on at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    workers: u32,
    /// CPU that a request costs; the HPA sees it as a part of the manifest's CPU request. Absent: workers only compute, and
    /// the CPU request is a core for each.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cpu_time: Option<Duration>,
    /// From a pod's creation until it is Ready
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    start_up: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("write a duration above 0, such as 50ms".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn variation(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().unwrap_or(f64::NAN);
    if (0.0..=10.0).contains(&number) {
        Ok(number)
    } else {
        Err("write a number from 0 to 10, such as 0.5".into())
    }
}

/// Puts the service together.
///
/// # Errors
/// When nothing says what a request costs, and when an idle pod already breaks the promise.
pub fn service(options: &Cost, manifest: &Manifest) -> Result<Service> {
    let start_up = lognormal(options.start_up, START_UP_VARIATION);
    let service = if let Some(time) = options.service_time {
        let workers = Service::workers(options.workers, lognormal(time, options.variation), start_up);
        match options.cpu_time {
            Some(cpu) => with_cpu(&workers, time, cpu, manifest)?,
            None => workers,
        }
    } else {
        ensure!(
            manifest.bundled,
            "how long does a request take in an idle pod? write --service-time, such as --service-time 50ms; only of the bundled API it is known"
        );
        let limit = manifest.cpu_limit.unwrap_or(1.0);
        let event_loop = Service::event_loop(limit, lognormal(BUNDLED_CPU, options.variation), start_up);
        Service { cpu_request: manifest.cpu_request.unwrap_or(limit), ..event_loop }
    };
    for (name, target) in &manifest.targets {
        let idle = Duration::from_secs_f64(service.work.quantile(target.quantile));
        ensure!(
            idle <= target.latency,
            "spec.latency.{name}: {:?} is below what {} of 100 requests take in an idle pod, {:.0} ms: no number of replicas keeps it; raise the target or make requests faster",
            target.latency,
            // Without the last bits of 0.999 times a hundred.
            (target.quantile * 1000.0).round() / 10.0,
            idle.as_secs_f64() * 1e3,
        );
    }
    Ok(service)
}

/// Workers that compute for a part of their time only.
fn with_cpu(workers: &Service, time: Duration, cpu: Duration, manifest: &Manifest) -> Result<Service> {
    ensure!(
        cpu <= time,
        "--cpu-time {cpu:?} is above --service-time {time:?}: a request computes no longer than it takes"
    );
    let cpu_request = manifest
        .cpu_request
        .or(manifest.cpu_limit)
        .context("spec.resources.requests.cpu: write it, such as 500m: the HPA's percentage is of it")?;
    Ok(Service { cpu_share: cpu.as_secs_f64() / time.as_secs_f64(), cpu_request, ..workers.clone() })
}

fn lognormal(mean: Duration, variation: f64) -> Distribution {
    Distribution::Lognormal { mean: mean.as_secs_f64(), cv: variation }
}
