//! The data directory: its lock, its manifest, and the directories of its shards.
//!
//! ```text
//! <path>/lock            held exclusively by the one process that uses the ledger; empty
//! <path>/manifest.json   what the ledger is
//! <path>/shard-0000/     a shard: snapshots/, archive/, and what its journal puts beside them
//! <path>/shard-0001/     ...
//! ```
//!
//! The manifest is two lines, each ended by a line feed, written once and never changed:
//!
//! ```text
//! {"format":1,"ledger":"<UUID>","shards":2,"hash":"xxh3-64/1","created":1763800000000}
//! <BLAKE3 of the first line without its line feed, 64 lower-case hexadecimal digits>
//! ```
//!
//! `created` is in milliseconds since the Unix epoch; `hash` names the function from account names to shards.
//! The first line has one spelling: what does not print back to the byte is refused.
//!
//! What always holds:
//!
//! - one process at a time has a [`DataDirectory`] of a path, for as long as the value lives;
//! - the manifest is written last: where it stands, all of the shards' directories do, durably. So a missing one
//!   has been lost, while a directory without a manifest is either not a ledger's, or nothing has been
//!   acknowledged in it yet (a crash during creation; the next start goes on from there);
//! - a directory that is not a ledger's is left as it was found.
//!
//! Left out: where ids and time come from (the caller, P8), what is inside a shard's directory, and changing the
//! number of shards, which every id depends on.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::files::LockedFile;
use super::{RESTORE_BACKUP, StorageError, Watermark, files};
use crate::ledger::{SHARDS_MAX, ShardId, Timestamp};

/// The version of everything on disk that this program writes and reads.
pub const FORMAT: u32 = 1;
/// The function from account names to shards, and its version. It is pinned: another function would look for
/// accounts where they are not.
pub const HASH: &str = "xxh3-64/1";

const LOCK: &str = "lock";
const MANIFEST: &str = "manifest.json";
const MANIFEST_TEMPORARY: &str = "manifest.json.tmp";
const SNAPSHOTS: &str = "snapshots";
const ARCHIVE: &str = "archive";
const WATERMARK: &str = "watermark";

/// The largest manifest in bytes: several times what the two lines need, and nothing to read by mistake.
const MANIFEST_BYTES_MAX: u64 = 4096;

const OTHER_VERSION: &str = "start the version of teller that wrote it";

/// What a ledger gets if it is created.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// Its number of shards, where none is asked for: 1 to [`SHARDS_MAX`].
    pub shards: usize,
    /// Its id: a random UUID.
    pub ledger: Uuid,
    /// The time.
    pub created: Timestamp,
}

/// A ledger's directory, locked for this process until the value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    manifest: Manifest,
    _lock: LockedFile,
}

/// A directory that is locked for this process, with the ledger in it, if there is one. If not, none is made yet: dropped,
/// this leaves a lock file, and the next start may make a ledger with any number of shards.
#[derive(Debug)]
pub struct ClaimedDirectory {
    path: PathBuf,
    found: Option<Manifest>,
    /// What the ledger becomes if there is none.
    birth: Birth,
    lock: LockedFile,
}

impl ClaimedDirectory {
    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is no ledger yet.
    pub fn is_empty(&self) -> bool {
        self.found.is_none()
    }

    /// How many shards the ledger has, or would get: 1 to [`SHARDS_MAX`].
    pub fn shards(&self) -> usize {
        self.found.as_ref().map_or(self.birth.shards, |manifest| manifest.shards)
    }

    /// Opens the ledger, or creates it if there is none. Its number of shards is for good.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(self) -> Result<DataDirectory, StorageError> {
        let ClaimedDirectory { path, found, birth, lock } = self;
        let manifest = match found {
            Some(manifest) => manifest,
            None => create(&path, &birth)?,
        };
        Ok(DataDirectory { path, manifest, _lock: lock })
    }
}

impl DataDirectory {
    /// Opens the ledger in `path`, or creates one if there is nothing, at once; otherwise as [`DataDirectory::claim`].
    ///
    /// # Errors
    /// As [`DataDirectory::claim`] and [`ClaimedDirectory::open`].
    ///
    /// # Panics
    /// As [`DataDirectory::claim`].
    pub fn open(path: &Path, shards: Option<usize>, birth: &Birth) -> Result<DataDirectory, StorageError> {
        DataDirectory::claim(path, shards, birth)?.open()
    }

    /// Locks `path`, and reads what ledger there is, if any. `shards` is the number of shards that was asked for, if any:
    /// an existing ledger must have as many.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process has it, [`StorageError::Foreign`] if something else is there,
    /// [`StorageError::IsLedger`] if there is nothing, and it would be inside of a ledger, [`StorageError::ShardCount`] if it
    /// has another number of shards, [`StorageError::Corrupt`] if its manifest or a shard's directory is damaged or missing.
    ///
    /// # Panics
    /// If a number of shards is not from 1 to [`SHARDS_MAX`].
    pub fn claim(
        path: &Path,
        shards: Option<usize>,
        birth: &Birth,
    ) -> Result<ClaimedDirectory, StorageError> {
        let birth = Birth { shards: shards.unwrap_or(birth.shards), ..*birth };
        assert!((1..=SHARDS_MAX).contains(&birth.shards), "settings are checked where they are read");
        let path = std::path::absolute(path).map_err(StorageError::io("find", path))?;
        // Before the lock, so that no lock file is left in a directory that is not ours; and again under it.
        if !is_directory(&path)? || look_unlocked(&path)? == Content::Nothing {
            refuse_inside_a_ledger(&path)?;
        }
        files::create_directories(&path)?;
        let lock = lock(&path, true)?;
        let found = match look(&path)? {
            Content::Ledger => {
                let manifest = open_manifest(&path)?;
                // Who wrote it may have been killed before that name was durable, and all that follows needs it.
                files::sync_directory(&path)?;
                Some(manifest)
            }
            Content::Nothing => None,
        };
        if let (Some(asked), Some(Manifest { shards: has, .. })) = (shards, &found)
            && asked != *has
        {
            return Err(StorageError::ShardCount { path, has: *has, asked });
        }
        Ok(ClaimedDirectory { path, found, birth, lock })
    }

    /// Opens an existing ledger for a tool that works offline. Nothing is created or changed, except for the lock
    /// file of a ledger that was copied without it, but with its manifest.
    ///
    /// # Errors
    /// [`StorageError::NoLedger`] or [`StorageError::IsLedger`] if there is none; otherwise as [`DataDirectory::open`].
    pub fn open_existing(path: &Path) -> Result<DataDirectory, StorageError> {
        let path = std::path::absolute(path).map_err(StorageError::io("find", path))?;
        if !is_directory(&path)? || look_unlocked(&path)? == Content::Nothing {
            refuse_inside_a_ledger(&path)?;
            return Err(StorageError::NoLedger { path });
        }
        let lock = lock(&path, false)?;
        if look(&path)? == Content::Nothing {
            return Err(StorageError::NoLedger { path });
        }
        let manifest = open_manifest(&path)?;
        Ok(DataDirectory { path, manifest, _lock: lock })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ledger's id.
    pub fn ledger(&self) -> Uuid {
        self.manifest.ledger
    }

    /// How many shards it has: 1 to [`SHARDS_MAX`].
    pub fn shards(&self) -> usize {
        self.manifest.shards
    }

    /// A shard's directory.
    pub fn shard_directory(&self, shard: ShardId) -> PathBuf {
        self.path.join(shard_name(shard.index()))
    }

    /// Where a shard's snapshots are.
    pub fn snapshot_directory(&self, shard: ShardId) -> PathBuf {
        self.shard_directory(shard).join(SNAPSHOTS)
    }

    /// A shard's watermark.
    pub fn watermark(&self, shard: ShardId) -> PathBuf {
        self.shard_directory(shard).join(WATERMARK)
    }

    /// Where a shard's archive segments are.
    pub fn archive_directory(&self, shard: ShardId) -> PathBuf {
        self.shard_directory(shard).join(ARCHIVE)
    }
}

/// What a directory that may be ours holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Nothing, or what a crash during creation leaves.
    Nothing,
    /// A manifest.
    Ledger,
}

/// As [`look`], before the directory is locked. What seems to be lost may be what another process is creating, since the
/// directory is not looked at all at once: that is judged under the lock, or nobody gets to judge it. Whoever creates has
/// made the lock file before all else; so where there is none it is lost, and stays as it was found.
fn look_unlocked(path: &Path) -> Result<Content, StorageError> {
    match look(path) {
        Err(StorageError::Corrupt { .. }) if path.join(LOCK).exists() => Ok(Content::Ledger),
        Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Content::Ledger),
        looked => looked,
    }
}

fn look(path: &Path) -> Result<Content, StorageError> {
    let names: Vec<_> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<_, _>>())
        .map_err(StorageError::io("read the directory", path))?;
    if names.iter().any(|name| name == MANIFEST) {
        return Ok(Content::Ledger);
    }
    for name in names {
        let name = name.to_string_lossy();
        if name == LOCK || name == MANIFEST_TEMPORARY {
            continue;
        }
        if shard_number(&name).is_none() {
            return Err(StorageError::Foreign {
                path: path.to_owned(),
                what: format!("it has no {MANIFEST}, but {name:?}"),
            });
        }
        if !is_newborn(&path.join(&*name))? {
            let what = format!("the file is missing, but {name} has data");
            return Err(StorageError::at_byte(path.join(MANIFEST), 0, what, RESTORE_BACKUP));
        }
    }
    Ok(Content::Nothing)
}

/// Whether a shard's directory is as creation leaves it, or earlier.
fn is_newborn(shard: &Path) -> Result<bool, StorageError> {
    for name in files::names(shard)? {
        let watermark = name.starts_with(WATERMARK);
        if !watermark
            && (name != SNAPSHOTS && name != ARCHIVE || !files::names(&shard.join(name))?.is_empty())
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses the path of a ledger that is not there, inside of one: the other one is meant, and would be taken for empty. A
/// ledger that does stand there was made so by an earlier version, and is what was asked for.
fn refuse_inside_a_ledger(path: &Path) -> Result<(), StorageError> {
    let Some(outer) = path.parent() else { return Ok(()) };
    // Other programs have a `manifest.json`, too.
    if !is_directory(&outer.join(shard_name(0)))? || !outer.join(MANIFEST).exists() {
        return Ok(());
    }
    // A path that ends in `..` has no name of its own.
    let outer = match outer.file_name() {
        Some(_) => outer.to_owned(),
        None => fs::canonicalize(outer).map_err(StorageError::io("find", outer))?,
    };
    match (outer.parent(), outer.file_name()) {
        (Some(data_dir), Some(name)) => {
            Err(StorageError::IsLedger { data_dir: data_dir.to_owned(), db_name: name.to_owned() })
        }
        // The root has none at all, so nothing can be advised.
        _ => Ok(()),
    }
}

fn lock(path: &Path, writable: bool) -> Result<LockedFile, StorageError> {
    let lock_path = path.join(LOCK);
    // A lock can be taken on a file that is only readable, such as one of a copy that is kept read-only.
    let file = if !writable && lock_path.exists() {
        File::open(&lock_path)
    } else {
        File::options().create(true).append(true).open(&lock_path)
    };
    let file = file.map_err(StorageError::io("open", &lock_path))?;
    LockedFile::new(file, &lock_path, || StorageError::Locked { path: path.to_owned() })
}

/// Creates a ledger, or goes on where a crash stopped another start from doing so.
fn create(path: &Path, birth: &Birth) -> Result<Manifest, StorageError> {
    let shards = birth.shards;
    for name in files::names(path)? {
        if shard_number(&name).is_some_and(|number| number >= shards) {
            remove_newborn(&path.join(name))?;
        }
    }
    for number in 0..shards {
        let shard = path.join(shard_name(number));
        for directory in [SNAPSHOTS, ARCHIVE] {
            files::create_directories(&shard.join(directory))?;
        }
        remove_watermark(&shard)?;
        // Before the manifest, so that a ledger that has one also has its watermarks: a missing one is a loss.
        let shard_id = ShardId::new(number).expect("the number of shards was checked");
        Watermark::create(&shard.join(WATERMARK), birth.ledger, shard_id)?;
        // Once more, because a start before this one may have created them and not lived to sync.
        files::sync_directory(&shard)?;
    }
    files::sync_directory(path)?;
    files::sync_directory(path.parent().unwrap_or(path))?;
    let manifest = Manifest { ledger: birth.ledger, shards, created: birth.created };
    files::write_atomically(path, MANIFEST, &manifest.to_bytes())?;
    let read = open_manifest(path)?;
    assert_eq!(read, manifest, "a manifest reads back as what was written");
    Ok(manifest)
}

/// Removes the watermark of a creation that was cut short: it names the ledger that did not come to be.
fn remove_watermark(shard: &Path) -> Result<(), StorageError> {
    for name in files::names(shard)?.iter().filter(|name| name.starts_with(WATERMARK)) {
        let path = shard.join(name);
        fs::remove_file(&path).map_err(StorageError::io("remove", &path))?;
    }
    Ok(())
}

/// Removes a shard's directory of a creation that was cut short. Refuses, as the system does, if it has data.
fn remove_newborn(shard: &Path) -> Result<(), StorageError> {
    remove_watermark(shard)?;
    for directory in files::names(shard)?.iter().map(|name| shard.join(name)).chain([shard.to_owned()]) {
        fs::remove_dir(&directory).map_err(StorageError::io("remove the empty directory", &directory))?;
    }
    Ok(())
}

/// Reads the manifest and checks that the shards' directories are those that it tells of.
fn open_manifest(path: &Path) -> Result<Manifest, StorageError> {
    let file = path.join(MANIFEST);
    let length = files::length(&file)?;
    if length > MANIFEST_BYTES_MAX {
        let what = format!("the file has {length} bytes, and a manifest at most {MANIFEST_BYTES_MAX}");
        return Err(StorageError::at_byte(file, MANIFEST_BYTES_MAX, what, RESTORE_BACKUP));
    }
    let bytes = files::read_whole(&file, RESTORE_BACKUP)?;
    let manifest = Manifest::parse(&file, &bytes)?;
    for number in 0..manifest.shards {
        let shard = path.join(shard_name(number));
        for directory in [shard.join(SNAPSHOTS), shard.join(ARCHIVE)] {
            if !is_directory(&directory)? {
                return Err(misplaced(directory, "the directory is missing"));
            }
        }
    }
    for name in files::names(path)? {
        if shard_number(&name).is_some_and(|number| number >= manifest.shards) {
            return Err(misplaced(path.join(name), "the manifest does not count this shard"));
        }
    }
    Ok(manifest)
}

/// Whether there is a directory of that name, which whoever may not look is not told.
fn is_directory(path: &Path) -> Result<bool, StorageError> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(StorageError::io("look at", path)(error)),
    }
}

fn misplaced(path: PathBuf, what: &str) -> StorageError {
    StorageError::Corrupt { path, position: "its name".into(), what: what.into(), next_step: RESTORE_BACKUP }
}

fn shard_name(number: usize) -> String {
    format!("shard-{number:04}")
}

fn shard_number(name: &str) -> Option<usize> {
    let number = name.strip_prefix("shard-")?.parse().ok()?;
    (number < SHARDS_MAX && shard_name(number) == name).then_some(number)
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manifest {
    ledger: Uuid,
    shards: usize,
    created: Timestamp,
}

/// The first line, in the order of its members.
#[derive(Serialize, Deserialize)]
struct Line {
    format: u32,
    ledger: String,
    shards: usize,
    hash: String,
    created: u64,
}

/// What every format's first line has, so that another format is told from damage.
#[derive(Deserialize)]
struct AnyLine {
    format: u32,
}

impl Manifest {
    fn to_bytes(&self) -> Vec<u8> {
        let line = self.to_line();
        format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex()).into_bytes()
    }

    fn to_line(&self) -> String {
        let line = Line {
            format: FORMAT,
            ledger: self.ledger.to_string(),
            shards: self.shards,
            hash: HASH.into(),
            created: self.created.millis(),
        };
        serde_json::to_string(&line).expect("numbers and strings have a JSON form")
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, StorageError> {
        let corrupt = |offset: usize, what: &str, next_step| {
            StorageError::at_byte(path, offset as u64, what, next_step)
        };
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| corrupt(bytes.len(), "the first line has no end", RESTORE_BACKUP))?;
        let (line, checksum) = (&bytes[..end], &bytes[end + 1..]);
        if checksum != format!("{}\n", blake3::hash(line).to_hex()).as_bytes() {
            let what = "the second line is not the BLAKE3 of the first";
            return Err(corrupt(end + 1, what, RESTORE_BACKUP));
        }
        let unreadable = |error: serde_json::Error| {
            let what = format!("the first line cannot be read: {error}");
            corrupt(error.column().saturating_sub(1), &what, RESTORE_BACKUP)
        };
        let AnyLine { format } = serde_json::from_slice(line).map_err(unreadable)?;
        if format != FORMAT {
            let what = format!("it has format {format}, and this version of teller reads format {FORMAT}");
            return Err(corrupt(0, &what, OTHER_VERSION));
        }
        let read: Line = serde_json::from_slice(line).map_err(unreadable)?;
        if read.hash != HASH {
            let what = format!("it has the hash {:?}, and this version of teller has {HASH:?}", read.hash);
            return Err(corrupt(0, &what, OTHER_VERSION));
        }
        let manifest = Manifest {
            ledger: Uuid::try_parse(&read.ledger)
                .map_err(|_| corrupt(0, "the ledger's id is not a UUID", RESTORE_BACKUP))?,
            shards: read.shards,
            created: Timestamp::from_millis(read.created),
        };
        if !(1..=SHARDS_MAX).contains(&manifest.shards) {
            return Err(corrupt(0, "the number of shards is out of range", RESTORE_BACKUP));
        }
        if manifest.to_line().as_bytes() != line {
            return Err(corrupt(0, "the first line is not spelled as it is written", RESTORE_BACKUP));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth() -> Birth {
        Birth {
            shards: 2,
            ledger: Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8),
            created: Timestamp::from_millis(1_763_800_000_000),
        }
    }

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn open(path: &Path, shards: Option<usize>) -> Result<DataDirectory, StorageError> {
        DataDirectory::open(path, shards, &birth())
    }

    /// All paths below a directory.
    fn tree(path: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for name in files::names(path).expect("listed") {
            let path = path.join(name);
            if path.is_dir() {
                paths.extend(tree(&path));
            }
            paths.push(path);
        }
        paths
    }

    #[test]
    fn the_manifest_is_these_bytes() {
        let temporary = temporary();
        open(temporary.path(), None).expect("created");
        let line = r#"{"format":1,"ledger":"67e55044-10b1-426f-9247-bb680e5fe0c8","shards":2,"hash":"xxh3-64/1","created":1763800000000}"#;
        let expected = format!("{line}\n{}\n", blake3::hash(line.as_bytes()));
        let read = fs::read_to_string(temporary.path().join(MANIFEST)).expect("readable");
        assert_eq!(read, expected);
    }

    #[test]
    fn a_ledger_is_created_once_and_stays_what_it_is() {
        let temporary = temporary();
        let path = temporary.path().join("deep/ledger");
        let claimed = DataDirectory::claim(&path, Some(3), &birth()).expect("claimed");
        assert!(claimed.is_empty());
        let created = claimed.open().expect("created");
        let other = Birth { ledger: Uuid::nil(), created: Timestamp::default(), shards: 7 };
        assert!(matches!(DataDirectory::open(&path, None, &other), Err(StorageError::Locked { .. })));
        assert!(matches!(DataDirectory::open_existing(&path), Err(StorageError::Locked { .. })));
        drop(created);
        for asked in [None, Some(3)] {
            let claimed = DataDirectory::claim(&path, asked, &other).expect("claimed");
            assert_eq!((claimed.shards(), claimed.path(), claimed.is_empty()), (3, &*path, false));
            let opened = claimed.open().expect("opened");
            assert_eq!(opened.ledger(), birth().ledger);
            assert_eq!(opened.manifest.created, birth().created);
            assert_eq!((opened.shards(), opened.path()), (3, &*path));
            let shard = ShardId::new(2).expect("in range");
            assert_eq!(opened.shard_directory(shard), path.join("shard-0002"));
            assert!(opened.snapshot_directory(shard).is_dir() && opened.archive_directory(shard).is_dir());
        }
        assert!(matches!(open(&path, Some(2)), Err(StorageError::ShardCount { has: 3, asked: 2, .. })));
        fs::remove_file(path.join(LOCK)).expect("removed");
        assert_eq!(DataDirectory::open_existing(&path).expect("opened").shards(), 3);
    }

    /// Whoever named the ledger where the directory of all was wanted got an empty one inside of it, or was told that there
    /// is none.
    #[test]
    fn inside_of_a_ledger_none_is_made_and_the_outer_one_is_named() {
        let temporary = temporary();
        let outer = temporary.path().join("bank");
        drop(open(&outer, Some(1)).expect("created"));
        let before = tree(temporary.path());
        let told = format!(
            "{} is itself a ledger: use --data-dir {} --db-name bank",
            outer.display(),
            temporary.path().display()
        );
        for inside in [outer.join("teller"), outer.join("shard-0000/../teller")] {
            for attempt in [|path: &Path| open(path, None), DataDirectory::open_existing] {
                assert_eq!(attempt(&inside).expect_err("it is inside").to_string(), told);
            }
        }
        assert_eq!(tree(temporary.path()), before);

        // One that stands there is opened; so is a directory beside what another program calls a manifest.
        fs::rename(outer.join(MANIFEST), temporary.path().join("kept")).expect("renamed");
        fs::create_dir(outer.join("teller")).expect("created");
        drop(open(&outer.join("teller"), Some(1)).expect("created"));
        fs::rename(temporary.path().join("kept"), outer.join(MANIFEST)).expect("renamed");
        drop(open(&outer.join("teller"), None).expect("it is there"));
        let other = temporary.path().join("site");
        fs::create_dir(&other).expect("created");
        fs::write(other.join(MANIFEST), b"{}").expect("written");
        open(&other.join("teller"), None).expect("created");
    }

    /// A start that came no further than this had made a ledger with a number of shards for good.
    #[test]
    fn what_was_only_claimed_is_no_ledger_yet() {
        let temporary = temporary();
        let claimed = DataDirectory::claim(temporary.path(), Some(1024), &birth()).expect("claimed");
        assert_eq!(claimed.shards(), 1024);
        assert!(matches!(open(temporary.path(), None), Err(StorageError::Locked { .. })));
        drop(claimed);
        assert_eq!(tree(temporary.path()), [temporary.path().join(LOCK)]);
        assert_eq!(open(temporary.path(), Some(3)).expect("created").shards(), 3);
    }

    #[test]
    fn a_tool_creates_no_ledger() {
        let temporary = temporary();
        let missing = temporary.path().join("missing");
        for path in [&*missing, temporary.path()] {
            let error = DataDirectory::open_existing(path).expect_err("no ledger");
            assert!(matches!(error, StorageError::NoLedger { .. }), "{error}");
        }
        assert!(tree(temporary.path()).is_empty());
    }

    /// Whoever was told that it is missing restored a backup, and lost what had been acknowledged since.
    #[test]
    fn a_directory_that_cannot_be_looked_at_is_not_called_missing() {
        let temporary = temporary();
        let path = temporary.path().join("ledger");
        drop(open(&path, Some(1)).expect("created"));
        let archive = path.join("shard-0000/archive");
        fs::remove_dir(&archive).expect("it is empty");
        let error = open(&path, None).expect_err("it is missing");
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        std::os::unix::fs::symlink(&archive, &archive).expect("a link to itself");
        let error = open(&path, None).expect_err("nobody can follow it");
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        for name in ["notes.txt", "shard-1", "shard-1024"] {
            let temporary = temporary();
            fs::write(temporary.path().join(name), b"mine").expect("written");
            let error = open(temporary.path(), None).expect_err("foreign");
            assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(tree(temporary.path()), [temporary.path().join(name)]);
        }
    }

    #[test]
    fn creation_goes_on_after_a_crash_at_any_step() {
        let whole = temporary();
        open(whole.path(), Some(3)).expect("created");
        let mut steps = tree(whole.path());
        // In the order of creation, parents first, and the manifest still under its temporary name.
        steps.retain(|path| !path.ends_with(MANIFEST) && !path.ends_with(LOCK));
        steps.sort();
        for crash in 0..=steps.len() {
            let temporary = temporary();
            fs::write(temporary.path().join(LOCK), b"").expect("written");
            for step in &steps[..crash] {
                let step = step.strip_prefix(whole.path()).expect("below");
                let (from, to) = (whole.path().join(step), temporary.path().join(step));
                if from.is_dir() {
                    fs::create_dir(to).expect("created");
                } else {
                    fs::copy(from, to).expect("copied");
                }
            }
            if crash == steps.len() {
                fs::write(temporary.path().join(MANIFEST_TEMPORARY), b"{\"form").expect("written");
            }
            let opened = open(temporary.path(), Some(2)).expect("created");
            assert_eq!(opened.shards(), 2);
            drop(opened);
            open(temporary.path(), None).expect("opened");
            assert!(!temporary.path().join("shard-0002").exists());
        }
    }

    #[test]
    fn what_a_ledger_has_lost_is_told() {
        for lost in [MANIFEST, "shard-0001", "shard-0000/archive"] {
            let temporary = temporary();
            let ledger = open(temporary.path(), None).expect("created");
            let shard = ledger.shard_directory(ShardId::new(0).expect("in range"));
            fs::write(shard.join("data"), b"").expect("written");
            drop(ledger);
            let path = temporary.path().join(lost);
            if path.is_dir() {
                fs::remove_dir_all(&path).expect("removed");
            } else {
                fs::remove_file(&path).expect("removed");
            }
            for result in [open(temporary.path(), None), DataDirectory::open_existing(temporary.path())] {
                let error = result.expect_err("corrupt");
                assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
                assert!(error.to_string().contains(lost) && error.to_string().contains("missing"), "{error}");
            }
        }
        let temporary = temporary();
        open(temporary.path(), None).expect("created");
        fs::create_dir(temporary.path().join("shard-0002")).expect("created");
        let error = open(temporary.path(), None).expect_err("one shard too many").to_string();
        assert!(error.contains("does not count"), "{error}");
    }

    /// A second start that listed the directory before the first one had written the manifest, and looked into the shards
    /// after that had begun to work, was told to restore a backup.
    #[test]
    fn what_is_lost_is_judged_by_who_has_the_lock() {
        let temporary = temporary();
        let ledger = open(temporary.path(), None).expect("created");
        let shard = ledger.shard_directory(ShardId::new(0).expect("in range"));
        fs::write(shard.join("data"), b"").expect("written");
        fs::remove_file(temporary.path().join(MANIFEST)).expect("removed");
        let attempts = || [open(temporary.path(), None), DataDirectory::open_existing(temporary.path())];
        for result in attempts() {
            let error = result.expect_err("the first has it");
            assert!(matches!(error, StorageError::Locked { .. }), "{error}");
        }
        drop(ledger);
        for result in attempts() {
            let error = result.expect_err("it is lost");
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        }
    }

    /// Of a copy that is kept read-only it was told that its lock file cannot be made, and others got one.
    #[test]
    fn what_is_lost_is_told_where_there_is_no_lock_file_and_none_is_made() {
        let temporary = temporary();
        let ledger = open(temporary.path(), None).expect("created");
        let shard = ledger.shard_directory(ShardId::new(0).expect("in range"));
        drop(ledger);
        fs::write(shard.join("data"), b"").expect("written");
        for name in [MANIFEST, LOCK] {
            fs::remove_file(temporary.path().join(name)).expect("removed");
        }
        let before = tree(temporary.path());
        for attempt in [|path: &Path| open(path, None), DataDirectory::open_existing] {
            let error = attempt(temporary.path()).expect_err("it is lost");
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
            assert_eq!(tree(temporary.path()), before);
        }
    }

    #[test]
    fn any_change_of_a_byte_or_the_length_is_refused() {
        let temporary = temporary();
        open(temporary.path(), None).expect("created");
        let path = temporary.path().join(MANIFEST);
        let bytes = fs::read(&path).expect("readable");
        let refused = |bytes: &[u8], why: &str| {
            // A new file: some file systems sync one that is truncated and written again.
            fs::remove_file(&path).expect("removed");
            fs::write(&path, bytes).expect("written");
            let error = open(temporary.path(), None).expect_err(why);
            assert!(matches!(error, StorageError::Corrupt { .. }), "{why}: {error}");
            assert!(error.to_string().contains("manifest.json is corrupt at byte"), "{error}");
        };
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                refused(&flipped, &format!("byte {at} bit {bit}"));
            }
            refused(&bytes[..at], &format!("cut at {at}"));
        }
        for extra in [&b"\n"[..], b" ", b"x", &[0; 5000]] {
            refused(&[&bytes, extra].concat(), "extra bytes");
        }
        fs::write(&path, &bytes).expect("written");
        open(temporary.path(), None).expect("as it was");
    }

    #[test]
    fn other_versions_and_other_spellings_are_refused_though_the_checksum_is_right() {
        let temporary = temporary();
        open(temporary.path(), None).expect("created");
        let path = temporary.path().join(MANIFEST);
        let text = fs::read_to_string(&path).expect("readable");
        let line = text.lines().next().expect("a line");
        for (from, to, expected) in [
            ("\"format\":1", "\"format\":2", "format 2"),
            ("xxh3-64/1", "xxh3-64/2", "xxh3-64/2"),
            ("\"shards\":2", "\"shards\":0", "out of range"),
            ("\"shards\":2", "\"shards\":1025", "out of range"),
            ("\"shards\":2", "\"shards\":-1", "cannot be read"),
            ("\"shards\":2", "\"shards\": 2", "not spelled"),
            ("67e55044", "67E55044", "not spelled"),
            ("67e55044", "67e5504", "not a UUID"),
            ("}", ",\"more\":1}", "not spelled"),
            ("1763800000000", "1763800000000000", "not spelled"),
        ] {
            let changed = line.replace(from, to);
            assert_ne!(changed, line);
            let bytes = format!("{changed}\n{}\n", blake3::hash(changed.as_bytes()));
            fs::write(&path, bytes).expect("written");
            let error = open(temporary.path(), None).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
