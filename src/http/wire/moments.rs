//! Moments as clients write them: RFC 3339, or milliseconds since the Unix epoch.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::schema::{Describe, Schemas, with_meaning};
use crate::bank::Point;
use crate::http::query::Parameter;
use crate::ledger::Timestamp;

/// The most digits of a count of milliseconds: enough for thirty thousand years.
const DIGITS_MAX: usize = 15;

/// The most digits of a fraction of a second: more than any clock tells.
const FRACTION_DIGITS_MAX: usize = 18;

const NOT_A_MOMENT: &str = "must be a time as RFC 3339 has it, such as 2026-11-22T17:08:21.042Z (a + is written %2B or \
    as it is), or milliseconds since 1970";

/// A moment, which may be between two milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Moment {
    /// The millisecond that it is in.
    floor: Timestamp,
    /// Whether it is later than the beginning of that.
    is_between: bool,
}

impl Moment {
    /// The last millisecond that is not after it.
    pub(in crate::http) fn floor(self) -> Timestamp {
        self.floor
    }

    /// The first millisecond that is not before it: as a bound it parts what is from what is not yet.
    pub(in crate::http) fn ceiling(self) -> Timestamp {
        Timestamp::from_millis(self.floor.millis() + u64::from(self.is_between))
    }

    fn parse(text: &str) -> Option<Moment> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let millis = Some(text).filter(|text| text.len() <= DIGITS_MAX)?.parse().ok()?;
            return Some(Moment { floor: Timestamp::from_millis(millis), is_between: false });
        }
        rfc3339(text)
    }
}

/// Reads a time of RFC 3339. What is before 1970 becomes 1970: there was nothing to be read before either.
fn rfc3339(text: &str) -> Option<Moment> {
    if !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let is =
        |place: usize, any_of: &[u8]| text.as_bytes().get(place).is_some_and(|byte| any_of.contains(byte));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let punctuated = is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":");
    let exists = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && (hour < 24 && minute < 60 && second < 60);
    if !punctuated || !exists {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => {
            let end = rest.bytes().position(|byte| !byte.is_ascii_digit())?;
            (1..=FRACTION_DIGITS_MAX).contains(&end).then(|| rest.split_at(end))?
        }
    };
    let offset_minutes = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        // In a query a + that is not encoded is a space, which stands nowhere else in a time.
        [sign @ (b'+' | b' ' | b'-'), a, b, b':', c, d]
            if [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()) =>
        {
            let digit = |byte: &u8| i64::from(byte - b'0');
            let (hours, minutes) = (digit(a) * 10 + digit(b), digit(c) * 10 + digit(d));
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let (millis, finer) = fraction.split_at(fraction.len().min(3));
    let millis = format!("{millis:0<3}").parse::<i64>().ok()?;
    let minutes = (days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    let total = (minutes * 60 + second) * 1000 + millis;
    let is_between = total >= 0 && finer.bytes().any(|digit| digit != b'0');
    Some(Moment { floor: Timestamp::from_millis(u64::try_from(total).unwrap_or(0)), is_between })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The days from 1970-01-01 to a Gregorian date. Howard Hinnant's `days_from_civil`; see the way back in `write`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn time_schema() -> Value {
    json!({ "type": "string", "format": "date-time", "examples": ["2026-11-22T17:08:21.042Z"] })
}

fn millis_schema() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]{1,15}$" })
}

impl Describe for Moment {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Moment", |_| {
            with_meaning(
                json!({ "anyOf": [time_schema(), millis_schema()], "examples": ["2026-11-22T17:08:21.042Z"] }),
                "A time as RFC 3339 has it, or milliseconds since 1970.",
            )
        })
    }
}

impl Parameter for Moment {
    fn parse(text: &str) -> Result<Moment, Cow<'static, str>> {
        Moment::parse(text).ok_or(Cow::Borrowed(NOT_A_MOMENT))
    }
}

/// A point in an account's history: a moment, or `v` and a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct PointText(pub(in crate::http) Point);

impl Describe for PointText {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Point", |_| {
            with_meaning(
                json!({
                    "anyOf": [
                        time_schema(),
                        millis_schema(),
                        { "type": "string", "pattern": "^v[1-9][0-9]{0,18}$" },
                    ],
                    "examples": ["v1"],
                }),
                "A time as RFC 3339 has it, milliseconds since 1970, or `v` and a version of the account, such as \
                 `v7`.",
            )
        })
    }
}

impl Parameter for PointText {
    fn parse(text: &str) -> Result<PointText, Cow<'static, str>> {
        let version = text.strip_prefix('v').filter(|digits| {
            !digits.starts_with('0') && digits.len() <= 19 && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        match version.and_then(|digits| digits.parse().ok()) {
            Some(version) => Ok(PointText(Point::Version(version))),
            None => match Moment::parse(text) {
                Some(moment) => Ok(PointText(Point::Time(moment.floor()))),
                None => Err(format!("{NOT_A_MOMENT}, or v and a version, such as v7").into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Rfc3339;

    #[test]
    fn times_are_read_as_they_are_printed() {
        for millis in [0, 1, 68_169_599_999, 951_782_400_000, 1_795_367_301_042, 4_107_542_400_000] {
            let floor = Timestamp::from_millis(millis);
            let moment = Moment { floor, is_between: false };
            assert_eq!(Moment::parse(&Rfc3339(floor).to_string()), Some(moment));
            assert_eq!(Moment::parse(&millis.to_string()), Some(moment));
        }
        for (text, floor, ceiling) in [
            ("1970-01-01t00:00:01z", 1000, 1000),
            ("1970-01-01T01:00:00+01:00", 0, 0),
            ("1970-01-01T01:00:00 01:00", 0, 0),
            ("1969-12-31T23:30:00.5-00:45", 900_500, 900_500),
            ("1970-01-01T00:00:00.0001Z", 0, 1),
            ("1970-01-01T00:00:00.001000Z", 1, 1),
            ("1970-01-01T00:00:00.123456789Z", 123, 124),
            ("0001-01-01T00:00:00.5Z", 0, 0),
            ("1969-12-31T23:59:59.9999Z", 0, 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000, 951_782_400_000),
        ] {
            let moment = Moment::parse(text).expect(text);
            assert_eq!((moment.floor().millis(), moment.ceiling().millis()), (floor, ceiling), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "-1",
            "1.5",
            "1e3",
            "now",
            "1234567890123456",
            "2026-11-22",
            "2026-11-22T17:08Z",
            "2026-11-22T17:08:21",
            "2026-11-22 17:08:21Z",
            "2026-11-22T17:08:21.Z",
            "2026-11-22T17:08:21.0000000000000000000Z",
            "2026-11-22T17:08:21,5Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T17:60:00Z",
            "2026-11-22T17:08:60Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-22T17:08:21+1:00",
            "2026-11-22T17:08:21+24:00",
            "2026-11-22T17:08:21+01:60",
            "2026-11-22T17:08:21  01:00",
            "2026-11-22T17:08:21 Z",
            "2026-11-22T17:08:21Z ",
            "+026-11-22T17:08:21Z",
            "２026-11-22T17:08:21Z",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_point_is_a_moment_or_a_version() {
        let parse = |text| PointText::parse(text).map(|point| point.0);
        assert_eq!(parse("v7"), Ok(Point::Version(7)));
        assert_eq!(parse("7"), Ok(Point::Time(Timestamp::from_millis(7))));
        assert_eq!(parse("1970-01-01T01:00:01 01:00"), Ok(Point::Time(Timestamp::from_millis(1000))));
        for bad in ["v", "v0", "v01", "v-1", "V7", "v7 ", "v99999999999999999999", "version7", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
