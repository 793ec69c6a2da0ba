//! Connections: accepted, bounded, timed, and drained at the end.
//!
//! What always holds:
//!
//! - at most [`Limits::connections_max`] connections are served; a few more are told so, the rest are closed;
//! - no client can hold a connection by being slow: the head of a request, its body, and the client's reading
//!   of the reply each have a time limit. Waiting for the next request counts as waiting for its head;
//! - a client that closes its side after a request still gets its reply; but not a stream, whose reader would be
//!   missed only when the next writes fail;
//! - an error of accepting one connection does not end the accepting of others, and does not spin;
//! - what is written goes out in order, by the thread's [outbox] or without;
//! - a reply to a client that is still sending, or has sent what nobody will read, is not lost to the reset that closing
//!   would cause: the connection is closed in one direction first, and what comes is thrown away for a moment.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::HEAD_BYTES_MAX;
use super::api::Api;
use super::headers::RequestId;
use super::metrics::Gauge;
use super::outbox::{self, Delivery};
use super::problem::{Code, Problem};
use super::reply::Reply;
use super::stream::{Body, Room};
use super::threads::Threads;
use super::wire::Version;

/// How much of what a client sends is buffered. Pipelined requests queue here, and then in the kernel.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How many refused connections are told why at one time; the others are closed without a word.
const REFUSALS_MAX: usize = 64;

/// How much of a body that nobody wants is thrown away beside the stream that is sent meanwhile, in bytes; who sends more is
/// cut off.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How long a closed connection goes on to throw away what its client still sends.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// How long accepting pauses when the system gives no connection: it has run out of something, most likely
/// descriptors, that only time gives back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much a client may take of the service, and for how long. Only tests have reason to change this.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are served at one time. Each costs some 10 kB at rest, so these cost 100 MB; one that has had
    /// large bodies and replies keeps buffers for them, 64 KiB each, until it closes. What its client does not read takes
    /// some 300 kB of the system's (`server/sockets.rs`).
    pub connections_max: usize,
    /// How long a client may take from the end of a request, or from connecting, to the end of the next head.
    pub head_read_time_max: Duration,
    /// How long a body may take to arrive.
    pub body_read_time_max: Duration,
    /// How long a client may take to make room for more of a reply that waits for it: the system says that there is some
    /// when a third of what it keeps for a client is free, which is some 90 kB.
    pub write_stall_time_max: Duration,
    /// How much the replies take together, in KiB, that do not go out in one piece, from when they may be made on.
    pub replies_kib_max: usize,
    /// How many streams are served at one time. Each merges the logs for itself.
    pub streams_max: usize,
    /// After how long without an event a stream says that it is there.
    pub stream_heartbeat: Duration,
    /// How long a reader of a stream may take to make room for more of what waits for it, as much as of a reply.
    pub stream_stall_time_max: Duration,
    /// How long requests that are being worked on at the end have to be answered.
    pub drain_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 10_000,
            head_read_time_max: Duration::from_secs(30),
            body_read_time_max: Duration::from_secs(10),
            write_stall_time_max: Duration::from_secs(30),
            replies_kib_max: 512 * 1024,
            streams_max: 128,
            // Shorter than the half minute after which many proxies take a silent connection for dead.
            stream_heartbeat: Duration::from_secs(15),
            stream_stall_time_max: Duration::from_secs(10),
            drain_time_max: Duration::from_secs(10),
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How many connections were cut off because they were not done in time.
    pub connections_cut: usize,
}

/// Serves connections with these threads until `shutdown` is done; then accepts no more, lets requests in flight be
/// answered for as long as [`Limits::drain_time_max`], and cuts off what is left.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    limits: Limits,
    mut threads: Threads,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let server = Arc::new(Server { api, limits, http: protocol() });
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let refusal_places = Arc::new(Semaphore::new(REFUSALS_MAX));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
        };
        prepare(&stream, &limits);
        while connections.try_join_next().is_some() {}
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let (server, stopped) = (Arc::clone(&server), stopped.clone());
                // It leaves the accepting thread's event queue and comes into the serving one's.
                let Ok(stream) = stream.into_std() else { continue };
                let serve = async move { server.serve_connection(stream, place, stopped).await };
                connections.spawn_on(serve, threads.next());
            }
            Err(_) => {
                server.api.metrics.connections_refused.fetch_add(1, Relaxed);
                if let Ok(place) = Arc::clone(&refusal_places).try_acquire_owned() {
                    connections.spawn(refuse_connection(stream, place));
                }
            }
        }
    }
    drop(listener);
    server.api.streams.end();
    drop(stopped);
    // Without receivers there is no connection to tell.
    let _ = stop.send(());
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_time_max, all_done).await.is_err() {
        let connections_cut = connections.len();
        connections.shutdown().await;
        return Drained { connections_cut };
    }
    Drained { connections_cut: 0 }
}

/// Sets what the system does for a connection. Without it the connection is slower, or held for longer: no reason to
/// refuse it.
fn prepare(stream: &TcpStream, limits: &Limits) {
    // Replies are small and complete: waiting for more to send with them only delays them.
    let _ = stream.set_nodelay(true);
    // A client that vanished without a word takes nothing, but as long as what is sent to it finds room in the system's
    // buffers nobody waits here: the system would try for a quarter of an hour, and a stream would keep its place.
    let stall_ms = limits.write_stall_time_max.as_millis().try_into().unwrap_or(u32::MAX);
    let _ = set_tcp_user_timeout(stream, stall_ms);
}

/// HTTP/1.1 as it is spoken here.
fn protocol() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        // A client that closes its side after the request still gets its reply.
        .half_close(true);
    http
}

/// Waits after an error of `accept` that the next call would meet again.
async fn pause_after(error: &io::Error) {
    match error.kind() {
        // The connection's own fault: it is gone already.
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!("cannot accept a connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Tells a client that there is no place for it.
async fn refuse_connection(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let request_id = RequestId::made_up();
    let problem = Problem::plain(Code::TooManyConnections);
    let body = problem.body(Version::One, request_id.as_str());
    let mut reply = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncache-control: \
         no-store\r\nretry-after: 1\r\nx-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        request_id.as_str(),
        body.len()
    )
    .into_bytes();
    reply.extend_from_slice(&body);
    let tell = async {
        stream.write_all(&reply).await?;
        stream.shutdown().await?;
        let mut scrap = [0; 1024];
        while stream.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that does not listen is not told.
    let _ = tokio::time::timeout(LINGER_TIME_MAX, tell).await;
}

struct Server {
    api: Arc<Api>,
    limits: Limits,
    http: http1::Builder,
}

impl Server {
    async fn serve_connection(
        &self,
        stream: std::net::TcpStream,
        _place: OwnedSemaphorePermit,
        stopped: watch::Receiver<()>,
    ) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let _open = Gauge::raise(&self.api.metrics.connections);
        let vigil = Arc::new(Vigil::new(self.limits.head_read_time_max));
        let guard = tokio::spawn(Arc::clone(&vigil).watch(stopped));
        let mut io = PatientStream::new(stream, Arc::clone(&vigil), self.limits.write_stall_time_max);
        let service = service_fn(|request| self.api.answer(request, &vigil, &self.limits));
        let result = {
            let mut connection = pin!(self.http.serve_connection(&mut io, service));
            let waker = Waker::from(Arc::clone(&vigil));
            poll_fn(|cx| {
                vigil.will_wake(cx.waker());
                match vigil.order() {
                    Order::GoOn => {}
                    Order::Finish => {
                        vigil.finishes();
                        connection.as_mut().graceful_shutdown();
                    }
                    Order::GiveUp => return Poll::Ready(None),
                }
                connection.as_mut().poll(&mut Context::from_waker(&waker)).map(Some)
            })
            .await
        };
        guard.abort();
        if let Some(Err(error)) = &result {
            tracing::debug!("a connection ended: {error}");
        }
        let is_refused = matches!(&result, Some(Err(error)) if error.is_parse());
        if is_refused {
            // hyper has told the client of a head that it could not read, but not us. More may be coming behind it.
            vigil.lingers.store(true, Relaxed);
        }
        if is_refused || matches!(result, Some(Ok(()))) {
            // hyper does not close the connection when it could be upgraded, which is never done here; see
            // [`Vigil::upgrade_offered`]. To close it once more is nothing. Who has gone cannot be told anything.
            let _ = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await;
        }
    }
}

/// What all parts of a connection know of it, and what wakes its task.
///
/// It watches without being asked at each request: a timer for each head, as hyper would set, and a look
/// at whether the service ends, cost more than reading the head.
///
/// A connection is in one of three states:
///
/// - *waiting* for a head, from the start and whenever a reply is on its way and there is nothing to read
///   ([`nothing_to_read`](Vigil::nothing_to_read)). Only this is timed here;
/// - *answering*, from when a head has come ([`head_came`](Vigil::head_came));
/// - *sending*, from when the reply is there ([`answered`](Vigil::answered)): neither of the others. It ends with the
///   next head that is waited for, and never if the reply is the last one.
///
/// Its [`Order`] is to go on, until that changes, once, to one of the others, which wakes the task.
///
/// Any other wake reaches the task at once, unless wakes are *deferred*: then it is only noted as pending, and who
/// deferred them decides what becomes of it. See [`Received`].
pub(super) struct Vigil {
    head_read_time_max: Duration,
    began: Instant,
    /// Whether no head comes next: a request is being answered, or the reply under way is the last one.
    answering: AtomicBool,
    /// Since when a head is waited for, in microseconds after `began` and plus one; 0 while none is.
    head_awaited_since: AtomicU64,
    order: AtomicU8,
    /// The connection's task, which has one waker all its life.
    task: OnceLock<Waker>,
    defers_wakes: AtomicBool,
    wake_pending: AtomicBool,
    /// Whether the client may still be sending when the connection closes.
    lingers: AtomicBool,
    /// Whether any request so far has offered an upgrade: hyper remembers that as long as the connection lasts.
    upgrade_offered: AtomicBool,
    /// Whether hyper will go before all is sent.
    leaves_early: AtomicBool,
    /// The room of the reply that is then sent without hyper: the connection's last one.
    room: OnceLock<Room>,
    /// Whether what is being sent, or was sent last, does not end by itself.
    streams: AtomicBool,
}

/// What a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    GoOn,
    /// Answer what is being worked on, then close.
    Finish,
    /// Close: the client was too slow.
    GiveUp,
}

impl Vigil {
    pub(super) fn new(head_read_time_max: Duration) -> Vigil {
        Vigil {
            head_read_time_max,
            began: Instant::now(),
            answering: AtomicBool::new(false),
            head_awaited_since: AtomicU64::new(1),
            order: AtomicU8::new(Order::GoOn as u8),
            task: OnceLock::new(),
            defers_wakes: AtomicBool::new(false),
            wake_pending: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            upgrade_offered: AtomicBool::new(false),
            leaves_early: AtomicBool::new(false),
            room: OnceLock::new(),
            streams: AtomicBool::new(false),
        }
    }

    pub(super) fn head_came(&self) {
        // A stream before it has ended: who closes its side now waits for this reply.
        self.streams.store(false, Relaxed);
        self.answering.store(true, Relaxed);
        self.head_awaited_since.store(0, Relaxed);
    }

    /// Takes note that the request offers an upgrade.
    ///
    /// hyper leaves such a connection, at its end, to whoever may have upgraded it. If it ends because a body is left
    /// unread, or because the service ends, it does so as soon as it has the whole reply in a buffer of its own, and what
    /// the system has no room for yet would be lost with that. So all of that reply is taken from it.
    pub(super) fn upgrade_offered(&self) {
        self.upgrade_offered.store(true, Relaxed);
    }

    /// Takes note that the request has a body that nobody will read: it is the connection's last one.
    pub(super) fn body_left_unread(&self) {
        if self.upgrade_offered.load(Relaxed) {
            self.leaves_early.store(true, Relaxed);
        }
    }

    /// Takes note that the reply under way, if there is one, is the last one. A stream has its own way to end.
    fn finishes(&self) {
        if self.upgrade_offered.load(Relaxed) && !self.streams.load(Relaxed) {
            self.leaves_early.store(true, Relaxed);
        }
    }

    /// Whether all of the reply will be taken from hyper at once.
    pub(super) fn leaves_early(&self) -> bool {
        self.leaves_early.load(Relaxed)
    }

    /// Keeps a reply's room for as long as the connection lasts, if it will be taken from hyper at once.
    pub(super) fn keep(&self, room: Option<Room>) -> Option<Room> {
        match room {
            Some(room) if self.leaves_early.load(Relaxed) => self.room.set(room).err(),
            room => room,
        }
    }

    /// Takes note of what is going to be sent, without its body if `is_head`, and whether the client may still be sending a
    /// body that nobody will read.
    pub(super) fn answered(&self, reply: &Reply, is_head: bool, body_unread: bool) {
        if body_unread {
            self.lingers.store(true, Relaxed);
        }
        let streams = !is_head && matches!(reply.body(), Body::Stream(_));
        self.streams.store(streams, Relaxed);
        if streams {
            // One that is taken from hyper without an end would heap up; its reader knows where to go on.
            self.leaves_early.store(false, Relaxed);
        }
        // Its last reply may take as long as its client reads.
        self.answering.store(body_unread, Relaxed);
    }

    /// Called when a read finds nothing: hyper reads the next head only after the reply is on its way, but for a body that
    /// nobody has read, of which it throws away what has come.
    fn nothing_to_read(&self) {
        if self.head_awaited_since.load(Relaxed) == 0 && !self.answering.load(Relaxed) {
            self.head_awaited_since.store(self.began.elapsed().as_micros() as u64 + 1, Relaxed);
        }
    }

    /// Takes note of the connection's task, which an order wakes.
    fn will_wake(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    fn order(&self) -> Order {
        match self.order.load(SeqCst) {
            order if order == Order::Finish as u8 => Order::Finish,
            order if order == Order::GiveUp as u8 => Order::GiveUp,
            _ => Order::GoOn,
        }
    }

    fn give_order(&self, order: Order) {
        self.order.store(order as u8, SeqCst);
        self.wake_task();
    }

    fn wake_task(&self) {
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    fn defer_wakes(&self) {
        self.defers_wakes.store(true, Relaxed);
    }

    /// Whether the task was to be woken since wakes were deferred.
    fn take_deferred_wake(&self) -> bool {
        self.defers_wakes.store(false, Relaxed);
        // Read and written, not swapped: all of it happens on one thread.
        let pending = self.wake_pending.load(Relaxed);
        self.wake_pending.store(false, Relaxed);
        pending
    }

    /// Watches until there is an order to give.
    async fn watch(self: Arc<Self>, mut stopped: watch::Receiver<()>) {
        let mut due = self.began + self.head_read_time_max;
        loop {
            tokio::select! {
                _ = stopped.changed() => return self.give_order(Order::Finish),
                () = tokio::time::sleep_until(due) => {}
            }
            let since = match self.head_awaited_since.load(Relaxed) {
                0 => Instant::now(),
                micros => self.began + Duration::from_micros(micros - 1),
            };
            due = since + self.head_read_time_max;
            if due <= Instant::now() {
                return self.give_order(Order::GiveUp);
            }
        }
    }
}

impl Wake for Vigil {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.defers_wakes.load(Relaxed) {
            self.wake_pending.store(true, Relaxed);
        } else {
            self.wake_task();
        }
    }
}

/// The body of a request, as it comes.
///
/// When a piece of it is taken, hyper wakes the connection, so that the next one can come. Behind the last
/// piece nothing comes, and the connection, which is at work on this very request, would be run once more for
/// nothing: 900 instructions of a deposit. So a wake that comes while a piece is taken is passed on only if
/// it was not the last. No other comes at that time: what else wakes a connection runs on its own thread, which
/// has a runtime for itself (`http/threads.rs`), or was asked for by this request, which asks for nothing before
/// it has its body.
pub(super) struct Received<'a> {
    pub(super) body: &'a mut Incoming,
    pub(super) vigil: &'a Vigil,
}

impl hyper::body::Body for Received<'_> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.vigil.defer_wakes();
        let frame = Pin::new(&mut *self.body).poll_frame(cx);
        if self.vigil.take_deferred_wake() && !self.body.is_end_stream() {
            self.vigil.wake_task();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that gives up on a client that does not read, and that closes without losing the last reply.
struct PatientStream {
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
    fn new(stream: TcpStream, vigil: Arc<Vigil>, write_stall_time_max: Duration) -> PatientStream {
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
        if !self.vigil.streams.load(Relaxed) {
            return false;
        }
        if !self.vigil.lingers.load(Relaxed) {
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
        if self.vigil.leaves_early.load(Relaxed) {
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
                Poll::Ready(true) => self.vigil.lingers.store(true, Relaxed),
                Poll::Pending if self.vigil.lingers.load(Relaxed) => return Poll::Pending,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::net::sockopt::tcp_user_timeout;
    use tokio::io::AsyncRead;

    use super::super::stream::ReplyRoom;
    use super::*;

    /// All of such a reply is taken from hyper before the client has read it, and its body with its room is gone.
    #[test]
    fn a_connection_that_hyper_leaves_early_keeps_the_room_of_its_reply() {
        let all = ReplyRoom::of_kib(100);
        let room = || all.take(100 * 1024).expect("it is free");
        let is_free = || all.look(100 * 1024).is_ok();
        let vigil = Vigil::new(Duration::ZERO);
        assert!(vigil.keep(room()).is_some(), "the body is to keep it");
        vigil.upgrade_offered();
        vigil.body_left_unread();
        assert!(vigil.keep(room()).is_none());
        assert!(!is_free());
        drop(vigil);
        assert!(is_free());
    }

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

    /// P7: what only time gives back is not asked for without a pause; a connection that is gone keeps no other waiting.
    #[tokio::test(start_paused = true)]
    async fn accepting_pauses_after_an_error_that_the_next_one_would_meet_again() {
        for (error, pause) in [
            (Errno::MFILE, ACCEPT_PAUSE),
            (Errno::NFILE, ACCEPT_PAUSE),
            (Errno::NOBUFS, ACCEPT_PAUSE),
            (Errno::CONNABORTED, Duration::ZERO),
            (Errno::CONNRESET, Duration::ZERO),
            (Errno::INTR, Duration::ZERO),
        ] {
            let began = Instant::now();
            pause_after(&error.into()).await;
            assert_eq!(began.elapsed(), pause, "{error}");
        }
    }

    #[tokio::test]
    async fn the_system_gives_a_client_up_when_we_would() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        prepare(&stream, &Limits { write_stall_time_max: Duration::from_millis(1500), ..Limits::default() });
        assert_eq!((stream.nodelay().ok(), tcp_user_timeout(&stream).ok()), (Some(true), Some(1500)));
    }
}
