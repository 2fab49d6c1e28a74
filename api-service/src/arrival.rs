//! A connection that knows when the kernel received what it reads. Never decides anything by it.
//!
//! A stopwatch that starts in a handler misses the wait before it: in the listen queue, in the socket's buffer, behind a
//! busy event loop, and while the cgroup's quota keeps the process from running at all. That is most of the latency of a
//! replica at its limit, and just then the stopwatch says that all is well. The kernel, though, notes when each packet
//! came in (`SO_TIMESTAMPNS`), whether or not this process could run, and tells it with the bytes.
//!
//! 1. The option is set on the listening socket; each accepted one inherits it, so that what came in before `accept` is
//!    stamped too.
//! 2. Each read (`recvmsg`) yields the time at which the last of its bytes came in.
//! 3. When a request's head is complete, the time of the read that completed it is the request's arrival.
//!
//! Guarantees: the arrival is never after the read. Caveats: a client that sends its head slowly spends its own time: the
//! stopwatch starts when the head is complete. Of pipelined requests, those read at once arrived when the last of them
//! did. The stamp is of the wall clock: it is turned into an age at the read, and an age outside 0 to 60 s, by a step of
//! that clock, is held to these bounds. A kernel without the option (gVisor) leaves the moment of the read, and so does any
//! for the first moments: it begins to stamp packets shortly after the first socket of the machine asks.

use std::{
    cell::RefCell,
    io,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

/// The most that one read takes. A request's head is far shorter, and a longer body takes more reads.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The greatest age that is believed: longer than any client waits, and short of a step of the wall clock by an hour.
const AGE_MAX: Duration = Duration::from_mins(1);

/// Asks the kernel to stamp what `socket` receives, and what the sockets that it accepts receive.
///
/// # Errors
/// When the kernel has no such option; reads are then stamped with the moment of the read.
pub fn stamp(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, ReceiveTimestampns, &true)?)
}

/// When a request reached this machine: an extension of each request that came over a connection.
#[derive(Debug, Clone, Copy)]
pub struct Arrival(pub Instant);

tokio::task_local! {
    static WAITED: Duration;
}

/// Handles a request that had `waited` before it was handled, as [`waited`] tells in `handling`.
pub fn scope<F: Future>(waited: Duration, handling: F) -> impl Future<Output = F::Output> {
    WAITED.scope(waited, handling)
}

/// How long this task's request had waited before it was handled; nothing outside of a request.
pub fn waited() -> Duration {
    WAITED.try_with(|waited| *waited).unwrap_or_default()
}

/// When the bytes that a connection read last had come in. A clone shows the same connection.
#[derive(Debug, Clone)]
pub struct LastRead(Arc<Moments>);

#[derive(Debug)]
struct Moments {
    opened: Instant,
    /// Of the last read's bytes, in nanoseconds after `opened`. Bytes that came in before the connection was accepted,
    /// and so before `opened`, are why `opened` lies [`AGE_MAX`] back.
    last_nanos: AtomicU64,
}

impl LastRead {
    fn new(now: Instant) -> Self {
        let opened = now.checked_sub(AGE_MAX).unwrap_or(now);
        let moments = Moments { opened, last_nanos: AtomicU64::new(0) };
        let last_read = Self(Arc::new(moments));
        last_read.note(now);
        last_read
    }

    fn note(&self, arrival: Instant) {
        let nanos = arrival.saturating_duration_since(self.0.opened).as_nanos();
        self.0.last_nanos.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When the bytes of the last read had come in; when the connection was opened, before the first.
    pub fn arrival(&self) -> Arrival {
        Arrival(self.0.opened + Duration::from_nanos(self.0.last_nanos.load(Ordering::Relaxed)))
    }
}

/// Where reads land before they are handed on, one for each thread. hyper's buffer may be uninitialised memory, which only
/// unsafe code could give to the kernel; a copy of a request costs less than to clear that buffer before every read.
struct Scratch {
    bytes: Vec<u8>,
    control: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { bytes: vec![0; READ_BYTES_MAX], control: cmsg_space!(TimeSpec) });
}

/// A TCP connection whose reads are stamped.
#[derive(Debug)]
pub struct Stamped {
    stream: TcpStream,
    last_read: LastRead,
}

impl Stamped {
    /// Stamps the reads of `stream`: with the kernel's time if the socket that accepted it asked for that by [`stamp`].
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, last_read: LastRead::new(Instant::now()) }
    }

    /// Shows when the bytes of the last read had come in.
    pub fn last_read(&self) -> LastRead {
        self.last_read.clone()
    }
}

impl Read for Stamped {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            match this.try_read(&mut into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl Stamped {
    fn try_read(&self, into: &mut ReadBufCursor<'_>) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|Scratch { bytes, control }| {
            let wanted = into.remaining().min(bytes.len());
            let mut read = None;
            let outcome = self.stream.try_io(Interest::READABLE, || {
                let (count, stamp) = receive(&self.stream, &mut bytes[..wanted], control)?;
                read = Some((count, stamp));
                // Fewer than asked for: nothing is left. The readiness is cleared as after a refusal, which saves the
                // system call that would only learn of it; the kernel tells anew when more comes in.
                if 0 < count && count < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            let Some((count, stamp)) = read else { return outcome };
            if count > 0 {
                let now = Instant::now();
                self.last_read.note(now.checked_sub(stamp.map_or(Duration::ZERO, age)).unwrap_or(now));
                into.put_slice(&bytes[..count]);
            }
            Ok(())
        })
    }
}

/// Reads what is there, and when the last of it came in if the kernel says so.
fn receive(
    stream: &TcpStream,
    bytes: &mut [u8],
    control: &mut [u8],
) -> Result<(usize, Option<TimeSpec>), Errno> {
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(control), MsgFlags::MSG_DONTWAIT)?;
    let stamp = message.cmsgs().ok().and_then(|mut messages| {
        messages.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
            _ => None,
        })
    });
    Ok((message.bytes, stamp))
}

/// How long ago `stamp` was, by the clock that stamps packets.
fn age(stamp: TimeSpec) -> Duration {
    // It cannot fail: the clock exists on every Linux, and no memory of ours is passed.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, |now| between(stamp, now))
}

fn between(stamp: TimeSpec, now: TimeSpec) -> Duration {
    // A clock that was set back since gives a negative age: nothing is known then but that it came in.
    if now <= stamp { Duration::ZERO } else { Duration::from(now - stamp).min(AGE_MAX) }
}

impl Write for Stamped {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn read(connection: &mut Stamped) -> Vec<u8> {
        let mut bytes = [0; 64];
        let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *connection).poll_read(cx, buffer.unfilled())).await.unwrap();
        buffer.filled().to_vec()
    }

    const WAITED: Duration = Duration::from_millis(30);

    /// A connection that has read `first`, which came in before it was accepted, and whether that was seen.
    async fn accepted_late(listener: &TcpListener) -> (TcpStream, Stamped, bool) {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"first").await.unwrap();
        let sent = Instant::now();
        tokio::time::sleep(WAITED).await;
        let mut connection = Stamped::new(listener.accept().await.unwrap().0);
        assert_eq!(read(&mut connection).await, b"first");
        let seen = connection.last_read().arrival().0 <= sent;
        (client, connection, seen)
    }

    #[tokio::test]
    async fn time_before_accept_and_before_the_read_is_part_of_the_age() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        stamp(&listener).unwrap();
        // The kernel begins to stamp some time after it was asked.
        let (mut client, mut connection) = loop {
            let (client, connection, seen) = accepted_late(&listener).await;
            if seen {
                break (client, connection);
            }
        };
        // Idle time of a kept connection is nobody's wait.
        tokio::time::sleep(WAITED).await;
        let before = Instant::now();
        client.write_all(b"second").await.unwrap();
        assert_eq!(read(&mut connection).await, b"second");
        // The wall clock may be slewed, by a part in 2000 at most.
        assert!(connection.last_read().arrival().0 + Duration::from_millis(1) >= before);

        drop(client);
        assert_eq!(read(&mut connection).await, b"", "the end is an empty read");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_stamped_counts_from_the_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"first").await.unwrap();
        let mut connection = Stamped::new(listener.accept().await.unwrap().0);
        let before = Instant::now();
        assert_eq!(read(&mut connection).await, b"first");
        assert!(connection.last_read().arrival().0 >= before);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_held_to_bounds() {
        let at = |seconds| TimeSpec::new(seconds, 0);
        assert_eq!(between(at(100), at(101)), Duration::from_secs(1));
        assert_eq!(between(at(100), at(90)), Duration::ZERO);
        assert_eq!(between(at(100), at(4000)), AGE_MAX);
    }
}
