//! The shard without threads, clocks or disks: requests in, records and sealed replies out.

use std::collections::BTreeMap;

use crate::ledger::{
    Account, AccountId, AccountName, AccountNumber, AccountRef, Amount, Change, Command, Currency, Event,
    IdempotencyKey, KeyStatus, Ledger, Rejection, Sequence, ShardId, Terms, Timestamp, Total,
};
use crate::storage::journal::record::Draft;

/// What a shard is asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// Change something.
    Execute {
        /// What.
        command: Command,
        /// The client's idempotency key, if it sent one.
        key: Option<IdempotencyKey>,
        /// The request's id, recorded with a refusal that is kept for the key.
        request_id: Box<str>,
    },
    /// Read an account.
    Account(AccountRef),
    /// Read the account of a transaction.
    AccountByNumber(AccountNumber),
    /// Add everything up.
    TrialBalance,
}

/// What a shard answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is done: the event that did it.
    Executed {
        /// Its place in the log.
        sequence: Sequence,
        /// The event.
        event: Event,
    },
    /// It was done, or refused, before, with the same idempotency key: the event is in the log.
    Settled(Sequence),
    /// The key is reserved, now or before, for the same request.
    Claimed,
    /// The ledger refuses.
    Refused(Rejection),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The first request with this idempotency key is not durable yet.
    KeyInFlight,
    /// No further idempotency key can be remembered now.
    KeysExhausted,
    /// Nothing can be written now: the disk is full.
    DiskFull,
    /// The account, if there is one.
    Account(Option<AccountView>),
    /// The shard's totals.
    TrialBalance(TrialBalance),
}

/// An account as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountView {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: AccountName,
    /// Its currency.
    pub currency: Currency,
    /// Its balance.
    pub posted: Amount,
    /// What a withdrawal may take.
    pub available: Amount,
    /// How far below zero it may go.
    pub overdraft_limit: Amount,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When it was closed.
    pub closed: Option<Timestamp>,
    /// How many events it has had.
    pub version: u64,
    /// Its newest entry.
    pub newest: Sequence,
}

/// What a shard's accounts add up to, by currency.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialBalance {
    /// One line a currency.
    pub lines: BTreeMap<Currency, TrialBalanceLine>,
}

/// One currency's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrialBalanceLine {
    /// How many accounts it has, closed ones too.
    pub accounts: u64,
    /// Their balances above zero, added up.
    pub credit: Total,
    /// Their balances below zero, added up.
    pub debit: Total,
    /// `@world`.
    pub world: Total,
}

impl TrialBalance {
    /// Adds another shard's totals.
    pub fn add(&mut self, other: &TrialBalance) {
        for (currency, theirs) in &other.lines {
            let line = self.lines.entry(*currency).or_default();
            line.accounts += theirs.accounts;
            line.credit.add_total(theirs.credit);
            line.debit.add_total(theirs.debit);
            line.world.add_total(theirs.world);
        }
    }

    fn of(ledger: &Ledger) -> TrialBalance {
        let mut balance = TrialBalance::default();
        for (currency, world) in ledger.world() {
            balance.lines.entry(*currency).or_default().world.add(*world);
        }
        for (currency, sums) in ledger.sums() {
            let line = balance.lines.entry(*currency).or_default();
            (line.accounts, line.credit, line.debit) = (sums.accounts, sums.credit, sums.debit);
        }
        balance
    }
}

impl TrialBalanceLine {
    /// Everything added up: zero, always (P3).
    pub fn sum(&self) -> Total {
        let mut sum = self.world;
        sum.add_total(self.credit);
        sum.add_total(self.debit);
        sum
    }
}

/// What a shard is set to; the same for all shards.
#[derive(Clone, Copy, Debug)]
pub struct ShardRules {
    /// The overdraft limit of accounts without one of their own.
    pub overdraft_limit: Amount,
    /// For how long an idempotency key is kept, in milliseconds.
    pub key_retention_ms: u64,
    /// How many idempotency keys a shard keeps at most.
    pub keys_max: usize,
}

/// A reply and what it waits for.
#[derive(Debug)]
pub struct Sealed<To> {
    /// Whom it is for.
    pub to: To,
    /// The reply.
    pub reply: Reply,
    /// The last event that it depends on: it may leave once that is durable.
    pub after: Sequence,
}

/// The work of one group commit.
#[derive(Debug)]
pub struct Batch<To> {
    /// The records, in order.
    pub drafts: Vec<Draft>,
    /// The replies that wait for them, or for those of batches before.
    pub replies: Vec<Sealed<To>>,
}

impl<To> Default for Batch<To> {
    fn default() -> Self {
        Batch { drafts: Vec::new(), replies: Vec::new() }
    }
}

impl<To> Batch<To> {
    /// Whether there is nothing to commit and nobody to answer.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty() && self.replies.is_empty()
    }

    fn record(&mut self, sequence: Sequence, event: &Event) {
        if !self.drafts.last_mut().is_some_and(|draft| draft.push(event)) {
            self.drafts.push(Draft::new(sequence, event));
        }
    }
}

/// What a shard knows of the world at the moment of a request.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// The last event known to be durable.
    pub durable: Sequence,
    /// Whether the disk has no room for further events.
    pub disk_full: bool,
}

/// A shard's state and its rules.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    ledger: Ledger,
    rules: ShardRules,
}

impl Shard {
    /// A shard that goes on from this ledger.
    pub fn new(id: ShardId, ledger: Ledger, rules: ShardRules) -> Shard {
        Shard { id, ledger, rules }
    }

    /// The state.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The state, for who goes on with it.
    pub fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// Serves a request: records what it changes in `batch`, and returns the reply with the last event that it
    /// depends on.
    pub fn serve<To>(
        &mut self,
        request: Request,
        moment: Moment,
        batch: &mut Batch<To>,
    ) -> (Reply, Sequence) {
        match request {
            Request::Execute { command, key, request_id } => {
                self.execute(&command, key, request_id, moment, batch)
            }
            Request::Account(reference) => self.read(self.ledger.account(&reference)),
            Request::AccountByNumber(number) => self.read(self.ledger.accounts().get(number.index())),
            Request::TrialBalance => {
                (Reply::TrialBalance(TrialBalance::of(&self.ledger)), self.ledger.last())
            }
        }
    }

    fn execute<To>(
        &mut self,
        command: &Command,
        key: Option<IdempotencyKey>,
        request_id: Box<str>,
        moment: Moment,
        batch: &mut Batch<To>,
    ) -> (Reply, Sequence) {
        let terms = Terms {
            now: moment.now.max(self.ledger.time()),
            overdraft_limit: self.rules.overdraft_limit,
            key_retention_ms: self.rules.key_retention_ms,
            keys_max: self.rules.keys_max,
        };
        if let Some(key) = &key {
            match self.ledger.key_status(key, terms.now) {
                KeyStatus::New if self.ledger.keys().is_full(terms.keys_max, terms.now) => {
                    return (Reply::KeysExhausted, Sequence::NONE);
                }
                KeyStatus::Settled(sequence) if sequence > moment.durable => {
                    return (Reply::KeyInFlight, Sequence::NONE);
                }
                KeyStatus::Settled(sequence) => return (Reply::Settled(sequence), sequence),
                // The use that contradicts this one may not be durable: it is the newest event at the latest.
                KeyStatus::Reused => return (Reply::KeyReused, self.ledger.last()),
                // A claim that is made again is recorded again: it must last as long as the outcome to come.
                KeyStatus::New | KeyStatus::Claimed => {}
            }
        }
        if moment.disk_full {
            return (Reply::DiskFull, Sequence::NONE);
        }
        let key = key.map(|key| terms.key_use(key));
        let (change, rejection) = match (self.ledger.decide(command, &terms), &key) {
            (Ok(change), _) => (change, None),
            (Err(rejection), None) => {
                let seen = self.seen_by(command, &rejection);
                return (Reply::Refused(rejection), seen);
            }
            (Err(rejection), Some(_)) => {
                (Change::Refused { rejection: rejection.clone(), request_id }, Some(rejection))
            }
        };
        let event = Event { time: terms.now, key, change };
        let sequence = self.ledger.apply(&event);
        batch.record(sequence, &event);
        let reply = match rejection {
            Some(rejection) => Reply::Refused(rejection),
            None if *command == Command::Claim => Reply::Claimed,
            None => Reply::Executed { sequence, event },
        };
        (reply, sequence)
    }

    /// The last event that a refusal of `command` depended on: the account's newest if the account alone decided,
    /// else the shard's. A name that finds nothing may have been closed a moment ago, and a range may be
    /// `@world`'s.
    fn seen_by(&self, command: &Command, rejection: &Rejection) -> Sequence {
        let account = match (command, rejection) {
            (_, Rejection::BalanceOutOfRange) | (Command::Open { .. } | Command::Claim, _) => None,
            (
                Command::Deposit { target, .. }
                | Command::Withdraw { target, .. }
                | Command::Close { target },
                _,
            ) => self.ledger.account(&target.account),
        };
        account.map_or(self.ledger.last(), |account| account.chain.newest())
    }

    fn read(&self, account: Option<&Account>) -> (Reply, Sequence) {
        // Nothing to be seen may mean "closed a moment ago".
        let after = account.map_or(self.ledger.last(), |account| account.chain.newest());
        (Reply::Account(account.map(|account| self.view(account))), after)
    }

    fn view(&self, account: &Account) -> AccountView {
        AccountView {
            id: AccountId { opened: account.opened, shard: self.id, number: account.number },
            name: account.name.clone(),
            currency: account.currency,
            posted: account.posted,
            available: account.available(self.rules.overdraft_limit),
            overdraft_limit: account.overdraft_limit.unwrap_or(self.rules.overdraft_limit),
            opened: account.opened,
            updated: account.updated,
            closed: account.closed(),
            version: account.version,
            newest: account.chain.newest(),
        }
    }
}
