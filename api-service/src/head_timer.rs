//! The clock for how long a connection may wait for a request's head: one timer for the connection's life.
//!
//! hyper asks for a sleep before each head and drops it behind the head. A new sleep each time is an entry that the runtime
//! puts into its wheel of timers and takes out again under a lock; one that is kept and moved later is a single atomic
//! write. A kept one that fires while a request is handled wakes its connection once, which finds nothing to do.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

type Kept = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// The timer of one connection.
#[derive(Debug, Default)]
pub struct HeadTimer(Kept);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sleep = match kept {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline.into());
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline.into())),
        };
        Box::pin(Lent { sleep: Some(sleep), back: Arc::clone(&self.0) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

/// The connection's sleep, which goes back to it in the end.
struct Lent {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    back: Kept,
}

impl Future for Lent {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.get_mut().sleep {
            Some(sleep) => sleep.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

impl Sleep for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = self.sleep.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_hours(1);

    /// How long `sleep` takes to its end.
    async fn elapsed(sleep: Pin<Box<dyn Sleep>>) -> Duration {
        let begin = Instant::now();
        sleep.await;
        begin.elapsed()
    }

    #[tokio::test]
    async fn a_sleep_that_was_used_before_ends_at_its_new_deadline() {
        let timer = HeadTimer::default();
        assert!(elapsed(timer.sleep(SHORT)).await >= SHORT, "the first, to its end");
        assert!(elapsed(timer.sleep(SHORT)).await >= SHORT, "one that had fired");
        // Dropped after it was polled, as hyper drops it when a head has come.
        let mut unfinished = timer.sleep(SHORT);
        assert!(futures::poll!(unfinished.as_mut()).is_pending());
        drop(unfinished);
        assert!(elapsed(timer.sleep(2 * SHORT)).await >= 2 * SHORT, "moved later");
        let mut unfinished = timer.sleep(LONG);
        assert!(futures::poll!(unfinished.as_mut()).is_pending());
        drop(unfinished);
        assert!(elapsed(timer.sleep(SHORT)).await >= SHORT, "moved earlier");
    }

    #[tokio::test]
    async fn two_sleeps_at_once_are_apart() {
        let timer = HeadTimer::default();
        let (short, mut long) = (timer.sleep(SHORT), timer.sleep(LONG));
        short.await;
        assert!(futures::poll!(long.as_mut()).is_pending());
    }
}
