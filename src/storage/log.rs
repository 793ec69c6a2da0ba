//! A shard's whole log: archive segments, sealed generations, the live one; and how the first grow out of the
//! second.
//!
//! ```text
//! archive 1-900 | archive 901-2000 | generation 7, sealed | generation 8, live   <- appends
//!                                  ^ snapshot at 2000
//! ```
//!
//! What always holds:
//!
//! - segments and generations follow one another without a gap, each linked to the one before by the chain; a generation
//!   that the archive has already, since a crash kept it from being removed, is of the same history, as far as it is
//!   whole;
//! - what the archive has is read from there;
//! - a generation is removed only after a snapshot at or behind its end and a segment with all its records are
//!   durable and have been read back;
//! - so at every moment, and after every crash, the log is complete from sequence 1, and there is a snapshot
//!   at or behind the end of the archive, or there was one and it can be made again.
//!
//! Compaction ([`ShardLog::compact`]) works on files only, a few sealed generations at a time: it reads the snapshot
//! before and those, and the shard's worker never hears of it. Of the accounts of a large ledger it has those in memory
//! that have changed since that snapshot, and replays on them with all checks; the others go from file to file.

use std::borrow::Borrow;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::archive::{self, Segment, SegmentWriter};
use super::codec::Malformed;
use super::in_flight::Side;
use super::journal::record::{LogPosition, Record};
use super::journal::{
    Copies, Generation, Generations, Journal, JournalOptions, JournalReader, SledJournal, VisitRecord,
    list_generations, read_generations, sweep_generations,
};
use super::manifest::DataDirectory;
use super::{RESTORE_BACKUP, StorageError, UnsyncedWatermark, Watermark, files, pace, snapshot};
use crate::ledger::{AccountSet, Event, Ledger, Sequence, ShardId};
use crate::progress::Progress;

/// How many snapshots are kept: the newest, and one to fall back to by hand.
const SNAPSHOTS_KEPT: usize = 2;

/// How many bytes of the newest archive segments are read and verified at a start. The rest is verified when it
/// is read, and by `teller verify`; a start must not take longer the older the ledger is (P10).
const ARCHIVE_BYTES_VERIFIED_AT_START: u64 = 64 * 1024 * 1024;

/// Segments are merged up to this size: 10 TB of archive are then 160,000 segments, 40 MB of memory.
const MERGED_SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A segment is merged with the newest one if it is at most so many times larger. So small segments, which a
/// snapshot every few minutes makes, are rewritten a few times in all, and a start never finds many of them.
const MERGE_RATIO_MAX: u64 = 4;

/// How much [`ShardLog::compact`] does at a time, and how. The default is for a server; whatever it is, the log is
/// complete and holds the same records.
#[derive(Clone, Copy, Debug)]
pub struct CompactionLimits {
    /// How many generations go into the same snapshot, besides those that the one before covers already; if there are as
    /// many of those, so many are archived without one. What waits takes memory until it is compacted, so it is better done
    /// in steps; larger steps are not cheaper, unless the snapshot takes longer than the generations, and take more room.
    pub generations: usize,
    /// With so many changed accounts, or so many opened, no further generation goes into the same snapshot. This bounds
    /// the memory that accounts take meanwhile, at some 250 bytes each: a generation can have 1.5 million. Keys, holds,
    /// references and reversals are there as a whole. A smaller bound makes more snapshots when a large ledger is behind:
    /// writing one of a million accounts takes as long as two generations.
    pub accounts: usize,
    /// A snapshot of no more bytes is read whole when the next one is made: some 300,000 accounts. Of a larger one only
    /// the accounts that have changed are, and finding out which is a third of a compaction.
    pub whole_snapshot_bytes: u64,
    /// Generations go into the same segment until it has so many bytes. With half of what segments are merged up to, of
    /// full generations none but the last segment of a step is merged.
    pub segment_bytes: u64,
}

impl Default for CompactionLimits {
    fn default() -> CompactionLimits {
        CompactionLimits {
            generations: 4,
            accounts: 1_000_000,
            whole_snapshot_bytes: 32 * 1024 * 1024,
            segment_bytes: MERGED_SEGMENT_BYTES_MAX / 2,
        }
    }
}

/// Where a shard's files are, and whose they are.
#[derive(Clone, Debug)]
pub struct ShardFiles {
    /// The shard.
    pub shard: ShardId,
    /// The ledger's id.
    pub ledger: Uuid,
    /// Snapshots.
    pub snapshots: PathBuf,
    /// Archive segments.
    pub archive: PathBuf,
    /// Generations of the journal.
    pub journal: PathBuf,
    /// The watermark.
    pub watermark: PathBuf,
}

impl ShardFiles {
    /// The files of a shard.
    pub fn new(directory: &DataDirectory, shard: ShardId) -> ShardFiles {
        ShardFiles {
            shard,
            ledger: directory.ledger(),
            snapshots: directory.snapshot_directory(shard),
            archive: directory.archive_directory(shard),
            journal: directory.shard_directory(shard).join("journal"),
            watermark: directory.watermark(shard),
        }
    }

    /// Those of each shard, in their order.
    pub fn of_all(directory: &DataDirectory) -> Vec<ShardFiles> {
        let ids = (0..directory.shards()).filter_map(ShardId::new);
        ids.map(|shard| ShardFiles::new(directory, shard)).collect()
    }

    /// The position before the first record.
    pub fn genesis(&self) -> LogPosition {
        LogPosition::genesis(self.ledger, self.shard)
    }

    /// Makes the names of the files durable. A process that was killed may have renamed one and not lived to sync
    /// its directory: the name is found, and with it a reason to delete what the file replaces, but it would not
    /// outlast a power cut.
    ///
    /// # Errors
    /// If a directory cannot be synced.
    fn sync_names(&self) -> Result<(), StorageError> {
        for directory in [&self.snapshots, &self.archive] {
            files::sync_directory(directory)?;
        }
        if self.journal.exists() {
            files::sync_directory(&self.journal)?;
        }
        self.watermark.parent().map_or(Ok(()), files::sync_directory)
    }

    /// The newest snapshot, or the empty ledger before the first one.
    ///
    /// # Errors
    /// If it is not intact.
    pub fn newest_snapshot(&self) -> Result<(Ledger, LogPosition), StorageError> {
        match snapshot::list(&self.snapshots)?.last() {
            Some((_, path)) => snapshot::read_ahead(path, self.ledger, self.shard),
            None => Ok((Ledger::new(self.shard), self.genesis())),
        }
    }
}

/// A shard's log as it lies on disk, opened for reading. Tools write nothing there; a start makes its copies in the
/// generations.
pub struct StoredLog {
    files: ShardFiles,
    copies: Copies,
    segments: Vec<Arc<Segment>>,
    generations: Vec<Generation>,
}

impl StoredLog {
    /// Opens segments and generations.
    ///
    /// # Errors
    /// If one cannot be opened, or segments do not join.
    pub fn open(files: &ShardFiles) -> Result<StoredLog, StorageError> {
        let mut log = StoredLog::open_archive(files)?;
        log.generations = log.read_generations(&mut |_, _| Ok(()))?;
        Ok(log)
    }

    /// Opens the segments. The generations are missing until [`StoredLog::read`].
    ///
    /// # Errors
    /// If one cannot be opened, or they do not join.
    pub fn open_archive(files: &ShardFiles) -> Result<StoredLog, StorageError> {
        let segments = archive::list(&files.archive, files.ledger, files.shard)?;
        let segments = segments.into_iter().map(Arc::new).collect();
        let (files, copies) = (files.clone(), Copies::Temporary);
        Ok(StoredLog { files, copies, segments, generations: Vec::new() })
    }

    fn read_generations(&self, visit: VisitRecord<'_>) -> Result<Vec<Generation>, StorageError> {
        let paths: Vec<PathBuf> =
            list_generations(&self.files.journal)?.into_iter().map(|(_, path)| path).collect();
        read_generations(&paths, self.copies, visit)
    }

    /// Tells it if the generations that the archive has as well end before it does: then the last of them has lost its end,
    /// or all that it had. If every one of them has lost all, that cannot be told: a generation without a record may
    /// never have had one.
    pub(super) fn warn_of_lost_end(&self) {
        let Some(archived) = self.segments.last().map(|segment| segment.last()) else { return };
        let known = self.generations.iter().rev().find_map(|generation| {
            let (first, last) = generation.range()?;
            (first <= archived).then_some(last)
        });
        if let Some(last) = known.filter(|last| *last < archived) {
            tracing::warn!(
                path = %self.files.journal.display(),
                last = last.get(),
                "a generation has lost its end; nothing is, for the archive has it"
            );
        }
    }

    /// How many bytes of segments and records there are.
    pub fn bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|segment| segment.bytes()).sum();
        segments + self.generations.iter().map(Generation::bytes_written).sum::<u64>()
    }

    /// Reads the log behind `from` to its end, verifying every link on the way, and returns the end.
    ///
    /// `visit` gets each record and the position behind it.
    ///
    /// # Errors
    /// If a record is damaged, missing or out of place, if the log does not reach or contain `from`, or from
    /// `visit`.
    pub fn walk(&self, from: LogPosition, visit: Visit<'_>) -> Result<LogPosition, StorageError> {
        walk(&self.files, &self.segments, from, visit, |step| replay_generations(&self.generations, step))
    }

    /// As [`StoredLog::walk`], of a log of which only the archive has been opened: opens the generations on the way, so
    /// that their records, all of which have to be looked at in any case, are read once.
    ///
    /// # Errors
    /// As [`StoredLog::open`] and [`StoredLog::walk`].
    pub fn read(&mut self, from: LogPosition, visit: Visit<'_>) -> Result<LogPosition, StorageError> {
        let mut generations = Vec::new();
        let end = walk(&self.files, &self.segments, from, visit, |step| {
            generations = self.read_generations(step)?;
            Ok(())
        })?;
        self.generations = generations;
        Ok(end)
    }

    /// Verifies every byte of the newest segments, up to a bound; of all of them without one.
    ///
    /// # Errors
    /// If one is not as it was written.
    pub fn verify_archive(&self, bytes_max: u64) -> Result<(), StorageError> {
        let mut bytes = 0;
        for segment in self.segments.iter().rev() {
            // The newest always, however large.
            if bytes > 0 && bytes + segment.bytes() > bytes_max {
                break;
            }
            segment.verify()?;
            bytes += segment.bytes();
        }
        Ok(())
    }
}

impl JournalReader for StoredLog {
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        if let Some(segment) = segment_with(&self.segments, sequence) {
            return segment.record(sequence).map(Some);
        }
        for generation in self.generations.iter().rev() {
            if let Some(record) = generation.record(sequence)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

fn segment_with(segments: &[Arc<Segment>], sequence: Sequence) -> Option<&Arc<Segment>> {
    let segment = segments.get(segments.partition_point(|segment| segment.last() < sequence));
    segment.filter(|segment| segment.contains(sequence))
}

/// What gets the records of a walk.
pub type Visit<'a> = &'a mut dyn FnMut(&Record<'_>, &LogPosition) -> Result<(), Malformed>;

fn replay_generations<G: Borrow<Generation>>(
    generations: &[G],
    visit: VisitRecord<'_>,
) -> Result<(), StorageError> {
    let mut generations = generations.iter().map(Borrow::borrow);
    generations.try_for_each(|generation| generation.replay(&mut |record| visit(generation.path(), record)))
}

/// Walks through the segments, and then through what `journal` gives.
fn walk(
    files: &ShardFiles,
    segments: &[Arc<Segment>],
    from: LogPosition,
    visit: Visit<'_>,
    journal: impl FnOnce(VisitRecord<'_>) -> Result<(), StorageError>,
) -> Result<LogPosition, StorageError> {
    let mut walk = Walk { files, from, position: files.genesis(), visit };
    walk.check_start(&files.snapshots)?;
    for segment in segments {
        if segment.after().last <= from.last {
            // The list of segments was checked to join: what lies before the start need not be read.
            walk.position = segment.after();
            walk.check_start(segment.path())?;
        } else {
            walk.position = segment.before();
            walk.check_start(segment.path())?;
            segment.replay(&mut |record| walk.step(segment.path(), record))?;
        }
    }
    let archived = walk.position;
    let mut known = None;
    journal(&mut |path, record| {
        if record.last() > archived.last {
            return walk.step(path, record);
        }
        known = Some(check_known(files.shard, path, record, known, archived)?);
        Ok(())
    })?;
    let end = walk.position;
    if let Some(known) = known.filter(|known| known.last < archived.last) {
        check_known_end(files, segments, known)?;
    }
    if end.last < from.last {
        let what = format!("the log ends, but there is a snapshot at sequence {}", from.last);
        return Err(corrupt_at(&files.journal, end.last.next(), what));
    }
    Ok(end)
}

/// Damage that a walk finds at a sequence.
fn corrupt_at(path: &Path, sequence: Sequence, what: String) -> StorageError {
    StorageError::at_sequence(path, sequence, what, RESTORE_BACKUP)
}

const ANOTHER_HISTORY: &str = "the generation and the archive are not of one history";

/// Checks that a record which the archive has already continues the one before, and at the archive's end that the
/// generations tell what that does. Returns the position behind it.
fn check_known(
    shard: ShardId,
    path: &Path,
    record: &Record<'_>,
    before: Option<LogPosition>,
    archived: LogPosition,
) -> Result<LogPosition, StorageError> {
    pace::rest();
    let corrupt = |what| corrupt_at(path, record.first(), what);
    let before = before.unwrap_or_else(|| record.before());
    let after = record.follow(shard, &before).map_err(|error| corrupt(error.what))?;
    if after.last == archived.last && after.chain != archived.chain {
        return Err(corrupt(ANOTHER_HISTORY.into()));
    }
    Ok(after)
}

/// Checks the same where the generations end before the archive does.
fn check_known_end(
    files: &ShardFiles,
    segments: &[Arc<Segment>],
    known: LogPosition,
) -> Result<(), StorageError> {
    let corrupt = |what| corrupt_at(&files.journal, known.last, what);
    let segment = segment_with(segments, known.last).expect("the archive has it");
    let bytes = segment.record(known.last)?;
    let archived = Record::parse(&bytes).and_then(|record| record.follow(files.shard, &record.before()));
    if archived.map_err(|error| corrupt(error.what))? != known {
        return Err(corrupt(ANOTHER_HISTORY.into()));
    }
    Ok(())
}

struct Walk<'a> {
    files: &'a ShardFiles,
    from: LogPosition,
    position: LogPosition,
    visit: Visit<'a>,
}

impl Walk<'_> {
    fn step(&mut self, path: &Path, record: &Record<'_>) -> Result<(), StorageError> {
        pace::rest();
        let malformed = |error: Malformed| corrupt_at(path, self.position.last.next(), error.what);
        let next = self.position.last.next();
        if record.first() > next {
            let what = format!(
                "sequences {next} to {} are in no archive segment and no generation; {} goes on behind them",
                Sequence::new(record.first().get() - 1).unwrap_or(next),
                path.display()
            );
            return Err(corrupt_at(self.files.archive.parent().unwrap_or(path), next, what));
        }
        let after = record.follow(self.files.shard, &self.position).map_err(malformed)?;
        if record.first() > self.from.last {
            (self.visit)(record, &after).map_err(malformed)?;
        }
        self.position = after;
        self.check_start(path)
    }

    /// Where the walk passes its start, the chain has to be the one that the start was taken from.
    fn check_start(&self, path: &Path) -> Result<(), StorageError> {
        if self.position.last != self.from.last || self.position.chain == self.from.chain {
            return Ok(());
        }
        let what = "the log and the snapshot or watermark of this sequence are not of one history";
        Err(corrupt_at(path, self.from.last, what.into()))
    }
}

/// Whether a snapshot has all that a generation has.
fn is_covered(generation: &Generation, snapshot: Option<&(Sequence, PathBuf)>) -> bool {
    let covered = snapshot.map_or(Sequence::NONE, |(last, _)| *last);
    generation.range().is_none_or(|(_, last)| last <= covered)
}

/// Applies a record's events to the ledger that they follow from.
///
/// # Errors
/// If an event cannot be read or does not follow.
pub fn replay(ledger: &mut Ledger, record: &Record<'_>) -> Result<(), Malformed> {
    record.each_group(|first, events| {
        ledger.fetch(events);
        let sequences = (first.get()..).map_while(Sequence::new);
        events.iter().zip(sequences).try_for_each(|(event, sequence)| replay_event(ledger, sequence, event))
    })
}

/// Applies one event of a record, the one with this sequence.
///
/// # Errors
/// If it does not follow.
pub(super) fn replay_event(ledger: &mut Ledger, sequence: Sequence, event: &Event) -> Result<(), Malformed> {
    ledger.replay(event).map(drop).map_err(|error| Malformed {
        offset: 0,
        what: format!("the event of sequence {sequence} does not follow: {error}"),
    })
}

/// The accounts that have changed behind `covered`, in the segments and in the first of the generations. The others,
/// in which too many more have, are left for another snapshot.
fn changed_accounts(
    shard: ShardId,
    segments: &[Arc<Segment>],
    sealed: &mut Vec<Arc<Generation>>,
    covered: Sequence,
    accounts_max: usize,
) -> Result<AccountSet, StorageError> {
    let mut changed = AccountSet::default();
    // There are some after the loss of a snapshot.
    for segment in segments.iter().filter(|segment| segment.last() > covered) {
        segment.replay(&mut |record| note_accounts(shard, segment.path(), record, covered, &mut changed))?;
    }
    let mut taken = 0;
    for generation in sealed.iter() {
        if changed.len() >= accounts_max {
            break;
        }
        generation
            .replay(&mut |record| note_accounts(shard, generation.path(), record, covered, &mut changed))?;
        taken += 1;
    }
    sealed.truncate(taken);
    Ok(changed)
}

/// Adds the accounts that a record's events are about, if it is behind `covered`.
fn note_accounts(
    shard: ShardId,
    path: &Path,
    record: &Record<'_>,
    covered: Sequence,
    accounts: &mut AccountSet,
) -> Result<(), StorageError> {
    pace::rest();
    if record.last() <= covered {
        return Ok(());
    }
    let noted = record.each_event(|_, event| {
        event.change.note_accounts(shard, accounts);
        Ok(())
    });
    noted.map_err(|error| StorageError::malformed(path, 0, error, RESTORE_BACKUP))
}

/// A shard that has been recovered.
pub struct Recovered {
    /// The state.
    pub ledger: Ledger,
    /// The journal, continuing it.
    pub journal: ShardJournal,
    /// The log, for readers and for compaction.
    pub log: Arc<ShardLog>,
}

impl Recovered {
    /// The shard, for [`settle`](super::in_flight::settle).
    pub fn side(&mut self) -> Side<'_> {
        Side { ledger: &mut self.ledger, log: &*self.log, journal: &mut self.journal }
    }

    /// Takes back the generation that was made for this life, when nothing comes of that because of another shard.
    ///
    /// # Errors
    /// If it cannot be deleted. The log is complete all the same.
    pub fn abandon(self) -> Result<(), StorageError> {
        self.journal.journal.abandon()
    }
}

/// Brings a shard back: the newest snapshot, then the log behind it, verified against the chain and the
/// watermark. Afterwards all that was read is durable, and a new generation is ready.
///
/// # Errors
/// If anything is not as it was written (P6). Nothing that the log consists of has been changed then. Gone are files and
/// generations which were in the making, or being deleted, when the last process ended; and if all could be read and what
/// came after failed, perhaps also segments that a merged one has, and generations without a record, while the watermark
/// may stand at the log's end.
pub fn recover(
    files: &ShardFiles,
    options: JournalOptions,
    progress: &Progress,
) -> Result<Recovered, StorageError> {
    // First, as nothing depends on them and the disk may be full of them.
    files::remove_leftovers(&files.snapshots)?;
    files::remove_leftovers(&files.archive)?;
    sweep_generations(&files.journal)?;
    // Else all goes well until the first snapshot, and from then on only the journal grows.
    files::check_writable(&files.snapshots)?;
    files::check_writable(&files.archive)?;
    let (mut ledger, start) = files.newest_snapshot()?;
    // The others are the way out when the newest is lost: too late to learn then that they are damaged.
    let snapshots = snapshot::list(&files.snapshots)?;
    for (_, older) in snapshots.iter().rev().skip(1) {
        snapshot::check(older, files.ledger, files.shard)?;
    }
    let mut stored = StoredLog { copies: Copies::Inside, ..StoredLog::open_archive(files)? };
    stored.verify_archive(ARCHIVE_BYTES_VERIFIED_AT_START)?;
    if let Some(segment) = stored.segments.last().filter(|segment| segment.after().last > start.last) {
        tracing::warn!(
            shard = files.shard.index(),
            snapshot = start.last.get(),
            archive = segment.after().last.get(),
            "the newest snapshot is missing; rebuilding the state from the one before and the archive"
        );
    }
    let end = follow(files, &mut stored, &mut ledger, start, progress)?;
    stored.warn_of_lost_end();

    files.sync_names()?;
    let merged = archive::remove_leftovers(&files.archive, files.ledger, files.shard)?;
    if merged > 0 {
        tracing::info!(shard = files.shard.index(), merged, "deleted segments that are part of a merged one");
    }
    let (mut watermark, damage) = Watermark::open(&files.watermark, files.ledger, files.shard)?;
    if let Some(Malformed { offset: byte, what }) = damage {
        let path = files.watermark.display();
        tracing::warn!(%path, byte, what, "a slot of the watermark was damaged and is rebuilt");
    }
    // All that was read is durable now, and will be shown: it must not be missing at the next start either.
    watermark.acknowledge(end)?;
    watermark.unsynced().map_or(Ok(()), UnsyncedWatermark::sync)?;
    let generations = Generations::new(&files.journal, stored.generations)?;
    // Each life that was killed leaves one or two in which nothing is. They must not wait for a compaction, for which there
    // may be no room, or no time before the process is killed again. Of one that has lost all that it had the archive has
    // it, or the log would have a gap or end too soon.
    for generation in generations.sealed().iter().filter(|generation| generation.range().is_none()) {
        generations.remove(generation.number())?;
    }
    let current = generations.create()?;
    let journal = SledJournal::new(files.shard, end, current, Arc::clone(&generations), options);
    let watermark = Arc::new(Mutex::new(watermark));
    let log = Arc::new(ShardLog {
        files: files.clone(),
        snapshot_secs: AtomicU64::new(snapshots.last().map_or(0, |(_, path)| files::written_secs(path))),
        segments: RwLock::new(stored.segments),
        generations,
        watermark: Arc::clone(&watermark),
    });
    Ok(Recovered { ledger, journal: ShardJournal { journal, watermark }, log })
}

/// The state of a shard that nobody serves: what a start would recover. Changes nothing.
///
/// # Errors
/// If anything is not as it was written, as far as a start would see it (P6).
pub fn state_at_rest(files: &ShardFiles, progress: &Progress) -> Result<Ledger, StorageError> {
    let (mut ledger, start) = files.newest_snapshot()?;
    follow(files, &mut StoredLog::open_archive(files)?, &mut ledger, start, progress)?;
    Ok(ledger)
}

/// Replays what lies behind a snapshot, which has to lead to what was acknowledged, and returns the end.
fn follow(
    files: &ShardFiles,
    stored: &mut StoredLog,
    ledger: &mut Ledger,
    start: LogPosition,
    progress: &Progress,
) -> Result<LogPosition, StorageError> {
    let acknowledged = Watermark::peek(&files.watermark, files.ledger, files.shard)?;
    let mut acknowledged_found = acknowledged.last < start.last || acknowledged == start;
    let end = stored.read(start, &mut |record, after| {
        replay(ledger, record)?;
        progress.add(after.last.get() - record.first().get() + 1);
        if after.last == acknowledged.last {
            if after.chain != acknowledged.chain {
                let what = "the log is not the one that was acknowledged".to_owned();
                return Err(Malformed { offset: 0, what });
            }
            acknowledged_found = true;
        }
        Ok(())
    })?;
    if !acknowledged_found {
        let what =
            format!("the log ends, but everything up to sequence {} was acknowledged", acknowledged.last);
        return Err(corrupt_at(&files.journal, end.last.next(), what));
    }
    assert_eq!(ledger.last(), end.last, "the ledger is where its log ends");
    Ok(end)
}

/// A shard's journal on disk, with the watermark that remembers what it acknowledged.
pub struct ShardJournal {
    journal: SledJournal,
    watermark: Arc<Mutex<Watermark>>,
}

impl Journal for ShardJournal {
    fn position(&self) -> LogPosition {
        self.journal.position()
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        self.journal.append(record)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.journal.sync()?;
        // After the sync and before anyone is told: it never claims what is not durable, and a log that was
        // cut short behind our back falls short of it.
        self.watermark.lock().acknowledge(self.journal.position())
    }

    fn roll(&mut self) -> Result<(), StorageError> {
        self.journal.roll()
    }
}

/// A shard's log while the shard runs: read by many, compacted by one.
pub struct ShardLog {
    files: ShardFiles,
    /// When the newest snapshot was written; 0 before the first.
    snapshot_secs: AtomicU64,
    segments: RwLock<Vec<Arc<Segment>>>,
    generations: Arc<Generations>,
    watermark: Arc<Mutex<Watermark>>,
}

impl JournalReader for ShardLog {
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        // The archive first: its segments were read back, while a generation that it has may have been damaged since.
        if let Some(record) = self.archived_record(sequence)? {
            return Ok(Some(record));
        }
        if let Some(record) = self.generations.record(sequence)? {
            return Ok(Some(record));
        }
        // A segment is listed before its generation goes, so what has left the one by now is in the other.
        self.archived_record(sequence)
    }
}

impl ShardLog {
    /// Has sled do with so many IO threads, in the whole process. For before the first append.
    pub fn rest_spare_threads(&self, needed: usize) {
        self.generations.rest_spare_threads(needed);
    }

    /// Has the next generation ready.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn prepare(&self) -> Result<(), StorageError> {
        self.generations.prepare_next()
    }

    /// Whether the next generation could not be created when that was tried last.
    pub fn lacks_next(&self) -> bool {
        self.generations.lacks_next()
    }

    /// Makes some room ahead of small commits, if `has_room` for so many bytes. Whether there is more to do, after a rest.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn grow(&self, has_room: &dyn Fn(u64) -> bool) -> Result<bool, StorageError> {
        self.generations.grow(has_room)
    }

    /// Turns the oldest sealed generations, as many as one snapshot takes, into that and archive segments, and deletes
    /// them; segments are merged if `has_room` for so many bytes, and if that fails it is only told. Whether there was
    /// anything to do. One thread does this at a time.
    ///
    /// # Errors
    /// If something cannot be read, is not as it was written, or cannot be written. The generations then stay.
    pub fn compact(
        &self,
        limits: &CompactionLimits,
        has_room: &dyn Fn(u64) -> bool,
    ) -> Result<bool, StorageError> {
        let files = &self.files;
        let base = self.newest_snapshot_file()?;
        let mut sealed = self.next_step(base.as_ref(), limits);
        if sealed.is_empty() {
            return Ok(false);
        }
        if sealed.iter().all(|generation| is_covered(generation, base.as_ref())) {
            self.archive(sealed, limits)?;
            self.merge_segments_if_possible(has_room);
            return Ok(true);
        }
        let segments = self.segments.read().clone();
        let base_bytes = base.as_ref().map_or(Ok(0), |(_, path)| files::length(path))?;
        let is_excerpt = base_bytes > limits.whole_snapshot_bytes;
        let (mut ledger, from) = match &base {
            None => (Ledger::new(files.shard), files.genesis()),
            Some((covered, base)) if is_excerpt => {
                let changed =
                    changed_accounts(files.shard, &segments, &mut sealed, *covered, limits.accounts)?;
                snapshot::read_excerpt(base, files.ledger, files.shard, &changed)?
            }
            Some((_, base)) => snapshot::read(base, files.ledger, files.shard)?,
        };
        let accounts_max = ledger.accounts().len() + limits.accounts;
        let accounts = Cell::new(0);
        let mut visit = |record: &Record<'_>, _: &LogPosition| {
            replay(&mut ledger, record)?;
            accounts.set(ledger.accounts().len());
            Ok(())
        };
        let mut taken = 0;
        let end = walk(files, &segments, from, &mut visit, |step| {
            for generation in sealed.iter().take_while(|_| accounts.get() < accounts_max) {
                replay_generations(&[generation.as_ref()], step)?;
                taken += 1;
            }
            Ok(())
        })?;
        sealed.truncate(taken);
        if end.last > from.last {
            let written = match &base {
                Some((_, base)) if is_excerpt => {
                    snapshot::rewrite(&files.snapshots, files.ledger, files.shard, base, &ledger, &end)?
                }
                _ => snapshot::write(&files.snapshots, files.ledger, files.shard, &ledger, &end)?,
            };
            self.snapshot_secs.store(files::written_secs(&written), Ordering::Relaxed);
            self.prune_snapshots();
        }
        // The state is not needed while the archive is written.
        drop(ledger);
        self.archive(sealed, limits)?;
        self.merge_segments_if_possible(has_room);
        Ok(true)
    }

    /// The generations that the next snapshot is made of, or fewer: those that the one before covers, and a few more. Only
    /// behind all of the covered ones a snapshot gets on, and a shutdown that was cut short can leave any number: then a few
    /// of them go into the archive first, or the step would need room for all.
    fn next_step(
        &self,
        base: Option<&(Sequence, PathBuf)>,
        limits: &CompactionLimits,
    ) -> Vec<Arc<Generation>> {
        let mut sealed = self.generations.sealed();
        let covered = sealed.iter().take_while(|generation| is_covered(generation, base)).count();
        sealed.truncate(limits.generations + if covered < limits.generations { covered } else { 0 });
        sealed
    }

    fn newest_snapshot_file(&self) -> Result<Option<(Sequence, PathBuf)>, StorageError> {
        Ok(snapshot::list(&self.files.snapshots)?.pop())
    }

    /// How many generations wait to be compacted.
    pub fn sealed_generations(&self) -> usize {
        self.generations.sealed_count()
    }

    /// When the newest snapshot was written, in seconds since the Unix epoch; 0 before the first.
    pub fn snapshot_secs(&self) -> u64 {
        self.snapshot_secs.load(Ordering::Relaxed)
    }

    /// How much disk space the next [`ShardLog::compact`] takes at the most, roughly: a snapshot half as large again as the
    /// newest, and the records once more; zero if there is nothing to do. The merging of segments is not in it: that waits
    /// until there is room.
    ///
    /// # Errors
    /// If the snapshots cannot be looked at.
    pub fn compaction_bytes(&self, limits: &CompactionLimits) -> Result<u64, StorageError> {
        let base = self.newest_snapshot_file()?;
        let sealed = self.next_step(base.as_ref(), limits);
        if sealed.is_empty() {
            return Ok(0);
        }
        let newest = match &base {
            Some((_, path)) if !sealed.iter().all(|generation| is_covered(generation, base.as_ref())) => {
                files::length(path)?
            }
            _ => 0,
        };
        let records: u64 = sealed.iter().map(|generation| generation.bytes_written()).sum();
        Ok(newest + newest / 2 + 2 * records)
    }

    /// Ends the log for this life of the process: all of it goes into a snapshot of `ledger`, which stands at
    /// the journal's end, and into the archive.
    ///
    /// # Errors
    /// If the snapshot cannot be written: the log is complete all the same, and the next start has more to replay. Or if a
    /// generation is found damaged when it is archived, or a segment when it is merged; what else keeps them from that is
    /// only told.
    pub fn finish(&self, journal: ShardJournal, ledger: &Ledger) -> Result<(), StorageError> {
        let end = journal.position();
        assert_eq!(ledger.last(), end.last, "the ledger is where its log ends");
        journal.journal.finish()?;
        self.sync_watermark()?;
        let files = &self.files;
        if end.last > self.newest_snapshot_file()?.map_or(Sequence::NONE, |(last, _)| last) {
            snapshot::write(&files.snapshots, files.ledger, files.shard, ledger, &end)?;
            self.prune_snapshots();
        }
        let archived = self.archive(self.generations.sealed(), &CompactionLimits::default());
        // The reserve is there for merging, too: it gives its room back.
        match archived.and_then(|()| self.merge_segments(&|_| true)) {
            // The next start would refuse it, so who ends the server for a backup has to hear of it.
            Err(error @ StorageError::Corrupt { .. }) => return Err(error),
            // There is the snapshot, and what is not archived or merged waits for the next life.
            Err(error) => {
                let shard = files.shard.index();
                tracing::warn!(shard, %error, "cannot archive the log, or merge its segments; the next start tries again");
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Deletes snapshots that nothing depends on any more. One that stays is only in the way of the next ones.
    fn prune_snapshots(&self) {
        if let Err(error) = snapshot::prune(&self.files.snapshots, SNAPSHOTS_KEPT) {
            tracing::warn!(shard = self.files.shard.index(), %error, "cannot delete an old snapshot");
        }
    }

    /// Makes the watermark durable, if it has risen. It need not be at once: see [`Watermark`].
    ///
    /// # Errors
    /// If that failed.
    pub fn sync_watermark(&self) -> Result<(), StorageError> {
        // Taken first, and synced without the lock: whoever commits needs that for the next note.
        let unsynced = self.watermark.lock().unsynced();
        unsynced.map_or(Ok(()), UnsyncedWatermark::sync)
    }

    /// Archives generations that a durable snapshot covers, and deletes them.
    fn archive(&self, sealed: Vec<Arc<Generation>>, limits: &CompactionLimits) -> Result<(), StorageError> {
        let files = &self.files;
        let archived = self.archived();
        let mut writer: Option<SegmentWriter> = None;
        let mut archiving = Vec::new();
        let mut sealed = sealed.into_iter();
        while let Some(generation) = sealed.next() {
            if generation.range().is_some_and(|(_, last)| last > archived.last) {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(SegmentWriter::create(
                        &files.archive,
                        files.ledger,
                        files.shard,
                        self.archived(),
                    )?),
                };
                generation.replay(&mut |record| writer.append(record.bytes()))?;
            }
            archiving.push(generation.number());
            drop(generation);
            let is_last = sealed.len() == 0;
            let is_done = |writer: &mut SegmentWriter| is_last || writer.bytes() >= limits.segment_bytes;
            if let Some(writer) = writer.take_if(is_done) {
                let segment = writer.finish()?;
                self.segments.write().push(Arc::new(segment));
            }
            if writer.is_none() {
                archiving.drain(..).try_for_each(|number| self.generations.remove(number))?;
            }
        }
        Ok(())
    }

    /// The record that holds this sequence, if the archive has it.
    fn archived_record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        let mut failed: Option<(Arc<Segment>, StorageError)> = None;
        loop {
            let Some(segment) = segment_with(&self.segments.read(), sequence).cloned() else {
                return Ok(None);
            };
            if let Some((_, error)) = failed.filter(|(before, _)| Arc::ptr_eq(before, &segment)) {
                return Err(error);
            }
            match segment.record(sequence) {
                Ok(record) => return Ok(Some(record)),
                // It may have been merged, and deleted, since it was looked up; then another one is listed.
                Err(error) => failed = Some((segment, error)),
            }
        }
    }

    /// How far the archive reaches.
    fn archived(&self) -> LogPosition {
        self.segments.read().last().map_or(self.files.genesis(), |segment| segment.after())
    }

    /// As [`ShardLog::merge_segments`]. What was archived is so without it, and whoever waits for that must not wait for
    /// this: it is tried again behind the next segment, and so told of at most once for each.
    fn merge_segments_if_possible(&self, has_room: &dyn Fn(u64) -> bool) {
        let shard = self.files.shard.index();
        match self.merge_segments(has_room) {
            Err(error @ StorageError::Corrupt { .. }) => {
                tracing::error!(shard, %error, "a segment of the archive is damaged");
            }
            Err(error) => tracing::warn!(shard, %error, "cannot merge segments of the archive"),
            Ok(()) => {}
        }
    }

    /// Merges the newest segments for as long as the one before the last is not much larger than the last, and there is
    /// room for both once more. Without it they wait: that frees next to nothing.
    fn merge_segments(&self, has_room: &dyn Fn(u64) -> bool) -> Result<(), StorageError> {
        let files = &self.files;
        loop {
            let [older, newer] = match &self.segments.read()[..] {
                [.., older, newer] => [Arc::clone(older), Arc::clone(newer)],
                _ => return Ok(()),
            };
            let bytes = older.bytes() + newer.bytes();
            let pays = older.bytes() <= MERGE_RATIO_MAX * newer.bytes() && bytes <= MERGED_SEGMENT_BYTES_MAX;
            if !pays || !has_room(bytes) {
                return Ok(());
            }
            let merged = archive::merge(&files.archive, files.ledger, files.shard, &[&older, &newer])?;
            {
                let mut segments = self.segments.write();
                let parts = segments.len() - 2;
                segments.splice(parts.., [Arc::new(merged)]);
            }
            archive::remove(&files.archive, &[&older, &newer])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::journal::record::Draft;
    use crate::storage::manifest::Birth;
    use crate::storage::samples::{Exchange, LEDGER};

    /// Whoever ends the server to copy the directory has to hear of it: what cannot be archived for another reason is
    /// left to the next start, but that will refuse this.
    #[test]
    fn a_generation_that_is_found_damaged_at_the_end_is_an_error() {
        let temporary = tempfile::tempdir().expect("a directory");
        let birth = Birth { shards: 1, ledger: LEDGER, created: crate::ledger::Timestamp::default() };
        let directory = DataDirectory::open(temporary.path(), None, &birth).expect("created");
        let mut exchange = Exchange::new(1);
        exchange.transfer(0, &[(0, 9)]);
        let [first, second] = &exchange.events[0][..] else { panic!("an opening and a deposit") };
        let shard = ShardId::new(0).expect("in range");
        let files = ShardFiles::new(&directory, shard);
        let progress = Progress::new("testing", "events", None);
        let Recovered { mut ledger, mut journal, log } =
            recover(&files, JournalOptions::default(), &progress).expect("recovers");
        ledger.replay(first).expect("follows");
        let mut position = journal.position();
        journal.append(&Draft::new(Sequence::FIRST, first).seal(shard, &mut position)).expect("follows");
        journal.roll().expect("rolled");
        // Of another history: it is not linked to the one before.
        let mut elsewhere = LogPosition { last: position.last, ..files.genesis() };
        let record = Draft::new(position.last.next(), second).seal(shard, &mut elsewhere);
        let record = Record::parse(&record).expect("intact by itself");
        log.generations.sealed()[0].insert(&record).expect("inserted");
        let error = log.finish(journal, &ledger).expect_err("it is damaged").to_string();
        assert!(error.contains("is not intact") && error.contains("sequence 2"), "{error}");
        assert!(snapshot::list(&files.snapshots).expect("listed").len() == 1, "the snapshot is there");
    }
}
