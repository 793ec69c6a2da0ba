//! A bit flips, a file is cut short, missing or exchanged, anywhere in the data directory (P6).
//!
//! A small ledger of two shards: one was killed and has two snapshots, two archive segments and a generation of
//! the journal that was not ended; the other was ended. For every byte of every file a copy is made with one bit
//! of it flipped, and started as the server starts: the data directory opened, all shards recovered, the history
//! read. What may happen:
//!
//! - refused: the start is, with a message that names the file, or of the journal the place in it;
//! - rebuilt: it starts with the same state and the same history, and the log says what was made anew;
//! - unused: likewise, and nothing is said. Only in sled's `db`, where some bytes are not in use.
//!
//! Never may it start with another state, or panic. sled may, on the thread whose panics are errors.
//!
//! One bit of each byte, chosen at random (`TELLER_CORRUPTION_SEED` repeats a choice); of the zeros behind the
//! watermark's slots a spread. `TELLER_CORRUPTION=all` flips every bit of every byte, in about five minutes.
//!
//! What no start can see: a file of the same shard put back from earlier, if all its files were; and a snapshot
//! that is missing but is not the newest, because nothing is only in a snapshot.

mod ledger_files;
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};
use std::thread;

use ledger_files::{LEDGER, Running, Seen, Shard, copy, directory, logged, names};
use random::{Random, setting};
use teller::ledger::ShardId;
use teller::progress::Progress;
use teller::storage::StorageError;
use teller::storage::journal::GUARDED_THREAD;
use teller::storage::log::ShardFiles;
use teller::storage::manifest::DataDirectory;
use teller::storage::verify::verify;
use uuid::Uuid;

/// In the watermark a slot of so many bytes starts at each page; the rest is zeros, of which one in so many is
/// flipped.
const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = 512;
const SPREAD: usize = 61;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Rebuilt,
    Unused,
}

/// What is done to a copy of the ledger.
#[derive(Clone, Debug)]
enum Damage {
    Flip(PathBuf, usize, u8),
    Truncate(PathBuf, u64),
    RemoveFile(PathBuf),
    RemoveDirectory(PathBuf),
    Replace(PathBuf, PathBuf),
    Swap(PathBuf, PathBuf),
}

#[test]
fn a_flipped_bit_stops_the_start_or_is_repaired_and_told_or_means_nothing() {
    let seed = setting("TELLER_CORRUPTION_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("TELLER_CORRUPTION_SEED={seed}");
    let all = std::env::var("TELLER_CORRUPTION").is_ok_and(|value| value == "all");
    let original = Original::new();
    let mut damages = Vec::new();
    for file in &original.files {
        let bytes = fs::metadata(original.path().join(file)).expect("there").len() as usize;
        for byte in 0..bytes {
            if all {
                damages.extend((0..8).map(|bit| Damage::Flip(file.clone(), byte, bit)));
            } else if !is_watermark(file) || byte % PAGE_BYTES < SLOT_BYTES || byte % SPREAD == 0 {
                damages.push(Damage::Flip(
                    file.clone(),
                    byte,
                    Random::new(seed ^ byte as u64).below(8) as u8,
                ));
            }
        }
    }
    let counts = original.try_all(&damages);
    for (file, counts) in &counts {
        println!("{:60} {counts:?}", file.display());
        if !file.ends_with("db") {
            assert_eq!(counts.get(&Outcome::Unused), None, "{} has no unused byte", file.display());
        }
    }
}

#[test]
fn a_file_that_is_cut_short_stops_the_start_or_is_told() {
    let original = Original::new();
    let mut damages = Vec::new();
    for file in &original.files {
        let bytes = fs::metadata(original.path().join(file)).expect("there").len();
        let step = (bytes / 60).max(1);
        damages
            .extend((0..bytes).step_by(step as usize).map(|length| Damage::Truncate(file.clone(), length)));
        damages.extend((bytes > 1).then(|| Damage::Truncate(file.clone(), bytes - 1)));
    }
    for (file, counts) in original.try_all(&damages) {
        println!("{:60} {counts:?}", file.display());
        // What is cut off of sled's file may be what it does not use.
        assert!(
            file.ends_with("db") || counts.keys().all(|outcome| *outcome == Outcome::Refused),
            "{file:?}"
        );
    }
}

#[test]
fn a_missing_file_or_directory_stops_the_start_or_is_told() {
    let original = Original::new();
    let mut damages: Vec<Damage> = original.files.iter().cloned().map(Damage::RemoveFile).collect();
    damages.extend(original.directories.iter().cloned().map(Damage::RemoveDirectory));
    let counts = original.try_all(&damages);
    let silent: Vec<_> = counts.iter().filter(|(_, counts)| counts.contains_key(&Outcome::Unused)).collect();
    let silent: Vec<String> = silent.iter().map(|(file, _)| file.display().to_string()).collect();
    let older = |shard: &str| original.snapshots(shard)[0].display().to_string();
    let empty = vec![
        // Empty, and there to be locked.
        "lock".to_owned(),
        // The newest one is the state; nothing is only in a snapshot.
        older("shard-0000"),
        // Ended, so all of it is in the archive.
        "shard-0001/journal".to_owned(),
    ];
    assert_eq!(silent, empty);
    let rebuilt: Vec<String> = counts
        .iter()
        .filter(|(_, counts)| counts.contains_key(&Outcome::Rebuilt))
        .map(|(file, _)| file.display().to_string())
        .collect();
    let newest = |shard: &str| original.snapshots(shard).last().expect("one").display().to_string();
    assert_eq!(rebuilt, [newest("shard-0000"), newest("shard-0001")]);
}

#[test]
fn a_file_of_another_shard_ledger_or_place_stops_the_start() {
    let original = Original::new();
    let other = Original::with(Uuid::from_u128(2));
    let mut damages = Vec::new();
    for file in original.files.iter().filter(|file| !file.ends_with("conf") && !file.ends_with("lock")) {
        // Of another ledger, whose files have the same names.
        damages.push(Damage::Replace(file.clone(), other.path().join(file)));
        let shard = file.to_string_lossy().replace("shard-0000", "shard-0001");
        if original.path().join(&shard).exists() && *file != Path::new(&shard) {
            damages.push(Damage::Replace(file.clone(), original.path().join(shard)));
        }
    }
    let segments: Vec<_> =
        original.files.iter().filter(|file| file.starts_with("shard-0000/archive")).collect();
    damages.push(Damage::Swap(segments[0].clone(), segments[1].clone()));
    let snapshots = original.snapshots("shard-0000");
    damages.push(Damage::Swap(snapshots[0].clone(), snapshots[1].clone()));
    assert!(damages.len() > 12, "{damages:?}");
    for (file, counts) in original.try_all(&damages) {
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&Outcome::Refused], "{}", file.display());
    }
}

#[test]
fn verify_finds_every_flip_in_archive_and_snapshots() {
    let original = Original::new();
    let copied = directory();
    copy(original.path(), copied.path());
    let prove = || {
        let directory = DataDirectory::open_existing(copied.path()).map_err(|error| error.to_string())?;
        let progress = Progress::new("verifying", "events", None);
        let files = ShardFiles::new(&directory, ShardId::new(1).expect("in range"));
        verify(&files, &progress).map_err(|error| error.to_string())
    };
    // The shard without a generation of the journal, which is quick to prove.
    assert_eq!(prove().expect("proven").snapshots, 1);
    let mut flips = 0;
    for file in original.files.iter().filter(|file| file.starts_with("shard-0001")) {
        if is_watermark(file) {
            continue;
        }
        let path = copied.path().join(file);
        let bytes = fs::read(&path).expect("read");
        for byte in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1 << (byte % 8);
            fs::write(&path, flipped).expect("written");
            let name = path.file_name().expect("a name").to_str().expect("UTF-8");
            let told = prove().expect_err("it is found");
            assert!(told.contains(name), "byte {byte} of {name}: {told}");
            flips += 1;
        }
        fs::write(&path, bytes).expect("written");
    }
    prove().expect("proven again");
    println!("{flips} flips");
}

/// The ledger that is damaged again and again, and what it is undamaged.
struct Original {
    directory: tempfile::TempDir,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    seen: Vec<Seen>,
}

impl Original {
    fn new() -> Original {
        Original::with(LEDGER)
    }

    fn with(ledger: Uuid) -> Original {
        quiet_sled();
        let directory = directory();
        let path = directory.path();
        let mut running = Running::start(path, ledger, 2).expect("a new ledger");
        for (number, shard) in running.shards.iter_mut().enumerate() {
            let name = format!("account {number}");
            shard.open(&name);
            shard.deposits(&name, 1..4);
        }
        let first = &mut running.shards[0];
        // Enough that the next segment is not merged with this one.
        first.deposits("account 0", 100..140);
        first.compact();
        first.open("Kateřina Nováková");
        first.deposits("account 0", 4..7);
        running.stop();
        let mut running = Running::start(path, ledger, 2).expect("a good end");
        let first = &mut running.shards[0];
        assert_eq!(first.replayed, 0, "what was ended is all in the snapshot");
        first.deposits("Kateřina Nováková", 7..20);
        let seen = seen(&running).expect("intact");
        // Killed, but for the generation that the other shard had opened, and did not use.
        drop(running);
        for unused in names(&path.join("shard-0001/journal")) {
            fs::remove_dir_all(path.join("shard-0001/journal").join(unused)).expect("removed");
        }
        let (files, directories) = everything(path);
        let original = Original { directory, files, directories, seen };
        assert_eq!(original.snapshots("shard-0000").len(), 2);
        assert_eq!(names(&original.path().join("shard-0000/archive")).len(), 2);
        original
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn snapshots(&self, shard: &str) -> Vec<PathBuf> {
        let inside = Path::new(shard).join("snapshots");
        self.files.iter().filter(|file| file.starts_with(&inside)).cloned().collect()
    }

    /// Does each damage to a copy and starts it; counts the outcomes by file.
    fn try_all(&self, damages: &[Damage]) -> BTreeMap<PathBuf, BTreeMap<Outcome, usize>> {
        let counts = Mutex::new(BTreeMap::new());
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.attempt(damage);
                        let mut counts = counts.lock().expect("no panic");
                        let counts: &mut BTreeMap<_, _> = counts.entry(damage.path().to_owned()).or_default();
                        *counts.entry(outcome).or_insert(0) += 1;
                    }
                });
            }
        });
        println!("{} starts", damages.len());
        counts.into_inner().expect("no panic")
    }

    fn attempt(&self, damage: &Damage) -> Outcome {
        let copied = directory();
        copy(self.path(), copied.path());
        damage.apply(copied.path());
        let (started, log) = logged(|| {
            let running = Running::start(copied.path(), LEDGER, 2)?;
            seen(&running)
        });
        match started {
            Err(error) => {
                let told = error.to_string();
                let hints = damage.hints();
                assert!(hints.iter().any(|hint| told.contains(hint)), "{damage:?} is refused with: {told}");
                Outcome::Refused
            }
            Ok(seen) => {
                assert!(seen == self.seen, "{damage:?}: it starts with another state or history");
                if log.contains("rebuil") { Outcome::Rebuilt } else { Outcome::Unused }
            }
        }
    }
}

impl Damage {
    fn path(&self) -> &Path {
        match self {
            Damage::Flip(path, ..)
            | Damage::Truncate(path, _)
            | Damage::RemoveFile(path)
            | Damage::RemoveDirectory(path)
            | Damage::Replace(path, _)
            | Damage::Swap(path, _) => path,
        }
    }

    fn apply(&self, root: &Path) {
        let path = root.join(self.path());
        match self {
            Damage::Flip(_, byte, bit) => {
                let mut bytes = fs::read(&path).expect("read");
                bytes[*byte] ^= 1 << bit;
                fs::write(&path, bytes).expect("written");
            }
            Damage::Truncate(_, length) => {
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(*length))
                    .expect("cut");
            }
            Damage::RemoveFile(_) => fs::remove_file(&path).expect("removed"),
            Damage::RemoveDirectory(_) => fs::remove_dir_all(&path).expect("removed"),
            Damage::Replace(_, by) => drop(fs::copy(by, &path).expect("copied")),
            Damage::Swap(_, other) => {
                let other = root.join(other);
                let bytes = fs::read(&path).expect("read");
                fs::copy(&other, &path).expect("copied");
                fs::write(&other, bytes).expect("written");
            }
        }
    }

    /// What a refusal may say: where the damage is; of the journal, the generation or the whole.
    fn hints(&self) -> Vec<String> {
        let path = self.path();
        let mut hints = vec![path.display().to_string()];
        let parts: Vec<_> =
            path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if parts.get(1).is_some_and(|part| part == "journal") {
            hints.push(format!("{}/journal", parts[0]));
        }
        match self {
            // What follows a missing part, or the place where it is missed.
            Damage::RemoveFile(_) | Damage::RemoveDirectory(_) if parts.len() > 1 => {
                hints.push(format!("{}/{}", parts[0], parts[1]));
                hints.push(format!("{}/journal", parts[0]));
            }
            // A manifest of another ledger is intact; everything else is not of that ledger then.
            Damage::Replace(..) if path == Path::new("manifest.json") => {
                hints.push("belongs to shard".to_owned())
            }
            Damage::Swap(_, other) => hints.push(other.display().to_string()),
            _ => {}
        }
        hints
    }
}

/// All files and directories below a path, relative to it, sorted.
fn everything(path: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    let mut todo = vec![PathBuf::new()];
    while let Some(inner) = todo.pop() {
        for name in names(&path.join(&inner)) {
            let inner = inner.join(name);
            if path.join(&inner).is_dir() {
                directories.push(inner.clone());
                todo.push(inner);
            } else {
                files.push(inner);
            }
        }
    }
    files.sort();
    directories.sort();
    (files, directories)
}

fn seen(running: &Running) -> Result<Vec<Seen>, StorageError> {
    running.shards.iter().map(Shard::seen).collect()
}

fn is_watermark(file: &Path) -> bool {
    file.ends_with("watermark")
}

/// sled's panics are expected, and are errors; those of anyone else fail the test, which tells them.
fn quiet_sled() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !thread::current().name().is_some_and(|name| name.starts_with(GUARDED_THREAD)) {
                loud(panic);
            }
        }));
    });
}
