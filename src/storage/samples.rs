//! A history for the tests of everything on disk: every kind of event, the same bytes every time.
//!
//! The frozen files in `tests/fixtures` hold it. Do not change what is there; add to it behind its end.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::journal::record::{Draft, LogPosition};
use crate::ledger::workspace::Decided;
use crate::ledger::{
    AccountChange, AccountId, AccountName, AccountNumber, AccountRef, After, Amended, Amount, Change,
    Command, Currency, DebitLimit, Decision, Effect, Effects, Event, ExcessDecimals, HoldKey, HoldOutcome,
    IdempotencyKey, ItemOutcome, KeyDigest, Kind, Ledger, Link, LinkKind, Metadata, Note, Opened, Outcome,
    OverdraftDefault, Part, Quantity, Reference, Rejected, Rejection, Sequence, ShardId, Target, Terms,
    Timestamp, TransactionId, VelocityLimits,
};

/// The ledger that the samples belong to.
pub(super) const LEDGER: Uuid = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
/// Another one.
pub(super) const OTHER_LEDGER: Uuid = Uuid::from_u128(1);

/// The shard that the samples belong to.
pub(super) fn shard() -> ShardId {
    shard_id(3)
}

/// The shard that it exchanges decisions with.
pub(super) fn neighbour() -> ShardId {
    shard_id(5)
}

fn shard_id(number: usize) -> ShardId {
    ShardId::new(number).expect("in range")
}

/// The records of the sample history, `per_record` events in each, the state after it and the log's end.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) events: Vec<Event>,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) ledger: Ledger,
    pub(super) position: LogPosition,
}

/// The sample history of the first format: about `rounds` events, after fifteen that are of every kind it has.
pub(super) fn first_sample(rounds: u64, per_record: usize) -> Sample {
    let mut script = Script::new();
    script.play_first(rounds);
    script.into_sample(per_record)
}

/// The sample history: that of the first format, and behind it some forty events that are of every other kind.
pub(super) fn sample(rounds: u64, per_record: usize) -> Sample {
    let mut script = Script::new();
    script.play_first(rounds);
    script.play_second();
    script.into_sample(per_record)
}

struct Script {
    ledger: Ledger,
    events: Vec<Event>,
    /// The shard that decides some of what concerns this one, and takes part in some of what this one decides.
    neighbour: Ledger,
}

fn amount(units: i128) -> Amount {
    Amount::from_minor_units(units).expect("in range")
}

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("valid")
}

fn key(byte: u8) -> IdempotencyKey {
    IdempotencyKey { digest: KeyDigest([byte; 16]), fingerprint: [byte ^ 0xff; 16] }
}

fn metadata(entries: &[(&str, &str)]) -> Metadata {
    let entries = entries.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    Metadata::new(entries).expect("valid")
}

fn reference(text: &str) -> Option<Reference> {
    Some(Reference::parse(text).expect("valid"))
}

fn opened(text: &str) -> Opened {
    Opened {
        name: name(text),
        overdraft_limit: None,
        reference: None,
        metadata: Metadata::default(),
        unique_reference: false,
        velocity: VelocityLimits::default(),
    }
}

fn posted(units: i128) -> AccountChange {
    AccountChange::Posted { amount: amount(units) }
}

impl Script {
    fn new() -> Script {
        Script { ledger: Ledger::new(shard()), events: Vec::new(), neighbour: Ledger::new(neighbour()) }
    }

    fn into_sample(self, per_record: usize) -> Sample {
        let mut position = LogPosition::genesis(LEDGER, shard());
        let records = self.events.chunks(per_record).map(|events| {
            let draft = Draft::group(position.last.next(), events).expect("samples are small");
            draft.seal(shard(), &mut position)
        });
        Sample { records: records.collect(), ledger: self.ledger, position, events: self.events }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_763_800_000_000 + 10 * self.events.len() as u64)
    }

    fn terms(&self) -> Terms {
        Terms {
            now: self.now(),
            overdraft: OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO },
            key_retention_ms: 100_000,
            keys_max: 1000,
        }
    }

    fn play_first(&mut self, rounds: u64) {
        let quantity = |units: i128| {
            let text = amount(units).text(Currency::USD);
            Quantity::parse(text.as_str(), ExcessDecimals::Refuse).expect("it is an amount")
        };
        let target = |text: &str, version| Target { account: AccountRef::Name(name(text)), version };
        let open = |text: &str, limit: Option<i128>| Command::Open {
            name: name(text),
            currency: Currency::USD,
            overdraft_limit: limit.map(quantity),
        };
        let deposit =
            |text: &str, units| Command::Deposit { target: target(text, None), amount: quantity(units) };
        let withdraw =
            |text: &str, units| Command::Withdraw { target: target(text, None), amount: quantity(units) };
        self.run(open("alice", None), Some(1));
        self.run(open("Kateřina Nováková", Some(50_000)), None);
        self.run(open("closed one", Some(0)), Some(2));
        self.run(deposit("alice", 1_000_000), Some(3));
        self.run(withdraw("Kateřina Nováková", 50_000), None);
        self.run(withdraw("Kateřina Nováková", 1), Some(4));
        self.run(open("alice", None), Some(5));
        self.run(deposit("closed one", 5), None);
        self.run(Command::Close { target: target("closed one", None) }, Some(6));
        self.run(withdraw("closed one", 5), None);
        self.run(Command::Close { target: target("closed one", Some(3)) }, Some(7));
        let claim = self.terms().key_use(key(8));
        self.add(Event { time: self.now(), key: Some(claim), change: Change::Claimed });
        self.run(deposit("nobody", 5), Some(9));
        self.run(deposit("alice", Amount::MAX.minor_units()), Some(10));
        self.run(deposit("alice", 1), Some(8));
        for round in 0..rounds {
            let units = i128::from(round * 7919 % 1000 + 1);
            let key = (round % 5 == 0).then_some((round % 200) as u8);
            match round % 3 {
                0 => self.run(deposit("alice", units), key),
                1 => self.run(deposit("Kateřina Nováková", units), key),
                _ => self.run(withdraw("alice", units), key),
            }
        }
    }

    /// What the second format added: alice and Kateřina are numbers 0 and 1, three more are opened, and the neighbour
    /// opens two of its own.
    fn play_second(&mut self) {
        let (here, there) = (shard(), neighbour());
        let note = || Note { reference: reference("INV 7"), metadata: metadata(&[("a", "1"), ("č", "")]) };
        let none = Note::default;
        self.decide(
            Kind::Opening,
            none(),
            &[(here, 3, AccountChange::Opened(Box::new(opened("plain"))))],
            Some(30),
        );
        let full = Opened {
            overdraft_limit: Some(amount(7)),
            reference: reference("client 4711"),
            metadata: metadata(&[("segment", "retail"), ("branch", "7")]),
            unique_reference: true,
            velocity: VelocityLimits {
                per_day: Some(amount(100_000)),
                per_month: Some(amount(1_000_000)),
                debits: Some(DebitLimit { count: 100, window_seconds: 3600 }),
            },
            ..opened("full")
        };
        self.decide(Kind::Opening, none(), &[(here, 4, AccountChange::Opened(Box::new(full)))], None);
        self.decide(
            Kind::Opening,
            none(),
            &[(there, 0, AccountChange::Opened(Box::new(opened("far"))))],
            Some(31),
        );
        self.decide_there(
            Kind::Opening,
            none(),
            &[(there, 1, AccountChange::Opened(Box::new(opened("farther"))))],
            None,
        );
        self.decide(Kind::Deposit, note(), &[(here, 4, posted(50_000))], None);
        self.decide(Kind::Deposit, none(), &[(there, 0, posted(9_000))], None);
        let transfer =
            self.decide(Kind::Transfer, note(), &[(here, 0, posted(-1_500)), (here, 3, posted(1_500))], None);
        self.decide(
            Kind::Transfer,
            Note { reference: reference("INV 8"), ..none() },
            &[
                (here, 0, posted(-700)),
                (here, 4, posted(500)),
                (there, 0, posted(150)),
                (there, 1, posted(50)),
            ],
            Some(32),
        );
        self.decide_there(
            Kind::Transfer,
            none(),
            &[(here, 0, posted(900)), (there, 0, posted(-900))],
            Some(33),
        );
        self.decide_there(Kind::Protection, none(), &[(here, 3, posted(-20)), (there, 1, posted(20))], None);
        self.decide(
            Kind::Reversal { of: transfer },
            none(),
            &[(here, 0, posted(1_480)), (here, 3, posted(-1_480))],
            None,
        );
        let expires = Timestamp::from_millis(self.now().millis() + 60_000);
        let hold = |units, to| AccountChange::Held { amount: amount(units), to, expires };
        let far = self.id(there, 0);
        let placed = [
            self.decide(Kind::Hold, note(), &[(here, 4, hold(1_000, None))], None),
            self.decide(Kind::Hold, none(), &[(here, 4, hold(2_000, Some(far)))], Some(34)),
            self.decide(Kind::Hold, none(), &[(here, 0, hold(30, None))], None),
            self.decide(Kind::Hold, none(), &[(here, 0, hold(40, None))], None),
        ];
        // Something is held: the short kinds of event say so.
        let target = |text: &str| Target { account: AccountRef::Name(name(text)), version: None };
        let quantity = Quantity::parse("12.34", ExcessDecimals::Refuse).expect("valid");
        self.run(Command::Deposit { target: target("full"), amount: quantity }, None);
        self.run(Command::Withdraw { target: target("alice"), amount: quantity }, Some(35));
        let released = |key: HoldKey, outcome| AccountChange::Released { hold: key, outcome };
        let keys: Vec<HoldKey> = placed.iter().map(|placed| self.hold_of(*placed)).collect();
        let ids: Vec<_> = keys.iter().zip(&placed).map(|(key, placed)| key.id(here, placed.time)).collect();
        self.decide(
            Kind::Capture { hold: ids[0] },
            none(),
            &[(here, 4, released(keys[0], HoldOutcome::Captured(amount(999))))],
            None,
        );
        self.decide(
            Kind::Capture { hold: ids[1] },
            none(),
            &[(here, 4, released(keys[1], HoldOutcome::Captured(amount(2_000)))), (there, 0, posted(2_000))],
            None,
        );
        self.decide(
            Kind::Void { hold: ids[2] },
            note(),
            &[(here, 0, released(keys[2], HoldOutcome::Voided))],
            None,
        );
        self.decide(
            Kind::Expiry { hold: ids[3] },
            none(),
            &[(here, 0, released(keys[3], HoldOutcome::Expired))],
            None,
        );
        self.decide(Kind::Hold, none(), &[(here, 3, hold(0x1_0000, None))], None);
        let amendments = [
            Amended { frozen: Some(true), ..Amended::default() },
            Amended {
                frozen: Some(false),
                overdraft_limit: Some(Some(amount(70_000))),
                ..Amended::default()
            },
            Amended {
                overdraft_limit: Some(None),
                metadata: Some(metadata(&[("k", "v")])),
                velocity: Some(VelocityLimits { per_day: Some(amount(5)), ..VelocityLimits::default() }),
                frozen: Some(true),
            },
            Amended { metadata: Some(Metadata::default()), ..Amended::default() },
        ];
        for amended in amendments {
            self.decide(
                Kind::Amendment,
                none(),
                &[(here, 1, AccountChange::Amended(Box::new(amended)))],
                None,
            );
        }
        let alice = self.id(here, 0);
        let plain = self.id(here, 3);
        let link = |to, kind| AccountChange::Linked(Link { to, kind });
        self.decide(Kind::Linking, none(), &[(here, 3, link(far, LinkKind::Related))], None);
        self.decide(
            Kind::Linking,
            none(),
            &[
                (here, 0, AccountChange::Protects { account: plain, on: true }),
                (here, 3, link(alice, LinkKind::OverdraftProtection)),
            ],
            None,
        );
        self.decide(
            Kind::Unlinking,
            none(),
            &[
                (here, 0, AccountChange::Protects { account: plain, on: false }),
                (here, 3, AccountChange::Unlinked { to: alice }),
            ],
            None,
        );
        self.decide(
            Kind::Linking,
            none(),
            &[
                (here, 0, AccountChange::Protects { account: plain, on: true }),
                (here, 3, link(alice, LinkKind::OverdraftProtection)),
            ],
            None,
        );
        self.decide(Kind::Withdrawal, none(), &[(here, 4, posted(-1))], None);
        let rejected = Rejected {
            rejection: Rejection::InsufficientFunds {
                available: amount(-5),
                required: amount(5),
                currency: Currency::USD,
            },
            at: Some(1),
        };
        let refusal = Kind::Refusal { rejected: rejected.clone(), request_id: "request-2".into() };
        self.decide(refusal.clone(), none(), &[], Some(36));
        self.decide_there(refusal, none(), &[], Some(37));
        let results = vec![
            ItemOutcome::Done { back: 2 },
            ItemOutcome::Refused(rejected),
            ItemOutcome::Settled(Outcome { shard: there, sequence: Sequence::FIRST }),
            ItemOutcome::KeyReused,
            ItemOutcome::KeyInFlight,
            ItemOutcome::KeysExhausted,
            ItemOutcome::NotAttempted,
        ];
        self.decide(Kind::Batch { results, request_id: "request-3".into() }, none(), &[], Some(38));
        self.decide(
            Kind::Opening,
            none(),
            &[(here, 5, AccountChange::Opened(Box::new(opened("short"))))],
            None,
        );
        self.decide(Kind::Linking, none(), &[(here, 5, link(far, LinkKind::Related))], None);
        self.decide(Kind::Unlinking, none(), &[(here, 5, AccountChange::Unlinked { to: far })], None);
        self.decide(Kind::Closing, none(), &[(here, 5, AccountChange::Closed)], None);
        self.decide(Kind::Hold, none(), &[(here, 3, hold(11, Some(far)))], None);
    }

    /// Decides and applies a command. A refusal is an event only with a key.
    fn run(&mut self, command: Command, key_byte: Option<u8>) {
        let terms = self.terms();
        let change = match self.ledger.decide(&command, &terms) {
            Ok(change) => change,
            Err(_) if key_byte.is_none() => return,
            Err(rejection) => Change::Refused { rejection, request_id: "request-1".into() },
        };
        let key = key_byte.map(|byte| terms.key_use(key(byte)));
        self.add(Event { time: terms.now, key, change });
    }

    fn add(&mut self, event: Event) {
        self.ledger.replay(&event).expect("it follows");
        self.events.push(event);
    }

    /// This shard decides; the neighbour applies its part, if it has one.
    fn decide(
        &mut self,
        kind: Kind,
        note: Note,
        changes: &[(ShardId, u32, AccountChange)],
        key_byte: Option<u8>,
    ) -> TransactionId {
        let decision = self.decision(kind, note, changes);
        let key = key_byte.map(|byte| self.terms().key_use(key(byte)));
        let event = self.ledger.decided(Decided { decision, key }, self.now());
        let by = TransactionId { time: event.time, shard: shard(), sequence: self.ledger.last().next() };
        let decision = event.change.decision().expect("it is one").clone();
        self.add(event);
        if decision.part(neighbour()).is_some() {
            let settled = self.neighbour.settled(by, &decision, self.now()).expect("it follows");
            self.neighbour.replay(&settled.expect("it is new")).expect("it follows");
        }
        by
    }

    /// The neighbour decides, and this shard applies its part; the key is remembered here.
    fn decide_there(
        &mut self,
        kind: Kind,
        note: Note,
        changes: &[(ShardId, u32, AccountChange)],
        key_byte: Option<u8>,
    ) {
        let mut decision = self.decision(kind, note, changes);
        if let Some(byte) = key_byte {
            part_of(&mut decision.parts, shard()).key = Some(self.terms().key_use(key(byte)));
        }
        let event = self.neighbour.decided(Decided { decision, key: None }, self.now());
        let decision = event.change.decision().expect("it is one").clone();
        let sequence = self.neighbour.replay(&event).expect("it follows");
        let by = TransactionId { time: event.time, shard: neighbour(), sequence };
        if decision.part(shard()).is_some() {
            let later = Timestamp::from_millis(self.now().millis() + 3);
            let settled = self.ledger.settled(by, &decision, later).expect("it follows");
            self.add(settled.expect("it is new"));
        }
    }

    /// What the changes of some accounts leave.
    fn decision(&self, kind: Kind, note: Note, changes: &[(ShardId, u32, AccountChange)]) -> Decision {
        let mut parts = Vec::new();
        for (shard, number, change) in changes {
            let effect = self.effect(*shard, AccountNumber::new(*number), change.clone());
            part_of(&mut parts, *shard).effects.push(effect);
        }
        if let Kind::Reversal { of } = kind {
            part_of(&mut parts, of.shard).reverses = Some(of.sequence);
        }
        Decision { kind, note, parts }
    }

    fn effect(&self, shard: ShardId, account: AccountNumber, change: AccountChange) -> Effect {
        let Some(state) = self.side(shard).account_by_number(account) else {
            let after = After { version: 1, balance: Amount::ZERO, held: Amount::ZERO };
            return Effect {
                account,
                opened: self.now(),
                currency: Currency::USD,
                change,
                after,
                allowance: None,
            };
        };
        let held = match &change {
            AccountChange::Held { amount, .. } => *amount,
            AccountChange::Released { hold, .. } => {
                let mut holds = self.ledger.holds().of_account(account, 0);
                let (_, hold) = holds.find(|(key, _)| *key == hold).expect("it is there");
                hold.amount.negated()
            }
            _ => Amount::ZERO,
        };
        let after = After {
            version: state.version + 1,
            balance: state.posted.checked_add(change.posted()).expect("in range"),
            held: state.held.checked_add(held).expect("in range"),
        };
        let limited = state.details.as_ref().filter(|details| !details.velocity.is_empty());
        let allowance = change.debit().zip(limited).map(|(amount, details)| {
            let spent = details.spent.plus(&details.velocity, self.now(), amount);
            Box::new(details.velocity.allowance(&spent, self.now()))
        });
        Effect { account, opened: state.opened, currency: state.currency, change, after, allowance }
    }

    fn side(&self, shard: ShardId) -> &Ledger {
        if shard == neighbour() { &self.neighbour } else { &self.ledger }
    }

    fn id(&self, shard: ShardId, number: u32) -> AccountId {
        let number = AccountNumber::new(number);
        let account = self.side(shard).account_by_number(number).expect("it was opened");
        AccountId { opened: account.opened, shard, number }
    }

    fn hold_of(&self, placed: TransactionId) -> HoldKey {
        let event = &self.events[placed.sequence.get() as usize - 1];
        let part = &event.change.decision().expect("it placed a hold").parts[0];
        let effect = &part.effects[0];
        HoldKey { account: effect.account, version: effect.after.version as u32 }
    }
}

fn part_of(parts: &mut Vec<Part>, shard: ShardId) -> &mut Part {
    let place = parts.partition_point(|part| part.shard < shard);
    if parts.get(place).is_none_or(|part| part.shard != shard) {
        parts.insert(place, Part::new(shard, Effects::new()));
    }
    &mut parts[place]
}

/// A few shards, each with one account, that decide for one another. Nothing is settled before the test says so.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) ledgers: Vec<Ledger>,
    pub(super) events: Vec<Vec<Event>>,
    /// The decisions, with their events.
    decided: Vec<(TransactionId, Arc<Decision>)>,
    /// How each account stands once all is settled.
    after: Vec<After>,
    time: Timestamp,
    /// How long after the one before each decision is made.
    pub(super) step_ms: u64,
}

impl Exchange {
    pub(super) fn new(shards: usize) -> Exchange {
        let mut exchange = Exchange {
            ledgers: (0..shards).map(|number| Ledger::new(shard_id(number))).collect(),
            events: vec![Vec::new(); shards],
            decided: Vec::new(),
            after: vec![After { version: 1, balance: Amount::ZERO, held: Amount::ZERO }; shards],
            time: Timestamp::from_millis(1_763_800_000_000),
            step_ms: 5,
        };
        for shard in 0..shards {
            let change = Change::Opened {
                account: AccountNumber::new(0),
                name: name(&format!("of shard {shard}")),
                currency: Currency::USD,
                overdraft_limit: None,
            };
            exchange.add(shard, Event { time: exchange.time, key: None, change });
        }
        exchange
    }

    fn add(&mut self, shard: usize, event: Event) {
        self.ledgers[shard].replay(&event).expect("it follows");
        self.events[shard].push(event);
    }

    /// A transfer among the shards' accounts; with one leg, a deposit.
    pub(super) fn transfer(&mut self, by: usize, legs: &[(usize, i128)]) -> TransactionId {
        self.time = Timestamp::from_millis(self.time.millis() + self.step_ms);
        let mut parts = Vec::new();
        for &(shard, units) in legs {
            let after = &mut self.after[shard];
            after.version += 1;
            after.balance = after.balance.checked_add(amount(units)).expect("in range");
            let effect = Effect {
                account: AccountNumber::new(0),
                opened: self.ledgers[shard].accounts()[0].opened,
                currency: Currency::USD,
                change: posted(units),
                after: *after,
                allowance: None,
            };
            part_of(&mut parts, shard_id(shard)).effects.push(effect);
        }
        let kind = if legs.len() == 1 { Kind::Deposit } else { Kind::Transfer };
        let decision = Decision { kind, note: Note::default(), parts };
        let event = self.ledgers[by].decided(Decided { decision, key: None }, self.time);
        let id =
            TransactionId { time: self.time, shard: shard_id(by), sequence: self.ledgers[by].last().next() };
        self.decided.push((id, event.change.decision().expect("it is one").clone()));
        self.add(by, event);
        id
    }

    /// A shard applies its part of a decision.
    pub(super) fn settle(&mut self, shard: usize, by: TransactionId) {
        let (_, decision) = self.decided.iter().find(|(id, _)| *id == by).expect("it was decided");
        let event = self.ledgers[shard].settled(by, decision, self.time).expect("it follows");
        self.add(shard, event.expect("it is new"));
    }

    /// The balances once all is settled.
    pub(super) fn balances(&self) -> Vec<i128> {
        self.after.iter().map(|after| after.balance.minor_units()).collect()
    }
}

/// The path of a frozen file.
pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
