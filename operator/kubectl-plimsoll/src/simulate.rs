//! `kubectl plimsoll simulate`: replays a history against a manifest, with Plimsoll and with the HPA.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use plimsoll_core::policy::ScalingPolicy;
use plimsoll_crds::Mode;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::peers::hpa::Hpa;
use plimsoll_simulator::sweep::parallel;
use plimsoll_simulator::{Outcome, Policy, Scenario, run as replay};

use crate::history::History;
use crate::manifest::Manifest;
use crate::report::{Load, Report, Row};
use crate::{history, manifest, prometheus, service, worst};

/// What to replay.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A YAML file with the `ApiDeployment`: its latency targets and its bounds on replicas count.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// A CSV file of `second,requests_per_second`, or with RFC 3339 times in place of seconds; each rate holds until the
    /// next line.
    #[arg(long, value_name = "FILE", required_unless_present = "prometheus", conflicts_with = "prometheus")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    prometheus: prometheus::Source,
    /// When the history is taken to begin, such as 2026-12-01T08:00:00Z, for schedules and pauses of `spec.scaling`
    /// [default: as the history says]
    #[arg(long, value_name = "TIME")]
    started: Option<Timestamp>,
    #[command(flatten)]
    service: service::Cost,
    /// What a replica costs an hour, in any currency
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price_per_replica_hour: Option<f64>,
    /// Fixes what is drawn; the same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print it as JSON.
    #[arg(long)]
    pub json: bool,
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse::<f64>().unwrap_or(f64::NAN);
    if price.is_finite() && price >= 0.0 {
        Ok(price)
    } else {
        Err("write a price of 0 or more, such as 0.04".into())
    }
}

/// Makes a policy that is replayed.
type Make<'a> = &'a (dyn Fn() -> Box<dyn Policy> + Sync);

/// The user's hands on scaling, and the time of day at which they are laid on.
///
/// # Errors
/// When they go by the time of day and nothing tells it, and when the history would end after the last time that there is.
fn hands(
    manifest: &Manifest,
    history: &mut History,
    started: Option<Timestamp>,
) -> Result<(ScalingPolicy, Timestamp)> {
    history.started = started.or(history.started);
    if let Some(started) = history.started {
        started.checked_add(history.trace.duration()).with_context(|| {
            format!("the history begins at {started}; write --started with an earlier time")
        })?;
    }
    let mut policy = manifest.policy.clone();
    if policy.mode == Mode::Recommend {
        policy.mode = Mode::Auto;
        history.notes.push("spec.scaling.mode is Recommend; replayed as if its number were written".into());
    }
    if policy.is_timed() {
        let began = history.started.context(
            "spec.scaling has schedules or pauses, and the history does not say when it began; write --started, such as --started 2026-12-01T08:00:00Z, or times in place of its seconds",
        )?;
        return Ok((policy, began));
    }
    Ok((policy, history.started.unwrap_or(Timestamp::UNIX_EPOCH)))
}

/// Replays it.
///
/// # Errors
/// Those of the manifest, the history and the service, with what to write.
pub fn run(options: &Options) -> Result<Report> {
    let manifest = manifest::read(&options.manifest)?;
    let mut history = match &options.trace {
        Some(file) => history::read(file)?,
        None => prometheus::read(&options.prometheus)?,
    };
    let (hands, began) = hands(&manifest, &mut history, options.started)?;
    let service = service::service(&options.service, &manifest)?;
    let (_, target) = manifest.targets[0];
    let mut scenario = Scenario::new(&manifest.name, history.trace.clone(), service, target);
    scenario.targets = manifest.targets.iter().map(|&(_, target)| target).collect();
    scenario.seed = options.seed;
    (scenario.replicas_min, scenario.replicas_max) = (hands.min, hands.max);
    scenario.replicas_initial = scenario.replicas_initial.clamp(hands.initial(began), hands.max);
    let policies: [(&str, Make<'_>); 3] = [
        ("Plimsoll", &|| Box::new(Plimsoll::new(&scenario).with(hands.clone(), began))),
        ("HPA, CPU 50 %", &|| Box::new(Hpa::on_cpu(50))),
        ("HPA, CPU 70 %", &|| Box::new(Hpa::on_cpu(70))),
    ];
    let outcomes = parallel(&policies, |(_, make)| replay(&scenario, make().as_mut()));
    let rows = policies
        .iter()
        .zip(&outcomes)
        .map(|((name, _), outcome)| row(name, outcome, &scenario, options.price_per_replica_hour))
        .collect();
    Ok(Report {
        name: manifest.name,
        promise: manifest
            .targets
            .iter()
            .map(|(name, target)| format!("{name} {} ms", target.latency.as_secs_f64() * 1e3))
            .collect(),
        replicas_min: hands.min,
        replicas_max: hands.max,
        embedded_database: manifest.embedded_database,
        load: Load {
            started: history.started,
            hours: history.trace.duration().as_secs_f64() / 3600.0,
            mean_requests_per_second: history.trace.mean(),
            peak_requests_per_second: history.trace.peak(),
            notes: history.notes,
            requests: outcomes.first().map_or(0, |outcome| outcome.offered),
        },
        pod_requests_per_second_max: scenario.service.throughput_max(),
        seed: options.seed,
        rows,
    })
}

fn row(name: &str, outcome: &Outcome, scenario: &Scenario, price: Option<f64>) -> Row {
    let score = outcome.score();
    let wanted = || outcome.seconds.iter().map(|second| second.wanted);
    Row {
        policy: name.to_owned(),
        violation_minutes: score.violation_minutes,
        over_share: score.over_share,
        unanswered: outcome.shed + outcome.timed_out + outcome.failed,
        replica_hours: score.replica_hours,
        cost: price.map(|price| price * score.replica_hours),
        scale_events: score.scale_events,
        replicas_lowest: wanted().min().unwrap_or_default(),
        replicas_highest: wanted().max().unwrap_or_default(),
        worst_minutes: worst::minutes(outcome, scenario),
    }
}
