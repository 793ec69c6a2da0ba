//! What the operator asks for by signals: SIGTERM, Ctrl-C and SIGHUP end the server, SIGUSR1 has it take a snapshot.
//!
//! Heard from the moment [`Wishes`] is made, so one that comes during the start is not lost. What is to be
//! done about it is the caller's.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;
use crate::signals::EndSignals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGTERM, SIGINT or SIGHUP: end.
    End,
    /// SIGUSR1: take a snapshot.
    Snapshot,
}

/// The signals that the server hears.
pub(super) struct Wishes {
    end: EndSignals,
    user: Signal,
}

impl Wishes {
    pub(super) fn new() -> Result<Wishes, ServerError> {
        let refused = ServerError::system("listen to signals");
        let listen = || Ok(Wishes { end: EndSignals::listen()?, user: signal(SignalKind::user_defined1())? });
        listen().map_err(refused)
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.end.next() => Wish::End,
            _ = self.user.recv() => Wish::Snapshot,
        }
    }

    pub(super) async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}
