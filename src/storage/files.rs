//! Files that appear whole or not at all, and the small helpers around them.
//!
//! A file of a ledger is written once: under a temporary name (`<name>.tmp`), synced, renamed, and the directory
//! that holds the name synced too (P1). A crash at any moment leaves the old file, or the new one, or a leftover
//! with the temporary name; never half a file under a good name.
//!
//! What always holds:
//!
//! - a function that returns `Ok` has everything it made on the platter, names included;
//! - every error says what was done to which file, and a sync that failed is not tried again: the kernel may
//!   have dropped the very pages.
//!
//! Left out: appending to a file that exists. What a crash leaves over is deleted at the next start
//! ([`remove_leftovers`]).

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{StorageError, pace};

/// How the name of a file in the making ends.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// How many bytes go to or come from the system at once: large enough that the calls do not show.
const BUFFER_BYTES: usize = 256 * 1024;

/// After how many bytes a file in the making is synced. What a large one has unsynced must never be much: the sync of a
/// journal may have to wait until the file system has written that, too.
const UNSYNCED_BYTES_MAX: u64 = 256 * 1024;

/// The same for a thread that does not rest, since nobody is there or batches wait for it: 256 KiB at a time, a quarter of
/// the time goes by in syncs. Who comes then may wait until so much is written.
const UNSYNCED_BYTES_MAX_WITHOUT_RESTS: u64 = 4 * 1024 * 1024;

/// How many bytes of a deleted file are given back to the disk at once.
const FREED_BYTES: u64 = 1024 * 1024;

/// Has what is read of a file from here on come from the disk, not from the system's memory; what is not synced stays there.
/// It is advice, which a file system may leave aside.
pub(super) fn read_from_disk(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Deletes files of a directory that nobody reads any more, or whose readers look elsewhere when they end too soon: their
/// names, durably, and then what they have on the disk, piece by piece.
///
/// In this order, since nothing promises that a disk keeps it by itself: after a power cut a name may be back whose removal
/// was not synced, and behind it must be all of the file.
///
/// In pieces, since the system would free all of a file in one call. Where a disk is told what is free (ext4 with `discard`),
/// 100 MB took that 35 ms, in which no commit got through, and the slowest hundredth of the deposits waited as long. A piece
/// takes 0.4 ms.
///
/// # Errors
/// If one cannot be deleted, though the others are, or the directory cannot be synced.
pub fn remove(directory: &Path, paths: &[impl AsRef<Path>]) -> Result<(), StorageError> {
    let (mut unlinked, mut refused) = (Vec::new(), Ok(()));
    for path in paths {
        match unlink(path.as_ref()) {
            Ok(file) => unlinked.push(file),
            Err(error) => refused = refused.and(Err(error)),
        }
    }
    sync_directory(directory)?;
    unlinked.into_iter().for_each(Unlinked::free);
    refused
}

/// A deleted file, whose bytes are still on the disk; if it could be opened.
pub(super) struct Unlinked(Option<File>);

/// Deletes a file's name.
///
/// # Errors
/// If that cannot be done.
pub(super) fn unlink(path: &Path) -> Result<Unlinked, StorageError> {
    let file = File::options().write(true).open(path).ok();
    fs::remove_file(path).map_err(StorageError::io("delete", path))?;
    Ok(Unlinked(file))
}

impl Unlinked {
    /// Gives back, piece by piece, what it has on the disk. It is gone: whatever fails here, the system frees the rest with
    /// the descriptor. But with another name, such as that in a copy made of links, it stays as it is.
    pub(super) fn free(self) {
        let Some(file) = self.0 else { return };
        let mut left = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.nlink() == 0)
            .map_or(0, |metadata| metadata.len());
        while left > 0 {
            // To whole blocks: of one that is cut the system would have to read and write the rest.
            left = (left - 1) / FREED_BYTES * FREED_BYTES;
            if file.set_len(left).is_err() {
                break;
            }
            pace::rest();
        }
    }
}

/// Makes the names in a directory durable: files made, renamed or removed in it.
///
/// # Errors
/// If the directory cannot be opened or synced.
pub fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let directory = File::open(path).map_err(StorageError::io("open", path))?;
    directory.sync_all().map_err(StorageError::io("sync the directory", path))
}

/// Sees whether files can be made in a directory, by making one. On a full disk, where a start has to go on, it cannot be
/// told.
///
/// # Errors
/// If the system refuses for another reason.
pub fn check_writable(directory: &Path) -> Result<(), StorageError> {
    // What a crash leaves of it is swept like any file in the making.
    let path = directory.join(format!("writable{TEMPORARY_SUFFIX}"));
    match File::create(&path) {
        Err(error) if is_for_want_of_room(error.kind()) => Ok(()),
        Err(error) => Err(StorageError::io("create", &path)(error)),
        Ok(_) => fs::remove_file(&path).map_err(StorageError::io("delete", &path)),
    }
}

/// Whether the system refuses something since the disk, or the user's part of it, is full.
pub(super) fn is_for_want_of_room(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// When a file was last written, in seconds since the Unix epoch; 0 if that cannot be told.
pub fn written_secs(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| u64::try_from(metadata.mtime()).unwrap_or_default())
}

/// Creates a directory and the missing ones above it, each durable in its parent.
///
/// Only what this call creates is synced: a parent that an earlier run created and did not live to sync is as
/// durable as the file system makes it.
///
/// # Errors
/// If one cannot be created or synced, or a file stands in the way.
pub fn create_directories(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directories(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result.map_err(StorageError::io("create the directory", path))?,
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Writes a small file, or replaces it, in one step. On return it is durable.
///
/// # Errors
/// If it cannot be written. The file is then as it was, or, after a failed sync of the directory, may be either.
pub fn write_atomically(directory: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, StorageError> {
    let mut file = AtomicFile::create(directory, name)?;
    file.write(bytes)?;
    file.commit(name)
}

/// How long a file is, in bytes.
///
/// # Errors
/// If it cannot be looked at.
pub fn length(path: &Path) -> Result<u64, StorageError> {
    fs::metadata(path).map(|metadata| metadata.len()).map_err(StorageError::io("look at", path))
}

/// All that is in a small file.
///
/// # Errors
/// If it cannot be opened, for whatever reason; or not be read, which is told as damage, with the next step.
pub fn read_whole(path: &Path, next_step: &'static str) -> Result<Vec<u8>, StorageError> {
    let mut file = File::open(path).map_err(StorageError::io("open", path))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StorageError::unreadable(path, 0, next_step))?;
    Ok(bytes)
}

/// The names in a directory, sorted.
///
/// # Errors
/// If the directory cannot be read, or a name is not UTF-8: no file of a ledger has such a name.
pub fn names(directory: &Path) -> Result<Vec<String>, StorageError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(StorageError::io("read the directory", directory))? {
        let entry = entry.map_err(StorageError::io("read the directory", directory))?;
        let name = entry.file_name().into_string();
        names.push(name.map_err(|_| unexpected_name(&entry.path()))?);
    }
    names.sort_unstable();
    Ok(names)
}

/// The names in a directory without those of files that were still in the making, sorted.
///
/// # Errors
/// As [`names`].
pub fn finished_names(directory: &Path) -> Result<Vec<String>, StorageError> {
    let mut names = names(directory)?;
    names.retain(|name| !name.ends_with(TEMPORARY_SUFFIX));
    Ok(names)
}

/// Deletes what a crash left of files in the making, and says how many there were.
///
/// Nothing may be writing in the directory.
///
/// # Errors
/// If the directory cannot be read or a leftover not be deleted.
pub fn remove_leftovers(directory: &Path) -> Result<usize, StorageError> {
    let mut leftovers = names(directory)?;
    leftovers.retain(|name| name.ends_with(TEMPORARY_SUFFIX));
    for name in &leftovers {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(StorageError::io("delete the leftover", &path))?;
    }
    if !leftovers.is_empty() {
        sync_directory(directory)?;
    }
    Ok(leftovers.len())
}

/// The error for a file that nothing here has written.
pub fn unexpected_name(path: &Path) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: "its name".into(),
        what: "no file of a ledger has such a name in this directory".into(),
        next_step: "move it to another directory if it is yours",
    }
}

/// A file that no other process has locked, until the value is dropped.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Locks `file`, which is at `path`; `held` is the error if it is locked already.
    ///
    /// # Errors
    /// `held`, or if the system cannot lock.
    pub fn new(
        file: File,
        path: &Path,
        held: impl FnOnce() -> StorageError,
    ) -> Result<LockedFile, StorageError> {
        match file.try_lock() {
            Ok(()) => Ok(LockedFile(file)),
            Err(TryLockError::WouldBlock) => Err(held()),
            Err(TryLockError::Error(source)) => Err(StorageError::io("lock", path)(source)),
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    /// Closing is not enough: a child that another thread is just starting has a copy of the descriptor, and with it
    /// the lock, until it executes its program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A file in the making: written front to back under a temporary name, visible under its own once it is durable.
///
/// Always: [`AtomicFile::offset`] is the number of bytes written, [`AtomicFile::hash`] their BLAKE3; all but the
/// last `UNSYNCED_BYTES_MAX` are synced, or `UNSYNCED_BYTES_MAX_WITHOUT_RESTS`.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    directory: PathBuf,
    temporary: PathBuf,
    hasher: blake3::Hasher,
    offset: u64,
    synced: u64,
    committed: bool,
}

impl Drop for AtomicFile {
    /// Gives back the space of a file that did not come to be: the disk may be full. If that fails the next start
    /// sweeps it.
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl AtomicFile {
    /// Starts a file as `<name>.tmp`, over a leftover of that name if there is one.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(directory: &Path, name: &str) -> Result<AtomicFile, StorageError> {
        let temporary = directory.join(format!("{name}{TEMPORARY_SUFFIX}"));
        let file = File::create(&temporary).map_err(StorageError::io("create", &temporary))?;
        Ok(AtomicFile {
            writer: BufWriter::with_capacity(BUFFER_BYTES, file),
            directory: directory.to_owned(),
            temporary,
            hasher: blake3::Hasher::new(),
            offset: 0,
            synced: 0,
            committed: false,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If they cannot be written or synced, for example because the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        pace::rest();
        self.writer.write_all(bytes).map_err(StorageError::io("write", &self.temporary))?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        let unsynced_max = if pace::rests() { UNSYNCED_BYTES_MAX } else { UNSYNCED_BYTES_MAX_WITHOUT_RESTS };
        if self.offset - self.synced >= unsynced_max {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.writer.flush().map_err(StorageError::io("write", &self.temporary))?;
        self.writer.get_ref().sync_all().map_err(StorageError::io("sync", &self.temporary))?;
        self.synced = self.offset;
        Ok(())
    }

    /// How many bytes have been written.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The BLAKE3 of all that has been written.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// Makes the file durable and, once `check` has read back what lies there, gives it a name that no file has. Returns
    /// its path. If anything fails there is no file of that name, as far as this can be seen to.
    ///
    /// # Errors
    /// If a byte cannot be written, or a sync fails; or from `check`.
    pub fn commit_checked(
        mut self,
        name: &str,
        check: impl FnOnce(&Path) -> Result<(), StorageError>,
    ) -> Result<PathBuf, StorageError> {
        self.sync()?;
        // In memory everything is as it was written.
        read_from_disk(self.writer.get_ref());
        check(&self.temporary)?;
        let path = self.directory.join(name);
        self.commit(name).inspect_err(|_| drop(fs::remove_file(path)))
    }

    /// Makes the file durable and gives it its name, replacing a file that has it. Returns its path.
    ///
    /// # Errors
    /// If a byte cannot be written, or a sync fails.
    pub fn commit(mut self, name: &str) -> Result<PathBuf, StorageError> {
        self.sync()?;
        let path = self.directory.join(name);
        fs::rename(&self.temporary, &path).map_err(StorageError::io("give its name to", &path))?;
        self.committed = true;
        sync_directory(&self.directory)?;
        Ok(path)
    }
}

/// A file being read front to back, hashed on the way.
#[derive(Debug)]
pub struct HashedFile {
    reader: BufReader<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
    offset: u64,
    length: u64,
    next_step: &'static str,
}

impl HashedFile {
    /// Opens a file; `next_step` is for the errors that [`HashedFile::read`] and [`HashedFile::corrupt`] make.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, next_step: &'static str) -> Result<HashedFile, StorageError> {
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let length = file.metadata().map_err(StorageError::io("look at", path))?.len();
        Ok(HashedFile {
            reader: BufReader::with_capacity(BUFFER_BYTES, file),
            path: path.to_owned(),
            hasher: blake3::Hasher::new(),
            offset: 0,
            length,
            next_step,
        })
    }

    /// Fills `bytes` with the next ones.
    ///
    /// # Errors
    /// If fewer are left, or the system cannot read them.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<(), StorageError> {
        if bytes.len() as u64 > self.length - self.offset {
            let what =
                format!("{} bytes should follow, but the file ends at byte {}", bytes.len(), self.length);
            return Err(self.corrupt(self.offset, what));
        }
        pace::rest();
        let unreadable = StorageError::unreadable(&self.path, self.offset, self.next_step);
        self.reader.read_exact(bytes).map_err(unreadable)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// As [`HashedFile::read`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], StorageError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes the file had when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The BLAKE3 of all that has been read.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The error for wrong bytes at `offset`.
    pub fn corrupt(&self, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::at_byte(&self.path, offset, what, self.next_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_owner_though_a_copy_of_the_descriptor_lives_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let lock = || {
            let file = File::options().create(true).append(true).open(&path).expect("opens");
            LockedFile::new(file, &path, || StorageError::Locked { path: path.clone() })
        };
        let first = lock().expect("it is free");
        // As a child has one, from the fork until it executes its program.
        let _copy = first.file().try_clone().expect("a copy");
        assert!(matches!(lock(), Err(StorageError::Locked { .. })));
        drop(first);
        assert!(lock().is_ok());
    }

    #[test]
    fn a_file_has_its_name_only_once_it_is_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = write_atomically(directory.path(), "a", b"old").expect("written");
        let mut file = AtomicFile::create(directory.path(), "a").expect("created");
        file.write(b"new").expect("written");
        assert_eq!(fs::read(&path).expect("readable"), b"old");
        assert_eq!((file.offset(), file.hash()), (3, blake3::hash(b"new")));
        assert_eq!(names(directory.path()).expect("listed"), ["a", "a.tmp"]);
        assert_eq!(finished_names(directory.path()).expect("listed"), ["a"]);
        file.commit("b").expect("committed");
        assert_eq!(names(directory.path()).expect("listed"), ["a", "b"]);
        assert_eq!(fs::read(directory.path().join("b")).expect("readable"), b"new");
    }

    /// A commit may have to wait until all that is written.
    #[test]
    fn what_a_large_file_in_the_making_has_unsynced_is_bounded() {
        const PIECE: [u8; 10_000] = [7; 10_000];
        struct AlwaysThere;
        impl pace::Others for AlwaysThere {
            fn requests(&self) -> u64 {
                0
            }
            fn are_there(&self) -> bool {
                true
            }
            fn make_way(&self, _: bool) {}
        }
        let most_unsynced = |bytes: u64| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut file = AtomicFile::create(directory.path(), "a").expect("created");
            let mut most = 0;
            while file.offset() < bytes {
                file.write(&PIECE).expect("written");
                most = most.max(file.offset() - file.synced);
            }
            most
        };
        let is_just_below = |most: u64, max: u64| most < max && most + PIECE.len() as u64 >= max;
        let most = most_unsynced(2 * UNSYNCED_BYTES_MAX_WITHOUT_RESTS);
        assert!(is_just_below(most, UNSYNCED_BYTES_MAX_WITHOUT_RESTS), "{most} bytes");
        // Standing back is of a thread, which may run another test next.
        let resting = std::thread::spawn(move || {
            pace::stand_back(&pace::Hurry::default(), AlwaysThere);
            most_unsynced(2 * UNSYNCED_BYTES_MAX)
        });
        let most = resting.join().expect("no panic");
        assert!(is_just_below(most, UNSYNCED_BYTES_MAX), "{most} bytes");
    }

    #[test]
    fn only_leftovers_are_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["a", "b.tmp", "c.tmpx"] {
            fs::write(directory.path().join(name), b"").expect("written");
        }
        assert_eq!(remove_leftovers(directory.path()).expect("removed"), 1);
        assert_eq!(names(directory.path()).expect("listed"), ["a", "c.tmpx"]);
        assert_eq!(remove_leftovers(directory.path()).expect("removed"), 0);
    }

    #[test]
    fn a_file_is_deleted_whole_and_what_has_another_name_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [path, copy] = ["file", "copy"].map(|name| directory.path().join(name));
        let bytes = vec![7; 2 * FREED_BYTES as usize + 1];
        fs::write(&path, &bytes).expect("written");
        let reader = File::open(&path).expect("opened");
        remove(directory.path(), &[&path]).expect("deleted");
        assert!(names(directory.path()).expect("listed").is_empty());
        assert_eq!(reader.metadata().expect("open").len(), 0, "the disk has it back");
        // As `cp -l` copies, and as a link to elsewhere.
        fs::write(&copy, &bytes).expect("written");
        fs::hard_link(&copy, &path).expect("linked");
        remove(directory.path(), &[&path]).expect("deleted");
        std::os::unix::fs::symlink(&copy, &path).expect("linked");
        remove(directory.path(), &[&path]).expect("deleted");
        assert_eq!(names(directory.path()).expect("listed"), ["copy"]);
        assert!(fs::read(&copy).expect("readable") == bytes);
        fs::write(&path, b"a").expect("written");
        let both = [directory.path(), &path];
        remove(directory.path(), &both).expect_err("a directory is no file");
        assert_eq!(names(directory.path()).expect("listed"), ["copy"], "the other is deleted");
    }

    #[test]
    fn directories_are_created_with_those_above_and_files_are_not_mistaken_for_them() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let deep = directory.path().join("a/b/c");
        create_directories(&deep).expect("created");
        create_directories(&deep).expect("there already");
        assert!(deep.is_dir());
        fs::write(deep.join("file"), b"").expect("written");
        let error = create_directories(&deep.join("file/d")).expect_err("a file is in the way");
        assert!(error.to_string().contains("create the directory"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_short_is_told_with_the_position() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = write_atomically(directory.path(), "a", b"12345").expect("written");
        let mut file = HashedFile::open(&path, "do so").expect("opened");
        assert_eq!(file.array::<3>().expect("there"), *b"123");
        let error = file.array::<3>().expect_err("too short").to_string();
        assert!(error.contains("corrupt at byte 3") && error.contains("do so"), "{error}");
        assert_eq!((file.offset(), file.length()), (3, 5));
        assert_eq!(file.hash(), blake3::hash(b"123"));
    }

    /// What the disk says was all: neither the place nor the next step.
    #[test]
    fn a_file_that_cannot_be_read_is_told_with_the_position_and_the_next_step() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut file = HashedFile::open(directory.path(), "do so").expect("a directory opens");
        file.length = 3;
        let error = file.array::<3>().expect_err("and has no bytes").to_string();
        assert!(error.contains("corrupt at byte 0: it cannot be read") && error.contains("do so"), "{error}");
    }
}
