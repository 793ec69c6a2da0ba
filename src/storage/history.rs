//! Reading an account's history out of the log.
//!
//! An account knows its newest entry; each entry names the one before and one further back (see
//! [`crate::ledger::Chain`]). A page reads its own records and O(log n) on the way to its start, and nothing
//! of it stays in memory. The entry of any moment is found in O(log n) reads too.

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
    examined: u64,
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
        HistoryReader { shard, journal, record: None, examined: 0 }
    }

    /// How many entries of accounts it has looked at so far, those on the way to others too.
    pub fn examined(&self) -> u64 {
        self.examined
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
        self.examined += 1;
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
        let log = format!("the log of shard {}", self.shard);
        StorageError::at_sequence(log, sequence, what, RESTORE_BACKUP)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Mutex;

    use super::*;
    use crate::ledger::{Ledger, LedgerParts};
    use crate::storage::journal::record::{Draft, LogPosition};
    use crate::storage::samples::{Exchange, LEDGER, sample, shard};

    /// A log that counts what is read of it.
    struct Counting {
        records: Vec<(Sequence, Vec<u8>)>,
        reads: Mutex<Cell<usize>>,
    }

    impl Counting {
        fn new(shard: ShardId, events: &[Event], per_record: usize) -> Counting {
            let mut position = LogPosition::genesis(LEDGER, shard);
            let records = events.chunks(per_record).map(|events| {
                let first = position.last.next();
                (first, Draft::group(first, events).expect("they fit").seal(shard, &mut position))
            });
            Counting { records: records.collect(), reads: Mutex::default() }
        }

        fn reads(&self) -> usize {
            self.reads.lock().expect("not poisoned").take()
        }
    }

    impl JournalReader for Counting {
        fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
            let reads = self.reads.lock().expect("not poisoned");
            reads.set(reads.get() + 1);
            let place = self.records.partition_point(|(first, _)| *first <= sequence);
            Ok(Some(self.records[place - 1].1.clone()))
        }
    }

    /// Whatever kinds of events changed an account, its history is all of them.
    #[test]
    fn an_accounts_history_is_read_through_all_kinds_of_events() {
        let sample = sample(20, 7);
        let log = Counting::new(shard(), &sample.events, 7);
        let LedgerParts { accounts, .. } = sample.ledger.to_parts();
        for account in &accounts {
            let mut expected = Vec::new();
            let mut ledger = Ledger::new(shard());
            for event in &sample.events {
                let sequence = ledger.replay(event).expect("follows");
                if let Some(entry) = event.change.entry(shard(), account.number) {
                    expected.push(HistoryEntry { sequence, entry, event: event.clone() });
                }
            }
            expected.reverse();
            assert_eq!(expected.len() as u64, account.version);
            let mut history = HistoryReader::new(shard(), &log);
            let newest = account.chain.newest();
            let all = history.entries(account.number, newest, account.version, account.version, 1000);
            assert_eq!(all.expect("readable"), expected);
            for from in 1..=account.version {
                let page = history.entries(account.number, newest, account.version, from, 3);
                let start = (account.version - from) as usize;
                let end = expected.len().min(start + 3);
                assert_eq!(page.expect("readable"), expected[start..end]);
            }
            for moment in expected.iter().map(HistoryEntry::time) {
                let found = history.entry_at(account.number, newest, account.version, moment);
                let last_then = expected.iter().find(|entry| entry.time() <= moment);
                assert_eq!(found.expect("readable").as_ref(), last_then);
            }
        }
    }

    #[test]
    fn the_entry_of_any_moment_is_found_in_logarithmic_reads() {
        const ENTRIES: u64 = 3000;
        let mut exchange = Exchange::new(2);
        for number in 1..ENTRIES {
            // Now and then several entries stand at one moment, and there are moments without any.
            exchange.step_ms = [0, 0, 1, 20][(number % 4) as usize];
            let by = exchange.transfer((number % 2) as usize, &[(0, 1), (1, -1)]);
            exchange.settle(1 - (number % 2) as usize, by);
        }
        let ledger = &exchange.ledgers[0];
        let account = &ledger.accounts()[0];
        let log = Counting::new(ledger.shard(), &exchange.events[0], 1);
        let newest = account.chain.newest();
        assert_eq!(account.version, ENTRIES);
        let times: Vec<u64> = exchange.events[0].iter().map(|event| event.decided().millis()).collect();
        let at = |moment: u64| {
            let mut history = HistoryReader::new(ledger.shard(), &log);
            let moment = Timestamp::from_millis(moment);
            let found = history.entry_at(account.number, newest, account.version, moment).expect("readable");
            (found, log.reads())
        };
        let opened = account.opened.millis();
        assert_eq!(at(opened - 1).0, None);
        let mut worst = 0;
        for moment in opened..times[times.len() - 1] + 2 {
            let (found, reads) = at(moment);
            let found = found.expect("the account was there");
            assert_eq!(found.version(), times.partition_point(|time| *time <= moment) as u64, "at {moment}");
            assert_eq!(found.entry.balance.minor_units(), i128::from(found.version()) - 1);
            worst = worst.max(reads);
        }
        // Three steps a doubling, and in each the skip is read too.
        let log2 = ENTRIES.ilog2() as usize + 1;
        assert!(worst <= 6 * log2, "{worst} reads");
        println!("at most {worst} reads among {ENTRIES} entries");
    }

    #[test]
    fn entries_that_do_not_lead_to_one_another_are_told() {
        let mut exchange = Exchange::new(1);
        for _ in 0..9 {
            exchange.transfer(0, &[(0, 1)]);
        }
        let account = &exchange.ledgers[0].accounts()[0];
        let mut events = exchange.events[0].clone();
        events[4] = events[0].clone();
        let log = Counting::new(shard(), &events, 1);
        let mut history = HistoryReader::new(exchange.ledgers[0].shard(), &log);
        let error = history
            .entries(account.number, account.chain.newest(), account.version, account.version, 100)
            .expect_err("version 5 is missing")
            .to_string();
        assert!(error.contains("sequence 5") && error.contains("entry of version 5"), "{error}");
    }
}
