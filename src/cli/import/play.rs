//! Sends an import in batches, on a few connections.
//!
//! # Order
//! Accounts are dealt to *lanes*, one a connection. A lane opens its accounts, then sends its rows in the file's order,
//! a batch of up to [`BATCH_ITEMS_MAX`] at a time, the next when the one before has ended well. So an account's rows
//! come in their order, and different lanes never wait for one another's accounts.
//!
//! Within a batch, no row may be applied when one of its account before it was refused: a withdrawal could go through
//! although the deposit that it was to spend did not. So the batches of rows are all or nothing. When a row is refused,
//! nothing of its batch has happened; the rows before it are sent again without it, and the import stops there, as if
//! every row had been a request. That second request is made at most once a lane. What else would do:
//!
//! - a batch with at most one row an account is as slow as single requests for a file with one busy account;
//! - a condition on the account's version, one a row, makes an item depend on when it is sent. Its key is bound to its
//!   text, so a second run could not say the same again; and a payment of somebody else's would stop the import.
//!
//! All or nothing costs nothing: the server decides and writes down so many items in one go either way.
//!
//! # Keys
//! Each row has a key made from its account and its id, so a batch is repeated as a whole or cut in another way, and no
//! row is applied twice. A server remembers refusals too, but not of batches that are all or nothing: a row that was
//! refused in an earlier run is judged anew in the next, under the same key.
//!
//! An opening's key is made from all that it says: asked for with another limit, it is another request, and finds the
//! account there already. Openings are not all or nothing, since an account that is there already refuses its opening,
//! which is no reason to hold up others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::beginning;
use super::file::{Account, Row, Transactions};
use crate::client::{Client, ClientError, Response};
use crate::ledger::{AccountName, Currency, Direction, Quantity, QuantityTotal};
use crate::signals::EndSignal;

/// How many items a batch has at most. Any so many fit the one record that a batch which is all or nothing has to fit;
/// and with more, an interrupt would take long.
const BATCH_ITEMS_MAX: usize = 500;

/// The first pause before a request is repeated; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause that is chosen here.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest pause that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What a path segment may contain as it is. Dots are written as `%2E`, so that an account named `..` is one.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// What has been done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) accounts_opened: u64,
    pub(super) accounts_existing: u64,
    pub(super) deposits: Count,
    pub(super) withdrawals: Count,
    /// Deposits less withdrawals, by currency; that of accounts whose currency the file does not say apart.
    pub(super) totals: BTreeMap<Option<Currency>, QuantityTotal>,
}

impl Tally {
    /// All deposits and withdrawals that are known to be in the ledger.
    pub(super) fn transactions(&self) -> u64 {
        self.deposits.all() + self.withdrawals.all()
    }
}

/// Transactions of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Applied by this run.
    pub(super) applied: u64,
    /// Found to have been applied before.
    pub(super) replayed: u64,
}

impl Count {
    pub(super) fn all(&self) -> u64 {
        self.applied + self.replayed
    }
}

/// What others may see of an import under way.
#[derive(Debug, Default)]
pub(super) struct Board {
    tally: Mutex<Tally>,
    waiting: Mutex<Option<String>>,
}

impl Board {
    /// What has been done.
    pub(super) fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Why some request has to be repeated, if nothing has succeeded since.
    pub(super) fn waiting(&self) -> Option<String> {
        self.waiting.lock().clone()
    }
}

/// How an import that has stopped goes on. A row whose key is forgotten is a new transaction: hence the limit, of which
/// only the server knows how long it is.
const AGAIN: &str = "run the same command again before the server's --idempotency-hours (24 by default) have passed \
                     since the first run: nothing is applied twice; later everything is";

/// Why an import stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlayError {
    /// The server refused a request for good.
    #[error("line {line}: {what} was refused: {refusal}; {advice} {AGAIN}")]
    Refused { line: u64, what: String, refusal: String, advice: &'static str },
    /// A request that cannot be sent, or a reply that cannot be read.
    #[error("line {line}: {what} failed")]
    Failed { line: u64, what: String, source: ClientError },
    /// A reply that no teller gives.
    #[error("line {line}: the reply to {what} cannot be understood: {reason}")]
    Unreadable { line: u64, what: String, reason: String },
    /// Nothing has succeeded for too long.
    #[error("nothing has succeeded for {} s: {reason}; to go on, {AGAIN}", patience.as_secs())]
    NoProgress { patience: Duration, reason: String },
    /// Ctrl-C, or another signal that asks for the end.
    #[error("interrupted; to go on, {AGAIN}")]
    Interrupted { by: EndSignal },
}

/// Plays an import.
pub(super) struct Player {
    client: Client,
    transactions: Transactions,
    overdraft_limit: Option<Quantity>,
    patience: Duration,
    started: Instant,
    /// When something last succeeded, in milliseconds after `started`.
    succeeded_ms: AtomicU64,
    board: Arc<Board>,
    stop: watch::Sender<bool>,
}

/// The end of a task before its work is done.
enum End {
    /// It was told to stop.
    Stopped,
    /// This stops everything.
    Error(PlayError),
}

/// Which request, for messages.
struct Place {
    line: u64,
    what: String,
}

impl Player {
    /// A player that gives up when nothing has succeeded for as long as `patience`.
    pub(super) fn new(
        client: Client,
        transactions: Transactions,
        overdraft_limit: Option<Quantity>,
        patience: Duration,
        board: Arc<Board>,
    ) -> Player {
        Player {
            client,
            transactions,
            overdraft_limit,
            patience,
            started: Instant::now(),
            succeeded_ms: AtomicU64::new(0),
            board,
            stop: watch::Sender::new(false),
        }
    }

    /// Plays everything, on so many lanes. The first interrupt lets the requests under way
    /// end, the second does not.
    pub(super) async fn play<F>(self, connections: usize, interrupt: impl Fn() -> F) -> Result<(), PlayError>
    where
        F: Future<Output = EndSignal>,
    {
        let count = connections.min(self.transactions.accounts.len());
        let lanes = Arc::new(deal(&self.transactions.accounts, count));
        let player = Arc::new(self);
        let mut tasks = JoinSet::new();
        for lane in 0..count {
            tasks.spawn(Arc::clone(&player).work(Arc::clone(&lanes), lane));
        }
        let mut outcome = Ok(());
        let mut interrupted = Box::pin(interrupt());
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => return outcome,
                    Some(Ok(Err(End::Error(error)))) => {
                        player.stop.send_replace(true);
                        // The first error is the cause; further ones are of requests that were under way.
                        outcome = outcome.and(Err(error));
                    }
                    Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Some(Ok(Ok(()) | Err(End::Stopped)) | Err(_)) => {}
                },
                by = &mut interrupted => {
                    interrupted.set(interrupt());
                    if player.stop.send_replace(true) {
                        tasks.abort_all();
                    }
                    outcome = outcome.and(Err(PlayError::Interrupted { by }));
                }
            }
        }
    }

    /// Plays the accounts of one lane.
    async fn work(self: Arc<Self>, lanes: Arc<Vec<usize>>, lane: usize) -> Result<(), End> {
        let Transactions { accounts, rows, .. } = &self.transactions;
        let own = accounts.iter().enumerate().filter(|(account, _)| lanes[*account] == lane);
        let own: Vec<&Account> = own.map(|(_, account)| account).collect();
        for accounts in own.chunks(BATCH_ITEMS_MAX) {
            self.open(accounts).await?;
        }
        let mut rows = rows.iter().filter(|row| lanes[row.account] == lane);
        loop {
            let batch: Vec<&Row> = rows.by_ref().take(BATCH_ITEMS_MAX).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.apply(&batch).await?;
        }
    }

    /// Opens accounts that are not there yet.
    async fn open(&self, accounts: &[&Account]) -> Result<(), End> {
        let mut left = accounts.to_vec();
        let mut pause = PAUSE_MIN;
        while let Some(first) = left.first() {
            let place = opening_of(first).of_batch();
            let items = left.iter().map(|account| self.opening(account));
            let results = self.batch(&place, "/v2/batches", &lines(items), left.len()).await?;
            let mut again = Vec::new();
            let mut waits_for = None;
            for (account, result) in left.into_iter().zip(results) {
                if let Some(reason) = reason_to_repeat(result.status, &result.problem) {
                    again.push(account);
                    waits_for = Some(reason);
                    continue;
                }
                let is_there = result.problem.code == "account-exists";
                if is_refusal(result.status) && !is_there {
                    return Err(End::Error(opening_of(account).refused(result.status, result.problem)));
                }
                if let Some(currency) = account.currency.filter(|_| is_there) {
                    self.check_currency(account, currency).await?;
                }
                self.succeeded(|tally| match is_there || result.replayed {
                    true => tally.accounts_existing += 1,
                    false => tally.accounts_opened += 1,
                });
            }
            left = again;
            if let Some(reason) = waits_for {
                self.pause(&place, &mut pause, Duration::ZERO, reason).await?;
            }
        }
        Ok(())
    }

    /// Refuses an account that is there with another currency than the file says: its amounts would mean other money.
    async fn check_currency(&self, account: &Account, currency: Currency) -> Result<(), End> {
        let place = Place { line: account.line, what: format!("reading the account {:?}", account.name) };
        let path = format!("/v2/accounts/{}", utf8_percent_encode(&selector(&account.name), PATH_SEGMENT));
        let response = self.ask(&place, || self.client.get(&path)).await?;
        if response.status == StatusCode::NOT_FOUND {
            // It is closed. That is the refusal of its first transaction.
            return Ok(());
        }
        if !response.status.is_success() {
            return Err(End::Error(place.refused(response.status.as_u16(), problem(&response))));
        }
        let found: Found =
            serde_json::from_slice(&response.body).map_err(|error| place.unreadable(&error))?;
        if found.currency == currency.code() {
            return Ok(());
        }
        let Place { line, what } = opening_of(account);
        let refusal = format!("the file has it in {currency}, it is there in {}", found.currency);
        Err(End::Error(PlayError::Refused { line, what, refusal, advice: advice("") }))
    }

    /// Applies rows, all of them up to the first that is refused.
    async fn apply(&self, rows: &[&Row]) -> Result<(), End> {
        let mut left = rows;
        let mut refused = None;
        let mut pause = PAUSE_MIN;
        while let Some(first) = left.first() {
            let place = self.place(first).of_batch();
            let items = left.iter().map(|row| self.item(row));
            let results = match self.batch(&place, "/v2/batches?atomic=true", &lines(items), left.len()).await
            {
                // There is no time for the rows before it any more; it is told all the same.
                Err(End::Stopped) if refused.is_some() => break,
                replied => replied?,
            };
            let is_cause =
                |result: &ItemResult| is_refusal(result.status) && result.problem.code != NOT_ATTEMPTED;
            let Some(cause) = results.iter().position(is_cause) else {
                if results.iter().any(|result| is_refusal(result.status)) {
                    return Err(place.unreadable(&"no item was attempted, and none was refused"));
                }
                self.count(left, &results);
                break;
            };
            let ItemResult { status, problem, .. } =
                results.into_iter().nth(cause).expect("it was found there");
            if let Some(reason) = reason_to_repeat(status, &problem) {
                self.pause(&place, &mut pause, Duration::ZERO, reason).await?;
                continue;
            }
            refused = Some(End::Error(self.place(left[cause]).refused(status, problem)));
            left = &left[..cause];
        }
        refused.map_or(Ok(()), Err)
    }

    fn count(&self, rows: &[&Row], results: &[ItemResult]) {
        self.succeeded(|tally| {
            for (row, result) in rows.iter().zip(results) {
                let (count, signed) = match row.direction {
                    Direction::Deposit => (&mut tally.deposits, row.amount),
                    Direction::Withdrawal => (&mut tally.withdrawals, row.amount.negated()),
                };
                match result.replayed {
                    true => count.replayed += 1,
                    false => count.applied += 1,
                }
                tally.totals.entry(self.account(row).currency).or_default().add(signed);
            }
        });
    }

    fn account(&self, row: &Row) -> &Account {
        &self.transactions.accounts[row.account]
    }

    fn place(&self, row: &Row) -> Place {
        let noun = match row.direction {
            Direction::Deposit => "deposit",
            Direction::Withdrawal => "withdrawal",
        };
        let account = self.account(row);
        let amount = row.amount.text(decimals(account.currency));
        Place { line: row.line, what: format!("the {noun} of {amount} for the account {:?}", account.name) }
    }

    fn opening(&self, account: &Account) -> OpeningItem {
        let limit = self.overdraft_limit.map(|limit| limit.text(decimals(account.currency)).to_string());
        let mut item = OpeningItem {
            operation: "open",
            key: String::new(),
            name: account.name.to_string(),
            currency: account.currency.map(|currency| currency.to_string()),
            overdraft_limit: limit,
        };
        let text = serde_json::to_vec(&item).expect("texts are written to memory");
        item.key = format!("import-account-{}", blake3::hash(&text).to_hex());
        item
    }

    fn item<'a>(&'a self, row: &'a Row) -> RowItem<'a> {
        let account = self.account(row);
        RowItem {
            operation: match row.direction {
                Direction::Deposit => "deposit",
                Direction::Withdrawal => "withdraw",
            },
            key: format!("import-{}", HEXLOWER.encode(&row.digest)),
            account: selector(&account.name),
            amount: row.amount.text(decimals(account.currency)).to_string(),
            reference: row.reference.as_deref(),
        }
    }

    /// Posts a batch, and repeats it until there is a reply that counts: the results of all its items.
    async fn batch(
        &self,
        place: &Place,
        path: &str,
        body: &Bytes,
        count: usize,
    ) -> Result<Vec<ItemResult>, End> {
        let response = self.ask(place, || self.client.post_ndjson(path, body.clone())).await?;
        if !response.status.is_success() {
            return Err(End::Error(place.refused(response.status.as_u16(), problem(&response))));
        }
        let reply: BatchReply =
            serde_json::from_slice(&response.body).map_err(|error| place.unreadable(&error))?;
        if reply.results.len() != count {
            let found = reply.results.len();
            return Err(place.unreadable(&format!("{count} items have {found} results")));
        }
        Ok(reply.results)
    }

    /// Sends a request, and repeats it until there is a reply that counts.
    async fn ask<F>(&self, place: &Place, send: impl Fn() -> F) -> Result<Response, End>
    where
        F: Future<Output = Result<Response, ClientError>>,
    {
        let mut pause = PAUSE_MIN;
        loop {
            if *self.stop.borrow() {
                return Err(End::Stopped);
            }
            let (reason, asked) = match send().await {
                Ok(response) if response.status.is_success() => return Ok(response),
                Ok(response) => match reason_to_repeat(response.status.as_u16(), &problem(&response)) {
                    None => return Ok(response),
                    Some(reason) => (reason, retry_after(&response)),
                },
                Err(
                    error @ (ClientError::Connection { .. }
                    | ClientError::Reply(_)
                    | ClientError::TimedOut { .. }),
                ) => (with_cause(&error), Duration::ZERO),
                Err(
                    source @ (ClientError::Request(_) | ClientError::Key(_) | ClientError::ReplyTooLarge),
                ) => {
                    let (line, what) = (place.line, place.what.clone());
                    return Err(End::Error(PlayError::Failed { line, what, source }));
                }
            };
            self.pause(place, &mut pause, asked, reason).await?;
        }
    }

    /// Waits before something is repeated, longer from time to time.
    async fn pause(
        &self,
        place: &Place,
        pause: &mut Duration,
        asked: Duration,
        reason: String,
    ) -> Result<(), End> {
        tracing::debug!(line = place.line, reason, "a request will be repeated");
        if self.time_without_success() >= self.patience {
            let patience = self.patience;
            return Err(End::Error(PlayError::NoProgress { patience, reason }));
        }
        *self.board.waiting.lock() = Some(reason);
        let mut stop = self.stop.subscribe();
        // An error would mean that the player is gone, and with it this.
        let _ = tokio::time::timeout((*pause).max(asked), stop.wait_for(|stop| *stop)).await;
        *pause = PAUSE_MAX.min(*pause * 2);
        Ok(())
    }

    fn succeeded(&self, add: impl FnOnce(&mut Tally)) {
        add(&mut self.board.tally.lock());
        self.board.waiting.lock().take();
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.succeeded_ms.fetch_max(now, Ordering::Relaxed);
    }

    fn time_without_success(&self) -> Duration {
        let succeeded = Duration::from_millis(self.succeeded_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(succeeded)
    }
}

/// The lane of each account: those with most rows first, each to the lane with the fewest.
fn deal(accounts: &[Account], count: usize) -> Vec<usize> {
    let mut longest_first: Vec<usize> = (0..accounts.len()).collect();
    longest_first.sort_by_key(|&account| Reverse(accounts[account].rows));
    let mut rows_of_lanes: BinaryHeap<_> = (0..count).map(|lane| Reverse((0, lane))).collect();
    let mut lanes = vec![0; accounts.len()];
    for account in longest_first {
        let Reverse((rows, lane)) = rows_of_lanes.pop().expect("accounts have at least one lane");
        lanes[account] = lane;
        rows_of_lanes.push(Reverse((rows + accounts[account].rows, lane)));
    }
    lanes
}

/// How many decimals an amount is written with at least.
fn decimals(currency: Option<Currency>) -> u8 {
    currency.unwrap_or(Currency::USD).scale()
}

/// The account with this name, in bodies and paths.
fn selector(name: &AccountName) -> String {
    format!("name:{name}")
}

/// An item that opens an account.
#[derive(Serialize)]
struct OpeningItem {
    #[serde(rename = "type")]
    operation: &'static str,
    key: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overdraft_limit: Option<String>,
}

/// An item that applies a row.
#[derive(Serialize)]
struct RowItem<'a> {
    #[serde(rename = "type")]
    operation: &'static str,
    key: String,
    account: String,
    amount: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

/// Items, one a line.
fn lines(items: impl Iterator<Item = impl Serialize>) -> Bytes {
    let mut text = Vec::new();
    for item in items {
        serde_json::to_writer(&mut text, &item).expect("texts are written to memory");
        text.push(b'\n');
    }
    text.into()
}

fn opening_of(account: &Account) -> Place {
    Place { line: account.line, what: format!("opening the account {:?}", account.name) }
}

impl Place {
    /// The place of the batch that begins with this item.
    fn of_batch(self) -> Place {
        Place { what: format!("a batch from {} on", self.what), ..self }
    }

    fn refused(&self, status: u16, problem: Problem) -> PlayError {
        let mut refusal = status.to_string();
        let advice = advice(&problem.code);
        let fields = problem.errors.iter();
        let fields = fields.map(|error| format!("({} {})", error.pointer, error.detail));
        for part in [problem.code, problem.detail].into_iter().chain(fields) {
            if !part.is_empty() {
                refusal.push(' ');
                refusal.push_str(&part);
            }
        }
        PlayError::Refused { line: self.line, what: self.what.clone(), refusal, advice }
    }

    fn unreadable(&self, reason: &impl ToString) -> End {
        let (line, what, reason) = (self.line, self.what.clone(), reason.to_string());
        End::Error(PlayError::Unreadable { line, what, reason })
    }
}

/// What is read of the reply to a batch.
#[derive(Deserialize)]
struct BatchReply {
    results: Vec<ItemResult>,
}

/// What is read of an item's result.
#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    replayed: bool,
    /// Empty if it was executed.
    #[serde(default)]
    problem: Problem,
}

/// What is read of an account.
#[derive(Deserialize)]
struct Found {
    currency: String,
}

/// The refusal of an item because of another one.
const NOT_ATTEMPTED: &str = "not-attempted";

fn is_refusal(status: u16) -> bool {
    status >= 400
}

/// What is read of an `application/problem+json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    /// Whether the same request may succeed later; only a teller tells.
    retryable: Option<bool>,
    errors: Vec<FieldProblem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FieldProblem {
    pointer: String,
    detail: String,
}

/// The problem that a reply tells; for a reply that tells none, the beginning of what it does tell.
fn problem(response: &Response) -> Problem {
    serde_json::from_slice(&response.body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&response.body);
        Problem { detail: beginning(text.trim()).to_owned(), ..Problem::default() }
    })
}

/// The refusal of a server that remembers as many idempotency keys as it may, until the oldest are forgotten.
const KEYS_EXHAUSTED: &str = "idempotency-keys-exhausted";
/// The refusal of a withdrawal that goes too far below zero.
const INSUFFICIENT_FUNDS: &str = "insufficient-funds";

/// The refusal of what is about an account that is not there. The import has opened it, or found its name taken.
const ACCOUNT_NOT_FOUND: &str = "account-not-found";

/// The refusal of a key that has been used for something else.
const KEY_REUSED: &str = "idempotency-key-reused";

/// What to do about a refusal, up to [`AGAIN`].
fn advice(code: &str) -> &'static str {
    match code {
        INSUFFICIENT_FUNDS => {
            "an account that is there keeps its limit whatever --overdraft-limit says: import into a new ledger with \
             one that is large enough to cover the lowest balance that any account has on the way, or change the \
             account's own with PATCH /v2/accounts/{account}, member \
             overdraft_limit, and"
        }
        KEYS_EXHAUSTED => {
            "the import needs a key for each transaction and account: start the server with more \
             --idempotency-keys-max, and"
        }
        ACCOUNT_NOT_FOUND => {
            "the account was closed, and its name stays taken: give it another name in the file, or leave its rows out, \
             and"
        }
        KEY_REUSED => {
            "another transaction of this account was imported under the same id, from another file or from this one \
             before it was changed: ids are unique within an account for good; give this one an id of its own, and"
        }
        _ => "when its cause is gone,",
    }
}

/// Why what has this answer should be repeated as it is, if it should: the server says so, or a proxy before it cannot
/// reach it.
fn reason_to_repeat(status: u16, problem: &Problem) -> Option<String> {
    if !is_refusal(status) {
        return None;
    }
    let Problem { code, detail, retryable, .. } = problem;
    // True, but not for hours: the server remembers as many keys as it may.
    let retryable = if code == KEYS_EXHAUSTED { Some(false) } else { *retryable };
    let repeat = retryable.unwrap_or(matches!(status, 429 | 502 | 503 | 504));
    let answer = [&status.to_string(), code, detail].map(String::as_str).join(" ");
    repeat.then(|| format!("the server answers {}", answer.trim_end()))
}

/// The pause that a reply asks for, in whole seconds; a date is not understood.
fn retry_after(response: &Response) -> Duration {
    let seconds = response.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(RETRY_AFTER_MAX)
}

/// The error with its innermost cause, such as "Connection refused".
fn with_cause(error: &ClientError) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    match cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
