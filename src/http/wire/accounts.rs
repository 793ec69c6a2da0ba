//! Accounts on the wire.

use std::sync::LazyLock;

use serde_json::{Value, json};
use uuid::Uuid;

use super::links::{Linked, Links, PageLinks, Relation};
use super::metadata::{self, Metadata, MetadataPatch};
use super::nested::Patch;
use super::read::{Parsed, ReadScalar, body};
use super::schema::{Describe, Schemas};
use super::values::{Flag, LimitText, parse_whole};
use super::write::{Id, MoneyNumber, MoneyText, Seconds, Text, Time, resource};
use crate::bank::OpenedAccount;
use crate::ledger::operation::{Amendment, Opening, VelocityChange, VelocityTerms};
use crate::ledger::{
    self, AccountName, Allowance, Amount, Currency, DebitLimit, Effect, Quantity, Reference, Spent,
    VelocityLimits, WINDOW_SECONDS_MAX,
};
use crate::shard::request::AccountView;

body! {
    /// What opens an account in version 1.
    pub(in crate::http) struct OpenAccountV1 {
        /// The account's name, which no account has or had.
        name: AccountName,
    }
}

body! {
    /// What opens an account.
    pub(in crate::http) struct OpenAccount {
        /// The account's name, which no account has or had.
        name: AccountName,
        /// Its currency; the service's own without it.
        currency: Option<Currency>,
        /// How far below zero the account may go. Without it the service's own limit counts, as it is set at any
        /// time, for accounts in the service's currency.
        overdraft_limit: Option<LimitText>,
        /// The client's own name for the account.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
        /// Whether no two of its transactions may have the same reference; false without it.
        unique_reference: Option<Flag>,
        /// How much may leave it, and how often.
        velocity_limits: Option<VelocityLimitsBody>,
    }
}

/// Where the limits of an account's terms stand in a body, and what they are.
pub(in crate::http) type LimitsByPlace = [(&'static str, Option<Quantity>); 3];

fn limits_by_place(
    overdraft: Option<LimitText>,
    per_day: Option<LimitText>,
    per_month: Option<LimitText>,
) -> LimitsByPlace {
    let quantity = |limit: Option<LimitText>| limit.map(|limit| limit.0);
    [
        ("/overdraft_limit", quantity(overdraft)),
        ("/velocity_limits/per_day", quantity(per_day)),
        ("/velocity_limits/per_month", quantity(per_month)),
    ]
}

impl OpenAccount {
    pub(in crate::http) fn limits(&self) -> LimitsByPlace {
        let velocity = self.velocity_limits;
        limits_by_place(
            self.overdraft_limit,
            velocity.and_then(|limits| limits.per_day),
            velocity.and_then(|limits| limits.per_month),
        )
    }

    pub(in crate::http) fn to_opening(&self, default_currency: Currency) -> Opening {
        Opening {
            name: self.name.clone(),
            currency: self.currency.unwrap_or(default_currency),
            overdraft_limit: self.overdraft_limit.map(|limit| limit.0),
            reference: self.reference.clone(),
            metadata: self.metadata.as_ref().map(metadata::kept).unwrap_or_default(),
            unique_reference: self.unique_reference.is_some_and(|flag| flag.0),
            velocity: self.velocity_limits.map(|limits| limits.to_terms()).unwrap_or_default(),
        }
    }
}

body! {
    /// How much may leave an account, and how often. Days and months are those of UTC. It is counted only while there
    /// are limits: what left before the first one was set is not, nor are debits while their number is not limited.
    pub(in crate::http) struct VelocityLimitsBody {
        /// The most that may leave in a day.
        per_day: Option<LimitText>,
        /// The most that may leave in a month.
        per_month: Option<LimitText>,
        /// How many debits there may be in a window.
        debits: Option<DebitLimitBody>,
    }
}

impl Copy for VelocityLimitsBody {}

impl VelocityLimitsBody {
    fn to_terms(self) -> VelocityTerms {
        VelocityTerms {
            per_day: self.per_day.map(|limit| limit.0),
            per_month: self.per_month.map(|limit| limit.0),
            debits: self.debits.map(DebitLimitBody::to_limit),
        }
    }
}

body! {
    /// How many debits there may be in each window of so many seconds.
    pub(in crate::http) struct DebitLimitBody {
        /// How many.
        count: DebitCount,
        /// The length of a window. Windows follow one another from the Unix epoch on.
        window_seconds: WindowSeconds,
    }
}

impl Copy for DebitLimitBody {}

impl DebitLimitBody {
    fn to_limit(self) -> DebitLimit {
        DebitLimit { count: self.count.0, window_seconds: self.window_seconds.0 }
    }
}

body! {
    /// A change of an account's terms: a merge patch (RFC 7396). What is null is removed, what is not there stays.
    #[example = json!({ "metadata": { "invoice": "2026-117" }, "overdraft_limit": "50.00" })]
    pub(in crate::http) struct AccountPatch {
        /// Its own overdraft limit; null goes back to the service's.
        overdraft_limit: Patch<LimitText>,
        /// Whether it is frozen: it receives, but does not pay.
        frozen: Option<Flag>,
        /// Entries to set, and null for those to remove; null removes all.
        metadata: Patch<MetadataPatch>,
        /// Limits to set, and null for those to remove; null removes all.
        velocity_limits: Patch<VelocityLimitsPatch>,
    }
}

body! {
    /// A change of velocity limits. When none is left all counts begin anew, and so do the debits when their window gets
    /// another length; unless both windows have the same number since 1970, as one of 86,400 and one of 86,401 seconds have
    /// for most of a day.
    pub(in crate::http) struct VelocityLimitsPatch {
        /// The most that may leave in a day.
        per_day: Patch<LimitText>,
        /// The most that may leave in a month.
        per_month: Patch<LimitText>,
        /// How many debits there may be in a window: both numbers, for neither means anything without the other.
        debits: Patch<DebitLimitBody>,
    }
}

impl AccountPatch {
    pub(in crate::http) fn limits(&self) -> LimitsByPlace {
        let velocity = self.velocity_limits.set();
        limits_by_place(
            self.overdraft_limit.set().copied(),
            velocity.and_then(|limits| limits.per_day.set().copied()),
            velocity.and_then(|limits| limits.per_month.set().copied()),
        )
    }

    pub(in crate::http) fn to_amendment(&self) -> Amendment {
        Amendment {
            overdraft_limit: self.overdraft_limit.change(|limit| limit.0),
            frozen: self.frozen.map(|flag| flag.0),
            metadata: self.metadata.change(metadata::changes),
            velocity: self.velocity_limits.change(|limits| VelocityChange {
                per_day: limits.per_day.change(|limit| limit.0),
                per_month: limits.per_month.change(|limit| limit.0),
                debits: limits.debits.change(|limit| limit.to_limit()),
            }),
        }
    }
}

/// How many debits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct DebitCount(u32);

impl Describe for DebitCount {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX, "examples": [10] })
    }
}

impl ReadScalar for DebitCount {
    fn parse(raw: &str) -> Parsed<DebitCount> {
        parse_count(raw, 0, u32::MAX).map(DebitCount)
    }
}

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct WindowSeconds(u32);

impl Describe for WindowSeconds {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": WINDOW_SECONDS_MAX, "examples": [3600] })
    }
}

impl ReadScalar for WindowSeconds {
    fn parse(raw: &str) -> Parsed<WindowSeconds> {
        parse_count(raw, 1, WINDOW_SECONDS_MAX).map(WindowSeconds)
    }
}

fn parse_count(raw: &str, min: u32, max: u32) -> Parsed<u32> {
    parse_whole(raw, min.into(), max.into())
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| format!("must be a whole number, {min} to {max}").into())
}

resource! {
    /// An account in version 1.
    pub(in crate::http) struct AccountV1<'a> {
        /// The account's id.
        id: Id,
        /// The account's name.
        name: &'a AccountName,
        /// The booked balance, with the currency's decimals.
        balance: MoneyNumber,
        /// When it was opened, in Unix seconds.
        created: Seconds,
        /// When it last changed, in Unix seconds.
        updated: Seconds,
        /// Whether it is closed.
        is_deleted as "isDeleted": bool,
        /// When it was closed, in Unix seconds.
        deleted: Option<Seconds>,
    }
}

impl<'a> AccountV1<'a> {
    pub(in crate::http) fn of(account: &'a AccountView) -> AccountV1<'a> {
        AccountV1 {
            id: Id(account.id.to_uuid()),
            name: &account.name,
            balance: MoneyNumber(account.posted, account.currency),
            created: Seconds(account.opened),
            updated: Seconds(account.updated),
            is_deleted: account.closed.is_some(),
            deleted: account.closed.map(Seconds),
        }
    }

    /// The account as its opening made it.
    pub(in crate::http) fn opened(account: &'a OpenedAccount) -> AccountV1<'a> {
        AccountV1 {
            id: Id(account.id.to_uuid()),
            name: &account.opened.name,
            balance: MoneyNumber(Amount::ZERO, account.currency),
            created: Seconds(account.id.opened),
            updated: Seconds(account.id.opened),
            is_deleted: false,
            deleted: None,
        }
    }
}

resource! {
    /// An account.
    pub(in crate::http) struct Account<'a> {
        /// The account's id.
        id: Id,
        /// The account's name.
        name: &'a AccountName,
        /// The currency of all its amounts.
        currency: Currency,
        /// The booked balance.
        posted: MoneyText,
        /// What pending holds reserve.
        held: MoneyText,
        /// What a withdrawal may take: the balance less what is held, and the overdraft limit; zero once it is closed. Of a
        /// frozen account it is what the balance allows, and it cannot pay all the same.
        available: MoneyText,
        /// How far below zero the account may go.
        overdraft_limit: MoneyText,
        /// Whether it is frozen: it receives, but does not pay.
        frozen: bool,
        /// The client's own name for it.
        reference: Option<&'a Reference>,
        /// The client's metadata.
        metadata: &'a ledger::Metadata,
        /// Whether no two of its transactions may have the same reference.
        unique_reference: bool,
        /// How much may leave it, and how often; null without limits.
        velocity_limits: Option<VelocityLimitsKept>,
        /// What may still leave it; null without limits. In the reply to its opening, all of it.
        allowance: Option<AllowanceLeft>,
        /// How many times it has changed; also its ETag.
        version: u64,
        /// When it was opened.
        created: Time,
        /// When it last changed.
        updated: Time,
        /// When it was closed; null while it is open.
        closed: Option<Time>,
        /// What can be done with it now.
        links as "_links": Links<AccountLinks>,
    }
}

impl<'a> Account<'a> {
    pub(in crate::http) fn of(account: &'a AccountView) -> Account<'a> {
        let money = |amount| MoneyText(amount, account.currency);
        let details = account.details.as_deref();
        let limits = details.map(|details| details.velocity).filter(|limits| !limits.is_empty());
        Account {
            id: Id(account.id.to_uuid()),
            name: &account.name,
            currency: account.currency,
            posted: money(account.posted),
            held: money(account.held),
            available: money(account.available),
            overdraft_limit: money(account.overdraft_limit),
            frozen: account.frozen,
            reference: details.and_then(|details| details.reference.as_ref()),
            metadata: details.map_or(&*NO_METADATA_KEPT, |details| &details.metadata),
            unique_reference: details.is_some_and(|details| details.unique_reference),
            velocity_limits: limits.map(|limits| VelocityLimitsKept::of(limits, account.currency)),
            allowance: limits.map(|_| AllowanceLeft::of(account.allowance, account.currency)),
            version: account.version,
            created: Time(account.opened),
            updated: Time(account.updated),
            closed: account.closed.map(Time),
            links: Links(AccountLinks {
                id: account.id.to_uuid(),
                open: account.closed.is_none(),
                pays: account.closed.is_none() && !account.frozen,
                empty: account.posted.is_zero() && account.held.is_zero(),
            }),
        }
    }

    /// The account as its opening made it. What an account at zero has available is its overdraft limit.
    pub(in crate::http) fn opened(account: &'a OpenedAccount) -> Account<'a> {
        let money = |amount| MoneyText(amount, account.currency);
        let id = account.id.to_uuid();
        let limits = Some(account.opened.velocity).filter(|limits| !limits.is_empty());
        let all = |limits: VelocityLimits| limits.allowance(&Spent::default(), account.id.opened);
        Account {
            id: Id(id),
            name: &account.opened.name,
            currency: account.currency,
            posted: money(Amount::ZERO),
            held: money(Amount::ZERO),
            available: money(account.overdraft_limit),
            overdraft_limit: money(account.overdraft_limit),
            frozen: false,
            reference: account.opened.reference.as_ref(),
            metadata: &account.opened.metadata,
            unique_reference: account.opened.unique_reference,
            velocity_limits: limits.map(|limits| VelocityLimitsKept::of(limits, account.currency)),
            allowance: limits.map(|limits| AllowanceLeft::of(all(limits), account.currency)),
            version: 1,
            created: Time(account.id.opened),
            updated: Time(account.id.opened),
            closed: None,
            links: Links(AccountLinks { id, open: true, pays: true, empty: true }),
        }
    }
}

static NO_METADATA_KEPT: LazyLock<ledger::Metadata> = LazyLock::new(ledger::Metadata::default);

resource! {
    /// A page of the accounts.
    pub(in crate::http) struct AccountPage<'a> {
        /// How many accounts are on this page. A page may have fewer than asked for, even none: `next` tells whether
        /// there may be more.
        count: u64,
        /// The accounts, in an order of their own that does not change.
        items: Vec<Account<'a>>,
        /// The cursor of the next page; null if this is the last one.
        next: Option<Text<'a>>,
        /// This page and the next.
        links as "_links": PageLinks,
    }
}

resource! {
    /// The velocity limits of an account; null where there is none.
    pub(in crate::http) struct VelocityLimitsKept {
        /// The most that may leave in a day, UTC.
        per_day: Option<MoneyText>,
        /// The most that may leave in a month, UTC.
        per_month: Option<MoneyText>,
        /// How many debits there may be in a window.
        debits: Option<DebitLimitKept>,
    }
}

resource! {
    /// How many debits there may be in each window of so many seconds.
    pub(in crate::http) struct DebitLimitKept {
        /// How many.
        count: u64,
        /// The length of a window.
        window_seconds: u64,
    }
}

impl VelocityLimitsKept {
    pub(super) fn of(limits: VelocityLimits, currency: Currency) -> VelocityLimitsKept {
        let money = |amount| MoneyText(amount, currency);
        VelocityLimitsKept {
            per_day: limits.per_day.map(money),
            per_month: limits.per_month.map(money),
            debits: limits.debits.map(|limit| DebitLimitKept {
                count: limit.count.into(),
                window_seconds: limit.window_seconds.into(),
            }),
        }
    }
}

resource! {
    /// What may still leave an account in the periods of its velocity limits; null where there is no limit.
    pub(in crate::http) struct AllowanceLeft {
        /// How much today, UTC.
        per_day: Option<MoneyText>,
        /// How much this month, UTC.
        per_month: Option<MoneyText>,
        /// How many debits in this window.
        debits: Option<u64>,
    }
}

resource! {
    /// The same in version 1, whose amounts are numbers.
    pub(in crate::http) struct AllowanceLeftV1 {
        /// How much today, UTC.
        per_day: Option<MoneyNumber>,
        /// How much this month, UTC.
        per_month: Option<MoneyNumber>,
        /// How many debits in this window.
        debits: Option<u64>,
    }
}

impl AllowanceLeftV1 {
    pub(in crate::http) fn of(allowance: Allowance, currency: Currency) -> AllowanceLeftV1 {
        AllowanceLeftV1 {
            per_day: allowance.in_day.map(|amount| MoneyNumber(amount, currency)),
            per_month: allowance.in_month.map(|amount| MoneyNumber(amount, currency)),
            debits: allowance.debits.map(u64::from),
        }
    }
}

impl AllowanceLeft {
    /// What an effect leaves, if it says so.
    pub(in crate::http) fn after(effect: &Effect) -> Option<AllowanceLeft> {
        effect.allowance.as_deref().map(|allowance| AllowanceLeft::of(*allowance, effect.currency))
    }

    pub(in crate::http) fn of(allowance: Allowance, currency: Currency) -> AllowanceLeft {
        AllowanceLeft {
            per_day: allowance.in_day.map(|amount| MoneyText(amount, currency)),
            per_month: allowance.in_month.map(|amount| MoneyText(amount, currency)),
            debits: allowance.debits.map(u64::from),
        }
    }
}

/// What the links of an account depend on.
pub(in crate::http) struct AccountLinks {
    id: Uuid,
    open: bool,
    pays: bool,
    empty: bool,
}

impl Linked for AccountLinks {
    const SCHEMA: &'static str = "AccountLinks";
    const RELATIONS: &'static [Relation<AccountLinks>] = &[
        Relation { name: "self", path: "/v2/accounts/{account}", offered: |_| true, meaning: "The account." },
        Relation {
            name: "transactions",
            path: "/v2/accounts/{account}/transactions",
            offered: |_| true,
            meaning: "Its history.",
        },
        Relation {
            name: "statement",
            path: "/v2/accounts/{account}/statement",
            offered: |_| true,
            meaning: "What changed its balance, with opening and closing balance.",
        },
        Relation {
            name: "deposits",
            path: "/v2/accounts/{account}/deposits",
            offered: |account| account.open,
            meaning: "POST pays in.",
        },
        Relation {
            name: "holds",
            path: "/v2/accounts/{account}/holds",
            offered: |_| true,
            meaning: "Its holds.",
        },
        Relation {
            name: "links",
            path: "/v2/accounts/{account}/links",
            offered: |_| true,
            meaning: "The accounts that it is linked to.",
        },
        Relation {
            name: "update",
            path: "/v2/accounts/{account}",
            offered: |account| account.open,
            meaning: "PATCH changes its terms.",
        },
        Relation {
            name: "withdrawals",
            path: "/v2/accounts/{account}/withdrawals",
            offered: |account| account.pays,
            meaning: "POST pays out.",
        },
        Relation {
            name: "close",
            path: "/v2/accounts/{account}",
            offered: |account| account.open && account.empty,
            meaning: "DELETE closes the account, which has to stand at zero.",
        },
    ];

    fn variable(&self, _relation: &str, _: &str) -> Uuid {
        self.id
    }
}
