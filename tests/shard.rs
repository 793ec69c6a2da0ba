//! The shard's threads and its rules at their edges: what waits, what is refused at once, what a failing log does.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use teller::ledger::operation::{HomedKey, Item, Opening, Operation, Place, PlainTransfer, Sum};
use teller::ledger::workspace::{Needs, ReferenceAccount};
use teller::ledger::{
    AccountName, AccountNumber, AccountRef, Amount, Command, Currency, ExcessDecimals, HoldId, HoldKey,
    HoldOutcome, HoldStatus, IdempotencyKey, ItemOutcome, KeyDigest, Ledger, LinkKind, Note,
    OverdraftDefault, Quantity, Reference, Rejected, Rejection, Sequence, ShardId, Target, Terms, Timestamp,
};
use teller::shard::batch::{Moment, Output, Shard, ShardRules};
use teller::shard::handle::{Asked, ShardError, ShardHandle};
use teller::shard::request::{AccountFilter, Reply, Request};
use teller::shard::work::{ItemReply, Message, PlainList, WorkReply, WorkRequest};
use teller::shard::worker::{Network, ShardThreads};
use teller::storage::StorageError;
use teller::storage::journal::record::{Draft, LogPosition};
use teller::storage::journal::{Journal, MemoryJournal};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use uuid::Uuid;

/// How long anything may take before it counts as hanging.
const TIME_MAX: Duration = Duration::from_secs(60);

fn shard_id() -> ShardId {
    ShardId::new(0).expect("in range")
}

fn rules() -> ShardRules {
    let limit = Amount::from_minor_units(5000).expect("in range");
    let overdraft = OverdraftDefault { currency: Currency::USD, limit };
    ShardRules { overdraft, key_retention_ms: 1000, keys_max: 2 }
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text, ExcessDecimals::Refuse).expect("a quantity")
}

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("valid")
}

fn open(text: &str) -> Command {
    Command::Open { name: name(text), currency: Currency::USD, overdraft_limit: None }
}

fn deposit(text: &str) -> Command {
    let target = Target { account: AccountRef::Name(name(text)), version: None };
    Command::Deposit { target, amount: quantity("1") }
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

/// A shard without threads, and what comes out of it.
struct Bench {
    shard: Shard<u32>,
    output: Output<u32>,
}

impl Bench {
    fn new() -> Bench {
        Bench::of(shard_id(), rules())
    }

    fn of(id: ShardId, rules: ShardRules) -> Bench {
        Bench { shard: Shard::new(id, Ledger::new(id), rules), output: Output::default() }
    }

    /// The reply, and the last event that it waits for; 0 if it need not wait.
    fn serve(&mut self, request: Request, moment: Moment) -> (Reply, u64) {
        self.shard.serve(request, 0, moment, &mut self.output);
        self.replies().pop().map(|(_, reply, after)| (reply, after)).expect("an answer")
    }

    /// The answers since the last call: whom they are for, what they say, what they wait for.
    fn replies(&mut self) -> Vec<(u32, Reply, u64)> {
        let ready = self.output.ready.drain(..).map(|(to, reply)| (to, reply, 0));
        let sealed = self.output.batch.replies.drain(..);
        ready.chain(sealed.map(|sealed| (sealed.to, sealed.reply, sealed.after.get()))).collect()
    }

    fn ask(&mut self, to: u32, request: Request) {
        self.shard.serve(request, to, moment(1, 100), &mut self.output);
    }
}

/// P5: until the first request is durable, a second one with its key hears that it is in flight; from then on it
/// gets the first one's outcome; with another body it is refused.
#[test]
fn a_key_is_in_flight_then_settled_and_never_another_request_s() {
    let mut bench = Bench::new();
    assert!(matches!(bench.serve(execute(open("a"), Some(1)), moment(1, 0)), (Reply::Executed { .. }, 1)));
    assert_eq!(bench.serve(execute(open("a"), Some(1)), moment(2, 0)), (Reply::KeyInFlight, 0));
    assert_eq!(bench.serve(execute(open("a"), Some(1)), moment(3, 1)), (Reply::Settled(Sequence::FIRST), 0));
    let key = IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [9; 16] };
    let other = || Request::Execute { command: open("b"), key: Some(key), request_id: "r-2".into() };
    assert_eq!(bench.serve(other(), moment(4, 1)), (Reply::KeyReused, 0));
    // P1: the use that it contradicts can still be undone.
    assert_eq!(bench.serve(other(), moment(4, 0)), (Reply::KeyReused, 1));
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
        (Reply::Settled(Sequence::FIRST), 0)
    );
    let without_key = bench.serve(execute(deposit("b"), None), moment(4, 2));
    assert_eq!(without_key, (Reply::Refused(Rejection::AccountNotFound), 0));
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

/// P1: that there is no room for another key is told only when the use that took the last place cannot be undone.
#[test]
fn that_keys_are_exhausted_waits_for_the_key_that_was_the_last() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), Some(1)), moment(1, 0));
    bench.serve(execute(deposit("a"), Some(2)), moment(2, 1));
    assert_eq!(bench.serve(execute(deposit("a"), Some(3)), moment(2, 1)), (Reply::KeysExhausted, 2));
    assert_eq!(bench.serve(execute(deposit("a"), Some(3)), moment(2, 2)), (Reply::KeysExhausted, 0));
}

/// P1: the same of works, whose items have keys of their own, and other accounts than those uses.
#[test]
fn what_a_work_says_of_keys_waits_for_the_uses_that_it_depends_on() {
    let mut bench = Bench::new();
    ["a", "b"].iter().for_each(|text| drop(bench.serve(execute(open(text), None), moment(1, 0))));
    let mut pay = |text: &str, number: u8, fingerprint: u8, durable| {
        let account = AccountRef::Name(name(text));
        let place = Place { shard: shard_id(), account: account.clone() };
        let deposit = Operation::Deposit { account: place, amount: quantity("1"), note: Note::default() };
        let key = IdempotencyKey { digest: KeyDigest([number; 16]), fingerprint: [fingerprint; 16] };
        let needs = Needs { accounts: vec![account].into(), keys: vec![key], ..Needs::default() };
        let key = Some(HomedKey { home: shard_id(), key });
        let request = work(vec![item(deposit, key)], false, None, vec![(0, needs)]);
        let (reply, after) = bench.serve(request, moment(1, durable));
        let Reply::Worked(WorkReply::Items(items)) = reply else { panic!("{reply:?}") };
        (items[0].clone(), after)
    };
    pay("a", 1, 1, 2);
    assert_eq!(pay("b", 1, 9, 2), (ItemReply::Not(ItemOutcome::KeyReused), 3));
    pay("a", 2, 2, 3);
    assert_eq!(pay("b", 3, 3, 3), (ItemReply::Not(ItemOutcome::KeysExhausted), 4));
    assert_eq!(pay("b", 3, 3, 4), (ItemReply::Not(ItemOutcome::KeysExhausted), 0));
}

/// P1: the sums of a shard say what its newest event did.
#[test]
fn a_trial_balance_waits_for_all_that_it_adds_up() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), None), moment(1, 0));
    bench.serve(execute(deposit("a"), None), moment(1, 1));
    assert!(matches!(bench.serve(Request::TrialBalance, moment(1, 1)), (Reply::TrialBalance(_), 2)));
    assert!(matches!(bench.serve(Request::TrialBalance, moment(1, 2)), (Reply::TrialBalance(_), 0)));
}

/// P7: plain transfers are executed at once, but not past a full disk.
#[test]
fn a_full_disk_refuses_plain_transfers_too() {
    let pay = || {
        let place = |text| Place { shard: shard_id(), account: AccountRef::Name(name(text)) };
        let amount = Sum::Exactly(quantity("0.01"));
        item(Operation::Transfer { from: place("a"), to: place("b"), amount, note: Note::default() }, None)
    };
    let accounts = ["a", "b"].map(|text| AccountRef::Name(name(text)));
    let needs = Needs { accounts: accounts.into_iter().collect(), ..Needs::default() };
    let plain = PlainTransfer::of(pay().operation).expect("a plain one").1;
    let list = PlainList { shard: shard_id(), transfers: vec![plain] };
    for request in [
        Request::Work(Box::new(WorkRequest::plain(list, true))),
        work(vec![pay()], false, None, vec![(0, needs)]),
    ] {
        let mut bench = Bench::new();
        ["a", "b"].iter().for_each(|text| drop(bench.serve(execute(open(text), None), moment(1, 100))));
        let full = Moment { disk_full: true, ..moment(1, 100) };
        assert_eq!(bench.serve(request, full).0, Reply::Worked(WorkReply::DiskFull));
        assert_eq!(bench.shard.ledger().last().get(), 2);
    }
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

/// P5: on a full disk, a transfer with a known key was refused as if nothing had been done. It has been, and its
/// outcome is told; what would be recorded anew is refused, and what is refused anyhow says why.
#[test]
fn a_full_disk_keeps_no_outcome_of_a_work_from_being_told() {
    let mut benches = benches::<2>();
    let full = Moment { disk_full: true, ..moment(1, 100) };
    let mut serve = |request, moment| {
        let [bench, _] = &mut benches;
        let (reply, _) = bench.serve(request, moment);
        let Reply::Worked(reply) = reply else { panic!("{reply:?}") };
        reply
    };
    let known = || transfer(0, 0, Some(key_at(0, 1)));
    assert!(matches!(serve(known(), moment(1, 100)), WorkReply::Items(_)));
    let WorkReply::Items(items) = serve(known(), full) else { panic!("it is told") };
    assert!(matches!(items[..], [ItemReply::Not(ItemOutcome::Settled(_))]), "{items:?}");
    assert_eq!(serve(transfer(0, 0, Some(key_at(0, 2))), full), WorkReply::DiskFull);
    let WorkReply::Items(items) = serve(transfer(0, 0, None), full) else { panic!("it is refused anyhow") };
    assert!(matches!(items[..], [ItemReply::Not(ItemOutcome::Refused(_))]), "{items:?}");
    assert_eq!(benches[0].shard.ledger().last(), Sequence::FIRST.next());
}

/// P7: a shard that may record nothing was written to all the same, by whoever decided about its accounts.
#[test]
fn nothing_is_decided_about_a_shard_that_may_record_nothing() {
    let mut benches = benches::<2>();
    benches[0].serve(execute(deposit("a"), None), moment(1, 100));
    let full = Moment { disk_full: true, ..moment(1, 100) };
    let Bench { shard, output } = &mut benches[0];
    shard.serve(transfer(0, 1, None), 9, full, output);
    carry(&mut benches, 0);
    assert_eq!(
        benches[1].replies().pop().map(|(_, reply, _)| reply),
        Some(Reply::Worked(WorkReply::DiskFull))
    );
    carry(&mut benches, 1);
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
    assert_eq!(benches.map(|bench| bench.shard.ledger().last().get()), [2, 1]);
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

/// The first of so many shards. Among others its committer has the log; alone, its worker commits what is small.
fn gated(shards: usize) -> (ShardThreads<GatedJournal>, Receiver<()>, Sender<()>) {
    let (began, begins) = bounded(1);
    let (gate, go_on) = bounded(0);
    let position = LogPosition::genesis(Uuid::nil(), shard_id());
    let journal = GatedJournal { journal: MemoryJournal::new(shard_id(), position), began, go_on };
    let on_failure = Arc::new(|_, error: &StorageError| panic!("{error}"));
    let ledger = Ledger::new(shard_id());
    let mut network = Network::new(shards);
    let threads = ShardThreads::start(shard_id(), ledger, rules(), journal, now, on_failure, &mut network);
    (threads, begins, gate)
}

/// P2: a worker that took the time, and was then kept from its shard, booked in a moment that a reader had been told to be
/// over. The time is taken when nobody can look.
#[test]
fn a_batch_takes_its_time_when_nobody_can_look_at_the_shard() {
    static HANDLE: OnceLock<ShardHandle> = OnceLock::new();
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    fn looking() -> Timestamp {
        // Looking asks for the time, too.
        if thread::current().name() == Some("shard-0")
            && let Some(handle) = HANDLE.get()
            && LOOKS.fetch_add(1, Ordering::SeqCst) == 0
        {
            SEEN.fetch_add(
                usize::from(handle.glance(&AccountRef::Name(name("a"))).is_some()),
                Ordering::SeqCst,
            );
        }
        now()
    }
    let journal = MemoryJournal::new(shard_id(), LogPosition::genesis(Uuid::nil(), shard_id()));
    let on_failure = Arc::new(|_, error: &StorageError| panic!("{error}"));
    let ledger = Ledger::new(shard_id());
    let mut network = Network::new(1);
    let threads =
        ShardThreads::start(shard_id(), ledger, rules(), journal, looking, on_failure, &mut network);
    answered(threads.handle().ask(execute(open("a"), None))).expect("opened");
    assert!(HANDLE.set(threads.handle().clone()).is_ok());
    answered(threads.handle().ask(execute(deposit("a"), None))).expect("deposited");
    assert!(LOOKS.load(Ordering::SeqCst) > 0 && SEEN.load(Ordering::SeqCst) == 0);
    ended(threads).expect("no error");
}

/// Waits for what has to come, on this thread.
fn answered<T>(waited_for: impl Future<Output = T>) -> T {
    answered_in(&Builder::new_current_thread().enable_time().build().expect("a runtime"), waited_for)
}

/// The same, in a runtime with threads of its own.
fn answered_in<T>(runtime: &Runtime, waited_for: impl Future<Output = T>) -> T {
    runtime.block_on(async { timeout(TIME_MAX, waited_for).await }).expect("nobody waits for ever")
}

/// A runtime with so many threads.
fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_time().build().expect("a runtime")
}

/// Ends a shard, without waiting for ever.
fn ended<J: Journal + 'static>(threads: ShardThreads<J>) -> Result<(Ledger, J), StorageError> {
    let (tell, told) = bounded(1);
    thread::spawn(move || drop(tell.send(threads.stop())));
    told.recv_timeout(TIME_MAX).expect("it ends, and does not panic")
}

/// P1: no reply leaves before its sync has ended; not even that of a read which saw the change.
#[test]
fn replies_wait_for_the_sync_and_reads_of_what_is_not_durable_wait_too() {
    let (threads, begins, gate) = gated(2);
    answered(async {
        let handle = threads.handle().clone();
        let opening = tokio::spawn({
            let handle = handle.clone();
            async move { handle.ask(execute(open("a"), Some(1))).await }
        });
        tokio::task::yield_now().await;
        begins.recv_timeout(TIME_MAX).expect("the sync begins");
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
        assert!(threads.commit_watch().under_way().is_some());
        gate.send(()).expect("the sync waits");
        assert!(matches!(opening.await.expect("no panic"), Ok(Reply::Executed { .. })));
        assert!(matches!(reading.await.expect("no panic"), Ok(Reply::Account(Some(_)))));
        assert_eq!(handle.durable(), Sequence::FIRST);
    });
    // It could not end before the other shard, which was never started, is asked to.
    drop((gate, threads));
}

/// P1: the same where the worker commits. What comes meanwhile is served behind the sync, and finds it done.
#[test]
fn a_shard_by_itself_answers_when_its_sync_has_ended() {
    let (threads, begins, gate) = gated(1);
    answered(async {
        let handle = threads.handle().clone();
        let ask = |request| {
            let asked = handle.ask(request);
            tokio::spawn(asked)
        };
        let opening = ask(execute(open("a"), Some(1)));
        tokio::task::yield_now().await;
        begins.recv_timeout(TIME_MAX).expect("the sync begins");
        let reading = ask(Request::Account(AccountRef::Name(name("a"))));
        let again = ask(execute(open("a"), Some(1)));
        tokio::task::yield_now().await;
        assert_eq!(handle.durable(), Sequence::NONE);
        assert!(threads.commit_watch().under_way().is_some());
        assert!(!opening.is_finished() && !reading.is_finished() && !again.is_finished());
        gate.send(()).expect("the sync waits");
        assert!(matches!(opening.await.expect("no panic"), Ok(Reply::Executed { .. })));
        assert!(matches!(reading.await.expect("no panic"), Ok(Reply::Account(Some(_)))));
        assert_eq!(again.await.expect("no panic"), Ok(Reply::Settled(Sequence::FIRST)));
        assert_eq!(handle.durable(), Sequence::FIRST);
    });
    let watch = threads.commit_watch();
    drop(gate);
    ended(threads).expect("the log is intact");
    assert_eq!(watch.under_way(), None);
}

/// P7: while the disk is stuck, the inbox fills up; past its end a request is refused at once, and whatever was
/// taken in is answered once the disk goes on.
#[test]
fn a_full_inbox_refuses_at_once_and_loses_nothing() {
    let (threads, _begins, gate) = gated(1);
    let refused = answered(async {
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
    ended(threads).expect("the log is intact");
}

/// A sync that fails is told to whoever ends the process, and nobody gets a reply to what it was to make durable.
#[test]
fn a_failing_log_is_reported_and_acknowledges_nothing() {
    // Alone, its worker commits; among others the committer does.
    for shards in [1, 2] {
        a_failing_log_among(shards, MemoryJournal::fail_next_sync);
        a_failing_log_among(shards, MemoryJournal::fail_next_append);
    }
}

fn a_failing_log_among(shards: usize, fail_next: fn(&mut MemoryJournal)) {
    let mut journal = MemoryJournal::new(shard_id(), LogPosition::genesis(Uuid::nil(), shard_id()));
    fail_next(&mut journal);
    let asked: Arc<Mutex<Option<Asked>>> = Arc::default();
    let poll = |asked: &mut Option<Asked>| {
        let asked = Pin::new(asked.as_mut().expect("it was asked"));
        asked.poll(&mut Context::from_waker(Waker::noop()))
    };
    // For each report, whether the asker still waited.
    let failures = Arc::new(Mutex::new(Vec::new()));
    let on_failure = {
        let (failures, asked) = (Arc::clone(&failures), Arc::clone(&asked));
        Arc::new(move |_: ShardId, _: &StorageError| {
            let waits = poll(&mut asked.lock().expect("no panic")).is_pending();
            failures.lock().expect("no panic").push(waits);
        })
    };
    let ledger = Ledger::new(shard_id());
    let mut network = Network::new(shards);
    let threads = ShardThreads::start(shard_id(), ledger, rules(), journal, now, on_failure, &mut network);
    {
        let mut asked = asked.lock().expect("no panic");
        *asked = Some(threads.handle().ask(execute(open("a"), None)));
    }
    let until = Instant::now() + TIME_MAX;
    let first = loop {
        match poll(&mut asked.lock().expect("no panic")) {
            Poll::Ready(reply) => break reply,
            Poll::Pending => thread::yield_now(),
        }
        assert!(Instant::now() < until, "nobody is told");
    };
    assert_eq!(first, Err(ShardError::Ended));
    // This one comes when it is known.
    let second = threads.handle().ask(execute(open("b"), None));
    assert_eq!(answered(second), Err(ShardError::Ended));
    assert!(ended(threads).is_err());
    assert_eq!(
        *failures.lock().expect("no panic"),
        [true],
        "it was reported once, and before anybody was told"
    );
}

fn id(index: usize) -> ShardId {
    ShardId::new(index).expect("in range")
}

/// The account `a` of shard 0, `b` of shard 1 and so on.
fn place(index: usize) -> Place {
    let name = name(&char::from(b'a' + index as u8).to_string());
    Place { shard: id(index), account: AccountRef::Name(name) }
}

fn transfer(from: usize, to: usize, key: Option<HomedKey>) -> Request {
    let (from, to) = (place(from), place(to));
    let mut needs = std::collections::BTreeMap::<ShardId, Needs>::new();
    for place in [&from, &to] {
        needs.entry(place.shard).or_default().accounts.push(place.account.clone());
    }
    if let Some(HomedKey { home, key }) = key {
        needs.entry(home).or_default().keys.push(key);
    }
    let operation =
        Operation::Transfer { from, to, amount: Sum::Exactly(quantity("0.01")), note: Note::default() };
    Request::Work(Box::new(WorkRequest {
        items: vec![Item { operation, conditions: Vec::new(), key }].into(),
        plain: None,
        atomic: false,
        dry_run: false,
        told: true,
        turn: None,
        key: None,
        request_id: "r-1".into(),
        needs: needs.into_iter().collect(),
    }))
}

fn read(index: usize) -> Request {
    Request::Account(place(index).account)
}

/// Shards without threads, each with its account, opened and durable.
fn benches<const N: usize>() -> [Bench; N] {
    std::array::from_fn(|index| {
        let mut bench = Bench::of(id(index), rules());
        let AccountRef::Name(name) = place(index).account else { unreachable!() };
        bench.serve(execute(open(&name), None), moment(1, 0));
        bench
    })
}

/// Hands the messages of one shard to the others, and returns how many there were.
fn carry<const N: usize>(benches: &mut [Bench; N], from: usize) -> usize {
    let messages: Vec<_> = benches[from].output.messages.drain(..).collect();
    let count = messages.len();
    for (to, message) in messages {
        let Bench { shard, output } = &mut benches[to.index()];
        shard.hear(message, moment(1, 100), output);
    }
    count
}

fn version(reply: &Reply) -> u64 {
    let Reply::Account(Some(view)) = reply else { panic!("{reply:?}") };
    view.version
}

/// P2: once a transfer is decided, whoever looks at its other side waits until that is settled; and everyone is served
/// in the order of asking.
#[test]
fn a_read_of_an_account_with_an_unsettled_transfer_waits_and_nobody_is_overtaken() {
    let mut benches = benches::<2>();
    benches[0].ask(1, transfer(0, 1, None));
    benches[0].ask(2, read(0));
    benches[0].ask(3, execute(deposit("a"), None));
    benches[0].ask(4, read(0));
    carry(&mut benches, 0);
    let decided = benches[1].replies();
    assert!(matches!(&decided[..], [(1, Reply::Worked(WorkReply::Items(_)), 2)]), "{decided:?}");
    assert!(benches[0].replies().is_empty(), "they wait though the transfer is decided");
    carry(&mut benches, 1);
    let replies = benches[0].replies();
    let asked: Vec<_> = replies.iter().map(|(to, ..)| *to).collect();
    // Those that need not wait for the disk come first; within either sort it is the order of asking.
    assert_eq!(asked.len(), 3);
    let reply_to = |wanted| &replies.iter().find(|(to, ..)| *to == wanted).expect("it is answered").1;
    assert_eq!((version(reply_to(2)), version(reply_to(4))), (2, 3));
    assert!(!benches[0].shard.is_locked() && !benches[1].shard.is_locked());
    assert_eq!(benches[0].output.batch.requires.get(&id(1)), Some(&Sequence::FIRST.next()));
}

/// Two works that need the same two accounts have them one after the other, whoever comes first at each.
#[test]
fn works_that_cross_take_turns() {
    let mut benches = benches::<2>();
    benches[0].ask(1, transfer(0, 1, None));
    benches[0].ask(2, transfer(1, 0, None));
    assert_eq!(carry(&mut benches, 0), 1, "the second waits behind the first");
    assert_eq!(carry(&mut benches, 1), 1);
    assert_eq!(carry(&mut benches, 0), 1);
    assert_eq!(carry(&mut benches, 1), 1);
    let answered: Vec<_> = benches[1].replies().into_iter().map(|(to, ..)| to).collect();
    assert_eq!(answered, [1, 2]);
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
}

/// P5: while a work with a key is on its way, a second one with it is told so at once; nothing of it stays locked.
#[test]
fn a_key_on_its_way_between_two_shards_is_in_flight() {
    let mut benches = benches::<2>();
    let key =
        HomedKey { home: id(0), key: IdempotencyKey { digest: KeyDigest([7; 16]), fingerprint: [7; 16] } };
    benches[0].ask(1, transfer(1, 1, Some(key)));
    let held = std::mem::take(&mut benches[0].output.messages);
    assert!(matches!(&held[..], [(_, Message::Work(_))]));
    benches[0].ask(2, transfer(1, 1, Some(key)));
    carry(&mut benches, 0);
    let replies = benches[1].replies();
    let [(2, Reply::Worked(WorkReply::Items(items)), _)] = &replies[..] else { panic!("{replies:?}") };
    assert!(matches!(items[..], [ItemReply::Not(ItemOutcome::KeyInFlight)]), "{items:?}");
    carry(&mut benches, 1);
    benches[0].ask(3, Request::Execute { command: deposit("a"), key: Some(key.key), request_id: "r".into() });
    assert_eq!(benches[0].replies().pop().map(|(_, reply, _)| reply), Some(Reply::KeyInFlight));
    for (_, message) in held {
        let Bench { shard, output } = &mut benches[1];
        shard.hear(message, moment(1, 100), output);
    }
    carry(&mut benches, 1);
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
}

/// P7: behind a locked account so many wait, and no more; each is answered when it is free.
#[test]
fn too_many_who_wait_are_refused_at_once() {
    let mut benches = benches::<2>();
    let in_turn = || {
        let mut request = transfer(0, 1, None);
        let Request::Work(work) = &mut request else { unreachable!("it is one") };
        work.take_turn(7, &[id(0), id(1)]);
        request
    };
    benches[0].ask(0, in_turn());
    let waiting = (1..100_000).find(|&number| {
        benches[0].ask(number, read(0));
        matches!(benches[0].output.ready.last(), Some((_, Reply::Overloaded)))
    });
    let waiting = waiting.expect("waiting has an end") as usize - 1;
    assert_eq!(waiting, 4096);
    benches[0].ask(1, transfer(0, 1, None));
    benches[0].ask(2, in_turn());
    let refused: Vec<_> = benches[0].replies().into_iter().map(|(_, reply, _)| reply).collect();
    let worked = || Reply::Worked(WorkReply::Overloaded);
    assert_eq!(refused, [Reply::Overloaded, worked(), worked()]);
    carry(&mut benches, 0);
    carry(&mut benches, 1);
    assert_eq!(benches[0].replies().len(), waiting);
    assert!(!benches[0].shard.is_locked());
}

/// P7: who gives up at a shard lets go of what others have locked for it. Its accounts would answer nobody any more.
#[test]
fn who_gives_up_at_a_later_shard_lets_go_of_what_it_has_at_earlier_ones() {
    let mut benches = benches::<3>();
    benches[1].ask(0, transfer(1, 2, None));
    (1..=4096).for_each(|number| benches[1].ask(number, read(1)));
    benches[0].ask(5000, transfer(0, 1, None));
    benches[0].ask(5001, read(0));
    carry(&mut benches, 0);
    let refused = benches[1].replies();
    assert_eq!(refused, [(5000, Reply::Worked(WorkReply::Overloaded), 0)]);
    assert!(benches[0].replies().is_empty(), "it waits for the end of the transfer");
    carry(&mut benches, 1);
    assert!(!benches[0].shard.is_locked());
    assert!(matches!(&benches[0].replies()[..], [(5001, Reply::Account(Some(_)), _)]));
}

/// P8: what is decided is not before what it was decided on, whatever the clocks of the shards say: history is searched
/// by time, and limits a day begin again when the day is another one.
#[test]
fn a_decision_is_not_before_what_the_other_shard_has_seen() {
    let mut benches = benches::<2>();
    let late = Timestamp::from_millis(5000);
    benches[0].serve(execute(deposit("a"), None), moment(5000, 100));
    benches[0].ask(1, transfer(0, 1, None));
    // Where it is one millisecond behind the epoch.
    carry(&mut benches, 0);
    carry(&mut benches, 1);
    let updated = |bench: &Bench| {
        let account = bench.shard.ledger().account_by_number(AccountNumber::new(0)).expect("there");
        assert!(account.version >= 2);
        account.updated
    };
    assert!(benches.iter().all(|bench| updated(bench) >= late && bench.shard.ledger().time() >= late));
}

/// P7: a list of accounts waits for each that it may show, so a few of them are as many as thousands of others.
#[test]
fn lists_that_wait_are_refused_sooner() {
    const ACCOUNTS: usize = 10_000;
    let mut benches = benches::<2>();
    for number in 1..ACCOUNTS {
        benches[0].serve(execute(open(&format!("a{number}")), None), moment(1, 100));
    }
    benches[0].ask(0, transfer(0, 1, None));
    let list = || Request::Accounts {
        from: AccountNumber::new(0),
        count: 1,
        filter: Arc::new(AccountFilter { prefix: Some("none".into()), ..AccountFilter::default() }),
    };
    let waiting = (1..4096).find(|&number| {
        benches[0].ask(number, list());
        matches!(benches[0].output.ready.last(), Some((_, Reply::Overloaded)))
    });
    assert_eq!(waiting, Some((1 << 20) / ACCOUNTS as u32 + 2), "one too many is taken, and the next is not");
    carry(&mut benches, 0);
    carry(&mut benches, 1);
    assert!(!benches[0].shard.is_locked());
}

/// A work of these items; what it needs is said by whoever makes it.
fn work(items: Vec<Item>, atomic: bool, key: Option<HomedKey>, needs: Vec<(usize, Needs)>) -> Request {
    let needs = needs.into_iter().map(|(index, needs)| (id(index), needs)).collect();
    let request_id = "r-1".into();
    let (dry_run, told, turn) = (false, true, None);
    Request::Work(Box::new(WorkRequest {
        items: items.into(),
        plain: None,
        atomic,
        dry_run,
        told,
        turn,
        key,
        request_id,
        needs,
    }))
}

fn item(operation: Operation, key: Option<HomedKey>) -> Item {
    Item { operation, conditions: Vec::new(), key }
}

fn key_at(home: usize, number: u8) -> HomedKey {
    let key = IdempotencyKey { digest: KeyDigest([number; 16]), fingerprint: [number; 16] };
    HomedKey { home: id(home), key }
}

/// Serves a work at its first shard, and carries messages until there are none.
fn finish<const N: usize>(benches: &mut [Bench; N], first: usize, request: Request) -> Reply {
    benches[first].ask(9, request);
    while (0..N).map(|from| carry(benches, from)).sum::<usize>() > 0 {}
    let mut replies = benches.iter_mut().flat_map(Bench::replies);
    replies.next().expect("an answer").1
}

/// What a list does is on disk as a whole or not at all: in one record, whatever stands in the record before it.
#[test]
fn a_list_of_plain_transfers_is_in_one_record() {
    let pay = |from: &str, to: &str, amount: &str| {
        let place = |text| Place { shard: shard_id(), account: AccountRef::Name(name(text)) };
        let amount = Sum::Exactly(quantity(amount));
        item(Operation::Transfer { from: place(from), to: place(to), amount, note: Note::default() }, None)
    };
    for case in 0..8 {
        let (bytes_before, is_first_refused) = ([1, 50_000][case & 1], case & 2 != 0);
        let is_packed = case & 4 != 0;
        let mut bench = Bench::new();
        for text in ["a", "b"] {
            bench.serve(execute(open(text), None), moment(1, 100));
        }
        while bench.output.batch.drafts.iter().map(Draft::bytes).sum::<usize>() < bytes_before {
            bench.serve(execute(deposit("a"), None), moment(1, 100));
        }
        let before = bench.shard.ledger().last();
        let mut items = vec![pay("a", "b", "0.01"); 100];
        if is_first_refused {
            items[0] = pay("b", "a", "9999999.00");
        }
        let both = Needs {
            accounts: vec![AccountRef::Name(name("a")), AccountRef::Name(name("b"))].into(),
            ..Needs::default()
        };
        let of = |item: &Item| PlainTransfer::of(item.operation.clone()).expect("a plain one").1;
        let list = PlainList { shard: shard_id(), transfers: items.iter().map(of).collect() };
        let request = match is_packed {
            true => Request::Work(Box::new(WorkRequest::plain(list, true))),
            false => work(items, false, None, vec![(0, both)]),
        };
        bench.ask(1, request);
        assert_eq!(bench.shard.executed_at_once(), 1);
        let last = bench.shard.ledger().last();
        assert_eq!(last.get() - before.get(), 100 - u64::from(is_first_refused));
        let holds_all = |draft: &&Draft| draft.first() <= before.next() && last <= draft.last();
        let drafts = &bench.output.batch.drafts;
        assert_eq!(drafts.iter().filter(holds_all).count(), 1);
        // With little before it, it joins that; with much, it stands by itself.
        assert_eq!(drafts.len(), if bytes_before == 1 { 1 } else { 2 });
    }
}

/// An opening in shard 0 that shard 1 decides, since it remembers the key.
fn open_under_a_key(text: &str, number: u8) -> Request {
    let opening = Box::new(Opening::plain(name(text), Currency::USD, None));
    let openings = Needs { openings: vec![name(text)], ..Needs::default() };
    let keys = Needs { keys: vec![key_at(1, number).key], ..Needs::default() };
    let items = vec![item(Operation::Open { shard: id(0), opening }, Some(key_at(1, number)))];
    work(items, false, None, vec![(0, openings), (1, keys)])
}

/// Whoever opened an account that another shard decided about has its id, while its own shard has not heard of it: it
/// said that there is no such account.
#[test]
fn an_account_that_is_not_there_yet_is_waited_for() {
    let mut benches = benches::<2>();
    benches[0].ask(1, open_under_a_key("late", 3));
    carry(&mut benches, 0);
    assert_eq!(benches[1].replies().len(), 1, "it is opened");
    let number = AccountNumber::new(1);
    let late = AccountRef::Number { number, opened: Timestamp::from_millis(1) };
    benches[0].ask(2, Request::Account(late.clone()));
    benches[0].ask(3, Request::AccountByNumber(number));
    benches[0].ask(4, Request::Accounts { from: number, count: 10, filter: Arc::default() });
    benches[0].ask(5, Request::Holds { account: late, from: 0, count: 10, pending: None });
    assert!(benches[0].replies().is_empty(), "they wait for the opening");
    carry(&mut benches, 1);
    for (to, reply, _) in benches[0].replies() {
        let found = match &reply {
            Reply::Account(account) => account.is_some(),
            Reply::Accounts { accounts, .. } => accounts.len() == 1,
            Reply::Holds(holds) => holds.is_some(),
            _ => false,
        };
        assert!(found, "{to}: {reply:?}");
    }
}

/// P7: a list that reached the last account waited for the opening before it, which made one account more that the list
/// had not asked for: it queued up anew, behind the next opening, as long as there were openings, and whoever asked for
/// an account on it waited, too.
#[test]
fn a_list_is_answered_between_two_openings() {
    let mut benches = benches::<2>();
    benches[0].ask(1, open_under_a_key("late", 3));
    carry(&mut benches, 0);
    benches[0].ask(2, Request::Accounts { from: AccountNumber::new(0), count: 10, filter: Arc::default() });
    benches[0].ask(3, open_under_a_key("later", 4));
    benches[0].ask(4, read(0));
    assert!(benches[0].replies().is_empty(), "they wait for the first opening");
    carry(&mut benches, 1);
    let replies = benches[0].replies();
    let [(2, Reply::Accounts { accounts, next: None }, 0), (4, Reply::Account(Some(_)), 0)] = &replies[..]
    else {
        panic!("{replies:?}")
    };
    assert_eq!(accounts.iter().map(|account| &*account.name).collect::<Vec<_>>(), ["a", "late"]);
    carry(&mut benches, 0);
    carry(&mut benches, 1);
    assert!(benches[0].shard.ledger().account_ever_named(&name("later")).is_some());
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
}

/// A look tells what an answer would, and nothing that is not durable, or that a hold which is due would change.
#[test]
fn a_reader_who_looks_sees_what_one_who_asks_is_told() {
    let mut bench = Bench::new();
    let account = AccountRef::Name(name("a"));
    assert_eq!(bench.shard.glance(&account, moment(1, 0)), None, "it is not there");
    bench.serve(execute(open("a"), None), moment(1, 0));
    bench.serve(execute(deposit("a"), None), moment(1, 0));
    assert_eq!(bench.shard.glance(&account, moment(1, 1)), None, "the deposit is not durable");
    let seen = bench.shard.glance(&account, moment(1, 2)).expect("nothing stands against it");
    assert_eq!(
        bench.serve(Request::Account(account.clone()), moment(1, 2)),
        (Reply::Account(Some(Box::new(seen))), 0)
    );

    let place = Place { shard: id(0), account: account.clone() };
    let hold = Operation::Hold {
        account: place,
        amount: Sum::Exactly(quantity("1")),
        to: None,
        expires_in_ms: 1000,
        note: Note::default(),
    };
    let needs = Needs { accounts: vec![account.clone()].into(), ..Needs::default() };
    bench.ask(1, work(vec![item(hold, None)], false, None, vec![(0, needs)]));
    assert_eq!(bench.replies().len(), 1, "it is placed");
    let held = bench.shard.glance(&account, moment(1000, 100)).expect("the hold is not due");
    assert!(held.held.is_positive());
    assert_eq!(bench.shard.glance(&account, moment(1001, 100)), None, "the hold is due");
    let (reply, _) = bench.serve(Request::Account(account), moment(1001, 100));
    assert!(matches!(reply, Reply::Account(Some(account)) if !account.held.is_positive()));
}

/// A list said that an account is closed before that was durable: it was sealed with the events of what it showed,
/// and a closed account was what it left out.
#[test]
fn a_list_waits_for_what_it_leaves_out() {
    let mut bench = Bench::new();
    bench.serve(execute(open("a"), None), moment(1, 0));
    let target = Target { account: AccountRef::Name(name("a")), version: None };
    bench.serve(execute(Command::Close { target }, None), moment(2, 1));
    let filter = AccountFilter { closed: Some(false), ..AccountFilter::default() };
    let list = Request::Accounts { from: AccountNumber::new(0), count: 10, filter: filter.into() };
    let (reply, after) = bench.serve(list, moment(3, 1));
    assert_eq!((reply, after), (Reply::Accounts { accounts: Vec::new(), next: None }, 2));
}

/// P2: the works of a list are decided in order, also if an earlier one finds that it needs an account more and sets
/// out again while the later ones are on their way.
#[test]
fn a_later_work_of_a_list_does_not_overtake_one_that_sets_out_again() {
    let mut benches = benches::<2>();
    let hold = Operation::Hold {
        account: place(0),
        amount: Sum::Exactly(quantity("1")),
        to: Some(place(1)),
        expires_in_ms: 1000,
        note: Note::default(),
    };
    let of =
        |index: usize| (index, Needs { accounts: vec![place(index).account].into(), ..Needs::default() });
    finish(&mut benches, 0, work(vec![item(hold, None)], false, None, vec![of(0), of(1)]));
    let (key, _) = benches[0].shard.ledger().holds().iter().next().expect("a hold");
    let hold = key.id(id(0), Timestamp::from_millis(1));
    let capture = Operation::Capture { hold, amount: None, note: Note::default() };
    let holds = (0, Needs { holds: vec![hold], ..Needs::default() });
    let pay = Operation::Withdraw {
        account: place(1),
        amount: Sum::Exactly(quantity("0.01")),
        note: Note::default(),
    };
    let in_turn = |mut request: Request| {
        let Request::Work(work) = &mut request else { unreachable!("it is one") };
        work.take_turn(7, &[id(0), id(1)]);
        request
    };
    benches[0].ask(1, in_turn(work(vec![item(capture, None)], false, None, vec![holds])));
    benches[0].ask(2, in_turn(work(vec![item(pay, None)], false, None, vec![of(1)])));
    while (0..2).map(|from| carry(&mut benches, from)).sum::<usize>() > 0 {}
    let mut replies: Vec<_> = benches.iter_mut().flat_map(Bench::replies).collect();
    replies.sort_by_key(|(to, ..)| *to);
    let ended = |reply: &Reply| match reply {
        Reply::Worked(WorkReply::Items(items)) => match &items[..] {
            [ItemReply::Done { id, .. }] => *id,
            items => panic!("{items:?}"),
        },
        reply => panic!("{reply:?}"),
    };
    let [(1, captured, _), (2, paid, _)] = &replies[..] else { panic!("{replies:?}") };
    let (captured, paid) = (ended(captured), ended(paid));
    assert_eq!((captured.shard, paid.shard), (id(1), id(1)), "one shard decides the list");
    assert!(captured.sequence < paid.sequence);
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
}

/// P7: what a work lacks is asked for, but not for ever, where by then it always lacks something else.
#[test]
fn a_work_is_given_up_when_links_change_faster_than_they_can_be_followed() {
    const ATTEMPTS_MAX: usize = 8;
    for changes in [ATTEMPTS_MAX - 2, ATTEMPTS_MAX - 1] {
        let mut benches = benches::<2>();
        let guard =
            |number: usize| Place { account: AccountRef::Name(name(&format!("guard {number}"))), ..place(1) };
        for number in 0..=changes {
            benches[1].serve(execute(open(&format!("guard {number}")), None), moment(1, 100));
        }
        let protect_by = |bench: &mut Bench, number: usize| {
            let (account, kind) = (place(1), LinkKind::OverdraftProtection);
            let link = Operation::Link { account, to: guard(number), kind };
            let before = number.checked_sub(1).map(guard);
            let unlink = before.iter().map(|to| Operation::Unlink { account: place(1), to: to.clone() });
            let items = unlink.chain([link]).map(|operation| item(operation, None)).collect();
            let accounts = [place(1), guard(number)].into_iter().chain(before);
            let accounts = accounts.map(|place| place.account).collect();
            bench.ask(1, work(items, false, None, vec![(1, Needs { accounts, ..Needs::default() })]));
        };
        protect_by(&mut benches[1], 0);
        let (account, amount) = (place(1), Sum::Exactly(quantity("100")));
        let pay = Operation::Withdraw { account, amount, note: Note::default() };
        let of =
            |index: usize| (index, Needs { accounts: vec![place(index).account].into(), ..Needs::default() });
        benches[0].ask(9, work(vec![item(pay, None)], false, None, vec![of(0), of(1)]));
        carry(&mut benches, 0);
        for number in 1..=changes {
            protect_by(&mut benches[1], number);
            assert_eq!(carry(&mut benches, 1), 2, "it lets go and sets out again");
            carry(&mut benches, 0);
        }
        while (0..2).map(|from| carry(&mut benches, from)).sum::<usize>() > 0 {}
        let replies = benches.iter_mut().flat_map(Bench::replies);
        let replies: Vec<_> = replies.filter(|(to, ..)| *to == 9).map(|(_, reply, _)| reply).collect();
        let [Reply::Worked(reply)] = &replies[..] else { panic!("{replies:?}") };
        match reply {
            WorkReply::Items(items) if changes < ATTEMPTS_MAX - 1 => {
                assert!(matches!(items[..], [ItemReply::Done { .. }]), "{items:?}");
            }
            reply => assert_eq!((changes, reply), (ATTEMPTS_MAX - 1, &WorkReply::Overloaded)),
        }
        assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
    }
}

/// The shard of a hold's payee was in the work for a key alone. It was not asked about references when the payee was
/// found, and one was used twice.
#[test]
fn the_references_of_an_account_that_is_found_late_are_asked_for() {
    let mut benches = benches::<2>();
    let payee = Place { shard: id(1), account: AccountRef::Name(name("payee")) };
    let opening = Opening { unique_reference: true, ..Opening::plain(name("payee"), Currency::USD, None) };
    let opening = Operation::Open { shard: id(1), opening: Box::new(opening) };
    let reference = Reference::parse("invoice 1").expect("valid");
    let note = Note { reference: Some(reference.clone()), ..Note::default() };
    let deposit = Operation::Deposit { account: payee.clone(), amount: quantity("1"), note: note.clone() };
    let needs = Needs {
        accounts: vec![payee.account.clone()].into(),
        openings: vec![name("payee")],
        references: vec![(ReferenceAccount::At(0), reference.clone())],
        ..Needs::default()
    };
    finish(
        &mut benches,
        1,
        work(vec![item(opening, None), item(deposit, None)], false, None, vec![(1, needs)]),
    );
    let hold = Operation::Hold {
        account: place(0),
        amount: Sum::Exactly(quantity("1")),
        to: Some(payee.clone()),
        expires_in_ms: 1000,
        note: Note::default(),
    };
    let of = |account| Needs { accounts: vec![account].into(), ..Needs::default() };
    let needs = vec![(0, of(place(0).account)), (1, of(payee.account))];
    finish(&mut benches, 0, work(vec![item(hold, None)], false, None, needs));
    let (key, _) = benches[0].shard.ledger().holds().iter().next().expect("a hold");
    let hold = key.id(id(0), Timestamp::from_millis(1));
    let capture = Operation::Capture { hold, amount: None, note };
    let references = vec![(ReferenceAccount::Numbered(hold.account), reference)];
    let holds = Needs { holds: vec![hold], references, ..Needs::default() };
    let keys = Needs { keys: vec![key_at(1, 5).key], ..Needs::default() };
    let items = vec![item(capture, Some(key_at(1, 5)))];
    let reply = finish(&mut benches, 0, work(items, false, None, vec![(0, holds), (1, keys)]));
    let Reply::Worked(WorkReply::Items(items)) = &reply else { panic!("{reply:?}") };
    let [ItemReply::Not(ItemOutcome::Refused(rejected))] = &items[..] else { panic!("{items:?}") };
    assert!(matches!(rejected.rejection, Rejection::ReferenceUsed { .. }), "{rejected:?}");
}

/// A list of these items, with what it needs.
fn list_of(items: Vec<Item>, shards: usize) -> WorkRequest {
    WorkRequest::of(items.into(), None, false, false, "r-1".into(), shards)
}

/// An account that wants each reference used once.
fn open_with_unique_references(account: &Place) -> Item {
    let AccountRef::Name(name) = account.account.clone() else { unreachable!() };
    let opening = Opening { unique_reference: true, ..Opening::plain(name, Currency::USD, None) };
    item(Operation::Open { shard: account.shard, opening: Box::new(opening) }, None)
}

fn referring(text: &str) -> Note {
    Note { reference: Some(Reference::parse(text).expect("valid")), ..Note::default() }
}

fn is_reference_used(item: &ItemReply) -> bool {
    let ItemReply::Not(ItemOutcome::Refused(rejected)) = item else { return false };
    matches!(rejected.rejection, Rejection::ReferenceUsed { .. })
}

/// P7: every account that a list needed was asked about every reference in it, which is a million questions and as many
/// answers for a thousand of each.
#[test]
fn an_account_is_asked_about_the_references_that_are_meant_for_it() {
    const COUNT: usize = 20;
    let mut benches = benches::<1>();
    let account = |of: usize| Place { shard: id(0), account: AccountRef::Name(name(&format!("u{of}"))) };
    let pay = |to: usize, invoice: usize| {
        let note = referring(&format!("invoice {invoice}"));
        item(Operation::Deposit { account: account(to), amount: quantity("1"), note }, None)
    };
    let openings = (0..COUNT).map(|of| open_with_unique_references(&account(of)));
    let all = (0..COUNT).flat_map(|to| (0..COUNT).map(move |invoice| (to, invoice)));
    let items = openings.chain(all.map(|(to, invoice)| pay(to, invoice))).collect();
    finish(&mut benches, 0, Request::Work(Box::new(list_of(items, 1))));
    assert_eq!(benches[0].shard.ledger().last().get() as usize, 1 + COUNT + COUNT * COUNT);
    let list = list_of((0..COUNT).map(|of| pay(of, of)).collect(), 1);
    let ShardRules { overdraft, key_retention_ms, keys_max } = rules();
    let terms = Terms { now: Timestamp::from_millis(1), overdraft, key_retention_ms, keys_max };
    let grant = benches[0].shard.ledger().grant(&list.needs[0].1, &[], &terms);
    assert_eq!(grant.references.len(), COUNT);
    let reply = finish(&mut benches, 0, Request::Work(Box::new(list)));
    let Reply::Worked(WorkReply::Items(items)) = &reply else { panic!("{reply:?}") };
    assert!(items.iter().all(is_reference_used), "{items:?}");
}

/// In whose references its own must not be, a capture does not say: the hold's account and the payee that the hold names,
/// whether another item has asked for that or nobody.
#[test]
fn the_references_of_a_hold_s_accounts_are_asked_for() {
    let accounts = ["payer", "payee"].map(|text| AccountRef::Name(name(text)));
    let cases = [(0, 1), (1, 0), (0, 0)].into_iter().flat_map(|shards| {
        [(false, false), (false, true), (true, false), (true, true)].map(|flags| (shards, flags))
    });
    for ((payer, payee), (is_used_by_payee, is_payee_named)) in cases {
        let mut benches = benches::<2>();
        let payer = Place { shard: id(payer), account: accounts[0].clone() };
        let payee = Place { shard: id(payee), account: accounts[1].clone() };
        let mut serve = |items: Vec<Item>| {
            let list = list_of(items, 2);
            let reply = finish(&mut benches, list.needs[0].0.index(), Request::Work(Box::new(list)));
            let Reply::Worked(WorkReply::Items(items)) = reply else { panic!("{reply:?}") };
            items
        };
        let deposit = |to: &Place, note| {
            item(Operation::Deposit { account: to.clone(), amount: quantity("1"), note }, None)
        };
        let (amount, expires_in_ms) = (Sum::Exactly(quantity("1")), 1000);
        let (account, to, note) = (payer.clone(), Some(payee.clone()), Note::default());
        let hold = Operation::Hold { account, amount, to, expires_in_ms, note };
        let user = if is_used_by_payee { &payee } else { &payer };
        let openings = [&payer, &payee].map(open_with_unique_references);
        let uses = [deposit(user, referring("invoice")), item(hold, None)];
        let done = serve(openings.into_iter().chain(uses).collect());
        let Some(ItemReply::Done { id: placed, decision }) = done.last() else { panic!("{done:?}") };
        let effect = &decision.part(payer.shard).expect("it is its account").effects[0];
        let key = HoldKey { account: effect.account, version: effect.after.version as u32 };
        let hold = key.id(payer.shard, placed.time);
        let capture = Operation::Capture { hold, amount: None, note: referring("invoice") };
        let beside = is_payee_named.then(|| deposit(&payee, Note::default()));
        let items = serve(beside.into_iter().chain([item(capture, None)]).collect());
        assert!(items.last().is_some_and(is_reference_used), "{items:?}");
        assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
    }
}

/// P5: a list that is all or nothing was refused because an item's key was in flight, and its own key stood for that
/// from then on: it could not be tried again.
#[test]
fn a_list_is_tried_again_when_the_key_of_an_item_was_in_flight() {
    let mut benches = benches::<2>();
    let deposit = |to: usize, key| {
        item(Operation::Deposit { account: place(to), amount: quantity("1"), note: Note::default() }, key)
    };
    let needs =
        |accounts: Vec<AccountRef>, keys| Needs { accounts: accounts.into(), keys, ..Needs::default() };
    let first = needs(vec![], vec![key_at(0, 1).key]);
    let first = vec![(0, first), (1, needs(vec![place(1).account], vec![]))];
    benches[0].ask(1, work(vec![deposit(1, Some(key_at(0, 1)))], false, None, first));
    let list = |benches: &mut [Bench; 2]| {
        let needs = needs(vec![place(0).account], vec![key_at(0, 1).key, key_at(0, 2).key]);
        let items = vec![deposit(0, None), deposit(0, Some(key_at(0, 1)))];
        benches[0].ask(2, work(items, true, Some(key_at(0, 2)), vec![(0, needs)]));
        benches[0].replies().pop().expect("an answer").1
    };
    let in_flight = |reply: Reply| {
        let Reply::Worked(WorkReply::Items(items)) = &reply else { panic!("{reply:?}") };
        matches!(items[..], [_, ItemReply::Not(ItemOutcome::KeyInFlight)])
    };
    assert!(in_flight(list(&mut benches)));
    assert!(in_flight(list(&mut benches)), "it is tried, and not answered from its key");
    assert_eq!(benches[0].shard.ledger().last(), Sequence::FIRST, "nothing of that was recorded");
}

/// P5: the same of a list that is not all or nothing. What its key stands for would have been, for ever, that an item
/// may be tried again. An item that repeats an earlier one stands for what became of that, so the list has an end.
#[test]
fn a_list_with_a_key_does_not_end_with_what_may_be_tried_again() {
    let mut benches = benches::<2>();
    let deposit = |to: usize, key| {
        item(Operation::Deposit { account: place(to), amount: quantity("1"), note: Note::default() }, key)
    };
    let needs =
        |accounts: Vec<AccountRef>, keys| Needs { accounts: accounts.into(), keys, ..Needs::default() };
    let first = vec![(0, needs(vec![], vec![key_at(0, 1).key])), (1, needs(vec![place(1).account], vec![]))];
    benches[0].ask(1, work(vec![deposit(1, Some(key_at(0, 1)))], false, None, first));
    let list = |benches: &mut [Bench; 2], key, items: Vec<Item>| {
        let keys = items.iter().filter_map(|item| item.key).chain([key]).map(|key| key.key).collect();
        benches[0].ask(2, work(items, false, Some(key), vec![(0, needs(vec![place(0).account], keys))]));
        benches[0].replies().pop().expect("an answer").1
    };
    for _ in 0..2 {
        let items = vec![deposit(0, None), deposit(0, Some(key_at(0, 1)))];
        let reply = list(&mut benches, key_at(0, 2), items);
        assert_eq!(reply, Reply::Worked(WorkReply::KeyInFlight));
    }
    assert_eq!(benches[0].shard.ledger().last(), Sequence::FIRST, "nothing of that was recorded");
    let mut bench = self::benches::<1>();
    let items = vec![deposit(0, Some(key_at(0, 1))), deposit(0, Some(key_at(0, 1)))];
    let needs = needs(vec![place(0).account], vec![key_at(0, 1).key, key_at(0, 2).key]);
    let list = work(items, false, Some(key_at(0, 2)), vec![(0, needs)]);
    let Reply::Worked(WorkReply::Items(items)) = finish(&mut bench, 0, list.clone()) else {
        panic!("decided")
    };
    let [ItemReply::Done { id, .. }, ItemReply::Not(ItemOutcome::Settled(outcome))] = items[..] else {
        panic!("{items:?}")
    };
    assert_eq!((id.shard, id.sequence), (outcome.shard, outcome.sequence));
    assert!(matches!(finish(&mut bench, 0, list), Reply::Worked(WorkReply::Settled(_))), "it has ended");
}

/// Whatever the number of operations that reach accounts which nobody named, they are found in a few rounds: each of
/// these captures pays another account.
#[test]
fn a_list_may_need_any_number_of_accounts_that_nobody_named() {
    const HOLDS: usize = 20;
    let mut benches = benches::<2>();
    let payee =
        |number: usize| Place { shard: id(1), account: AccountRef::Name(name(&format!("payee {number}"))) };
    let mut holds = Vec::new();
    for number in 0..HOLDS {
        benches[1].serve(execute(open(&format!("payee {number}")), None), moment(1, 100));
        let hold = Operation::Hold {
            account: place(0),
            amount: Sum::Exactly(quantity("0.01")),
            to: Some(payee(number)),
            expires_in_ms: 1000,
            note: Note::default(),
        };
        let of = |account| Needs { accounts: vec![account].into(), ..Needs::default() };
        let needs = vec![(0, of(place(0).account)), (1, of(payee(number).account))];
        finish(&mut benches, 0, work(vec![item(hold, None)], false, None, needs));
    }
    let ledger = benches[0].shard.ledger();
    holds.extend(ledger.holds().iter().map(|(key, hold)| key.id(id(0), hold.created)));
    let capture = |hold: &HoldId| Operation::Capture { hold: *hold, amount: None, note: Note::default() };
    let items = holds.iter().map(|hold| item(capture(hold), None)).collect();
    let needs = Needs { holds, ..Needs::default() };
    let reply = finish(&mut benches, 0, work(items, false, None, vec![(0, needs)]));
    let Reply::Worked(WorkReply::Items(items)) = &reply else { panic!("{reply:?}") };
    assert_eq!(items.iter().filter(|item| matches!(item, ItemReply::Done { .. })).count(), HOLDS);
    assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
}

/// Holds a cent of an account for a second.
fn hold_a_cent(account: &AccountRef) -> Request {
    let hold = Operation::Hold {
        account: Place { shard: shard_id(), account: account.clone() },
        amount: Sum::Exactly(quantity("0.01")),
        to: None,
        expires_in_ms: 1000,
        note: Note::default(),
    };
    let needs = Needs { accounts: vec![account.clone()].into(), ..Needs::default() };
    work(vec![item(hold, None)], false, None, vec![(0, needs)])
}

/// P7: so many holds of an account may be over that ending them takes longer than one request may take: whoever asks is
/// refused, a few thousand of them end, and no reader is shown one that is over.
#[test]
fn a_request_ends_no_more_than_some_thousand_holds() {
    const HOLDS: usize = 5000;
    let account = AccountRef::Name(name("a"));
    let hold = || hold_a_cent(&account);
    for request in [Request::Account(account.clone()), hold()] {
        let mut bench = Bench::new();
        bench.serve(execute(open("a"), None), moment(1, 100_000));
        (0..HOLDS).for_each(|_| drop(bench.serve(hold(), moment(1, 100_000))));
        assert_eq!(bench.shard.ledger().holds().pending(), HOLDS);
        let (reply, _) = bench.serve(request, moment(2000, 100_000));
        assert!(matches!(reply, Reply::Overloaded | Reply::Worked(WorkReply::Overloaded)), "{reply:?}");
        assert_eq!(bench.shard.ledger().holds().pending(), HOLDS - 4096);
        let (reply, _) = bench.serve(Request::Account(account.clone()), moment(2000, 100_000));
        let Reply::Account(Some(view)) = reply else { panic!("{reply:?}") };
        assert!(view.held.is_zero() && !bench.shard.is_locked());
    }
}

/// A capture was refused since the hold had expired, while a read showed it as pending; and with the clock set back, the
/// next capture was executed.
#[test]
fn a_full_disk_tells_nobody_that_a_hold_has_ended() {
    let mut bench = Bench::new();
    let account = AccountRef::Name(name("a"));
    let needs = Needs { accounts: vec![account.clone()].into(), ..Needs::default() };
    bench.serve(execute(open("a"), None), moment(1, 100));
    let hold = Operation::Hold {
        account: Place { shard: shard_id(), account },
        amount: Sum::Exactly(quantity("1")),
        to: None,
        expires_in_ms: 1000,
        note: Note::default(),
    };
    let (reply, _) = bench.serve(work(vec![item(hold, None)], false, None, vec![(0, needs)]), moment(1, 100));
    assert!(matches!(reply, Reply::Worked(WorkReply::Items(_))), "{reply:?}");
    let (key, created) = {
        let (key, hold) = bench.shard.ledger().holds().iter().next().expect("it was placed");
        (*key, hold.created)
    };
    let id = key.id(shard_id(), created);
    let capture = || {
        let capture = Operation::Capture { hold: id, amount: None, note: Note::default() };
        let needs = Needs { holds: vec![id], ..Needs::default() };
        work(vec![item(capture, None)], false, None, vec![(0, needs)])
    };
    let full = Moment { disk_full: true, ..moment(2000, 100) };
    assert_eq!(bench.serve(capture(), full).0, Reply::Worked(WorkReply::DiskFull));
    let (reply, _) = bench.serve(Request::Hold(id), full);
    let Reply::Hold(Some(view)) = reply else { panic!("{reply:?}") };
    assert_eq!(view.hold.status, HoldStatus::Pending);
    let (reply, _) = bench.serve(capture(), moment(2000, 100));
    let Reply::Worked(WorkReply::Items(items)) = reply else { panic!("{reply:?}") };
    let expired = |rejected: &Rejected| matches!(rejected.rejection, Rejection::HoldEnded { .. });
    assert!(matches!(&items[..], [ItemReply::Not(ItemOutcome::Refused(rejected))] if expired(rejected)));
    // Now that has been recorded, and is told as any refusal is.
    assert_eq!(bench.serve(capture(), full).0, Reply::Worked(WorkReply::Items(items)));
}

/// P2: a capture was refused since the hold had expired, by the time of the shard that decided it; the hold's own shard had
/// recorded nothing of that, showed it as pending, and let it be voided.
#[test]
fn whether_a_hold_has_expired_its_own_shard_says() {
    let carry_at = |benches: &mut [Bench; 2], millis: [u64; 2]| {
        for (from, to) in [(0, 1), (1, 0)] {
            for (_, message) in benches[from].output.messages.split_off(0) {
                let Bench { shard, output } = &mut benches[to];
                shard.hear(message, moment(millis[to], 100), output);
            }
        }
    };
    let of =
        |index: usize| (index, Needs { accounts: vec![place(index).account].into(), ..Needs::default() });
    // A millisecond or an hour: a clock that leapt and was set right leaves a shard's time ahead.
    for (granted, decided) in [(999, 1003), (999, 3_600_000), (1000, 1003)] {
        for is_capture in [true, false] {
            let mut benches = benches::<2>();
            let amount = Sum::Exactly(quantity("1"));
            let (account, to, note) = (place(0), Some(place(1)), Note::default);
            let hold = Operation::Hold { account, amount, to, expires_in_ms: 999, note: note() };
            finish(&mut benches, 0, work(vec![item(hold, None)], false, None, vec![of(0), of(1)]));
            let (key, _) = benches[0].shard.ledger().holds().iter().next().expect("a hold");
            let hold = key.id(id(0), Timestamp::from_millis(1));
            let end = match is_capture {
                true => Operation::Capture { hold, amount: None, note: note() },
                false => Operation::Void { hold, note: note() },
            };
            let deposit = Operation::Deposit { account: place(1), amount: quantity("1"), note: note() };
            let needs = vec![(0, Needs { holds: vec![hold], ..Needs::default() }), of(1)];
            let request = work(vec![item(end, None), item(deposit, None)], false, None, needs);
            benches[0].shard.serve(request, 1, moment(granted, 100), &mut benches[0].output);
            carry_at(&mut benches, [granted, decided]);
            let replies: Vec<_> = benches.iter_mut().flat_map(Bench::replies).collect();
            let [(1, Reply::Worked(WorkReply::Items(items)), _)] = &replies[..] else {
                panic!("{replies:?}")
            };
            let is_told = match &items[0] {
                ItemReply::Done { .. } => None,
                ItemReply::Not(ItemOutcome::Refused(rejected)) => match rejected.rejection {
                    Rejection::HoldEnded { outcome, .. } => Some(outcome),
                    _ => panic!("{items:?}"),
                },
                _ => panic!("{items:?}"),
            };
            assert_eq!(is_told, (granted == 1000).then_some(HoldOutcome::Expired), "{granted} {decided}");
            let (reply, _) = benches[0].serve(Request::Hold(hold), moment(granted, 100));
            let Reply::Hold(Some(view)) = reply else { panic!("{reply:?}") };
            let HoldStatus::Ended { outcome, .. } = view.hold.status else { panic!("{view:?}") };
            let ended = match is_capture {
                true => HoldOutcome::Captured(view.hold.amount),
                false => HoldOutcome::Voided,
            };
            assert_eq!(outcome, is_told.unwrap_or(ended));
            assert!(benches.iter().all(|bench| !bench.shard.is_locked()));
        }
    }
}

/// P7: each batch of a shard looked at all holds that were over of accounts that were locked.
#[test]
fn of_the_holds_that_are_over_a_turn_looks_at_some_thousand() {
    const LOCKED: u64 = 1100;
    let mut benches = benches::<2>();
    benches[0].serve(execute(open("free"), None), moment(1, 10_000));
    let hold = |account: AccountRef, expires_in_ms| {
        let place = Place { shard: id(0), account: account.clone() };
        let amount = Sum::Exactly(quantity("0.01"));
        let hold = Operation::Hold { account: place, amount, to: None, expires_in_ms, note: Note::default() };
        let needs = Needs { accounts: vec![account].into(), ..Needs::default() };
        work(vec![item(hold, None)], false, None, vec![(0, needs)])
    };
    (0..LOCKED).for_each(|_| drop(benches[0].serve(hold(place(0).account, 1000), moment(1, 10_000))));
    benches[0].serve(hold(AccountRef::Name(name("free")), 1001), moment(1, 10_000));
    benches[0].ask(1, transfer(0, 1, None));
    let expire = |bench: &mut Bench| {
        bench.shard.expire(moment(5000, 10_000), &mut bench.output);
        bench.shard.ledger().holds().pending() as u64
    };
    assert_eq!(expire(&mut benches[0]), LOCKED + 1, "the free one stands behind all that are not");
    carry(&mut benches, 0);
    carry(&mut benches, 1);
    let left: Vec<u64> = std::iter::repeat_with(|| expire(&mut benches[0])).take(5).collect();
    assert_eq!(left, [845, 589, 333, 77, 0]);
}

/// P7: where too many wait, only those are refused who would have to wait, too.
#[test]
fn a_crowd_is_none_of_the_business_of_who_need_not_wait() {
    let mut benches = benches::<2>();
    benches[0].serve(execute(open("free"), None), moment(1, 100));
    benches[0].ask(0, transfer(0, 1, None));
    (1..=4096).for_each(|number| benches[0].ask(number, read(0)));
    let free = AccountRef::Name(name("free"));
    let deposit = Operation::Deposit {
        account: Place { shard: id(0), account: free.clone() },
        amount: quantity("1"),
        note: Note::default(),
    };
    let needs = |account| vec![(0, Needs { accounts: vec![account].into(), ..Needs::default() })];
    let (reply, _) =
        benches[0].serve(work(vec![item(deposit, None)], false, None, needs(free)), moment(1, 100));
    assert!(matches!(reply, Reply::Worked(WorkReply::Items(_))), "{reply:?}");
    let deposit = Operation::Deposit { account: place(0), amount: quantity("1"), note: Note::default() };
    let (reply, _) = benches[0]
        .serve(work(vec![item(deposit, None)], false, None, needs(place(0).account)), moment(1, 100));
    assert_eq!(reply, Reply::Worked(WorkReply::Overloaded));
}

/// P7: a list that finds little looks at so many only, and says where the next one goes on.
#[test]
fn a_page_ends_where_enough_was_looked_at() {
    const SCANNED_MAX: usize = 10_000;
    let mut bench = Bench::new();
    let limit = Some(quantity("1000"));
    for number in 0..=SCANNED_MAX {
        let name = name(&format!("a{number}"));
        let open = Command::Open { name, currency: Currency::USD, overdraft_limit: limit };
        bench.serve(execute(open, None), moment(1, 100_000));
    }
    let filter = Arc::new(AccountFilter { prefix: Some("b".into()), ..AccountFilter::default() });
    let mut accounts = |from: usize| {
        let from = AccountNumber::new(from as u32);
        let list = Request::Accounts { from, count: 1, filter: Arc::clone(&filter) };
        let (reply, _) = bench.serve(list, moment(1, 100_000));
        let Reply::Accounts { accounts, next } = reply else { panic!("{reply:?}") };
        (accounts.len(), next.map(AccountNumber::index))
    };
    assert_eq!(accounts(0), (0, Some(SCANNED_MAX)));
    assert_eq!(accounts(SCANNED_MAX), (0, None));

    let account = AccountRef::Name(name("a0"));
    for _ in 0..=SCANNED_MAX {
        bench.serve(hold_a_cent(&account), moment(1, 100_000));
    }
    let mut holds = |from: u32| {
        let list = Request::Holds { account: account.clone(), from, count: 1, pending: Some(false) };
        let (reply, _) = bench.serve(list, moment(1, 100_000));
        let Reply::Holds(Some(page)) = reply else { panic!("{reply:?}") };
        (page.holds.len(), page.next)
    };
    // The account's first version is that of its opening.
    let last = SCANNED_MAX as u32 + 2;
    assert_eq!(holds(0), (0, Some(last)));
    assert_eq!(holds(last), (0, None));
}

fn network(shards: usize) -> Vec<ShardThreads<MemoryJournal>> {
    let mut network = Network::new(shards);
    let start = |index| {
        let journal = MemoryJournal::new(id(index), LogPosition::genesis(Uuid::nil(), id(index)));
        let on_failure = Arc::new(|_, error: &StorageError| panic!("{error}"));
        let rules = ShardRules { keys_max: 1_000_000, ..rules() };
        ShardThreads::start(id(index), Ledger::new(id(index)), rules, journal, now, on_failure, &mut network)
    };
    (0..shards).map(start).collect()
}

/// Ends them all, and checks that nothing is in flight between them.
fn stop(shards: Vec<ShardThreads<MemoryJournal>>) {
    shards.iter().for_each(ShardThreads::ask_to_stop);
    let mut in_flight = teller::ledger::Total::default();
    let ledgers: Vec<_> =
        shards.into_iter().map(|threads| ended(threads).expect("the log is intact").0).collect();
    for ledger in &ledgers {
        assert!(ledger.totals().values().all(|total| total.is_zero()), "P3");
        ledger.clearing().values().for_each(|part| in_flight.add_total(*part));
        for other in &ledgers {
            assert_eq!(ledger.received_from(other.shard()), other.sent_to(ledger.shard()), "all is settled");
        }
    }
    assert!(in_flight.is_zero(), "nothing is in flight (P3)");
}

/// P1, P3: while the log of one shard is stuck, that of the other takes nothing that rests on it: no decision about
/// accounts that are not durable there, and no settlement of a decision that is not.
#[test]
fn a_log_waits_for_what_its_batches_require_of_the_other() {
    for stuck in [0, 1] {
        let mut network = Network::new(2);
        let (gates, shards): (Vec<_>, Vec<_>) = (0..2)
            .map(|index| {
                let (gate, go_on) = bounded(0);
                let journal = MemoryJournal::new(id(index), LogPosition::genesis(Uuid::nil(), id(index)));
                let journal = GatedJournal { journal, began: bounded(1).0, go_on };
                let on_failure = Arc::new(|_, error: &StorageError| panic!("{error}"));
                let ledger = Ledger::new(id(index));
                let threads =
                    ShardThreads::start(id(index), ledger, rules(), journal, now, on_failure, &mut network);
                // Without its other end the gate is open.
                (Some(gate).filter(|_| index == stuck), threads)
            })
            .unzip();
        let handles: Vec<_> = shards.iter().map(|threads| threads.handle().clone()).collect();
        let ask = |index: usize, request| {
            let handle = handles[index].clone();
            async move { handle.ask(request).await }
        };
        let script = async {
            // It is sent here and now, so what is asked next comes behind it.
            let opening = handles[stuck].ask(execute(open(["a", "b"][stuck]), Some(1)));
            let opening = tokio::spawn(opening);
            // The same again is answered at once, and behind the first: so that has been served.
            let again = ask(stuck, execute(open(["a", "b"][stuck]), Some(1))).await;
            assert_eq!(again, Ok(Reply::KeyInFlight));
            let free = 1 - stuck;
            let opened = ask(free, execute(open(["a", "b"][free]), None)).await;
            assert!(matches!(opened, Ok(Reply::Executed { .. })));
            let transferring = tokio::spawn(ask(0, transfer(0, 1, None)));
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert_eq!(handles[free].durable(), Sequence::FIRST, "shard {stuck} is stuck");
            assert!(!opening.is_finished() && !transferring.is_finished());
            drop(gates);
            let reply = transferring.await.expect("no panic");
            let Ok(Reply::Worked(WorkReply::Items(items))) = &reply else { panic!("{reply:?}") };
            assert!(matches!(items[..], [ItemReply::Done { .. }]), "{items:?}");
        };
        answered_in(&runtime(1), script);
        shards.iter().for_each(ShardThreads::ask_to_stop);
        for threads in shards {
            let (ledger, journal) = ended(threads).expect("the log is intact");
            assert_eq!((ledger.last().get(), journal.journal.durable().last.get()), (2, 2));
        }
    }
}

/// Many clients move money in circles, both ways, between shards with threads: all of them are answered.
#[test]
fn works_that_cross_never_wait_for_one_another_for_ever() {
    let shards = network(3);
    let handles: Vec<_> = shards.iter().map(|threads| threads.handle().clone()).collect();
    answered_in(&runtime(4), async {
        for (index, handle) in handles.iter().enumerate() {
            let AccountRef::Name(name) = place(index).account else { unreachable!() };
            assert!(matches!(handle.ask(execute(open(&name), None)).await, Ok(Reply::Executed { .. })));
        }
        let clients: Vec<_> = (0..48)
            .map(|client| {
                let handles = handles.clone();
                tokio::spawn(async move {
                    for round in 0..60 {
                        let (from, to) = ((client + round) % 3, (client * 2 + round * 2 + 1) % 3);
                        let (from, to) = if from == to { (from, (to + 1) % 3) } else { (from, to) };
                        let reply = handles[from.min(to)].ask(transfer(from, to, None)).await;
                        assert!(matches!(reply, Ok(Reply::Worked(WorkReply::Items(_)))), "{reply:?}");
                        let reply = handles[to].ask(read(to)).await;
                        assert!(matches!(reply, Ok(Reply::Account(Some(_)))), "{reply:?}");
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic");
        }
    });
    stop(shards);
}

/// A stop lets what is under way between shards come to its end, whatever each of them was at.
#[test]
fn a_stop_with_works_under_way_ends_and_leaves_nothing_in_flight() {
    for round in 0..20 {
        let shards = network(3);
        let handles: Vec<_> = shards.iter().map(|threads| threads.handle().clone()).collect();
        let runtime = runtime(2);
        answered_in(&runtime, async {
            for (index, handle) in handles.iter().enumerate() {
                let AccountRef::Name(name) = place(index).account else { unreachable!() };
                handle.ask(execute(open(&name), None)).await.expect("answered");
            }
            for number in 0..30 * (round + 1) {
                let (from, to) = (number % 3, (number + 1 + number % 2) % 3);
                let handle = handles[from.min(to)].clone();
                tokio::spawn(async move { handle.ask(transfer(from, to, None)).await });
            }
            tokio::task::yield_now().await;
        });
        stop(shards);
        runtime.shutdown_background();
    }
}
