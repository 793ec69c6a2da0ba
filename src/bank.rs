//! The bank: everything that a caller can ask, in the words of the domain.
//!
//! It finds the shard, asks it, reads history, and knows how a repeated request gets its first answer. HTTP is
//! above it, shards and logs below; it has no state of its own.
//!
//! # Idempotency keys
//! A key belongs to the place that it is sent to: to one account, or to the collection of accounts. It is
//! remembered by the shard that executes the request, in the same event as the effect, so the two cannot come
//! apart. Requests to open accounts with one key but different names would go to different shards, each
//! unaware of the other; they are first claimed at the key's home shard, durably, and only then executed. A
//! crash between the two leaves a claim without effect, which the client's retry completes.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::ledger::{
    AccountId, AccountName, AccountRef, Amount, Change, Command, Direction, Event, IdempotencyKey, Rejection,
    Sequence, ShardId, Target, Timestamp, TransactionId,
};
use crate::router::Router;
use crate::shard::batch::{AccountView, Reply, Request, TrialBalance};
use crate::shard::handle::{ShardError, ShardHandle};
use crate::storage::StorageError;
use crate::storage::history::{HistoryEntry, HistoryReader};
use crate::storage::journal::JournalReader;

/// How many readers of history work at one time. Each is a thread that may wait for the disk.
const HISTORY_READERS_MAX: usize = 16;

/// How many more wait for one of them to be done; beyond that a request is refused at once.
const HISTORY_READERS_WAITING_MAX: usize = 256;

/// How many entries a page of history has at most.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// A shard as the bank uses it.
pub struct BankShard {
    /// The way to its worker.
    pub handle: ShardHandle,
    /// Its log.
    pub log: Arc<dyn JournalReader>,
}

/// The bank. Share it behind an [`Arc`].
pub struct Bank {
    router: Router,
    shards: Vec<BankShard>,
    /// The overdraft limit of accounts without one of their own.
    overdraft_limit: Amount,
    history_places: Semaphore,
    history_readers: Arc<Semaphore>,
}

/// Who asks for a change, and how it may be repeated.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The idempotency key, if the client sent one; it is already bound to its scope and to the request.
    pub key: Option<IdempotencyKey>,
    /// The request's id.
    pub request_id: Box<str>,
}

/// The account that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountSelector {
    /// By name; open accounts only.
    Name(AccountName),
    /// By id; closed accounts too.
    Id(AccountId),
}

/// A change that was made, now or by an earlier request with the same idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub struct Done<T> {
    /// What was made.
    pub value: T,
    /// Whether an earlier request made it.
    pub replayed: bool,
}

/// A newly opened account.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenedAccount {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: AccountName,
    /// How far below zero it may go: its own limit, or the service's as it is set now.
    pub overdraft_limit: Amount,
}

/// One entry of an account's history that moved money.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Its id.
    pub id: TransactionId,
    /// Which way the money went.
    pub direction: Direction,
    /// How much; positive.
    pub amount: Amount,
    /// The account's balance after it.
    pub balance: Amount,
    /// The account's version after it.
    pub version: u64,
}

/// In which order a list comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Descending,
    /// Oldest first.
    Ascending,
}

/// A part of an account's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The account, as it is now.
    pub account: AccountView,
    /// Its transactions.
    pub transactions: Vec<Transaction>,
    /// The version at which the next page starts, if there is more.
    pub next: Option<u64>,
}

/// Why the bank does not do, or does not answer, what it is asked.
#[derive(Debug)]
pub enum Refusal {
    /// The ledger refuses.
    Rejected {
        /// Why.
        rejection: Rejection,
        /// For a repeated request, the id of the first one, which its reply showed.
        first_request_id: Option<Box<str>>,
    },
    /// There is no such transaction.
    TransactionNotFound,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The first request with the idempotency key is still being worked on.
    KeyInFlight,
    /// No further idempotency keys can be remembered now.
    KeysExhausted,
    /// The disk is full: nothing can be changed now.
    DiskFull,
    /// Too much is waiting already. Nothing was done.
    Overloaded,
    /// The service is ending. What was asked may or may not have been done: ask again with the same key.
    Ended,
    /// History could not be read.
    Storage(StorageError),
}

impl From<ShardError> for Refusal {
    fn from(error: ShardError) -> Refusal {
        match error {
            ShardError::Overloaded => Refusal::Overloaded,
            ShardError::Ended => Refusal::Ended,
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        Refusal::Rejected { rejection, first_request_id: None }
    }
}

impl Bank {
    /// A bank over these shards, in their order, whose accounts may go below zero by `overdraft_limit` unless
    /// they have a limit of their own.
    pub fn new(shards: Vec<BankShard>, overdraft_limit: Amount) -> Bank {
        Bank {
            router: Router::new(shards.len()),
            shards,
            overdraft_limit,
            history_places: Semaphore::new(HISTORY_READERS_MAX + HISTORY_READERS_WAITING_MAX),
            history_readers: Arc::new(Semaphore::new(HISTORY_READERS_MAX)),
        }
    }

    /// The shards, in their order.
    pub fn shards(&self) -> &[BankShard] {
        &self.shards
    }

    /// Opens an account.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn open(
        &self,
        name: AccountName,
        overdraft_limit: Option<Amount>,
        origin: Origin,
    ) -> Result<Done<OpenedAccount>, Refusal> {
        let shard = self.router.of_name(&name);
        if let Some(key) = origin.key {
            let home = self.router.of_key(&key.digest);
            if home != shard {
                self.claim(home, key, &origin.request_id).await?;
            }
        }
        let done = self.execute(shard, Command::Open { name, overdraft_limit }, origin).await?;
        let (_, event) = done.value;
        let Change::Opened { account, name, overdraft_limit, .. } = event.change else {
            unreachable!("a key's fingerprint binds it to its kind of request");
        };
        let overdraft_limit = overdraft_limit.unwrap_or(self.overdraft_limit);
        let id = AccountId { opened: event.time, shard, number: account };
        Ok(Done { value: OpenedAccount { id, name, overdraft_limit }, replayed: done.replayed })
    }

    /// Pays into or out of an account, provided that it is at `version`, if one is given.
    ///
    /// # Errors
    /// See [`Refusal`].
    ///
    /// # Panics
    /// If the amount is not positive.
    pub async fn post(
        &self,
        account: AccountSelector,
        version: Option<u64>,
        direction: Direction,
        amount: Amount,
        origin: Origin,
    ) -> Result<Done<Transaction>, Refusal> {
        assert!(amount.is_positive(), "amounts are checked where they are read");
        let (shard, account) = self.locate(account)?;
        let target = Target { account, version };
        let command = match direction {
            Direction::Deposit => Command::Deposit { target, amount },
            Direction::Withdrawal => Command::Withdraw { target, amount },
        };
        let done = self.execute(shard, command, origin).await?;
        let (sequence, event) = done.value;
        let transaction = transaction(shard, sequence, &event);
        Ok(Done {
            value: transaction.expect("a key's fingerprint binds it to its kind of request"),
            replayed: done.replayed,
        })
    }

    /// Closes an account, provided that it is at `version`, if one is given.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn close(
        &self,
        account: AccountSelector,
        version: Option<u64>,
        origin: Origin,
    ) -> Result<Done<()>, Refusal> {
        let (shard, account) = self.locate(account)?;
        let command = Command::Close { target: Target { account, version } };
        let done = self.execute(shard, command, origin).await?;
        Ok(Done { value: (), replayed: done.replayed })
    }

    /// Reads an account.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn account(&self, account: AccountSelector) -> Result<AccountView, Refusal> {
        let (shard, account) = self.locate(account)?;
        self.view(shard, Request::Account(account)).await
    }

    /// Reads a transaction and the account that it belongs to.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn transaction(&self, id: TransactionId) -> Result<(Transaction, AccountView), Refusal> {
        let shard = self.shards.get(id.shard.index()).ok_or(Refusal::TransactionNotFound)?;
        // What is not durable has not been acknowledged: to its reader it is not there yet (P1).
        if id.sequence > shard.handle.durable() {
            return Err(Refusal::TransactionNotFound);
        }
        let event = self.read_history(id.shard, move |history| history.event(id.sequence)).await?;
        let event = event.filter(|event| event.time == id.time).ok_or(Refusal::TransactionNotFound)?;
        let transaction = transaction(id.shard, id.sequence, &event).ok_or(Refusal::TransactionNotFound)?;
        let (number, _) = event.change.account().ok_or(Refusal::TransactionNotFound)?;
        Ok((transaction, self.view(id.shard, Request::AccountByNumber(number)).await?))
    }

    /// Reads a page of an account's transactions, of at most `count`, from the version `from` on; without
    /// `from`, from the account's newest or oldest.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn history(
        &self,
        account: AccountSelector,
        order: Order,
        from: Option<u64>,
        count: usize,
    ) -> Result<Page, Refusal> {
        let count = count.clamp(1, PAGE_ENTRIES_MAX);
        let (shard, account) = self.locate(account)?;
        let account = self.view(shard, Request::Account(account)).await?;
        let Range { first, last } = transaction_versions(&account);
        // The page in versions, both ends included; one version more than asked tells where the next starts.
        let (low, high, next) = match order {
            Order::Descending => {
                let high = from.unwrap_or(last).min(last);
                let low = high.saturating_sub(count as u64 - 1).max(first);
                (low, high, (low > first).then(|| low - 1))
            }
            Order::Ascending => {
                let low = from.unwrap_or(first).max(first);
                let high = low.saturating_add(count as u64 - 1).min(last);
                (low, high, (high < last).then(|| high + 1))
            }
        };
        if low > high {
            return Ok(Page { account, transactions: Vec::new(), next: None });
        }
        let (number, newest, version) = (account.id.number, account.newest, account.version);
        let entries = self
            .read_history(shard, move |history| {
                history.entries(number, newest, version, high, (high - low + 1) as usize)
            })
            .await?;
        let in_page = |entry: HistoryEntry| transaction(shard, entry.sequence, &entry.event);
        let mut transactions: Vec<Transaction> = entries.into_iter().filter_map(in_page).collect();
        if order == Order::Ascending {
            transactions.reverse();
        }
        Ok(Page { account, transactions, next })
    }

    /// Adds up all accounts and `@world`, by currency.
    ///
    /// Each shard adds up at a moment of its own. No event spans two shards, so the sum is zero all the same.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn trial_balance(&self) -> Result<TrialBalance, Refusal> {
        let mut total = TrialBalance::default();
        for shard in &self.shards {
            match shard.handle.ask(Request::TrialBalance).await? {
                Reply::TrialBalance(balance) => total.add(&balance),
                other => unreachable!("a trial balance was asked for, not {other:?}"),
            }
        }
        Ok(total)
    }

    async fn claim(&self, home: ShardId, key: IdempotencyKey, request_id: &str) -> Result<(), Refusal> {
        let request =
            Request::Execute { command: Command::Claim, key: Some(key), request_id: request_id.into() };
        match self.shard(home).handle.ask(request).await? {
            Reply::Claimed | Reply::Settled(_) => Ok(()),
            reply => Err(refusal(reply)),
        }
    }

    /// Has a shard execute a command, or finds the event with which it did so before.
    async fn execute(
        &self,
        shard: ShardId,
        command: Command,
        origin: Origin,
    ) -> Result<Done<(Sequence, Event)>, Refusal> {
        let request = Request::Execute { command, key: origin.key, request_id: origin.request_id };
        match self.shard(shard).handle.ask(request).await? {
            Reply::Executed { sequence, event } => Ok(Done { value: (sequence, event), replayed: false }),
            Reply::Settled(sequence) => {
                let event = self.read_history(shard, move |history| history.event(sequence)).await?;
                let event =
                    event.expect("the outcome of a key is in the log as long as the key is remembered");
                match event.change {
                    Change::Refused { rejection, request_id } => {
                        Err(Refusal::Rejected { rejection, first_request_id: Some(request_id) })
                    }
                    _ => Ok(Done { value: (sequence, event), replayed: true }),
                }
            }
            reply => Err(refusal(reply)),
        }
    }

    async fn view(&self, shard: ShardId, request: Request) -> Result<AccountView, Refusal> {
        match self.shard(shard).handle.ask(request).await? {
            Reply::Account(account) => account.ok_or(Refusal::from(Rejection::AccountNotFound)),
            other => unreachable!("an account was asked for, not {other:?}"),
        }
    }

    /// Reads a shard's log on a thread that may block.
    async fn read_history<T: Send + 'static>(
        &self,
        shard: ShardId,
        read: impl FnOnce(&mut HistoryReader<'_>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = self.history_places.try_acquire().map_err(|_| Refusal::Overloaded)?;
        let reader = Arc::clone(&self.history_readers).acquire_owned().await.map_err(|_| Refusal::Ended)?;
        let log = Arc::clone(&self.shard(shard).log);
        tokio::task::spawn_blocking(move || {
            // Held by the thread: a client that goes away does not free the place of a thread that works on.
            let _reader = reader;
            read(&mut HistoryReader::new(shard, &*log))
        })
        .await
        .map_err(|_| Refusal::Ended)?
        .map_err(Refusal::Storage)
    }

    fn locate(&self, account: AccountSelector) -> Result<(ShardId, AccountRef), Refusal> {
        match account {
            AccountSelector::Name(name) => Ok((self.router.of_name(&name), AccountRef::Name(name))),
            AccountSelector::Id(AccountId { opened, shard, number }) => {
                if shard.index() >= self.shards.len() {
                    return Err(Rejection::AccountNotFound.into());
                }
                Ok((shard, AccountRef::Number { number, opened }))
            }
        }
    }

    fn shard(&self, shard: ShardId) -> &BankShard {
        &self.shards[shard.index()]
    }
}

/// The versions of an account at which it can have transactions: behind its opening, before its closing.
fn transaction_versions(account: &AccountView) -> Range {
    let last = if account.closed.is_some() { account.version - 1 } else { account.version };
    Range { first: 2, last }
}

struct Range {
    first: u64,
    last: u64,
}

fn transaction(shard: ShardId, sequence: Sequence, event: &Event) -> Option<Transaction> {
    match &event.change {
        Change::Posted { direction, amount, entry, .. } => Some(Transaction {
            id: TransactionId { time: event.time, shard, sequence },
            direction: *direction,
            amount: *amount,
            balance: entry.balance,
            version: entry.version,
        }),
        _ => None,
    }
}

fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(rejection) => rejection.into(),
        Reply::KeyReused => Refusal::KeyReused,
        Reply::KeyInFlight => Refusal::KeyInFlight,
        Reply::KeysExhausted => Refusal::KeysExhausted,
        Reply::DiskFull => Refusal::DiskFull,
        reply @ (Reply::Executed { .. }
        | Reply::Settled(_)
        | Reply::Claimed
        | Reply::Account(_)
        | Reply::TrialBalance(_)) => unreachable!("{reply:?} answers another request"),
    }
}

impl Transaction {
    /// When it was booked.
    pub fn created(&self) -> Timestamp {
        self.id.time
    }
}
