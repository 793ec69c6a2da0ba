//! The two threads of a shard: a worker, which alone changes the state, and a committer for what the worker does not commit
//! itself ([`commit`](super::commit)).
//!
//! The worker goes round: it waits for mail, or for the next hold to expire; serves what has come, at most a batch of it,
//! under one lock, and sends, after each piece of mail, what other shards are to hear of it; sends the replies that wait for
//! nothing; gives the batch to the log, where the others wait until it is durable; and begins again.
//!
//! What always holds:
//!
//! - a batch is served at one moment of the clock, read under the lock, and begins with the holds that have expired by then,
//!   as far as their accounts are free;
//! - what has come while a batch was served is in the next one: no batch requires of another shard what is younger than
//!   itself, so shards never wait for one another in a ring;
//! - shards hear one another in the order in which each has spoken, to all of them together;
//! - a shard that is asked to stop serves what came before, and ends only once all shards have been asked and no message
//!   and no lock between them is left: so the count of those is raised before it is lowered, and never zero too early;
//! - a worker ends when it learns that its log has failed; what becomes of the process is decided by who was told
//!   ([`OnLogFailure`]).
//!
//! Left out: what requests do ([`batch`](super::batch)), and when snapshots are made, which the keeper decides.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Output, Shard};
use super::commit::{COMMIT_BYTES_MAX, CommitWatch, Commits, Log, OnLogFailure, SharedLog, commits};
use super::courier::{Replies, ReplyTo};
use super::handle::{Mail, Readable, ShardHandle, ShardStatus};
use super::queue::{Nothing, Receiver, unbounded};
use crate::cores::{COMMITTERS, WORKERS};
use crate::ledger::{Ledger, ShardId, Timestamp};
use crate::storage::StorageError;
use crate::storage::journal::Journal;

/// After how many requests a batch takes no more, so that no reply waits for a commit that keeps growing.
const BATCH_REQUESTS_MAX: usize = 1024;

/// How soon a worker looks again at what it could not do: a hold that should have expired but whose account is
/// locked, or the end of works that keep it from stopping.
const SECOND_LOOK: Duration = Duration::from_millis(20);

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
    committer: JoinHandle<()>,
    log: SharedLog<J>,
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
        let log = Log::new(id, journal, Arc::clone(&peers.handles), Instant::now(), on_log_failure);
        let log = Arc::new(Mutex::new(log));
        let (commits, committer) = commits(&log);
        let shard = Shard::new(id, ledger, rules);
        status.keys_max.store(rules.keys_max, Ordering::Relaxed);
        status.set_keys(shard.keys(now()));
        let shard = Arc::new(Readable::new(shard, now));
        assert!(status.shard.set(Arc::clone(&shard)).is_ok(), "a shard is started once");
        let worker = Worker { shard, inbox, commits, status, peers, now, replies: Replies::default() };
        let spawn = "the system gives a thread";
        let (worker_begins, begun) = mpsc::channel::<()>();
        let committer_begins = worker_begins.clone();
        let worker = move || {
            drop(worker_begins);
            worker.run()
        };
        let committer = move || {
            drop(committer_begins);
            committer.run();
        };
        let worker = thread::Builder::new().name(format!("{WORKERS}{id}")).spawn(worker).expect(spawn);
        let committer =
            thread::Builder::new().name(format!("{COMMITTERS}{id}")).spawn(committer).expect(spawn);
        // A thread gives itself its name, by which others may look for it. There is nothing to receive but the end.
        let _ = begun.recv();
        ShardThreads { handle, worker, committer, log }
    }

    /// The way to the shard.
    pub fn handle(&self) -> &ShardHandle {
        &self.handle
    }

    /// What watches over the commits of the shard.
    pub fn commit_watch(&self) -> CommitWatch {
        CommitWatch { status: Arc::clone(&self.handle.status) }
    }

    /// Asks the shard to stop. No shard of a network ends before all have been asked and what is under way between
    /// them is done, so ask all before [`ShardThreads::stop`] waits for one.
    pub fn ask_to_stop(&self) {
        // An error means that the worker has ended already, which joining it explains.
        let _ = self.handle.inbox.send(Mail::Stop);
    }

    /// Serves what is in the inbox and finishes what is under way between shards, then ends. Returns the
    /// state and the journal, both complete and durable.
    ///
    /// # Errors
    /// If the log failed.
    ///
    /// # Panics
    /// If one of the threads did.
    pub fn stop(self) -> Result<(Ledger, J), StorageError> {
        self.ask_to_stop();
        let ledger = self.worker.join().expect("the worker does not panic");
        self.committer.join().expect("the committer does not panic");
        let log = Arc::into_inner(self.log).expect("both threads have ended").into_inner();
        Ok((ledger, log.into_journal()?))
    }
}

struct Worker<J> {
    shard: Arc<Readable>,
    inbox: Receiver<Mail>,
    commits: Commits<J>,
    status: Arc<ShardStatus>,
    peers: Peers,
    now: fn() -> Timestamp,
    replies: Replies,
}

impl<J: Journal> Worker<J> {
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
            let readable = Arc::clone(&self.shard);
            next_expiry = readable.change(|shard| {
                // Under the lock: who looks at the shard at a later moment then finds all that is booked at this one.
                let now = (self.now)();
                shard.expire(self.status.moment(now), &mut output);
                let mut requests_left = BATCH_REQUESTS_MAX;
                let mut next = first;
                for taken in 0.. {
                    let Some(mail) = next.take() else { break };
                    match mail {
                        // Dropped: the client hears that the shard has ended.
                        Mail::Requests(requests) if stopping => {
                            self.status.requests.fetch_sub(requests.len(), Ordering::Relaxed);
                        }
                        Mail::Requests(requests) => {
                            self.status.requests.fetch_sub(requests.len(), Ordering::Relaxed);
                            requests_left = requests_left.saturating_sub(requests.len());
                            shard.foresee(requests.iter().map(|(request, _)| request));
                            let was_locked = shard.is_locked();
                            for (request, to) in requests {
                                shard.serve(request, to, self.status.moment(now), &mut output);
                            }
                            self.send(&mut output, was_locked, shard.is_locked(), 0);
                        }
                        Mail::Messages(messages) => {
                            let (was_locked, heard) = (shard.is_locked(), messages.len());
                            for message in messages {
                                shard.hear(message, self.status.moment(now), &mut output);
                            }
                            self.send(&mut output, was_locked, shard.is_locked(), heard);
                        }
                        Mail::Roll => roll = true,
                        Mail::Stop if stopping => {}
                        Mail::Stop => {
                            stopping = true;
                            self.peers.stopping.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if taken < waiting && requests_left > 0 && output.batch.bytes() < COMMIT_BYTES_MAX {
                        next = self.inbox.try_take();
                    }
                }
                self.status.set_keys(shard.keys(now));
                shard.next_expiry()
            });
            output.ready.drain(..).for_each(|(to, reply)| self.replies.add(to, reply));
            self.replies.send();
            if !output.batch.is_empty() && self.commits.commit(output.batch).is_err() {
                break;
            }
            if roll && self.commits.roll().is_err() {
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

    /// Sends what the shard has to say to others after a piece of mail, and keeps count of what is not
    /// finished. Messages that follow one another to the same shard go in one piece of mail. What begins is
    /// counted before what ends is taken off, so the count is never zero too early.
    fn send(&self, output: &mut Output<ReplyTo>, was_locked: bool, is_locked: bool, heard: usize) {
        let begun = output.messages.len() + usize::from(is_locked && !was_locked);
        let ended = usize::from(was_locked && !is_locked) + heard;
        if begun > 0 {
            self.peers.unfinished.fetch_add(begun, Ordering::SeqCst);
        }
        // In order over all shards: what one is told must not reach it behind what another one makes of a later message.
        let mut messages = output.messages.drain(..).peekable();
        while let Some((shard, message)) = messages.next() {
            let mut mail = vec![message];
            while let Some((_, message)) = messages.next_if(|(next, _)| *next == shard) {
                mail.push(message);
            }
            // A shard that has ended takes the process with it, or is past all works.
            let _ = self.peers.handles[shard.index()].inbox.send(Mail::Messages(mail));
        }
        if ended > 0 {
            self.peers.unfinished.fetch_sub(ended, Ordering::SeqCst);
        }
    }
}
