//! Transactions on the wire: deposits, withdrawals, and an account's history.

use serde_json::{Value, json};
use uuid::Uuid;

use super::links::{Linked, Links, PageLinks, Relation};
use super::read::body;
use super::schema::{Describe, Schemas};
use super::values::{AmountNumber, AmountText};
use super::write::{Id, MoneyNumber, MoneyText, Seconds, Text, Time, Write, resource, text};
use crate::bank;
use crate::ledger::{AccountId, AccountName, Currency, Direction};

body! {
    /// What pays into or out of an account in version 1.
    pub(in crate::http) struct PostingV1 {
        /// How much.
        amount: AmountNumber,
    }
}

body! {
    /// What pays into or out of an account.
    pub(in crate::http) struct Posting {
        /// How much.
        amount: AmountText,
    }
}

resource! {
    /// A transaction in version 1.
    pub(in crate::http) struct TransactionV1<'a> {
        /// The transaction's id.
        id: Id,
        /// The name of its account.
        account: &'a AccountName,
        /// Which way the money went.
        kind as "type": DirectionV1,
        /// How much, below zero for a withdrawal.
        amount: MoneyNumber,
        /// The account's balance after it.
        balance: MoneyNumber,
        /// When it was booked, in Unix seconds.
        created: Seconds,
    }
}

impl<'a> TransactionV1<'a> {
    /// `account` is the name of its account.
    pub(in crate::http) fn of(
        transaction: &bank::Transaction,
        account: &'a AccountName,
        currency: Currency,
    ) -> TransactionV1<'a> {
        TransactionV1 {
            id: Id(transaction.id.to_uuid()),
            account,
            kind: DirectionV1(transaction.direction),
            amount: MoneyNumber(transaction.direction.signed(transaction.amount), currency),
            balance: MoneyNumber(transaction.balance, currency),
            created: Seconds(transaction.created()),
        }
    }
}

resource! {
    /// A transaction: one entry of an account's history.
    pub(in crate::http) struct Transaction {
        /// The transaction's id.
        id: Id,
        /// The id of its account.
        account_id: Id,
        /// Which way the money went.
        kind as "type": Direction,
        /// How much, below zero for a withdrawal.
        amount: MoneyText,
        /// The account's balance after it.
        balance: MoneyText,
        /// The account's version after it.
        version: u64,
        /// When it was booked.
        created: Time,
        /// Where to go from here.
        links as "_links": Links<TransactionLinks>,
    }
}

impl Transaction {
    /// `account` and `currency` are its account's.
    pub(in crate::http) fn of(
        transaction: &bank::Transaction,
        account: AccountId,
        currency: Currency,
    ) -> Transaction {
        let (id, account) = (transaction.id.to_uuid(), account.to_uuid());
        Transaction {
            id: Id(id),
            account_id: Id(account),
            kind: transaction.direction,
            amount: MoneyText(transaction.direction.signed(transaction.amount), currency),
            balance: MoneyText(transaction.balance, currency),
            version: transaction.version,
            created: Time(transaction.created()),
            links: Links(TransactionLinks { id, account }),
        }
    }
}

/// What the links of a transaction depend on.
pub(in crate::http) struct TransactionLinks {
    id: Uuid,
    account: Uuid,
}

impl Linked for TransactionLinks {
    const SCHEMA: &'static str = "TransactionLinks";
    const RELATIONS: &'static [Relation<TransactionLinks>] = &[
        Relation {
            name: "self",
            path: "/v2/transactions/{id}",
            offered: |_| true,
            meaning: "The transaction.",
        },
        Relation {
            name: "account",
            path: "/v2/accounts/{account}",
            offered: |_| true,
            meaning: "Its account.",
        },
    ];

    fn variable(&self, _relation: &str, name: &str) -> Uuid {
        if name == "account" { self.account } else { self.id }
    }
}

resource! {
    /// A page of an account's history.
    pub(in crate::http) struct TransactionPage<'a> {
        /// How many transactions are on this page.
        count: u64,
        /// The transactions, in the order that was asked for.
        items: Vec<Transaction>,
        /// The cursor of the next page; null if this is the last one.
        next: Option<Text<'a>>,
        /// This page and the next.
        links as "_links": PageLinks,
    }
}

/// The direction as version 1 spells it.
pub(in crate::http) struct DirectionV1(Direction);

impl Describe for DirectionV1 {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "enum": ["DEPOSIT", "WITHDRAWAL"] })
    }
}

impl Write for DirectionV1 {
    fn write(&self, out: &mut Vec<u8>) {
        text(
            out,
            match self.0 {
                Direction::Deposit => "DEPOSIT",
                Direction::Withdrawal => "WITHDRAWAL",
            },
        );
    }
}

impl Describe for Direction {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "enum": ["deposit", "withdrawal"] })
    }
}

impl Write for Direction {
    fn write(&self, out: &mut Vec<u8>) {
        text(
            out,
            match self {
                Direction::Deposit => "deposit",
                Direction::Withdrawal => "withdrawal",
            },
        );
    }
}
