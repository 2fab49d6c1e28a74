//! Watches through a server that freezes: what is heard, and what is not.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube_runtime::watcher;
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::watches::{SILENT_MAX, Stuck, Watches};
use serde_json::json;

use crate::server::{Fault, Server, until};

const SERVICE: &str = "/api/v1/namespaces/shop/services/posts";

fn service() -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "posts", "namespace": "shop" } })
}

fn watches(server: &Server) -> Watches {
    Watches {
        client: server.client(),
        namespace: None,
        selector: None,
        health: std::sync::Arc::default(),
        metrics: Metrics::new().unwrap(),
    }
}

/// Age of the only watch.
fn age(watches: &Watches) -> Duration {
    watches.health.ages(Instant::now())[0].1
}

#[tokio::test]
async fn an_event_is_heard_and_a_frozen_server_is_not() {
    let server = Server::new();
    let watches = watches(&server);
    let (store, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    until(Duration::from_secs(5), "it has listed", || server.calls().len() >= 2).await;
    until(Duration::from_secs(5), "a while has passed", || age(&watches) > Duration::from_millis(300)).await;
    let before = Instant::now();
    server.put(SERVICE, service());
    until(Duration::from_secs(5), "the event is there", || store.state().len() == 1).await;
    assert!(age(&watches) <= before.elapsed(), "{:?}", age(&watches));
    // From here on the server is frozen: nothing more is said on the watch that is open.
    let now = Instant::now();
    assert_eq!(watches.health.stuck(now + SILENT_MAX / 2), None);
    assert_eq!(watches.health.stuck(now + SILENT_MAX), Some(Stuck::Silent("Service")));
    polled.abort();
}

#[tokio::test]
async fn a_bookmark_is_heard_though_it_is_no_event() {
    let server = Server::new();
    let watches = watches(&server);
    let (_, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    until(Duration::from_secs(5), "it watches", || server.calls().len() >= 2).await;
    until(Duration::from_secs(5), "a while has passed", || age(&watches) > Duration::from_millis(300)).await;
    let before = Instant::now();
    server.bookmark("/api/v1/services", "Service");
    until(Duration::from_secs(5), "it is heard", || age(&watches) <= before.elapsed()).await;
    polled.abort();
}

#[tokio::test]
async fn a_server_that_never_answers_or_refuses_is_not_heard() {
    for fault in [Fault::Hang, Fault::Status(403)] {
        let server = Server::new();
        server.fault("GET /api/v1/services", fault);
        let watches = watches(&server);
        let (_, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
        let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        until(Duration::from_secs(5), "it asks", || !server.calls().is_empty()).await;
        until(Duration::from_secs(3), "nothing was heard", || age(&watches) > Duration::from_millis(500))
            .await;
        polled.abort();
    }
}

#[tokio::test]
async fn one_failing_watch_does_not_hold_up_another() {
    let server = Server::new();
    server.fault("GET /api/v1/pods", Fault::Status(403));
    let watches = watches(&server);
    let (_, failing) =
        watches.of::<k8s_openapi::api::core::v1::Pod>("Pod", watcher::Config::default(), |_| {});
    let (store, good) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = [
        tokio::spawn(failing.for_each(|_| std::future::ready(()))),
        tokio::spawn(good.for_each(|_| std::future::ready(()))),
    ];
    until(Duration::from_secs(5), "one fails", || server.calls().iter().any(|call| call.ends_with("/pods")))
        .await;
    until(Duration::from_secs(5), "the other watches", || {
        server.calls().iter().filter(|call| call.ends_with("/services")).count() >= 2
    })
    .await;
    server.put(SERVICE, service());
    until(Duration::from_secs(1), "its event is there at once", || store.state().len() == 1).await;
    polled.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_refused_list_is_counted_at_once() {
    let server = Server::new();
    server.fault("GET /api/v1/services", Fault::Status(503));
    let watches = watches(&server);
    let (_, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    let counted = || watches.metrics.watch_errors.with_label_values(&["Service"]).get() > 0;
    until(Duration::from_secs(2), "the error is counted", counted).await;
    polled.abort();
}

#[tokio::test]
async fn a_watch_ends_before_load_balancers_drop_it() {
    let server = Server::new();
    let watches = watches(&server);
    let (_, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    until(Duration::from_secs(5), "it watches", || server.calls().len() >= 2).await;
    let query = server.queries("GET /api/v1/services").pop().unwrap();
    let seconds = query.split('&').find_map(|pair| pair.strip_prefix("timeoutSeconds=")).unwrap();
    assert!(seconds.parse::<u32>().unwrap() < 240, "{query}");
    assert!(query.contains("allowWatchBookmarks=true"), "{query}");
    polled.abort();
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::new();
    let watches = watches(&server);
    let (_, stream) = watches.of::<Service>("Service", watcher::Config::default(), |_| {});
    let polled = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    until(Duration::from_secs(5), "it lists", || !server.calls().is_empty()).await;
    assert!(server.queries("GET /api/v1/services")[0].contains("limit=500"));
    polled.abort();
}
