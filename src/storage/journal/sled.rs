//! The journal on disk: a chain of generations, each one [sled](https://docs.rs/sled/0.34.7) 0.34.7 database.
//! No other file names sled.
//!
//! ```text
//! <shard>/journal/0000000007/conf, db, blobs/    a generation: complete, and written by one life of the process
//!                 0000000008.3.creating/         cut short by a crash; swept at the next start
//!                 0000000006.removed/            likewise
//!                 0000000007/reading/5/          a copy that a start had sled open; gone once it is open
//! ```
//!
//! A generation maps the sequence of a record's first event, 8 bytes big-endian, to the record, or to its first 64 KiB.
//! The further pieces of a larger one, 64 KiB each but for the last, have the same key and a byte more, from 1 on: so
//! they stand behind it and before the next record. No value is ever overwritten or removed.
//!
//! The map is cut into *parts*, each one of sled's trees. The first is the default tree; every other one has the key of
//! its first record for a name. What parts are for is under "Parts" below. Generations made before there were any have
//! all in the first one.
//!
//! What always holds:
//!
//! - A directory with a bare number is complete: it was made under another name, synced with all that it
//!   holds, and renamed. So whatever is missing or odd in one is corruption, and never a crash.
//! - sled writes a generation only in the life that created it. A start makes a new one; older ones are read
//!   through a copy, because *opening* a sled database writes to it (fact 9): the bytes that an operator may
//!   have to examine stay as the disk gave them (P6). A tool has its copies elsewhere ([`Copies`]): the ledger may be
//!   a backup on a disk that cannot be written, or somebody else's.
//! - All records of a sealed generation are durable: sealing follows a sync. What readers may have sled append behind
//!   that (fact 14) says nothing new.
//! - Ranges of sequences do not overlap, and grow with the generation's number. Numbers may have holes.
//! - A record is there whole or not at all. Pieces are inserted in order, and a crash keeps a prefix of what was
//!   inserted; so only behind the last whole record can there be pieces of another one, and those are passed over: it
//!   was never acknowledged, or else the watermark tells. A piece that is missing anywhere else is corruption.
//! - A record is in one part. A part begins with the record that it is named after, or a crash was faster than that
//!   record, and it is empty and the last one: its name goes into the log before the record does.
//!
//! # What sled does not promise
//!
//! Found in its source, version 0.34.7; in brackets where. `sled/tests.rs` keeps watch.
//!
//! 1. `flush()` writes through `sync_file_range`, which flushes neither metadata nor the device's cache
//!    [`pagecache/iobuf.rs: IoBufs::write_to_log`]; nothing ever syncs `conf` [`config.rs: write_config`] or
//!    a directory. So [`Generation::sync`] is `flush()`, then `fdatasync` on our own descriptor of `db`; and
//!    [`Generation::create`] syncs `db`, `conf`, `blobs/`, the directory and its parent before it returns. What is
//!    left of `sync_file_range` is a wait for the disk before the one that counts, on a thread that wakes seven others
//!    when it ends; so sled is told that the database is `temporary`, and leaves it out. That also means that the last
//!    handle deletes the directory [`config.rs: Inner::drop`]: the one in which the database was made, and that has got
//!    another name since (the first thing that always holds). That may be as late as fact 11 says; so no other generation
//!    ever has the name: a process counts those that it makes, and the count is in it. And it means that sled takes for
//!    durable what is only written. It frees a segment once what replaces its pages is, and uses it anew from the next but
//!    one segment on [`pagecache/segment.rs: stabilize`, `next`]; so a power cut behind a commit of many segments could
//!    find durable records overwritten, and what has replaced them not there yet. Hence less than a segment is ever left
//!    unsynced: [`UNSYNCED_BYTES_MAX`].
//! 2. A message over `segment_size / 4 - 20` bytes goes to a file in `blobs/`, which is never synced
//!    [`pagecache/logger.rs: Log::reserve_inner`, `pagecache/blob_io.rs: write_blob`]. The message that counts
//!    is not the value but the *page*: a leaf is rewritten whole once it has more than 10 fragments
//!    [`pagecache/constants.rs: PAGE_CONSOLIDATION_THRESHOLD`] and split at more than 16 entries
//!    [`node.rs: should_split`], so up to 17 values of 64 KiB, 1.1 MiB, must stay below a quarter of
//!    [`SEGMENT_BYTES`], 2 MiB. A record of 1 MiB would pass it with two others, and sled has no segments that are
//!    large enough for 17; so it is stored in pieces of 64 KiB. The rename also means that a blob's path does not
//!    exist: it would be an error, not a silent risk; and a `blobs/` that is not empty is refused.
//! 3. A message with a bad checksum ends the log where it stands, or in an older segment skips the rest of that
//!    [`pagecache/iterator.rs: LogIter::next`, the two arms of `LogRead::Corrupted`], and no error is returned.
//!    Links of a page whose base was skipped are dropped, too [`pagecache/snapshot.rs: Snapshot::apply`]. So
//!    records carry a checksum, their sequence and the hash of the one before; [`read_generations`] refuses a
//!    record out of place, recovery a chain that does not join, and the watermark a log that ends early.
//! 4. The flusher thread only logs a failed sync [`flusher.rs: run`]. So there is none:
//!    `flush_every_ms(None)`. `Log::drop` unwraps its sync [`pagecache/logger.rs: Log::drop`], if the database is not
//!    `temporary`: a disk that refused it for a copy, which nobody needed any more, ended the process. So copies are;
//!    opening one still syncs, and a refusal there is an error.
//! 5. A crash while opening can leave `snap.<16 hex digits>.generating` [`pagecache/snapshot.rs:
//!    write_snapshot`], and the next open takes it for the newest snapshot, as the filter knows another suffix,
//!    `.in___motion` [`config.rs: get_snapshot_files`]. Snapshots are written by an open that *recovers*, and
//!    never later [`advance_snapshot`, from `PageCache::start`]. So a generation never has one; one may only
//!    be in the copy, which is deleted whole before it is made again.
//! 6. Keys stay: removing them frees and reuses segments, and buys nothing. A generation is deleted whole.
//! 7. If its IO threads panic, a `flush()` waits for ever [`pagecache/iobuf.rs: make_stable_inner`;
//!    `threadpool.rs: perform_work`]. The caller puts a watchdog around [`Journal::sync`]. A failed insert can
//!    leave its place in the buffer taken [`pagecache/logger.rs: reserve_inner`, the `?` behind `encapsulate`],
//!    and then *dropping* the database, which flushes [`tree.rs: TreeInner::drop`], waits for ever. So after an
//!    error of a journal the process must end without dropping it: by abort, or exit.
//! 8. `Config::mode` is stored and never read; there is nothing to choose. A `conf` whose checksum fails is
//!    used with a warning, and one of 8 bytes or less is written anew [`config.rs: read_config`]. So `conf` is
//!    compared to the byte with what this version writes.
//! 9. Opening zeroes everything behind the last message it could read, in the last segment but for its last byte, and
//!    every segment that it could not place [`pagecache/snapshot.rs: advance_snapshot`]: after one flipped bit, the records
//!    behind it are gone for good. Hence the copy, which takes as much disk again until the generation is dropped.
//! 10. Corruption can also panic: a page of which only links are left cannot be written to the snapshot
//!     [`serialization.rs: PageState::serialized_size`], and there are assertions
//!     [`pagecache/iterator.rs: scan_segment_headers_and_tail`, `pagecache/logger.rs: read_message`].
//!     So a generation is opened, and read for the first time, in a thread of its own, [`GUARDED_THREAD`], whose panic
//!     becomes an error that says where; in this program panics unwind.
//! 11. IO threads may hold the database a moment longer than its last handle [`pagecache/iobuf.rs:
//!     maybe_seal_and_write_iobuf` spawns `write_to_log` with its own reference, which tells the waiters before
//!     it is done], and with it the lock on `db`. So whoever opens again what it has written waits for that lock.
//!     Only tests do.
//! 12. All seven IO threads are woken for each write, for one of them to do it. So `sled/spare.rs` puts to rest those
//!     that a server does not need, and says in which case a commit could then hang, until they are called back.
//! 13. What makes a tree goes into the log as everything does, and in this order: an empty leaf, a root, and the page that
//!     has the names and roots of all trees, written whole [`meta.rs: open_tree`]. A crash keeps a prefix of that. Opening a
//!     database opens all trees, from that page [`db.rs: start_inner`].
//! 14. Reading can write: who comes by a leaf with more than 16 entries splits it [`tree.rs: view_for_key`], and nobody
//!     syncs that. With records of 3.9 KB nearly every part ended in such a leaf: reading a sealed generation once appended
//!     46 MB, and overwrote segments that the unsynced copies had replaced (fact 1). So whoever begins a part comes by the
//!     last leaf of the one before, ahead of the sync. To readers that leaves one leaf, far less than a segment.
//!
//! # Parts
//!
//! A new value is a *fragment*, behind those of its leaf. When a leaf has ten, sled writes it whole
//! [`pagecache/mod.rs: link`], and when it has more than 16 entries it writes both halves whole [`node.rs: should_split`,
//! `split`]. With keys that only grow, each value is so written nearly three times: records of 45 KB, as batches make
//! them, took 75 MB of file for 32 MB, and as much again of what was freed and used anew. So a tree takes no more values
//! than a leaf has fragments for, if they are of any size, and then the next tree is made: the same records take 34 MB,
//! and sustained batches went from 0.88 to 1.20 million transfers a second.
//!
//! A tree costs two small pages, and a line in the page that names all, which is written whole each time. So a part has
//! at least [`PART_BYTES_MIN`], and in there small records are rewritten as sled likes: what they cost is pages of the
//! file, not bytes.
//!
//! # Zeros ahead
//!
//! A sync of a file that has grown writes its new length as well, and its new place on the disk: a third step beside the
//! data and the flush of the device, 200 instead of 125 us on a disk that takes 60 us for each, and a third of what a
//! commit takes of the processor. So while the commits are small, a generation's file is kept some way longer than what
//! sled has written, with zeros ([`Generations::grow`]); with 64 connections that is a quarter more deposits. Large
//! records are better off without: they would only be written twice.
//!
//! Nothing depends on the zeros, or on knowing where sled writes. They are *appended*, and the kernel lets an append begin
//! only where the file ends at that moment, so it never touches what sled wrote, while sled writes at places of its own
//! choice, and over zeros as well as over nothing. To a reader they are what lies behind the end of a log
//! [`pagecache/logger.rs: read_message`: kind 0 is `Corrupted`], and segments never used
//! [`pagecache/iterator.rs: scan_segment_headers_and_tail`].
//!
//! # Figures
//!
//! On two cores and a virtual disk; create / `db` on disk / open, with the copy and the check of all records:
//!
//! - empty: 5 ms / 96 bytes / 22 ms, for 8 MiB of zeros written to the copy and synced;
//! - 1000 records of 271 bytes: 808,892 bytes / 18 ms;
//! - 2000 records of 16 KB, or 512 of 65 KB, 32 MiB: 32,498,379 or 33,505,902 bytes / 0.09 to 0.13 s.
//!
//! One flipped bit, at 240 places: in one segment, sled opens 240 times without an error, its log cut short; in
//! twelve segments (two runs), it panics 106 and 123 times, is cut short 28 and 50 times, and 106 and 67 times
//! nothing is missing, the bit being in what was rewritten since. Never a wrong record.

mod spare;

use std::env;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::mem;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, RwLock};

use super::record::{
    LogPosition, OwnedRecord, RECORD_BYTES_MAX, RECORD_BYTES_TYPICAL_MAX, Record, announced_bytes,
};
use super::{Journal, JournalReader};
use crate::ledger::{Sequence, ShardId};
use crate::storage::files::{
    self, LockedFile, is_for_want_of_room, read_from_disk, read_whole, sync_directory,
};
use crate::storage::{RESTORE_BACKUP, StorageError};

/// Bytes of records after which a generation is sealed. Opening a generation takes time and memory in
/// proportion: at this size 0.1 s, and 33 MiB on disk for records of 8 KiB and more, up to 96 for smaller ones, or 16 more
/// (see "Parts" and "Zeros ahead").
pub const GENERATION_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How far a generation may pass its size while the next one is not ready. A whole generation's worth of
/// commits is far longer than opening one takes; past it the log must not grow further, so the commit waits.
pub const GENERATION_OVERRUN: u64 = 2;

/// sled's unit of space, a power of two of at most 16 MiB; see fact 2.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// sled rewrites whole leaves, and splits one when it has more entries than this.
const LEAF_ENTRIES_MAX: usize = 17;

/// How many values a part has at most once it has [`PART_BYTES_MIN`]: one less than the fragments with which sled writes
/// a leaf anew (see "Parts"), for the empty leaf is one.
const PART_VALUES_MAX: usize = 9;

/// How many bytes a part has at least before there is a next one: a generation has some 500 parts, then.
const PART_BYTES_MIN: u64 = 64 * 1024;

/// From this mean size of records on a part has no more of them than sled leaves alone.
const ALONE_BYTES: u64 = PART_BYTES_MIN / (PART_VALUES_MAX as u64 - 1);

/// How many bytes of records the journal appends at most before it syncs, whether it was asked to or not: a quarter of a
/// segment, for small records are written up to three times (see "Parts"), and what is not durable must be less than one
/// (fact 1). No commit but the largest comes here.
const UNSYNCED_BYTES_MAX: u64 = SEGMENT_BYTES as u64 / 4;

/// The most bytes of a value: almost every record is one.
const PIECE_BYTES_MAX: usize = RECORD_BYTES_TYPICAL_MAX;

/// Bytes of the key of a record's first piece; those behind it have one more.
const KEY_BYTES: usize = 8;

const _: () = assert!(RECORD_BYTES_MAX / PIECE_BYTES_MAX <= 255, "a byte numbers the pieces");

const _: () = assert!(
    LEAF_ENTRIES_MAX * (PIECE_BYTES_MAX + 64) < SEGMENT_BYTES / 4 - 64,
    "a full leaf must not become a blob"
);

/// How many bytes of its file a generation uses, at most, before it is worth an extra write to save one later.
const GROWN_USED_MIN: u64 = 512 * 1024;

/// How far ahead of what is used a file is grown: what the fastest of small commits take in a second and a half.
const GROWN_AHEAD: u64 = 16 * 1024 * 1024;

/// How many bytes a file grows by at a time: the next commit writes them, which takes it a tenth of a millisecond.
const GROWN_STEP: usize = 64 * 1024;

/// Mean bytes of a record from which on growing ahead does not pay.
const GROWN_RECORD_BYTES_MAX: u64 = 16 * 1024;

/// sled's page cache. What is written is read again only for an account's history, which the kernel caches.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Digits of a generation's number in its directory's name.
const NUMBER_DIGITS: usize = 10;

/// How much is handed on at a time of what is read ahead, and how often before its reader waits: enough that neither
/// wakes the other for a few records, and some 2 MiB a shard, or 12 MiB where records are of the largest size.
const AHEAD_BYTES: usize = 256 * 1024;
const AHEAD_MAX: usize = 8;

/// How the names of the threads begin whose panics are turned into errors (fact 10).
pub const GUARDED_THREAD: &str = "opening ";

const CREATING: &str = ".creating";
const REMOVED: &str = ".removed";
const READING: &str = "reading";

/// How the names of copies in the system's directory for temporary files begin.
const READING_TEMPORARY: &str = "teller-reading-";

/// Who may use the copy that is there meanwhile.
const COPY_MODE: u32 = 0o600;

/// Who may look for one among the files of everybody.
const COPY_DIRECTORY_MODE: u32 = 0o700;

/// How many generations, and copies of some, the process has begun to make (fact 1).
static CREATED: AtomicU64 = AtomicU64::new(0);

/// Where the copies are made through which generations are read.
#[derive(Clone, Copy, Debug)]
pub enum Copies {
    /// In each generation. For a start: it writes there in any case, and the next one sweeps what a crash leaves.
    Inside,
    /// In the system's directory for temporary files, which `TMPDIR` names. For tools, which write nothing in a ledger.
    Temporary,
}

impl Copies {
    /// Makes a directory for a copy of this generation.
    fn place(self, path: &Path) -> Result<CopyPlace, StorageError> {
        // sled's last handle deletes the copy's directory once more (fact 4), which so must be no other copy's.
        let count = CREATED.fetch_add(1, Ordering::Relaxed);
        if let Copies::Inside = self {
            let root = path.join(READING);
            remove_copy(&root)?;
            let copy = root.join(count.to_string());
            fs::create_dir_all(&copy).map_err(StorageError::io("create", &copy))?;
            return Ok(CopyPlace { root, copy });
        }
        loop {
            // By chance, so that no other process has the name, were it one of the same number in another container.
            let chance = RandomState::new().hash_one(count);
            let copy = temporary_directory().join(format!("{READING_TEMPORARY}{chance:016x}"));
            match DirBuilder::new().mode(COPY_DIRECTORY_MODE).create(&copy) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    let action = "make a working copy, where TMPDIR says, in";
                    made.map_err(StorageError::io(action, &copy))?;
                    return Ok(CopyPlace { root: copy.clone(), copy });
                }
            }
        }
    }
}

/// The system's directory for temporary files. An empty `TMPDIR` is none, or copies would be where the tool was started.
fn temporary_directory() -> PathBuf {
    Some(env::temp_dir()).filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| "/tmp".into())
}

/// The directory of a copy. Its name goes with this, also if reading panics: sled has the descriptors by then, or none.
struct CopyPlace {
    /// What is to be deleted.
    root: PathBuf,
    copy: PathBuf,
}

impl CopyPlace {
    fn remove(self) -> Result<(), StorageError> {
        remove_copy(&self.root)
    }
}

impl Drop for CopyPlace {
    fn drop(&mut self) {
        let _ = remove_copy(&self.root);
    }
}

/// A part of a shard's log: records that follow one another, in one sled database.
pub struct Generation {
    number: u64,
    path: PathBuf,
    database: ::sled::Db,
    /// In order. The one thread that inserts makes further ones.
    parts: RwLock<Vec<Part>>,
    access: Access,
    /// The first and the last sequence; 0 and 0 while there is none. `last` is stored behind the insert.
    first: AtomicU64,
    last: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
}

/// Records that follow one another, in one of sled's trees.
#[derive(Clone)]
struct Part {
    /// That of its first record, which is its name; [`Sequence::NONE`] in the default tree, whatever that holds.
    first: Sequence,
    tree: ::sled::Tree,
    /// How many values and bytes this process has inserted.
    values: usize,
    bytes: u64,
}

impl Part {
    fn new(first: Sequence, tree: ::sled::Tree) -> Part {
        Part { first, tree, values: 0, bytes: 0 }
    }

    /// Whether so many values more belong into the next part.
    fn is_full_for(&self, values: usize) -> bool {
        self.bytes >= PART_BYTES_MIN && self.values + values > PART_VALUES_MAX
    }
}

/// What our own descriptor of `db` is for.
enum Access {
    /// Syncing what is written, and growing the file, so in append mode. sled has the lock.
    Write(File),
    /// Keeping the lock, since sled has the copy.
    Read { _lock: LockedFile },
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {}", self.path.display())
    }
}

impl Generation {
    /// Creates an empty generation in `parent`, which is created as well if need be.
    ///
    /// # Errors
    /// If the number is taken, or the system refuses.
    fn create(parent: &Path, number: u64, segment_bytes: usize) -> Result<Generation, StorageError> {
        let name = directory_name(number);
        let path = parent.join(&name);
        if !parent.exists() {
            fs::create_dir_all(parent).map_err(StorageError::io("create", parent))?;
            if let Some(above) = parent.parent() {
                sync_directory(above)?;
            }
        }
        if path.exists() {
            // Renaming over an empty directory would succeed.
            return Err(journal_error("create", &path)("it is there already".into()));
        }
        let creating = parent.join(format!("{name}.{}{CREATING}", CREATED.fetch_add(1, Ordering::Relaxed)));
        remove_directory(&creating)?;
        fs::create_dir(&creating).map_err(StorageError::io("create", &creating))?;
        let database = configuration(&creating, segment_bytes)
            .create_new(true)
            .temporary(true)
            .open()
            .map_err(|error| journal_error("create", &creating)(error.to_string()))?;
        database.flush().map_err(|error| journal_error("write", &creating)(error.to_string()))?;

        // Before anything in it can be acknowledged, all of it is on the platter (fact 1), and only then does
        // it get the name under which recovery would miss it.
        let file_path = creating.join("db");
        let file =
            File::options().append(true).open(&file_path).map_err(StorageError::io("open", &file_path))?;
        file.sync_all().map_err(StorageError::io("sync", &file_path))?;
        let conf_path = creating.join("conf");
        File::open(&conf_path)
            .and_then(|conf| conf.sync_all())
            .map_err(StorageError::io("sync", &conf_path))?;
        sync_directory(&creating.join("blobs"))?;
        sync_directory(&creating)?;
        fs::rename(&creating, &path).map_err(StorageError::io("rename", &creating))?;
        sync_directory(parent)?;
        check_entries(&path)?;
        let parts = RwLock::new(vec![Part::new(Sequence::NONE, database.deref().clone())]);
        Ok(Generation {
            number,
            path,
            database,
            parts,
            access: Access::Write(file),
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
        })
    }

    /// Opens a generation of an earlier life, but reads no record: what [`Generation::range`] says is not known yet.
    fn open_unread(
        path: &Path,
        copies: Copies,
        segment_bytes: usize,
    ) -> Result<(Generation, CopyPlace), StorageError> {
        let number = path
            .file_name()
            .and_then(|name| parse_name(name.to_str()?))
            .ok_or_else(|| unexpected_entry(path))?;
        check_entries(path)?;
        let file_path = path.join("db");
        let file = File::open(&file_path).map_err(StorageError::io("open", &file_path))?;
        let lock = LockedFile::new(file, &file_path, || StorageError::Locked { path: path.to_owned() })?;
        // What a killed process had written but not synced is found here, and whoever reads the state depends on
        // it: it has to be durable first (P1). Where the sync of the process before had *failed*, the cache holds
        // what the disk does not, and calls it clean; so what is read is read from the disk.
        lock.file().sync_data().map_err(StorageError::io("sync", &file_path))?;
        read_from_disk(lock.file());
        let place = copies.place(path)?;
        let copy = &place.copy;
        copy_to_read(lock.file(), &file_path, &copy.join("db"), segment_bytes)?;
        // Nobody needs it on the disk (fact 4).
        let opened = configuration(copy, segment_bytes).temporary(true).open();
        let database = opened.map_err(|error| match error {
            ::sled::Error::Io(error) if is_for_want_of_room(error.kind()) => {
                no_room(path, copy, segment_bytes)
            }
            // Of the system, too many open files for example: nothing is wrong with the log. sled has errors of this kind
            // of its own, for what is.
            ::sled::Error::Io(error) if error.raw_os_error().is_some() => {
                StorageError::io("open", copy)(error)
            }
            error => corrupt(&file_path, "its log", error.to_string()),
        })?;
        check_configuration(path, copy)?;
        let parts = RwLock::new(parts_of(path, &database)?);
        let generation = Generation {
            number,
            path: path.to_owned(),
            database,
            parts,
            access: Access::Read { _lock: lock },
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
        };
        Ok((generation, place))
    }

    /// The number: the order of generations.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first and the last sequence, if there is a record.
    pub fn range(&self) -> Option<(Sequence, Sequence)> {
        // `last` is stored after `first`: whoever sees it sees both.
        let last = Sequence::new(self.last.load(Ordering::Acquire))?;
        let first = Sequence::new(self.first.load(Ordering::Acquire))?;
        (last > Sequence::NONE).then_some((first, last))
    }

    /// The bytes of all records. On disk they take as much if they are large, and up to three times that.
    pub fn bytes_written(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many bytes of the file sled has used, roughly, as measured with records of 200 bytes to 45 KB: three times
    /// what was written if they are tiny, and once from where a part has no more of them than sled leaves alone.
    fn bytes_used(&self) -> u64 {
        let bytes = self.bytes_written();
        let mean = bytes / self.records.load(Ordering::Relaxed).max(1);
        3 * bytes - 2 * bytes * mean.min(ALONE_BYTES) / ALONE_BYTES
    }

    /// Whether a commit is so small that the length of the file matters to it.
    fn is_of_small_records(&self) -> bool {
        self.bytes_written() <= self.records.load(Ordering::Relaxed) * GROWN_RECORD_BYTES_MAX
    }

    /// Appends a step of zeros, if the file is shorter than that. Whether it still is.
    ///
    /// Nothing is synced here: an error of writing it back must reach whoever commits (P1), and reaches a descriptor once.
    ///
    /// # Errors
    /// If the system refuses, but for want of room: that is no harm.
    fn grow(&self, length: u64) -> Result<bool, StorageError> {
        let Access::Write(file) = &self.access else { return Ok(false) };
        let path = self.path.join("db");
        let before = file.metadata().map_err(StorageError::io("read", &path))?.len();
        if before >= length {
            return Ok(false);
        }
        let mut file: &File = file;
        match file.write_all(&[0; GROWN_STEP]) {
            Ok(()) => Ok(before + (GROWN_STEP as u64) < length),
            Err(error) if is_for_want_of_room(error.kind()) => Ok(false),
            Err(error) => Err(StorageError::io("write", &path)(error)),
        }
    }

    /// Adds a record behind the others. One thread does this.
    ///
    /// # Errors
    /// If the generation is an earlier life's, the record does not follow, or sled refuses.
    pub fn insert(&self, record: &Record<'_>) -> Result<(), StorageError> {
        let refused = journal_error("append to", &self.path);
        if let Access::Read { .. } = self.access {
            return Err(refused("it was opened to be read".into()));
        }
        if let Some((_, last)) = self.range()
            && record.first() != last.next()
        {
            return Err(refused(format!("sequence {} does not follow {last}", record.first())));
        }
        assert!(record.bytes().len() <= RECORD_BYTES_MAX, "a record is bounded");
        let tree = self.part_for(record)?;
        for (number, piece) in record.bytes().chunks(PIECE_BYTES_MAX).enumerate() {
            let before = tree
                .insert(&piece_key(record.first(), number)[..KEY_BYTES + number.min(1)], piece)
                .map_err(|error| journal_error("append to", &self.path)(error.to_string()))?;
            assert!(before.is_none(), "a record is never overwritten");
        }
        let _ = self.first.compare_exchange(0, record.first().get(), Ordering::AcqRel, Ordering::Acquire);
        self.bytes.fetch_add(record.bytes().len() as u64, Ordering::Relaxed);
        self.records.fetch_add(1, Ordering::Relaxed);
        self.last.store(record.last().get(), Ordering::Release);
        Ok(())
    }

    /// Where the next record goes: into the last part, or one that begins with it.
    fn part_for(&self, record: &Record<'_>) -> Result<::sled::Tree, StorageError> {
        let bytes = record.bytes().len();
        let values = bytes.div_ceil(PIECE_BYTES_MAX);
        let mut parts = self.parts.write();
        if parts.last().is_none_or(|part| part.is_full_for(values)) {
            if let Some(full) = parts.last() {
                // Fact 14: split by a reader, its last leaf would not be synced.
                full.tree
                    .last()
                    .map_err(|error| journal_error("append to", &self.path)(error.to_string()))?;
            }
            let first = record.first();
            let tree = self
                .database
                .open_tree(key(first))
                .map_err(|error| journal_error("append to", &self.path)(error.to_string()))?;
            parts.push(Part::new(first, tree));
        }
        let part = parts.last_mut().expect("there is one now");
        part.values += values;
        part.bytes += bytes as u64;
        Ok(part.tree.clone())
    }

    /// Makes durable all that was inserted. Not to be tried again after an error.
    ///
    /// # Errors
    /// If sled cannot write or the system cannot sync: what is on the disk is unknown.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.database.flush().map_err(|error| journal_error("write", &self.path)(error.to_string()))?;
        match &self.access {
            // fact 1
            Access::Write(file) => {
                file.sync_data().map_err(|error| StorageError::io("sync", &self.path.join("db"))(error))
            }
            Access::Read { .. } => Ok(()),
        }
    }

    /// The record that holds the event with this sequence; `None` if that is outside of [`Generation::range`].
    ///
    /// # Errors
    /// If it is inside but is not there, or is not intact.
    pub fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        match self.range() {
            Some((first, last)) if first <= sequence && sequence <= last => {}
            _ => return Ok(None),
        }
        let tree = {
            let parts = self.parts.read();
            let behind = parts.partition_point(|part| part.first <= sequence);
            parts[..behind].last().expect("the first part begins before every sequence").tree.clone()
        };
        let found = tree
            .get_lt(key(sequence.next()))
            .map_err(|error| self.corrupt_at(sequence, error.to_string()))?;
        let Some((found, piece)) = found else {
            return Err(self.corrupt_at(sequence, "its record is missing".into()));
        };
        let (first, number) = self.parse_key(sequence, &found)?;
        let bytes = if number == 0 { piece.to_vec() } else { self.whole(&tree, first)? };
        let record = self.check(first, &bytes)?;
        if sequence < record.first() || sequence > record.last() {
            return Err(self.corrupt_at(sequence, "its record is missing".into()));
        }
        Ok(Some(bytes))
    }

    /// The pieces of the record that starts with this sequence, put together.
    fn whole(&self, tree: &::sled::Tree, first: Sequence) -> Result<Vec<u8>, StorageError> {
        let mut bytes = Vec::new();
        let pieces = tree.range(piece_key(first, 0)[..KEY_BYTES].to_vec()..piece_key(first, 255).to_vec());
        for (expected, piece) in pieces.enumerate() {
            let (key, piece) = piece.map_err(|error| self.corrupt_at(first, error.to_string()))?;
            self.add_piece(&mut bytes, first, expected, &key, &piece)?;
        }
        Ok(bytes)
    }

    /// Adds the next piece of a record, if that is what it is.
    fn add_piece(
        &self,
        bytes: &mut Vec<u8>,
        first: Sequence,
        expected: usize,
        key: &[u8],
        piece: &[u8],
    ) -> Result<(), StorageError> {
        let (of, number) = self.parse_key(first, key)?;
        if of != first || number != expected || bytes.len() != expected * PIECE_BYTES_MAX {
            let what = format!("piece {expected} of the record is missing, piece {number} of {of} follows");
            return Err(self.corrupt_at(first, what));
        }
        bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Gives all records to `visit`, in order, until that fails.
    ///
    /// # Errors
    /// If a record is not intact or out of place, or from `visit`.
    pub fn replay(
        &self,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut sequel = Sequel::default();
        self.each_value(&mut |first, bytes| {
            let record = self.check(first, &bytes)?;
            sequel.next(self.path(), &record)?;
            visit(&record)
        })
    }

    /// Gives the bytes of all records to `visit`, in order, each with the sequence that its key says, until that fails.
    fn each_value(
        &self,
        visit: &mut dyn FnMut(Sequence, Value) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut near = Sequence::FIRST;
        let parts = self.parts.read().clone();
        let mut entries = parts.iter().flat_map(|part| part.tree.iter()).peekable();
        while let Some(entry) = entries.next() {
            let (key, piece) = entry.map_err(|error| self.corrupt_at(near, error.to_string()))?;
            let (first, number) = self.parse_key(near, &key)?;
            near = first;
            if number > 0 {
                let what = format!("piece {number} of the record of {first} follows no other piece of it");
                return Err(self.corrupt_at(first, what));
            }
            if announced_bytes(&piece) <= piece.len() {
                visit(first, Value::Piece(piece))?;
                continue;
            }
            let mut whole = Vec::new();
            self.add_piece(&mut whole, first, 0, &key, &piece)?;
            let mut number = 1;
            while let Some(next) = entries.next_if(is_further_piece) {
                let (key, piece) = next.map_err(|error| self.corrupt_at(first, error.to_string()))?;
                self.add_piece(&mut whole, first, number, &key, &piece)?;
                number += 1;
            }
            if announced_bytes(&whole) > whole.len() && entries.peek().is_none() {
                // A crash was faster than the last pieces.
                return Ok(());
            }
            visit(first, Value::Whole(whole))?;
        }
        Ok(())
    }

    /// Which record a key belongs to, and which piece of it.
    fn parse_key(&self, near: Sequence, key: &[u8]) -> Result<(Sequence, usize), StorageError> {
        parse_key(key).ok_or_else(|| self.corrupt_at(near, "a key is not a sequence".into()))
    }

    /// Checks that a value is a record, and the one that its key says.
    fn check<'a>(&self, first: Sequence, bytes: &'a [u8]) -> Result<Record<'a>, StorageError> {
        let record = Record::parse(bytes).map_err(|error| self.corrupt_at(first, error.to_string()))?;
        self.check_key(first, &record)?;
        Ok(record)
    }

    fn check_key(&self, first: Sequence, record: &Record<'_>) -> Result<(), StorageError> {
        if record.first() != first {
            let what = format!("the record there starts at {} instead", record.first());
            return Err(self.corrupt_at(first, what));
        }
        Ok(())
    }

    fn corrupt_at(&self, sequence: Sequence, what: String) -> StorageError {
        corrupt_at(&self.path, sequence, what)
    }
}

/// The bytes of a record as sled has them, or put together.
enum Value {
    Piece(::sled::IVec),
    Whole(Vec<u8>),
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Value::Piece(piece) => piece,
            Value::Whole(whole) => whole,
        }
    }
}

/// The records of a generation so far: each follows the one before.
#[derive(Default)]
struct Sequel {
    range: Option<(Sequence, Sequence)>,
    bytes: u64,
}

impl Sequel {
    fn next(&mut self, path: &Path, record: &Record<'_>) -> Result<(), StorageError> {
        let first = match self.range {
            Some((_, last)) if record.first() != last.next() => {
                let what = format!("the next record starts at {}", record.first());
                return Err(corrupt_at(path, last.next(), what));
            }
            Some((first, _)) => first,
            None => record.first(),
        };
        self.range = Some((first, record.last()));
        self.bytes += record.bytes().len() as u64;
        Ok(())
    }
}

/// Opens generations of an earlier life of the process, in turn, to read them, checks that their records are intact and
/// follow one another, and gives them all to `visit`, in order, with where they stand. Their files are left as they are:
/// sled gets a copy.
///
/// A thread of its own, whose panics become errors (fact 10), opens, reads, verifies and hashes ahead of `visit`.
///
/// # Errors
/// If another process uses one, or anything in it is not as it was written, as far as can be told without the
/// generations before and after (fact 3); or from `visit`.
pub fn read_generations(
    paths: &[PathBuf],
    copies: Copies,
    visit: VisitRecord<'_>,
) -> Result<Vec<Generation>, StorageError> {
    read_generations_with(paths, copies, SEGMENT_BYTES, visit)
}

/// What gets the records of generations.
pub type VisitRecord<'a> = &'a mut dyn FnMut(&Path, &Record<'_>) -> Result<(), StorageError>;

/// What the thread that reads ahead has read.
enum ReadAhead {
    Records(Vec<OwnedRecord<Value>>),
    /// That was all of this one.
    End(Generation),
}

fn read_generations_with(
    paths: &[PathBuf],
    copies: Copies,
    segment_bytes: usize,
    visit: VisitRecord<'_>,
) -> Result<Vec<Generation>, StorageError> {
    let Some(parent) = paths.first().and_then(|path| path.parent()) else { return Ok(Vec::new()) };
    let mut read = Vec::with_capacity(paths.len());
    let result = std::thread::scope(|scope| {
        let (sender, receiver) = crossbeam_channel::bounded(AHEAD_MAX);
        let reader = std::thread::Builder::new()
            .name(format!("{GUARDED_THREAD}{}", parent.display()))
            .spawn_scoped(scope, move || {
                paths.iter().try_for_each(|path| read_ahead(path, copies, segment_bytes, &sender))
            })
            .map_err(StorageError::io("start a thread to open", parent))?;
        // It gets the receiver: when `visit` refuses, that is dropped and the reader ends.
        let visited = visit_ahead(paths, receiver, &mut read, visit);
        let read_to_the_end = reader.join().unwrap_or_else(|_| {
            let path = paths.get(read.len()).map_or(parent, PathBuf::as_path);
            Err(corrupt(&path.join("db"), "its log", "reading it panicked".into()))
        });
        visited.and(read_to_the_end)
    });
    result.map(|()| read)
}

/// Gives on what was read ahead, and collects the generations that have been read to their end.
fn visit_ahead(
    paths: &[PathBuf],
    receiver: Receiver<ReadAhead>,
    read: &mut Vec<Generation>,
    visit: VisitRecord<'_>,
) -> Result<(), StorageError> {
    let mut sequel = Sequel::default();
    for ahead in receiver {
        match ahead {
            ReadAhead::Records(records) => {
                let path = &paths[read.len()];
                for record in &records {
                    let record = record.record();
                    sequel.next(path, &record)?;
                    visit(path, &record)?;
                }
            }
            ReadAhead::End(generation) => {
                let Sequel { range, bytes } = mem::take(&mut sequel);
                if let Some((first, last)) = range {
                    generation.first.store(first.get(), Ordering::Release);
                    generation.last.store(last.get(), Ordering::Release);
                }
                generation.bytes.store(bytes, Ordering::Relaxed);
                read.push(generation);
            }
        }
    }
    Ok(())
}

/// Opens and reads a generation, for as long as someone wants what is read.
fn read_ahead(
    path: &Path,
    copies: Copies,
    segment_bytes: usize,
    sender: &Sender<ReadAhead>,
) -> Result<(), StorageError> {
    let (generation, place) = Generation::open_unread(path, copies, segment_bytes)?;
    // sled keeps the copy's descriptor; its name was all that could be left behind.
    place.remove()?;
    // Seen by no one: whoever drops the receiver has an error of its own.
    let send = |ahead| sender.send(ahead).map_err(|_| journal_error("read", path)("it is not wanted".into()));
    let (mut records, mut bytes) = (Vec::new(), 0);
    generation.each_value(&mut |first, value| {
        bytes += value.len();
        let record =
            OwnedRecord::parse(value).map_err(|error| generation.corrupt_at(first, error.to_string()))?;
        generation.check_key(first, &record.record())?;
        records.push(record);
        if bytes < AHEAD_BYTES {
            return Ok(());
        }
        bytes = 0;
        send(ReadAhead::Records(mem::take(&mut records)))
    })?;
    send(ReadAhead::Records(records))?;
    send(ReadAhead::End(generation))
}

/// The generations in a directory, in order; none if the directory is not there. What a crash cut short, a
/// creation or a removal, is not among them, and not touched.
///
/// # Errors
/// If the directory cannot be read, or has an entry that is not a generation.
pub fn list_generations(parent: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let mut found: Vec<(u64, PathBuf)> =
        entries(parent)?.into_iter().filter_map(|(name, path)| Some((parse_name(&name)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Deletes what a crash cut short: generations that nothing was acknowledged in, or that were archived, and copies that
/// were being opened. Nobody may be reading or writing in the directory.
///
/// # Errors
/// If that fails, or the directory has an entry that is not a generation.
pub fn sweep_generations(parent: &Path) -> Result<(), StorageError> {
    for (name, path) in entries(parent)? {
        let is_whole = parse_name(&name).is_some();
        if is_whole { remove_copy(&path.join(READING))? } else { remove_directory(&path)? }
    }
    Ok(())
}

/// Makes the copy of a generation's `db` that sled opens. It is our own, whatever the original allows: sled writes to it,
/// and a ledger may have been copied read-only.
fn copy_to_read(mut db: &File, path: &Path, copy: &Path, segment_bytes: usize) -> Result<(), StorageError> {
    let created = File::options().write(true).create(true).truncate(true).mode(COPY_MODE).open(copy);
    let mut copied = created.map_err(StorageError::io("create", copy))?;
    match io::copy(&mut db, &mut copied) {
        Ok(_) => Ok(()),
        Err(error) if is_for_want_of_room(error.kind()) => {
            Err(no_room(path.parent().expect("it is in a generation"), copy, segment_bytes))
        }
        // Reading on tells which of the two it is.
        Err(error) => match io::copy(&mut db, &mut io::sink()) {
            Ok(_) => Err(StorageError::io("copy to", copy)(error)),
            Err(error) => {
                let offset = db.stream_position().unwrap_or_default();
                Err(StorageError::unreadable(path, offset, RESTORE_BACKUP)(error))
            }
        },
    }
}

/// The error when there is no room for the copy of this generation. It says what this one and the shard's later ones take,
/// for the copies are open all at once: each file, and what opening it adds, zeros to the end of its last segment. What
/// other shards take is not known here; the text says that they do.
fn no_room(path: &Path, copy: &Path, segment_bytes: usize) -> StorageError {
    let later = path.parent().and_then(|parent| list_generations(parent).ok()).unwrap_or_default();
    let lengths = later.iter().filter(|(_, later)| *later >= path).filter_map(|(_, later)| {
        Some(fs::metadata(later.join("db")).ok()?.len().next_multiple_of(segment_bytes as u64))
    });
    let besides = match copy.starts_with(path) {
        true => "; the other shards are read at the same time, and may need as much each",
        false => ", or name another directory with TMPDIR",
    };
    StorageError::NoRoom { path: path.to_owned(), copy: copy.to_owned(), bytes: lengths.sum(), besides }
}

/// All entries of a generations' directory, each a generation or the rest of one.
fn entries(parent: &Path) -> Result<Vec<(String, PathBuf)>, StorageError> {
    let read = match fs::read_dir(parent) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io("read", parent)(error)),
    };
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry.map_err(StorageError::io("read", parent))?;
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap_or_default();
        let number = match name.strip_suffix(CREATING) {
            Some(creating) => match creating.split_once('.') {
                Some((number, count)) if count.parse::<u64>().is_ok() => number,
                // Without a count, as they were once.
                _ => creating,
            },
            None => name.strip_suffix(REMOVED).unwrap_or(&name),
        };
        let is_directory = entry.file_type().map_err(StorageError::io("read", &path))?.is_dir();
        if !is_directory || parse_name(number).is_none() {
            return Err(unexpected_entry(&path));
        }
        entries.push((name, path));
    }
    Ok(entries)
}

/// Lets sled have all its IO threads again. Returns how many come back. For a commit that takes so long that it may wait
/// for them.
pub fn wake_spare_threads() -> usize {
    spare::wake_all()
}

/// The generations of a shard that are readable: the live one, which is appended to, and sealed ones that are
/// not yet archived. Also keeps the next one, opened ahead, because opening would stall commits.
pub struct Generations {
    parent: PathBuf,
    segment_bytes: usize,
    readable: RwLock<Readable>,
    prepared: Mutex<Option<Arc<Generation>>>,
    /// Held while a generation is created, so that one is at a time.
    next_number: Mutex<u64>,
    /// Whether the next one could not be created when that was tried last.
    lacks_next: AtomicBool,
}

#[derive(Default)]
struct Readable {
    /// In order of their numbers.
    sealed: Vec<Arc<Generation>>,
    live: Option<Arc<Generation>>,
}

impl Generations {
    /// The generations of the directory `parent`, of which `sealed`, from earlier lives, have been opened.
    ///
    /// # Errors
    /// If that fails, or the directory has an entry that is not a generation.
    pub fn new(parent: &Path, sealed: Vec<Generation>) -> Result<Arc<Generations>, StorageError> {
        Generations::new_with(parent, sealed, SEGMENT_BYTES)
    }

    fn new_with(
        parent: &Path,
        sealed: Vec<Generation>,
        segment_bytes: usize,
    ) -> Result<Arc<Generations>, StorageError> {
        assert!(sealed.is_sorted_by_key(Generation::number), "generations are opened in order");
        let next_number = list_generations(parent)?.last().map_or(1, |(number, _)| number + 1);
        Ok(Arc::new(Generations {
            parent: parent.to_owned(),
            segment_bytes,
            readable: RwLock::new(Readable {
                sealed: sealed.into_iter().map(Arc::new).collect(),
                live: None,
            }),
            prepared: Mutex::new(None),
            next_number: Mutex::new(next_number),
            lacks_next: AtomicBool::new(false),
        }))
    }

    /// Creates the generation that this life of the process starts with.
    ///
    /// # Errors
    /// If that fails.
    pub fn create(&self) -> Result<Generation, StorageError> {
        self.create_numbered(&mut self.next_number.lock())
    }

    /// Opens the next generation ahead, unless that was done before. For a background thread, at the start and
    /// after every sealing. A generation that is then never used is empty, which is legal.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn prepare_next(&self) -> Result<(), StorageError> {
        // Locked throughout: a journal that cannot wait any longer gets the one that is in the making.
        let mut next_number = self.next_number.lock();
        if !self.is_next_ready() {
            let created = self.create_numbered(&mut next_number);
            self.lacks_next.store(created.is_err(), Ordering::Relaxed);
            let next = Arc::new(created?);
            let number = next.number;
            *self.prepared.lock() = Some(next);
            tracing::debug!(number, journal = %self.parent.display(), "the next generation is open ahead");
        }
        Ok(())
    }

    /// Whether the last attempt to open the next generation ahead failed: the log must not come to need it.
    pub fn lacks_next(&self) -> bool {
        self.lacks_next.load(Ordering::Relaxed)
    }

    /// Whether the next generation is open.
    fn is_next_ready(&self) -> bool {
        self.prepared.lock().is_some()
    }

    /// Grows the file of the live generation, and in time that of the next one, by a step of zeros, so that small commits
    /// are synced sooner; if `has_room` for so many bytes. Whether there are more steps to do. For a background thread,
    /// which rests after each step: the next commit has to write it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn grow(&self, has_room: &dyn Fn(u64) -> bool) -> Result<bool, StorageError> {
        let used = {
            // Held for a step: once it is sealed, a generation is not grown any more.
            let readable = self.readable.read();
            let Some(live) = readable.live.as_ref().filter(|live| live.is_of_small_records()) else {
                return Ok(false);
            };
            let used = live.bytes_used();
            if used < GROWN_USED_MIN || !has_room(GROWN_STEP as u64) {
                return Ok(false);
            }
            if live.grow(used + GROWN_AHEAD)? {
                return Ok(true);
            }
            used
        };
        let next = self.prepared.lock().clone();
        match next {
            Some(next) if used >= GROWN_AHEAD => next.grow(GROWN_AHEAD),
            _ => Ok(false),
        }
    }

    /// Has sled do with so many IO threads, in the whole process, until [`wake_spare_threads`]. To be asked once the live
    /// generation is there, and before anything is appended.
    pub fn rest_spare_threads(&self, needed: usize) {
        let live = self.readable.read().live.clone();
        if let Some(live) = live {
            spare::rest(&live.database, needed);
        }
    }

    /// The sealed generations, oldest first. All records in them are durable.
    pub fn sealed(&self) -> Vec<Arc<Generation>> {
        self.readable.read().sealed.clone()
    }

    /// How many there are.
    pub fn sealed_count(&self) -> usize {
        self.readable.read().sealed.len()
    }

    /// Deletes a sealed generation, after it has been archived. Whoever still reads it may go on to do so.
    ///
    /// # Errors
    /// If it cannot be deleted.
    ///
    /// # Panics
    /// If it is not among [`Generations::sealed`].
    pub fn remove(&self, number: u64) -> Result<(), StorageError> {
        let sealed = self.readable.read().sealed.iter().find(|sealed| sealed.number == number).cloned();
        let path = sealed.expect("only sealed generations are removed").path().to_owned();
        // Renamed first, because a crash in the midst of deleting would leave half a generation behind. One that keeps its
        // name stays listed, and is removed before those behind it: a start expects no gap between generations.
        let removed = self.parent.join(format!("{}{REMOVED}", directory_name(number)));
        fs::rename(&path, &removed).map_err(StorageError::io("rename", &path))?;
        // sled needs no path once it is open: a reader's handle works on the descriptors, until the last drop.
        let generation = {
            let mut readable = self.readable.write();
            let index = readable.sealed.iter().position(|sealed| sealed.number == number);
            readable.sealed.remove(index.expect("nobody else removes any"))
        };
        sync_directory(&self.parent)?;
        // Closed, or somebody reads it, and it stays for as long. The copy of an earlier life's is freed at once, by sled.
        if Arc::into_inner(generation).map(drop).is_some() {
            // Nothing is synced between: that all of the directory is to go its name says durably, since the sync above.
            files::unlink(&removed.join("db"))?.free();
        }
        remove_directory(&removed)?;
        sync_directory(&self.parent)
    }

    /// Makes `generation` the live one and seals the one before, which must be synced.
    fn go_live(&self, generation: Arc<Generation>) -> Arc<Generation> {
        let mut readable = self.readable.write();
        let before = readable.live.replace(Arc::clone(&generation));
        readable.sealed.extend(before);
        assert!(
            readable.sealed.last().is_none_or(|sealed| sealed.number < generation.number),
            "generations go live in order"
        );
        generation
    }

    /// Seals the live generation, and the one that was opened ahead.
    fn retire(&self) {
        let prepared = self.prepared.lock().take();
        let mut readable = self.readable.write();
        let live = readable.live.take();
        readable.sealed.extend(live.into_iter().chain(prepared));
    }

    /// The next generation, at once if it was prepared.
    fn take_next(&self) -> Result<Arc<Generation>, StorageError> {
        if let Some(generation) = self.prepared.lock().take() {
            return Ok(generation);
        }
        self.prepare_next()?;
        let prepared = self.prepared.lock().take();
        Ok(prepared.expect("only the one journal of the shard takes it"))
    }

    fn create_numbered(&self, next_number: &mut u64) -> Result<Generation, StorageError> {
        let number = *next_number;
        // Counted even if creating fails: the next attempt does not meet what this one left.
        *next_number += 1;
        Generation::create(&self.parent, number, self.segment_bytes)
    }

    /// The newest generation that starts at or before the sequence, and whether a later one has records.
    fn place(&self, sequence: Sequence) -> Option<(Arc<Generation>, bool)> {
        let readable = self.readable.read();
        let mut followed = false;
        for generation in readable.sealed.iter().chain(&readable.live).rev() {
            match generation.range() {
                Some((first, _)) if first <= sequence => return Some((Arc::clone(generation), followed)),
                range => followed |= range.is_some(),
            }
        }
        None
    }
}

impl JournalReader for Generations {
    /// `None` also before the first readable generation: that is archived.
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        // Read without the lock: a page may have to come from the disk, and sealing must not wait for it.
        let Some((generation, followed)) = self.place(sequence) else {
            return Ok(None);
        };
        let record = generation.record(sequence)?;
        // A generation that another follows was complete when it was looked at.
        if record.is_none() && followed {
            return Err(generation.corrupt_at(sequence, "the next generation starts behind it".into()));
        }
        Ok(record)
    }
}

/// How a [`SledJournal`] behaves.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Bytes of records after which a generation is sealed.
    pub generation_bytes_max: u64,
    /// Told, without waiting, whenever a generation was sealed: time to prepare the next one and to archive.
    /// A channel of capacity 1 is enough; one notice stands for any number.
    pub sealed: Option<Sender<()>>,
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions { generation_bytes_max: GENERATION_BYTES_MAX, sealed: None }
    }
}

/// The journal in sled: appends to the live generation of [`Generations`], and goes on in the next one when
/// that is full.
pub struct SledJournal {
    shard: ShardId,
    position: LogPosition,
    current: Arc<Generation>,
    shared: Arc<Generations>,
    options: JournalOptions,
    /// How many bytes were appended since the last sync.
    unsynced: u64,
    /// An append or a sync has failed: what is on the disk is unknown, and nothing more may go there.
    failed: bool,
}

impl SledJournal {
    /// A journal that continues `position` in `current`, a new generation, which `shared` shows from now on.
    ///
    /// # Panics
    /// If `current` is not empty.
    pub fn new(
        shard: ShardId,
        position: LogPosition,
        current: Generation,
        shared: Arc<Generations>,
        options: JournalOptions,
    ) -> SledJournal {
        let new = matches!(current.access, Access::Write(_)) && current.range().is_none();
        assert!(new, "a life starts with a new generation");
        SledJournal {
            shard,
            position,
            current: shared.go_live(Arc::new(current)),
            shared,
            options,
            unsynced: 0,
            failed: false,
        }
    }

    /// Seals the live generation and makes no other: this life of the process ends. Afterwards every generation
    /// is among [`Generations::sealed`].
    ///
    /// # Errors
    /// If what was appended cannot be made durable.
    pub fn finish(mut self) -> Result<(), StorageError> {
        self.sync()?;
        self.shared.retire();
        Ok(())
    }

    /// Ends a life of the process that came to nothing: deletes the live generation if no record is in it, since each
    /// attempt to start would leave one.
    ///
    /// # Errors
    /// If it cannot be deleted. It stays, then, which is legal.
    pub fn abandon(self) -> Result<(), StorageError> {
        if self.failed {
            // Fact 7: dropping the database could wait for ever.
            mem::forget(self);
            return Ok(());
        }
        if self.current.range().is_some() {
            return Ok(());
        }
        self.shared.retire();
        self.shared.remove(self.current.number())
    }

    /// Runs one step, unless one has failed before.
    fn guarded<T>(
        &mut self,
        action: &'static str,
        step: impl FnOnce(&mut SledJournal) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.failed {
            return Err(journal_error(action, &self.current.path)("it has failed before".into()));
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    fn append_unguarded(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        // Checked as recovery will check it: what it would refuse must not be acknowledged first.
        let refused = |error: crate::storage::codec::Malformed| {
            journal_error("append to", &self.current.path)(error.to_string())
        };
        let record = Record::parse(bytes).map_err(refused)?;
        let after = record.follow(self.shard, &self.position).map_err(refused)?;
        if self.current.bytes_written() >= self.overrun() {
            // Only a caller that appends a whole generation without a sync comes here.
            self.roll_unguarded()?;
        }
        self.current.insert(&record)?;
        self.position = after;
        self.unsynced += bytes.len() as u64;
        // No reply leaves earlier by that.
        if self.unsynced >= UNSYNCED_BYTES_MAX { self.sync_current() } else { Ok(()) }
    }

    fn sync_current(&mut self) -> Result<(), StorageError> {
        if self.unsynced > 0 {
            self.current.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn sync_unguarded(&mut self) -> Result<(), StorageError> {
        self.sync_current()?;
        let bytes = self.current.bytes_written();
        if bytes >= self.overrun()
            || (bytes >= self.options.generation_bytes_max && self.shared.is_next_ready())
        {
            self.roll_unguarded()?;
        }
        Ok(())
    }

    fn roll_unguarded(&mut self) -> Result<(), StorageError> {
        if self.current.range().is_none() {
            return Ok(());
        }
        // A sealed generation is durable.
        self.sync_current()?;
        let next = self.shared.take_next()?;
        self.current = self.shared.go_live(next);
        if let Some(sealed) = &self.options.sealed {
            // A full channel has a notice in it already; a closed one is the shutdown's business.
            let _ = sealed.try_send(());
        }
        Ok(())
    }

    fn overrun(&self) -> u64 {
        self.options.generation_bytes_max.saturating_mul(GENERATION_OVERRUN)
    }
}

impl Journal for SledJournal {
    fn position(&self) -> LogPosition {
        self.position
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        self.guarded("append to", |journal| journal.append_unguarded(record))
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.guarded("sync", SledJournal::sync_unguarded)
    }

    fn roll(&mut self) -> Result<(), StorageError> {
        self.guarded("sync", SledJournal::sync_current)?;
        if self.current.range().is_some()
            && let Err(error) = self.shared.prepare_next()
        {
            // Nobody needs it now: this one goes on, until it is far too long.
            tracing::error!(shard = %self.shard, %error, "cannot open the next generation");
            return Ok(());
        }
        self.guarded("roll", SledJournal::roll_unguarded)
    }
}

/// The parts of a generation in this directory, whose database was opened to be read.
fn parts_of(path: &Path, database: &::sled::Db) -> Result<Vec<Part>, StorageError> {
    let mut parts = vec![Part::new(Sequence::NONE, database.deref().clone())];
    for name in database.tree_names().into_iter().filter(|name| *name != database.name()) {
        let Some((first, 0)) = parse_key(&name).filter(|(first, _)| *first > Sequence::NONE) else {
            let what = format!("the name of a part is no sequence: {name:?}");
            return Err(corrupt(&path.join("db"), "its log", what));
        };
        let refused = |error: ::sled::Error| corrupt_at(path, first, error.to_string());
        let tree = database.open_tree(&name).map_err(refused)?;
        if tree.first().map_err(refused)?.is_some_and(|(key, _)| key != name) {
            return Err(corrupt_at(path, first, "the part of that name begins with another record".into()));
        }
        parts.push(Part::new(first, tree));
    }
    parts.sort_unstable_by_key(|part| part.first);
    Ok(parts)
}

fn configuration(path: &Path, segment_bytes: usize) -> ::sled::Config {
    ::sled::Config::new()
        .path(path)
        .segment_size(segment_bytes)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .use_compression(false)
}

fn key(sequence: Sequence) -> [u8; KEY_BYTES] {
    sequence.get().to_be_bytes()
}

/// The key of a piece, which is one byte shorter for piece 0.
fn piece_key(first: Sequence, number: usize) -> [u8; KEY_BYTES + 1] {
    let mut bytes = [number as u8; KEY_BYTES + 1];
    bytes[..KEY_BYTES].copy_from_slice(&key(first));
    bytes
}

/// Which record a key belongs to, and which piece of it.
fn parse_key(key: &[u8]) -> Option<(Sequence, usize)> {
    let (first, number) = match key.split_first_chunk::<KEY_BYTES>()? {
        (first, []) => (first, 0),
        (first, [number]) if *number > 0 => (first, usize::from(*number)),
        _ => return None,
    };
    Some((Sequence::new(u64::from_be_bytes(*first))?, number))
}

/// Whether an entry belongs to the record before it. An error does, so that it is seen.
fn is_further_piece(entry: &::sled::Result<(::sled::IVec, ::sled::IVec)>) -> bool {
    entry.as_ref().map_or(true, |(key, _)| key.len() > KEY_BYTES)
}

fn directory_name(number: u64) -> String {
    let name = format!("{number:0NUMBER_DIGITS$}");
    assert_eq!(name.len(), NUMBER_DIGITS, "ten digits last for three centuries at one a second");
    name
}

fn parse_name(name: &str) -> Option<u64> {
    let is_number = name.len() == NUMBER_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

/// Checks that a generation's directory has what sled made there, no blob, and nothing else but the copy of a start that
/// was killed, which means nothing.
fn check_entries(path: &Path) -> Result<(), StorageError> {
    let mut found = [false; 3];
    for entry in fs::read_dir(path).map_err(StorageError::io("read", path))? {
        let entry = entry.map_err(StorageError::io("read", path))?;
        let name = entry.file_name();
        if name == READING {
            continue;
        }
        let index = ["conf", "db", "blobs"]
            .iter()
            .position(|&expected| name == expected)
            .ok_or_else(|| unexpected_entry(&entry.path()))?;
        found[index] = true;
    }
    if found != [true; 3] {
        let what = "conf, db or blobs/ is missing".to_owned();
        return Err(corrupt(path, "the directory", what));
    }
    let blobs = path.join("blobs");
    match fs::read_dir(&blobs).map_err(StorageError::io("read", &blobs))?.next() {
        None => Ok(()),
        Some(blob) => {
            let blob = blob.map_err(StorageError::io("read", &blobs))?;
            Err(unexpected_entry(&blob.path()))
        }
    }
}

/// Checks that `conf` is what sled writes for the copy: it would itself go on with a damaged one.
fn check_configuration(path: &Path, reading: &Path) -> Result<(), StorageError> {
    let conf_path = path.join("conf");
    let found = read_whole(&conf_path, RESTORE_BACKUP)?;
    let expected_path = reading.join("conf");
    let expected = fs::read(&expected_path).map_err(StorageError::io("read", &expected_path))?;
    if found == expected {
        return Ok(());
    }
    let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    let what = "it is not what this version writes".to_owned();
    Err(corrupt(&conf_path, &format!("byte {same}"), what))
}

fn remove_directory(path: &Path) -> Result<(), StorageError> {
    remove("delete", path)
}

/// Deletes a copy, or what a crash left of one.
fn remove_copy(path: &Path) -> Result<(), StorageError> {
    remove("delete the copy, which nobody needs any more,", path)
}

fn remove(action: &'static str, path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io(action, path)(error)),
        _ => Ok(()),
    }
}

fn journal_error(action: &'static str, path: &Path) -> impl FnOnce(String) -> StorageError {
    move |reason| StorageError::Journal { action, path: path.to_owned(), reason }
}

fn corrupt(path: &Path, position: &str, what: String) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: position.to_owned(),
        what,
        next_step: RESTORE_BACKUP,
    }
}

fn corrupt_at(path: &Path, sequence: Sequence, what: String) -> StorageError {
    StorageError::at_sequence(path.join("db"), sequence, what, RESTORE_BACKUP)
}

fn unexpected_entry(path: &Path) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: "its name".to_owned(),
        what: "nothing of that name belongs there".to_owned(),
        next_step: "find out where it comes from, and move it out of the data directory",
    }
}

#[cfg(test)]
mod tests;
