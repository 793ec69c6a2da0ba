//! What all parts of a connection know of it, and what wakes its task: the [`Vigil`]. And the body of a request as it
//! comes, [`Received`], which lets the task sleep where it can.
//!
//! The vigil watches without being asked at each request: a timer for each head, as hyper would set, and a look at whether
//! the service ends, cost more than reading the head.
//!
//! A connection is in one of three states:
//!
//! - *waiting* for a head, from the start and whenever a reply is on its way and there is nothing to read
//!   ([`Vigil::nothing_to_read`]). Only this is timed here;
//! - *answering*, from when a head has come ([`Vigil::head_came`]);
//! - *sending*, from when the reply is there ([`Vigil::answered`]): neither of the others. It ends with the
//!   next head that is waited for, and never if the reply is the last one.
//!
//! Its [`Order`] is to go on, until that changes, once, to one of the others, which wakes the task.
//!
//! Any other wake reaches the task at once, unless wakes are *deferred*: then it is only noted as pending, and who
//! deferred them decides what becomes of it. See [`Received`].

use std::pin::Pin;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::reply::Reply;
use super::stream::{Body, Room};

/// What is known of a connection.
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
pub(super) enum Order {
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
    pub(super) fn finishes(&self) {
        if self.upgrade_offered.load(Relaxed) && !self.streams.load(Relaxed) {
            self.leaves_early.store(true, Relaxed);
        }
    }

    /// Takes note that the client may still be sending when the connection closes.
    pub(super) fn lingers_at_end(&self) {
        self.lingers.store(true, Relaxed);
    }

    /// Whether it may.
    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Relaxed)
    }

    /// Whether what is being sent, or was sent last, does not end by itself.
    pub(super) fn streams(&self) -> bool {
        self.streams.load(Relaxed)
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
            self.lingers_at_end();
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
    pub(super) fn nothing_to_read(&self) {
        if self.head_awaited_since.load(Relaxed) == 0 && !self.answering.load(Relaxed) {
            self.head_awaited_since.store(self.began.elapsed().as_micros() as u64 + 1, Relaxed);
        }
    }

    /// Takes note of the connection's task, which an order wakes.
    pub(super) fn will_wake(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    pub(super) fn order(&self) -> Order {
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
    pub(super) async fn watch(self: Arc<Self>, mut stopped: watch::Receiver<()>) {
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

#[cfg(test)]
mod tests {
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
}
