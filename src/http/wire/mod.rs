//! The JSON of both versions: what is read from bodies, what is written into them, and how both are described.
//!
//! `read` and `write` are the mechanisms, each with a macro that declares a struct once: its fields are what is
//! read or written, their doc comments are what the document says (`schema`). `nested` has what holds
//! other values. `values` are the scalars of requests, those of replies are in `write`; then there is a file a
//! resource.

pub(super) mod account_links;
mod accounts;
pub(super) mod batches;
mod changes;
pub(super) mod detail;
pub(super) mod events;
pub(super) mod holds;
pub(super) mod links;
pub(super) mod metadata;
pub(super) mod moments;
mod nested;
pub(super) mod read;
pub(super) mod schema;
mod service;
pub(super) mod statements;
mod transactions;
pub(super) mod transfers;
pub(super) mod values;
pub(super) mod write;

pub(super) use accounts::{
    Account, AccountPage, AccountPatch, AccountV1, AllowanceLeft, AllowanceLeftV1, OpenAccount, OpenAccountV1,
};
pub(super) use service::{Catalog, ProblemList, ProblemPage, Service, Status, TrialBalance};
pub(super) use transactions::{Posting, PostingV1, Transaction, TransactionPage, TransactionV1};

/// A version of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The original service's: amounts are numbers, extra decimals are cut off, times are Unix seconds.
    One,
    /// Amounts are text and exact, times are RFC 3339.
    Two,
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde_json::{Value, json};

    use super::metadata::{Metadata, MetadataKey, MetadataPatch, MetadataValue};
    use super::nested::{List, Patch};
    use super::read::{body, read_body};
    use super::values::AmountText;
    use super::write::Write;
    use super::*;
    use crate::bank::{self, AccountSelector};
    use crate::http::problem::Problem;
    use crate::ledger::{
        AccountId, AccountName, AccountNumber, Allowance, Amount, Currency, Direction,
        ExcessDecimals::Refuse, Quantity, Sequence, ShardId, Timestamp, TransactionId,
    };
    use crate::shard::request::AccountView;

    fn parse_posting(body: &[u8]) -> Result<Quantity, Problem> {
        read_body::<PostingV1>(body).map(|posting| posting.amount.0)
    }

    /// The code and the errors' pointers and details.
    fn refusal<T: fmt::Debug>(result: Result<T, Problem>) -> (String, Value) {
        let problem = result.expect_err("a refusal");
        let body: Value = serde_json::from_slice(&problem.body(Version::One, "r")).unwrap();
        (
            body["code"].as_str().unwrap().to_owned(),
            body.get("errors").cloned().unwrap_or_else(|| body["detail"].clone()),
        )
    }

    fn quantity(cents: i128) -> Quantity {
        Quantity::parse(&Amount::from_minor_units(cents).unwrap().text(Currency::USD).to_string(), Refuse)
            .unwrap()
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
            assert_eq!(parse_posting(body.as_bytes()).unwrap(), quantity(expected), "{body}");
        }
    }

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let body = br#"{"overdraft_limit": -1, "x/y~z": 1, "name": "a\nb", "name": "c"}"#;
        assert_eq!(
            refusal(read_body::<OpenAccount>(body)),
            (
                "invalid-request".into(),
                json!([
                    {"pointer": "/x~1y~0z", "detail": "is unknown; known are: name, currency, overdraft_limit, reference, metadata, unique_reference, velocity_limits"},
                    {"pointer": "/name", "detail": "stands there more than once"},
                    {"pointer": "/name", "detail": "must not contain control characters"},
                    {"pointer": "/overdraft_limit", "detail": "must be a string, not a number"},
                ])
            )
        );
        assert_eq!(
            refusal(read_body::<OpenAccountV1>(b"{}")).1,
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
            read_body::<OpenAccount>(body.as_bytes()).map(|open| open.overdraft_limit.map(|limit| limit.0))
        };
        assert_eq!(parse("\"0\"").unwrap(), Some(Quantity::ZERO));
        assert_eq!(parse("\"12.30\"").unwrap(), Some(quantity(1230)));
        for bad in ["\"-0.01\"", "\"12.34567\"", "12", "null", "\"\"", "\"NaN\"", "\"\\ud800\""] {
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
            held: Amount::ZERO,
            frozen: false,
            details: None,
            allowance: Allowance::default(),
            available: cents(3770),
            overdraft_limit: cents(5000),
            opened,
            updated: Timestamp::from_millis(1_700_000_001_000),
            closed: None,
            version: 4,
            newest: Sequence::FIRST,
        };
        let write = |resource: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            resource(&mut out);
            String::from_utf8(out).unwrap()
        };
        let id = account.id.to_uuid();
        assert_eq!(
            write(&|out| AccountV1::of(&account).write(out)),
            format!(
                r#"{{"id":"{id}","name":"Zoë \"Z\"","balance":-12.30,"created":1700000000,"updated":1700000001,"isDeleted":false,"deleted":null}}"#
            )
        );
        let transaction = bank::Transaction {
            id: TransactionId { time: opened, shard, sequence: Sequence::FIRST },
            account: account.id,
            currency: Currency::USD,
            direction: Direction::Withdrawal,
            amount: cents(1000),
            balance: cents(-1230),
            version: 4,
        };
        let transaction_id = transaction.id.to_uuid();
        let bob = AccountName::parse("bob").unwrap();
        assert_eq!(
            write(&|out| TransactionV1::of(&transaction, &bob, Currency::USD).write(out)),
            format!(
                r#"{{"id":"{transaction_id}","account":"bob","type":"WITHDRAWAL","amount":-10.00,"balance":-12.30,"created":1700000000}}"#
            )
        );
        let open = write(&|out| Account::of(&account).write(out));
        assert!(open.contains(r#""deposits":{"href":"#) && !open.contains(r#""close":{"#), "{open}");
        account.closed = Some(account.updated);
        assert!(
            write(&|out| AccountV1::of(&account).write(out))
                .ends_with(r#""isDeleted":true,"deleted":1700000001}"#)
        );
        assert_eq!(
            write(&|out| Account::of(&account).write(out)),
            format!(
                r#"{{"id":"{id}","name":"Zoë \"Z\"","currency":"USD","posted":"-12.30","held":"0.00","available":"37.70","overdraft_limit":"50.00","frozen":false,"reference":null,"metadata":{{}},"unique_reference":false,"velocity_limits":null,"allowance":null,"version":4,"created":"2023-11-14T22:13:20.123Z","updated":"2023-11-14T22:13:21.000Z","closed":"2023-11-14T22:13:21.000Z","_links":{{"self":{{"href":"/v2/accounts/{id}"}},"transactions":{{"href":"/v2/accounts/{id}/transactions"}},"statement":{{"href":"/v2/accounts/{id}/statement"}},"holds":{{"href":"/v2/accounts/{id}/holds"}},"links":{{"href":"/v2/accounts/{id}/links"}}}}}}"#
            )
        );
    }

    body! {
        /// One side of a transfer.
        struct Leg {
            /// Whose.
            account: AccountSelector,
            /// How much.
            amount: AmountText,
        }
    }

    body! {
        /// A body with everything that bodies can have.
        struct Nested {
            /// Sides.
            legs: List<Leg, 2, 3>,
            /// Notes.
            metadata: Option<Metadata>,
            /// Changed notes.
            changes: Patch<MetadataPatch>,
        }
    }

    #[test]
    fn bodies_in_bodies_are_read() {
        let body = r#"{"legs":[{"account":"name:a/b","amount":"1"},{"amount":"2.50","account":"name:name:"}],
            "metadata":{"invoice":"7","":"x"},"changes":null}"#;
        assert!(read_body::<Nested>(body.as_bytes()).is_err(), "an entry has a name");
        let body = body.replace(r#","":"x""#, "").replace("null", r#"{"a":null,"b":"c"}"#);
        let read = read_body::<Nested>(body.as_bytes()).unwrap();
        let name = |name: &str| AccountSelector::Name(AccountName::parse(name).unwrap());
        let leg = |account, minor_units| Leg { account, amount: AmountText(quantity(minor_units)) };
        assert_eq!(read.legs.0, [leg(name("a/b"), 100), leg(name("name:"), 250)]);
        let key = |key: &str| MetadataKey(key.into());
        let value = |value: &str| MetadataValue(value.into());
        assert_eq!(read.metadata.unwrap().0.into_iter().collect::<Vec<_>>(), [(key("invoice"), value("7"))]);
        let Patch::Set(changes) = read.changes else { panic!("they were set") };
        let expected = [(key("a"), Patch::Remove), (key("b"), Patch::Set(value("c")))];
        assert_eq!(changes.0.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn absent_and_null_are_told_apart() {
        let legs = r#""legs":[{"account":"name:a","amount":"1"},{"account":"name:b","amount":"1"}]"#;
        let changes =
            |more: &str| read_body::<Nested>(format!("{{{legs}{more}}}").as_bytes()).map(|read| read.changes);
        assert_eq!(changes("").unwrap(), Patch::Keep);
        assert_eq!(changes(r#","changes": null"#).unwrap(), Patch::Remove);
        assert!(matches!(changes(r#","changes":{}"#).unwrap(), Patch::Set(_)));
        // What is not patched may be absent, but is not null.
        assert_eq!(
            refusal(changes(r#","metadata":null"#)).1,
            json!([{"pointer": "/metadata", "detail": "must be an object, not null"}])
        );
    }

    #[test]
    fn errors_deep_inside_point_there() {
        let pointers = |body: &str| -> Vec<String> {
            let (code, errors) = refusal(read_body::<Nested>(body.as_bytes()));
            assert_eq!(code, "invalid-request", "{body}: {errors}");
            let pointer = |error: &Value| error["pointer"].as_str().unwrap().to_owned();
            errors.as_array().unwrap().iter().map(pointer).collect()
        };
        let good = r#"{"account":"name:b","amount":"1"}"#;
        let legs = |legs: &str| format!("{{\"legs\":{legs}}}");
        for (body, expected) in [
            (legs("1"), &["/legs"][..]),
            (legs("{}"), &["/legs"]),
            (legs("[]"), &["/legs"]),
            (legs(&format!("[{good}]")), &["/legs"]),
            (legs(&format!("[{good},{good},{good},1]")), &["/legs"]),
            (legs(&format!("[{good},1]")), &["/legs/1"]),
            (legs(&format!("[{good},[]]")), &["/legs/1"]),
            (legs(&format!("[{good},{{}}]")), &["/legs/1/account", "/legs/1/amount"]),
            (
                legs(r#"[{"account":1,"amount":1},{"account":"b","amount":"1","a/b~c":1,"amount":"2"}]"#),
                &[
                    "/legs/0/account",
                    "/legs/0/amount",
                    "/legs/1/a~1b~0c",
                    "/legs/1/amount",
                    "/legs/1/account",
                ],
            ),
            (
                format!(
                    r#"{{"legs":[{good},{good}],"metadata":{{"a":1,"b":"\n","c":null,"d":{{}}}},"x":1}}"#
                ),
                &["/x", "/metadata/a", "/metadata/b", "/metadata/c", "/metadata/d"],
            ),
            (
                format!(r#"{{"legs":[{good},{good}],"metadata":{{"a/b":"1","a/b":"2"}}}}"#),
                &["/metadata/a~1b"],
            ),
            (
                format!(r#"{{"legs":[{good},{good}],"metadata":{{"{}":"1"}}}}"#, "k".repeat(65)),
                &["/metadata"],
            ),
            (
                format!(r#"{{"legs":[{good},{good}],"changes":{{"a":"{}"}}}}"#, "v".repeat(257)),
                &["/changes/a"],
            ),
            (
                format!(
                    r#"{{"legs":[{good},{good}],"metadata":{{{}}}}}"#,
                    (0..17).map(|index| format!("\"{index}\":\"\"")).collect::<Vec<_>>().join(",")
                ),
                &["/metadata"],
            ),
            (legs(&format!("[{good},{}{}]", "[".repeat(30_000), "]".repeat(30_000))), &["/legs/1"]),
        ] {
            assert_eq!(pointers(&body), expected, "{body:.200}");
        }
        let many =
            format!("{{\"legs\":[{good},{good}],\"metadata\":{{}},{}\"x\":1}}", "\"y\":1,".repeat(5000));
        assert_eq!(pointers(&many).len(), 16);
        let half = format!(r#"{{"legs":[{good},{{"\ud800":1}}]}}"#);
        assert_eq!(refusal(read_body::<Nested>(half.as_bytes())).0, "malformed-json");
    }

    #[test]
    fn version_two_has_one_spelling_of_an_amount() {
        let parse = |amount: &str| read_body::<Posting>(format!("{{\"amount\":\"{amount}\"}}").as_bytes());
        for (text, minor_units) in [("1", 100), ("0.01", 1), ("12.3", 1230), ("12.30", 1230)] {
            assert_eq!(parse(text).unwrap().amount, AmountText(quantity(minor_units)));
        }
        for bad in
            ["0", "0.00", "-1", "01", "1e2", "1E2", "1.00000", "1.", ".5", "+1", " 1", "00.01", "1.00001"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
