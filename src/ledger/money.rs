//! Money: a checked integer count of minor units, and the currency that says how many make one.
//!
//! No amount passes through a float. Text becomes money digit by digit, and an operation that would leave the
//! range is `None`, which the ledger turns into a refusal; nothing wraps and nothing panics.
//!
//! `i128` was chosen over a decimal of fixed scale: an addition is two instructions instead of a rescale and a
//! compare, and equal amounts have equal bits, which snapshots compared byte for byte need.

use std::fmt;

use rust_decimal::Decimal;

/// The largest amount in minor units, either sign.
///
/// At 10^25 the totals of a thousand shards still add up to less than 7.9 * 10^28, the most that `rust_decimal`
/// prints exactly.
const MINOR_UNITS_MAX: i128 = 10i128.pow(25);

/// The longest text that is read as an amount, in bytes. No amount in range needs more, and the bound keeps a
/// hostile megabyte of digits from being looked at.
const AMOUNT_TEXT_BYTES_MAX: usize = 64;

/// The largest exponent, either sign, of an amount in scientific notation (`1e3`).
const AMOUNT_EXPONENT_MAX: i32 = 64;

/// A sum of money in minor units (cents) of some currency: from -10^25 to 10^25.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

impl Amount {
    /// No money.
    pub const ZERO: Amount = Amount(0);
    /// The largest amount.
    pub const MAX: Amount = Amount(MINOR_UNITS_MAX);

    /// The amount of so many minor units, if it is in range.
    pub const fn from_minor_units(minor_units: i128) -> Option<Amount> {
        if minor_units >= -MINOR_UNITS_MAX && minor_units <= MINOR_UNITS_MAX {
            Some(Amount(minor_units))
        } else {
            None
        }
    }

    /// The count of minor units.
    pub const fn minor_units(self) -> i128 {
        self.0
    }

    /// The sum, or `None` past the range.
    pub const fn checked_add(self, other: Amount) -> Option<Amount> {
        Amount::from_minor_units(self.0 + other.0)
    }

    /// The difference, or `None` past the range.
    pub const fn checked_sub(self, other: Amount) -> Option<Amount> {
        Amount::from_minor_units(self.0 - other.0)
    }

    /// The same sum with the other sign. The range is symmetric, so this cannot leave it.
    pub const fn negated(self) -> Amount {
        Amount(-self.0)
    }

    /// The sum without its sign.
    pub const fn magnitude(self) -> Amount {
        Amount(self.0.abs())
    }

    /// Whether this is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Reads an amount of `currency` from its digits: an optional minus, digits, an optional fraction, an
    /// optional exponent, as JSON writes numbers.
    ///
    /// # Errors
    /// Says what is wrong with the text; see [`AmountError`].
    pub fn parse(text: &str, currency: Currency, excess: ExcessDecimals) -> Result<Amount, AmountError> {
        if text.len() > AMOUNT_TEXT_BYTES_MAX {
            return Err(AmountError::TooLong { bytes_max: AMOUNT_TEXT_BYTES_MAX });
        }
        let digits = Digits::scan(text).ok_or(AmountError::NotANumber)?;
        let (whole, fraction) = digits.positional()?;
        let scale = currency.scale() as usize;
        let (kept, cut) = fraction.split_at(fraction.len().min(scale));
        if excess == ExcessDecimals::Refuse && cut.bytes().any(|digit| digit != b'0') {
            return Err(AmountError::TooManyDecimals { scale: currency.scale() });
        }
        let sign = if digits.negative { "-" } else { "" };
        let mut decimal =
            Decimal::from_str_exact(&format!("{sign}{whole}.{kept}0")).map_err(|_| AmountError::TooLarge)?;
        decimal.rescale(u32::from(currency.scale()));
        if decimal.scale() != u32::from(currency.scale()) {
            return Err(AmountError::TooLarge);
        }
        Amount::from_minor_units(decimal.mantissa()).ok_or(AmountError::TooLarge)
    }

    /// The amount as a decimal with the currency's number of decimals.
    pub fn to_decimal(self, currency: Currency) -> Decimal {
        Decimal::from_i128_with_scale(self.0, u32::from(currency.scale()))
    }
}

/// A sum of amounts, in minor units. Wider than an [`Amount`]: the parts of a sum that is zero need not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total(i128);

impl Total {
    /// Adds an amount. Four thousand million accounts at the end of the range are far from the end of `i128`,
    /// and a thousand shards of them still are.
    pub fn add(&mut self, amount: Amount) {
        self.0 += amount.0;
    }

    /// Adds another sum.
    pub fn add_total(&mut self, other: Total) {
        self.0 += other.0;
    }

    /// Whether the sum is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum with the currency's number of decimals. Beyond the range of a decimal, so written by hand.
    pub fn to_text(self, currency: Currency) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let units = 10u128.pow(u32::from(currency.scale()));
        let (whole, rest) = (self.0.unsigned_abs() / units, self.0.unsigned_abs() % units);
        format!("{sign}{whole}.{rest:0width$}", width = usize::from(currency.scale()))
    }
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

    /// The digits before and after the point once the exponent has moved it.
    fn positional(&self) -> Result<(String, String), AmountError> {
        let digits = [self.whole, self.fraction].concat();
        if digits.bytes().all(|digit| digit == b'0') {
            return Ok(("0".to_owned(), String::new()));
        }
        if self.exponent > AMOUNT_EXPONENT_MAX {
            return Err(AmountError::TooLarge);
        }
        // Below -EXPONENT_MAX every digit is far behind the last decimal of any currency already.
        let exponent = self.exponent.max(-2 * AMOUNT_EXPONENT_MAX);
        let point = self.whole.len() as i32 + exponent;
        Ok(match usize::try_from(point) {
            Err(_) | Ok(0) => ("0".to_owned(), "0".repeat(point.unsigned_abs() as usize) + &digits),
            Ok(point) if point >= digits.len() => {
                (digits.clone() + &"0".repeat(point - digits.len()), String::new())
            }
            Ok(point) => (digits[..point].to_owned(), digits[point..].to_owned()),
        })
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

/// What to do with decimals that the currency does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExcessDecimals {
    /// Cut them off: 12.349 becomes 12.34 (the wire of version 1).
    Truncate,
    /// Refuse the amount, unless they are all zero.
    Refuse,
}

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not written as a number.
    #[error("is not a decimal number such as 12.34")]
    NotANumber,
    /// More characters than any amount needs.
    #[error("is longer than {bytes_max} characters")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// Decimals that the currency does not have.
    #[error("has more than {scale} decimals")]
    TooManyDecimals {
        /// The currency's number of decimals.
        scale: u8,
    },
    /// Outside the range of [`Amount`].
    #[error("is out of range: at most 10^25 minor units")]
    TooLarge,
}

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The United States dollar.
    pub const USD: Currency = Currency(*b"USD");

    /// The currency with this alphabetic code, if the ledger knows it.
    pub fn from_code(code: &[u8]) -> Option<Currency> {
        (code == b"USD").then_some(Currency::USD)
    }

    /// The alphabetic code, three capital letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }

    /// How many decimals an amount has.
    pub const fn scale(self) -> u8 {
        2
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cents(text: &str, excess: ExcessDecimals) -> Result<i128, AmountError> {
        Amount::parse(text, Currency::USD, excess).map(Amount::minor_units)
    }

    #[test]
    fn digits_are_read_exactly() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("12", 1200),
            ("12.3", 1230),
            ("12.34", 1234),
            ("12.340000", 1234),
            ("-12.34", -1234),
            ("1e2", 10_000),
            ("1.5E3", 150_000),
            ("125e-2", 125),
            ("1e-2", 1),
            ("0e99999999999", 0),
            ("0.00e-99999999999", 0),
            ("00012.34", 1234),
            ("10000000000000000000000000", 10i128.pow(25) * 100),
        ] {
            let result = cents(text, ExcessDecimals::Refuse);
            if expected > MINOR_UNITS_MAX {
                assert_eq!(result, Err(AmountError::TooLarge), "{text}");
            } else {
                assert_eq!(result, Ok(expected), "{text}");
            }
        }
    }

    #[test]
    fn version_one_cuts_and_version_two_refuses_extra_decimals() {
        for (text, cut) in [
            ("12.349", 1234),
            ("-12.349", -1234),
            ("0.009", 0),
            ("1.999999999999999999999999999999999999999999", 199),
            ("12349e-3", 1234),
            ("1e-60", 0),
            ("1e-99999999999", 0),
        ] {
            assert_eq!(cents(text, ExcessDecimals::Truncate), Ok(cut), "{text}");
            assert_eq!(
                cents(text, ExcessDecimals::Refuse),
                Err(AmountError::TooManyDecimals { scale: 2 }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in [
            "",
            "-",
            "+1",
            ".5",
            "5.",
            "1e",
            "1e+",
            "e5",
            "1_000",
            " 1",
            "1 ",
            "NaN",
            "inf",
            "-Infinity",
            "0x10",
            "1,5",
            "1.2.3",
            "--1",
            "1e5.5",
            "١٢",
        ] {
            assert_eq!(cents(text, ExcessDecimals::Truncate), Err(AmountError::NotANumber), "{text:?}");
        }
        assert_eq!(cents("1e26", ExcessDecimals::Truncate), Err(AmountError::TooLarge));
        assert_eq!(cents("1e99999999999", ExcessDecimals::Truncate), Err(AmountError::TooLarge));
        assert_eq!(cents(&"9".repeat(64), ExcessDecimals::Truncate), Err(AmountError::TooLarge));
        assert_eq!(
            cents(&"9".repeat(65), ExcessDecimals::Truncate),
            Err(AmountError::TooLong { bytes_max: 64 })
        );
    }

    #[test]
    fn the_ends_of_the_range_print_and_parse_back() {
        for amount in [Amount::MAX, Amount::MAX.negated(), Amount::ZERO] {
            let text = amount.to_decimal(Currency::USD).to_string();
            assert_eq!(Amount::parse(&text, Currency::USD, ExcessDecimals::Refuse), Ok(amount), "{text}");
        }
        assert_eq!(Amount::MAX.checked_add(Amount(1)), None);
        assert_eq!(Amount::MAX.negated().checked_sub(Amount(1)), None);
        assert_eq!(Amount(1234).to_decimal(Currency::USD).to_string(), "12.34");
        assert_eq!(Amount(-5).to_decimal(Currency::USD).to_string(), "-0.05");
        assert_eq!(Amount(1000).to_decimal(Currency::USD).to_string(), "10.00");
        for units in [0, 5, -5, 1234, -100, MINOR_UNITS_MAX] {
            assert_eq!(
                Total(units).to_text(Currency::USD),
                Amount(units).to_decimal(Currency::USD).to_string()
            );
        }
    }
}
