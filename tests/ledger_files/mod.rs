//! A small ledger on disk, made through the library, for tests of what lies there.

#[path = "../directory/mod.rs"]
mod directory;
#[path = "../../src/logged.rs"]
mod logged;

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub(crate) use directory::copy;
pub(crate) use logged::logged;
use teller::ledger::{
    AccountName, AccountRef, Amount, Command, Currency, Event, IdempotencyKey, KeyDigest, Ledger,
    LedgerParts, OverdraftDefault, Quantity, Sequence, ShardId, Target, Terms, Timestamp,
};
use teller::progress::Progress;
use teller::storage::StorageError;
use teller::storage::journal::record::Draft;
use teller::storage::journal::{Journal, JournalOptions, JournalReader};
use teller::storage::log::{CompactionLimits, Recovered, ShardFiles, recover};
use teller::storage::manifest::{Birth, DataDirectory};
use uuid::Uuid;

pub(crate) const LEDGER: Uuid = Uuid::from_u128(0x7e11_e200_0000_4000_8000_0000_0000_0001);

/// Of no snapshot more is read than what has changed, and of no segment is there more than a generation.
pub(crate) const AS_A_LARGE_LEDGER: CompactionLimits =
    CompactionLimits { generations: 4, accounts: 1_000_000, whole_snapshot_bytes: 0, segment_bytes: 0 };

/// How often a start is tried while an ended one still holds a file: ten seconds.
const ATTEMPTS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(5);

/// A ledger that is running, without threads.
pub(crate) struct Running {
    pub(crate) shards: Vec<Shard>,
    /// Last, as it holds the lock.
    _directory: DataDirectory,
}

pub(crate) struct Shard {
    pub(crate) files: ShardFiles,
    pub(crate) recovered: Recovered,
    pub(crate) replayed: u64,
}

/// All that clients can see of a shard: its state, and the record of every event.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) state: LedgerParts,
    pub(crate) records: Vec<Vec<u8>>,
}

impl Running {
    /// Starts as the server does.
    pub(crate) fn start(path: &Path, ledger: Uuid, shards: usize) -> Result<Running, StorageError> {
        let birth = Birth { shards, ledger, created: Timestamp::from_millis(1_763_800_000_000) };
        let directory = DataDirectory::open(path, None, &birth)?;
        let shards = (0..directory.shards()).filter_map(ShardId::new).map(|id| {
            let files = ShardFiles::new(&directory, id);
            let progress = Progress::new("recovering", "events", None);
            // In one process only: threads of sled's may hold a generation a moment longer than its journal.
            let mut attempts = 0..ATTEMPTS;
            let recovered = loop {
                match recover(&files, JournalOptions::default(), &progress) {
                    Err(StorageError::Locked { .. }) if attempts.next().is_some() => thread::sleep(PAUSE),
                    recovered => break recovered?,
                }
            };
            Ok(Shard { files, recovered, replayed: progress.done() })
        });
        Ok(Running { shards: shards.collect::<Result<_, StorageError>>()?, _directory: directory })
    }

    /// Ends as the server does.
    pub(crate) fn stop(self) {
        for Shard { recovered: Recovered { ledger, journal, log }, .. } in self.shards {
            log.finish(journal, &ledger).expect("finished");
        }
    }
}

impl Shard {
    /// One event, and its record, durable.
    pub(crate) fn run(&mut self, command: &Command, key: Option<u8>) {
        let Recovered { ledger, journal, .. } = &mut self.recovered;
        let terms = Terms {
            now: Timestamp::from_millis(1_763_800_000_000 + 10 * ledger.last().get()),
            overdraft: OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO },
            key_retention_ms: 1_000_000,
            keys_max: 1000,
        };
        let change = ledger.decide(command, &terms).expect("it is allowed");
        let key = key.map(|byte| IdempotencyKey { digest: KeyDigest([byte; 16]), fingerprint: [byte; 16] });
        let event = Event { time: terms.now, key: key.map(|key| terms.key_use(key)), change };
        ledger.apply(&event);
        let record = Draft::new(journal.position().last.next(), &event)
            .seal_behind(self.files.shard, &journal.position());
        journal.append(&record).expect("appended");
        journal.sync().expect("synced");
    }

    pub(crate) fn open(&mut self, name: &str) {
        let name = AccountName::parse(name).expect("valid");
        self.run(&Command::Open { name, currency: Currency::USD, overdraft_limit: None }, None);
    }

    pub(crate) fn deposit(&mut self, name: &str, units: i128) {
        let target =
            Target { account: AccountRef::Name(AccountName::parse(name).expect("valid")), version: None };
        let amount = Quantity::of(Amount::from_minor_units(units).expect("in range"), Currency::USD);
        self.run(&Command::Deposit { target, amount }, u8::try_from(units).ok());
    }

    pub(crate) fn deposits(&mut self, name: &str, units: std::ops::Range<i128>) {
        units.for_each(|units| self.deposit(name, units));
    }

    /// Seals the generation and compacts, now as a small ledger and now as a large one.
    pub(crate) fn compact(&mut self) {
        self.recovered.journal.roll().expect("rolled");
        let is_large = self.ledger().last().get().is_multiple_of(2);
        let limits = if is_large { AS_A_LARGE_LEDGER } else { CompactionLimits::default() };
        self.recovered.log.compact(&limits, &|_| true).expect("compacted");
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.recovered.ledger
    }

    pub(crate) fn seen(&self) -> Result<Seen, StorageError> {
        let last = self.ledger().last().get();
        let record = |sequence| {
            let sequence = Sequence::new(sequence).expect("in range");
            Ok(self.recovered.log.record(sequence)?.unwrap_or_default())
        };
        Ok(Seen {
            state: self.ledger().to_parts(),
            records: (1..=last).map(record).collect::<Result<_, _>>()?,
        })
    }
}

/// A directory in memory, if there is such a place: nothing here needs a disk.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

/// The names in a directory, sorted; none if it is not there.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let name =
        |entry: io::Result<fs::DirEntry>| entry.expect("read").file_name().into_string().expect("UTF-8");
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
