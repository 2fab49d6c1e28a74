//! What the API server's audit log says of an account: what it used of its rights, and what it was denied. Pure, but for
//! the one function that reads the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

use crate::cluster::layout;

/// One thing that may be done: a verb on a kind of resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core.
    pub group: String,
    /// Resource, with its subresource after a slash.
    pub resource: String,
    /// Verb, as in a role.
    pub verb: String,
}

impl Right {
    /// A right by its parts.
    pub fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self { group: group.into(), resource: resource.into(), verb: verb.into() }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, resource, verb } = self;
        if group.is_empty() { write!(f, "{verb} {resource}") } else { write!(f, "{verb} {resource}.{group}") }
    }
}

/// One call of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub right: Right,
    /// Namespace; empty for a call that is of the whole cluster.
    pub namespace: String,
    /// Name of the object; empty for lists and watches.
    pub name: String,
    /// HTTP status; 0 while a watch is open.
    pub code: u64,
    /// UID of the account that asked. An account that is made anew, as by another installation, has another.
    pub account_uid: String,
    /// Whether the roles refused it. Admission refuses with 403 too.
    pub denied: bool,
    /// When it was answered.
    pub answered: Timestamp,
}

impl Call {
    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.right.verb.as_str(), "get" | "list" | "watch")
    }
}

/// The calls of `user` for objects, in the log's order.
pub fn calls(log: &str, user: &str) -> Vec<Call> {
    events(log).filter(|event| event["user"]["username"] == user).filter_map(|event| call(&event)).collect()
}

/// Lines that are no events of the log are passed over: the last one may be half written.
fn events(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok())
}

fn call(event: &Value) -> Option<Call> {
    let object = event.get("objectRef")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match object["subresource"].as_str() {
        Some(sub) => format!("{}/{sub}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    Some(Call {
        right: Right { group: text(&object["apiGroup"]), resource, verb: text(&event["verb"]) },
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        account_uid: text(&event["user"]["uid"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or(0),
        denied: event["annotations"]["authorization.k8s.io/decision"] == "forbid",
        answered: time(event, "stageTimestamp")?,
    })
}

fn time(event: &Value, field: &str) -> Option<Timestamp> {
    event[field].as_str()?.parse().ok()
}

/// When somebody asked for a role binding to be deleted whose name begins so: from then on, its account may be refused.
pub fn unbound(log: &str, name: &str) -> Vec<Timestamp> {
    let of_binding = |event: &Value| {
        let object = &event["objectRef"];
        event["verb"] == "delete"
            && matches!(object["resource"].as_str(), Some("rolebindings" | "clusterrolebindings"))
            && object["name"].as_str().is_some_and(|found| found.starts_with(name))
    };
    events(log).filter(of_binding).filter_map(|event| time(&event, "requestReceivedTimestamp")).collect()
}

/// Every right that the rules grant. What they grant by URL is none of a resource.
pub fn granted(rules: &[PolicyRule]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| Right::new(group, resource, verb)));
            }
        }
    }
    rights
}

/// Every right that the calls needed and had.
pub fn used(calls: &[Call]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for call in calls.iter().filter(|call| !call.denied) {
        rights.insert(call.right.clone());
        // Server-side apply of what was not there needs both.
        if call.right.verb == "patch" && call.code == 201 {
            rights.insert(Right { verb: "create".into(), ..call.right.clone() });
        }
    }
    rights
}

/// What was denied. Not counted is what an account that is gone since (it is not `present_uid`) was denied after the first of
/// the moments of `unbound` at which it had called before: it was being uninstalled, and lost its rights before its process
/// ended.
pub fn denied<'a>(calls: &'a [Call], unbound: &[Timestamp], present_uid: &str) -> Vec<&'a Call> {
    let mut first_calls: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for call in calls {
        let first = first_calls.entry(&call.account_uid).or_insert(call.answered);
        *first = call.answered.min(*first);
    }
    let leaving = |call: &Call| {
        let first = first_calls.get(call.account_uid.as_str());
        call.account_uid != present_uid
            && unbound.iter().any(|at| first.is_some_and(|first| first < at) && *at <= call.answered)
    };
    calls.iter().filter(|call| call.denied && !leaving(call)).collect()
}

/// The log of the local cluster, older files first.
///
/// # Errors
/// When there is none: the cluster was started by an older version of these tests, or is not the local one.
pub fn read_log() -> Result<String> {
    let dir = layout::audit_log();
    let dir = dir.parent().context("the log's folder")?;
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // `audit-TIME.log` sorts before `audit.log`, and times among themselves.
    files.sort();
    let mut log = String::new();
    for file in files {
        log += &std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USER: &str = "system:serviceaccount:plimsoll-system:plimsoll-operator";

    fn event(user: &str, verb: &str, object: &Value, code: u16, decision: &str) -> String {
        json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": verb, "user": { "username": user },
            "objectRef": object, "responseStatus": { "code": code },
            "annotations": { "authorization.k8s.io/decision": decision },
            "requestReceivedTimestamp": "2026-01-01T10:00:00.000001Z",
            "stageTimestamp": "2026-01-01T10:00:00.250001Z",
        })
        .to_string()
    }

    fn log() -> String {
        let deployment =
            json!({ "resource": "deployments", "namespace": "shop", "name": "posts", "apiGroup": "apps" });
        let status = json!({ "resource": "apideployments", "namespace": "shop", "name": "posts", "apiGroup": "plimsoll.dev", "subresource": "status" });
        let pods = json!({ "resource": "pods" });
        let secret = json!({ "resource": "secrets", "namespace": "shop", "name": "other" });
        [
            event(USER, "patch", &deployment, 201, "allow"),
            event(USER, "patch", &status, 200, "allow"),
            event(USER, "watch", &pods, 200, "allow"),
            event(USER, "delete", &secret, 403, "forbid"),
            // Refused by admission, as in a namespace that is ending.
            event(USER, "create", &secret, 403, "allow"),
            event("somebody", "delete", &deployment, 200, "allow"),
            "{ half a line".into(),
        ]
        .join("\n")
    }

    #[test]
    fn reads_the_calls_of_one_account() {
        let calls = calls(&log(), USER);
        assert_eq!(calls.len(), 5);
        assert_eq!(calls[1].right, Right::new("plimsoll.dev", "apideployments/status", "patch"));
        assert_eq!(calls[2].namespace, "", "a watch of all namespaces is of the cluster");
        assert!(calls[0].writes() && !calls[2].writes());
    }

    #[test]
    fn what_an_apply_has_created_was_created() {
        let used = used(&calls(&log(), USER));
        assert!(used.contains(&Right::new("apps", "deployments", "create")));
        assert!(!used.contains(&Right::new("plimsoll.dev", "apideployments/status", "create")));
        assert!(
            used.contains(&Right::new("", "secrets", "create")),
            "the right was there, and admission refused"
        );
    }

    #[test]
    fn only_the_roles_deny() {
        let calls = calls(&log(), USER);
        let denied: Vec<&Right> = denied(&calls, &[], "").into_iter().map(|call| &call.right).collect();
        assert_eq!(denied, [&Right::new("", "secrets", "delete")]);
    }

    #[test]
    fn a_binding_is_gone_when_its_deletion_was_asked_for() {
        let binding = |resource: &str, name: &str| json!({ "resource": resource, "name": name, "apiGroup": "rbac.authorization.k8s.io" });
        let log = [
            event("helm", "delete", &binding("rolebindings", "plimsoll-operator-leader"), 200, "allow"),
            event("helm", "delete", &binding("clusterrolebindings", "plimsoll-operator"), 200, "allow"),
            event("helm", "delete", &binding("rolebindings", "another"), 200, "allow"),
            event("helm", "delete", &binding("roles", "plimsoll-operator-leader"), 200, "allow"),
            event("helm", "create", &binding("rolebindings", "plimsoll-operator-leader"), 201, "allow"),
        ]
        .join("\n");
        let received: Timestamp = "2026-01-01T10:00:00.000001Z".parse().unwrap();
        assert_eq!(unbound(&log, "plimsoll-operator"), [received; 2]);
    }

    #[test]
    fn an_account_that_is_being_removed_may_be_denied_what_it_had() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let call = |account: &str, second, denied| Call {
            right: Right::new("coordination.k8s.io", "leases", "update"),
            namespace: "plimsoll-system".into(),
            name: "plimsoll-operator".into(),
            code: if denied { 403 } else { 200 },
            account_uid: account.into(),
            denied,
            answered: at(second),
        };
        let counts = |calls: &[Call]| !denied(calls, &[at(10)], "present").is_empty();
        assert!(!counts(&[call("gone", 5, false), call("gone", 11, true)]));
        assert!(
            !counts(&[call("gone", 5, false), call("gone", 11, true), call("gone", 12, false)]),
            "installed again, the account has its rights by its name, while its token is believed still"
        );
        assert!(counts(&[call("gone", 5, false), call("gone", 9, true)]), "its bindings were there");
        assert!(counts(&[call("gone", 11, true)]), "it was made after another's bindings had gone");
        assert!(counts(&[call("present", 5, false), call("present", 11, true)]), "it is there still");
    }

    #[test]
    fn rules_grant_each_verb_on_each_resource() {
        let rule = PolicyRule {
            api_groups: Some(vec!["apps".into()]),
            resources: Some(vec!["deployments".into(), "deployments/scale".into()]),
            verbs: vec!["get".into(), "patch".into()],
            ..PolicyRule::default()
        };
        let named = PolicyRule { non_resource_urls: Some(vec!["/metrics".into()]), ..PolicyRule::default() };
        let granted = granted(&[rule, named]);
        assert_eq!(granted.len(), 4);
        let unused: Vec<String> =
            granted.difference(&used(&calls(&log(), USER))).map(ToString::to_string).collect();
        assert_eq!(
            unused,
            ["get deployments.apps", "get deployments/scale.apps", "patch deployments/scale.apps"]
        );
    }
}
