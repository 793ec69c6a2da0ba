//! Sets up the log: stderr, as text or JSON; and tells there, in the same way, the error by which a run ends.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::prelude::*;
use tracing_subscriber::{fmt, registry};

use crate::config::{LogFormat, LogSettings};

/// Whether the log is one JSON object a line.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Starts the process's log. A second call changes nothing.
pub(super) fn start(settings: &LogSettings) {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let log = registry().with(settings.filter.clone());
    let started = match settings.format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    // The only error is that there is a log already.
    if started.is_ok() {
        IS_JSON.store(settings.format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Tells the error by which the run ends, whatever is left out of the log: to whoever reads stderr, as the line that
/// people expect of a program, or as one more of a log in JSON.
pub fn tell(error: &str) {
    if IS_JSON.load(Ordering::Relaxed) {
        let lines = fmt::layer().with_writer(io::stderr).json().flatten_event(true);
        let told = || tracing::error!(target: "teller", "{error}");
        tracing::subscriber::with_default(registry().with(lines), told);
    } else {
        // The exit code says it where stderr takes nothing any more; `eprintln` would panic.
        let _ = writeln!(io::stderr(), "teller: {error}");
    }
}
