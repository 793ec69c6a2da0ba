//! A small ledger for the tests of what keeps house, and the patience to wait for it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::recovery::recover_all;
use crate::clock;
use crate::ledger::{AccountName, Amount, Command, Currency, IdempotencyKey, KeyDigest, OverdraftDefault};
use crate::shard::batch::ShardRules;
use crate::shard::request::{Reply, Request};
use crate::shard::worker::{Network, ShardThreads};
use crate::storage::journal::JournalOptions;
use crate::storage::log::{Recovered, ShardJournal, ShardLog};
use crate::storage::manifest::{Birth, DataDirectory};

/// How long anything may take before it counts as hanging.
pub(super) const TIME_MAX: Duration = Duration::from_secs(30);

#[track_caller]
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TIME_MAX;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {TIME_MAX:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A ledger of one shard, in a directory that goes with it.
pub(super) fn start(
    options: &JournalOptions,
) -> (tempfile::TempDir, DataDirectory, ShardThreads<ShardJournal>, Arc<ShardLog>) {
    let temporary = tempfile::tempdir().expect("a directory");
    let birth = Birth { shards: 1, ledger: Uuid::nil(), created: clock::now() };
    let directory = DataDirectory::open(&temporary.path().join("ledger"), None, &birth).expect("a directory");
    let (id, Recovered { ledger, journal, log }) =
        recover_all(&directory, options).expect("recovered").pop().expect("one shard");
    let overdraft = OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO };
    let rules = ShardRules { overdraft, key_retention_ms: 24 * 60 * 60 * 1000, keys_max: 10 };
    let mut network = Network::new(1);
    let threads = ShardThreads::start(
        id,
        ledger,
        rules,
        journal,
        clock::now,
        Arc::new(|_, error| panic!("the log failed: {error}")),
        &mut network,
    );
    (temporary, directory, threads, log)
}

/// Opens an account with an idempotency key.
pub(super) fn open_keyed(threads: &ShardThreads<ShardJournal>, key: u32) -> Reply {
    let name = AccountName::parse(&format!("k{key}")).expect("a name");
    let command = Command::Open { name, currency: Currency::USD, overdraft_limit: None };
    let digest = KeyDigest(u128::from(key).to_le_bytes());
    let key = Some(IdempotencyKey { digest, fingerprint: [0; 16] });
    ask(threads, Request::Execute { command, key, request_id: Box::default() })
}

fn ask(threads: &ShardThreads<ShardJournal>, request: Request) -> Reply {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(threads.handle().ask(request)).expect("a reply")
}

/// Has the shard record something, and seal it.
pub(super) fn seal_one(threads: &ShardThreads<ShardJournal>, log: &ShardLog) {
    let before = log.sealed_generations();
    let name = AccountName::parse(&format!("a{before}")).expect("a name");
    let command = Command::Open { name, currency: Currency::USD, overdraft_limit: None };
    ask(threads, Request::Execute { command, key: None, request_id: Box::default() });
    threads.handle().roll();
    wait_until("one more is sealed", || log.sealed_generations() != before);
}
