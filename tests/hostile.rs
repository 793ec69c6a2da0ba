//! Requests that nobody should send: each has its exact answer, and none leaves a trace in the ledger.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Reply, Service};
use teller::http::Limits;

/// A request, byte for byte, and its answer.
struct Case {
    request: Vec<u8>,
    /// The status, or 0 if the connection is to be closed without a reply.
    status: u16,
    /// The problem's code; empty for the few replies that are no problem documents.
    code: &'static str,
    /// What the problem's errors point at; see [`Reply::places`].
    places: &'static [&'static str],
}

/// Replies that the HTTP library gives before there is a request have no body.
const NO_CODE: &str = "";
/// The connection is closed without a reply.
const CLOSED: u16 = 0;

fn raw(request: impl AsRef<[u8]>, status: u16, code: &'static str, places: &'static [&'static str]) -> Case {
    Case { request: request.as_ref().to_vec(), status, code, places }
}

/// A request as it should look, with this head and this body. The head is what stands before the `Host` header
/// and, on further lines, behind it.
fn bytes(head: &str, body: &[u8]) -> Vec<u8> {
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let mut bytes = format!("{line} HTTP/1.1\r\nhost: x\r\n").into_bytes();
    for header in headers.lines() {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// A request without a body.
fn bare(head: &str, status: u16, code: &'static str, places: &'static [&'static str]) -> Case {
    raw(bytes(head, b""), status, code, places)
}

/// A request with a body.
fn with(
    head: &str,
    body: impl AsRef<[u8]>,
    status: u16,
    code: &'static str,
    places: &'static [&'static str],
) -> Case {
    raw(bytes(head, body.as_ref()), status, code, places)
}

const OPEN: &str = "POST /accounts";
const OPEN_V2: &str = "POST /v2/accounts";
const DEPOSIT: &str = "POST /accounts/alice/deposit";
const WITHDRAW: &str = "POST /accounts/alice/withdraw";
const ONE: &str = r#"{"amount":1}"#;
const NEW: &str = r#"{"name":"new"}"#;

/// What is no HTTP, or barely.
fn malformed_http() -> Vec<Case> {
    let chunked = |body: &str| {
        let head = "POST /accounts/alice/deposit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        format!("{head}{body}")
    };
    let get = |rest: &str| format!("GET /accounts/alice HTTP/1.1\r\nhost: x\r\n{rest}\r\n");
    vec![
        raw("", CLOSED, NO_CODE, &[]),
        raw("\r\n", CLOSED, NO_CODE, &[]),
        raw("GET /accounts/alice HTTP/1.1\r\nhost: x", CLOSED, NO_CODE, &[]),
        raw("GARBAGE\r\n\r\n", 400, NO_CODE, &[]),
        raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, NO_CODE, &[]),
        raw("GET /accounts/alice\r\n\r\n", 400, NO_CODE, &[]),
        raw("GET /accounts/alice HTTP/9.9\r\nhost: x\r\n\r\n", 400, NO_CODE, &[]),
        raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", CLOSED, NO_CODE, &[]),
        raw("GET http://x:99999/accounts/alice HTTP/1.1\r\nhost: x\r\n\r\n", 400, "invalid-host", &[]),
        raw("GET http://e@x/accounts/alice HTTP/1.1\r\nhost: x\r\n\r\n", 400, "invalid-host", &[]),
        raw("GET  /accounts/alice HTTP/1.1\r\nhost: x\r\n\r\n", 400, NO_CODE, &[]),
        raw("GET /accounts/a b HTTP/1.1\r\nhost: x\r\n\r\n", 400, NO_CODE, &[]),
        raw(b"GET /accounts/\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400, NO_CODE, &[]),
        raw("G\u{0}T /accounts/alice HTTP/1.1\r\nhost: x\r\n\r\n", 400, NO_CODE, &[]),
        raw(get("no colon\r\n"), 400, NO_CODE, &[]),
        raw(get("space : before\r\n"), 400, NO_CODE, &[]),
        raw(get("nul: \0\r\n"), 400, NO_CODE, &[]),
        raw(get(" folded: line\r\n"), 400, NO_CODE, &[]),
        raw(get("content-length: 1\r\ncontent-length: 2\r\n"), 400, NO_CODE, &[]),
        raw(get("content-length: -1\r\n"), 400, NO_CODE, &[]),
        raw(get("content-length: +1\r\n"), 400, NO_CODE, &[]),
        raw(get("content-length: one\r\n"), 400, NO_CODE, &[]),
        raw(get("content-length: 99999999999999999999\r\n"), 400, NO_CODE, &[]),
        raw(get("transfer-encoding: gzip\r\n"), 400, NO_CODE, &[]),
        raw(get("transfer-encoding: chunked, gzip\r\n"), 400, NO_CODE, &[]),
        raw("POST /accounts HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, NO_CODE, &[]),
        raw(get(&format!("x: {}\r\n", "y".repeat(20_000))), 431, NO_CODE, &[]),
        raw(get(&"x: y\r\n".repeat(101)), 431, NO_CODE, &[]),
        raw(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000)), 431, NO_CODE, &[]),
        bare(&format!("GET /{}", "a".repeat(8192)), 414, "uri-too-long", &[]),
        bare(&format!("GET /accounts/a?{}", "a".repeat(8192)), 414, "uri-too-long", &[]),
        bare(&format!("GET /{}", "a".repeat(8191)), 404, "not-found", &[]),
        raw("GET /accounts/alice HTTP/1.1\r\n\r\n", 400, "invalid-host", &[]),
        raw(get("host: y\r\n"), 400, "invalid-host", &[]),
        raw("GET /accounts/alice HTTP/1.1\r\nhost: x@y\r\n\r\n", 400, "invalid-host", &[]),
        raw("GET /accounts/alice HTTP/1.0\r\nhost: x\r\nhost: x\r\n\r\n", 400, "invalid-host", &[]),
        raw(chunked("zz\r\n{}\r\n0\r\n\r\n"), 400, "invalid-body", &[]),
        raw(chunked("-1\r\n"), 400, "invalid-body", &[]),
        raw(chunked("fffffffffffffffff\r\n"), 400, "invalid-body", &[]),
        raw(chunked("5\r\n{\"amount\":1}\r\n0\r\n\r\n"), 400, "invalid-body", &[]),
        raw(chunked("c\r\n{\"amount\":1}\r\n"), 400, "invalid-body", &[]),
        raw(chunked("0\r\n\r\n"), 400, "malformed-json", &[]),
        raw(
            chunked(&format!("11000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x11000))),
            413,
            "payload-too-large",
            &[],
        ),
        raw(
            "POST /accounts/alice/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"amount\":",
            400,
            "invalid-body",
            &[],
        ),
        raw(
            "POST /accounts/alice/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 65537\r\n\r\n",
            413,
            "payload-too-large",
            &[],
        ),
        raw(
            "POST /accounts HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9999999999\r\n\r\n",
            413,
            "payload-too-large",
            &[],
        ),
        with(OPEN, " ".repeat(65_537), 413, "payload-too-large", &[]),
        with(OPEN, " ".repeat(1_000_000), 413, "payload-too-large", &[]),
        with(OPEN, " ".repeat(65_536), 400, "malformed-json", &[]),
    ]
}

/// Paths, methods and queries.
fn wrong_addresses(ids: &Ids) -> Vec<Case> {
    let Ids { account, transaction, other, .. } = ids;
    let history = |query: &str| format!("GET /v2/accounts/{account}/transactions?{query}");
    let of_account = format!("GET /v2/accounts/{account}");
    vec![
        bare("GET //", 404, "not-found", &[]),
        bare("GET /nothing", 404, "not-found", &[]),
        bare("GET /accounts/", 404, "not-found", &[]),
        bare("GET //accounts/alice", 404, "not-found", &[]),
        bare("GET /accounts/alice/", 404, "not-found", &[]),
        bare("GET /accounts/alice/balance", 404, "not-found", &[]),
        bare("GET /ACCOUNTS/alice", 404, "not-found", &[]),
        bare("GET /accounts/../healthz", 404, "not-found", &[]),
        bare("GET /%61ccounts/alice", 404, "not-found", &[]),
        with("POST /accounts//deposit", ONE, 404, "not-found", &[]),
        with("POST /accounts/alice/deposit/", ONE, 404, "not-found", &[]),
        bare("GET /v1/accounts/alice", 404, "not-found", &[]),
        bare("GET /problems/none", 404, "not-found", &[]),
        bare("OPTIONS *", 204, NO_CODE, &[]),
        bare("GET *", 404, "not-found", &[]),
        raw("CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 404, "not-found", &[]),
        bare("GET /accounts", 405, "method-not-allowed", &[]),
        with("PUT /accounts/alice", NEW, 405, "method-not-allowed", &[]),
        with("PATCH /accounts/alice", NEW, 405, "method-not-allowed", &[]),
        bare("DELETE /accounts", 405, "method-not-allowed", &[]),
        bare("GET /accounts/alice/deposit", 405, "method-not-allowed", &[]),
        bare("TRACE /accounts/alice", 405, "method-not-allowed", &[]),
        bare("get /accounts/alice", 405, "method-not-allowed", &[]),
        bare("BREW /accounts/alice", 405, "method-not-allowed", &[]),
        with("POST /healthz", ONE, 405, "method-not-allowed", &[]),
        bare("GET /accounts/%", 400, "invalid-account-name", &[]),
        bare("GET /accounts/%4", 400, "invalid-account-name", &[]),
        bare("GET /accounts/%zz", 400, "invalid-account-name", &[]),
        bare("GET /accounts/%ff", 400, "invalid-account-name", &[]),
        bare("GET /accounts/%ed%a0%80", 400, "invalid-account-name", &[]),
        bare("GET /accounts/%c0%af", 400, "invalid-account-name", &[]),
        bare("GET /accounts/a%00", 400, "invalid-account-name", &[]),
        bare("GET /accounts/a%0ab", 400, "invalid-account-name", &[]),
        bare(&format!("GET /accounts/{}", "a".repeat(256)), 400, "invalid-account-name", &[]),
        with("POST /accounts/%zz/withdraw", ONE, 400, "invalid-account-name", &[]),
        bare("DELETE /accounts/%zz", 400, "invalid-account-name", &[]),
        bare("GET /accounts/alice%2F", 404, "account-not-found", &[]),
        bare("GET /accounts/%2561lice", 404, "account-not-found", &[]),
        bare("GET /accounts/Alice", 404, "account-not-found", &[]),
        bare("GET /accounts/closed", 404, "account-not-found", &[]),
        bare("GET /transaction/1", 400, "invalid-id", &[]),
        bare("GET /transactions/%zz", 400, "invalid-id", &[]),
        bare("GET /transactions/zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz", 400, "invalid-id", &[]),
        bare(&format!("GET /transactions/{{{transaction}}}"), 400, "invalid-id", &[]),
        bare(&format!("GET /transactions/{}", transaction.replace('-', "")), 400, "invalid-id", &[]),
        bare("GET /transactions/00000000-0000-0000-0000-000000000000", 404, "transaction-not-found", &[]),
        bare(&format!("GET /transactions/{account}"), 404, "transaction-not-found", &[]),
        bare(&format!("GET /transactions/{}", forged(transaction)), 404, "transaction-not-found", &[]),
        bare("GET /v2/accounts/alice", 400, "invalid-id", &[]),
        bare(&format!("GET /v2/accounts/{transaction}"), 404, "account-not-found", &[]),
        bare(&format!("GET /v2/accounts/{}", forged(account)), 404, "account-not-found", &[]),
        bare(&format!("DELETE /v2/accounts/{}", forged(account)), 404, "account-not-found", &[]),
        bare("DELETE /v2/accounts/1", 400, "invalid-id", &[]),
        bare("GET /v2/accounts/1/transactions", 400, "invalid-id", &[]),
        bare("GET /accounts/alice?x=1", 400, "unknown-parameter", &["?x"]),
        bare("GET /healthz?verbose", 400, "unknown-parameter", &["?verbose"]),
        bare("GET /metrics?x", 400, "unknown-parameter", &["?x"]),
        bare("OPTIONS /accounts?x", 204, NO_CODE, &[]),
        with("POST /accounts/alice/deposit?dry=1", ONE, 400, "unknown-parameter", &["?dry"]),
        with("POST /accounts?a&b=", NEW, 400, "unknown-parameter", &["?a", "?b"]),
        bare("DELETE /accounts/bob?force=true", 400, "unknown-parameter", &["?force"]),
        bare(&format!("{of_account}?limit=1"), 400, "unknown-parameter", &["?limit"]),
        bare(&history("limits=1"), 400, "unknown-parameter", &["?limits"]),
        bare(&history("limit=0"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=1001"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=-1"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=+1"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit="), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=1e2"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=99999999999999999999"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("limit=1&limit=2"), 400, "invalid-parameter", &["?limit"]),
        bare(&history("order=up"), 400, "invalid-parameter", &["?order"]),
        bare(&history("order=DESC"), 400, "invalid-parameter", &["?order"]),
        bare(&history("order=%zz"), 400, "invalid-parameter", &["?order"]),
        bare(&history("cursor="), 400, "invalid-cursor", &["?cursor"]),
        bare(&history("cursor=abc"), 400, "invalid-cursor", &["?cursor"]),
        bare(&history(&format!("cursor={}", "A".repeat(40))), 400, "invalid-cursor", &["?cursor"]),
        bare(&history(&format!("cursor={}", "A".repeat(4000))), 400, "invalid-cursor", &["?cursor"]),
        bare(&history(&format!("cursor={}&order=asc", ids.cursor)), 400, "invalid-cursor", &["?cursor"]),
        bare(
            &format!("GET /v2/accounts/{other}/transactions?cursor={}", ids.cursor),
            400,
            "invalid-cursor",
            &["?cursor"],
        ),
    ]
}

/// Headers that change what is asked for.
fn wrong_headers() -> Vec<Case> {
    let key = |key: &str| format!("{DEPOSIT}\nidempotency-key: {key}");
    let invalid = "invalid-idempotency-key";
    let place = &[":Idempotency-Key"];
    vec![
        with(&key(""), ONE, 400, invalid, place),
        with(&key("\"\""), ONE, 400, invalid, place),
        with(&key("\"open"), ONE, 400, invalid, place),
        with(&key("\"a\"b\""), ONE, 400, invalid, place),
        with(&key("\"a\\b\""), ONE, 400, invalid, place),
        with(&key("a\tb"), ONE, 400, invalid, place),
        with(&key("ключ"), ONE, 400, invalid, place),
        with(&key(&"k".repeat(256)), ONE, 400, invalid, place),
        with(&key("a\nidempotency-key: a"), ONE, 400, invalid, place),
        with(&format!("{OPEN}\nidempotency-key: \""), NEW, 400, invalid, place),
        bare("DELETE /accounts/bob\nidempotency-key: \"", 400, invalid, place),
        // The key was used for a deposit of 100 to alice.
        with(&key("setup"), ONE, 422, "idempotency-key-reused", &[]),
        with(&key("setup"), r#"{"amount": 100}"#, 422, "idempotency-key-reused", &[]),
        with(&format!("{WITHDRAW}\nidempotency-key: \"setup\""), ONE, 422, "idempotency-key-reused", &[]),
        bare("DELETE /accounts/alice\nidempotency-key: setup", 422, "idempotency-key-reused", &[]),
        with(&format!("{OPEN_V2}\nidempotency-key: setup"), NEW, 422, "idempotency-key-reused", &[]),
        with(&format!("{DEPOSIT}\nif-match: 2"), ONE, 400, "invalid-if-match", &[":If-Match"]),
        with(&format!("{DEPOSIT}\nif-match: W/\"2\""), ONE, 400, "invalid-if-match", &[":If-Match"]),
        with(&format!("{DEPOSIT}\nif-match: \"2\", \"3\""), ONE, 400, "invalid-if-match", &[":If-Match"]),
        with(
            &format!("{DEPOSIT}\nif-match: \"2\"\nif-match: \"2\""),
            ONE,
            400,
            "invalid-if-match",
            &[":If-Match"],
        ),
        with(&format!("{DEPOSIT}\nif-match: \"02\""), ONE, 400, "invalid-if-match", &[":If-Match"]),
        with(&format!("{WITHDRAW}\nif-match: \"x\""), ONE, 400, "invalid-if-match", &[":If-Match"]),
        bare("DELETE /accounts/bob\nif-match: \"-1\"", 400, "invalid-if-match", &[":If-Match"]),
        with(
            &format!("{DEPOSIT}\nif-none-match: \"2\""),
            ONE,
            400,
            "invalid-if-none-match",
            &[":If-None-Match"],
        ),
        bare("DELETE /accounts/bob\nif-none-match: *", 400, "invalid-if-none-match", &[":If-None-Match"]),
        with(&format!("{DEPOSIT}\nif-match: \"1\""), ONE, 412, "version-mismatch", &[]),
        with(&format!("{WITHDRAW}\nif-match: \"99\""), ONE, 412, "version-mismatch", &[]),
        bare("DELETE /accounts/bob\nif-match: \"2\"", 412, "version-mismatch", &[]),
        with(
            &format!("{OPEN_V2}\ncontent-type: application/x-www-form-urlencoded"),
            NEW,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ),
        with(
            &format!("{OPEN_V2}\ncontent-type: text/json"),
            NEW,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ),
        with(&format!("{OPEN_V2}\ncontent-type:"), NEW, 415, "unsupported-media-type", &[":Content-Type"]),
        with(
            &format!("{DEPOSIT}\ncontent-encoding: gzip"),
            ONE,
            415,
            "unsupported-media-type",
            &[":Content-Encoding"],
        ),
        with("DELETE /accounts/bob", "{}", 400, "unexpected-body", &[]),
        raw(
            "DELETE /accounts/bob HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n \r\n0\r\n\r\n",
            400,
            "unexpected-body",
            &[],
        ),
    ]
}

/// Changes that pages of other sites have a browser ask for; and conditions on requests that do not know them, which were
/// passed over, so that what should have been done only if the account was as it had been read was done in any case.
fn unwanted_changes(ids: &Ids) -> Vec<Case> {
    let Ids { account, other, hold, transfer, .. } = ids;
    let between = format!(r#"{{"from":"{account}","to":"{other}","amount":"1"}}"#);
    let reserving = format!(r#"{{"account":"{account}","amount":"1"}}"#);
    let link = format!("/v2/accounts/{account}/links/{other}");
    let batch = format!(r#"{{"items":[{{"type":"deposit","account":"{account}","amount":"1"}}]}}"#);
    let mut cases = Vec::new();
    for (head, body) in [
        (DEPOSIT.to_owned(), ONE),
        ("DELETE /accounts/bob".to_owned(), ""),
        (format!("PATCH /v2/accounts/{account}"), r#"{"frozen":true}"#),
        (format!("POST /v2/accounts/{account}/deposits"), r#"{"amount":"1"}"#),
        ("POST /v2/batches".to_owned(), &batch),
    ] {
        for site in ["cross-site", "same-site", "", "x", "none\nsec-fetch-site: cross-site"] {
            cases.push(with(&format!("{head}\nsec-fetch-site: {site}"), body, 403, "cross-site", &[]));
        }
        for origin in ["http://evil.example", "null"] {
            cases.push(with(&format!("{head}\norigin: {origin}"), body, 403, "cross-site", &[]));
        }
        let ours = format!("{head}\nsec-fetch-site: same-origin\nif-none-match: *");
        cases.push(with(&ours, body, 400, "invalid-if-none-match", &[":If-None-Match"]));
    }
    for (head, body) in [
        (OPEN.to_owned(), NEW),
        (OPEN_V2.to_owned(), NEW),
        (format!("PUT {link}"), r#"{"kind":"related"}"#),
        (format!("DELETE {link}"), ""),
        ("POST /v2/transfers".to_owned(), &between),
        ("POST /v2/transfers?dry_run=true".to_owned(), &between),
        (format!("POST /v2/transfers/{transfer}/reverse"), ""),
        ("POST /v2/holds".to_owned(), &reserving),
        (format!("POST /v2/holds/{hold}/capture"), ""),
        (format!("POST /v2/holds/{hold}/void"), "{}"),
        ("POST /v2/batches".to_owned(), &batch),
    ] {
        for tag in ["\"1\"", "*", "x"] {
            let head = format!("{head}\nif-match: {tag}");
            cases.push(with(&head, body, 400, "invalid-if-match", &[":If-Match"]));
        }
        for tag in ["\"1\"", "*", "x"] {
            let head = format!("{head}\nif-none-match: {tag}");
            cases.push(with(&head, body, 400, "invalid-if-none-match", &[":If-None-Match"]));
        }
    }
    cases
}

/// Bodies that are no JSON, or the wrong JSON.
fn wrong_bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for head in [OPEN, OPEN_V2, DEPOSIT, WITHDRAW] {
        for body in [
            &b""[..],
            b" ",
            b"{",
            b"{\"amount\":1,}",
            b"{amount:1}",
            b"{'amount':1}",
            b"{\"amount\":1}{}",
            b"\xef\xbb\xbf{\"amount\":1}",
            b"{\"amount\":\"\xff\"}",
            b"{\"amount\":\"a\nb\"}",
            b"{\"amount\":\"\\x\"}",
            b"{\"amount\":NaN}",
            b"{\"amount\":-Infinity}",
            b"{\"amount\":+1}",
            b"{\"amount\":.5}",
            b"{\"amount\":1.}",
            b"{\"amount\":0x10}",
            b"{\"amount\":012}",
            b"amount=1",
        ] {
            cases.push(with(head, body, 400, "malformed-json", &[]));
        }
        cases.push(with(head, "[".repeat(60_000), 400, "malformed-json", &[]));
        for body in ["null", "[]", "1", "\"x\"", "true", "[{\"amount\":1}]"] {
            cases.push(with(head, body, 400, "invalid-request", &[""]));
        }
    }
    for head in [DEPOSIT, WITHDRAW] {
        for body in [
            "{}",
            r#"{"amount":null}"#,
            r#"{"amount":true}"#,
            r#"{"amount":[]}"#,
            r#"{"amount":[1]}"#,
            r#"{"amount":{}}"#,
            r#"{"amount":{"value":1}}"#,
            r#"{"amount":""}"#,
            r#"{"amount":"x"}"#,
            r#"{"amount":" 1"}"#,
            r#"{"amount":"1 "}"#,
            r#"{"amount":"+1"}"#,
            r#"{"amount":"1,5"}"#,
            r#"{"amount":"1_000"}"#,
            r#"{"amount":"0x10"}"#,
            r#"{"amount":"NaN"}"#,
            r#"{"amount":"Infinity"}"#,
            r#"{"amount":"١"}"#,
            r#"{"amount":"\ud800"}"#,
            r#"{"amount":"1\u0000"}"#,
            r#"{"amount":0}"#,
            r#"{"amount":-0}"#,
            r#"{"amount":0.00}"#,
            r#"{"amount":0.009}"#,
            r#"{"amount":1e-3}"#,
            r#"{"amount":1e-99999999999}"#,
            r#"{"amount":-1}"#,
            r#"{"amount":"-0.01"}"#,
            r#"{"amount":1e400}"#,
            r#"{"amount":1e99999999999}"#,
            r#"{"amount":170141183460469231731687303715884105728}"#,
            r#"{"amount":1,"amount":2}"#,
            r#"{"amount":1,"\u0061mount":1}"#,
        ] {
            cases.push(with(head, body, 400, "invalid-request", &["/amount"]));
        }
        let digits = format!("{{\"amount\":{}}}", "9".repeat(60_000));
        cases.push(with(head, digits, 400, "invalid-request", &["/amount"]));
        let nested = format!("{{\"amount\":{}1{}}}", "[".repeat(30_000), "]".repeat(30_000));
        cases.push(with(head, nested, 400, "invalid-request", &["/amount"]));
        cases.push(with(head, r#"{"amount":1,"currency":"USD"}"#, 400, "invalid-request", &["/currency"]));
        cases.push(with(head, r#"{"Amount":1}"#, 400, "invalid-request", &["/Amount", "/amount"]));
        cases.push(with(head, r#"{"amount":1,"":2,"a/b~c":3}"#, 400, "invalid-request", &["/", "/a~1b~0c"]));
        let long = format!("{{\"amount\":1,\"{}\":1}}", "n".repeat(60_000));
        cases.push(with(head, long, 400, "invalid-request", &[""]));
    }
    for head in [OPEN, OPEN_V2] {
        for body in [
            "{}",
            r#"{"name":null}"#,
            r#"{"name":1}"#,
            r#"{"name":true}"#,
            r#"{"name":["a"]}"#,
            r#"{"name":{"a":1}}"#,
            r#"{"name":""}"#,
            r#"{"name":"a\u0000"}"#,
            r#"{"name":"a\nb"}"#,
            r#"{"name":"\u007f"}"#,
            r#"{"name":"\u0085"}"#,
            r#"{"name":"\ud800"}"#,
            r#"{"name":"\udc00\ud800"}"#,
            r#"{"name":"new","name":"new"}"#,
        ] {
            cases.push(with(head, body, 400, "invalid-request", &["/name"]));
        }
        for name in ["x".repeat(256), "é".repeat(128), "x".repeat(60_000)] {
            cases.push(with(head, format!("{{\"name\":\"{name}\"}}"), 400, "invalid-request", &["/name"]));
        }
        cases.push(with(head, r#"{"name":"new","balance":100}"#, 400, "invalid-request", &["/balance"]));
        cases.push(with(head, r#"{"nom":"new"}"#, 400, "invalid-request", &["/nom", "/name"]));
    }
    let limit = r#"{"name":"new","overdraft_limit":"1"}"#;
    cases.push(with(OPEN, limit, 400, "invalid-request", &["/overdraft_limit"]));
    for limit in [
        "1",
        "null",
        "true",
        "[]",
        "{}",
        "\"\"",
        "\"-0.01\"",
        "\"-1\"",
        "\"1.00001\"",
        "\"0.000000001\"",
        "\"1e-3\"",
        "\"NaN\"",
        "\"1e400\"",
        "\"1\",\"overdraft_limit\":\"1\"",
    ] {
        let body = format!("{{\"name\":\"new\",\"overdraft_limit\":{limit}}}");
        cases.push(with(OPEN_V2, body, 400, "invalid-request", &["/overdraft_limit"]));
    }
    let both = r#"{"name":1,"overdraft_limit":1}"#;
    cases.push(with(OPEN_V2, both, 400, "invalid-request", &["/name", "/overdraft_limit"]));
    cases
}

/// What version 2 has beyond the original service: account references, exact postings, links.
fn wrong_in_version_two(ids: &Ids) -> Vec<Case> {
    let Ids { account, other, closed, transaction, .. } = ids;
    let one = r#"{"amount":"1"}"#;
    let mut cases = Vec::new();
    for (reference, status, code) in [
        ("alice", 400, "invalid-id"),
        ("Name:alice", 400, "invalid-id"),
        ("%zz", 400, "invalid-id"),
        ("%ff", 400, "invalid-id"),
        ("name%zz", 400, "invalid-id"),
        ("name:", 400, "invalid-account-name"),
        ("name:%zz", 400, "invalid-account-name"),
        ("name:%00", 400, "invalid-account-name"),
        ("name:a%0ab", 400, "invalid-account-name"),
        ("name:nobody", 404, "account-not-found"),
        ("name:Alice", 404, "account-not-found"),
        ("name:closed", 404, "account-not-found"),
        ("name:name:alice", 404, "account-not-found"),
        ("name:%2561lice", 404, "account-not-found"),
        ("name%3Anobody", 404, "account-not-found"),
        ("00000000-0000-0000-0000-000000000000", 404, "account-not-found"),
        (transaction.as_str(), 404, "account-not-found"),
    ] {
        cases.push(bare(&format!("GET /v2/accounts/{reference}"), status, code, &[]));
        cases.push(bare(&format!("DELETE /v2/accounts/{reference}"), status, code, &[]));
        cases.push(bare(&format!("GET /v2/accounts/{reference}/transactions"), status, code, &[]));
        for what in ["deposits", "withdrawals"] {
            cases.push(with(&format!("POST /v2/accounts/{reference}/{what}"), one, status, code, &[]));
        }
    }
    let long = "n".repeat(256);
    cases.push(bare(&format!("GET /v2/accounts/name:{long}"), 400, "invalid-account-name", &[]));
    for head in [
        format!("POST /v2/accounts/{account}/deposits"),
        "POST /v2/accounts/name:alice/withdrawals".to_owned(),
    ] {
        for amount in [
            "1",
            "1.00",
            "null",
            "true",
            "[]",
            "{}",
            r#""""#,
            r#""0""#,
            r#""0.00""#,
            r#""-1""#,
            r#""+1""#,
            r#""01""#,
            r#""1.""#,
            r#"".5""#,
            r#""1e2""#,
            r#""1E2""#,
            r#""1.00001""#,
            r#""1.00000""#,
            r#""1,5""#,
            r#"" 1""#,
            r#""1 ""#,
            r#""NaN""#,
            r#""Infinity""#,
            r#""0x1""#,
            r#""١""#,
            r#""all""#,
            r#""\ud800""#,
            r#""1","amount":"1""#,
        ] {
            let body = format!("{{\"amount\":{amount}}}");
            cases.push(with(&head, body, 400, "invalid-request", &["/amount"]));
        }
        cases.push(with(&head, r#"{"amount":"1.001"}"#, 422, "too-many-decimals", &["/amount"]));
        cases.push(with(
            &head,
            r#"{"amount":"1000000000000000000000000"}"#,
            422,
            "balance-out-of-range",
            &[],
        ));
        cases.push(with(&head, "{}", 400, "invalid-request", &["/amount"]));
        cases.push(with(&head, r#"{"amount":"1","memo":"x"}"#, 400, "invalid-request", &["/memo"]));
        cases.push(with(&head, "", 400, "malformed-json", &[]));
        cases.push(with(&head, "[".repeat(60_000), 400, "malformed-json", &[]));
        cases.push(with(&format!("{head}\nif-match: 1"), one, 400, "invalid-if-match", &[":If-Match"]));
        cases.push(with(&format!("{head}\nif-match: \"1\""), one, 412, "version-mismatch", &[]));
        let form = format!("{head}\ncontent-type: application/x-www-form-urlencoded");
        cases.push(with(&form, one, 415, "unsupported-media-type", &[":Content-Type"]));
        cases.push(with(&format!("{head}?dry_run=true"), one, 400, "unknown-parameter", &["?dry_run"]));
        // The key was used for a deposit of version 1 to the same account.
        cases.push(with(&format!("{head}\nidempotency-key: setup"), one, 422, "idempotency-key-reused", &[]));
    }
    let closed = format!("POST /v2/accounts/{closed}");
    let funds = "POST /v2/accounts/name:bob/withdrawals";
    cases.extend([
        with(&format!("{closed}/deposits"), one, 409, "account-closed", &[]),
        with(&format!("{closed}/withdrawals"), one, 409, "account-closed", &[]),
        with(funds, r#"{"amount":"0.01"}"#, 422, "insufficient-funds", &[]),
        with(
            "POST /v2/accounts/name:rich/deposits",
            r#"{"amount":"60000000000000000000000"}"#,
            422,
            "balance-out-of-range",
            &[],
        ),
        bare("DELETE /v2/accounts/name:alice", 409, "account-not-empty", &[]),
        with("DELETE /v2/accounts/name:bob", "{}", 400, "unexpected-body", &[]),
        bare("GET /v2/accounts/name:alice/deposits", 405, "method-not-allowed", &[]),
        bare("DELETE /v2/accounts/name:alice/withdrawals", 405, "method-not-allowed", &[]),
        bare("GET /v2/accounts/name:alice/deposits/", 404, "not-found", &[]),
        bare("GET /v2/accounts/name:a/b", 404, "not-found", &[]),
        bare("GET /v2/transactions/1", 400, "invalid-id", &[]),
        bare("GET /v2/transactions/%zz", 400, "invalid-id", &[]),
        bare(&format!("GET /v2/transactions/{other}"), 404, "transaction-not-found", &[]),
        bare(&format!("GET /v2/transactions/{}", forged(transaction)), 404, "transaction-not-found", &[]),
        bare(&format!("GET /v2/transactions/{transaction}?x"), 400, "unknown-parameter", &["?x"]),
        with(&format!("POST /v2/transactions/{transaction}"), one, 405, "method-not-allowed", &[]),
        bare(
            "GET /v2/accounts/name:alice/transactions?limit=0&order=up",
            400,
            "invalid-parameter",
            &["?limit", "?order"],
        ),
        bare("GET /?x", 400, "unknown-parameter", &["?x"]),
        bare("POST /", 405, "method-not-allowed", &[]),
        bare("GET /openapi.json?pretty", 400, "unknown-parameter", &["?pretty"]),
        bare("DELETE /openapi.json", 405, "method-not-allowed", &[]),
        bare("GET /openapi", 404, "not-found", &[]),
        bare("GET /docs?x=%3Cscript%3E", 400, "unknown-parameter", &["?x"]),
        bare("GET /docs/", 404, "not-found", &[]),
        bare("GET /docs/..%2fhealthz", 404, "not-found", &[]),
        bare("GET /problems/%2e%2e", 404, "not-found", &[]),
    ]);
    cases
}

/// Well-formed requests that the ledger refuses.
fn refused_by_the_ledger(ids: &Ids) -> Vec<Case> {
    vec![
        with(OPEN, r#"{"name":"alice"}"#, 409, "account-exists", &[]),
        with(OPEN, r#"{"name":"closed"}"#, 409, "account-exists", &[]),
        with(OPEN_V2, r#"{"name":"\u0061lice"}"#, 409, "account-exists", &[]),
        with("POST /accounts/nobody/deposit", ONE, 404, "account-not-found", &[]),
        with("POST /accounts/closed/deposit", ONE, 404, "account-not-found", &[]),
        with("POST /accounts/closed/withdraw", ONE, 404, "account-not-found", &[]),
        bare("DELETE /accounts/closed", 404, "account-not-found", &[]),
        bare("DELETE /accounts/nobody", 404, "account-not-found", &[]),
        bare(&format!("DELETE /v2/accounts/{}", ids.closed), 409, "account-closed", &[]),
        bare("DELETE /accounts/alice", 409, "account-not-empty", &[]),
        bare(&format!("DELETE /v2/accounts/{}", ids.account), 409, "account-not-empty", &[]),
        with(
            OPEN_V2,
            r#"{"name":"new","overdraft_limit":"1.001"}"#,
            422,
            "too-many-decimals",
            &["/overdraft_limit"],
        ),
        with(
            OPEN_V2,
            r#"{"name":"new","overdraft_limit":"1.10","velocity_limits":{"per_day":"0.001","per_month":"1.001"}}"#,
            422,
            "too-many-decimals",
            &["/velocity_limits/per_day", "/velocity_limits/per_month"],
        ),
        with("POST /accounts/yen/deposit", r#"{"amount":0.5}"#, 422, "too-many-decimals", &["/amount"]),
        with("POST /accounts/yen/withdraw", r#"{"amount":1.5}"#, 422, "too-many-decimals", &["/amount"]),
        with(
            OPEN_V2,
            r#"{"name":"new","overdraft_limit":"100000000000000000000000.01"}"#,
            422,
            "balance-out-of-range",
            &[],
        ),
        with(DEPOSIT, r#"{"amount":100000000000000000000000.01}"#, 422, "balance-out-of-range", &[]),
        with(WITHDRAW, r#"{"amount":150.01}"#, 422, "insufficient-funds", &[]),
        with(WITHDRAW, r#"{"amount":100000000000000000000000}"#, 422, "insufficient-funds", &[]),
        with("POST /accounts/bob/withdraw", r#"{"amount":0.01}"#, 422, "insufficient-funds", &[]),
        with(
            "POST /accounts/rich/deposit",
            r#"{"amount":60000000000000000000000}"#,
            422,
            "balance-out-of-range",
            &[],
        ),
    ]
}

/// Transfers, holds, links, changes and lists that are asked for wrongly.
fn wrong_operations(ids: &Ids) -> Vec<Case> {
    let Ids { account, other, closed, transaction, hold, voided, transfer, list_cursor, cursor } = ids;
    let invalid = "invalid-request";
    let mut cases = Vec::new();
    let transfers = "POST /v2/transfers";
    let pair = r#"{"from":"name:alice","to":"name:bob","amount":"1"}"#;
    for (body, places) in [
        ("{}", &["/from", "/to", "/amount"][..]),
        (r#"{"from":1,"to":null,"amount":[]}"#, &["/from", "/to", "/amount"]),
        (r#"{"from":"alice","to":"Name:bob","amount":"1"}"#, &["/from", "/to"]),
        (r#"{"from":"name:","to":"name:a\nb","amount":"1"}"#, &["/from", "/to"]),
        (r#"{"from":"name:alice","to":["name:bob"],"amount":"1"}"#, &["/to"]),
        (r#"{"from":"name:alice","to":{"id":"x"},"amount":"1"}"#, &["/to"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":1}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"0"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"-1"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"ALL"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1e3"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"0.00001"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","currency":"USD"}"#, &["/currency"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","amount":"2"}"#, &["/amount"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","reference":""}"#, &["/reference"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","reference":"a\tb"}"#, &["/reference"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","reference":7}"#, &["/reference"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","metadata":[]}"#, &["/metadata"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","metadata":null}"#, &["/metadata"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","metadata":{"k":1}}"#, &["/metadata/k"]),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","metadata":{"k":{"l":"m"}}}"#,
            &["/metadata/k"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","metadata":{"k":"a","k":"b"}}"#,
            &["/metadata/k"],
        ),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":{}}"#, &["/conditions"]),
        (r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[1]}"#, &["/conditions/0"]),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{}]}"#,
            &["/conditions/0/account"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:a","version":0}]}"#,
            &["/conditions/0/version"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:a","version":"1"}]}"#,
            &["/conditions/0/version"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:a","version":18446744073709551616}]}"#,
            &["/conditions/0/version"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:a","available_gte":1}]}"#,
            &["/conditions/0/available_gte"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:a","available_lt":"1"}]}"#,
            &["/conditions/0/available_lt", "/conditions/0"],
        ),
        (
            r#"{"from":"name:alice","to":"name:bob","amount":"1","conditions":[{"account":"name:alice","version":1},{"account":"name:nobody"}]}"#,
            &["/conditions/1"],
        ),
        (r#"{"legs":[]}"#, &["/legs"]),
        (r#"{"legs":{}}"#, &["/legs"]),
        (r#"{"legs":[{"account":"name:alice","amount":"-1"}]}"#, &["/legs"]),
        (r#"{"legs":[{"account":"name:alice","amount":"-1"},null]}"#, &["/legs/1"]),
        (
            r#"{"legs":[{"account":"name:alice","amount":"0"},{"account":"name:bob","amount":"0.00"}]}"#,
            &["/legs/0/amount", "/legs/1/amount"],
        ),
        (
            r#"{"legs":[{"account":"name:alice","amount":"all"},{"account":"name:bob","amount":"1"}]}"#,
            &["/legs/0/amount"],
        ),
        (r#"{"legs":[{"account":"name:alice"},{"amount":"1"}]}"#, &["/legs/0/amount", "/legs/1/account"]),
        (
            r#"{"legs":[{"account":"name:alice","amount":"-1","to":"x"},{"account":"name:bob","amount":"1"}]}"#,
            &["/legs/0/to"],
        ),
        (
            r#"{"from":"name:alice","legs":[{"account":"name:alice","amount":"-1"},{"account":"name:bob","amount":"1"}]}"#,
            &["/from"],
        ),
    ] {
        cases.push(with(transfers, body, 400, invalid, places));
    }
    let leg = r#"{"account":"name:alice","amount":"1"}"#;
    cases.push(with(
        transfers,
        format!("{{\"legs\":[{}]}}", vec![leg; 65].join(",")),
        400,
        invalid,
        &["/legs"],
    ));
    let condition = r#"{"account":"name:alice","version":1}"#;
    let more = |member: &str| format!("{},{member}}}", &pair[..pair.len() - 1]);
    let conditions = more(&format!("\"conditions\":[{}]", vec![condition; 65].join(",")));
    cases.push(with(transfers, conditions, 400, invalid, &["/conditions"]));
    let entries =
        |count: usize| (0..count).map(|number| format!("\"k{number}\":\"\"")).collect::<Vec<_>>().join(",");
    cases.push(with(
        transfers,
        more(&format!("\"metadata\":{{{}}}", entries(17))),
        400,
        invalid,
        &["/metadata"],
    ));
    let long = more(&format!("\"metadata\":{{\"k\":\"{}\"}}", "v".repeat(257)));
    cases.push(with(transfers, long, 400, invalid, &["/metadata/k"]));
    let long = more(&format!("\"metadata\":{{\"{}\":\"v\"}}", "k".repeat(65)));
    cases.push(with(transfers, long, 400, invalid, &["/metadata"]));
    let long = more(&format!("\"reference\":\"{}\"", "r".repeat(256)));
    cases.push(with(transfers, long, 400, invalid, &["/reference"]));
    let deep = format!("{{\"legs\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    cases.push(with(transfers, deep, 400, invalid, &["/legs", "/legs/0"]));
    let deep = more(&format!(
        "\"metadata\":{}{}",
        "{\"a\":".repeat(10_000),
        format_args!("1{}", "}".repeat(10_000))
    ));
    cases.push(with(transfers, deep, 400, invalid, &["/metadata/a"]));
    for (query, code, places) in [
        ("?dry_run=1", "invalid-parameter", &["?dry_run"][..]),
        ("?dry_run=", "invalid-parameter", &["?dry_run"]),
        ("?dry_run=true&dry_run=true", "invalid-parameter", &["?dry_run"]),
        ("?dry-run=true", "unknown-parameter", &["?dry-run"]),
        ("?dry_run[x]=true", "unknown-parameter", &["?dry_run[x]"]),
    ] {
        cases.push(with(&format!("{transfers}{query}"), pair, 400, code, places));
        cases.push(with(
            &format!("POST /v2/holds{query}"),
            r#"{"account":"name:alice","amount":"1"}"#,
            400,
            code,
            places,
        ));
        cases.push(with(&format!("POST /v2/transfers/{transfer}/reverse{query}"), "{}", 400, code, places));
    }
    for (members, places) in [
        ("", &["/account", "/amount"][..]),
        (r#""account":7,"amount":7"#, &["/account", "/amount"]),
        (r#""account":"name:alice","amount":"1","to":"""#, &["/to"]),
        (r#""account":"name:alice","amount":"1","to":null"#, &["/to"]),
        (r#""account":"name:alice","amount":"1","expires_in":0"#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires_in":-1"#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires_in":1.5"#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires_in":"60""#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires_in":31622401"#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires_in":99999999999999999999"#, &["/expires_in"]),
        (r#""account":"name:alice","amount":"1","expires":60"#, &["/expires"]),
        (r#""account":"name:alice","amount":"1","legs":[]"#, &["/legs"]),
        (
            r#""account":"name:alice","amount":"1","conditions":[{"account":"name:alice"}]"#,
            &["/conditions/0"],
        ),
    ] {
        cases.push(with("POST /v2/holds", format!("{{{members}}}"), 400, invalid, places));
    }
    for (body, places) in [
        (r#"{"amount":"0"}"#, &["/amount"][..]),
        (r#"{"amount":"-1"}"#, &["/amount"]),
        (r#"{"amount":1}"#, &["/amount"]),
        (r#"{"amount":"all"}"#, &["/amount"]),
        (r#"{"amount":null}"#, &["/amount"]),
        (r#"{"to":"name:bob"}"#, &["/to"]),
        ("[]", &[""]),
        ("null", &[""]),
    ] {
        cases.push(with(&format!("POST /v2/holds/{hold}/capture"), body, 400, invalid, places));
        cases.push(with(&format!("POST /v2/transfers/{transfer}/reverse"), body, 400, invalid, places));
    }
    cases.push(with(&format!("POST /v2/holds/{hold}/void"), r#"{"amount":"1"}"#, 400, invalid, &["/amount"]));
    let patch = "PATCH /v2/accounts/name:alice\ncontent-type: application/merge-patch+json";
    for (body, places) in [
        (r#"{"frozen":null}"#, &["/frozen"][..]),
        (r#"{"frozen":"true"}"#, &["/frozen"]),
        (r#"{"frozen":1}"#, &["/frozen"]),
        (r#"{"overdraft_limit":1}"#, &["/overdraft_limit"]),
        (r#"{"overdraft_limit":"-1"}"#, &["/overdraft_limit"]),
        (r#"{"metadata":"x"}"#, &["/metadata"]),
        (r#"{"metadata":{"":"x"}}"#, &["/metadata"]),
        (r#"{"metadata":{"a\nb":"x"}}"#, &["/metadata/a\nb"]),
        (r#"{"metadata":{"k":false}}"#, &["/metadata/k"]),
        (r#"{"velocity_limits":[]}"#, &["/velocity_limits"]),
        (r#"{"velocity_limits":{"per_week":"1"}}"#, &["/velocity_limits/per_week"]),
        (r#"{"velocity_limits":{"per_day":1}}"#, &["/velocity_limits/per_day"]),
        (r#"{"velocity_limits":{"debits":{"count":1}}}"#, &["/velocity_limits/debits/window_seconds"]),
        (
            r#"{"velocity_limits":{"debits":{"count":-1,"window_seconds":1}}}"#,
            &["/velocity_limits/debits/count"],
        ),
        (
            r#"{"velocity_limits":{"debits":{"count":1,"window_seconds":0}}}"#,
            &["/velocity_limits/debits/window_seconds"],
        ),
        (
            r#"{"velocity_limits":{"debits":{"count":4294967296,"window_seconds":2678401}}}"#,
            &["/velocity_limits/debits/count", "/velocity_limits/debits/window_seconds"],
        ),
        (r#"{"name":"new"}"#, &["/name"]),
        (r#"{"currency":"EUR"}"#, &["/currency"]),
        (r#"{"version":1}"#, &["/version"]),
        (r#"[{"op":"replace","path":"/frozen","value":true}]"#, &[""]),
    ] {
        cases.push(with(patch, body, 400, invalid, places));
    }
    for (body, places) in [
        (r#"{"name":"new","currency":"usd"}"#, &["/currency"][..]),
        (r#"{"name":"new","currency":"XYZ"}"#, &["/currency"]),
        (r#"{"name":"new","currency":840}"#, &["/currency"]),
        (r#"{"name":"new","currency":null}"#, &["/currency"]),
        (r#"{"name":"new","unique_reference":"yes"}"#, &["/unique_reference"]),
        (r#"{"name":"new","metadata":{"k":null}}"#, &["/metadata/k"]),
        (r#"{"name":"new","velocity_limits":null}"#, &["/velocity_limits"]),
        (r#"{"name":"new","velocity_limits":{"per_day":null}}"#, &["/velocity_limits/per_day"]),
        (r#"{"name":"new","frozen":true}"#, &["/frozen"]),
    ] {
        cases.push(with(OPEN_V2, body, 400, invalid, places));
    }
    let link = "PUT /v2/accounts/name:alice/links/name:bob";
    for (body, places) in [
        ("{}", &["/kind"][..]),
        (r#"{"kind":"friend"}"#, &["/kind"]),
        (r#"{"kind":["related"]}"#, &["/kind"]),
        (r#"{"kind":"related","to":"x"}"#, &["/to"]),
    ] {
        cases.push(with(link, body, 400, invalid, places));
    }
    // Whatever has a body refuses what is none.
    for head in [
        transfers.to_owned(),
        "POST /v2/holds".to_owned(),
        format!("POST /v2/holds/{hold}/capture"),
        format!("POST /v2/holds/{hold}/void"),
        format!("POST /v2/transfers/{transfer}/reverse"),
        link.to_owned(),
        "PATCH /v2/accounts/name:alice".to_owned(),
    ] {
        cases.push(with(&head, "{", 400, "malformed-json", &[]));
        cases.push(with(&head, b"{\"amount\":\"\xff\"}", 400, "malformed-json", &[]));
        cases.push(with(&head, "{}{}", 400, "malformed-json", &[]));
        cases.push(with(&head, "[".repeat(60_000), 400, "malformed-json", &[]));
        cases.push(with(&head, " ".repeat(65_537), 413, "payload-too-large", &[]));
        cases.push(with(
            &format!("{head}\ncontent-type: text/plain"),
            pair,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ));
        cases.push(with(
            &format!("{head}\ncontent-type: application/x-ndjson"),
            pair,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ));
        cases.push(with(
            &format!("{head}\ncontent-encoding: br"),
            pair,
            415,
            "unsupported-media-type",
            &[":Content-Encoding"],
        ));
        // Linking needs no key.
        let (code, places) = match head == link {
            true => (invalid, &["/from", "/to", "/amount", "/kind"][..]),
            false => ("invalid-idempotency-key", &[":Idempotency-Key"][..]),
        };
        cases.push(with(&format!("{head}\nidempotency-key: \""), pair, 400, code, places));
        cases.push(with(&format!("{head}?x=1"), pair, 400, "unknown-parameter", &["?x"]));
    }
    for head in [transfers, "POST /v2/holds", link, "PATCH /v2/accounts/name:alice"] {
        cases.push(bare(head, 400, "malformed-json", &[]));
    }
    let nil = "00000000-0000-0000-0000-000000000000";
    for id in ["1", "name:alice", "%zz", &hold.replace('-', "")] {
        for (head, body) in [
            (format!("GET /v2/holds/{id}"), ""),
            (format!("POST /v2/holds/{id}/capture"), "{}"),
            (format!("POST /v2/holds/{id}/void"), ""),
            (format!("GET /v2/transfers/{id}"), ""),
            (format!("POST /v2/transfers/{id}/reverse"), ""),
        ] {
            cases.push(with(&head, body, 400, "invalid-id", &[]));
        }
    }
    // Good ids of another kind, and forged ones.
    for id in [nil, account, transaction, transfer, &forged(hold)] {
        cases.push(bare(&format!("GET /v2/holds/{id}"), 404, "hold-not-found", &[]));
        cases.push(with(&format!("POST /v2/holds/{id}/capture"), "{}", 404, "hold-not-found", &[]));
        cases.push(bare(&format!("POST /v2/holds/{id}/void"), 404, "hold-not-found", &[]));
    }
    for id in [nil, account, hold, transaction, &forged(transfer)] {
        cases.push(bare(&format!("GET /v2/transfers/{id}"), 404, "transaction-not-found", &[]));
        let reverse = format!("POST /v2/transfers/{id}/reverse");
        cases.push(match id == transaction {
            true => with(&reverse, "{}", 422, "not-reversible", &[]),
            false => with(&reverse, "{}", 404, "transaction-not-found", &[]),
        });
    }
    for id in [nil, hold, transfer, &forged(account)] {
        for head in [
            format!("GET /v2/accounts/{id}/holds"),
            format!("GET /v2/accounts/{id}/links"),
            format!("GET /v2/accounts/{account}/links/{id}"),
            format!("DELETE /v2/accounts/{account}/links/{id}"),
        ] {
            // Who is not there is linked to nobody.
            let of_other = head.starts_with("GET") && head.ends_with(&format!("links/{id}"));
            let code = if of_other { "link-not-found" } else { "account-not-found" };
            cases.push(bare(&head, 404, code, &[]));
        }
        let frozen = r#"{"frozen":false}"#;
        cases.push(with(&format!("PATCH /v2/accounts/{id}"), frozen, 404, "account-not-found", &[]));
        let related = r#"{"kind":"related"}"#;
        cases.push(with(
            &format!("PUT /v2/accounts/{account}/links/{id}"),
            related,
            404,
            "account-not-found",
            &[],
        ));
        cases.push(with(
            &format!("PUT /v2/accounts/{id}/links/{account}"),
            related,
            404,
            "account-not-found",
            &[],
        ));
        let from = format!("{{\"from\":\"{id}\",\"to\":\"name:bob\",\"amount\":\"1\"}}");
        cases.push(with(transfers, from, 404, "account-not-found", &["/from"]));
    }
    for (head, status) in [
        ("GET /v2/transfers".to_owned(), 405),
        ("PUT /v2/transfers".to_owned(), 405),
        ("DELETE /v2/holds".to_owned(), 405),
        ("GET /v2/holds".to_owned(), 405),
        ("GET /v2/batches".to_owned(), 405),
        ("PUT /v2/batches".to_owned(), 405),
        (format!("DELETE /v2/holds/{hold}"), 405),
        (format!("GET /v2/holds/{hold}/capture"), 405),
        (format!("PUT /v2/holds/{hold}/void"), 405),
        (format!("PATCH /v2/transfers/{transfer}"), 405),
        (format!("GET /v2/transfers/{transfer}/reverse"), 405),
        ("PUT /v2/accounts/name:alice".to_owned(), 405),
        ("POST /v2/accounts/name:alice/links".to_owned(), 405),
        ("POST /v2/accounts/name:alice/holds".to_owned(), 405),
        ("POST /v2/accounts/name:alice/links/name:bob".to_owned(), 405),
        (format!("POST /v2/holds/{hold}/release"), 404),
        (format!("POST /v2/transfers/{transfer}/"), 404),
        ("GET /v2/holds/".to_owned(), 404),
        ("GET /v2/accounts/name:alice/links/".to_owned(), 404),
        ("GET /v2/accounts/name:alice/links/a/b".to_owned(), 404),
        ("POST /v2/batches/".to_owned(), 404),
    ] {
        let code = if status == 405 { "method-not-allowed" } else { "not-found" };
        cases.push(bare(&head, status, code, &[]));
    }
    let list = |query: &str| format!("GET /v2/accounts?{query}");
    for (query, code, places) in [
        ("currency=usd", "invalid-parameter", &["?currency"][..]),
        ("currency=", "invalid-parameter", &["?currency"]),
        ("closed=yes", "invalid-parameter", &["?closed"]),
        ("closed", "invalid-parameter", &["?closed"]),
        ("limit=0", "invalid-parameter", &["?limit"]),
        ("limit=1001", "invalid-parameter", &["?limit"]),
        ("prefix=", "invalid-parameter", &["?prefix"]),
        ("prefix=%00", "invalid-parameter", &["?prefix"]),
        ("prefix=a&prefix=b", "invalid-parameter", &["?prefix"]),
        ("metadata=x", "invalid-parameter", &["?metadata"]),
        ("metadata[]=x", "invalid-parameter", &["?metadata"]),
        ("metadata[k]=a&metadata[k]=b", "invalid-parameter", &["?metadata"]),
        ("metadata[k]=%ff", "invalid-parameter", &["?metadata"]),
        ("metadata[k]=%0a", "invalid-parameter", &["?metadata"]),
        ("prefix[k]=x", "unknown-parameter", &["?prefix[k]"]),
        ("name=alice", "unknown-parameter", &["?name"]),
        ("frozen=true", "unknown-parameter", &["?frozen"]),
        ("cursor=x", "invalid-cursor", &["?cursor"]),
        ("cursor=", "invalid-cursor", &["?cursor"]),
    ] {
        cases.push(bare(&list(query), 400, code, places));
    }
    // A cursor of a history continues no list, nor the other way round.
    cases.push(bare(&list(&format!("cursor={cursor}")), 400, "invalid-cursor", &["?cursor"]));
    let history = format!("GET /v2/accounts/{account}/transactions?cursor={list_cursor}");
    cases.push(bare(&history, 400, "invalid-cursor", &["?cursor"]));
    for (head, place) in [
        (format!("GET /v2/holds/{hold}?x"), &["?x"]),
        (format!("POST /v2/holds/{hold}/void?dry_run=true"), &["?dry_run"]),
        (format!("GET /v2/accounts/{account}/holds?status=pending"), &["?status"]),
        (format!("GET /v2/accounts/{account}/links?kind=related"), &["?kind"]),
    ] {
        cases.push(bare(&head, 400, "unknown-parameter", place));
    }
    // Keys that stand for other requests.
    let keyed = |head: &str| format!("{head}\nidempotency-key: setup");
    cases.extend([
        with(&keyed(transfers), pair, 422, "idempotency-key-reused", &[]),
        with(
            &keyed("POST /v2/batches"),
            r#"{"items":[{"type":"x"},{"type":"deposit","account":"name:yen","amount":"1"}]}"#,
            422,
            "idempotency-key-reused",
            &[],
        ),
        with(
            &keyed("PATCH /v2/accounts/name:alice"),
            r#"{"frozen":true}"#,
            422,
            "idempotency-key-reused",
            &[],
        ),
        with(
            "PATCH /v2/accounts/name:alice\nif-match: \"1\"",
            r#"{"frozen":true}"#,
            412,
            "version-mismatch",
            &[],
        ),
        with(
            "PATCH /v2/accounts/name:alice\nif-match: 1",
            r#"{"frozen":true}"#,
            400,
            "invalid-if-match",
            &[":If-Match"],
        ),
        with("DELETE /v2/accounts/name:carol/links/name:frozen", "{}", 400, "unexpected-body", &[]),
    ]);
    // What is over is over.
    for (head, status, code) in [
        (format!("POST /v2/holds/{voided}/void"), 409, "hold-ended"),
        (format!("POST /v2/holds/{voided}/capture"), 409, "hold-ended"),
        (format!("PATCH /v2/accounts/{closed}"), 409, "account-closed"),
    ] {
        cases.push(with(&head, "{}", status, code, &[]));
    }
    let related = r#"{"kind":"related"}"#;
    cases.push(with(
        &format!("PUT /v2/accounts/{closed}/links/{other}"),
        related,
        409,
        "account-closed",
        &[],
    ));
    cases.push(with(
        &format!("PUT /v2/accounts/{other}/links/{closed}"),
        related,
        409,
        "account-closed",
        &[],
    ));
    cases
}

/// Batches that are refused as a whole, and, of those that are taken, items that are refused one by one.
fn wrong_batches(ids: &Ids) -> Vec<Case> {
    let batches = "POST /v2/batches";
    let ndjson = "POST /v2/batches\ncontent-type: application/x-ndjson";
    let item = r#"{"type":"deposit","account":"name:alice","amount":"1"}"#;
    let batch = format!("{{\"items\":[{item}]}}");
    let mut cases = vec![
        bare(batches, 400, "malformed-json", &[]),
        bare(ndjson, 400, "invalid-request", &[""]),
        with(batches, "{", 400, "malformed-json", &[]),
        with(batches, item, 400, "invalid-request", &["/type", "/account", "/amount", "/items"]),
        with(batches, format!("[{item}]"), 400, "invalid-request", &[""]),
        with(batches, "{}", 400, "invalid-request", &["/items"]),
        with(batches, r#"{"items":[]}"#, 400, "invalid-request", &["/items"]),
        with(batches, r#"{"items":{}}"#, 400, "invalid-request", &["/items"]),
        with(batches, r#"{"items":null}"#, 400, "invalid-request", &["/items"]),
        with(batches, format!("{{\"atomic\":1,\"items\":[{item}]}}"), 400, "invalid-request", &["/atomic"]),
        with(
            batches,
            format!("{{\"atomic\":null,\"items\":[{item}]}}"),
            400,
            "invalid-request",
            &["/atomic"],
        ),
        with(
            batches,
            format!("{{\"items\":[{item}],\"results\":\"all\"}}"),
            400,
            "invalid-request",
            &["/results"],
        ),
        with(
            batches,
            format!("{{\"items\":[{item}],\"items\":[{item}]}}"),
            400,
            "invalid-request",
            &["/items"],
        ),
        with(
            batches,
            format!("{{\"items\":[{}]}}", vec!["1"; 10_001].join(",")),
            400,
            "invalid-request",
            &["/items"],
        ),
        with(
            batches,
            format!("{{\"atomic\":true,\"items\":[{}]}}", vec![item; 1001].join(",")),
            413,
            "batch-too-large",
            &[],
        ),
        with(batches, " ".repeat(8 * 1024 * 1024 + 1), 413, "payload-too-large", &[]),
        with(batches, "[".repeat(8 * 1024 * 1024), 400, "malformed-json", &[]),
        with(ndjson, "\n \r\n\t\n", 400, "invalid-request", &[""]),
        with(ndjson, b"{\"type\":\"deposit\",\"account\":\"name:\xff\"}\n", 400, "malformed-json", &[]),
        with(ndjson, "1\n".repeat(10_001), 400, "invalid-request", &[""]),
        with(ndjson, " ".repeat(8 * 1024 * 1024 + 1), 413, "payload-too-large", &[]),
        with(
            &format!("{ndjson}\ncontent-encoding: gzip"),
            item,
            415,
            "unsupported-media-type",
            &[":Content-Encoding"],
        ),
        with(
            "POST /v2/batches\ncontent-type: application/ndjson",
            item,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ),
        with(
            "POST /v2/batches\ncontent-type: text/csv",
            &batch,
            415,
            "unsupported-media-type",
            &[":Content-Type"],
        ),
        with("POST /v2/batches?results=some", &batch, 400, "invalid-parameter", &["?results"]),
        with("POST /v2/batches?results=ALL", &batch, 400, "invalid-parameter", &["?results"]),
        with("POST /v2/batches?atomic=1", &batch, 400, "invalid-parameter", &["?atomic"]),
        with("POST /v2/batches?atomic=true&atomic=true", &batch, 400, "invalid-parameter", &["?atomic"]),
        with(
            "POST /v2/batches?atomic=maybe&results=",
            &batch,
            400,
            "invalid-parameter",
            &["?results", "?atomic"],
        ),
        with("POST /v2/batches?dry_run=true", &batch, 400, "unknown-parameter", &["?dry_run"]),
        with(
            "POST /v2/batches?atomic=false",
            format!("{{\"atomic\":true,\"items\":[{item}]}}"),
            400,
            "invalid-parameter",
            &["?atomic"],
        ),
        with(
            &format!("{batches}\nidempotency-key: "),
            &batch,
            400,
            "invalid-idempotency-key",
            &[":Idempotency-Key"],
        ),
    ];
    // A batch of items none of which can be done is answered with 200 and changes nothing.
    let Ids { hold, voided, account, .. } = ids;
    let items = [
        "1".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"type":"pay"}"#.to_owned(),
        r#"{"type":1}"#.to_owned(),
        r#"{"type":"deposit","type":"deposit","account":"name:alice","amount":"1"}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":1}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":"all"}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":"1","key":""}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":"1","key":7}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":"1","to":"x"}"#.to_owned(),
        r#"{"type":"deposit","account":"name:nobody","amount":"1"}"#.to_owned(),
        r#"{"type":"withdraw","account":"name:bob","amount":"1"}"#.to_owned(),
        r#"{"type":"withdraw","account":"name:alice","amount":"1","conditions":[{"account":"name:bob","version":9}]}"#.to_owned(),
        r#"{"type":"deposit","account":"name:alice","amount":"1","conditions":[{"account":"name:alice"}]}"#.to_owned(),
        r#"{"type":"close","account":"name:bob"}"#.to_owned(),
        r#"{"type":"open","name":"alice"}"#.to_owned(),
        r#"{"type":"open"}"#.to_owned(),
        r#"{"type":"hold","account":"name:alice","amount":"1","expires_in":0}"#.to_owned(),
        r#"{"type":"capture","hold":"name:alice"}"#.to_owned(),
        format!("{{\"type\":\"capture\",\"hold\":\"{account}\"}}"),
        format!("{{\"type\":\"capture\",\"hold\":\"{hold}\",\"amount\":\"1.01\"}}"),
        format!("{{\"type\":\"void\",\"hold\":\"{voided}\"}}"),
        format!("{{\"type\":\"void\",\"hold\":\"{}\"}}", forged(hold)),
    ];
    cases.push(with(batches, format!("{{\"items\":[{}]}}", items.join(",")), 200, NO_CODE, &[]));
    cases.push(with(ndjson, items.join("\n"), 200, NO_CODE, &[]));
    cases.push(with(ndjson, "\u{feff}{}\n{\nNaN\n\u{0}\n'x'", 200, NO_CODE, &[]));
    // All or nothing, with one that cannot be done at either end.
    for line in &items {
        cases.push(with(
            &ndjson.replacen("batches", "batches?atomic=true", 1),
            format!("{item}\n{line}"),
            200,
            NO_CODE,
            &[],
        ));
    }
    cases
}

/// Well-formed operations of version 2 that the ledger refuses.
fn refused_operations(ids: &Ids) -> Vec<Case> {
    let transfers = "POST /v2/transfers";
    let transfer = |from: &str, to: &str, amount: &str| {
        format!("{{\"from\":\"{from}\",\"to\":\"{to}\",\"amount\":\"{amount}\"}}")
    };
    let legs = |first: &str, second: &str| {
        format!(
            "{{\"legs\":[{{\"account\":\"name:alice\",\"amount\":\"{first}\"}},{{\"account\":\"name:carol\",\"amount\":\"{second}\"}}]}}"
        )
    };
    let Ids { account, closed, hold, other, .. } = ids;
    vec![
        with(transfers, transfer("name:alice", account, "1"), 422, "account-repeated", &["/to"]),
        with(transfers, transfer("name:alice", "name:yen", "1"), 422, "currency-mismatch", &["/to"]),
        with(transfers, transfer("name:frozen", "name:alice", "1"), 422, "account-frozen", &["/from"]),
        with(transfers, transfer("name:alice", closed, "1"), 409, "account-closed", &["/to"]),
        with(transfers, transfer("name:bob", "name:alice", "0.01"), 422, "insufficient-funds", &["/from"]),
        with(transfers, transfer("name:bob", "name:alice", "all"), 422, "nothing-available", &["/from"]),
        with(transfers, transfer("name:alice", "name:bob", "0.001"), 422, "too-many-decimals", &["/amount"]),
        with(transfers, transfer("name:yen", "name:alice", "1"), 422, "currency-mismatch", &["/to"]),
        with(
            transfers,
            transfer("name:alice", "name:bob", "999999999999999999999"),
            422,
            "insufficient-funds",
            &["/from"],
        ),
        with(transfers, legs("-1", "2"), 422, "legs-unbalanced", &["/legs"]),
        with(transfers, legs("1", "-0.5"), 422, "legs-unbalanced", &["/legs"]),
        with(transfers, legs("-0.001", "0.001"), 422, "too-many-decimals", &["/legs/0/amount"]),
        with(
            "POST /v2/holds",
            r#"{"account":"name:bob","amount":"1"}"#,
            422,
            "insufficient-funds",
            &["/account"],
        ),
        with(
            "POST /v2/holds",
            r#"{"account":"name:alice","amount":"1","to":"name:yen"}"#,
            422,
            "currency-mismatch",
            &["/to"],
        ),
        with(
            "POST /v2/holds",
            r#"{"account":"name:yen","amount":"0.5"}"#,
            422,
            "too-many-decimals",
            &["/amount"],
        ),
        with(
            &format!("POST /v2/holds/{hold}/capture"),
            r#"{"amount":"1.01"}"#,
            422,
            "hold-exceeded",
            &["/amount"],
        ),
        with(
            &format!("POST /v2/holds/{hold}/capture"),
            r#"{"amount":"0.0001"}"#,
            422,
            "too-many-decimals",
            &["/amount"],
        ),
        with(
            "PATCH /v2/accounts/name:yen",
            r#"{"overdraft_limit":"0.5"}"#,
            422,
            "too-many-decimals",
            &["/overdraft_limit"],
        ),
        with(
            "PATCH /v2/accounts/name:yen",
            r#"{"overdraft_limit":null,"velocity_limits":{"per_day":null,"per_month":"0.5"}}"#,
            422,
            "too-many-decimals",
            &["/velocity_limits/per_month"],
        ),
        with(
            &format!("POST /v2/transfers/{}/reverse", ids.transfer),
            r#"{"amount":"0.001"}"#,
            422,
            "too-many-decimals",
            &["/amount"],
        ),
        bare("GET /v2/events?account=name:alice,name:nobody", 404, "account-not-found", &["?account"]),
        with(
            "PUT /v2/accounts/name:alice/links/name:alice",
            r#"{"kind":"related"}"#,
            422,
            "account-repeated",
            &[],
        ),
        with(
            "PUT /v2/accounts/name:frozen/links/name:carol",
            r#"{"kind":"overdraft-protection"}"#,
            422,
            "link-cycle",
            &[],
        ),
        with(
            "PUT /v2/accounts/name:alice/links/name:yen",
            r#"{"kind":"overdraft-protection"}"#,
            422,
            "currency-mismatch",
            &[],
        ),
        with(
            "PUT /v2/accounts/name:carol/links/name:rich",
            r#"{"kind":"overdraft-protection"}"#,
            422,
            "links-exhausted",
            &[],
        ),
        bare("GET /v2/accounts/name:alice/links/name:bob", 404, "link-not-found", &[]),
        bare("DELETE /v2/accounts/name:alice/links/name:bob", 404, "link-not-found", &[]),
        bare(&format!("DELETE /v2/accounts/{other}/links/name:nobody"), 404, "account-not-found", &[]),
        with(
            &format!("POST /v2/transfers/{}/reverse", ids.transfer),
            r#"{"amount":"1.01"}"#,
            422,
            "reversal-exceeded",
            &["/amount"],
        ),
    ]
}

/// Ids and a cursor that are good, to be used where they are not.
struct Ids {
    account: String,
    other: String,
    closed: String,
    transaction: String,
    cursor: String,
    /// Of version 2: a pending hold and a voided one, a transfer from alice to carol, a cursor of the list of accounts.
    hold: String,
    voided: String,
    transfer: String,
    list_cursor: String,
}

/// The id with another time in it: what a guesser would try.
fn forged(id: &str) -> String {
    let last = if id.as_bytes()[7] == b'0' { "1" } else { "0" };
    format!("{}{last}{}", &id[..7], &id[8..])
}

async fn set_up(service: &Service) -> Ids {
    service.post("/accounts", r#"{"name":"alice"}"#).await;
    let key = [("idempotency-key", "setup")];
    let deposit = service.send("POST", "/accounts/alice/deposit", &key, r#"{"amount":100}"#).await;
    service.post("/accounts/alice/deposit", r#"{"amount":5}"#).await;
    service.post("/accounts/alice/withdraw", r#"{"amount":5}"#).await;
    let text = |reply: &Reply, name: &str| reply.json()[name].as_str().expect("a text").to_owned();
    let account = text(&service.get("/accounts/alice").await, "id");
    let bob = service.post("/v2/accounts", r#"{"name":"bob","overdraft_limit":"0"}"#).await;
    let closed = service.post("/accounts", r#"{"name":"closed"}"#).await;
    assert_eq!(service.send("DELETE", "/accounts/closed", &[], "").await.status, 204);
    service.open_with("rich", "60000000000000000000000").await;
    let with_key = service.send("POST", "/v2/accounts", &key, r#"{"name":"carol"}"#).await;
    assert_eq!(with_key.status, 201);
    let page = service.get(&format!("/v2/accounts/{account}/transactions?limit=1")).await;
    let hold = service.post("/v2/holds", r#"{"account":"name:alice","amount":"1"}"#).await;
    let voided = service.post("/v2/holds", r#"{"account":"name:alice","amount":"1"}"#).await;
    let void = format!("/v2/holds/{}/void", text(&voided, "id"));
    assert_eq!(service.post(&void, "{}").await.status, 201);
    let pair = r#"{"from":"name:alice","to":"name:carol","amount":"1"}"#;
    let transfer = service.send("POST", "/v2/transfers", &key, pair).await;
    assert_eq!(transfer.status, 201);
    let yen = r#"{"name":"yen","currency":"JPY","unique_reference":true,"metadata":{"k":"v"}}"#;
    assert_eq!(service.post("/v2/accounts", yen).await.status, 201);
    let deposit_yen = r#"{"items":[{"type":"deposit","account":"name:yen","amount":"100","reference":"r"}]}"#;
    assert_eq!(service.send("POST", "/v2/batches", &key, deposit_yen).await.json()["executed"], 1);
    let frozen = service.open_with("frozen", "10").await;
    let frozen = format!("/v2/accounts/{}", frozen["id"].as_str().expect("an id"));
    assert_eq!(service.send("PATCH", &frozen, &[], r#"{"frozen":true}"#).await.status, 200);
    let kind = r#"{"kind":"overdraft-protection"}"#;
    let link = service.send("PUT", "/v2/accounts/name:carol/links/name:frozen", &[], kind).await;
    assert_eq!(link.status, 201);
    let list = service.get("/v2/accounts?limit=1").await;
    Ids {
        hold: text(&hold, "id"),
        voided: text(&voided, "id"),
        transfer: text(&transfer, "id"),
        list_cursor: text(&list, "next"),
        account,
        other: text(&bob, "id"),
        closed: text(&closed, "id"),
        transaction: text(&deposit, "id"),
        cursor: text(&page, "next"),
    }
}

/// Everything that can be seen of the ledger: each account with its holds and links, and what all add up to. That each
/// is at the same version says that no transaction has come.
async fn whole_ledger(service: &Service, ids: &Ids) -> Vec<String> {
    let page = service.get("/v2/accounts?limit=1000").await;
    let mut seen = vec![page.text().to_owned(), service.get("/v2/trial-balance").await.text().to_owned()];
    assert_eq!(page.json()["count"], 7);
    for account in page.json()["items"].as_array().expect("a list") {
        let id = account["id"].as_str().expect("an id");
        for path in [format!("/v2/accounts/{id}/holds"), format!("/v2/accounts/{id}/links")] {
            seen.push(service.get(&path).await.text().to_owned());
        }
    }
    let transfer = service.get(&format!("/v2/transfers/{}", ids.transfer)).await;
    seen.push(transfer.text().to_owned());
    seen
}

#[tokio::test]
async fn hostile_requests_are_answered_exactly_and_change_nothing() {
    let service = Service::start().await;
    let ids = set_up(&service).await;
    let before = whole_ledger(&service, &ids).await;
    let cases: Vec<Case> = [
        malformed_http(),
        wrong_addresses(&ids),
        wrong_headers(),
        unwanted_changes(&ids),
        wrong_bodies(),
        wrong_in_version_two(&ids),
        wrong_operations(&ids),
        wrong_batches(&ids),
        refused_by_the_ledger(&ids),
        refused_operations(&ids),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 900, "{} cases", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let bytes = service.send_bytes(&case.request, true).await;
        let found = match Reply::parse(&bytes) {
            Some((reply, rest)) => {
                if !rest.is_empty() {
                    failures.push(format!("{}\n  is followed by {rest:?}", shown(&case.request)));
                }
                if !reply.code().is_empty() {
                    assert_eq!(reply.json()["request_id"], reply.header("x-request-id"));
                    assert!(reply.body.len() < 8192, "a refusal is short");
                    assert_eq!(reply.status == 405, !reply.header("allow").is_empty(), "{reply:?}");
                }
                (reply.status.as_u16(), reply.code(), reply.places())
            }
            None if bytes.is_empty() => (CLOSED, String::new(), Vec::new()),
            None => panic!("not a reply: {:?}", String::from_utf8_lossy(&bytes)),
        };
        let places: Vec<String> = case.places.iter().map(|&place| place.to_owned()).collect();
        let expected = (case.status, case.code.to_owned(), places);
        if found != expected {
            failures.push(format!("{}\n  expected {expected:?}\n     found {found:?}", shown(&case.request)));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));

    assert_eq!(whole_ledger(&service, &ids).await, before);
    let deposit = service.post("/accounts/alice/deposit", ONE).await;
    assert!(deposit.text().contains(r#""balance":100.00"#), "{deposit:?}");
    assert_eq!(service.get("/v2/trial-balance").await.json()["balanced"], true);
    service.stop().await;
}

fn shown(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let head: String = text.chars().take(160).collect();
    format!("{head:?} ({} bytes)", request.len())
}

#[tokio::test]
async fn slow_clients_are_not_waited_for() {
    let limits = Limits {
        head_read_time_max: Duration::from_millis(100),
        body_read_time_max: Duration::from_millis(100),
        ..Limits::default()
    };
    let patient = Service::start().await;
    let ids = set_up(&patient).await;
    let before = whole_ledger(&patient, &ids).await;
    let service = Service::starting(limits).await;
    service.api.ready(Arc::clone(&patient.bank.as_ref().expect("ready").bank));
    let half_a_body = "POST /accounts/alice/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"am";
    let half_a_chunk =
        "POST /accounts/alice/deposit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nc\r\n{";
    let no_body = "DELETE /accounts/bob HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n";
    for (request, status, code) in [
        ("", CLOSED, ""),
        ("GET /acc", CLOSED, ""),
        ("GET /accounts/alice HTTP/1.1\r\nhost: x\r\nx: ", CLOSED, ""),
        (half_a_body, 408, "request-timeout"),
        (half_a_chunk, 408, "request-timeout"),
        (no_body, 408, "request-timeout"),
        // After a reply, waiting for the next request is no different.
        ("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200, ""),
    ] {
        let bytes = service.send_bytes(request.as_bytes(), false).await;
        let found = Reply::parse(&bytes).map_or((CLOSED, String::new()), |(reply, rest)| {
            assert!(rest.is_empty());
            (reply.status.as_u16(), reply.code())
        });
        assert_eq!(found, (status, code.to_owned()), "{request:?}");
    }
    assert_eq!(whole_ledger(&patient, &ids).await, before);
    service.stop().await;
    patient.stop().await;
}
