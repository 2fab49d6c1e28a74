//! docs/scaling.md names what the code has, and nothing else.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;

use common::{World, app};
use plimsoll_core::engine::Rule;
use plimsoll_core::plan::Reason;
use serde_json::{Value, json};

const DOC: &str = include_str!("../../../docs/scaling.md");

/// The first cells of the table under a heading, without their backticks.
fn first_cells(heading: &str) -> BTreeSet<String> {
    let section = DOC.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    names.map(|name| name.trim().trim_matches('`').to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_reason_is_described() {
    let reasons = Reason::ALL.map(|reason| reason.as_str().to_owned());
    assert_eq!(first_cells("Reasons"), BTreeSet::from(reasons));
}

#[test]
fn every_rule_of_the_record_is_described() {
    let row = DOC.lines().find(|line| line.starts_with("| `rule` |")).unwrap();
    let described = row.split('`').skip(3).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rules = Rule::ALL.map(|rule| serde_json::to_value(rule).unwrap().as_str().unwrap().to_owned());
    assert_eq!(described, BTreeSet::from(rules));
}

#[test]
fn every_field_of_the_record_is_described() {
    let mut world = World::new(app(&json!({})), 1);
    world.decide(None);
    for _ in 0..20 {
        world.round(30.0);
    }
    let record = serde_json::to_value(&world.history.last().unwrap().decision).unwrap();
    assert_eq!(first_cells("The record"), keys(&record["engine"]));
    let nested = ["inputs", "outlook", "capacity"].map(|field| keys(&record["engine"][field]));
    let others = keys(&record).into_iter().filter(|key| key != "engine");
    let counterfactual = keys(&record["engine"]["counterfactuals"][0]);
    for name in nested.into_iter().flatten().chain(others).chain(counterfactual) {
        assert!(DOC.contains(&format!("`{name}`")), "{name} is not described");
    }
}
