//! What can be wrong with a disk, told so that the reader knows the file, the position and the next step (P6).

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::codec::Malformed;
use super::files::is_for_want_of_room;
use crate::ledger::Sequence;

/// Why something on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), after_refusal(action, path, source))]
    Io {
        /// What was tried, such as "open".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The journal's store refused.
    #[error("cannot {action} the journal {}: {reason}", path.display())]
    Journal {
        /// What was tried.
        action: &'static str,
        /// The generation's directory.
        path: PathBuf,
        /// What the store says.
        reason: String,
    },
    /// The disk has no room to read the journal, which is done through copies.
    #[error("cannot read the journal {}: the disk has no room for the copies through which it is read, such as {}. Nothing has been changed; make room for {bytes} bytes more for this shard, which is what this and its later generations take at most{besides}. Then try again", path.display(), copy.display())]
    NoRoom {
        /// The generation's directory.
        path: PathBuf,
        /// The copy.
        copy: PathBuf,
        /// How many bytes are needed for the shard that it is of.
        bytes: u64,
        /// What else there is to say.
        besides: &'static str,
    },
    /// Bytes are not what was written, or the disk does not give them. Nothing has been changed.
    #[error("{} is corrupt at {position}: {what}; {next_step}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it: a byte or a sequence.
        position: String,
        /// What is wrong there.
        what: String,
        /// What to do about it.
        next_step: &'static str,
    },
    /// The directory is not, or not only, a ledger's.
    #[error("{} is not a ledger's data directory: {what}; name an empty or a new one with --data-dir and --db-name", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// A tool was to work on a ledger where there is none.
    #[error("there is no ledger in {}; name its directory with --data-dir and --db-name", path.display())]
    NoLedger {
        /// The directory.
        path: PathBuf,
    },
    /// What was named as the directory of all ledgers is one of them.
    #[error("{} is itself a ledger: use --data-dir {} --db-name {}", data_dir.join(db_name).display(), data_dir.display(), db_name.display())]
    IsLedger {
        /// Where that ledger is.
        data_dir: PathBuf,
        /// Its name.
        db_name: OsString,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop that first, or name another directory with --data-dir and --db-name", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The ledger has another number of shards than was asked for. The next step is told by who knows what asked.
    #[error("{} has {has} shard{}, not {asked}, and every id in it says which", path.display(), plural(*has))]
    ShardCount {
        /// The directory.
        path: PathBuf,
        /// How many it has.
        has: usize,
        /// How many were asked for.
        asked: usize,
    },
}

/// What to do about what the system says, where that follows from it.
fn after_refusal(action: &str, path: &Path, error: &io::Error) -> String {
    let step = match error.kind() {
        ErrorKind::PermissionDenied => {
            // What is not there yet, or not to be seen, is a matter of what it is in; so is a name.
            let is_entry = action.starts_with("delete") || action.starts_with("rename");
            let found = path
                .ancestors()
                .skip(usize::from(is_entry))
                .find_map(|path| Some((path, fs::metadata(path).ok()?)));
            let Some((found, metadata)) = found else { return String::new() };
            let (user, owner) = (geteuid().as_raw(), metadata.uid());
            let step = match user == owner {
                true => "change the mode, or what else forbids it",
                false => "run it as that user, or change the owner or the mode",
            };
            return format!(
                "; this process runs as user {user}, and {} is user {owner}'s, with mode {:03o}: {step}",
                found.display(),
                metadata.mode() & 0o777
            );
        }
        ErrorKind::ReadOnlyFilesystem => {
            "that file system cannot be written: mount it so that it can, or copy the ledger to one that can"
        }
        kind if is_for_want_of_room(kind) => "make room there",
        ErrorKind::NotADirectory => "move away what is no directory on that path, or name another one",
        // Mostly a directory was to be made here.
        ErrorKind::AlreadyExists if !path.is_dir() => {
            "what has that name is no directory: move it away, or name another one with --data-dir and --db-name"
        }
        _ => return String::new(),
    };
    format!("; {step}")
}

/// The next step where a backup is the only other source of the bytes.
pub const RESTORE_BACKUP: &str =
    "the disk may be failing: keep the directory as it is, and restore a backup of it to go on";

/// How the name of what is counted ends.
pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl StorageError {
    /// Turns an [`io::Error`] into one that says what was done to which file.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        move |source| StorageError::Io { action, path: path.to_owned(), source }
    }

    /// An error of reading an open file, from byte `offset` on: a sector that the disk cannot read, as a rule.
    pub fn unreadable(
        path: &Path,
        offset: u64,
        next_step: &'static str,
    ) -> impl FnOnce(io::Error) -> StorageError {
        move |error| StorageError::at_byte(path, offset, format!("it cannot be read: {error}"), next_step)
    }

    /// Corruption found by a decoder that started at byte `base` of the file.
    pub fn malformed(path: &Path, base: u64, error: Malformed, next_step: &'static str) -> StorageError {
        StorageError::at_byte(path, base + error.offset as u64, error.what, next_step)
    }

    /// Corruption at a byte of a file.
    pub fn at_byte(
        path: impl Into<PathBuf>,
        byte: u64,
        what: impl Into<String>,
        next_step: &'static str,
    ) -> StorageError {
        let position = format!("byte {byte}");
        StorageError::Corrupt { path: path.into(), position, what: what.into(), next_step }
    }

    /// Corruption at a sequence of a log.
    pub fn at_sequence(
        path: impl Into<PathBuf>,
        sequence: Sequence,
        what: impl Into<String>,
        next_step: &'static str,
    ) -> StorageError {
        let position = format!("sequence {sequence}");
        StorageError::Corrupt { path: path.into(), position, what: what.into(), next_step }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// "Permission denied" was all that was told, with a path that is often not there.
    #[test]
    fn who_may_not_hears_who_it_is_and_whose_the_path_is() {
        let temporary = tempfile::tempdir().expect("a directory");
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o700)).expect("set");
        let path = temporary.path().join("ledger/lock");
        let told = StorageError::io("open", &path)(ErrorKind::PermissionDenied.into()).to_string();
        let user = geteuid().as_raw();
        let expected = format!(
            "; this process runs as user {user}, and {} is user {user}'s, with mode 700: change the mode, or what \
             else forbids it",
            temporary.path().display()
        );
        assert!(told.ends_with(&expected), "{told}");
    }

    #[test]
    fn the_next_step_is_told_where_it_follows_from_what_the_system_says() {
        let path = Path::new("/nowhere/ledger");
        for (kind, step) in [
            (ErrorKind::ReadOnlyFilesystem, "copy the ledger to one that can"),
            (ErrorKind::StorageFull, "; make room there"),
            (ErrorKind::NotADirectory, "; move away what is no directory on that path"),
            (ErrorKind::AlreadyExists, "; what has that name is no directory"),
        ] {
            let told = StorageError::io("open", path)(kind.into()).to_string();
            assert!(told.contains(step), "{told}");
        }
        let other = StorageError::io("sync", path)(io::Error::from_raw_os_error(5)).to_string();
        assert_eq!(other, "cannot sync /nowhere/ledger: Input/output error (os error 5)");
    }
}
