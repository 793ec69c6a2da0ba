//! Tables: CSV and JSON lines.

use std::error::Error;
use std::io::{BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;

use serde::Serialize;
use uuid::Uuid;

use super::{Source, What, no_account};
use crate::ledger::{
    AccountId, AccountName, Amount, Change, Currency, Direction, Event, Timestamp, TransactionId,
};
use crate::storage::log::{ShardFiles, StoredLog, replay};

/// Prints accounts, or the transactions of one account or of all.
pub(super) fn export(
    source: &Source,
    what: What,
    account: Option<&AccountName>,
    mut rows: Rows,
) -> Result<(), Box<dyn Error>> {
    match (what, account) {
        (What::Accounts, _) => {
            source.shards.iter().try_for_each(|files| print_accounts(source, files, &mut rows))?;
        }
        (What::Transactions, None) => {
            for files in &source.shards {
                print_transactions(source, files, None, &mut rows)?;
            }
        }
        (What::Transactions, Some(name)) => {
            if !print_transactions(source, source.shard_of(name), Some(name), &mut rows)? {
                return Err(no_account(name));
            }
        }
    }
    rows.finish()
}

/// Prints a shard's transactions, of one account or of all; says whether it has the account.
fn print_transactions(
    source: &Source,
    files: &ShardFiles,
    only: Option<&AccountName>,
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
    source.walk(files, &mut |sequence, event| match print(sequence, event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(only.is_none_or(|only| names.contains(only)))
}

/// Prints a shard's accounts as they are at the end of its log.
fn print_accounts(source: &Source, files: &ShardFiles, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let (mut ledger, start) = files.newest_snapshot()?;
    StoredLog::open(files)?.walk(start, &mut |record, after| {
        source.progress.add(after.last.get() - record.first().get() + 1);
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

/// Where rows go, buffered.
type Stdout = BufWriter<StdoutLock<'static>>;

/// Prints rows.
pub(super) enum Rows {
    Csv(Box<csv::Writer<Stdout>>),
    Ndjson(Stdout),
}

impl Rows {
    pub(super) fn csv(stdout: Stdout) -> Rows {
        Rows::Csv(Box::new(csv::Writer::from_writer(stdout)))
    }

    pub(super) fn ndjson(stdout: Stdout) -> Rows {
        Rows::Ndjson(stdout)
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
