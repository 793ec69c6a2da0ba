//! The two threads of a shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use super::batch::{Batch, Moment, Reply, Shard};
use super::handle::{Message, ShardHandle, ShardStatus};
use crate::ledger::{Ledger, Sequence, ShardId, Timestamp};
use crate::storage::StorageError;
use crate::storage::journal::Journal;

/// How many requests wait in an inbox at most. At 50,000 requests a second this is a tenth of a second of work:
/// more would only make clients wait for what could be refused at once.
const INBOX_REQUESTS_MAX: usize = 4096;

/// How many requests one batch takes at most, so that no reply waits for a commit that keeps growing.
const BATCH_REQUESTS_MAX: usize = 1024;

/// How many batches one sync covers at most, for the same reason.
const BATCHES_PER_SYNC_MAX: usize = 4;

/// How many batches wait for the committer: one, so that the next one grows while the disk is busy.
const BATCHES_WAITING_MAX: usize = 1;

/// How long a commit may take. sled's IO threads can die without a word, and a disk can hang; a commit that does not
/// end is treated like one that failed.
pub const COMMIT_TIME_MAX: Duration = Duration::from_secs(10);

type ProductionBatch = Batch<oneshot::Sender<Reply>>;

enum Commit {
    Batch(ProductionBatch),
    Roll,
}

/// What a shard's threads call when the log fails; it should end the process. The log is in an unknown state
/// and the ledger in memory is ahead of it, so there is nothing to go on with.
pub type OnLogFailure = Arc<dyn Fn(ShardId, &StorageError) + Send + Sync>;

/// A running shard.
pub struct ShardThreads<J> {
    handle: ShardHandle,
    worker: JoinHandle<Ledger>,
    committer: JoinHandle<Result<J, StorageError>>,
    started: Instant,
}

impl<J: Journal + 'static> ShardThreads<J> {
    /// Starts the threads of a shard.
    ///
    /// # Panics
    /// If the journal does not stand where the ledger does, or the system gives no thread.
    pub fn start(
        id: ShardId,
        shard: Shard,
        journal: J,
        now: fn() -> Timestamp,
        on_log_failure: OnLogFailure,
    ) -> ShardThreads<J> {
        assert_eq!(journal.position().last, shard.ledger().last(), "the journal continues the ledger");
        let status = Arc::new(ShardStatus::default());
        status.durable.store(shard.ledger().last().get(), Ordering::Release);
        let (inbox, requests) = bounded(INBOX_REQUESTS_MAX);
        let (commits_in, commits) = bounded(BATCHES_WAITING_MAX);
        let started = Instant::now();
        let worker = Worker { shard, requests, commits: commits_in, status: Arc::clone(&status), now };
        let committer = Committer { id, journal, commits, status: Arc::clone(&status), started };
        let spawn = "the system gives a thread";
        ShardThreads {
            handle: ShardHandle { inbox, status },
            worker: thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || worker.run())
                .expect(spawn),
            committer: thread::Builder::new()
                .name(format!("commit-{id}"))
                .spawn(move || committer.run(&on_log_failure))
                .expect(spawn),
            started,
        }
    }

    /// The way to the shard.
    pub fn handle(&self) -> &ShardHandle {
        &self.handle
    }

    /// What watches over the commits of the shard.
    pub fn commit_watch(&self) -> CommitWatch {
        CommitWatch { status: Arc::clone(&self.handle.status), started: self.started }
    }

    /// Serves what is in the inbox, then ends. Returns the state and the journal, both complete and durable.
    ///
    /// # Errors
    /// If the log failed.
    ///
    /// # Panics
    /// If one of the threads did.
    pub fn stop(self) -> Result<(Ledger, J), StorageError> {
        // An error means that the worker has ended already, which the joins below explain.
        let _ = self.handle.inbox.send(Message::Stop);
        let ledger = self.worker.join().expect("the worker does not panic");
        let journal = self.committer.join().expect("the committer does not panic")?;
        Ok((ledger, journal))
    }
}

/// Sees a commit that does not end. Looking takes no lock and no IO.
pub struct CommitWatch {
    status: Arc<ShardStatus>,
    started: Instant,
}

impl CommitWatch {
    /// For how long the commit under way has been going on; `None` if there is none.
    pub fn busy_for(&self) -> Option<Duration> {
        match self.status.commit_began.load(Ordering::Acquire) {
            0 => None,
            began => Some(self.started.elapsed().saturating_sub(Duration::from_millis(began - 1))),
        }
    }
}

struct Worker {
    shard: Shard,
    requests: Receiver<Message>,
    commits: Sender<Commit>,
    status: Arc<ShardStatus>,
    now: fn() -> Timestamp,
}

impl Worker {
    fn run(mut self) -> Ledger {
        while let Ok(first) = self.requests.recv() {
            let mut batch = ProductionBatch::default();
            let mut next = Some(first);
            let mut served = 0;
            let mut roll = false;
            let mut stop = false;
            let now = (self.now)();
            while let Some(message) = next.take() {
                match message {
                    Message::Request(request, to) => self.serve(request, to, now, &mut batch),
                    Message::Roll => roll = true,
                    Message::Stop => stop = true,
                }
                served += 1;
                if served < BATCH_REQUESTS_MAX && !stop {
                    next = self.requests.try_recv().ok();
                }
            }
            if !batch.is_empty() && self.commits.send(Commit::Batch(batch)).is_err() {
                break;
            }
            if roll && self.commits.send(Commit::Roll).is_err() {
                break;
            }
            if stop {
                break;
            }
        }
        self.shard.into_ledger()
    }

    fn serve(
        &mut self,
        request: super::batch::Request,
        to: oneshot::Sender<Reply>,
        now: Timestamp,
        batch: &mut ProductionBatch,
    ) {
        // Looked up for each request: a client that has its reply and asks at once, in time for this very batch,
        // must not hear that the first request is still in flight.
        let moment = Moment {
            now,
            durable: Sequence::new(self.status.durable.load(Ordering::Acquire)).unwrap_or(Sequence::NONE),
            disk_full: self.status.disk_full.load(Ordering::Relaxed),
        };
        let (reply, after) = self.shard.serve(request, moment, batch);
        if after <= moment.durable {
            // The client may have gone; that is its affair.
            let _ = to.send(reply);
        } else {
            batch.replies.push(super::batch::Sealed { to, reply, after });
        }
    }
}

struct Committer<J> {
    id: ShardId,
    journal: J,
    commits: Receiver<Commit>,
    status: Arc<ShardStatus>,
    started: Instant,
}

impl<J: Journal> Committer<J> {
    fn run(mut self, on_log_failure: &OnLogFailure) -> Result<J, StorageError> {
        while let Ok(first) = self.commits.recv() {
            self.status.commit_began.store(self.started.elapsed().as_millis() as u64 + 1, Ordering::Release);
            let committed = self.commit(first);
            self.status.commit_began.store(0, Ordering::Release);
            if let Err(error) = committed {
                on_log_failure(self.id, &error);
                return Err(error);
            }
        }
        Ok(self.journal)
    }

    /// Appends a batch and those that wait behind it, syncs once, and lets the replies go.
    fn commit(&mut self, first: Commit) -> Result<(), StorageError> {
        let mut replies = Vec::new();
        let mut next = Some(first);
        let mut batches = 0;
        let mut roll = false;
        let before = self.journal.position();
        while let Some(commit) = next.take() {
            match commit {
                Commit::Roll => roll = true,
                Commit::Batch(batch) => {
                    for draft in &batch.drafts {
                        let mut position = self.journal.position();
                        let record = draft.seal(self.id, &mut position);
                        self.journal.append(&record)?;
                    }
                    replies.extend(batch.replies);
                    batches += 1;
                }
            }
            if batches < BATCHES_PER_SYNC_MAX && !roll {
                next = self.commits.try_recv().ok();
            }
        }
        let position = self.journal.position();
        if position != before {
            self.journal.sync()?;
            self.status.durable.store(position.last.get(), Ordering::Release);
        }
        for sealed in replies {
            assert!(sealed.after <= position.last, "no reply leaves before what it depends on is durable");
            let _ = sealed.to.send(sealed.reply);
        }
        if roll {
            self.journal.roll()?;
        }
        Ok(())
    }
}
