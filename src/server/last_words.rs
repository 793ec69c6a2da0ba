//! How the process ends when its log is not to be trusted: with a word to whoever reads the process's
//! output if that can be had, and else without one.
//!
//! Nothing here waits without a limit: the words are written from a thread of their own, which is left behind
//! when it takes too long. What is worth a word is the caller's to know.

use std::time::Duration;
use std::{process, thread};

use crossbeam_channel::bounded;

use crate::ledger::ShardId;
use crate::storage::StorageError;

/// The exit code after the log failed, of sysexits' EX_IOERR: restart, and recovery tells what is on the disk.
const EXIT_LOG_FAILURE: i32 = 74;
/// How long the process waits for the last lines of its log before it ends. Whoever collects them may hang, with this
/// very disk maybe, and clients wait for an answer that the next process can give.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);

/// The log is in an unknown state and the ledger ahead of it: there is nothing to go on with (P1).
pub(super) fn on_log_failure(shard: ShardId, error: &StorageError) {
    let error = error.to_string();
    end_without_the_log(move || {
        tracing::error!(shard = shard.index(), %error, "the log failed; ending the process. Restart to recover");
    });
}

/// Ends the process because its journal is not to be trusted, whether the reason can be told or not.
pub(super) fn end_without_the_log(words: impl FnOnce() + Send + 'static) -> ! {
    tell(words);
    process::exit(EXIT_LOG_FAILURE);
}

/// Writes something into the process's log, from a thread of its own, and waits for that, but not for ever.
pub(super) fn tell(words: impl FnOnce() + Send + 'static) {
    let (told, heard) = bounded::<()>(0);
    let teller = move || {
        words();
        drop(told);
    };
    // Without a thread it remains untold.
    if thread::Builder::new().name("last words".into()).spawn(teller).is_ok() {
        let _ = heard.recv_timeout(LAST_WORDS_TIME_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::samples::TIME_MAX;

    /// With a collector of the log that hung the watchdog hung, too, and the process it was to end lived on.
    #[test]
    fn what_cannot_be_told_keeps_nobody() {
        let (told, heard) = bounded(1);
        tell(move || told.send(()).expect("it listens"));
        assert_eq!(heard.try_recv(), Ok(()), "what can be told is, before it returns");
        let (_collector, stuck) = bounded::<()>(0);
        let (returned, returns) = bounded(1);
        thread::spawn(move || {
            tell(move || {
                let _ = stuck.recv();
            });
            let _ = returned.send(());
        });
        returns.recv_timeout(TIME_MAX).expect("it does not wait for ever");
    }
}
