//! The two threads of a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::batch::{Batch, Output, Shard};
use super::courier::{Replies, ReplyTo};
use super::handle::{Mail, Readable, ShardHandle, ShardStatus};
use super::queue::{Nothing, Receiver, Sender, bounded, unbounded};
use crate::ledger::{Ledger, Sequence, ShardId, Timestamp};
use crate::storage::StorageError;
use crate::storage::journal::Journal;

/// After how many requests a batch takes no more, so that no reply waits for a commit that keeps growing.
const BATCH_REQUESTS_MAX: usize = 1024;

/// How many batches one sync covers at most, for the same reason.
const BATCHES_PER_SYNC_MAX: usize = 4;

/// How many batches wait for the committer: one, so that the next one grows while the disk is busy.
const BATCHES_WAITING_MAX: usize = 1;

/// How long a commit may take. sled's IO threads can die without a word, and a disk can hang; a commit that does not
/// end is treated like one that failed.
pub const COMMIT_TIME_MAX: Duration = Duration::from_secs(10);

/// How soon a worker looks again at what it could not do: a hold that should have expired but whose account is
/// locked, or the end of works that keep it from stopping.
const SECOND_LOOK: Duration = Duration::from_millis(20);

type ProductionBatch = Batch<ReplyTo>;

enum Commit {
    Batch(ProductionBatch),
    Roll,
}

/// What a shard's threads call when the log fails; it should end the process. The log is in an unknown state
/// and the ledger in memory is ahead of it, so there is nothing to go on with.
pub type OnLogFailure = Arc<dyn Fn(ShardId, &StorageError) + Send + Sync>;

/// The inboxes of all shards: what exists before any of their threads, so that each finds the others.
pub struct Network {
    ends: Vec<Option<Receiver<Mail>>>,
    peers: Peers,
}

/// The ways to all shards.
#[derive(Clone)]
struct Peers {
    handles: Arc<[ShardHandle]>,
    /// The messages on their way between shards, and the shards in which something is locked: while this is not zero,
    /// some work is not done.
    unfinished: Arc<AtomicUsize>,
    /// How many shards have been asked to stop.
    stopping: Arc<AtomicUsize>,
}

impl Network {
    /// The inboxes of so many shards.
    pub fn new(shards: usize) -> Network {
        let any_moved_on = Arc::default();
        let (handles, ends) = (0..shards)
            .map(|_| {
                let (inbox, end) = unbounded();
                let status =
                    ShardStatus { any_moved_on: Arc::clone(&any_moved_on), ..ShardStatus::default() };
                (ShardHandle { inbox: Arc::new(inbox), status: Arc::new(status) }, Some(end))
            })
            .unzip::<_, _, Vec<_>, _>();
        let peers = Peers { handles: handles.into(), unfinished: Arc::default(), stopping: Arc::default() };
        Network { ends, peers }
    }
}

impl Peers {
    /// Whether nothing is under way between shards, and nothing will be.
    fn are_done(&self) -> bool {
        self.stopping.load(Ordering::SeqCst) == self.handles.len()
            && self.unfinished.load(Ordering::SeqCst) == 0
    }
}

/// A running shard.
pub struct ShardThreads<J> {
    handle: ShardHandle,
    worker: JoinHandle<Ledger>,
    committer: JoinHandle<Result<J, StorageError>>,
    started: Instant,
}

impl<J: Journal + 'static> ShardThreads<J> {
    /// Starts the threads of a shard of the network.
    ///
    /// # Panics
    /// If the journal does not stand where the ledger does, the network has no such shard or has it running, or the
    /// system gives no thread.
    pub fn start(
        id: ShardId,
        ledger: Ledger,
        rules: super::batch::ShardRules,
        journal: J,
        now: fn() -> Timestamp,
        on_log_failure: OnLogFailure,
        network: &mut Network,
    ) -> ShardThreads<J> {
        assert_eq!(journal.position().last, ledger.last(), "the journal continues the ledger");
        let inbox = network.ends[id.index()].take().expect("a shard is started once");
        let peers = network.peers.clone();
        let handle = peers.handles[id.index()].clone();
        let status = Arc::clone(&handle.status);
        status.set_durable(ledger.last());
        let (commits_in, commits) = bounded(BATCHES_WAITING_MAX);
        let started = Instant::now();
        let shard = Arc::new(Readable::new(Shard::new(id, ledger, rules), now));
        assert!(status.shard.set(Arc::clone(&shard)).is_ok(), "a shard is started once");
        let worker = Worker {
            shard,
            inbox,
            commits: commits_in,
            status: Arc::clone(&status),
            peers: peers.clone(),
            now,
            replies: Replies::default(),
        };
        let replies = Replies::default();
        let committer = Committer { id, journal, commits, next: None, status, peers, started, replies };
        let spawn = "the system gives a thread";
        ShardThreads {
            handle,
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

    /// Asks the shard to stop. No shard of a network ends before all have been asked and what is under way between
    /// them is done, so ask all before [`ShardThreads::stop`] waits for one.
    pub fn ask_to_stop(&self) {
        // An error means that the worker has ended already, which joining it explains.
        let _ = self.handle.inbox.send(Mail::Stop);
    }

    /// Serves what is in the inbox and finishes what is under way between shards, then ends. Returns the state and the journal, both complete and durable.
    ///
    /// # Errors
    /// If the log failed.
    ///
    /// # Panics
    /// If one of the threads did.
    pub fn stop(self) -> Result<(Ledger, J), StorageError> {
        self.ask_to_stop();
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
    shard: Arc<Readable>,
    inbox: Receiver<Mail>,
    commits: Sender<Commit>,
    status: Arc<ShardStatus>,
    peers: Peers,
    now: fn() -> Timestamp,
    replies: Replies,
}

impl Worker {
    fn run(mut self) -> Ledger {
        let mut stopping = false;
        let mut next_expiry = self.shard.change(|shard| shard.next_expiry());
        loop {
            let first = match self.receive(stopping, next_expiry) {
                Ok(mail) => Some(mail),
                Err(Nothing::TimedOut) => None,
                Err(Nothing::Closed) => break,
            };
            // Only what is there already: a batch requires nothing of other shards that is younger than itself.
            let waiting = self.inbox.len();
            let mut output = Output::default();
            let mut roll = false;
            let now = (self.now)();
            let readable = Arc::clone(&self.shard);
            next_expiry = readable.change(|shard| {
                shard.expire(self.status.moment(now), &mut output);
                let mut requests_left = BATCH_REQUESTS_MAX;
                let mut next = first;
                for taken in 0.. {
                    let Some(mail) = next.take() else { break };
                    match mail {
                        // Dropped: the client hears that the shard has ended.
                        Mail::Requests(_) if stopping => {}
                        Mail::Requests(requests) => {
                            self.status.requests.fetch_sub(requests.len(), Ordering::Relaxed);
                            requests_left = requests_left.saturating_sub(requests.len());
                            for (request, to) in requests {
                                let was_locked = shard.is_locked();
                                shard.serve(request, to, self.status.moment(now), &mut output);
                                self.send(&mut output, was_locked, shard.is_locked(), false);
                            }
                        }
                        Mail::Message(message) => {
                            let was_locked = shard.is_locked();
                            shard.hear(message, self.status.moment(now), &mut output);
                            self.send(&mut output, was_locked, shard.is_locked(), true);
                        }
                        Mail::Roll => roll = true,
                        Mail::Stop if stopping => {}
                        Mail::Stop => {
                            stopping = true;
                            self.peers.stopping.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if taken < waiting && requests_left > 0 {
                        next = self.inbox.try_take();
                    }
                }
                shard.next_expiry()
            });
            output.ready.drain(..).for_each(|(to, reply)| self.replies.add(to, reply));
            self.replies.send();
            if !output.batch.is_empty() && self.commits.send(Commit::Batch(output.batch)).is_err() {
                break;
            }
            if roll && self.commits.send(Commit::Roll).is_err() {
                break;
            }
            if stopping && self.peers.are_done() {
                break;
            }
        }
        self.shard.end()
    }

    /// What comes next, or a timeout when something else is due.
    fn receive(&self, stopping: bool, next_expiry: Option<Timestamp>) -> Result<Mail, Nothing> {
        let wait = next_expiry.map(|expires| {
            let left = expires.millis().saturating_sub((self.now)().millis());
            Duration::from_millis(left).max(SECOND_LOOK)
        });
        self.inbox.take(if stopping { Some(SECOND_LOOK) } else { wait })
    }

    /// Sends what the shard has to say to others, and keeps count of what is not finished. What begins is counted
    /// before what ends is taken off, so the count is never zero too early.
    fn send(&self, output: &mut Output<ReplyTo>, was_locked: bool, is_locked: bool, was_message: bool) {
        let begun = output.messages.len() + usize::from(is_locked && !was_locked);
        let ended = usize::from(was_locked && !is_locked) + usize::from(was_message);
        if begun > 0 {
            self.peers.unfinished.fetch_add(begun, Ordering::SeqCst);
        }
        for (shard, message) in output.messages.drain(..) {
            // A shard that has ended takes the process with it, or is past all works.
            let _ = self.peers.handles[shard.index()].inbox.send(Mail::Message(message));
        }
        if ended > 0 {
            self.peers.unfinished.fetch_sub(ended, Ordering::SeqCst);
        }
    }
}

struct Committer<J> {
    id: ShardId,
    journal: J,
    commits: Receiver<Commit>,
    /// One that was looked at already, and has to wait for other shards.
    next: Option<Commit>,
    status: Arc<ShardStatus>,
    peers: Peers,
    started: Instant,
    replies: Replies,
}

impl<J: Journal> Committer<J> {
    fn run(mut self, on_log_failure: &OnLogFailure) -> Result<J, StorageError> {
        loop {
            let first = match self.next.take() {
                Some(commit) => commit,
                None => match self.commits.take(None) {
                    Ok(commit) => commit,
                    Err(_) => return Ok(self.journal),
                },
            };
            self.status.commit_began.store(self.started.elapsed().as_millis() as u64 + 1, Ordering::Release);
            let committed = self.commit(first);
            self.status.commit_began.store(0, Ordering::Release);
            if let Err(error) = committed {
                on_log_failure(self.id, &error);
                return Err(error);
            }
        }
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
                // Waiting for another shard with something appended and not synced could make a circle.
                Commit::Batch(batch) if batches > 0 && !self.is_met(&batch) => {
                    self.next = Some(Commit::Batch(batch));
                    break;
                }
                Commit::Batch(batch) => {
                    for (shard, sequence) in &batch.requires {
                        self.peers.handles[shard.index()].status.wait_durable(*sequence);
                    }
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
                next = self.commits.try_take();
            }
        }
        let position = self.journal.position();
        if position != before {
            self.journal.sync()?;
            self.status.set_durable(position.last);
        }
        for sealed in replies {
            assert!(sealed.after <= position.last, "no reply leaves before what it depends on is durable");
            self.replies.add(sealed.to, sealed.reply);
        }
        self.replies.send();
        if roll {
            self.journal.roll()?;
        }
        Ok(())
    }

    /// Whether what a batch requires of other shards is durable.
    fn is_met(&self, batch: &ProductionBatch) -> bool {
        let met = |(shard, sequence): (&ShardId, &Sequence)| {
            self.peers.handles[shard.index()].status.durable() >= *sequence
        };
        batch.requires.iter().all(met)
    }
}
