//! `teller verify`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use crate::config::{LedgerLocation, LocationArgs, LogArgs};
use crate::ledger::{Currency, Total};
use crate::progress::Progress;
use crate::storage::log::ShardFiles;
use crate::storage::manifest::DataDirectory;
use crate::storage::verify::{VerifiedLedger, verify_ledger};

const LONG_ABOUT: &str = "\
Reads a whole ledger from its files and proves it: every checksum, every link of the hash chains, that the \
sequences have no gap, that replaying the history from its first event gives every balance, that what each shard \
applied for another is what that one decided, and that all accounts and the outside world sum to zero in each \
currency.

It changes nothing in the ledger's directory, which may be read-only (but a copy that lacks the file `lock` gets one). A \
working copy of the journal is made in the system's directory for temporary files, or in the one that TMPDIR names, \
which needs free space for as much as a shard's journal has.

A crash can leave decisions in flight between shards. They are counted, and have to fit the shards that they are for; \
the next start of the server applies them.

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
    let directory = DataDirectory::open_existing(&location.directory())?;
    let progress = Progress::new("verifying", "events", None);
    let proven = verify_ledger(&ShardFiles::of_all(&directory), &progress)?;
    progress.finish();
    let (path, summary) = (directory.path().display(), Summary::new(&proven));
    Ok(super::print(&format!("{path} is proven: {summary}\n"))?)
}

/// What was proven of all shards.
#[derive(Default)]
struct Summary {
    shards: u64,
    accounts: u64,
    events: u64,
    records: u64,
    snapshots: u64,
    totals: BTreeMap<Currency, Total>,
    in_flight: u64,
}

impl Summary {
    fn new(proven: &VerifiedLedger) -> Summary {
        let mut summary = Summary { in_flight: proven.in_flight, ..Summary::default() };
        for shard in &proven.shards {
            summary.shards += 1;
            summary.accounts += shard.accounts;
            summary.events += shard.last.get();
            summary.records += shard.records;
            summary.snapshots += shard.snapshots;
            for (currency, total) in &shard.totals {
                summary.totals.entry(*currency).or_default().add_total(*total);
            }
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { shards, accounts, events, records, snapshots, totals, in_flight } = self;
        let [shards, accounts, events, records, snapshots] = [
            (shards, "shard"),
            (accounts, "account"),
            (events, "event"),
            (records, "record"),
            (snapshots, "snapshot"),
        ]
        .map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }));
        write!(f, "{shards}, {accounts}, {events} in {records}, {snapshots}")?;
        for (currency, total) in totals {
            write!(f, "; {currency} sums to {}", total.to_text(*currency))?;
        }
        if *in_flight > 0 {
            write!(f, "; {in_flight} parts of decisions are in flight, which the next start applies")?;
        }
        Ok(())
    }
}
