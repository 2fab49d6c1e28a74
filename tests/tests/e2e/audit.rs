//! The rights of the operator against what it has used in all other end-to-end tests. `cargo xtask test` runs this last,
//! and by itself: it reads what the API server wrote down while the others ran.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::api::{Api, ListParams};
use plimsoll_tests::audit::{self, Call, Right};
use plimsoll_tests::chart;

use crate::world;

/// Rights that an end-to-end test need not use, and why the operator has them all the same.
const UNUSED: [(&str, &str, &str, &str); 1] =
    [("events.k8s.io", "events", "patch", "an event is only counted up when it comes again within minutes")];

#[test]
fn every_right_is_used_and_none_is_missing() {
    world::look(async |client| {
        let release = ListParams::default().labels("app.kubernetes.io/instance=plimsoll");
        let mut rules = Vec::new();
        for role in Api::<ClusterRole>::all(client.clone()).list(&release).await?.items {
            // Those that Kubernetes merges into its own are the users'.
            let aggregated =
                role.metadata.labels.iter().flatten().any(|(key, _)| key.contains("aggregate-to"));
            rules.extend(role.rules.filter(|_| !aggregated).into_iter().flatten());
        }
        for role in Api::<Role>::all(client.clone()).list(&release).await?.items {
            rules.extend(role.rules.into_iter().flatten());
        }
        let granted = audit::granted(&rules);
        let account = format!("system:serviceaccount:{}:{}", chart::NAMESPACE, chart::OPERATOR);
        let log = audit::read_log()?;
        let calls = audit::calls(&log, &account);
        let used = audit::used(&calls);
        let excused: BTreeMap<Right, &str> = UNUSED
            .iter()
            .map(|(group, resource, verb, reason)| (Right::new(group, resource, verb), *reason))
            .collect();

        let list = |rights: &[&Right]| rights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let unused: Vec<&Right> =
            granted.difference(&used).filter(|right| !excused.contains_key(right)).collect();
        ensure!(unused.is_empty(), "granted and never used: {}", list(&unused));
        // What only a fault needs may be used in one run and not in another.
        let stale: Vec<&Right> = excused.keys().filter(|right| !granted.contains(right)).collect();
        ensure!(stale.is_empty(), "excused here, and not granted: {}", list(&stale));
        let accounts = Api::<ServiceAccount>::namespaced(client, chart::NAMESPACE);
        let present = accounts.get(chart::OPERATOR).await.context("read the operator's account")?;
        let present = present.metadata.uid.unwrap_or_default();
        let denied = audit::denied(&calls, &audit::unbound(&log, chart::OPERATOR), &present);
        let told: Vec<String> = denied
            .into_iter()
            .map(|Call { right, namespace, name, answered, account_uid, .. }| {
                let account = if *account_uid == present { "that is there" } else { "that is gone" };
                format!("{right} ({namespace}/{name}) at {answered} to the account {account}")
            })
            .collect();
        ensure!(told.is_empty(), "denied: {}", told.join(", "));
        Ok(())
    });
}

/// So that the test above cannot pass by an empty log.
#[test]
fn the_log_holds_the_operators_calls() -> Result<()> {
    let account = format!("system:serviceaccount:{}:{}", chart::NAMESPACE, chart::OPERATOR);
    let calls = audit::calls(&audit::read_log()?, &account);
    ensure!(calls.len() > 100, "there are {} calls of {account}", calls.len());
    Ok(())
}
