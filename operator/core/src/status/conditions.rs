//! The conditions of the status.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use plimsoll_crds::{ApiDeployment, CacheKind, CacheStatus, ConditionType, ConfigKind, DatabaseKind, reason};

use crate::build;
use crate::cache::Effect;
use crate::cache_status;
use crate::input::Outage;
use crate::left_out::LeftOut;
use crate::plan::{Decision, Findings, Limit, MetricsState, Reason, Rollout};
use crate::scale::EMBEDDED_DATABASE;

/// The conditions as they become.
pub(super) struct Conditions<'a> {
    pub before: &'a [Condition],
    pub generation: Option<i64>,
    pub now: Timestamp,
    pub next: Vec<Condition>,
}

impl Conditions<'_> {
    pub fn set(&mut self, type_: ConditionType, status: &str, reason: &str, message: impl Into<String>) {
        let since = self
            .before
            .iter()
            .find(|condition| condition.type_ == type_.as_str() && condition.status == status)
            .map_or(Time(self.now), |condition| condition.last_transition_time.clone());
        self.next.push(Condition {
            type_: type_.as_str().into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: self.generation,
            last_transition_time: since,
        });
    }

    pub fn keep(&mut self, type_: ConditionType) {
        let kept = self.before.iter().find(|condition| condition.type_ == type_.as_str()).cloned();
        self.next.extend(kept.map(|kept| Condition { observed_generation: self.generation, ..kept }));
    }

    pub fn of_failure(&mut self, message: &str) {
        let serving = self.before.iter().find(|condition| condition.type_ == "Ready");
        let ready = serving.map_or("Unknown", |condition| condition.status.as_str()).to_owned();
        self.set(ConditionType::Ready, &ready, reason::APPLY_FAILED, format!("{message}; it is tried again"));
        self.set(ConditionType::Reconciling, "True", reason::APPLY_FAILED, message);
    }

    pub fn of_findings(&mut self, app: &ApiDeployment, findings: &Findings, decision: &Decision) {
        let stalled = stalled(app, findings);
        self.summary(findings, stalled.as_ref());
        match &stalled {
            Some((reason, message)) => self.set(ConditionType::Stalled, "True", reason, message.clone()),
            None => {
                self.set(ConditionType::Stalled, "False", reason::RECONCILED, "nothing stands in the way");
            }
        }
        if findings.invalid_spec.is_some() {
            return;
        }
        self.scaling(findings, decision);
        match &findings.metrics {
            None => self.keep(ConditionType::MetricsAvailable),
            Some(MetricsState::Scraped) => {
                self.set(
                    ConditionType::MetricsAvailable,
                    "True",
                    reason::SCRAPED,
                    "latency is read from the replicas",
                );
            }
            Some(MetricsState::ErrorsMissing) => {
                let message = "latency is read from the replicas, errors are not: give the histogram a label status or \
                               code, or remove spec.errorRate";
                self.set(ConditionType::MetricsAvailable, "False", reason::ERRORS_MISSING, message);
            }
            Some(MetricsState::NoReadyPods) => {
                let message = "no replica is ready, so there is nothing to read";
                self.set(ConditionType::MetricsAvailable, "Unknown", reason::NO_READY_PODS, message);
            }
            Some(MetricsState::Awaited) => {
                let message = "the replicas are ready, and their histogram is not known yet: they have to be scraped, and serve requests that count";
                self.set(ConditionType::MetricsAvailable, "Unknown", reason::AWAITING_SCRAPE, message);
            }
            Some(MetricsState::Alike(left_out)) => {
                let LeftOut { seen, reason, remedy } = left_out;
                self.set(ConditionType::MetricsAvailable, "False", reason, format!("{seen}; {remedy}"));
            }
            Some(MetricsState::Outage(Outage { reason, message })) => {
                let message = format!("{message}; the replicas are held");
                self.set(ConditionType::MetricsAvailable, "False", reason, message);
            }
            Some(MetricsState::Approximate(text)) => {
                let message = format!("latency is read from the replicas; {text}");
                self.set(ConditionType::MetricsAvailable, "True", reason::SCRAPED, message);
            }
            Some(MetricsState::NoEdge(text)) => {
                let message = format!("{text}; the replicas are held");
                self.set(ConditionType::MetricsAvailable, "False", reason::NO_BUCKET_EDGE, message);
            }
            Some(MetricsState::Failed(text)) => {
                let message =
                    format!("{text}; the replicas are held. Check that the operator may reach the pods");
                self.set(ConditionType::MetricsAvailable, "False", reason::SCRAPE_FAILED, message);
            }
        }
        match findings.cache_ready {
            None => {}
            Some(true) => {
                self.set(ConditionType::CacheReady, "True", reason::AVAILABLE, "the managed cache is ready");
            }
            Some(false) => {
                let message = "the managed cache is not ready; reads go to the database";
                self.set(ConditionType::CacheReady, "False", reason::CACHE_UNAVAILABLE, message);
            }
        }
        self.conflict(findings);
    }

    /// What is known of the cache and the database, which all replicas share.
    pub fn of_shared(&mut self, app: &ApiDeployment, findings: &Findings, cache: &CacheStatus) {
        if findings.invalid_spec.is_some() {
            return;
        }
        let silent = findings.cache_silent.filter(|_| findings.cache_ready == Some(true));
        match (&findings.cache, silent) {
            (Some(effect), _) if effect.too_small => {
                let message = cache_status::too_small(app, cache, effect);
                self.set(ConditionType::CacheEffective, "False", reason::CACHE_TOO_SMALL, message);
            }
            (_, Some(cause)) => {
                let message = cache_status::silent(app, cause);
                self.set(ConditionType::CacheEffective, "Unknown", reason::CACHE_SILENT, message);
            }
            (Some(Effect { hit_ratio: Some(_), .. }), None) => {
                let message = "the managed cache holds what is read";
                self.set(ConditionType::CacheEffective, "True", reason::CACHE_HOLDS, message);
            }
            // Too few look-ups to tell, or nothing said for a while.
            _ if findings.cache_ready.is_some() => self.keep(ConditionType::CacheEffective),
            _ => {}
        }
        if let Some(connections) = findings.connections {
            let most = app.spec.replicas.pinned.unwrap_or(app.spec.replicas.max);
            let (status, why) = if connections.fit(most) {
                ("True", reason::CONNECTIONS_FIT)
            } else {
                ("False", reason::TOO_MANY_CONNECTIONS)
            };
            let message = connections.explain(most);
            self.set(ConditionType::DatabaseConnectionsSufficient, status, why, message);
        } else if matches!(app.spec.database(), DatabaseKind::External(_)) {
            self.keep(ConditionType::DatabaseConnectionsSufficient);
        }
    }

    fn summary(&mut self, findings: &Findings, stalled: Option<&(&'static str, String)>) {
        let Findings { wanted, ready, rollout, .. } = findings;
        let counts = format!("{ready} of {wanted} replicas are ready");
        let failed = failures(findings);
        let (serving, why) = match stalled {
            Some((reason, message)) => ("False", (*reason, message.clone())),
            None if !failed.is_empty() => {
                let serving = if *ready > 0 && ready >= wanted { "True" } else { "False" };
                (serving, (reason::APPLY_FAILED, format!("{failed}; it is tried again")))
            }
            // Our own change of the replicas is unseen for a moment too; it takes nothing away from those that serve.
            None if *rollout == Rollout::Unseen && ready < wanted => {
                ("False", (reason::ROLLOUT_IN_PROGRESS, counts.clone()))
            }
            None if *wanted == 0 => {
                ("True", (reason::HIBERNATED, "hibernated by spec.replicas.pinned".to_owned()))
            }
            None if ready < wanted => ("False", (reason::REPLICAS_UNAVAILABLE, counts.clone())),
            None => ("True", (reason::AVAILABLE, counts.clone())),
        };
        self.set(ConditionType::Ready, serving, why.0, why.1);
        let unfinished = match rollout {
            Rollout::InProgress | Rollout::Unseen => Some(reason::ROLLOUT_IN_PROGRESS),
            _ if ready < wanted => Some(reason::REPLICAS_UNAVAILABLE),
            Rollout::Stuck | Rollout::Done => None,
        };
        match unfinished {
            _ if stalled.is_none() && !failed.is_empty() => {
                self.set(ConditionType::Reconciling, "True", reason::APPLY_FAILED, failed);
            }
            Some(reason) if stalled.is_none() => self.set(ConditionType::Reconciling, "True", reason, counts),
            _ => self.set(ConditionType::Reconciling, "False", reason::RECONCILED, "nothing is left to do"),
        }
    }

    fn conflict(&mut self, findings: &Findings) {
        let type_ = ConditionType::ScalerConflict;
        let told = self.before.iter().any(|condition| condition.type_ == type_.as_str());
        match &findings.conflict {
            Some(conflict) => self.set(type_, "True", conflict.reason, conflict.message.clone()),
            None if told => self.set(type_, "False", reason::NO_CONFLICT, "nobody else sets the replicas"),
            None => {}
        }
    }

    fn scaling(&mut self, findings: &Findings, decision: &Decision) {
        let decided = decision.reason;
        let (active, why, message) = match decided {
            Reason::Pinned => {
                ("False", reason::PINNED, "set spec.replicas.pinned to null to scale by latency")
            }
            Reason::Hibernated => {
                ("False", reason::HIBERNATED, "set spec.replicas.pinned to null to wake the API")
            }
            _ if findings.missing_target.is_some() => {
                ("False", reason::TARGET_NOT_FOUND, "there is no Deployment to scale")
            }
            _ if findings.conflict.as_ref().is_some_and(|conflict| conflict.yields) => (
                "False",
                reason::SCALER_CONFLICT,
                "somebody else scales the Deployment; see the condition ScalerConflict",
            ),
            _ if findings.recommends => {
                ("False", reason::RECOMMEND, "set spec.scaling.mode to Auto to have the replicas written")
            }
            Reason::MetricsUnavailable => ("False", decided.as_str(), decision.message.as_str()),
            _ => ("True", reason::ENABLED, "replicas follow the latency targets"),
        };
        self.set(ConditionType::ScalingActive, active, why, message);
        match findings.limit {
            Some(Limit::EmbeddedDatabase) => {
                self.set(ConditionType::ScalingLimited, "True", reason::EMBEDDED_DATABASE, EMBEDDED_DATABASE);
            }
            Some(Limit::DatabaseConnections(connections)) => {
                let message = format!("the load needs more replicas: {}", connections.explain_limit());
                self.set(ConditionType::ScalingLimited, "True", reason::DATABASE_CONNECTIONS, message);
            }
            Some(Limit::Max(max)) => {
                let message = format!("the load needs more than spec.replicas.max, which is {max}; raise it");
                self.set(ConditionType::ScalingLimited, "True", reason::TOO_MANY_REPLICAS, message);
            }
            Some(Limit::Dependency) => {
                let message =
                    "more replicas did not help: look at what they share, such as the database or the cache";
                self.set(ConditionType::ScalingLimited, "True", reason::DEPENDENCY_BOUND, message);
            }
            Some(Limit::TargetUnmeetable) => {
                let message = "requests miss spec.latency, or fail more often than spec.errorRate, without any load, so no \
                               number of replicas helps: raise the target, or look at the API and what it depends on";
                self.set(ConditionType::ScalingLimited, "True", reason::TARGET_UNMEETABLE, message);
            }
            Some(Limit::Min(min)) => {
                let message =
                    format!("fewer replicas would do than the {min} of spec.replicas.min or of a schedule");
                self.set(ConditionType::ScalingLimited, "True", reason::TOO_FEW_REPLICAS, message);
            }
            None => {
                let message = "the wanted number is within the bounds";
                self.set(ConditionType::ScalingLimited, "False", reason::WITHIN_BOUNDS, message);
            }
        }
    }
}

/// What somebody has to change before the spec can be carried out.
fn stalled(app: &ApiDeployment, findings: &Findings) -> Option<(&'static str, String)> {
    if let Some(message) = &findings.invalid_spec {
        return Some((reason::INVALID_SPEC, message.clone()));
    }
    if let Some(target) = &findings.missing_target {
        let message = format!(
            "there is no Deployment {target}: create it in the namespace of the resource, or make an ApiDeployment that is \
             attached to another"
        );
        return Some((reason::TARGET_NOT_FOUND, message));
    }
    if !findings.name_conflicts.is_empty() {
        let names = findings.name_conflicts.join(", ");
        let message = format!(
            "{names}: the name is taken by an object of somebody else; rename or delete one of the two"
        );
        return Some((reason::NAME_CONFLICT, message));
    }
    if !findings.missing_secret_keys.is_empty() {
        let mut message = String::new();
        let cache = matches!(app.spec.cache.kind(), CacheKind::Managed(_)).then(|| build::cache_name(app));
        if let Some((secret, key)) =
            findings.missing_secret_keys.iter().find(|(secret, _)| Some(secret) == cache.as_ref())
        {
            let message = format!(
                "Secret {secret} is of an older release and lacks the key {key}: delete it, and it is made again, with new \
                 passwords, and what uses them is rolled"
            );
            return Some((reason::SECRET_NOT_FOUND, message));
        }
        for (secret, key) in &findings.missing_secret_keys {
            // Writing to a String cannot fail.
            let _ = write!(message, "Secret {secret} with the key {key} is not there; ");
        }
        return Some((reason::SECRET_NOT_FOUND, message + "create it in the namespace of the resource"));
    }
    if let Some(first) = findings.missing_configuration.first() {
        let why = match first.kind {
            ConfigKind::ConfigMap => reason::CONFIG_MAP_NOT_FOUND,
            ConfigKind::Secret => reason::SECRET_NOT_FOUND,
        };
        let names = findings.missing_configuration.iter().map(ToString::to_string).collect::<Vec<_>>();
        let message = format!(
            "not there: {}; create it in the namespace of the resource, or mark it as optional: what ran before keeps serving",
            names.join(", ")
        );
        return Some((why, message));
    }
    if !findings.failures.is_empty() && findings.failures.iter().all(|failure| failure.permanent) {
        let message = format!(
            "{}; correct the spec, or what refuses it: what was there before keeps serving",
            failures(findings)
        );
        return Some((reason::APPLY_FAILED, message));
    }
    (findings.rollout == Rollout::Stuck).then(|| {
        let message = "new replicas do not become ready; look at their events with kubectl describe, and correct the \
                       spec: the old ones keep serving";
        (reason::ROLLOUT_STUCK, message.to_owned())
    })
}

fn failures(findings: &Findings) -> String {
    let messages = findings.failures.iter().map(|failure| failure.message.as_str());
    messages.collect::<Vec<_>>().join("; ")
}
