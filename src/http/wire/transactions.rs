//! Transactions on the wire: deposits, withdrawals, and an account's history of whatever kind.

use serde_json::{Value, json};
use uuid::Uuid;

use super::accounts::AllowanceLeft;
use super::changes::{AccountChanges, LinkChange, Subject};
use super::links::{Linked, Links, PageLinks, Relation};
use super::metadata::Metadata;
use super::read::body;
use super::schema::{Describe, Schemas};
use super::values::{AmountNumber, AmountText};
use super::write::{Id, IfAny, MoneyNumber, MoneyText, Seconds, Text, Time, Write, plain_text, resource};
use crate::bank::{self, AccountEntry};
use crate::ledger::{
    self, AccountId, AccountName, Currency, Direction, Effect, Kind, Reference, TransactionType,
};

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
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
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
    /// A transaction as one account sees it: an entry of its history.
    pub(in crate::http) struct Transaction<'a> {
        /// The transaction's id, which is the same in all accounts that it touches.
        id: Id,
        /// The id of the account.
        account_id: Id,
        /// What was done.
        kind as "type": TransactionType,
        /// What it added to the account's balance, below zero for what it took.
        amount: MoneyText,
        /// By how much it changed what the account's pending holds reserve.
        held_change: MoneyText,
        /// The account's balance after it.
        balance: MoneyText,
        /// What the account's pending holds reserve after it.
        held: MoneyText,
        /// The account's version after it.
        version: u64,
        /// What could still leave the account after it, if it was a debit and the account had velocity limits; else null.
        allowance: Option<AllowanceLeft>,
        /// The client's reference. That of an account which it opened is in `changes`.
        reference: Option<&'a Reference>,
        /// The client's metadata. That of an account which it opened is in `changes`.
        metadata: &'a ledger::Metadata,
        /// What an opening or amendment set; nothing else has it.
        changes: IfAny<AccountChanges<'a>>,
        /// What a linking or unlinking made of a link; nothing else has it.
        link: IfAny<LinkChange>,
        /// The other accounts that it touched.
        counterparties: Vec<Counterparty>,
        /// The hold that it placed, captured, voided or let expire.
        hold_id: Option<Id>,
        /// The transfer that it pays back.
        reversal_of: Option<Id>,
        /// When it was booked.
        created: Time,
        /// Where to go from here.
        links as "_links": Links<TransactionLinks>,
    }
}

resource! {
    /// Another account that a transaction touched.
    pub(in crate::http) struct Counterparty {
        /// Its id.
        account_id: Id,
        /// Its currency.
        currency: Currency,
        /// What it got, below zero for what it paid.
        amount: MoneyText,
    }
}

impl<'a> Transaction<'a> {
    /// An entry of an account's history.
    pub(in crate::http) fn of(entry: &'a AccountEntry) -> Transaction<'a> {
        let (effect, note) = (entry.effect(), &entry.executed.decision.note);
        let subject = Subject::of(&entry.executed.decision);
        let (id, account) = (entry.executed.id.to_uuid(), entry.account.to_uuid());
        let hold = entry.hold().map(|hold| hold.to_uuid());
        let reversal_of = match entry.executed.decision.kind {
            Kind::Reversal { of } => Some(of.to_uuid()),
            _ => None,
        };
        let counterparty = |(account, effect): (AccountId, &Effect)| Counterparty {
            account_id: Id(account.to_uuid()),
            currency: effect.currency,
            amount: MoneyText(effect.change.posted(), effect.currency),
        };
        let money = |amount| MoneyText(amount, effect.currency);
        Transaction {
            id: Id(id),
            account_id: Id(account),
            kind: entry.entry_type(),
            amount: money(effect.change.posted()),
            held_change: money(entry.held_change),
            balance: money(effect.after.balance),
            held: money(effect.after.held),
            version: effect.after.version,
            allowance: AllowanceLeft::after(effect),
            reference: note.reference.as_ref(),
            metadata: &note.metadata,
            changes: IfAny(subject.and_then(AccountChanges::of)),
            link: IfAny(subject.and_then(LinkChange::of)),
            counterparties: entry.others().map(counterparty).collect(),
            hold_id: hold.map(Id),
            reversal_of: reversal_of.map(Id),
            created: Time(entry.created()),
            links: Links(TransactionLinks { id, account, hold }),
        }
    }
}

/// What the links of a transaction depend on.
pub(in crate::http) struct TransactionLinks {
    id: Uuid,
    account: Uuid,
    hold: Option<Uuid>,
}

impl Linked for TransactionLinks {
    const SCHEMA: &'static str = "TransactionLinks";
    const RELATIONS: &'static [Relation<TransactionLinks>] = &[
        Relation {
            name: "self",
            path: "/v2/transactions/{id}",
            offered: |_| true,
            meaning: "The transaction with all its sides.",
        },
        Relation {
            name: "account",
            path: "/v2/accounts/{account}",
            offered: |_| true,
            meaning: "The account.",
        },
        Relation {
            name: "hold",
            path: "/v2/holds/{hold}",
            offered: |transaction| transaction.hold.is_some(),
            meaning: "The hold.",
        },
    ];

    fn variable(&self, _relation: &str, name: &str) -> Uuid {
        match name {
            "account" => self.account,
            "hold" => self.hold.unwrap_or_default(),
            _ => self.id,
        }
    }
}

resource! {
    /// A page of an account's history.
    pub(in crate::http) struct TransactionPage<'a> {
        /// How many transactions are on this page.
        count: u64,
        /// The transactions, in the order that was asked for.
        items: Vec<Transaction<'a>>,
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
        plain_text(
            out,
            match self.0 {
                Direction::Deposit => b"DEPOSIT",
                Direction::Withdrawal => b"WITHDRAWAL",
            },
        );
    }
}
