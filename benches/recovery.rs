//! What a restart waits for: a generation of the journal opened and replayed, a snapshot loaded; and what the
//! background pays for that: a snapshot written. Each against the same bytes copied, hashed or written plainly.
//!
//! 100,000 accounts: their state (some 30 MB) and their file (4 MB) are far larger than the processor's caches,
//! so the time an account takes is that of any larger number, and a round is still short enough to be repeated.

mod support;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use support::{Arena, Feed, LEDGER, dollars, shard, sized, timed};
use teller::clock;
use teller::ledger::operation::{Item, Operation, Place, Sum};
use teller::ledger::workspace::{Needs, Workspace};
use teller::ledger::{Event, Note, Sequence};
use teller::progress::Progress;
use teller::storage::StorageError;
use teller::storage::journal::record::{Draft, LogPosition};
use teller::storage::journal::{Copies, Generation, Journal, JournalOptions, read_generations};
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
    let events = sized(EVENTS, 1000);
    restart(arena, events);
    let directory = tempfile::tempdir().expect("a directory");
    let files = shard_files(directory.path());
    let (all_records, journal) = fill(&files, events, Feed::next_event);
    let db = journal.join("db");
    let copy = directory.path().join("copy");
    arena.duel(
        "open a generation",
        "an event",
        events as u64,
        |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(read(&journal).expect("intact"));
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

/// What a restart does with a journal: half deposits, half transfers, opened and replayed.
fn restart(arena: &mut Arena, events: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let files = shard_files(directory.path());
    let mut is_transfer = false;
    let (all_records, journal) = fill(&files, events, |feed| {
        is_transfer = !is_transfer;
        if is_transfer { transfer(feed) } else { feed.next_event() }
    });
    let db = journal.join("db");
    let copy = directory.path().join("copy");
    let (start, genesis) = files.newest_snapshot().expect("none");
    arena.duel(
        "open and replay",
        "a transaction",
        events as u64,
        |count| {
            let once = |_| {
                let (mut ledger, mut log) = (start.clone(), None);
                let time = timed(|| {
                    let log = log.insert(StoredLog::open_archive(&files).expect("intact"));
                    let end = log.read(genesis, &mut |record, _| replay(&mut ledger, record));
                    black_box(end.expect("intact"));
                });
                // A restart goes on to use both; only the next round needs the lock.
                drop((ledger, log));
                time
            };
            (0..count).map(once).sum()
        },
        |count| {
            timed(|| {
                for _ in 0..count {
                    fs::copy(&db, &copy).expect("copied");
                    fs::File::open(&copy).and_then(|copy| copy.sync_all()).expect("synced");
                    for record in &all_records {
                        black_box(crc32c::crc32c(record));
                        black_box(blake3::hash(record));
                    }
                }
            })
        },
    );
}

/// Makes a transfer of one cent happen, between any two accounts.
fn transfer(feed: &mut Feed) -> (Sequence, Event) {
    feed.tick();
    let mut place = || Place { shard: shard(), account: feed.target().account };
    let (from, mut to) = (place(), place());
    while to == from {
        to = place();
    }
    let needs = Needs { accounts: vec![from.account.clone(), to.account.clone()].into(), ..Needs::default() };
    let grant = feed.ledger.grant(&needs, &[], &feed.terms);
    let next = feed.ledger.last().next();
    let mut workspace = Workspace::new(shard(), feed.terms, next, vec![grant]);
    let amount = Sum::Exactly(dollars("0.01"));
    let operation = Operation::Transfer { from, to, amount, note: Note::default() };
    workspace.execute(&Item { operation, conditions: Vec::new(), key: None }, "").expect("granted");
    let Some(decided) = workspace.into_decided().pop() else {
        // It has spent its overdraft.
        return feed.next_event();
    };
    let event = feed.ledger.decided(decided, feed.terms.now);
    (feed.ledger.apply(&event), event)
}

fn shard_files(directory: &Path) -> ShardFiles {
    let birth = Birth { shards: 1, ledger: LEDGER, created: clock::now() };
    let data = DataDirectory::open(&directory.join("ledger"), None, &birth).expect("a new ledger");
    ShardFiles::new(&data, shard())
}

/// Writes a generation with so many events, and returns its records and its directory.
fn fill(
    files: &ShardFiles,
    events: usize,
    mut make: impl FnMut(&mut Feed) -> (Sequence, Event),
) -> (Vec<Vec<u8>>, std::path::PathBuf) {
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
        collect(make(&mut feed));
    }
    append(&mut pending);
    journal.sync().expect("the disk works");
    // Dropped like this, sled lets go of its lock in its own time.
    drop((journal, recovered.log));
    let [(_, path)] = &teller::storage::journal::list_generations(&files.journal).expect("a journal")[..]
    else {
        panic!("they fit one generation");
    };
    while read(path).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (records, path.clone())
}

fn read(generation: &Path) -> Result<Vec<Generation>, StorageError> {
    read_generations(&[generation.to_owned()], Copies::Inside, &mut |_, _| Ok(()))
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
