//! sled's spare IO threads, put to rest.
//!
//! sled 0.34.7 has seven IO threads for all databases of the process, and wakes all of them for each write
//! [`threadpool.rs: Queue::send`, `notify_all`]: one writes, and the others, one after the other, find nothing to do.
//! Those were more than half of the context switches of a deposit over HTTP with 64 connections (0.86, without them
//! 0.55), and 7 % of the processor's time that it took.
//!
//! Nothing in its interface changes that. But whoever waits for [`::sled::Tree::flush_async`] is woken *on* an IO
//! thread [`oneshot.rs: OneShotFiller::fill`], and a waker may take its time: the ones put to rest here come back from it
//! only when they are called.
//!
//! What always holds:
//!
//! - As many are left as were asked for, by the one ledger that a process serves. sled starts no others: it counts those
//!   that rest as busy, and that count comes round to more than it wants [`threadpool.rs: perform_work`].
//! - So few are enough, but for one case. No task waits for another one but that of `flush_async`, which is used here
//!   alone. But who appends may wait for a task, with a lock that other tasks wait for: to grow the file into space that
//!   is just being cut off its end [`pagecache/segment.rs: bump_tip`; the lock, `pagecache/iobuf.rs: sa_stabilize`]. That
//!   needs a last segment that was given up while another one was free; no file of ours was ever cut (keys only grow).
//!   If it should happen, the commit hangs until the watchdog calls the others back ([`wake_all`]), which takes some two
//!   seconds. Then there are as many as sled itself thinks enough.

use std::future::Future;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

/// How many IO threads sled has [`threadpool.rs: DESIRED_WAITING_THREADS`].
const IO_THREADS: usize = 7;

/// How long an IO thread may take to do nothing: past it, sled is left as it is, and costs what it did.
const REST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often an IO thread may be quicker than we are.
const TRIES_MAX: usize = 1_000;

/// Those that rest, in the whole process. Who is taken off the list comes back.
static RESTING: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

/// A waker that keeps the thread on which it is called, unless there are enough.
struct Rest {
    threads: usize,
    begins: Sender<()>,
}

impl Wake for Rest {
    fn wake(self: Arc<Self>) {
        let this = thread::current();
        {
            let mut resting = RESTING.lock();
            if resting.len() >= self.threads {
                return;
            }
            resting.push(this.clone());
        }
        // Whoever put it to rest may have given up.
        let _ = self.begins.send(());
        while RESTING.lock().iter().any(|thread| thread.id() == this.id()) {
            thread::park();
        }
    }
}

/// How many rest.
pub(super) fn resting() -> usize {
    RESTING.lock().len()
}

/// Calls all back to work, for good. Returns how many rested.
pub(super) fn wake_all() -> usize {
    let resting = mem::take(&mut *RESTING.lock());
    resting.iter().for_each(Thread::unpark);
    resting.len()
}

/// Puts all IO threads to rest but for so many, which are needed at the same time; at least one. The database should
/// have nothing left to write, so that its flushes end at once.
pub(super) fn rest(database: &::sled::Db, needed: usize) {
    let threads = IO_THREADS.saturating_sub(needed.max(1));
    for _ in 0..TRIES_MAX {
        if resting() >= threads {
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
