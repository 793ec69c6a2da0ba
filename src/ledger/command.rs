//! What a client asks of one account.
//!
//! The short way, for what is asked most: a command needs no copies and no locks, and its event is small. All else
//! is an [`super::operation::Operation`].

use super::{AccountName, AccountNumber, Currency, IdempotencyKey, OverdraftDefault, Quantity, Timestamp};

/// A change that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open an account.
    Open {
        /// Its name, which no account has or had.
        name: AccountName,
        /// Its currency.
        currency: Currency,
        /// Its own overdraft limit, zero or more; `None` follows the service's setting.
        overdraft_limit: Option<Quantity>,
    },
    /// Pay in.
    Deposit {
        /// The account.
        target: Target,
        /// How much; positive.
        amount: Quantity,
    },
    /// Pay out.
    Withdraw {
        /// The account.
        target: Target,
        /// How much; positive.
        amount: Quantity,
    },
    /// Close an account that stands at zero.
    Close {
        /// The account.
        target: Target,
    },
}

/// The account that a command is about, and the version that the client knows it at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The account.
    pub account: AccountRef,
    /// Refuse unless the account is at this version (`If-Match`).
    pub version: Option<u64>,
}

/// One of the two ways to say which account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountRef {
    /// By name: finds open accounts only.
    Name(AccountName),
    /// By what its id says: finds closed accounts too.
    Number {
        /// Its number in the shard.
        number: AccountNumber,
        /// When it was opened; an account that was opened at another time is not it.
        opened: Timestamp,
    },
}

/// What a decision depends on besides the state and the command.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The time.
    pub now: Timestamp,
    /// The overdraft limit of accounts without one of their own.
    pub overdraft: OverdraftDefault,
    /// For how long an idempotency key is kept, in milliseconds.
    pub key_retention_ms: u64,
    /// How many idempotency keys the shard keeps at most.
    pub keys_max: usize,
}

impl Terms {
    /// How the use of `key` is to be recorded.
    pub fn key_use(&self, key: IdempotencyKey) -> super::KeyUse {
        let expires = self.now.millis().saturating_add(self.key_retention_ms);
        super::KeyUse { key, expires: Timestamp::from_millis(expires) }
    }
}
