//! Threads that work in the background, beside the shards' own.
//!
//! Each has a name, a receiver that is disconnected when it shall end, and is waited for then. What they keep
//! house for is the list of [`Kept`] that they share: a shard's handle and its log, never its state.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ServerError;
use crate::shard::handle::ShardHandle;
use crate::storage::log::ShardLog;

/// How often housekeeper and watchdog look around: rarely enough to cost nothing on an idle machine.
pub(super) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// What the background sees of a shard.
pub(super) type Kept = (ShardHandle, Arc<ShardLog>);

/// A thread that works until it is told to stop.
pub(super) struct Background {
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Background {
    /// Starts a thread; its receiver is disconnected when it shall end.
    pub(super) fn start(
        name: &'static str,
        work: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> Result<Background, ServerError> {
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&stopped))
            .map_err(ServerError::system("start a thread"))?;
        Ok(Background { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("background work does not panic");
    }
}
