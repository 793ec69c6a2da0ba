//! `teller verify`.

use std::error::Error;

use crate::config::{LedgerLocation, LocationArgs, LogArgs};

const LONG_ABOUT: &str = "\
Reads a whole ledger from its files and proves it: every checksum, every link of the hash chains, that the \
sequences have no gap, that replaying the history from its first event gives every balance, and that all \
accounts and the outside world sum to zero in each currency. It changes nothing.

Needs the ledger's directory, and that no server uses it: end the server first.";

const AFTER_HELP: &str = "\
Examples:
  teller verify
  teller verify --data-dir /srv/backup --db-name branch-7

Exit codes: 0 everything is proven; 1 something is wrong (the file, the position and the next step are told on \
stderr), or the ledger is in use or not there; 2 wrong usage.";

/// Prove a ledger's files, offline
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) location: LocationArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Proves a ledger.
pub(super) fn run(location: &LedgerLocation) -> Result<(), Box<dyn Error>> {
    Err(format!("cannot verify {} yet", location.directory().display()).into())
}
