//! The watchdog: looks once a second whether a commit hangs, and ends the process when one does.
//!
//! It does nothing that could hang with the commit, and waits for nobody who does: it reads how long each
//! commit has taken, and what it has to tell goes through [`last_words`](super::last_words). That is why the
//! housekeeper, which asks the disk for its free space, is another thread.

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
    while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        for (index, watch) in watches.iter().enumerate() {
            let Some(time) = watch.busy_for().filter(|time| *time > COMMIT_TIME_LONG) else {
                continue;
            };
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
            if time > COMMIT_TIME_MAX {
                end_without_the_log(move || {
                    tracing::error!(shard = index, limit = ?COMMIT_TIME_MAX, "a commit hangs; ending the process");
                });
            }
        }
    }
}
