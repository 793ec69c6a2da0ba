//! Tables: CSV and JSON lines.

use std::error::Error;
use std::io::{BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;

use serde::Serialize;
use uuid::Uuid;

use super::{Source, What, no_account};
use crate::ledger::{
    AccountChange, AccountId, AccountName, Amount, Change, Currency, Event, Timestamp, TransactionType,
};
use crate::storage::log::{ShardFiles, state_at_rest};

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
    rows.finish(what)
}

/// Prints a shard's transactions, of one account or of all; says whether it has the account.
fn print_transactions(
    source: &Source,
    files: &ShardFiles,
    only: Option<&AccountName>,
    rows: &mut Rows,
) -> Result<bool, Box<dyn Error>> {
    // By number. Without this a transaction would not know its account's name.
    let mut accounts: Vec<(AccountName, Timestamp, Currency)> = Vec::new();
    let mut failed = None;
    let mut print = |sequence, event: &Event| {
        if let Change::Opened { name, currency, .. } = &event.change {
            accounts.push((name.clone(), event.time, *currency));
        }
        let (opened, currency) = match &event.change {
            Change::Posted { account, .. } | Change::Closed { account, .. } => {
                let (_, opened, currency) = accounts[account.index()];
                (opened, currency)
            }
            _ => (event.time, Currency::USD),
        };
        let Some(decision) = event.change.to_decision(files.shard, opened, currency) else {
            return Ok(());
        };
        let id = event.transaction_id(files.shard, sequence);
        for effect in decision.part(files.shard).map_or(&[][..], |part| &part.effects) {
            if let AccountChange::Opened(account) = &effect.change
                && accounts.len() == effect.account.index()
            {
                accounts.push((account.name.clone(), id.time, effect.currency));
            }
            let (name, ..) = &accounts[effect.account.index()];
            let amount = effect.change.posted();
            if amount.is_zero() || only.is_some_and(|only| only != name) {
                continue;
            }
            rows.print(&TransactionRow {
                id: id.to_uuid(),
                account: name,
                direction: if amount.is_positive() { "deposit" } else { "withdrawal" },
                amount: amount.magnitude().text(effect.currency).to_string(),
                balance: effect.after.balance.text(effect.currency).to_string(),
                created: id.time.seconds(),
                kind: TransactionType::of(&decision.kind).map_or("", TransactionType::name),
                currency: effect.currency.code(),
                reference: decision.note.reference.as_deref(),
            })?;
        }
        Ok(())
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
    Ok(only.is_none_or(|only| accounts.iter().any(|(name, ..)| name == only)))
}

/// Prints a shard's accounts as they are at the end of its log.
fn print_accounts(source: &Source, files: &ShardFiles, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let ledger = state_at_rest(files, &source.progress)?;
    for account in ledger.accounts() {
        let text = |amount: Amount| amount.text(account.currency).to_string();
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
            frozen: account.frozen,
            held: text(account.held),
        })?;
    }
    Ok(())
}

/// The names of a [`TransactionRow`]'s columns.
const TRANSACTION_COLUMNS: &[&str] =
    &["id", "account", "type", "amount", "balance", "created", "kind", "currency", "reference"];

/// One account's side of a transaction. The first columns are those that `teller import` reads: `type` says which way
/// the money went, and the amount is positive. `created` is in Unix seconds; `kind` says what it was; the sides of a
/// transfer have one id.
#[derive(Serialize)]
struct TransactionRow<'a> {
    id: Uuid,
    account: &'a str,
    #[serde(rename = "type")]
    direction: &'static str,
    amount: String,
    balance: String,
    created: u64,
    kind: &'static str,
    currency: &'a str,
    reference: Option<&'a str>,
}

/// The names of an [`AccountRow`]'s columns.
const ACCOUNT_COLUMNS: &[&str] = &[
    "id",
    "name",
    "currency",
    "balance",
    "overdraft_limit",
    "version",
    "created",
    "updated",
    "closed",
    "frozen",
    "held",
];

/// An account. Times are in Unix seconds; an account without a limit of its own has none here; `held` is the sum of its
/// pending holds. Whoever imports the transactions elsewhere has to see which accounts were frozen, for no transaction
/// says it.
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
    frozen: bool,
    held: String,
}

/// Where rows go, buffered.
type Stdout = BufWriter<StdoutLock<'static>>;

/// Prints rows.
pub(super) enum Rows {
    Csv { writer: Box<csv::Writer<Stdout>>, has_names: bool },
    Ndjson(Stdout),
}

impl Rows {
    pub(super) fn csv(stdout: Stdout) -> Rows {
        Rows::Csv { writer: Box::new(csv::Writer::from_writer(stdout)), has_names: false }
    }

    pub(super) fn ndjson(stdout: Stdout) -> Rows {
        Rows::Ndjson(stdout)
    }

    fn print(&mut self, row: &impl Serialize) -> Result<(), Box<dyn Error>> {
        match self {
            Rows::Csv { writer, has_names } => {
                // The writer puts the line of names before the first row.
                writer.serialize(row)?;
                *has_names = true;
            }
            Rows::Ndjson(writer) => {
                serde_json::to_writer(&mut *writer, row)?;
                writer.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, what: What) -> Result<(), Box<dyn Error>> {
        match self {
            Rows::Csv { writer, has_names } => {
                if !*has_names {
                    writer.write_record(match what {
                        What::Transactions => TRANSACTION_COLUMNS,
                        What::Accounts => ACCOUNT_COLUMNS,
                    })?;
                }
                writer.flush()?;
            }
            Rows::Ndjson(writer) => writer.flush()?,
        }
        Ok(())
    }
}
