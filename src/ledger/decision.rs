//! Decisions: what an operation on any number of accounts, in any number of shards, changes.
//!
//! One shard decides and writes the decision down; each other shard that has a part in it writes down a copy when it
//! applies its part ([`super::Change::Settled`]). What always holds:
//!
//! - a decision has at most one part a shard, and a part at most one effect an account;
//! - between accounts, what moves sums to zero in each currency over all parts; against `@world`, each part is
//!   balanced by its own shard's part of `@world`;
//! - an effect says what it leaves (version, balance, held, and what may still leave an account with velocity limits),
//!   so that whoever applies or reads it can check it, and a repeated request gets its first answer.

use smallvec::SmallVec;

use super::{
    AccountId, AccountName, AccountNumber, Allowance, Amount, Currency, Details, HoldId, HoldKey,
    HoldOutcome, KeyUse, Link, Metadata, Note, Reference, Rejected, Sequence, ShardId, Spent, Timestamp,
    TransactionId, VelocityLimits,
};

/// What an operation changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What kind of operation it was.
    pub kind: Kind,
    /// What the client said about it.
    pub note: Note,
    /// What it changes in each shard, in order of their numbers. A shard without a part is not concerned.
    pub parts: Vec<Part>,
}

/// The kind of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An account was opened.
    Opening,
    /// Money came from `@world`.
    Deposit,
    /// Money went to `@world`.
    Withdrawal,
    /// Money went from accounts to accounts.
    Transfer,
    /// A linked account paid what another one lacked for the operation that follows.
    Protection,
    /// A transfer, or some of it, was paid back.
    Reversal {
        /// The transfer.
        of: TransactionId,
    },
    /// Money was reserved.
    Hold,
    /// A hold was paid out.
    Capture {
        /// The hold.
        hold: HoldId,
    },
    /// A hold was given up.
    Void {
        /// The hold.
        hold: HoldId,
    },
    /// The time of a hold was over.
    Expiry {
        /// The hold.
        hold: HoldId,
    },
    /// An account's terms were changed.
    Amendment,
    /// An account was closed.
    Closing,
    /// An account was linked to another, or a link was changed.
    Linking,
    /// A link was removed.
    Unlinking,
    /// An operation with an idempotency key was refused. Written down so that a retry is refused alike.
    Refusal {
        /// Why.
        rejected: Rejected,
        /// The id of the refused request, which its reply showed.
        request_id: Box<str>,
    },
    /// A list of operations with an idempotency key came to its end.
    Batch {
        /// How each of them ended, in order.
        results: Vec<ItemOutcome>,
        /// The id of the request.
        request_id: Box<str>,
    },
}

/// How one operation of a list ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemOutcome {
    /// It was executed, in the event so many places before the one that says this.
    Done {
        /// The distance.
        back: u32,
    },
    /// It was refused.
    Refused(Rejected),
    /// It has ended before, with the same idempotency key: in an earlier request, or earlier in the list.
    Settled(Outcome),
    /// Its idempotency key belongs to another request.
    KeyReused,
    /// The first request with its idempotency key is still being worked on. Not written down any more: that was done of
    /// an item that came twice in a list with a key.
    KeyInFlight,
    /// No further idempotency key could be remembered.
    KeysExhausted,
    /// The list is all or nothing, and another of its operations was refused.
    NotAttempted,
}

/// Where an outcome was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The shard.
    pub shard: ShardId,
    /// The event in its log.
    pub sequence: Sequence,
}

/// What a decision changes in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: ShardId,
    /// The decision before this one, by the same shard, that has a part for this shard; [`Sequence::NONE`] for the
    /// first, and in the part of the deciding shard itself.
    pub previous: Sequence,
    /// What changes, an account each.
    pub effects: Effects,
    /// The transfer that can no longer be reversed; it was decided by this shard.
    pub reverses: Option<Sequence>,
    /// The idempotency key that this shard remembers. The deciding shard's own is in its event.
    pub key: Option<KeyUse>,
}

impl Part {
    /// A part that changes accounts and nothing else.
    pub fn new(shard: ShardId, effects: Effects) -> Part {
        Part { shard, previous: Sequence::NONE, effects, reverses: None, key: None }
    }
}

/// What happens to some accounts of a shard. Of most parts there is one effect.
pub type Effects = SmallVec<[Effect; 1]>;

/// What happens to one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The account's number in its shard.
    pub account: AccountNumber,
    /// When the account was opened; with shard and number, its id.
    pub opened: Timestamp,
    /// Its currency.
    pub currency: Currency,
    /// What happens.
    pub change: AccountChange,
    /// How the account stands then.
    pub after: After,
    /// What may still leave it then, if it has velocity limits and this is a debit. In a box, since few have.
    pub allowance: Option<Box<Allowance>>,
}

/// How an account stands after an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Its version.
    pub version: u64,
    /// Its balance.
    pub balance: Amount,
    /// What its pending holds reserve.
    pub held: Amount,
}

/// What happens to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChange {
    /// It is opened.
    Opened(Box<Opened>),
    /// Money moves: to it if positive, from it if negative; never zero.
    Posted {
        /// How much.
        amount: Amount,
    },
    /// A hold is placed; its key is the account with its version after this.
    Held {
        /// How much; positive.
        amount: Amount,
        /// Who is to be paid.
        to: Option<AccountId>,
        /// When it ends by itself.
        expires: Timestamp,
    },
    /// A hold of the account ends. What was captured leaves the account.
    Released {
        /// The hold.
        hold: HoldKey,
        /// How it ends.
        outcome: HoldOutcome,
    },
    /// Its terms change.
    Amended(Box<Amended>),
    /// It is linked to another account; an existing link to it changes its kind.
    Linked(Link),
    /// Its link to another account is removed.
    Unlinked {
        /// The other account.
        to: AccountId,
    },
    /// It protects another account's overdraft, or does so no longer.
    Protects {
        /// The other account.
        account: AccountId,
        /// Whether it does.
        on: bool,
    },
    /// It is closed.
    Closed,
}

/// An account as it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its name.
    pub name: AccountName,
    /// Its own overdraft limit, if it has one.
    pub overdraft_limit: Option<Amount>,
    /// The client's own name for it.
    pub reference: Option<Reference>,
    /// Whatever else the client keeps with it.
    pub metadata: Metadata,
    /// Whether no two of its transactions may have the same reference.
    pub unique_reference: bool,
    /// How much may leave it, and how often.
    pub velocity: VelocityLimits,
}

/// What changes of an account's terms; `None` is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amended {
    /// The own overdraft limit; inside, `None` goes back to the service's.
    pub overdraft_limit: Option<Option<Amount>>,
    /// Whether the account is frozen.
    pub frozen: Option<bool>,
    /// All of the metadata.
    pub metadata: Option<Metadata>,
    /// All of the velocity limits.
    pub velocity: Option<VelocityLimits>,
}

impl AccountChange {
    /// What it adds to the account's balance.
    pub fn posted(&self) -> Amount {
        match self {
            AccountChange::Posted { amount } => *amount,
            AccountChange::Released { outcome: HoldOutcome::Captured(amount), .. } => amount.negated(),
            _ => Amount::ZERO,
        }
    }

    /// What counts against the account's velocity limits.
    pub fn debit(&self) -> Option<Amount> {
        match self {
            AccountChange::Posted { amount } if !amount.is_positive() => Some(amount.negated()),
            AccountChange::Held { amount, .. } => Some(*amount),
            _ => None,
        }
    }
}

impl Opened {
    /// An account with nothing but a name and perhaps a limit.
    pub fn plain(name: AccountName, overdraft_limit: Option<Amount>) -> Opened {
        Opened {
            name,
            overdraft_limit,
            reference: None,
            metadata: Metadata::default(),
            unique_reference: false,
            velocity: VelocityLimits::default(),
        }
    }

    /// What the account has besides its money, if anything.
    pub fn details(&self) -> Option<Box<Details>> {
        let details = Details {
            reference: self.reference.clone(),
            metadata: self.metadata.clone(),
            unique_reference: self.unique_reference,
            velocity: self.velocity,
            ..Details::default()
        };
        (details != Details::default()).then(|| Box::new(details))
    }
}

impl Amended {
    /// Changes what an account has besides its money.
    pub(super) fn to_details(&self, details: &mut Option<Box<Details>>) {
        if self.metadata.is_none() && self.velocity.is_none() {
            return;
        }
        let changed = details.get_or_insert_default();
        if let Some(metadata) = &self.metadata {
            changed.metadata = metadata.clone();
        }
        if let Some(velocity) = self.velocity {
            changed.velocity = velocity;
            if velocity.is_empty() {
                changed.spent = Spent::default();
            }
        }
        if **changed == Details::default() {
            *details = None;
        }
    }
}

impl Effect {
    /// The account's id.
    pub fn account_id(&self, shard: ShardId) -> AccountId {
        AccountId { opened: self.opened, shard, number: self.account }
    }
}

impl Decision {
    /// The part of a shard.
    pub fn part(&self, shard: ShardId) -> Option<&Part> {
        self.parts.iter().find(|part| part.shard == shard)
    }

    /// All effects with their shards.
    pub fn effects(&self) -> impl Iterator<Item = (ShardId, &Effect)> {
        self.parts.iter().flat_map(|part| part.effects.iter().map(|effect| (part.shard, effect)))
    }

    /// Whether `@world` is the other side: else the accounts are among themselves.
    pub fn is_with_world(&self) -> bool {
        match self.kind {
            Kind::Deposit | Kind::Withdrawal => true,
            // A capture pays an account, or else the world; the account paid has an effect of its own.
            Kind::Capture { .. } => self.effects().count() == 1,
            _ => false,
        }
    }
}
