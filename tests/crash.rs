//! kill -9 at any moment, under load, round after round on one ledger.
//!
//! Clients move money through real connections while the server is killed: at random, while it compacts, while
//! it recovers, now and then with SIGTERM instead. Every amount of the whole run is unique, so that an entry of
//! a history tells which request made it, even one that was never answered. After every restart:
//!
//! - every acknowledged change is in its account's history exactly once, with the id and balance of its reply;
//! - a request that was refused, or found unexecuted before, never shows up;
//! - a request without an answer was executed once or not at all; sent again with its key it is executed once,
//!   and its answer is a replay exactly if the crash had left its effect behind;
//! - a reply once seen is the reply for ever;
//! - a transfer, alone or in a batch, is in the histories of both its accounts or of none;
//! - histories have no gap, add up, and end at the balance; versions never run backwards, also not to what was
//!   merely read; all accounts and the outside world sum to zero.
//!
//! And at least one kill has come between an effect and its reply: without one, nothing would have been shown.
//!
//! `TELLER_CRASH_ROUNDS` says how many rounds, `TELLER_CRASH_SEED` which. A seed repeats the requests and the
//! moments of the kills as far as the machine's scheduler lets it.

mod process;
mod random;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hyper::Request;
use hyper::header::HeaderValue;
use process::{DataDir, Entry, Server, amount, cents, history, json};
use random::{Random, setting};
use serde_json::Value;
use teller::client::{Client, ClientError, Response};
use tokio::task::JoinSet;

const ROUNDS_DEFAULT: u64 = 20;
/// So many rounds more there are at most until a kill has come between what a request did and its reply. Most come
/// there for one of the clients.
const MORE_ROUNDS_MAX: u64 = 20;
/// Every so many rounds the files are proven offline.
const ROUNDS_PER_PROOF: u64 = 10;
/// How many accounts' histories are read again from the start after each restart; all are at the end. The others
/// are read from where the last check ended.
const HISTORIES_READ_AGAIN: u64 = 2;
const CLIENTS: u64 = 10;
const OWN_ACCOUNTS: u64 = 3;
const SHARED_ACCOUNTS: u64 = 4;
const OVERDRAFT_LIMIT_CENTS: i64 = 20_000_000;
/// Amounts are below this many cents; what is above is always refused.
const AMOUNTS: u64 = 1 << 24;
const REFUSED_CENTS: i64 = 1_000_000_000;

const FLAGS: &[&str] = &["--shards=3", "--journal-mib=1", "--disk-reserve-mib=0", "--log=info"];

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9_at_any_moment() {
    let rounds = setting("TELLER_CRASH_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = setting("TELLER_CRASH_SEED").unwrap_or_else(seed_of_now);
    eprintln!("{rounds} rounds; to repeat: TELLER_CRASH_ROUNDS={rounds} TELLER_CRASH_SEED={seed}");
    let mut run = Run::new(seed);
    for round in 0..rounds + MORE_ROUNDS_MAX {
        if round < rounds || run.model.lost_replies_executed == 0 {
            run.round(round);
        }
    }
    run.end();
}

#[expect(clippy::disallowed_methods, reason = "a seed that differs from run to run")]
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").subsec_nanos().into()
}

/// The whole run: the directory, the clients, and what must be true.
struct Run {
    data: DataDir,
    random: Random,
    clients: Vec<Customer>,
    model: Model,
    tally: Tally,
    began: Instant,
}

/// What happened, for whoever wants to know that the run was worth something.
#[derive(Default, Debug)]
struct Tally {
    kills: u64,
    kills_while_starting: u64,
    terminations: u64,
    terminations_while_starting: u64,
    snapshots_asked_for: u64,
    /// Kills that left a half-written file.
    temporary_files_left: u64,
    /// Kills that left a half-removed generation.
    half_removals_left: u64,
    /// Kills between a sealing and its compaction.
    generations_left: u64,
    requests: u64,
    transactions: u64,
    lost_replies: u64,
    lost_replies_executed: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random::new(seed);
        let counter = Arc::new(AtomicU64::new(1));
        let clients = (0..CLIENTS).map(|index| Customer::new(index, random.fork(), Arc::clone(&counter)));
        Run {
            data: DataDir::new(),
            clients: clients.collect(),
            random,
            model: Model::default(),
            tally: Tally::default(),
            began: Instant::now(),
        }
    }

    fn round(&mut self, round: u64) {
        while self.random.percent(30) {
            self.crash_while_starting();
        }
        if round % ROUNDS_PER_PROOF == ROUNDS_PER_PROOF - 1 {
            self.data.run(&["verify"]).succeeded();
        }
        let mut server = self.data.serve(FLAGS);
        let again = (0..HISTORIES_READ_AGAIN).map(|_| self.random.below(1 << 32)).collect();
        process::block_on(self.model.check(&server.client(4), &mut self.clients, &Again::Some(again)));
        let by_signal = round % 5 == 4;
        self.load(&mut server, by_signal);
        if by_signal {
            // The load has told it to end already; a second signal would cut that short.
            server.assert_ends_well();
            self.tally.terminations += 1;
        } else {
            server.kill();
            self.tally.kills += 1;
            self.look_at_the_ruins();
        }
        eprintln!("round {round} is over after {:?}", self.began.elapsed());
    }

    /// The start after a crash can crash as well.
    fn crash_while_starting(&mut self) {
        let mut server = self.data.launch(FLAGS);
        std::thread::sleep(Duration::from_millis(self.random.below(250)));
        if self.random.percent(70) {
            server.kill();
            self.tally.kills_while_starting += 1;
            self.look_at_the_ruins();
        } else {
            server.terminate();
            let status = server.wait();
            // Without a code: the signal came before the program could hear it.
            assert!(matches!(status.code(), Some(0) | None), "{status}:\n{}", server.log());
            self.tally.terminations_while_starting += 1;
        }
    }

    /// Has the clients work until the server is gone.
    fn load(&mut self, server: &mut Server, by_signal: bool) {
        let client = server.client(CLIENTS as usize);
        let clients = std::mem::take(&mut self.clients);
        let mut snapshots: Vec<u64> = Vec::new();
        let end = 30 + self.random.below(600);
        while self.random.percent(50) {
            snapshots.push(self.random.below(end));
        }
        if self.random.percent(60) {
            // So that the end meets a compaction: what it does takes some tens of milliseconds.
            snapshots.push(end.saturating_sub(self.random.below(80)));
        }
        snapshots.sort_unstable();
        self.tally.snapshots_asked_for += snapshots.len() as u64;
        self.clients = process::block_on(async {
            let ending = Arc::new(AtomicBool::new(false));
            let mut tasks = JoinSet::new();
            for customer in clients {
                tasks.spawn(customer.work(client.clone(), Arc::clone(&ending)));
            }
            let began = tokio::time::Instant::now();
            for at in snapshots {
                tokio::time::sleep_until(began + Duration::from_millis(at)).await;
                server.ask_for_snapshot();
            }
            tokio::time::sleep_until(began + Duration::from_millis(end)).await;
            ending.store(true, Ordering::Release);
            if by_signal {
                server.terminate();
            } else {
                server.kill_without_waiting();
            }
            let mut clients = tasks.join_all().await;
            clients.sort_by_key(|customer| customer.index);
            clients
        });
    }

    fn look_at_the_ruins(&mut self) {
        if !self.data.ledger().exists() {
            return;
        }
        let ruins = names(&self.data.ledger());
        let any = |suffix: &str| u64::from(ruins.iter().any(|name| name.ends_with(suffix)));
        self.tally.temporary_files_left += any(".tmp");
        self.tally.half_removals_left += any(".removed");
        let sealed = ruins.iter().filter(|name| name.ends_with("/db")).count();
        self.tally.generations_left += u64::from(sealed > 6);
    }

    /// Ends the last server in peace, proves what it left, and reads everything once more.
    fn end(mut self) {
        let server = self.data.serve(FLAGS);
        process::block_on(self.model.check(&server.client(4), &mut self.clients, &Again::Some(vec![])));
        // Whatever is still without an answer gets one.
        let client = server.client(4);
        self.clients = process::block_on(async {
            let mut clients = Vec::new();
            for customer in std::mem::take(&mut self.clients) {
                clients.push(customer.settle(&client).await);
            }
            clients
        });
        process::block_on(self.model.check(&client, &mut self.clients, &Again::Some(vec![])));
        server.stop();
        let proof = self.data.run(&["verify"]).succeeded();
        assert!(proof.contains("is proven") && proof.contains("USD sums to 0.00"), "{proof}");
        let server = self.data.serve(FLAGS);
        process::block_on(self.model.check(&server.client(4), &mut self.clients, &Again::All));
        server.stop();
        for customer in &self.clients {
            self.tally.requests += customer.requests.len() as u64;
            self.tally.lost_replies += customer.lost_replies;
        }
        self.tally.transactions =
            self.model.accounts.values().map(|account| account.entries.len() as u64).sum();
        self.tally.lost_replies_executed = self.model.lost_replies_executed;
        eprintln!("{:#?} in {:?}", self.tally, self.began.elapsed());
        assert!(self.tally.kills > 0, "nothing was killed under load");
        assert!(self.tally.lost_replies_executed > 0, "no kill came between an effect and its reply");
    }
}

/// The paths of a directory's files, all levels.
fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(self::names(&path));
        }
    }
    names
}

/// What a request is meant to do. `account` is a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Open { account: String },
    Move { account: String, cents: i64 },
    Transfer { from: String, to: String, cents: i64, in_batch: bool },
    Close { account: String },
}

impl Effect {
    /// What it moves into accounts.
    fn moves(&self) -> Vec<(&str, i64)> {
        match self {
            Effect::Open { .. } | Effect::Close { .. } => vec![],
            Effect::Move { account, cents } => vec![(account, *cents)],
            Effect::Transfer { from, to, cents, .. } => vec![(from, -cents), (to, *cents)],
        }
    }
}

/// Where a request stands.
#[derive(Clone, Debug)]
enum State {
    /// Sent, and no answer seen.
    Unanswered,
    /// Answered; the first answer is the one for ever.
    Answered(Answer),
    /// It had no answer and no key, and was found not to have been executed.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    /// Of a batch, its item's.
    status: u16,
    body: String,
}

impl Answer {
    /// What it tells, that of a batch of its item.
    fn told(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        if body["results"].is_array() { body["results"][0]["result"].clone() } else { body }
    }
}

/// A request, from its sending to the end of the run.
#[derive(Clone, Debug)]
struct Sent {
    effect: Effect,
    key: Option<String>,
    state: State,
    /// Its effect has been found in the ledger.
    found: bool,
    /// What it left in its accounts' histories.
    entries: Vec<Entry>,
    /// A check has looked for it.
    looked_for: bool,
    /// Of the client's short-lived account.
    of_life: bool,
}

impl Sent {
    fn answered_with(&self, status: u16) -> Option<&Answer> {
        match &self.state {
            State::Answered(answer) if answer.status == status => Some(answer),
            _ => None,
        }
    }

    fn is_done(&self) -> bool {
        self.answered_with(201).or(self.answered_with(204)).is_some()
    }
}

/// An account that is opened, used twice, and closed.
struct Life {
    account: String,
    step: u64,
    cents: i64,
}

/// A client with a connection, its accounts, and a memory of everything that it ever sent.
struct Customer {
    index: u64,
    random: Random,
    /// Shared by all, so that no amount comes twice.
    counter: Arc<AtomicU64>,
    requests: Vec<Sent>,
    /// Those with a key that need an answer.
    unanswered: Vec<usize>,
    life: Option<Life>,
    lives: u64,
    /// The newest version that was read of an account, and its balance.
    seen: HashMap<String, (u64, i64)>,
    lost_replies: u64,
}

/// No reply came: the server is gone.
struct Gone;

impl Customer {
    fn new(index: u64, random: Random, counter: Arc<AtomicU64>) -> Customer {
        Customer {
            index,
            random,
            counter,
            requests: Vec::new(),
            unanswered: Vec::new(),
            life: None,
            lives: 0,
            seen: HashMap::new(),
            lost_replies: 0,
        }
    }

    fn own(&self, number: u64) -> String {
        format!("own {}/{number}", self.index)
    }

    /// Sends requests until the server does not answer any more.
    async fn work(mut self, client: Client, ending: Arc<AtomicBool>) -> Customer {
        while self.one_request(&client, &ending).await.is_ok() {}
        assert!(ending.load(Ordering::Acquire), "the server is gone, and nobody killed it");
        self
    }

    /// Gets an answer to everything that may be asked again.
    async fn settle(mut self, client: &Client) -> Customer {
        let alive = AtomicBool::new(false);
        while let Some(index) = self.unanswered.pop() {
            assert!(self.send(client, &alive, index).await.is_ok(), "the server answers");
        }
        self
    }

    async fn one_request(&mut self, client: &Client, ending: &AtomicBool) -> Result<(), Gone> {
        if self.random.percent(50) {
            // Clients that think, or a long run would be more of the same in every round.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Some(index) = self.unanswered.pop() {
            return self.send(client, ending, index).await;
        }
        if self.requests.is_empty() {
            for number in 0..OWN_ACCOUNTS {
                self.prepare(Effect::Open { account: self.own(number) }, true, false);
            }
            for number in 0..SHARED_ACCOUNTS {
                // Asked for by every client: one of them gets it, the others are refused.
                self.prepare(Effect::Open { account: format!("shared {number}") }, true, false);
            }
            self.unanswered = (0..self.requests.len()).rev().collect();
            return Ok(());
        }
        match self.random.below(100) {
            0..=7 => self.send_again(client, ending).await,
            8..=15 => self.read(client, ending).await,
            16..=23 => self.live(client, ending).await,
            24..=39 => {
                let (from, mut to) = (self.any_account(), self.any_account());
                while to == from {
                    to = self.any_account();
                }
                let (cents, in_batch) = (self.unique_cents(), self.random.percent(30));
                let effect = Effect::Transfer { from, to, cents, in_batch };
                self.send_new(client, ending, effect, false).await
            }
            40..=42 => {
                let account = self.any_account();
                let cents = -(REFUSED_CENTS + self.unique_cents());
                self.send_new(client, ending, Effect::Move { account, cents }, false).await
            }
            percent => {
                let account = self.any_account();
                // More goes out than in, so that overdraft limits are met.
                let sign = if percent < 70 { 1 } else { -1 };
                let cents = sign * self.unique_cents();
                self.send_new(client, ending, Effect::Move { account, cents }, false).await
            }
        }
    }

    fn any_account(&mut self) -> String {
        if self.random.percent(30) {
            format!("shared {}", self.random.below(SHARED_ACCOUNTS))
        } else {
            let number = self.random.below(OWN_ACCOUNTS);
            self.own(number)
        }
    }

    /// Multiplying by an odd number permutes the numbers below a power of two.
    fn unique_cents(&self) -> i64 {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        assert!(number < AMOUNTS, "amounts are unique");
        (number * 0x9E_37B1 % AMOUNTS) as i64
    }

    async fn send_new(
        &mut self,
        client: &Client,
        ending: &AtomicBool,
        effect: Effect,
        of_life: bool,
    ) -> Result<(), Gone> {
        let keyed = self.random.percent(75);
        let index = self.prepare(effect, keyed, of_life);
        self.send(client, ending, index).await
    }

    fn prepare(&mut self, effect: Effect, keyed: bool, of_life: bool) -> usize {
        let key = keyed.then(|| format!("client {} request {}", self.index, self.requests.len()));
        self.requests.push(Sent {
            effect,
            key,
            state: State::Unanswered,
            found: false,
            entries: Vec::new(),
            looked_for: false,
            of_life,
        });
        self.requests.len() - 1
    }

    /// Sends a request, the first time or again, and compares the answer with everything that is known.
    async fn send(&mut self, client: &Client, ending: &AtomicBool, index: usize) -> Result<(), Gone> {
        let reply = exchange(client, &self.requests[index]).await;
        let request = &mut self.requests[index];
        let response = match reply {
            Ok(response) if response.status != 503 => response,
            lost => {
                assert!(ending.load(Ordering::Acquire), "no answer, and nobody killed the server: {lost:?}");
                self.lost_replies += u64::from(matches!(request.state, State::Unanswered));
                match (&request.key, &request.state) {
                    // A check may have looked for it; now it may have been executed.
                    (Some(_), State::Unanswered) => {
                        request.looked_for = false;
                        self.unanswered.push(index);
                    }
                    (None, _) if request.of_life => self.life = None,
                    _ => {}
                }
                return Err(Gone);
            }
        };
        let body = String::from_utf8(response.body.to_vec()).expect("UTF-8");
        let mut answer = Answer { status: response.status.as_u16(), body };
        if matches!(request.effect, Effect::Transfer { in_batch: true, .. }) {
            let batch = json(&response);
            assert_eq!((answer.status, &batch["count"]), (200, &1.into()), "{request:?}: {batch}");
            answer.status = batch["results"][0]["status"].as_u64().expect("a status") as u16;
        }
        let replayed = response.headers.contains_key("idempotent-replayed");
        match &request.state {
            State::Answered(first) => {
                assert_eq!(answer, *first, "the first answer is the one for ever: {request:?}");
                assert!(replayed, "it was executed again: {request:?}");
                return Ok(());
            }
            State::Unanswered => {}
            State::Dead => unreachable!("it is not sent again"),
        }
        let known = match &request.effect {
            Effect::Open { account } => answer.status == 201 || is_shared(account) && answer.status == 409,
            Effect::Move { cents, .. } if cents.abs() > REFUSED_CENTS => answer.status == 422,
            Effect::Move { cents, .. } if *cents < 0 => matches!(answer.status, 201 | 422),
            Effect::Move { .. } => answer.status == 201,
            Effect::Transfer { .. } => matches!(answer.status, 201 | 422),
            Effect::Close { .. } => answer.status == 204,
        };
        assert!(known, "{request:?} is answered with {response:?}");
        let by_anyone = matches!(&request.effect, Effect::Open { account } if is_shared(account));
        if by_anyone {
            // Whose opening a crash has left behind cannot be seen.
        } else if answer.status < 300 {
            assert_eq!(
                replayed, request.found,
                "a replay, exactly if it had been done: {request:?}, {response:?}"
            );
        } else {
            assert!(!request.found, "it had been done: {request:?}, {response:?}");
        }
        request.state = State::Answered(answer);
        request.looked_for = false;
        if request.of_life
            && let Some(life) = &mut self.life
        {
            assert!(request.is_done(), "an account of one's own obeys: {request:?}");
            life.step += 1;
        }
        Ok(())
    }

    /// Sends a request that was answered long ago.
    async fn send_again(&mut self, client: &Client, ending: &AtomicBool) -> Result<(), Gone> {
        let index = self.random.below(self.requests.len() as u64) as usize;
        let request = &self.requests[index];
        match (&request.key, &request.state) {
            (Some(_), State::Answered(_)) => self.send(client, ending, index).await,
            _ => Ok(()),
        }
    }

    async fn read(&mut self, client: &Client, ending: &AtomicBool) -> Result<(), Gone> {
        let account = self.any_account();
        let response = match client.get(&path_of(&account)).await {
            Ok(response) if response.status != 503 => response,
            lost => {
                assert!(ending.load(Ordering::Acquire), "no answer, and nobody killed the server: {lost:?}");
                return Err(Gone);
            }
        };
        assert_eq!(response.status, 200, "{response:?}");
        let tag = response.headers["etag"].to_str().expect("a tag");
        let version = tag.trim_matches('"').parse().expect("a version");
        let balance = cents(&json(&response)["balance"]);
        let before = self.seen.insert(account, (version, balance));
        assert!(before.is_none_or(|(before, _)| before <= version), "{before:?}, then {response:?}");
        Ok(())
    }

    /// The next step of the short-lived account.
    async fn live(&mut self, client: &Client, ending: &AtomicBool) -> Result<(), Gone> {
        if self.life.as_ref().is_none_or(|life| life.step == 4) {
            self.lives += 1;
            let account = format!("life {}/{}", self.index, self.lives);
            self.life = Some(Life { account, step: 0, cents: self.unique_cents() });
        }
        let life = self.life.as_ref().expect("there is one");
        let (account, cents) = (life.account.clone(), life.cents);
        let effect = match life.step {
            0 => Effect::Open { account },
            1 => Effect::Move { account, cents },
            2 => Effect::Move { account, cents: -cents },
            _ => Effect::Close { account },
        };
        self.send_new(client, ending, effect, true).await
    }
}

fn is_shared(account: &str) -> bool {
    account.starts_with("shared")
}

fn path_of(account: &str) -> String {
    format!("/accounts/{}", account.replace(' ', "%20").replace('/', "%2F"))
}

async fn exchange(client: &Client, request: &Sent) -> Result<Response, ClientError> {
    let key = request.key.as_deref();
    match &request.effect {
        Effect::Open { account } if request.of_life => {
            client.post_json("/accounts", format!(r#"{{"name":"{account}"}}"#), key).await
        }
        Effect::Open { account } => {
            let limit = amount(OVERDRAFT_LIMIT_CENTS);
            let body = format!(r#"{{"name":"{account}","overdraft_limit":"{limit}"}}"#);
            client.post_json("/v2/accounts", body, key).await
        }
        Effect::Move { account, cents } => {
            let verb = if *cents > 0 { "deposit" } else { "withdraw" };
            let body = format!(r#"{{"amount":{}}}"#, amount(cents.abs()));
            client.post_json(&format!("{}/{verb}", path_of(account)), body, key).await
        }
        Effect::Transfer { from, to, cents, in_batch } => {
            let amount = amount(*cents);
            let pair = format!(r#""from":"name:{from}","to":"name:{to}","amount":"{amount}""#);
            match in_batch {
                true => {
                    let body = format!(r#"{{"items":[{{"type":"transfer",{pair}}}]}}"#);
                    client.post_json("/v2/batches", body, key).await
                }
                false => client.post_json("/v2/transfers", format!("{{{pair}}}"), key).await,
            }
        }
        Effect::Close { account } => {
            let mut delete = Request::delete(client.uri(&path_of(account))).body(Default::default())?;
            if let Some(key) = key {
                delete.headers_mut().insert("idempotency-key", HeaderValue::from_str(key)?);
            }
            client.send(delete).await
        }
    }
}

/// An account as the checks know it.
#[derive(Default)]
struct Account {
    id: String,
    entries: Vec<Entry>,
    closed: bool,
    /// Nothing can change it any more, and that has been checked.
    at_rest: bool,
}

impl Account {
    fn balance(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.balance)
    }

    /// Opening it makes version 1, every transaction and its closing the next one.
    fn version(&self) -> u64 {
        1 + self.entries.len() as u64 + u64::from(self.closed)
    }
}

/// Which histories a check reads from the start.
enum Again {
    All,
    /// Some, by random numbers.
    Some(Vec<u64>),
}

/// What the ledger has been found to hold. It only ever grows.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<String, Account>,
    /// By amount, positive into an account: the one request that can have moved it.
    movers: HashMap<i64, (usize, usize)>,
    /// How many requests of each client are in `movers`.
    movers_known: Vec<usize>,
    lost_replies_executed: u64,
}

impl Model {
    /// Compares the ledger with everything that the clients know, and takes over what has happened since the
    /// last check.
    async fn check(&mut self, client: &Client, customers: &mut [Customer], again: &Again) {
        self.find_opened(client, customers).await;
        self.learn_movers(customers);
        let names: Vec<String> = self.accounts.keys().cloned().collect();
        for (index, name) in names.iter().enumerate() {
            let full = match again {
                Again::All => true,
                Again::Some(numbers) => {
                    numbers.iter().any(|number| number % names.len() as u64 == index as u64)
                }
            };
            if full || !self.accounts[name].at_rest {
                self.check_account(client, customers, name, full).await;
            }
        }
        for customer in customers.iter_mut() {
            for request in &mut customer.requests {
                self.check_request(request);
            }
        }
        self.check_totals(client).await;
    }

    /// Every account whose opening was acknowledged is there; one whose opening had no answer may be.
    async fn find_opened(&mut self, client: &Client, customers: &mut [Customer]) {
        for request in customers.iter_mut().flat_map(|customer| &mut customer.requests) {
            let Effect::Open { account } = &request.effect else { continue };
            if request.looked_for {
                continue;
            }
            if let State::Answered(answer) = &request.state {
                let body: Value = serde_json::from_str(&answer.body).expect("JSON");
                if answer.status == 201 {
                    let id = body["id"].as_str().expect("an id");
                    let known = self.accounts.entry(account.clone()).or_default();
                    assert!(known.id.is_empty() || known.id == id, "{account:?} is opened twice");
                    id.clone_into(&mut known.id);
                    request.found = true;
                } else {
                    assert_eq!(body["code"], "account-exists");
                }
                continue;
            }
            let response = client.get(&path_of(account)).await.expect("a reply");
            if response.status == 404 {
                assert!(!request.found, "{account:?} was there");
                continue;
            }
            assert_eq!(response.status, 200, "{response:?}");
            let id = json(&response)["id"].as_str().expect("an id").to_owned();
            let known = self.accounts.entry(account.clone()).or_default();
            assert!(known.id.is_empty() || known.id == id, "{account:?} is opened twice");
            known.id = id;
            request.found = !is_shared(account);
        }
    }

    fn learn_movers(&mut self, customers: &[Customer]) {
        self.movers_known.resize(customers.len(), 0);
        for (owner, customer) in customers.iter().enumerate() {
            for index in self.movers_known[owner]..customer.requests.len() {
                for (_, cents) in customer.requests[index].effect.moves() {
                    let before = self.movers.insert(cents, (owner, index));
                    assert!(before.is_none(), "amounts are unique");
                }
            }
            self.movers_known[owner] = customer.requests.len();
        }
    }

    async fn check_account(&mut self, client: &Client, customers: &mut [Customer], name: &str, full: bool) {
        let account = self.accounts.get_mut(name).expect("it is known");
        let path = format!("/v2/accounts/{}", account.id);
        let response = client.get(&path).await.expect("a reply");
        assert_eq!(response.status, 200, "{name:?} is lost: {response:?}");
        let view = json(&response);
        assert_eq!(view["name"], name);
        let known = account.entries.len();
        let behind = if full { 0 } else { 1 + known as u64 };
        let version = view["version"].as_u64().expect("a version");
        // No page larger than what is new: histories grow, and so would the cost of every round.
        let limit = version.saturating_sub(behind).clamp(1, 500);
        let mut entries = history(client, &account.id, behind, limit).await;
        if full {
            let new = entries.split_off(known.min(entries.len()));
            assert_eq!(entries, account.entries, "the history of {name:?} is not what it was");
            entries = new;
        }
        for entry in entries {
            assert_eq!(entry.version, account.version() + 1, "{name:?}: {entry:?}");
            assert_eq!(entry.balance, account.balance() + entry.cents, "{name:?}: {entry:?}");
            let (owner, index) = *self.movers.get(&entry.cents).expect("somebody asked for it");
            let request = &mut customers[owner].requests[index];
            assert!(request.effect.moves().contains(&(name, entry.cents)), "{request:?}, {entry:?}");
            let twice = request.entries.iter().any(|known| known.cents == entry.cents);
            assert!(!twice, "executed twice: {request:?}, {entry:?}");
            match &request.state {
                State::Unanswered => self.lost_replies_executed += u64::from(!request.found),
                State::Answered(_) => {}
                State::Dead => panic!("it was found not to be there: {request:?}"),
            }
            request.found = true;
            request.entries.push(entry.clone());
            account.entries.push(entry);
        }
        let closed = !view["closed"].is_null();
        assert!(closed || !account.closed, "{name:?} was closed");
        account.closed = closed;
        account.at_rest = closed;
        assert_eq!(cents(&view["posted"]), account.balance(), "{view}");
        assert_eq!(view["version"], account.version(), "{view}");
        for customer in customers.iter() {
            let Some((version, balance)) = customer.seen.get(name) else { continue };
            assert!(*version <= account.version(), "{name:?} was read at version {version}: {view}");
            let then = version.checked_sub(2).map_or(0, |index| account.entries[index as usize].balance);
            assert_eq!(then, *balance, "{name:?} was read with it at version {version}");
        }
    }

    /// Every acknowledged change is there; what has no key and is not there never will be.
    fn check_request(&mut self, request: &mut Sent) {
        if request.looked_for {
            return;
        }
        request.looked_for = true;
        if let Effect::Close { account } = &request.effect {
            let closed = self.accounts.get(account).is_some_and(|account| account.closed);
            if closed && matches!(request.state, State::Unanswered) {
                self.lost_replies_executed += 1;
            }
            request.found = closed;
        }
        assert!(request.found || !request.is_done(), "acknowledged, and lost: {request:?}");
        let sides = request.effect.moves().len();
        assert!([0, sides].contains(&request.entries.len()), "half of it was executed: {request:?}");
        if let State::Answered(_) = &request.state {
            request.entries.iter().for_each(|entry| agree(request, entry));
        }
        if matches!(request.state, State::Unanswered) && request.key.is_none() && !request.found {
            request.state = State::Dead;
        }
    }

    async fn check_totals(&self, client: &Client) {
        let response = client.get("/v2/trial-balance").await.expect("a reply");
        let balance = json(&response);
        assert_eq!(balance["balanced"], true, "{balance}");
        let lines = balance["currencies"].as_array().expect("a list");
        let Some(line) = lines.first() else {
            assert!(self.accounts.is_empty(), "{balance}");
            return;
        };
        let sum: i64 = self.accounts.values().map(Account::balance).sum();
        assert_eq!(lines.len(), 1, "{balance}");
        assert_eq!(line["accounts"], self.accounts.len(), "{balance}");
        assert_eq!(cents(&line["credit"]) + cents(&line["debit"]), sum, "{balance}");
        assert_eq!(cents(&line["world"]), -sum, "{balance}");
        assert_eq!(cents(&line["sum"]), 0, "{balance}");
    }
}

/// Asserts that an answer tells what the history does.
fn agree(request: &Sent, entry: &Entry) {
    let answer = request.answered_with(201).unwrap_or_else(|| panic!("{request:?} made {entry:?}"));
    let told = answer.told();
    assert_eq!(told["id"], entry.id.as_str(), "{request:?}");
    let balance = match told["accounts"].as_array() {
        None => {
            assert_eq!(cents(&told["amount"]), entry.cents, "{request:?}");
            &told["balance"]
        }
        Some(sides) => {
            let side = sides.iter().find(|side| cents(&side["amount"]) == entry.cents);
            &side.unwrap_or_else(|| panic!("{request:?} made {entry:?}"))["posted"]
        }
    };
    assert_eq!(cents(balance), entry.balance, "{request:?}");
}
