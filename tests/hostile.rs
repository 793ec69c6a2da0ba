//! Requests that nobody should send: each has its exact answer, and none leaves a trace in the ledger.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Reply, Service};
use teller::bank::{AccountSelector, EntryFilter, Order, Page};
use teller::http::Limits;
use teller::ledger::AccountId;
use teller::shard::batch::TrialBalance;

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
        bare(&format!("GET /{}", "a".repeat(4096)), 414, "uri-too-long", &[]),
        bare(&format!("GET /accounts/a?{}", "a".repeat(4096)), 414, "uri-too-long", &[]),
        raw("GET /accounts/alice HTTP/1.1\r\n\r\n", 400, "invalid-host", &[]),
        raw(get("host: y\r\n"), 400, "invalid-host", &[]),
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
        bare("OPTIONS *", 404, "not-found", &[]),
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
        bare("OPTIONS /accounts?x", 400, "unknown-parameter", &["?x"]),
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
        with(&format!("{WITHDRAW}\nif-match: \"x\""), ONE, 400, "invalid-if-match", &[":If-Match"]),
        bare("DELETE /accounts/bob\nif-match: \"-1\"", 400, "invalid-if-match", &[":If-Match"]),
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
            r#"{"amount":100000000000000000000000.01}"#,
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
        "\"1.001\"",
        "\"0.000000001\"",
        "\"1e-3\"",
        "\"NaN\"",
        "\"1e400\"",
        "\"100000000000000000000000.01\"",
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
            r#""1.001""#,
            r#""1.000""#,
            r#""1,5""#,
            r#"" 1""#,
            r#""1 ""#,
            r#""NaN""#,
            r#""Infinity""#,
            r#""0x1""#,
            r#""١""#,
            r#""all""#,
            r#""\ud800""#,
            r#""1000000000000000000000000""#,
            r#""1","amount":"1""#,
        ] {
            let body = format!("{{\"amount\":{amount}}}");
            cases.push(with(&head, body, 400, "invalid-request", &["/amount"]));
        }
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

/// Ids and a cursor that are good, to be used where they are not.
struct Ids {
    account: String,
    other: String,
    closed: String,
    transaction: String,
    cursor: String,
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
    Ids {
        account,
        other: text(&bob, "id"),
        closed: text(&closed, "id"),
        transaction: text(&deposit, "id"),
        cursor: text(&page, "next"),
    }
}

/// Everything that can be seen of the ledger.
async fn whole_ledger(service: &Service, ids: &Ids) -> (Vec<Page>, TrialBalance) {
    let bank = Arc::clone(&service.bank.as_ref().expect("ready").bank);
    let mut pages = Vec::new();
    for id in [&ids.account, &ids.other, &ids.closed] {
        let account = AccountSelector::Id(AccountId::parse(id).expect("an id"));
        pages.push(bank.history(account, EntryFilter::default(), Order::Ascending, None, 1000).await.expect("readable"));
    }
    for name in ["rich", "carol"] {
        let account = AccountSelector::Name(teller::ledger::AccountName::parse(name).expect("valid"));
        pages.push(bank.history(account, EntryFilter::default(), Order::Ascending, None, 1000).await.expect("readable"));
    }
    (pages, bank.trial_balance().await.expect("running"))
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
        wrong_bodies(),
        wrong_in_version_two(&ids),
        refused_by_the_ledger(&ids),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 480, "{} cases", cases.len());
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
    assert!(deposit.text().contains(r#""balance":101.00"#), "{deposit:?}");
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
