//! The proof, offline, that a shard's files are what the service wrote (P9).
//!
//! The history is replayed from its first record. On the way, every checksum, every link of the chain, every
//! sequence, every entry's balance, version and links are checked, and that the shard sums to zero; where the
//! replay passes a snapshot, the snapshot has to hold that very state; and the log has to reach the watermark.
//! Nothing is changed.

use std::collections::BTreeMap;

use super::codec::Malformed;
use super::log::{ShardFiles, StoredLog, replay};
use super::{RESTORE_BACKUP, StorageError, Watermark, snapshot};
use crate::ledger::{Currency, Ledger, Sequence, Total};
use crate::progress::Progress;

/// What was proven of a shard.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its accounts, closed ones too.
    pub accounts: u64,
    /// Its last event.
    pub last: Sequence,
    /// How many records its log has.
    pub records: u64,
    /// How many snapshots agree with the log.
    pub snapshots: u64,
    /// Its accounts and `@world` added up, by currency: zero.
    pub totals: BTreeMap<Currency, Total>,
}

/// Proves a shard.
///
/// # Errors
/// The first thing that is not as it should be, with its place.
pub fn verify(files: &ShardFiles, progress: &Progress) -> Result<Verified, StorageError> {
    let stored = StoredLog::open(files)?;
    stored.verify_archive(u64::MAX)?;
    let acknowledged = Watermark::inspect(&files.watermark, files.ledger, files.shard)?;
    let mut snapshots = snapshot::list(&files.snapshots)?.into_iter().peekable();
    let mut ledger = Ledger::new(files.shard);
    let mut records = 0;
    let mut compared = 0;
    let mut acknowledged_found = acknowledged == files.genesis();
    let mut wrong_snapshot = None;
    let end = stored.walk(files.genesis(), &mut |record, after| {
        replay(&mut ledger, record)?;
        records += 1;
        progress.add(after.last.get() - record.first().get() + 1);
        acknowledged_found |= acknowledged == *after;
        if let Some((_, path)) = snapshots.next_if(|(at, _)| *at <= after.last) {
            let same = snapshot::read(&path, files.ledger, files.shard)
                .map(|(state, position)| position == *after && state.to_parts() == ledger.to_parts());
            match same {
                Ok(true) => compared += 1,
                Ok(false) => wrong_snapshot = Some(differs(&path, after.last)),
                Err(error) => wrong_snapshot = Some(error),
            }
            if wrong_snapshot.is_some() {
                return Err(Malformed { offset: 0, what: "a snapshot is wrong".into() });
            }
        }
        Ok(())
    });
    if let Some(error) = wrong_snapshot {
        return Err(error);
    }
    let end = end?;
    if let Some((at, path)) = snapshots.next() {
        return Err(differs(&path, at));
    }
    if !acknowledged_found {
        return Err(StorageError::Corrupt {
            path: files.journal.clone(),
            position: format!("sequence {}", end.last.next()),
            what: format!("the log ends, but up to sequence {} it was acknowledged", acknowledged.last),
            next_step: RESTORE_BACKUP,
        });
    }
    let totals = ledger.totals();
    if let Some((currency, total)) = totals.iter().find(|(_, total)| !total.is_zero()) {
        return Err(StorageError::Corrupt {
            path: files.journal.clone(),
            position: format!("sequence {}", end.last),
            what: format!("{currency} does not sum to zero but to {}", total.to_text(*currency)),
            next_step: RESTORE_BACKUP,
        });
    }
    Ok(Verified {
        accounts: ledger.accounts().len() as u64,
        last: end.last,
        records,
        snapshots: compared,
        totals,
    })
}

fn differs(path: &std::path::Path, at: Sequence) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: format!("sequence {at}"),
        what: "it is not the state that the log leads to".into(),
        next_step: snapshot::FALL_BACK,
    }
}
