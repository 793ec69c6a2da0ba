//! The bytes of a decision, and of refusals; drawn in [`super`].

use std::mem;

use super::event::{put_distance, read_distance, read_held};
use super::{FORMAT_FIRST, FORMAT_VERSION};
use crate::ledger::{
    AccountChange, AccountNumber, After, Allowance, Amended, Amount, Currency, Decision, Effect, Effects,
    HoldKey, HoldOutcome, ItemOutcome, KeyUse, Kind, Link, LinkKind, Note, Opened, Outcome, Part, Rejected,
    Rejection, Sequence, Timestamp,
};
use crate::storage::codec::{Malformed, Reader, put_bytes, put_varint};
use crate::storage::fields::{
    flags, put_account, put_account_id, put_amount, put_currency, put_hold_id, put_hold_outcome, put_key,
    put_metadata, put_reference, put_sequence, put_shard, put_time, put_transaction_id, put_velocity,
    read_account, read_account_id, read_amount, read_currency, read_event_sequence, read_flags, read_hold_id,
    read_hold_outcome, read_hold_version, read_key, read_metadata, read_name, read_reference, read_sequence,
    read_shard, read_some_metadata, read_some_velocity, read_time, read_transaction_id, read_u32,
    read_velocity,
};

const OPENING: u8 = 1;
const DEPOSIT: u8 = 2;
const WITHDRAWAL: u8 = 3;
const TRANSFER: u8 = 4;
const PROTECTION: u8 = 5;
const REVERSAL: u8 = 6;
const HOLD: u8 = 7;
const CAPTURE: u8 = 8;
const VOID: u8 = 9;
const EXPIRY: u8 = 10;
const AMENDMENT: u8 = 11;
const CLOSING: u8 = 12;
const LINKING: u8 = 13;
const UNLINKING: u8 = 14;
const REFUSAL: u8 = 15;
const BATCH: u8 = 16;
/// Besides the kind: the note has a reference, or metadata.
const WITH_REFERENCE: u8 = 0x20;
const WITH_METADATA: u8 = 0x40;

const OPENED: u8 = 1;
const POSTED: u8 = 2;
const HELD: u8 = 3;
const HELD_FOR: u8 = 4;
const CAPTURED: u8 = 5;
const VOIDED: u8 = 6;
const EXPIRED: u8 = 7;
const AMENDED: u8 = 8;
const RELATED: u8 = 9;
const PROTECTED: u8 = 10;
const UNLINKED: u8 = 11;
const PROTECTS: u8 = 12;
const PROTECTS_NO_MORE: u8 = 13;
const CLOSED: u8 = 14;
/// Besides the change: it says what may still leave the account, the currency is that of the effect before, or something
/// is held afterwards.
const WITH_ALLOWANCE: u8 = 0x20;
const SAME_CURRENCY: u8 = 0x40;
const WITH_HELD: u8 = 0x80;

/// Appends a decision that was made at `time`, in the event `sequence` of the shard that made it.
pub(super) fn put_decision(out: &mut Vec<u8>, decision: &Decision, time: Timestamp, sequence: Sequence) {
    let Decision { kind, note, parts } = decision;
    let reference = if note.reference.is_some() { WITH_REFERENCE } else { 0 };
    let metadata = if note.metadata.is_empty() { 0 } else { WITH_METADATA };
    out.push(kind_code(kind) | reference | metadata);
    put_kind(out, kind, time);
    if let Some(reference) = &note.reference {
        put_reference(out, reference);
    }
    if !note.metadata.is_empty() {
        put_metadata(out, &note.metadata);
    }
    put_varint(out, parts.len() as u64);
    let mut currency = None;
    for part in parts {
        put_part(out, part, time, sequence, &mut currency);
    }
}

/// What a decision is read into.
pub(super) fn no_decision() -> Decision {
    Decision { kind: Kind::Opening, note: Note::default(), parts: Vec::new() }
}

/// Reads a decision into the place of another one, which may be of any kind, as what is left there after an error; what
/// that had from the heap is used again.
pub(super) fn read_decision(
    reader: &mut Reader<'_>,
    time: Timestamp,
    sequence: Sequence,
    decision: &mut Decision,
) -> Result<(), Malformed> {
    let at = reader.clone();
    let byte = reader.byte()?;
    let code = byte & !(WITH_REFERENCE | WITH_METADATA);
    let Decision { kind, note, parts } = decision;
    *kind = read_kind(reader, &at, code, time)?;
    note.reference = (byte & WITH_REFERENCE != 0).then(|| read_reference(reader)).transpose()?;
    let metadata = (byte & WITH_METADATA != 0).then(|| read_some_metadata(reader)).transpose()?;
    note.metadata = metadata.unwrap_or_default();
    let count = reader.varint()?;
    parts.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    parts.reserve_exact(few(count).saturating_sub(parts.len()));
    let mut currency = None;
    for place in 0..count {
        // Each takes some bytes, as does all else that is counted: a count that lies ends with the record.
        let shard = read_shard(reader)?;
        let part = match parts.get_mut(place as usize) {
            Some(part) => {
                let mut effects = mem::take(&mut part.effects);
                effects.clear();
                *part = Part::new(shard, effects);
                part
            }
            None => parts.push_mut(Part::new(shard, Effects::new())),
        };
        read_part(reader, time, sequence, &mut currency, part)?;
    }
    Ok(())
}

/// For how many of so many items a list has room from the start: as many as almost every list has, and no more than bytes
/// that lie can cost.
fn few(count: u64) -> usize {
    count.min(16) as usize
}

fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::Opening => OPENING,
        Kind::Deposit => DEPOSIT,
        Kind::Withdrawal => WITHDRAWAL,
        Kind::Transfer => TRANSFER,
        Kind::Protection => PROTECTION,
        Kind::Reversal { .. } => REVERSAL,
        Kind::Hold => HOLD,
        Kind::Capture { .. } => CAPTURE,
        Kind::Void { .. } => VOID,
        Kind::Expiry { .. } => EXPIRY,
        Kind::Amendment => AMENDMENT,
        Kind::Closing => CLOSING,
        Kind::Linking => LINKING,
        Kind::Unlinking => UNLINKING,
        Kind::Refusal { .. } => REFUSAL,
        Kind::Batch { .. } => BATCH,
    }
}

fn put_kind(out: &mut Vec<u8>, kind: &Kind, time: Timestamp) {
    match kind {
        Kind::Reversal { of } => put_transaction_id(out, *of, time),
        Kind::Capture { hold } | Kind::Void { hold } | Kind::Expiry { hold } => put_hold_id(out, *hold, time),
        Kind::Refusal { rejected, request_id } => {
            put_rejected(out, rejected, time);
            put_bytes(out, request_id.as_bytes());
        }
        Kind::Batch { results, request_id } => {
            put_varint(out, results.len() as u64);
            for result in results {
                put_item_outcome(out, result, time);
            }
            put_bytes(out, request_id.as_bytes());
        }
        Kind::Opening
        | Kind::Deposit
        | Kind::Withdrawal
        | Kind::Transfer
        | Kind::Protection
        | Kind::Hold
        | Kind::Amendment
        | Kind::Closing
        | Kind::Linking
        | Kind::Unlinking => {}
    }
}

fn read_kind(reader: &mut Reader<'_>, at: &Reader<'_>, code: u8, time: Timestamp) -> Result<Kind, Malformed> {
    Ok(match code {
        OPENING => Kind::Opening,
        DEPOSIT => Kind::Deposit,
        WITHDRAWAL => Kind::Withdrawal,
        TRANSFER => Kind::Transfer,
        PROTECTION => Kind::Protection,
        REVERSAL => Kind::Reversal { of: read_transaction_id(reader, time)? },
        HOLD => Kind::Hold,
        CAPTURE => Kind::Capture { hold: read_hold_id(reader, time)? },
        VOID => Kind::Void { hold: read_hold_id(reader, time)? },
        EXPIRY => Kind::Expiry { hold: read_hold_id(reader, time)? },
        AMENDMENT => Kind::Amendment,
        CLOSING => Kind::Closing,
        LINKING => Kind::Linking,
        UNLINKING => Kind::Unlinking,
        REFUSAL => {
            Kind::Refusal { rejected: read_rejected(reader, time)?, request_id: reader.text()?.into() }
        }
        BATCH => {
            let count = reader.varint()?;
            let mut results = Vec::with_capacity(few(count));
            for _ in 0..count {
                results.push(read_item_outcome(reader, time)?);
            }
            Kind::Batch { results, request_id: reader.text()?.into() }
        }
        code => return Err(at.malformed(format!("a decision has the unknown kind {code}"))),
    })
}

fn put_item_outcome(out: &mut Vec<u8>, outcome: &ItemOutcome, time: Timestamp) {
    match outcome {
        ItemOutcome::Done { back } => {
            out.push(1);
            put_varint(out, u64::from(*back));
        }
        ItemOutcome::Refused(rejected) => {
            out.push(2);
            put_rejected(out, rejected, time);
        }
        ItemOutcome::Settled(Outcome { shard, sequence }) => {
            out.push(3);
            put_shard(out, *shard);
            put_sequence(out, *sequence);
        }
        ItemOutcome::KeyReused => out.push(4),
        ItemOutcome::KeyInFlight => out.push(5),
        ItemOutcome::KeysExhausted => out.push(6),
        ItemOutcome::NotAttempted => out.push(7),
    }
}

fn read_item_outcome(reader: &mut Reader<'_>, time: Timestamp) -> Result<ItemOutcome, Malformed> {
    let at = reader.clone();
    Ok(match reader.byte()? {
        1 => ItemOutcome::Done { back: read_u32(reader, "a distance is out of range")? },
        2 => ItemOutcome::Refused(read_rejected(reader, time)?),
        3 => {
            let shard = read_shard(reader)?;
            ItemOutcome::Settled(Outcome { shard, sequence: read_event_sequence(reader)? })
        }
        4 => ItemOutcome::KeyReused,
        5 => ItemOutcome::KeyInFlight,
        6 => ItemOutcome::KeysExhausted,
        7 => ItemOutcome::NotAttempted,
        code => return Err(at.malformed(format!("an operation has the unknown outcome {code}"))),
    })
}

fn put_part(
    out: &mut Vec<u8>,
    part: &Part,
    time: Timestamp,
    sequence: Sequence,
    currency: &mut Option<Currency>,
) {
    let Part { shard, previous, effects, reverses, key } = part;
    put_shard(out, *shard);
    out.push(flags([*previous != Sequence::NONE, reverses.is_some(), key.is_some()]));
    if *previous != Sequence::NONE {
        put_distance(out, *previous, sequence);
    }
    if let Some(transfer) = reverses {
        put_sequence(out, *transfer);
    }
    if let Some(KeyUse { key, expires }) = key {
        put_key(out, key);
        put_time(out, *expires, time);
    }
    put_varint(out, effects.len() as u64);
    for effect in effects {
        put_effect(out, effect, time, currency);
    }
}

/// Reads the rest of a part, in its place.
fn read_part(
    reader: &mut Reader<'_>,
    time: Timestamp,
    sequence: Sequence,
    currency: &mut Option<Currency>,
    part: &mut Part,
) -> Result<(), Malformed> {
    let at = reader.clone();
    let [has_previous, reverses, key] = read_flags(reader)?;
    if has_previous {
        part.previous = read_distance(reader, sequence)?;
        if part.previous == Sequence::NONE {
            return Err(at.malformed("the decision before is there but is none"));
        }
    }
    part.reverses = reverses.then(|| read_sequence(reader)).transpose()?;
    if key {
        part.key = Some(KeyUse { key: read_key(reader)?, expires: read_time(reader, time)? });
    }
    let count = reader.varint()?;
    part.effects.reserve(few(count));
    for _ in 0..count {
        part.effects.push(NO_EFFECT);
        read_effect(reader, time, currency, part.effects.last_mut().expect("one was added"))?;
    }
    Ok(())
}

/// What an effect is read into.
const NO_EFFECT: Effect = Effect {
    account: AccountNumber::new(0),
    opened: Timestamp::from_millis(0),
    currency: Currency::USD,
    change: AccountChange::Closed,
    after: After { version: 0, balance: Amount::ZERO, held: Amount::ZERO },
    allowance: None,
};

fn put_effect(out: &mut Vec<u8>, effect: &Effect, time: Timestamp, before: &mut Option<Currency>) {
    let Effect { account, opened, currency, change, after, allowance } = effect;
    let same_currency = before.replace(*currency) == Some(*currency);
    let with_held = !after.held.is_zero();
    out.push(
        change_code(change)
            | if same_currency { SAME_CURRENCY } else { 0 }
            | if with_held { WITH_HELD } else { 0 }
            | if allowance.is_some() { WITH_ALLOWANCE } else { 0 },
    );
    put_account(out, *account);
    put_time(out, *opened, time);
    if !same_currency {
        put_currency(out, *currency);
    }
    put_varint(out, after.version);
    put_amount(out, after.balance);
    if with_held {
        put_amount(out, after.held);
    }
    if let Some(allowance) = allowance {
        put_allowance(out, allowance);
    }
    match change {
        AccountChange::Opened(opened) => put_opened(out, opened),
        AccountChange::Posted { amount } => put_amount(out, *amount),
        AccountChange::Held { amount, to, expires } => {
            put_amount(out, *amount);
            put_time(out, *expires, time);
            if let Some(to) = to {
                put_account_id(out, *to, time);
            }
        }
        AccountChange::Released { hold, outcome } => {
            assert_eq!(hold.account, *account, "a hold is released in its account");
            put_varint(out, u64::from(hold.version));
            if let HoldOutcome::Captured(amount) = outcome {
                put_amount(out, *amount);
            }
        }
        AccountChange::Amended(amended) => put_amended(out, amended),
        AccountChange::Linked(Link { to, .. })
        | AccountChange::Unlinked { to }
        | AccountChange::Protects { account: to, .. } => put_account_id(out, *to, time),
        AccountChange::Closed => {}
    }
}

fn change_code(change: &AccountChange) -> u8 {
    match change {
        AccountChange::Opened(_) => OPENED,
        AccountChange::Posted { .. } => POSTED,
        AccountChange::Held { to: None, .. } => HELD,
        AccountChange::Held { to: Some(_), .. } => HELD_FOR,
        AccountChange::Released { outcome: HoldOutcome::Captured(_), .. } => CAPTURED,
        AccountChange::Released { outcome: HoldOutcome::Voided, .. } => VOIDED,
        AccountChange::Released { outcome: HoldOutcome::Expired, .. } => EXPIRED,
        AccountChange::Amended(_) => AMENDED,
        AccountChange::Linked(Link { kind: LinkKind::Related, .. }) => RELATED,
        AccountChange::Linked(Link { kind: LinkKind::OverdraftProtection, .. }) => PROTECTED,
        AccountChange::Unlinked { .. } => UNLINKED,
        AccountChange::Protects { on: true, .. } => PROTECTS,
        AccountChange::Protects { on: false, .. } => PROTECTS_NO_MORE,
        AccountChange::Closed => CLOSED,
    }
}

/// Reads an effect, in its place.
fn read_effect(
    reader: &mut Reader<'_>,
    time: Timestamp,
    before: &mut Option<Currency>,
    effect: &mut Effect,
) -> Result<(), Malformed> {
    let at = reader.clone();
    let byte = reader.byte()?;
    let account = read_account(reader)?;
    effect.account = account;
    effect.opened = read_time(reader, time)?;
    let currency = match *before {
        Some(before) if byte & SAME_CURRENCY != 0 => before,
        None if byte & SAME_CURRENCY != 0 => return Err(at.malformed("there is no effect before")),
        _ => read_currency(reader)?,
    };
    if before.replace(currency) == Some(currency) && byte & SAME_CURRENCY == 0 {
        return Err(at.malformed("a currency is repeated"));
    }
    effect.currency = currency;
    effect.after.version = reader.varint()?;
    effect.after.balance = read_amount(reader)?;
    if byte & WITH_HELD != 0 {
        effect.after.held = read_held(reader)?;
    }
    if byte & WITH_ALLOWANCE != 0 {
        effect.allowance = Some(Box::new(read_allowance(reader)?));
    }
    let hold = |reader: &mut Reader<'_>| Ok(HoldKey { account, version: read_hold_version(reader)? });
    effect.change = match byte & !(WITH_ALLOWANCE | SAME_CURRENCY | WITH_HELD) {
        OPENED => AccountChange::Opened(Box::new(read_opened(reader)?)),
        POSTED => {
            effect.change = AccountChange::Posted { amount: read_amount(reader)? };
            return Ok(());
        }
        code @ (HELD | HELD_FOR) => {
            let (amount, expires) = (read_amount(reader)?, read_time(reader, time)?);
            let to = (code == HELD_FOR).then(|| read_account_id(reader, time)).transpose()?;
            AccountChange::Held { amount, to, expires }
        }
        CAPTURED => {
            let hold = hold(reader)?;
            AccountChange::Released { hold, outcome: HoldOutcome::Captured(read_amount(reader)?) }
        }
        VOIDED => AccountChange::Released { hold: hold(reader)?, outcome: HoldOutcome::Voided },
        EXPIRED => AccountChange::Released { hold: hold(reader)?, outcome: HoldOutcome::Expired },
        AMENDED => AccountChange::Amended(Box::new(read_amended(reader)?)),
        RELATED => {
            AccountChange::Linked(Link { to: read_account_id(reader, time)?, kind: LinkKind::Related })
        }
        PROTECTED => AccountChange::Linked(Link {
            to: read_account_id(reader, time)?,
            kind: LinkKind::OverdraftProtection,
        }),
        UNLINKED => AccountChange::Unlinked { to: read_account_id(reader, time)? },
        PROTECTS => AccountChange::Protects { account: read_account_id(reader, time)?, on: true },
        PROTECTS_NO_MORE => AccountChange::Protects { account: read_account_id(reader, time)?, on: false },
        CLOSED => AccountChange::Closed,
        code => return Err(at.malformed(format!("an effect has the unknown kind {code}"))),
    };
    Ok(())
}

fn put_opened(out: &mut Vec<u8>, opened: &Opened) {
    let Opened { name, overdraft_limit, reference, metadata, unique_reference, velocity } = opened;
    put_bytes(out, name.as_bytes());
    out.push(flags([
        overdraft_limit.is_some(),
        reference.is_some(),
        !metadata.is_empty(),
        *unique_reference,
        !velocity.is_empty(),
    ]));
    if let Some(limit) = overdraft_limit {
        put_amount(out, *limit);
    }
    if let Some(reference) = reference {
        put_reference(out, reference);
    }
    if !metadata.is_empty() {
        put_metadata(out, metadata);
    }
    if !velocity.is_empty() {
        put_velocity(out, velocity);
    }
}

fn read_opened(reader: &mut Reader<'_>) -> Result<Opened, Malformed> {
    let name = read_name(reader)?;
    let [limit, reference, metadata, unique_reference, velocity] = read_flags(reader)?;
    Ok(Opened {
        name,
        overdraft_limit: limit.then(|| read_amount(reader)).transpose()?,
        reference: reference.then(|| read_reference(reader)).transpose()?,
        metadata: metadata.then(|| read_some_metadata(reader)).transpose()?.unwrap_or_default(),
        unique_reference,
        velocity: velocity.then(|| read_some_velocity(reader)).transpose()?.unwrap_or_default(),
    })
}

fn put_amended(out: &mut Vec<u8>, amended: &Amended) {
    let Amended { overdraft_limit, frozen, metadata, velocity } = amended;
    let limit = overdraft_limit.flatten();
    out.push(flags([
        overdraft_limit.is_some(),
        limit.is_some(),
        frozen.is_some(),
        *frozen == Some(true),
        metadata.is_some(),
        velocity.is_some(),
    ]));
    if let Some(limit) = limit {
        put_amount(out, limit);
    }
    if let Some(metadata) = metadata {
        put_metadata(out, metadata);
    }
    if let Some(velocity) = velocity {
        put_velocity(out, velocity);
    }
}

fn read_amended(reader: &mut Reader<'_>) -> Result<Amended, Malformed> {
    let at = reader.clone();
    let [limit_changes, has_limit, frozen_changes, frozen, metadata, velocity] = read_flags(reader)?;
    if (has_limit && !limit_changes) || (frozen && !frozen_changes) {
        return Err(at.malformed("a value is there for what does not change"));
    }
    let limit = has_limit.then(|| read_amount(reader)).transpose()?;
    Ok(Amended {
        overdraft_limit: limit_changes.then_some(limit),
        frozen: frozen_changes.then_some(frozen),
        metadata: metadata.then(|| read_metadata(reader)).transpose()?,
        velocity: velocity.then(|| read_velocity(reader)).transpose()?,
    })
}

fn put_rejected(out: &mut Vec<u8>, rejected: &Rejected, time: Timestamp) {
    let Rejected { rejection, at } = rejected;
    put_varint(out, at.map_or(0, |at| u64::from(at) + 1));
    put_rejection(out, rejection, time);
}

fn read_rejected(reader: &mut Reader<'_>, time: Timestamp) -> Result<Rejected, Malformed> {
    let start = reader.clone();
    let at = match reader.varint()? {
        0 => None,
        place => {
            let place = u16::try_from(place - 1);
            Some(place.map_err(|_| start.malformed("the place of an account is out of range"))?)
        }
    };
    Ok(Rejected { rejection: read_rejection(reader, time, FORMAT_VERSION)?, at })
}

/// Appends a refusal of an event or decision of `time`.
pub(super) fn put_rejection(out: &mut Vec<u8>, rejection: &Rejection, time: Timestamp) {
    let mut money = |code: u8, currency: &Currency, amounts: &[Amount]| {
        out.push(code);
        put_currency(out, *currency);
        amounts.iter().for_each(|amount| put_amount(out, *amount));
    };
    match rejection {
        Rejection::AccountExists => out.push(1),
        Rejection::AccountNotFound => out.push(2),
        Rejection::AccountClosed => out.push(3),
        Rejection::VersionMismatch { version } => {
            out.push(5);
            put_varint(out, *version);
        }
        Rejection::BalanceOutOfRange => out.push(7),
        Rejection::AccountsExhausted => out.push(8),
        Rejection::AccountNotEmpty { balance, currency } => money(9, currency, &[*balance]),
        Rejection::InsufficientFunds { available, required, currency } => {
            money(10, currency, &[*available, *required]);
        }
        Rejection::AccountFrozen => out.push(11),
        Rejection::AccountHasHolds { held, currency } => money(12, currency, &[*held]),
        Rejection::NothingAvailable { available, currency } => money(13, currency, &[*available]),
        Rejection::VelocityLimit { allowance, required, currency } => {
            money(14, currency, &[*required]);
            put_allowance(out, allowance);
        }
        Rejection::HoldsExhausted => out.push(15),
        Rejection::TooManyDecimals { currency } => money(16, currency, &[]),
        Rejection::CurrencyMismatch { expected, found } => {
            money(17, expected, &[]);
            put_currency(out, *found);
        }
        Rejection::LegsUnbalanced { currency } => money(18, currency, &[]),
        Rejection::AccountRepeated => out.push(19),
        Rejection::MetadataFull => out.push(20),
        Rejection::ConditionNotMet { available, version, currency } => {
            money(21, currency, &[*available]);
            put_varint(out, *version);
        }
        Rejection::HoldNotFound => out.push(22),
        Rejection::HoldEnded { outcome, currency } => {
            money(23, currency, &[]);
            put_hold_outcome(out, *outcome);
        }
        Rejection::HoldExceeded { held, required, currency } => money(24, currency, &[*held, *required]),
        Rejection::AlreadyReversed { by } => {
            out.push(25);
            put_transaction_id(out, *by, time);
        }
        Rejection::ReversalNotPartial => out.push(26),
        Rejection::ReversalExceeded { transferred, currency } => money(27, currency, &[*transferred]),
        Rejection::ReferenceUsed { by } => {
            out.push(28);
            put_transaction_id(out, *by, time);
        }
        Rejection::LinkNotFound => out.push(29),
        Rejection::LinkCycle => out.push(30),
        Rejection::LinkChainTooLong => out.push(31),
        Rejection::LinksExhausted => out.push(32),
    }
}

/// Reads a refusal of an event or decision of `time`, as a record of this version spells it.
pub(super) fn read_rejection(
    reader: &mut Reader<'_>,
    time: Timestamp,
    version: u8,
) -> Result<Rejection, Malformed> {
    let at = reader.clone();
    let code = reader.byte()?;
    let first_format = version == FORMAT_FIRST;
    Ok(match code {
        1 => Rejection::AccountExists,
        2 => Rejection::AccountNotFound,
        3 => Rejection::AccountClosed,
        // The first format knew one currency only.
        4 if first_format => {
            Rejection::AccountNotEmpty { balance: read_amount(reader)?, currency: Currency::USD }
        }
        5 => Rejection::VersionMismatch { version: reader.varint()? },
        6 if first_format => Rejection::InsufficientFunds {
            available: read_amount(reader)?,
            required: read_amount(reader)?,
            currency: Currency::USD,
        },
        7 => Rejection::BalanceOutOfRange,
        8 => Rejection::AccountsExhausted,
        _ if first_format => return Err(at.malformed(format!("a refusal has the unknown code {code}"))),
        9 => {
            let currency = read_currency(reader)?;
            Rejection::AccountNotEmpty { balance: read_amount(reader)?, currency }
        }
        10 => {
            let currency = read_currency(reader)?;
            let (available, required) = (read_amount(reader)?, read_amount(reader)?);
            Rejection::InsufficientFunds { available, required, currency }
        }
        11 => Rejection::AccountFrozen,
        12 => {
            let currency = read_currency(reader)?;
            Rejection::AccountHasHolds { held: read_amount(reader)?, currency }
        }
        13 => {
            let currency = read_currency(reader)?;
            Rejection::NothingAvailable { available: read_amount(reader)?, currency }
        }
        14 => {
            let (currency, required) = (read_currency(reader)?, read_amount(reader)?);
            Rejection::VelocityLimit { allowance: read_allowance(reader)?, required, currency }
        }
        15 => Rejection::HoldsExhausted,
        16 => Rejection::TooManyDecimals { currency: read_currency(reader)? },
        17 => {
            let expected = read_currency(reader)?;
            Rejection::CurrencyMismatch { expected, found: read_currency(reader)? }
        }
        18 => Rejection::LegsUnbalanced { currency: read_currency(reader)? },
        19 => Rejection::AccountRepeated,
        20 => Rejection::MetadataFull,
        21 => {
            let (currency, available) = (read_currency(reader)?, read_amount(reader)?);
            Rejection::ConditionNotMet { available, version: reader.varint()?, currency }
        }
        22 => Rejection::HoldNotFound,
        23 => {
            let currency = read_currency(reader)?;
            Rejection::HoldEnded { outcome: read_hold_outcome(reader)?, currency }
        }
        24 => {
            let currency = read_currency(reader)?;
            let (held, required) = (read_amount(reader)?, read_amount(reader)?);
            Rejection::HoldExceeded { held, required, currency }
        }
        25 => Rejection::AlreadyReversed { by: read_transaction_id(reader, time)? },
        26 => Rejection::ReversalNotPartial,
        27 => {
            let currency = read_currency(reader)?;
            Rejection::ReversalExceeded { transferred: read_amount(reader)?, currency }
        }
        28 => Rejection::ReferenceUsed { by: read_transaction_id(reader, time)? },
        29 => Rejection::LinkNotFound,
        30 => Rejection::LinkCycle,
        31 => Rejection::LinkChainTooLong,
        32 => Rejection::LinksExhausted,
        code => return Err(at.malformed(format!("a refusal has the unknown code {code}"))),
    })
}

fn put_allowance(out: &mut Vec<u8>, allowance: &Allowance) {
    let Allowance { in_day, in_month, debits } = allowance;
    out.push(flags([in_day.is_some(), in_month.is_some(), debits.is_some()]));
    for amount in [in_day, in_month].into_iter().flatten() {
        put_amount(out, *amount);
    }
    if let Some(debits) = debits {
        put_varint(out, u64::from(*debits));
    }
}

fn read_allowance(reader: &mut Reader<'_>) -> Result<Allowance, Malformed> {
    let [day, month, debits] = read_flags(reader)?;
    let in_day = day.then(|| read_amount(reader)).transpose()?;
    let in_month = month.then(|| read_amount(reader)).transpose()?;
    let debits = debits.then(|| read_u32(reader, "a number of debits is out of range")).transpose()?;
    Ok(Allowance { in_day, in_month, debits })
}
