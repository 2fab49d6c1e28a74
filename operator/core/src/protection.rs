//! The writes of what protects the replicas and their cache: PodDisruptionBudgets and NetworkPolicies.
//!
//! Nothing waits for them, and they wait for nothing: a refused one keeps no template and no replicas back.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::build;
use crate::input::{Child, Input};
use crate::memory::Memory;
use crate::plan::{ChildKind, Step};
use crate::steps::{delete_step, unlike};

/// Children whose name is taken, as `PodDisruptionBudget posts`.
pub(crate) fn name_conflicts(input: &Input) -> impl Iterator<Item = String> {
    let observed = &input.observed;
    let (name, cache) = (build::name_of(&input.app).to_owned(), build::cache_name(&input.app));
    let [policy, cache_policy] = wanted_policies(input);
    let [budget, cache_budget] = wanted_budgets(input);
    [
        (
            cache_budget.is_some() && matches!(observed.cache_disruption_budget, Child::Foreign),
            ChildKind::CacheDisruptionBudget,
            cache.clone(),
        ),
        (
            budget.is_some() && matches!(observed.disruption_budget, Child::Foreign),
            ChildKind::DisruptionBudget,
            name.clone(),
        ),
        (
            policy.is_some() && matches!(observed.network_policy, Child::Foreign),
            ChildKind::NetworkPolicy,
            name,
        ),
        (
            cache_policy.is_some() && matches!(observed.cache_network_policy, Child::Foreign),
            ChildKind::CacheNetworkPolicy,
            cache,
        ),
    ]
    .into_iter()
    .filter(|(taken, ..)| *taken)
    .map(|(_, kind, name)| format!("{kind} {name}"))
}

/// The writes, deletions of what is no longer wanted included.
pub(crate) fn steps(input: &Input, memory: &Memory) -> Vec<Step> {
    let observed = &input.observed;
    let [policy, cache_policy] = wanted_policies(input);
    let [budget, cache_budget] = wanted_budgets(input);
    [
        budget_step(
            memory,
            ChildKind::CacheDisruptionBudget,
            &observed.cache_disruption_budget,
            cache_budget,
        ),
        budget_step(memory, ChildKind::DisruptionBudget, &observed.disruption_budget, budget),
        policy_step(memory, ChildKind::CacheNetworkPolicy, &observed.cache_network_policy, cache_policy),
        policy_step(memory, ChildKind::NetworkPolicy, &observed.network_policy, policy),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn wanted_budgets(input: &Input) -> [Option<PodDisruptionBudget>; 2] {
    [build::disruption_budget(&input.app), build::cache_disruption_budget(&input.app)]
}

fn wanted_policies(input: &Input) -> [Option<NetworkPolicy>; 2] {
    let Input { app, settings, .. } = input;
    [build::network_policy(app, settings), build::cache_network_policy(app, settings)]
}

fn budget_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<PodDisruptionBudget>,
    wanted: Option<PodDisruptionBudget>,
) -> Option<Step> {
    match wanted {
        Some(wanted) => unlike(memory, kind, observed, wanted)
            .map(|(budget, hash)| Step::ApplyDisruptionBudget { kind, budget, hash }),
        None => delete_step(kind, observed.owned().map(|child| &child.metadata)),
    }
}

fn policy_step(
    memory: &Memory,
    kind: ChildKind,
    observed: &Child<NetworkPolicy>,
    wanted: Option<NetworkPolicy>,
) -> Option<Step> {
    match wanted {
        Some(wanted) => unlike(memory, kind, observed, wanted)
            .map(|(policy, hash)| Step::ApplyNetworkPolicy { kind, policy, hash }),
        None => delete_step(kind, observed.owned().map(|child| &child.metadata)),
    }
}
