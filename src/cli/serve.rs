//! `teller serve`.

use std::error::Error;

use crate::config::{LogArgs, ServeArgs, ServeSettings};
use crate::server;

const LONG_ABOUT: &str = "\
Serves a ledger over HTTP until SIGTERM, Ctrl-C or SIGHUP. The ledger is in DATA-DIR/DB-NAME and is created if there is \
none.

Needs a directory that it may write to, on a file system whose fdatasync is honest, and that no other server \
uses. A flag wins over its environment variable; an empty variable counts as not set.

On SIGTERM, Ctrl-C or SIGHUP, which a terminal sends when it is closed, it accepts no more connections, finishes the \
requests that it has, takes a snapshot and exits; a second signal ends it at once. Under nohup it ignores SIGHUP. \
SIGUSR1 takes a snapshot and goes on. Being killed at any moment loses nothing that was acknowledged.";

const AFTER_HELP: &str = "\
Examples:
  teller serve
  teller serve --port 8080 --db-name branch-7 --max-overdraft 0
  MZ_PORT=8080 MZ_LOG=warn teller serve

Then: curl http://127.0.0.1:3000/readyz

Exit codes: 0 ended by a signal, with everything stored; 1 could not start, or not take the last snapshot, or \
found damage when it ended (told on stderr); 2 wrong usage; 74 the log failed or hung (start it again: nothing \
acknowledged is lost); 130 ended by a second signal; 134 (SIGABRT) it found a mistake of its own, which it tells on \
stderr, and ended at once (start it again: nothing acknowledged is lost).";

/// Serve a ledger over HTTP
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) serve: ServeArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Serves, or only makes the ledger.
pub(super) fn run(settings: &ServeSettings) -> Result<(), Box<dyn Error>> {
    if settings.bootstrap {
        return Ok(server::bootstrap(settings)?);
    }
    Ok(server::run(settings)?)
}
