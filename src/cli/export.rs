//! `teller export`.

use std::error::Error;

use clap::ValueEnum;

use crate::config::{LedgerLocation, LocationArgs, LogArgs};
use crate::ledger::AccountName;

const LONG_ABOUT: &str = "\
Prints a ledger from its files to stdout: all transactions, one account's, or the accounts with their balances. \
It changes nothing.

The CSV of transactions has the columns that `teller import` reads (id, account, type, amount), so it moves a \
ledger to another server or to another number of shards.

Needs the ledger's directory, and that no server uses it: end the server first.";

const AFTER_HELP: &str = "\
Examples:
  teller export > transactions.csv
  teller export --account alice --format ndjson
  teller export --what accounts --data-dir /srv/backup

Exit codes: 0 everything is printed; 1 something is wrong with the ledger, or it is in use or not there, or it \
has no such account (told on stderr); 2 wrong usage.";

/// Print a ledger's accounts or transactions, offline
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    pub(super) what: What,

    /// Print only this account's transactions, oldest first. A closed account has its history too.
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
    /// Every deposit and withdrawal; an account's stand in their order
    #[default]
    Transactions,
    /// Every account with its balance, closed ones too
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
}

impl Args {
    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match (self.what, &self.account) {
            (What::Accounts, Some(_)) => {
                Err("--account NAME chooses transactions: it does not go with --what accounts")
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
    let Args {
        what,
        account,
        format,
        ..
    } = args;
    tracing::debug!(?what, ?account, ?format, "what is asked for");
    Err(format!("cannot export {} yet", location.directory().display()).into())
}
