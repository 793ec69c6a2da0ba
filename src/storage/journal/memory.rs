//! A journal in memory, for simulations and tests: it crashes and fails on command.
//!
//! It has what a disk has: a durable part, and a tail that was appended but not synced, which a crash takes.
//! What it leaves out: a disk may also tear a record. There is no need to simulate that, because a torn record
//! fails its checksum and so is a missing one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::record::{LogPosition, Record};
use super::{Journal, JournalReader};
use crate::ledger::{Sequence, ShardId};
use crate::storage::StorageError;

/// What error messages have for a path.
const PATH: &str = "memory";

/// A log in memory.
#[derive(Debug)]
pub struct MemoryJournal {
    shard: ShardId,
    log: Arc<Mutex<Log>>,
    position: LogPosition,
    failed: bool,
    append_fails: bool,
    sync_fails: bool,
}

/// Reads what a [`MemoryJournal`] was given.
#[derive(Clone, Debug)]
pub struct MemoryReader {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    /// By the first sequence: the position behind the record, and the record.
    records: BTreeMap<Sequence, (LogPosition, Vec<u8>)>,
    durable: LogPosition,
}

impl MemoryJournal {
    /// An empty log that continues `position`.
    pub fn new(shard: ShardId, position: LogPosition) -> MemoryJournal {
        MemoryJournal {
            shard,
            log: Arc::new(Mutex::new(Log { records: BTreeMap::new(), durable: position })),
            position,
            failed: false,
            append_fails: false,
            sync_fails: false,
        }
    }

    /// The reading side. It stays valid over a crash.
    pub fn reader(&self) -> MemoryReader {
        MemoryReader { log: Arc::clone(&self.log) }
    }

    /// The position behind the last record that is durable.
    pub fn durable(&self) -> LogPosition {
        self.log.lock().durable
    }

    /// The durable records, in order: what recovery finds.
    pub fn durable_records(&self) -> Vec<Vec<u8>> {
        let log = self.log.lock();
        let records = log.records.range(..=log.durable.last);
        records.map(|(_, (_, bytes))| bytes.clone()).collect()
    }

    /// Loses what was not synced and works again, as after a crash and a restart.
    pub fn crash(&mut self) {
        self.crash_keeping(0);
    }

    /// Crashes, but the first `count` records of what was not synced had reached the disk all the same.
    pub fn crash_keeping(&mut self, count: usize) {
        let mut log = self.log.lock();
        let tail = log.records.range(log.durable.last.next()..);
        if let Some(kept) = tail.take(count).last().map(|(_, (after, _))| *after) {
            log.durable = kept;
        }
        let end = log.durable.last.next();
        log.records.split_off(&end);
        self.position = log.durable;
        self.failed = false;
        self.append_fails = false;
        self.sync_fails = false;
    }

    /// Lets the next append fail.
    pub fn fail_next_append(&mut self) {
        self.append_fails = true;
    }

    /// Lets the next sync fail: nothing more becomes durable.
    pub fn fail_next_sync(&mut self) {
        self.sync_fails = true;
    }

    fn guarded(
        &mut self,
        action: &'static str,
        step: impl FnOnce(&mut MemoryJournal) -> Result<(), String>,
    ) -> Result<(), StorageError> {
        let result = if self.failed { Err("it has failed before".to_owned()) } else { step(self) };
        self.failed = result.is_err();
        result.map_err(|reason| StorageError::Journal { action, path: Path::new(PATH).to_owned(), reason })
    }
}

impl Journal for MemoryJournal {
    fn position(&self) -> LogPosition {
        self.position
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.guarded("append to", |journal| {
            if std::mem::take(&mut journal.append_fails) {
                return Err("the append was told to fail".into());
            }
            let record = Record::parse(bytes).map_err(|error| error.to_string())?;
            let after = record.follow(journal.shard, &journal.position).map_err(|error| error.to_string())?;
            let value = (after, bytes.to_vec());
            journal.log.lock().records.insert(record.first(), value);
            journal.position = after;
            Ok(())
        })
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.guarded("sync", |journal| {
            if std::mem::take(&mut journal.sync_fails) {
                return Err("the sync was told to fail".into());
            }
            journal.log.lock().durable = journal.position;
            Ok(())
        })
    }

    /// Only syncs: there are no parts.
    fn roll(&mut self) -> Result<(), StorageError> {
        self.sync()
    }
}

impl JournalReader for MemoryReader {
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        let log = self.log.lock();
        let found = log.records.range(..=sequence).next_back();
        Ok(found.filter(|(_, (after, _))| sequence <= after.last).map(|(_, (_, bytes))| bytes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{Bed, Chain, suite};
    use super::*;

    struct MemoryBed(MemoryJournal);

    impl Bed for MemoryBed {
        fn start(shard: ShardId, position: LogPosition) -> MemoryBed {
            MemoryBed(MemoryJournal::new(shard, position))
        }

        fn journal(&mut self) -> &mut dyn Journal {
            &mut self.0
        }

        fn reader(&self) -> Arc<dyn JournalReader> {
            Arc::new(self.0.reader())
        }

        fn restart(mut self) -> MemoryBed {
            self.0.crash();
            self
        }
    }

    suite!(MemoryBed);

    #[test]
    fn a_failed_append_or_sync_is_final_until_the_restart() {
        let mut chain = Chain::new();
        let mut journal = MemoryJournal::new(chain.shard, chain.position);
        let reader = journal.reader();
        let first = chain.record(3);
        journal.append(&first).expect("follows");
        journal.sync().expect("not told to fail");
        let durable = journal.position();

        let lost = chain.record(2);
        journal.append(&lost).expect("follows");
        journal.fail_next_sync();
        assert!(journal.sync().is_err());
        assert!(journal.sync().is_err(), "a sync is not tried again");
        assert!(journal.roll().is_err());
        assert_eq!(journal.durable(), durable);
        journal.crash();
        assert_eq!(journal.position(), durable);
        assert_eq!(journal.durable_records(), std::slice::from_ref(&first));
        assert_eq!(reader.record(durable.last.next()).expect("readable"), None);

        journal.fail_next_append();
        assert!(journal.append(&lost).is_err());
        assert!(journal.append(&lost).is_err(), "an append is not tried again");
        journal.crash();
        journal.append(&lost).expect("follows");
        journal.sync().expect("works again");
        assert_eq!(journal.durable_records(), [first, lost]);
    }

    #[test]
    fn a_crash_may_keep_a_part_of_the_tail() {
        for kept in 0..=4 {
            let mut chain = Chain::new();
            let mut journal = MemoryJournal::new(chain.shard, chain.position);
            let records: Vec<Vec<u8>> = (0..3).map(|_| chain.record(2)).collect();
            for record in &records {
                journal.append(record).expect("follows");
            }
            journal.crash_keeping(kept);
            assert_eq!(journal.durable_records(), records[..kept.min(3)]);
            assert_eq!(journal.position().last.get(), 2 * kept.min(3) as u64);
        }
    }
}
