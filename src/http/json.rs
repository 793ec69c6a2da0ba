//! Writing JSON into memory, member by member.
//!
//! Replies are written by hand rather than derived because version 1 prints amounts as JSON numbers with exactly
//! two decimals (`12.30`): no number type of serde_json writes that without a float or a detour over its own
//! allocation, and an [`Amount`] must see neither. Text is escaped by serde_json.

use std::fmt::{self, Display};
use std::io::Write;

use uuid::Uuid;

use crate::ledger::{Amount, Currency, Timestamp};

/// A JSON object under construction. [`Object::end`] closes it.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object.
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, empty: true }
    }

    /// Starts a member; its value is to be written next.
    pub(super) fn key(&mut self, name: &'static str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        text(self.key(name), value);
    }

    /// A number, or a literal such as `true`: whatever prints as JSON.
    pub(super) fn plain(&mut self, name: &'static str, value: impl Display) {
        print(self.key(name), value);
    }

    /// A text that needs no escaping.
    pub(super) fn quoted(&mut self, name: &'static str, value: impl Display) {
        let out = self.key(name);
        out.push(b'"');
        print(out, value);
        out.push(b'"');
    }

    pub(super) fn id(&mut self, name: &'static str, id: Uuid) {
        let mut buffer = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut buffer);
        let out = self.key(name);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }

    pub(super) fn null(&mut self, name: &'static str) {
        self.key(name).extend_from_slice(b"null");
    }

    /// An amount as a number with the currency's decimals: the wire of version 1.
    pub(super) fn amount_number(&mut self, name: &'static str, amount: Amount, currency: Currency) {
        self.key(name).extend_from_slice(amount.text(currency).as_str().as_bytes());
    }

    /// An amount as a text with the currency's decimals: the wire of version 2.
    pub(super) fn amount_text(&mut self, name: &'static str, amount: Amount, currency: Currency) {
        let out = self.key(name);
        out.push(b'"');
        out.extend_from_slice(amount.text(currency).as_str().as_bytes());
        out.push(b'"');
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes a JSON array, each item by `write`.
pub(super) fn array<T>(
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
pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("memory takes what is written to it");
}

fn print(out: &mut Vec<u8>, value: impl Display) {
    write!(out, "{value}").expect("memory takes what is written to it");
}

/// Prints a time as RFC 3339 in UTC with milliseconds: `2026-11-22T17:08:21.000Z`.
///
/// Written here because printing UTC is ten lines of integer arithmetic, while a date library brings time
/// zones, parsing and locales. Past the year 9999, which only a broken clock reaches, the year has five digits.
pub(crate) struct Rfc3339(pub(crate) Timestamp);

impl Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let (days, ms) = (self.0.millis() / DAY_MS, self.0.millis() % DAY_MS);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        let milli = ms % 1000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
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
        object.amount_number("balance", Amount::from_minor_units(1230).unwrap(), Currency::USD);
        object.amount_text("posted", Amount::from_minor_units(-5).unwrap(), Currency::USD);
        object.null("closed");
        object.id("id", Uuid::nil());
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
        ] {
            assert_eq!(Rfc3339(Timestamp::from_millis(millis)).to_string(), expected);
        }
    }
}
