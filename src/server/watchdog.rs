//! The watchdog: looks once a second whether a commit hangs, and ends the process when one does.
//!
//! What counts is how often it has seen the same commit, not what the clock says: while the whole process is stopped, by
//! a signal, a debugger or a container that is paused, time passes, and no disk hangs.
//!
//! It does nothing that could hang with the commit, and waits for nobody who does: it reads which commit is under way, and
//! what it has to tell goes through [`last_words`](super::last_words). That is why the housekeeper, which asks the disk for
//! its free space, is another thread.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::ServerError;
use super::background::{Background, HOUSEKEEPING_INTERVAL};
use super::last_words::{end_without_the_log, tell};
use crate::shard::commit::{COMMIT_TIME_MAX, CommitWatch};
use crate::storage::journal::wake_spare_threads;

/// After what time a commit is suspected to hang.
const COMMIT_TIME_LONG: Duration = Duration::from_secs(1);

/// Starts the watchdog of these commits.
pub(super) fn start(watches: Vec<CommitWatch>) -> Result<Background, ServerError> {
    Background::start("watchdog", move |stop| watch(&watches, stop))
}

/// Ends the process when a commit hangs. Before, it has the journal try with all its threads.
fn watch(watches: &[CommitWatch], stop: &Receiver<()>) {
    let mut seen: Vec<Seen> = watches.iter().map(|_| Seen::default()).collect();
    while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        for (index, (watch, seen)) in watches.iter().zip(&mut seen).enumerate() {
            let time = seen.once_more(watch.under_way());
            if time < COMMIT_TIME_LONG {
                continue;
            }
            let woken = wake_spare_threads();
            if woken > 0 {
                tell(move || {
                    tracing::warn!(
                        shard = index,
                        woken,
                        "a commit takes long: the journal gets all its threads"
                    );
                });
            }
            if time >= COMMIT_TIME_MAX {
                end_without_the_log(move || {
                    tracing::error!(shard = index, limit = ?COMMIT_TIME_MAX, "a commit hangs; ending the process");
                });
            }
        }
    }
}

/// A commit, and how often it has been looked at since it was first seen.
#[derive(Default)]
struct Seen {
    commit: Option<u64>,
    again: u32,
}

impl Seen {
    /// Sees what is under way now. For how long, at least, that has been so.
    fn once_more(&mut self, commit: Option<u64>) -> Duration {
        let again = if commit.is_some() && commit == self.commit { self.again + 1 } else { 0 };
        *self = Seen { commit, again };
        HOUSEKEEPING_INTERVAL * again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that had been stopped for ten seconds during a commit ended itself when it was to go on.
    #[test]
    fn a_commit_hangs_when_it_is_seen_again_and_again() {
        let mut seen = Seen::default();
        let mut times = |commits: &[Option<u64>]| -> Vec<u64> {
            commits.iter().map(|commit| seen.once_more(*commit).as_secs()).collect()
        };
        assert_eq!(times(&[None, None, Some(7), Some(7), Some(7)]), [0, 0, 0, 1, 2]);
        assert_eq!(times(&[Some(90_007), Some(90_007), None, Some(90_007)]), [0, 1, 0, 0]);
        assert_eq!(times(&[Some(90_007); 10]).last(), Some(&COMMIT_TIME_MAX.as_secs()));
    }
}
