//! Replies that do not end or are large: what a body is, and how many streams there are.
//!
//! What always holds:
//!
//! - a stream has a task of its own that fills a short queue of chunks, and the connection takes them from there; a
//!   task waits for a queue that is full, but not for longer than [`Limits::stream_stall_time_max`];
//! - whoever goes away ends its stream: the task sees that nobody takes chunks any more;
//! - when the service ends, so do all streams, between two chunks: the client knows where to go on;
//! - a reply that does not go out in one piece keeps its room until the connection has taken all of it or has gone, so that
//!   slow readers do not heap up such replies.
//!
//! [`Limits::stream_stall_time_max`]: super::listener::Limits::stream_stall_time_max

use std::convert::Infallible;
use std::io::Cursor;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::problem::{Code, Problem};

/// How many chunks wait for a reader. More would only hide for longer that it does not follow.
const CHUNKS_WAITING_MAX: usize = 4;

/// How much of a body is handed out at a time, in bytes. A connection copies it behind the head, into a buffer that it
/// keeps until it closes: so that buffer does not grow with the largest reply that was ever sent. A connection gathers
/// about as much before it writes, so smaller pieces would hardly make it smaller.
pub(super) const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The body of a reply.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it, or what has not been handed out.
    Whole(Chunk),
    /// The same of a large reply, with its room. Boxed, so that other bodies are no larger.
    Roomed(Box<(Chunk, Room)>),
    /// What comes, until it ends.
    Stream(mpsc::Receiver<Bytes>),
}

/// The room of a large reply, in KiB, which it keeps until it has been read.
#[derive(Debug)]
pub(super) struct Room(OwnedSemaphorePermit);

/// Bytes of a body. Those of most replies were written for it: as [`Bytes`] they would be given a counter of
/// who shares them, which is an allocation more.
#[derive(Debug)]
pub(super) enum Chunk {
    Own(Cursor<Vec<u8>>),
    Shared(Bytes),
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Chunk::Own(bytes) => bytes.remaining(),
            Chunk::Shared(bytes) => bytes.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes.chunk(),
            Chunk::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Chunk::Own(bytes) => bytes.advance(count),
            Chunk::Shared(bytes) => bytes.advance(count),
        }
    }
}

impl Chunk {
    /// Takes its first bytes away, up to a bound.
    fn split_to(&mut self, bytes_max: usize) -> Chunk {
        if self.remaining() <= bytes_max {
            return mem::replace(self, Chunk::Shared(Bytes::new()));
        }
        let mut shared = match mem::replace(self, Chunk::Shared(Bytes::new())) {
            Chunk::Own(own) => {
                let begin = own.position() as usize;
                Bytes::from(own.into_inner()).split_off(begin)
            }
            Chunk::Shared(bytes) => bytes,
        };
        let first = shared.split_to(bytes_max);
        *self = Chunk::Shared(shared);
        Chunk::Shared(first)
    }
}

impl Body {
    /// The same body, which keeps as much of this room as it needs.
    pub(super) fn keeping(self, room: Option<Room>) -> Body {
        match (self, room) {
            (Body::Whole(chunk), Some(Room(mut room))) if chunk.remaining() > FRAME_BYTES_MAX => {
                drop(room.split(room.num_permits().saturating_sub(kib(chunk.remaining()))));
                Body::Roomed(Box::new((chunk, Room(room))))
            }
            (body, _) => body,
        }
    }

    /// How many bytes are still to be handed out, of a body that is there as a whole.
    pub(super) fn bytes(&self) -> usize {
        self.rest().map_or(0, Buf::remaining)
    }

    /// How many bytes there are for this reply alone that have no room. The service's own documents are there once,
    /// however many read them.
    pub(super) fn bytes_without_room(&self) -> usize {
        match self {
            Body::Whole(Chunk::Own(bytes)) => bytes.remaining(),
            Body::Whole(Chunk::Shared(bytes)) if bytes.is_unique() => bytes.len(),
            _ => 0,
        }
    }

    /// What has not been handed out, of a body that is there as a whole.
    fn rest(&self) -> Option<&Chunk> {
        match self {
            Body::Whole(chunk) => Some(chunk),
            Body::Roomed(roomed) => Some(&roomed.0),
            Body::Stream(_) => None,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::from(Bytes::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Whole(Chunk::Own(Cursor::new(bytes)))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(Chunk::Shared(bytes))
    }
}

impl HttpBody for Body {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        let rest = match self.get_mut() {
            Body::Whole(chunk) => chunk,
            Body::Roomed(roomed) => &mut roomed.0,
            Body::Stream(chunks) => {
                let chunk = ready!(chunks.poll_recv(cx));
                return Poll::Ready(chunk.map(|chunk| Ok(Frame::data(Chunk::Shared(chunk)))));
            }
        };
        let chunk = rest.has_remaining().then(|| rest.split_to(FRAME_BYTES_MAX));
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest().is_some_and(|chunk| !chunk.has_remaining())
    }

    fn size_hint(&self) -> SizeHint {
        self.rest().map_or_else(SizeHint::default, |chunk| SizeHint::with_exact(chunk.remaining() as u64))
    }
}

/// The room for replies that do not go out in one piece: pages and statements of some megabytes, and the results of batches.
/// Of one for each connection they would come to tens of gigabytes.
#[derive(Debug)]
pub(super) struct ReplyRoom {
    free: Arc<Semaphore>,
    kib: usize,
}

impl ReplyRoom {
    /// So much of it.
    pub(super) fn of_kib(kib: usize) -> ReplyRoom {
        ReplyRoom { free: Arc::new(Semaphore::new(kib)), kib }
    }

    /// Takes room for a reply of so many bytes, if it needs any.
    pub(super) fn take(&self, bytes: usize) -> Result<Option<Room>, Problem> {
        if bytes <= FRAME_BYTES_MAX {
            return Ok(None);
        }
        let overloaded = || Problem::plain(Code::Overloaded);
        let wanted = u32::try_from(kib(bytes)).map_err(|_| overloaded())?;
        let room = Arc::clone(&self.free).try_acquire_many_owned(wanted);
        room.map(|room| Some(Room(room))).map_err(|_| overloaded())
    }

    /// Sees whether there is room for a reply of so many bytes, for who would else find out when all work is done.
    pub(super) fn look(&self, bytes: usize) -> Result<(), Problem> {
        match bytes <= FRAME_BYTES_MAX || kib(bytes) <= self.free.available_permits() {
            true => Ok(()),
            false => Err(Problem::plain(Code::Overloaded)),
        }
    }

    /// How many bytes of it are taken.
    pub(super) fn taken(&self) -> usize {
        1024 * (self.kib - self.free.available_permits())
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// All streams of a service.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) open: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) dropped: AtomicU64,
    ending: watch::Sender<bool>,
}

/// The writing end of a stream, and its place among all.
#[derive(Debug)]
pub(super) struct StreamWriter {
    streams: Arc<Streams>,
    chunks: mpsc::Sender<Bytes>,
    ending: watch::Receiver<bool>,
    stall_time_max: Duration,
}

impl Streams {
    /// Begins a stream, unless there are as many as there may be.
    pub(super) fn begin(
        self: &Arc<Self>,
        streams_max: usize,
        stall_time_max: Duration,
    ) -> Result<(StreamWriter, Body), Problem> {
        let ending = self.ending.subscribe();
        if *ending.borrow() {
            return Err(Problem::plain(Code::Ending));
        }
        if self.open.fetch_add(1, Relaxed) >= streams_max as u64 {
            self.open.fetch_sub(1, Relaxed);
            return Err(Problem::plain(Code::TooManyStreams));
        }
        let (chunks, taken) = mpsc::channel(CHUNKS_WAITING_MAX);
        Ok((StreamWriter { streams: Arc::clone(self), chunks, ending, stall_time_max }, Body::Stream(taken)))
    }

    /// Ends all streams, and lets no more begin.
    pub(super) fn end(&self) {
        self.ending.send_replace(true);
    }
}

impl StreamWriter {
    /// Hands a chunk over, with how many events are in it. Whether to go on: not if the reader has gone, or takes
    /// nothing.
    pub(super) async fn send(&self, chunk: Vec<u8>, events: usize) -> bool {
        match self.chunks.send_timeout(Bytes::from(chunk), self.stall_time_max).await {
            Ok(()) => {
                self.streams.events.fetch_add(events as u64, Relaxed);
                true
            }
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                self.streams.dropped.fetch_add(1, Relaxed);
                false
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => false,
        }
    }

    /// Waits until the reader has gone or the service ends.
    pub(super) async fn is_over(&self) {
        let mut ending = self.ending.clone();
        tokio::select! {
            () = self.chunks.closed() => {}
            // An error means that the service has gone.
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::Semaphore;

    use super::*;

    /// A large body was handed out in one piece, which the connection copied into a buffer that it kept: whoever had
    /// read one large page cost its size for as long as it stayed.
    #[test]
    fn a_large_body_comes_in_pieces_and_a_small_one_as_it_is() {
        let sizes = [0, 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 3 * FRAME_BYTES_MAX, 1_000_001];
        for size in sizes {
            let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            for mut body in [Body::from(content.clone()), Body::from(Bytes::from(content.clone()))] {
                let is_own = matches!(body, Body::Whole(Chunk::Own(_)));
                let mut read = Vec::new();
                loop {
                    assert_eq!(body.size_hint().exact(), Some((size - read.len()) as u64));
                    assert_eq!(body.is_end_stream(), read.len() == size);
                    let mut cx = Context::from_waker(Waker::noop());
                    let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx) else {
                        panic!("all of it is there");
                    };
                    let Some(frame) = frame else { break };
                    let mut chunk = frame.expect("infallible").into_data().expect("data");
                    let bytes = chunk.remaining();
                    assert!((1..=FRAME_BYTES_MAX).contains(&bytes), "{bytes} of {size}");
                    if bytes == size {
                        assert_eq!(matches!(chunk, Chunk::Own(_)), is_own, "it is not made anew");
                    }
                    while chunk.has_remaining() {
                        read.extend_from_slice(chunk.chunk());
                        chunk.advance(chunk.chunk().len());
                    }
                }
                assert!(read == content, "{size}");
            }
        }
    }

    #[test]
    fn a_large_reply_keeps_its_room_until_it_has_been_handed_out() {
        let all = Arc::new(Semaphore::new(1));
        let body = |size: usize| {
            let room = Arc::clone(&all).try_acquire_owned().expect("free");
            Body::from(vec![b'x'; size]).keeping(Some(Room(room)))
        };
        for small in [body(0), body(FRAME_BYTES_MAX)] {
            assert_eq!((all.available_permits(), small.rest().is_some()), (1, true));
        }
        let mut large = body(FRAME_BYTES_MAX + 1);
        let mut cx = Context::from_waker(Waker::noop());
        for is_end in [false, true] {
            assert_eq!((all.available_permits(), large.is_end_stream()), (0, false));
            assert!(matches!(Pin::new(&mut large).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
            assert_eq!(large.is_end_stream(), is_end);
        }
        drop(large);
        assert_eq!(all.available_permits(), 1);
    }

    #[test]
    fn a_large_reply_gives_back_the_room_that_it_does_not_need() {
        let room = ReplyRoom::of_kib(300);
        assert!(room.take(FRAME_BYTES_MAX).expect("it needs none").is_none());
        let taken = room.take(200 * 1024).expect("there is enough");
        assert_eq!(room.take(100 * 1024 + 1).expect_err("there is not").code, Code::Overloaded);
        assert_eq!(room.look(100 * 1024 + 1).expect_err("there is not").code, Code::Overloaded);
        assert!(room.look(100 * 1024).is_ok() && room.free.available_permits() == 100, "it takes none");
        let large = Body::from(vec![b'x'; 100 * 1024 + 1]);
        assert_eq!(large.bytes_without_room(), 100 * 1024 + 1);
        let large = large.keeping(taken);
        assert_eq!((large.bytes_without_room(), room.free.available_permits()), (0, 199));
        let small = Body::from(vec![b'x'; 100]).keeping(room.take(199 * 1024).expect("the rest"));
        assert_eq!((small.bytes_without_room(), room.free.available_permits()), (100, 199));
        drop(large);
        assert_eq!(room.free.available_permits(), 300);
        assert_eq!(room.take(usize::MAX).expect_err("too much for anyone").code, Code::Overloaded);
    }

    #[test]
    fn documents_of_the_service_need_no_room() {
        let document = Bytes::from(vec![b'x'; 1000]);
        assert_eq!(Body::from(document.clone()).bytes_without_room(), 0);
        assert_eq!(Body::from(document).bytes_without_room(), 1000, "it is this reply's alone");
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_dropped() {
        let streams = Arc::new(Streams::default());
        let (writer, body) = streams.begin(1, Duration::from_millis(20)).unwrap();
        assert_eq!(streams.begin(1, Duration::ZERO).unwrap_err().code, Code::TooManyStreams);
        for _ in 0..CHUNKS_WAITING_MAX {
            assert!(writer.send(b"x".to_vec(), 1).await);
        }
        assert!(!writer.send(b"x".to_vec(), 1).await);
        drop((writer, body));
        let counts = [&streams.open, &streams.events, &streams.dropped].map(|count| count.load(Relaxed));
        assert_eq!(counts, [0, CHUNKS_WAITING_MAX as u64, 1]);
        streams.end();
        assert_eq!(streams.begin(1, Duration::ZERO).unwrap_err().code, Code::Ending);
    }

    #[tokio::test]
    async fn a_stream_is_over_when_its_reader_or_the_service_goes() {
        let streams = Arc::new(Streams::default());
        let (writer, body) = streams.begin(9, Duration::from_secs(10)).unwrap();
        drop(body);
        writer.is_over().await;
        assert!(!writer.send(Vec::new(), 0).await);
        let (writer, _body) = streams.begin(9, Duration::from_secs(10)).unwrap();
        streams.end();
        writer.is_over().await;
    }
}
