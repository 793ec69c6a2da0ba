//! Records what clients of a real server see while it is killed and started again.
//!
//! Each client is a thread with a connection of its own. What always holds:
//! - a moment before the sending and one behind the reply are taken by one monotonic clock, so the interval of
//!   an operation is never too short;
//! - a client whose connection dies sends the same request with the same key to the next server; that is one
//!   operation, from the first sending to the last reply. Without a key, or if it gives up, the outcome is
//!   unknown, and nothing can come of it once the next server serves: what a dead process had not finished is
//!   finished by recovery or never;
//! - a server that ends without having been killed fails the test.
//!
//! The seed gives the requests, and at which request the server is killed; not what the threads make of it.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use teller::client::{Client, ClientError, Response};

use crate::checker::{Moment, Outcome};
use crate::model::{AccountNumber, BankOperation, Op, Output, answered, unanswered};
use crate::process::{DataDir, Server, TIME_MAX};
use crate::random::Random;
use crate::wire::{self, Book, Request};
use crate::workload::{EVERYTHING, Holds, Workload};

/// How many shards the server has.
pub(crate) const SHARDS: usize = 3;

const FLAGS: &[&str] = &["--shards=3", "--journal-mib=1", "--disk-reserve-mib=0", "--log=warn"];

const CLIENTS_MIN: u64 = 4;
const CLIENTS_MAX: u64 = 6;
const ACCOUNTS_MIN: u64 = 4;
const ACCOUNTS_MAX: u64 = 6;
/// Requests of the workload; openings and the last reads come on top.
const REQUESTS_MIN: u64 = 30;
const REQUESTS_MAX: u64 = 60;
const KILLS_MAX: u64 = 2;

/// How long after its request a kill comes at most: about as long as a request takes.
const KILL_DELAY_US_MAX: u64 = 1500;

/// How long a client waits where the server says that it should: there are few clients, it is soon over.
const RETRY_WAIT: Duration = Duration::from_millis(2);

/// A history, and what made it worth recording.
pub(crate) struct Recorded {
    pub(crate) history: Vec<BankOperation>,
    pub(crate) tally: Tally,
}

/// What happened, over all histories.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    /// Pairs of operations that were under way at the same time.
    pub(crate) concurrent_pairs: u64,
    pub(crate) refused: u64,
    pub(crate) kills: u64,
    /// Operations that were answered only by a later server.
    pub(crate) answered_after_kill: u64,
    /// Those of them that the killed server had done.
    pub(crate) replayed_after_kill: u64,
    pub(crate) unanswered: u64,
    /// Answered requests that were sent again.
    pub(crate) repeated: u64,
}

impl Tally {
    /// Operations that were under way when the server was killed, or began before the next one served.
    pub(crate) fn met_by_kills(&self) -> u64 {
        self.answered_after_kill + self.unanswered
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.operations += other.operations;
        self.concurrent_pairs += other.concurrent_pairs;
        self.refused += other.refused;
        self.kills += other.kills;
        self.answered_after_kill += other.answered_after_kill;
        self.replayed_after_kill += other.replayed_after_kill;
        self.unanswered += other.unanswered;
        self.repeated += other.repeated;
    }
}

/// A ledger with a server that serves one history after the other.
pub(crate) struct Recorder {
    data: DataDir,
    server: Server,
    clock: Instant,
    recorded: u64,
}

impl Recorder {
    /// An empty ledger, served.
    pub(crate) fn new() -> Recorder {
        let data = DataDir::new();
        let server = data.serve(FLAGS);
        Recorder { data, server, clock: Instant::now(), recorded: 0 }
    }

    /// Records a history over new accounts.
    pub(crate) fn record(&mut self, seed: u64) -> Recorded {
        let mut random = Random::new(seed);
        let clients = random.below(CLIENTS_MAX - CLIENTS_MIN + 1) + CLIENTS_MIN;
        let accounts = (random.below(ACCOUNTS_MAX - ACCOUNTS_MIN + 1) + ACCOUNTS_MIN) as usize;
        let requests = random.below(REQUESTS_MAX - REQUESTS_MIN + 1) + REQUESTS_MIN;
        let mut kills: BTreeMap<u64, Duration> = BTreeMap::new();
        for _ in 0..random.below(KILLS_MAX + 1) {
            let delay = Duration::from_micros(random.below(KILL_DELAY_US_MAX));
            kills.insert(1 + random.below(requests - 1), delay);
        }
        self.recorded += 1;
        let prefix = format!("h{}", self.recorded);
        let stage = Stage {
            book: Book::new(&prefix, accounts, SHARDS),
            prefix,
            workload: Workload { accounts, kinds: EVERYTHING },
            holds: Mutex::default(),
            clock: self.clock,
            requests,
            begun: AtomicU64::new(0),
            serving: Mutex::new(self.serving(0)),
            next_serves: Condvar::new(),
        };
        let mut notes: Vec<Note> = thread::scope(|scope| {
            let spawn = |number| {
                let customer = Customer::new(number, &stage, random.fork());
                scope.spawn(move || customer.work(clients as usize))
            };
            let threads: Vec<_> = (0..clients as usize).map(spawn).collect();
            for (number, (request, delay)) in (1..).zip(&kills) {
                // A client that has ended has either seen the last request, or has failed.
                while stage.begun.load(Ordering::Acquire) < *request
                    && !threads.iter().any(ScopedJoinHandle::is_finished)
                {
                    thread::sleep(Duration::from_micros(100));
                }
                thread::sleep(*delay);
                self.kill_and_serve(&stage, number);
            }
            threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
        });
        let mut last = Customer::new(clients as usize, &stage, random.fork());
        for account in 0..accounts {
            last.ask(Op::Read { account: AccountNumber(account) }, false);
        }
        notes.append(&mut last.notes);
        let tally = Tally { kills: kills.len() as u64, ..tally(&notes) };
        let history = notes.into_iter().map(|note| note.read(&stage.book)).collect();
        let mut recorded = Recorded { history, tally };
        recorded.count();
        recorded
    }

    fn serving(&self, number: u64) -> Serving {
        let ready = Moment(self.clock.elapsed().as_nanos() as u64);
        Serving { number, client: self.server.client(1), ready, killed: false }
    }

    fn kill_and_serve(&mut self, stage: &Stage, number: u64) {
        stage.serving().killed = true;
        self.server.kill_without_waiting();
        self.server.wait();
        self.server = self.data.serve(FLAGS);
        *stage.serving() = self.serving(number);
        stage.next_serves.notify_all();
    }

    /// Ends the server in peace and proves the ledger.
    pub(crate) fn end(self) {
        self.server.stop();
        let proof = self.data.run(&["verify"]).succeeded();
        assert!(proof.contains("is proven"), "{proof}");
    }
}

/// What the clients of a history share.
struct Stage {
    book: Book,
    /// Of idempotency keys, so that no two histories share one.
    prefix: String,
    workload: Workload,
    holds: Mutex<Holds>,
    clock: Instant,
    /// How many requests of the workload there are.
    requests: u64,
    begun: AtomicU64,
    serving: Mutex<Serving>,
    next_serves: Condvar,
}

/// The server of the moment.
#[derive(Clone)]
struct Serving {
    /// How many there were before it.
    number: u64,
    /// To be cloned for its address only: clients do not share connections.
    client: Client,
    /// Since when it has been ready, at the latest.
    ready: Moment,
    /// It is being killed.
    killed: bool,
}

impl Stage {
    fn now(&self) -> Moment {
        Moment(self.clock.elapsed().as_nanos() as u64)
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().expect("no client panics with it")
    }

    /// Waits for the server after this one, which has to have been killed.
    fn await_next(&self, number: u64, error: &ClientError) -> Serving {
        let serving = self.serving();
        assert!(
            serving.number > number || serving.killed,
            "no reply, and nobody killed the server: {error:?}"
        );
        // Not for ever: the thread that starts servers waits for the clients once it has failed.
        let (next, waited) = self
            .next_serves
            .wait_timeout_while(serving, TIME_MAX, |serving| serving.number == number)
            .expect("no client panics with it");
        assert!(!waited.timed_out(), "nobody has started the next server");
        next.clone()
    }
}

/// An operation as its client knows it. Replies are read when all ids are known.
struct Note {
    client: usize,
    op: Op,
    invoked: Moment,
    ended: Ended,
}

enum Ended {
    Replied { at: Moment, response: Response, servers: u64, repeated: bool },
    Unanswered { until: Moment },
}

impl Note {
    fn read(self, book: &Book) -> BankOperation {
        let Note { client, op, invoked, ended } = self;
        match ended {
            Ended::Replied { at, response, .. } => {
                let output = wire::read(&op, &response, book);
                answered(client, invoked, at, op, output)
            }
            Ended::Unanswered { until } => unanswered(client, invoked, until, op),
        }
    }
}

/// A client: a thread, a connection, and what it saw.
struct Customer<'s> {
    number: usize,
    stage: &'s Stage,
    random: Random,
    runtime: tokio::runtime::Runtime,
    serving: Serving,
    client: Client,
    keys: u64,
    notes: Vec<Note>,
}

impl<'s> Customer<'s> {
    fn new(number: usize, stage: &'s Stage, random: Random) -> Customer<'s> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let serving = stage.serving().clone();
        let client = own(&serving);
        Customer {
            number,
            stage,
            random,
            runtime: runtime.expect("a runtime starts"),
            serving,
            client,
            keys: 0,
            notes: Vec::new(),
        }
    }

    /// Opens its share of the accounts, then asks until the history is full.
    fn work(mut self, clients: usize) -> Vec<Note> {
        for account in (self.number..self.stage.workload.accounts).step_by(clients) {
            let op = self.stage.workload.open(&mut self.random, AccountNumber(account));
            self.ask(op, true);
        }
        while self.stage.begun.fetch_add(1, Ordering::AcqRel) < self.stage.requests {
            let ops = {
                let mut holds = self.stage.holds.lock().expect("no client panics with it");
                self.stage.workload.next(&mut self.random, &mut holds)
            };
            for op in ops {
                // Openings tell the ids, so they are asked for until there is an answer.
                let keyed = matches!(op, Op::Open { .. }) || self.random.percent(65);
                // Putting needs no key.
                let keyed = keyed && !matches!(op, Op::Protect { .. });
                self.ask(op, keyed);
            }
            if self.random.percent(20) {
                thread::sleep(Duration::from_micros(self.random.below(1000)));
            }
        }
        self.notes
    }

    /// Sends one operation until its outcome is known or it is given up.
    fn ask(&mut self, op: Op, keyed: bool) {
        let request = wire::request(&op, &self.stage.book, &mut self.random);
        let is_read = request.body.is_none();
        let key = (keyed && !is_read).then(|| {
            self.keys += 1;
            format!("{} client {} key {}", self.stage.prefix, self.number, self.keys)
        });
        let first = self.serving.number;
        let invoked = self.stage.now();
        let response = loop {
            match self.send(&request, key.as_deref()) {
                Ok(response) if wire::is_retryable(&response) => thread::sleep(RETRY_WAIT),
                Ok(response) => break response,
                Err(error) => {
                    self.serving = self.stage.await_next(self.serving.number, &error);
                    self.client = own(&self.serving);
                    let gives_up = !matches!(op, Op::Open { .. }) && self.random.percent(20);
                    if is_read {
                        // It changed nothing and told nothing.
                        return;
                    }
                    if key.is_none() || gives_up {
                        let ended = Ended::Unanswered { until: self.serving.ready };
                        self.notes.push(Note { client: self.number, op, invoked, ended });
                        return;
                    }
                }
            }
        };
        let at = self.stage.now();
        let made = self.stage.book.learn(&op, &response);
        let mut holds = self.stage.holds.lock().expect("no client panics with it");
        made.into_iter().for_each(|hold| holds.made(hold));
        drop(holds);
        let servers = self.serving.number - first;
        let repeated =
            key.is_some() && self.random.percent(10) && self.repeat(&request, key.as_deref(), &response);
        let ended = Ended::Replied { at, response, servers, repeated };
        self.notes.push(Note { client: self.number, op, invoked, ended });
    }

    /// Sends an answered request again: the answer is the same, and what it would do twice shows in the history.
    fn repeat(&mut self, request: &Request, key: Option<&str>, first: &Response) -> bool {
        match self.send(request, key) {
            Ok(again) => {
                assert_eq!((again.status, &again.body), (first.status, &first.body), "{request:?}");
                true
            }
            Err(error) => {
                self.serving = self.stage.await_next(self.serving.number, &error);
                self.client = own(&self.serving);
                false
            }
        }
    }

    fn send(&self, request: &Request, key: Option<&str>) -> Result<Response, ClientError> {
        self.runtime.block_on(async {
            match &request.body {
                None => self.client.get(&request.path).await,
                Some(body) if request.is_put => {
                    let put = hyper::Request::put(self.client.uri(&request.path)).body(body.clone().into());
                    self.client.send(put?).await
                }
                Some(body) => self.client.post_json(&request.path, body.clone(), key).await,
            }
        })
    }
}

/// A client with connections of its own.
fn own(serving: &Serving) -> Client {
    Client::new(serving.client.base().clone(), 1, TIME_MAX)
}

fn tally(notes: &[Note]) -> Tally {
    let mut tally = Tally::default();
    for note in notes {
        if let Ended::Replied { response, servers, repeated, .. } = &note.ended {
            let later = *servers > 0;
            tally.answered_after_kill += u64::from(later);
            let replayed = response.headers.contains_key("idempotent-replayed");
            tally.replayed_after_kill += u64::from(later && replayed);
            tally.repeated += u64::from(*repeated);
        }
    }
    tally
}

impl Recorded {
    fn count(&mut self) {
        self.tally.operations = self.history.len() as u64;
        for (index, operation) in self.history.iter().enumerate() {
            match &operation.outcome {
                Outcome::Replied { at, output } => {
                    self.tally.refused += u64::from(matches!(output, Output::Refused(_)));
                    // Each pair is counted at the one that was sent first.
                    let meets =
                        |other: &BankOperation| other.invoked >= operation.invoked && other.invoked < *at;
                    let others = self.history.iter().enumerate().filter(|(other, _)| *other != index);
                    self.tally.concurrent_pairs += others.filter(|(_, other)| meets(other)).count() as u64;
                }
                Outcome::Unanswered { .. } => self.tally.unanswered += 1,
            }
        }
    }
}
