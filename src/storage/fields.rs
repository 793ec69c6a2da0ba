//! How the ledger's values are spelled on disk, in records and snapshots alike.
//!
//! ```text
//! amount        signed varint, minor units
//! currency      3 bytes, the code
//! account, shard, sequence, count   varint
//! time          signed varint: milliseconds after a time that the reader knows, which it may also be before
//! account id    time of opening, shard, account
//! transaction   time, shard, sequence (from 1)
//! hold id       time, shard, account, varint version (30 bits)
//! hold outcome  1 byte: 1 captured + amount, 2 voided, 3 expired
//! reference     text, 1 to 255 bytes
//! metadata      varint number of entries (at most 16), each a key and a value, in order of their keys
//! key           16 bytes digest, 16 bytes fingerprint
//! velocity      1 byte flags: 1 a day, 2 a month, 4 debits; amount a day, amount a month, varint debits + varint
//!               seconds of a window (1 to 2,678,400), those that there are
//! ```
//!
//! Every value has one spelling, and a reader refuses what cannot be such a value. What it allocates is in
//! proportion to the bytes it is given.
//!
//! What reads the numbers of nearly every event is made part of its caller, always: else each passes through memory as a
//! `Result`, written in pieces and read as one, for which the processor has to wait. With events and effects that are
//! read where they are to stay, a replay's decoding and applying take 200 ns an event instead of 255.

use super::codec::{Malformed, Reader, put_bytes, put_signed, put_varint};
use crate::ledger::{
    AccountId, AccountName, AccountNumber, Amount, Currency, DebitLimit, HOLD_VERSION_MAX, HoldId,
    HoldOutcome, IdempotencyKey, KeyDigest, METADATA_ENTRIES_MAX, Metadata, Reference, Sequence, ShardId,
    Timestamp, TransactionId, VelocityLimits, WINDOW_SECONDS_MAX,
};

pub(super) fn put_amount(out: &mut Vec<u8>, amount: Amount) {
    put_signed(out, amount.minor_units());
}

#[inline(always)]
pub(super) fn read_amount(reader: &mut Reader<'_>) -> Result<Amount, Malformed> {
    let at = reader.clone();
    Amount::from_minor_units(reader.signed()?).ok_or_else(|| at.malformed("an amount is out of range"))
}

/// Appends an amount that may be missing, behind a byte that says so.
pub(super) fn put_optional_amount(out: &mut Vec<u8>, amount: Option<Amount>) {
    match amount {
        None => out.push(0),
        Some(amount) => {
            out.push(1);
            put_amount(out, amount);
        }
    }
}

pub(super) fn read_optional_amount(reader: &mut Reader<'_>) -> Result<Option<Amount>, Malformed> {
    let at = reader.clone();
    match reader.byte()? {
        0 => Ok(None),
        1 => read_amount(reader).map(Some),
        _ => Err(at.malformed("an optional amount is neither there nor missing")),
    }
}

pub(super) fn put_currency(out: &mut Vec<u8>, currency: Currency) {
    out.extend_from_slice(&currency.code_bytes());
}

pub(super) fn read_currency(reader: &mut Reader<'_>) -> Result<Currency, Malformed> {
    let at = reader.clone();
    Currency::from_code(reader.take(3)?).ok_or_else(|| at.malformed("a currency is unknown"))
}

pub(super) fn read_name(reader: &mut Reader<'_>) -> Result<AccountName, Malformed> {
    let at = reader.clone();
    AccountName::parse(reader.text()?).map_err(|error| at.malformed(format!("an account's name {error}")))
}

pub(super) fn put_account(out: &mut Vec<u8>, account: AccountNumber) {
    put_varint(out, u64::from(account.get()));
}

#[inline(always)]
pub(super) fn read_account(reader: &mut Reader<'_>) -> Result<AccountNumber, Malformed> {
    read_u32(reader, "an account's number is out of range").map(AccountNumber::new)
}

/// Reads a number of at most 32 bits.
#[inline(always)]
pub(super) fn read_u32(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, Malformed> {
    let at = reader.clone();
    u32::try_from(reader.varint()?).map_err(|_| at.malformed(what))
}

pub(super) fn put_shard(out: &mut Vec<u8>, shard: ShardId) {
    put_varint(out, shard.index() as u64);
}

#[inline(always)]
pub(super) fn read_shard(reader: &mut Reader<'_>) -> Result<ShardId, Malformed> {
    let at = reader.clone();
    let shard = usize::try_from(reader.varint()?).ok().and_then(ShardId::new);
    shard.ok_or_else(|| at.malformed("a shard is out of range"))
}

pub(super) fn put_sequence(out: &mut Vec<u8>, sequence: Sequence) {
    put_varint(out, sequence.get());
}

pub(super) fn read_sequence(reader: &mut Reader<'_>) -> Result<Sequence, Malformed> {
    let at = reader.clone();
    Sequence::new(reader.varint()?).ok_or_else(|| at.malformed("a sequence is out of range"))
}

/// Reads the sequence of an event, which is not [`Sequence::NONE`].
pub(super) fn read_event_sequence(reader: &mut Reader<'_>) -> Result<Sequence, Malformed> {
    let at = reader.clone();
    match read_sequence(reader)? {
        Sequence::NONE => Err(at.malformed("a sequence is zero")),
        sequence => Ok(sequence),
    }
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Timestamp, base: Timestamp) {
    put_signed(out, i128::from(time.millis()) - i128::from(base.millis()));
}

#[inline(always)]
pub(super) fn read_time(reader: &mut Reader<'_>, base: Timestamp) -> Result<Timestamp, Malformed> {
    let at = reader.clone();
    let millis = i128::from(base.millis()).checked_add(reader.signed()?);
    millis
        .and_then(|millis| u64::try_from(millis).ok())
        .filter(|&millis| millis <= Timestamp::MAX.millis())
        .map(Timestamp::from_millis)
        .ok_or_else(|| at.malformed("a time is out of range"))
}

pub(super) fn put_account_id(out: &mut Vec<u8>, id: AccountId, base: Timestamp) {
    put_time(out, id.opened, base);
    put_shard(out, id.shard);
    put_account(out, id.number);
}

pub(super) fn read_account_id(reader: &mut Reader<'_>, base: Timestamp) -> Result<AccountId, Malformed> {
    let opened = read_time(reader, base)?;
    Ok(AccountId { opened, shard: read_shard(reader)?, number: read_account(reader)? })
}

pub(super) fn put_transaction_id(out: &mut Vec<u8>, id: TransactionId, base: Timestamp) {
    put_time(out, id.time, base);
    put_shard(out, id.shard);
    put_sequence(out, id.sequence);
}

pub(super) fn read_transaction_id(
    reader: &mut Reader<'_>,
    base: Timestamp,
) -> Result<TransactionId, Malformed> {
    let time = read_time(reader, base)?;
    Ok(TransactionId { time, shard: read_shard(reader)?, sequence: read_event_sequence(reader)? })
}

pub(super) fn put_hold_id(out: &mut Vec<u8>, id: HoldId, base: Timestamp) {
    put_time(out, id.time, base);
    put_shard(out, id.shard);
    put_account(out, id.account);
    put_varint(out, u64::from(id.version));
}

pub(super) fn read_hold_id(reader: &mut Reader<'_>, base: Timestamp) -> Result<HoldId, Malformed> {
    let time = read_time(reader, base)?;
    let (shard, account) = (read_shard(reader)?, read_account(reader)?);
    Ok(HoldId { time, shard, account, version: read_hold_version(reader)? })
}

/// Reads the version of its account that a hold made.
pub(super) fn read_hold_version(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    let at = reader.clone();
    let version = reader.varint()?;
    if version > HOLD_VERSION_MAX {
        return Err(at.malformed("a hold's version is out of range"));
    }
    Ok(version as u32)
}

pub(super) fn put_hold_outcome(out: &mut Vec<u8>, outcome: HoldOutcome) {
    match outcome {
        HoldOutcome::Captured(amount) => {
            out.push(1);
            put_amount(out, amount);
        }
        HoldOutcome::Voided => out.push(2),
        HoldOutcome::Expired => out.push(3),
    }
}

pub(super) fn read_hold_outcome(reader: &mut Reader<'_>) -> Result<HoldOutcome, Malformed> {
    let at = reader.clone();
    match reader.byte()? {
        1 => read_amount(reader).map(HoldOutcome::Captured),
        2 => Ok(HoldOutcome::Voided),
        3 => Ok(HoldOutcome::Expired),
        code => Err(at.malformed(format!("a hold has the unknown outcome {code}"))),
    }
}

pub(super) fn put_reference(out: &mut Vec<u8>, reference: &Reference) {
    put_bytes(out, reference.as_bytes());
}

pub(super) fn read_reference(reader: &mut Reader<'_>) -> Result<Reference, Malformed> {
    let at = reader.clone();
    Reference::parse(reader.text()?).map_err(|error| at.malformed(format!("a reference {error}")))
}

pub(super) fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    put_varint(out, metadata.entries().len() as u64);
    for (key, value) in metadata.entries() {
        put_bytes(out, key.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

pub(super) fn read_metadata(reader: &mut Reader<'_>) -> Result<Metadata, Malformed> {
    let at = reader.clone();
    let count = reader.varint()?;
    if count > METADATA_ENTRIES_MAX as u64 {
        return Err(at.malformed("metadata has too many entries"));
    }
    let mut entries: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let at = reader.clone();
        let key = reader.text()?;
        if entries.last().is_some_and(|(before, _)| **before >= *key) {
            return Err(at.malformed("metadata is not in order of its keys"));
        }
        entries.push((key.into(), reader.text()?.into()));
    }
    Metadata::new(entries).map_err(|error| at.malformed(format!("metadata {error}")))
}

/// Reads metadata where a flag has said that there is some.
pub(super) fn read_some_metadata(reader: &mut Reader<'_>) -> Result<Metadata, Malformed> {
    let at = reader.clone();
    let metadata = read_metadata(reader)?;
    if metadata.is_empty() { Err(at.malformed("metadata that is there is empty")) } else { Ok(metadata) }
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &IdempotencyKey) {
    out.extend_from_slice(&key.digest.0);
    out.extend_from_slice(&key.fingerprint);
}

pub(super) fn read_key(reader: &mut Reader<'_>) -> Result<IdempotencyKey, Malformed> {
    Ok(IdempotencyKey { digest: KeyDigest(reader.array()?), fingerprint: reader.array()? })
}

pub(super) fn put_velocity(out: &mut Vec<u8>, limits: &VelocityLimits) {
    let VelocityLimits { per_day, per_month, debits } = limits;
    out.push(flags([per_day.is_some(), per_month.is_some(), debits.is_some()]));
    for amount in [per_day, per_month].into_iter().flatten() {
        put_amount(out, *amount);
    }
    if let Some(DebitLimit { count, window_seconds }) = debits {
        put_varint(out, u64::from(*count));
        put_varint(out, u64::from(*window_seconds));
    }
}

pub(super) fn read_velocity(reader: &mut Reader<'_>) -> Result<VelocityLimits, Malformed> {
    let [day, month, debits] = read_flags(reader)?;
    let per_day = day.then(|| read_amount(reader)).transpose()?;
    let per_month = month.then(|| read_amount(reader)).transpose()?;
    let debits = debits.then(|| read_debit_limit(reader)).transpose()?;
    Ok(VelocityLimits { per_day, per_month, debits })
}

/// Reads limits where a flag has said that there are some.
pub(super) fn read_some_velocity(reader: &mut Reader<'_>) -> Result<VelocityLimits, Malformed> {
    let at = reader.clone();
    let limits = read_velocity(reader)?;
    if limits.is_empty() { Err(at.malformed("limits that are there limit nothing")) } else { Ok(limits) }
}

fn read_debit_limit(reader: &mut Reader<'_>) -> Result<DebitLimit, Malformed> {
    let count = read_u32(reader, "a number of debits is out of range")?;
    let at = reader.clone();
    let window_seconds = read_u32(reader, "a window is out of range")?;
    if !(1..=WINDOW_SECONDS_MAX).contains(&window_seconds) {
        return Err(at.malformed("a window is out of range"));
    }
    Ok(DebitLimit { count, window_seconds })
}

/// What is there, a bit each, the first in the lowest.
pub(super) fn flags<const N: usize>(there: [bool; N]) -> u8 {
    const { assert!(N <= 8, "a byte has eight flags") };
    there.into_iter().enumerate().fold(0, |flags, (bit, there)| flags | u8::from(there) << bit)
}

/// Reads `N` flags; the other bits of the byte are zero.
pub(super) fn read_flags<const N: usize>(reader: &mut Reader<'_>) -> Result<[bool; N], Malformed> {
    let at = reader.clone();
    let byte = reader.byte()?;
    if u32::from(byte) >> N != 0 {
        return Err(at.malformed(format!("there is an unknown flag in {byte:#04x}")));
    }
    Ok(std::array::from_fn(|bit| byte >> bit & 1 == 1))
}
