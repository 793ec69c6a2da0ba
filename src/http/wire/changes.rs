//! What a transaction changed besides money: the terms of an account, and its links.

use super::accounts::VelocityLimitsKept;
use super::write::{Id, IfAny, MoneyText, resource};
use crate::ledger::{
    self, AccountChange, AccountId, AccountName, Currency, Decision, Effect, Link, LinkKind, Reference,
    VelocityLimits,
};

/// The account that an opening, amendment, closing, linking or unlinking is about, and what happens to it.
#[derive(Clone, Copy)]
pub(in crate::http) struct Subject<'a> {
    pub(in crate::http) account: AccountId,
    effect: &'a Effect,
}

impl<'a> Subject<'a> {
    /// Of whatever else was done nothing is told here. Of a link it is the account that it leads from: the other one, if it
    /// comes to protect that or ceases to, has an effect too, which may be the first.
    pub(in crate::http) fn of(decision: &'a Decision) -> Option<Subject<'a>> {
        let mut effects = decision.effects();
        let (shard, effect) = effects.find(|(_, effect)| match effect.change {
            AccountChange::Opened(_)
            | AccountChange::Amended(_)
            | AccountChange::Linked(_)
            | AccountChange::Unlinked { .. }
            | AccountChange::Closed => true,
            AccountChange::Posted { .. }
            | AccountChange::Held { .. }
            | AccountChange::Released { .. }
            | AccountChange::Protects { .. } => false,
        })?;
        Some(Subject { account: effect.account_id(shard), effect })
    }
}

resource! {
    /// What was set of an account: all of it by its opening, and by an amendment what is there.
    pub(in crate::http) struct AccountChanges<'a> {
        /// Its name. No amendment has it.
        name: IfAny<&'a AccountName>,
        /// Its currency. No amendment has it.
        currency: IfAny<Currency>,
        /// Its own overdraft limit; null for the service's.
        overdraft_limit: IfAny<Option<MoneyText>>,
        /// Whether it is frozen.
        frozen: IfAny<bool>,
        /// The client's own name for it. No amendment has it.
        reference: IfAny<Option<&'a Reference>>,
        /// All of its metadata as it was then, with the entries that were there before.
        metadata: IfAny<&'a ledger::Metadata>,
        /// Whether no two of its transactions may have the same reference. No amendment has it.
        unique_reference: IfAny<bool>,
        /// All of its velocity limits as they were then; null if there were none.
        velocity_limits: IfAny<Option<VelocityLimitsKept>>,
    }
}

impl<'a> AccountChanges<'a> {
    pub(in crate::http) fn of(subject: Subject<'a>) -> Option<AccountChanges<'a>> {
        let currency = subject.effect.currency;
        let money = |limit| MoneyText(limit, currency);
        let limits = |limits: VelocityLimits| {
            Some(limits)
                .filter(|limits| !limits.is_empty())
                .map(|limits| VelocityLimitsKept::of(limits, currency))
        };
        match &subject.effect.change {
            AccountChange::Opened(opened) => Some(AccountChanges {
                name: IfAny(Some(&opened.name)),
                currency: IfAny(Some(currency)),
                overdraft_limit: IfAny(Some(opened.overdraft_limit.map(money))),
                frozen: IfAny(Some(false)),
                reference: IfAny(Some(opened.reference.as_ref())),
                metadata: IfAny(Some(&opened.metadata)),
                unique_reference: IfAny(Some(opened.unique_reference)),
                velocity_limits: IfAny(Some(limits(opened.velocity))),
            }),
            AccountChange::Amended(amended) => Some(AccountChanges {
                name: IfAny(None),
                currency: IfAny(None),
                overdraft_limit: IfAny(amended.overdraft_limit.map(|limit| limit.map(money))),
                frozen: IfAny(amended.frozen),
                reference: IfAny(None),
                metadata: IfAny(amended.metadata.as_ref()),
                unique_reference: IfAny(None),
                velocity_limits: IfAny(amended.velocity.map(limits)),
            }),
            _ => None,
        }
    }
}

resource! {
    /// What was made of a link from an account to another.
    pub(in crate::http) struct LinkChange {
        /// The account.
        account_id: Id,
        /// The account that it is linked to, or was: the one that protects it, if that is what the link is for.
        linked_account_id: Id,
        /// What the link is for from then on; null if it was removed.
        kind: Option<LinkKind>,
    }
}

impl LinkChange {
    pub(in crate::http) fn of(subject: Subject<'_>) -> Option<LinkChange> {
        let (to, kind) = match subject.effect.change {
            AccountChange::Linked(Link { to, kind }) => (to, Some(kind)),
            AccountChange::Unlinked { to } => (to, None),
            _ => return None,
        };
        Some(LinkChange {
            account_id: Id(subject.account.to_uuid()),
            linked_account_id: Id(to.to_uuid()),
            kind,
        })
    }
}
