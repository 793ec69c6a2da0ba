//! An account's state.

use super::{
    AccountChange, AccountId, AccountName, AccountNumber, Allowance, Amount, Chain, Currency, Metadata,
    OverdraftDefault, Reference, Sequence, Spent, Timestamp, VelocityLimits,
};

/// How many links an account has at most in either direction, which bounds what one request can reach.
pub const LINKS_MAX: usize = 16;

/// An account as its events have made it.
///
/// Always: `version` is the number of its entries, and of those in `chain`; `posted` and `held` are what its newest
/// entry left; a closed account stands at zero, has no hold and no further entry.
///
/// Of millions of accounts hardly one is in the processor's caches. It stands on the borders of their lines, and so takes
/// two of them and not three.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(64))]
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
    /// What its pending holds reserve; zero or more.
    pub held: Amount,
    /// Whether it receives but does not pay.
    pub frozen: bool,
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
    /// What only few accounts have: nothing of it costs the others more than a word.
    pub details: Option<Box<Details>>,
}

/// What an account may have besides its money.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The client's own name for it.
    pub reference: Option<Reference>,
    /// Whatever else the client keeps with it.
    pub metadata: Metadata,
    /// Whether no two of its transactions may have the same reference.
    pub unique_reference: bool,
    /// How much may leave it, and how often.
    pub velocity: VelocityLimits,
    /// What has left it lately; counted only while there are limits.
    pub spent: Spent,
    /// The accounts that it is linked to, in order of linking.
    pub links: Vec<Link>,
    /// The accounts whose overdraft it protects: the other ends of their links.
    pub protects: Vec<AccountId>,
}

/// A link to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The other account.
    pub to: AccountId,
    /// What the link is for.
    pub kind: LinkKind,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// It only says that the two belong together.
    Related,
    /// What this account lacks for a payment is pulled from the other.
    OverdraftProtection,
}

impl Details {
    /// The account that protects this one's overdraft.
    pub fn protection(&self) -> Option<AccountId> {
        self.links.iter().find(|link| link.kind == LinkKind::OverdraftProtection).map(|link| link.to)
    }

    /// Counts what leaves the account, if that is limited.
    pub(super) fn count_debit(&mut self, now: Timestamp, amount: Amount) {
        if !self.velocity.is_empty() {
            self.spent = self.spent.plus(&self.velocity, now, amount);
        }
    }

    /// What may still leave the account right after an effect: of a debit, if it has limits.
    pub(super) fn allowance_after(&self, change: &AccountChange, now: Timestamp) -> Option<Box<Allowance>> {
        let amount = change.debit().filter(|_| !self.velocity.is_empty())?;
        let spent = self.spent.plus(&self.velocity, now, amount);
        Some(Box::new(self.velocity.allowance(&spent, now)))
    }

    pub(super) fn link(&mut self, link: Link) {
        match self.links.iter_mut().find(|known| known.to == link.to) {
            Some(known) => *known = link,
            None => self.links.push(link),
        }
    }

    pub(super) fn unlink(&mut self, to: AccountId) {
        self.links.retain(|link| link.to != to);
    }

    pub(super) fn protect(&mut self, account: AccountId, on: bool) {
        self.protects.retain(|known| *known != account);
        if on {
            self.protects.push(account);
        }
    }
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
    /// An account that was opened by the event with this sequence.
    pub(super) fn new(
        number: AccountNumber,
        name: AccountName,
        currency: Currency,
        opened: Timestamp,
        by: Sequence,
    ) -> Account {
        let mut chain = Chain::default();
        chain.push(by);
        Account {
            number,
            name,
            currency,
            overdraft_limit: None,
            posted: Amount::ZERO,
            held: Amount::ZERO,
            frozen: false,
            opened,
            updated: opened,
            status: AccountStatus::Open,
            version: 1,
            chain,
            details: None,
        }
    }

    /// Whether it wants each reference used once.
    pub(super) fn has_unique_references(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details.unique_reference)
    }

    /// When the account was closed, if it was.
    pub fn closed(&self) -> Option<Timestamp> {
        match self.status {
            AccountStatus::Open => None,
            AccountStatus::Closed => Some(self.updated),
        }
    }

    /// Whether how much may leave it, or how often, is limited.
    pub fn has_velocity_limits(&self) -> bool {
        self.details.as_ref().is_some_and(|details| !details.velocity.is_empty())
    }

    /// How far below zero the account may go: its own limit, or the service's.
    pub fn limit(&self, service: OverdraftDefault) -> Amount {
        self.overdraft_limit.unwrap_or_else(|| service.for_currency(self.currency))
    }

    /// What a withdrawal may take (P4): the balance less what is held, and what is left of the overdraft. Below zero
    /// if the limit was lowered under an overdrawn account; nothing of a closed one. Of a frozen one it is what the
    /// balance allows.
    pub fn available(&self, service: OverdraftDefault) -> Amount {
        match self.status {
            AccountStatus::Open => available(self.posted, self.held, self.limit(service)),
            AccountStatus::Closed => Amount::ZERO,
        }
    }
}

/// What may be taken from a balance of which some is held, down to the overdraft limit.
pub(super) fn available(posted: Amount, held: Amount, limit: Amount) -> Amount {
    // The three together may pass the range of an amount, but not that of its integer.
    let units = posted.minor_units() - held.minor_units() + limit.minor_units();
    Amount::from_minor_units(units).unwrap_or(if units > 0 { Amount::MAX } else { Amount::MAX.negated() })
}
