//! Links between accounts on the wire.

use serde_json::{Value, json};
use uuid::Uuid;

use super::links::{Linked, Links, PageLinks, Relation};
use super::read::{Parsed, ReadScalar, body, parse_text};
use super::schema::{Describe, Schemas, with_meaning};
use super::write::{Id, Text, Write, resource, text};
use crate::ledger::{AccountId, LinkKind};

body! {
    /// What links an account to another.
    pub(in crate::http) struct LinkRequest {
        /// What the link is for.
        kind: LinkKind,
    }
}

resource! {
    /// A link from an account to another.
    pub(in crate::http) struct AccountLink {
        /// The account.
        account_id: Id,
        /// The account that it is linked to.
        linked_account_id: Id,
        /// What the link is for.
        kind: LinkKind,
        /// Where to go from here.
        links as "_links": Links<AccountLinkLinks>,
    }
}

impl AccountLink {
    pub(in crate::http) fn of(account: AccountId, to: AccountId, kind: LinkKind) -> AccountLink {
        let (account, other) = (account.to_uuid(), to.to_uuid());
        AccountLink {
            account_id: Id(account),
            linked_account_id: Id(other),
            kind,
            links: Links(AccountLinkLinks { account, other }),
        }
    }
}

resource! {
    /// The links of an account.
    pub(in crate::http) struct AccountLinkList {
        /// How many there are.
        count: u64,
        /// The links, in order of linking.
        items: Vec<AccountLink>,
        /// The accounts whose overdraft this one protects.
        protects: Vec<Id>,
        /// Null: this is all.
        next: Option<Text<'static>>,
        /// Where this is.
        links as "_links": PageLinks,
    }
}

impl AccountLinkList {
    pub(in crate::http) fn of(
        account: AccountId,
        items: Vec<AccountLink>,
        protects: Vec<Id>,
    ) -> AccountLinkList {
        let this = format!("/v2/accounts/{}/links", account.to_uuid());
        let links = PageLinks { this, next: None };
        AccountLinkList { count: items.len() as u64, items, protects, next: None, links }
    }
}

impl Describe for LinkKind {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("LinkKind", |_| {
            with_meaning(
                json!({ "type": "string", "enum": ["related", "overdraft-protection"] }),
                "`related` only says that the accounts belong together. With `overdraft-protection`, what this account \
                 lacks for a withdrawal, transfer or hold is pulled from the other one, together with it or not at all.",
            )
        })
    }
}

impl ReadScalar for LinkKind {
    fn parse(raw: &str) -> Parsed<LinkKind> {
        match &*parse_text(raw)? {
            "related" => Ok(LinkKind::Related),
            "overdraft-protection" => Ok(LinkKind::OverdraftProtection),
            _ => Err("must be related or overdraft-protection".into()),
        }
    }
}

impl Write for LinkKind {
    fn write(&self, out: &mut Vec<u8>) {
        text(
            out,
            match self {
                LinkKind::Related => "related",
                LinkKind::OverdraftProtection => "overdraft-protection",
            },
        );
    }
}

/// What the links of a link depend on.
pub(in crate::http) struct AccountLinkLinks {
    account: Uuid,
    other: Uuid,
}

impl Linked for AccountLinkLinks {
    const SCHEMA: &'static str = "AccountLinkLinks";
    const RELATIONS: &'static [Relation<AccountLinkLinks>] = &[
        Relation {
            name: "self",
            path: "/v2/accounts/{account}/links/{other}",
            offered: |_| true,
            meaning: "The link; DELETE removes it.",
        },
        Relation {
            name: "account",
            path: "/v2/accounts/{account}",
            offered: |_| true,
            meaning: "The account.",
        },
        Relation {
            name: "linked-account",
            path: "/v2/accounts/{account}",
            offered: |_| true,
            meaning: "The account that it is linked to.",
        },
    ];

    fn variable(&self, relation: &str, name: &str) -> Uuid {
        if name == "other" || relation == "linked-account" { self.other } else { self.account }
    }
}
