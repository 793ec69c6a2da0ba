//! An account's state.

use super::{AccountName, AccountNumber, Amount, Chain, Currency, Timestamp};

/// An account as its events have made it.
///
/// Always: `version` is the number of its events, and of the entries in `chain`; `posted` is the balance of
/// its newest entry; a closed account stands at zero and has no further event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account's place in its shard.
    pub number: AccountNumber,
    /// The name, unique for ever: closing does not free it.
    pub name: AccountName,
    /// The currency of all its amounts.
    pub currency: Currency,
    /// How far below zero the balance may go, if not as far as the service's setting allows.
    pub overdraft_limit: Option<Amount>,
    /// The booked balance.
    pub posted: Amount,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Open or closed.
    pub status: AccountStatus,
    /// How many events it has had; the first, its opening, made it 1.
    pub version: u64,
    /// The way into its history.
    pub chain: Chain,
}

/// Whether an account takes part in anything any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// It pays and receives.
    Open,
    /// It was closed, at [`Account::updated`], and only its history is left.
    Closed,
}

impl Account {
    /// When the account was closed, if it was.
    pub fn closed(&self) -> Option<Timestamp> {
        match self.status {
            AccountStatus::Open => None,
            AccountStatus::Closed => Some(self.updated),
        }
    }

    /// What a withdrawal may take: the balance and what is left of the overdraft, given the service's limit
    /// for accounts without one of their own. Below zero if the limit was lowered under an overdrawn account.
    pub fn available(&self, service_overdraft_limit: Amount) -> Amount {
        let limit = self.overdraft_limit.unwrap_or(service_overdraft_limit);
        self.posted.checked_add(limit).unwrap_or(Amount::MAX)
    }
}
