//! The contract on sled, and one test for each of the facts that `sled.rs` lists.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use super::super::contract::{Bed, Chain, sequence, suite};
use super::*;
use crate::storage::samples::fixture;

/// Small, because opening zeroes the rest of a segment and syncs that.
const TEST_SEGMENT_BYTES: usize = 512 * 1024;

/// A generation with two parts, in `tests/fixtures`.
const FIXTURE: &str = "generation-2";

struct SledBed {
    directory: tempfile::TempDir,
    shard: ShardId,
    start: LogPosition,
    shared: Arc<Generations>,
    journal: SledJournal,
}

impl SledBed {
    /// What the start of the service does.
    fn recover(
        directory: tempfile::TempDir,
        segment_bytes: usize,
        shard: ShardId,
        start: LogPosition,
    ) -> SledBed {
        let parent = directory.path().join("journal");
        sweep_generations(&parent).expect("swept");
        let mut position = start;
        let mut sealed = Vec::new();
        for (number, path) in list_generations(&parent).expect("listable") {
            let generation = Generation::open_with(&path, segment_bytes).expect("opens");
            assert_eq!(generation.number(), number);
            generation
                .replay(&mut |record| {
                    position = record.follow(shard, &position).expect("follows");
                    Ok(())
                })
                .expect("replays");
            sealed.push(generation);
        }
        let shared = Generations::new_with(&parent, sealed, segment_bytes).expect("opens");
        let current = shared.create().expect("created");
        let options = JournalOptions::default();
        let journal = SledJournal::new(shard, position, current, Arc::clone(&shared), options);
        SledBed { directory, shard, start, shared, journal }
    }
}

impl Bed for SledBed {
    fn start(shard: ShardId, position: LogPosition) -> SledBed {
        SledBed::recover(tempfile::tempdir().expect("a directory"), TEST_SEGMENT_BYTES, shard, position)
    }

    fn start_full_size(shard: ShardId, position: LogPosition) -> SledBed {
        SledBed::recover(tempfile::tempdir().expect("a directory"), SEGMENT_BYTES, shard, position)
    }

    fn journal(&mut self) -> &mut dyn Journal {
        &mut self.journal
    }

    fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.shared) as Arc<dyn JournalReader>
    }

    fn restart(self) -> SledBed {
        let SledBed { directory, shard, start, shared, journal } = self;
        drop(journal);
        let segment_bytes = shared.segment_bytes;
        let readable = std::mem::take(&mut *shared.readable.write());
        for generation in readable.sealed.into_iter().chain(readable.live) {
            // A reader of the test may still hold the list, but not a generation.
            let generation = Arc::into_inner(generation).expect("the only handle");
            generation.close();
        }
        SledBed::recover(directory, segment_bytes, shard, start)
    }
}

suite!(SledBed);

/// How long a closed database may still be held by sled's IO threads: they only have bookkeeping left to do.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
const CLOSE_POLL: Duration = Duration::from_millis(1);

impl Generation {
    fn open(path: &Path) -> Result<Generation, StorageError> {
        Generation::open_with(path, SEGMENT_BYTES)
    }

    fn open_with(path: &Path, segment_bytes: usize) -> Result<Generation, StorageError> {
        let mut opened =
            read_generations_with(&[path.to_owned()], Copies::Inside, segment_bytes, &mut |_, _| Ok(()))?;
        Ok(opened.pop().expect("there is one"))
    }

    /// Ends the use of the generation and returns when no thread of sled's holds it any more (fact 11). What was not
    /// synced may be lost or not.
    fn close(self) {
        let Generation { path, database, parts, access, .. } = self;
        drop((parts, database));
        // Of one that is read sled only had the copy.
        let Access::Write(file) = access else { return };
        let mut waited = Duration::ZERO;
        while file.try_lock().is_err() {
            assert!(waited < CLOSE_WAIT, "{} stays in use", path.display());
            std::thread::sleep(CLOSE_POLL);
            waited += CLOSE_POLL;
        }
    }
}

fn create(directory: &Path) -> Generation {
    Generation::create(directory, 1, TEST_SEGMENT_BYTES).expect("created")
}

fn open(path: &Path) -> Result<Generation, StorageError> {
    Generation::open_with(path, TEST_SEGMENT_BYTES)
}

fn insert(generation: &Generation, bytes: &[u8]) {
    let record = Record::parse(bytes).expect("valid");
    generation.insert(&record).expect("inserted");
}

/// A closed generation of so many records, with the records.
fn written(parent: &Path, count: u64, bytes: usize) -> (PathBuf, Vec<Vec<u8>>) {
    written_with(parent, count, bytes, TEST_SEGMENT_BYTES)
}

fn written_with(parent: &Path, count: u64, bytes: usize, segment_bytes: usize) -> (PathBuf, Vec<Vec<u8>>) {
    let mut chain = Chain::new();
    let generation = Generation::create(parent, 1, segment_bytes).expect("created");
    let records: Vec<Vec<u8>> = (0..count).map(|_| chain.record_of(2, bytes)).collect();
    for record in &records {
        insert(&generation, record);
        generation.sync().expect("synced");
    }
    let path = generation.path().to_owned();
    generation.close();
    (path, records)
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for name in ["conf", "db"] {
        fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

/// The files as they are after a SIGKILL: nothing was closed, nothing dropped.
fn left_by(generation: &Path, parent: &Path, number: u64) -> PathBuf {
    let left = parent.join(directory_name(number));
    copy_files(generation, &left);
    fs::create_dir(left.join("blobs")).expect("created");
    left
}

fn replayed(generation: &Generation) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    generation
        .replay(&mut |record| {
            records.push(record.bytes().to_vec());
            Ok(())
        })
        .expect("replays");
    records
}

/// All files below a directory, and what is in them.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_generation_has_what_was_written_and_reading_it_changes_no_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, records) = written(directory.path(), 40, 900);
    let before = contents(&path);
    let names: Vec<_> = before
        .iter()
        .map(|(path, _)| path.file_name().and_then(|name| name.to_str()).expect("text"))
        .collect();
    // No snapshot, no blob (facts 2 and 5).
    assert_eq!(names, ["blobs", "conf", "db"]);
    for _ in 0..2 {
        let generation = open(&path).expect("opens");
        assert_eq!(replayed(&generation), records);
        assert_eq!(generation.range(), Some((sequence(1), sequence(80))));
        let bytes: usize = records.iter().map(Vec::len).sum();
        assert_eq!(generation.bytes_written(), bytes as u64);
        assert_eq!(contents(&path), before, "fact 9");
        assert!(generation.insert(&Record::parse(&records[0]).expect("valid")).is_err());
        assert!(matches!(open(&path), Err(StorageError::Locked { .. })));
        generation.close();
    }
}

/// More than is read ahead, so that the reader has to wait for the visitor, who may have had enough.
#[test]
fn generations_are_read_ahead_once_and_in_order_until_a_record_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let (mut paths, mut records, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (number, count) in [(1, 50), (2, 0), (4, 30), (5, 1)] {
        let generation = Generation::create(directory.path(), number, SEGMENT_BYTES).expect("created");
        for _ in 0..count {
            let record = chain.record_of(2, 25_000);
            insert(&generation, &record);
            records.push((generation.path().to_owned(), record));
        }
        generation.sync().expect("synced");
        paths.push(generation.path().to_owned());
        ends.push((generation.range(), generation.bytes_written()));
        generation.close();
    }
    assert!(records.len() * 50_000 > AHEAD_MAX * AHEAD_BYTES);
    let mut read = Vec::new();
    let generations = read_generations(&paths, Copies::Inside, &mut |path, record| {
        read.push((path.to_owned(), record.bytes().to_vec()));
        Ok(())
    });
    let generations = generations.expect("intact");
    assert!(read == records);
    let found: Vec<_> =
        generations.iter().map(|generation| (generation.range(), generation.bytes_written())).collect();
    assert_eq!(found, ends);
    assert!(read_generations(&[], Copies::Inside, &mut |_, _| Ok(())).expect("nothing to read").is_empty());
    drop(generations);

    for enough in [1, 50, 51, 81] {
        let mut visits = 0;
        let refused = read_generations(&paths, Copies::Inside, &mut |path, _| {
            visits += 1;
            if visits == enough { Err(journal_error("visit", path)("enough".into())) } else { Ok(()) }
        });
        assert!(refused.expect_err("refused").to_string().contains("enough"));
        assert_eq!(visits, enough);
    }
    assert!(paths.iter().all(|path| !path.join(READING).exists()));
}

#[test]
fn what_a_killed_process_had_synced_is_read_from_the_files_it_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let generation = create(directory.path());
    let mut records = Vec::new();
    for life in 0..30 {
        let record = chain.record_of(3, 100 * life + 1);
        insert(&generation, &record);
        generation.sync().expect("synced");
        records.push(record);
        let left = left_by(generation.path(), directory.path(), 100 + life as u64);
        assert_eq!(replayed(&open(&left).expect("opens")), records);
    }
}

/// A commit of many segments was synced once, at its end. Until then sled, told not to sync, took what it had written for
/// durable, and used segments anew whose replacement a power cut could still take.
#[test]
fn a_large_commit_is_synced_on_the_way() {
    let mut chain = Chain::new();
    let mut bed = SledBed::start_full_size(chain.shard, chain.position);
    let directory = tempfile::tempdir().expect("a directory");
    let mut written = 0;
    for number in 0..2 * UNSYNCED_BYTES_MAX / RECORD_BYTES_TYPICAL_MAX as u64 {
        let record = chain.record_of(1, RECORD_BYTES_TYPICAL_MAX - 90);
        written += record.len() as u64;
        bed.journal.append(&record).expect("follows");
        if number % 20 == 0 {
            // What sled still has in memory is not in the file.
            let left = left_by(bed.journal.current.path(), directory.path(), 100 + number);
            let durable = Generation::open(&left).expect("opens").bytes_written();
            assert!(written - durable < UNSYNCED_BYTES_MAX, "{durable} of {written} bytes");
        }
    }
}

#[test]
fn full_records_never_become_blobs() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = Generation::create(directory.path(), 1, SEGMENT_BYTES).expect("created");
    let mut chain = Chain::new();
    // More than two leaves, so that full ones are consolidated and split.
    let mut records: Vec<Vec<u8>> =
        (0..80).map(|_| chain.record_of(1, RECORD_BYTES_TYPICAL_MAX - 90)).collect();
    assert!(records.iter().all(|record| record.len() > RECORD_BYTES_TYPICAL_MAX - 64));
    records.extend((0..12).map(|_| chain.record_of(1, RECORD_BYTES_MAX - 90)));
    for record in &records {
        insert(&generation, record);
    }
    generation.sync().expect("synced");
    check_entries(generation.path()).expect("no blobs");
    let path = generation.path().to_owned();
    generation.close();
    let generation = Generation::open(&path).expect("opens");
    assert_eq!(replayed(&generation), records);
}

fn parts(generation: &Generation) -> usize {
    generation.parts.read().len()
}

/// Without parts sled writes each nearly three times.
#[test]
fn records_of_some_size_are_written_once() {
    let directory = tempfile::tempdir().expect("a directory");
    for (number, (count, bytes, parts_expected)) in [
        (100, 45_000, 12),
        (60, PIECE_BYTES_MAX + 1000, 15),
        (5, RECORD_BYTES_MAX - 200, 5),
        (150, 9_000, 17),
    ]
    .into_iter()
    .enumerate()
    {
        let generation = Generation::create(directory.path(), number as u64, SEGMENT_BYTES).expect("created");
        let mut chain = Chain::new();
        let records: Vec<Vec<u8>> = (0..count).map(|_| chain.record_of(2, bytes / 2)).collect();
        for record in &records {
            insert(&generation, record);
        }
        generation.sync().expect("synced");
        assert_eq!(parts(&generation), parts_expected, "{bytes} bytes");
        let on_disk = fs::metadata(generation.path().join("db")).expect("there").len();
        let written = generation.bytes_written();
        // A megabyte is in more pieces than sled leaves alone: those are written twice, the others by themselves.
        let most = if bytes > RECORD_BYTES_MAX / 2 { written * 9 / 5 } else { written * 21 / 20 };
        assert!(on_disk < most, "{bytes} bytes: {written} take {on_disk}");
        let left = left_by(generation.path(), directory.path(), 100 + number as u64);
        for read in [&generation, &Generation::open(&left).expect("opens")] {
            assert_eq!(replayed(read), records);
            assert_eq!(parts(read), parts_expected);
            for (index, record) in (0..).zip(&records) {
                for sequence in [sequence(2 * index + 1), sequence(2 * index + 2)] {
                    assert!(read.record(sequence).expect("readable").as_ref() == Some(record));
                }
            }
            assert_eq!(read.record(sequence(2 * count + 1)).expect("readable"), None);
        }
    }
}

#[test]
fn small_records_stay_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = create(directory.path());
    let mut chain = Chain::new();
    for _ in 0..PART_BYTES_MIN / 400 {
        insert(&generation, &chain.record_of(1, 300));
    }
    assert_eq!(parts(&generation), 1);
    for _ in 0..PART_BYTES_MIN / 400 {
        insert(&generation, &chain.record_of(1, 300));
    }
    assert_eq!(parts(&generation), 2);
}

/// Just enough records for a second part.
fn two_parts() -> Vec<Vec<u8>> {
    let mut chain = Chain::new();
    (0..=PART_VALUES_MAX)
        .map(|index| chain.record_of(1, if index < PART_VALUES_MAX { 7300 } else { 100 }))
        .collect()
}

/// Like the other formats, parts stay readable.
#[test]
fn the_frozen_generation_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let left = left_by(&fixture(FIXTURE), directory.path(), 1);
    let generation = Generation::open(&left).expect("opens");
    assert_eq!(parts(&generation), 2);
    assert_eq!(replayed(&generation), two_parts());
}

#[test]
#[ignore = "writes the fixture of a new format; a frozen one is never written again"]
fn write_the_fixture() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = Generation::create(directory.path(), 1, SEGMENT_BYTES).expect("created");
    two_parts().iter().for_each(|record| insert(&generation, record));
    generation.sync().expect("synced");
    let path = generation.path().to_owned();
    generation.close();
    copy_files(&path, &fixture(FIXTURE));
}

/// Versions before there were parts.
#[test]
fn a_generation_without_parts_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = Generation::create(directory.path(), 1, SEGMENT_BYTES).expect("created");
    let mut chain = Chain::new();
    let records: Vec<Vec<u8>> = (0..60).map(|_| chain.record_of(1, 30_000)).collect();
    for (index, record) in (0..).zip(&records) {
        generation.database.insert(key(sequence(index + 1)), &record[..]).expect("inserted");
    }
    generation.sync().expect("synced");
    let path = generation.path().to_owned();
    generation.close();
    let generation = Generation::open(&path).expect("opens");
    assert_eq!(replayed(&generation), records);
    assert_eq!(generation.record(sequence(31)).expect("readable").as_ref(), Some(&records[30]));
}

/// A part is made before its first record, and a crash may come between the two.
#[test]
fn a_part_that_a_crash_left_empty_is_none_and_one_with_something_else_in_it_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let records: Vec<Vec<u8>> = (0..20).map(|_| chain.record_of(1, 9_000)).collect();
    let next = chain.record_of(1, 9_000);
    let made_with = |number: u64, damage: &dyn Fn(&::sled::Db)| {
        let generation = Generation::create(directory.path(), number, SEGMENT_BYTES).expect("created");
        records.iter().for_each(|record| insert(&generation, record));
        damage(&generation.database);
        generation.sync().expect("synced");
        let path = generation.path().to_owned();
        generation.close();
        Generation::open(&path)
    };
    let tree = |database: &::sled::Db, name: &[u8]| database.open_tree(name).expect("made");

    let generation = made_with(1, &|database| drop(tree(database, &key(sequence(21))))).expect("opens");
    assert_eq!(replayed(&generation), records);
    assert_eq!(generation.range(), Some((sequence(1), sequence(20))));
    assert_eq!(generation.record(sequence(20)).expect("readable").as_ref(), Some(&records[19]));

    let put = |database: &::sled::Db, name: &[u8], at: u64, record: &[u8]| {
        tree(database, name).insert(key(sequence(at)), record).expect("inserted");
    };
    let lost = made_with(2, &|database| {
        let name = database.tree_names().into_iter().filter(|name| *name != database.name()).min();
        tree(database, &name.expect("there is a second part")).clear().expect("cleared");
    });
    for (what, opened) in [
        ("a part is lost", lost),
        ("of another name", made_with(3, &|database| put(database, &key(sequence(25)), 21, &next))),
        ("no sequence", made_with(4, &|database| put(database, b"more", 21, &next))),
        ("sequence 0", made_with(5, &|database| put(database, &[0; KEY_BYTES], 21, &next))),
        ("twice", made_with(6, &|database| put(database, &key(sequence(20)), 20, &records[19]))),
    ] {
        assert!(matches!(opened, Err(StorageError::Corrupt { .. })), "{what}: {opened:?}");
    }
}

/// A crash keeps a prefix of the pieces: the record was never there. A piece that is lost in any other way is an error.
#[test]
fn a_record_of_which_pieces_are_missing_is_not_there_at_the_end_and_an_error_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let records = [chain.record(2), chain.record_of(1, 5 * PIECE_BYTES_MAX), chain.record(2)];
    let first = sequence(3);
    let pieces: Vec<&[u8]> = records[1].chunks(PIECE_BYTES_MAX).collect();
    let piece = |database: &::sled::Db, number: usize| {
        let key = &piece_key(first, number)[..KEY_BYTES + number.min(1)];
        database.insert(key, pieces[number]).expect("inserted");
    };
    for kept in 0..pieces.len() {
        let generation = Generation::create(directory.path(), kept as u64, SEGMENT_BYTES).expect("created");
        insert(&generation, &records[0]);
        (0..kept).for_each(|number| piece(&generation.database, number));
        assert_eq!(replayed(&generation), records[..1], "{kept} pieces are left");
        assert_eq!(generation.record(sequence(2)).expect("readable").as_ref(), Some(&records[0]));
        generation.sync().expect("synced");
        let path = generation.path().to_owned();
        generation.close();
        let generation = Generation::open(&path).expect("opens");
        assert_eq!(generation.range(), Some((sequence(1), sequence(2))));
        assert_eq!(replayed(&generation), records[..1]);
        generation.close();

        let holed = Generation::create(directory.path(), 100 + kept as u64, SEGMENT_BYTES).expect("created");
        insert(&holed, &records[0]);
        (0..pieces.len()).filter(|number| *number != kept).for_each(|number| piece(&holed.database, number));
        if kept + 1 < pieces.len() {
            assert!(holed.replay(&mut |_| Ok(())).is_err(), "piece {kept} is missing before others");
        }
        holed.database.insert(key(sequence(4)), &records[2][..]).expect("inserted");
        assert!(holed.replay(&mut |_| Ok(())).is_err(), "piece {kept} is missing before another record");
        holed.last.store(5, Ordering::Release);
        assert!(holed.record(first).is_err(), "piece {kept} is missing");
    }
}

/// Fact 2: were a page ever to become a blob, the append would fail, because the directory that sled was given
/// has another name by then.
#[test]
fn a_blob_is_an_error_and_not_a_silent_risk() {
    let directory = tempfile::tempdir().expect("a directory");
    let segment_bytes = 64 * 1024;
    let generation = Generation::create(directory.path(), 1, segment_bytes).expect("created");
    let mut chain = Chain::new();
    insert(&generation, &chain.record_of(1, 1000));
    let large = chain.record_of(1, segment_bytes / 4);
    let error = generation.insert(&Record::parse(&large).expect("valid"));
    assert!(error.is_err());
    assert_eq!(generation.range(), Some((sequence(1), sequence(1))));
    check_entries(generation.path()).expect("no blobs");
    // Dropping it would wait for ever (fact 7).
    std::mem::forget(generation);
}

#[test]
fn a_generation_in_use_is_not_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = create(directory.path());
    assert!(matches!(open(generation.path()), Err(StorageError::Locked { .. })));
}

#[test]
fn what_does_not_belong_there_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 3, 10);
    for name in ["blobs/17", "snap.00000000000004D2", "snap.00000000000004D2.generating", "notes"] {
        let stray = path.join(name);
        fs::write(&stray, b"?").expect("writable");
        let message = open(&path).expect_err(name).to_string();
        assert!(message.contains(&stray.display().to_string()), "{message}");
        fs::remove_file(&stray).expect("removed");
    }
    // A leftover copy is of no value (fact 5).
    let reading = path.join(READING);
    fs::create_dir_all(reading.join("blobs")).expect("created");
    fs::write(reading.join("snap.00000000000004D2.generating"), b"?").expect("writable");
    open(&path).expect("opens").close();
    assert!(!reading.exists());
    for name in ["conf", "db", "blobs"] {
        let away = directory.path().join("away");
        fs::rename(path.join(name), &away).expect("moved");
        assert!(open(&path).is_err(), "{name}");
        fs::rename(&away, path.join(name)).expect("moved");
    }
    for name in ["notes", "0000000004.mine.creating", "0000000004.1.2.creating"] {
        let stray = directory.path().join(name);
        fs::create_dir(&stray).expect("created");
        assert!(list_generations(directory.path()).is_err(), "{name}");
        fs::remove_dir(&stray).expect("removed");
    }
    fs::write(directory.path().join("0000000004"), b"?").expect("writable");
    assert!(list_generations(directory.path()).is_err(), "no directory");
}

/// A start on a full disk failed with "No space left on device", and did not say how much it takes, or for what.
#[test]
fn without_room_for_the_copies_the_error_says_how_much_they_take() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 3, 1000);
    let later = left_by(&path, directory.path(), 2);
    // A file that is as full as a disk can be.
    let refused = |path: &Path| {
        let db = path.join("db");
        let file = File::open(&db).expect("it is there");
        copy_to_read(&file, &db, Path::new("/dev/full"), TEST_SEGMENT_BYTES).expect_err("it is full")
    };
    let error = refused(&path).to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    let told = format!("make room for {} bytes more for this shard", 2 * TEST_SEGMENT_BYTES);
    assert!(error.contains(&told), "{error}");
    assert!(error.contains("or name another directory with TMPDIR. Then try again"), "{error}");
    // With several shards whoever made just that room was refused again by a start, which reads all at the same time.
    let of_a_start = no_room(&path, &path.join(READING).join("0"), TEST_SEGMENT_BYTES).to_string();
    assert!(of_a_start.contains("the other shards are read at the same time, and may need as much each"));
    assert!(of_a_start.contains(&told) && !of_a_start.contains("TMPDIR"), "{of_a_start}");
    let error = refused(&later).to_string();
    assert!(error.contains(&format!("make room for {TEST_SEGMENT_BYTES} bytes more")), "{error}");
}

/// A sector that the disk cannot read was told as an error of copying to a file that is gone, without a next step.
#[test]
fn a_file_that_cannot_be_read_is_named_with_the_next_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 3, 10);
    let db = path.join("db");
    fs::remove_file(&db).expect("removed");
    // Like a file with a bad sector, it opens.
    fs::create_dir(&db).expect("created");
    let error = open(&path).expect_err("a directory has no bytes").to_string();
    let told = format!("{} is corrupt at byte 0: it cannot be read", db.display());
    assert!(error.starts_with(&told) && error.ends_with(RESTORE_BACKUP), "{error}");
}

/// Whoever is not root could not verify a ledger that had been copied read-only.
#[test]
fn the_copy_that_is_read_can_be_written_though_the_original_cannot() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 3, 10);
    let db = path.join("db");
    fs::set_permissions(&db, fs::Permissions::from_mode(0o444)).expect("set");
    let (file, copy) = (File::open(&db).expect("readable"), directory.path().join("copy"));
    copy_to_read(&file, &db, &copy, TEST_SEGMENT_BYTES).expect("copied");
    assert_eq!(fs::metadata(&copy).expect("there").permissions().mode() & 0o777, COPY_MODE);
    assert_eq!(fs::read(&copy).expect("readable"), fs::read(&db).expect("readable"));
}

#[test]
fn any_flipped_bit_in_conf_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 3, 10);
    let conf = path.join("conf");
    let intact = fs::read(&conf).expect("readable");
    assert_eq!(&intact[..intact.len() - 4], b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n");
    for offset in 0..intact.len() {
        let mut bytes = intact.clone();
        bytes[offset] ^= 1;
        fs::write(&conf, &bytes).expect("writable");
        let message = open(&path).expect_err("conf is damaged").to_string();
        assert!(message.contains(&format!("conf is corrupt at byte {offset}")), "{message}");
    }
    for length in 0..intact.len() {
        fs::write(&conf, &intact[..length]).expect("writable");
        assert!(open(&path).is_err(), "cut to {length}");
    }
}

/// Fact 3: sled skips what does not match its checksums. Whatever is flipped, a reader gets an error, or
/// records that stop early (the watermark and the next generation's chain tell), or that start late (the chain
/// from the generation before tells), or all of them: never a wrong one, never a hole.
#[test]
fn a_flipped_bit_never_yields_a_wrong_record() {
    let in_one_segment = flip(60, 700, TEST_SEGMENT_BYTES);
    assert!(in_one_segment.short > 0, "sled reports a bad tail by now: fact 3 is out of date");
    let in_many_segments = flip(500, 300, TEST_SEGMENT_BYTES / 8);
    assert!(in_many_segments.errors > 0, "older segments lose records in the midst");
}

#[derive(Debug, Default)]
struct Flips {
    errors: usize,
    short: usize,
    late: usize,
    whole: usize,
}

const FLIPS: usize = 200;

fn flip(count: u64, bytes: usize, segment_bytes: usize) -> Flips {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, records) = written_with(directory.path(), count, bytes, segment_bytes);
    let open = |path: &Path| Generation::open_with(path, segment_bytes);
    let db = path.join("db");
    let intact = fs::read(&db).expect("readable");
    let end = intact.iter().rposition(|&byte| byte != 0).expect("not empty") + 1;
    let file = fs::OpenOptions::new().write(true).open(&db).expect("writable");
    // The first segment's header and the first messages, byte by byte, and a spread.
    let positions: Vec<usize> = (0..40).chain((0..FLIPS).map(|step| end * step / FLIPS)).collect();
    let mut outcome = Flips::default();
    for (index, &offset) in positions.iter().enumerate() {
        let flipped = intact[offset] ^ 1 << (index % 8);
        file.write_all_at(&[flipped], offset as u64).expect("writable");
        match open(&path) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(&db.display().to_string()), "{message}");
                outcome.errors += 1;
            }
            Ok(generation) => {
                let found = replayed(&generation);
                if found == records {
                    outcome.whole += 1;
                } else if records.starts_with(&found) {
                    outcome.short += 1;
                } else {
                    assert!(records.ends_with(&found), "byte {offset}: a record is wrong or missing");
                    outcome.late += 1;
                }
            }
        }
        file.write_all_at(&[intact[offset]], offset as u64).expect("writable");
    }
    println!("{} flips in {end} bytes: {outcome:?}", positions.len());
    assert_eq!(replayed(&open(&path).expect("as it was")), records);
    outcome
}

#[test]
fn a_file_cut_anywhere_yields_an_error_or_a_prefix() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, records) = written(directory.path(), 30, 700);
    let db = path.join("db");
    let intact = fs::read(&db).expect("readable");
    for step in 0..60 {
        fs::write(&db, &intact[..intact.len() * step / 60]).expect("writable");
        if let Ok(generation) = open(&path) {
            assert!(records.starts_with(&replayed(&generation)));
        }
    }
}

/// Opens a database as sled does, as soon as it gets the lock: a child that another test is just starting has a copy of
/// the descriptor, with the lock, until it executes its program.
fn open_in_place(path: &Path) -> ::sled::Result<::sled::Db> {
    let mut waited = Duration::ZERO;
    loop {
        match configuration(path, TEST_SEGMENT_BYTES).open() {
            Err(error) if error.to_string().contains("acquire lock") && waited < CLOSE_WAIT => {
                std::thread::sleep(CLOSE_POLL);
                waited += CLOSE_POLL;
            }
            opened => return opened,
        }
    }
}

/// Facts 5 and 9 on sled itself: should they stop being true, the copy can go.
#[test]
fn opening_a_database_in_place_destroys_what_is_behind_a_flipped_bit() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, records) = written(directory.path(), 30, 700);
    let db = path.join("db");
    let intact = fs::read(&db).expect("readable");
    let middle = intact
        .windows(40)
        .position(|window| window == &records[20][64..104])
        .expect("the record is in the file");
    let file = fs::OpenOptions::new().write(true).open(&db).expect("writable");
    file.write_all_at(&[intact[middle] ^ 1], middle as u64).expect("writable");
    drop(open_in_place(&path).expect("sled sees nothing wrong"));
    file.write_all_at(&[intact[middle]], middle as u64).expect("writable");
    let left = fs::read(&db).expect("readable");
    let behind = intact.iter().rposition(|&byte| byte != 0).expect("not empty") - 100;
    assert_ne!(left[behind..behind + 100], intact[behind..behind + 100], "the rest is gone");
    let names: Vec<String> = fs::read_dir(&path)
        .expect("readable")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let snapshot = names.iter().find(|name| name.starts_with("snap.")).expect("a snapshot");

    // A damaged snapshot, or half of a new one, stops sled.
    let snapshot = path.join(snapshot);
    let bytes = fs::read(&snapshot).expect("readable");
    let generating = path.join("snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&generating, &bytes[..bytes.len() / 2]).expect("writable");
    assert!(configuration(&path, TEST_SEGMENT_BYTES).open().is_err());
    fs::remove_file(&generating).expect("removed");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&snapshot, &flipped).expect("writable");
    assert!(configuration(&path, TEST_SEGMENT_BYTES).open().is_err());
}

fn bed_of(generation_bytes_max: u64) -> (SledBed, Chain, crossbeam_channel::Receiver<()>) {
    let chain = Chain::new();
    let mut bed = SledBed::start(chain.shard, chain.position);
    let (sender, receiver) = crossbeam_channel::bounded(1);
    bed.journal.options = JournalOptions { generation_bytes_max, sealed: Some(sender) };
    (bed, chain, receiver)
}

#[test]
fn a_full_generation_is_sealed_once_the_next_one_is_ready() {
    let (mut bed, mut chain, notices) = bed_of(10_000);
    let mut append = |bed: &mut SledBed| {
        bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
        bed.journal.sync().expect("synced");
    };
    for _ in 0..12 {
        append(&mut bed);
    }
    assert!(bed.shared.sealed().is_empty(), "the next one is not ready");
    assert!(notices.is_empty());
    bed.shared.prepare_next().expect("created");
    bed.shared.prepare_next().expect("nothing to do");
    append(&mut bed);
    assert_eq!(notices.len(), 1);
    let numbers = |bed: &SledBed| -> Vec<u64> {
        let sealed = bed.shared.sealed();
        sealed.iter().map(|sealed| sealed.number()).collect()
    };
    assert_eq!(numbers(&bed), [1]);
    assert_eq!(bed.journal.current.number(), 2);
    // Nothing is prepared: it goes on to twice the size, 19 records of some 1080 bytes, and opens one itself.
    for _ in 0..18 {
        append(&mut bed);
    }
    assert_eq!(numbers(&bed), [1]);
    append(&mut bed);
    assert_eq!(numbers(&bed), [1, 2]);
    assert_eq!(notices.len(), 1, "one notice stands for any number");
    // A prepared one that is not used is legal.
    bed.shared.prepare_next().expect("created");
    let position = bed.journal.position();
    let prepared = bed.shared.prepared.lock().take().and_then(Arc::into_inner);
    prepared.into_iter().for_each(Generation::close);
    let bed = bed.restart();
    assert_eq!(bed.journal.position(), position);
    assert_eq!(numbers(&bed), [1, 2, 3, 4]);
    assert_eq!(bed.journal.current.number(), 5);
}

/// A snapshot that was merely due ended the process where no next generation could be created, though the log was whole.
#[test]
fn without_room_for_the_next_generation_the_live_one_goes_on() {
    let (mut bed, mut chain, notices) = bed_of(1_000_000);
    bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
    let in_the_way = bed.directory.path().join("journal").join(directory_name(2));
    fs::write(&in_the_way, "not a generation").expect("written");
    bed.journal.roll().expect("it stays as it is");
    assert!(bed.shared.sealed().is_empty() && notices.is_empty());
    assert_eq!(bed.journal.unsynced, 0, "it is durable all the same");
    bed.journal.append(&chain.record_of(1, 1000)).expect("it goes on");
    bed.journal.sync().expect("synced");
    fs::remove_file(in_the_way).expect("removed");
    bed.journal.roll().expect("rolled");
    assert_eq!((bed.shared.sealed().len(), notices.len()), (1, 1));
    let position = bed.journal.position();
    assert_eq!(bed.restart().journal.position(), position);
}

/// P1: an error of writing back is told once. Whoever synced again would hear that all is well.
#[test]
fn an_error_of_any_sync_ends_the_journal_and_nothing_tries_again() {
    type Step = fn(&mut SledJournal, &mut Chain) -> Result<(), StorageError>;
    let fill: Step =
        |journal, chain| (0..4).try_for_each(|_| journal.append(&chain.record_of(1, RECORD_BYTES_MAX - 90)));
    let steps: [(&str, u64, Step); 4] = [
        ("a sync", GENERATION_BYTES_MAX, |journal, _| journal.sync()),
        ("a roll", GENERATION_BYTES_MAX, |journal, _| journal.roll()),
        ("more than may be unsynced", GENERATION_BYTES_MAX, fill),
        ("the end of a generation", 1, fill),
    ];
    for (what, generation_bytes_max, step) in steps {
        let (directory, mut chain) = (tempfile::tempdir().expect("a directory"), Chain::new());
        let shared = Generations::new(&directory.path().join("journal"), Vec::new()).expect("listable");
        let mut current = shared.create().expect("created");
        // What it writes is written; what it syncs can never be.
        current.access = Access::Write(File::options().append(true).open("/dev/null").expect("Linux"));
        let (sender, notices) = crossbeam_channel::bounded(1);
        let options = JournalOptions { generation_bytes_max, sealed: Some(sender) };
        let mut journal =
            SledJournal::new(chain.shard, chain.position, current, Arc::clone(&shared), options);
        journal.append(&chain.record(1)).expect("follows");
        let error = step(&mut journal, &mut chain).expect_err(what).to_string();
        assert!(error.starts_with("cannot sync "), "{what}: {error}");
        let next = chain.record(1);
        for again in [journal.append(&next), journal.sync(), journal.roll()] {
            let error = again.expect_err(what).to_string();
            assert!(error.contains("it has failed before"), "{what}: {error}");
        }
        assert!(shared.sealed().is_empty() && notices.is_empty(), "{what}: it is not durable");
        let current = Arc::downgrade(&journal.current);
        journal.abandon().expect("it is left as it is");
        drop(shared);
        assert!(current.strong_count() > 0, "{what}: dropping the database could wait for ever");
    }
}

#[test]
fn a_journal_that_is_never_synced_is_sealed_all_the_same() {
    let (mut bed, mut chain, _notices) = bed_of(10_000);
    for _ in 0..60 {
        bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
    }
    let sealed = bed.shared.sealed();
    assert_eq!(sealed.len(), 3);
    for generation in sealed {
        assert!(generation.bytes_written() <= 10_000 * GENERATION_OVERRUN + 2000);
    }
    bed.journal.sync().expect("synced");
    for number in 1..=60 {
        assert!(bed.shared.record(sequence(number)).expect("readable").is_some());
    }
}

#[test]
fn the_journal_does_not_wait_for_a_thread_that_prepares() {
    let (mut bed, mut chain, notices) = bed_of(20_000);
    let shared = Arc::clone(&bed.shared);
    let keeper = std::thread::spawn(move || {
        shared.prepare_next().expect("created");
        while notices.recv().is_ok() {
            shared.prepare_next().expect("created");
        }
    });
    for _ in 0..300 {
        bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
        bed.journal.sync().expect("synced");
    }
    bed.journal.options.sealed = None;
    keeper.join().expect("ends with the channel");
    let mut numbers: Vec<u64> = bed.shared.sealed().iter().map(|sealed| sealed.number()).collect();
    assert!(numbers.len() >= 7, "{numbers:?}");
    numbers.dedup();
    assert!(numbers.is_sorted());
    for number in 1..=300 {
        assert!(bed.shared.record(sequence(number)).expect("readable").is_some());
    }
}

#[test]
fn a_removed_generation_is_gone_except_for_whoever_reads_it() {
    let (mut bed, mut chain, _notices) = bed_of(1 << 20);
    for _ in 0..3 {
        for _ in 0..30 {
            bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
        }
        bed.journal.roll().expect("rolled");
    }
    let reader = Arc::clone(&bed.shared.sealed()[1]);
    let path = reader.path().to_owned();
    bed.shared.remove(1).expect("removed");
    bed.shared.remove(2).expect("removed");
    assert!(!path.exists());
    for number in 31..=60 {
        assert!(reader.record(sequence(number)).expect("readable").is_some());
        assert_eq!(bed.shared.record(sequence(number)).expect("readable"), None, "archived");
    }
    assert!(bed.shared.record(sequence(61)).expect("readable").is_some());
    drop(reader);
    let parent = path.parent().expect("has one").to_owned();
    let numbers: Vec<u64> =
        list_generations(&parent).expect("listable").into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [3, 4]);
}

/// It was forgotten, and those behind it were removed: what is archived of them was told as damage after the next start.
#[test]
fn a_generation_that_cannot_be_removed_stays_listed() {
    let (mut bed, mut chain, _notices) = bed_of(1 << 20);
    for _ in 0..2 {
        bed.journal.append(&chain.record_of(1, 1000)).expect("follows");
        bed.journal.roll().expect("rolled");
    }
    let in_the_way = bed.directory.path().join("journal").join(format!("{}{REMOVED}", directory_name(1)));
    fs::write(&in_the_way, "not a generation").expect("written");
    bed.shared.remove(1).expect_err("its new name is taken");
    assert_eq!(bed.shared.sealed_count(), 2);
    assert!(bed.shared.record(sequence(1)).expect("readable").is_some());
    fs::remove_file(in_the_way).expect("removed");
    bed.shared.remove(1).expect("removed");
    assert_eq!(bed.shared.sealed_count(), 1);
}

#[test]
fn what_a_crash_cut_short_is_swept_at_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let parent = directory.path().join("journal");
    for name in ["0000000003.removed", "0000000005.7.creating", "0000000006.creating"] {
        fs::create_dir_all(parent.join(name).join("blobs")).expect("created");
        fs::write(parent.join(name).join("db"), b"half").expect("writable");
    }
    assert_eq!(list_generations(&parent).expect("listable"), []);
    assert_eq!(contents(&parent).len(), 9, "listing changes nothing");
    sweep_generations(&parent).expect("swept");
    assert_eq!(contents(&parent).len(), 0);
    let shared = Generations::new_with(&parent, Vec::new(), TEST_SEGMENT_BYTES).expect("listable");
    let generation = shared.create().expect("created");
    assert_eq!(generation.number(), 1);
    assert!(Generation::create(&parent, 1, SEGMENT_BYTES).is_err(), "the number is taken");
}

/// Who rests a second time has come back from the first. One that writes for another test may be too late for a try.
#[test]
fn spare_threads_rest_and_come_back_when_they_are_called() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = Generation::create(directory.path(), 1, TEST_SEGMENT_BYTES).expect("created");
    for _ in 0..2 {
        (0..60).take_while(|_| spare::resting() < 6).for_each(|_| spare::rest(&generation.database, 1));
        assert_eq!(spare::resting(), 6);
        assert_eq!(wake_spare_threads(), 6);
    }
}

/// Lives of one process, as in tests: sled may drop a database of an earlier one while its number is used again. Without
/// a name for each, one of the first rounds failed in each of five runs.
#[test]
fn a_database_that_is_dropped_late_takes_nothing_of_a_later_one_along() {
    let directory = tempfile::tempdir().expect("a directory");
    for _ in 0..20 {
        let earlier = Generation::create(directory.path(), 1, TEST_SEGMENT_BYTES).expect("created");
        fs::remove_dir_all(earlier.path()).expect("removed");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(earlier));
            let later = Generation::create(directory.path(), 1, TEST_SEGMENT_BYTES).expect("created");
            fs::remove_dir_all(later.path()).expect("removed");
        });
    }
}

/// Likewise copies: whoever has read a generation is through with it, and sled not yet, when the next one opens it.
#[test]
fn a_copy_that_is_dropped_late_takes_nothing_of_a_later_one_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _) = written(directory.path(), 1, 100);
    let copies = || -> Vec<PathBuf> {
        let entries = fs::read_dir(path.join(READING)).expect("readable");
        entries.map(|entry| entry.expect("readable").path()).collect()
    };
    let open = || Generation::open_unread(&path, Copies::Inside, TEST_SEGMENT_BYTES).expect("opens");
    let (Generation { database, parts, access, .. }, _place) = open();
    let earlier = copies();
    drop(access);
    let _later = open();
    let later = copies();
    assert_eq!((earlier.len(), later.len()), (1, 1));
    assert_ne!(earlier, later, "the last handle of the earlier one deletes its directory");
    drop((parts, database));
    assert_eq!(copies(), later);
}

#[test]
fn a_missing_generation_shows_as_an_error_and_not_as_the_end() {
    let (mut bed, mut chain, _notices) = bed_of(1 << 20);
    for _ in 0..3 {
        bed.journal.append(&chain.record(5)).expect("follows");
        bed.journal.roll().expect("rolled");
    }
    bed.shared.readable.write().sealed.remove(1);
    assert!(bed.shared.record(sequence(5)).expect("readable").is_some());
    assert!(bed.shared.record(sequence(6)).is_err());
    assert!(bed.shared.record(sequence(10)).is_err());
    assert!(bed.shared.record(sequence(11)).expect("readable").is_some());
    assert_eq!(bed.shared.record(sequence(16)).expect("readable"), None);
}

/// Reading for a compaction wrote as much as there was, over segments whose records were durable only there.
#[test]
fn reading_a_generation_writes_no_more_than_a_leaf() {
    for bytes in [2500, 3900] {
        let directory = tempfile::tempdir().expect("a directory");
        let generation = create(directory.path());
        let mut chain = Chain::new();
        // Parts whose last leaf has 17 entries.
        while generation.parts.read().len() < 5 {
            insert(&generation, &chain.record_of(1, bytes));
        }
        generation.sync().expect("synced");
        let before = fs::read(generation.path().join("db")).expect("readable");
        generation.replay(&mut |_| Ok(())).expect("replays");
        generation.sync().expect("synced");
        let after = fs::read(generation.path().join("db")).expect("readable");
        assert!(before == after, "fact 14: {} bytes became {}", before.len(), after.len());
    }
}

/// Not a check but a measurement; run it by name, with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure_sizes_and_times() {
    let directory = tempfile::tempdir().expect("a directory");
    for (number, (count, bytes)) in
        [(0, 0), (10, 200), (1000, 200), (2000, 16_000), (512, 65_000)].into_iter().enumerate()
    {
        let mut chain = Chain::new();
        let start = std::time::Instant::now();
        let generation = Generation::create(directory.path(), number as u64, SEGMENT_BYTES).expect("created");
        let created = start.elapsed();
        let start = std::time::Instant::now();
        for _ in 0..count {
            insert(&generation, &chain.record_of(1, bytes));
            generation.sync().expect("synced");
        }
        let wrote = start.elapsed();
        let path = generation.path().to_owned();
        let records = generation.bytes_written();
        generation.close();
        let size = fs::metadata(path.join("db")).expect("there").len();
        let start = std::time::Instant::now();
        let generation = Generation::open(&path).expect("opens");
        let opened = start.elapsed();
        println!(
            "{count} records of {bytes}: create {created:?}, write {wrote:?}, {records} bytes, db {size}, open {opened:?}"
        );
        generation.close();
    }
}

#[test]
fn a_file_that_is_grown_while_it_is_written_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let generation = create(directory.path());
    let mut chain = Chain::new();
    let records: Vec<Vec<u8>> = (0..400).map(|_| chain.record_of(2, 300)).collect();
    let length = || fs::metadata(generation.path().join("db")).expect("there").len();
    std::thread::scope(|scope| {
        scope.spawn(|| while generation.grow(40 * GROWN_STEP as u64).expect("grown") {});
        for record in &records {
            insert(&generation, record);
            generation.sync().expect("synced");
        }
    });
    assert!(length() >= 40 * GROWN_STEP as u64);
    let path = generation.path().to_owned();
    generation.close();
    assert_eq!(replayed(&open(&path).expect("opens")), records);

    // The zeros are no part of the log: what becomes of them changes nothing.
    let db = File::options().read(true).write(true).open(path.join("db")).expect("there");
    let mut tail = [0; 4096];
    for place in (length_of(&db) / 2..length_of(&db)).step_by(200_001) {
        let place = place.min(length_of(&db) - tail.len() as u64);
        db.read_exact_at(&mut tail, place).expect("readable");
        assert!(tail == [0; 4096], "sled has not come so far");
        db.write_all_at(&[0x10], place).expect("writable");
        assert_eq!(replayed(&open(&path).expect("opens")), records, "a flip at {place}");
        db.write_all_at(&[0], place).expect("writable");
    }
}

fn length_of(file: &File) -> u64 {
    file.metadata().expect("there").len()
}

#[test]
fn a_file_is_grown_ahead_of_small_records_where_there_is_room() {
    let mut chain = Chain::new();
    let mut bed = SledBed::start_full_size(chain.shard, chain.position);
    bed.journal.options.generation_bytes_max = u64::MAX;
    let db = bed.journal.current.path.join("db");
    let length = || fs::metadata(&db).expect("there").len();
    let mut append = |bed: &mut SledBed, bytes: u64, of: usize| {
        for _ in 0..bytes / of as u64 {
            bed.journal.append(&chain.record_of(1, of)).expect("follows");
            bed.journal.sync().expect("synced");
        }
        bed.journal.current.bytes_used()
    };
    let grow = |bed: &SledBed, has_room: bool| while bed.shared.grow(&|_| has_room).expect("grown") {};

    append(&mut bed, GROWN_USED_MIN / 10, 4000);
    let little = length();
    grow(&bed, true);
    assert_eq!(length(), little, "so little is not worth it");

    let used = append(&mut bed, GROWN_USED_MIN / 2, 4000);
    let before = length();
    assert!((used / 2..used * 3 / 2).contains(&before), "{used} bytes are said to be used of {before}");
    grow(&bed, false);
    assert_eq!(length(), before, "there is no room");
    grow(&bed, true);
    let grown = length();
    assert!((used + GROWN_AHEAD..used + GROWN_AHEAD + GROWN_STEP as u64).contains(&grown));
    append(&mut bed, used, 4000);
    assert_eq!(length(), grown, "what comes next has its place already");

    append(&mut bed, 16 * GROWN_USED_MIN, 60_000);
    let before = length();
    grow(&bed, true);
    assert_eq!(length(), before, "large records are better off without");
}
