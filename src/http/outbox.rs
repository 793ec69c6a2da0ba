//! The replies of a turn, sent by one call of the system.
//!
//! A thread that serves hundreds of connections gets the replies of a whole commit at once. With a call of `send` each,
//! the first one wakes whoever reads it; where load and server share a core, as on two cores with a shard on the other,
//! that one then takes the core, reads one reply, and sleeps again, for each reply anew. So replies are put into the
//! thread's outbox, and at the end of the turn an [`io_uring`] sends all of them by one call: with 64 connections the HTTP
//! thread takes 4.5 instead of 5.6 us for a deposit. `benches/README.md` has the rest.
//!
//! What always holds:
//!
//! - what a connection writes reaches its client in order: while something of it is in the outbox, or was not taken by
//!   the system, nothing else is written;
//! - a reply waits for no more than the tasks that were ready before it, or for [`SENDS_MAX`] replies or [`BYTES_MAX`];
//! - nobody waits for a slow reader: a send takes what there is room for, and what is left is the connection's own affair
//!   again, with its time limit;
//! - an outbox is empty before any of the sockets in it is closed, so no number of a descriptor is used for another's.
//!
//! Where the system has no such ring for us (before Linux 6.0, in many containers, or by its settings), there is no
//! outbox, and each connection writes for itself.
//!
//! Left out: receiving the same way. Which sockets have something is known before they are read, and most of what reading
//! one costs is not the call.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;
use std::{process, thread};

use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;
use rustix::net::SendFlags;

/// How many replies are sent at once: the largest group that is worth a wake-up less, and what the ring has room for.
const SENDS_MAX: usize = 64;

/// What is longer than this, a connection writes itself: copying it would cost more than the call.
const SEND_BYTES_MAX: usize = 4096;

/// How many bytes are sent at once, at most: what a full turn of single requests has.
const BYTES_MAX: usize = 64 * 1024;

/// How long, and how often, the system is given time if it cannot take what is to be sent: five seconds in all.
const TRY_AGAIN: Duration = Duration::from_millis(5);
const TRIES_MAX: usize = 1000;

thread_local! {
    static OUTBOX: RefCell<Option<Outbox>> = const { RefCell::new(None) };
}

/// What became of what a connection has put into the outbox. All of it happens on the connection's thread.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    state: AtomicU8,
    /// What the system did not take, to be written before anything else.
    rest: Mutex<Vec<u8>>,
    /// The connection, which has to go on with the rest.
    connection: OnceLock<Waker>,
}

/// All was sent, and nothing is in the outbox.
const SENT: u8 = 0;
/// It is in the outbox.
const QUEUED: u8 = 1;
/// There is a rest.
const LEFT: u8 = 2;

impl Delivery {
    pub(super) fn is_queued(&self) -> bool {
        self.state.load(Relaxed) == QUEUED
    }

    /// Has the outbox sent if something of this connection is in it.
    pub(super) fn hurry(&self) {
        if self.is_queued() {
            OUTBOX.with_borrow_mut(|outbox| outbox.as_mut().map(Outbox::send));
            assert!(!self.is_queued(), "a connection stays on its thread");
        }
    }

    /// Leaves more behind, in front of which nothing is in the outbox.
    pub(super) fn leave(&self, bytes: &[u8]) {
        self.rest.lock().extend_from_slice(bytes);
        self.state.store(LEFT, Relaxed);
    }

    /// Whether there is a rest.
    pub(super) fn has_rest(&self) -> bool {
        self.state.load(Relaxed) == LEFT
    }

    /// Works on the rest, if there is one, until nothing is left of it.
    pub(super) fn with_rest<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        if !self.has_rest() {
            return None;
        }
        let mut rest = self.rest.lock();
        let done = work(&mut rest);
        if rest.is_empty() {
            // Most connections never have one.
            *rest = Vec::new();
            self.state.store(SENT, Relaxed);
        }
        Some(done)
    }

    /// Takes note of what became of it: as `send` says, how much was sent, or why nothing. Why is for the connection to
    /// find out, which has to write the rest.
    fn is_done(&self, result: i32, bytes: &[u8]) {
        let sent = usize::try_from(result).unwrap_or(0);
        if sent == bytes.len() {
            return self.state.store(SENT, Relaxed);
        }
        self.rest.lock().extend_from_slice(&bytes[sent..]);
        self.state.store(LEFT, Relaxed);
        if let Some(connection) = self.connection.get() {
            connection.wake_by_ref();
        }
    }
}

struct Outbox {
    ring: IoUring,
    sends: Vec<Send>,
    /// What is to be sent, piece behind piece. It has room for [`BYTES_MAX`], and never gets another place in memory.
    bytes: Vec<u8>,
    /// How it is called when there is something to send; there once it has been polled.
    waker: Option<Waker>,
}

struct Send {
    socket: RawFd,
    /// Where its bytes are.
    piece: Range<usize>,
    delivery: Arc<Delivery>,
}

/// Puts what a connection writes into this thread's outbox, if it has one and the piece is small. The connection has
/// nothing in it, and nothing left from before; `waker`, the same each time, is called if something will be left.
///
/// It must not close the socket before [`Delivery::hurry`].
pub(super) fn put(socket: &impl AsFd, bytes: &[u8], delivery: &Arc<Delivery>, waker: &Waker) -> bool {
    bytes.len() <= SEND_BYTES_MAX
        && OUTBOX.with_borrow_mut(|outbox| {
            let Some(outbox) = outbox else { return false };
            // Read and written, not swapped: with one thread that costs nothing.
            assert!(delivery.state.load(Relaxed) == SENT, "the order is kept");
            delivery.state.store(QUEUED, Relaxed);
            delivery.connection.get_or_init(|| waker.clone());
            if outbox.bytes.len() + bytes.len() > BYTES_MAX {
                outbox.send();
            }
            let begin = outbox.bytes.len();
            outbox.bytes.extend_from_slice(bytes);
            let socket = socket.as_fd().as_raw_fd();
            let piece = begin..outbox.bytes.len();
            outbox.sends.push(Send { socket, piece, delivery: Arc::clone(delivery) });
            if outbox.sends.len() == SENDS_MAX {
                outbox.send();
            } else if outbox.sends.len() == 1
                && let Some(waker) = &outbox.waker
            {
                waker.wake_by_ref();
            }
            true
        })
}

impl Outbox {
    fn new() -> io::Result<Outbox> {
        // Old systems refuse this flag, and with it the ring: there are none then that cannot send.
        let ring = IoUring::builder().setup_single_issuer().build(SENDS_MAX as u32)?;
        // Some that let us make a ring refuse its use.
        ring.submit()?;
        let bytes = Vec::with_capacity(BYTES_MAX);
        Ok(Outbox { ring, sends: Vec::with_capacity(SENDS_MAX), bytes, waker: None })
    }

    /// Sends all that is in it.
    #[expect(
        unsafe_code,
        reason = "a ring is told of memory by its address, and nothing else sends to many sockets by one call; what it buys \
                  is in the module's essay"
    )]
    fn send(&mut self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut queue = self.ring.submission();
        for (index, send) in self.sends.iter().enumerate() {
            let bytes = &self.bytes[send.piece.clone()];
            let entry = opcode::Send::new(types::Fd(send.socket), bytes.as_ptr(), bytes.len() as u32)
                .flags(flags.bits() as i32)
                .build()
                .user_data(index as u64);
            // SAFETY: The entry's memory is in `self.bytes`, and its socket is open for as long as it is in `self.sends`
            // (`put`). Below, this function ends only when the ring is done with every entry, or with the process; until
            // then nothing touches either. The sends do not wait, so even a panic in between, which ends the
            // program, would find them done.
            let pushed = unsafe { queue.push(&entry) };
            assert!(pushed.is_ok(), "there is room for all that an outbox takes");
        }
        drop(queue);
        let mut left = self.sends.len();
        let mut tries = 0;
        while left > 0 {
            if let Err(error) = self.ring.submit_and_wait(left) {
                tries += 1;
                if tries > TRIES_MAX {
                    // The buffers may be in use, so nothing can be undone.
                    tracing::error!(%error, "replies cannot be sent; ending the process");
                    process::abort();
                }
                // A signal, or the system has no memory to spare for the moment.
                thread::sleep(TRY_AGAIN);
            }
            for done in self.ring.completion() {
                let send = &self.sends[done.user_data() as usize];
                send.delivery.is_done(done.result(), &self.bytes[send.piece.clone()]);
                left -= 1;
            }
        }
        self.sends.clear();
        self.bytes.clear();
    }
}

/// Is this thread's outbox, for as long as it is polled, if the system has a ring for it.
///
/// # Panics
/// If the thread has one already.
pub(super) async fn run() {
    let outbox = match Outbox::new() {
        Ok(outbox) => outbox,
        Err(error) => return tracing::debug!(%error, "no ring: replies are sent one by one"),
    };
    let _installed = Installed::new(outbox);
    poll_fn(|cx| {
        OUTBOX.with_borrow_mut(|outbox| {
            let outbox = outbox.as_mut().expect("it is installed");
            outbox.send();
            outbox.waker.get_or_insert_with(|| cx.waker().clone());
        });
        Poll::<()>::Pending
    })
    .await;
}

/// A thread has its outbox as long as this is there.
pub(super) struct Installed;

impl Installed {
    fn new(outbox: Outbox) -> Installed {
        assert!(OUTBOX.replace(Some(outbox)).is_none(), "a thread has one outbox");
        Installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(mut outbox) = OUTBOX.take() {
            outbox.send();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::env;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Two ends of a connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let ends = (listener.accept().expect("accepted").0, client);
        for end in [&ends.0, &ends.1] {
            end.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        }
        ends
    }

    /// Installs an outbox; none if the system has no ring for it, which with `TELLER_IO_URING=required` fails the test.
    pub(in crate::http) fn install() -> Option<Installed> {
        let outbox = Outbox::new().inspect_err(|error| {
            let required = env::var("TELLER_IO_URING").is_ok_and(|text| text == "required");
            assert!(!required, "no ring here: {error}");
            // A test's `println` is only shown where it fails.
            let _ = writeln!(io::stderr(), "no ring here ({error}): a test of the outbox is SKIPPED");
        });
        outbox.ok().map(Installed::new)
    }

    #[test]
    fn without_an_outbox_a_connection_writes_for_itself() {
        let (server, _client) = connection();
        let delivery = Arc::default();
        assert!(!put(&server, b"x", &delivery, Waker::noop()));
        assert!(!delivery.is_queued());
        delivery.hurry();
    }

    #[test]
    fn what_is_in_it_is_sent_together_or_when_it_is_full_or_in_a_hurry() {
        let Some(_installed) = install() else { return };
        let calls = Arc::<Calls>::default();
        OUTBOX.with_borrow_mut(|outbox| {
            outbox.as_mut().expect("there").waker = Some(Arc::clone(&calls).into())
        });
        let mut ends: Vec<_> = (0..SENDS_MAX + 2).map(|_| (connection(), Arc::default())).collect();
        for (index, ((server, _), delivery)) in ends.iter().enumerate() {
            assert!(put(server, format!("{index:04}").as_bytes(), delivery, Waker::noop()));
            let sent = if index + 1 < SENDS_MAX { 0 } else { SENDS_MAX };
            assert_eq!(ends.iter().filter(|(_, delivery)| delivery.is_queued()).count(), index + 1 - sent);
        }
        assert_eq!(calls.0.load(Ordering::Relaxed), 2, "one call for each time that it was empty");
        ends[SENDS_MAX].1.hurry();
        assert!(ends.iter().all(|(_, delivery)| !delivery.is_queued()));
        let long = vec![b'x'; SEND_BYTES_MAX + 1];
        assert!(!put(&ends[0].0.0, &long, &ends[0].1, Waker::noop()), "long replies go their own way");
        for (index, ((_, client), _)) in ends.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).expect("sent");
            assert_eq!(bytes, *format!("{index:04}").as_bytes());
        }
    }

    /// Its memory is where the system was told that it is, so there is never more in it than it had room for at first.
    #[test]
    fn what_has_no_room_in_it_any_more_comes_in_when_the_rest_has_been_sent() {
        let Some(_installed) = install() else { return };
        let room = || {
            OUTBOX.with_borrow(|outbox| {
                let bytes = &outbox.as_ref().expect("there").bytes;
                (bytes.as_ptr(), bytes.capacity())
            })
        };
        let (first, fit) = (room(), BYTES_MAX / SEND_BYTES_MAX);
        assert!(fit < SENDS_MAX, "the bytes are the bound");
        let mut ends: Vec<_> = (0..=fit).map(|_| (connection(), Arc::default())).collect();
        for (index, ((server, _), delivery)) in ends.iter().enumerate() {
            assert!(put(server, &[index as u8; SEND_BYTES_MAX], delivery, Waker::noop()));
            let queued = ends.iter().filter(|(_, delivery)| delivery.is_queued()).count();
            assert_eq!(queued, if index < fit { index + 1 } else { 1 });
        }
        ends[fit].1.hurry();
        assert_eq!(room(), first);
        for (index, ((_, client), _)) in ends.iter_mut().enumerate() {
            let mut bytes = [0; SEND_BYTES_MAX];
            client.read_exact(&mut bytes).expect("sent");
            assert_eq!(bytes, [index as u8; SEND_BYTES_MAX]);
        }
    }

    #[test]
    fn what_a_slow_reader_leaves_is_the_connections_own_affair() {
        let Some(_installed) = install() else { return };
        let (server, mut client) = connection();
        let (other, mut other_client) = connection();
        let (delivery, other_delivery) = (Arc::<Delivery>::default(), Arc::default());
        let calls = Arc::<Calls>::default();
        let waker = Waker::from(Arc::clone(&calls));
        let mut written = Vec::new();
        // Until the system takes no more, which is after some megabytes.
        let rest = loop {
            let piece = vec![(written.len() / SEND_BYTES_MAX) as u8; SEND_BYTES_MAX];
            assert!(put(&server, &piece, &delivery, &waker));
            assert!(put(&other, b"x", &other_delivery, Waker::noop()));
            delivery.hurry();
            written.extend_from_slice(&piece);
            assert!(written.len() < 1 << 28, "the system takes all of it");
            other_client.read_exact(&mut [0]).expect("nobody else waits");
            if let Some(rest) = delivery.with_rest(std::mem::take) {
                break rest;
            }
        };
        assert_eq!(calls.0.load(Ordering::Relaxed), 1, "the connection is called");
        assert!(delivery.with_rest(|_| ()).is_none(), "it has taken the rest");
        let mut read = vec![0; written.len() - rest.len()];
        client.read_exact(&mut read).expect("sent");
        read.extend_from_slice(&rest);
        assert!(read == written, "nothing is lost or sent twice");
    }

    #[test]
    fn what_cannot_be_sent_is_left_for_the_connection_to_find_out_why() {
        let Some(_installed) = install() else { return };
        let (server, _client) = connection();
        server.shutdown(Shutdown::Write).expect("shut down");
        let delivery = Arc::default();
        assert!(put(&server, b"abc", &delivery, Waker::noop()));
        delivery.hurry();
        assert_eq!(delivery.with_rest(|rest| rest.clone()), Some(b"abc".to_vec()));
    }
}
