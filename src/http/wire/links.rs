//! Links between resources, as HAL has them: `"_links": {"self": {"href": "/v2/accounts/..."}}`.
//!
//! A resource has one table of [`Relation`]s. It says where each leads, when it is offered, and what it means, so
//! that a client sees from a resource what can be done with it in the state that it is in.

use hyper::header::HeaderValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::schema::{Describe, Schemas, with_meaning};
use super::write::{Object, Write, text};

/// One way on from a resource in the state `S`.
pub(in crate::http) struct Relation<S: 'static> {
    /// The relation's name.
    pub(in crate::http) name: &'static str,
    /// The path of a route; each name in braces is filled in by [`Linked::variable`].
    pub(in crate::http) path: &'static str,
    /// Whether it leads anywhere now.
    pub(in crate::http) offered: fn(&S) -> bool,
    /// What the client finds there, or what it may do there.
    pub(in crate::http) meaning: &'static str,
}

/// What the links of a resource depend on.
pub(in crate::http) trait Linked: Sized + 'static {
    /// The name of their schema.
    const SCHEMA: &'static str;
    /// All of them.
    const RELATIONS: &'static [Relation<Self>];
    /// Those that are always there.
    const CERTAIN: &'static [&'static str] = &["self"];

    /// What stands for a variable of the path of a relation.
    fn variable(&self, relation: &str, name: &str) -> Uuid;
}

/// The links of a resource.
pub(in crate::http) struct Links<S>(pub(in crate::http) S);

impl<S: Linked> Describe for Links<S> {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>(S::SCHEMA, |schemas| {
            let link = Link::describe(schemas);
            let properties: Map<String, Value> = S::RELATIONS
                .iter()
                .map(|relation| (relation.name.to_owned(), with_meaning(link.clone(), relation.meaning)))
                .collect();
            let meaning = "Where to go from here. A link that is not there leads nowhere now.";
            with_meaning(
                json!({ "type": "object", "properties": properties, "required": S::CERTAIN }),
                meaning,
            )
        })
    }
}

impl<S: Linked> Write for Links<S> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut links = Object::begin(out);
        for relation in S::RELATIONS.iter().filter(|relation| (relation.offered)(&self.0)) {
            let out = links.key(relation.name);
            out.extend_from_slice(b"{\"href\":\"");
            let mut rest = relation.path;
            while let Some((before, (name, behind))) =
                rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
            {
                out.extend_from_slice(before.as_bytes());
                let mut buffer = Uuid::encode_buffer();
                let id = self.0.variable(relation.name, name).hyphenated().encode_lower(&mut buffer);
                out.extend_from_slice(id.as_bytes());
                rest = behind;
            }
            out.extend_from_slice(rest.as_bytes());
            out.extend_from_slice(b"\"}");
        }
        links.end();
    }
}

/// The paths that resources link to, for the test that there are routes with these patterns.
#[cfg(test)]
pub(in crate::http) static RELATED_PATHS: &[fn() -> Vec<&'static str>] = &[
    paths_of::<super::accounts::AccountLinks>,
    paths_of::<super::account_links::AccountLinkLinks>,
    paths_of::<super::detail::DetailLinks>,
    paths_of::<super::holds::HoldLinks>,
    paths_of::<super::transactions::TransactionLinks>,
    paths_of::<super::service::TrialBalanceLinks>,
];

#[cfg(test)]
fn paths_of<S: Linked>() -> Vec<&'static str> {
    S::RELATIONS.iter().map(|relation| relation.path).collect()
}

/// One link whose target is already a text.
pub(in crate::http) struct Link<'a> {
    /// Where it leads: a path with its query, or a template of one.
    pub(in crate::http) href: &'a str,
    /// Whether it is a template (RFC 6570).
    pub(in crate::http) templated: bool,
}

impl Describe for Link<'_> {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Link", |_| {
            json!({
                "type": "object",
                "properties": {
                    "href": {
                        "type": "string",
                        "description": "A path with its query, or, if `templated`, an RFC 6570 template of one.",
                    },
                    "templated": { "type": "boolean", "description": "Absent if it is not." },
                },
                "required": ["href"],
            })
        })
    }
}

impl Write for Link<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        text(object.key("href"), self.href);
        if self.templated {
            object.plain("templated", true);
        }
        object.end();
    }
}

/// The links of a page of a list.
pub(in crate::http) struct PageLinks {
    /// The page itself.
    pub(in crate::http) this: String,
    /// The page behind it, if there is one.
    pub(in crate::http) next: Option<String>,
}

impl PageLinks {
    /// The next page as the header `Link` has it (RFC 8288).
    pub(in crate::http) fn header(&self) -> Option<HeaderValue> {
        let link = format!("<{}>; rel=\"next\"", self.next.as_ref()?);
        Some(HeaderValue::try_from(link).expect("what is encoded fits in a header"))
    }
}

impl Describe for PageLinks {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("PageLinks", |schemas| {
            let link = Link::describe(schemas);
            json!({
                "type": "object",
                "properties": {
                    "self": with_meaning(link.clone(), "This page."),
                    "next": with_meaning(link, "The next page, if there is one."),
                },
                "required": ["self"],
            })
        })
    }
}

impl Write for PageLinks {
    fn write(&self, out: &mut Vec<u8>) {
        let mut links = Object::begin(out);
        Link { href: &self.this, templated: false }.write(links.key("self"));
        if let Some(next) = &self.next {
            Link { href: next, templated: false }.write(links.key("next"));
        }
        links.end();
    }
}
