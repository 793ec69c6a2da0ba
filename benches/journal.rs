//! One commit: a record appended to the journal and synced, against a bare `pwrite` and `fdatasync` of the same
//! bytes on the same disk.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::{Arena, BareFile, Feed, LEDGER, shard, timed};
use teller::ledger::{Change, Event, Rejection};
use teller::storage::journal::record::{Draft, LogPosition};
use teller::storage::journal::{Generations, Journal, JournalOptions, SledJournal};

const RECORD_BYTES: [(usize, &str); 4] =
    [(512, "512 B"), (4 * 1024, "4 KiB"), (16 * 1024, "16 KiB"), (64 * 1024 - 64, "64 KiB")];

fn main() {
    let mut arena = Arena::new();
    // In turn after every commit: what the disk still does for the one also meets the other.
    arena.turn = 1;
    for (bytes, name) in RECORD_BYTES {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ours = Log::create(&directory.path().join("journal"), bytes);
        let (mut bare, bytes) = (BareFile::create(&directory.path().join("bare")), vec![7; bytes]);
        arena.duel(
            "commit",
            name,
            1,
            |count| (0..count).map(|_| ours.commit()).sum(),
            |count| (0..count).map(|_| timed(|| bare.commit(&bytes))).sum(),
        );
    }
    arena.finish();
}

struct Log {
    journal: SledJournal,
    generations: Arc<Generations>,
    feed: Feed,
    position: LogPosition,
    bytes: usize,
}

impl Log {
    fn create(path: &Path, bytes: usize) -> Log {
        let generations = Generations::new(path, Vec::new()).expect("a journal");
        let live = generations.create().expect("a generation");
        let position = LogPosition::genesis(LEDGER, shard());
        let options = JournalOptions::default();
        let journal = SledJournal::new(shard(), position, live, Arc::clone(&generations), options);
        Log { journal, generations, feed: Feed::new(1, |_, _| {}), position, bytes }
    }

    /// Appends and syncs a record of the size; making it is not counted, and neither is what the server does in
    /// the background: opening the next generation ahead and clearing full ones away.
    fn commit(&mut self) -> Duration {
        self.generations.prepare_next().expect("a generation");
        for full in self.generations.sealed() {
            self.generations.remove(full.number()).expect("removed");
        }
        let record = self.record();
        timed(|| {
            self.journal.append(&record).expect("it follows");
            self.journal.sync().expect("the disk works");
        })
    }

    /// A record of the size: a journal looks at no event, so one that is long enough will do.
    fn record(&mut self) -> Vec<u8> {
        let overhead = 64 + 3 + 1 + 1 + 1 + 3;
        let change = Change::Refused {
            rejection: Rejection::AccountExists,
            request_id: "x".repeat(self.bytes - overhead).into(),
        };
        let event = Event { time: self.feed.terms.now, key: None, change };
        let record = Draft::new(self.position.last.next(), &event).seal(shard(), &mut self.position);
        assert!(record.len().abs_diff(self.bytes) < 8, "{} bytes", record.len());
        record
    }
}
