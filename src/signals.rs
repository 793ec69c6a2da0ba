//! The signals by which a process is asked to end: Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which a terminal sends when it is
//! closed.
//!
//! A SIGHUP that was ignored when the process began stays ignored: that is what `nohup` is for. What is to be done about
//! a signal is the caller's.

use std::{fs, io, mem};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
}

impl EndSignal {
    /// The exit code by which a shell tells that this signal ended a process: 128 and its number.
    pub fn exit_code(self) -> u8 {
        let kind = match self {
            EndSignal::Interrupt => SignalKind::interrupt(),
            EndSignal::Terminate => SignalKind::terminate(),
            EndSignal::Hangup => SignalKind::hangup(),
        };
        128 + u8::try_from(kind.as_raw_value()).expect("these three are 15 at most")
    }
}

/// Hears them, from the moment it is made; from then on none ends the process by itself.
pub struct EndSignals {
    /// Whether any was heard.
    heard: bool,
    interrupt: Signal,
    terminate: Signal,
    /// None if it is ignored.
    hangup: Option<Signal>,
}

impl EndSignals {
    /// Begins to listen, within a runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn listen() -> io::Result<EndSignals> {
        Ok(EndSignals {
            heard: false,
            // Asked before any handler is there that would replace it.
            hangup: if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one. A SIGHUP behind another one says nothing new: a shell sends one to its jobs when the terminal
    /// is closed, and then the system does.
    pub async fn next(&mut self) -> EndSignal {
        loop {
            let signal = self.any().await;
            if !mem::replace(&mut self.heard, true) || signal != EndSignal::Hangup {
                return signal;
            }
        }
    }

    async fn any(&mut self) -> EndSignal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
            _ = hangup => EndSignal::Hangup,
        }
    }
}

/// Whether the system says that this process ignores SIGHUP. Where it does not say, it does not.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    ignored & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0
}
