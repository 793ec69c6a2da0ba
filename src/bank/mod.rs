//! The bank: everything that a caller can ask, in the words of the domain.
//!
//! It finds the shard, asks it, reads history, and knows how a repeated request gets its first answer. HTTP is
//! above it, shards and logs below; it has no state of its own but for what spares it to read twice, who waits, and in
//! which turn.
//!
//! # Idempotency keys
//! A key belongs to the place that it is sent to: to one account, or to a collection (of accounts, transfers, holds,
//! batches). An account's keys are remembered by its shard, a collection's by the home shard that the key itself
//! says. Either way the key is written down with the outcome, in one event or in the two halves of one decision, so
//! the two cannot come apart.

mod batch;
mod brake;
pub mod events;
mod history;
mod holds;
mod readers;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use smallvec::smallvec;

pub use batch::{
    BATCH_ATOMIC_ITEMS_MAX, BATCH_ITEMS_MAX, BatchItem, BatchItems, BatchOutcome, BatchRefusal, BatchResult,
};
pub use brake::Brake;
pub use history::{
    AccountEntry, ENTRIES_EXAMINED_MAX, EntryFilter, Order, Page, PastAccount, Point, STATEMENT_ENTRIES_MAX,
    Statement, StatementLine,
};
pub use readers::Readers;

use crate::ledger::operation::{Condition, HomedKey, Item, Opening, Operation, Place, Sum, VelocityTerms};
use crate::ledger::{
    AccountChange, AccountId, AccountName, AccountNumber, AccountRef, Amount, Change, Command, Currency,
    Decision, Direction, Event, HoldId, IdempotencyKey, ItemOutcome, Kind, Note, Opened, Outcome,
    OverdraftDefault, Quantity, Rejected, Rejection, Sequence, ShardId, Target, Timestamp, TransactionId,
    TransactionType,
};
use crate::router::Router;
use crate::shard::figures::ShardFigures;
use crate::shard::handle::{Asked, ShardError, ShardHandle};
use crate::shard::request::{AccountFilter, AccountView, Reply, Request, TrialBalance};
use crate::shard::work::{ItemReply, WorkReply, WorkRequest};
use crate::storage::StorageError;
use crate::storage::journal::JournalReader;

/// How many entries a page of history has at most.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// Why what is remembered with a key is what a request with that key asks for.
const OF_ITS_KIND: &str = "a key's fingerprint binds it to its kind of request";

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
    /// The overdraft limit of accounts without one of their own, and the currency of those opened without one.
    overdraft: OverdraftDefault,
    readers: Readers,
    accounts_known: events::AccountsKnown,
    hold_searches: holds::Searches,
    /// Numbers batches, so that the parts of each are decided in turn.
    turns: AtomicU64,
    brake: Brake,
}

/// Who asks for a change, and how it may be repeated.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The idempotency key, if the client sent one; it is already bound to its scope and to the request.
    pub key: Option<IdempotencyKey>,
    /// The request's id, which is kept with what is kept for its keys; empty if it has none.
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
    /// Its currency.
    pub currency: Currency,
    /// How far below zero it may go: its own limit, or the service's as it is set now.
    pub overdraft_limit: Amount,
    /// What it was opened with.
    pub opened: Opened,
}

/// A deposit or withdrawal of one account.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Its id.
    pub id: TransactionId,
    /// The account.
    pub account: AccountId,
    /// The currency of its amounts.
    pub currency: Currency,
    /// Which way the money went.
    pub direction: Direction,
    /// How much; positive.
    pub amount: Amount,
    /// The account's balance after it.
    pub balance: Amount,
    /// The account's version after it.
    pub version: u64,
}

/// An operation that was executed, and what it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// Its id; that of a transfer, for one.
    pub id: TransactionId,
    /// What changed.
    pub decision: Arc<Decision>,
}

impl Executed {
    /// Its type.
    pub fn transaction_type(&self) -> TransactionType {
        TransactionType::of(&self.decision.kind).expect("book-keeping is no account's")
    }

    /// The refusal to show it where only others are.
    pub fn of_another_type(&self) -> Refusal {
        Refusal::OfAnotherType { id: self.id, found: self.transaction_type() }
    }
}

/// The shard that remembers the idempotency key of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHome {
    /// That of this account's place.
    Shard(ShardId),
    /// The one that the key itself says.
    Key,
}

/// Why the bank does not do, or does not answer, what it is asked.
#[derive(Debug)]
pub enum Refusal {
    /// The ledger refuses.
    Rejected {
        /// Why, and which of the operation's accounts met it.
        rejected: Box<Rejected>,
        /// For a repeated request, the id of the first one, which its reply showed.
        first_request_id: Option<Box<str>>,
    },
    /// There is no such transaction.
    TransactionNotFound,
    /// The transaction is of another type than those that were asked for.
    OfAnotherType {
        /// The transaction.
        id: TransactionId,
        /// Its type.
        found: TransactionType,
    },
    /// The transaction is of this type, and only a transfer is reversed.
    NotReversible(TransactionType),
    /// The account was opened after the moment, or has not reached the version, that was asked about.
    NotThere,
    /// The statement is of too many entries.
    StatementTooLong,
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

impl Refusal {
    /// The same refusal for another part of the same request.
    fn again(&self) -> Refusal {
        match self {
            Refusal::DiskFull => Refusal::DiskFull,
            Refusal::Ended => Refusal::Ended,
            _ => Refusal::Overloaded,
        }
    }
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
        Refusal::Rejected { rejected: Box::new(rejection.into()), first_request_id: None }
    }
}

impl Bank {
    /// A bank over these shards, in their order, whose accounts may go below zero by the default unless they have a
    /// limit of their own, and are in its currency unless they ask for another.
    pub fn new(shards: Vec<BankShard>, overdraft: OverdraftDefault, readers: Readers) -> Bank {
        Bank {
            router: Router::new(shards.len()),
            shards,
            overdraft,
            readers,
            accounts_known: events::AccountsKnown::default(),
            hold_searches: holds::Searches::default(),
            turns: AtomicU64::new(0),
            brake: Brake::default(),
        }
    }

    /// The same with this brake on its batches, instead of none.
    #[must_use]
    pub fn braked_by(self, brake: Brake) -> Bank {
        Bank { brake, ..self }
    }

    /// The shards, in their order.
    pub fn shards(&self) -> &[BankShard] {
        &self.shards
    }

    /// What there is to see of each shard now, in their order.
    pub fn shard_figures(&self) -> Vec<ShardFigures> {
        self.shards.iter().map(|shard| shard.handle.figures()).collect()
    }

    /// How many readings of history are under way or wait for a thread.
    pub fn history_readings(&self) -> usize {
        self.readers.readings()
    }

    /// The currency of accounts that are opened without one.
    pub fn currency(&self) -> Currency {
        self.overdraft.currency
    }

    /// Where an account is, for an operation. One that no shard here can have is looked for in vain like any other.
    pub fn place(&self, account: AccountSelector) -> Place {
        match self.locate(account) {
            Ok((shard, account)) => Place { shard, account },
            Err(opened) => Place {
                shard: ShardId::FIRST,
                account: AccountRef::Number { number: AccountNumber::new(u32::MAX), opened },
            },
        }
    }

    /// The operation that opens an account.
    pub fn opening(&self, opening: Opening) -> Operation {
        Operation::Open { shard: self.router.of_name(&opening.name), opening: Box::new(opening) }
    }

    /// Opens an account.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn open(&self, opening: Opening, origin: Origin) -> Result<Done<OpenedAccount>, Refusal> {
        let shard = self.router.of_name(&opening.name);
        let key_is_here = origin.key.is_none_or(|key| self.router.of_key(&key.digest) == shard);
        let is_plain = opening.reference.is_none()
            && opening.metadata.is_empty()
            && !opening.unique_reference
            && opening.velocity == VelocityTerms::default();
        let executed = if is_plain && key_is_here {
            let Opening { name, currency, overdraft_limit, .. } = opening;
            let command = Command::Open { name, currency, overdraft_limit };
            self.execute(shard, command, origin).await?.into_executed(shard)
        } else {
            self.operate(self.opening(opening), Vec::new(), KeyHome::Key, false, origin).await?
        };
        let value = self.opened(&executed.value);
        Ok(Done { value, replayed: executed.replayed })
    }

    /// The account that an opening has opened.
    ///
    /// # Panics
    /// If it is no opening.
    pub fn opened(&self, opening: &Executed) -> OpenedAccount {
        let (shard, effect) = opening.decision.effects().next().expect("an opening has an account");
        let AccountChange::Opened(opened) = &effect.change else {
            unreachable!("{OF_ITS_KIND}");
        };
        let default_limit = self.overdraft.for_currency(effect.currency);
        OpenedAccount {
            id: effect.account_id(shard),
            currency: effect.currency,
            overdraft_limit: opened.overdraft_limit.unwrap_or(default_limit),
            opened: (**opened).clone(),
        }
    }

    /// Pays into or out of an account, provided that it is at `version`, if one is given. Asks at once; what is returned
    /// waits for the reply, and is small: what is rarer than an event is boxed.
    ///
    /// # Errors
    /// See [`Refusal`].
    ///
    /// # Panics
    /// If the amount is not positive.
    pub fn post(
        &self,
        account: AccountSelector,
        version: Option<u64>,
        direction: Direction,
        amount: Quantity,
        origin: Origin,
    ) -> impl Future<Output = Result<Done<Transaction>, Refusal>> {
        assert!(amount.is_positive(), "amounts are checked where they are read");
        let asked = self.locate(account).map(|(shard, account)| {
            (shard, self.ask(shard, posting(direction, Target { account, version }, amount), origin))
        });
        async move {
            let (shard, asked) = asked.map_err(|_| Rejection::AccountNotFound)?;
            let rarer = match asked.await? {
                Reply::Executed { sequence, event, opened, currency } => {
                    let value = transaction(shard, sequence, &event, opened, currency);
                    return Ok(Done { value: value.expect(OF_ITS_KIND), replayed: false });
                }
                reply => Box::pin(self.outcome(shard, reply)),
            };
            let done = rarer.await?;
            let value = match done.value {
                Short::Event { sequence, event, opened, currency } => {
                    transaction(shard, sequence, &event, opened, currency)
                }
                Short::Executed(executed) => transaction_of(&executed),
            };
            Ok(Done { value: value.expect(OF_ITS_KIND), replayed: done.replayed })
        }
    }

    /// Pays into or out of an account, as [`Bank::post`] does, with what the client says about it.
    ///
    /// # Errors
    /// See [`Refusal`].
    ///
    /// # Panics
    /// If the amount is not positive.
    pub async fn post_noted(
        &self,
        account: AccountSelector,
        version: Option<u64>,
        direction: Direction,
        amount: Quantity,
        note: Note,
        origin: Origin,
    ) -> Result<Done<AccountEntry>, Refusal> {
        assert!(amount.is_positive(), "amounts are checked where they are read");
        let (shard, account) = self.located(account)?;
        let done = if note.is_empty() {
            let command = posting(direction, Target { account, version }, amount);
            self.execute(shard, command, origin).await?.into_executed(shard)
        } else {
            let account = Place { shard, account };
            let conditions = Condition::matching(&account, version);
            let operation = match direction {
                Direction::Deposit => Operation::Deposit { account, amount, note },
                Direction::Withdrawal => Operation::Withdraw { account, amount: Sum::Exactly(amount), note },
            };
            self.operate(operation, conditions, KeyHome::Shard(shard), false, origin).await?
        };
        let (shard, effect) = done.value.decision.effects().next().expect("a posting has an account");
        let account = effect.account_id(shard);
        let value = AccountEntry { account, executed: done.value, held_change: Amount::ZERO };
        Ok(Done { value, replayed: done.replayed })
    }

    /// Executes an operation, under conditions; in a dry run, only says what would happen. Asks at once; what is returned
    /// waits for the reply, and is small: what comes of anything but success is boxed.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn operate(
        &self,
        operation: Operation,
        conditions: Vec<Condition>,
        home: KeyHome,
        dry_run: bool,
        origin: Origin,
    ) -> impl Future<Output = Result<Done<Executed>, Refusal>> {
        let hold = holds::ended_by(&operation);
        // A dry run leaves nothing to remember.
        let key = origin.key.filter(|_| !dry_run).map(|key| self.homed(key, home));
        let items = smallvec![Item { operation, conditions, key }];
        let is_possible = hold.is_none_or(|hold| hold.shard.index() < self.shards.len());
        let asked = is_possible.then(|| {
            let shards = self.shards.len();
            self.ask_work(WorkRequest::of(items, None, false, dry_run, origin.request_id, shards))
        });
        async move {
            let Some(asked) = asked else { return Err(Rejection::HoldNotFound.into()) };
            let rarer = match asked.await {
                Ok(WorkReply::Items(mut items)) => match items.pop().expect("an item has a reply") {
                    ItemReply::Done { id, decision } => {
                        return Ok(Done { value: Executed { id, decision }, replayed: false });
                    }
                    ItemReply::Not(outcome) => Box::pin(self.not_executed(outcome, hold)),
                },
                Ok(reply) => return Err(refusal(Reply::Worked(reply))),
                Err(refusal) => return Err(refusal),
            };
            rarer.await
        }
    }

    /// What an operation comes to that was not executed; it would have ended this hold.
    async fn not_executed(
        &self,
        outcome: ItemOutcome,
        hold: Option<HoldId>,
    ) -> Result<Done<Executed>, Refusal> {
        let refusal = match outcome {
            ItemOutcome::Settled(outcome) => match self.settled(outcome).await {
                Ok(done) => return Ok(done),
                Err(refusal) => refusal,
            },
            outcome => item_refusal(outcome),
        };
        match hold {
            Some(hold) => Err(self.told_of_hold(hold, refusal, &mut holds::Budget::default()).await),
            None => Err(refusal),
        }
    }

    /// Pays a transfer back, or a part of it. See [`Operation::Reverse`]. What is refused for one of its accounts says which
    /// one by its place among the transfer's effects.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn reverse(
        &self,
        transfer: &Executed,
        amount: Option<Quantity>,
        note: Note,
        dry_run: bool,
        origin: Origin,
    ) -> Result<Done<Executed>, Refusal> {
        if transfer.decision.kind != Kind::Transfer {
            return Err(Refusal::NotReversible(transfer.transaction_type()));
        }
        let legs = transfer.decision.effects().map(|(shard, effect)| {
            let account = AccountRef::Number { number: effect.account, opened: effect.opened };
            (Place { shard, account }, effect.change.posted())
        });
        let operation = Operation::Reverse { transfer: transfer.id, legs: legs.collect(), amount, note };
        self.operate(operation, Vec::new(), KeyHome::Key, dry_run, origin).await
    }

    /// By which transaction a transfer was reversed, if it was.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn reversal_of(&self, transfer: TransactionId) -> Result<Option<TransactionId>, Refusal> {
        let shard = self.shards.get(transfer.shard.index()).ok_or(Refusal::TransactionNotFound)?;
        match shard.handle.ask(Request::Reversal(transfer.sequence)).await? {
            Reply::Reversal(by) => Ok(by),
            reply => Err(refusal(reply)),
        }
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
        let (shard, account) = self.located(account)?;
        let command = Command::Close { target: Target { account, version } };
        let done = self.execute(shard, command, origin).await?;
        Ok(Done { value: (), replayed: done.replayed })
    }

    /// Reads an account.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn account(&self, account: AccountSelector) -> Result<AccountView, Refusal> {
        let (shard, account) = self.located(account)?;
        if let Some(view) = self.shard(shard).handle.glance(&account) {
            return Ok(view);
        }
        self.view(shard, Request::Account(account)).await
    }

    /// The id of an account, also by the name of a closed one: a name has one account for ever.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn account_id(&self, account: AccountSelector) -> Result<AccountId, Refusal> {
        let (shard, account) = self.located(account)?;
        if let Some(view) = self.shard(shard).handle.glance(&account) {
            return Ok(view.id);
        }
        let request = match account {
            AccountRef::Name(name) => Request::AccountEverNamed(name),
            account => Request::Account(account),
        };
        Ok(self.view(shard, request).await?.id)
    }

    /// Reads a page of all accounts, in the order of their shards and numbers, from `from` on; with where the next
    /// one starts, if there may be more. A page may have fewer accounts than asked for, even none.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn accounts(
        &self,
        filter: Arc<AccountFilter>,
        from: (ShardId, AccountNumber),
        count: usize,
    ) -> Result<(Vec<AccountView>, Option<(ShardId, AccountNumber)>), Refusal> {
        let count = count.clamp(1, PAGE_ENTRIES_MAX);
        let mut page = Vec::new();
        let (mut shard, mut from) = from;
        while let Some(here) = self.shards.get(shard.index()) {
            let request = Request::Accounts { from, count: count - page.len(), filter: Arc::clone(&filter) };
            let (accounts, next) = match here.handle.ask(request).await? {
                Reply::Accounts { accounts, next } => (accounts, next),
                reply => return Err(refusal(reply)),
            };
            page.extend(accounts);
            if let Some(next) = next {
                return Ok((page, Some((shard, next))));
            }
            let Some(after) = ShardId::new(shard.index() + 1).filter(|id| id.index() < self.shards.len())
            else {
                return Ok((page, None));
            };
            (shard, from) = (after, AccountNumber::new(0));
            if page.len() == count {
                return Ok((page, Some((shard, from))));
            }
        }
        Ok((page, None))
    }

    /// Reads a deposit or withdrawal of one account, and the account.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn transaction(&self, id: TransactionId) -> Result<(Transaction, AccountView), Refusal> {
        let executed = self.executed(id).await?;
        let transaction = transaction_of(&executed).ok_or_else(|| executed.of_another_type())?;
        let AccountId { shard, number, .. } = transaction.account;
        Ok((transaction, self.view(shard, Request::AccountByNumber(number)).await?))
    }

    /// Reads what was decided as a transaction: any operation on accounts, by its id.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn executed(&self, id: TransactionId) -> Result<Executed, Refusal> {
        let shard = self.shards.get(id.shard.index()).ok_or(Refusal::TransactionNotFound)?;
        // What is not durable has not been acknowledged: to its reader it is not there yet (P1).
        if id.sequence > shard.handle.durable() {
            return Err(Refusal::TransactionNotFound);
        }
        let event = self.read_history(id.shard, move |history| history.event(id.sequence)).await?;
        let event = event.filter(|event| event.time == id.time).ok_or(Refusal::TransactionNotFound)?;
        match &event.change {
            Change::Opened { account, .. }
            | Change::Posted { account, .. }
            | Change::Closed { account, .. } => {
                let account = self.view(id.shard, Request::AccountByNumber(*account)).await?;
                let (opened, currency) = (account.id.opened, account.currency);
                Ok(executed_short(id.shard, id.sequence, &event, opened, currency))
            }
            Change::Decided { decision, .. } => match decision.kind {
                Kind::Refusal { .. } | Kind::Batch { .. } => Err(Refusal::TransactionNotFound),
                _ => Ok(Executed { id, decision: Arc::clone(decision) }),
            },
            // A settlement is the other half of a decision, which has the id.
            Change::Settled { .. } | Change::Refused { .. } | Change::Claimed => {
                Err(Refusal::TransactionNotFound)
            }
        }
    }

    /// Adds up all accounts and `@world`, by currency.
    ///
    /// Each shard adds up at a moment of its own, its clearing part included, so the sum is zero all the same: what one
    /// has seen and the other has not is in flight.
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

    /// Has a shard execute a command, or finds the event with which it did so before.
    async fn execute(
        &self,
        shard: ShardId,
        command: Command,
        origin: Origin,
    ) -> Result<Done<Short>, Refusal> {
        let reply = self.ask(shard, command, origin).await?;
        self.outcome(shard, reply).await
    }

    fn ask(&self, shard: ShardId, command: Command, origin: Origin) -> Asked {
        let request = Request::Execute { command, key: origin.key, request_id: origin.request_id };
        self.shard(shard).handle.ask(request)
    }

    /// What a shard's reply to a command comes to.
    async fn outcome(&self, shard: ShardId, reply: Reply) -> Result<Done<Short>, Refusal> {
        match reply {
            Reply::Executed { sequence, event, opened, currency } => {
                Ok(Done { value: Short::Event { sequence, event, opened, currency }, replayed: false })
            }
            Reply::Settled(sequence) => self.settled_short(Outcome { shard, sequence }).await,
            // It took another account's help.
            Reply::Worked(WorkReply::Items(items)) => match items.into_iter().next() {
                Some(ItemReply::Done { id, decision }) => {
                    Ok(Done { value: Short::Executed(Executed { id, decision }), replayed: false })
                }
                Some(ItemReply::Not(ItemOutcome::Settled(outcome))) => self.settled_short(outcome).await,
                Some(ItemReply::Not(outcome)) => Err(item_refusal(outcome)),
                None => unreachable!("an item has a reply"),
            },
            reply => Err(refusal(reply)),
        }
    }

    /// Asks at once; what is returned waits for the reply.
    fn ask_work(&self, request: WorkRequest) -> impl Future<Output = Result<WorkReply, Refusal>> + use<> {
        let (first, _) = request.needs.first().expect("an operation needs something of some shard");
        let asked = self.shard(*first).handle.ask(Request::Work(Box::new(request)));
        asked.map(|reply| match reply? {
            Reply::Worked(reply) => Ok(reply),
            reply => Err(refusal(reply)),
        })
    }

    /// What an earlier request with the same key did.
    async fn settled(&self, outcome: Outcome) -> Result<Done<Executed>, Refusal> {
        Ok(self.settled_short(outcome).await?.into_executed(outcome.shard))
    }

    async fn settled_short(&self, outcome: Outcome) -> Result<Done<Short>, Refusal> {
        let Outcome { shard, sequence } = outcome;
        let event = self.read_history(shard, move |history| history.event(sequence)).await?;
        let event = event.expect("the outcome of a key is in the log as long as the key is remembered");
        let value = match &event.change {
            Change::Refused { rejection, request_id } => {
                return Err(Refusal::Rejected {
                    rejected: Box::new(rejection.clone().into()),
                    first_request_id: Some(request_id.clone()),
                });
            }
            Change::Decided { decision, .. } | Change::Settled { decision, .. } => {
                let id = event.transaction_id(shard, sequence);
                if let Kind::Refusal { rejected, request_id } = &decision.kind {
                    return Err(Refusal::Rejected {
                        rejected: Box::new(rejected.clone()),
                        first_request_id: Some(request_id.clone()),
                    });
                }
                Short::Executed(Executed { id, decision: Arc::clone(decision) })
            }
            Change::Opened { account, .. }
            | Change::Posted { account, .. }
            | Change::Closed { account, .. } => {
                let account = self.view(shard, Request::AccountByNumber(*account)).await?;
                let (opened, currency) = (account.opened, account.currency);
                Short::Event { sequence, event, opened, currency }
            }
            Change::Claimed => unreachable!("a claim is no outcome"),
        };
        Ok(Done { value, replayed: true })
    }

    /// Asks at once; what is returned waits for the reply.
    fn view(
        &self,
        shard: ShardId,
        request: Request,
    ) -> impl Future<Output = Result<AccountView, Refusal>> + use<> {
        self.shard(shard).handle.ask(request).map(|reply| viewed(reply?))
    }

    /// The shard of an account and which of its accounts it is; the time in its id if no shard here can have it.
    fn locate(&self, account: AccountSelector) -> Result<(ShardId, AccountRef), Timestamp> {
        match account {
            AccountSelector::Name(name) => Ok((self.router.of_name(&name), AccountRef::Name(name))),
            AccountSelector::Id(AccountId { opened, shard, number }) => {
                if shard.index() >= self.shards.len() {
                    return Err(opened);
                }
                Ok((shard, AccountRef::Number { number, opened }))
            }
        }
    }

    fn located(&self, account: AccountSelector) -> Result<(ShardId, AccountRef), Refusal> {
        self.locate(account).map_err(|_| Rejection::AccountNotFound.into())
    }

    /// A key, and the shard that remembers it.
    fn homed(&self, key: IdempotencyKey, home: KeyHome) -> HomedKey {
        let home = match home {
            KeyHome::Shard(shard) => shard,
            KeyHome::Key => self.router.of_key(&key.digest),
        };
        HomedKey { home, key }
    }

    fn shard(&self, shard: ShardId) -> &BankShard {
        &self.shards[shard.index()]
    }
}

impl Done<Short> {
    /// The same in the form of all others; it was done in this shard.
    fn into_executed(self, shard: ShardId) -> Done<Executed> {
        let value = match self.value {
            Short::Event { sequence, event, opened, currency } => {
                executed_short(shard, sequence, &event, opened, currency)
            }
            Short::Executed(executed) => executed,
        };
        Done { value, replayed: self.replayed }
    }
}

/// A short event in the form of all others.
fn executed_short(
    shard: ShardId,
    sequence: Sequence,
    event: &Event,
    opened: Timestamp,
    currency: Currency,
) -> Executed {
    let id = TransactionId { time: event.time, shard, sequence };
    let decision = event.change.to_decision(shard, opened, currency);
    Executed { id, decision: Arc::new(decision.expect("it is about an account")) }
}

/// What pays into or out of an account.
fn posting(direction: Direction, target: Target, amount: Quantity) -> Command {
    match direction {
        Direction::Deposit => Command::Deposit { target, amount },
        Direction::Withdrawal => Command::Withdraw { target, amount },
    }
}

/// What a command did.
enum Short {
    Event { sequence: Sequence, event: Event, opened: Timestamp, currency: Currency },
    Executed(Executed),
}

/// The deposit or withdrawal that a short event is.
fn transaction(
    shard: ShardId,
    sequence: Sequence,
    event: &Event,
    opened: Timestamp,
    currency: Currency,
) -> Option<Transaction> {
    match &event.change {
        Change::Posted { account, direction, amount, entry } => Some(Transaction {
            id: TransactionId { time: event.time, shard, sequence },
            account: AccountId { opened, shard, number: *account },
            currency,
            direction: *direction,
            amount: *amount,
            balance: entry.balance,
            version: entry.version,
        }),
        _ => None,
    }
}

/// A deposit or withdrawal.
fn transaction_of(executed: &Executed) -> Option<Transaction> {
    let direction = match executed.decision.kind {
        Kind::Deposit => Direction::Deposit,
        Kind::Withdrawal => Direction::Withdrawal,
        _ => return None,
    };
    let (shard, effect) = executed.decision.effects().next()?;
    Some(Transaction {
        id: executed.id,
        account: effect.account_id(shard),
        currency: effect.currency,
        direction,
        amount: effect.change.posted().magnitude(),
        balance: effect.after.balance,
        version: effect.after.version,
    })
}

/// The refusal of an item that was not executed, and not before either.
fn item_refusal(outcome: ItemOutcome) -> Refusal {
    match outcome {
        ItemOutcome::Refused(rejected) => {
            Refusal::Rejected { rejected: Box::new(rejected), first_request_id: None }
        }
        ItemOutcome::KeyReused => Refusal::KeyReused,
        ItemOutcome::KeyInFlight => Refusal::KeyInFlight,
        ItemOutcome::KeysExhausted => Refusal::KeysExhausted,
        ItemOutcome::Done { .. } | ItemOutcome::Settled(_) | ItemOutcome::NotAttempted => {
            unreachable!("{outcome:?} is not the refusal of a single operation")
        }
    }
}

/// The account in the reply to the question for it, which is refused where too many wait for a locked account.
fn viewed(reply: Reply) -> Result<AccountView, Refusal> {
    match reply {
        Reply::Account(account) => account.map(|view| *view).ok_or(Rejection::AccountNotFound.into()),
        reply => Err(refusal(reply)),
    }
}

fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(rejection) => rejection.into(),
        Reply::KeyReused | Reply::Worked(WorkReply::KeyReused) => Refusal::KeyReused,
        Reply::KeyInFlight | Reply::Worked(WorkReply::KeyInFlight) => Refusal::KeyInFlight,
        Reply::KeysExhausted | Reply::Worked(WorkReply::KeysExhausted) => Refusal::KeysExhausted,
        Reply::DiskFull | Reply::Worked(WorkReply::DiskFull) => Refusal::DiskFull,
        Reply::Overloaded | Reply::Worked(WorkReply::Overloaded) => Refusal::Overloaded,
        reply => unreachable!("{reply:?} answers another request"),
    }
}

impl Transaction {
    /// When it was booked.
    pub fn created(&self) -> Timestamp {
        self.id.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P7: a shard may refuse any question about what is locked, and then the client hears of it.
    #[test]
    fn who_asks_for_an_account_that_too_many_wait_for_is_refused() {
        assert!(matches!(viewed(Reply::Overloaded), Err(Refusal::Overloaded)));
        assert!(matches!(viewed(Reply::Account(None)), Err(Refusal::Rejected { .. })));
    }
}
