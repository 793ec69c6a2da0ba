//! The refusals of the ledger: what a well-formed request can meet.

use super::Amount;

/// Why the ledger refuses a command. Nothing has changed when it does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// An account has, or had, this name.
    #[error("an account with this name exists or existed")]
    AccountExists,
    /// No open account has this name, or no account has this id.
    #[error("there is no such account")]
    AccountNotFound,
    /// The account is closed.
    #[error("the account is closed")]
    AccountClosed,
    /// The account has to stand at zero to be closed.
    #[error("the account still has a balance")]
    AccountNotEmpty {
        /// What it stands at.
        balance: Amount,
    },
    /// The account changed since the client looked.
    #[error("the account is at version {version}")]
    VersionMismatch {
        /// The version that it is at.
        version: u64,
    },
    /// The withdrawal would pass the overdraft limit.
    #[error("the account does not have the funds")]
    InsufficientFunds {
        /// What could be withdrawn.
        available: Amount,
        /// What was asked for.
        required: Amount,
    },
    /// A balance would leave the range of [`Amount`].
    #[error("a balance would go out of range")]
    BalanceOutOfRange,
    /// The shard has as many accounts as numbers for them.
    #[error("no more accounts can be opened")]
    AccountsExhausted,
}
