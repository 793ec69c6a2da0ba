//! A transaction with all its sides: what an operation has changed, in whichever accounts.

use serde_json::{Value, json};
use uuid::Uuid;

use super::accounts::AllowanceLeft;
use super::changes::{AccountChanges, LinkChange, Subject};
use super::links::{Linked, Links, Relation};
use super::schema::{Describe, Schemas};
use super::write::{Id, IfAny, MoneyText, Time, Write, array, resource, text};
use crate::bank::Executed;
use crate::ledger::{
    self, AccountChange, Currency, Effect, Kind, Reference, ShardId, TransactionId, TransactionType,
};

resource! {
    /// A transaction with all its sides.
    pub(in crate::http) struct TransactionDetail<'a> {
        /// The transaction's id; null if this is a dry run, which makes none.
        id: Option<Id>,
        /// What was done.
        kind as "type": TransactionType,
        /// Whether this only says what would happen.
        dry_run: bool,
        /// The accounts that it changed, and how each stands after it.
        accounts: Sides<'a>,
        /// The client's reference. That of an account which it opened is in `changes`.
        reference: Option<&'a Reference>,
        /// The client's metadata. That of an account which it opened is in `changes`.
        metadata: &'a ledger::Metadata,
        /// What an opening or amendment set; nothing else has it.
        changes: IfAny<AccountChanges<'a>>,
        /// What a linking or unlinking made of a link; nothing else has it.
        link: IfAny<LinkChange>,
        /// The hold that it placed, captured, voided or let expire.
        hold_id: Option<Id>,
        /// The transfer that it pays back.
        reversal_of: Option<Id>,
        /// The reversal that paid it back; null if there was none when it was read, or made. Events, which tell what
        /// happened then, do not have it.
        reversed_by: IfAny<Option<Id>>,
        /// When it was booked.
        created: Time,
        /// Where to go from here.
        links as "_links": Links<DetailLinks>,
    }
}

resource! {
    /// What a transaction did to one account.
    pub(in crate::http) struct Side {
        /// The account.
        account_id: Id,
        /// The currency of its amounts.
        currency: Currency,
        /// What it got, below zero for what it paid.
        amount: MoneyText,
        /// Its balance after it.
        posted: MoneyText,
        /// What its pending holds reserve after it.
        held: MoneyText,
        /// Its version after it.
        version: u64,
        /// What may still leave it after it, if it paid and has velocity limits; else null.
        allowance: Option<AllowanceLeft>,
    }
}

impl Side {
    pub(in crate::http) fn of(shard: ShardId, effect: &Effect) -> Side {
        let money = |amount| MoneyText(amount, effect.currency);
        Side {
            account_id: Id(effect.account_id(shard).to_uuid()),
            currency: effect.currency,
            amount: money(effect.change.posted()),
            posted: money(effect.after.balance),
            held: money(effect.after.held),
            version: effect.after.version,
            allowance: AllowanceLeft::after(effect),
        }
    }
}

/// What a transaction did to all its accounts, in the order in which money goes: who pays first, then who is paid;
/// within, as the decision has them.
pub(in crate::http) struct Sides<'a>(pub(in crate::http) &'a ledger::Decision);

impl Describe for Sides<'_> {
    fn describe(schemas: &mut Schemas) -> Value {
        Vec::<Side>::describe(schemas)
    }
}

impl Write for Sides<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let of = |is_paid| {
            self.0.effects().filter(move |(_, effect)| effect.change.posted().is_positive() == is_paid)
        };
        array(out, of(false).chain(of(true)), |out, (shard, effect)| Side::of(shard, effect).write(out));
    }
}

impl<'a> TransactionDetail<'a> {
    /// A transaction, and by what it was reversed.
    pub(in crate::http) fn of(
        executed: &'a Executed,
        reversed_by: Option<TransactionId>,
    ) -> TransactionDetail<'a> {
        let decision = &*executed.decision;
        let (hold, reversal_of) = match decision.kind {
            Kind::Capture { hold } | Kind::Void { hold } | Kind::Expiry { hold } => {
                (Some(hold.to_uuid()), None)
            }
            Kind::Reversal { of } => (None, Some(of.to_uuid())),
            Kind::Hold => (hold_of(executed), None),
            _ => (None, None),
        };
        let id = executed.id.to_uuid();
        let subject = Subject::of(decision);
        let account = subject.map(|subject| subject.account.to_uuid());
        let can_be_reversed = decision.kind == Kind::Transfer && reversed_by.is_none();
        TransactionDetail {
            id: Some(Id(id)),
            kind: TransactionType::of(&decision.kind).expect("book-keeping is shown to nobody"),
            dry_run: false,
            accounts: Sides(decision),
            reference: decision.note.reference.as_ref(),
            metadata: &decision.note.metadata,
            changes: IfAny(subject.and_then(AccountChanges::of)),
            link: IfAny(subject.and_then(LinkChange::of)),
            hold_id: hold.map(Id),
            reversal_of: reversal_of.map(Id),
            reversed_by: IfAny(Some(reversed_by.map(|by| Id(by.to_uuid())))),
            created: Time(executed.id.time),
            links: Links(DetailLinks { id, account, hold, exists: true, can_be_reversed }),
        }
    }

    /// The transaction as an event: whether it has been reversed since is not known there.
    pub(in crate::http) fn event(executed: &'a Executed) -> TransactionDetail<'a> {
        let mut detail = TransactionDetail::of(executed, None);
        detail.reversed_by = IfAny(None);
        detail.links.0.can_be_reversed = false;
        detail
    }

    /// The transaction that there would be.
    pub(in crate::http) fn dry(executed: &'a Executed) -> TransactionDetail<'a> {
        let mut detail = TransactionDetail::of(executed, None);
        (detail.id, detail.dry_run, detail.hold_id) = (None, true, None);
        detail.links.0 = DetailLinks { exists: false, hold: None, can_be_reversed: false, ..detail.links.0 };
        detail
    }
}

/// The hold that was placed.
pub(in crate::http) fn hold_of(executed: &Executed) -> Option<Uuid> {
    let (shard, effect) = executed.decision.effects().next()?;
    let AccountChange::Held { .. } = effect.change else {
        return None;
    };
    let key = ledger::HoldKey { account: effect.account, version: u32::try_from(effect.after.version).ok()? };
    Some(key.id(shard, executed.id.time).to_uuid())
}

impl Describe for TransactionType {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("TransactionType", |_| {
            json!({
                "type": "string",
                "enum": TransactionType::ALL.map(TransactionType::name),
                "examples": ["transfer"],
            })
        })
    }
}

impl Write for TransactionType {
    fn write(&self, out: &mut Vec<u8>) {
        text(out, self.name());
    }
}

impl Describe for ledger::Metadata {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("MetadataKept", |_| {
            json!({
                "type": "object",
                "additionalProperties": { "type": "string" },
                "description": "What the client keeps with it: texts by names of its choice.",
            })
        })
    }
}

impl Write for ledger::Metadata {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, (key, value)) in self.entries().iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            text(out, key);
            out.push(b':');
            text(out, value);
        }
        out.push(b'}');
    }
}

/// What the links of a transaction depend on.
#[derive(Clone, Copy)]
pub(in crate::http) struct DetailLinks {
    id: Uuid,
    account: Option<Uuid>,
    hold: Option<Uuid>,
    exists: bool,
    can_be_reversed: bool,
}

impl Linked for DetailLinks {
    const SCHEMA: &'static str = "TransactionDetailLinks";
    const CERTAIN: &'static [&'static str] = &[];
    const RELATIONS: &'static [Relation<DetailLinks>] = &[
        Relation {
            name: "self",
            path: "/v2/transactions/{id}",
            offered: |links| links.exists,
            meaning: "The transaction. A dry run has none.",
        },
        Relation {
            name: "reverse",
            path: "/v2/transfers/{id}/reverse",
            offered: |links| links.can_be_reversed,
            meaning: "POST pays the transfer back. Events do not know whether it was.",
        },
        Relation {
            name: "hold",
            path: "/v2/holds/{hold}",
            offered: |links| links.hold.is_some(),
            meaning: "The hold.",
        },
        Relation {
            name: "account",
            path: "/v2/accounts/{account}",
            offered: |links| links.account.is_some(),
            meaning: "The account that an opening, amendment, closing, linking or unlinking is about.",
        },
    ];

    fn variable(&self, _relation: &str, name: &str) -> Uuid {
        match name {
            "account" => self.account.unwrap_or_default(),
            "hold" => self.hold.unwrap_or_default(),
            _ => self.id,
        }
    }
}
