//! The record: the events of one group commit, or of a part of one. A record is whole on disk, or not there.
//!
//! ```text
//! offset size
//!   0     4  CRC32C of all the bytes that follow
//!   4     1  format version, 2; records of version 1 are still read
//!   5     1  reserved, 0
//!   6     2  shard
//!   8     8  sequence of the first event
//!  16     8  time of the first event, milliseconds since the Unix epoch
//!  24     4  number of events, at least 1
//!  28     4  bytes of events
//!  32    32  BLAKE3 of the record before; of the ledger's id and the shard, for the first
//!  64        events, each behind its length as a varint
//! ```
//!
//! An event (`amount`, `time` and so on as in `storage::fields`, times after the event's own; a text stands
//! behind its length):
//!
//! ```text
//!  kind      1 byte: 1 opened, 2 deposit, 3 withdrawal, 4 closed, 5 refused, 6 claimed, 7 deposit, 8 withdrawal and
//!            9 closed with something held, 10 decided, 11 settled; +0x80 with a key
//!  time      varint, milliseconds after the record's
//!  key       if kind says so: key, varint milliseconds until it expires. A settled event has that of its part
//!  opened    account, name, currency, 0 or 1 + overdraft limit
//!  deposit, withdrawal   account, amount, entry
//!  closed    account, entry
//!  refused   rejection, text request id
//!  decided   decision, links
//!  settled   transaction (the decision's event), decision, links
//!  entry     varint version, amount balance, if kind says so amount held, link
//!  link      varint distance to the entry before, varint distance to the skip (distances back from this event's own
//!            sequence; 0 for none)
//!  links     varint number, links
//! ```
//!
//! A decision. Its times count from when it was made and its distances from its event in the log of the shard that
//! made it, wherever the copy stands: so all copies are the same bytes.
//!
//! ```text
//!  kind      1 byte: 1 opening, 2 deposit, 3 withdrawal, 4 transfer, 5 protection, 6 reversal + transaction, 7 hold,
//!            8 capture, 9 void, 10 expiry + hold id each, 11 amendment, 12 closing, 13 linking, 14 unlinking,
//!            15 refusal + rejected, text request id, 16 batch + varint number, results, text request id;
//!            +0x20 with a reference, +0x40 with metadata
//!  note      reference and metadata, if kind says so
//!  parts     varint number, parts
//!
//!  part      shard, 1 byte flags (1 decision before, 2 reverses, 4 key), if they say so: varint distance to the
//!            decision before, sequence of the transfer that is reversed, key + time of expiry; varint number, effects
//!  effect    1 byte what, account, time of opening, currency if there is no +0x40, varint version, amount balance,
//!            amount held if there is +0x80, allowance if there is +0x20, and by what:
//!              1 opened         name, 1 byte flags (1 overdraft limit, 2 reference, 4 metadata, 8 references are
//!                               unique, 16 velocity limits) and, if they say so, amount, reference, metadata, velocity
//!              2 posted         amount
//!              3 held           amount, time of expiry
//!              4 held for       amount, time of expiry, account id
//!              5 captured       varint version that is the hold's, amount
//!              6 voided, 7 expired   varint version that is the hold's
//!              8 amended        1 byte flags (1 overdraft limit changes, 2 to an own one, 4 freezing changes, 8 to
//!                               frozen, 16 metadata, 32 velocity limits) and, if they say so, amount, metadata, velocity
//!              9 linked as related, 10 linked for overdraft protection, 11 unlinked, 12 protects, 13 protects no
//!              more           account id
//!              14 closed
//!            +0x20 what may still leave the account, +0x40 the currency is that of the effect before in this decision,
//!            +0x80 something is held
//!  allowance 1 byte flags (1 day, 2 month, 4 debits) and, if they say so, amount left today, amount left this month,
//!            varint debits left
//!  result    1 byte: 1 done + varint distance, 2 refused + rejected, 3 settled + shard, sequence, 4 key reused,
//!            5 key in flight, 6 keys exhausted, 7 not attempted
//!  rejected  varint place of the account + 1, or 0; rejection
//! ```
//!
//! A rejection, 1 byte and what belongs to it:
//!
//! ```text
//!  1 account exists               14 velocity limit: currency, amount required, allowance
//!  2 account not found
//!  3 account closed               15 holds exhausted
//!  4 account not empty (version   16 too many decimals: currency
//!    1): amount, of USD           17 currency mismatch: currency expected, currency found
//!  5 version mismatch: varint     18 legs unbalanced: currency
//!  6 insufficient funds (version  19 account repeated            20 metadata full
//!    1): available, required,     21 condition not met: currency, amount available, varint version
//!    amounts of USD               22 hold not found              23 hold ended: currency, hold outcome
//!  7 balance out of range         24 hold exceeded: currency, amount held, amount required
//!  8 accounts exhausted           25 already reversed: transaction
//!  9 account not empty: currency, 26 reversal not partial
//!    amount                       27 reversal exceeded: currency, amount transferred
//! 10 insufficient funds: currency,28 reference used: transaction
//!    amounts available, required  29 link not found              30 link cycle
//! 11 account frozen               31 link chain too long         32 links exhausted
//! 12 account has holds: currency, amount
//! 13 nothing available: currency, amount
//! ```
//!
//! Version 1 has the event kinds 1 to 6 and the rejections 1 to 8. Version 2 has all, but for the rejections 4 and 6.
//!
//! Integers are little-endian, varints LEB128, texts behind their length in bytes. A record that does not
//! read back to the byte is not accepted: there is one spelling of everything.
//!
//! Always: records of a shard follow one another without a gap; each carries the hash of the one before, so a
//! record cannot be changed, dropped, moved or taken from another ledger without the chain showing it.

mod decision;
mod event;

use std::ops::Deref;

use event::{NO_EVENT, decode_framed, encode_framed};

use crate::ledger::{Decision, Event, Sequence, ShardId, Timestamp, TransactionId};
use crate::storage::codec::{Malformed, Reader};

/// The size in bytes at which a record of independent events is cut: large enough that the header costs nothing, and
/// small enough that whoever looks one event up does not read much else.
pub const RECORD_BYTES_TYPICAL_MAX: usize = 64 * 1024;

/// The largest record in bytes. Only events that have to stand in one record make one larger than
/// [`RECORD_BYTES_TYPICAL_MAX`]: those of an operation on many accounts, or of a list of a thousand operations. At a
/// hundred bytes each, with notes of several hundred more, a thousand fit. [`Draft::group`] says when they do not.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// More than a transfer between two accounts takes in a record, if it has no note and no key: each of its numbers at
/// its longest.
pub const TRANSFER_BYTES_MAX: usize = 256;

const FORMAT_VERSION: u8 = 2;
const FORMAT_FIRST: u8 = 1;
const HEADER_BYTES: usize = 64;

/// The BLAKE3 hash that links a record to the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What the first record of a shard is linked to.
    pub fn genesis(ledger: uuid::Uuid, shard: ShardId) -> ChainHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"teller journal 1");
        hasher.update(ledger.as_bytes());
        hasher.update(&(shard.index() as u16).to_le_bytes());
        ChainHash(*hasher.finalize().as_bytes())
    }

    fn of(record: &[u8]) -> ChainHash {
        ChainHash(*blake3::hash(record).as_bytes())
    }
}

impl std::fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..8]))
    }
}

/// Where a shard's log stands: what its next record has to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The last event.
    pub last: Sequence,
    /// The hash of the last record.
    pub chain: ChainHash,
}

impl LogPosition {
    /// The position before the first record.
    pub fn genesis(ledger: uuid::Uuid, shard: ShardId) -> LogPosition {
        LogPosition { last: Sequence::NONE, chain: ChainHash::genesis(ledger, shard) }
    }
}

/// A record in the making: events, not yet linked and summed.
///
/// The worker fills it; sealing, which hashes, is left to the thread that writes.
#[derive(Clone, Debug)]
pub struct Draft {
    first: Sequence,
    time: Timestamp,
    count: u32,
    events: Vec<u8>,
}

impl Draft {
    /// A draft that starts with this event.
    pub fn new(sequence: Sequence, event: &Event) -> Draft {
        Draft::group(sequence, std::slice::from_ref(event)).expect("any one event fits a record")
    }

    /// A draft of all these events, which have to be on disk together, from the sequence `first` on; `None` if they pass
    /// [`RECORD_BYTES_MAX`].
    ///
    /// # Panics
    /// If there is no event.
    pub fn group(first: Sequence, events: &[Event]) -> Option<Draft> {
        let time = events.first().expect("a record has an event").time;
        let mut draft = Draft { first, time, count: 0, events: Vec::with_capacity(events.len().max(8) * 64) };
        draft.add(events, RECORD_BYTES_MAX).then_some(draft)
    }

    /// Adds the next event, unless the record would pass [`RECORD_BYTES_TYPICAL_MAX`]: then nothing is added, and the
    /// event starts the next record.
    #[must_use]
    pub fn push(&mut self, event: &Event) -> bool {
        self.add(std::slice::from_ref(event), RECORD_BYTES_TYPICAL_MAX)
    }

    /// Adds the next events, all of them or, if the record would pass [`RECORD_BYTES_TYPICAL_MAX`], none: then they are
    /// a [`Draft::group`] of their own.
    #[must_use]
    pub fn push_all(&mut self, events: &[Event]) -> bool {
        self.add(events, RECORD_BYTES_TYPICAL_MAX)
    }

    /// How many bytes the events take.
    pub fn bytes(&self) -> usize {
        self.events.len()
    }

    /// Whether the record may take so many more bytes of events and is still of a typical size.
    pub fn has_room(&self, bytes: usize) -> bool {
        HEADER_BYTES + self.events.len() + bytes <= RECORD_BYTES_TYPICAL_MAX
    }

    /// Adds the next event, which has to be on disk together with those before.
    ///
    /// # Panics
    /// If the record would pass [`RECORD_BYTES_MAX`].
    pub fn push_joined(&mut self, event: &Event) {
        assert!(self.add(std::slice::from_ref(event), RECORD_BYTES_MAX), "there was room for it");
    }

    fn add(&mut self, events: &[Event], bytes_max: usize) -> bool {
        let start = self.events.len();
        for (place, event) in events.iter().enumerate() {
            let sequence = self.first.plus(u64::from(self.count) + place as u64);
            encode_framed(&mut self.events, event, self.time, sequence);
            if HEADER_BYTES + self.events.len() > bytes_max {
                self.events.truncate(start);
                return false;
            }
        }
        self.count += events.len() as u32;
        true
    }

    /// The sequence of the first event.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence of the last event.
    pub fn last(&self) -> Sequence {
        self.first.plus(u64::from(self.count) - 1)
    }

    /// The finished record, linked to `before`, which it moves on.
    ///
    /// # Panics
    /// If the draft does not start right behind `before`.
    pub fn seal(&self, shard: ShardId, before: &mut LogPosition) -> Vec<u8> {
        let record = self.seal_behind(shard, before);
        *before = LogPosition { last: self.last(), chain: ChainHash::of(&record) };
        record
    }

    /// The finished record, linked to `before`. What lies behind it takes a hash of it all, which
    /// [`Journal::append`](super::Journal::append) makes itself.
    ///
    /// # Panics
    /// If the draft does not start right behind `before`.
    pub fn seal_behind(&self, shard: ShardId, before: &LogPosition) -> Vec<u8> {
        assert_eq!(self.first, before.last.next(), "records follow one another");
        let mut record = Vec::with_capacity(HEADER_BYTES + self.events.len());
        record.extend_from_slice(&[0; 4]);
        record.push(FORMAT_VERSION);
        record.push(0);
        record.extend_from_slice(&(shard.index() as u16).to_le_bytes());
        record.extend_from_slice(&self.first.get().to_le_bytes());
        record.extend_from_slice(&self.time.millis().to_le_bytes());
        record.extend_from_slice(&self.count.to_le_bytes());
        record.extend_from_slice(&(self.events.len() as u32).to_le_bytes());
        record.extend_from_slice(&before.chain.0);
        record.extend_from_slice(&self.events);
        let checksum = crc32c::crc32c(&record[4..]);
        record[..4].copy_from_slice(&checksum.to_le_bytes());
        record
    }
}

/// How many events [`Record::each_group`] reads at a time: 16 transfers have 32 accounts, some 100 cache lines.
const EVENTS_IN_GROUP: usize = 16;

/// A record that was read back, its header and checksum verified.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    header: Header,
    first: Sequence,
    last: Sequence,
    before: ChainHash,
    /// The hash of the bytes, if that is known.
    hash: Option<ChainHash>,
}

/// What the reading of an event depends on.
#[derive(Clone, Copy, Debug)]
struct Header {
    version: u8,
    shard: ShardId,
    time: Timestamp,
}

impl<'a> Record<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// If its length, checksum, version or header is wrong. The events are checked as they are read.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(reader.malformed(format!("a record has {} bytes", bytes.len())));
        }
        let checksum = u32::from_le_bytes(reader.array()?);
        if checksum != crc32c::crc32c(&bytes[4..]) {
            return Err(Malformed { offset: 0, what: "the checksum of a record does not match".into() });
        }
        let version = reader.byte()?;
        if !(FORMAT_FIRST..=FORMAT_VERSION).contains(&version) {
            return Err(Malformed { offset: 4, what: format!("a record has the unknown format {version}") });
        }
        let reserved = reader.byte()?;
        let shard = ShardId::new(usize::from(u16::from_le_bytes(reader.array()?)));
        let first = Sequence::new(u64::from_le_bytes(reader.array()?));
        let time = u64::from_le_bytes(reader.array()?);
        let count = u64::from(u32::from_le_bytes(reader.array()?));
        let length = u32::from_le_bytes(reader.array()?) as usize;
        let before = ChainHash(reader.array()?);
        let (Some(shard), Some(first)) = (shard, first) else {
            return Err(Malformed { offset: 6, what: "a record's shard or sequence is out of range".into() });
        };
        let last = Sequence::new(first.get().saturating_add(count).saturating_sub(1));
        let (Some(last), 0, 1.., true, true) = (
            last,
            reserved,
            count.min(first.get()),
            time <= Timestamp::MAX.millis(),
            length == bytes.len() - HEADER_BYTES,
        ) else {
            return Err(Malformed { offset: 5, what: "a record's header contradicts itself".into() });
        };
        let header = Header { version, shard, time: Timestamp::from_millis(time) };
        Ok(Record { bytes, header, first, last, before, hash: None })
    }

    /// The shard that it belongs to.
    pub fn shard(&self) -> ShardId {
        self.header.shard
    }

    /// The sequence of the first event.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence of the last event.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The bytes of the whole record.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The position that this record continues, as it says itself.
    pub fn before(&self) -> LogPosition {
        let last = Sequence::new(self.first.get() - 1).expect("the first sequence is 1");
        LogPosition { last, chain: self.before }
    }

    /// The position behind this record, if it is the one that continues `before`.
    ///
    /// # Errors
    /// If it belongs to another shard, leaves a gap, or is not linked to the record before.
    pub fn follow(&self, shard: ShardId, before: &LogPosition) -> Result<LogPosition, Malformed> {
        if self.header.shard != shard {
            let what = format!("a record belongs to shard {}", self.header.shard);
            return Err(Malformed { offset: 6, what });
        }
        if self.first != before.last.next() {
            let what = format!(
                "sequence {} should follow, but a record starts at {}",
                before.last.next(),
                self.first
            );
            return Err(Malformed { offset: 8, what });
        }
        if self.before != before.chain {
            let what = format!("the record of sequence {} is not linked to the one before", self.first);
            return Err(Malformed { offset: 32, what });
        }
        let chain = self.hash.unwrap_or_else(|| ChainHash::of(self.bytes));
        Ok(LogPosition { last: self.last, chain })
    }

    /// The events and their sequences, in order. Ends after the first error.
    pub fn events(&self) -> Events<'a> {
        Events { reader: self.reader(), next: self.first, last: self.last, header: self.header }
    }

    /// The event with this sequence, found without decoding those before it.
    ///
    /// # Errors
    /// If the record is malformed up to there, or does not hold the sequence.
    pub fn event(&self, sequence: Sequence) -> Result<Event, Malformed> {
        let mut reader = self.reader();
        if sequence < self.first || sequence > self.last {
            return Err(reader.malformed(format!("sequence {sequence} is not in the record")));
        }
        for _ in self.first.get()..sequence.get() {
            reader.bytes()?;
        }
        let mut event = NO_EVENT;
        decode_framed(&mut reader, &self.header, sequence, &mut event)?;
        Ok(event)
    }

    /// Gives all events and their sequences to `visit`, in order, until that fails. As [`Record::events`], but no event
    /// is moved about: see `storage::fields`.
    ///
    /// # Errors
    /// If an event is malformed, or from `visit`.
    pub fn each_event(
        &self,
        mut visit: impl FnMut(Sequence, &Event) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let (mut events, mut event) = (self.events(), NO_EVENT);
        while let Some(sequence) = events.read(&mut event)? {
            visit(sequence, &event)?;
        }
        Ok(())
    }

    /// As [`Record::each_event`], some events at a time, so that what they are about can be fetched for all of them at
    /// once. An error comes behind all events before it.
    ///
    /// # Errors
    /// As [`Record::each_event`].
    pub fn each_group(
        &self,
        mut visit: impl FnMut(Sequence, &[Event]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let (mut events, mut group) = (self.events(), [NO_EVENT; EVENTS_IN_GROUP]);
        loop {
            let (first, mut count) = (events.next, 0);
            let end = loop {
                let Some(event) = group.get_mut(count) else { break Ok(false) };
                match events.read(event) {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break Ok(true),
                    Err(error) => break Err(error),
                }
            };
            visit(first, &group[..count])?;
            if end? {
                return Ok(());
            }
        }
    }

    fn reader(&self) -> Reader<'a> {
        let mut reader = Reader::new(self.bytes);
        // The header was read before.
        let _ = reader.take(HEADER_BYTES);
        reader
    }
}

/// A record and what owns its bytes, so that it can go to another thread: what was verified there need not be here.
#[derive(Debug)]
pub struct OwnedRecord<B> {
    bytes: B,
    rest: Record<'static>,
}

impl<B: Deref<Target = [u8]>> OwnedRecord<B> {
    /// Reads and hashes a record.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn parse(bytes: B) -> Result<OwnedRecord<B>, Malformed> {
        let rest = Record { hash: Some(ChainHash::of(&bytes)), bytes: &[], ..Record::parse(&bytes)? };
        Ok(OwnedRecord { bytes, rest })
    }

    /// The record.
    pub fn record(&self) -> Record<'_> {
        Record { bytes: &self.bytes, ..self.rest }
    }
}

/// How many bytes the record has of which these are the first, as its header says, which nothing has checked; 0 if the
/// header is not whole.
pub(super) fn announced_bytes(start: &[u8]) -> usize {
    match start.get(28..HEADER_BYTES) {
        Some([a, b, c, d, ..]) => HEADER_BYTES + u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    }
}

/// Iterates over the events of a [`Record`].
#[derive(Clone, Debug)]
pub struct Events<'a> {
    reader: Reader<'a>,
    next: Sequence,
    last: Sequence,
    header: Header,
}

impl Events<'_> {
    /// Reads the next event, if there is one, in place of what `event` has been.
    fn read(&mut self, event: &mut Event) -> Result<Option<Sequence>, Malformed> {
        let sequence = self.next;
        if sequence > self.last {
            if self.reader.is_empty() {
                return Ok(None);
            }
            return Err(self.reader.malformed("a record has bytes behind its last event"));
        }
        decode_framed(&mut self.reader, &self.header, sequence, event)?;
        self.next = sequence.next();
        Ok(Some(sequence))
    }
}

impl Iterator for Events<'_> {
    type Item = Result<(Sequence, Event), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut event = NO_EVENT;
        match self.read(&mut event) {
            Ok(None) => None,
            Ok(Some(sequence)) => Some(Ok((sequence, event))),
            Err(error) => {
                self.next = self.last.next();
                self.reader = Reader::new(&[]);
                Some(Err(error))
            }
        }
    }
}

/// 128 bits of a cryptographic hash of a decision and the event that made it: the same for all its copies.
pub fn decision_digest(by: TransactionId, decision: &Decision) -> u128 {
    event::decision_digest(by, decision)
}

#[cfg(test)]
mod tests;
