//! All shards recovered, before any of them is asked.
//!
//! As many at a time as there are cores; then what was in flight between them is settled, so no account
//! answers before both sides of a transfer know of it. A start that fails loses nothing, and the next one finds
//! what it found, or less in flight if it failed while that was written. What recovery makes of a log is told in
//! `storage/log.rs`.

use std::thread;

use super::ServerError;
use crate::clock;
use crate::ledger::ShardId;
use crate::progress::Progress;
use crate::storage::StorageError;
use crate::storage::in_flight;
use crate::storage::journal::JournalOptions;
use crate::storage::log::{Recovered, ShardFiles, recover};
use crate::storage::manifest::DataDirectory;

/// How far the clock may be behind the ledger's last event without a word: what setting a clock right moves it.
const CLOCK_BEHIND_MS_MAX: u64 = 60_000;

/// Recovers all shards, as many at a time as there are cores.
pub(super) fn recover_all(
    directory: &DataDirectory,
    options: &JournalOptions,
) -> Result<Vec<(ShardId, Recovered)>, ServerError> {
    let progress = Progress::new("recovering", "events", None);
    let mut recovered = Vec::with_capacity(directory.shards());
    let settled = recover_each(directory, options, &progress, &mut recovered)
        .and_then(|()| settle_in_flight(&mut recovered));
    progress.finish();
    let settled = match settled {
        Ok(settled) => settled,
        Err(error) => {
            abandon(recovered);
            return Err(error.into());
        }
    };
    if settled > 0 {
        tracing::info!(settled, "applied what one shard had decided and another had not yet applied");
    }
    let newest = recovered.iter().map(|(_, shard)| shard.ledger.time().millis()).max().unwrap_or_default();
    let ahead_ms = newest.saturating_sub(clock::now().millis());
    if ahead_ms > CLOCK_BEHIND_MS_MAX {
        tracing::warn!(
            ahead_ms,
            "the ledger's last event is later than the clock: its time stands still until then"
        );
    }
    let accounts: usize = recovered.iter().map(|(_, shard)| shard.ledger.accounts().len()).sum();
    let elapsed_ms = progress.elapsed().as_millis() as u64;
    tracing::info!(accounts, replayed = progress.done(), elapsed_ms, "recovered");
    Ok(recovered)
}

/// Adds the shards that can be recovered, until one cannot.
fn recover_each(
    directory: &DataDirectory,
    options: &JournalOptions,
    progress: &Progress,
    recovered: &mut Vec<(ShardId, Recovered)>,
) -> Result<(), StorageError> {
    let parallelism = thread::available_parallelism().map_or(1, usize::from);
    for shards in ShardFiles::of_all(directory).chunks(parallelism) {
        let results: Vec<Result<Recovered, StorageError>> = thread::scope(|scope| {
            let recover = |files| scope.spawn(move || recover(files, options.clone(), progress));
            let threads: Vec<_> = shards.iter().map(recover).collect();
            threads.into_iter().map(|thread| thread.join().expect("recovery does not panic")).collect()
        });
        let mut failed = Ok(());
        for (files, result) in shards.iter().zip(results) {
            match result {
                Ok(shard) => recovered.push((files.shard, shard)),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed?;
    }
    Ok(())
}

/// Leaves the shards of a start that has failed as they were found, or every attempt would leave each a generation that
/// the next ones have to read.
fn abandon(recovered: Vec<(ShardId, Recovered)>) {
    for (id, shard) in recovered {
        if let Err(error) = shard.abandon() {
            tracing::warn!(shard = id.index(), %error, "an empty generation is left in the journal");
        }
    }
}

/// Finishes what was in flight between shards when the last process ended: before any account answers.
fn settle_in_flight(recovered: &mut [(ShardId, Recovered)]) -> Result<usize, StorageError> {
    let mut sides: Vec<_> = recovered.iter_mut().map(|(_, shard)| shard.side()).collect();
    in_flight::settle(&mut sides, clock::now())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::storage::manifest::Birth;

    /// Each attempt to start a ledger with a damaged shard left one more empty generation in every other shard, and cost the
    /// next attempts the time to read it.
    #[test]
    fn a_start_that_fails_leaves_the_other_shards_as_they_were() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("ledger");
        let birth = Birth { shards: 2, ledger: Uuid::nil(), created: clock::now() };
        let directory = DataDirectory::open(&path, None, &birth).expect("a directory");
        let journal = |shard: usize| path.join(format!("shard-{shard:04}/journal"));
        std::fs::create_dir_all(journal(1).join("odd")).expect("created");
        for _ in 0..3 {
            let error = recover_all(&directory, &JournalOptions::default()).err().expect("it fails");
            assert!(error.to_string().contains("odd"), "{error}");
            assert_eq!(std::fs::read_dir(journal(0)).expect("read").count(), 0);
        }
        std::fs::remove_dir(journal(1).join("odd")).expect("removed");
        recover_all(&directory, &JournalOptions::default()).expect("it starts");
    }
}
