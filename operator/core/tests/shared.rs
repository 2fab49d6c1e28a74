//! What replicas share: the cache, its size and its status, and the connections to the database.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{app, input, live, start};
use jiff::{SignedDuration, Timestamp};
use plimsoll_core::cache::{CacheReading, CacheWatch, Silence, SilenceCause, container_bytes};
use plimsoll_core::engine::{Pod, Sample};
use plimsoll_core::histogram::Snapshot;
use plimsoll_core::input::{CacheSecret, Child, Observed, Scrape};
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::{ChildKind, Plan, Reason, Step};
use plimsoll_core::shared::Shared;
use plimsoll_core::status::{Outcome, next, worth_writing};
use plimsoll_core::{build, decide};
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus};
use serde_json::{Value, json};

const INFO: &str = "# Memory\r\nused_memory:50331000\r\nused_memory_human:48.00M\r\nused_memory_startup:1000000\r\n\
    maxmemory:50331600\r\n# Stats\r\nevicted_keys:12000\r\nkeyspace_hits:400\r\nkeyspace_misses:600\r\n\
    # Keyspace\r\ndb0:keys=10000,expires=10000,avg_ttl=30000,subexpiry=0\r\n";

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

/// A cache of 64Mi, so many seconds after the start.
fn reading(seconds: i64, evicted: u64, memory_mebibytes: u64) -> CacheReading {
    CacheReading {
        at: after(seconds),
        hits: 0,
        misses: 0,
        evicted,
        memory_bytes: memory_mebibytes << 20,
        startup_bytes: 1 << 20,
        memory_max_bytes: 48 << 20,
        keys: 47_000,
        expiring: 47_000,
        ttl_ms_mean: 30_000,
    }
}

fn pod(uid: &str, shared: Shared) -> Pod {
    let mut snapshot = Snapshot::new(vec![(0.1, 10.0), (f64::INFINITY, 10.0)], Some(0.0), None).unwrap();
    snapshot.shared = shared;
    let sample = Some(Sample { at: start(), reading: Ok(snapshot), cpu: None });
    Pod { uid: uid.into(), template: String::new(), created_at: start(), ready_at: Some(start()), sample }
}

/// One replica that has counted so many look-ups.
fn counted(hits: f64, misses: f64) -> Scrape {
    let shared = Shared { cache_hits: Some(hits), cache_misses: Some(misses), ..Shared::default() };
    Scrape { pods: vec![pod("a", shared)], ..Scrape::default() }
}

/// A cache of which half a minute is known: it found `hits` of 1000 and evicted so many keys.
fn watched(hits: f64, evicted: u64, memory_mebibytes: u64) -> CacheWatch {
    let mut watch = CacheWatch::default();
    watch.keep(Some(&counted(0.0, 0.0)), Some(&reading(0, 0, memory_mebibytes)));
    watch.keep(Some(&counted(hits, 1000.0 - hits)), Some(&reading(30, evicted, memory_mebibytes)));
    watch
}

#[test]
fn the_answer_of_redis_is_read() {
    let reading = CacheReading::parse(start(), INFO).unwrap();
    assert_eq!((reading.hits, reading.misses, reading.evicted), (400, 600, 12_000));
    assert_eq!(
        (reading.memory_bytes, reading.memory_max_bytes, reading.startup_bytes),
        (50_331_000, 50_331_600, 1_000_000)
    );
    assert_eq!((reading.keys, reading.expiring, reading.ttl_ms_mean), (10_000, 10_000, 30_000));
    assert_eq!(CacheReading::parse(start(), "<html>"), None);
}

#[test]
fn a_full_cache_that_evicts_and_finds_little_is_too_small() {
    let too_small = |watch: CacheWatch| watch.effect(after(31)).unwrap().too_small;
    assert!(too_small(watched(400.0, 30_000, 48)));
    assert!(!too_small(watched(900.0, 30_000, 48)), "it finds what is read, whatever goes");
    assert!(!too_small(watched(400.0, 0, 48)), "nothing goes: the misses have another reason");
    assert!(!too_small(watched(400.0, 30_000, 30)), "it is not full");
}

#[test]
fn what_would_be_enough_is_all_that_was_evicted_within_a_life() {
    // 1000 keys/s of 1 KiB, which live 60 s, beside the 47 MiB that are there.
    let effect = watched(400.0, 30_000, 48).effect(after(31)).unwrap();
    assert_eq!(effect.evictions_per_second, Some(1000.0));
    assert_eq!(effect.enough_bytes.map(|keys| container_bytes(keys, false)), Some(192 << 20));
    assert_eq!(effect.enough_bytes.map(|keys| container_bytes(keys, true)), Some(256 << 20));
    let mut watch = CacheWatch::default();
    for at in [0, 30] {
        watch.keep(None, Some(&CacheReading { expiring: 10, ..reading(at, 1000 * at.unsigned_abs(), 48) }));
    }
    assert_eq!(
        watch.effect(after(31)).unwrap().enough_bytes,
        None,
        "keys that never expire are wanted for ever"
    );
}

#[test]
fn it_stays_too_small_until_it_is_clearly_not() {
    let mut watch = watched(400.0, 30_000, 48);
    // 85 % of the next look-ups find something: no more than half way.
    watch.keep(Some(&counted(400.0 + 8500.0, 600.0 + 1500.0)), Some(&reading(60, 40_000, 48)));
    assert!(watch.effect(after(61)).unwrap().too_small);
    watch.keep(Some(&counted(8900.0 + 95_000.0, 2100.0 + 2000.0)), Some(&reading(90, 50_000, 48)));
    assert!(!watch.effect(after(91)).unwrap().too_small);
}

#[test]
fn a_restart_of_the_cache_or_of_a_replica_begins_anew() {
    let mut watch = watched(400.0, 30_000, 48);
    watch.keep(Some(&counted(1.0, 0.0)), Some(&reading(60, 5, 2)));
    let effect = watch.effect(after(61)).unwrap();
    assert_eq!((effect.evictions_per_second, effect.hit_ratio, effect.too_small), (None, None, false));
}

#[test]
fn without_the_replicas_counts_those_of_the_cache_are_used() {
    let mut watch = CacheWatch::default();
    watch.keep(None, Some(&reading(0, 0, 10)));
    watch.keep(None, Some(&CacheReading { hits: 75, misses: 25, ..reading(30, 0, 10) }));
    assert_eq!(watch.effect(after(31)).unwrap().hit_ratio, Some(0.75));
}

#[test]
fn a_cache_that_says_nothing_for_long_is_told_of_no_more() {
    assert!(watched(900.0, 0, 10).effect(after(149)).is_some());
    assert!(watched(900.0, 0, 10).effect(after(151)).is_none());
}

/// The resource with a managed cache of 64Mi and everything in place.
fn with_cache() -> (ApiDeployment, Observed) {
    let app = app(&json!({ "cache": { "managed": { "memory": "64Mi" } } }));
    let observed = Observed { deployment: Child::Owned(Box::new(live(&app, 2, 2))), ..Observed::default() };
    (app, observed)
}

/// Decides once for each of the readings, the memory going from one to the next.
fn decided(app: &ApiDeployment, observed: &Observed, rounds: &[(i64, Scrape, Option<CacheReading>)]) -> Plan {
    let mut memory = Memory::default();
    let mut plan = None;
    for (at, scrape, cache) in rounds {
        let mut input = input(app.clone(), observed.clone(), memory, after(*at));
        input.scrape = Some(scrape.clone());
        input.cache = *cache;
        let decided = decide(&input);
        memory = decided.memory.clone();
        plan = Some(decided);
    }
    plan.unwrap()
}

fn status_of(app: &ApiDeployment, plan: &Plan) -> ApiDeploymentStatus {
    next(app, Outcome::Planned { findings: &plan.findings, decision: &plan.decision }, plan.decision.time)
}

fn condition(status: &ApiDeploymentStatus, type_: &str) -> Option<String> {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(format!("{} {}: {}", found.status, found.reason, found.message))
}

#[test]
fn a_cache_that_is_too_small_is_named_with_the_size_that_helps() {
    let (app, observed) = with_cache();
    let rounds = [
        (0, counted(0.0, 0.0), Some(reading(0, 0, 48))),
        (30, counted(400.0, 600.0), Some(reading(30, 30_000, 48))),
    ];
    let status = status_of(&app, &decided(&app, &observed, &rounds));
    let cache = status.cache.as_ref().unwrap();
    assert_eq!(cache.hit_ratio_percent, Some(40));
    assert_eq!(cache.evictions_per_second.as_deref(), Some("1000"));
    assert_eq!((cache.memory_used.as_deref(), cache.memory_limit.as_deref()), (Some("48Mi"), Some("48Mi")));
    assert_eq!(
        condition(&status, "CacheEffective").as_deref(),
        Some(
            "False CacheTooSmall: the cache is too small: only 40 % of look-ups find something, and it evicts 1000 keys/s; \
             raise spec.cache.managed.memory from 64Mi to 192Mi"
        )
    );
}

#[test]
fn noise_of_the_cache_is_no_news() {
    let (mut app, observed) = with_cache();
    let first = [
        (0, counted(0.0, 0.0), Some(reading(0, 0, 40))),
        (30, counted(900.0, 100.0), Some(reading(30, 330, 40))),
    ];
    let stored = status_of(&app, &decided(&app, &observed, &first));
    assert_eq!(
        condition(&stored, "CacheEffective").unwrap(),
        "True CacheHolds: the managed cache holds what is read"
    );
    app.status = Some(stored.clone());
    let noise = [
        (0, counted(0.0, 0.0), Some(reading(0, 0, 42))),
        (30, counted(885.0, 115.0), Some(reading(30, 300, 42))),
    ];
    let unmoved = status_of(&app, &decided(&app, &observed, &noise));
    assert_eq!(unmoved.cache, stored.cache);
    let news = [
        (0, counted(0.0, 0.0), Some(reading(0, 0, 20))),
        (30, counted(700.0, 300.0), Some(reading(30, 0, 20))),
    ];
    let new = status_of(&app, &decided(&app, &observed, &news));
    assert_ne!(new.cache, stored.cache);
    assert!(!worth_writing(Some(&stored), &new, Some(after(0)), after(5)), "it can wait");
    assert!(worth_writing(Some(&stored), &new, Some(after(0)), after(20)));
}

/// The condition of a cache that has been asked in vain for so long, while so many of its servers are ready.
fn after_silence(seconds: i64, ready: i32, cause: SilenceCause) -> Option<String> {
    let (app, mut observed) = with_cache();
    observed.cache_deployment = Child::Owned(Box::new(live(&app, 1, ready)));
    let mut input = input(app.clone(), observed, Memory::default(), after(seconds));
    input.cache_silence = Some(Silence { since: after(0), cause });
    let plan = decide(&input);
    condition(&status_of(&app, &plan), "CacheEffective")
}

#[test]
fn a_cache_that_is_ready_and_says_nothing_for_two_minutes_is_named_with_what_to_do() {
    for (cause, said) in [
        (
            SilenceCause::Unreachable,
            "it cannot be reached; check that the operator's namespace may reach posts-cache: ",
        ),
        (
            SilenceCause::Unauthorized,
            "it does not take the operator's password; delete the Secret posts-cache ",
        ),
        (
            SilenceCause::Unreadable,
            "its answer to INFO is not one of Redis; check that spec.cache.managed.image ",
        ),
    ] {
        let found = after_silence(120, 1, cause).unwrap();
        let expected = format!(
            "Unknown CacheSilent: the managed cache is ready, but does not tell the operator how it fares: {said}"
        );
        assert!(found.starts_with(&expected), "{found}");
        assert_eq!(
            after_silence(7200, 1, cause).unwrap(),
            found,
            "it stays the same, so that nothing is written"
        );
    }
    assert_eq!(after_silence(119, 1, SilenceCause::Unreachable), None, "a restart");
    assert_eq!(after_silence(300, 0, SilenceCause::Unreachable), None, "CacheReady says it");
}

fn told(connections: f64) -> Scrape {
    let shared = Shared { database_connections_max: Some(connections), ..Shared::default() };
    Scrape { pods: vec![pod("a", shared), pod("b", Shared::default())], ..Scrape::default() }
}

fn with_connections(per_replica: i32) -> (ApiDeployment, Observed) {
    let reference = json!({ "secretKeyRef": { "name": "db", "key": "url" } });
    let app = app(
        &json!({ "database": { "external": { "urlFrom": reference, "connectionsPerReplica": per_replica } } }),
    );
    let observed = Observed { deployment: Child::Owned(Box::new(live(&app, 2, 2))), ..Observed::default() };
    (app, observed)
}

#[test]
fn connections_that_do_not_fit_are_told_before_scaling_meets_them() {
    let (app, observed) = with_connections(10);
    let status = status_of(&app, &decided(&app, &observed, &[(0, told(97.0), None)]));
    let said = condition(&status, "DatabaseConnectionsSufficient").unwrap();
    assert!(said.starts_with("False TooManyConnections: 20 replicas x 10 connections = 200 > 97"), "{said}");
    let (app, observed) = with_connections(3);
    let status = status_of(&app, &decided(&app, &observed, &[(0, told(97.0), None)]));
    let said = condition(&status, "DatabaseConnectionsSufficient").unwrap();
    assert!(said.starts_with("True ConnectionsFit: 20 replicas x 3 connections = 60"), "{said}");
    let unknown = decided(&app, &observed, &[(0, counted(0.0, 0.0), None)]);
    assert_eq!(condition(&status_of(&app, &unknown), "DatabaseConnectionsSufficient"), None);
}

#[test]
fn the_load_gets_as_many_replicas_as_the_database_has_connections_for() {
    let (app, _) = with_connections(20);
    let mut world = common::World::new(app, 7);
    world.shared.database_connections_max = Some(97.0);
    for _ in 0..120 {
        world.round(600.0);
    }
    assert_eq!(world.replicas(), 4, "97 connections are enough for four times 20");
    let plan = world.history.last().unwrap();
    assert_eq!(plan.decision.reason, Reason::DatabaseConnections, "{}", plan.decision.message);
    let status = status_of(&world.app, plan);
    let said = condition(&status, "ScalingLimited").unwrap();
    assert!(
        said.starts_with(
            "True DatabaseConnections: the load needs more replicas: the database server takes 97"
        ),
        "{said}"
    );
}

#[test]
fn more_replicas_beside_a_cache_that_is_too_small_say_so() {
    let (app, _) = with_cache();
    let mut world = common::World::new(app, 7);
    for round in 0..120 {
        world.cache = Some(reading(5 * round, 10_000 * round.unsigned_abs(), 48));
        let (hits, misses) = (400.0 * round as f64, 600.0 * round as f64);
        world.shared = Shared { cache_hits: Some(hits), cache_misses: Some(misses), ..Shared::default() };
        world.round(if round < 40 { 20.0 } else { 300.0 });
    }
    let up = world.history.iter().skip(40).find(|plan| plan.decision.to > plan.decision.from).unwrap();
    assert!(
        up.decision.message.contains("the cache is too small, see the condition CacheEffective"),
        "{}",
        up.decision.message
    );
}

#[test]
fn the_api_is_told_how_many_connections_it_may_open() {
    let (app, _) = with_connections(7);
    let deployment = serde_json::to_value(build::deployment(&app, &common::settings(), "r1")).unwrap();
    let variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(variables.contains(r#"{"name":"PLIMSOLL_DATABASE_CONNECTIONS","value":"7"}"#), "{variables}");
}

#[test]
fn a_cache_that_gets_more_servers_is_made_anew_and_then_nothing_is_left_to_do() {
    let managed = |replicas: i32| app(&json!({ "cache": { "managed": { "replicas": replicas } } }));
    let (mut observed, mut memory) = (Observed::default(), Memory::default());
    let mut kinds = Vec::new();
    for replicas in [1, 1, 3, 3, 1, 1] {
        let plan = decide(&input(managed(replicas), observed.clone(), memory, start()));
        memory = common::carry_out(&plan, &mut observed);
        kinds.push(plan.steps.iter().map(|step| format!("{:?}", step.kind())).collect::<Vec<_>>().join(" "));
    }
    let several = "CacheNodes CacheStatefulSet CacheDisruptionBudget Deployment CacheDeployment";
    let one = "CacheDeployment CacheDisruptionBudget Deployment CacheStatefulSet CacheNodes";
    assert_eq!(kinds[1..], ["", several, "", one, ""], "{kinds:?}");
}

#[test]
fn servers_that_would_not_understand_each_other_are_not_rolled_one_after_another() {
    let managed = |tls: Value| app(&json!({ "cache": { "managed": { "replicas": 3, "tls": tls } } }));
    let (mut observed, mut memory) = (Observed::default(), Memory::default());
    let mut kinds = Vec::new();
    for (revision, tls) in [
        ("r1", json!(null)),
        ("r1", json!(null)),
        ("r2", json!(null)),
        ("r2", json!(null)),
        ("r2", json!({})),
        ("r2", json!({})),
    ] {
        if observed.cache_secret.owned().is_some() {
            observed.cache_secret = Child::Owned(Box::new(CacheSecret { revision: revision.into() }));
        }
        let plan = decide(&input(managed(tls), observed.clone(), memory, start()));
        memory = common::carry_out(&plan, &mut observed);
        let of_the_set = |step: &&Step| step.kind() == ChildKind::CacheStatefulSet;
        let said = |step: &Step| if matches!(step, Step::Delete { .. }) { "delete" } else { "apply" };
        kinds.push(plan.steps.iter().filter(of_the_set).map(said).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(kinds, ["apply", "", "delete", "apply", "delete", "apply"]);
}

#[test]
fn a_secret_of_an_older_release_leaves_the_cache_alone_and_says_what_to_do() {
    let app = app(&json!({ "cache": { "managed": {} } }));
    let mut observed = Observed::default();
    let memory = common::carry_out(
        &decide(&input(app.clone(), observed.clone(), Memory::default(), start())),
        &mut observed,
    );
    observed.missing_secret_keys = vec![("posts-cache".into(), "users.acl".into())];
    observed.cache_deployment = Child::Absent;
    let plan = decide(&input(app.clone(), observed, memory, start()));
    assert!(!plan.steps.iter().any(|step| step.kind() == ChildKind::CacheDeployment), "{:?}", plan.steps);
    let outcome = Outcome::Planned { findings: &plan.findings, decision: &plan.decision };
    let status = next(&app, outcome, start());
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "SecretNotFound"));
    assert!(stalled.message.contains("delete it, and it is made again"), "{}", stalled.message);
}
