//! Writing JSON into memory, member by member.
//!
//! A reply's resource is a struct declared with [`resource!`]: it is written and described by its fields. That is
//! done here rather than derived because version 1 prints amounts as JSON numbers with exactly
//! the decimals of the currency (`12.30`): no number type of serde_json writes that without a float or a detour over its own
//! allocation, and an [`Amount`] must see neither. Text is escaped by serde_json.

use std::fmt::{self, Display};
use std::io::Write as _;

use serde_json::{Value, json};
use uuid::Uuid;

use super::schema::{Describe, Schemas, or_null};
use crate::ledger::{AccountName, Amount, Currency, Timestamp, Total};

/// A type that is written as JSON.
pub(in crate::http) trait Write: Describe {
    /// Writes it.
    fn write(&self, out: &mut Vec<u8>);

    /// Whether a field of this type may be left away; [`Write::is_there`] says whether it is.
    const OPTIONAL: bool = false;

    /// Whether there is anything to write.
    fn is_there(&self) -> bool {
        true
    }

    /// The schema of a field of this type where it is there.
    fn describe_field(schemas: &mut Schemas) -> Value {
        Self::describe(schemas)
    }
}

/// A JSON object under construction. [`Object::end`] closes it.
pub(in crate::http) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object.
    pub(in crate::http) fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, empty: true }
    }

    /// Starts a member; its value is to be written next.
    pub(in crate::http) fn key(&mut self, name: &'static str) -> &mut Vec<u8> {
        let out = self.literal_key(",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out
    }

    /// The same with a name that has its quotes and colon already, and the comma before it.
    pub(in crate::http) fn literal_key(&mut self, name: &'static str) -> &mut Vec<u8> {
        let name = if self.empty { &name[1..] } else { name };
        self.empty = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out
    }

    pub(in crate::http) fn text(&mut self, name: &'static str, value: &str) {
        text(self.key(name), value);
    }

    /// A number, or a literal such as `true`: whatever prints as JSON.
    pub(in crate::http) fn plain(&mut self, name: &'static str, value: impl Display) {
        print(self.key(name), value);
    }

    /// A text that needs no escaping.
    pub(in crate::http) fn quoted(&mut self, name: &'static str, value: impl Display) {
        let out = self.key(name);
        out.push(b'"');
        print(out, value);
        out.push(b'"');
    }

    pub(in crate::http) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes a JSON array, each item by `write`.
pub(in crate::http) fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes a text with quotes and escapes.
pub(in crate::http) fn text(out: &mut Vec<u8>, value: &str) {
    if is_plain(value.as_bytes()) {
        plain_text(out, value.as_bytes());
    } else {
        serde_json::to_writer(out, value).expect("memory takes what is written to it");
    }
}

/// Writes an account's name as a text. Nearly all are written byte by byte as they are kept, and need not be
/// checked to be UTF-8 for that.
pub(in crate::http) fn name(out: &mut Vec<u8>, name: &AccountName) {
    if is_plain(name.as_bytes()) { plain_text(out, name.as_bytes()) } else { text(out, name) }
}

/// Whether a text needs no escapes.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\')
}

/// Writes a text that needs no escapes.
pub(in crate::http) fn plain_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// Writes a number's digits.
pub(in crate::http) fn digits(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn print(out: &mut Vec<u8>, value: impl Display) {
    write!(out, "{value}").expect("memory takes what is written to it");
}

/// Declares a resource: a struct that is written as an object with its fields, and that is described by their types
/// and doc comments. A field whose name on the wire is no name of Rust's says so with `as`.
macro_rules! resource {
    (
        $(#[doc = $about:literal])*
        $visibility:vis struct $Resource:ident $(<$life:lifetime>)? {
            $($(#[doc = $meaning:literal])* $field:ident $(as $name:literal)?: $Field:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        $visibility struct $Resource $(<$life>)? {
            $($(#[doc = $meaning])* $visibility $field: $Field,)*
        }

        impl $(<$life>)? $crate::http::wire::schema::Describe for $Resource $(<$life>)? {
            fn describe(schemas: &mut $crate::http::wire::schema::Schemas) -> serde_json::Value {
                schemas.named::<Self>(stringify!($Resource), |schemas| {
                    let mut object = $crate::http::wire::schema::ObjectSchema::new(concat!($($about),*));
                    $(
                        let schema = <$Field as $crate::http::wire::write::Write>::describe_field(schemas);
                        let name = $crate::http::wire::write::member_name!($field $($name)?);
                        let required = !<$Field as $crate::http::wire::write::Write>::OPTIONAL;
                        object.member(name, required, schema, concat!($($meaning),*));
                    )*
                    object.open()
                })
            }
        }

        impl $(<$life>)? $crate::http::wire::write::Write for $Resource $(<$life>)? {
            fn write(&self, out: &mut Vec<u8>) {
                let mut object = $crate::http::wire::write::Object::begin(out);
                $(
                    let name =
                        concat!(",\"", $crate::http::wire::write::member_name!($field $($name)?), "\":");
                    if $crate::http::wire::write::Write::is_there(&self.$field) {
                        $crate::http::wire::write::Write::write(&self.$field, object.literal_key(name));
                    }
                )*
                object.end();
            }
        }
    };
}
pub(in crate::http) use resource;

macro_rules! member_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}
pub(in crate::http) use member_name;

impl Describe for bool {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "boolean" })
    }
}

impl Write for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl Describe for u64 {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl Write for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        digits(out, *self);
    }
}

impl<T: Write> Write for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// Unlike in a request, what is not there is written as null.
    fn describe_field(schemas: &mut Schemas) -> Value {
        or_null(&T::describe_field(schemas))
    }
}

/// What is left away where nothing is known of it, or nothing to be said: null would say something.
pub(in crate::http) struct IfAny<T>(pub(in crate::http) Option<T>);

impl<T: Describe> Describe for IfAny<T> {
    fn describe(schemas: &mut Schemas) -> Value {
        T::describe(schemas)
    }
}

impl<T: Write> Write for IfAny<T> {
    const OPTIONAL: bool = true;

    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    fn describe_field(schemas: &mut Schemas) -> Value {
        T::describe_field(schemas)
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::describe(schemas) })
    }
}

impl<T: Write> Write for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        array(out, self, |out, item| item.write(out));
    }
}

impl<T: Describe> Describe for &T {
    fn describe(schemas: &mut Schemas) -> Value {
        T::describe(schemas)
    }
}

impl<T: Write> Write for &T {
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }

    fn describe_field(schemas: &mut Schemas) -> Value {
        T::describe_field(schemas)
    }
}

/// Any text.
pub(in crate::http) struct Text<'a>(pub(in crate::http) &'a str);

impl Describe for Text<'_> {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string" })
    }
}

impl Write for Text<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        text(out, self.0);
    }
}

/// The id of a resource.
pub(in crate::http) struct Id(pub(in crate::http) Uuid);

impl Describe for Id {
    fn describe(_: &mut Schemas) -> Value {
        json!({
            "type": "string",
            "format": "uuid",
            "pattern": UUID_PATTERN,
            "examples": ["019aab5e-8c00-8400-8000-000000000000"],
        })
    }
}

impl Write for Id {
    fn write(&self, out: &mut Vec<u8>) {
        let mut text = [b'"'; 1 + uuid::fmt::Hyphenated::LENGTH + 1];
        self.0.hyphenated().encode_lower(&mut text[1..]);
        out.extend_from_slice(&text);
    }
}

/// How a UUID is written, as a regular expression.
pub(in crate::http) const UUID_PATTERN: &str =
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// A sum of money as a number with the currency's decimals: the wire of version 1.
pub(in crate::http) struct MoneyNumber(pub(in crate::http) Amount, pub(in crate::http) Currency);

impl Describe for MoneyNumber {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "number", "examples": [12.34] })
    }
}

impl Write for MoneyNumber {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.text(self.1).as_bytes());
    }
}

/// A sum of money as a text with the currency's decimals: the wire of version 2.
pub(in crate::http) struct MoneyText(pub(in crate::http) Amount, pub(in crate::http) Currency);

impl Describe for MoneyText {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": MONEY_PATTERN, "examples": ["12.34"] })
    }
}

impl Write for MoneyText {
    fn write(&self, out: &mut Vec<u8>) {
        plain_text(out, self.0.text(self.1).as_bytes());
    }
}

/// How money is written, as a regular expression.
const MONEY_PATTERN: &str = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$";

/// A sum of amounts, as a text.
pub(in crate::http) struct TotalText(pub(in crate::http) Total, pub(in crate::http) Currency);

impl Describe for TotalText {
    fn describe(schemas: &mut Schemas) -> Value {
        MoneyText::describe(schemas)
    }
}

impl Write for TotalText {
    fn write(&self, out: &mut Vec<u8>) {
        text(out, &self.0.to_text(self.1));
    }
}

impl Describe for Currency {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Currency", |_| {
            json!({
                "type": "string",
                "enum": Currency::ALL.iter().map(Currency::code).collect::<Vec<_>>(),
                "examples": [Currency::USD.code()],
            })
        })
    }
}

impl Write for Currency {
    fn write(&self, out: &mut Vec<u8>) {
        plain_text(out, self.code().as_bytes());
    }
}

/// A time as Unix seconds: the wire of version 1.
pub(in crate::http) struct Seconds(pub(in crate::http) Timestamp);

impl Describe for Seconds {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 0, "examples": [1_795_367_301] })
    }
}

impl Write for Seconds {
    fn write(&self, out: &mut Vec<u8>) {
        digits(out, self.0.seconds());
    }
}

/// A time as RFC 3339: the wire of version 2.
pub(in crate::http) struct Time(pub(in crate::http) Timestamp);

impl Describe for Time {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "format": "date-time", "examples": ["2026-11-22T17:08:21.042Z"] })
    }
}

impl Write for Time {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        Rfc3339(self.0).with_text(|text| out.extend_from_slice(text));
        out.push(b'"');
    }
}

/// Prints a time as RFC 3339 in UTC with milliseconds: `2026-11-22T17:08:21.000Z`.
///
/// Written here because printing UTC is ten lines of integer arithmetic, while a date library brings time
/// zones, parsing and locales. Past the year 9999, which only a broken clock reaches, the year has five digits.
pub(crate) struct Rfc3339(pub(crate) Timestamp);

impl Rfc3339 {
    /// Digit by digit from the end: a reply has a time, and formatting it took 1,800 instructions of a transfer's 31,000.
    fn with_text<T>(&self, use_text: impl FnOnce(&[u8]) -> T) -> T {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let (days, ms) = (self.0.millis() / DAY_MS, self.0.millis() % DAY_MS);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        // Enough for a year of twenty digits.
        let mut text = [0; 40];
        let mut start = text.len();
        let mut prepend = |mut value: u64, digits_min: usize, behind: u8| {
            start -= 1;
            text[start] = behind;
            let end = start;
            while value > 0 || end - start < digits_min {
                start -= 1;
                text[start] = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        prepend(milli, 3, b'Z');
        prepend(second, 2, b'.');
        prepend(minute, 2, b':');
        prepend(hour, 2, b':');
        prepend(day, 2, b'T');
        prepend(month, 2, b'-');
        prepend(year, 4, b'-');
        use_text(&text[start..])
    }
}

impl Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(str::from_utf8(text).expect("digits and signs are ASCII")))
    }
}

/// The Gregorian date so many days after 1970-01-01. Howard Hinnant's `civil_from_days`: years begin in March,
/// so that the leap day is the last of its year, and 400 years are always 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_TO_EPOCH: u64 = 719_468;
    let days = days + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_separated_and_text_is_escaped() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.text("name", "a\"\\\u{1}é");
        object.plain("version", 7);
        let amount = |minor_units| Amount::from_minor_units(minor_units).unwrap();
        MoneyNumber(amount(1230), Currency::USD).write(object.key("balance"));
        MoneyText(amount(-5), Currency::USD).write(object.key("posted"));
        None::<Time>.write(object.key("closed"));
        Id(Uuid::nil()).write(object.key("id"));
        array(object.key("items"), [1, 2], print);
        object.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"name":"a\"\\\u0001é","version":7,"balance":12.30,"posted":"-0.05","closed":null,"id":"00000000-0000-0000-0000-000000000000","items":[1,2]}"#
        );
    }

    #[test]
    fn times_are_printed_in_utc() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599_999, "1972-02-28T23:59:59.999Z"),
            (68_169_600_000, "1972-02-29T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_001, "2000-02-29T23:59:59.001Z"),
            (1_795_367_301_042, "2026-11-22T17:08:21.042Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "10000-01-01T00:00:00.000Z"),
        ] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(Rfc3339(time).to_string(), expected);
            let mut out = Vec::new();
            Time(time).write(&mut out);
            assert_eq!(out, format!("\"{expected}\"").into_bytes());
        }
    }
}
