//! What the operator asks for by signals: SIGTERM and Ctrl-C end the server, SIGUSR1 has it take a snapshot.
//!
//! Heard from the moment [`Wishes`] is made, so one that comes during the start is not lost. What is to be
//! done about it is the caller's.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGTERM or SIGINT: end.
    End,
    /// SIGUSR1: take a snapshot.
    Snapshot,
}

/// The signals that the server hears.
pub(super) struct Wishes {
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
}

impl Wishes {
    pub(super) fn new() -> Result<Wishes, ServerError> {
        let listen = |kind| signal(kind).map_err(ServerError::system("listen to signals"));
        Ok(Wishes {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::End,
            _ = self.terminate.recv() => Wish::End,
            _ = self.user.recv() => Wish::Snapshot,
        }
    }

    pub(super) async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}
