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
//! - a reply that a client may still read is not lost when its connection closes.
//!
//! What a connection knows of itself is in [`vigil`](super::vigil), and how its bytes come and go in
//! [`patient_stream`](super::patient_stream).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::rt::Write;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::HEAD_BYTES_MAX;
use super::api::Api;
use super::headers::RequestId;
use super::metrics::Gauge;
use super::patient_stream::{LINGER_TIME_MAX, PatientStream};
use super::problem::{Code, Problem};
use super::threads::Threads;
use super::vigil::{Order, Vigil};
use super::wire::Version;

/// How much of what a client sends is buffered. Pipelined requests queue here, and then in the kernel.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How many refused connections are told why at one time; the others are closed without a word.
const REFUSALS_MAX: usize = 64;

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
            vigil.lingers_at_end();
        }
        if is_refused || matches!(result, Some(Ok(()))) {
            // hyper does not close the connection when it could be upgraded, which is never done here; see
            // [`Vigil::upgrade_offered`]. To close it once more is nothing. Who has gone cannot be told anything.
            let _ = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::net::sockopt::tcp_user_timeout;
    use tokio::time::Instant;

    use super::*;

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
