//! What clients ask for, what they know, and how often they ask.

use std::collections::HashMap;

use teller::ledger::operation::{
    Amendment, Condition, HomedKey, Item, Opening, Operation, Place, PlainTransfer, Requirement, Sum,
    VelocityChange, VelocityTerms,
};
use teller::ledger::workspace::Needs;
use teller::ledger::{
    AccountChange, AccountId, AccountName, AccountNumber, AccountRef, Amount, Change, Command, Currency,
    DebitLimit, Decision, Event, ExcessDecimals, HoldId, IdempotencyKey, ItemOutcome, KeyDigest, Kind,
    LinkKind, Metadata, Note, Outcome, Quantity, Reference, Rejection, Sequence, ShardId, Target,
    TransactionId,
};
use teller::router::Router;
use teller::shard::request::{AccountFilter, Reply, Request};
use teller::shard::work::{ItemReply, PlainList, WorkReply, WorkRequest};

use super::random::Random;
use super::{Mail, Simulation, Waiter};

const CLIENTS: usize = 8;
const NAMES: u64 = 8;
const REFERENCES: u64 = 4;
/// About as many as there are: it only says for how many accounts there is room.
const SHARDS: usize = 2;

/// What a client is at. With a key, or if it only reads, it repeats one request until it has a reply.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) attempt: u64,
    pub(crate) task: Option<Task>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) request: Request,
    /// The shard that is asked; another one may answer.
    pub(crate) to: ShardId,
    pub(crate) waiting: bool,
}

impl Client {
    pub(crate) fn all() -> Vec<Client> {
        (0..CLIENTS).map(|_| Client::default()).collect()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.waiting)
    }
}

impl Task {
    /// Whether it may be sent again without knowing what became of it.
    pub(crate) fn is_kept(&self) -> bool {
        match &self.request {
            Request::Execute { key, .. } => key.is_some(),
            // An effect of one item might be repeated.
            Request::Work(work) => {
                work.dry_run || work.key.is_some() || work.items.iter().all(|item| item.key.is_some())
            }
            _ => true,
        }
    }
}

/// How a request with a key ended.
#[derive(Clone, Debug, PartialEq)]
enum Ended {
    Done(TransactionId),
    Refused(Rejection),
    List(Vec<Listed>),
}

/// How an item of a list ended.
#[derive(Clone, Debug, PartialEq)]
enum Listed {
    Done(TransactionId),
    Not(ItemOutcome),
}

/// What clients have been told.
pub(crate) struct Knowledge {
    accounts: Vec<AccountId>,
    holds: Vec<HoldId>,
    transfers: Vec<(TransactionId, Vec<(AccountId, Amount)>)>,
    /// How much of what clients ask has the one kind of operation: runs differ in what they are about.
    mix: [u64; 12],
    keys: u64,
    ended: HashMap<KeyDigest, Ended>,
}

impl Knowledge {
    pub(crate) fn new(random: &mut Random) -> Knowledge {
        let mut mix = [6, 24, 14, 24, 18, 10, 12, 10, 4, 10, 2, 20];
        let favourite = random.below(mix.len() as u64) as usize;
        mix[favourite] += 25;
        Knowledge {
            accounts: Vec::new(),
            holds: Vec::new(),
            transfers: Vec::new(),
            mix,
            keys: 0,
            ended: HashMap::new(),
        }
    }

    /// Takes note of a reply. `event` finds what a key stands for.
    pub(crate) fn learn(
        &mut self,
        shard: ShardId,
        request: &Request,
        reply: &Reply,
        event: impl Fn(Outcome) -> Option<Event>,
    ) {
        let (key, dry_run) = match request {
            Request::Execute { key, .. } => (*key, false),
            Request::Work(work) => (work.key.map(|key| key.key), work.dry_run),
            _ => (None, false),
        };
        let settled = |outcome: Outcome, key: IdempotencyKey| {
            let event = event(outcome).expect("a settled key has its event");
            // An item that repeats one of its own list is told of the decision, whose key another shard may remember.
            let parts = event.change.decision().map_or(&[][..], |decision| &decision.parts);
            let mut used = event.key.iter().chain(parts.iter().filter_map(|part| part.key.as_ref()));
            assert!(used.any(|used| used.key == key), "it is this key's event");
            ended(outcome, &event)
        };
        match reply {
            Reply::Account(Some(view)) => self.know(view.id),
            Reply::Settled(sequence) => {
                let key = key.expect("it has one");
                self.remember(key, settled(Outcome { shard, sequence: *sequence }, key));
            }
            Reply::Worked(WorkReply::Settled(outcome)) => {
                let key = key.expect("it has one");
                self.remember(key, settled(*outcome, key));
            }
            Reply::Executed { sequence, event, .. } => {
                if let Some(key) = key {
                    let id = TransactionId { time: event.time, shard, sequence: *sequence };
                    self.remember(key, Ended::Done(id));
                }
                if let Change::Opened { account, .. } = event.change {
                    self.know(AccountId { opened: event.time, shard, number: account });
                }
            }
            Reply::Refused(rejection) => {
                if let Some(key) = key {
                    self.remember(key, Ended::Refused(rejection.clone()));
                }
            }
            Reply::Worked(WorkReply::Items(items)) if !dry_run => {
                let list = items.iter().map(|item| match item {
                    ItemReply::Done { id, decision } => {
                        self.know_decision(*id, decision);
                        Listed::Done(*id)
                    }
                    ItemReply::Not(outcome) => Listed::Not(outcome.clone()),
                });
                let list: Vec<_> = list.collect();
                // A command that needed more than one account comes back as a list of one.
                let item_keys = match request {
                    Request::Work(work) => {
                        work.items.iter().map(|item| item.key.map(|key| key.key)).collect()
                    }
                    _ => vec![key],
                };
                // Of a list that is all or nothing, nothing is remembered but the whole.
                let is_atomic = matches!(request, Request::Work(work) if work.atomic);
                let is_off = is_atomic && list.iter().any(|item| matches!(item, Listed::Not(_)));
                for (key, result) in item_keys.into_iter().zip(&list) {
                    let Some(key) = key.filter(|_| !is_off) else { continue };
                    match result {
                        Listed::Done(id) => self.remember(key, Ended::Done(*id)),
                        Listed::Not(ItemOutcome::Refused(rejected)) => {
                            self.remember(key, Ended::Refused(rejected.rejection.clone()));
                        }
                        Listed::Not(ItemOutcome::Settled(outcome)) => {
                            self.remember(key, settled(*outcome, key))
                        }
                        Listed::Not(_) => {}
                    }
                }
                let passes = |result: &Listed| {
                    matches!(result, Listed::Not(ItemOutcome::KeyInFlight | ItemOutcome::KeysExhausted))
                };
                let key = key.filter(|_| !(is_atomic && list.iter().any(passes)));
                if let (Some(key), Request::Work(_)) = (key, request) {
                    self.remember(key, Ended::List(list));
                }
            }
            _ => {}
        }
    }

    /// P5: a key always has the same outcome.
    fn remember(&mut self, key: IdempotencyKey, ended: Ended) {
        let first = self.ended.entry(key.digest).or_insert_with(|| ended.clone());
        assert_eq!(*first, ended, "a key always has the same outcome (P5)");
    }

    fn know(&mut self, id: AccountId) {
        if !self.accounts.contains(&id) {
            self.accounts.push(id);
        }
    }

    fn know_decision(&mut self, id: TransactionId, decision: &Decision) {
        let mut legs = Vec::new();
        for (shard, effect) in decision.effects() {
            let account = effect.account_id(shard);
            match &effect.change {
                AccountChange::Opened(_) => self.know(account),
                AccountChange::Held { .. } => self.holds.push(HoldId {
                    time: id.time,
                    shard,
                    account: effect.account,
                    version: effect.after.version as u32,
                }),
                AccountChange::Posted { amount } => legs.push((account, *amount)),
                _ => {}
            }
        }
        if decision.kind == Kind::Transfer {
            self.transfers.push((id, legs));
        }
    }
}

/// What an event with a key says of how its request ended.
fn ended(outcome: Outcome, event: &Event) -> Ended {
    let here = TransactionId { time: event.time, shard: outcome.shard, sequence: outcome.sequence };
    let id = if let Change::Settled { by, .. } = &event.change { *by } else { here };
    if let Change::Refused { rejection, .. } = &event.change {
        return Ended::Refused(rejection.clone());
    }
    match event.change.decision().map(|decision| &decision.kind) {
        Some(Kind::Refusal { rejected, .. }) => Ended::Refused(rejected.rejection.clone()),
        Some(Kind::Batch { results, .. }) => Ended::List(
            results
                .iter()
                .map(|result| match result {
                    ItemOutcome::Done { back } => Listed::Done(TransactionId {
                        sequence: Sequence::new(id.sequence.get() - u64::from(*back)).expect("in range"),
                        ..id
                    }),
                    outcome => Listed::Not(outcome.clone()),
                })
                .collect(),
        ),
        _ => Ended::Done(id),
    }
}

impl Simulation {
    /// Some client thinks of a request, or sends the one it has.
    pub(crate) fn ask(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        if self.clients[client].task.is_none() {
            let mut mind = Mind { random: &mut self.random, known: &mut self.known, router: self.router };
            let (to, request) = mind.think();
            self.clients[client].task = Some(Task { request, to, waiting: false });
        }
        self.send(client);
    }

    pub(crate) fn send(&mut self, client: usize) {
        let Client { attempt, task: Some(task) } = &mut self.clients[client] else {
            return;
        };
        if task.waiting {
            return;
        }
        task.waiting = true;
        *attempt += 1;
        let waiter = Waiter { client, attempt: *attempt };
        let request = packed(task.request.clone());
        self.shards[task.to.index()].inbox.push_back(Mail::Request(request, waiter));
    }

    /// A client gives up waiting and asks again; without a key it must not, and goes on to something else.
    pub(crate) fn lose_patience(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        self.abandon(client);
    }

    pub(crate) fn abandon(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.attempt += 1;
        match &mut client.task {
            Some(task) if task.is_kept() => task.waiting = false,
            task => *task = None,
        }
    }
}

struct Mind<'a> {
    random: &'a mut Random,
    known: &'a mut Knowledge,
    router: Router,
}

fn hash(text: &str) -> [u8; 16] {
    blake3::hash(text.as_bytes()).as_bytes()[..16].try_into().expect("16 bytes")
}

impl Mind<'_> {
    fn think(&mut self) -> (ShardId, Request) {
        if self.known.accounts.len() < 5 && self.random.percent(60) {
            let item = Item { operation: self.open(), conditions: Vec::new(), key: None };
            let work = WorkRequest::of(vec![item].into(), None, false, false, "r".into(), SHARDS);
            return (work.needs[0].0, Request::Work(Box::new(work)));
        }
        match self.random.below(100) {
            0..18 => self.command(),
            18..40 => self.read(),
            _ => {
                let work = self.work();
                (work.needs[0].0, Request::Work(Box::new(work)))
            }
        }
    }

    fn name(&mut self) -> AccountName {
        AccountName::parse(&format!("name-{}", self.random.below(NAMES))).expect("valid")
    }

    fn account(&mut self) -> Place {
        if self.random.percent(20) && !self.known.accounts.is_empty() {
            let id = self.known.accounts[self.random.below(self.known.accounts.len() as u64) as usize];
            return place_of(id);
        }
        let name = self.name();
        Place { shard: self.router.of_name(&name), account: AccountRef::Name(name) }
    }

    fn quantity(&mut self) -> Quantity {
        let most = if self.random.percent(80) { 40 } else { 250 };
        let whole = 1 + self.random.below(most);
        let text = match self.random.below(100) {
            0..20 => format!("{whole}.{:02}", self.random.below(100)),
            20..22 => format!("{whole}.0005"),
            _ => whole.to_string(),
        };
        Quantity::parse(&text, ExcessDecimals::Refuse).expect("a quantity")
    }

    fn sum(&mut self) -> Sum {
        if self.random.percent(12) { Sum::All } else { Sum::Exactly(self.quantity()) }
    }

    fn currency(&mut self) -> Currency {
        let code = if self.random.percent(85) { b"USD" } else { b"JPY" };
        Currency::from_code(code).expect("a currency")
    }

    fn reference(&mut self) -> Option<Reference> {
        let text = format!("invoice {}", self.random.below(REFERENCES));
        self.random.percent(15).then(|| Reference::parse(&text).expect("valid"))
    }

    fn note(&mut self) -> Note {
        Note { reference: self.reference(), metadata: Metadata::default() }
    }

    /// A new number for a key, or sometimes one that was used before, perhaps for something else.
    fn key_number(&mut self) -> u64 {
        if !self.random.percent(15) {
            self.known.keys += 1;
        }
        self.known.keys
    }

    fn homed_key(&mut self, scope: &str, request: &str) -> HomedKey {
        let digest = KeyDigest(hash(&format!("{scope} {}", self.key_number())));
        HomedKey {
            home: self.router.of_key(&digest),
            key: IdempotencyKey { digest, fingerprint: hash(request) },
        }
    }

    fn command(&mut self) -> (ShardId, Request) {
        let place = self.account();
        let version = self.random.percent(8).then(|| 1 + self.random.below(6));
        let target = Target { account: place.account.clone(), version };
        let amount = self.quantity();
        let name = self.name();
        let (shard, command) = match self.random.below(100) {
            0..20 => {
                let overdraft_limit = self.random.percent(20).then(|| self.quantity());
                let command =
                    Command::Open { name: name.clone(), currency: self.currency(), overdraft_limit };
                (self.router.of_name(&name), command)
            }
            20..60 => (place.shard, Command::Deposit { target, amount }),
            60..92 => (place.shard, Command::Withdraw { target, amount }),
            _ => (place.shard, Command::Close { target }),
        };
        let key = self.random.percent(50).then(|| IdempotencyKey {
            digest: KeyDigest(hash(&format!("command {shard} {}", self.key_number()))),
            fingerprint: hash(&format!("{command:?}")),
        });
        (shard, Request::Execute { command, key, request_id: "r".into() })
    }

    fn read(&mut self) -> (ShardId, Request) {
        let place = self.account();
        match self.random.below(100) {
            0..45 => (place.shard, Request::Account(place.account)),
            45..50 => match place.account {
                AccountRef::Name(name) => (place.shard, Request::AccountEverNamed(name)),
                account => (place.shard, Request::Account(account)),
            },
            50..58 => {
                (place.shard, Request::AccountByNumber(AccountNumber::new(self.random.below(4) as u32)))
            }
            58..70 => match self.hold() {
                Some(hold) => (hold.shard, Request::Hold(hold)),
                None => (place.shard, Request::TrialBalance),
            },
            70..80 => {
                let (from, count) = (self.random.below(9) as u32, 1 + self.random.below(9) as usize);
                let pending = [None, Some(true), Some(false)][self.random.below(3) as usize];
                (place.shard, Request::Holds { account: place.account, from, count, pending })
            }
            80..87 => match self.transfer() {
                Some((id, _)) => (id.shard, Request::Reversal(id.sequence)),
                None => (place.shard, Request::TrialBalance),
            },
            87..95 => {
                let filter = AccountFilter {
                    currency: self.random.percent(20).then(|| self.currency()),
                    closed: self.random.percent(20).then_some(false),
                    ..AccountFilter::default()
                };
                let (from, count) =
                    (AccountNumber::new(self.random.below(3) as u32), 1 + self.random.below(9) as usize);
                (place.shard, Request::Accounts { from, count, filter: filter.into() })
            }
            95..99 => {
                let account = AccountNumber::new(self.random.below(4) as u32);
                let reference = Reference::parse(&format!("invoice {}", self.random.below(REFERENCES)));
                (place.shard, Request::Reference { account, reference: reference.expect("valid") })
            }
            _ => (place.shard, Request::TrialBalance),
        }
    }

    fn hold(&mut self) -> Option<HoldId> {
        let holds = &self.known.holds;
        // Mostly one of the newest.
        let back = self.random.below(5).min(self.random.below(holds.len().max(1) as u64)) as usize;
        holds.iter().rev().nth(back).copied()
    }

    fn transfer(&mut self) -> Option<(TransactionId, Vec<(AccountId, Amount)>)> {
        let transfers = &self.known.transfers;
        let back = self.random.below(4).min(self.random.below(transfers.len().max(1) as u64)) as usize;
        transfers.iter().rev().nth(back).cloned()
    }

    fn operation(&mut self) -> Operation {
        let mut choice = self.random.below(self.known.mix.iter().sum());
        let mut kind = 0;
        while choice >= self.known.mix[kind] {
            choice -= self.known.mix[kind];
            kind += 1;
        }
        let (account, note, amount) = (self.account(), self.note(), self.quantity());
        match kind {
            0 => self.open(),
            1 => Operation::Deposit { account, amount, note },
            2 => Operation::Withdraw { account, amount: self.sum(), note },
            3 => Operation::Transfer { from: account, to: self.account(), amount: self.sum(), note },
            4 => self.multi_transfer(note),
            5 => match self.transfer() {
                Some((transfer, legs)) => Operation::Reverse {
                    transfer,
                    legs: legs.into_iter().map(|(id, amount)| (place_of(id), amount)).collect(),
                    amount: self.random.percent(30).then_some(amount),
                    note,
                },
                None => Operation::Deposit { account, amount, note },
            },
            6 => Operation::Hold {
                account,
                amount: self.sum(),
                to: self.random.percent(60).then(|| self.account()),
                expires_in_ms: 1 + self.random.number() % if self.random.percent(50) { 400 } else { 100_000 },
                note,
            },
            7 => match self.hold() {
                Some(hold) => {
                    Operation::Capture { hold, amount: self.random.percent(40).then_some(amount), note }
                }
                None => Operation::Deposit { account, amount, note },
            },
            8 => match self.hold() {
                Some(hold) => Operation::Void { hold, note },
                None => Operation::Deposit { account, amount, note },
            },
            9 => self.amend(account),
            10 => Operation::Close { account },
            _ => {
                let to = self.account();
                if self.random.percent(20) {
                    return Operation::Unlink { account, to };
                }
                let kind =
                    if self.random.percent(85) { LinkKind::OverdraftProtection } else { LinkKind::Related };
                Operation::Link { account, to, kind }
            }
        }
    }

    fn open(&mut self) -> Operation {
        let name = self.name();
        let velocity = if self.random.percent(10) { self.velocity() } else { VelocityTerms::default() };
        let opening = Opening {
            currency: self.currency(),
            overdraft_limit: self.random.percent(20).then(|| self.quantity()),
            reference: self.reference(),
            metadata: Metadata::default(),
            unique_reference: self.random.percent(40),
            velocity,
            name: name.clone(),
        };
        Operation::Open { shard: self.router.of_name(&name), opening: Box::new(opening) }
    }

    fn velocity(&mut self) -> VelocityTerms {
        let debits = DebitLimit {
            count: 1 + self.random.below(3) as u32,
            window_seconds: 1 + self.random.below(60) as u32,
        };
        VelocityTerms {
            per_day: self.random.percent(50).then(|| self.quantity()),
            per_month: self.random.percent(20).then(|| self.quantity()),
            debits: self.random.percent(50).then_some(debits),
        }
    }

    fn multi_transfer(&mut self, note: Note) -> Operation {
        let payees = 1 + self.random.below(4);
        let each = 1 + self.random.below(15) as i64;
        let quantity =
            |units: i64| Quantity::parse(&units.to_string(), ExcessDecimals::Refuse).expect("a quantity");
        let mut legs: Vec<_> = (0..payees).map(|_| (self.account(), quantity(each))).collect();
        let mut owed = each * payees as i64 + i64::from(self.random.percent(5));
        if owed > 1 && self.random.percent(50) {
            legs.push((self.account(), quantity(-(owed / 2))));
            owed -= owed / 2;
        }
        legs.insert(self.random.below(2) as usize, (self.account(), quantity(-owed)));
        Operation::MultiTransfer { legs, note }
    }

    fn amend(&mut self, account: Place) -> Operation {
        let mut amendment = Amendment::default();
        match self.random.below(5) {
            0 => amendment.frozen = Some(true),
            1 => amendment.frozen = Some(false),
            2 => amendment.overdraft_limit = Some(self.random.percent(70).then(|| self.quantity())),
            3 => {
                let VelocityTerms { per_day, per_month, debits } = self.velocity();
                let mut some = |is_there| is_there || self.random.percent(30);
                let change = VelocityChange {
                    per_day: some(per_day.is_some()).then_some(per_day),
                    per_month: some(per_month.is_some()).then_some(per_month),
                    debits: some(debits.is_some()).then_some(debits),
                };
                amendment.velocity = Some(self.random.percent(70).then_some(change));
            }
            _ => {
                let value = self.random.percent(70).then(|| format!("{}", self.random.below(9)).into());
                let change = (format!("key {}", self.random.below(3)).into(), value);
                amendment.metadata = Some(self.random.percent(85).then(|| vec![change]));
            }
        }
        Operation::Amend { account, amendment: Box::new(amendment) }
    }

    fn condition(&mut self) -> Condition {
        let requirement = match self.random.below(3) {
            0 => Requirement::AvailableAtLeast(self.quantity()),
            1 => Requirement::Version(1 + self.random.below(8)),
            _ => Requirement::Match(1 + self.random.below(8)),
        };
        Condition { account: self.account(), requirement }
    }

    /// What the largest batches consist of: transfers among a few accounts of one shard, which say nothing else.
    fn plain_transfers(&mut self) -> WorkRequest {
        let first = self.account();
        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(self.account());
        }
        others.retain(|other| other.shard == first.shard);
        others.truncate(2);
        others.push(first);
        let count = 1 + self.random.below(4);
        let mut account = || others[self.random.below(others.len() as u64) as usize].clone();
        let pairs: Vec<_> = (0..count).map(|_| (account(), account())).collect();
        let item = |(from, to)| {
            let amount = Sum::Exactly(self.quantity());
            let operation = Operation::Transfer { from, to, amount, note: Note::default() };
            Item { operation, conditions: Vec::new(), key: None }
        };
        let items = pairs.into_iter().map(item).collect();
        WorkRequest::of(items, None, false, false, "r".into(), SHARDS)
    }

    fn work(&mut self) -> WorkRequest {
        if self.random.percent(4) {
            let mut work = self.plain_transfers();
            if self.random.percent(40) {
                work.take_turn(self.random.below(3), &[work.needs[0].0]);
            }
            return work;
        }
        let count = if self.random.percent(70) { 1 } else { 2 + self.random.below(5) };
        let mut items = Vec::new();
        for _ in 0..count {
            let mut operation = self.operation();
            // A link that is there already writes nothing down, so lists do not have them.
            while count > 1 && matches!(operation, Operation::Link { .. } | Operation::Unlink { .. }) {
                operation = self.operation();
            }
            let conditions = if self.random.percent(12) { vec![self.condition()] } else { Vec::new() };
            let key = self.random.percent(if count == 1 { 50 } else { 25 });
            let key = key.then(|| self.homed_key("item", &format!("{operation:?}{conditions:?}")));
            items.push(Item { operation, conditions, key });
        }
        if count > 1 && self.random.percent(15) {
            let keyed = items.iter().find(|item| item.key.is_some()).cloned();
            items.extend(keyed);
        }
        let atomic = self.random.percent(40);
        let whole = count > 1 && self.random.percent(50);
        let key = whole.then(|| self.homed_key("list", &format!("{items:?}{atomic}")));
        let dry_run = self.random.percent(8);
        let mut work = WorkRequest::of(items.into(), key, atomic, dry_run, "r".into(), SHARDS);
        if self.random.percent(20) {
            // Lists of works of several clients at once: nobody waits for a turn that does not end.
            let shards: Vec<_> = work.needs.iter().map(|(shard, _)| *shard).collect();
            work.take_turn(self.random.below(3), &shards);
        }
        work
    }
}

fn place_of(id: AccountId) -> Place {
    Place { shard: id.shard, account: AccountRef::Number { number: id.number, opened: id.opened } }
}

/// A request as the bank sends it, for which a list of plain transfers says less. Only those of an even number, since such
/// lists come spelled out, too.
fn packed(request: Request) -> Request {
    match request {
        Request::Work(work) if work.items.len() % 2 == 0 && work.key.is_none() => {
            let plain = |item: &Item| match item {
                Item { conditions, key: None, operation } if conditions.is_empty() => {
                    PlainTransfer::of(operation.clone()).ok()
                }
                _ => None,
            };
            let transfers: Option<Vec<_>> = work.items.iter().map(plain).collect();
            let of_shard = transfers.filter(|of| of.windows(2).all(|pair| pair[0].0 == pair[1].0));
            match of_shard.as_ref().and_then(|of| of.first()) {
                Some((shard, _)) if !(work.atomic || work.dry_run) => {
                    let transfers = of_shard.iter().flatten().map(|(_, transfer)| transfer.clone()).collect();
                    let list = PlainList { shard: *shard, transfers };
                    let needs = work.needs.iter().map(|(shard, _)| (*shard, Needs::default())).collect();
                    Request::Work(Box::new(WorkRequest {
                        turn: work.turn,
                        needs,
                        ..WorkRequest::plain(list, true)
                    }))
                }
                _ => Request::Work(work),
            }
        }
        request => request,
    }
}
