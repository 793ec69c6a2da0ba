//! Money as text: decimal digits to a count of units and back. A unit is the last decimal's.
//!
//! Neither way allocates, and neither goes through a decimal library: a batch has thousands of amounts, and for a
//! count of units reading is a multiplication and an addition a digit. What `rust_decimal` reads and prints is the
//! measure in the tests.

use std::fmt;
use std::iter;

use super::{AmountError, ExcessDecimals};

/// The longest text that is read as an amount, in bytes. No amount in range needs more, and the bound keeps a
/// hostile megabyte of digits from being looked at.
const AMOUNT_TEXT_BYTES_MAX: usize = 64;

/// The longest text that is read as plain digits, without its sign, in bytes: scaled by 10^4 it is still less than
/// 10^18 and fits 64 bits, and every amount of up to 99,999,999,999.99 is that short.
const PLAIN_TEXT_BYTES_MAX: usize = 14;

/// Powers of ten for the decimals that a plain text leaves out.
const POWERS_OF_TEN: [i64; 5] = [1, 10, 100, 1000, 10_000];

/// Reads a count of units with `scale` decimals, from `-units_max` to `units_max`: an optional minus, digits, an
/// optional fraction, an optional exponent, as JSON writes numbers (but leading zeros are taken).
pub(super) fn read_units(
    text: &str,
    scale: u8,
    excess: ExcessDecimals,
    units_max: i128,
) -> Result<i128, AmountError> {
    if let Some(units) = read_plain(text.as_bytes(), scale) {
        return Ok(i128::from(units));
    }
    if text.len() > AMOUNT_TEXT_BYTES_MAX {
        return Err(AmountError::TooLong { bytes_max: AMOUNT_TEXT_BYTES_MAX });
    }
    Digits::scan(text).ok_or(AmountError::NotANumber)?.units(scale, excess, units_max)
}

/// Reads `-12.34`: few digits, no exponent, no more decimals than `scale`. That is nearly every amount, and is in
/// every range. `None` leaves the judgement to [`Digits`].
fn read_plain(text: &[u8], scale: u8) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if text.is_empty() || text.len() > PLAIN_TEXT_BYTES_MAX {
        return None;
    }
    let mut units = 0;
    let mut point = None;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => units = units * 10 + i64::from(byte - b'0'),
            b'.' if at > 0 && at + 1 < text.len() && point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let decimals = point.map_or(0, |point| text.len() - point - 1);
    units *= POWERS_OF_TEN[usize::from(scale).checked_sub(decimals)?];
    Some(if negative { -units } else { units })
}

/// A number's text taken apart: `-12.50e3` is negative, `12`, `50`, `3`.
struct Digits<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i32,
}

impl<'a> Digits<'a> {
    fn scan(text: &'a str) -> Option<Digits<'a>> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        (!whole.is_empty() && all_digits(whole) && all_digits(fraction)).then_some(Digits {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    fn units(&self, scale: u8, excess: ExcessDecimals, units_max: i128) -> Result<i128, AmountError> {
        let digits = || self.whole.bytes().chain(self.fraction.bytes()).map(|digit| digit - b'0');
        if digits().all(|digit| digit == 0) {
            return Ok(0);
        }
        // The exponent moves the point, and the scale moves it behind the last decimal: so many digits count.
        let counted = self.whole.len() as i64 + i64::from(self.exponent) + i64::from(scale);
        let counted = usize::try_from(counted).unwrap_or(0);
        if excess == ExcessDecimals::Refuse && digits().skip(counted).any(|digit| digit != 0) {
            return Err(AmountError::TooManyDecimals { scale });
        }
        let mut units = 0i128;
        // Zeros without end stand behind the digits. The first digit that is not zero is among those written, and
        // past it the range ends within some thirty more: an exponent of thousands of millions costs nothing.
        for digit in digits().chain(iter::repeat(0)).take(counted) {
            units = units * 10 + i128::from(digit);
            if units > units_max {
                return Err(AmountError::TooLarge);
            }
        }
        Ok(if self.negative { -units } else { units })
    }
}

fn parse_exponent(text: &str) -> Option<i32> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Saturating: an exponent beyond i32 is as far out of range as i32's own largest.
    Some(sign * digits.parse::<i32>().unwrap_or(i32::MAX))
}

/// The longest text of units: the 39 digits of an `i128`, its sign and a point.
const UNITS_TEXT_BYTES_MAX: usize = 41;

/// A count of units printed with its decimals, without an allocation: `-12.30`, and `12` if it has none.
#[derive(Clone, Copy)]
pub struct UnitsText {
    // What is printed stands at the end.
    buffer: [u8; UNITS_TEXT_BYTES_MAX],
    start: usize,
}

impl UnitsText {
    pub(super) fn new(units: i128, scale: u8) -> UnitsText {
        let mut text = UnitsText { buffer: [0; UNITS_TEXT_BYTES_MAX], start: UNITS_TEXT_BYTES_MAX };
        let mut rest = units.unsigned_abs();
        if scale > 0 {
            for _ in 0..scale {
                text.put(take_last_digit(&mut rest));
            }
            text.put(b'.');
        }
        text.put(take_last_digit(&mut rest));
        while rest > 0 {
            text.put(take_last_digit(&mut rest));
        }
        if units < 0 {
            text.put(b'-');
        }
        text
    }

    /// The text: ASCII, and a number of JSON.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("digits, a point and a minus are ASCII")
    }

    /// The text's bytes. What only copies them needs no more.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn put(&mut self, byte: u8) {
        self.start -= 1;
        self.buffer[self.start] = byte;
    }
}

impl fmt::Display for UnitsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for UnitsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn take_last_digit(rest: &mut u128) -> u8 {
    // Nearly all counts fit 64 bits, where dividing by ten is a multiplication; in 128 bits it is a call.
    let digit = match u64::try_from(*rest) {
        Ok(small) => {
            *rest = u128::from(small / 10);
            (small % 10) as u8
        }
        Err(_) => {
            let digit = (*rest % 10) as u8;
            *rest /= 10;
            digit
        }
    };
    b'0' + digit
}
