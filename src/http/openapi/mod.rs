//! The OpenAPI 3.1 document of all this, made from what the code runs by: the table of [routes](super::routes), the
//! declarations of [operations](super::operation), the types of the wire, the table of problems.
//!
//! So nothing can be done that it does not tell. The reverse is watched where requests are answered: a refusal
//! that the document does not name fails an assertion in every test.

pub(super) mod docs;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::operation::{Operation, ReplyHeader, RequestHeader, WITHOUT_OPERATION};
use super::problem::{Code, Problem, Retry};
use super::routes::{ROUTES, Route};
use super::wire::schema::{Describe, Schemas, with_example, with_meaning};
use super::wire::write::Id;
use crate::bank::AccountSelector;
use crate::ledger::AccountName;

const ABOUT: &str = "\
A ledger of bank accounts. What it has acknowledged is durable, and it never rounds.

Start at `GET /` and follow `_links`. Version 2 (`/v2/...`) writes amounts as texts with the currency's decimals; \
version 1 (`/accounts`, `/transactions`) is the original service's wire, with amounts as numbers.

Every path that has GET has HEAD too, and every path has OPTIONS, which tells its methods (`Allow`) and what its PATCH \
takes (`Accept-Patch`); `OPTIONS *` tells all methods. A refusal is `application/problem+json`; its \
`code` is one of `/problems`. A POST, PATCH or DELETE may carry an `Idempotency-Key`: sent again, it takes \
effect once and gets the first reply; PUT needs none. Unknown fields and parameters are refused, never ignored. In a \
query a `+` is a space; a plus is `%2B`, but in the offset of a time it may stand as it is.";

/// The document.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for route in ROUTES {
        let mut path = Map::new();
        let variables: Vec<Value> =
            route.variables().map(|name| path_parameter(name, &mut schemas)).collect();
        if !variables.is_empty() {
            path.insert("parameters".to_owned(), variables.into());
        }
        for (method, operation) in route.operations {
            let described = describe_operation(route, method, operation, &mut schemas);
            path.insert(method.as_str().to_ascii_lowercase(), described);
        }
        paths.insert(route.pattern.to_owned(), path.into());
    }
    let otherwise = responses_of(WITHOUT_OPERATION.iter().copied(), None, &mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": ABOUT,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "tags": TAGS
            .iter()
            .map(|(name, meaning)| json!({ "name": name, "description": meaning }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "headers": all_reply_headers(),
            "parameters": all_request_headers(),
            "responses": named_responses(otherwise),
            "schemas": schemas.into_value(),
        },
    })
}

/// The groups of operations, in the order of the page.
const TAGS: &[(&str, &str)] = &[
    ("service", "Where to start, how it is, what it means."),
    ("version 2", "Amounts as exact texts, references by id or name, links."),
    ("version 1", "The original service's wire, byte for byte."),
];

fn tag_of(route: &Route) -> &'static str {
    let (service, two, one) = (TAGS[0].0, TAGS[1].0, TAGS[2].0);
    match route.relation {
        None => one,
        Some(_) if route.pattern.starts_with("/v2/") => two,
        Some(_) => service,
    }
}

/// What stands for a variable of a path.
fn path_parameter(name: &str, schemas: &mut Schemas) -> Value {
    let (schema, meaning) = match name {
        "account" => (AccountSelector::describe(schemas), "An account reference."),
        "name" => (AccountName::describe(schemas), "The name of an open account."),
        "other" => (
            with_example(AccountSelector::describe(schemas), "name:bob"),
            "The reference of the other account.",
        ),
        "id" | "hold" => (Id::describe(schemas), "The resource's id."),
        "code" => (Code::describe(schemas), "The problem's code."),
        other => unreachable!("the variable {other} of a route is described here"),
    };
    with_meaning(json!({ "name": name, "in": "path", "required": true, "schema": schema }), meaning)
}

fn describe_operation(route: &Route, method: &Method, operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut parameters = (operation.query.describe)(schemas);
    parameters.push(reference("parameters", RequestHeader::XRequestId.component()));
    let headers = operation.headers.iter();
    parameters.extend(headers.map(|header| reference("parameters", header.component())));
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag_of(route)],
        "parameters": parameters,
        "responses": describe_responses(method, operation, schemas),
    });
    if !operation.details.is_empty() {
        described["description"] = operation.details.into();
    }
    if let Some(request) = operation.request {
        let bodies = [(request.media_type, request.describe)];
        let content: Map<String, Value> = bodies
            .iter()
            .chain(request.other_types)
            .map(|(media_type, describe)| ((*media_type).to_owned(), json!({ "schema": describe(schemas) })))
            .collect();
        described["requestBody"] = json!({
            "required": !request.is_optional,
            "description": format!("At most {} bytes.", request.bytes_max),
            "content": content,
        });
    }
    described
}

fn describe_responses(method: &Method, operation: &Operation, schemas: &mut Schemas) -> Value {
    let success = operation.success;
    let mut reply = json!({
        "description": success.meaning,
        "headers": headers(success.headers, success.headers_at_times),
    });
    let bodies = success.body.iter().chain(success.other_bodies);
    let content: Map<String, Value> = bodies
        .map(|(media_type, describe)| ((*media_type).to_owned(), json!({ "schema": describe(schemas) })))
        .collect();
    if !content.is_empty() {
        reply["content"] = content.into();
    }
    let mut responses = Map::new();
    if operation.has_dry_run() {
        let would = json!({
            "description": "What would happen: it is a dry run, and nothing was changed.",
            "headers": headers(&[], &[]),
            "content": reply["content"].clone(),
        });
        responses.insert("200".to_owned(), would);
    }
    let links: Map<String, Value> = operation
        .leads_to
        .iter()
        .map(|(id, parameter, place)| {
            ((*id).to_owned(), json!({ "operationId": id, "parameters": { (*parameter): place } }))
        })
        .collect();
    if !links.is_empty() {
        reply["links"] = links.into();
    }
    if let Some((status, meaning)) = success.or {
        responses.insert(status.to_string(), with_meaning(reply.clone(), meaning));
    }
    responses.insert(success.status.to_string(), reply);
    if operation.is_conditional() {
        let unchanged = json!({
            "description": "The client has it already.",
            "headers": headers(success.headers, success.headers_at_times),
        });
        responses.insert("304".to_owned(), unchanged);
    }
    responses.extend(responses_of(operation.codes(), Some((method, operation)), schemas));
    responses.into()
}

/// What is answered with these problems: one response a status, which names the codes that it can have.
fn responses_of(
    codes: impl Iterator<Item = Code>,
    of: Option<(&Method, &Operation)>,
    schemas: &mut Schemas,
) -> Map<String, Value> {
    let problem = Problem::describe(schemas);
    let mut by_status = std::collections::BTreeMap::<u16, Vec<Code>>::new();
    for code in codes {
        let codes = by_status.entry(code.status().as_u16()).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    let response = |(status, codes): (u16, Vec<Code>)| {
        let meanings: Vec<String> =
            codes.iter().map(|code| format!("- `{}`: {}.", code.slug(), code.title())).collect();
        let slugs: Vec<&str> = codes.iter().map(|code| code.slug()).collect();
        let retry = |code: &Code| code.retry() != Retry::Never;
        let (mut certain, mut at_times) = (vec![ReplyHeader::CacheControl], Vec::new());
        if codes.contains(&Code::MethodNotAllowed) {
            certain.push(ReplyHeader::Allow);
        }
        if codes.contains(&Code::UnsupportedMediaType)
            && of.is_some_and(|(method, _)| method == Method::PATCH)
        {
            certain.push(ReplyHeader::AcceptPatch);
        }
        if codes.iter().all(retry) {
            certain.push(ReplyHeader::RetryAfter);
        } else if codes.iter().any(retry) {
            at_times.push(ReplyHeader::RetryAfter);
        }
        if of.is_some_and(|(_, operation)| operation.is_keyed()) {
            at_times.push(ReplyHeader::IdempotentReplayed);
        }
        let schema = json!({
            "allOf": [problem, { "type": "object", "properties": { "code": { "enum": slugs } } }],
        });
        let response = json!({
            "description": meanings.join("\n"),
            "headers": headers(&certain, &at_times),
            "content": { "application/problem+json": { "schema": schema } },
        });
        (status.to_string(), response)
    };
    by_status.into_iter().map(response).collect()
}

/// The answers to requests that find no operation, under names of their own.
fn named_responses(by_status: Map<String, Value>) -> Map<String, Value> {
    by_status
        .into_iter()
        .map(|(status, response)| (format!("Without-operation-{status}"), response))
        .collect()
}

/// The headers of a reply. The request's id is in every one.
fn headers(certain: &[ReplyHeader], at_times: &[ReplyHeader]) -> Map<String, Value> {
    let mut headers = Map::new();
    for header in [ReplyHeader::RequestId].iter().chain(certain) {
        headers.insert(header.name().to_owned(), reference("headers", header.name()));
    }
    for header in at_times {
        // A component says whether its header is always there; those that are not are spelled out.
        headers.insert(header.name().to_owned(), header.describe(false));
    }
    headers
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn all_reply_headers() -> Map<String, Value> {
    ReplyHeader::ALL.iter().map(|header| (header.name().to_owned(), header.describe(true))).collect()
}

fn all_request_headers() -> Map<String, Value> {
    RequestHeader::ALL.iter().map(|header| (header.component().to_owned(), header.describe())).collect()
}

impl RequestHeader {
    const ALL: &'static [RequestHeader] = &[
        RequestHeader::XRequestId,
        RequestHeader::IdempotencyKey,
        RequestHeader::IfMatch,
        RequestHeader::IfNoneMatch,
        RequestHeader::LastEventId,
    ];

    fn component(self) -> &'static str {
        match self {
            RequestHeader::XRequestId => "X-Request-Id",
            RequestHeader::IdempotencyKey => "Idempotency-Key",
            RequestHeader::IfMatch => "If-Match",
            RequestHeader::IfNoneMatch => "If-None-Match",
            RequestHeader::LastEventId => "Last-Event-ID",
        }
    }

    fn describe(self) -> Value {
        let (schema, meaning) = match self {
            RequestHeader::XRequestId => (
                json!({ "type": "string", "examples": ["r-1"] }),
                "An id for logs, which the reply repeats: 1 to 128 visible characters of ASCII. What is not that is \
                 replaced and not refused.",
            ),
            RequestHeader::IdempotencyKey => (
                json!({
                    "anyOf": [
                        { "type": "string", "pattern": "^[!#-~]([ -~]{0,253}[!-~])?$" },
                        { "type": "string", "pattern": r#"^"([ !#-\[\]-~]|\\["\\]){1,255}"$"# },
                    ],
                    "examples": ["7d5f3c62"],
                }),
                "Makes the request safe to repeat: 1 to 255 printable characters of ASCII, bare or as a quoted \
                 string. It belongs to what the request is sent to: the account, hold or transfer that the path names, or \
                 the collection. An item of a batch may have a `key` of its own; the two never meet.",
            ),
            RequestHeader::IfMatch => (
                json!({
                    "anyOf": [
                        { "type": "string", "pattern": "^\"[1-9][0-9]{0,18}\"$" },
                        { "type": "string", "enum": ["*"] },
                    ],
                    "examples": ["*"],
                }),
                "The ETag that the account must still have: one version, such as \"7\", or *.",
            ),
            RequestHeader::IfNoneMatch => (
                json!({ "type": "string", "examples": ["\"7\""] }),
                "ETags that the client has. What cannot be read matches nothing.",
            ),
            RequestHeader::LastEventId => (
                json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+$" }),
                "The `id` of the last event that the client has, for a stream to go on behind it.",
            ),
        };
        with_meaning(json!({ "name": self.component(), "in": "header", "schema": schema }), meaning)
    }
}

impl ReplyHeader {
    const ALL: &'static [ReplyHeader] = &[
        ReplyHeader::RequestId,
        ReplyHeader::CacheControl,
        ReplyHeader::Allow,
        ReplyHeader::AcceptPatch,
        ReplyHeader::ETag,
        ReplyHeader::Location,
        ReplyHeader::Link,
        ReplyHeader::RetryAfter,
        ReplyHeader::IdempotentReplayed,
        ReplyHeader::ContentDisposition,
        ReplyHeader::Vary,
        ReplyHeader::ContentSecurityPolicy,
        ReplyHeader::ContentTypeOptions,
        ReplyHeader::ReferrerPolicy,
    ];

    fn name(self) -> &'static str {
        match self {
            ReplyHeader::RequestId => "X-Request-Id",
            ReplyHeader::CacheControl => "Cache-Control",
            ReplyHeader::Allow => "Allow",
            ReplyHeader::AcceptPatch => "Accept-Patch",
            ReplyHeader::ETag => "ETag",
            ReplyHeader::Location => "Location",
            ReplyHeader::Link => "Link",
            ReplyHeader::RetryAfter => "Retry-After",
            ReplyHeader::IdempotentReplayed => "Idempotent-Replayed",
            ReplyHeader::ContentDisposition => "Content-Disposition",
            ReplyHeader::Vary => "Vary",
            ReplyHeader::ContentSecurityPolicy => "Content-Security-Policy",
            ReplyHeader::ContentTypeOptions => "X-Content-Type-Options",
            ReplyHeader::ReferrerPolicy => "Referrer-Policy",
        }
    }

    fn describe(self, required: bool) -> Value {
        let (schema, meaning) = match self {
            ReplyHeader::RequestId => (
                json!({ "type": "string", "pattern": "^[!-~]{1,128}$" }),
                "The request's id, also in the logs.",
            ),
            ReplyHeader::CacheControl => {
                (json!({ "type": "string" }), "For how long the reply may be used without asking again.")
            }
            ReplyHeader::Allow => (json!({ "type": "string" }), "The methods that there are."),
            ReplyHeader::AcceptPatch => (json!({ "type": "string" }), "The media types that PATCH takes."),
            ReplyHeader::ETag => (
                json!({ "type": "string", "pattern": "^\"[!#-~]+\"$" }),
                "What tells this representation from others: of an account its version.",
            ),
            ReplyHeader::Location => {
                (json!({ "type": "string", "format": "uri-reference" }), "The path of the new resource.")
            }
            ReplyHeader::Link => (
                json!({ "type": "string" }),
                "The next page, as RFC 8288 has it; absent on the last one, which events do not have.",
            ),
            ReplyHeader::RetryAfter => {
                (json!({ "type": "integer", "minimum": 1 }), "After how many seconds to try again.")
            }
            ReplyHeader::IdempotentReplayed => (
                json!({ "type": "string", "enum": ["true"] }),
                "The reply is that of an earlier request with the same key.",
            ),
            ReplyHeader::ContentDisposition => {
                (json!({ "type": "string" }), "The name of the file to save it as.")
            }
            ReplyHeader::Vary => {
                (json!({ "type": "string" }), "The request headers that choose the representation.")
            }
            ReplyHeader::ContentSecurityPolicy => {
                (json!({ "type": "string" }), "What a browser lets the page do: nothing but show itself.")
            }
            ReplyHeader::ContentTypeOptions => {
                (json!({ "type": "string", "enum": ["nosniff"] }), "The page is what its media type says.")
            }
            ReplyHeader::ReferrerPolicy => (
                json!({ "type": "string", "enum": ["no-referrer"] }),
                "Links from the page do not tell of it.",
            ),
        };
        with_meaning(json!({ "required": required, "schema": schema }), meaning)
    }
}

/// An example of a schema: the first that it has itself, or one made of the examples of the members that it needs. With
/// those that may be absent it would ask for what hardly ever holds, such as a version.
fn example(document: &Value, schema: &Value) -> Value {
    if let Some(example) = schema.pointer("/examples/0").or_else(|| schema.pointer("/enum/0")) {
        return example.clone();
    }
    if let Some(path) = schema["$ref"].as_str() {
        return example(document, document.pointer(&path[1..]).unwrap_or(&Value::Null));
    }
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    if let Some(first) = ["/anyOf/0", "/allOf/0", "/oneOf/0"].iter().find_map(|path| schema.pointer(path)) {
        return example(document, first);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required
                .map(|name| (name.to_owned(), example(document, &schema["properties"][name])))
                .collect::<Map<_, _>>()
                .into()
        }
        Some("array") => json!([example(document, &schema["items"])]),
        Some("boolean") => true.into(),
        Some("integer" | "number") => 1.into(),
        Some("string") => "".into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::operation::ITEM;
    use crate::http::query::QueryShape;

    /// Calls `visit` with every value inside.
    fn walk<'v>(value: &'v Value, visit: &mut dyn FnMut(&'v Value)) {
        visit(value);
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
            Value::Object(members) => members.values().for_each(|member| walk(member, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_documented() {
        let document = document();
        let mut ids = BTreeSet::new();
        let mut relations = BTreeSet::new();
        for route in ROUTES {
            let path = &document["paths"][route.pattern];
            let methods = path.as_object().expect(route.pattern).keys().filter(|key| *key != "parameters");
            assert_eq!(methods.count(), route.operations.len());
            assert!(route.relation.is_none_or(|relation| relations.insert(relation)), "{}", route.pattern);
            for (method, operation) in route.operations {
                let described = &path[method.as_str().to_ascii_lowercase()];
                assert_eq!(described["operationId"], operation.id);
                assert!(!operation.id.is_empty() && ids.insert(operation.id), "{}", operation.id);
                assert!(!operation.summary.is_empty(), "{}", operation.id);
                let responses = described["responses"].as_object().unwrap();
                assert!(responses.contains_key(&operation.success.status.to_string()));
                assert!(responses.len() > 1, "{} can be refused", operation.id);
                let names = |shape: QueryShape| shape.names.len();
                assert_eq!((operation.query.describe)(&mut Schemas::default()).len(), names(operation.query));
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_everything_named_is_used() {
        let document = document();
        let mut used = BTreeSet::new();
        walk(&document, &mut |value| {
            if let Some(reference) = value["$ref"].as_str() {
                let place = document.pointer(reference.strip_prefix('#').expect("inside the document"));
                assert!(place.is_some(), "{reference}");
                used.insert(reference);
            }
            if let Some(id) = value["operationId"].as_str() {
                let known = |route: &Route| route.operations.iter().any(|(_, operation)| operation.id == id);
                assert!(ROUTES.iter().any(known), "{id}");
            }
        });
        for kind in ["schemas", "parameters"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(used.contains(format!("#/components/{kind}/{name}").as_str()), "{name} is not used");
            }
        }
    }

    #[test]
    fn every_problem_is_somewhere() {
        for &code in Code::ALL {
            let named =
                |route: &Route| route.operations.iter().any(|(_, operation)| operation.may_answer(code));
            let elsewhere = WITHOUT_OPERATION.contains(&code) || ITEM.concat().contains(&code);
            assert!(elsewhere || ROUTES.iter().any(named), "{code:?}");
        }
    }

    #[test]
    fn every_link_leads_to_a_route() {
        use crate::http::wire::links::RELATED_PATHS;
        for path in RELATED_PATHS.iter().flat_map(|paths| paths()) {
            assert!(ROUTES.iter().any(|route| route.pattern == path), "{path}");
        }
    }

    #[test]
    fn the_example_of_a_body_is_such_a_body() {
        let document = document();
        for (_, operation) in ROUTES.iter().flat_map(|route| route.operations) {
            let Some(request) = operation.request else { continue };
            let schema = (request.describe)(&mut Schemas::default());
            let example = example(&document, &schema).to_string();
            (request.check)(example.as_bytes()).unwrap_or_else(|problem| panic!("{example}: {problem:?}"));
        }
    }
}
