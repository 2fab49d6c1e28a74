//! Several processes on the same Leases: balance, handover, death, and another number of shards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use plimsoll_operator::leader::{Elector, LEASE_DURATION, Led};
use plimsoll_operator::lease::Layout;
use plimsoll_operator::metrics::Metrics;
use plimsoll_operator::shards::Shards;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::server::{Fault, Server, until};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/plimsoll-system/leases";

struct Process {
    shards: Shards,
    led: watch::Receiver<Led>,
    metrics: Metrics,
    elector: std::sync::Arc<Elector>,
    stop: CancellationToken,
    running: JoinHandle<bool>,
}

impl Process {
    fn start(server: &Server, identity: &str, count: u16) -> Self {
        let shards = Shards::new(count);
        let metrics = Metrics::new().unwrap();
        let (sender, led) = watch::channel(Led::new());
        let api: Api<Lease> = Api::namespaced(server.client(), "plimsoll-system");
        let elector = std::sync::Arc::new(Elector {
            api,
            layout: Layout { base: "plimsoll-operator".into(), count },
            identity: identity.into(),
            shards: shards.clone(),
            led: sender,
            metrics: metrics.fleet.clone(),
        });
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (elector, stop) = (elector.clone(), stop.clone());
            async move { elector.run(&CancellationToken::new(), &stop).await }
        });
        Self { shards, led, metrics, elector, stop, running }
    }

    /// Shards whose writes pass now.
    fn open(&self) -> BTreeSet<u16> {
        (0..self.shards.count()).filter(|shard| self.shards.fence(*shard).open(Instant::now())).collect()
    }

    fn led(&self) -> usize {
        self.led.borrow().len()
    }

    /// Ends without a word.
    fn die(&self) {
        self.running.abort();
        for shard in 0..self.shards.count() {
            self.shards.fence(shard).leave();
        }
    }

    async fn end(self) {
        self.stop.cancel();
        assert!(self.running.await.unwrap(), "nothing was lost");
        self.elector.release().await.unwrap();
    }
}

/// Fails as soon as two processes may write objects of the same shard. Looks until `fact`.
async fn apart_until(processes: &[&Process], limit: Duration, what: &str, fact: impl Fn() -> bool) {
    until(limit, what, || {
        let mut open = BTreeSet::new();
        for process in processes {
            for shard in process.open() {
                assert!(open.insert(shard), "shard {shard} is open twice");
            }
        }
        fact()
    })
    .await;
}

#[tokio::test]
async fn shards_are_shared_evenly_and_never_by_two() {
    let server = Server::new();
    let a = Process::start(&server, "a", 5);
    until(Duration::from_secs(5), "the first leads all", || a.led() == 5).await;
    let b = Process::start(&server, "b", 5);
    let even = || {
        let mut counts = [a.led(), b.led()];
        counts.sort_unstable();
        counts == [2, 3]
    };
    apart_until(&[&a, &b], Duration::from_secs(30), "the second has its half", even).await;
    let text = String::from_utf8(b.metrics.render().unwrap()).unwrap();
    let leads =
        text.lines().filter(|line| line.starts_with("plimsoll_operator_leader{") && line.ends_with(" 1"));
    assert_eq!(leads.count(), b.led(), "{text}");

    // One that ends gives all up at once.
    let began = Instant::now();
    a.end().await;
    apart_until(&[&b], Duration::from_secs(10), "the other leads all", || b.led() == 5).await;
    assert!(began.elapsed() < LEASE_DURATION, "nobody waits for a Lease that was released");
    b.end().await;
}

#[tokio::test]
async fn the_shards_of_a_dead_process_move_once_its_leases_have_run_out() {
    let server = Server::new();
    let a = Process::start(&server, "a", 3);
    until(Duration::from_secs(5), "the first leads all", || a.led() == 3).await;
    let b = Process::start(&server, "b", 3);
    apart_until(&[&a, &b], Duration::from_secs(20), "both lead", || a.led() == 2 && b.led() == 1).await;
    a.die();
    let began = Instant::now();
    until(LEASE_DURATION + Duration::from_secs(6), "the other leads all", || b.led() == 3).await;
    assert!(began.elapsed() + Duration::from_secs(3) > LEASE_DURATION, "a Lease holds for its time");
    b.end().await;
}

#[tokio::test]
async fn another_number_of_shards_waits_until_the_last_of_the_old_has_ended() {
    let server = Server::new();
    let old = Process::start(&server, "old", 2);
    until(Duration::from_secs(5), "the old one leads", || old.led() == 2).await;
    let new = Process::start(&server, "new", 4);
    let since = Instant::now();
    // Both divide the objects otherwise, so any shard of the new one would overlap with one of the old.
    let quiet = || {
        assert_eq!(new.open().len(), 0);
        since.elapsed() > Duration::from_secs(5)
    };
    until(Duration::from_secs(10), "some time has passed", quiet).await;
    old.end().await;
    until(Duration::from_secs(10), "the new one leads", || new.led() == 4).await;
    new.end().await;
}

#[tokio::test]
async fn two_numbers_of_shards_that_begin_at_once_are_never_at_work_together() {
    let server = Server::new();
    let (two, three) = (Process::start(&server, "two", 2), Process::start(&server, "three", 3));
    let since = Instant::now();
    until(Duration::from_secs(30), "some time has passed", || {
        assert!(two.open().is_empty() || three.open().is_empty(), "both are at work");
        since.elapsed() > Duration::from_secs(8)
    })
    .await;
    two.die();
    three.die();
}

#[tokio::test]
async fn a_shard_is_given_up_only_once_its_writes_have_ended() {
    let server = Server::new();
    let a = Process::start(&server, "a", 2);
    until(Duration::from_secs(5), "the first leads all", || a.led() == 2).await;
    let passes: Vec<_> = (0..2).map(|shard| a.shards.fence(shard).pass(Instant::now()).unwrap()).collect();
    let b = Process::start(&server, "b", 2);
    until(Duration::from_secs(10), "one is to be given up", || a.led() == 1).await;
    let since = Instant::now();
    until(Duration::from_secs(5), "some time has passed", || {
        assert_eq!(b.open().len(), 0, "a write of the other is still under way");
        since.elapsed() > Duration::from_secs(2)
    })
    .await;
    drop(passes);
    until(Duration::from_secs(10), "the other has it", || b.led() == 1).await;
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_closes_its_fence_and_ends() {
    let server = Server::new();
    let a = Process::start(&server, "a", 1);
    until(Duration::from_secs(5), "it leads", || a.led() == 1).await;
    server.fault(&format!("GET {LEASES}"), Fault::Hang);
    let began = Instant::now();
    let held =
        tokio::time::timeout(LEASE_DURATION + Duration::from_secs(3), a.running).await.unwrap().unwrap();
    assert!(!held, "the process has to end");
    assert!(!a.shards.fence(0).open(Instant::now()));
    assert!(began.elapsed() < LEASE_DURATION + Duration::from_secs(2));
}

#[tokio::test]
async fn a_lease_that_another_has_taken_ends_the_leader() {
    let server = Server::new();
    let a = Process::start(&server, "a", 2);
    until(Duration::from_secs(5), "it leads", || a.led() == 2).await;
    let path = format!("{LEASES}/plimsoll-operator-shard-1");
    let mut lease = server.get(&path).unwrap();
    lease["spec"]["holderIdentity"] = "thief".into();
    server.put(&path, lease);
    let held = tokio::time::timeout(Duration::from_secs(6), a.running).await.unwrap().unwrap();
    assert!(!held);
    assert!(!a.shards.fence(1).open(Instant::now()));
}
