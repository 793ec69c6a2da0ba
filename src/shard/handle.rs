//! The way to a shard: a bounded inbox and a reply to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use super::batch::{Reply, Request};
use crate::ledger::Sequence;

/// Sends requests to one shard. Clones go to the same shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    pub(super) inbox: Sender<Message>,
    pub(super) status: Arc<ShardStatus>,
}

/// What comes into a shard's inbox.
#[derive(Debug)]
pub(super) enum Message {
    /// A request and where its reply goes.
    Request(Request, oneshot::Sender<Reply>),
    /// End the journal's current generation.
    Roll,
    /// Finish what is in the inbox and end.
    Stop,
}

/// What a shard's threads let others see.
#[derive(Debug, Default)]
pub(super) struct ShardStatus {
    pub(super) durable: AtomicU64,
    pub(super) disk_full: AtomicBool,
    /// When the commit under way began, in milliseconds of the committer's own clock plus one; 0 for none.
    pub(super) commit_began: AtomicU64,
}

/// Why a shard gives no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Its inbox is full. Nothing was done.
    #[error("the shard's inbox is full")]
    Overloaded,
    /// It is ending. What was asked may or may not have been done.
    #[error("the shard has ended")]
    Ended,
}

impl ShardHandle {
    /// Asks the shard and waits for the reply.
    ///
    /// # Errors
    /// [`ShardError::Overloaded`] at once if the inbox is full; [`ShardError::Ended`] if the shard ends first.
    pub async fn ask(&self, request: Request) -> Result<Reply, ShardError> {
        let (reply_to, reply) = oneshot::channel();
        self.inbox.try_send(Message::Request(request, reply_to)).map_err(|error| match error {
            TrySendError::Full(_) => ShardError::Overloaded,
            TrySendError::Disconnected(_) => ShardError::Ended,
        })?;
        reply.await.map_err(|_| ShardError::Ended)
    }

    /// The last event that is known to be durable.
    pub fn durable(&self) -> Sequence {
        Sequence::new(self.status.durable.load(Ordering::Acquire)).unwrap_or(Sequence::NONE)
    }

    /// Tells the shard whether the disk has no room; then it refuses whatever would be recorded. Returns what
    /// it was told before.
    pub fn set_disk_full(&self, full: bool) -> bool {
        self.status.disk_full.swap(full, Ordering::Relaxed)
    }

    /// Asks the shard to end its journal's current generation, so that it can be compacted. Waits for a place in the
    /// inbox, not for the end; the keeper of the log is told of that.
    pub fn roll(&self) {
        // A shard that has ended has nothing to roll.
        let _ = self.inbox.send(Message::Roll);
    }
}
