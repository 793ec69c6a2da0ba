//! The items of a snapshot: of what kinds they are, and how each is spelled.
//!
//! The bytes are drawn in [`super`].
//!
//! What always holds: an item has one spelling. Whatever reads as an item would be written to the byte as it was read, but
//! for accounts of the first format.
//!
//! Left out: how many there are, in which order and in what blocks they come, and whether together they make a state.

use smallvec::SmallVec;

use super::{FORMAT_FIRST, Header};
use crate::ledger::{
    Account, AccountNumber, AccountStatus, Amount, Chain, Currency, Details, Hold, HoldKey, HoldOutcome,
    HoldStatus, IdempotencyKey, KeyDigest, KeyRecord, Link, LinkKind, Reference, Sequence, ShardId, Spent,
    Timestamp, Total, TransactionId,
};
use crate::storage::codec::{Malformed, Reader, put_bytes, put_signed, put_varint};
use crate::storage::fields::{
    flags, put_account, put_account_id, put_amount, put_currency, put_key, put_metadata, put_reference,
    put_sequence, put_shard, put_time, put_transaction_id, put_velocity, read_account, read_account_id,
    read_amount, read_currency, read_event_sequence, read_flags, read_hold_version, read_key, read_name,
    read_optional_amount, read_reference, read_shard, read_some_metadata, read_some_velocity, read_time,
    read_transaction_id, read_u32,
};

/// The kinds of items, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    World,
    Clearing,
    Sent,
    Received,
    Account,
    Hold,
    Reversal,
    Reference,
    Key,
}

impl Kind {
    pub(super) const ALL: [Kind; 9] = [
        Kind::World,
        Kind::Clearing,
        Kind::Sent,
        Kind::Received,
        Kind::Account,
        Kind::Hold,
        Kind::Reversal,
        Kind::Reference,
        Kind::Key,
    ];

    /// What several of them are called.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Kind::World => "currencies of @world",
            Kind::Clearing => "currencies of clearing",
            Kind::Sent => "shards sent to",
            Kind::Received => "shards received from",
            Kind::Account => "accounts",
            Kind::Hold => "holds",
            Kind::Reversal => "reversals",
            Kind::Reference => "references",
            Kind::Key => "keys",
        }
    }
}

/// What stands in the first byte of a hold.
const HOLD_PENDING: u8 = 0;
const HOLD_CAPTURED: u8 = 1;
const HOLD_VOIDED: u8 = 2;
const HOLD_EXPIRED: u8 = 3;
const HOLD_FOR: u8 = 4;

/// What the times of a snapshot count from.
const EPOCH: Timestamp = Timestamp::from_millis(0);

/// What a snapshot consists of.
pub(super) enum Item {
    World(Currency, Total),
    Clearing(Currency, Total),
    Sent(ShardId, Sequence),
    Received(ShardId, Sequence),
    Account(Account),
    Hold(HoldKey, Hold),
    Reversal(Sequence, TransactionId),
    Reference(AccountNumber, Reference, TransactionId),
    Key(KeyDigest, KeyRecord),
}

impl Item {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Item::World(..) => Kind::World,
            Item::Clearing(..) => Kind::Clearing,
            Item::Sent(..) => Kind::Sent,
            Item::Received(..) => Kind::Received,
            Item::Account(_) => Kind::Account,
            Item::Hold(..) => Kind::Hold,
            Item::Reversal(..) => Kind::Reversal,
            Item::Reference(..) => Kind::Reference,
            Item::Key(..) => Kind::Key,
        }
    }

    /// Reads the item of a kind that has this place among those of its kind, in a snapshot with this header.
    pub(super) fn read(
        kind: Kind,
        place: u64,
        header: &Header,
        reader: &mut Reader<'_>,
    ) -> Result<Item, Malformed> {
        Ok(match kind {
            Kind::World => Item::World(read_currency(reader)?, read_total(reader)?),
            Kind::Clearing => Item::Clearing(read_currency(reader)?, read_total(reader)?),
            Kind::Sent => Item::Sent(read_shard(reader)?, read_event_sequence(reader)?),
            Kind::Received => Item::Received(read_shard(reader)?, read_event_sequence(reader)?),
            Kind::Account => Item::Account(match header.version {
                FORMAT_FIRST => read_first_account_state(reader, place, header.time)?,
                _ => read_account_state(reader, place, header.time)?,
            }),
            Kind::Hold => {
                let (key, hold) = read_hold(reader)?;
                Item::Hold(key, hold)
            }
            Kind::Reversal => {
                Item::Reversal(read_event_sequence(reader)?, read_transaction_id(reader, EPOCH)?)
            }
            Kind::Reference => Item::Reference(
                read_account(reader)?,
                read_reference(reader)?,
                read_transaction_id(reader, EPOCH)?,
            ),
            Kind::Key => {
                let (digest, record) = read_key_record(reader, header.position.last)?;
                Item::Key(digest, record)
            }
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Item::World(currency, part) | Item::Clearing(currency, part) => put_part(out, *currency, *part),
            Item::Sent(shard, sequence) | Item::Received(shard, sequence) => put_mark(out, *shard, *sequence),
            Item::Account(account) => put_account_state(out, account),
            Item::Hold(key, hold) => put_hold(out, *key, hold),
            Item::Reversal(transfer, by) => put_reversal(out, *transfer, *by),
            Item::Reference(account, reference, by) => put_used_reference(out, *account, reference, *by),
            Item::Key(digest, record) => put_key_record(out, *digest, *record),
        }
    }
}

pub(super) fn put_part(out: &mut Vec<u8>, currency: Currency, part: Total) {
    put_currency(out, currency);
    put_signed(out, part.minor_units());
}

pub(super) fn put_mark(out: &mut Vec<u8>, shard: ShardId, sequence: Sequence) {
    put_shard(out, shard);
    put_sequence(out, sequence);
}

pub(super) fn put_reversal(out: &mut Vec<u8>, transfer: Sequence, by: TransactionId) {
    put_sequence(out, transfer);
    put_transaction_id(out, by, EPOCH);
}

pub(super) fn put_used_reference(
    out: &mut Vec<u8>,
    account: AccountNumber,
    reference: &Reference,
    by: TransactionId,
) {
    put_account(out, account);
    put_reference(out, reference);
    put_transaction_id(out, by, EPOCH);
}

pub(super) fn put_key_record(out: &mut Vec<u8>, digest: KeyDigest, record: KeyRecord) {
    let KeyRecord { fingerprint, outcome, expires } = record;
    put_key(out, &IdempotencyKey { digest, fingerprint });
    put_sequence(out, outcome);
    put_varint(out, expires.millis());
}

pub(super) fn put_account_state(out: &mut Vec<u8>, account: &Account) {
    put_bytes(out, account.name.as_bytes());
    put_currency(out, account.currency);
    let is_held = !account.held.is_zero();
    out.push(flags([
        account.overdraft_limit.is_some(),
        is_held,
        account.frozen,
        account.status == AccountStatus::Closed,
        account.details.is_some(),
    ]));
    if let Some(limit) = account.overdraft_limit {
        put_amount(out, limit);
    }
    put_amount(out, account.posted);
    if is_held {
        put_amount(out, account.held);
    }
    put_varint(out, account.opened.millis());
    put_varint(out, account.updated.millis() - account.opened.millis());
    put_varint(out, account.version);
    let roots = account.chain.to_packed();
    put_varint(out, roots.len() as u64);
    for root in roots {
        // The rank is in the upper six bits; below the sequence it does not make the varint longer.
        put_varint(out, root.rotate_left(6));
    }
    if let Some(details) = &account.details {
        put_details(out, details);
    }
}

fn put_details(out: &mut Vec<u8>, details: &Details) {
    let Details { reference, metadata, unique_reference, velocity, spent, links, protects } = details;
    let has_spent = *spent != Spent::default();
    out.push(flags([
        reference.is_some(),
        !metadata.is_empty(),
        *unique_reference,
        !velocity.is_empty(),
        has_spent,
        !links.is_empty(),
        !protects.is_empty(),
    ]));
    if let Some(reference) = reference {
        put_reference(out, reference);
    }
    if !metadata.is_empty() {
        put_metadata(out, metadata);
    }
    if !velocity.is_empty() {
        put_velocity(out, velocity);
    }
    if has_spent {
        put_varint(out, spent.day);
        put_amount(out, spent.in_day);
        put_varint(out, spent.month);
        put_amount(out, spent.in_month);
        put_varint(out, spent.window);
        put_varint(out, u64::from(spent.debits));
    }
    if !links.is_empty() {
        put_varint(out, links.len() as u64);
        for Link { to, kind } in links {
            put_account_id(out, *to, EPOCH);
            out.push(match kind {
                LinkKind::Related => 1,
                LinkKind::OverdraftProtection => 2,
            });
        }
    }
    if !protects.is_empty() {
        put_varint(out, protects.len() as u64);
        for account in protects {
            put_account_id(out, *account, EPOCH);
        }
    }
}

pub(super) fn put_hold(out: &mut Vec<u8>, key: HoldKey, hold: &Hold) {
    let Hold { created, amount, to, expires, status } = hold;
    put_account(out, key.account);
    put_varint(out, u64::from(key.version));
    let status_code = match status {
        HoldStatus::Pending => HOLD_PENDING,
        HoldStatus::Ended { outcome: HoldOutcome::Captured(_), .. } => HOLD_CAPTURED,
        HoldStatus::Ended { outcome: HoldOutcome::Voided, .. } => HOLD_VOIDED,
        HoldStatus::Ended { outcome: HoldOutcome::Expired, .. } => HOLD_EXPIRED,
    };
    out.push(if to.is_some() { status_code | HOLD_FOR } else { status_code });
    put_amount(out, *amount);
    put_time(out, *created, EPOCH);
    put_time(out, *expires, *created);
    if let Some(to) = to {
        put_account_id(out, *to, EPOCH);
    }
    if let HoldStatus::Ended { at, outcome } = status {
        put_time(out, *at, *created);
        if let HoldOutcome::Captured(amount) = outcome {
            put_amount(out, *amount);
        }
    }
}

fn read_total(reader: &mut Reader<'_>) -> Result<Total, Malformed> {
    let at = reader.clone();
    Total::from_minor_units(reader.signed()?).ok_or_else(|| at.malformed("a total is out of range"))
}

/// The number of the account at a place among accounts.
pub(super) fn account_number(reader: &Reader<'_>, place: u64) -> Result<AccountNumber, Malformed> {
    let number = u32::try_from(place);
    number.map(AccountNumber::new).map_err(|_| reader.malformed("it has more accounts than numbers for them"))
}

fn read_account_state(reader: &mut Reader<'_>, place: u64, time: Timestamp) -> Result<Account, Malformed> {
    let at = reader.clone();
    let number = account_number(reader, place)?;
    let name = read_name(reader)?;
    let currency = read_currency(reader)?;
    let [has_limit, is_held, frozen, closed, has_details] = read_flags(reader)?;
    let overdraft_limit = has_limit.then(|| read_amount(reader)).transpose()?;
    let posted = read_amount(reader)?;
    let held = if is_held { read_amount(reader)? } else { Amount::ZERO };
    if is_held && held.is_zero() {
        return Err(at.malformed("what is held is there but zero"));
    }
    let (opened, updated) = read_times(reader, time)?;
    let status = read_status(closed, posted, held, &at)?;
    let (version, chain) = read_chain(reader, &at)?;
    let details = has_details.then(|| read_details(reader).map(Box::new)).transpose()?;
    Ok(Account {
        number,
        name,
        currency,
        overdraft_limit,
        posted,
        held,
        frozen,
        opened,
        updated,
        status,
        version,
        chain,
        details,
    })
}

/// As [`read_account_state`], of the first format.
fn read_first_account_state(
    reader: &mut Reader<'_>,
    place: u64,
    time: Timestamp,
) -> Result<Account, Malformed> {
    let at = reader.clone();
    let number = account_number(reader, place)?;
    let name = read_name(reader)?;
    let currency = read_currency(reader)?;
    let overdraft_limit = read_optional_amount(reader)?;
    let posted = read_amount(reader)?;
    let (opened, updated) = read_times(reader, time)?;
    let [closed] = read_flags(reader)?;
    let status = read_status(closed, posted, Amount::ZERO, &at)?;
    let (version, chain) = read_chain(reader, &at)?;
    Ok(Account {
        number,
        name,
        currency,
        overdraft_limit,
        posted,
        held: Amount::ZERO,
        frozen: false,
        opened,
        updated,
        status,
        version,
        chain,
        details: None,
    })
}

/// Reads when an account was opened and when it last changed, which is no later than `time`.
fn read_times(reader: &mut Reader<'_>, time: Timestamp) -> Result<(Timestamp, Timestamp), Malformed> {
    let at = reader.clone();
    let opened = reader.varint()?;
    let updated = opened.checked_add(reader.varint()?);
    let updated = updated
        .filter(|&updated| updated <= time.millis())
        .ok_or_else(|| at.malformed("an account changed after the last event"))?;
    Ok((Timestamp::from_millis(opened), Timestamp::from_millis(updated)))
}

fn read_status(
    closed: bool,
    posted: Amount,
    held: Amount,
    at: &Reader<'_>,
) -> Result<AccountStatus, Malformed> {
    match closed {
        false => Ok(AccountStatus::Open),
        true if posted.is_zero() && held.is_zero() => Ok(AccountStatus::Closed),
        true => Err(at.malformed("a closed account has a balance, or money held")),
    }
}

/// Reads an account's version, and the chain of as many entries.
fn read_chain(reader: &mut Reader<'_>, at: &Reader<'_>) -> Result<(u64, Chain), Malformed> {
    let version = reader.varint()?;
    let roots = reader.varint()?;
    // Room for a million transactions without the heap.
    let mut packed = SmallVec::<[u64; 20]>::new();
    for _ in 0..roots {
        // Each takes a byte at least, so a count that lies ends with the block.
        packed.push(reader.varint()?.rotate_right(6));
    }
    let chain = Chain::from_packed(&packed, version);
    Ok((version, chain.ok_or_else(|| at.malformed("an account's history does not fit its version"))?))
}

/// Passes over an account of today's format, which the file's checksums vouch for: several times as fast as reading it.
pub(super) fn pass_account_state(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.bytes()?;
    read_currency(reader)?;
    let [has_limit, is_held, _, _, has_details] = read_flags(reader)?;
    for _ in 0..1 + usize::from(has_limit) + usize::from(is_held) {
        reader.signed()?;
    }
    let [_opened, _updated, _version, roots] =
        [reader.varint()?, reader.varint()?, reader.varint()?, reader.varint()?];
    for _ in 0..roots {
        reader.varint()?;
    }
    if has_details {
        read_details(reader)?;
    }
    Ok(())
}

fn read_details(reader: &mut Reader<'_>) -> Result<Details, Malformed> {
    let [reference, metadata, unique_reference, velocity, spent, links, protects] = read_flags(reader)?;
    Ok(Details {
        reference: reference.then(|| read_reference(reader)).transpose()?,
        metadata: metadata.then(|| read_some_metadata(reader)).transpose()?.unwrap_or_default(),
        unique_reference,
        velocity: velocity.then(|| read_some_velocity(reader)).transpose()?.unwrap_or_default(),
        spent: spent.then(|| read_spent(reader)).transpose()?.unwrap_or_default(),
        links: if links { read_some(reader, read_link)? } else { Vec::new() },
        protects: if protects {
            read_some(reader, |reader| read_account_id(reader, EPOCH))?
        } else {
            Vec::new()
        },
    })
}

fn read_spent(reader: &mut Reader<'_>) -> Result<Spent, Malformed> {
    let at = reader.clone();
    let spent = Spent {
        day: reader.varint()?,
        in_day: read_amount(reader)?,
        month: reader.varint()?,
        in_month: read_amount(reader)?,
        window: reader.varint()?,
        debits: read_u32(reader, "a number of debits is out of range")?,
    };
    if spent == Spent::default() {
        Err(at.malformed("what was spent is there but nothing"))
    } else {
        Ok(spent)
    }
}

fn read_link(reader: &mut Reader<'_>) -> Result<Link, Malformed> {
    let to = read_account_id(reader, EPOCH)?;
    let at = reader.clone();
    let kind = match reader.byte()? {
        1 => LinkKind::Related,
        2 => LinkKind::OverdraftProtection,
        code => return Err(at.malformed(format!("a link has the unknown kind {code}"))),
    };
    Ok(Link { to, kind })
}

/// Reads values behind their number, where a flag has said that there are some.
fn read_some<T>(
    reader: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let at = reader.clone();
    let mut values = Vec::new();
    for _ in 0..reader.varint()? {
        values.push(read(reader)?);
    }
    if values.is_empty() { Err(at.malformed("a list that is there is empty")) } else { Ok(values) }
}

fn read_hold(reader: &mut Reader<'_>) -> Result<(HoldKey, Hold), Malformed> {
    let key = HoldKey { account: read_account(reader)?, version: read_hold_version(reader)? };
    let at = reader.clone();
    let code = reader.byte()?;
    let amount = read_amount(reader)?;
    let created = read_time(reader, EPOCH)?;
    let expires = read_time(reader, created)?;
    let to = (code & HOLD_FOR != 0).then(|| read_account_id(reader, EPOCH)).transpose()?;
    let status = match code & !HOLD_FOR {
        HOLD_PENDING => HoldStatus::Pending,
        code @ (HOLD_CAPTURED | HOLD_VOIDED | HOLD_EXPIRED) => {
            let at = read_time(reader, created)?;
            let outcome = match code {
                HOLD_CAPTURED => HoldOutcome::Captured(read_amount(reader)?),
                HOLD_VOIDED => HoldOutcome::Voided,
                _ => HoldOutcome::Expired,
            };
            HoldStatus::Ended { at, outcome }
        }
        code => return Err(at.malformed(format!("a hold has the unknown status {code}"))),
    };
    Ok((key, Hold { created, amount, to, expires, status }))
}

fn read_key_record(reader: &mut Reader<'_>, last: Sequence) -> Result<(KeyDigest, KeyRecord), Malformed> {
    let IdempotencyKey { digest, fingerprint } = read_key(reader)?;
    let at = reader.clone();
    let outcome = Sequence::new(reader.varint()?).filter(|&outcome| outcome <= last);
    let expires = reader.varint()?;
    let (Some(outcome), true) = (outcome, expires <= Timestamp::MAX.millis()) else {
        return Err(at.malformed("a key's outcome or expiry is out of range"));
    };
    let record = KeyRecord { fingerprint, outcome, expires: Timestamp::from_millis(expires) };
    Ok((digest, record))
}
