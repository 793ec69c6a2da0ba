//! `teller export`.

use std::error::Error;
use std::io::{self, BufWriter, StdoutLock, Write};

use clap::ValueEnum;
use serde::Serialize;
use uuid::Uuid;

use crate::config::{LedgerLocation, LocationArgs, LogArgs};
use crate::ledger::{
    AccountId, AccountName, Amount, Change, Currency, Direction, Event, ShardId, Timestamp, TransactionId,
};
use crate::progress::Progress;
use crate::router::Router;
use crate::storage::codec::Malformed;
use crate::storage::log::{ShardFiles, StoredLog, replay};
use crate::storage::manifest::DataDirectory;

const LONG_ABOUT: &str = "\
Prints a ledger from its files to stdout: all transactions, one account's, or the accounts with their balances. \
It changes nothing.

The CSV of transactions has the columns that `teller import` reads (id, account, type, amount), so it moves \
balances and histories to another server or to another number of shards: import it with an --overdraft-limit that \
covers the lowest balance that any account ever had. It does not have accounts without a transaction, closings, and \
overdraft limits of accounts' own.

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
    let directory = DataDirectory::open_existing(&location.directory())?;
    let shards: Vec<ShardFiles> = (0..directory.shards())
        .filter_map(ShardId::new)
        .map(|shard| ShardFiles::new(&directory, shard))
        .collect();
    let progress = Progress::new("exporting", "events", None);
    let mut rows = Rows::new(args.format);
    let result = match (args.what, &args.account) {
        (What::Accounts, _) => {
            shards.iter().try_for_each(|files| print_accounts(files, &progress, &mut rows))
        }
        (What::Transactions, None) => shards
            .iter()
            .try_for_each(|files| print_transactions(files, None, &progress, &mut rows).map(drop)),
        (What::Transactions, Some(name)) => {
            let files = &shards[Router::new(shards.len()).of_name(name).index()];
            print_transactions(files, Some(name), &progress, &mut rows).and_then(|found| {
                found
                    .then_some(())
                    .ok_or_else(|| format!("there is no account {name:?} in this ledger").into())
            })
        }
    };
    progress.finish();
    match result.and_then(|()| rows.finish()) {
        // Whoever read the other end has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&*error) => Ok(()),
        result => result,
    }
}

/// Prints a shard's transactions, of one account or of all; says whether it has the account.
fn print_transactions(
    files: &ShardFiles,
    only: Option<&AccountName>,
    progress: &Progress,
    rows: &mut Rows,
) -> Result<bool, Box<dyn Error>> {
    // By number. Without this a transaction would not know its account's name.
    let mut names: Vec<AccountName> = Vec::new();
    let mut failed = None;
    let mut print = |sequence, event: &Event| match &event.change {
        Change::Opened { name, .. } => {
            names.push(name.clone());
            Ok(())
        }
        Change::Posted { account, direction, amount, entry } => {
            let name = &names[account.index()];
            if only.is_some_and(|only| only != name) {
                return Ok(());
            }
            rows.print(&TransactionRow {
                id: TransactionId { time: event.time, shard: files.shard, sequence }.to_uuid(),
                account: name,
                kind: match direction {
                    Direction::Deposit => "deposit",
                    Direction::Withdrawal => "withdrawal",
                },
                amount: amount.to_decimal(Currency::USD).to_string(),
                balance: entry.balance.to_decimal(Currency::USD).to_string(),
                created: event.time.seconds(),
            })
        }
        Change::Closed { .. } | Change::Refused { .. } | Change::Claimed => Ok(()),
    };
    let walked = StoredLog::open(files)?.walk(files.genesis(), &mut |record, after| {
        progress.add(after.last.get() - record.first().get() + 1);
        for event in record.events() {
            let (sequence, event) = event?;
            if let Err(error) = print(sequence, &event) {
                failed = Some(error);
                return Err(Malformed { offset: 0, what: "the output failed".into() });
            }
        }
        Ok(())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    walked?;
    Ok(only.is_none_or(|only| names.contains(only)))
}

/// Prints a shard's accounts as they are at the end of its log.
fn print_accounts(files: &ShardFiles, progress: &Progress, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let (mut ledger, start) = files.newest_snapshot()?;
    StoredLog::open(files)?.walk(start, &mut |record, after| {
        progress.add(after.last.get() - record.first().get() + 1);
        replay(&mut ledger, record)
    })?;
    for account in ledger.accounts() {
        let text = |amount: Amount| amount.to_decimal(account.currency).to_string();
        let id = AccountId { opened: account.opened, shard: files.shard, number: account.number };
        rows.print(&AccountRow {
            id: id.to_uuid(),
            name: &account.name,
            currency: account.currency.code(),
            balance: text(account.posted),
            overdraft_limit: account.overdraft_limit.map(text),
            version: account.version,
            created: account.opened.seconds(),
            updated: account.updated.seconds(),
            closed: account.closed().map(Timestamp::seconds),
        })?;
    }
    Ok(())
}

/// A transaction. The first columns are those that `teller import` reads; the amount is positive; `created` is
/// in Unix seconds.
#[derive(Serialize)]
struct TransactionRow<'a> {
    id: Uuid,
    account: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    amount: String,
    balance: String,
    created: u64,
}

/// An account. Times are in Unix seconds; an account without a limit of its own has none here.
#[derive(Serialize)]
struct AccountRow<'a> {
    id: Uuid,
    name: &'a str,
    currency: &'a str,
    balance: String,
    overdraft_limit: Option<String>,
    version: u64,
    created: u64,
    updated: u64,
    closed: Option<u64>,
}

/// Prints rows to stdout, buffered.
enum Rows {
    Csv(Box<csv::Writer<StdoutLock<'static>>>),
    Ndjson(BufWriter<StdoutLock<'static>>),
}

impl Rows {
    fn new(format: Format) -> Rows {
        let stdout = std::io::stdout().lock();
        match format {
            Format::Csv => Rows::Csv(Box::new(csv::Writer::from_writer(stdout))),
            Format::Ndjson => Rows::Ndjson(BufWriter::new(stdout)),
        }
    }

    fn print(&mut self, row: &impl Serialize) -> Result<(), Box<dyn Error>> {
        match self {
            Rows::Csv(writer) => writer.serialize(row)?,
            Rows::Ndjson(writer) => {
                serde_json::to_writer(&mut *writer, row)?;
                writer.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        match self {
            Rows::Csv(writer) => writer.flush()?,
            Rows::Ndjson(writer) => writer.flush()?,
        }
        Ok(())
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref::<csv::Error>().map(csv::Error::kind) {
        Some(csv::ErrorKind::Io(error)) => return io(error),
        Some(_) => return false,
        None => {}
    }
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    json == Some(io::ErrorKind::BrokenPipe) || error.downcast_ref::<io::Error>().is_some_and(io)
}
