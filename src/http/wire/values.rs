//! The single values that requests are made of: names, references, amounts.
//!
//! Each is read and described side by side, so that the document says what the reader takes.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::read::{Parsed, ReadScalar, kind, parse_text};
use super::schema::{Describe, Schemas, with_meaning};
use super::write::{self, UUID_PATTERN};
use crate::bank::AccountSelector;
use crate::http::query::Parameter;
use crate::ledger::{
    AccountId, AccountName, AmountError, Currency, ExcessDecimals, IdError, NAME_BYTES_MAX, NameError,
    Quantity,
};

/// What leads an account reference that is a name and not an id.
pub(in crate::http) const NAME_PREFIX: &str = "name:";

impl Describe for AccountName {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("AccountName", |_| name_schema("", "alice"))
    }
}

/// A name behind a prefix.
fn name_schema(prefix: &str, example: &str) -> Value {
    let mut schema = text_schema(prefix, 1, NAME_BYTES_MAX);
    schema["examples"] = json!([format!("{prefix}{example}")]);
    with_meaning(schema, "1 to 255 bytes of UTF-8 without control characters, compared byte for byte.")
}

/// A text of so many bytes without control characters, behind a prefix. JSON Schema counts characters and not bytes:
/// any text of ASCII is allowed up to that number, any other up to a quarter of it, which is what is sure to fit.
pub(in crate::http) fn text_schema(prefix: &str, bytes_min: usize, bytes_max: usize) -> Value {
    let pattern = |characters: &str, count_max: usize| json!({ "type": "string", "pattern": format!("^{prefix}{characters}{{{bytes_min},{count_max}}}$") });
    json!({ "anyOf": [pattern("[ -~]", bytes_max), pattern(r"[^\u0000-\u001f\u007f-\u009f]", bytes_max / 4)] })
}

/// The same text in a reply, where it has to fit whatever it is made of: a byte is a character at the most.
pub(in crate::http) fn kept_text_schema(bytes_min: usize, bytes_max: usize, example: &str) -> Value {
    json!({ "type": "string", "minLength": bytes_min, "maxLength": bytes_max, "examples": [example] })
}

impl ReadScalar for AccountName {
    fn parse(raw: &str) -> Parsed<AccountName> {
        AccountName::parse(&parse_text(raw)?).map_err(|error| error.to_string().into())
    }
}

impl write::Write for AccountName {
    fn write(&self, out: &mut Vec<u8>) {
        write::name(out, self);
    }

    fn describe_field(_: &mut Schemas) -> Value {
        kept_text_schema(1, NAME_BYTES_MAX, "alice")
    }
}

/// Why a text does not refer to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum ReferenceError {
    /// What stands behind the prefix is no name.
    Name(NameError),
    /// Without the prefix it has to be an id, a UUID.
    NotAUuid,
}

impl std::fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReferenceError::Name(error) => write!(f, "{error}"),
            ReferenceError::NotAUuid => {
                write!(f, "{}, nor {NAME_PREFIX} and an account's name", IdError::NotAUuid)
            }
        }
    }
}

/// Reads an account reference: an id, or `name:` and a name. What is a UUID but no account's finds no account.
pub(in crate::http) fn parse_reference(text: &str) -> Result<AccountSelector, ReferenceError> {
    match text.strip_prefix(NAME_PREFIX) {
        Some(name) => AccountName::parse(name).map(AccountSelector::Name).map_err(ReferenceError::Name),
        None => match AccountId::parse(text) {
            Ok(id) => Ok(AccountSelector::Id(id)),
            Err(IdError::Foreign) => Ok(AccountSelector::Id(AccountId::NOBODYS)),
            Err(IdError::NotAUuid) => Err(ReferenceError::NotAUuid),
        },
    }
}

impl Describe for AccountSelector {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("AccountReference", |_| {
            let name = name_schema(NAME_PREFIX, "alice");
            with_meaning(
                json!({
                    "anyOf": [
                        { "type": "string", "format": "uuid", "pattern": UUID_PATTERN },
                        { "anyOf": name["anyOf"] },
                    ],
                    "examples": name["examples"],
                }),
                "An account's id, or `name:` and its name. By name it finds open accounts only.",
            )
        })
    }
}

impl ReadScalar for AccountSelector {
    fn parse(raw: &str) -> Parsed<AccountSelector> {
        parse_reference(&parse_text(raw)?).map_err(|error| error.to_string().into())
    }
}

/// An amount of version 1: a number, or its digits as a text; positive once its extra decimals are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct AmountNumber(pub(in crate::http) Quantity);

impl Describe for AmountNumber {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("AmountNumber", |_| {
            with_meaning(
                json!({
                    "anyOf": [
                        { "type": "number", "minimum": 0.01, "maximum": 1e23 },
                        {
                            "type": "string",
                            "pattern": r"^([1-9][0-9]{0,22}(\.[0-9]{1,30})?|0\.(0[1-9]|[1-9][0-9]?)[0-9]{0,30})$",
                        },
                    ],
                    "examples": [12.34],
                }),
                "An amount of money, more than zero. Its digits are read as they are written; those behind the \
                 second decimal are cut off.",
            )
        })
    }
}

impl ReadScalar for AmountNumber {
    fn parse(raw: &str) -> Parsed<AmountNumber> {
        let digits = match raw.as_bytes().first() {
            Some(b'"') => parse_text(raw)?,
            Some(b'-' | b'0'..=b'9') => Cow::Borrowed(raw),
            _ => return Err(format!("must be a number, not {}", kind(raw)).into()),
        };
        let amount = Quantity::parse(&digits, ExcessDecimals::Truncate)
            .map_err(|error| error.to_string())?
            .truncated(DECIMALS_V1);
        if !amount.is_positive() {
            return Err("must be more than zero once it is cut to two decimals".into());
        }
        Ok(AmountNumber(amount))
    }
}

/// An amount of version 2: text, exact, more than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct AmountText(pub(in crate::http) Quantity);

impl Describe for AmountText {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Amount", |_| {
            with_meaning(
                json!({
                    "type": "string",
                    "pattern": r"^([1-9][0-9]{0,20}(\.[0-9]{1,4})?|0\.(0{0,3}[1-9]|0{0,2}[1-9][0-9]|0?[1-9][0-9]{2}|[1-9][0-9]{3}))$",
                    "examples": ["12.34"],
                }),
                "An amount of money, more than zero, with no more decimals than the currency has.",
            )
        })
    }
}

impl ReadScalar for AmountText {
    fn parse(raw: &str) -> Parsed<AmountText> {
        let amount = parse_exact(raw)?;
        if !amount.is_positive() {
            return Err("must be more than zero".into());
        }
        Ok(AmountText(amount))
    }
}

/// An overdraft limit: text, exact, zero or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct LimitText(pub(in crate::http) Quantity);

impl Describe for LimitText {
    fn describe(schemas: &mut Schemas) -> Value {
        schemas.named::<Self>("Limit", |_| {
            with_meaning(
                json!({
                    "type": "string",
                    "pattern": r"^(0|[1-9][0-9]{0,20})(\.[0-9]{1,4})?$",
                    "examples": ["50.00"],
                }),
                "An amount of money, zero or more, with no more decimals than the currency has.",
            )
        })
    }
}

impl ReadScalar for LimitText {
    fn parse(raw: &str) -> Parsed<LimitText> {
        not_negative(parse_exact(raw)?)
    }
}

/// Reads a whole number within these bounds. As in JSON Schema, 7.0 is one.
pub(super) fn parse_whole(raw: &str, min: u64, max: u64) -> Option<u64> {
    let is_number = raw.starts_with(|first: char| first.is_ascii_digit());
    let number = if raw.bytes().all(|byte| byte.is_ascii_digit()) {
        raw.parse().ok()
    } else {
        let exact = is_number.then(|| Quantity::parse(raw, ExcessDecimals::Refuse).ok());
        exact.flatten().and_then(Quantity::whole).and_then(|number| number.try_into().ok())
    };
    number.filter(|number| (min..=max).contains(number))
}

/// True or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Flag(pub(in crate::http) bool);

impl Describe for Flag {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "boolean" })
    }
}

impl ReadScalar for Flag {
    fn parse(raw: &str) -> Parsed<Flag> {
        match raw {
            "true" => Ok(Flag(true)),
            "false" => Ok(Flag(false)),
            _ => Err(format!("must be true or false, not {}", kind(raw)).into()),
        }
    }
}

impl ReadScalar for Currency {
    fn parse(raw: &str) -> Parsed<Currency> {
        let code = parse_text(raw)?;
        Currency::from_code(code.as_bytes())
            .ok_or_else(|| "is not a currency code of ISO 4217 such as USD".into())
    }
}

impl Parameter for LimitText {
    fn parse(text: &str) -> Parsed<LimitText> {
        not_negative(exact(text)?)
    }
}

fn not_negative(limit: Quantity) -> Parsed<LimitText> {
    if limit < Quantity::ZERO {
        return Err("must not be negative".into());
    }
    Ok(LimitText(limit))
}

/// How many decimals an amount of version 1 has.
const DECIMALS_V1: u8 = 2;

/// Version 2 has one spelling of an amount: no exponent, no leading zeros. Zeros at the end are spelling too. How many
/// decimals it may have is the currency's affair, which only the ledger knows.
pub(super) fn parse_exact(raw: &str) -> Parsed<Quantity> {
    exact(&parse_text(raw)?)
}

fn exact(text: &str) -> Parsed<Quantity> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    if text.contains(['e', 'E']) || (whole.len() > 1 && whole.starts_with('0')) {
        return Err(AmountError::NotANumber.to_string().into());
    }
    let amount = Quantity::parse(text, ExcessDecimals::Refuse).map_err(|error| error.to_string())?;
    let scale = Currency::SCALE_MAX;
    if fraction.len() > usize::from(scale) {
        return Err(AmountError::TooManyDecimals { scale }.to_string().into());
    }
    Ok(amount)
}
