//! Bounds the time in which a client sends a request's head, from the head's first byte. Never looks into what is sent.
//!
//! hyper's own limit begins when it starts to wait, and so has to be as long as a connection may be idle. A client that sends
//! a byte now and then would hold its place for as long.

use std::{
    future::Future,
    io,
    io::IoSlice,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep_until};

use crate::{
    arrival::{LastRead, Stamped},
    error::ApiError,
};

/// What a client reads whose head did not come in time; no handler has seen its request.
static REFUSAL: LazyLock<Bytes> = LazyLock::new(|| {
    let problem = ApiError::HeadTimeout.problem_json();
    let head = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        problem.len()
    );
    [head.as_bytes(), &problem].concat().into()
});

/// Where a connection is: between requests, or within one. A clone shows the same connection.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicU32>);

impl Turn {
    /// A head is complete: what comes now belongs to its request.
    pub fn begin(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// The request is answered: what comes now is another head.
    pub fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A number for each turn, odd within a request.
    fn number(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection on which a head that has begun must be complete in time, or reading fails with
/// [`TimedOut`](io::ErrorKind::TimedOut) once the client has been told.
#[derive(Debug)]
pub struct Punctual {
    stream: Stamped,
    limit: Duration,
    last_read: LastRead,
    turn: Turn,
    /// The turn of which the next two tell.
    seen: u32,
    first_byte: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Nothing is half written, so that an answer can begin here.
    flushed: bool,
}

impl Punctual {
    /// Gives each head on `stream` the time of `limit`; `turn` must be told of requests and answers.
    pub fn new(stream: Stamped, limit: Duration, turn: Turn) -> Self {
        let (last_read, seen) = (stream.last_read(), turn.number());
        Self { stream, limit, last_read, turn, seen, first_byte: None, alarm: None, flushed: true }
    }

    /// Ready when the head that has begun is late. Without an alarm until a read finds nothing, which in most heads none does.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(first_byte) = self.first_byte else { return Poll::Pending };
        let limit = self.limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until((first_byte + limit).into())));
        alarm.as_mut().poll(cx)
    }

    fn refuse(&mut self, cx: &mut Context<'_>) {
        if self.flushed {
            // A client that does not read it learns by the end of the connection.
            let _ = Pin::new(&mut self.stream).poll_write(cx, &REFUSAL);
        }
    }
}

impl Read for Punctual {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let turn = this.turn.number();
        if turn != this.seen {
            (this.seen, this.first_byte, this.alarm) = (turn, None, None);
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        if turn % 2 == 1 {
            return read;
        }
        if read.is_ready() {
            this.first_byte.get_or_insert_with(|| this.last_read.arrival().0);
            return read;
        }
        ready!(this.poll_late(cx));
        this.refuse(cx);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Write for Punctual {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.flushed = matches!(written, Poll::Ready(Ok(count)) if count == bytes.len());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        let all = slices.iter().map(|slice| slice.len()).sum::<usize>();
        this.flushed = matches!(written, Poll::Ready(Ok(count)) if count == all);
        written
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
