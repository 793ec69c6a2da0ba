//! What a shard is asked, and what it answers.
//!
//! Each [`Request`] gets one [`Reply`]. Accounts and holds are shown in *views*: copies, with what the rules
//! of the shard and the time of the look make of them.
//!
//! What always holds:
//!
//! - a reply tells of one state of the shard, between two events;
//! - a page says where the next one starts, unless there is none;
//! - a trial balance sums to zero in each currency, whatever is under way between shards (P3).
//!
//! Left out: how a shard comes to its answer, and what that waits for ([`super::batch`]); what works are
//! ([`super::work`]); statuses and JSON.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use super::work::{WorkReply, WorkRequest};
use crate::ledger::{
    Account, AccountId, AccountName, AccountNumber, AccountRef, Allowance, Amount, Command, Currency,
    Details, Event, Hold, HoldId, IdempotencyKey, Ledger, Reference, Rejection, Sequence, Timestamp, Total,
    TransactionId,
};

/// What a shard is asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// Change one account.
    Execute {
        /// How.
        command: Command,
        /// The client's idempotency key, if it sent one.
        key: Option<IdempotencyKey>,
        /// The request's id, recorded with a refusal that is kept for the key.
        request_id: Box<str>,
    },
    /// Do something that concerns any number of accounts. The first of the shards that it needs is asked.
    Work(Box<WorkRequest>),
    /// Read an account.
    Account(AccountRef),
    /// Read the account with a number, closed or not.
    AccountByNumber(AccountNumber),
    /// Read the account that has a name, closed or not.
    AccountEverNamed(AccountName),
    /// Read a hold.
    Hold(HoldId),
    /// Read an account's holds that are pending, or ended a short while ago; the oldest first.
    Holds {
        /// The account.
        account: AccountRef,
        /// From which version of the account on: each was placed by one.
        from: u32,
        /// How many at most.
        count: usize,
        /// Only those that are pending, or only those that are not.
        pending: Option<bool>,
    },
    /// Read by what a transfer that was decided here was reversed.
    Reversal(Sequence),
    /// Read by what a reference was used in an account where each is used once.
    Reference {
        /// The account.
        account: AccountNumber,
        /// The reference.
        reference: Reference,
    },
    /// Read accounts in the order of their numbers.
    Accounts {
        /// From which number on.
        from: AccountNumber,
        /// How many at most.
        count: usize,
        /// Which of them.
        filter: Arc<AccountFilter>,
    },
    /// Add everything up.
    TrialBalance,
    /// Say up to which time all is decided.
    Horizon,
}

impl Request {
    /// Which accounts it will ask for first. A list of operations sees to its own.
    pub(super) fn accounts(&self) -> &[AccountRef] {
        match self {
            Request::Execute {
                command:
                    Command::Deposit { target, .. } | Command::Withdraw { target, .. } | Command::Close { target },
                ..
            } => slice::from_ref(&target.account),
            Request::Account(account) => slice::from_ref(account),
            Request::Work(request) if request.items.len() == 1 => {
                request.needs.first().map_or(&[], |(_, needs)| &needs.accounts)
            }
            _ => &[],
        }
    }
}

/// Which accounts a list has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountFilter {
    /// Those whose names begin so.
    pub prefix: Option<Box<str>>,
    /// Those with this currency.
    pub currency: Option<Currency>,
    /// Only closed ones, or only open ones.
    pub closed: Option<bool>,
    /// Those whose metadata has these values.
    pub metadata: Vec<(Box<str>, Box<str>)>,
}

impl AccountFilter {
    pub(super) fn matches(&self, account: &Account) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| account.name.starts_with(&**prefix))
            && self.currency.is_none_or(|currency| account.currency == currency)
            && self.closed.is_none_or(|closed| account.closed().is_some() == closed)
            && self.metadata.iter().all(|(key, value)| {
                let metadata = account.details.as_ref().map(|details| &details.metadata);
                metadata.and_then(|metadata| metadata.get(key)) == Some(value)
            })
    }
}

/// What a shard answers. On its way a reply is moved eight times, and one core reads what another has written; so what
/// is larger than that of a deposit is boxed.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is done: the event that did it.
    Executed {
        /// Its place in the log.
        sequence: Sequence,
        /// The event.
        event: Event,
        /// When the account that it is about was opened.
        opened: Timestamp,
        /// The currency of that account.
        currency: Currency,
    },
    /// It was done, or refused, before, with the same idempotency key: the event is in the log.
    Settled(Sequence),
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
    /// Too much waits for the account. Nothing was done.
    Overloaded,
    /// What became of a work.
    Worked(WorkReply),
    /// The account, if there is one.
    Account(Option<Box<AccountView>>),
    /// The hold, if it is known here. One that ended long ago is not; its account's history has it.
    Hold(Option<HoldView>),
    /// A page of the holds of an account, if there is one.
    Holds(Option<Box<HoldsView>>),
    /// By what a transfer was reversed.
    Reversal(Option<TransactionId>),
    /// By what a reference was used.
    Reference(Option<TransactionId>),
    /// A page of accounts.
    Accounts {
        /// Those that the filter lets through.
        accounts: Vec<AccountView>,
        /// The number that the next page starts at, if there may be more.
        next: Option<AccountNumber>,
    },
    /// The shard's totals.
    TrialBalance(TrialBalance),
    /// Up to which time all is decided.
    Horizon {
        /// The last event so far, which is durable.
        last: Sequence,
        /// No event behind it is of an earlier time, unless the clock is set back meanwhile.
        time: Timestamp,
    },
}

const _: () = assert!(size_of::<Reply>() <= 152, "see above");

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
    /// What its pending holds reserve.
    pub held: Amount,
    /// What a withdrawal may take.
    pub available: Amount,
    /// How far below zero it may go.
    pub overdraft_limit: Amount,
    /// Whether it receives but does not pay.
    pub frozen: bool,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When it was closed.
    pub closed: Option<Timestamp>,
    /// How many entries it has.
    pub version: u64,
    /// Its newest entry.
    pub newest: Sequence,
    /// What else it has.
    pub details: Option<Box<Details>>,
    /// What may still leave it in the periods of its velocity limits.
    pub allowance: Allowance,
}

/// A hold as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldView {
    /// Its id.
    pub id: HoldId,
    /// Its account.
    pub account: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// The hold.
    pub hold: Hold,
}

/// A page of an account's holds as a reader sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldsView {
    /// The account.
    pub account: AccountView,
    /// The holds.
    pub holds: Vec<HoldView>,
    /// The version that the next page starts at, if there may be more.
    pub next: Option<u32>,
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
    /// What is on its way between shards.
    pub in_flight: Total,
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
            line.in_flight.add_total(theirs.in_flight);
        }
    }

    pub(super) fn of(ledger: &Ledger) -> TrialBalance {
        let mut balance = TrialBalance::default();
        for (currency, world) in ledger.world() {
            balance.lines.entry(*currency).or_default().world = *world;
        }
        for (currency, clearing) in ledger.clearing() {
            balance.lines.entry(*currency).or_default().in_flight = *clearing;
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
        sum.add_total(self.in_flight);
        sum.add_total(self.credit);
        sum.add_total(self.debit);
        sum
    }
}
