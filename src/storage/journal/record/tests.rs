//! Every kind of event as bytes: what reads back, what is frozen, and what hostile bytes cannot do.

use std::sync::Arc;

use super::*;
use crate::ledger::{
    AccountChange, AccountId, AccountName, AccountNumber, After, Allowance, Amended, Amount, Change,
    Currency, DebitLimit, Direction, Effect, Entry, HOLD_VERSION_MAX, HoldId, HoldKey, HoldOutcome,
    IdempotencyKey, ItemOutcome, KeyDigest, KeyUse, Kind, Link, LinkKind, Links, Metadata, Note, Opened,
    Outcome, Part, PartLinks, Reference, Rejected, Rejection, SHARDS_MAX, VelocityLimits, WINDOW_SECONDS_MAX,
};
use crate::random::Random;
use crate::storage::samples::{fixture, neighbour, sample};

const FIXTURE_FIRST: &str = "record-1.bin";
const FIXTURE: &str = "record-2.bin";

fn event(millis: u64, change: Change) -> Event {
    Event { time: Timestamp::from_millis(millis), key: None, change }
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("in range")
}

fn shard() -> ShardId {
    ShardId::new(5).expect("in range")
}

fn amount(units: i128) -> Amount {
    Amount::from_minor_units(units).expect("in range")
}

/// One event of every kind that the first format has, with and without a key.
fn first_events() -> Vec<Event> {
    let account = AccountNumber::new(7);
    let entry = Entry {
        version: 3,
        balance: amount(-1234),
        held: Amount::ZERO,
        links: Links { previous: sequence(9), skip: sequence(2) },
    };
    let changes = [
        Change::Opened {
            account,
            name: AccountName::parse(&"é".repeat(127)).expect("valid"),
            currency: Currency::USD,
            overdraft_limit: Some(Amount::ZERO),
        },
        Change::Opened {
            account,
            name: AccountName::parse("x").expect("valid"),
            currency: Currency::USD,
            overdraft_limit: None,
        },
        Change::Posted { account, direction: Direction::Deposit, amount: Amount::MAX, entry },
        Change::Posted { account, direction: Direction::Withdrawal, amount: amount(1), entry },
        Change::Closed { account, entry: Entry { links: Links::default(), ..entry } },
        Change::Claimed,
    ];
    let currency = Currency::USD;
    let rejections = [
        Rejection::AccountExists,
        Rejection::AccountNotFound,
        Rejection::AccountClosed,
        Rejection::AccountNotEmpty { balance: amount(5), currency },
        Rejection::VersionMismatch { version: 8 },
        Rejection::InsufficientFunds { available: amount(-5), required: amount(10), currency },
        Rejection::BalanceOutOfRange,
        Rejection::AccountsExhausted,
    ];
    let refused = rejections.map(|rejection| Change::Refused { rejection, request_id: "r-1".into() });
    let key = KeyUse {
        key: IdempotencyKey { digest: KeyDigest([3; 16]), fingerprint: [4; 16] },
        expires: Timestamp::from_millis(90_000),
    };
    let mut events: Vec<Event> = changes
        .into_iter()
        .chain(refused)
        .flat_map(|change| [event(1000, change.clone()), Event { key: Some(key), ..event(1001, change) }])
        .collect();
    events.sort_by_key(|event| event.time);
    events
}

/// Every rejection.
fn rejections() -> Vec<Rejection> {
    let currency = Currency::from_code(b"JPY").expect("known");
    let by = TransactionId { time: Timestamp::from_millis(990), shard: neighbour(), sequence: sequence(4) };
    let outcomes = [HoldOutcome::Captured(amount(3)), HoldOutcome::Voided, HoldOutcome::Expired];
    let allowances = [
        Allowance::default(),
        Allowance { in_day: Some(amount(1)), in_month: Some(amount(300)), debits: Some(0) },
    ];
    let mut rejections = vec![
        Rejection::AccountExists,
        Rejection::AccountNotFound,
        Rejection::AccountClosed,
        Rejection::AccountFrozen,
        Rejection::AccountNotEmpty { balance: amount(5), currency },
        Rejection::AccountHasHolds { held: amount(5), currency },
        Rejection::VersionMismatch { version: 8 },
        Rejection::InsufficientFunds { available: amount(-5), required: amount(10), currency },
        Rejection::NothingAvailable { available: amount(0), currency },
        Rejection::BalanceOutOfRange,
        Rejection::AccountsExhausted,
        Rejection::HoldsExhausted,
        Rejection::TooManyDecimals { currency },
        Rejection::CurrencyMismatch { expected: currency, found: Currency::USD },
        Rejection::LegsUnbalanced { currency },
        Rejection::AccountRepeated,
        Rejection::MetadataFull,
        Rejection::ConditionNotMet { available: amount(12), version: 9, currency },
        Rejection::HoldNotFound,
        Rejection::HoldExceeded { held: amount(5), required: amount(6), currency },
        Rejection::AlreadyReversed { by },
        Rejection::ReversalNotPartial,
        Rejection::ReversalExceeded { transferred: amount(8), currency },
        Rejection::ReferenceUsed { by },
        Rejection::LinkNotFound,
        Rejection::LinkCycle,
        Rejection::LinkChainTooLong,
        Rejection::LinksExhausted,
    ];
    rejections.extend(outcomes.map(|outcome| Rejection::HoldEnded { outcome, currency }));
    rejections.extend(allowances.map(|allowance| Rejection::VelocityLimit {
        allowance,
        required: amount(7),
        currency,
    }));
    rejections
}

/// One event of every kind that there is: those of the first format, the sample history's, and every rejection.
fn events() -> Vec<Event> {
    let mut events = first_events();
    let refused = |rejection| Change::Refused { rejection, request_id: "r-2".into() };
    events.extend(rejections().into_iter().map(|rejection| event(1002, refused(rejection))));
    events.extend(sample(0, 1).events);
    events
}

fn sealed_from(first: Sequence, events: &[Event], before: &mut LogPosition) -> Vec<u8> {
    before.last = Sequence::new(first.get() - 1).expect("in range");
    Draft::group(first, events).expect("they fit").seal(shard(), before)
}

fn sealed(events: &[Event], before: &mut LogPosition) -> Vec<u8> {
    sealed_from(before.last.next(), events, before)
}

fn position() -> LogPosition {
    LogPosition { last: sequence(10), chain: ChainHash([1; 32]) }
}

/// The position before a record that any of [`events`] can stand in: their links lead back far enough.
fn far_position() -> LogPosition {
    LogPosition { last: sequence(100), ..position() }
}

fn read(bytes: &[u8]) -> Vec<Event> {
    let record = Record::parse(bytes).expect("intact");
    let events: Vec<Event> = record.events().map(|event| event.expect("intact").1).collect();
    assert_eq!(read_in_place(&record, &events), Ok(()));
    events
}

/// Reads events into the memory of those before: of the one before, and of one some places before. They have to be these,
/// and then perhaps an error.
fn read_in_place(record: &Record<'_>, events: &[Event]) -> Result<(), Malformed> {
    let mut expected = (record.first().get()..).map_while(Sequence::new).zip(events);
    let one_by_one = record.each_event(|sequence, event| {
        assert_eq!(Some((sequence, event)), expected.next());
        Ok(())
    });
    assert_eq!(expected.next(), None);
    let mut seen = 0;
    let in_groups = record.each_group(|first, group| {
        assert_eq!(first.get(), record.first().get() + seen as u64);
        assert_eq!(group, &events[seen..seen + group.len()]);
        seen += group.len();
        Ok(())
    });
    assert_eq!(seen, events.len());
    assert_eq!(one_by_one, in_groups);
    in_groups
}

#[test]
fn every_kind_of_event_reads_back() {
    let events = events();
    let mut after = far_position();
    let bytes = sealed(&events, &mut after);
    let record = Record::parse(&bytes).expect("valid");
    assert_eq!(record.follow(shard(), &far_position()), Ok(after));
    // The key of a settled event is that of its part; the sample's parts are another shard's.
    let expected: Vec<Event> = events.iter().cloned().map(|event| settled_in(event, shard())).collect();
    assert_eq!(read(&bytes), expected);
    for (index, event) in expected.iter().enumerate() {
        assert_eq!(record.event(sequence(101 + index as u64)).as_ref(), Ok(event));
    }
    assert!(record.event(sequence(100)).is_err());
    assert!(record.event(after.last.next()).is_err());
}

/// Nothing of an event is left in the one that is read into its memory, whatever the two are, and whoever else has it.
#[test]
fn events_read_in_place_of_others_are_themselves() {
    let kinds: Vec<Event> = events().into_iter().map(|event| settled_in(event, shard())).collect();
    for distance in [1, EVENTS_IN_GROUP] {
        for before in &kinds {
            let mut record: Vec<Event> = Vec::new();
            for after in &kinds {
                record.extend(std::iter::repeat_n(before.clone(), distance));
                record.extend(std::iter::repeat_n(after.clone(), distance));
            }
            let start = record.iter().map(|event| event.time).min().expect("some");
            record.insert(0, Event { time: start, ..before.clone() });
            for part in [&record[..], &record[..EVENTS_IN_GROUP], &record[..EVENTS_IN_GROUP + 1]] {
                assert_eq!(read(&sealed(part, &mut far_position())), part);
            }
        }
    }
    let bytes = sealed(&kinds, &mut far_position());
    let mut kept = Vec::new();
    let record = Record::parse(&bytes).expect("intact");
    let all = record.each_event(|_, event| {
        kept.push(event.clone());
        Ok(())
    });
    assert_eq!((all, kept), (Ok(()), kinds));
}

/// The event with the key that it has in a shard's log.
fn settled_in(mut event: Event, shard: ShardId) -> Event {
    if let Change::Settled { decision, .. } = &event.change {
        event.key = decision.part(shard).and_then(|part| part.key);
    }
    event
}

#[test]
fn the_frozen_record_of_the_first_format_reads_back() {
    let frozen = std::fs::read(fixture(FIXTURE_FIRST)).expect("it is in the repository");
    assert_eq!(read(&frozen), first_events());
}

/// A record with every kind of event, as the second version wrote it. Later versions must read it; this one also
/// has to write it.
#[test]
fn the_frozen_record_reads_back_and_is_what_is_written_today() {
    let frozen = std::fs::read(fixture(FIXTURE)).expect("it is in the repository");
    let expected: Vec<Event> = events().into_iter().map(|event| settled_in(event, shard())).collect();
    assert_eq!(read(&frozen), expected);
    assert_eq!(sealed(&events(), &mut far_position()), frozen);
}

#[test]
#[ignore = "writes the fixture of a new format; a frozen one is never written again"]
fn write_the_fixture() {
    std::fs::write(fixture(FIXTURE), sealed(&events(), &mut far_position())).expect("written");
}

/// What the second format added is not read in a record that says it is of the first, and what it replaced is not read
/// in one of the second: one spelling of everything.
#[test]
fn each_version_has_its_own_kinds() {
    let as_version = |event: &Event, version: u8| {
        let mut bytes = sealed(std::slice::from_ref(event), &mut far_position());
        bytes[4] = version;
        resum(&mut bytes);
        let record = Record::parse(&bytes).expect("the header is fine");
        let event = record.events().next().expect("one event");
        event.map(|(_, event)| event)
    };
    for event in events() {
        let holds_nothing = |account| {
            let entry = event.change.entry(shard(), AccountNumber::new(account));
            entry.is_none_or(|entry| entry.held.is_zero())
        };
        let old_kind = !matches!(&event.change, Change::Decided { .. } | Change::Settled { .. })
            && [0, 4].into_iter().all(holds_nothing);
        let old_rejection = match &event.change {
            Change::Refused { rejection, .. } => matches!(
                rejection,
                Rejection::AccountExists
                    | Rejection::AccountNotFound
                    | Rejection::AccountClosed
                    | Rejection::VersionMismatch { .. }
                    | Rejection::BalanceOutOfRange
                    | Rejection::AccountsExhausted
            ),
            _ => true,
        };
        assert_eq!(as_version(&event, 1).is_ok(), old_kind && old_rejection, "{event:?}");
        if old_kind && old_rejection {
            assert_eq!(as_version(&event, 1), as_version(&event, 2));
        }
    }
    let mut frozen = std::fs::read(fixture(FIXTURE_FIRST)).expect("it is in the repository");
    frozen[4] = 2;
    resum(&mut frozen);
    let errors = Record::parse(&frozen).expect("the header is fine").events().filter(Result::is_err).count();
    assert_eq!(errors, 1, "the first amount without a currency ends the reading");
    frozen[4] = 3;
    resum(&mut frozen);
    assert!(Record::parse(&frozen).expect_err("unknown").what.contains("unknown format 3"));
}

fn resum(bytes: &mut [u8]) {
    let checksum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
    bytes[..4].copy_from_slice(&checksum);
}

#[test]
fn any_flipped_bit_and_any_cut_is_seen() {
    let bytes = sealed(&events()[..20], &mut far_position());
    for at in 0..bytes.len() {
        assert!(Record::parse(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(Record::parse(&flipped).is_err(), "byte {at} bit {bit}");
        }
    }
}

/// Reads hostile bytes. Whatever reads as an event has to be written as the very bytes that it was read from.
fn read_hostile(bytes: &mut [u8], first: Sequence) {
    resum(bytes);
    let Ok(record) = Record::parse(bytes) else { return };
    let mut events = Vec::new();
    for event in record.events() {
        match event {
            Ok((_, event)) => events.push(event),
            Err(error) => {
                assert!(error.offset <= bytes.len());
                assert_eq!(read_in_place(&record, &events), Err(error));
                return;
            }
        }
    }
    // What makes a settled event's key: the bytes have only the part's.
    if record.shard() == shard() && record.first() == first && bytes[4] == FORMAT_VERSION {
        let mut before = LogPosition { chain: record.before, ..position() };
        let time = record.header.time;
        if events.first().is_some_and(|event| event.time == time) {
            assert_eq!(sealed_from(first, &events, &mut before), bytes, "one spelling: {events:?}");
        }
    }
}

#[test]
fn hostile_bytes_behind_a_valid_checksum_are_errors_and_never_panics() {
    let events = events();
    // One record an event, so that an error in one does not keep the others from being read.
    for (start, event) in (101..).zip(&events) {
        let first = sequence(start);
        let bytes = sealed_from(first, std::slice::from_ref(event), &mut far_position());
        for at in 4..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                let mut hostile = bytes.clone();
                hostile[at] = value;
                read_hostile(&mut hostile, first);
            }
        }
    }
}

#[test]
fn counts_that_lie_end_with_the_record() {
    for event in events() {
        let bytes = sealed(std::slice::from_ref(&event), &mut far_position());
        for at in HEADER_BYTES + 2..bytes.len() {
            // A varint of 2^63 in the place of any byte, the lengths before it put right.
            let mut hostile = bytes.clone();
            hostile.splice(at..=at, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
            let events_bytes = hostile.len() - HEADER_BYTES;
            hostile[28..32].copy_from_slice(&(events_bytes as u32).to_le_bytes());
            if bytes[HEADER_BYTES] < 0x80 - 9 {
                hostile[HEADER_BYTES] += 9;
            }
            read_hostile(&mut hostile, sequence(101));
        }
    }
}

#[test]
fn random_events_of_all_kinds_read_back_and_bend_without_breaking() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let first = sequence(1 + random.below(1 << 40));
        let base = random.time();
        let count = 1 + random.below(4);
        let mut time = base;
        let events: Vec<Event> = (0..count)
            .map(|place| {
                let event = random.event(time, first.plus(place));
                time = Timestamp::from_millis(time.millis() + random.below(1000));
                event
            })
            .collect();
        let mut after = LogPosition { last: sequence(first.get() - 1), chain: ChainHash([1; 32]) };
        let bytes = Draft::group(first, &events).expect("they fit").seal(shard(), &mut after);
        assert_eq!(read(&bytes), events, "seed {seed}");
        for _ in 0..20 {
            let mut hostile = bytes.clone();
            for _ in 0..=random.below(2) {
                let at = 4 + random.below(bytes.len() as u64 - 4) as usize;
                hostile[at] = random.number() as u8;
            }
            let cut = random.below(8) == 0;
            if cut {
                let end = HEADER_BYTES as u64 + random.below((bytes.len() - HEADER_BYTES) as u64);
                hostile.truncate(end as usize);
                hostile[28..32].copy_from_slice(&((end as usize - HEADER_BYTES) as u32).to_le_bytes());
            }
            read_hostile(&mut hostile, first);
        }
    }
}

#[test]
fn all_copies_of_a_decision_have_one_digest() {
    let events = sample(0, 1).events;
    let mut digests = std::collections::HashSet::new();
    for (index, event) in events.iter().enumerate() {
        let time = event.time;
        let (by, decision) = match &event.change {
            Change::Decided { decision, .. } => {
                (TransactionId { time, shard: shard(), sequence: sequence(index as u64 + 1) }, decision)
            }
            Change::Settled { by, decision, .. } => (*by, decision),
            _ => continue,
        };
        let settled = Event {
            time: Timestamp::from_millis(time.millis() + 77),
            key: decision.part(neighbour()).and_then(|part| part.key),
            change: Change::Settled { by, decision: decision.clone(), links: PartLinks::new() },
        };
        let mut before = LogPosition { last: sequence(7_000), chain: ChainHash([1; 32]) };
        let bytes = Draft::new(sequence(7_001), &settled).seal(neighbour(), &mut before);
        let copy = Record::parse(&bytes).expect("valid").event(sequence(7_001)).expect("valid");
        let copy = copy.change.decision().expect("it has one");
        assert_eq!(decision_digest(by, copy), decision_digest(by, decision));
        assert!(digests.insert(decision_digest(by, decision)));
        let other = TransactionId { sequence: by.sequence.next(), ..by };
        assert!(digests.insert(decision_digest(other, decision)));
    }
    assert!(digests.len() > 60);
}

/// The common events are small. These are figures for the design, and a change of them should be one on purpose.
#[test]
fn common_events_take_few_bytes() {
    let now = 1_763_800_000_000;
    let time = Timestamp::from_millis(now + 3);
    let opened = Timestamp::from_millis(now - 200 * 24 * 3600 * 1000);
    let at = sequence(50_000_000);
    let links =
        |back: u64| Links { previous: sequence(at.get() - back), skip: sequence(at.get() - 40 * back) };
    let effect = |number, units, balance| Effect {
        account: AccountNumber::new(number),
        opened,
        currency: Currency::USD,
        change: AccountChange::Posted { amount: amount(units) },
        after: After { version: 300, balance: amount(balance), held: Amount::ZERO },
        allowance: None,
    };
    let part = |shard, effects: Vec<Effect>| Part::new(shard, effects.into());
    let decided = |parts, links| {
        let decision = Arc::new(Decision { kind: Kind::Transfer, note: Note::default(), parts });
        Event { time, key: None, change: Change::Decided { decision, links } }
    };
    let bytes = |event: &Event| {
        let mut out = Vec::new();
        encode_framed(&mut out, event, Timestamp::from_millis(now), at);
        out.len()
    };
    let (from, to) = (effect(700_000, -12_345, 1_000_000), effect(1_200_000, 12_345, 2_000_000));
    let (here, there) = (shard(), neighbour());
    let inside = decided(
        vec![part(here, vec![from.clone(), to.clone()])],
        PartLinks::from_slice(&[links(9_000), links(7_000)]),
    );
    assert_eq!(bytes(&inside), 59, "a transfer in one shard");
    let far = Part { previous: sequence(at.get() - 90), ..part(there, vec![to]) };
    let parts = vec![part(here, vec![from]), far];
    let across = decided(parts.clone(), PartLinks::from_slice(&[links(9_000)]));
    assert_eq!(bytes(&across), 58, "a transfer between shards, where it is decided");
    let decision = Arc::new(Decision { kind: Kind::Transfer, note: Note::default(), parts });
    let by = TransactionId { time, shard: here, sequence: at };
    let settled = Change::Settled { by, decision, links: PartLinks::from_slice(&[links(7_000)]) };
    let settled = Event { time: Timestamp::from_millis(now + 4), key: None, change: settled };
    assert_eq!(bytes(&settled), 64, "and where it is settled");
    let mut keyed = inside;
    let expires = Timestamp::from_millis(now + 3 + 24 * 3600 * 1000);
    let key = IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [2; 16] };
    keyed.key = Some(KeyUse { key, expires });
    assert_eq!(bytes(&keyed), 95, "with an idempotency key");
    let entry = Entry { version: 300, balance: amount(1_000_000), held: Amount::ZERO, links: links(9_000) };
    let account = AccountNumber::new(700_000);
    let deposit = |entry| Event {
        time,
        key: None,
        change: Change::Posted { account, direction: Direction::Deposit, amount: amount(12_345), entry },
    };
    assert_eq!(bytes(&deposit(entry)), 19, "a deposit, as in the first format");
    assert_eq!(bytes(&deposit(Entry { held: amount(5_000), ..entry })), 21, "with something held");
}

#[test]
fn a_record_out_of_place_does_not_follow() {
    let mut after = position();
    let bytes = sealed(&first_events()[..1], &mut after);
    let record = Record::parse(&bytes).expect("valid");
    assert!(record.follow(ShardId::new(4).expect("in range"), &position()).is_err());
    assert!(record.follow(shard(), &after).is_err());
    assert!(record.follow(shard(), &LogPosition { chain: ChainHash([2; 32]), ..position() }).is_err());
}

#[test]
fn a_record_that_was_verified_elsewhere_is_the_same_record() {
    let mut after = position();
    let bytes = sealed(&first_events(), &mut after);
    let owned = OwnedRecord::parse(bytes.clone()).expect("valid");
    assert_eq!(owned.record().bytes(), bytes);
    assert_eq!(owned.record().follow(shard(), &position()), Ok(after));
    assert_eq!(Record::parse(&bytes).expect("valid").follow(shard(), &position()), Ok(after));
    let read: Result<Vec<_>, _> = owned.record().events().collect();
    let expected: Result<Vec<_>, _> = Record::parse(&bytes).expect("valid").events().collect();
    assert_eq!(read, expected);
    for byte in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[byte] ^= 1;
        assert!(OwnedRecord::parse(damaged).is_err(), "byte {byte}");
    }
}

#[test]
fn a_full_draft_refuses_and_is_as_it_was() {
    let event = &first_events()[0];
    let mut draft = Draft::new(Sequence::FIRST, event);
    let mut count = 1;
    while draft.push(event) {
        count += 1;
    }
    assert_eq!(draft.last(), sequence(count));
    let mut position = LogPosition { last: Sequence::NONE, chain: ChainHash([0; 32]) };
    let bytes = draft.seal(ShardId::new(0).expect("in range"), &mut position);
    assert!(bytes.len() <= RECORD_BYTES_TYPICAL_MAX);
    assert!(read(&bytes).iter().all(|read| read == event));
}

#[test]
fn events_that_belong_together_are_added_all_or_none() {
    let event = first_events()[0].clone();
    let together = vec![event.clone(); 50];
    let mut draft = Draft::new(Sequence::FIRST, &event);
    let mut count = 1;
    while draft.push_all(&together) {
        count += 50;
    }
    assert_eq!(draft.last(), sequence(count));
    assert!(draft.push(&event), "one still fits");
    let mut position = LogPosition { last: Sequence::NONE, chain: ChainHash([0; 32]) };
    let bytes = draft.seal(shard(), &mut position);
    assert_eq!(read(&bytes).len() as u64, count + 1);

    // A group may take more, up to a bound of its own; nothing is added to a large one.
    let large = vec![event.clone(); 1000];
    let mut group = Draft::group(position.last.next(), &large).expect("it fits");
    assert_eq!(group.last(), position.last.plus(1000));
    assert!(!group.push(&event));
    let bytes = group.seal(shard(), &mut position);
    assert!(bytes.len() > RECORD_BYTES_TYPICAL_MAX && bytes.len() <= RECORD_BYTES_MAX);
    assert_eq!(read(&bytes), large);
    assert!(Draft::group(Sequence::FIRST, &vec![event; 5000]).is_none());
}

/// Random values of all kinds.
impl Random {
    /// A number below a bound, small ones as likely as large ones.
    fn any_size(&mut self, bound: u64) -> u64 {
        let bits = self.below(65) as u32;
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        (self.number() & mask) % bound
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| value(self))
    }

    fn many<T>(&mut self, bound: u64, value: impl Fn(&mut Random) -> T) -> Vec<T> {
        (0..self.below(bound)).map(|_| value(self)).collect()
    }

    fn amount(&mut self) -> Amount {
        match self.below(8) {
            0 => Amount::MAX,
            1 => Amount::MAX.negated(),
            2 => Amount::ZERO,
            _ => amount(i128::from(self.any_size(u64::MAX) as i64)),
        }
    }

    fn currency(&mut self) -> Currency {
        let known = Currency::ALL;
        if self.below(2) == 0 { Currency::USD } else { known[self.below(known.len() as u64) as usize] }
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::from_millis(self.any_size(Timestamp::MAX.millis() - 10_000))
    }

    fn shard(&mut self) -> ShardId {
        ShardId::new(self.any_size(SHARDS_MAX as u64) as usize).expect("in range")
    }

    fn sequence(&mut self) -> Sequence {
        sequence(1 + self.any_size(Sequence::MAX.get()))
    }

    fn before(&mut self, at: Sequence) -> Sequence {
        sequence(self.any_size(at.get()))
    }

    fn account(&mut self) -> AccountNumber {
        AccountNumber::new(self.any_size(1 << 32) as u32)
    }

    fn account_id(&mut self) -> AccountId {
        AccountId { opened: self.time(), shard: self.shard(), number: self.account() }
    }

    fn transaction(&mut self) -> TransactionId {
        TransactionId { time: self.time(), shard: self.shard(), sequence: self.sequence() }
    }

    fn version(&mut self) -> u32 {
        self.any_size(HOLD_VERSION_MAX + 1) as u32
    }

    fn hold(&mut self) -> HoldId {
        HoldId { time: self.time(), shard: self.shard(), account: self.account(), version: self.version() }
    }

    fn text(&mut self, bytes_max: u64) -> String {
        let length = self.any_size(bytes_max / 2 + 1);
        (0..length).map(|_| ['a', 'é', ' ', '7'][self.below(4) as usize]).collect()
    }

    fn reference(&mut self) -> Reference {
        Reference::parse(&format!("r{}", self.text(250))).expect("valid")
    }

    fn metadata(&mut self) -> Metadata {
        let entries = (0..self.below(17)).map(|number| {
            let key = format!("{}{number}", self.text(60));
            (key.into(), self.text(256).into())
        });
        Metadata::new(entries.collect()).expect("valid")
    }

    fn velocity(&mut self) -> VelocityLimits {
        VelocityLimits {
            per_day: self.maybe(Random::amount),
            per_month: self.maybe(Random::amount),
            debits: self.maybe(|random| DebitLimit {
                count: random.number() as u32,
                window_seconds: 1 + random.below(u64::from(WINDOW_SECONDS_MAX)) as u32,
            }),
        }
    }

    fn key(&mut self, from: Timestamp) -> KeyUse {
        let mut bytes = || self.number().to_le_bytes();
        let digest = KeyDigest([bytes(), bytes()].concat().try_into().expect("16 bytes"));
        let fingerprint = [bytes(), bytes()].concat().try_into().expect("16 bytes");
        let left = Timestamp::MAX.millis() - from.millis();
        let expires = Timestamp::from_millis(from.millis() + self.any_size(left + 1));
        KeyUse { key: IdempotencyKey { digest, fingerprint }, expires }
    }

    fn links(&mut self, at: Sequence) -> Links {
        Links { previous: self.before(at), skip: self.before(at) }
    }

    fn event(&mut self, time: Timestamp, at: Sequence) -> Event {
        let account = self.account();
        let entry = Entry {
            version: self.any_size(u64::MAX),
            balance: self.amount(),
            held: if self.below(2) == 0 { Amount::ZERO } else { self.amount() },
            links: self.links(at),
        };
        let mut key = self.maybe(|random| random.key(time));
        let change = match self.below(12) {
            0 => Change::Opened {
                account,
                name: AccountName::parse(&format!("n{}", self.text(250))).expect("valid"),
                currency: self.currency(),
                overdraft_limit: self.maybe(Random::amount),
            },
            1 => Change::Posted { account, direction: Direction::Deposit, amount: self.amount(), entry },
            2 => Change::Posted { account, direction: Direction::Withdrawal, amount: self.amount(), entry },
            3 => Change::Closed { account, entry },
            4 => Change::Refused { rejection: self.rejection(), request_id: self.text(100).into() },
            5 => Change::Claimed,
            6..9 => {
                let decision = Arc::new(self.decision(at));
                let links = self.many(5, |random| random.links(at)).into();
                Change::Decided { decision, links }
            }
            _ => {
                let by = self.transaction();
                let decision = Arc::new(self.decision(by.sequence));
                key = decision.part(shard()).and_then(|part| part.key);
                let links = self.many(5, |random| random.links(at)).into();
                Change::Settled { by, decision, links }
            }
        };
        Event { time, key, change }
    }

    fn decision(&mut self, at: Sequence) -> Decision {
        let note = Note {
            reference: self.maybe(Random::reference),
            metadata: self.maybe(Random::metadata).unwrap_or_default(),
        };
        let kind = self.kind();
        let parts = self.many(4, |random| Part {
            shard: if random.below(3) == 0 { shard() } else { random.shard() },
            previous: random.before(at),
            effects: random.many(4, Random::effect).into(),
            reverses: random.maybe(Random::sequence),
            key: random.maybe(|random| {
                let from = random.time();
                random.key(from)
            }),
        });
        Decision { kind, note, parts }
    }

    fn kind(&mut self) -> Kind {
        match self.below(16) {
            0 => Kind::Opening,
            1 => Kind::Deposit,
            2 => Kind::Withdrawal,
            3 => Kind::Transfer,
            4 => Kind::Protection,
            5 => Kind::Reversal { of: self.transaction() },
            6 => Kind::Hold,
            7 => Kind::Capture { hold: self.hold() },
            8 => Kind::Void { hold: self.hold() },
            9 => Kind::Expiry { hold: self.hold() },
            10 => Kind::Amendment,
            11 => Kind::Closing,
            12 => Kind::Linking,
            13 => Kind::Unlinking,
            14 => Kind::Refusal { rejected: self.rejected(), request_id: self.text(100).into() },
            _ => {
                let results = self.many(20, |random| match random.below(7) {
                    0 => ItemOutcome::Done { back: random.number() as u32 },
                    1 => ItemOutcome::Refused(random.rejected()),
                    2 => ItemOutcome::Settled(Outcome { shard: random.shard(), sequence: random.sequence() }),
                    3 => ItemOutcome::KeyReused,
                    4 => ItemOutcome::KeyInFlight,
                    5 => ItemOutcome::KeysExhausted,
                    _ => ItemOutcome::NotAttempted,
                });
                Kind::Batch { results, request_id: self.text(100).into() }
            }
        }
    }

    fn effect(&mut self) -> Effect {
        let account = self.account();
        let held = if self.below(2) == 0 { Amount::ZERO } else { self.amount() };
        let hold = HoldKey { account, version: self.version() };
        let change = match self.below(9) {
            0 => AccountChange::Opened(Box::new(Opened {
                name: AccountName::parse(&format!("n{}", self.text(250))).expect("valid"),
                overdraft_limit: self.maybe(Random::amount),
                reference: self.maybe(Random::reference),
                metadata: self.maybe(Random::metadata).unwrap_or_default(),
                unique_reference: self.below(2) == 0,
                velocity: self.velocity(),
            })),
            1 => AccountChange::Posted { amount: self.amount() },
            2 => AccountChange::Held {
                amount: self.amount(),
                to: self.maybe(Random::account_id),
                expires: self.time(),
            },
            3 => AccountChange::Released {
                hold,
                outcome: match self.below(3) {
                    0 => HoldOutcome::Captured(self.amount()),
                    1 => HoldOutcome::Voided,
                    _ => HoldOutcome::Expired,
                },
            },
            4 => AccountChange::Amended(Box::new(Amended {
                overdraft_limit: self.maybe(|random| random.maybe(Random::amount)),
                frozen: self.maybe(|random| random.below(2) == 0),
                metadata: self.maybe(Random::metadata),
                velocity: self.maybe(Random::velocity),
            })),
            5 => AccountChange::Linked(Link {
                to: self.account_id(),
                kind: if self.below(2) == 0 { LinkKind::Related } else { LinkKind::OverdraftProtection },
            }),
            6 => AccountChange::Unlinked { to: self.account_id() },
            7 => AccountChange::Protects { account: self.account_id(), on: self.below(2) == 0 },
            _ => AccountChange::Closed,
        };
        let after = After { version: self.any_size(u64::MAX), balance: self.amount(), held };
        let allowance = self.maybe(|random| Box::new(random.allowance()));
        Effect { account, opened: self.time(), currency: self.currency(), change, after, allowance }
    }

    fn allowance(&mut self) -> Allowance {
        Allowance {
            in_day: self.maybe(Random::amount),
            in_month: self.maybe(Random::amount),
            debits: self.maybe(|random| random.any_size(1 << 32) as u32),
        }
    }

    fn rejected(&mut self) -> Rejected {
        Rejected { rejection: self.rejection(), at: self.maybe(|random| random.any_size(1 << 16) as u16) }
    }

    fn rejection(&mut self) -> Rejection {
        let mut all = rejections();
        let currency = self.currency();
        match self.below(4) {
            0 => Rejection::AlreadyReversed { by: self.transaction() },
            1 => Rejection::InsufficientFunds { available: self.amount(), required: self.amount(), currency },
            _ => all.swap_remove(self.below(all.len() as u64) as usize),
        }
    }
}
