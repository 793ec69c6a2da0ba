//! Deterministic simulation: shards that decide together, journals that crash, messages that dawdle, and clients that
//! retry, against what must hold.
//!
//! One seed is one run: which client asks what, when a shard works, when a message arrives, when a batch is appended
//! and synced, what a crash takes. The journal is the one in memory; all else is the real code without its threads.
//!
//! - P1: whatever was acknowledged is in the logs after every crash, as the reply showed it;
//! - P2: there is one order of all requests, in which a plain map ([`model`]) gives every reply that anyone got, to the
//!   version and the cent, refusals and reads of what many accounts had in common included. It is the order in which
//!   the shards decided, so each request has its place between being asked and being answered: the order is strict;
//! - P3, P4: at every step each shard sums to zero, and the holds of an account are what it has held; whenever nothing
//!   is under way, all shards together have nothing in flight;
//! - P5: a key has at most one effect in all shards together, however often it was sent, and a client that retries
//!   until it gets a reply gets that of the first time;
//! - P8: snapshot and tail give the same state as the whole log;
//! - whenever everything that is under way is let run, everybody is answered: there is no deadlock;
//! - after a crash no log contradicts another: each row of the table in `shard::work` is met, and the last two never.
//!
//! Messages between two shards arrive in order, after any time, those of different shards in any order; the end of a
//! work may be told twice. A crash may come between any two steps, also of the recovery from another one; each journal
//! then keeps what was synced and any part of what was not.
//!
//! `TELLER_SIMULATION_SEEDS=100000 cargo test --release --test simulation` runs for some minutes;
//! `TELLER_SIMULATION_SEED=17` runs seed 17 alone.

mod check;
mod clients;
#[path = "../model/mod.rs"]
mod model;
#[path = "../random/mod.rs"]
mod random;

use std::collections::{BTreeMap, HashMap, VecDeque};

use check::{Observation, Timeline};
use clients::{Client, Knowledge};
use random::{Random, setting};
use teller::ledger::{
    Amount, Change, Currency, Event, Hold, HoldStatus, Kind, Ledger, LedgerParts, OverdraftDefault, Sequence,
    ShardId, Timestamp, Total, TransactionId,
};
use teller::router::Router;
use teller::shard::batch::{Batch, Moment, Output, Sealed, Shard, ShardRules};
use teller::shard::request::{Reply, Request};
use teller::shard::work::{ItemReply, Message, WorkReply};
use teller::storage::StorageError;
use teller::storage::in_flight::{Side, settle};
use teller::storage::journal::record::{Draft, LogPosition, Record};
use teller::storage::journal::{Journal, MemoryJournal};
use uuid::Uuid;

const SEEDS_DEFAULT: u64 = 1000;
const STEPS: usize = 1200;
const SERVICE_LIMIT: i128 = 3000;
const RETENTION_MS: u64 = 1_000_000_000;
/// In some runs the shards remember no more keys than this, and refuse new ones.
const FEW_KEYS: usize = 9;
/// How many batches wait for a committer at most.
const BATCHES_WAITING_MAX: usize = 2;

/// The rows of the crash table in `shard::work` that can be.
const CRASH_ROWS: [&str; 5] = [
    "nothing, or grants in memory only",
    "what the grants showed, no decision",
    "the decision, no settlement",
    "the decision, the settlements of some shards",
    "the decision, all settlements",
];

#[test]
fn whatever_crashes_what_was_acknowledged_holds() {
    if let Some(seed) = setting("TELLER_SIMULATION_SEED") {
        Simulation::new(seed).run();
        return;
    }
    let mut rows = [0; CRASH_ROWS.len()];
    let mut tally = BTreeMap::<String, u64>::new();
    let seeds = setting("TELLER_SIMULATION_SEEDS").unwrap_or(SEEDS_DEFAULT);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        let Ok(run) = run else { panic!("seed {seed} failed: TELLER_SIMULATION_SEED={seed} runs it alone") };
        rows.iter_mut().zip(run.rows).for_each(|(all, more)| *all += more);
        run.tally.into_iter().for_each(|(what, count)| *tally.entry(what).or_default() += count);
    }
    for (row, count) in CRASH_ROWS.iter().zip(rows) {
        println!("{count:>8} crashes with: {row}");
        assert!(count > 0 || seeds < SEEDS_DEFAULT, "no crash met the row {row:?}");
    }
    for (what, count) in &tally {
        println!("{count:>8} {what}");
    }
    for what in MUST_HAPPEN {
        assert!(tally.contains_key(*what) || seeds < SEEDS_DEFAULT, "{what} never happened");
    }
}

/// What a run of all seeds meets somewhere: else it proves less than it says.
const MUST_HAPPEN: &[&str] = &[
    "opening",
    "deposit",
    "withdrawal",
    "transfer",
    "protection",
    "reversal",
    "hold",
    "capture",
    "void",
    "expiry",
    "amendment",
    "closing",
    "linking",
    "unlinking",
    "refusal",
    "batch",
    "settled key",
    "item repeated in its list",
    "key in flight",
    "key reused",
    "keys exhausted",
    "disk full",
    "ConditionNotMet",
    "CurrencyMismatch",
    "InsufficientFunds",
    "VelocityLimit",
    "AlreadyReversed",
    "HoldEnded",
    "ReferenceUsed",
    "AccountFrozen",
    "TooManyDecimals",
    "LegsUnbalanced",
    "AccountHasHolds",
    "LinkCycle",
    "NothingAvailable",
    "VersionMismatch",
    "chained protection",
    "dry run",
    "plain transfers",
    "packed transfers",
    "packed transfers, spelled out",
];

/// Who waits for a reply: a client, and which of its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiter {
    client: usize,
    attempt: u64,
}

enum Mail {
    Request(Request, Waiter),
    Message(Message<Waiter>),
}

struct SimulatedShard {
    id: ShardId,
    shard: Shard<Waiter>,
    journal: MemoryJournal,
    inbox: VecDeque<Mail>,
    /// The batch in the making, and how many of the mails that were there when it was begun it has still to take.
    batch: Option<(usize, Output<Waiter>)>,
    commits: VecDeque<Batch<Waiter>>,
    /// Appended, not yet synced: their replies.
    unsynced: Vec<Sealed<Waiter>>,
    snapshot: Option<(LedgerParts, LogPosition)>,
}

/// What a run has met.
struct Run {
    rows: [u64; CRASH_ROWS.len()],
    tally: BTreeMap<String, u64>,
}

struct Simulation {
    random: Random,
    now: u64,
    step: u64,
    router: Router,
    shards: Vec<SimulatedShard>,
    /// What is on its way from one shard to another.
    ways: BTreeMap<(usize, usize), VecDeque<Message<Waiter>>>,
    clients: Vec<Client>,
    known: Knowledge,
    /// When each event that is not a settlement was decided.
    decided_at: BTreeMap<(ShardId, Sequence), u64>,
    /// When each reply that may still arrive was made.
    made_at: HashMap<Waiter, (u64, Timestamp)>,
    observations: Vec<Observation>,
    keys_max: usize,
    /// Which shards may record nothing: for want of room on the disk, which all feel, or since too much of one waits.
    disk_full: Vec<bool>,
    /// What was decided for one request, since the last crash: the shard, and the first and the last event.
    together: Vec<(usize, Sequence, Sequence)>,
    /// The ends of the logs after the last crash.
    recovered: Vec<Sequence>,
    run: Run,
}

fn rules(keys_max: usize) -> ShardRules {
    ShardRules { overdraft: overdraft(), key_retention_ms: RETENTION_MS, keys_max }
}

fn overdraft() -> OverdraftDefault {
    let limit = Amount::from_minor_units(SERVICE_LIMIT).expect("in range");
    OverdraftDefault { currency: Currency::USD, limit }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut random = Random::new(seed);
        // Half of all runs have three shards.
        let count = [1, 2, 2, 3, 3, 3, 3, 4][random.below(8) as usize];
        let keys_max = if random.percent(15) { FEW_KEYS } else { usize::MAX };
        let shards = (0..count).filter_map(ShardId::new).map(|id| SimulatedShard {
            id,
            shard: Shard::new(id, Ledger::new(id), rules(keys_max)),
            journal: MemoryJournal::new(id, LogPosition::genesis(Uuid::nil(), id)),
            inbox: VecDeque::new(),
            batch: None,
            commits: VecDeque::new(),
            unsynced: Vec::new(),
            snapshot: None,
        });
        Simulation {
            shards: shards.collect(),
            now: 1_000_000,
            step: 0,
            router: Router::new(count),
            ways: BTreeMap::new(),
            clients: Client::all(),
            known: Knowledge::new(&mut random),
            random,
            decided_at: BTreeMap::new(),
            made_at: HashMap::new(),
            observations: Vec::new(),
            keys_max,
            disk_full: vec![false; count],
            together: Vec::new(),
            recovered: vec![Sequence::NONE; count],
            run: Run { rows: [0; CRASH_ROWS.len()], tally: BTreeMap::new() },
        }
    }

    fn run(mut self) -> Run {
        for _ in 0..STEPS {
            self.now += self.random.below(3);
            let shard = self.random.below(self.shards.len() as u64) as usize;
            match self.random.below(1000) {
                0..250 => self.ask(),
                250..480 => self.work(shard),
                480..700 => self.carry(),
                700..830 => drop(self.append(shard)),
                830..940 => drop(self.sync(shard)),
                940..950 => self.snapshot(shard),
                950..963 => self.lose_patience(),
                963..967 => self.disk_full[shard] = self.random.percent(20),
                967..970 => {
                    let full = self.random.percent(10);
                    self.disk_full.fill(full);
                }
                970..978 => {
                    self.now += self.random.below(40_000);
                    self.disk_full.fill(false);
                }
                978..990 => self.come_to_rest(),
                _ => self.crash(),
            }
        }
        self.crash();
        self.disk_full.fill(false);
        // Everyone who still waits for an outcome gets one.
        for _ in 0..20 {
            (0..self.clients.len()).for_each(|client| self.send(client));
            self.come_to_rest();
        }
        assert!(self.clients.iter().all(|client| client.task.is_none()), "every retry comes to an end");
        self.check();
        self.run
    }

    fn moment(&self, index: usize) -> Moment {
        let durable = self.shards[index].journal.durable().last;
        Moment { now: Timestamp::from_millis(self.now), durable, disk_full: self.disk_full[index] }
    }

    /// A shard works: mostly to the end of its batch, sometimes only by one step, so that others come in between.
    fn work(&mut self, index: usize) {
        self.work_on(index);
        while self.shards[index].batch.is_some() && self.random.percent(80) {
            self.work_on(index);
        }
    }

    /// A shard begins a batch, or goes on with it by one mail, or ends it.
    fn work_on(&mut self, index: usize) {
        self.step += 1;
        let moment = self.moment(index);
        let shard = &mut self.shards[index];
        let before = shard.shard.ledger().last();
        let Some((left, output)) = &mut shard.batch else {
            if shard.commits.len() < BATCHES_WAITING_MAX {
                let count = self.random.below(shard.inbox.len() as u64 + 1) as usize;
                let count = if self.random.percent(50) { shard.inbox.len() } else { count };
                let mut output = Output::default();
                shard.shard.expire(moment, &mut output);
                shard.batch = Some((count, output));
                self.after_work(index, before, 0);
            }
            return;
        };
        if *left == 0 {
            let (_, output) = shard.batch.take().expect("it is there");
            if !output.batch.is_empty() {
                shard.commits.push_back(output.batch);
            }
            return;
        }
        *left -= 1;
        let replies = output.batch.replies.len();
        match shard.inbox.pop_front().expect("it was there when the batch was begun") {
            Mail::Request(Request::Account(account), to) => {
                // Every other reader looks first, as the HTTP threads do.
                let seen =
                    if self.step.is_multiple_of(2) { shard.shard.glance(&account, moment) } else { None };
                match seen {
                    Some(view) => output.ready.push((to, Reply::Account(Some(view.into())))),
                    None => shard.shard.serve(Request::Account(account), to, moment, output),
                }
            }
            Mail::Request(request, to) => {
                let list = list_of(&request);
                let at_once = shard.shard.executed_at_once();
                shard.shard.serve(request, to, moment, output);
                let what = match (list, shard.shard.executed_at_once() > at_once) {
                    (Some(List::Spelled), true) => Some("plain transfers"),
                    (Some(List::Packed), true) => Some("packed transfers"),
                    (Some(List::Packed), false) => Some("packed transfers, spelled out"),
                    _ => None,
                };
                if let Some(what) = what {
                    *self.run.tally.entry(what.into()).or_default() += 1;
                }
            }
            Mail::Message(message) => shard.shard.hear(message, moment, output),
        }
        self.after_work(index, before, replies);
    }

    /// Takes note of what was decided and said, and hands out what need not wait.
    fn after_work(&mut self, index: usize, before: Sequence, replies: usize) {
        let (step, now) = (self.step, Timestamp::from_millis(self.now));
        let shard = &mut self.shards[index];
        let (_, output) = shard.batch.as_mut().expect("it works");
        for number in before.get() + 1..=shard.shard.ledger().last().get() {
            self.decided_at.insert((shard.id, Sequence::new(number).expect("in range")), step);
        }
        for sealed in &output.batch.replies[replies..] {
            self.made_at.insert(sealed.to, (step, now));
            let extent = extent(&sealed.reply);
            // A dry run tells of events that are not there.
            if let Some((first, last)) = extent.filter(|(_, last)| *last <= shard.shard.ledger().last()) {
                // The end of a list with a key is behind its items.
                let is_alone = output.batch.replies.len() == replies + 1;
                self.together.push((index, first, if is_alone { shard.shard.ledger().last() } else { last }));
            }
        }
        for (to, message) in output.messages.drain(..) {
            self.ways.entry((index, to.index())).or_default().push_back(message);
        }
        let ready = std::mem::take(&mut output.ready);
        sums_hold(shard.shard.ledger());
        for (to, reply) in ready {
            self.made_at.insert(to, (step, now));
            self.deliver(to, reply);
        }
    }

    /// Some message arrives.
    fn carry(&mut self) {
        let full: Vec<_> =
            self.ways.iter().filter(|(_, way)| !way.is_empty()).map(|(ends, _)| *ends).collect();
        if full.is_empty() {
            return;
        }
        let ends = full[self.random.below(full.len() as u64) as usize];
        let way = self.ways.get_mut(&ends).expect("it is there");
        let message = way.pop_front().expect("it is full");
        if let Message::Done { work, settlements, time } = &message
            && self.random.percent(15)
        {
            way.push_back(Message::Done { work: *work, settlements: settlements.clone(), time: *time });
        }
        self.shards[ends.1].inbox.push_back(Mail::Message(message));
    }

    /// The committer appends the next batch, if what it requires is durable. Returns whether it did.
    fn append(&mut self, index: usize) -> bool {
        let Some(batch) = self.shards[index].commits.front() else {
            return false;
        };
        let met = |(shard, sequence): (&ShardId, &Sequence)| {
            self.shards[shard.index()].journal.durable().last >= *sequence
        };
        if !batch.requires.iter().all(met) {
            return false;
        }
        let shard = &mut self.shards[index];
        let batch = shard.commits.pop_front().expect("it is there");
        shard.write(&batch.drafts);
        shard.unsynced.extend(batch.replies);
        true
    }

    /// Returns whether there was anything to do.
    fn sync(&mut self, index: usize) -> bool {
        let shard = &mut self.shards[index];
        let before = shard.journal.durable();
        shard.journal.sync().expect("syncs");
        let durable = shard.journal.durable();
        let replies = std::mem::take(&mut shard.unsynced);
        let any = before != durable || !replies.is_empty();
        for sealed in replies {
            assert!(
                sealed.after <= durable.last,
                "no reply leaves before what it depends on is durable (P1)"
            );
            self.deliver(sealed.to, sealed.reply);
        }
        any
    }

    /// Lets everything that is under way run to its end. Nobody is left waiting then, and nothing is in flight.
    fn come_to_rest(&mut self) {
        loop {
            let mut moved = false;
            while self.ways.values().any(|way| !way.is_empty()) {
                self.carry();
                moved = true;
            }
            for index in 0..self.shards.len() {
                // A worker looks at the clock before all else.
                if self.is_due(index) {
                    self.work(index);
                    moved = true;
                }
                while self.shards[index].batch.is_some()
                    || (!self.shards[index].inbox.is_empty()
                        && self.shards[index].commits.len() < BATCHES_WAITING_MAX)
                {
                    self.work(index);
                    moved = true;
                }
                moved |= self.append(index);
                moved |= self.sync(index);
            }
            if !moved {
                break;
            }
        }
        for client in &self.clients {
            assert!(!client.is_waiting(), "everybody is answered: {:?}", client.task);
        }
        let mut in_flight = BTreeMap::<Currency, Total>::new();
        for (shard, disk_full) in self.shards.iter().zip(&self.disk_full) {
            let is_due =
                |hold: &Hold| hold.status == HoldStatus::Pending && hold.expires.millis() <= self.now;
            let due = shard.shard.ledger().holds().iter().find(|(_, hold)| is_due(hold));
            assert!(due.is_none() || *disk_full, "what is held comes free when its time is over");
            assert!(!shard.shard.is_locked(), "nothing is locked when nothing is under way");
            for (currency, part) in shard.shard.ledger().clearing() {
                in_flight.entry(*currency).or_default().add_total(*part);
            }
        }
        assert!(in_flight.values().all(|total| total.is_zero()), "nothing is in flight (P3)");
    }

    /// Whether a shard has a hold to end, and nothing keeps it from that.
    fn is_due(&self, index: usize) -> bool {
        let shard = &self.shards[index];
        shard.batch.is_none()
            && shard.commits.len() < BATCHES_WAITING_MAX
            && !self.disk_full[index]
            && !shard.shard.is_locked()
            && shard.shard.next_expiry().is_some_and(|expires| expires.millis() <= self.now)
    }

    /// What the keeper does: a state made of durable records only.
    fn snapshot(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let (ledger, position) = shard.recover();
        shard.snapshot = Some((ledger.to_parts(), position));
    }

    /// All shards lose what was not synced, or all but some of it.
    fn crash(&mut self) {
        let grants = |message: &Message<Waiter>| matches!(message, Message::Work(_));
        let under_way = self.ways.values().flatten().any(grants)
            || self
                .shards
                .iter()
                .flat_map(|shard| &shard.inbox)
                .any(|mail| matches!(mail, Mail::Message(message) if grants(message)));
        self.run.rows[0] += u64::from(under_way);
        let sent: Vec<Vec<Sequence>> =
            self.shards.iter().map(|shard| self.sent(shard.shard.ledger())).collect();
        for shard in &mut self.shards {
            shard.journal.crash_keeping(self.random.below(4) as usize);
            shard.inbox.clear();
            shard.batch = None;
            shard.commits.clear();
            shard.unsynced.clear();
        }
        self.ways.clear();
        self.made_at.clear();
        for (shard, sent) in self.shards.iter().zip(sent) {
            let last = shard.journal.durable().last;
            self.run.rows[1] += u64::from(sent.into_iter().any(|sequence| sequence > last));
            // What is written from here on is another event.
            self.decided_at.retain(|(id, sequence), _| *id != shard.id || *sequence <= last);
            if let Some((_, Event { change: Change::Decided { decision, .. }, .. })) =
                shard.durable_events().pop()
            {
                assert!(decision.kind != Kind::Protection, "what protects is there with what it was for");
            }
        }
        for (shard, first, last) in self.together.drain(..) {
            let durable = self.shards[shard].journal.durable().last;
            assert!(
                durable < first || durable >= last,
                "what was decided together is there as a whole or not at all"
            );
        }
        self.count_crash_rows();
        while !self.recover() {}
        self.recovered = self.shards.iter().map(|shard| shard.journal.position().last).collect();
        (0..self.clients.len()).for_each(|client| self.abandon(client));
    }

    fn sent(&self, ledger: &Ledger) -> Vec<Sequence> {
        self.shards.iter().map(|other| ledger.sent_to(other.id)).collect()
    }

    /// Which rows of the table the decisions since the last crash are in.
    fn count_crash_rows(&mut self) {
        let ledgers: Vec<_> = self.shards.iter().map(|shard| shard.recover().0).collect();
        for shard in &self.shards {
            for (sequence, event) in shard.durable_events() {
                let Change::Decided { decision, .. } = &event.change else { continue };
                if sequence <= self.recovered[shard.id.index()] {
                    continue;
                }
                let others: Vec<_> = decision.parts.iter().filter(|part| part.shard != shard.id).collect();
                let settled = |other: &ShardId| ledgers[other.index()].received_from(shard.id) >= sequence;
                match others.iter().filter(|part| settled(&part.shard)).count() {
                    _ if others.is_empty() => {}
                    0 => self.run.rows[2] += 1,
                    count if count < others.len() => self.run.rows[3] += 1,
                    _ => self.run.rows[4] += 1,
                }
            }
        }
    }

    /// What a start does: each shard from its snapshot and the tail of its log, then what is in flight between them.
    /// Returns whether it came to its end, and did not crash itself.
    fn recover(&mut self) -> bool {
        let mut ledgers = Vec::new();
        for shard in &mut self.shards {
            let (ledger, position) = shard.recover();
            assert_eq!(position, shard.journal.position());
            let snapshot = shard.snapshot.take();
            let (whole, _) = shard.recover();
            assert_eq!(ledger.to_parts(), whole.to_parts(), "snapshot and tail are the whole log (P8)");
            shard.snapshot = snapshot;
            ledgers.push(ledger);
        }
        if self.random.percent(20) {
            let unlucky = self.random.below(self.shards.len() as u64) as usize;
            self.shards[unlucky].journal.fail_next_sync();
        }
        let readers: Vec<_> = self.shards.iter().map(|shard| shard.journal.reader()).collect();
        let sides = self.shards.iter_mut().zip(&mut ledgers).zip(&readers);
        let mut sides: Vec<_> =
            sides.map(|((shard, ledger), log)| Side { ledger, log, journal: &mut shard.journal }).collect();
        match settle(&mut sides, Timestamp::from_millis(self.now)) {
            Ok(_) => {}
            Err(StorageError::Journal { .. }) => {
                for shard in &mut self.shards {
                    shard.journal.crash_keeping(self.random.below(3) as usize);
                }
                return false;
            }
            Err(error) => panic!("after a crash no log contradicts another: {error}"),
        }
        let mut in_flight = BTreeMap::<Currency, Total>::new();
        for (shard, ledger) in self.shards.iter_mut().zip(ledgers) {
            // The sync that was to fail may not have been needed.
            shard.journal.crash();
            assert_eq!(shard.journal.position().last, ledger.last());
            sums_hold(&ledger);
            for (currency, part) in ledger.clearing() {
                in_flight.entry(*currency).or_default().add_total(*part);
            }
            shard.shard = Shard::new(shard.id, ledger, rules(self.keys_max));
        }
        assert!(in_flight.values().all(|total| total.is_zero()), "nothing is in flight (P3)");
        true
    }

    fn deliver(&mut self, to: Waiter, reply: Reply) {
        let (step, now) = self.made_at.remove(&to).expect("every reply was made at a time");
        let client = &mut self.clients[to.client];
        if client.attempt != to.attempt {
            return;
        }
        let task = client.task.as_mut().expect("it waits");
        if let Some(what) = match &reply {
            Reply::KeyInFlight | Reply::Worked(WorkReply::KeyInFlight) => Some("key in flight"),
            Reply::DiskFull | Reply::Worked(WorkReply::DiskFull) => Some("disk full"),
            Reply::Overloaded | Reply::Worked(WorkReply::Overloaded) => Some("overloaded"),
            _ => None,
        } {
            *self.run.tally.entry(what.into()).or_default() += 1;
            task.waiting = false;
            if !task.is_kept() {
                client.task = None;
            }
            return;
        }
        let (request, shard) = (task.request.clone(), task.to);
        client.task = None;
        self.known.learn(shard, &request, &reply, |id| {
            let events = self.shards[id.shard.index()].durable_events();
            events.into_iter().find(|(sequence, _)| *sequence == id.sequence).map(|(_, event)| event)
        });
        self.observations.push(Observation { step, now, shard, request, reply });
    }

    fn check(&mut self) {
        let mut timeline = Timeline::default();
        for shard in &self.shards {
            for (sequence, event) in shard.durable_events() {
                if let Change::Settled { by, decision, .. } = &event.change {
                    timeline.settled(shard.id, *by, decision);
                    continue;
                }
                let id = TransactionId { time: event.time, shard: shard.id, sequence };
                timeline.decided(self.decided_at[&(shard.id, sequence)], id, event);
            }
        }
        let observations = std::mem::take(&mut self.observations);
        let model = timeline.check(observations, &mut self.run.tally);
        for shard in &self.shards {
            let accounts = shard.shard.ledger().accounts();
            assert_eq!(accounts.len(), model.accounts.keys().filter(|id| id.shard == shard.id).count());
        }
    }
}

/// The first and the last event of what was, or in a dry run would be, executed.
fn extent(reply: &Reply) -> Option<(Sequence, Sequence)> {
    let Reply::Worked(WorkReply::Items(items)) = reply else {
        return None;
    };
    let done = items.iter().filter_map(|item| match item {
        ItemReply::Done { id, decision } if !decision.parts.is_empty() => Some(id.sequence),
        _ => None,
    });
    Some((done.clone().min()?, done.max()?))
}

/// How a list of operations is written.
enum List {
    Spelled,
    Packed,
}

/// Whether a request is a work of several operations, and how it is written.
fn list_of(request: &Request) -> Option<List> {
    match request {
        Request::Work(work) if work.plain.is_some() => Some(List::Packed),
        Request::Work(work) if work.items.len() > 1 => Some(List::Spelled),
        _ => None,
    }
}

/// P3 within a shard, at every step.
fn sums_hold(ledger: &Ledger) {
    for (currency, total) in ledger.totals() {
        assert!(total.is_zero(), "{currency} does not sum to zero");
    }
    for account in ledger.accounts() {
        let mut held = Total::default();
        let holds = ledger.holds().of_account(account.number, 0);
        let pending = holds.filter(|(_, hold)| hold.status == HoldStatus::Pending);
        pending.for_each(|(_, hold)| held.add(hold.amount));
        held.add(account.held.negated());
        assert!(held.is_zero(), "what is held is the sum of the holds");
    }
}

impl SimulatedShard {
    fn write(&mut self, drafts: &[Draft]) {
        for draft in drafts {
            let record = draft.seal_behind(self.id, &self.journal.position());
            self.journal.append(&record).expect("appends");
        }
    }

    /// What recovery does with the durable part of a log: snapshot, then the records behind it.
    fn recover(&self) -> (Ledger, LogPosition) {
        let (mut ledger, start) = match &self.snapshot {
            Some((parts, position)) => {
                (Ledger::from_parts(parts.clone(), &mut || {}).expect("consistent"), *position)
            }
            None => (Ledger::new(self.id), LogPosition::genesis(Uuid::nil(), self.id)),
        };
        let mut position = start;
        for bytes in self.journal.durable_records() {
            let record = Record::parse(&bytes).expect("intact");
            if record.first() <= start.last {
                continue;
            }
            position = record.follow(self.id, &position).expect("it follows");
            for event in record.events() {
                ledger.replay(&event.expect("intact").1).expect("it follows");
            }
        }
        (ledger, position)
    }

    fn durable_events(&self) -> Vec<(Sequence, Event)> {
        let records = self.journal.durable_records();
        let events =
            |bytes: &Vec<u8>| Record::parse(bytes).expect("intact").events().collect::<Result<Vec<_>, _>>();
        records.iter().flat_map(|bytes| events(bytes).expect("intact")).collect()
    }
}
