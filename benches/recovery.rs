//! What a restart waits for: a generation of the journal opened and replayed, a snapshot loaded; and what the
//! background pays for that: a snapshot written. Each against the same bytes copied, hashed or written plainly.
//!
//! 100,000 accounts: their state (some 30 MB) and their file (4 MB) are far larger than the processor's caches,
//! so the time an account takes is that of any larger number, and a round is still short enough to be repeated.

mod support;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use support::{Arena, Feed, LEDGER, shard, sized, timed};
use teller::clock;
use teller::ledger::{Event, Sequence};
use teller::progress::Progress;
use teller::storage::journal::record::{Draft, LogPosition};
use teller::storage::journal::{Generation, Journal, JournalOptions};
use teller::storage::log::{ShardFiles, StoredLog, recover, replay};
use teller::storage::manifest::{Birth, DataDirectory};
use teller::storage::snapshot;

/// As many deposits as come to a third of a generation.
const EVENTS: usize = 250_000;

/// What shares a commit under load: see the figures of the server.
const RECORD_EVENTS: usize = 64;

const ACCOUNTS: usize = 100_000;

fn main() {
    let mut arena = Arena::new();
    arena.criterion = arena.criterion.sample_size(10);
    replays(&mut arena);
    snapshots(&mut arena);
    arena.finish();
}

fn replays(arena: &mut Arena) {
    let directory = tempfile::tempdir().expect("a directory");
    let birth = Birth { shards: 1, ledger: LEDGER, created: clock::now() };
    let data = DataDirectory::open(&directory.path().join("ledger"), None, &birth).expect("a new ledger");
    let files = ShardFiles::new(&data, shard());
    let events = sized(EVENTS, 1000);
    let (all_records, journal) = fill(&files, events);
    let db = journal.join("db");
    let copy = directory.path().join("copy");
    arena.duel(
        "open a generation",
        "an event",
        events as u64,
        |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(Generation::open(&journal).expect("intact")).close().expect("closed");
                }
            })
        },
        |count| {
            timed(|| {
                for _ in 0..count {
                    fs::copy(&db, &copy).expect("copied");
                    fs::File::open(&copy).and_then(|copy| copy.sync_all()).expect("synced");
                }
            })
        },
    );
    let log = StoredLog::open(&files).expect("intact");
    let (start, genesis) = files.newest_snapshot().expect("none");
    let records = all_records.len() as u64;
    for (name, elements) in [("an event", events as u64), ("a record", records)] {
        arena.duel(
            "replay",
            name,
            elements,
            |count| {
                timed(|| {
                    for _ in 0..count {
                        let mut ledger = start.clone();
                        let end = log.walk(genesis, &mut |record, _| replay(&mut ledger, record));
                        black_box(end.expect("intact"));
                        black_box(ledger.last());
                    }
                })
            },
            |count| {
                timed(|| {
                    for _ in 0..count {
                        for record in &all_records {
                            black_box(crc32c::crc32c(record));
                            black_box(blake3::hash(record));
                        }
                    }
                })
            },
        );
    }
}

/// Writes a generation with so many events, and returns its records and its directory.
fn fill(files: &ShardFiles, events: usize) -> (Vec<Vec<u8>>, std::path::PathBuf) {
    let progress = Progress::new("bench", "events", None);
    let recovered = recover(files, JournalOptions::default(), &progress).expect("recovered");
    let mut journal = recovered.journal;
    let mut records = Vec::new();
    let mut pending: Vec<(Sequence, Event)> = Vec::new();
    let mut position = journal.position();
    let mut append = |pending: &mut Vec<(Sequence, Event)>| {
        let Some((sequence, first)) = pending.first() else { return };
        let mut draft = Draft::new(*sequence, first);
        for (_, event) in &pending[1..] {
            assert!(draft.push(event), "they fit a record");
        }
        let record = draft.seal(shard(), &mut position);
        journal.append(&record).expect("it follows");
        records.push(record);
        pending.clear();
    };
    let mut collect = |event: (Sequence, Event)| {
        pending.push(event);
        if pending.len() == RECORD_EVENTS {
            append(&mut pending);
        }
    };
    let accounts = events / 100;
    let mut feed = Feed::new(accounts, |sequence, event| collect((sequence, event)));
    for _ in accounts..events {
        collect(feed.next_event());
    }
    append(&mut pending);
    journal.sync().expect("the disk works");
    // Dropped like this, sled lets go of its lock in its own time.
    drop((journal, recovered.log));
    let [(_, path)] = &teller::storage::journal::list_generations(&files.journal).expect("a journal")[..]
    else {
        panic!("they fit one generation");
    };
    while Generation::open(path).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (records, path.clone())
}

fn snapshots(arena: &mut Arena) {
    let accounts = sized(ACCOUNTS, 100);
    let mut feed = Feed::new(accounts, |_, _| {});
    for _ in 0..4 * accounts {
        feed.next_event();
    }
    let mut position = LogPosition::genesis(LEDGER, shard());
    position.last = feed.ledger.last();
    let directory = tempfile::tempdir().expect("a directory");
    let write = |directory: &Path| {
        snapshot::write(directory, LEDGER, shard(), &feed.ledger, &position).expect("the disk works")
    };
    let path = write(directory.path());
    let bytes = fs::read(&path).expect("it is there");
    let plain = tempfile::NamedTempFile::new().expect("a file");
    arena.duel(
        "write a snapshot",
        "an account",
        accounts as u64,
        |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(write(directory.path()));
                }
            })
        },
        |count| {
            timed(|| {
                for _ in 0..count {
                    fs::write(plain.path(), &bytes).expect("written");
                    plain.as_file().sync_all().expect("synced");
                }
            })
        },
    );
    arena.duel(
        "load a snapshot",
        "an account",
        accounts as u64,
        |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(snapshot::read(&path, LEDGER, shard()).expect("intact"));
                }
            })
        },
        |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(blake3::hash(&fs::read(&path).expect("it is there")));
                }
            })
        },
    );
}
