//! The JSON of both versions: what is read from bodies, what is written into them.
//!
//! Reading is strict and tells all that is wrong at once, each with the pointer to its field. It is done by hand
//! over [`RawValue`]s, because a derived reader stops at the first error, does not say where it is, and would
//! turn an amount into a float on the way. Nothing recurses: serde_json passes over a raw value with a loop, so
//! the depth of a hostile body is no more than its length.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, Object, Rfc3339};
use super::problem::{Code, FieldError, Place, Problem};
use crate::bank::{OpenedAccount, Transaction};
use crate::ledger::{AccountName, Amount, Currency, Direction, ExcessDecimals};
use crate::shard::batch::{AccountView, TrialBalance};

/// The longest unknown field name that an error repeats, in bytes.
const FIELD_NAME_SHOWN_BYTES_MAX: usize = 64;

/// A version of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The original service's: amounts are numbers, extra decimals are cut off, times are Unix seconds.
    One,
    /// Amounts are text and exact, times are RFC 3339.
    Two,
}

/// What opens an account.
#[derive(Debug, PartialEq)]
pub(super) struct OpenAccount {
    pub(super) name: AccountName,
    pub(super) overdraft_limit: Option<Amount>,
}

impl OpenAccount {
    /// Reads `{"name"}`, and in version 2 `{"name", "overdraft_limit"?}`.
    pub(super) fn parse(body: &[u8], version: Version) -> Result<OpenAccount, Problem> {
        match version {
            Version::One => {
                let mut fields = Fields::parse(body, &["name"])?;
                let name = fields.required(0, parse_name);
                fields.finish()?;
                Ok(OpenAccount {
                    name: name.expect("a field that is not there is an error"),
                    overdraft_limit: None,
                })
            }
            Version::Two => {
                let mut fields = Fields::parse(body, &["name", "overdraft_limit"])?;
                let name = fields.required(0, parse_name);
                let overdraft_limit = fields.optional(1, parse_overdraft_limit);
                fields.finish()?;
                Ok(OpenAccount {
                    name: name.expect("a field that is not there is an error"),
                    overdraft_limit,
                })
            }
        }
    }
}

/// Reads `{"amount"}` of version 1: positive once its extra decimals are cut off.
pub(super) fn parse_posting(body: &[u8]) -> Result<Amount, Problem> {
    let mut fields = Fields::parse(body, &["amount"])?;
    let amount = fields.required(0, parse_amount_v1);
    fields.finish()?;
    Ok(amount.expect("a field that is not there is an error"))
}

type Parsed<T> = Result<T, Cow<'static, str>>;

fn parse_name(raw: &str) -> Parsed<AccountName> {
    AccountName::parse(&parse_text(raw)?).map_err(|error| error.to_string().into())
}

fn parse_amount_v1(raw: &str) -> Parsed<Amount> {
    let digits = match raw.as_bytes().first() {
        Some(b'"') => parse_text(raw)?,
        Some(b'-' | b'0'..=b'9') => Cow::Borrowed(raw),
        _ => return Err(format!("must be a number, not {}", kind(raw)).into()),
    };
    let amount =
        Amount::parse(&digits, Currency::USD, ExcessDecimals::Truncate).map_err(|error| error.to_string())?;
    if !amount.is_positive() {
        return Err("must be more than zero once it is cut to two decimals".into());
    }
    Ok(amount)
}

fn parse_overdraft_limit(raw: &str) -> Parsed<Amount> {
    let limit = Amount::parse(&parse_text(raw)?, Currency::USD, ExcessDecimals::Refuse)
        .map_err(|error| error.to_string())?;
    if limit < Amount::ZERO {
        return Err("must not be negative".into());
    }
    Ok(limit)
}

fn parse_text(raw: &str) -> Parsed<Cow<'_, str>> {
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
fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The fields of an object, unread, and what was found wrong with them so far.
struct Fields<'a, const N: usize> {
    names: &'static [&'static str; N],
    values: [Option<&'a RawValue>; N],
    errors: Vec<FieldError>,
}

impl<'a, const N: usize> Fields<'a, N> {
    /// Takes an object apart into the fields with these names.
    fn parse(body: &'a [u8], names: &'static [&'static str; N]) -> Result<Fields<'a, N>, Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            malformed(format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))
        })?;
        let trimmed = text.trim_start_matches([' ', '\t', '\r', '\n']);
        if trimmed.is_empty() {
            return Err(malformed("the body is empty; a JSON object is needed".to_owned()));
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let mut fields = Fields { names, values: [None; N], errors: Vec::new() };
        if !trimmed.starts_with('{') {
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(error.to_string()))?;
            fields.error(Cow::Borrowed(""), format!("must be an object, not {}", kind(trimmed)).into());
            return Err(Problem::with_errors(Code::InvalidRequest, fields.errors));
        }
        FieldsVisitor { fields: &mut fields }
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|error| malformed(error.to_string()))?;
        Ok(fields)
    }

    fn required<T>(&mut self, index: usize, parse: impl FnOnce(&'a str) -> Parsed<T>) -> Option<T> {
        if self.values[index].is_none() {
            self.error(self.pointer(index), "is missing".into());
        }
        self.optional(index, parse)
    }

    fn optional<T>(&mut self, index: usize, parse: impl FnOnce(&'a str) -> Parsed<T>) -> Option<T> {
        match parse(self.values[index]?.get()) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.error(self.pointer(index), detail);
                None
            }
        }
    }

    fn pointer(&self, index: usize) -> Cow<'static, str> {
        format!("/{}", self.names[index]).into()
    }

    fn error(&mut self, pointer: Cow<'static, str>, detail: Cow<'static, str>) {
        let place = Place::Pointer(pointer);
        self.errors.push(FieldError { place, detail });
    }

    fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(Problem::with_errors(Code::InvalidRequest, self.errors))
    }
}

fn malformed(detail: String) -> Problem {
    Problem::new(Code::MalformedJson, detail)
}

struct FieldsVisitor<'f, 'a, const N: usize> {
    fields: &'f mut Fields<'a, N>,
}

impl<'a, const N: usize> DeserializeSeed<'a> for FieldsVisitor<'_, 'a, N> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a, const N: usize> Visitor<'a> for FieldsVisitor<'_, 'a, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.fields;
        while let Some(field) = map.next_key_seed(FieldName(fields.names))? {
            let value: &'a RawValue = map.next_value()?;
            match field {
                Field::Known(index) if fields.values[index].is_none() => {
                    fields.values[index] = Some(value);
                }
                Field::Known(index) => {
                    fields.error(fields.pointer(index), "stands there more than once".into());
                }
                Field::Unknown(name) if name.len() > FIELD_NAME_SHOWN_BYTES_MAX => {
                    let detail = format!("has an unknown field with a name of {} bytes", name.len());
                    fields.error(Cow::Borrowed(""), detail.into());
                }
                Field::Unknown(name) => {
                    // RFC 6901: the two characters that mean something in a pointer are escaped.
                    let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                    let known = fields.names.join(", ");
                    fields.error(pointer.into(), format!("is unknown; known are: {known}").into());
                }
            }
        }
        Ok(())
    }
}

/// Tells the known names of fields from others, without a copy of the known.
struct FieldName<'n>(&'n [&'static str]);

enum Field {
    Known(usize),
    Unknown(String),
}

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Field;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match self.0.iter().position(|known| *known == name) {
            Some(index) => Field::Known(index),
            None => Field::Unknown(name.to_owned()),
        })
    }
}

/// Writes the account of version 1.
pub(super) fn account_v1(out: &mut Vec<u8>, account: &AccountView) {
    let mut object = Object::begin(out);
    object.id("id", account.id.to_uuid());
    object.text("name", &account.name);
    object.amount_number("balance", account.posted, account.currency);
    object.plain("created", account.opened.seconds());
    object.plain("updated", account.updated.seconds());
    object.plain("isDeleted", account.closed.is_some());
    match account.closed {
        Some(closed) => object.plain("deleted", closed.seconds()),
        None => object.null("deleted"),
    }
    object.end();
}

/// Writes the account of version 1 as its opening made it.
pub(super) fn opened_v1(out: &mut Vec<u8>, account: &OpenedAccount) {
    let mut object = Object::begin(out);
    object.id("id", account.id.to_uuid());
    object.text("name", &account.name);
    object.amount_number("balance", Amount::ZERO, Currency::USD);
    object.plain("created", account.id.opened.seconds());
    object.plain("updated", account.id.opened.seconds());
    object.plain("isDeleted", false);
    object.null("deleted");
    object.end();
}

/// Writes the account of version 2.
pub(super) fn account_v2(out: &mut Vec<u8>, account: &AccountView) {
    let mut object = Object::begin(out);
    object.id("id", account.id.to_uuid());
    object.text("name", &account.name);
    object.quoted("currency", account.currency);
    object.amount_text("posted", account.posted, account.currency);
    object.amount_text("available", account.available, account.currency);
    object.amount_text("overdraft_limit", account.overdraft_limit, account.currency);
    object.plain("version", account.version);
    object.quoted("created", Rfc3339(account.opened));
    object.quoted("updated", Rfc3339(account.updated));
    match account.closed {
        Some(closed) => object.quoted("closed", Rfc3339(closed)),
        None => object.null("closed"),
    }
    object.end();
}

/// Writes the account of version 2 as its opening made it. What an account at zero has available is its
/// overdraft limit.
pub(super) fn opened_v2(out: &mut Vec<u8>, account: &OpenedAccount) {
    let currency = Currency::USD;
    let mut object = Object::begin(out);
    object.id("id", account.id.to_uuid());
    object.text("name", &account.name);
    object.quoted("currency", currency);
    object.amount_text("posted", Amount::ZERO, currency);
    object.amount_text("available", account.overdraft_limit, currency);
    object.amount_text("overdraft_limit", account.overdraft_limit, currency);
    object.plain("version", 1);
    object.quoted("created", Rfc3339(account.id.opened));
    object.quoted("updated", Rfc3339(account.id.opened));
    object.null("closed");
    object.end();
}

/// Writes the transaction of version 1. `account` is the name of its account.
pub(super) fn transaction_v1(
    out: &mut Vec<u8>,
    transaction: &Transaction,
    account: &str,
    currency: Currency,
) {
    let mut object = Object::begin(out);
    object.id("id", transaction.id.to_uuid());
    object.text("account", account);
    object.quoted(
        "type",
        match transaction.direction {
            Direction::Deposit => "DEPOSIT",
            Direction::Withdrawal => "WITHDRAWAL",
        },
    );
    let signed = transaction.direction.signed(transaction.amount);
    object.amount_number("amount", signed, currency);
    object.amount_number("balance", transaction.balance, currency);
    object.plain("created", transaction.created().seconds());
    object.end();
}

/// Writes a page of an account's transactions in version 2.
pub(super) fn page_v2(
    out: &mut Vec<u8>,
    account: &AccountView,
    transactions: &[Transaction],
    next: Option<&str>,
) {
    let mut page = Object::begin(out);
    page.plain("count", transactions.len());
    json::array(page.key("items"), transactions, |out, transaction| {
        transaction_v2(out, transaction, account);
    });
    match next {
        Some(cursor) => page.quoted("next", cursor),
        None => page.null("next"),
    }
    page.end();
}

fn transaction_v2(out: &mut Vec<u8>, transaction: &Transaction, account: &AccountView) {
    let mut object = Object::begin(out);
    object.id("id", transaction.id.to_uuid());
    object.id("account_id", account.id.to_uuid());
    object.quoted(
        "type",
        match transaction.direction {
            Direction::Deposit => "deposit",
            Direction::Withdrawal => "withdrawal",
        },
    );
    let signed = transaction.direction.signed(transaction.amount);
    object.amount_text("amount", signed, account.currency);
    object.amount_text("balance", transaction.balance, account.currency);
    object.plain("version", transaction.version);
    object.quoted("created", Rfc3339(transaction.created()));
    object.end();
}

/// Writes the trial balance.
pub(super) fn trial_balance(out: &mut Vec<u8>, balance: &TrialBalance) {
    let mut object = Object::begin(out);
    object.plain("balanced", balance.lines.values().all(|line| line.sum().is_zero()));
    json::array(object.key("currencies"), &balance.lines, |out, (currency, line)| {
        let mut item = Object::begin(out);
        item.quoted("currency", *currency);
        item.plain("accounts", line.accounts);
        item.text("credit", &line.credit.to_text(*currency));
        item.text("debit", &line.debit.to_text(*currency));
        item.text("world", &line.world.to_text(*currency));
        item.text("sum", &line.sum().to_text(*currency));
        item.end();
    });
    object.end();
}

/// Writes `{"status": status}`.
pub(super) fn status(out: &mut Vec<u8>, status: &'static str) {
    let mut object = Object::begin(out);
    object.quoted("status", status);
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountId, AccountNumber, Sequence, ShardId, Timestamp, TransactionId};
    use serde_json::{Value, json};

    /// The code and the errors' pointers and details.
    fn refusal<T: fmt::Debug>(result: Result<T, Problem>) -> (String, Value) {
        let problem = result.expect_err("a refusal");
        let body: Value = serde_json::from_slice(&problem.body(Version::One, "r")).unwrap();
        (
            body["code"].as_str().unwrap().to_owned(),
            body.get("errors").cloned().unwrap_or_else(|| body["detail"].clone()),
        )
    }

    fn cents(minor_units: i128) -> Amount {
        Amount::from_minor_units(minor_units).unwrap()
    }

    #[test]
    fn amounts_are_read_from_their_digits() {
        for (body, expected) in [
            (r#"{"amount":12.3}"#, 1230),
            (r#"{"amount":12.349}"#, 1234),
            (r#"{"amount":"12.349"}"#, 1234),
            (r#"{"amount":1e2}"#, 10_000),
            (r#"{"amount":0.29}"#, 29),
            (r#" {"\u0061mount" : 1 } "#, 100),
            (r#"{"amount":"\u0031"}"#, 100),
            // Beyond what a double tells apart.
            (r#"{"amount":90071992547409.93}"#, 9_007_199_254_740_993),
        ] {
            assert_eq!(parse_posting(body.as_bytes()).unwrap(), cents(expected), "{body}");
        }
    }

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let body = br#"{"overdraft_limit": -1, "x/y~z": 1, "name": "a\nb", "name": "c"}"#;
        assert_eq!(
            refusal(OpenAccount::parse(body, Version::Two)),
            (
                "invalid-request".into(),
                json!([
                    {"pointer": "/x~1y~0z", "detail": "is unknown; known are: name, overdraft_limit"},
                    {"pointer": "/name", "detail": "stands there more than once"},
                    {"pointer": "/name", "detail": "must not contain control characters"},
                    {"pointer": "/overdraft_limit", "detail": "must be a string, not a number"},
                ])
            )
        );
        assert_eq!(
            refusal(OpenAccount::parse(b"{}", Version::One)).1,
            json!([{"pointer": "/name", "detail": "is missing"}])
        );
    }

    #[test]
    fn what_is_not_an_object_says_what_it_is() {
        for (body, detail) in [
            ("null", "must be an object, not null"),
            ("[]", "must be an object, not an array"),
            ("1", "must be an object, not a number"),
            ("\"x\"", "must be an object, not a string"),
            ("true", "must be an object, not a boolean"),
        ] {
            assert_eq!(
                refusal(parse_posting(body.as_bytes())),
                ("invalid-request".into(), json!([{"pointer": "", "detail": detail}]))
            );
        }
    }

    #[test]
    fn what_is_not_json_says_where() {
        for (body, detail) in [
            (&b""[..], "the body is empty; a JSON object is needed"),
            (b" \n", "the body is empty; a JSON object is needed"),
            (b"{\"amount\":NaN}", "expected value at line 1 column 11"),
            (b"{\"amount\":1", "EOF while parsing an object at line 1 column 11"),
            (b"{\"amount\":1}\n}", "trailing characters at line 2 column 1"),
            (b"{\"amount\":01}", "invalid number at line 1 column 12"),
            (b"\xff", "the body is not UTF-8 from byte 0 on"),
        ] {
            assert_eq!(refusal(parse_posting(body)), ("malformed-json".into(), json!(detail)), "{body:?}");
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{{\"amount\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
        assert_eq!(
            refusal(parse_posting(deep.as_bytes())).1,
            json!([{"pointer": "/amount", "detail": "must be a number, not an array"}])
        );
        let open = "[".repeat(65_000);
        assert_eq!(refusal(parse_posting(open.as_bytes())).0, "malformed-json");
    }

    #[test]
    fn a_limit_is_exact_text() {
        let parse = |limit: &str| {
            let body = format!("{{\"name\":\"a\",\"overdraft_limit\":{limit}}}");
            OpenAccount::parse(body.as_bytes(), Version::Two).map(|open| open.overdraft_limit)
        };
        assert_eq!(parse("\"0\"").unwrap(), Some(Amount::ZERO));
        assert_eq!(parse("\"12.30\"").unwrap(), Some(cents(1230)));
        for bad in ["\"-0.01\"", "\"12.345\"", "12", "null", "\"\"", "\"NaN\"", "\"\\ud800\""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resources_are_written_as_promised() {
        let opened = Timestamp::from_millis(1_700_000_000_123);
        let shard = ShardId::new(3).unwrap();
        let mut account = AccountView {
            id: AccountId { opened, shard, number: AccountNumber::new(5) },
            name: AccountName::parse("Zoë \"Z\"").unwrap(),
            currency: Currency::USD,
            posted: cents(-1230),
            available: cents(3770),
            overdraft_limit: cents(5000),
            opened,
            updated: Timestamp::from_millis(1_700_000_001_000),
            closed: None,
            version: 4,
            newest: Sequence::FIRST,
        };
        let write = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let id = account.id.to_uuid();
        assert_eq!(
            write(&|out| account_v1(out, &account)),
            format!(
                r#"{{"id":"{id}","name":"Zoë \"Z\"","balance":-12.30,"created":1700000000,"updated":1700000001,"isDeleted":false,"deleted":null}}"#
            )
        );
        let transaction = Transaction {
            id: TransactionId { time: opened, shard, sequence: Sequence::FIRST },
            direction: Direction::Withdrawal,
            amount: cents(1000),
            balance: cents(-1230),
            version: 4,
        };
        let transaction_id = transaction.id.to_uuid();
        assert_eq!(
            write(&|out| transaction_v1(out, &transaction, "bob", Currency::USD)),
            format!(
                r#"{{"id":"{transaction_id}","account":"bob","type":"WITHDRAWAL","amount":-10.00,"balance":-12.30,"created":1700000000}}"#
            )
        );
        assert_eq!(
            write(&|out| page_v2(out, &account, std::slice::from_ref(&transaction), Some("abc"))),
            format!(
                r#"{{"count":1,"items":[{{"id":"{transaction_id}","account_id":"{id}","type":"withdrawal","amount":"-10.00","balance":"-12.30","version":4,"created":"2023-11-14T22:13:20.123Z"}}],"next":"abc"}}"#
            )
        );
        account.closed = Some(account.updated);
        assert!(
            write(&|out| account_v1(out, &account)).ends_with(r#""isDeleted":true,"deleted":1700000001}"#)
        );
        assert_eq!(
            write(&|out| account_v2(out, &account)),
            format!(
                r#"{{"id":"{id}","name":"Zoë \"Z\"","currency":"USD","posted":"-12.30","available":"37.70","overdraft_limit":"50.00","version":4,"created":"2023-11-14T22:13:20.123Z","updated":"2023-11-14T22:13:21.000Z","closed":"2023-11-14T22:13:21.000Z"}}"#
            )
        );
    }
}
