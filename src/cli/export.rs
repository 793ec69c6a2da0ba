//! `teller export`: a ledger's files as text on stdout.
//!
//! `rows` prints tables, CSV or JSON lines; `plain_text` prints the books of the bank for programs of plain-text
//! accounting. Memory grows with the number of accounts, and with what else a state has: keys that are remembered, pending
//! holds, references. It never grows with the length of history.

mod plain_text;
mod rows;

use std::error::Error;
use std::io::{self, BufWriter};
use std::ops::ControlFlow;

use clap::ValueEnum;

use super::StdoutError;
use crate::config::{LedgerLocation, LocationArgs, LogArgs};
use crate::ledger::{AccountName, Event, Sequence};
use crate::progress::Progress;
use crate::router::Router;
use crate::storage::StorageError;
use crate::storage::codec::Malformed;
use crate::storage::log::{ShardFiles, StoredLog};
use crate::storage::manifest::DataDirectory;
use crate::storage::verify::prove_in_flight;
use rows::Rows;

const LONG_ABOUT: &str = "\
Prints a ledger from its files to stdout: all transactions, one account's, or the accounts with their balances. \
It changes nothing in the ledger's directory, as `teller help verify` says, and needs as much free space elsewhere.

The CSV of transactions has the columns that `teller import` reads (id, account, type, amount, currency, \
reference), so it moves balances and histories to another server or to another number of shards: import it with an \
--overdraft-limit that covers the lowest balance that any account ever had. All accounts keep that limit as their own: \
before clients come, set each back with PATCH /v2/accounts/{account} and {\"overdraft_limit\": ...}, to what --what \
accounts of the old ledger says, or null for the service's. A transfer arrives as a withdrawal and a deposit. It does not have accounts without a transaction, references of openings, closings, freezes, pending holds, \
links, metadata, limits of accounts' own, and idempotency keys: a request that the old ledger has executed is executed \
again when it is repeated there. Frozen accounts can pay there: freeze them again before clients come; \
--what accounts says which they are (frozen), and what is held of each balance (held).

The formats hledger and beancount are journals for these two programs of plain-text accounting, with the transactions \
in order of time and the final balances as assertions, so that `hledger check` and `bean-check` prove them. They are \
the bank's books: an account's money is owed to its customer, a liability, and what came in from outside, from \
@world, is an asset, Assets:World. Credits are negative there, so every amount has the opposite sign of teller's: an \
account that holds 10.00 stands at -10.00, and one that stands above zero is overdrawn. `hledger balance --invert` \
turns the signs round. Names are spelled so that each program takes them, no two names alike; the true one stands \
beside it (a tag or metadata called name, next to the account's id).

Needs the ledger's directory, and that no server uses it: end the server first. If that was killed, decisions may be \
in flight between shards: nothing is printed then, as money would be missing; the next start applies them.";

const AFTER_HELP: &str = "\
Examples:
  teller export > transactions.csv
  teller export --account alice --format ndjson
  teller export --what accounts --data-dir /srv/backup
  teller export --format hledger > bank.journal && hledger -f bank.journal check --strict
  teller export --format beancount > bank.beancount && bean-check bank.beancount

Exit codes: 0 everything is printed; 1 something is wrong with the ledger, or it is in use or not there, or it \
has no such account (told on stderr); 2 wrong usage.";

/// Print a ledger's accounts or transactions, offline
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    pub(super) what: What,

    /// Print only this account's transactions, oldest first. A closed account has its history too. In the plain-text
    /// formats the other sides of its transactions appear as well.
    #[arg(long, value_name = "NAME", value_parser = parse_account)]
    pub(super) account: Option<AccountName>,

    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,

    #[command(flatten)]
    pub(super) location: LocationArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// What can be printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Every transaction, a line for each account in it; an account's stand in their order
    #[default]
    Transactions,
    /// Every account with its balance, and whether it is frozen; closed ones too
    Accounts,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values with a line of names first
    #[default]
    Csv,
    /// One JSON object a line
    Ndjson,
    /// A journal for hledger: transactions and final balances
    Hledger,
    /// A journal for Beancount: transactions and final balances
    Beancount,
}

impl Args {
    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match (self.what, &self.account, self.format) {
            (What::Accounts, Some(_), _) => {
                Err("--account NAME chooses transactions: it does not go with --what accounts")
            }
            (What::Accounts, None, Format::Hledger | Format::Beancount) => {
                Err("--format hledger and beancount print transactions: they do not go with --what accounts")
            }
            _ => Ok(()),
        }
    }
}

fn parse_account(text: &str) -> Result<AccountName, String> {
    AccountName::parse(text).map_err(|error| error.to_string())
}

/// Prints a ledger.
pub(super) fn run(args: &Args, location: &LedgerLocation) -> Result<(), Box<dyn Error>> {
    let directory = DataDirectory::open_existing(&location.directory())?;
    let shards = ShardFiles::of_all(&directory);
    let source = Source { shards, progress: Progress::new("exporting", "events", None) };
    let in_flight = prove_in_flight(&source.shards, &source.progress)?;
    if in_flight > 0 {
        return Err(format!(
            "{in_flight} parts of decisions are in flight between shards, for the last server was killed before it had \
             applied them: start it once, which applies them, end it, and export again"
        )
        .into());
    }
    let stdout = BufWriter::new(io::stdout().lock());
    let account = args.account.as_ref();
    let result = match args.format {
        Format::Csv => rows::export(&source, args.what, account, Rows::csv(stdout)),
        Format::Ndjson => rows::export(&source, args.what, account, Rows::ndjson(stdout)),
        Format::Hledger => plain_text::export(&source, account, &plain_text::Hledger, stdout),
        Format::Beancount => plain_text::export(&source, account, &plain_text::Beancount, stdout),
    };
    source.progress.finish();
    result.or_else(|error| match refusal_of_stdout(&*error) {
        // Whoever read the other end has seen enough, as `head` does.
        Some(io::ErrorKind::BrokenPipe) => Ok(()),
        Some(_) => Err(StdoutError(error.to_string()).into()),
        None => Err(error),
    })
}

/// What is exported, and how far that is.
struct Source {
    shards: Vec<ShardFiles>,
    progress: Progress,
}

impl Source {
    /// The files of the shard that an account of this name belongs to.
    fn shard_of(&self, name: &AccountName) -> &ShardFiles {
        &self.shards[Router::new(self.shards.len()).of_name(name).index()]
    }

    /// Reads a shard's events from the first to the last, or until `visit` breaks off.
    fn walk(
        &self,
        files: &ShardFiles,
        visit: &mut dyn FnMut(Sequence, &Event) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let mut broken_off = false;
        let walked = StoredLog::open(files)?.walk(files.genesis(), &mut |record, after| {
            self.progress.add(after.last.get() - record.first().get() + 1);
            record.each_event(|sequence, event| {
                if visit(sequence, event).is_break() {
                    broken_off = true;
                    return Err(Malformed { offset: 0, what: "the export ended before the log".into() });
                }
                Ok(())
            })
        });
        if broken_off { Ok(()) } else { walked.map(drop) }
    }
}

/// The error of an account that is not there.
fn no_account(name: &AccountName) -> Box<dyn Error> {
    format!("there is no account {name:?} in this ledger").into()
}

/// Of what kind an error is that stdout has given: what is read is told in errors of another type.
fn refusal_of_stdout(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    match error.downcast_ref::<csv::Error>().map(csv::Error::kind) {
        Some(csv::ErrorKind::Io(error)) => return Some(error.kind()),
        Some(_) => return None,
        None => {}
    }
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    json.or_else(|| Some(error.downcast_ref::<io::Error>()?.kind()))
}
