//! Sends an import's requests: accounts side by side, each account's transactions one after the other.
//!
//! # Keys
//! A transaction's key is made from its id. A server remembers a refusal like a success: a transaction that
//! was refused in an earlier run would be refused again, whatever has been done about the cause since. So when
//! the server *replays* a refusal, the transaction is sent again under the next key of a fixed sequence. No key
//! before it has had an effect, nor ever will, so it is still applied at most once; and every run takes the
//! same way along the keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::file::{Row, Stream};
use crate::client::{Client, ClientError, Response};
use crate::ledger::{Amount, Currency, Direction};

/// The first pause before a request is repeated; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause that is chosen here.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest pause that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The longest idempotency key on the wire, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// How many refusals of one transaction are left behind before the newest counts.
const REPLAYED_REFUSALS_MAX: u32 = 100;

/// How much of a refusal without a readable problem is shown, in characters.
const REFUSAL_CHARACTERS_MAX: usize = 200;

/// What a path segment may contain as it is. Dots are written as `%2E`, so that an account named `..` is one.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// What has been done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) accounts_opened: u64,
    pub(super) accounts_existing: u64,
    pub(super) deposits: Count,
    pub(super) withdrawals: Count,
    /// Deposits less withdrawals.
    pub(super) total: Amount,
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

/// Why an import stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlayError {
    /// The server refused a request for good.
    #[error("line {line}: {what} was refused: {refusal}")]
    Refused { line: u64, what: String, refusal: String },
    /// A request that cannot be sent, or a reply that cannot be read.
    #[error("line {line}: {what} failed")]
    Failed { line: u64, what: String, source: ClientError },
    /// Nothing has succeeded for too long.
    #[error(
        "nothing has succeeded for {} s: {reason}; to go on, run the same command again: nothing is applied twice",
        patience.as_secs()
    )]
    NoProgress { patience: Duration, reason: String },
    /// Ctrl-C.
    #[error("interrupted; to go on, run the same command again: nothing is applied twice")]
    Interrupted,
}

/// Plays an import.
pub(super) struct Player {
    client: Client,
    streams: Vec<Stream>,
    next: AtomicUsize,
    overdraft_limit: Option<Amount>,
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
struct Place<'a> {
    line: u64,
    what: &'a (dyn Fn() -> String + Sync),
}

impl Player {
    /// A player that gives up when nothing has succeeded for as long as `patience`.
    pub(super) fn new(
        client: Client,
        streams: Vec<Stream>,
        overdraft_limit: Option<Amount>,
        patience: Duration,
        board: Arc<Board>,
    ) -> Player {
        Player {
            client,
            streams,
            next: AtomicUsize::new(0),
            overdraft_limit,
            patience,
            started: Instant::now(),
            succeeded_ms: AtomicU64::new(0),
            board,
            stop: watch::Sender::new(false),
        }
    }

    /// Plays everything, with so many requests at one time. The first interrupt lets the requests under way
    /// end, the second does not.
    pub(super) async fn play<F>(self, connections: usize, interrupt: impl Fn() -> F) -> Result<(), PlayError>
    where
        F: Future<Output = ()>,
    {
        let tasks_max = connections.min(self.streams.len());
        let player = Arc::new(self);
        let mut tasks = JoinSet::new();
        for _ in 0..tasks_max {
            tasks.spawn(Arc::clone(&player).work());
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
                () = &mut interrupted => {
                    interrupted.set(interrupt());
                    if player.stop.send_replace(true) {
                        tasks.abort_all();
                    }
                    outcome = outcome.and(Err(PlayError::Interrupted));
                }
            }
        }
    }

    /// Plays one account after the other, as long as there are some that nobody plays.
    async fn work(self: Arc<Self>) -> Result<(), End> {
        while let Some(stream) = self.streams.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.open(stream).await?;
            let account = utf8_percent_encode(&stream.account, PATH_SEGMENT).to_string();
            for row in &stream.rows {
                self.post(&account, stream, row).await?;
            }
        }
        Ok(())
    }

    async fn open(&self, stream: &Stream) -> Result<(), End> {
        let place = Place {
            line: stream.rows.first().map_or(0, |row| row.line),
            what: &|| format!("opening the account {:?}", stream.account),
        };
        let mut body = serde_json::json!({ "name": &*stream.account });
        if let Some(limit) = self.overdraft_limit {
            body["overdraft_limit"] = limit.to_decimal(Currency::USD).to_string().into();
        }
        let body = body.to_string();
        // The key of the whole body: asked for with another limit, it is another request, and finds the
        // account there already instead of a key that was used otherwise.
        let key = format!("import-account-{}", blake3::hash(body.as_bytes()).to_hex());
        let response = self.ask(&place, "/v2/accounts", &body, &key).await?;
        let opened = response.status.is_success() && !is_replayed(&response);
        if !response.status.is_success() && problem(&response).code != "account-exists" {
            return Err(End::Error(place.refused(&response)));
        }
        self.succeeded(|tally| match opened {
            true => tally.accounts_opened += 1,
            false => tally.accounts_existing += 1,
        });
        Ok(())
    }

    async fn post(&self, account: &str, stream: &Stream, row: &Row) -> Result<(), End> {
        let amount = row.amount.to_decimal(Currency::USD);
        let (verb, noun) = match row.direction {
            Direction::Deposit => ("deposit", "deposit"),
            Direction::Withdrawal => ("withdraw", "withdrawal"),
        };
        let place = Place {
            line: row.line,
            what: &|| format!("the {noun} of {amount} for the account {:?}", stream.account),
        };
        let path = format!("/accounts/{account}/{verb}");
        let body = format!(r#"{{"amount":{amount}}}"#);
        let mut refusals = 0;
        let response = loop {
            let response = self.ask(&place, &path, &body, &key(&row.id, refusals)).await?;
            if response.status.is_success() {
                break response;
            }
            if !is_replayed(&response) || refusals == REPLAYED_REFUSALS_MAX {
                return Err(End::Error(place.refused(&response)));
            }
            refusals += 1;
        };
        self.succeeded(|tally| {
            let (count, signed) = match row.direction {
                Direction::Deposit => (&mut tally.deposits, row.amount),
                Direction::Withdrawal => (&mut tally.withdrawals, row.amount.negated()),
            };
            match is_replayed(&response) {
                true => count.replayed += 1,
                false => count.applied += 1,
            }
            let total = tally.total.checked_add(signed);
            tally.total = total.expect("the file's amounts were added up when it was read");
        });
        Ok(())
    }

    /// Posts a request, and repeats it until there is a reply that counts.
    async fn ask(&self, place: &Place<'_>, path: &str, body: &str, key: &str) -> Result<Response, End> {
        let mut stop = self.stop.subscribe();
        let mut pause = PAUSE_MIN;
        loop {
            if *stop.borrow_and_update() {
                return Err(End::Stopped);
            }
            let reply = self.client.post_json(path, body.to_owned(), Some(key)).await;
            let (reason, asked) = match reply {
                Ok(response) => match reason_to_repeat(&response) {
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
                    let (line, what) = (place.line, (place.what)());
                    return Err(End::Error(PlayError::Failed { line, what, source }));
                }
            };
            tracing::debug!(line = place.line, reason, "a request will be repeated");
            if self.time_without_success() >= self.patience {
                let patience = self.patience;
                return Err(End::Error(PlayError::NoProgress { patience, reason }));
            }
            *self.board.waiting.lock() = Some(reason);
            // An error would mean that the player is gone, and with it this.
            let _ = tokio::time::timeout(pause.max(asked), stop.wait_for(|stop| *stop)).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
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

impl Place<'_> {
    fn refused(&self, response: &Response) -> PlayError {
        let problem = problem(response);
        let mut refusal = response.status.as_u16().to_string();
        let fields = problem.errors.iter();
        let fields = fields.map(|error| format!("({} {})", error.pointer, error.detail));
        for part in [problem.code, problem.detail].into_iter().chain(fields) {
            if !part.is_empty() {
                refusal.push(' ');
                refusal.push_str(&part);
            }
        }
        PlayError::Refused { line: self.line, what: (self.what)(), refusal }
    }
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
        Problem { detail: text.trim().chars().take(REFUSAL_CHARACTERS_MAX).collect(), ..Problem::default() }
    })
}

/// Whether the reply is that of an earlier request with the same key.
fn is_replayed(response: &Response) -> bool {
    response.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// The refusal of a server that remembers as many idempotency keys as it may, until the oldest are forgotten.
const KEYS_EXHAUSTED: &str = "idempotency-keys-exhausted";

/// Why a request should be repeated as it is, if it should: the server says so, or a proxy before it cannot reach
/// it.
fn reason_to_repeat(response: &Response) -> Option<String> {
    if response.status.is_success() {
        return None;
    }
    let Problem { code, detail, retryable, .. } = problem(response);
    // True, but not for hours: the server remembers as many keys as it may.
    let retryable = if code == KEYS_EXHAUSTED { Some(false) } else { retryable };
    let repeat = retryable.unwrap_or(matches!(
        response.status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    ));
    let answer = [response.status.as_str(), &code, &detail].join(" ");
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

/// The key for a transaction, after so many refusals of it. An id that a header cannot carry, byte for byte and
/// undisputed, is replaced by its hash.
fn key(id: &str, refusals: u32) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+".contains(&byte);
    let key = format!("import-{id}");
    if refusals == 0 && key.len() <= KEY_BYTES_MAX && id.bytes().all(plain) {
        return key;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&refusals.to_le_bytes()).update(id.as_bytes());
    format!("import-blake3-{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests;
