//! The commits of a shard: what makes batches durable, and then lets their replies go (P1).
//!
//! A shard's journal is in the hands of whoever commits. That is the *committer*, a thread of its own, wherever the
//! worker has better things to do meanwhile: while one batch syncs the worker decides the next one, and the longer a
//! sync takes, the more requests share the next. And it is the worker itself where it has not: a batch of one small
//! record, in a ledger of one shard, takes the disk longer than the worker will need for all that comes meanwhile. Then
//! waking a second thread costs more than it gives: with 256 connections, a third of all context switches and 13 % of
//! the CPU of a deposit.
//!
//! What always holds:
//!
//! - batches are committed in the order in which the worker made them: it commits only while the committer has none;
//! - no reply leaves before all that it depends on is durable, in other shards, too;
//! - after an error nothing is committed any more, and nobody is answered.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Batch, Sealed};
use super::courier::{Replies, ReplyTo};
use super::handle::{ShardHandle, ShardStatus};
use super::queue::{Receiver, Sender, bounded};
use crate::ledger::{Sequence, ShardId};
use crate::storage::StorageError;
use crate::storage::journal::Journal;

/// How many batches one sync covers at most, so that no reply waits for a commit that keeps growing.
const BATCHES_PER_SYNC_MAX: usize = 4;

/// After how many bytes of events a batch takes no more mail, and a sync covers no further batch. A piece of mail may
/// bring a chunk of a list of a MiB, so what bounds requests does not bound what is written: hundreds of MB in one commit
/// would look to the watchdog like a disk that hangs, and pass the disk reserve. From 16 to 512 KiB the throughput of
/// large batches is the same, and p99 is 55 instead of the 65 ms without a bound.
pub(super) const COMMIT_BYTES_MAX: usize = 256 * 1024;

/// How many batches wait for the committer: one, so that the next one grows while the disk is busy.
const BATCHES_WAITING_MAX: usize = 1;

/// How long a commit may take. sled's IO threads can die without a word, and a disk can hang; a commit that does not
/// end is treated like one that failed.
pub const COMMIT_TIME_MAX: Duration = Duration::from_secs(10);

/// How many bytes of events the worker commits itself: some 300 deposits. A batch of transfers has more, and while that
/// is hashed and written the worker decides the next one.
const SMALL_BYTES_MAX: usize = 16 * 1024;

/// What a shard's threads call when the log fails; it should end the process. The log is in an unknown state
/// and the ledger in memory is ahead of it, so there is nothing to go on with.
pub type OnLogFailure = Arc<dyn Fn(ShardId, &StorageError) + Send + Sync>;

/// What the worker wants done with the log.
pub(super) enum Commit {
    Batch(Batch<ReplyTo>),
    Roll,
}

/// The log has failed.
pub(super) struct Failed;

/// The log, shared by the two that commit; one of them at a time.
pub(super) type SharedLog<J> = Arc<Mutex<Log<J>>>;

/// A shard's journal, and whom its syncs concern.
pub(super) struct Log<J> {
    id: ShardId,
    journal: J,
    status: Arc<ShardStatus>,
    shards: Arc<[ShardHandle]>,
    started: Instant,
    /// When the commit under way began, on the log's own clock, and how many bytes it has appended.
    began: Duration,
    bytes: u64,
    /// The replies that the next sync lets go.
    sealed: Vec<Sealed<ReplyTo>>,
    replies: Replies,
    on_failure: OnLogFailure,
    failure: Option<StorageError>,
}

impl<J: Journal> Log<J> {
    pub(super) fn new(
        id: ShardId,
        journal: J,
        shards: Arc<[ShardHandle]>,
        started: Instant,
        on_failure: OnLogFailure,
    ) -> Log<J> {
        let status = Arc::clone(&shards[id.index()].status);
        let replies = Replies::default();
        Log {
            id,
            journal,
            status,
            shards,
            started,
            began: Duration::ZERO,
            bytes: 0,
            sealed: Vec::new(),
            replies,
            on_failure,
            failure: None,
        }
    }

    /// The journal, unless the log has failed.
    pub(super) fn into_journal(self) -> Result<J, StorageError> {
        self.failure.map_or(Ok(self.journal), Err)
    }

    fn begin(&mut self) {
        self.began = self.started.elapsed();
        self.status.commit_began.store(self.began.as_millis() as u64 + 1, Ordering::Release);
    }

    /// Runs a commit, seen by the [`CommitWatch`].
    fn run(&mut self, commit: impl FnOnce(&mut Log<J>) -> Result<(), StorageError>) -> Result<(), Failed> {
        self.begin();
        commit(self).map_err(|error| {
            // First: it ends the process, and until then nobody is answered. The commit counts as begun all the while, so
            // that the watchdog ends the process if this cannot.
            (self.on_failure)(self.id, &error);
            self.sealed.clear();
            self.failure = Some(error);
            Failed
        })?;
        self.status.commit_began.store(0, Ordering::Release);
        Ok(())
    }

    /// Appends a batch, as soon as what it requires of other shards is durable.
    fn append(&mut self, batch: Batch<ReplyTo>) -> Result<(), StorageError> {
        let Batch { drafts, replies, requires } = batch;
        // First, or an error would drop them, and whoever waits would hear that the shard has ended.
        self.sealed.extend(replies);
        if !self.is_met(&requires) {
            // The first of its commit. How long another shard's disk takes is seen there, and is not this one's time.
            self.status.commit_began.store(0, Ordering::Release);
            for (shard, sequence) in &requires {
                self.shards[shard.index()].status.wait_durable(*sequence);
            }
            self.begin();
        }
        for draft in &drafts {
            let record = draft.seal_behind(self.id, &self.journal.position());
            self.journal.append(&record)?;
            self.bytes += record.len() as u64;
        }
        Ok(())
    }

    /// Makes durable what was appended, and lets the replies go.
    fn sync(&mut self) -> Result<(), StorageError> {
        let last = self.journal.position().last;
        if last != self.status.durable() {
            self.journal.sync()?;
            self.status.set_durable(last);
            self.status.commits.add(self.started.elapsed() - self.began, mem::take(&mut self.bytes));
        }
        for sealed in self.sealed.drain(..) {
            assert!(sealed.after <= last, "no reply leaves before what it depends on is durable");
            self.replies.add(sealed.to, sealed.reply);
        }
        self.replies.send();
        Ok(())
    }

    /// Whether what a batch requires of other shards is durable.
    fn is_met(&self, requires: &BTreeMap<ShardId, Sequence>) -> bool {
        let met = |(shard, sequence): (&ShardId, &Sequence)| {
            self.shards[shard.index()].status.durable() >= *sequence
        };
        requires.iter().all(met)
    }
}

/// The worker's way to the log. When it is dropped, the committer ends.
pub(super) struct Commits<J> {
    log: SharedLog<J>,
    queue: Sender<Commit>,
    /// How many commits the committer has got and not finished.
    in_hand: Arc<AtomicUsize>,
    /// Whether there are other shards, whose works would wait for this one's disk if the worker did.
    has_others: bool,
}

/// Commits what the worker hands over.
pub(super) struct Committer<J> {
    log: SharedLog<J>,
    queue: Receiver<Commit>,
    in_hand: Arc<AtomicUsize>,
    /// One that was looked at already, and has to wait for other shards.
    next: Option<Commit>,
}

/// The two sides of a log.
pub(super) fn commits<J: Journal>(log: &SharedLog<J>) -> (Commits<J>, Committer<J>) {
    let (sender, receiver) = bounded(BATCHES_WAITING_MAX);
    let in_hand = Arc::<AtomicUsize>::default();
    let has_others = log.lock().shards.len() > 1;
    let commits = Commits { log: Arc::clone(log), queue: sender, in_hand: Arc::clone(&in_hand), has_others };
    (commits, Committer { log: Arc::clone(log), queue: receiver, in_hand, next: None })
}

impl<J: Journal> Commits<J> {
    /// Commits a batch: at once if it is small and nobody else needs the worker, or else some time later.
    pub(super) fn commit(&self, batch: Batch<ReplyTo>) -> Result<(), Failed> {
        let is_small = batch.bytes() <= SMALL_BYTES_MAX;
        // Only the worker adds to the number in hand: when it is zero, nothing is ahead of the batch, and the log is free.
        if self.has_others || !is_small || self.in_hand.load(Ordering::Acquire) > 0 {
            return self.hand_over(Commit::Batch(batch));
        }
        self.log.lock().run(|log| {
            log.append(batch)?;
            log.sync()
        })
    }

    /// Ends the journal's current generation, behind all batches so far.
    pub(super) fn roll(&self) -> Result<(), Failed> {
        self.hand_over(Commit::Roll)
    }

    fn hand_over(&self, commit: Commit) -> Result<(), Failed> {
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        self.queue.send(commit).map_err(|_| Failed)
    }
}

impl<J: Journal> Committer<J> {
    pub(super) fn run(mut self) {
        while let Some(first) = self.next.take().or_else(|| self.queue.take(None).ok()) {
            let log = Arc::clone(&self.log);
            let mut done = 0;
            if log.lock().run(|log| self.commit(log, first, &mut done)).is_err() {
                return;
            }
            self.in_hand.fetch_sub(done, Ordering::Release);
        }
    }

    /// Appends a batch and those that wait behind it, and syncs once. Counts them.
    fn commit(&mut self, log: &mut Log<J>, first: Commit, done: &mut usize) -> Result<(), StorageError> {
        let mut next = Some(first);
        let mut bytes = 0;
        let mut roll = false;
        while let Some(commit) = next.take() {
            match commit {
                Commit::Roll => roll = true,
                // Waiting for another shard with something appended and not synced could make a circle.
                Commit::Batch(batch) if *done > 0 && !log.is_met(&batch.requires) => {
                    self.next = Some(Commit::Batch(batch));
                    break;
                }
                Commit::Batch(batch) => {
                    bytes += batch.bytes();
                    log.append(batch)?;
                }
            }
            *done += 1;
            if *done < BATCHES_PER_SYNC_MAX && bytes < COMMIT_BYTES_MAX && !roll {
                next = self.queue.try_take();
            }
        }
        log.sync()?;
        if roll {
            log.journal.roll()?;
        }
        Ok(())
    }
}

/// Sees a commit that does not end. Looking takes no lock and no IO.
pub struct CommitWatch {
    pub(super) status: Arc<ShardStatus>,
}

impl CommitWatch {
    /// The commit under way, by the millisecond in which it began; `None` if there is none. Whoever sees the same one
    /// twice knows that it took all that time.
    pub fn under_way(&self) -> Option<u64> {
        Some(self.status.commit_began.load(Ordering::Acquire)).filter(|began| *began > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use uuid::Uuid;

    use super::super::batch::ShardRules;
    use super::super::request::Request;
    use super::super::worker::{Network, ShardThreads};
    use super::*;
    use crate::ledger::{
        AccountName, AccountRef, Amount, Change, Command, Currency, Event, IdempotencyKey, KeyDigest, Ledger,
        OverdraftDefault, Quantity, Rejection, Target, Timestamp,
    };
    use crate::storage::journal::MemoryJournal;
    use crate::storage::journal::record::{Draft, LogPosition};

    /// How long anything may take before it counts as hanging.
    const TIME_MAX: Duration = Duration::from_secs(60);

    /// Bytes of an event that is a refusal with a request's id of that length, and a little more.
    const EVENT_BYTES: usize = 16 * 1024;

    fn shard_id() -> ShardId {
        ShardId::new(0).expect("a shard")
    }

    fn memory() -> MemoryJournal {
        MemoryJournal::new(shard_id(), LogPosition::genesis(Uuid::nil(), shard_id()))
    }

    /// A journal that tells how many bytes each sync covers. The syncs wait until the other end of `go_on` is gone.
    struct CountingJournal {
        journal: MemoryJournal,
        bytes: usize,
        synced: mpsc::Sender<usize>,
        go_on: mpsc::Receiver<()>,
    }

    impl Journal for CountingJournal {
        fn position(&self) -> LogPosition {
            self.journal.position()
        }
        fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
            self.bytes += record.len();
            self.journal.append(record)
        }
        fn sync(&mut self) -> Result<(), StorageError> {
            let _ = self.synced.send(std::mem::take(&mut self.bytes));
            let _ = self.go_on.recv();
            self.journal.sync()
        }
        fn roll(&mut self) -> Result<(), StorageError> {
            self.journal.roll()
        }
    }

    /// A batch took up to 1024 requests of whatever size, and what had piled up behind a slow sync went into one commit
    /// of hundreds of MB.
    #[test]
    fn what_has_piled_up_is_committed_in_portions_of_some_bytes() {
        const REQUESTS: usize = 128;
        let (synced, syncs) = mpsc::channel();
        let (gate, go_on) = mpsc::channel();
        let journal = CountingJournal { journal: memory(), bytes: 0, synced, go_on };
        let overdraft = OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO };
        let rules = ShardRules { overdraft, key_retention_ms: 1000, keys_max: 2 * REQUESTS };
        let now = || Timestamp::from_millis(1);
        let on_failure = Arc::new(|_, error: &StorageError| panic!("{error}"));
        let mut network = Network::new(1);
        let threads = ShardThreads::start(
            shard_id(),
            Ledger::new(shard_id()),
            rules,
            journal,
            now,
            on_failure,
            &mut network,
        );
        let ask = |number: usize| {
            let name = AccountName::parse("nobody").expect("a name");
            let target = Target { account: AccountRef::Name(name), version: None };
            let amount = Quantity::of(Amount::from_minor_units(1).expect("in range"), Currency::USD);
            let digest = KeyDigest((number as u128).to_le_bytes());
            threads.handle().ask(Request::Execute {
                command: Command::Deposit { target, amount },
                key: Some(IdempotencyKey { digest, fingerprint: [0; 16] }),
                request_id: "r".repeat(EVENT_BYTES).into(),
            })
        };
        // The first is in the disk's hands, the second waits for the committer, the worker waits with the third.
        let mut asked = Vec::new();
        for number in 0..3 {
            asked.push(ask(number));
            let until = Instant::now() + TIME_MAX;
            while threads.handle().status.requests.load(Ordering::Relaxed) > 0 {
                assert!(Instant::now() < until, "request {number} is not taken");
                thread::yield_now();
            }
        }
        asked.extend((3..REQUESTS).map(ask));
        drop(gate);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let answers = async {
            for reply in asked {
                reply.await.expect("an answer");
            }
        };
        let answers = async { tokio::time::timeout(TIME_MAX, answers).await };
        runtime.expect("a runtime").block_on(answers).expect("nobody waits for ever");
        let figures = threads.handle().figures();
        threads.stop().expect("the log is intact");
        let syncs: Vec<usize> = syncs.iter().collect();
        assert!(syncs.iter().sum::<usize>() > REQUESTS * EVENT_BYTES, "all of it was written: {syncs:?}");
        // A batch that is nearly full, and behind it a full one with a last piece of mail.
        let most = 2 * COMMIT_BYTES_MAX + 2 * EVENT_BYTES;
        assert!(syncs.iter().all(|bytes| *bytes < most), "{syncs:?}");
        assert_eq!(figures.durable.get(), REQUESTS as u64);
        assert_eq!((figures.keys, figures.keys_max), (REQUESTS, 2 * REQUESTS));
        assert_eq!(figures.commits.classes.iter().sum::<u64>(), syncs.len() as u64, "each is counted once");
        assert_eq!(figures.commits.bytes, syncs.iter().sum::<usize>() as u64);
    }

    /// The watchdog took a commit for ended as soon as it had failed, and with it whoever was to end the process for that,
    /// which can hang.
    #[test]
    fn a_commit_that_failed_stays_in_the_watchdogs_sight() {
        let shards: Arc<[ShardHandle]> = Arc::from([ShardHandle::of_nobody()]);
        let status = Arc::clone(&shards[0].status);
        let watch = CommitWatch { status };
        let seen = Arc::<AtomicUsize>::default();
        let on_failure: OnLogFailure = {
            let (watch, seen) = (CommitWatch { status: Arc::clone(&watch.status) }, Arc::clone(&seen));
            Arc::new(move |_, _| {
                seen.fetch_add(usize::from(watch.under_way().is_some()), Ordering::Relaxed);
            })
        };
        let mut log = Log::new(shard_id(), memory(), shards, Instant::now(), on_failure);
        assert!(log.run(|_| Ok(())).is_ok());
        assert_eq!(watch.under_way(), None);
        let failed = || StorageError::Journal { action: "sync", path: "x".into(), reason: "x".into() };
        assert!(log.run(|_| Err(failed())).is_err());
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        assert!(watch.under_way().is_some());
    }

    /// Shards that waited for one another's disks passed the watchdog's limit together, though no disk took that long.
    #[test]
    fn a_commit_begins_when_what_it_waits_for_is_durable() {
        let other = ShardId::new(1).expect("a shard");
        let shards: Arc<[ShardHandle]> = Arc::from([ShardHandle::of_nobody(), ShardHandle::of_nobody()]);
        let statuses = [0, 1].map(|index: usize| Arc::clone(&shards[index].status));
        let started = Instant::now();
        let on_failure: OnLogFailure = Arc::new(|_, error| panic!("{error}"));
        let mut log = Log::new(shard_id(), memory(), shards, started, on_failure);
        let (tell, told) = mpsc::channel();
        let began = thread::spawn(move || {
            let mut began = 0;
            let requires = [(other, Sequence::FIRST)].into();
            let ran = log.run(|log| {
                tell.send(()).expect("somebody listens");
                log.append(Batch { requires, ..Batch::default() })?;
                began = log.status.commit_began.load(Ordering::Acquire);
                Ok(())
            });
            assert!(ran.is_ok());
            began
        });
        told.recv_timeout(TIME_MAX).expect("it has begun");
        let watch = CommitWatch { status: Arc::clone(&statuses[0]) };
        while watch.under_way().is_some() {
            assert!(started.elapsed() < TIME_MAX, "what it waits for counts as its own time");
            thread::yield_now();
        }
        let waited = started.elapsed();
        statuses[1].set_durable(Sequence::FIRST);
        assert!(u128::from(began.join().expect("no panic")) > waited.as_millis());
        assert_eq!(watch.under_way(), None);
    }

    /// Four batches were merged however large they were.
    #[test]
    fn a_sync_covers_a_further_batch_only_behind_a_small_one() {
        for (count, merged) in [(1, 2), (COMMIT_BYTES_MAX / EVENT_BYTES, 1)] {
            let shards = Arc::from([ShardHandle::of_nobody()]);
            let on_failure: OnLogFailure = Arc::new(|_, error| panic!("{error}"));
            let log = Log::new(shard_id(), memory(), shards, Instant::now(), on_failure);
            let log = Arc::new(Mutex::new(log));
            let (commits, mut committer) = commits(&log);
            assert!(commits.hand_over(Commit::Batch(batch(1 + count, 1))).is_ok());
            let mut done = 0;
            let first = Commit::Batch(batch(1, count));
            committer.commit(&mut log.lock(), first, &mut done).expect("committed");
            assert_eq!(done, merged);
        }
    }

    /// A journal during each of whose appends another batch comes.
    struct EndlessJournal {
        journal: MemoryJournal,
        queue: Sender<Commit>,
    }

    impl Journal for EndlessJournal {
        fn position(&self) -> LogPosition {
            self.journal.position()
        }
        fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
            self.journal.append(record)?;
            let next = self.journal.position().last.next().get() as usize;
            assert!(self.queue.send(Commit::Batch(batch_of(1, next, 1))).is_ok());
            Ok(())
        }
        fn sync(&mut self) -> Result<(), StorageError> {
            self.journal.sync()
        }
        fn roll(&mut self) -> Result<(), StorageError> {
            self.journal.roll()
        }
    }

    /// P7: no reply waits for a commit that keeps growing.
    #[test]
    fn a_sync_covers_some_batches_however_many_come() {
        let (queue, receiver) = bounded(BATCHES_WAITING_MAX);
        let journal = EndlessJournal { journal: memory(), queue };
        let shards = Arc::from([ShardHandle::of_nobody()]);
        let on_failure: OnLogFailure = Arc::new(|_, error| panic!("{error}"));
        let log = Log::new(shard_id(), journal, shards, Instant::now(), on_failure);
        let log = Arc::new(Mutex::new(log));
        let in_hand = Arc::default();
        let mut committer = Committer { log: Arc::clone(&log), queue: receiver, in_hand, next: None };
        for commit in 1..=3 {
            let first = committer.queue.try_take().unwrap_or_else(|| Commit::Batch(batch_of(1, 1, 1)));
            let mut done = 0;
            committer.commit(&mut log.lock(), first, &mut done).expect("committed");
            assert_eq!(done, BATCHES_PER_SYNC_MAX);
            let durable = log.lock().status.durable().get();
            assert_eq!(durable, (commit * BATCHES_PER_SYNC_MAX) as u64, "an event each");
        }
    }

    /// A batch with so many large events from a sequence on.
    fn batch(first: usize, count: usize) -> Batch<ReplyTo> {
        batch_of(EVENT_BYTES, first, count)
    }

    fn batch_of(event_bytes: usize, first: usize, count: usize) -> Batch<ReplyTo> {
        let rejection = Rejection::AccountNotFound;
        let change = Change::Refused { rejection, request_id: "r".repeat(event_bytes).into() };
        let event = Event { time: Timestamp::from_millis(1), key: None, change };
        let first = Sequence::new(first as u64).expect("in range");
        let draft = Draft::group(first, &vec![event; count]).expect("it fits");
        Batch { drafts: vec![draft], ..Batch::default() }
    }

    /// P2: the worker commits a small batch itself, but not past a large one that the committer has.
    #[test]
    fn a_small_batch_stays_behind_a_large_one() {
        let shards = Arc::from([ShardHandle::of_nobody()]);
        let on_failure: OnLogFailure = Arc::new(|_, error| panic!("{error}"));
        let log = Log::new(shard_id(), memory(), shards, Instant::now(), on_failure);
        let log = Arc::new(Mutex::new(log));
        let (commits, committer) = commits(&log);
        let small = || batch_of(1, 2, 1);
        assert!(small().bytes() <= SMALL_BYTES_MAX && batch(1, 1).bytes() > SMALL_BYTES_MAX);
        assert!(commits.commit(batch(1, 1)).is_ok());
        assert!(committer.queue.try_take().is_some(), "the committer has it in hand");
        assert!(commits.commit(small()).is_ok());
        assert!(committer.queue.try_take().is_some(), "it waits behind it");
    }

    /// Two shards that each waited for the other with something appended and not synced would wait for ever.
    #[test]
    fn what_waits_for_another_shard_does_not_hold_up_what_is_appended() {
        let shards: Arc<[ShardHandle]> = Arc::from([ShardHandle::of_nobody(), ShardHandle::of_nobody()]);
        let on_failure: OnLogFailure = Arc::new(|_, error| panic!("{error}"));
        let log = Log::new(shard_id(), memory(), shards, Instant::now(), on_failure);
        let log = Arc::new(Mutex::new(log));
        let (commits, mut committer) = commits(&log);
        let requires = [(ShardId::new(1).expect("a shard"), Sequence::FIRST)].into();
        assert!(commits.hand_over(Commit::Batch(Batch { requires, ..batch(2, 1) })).is_ok());
        let (tell, told) = mpsc::channel();
        let committing = thread::spawn(move || {
            let mut done = 0;
            let first = Commit::Batch(batch(1, 1));
            committer.commit(&mut log.lock(), first, &mut done).expect("committed");
            tell.send((done, committer.next.is_some())).expect("somebody listens");
        });
        assert_eq!(told.recv_timeout(TIME_MAX), Ok((1, true)));
        committing.join().expect("no panic");
    }
}
