//! sled's spare IO threads, put to rest.
//!
//! sled 0.34.7 has seven IO threads for all databases of the process, and wakes all of them for each write
//! [`threadpool.rs: Queue::send`, `notify_all`]: one writes, and the others, one after the other, find nothing to do.
//! Those were more than half of the context switches of a deposit over HTTP with 64 connections (0.86, without them
//! 0.55), and 7 % of the processor's time that it took.
//!
//! Nothing in its interface changes that. But whoever waits for [`::sled::Tree::flush_async`] is woken *on* an IO
//! thread [`oneshot.rs: OneShotFiller::fill`], and a waker may take its time: the ones put to rest here never come
//! back from it. They end with the process.
//!
//! What always holds:
//!
//! - As many are left as were asked for, by the one ledger that a process serves. sled starts no others: it counts those
//!   that rest as busy for ever, and that count comes round to more than it wants [`threadpool.rs: perform_work`].
//! - So few are enough, since none waits for another one: of all tasks only that of `flush_async` waits for one, and it
//!   is used here alone.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// How many IO threads sled has [`threadpool.rs: DESIRED_WAITING_THREADS`].
const IO_THREADS: usize = 7;

/// How long an IO thread may take to do nothing: past it, sled is left as it is, and costs what it did.
const REST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often an IO thread may be quicker than we are.
const TRIES_MAX: usize = 1_000;

/// How many rest, in the whole process.
static RESTING: AtomicUsize = AtomicUsize::new(0);

/// A waker that keeps the thread on which it is called, unless there are enough.
struct Rest {
    threads: usize,
    begins: Sender<()>,
}

impl Wake for Rest {
    fn wake(self: Arc<Self>) {
        let one_more = |resting| (resting < self.threads).then_some(resting + 1);
        if RESTING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            return;
        }
        // Whoever put it to rest may have given up.
        let _ = self.begins.send(());
        loop {
            thread::park();
        }
    }
}

/// Puts all IO threads to rest but for so many, which are needed at the same time; at least one. The database should
/// have nothing left to write, so that its flushes end at once.
pub(super) fn rest(database: &::sled::Db, needed: usize) {
    let threads = IO_THREADS.saturating_sub(needed.max(1));
    for _ in 0..TRIES_MAX {
        if RESTING.load(Ordering::Relaxed) >= threads {
            return;
        }
        let (begins, began) = bounded(1);
        let waker = Waker::from(Arc::new(Rest { threads, begins }));
        let mut nothing = pin!(database.flush_async());
        // Ready: an IO thread was quicker than we are, or sled has failed, which the first commit will be told.
        if nothing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            && began.recv_timeout(REST_WAIT_MAX).is_err()
        {
            return;
        }
    }
}
