//! Recovery and compaction (P6, P8, P9, P10), on the files of one shard, step by step.
//!
//! A compaction that a crash cut short is made of two copies, one from before it and one from after: what its
//! steps had done by then is taken from the second, the rest from the first.

mod ledger_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ledger_files::{AS_A_LARGE_LEDGER, LEDGER, Running, Seen, Shard, copy, directory, logged, names};
use teller::ledger::{
    AccountName, AccountRef, Amount, Command, Currency, Quantity, Sequence, ShardId, Target,
};
use teller::progress::Progress;
use teller::storage::journal::{Journal, JournalReader};
use teller::storage::log::{CompactionLimits, Recovered, ShardFiles, StoredLog};
use teller::storage::manifest::DataDirectory;
use teller::storage::snapshot;
use teller::storage::verify::{Verified, verify};
use teller::storage::{StorageError, Watermark};

const SNAPSHOTS: &str = "shard-0000/snapshots";
const ARCHIVE: &str = "shard-0000/archive";
const JOURNAL: &str = "shard-0000/journal";
const WATERMARK: &str = "shard-0000/watermark";

fn start(path: &Path) -> Running {
    Running::start(path, LEDGER, 1).expect("it starts")
}

/// Starts a ledger of one account, and seals so many generations, a deposit each.
fn start_with_sealed(path: &Path, generations: i128) -> Running {
    let mut running = start(path);
    let shard = &mut running.shards[0];
    shard.open("alice");
    for units in 1..=generations {
        shard.deposit("alice", units);
        shard.recovered.journal.roll().expect("rolled");
    }
    running
}

/// Starts, and expects the same as was seen before; again, after more work and a good end; and a proof.
fn starts_as(path: &Path, seen: &Seen) {
    let mut running = start(path);
    assert_eq!(running.shards[0].seen().expect("intact"), *seen);
    running.shards[0].deposit("alice", 200);
    running.shards[0].compact();
    let after = running.shards[0].seen().expect("intact");
    running.stop();
    for directory in [SNAPSHOTS, ARCHIVE] {
        assert!(
            names(&path.join(directory)).iter().all(|name| !name.ends_with(".tmp")),
            "leftovers are gone"
        );
    }
    assert_eq!(names(&path.join(JOURNAL)), [""; 0], "all of it is archived");
    let running = start(path);
    assert_eq!(running.shards[0].seen().expect("intact"), after);
    assert_eq!(running.shards[0].replayed, 0, "the snapshot of a good end is all of it");
    drop(running);
    prove(path).expect("proven");
}

/// Proves the shard's files, once what has ended holds none of them any more.
fn prove(path: &Path) -> Result<Verified, StorageError> {
    let directory = DataDirectory::open_existing(path)?;
    let files = ShardFiles::new(&directory, ShardId::new(0).expect("in range"));
    loop {
        match verify(&files, &Progress::new("verifying", "events", None)) {
            Err(StorageError::Locked { .. }) => thread::yield_now(),
            proven => return proven,
        }
    }
}

/// A ledger that was killed after one compaction and some more events, from before and from after a second one.
struct Compaction {
    before: tempfile::TempDir,
    after: tempfile::TempDir,
    seen: Seen,
}

impl Compaction {
    fn new() -> Compaction {
        Compaction::within(CompactionLimits::default())
    }

    /// With limits for the second one, of two generations.
    fn within(limits: CompactionLimits) -> Compaction {
        let (live, before, after) = (directory(), directory(), directory());
        let mut running = start(live.path());
        let shard = &mut running.shards[0];
        shard.open("alice");
        shard.deposits("alice", 1..10);
        shard.compact();
        for units in [10..14, 14..20] {
            shard.deposits("alice", units);
            shard.recovered.journal.roll().expect("rolled");
        }
        copy(live.path(), before.path());
        shard.recovered.log.compact(&limits, &|_| true).expect("compacted");
        copy(live.path(), after.path());
        let seen = shard.seen().expect("intact");
        drop(running);
        Compaction { before, after, seen }
    }

    /// The state in which these directories are done.
    fn with(&self, done: &[&str]) -> tempfile::TempDir {
        let state = directory();
        copy(self.before.path(), state.path());
        for directory in done {
            fs::remove_dir_all(state.path().join(directory)).expect("removed");
            copy(&self.after.path().join(directory), &state.path().join(directory));
        }
        state
    }
}

#[test]
fn a_compaction_that_is_cut_short_anywhere_is_made_up_for() {
    let compaction = Compaction::new();
    for done in [&[][..], &[SNAPSHOTS], &[SNAPSHOTS, ARCHIVE], &[SNAPSHOTS, ARCHIVE, JOURNAL]] {
        let state = compaction.with(done);
        let (_, log) = logged(|| starts_as(state.path(), &compaction.seen));
        assert!(!log.contains("WARN"), "{done:?} is nothing to worry about: {log}");
    }
    // Of two generations in one segment, the first is removed.
    let state = compaction.with(&[SNAPSHOTS, ARCHIVE]);
    let journal = state.path().join(JOURNAL);
    fs::remove_dir_all(journal.join(&names(&journal)[0])).expect("removed");
    starts_as(state.path(), &compaction.seen);
}

/// Whether a snapshot is made of the whole one before or of an excerpt of it is nowhere to be seen.
#[test]
fn a_large_ledger_is_compacted_as_a_small_one_is() {
    let [small, large] = [CompactionLimits::default(), AS_A_LARGE_LEDGER].map(Compaction::within);
    let files = |compaction: &Compaction, directory| {
        let directory = compaction.after.path().join(directory);
        let read = |name| (fs::read(directory.join(&name)).expect("read"), name);
        names(&directory).into_iter().map(read).collect::<Vec<_>>()
    };
    assert_eq!(files(&small, SNAPSHOTS), files(&large, SNAPSHOTS));
    assert_eq!(small.seen, large.seen);
    starts_as(large.with(&[SNAPSHOTS, ARCHIVE, JOURNAL]).path(), &small.seen);
}

/// What waits takes memory, so it goes a few generations at a time; those go into one snapshot and one segment, or
/// each would be written many times.
#[test]
fn some_generations_at_a_time_become_one_snapshot_and_one_segment() {
    let live = directory();
    let running = start_with_sealed(live.path(), 6);
    let shard = &running.shards[0];
    let limits = CompactionLimits::default();
    for (segments, last) in [(1, 5), (2, 7)] {
        shard.recovered.log.compact(&limits, &|_| true).expect("compacted");
        let segment = names(&live.path().join(ARCHIVE)).pop().expect("one");
        assert!(segment.ends_with(&format!("{last:020}.segment")), "{segment}");
        let snapshots = names(&live.path().join(SNAPSHOTS));
        assert_eq!(
            (snapshots.len(), &*snapshots[segments - 1]),
            (segments, &*format!("{last:020}.snapshot"))
        );
    }
    assert_eq!(names(&live.path().join(JOURNAL)).len(), 1, "all but the live one are archived");
    let seen = shard.seen().expect("intact");
    drop(running);
    starts_as(live.path(), &seen);
}

#[test]
fn what_a_crash_leaves_half_made_or_half_removed_is_swept() {
    let compaction = Compaction::new();
    // A snapshot and a segment in the making, of which half was written.
    let state = compaction.with(&[]);
    for directory in [SNAPSHOTS, ARCHIVE] {
        let after = compaction.after.path().join(directory);
        let newest = names(&after).pop().expect("made");
        let bytes = fs::read(after.join(&newest)).expect("read");
        fs::write(state.path().join(directory).join(format!("{newest}.tmp")), &bytes[..bytes.len() / 2])
            .expect("written");
    }
    let journal = state.path().join(JOURNAL);
    // A generation in the making, with a part of its files, and the copy that a reader had open.
    fs::create_dir_all(journal.join("0000000009.2.creating/blobs")).expect("created");
    fs::write(journal.join("0000000009.2.creating/db"), [0; 96]).expect("written");
    let generation = journal.join(&names(&journal)[0]);
    fs::create_dir(generation.join("reading")).expect("created");
    fs::write(generation.join("reading/db"), [1; 96]).expect("written");
    starts_as(state.path(), &compaction.seen);

    // An archived generation, of which a part is removed.
    let state = compaction.with(&[SNAPSHOTS, ARCHIVE]);
    let journal = state.path().join(JOURNAL);
    let generation = names(&journal).into_iter().next().expect("one");
    let removed = journal.join(format!("{generation}.removed"));
    fs::rename(journal.join(&generation), &removed).expect("renamed");
    fs::remove_file(removed.join("conf")).expect("removed");
    starts_as(state.path(), &compaction.seen);
}

/// Removes the directory, and puts this one there.
fn put(state: &Path, directory: &str, from: &Path) {
    fs::remove_dir_all(state.join(directory)).expect("removed");
    copy(&from.join(directory), &state.join(directory));
}

/// History was asked of the generation first, and had its error for an answer, though the archive has it.
#[test]
fn what_a_generation_has_lost_is_read_from_the_archive() {
    let compaction = Compaction::new();
    let state = compaction.with(&[SNAPSHOTS, ARCHIVE]);
    let journal = state.path().join(JOURNAL);
    let (_, told) = logged(|| prove(state.path()).expect("proven"));
    assert!(!told.contains("WARN"), "nothing is lost yet: {told}");
    // Of its six records sled finds two.
    let cut = journal.join(&names(&journal)[1]).join("db");
    let record = &compaction.seen.records[compaction.seen.records.len() - 4];
    let mut bytes = fs::read(&cut).expect("read");
    let at = bytes.windows(record.len()).position(|window| window == record).expect("it is there");
    bytes[at] ^= 1;
    fs::write(&cut, bytes).expect("written");
    for told in [logged(|| prove(state.path()).expect("proven")).1, logged(|| drop(start(state.path()))).1] {
        assert!(told.contains("WARN") && told.contains("a generation has lost its end"), "{told}");
    }
    let mut running = start(state.path());
    let shard = &mut running.shards[0];
    shard.deposit("alice", 100);
    let seen = shard.seen().expect("the archive has it");
    assert_eq!(seen.records[..seen.records.len() - 1], compaction.seen.records);
    drop(running);
    starts_as(state.path(), &seen);
}

/// A ledger with these deposits in its archive, and in their place another one in a generation, all behind an opening.
fn with_a_generation_of_another_history(archived: std::ops::Range<i128>) -> tempfile::TempDir {
    let (live, branch, state) = (directory(), directory(), directory());
    let mut running = start(live.path());
    running.shards[0].open("alice");
    copy(live.path(), branch.path());
    running.shards[0].deposits("alice", archived);
    copy(live.path(), state.path());
    running.shards[0].compact();
    [SNAPSHOTS, ARCHIVE].iter().for_each(|directory| put(state.path(), directory, live.path()));
    start(state.path());
    start(branch.path()).shards[0].deposit("alice", 9);
    put(state.path(), JOURNAL, branch.path());
    state
}

/// It was there until the next compaction, and history came from there.
#[test]
fn a_generation_of_another_history_is_refused_though_the_archive_has_its_sequences() {
    let state = with_a_generation_of_another_history(1..2);
    let error = Running::start(state.path(), LEDGER, 1).err().expect("another history").to_string();
    assert!(
        error.contains("0000000002 is corrupt at sequence 2") && error.contains("one history"),
        "{error}"
    );
}

/// Of one that ends before the archive does it was only told that it had lost its end.
#[test]
fn a_generation_of_another_history_is_refused_where_it_ends_too() {
    let state = with_a_generation_of_another_history(1..4);
    let refused = |error: String| {
        assert!(error.contains("is corrupt at sequence 2") && error.contains("one history"), "{error}");
    };
    refused(prove(state.path()).expect_err("another history").to_string());
    refused(Running::start(state.path(), LEDGER, 1).err().expect("another history").to_string());
}

#[test]
fn a_generation_that_is_missing_among_those_that_the_archive_has_is_refused() {
    let (live, state) = (directory(), directory());
    let running = start_with_sealed(live.path(), 3);
    copy(live.path(), state.path());
    running.shards[0].recovered.log.compact(&CompactionLimits::default(), &|_| true).expect("compacted");
    [SNAPSHOTS, ARCHIVE].iter().for_each(|directory| put(state.path(), directory, live.path()));
    start(state.path());
    let journal = state.path().join(JOURNAL);
    fs::remove_dir_all(journal.join(&names(&journal)[1])).expect("removed");
    let error = Running::start(state.path(), LEDGER, 1).err().expect("a gap").to_string();
    assert!(error.contains("sequence 3 should follow, but a record starts at 4"), "{error}");
}

/// The journal's leftovers were swept when all had been read, so a disk that was full of them had no room for reading.
#[test]
fn what_a_crash_leaves_of_generations_is_swept_before_anything_is_read() {
    let compaction = Compaction::new();
    let state = compaction.with(&[]);
    let journal = state.path().join(JOURNAL);
    let newest = journal.join(names(&journal).pop().expect("one"));
    let leftovers =
        [journal.join("0000000009.2.creating"), journal.join("0000000001.removed"), newest.join("reading")];
    for leftover in &leftovers {
        fs::create_dir(leftover).expect("created");
        fs::write(leftover.join("db"), [1; 96]).expect("written");
    }
    // The first thing that is read.
    let snapshots = state.path().join(SNAPSHOTS);
    let snapshot = snapshots.join(names(&snapshots).pop().expect("one"));
    let bytes = fs::read(&snapshot).expect("read");
    fs::write(&snapshot, &bytes[..bytes.len() / 2]).expect("written");
    assert!(Running::start(state.path(), LEDGER, 1).is_err());
    assert!(leftovers.iter().all(|leftover| !leftover.exists()));
    fs::write(&snapshot, bytes).expect("written");
    starts_as(state.path(), &compaction.seen);
}

#[test]
fn without_its_newest_snapshot_or_any_the_state_is_rebuilt_and_that_is_told() {
    let compaction = Compaction::new();
    for keep in [1, 0] {
        let state = compaction.with(&[SNAPSHOTS, ARCHIVE, JOURNAL]);
        let snapshots = state.path().join(SNAPSHOTS);
        for name in &names(&snapshots)[keep..] {
            fs::remove_file(snapshots.join(name)).expect("removed");
        }
        let (replayed, log) = logged(|| start(state.path()).shards[0].replayed);
        assert_eq!(
            replayed,
            if keep == 1 { 10 } else { 20 },
            "from the older snapshot, or from the first event"
        );
        assert!(log.contains("the newest snapshot is missing; rebuilding the state"), "{log}");
        starts_as(state.path(), &compaction.seen);
    }
}

/// A shutdown writes one snapshot of all that waits, then archives it. Cut short in between, it leaves more covered
/// generations than a step takes; the steps must get behind them.
#[test]
fn any_number_of_generations_may_be_covered_already() {
    let (live, finished, state) = (directory(), directory(), directory());
    let running = start_with_sealed(live.path(), 9);
    let shard = &running.shards[0];
    let seen = shard.seen().expect("intact");
    drop(running);
    copy(live.path(), finished.path());
    start(finished.path()).stop();
    copy(live.path(), state.path());
    fs::remove_dir_all(state.path().join(SNAPSHOTS)).expect("removed");
    copy(&finished.path().join(SNAPSHOTS), &state.path().join(SNAPSHOTS));
    starts_as(state.path(), &seen);
}

/// A step took all of those, and so room for all, without which none of them could be archived.
#[test]
fn generations_that_are_covered_already_are_archived_one_by_one_if_need_be() {
    let (live, finished) = (directory(), directory());
    drop(start_with_sealed(live.path(), 5));
    copy(live.path(), finished.path());
    start(finished.path()).stop();
    fs::remove_dir_all(live.path().join(SNAPSHOTS)).expect("removed");
    copy(&finished.path().join(SNAPSHOTS), &live.path().join(SNAPSHOTS));
    let running = start(live.path());
    let log = &running.shards[0].recovered.log;
    let one = CompactionLimits { generations: 1, ..CompactionLimits::default() };
    for left in (0..5).rev() {
        log.compact(&one, &|_| true).expect("compacted");
        assert_eq!(log.sealed_generations(), left);
    }
    let seen = running.shards[0].seen().expect("intact");
    drop(running);
    starts_as(live.path(), &seen);
}

/// P10: a process that is killed again and again, before it has had time or room for a compaction, leaves generations in
/// which nothing is; the next start is none the slower for them.
#[test]
fn generations_without_a_record_do_not_pile_up() {
    let live = directory();
    for killed in 0..5 {
        let mut running = start(live.path());
        let shard = &mut running.shards[0];
        let written = usize::from(killed > 2);
        assert_eq!(shard.recovered.log.sealed_generations(), written, "after {killed} kills");
        shard.recovered.log.prepare().expect("prepared");
        if killed == 2 {
            shard.open("alice");
        }
        assert_eq!(names(&live.path().join(JOURNAL)).len(), written + 2);
    }
}

/// The name of a segment that begins with the log is taken while it is in the making: none such can be made.
fn obstacle_to_merges(path: &Path) -> PathBuf {
    let obstacle = path.join(ARCHIVE).join(format!("{:020}.segment.tmp", 1));
    fs::create_dir(&obstacle).expect("created");
    obstacle
}

/// All was done by then; but it was told that the log cannot be compacted, and what else waited did so until the next
/// generation was sealed.
#[test]
fn a_compaction_is_done_though_segments_cannot_be_merged() {
    let live = directory();
    let running = start_with_sealed(live.path(), 4);
    let log = &running.shards[0].recovered.log;
    let one = CompactionLimits { generations: 1, ..CompactionLimits::default() };
    assert!(log.compact(&one, &|_| true).expect("compacted"));
    let obstacle = obstacle_to_merges(live.path());
    for left in [2, 1] {
        let (compacted, told) = logged(|| log.compact(&one, &|_| true));
        assert!(compacted.expect("compacted"), "it got on");
        assert_eq!(log.sealed_generations(), left);
        assert_eq!(told.matches("WARN").count(), 1, "{told}");
        assert!(
            told.contains("cannot merge segments of the archive") && told.contains("segment.tmp"),
            "{told}"
        );
    }
    assert!(names(&live.path().join(ARCHIVE)).len() > 2);
    fs::remove_dir(&obstacle).expect("removed");
    assert!(log.compact(&one, &|_| true).expect("compacted"));
    assert_eq!(names(&live.path().join(ARCHIVE)).len(), 1, "what has waited is merged");
    let seen = running.shards[0].seen().expect("intact");
    drop(running);
    starts_as(live.path(), &seen);
}

/// The same of generations that a snapshot covers already.
#[test]
fn generations_that_are_covered_already_are_archived_though_segments_cannot_be_merged() {
    let (live, finished) = (directory(), directory());
    drop(start_with_sealed(live.path(), 3));
    copy(live.path(), finished.path());
    start(finished.path()).stop();
    put(live.path(), SNAPSHOTS, finished.path());
    let running = start(live.path());
    let log = &running.shards[0].recovered.log;
    let one = CompactionLimits { generations: 1, ..CompactionLimits::default() };
    assert!(log.compact(&one, &|_| true).expect("archived"));
    let obstacle = obstacle_to_merges(live.path());
    let (compacted, told) = logged(|| log.compact(&one, &|_| true));
    assert!(compacted.expect("archived"), "it got on");
    assert_eq!(log.sealed_generations(), 1);
    assert!(told.contains("cannot merge segments of the archive"), "{told}");
    fs::remove_dir(&obstacle).expect("removed");
    let seen = running.shards[0].seen().expect("intact");
    drop(running);
    starts_as(live.path(), &seen);
}

/// Who ends the server for a backup would keep one that no start accepts.
#[test]
fn a_segment_that_is_found_damaged_at_the_end_is_an_error() {
    let live = directory();
    let mut running = start_with_sealed(live.path(), 2);
    let one = CompactionLimits { generations: 1, ..CompactionLimits::default() };
    let Shard { recovered: Recovered { ledger, journal, log }, .. } = running.shards.remove(0);
    assert!(log.compact(&one, &|_| true).expect("compacted"));
    let archive = live.path().join(ARCHIVE);
    let segment = archive.join(names(&archive).first().expect("one is there"));
    let mut bytes = fs::read(&segment).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("written");
    let error = log.finish(journal, &ledger).expect_err("it is damaged");
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    assert_eq!(names(&live.path().join(SNAPSHOTS)).len(), 2, "there is another snapshot all the same");
}

/// An account that is opened or has changed is in memory while a snapshot is made.
#[test]
fn a_step_ends_behind_the_generation_with_which_it_has_enough_accounts() {
    for (limits, generations_left) in
        [(CompactionLimits::default(), [3, 0, 0, 0]), (AS_A_LARGE_LEDGER, [3, 2, 1, 0])]
    {
        let live = directory();
        let running = start_with_sealed(live.path(), 4);
        let shard = &running.shards[0];
        for left in generations_left {
            let limits = CompactionLimits { accounts: 1, ..limits };
            shard.recovered.log.compact(&limits, &|_| true).expect("compacted");
            assert_eq!(shard.recovered.log.sealed_generations(), left);
        }
    }
}

/// An archive that reaches further than any snapshot would leave only the archive to rebuild the state from.
#[test]
fn nothing_is_archived_before_a_snapshot_covers_it() {
    let live = directory();
    let mut running = start(live.path());
    let shard = &mut running.shards[0];
    shard.open("alice");
    shard.recovered.journal.roll().expect("rolled");
    // The snapshot cannot be written: a directory has the name of its file in the making.
    let name = format!("{:020}.snapshot", shard.ledger().last().get());
    let obstacle = live.path().join(SNAPSHOTS).join(format!("{name}.tmp"));
    fs::create_dir(&obstacle).expect("created");
    let error = shard
        .recovered
        .log
        .compact(&CompactionLimits::default(), &|_| true)
        .expect_err("it cannot be written")
        .to_string();
    assert!(error.contains(&name), "{error}");
    assert_eq!(names(&live.path().join(ARCHIVE)), [""; 0]);
    assert!(shard.recovered.log.record(Sequence::FIRST).expect("intact").is_some());
    fs::remove_dir(&obstacle).expect("removed");
    shard
        .recovered
        .log
        .compact(&CompactionLimits::default(), &|_| true)
        .expect("the next one makes up for it");
    assert_eq!(names(&live.path().join(ARCHIVE)).len(), 1);
}

/// P10: the cost of a restart is what has happened since the last snapshot.
#[test]
fn a_restart_replays_what_happened_since_the_last_snapshot() {
    let live = directory();
    let mut running = start(live.path());
    running.shards[0].open("alice");
    for life in 0..4 {
        running.shards[0].deposits("alice", 1 + life * 20..16 + life * 20);
        running.shards[0].compact();
        running.shards[0].deposits("alice", 100 + life * 3..103 + life * 3);
        drop(running);
        running = start(live.path());
        assert_eq!(running.shards[0].replayed, 3, "after {} events", running.shards[0].ledger().last());
    }
}

/// P10: a start opens every segment, so however often the log was compacted there must be few.
#[test]
fn two_snapshots_are_kept_and_all_of_the_history_in_few_segments() {
    let live = directory();
    let mut running = start(live.path());
    let shard = &mut running.shards[0];
    shard.open("alice");
    for round in 0..40 {
        shard.deposits("alice", 1 + round * 3..4 + round * 3);
        shard.compact();
        let newest = format!("{:020}.snapshot", shard.ledger().last().get());
        let snapshots = names(&live.path().join(SNAPSHOTS));
        assert_eq!(snapshots.last(), Some(&newest));
        assert_eq!(snapshots.len(), 2.min(round as usize + 1));
        // Each is over four times as large as the one behind it.
        assert!(names(&live.path().join(ARCHIVE)).len() <= 4);
    }
    assert_eq!(shard.seen().expect("intact").records.iter().filter(|record| !record.is_empty()).count(), 121);
}

/// P8: the keeper folds the files, the shutdown has the state in memory; both write the same bytes.
#[test]
fn the_keepers_snapshot_is_to_the_byte_the_one_of_a_shutdown() {
    let compaction = Compaction::new();
    let at_shutdown = compaction.with(&[]);
    start(at_shutdown.path()).stop();
    let newest = |path: &Path| {
        let (sequence, path) = snapshot::list(&path.join(SNAPSHOTS)).expect("listed").pop().expect("one");
        (sequence, fs::read(path).expect("read"))
    };
    assert_eq!(newest(at_shutdown.path()), newest(compaction.after.path()));
}

#[test]
fn history_is_whole_for_a_reader_while_it_moves_to_the_archive() {
    let live = directory();
    let mut running = start(live.path());
    let shard = &mut running.shards[0];
    shard.open("alice");
    let over = AtomicBool::new(false);
    let log = shard.recovered.log.clone();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut longest = 0;
                    // At least once when all is over.
                    loop {
                        let last_round = over.load(Ordering::Acquire);
                        let mut sequence = Sequence::FIRST;
                        while log.record(sequence).expect("intact").is_some() {
                            sequence = sequence.next();
                        }
                        assert!(sequence.get() > longest, "what was there is there");
                        longest = sequence.get() - 1;
                        if last_round {
                            return longest;
                        }
                    }
                })
            })
            .collect();
        for round in 0..12 {
            shard.deposits("alice", 1 + round * 5..6 + round * 5);
            shard.compact();
        }
        over.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), 61);
        }
    });
}

/// What was written but not synced when the process was killed is there, and whoever asks sees it: recovery has to
/// reach the very end of the journal, not only what was acknowledged.
#[test]
fn a_record_behind_the_watermark_counts_and_a_watermark_behind_the_records_refuses() {
    let live = directory();
    let mut running = start(live.path());
    running.shards[0].open("alice");
    // What comes behind it is in a generation of its own.
    running.shards[0].recovered.journal.roll().expect("rolled");
    let (early, late) = (directory(), directory());
    copy(live.path(), early.path());
    running.shards[0].deposits("alice", 1..4);
    copy(live.path(), late.path());
    drop(running);

    let refused = |state: &Path| {
        let error = Running::start(state, LEDGER, 1).err().expect("refused").to_string();
        assert!(error.contains("everything up to sequence 4 was acknowledged"), "{error}");
        assert!(error.contains("corrupt at sequence 2"), "{error}");
    };
    let state = directory();
    copy(late.path(), state.path());
    fs::copy(early.path().join(WATERMARK), state.path().join(WATERMARK)).expect("copied");
    let last_acknowledged = || {
        let shard = ShardId::new(0).expect("in range");
        Watermark::peek(&state.path().join(WATERMARK), LEDGER, shard).expect("intact").last.get()
    };
    assert_eq!(last_acknowledged(), 1);
    assert_eq!(start(state.path()).shards[0].ledger().last().get(), 4);
    // It has been shown by now, so the next start must not do without it.
    assert_eq!(last_acknowledged(), 4);
    let lost = directory();
    copy(state.path(), lost.path());
    let journal = lost.path().join(JOURNAL);
    for generation in &names(&journal)[1..] {
        fs::remove_dir_all(journal.join(generation)).expect("removed");
    }
    refused(lost.path());

    let state = directory();
    copy(early.path(), state.path());
    fs::copy(late.path().join(WATERMARK), state.path().join(WATERMARK)).expect("copied");
    refused(state.path());
}

/// Two copies of a ledger went on for themselves, and came to the same sequence: that is not yet the same history.
#[test]
fn a_log_that_ends_where_another_one_was_acknowledged_is_refused() {
    let trunk = directory();
    start(trunk.path()).shards[0].open("alice");
    let [one, other] = [1, 2].map(|units| {
        let branch = directory();
        copy(trunk.path(), branch.path());
        start(branch.path()).shards[0].deposit("alice", units);
        branch
    });
    fs::copy(other.path().join(WATERMARK), one.path().join(WATERMARK)).expect("copied");
    let error = Running::start(one.path(), LEDGER, 1).err().expect("another history").to_string();
    assert!(error.contains("the log is not the one that was acknowledged"), "{error}");
}

/// P10: a start reads as much of the archive as its bound says, and the newest segment always; a proof reads all of it.
#[test]
fn how_much_of_the_archive_is_verified_is_bounded_and_begins_with_the_newest() {
    let live = directory();
    let mut running = start(live.path());
    let shard = &mut running.shards[0];
    shard.open("alice");
    for units in 1..3 {
        shard.deposit("alice", units);
        shard.recovered.journal.roll().expect("rolled");
        // Without room for a merge, so that there are two.
        shard.recovered.log.compact(&CompactionLimits::default(), &|_| false).expect("compacted");
    }
    let files = shard.files.clone();
    drop(running);
    let archive = live.path().join(ARCHIVE);
    let segments = names(&archive);
    assert_eq!(segments.len(), 2);
    for (damaged, within_the_bound) in [(0, true), (1, false)] {
        let path = archive.join(&segments[damaged]);
        let intact = fs::read(&path).expect("read");
        let mut bytes = intact.clone();
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("written");
        let stored = StoredLog::open_archive(&files).expect("what opening reads is intact");
        assert_eq!(stored.verify_archive(1).is_ok(), within_the_bound, "segment {damaged}");
        assert!(stored.verify_archive(u64::MAX).is_err(), "segment {damaged}");
        fs::write(&path, intact).expect("written");
    }
}

/// Two copies of a ledger went on for themselves, and a generation of the one came among those of the other. The
/// sequences fit, the balances fit, the watermark fits; only the chain tells.
#[test]
fn generations_of_two_histories_do_not_join() {
    let trunk = directory();
    let mut running = start(trunk.path());
    running.shards[0].open("alice");
    drop(running);
    let grow = |key| {
        let branch = directory();
        copy(trunk.path(), branch.path());
        for (life, key) in [key, 7].into_iter().enumerate() {
            let mut running = start(branch.path());
            let name = AccountName::parse("alice").expect("valid");
            let target = Target { account: AccountRef::Name(name), version: None };
            let amount = Amount::from_minor_units(5 + life as i128).expect("in range");
            let amount = Quantity::of(amount, Currency::USD);
            running.shards[0].run(&Command::Deposit { target, amount }, Some(key));
        }
        branch
    };
    let (one, other) = (grow(1), grow(2));
    let generations = names(&one.path().join(JOURNAL));
    assert_eq!((generations.len(), &generations), (3, &names(&other.path().join(JOURNAL))));
    let middle = Path::new(JOURNAL).join(&generations[1]);
    fs::remove_dir_all(one.path().join(&middle)).expect("removed");
    copy(&other.path().join(&middle), &one.path().join(&middle));
    let error = Running::start(one.path(), LEDGER, 1).err().expect("refused").to_string();
    assert!(error.contains("the record of sequence 3 is not linked to the one before"), "{error}");
    assert!(error.contains(&generations[2]), "{error}");
}
