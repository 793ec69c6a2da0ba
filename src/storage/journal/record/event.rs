//! The bytes of an event; drawn in [`super`].

use std::sync::Arc;

use super::decision::{no_decision, put_decision, put_rejection, read_decision, read_rejection};
use super::{FORMAT_FIRST, Header};
use crate::ledger::{
    Amount, Change, Decision, Direction, Entry, Event, KeyUse, Links, PartLinks, Sequence, Timestamp,
    TransactionId,
};
use crate::storage::codec::{Malformed, Reader, put_bytes, put_varint};
use crate::storage::fields::{
    put_account, put_amount, put_currency, put_key, put_optional_amount, put_transaction_id, read_account,
    read_amount, read_currency, read_key, read_name, read_optional_amount, read_transaction_id,
};

const OPENED: u8 = 1;
const DEPOSIT: u8 = 2;
const WITHDRAWAL: u8 = 3;
const CLOSED: u8 = 4;
const REFUSED: u8 = 5;
const CLAIMED: u8 = 6;
const DEPOSIT_HELD: u8 = 7;
const WITHDRAWAL_HELD: u8 = 8;
const CLOSED_HELD: u8 = 9;
const DECIDED: u8 = 10;
const SETTLED: u8 = 11;

/// The last kind that the first format has.
const FIRST_FORMAT_KIND_MAX: u8 = CLAIMED;

const WITH_KEY: u8 = 0x80;

/// Appends an event behind its length. One byte holds the length of almost every event, so one is left free
/// for it and the rare longer ones are moved.
pub(super) fn encode_framed(out: &mut Vec<u8>, event: &Event, base: Timestamp, sequence: Sequence) {
    let start = out.len();
    out.push(0);
    encode(out, event, base, sequence);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(3);
        put_varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
}

/// What an event is read into.
pub(super) const NO_EVENT: Event =
    Event { time: Timestamp::from_millis(0), key: None, change: Change::Claimed };

/// Reads an event into the place of another one, which may be of any kind, as what is left there after an error.
pub(super) fn decode_framed(
    reader: &mut Reader<'_>,
    header: &Header,
    sequence: Sequence,
    event: &mut Event,
) -> Result<(), Malformed> {
    let mut ahead = reader.clone();
    let length = ahead.bytes()?.len();
    let end = ahead.offset();
    reader.take(end - length - reader.offset())?;
    decode(reader, header, sequence, event)?;
    if reader.offset() != end {
        return Err(reader.malformed("an event is not as long as it says"));
    }
    Ok(())
}

fn encode(out: &mut Vec<u8>, event: &Event, base: Timestamp, sequence: Sequence) {
    let (kind, has_key) = match &event.change {
        Change::Settled { decision, .. } => {
            let key = event.key;
            assert!(
                key.is_none() || decision.parts.iter().any(|part| part.key == key),
                "the key of a settled event is that of its part"
            );
            (SETTLED, false)
        }
        change => (kind_of(change), event.key.is_some()),
    };
    out.push(if has_key { kind | WITH_KEY } else { kind });
    put_later(out, event.time, base);
    if let Some(KeyUse { key, expires }) = event.key.filter(|_| has_key) {
        put_key(out, &key);
        put_later(out, expires, event.time);
    }
    match &event.change {
        Change::Opened { account, name, currency, overdraft_limit } => {
            put_account(out, *account);
            put_bytes(out, name.as_bytes());
            put_currency(out, *currency);
            put_optional_amount(out, *overdraft_limit);
        }
        Change::Posted { account, amount, entry, .. } => {
            put_account(out, *account);
            put_amount(out, *amount);
            put_entry(out, entry, sequence);
        }
        Change::Closed { account, entry } => {
            put_account(out, *account);
            put_entry(out, entry, sequence);
        }
        Change::Refused { rejection, request_id } => {
            put_rejection(out, rejection, event.time);
            put_bytes(out, request_id.as_bytes());
        }
        Change::Claimed => {}
        Change::Decided { decision, links } => {
            put_decision(out, decision, event.time, sequence);
            put_part_links(out, links, sequence);
        }
        Change::Settled { by, decision, links } => {
            put_transaction_id(out, *by, event.time);
            put_decision(out, decision, by.time, by.sequence);
            put_part_links(out, links, sequence);
        }
    }
}

fn kind_of(change: &Change) -> u8 {
    let held = |entry: &Entry| !entry.held.is_zero();
    match change {
        Change::Opened { .. } => OPENED,
        Change::Posted { direction: Direction::Deposit, entry, .. } if held(entry) => DEPOSIT_HELD,
        Change::Posted { direction: Direction::Deposit, .. } => DEPOSIT,
        Change::Posted { direction: Direction::Withdrawal, entry, .. } if held(entry) => WITHDRAWAL_HELD,
        Change::Posted { direction: Direction::Withdrawal, .. } => WITHDRAWAL,
        Change::Closed { entry, .. } if held(entry) => CLOSED_HELD,
        Change::Closed { .. } => CLOSED,
        Change::Refused { .. } => REFUSED,
        Change::Claimed => CLAIMED,
        Change::Decided { .. } => DECIDED,
        Change::Settled { .. } => SETTLED,
    }
}

fn decode(
    reader: &mut Reader<'_>,
    header: &Header,
    sequence: Sequence,
    event: &mut Event,
) -> Result<(), Malformed> {
    let at = reader.clone();
    let byte = reader.byte()?;
    let kind = byte & !WITH_KEY;
    if (header.version == FORMAT_FIRST && kind > FIRST_FORMAT_KIND_MAX) || byte == SETTLED | WITH_KEY {
        return Err(at.malformed(format!("an event has the unknown kind {byte}")));
    }
    let time = read_later(reader, header.time)?;
    let mut key = None;
    if byte & WITH_KEY != 0 {
        key = Some(KeyUse { key: read_key(reader)?, expires: read_later(reader, time)? });
    }
    if kind == DECIDED {
        // Most events are one, so what the one before had from the heap is used again.
        let (decision, links) = decided_in(&mut event.change);
        read_decision(reader, time, sequence, decision)?;
        read_part_links(reader, sequence, links)?;
        (event.time, event.key) = (time, key);
        return Ok(());
    }
    event.change = match kind {
        OPENED => Change::Opened {
            account: read_account(reader)?,
            name: read_name(reader)?,
            currency: read_currency(reader)?,
            overdraft_limit: read_optional_amount(reader)?,
        },
        DEPOSIT | DEPOSIT_HELD => Change::Posted {
            account: read_account(reader)?,
            direction: Direction::Deposit,
            amount: read_amount(reader)?,
            entry: read_entry(reader, sequence, kind == DEPOSIT_HELD)?,
        },
        WITHDRAWAL | WITHDRAWAL_HELD => Change::Posted {
            account: read_account(reader)?,
            direction: Direction::Withdrawal,
            amount: read_amount(reader)?,
            entry: read_entry(reader, sequence, kind == WITHDRAWAL_HELD)?,
        },
        CLOSED | CLOSED_HELD => Change::Closed {
            account: read_account(reader)?,
            entry: read_entry(reader, sequence, kind == CLOSED_HELD)?,
        },
        REFUSED => Change::Refused {
            rejection: read_rejection(reader, time, header.version)?,
            request_id: reader.text()?.into(),
        },
        CLAIMED => Change::Claimed,
        SETTLED => {
            let by = read_transaction_id(reader, time)?;
            let (mut decision, mut links) = (no_decision(), PartLinks::new());
            read_decision(reader, by.time, by.sequence, &mut decision)?;
            key = decision.part(header.shard).and_then(|part| part.key);
            read_part_links(reader, sequence, &mut links)?;
            Change::Settled { by, decision: Arc::new(decision), links }
        }
        kind => return Err(at.malformed(format!("an event has the unknown kind {kind}"))),
    };
    (event.time, event.key) = (time, key);
    Ok(())
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, sequence: Sequence) {
    put_varint(out, entry.version);
    put_amount(out, entry.balance);
    if !entry.held.is_zero() {
        put_amount(out, entry.held);
    }
    put_links(out, &entry.links, sequence);
}

#[inline(always)]
fn read_entry(reader: &mut Reader<'_>, sequence: Sequence, with_held: bool) -> Result<Entry, Malformed> {
    let version = reader.varint()?;
    let balance = read_amount(reader)?;
    let held = if with_held { read_held(reader)? } else { Amount::ZERO };
    Ok(Entry { version, balance, held, links: read_links(reader, sequence)? })
}

/// Reads what is held where the kind has said that something is.
pub(super) fn read_held(reader: &mut Reader<'_>) -> Result<Amount, Malformed> {
    let at = reader.clone();
    let held = read_amount(reader)?;
    if held.is_zero() { Err(at.malformed("what is held is there but zero")) } else { Ok(held) }
}

fn put_links(out: &mut Vec<u8>, links: &Links, sequence: Sequence) {
    put_distance(out, links.previous, sequence);
    put_distance(out, links.skip, sequence);
}

#[inline(always)]
fn read_links(reader: &mut Reader<'_>, sequence: Sequence) -> Result<Links, Malformed> {
    Ok(Links { previous: read_distance(reader, sequence)?, skip: read_distance(reader, sequence)? })
}

fn put_part_links(out: &mut Vec<u8>, links: &PartLinks, sequence: Sequence) {
    put_varint(out, links.len() as u64);
    for links in links {
        put_links(out, links, sequence);
    }
}

/// Reads links into the place of others.
fn read_part_links(
    reader: &mut Reader<'_>,
    sequence: Sequence,
    links: &mut PartLinks,
) -> Result<(), Malformed> {
    links.clear();
    for _ in 0..reader.varint()? {
        // Each takes two bytes at least, so a count that lies ends with the record.
        links.push(read_links(reader, sequence)?);
    }
    Ok(())
}

/// The decision in a change and its links, to be read anew. A change of another kind, or of which somebody has a copy of
/// the decision, is replaced.
fn decided_in(change: &mut Change) -> (&mut Decision, &mut PartLinks) {
    let is_ours = match change {
        Change::Decided { decision, .. } => Arc::get_mut(decision).is_some(),
        _ => false,
    };
    if !is_ours {
        *change = Change::Decided { decision: Arc::new(no_decision()), links: PartLinks::new() };
    }
    match change {
        Change::Decided { decision, links } => (Arc::get_mut(decision).expect("nobody else has it"), links),
        _ => unreachable!("it is a decision now"),
    }
}

/// Appends how far back from `sequence` an earlier event is; 0 for none.
pub(super) fn put_distance(out: &mut Vec<u8>, to: Sequence, sequence: Sequence) {
    assert!(to < sequence, "links lead back");
    put_varint(out, if to == Sequence::NONE { 0 } else { sequence.get() - to.get() });
}

#[inline(always)]
pub(super) fn read_distance(reader: &mut Reader<'_>, sequence: Sequence) -> Result<Sequence, Malformed> {
    let at = reader.clone();
    match reader.varint()? {
        0 => Ok(Sequence::NONE),
        distance => sequence
            .get()
            .checked_sub(distance)
            .filter(|&number| number > 0)
            .and_then(Sequence::new)
            .ok_or_else(|| at.malformed("a link points before the first event")),
    }
}

/// Appends a time that is not before `base`.
fn put_later(out: &mut Vec<u8>, time: Timestamp, base: Timestamp) {
    assert!(time >= base, "time does not run backwards, and a key is kept for some");
    put_varint(out, time.millis() - base.millis());
}

#[inline(always)]
fn read_later(reader: &mut Reader<'_>, base: Timestamp) -> Result<Timestamp, Malformed> {
    let at = reader.clone();
    let millis = base.millis().checked_add(reader.varint()?);
    millis
        .filter(|&millis| millis <= Timestamp::MAX.millis())
        .map(Timestamp::from_millis)
        .ok_or_else(|| at.malformed("a time is out of range"))
}

/// A decision's bytes are the same in the log of the shard that made it and in those of the others: nothing in them
/// depends on the place of the copy.
pub(super) fn decision_digest(by: TransactionId, decision: &Decision) -> u128 {
    let mut bytes = Vec::with_capacity(128);
    put_transaction_id(&mut bytes, by, Timestamp::default());
    put_decision(&mut bytes, decision, by.time, by.sequence);
    let hash = blake3::hash(&bytes);
    let (half, _) = hash.as_bytes().split_first_chunk::<16>().expect("it has 32 bytes");
    u128::from_le_bytes(*half)
}
