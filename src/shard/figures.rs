//! What a shard lets those see who watch over the service; `GET /metrics` prints it.
//!
//! What always holds:
//!
//! - it is counted where it happens, by the thread that does it, into numbers that anybody may read: nobody is asked, and
//!   nobody waits;
//! - a request counts nothing here but itself in the inbox; a batch says how many keys there are; a commit counts three
//!   numbers;
//! - the counts begin with the process; how many events there are is the log's own count, from its first event on.
//!
//! Left out: what requests come to. HTTP counts those, by route.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::ledger::Sequence;

/// Upper ends of the classes of commits, in microseconds; above the last one is one more. A disk that keeps up takes 0.1
/// to 1 ms; at ten seconds a commit counts as failed.
pub const COMMIT_MICROS_ENDS: [u64; 9] =
    [100, 250, 500, 1_000, 2_500, 10_000, 100_000, 1_000_000, 10_000_000];

/// How many classes these are.
pub const COMMIT_CLASSES: usize = COMMIT_MICROS_ENDS.len() + 1;

/// A shard as it was at some moment, each number for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFigures {
    /// How many requests are in its inbox.
    pub requests_waiting: usize,
    /// The last event that is known to be durable, which is how many there are.
    pub durable: Sequence,
    /// Whether it refuses changes for want of room, on the disk or for further generations.
    pub refuses_changes: bool,
    /// How many sealed generations of its journal waited to be compacted, a second ago at most.
    pub generations_waiting: usize,
    /// When its newest snapshot was written, as of a second ago at most, in seconds since the Unix epoch; 0 before the first.
    pub snapshot_secs: u64,
    /// How many idempotency keys it remembers, with those that have expired and that no event has forgotten yet.
    pub keys: usize,
    /// How many it remembers at most.
    pub keys_max: usize,
    /// What was made durable.
    pub commits: CommitFigures,
}

/// The group commits that have ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitFigures {
    /// How many took how long, to the end of the sync. With several shards, it begins when what others have to sync first
    /// is durable.
    pub classes: [u64; COMMIT_CLASSES],
    /// How long they took together, in microseconds.
    pub micros: u64,
    /// How many bytes of records were in them.
    pub bytes: u64,
}

/// Counts commits.
#[derive(Debug, Default)]
pub(super) struct CommitCounts {
    classes: [AtomicU64; COMMIT_CLASSES],
    micros: AtomicU64,
    bytes: AtomicU64,
}

impl CommitCounts {
    pub(super) fn add(&self, took: Duration, bytes: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = COMMIT_MICROS_ENDS.partition_point(|end| *end < micros);
        self.classes[class].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn figures(&self) -> CommitFigures {
        CommitFigures {
            classes: std::array::from_fn(|class| self.classes[class].load(Relaxed)),
            micros: self.micros.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_in_the_class_that_ends_at_or_above_its_time() {
        let counts = CommitCounts::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            counts.add(Duration::from_micros(micros), 7);
        }
        let figures = counts.figures();
        assert_eq!(figures.classes, [2, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((figures.micros, figures.bytes), (20_000_202, 35));
    }
}
