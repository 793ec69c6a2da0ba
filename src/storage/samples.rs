//! A history for the tests of everything on disk: every kind of event, the same bytes every time.
//!
//! The frozen files in `tests/fixtures` hold it. Do not change what is there; add to it behind its end.

use std::path::PathBuf;

use uuid::Uuid;

use super::journal::record::{Draft, LogPosition};
use crate::ledger::{
    AccountName, AccountRef, Amount, Change, Command, Event, IdempotencyKey, KeyDigest, Ledger, ShardId,
    Target, Terms, Timestamp,
};

/// The ledger that the samples belong to.
pub(super) const LEDGER: Uuid = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
/// Another one.
pub(super) const OTHER_LEDGER: Uuid = Uuid::from_u128(1);

/// The shard that the samples belong to.
pub(super) fn shard() -> ShardId {
    ShardId::new(3).expect("in range")
}

/// The records of the sample history, `per_record` events in each, the state after it and the log's end.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) records: Vec<Vec<u8>>,
    pub(super) ledger: Ledger,
    pub(super) position: LogPosition,
}

/// The sample history of about `rounds` events, after fifteen that are of every kind.
pub(super) fn sample(rounds: u64, per_record: usize) -> Sample {
    let mut script = Script::default();
    let name = |text: &str| AccountName::parse(text).expect("valid");
    let amount = |units| Amount::from_minor_units(units).expect("in range");
    let target = |text: &str, version| Target { account: AccountRef::Name(name(text)), version };
    let open = |text: &str, limit: Option<i128>| Command::Open {
        name: name(text),
        overdraft_limit: limit.map(amount),
    };
    let deposit = |text: &str, units| Command::Deposit { target: target(text, None), amount: amount(units) };
    let withdraw =
        |text: &str, units| Command::Withdraw { target: target(text, None), amount: amount(units) };
    script.run(open("alice", None), Some(1));
    script.run(open("Kateřina Nováková", Some(50_000)), None);
    script.run(open("closed one", Some(0)), Some(2));
    script.run(deposit("alice", 1_000_000), Some(3));
    script.run(withdraw("Kateřina Nováková", 50_000), None);
    script.run(withdraw("Kateřina Nováková", 1), Some(4));
    script.run(open("alice", None), Some(5));
    script.run(deposit("closed one", 5), None);
    script.run(Command::Close { target: target("closed one", None) }, Some(6));
    script.run(withdraw("closed one", 5), None);
    script.run(Command::Close { target: target("closed one", Some(3)) }, Some(7));
    script.run(Command::Claim, Some(8));
    script.run(deposit("nobody", 5), Some(9));
    script.run(deposit("alice", Amount::MAX.minor_units()), Some(10));
    script.run(deposit("alice", 1), Some(8));
    for round in 0..rounds {
        let units = i128::from(round * 7919 % 1000 + 1);
        let key = (round % 5 == 0).then_some((round % 200) as u8);
        match round % 3 {
            0 => script.run(deposit("alice", units), key),
            1 => script.run(deposit("Kateřina Nováková", units), key),
            _ => script.run(withdraw("alice", units), key),
        }
    }
    let mut position = LogPosition::genesis(LEDGER, shard());
    let records = script.events.chunks(per_record).map(|events| {
        let mut draft = Draft::new(position.last.next(), &events[0]);
        for event in &events[1..] {
            assert!(draft.push(event), "samples are small");
        }
        draft.seal(shard(), &mut position)
    });
    Sample { records: records.collect(), ledger: script.ledger, position }
}

#[derive(Default)]
struct Script {
    ledger: Ledger,
    events: Vec<Event>,
}

impl Script {
    /// Decides and applies a command. A refusal is an event only with a key.
    fn run(&mut self, command: Command, key: Option<u8>) {
        let terms = Terms {
            now: Timestamp::from_millis(1_763_800_000_000 + 10 * self.events.len() as u64),
            overdraft_limit: Amount::ZERO,
            key_retention_ms: 100_000,
            keys_max: 1000,
        };
        let key =
            key.map(|byte| IdempotencyKey { digest: KeyDigest([byte; 16]), fingerprint: [byte ^ 0xff; 16] });
        let change = match self.ledger.decide(&command, &terms) {
            Ok(change) => change,
            Err(_) if key.is_none() => return,
            Err(rejection) => Change::Refused { rejection, request_id: "request-1".into() },
        };
        let event = Event { time: terms.now, key: key.map(|key| terms.key_use(key)), change };
        self.ledger.apply(&event);
        self.events.push(event);
    }
}

/// The path of a frozen file.
pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
