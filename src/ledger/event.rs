//! What happened: the only thing that changes a ledger, and the only thing that is written down.

use super::{AccountName, AccountNumber, Amount, Currency, IdempotencyKey, Links, Rejection, Timestamp};

/// One event of a shard's log. Its sequence is its place in the log, not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened; never before the event before it.
    pub time: Timestamp,
    /// The idempotency key that the client sent with the request, if any.
    pub key: Option<KeyUse>,
    /// What it changed.
    pub change: Change,
}

/// The use of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key, and what it was used for.
    pub key: IdempotencyKey,
    /// From when on the key may be forgotten.
    pub expires: Timestamp,
}

/// What an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An account was opened.
    Opened {
        /// Its number: the next free one.
        account: AccountNumber,
        /// Its name.
        name: AccountName,
        /// Its currency.
        currency: Currency,
        /// Its own overdraft limit, if it has one.
        overdraft_limit: Option<Amount>,
    },
    /// Money moved between an account and `@world`.
    Posted {
        /// The account.
        account: AccountNumber,
        /// Which way.
        direction: Direction,
        /// How much; positive.
        amount: Amount,
        /// The account's entry.
        entry: Entry,
    },
    /// An account was closed.
    Closed {
        /// The account.
        account: AccountNumber,
        /// The account's entry.
        entry: Entry,
    },
    /// A request with an idempotency key was refused. Written down so that a retry is refused alike.
    Refused {
        /// The refusal.
        rejection: Rejection,
        /// The id of the refused request, which its reply showed.
        request_id: Box<str>,
    },
    /// An idempotency key was reserved for a request that another shard executes.
    Claimed,
}

/// The way that money moves, seen from the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From `@world` to the account.
    Deposit,
    /// From the account to `@world`.
    Withdrawal,
}

impl Direction {
    /// The amount with the sign that it has in the account.
    pub fn signed(self, amount: Amount) -> Amount {
        match self {
            Direction::Deposit => amount,
            Direction::Withdrawal => amount.negated(),
        }
    }
}

/// One entry of an account's history. All of it follows from the events before; it is recorded so that history
/// is read without them, and so that replay has something to check itself against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The account's version after it.
    pub version: u64,
    /// The account's balance after it.
    pub balance: Amount,
    /// The account's earlier entries.
    pub links: Links,
}

impl Change {
    /// The account that the change is about, and its entry there; an opening has no entry, being the first.
    pub fn account(&self) -> Option<(AccountNumber, Option<Entry>)> {
        match self {
            Change::Opened { account, .. } => Some((*account, None)),
            Change::Posted { account, entry, .. } | Change::Closed { account, entry } => {
                Some((*account, Some(*entry)))
            }
            Change::Refused { .. } | Change::Claimed => None,
        }
    }
}
