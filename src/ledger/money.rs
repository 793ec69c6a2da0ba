//! Money: a checked integer count of the minor units of a [`Currency`], and what a client wrote before it is known
//! of which.
//!
//! No amount passes through a float. Text becomes money digit by digit, and an operation that would leave the
//! range is `None`, which the ledger turns into a refusal; nothing wraps and nothing panics.
//!
//! `i128` was chosen over a decimal of fixed scale: an addition is two instructions instead of a rescale and a
//! compare, and equal amounts have equal bits, which snapshots compared byte for byte need.

mod text;

use std::cmp::Ordering;
use std::fmt;

use rust_decimal::Decimal;

use super::Currency;
pub use text::UnitsText;
use text::read_units;

/// The largest amount in minor units, either sign.
///
/// At 10^25 the totals of a thousand shards still add up to less than 7.9 * 10^28, the most that `rust_decimal`
/// prints exactly.
const MINOR_UNITS_MAX: i128 = 10i128.pow(25);

/// The decimals of a [`Quantity`]: as many as any currency has.
const QUANTITY_DECIMALS: u8 = Currency::SCALE_MAX;

/// The largest quantity in units of 1/10,000, either sign: the largest [`Amount`] of a currency without decimals,
/// so that whatever is an amount of some currency can be written before the currency is known.
const QUANTITY_UNITS_MAX: i128 = MINOR_UNITS_MAX * units_in_one(QUANTITY_DECIMALS);

/// How many units of so many decimals make one; at most [`Currency::SCALE_MAX`] decimals.
const fn units_in_one(decimals: u8) -> i128 {
    10i128.pow(decimals as u32)
}

/// A sum of money in minor units of some currency (cents, yen, fils): from -10^25 to 10^25.
///
/// Kept in 96 bits, which hold 86: an account has three amounts, and as `i128`s on their borders of 16 bytes they and
/// what stands between them would be a third of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
pub struct Amount {
    // First, as an amount is copied 8 bytes and then 4: a processor waits when a load takes from two stores.
    low: u64,
    high: i32,
}

impl Amount {
    /// No money.
    pub const ZERO: Amount = Amount::new(0);
    /// The largest amount.
    pub const MAX: Amount = Amount::new(MINOR_UNITS_MAX);

    /// The amount of so many minor units, which are in range.
    const fn new(minor_units: i128) -> Amount {
        Amount { high: (minor_units >> 64) as i32, low: minor_units as u64 }
    }

    /// The amount of so many minor units, if it is in range.
    pub const fn from_minor_units(minor_units: i128) -> Option<Amount> {
        if minor_units >= -MINOR_UNITS_MAX && minor_units <= MINOR_UNITS_MAX {
            Some(Amount::new(minor_units))
        } else {
            None
        }
    }

    /// The count of minor units.
    pub const fn minor_units(self) -> i128 {
        (self.high as i128) << 64 | self.low as i128
    }

    /// The sum, or `None` past the range.
    pub const fn checked_add(self, other: Amount) -> Option<Amount> {
        Amount::from_minor_units(self.minor_units() + other.minor_units())
    }

    /// The difference, or `None` past the range.
    pub const fn checked_sub(self, other: Amount) -> Option<Amount> {
        Amount::from_minor_units(self.minor_units() - other.minor_units())
    }

    /// The same sum with the other sign. The range is symmetric, so this cannot leave it.
    pub const fn negated(self) -> Amount {
        Amount::new(-self.minor_units())
    }

    /// The sum without its sign.
    pub const fn magnitude(self) -> Amount {
        Amount::new(self.minor_units().abs())
    }

    /// Whether this is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.minor_units() > 0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.minor_units() == 0
    }

    /// Reads an amount of `currency` from its digits: an optional minus, digits, an optional fraction, an
    /// optional exponent, as JSON writes numbers.
    ///
    /// # Errors
    /// Says what is wrong with the text; see [`AmountError`].
    pub fn parse(text: &str, currency: Currency, excess: ExcessDecimals) -> Result<Amount, AmountError> {
        let units = read_units(text, currency.scale(), excess, MINOR_UNITS_MAX)?;
        Ok(Amount::from_minor_units(units).expect("what is read is in range"))
    }

    /// The amount's text with the currency's number of decimals: 12.30 dollars, 12 yen, 12.300 dinars.
    pub fn text(self, currency: Currency) -> UnitsText {
        UnitsText::new(self.minor_units(), currency.scale())
    }

    /// The amount as a decimal with the currency's number of decimals.
    pub fn to_decimal(self, currency: Currency) -> Decimal {
        Decimal::from_i128_with_scale(self.minor_units(), u32::from(currency.scale()))
    }
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Amount) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Amount) -> Ordering {
        self.minor_units().cmp(&other.minor_units())
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Amount").field(&self.minor_units()).finish()
    }
}

/// An amount as it was written, before it is known of which currency: a count of 1/10,000 of the major unit, from
/// -10^29 to 10^29.
///
/// A client says "12.34" and an account; only the account says whether that is 1234 cents, 12340 fils or more
/// decimals than yen have. [`Quantity::to_amount`] is the one way on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);
    /// The largest quantity.
    pub const MAX: Quantity = Quantity(QUANTITY_UNITS_MAX);

    /// Reads a quantity from its digits, which are written as those of [`Amount::parse`].
    ///
    /// `excess` is about decimals that no currency has, those behind the fourth.
    ///
    /// # Errors
    /// Says what is wrong with the text; see [`AmountError`].
    pub fn parse(text: &str, excess: ExcessDecimals) -> Result<Quantity, AmountError> {
        read_units(text, QUANTITY_DECIMALS, excess, QUANTITY_UNITS_MAX).map(Quantity)
    }

    /// The quantity that is this amount of `currency`.
    pub const fn of(amount: Amount, currency: Currency) -> Quantity {
        Quantity(amount.minor_units() * units_in_one(QUANTITY_DECIMALS - currency.scale()))
    }

    /// The quantity as an amount of `currency`. Never rounds.
    ///
    /// # Errors
    /// [`AmountError::TooManyDecimals`] if it has decimals that the currency has not and that are not zero,
    /// [`AmountError::TooLarge`] if it is out of the range of an amount.
    pub fn to_amount(self, currency: Currency) -> Result<Amount, AmountError> {
        let unit = units_in_one(QUANTITY_DECIMALS - currency.scale());
        // Nearly every one fits a register, where dividing takes a fraction of what it takes for two.
        let (units, rest) = match (i64::try_from(self.0), i64::try_from(unit)) {
            (Ok(all), Ok(unit)) => (i128::from(all / unit), i128::from(all % unit)),
            _ => (self.0 / unit, self.0 % unit),
        };
        if rest != 0 {
            return Err(AmountError::TooManyDecimals { scale: currency.scale() });
        }
        Amount::from_minor_units(units).ok_or(AmountError::TooLarge)
    }

    /// The quantity with the decimals behind the first `decimals` cut off: 12.349 with two is 12.34, -12.349 is
    /// -12.34. The wire of version 1 cuts to two.
    pub fn truncated(self, decimals: u8) -> Quantity {
        let unit = units_in_one(QUANTITY_DECIMALS.saturating_sub(decimals));
        Quantity(self.0 - self.0 % unit)
    }

    /// Compares the quantity with an amount of `currency`, whatever decimals it has.
    pub fn cmp_amount(self, amount: Amount, currency: Currency) -> Ordering {
        self.0.cmp(&(amount.minor_units() * units_in_one(QUANTITY_DECIMALS - currency.scale())))
    }

    /// The quantity as a whole number of major units, if it is one.
    pub const fn whole(self) -> Option<i128> {
        let unit = units_in_one(QUANTITY_DECIMALS);
        if self.0 % unit == 0 { Some(self.0 / unit) } else { None }
    }

    /// The same quantity with the other sign. The range is symmetric, so this cannot leave it.
    #[must_use]
    pub const fn negated(self) -> Quantity {
        Quantity(-self.0)
    }

    /// The quantity's text with `decimals_min` decimals, at most four, or as many more as it needs: with two, 12.3 is
    /// 12.30 and 12.345 is 12.345.
    pub fn text(self, decimals_min: u8) -> UnitsText {
        QuantityTotal::from(self).text(decimals_min)
    }

    /// The quantity without its sign.
    pub const fn magnitude(self) -> Quantity {
        Quantity(self.0.abs())
    }

    /// Whether this is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }
}

/// A sum of quantities. Wider than a [`Quantity`]: more may come and go than is ever there. A thousand million of the largest
/// ones are in its range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantityTotal(i128);

impl QuantityTotal {
    /// Adds a quantity.
    pub fn add(&mut self, quantity: Quantity) {
        self.0 += quantity.0;
    }

    /// The sum's text, with decimals as [`Quantity::text`] has them.
    pub fn text(self, decimals_min: u8) -> UnitsText {
        let (mut units, mut decimals) = (self.0, QUANTITY_DECIMALS);
        while decimals > decimals_min && units % 10 == 0 {
            units /= 10;
            decimals -= 1;
        }
        UnitsText::new(units, decimals)
    }
}

impl From<Quantity> for QuantityTotal {
    fn from(quantity: Quantity) -> QuantityTotal {
        QuantityTotal(quantity.0)
    }
}

/// The largest total in minor units, either sign: four thousand million accounts at the end of their range in each of
/// a thousand shards. Sums of a few totals are still far from the end of `i128`.
const TOTAL_UNITS_MAX: i128 = MINOR_UNITS_MAX << (32 + 10);

/// A sum of amounts, in minor units. Wider than an [`Amount`]: the parts of a sum that is zero need not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total(i128);

impl Total {
    /// The total of so many minor units, if amounts can add up to it.
    pub const fn from_minor_units(minor_units: i128) -> Option<Total> {
        if minor_units >= -TOTAL_UNITS_MAX && minor_units <= TOTAL_UNITS_MAX {
            Some(Total(minor_units))
        } else {
            None
        }
    }

    /// The count of minor units.
    pub const fn minor_units(self) -> i128 {
        self.0
    }

    /// Adds an amount. Four thousand million accounts at the end of the range are far from the end of `i128`,
    /// and a thousand shards of them still are.
    pub fn add(&mut self, amount: Amount) {
        self.0 += amount.minor_units();
    }

    /// Adds another sum.
    pub fn add_total(&mut self, other: Total) {
        self.0 += other.0;
    }

    /// The same sum with the other sign.
    #[must_use]
    pub fn negated(self) -> Total {
        Total(-self.0)
    }

    /// Whether the sum is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum's text with the currency's number of decimals.
    pub fn to_text(self, currency: Currency) -> String {
        UnitsText::new(self.0, currency.scale()).to_string()
    }
}

/// What to do with decimals that the currency (before it is known: every currency) does not have.
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
        /// The currency's number of decimals; the most that any has while the currency is not known.
        scale: u8,
    },
    /// Outside the range of [`Amount`], or of [`Quantity`], where no currency has such an amount.
    #[error("is out of range: at most 10^25 minor units")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::cases::cases;

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
        for currency in Currency::ALL {
            for amount in [Amount::MAX, Amount::MAX.negated(), Amount::ZERO] {
                let text = amount.text(*currency);
                let text = text.as_str();
                assert_eq!(Amount::parse(text, *currency, ExcessDecimals::Refuse), Ok(amount), "{text}");
                let quantity =
                    Quantity::parse(text, ExcessDecimals::Refuse).expect("an amount of some currency");
                assert_eq!(quantity.to_amount(*currency), Ok(amount), "{text}");
            }
        }
        assert_eq!(Amount::MAX.checked_add(Amount::new(1)), None);
        assert_eq!(Amount::MAX.negated().checked_sub(Amount::new(1)), None);
    }

    #[test]
    fn text_has_the_decimals_of_the_currency() {
        for (units, code, expected) in [
            (1234, "USD", "12.34"),
            (-5, "USD", "-0.05"),
            (1000, "USD", "10.00"),
            (0, "JPY", "0"),
            (-50, "JPY", "-50"),
            (1234, "KWD", "1.234"),
            (-1, "CLF", "-0.0001"),
        ] {
            assert_eq!(Amount::new(units).text(currency(code)).as_str(), expected);
            assert_eq!(Total(units).to_text(currency(code)), expected);
        }
        assert_eq!(Total(i128::MIN).to_text(currency("USD")), "-1701411834604692317316873037158841057.28");
    }

    #[test]
    fn a_quantity_adds_up_and_prints_with_as_many_decimals_as_it_needs() {
        let quantity = |text| Quantity::parse(text, ExcessDecimals::Refuse).expect("valid");
        for (text, decimals_min, printed) in [
            ("12.3", 2, "12.30"),
            ("12.345", 2, "12.345"),
            ("-0.5", 0, "-0.5"),
            ("100", 0, "100"),
            ("0", 2, "0.00"),
            ("1.0000", 4, "1.0000"),
        ] {
            assert_eq!(quantity(text).text(decimals_min).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn a_quantity_becomes_an_amount_where_the_currency_has_its_decimals() {
        let amount = |text: &str, code: &str| {
            let quantity = Quantity::parse(text, ExcessDecimals::Refuse)?;
            quantity.to_amount(currency(code)).map(Amount::minor_units)
        };
        let too_many = |scale| Err(AmountError::TooManyDecimals { scale });
        for (text, [yen, cents, fils, units]) in [
            ("12", [Ok(12), Ok(1200), Ok(12_000), Ok(120_000)]),
            ("12.0000000", [Ok(12), Ok(1200), Ok(12_000), Ok(120_000)]),
            ("-12.34", [too_many(0), Ok(-1234), Ok(-12_340), Ok(-123_400)]),
            ("0.001", [too_many(0), too_many(2), Ok(1), Ok(10)]),
            ("1e-4", [too_many(0), too_many(2), too_many(3), Ok(1)]),
            ("1e-5", [too_many(4); 4]),
            (
                "1e25",
                [
                    Ok(10i128.pow(25)),
                    Err(AmountError::TooLarge),
                    Err(AmountError::TooLarge),
                    Err(AmountError::TooLarge),
                ],
            ),
            ("10000000000000000000000000.0001", [Err(AmountError::TooLarge); 4]),
        ] {
            assert_eq!(
                [amount(text, "JPY"), amount(text, "USD"), amount(text, "KWD"), amount(text, "CLF")],
                [yen, cents, fils, units],
                "{text}"
            );
        }
    }

    #[test]
    fn cutting_a_quantity_goes_towards_zero() {
        let quantity = |text: &str| Quantity::parse(text, ExcessDecimals::Truncate).expect("a quantity");
        assert_eq!(quantity("12.34999").truncated(2), quantity("12.34"));
        assert_eq!(quantity("-12.34999").truncated(2), quantity("-12.34"));
        assert_eq!(quantity("-0.9").truncated(0), Quantity::ZERO);
        for decimals in [4, 5, u8::MAX] {
            assert_eq!(quantity("1.23456").truncated(decimals), quantity("1.2345"));
        }
        assert_eq!(quantity("-0.5").magnitude(), quantity("0.5"));
        assert!(quantity("0.0001").is_positive());
        assert!(!quantity("0.00001").is_positive() && !quantity("-1").is_positive());
    }

    #[test]
    fn an_exponent_of_thousands_of_millions_is_judged_at_once() {
        for (text, result) in [
            ("0e2147483647", Ok(0)),
            ("1e2147483647", Err(AmountError::TooLarge)),
            ("1e-2147483648", Err(AmountError::TooManyDecimals { scale: 2 })),
            ("1e99999999999999999999", Err(AmountError::TooLarge)),
        ] {
            assert_eq!(cents(text, ExcessDecimals::Refuse), result, "{text}");
        }
    }

    fn currency(code: &str) -> Currency {
        Currency::from_code(code.as_bytes()).expect("a currency")
    }

    fn any_currency() -> impl Strategy<Value = Currency> {
        // Every scale as often as the others, although nearly all currencies have two decimals.
        prop_oneof![Just("JPY"), Just("USD"), Just("KWD"), Just("CLF")].prop_map(currency)
    }

    fn any_excess() -> impl Strategy<Value = ExcessDecimals> {
        prop_oneof![Just(ExcessDecimals::Truncate), Just(ExcessDecimals::Refuse)]
    }

    /// Counts of every length, not only those near the end of the range, where a plain choice nearly always falls.
    fn any_amount() -> impl Strategy<Value = Amount> {
        (0..=25u32, -MINOR_UNITS_MAX..=MINOR_UNITS_MAX)
            .prop_map(|(cut, units)| Amount::new(units / 10i128.pow(cut)))
    }

    /// Reads as `rust_decimal` does, which is exact up to 28 digits.
    fn measure(text: &str, decimals: u8, excess: ExcessDecimals) -> Result<i128, AmountError> {
        let exact =
            Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text)).expect("a number");
        let mut cut = exact.trunc_with_scale(u32::from(decimals));
        if excess == ExcessDecimals::Refuse && cut != exact {
            return Err(AmountError::TooManyDecimals { scale: decimals });
        }
        cut.rescale(u32::from(decimals));
        assert_eq!(cut.scale(), u32::from(decimals), "the measure is too short for {text}");
        Ok(cut.mantissa())
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn every_amount_prints_as_a_decimal_does_and_is_read_back(
            amount in any_amount(),
            currency in any_currency(),
            excess in any_excess(),
        ) {
            let text = amount.text(currency).to_string();
            prop_assert_eq!(&text, &amount.to_decimal(currency).to_string());
            prop_assert_eq!(&text, &Total(amount.minor_units()).to_text(currency));
            prop_assert_eq!(Amount::parse(&text, currency, excess), Ok(amount));
            let quantity = Quantity::parse(&text, excess);
            prop_assert_eq!(quantity.and_then(|quantity| quantity.to_amount(currency)), Ok(amount));
        }

        /// Up to 14 characters take the short way, longer ones and those with more decimals the long one, and an
        /// exponent of zero makes any text take the long one: all three agree.
        #[test]
        fn digits_are_read_as_a_decimal_reads_them(
            text in "-?[0-9]{1,16}(\\.[0-9]{1,8})?",
            currency in any_currency(),
            excess in any_excess(),
        ) {
            let expected = measure(&text, currency.scale(), excess);
            let units = |text: &str| Amount::parse(text, currency, excess).map(Amount::minor_units);
            prop_assert_eq!(units(&text), expected);
            prop_assert_eq!(units(&format!("{text}e0")), expected);
            let quantity = |text: &str| Quantity::parse(text, excess).map(|quantity| quantity.0);
            let expected = measure(&text, QUANTITY_DECIMALS, excess);
            prop_assert_eq!(quantity(&text), expected);
            prop_assert_eq!(quantity(&format!("{text}e0")), expected);
        }

        #[test]
        fn an_exponent_moves_the_point(
            digits in "-?[0-9]{1,6}(\\.[0-9]{1,6})?",
            exponent in -12..=12i32,
            currency in any_currency(),
            excess in any_excess(),
        ) {
            let text = format!("{digits}e{exponent}");
            let units = Amount::parse(&text, currency, excess).map(Amount::minor_units);
            prop_assert_eq!(units, measure(&text, currency.scale(), excess));
        }

        #[test]
        fn by_way_of_a_quantity_or_at_once_is_the_same(
            text in "-?[0-9]{1,30}(\\.[0-9]{1,8})?(e-?[0-9])?",
            currency in any_currency(),
        ) {
            let at_once = Amount::parse(&text, currency, ExcessDecimals::Refuse);
            let quantity = Quantity::parse(&text, ExcessDecimals::Refuse);
            prop_assert_eq!(quantity.and_then(|quantity| quantity.to_amount(currency)).ok(), at_once.ok());
            let at_once = Amount::parse(&text, currency, ExcessDecimals::Truncate);
            let cut = Quantity::parse(&text, ExcessDecimals::Truncate)
                .and_then(|quantity| quantity.truncated(currency.scale()).to_amount(currency));
            prop_assert_eq!(cut, at_once);
        }
    }
}
