//! What a Prometheus is asked: one query, so that counts and the time of their scrape are of one moment.
//!
//! It asks for cumulative counts and for no rate: what happened between two readings is worked out by the same code as for
//! pods, with their restarts and gaps.

use std::fmt::Write as _;

use plimsoll_core::input::Outage;
use plimsoll_crds::{Metrics, PrometheusSource, reason};

use super::tally::{IN_FLIGHT, SCALARS, STATUS_LABELS};

/// Label by which the parts of the answer are told apart that have no other.
pub const PART_LABEL: &str = "plimsoll";
/// Requests by status; they are in the buckets too.
pub const PART_STATUS: &str = "status";
/// When the counts were scraped, in seconds since the epoch.
pub const PART_SCRAPED_AT: &str = "scraped_at";

/// A longer name of a Deployment is cut by Kubernetes in those of its pods.
const WHOLE_NAME_MAX: usize = 46;

/// The query for the pods of a Deployment.
///
/// # Errors
/// [`Outage`] when the resource's own query has a placeholder that there is not.
pub fn query(
    metrics: &Metrics,
    source: &PrometheusSource,
    namespace: &str,
    deployment: &str,
) -> Result<String, Outage> {
    let pods = pods_pattern(deployment);
    if let (Some(counts), Some(times)) = (&source.query, &source.timestamp_query) {
        let fill = |field, template: &str| {
            let known = [
                ("namespace", namespace),
                ("name", deployment),
                ("pods", pods.as_str()),
                ("histogram", metrics.histogram.as_str()),
            ];
            fill(template, &known).map_err(|unknown| Outage {
                reason: reason::QUERY_FAILED,
                message: format!(
                    "spec.metrics.prometheus.{field} has $({unknown}), which is not there; write $(namespace), $(name), \
                     $(pods) or $(histogram)"
                ),
            })
        };
        let (counts, times) = (fill("query", counts)?, fill("timestampQuery", times)?);
        return Ok(format!("({counts}) or {}", part(&format!("({times})"), PART_SCRAPED_AT)));
    }
    let (pod, histogram) = (&source.pod_label, &metrics.histogram);
    let ours = format!("{}={},{pod}=~{}", source.namespace_label, quoted(namespace), quoted(&pods));
    let mut chosen = ours.clone();
    for (name, value) in &metrics.labels {
        // Writing to a String cannot fail.
        let _ = write!(chosen, ",{name}={}", quoted(value));
    }
    let all = format!("{histogram}_bucket{{{chosen},le=\"+Inf\"}}");
    let by_status = format!("sum by ({pod},{}) ({all})", STATUS_LABELS.join(","));
    let mut times = format!("max by ({pod}) (timestamp({all}))");
    if metrics.labels.is_empty() {
        // A pod that has served nothing may have no bucket yet.
        let _ = write!(times, " or max by ({pod}) (timestamp({IN_FLIGHT}{{{ours}}}))");
    }
    let parts = [
        format!("sum by ({pod},le) ({histogram}_bucket{{{chosen}}})"),
        part(&by_status, PART_STATUS),
        format!("sum by (__name__,{pod}) ({{__name__=~\"{}\",{ours}}})", SCALARS.join("|")),
        part(&times, PART_SCRAPED_AT),
    ];
    Ok(parts.join(" or "))
}

/// Marks a part of the answer.
fn part(query: &str, name: &str) -> String {
    format!("label_replace({query}, \"{PART_LABEL}\", \"{name}\", \"\", \"\")")
}

/// A regular expression of the names that Kubernetes gives a Deployment's pods. It may fit others; those are left out when
/// the answer is read.
fn pods_pattern(deployment: &str) -> String {
    let escaped = |name: &str| name.replace('.', "[.]");
    if deployment.len() <= WHOLE_NAME_MAX {
        format!("{}-[a-z0-9]+-[a-z0-9]+", escaped(deployment))
    } else {
        format!("{}.*", escaped(&deployment[..WHOLE_NAME_MAX]))
    }
}

/// Replaces `$(name)`. Fails with the name of one that is not known.
fn fill<'a>(template: &'a str, known: &[(&str, &str)]) -> Result<String, &'a str> {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("$(") {
        let Some((name, after)) = after.split_once(')') else { break };
        let value = known.iter().find(|(known, _)| *known == name).ok_or(name)?;
        filled.push_str(before);
        filled.push_str(value.1);
        rest = after;
    }
    Ok(filled + rest)
}

/// A text as PromQL writes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(metrics: serde_json::Value, source: serde_json::Value) -> Result<String, Outage> {
        let metrics = serde_json::from_value(metrics).unwrap();
        query(&metrics, &serde_json::from_value(source).unwrap(), "shop", "posts")
    }

    #[test]
    fn the_query_of_its_own_asks_for_the_resources_pods_and_nobody_elses() {
        let query =
            asked(serde_json::json!({ "labels": { "handler": "/a\"} or up{\\" } }), serde_json::json!({}))
                .unwrap();
        let ours = r#"namespace="shop",pod=~"posts-[a-z0-9]+-[a-z0-9]+""#;
        assert_eq!(query.matches(ours).count(), 4, "{query}");
        // What is written as a value stays one.
        assert_eq!(query.matches(r#",handler="/a\"} or up{\\""#).count(), 3, "{query}");
    }

    #[test]
    fn a_query_of_the_resources_own_is_filled_in() {
        let source = |query: &str| serde_json::json!({ "query": query, "timestampQuery": "job:scraped_at{ns=\"$(namespace)\"}" });
        let query = asked(
            serde_json::json!({}),
            source(r#"job:$(histogram):sum{ns="$(namespace)",app="$(name)",pod=~"$(pods)",x=~"a$"}"#),
        );
        assert_eq!(
            query.unwrap(),
            r#"(job:http_request_duration_seconds:sum{ns="shop",app="posts",pod=~"posts-[a-z0-9]+-[a-z0-9]+",x=~"a$"}) or "#.to_owned()
                + r#"label_replace((job:scraped_at{ns="shop"}), "plimsoll", "scraped_at", "", "")"#
        );
        let outage = asked(serde_json::json!({}), source("a{b=\"$(window)\"}")).unwrap_err();
        assert!(
            outage.message.contains("has $(window), which is not there; write $(namespace)"),
            "{}",
            outage.message
        );
    }

    #[test]
    fn pods_of_a_long_name_are_found_by_what_kubernetes_leaves_of_it() {
        assert_eq!(pods_pattern("a.b"), "a[.]b-[a-z0-9]+-[a-z0-9]+");
        assert_eq!(pods_pattern(&"x".repeat(60)), format!("{}.*", "x".repeat(46)));
    }
}
