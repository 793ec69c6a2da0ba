//! Sets up the log: stderr, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::prelude::*;
use tracing_subscriber::{fmt, registry};

use crate::config::{LogFormat, LogSettings};

/// Starts the process's log. A second call changes nothing.
pub(super) fn start(settings: &LogSettings) {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let log = registry().with(settings.filter.clone());
    let started = match settings.format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    // The only error is that there is a log already.
    let _ = started;
}
