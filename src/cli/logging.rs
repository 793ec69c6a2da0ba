//! Sets up the log: stderr, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogSettings};

/// Starts the process's log. A second call changes nothing.
pub(super) fn start(settings: &LogSettings) {
    let filter = EnvFilter::new(&settings.filter);
    let log = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let started = match settings.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    // The only error is that there is a log already.
    let _ = started;
}
