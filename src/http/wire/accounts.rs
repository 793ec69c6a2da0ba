//! Accounts on the wire.

use uuid::Uuid;

use super::links::{Linked, Links, Relation};
use super::read::body;
use super::values::LimitText;
use super::write::{Id, MoneyNumber, MoneyText, Seconds, Time, resource};
use crate::bank::OpenedAccount;
use crate::ledger::{AccountName, Allowance, Amount, Currency};
use crate::shard::batch::AccountView;

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
        /// How far below zero the account may go. Without it the service's own limit counts, as it is set at any
        /// time.
        overdraft_limit: Option<LimitText>,
    }
}

resource! {
    /// An account in version 1.
    pub(in crate::http) struct AccountV1<'a> {
        /// The account's id.
        id: Id,
        /// The account's name.
        name: &'a AccountName,
        /// The booked balance, with two decimals.
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
        /// What a withdrawal may take: the balance and what is left of the overdraft.
        available: MoneyText,
        /// How far below zero the balance may go.
        overdraft_limit: MoneyText,
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
        Account {
            id: Id(account.id.to_uuid()),
            name: &account.name,
            currency: account.currency,
            posted: money(account.posted),
            available: money(account.available),
            overdraft_limit: money(account.overdraft_limit),
            version: account.version,
            created: Time(account.opened),
            updated: Time(account.updated),
            closed: account.closed.map(Time),
            links: Links(AccountLinks {
                id: account.id.to_uuid(),
                open: account.closed.is_none(),
                empty: account.posted.is_zero(),
            }),
        }
    }

    /// The account as its opening made it. What an account at zero has available is its overdraft limit.
    pub(in crate::http) fn opened(account: &'a OpenedAccount) -> Account<'a> {
        let money = |amount| MoneyText(amount, account.currency);
        let id = account.id.to_uuid();
        Account {
            id: Id(id),
            name: &account.opened.name,
            currency: account.currency,
            posted: money(Amount::ZERO),
            available: money(account.overdraft_limit),
            overdraft_limit: money(account.overdraft_limit),
            version: 1,
            created: Time(account.id.opened),
            updated: Time(account.id.opened),
            closed: None,
            links: Links(AccountLinks { id, open: true, empty: true }),
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

impl AllowanceLeft {
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
            name: "deposits",
            path: "/v2/accounts/{account}/deposits",
            offered: |account| account.open,
            meaning: "POST pays in.",
        },
        Relation {
            name: "withdrawals",
            path: "/v2/accounts/{account}/withdrawals",
            offered: |account| account.open,
            meaning: "POST pays out.",
        },
        Relation {
            name: "close",
            path: "/v2/accounts/{account}",
            offered: |account| account.open && account.empty,
            meaning: "DELETE closes the account, which has to stand at zero.",
        },
    ];

    fn variable(&self, _: &str) -> Uuid {
        self.id
    }
}
