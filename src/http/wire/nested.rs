//! What holds other values in a request: arrays, objects with names of the client's choice, fields of merge patches.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use super::read::{Errors, FIELD_NAME_SHOWN_BYTES_MAX, Parsed, Pointer, Read, Value, kind};
use super::schema::{Describe, Schemas, or_null};

/// A field of a merge patch (RFC 7396).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Patch<T> {
    /// It is not there: leave what is.
    Keep,
    /// It is null: take away what is.
    Remove,
    /// It is there: this replaces what is.
    Set(T),
}

impl<T> Patch<T> {
    /// What it sets.
    pub(in crate::http) fn set(&self) -> Option<&T> {
        match self {
            Patch::Set(set) => Some(set),
            Patch::Keep | Patch::Remove => None,
        }
    }

    /// The change: the outer `None` leaves what is, the inner one takes it away.
    pub(in crate::http) fn change<U>(&self, value: impl FnOnce(&T) -> U) -> Option<Option<U>> {
        match self {
            Patch::Keep => None,
            Patch::Remove => Some(None),
            Patch::Set(set) => Some(Some(value(set))),
        }
    }
}

impl<T: Describe> Describe for Patch<T> {
    fn describe(schemas: &mut Schemas) -> serde_json::Value {
        or_null(&T::describe(schemas))
    }
}

impl<T: Read> Read for Patch<T> {
    const OPTIONAL: bool = true;

    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        if value.raw == "null" {
            return Some(Patch::Remove);
        }
        T::read(value, errors).map(Patch::Set)
    }

    fn absent() -> Option<Self> {
        Some(Patch::Keep)
    }
}

/// An array of `MIN` to `MAX` items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct List<T, const MIN: usize, const MAX: usize>(pub(in crate::http) Vec<T>);

impl<T: Describe, const MIN: usize, const MAX: usize> Describe for List<T, MIN, MAX> {
    fn describe(schemas: &mut Schemas) -> serde_json::Value {
        json!({ "type": "array", "items": T::describe(schemas), "minItems": MIN, "maxItems": MAX })
    }
}

impl<T: Read, const MIN: usize, const MAX: usize> Read for List<T, MIN, MAX> {
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        if !value.starts_with('[') {
            errors.push(value.at, format!("must be an array, not {}", kind(value.raw)));
            return None;
        }
        let mut raws = Vec::new();
        let mut count = 0;
        let items = ItemsVisitor { kept_max: MAX, raws: &mut raws, count: &mut count };
        errors.visit(value, items);
        if count < MIN {
            errors.push(value.at, format!("has {count} items; at least {MIN} are needed"));
        }
        if count > MAX {
            errors.push(value.at, format!("has {count} items; at most {MAX} are allowed"));
            return None;
        }
        // All items are read, also those behind one that is wrong.
        let items: Vec<Option<T>> = raws
            .iter()
            .enumerate()
            .map(|(index, raw)| T::read(Value::new(raw.get(), Pointer::Item(&value.at, index)), errors))
            .collect();
        let items: Option<Vec<T>> = items.into_iter().collect();
        items.filter(|items| items.len() >= MIN).map(List)
    }
}

struct ItemsVisitor<'f, 'a> {
    kept_max: usize,
    raws: &'f mut Vec<&'a RawValue>,
    count: &'f mut usize,
}

impl<'a> Visitor<'a> for ItemsVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(raw) = items.next_element::<&'a RawValue>()? {
            *self.count += 1;
            if self.raws.len() < self.kept_max {
                self.raws.push(raw);
            }
        }
        Ok(())
    }
}

/// A type whose values name the members of an object that is open to any name.
pub(in crate::http) trait EntryName: Sized + Ord + Describe {
    /// Reads a name.
    fn parse(name: &str) -> Parsed<Self>;
}

/// An object of at most `MAX` members with names of the client's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct Entries<K, V, const MAX: usize>(pub(in crate::http) BTreeMap<K, V>);

impl<K: EntryName, V: Describe, const MAX: usize> Describe for Entries<K, V, MAX> {
    fn describe(schemas: &mut Schemas) -> serde_json::Value {
        json!({
            "type": "object",
            "maxProperties": MAX,
            "propertyNames": K::describe(schemas),
            "additionalProperties": V::describe(schemas),
        })
    }
}

impl<K: EntryName, V: Read, const MAX: usize> Read for Entries<K, V, MAX> {
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        if !value.starts_with('{') {
            errors.push(value.at, format!("must be an object, not {}", kind(value.raw)));
            return None;
        }
        let mut members = Vec::new();
        let mut count = 0;
        let visitor = EntriesVisitor { kept_max: MAX, members: &mut members, count: &mut count };
        errors.visit(value, visitor);
        if count > MAX {
            errors.push(value.at, format!("has {count} members; at most {MAX} are allowed"));
            return None;
        }
        let mut entries = BTreeMap::new();
        for (name, raw) in &members {
            let shown = if name.len() > FIELD_NAME_SHOWN_BYTES_MAX { "" } else { name };
            let inner = Pointer::Member(&value.at, shown);
            let at = if shown.is_empty() { value.at } else { inner };
            let key =
                K::parse(name).map_err(|detail| errors.push(at, format!("has a name that {detail}"))).ok();
            let entry = V::read(Value::new(raw.get(), at), errors);
            if let (Some(key), Some(entry)) = (key, entry)
                && entries.insert(key, entry).is_some()
            {
                errors.push(at, "stands there more than once");
            }
        }
        (entries.len() == members.len()).then_some(Entries(entries))
    }
}

struct EntriesVisitor<'f, 'a> {
    kept_max: usize,
    members: &'f mut Vec<(String, &'a RawValue)>,
    count: &'f mut usize,
}

impl<'a> Visitor<'a> for EntriesVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let raw = map.next_value::<&'a RawValue>()?;
            *self.count += 1;
            if self.members.len() < self.kept_max {
                self.members.push((name, raw));
            }
        }
        Ok(())
    }
}
