//! A ledger as the first format left it, killed in the midst of its work: later versions must open it.
//!
//! `tests/fixtures/ledger-1` was made by a server with two shards, two snapshots a shard, merged archive segments and
//! a journal with a tail, ended by SIGKILL. It is never written again; a new format gets a fixture of its own.

mod directory;

use std::fs;
use std::path::Path;

use directory::copy;
use teller::ledger::{Change, Ledger, Sequence, ShardId, Timestamp};
use teller::progress::Progress;
use teller::storage::history::HistoryReader;
use teller::storage::in_flight;
use teller::storage::journal::JournalOptions;
use teller::storage::log::{Recovered, ShardFiles, recover};
use teller::storage::manifest::DataDirectory;
use teller::storage::verify::verify_ledger;

/// Copies the fixture, and makes the empty directories that version control does not keep.
fn thawed(to: &Path) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger-1"), to);
    for shard in ["shard-0000", "shard-0001"] {
        for generation in ["0000000003", "0000000004"] {
            fs::create_dir_all(to.join(shard).join("journal").join(generation).join("blobs"))
                .expect("created");
        }
    }
}

fn balances(ledger: &Ledger) -> Vec<(&str, i128, u64)> {
    ledger
        .accounts()
        .iter()
        .map(|account| (&*account.name, account.posted.minor_units(), account.version))
        .collect()
}

#[test]
fn a_ledger_of_the_first_format_is_recovered_with_its_history_and_proven() {
    let temporary = tempfile::tempdir().expect("a directory");
    thawed(temporary.path());
    let directory = DataDirectory::open(
        temporary.path(),
        None,
        &teller::storage::manifest::Birth {
            shards: 9,
            ledger: uuid::Uuid::nil(),
            created: teller::ledger::Timestamp::default(),
        },
    )
    .expect("it opens");
    assert_eq!(directory.shards(), 2);
    let progress = Progress::new("recovering", "events", None);
    let files = [0, 1].map(|index| ShardFiles::new(&directory, ShardId::new(index).expect("in range")));

    let proven = verify_ledger(&files, &progress).expect("it is proven");
    let events: Vec<u64> = proven.shards.iter().map(|shard| shard.last.get()).collect();
    assert_eq!((&events[..], proven.in_flight), (&[12, 8][..], 0));

    let mut shards = files
        .each_ref()
        .map(|files| recover(files, JournalOptions::default(), &progress).expect("it recovers"));
    // The first format knew nothing of decisions between shards.
    let mut sides: Vec<_> = shards.iter_mut().map(Recovered::side).collect();
    assert_eq!(in_flight::settle(&mut sides, Timestamp::MAX).expect("nothing to do"), 0);
    let ends: Vec<Sequence> = sides.iter().map(|side| side.journal.position().last).collect();
    assert_eq!(ends, shards.each_ref().map(|shard| shard.ledger.last()));
    let [first, second] = &shards;
    assert_eq!(balances(&first.ledger), [("alice", 11184, 6), ("carol", 1000, 3), ("dave", 0, 2)]);
    assert_eq!(balances(&second.ledger), [("bob", 1334, 3), ("erin", -50000, 3), ("frank", 0, 1)]);
    let keys: usize = shards.iter().map(|shard| shard.ledger.keys().len()).sum();
    assert!(keys >= 3, "the idempotency keys are remembered");
    for Recovered { ledger, .. } in &shards {
        let parts = ledger.to_parts();
        assert!(parts.clearing.is_empty() && parts.holds.is_empty() && parts.sent.is_empty());
        assert!(parts.accounts.iter().all(|account| account.held.is_zero() && account.details.is_none()));
    }

    // One account's whole history, over the archive and the journal.
    let Recovered { ledger, log, .. } = first;
    let alice = &ledger.accounts()[0];
    let mut history = HistoryReader::new(ShardId::new(0).expect("in range"), &**log);
    let entries = history
        .entries(alice.number, alice.chain.newest(), alice.version, alice.version, 100)
        .expect("it is readable");
    let posted: Vec<i128> = entries
        .iter()
        .filter_map(|entry| match &entry.event.change {
            Change::Posted { entry, .. } => Some(entry.balance.minor_units()),
            _ => None,
        })
        .collect();
    assert_eq!(posted, [11184, 11209, 11234, 11259, 10025]);
    for entry in &entries {
        let newest = (alice.chain.newest(), alice.version);
        let then = history.entry_at(alice.number, newest.0, newest.1, entry.time()).expect("it is readable");
        assert!(then.is_some_and(|then| then.time() == entry.time() && then.version() >= entry.version()));
    }
    let before = Timestamp::from_millis(alice.opened.millis() - 1);
    assert_eq!(
        history.entry_at(alice.number, alice.chain.newest(), alice.version, before).expect("it is readable"),
        None
    );
}
