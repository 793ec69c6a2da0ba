//! Numbers that must not be confused, and the UUIDs made of them.
//!
//! An id is a UUID of version 8 (RFC 9562) that says where its bearer lives, so that no table of ids exists:
//!
//! ```text
//!  bits  0..48   milliseconds since the Unix epoch: ids sort by time
//!       48..52   version, 8
//!       52..54   kind: 1 account, 2 transaction, 3 hold
//!       54..64   shard
//!       64..66   variant, binary 10
//!       66..128  account: its number in the shard; transaction: its event's sequence; hold: the number of its
//!                account (32 bits) and the account's version that it made (30 bits)
//! ```

use std::fmt;

use uuid::Uuid;

/// The most shards that a ledger can have: an id has ten bits for them.
pub const SHARDS_MAX: usize = 1024;

const KIND_ACCOUNT: u64 = 1;
const KIND_TRANSACTION: u64 = 2;
const KIND_HOLD: u64 = 3;
const MILLISECOND_BITS: u32 = 48;
const PLACE_BITS: u32 = 62;

/// Milliseconds since the Unix epoch. It never runs backwards within a shard.
///
/// Its 48 bits take six bytes: an account has two of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(2))]
pub struct Timestamp {
    // First, so that the derived order is that of the number.
    high: u16,
    low: u32,
}

impl Timestamp {
    /// The latest time, in the year 10889: what an id has bits for.
    pub const MAX: Timestamp = Timestamp::new((1 << MILLISECOND_BITS) - 1);

    /// The time so many milliseconds after the epoch, of which 48 bits count.
    const fn new(millis: u64) -> Timestamp {
        Timestamp { high: (millis >> 32) as u16, low: millis as u32 }
    }

    /// The time so many milliseconds after the epoch, or [`Timestamp::MAX`] past that.
    pub const fn from_millis(millis: u64) -> Timestamp {
        if millis < Timestamp::MAX.millis() { Timestamp::new(millis) } else { Timestamp::MAX }
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.millis() / 1000
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timestamp").field(&self.millis()).finish()
    }
}

/// The number of an event in its shard's log. The first is 1; there are no gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first event.
    pub const NONE: Sequence = Sequence(0);
    /// The first event.
    pub const FIRST: Sequence = Sequence(1);
    /// The last event that can be: a [`super::Chain`] has 58 bits for it, enough for a million events a
    /// second during nine thousand years.
    pub const MAX: Sequence = Sequence((1 << 58) - 1);

    /// The sequence with this number, if it can be one (0 stands for [`Sequence::NONE`]).
    pub const fn new(number: u64) -> Option<Sequence> {
        if number <= Sequence::MAX.0 { Some(Sequence(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence after this one.
    ///
    /// # Panics
    /// After the last one.
    #[must_use]
    pub const fn next(self) -> Sequence {
        self.plus(1)
    }

    /// The sequence `count` further on.
    ///
    /// # Panics
    /// Past the last one.
    #[must_use]
    pub const fn plus(self, count: u64) -> Sequence {
        assert!(count <= Sequence::MAX.0 - self.0, "the log has reached its last sequence");
        Sequence(self.0 + count)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard: 0 to 1023.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The one that every ledger has.
    pub const FIRST: ShardId = ShardId(0);

    /// The shard with this number, if there can be one.
    pub const fn new(number: usize) -> Option<ShardId> {
        if number < SHARDS_MAX { Some(ShardId(number as u16)) } else { None }
    }

    /// The shard's number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An account's place among its shard's accounts, in order of opening, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountNumber(u32);

impl AccountNumber {
    /// The account with this number.
    pub const fn new(number: u32) -> AccountNumber {
        AccountNumber(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The id of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    /// When the account was opened. Part of the id, so an id that was made up does not find an account.
    pub opened: Timestamp,
    /// The shard that owns the account.
    pub shard: ShardId,
    /// The account's number in that shard.
    pub number: AccountNumber,
}

/// The id of a transaction: one entry of one account's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// When it was booked.
    pub time: Timestamp,
    /// The shard that booked it.
    pub shard: ShardId,
    /// Its event in that shard's log.
    pub sequence: Sequence,
}

/// The latest version of an account at which a hold can be placed: what a hold's id has bits for.
pub const HOLD_VERSION_MAX: u64 = (1 << 30) - 1;

/// The id of a hold: where its account is, and which entry of the account placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId {
    /// When it was placed.
    pub time: Timestamp,
    /// The shard that owns the account.
    pub shard: ShardId,
    /// The account.
    pub account: AccountNumber,
    /// The account's version that the hold made, up to [`HOLD_VERSION_MAX`].
    pub version: u32,
}

impl AccountId {
    /// An id that no account has: no shard comes to its last number.
    pub const NOBODYS: AccountId = AccountId {
        opened: Timestamp::MAX,
        shard: ShardId((SHARDS_MAX - 1) as u16),
        number: AccountNumber(u32::MAX),
    };

    /// The id as clients see it.
    pub fn to_uuid(self) -> Uuid {
        pack(self.opened, KIND_ACCOUNT, self.shard, u64::from(self.number.0))
    }

    /// Reads an id.
    ///
    /// # Errors
    /// If the text is not a UUID, or not one that this service gives to accounts.
    pub fn parse(text: &str) -> Result<AccountId, IdError> {
        let (opened, shard, number) = unpack(text, KIND_ACCOUNT)?;
        let number = u32::try_from(number).map_err(|_| IdError::Foreign)?;
        Ok(AccountId { opened, shard, number: AccountNumber(number) })
    }
}

impl TransactionId {
    /// The id as clients see it.
    pub fn to_uuid(self) -> Uuid {
        pack(self.time, KIND_TRANSACTION, self.shard, self.sequence.0)
    }

    /// Reads an id.
    ///
    /// # Errors
    /// If the text is not a UUID, or not one that this service gives to transactions.
    pub fn parse(text: &str) -> Result<TransactionId, IdError> {
        let (time, shard, number) = unpack(text, KIND_TRANSACTION)?;
        let sequence =
            Sequence::new(number).filter(|&sequence| sequence > Sequence::NONE).ok_or(IdError::Foreign)?;
        Ok(TransactionId { time, shard, sequence })
    }
}

impl HoldId {
    /// An id that no hold has: its account is nobody's.
    pub const NOBODYS: HoldId = HoldId {
        time: AccountId::NOBODYS.opened,
        shard: AccountId::NOBODYS.shard,
        account: AccountId::NOBODYS.number,
        version: 0,
    };

    /// The id as clients see it.
    pub fn to_uuid(self) -> Uuid {
        pack(self.time, KIND_HOLD, self.shard, u64::from(self.account.0) << 30 | u64::from(self.version))
    }

    /// Reads an id.
    ///
    /// # Errors
    /// If the text is not a UUID, or not one that this service gives to holds.
    pub fn parse(text: &str) -> Result<HoldId, IdError> {
        let (time, shard, place) = unpack(text, KIND_HOLD)?;
        let version = (place & HOLD_VERSION_MAX) as u32;
        Ok(HoldId { time, shard, account: AccountNumber((place >> 30) as u32), version })
    }
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 32 hexadecimal digits in groups of 8-4-4-4-12.
    #[error("is not a UUID such as 019aab5e-8c00-8400-8000-000000000000")]
    NotAUuid,
    /// A UUID of another kind, version or variant: nothing here can have it.
    #[error("is not an id of this kind")]
    Foreign,
}

fn pack(time: Timestamp, kind: u64, shard: ShardId, place: u64) -> Uuid {
    let high = time.millis() << 16 | 8 << 12 | kind << 10 | u64::from(shard.0);
    let low = 0b10 << PLACE_BITS | place;
    Uuid::from_u64_pair(high, low)
}

fn unpack(text: &str, kind: u64) -> Result<(Timestamp, ShardId, u64), IdError> {
    // Of the spellings that the uuid crate reads (braced, URN, simple), only the canonical one names a
    // resource here: one resource, one URL.
    if text.len() != 36 {
        return Err(IdError::NotAUuid);
    }
    let (high, low) = Uuid::try_parse(text).map_err(|_| IdError::NotAUuid)?.as_u64_pair();
    let ours = high >> 12 & 0xf == 8 && high >> 10 & 0b11 == kind && low >> PLACE_BITS == 0b10;
    if !ours {
        return Err(IdError::Foreign);
    }
    let place = low & ((1 << PLACE_BITS) - 1);
    Ok((Timestamp::new(high >> 16), ShardId((high & 0x3ff) as u16), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_sorts_by_time() {
        let id = |millis, shard, sequence| TransactionId {
            time: Timestamp::from_millis(millis),
            shard: ShardId(shard),
            sequence: Sequence(sequence),
        };
        for id in [id(0, 0, 1), id(1_763_800_000_000, 1023, 77), id(u64::MAX, 5, Sequence::MAX.get())] {
            assert_eq!(TransactionId::parse(&id.to_uuid().to_string()), Ok(id));
        }
        assert!(id(1, 1023, 900).to_uuid() < id(2, 0, 1).to_uuid());
        let account = AccountId {
            opened: Timestamp::from_millis(1_763_800_000_000),
            shard: ShardId(3),
            number: AccountNumber(u32::MAX),
        };
        let text = account.to_uuid().to_string();
        assert_eq!(AccountId::parse(&text), Ok(account));
        assert_eq!(TransactionId::parse(&text), Err(IdError::Foreign));
    }

    #[test]
    fn other_texts_and_other_uuids_are_refused() {
        assert_eq!(AccountId::parse("nonsense"), Err(IdError::NotAUuid));
        assert_eq!(AccountId::parse("019aab5e8c0084008000000000000000"), Err(IdError::NotAUuid));
        assert_eq!(AccountId::parse("67e55044-10b1-426f-9247-bb680e5fe0c8"), Err(IdError::Foreign));
        assert_eq!(TransactionId::parse("00000000-0000-8800-8000-000000000000"), Err(IdError::Foreign));
    }
}
