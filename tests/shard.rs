//! The shard's threads and its rules at their edges: what waits, what is refused at once, what a failing log does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use teller::ledger::{
    AccountName, AccountRef, Amount, Command, IdempotencyKey, KeyDigest, Ledger, Rejection, Sequence,
    ShardId, Target, Timestamp,
};
use teller::shard::batch::{Batch, Moment, Reply, Request, Shard, ShardRules};
use teller::shard::handle::ShardError;
use teller::shard::worker::ShardThreads;
use teller::storage::StorageError;
use teller::storage::journal::record::LogPosition;
use teller::storage::journal::{Journal, MemoryJournal};
use uuid::Uuid;

fn shard_id() -> ShardId {
    ShardId::new(0).expect("in range")
}

fn amount(units: i128) -> Amount {
    Amount::from_minor_units(units).expect("in range")
}

fn rules() -> ShardRules {
    ShardRules { overdraft_limit: amount(5000), key_retention_ms: 1000, keys_max: 2 }
}

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("valid")
}

fn open(text: &str) -> Command {
    Command::Open { name: name(text), overdraft_limit: None }
}

fn deposit(text: &str) -> Command {
    let target = Target { account: AccountRef::Name(name(text)), version: None };
    Command::Deposit { target, amount: amount(100) }
}

fn execute(command: Command, key: Option<u8>) -> Request {
    let key = key.map(|key| IdempotencyKey { digest: KeyDigest([key; 16]), fingerprint: [key; 16] });
    Request::Execute { command, key, request_id: "r-1".into() }
}

fn moment(millis: u64, durable: u64) -> Moment {
    Moment {
        now: Timestamp::from_millis(millis),
        durable: Sequence::new(durable).expect("in range"),
        disk_full: false,
    }
}

/// A shard without threads, and the batch that it fills.
struct Bench {
    shard: Shard,
    batch: Batch<()>,
}

impl Bench {
    fn new() -> Bench {
        Bench { shard: Shard::new(shard_id(), Ledger::new(), rules()), batch: Batch::default() }
    }

    fn serve(&mut self, request: Request, moment: Moment) -> (Reply, u64) {
        let (reply, after) = self.shard.serve(request, moment, &mut self.batch);
        (reply, after.get())
    }
}

/// P5: until the first request is durable, a second one with its key hears that it is in flight; from then on it
/// gets the first one's outcome; with another body it is refused.
#[test]
fn a_key_is_in_flight_then_settled_and_never_another_request_s() {
    let mut bench = Bench::new();
    assert!(matches!(bench.serve(execute(open("a"), Some(1)), moment(1, 0)), (Reply::Executed { .. }, 1)));
    assert_eq!(bench.serve(execute(open("a"), Some(1)), moment(2, 0)), (Reply::KeyInFlight, 0));
    assert_eq!(bench.serve(execute(open("a"), Some(1)), moment(3, 1)), (Reply::Settled(Sequence::FIRST), 1));
    let key = IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [9; 16] };
    let other = Request::Execute { command: open("b"), key: Some(key), request_id: "r-2".into() };
    assert_eq!(bench.serve(other, moment(4, 1)), (Reply::KeyReused, 1));
    assert_eq!(bench.shard.ledger().last(), Sequence::FIRST, "nothing of that was recorded");
}

/// A refusal with a key is an event: the retry gets it, though by then the account exists.
#[test]
fn a_refusal_with_a_key_is_kept() {
    let mut bench = Bench::new();
    let (reply, after) = bench.serve(execute(deposit("a"), Some(1)), moment(1, 0));
    assert_eq!((reply, after), (Reply::Refused(Rejection::AccountNotFound), 1));
    bench.serve(execute(open("a"), None), moment(2, 1));
    assert_eq!(
        bench.serve(execute(deposit("a"), Some(1)), moment(3, 2)),
        (Reply::Settled(Sequence::FIRST), 1)
    );
    let without_key = bench.serve(execute(deposit("b"), None), moment(4, 2));
    assert_eq!(without_key, (Reply::Refused(Rejection::AccountNotFound), 2));
    assert_eq!(bench.shard.ledger().last().get(), 2, "a refusal without a key leaves no trace");
}

/// P7: the keys are bounded. A new one is refused while the shard remembers as many as it may, a known one is
/// answered, and room comes back with time.
#[test]
fn keys_are_bounded_and_room_comes_back() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), Some(1)), moment(1, 0));
    bench.serve(execute(deposit("a"), Some(2)), moment(2, 1));
    assert_eq!(bench.serve(execute(deposit("a"), Some(3)), moment(3, 2)).0, Reply::KeysExhausted);
    assert_eq!(
        bench.serve(execute(deposit("a"), Some(2)), moment(3, 2)).0,
        Reply::Settled(Sequence::FIRST.next())
    );
    // Though nothing has happened since that could have forgotten an expired one.
    assert_eq!(bench.serve(execute(deposit("a"), Some(3)), moment(1000, 2)).0, Reply::KeysExhausted);
    assert!(matches!(bench.serve(execute(deposit("a"), Some(3)), moment(1001, 2)).0, Reply::Executed { .. }));
    assert_eq!(bench.serve(execute(deposit("a"), Some(4)), moment(1001, 3)).0, Reply::KeysExhausted);
    assert!(matches!(bench.serve(execute(deposit("a"), Some(4)), moment(1002, 3)).0, Reply::Executed { .. }));
}

/// A claim that is repeated lasts as long as one that is made then: it must outlive the outcome that follows it.
#[test]
fn a_repeated_claim_is_renewed() {
    let mut bench = Bench::new();
    let claim = |key| execute(Command::Claim, Some(key));
    assert_eq!(bench.serve(claim(1), moment(1, 0)), (Reply::Claimed, 1));
    assert_eq!(bench.serve(claim(1), moment(900, 1)), (Reply::Claimed, 2));
    let other = IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [9; 16] };
    let other = Request::Execute { command: Command::Claim, key: Some(other), request_id: "r-2".into() };
    assert_eq!(bench.serve(other.clone(), moment(1899, 2)).0, Reply::KeyReused);
    assert_eq!(bench.serve(other, moment(1900, 2)).0, Reply::Claimed);
}

/// A full disk refuses whatever would be recorded, and only that: reads and known keys are answered.
#[test]
fn a_full_disk_refuses_changes_and_answers_the_rest() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), Some(1)), moment(1, 0));
    let full = Moment { disk_full: true, ..moment(2, 1) };
    assert_eq!(bench.serve(execute(deposit("a"), None), full), (Reply::DiskFull, 0));
    assert_eq!(bench.serve(execute(deposit("a"), Some(2)), full), (Reply::DiskFull, 0));
    assert_eq!(bench.serve(execute(open("a"), Some(1)), full).0, Reply::Settled(Sequence::FIRST));
    let (reply, _) = bench.serve(Request::Account(AccountRef::Name(name("a"))), full);
    assert!(matches!(reply, Reply::Account(Some(_))));
    assert_eq!(bench.shard.ledger().last(), Sequence::FIRST);
}

/// A clock that is set back makes no event earlier than the one before.
#[test]
fn time_never_runs_backwards_in_a_shard() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), None), moment(5000, 0));
    let (reply, _) = bench.serve(execute(deposit("a"), None), moment(10, 1));
    let Reply::Executed { event, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(event.time, Timestamp::from_millis(5000));
}

/// A journal whose syncs wait for a word, so that a test decides when something becomes durable.
struct GatedJournal {
    journal: MemoryJournal,
    /// Told when a sync begins.
    began: Sender<()>,
    /// A sync ends when it gets something; when the other end is gone, at once.
    go_on: Receiver<()>,
}

impl Journal for GatedJournal {
    fn position(&self) -> LogPosition {
        self.journal.position()
    }
    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        self.journal.append(record)
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        let _ = self.began.try_send(());
        let _ = self.go_on.recv();
        self.journal.sync()
    }
    fn roll(&mut self) -> Result<(), StorageError> {
        self.journal.roll()
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1)
}

fn gated() -> (ShardThreads<GatedJournal>, Receiver<()>, Sender<()>) {
    let (began, begins) = bounded(1);
    let (gate, go_on) = bounded(0);
    let position = LogPosition::genesis(Uuid::nil(), shard_id());
    let journal = GatedJournal { journal: MemoryJournal::new(shard_id(), position), began, go_on };
    let shard = Shard::new(shard_id(), Ledger::new(), rules());
    let threads =
        ShardThreads::start(shard_id(), shard, journal, now, Arc::new(|_, error| panic!("{error}")));
    (threads, begins, gate)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// P1: no reply leaves before its sync has ended; not even that of a read which saw the change.
#[test]
fn replies_wait_for_the_sync_and_reads_of_what_is_not_durable_wait_too() {
    let (threads, begins, gate) = gated();
    runtime().block_on(async {
        let handle = threads.handle().clone();
        let opening = tokio::spawn({
            let handle = handle.clone();
            async move { handle.ask(execute(open("a"), Some(1))).await }
        });
        tokio::task::yield_now().await;
        begins.recv().expect("the sync begins");
        let reading = tokio::spawn({
            let handle = handle.clone();
            async move { handle.ask(Request::Account(AccountRef::Name(name("a")))).await }
        });
        tokio::task::yield_now().await;
        // This leaves at once, and the shard serves it behind the read: so the read has been served by then, too.
        assert_eq!(handle.ask(execute(open("a"), Some(1))).await, Ok(Reply::KeyInFlight));
        tokio::task::yield_now().await;
        assert_eq!(handle.durable(), Sequence::NONE);
        assert!(!opening.is_finished() && !reading.is_finished());
        // What the watchdog looks at: a commit that has begun and not ended.
        assert!(threads.commit_watch().busy_for().is_some());
        gate.send(()).expect("the sync waits");
        assert!(matches!(opening.await.expect("no panic"), Ok(Reply::Executed { .. })));
        assert!(matches!(reading.await.expect("no panic"), Ok(Reply::Account(Some(_)))));
        assert_eq!(handle.durable(), Sequence::FIRST);
    });
    let watch = threads.commit_watch();
    drop(gate);
    threads.stop().expect("the log is intact");
    assert_eq!(watch.busy_for(), None);
}

/// P7: while the disk is stuck, the inbox fills up; past its end a request is refused at once, and whatever was
/// taken in is answered once the disk goes on.
#[test]
fn a_full_inbox_refuses_at_once_and_loses_nothing() {
    let (threads, _begins, gate) = gated();
    let refused = runtime().block_on(async {
        let handle = threads.handle().clone();
        let answered = Arc::new(AtomicUsize::new(0));
        let mut asked = Vec::new();
        // The first requests are under way; the inbox behind them takes some thousands.
        let refused = loop {
            let (handle, answered) = (handle.clone(), Arc::clone(&answered));
            let number = asked.len();
            assert!(number < 100_000, "the inbox has an end");
            let task = tokio::spawn(async move {
                let reply = handle.ask(execute(open(&format!("account-{number}")), None)).await;
                answered.fetch_add(1, Ordering::SeqCst);
                reply
            });
            tokio::task::yield_now().await;
            if task.is_finished() {
                break task.await.expect("no panic");
            }
            asked.push(task);
        };
        assert_eq!(answered.load(Ordering::SeqCst), 1, "only the refusal was answered");
        drop(gate);
        for task in asked {
            assert!(matches!(task.await.expect("no panic"), Ok(Reply::Executed { .. })));
        }
        refused
    });
    assert_eq!(refused, Err(ShardError::Overloaded));
    threads.stop().expect("the log is intact");
}

/// A sync that fails is told to whoever ends the process, and nobody gets a reply to what it was to make durable.
#[test]
fn a_failing_log_is_reported_and_acknowledges_nothing() {
    let mut journal = MemoryJournal::new(shard_id(), LogPosition::genesis(Uuid::nil(), shard_id()));
    journal.fail_next_sync();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let on_failure = {
        let failures = Arc::clone(&failures);
        Arc::new(move |shard: ShardId, error: &StorageError| {
            failures.lock().expect("no panic").push((shard, error.to_string()));
        })
    };
    let shard = Shard::new(shard_id(), Ledger::new(), rules());
    let threads = ShardThreads::start(shard_id(), shard, journal, now, on_failure);
    let reply = runtime().block_on(threads.handle().ask(execute(open("a"), None)));
    assert_eq!(reply, Err(ShardError::Ended));
    assert!(threads.stop().is_err());
    assert_eq!(failures.lock().expect("no panic").len(), 1);
}
