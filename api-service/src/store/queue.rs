//! The queue for a pool's connections: how many calls may stand in it, and for how long. Knows no database.
//!
//! A call whose turn comes late in a queue that stands is refused ([`crate::overload`]), so that its connection goes on to a
//! younger one and what is served is still of use. The last in the queue is served however long it waited: refusing it would
//! leave a connection idle, and so cost goodput for nothing.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{StoreError, metrics::PoolMetrics};
use crate::overload::{Gate, Patience};

/// How long a call waits for a connection before it is refused, whether the queue stands or not.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

/// What a store may use of its database, and how calls wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at once.
    pub connections: NonZero<usize>,
    /// The most calls that wait for one of them, in each pool; more are refused at once.
    pub waiting: NonZero<usize>,
    /// How long a call may wait while the queue stands.
    pub patience: Patience,
}

/// Calls that wait for a connection of one pool.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    waiting_max: usize,
    gate: Gate,
    metrics: PoolMetrics,
}

impl Queue {
    /// An empty one, whose waits are told to `metrics`.
    pub(super) fn new(limits: &Limits, metrics: PoolMetrics) -> Self {
        let (waiting, gate) = (AtomicUsize::new(0), Gate::new(limits.patience));
        Self { waiting, waiting_max: limits.waiting.get(), gate, metrics }
    }

    /// Calls in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What `connection` gives, which waits for its turn and for [`WAIT_MAX`] at most. Dropped when it is not to be used.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] at once; [`StoreError::QueueAge`] when its turn came too late; those of `connection`.
    pub(super) async fn pass<T>(
        &self,
        connection: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let place = Place::take(self)?;
        let start = Instant::now();
        let connection = connection.await;
        drop(place);
        self.metrics.waited(start, !matches!(connection, Err(StoreError::QueueAge)));
        let now = Instant::now();
        let age = now.saturating_duration_since(start);
        let admitted = if self.waiting() == 0 { self.gate.admit_last() } else { self.gate.admit(now, age) };
        match connection {
            Ok(_) if !admitted => Err(StoreError::QueueAge),
            connection => connection,
        }
    }
}

/// A call's place in the queue, given up with this value also when nobody waits for the call any more.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queue: &'a Queue) -> Result<Self, StoreError> {
        let place = Self(&queue.waiting);
        if queue.waiting.fetch_add(1, Ordering::Relaxed) >= queue.waiting_max {
            return Err(StoreError::QueueFull);
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::store::StoreMetrics;

    fn queue(waiting: usize, patience: Patience) -> Queue {
        let (connections, waiting) = (NonZero::<usize>::MIN, NonZero::new(waiting).unwrap());
        let metrics = StoreMetrics::new().unwrap();
        Queue::new(&Limits { connections, waiting, patience }, metrics.pool("tested"))
    }

    /// Any wait is too long, and has been for long enough at once.
    const IMPATIENT: Patience = Patience { target: Duration::ZERO, interval: Duration::ZERO };

    #[tokio::test]
    async fn more_than_may_wait_are_refused_at_once() {
        let queue = queue(2, Patience::endless());
        let connections = Semaphore::new(0);
        let call = || queue.pass(async { Ok(connections.acquire().await.unwrap()) });
        let (mut first, mut second) = (Box::pin(call()), Box::pin(call()));
        assert!(futures::poll!(first.as_mut()).is_pending() && futures::poll!(second.as_mut()).is_pending());
        assert!(matches!(call().await, Err(StoreError::QueueFull)));
        assert_eq!(queue.waiting(), 2, "who is refused takes no place");
        // A caller that leaves gives its place up.
        drop(second);
        assert_eq!(queue.waiting(), 1);
        connections.add_permits(1);
        assert!(first.await.is_ok());
        assert!(call().await.is_ok());
    }

    #[tokio::test]
    async fn in_a_queue_that_stands_the_last_one_is_served() {
        let queue = queue(3, IMPATIENT);
        let connections = Semaphore::new(0);
        let call = || queue.pass(async { Ok(connections.acquire().await.unwrap()) });
        let calls = [call(), call(), call()];
        let calls = futures::future::join_all(calls);
        tokio::pin!(calls);
        assert!(futures::poll!(calls.as_mut()).is_pending());
        // One connection: whoever is refused hands it on.
        connections.add_permits(1);
        let served: Vec<_> = calls.await.iter().map(Result::is_ok).collect();
        assert_eq!(served, [false, false, true]);
    }
}
