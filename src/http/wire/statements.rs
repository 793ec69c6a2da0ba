//! What was, on the wire: accounts as they were, and statements as JSON, CSV and text.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::marker::PhantomData;

use serde_json::{Map, Value, json};

use super::links::{Link, PageLinks};
use super::schema::{Describe, Schemas, with_meaning};
use super::write::{Id, MoneyText, Object, Rfc3339, Text, Time, TotalText, Write, resource};
use crate::bank::{self, StatementLine};
use crate::ledger::{AccountName, Currency, Reference, TransactionType};

resource! {
    /// An account as it was.
    pub(in crate::http) struct PastAccount<'a> {
        /// The account's id.
        id: Id,
        /// The account's name.
        name: &'a AccountName,
        /// The currency of all its amounts.
        currency: Currency,
        /// The booked balance then.
        posted: MoneyText,
        /// What its pending holds reserved then.
        held: MoneyText,
        /// Its version then.
        version: u64,
        /// The moment that this is about; that of the version, if one was asked for.
        at: Time,
        /// When it was opened.
        created: Time,
        /// When it had last changed.
        updated: Time,
        /// When it had been closed; null if it was open.
        closed: Option<Time>,
        /// Where to go from here.
        links as "_links": PathLinks<PastAccountLinks>,
    }
}

impl<'a> PastAccount<'a> {
    pub(in crate::http) fn of(account: &'a bank::PastAccount) -> PastAccount<'a> {
        let money = |amount| MoneyText(amount, account.currency);
        let path = format!("/v2/accounts/{}", account.id.to_uuid());
        PastAccount {
            id: Id(account.id.to_uuid()),
            name: &account.name,
            currency: account.currency,
            posted: money(account.posted),
            held: money(account.held),
            version: account.version,
            at: Time(account.at),
            created: Time(account.id.opened),
            updated: Time(account.updated),
            closed: account.closed.map(Time),
            links: PathLinks::new([format!("{path}?at=v{}", account.version), path]),
        }
    }
}

resource! {
    /// A page of the accounts that there were at a moment.
    pub(in crate::http) struct PastAccountPage<'a> {
        /// How many accounts are on this page.
        count: u64,
        /// The accounts as they were.
        items: Vec<PastAccount<'a>>,
        /// The cursor of the next page; null if this is the last one.
        next: Option<Text<'a>>,
        /// This page and the next.
        links as "_links": PageLinks,
    }
}

resource! {
    /// What an account got and paid in a time. The opening balance and the amounts of the lines sum to the closing
    /// balance.
    pub(in crate::http) struct Statement<'a> {
        /// The account's id.
        account_id: Id,
        /// The account's name.
        name: &'a AccountName,
        /// The currency of all its amounts.
        currency: Currency,
        /// From when on it is.
        from: Time,
        /// Before when it ends; null for now.
        to: Option<Time>,
        /// The balance before its first line.
        opening_balance: MoneyText,
        /// All that came in.
        paid_in: TotalText,
        /// All that went out.
        paid_out: TotalText,
        /// The balance after its last line.
        closing_balance: MoneyText,
        /// How many lines it has.
        count: u64,
        /// Whatever changed the balance, oldest first.
        lines: Vec<Line<'a>>,
        /// Where to go from here.
        links as "_links": PathLinks<StatementLinks>,
    }
}

resource! {
    /// A line of a statement.
    pub(in crate::http) struct Line<'a> {
        /// The transaction's id.
        id: Id,
        /// What was done.
        kind as "type": TransactionType,
        /// What it added to the balance, below zero for what it took.
        amount: MoneyText,
        /// The balance after it.
        balance: MoneyText,
        /// The account's version after it.
        version: u64,
        /// The client's reference.
        reference: Option<&'a Reference>,
        /// The other account, if there is exactly one.
        counterparty_id: Option<Id>,
        /// When it was booked.
        created: Time,
    }
}

impl<'a> Line<'a> {
    fn of(line: &'a StatementLine, currency: Currency) -> Line<'a> {
        Line {
            id: Id(line.id.to_uuid()),
            kind: line.entry_type,
            amount: MoneyText(line.amount, currency),
            balance: MoneyText(line.balance, currency),
            version: line.version,
            reference: line.reference.as_ref(),
            counterparty_id: line.counterparty.map(|account| Id(account.to_uuid())),
            created: Time(line.created()),
        }
    }
}

impl<'a> Statement<'a> {
    pub(in crate::http) fn of(statement: &'a bank::Statement) -> Statement<'a> {
        let account = &statement.account;
        let money = |amount| MoneyText(amount, account.currency);
        let path = format!("/v2/accounts/{}", account.id.to_uuid());
        let mut time = format!("?from={}", statement.from.millis());
        if let Some(to) = statement.to {
            let _ = write!(time, "&to={}", to.millis());
        }
        let links = [format!("{path}/statement{time}"), path.clone(), format!("{path}/transactions{time}")];
        Statement {
            account_id: Id(account.id.to_uuid()),
            name: &account.name,
            currency: account.currency,
            from: Time(statement.from),
            to: statement.to.map(Time),
            opening_balance: money(statement.opening),
            paid_in: TotalText(statement.paid_in, account.currency),
            paid_out: TotalText(statement.paid_out, account.currency),
            closing_balance: money(statement.closing),
            count: statement.lines.len() as u64,
            lines: statement.lines.iter().map(|line| Line::of(line, account.currency)).collect(),
            links: PathLinks::new(links),
        }
    }
}

/// The statement as CSV (RFC 4180) with a header. The first record has the opening balance and the last the closing
/// balance; those between are its lines.
pub(in crate::http) fn csv(statement: &bank::Statement) -> String {
    let currency = statement.account.currency;
    let mut out =
        String::from("created,type,amount,balance,currency,reference,counterparty_id,id,version\r\n");
    let time = Rfc3339(statement.from).to_string();
    csv_record(
        &mut out,
        &[&time, "opening-balance", "", statement.opening.text(currency).as_str(), currency.code()],
    );
    for line in &statement.lines {
        csv_record(
            &mut out,
            &[
                &Rfc3339(line.created()).to_string(),
                line.entry_type.name(),
                line.amount.text(currency).as_str(),
                line.balance.text(currency).as_str(),
                currency.code(),
                line.reference.as_deref().unwrap_or_default(),
                &line.counterparty.map(|account| account.to_uuid().to_string()).unwrap_or_default(),
                &line.id.to_uuid().to_string(),
                &line.version.to_string(),
            ],
        );
    }
    let time = statement.to.map(|to| Rfc3339(to).to_string()).unwrap_or_default();
    csv_record(
        &mut out,
        &[&time, "closing-balance", "", statement.closing.text(currency).as_str(), currency.code()],
    );
    out
}

/// How many fields each record has.
const CSV_FIELDS: usize = 9;

/// Writes a record; fields that are not given are empty.
fn csv_record(out: &mut String, fields: &[&str]) {
    for place in 0..CSV_FIELDS {
        if place > 0 {
            out.push(',');
        }
        let field = fields.get(place).copied().unwrap_or_default();
        if field.contains([',', '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(field);
        }
    }
    out.push_str("\r\n");
}

/// The statement as a text with aligned columns.
pub(in crate::http) fn plain_text(statement: &bank::Statement) -> String {
    let account = &statement.account;
    let currency = account.currency;
    let mut rows: Vec<[Cow<'_, str>; 6]> =
        vec![["created", "type", "amount", "balance", "reference", "counterparty"].map(Cow::Borrowed)];
    let blank = || Cow::Borrowed("");
    let from = Rfc3339(statement.from).to_string();
    let to = statement.to.map_or_else(|| "now".to_owned(), |to| Rfc3339(to).to_string());
    let opening = statement.opening.text(currency).to_string();
    rows.push([from.clone().into(), "opening balance".into(), blank(), opening.into(), blank(), blank()]);
    for line in &statement.lines {
        rows.push([
            Rfc3339(line.created()).to_string().into(),
            line.entry_type.name().into(),
            line.amount.text(currency).to_string().into(),
            line.balance.text(currency).to_string().into(),
            line.reference.as_deref().unwrap_or_default().into(),
            line.counterparty.map(|account| account.to_uuid().to_string()).unwrap_or_default().into(),
        ]);
    }
    let closing = statement.closing.text(currency).to_string();
    rows.push([to.clone().into(), "closing balance".into(), blank(), closing.into(), blank(), blank()]);
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out =
        format!("Statement of {}, {}\n{from} to {to}, {currency}\n\n", account.name, account.id.to_uuid());
    for [created, kind, amount, balance, reference, counterparty] in &rows {
        let [created_width, kind_width, amount_width, balance_width, reference_width, _] = widths;
        let line = format!(
            "{created:created_width$}  {kind:kind_width$}  {amount:>amount_width$}  {balance:>balance_width$}  \
             {reference:reference_width$}  {counterparty}",
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let (paid_in, paid_out) = (statement.paid_in.to_text(currency), statement.paid_out.to_text(currency));
    let width = paid_in.len().max(paid_out.len());
    let _ = write!(out, "\npaid in   {paid_in:>width$}\npaid out  {paid_out:>width$}\n");
    out
}

/// Links whose targets have queries, which depend on more than ids.
pub(in crate::http) struct PathLinks<L> {
    targets: Vec<String>,
    relations: PhantomData<L>,
}

/// The relations of such links.
pub(in crate::http) trait PathRelations: 'static {
    /// The name of their schema.
    const SCHEMA: &'static str;
    /// Their names and meanings; the first is `self`.
    const RELATIONS: &'static [(&'static str, &'static str)];
}

/// The links of an account as it was.
pub(in crate::http) struct PastAccountLinks;

impl PathRelations for PastAccountLinks {
    const SCHEMA: &'static str = "PastAccountLinks";
    const RELATIONS: &'static [(&'static str, &'static str)] =
        &[("self", "The account at this version."), ("account", "The account as it is now.")];
}

/// The links of a statement.
pub(in crate::http) struct StatementLinks;

impl PathRelations for StatementLinks {
    const SCHEMA: &'static str = "StatementLinks";
    const RELATIONS: &'static [(&'static str, &'static str)] = &[
        ("self", "The statement."),
        ("account", "The account."),
        ("transactions", "The history of that time, holds included."),
    ];
}

impl<L: PathRelations> PathLinks<L> {
    /// The links, with their targets in the order of the relations.
    fn new<const N: usize>(targets: [String; N]) -> PathLinks<L> {
        assert_eq!(N, L::RELATIONS.len(), "each link has a target");
        PathLinks { targets: targets.into(), relations: PhantomData }
    }
}

impl<L: PathRelations> Describe for PathLinks<L> {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>(L::SCHEMA, |schemas| {
            let link = Link::describe(schemas);
            let properties: Map<String, Value> = L::RELATIONS
                .iter()
                .map(|(name, meaning)| ((*name).to_owned(), with_meaning(link.clone(), meaning)))
                .collect();
            let names: Vec<&str> = L::RELATIONS.iter().map(|(name, _)| *name).collect();
            json!({ "type": "object", "properties": properties, "required": names })
        })
    }
}

impl<L: PathRelations> Write for PathLinks<L> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut links = Object::begin(out);
        for ((name, _), target) in L::RELATIONS.iter().zip(&self.targets) {
            Link { href: target, templated: false }.write(links.key(name));
        }
        links.end();
    }
}
