//! A connection's bytes: a stream that gives up on a client that does not read, and that closes without losing the last reply.
//!
//! What always holds:
//!
//! - what is written goes out in order, by the thread's [outbox] or without;
//! - a write waits for its client no longer than it may, and a stream's reader that has gone is missed at once, not only
//!   when the next writes fail;
//! - a reply to a client that is still sending, or has sent what nobody will read, is not lost to the reset that closing
//!   would cause: the connection is closed in one direction first, and what comes is thrown away for a moment.
//!
//! Left out: how long a head may take, and when the connection has to end, which its [vigil](super::vigil) knows.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::outbox::{self, Delivery};
use super::vigil::Vigil;

/// How much of a body that nobody wants is thrown away beside the stream that is sent meanwhile, in bytes; who sends more is
/// cut off.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How long a closed connection goes on to throw away what its client still sends.
pub(super) const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// A connection that waits for its client, but not for ever.
pub(super) struct PatientStream {
    inner: TokioIo<TcpStream>,
    /// What it has in the outbox.
    delivery: Arc<Delivery>,
    vigil: Arc<Vigil>,
    /// How many bytes were thrown away.
    discarded: usize,
    /// When the closing ends at the latest; set once it has begun.
    linger_end: Option<Pin<Box<Sleep>>>,
    write_stall_time_max: Duration,
    /// When a write that waits is given up; set while one waits.
    write_end: Option<Pin<Box<Sleep>>>,
}

impl PatientStream {
    pub(super) fn new(stream: TcpStream, vigil: Arc<Vigil>, write_stall_time_max: Duration) -> PatientStream {
        PatientStream {
            inner: TokioIo::new(stream),
            delivery: Arc::default(),
            vigil,
            discarded: 0,
            linger_end: None,
            write_stall_time_max,
            write_end: None,
        }
    }

    /// Whether the reader of a stream has gone, or sends what would hide that. Otherwise this task is woken when it does.
    ///
    /// The body of its own request, which nobody reads, may still be coming: that is thrown away, with whatever comes behind
    /// it, for the connection ends with this reply; but no more than [`DISCARDED_BYTES_MAX`].
    fn is_deserted(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.vigil.streams() {
            return false;
        }
        if !self.vigil.lingers() {
            let mut byte = [0; 1];
            return self.inner.inner().poll_peek(cx, &mut tokio::io::ReadBuf::new(&mut byte)).is_ready();
        }
        match self.poll_discard(cx) {
            Poll::Ready(true) if self.discarded <= DISCARDED_BYTES_MAX => {
                // One piece a turn: a client that floods would take what the runtime gives the task for one, and what
                // is written needs some of that.
                cx.waker().wake_by_ref();
                false
            }
            Poll::Ready(_) => true,
            Poll::Pending => false,
        }
    }

    /// Throws a piece away of what the client sends, and says whether there was one: else it is done, or gone.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut scrap = [0; 4096];
        let mut buffer = ReadBuf::new(&mut scrap);
        let outcome = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer.unfilled()));
        let count = buffer.filled().len();
        self.discarded += count;
        Poll::Ready(outcome.is_ok() && count > 0)
    }

    /// Has the system take all that was written before.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.delivery.hurry();
        if !self.delivery.has_rest() {
            return Poll::Ready(Ok(()));
        }
        let delivery = Arc::clone(&self.delivery);
        let written = delivery.with_rest(|rest| {
            while !rest.is_empty() {
                let outcome = Pin::new(&mut self.inner).poll_write(cx, rest);
                let count = ready!(self.timed(outcome, cx))?;
                rest.drain(..count);
            }
            Poll::Ready(Ok(()))
        });
        written.unwrap_or(Poll::Ready(Ok(())))
    }

    /// Passes the outcome of a write on, unless writes have been waiting for too long.
    fn timed<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_end = None;
            return outcome;
        }
        let time_max = self.write_stall_time_max;
        let end = self
            .write_end
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + time_max)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for PatientStream {
    fn drop(&mut self) {
        self.delivery.hurry();
    }
}

impl Read for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if outcome.is_pending() {
            self.vigil.nothing_to_read();
        }
        outcome
    }
}

/// Not vectored, so hyper copies a reply behind its head. Most are small: that costs less than telling the system of two
/// pieces.
impl Write for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let is_sent = self.poll_sent(cx)?.is_ready();
        if self.vigil.leaves_early() {
            // It goes out as the rest does, with the next flush or the closing.
            self.delivery.leave(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        if !is_sent {
            return Poll::Pending;
        }
        if outbox::put(self.inner.inner(), bytes, &self.delivery, cx.waker()) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.timed(outcome, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Here because the connection does not read while it replies, but flushes whenever it is woken.
        if self.is_deserted(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // What is in the outbox leaves by itself.
        if self.delivery.is_queued() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_sent(cx))?;
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.timed(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_end.is_none() {
            ready!(self.poll_sent(cx))?;
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        // The time before what comes: both take of what the runtime gives this task for a turn, and a client that floods
        // would leave nothing of it.
        let end = || Box::pin(tokio::time::sleep(LINGER_TIME_MAX));
        if self.linger_end.get_or_insert_with(end).as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.poll_discard(cx) {
                // Closing with this unread would take back what the client has not read.
                Poll::Ready(true) => self.vigil.lingers_at_end(),
                Poll::Pending if self.vigil.lingers() => return Poll::Pending,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is left in the outbox of a socket that is closed would go to whoever has its number next.
    #[tokio::test]
    async fn what_is_in_the_outbox_leaves_before_its_socket_is_closed() {
        let Some(installed) = outbox::tests::install() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let connect = || TcpStream::connect(listener.local_addr().expect("bound"));
        let (mut first, mut second) = (connect().await.expect("open"), connect().await.expect("open"));
        let (accepted, _) = listener.accept().await.expect("accepted");
        let vigil = Arc::new(Vigil::new(Duration::ZERO));
        let mut stream = PatientStream::new(accepted, vigil, Duration::from_secs(1));
        let written = Pin::new(&mut stream).poll_write(&mut Context::from_waker(Waker::noop()), b"first");
        assert!(matches!(written, Poll::Ready(Ok(5))), "{written:?}");
        assert!(stream.delivery.is_queued(), "it is in the outbox");
        drop(stream);
        let (other, _) = listener.accept().await.expect("accepted");
        // Whatever is left in it is sent now.
        drop(installed);
        drop(other);
        let mut told = [Vec::new(), Vec::new()];
        let reading = async {
            first.read_to_end(&mut told[0]).await.expect("in order");
            second.read_to_end(&mut told[1]).await.expect("in order");
        };
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("both are closed");
        assert_eq!(told, [b"first".to_vec(), Vec::new()]);
    }

    /// A turn was over before the time was looked at, if as much had come as may be read in one, and so was the next.
    #[tokio::test]
    async fn a_closing_ends_in_time_whatever_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("accepted");
        // More than is read below.
        let mut flood = [0; 32 * 1024];
        client.write_all(&flood).await.expect("taken");
        while accepted.peek(&mut flood).await.expect("open") < flood.len() {}
        let mut stream =
            PatientStream::new(accepted, Arc::new(Vigil::new(Duration::ZERO)), Duration::from_secs(1));
        let mut over = Box::pin(tokio::time::sleep(Duration::from_millis(1)));
        over.as_mut().await;
        stream.linger_end = Some(over);
        poll_fn(|cx| {
            // All but four of the reads that the runtime gives a turn: the system would not hold as much as all of them.
            let mut others = tokio::io::repeat(0);
            for _ in 0..124 {
                let mut byte = [0; 1];
                let read = Pin::new(&mut others).poll_read(cx, &mut tokio::io::ReadBuf::new(&mut byte));
                assert!(read.is_ready());
            }
            let closed = Pin::new(&mut stream).poll_shutdown(cx);
            assert!(matches!(closed, Poll::Ready(Ok(()))), "{closed:?}");
            Poll::Ready(())
        })
        .await;
    }
}
