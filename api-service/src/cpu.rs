//! Runs CPU work on its own threads behind a bounded queue. Never runs it on the event loop, and never lets a queue grow.

use std::{
    hint::black_box,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use crate::{
    arrival,
    overload::{Gate, Patience},
};

/// A job that waited longer than this for a worker shows that the pool is behind.
const BEHIND_AFTER: Duration = Duration::from_millis(100);

/// How long a job that waited too long speaks for those that come after it.
const BEHIND_FOR: Duration = Duration::from_secs(1);

/// Why a job gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// As many jobs as may wait are waiting.
    #[error("the queue for CPU work is full")]
    QueueFull,
    /// The job waited longer than it may and was not run.
    #[error("the job waited too long for a CPU worker")]
    TooOld,
    /// The job panicked; its worker lives on.
    #[error("the job panicked")]
    Panicked,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run one job each at a time. They end when the pool is dropped and the queue is empty.
#[derive(Debug)]
pub struct CpuPool {
    queue: SyncSender<Job>,
    age_max: Duration,
    gate: Arc<Gate>,
    started: Instant,
    /// Milliseconds after `started` until which the pool counts as behind.
    behind_until_ms: Arc<AtomicU64>,
}

impl CpuPool {
    /// Starts `workers` threads; `queue` jobs may wait for them, each for at most `age_max`, and for no longer than
    /// `patience` says while the queue stands.
    pub fn new(
        workers: NonZero<usize>,
        queue: NonZero<usize>,
        age_max: Duration,
        patience: Patience,
    ) -> Self {
        let (sender, receiver) = sync_channel(queue.get());
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..workers.get() {
            let receiver = Arc::clone(&receiver);
            let worker = thread::Builder::new().name(format!("cpu-{number}")).spawn(move || work(&receiver));
            if let Err(error) = worker {
                // Fewer workers are slower, none shed everything; neither is a reason to stop the service.
                tracing::error!(%error, number, "start a CPU worker");
            }
        }
        let gate = Arc::new(Gate::new(patience));
        Self { queue: sender, age_max, gate, started: Instant::now(), behind_until_ms: Arc::default() }
    }

    /// Whether jobs lately, as of `now`, had to wait so long that clients had better try another replica.
    pub fn behind(&self, now: Instant) -> bool {
        millis(now.saturating_duration_since(self.started)) < self.behind_until_ms.load(Ordering::Relaxed)
    }

    /// Runs `job` on a worker and waits for its result.
    ///
    /// When the returned future is dropped, a job that still waits is skipped, and a job that runs finds its
    /// [`Caller`] gone.
    ///
    /// # Errors
    /// [`CpuError::QueueFull`] at once; [`CpuError::TooOld`] when its request had waited for too long, here and before it
    /// was handled, by the time at which a worker reaches the job;
    /// [`CpuError::Panicked`].
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Caller) -> T + Send + 'static,
    ) -> Result<T, CpuError> {
        let (reply, result) = oneshot::channel();
        let gone = Arc::new(AtomicBool::new(false));
        let _leave = LeaveOnDrop(Arc::clone(&gone));
        let queued = Instant::now();
        // What it waited before it was handled counts too, but not what it did in between: a slow database is no queue.
        let waited = arrival::waited();
        let (age_max, gate) = (self.age_max, Arc::clone(&self.gate));
        let (started, behind_until_ms) = (self.started, Arc::clone(&self.behind_until_ms));
        let job = move || {
            let caller = Caller { gone };
            let now = Instant::now();
            let in_queue = now.saturating_duration_since(queued);
            let age = waited.saturating_add(in_queue);
            if in_queue > BEHIND_AFTER {
                behind_until_ms.store(millis(started.elapsed() + BEHIND_FOR), Ordering::Relaxed);
            }
            // Before the check for the caller: that it gave up waiting is a wait like any other.
            let admitted = gate.admit(now, age) && age <= age_max;
            if caller.gone() {
                return;
            }
            let outcome = if admitted { Ok(job(&caller)) } else { Err(CpuError::TooOld) };
            // The caller may leave between the check and here; then nobody wants the outcome.
            let _ = reply.send(outcome);
        };
        self.queue.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => CpuError::QueueFull,
        })?;
        result.await.unwrap_or(Err(CpuError::Panicked))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Who waits for a job.
#[derive(Debug)]
pub struct Caller {
    gone: Arc<AtomicBool>,
}

impl Caller {
    /// True once nobody waits for the job's result; it should end early.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

struct LeaveOnDrop(Arc<AtomicBool>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One worker: takes jobs until the pool is dropped.
fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting: only one idle worker waits on the queue, the others on the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A panic drops the reply's sender, which tells the caller; the panic hook has logged its message.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// Spends `cpu` of this thread's CPU time, or less when `caller` leaves, and says how much it spent.
///
/// CPU time, not wall time: a thread that is throttled or preempted takes longer and spends the same.
pub fn burn(cpu: Duration, caller: &Caller) -> Duration {
    // About 20 µs on a current core: the clock's system call is then under 2 % of the work, and the overshoot small.
    const ROUNDS_BETWEEN_CHECKS: u32 = 20_000;
    let start = thread_cpu_time();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        for _ in 0..ROUNDS_BETWEEN_CHECKS {
            // One step of xorshift: each depends on the one before, so nothing can be folded or run side by side.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        black_box(state);
        let spent = thread_cpu_time().saturating_sub(start);
        if spent >= cpu || caller.gone() {
            return spent;
        }
    }
}

/// CPU time that this thread has spent since it started.
fn thread_cpu_time() -> Duration {
    // It cannot fail: the clock exists on every Linux, and no memory of ours is passed. MAX ends a burn at once.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const ONE: NonZero<usize> = NonZero::<usize>::MIN;

    fn pool(age_max: Duration) -> CpuPool {
        CpuPool::new(ONE, ONE, age_max, Patience::endless())
    }

    /// A job that holds the only worker until the sender is dropped; returns once the worker runs it.
    async fn occupy(
        pool: &Arc<CpuPool>,
    ) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), CpuError>>) {
        let (release, held) = mpsc::channel::<()>();
        let (started, running) = oneshot::channel();
        let pool = Arc::clone(pool);
        let job = tokio::spawn(async move {
            let job = move |_: &Caller| {
                started.send(()).unwrap();
                let _ = held.recv();
            };
            pool.run(job).await
        });
        running.await.unwrap();
        (release, job)
    }

    #[test]
    fn burns_thread_cpu_time() {
        let caller = Caller { gone: Arc::default() };
        let before = thread_cpu_time();
        let spent = burn(Duration::from_millis(5), &caller);
        let measured = thread_cpu_time().saturating_sub(before);
        assert!(spent >= Duration::from_millis(5), "{spent:?}");
        assert!(measured >= spent, "{measured:?} < {spent:?}");
    }

    #[test]
    fn stops_burning_when_the_caller_leaves() {
        let caller = Caller { gone: Arc::new(AtomicBool::new(true)) };
        assert!(burn(Duration::from_hours(1), &caller) < Duration::from_hours(1));
    }

    #[tokio::test]
    async fn sheds_when_the_queue_is_full() {
        let pool = Arc::new(pool(Duration::MAX));
        let (release, first) = occupy(&pool).await;
        let second = pool.run(|_| 2);
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert_eq!(pool.run(|_| 3).await, Err(CpuError::QueueFull));
        drop(release);
        assert_eq!(second.await, Ok(2));
        assert_eq!(first.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn skips_a_job_whose_caller_has_left() {
        let pool = Arc::new(pool(Duration::MAX));
        let (release, _first) = occupy(&pool).await;
        let ran = Arc::new(AtomicBool::new(false));
        {
            let ran = Arc::clone(&ran);
            let abandoned = pool.run(move |_| ran.store(true, Ordering::Relaxed));
            tokio::pin!(abandoned);
            assert!(futures::poll!(abandoned.as_mut()).is_pending());
        }
        drop(release);
        // The queue has one place: once a later job is admitted and answered, the abandoned one has been passed.
        let later = loop {
            match pool.run(|_| 3).await {
                Err(CpuError::QueueFull) => tokio::task::yield_now().await,
                outcome => break outcome,
            }
        };
        assert_eq!(later, Ok(3));
        assert!(!ran.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn is_behind_for_a_while_after_a_job_had_to_wait() {
        let pool = Arc::new(pool(Duration::MAX));
        assert_eq!(pool.run(|_| ()).await, Ok(()));
        assert!(!pool.behind(Instant::now()));
        let (release, first) = occupy(&pool).await;
        let second = pool.run(|_| ());
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        let queued = Instant::now();
        while queued.elapsed() <= BEHIND_AFTER {
            tokio::task::yield_now().await;
        }
        drop(release);
        assert_eq!((second.await, first.await.unwrap()), (Ok(()), Ok(())));
        assert!(pool.behind(Instant::now()));
    }

    #[tokio::test]
    async fn does_not_run_a_job_that_waited_too_long() {
        let pool = Arc::new(pool(Duration::ZERO));
        assert_eq!(pool.run(|_| ()).await, Err(CpuError::TooOld));
    }

    #[tokio::test]
    async fn does_not_run_a_job_that_waited_in_a_queue_that_stands() {
        // Any wait is too long, and has been for long enough at once.
        let impatient = Patience { target: Duration::ZERO, interval: Duration::ZERO };
        let pool = CpuPool::new(ONE, ONE, Duration::MAX, impatient);
        assert_eq!(pool.run(|_| ()).await, Err(CpuError::TooOld));
    }

    #[tokio::test]
    async fn a_wait_before_the_request_was_handled_counts() {
        let pool = pool(Duration::from_hours(1));
        let waited = Duration::from_hours(2);
        assert_eq!(arrival::scope(waited, pool.run(|_| ())).await, Err(CpuError::TooOld));
        assert_eq!(pool.run(|_| ()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_costs_one_job_not_the_worker() {
        let pool = pool(Duration::MAX);
        assert_eq!(pool.run(|_| panic!("on purpose")).await, Err::<(), _>(CpuError::Panicked));
        assert_eq!(pool.run(|_| 1).await, Ok(1));
    }
}
