//! The refusals of the ledger: what a well-formed request can meet.

use super::{Allowance, Amount, Currency, HoldOutcome, TransactionId};

/// A refusal, and which of the operation's accounts met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub rejection: Rejection,
    /// Which of the accounts that the operation names: their order in it, from 0. `None` if it is about none in
    /// particular, or there is only one.
    pub at: Option<u16>,
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Rejected {
        Rejected { rejection, at: None }
    }
}

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
    /// The account receives but does not pay.
    #[error("the account is frozen")]
    AccountFrozen,
    /// The account has to stand at zero to be closed.
    #[error("the account still has a balance")]
    AccountNotEmpty {
        /// What it stands at.
        balance: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// The account has to have no pending hold to be closed.
    #[error("the account still has money held")]
    AccountHasHolds {
        /// How much.
        held: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// The account changed since the client looked.
    #[error("the account is at version {version}")]
    VersionMismatch {
        /// The version that it is at.
        version: u64,
    },
    /// The payment would pass the overdraft limit.
    #[error("the account does not have the funds")]
    InsufficientFunds {
        /// What could be paid.
        available: Amount,
        /// What was asked for.
        required: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// All that is available was asked for, and nothing is.
    #[error("nothing is available")]
    NothingAvailable {
        /// What is available: zero, or less.
        available: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// The payment would pass a velocity limit.
    #[error("the payment would pass a velocity limit")]
    VelocityLimit {
        /// What may still leave the account.
        allowance: Allowance,
        /// What was to leave.
        required: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// A balance would leave the range of [`Amount`].
    #[error("a balance would go out of range")]
    BalanceOutOfRange,
    /// The shard has as many accounts as numbers for them.
    #[error("no more accounts can be opened")]
    AccountsExhausted,
    /// The account has too many entries for another hold.
    #[error("the account can have no more holds")]
    HoldsExhausted,
    /// The amount has decimals that the account's currency has not.
    #[error("the amount has more decimals than the currency")]
    TooManyDecimals {
        /// The currency.
        currency: Currency,
    },
    /// Money of two currencies would be mixed.
    #[error("the account has another currency")]
    CurrencyMismatch {
        /// The currency of the first account.
        expected: Currency,
        /// That of the account in question.
        found: Currency,
    },
    /// The legs do not sum to zero in each currency.
    #[error("the legs do not sum to zero")]
    LegsUnbalanced {
        /// The first currency that does not.
        currency: Currency,
    },
    /// One account is named more than once.
    #[error("the account is named more than once")]
    AccountRepeated,
    /// The account would have more entries of metadata than it can have.
    #[error("the account can have no more metadata")]
    MetadataFull,
    /// A condition of the operation is not met.
    #[error("a condition is not met")]
    ConditionNotMet {
        /// What the account has available.
        available: Amount,
        /// The version that it is at.
        version: u64,
        /// Its currency.
        currency: Currency,
    },
    /// No hold has this id.
    #[error("there is no such hold")]
    HoldNotFound,
    /// The hold has ended.
    #[error("the hold has ended")]
    HoldEnded {
        /// How.
        outcome: HoldOutcome,
        /// In which currency.
        currency: Currency,
    },
    /// More is to be captured than was held.
    #[error("the hold is smaller")]
    HoldExceeded {
        /// What it holds.
        held: Amount,
        /// What was asked for.
        required: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// The transfer was reversed.
    #[error("the transfer has been reversed")]
    AlreadyReversed {
        /// By which reversal.
        by: TransactionId,
    },
    /// Only a transfer between two accounts can be reversed in part.
    #[error("the transfer can only be reversed whole")]
    ReversalNotPartial,
    /// More is to be paid back than was transferred.
    #[error("the transfer was smaller")]
    ReversalExceeded {
        /// What was transferred.
        transferred: Amount,
        /// In which currency.
        currency: Currency,
    },
    /// The account has a transaction with this reference, and allows each reference once.
    #[error("the reference is used")]
    ReferenceUsed {
        /// By which transaction.
        by: TransactionId,
    },
    /// The account is not linked to that other one.
    #[error("there is no such link")]
    LinkNotFound,
    /// The link would make a circle of protection.
    #[error("the accounts would protect each other")]
    LinkCycle,
    /// The link would make a chain of protection of more than four accounts.
    #[error("the chain of protection would be too long")]
    LinkChainTooLong,
    /// An account has another protection, or as many links as it can have.
    #[error("the account can have no further link of this kind")]
    LinksExhausted,
}
