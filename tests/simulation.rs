//! Deterministic simulation: shards, journals that crash, and clients that retry, against what must hold.
//!
//! One seed is one run: which client asks what, when a shard works, when it commits, what a crash takes. The
//! journal is the one in memory, everything else is the real code without its threads. At every reply, and at
//! the end:
//!
//! - P1: whatever was acknowledged is in the log after every crash, with the values that the reply showed;
//! - P2: an account's versions never run backwards for any observer, over crashes too, and a refusal or a read
//!   shows a state that the account really had in between;
//! - P3, P4: a plain map, fed the surviving log, agrees with the shards, and everything sums to zero;
//! - P5: a key has at most one effect in all shards together, however often and wherever it was sent, and a
//!   client that retries until it gets a reply gets the one of the first time;
//! - P8: snapshot and tail give the same state as the whole log.
//!
//! `TELLER_SIMULATION_SEEDS=1000000 cargo test --release --test simulation` runs for hours;
//! `TELLER_SIMULATION_SEED=17` runs seed 17 alone.

mod random;

use std::collections::{BTreeMap, HashMap, VecDeque};

use random::{Random, setting};
use teller::ledger::{
    AccountName, AccountRef, Amount, Change, Command, Direction, Event, IdempotencyKey, KeyDigest, Ledger,
    LedgerParts, Rejection, Sequence, ShardId, Target, Timestamp,
};
use teller::router::Router;
use teller::shard::batch::{Batch, Moment, Reply, Request, Sealed, Shard, ShardRules};
use teller::storage::journal::record::{LogPosition, Record};
use teller::storage::journal::{Journal, MemoryJournal};
use uuid::Uuid;

const SEEDS_DEFAULT: u64 = 400;
const STEPS: usize = 600;
const CLIENTS: usize = 6;
const NAMES: u64 = 7;
const SERVICE_LIMIT: i128 = 3000;
const RETENTION_MS: u64 = 1_000_000_000;
/// In some runs the shards remember no more keys than this, and refuse new ones.
const FEW_KEYS: usize = 9;

#[test]
fn whatever_crashes_what_was_acknowledged_holds() {
    if let Some(seed) = setting("TELLER_SIMULATION_SEED") {
        return Simulation::new(seed).run();
    }
    for seed in 0..setting("TELLER_SIMULATION_SEEDS").unwrap_or(SEEDS_DEFAULT) {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(run.is_ok(), "seed {seed} failed: TELLER_SIMULATION_SEED={seed} runs it alone");
    }
}

/// Who waits for a reply: a client, and which of its attempts.
type Waiter = (usize, u64);

struct SimulatedShard {
    id: ShardId,
    shard: Shard,
    journal: MemoryJournal,
    inbox: VecDeque<(Waiter, Request)>,
    commits: VecDeque<Batch<Waiter>>,
    /// Appended, not yet synced: their replies.
    unsynced: Vec<Sealed<Waiter>>,
    snapshot: Option<(LedgerParts, LogPosition)>,
}

/// What a client is at. It repeats one request until it has a reply.
struct Client {
    attempt: u64,
    task: Option<Task>,
}

struct Task {
    command: Command,
    read: bool,
    name: AccountName,
    key: Option<IdempotencyKey>,
    /// An opening whose key lives elsewhere is claimed there first.
    claim_at: Option<ShardId>,
    /// The version that the account had at least when the client asked.
    seen_before: u64,
    waiting: bool,
}

/// A reply that promised something.
enum Promise {
    Event(ShardId, Sequence, Event),
    Version { name: AccountName, from: u64, version: u64, posted: Amount },
    Refused { name: AccountName, from: u64, until: u64, available: Amount },
}

struct Simulation {
    random: Random,
    now: u64,
    router: Router,
    shards: Vec<SimulatedShard>,
    clients: Vec<Client>,
    promises: Vec<Promise>,
    /// The highest version that anyone has been shown, by account.
    shown: HashMap<AccountName, u64>,
    settled: HashMap<KeyDigest, Event>,
    keys: u64,
    keys_max: usize,
    disk_full: bool,
}

fn rules(keys_max: usize) -> ShardRules {
    let overdraft_limit = Amount::from_minor_units(SERVICE_LIMIT).expect("in range");
    ShardRules { overdraft_limit, key_retention_ms: RETENTION_MS, keys_max }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut random = Random::new(seed);
        let count = 1 + random.below(3) as usize;
        let keys_max = if random.percent(20) { FEW_KEYS } else { usize::MAX };
        let shards = (0..count).filter_map(ShardId::new).map(|id| SimulatedShard {
            id,
            shard: Shard::new(id, Ledger::new(), rules(keys_max)),
            journal: MemoryJournal::new(id, LogPosition::genesis(Uuid::nil(), id)),
            inbox: VecDeque::new(),
            commits: VecDeque::new(),
            unsynced: Vec::new(),
            snapshot: None,
        });
        Simulation {
            shards: shards.collect(),
            random,
            now: 1_000_000,
            router: Router::new(count),
            clients: (0..CLIENTS).map(|_| Client { attempt: 0, task: None }).collect(),
            promises: Vec::new(),
            shown: HashMap::new(),
            settled: HashMap::new(),
            keys: 0,
            keys_max,
            disk_full: false,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.now += self.random.below(3);
            let shard = self.random.below(self.shards.len() as u64) as usize;
            match self.random.below(100) {
                0..45 => self.ask(),
                45..70 => self.work(shard),
                70..85 => self.append(shard),
                85..94 => self.sync(shard),
                94..96 => self.snapshot(shard),
                96..98 => self.lose_patience(),
                98 => self.disk_full = self.random.percent(30),
                _ => self.crash(),
            }
        }
        self.crash();
        self.disk_full = false;
        // Everyone who still waits for an outcome gets one.
        for _ in 0..20 {
            (0..CLIENTS).for_each(|client| self.send(client));
            for shard in 0..self.shards.len() {
                self.work(shard);
                self.append(shard);
                self.sync(shard);
            }
        }
        assert!(self.clients.iter().all(|client| client.task.is_none()), "every retry comes to an end");
        self.check();
    }

    /// Some client thinks of a request, or sends the one it has.
    fn ask(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        if self.clients[client].task.is_none() {
            let task = self.think();
            self.clients[client].task = Some(task);
        }
        self.send(client);
    }

    fn think(&mut self) -> Task {
        let name = AccountName::parse(&format!("name-{}", self.random.below(NAMES))).expect("valid");
        let target = Target { account: AccountRef::Name(name.clone()), version: None };
        let amount = Amount::from_minor_units(1 + i128::from(self.random.below(4000))).expect("in range");
        let choice = self.random.below(100);
        let command = match choice {
            0..15 => Command::Open { name: name.clone(), overdraft_limit: None },
            15..50 => Command::Deposit { target, amount },
            50..80 => Command::Withdraw { target, amount },
            _ => Command::Close { target },
        };
        let read = choice >= 85;
        let key = (!read && self.random.percent(60)).then(|| self.key(&command));
        let home = key.map(|key| self.router.of_key(&key.digest));
        let opens = matches!(command, Command::Open { .. });
        let claim_at = home.filter(|home| opens && *home != self.router.of_name(&name));
        let seen_before = self.shown.get(&name).copied().unwrap_or(0);
        Task { command, read, name, key, claim_at, seen_before, waiting: false }
    }

    /// A new key, or sometimes one that was used before, perhaps for something else.
    fn key(&mut self, command: &Command) -> IdempotencyKey {
        if !self.random.percent(15) {
            self.keys += 1;
        }
        let scope = match command {
            Command::Open { .. } => "accounts".to_owned(),
            Command::Deposit { target, .. }
            | Command::Withdraw { target, .. }
            | Command::Close { target } => {
                format!("{:?}", target.account)
            }
            Command::Claim => unreachable!("clients do not claim"),
        };
        let hash = |text: String| -> [u8; 16] {
            blake3::hash(text.as_bytes()).as_bytes()[..16].try_into().expect("16 bytes")
        };
        IdempotencyKey {
            digest: KeyDigest(hash(format!("{scope} {}", self.keys))),
            fingerprint: hash(format!("{command:?}")),
        }
    }

    fn send(&mut self, client: usize) {
        let Some(task) = &mut self.clients[client].task else {
            return;
        };
        if task.waiting {
            return;
        }
        task.waiting = true;
        let request = |command: &Command| Request::Execute {
            command: command.clone(),
            key: task.key,
            request_id: "r".into(),
        };
        let (shard, request) = match task.claim_at {
            Some(home) => (home, request(&Command::Claim)),
            None if task.read => {
                (self.router.of_name(&task.name), Request::Account(AccountRef::Name(task.name.clone())))
            }
            None => (self.router.of_name(&task.name), request(&task.command)),
        };
        self.clients[client].attempt += 1;
        let waiter = (client, self.clients[client].attempt);
        self.shards[shard.index()].inbox.push_back((waiter, request));
    }

    /// A client gives up waiting and asks again; without a key it must not, and goes on to something else.
    fn lose_patience(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        self.abandon(client);
    }

    fn abandon(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.attempt += 1;
        match &mut client.task {
            Some(task) if task.key.is_some() || task.read => task.waiting = false,
            task => *task = None,
        }
    }

    fn work(&mut self, index: usize) {
        let count = 1 + self.random.below(8);
        let now = Timestamp::from_millis(self.now);
        let shard = &mut self.shards[index];
        let moment = Moment { now, durable: shard.journal.durable().last, disk_full: self.disk_full };
        let mut batch = Batch::default();
        let mut ready = Vec::new();
        for _ in 0..count {
            let Some((to, request)) = shard.inbox.pop_front() else {
                break;
            };
            let (reply, after) = shard.shard.serve(request, moment, &mut batch);
            if after <= moment.durable {
                ready.push((to, reply));
            } else {
                batch.replies.push(Sealed { to, reply, after });
            }
        }
        if !batch.is_empty() {
            shard.commits.push_back(batch);
        }
        ready.into_iter().for_each(|(to, reply)| self.deliver(index, to, reply));
    }

    fn append(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        while let Some(batch) = shard.commits.pop_front() {
            for draft in &batch.drafts {
                let record = draft.seal(shard.id, &mut shard.journal.position());
                shard.journal.append(&record).expect("appends");
            }
            shard.unsynced.extend(batch.replies);
        }
    }

    fn sync(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        shard.journal.sync().expect("syncs");
        let durable = shard.journal.durable().last;
        for sealed in std::mem::take(&mut shard.unsynced) {
            assert!(sealed.after <= durable);
            self.deliver(index, sealed.to, sealed.reply);
        }
    }

    /// What the keeper does: a state made of durable records only.
    fn snapshot(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let (ledger, position) = recover(shard);
        shard.snapshot = Some((ledger.to_parts(), position));
    }

    /// All shards lose what was not synced, or all but some of it.
    fn crash(&mut self) {
        for shard in &mut self.shards {
            shard.inbox.clear();
            shard.commits.clear();
            shard.unsynced.clear();
            shard.journal.crash_keeping(self.random.below(4) as usize);
            let (ledger, position) = recover(shard);
            assert_eq!(position, shard.journal.position());
            let snapshot = shard.snapshot.take();
            let (whole, _) = recover(shard);
            assert_eq!(ledger.to_parts(), whole.to_parts(), "snapshot and tail are the whole log");
            shard.snapshot = snapshot;
            shard.shard = Shard::new(shard.id, ledger, rules(self.keys_max));
        }
        (0..CLIENTS).for_each(|client| self.abandon(client));
    }

    fn deliver(&mut self, shard: usize, (client, attempt): Waiter, reply: Reply) {
        if self.clients[client].attempt != attempt {
            return;
        }
        let task = self.clients[client].task.as_mut().expect("it waits");
        let name = task.name.clone();
        let from = task.seen_before;
        match reply {
            Reply::Claimed => {
                task.claim_at = None;
                task.waiting = false;
                return;
            }
            Reply::KeyInFlight | Reply::DiskFull => {
                task.waiting = false;
                return;
            }
            Reply::Executed { sequence, event } => self.executed(client, shard, sequence, event),
            Reply::Settled(sequence) => {
                let event =
                    durable_event(&self.shards[shard], sequence).expect("a settled key has its event");
                self.executed(client, shard, sequence, event);
            }
            Reply::Refused(Rejection::InsufficientFunds { available, .. }) => {
                // Which version it saw is not said; at the latest the newest that is durable now.
                let until = newest_version(&self.shards[shard], &name);
                self.promises.push(Promise::Refused { name, from, until, available });
            }
            Reply::Account(Some(view)) => {
                assert!(view.version >= from, "{name} ran backwards");
                self.show(&name, view.version);
                let (version, posted) = (view.version, view.posted);
                self.promises.push(Promise::Version { name, from, version, posted });
            }
            Reply::Refused(_) | Reply::KeyReused | Reply::KeysExhausted | Reply::Account(None) => {}
            other => panic!("an unexpected reply: {other:?}"),
        }
        self.clients[client].task = None;
    }

    fn executed(&mut self, client: usize, shard: usize, sequence: Sequence, event: Event) {
        let task = self.clients[client].task.as_ref().expect("it waits");
        let name = task.name.clone();
        if let Some(key) = task.key {
            let first = self.settled.entry(key.digest).or_insert_with(|| event.clone());
            assert_eq!(*first, event, "a key always has the same outcome");
        }
        if let Some((_, entry)) = event.change.account() {
            self.show(&name, entry.map_or(1, |entry| entry.version));
        }
        self.promises.push(Promise::Event(self.shards[shard].id, sequence, event));
    }

    fn show(&mut self, name: &AccountName, version: u64) {
        let shown = self.shown.entry(name.clone()).or_default();
        *shown = version.max(*shown);
    }

    fn check(&self) {
        let mut model = Model::default();
        let mut events = HashMap::new();
        for shard in &self.shards {
            for (sequence, event) in durable_events(shard) {
                model.apply(shard.id, &event);
                events.insert((shard.id, sequence), event);
            }
        }
        for shard in &self.shards {
            let ledger = shard.shard.ledger();
            assert!(ledger.totals().values().all(|total| total.is_zero()), "everything sums to zero");
            for account in ledger.accounts() {
                let states = &model.states[&account.name];
                assert_eq!(states.last(), Some(&account.posted.minor_units()));
                assert_eq!(states.len() as u64, account.version);
                assert!(states.iter().all(|state| *state >= -SERVICE_LIMIT), "nobody is overdrawn");
            }
        }
        for (key, effects) in &model.effects {
            assert_eq!(*effects, 1, "one key, one effect: {key:?}");
        }
        for promise in &self.promises {
            match promise {
                Promise::Event(shard, sequence, event) => {
                    assert_eq!(
                        events.get(&(*shard, *sequence)),
                        Some(event),
                        "what was acknowledged is there"
                    );
                }
                Promise::Version { name, from, version, posted } => {
                    assert!(version >= from);
                    assert_eq!(model.states[name][*version as usize - 1], posted.minor_units());
                }
                Promise::Refused { name, from, until, available } => {
                    let states = &model.states[name][(*from as usize).saturating_sub(1)..*until as usize];
                    let seen = available.minor_units() - SERVICE_LIMIT;
                    assert!(states.contains(&seen), "a refusal showed a state that {name} never had");
                }
            }
        }
    }
}

/// What the log says, as plainly as it can be put: the balance of each account at each version.
#[derive(Default)]
struct Model {
    names: BTreeMap<(ShardId, u32), AccountName>,
    states: BTreeMap<AccountName, Vec<i128>>,
    effects: HashMap<KeyDigest, u32>,
}

impl Model {
    fn apply(&mut self, shard: ShardId, event: &Event) {
        if let Some(used) = &event.key
            && event.change != Change::Claimed
        {
            *self.effects.entry(used.key.digest).or_default() += 1;
        }
        match &event.change {
            Change::Opened { account, name, .. } => {
                self.names.insert((shard, account.get()), name.clone());
                assert!(self.states.insert(name.clone(), vec![0]).is_none(), "a name is opened once");
            }
            Change::Posted { account, direction, amount, .. } => {
                let states = self.states.get_mut(&self.names[&(shard, account.get())]).expect("it is open");
                let balance = states.last().expect("it has one");
                let moved = if *direction == Direction::Deposit { 1 } else { -1 } * amount.minor_units();
                states.push(balance + moved);
            }
            Change::Closed { account, .. } => {
                let states = self.states.get_mut(&self.names[&(shard, account.get())]).expect("it is open");
                states.push(0);
            }
            Change::Refused { .. } | Change::Claimed => {}
        }
    }
}

/// What recovery does with the durable part of a log: snapshot, then the records behind it.
fn recover(shard: &SimulatedShard) -> (Ledger, LogPosition) {
    let (mut ledger, start) = match &shard.snapshot {
        Some((parts, position)) => (Ledger::from_parts(parts.clone()).expect("consistent"), *position),
        None => (Ledger::new(), LogPosition::genesis(Uuid::nil(), shard.id)),
    };
    let mut position = start;
    for bytes in shard.journal.durable_records() {
        let record = Record::parse(&bytes).expect("intact");
        if record.first() <= start.last {
            continue;
        }
        position = record.follow(shard.id, &position).expect("it follows");
        for event in record.events() {
            ledger.replay(&event.expect("intact").1).expect("it follows");
        }
    }
    (ledger, position)
}

fn durable_events(shard: &SimulatedShard) -> Vec<(Sequence, Event)> {
    let records = shard.journal.durable_records();
    let events =
        |bytes: &Vec<u8>| Record::parse(bytes).expect("intact").events().collect::<Result<Vec<_>, _>>();
    records.iter().flat_map(|bytes| events(bytes).expect("intact")).collect()
}

fn durable_event(shard: &SimulatedShard, sequence: Sequence) -> Option<Event> {
    durable_events(shard).into_iter().find(|(at, _)| *at == sequence).map(|(_, event)| event)
}

fn newest_version(shard: &SimulatedShard, name: &AccountName) -> u64 {
    let (ledger, _) = recover(shard);
    ledger.accounts().iter().find(|account| account.name == *name).map_or(0, |account| account.version)
}
