//! What is told of a resource as an external metric. Pure: it reads statuses, and knows of no request and no clock.
//!
//! All of it comes from the status, so that a standby tells the same as the leader.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::core::{Expression, Selector, SelectorExt as _};
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus, ConditionType, reason};
use serde_json::{Value, json};

/// Group and version, as in `apiVersion`.
pub const API_VERSION: &str = "external.metrics.k8s.io/v1beta1";
/// Label that holds the name of the resource.
const NAME_LABEL: &str = "name";

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Replicas that the load asks for. With a target of `averageValue: 1` an HPA follows it.
    DesiredReplicas,
    /// Replicas that the load asks for, by those that are ready: above 1 there are too few. With a target of `value: 1` an
    /// HPA follows it.
    CapacityRatio,
    /// Requests per second that one replica carries within every target, as far as that is known.
    ReplicaCapacity,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DesiredReplicas, Self::CapacityRatio, Self::ReplicaCapacity];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DesiredReplicas => "plimsoll_desired_replicas",
            Self::CapacityRatio => "plimsoll_capacity_ratio",
            Self::ReplicaCapacity => "plimsoll_replica_capacity_requests_per_second",
        }
    }

    /// The metric of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == name)
    }

    /// Its value; absent while it is not known. Replicas that cannot be read give none: no data is not low load, and an HPA
    /// that gets no value changes nothing.
    fn value(self, status: &ApiDeploymentStatus) -> Option<f64> {
        let read = status.conditions.iter().any(|condition| {
            condition.type_ == ConditionType::MetricsAvailable.as_str()
                && (condition.status == "True" || condition.reason == reason::ERRORS_MISSING)
        });
        if !read {
            return None;
        }
        let desired = status.recommended_replicas.map(f64::from);
        match self {
            Self::DesiredReplicas => desired,
            Self::CapacityRatio => {
                let ready = status.ready_replicas.filter(|ready| *ready > 0)?;
                Some(desired? / f64::from(ready))
            }
            Self::ReplicaCapacity => {
                let capacities = &status.learned.as_ref()?.capacities;
                let capacities =
                    capacities.iter().filter_map(|it| it.requests_per_second.parse::<f64>().ok());
                capacities.min_by(f64::total_cmp)
            }
        }
    }
}

/// The list of what can be asked for, as discovery wants it.
pub fn resources() -> Value {
    let resources = Metric::ALL.map(|metric| {
        json!({
            "name": metric.as_str(), "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"],
        })
    });
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION, "resources": resources })
}

/// The values of a metric, of all resources of a namespace that the selector selects by their labels and by `name`.
pub fn values<'a>(
    metric: Metric,
    apps: impl Iterator<Item = &'a ApiDeployment>,
    selector: &Selector,
    now: Timestamp,
) -> Value {
    let items = apps.filter_map(|app| {
        let mut labels = app.metadata.labels.clone().unwrap_or_default();
        labels.insert(NAME_LABEL.into(), app.metadata.name.clone()?);
        let value = metric.value(app.status.as_ref()?).filter(|_| selector.matches(&labels))?;
        Some(json!({
            "metricName": metric.as_str(),
            "metricLabels": BTreeMap::from([(NAME_LABEL, app.metadata.name.as_deref()?)]),
            "timestamp": format!("{now:.0}"),
            "value": quantity(value),
        }))
    });
    json!({
        "kind": "ExternalMetricValueList", "apiVersion": API_VERSION, "metadata": {}, "items": items.collect::<Vec<_>>(),
    })
}

/// A number as Kubernetes writes a quantity, to the thousandth.
fn quantity(value: f64) -> String {
    let thousandths = (value * 1000.0).round() as i64;
    if thousandths % 1000 == 0 { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }
}

/// Reads a label selector as the API server writes it in a query. Absent text selects all.
///
/// # Errors
/// The part that cannot be read.
pub fn selector(text: &str) -> Result<Selector, String> {
    let (mut expressions, mut begin, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, letter) in text.char_indices().chain([(text.len(), ',')]) {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let part = text.get(begin..at).unwrap_or_default().trim();
                if !part.is_empty() {
                    expressions.push(expression(part).ok_or_else(|| part.to_owned())?);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
    Ok(expressions.into_iter().collect())
}

fn expression(part: &str) -> Option<Expression> {
    let text = |text: &str| text.trim().to_owned();
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(')?;
        let values = values.split(',').map(text).collect::<BTreeSet<_>>();
        let (key, operator) = head.trim().split_once(' ')?;
        return match operator.trim() {
            "in" => Some(Expression::In(text(key), values)),
            "notin" => Some(Expression::NotIn(text(key), values)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Expression::NotEqual(text(key), text(value)));
    }
    if let Some((key, value)) = part.split_once('=') {
        return Some(Expression::Equal(text(key), text(value.trim_start_matches('='))));
    }
    let plain = |key: &str| !key.is_empty() && !key.contains(char::is_whitespace);
    match part.strip_prefix('!') {
        Some(key) => plain(key).then(|| Expression::DoesNotExist(text(key))),
        None => plain(part).then(|| Expression::Exists(text(part))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, available: &str) -> ApiDeployment {
        serde_json::from_value(json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": name, "namespace": "shop", "labels": { "team": "a" } },
            "spec": { "latency": { "p99": "250ms" } },
            "status": {
                "recommendedReplicas": 5, "readyReplicas": 2,
                "learned": { "template": "x", "typical": "2ms", "capacities": [
                    { "target": "p95<100ms", "requestsPerSecond": "41.5", "uncertaintyPercent": 5 },
                    { "target": "p99<250ms", "requestsPerSecond": "39.25", "uncertaintyPercent": 5 },
                ] },
                "conditions": [{
                    "type": "MetricsAvailable", "status": available, "reason": "Any", "message": "",
                    "lastTransitionTime": "2030-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    fn told(metric: Metric, apps: &[ApiDeployment], query: &str) -> Vec<(String, String)> {
        let list = values(metric, apps.iter(), &selector(query).unwrap(), Timestamp::UNIX_EPOCH);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| (text(&item["metricLabels"]["name"]), text(&item["value"]))).collect()
    }

    #[test]
    fn each_metric_is_told_of_the_resources_that_are_selected() {
        let apps = [app("posts", "True"), app("users", "True")];
        let posts = |value: &str| vec![("posts".to_owned(), value.to_owned())];
        assert_eq!(told(Metric::DesiredReplicas, &apps, "name=posts"), posts("5"));
        assert_eq!(told(Metric::CapacityRatio, &apps, "name in (posts,none)"), posts("2500m"));
        assert_eq!(told(Metric::ReplicaCapacity, &apps, "team=a,name!=users"), posts("39250m"));
        assert_eq!(told(Metric::DesiredReplicas, &apps, "").len(), 2);
        assert_eq!(told(Metric::DesiredReplicas, &apps, "team,!other,name notin (x)").len(), 2);
        assert_eq!(told(Metric::DesiredReplicas, &apps, "team=b").len(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        assert_eq!(told(Metric::DesiredReplicas, &[app("posts", "False")], "name=posts"), []);
        let mut hibernated = app("posts", "True");
        hibernated.status.as_mut().unwrap().ready_replicas = Some(0);
        assert_eq!(told(Metric::CapacityRatio, &[hibernated], "name=posts"), []);
    }

    #[test]
    fn the_answer_is_what_the_api_promises() {
        let now = "2030-01-01T00:00:00.5Z".parse().unwrap();
        let list = values(Metric::DesiredReplicas, [app("posts", "True")].iter(), &Selector::default(), now);
        assert_eq!(
            list,
            json!({
                "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {},
                "items": [{
                    "metricName": "plimsoll_desired_replicas", "metricLabels": { "name": "posts" },
                    "timestamp": "2030-01-01T00:00:00Z", "value": "5",
                }],
            })
        );
    }

    #[test]
    fn the_document_names_every_metric() {
        let document = include_str!("../../../docs/attach.md");
        for metric in Metric::ALL {
            assert!(document.contains(&format!("| `{}` |", metric.as_str())), "{}", metric.as_str());
        }
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_refused() {
        for text in ["a b", "a within (b)", "!"] {
            assert_eq!(selector(text), Err(text.to_owned()));
        }
    }
}
