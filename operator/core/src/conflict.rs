//! Who else sets the replicas of the same Deployment, and which of the two gives way.
//!
//! Pure. Two that scale one Deployment undo each other's work, so the operator only recommends while another autoscaler, or
//! another resource, is there. A single write by somebody else is told and goes on being judged like any other number.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use plimsoll_crds::{ApiDeployment, reason};

use crate::build::name_of;
use crate::decide::wanted_replicas;
use crate::input::{Child, Input};
use crate::memory::{Memory, seconds_between};
use crate::plan::ChildKind;
use crate::policy::ScalingPolicy;
use crate::steps::replicas_hash;
use crate::{MANAGER, REPLICAS_MANAGER};

/// For so long a number that was written over the operator's is told.
const TOLD_FOR: Duration = Duration::from_mins(10);

/// Somebody else who scales the Deployment at all times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rival {
    /// A HorizontalPodAutoscaler.
    Autoscaler {
        /// Its name.
        name: String,
        /// KEDA's `ScaledObject` that it was made for.
        scaled_object: Option<String>,
    },
    /// A HorizontalPodAutoscaler that scales the resource itself, which pins its replicas.
    Pinning {
        /// Its name.
        name: String,
        /// KEDA's `ScaledObject` that it was made for.
        scaled_object: Option<String>,
    },
    /// An ApiDeployment that was attached to the same Deployment earlier.
    Resource {
        /// Its name.
        name: String,
    },
}

/// A number of replicas that somebody has written over the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overwritten {
    /// Field manager of the write.
    pub by: String,
    /// What the operator had written last, as [`replicas_hash`] has it.
    pub before: u64,
    /// What is asked for since.
    pub replicas: i32,
    /// When it was seen.
    pub at: Timestamp,
}

/// What the status says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Reason of the condition.
    pub reason: &'static str,
    /// Who it is, and what to do.
    pub message: String,
    /// Whether the operator gives way: it recommends, and writes no number.
    pub yields: bool,
}

/// Who else sets the replicas. Who only recommends is in nobody's way.
pub(crate) fn find(input: &Input, policy: &ScalingPolicy, memory: &mut Memory) -> Option<Conflict> {
    let deployment = input.observed.deployment.scaled()?;
    note_overwritten(deployment, memory, input.now);
    if policy.only_recommends() {
        return None;
    }
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    if let Some(owner) = resource_of(&input.observed.deployment) {
        return Some(already_scaled(&input.app, name, owner, "runs"));
    }
    let rivals = &input.observed.rivals;
    let resource = rivals.iter().find_map(|rival| match rival {
        Rival::Resource { name } => Some(name),
        Rival::Autoscaler { .. } | Rival::Pinning { .. } => None,
    });
    if let Some(other) = resource {
        return Some(already_scaled(&input.app, name, other, "was attached earlier to"));
    }
    let named = |which: fn(&Rival) -> Option<String>| {
        let names: Vec<String> = rivals.iter().filter_map(which).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let of_deployment = named(|rival| match rival {
        Rival::Autoscaler { name, scaled_object } => Some(autoscaler(name, scaled_object.as_deref())),
        Rival::Pinning { .. } | Rival::Resource { .. } => None,
    });
    if let Some(autoscalers) = of_deployment {
        let message = format!(
            "{autoscalers} scales Deployment {name}, so the replicas are only recommended: delete it, or set spec.scaling.mode to \
             Recommend to keep it"
        );
        return Some(Conflict { reason: reason::AUTOSCALER_ON_TARGET, message, yields: true });
    }
    let of_resource = named(|rival| match rival {
        Rival::Pinning { name, scaled_object } => Some(autoscaler(name, scaled_object.as_deref())),
        Rival::Autoscaler { .. } | Rival::Resource { .. } => None,
    });
    if let Some(autoscalers) = of_resource {
        // What it writes is the user's word, like that of kubectl scale, and is carried out.
        let message = format!(
            "{autoscalers} scales this ApiDeployment, and so pins its replicas whatever the latency is: delete it, and set \
             spec.replicas.pinned to null to scale by latency"
        );
        return Some(Conflict { reason: reason::AUTOSCALER_PINS, message, yields: false });
    }
    let Overwritten { by, replicas, .. } = memory.overwritten.as_ref()?;
    let message = format!(
        "{by} has written {replicas} replicas to Deployment {name}: leave spec.replicas out of what it applies, and pin a \
         number with kubectl scale apid/{}",
        name_of(&input.app)
    );
    Some(Conflict { reason: reason::REPLICAS_OVERWRITTEN, message, yields: false })
}

/// Its name as its user knows it.
fn autoscaler(name: &str, scaled_object: Option<&str>) -> String {
    match scaled_object {
        None => format!("HorizontalPodAutoscaler {name}"),
        Some(object) => format!("ScaledObject {object} (by HorizontalPodAutoscaler {name})"),
    }
}

fn already_scaled(app: &ApiDeployment, deployment: &str, other: &str, how: &str) -> Conflict {
    let message = format!(
        "ApiDeployment {other} {how} Deployment {deployment} and scales it, so this one only recommends: delete \
         ApiDeployment {} or {other}",
        name_of(app)
    );
    Conflict { reason: reason::ALREADY_SCALED, message, yields: true }
}

/// Name of the ApiDeployment that runs the Deployment to which another one is attached.
fn resource_of(deployment: &Child<Deployment>) -> Option<&str> {
    let Child::Attached(deployment) = deployment else { return None };
    let mut owners = deployment.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| {
        owner.controller == Some(true)
            && owner.kind == "ApiDeployment"
            && owner.api_version.starts_with("plimsoll.dev/")
    })?;
    Some(&owner.name)
}

/// Keeps in mind that the replicas are no longer what the operator has written, and that somebody else owns the field.
fn note_overwritten(deployment: &Deployment, memory: &mut Memory, now: Timestamp) {
    memory.overwritten.take_if(|overwritten| {
        !(0.0..TOLD_FOR.as_secs_f64()).contains(&seconds_between(overwritten.at, now))
    });
    let replicas = wanted_replicas(deployment);
    let Some(written) = memory.applied(ChildKind::Replicas) else { return };
    if Some(&written.uid) != deployment.metadata.uid.as_ref() || written.hash == replicas_hash(replicas) {
        return;
    }
    let before = written.hash;
    let mut others = deployment.metadata.managed_fields.iter().flatten().filter(|entry| sets_replicas(entry));
    let other =
        others.find(|entry| !matches!(entry.manager.as_deref(), None | Some(REPLICAS_MANAGER | MANAGER)));
    let Some(by) = other.and_then(|entry| entry.manager.clone()) else { return };
    let known = memory
        .overwritten
        .as_ref()
        .is_some_and(|known| known.by == by && known.replicas == replicas && known.before == before);
    if !known {
        memory.overwritten = Some(Overwritten { by, before, replicas, at: now });
    }
}

/// Whether an entry of `metadata.managedFields` owns `spec.replicas`.
pub fn sets_replicas(entry: &ManagedFieldsEntry) -> bool {
    entry.fields_v1.as_ref().is_some_and(|fields| fields.0["f:spec"].get("f:replicas").is_some())
}
