//! Checks replies against the service's own OpenAPI document: what it does not tell of a reply, clients that were made
//! from it do not understand.
//!
//! What a schema says is checked with the keywords of JSON Schema that the document uses; one that is not known here
//! fails the test that meets it.

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, StatusCode};
use regex::Regex;
use serde_json::{Value, json};

/// Headers that HTTP itself has, whatever the operation.
const HEADERS_OF_HTTP: &[&str] =
    &["content-type", "content-length", "date", "connection", "transfer-encoding"];

/// Makes sure that the document tells of a reply.
#[track_caller]
pub(crate) fn check(
    document: &Value,
    method: &str,
    target: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) {
    if method == "OPTIONS" {
        return;
    }
    let what = format!("{method} {target}: {status} {headers:?} {}", String::from_utf8_lossy(body));
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let described = described_response(document, method, path, status.as_u16());
    let response = resolve(document, described.unwrap_or_else(|| panic!("no such status is told: {what}")));
    let told = response["headers"].as_object().expect("every reply has a header");
    for (name, header) in told {
        let header = resolve(document, header);
        match headers.get(name).map(|value| value.to_str().expect("ASCII")) {
            Some(text) => {
                let is_number = header["schema"]["type"] == "integer";
                let number = || Value::from(text.parse::<u64>().expect("digits"));
                let value = if is_number { number() } else { Value::from(text) };
                let fit = fits(document, &header["schema"], &value, name);
                fit.unwrap_or_else(|error| panic!("{error}: {what}"));
            }
            None => assert!(header["required"] != true, "{name} is missing: {what}"),
        }
    }
    for name in headers.keys().map(|name| name.as_str()) {
        let is_told = told.keys().any(|told| told.eq_ignore_ascii_case(name));
        assert!(is_told || HEADERS_OF_HTTP.contains(&name), "{name} is not told: {what}");
    }
    if body.is_empty() {
        return;
    }
    let media_type = headers[CONTENT_TYPE].to_str().expect("ASCII");
    let content = response["content"].get(media_type);
    let content = content.unwrap_or_else(|| panic!("{media_type} is not told: {what}"));
    if media_type.ends_with("json") {
        let value = serde_json::from_slice(body).expect("JSON");
        let fit = fits(document, &content["schema"], &value, "");
        fit.unwrap_or_else(|error| panic!("{error}: {what}"));
    }
}

/// What the document says of a status of what was asked for.
fn described_response<'d>(document: &'d Value, method: &str, path: &str, status: u16) -> Option<&'d Value> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let fits = |pattern: &str| {
        pattern.split('/').count() == path.split('/').count()
            && pattern
                .split('/')
                .zip(path.split('/'))
                .all(|(told, sent)| told == sent || (told.starts_with('{') && !sent.is_empty()))
    };
    let paths = document["paths"].as_object().expect("paths");
    let found = paths.iter().find(|(pattern, _)| fits(pattern)).and_then(|(_, methods)| methods.get(method));
    match found {
        Some(operation) => operation["responses"].get(status.to_string()),
        None => document["components"]["responses"].get(format!("Without-operation-{status}")),
    }
}

fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect("a reference leads somewhere"),
        None => value,
    }
}

/// Whether a value fits a schema; else where it does not, and why.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolve(document, schema);
    let wrong = |why: &str| Err(format!("{at} is {value}, which {why} of {schema}"));
    let any = |schemas: &Value| {
        let schemas = schemas.as_array().expect("a list");
        schemas.iter().filter(|schema| fits(document, schema, value, at).is_ok()).count()
    };
    for (keyword, told) in schema.as_object().expect("a schema is an object") {
        let number = told.as_u64().map(|number| usize::try_from(number).expect("small"));
        let is_fit = match keyword.as_str() {
            "description" | "examples" | "default" | "format" => true,
            "type" => match told {
                Value::Array(types) => types.iter().any(|told| is_of(told, value)),
                told => is_of(told, value),
            },
            "const" => told == value,
            "enum" => told.as_array().expect("a list").contains(value),
            "anyOf" => any(told) > 0,
            "oneOf" => any(told) == 1,
            "allOf" => {
                told.as_array()
                    .expect("a list")
                    .iter()
                    .try_for_each(|told| fits(document, told, value, at))?;
                true
            }
            "properties" => {
                for (name, told) in told.as_object().expect("members") {
                    if let Some(member) = value.get(name) {
                        fits(document, told, member, &format!("{at}/{name}"))?;
                    }
                }
                true
            }
            "required" => {
                let names = told.as_array().expect("a list");
                // What is a resource, and not one side of it, tells all members that there are.
                let members = value.as_object().into_iter().flatten();
                let untold = members.filter(|(name, _)| schema["properties"].get(name).is_none()).count();
                names.iter().all(|name| value.get(name.as_str().expect("a name")).is_some())
                    && (untold == 0 || schema.get("additionalProperties").is_some())
            }
            "additionalProperties" => {
                let others = value.as_object().into_iter().flatten();
                let mut others = others.filter(|(name, _)| schema["properties"].get(name).is_none());
                match told {
                    Value::Bool(is_allowed) => *is_allowed || others.next().is_none(),
                    told => {
                        others.try_for_each(|(name, other)| {
                            fits(document, told, other, &format!("{at}/{name}"))
                        })?;
                        true
                    }
                }
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(document, told, item, &format!("{at}/{place}"))?;
                }
                true
            }
            "maxItems" => value.as_array().is_none_or(|items| Some(items.len()) <= number),
            "minLength" => value.as_str().is_none_or(|text| Some(text.chars().count()) >= number),
            "maxLength" => value.as_str().is_none_or(|text| Some(text.chars().count()) <= number),
            "minimum" => value.as_u64().is_none_or(|value| Some(value) >= told.as_u64()),
            "pattern" => {
                let pattern = Regex::new(told.as_str().expect("a text")).expect("a pattern");
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            _ => panic!("{keyword} is not known here: {schema}"),
        };
        if !is_fit {
            return wrong(&format!("does not fit {keyword}"));
        }
    }
    Ok(())
}

fn is_of(told: &Value, value: &Value) -> bool {
    match told.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("{other} is not known here"),
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let document =
        json!({ "components": { "schemas": { "Name": { "type": "string", "pattern": "^[a-z]+$" } } } });
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "$ref": "#/components/schemas/Name" },
            "list": { "type": "array", "items": { "anyOf": [{ "type": "integer" }, { "type": "null" }] } },
        },
        "required": ["name"],
    });
    let check = |value: Value| fits(&document, &schema, &value, "");
    assert_eq!(check(json!({ "name": "a", "list": [1, null] })), Ok(()));
    for wrong in [
        json!([]),
        json!({}),
        json!({ "name": "A" }),
        json!({ "name": 1 }),
        json!({ "name": "a", "list": ["1"] }),
        json!({ "name": "a", "untold": 1 }),
    ] {
        assert!(check(wrong.clone()).is_err(), "{wrong}");
    }
}
