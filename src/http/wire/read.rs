//! Reading JSON bodies, strictly, with all that is wrong told at once, each with the pointer to its place.
//!
//! It is done over [`RawValue`]s and not with derived readers, because those stop at the first error, do not say
//! where it is, and would turn an amount into a float on the way.
//!
//! What always holds: a value is read by the type that it is to become, so reading goes no deeper than types
//! are nested in one another, whatever the body is like; what has no type is passed over by serde_json with a
//! loop. Errors beyond [`FIELD_ERRORS_MAX`] are counted and not kept.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::schema::Describe;
use crate::http::problem::{Code, FIELD_ERRORS_MAX, FieldError, Place, Problem};

/// The longest unknown field name that an error repeats, in bytes.
pub(super) const FIELD_NAME_SHOWN_BYTES_MAX: usize = 64;

/// What reading a single value comes to: the value, or what is wrong with it.
pub(in crate::http) type Parsed<T> = Result<T, Cow<'static, str>>;

/// A type that is read from JSON.
pub(in crate::http) trait Read: Sized + Describe {
    /// Whether a field of this type may be absent.
    const OPTIONAL: bool = false;

    /// Reads a value. What is wrong with it goes to `errors`, and then there is no value.
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self>;

    /// What a field is that is not there.
    fn absent() -> Option<Self> {
        None
    }
}

/// A type that is read from a single value that is no object and no array.
pub(in crate::http) trait ReadScalar: Sized + Describe {
    /// Reads the value from its JSON.
    fn parse(raw: &str) -> Parsed<Self>;
}

impl<T: ReadScalar> Read for T {
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<T> {
        T::parse(value.raw).map_err(|detail| errors.push(value.at, detail)).ok()
    }
}

/// Reads a whole body.
pub(in crate::http) fn read_body<T: Read>(body: &[u8]) -> Result<T, Problem> {
    read_with(body, T::read)
}

/// Reads a whole body that may be left away, if all its fields may.
pub(in crate::http) fn read_optional_body<T: Read>(body: &[u8]) -> Result<T, Problem> {
    read_body(if body.is_empty() { b"{}" } else { body })
}

/// Reads a whole body by a function.
pub(in crate::http) fn read_with<T>(
    body: &[u8],
    read: impl FnOnce(Value<'_>, &mut Errors) -> Option<T>,
) -> Result<T, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| malformed(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    match text.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first() {
        None => return Err(malformed("the body is empty; a JSON object is needed".to_owned())),
        // An object is checked as it is read.
        Some(b'{') => {}
        Some(_) => {
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(error.to_string()))?;
        }
    }
    let mut errors = Errors::default();
    let value = read(Value::new(text, Pointer::Root), &mut errors);
    match (errors.malformed, value) {
        (Some(detail), _) => Err(malformed(detail)),
        (None, Some(value)) if errors.count == 0 => Ok(value),
        _ => Err(Problem::with_errors(Code::InvalidRequest, errors.first, errors.count)),
    }
}

fn malformed(detail: String) -> Problem {
    Problem::new(Code::MalformedJson, detail)
}

/// A value that is still to be read.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Value<'a> {
    pub(super) raw: &'a str,
    pub(super) at: Pointer<'a>,
    /// The members that someone else reads.
    pub(super) others: &'static [&'static str],
}

impl<'a> Value<'a> {
    /// A value, and where it stands.
    pub(in crate::http) fn new(raw: &'a str, at: Pointer<'a>) -> Value<'a> {
        Value { raw, at, others: &[] }
    }

    /// The same value, of which someone else reads these members.
    pub(in crate::http) fn without(self, others: &'static [&'static str]) -> Value<'a> {
        Value { others, ..self }
    }

    /// The raw text of one member of an object, if it has it.
    pub(in crate::http) fn peek(&self, name: &'static str) -> Option<&'a str> {
        // A name is written as it is, or with an escape.
        if !self.raw.contains(name) && !self.raw.contains('\\') {
            return None;
        }
        let mut reader = serde_json::Deserializer::from_str(self.raw);
        let mut found = [None];
        let wrong = &mut WrongMembers::default();
        let visitor = MembersVisitor { names: &[name], others: &[], raws: &mut found, wrong };
        // Whatever is wrong with the object is told when it is read.
        let _ = reader.deserialize_any(visitor);
        found[0].map(RawValue::get)
    }

    /// The way to it.
    pub(in crate::http) fn at(&self) -> Pointer<'a> {
        self.at
    }

    /// Its text.
    pub(in crate::http) fn raw(&self) -> &'a str {
        self.raw
    }

    pub(super) fn starts_with(&self, bracket: char) -> bool {
        self.raw.trim_start().starts_with(bracket)
    }
}

/// The way to a value. It becomes the text of an RFC 6901 pointer only if there is something to say about it.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Pointer<'a> {
    /// The body itself.
    Root,
    /// A member of an object.
    Member(&'a Pointer<'a>, &'a str),
    /// An item of an array.
    Item(&'a Pointer<'a>, usize),
}

impl fmt::Display for Pointer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pointer::Root => Ok(()),
            Pointer::Member(outer, name) => {
                write!(f, "{outer}/")?;
                name.chars().try_for_each(|character| match character {
                    '~' => f.write_str("~0"),
                    '/' => f.write_str("~1"),
                    other => f.write_char(other),
                })
            }
            Pointer::Item(outer, index) => write!(f, "{outer}/{index}"),
        }
    }
}

/// What was found wrong with a body so far.
#[derive(Debug, Default)]
pub(in crate::http) struct Errors {
    first: Vec<FieldError>,
    count: usize,
    /// Where the body stops being JSON; nothing else counts then.
    malformed: Option<String>,
}

impl Errors {
    pub(in crate::http) fn push(&mut self, at: Pointer<'_>, detail: impl Into<Cow<'static, str>>) {
        if self.count < FIELD_ERRORS_MAX {
            let place = Place::Pointer(at.to_string().into());
            self.first.push(FieldError { place, detail: detail.into() });
        }
        self.count += 1;
    }

    /// Tells of one member of an object.
    pub(in crate::http) fn push_member(
        &mut self,
        at: Pointer<'_>,
        name: &str,
        detail: impl Into<Cow<'static, str>>,
    ) {
        self.push(Pointer::Member(&at, name), detail);
    }

    /// Makes sure that a value that nobody reads is JSON.
    pub(in crate::http) fn check(&mut self, value: Value<'_>) {
        if let Err(error) = serde_json::from_str::<IgnoredAny>(value.raw) {
            self.malformed.get_or_insert(error.to_string());
        }
    }

    /// Leads `visitor` over an object or an array.
    pub(super) fn visit<'a>(&mut self, value: Value<'a>, visitor: impl Visitor<'a, Value = ()>) {
        let mut reader = serde_json::Deserializer::from_str(value.raw);
        if let Err(error) = reader.deserialize_any(visitor).and_then(|()| reader.end()) {
            self.malformed.get_or_insert(match value.at {
                Pointer::Root => error.to_string(),
                // The body was JSON when it was passed over; what is left are names that are no text.
                inner => format!("{inner}: {error}"),
            });
        }
    }
}

/// Reads a text.
pub(in crate::http) fn parse_text(raw: &str) -> Parsed<Cow<'_, str>> {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err(format!("must be a string, not {}", kind(raw)).into());
    };
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    // The escapes are well-formed, or the body would not be JSON; but half a surrogate pair is no character.
    serde_json::from_str(raw).map(Cow::Owned).map_err(|_| "has an escape that is no character".into())
}

/// What a value is, with an article, by its first character.
pub(in crate::http) fn kind(raw: &str) -> &'static str {
    match raw.trim_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<T: Read> Read for Option<T> {
    const OPTIONAL: bool = true;

    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        T::read(value, errors).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Takes an object apart into the members with these names; unread, in the order of the names.
pub(in crate::http) fn members<'a, const N: usize>(
    value: Value<'a>,
    names: &'static [&'static str; N],
    errors: &mut Errors,
) -> Option<[Option<&'a str>; N]> {
    let place_of = |quoted: &str| names.iter().position(|name| *name == &quoted[1..quoted.len() - 1]);
    if let Some(plain) = plain_members(value.raw, place_of) {
        return Some(plain);
    }
    if !value.starts_with('{') {
        errors.push(value.at, format!("must be an object, not {}", kind(value.raw)));
        return None;
    }
    let mut raws = [None; N];
    let mut wrong = WrongMembers::default();
    let visitor = MembersVisitor { names, others: value.others, raws: &mut raws, wrong: &mut wrong };
    errors.visit(value, visitor);
    for member in wrong.first {
        match member {
            WrongMember::Repeated(name) => {
                errors.push(Pointer::Member(&value.at, name), "stands there more than once");
            }
            WrongMember::Unknown(name) if name.len() > FIELD_NAME_SHOWN_BYTES_MAX => {
                errors.push(value.at, format!("has an unknown field with a name of {} bytes", name.len()));
            }
            WrongMember::Unknown(name) => {
                let detail = format!("is unknown; known are: {}", names.join(", "));
                errors.push(Pointer::Member(&value.at, &name), detail);
            }
        }
    }
    errors.count += wrong.others_count;
    // The known ones are still to be looked at, so that all that is wrong is told at once.
    Some(raws.map(|raw| raw.map(RawValue::get)))
}

/// How many bytes come before the quote that ends a text, if it has no escape and no control character.
pub(in crate::http) fn plain_length(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // The high bit of the lowest byte below a limit; bits of higher bytes may be wrong.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & (ONES << 7);
    let mut length = 0;
    for word in bytes.chunks(8) {
        // Zeros behind the end would be control characters, as they should.
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        let word = u64::from_le_bytes(padded);
        let found = below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1)
            | below(word, u64::from(b' '));
        if found != 0 {
            length += found.trailing_zeros() as usize / 8;
            return (bytes.get(length) == Some(&b'"')).then_some(length);
        }
        length += 8;
    }
    None
}

/// The members of an object whose values are all texts without an escape, or plain numbers, and which has
/// none twice: the values as they are written, each at the place of its name, which comes with its quotes.
/// `None`, also for a name without a place, says nothing about what is wrong, or only unusual: [`members`]
/// reads any object.
///
/// Nearly every body and item of a batch is such an object, and is read in a seventh of the time.
pub(in crate::http) fn plain_members<const N: usize>(
    raw: &str,
    place_of: impl Fn(&str) -> Option<usize>,
) -> Option<[Option<&str>; N]> {
    /// The length of the text that these bytes begin with, with its quotes.
    fn text(bytes: &[u8]) -> Option<usize> {
        Some(plain_length(bytes.strip_prefix(b"\"")?)? + 2)
    }
    /// The length of the number that these bytes begin with: digits, and perhaps a point and more digits.
    fn number(bytes: &[u8]) -> Option<usize> {
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let whole = digits(0);
        let is_plain = whole == 1 || (whole > 1 && bytes[0] != b'0');
        let length = match bytes.get(whole) {
            Some(b'.') => whole + 1 + Some(digits(whole + 1)).filter(|&digits| digits > 0)?,
            _ => whole,
        };
        let ends = matches!(bytes.get(length), Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b'}'));
        (is_plain && ends).then_some(length)
    }
    let bytes = raw.as_bytes();
    let past_spaces = |at: usize| {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        at + bytes[at..].iter().take_while(|byte| is_space(byte)).count()
    };
    let mut members = [None; N];
    let mut at = bytes.starts_with(b"{").then(|| past_spaces(1))?;
    loop {
        let end = at + text(&bytes[at..])?;
        let name = &raw[at..end];
        at = past_spaces(end);
        at = past_spaces(bytes[at..].starts_with(b":").then_some(at + 1)?);
        let value = &bytes[at..];
        let end = at + if value.starts_with(b"\"") { text(value) } else { number(value) }?;
        if members[place_of(name)?].replace(&raw[at..end]).is_some() {
            return None;
        }
        at = past_spaces(end);
        match bytes.get(at)? {
            b',' => at = past_spaces(at + 1),
            b'}' => return (at + 1 == bytes.len()).then_some(members),
            _ => return None,
        }
    }
}

/// Reads one member that [`members`] has found, or not found.
pub(in crate::http) fn member<T: Read>(
    outer: &Pointer<'_>,
    name: &'static str,
    raw: Option<&str>,
    errors: &mut Errors,
) -> Option<T> {
    let at = Pointer::Member(outer, name);
    match raw {
        Some(raw) => T::read(Value::new(raw, at), errors),
        None => {
            let absent = T::absent();
            if absent.is_none() {
                errors.push(at, "is missing");
            }
            absent
        }
    }
}

enum WrongMember {
    Repeated(&'static str),
    Unknown(String),
}

/// As many as can be told of, and how many more there are: a body of 8 MiB has room for a million.
#[derive(Default)]
struct WrongMembers {
    first: Vec<WrongMember>,
    others_count: usize,
}

impl WrongMembers {
    fn push(&mut self, member: WrongMember) {
        if self.first.len() < FIELD_ERRORS_MAX {
            self.first.push(member);
        } else {
            self.others_count += 1;
        }
    }
}

struct MembersVisitor<'f, 'a, const N: usize> {
    names: &'f [&'static str; N],
    /// Those that someone else reads, who reads one of each.
    others: &'static [&'static str],
    raws: &'f mut [Option<&'a RawValue>; N],
    wrong: &'f mut WrongMembers,
}

impl<'a, const N: usize> Visitor<'a> for MembersVisitor<'_, 'a, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut others_seen = Vec::new();
        while let Some(field) = map.next_key_seed(FieldName { names: self.names, others: self.others })? {
            let raw: &'a RawValue = map.next_value()?;
            match field {
                Field::Known(index) if self.raws[index].is_none() => self.raws[index] = Some(raw),
                Field::Known(index) => self.wrong.push(WrongMember::Repeated(self.names[index])),
                Field::Other(name) if !others_seen.contains(&name) => others_seen.push(name),
                Field::Other(name) => self.wrong.push(WrongMember::Repeated(name)),
                Field::Unknown(name) => self.wrong.push(WrongMember::Unknown(name)),
            }
        }
        Ok(())
    }
}

/// Tells the known names of fields from others, without a copy of the known.
struct FieldName<'n> {
    names: &'n [&'static str],
    others: &'static [&'static str],
}

enum Field {
    Known(usize),
    Other(&'static str),
    Unknown(String),
}

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Field;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        if let Some(index) = self.names.iter().position(|known| *known == name) {
            return Ok(Field::Known(index));
        }
        let other = self.others.iter().find(|other| **other == name);
        Ok(other.map_or_else(|| Field::Unknown(name.to_owned()), |other| Field::Other(other)))
    }
}

/// Declares a body, or a part of one: a struct that is read from an object with exactly its fields, and that is
/// described by their types and doc comments. Where the example of a type would not do, it has one of its own.
macro_rules! body {
    (
        $(#[doc = $about:literal])*
        $(#[example = $whole_example:expr])?
        $visibility:vis struct $Body:ident {
            $($(#[doc = $meaning:literal])* $(#[example = $example:expr])? $field:ident: $Field:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        $visibility struct $Body {
            $($(#[doc = $meaning])* $visibility $field: $Field,)*
        }

        impl $crate::http::wire::schema::Describe for $Body {
            fn describe(schemas: &mut $crate::http::wire::schema::Schemas) -> serde_json::Value {
                schemas.named::<Self>(stringify!($Body), |schemas| {
                    let mut object = $crate::http::wire::schema::ObjectSchema::new(concat!($($about),*));
                    $(
                        let schema = <$Field as $crate::http::wire::schema::Describe>::describe(schemas);
                        $(let schema = $crate::http::wire::schema::with_example(schema, $example);)?
                        let required = !<$Field as $crate::http::wire::read::Read>::OPTIONAL;
                        object.member(stringify!($field), required, schema, concat!($($meaning),*));
                    )*
                    let schema = object.closed();
                    $(let schema = $crate::http::wire::schema::with_example(schema, $whole_example);)?
                    schema
                })
            }
        }

        impl $crate::http::wire::read::Read for $Body {
            fn read(
                value: $crate::http::wire::read::Value<'_>,
                errors: &mut $crate::http::wire::read::Errors,
            ) -> Option<Self> {
                let [$($field),*] =
                    $crate::http::wire::read::members(value, &[$(stringify!($field)),*], errors)?;
                let at = value.at();
                $(
                    let $field: Option<$Field> =
                        $crate::http::wire::read::member(&at, stringify!($field), $field, errors);
                )*
                Some($Body { $($field: $field?,)* })
            }
        }
    };
}
pub(in crate::http) use body;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_seen_however_its_name_is_written() {
        let peek = |raw| Value::new(raw, Pointer::Root).peek("legs");
        for (raw, expected) in [
            (r#"{"legs":[1]}"#, Some("[1]")),
            (r#"{"a":"b","\u006cegs":7}"#, Some("7")),
            (r#"{"a":"legs"}"#, None),
            (r#"{"a":"\\"}"#, None),
            (r#"{"a":{"legs":1}}"#, None),
            ("{}", None),
        ] {
            assert_eq!(peek(raw), expected, "{raw}");
        }
    }

    /// Each unknown member was kept to be told of, though 16 are: a body of 8 MiB became a million texts.
    #[test]
    fn wrong_members_beyond_those_that_are_told_are_only_counted() {
        let object = |count: usize| {
            let unknown = (0..count).map(|index| format!("\"x{index}\":0,")).collect::<String>();
            // Members that someone else reads are no errors, wherever they stand; the second of one is.
            format!("{{\"op\":0,{unknown}\"a\":1,\"key\":0,\"op\":0,\"a\":2}}")
        };
        for count in [0, 1, FIELD_ERRORS_MAX, 1000] {
            let object = object(count);
            let value = Value::new(&object, Pointer::Root);
            let (mut raws, mut wrong) = ([None; 1], WrongMembers::default());
            let visitor =
                MembersVisitor { names: &["a"], others: &["op", "key"], raws: &mut raws, wrong: &mut wrong };
            Errors::default().visit(value, visitor);
            assert_eq!(wrong.first.len(), (count + 2).min(FIELD_ERRORS_MAX));
            assert_eq!(wrong.first.len() + wrong.others_count, count + 2);
            let mut errors = Errors::default();
            let [a] = members(value.without(&["op", "key"]), &["a"], &mut errors).expect("an object");
            assert_eq!((a, errors.count), (Some("1"), count + 2));
            let first = errors.first.first().map(|error| error.detail.as_ref());
            assert_eq!(first == Some("stands there more than once"), count == 0, "{first:?}");
        }
    }

    /// What the quick way takes is what serde_json takes, and means the same.
    #[test]
    fn plain_objects_are_read_as_any_other() {
        fn any<'a>(raw: &'a str, names: &[&'static str; 2]) -> Option<[Option<&'a str>; 2]> {
            let (mut raws, mut wrong) = ([None; 2], WrongMembers::default());
            let mut reader = serde_json::Deserializer::from_str(raw);
            let visitor = MembersVisitor { names, others: &[], raws: &mut raws, wrong: &mut wrong };
            reader.deserialize_any(visitor).and_then(|()| reader.end()).ok()?;
            wrong.first.is_empty().then(|| raws.map(|raw| raw.map(RawValue::get)))
        }
        fn quick(raw: &str) -> Option<[Option<&str>; 2]> {
            plain_members(raw, |name| ["\"a\"", "\"b\""].iter().position(|known| *known == name))
        }
        let values = ["1", "0", "10", "1.00", "0.5", "12.349", "\"\"", "\"x\"", "\"é {,}\"", "\"12.34\""];
        for value in values {
            for (before, after) in
                [("{", "}"), ("{ ", " }"), ("{\t\"b\" : 7 ,\n", "\r}"), ("{", ",\"b\":\"\"}")]
            {
                let raw = format!("{before}\"a\":{value}{after}");
                let quick = quick(&raw).expect(&raw);
                assert_eq!(Some(quick), any(&raw, &["a", "b"]), "{raw}");
                assert_eq!(quick[0], Some(value));
            }
        }
        for value in [
            "",
            "-",
            "01",
            "00",
            "1.",
            ".5",
            "+1",
            "1..2",
            "1.2.3",
            "1e2",
            "-1",
            "1x",
            "\"",
            "\"\\n\"",
            "\"\u{1}\"",
            "null",
            "true",
            "[]",
            "{}",
            "1 2",
            "\"a\" \"b\"",
        ] {
            let raw = format!("{{\"a\":{value}}}");
            assert_eq!(quick(&raw), None, "{raw}");
        }
        for raw in [
            "",
            "{",
            "{}",
            "{\"a\"}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":1,\"a\":1}",
            "{\"c\":1}",
            "[1]",
        ] {
            assert_eq!(quick(raw), None, "{raw}");
        }
    }
}
