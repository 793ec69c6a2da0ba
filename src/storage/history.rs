//! Reading an account's history out of the log.
//!
//! An account knows its newest entry; each entry names the one before and one further back (see
//! [`crate::ledger::Chain`]). A page reads its own records and O(log n) on the way to its start, and nothing
//! of it stays in memory.

use std::ops::RangeInclusive;

use super::codec::Malformed;
use super::journal::JournalReader;
use super::journal::record::Record;
use super::{RESTORE_BACKUP, StorageError};
use crate::ledger::{AccountNumber, Event, Links, Sequence, ShardId};

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
    /// The account's version after it.
    pub version: u64,
    /// The event.
    pub event: Event,
}

impl HistoryEntry {
    fn links(&self) -> Links {
        match self.event.change.account() {
            Some((_, Some(entry))) => entry.links,
            _ => Links::default(),
        }
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
        let mut at = self.entry(account, newest, Some(version))?;
        while at.version > from {
            let links = at.links();
            // The skip is taken unless it leads too far. How far it leads is known once it has been read.
            let skipped = if links.skip == links.previous { None } else { Some(links.skip) };
            let skipped = match skipped.filter(|&skip| skip != Sequence::NONE) {
                Some(skip) => Some(self.entry(account, skip, None)?).filter(|entry| entry.version >= from),
                None => None,
            };
            at = match skipped {
                Some(entry) => entry,
                None => self.entry(account, links.previous, Some(at.version - 1))?,
            };
        }
        loop {
            let previous = at.links().previous;
            let version = at.version;
            entries.push(at);
            if entries.len() == count || version == 1 {
                return Ok(entries);
            }
            at = self.entry(account, previous, Some(version - 1))?;
        }
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
        let (found, entry_version) = match event.change.account() {
            Some((found, entry)) => (Some(found), entry.map_or(1, |entry| entry.version)),
            None => (None, 0),
        };
        if found != Some(account) || version.is_some_and(|version| version != entry_version) {
            let what =
                format!("the entry of version {version:?} of account number {} is not there", account.get());
            return Err(self.corrupt(sequence, what));
        }
        Ok(HistoryEntry { sequence, version: entry_version, event })
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
