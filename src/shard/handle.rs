//! The way to a shard, and what others may see of it: a bounded inbox, a reply to wait for, figures, and a look at the state
//! itself.
//!
//! What always holds:
//!
//! - nobody waits to ask: an inbox that is full refuses at once, and then nothing was done (P7);
//! - a reply comes when what it tells is durable; who does not wait for it changes nothing about what is done;
//! - a look finds only what is durable, and all of that: it never tells less than a reply that a client has already. Who
//!   cannot look asks, so a look is only ever the faster way to the same answer;
//! - an end of the shard reaches everyone who waits for a reply, as [`ShardError::Ended`].
//!
//! Left out: how requests travel in bundles and replies come back ([`courier`]), and what is done with them
//! ([`worker`](super::worker)).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{Notify, oneshot};

use super::batch::{Moment, Shard};
use super::courier::{self, ReplyTo};
use super::figures::{CommitCounts, ShardFigures};
use super::queue::Sender;
use super::request::{AccountView, Reply, Request};
use super::work;
use crate::ledger::{AccountRef, Ledger, Sequence, Timestamp};

/// How many requests wait in an inbox at most. At 50,000 requests a second this is a tenth of a second of work:
/// more would only make clients wait for what could be refused at once.
const INBOX_REQUESTS_MAX: usize = 4096;

/// Sends requests to one shard. Clones go to the same shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    pub(super) inbox: Arc<Sender<Mail>>,
    pub(super) status: Arc<ShardStatus>,
}

/// What comes into a shard's inbox.
///
/// The inbox itself has no bound, so that shards never wait for one another; requests are counted, and what shards
/// send one another is a few messages for each request that is under way.
#[derive(Debug)]
pub(super) enum Mail {
    /// Requests, each with where its reply goes.
    Requests(Vec<(Request, ReplyTo)>),
    /// What another shard has to say, in order.
    Messages(Vec<work::Message<ReplyTo>>),
    /// End the journal's current generation.
    Roll,
    /// Finish what is in the inbox and what is under way, and end.
    Stop,
}

/// What a shard's threads let others see.
#[derive(Debug, Default)]
pub(super) struct ShardStatus {
    /// How many requests are in the inbox.
    pub(super) requests: AtomicUsize,
    pub(super) durable: AtomicU64,
    pub(super) disk_full: AtomicBool,
    /// When the commit under way began, in milliseconds of the log's own clock plus one; 0 for none.
    pub(super) commit_began: AtomicU64,
    /// What has been committed, how many sealed generations wait to be compacted, and when the newest snapshot was
    /// written, for those who watch.
    pub(super) commits: CommitCounts,
    pub(super) generations_waiting: AtomicUsize,
    pub(super) snapshot_secs: AtomicU64,
    /// How many idempotency keys are remembered and may be, and whether that was as many at the end of any batch since
    /// somebody looked.
    pub(super) keys: AtomicUsize,
    pub(super) keys_max: AtomicUsize,
    pub(super) keys_were_full: AtomicBool,
    /// Who waits for `durable` to move on.
    pub(super) waiting: Mutex<()>,
    pub(super) moved_on: Condvar,
    /// Who waits for any shard of the network to move on: all of them share it.
    pub(super) any_moved_on: Arc<Notify>,
    /// The shard itself, once it runs.
    pub(super) shard: OnceLock<Arc<Readable>>,
}

/// A shard that its worker changes and others may look into between two batches.
///
/// Most reads are of accounts that nothing stands against: whoever serves the client answers them by a look, without
/// waking anybody. Only the worker changes the shard or waits for this lock; a reader who does not get it at once, or
/// sees something that it may not tell yet, asks like any other. What it bought: see "A look instead of a question" in
/// `benches/README.md`.
pub(super) struct Readable {
    /// Nothing once the shard has ended.
    shard: RwLock<Option<Shard<ReplyTo>>>,
    now: fn() -> Timestamp,
}

impl std::fmt::Debug for Readable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readable")
    }
}

impl Readable {
    pub(super) fn new(shard: Shard<ReplyTo>, now: fn() -> Timestamp) -> Readable {
        Readable { shard: RwLock::new(Some(shard)), now }
    }

    /// Lets the worker change the shard.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Shard<ReplyTo>) -> T) -> T {
        change(self.shard.write().as_mut().expect("the worker has not ended"))
    }

    /// Ends the shard.
    pub(super) fn end(&self) -> Ledger {
        self.shard.write().take().expect("a shard ends once").into_ledger()
    }
}

impl ShardStatus {
    /// Takes note of how many idempotency keys are remembered, and whether that is as many as may be.
    pub(super) fn set_keys(&self, (keys, are_full): (usize, bool)) {
        self.keys.store(keys, Ordering::Relaxed);
        if are_full {
            self.keys_were_full.store(true, Ordering::Relaxed);
        }
    }

    /// What is known at this time. Asked for each request: a client that has its reply and asks at once, in time for
    /// this very batch, must not hear that the first request is still in flight.
    pub(super) fn moment(&self, now: Timestamp) -> Moment {
        Moment { now, durable: self.durable(), disk_full: self.disk_full.load(Ordering::Relaxed) }
    }

    pub(super) fn durable(&self) -> Sequence {
        Sequence::new(self.durable.load(Ordering::Acquire)).unwrap_or(Sequence::NONE)
    }

    pub(super) fn set_durable(&self, last: Sequence) {
        self.durable.store(last.get(), Ordering::Release);
        // Taken, so that nobody who has just looked misses the call.
        drop(self.waiting.lock());
        self.moved_on.notify_all();
        // One uncontended lock a commit when nobody listens.
        self.any_moved_on.notify_waiters();
    }

    /// Waits until an event is durable.
    pub(super) fn wait_durable(&self, sequence: Sequence) {
        if self.durable() >= sequence {
            return;
        }
        let mut waiting = self.waiting.lock();
        while self.durable() < sequence {
            self.moved_on.wait(&mut waiting);
        }
    }
}

/// Why a shard gives no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Its inbox is full. Nothing was done.
    #[error("the shard's inbox is full")]
    Overloaded,
    /// It is ending. What was asked may or may not have been done.
    #[error("the shard has ended")]
    Ended,
}

/// A reply to wait for. Written by hand, for an async block is three times as large, and every request that waits has
/// one in it.
pub struct Asked(Result<oneshot::Receiver<Reply>, ShardError>);

impl Future for Asked {
    type Output = Result<Reply, ShardError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(reply) => Pin::new(reply).poll(cx).map_err(|_| ShardError::Ended),
            Err(error) => Poll::Ready(Err(*error)),
        }
    }
}

impl ShardHandle {
    /// Asks the shard at once; what is returned waits for the reply.
    ///
    /// # Errors
    /// [`ShardError::Overloaded`] at once if the inbox is full; [`ShardError::Ended`] if the shard ends first.
    pub fn ask(&self, request: Request) -> Asked {
        Asked(self.send(request))
    }

    fn send(&self, request: Request) -> Result<oneshot::Receiver<Reply>, ShardError> {
        if self.status.requests.fetch_add(1, Ordering::Relaxed) >= INBOX_REQUESTS_MAX {
            self.status.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(ShardError::Overloaded);
        }
        courier::send(&self.inbox, request)
    }

    /// Reads an account by a look at the shard, if it is there, nothing stands against telling it, and the shard is
    /// not being changed right now. Otherwise it has to be [asked](ShardHandle::ask).
    pub fn glance(&self, account: &AccountRef) -> Option<AccountView> {
        let readable = self.status.shard.get()?;
        let shard = readable.shard.try_read()?;
        // Looked up under the lock: what was durable before it is all that may be told.
        shard.as_ref()?.glance(account, self.status.moment((readable.now)()))
    }

    /// Whether requests wait for it, or it is changing something right now.
    pub fn is_busy(&self) -> bool {
        let is_changing = |readable: &Arc<Readable>| readable.shard.is_locked_exclusive();
        self.status.requests.load(Ordering::Relaxed) > 0 || self.status.shard.get().is_some_and(is_changing)
    }

    /// The last event that is known to be durable.
    pub fn durable(&self) -> Sequence {
        self.status.durable()
    }

    /// What is called whenever more of any shard of this shard's network has become durable. Who takes a place in it
    /// ([`Notify::notified`]), then looks, then waits, misses nothing.
    pub fn any_moved_on(&self) -> &Arc<Notify> {
        &self.status.any_moved_on
    }

    /// Tells the shard whether the disk has no room; then it refuses whatever would be recorded. Returns what
    /// it was told before.
    pub fn set_disk_full(&self, full: bool) -> bool {
        self.status.disk_full.swap(full, Ordering::Relaxed)
    }

    /// Takes note of how many sealed generations wait to be compacted, for those who watch.
    pub fn set_generations_waiting(&self, count: usize) {
        self.status.generations_waiting.store(count, Ordering::Relaxed);
    }

    /// Takes note of when the newest snapshot was written, in seconds since the Unix epoch, for those who watch.
    pub fn set_snapshot_secs(&self, secs: u64) {
        self.status.snapshot_secs.store(secs, Ordering::Relaxed);
    }

    /// Whether at some time since this was asked last no further idempotency key could be remembered.
    pub fn take_keys_were_full(&self) -> bool {
        self.status.keys_were_full.swap(false, Ordering::Relaxed)
    }

    /// What there is to see of the shard now.
    pub fn figures(&self) -> ShardFigures {
        ShardFigures {
            requests_waiting: self.status.requests.load(Ordering::Relaxed),
            durable: self.durable(),
            refuses_changes: self.status.disk_full.load(Ordering::Relaxed),
            generations_waiting: self.status.generations_waiting.load(Ordering::Relaxed),
            snapshot_secs: self.status.snapshot_secs.load(Ordering::Relaxed),
            keys: self.status.keys.load(Ordering::Relaxed),
            keys_max: self.status.keys_max.load(Ordering::Relaxed),
            commits: self.status.commits.figures(),
        }
    }

    /// Asks the shard to end its journal's current generation, so that it can be compacted. Does not wait for the end;
    /// the keeper of the log is told of that.
    pub fn roll(&self) {
        // A shard that has ended has nothing to roll.
        let _ = self.inbox.send(Mail::Roll);
    }
}

#[cfg(test)]
mod tests {
    use std::mem;

    use super::super::batch::ShardRules;
    use super::*;
    use crate::ledger::{Amount, Currency, OverdraftDefault, ShardId};

    impl ShardHandle {
        /// The way to a shard that does nothing.
        pub(crate) fn of_nobody() -> ShardHandle {
            let (inbox, end) = crate::shard::queue::unbounded();
            // Or nothing could be sent.
            mem::forget(end);
            ShardHandle { inbox: Arc::new(inbox), status: Arc::default() }
        }

        /// Takes note of so many idempotency keys, and whether those are as many as may be, in place of the worker.
        pub(crate) fn set_keys(&self, keys: usize, are_full: bool) {
            self.status.set_keys((keys, are_full));
        }
    }

    #[test]
    fn a_shard_is_busy_while_something_waits_for_it_or_is_being_changed() {
        let handle = ShardHandle::of_nobody();
        assert!(!handle.is_busy());
        let overdraft = OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO };
        let rules = ShardRules { overdraft, key_retention_ms: 0, keys_max: 1 };
        let id = ShardId::new(0).expect("a shard");
        let readable = Arc::new(Readable::new(Shard::new(id, Ledger::new(id), rules), || Timestamp::MAX));
        assert!(handle.status.shard.set(Arc::clone(&readable)).is_ok());
        assert!(!handle.is_busy());
        readable.change(|_| assert!(handle.is_busy()));
        assert!(!handle.is_busy());
        let _reply = handle.ask(Request::TrialBalance);
        assert!(handle.is_busy());
    }
}
