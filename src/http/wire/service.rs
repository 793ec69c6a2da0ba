//! What the service says about itself.

use serde_json::{Value, json};

use super::links::{Link, Linked, Links, PageLinks, Relation};
use super::schema::{Describe, Schemas};
use super::write::{Object, Text, TotalText, Write, resource};
use crate::http::problem::{Code, Retry};
use crate::ledger::Currency;
use crate::shard::request;
use uuid::Uuid;

resource! {
    /// The service: where a client starts.
    pub(in crate::http) struct Service<'a> {
        /// What this is.
        name: Text<'a>,
        /// Its version.
        version: Text<'a>,
        /// Everything that there is, by the relations' names.
        links as "_links": Catalog,
    }
}

/// All links of the service: their relations' names and where they lead, which may be templates.
pub(in crate::http) struct Catalog(pub(in crate::http) Vec<(&'static str, String)>);

impl Describe for Catalog {
    fn describe(schemas: &mut Schemas) -> Value {
        json!({
            "type": "object",
            "additionalProperties": Link::describe(schemas),
            "required": ["self"],
        })
    }
}

impl Write for Catalog {
    fn write(&self, out: &mut Vec<u8>) {
        let mut links = Object::begin(out);
        for (relation, href) in &self.0 {
            Link { href, templated: href.contains('{') }.write(links.key(relation));
        }
        links.end();
    }
}

resource! {
    /// How the service is.
    pub(in crate::http) struct Status {
        /// One word.
        status: Text<'static>,
    }
}

resource! {
    /// What the accounts add up to, by currency.
    pub(in crate::http) struct TrialBalance {
        /// Whether each currency's sum is zero, which it always has to be.
        balanced: bool,
        /// One line a currency.
        currencies: Vec<TrialBalanceLine>,
        /// Where this is.
        links as "_links": Links<TrialBalanceLinks>,
    }
}

resource! {
    /// The totals of one currency.
    pub(in crate::http) struct TrialBalanceLine {
        /// The currency.
        currency: Currency,
        /// How many accounts it has, closed ones too.
        accounts: u64,
        /// Their balances above zero, added up.
        credit: TotalText,
        /// Their balances below zero, added up.
        debit: TotalText,
        /// What the world outside stands at: what was paid out, less what was paid in.
        world: TotalText,
        /// What was on its way between shards at the moments at which they were read.
        in_flight: TotalText,
        /// All four of them: zero.
        sum: TotalText,
    }
}

impl TrialBalance {
    pub(in crate::http) fn of(balance: &request::TrialBalance) -> TrialBalance {
        let line = |(&currency, line): (&Currency, &request::TrialBalanceLine)| TrialBalanceLine {
            currency,
            accounts: line.accounts,
            credit: TotalText(line.credit, currency),
            debit: TotalText(line.debit, currency),
            world: TotalText(line.world, currency),
            in_flight: TotalText(line.in_flight, currency),
            sum: TotalText(line.sum(), currency),
        };
        TrialBalance {
            balanced: balance.lines.values().all(|line| line.sum().is_zero()),
            currencies: balance.lines.iter().map(line).collect(),
            links: Links(TrialBalanceLinks),
        }
    }
}

/// The links of the trial balance depend on nothing.
pub(in crate::http) struct TrialBalanceLinks;

impl Linked for TrialBalanceLinks {
    const SCHEMA: &'static str = "TrialBalanceLinks";
    const RELATIONS: &'static [Relation<TrialBalanceLinks>] = &[Relation {
        name: "self",
        path: "/v2/trial-balance",
        offered: |_| true,
        meaning: "The trial balance.",
    }];

    fn variable(&self, _relation: &str, _: &str) -> Uuid {
        unreachable!("its path has no variable")
    }
}

resource! {
    /// All problems that a reply can name.
    pub(in crate::http) struct ProblemList {
        /// How many there are.
        count: u64,
        /// The problems.
        items: Vec<ProblemPage>,
        /// Null: this is all.
        next: Option<Text<'static>>,
        /// Where this is.
        links as "_links": PageLinks,
    }
}

impl ProblemList {
    pub(in crate::http) fn all() -> ProblemList {
        ProblemList {
            count: Code::ALL.len() as u64,
            items: Code::ALL.iter().map(|&code| ProblemPage::of(code)).collect(),
            next: None,
            links: PageLinks { this: "/problems".to_owned(), next: None },
        }
    }
}

resource! {
    /// What a problem means.
    pub(in crate::http) struct ProblemPage {
        /// The problem's type: the path of this page.
        address as "type": ProblemType,
        /// The problem's code.
        code: Code,
        /// The HTTP status of replies with it.
        status: u64,
        /// A summary that is the same for every occurrence.
        title: Text<'static>,
        /// What it means and what to do.
        meaning: Text<'static>,
        /// Whether the same request may succeed later.
        retryable: bool,
        /// Where this is.
        links as "_links": PageLinks,
    }
}

impl ProblemPage {
    pub(in crate::http) fn of(code: Code) -> ProblemPage {
        ProblemPage {
            address: ProblemType(code),
            code,
            status: code.status().as_u16().into(),
            title: Text(code.title()),
            meaning: Text(code.meaning()),
            retryable: code.retry() != Retry::Never,
            links: PageLinks { this: format!("/problems/{}", code.slug()), next: None },
        }
    }
}

/// The address of a problem's page.
pub(in crate::http) struct ProblemType(pub(in crate::http) Code);

impl Describe for ProblemType {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z-]+$" })
    }
}

impl Write for ProblemType {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"/problems/");
        out.extend_from_slice(self.0.slug().as_bytes());
        out.push(b'"');
    }
}

impl Describe for Code {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("ProblemCode", |_| {
            let slugs: Vec<&str> = Code::ALL.iter().map(|code| code.slug()).collect();
            json!({ "type": "string", "enum": slugs })
        })
    }
}

impl Write for Code {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.slug().as_bytes());
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Amount, Total};

    /// P3: while money was on its way between shards, what the reply showed did not add up, though it said so.
    #[test]
    fn all_columns_of_a_trial_balance_are_shown() {
        let total = |units| {
            let mut total = Total::default();
            total.add(Amount::from_minor_units(units).expect("in range"));
            total
        };
        let (credit, debit, world, in_flight) = (total(200), total(-300), total(-100), total(200));
        let line = request::TrialBalanceLine { accounts: 3, credit, debit, world, in_flight };
        let currency = Currency::from_code(b"EUR").expect("a currency");
        let balance = request::TrialBalance { lines: [(currency, line)].into() };
        let mut written = Vec::new();
        TrialBalance::of(&balance).write(&mut written);
        let reply: Value = serde_json::from_slice(&written).expect("JSON");
        let columns = ["credit", "debit", "world", "in_flight", "sum"];
        let shown = columns.map(|column| reply["currencies"][0][column].as_str().expect("text"));
        assert_eq!((shown, &reply["balanced"]), (["2.00", "-3.00", "-1.00", "2.00", "0.00"], &json!(true)));
    }
}
