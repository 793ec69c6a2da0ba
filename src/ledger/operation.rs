//! What a client asks for that may concern several accounts.
//!
//! A [`super::Command`] is about one account and is decided on its shard's state alone; an [`Operation`] names any
//! accounts of any shards and is decided on copies of them ([`super::workspace::Workspace`]).

use super::{
    AccountName, AccountRef, AmountError, Currency, HoldId, IdempotencyKey, LinkKind, Metadata, Note,
    Quantity, Reference, ShardId, TransactionId,
};

/// The most legs of a transfer.
pub const LEGS_MAX: usize = 64;
/// The most conditions of an operation.
pub const CONDITIONS_MAX: usize = 64;
/// The longest time for which a hold can be placed, in milliseconds: 366 days.
pub const HOLD_TIME_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// The accounts in the longest chain of overdraft protection.
pub const PROTECTION_CHAIN_MAX: usize = 4;

/// An account, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The shard that owns it.
    pub shard: ShardId,
    /// Which of its accounts.
    pub account: AccountRef,
}

/// One operation of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is to be done.
    pub operation: Operation,
    /// What has to be true then.
    pub conditions: Vec<Condition>,
    /// The operation's own idempotency key.
    pub key: Option<HomedKey>,
}

/// A transfer between two accounts of one shard that says nothing but how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainTransfer {
    /// Who pays.
    pub from: AccountRef,
    /// Who is paid.
    pub to: AccountRef,
    /// How much; positive.
    pub amount: Quantity,
}

impl PlainTransfer {
    /// An operation as one, and its shard; or the operation, if it is more than that.
    #[expect(clippy::result_large_err, reason = "it is given back, not an error")]
    pub fn of(operation: Operation) -> Result<(ShardId, PlainTransfer), Operation> {
        match operation {
            Operation::Transfer { from, to, amount: Sum::Exactly(amount), note }
                if from.shard == to.shard && note.is_empty() =>
            {
                Ok((from.shard, PlainTransfer { from: from.account, to: to.account, amount }))
            }
            other => Err(other),
        }
    }

    /// The same as an item, for accounts of this shard.
    pub fn into_item(self, shard: ShardId) -> Item {
        let place = |account| Place { shard, account };
        let (from, to, amount) = (place(self.from), place(self.to), Sum::Exactly(self.amount));
        let operation = Operation::Transfer { from, to, amount, note: Note::default() };
        Item { operation, conditions: Vec::new(), key: None }
    }
}

/// An idempotency key and the shard that remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomedKey {
    /// The shard.
    pub home: ShardId,
    /// The key.
    pub key: IdempotencyKey,
}

/// What has to be true of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The account.
    pub account: Place,
    /// What.
    pub requirement: Requirement,
}

impl Condition {
    /// That the account is at this version, if the request has such a precondition.
    pub fn matching(account: &Place, version: Option<u64>) -> Vec<Condition> {
        let requirement = version.map(Requirement::Match).into_iter();
        requirement.map(|requirement| Condition { account: account.clone(), requirement }).collect()
    }
}

/// What a condition asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// At least so much is available, frozen or not.
    AvailableAtLeast(Quantity),
    /// The account is at this version.
    Version(u64),
    /// The account is at this version: as a precondition of the request (`If-Match`), with a refusal of its own.
    Match(u64),
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// This much; positive.
    Exactly(Quantity),
    /// All that is available.
    All,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open an account.
    Open {
        /// The shard that owns the name.
        shard: ShardId,
        /// What is to be opened.
        opening: Box<Opening>,
    },
    /// Pay in.
    Deposit {
        /// The account.
        account: Place,
        /// How much; positive.
        amount: Quantity,
        /// What the client says about it.
        note: Note,
    },
    /// Pay out.
    Withdraw {
        /// The account.
        account: Place,
        /// How much.
        amount: Sum,
        /// What the client says about it.
        note: Note,
    },
    /// Move money from one account to another.
    Transfer {
        /// Who pays.
        from: Place,
        /// Who is paid.
        to: Place,
        /// How much.
        amount: Sum,
        /// What the client says about it.
        note: Note,
    },
    /// Move money among accounts.
    MultiTransfer {
        /// The accounts, 2 to [`LEGS_MAX`], and what each gets; who pays has a negative amount, none has zero.
        legs: Vec<(Place, Quantity)>,
        /// What the client says about it.
        note: Note,
    },
    /// Pay a transfer back.
    Reverse {
        /// The transfer.
        transfer: TransactionId,
        /// Its legs as they were: the accounts, and what each got.
        legs: Vec<(Place, super::Amount)>,
        /// How much, if not all.
        amount: Option<Quantity>,
        /// What the client says about it.
        note: Note,
    },
    /// Reserve money.
    Hold {
        /// The account.
        account: Place,
        /// How much.
        amount: Sum,
        /// Who is to be paid by a capture; `@world` without one.
        to: Option<Place>,
        /// For how long, in milliseconds, from 1 to [`HOLD_TIME_MS_MAX`].
        expires_in_ms: u64,
        /// What the client says about it.
        note: Note,
    },
    /// Pay what a hold reserves.
    Capture {
        /// The hold.
        hold: HoldId,
        /// How much of it, if not all; the rest is released.
        amount: Option<Quantity>,
        /// What the client says about it.
        note: Note,
    },
    /// Give a hold up.
    Void {
        /// The hold.
        hold: HoldId,
        /// What the client says about it.
        note: Note,
    },
    /// Change an account's terms.
    Amend {
        /// The account.
        account: Place,
        /// What changes.
        amendment: Box<Amendment>,
    },
    /// Close an account that stands at zero.
    Close {
        /// The account.
        account: Place,
    },
    /// Link an account to another, or change the link's kind.
    Link {
        /// The account.
        account: Place,
        /// The other one.
        to: Place,
        /// What for.
        kind: LinkKind,
    },
    /// Remove a link.
    Unlink {
        /// The account.
        account: Place,
        /// The other one.
        to: Place,
    },
}

/// What opens an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its name, which no account has or had.
    pub name: AccountName,
    /// Its currency.
    pub currency: Currency,
    /// Its own overdraft limit, zero or more; `None` follows the service's setting.
    pub overdraft_limit: Option<Quantity>,
    /// The client's own name for it.
    pub reference: Option<Reference>,
    /// Whatever else the client keeps with it.
    pub metadata: Metadata,
    /// Whether no two of its transactions may have the same reference.
    pub unique_reference: bool,
    /// How much may leave it, and how often.
    pub velocity: VelocityTerms,
}

/// Velocity limits as a client asks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VelocityTerms {
    /// The most that may leave in a calendar day.
    pub per_day: Option<Quantity>,
    /// The most that may leave in a calendar month.
    pub per_month: Option<Quantity>,
    /// How many debits there may be in a window.
    pub debits: Option<super::DebitLimit>,
}

/// What changes of an account's terms: a merge patch. The outer `None` leaves a member as it is, the inner one removes
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// The own overdraft limit.
    pub overdraft_limit: Option<Option<Quantity>>,
    /// Whether the account is frozen.
    pub frozen: Option<bool>,
    /// The metadata: all of it removed, or entries set and removed.
    pub metadata: Option<Option<Vec<MetadataChange>>>,
    /// The velocity limits: all of them removed, or some of them changed.
    pub velocity: Option<Option<VelocityChange>>,
}

/// What changes of an account's velocity limits; the inner `None` removes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VelocityChange {
    /// The most that may leave in a calendar day.
    pub per_day: Option<Option<Quantity>>,
    /// The most that may leave in a calendar month.
    pub per_month: Option<Option<Quantity>>,
    /// How many debits there may be in a window.
    pub debits: Option<Option<super::DebitLimit>>,
}

/// An entry of the metadata, and its new value or none.
pub type MetadataChange = (Box<str>, Option<Box<str>>);

impl Opening {
    /// An account with nothing but a name, a currency and perhaps a limit.
    pub fn plain(name: AccountName, currency: Currency, overdraft_limit: Option<Quantity>) -> Opening {
        Opening {
            name,
            currency,
            overdraft_limit,
            reference: None,
            metadata: Metadata::default(),
            unique_reference: false,
            velocity: VelocityTerms::default(),
        }
    }
}

impl VelocityTerms {
    /// The limits in an account's currency.
    ///
    /// # Errors
    /// If an amount does not fit the currency.
    pub fn in_currency(&self, currency: Currency) -> Result<super::VelocityLimits, AmountError> {
        let amount =
            |quantity: Option<Quantity>| quantity.map(|quantity| quantity.to_amount(currency)).transpose();
        Ok(super::VelocityLimits {
            per_day: amount(self.per_day)?,
            per_month: amount(self.per_month)?,
            debits: self.debits,
        })
    }
}

impl VelocityChange {
    /// The limits after the change, in an account's currency.
    ///
    /// # Errors
    /// If an amount does not fit the currency.
    pub fn of(
        &self,
        before: super::VelocityLimits,
        currency: Currency,
    ) -> Result<super::VelocityLimits, AmountError> {
        let amount = |change: Option<Option<Quantity>>, before| match change {
            None => Ok(before),
            Some(quantity) => quantity.map(|quantity| quantity.to_amount(currency)).transpose(),
        };
        Ok(super::VelocityLimits {
            per_day: amount(self.per_day, before.per_day)?,
            per_month: amount(self.per_month, before.per_month)?,
            debits: self.debits.unwrap_or(before.debits),
        })
    }
}

impl Operation {
    /// The shards that the operation names, and the accounts there.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let (first, second) = match self {
            Operation::Deposit { account, .. }
            | Operation::Withdraw { account, .. }
            | Operation::Amend { account, .. }
            | Operation::Close { account } => (Some(account), None),
            Operation::Hold { account, to, .. } => (Some(account), to.as_ref()),
            Operation::Transfer { from, to, .. } => (Some(from), Some(to)),
            Operation::Link { account, to, .. } | Operation::Unlink { account, to } => {
                (Some(account), Some(to))
            }
            Operation::Open { .. }
            | Operation::Capture { .. }
            | Operation::Void { .. }
            | Operation::MultiTransfer { .. }
            | Operation::Reverse { .. } => (None, None),
        };
        let legs: &[(Place, Quantity)] = match self {
            Operation::MultiTransfer { legs, .. } => legs,
            _ => &[],
        };
        let reversed: &[(Place, super::Amount)] = match self {
            Operation::Reverse { legs, .. } => legs,
            _ => &[],
        };
        let legs = legs.iter().map(|(place, _)| place);
        first.into_iter().chain(second).chain(legs).chain(reversed.iter().map(|(place, _)| place))
    }

    /// The client's reference, where it has to be unique in some accounts.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Operation::Deposit { note, .. }
            | Operation::Withdraw { note, .. }
            | Operation::Transfer { note, .. }
            | Operation::MultiTransfer { note, .. }
            | Operation::Reverse { note, .. }
            | Operation::Hold { note, .. }
            | Operation::Capture { note, .. }
            | Operation::Void { note, .. } => note.reference.as_ref(),
            _ => None,
        }
    }
}
