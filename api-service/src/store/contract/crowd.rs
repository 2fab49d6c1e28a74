//! More calls than the connections can carry: as many are served as without the rest, and soon. Fewer: none is refused.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::{overload::Patience, store::StoreError};

/// How long calls may wait here.
pub const PATIENCE: Patience =
    Patience { target: Duration::from_millis(50), interval: Duration::from_millis(200) };

/// How long a call takes once it has its connection: its work is to wait, so that a busy machine changes little.
pub const WORK: Duration = Duration::from_millis(20);

/// What became of some calls.
struct Crowd {
    /// Of those that were served, sorted.
    latencies: Vec<Duration>,
    refused: usize,
}

/// Sends `rate` calls a second for `lasting`, whatever becomes of those before, `at_once` together.
async fn crowd<F>(rate: f64, lasting: Duration, at_once: u32, call: impl Fn() -> F) -> Crowd
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let mut calls = Vec::new();
    let mut every = tokio::time::interval(Duration::from_secs_f64(f64::from(at_once) / rate));
    let end = Instant::now() + lasting;
    while Instant::now() < end {
        every.tick().await;
        calls.extend((0..at_once).map(|_| {
            let (start, call) = (Instant::now(), call());
            tokio::spawn(async move {
                let outcome = call.await;
                (start.elapsed(), outcome)
            })
        }));
    }
    let mut crowd = Crowd { latencies: Vec::new(), refused: 0 };
    for outcome in join_all(calls).await {
        match outcome.unwrap() {
            (latency, Ok(())) => crowd.latencies.push(latency),
            (_, Err(StoreError::QueueAge)) => crowd.refused += 1,
            (_, Err(error)) => panic!("{error:?}"),
        }
    }
    crowd.latencies.sort();
    crowd
}

/// Holds calls of [`WORK`] each over two connections, with [`PATIENCE`], to what this file promises.
pub async fn two_connections_keep_their_goodput<F>(call: impl Fn() -> F)
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    // What two callers get done who each wait for their answer: the capacity.
    let start = Instant::now();
    let done = join_all([&call, &call].map(async |call| {
        let mut done = 0_u32;
        while start.elapsed() < Duration::from_secs(1) {
            call().await.unwrap();
            done += 1;
        }
        done
    }));
    let capacity = f64::from(done.await.iter().sum::<u32>()) / start.elapsed().as_secs_f64();

    // In bursts whose last waits for longer than the target: a queue that empties does not stand.
    let below = crowd(0.7 * capacity, Duration::from_secs(2), 8, &call).await;
    assert_eq!(below.refused, 0, "of {} below the capacity", below.latencies.len());

    let lasting = Duration::from_secs(3);
    let above = crowd(2.0 * capacity, lasting, 1, &call).await;
    let goodput = above.latencies.len() as f64 / lasting.as_secs_f64();
    let p90 = above.latencies[above.latencies.len() * 9 / 10];
    println!(
        "capacity {capacity:.0}/s; at twice that: {goodput:.0}/s served, {} refused, p90 of the served {p90:?}",
        above.refused
    );
    assert!(goodput >= 0.85 * capacity, "{goodput} of {capacity} calls a second");
    assert!(above.refused > 0);
    // Until the queue has stood for the interval, it grows.
    assert!(p90 <= PATIENCE.target + 5 * WORK, "{p90:?}");
}
