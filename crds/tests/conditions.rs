//! docs/conditions.md tells of every condition and every reason that the code has, and of no other.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use plimsoll_crds::ConditionType;

const PAGE: &str = include_str!("../../docs/conditions.md");
const CODE: &str = include_str!("../src/condition.rs");
/// Of decisions, which have reasons of their own (docs/scaling.md).
const OF_DECISIONS: &str = "MetricsUnavailable";

#[test]
fn every_condition_has_a_section_in_the_order_of_the_status() {
    let sections = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect::<Vec<_>>();
    assert_eq!(sections, ConditionType::ALL.map(ConditionType::as_str));
}

#[test]
fn every_reason_is_told() {
    let names = CODE.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1));
    let mut reasons = names.collect::<BTreeSet<_>>();
    assert!(reasons.len() > 40, "{reasons:?}");
    assert!(reasons.insert(OF_DECISIONS));
    let first_cells = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let told = first_cells.flat_map(|cell| cell.split(", ").map(|reason| reason.trim_matches('`')));
    assert_eq!(told.collect::<BTreeSet<_>>(), reasons);
}
