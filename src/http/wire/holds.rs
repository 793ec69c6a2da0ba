//! Holds on the wire.

use std::borrow::Cow;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::detail::Sides;
use super::links::{Linked, Links, PageLinks, Relation};
use super::metadata;
use super::read::{Parsed, ReadScalar, body};
use super::schema::{Describe, Schemas, with_meaning};
use super::transfers::{AmountOrAll, Conditions, note, requirement_pointer};
use super::values::{AmountText, parse_whole};
use super::write::{Id, IfAny, MoneyText, Text, Time, Write, resource, text};
use crate::bank::{AccountSelector, Bank, Executed};
use crate::http::problem::Party;
use crate::ledger::operation::{HOLD_TIME_MS_MAX, Operation};
use crate::ledger::{
    AccountChange, Currency, Decision, Hold, HoldId, HoldKey, HoldOutcome, HoldStatus, Metadata, Reference,
};
use crate::shard::request::HoldView;

/// For how long money is held if the client does not say, in seconds: a week, as card payments are.
const HOLD_SECONDS_DEFAULT: u64 = 7 * 24 * 60 * 60;

body! {
    /// What reserves money.
    pub(in crate::http) struct HoldRequest {
        /// Whose money.
        account: AccountSelector,
        /// How much; `"all"` for what is available.
        amount: AmountOrAll,
        /// Who is to be paid by a capture. Without it the money leaves for the outside world.
        #[example = "name:bob"]
        to: Option<AccountSelector>,
        /// For how long, in seconds; a week without it.
        expires_in: Option<HoldSeconds>,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<metadata::Metadata>,
        /// What has to be true for it to happen.
        conditions: Option<Conditions>,
    }
}

impl HoldRequest {
    pub(in crate::http) fn to_operation(&self, bank: &Bank) -> Operation {
        Operation::Hold {
            account: bank.place(self.account.clone()),
            amount: self.amount.0,
            to: self.to.clone().map(|to| bank.place(to)),
            expires_in_ms: self.expires_in.map_or(HOLD_SECONDS_DEFAULT, |seconds| seconds.0) * 1000,
            note: note(&self.reference, &self.metadata),
        }
    }

    /// Where in the body the part of the operation stands that has met a refusal.
    pub(in crate::http) fn pointer(&self, party: Party) -> Cow<'static, str> {
        match party {
            Party::Account(0) => "/account".into(),
            Party::Account(_) => "/to".into(),
            Party::Amount(_) => "/amount".into(),
            Party::Requirement(number, part) => requirement_pointer(self.conditions.as_ref(), number, part),
        }
    }
}

body! {
    /// What pays out what a hold reserves.
    pub(in crate::http) struct CaptureRequest {
        /// How much of it; all without it. The rest is released.
        amount: Option<AmountText>,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<metadata::Metadata>,
    }
}

body! {
    /// What gives a hold up.
    pub(in crate::http) struct VoidRequest {
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<metadata::Metadata>,
    }
}

/// For how long money is held, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct HoldSeconds(pub(in crate::http) u64);

impl Describe for HoldSeconds {
    fn describe(_: &mut Schemas) -> Json {
        json!({
            "type": "integer",
            "minimum": 1,
            "maximum": HOLD_TIME_MS_MAX / 1000,
            "default": HOLD_SECONDS_DEFAULT,
            "examples": [3600],
        })
    }
}

impl ReadScalar for HoldSeconds {
    fn parse(raw: &str) -> Parsed<HoldSeconds> {
        parse_whole(raw, 1, HOLD_TIME_MS_MAX / 1000).map(HoldSeconds).ok_or_else(|| {
            format!("must be a whole number of seconds, 1 to {}", HOLD_TIME_MS_MAX / 1000).into()
        })
    }
}

resource! {
    /// A hold.
    pub(in crate::http) struct HoldResource<'a> {
        /// The hold's id; null if this is a dry run, which makes none.
        id: Option<Id>,
        /// Whose money it reserves.
        account_id: Id,
        /// The currency of its amounts.
        currency: Currency,
        /// How much it reserves, or reserved.
        amount: MoneyText,
        /// Who is to be paid by a capture; null for the outside world.
        to: Option<Id>,
        /// How it stands.
        status: StatusName,
        /// How much of it was paid; null unless it is captured.
        captured: Option<MoneyText>,
        /// When it was placed.
        created: Time,
        /// When it ends by itself.
        expires: Time,
        /// When it ended; null while it is pending.
        ended: Option<Time>,
        /// In the reply to what placed it: how the account stands after it.
        accounts: Option<Sides<'a>>,
        /// Only in the reply to what placed it: the transaction that this was; null if this is a dry run, which makes none.
        transaction_id: IfAny<Option<Id>>,
        /// Only there, too: the client's reference. Later it is found in that transaction.
        reference: IfAny<Option<&'a Reference>>,
        /// Only there, too: the client's metadata. Later it is found in that transaction.
        metadata: IfAny<&'a Metadata>,
        /// What can be done with it now.
        links as "_links": Links<HoldLinks>,
    }
}

impl<'a> HoldResource<'a> {
    pub(in crate::http) fn of(view: &HoldView) -> HoldResource<'a> {
        let Hold { created, amount, to, expires, status } = view.hold;
        let money = |amount| MoneyText(amount, view.currency);
        let (ended, captured) = match status {
            HoldStatus::Pending => (None, None),
            HoldStatus::Ended { at, outcome: HoldOutcome::Captured(amount) } => {
                (Some(at), Some(money(amount)))
            }
            HoldStatus::Ended { at, .. } => (Some(at), None),
        };
        let id = view.id.to_uuid();
        HoldResource {
            id: Some(Id(id)),
            account_id: Id(view.account.to_uuid()),
            currency: view.currency,
            amount: money(amount),
            to: to.map(|to| Id(to.to_uuid())),
            status: StatusName(status),
            captured,
            created: Time(created),
            expires: Time(expires),
            ended: ended.map(Time),
            accounts: None,
            transaction_id: IfAny(None),
            reference: IfAny(None),
            metadata: IfAny(None),
            links: Links(HoldLinks {
                id,
                account: view.account.to_uuid(),
                placed_by: None,
                exists: true,
                pending: status == HoldStatus::Pending,
            }),
        }
    }

    /// The hold as it was placed.
    pub(in crate::http) fn placed(executed: &'a Executed, dry_run: bool) -> HoldResource<'a> {
        let mut effects = executed.decision.effects();
        let (shard, effect) = effects.next().expect("a hold has an account");
        let AccountChange::Held { amount, to, expires } = effect.change else {
            unreachable!("a key's fingerprint binds it to its kind of request");
        };
        let created = executed.id.time;
        let key = HoldKey { account: effect.account, version: effect.after.version as u32 };
        let id: HoldId = key.id(shard, created);
        let mut placed = HoldResource::of(&HoldView {
            id,
            account: effect.account_id(shard),
            currency: effect.currency,
            hold: Hold { created, amount, to, expires, status: HoldStatus::Pending },
        });
        let Decision { note, .. } = &*executed.decision;
        let transaction = (!dry_run).then(|| executed.id.to_uuid());
        placed.accounts = Some(Sides(&executed.decision));
        placed.transaction_id = IfAny(Some(transaction.map(Id)));
        placed.reference = IfAny(Some(note.reference.as_ref()));
        placed.metadata = IfAny(Some(&note.metadata));
        placed.links.0.placed_by = transaction;
        if dry_run {
            placed.id = None;
            placed.links.0.exists = false;
            placed.links.0.pending = false;
        }
        placed
    }
}

resource! {
    /// A page of an account's holds.
    pub(in crate::http) struct HoldPage<'a> {
        /// How many holds are on this page. A page may have fewer than asked for, even none: `next` tells whether there
        /// may be more.
        count: u64,
        /// The holds that are pending, or ended within a day and among the last million of their shard; the
        /// oldest first.
        items: Vec<HoldResource<'static>>,
        /// The cursor of the next page; null if this is the last one.
        next: Option<Text<'a>>,
        /// This page and the next.
        links as "_links": PageLinks,
    }
}

/// The name of a hold's status.
pub(in crate::http) struct StatusName(HoldStatus);

impl Describe for StatusName {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("HoldStatus", |_| {
            with_meaning(
                json!({ "type": "string", "enum": ["pending", "captured", "voided", "expired"] }),
                "A hold is pending until it is captured, voided, or its time is over; it ends once.",
            )
        })
    }
}

impl Write for StatusName {
    fn write(&self, out: &mut Vec<u8>) {
        text(
            out,
            match self.0 {
                HoldStatus::Pending => "pending",
                HoldStatus::Ended { outcome: HoldOutcome::Captured(_), .. } => "captured",
                HoldStatus::Ended { outcome: HoldOutcome::Voided, .. } => "voided",
                HoldStatus::Ended { outcome: HoldOutcome::Expired, .. } => "expired",
            },
        );
    }
}

/// What the links of a hold depend on.
pub(in crate::http) struct HoldLinks {
    id: Uuid,
    account: Uuid,
    /// The transaction that placed it, where that is known.
    placed_by: Option<Uuid>,
    exists: bool,
    pending: bool,
}

impl Linked for HoldLinks {
    const SCHEMA: &'static str = "HoldLinks";
    const CERTAIN: &'static [&'static str] = &["account"];
    const RELATIONS: &'static [Relation<HoldLinks>] = &[
        Relation {
            name: "self",
            path: "/v2/holds/{hold}",
            offered: |hold| hold.exists,
            meaning: "The hold. A dry run has none.",
        },
        Relation {
            name: "account",
            path: "/v2/accounts/{account}",
            offered: |_| true,
            meaning: "The account whose money it reserves.",
        },
        Relation {
            name: "transaction",
            path: "/v2/transactions/{id}",
            offered: |hold| hold.placed_by.is_some(),
            meaning: "The transaction that placed it. Only the reply to that knows it.",
        },
        Relation {
            name: "capture",
            path: "/v2/holds/{hold}/capture",
            offered: |hold| hold.pending,
            meaning: "POST pays it out.",
        },
        Relation {
            name: "void",
            path: "/v2/holds/{hold}/void",
            offered: |hold| hold.pending,
            meaning: "POST gives it up.",
        },
    ];

    fn variable(&self, _relation: &str, name: &str) -> Uuid {
        match name {
            "account" => self.account,
            "id" => self.placed_by.unwrap_or_default(),
            _ => self.id,
        }
    }
}
