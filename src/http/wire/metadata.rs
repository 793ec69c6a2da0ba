//! Metadata: what a client notes on a resource, for itself.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::nested::{Entries, EntryName, Patch};
use super::read::{Parsed, ReadScalar, parse_text};
use super::schema::{Describe, Schemas};
use super::values::text_schema;
use crate::http::query::{KeyedValues, Parameter};
use crate::ledger::operation::MetadataChange;
use crate::ledger::{self, METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX};

/// What a client notes on a resource: texts by names of its choice.
pub(in crate::http) type Metadata = Entries<MetadataKey, MetadataValue, METADATA_ENTRIES_MAX>;

/// A change of metadata: texts to set, and null for those to take away.
pub(in crate::http) type MetadataPatch = Entries<MetadataKey, Patch<MetadataValue>, METADATA_ENTRIES_MAX>;

/// The name of an entry of metadata: 1 to 64 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) struct MetadataKey(pub(in crate::http) Box<str>);

impl Describe for MetadataKey {
    fn describe(_: &mut Schemas) -> Value {
        let mut schema = text_schema("", 1, METADATA_KEY_BYTES_MAX);
        schema["examples"] = json!(["invoice"]);
        schema
    }
}

impl EntryName for MetadataKey {
    fn parse(name: &str) -> Parsed<MetadataKey> {
        let detail = bounded_text(name, 1, METADATA_KEY_BYTES_MAX);
        detail.map_or_else(|| Ok(MetadataKey(name.into())), Err)
    }
}

/// The value of an entry of metadata: at most 256 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct MetadataValue(pub(in crate::http) Box<str>);

impl Describe for MetadataValue {
    fn describe(_: &mut Schemas) -> Value {
        let mut schema = text_schema("", 0, METADATA_VALUE_BYTES_MAX);
        schema["examples"] = json!(["2026-117"]);
        schema
    }
}

impl ReadScalar for MetadataValue {
    fn parse(raw: &str) -> Parsed<MetadataValue> {
        let text = parse_text(raw)?;
        let detail = bounded_text(&text, 0, METADATA_VALUE_BYTES_MAX);
        detail.map_or_else(|| Ok(MetadataValue(text.as_ref().into())), Err)
    }
}

/// The metadata that the ledger keeps.
pub(super) fn kept(metadata: &Metadata) -> ledger::Metadata {
    let entries = metadata.0.iter().map(|(key, value)| (key.0.clone(), value.0.clone()));
    ledger::Metadata::new(entries.collect()).expect("its bounds were checked as it was read")
}

/// The changes of metadata that the ledger makes.
pub(in crate::http) fn changes(patch: &MetadataPatch) -> Vec<MetadataChange> {
    let change = |(key, value): (&MetadataKey, &Patch<MetadataValue>)| {
        let value = match value {
            Patch::Set(value) => Some(value.0.clone()),
            Patch::Remove | Patch::Keep => None,
        };
        (key.0.clone(), value)
    };
    patch.0.iter().map(change).collect()
}

/// Values that metadata has to have: `metadata[key]=value`, for one key or several.
pub(in crate::http) struct MetadataFilter(pub(in crate::http) KeyedValues);

impl Describe for MetadataFilter {
    fn describe(schemas: &mut Schemas) -> Value {
        json!({
            "type": "object",
            "propertyNames": MetadataKey::describe(schemas),
            "additionalProperties": MetadataValue::describe(schemas),
            "maxProperties": METADATA_ENTRIES_MAX,
        })
    }
}

impl Parameter for MetadataFilter {
    const KEYED: bool = true;

    fn parse_keyed(values: KeyedValues) -> Parsed<MetadataFilter> {
        // Metadata that cannot be is asked for by mistake.
        for (key, value) in &values {
            if let Some(detail) = bounded_text(key, 1, METADATA_KEY_BYTES_MAX) {
                return Err(format!("has a key that {detail}").into());
            }
            if let Some(detail) = bounded_text(value, 0, METADATA_VALUE_BYTES_MAX) {
                return Err(format!("has a value for the key {key:?} that {detail}").into());
            }
        }
        let metadata = ledger::Metadata::new(values).map_err(|error| error.to_string())?;
        Ok(MetadataFilter(metadata.entries().to_vec()))
    }
}

/// What is wrong with a text that is kept, if anything is.
fn bounded_text(text: &str, bytes_min: usize, bytes_max: usize) -> Option<Cow<'static, str>> {
    if text.len() < bytes_min {
        return Some("must not be empty".into());
    }
    if text.len() > bytes_max {
        return Some(format!("has {} bytes of UTF-8; at most {bytes_max} are allowed", text.len()).into());
    }
    text.chars().any(char::is_control).then(|| "must not contain control characters".into())
}
