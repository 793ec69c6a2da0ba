//! Reading an account's history out of the log.
//!
//! An account knows its newest entry; each entry names the one before and one further back (see
//! [`crate::ledger::Chain`]). A page reads its own records and O(log n) on the way to its start, and nothing
//! of it stays in memory.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use super::codec::Malformed;
use super::journal::JournalReader;
use super::journal::record::Record;
use super::{RESTORE_BACKUP, StorageError};
use crate::ledger::{AccountNumber, Entry, Event, Sequence, ShardId, Timestamp};

/// One shard's log, as history reads it.
pub struct HistoryReader<'a> {
    shard: ShardId,
    journal: &'a dyn JournalReader,
    /// The record read last, and the sequences in it: the entries of a busy account stand close together.
    record: Option<(RangeInclusive<Sequence>, Vec<u8>)>,
}

/// An event that is an entry of some account, and its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// Its place in the log.
    pub sequence: Sequence,
    /// The account's entry.
    pub entry: Entry,
    /// The event.
    pub event: Event,
}

impl HistoryEntry {
    /// The account's version after it.
    pub fn version(&self) -> u64 {
        self.entry.version
    }

    /// When it was decided, which is what the account's history is ordered by.
    pub fn time(&self) -> Timestamp {
        self.event.decided()
    }
}

impl<'a> HistoryReader<'a> {
    /// A reader of the log of this shard.
    pub fn new(shard: ShardId, journal: &'a dyn JournalReader) -> HistoryReader<'a> {
        HistoryReader { shard, journal, record: None }
    }

    /// The event with this sequence; `None` behind the end of the log.
    ///
    /// # Errors
    /// If the log cannot be read or is not intact there.
    pub fn event(&mut self, sequence: Sequence) -> Result<Option<Event>, StorageError> {
        let corrupt = |error: Malformed| self.corrupt(sequence, error.to_string());
        if let Some((_, bytes)) = self.record.as_ref().filter(|(sequences, _)| sequences.contains(&sequence))
        {
            let record = Record::parse(bytes).map_err(corrupt)?;
            return record.event(sequence).map(Some).map_err(corrupt);
        }
        let Some(bytes) = self.journal.record(sequence)? else {
            return Ok(None);
        };
        let record = Record::parse(&bytes).map_err(corrupt)?;
        let event = record.event(sequence).map_err(corrupt)?;
        self.record = Some((record.first()..=record.last(), bytes));
        Ok(Some(event))
    }

    /// Up to `count` entries of an account, newest first, from its version `from` downwards.
    ///
    /// `newest` is the account's newest entry, and `version` its version there.
    ///
    /// # Errors
    /// If the log cannot be read, or the entries do not lead to one another.
    pub fn entries(
        &mut self,
        account: AccountNumber,
        newest: Sequence,
        version: u64,
        from: u64,
        count: usize,
    ) -> Result<Vec<HistoryEntry>, StorageError> {
        let mut entries = Vec::new();
        if from == 0 || from > version || count == 0 {
            return Ok(entries);
        }
        let mut at = self.descend(account, newest, version, |entry| entry.version().cmp(&from))?;
        while let Some(found) = at {
            at = if entries.len() + 1 == count { None } else { self.before(account, &found)? };
            entries.push(found);
        }
        Ok(entries)
    }

    /// The newest entry of an account that is not after a moment; `None` if the account was opened later.
    ///
    /// `newest` is the account's newest entry, and `version` its version there. Reads O(log version) records.
    ///
    /// # Errors
    /// If the log cannot be read, or the entries do not lead to one another.
    pub fn entry_at(
        &mut self,
        account: AccountNumber,
        newest: Sequence,
        version: u64,
        moment: Timestamp,
    ) -> Result<Option<HistoryEntry>, StorageError> {
        // Whether an entry before the moment is the last one shows the one behind it.
        let place = |entry: &HistoryEntry| entry.time().cmp(&moment).then(Ordering::Less);
        self.descend(account, newest, version, place)
    }

    /// The newest entry whose `place` is not `Greater`, as that of no entry before it is. `Equal` is known to be the one.
    fn descend(
        &mut self,
        account: AccountNumber,
        newest: Sequence,
        version: u64,
        place: impl Fn(&HistoryEntry) -> Ordering,
    ) -> Result<Option<HistoryEntry>, StorageError> {
        let mut at = self.entry(account, newest, Some(version))?;
        while place(&at) == Ordering::Greater {
            let links = at.entry.links;
            // The skip is taken unless it leads too far. How far it leads is known once it has been read.
            let is_skip = links.skip != Sequence::NONE && links.skip != links.previous;
            let skipped = if is_skip { Some(self.entry(account, links.skip, None)?) } else { None };
            at = match skipped.filter(|entry| place(entry) != Ordering::Less) {
                Some(entry) => entry,
                None => match self.before(account, &at)? {
                    Some(entry) => entry,
                    None => return Ok(None),
                },
            };
        }
        Ok(Some(at))
    }

    /// The account's entry before one; `None` before its first.
    fn before(
        &mut self,
        account: AccountNumber,
        entry: &HistoryEntry,
    ) -> Result<Option<HistoryEntry>, StorageError> {
        if entry.version() <= 1 {
            return Ok(None);
        }
        self.entry(account, entry.entry.links.previous, Some(entry.version() - 1)).map(Some)
    }

    /// The account's entry at a sequence, which has to have this version, if it is known.
    fn entry(
        &mut self,
        account: AccountNumber,
        sequence: Sequence,
        version: Option<u64>,
    ) -> Result<HistoryEntry, StorageError> {
        let event = self
            .event(sequence)?
            .ok_or_else(|| self.corrupt(sequence, "an entry of an account is missing".into()))?;
        let entry = event.change.entry(self.shard, account);
        let entry = entry.filter(|entry| version.is_none_or(|version| version == entry.version));
        let entry = entry.ok_or_else(|| {
            let version = version.map_or("some version".to_owned(), |version| format!("version {version}"));
            let what = format!("the entry of {version} of account number {} is not there", account.get());
            self.corrupt(sequence, what)
        })?;
        Ok(HistoryEntry { sequence, entry, event })
    }

    fn corrupt(&self, sequence: Sequence, what: String) -> StorageError {
        StorageError::Corrupt {
            path: format!("the log of shard {}", self.shard).into(),
            position: format!("sequence {sequence}"),
            what,
            next_step: RESTORE_BACKUP,
        }
    }
}
