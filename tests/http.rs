//! The HTTP interface from the outside: over a socket, as a client sees it.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{MemoryBank, Reply, Service, TIME_MAX, in_time, read_first, read_more, read_to_end};
use teller::bank::{AccountSelector, Bank, BatchItem, BatchItems, BatchRefusal, Origin, Refusal};
use teller::http::{Code, Drained, Limits};
use teller::ledger::operation::{Opening, Operation};
use teller::ledger::{
    AccountName, Amount, Direction, IdempotencyKey, KeyDigest, Note, Quantity, Sequence, Timestamp,
};
use teller::storage::StorageError;
use teller::storage::journal::JournalReader;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// How many requests with large bodies there are at one time.
const LARGE_BODIES_MAX: u64 = 64;

#[tokio::test]
async fn an_account_lives_and_is_closed_in_version_one() {
    let service = Service::start().await;
    let opened = service.post("/accounts", r#"{"name": "Zoë / 1"}"#).await;
    assert_eq!(opened.status, 201);
    assert_eq!(opened.header("content-type"), "application/json");
    assert_eq!(opened.header("location"), "/accounts/Zo%C3%AB%20%2F%201");
    assert_eq!(opened.header("etag"), "\"1\"");
    let account = opened.json();
    let path = opened.header("location").to_owned();
    assert_eq!(account["name"], "Zoë / 1");
    assert!(opened.text().contains(r#""balance":0.00,"#));
    assert_eq!(account["isDeleted"], false);
    assert_eq!(account["deleted"], Value::Null);
    assert!(account["created"].is_u64() && account["created"] == account["updated"]);

    let deposit = service.post(&format!("{path}/deposit"), r#"{"amount": 12.349}"#).await;
    assert_eq!(deposit.status, 201);
    let transaction = deposit.json();
    assert_eq!(transaction["account"], "Zoë / 1");
    assert_eq!(transaction["type"], "DEPOSIT");
    assert!(deposit.text().contains(r#""amount":12.34,"balance":12.34,"#), "{deposit:?}");

    let withdrawal = service.post(&format!("{path}/withdraw"), r#"{"amount": "62.34"}"#).await;
    assert_eq!(withdrawal.status, 201);
    assert!(withdrawal.text().contains(r#""type":"WITHDRAWAL","amount":-62.34,"balance":-50.00,"#));
    for path in ["/transaction/", "/transactions/"] {
        let path = format!("{path}{}", withdrawal.json()["id"].as_str().unwrap());
        let read = service.get(&path).await;
        assert_eq!((read.status.as_u16(), &read.body), (200, &withdrawal.body));
    }
    assert!(withdrawal.header("location").starts_with("/transactions/"));

    let refused = service.post(&format!("{path}/withdraw"), r#"{"amount": 0.01}"#).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "insufficient-funds"));
    assert!(refused.text().contains(r#""available":0.00,"required":0.01"#));
    let refused = service.send("DELETE", &path, &[], "").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "account-not-empty"));
    assert!(refused.text().contains(r#""balance":-50.00"#));

    service.post(&format!("{path}/deposit"), r#"{"amount": 50}"#).await;
    let closed = service.send("DELETE", &path, &[], "").await;
    assert_eq!((closed.status.as_u16(), closed.body.len()), (204, 0));
    assert_eq!(service.get(&path).await.code(), "account-not-found");
    assert_eq!(
        service.post(&format!("{path}/deposit"), r#"{"amount": 1}"#).await.code(),
        "account-not-found"
    );
    assert_eq!(service.post("/accounts", r#"{"name": "Zoë / 1"}"#).await.code(), "account-exists");
    let by_id = service.get(&format!("/v2/accounts/{}", account["id"].as_str().unwrap())).await;
    assert_eq!(by_id.status, 200);
    assert!(by_id.json()["closed"].is_string());
    service.stop().await;
}

#[tokio::test]
async fn version_two_speaks_of_the_same_accounts_by_id() {
    let service = Service::start().await;
    let opened = service.post("/v2/accounts", r#"{"name": "a", "overdraft_limit": "10.5"}"#).await;
    assert_eq!(opened.status, 201);
    let account = opened.json();
    let path = opened.header("location").to_owned();
    assert_eq!(account["overdraft_limit"], "10.50");
    assert_eq!(account["available"], "10.50");
    assert_eq!(account["posted"], "0.00");
    assert_eq!(account["currency"], "USD");
    assert_eq!(account["version"], 1);
    assert_eq!(service.get(&path).await.body, opened.body);
    assert_eq!(service.get("/accounts/a").await.json()["id"], account["id"]);

    let with_default = service.post("/v2/accounts", r#"{"name": "b"}"#).await;
    assert_eq!(with_default.json()["overdraft_limit"], "50.00");
    assert_eq!(service.get(with_default.header("location")).await.body, with_default.body);

    let refused = service.post("/accounts/a/withdraw", r#"{"amount": 10.51}"#).await;
    assert!(refused.text().contains(r#""available":10.50,"required":10.51"#));
    service.post("/accounts/a/withdraw", r#"{"amount": 10.50}"#).await;
    let refused = service.send("DELETE", &path, &[], "").await;
    assert_eq!(
        (refused.code().as_str(), &refused.json()["balance"]),
        ("account-not-empty", &json!("-10.50"))
    );
    service.post("/accounts/a/deposit", r#"{"amount": 10.50}"#).await;
    assert_eq!(service.send("DELETE", &path, &[], "").await.status, 204);
    assert_eq!(service.send("DELETE", &path, &[], "").await.code(), "account-closed");
    service.stop().await;
}

#[tokio::test]
async fn history_is_read_page_by_page_in_both_orders() {
    let service = Service::start().await;
    let account = service.open_with("a", "1").await;
    for amount in 2..=7 {
        service.post("/accounts/a/deposit", &format!("{{\"amount\":{amount}}}")).await;
    }
    let path = format!("/v2/accounts/{}/transactions", account["id"].as_str().unwrap());
    let amounts = |reply: &Reply| -> Vec<String> {
        let page = reply.json();
        let items = page["items"].as_array().unwrap();
        assert_eq!(page["count"], items.len());
        items.iter().map(|item| item["amount"].as_str().unwrap().to_owned()).collect()
    };
    for (order, expected) in [
        ("desc", ["7.00", "6.00", "5.00", "4.00", "3.00", "2.00", "1.00"]),
        ("asc", ["1.00", "2.00", "3.00", "4.00", "5.00", "6.00", "7.00"]),
    ] {
        let mut seen = Vec::new();
        let mut next = format!("{path}?limit=3&order={order}");
        loop {
            let page = service.get(&next).await;
            assert_eq!(page.status, 200, "{page:?}");
            seen.extend(amounts(&page));
            let Some(cursor) = page.json()["next"].as_str().map(str::to_owned) else {
                assert_eq!(page.header("link"), "");
                break;
            };
            next = format!("{path}?limit=3&order={order}&cursor={cursor}");
            assert_eq!(page.header("link"), format!("<{next}>; rel=\"next\""));
        }
        assert_eq!(seen, expected);
    }
    let first = service.get(&path).await;
    assert_eq!(amounts(&first).len(), 7);
    let item = &first.json()["items"][0];
    assert_eq!(
        (&item["type"], &item["balance"], &item["version"]),
        (&json!("deposit"), &json!("28.00"), &json!(8))
    );
    assert_eq!(item["account_id"], account["id"]);
    // New entries do not move a page that has been begun.
    let page = service.get(&format!("{path}?limit=2")).await;
    service.post("/accounts/a/deposit", r#"{"amount":8}"#).await;
    let cursor = page.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(amounts(&service.get(&format!("{path}?limit=2&cursor={cursor}")).await), ["5.00", "4.00"]);
    service.stop().await;
}

#[tokio::test]
async fn the_books_balance() {
    let service = Service::start().await;
    let empty = service.get("/v2/trial-balance").await.json();
    let links = json!({"self": {"href": "/v2/trial-balance"}});
    assert_eq!(empty, json!({"balanced": true, "currencies": [], "_links": links}));
    service.open_with("a", "10").await;
    service.open_with("b", "5").await;
    service.post("/accounts/b/withdraw", r#"{"amount": 7.5}"#).await;
    let balance = service.get("/v2/trial-balance").await.json();
    assert_eq!(
        balance,
        json!({"balanced": true, "currencies": [{
            "currency": "USD", "accounts": 2, "credit": "10.00", "debit": "-2.50", "world": "-7.50",
            "in_flight": "0.00", "sum": "0.00"
        }], "_links": links})
    );
    service.stop().await;
}

#[tokio::test]
async fn a_repeated_request_takes_effect_once() {
    let service = Service::start().await;
    let headers = [("idempotency-key", "k-1"), ("x-request-id", "first")];
    let again = [("idempotency-key", "\"k-1\""), ("x-request-id", "second")];
    for (method, path, body, status) in [
        ("POST", "/accounts", r#"{"name":"a"}"#, 201),
        ("POST", "/accounts/a/withdraw", r#"{"amount":50.01}"#, 422),
        ("POST", "/v2/accounts", r#"{"name":"a"}"#, 422),
        ("DELETE", "/accounts/a", "", 422),
        ("DELETE", "/accounts/b", "", 404),
    ] {
        let first = service.send(method, path, &headers, body).await;
        assert_eq!(first.status, status, "{first:?}");
        assert_eq!(first.header("x-request-id"), "first");
        assert_eq!(first.header("idempotent-replayed"), "");
        if ["idempotency-key-reused"].contains(&first.code().as_str()) {
            continue;
        }
        let second = service.send(method, path, &again, body).await;
        assert_eq!((second.status, &second.body), (first.status, &first.body));
        assert_eq!(second.header("x-request-id"), "second");
        assert_eq!(second.header("idempotent-replayed"), "true", "{second:?}");
        assert_eq!(second.header("location"), first.header("location"));
    }
    let key = [("idempotency-key", "k-2")];
    let first = service.send("POST", "/accounts/a/deposit", &key, r#"{"amount":1}"#).await;
    let second = service.send("POST", "/accounts/a/deposit", &key, r#"{"amount":1}"#).await;
    assert_eq!((first.status.as_u16(), &first.body), (201, &second.body));
    let other = service.send("POST", "/accounts/a/deposit", &key, r#"{"amount":2}"#).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "idempotency-key-reused"));
    // The scope of a key is the account.
    service.open_with("b", "5").await;
    assert_eq!(service.send("POST", "/accounts/b/deposit", &key, r#"{"amount":2}"#).await.status, 201);
    // Opening with one key under two names meets at the key's home, whichever shards own the names.
    for number in 0..8 {
        let body = format!("{{\"name\":\"new-{number}\"}}");
        let reply = service.send("POST", "/accounts", &[("idempotency-key", "k-3")], &body).await;
        assert_eq!(reply.status.as_u16(), if number == 0 { 201 } else { 422 });
    }
    // A malformed request does not use up its key.
    let key = [("idempotency-key", "k-4")];
    assert_eq!(service.send("POST", "/accounts/a/deposit", &key, "{").await.status, 400);
    assert_eq!(service.send("POST", "/accounts/a/deposit", &key, r#"{"amount":2}"#).await.status, 201);
    assert!(service.get("/accounts/a").await.text().contains(r#""balance":3.00"#));
    // It is the account that counts, not the way to name it.
    let id = service.get("/accounts/a").await.json()["id"].as_str().expect("an id").to_owned();
    let by_id = service.send("DELETE", &format!("/v2/accounts/{id}"), &key, "").await;
    assert_eq!((by_id.status.as_u16(), by_id.code().as_str()), (422, "idempotency-key-reused"));
    // With another version to match it is another request; a refusal of the first is not its answer.
    for (version, status) in [("\"1\"", 412), ("\"1\"", 412), ("\"4\"", 422)] {
        let headers = [("idempotency-key", "k-6"), ("if-match", version)];
        let reply = service.send("POST", "/accounts/a/deposit", &headers, r#"{"amount":2}"#).await;
        assert_eq!(reply.status.as_u16(), status);
    }
    // Names that clients would resolve away as part of a path are given back encoded.
    let dots = service.post("/accounts", r#"{"name":".."}"#).await;
    assert_eq!((dots.status.as_u16(), dots.header("location")), (201, "/accounts/%2E%2E"));
    let key = [("idempotency-key", "k-5")];
    service.post("/accounts/a/withdraw", r#"{"amount":3}"#).await;
    for replayed in ["", "true"] {
        let closed = service.send("DELETE", "/accounts/a", &key, "").await;
        assert_eq!((closed.status.as_u16(), closed.header("idempotent-replayed")), (204, replayed));
    }
    service.stop().await;
}

#[tokio::test]
async fn conditions_are_about_the_accounts_version() {
    let service = Service::start().await;
    let account = service.open_with("a", "1").await;
    let by_id = format!("/v2/accounts/{}", account["id"].as_str().unwrap());
    for path in ["/accounts/a", by_id.as_str()] {
        let read = service.get(path).await;
        assert_eq!((read.header("etag"), read.header("cache-control")), ("\"2\"", "no-cache"));
        for tag in ["\"2\"", "W/\"2\"", "\"1\", \"2\"", "*"] {
            let unchanged = service.send("GET", path, &[("if-none-match", tag)], "").await;
            assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
            assert_eq!(unchanged.header("etag"), "\"2\"");
        }
        assert_eq!(service.send("GET", path, &[("if-none-match", "\"1\"")], "").await.status, 200);
    }
    for (method, path, body) in [
        ("POST", "/accounts/a/deposit", r#"{"amount":1}"#),
        ("POST", "/accounts/a/withdraw", r#"{"amount":1}"#),
        ("DELETE", "/accounts/a", ""),
        ("DELETE", &by_id, ""),
    ] {
        let refused = service.send(method, path, &[("if-match", "\"1\"")], body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (412, "version-mismatch"));
        assert_eq!(refused.json()["version"], 2);
    }
    let withdraw = async |tag: &str| {
        let headers = [("if-match", tag)];
        let path = "/accounts/a/withdraw";
        service.send("POST", path, &headers, r#"{"amount":0.5}"#).await
    };
    assert_eq!(withdraw("\"2\"").await.status, 201);
    assert_eq!(withdraw("\"2\"").await.status, 412);
    assert_eq!(withdraw("*").await.status, 201);
    assert_eq!(service.send("DELETE", &by_id, &[("if-match", "\"4\"")], "").await.status, 204);

    let transaction = service.open_with("b", "1").await;
    let page =
        service.get(&format!("/v2/accounts/{}/transactions", transaction["id"].as_str().unwrap())).await;
    let id = page.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let read = service.get(&format!("/transactions/{id}")).await;
    assert_eq!(read.header("etag"), format!("\"{id}\""));
    assert!(read.header("cache-control").contains("immutable"));
    let tag = format!("\"{id}\"");
    let headers = [("if-none-match", tag.as_str())];
    assert_eq!(service.send("GET", &format!("/transactions/{id}"), &headers, "").await.status, 304);
    service.stop().await;
}

/// The tag of an account is its version, but its allowance comes back as time passes. A client that asked whether its
/// copy still held was told so, and went on to believe that nothing may leave the account.
#[tokio::test]
async fn an_account_with_velocity_limits_is_always_sent_whole() {
    static NOW_MS: AtomicU64 = AtomicU64::new(1_800_000_000_000);
    const WINDOW_MS: u64 = 60_000;
    let now = || Timestamp::from_millis(NOW_MS.load(Ordering::Relaxed));
    let service = Service::over(MemoryBank::start_at(1, 100, |log| log, now), Limits::default()).await;
    let limits =
        json!({ "name": "a", "velocity_limits": { "debits": { "count": 1, "window_seconds": 60 } } });
    assert_eq!(service.post("/v2/accounts", &limits.to_string()).await.status, 201);
    let (by_name, withdrawals) = ("/v2/accounts/name:a", "/v2/accounts/name:a/withdrawals");
    assert_eq!(service.post(withdrawals, r#"{"amount":"1"}"#).await.status, 201);
    let read = service.get(by_name).await;
    assert_eq!(read.header("etag"), "\"2\"");
    assert_eq!(read.json()["allowance"]["debits"], 0);
    NOW_MS.fetch_add(WINDOW_MS, Ordering::Relaxed);
    let again = service.send("GET", by_name, &[("if-none-match", "\"2\"")], "").await;
    assert_eq!((again.status.as_u16(), again.header("etag")), (200, "\"2\""));
    assert_eq!(
        (&again.json()["allowance"]["debits"], again.header("cache-control")),
        (&json!(1), "no-store")
    );
    // Its tag is what If-Match asks for all the same.
    let withdraw =
        async |tag| service.send("POST", withdrawals, &[("if-match", tag)], r#"{"amount":"1"}"#).await;
    assert_eq!(withdraw("\"1\"").await.status, 412);
    assert_eq!(withdraw("\"2\"").await.status, 201);
    // Version 1 shows no allowance.
    let unchanged = service.send("GET", "/accounts/a", &[("if-none-match", "\"3\"")], "").await;
    assert_eq!(unchanged.status, 304);
    service.stop().await;
}

#[tokio::test]
async fn an_account_reference_is_an_id_or_a_name() {
    let service = Service::start().await;
    let opened = service.post("/v2/accounts", r#"{"name": "a/b 1"}"#).await;
    let id = opened.json()["id"].as_str().unwrap().to_owned();
    let by_name = "/v2/accounts/name:a%2Fb%201";
    assert_eq!(service.get(by_name).await.body, opened.body);
    assert_eq!(service.get("/v2/accounts/name%3Aa%2Fb%201").await.body, opened.body);
    let key = [("idempotency-key", "k")];
    let body = r#"{"amount":"12.34"}"#;
    let first = service.send("POST", &format!("{by_name}/deposits"), &key, body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let transaction = first.json();
    assert_eq!(
        (&transaction["amount"], &transaction["balance"], &transaction["type"], &transaction["account_id"]),
        (&json!("12.34"), &json!("12.34"), &json!("deposit"), &json!(id))
    );
    // The key belongs to the account, and the request is the same, whichever way it refers to the account.
    let again = service.send("POST", &format!("/v2/accounts/{id}/deposits"), &key, body).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), ("true", &first.body));
    let read = service.get(first.header("location")).await;
    // The reply is the account's entry; what is there has all sides of the transaction, of which this has one.
    let sides = read.json()["accounts"].clone();
    assert_eq!((read.status.as_u16(), &read.json()["id"]), (200, &transaction["id"]));
    assert_eq!(
        (&sides[0]["account_id"], &sides[0]["amount"], &sides[1]),
        (&json!(id), &json!("12.34"), &Value::Null)
    );
    assert_eq!(first.header("location"), transaction["_links"]["self"]["href"]);
    let history = service.get(&format!("{by_name}/transactions")).await;
    assert_eq!(history.json()["items"], json!([transaction]));
    assert_eq!(history.body, service.get(&format!("/v2/accounts/{id}/transactions")).await.body);
    let withdrawn = service.post(&format!("{by_name}/withdrawals"), body).await;
    assert_eq!(
        (&withdrawn.json()["amount"], &withdrawn.json()["balance"]),
        (&json!("-12.34"), &json!("0.00"))
    );
    assert_eq!(service.send("DELETE", by_name, &[], "").await.status, 204);
    assert_eq!(service.get(by_name).await.code(), "account-not-found");
    assert_eq!(service.get(&format!("/v2/accounts/{id}")).await.status, 200);
    // A reply that was lost is still to be had by the name that the request used.
    let again = service.send("POST", &format!("{by_name}/deposits"), &key, body).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body));
    service.stop().await;
}

#[tokio::test]
async fn links_show_what_can_be_done() {
    let service = Service::start().await;
    let links = async |path: &str| -> Vec<String> {
        let account = service.get(path).await.json();
        account["_links"].as_object().unwrap().keys().cloned().collect()
    };
    service.post("/v2/accounts", r#"{"name": "a"}"#).await;
    let path = service.get("/v2/accounts/name:a").await.json()["_links"]["self"]["href"].clone();
    let path = path.as_str().unwrap();
    let open =
        ["close", "deposits", "holds", "links", "self", "statement", "transactions", "update", "withdrawals"];
    assert_eq!(links(path).await, open);
    service.post("/accounts/a/deposit", r#"{"amount":1}"#).await;
    assert_eq!(links(path).await, open[1..]);
    service.post("/accounts/a/withdraw", r#"{"amount":1}"#).await;
    service.send("DELETE", path, &[], "").await;
    assert_eq!(links(path).await, ["holds", "links", "self", "statement", "transactions"]);
    // Every link of the service that is no template leads somewhere.
    let root = service.get("/").await.json();
    assert_eq!(root["name"], "teller");
    let account = &root["_links"]["account"];
    assert_eq!(account, &json!({"href": "/v2/accounts/{account}{?at}", "templated": true}));
    let history = &root["_links"]["transactions"]["href"];
    assert_eq!(
        history,
        "/v2/accounts/{account}/transactions{?limit,order,cursor,types,from,to,amount_min,amount_max,reference}"
    );
    for (name, link) in root["_links"].as_object().unwrap() {
        if link["templated"] != true {
            let found = service.send("OPTIONS", link["href"].as_str().unwrap(), &[], "").await;
            assert_eq!(found.status, 204, "{name}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn every_reply_says_how_long_it_holds() {
    let service = Service::start().await;
    let account = service.open_with("a", "1").await;
    let history = format!("/v2/accounts/{}/transactions", account["id"].as_str().unwrap());
    for (path, caching) in [
        ("/", "public, max-age=3600"),
        ("/openapi.json", "public, max-age=3600"),
        ("/docs", "public, max-age=3600"),
        ("/problems", "public, max-age=3600"),
        ("/problems/overloaded", "public, max-age=3600"),
        ("/v2/trial-balance", "no-cache"),
        (history.as_str(), "no-cache"),
        ("/v2/accounts/name:a", "no-cache"),
    ] {
        let read = service.get(path).await;
        let etag = read.header("etag").to_owned();
        assert_eq!((read.status.as_u16(), read.header("cache-control")), (200, caching), "{path}");
        assert!(etag.starts_with('"') && etag.len() > 2, "{path}");
        for method in ["GET", "HEAD"] {
            let headers = [("if-none-match", etag.as_str())];
            let unchanged = service.send(method, path, &headers, "").await;
            assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0), "{path}");
            assert_eq!((unchanged.header("etag"), unchanged.header("cache-control")), (&*etag, caching));
        }
    }
    let before = service.get(&history).await.header("etag").to_owned();
    service.post("/accounts/a/deposit", r#"{"amount":1}"#).await;
    assert_ne!(service.get(&history).await.header("etag"), before);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(service.get(path).await.header("cache-control"), "no-store", "{path}");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_service_describes_itself_before_it_has_started() {
    let service = Service::starting(Limits::default()).await;
    let document = service.get("/openapi.json").await;
    assert_eq!((document.status.as_u16(), document.header("content-type")), (200, "application/json"));
    assert_eq!(document.json()["openapi"], "3.1.0");
    let page = service.get("/docs").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    for path in document.json()["paths"].as_object().unwrap().keys() {
        assert!(page.text().contains(path.as_str()), "{path}");
    }
    assert_eq!(service.get("/").await.status, 200);
    service.stop().await;
}

/// The examples of the page refused one another: all had one key, both sides were one account, and conditions asked for a
/// version that no account had.
#[tokio::test]
async fn the_examples_of_the_page_are_done() {
    let service = Service::start().await;
    for name in ["alice", "bob"] {
        service.open_with(name, "100").await;
    }
    let page = service.get("/docs").await;
    let unescape = |text: &str| {
        let text = text.replace("&quot;", "\"").replace("&#39;", "'");
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    };
    let (mut done, mut keys) = (0, Vec::new());
    for example in page.text().split("<pre>").skip(1).filter_map(|rest| rest.split("</pre>").next()) {
        let example = unescape(example);
        let after = |marker: &str, end: char| {
            let (_, rest) = example.split_once(marker)?;
            Some(rest.split(end).next().expect("there is a first part").to_owned())
        };
        let method = after("curl -X ", ' ').unwrap_or_else(|| "GET".to_owned());
        let path = after("http://127.0.0.1:3000", ' ').expect("an address").trim().to_owned();
        let key = after("Idempotency-Key: ", '\'');
        let body = after(" -d '", '\'').unwrap_or_default();
        // What opens, closes, or names what only an earlier reply tells of.
        if ["GET", "DELETE"].contains(&&*method) || path.ends_with("/accounts") || path.contains("/019aab5e-")
        {
            continue;
        }
        let headers: Vec<_> = key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
        let reply = service.send(&method, &path, &headers, &body).await;
        assert!(
            reply.status.is_success() && reply.header("idempotent-replayed").is_empty(),
            "{example}: {reply:?}"
        );
        assert!(!reply.text().contains("\"problem\""), "{example}: {reply:?}");
        keys.extend(key);
        done += 1;
    }
    assert_eq!(done, 9);
    keys.sort();
    keys.dedup();
    // Linking needs none.
    assert_eq!(keys.len(), done - 1);
    service.stop().await;
}

/// The document called every body required, also where it may be left away, and named one media type of each, also
/// where two are taken.
#[tokio::test]
async fn bodies_are_taken_as_the_document_says() {
    let service = Service::start().await;
    for name in ["a", "b"] {
        service.open_with(name, "1").await;
    }
    let made = async |path, body| {
        let made = service.post(path, body).await;
        made.json()["id"].as_str().expect("an id").to_owned()
    };
    let transfer = made("/v2/transfers", r#"{"from":"name:a","to":"name:b","amount":"1"}"#).await;
    let hold = made("/v2/holds", r#"{"account":"name:a","amount":"1"}"#).await;
    let document = service.get("/openapi.json").await.json();
    let mut optional = Vec::new();
    for (pattern, methods) in document["paths"].as_object().unwrap() {
        let path = pattern
            .replace("{name}", "a")
            .replace("{account}", "name:a")
            .replace("{other}", "name:b")
            .replace("{id}", &transfer)
            .replace("{hold}", &hold);
        for (method, operation) in methods.as_object().unwrap() {
            let body = &operation["requestBody"];
            if body.is_null() {
                continue;
            }
            let what = operation["operationId"].as_str().unwrap();
            let method = method.to_uppercase();
            let without = service.send(&method, &path, &[], "").await;
            let is_missed = without.code() == "malformed-json";
            assert_eq!(body["required"], is_missed, "{what}: {without:?}");
            if !is_missed {
                optional.push(what);
            }
            let named: Vec<&str> = body["content"].as_object().unwrap().keys().map(String::as_str).collect();
            for media_type in [
                "application/json",
                "application/merge-patch+json",
                "application/json-patch+json",
                "application/x-ndjson",
            ] {
                let is_taken =
                    service.send(&method, &path, &[("content-type", media_type)], "x").await.status != 415;
                // Version 1 never looked.
                let is_named = named.contains(&media_type);
                assert!(is_taken == is_named || !pattern.starts_with("/v2/"), "{what}: {media_type}");
            }
            // Where it may be left away an empty one is none: `curl -d ''` sends it as a form.
            let form = [("content-type", "application/x-www-form-urlencoded")];
            let empty = service.send(&method, &path, &form, "").await;
            let is_refused = is_missed && pattern.starts_with("/v2/");
            assert_eq!(empty.code() == "unsupported-media-type", is_refused, "{what}: {empty:?}");
            let form = service.send(&method, &path, &form, "x").await;
            if form.code() == "unsupported-media-type" {
                let detail = form.json()["errors"][0]["detail"].as_str().unwrap().to_owned();
                assert!(named.iter().all(|media_type| detail.contains(media_type)), "{what}: {detail}");
                let told = form.header("accept-patch").split(", ").collect::<BTreeSet<_>>();
                let expected = if method == "PATCH" { named } else { vec![""] };
                assert_eq!(told, BTreeSet::from_iter(expected), "{what}");
            }
        }
    }
    assert_eq!(optional, ["captureHold", "voidHold", "reverseTransfer"]);
    let types = |path: &str, method: &str| {
        let content = document["paths"][path][method]["requestBody"]["content"].as_object().unwrap();
        content.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(types("/v2/batches", "post"), ["application/json", "application/x-ndjson"]);
    let patch = ["application/json", "application/merge-patch+json"];
    assert_eq!(types("/v2/accounts/{account}", "patch"), patch);
    service.stop().await;
}

/// The document forbade replies that are: those of dry runs, for lack of a link to themselves; names and references of
/// many characters that are no ASCII; and the texts of version 2 in a refusal of version 1.
#[tokio::test]
async fn replies_are_what_the_document_says() {
    let service = Service::start().await;
    let (name, reference) = ("ü".repeat(127), "é".repeat(127));
    let open = json!({
        "name": name,
        "reference": reference,
        "metadata": { "ö".repeat(32): "ä".repeat(128) },
        "unique_reference": true,
        "velocity_limits": { "per_day": "1" },
    });
    assert_eq!(service.post("/v2/accounts", &open.to_string()).await.status, 201);
    service.open_with("b", "10").await;
    let account = format!("name:{name}");
    let path = format!("/v2/accounts/name:{}", "%C3%BC".repeat(127));
    let deposit = json!({ "amount": "10", "reference": reference }).to_string();
    assert_eq!(service.post(&format!("{path}/deposits"), &deposit).await.status, 201);
    let used = service.post(&format!("{path}/deposits"), &deposit).await;
    assert_eq!((used.code(), used.json()["used_by"].is_string()), ("reference-used".to_owned(), true));
    for path in
        [path.clone(), format!("{path}/transactions"), format!("{path}/statement"), "/v2/events".into()]
    {
        assert!(service.get(&path).await.text().contains(&reference), "{path}");
    }
    let transfer = json!({ "from": "name:b", "to": account, "amount": "2" }).to_string();
    let made =
        service.post("/v2/transfers", &transfer).await.json()["id"].as_str().expect("an id").to_owned();
    let reverse = format!("/v2/transfers/{made}/reverse");
    let hold = json!({ "account": "name:b", "amount": "2" }).to_string();
    for (path, body) in [("/v2/transfers", &transfer), ("/v2/holds", &hold)] {
        let dry = service.post(&format!("{path}?dry_run=true"), body).await;
        assert_eq!((dry.status.as_u16(), &dry.json()["id"]), (200, &Value::Null));
    }
    assert_eq!(service.post(&format!("{reverse}?dry_run=true"), r#"{"amount":"0.5"}"#).await.status, 200);
    assert_eq!(service.post(&reverse, r#"{"amount":"9"}"#).await.code(), "reversal-exceeded");
    assert_eq!(service.post(&reverse, r#"{"amount":"1"}"#).await.status, 201);
    assert!(service.post(&reverse, "").await.json()["reversed_by"].is_string());
    let hold = service.post("/v2/holds", &hold).await.json()["id"].as_str().expect("an id").to_owned();
    let capture = format!("/v2/holds/{hold}/capture");
    assert_eq!(service.post(&capture, r#"{"amount":"9"}"#).await.json()["held"], "2.00");
    assert_eq!(service.post(&capture, "").await.status, 201);
    assert_eq!(service.post(&capture, "").await.json()["captured"], "2.00");
    let limit = json!({ "name": "c", "velocity_limits": { "per_day": "1" } }).to_string();
    assert_eq!(service.post("/v2/accounts", &limit).await.status, 201);
    let limited = service.post("/accounts/c/withdraw", r#"{"amount":2}"#).await;
    assert!(limited.text().contains(r#""allowance":{"per_day":1.00,"per_month":null,"debits":null}"#));
    service.stop().await;
}

#[tokio::test]
async fn head_is_get_without_a_body_and_options_tells_the_methods() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    for path in ["/accounts/a", "/accounts/nobody", "/healthz", "/metrics", "/problems"] {
        let get = service.get(path).await;
        let head = service.send("HEAD", path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
        if path == "/accounts/a" {
            assert_eq!(head.header("content-length"), get.body.len().to_string());
        }
    }
    for (path, allow) in [
        ("/accounts", "POST, OPTIONS"),
        ("/accounts/a", "GET, HEAD, DELETE, OPTIONS"),
        ("/v2/trial-balance", "GET, HEAD, OPTIONS"),
    ] {
        let options = service.send("OPTIONS", &format!("{path}?limit=1"), &[], "").await;
        assert_eq!((options.status.as_u16(), options.header("allow")), (204, allow));
        let refused = service.send("PATCH", path, &[], "").await;
        assert_eq!((refused.code().as_str(), refused.header("allow")), ("method-not-allowed", allow));
        assert_eq!((options.header("accept-patch"), refused.header("accept-patch")), ("", ""));
    }
    // What a PATCH may be is told with the methods, and where it is refused (RFC 5789, 2.2 and 3.1).
    let options = service.send("OPTIONS", "/v2/accounts/name:a", &[], "").await;
    let types = "application/merge-patch+json, application/json";
    assert_eq!(
        (options.header("allow"), options.header("accept-patch")),
        ("GET, HEAD, PATCH, DELETE, OPTIONS", types)
    );
    let form = [("content-type", "application/json-patch+json")];
    let refused = service.send("PATCH", "/v2/accounts/name:a", &form, "[]").await;
    assert_eq!((refused.status.as_u16(), refused.header("accept-patch")), (415, types));
    // `*` is the service as a whole (RFC 9110, 9.3.7). It was not found.
    let all = service.send_bytes(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", true).await;
    let (all, _) = Reply::parse(&all).expect("a reply");
    assert_eq!(all.status, 204);
    assert_eq!(all.header("allow"), "POST, GET, HEAD, DELETE, PATCH, PUT, OPTIONS");
    assert_eq!(all.header("accept-patch"), "", "it depends on the resource");
    service.stop().await;
}

#[tokio::test]
async fn every_problem_has_a_page() {
    let service = Service::start().await;
    let list = service.get("/problems").await.json();
    assert_eq!(list["count"], Code::ALL.len());
    for (code, item) in Code::ALL.iter().zip(list["items"].as_array().unwrap()) {
        let page = service.get(&format!("/problems/{}", code.slug())).await;
        assert_eq!(page.status, 200);
        assert_eq!(&page.json(), item);
        assert_eq!(item["status"], code.status().as_u16());
        assert_eq!(item["title"], code.title());
        assert_eq!(item["type"], format!("/problems/{}", code.slug()));
    }
    assert_eq!(service.get("/problems/no-such-code").await.code(), "not-found");
    service.stop().await;
}

#[tokio::test]
async fn it_answers_before_and_after_it_has_a_bank() {
    let mut service = Service::starting(Limits::default()).await;
    assert_eq!(service.get("/healthz").await.json(), json!({"status": "ok"}));
    let ready = service.get("/readyz").await;
    assert_eq!(
        (ready.status.as_u16(), ready.code().as_str(), ready.header("retry-after")),
        (503, "starting", "1")
    );
    assert_eq!(service.post("/accounts", r#"{"name":"a"}"#).await.code(), "starting");
    assert_eq!(service.get("/nothing").await.code(), "not-found");
    let bank = MemoryBank::start(1);
    service.api.ready(bank.bank.clone());
    assert_eq!(service.get("/readyz").await.json(), json!({"status": "ready"}));
    assert_eq!(service.post("/accounts", r#"{"name":"a"}"#).await.status, 201);
    service.api.ending();
    assert_eq!(service.get("/readyz").await.code(), "ending");
    // What still comes is still done.
    assert_eq!(service.get("/accounts/a").await.status, 200);
    bank.stop();
    let ended = service.post("/accounts", r#"{"name":"b"}"#).await;
    assert_eq!((ended.status.as_u16(), ended.code().as_str()), (503, "ending"));
    service.bank = None;
    service.stop().await;
}

#[tokio::test]
async fn without_room_on_disk_only_changes_are_refused() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    let set_full = |full| {
        for shard in service.bank.as_ref().unwrap().bank.shards() {
            shard.handle.set_disk_full(full);
        }
    };
    set_full(true);
    let key = [("idempotency-key", "k")];
    for headers in [&[][..], &key] {
        let refused = service.send("POST", "/accounts/a/deposit", headers, r#"{"amount":1}"#).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "disk-full"));
        assert_eq!((refused.header("retry-after"), &refused.json()["retryable"]), ("10", &json!(true)));
    }
    assert_eq!(service.get("/accounts/a").await.status, 200);
    set_full(false);
    // A shard looks at the disk once a batch, and the read above may have been answered from a batch that still
    // goes on. So the client does as it was told and tries again.
    let done = in_time("changes are taken again", async {
        loop {
            let reply = service.send("POST", "/accounts/a/deposit", &key, r#"{"amount":1}"#).await;
            if reply.code() != "disk-full" {
                break reply;
            }
        }
    })
    .await;
    assert_eq!((done.status.as_u16(), done.header("idempotent-replayed")), (201, ""));
    assert!(service.get("/accounts/a").await.text().contains(r#""balance":2.00"#));
    service.stop().await;
}

#[tokio::test]
async fn without_room_for_keys_only_requests_with_new_keys_are_refused() {
    let service = Service::over(MemoryBank::start_with(1, 2, |log| log), Limits::default()).await;
    let open = async |key: &str, name: &str| {
        let body = format!("{{\"name\":\"{name}\"}}");
        service.send("POST", "/accounts", &[("idempotency-key", key)], &body).await
    };
    assert_eq!(open("k-1", "a").await.status, 201);
    assert_eq!(open("k-2", "b").await.status, 201);
    let refused = open("k-3", "c").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "idempotency-keys-exhausted"));
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(open("k-2", "b").await.header("idempotent-replayed"), "true");
    assert_eq!(service.post("/accounts", r#"{"name":"c"}"#).await.status, 201);
    service.stop().await;
}

/// A log that cannot be read.
struct Unreadable;

impl JournalReader for Unreadable {
    fn record(&self, _: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        Err(StorageError::Locked { path: "/a/secret/place".into() })
    }
}

#[tokio::test]
async fn what_has_failed_inside_is_not_told_outside() {
    let bank = MemoryBank::start_with(1, 100, |_| Arc::new(Unreadable));
    let service = Service::over(bank, Limits::default()).await;
    let account = service.open_with("a", "1").await;
    let path = format!("/v2/accounts/{}/transactions", account["id"].as_str().unwrap());
    let failed = service.send("GET", &path, &[("x-request-id", "r-1")], "").await;
    assert_eq!((failed.status.as_u16(), failed.code().as_str()), (500, "internal-error"));
    assert_eq!(failed.json()["request_id"], "r-1");
    assert!(!failed.text().contains("secret") && !failed.text().contains("process"));
    assert_eq!(service.get("/accounts/a").await.status, 200);
    service.stop().await;
}

/// P5: a batch was told that nothing was done when the outcome of one item, executed earlier under its own key, could not
/// be read; but the other items had been executed, and whoever sent them again had them twice.
#[tokio::test]
async fn a_batch_that_cannot_read_an_earlier_outcome_tells_what_was_done() {
    let service =
        Service::over(MemoryBank::start_with(1, 100, |_| Arc::new(Unreadable)), Limits::default()).await;
    service.open_with("a", "1").await;
    let known = r#"{"type":"deposit","account":"name:a","amount":"2","key":"k-1"}"#;
    let first = service.post("/v2/batches", &format!(r#"{{"items":[{known}]}}"#)).await;
    assert_eq!(first.json()["executed"], 1, "{first:?}");
    let new = r#"{"type":"deposit","account":"name:a","amount":"4"}"#;
    let second = service.post("/v2/batches", &format!(r#"{{"items":[{new},{known}]}}"#)).await;
    assert_eq!(second.status, 200, "{second:?}");
    let results = second.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(201), &json!(500)), "{second:?}");
    assert!(service.get("/accounts/a").await.text().contains("\"balance\":7.00"));
    service.stop().await;
}

/// P5: the same where a later chunk is refused as a whole: who was told so for all of it would send all of it again.
#[tokio::test]
async fn a_batch_of_which_a_part_was_looked_at_tells_what_became_of_each_item() {
    let service = Service::over(MemoryBank::start(1), Limits::default()).await;
    service.open_with("a", "1").await;
    for shard in service.bank.as_ref().expect("ready").bank.shards() {
        shard.handle.set_disk_full(true);
    }
    let item = |kind: &str, amount: &str| {
        format!("{{\"type\":\"{kind}\",\"account\":\"name:a\",\"amount\":\"{amount}\"}}\n").repeat(1000)
    };
    // The ledger refuses the first ones, which a full disk keeps nobody from; and the disk the others.
    let batch = item("withdraw", "1000000") + &item("deposit", "1");
    let ndjson = [("content-type", "application/x-ndjson")];
    let reply = service.send("POST", "/v2/batches", &ndjson, &batch).await;
    assert_eq!(reply.status, 200, "{}", reply.code());
    let reply = reply.json();
    let codes = [0, 1999].map(|place: usize| &reply["results"][place]["problem"]["code"]);
    assert_eq!(codes, ["insufficient-funds", "disk-full"]);
    assert_eq!(reply["executed"], 0);
    // Nothing was looked at: the whole is refused.
    let refused = service.send("POST", "/v2/batches", &ndjson, &item("deposit", "1")).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "disk-full"));
    service.stop().await;
}

#[tokio::test]
async fn metrics_count_requests() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    service.get("/accounts/nobody").await;
    let metrics = service.get("/metrics").await;
    for line in [
        "teller_http_requests_total{route=\"/v2/accounts\",status=\"2xx\"} 1\n",
        "teller_http_requests_total{route=\"/accounts/{name}\",status=\"4xx\"} 1\n",
        "teller_http_request_seconds_count{route=\"/accounts/{name}/deposit\"} 1\n",
        "teller_http_requests_in_flight 1\n",
        "teller_http_connections 1\n",
        "teller_http_large_batches 0\n",
        "teller_http_large_reply_bytes 0\n",
        "teller_http_history_readings 0\n",
        // An account was opened and something paid into it, and both clients had their replies.
        "teller_shard_events_total{shard=\"1\"} 2\n",
        "teller_shard_commit_seconds_count{shard=\"1\"} 2\n",
        "teller_shard_requests_waiting{shard=\"0\"} 0\n",
        "teller_shard_refuses_changes{shard=\"0\"} 0\n",
    ] {
        assert!(metrics.text().contains(line), "{line}\n{}", metrics.text());
    }
    service.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_even_after_a_half_close() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    let deposit = "POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"amount\":1}";
    let bytes = service.send_bytes(deposit.repeat(3).as_bytes(), true).await;
    let mut rest = &bytes[..];
    for balance in ["2.00", "3.00", "4.00"] {
        let (reply, behind) = Reply::parse(rest).expect("a reply");
        assert!(reply.text().contains(&format!("\"balance\":{balance}")), "{reply:?}");
        rest = behind;
    }
    assert!(rest.is_empty());
    service.stop().await;
}

/// A body in chunks never says that its end was read. So it was taken for unread, its connection was closed behind
/// the reply, and the requests behind it on the same connection were lost.
#[tokio::test]
async fn a_body_in_chunks_keeps_its_connection_and_the_requests_behind_it() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    let head = "POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let deposit = format!("{head}6\r\n{{\"amou\r\n6\r\nnt\":1}}\r\n0\r\n\r\n");
    // A refusal of what was read whole is no reason to close either.
    let refused = format!("{head}2\r\n{{}}\r\n0\r\n\r\n");
    let bytes = service.send_bytes([&*deposit, &refused, &deposit].concat().as_bytes(), true).await;
    let mut rest = &bytes[..];
    for expected in ["\"balance\":2.00", "invalid-request", "\"balance\":3.00"] {
        let (reply, behind) = Reply::parse(rest).expect("a reply");
        assert!(reply.text().contains(expected), "{reply:?}");
        assert_eq!(reply.header("connection"), "", "{reply:?}");
        rest = behind;
    }
    assert!(rest.is_empty());

    let mut kept = service.connect().await;
    for balance in ["4.00", "5.00"] {
        kept.write_all(deposit.as_bytes()).await.expect("open");
        let mut bytes = Vec::new();
        let reply = loop {
            read_more(&mut kept, &mut bytes).await;
            if let Some((reply, _)) = Reply::parse(&bytes) {
                break reply;
            }
        };
        assert!(reply.text().contains(&format!("\"balance\":{balance}")), "{reply:?}");
    }
    drop(kept);
    service.stop().await;
}

/// Where trailers with a bare line feed end, one client or proxy sees otherwise than hyper, which took the request behind
/// them for more of them: the replies to all further ones on the connection were then those to others.
#[tokio::test]
async fn nothing_behind_trailers_is_taken_for_a_request_or_answered() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    let head = "POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let read = "GET /accounts/a HTTP/1.1\r\nhost: x\r\n\r\n";
    for end in ["0\r\n\n", "0\r\nx: y\n\r\n", "0\r\nx: y\n\n", "0\r\nx: y\r\n\n", "0\r\nx: y\r\n\r\n"] {
        let request = format!("{head}c\r\n{{\"amount\":1}}\r\n{end}");
        let bytes = service.send_bytes([&*request, read, read].concat().as_bytes(), true).await;
        let (reply, rest) = Reply::parse(&bytes).expect("a reply");
        assert_eq!((reply.status.as_u16(), reply.header("connection")), (201, "close"), "{end:?}");
        assert!(rest.is_empty(), "{end:?}: {}", String::from_utf8_lossy(rest));
    }
    service.stop().await;
}

/// A body that is refused by its length is never read, and many clients send all of it before they look at the
/// reply. If the service had closed the socket by then, their next write would fail, and they would report that
/// in place of the refusal.
#[tokio::test]
async fn a_client_that_sends_before_it_reads_still_hears_the_refusal() {
    let service = Service::start().await;
    let mut stream = service.connect().await;
    let head = b"POST /accounts HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n";
    stream.write_all(head).await.expect("open");
    // The reply has arrived, and the service has closed its direction: it is as far as it will get.
    let bytes = read_to_end(&mut stream).await;
    for _ in 0..20 {
        stream.write_all(&[b' '; 10_000]).await.expect("still taken");
    }
    let (reply, rest) = Reply::parse(&bytes).expect("a reply");
    assert_eq!((reply.code().as_str(), rest.len()), ("payload-too-large", 0));
    assert_eq!(reply.header("connection"), "close");
    drop(stream);
    service.stop().await;
}

/// A connection whose last reply was a stream, ended or of HEAD only, took the end of its client's side for that of a
/// reader, and was cut off before the next reply, or before that of HEAD.
#[tokio::test]
async fn who_closes_its_side_behind_a_stream_that_ended_still_gets_its_reply() {
    let service = Service::start().await;
    service.open_with("a1", "1").await;
    let stream = |method| {
        format!("{method} /v2/events?limit=1 HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
    };
    let deposit = "POST /accounts/a1/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"amount\":1}";
    for _ in 0..20 {
        let bytes = service.send_bytes(stream("HEAD").as_bytes(), true).await;
        let (reply, rest) = Reply::parse(&bytes).expect("a reply");
        assert_eq!((reply.status.as_u16(), rest.len()), (200, 0));

        let mut connection = service.connect().await;
        connection.write_all(stream("GET").as_bytes()).await.expect("open");
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n0\r\n\r\n") {
            read_more(&mut connection, &mut bytes).await;
        }
        connection.write_all(deposit.as_bytes()).await.expect("open");
        connection.shutdown().await.expect("open");
        let bytes = read_to_end(&mut connection).await;
        let (reply, rest) = Reply::parse(&bytes).expect("a reply");
        assert_eq!((reply.status.as_u16(), rest.len()), (201, 0), "{reply:?}");
    }
    service.stop().await;
}

/// Two replies were lost to the reset of a closing that did not wait: those to a head that is no HTTP, or too long, and
/// those to requests that offer an upgrade and a body that is not read.
#[tokio::test]
async fn what_closes_without_a_handler_waits_for_the_client_too() {
    let service = Service::start().await;
    let upgrade = "POST /accounts HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 200000\r\n\r\n";
    let too_long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(20_000));
    for (head, status) in [(upgrade, 413), ("GARBAGE\r\n\r\n", 400), (&too_long, 431)] {
        let mut stream = service.connect().await;
        stream.write_all(head.as_bytes()).await.expect("open");
        let bytes = read_to_end(&mut stream).await;
        for _ in 0..20 {
            stream.write_all(&[b' '; 10_000]).await.expect("still taken");
        }
        let (reply, rest) = Reply::parse(&bytes).expect("a reply");
        assert_eq!((reply.status.as_u16(), rest.len()), (status, 0), "{head:?}");
    }
    service.stop().await;
}

/// Every connection could send a batch of 8 MiB at the same time, and nothing bounded what they came to. Then a place was
/// taken by who only said that more would come, and 64 silent connections kept everyone's large batches out.
#[tokio::test]
async fn only_so_many_large_bodies_are_read_at_one_time() {
    let limits = Limits { body_read_time_max: Duration::from_secs(600), ..Limits::default() };
    let service = Service::start_with(limits).await;
    service.open_with("a", "1").await;
    let declared = "content-length: 70000";
    let chunked = "transfer-encoding: chunked";
    let head = |framing| format!("POST /v2/batches HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
    let batch = r#"{"items":[{"type":"deposit","account":"name:a","amount":"1"}]}"#;
    let spaces = " ".repeat(65_537);
    let large = format!("{spaces}{batch}");
    let mut half = Vec::new();
    for count in 1..=LARGE_BODIES_MAX + 1 {
        let mut stream = service.connect().await;
        let framing = if count % 2 == 0 { declared } else { chunked };
        stream.write_all(head(framing).as_bytes()).await.expect("open");
        half.push((framing, stream));
        in_time("one that has sent nothing yet is taken", async {
            while service.api.requests_in_flight() < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // Who has sent nothing yet has no place.
    let answered = service.post("/v2/batches", &large).await;
    assert_eq!(answered.json()["executed"], 1, "{answered:?}");
    let begin = |framing: &str| match framing == chunked {
        true => format!("11170\r\n{spaces}"),
        false => spaces.clone(),
    };
    for (framing, stream) in &mut half {
        stream.write_all(begin(framing).as_bytes()).await.expect("open");
    }
    in_time("one too many is refused, for all places are taken", async {
        while service.api.requests_in_flight() > LARGE_BODIES_MAX {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let metrics = service.get("/metrics").await;
    assert!(
        metrics.text().contains(&format!("\nteller_http_large_batches {LARGE_BODIES_MAX}\n")),
        "{metrics:?}"
    );
    for framing in [declared, chunked] {
        let bytes =
            service.send_bytes(format!("{}{}", head(framing), begin(framing)).as_bytes(), false).await;
        let (refused, rest) = Reply::parse(&bytes).expect("a reply");
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
        assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
        assert!(rest.is_empty());
    }
    // What is no larger than any other body may be needs no such place, but for very many items.
    let small = service.post("/v2/batches", batch).await;
    assert_eq!(small.json()["executed"], 1, "{small:?}");
    let many = async |count| {
        let ndjson = [("content-type", "application/x-ndjson")];
        service.send("POST", "/v2/batches", &ndjson, &"{}\n".repeat(count)).await
    };
    assert_eq!(many(1000).await.json()["refused"], 1000);
    let refused = many(1001).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
    // A place is free again when its body will not come any more, and when its batch has been answered.
    half.truncate(half.len() - 2);
    for _ in 0..LARGE_BODIES_MAX {
        let answered = in_time("a place is free again", async {
            loop {
                let answered = service.post("/v2/batches", &large).await;
                if answered.status != 503 {
                    return answered;
                }
            }
        });
        let answered = answered.await;
        assert_eq!(answered.json()["executed"], 1, "{answered:?}");
    }
    drop(half);
    service.stop().await;
}

/// The results of large batches, megabytes each, had a place as long as they were not read, and 64 of them no bound in
/// bytes that was worth the name.
#[tokio::test]
async fn results_of_large_batches_that_are_not_read_have_room_for_so_many() {
    let service = Service::start_with(Limits { replies_kib_max: 48 * 1024, ..Limits::default() }).await;
    // Its results take more than the system keeps of a connection, 4 MB.
    let body = "{\"type\":\"void\",\"a\":1}\n".repeat(10_000);
    let length = body.len();
    let request = format!(
        "POST /v2/batches HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut readers = Vec::new();
    loop {
        let mut stream = connect_with_little_room(&service).await;
        stream.write_all(request.as_bytes()).await.expect("taken");
        let status = read_first::<12>(&mut stream).await;
        if status.ends_with(b"503") {
            break;
        }
        readers.push(stream);
        assert!(readers.len() < 10, "each of them takes 4 MB of 48");
    }
    assert!(!readers.is_empty(), "there was room for one");
    let ndjson = [("content-type", "application/x-ndjson")];
    let batch = |results| {
        let (service, body) = (&service, &body);
        async move {
            let path = format!("/v2/batches?results={results}");
            service.send("POST", &path, &ndjson, body).await.status.as_u16()
        }
    };
    assert_eq!(
        (batch("all").await, batch("none").await),
        (503, 200),
        "who wants no results needs little room"
    );
    drop(readers);
    in_time("there is room again", async { while batch("all").await != 200 {} }).await;
    service.stop().await;
}

/// Pages of some megabytes and the results of batches, of which each connection could leave one unread, had no bound
/// together.
#[tokio::test]
async fn replies_that_are_not_read_have_room_for_so_many() {
    let service = Service::start_with(Limits { replies_kib_max: 6 * 1024, ..Limits::default() }).await;
    let page = large_page(&service).await;
    let ndjson = [("content-type", "application/x-ndjson")];
    let plain = "{\"type\":\"deposit\",\"account\":\"name:a\",\"amount\":\"1\"}\n".repeat(1000);
    let mut posted = 1001;
    // hyper leaves the second kind of connection before all has been read.
    for head in ["", "connection: upgrade\r\nupgrade: x\r\ncontent-length: 100\r\n"] {
        let mut reader = connect_with_little_room(&service).await;
        let request = format!("GET {page} HTTP/1.1\r\nhost: x\r\n{head}\r\n");
        reader.write_all(request.as_bytes()).await.expect("taken");
        read_first::<1>(&mut reader).await;

        let metrics = service.get("/metrics").await;
        let taken =
            metrics.text().lines().find_map(|line| line.strip_prefix("teller_http_large_reply_bytes "));
        let taken: usize = taken.and_then(|bytes| bytes.parse().ok()).expect("it is counted");
        assert!((5_000_000..6_000_000).contains(&taken), "{taken}");
        let refused = service.get(page).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(service.get("/v2/accounts/name:a/transactions?limit=5").await.status, 200, "a small one");
        // A batch is refused before it is executed: what was done has to be told.
        for results in ["all", "refused"] {
            let path = format!("/v2/batches?results={results}");
            let refused = service.send("POST", &path, &ndjson, &plain).await;
            assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
        }
        assert_eq!(service.get("/v2/accounts/name:a").await.json()["posted"], format!("{posted}.00"));
        let untold = service.send("POST", "/v2/batches?results=none", &ndjson, &plain).await;
        assert_eq!(untold.json()["executed"], 1000, "{untold:?}");
        let untold = service.send("POST", "/v2/batches?results=none", &ndjson, &plain.repeat(4)).await;
        assert_eq!(untold.code(), "overloaded", "what waits for a shard takes room, too");

        drop(reader);
        in_time("there is room again", async { while service.get(page).await.status != 200 {} }).await;
        let told = service.send("POST", "/v2/batches", &ndjson, &plain).await;
        assert_eq!(told.json()["executed"], 1000, "there is room again");
        posted += 2000;
    }
    service.stop().await;
}

/// Where a page is of 5.4 MB, more than the system keeps of a connection.
async fn large_page(service: &Service) -> &'static str {
    service.open_with("a", "1").await;
    let value = "x".repeat(256);
    let metadata: Vec<String> = (0..16).map(|entry| format!("\"{entry:064}\":\"{value}\"")).collect();
    let metadata = metadata.join(",");
    let deposit = format!(
        "{{\"type\":\"deposit\",\"account\":\"name:a\",\"amount\":\"1\",\"metadata\":{{{metadata}}}}}\n"
    );
    let ndjson = [("content-type", "application/x-ndjson")];
    let filled = service.send("POST", "/v2/batches?results=none", &ndjson, &deposit.repeat(1000)).await;
    assert_eq!(filled.json()["executed"], 1000, "{filled:?}");
    "/v2/accounts/name:a/transactions?limit=1000&order=asc"
}

/// hyper leaves a connection to whoever may have upgraded it as soon as the reply is written into its own buffer: what
/// the system had no room for was lost. Here that is the end of one of the first replies that do not fit.
#[tokio::test]
async fn a_large_reply_is_whole_also_if_an_upgrade_was_offered() {
    const LAST: &str = "GET /openapi.json HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n";
    let service = Service::start().await;
    for count in 100..220 {
        // By the last request, or by one long before.
        let last = match count % 2 {
            0 => format!("{OFFER}{}{LAST}\r\n", FILLER.repeat(count)),
            _ => format!("{}{FILLER}{LAST}connection: upgrade\r\nupgrade: x\r\n\r\n", FILLER.repeat(count)),
        };
        let mut stream = slow_reader(&service, &last).await;
        assert_eq!(whole_replies(&mut stream).await, count + 2);
    }
    service.stop().await;
}

/// As above, where the service ends while the last reply is being sent.
#[tokio::test]
async fn a_large_reply_is_whole_also_if_an_upgrade_was_offered_and_the_service_ends() {
    for count in 100..220 {
        let service = Service::start().await;
        let last = "GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut stream = slow_reader(&service, &format!("{OFFER}{}{last}", FILLER.repeat(count))).await;
        let mut service = service;
        let _bank = service.bank.take();
        let serving = service.begin_stop();
        tokio::task::yield_now().await;
        // Requests that it has not begun to answer are not answered.
        assert!((1..=count + 2).contains(&whole_replies(&mut stream).await));
        assert_eq!(in_time("it stops", serving).await.expect("no panic"), Drained { connections_cut: 0 });
    }
}

/// What was sent behind a connection's last request was left unread, and closing with that has the system throw away what
/// the client has not read: 886 replies to deposits, once.
#[tokio::test]
async fn no_reply_is_lost_to_requests_behind_it_when_the_service_ends() {
    let mut service = Service::start().await;
    service.open_with("a", "1").await;
    let deposit = "POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n{\"amount\":1}";
    let (mut from, mut to) = connect_with_little_room(&service).await.into_split();
    let writer = tokio::spawn(async move {
        let _ = to.write_all(deposit.repeat(100_000).as_bytes()).await;
        to
    });
    // Until nothing goes on, for there is no room for replies.
    let mut before = 0;
    in_time("all buffers are full", async {
        while before == 0 || service.api.requests() != before {
            before = service.api.requests();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let bank = service.bank.take().expect("it is ready");
    let serving = service.begin_stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let bytes = read_to_end(&mut from).await;
    let (mut rest, mut count) = (&bytes[..], 0);
    while !rest.is_empty() {
        let (reply, behind) = Reply::parse(rest).expect("a whole reply");
        assert_eq!(reply.status, 201);
        (rest, count) = (behind, count + 1);
    }
    let name = AccountSelector::Name(AccountName::parse("a").expect("a name"));
    let account = bank.bank.account(name).await.expect("it is there");
    assert_eq!(account.posted.minor_units(), 100 * (count + 1) as i128);
    drop(writer);
    assert_eq!(in_time("it stops", serving).await.expect("no panic"), Drained { connections_cut: 0 });
    bank.stop();
}

/// hyper looks for the rest of a body that nobody has read while the reply is being sent; that nothing came was taken for
/// waiting for the next head, which has its time.
#[tokio::test]
async fn a_reply_may_take_longer_to_read_than_the_next_head_may_to_come() {
    let limits = Limits { head_read_time_max: Duration::from_millis(100), ..Limits::default() };
    let service = Service::start_with(limits).await;
    let page = large_page(&service).await;
    let request = format!("GET {page} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n");
    let mut stream = slow_reader(&service, &request).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(whole_replies(&mut stream).await, 1);
    service.stop().await;
}

/// What had come behind the request hid that the reader had gone, until the next thing was said to it.
#[tokio::test]
async fn a_reader_of_a_stream_who_has_sent_more_is_missed_all_the_same() {
    let limits = Limits { stream_heartbeat: Duration::from_secs(3600), ..Limits::default() };
    let service = Service::start_with(limits).await;
    for (framing, more) in [("", "\r\n"), ("content-length: 4\r\n", "{}")] {
        let mut reader = stream_of(&service, framing).await;
        streams(&service, 1).await;
        reader.write_all(more.as_bytes()).await.expect("open");
        drop(reader);
        streams(&service, 0).await;
    }
    service.stop().await;
}

/// The body of the request, which nobody reads, came behind the beginning of the reply and was taken for another request:
/// the stream was cut, and a client that always sends one came back for ever.
#[tokio::test]
async fn a_stream_is_not_cut_by_the_body_of_its_request() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    // As small as can be, and more than is thrown away in a turn.
    for bytes in [2, 200_000] {
        let mut reader = stream_of(&service, &format!("content-length: {bytes}\r\n")).await;
        let mut told = Vec::new();
        read_more(&mut reader, &mut told).await;
        for part in 1..=2 {
            reader.write_all(&vec![b' '; bytes / 2]).await.expect("still taken");
            let deposit = service.post("/accounts/a/deposit", r#"{"amount":1}"#).await;
            assert_eq!(deposit.status.as_u16(), 201, "{deposit:?}");
            in_time("the deposit is told", async {
                while String::from_utf8_lossy(&told).matches("event: deposit\n").count() < part {
                    read_more(&mut reader, &mut told).await;
                }
            })
            .await;
        }
        drop(reader);
        streams(&service, 0).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn a_stream_is_cut_where_the_body_of_its_request_does_not_end() {
    let service = Service::start().await;
    let mut reader = stream_of(&service, &format!("content-length: {}\r\n", u32::MAX)).await;
    read_first::<1>(&mut reader).await;
    in_time("it is cut", async { while reader.write_all(&[b' '; 64 * 1024]).await.is_ok() {} }).await;
    streams(&service, 0).await;
    service.stop().await;
}

/// Asks for all events from now on.
async fn stream_of(service: &Service, framing: &str) -> TcpStream {
    let mut reader = service.connect().await;
    let head = "GET /v2/events?after=now HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n";
    reader.write_all(format!("{head}{framing}\r\n").as_bytes()).await.expect("open");
    reader
}

/// Waits until so many streams are open.
async fn streams(service: &Service, count: usize) {
    let wanted = format!("\nteller_http_streams {count}\n");
    in_time("their number changes", async {
        while !service.get("/metrics").await.text().contains(&wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

const OFFER: &str = "GET /problems HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
const FILLER: &str = "GET /problems HTTP/1.1\r\nhost: x\r\n\r\n";

/// A connection of a client that is soon full.
async fn connect_with_little_room(service: &Service) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("small, so that it is full soon");
    socket.connect(service.address).await.expect("connected")
}

/// Who has sent this, and has room for little.
async fn slow_reader(service: &Service, requests: &str) -> TcpStream {
    let mut stream = connect_with_little_room(service).await;
    stream.write_all(requests.as_bytes()).await.expect("taken");
    tokio::time::sleep(Duration::from_millis(30)).await;
    stream
}

/// How many replies come, each of them as long as it says.
async fn whole_replies(stream: &mut TcpStream) -> usize {
    let bytes = read_to_end(stream).await;
    let (mut rest, mut count) = (&bytes[..], 0);
    while !rest.is_empty() {
        let (reply, behind) = Reply::parse(rest).expect("a whole reply");
        assert_eq!(reply.status, 200);
        (rest, count) = (behind, count + 1);
    }
    count
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let service = Service::start_with(limits).await;
    let mut held = service.connect().await;
    held.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_first::<1>(&mut held).await;
    let refused = service.send_bytes(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true).await;
    let (reply, rest) = Reply::parse(&refused).expect("a reply");
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "too-many-connections"));
    assert_eq!((reply.header("retry-after"), rest.len()), ("1", 0));
    assert_eq!(reply.json()["request_id"], reply.header("x-request-id"));
    drop(held);
    // The place is free once the service has seen the other connection close.
    in_time("the place is free again", async {
        let ask = || service.send_bytes(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true);
        while !ask().await.starts_with(b"HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    service.stop().await;
}

/// Telling a client that there is no place for it is a bounded work as well: only so many are told at one time, and none of
/// them is waited for without end.
#[tokio::test]
async fn only_so_many_connections_are_told_that_they_are_too_many_and_for_a_moment() {
    const TOLD_MAX: usize = 64;
    let service = Service::start_with(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut held = service.connect().await;
    held.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
    read_first::<1>(&mut held).await;
    let began = Instant::now();
    let mut told = Vec::new();
    for _ in 0..3 * TOLD_MAX {
        let mut stream = service.connect().await;
        let reply = read_to_end(&mut stream).await;
        match reply.starts_with(b"HTTP/1.1 503") {
            true => told.push(stream),
            false => assert!(reply.is_empty(), "{reply:?}"),
        }
    }
    // None of them closes its side, so each keeps its place for a second.
    let told_max = TOLD_MAX * (began.elapsed().as_secs() as usize + 1);
    assert!((TOLD_MAX..=told_max).contains(&told.len()), "{} of {told_max}", told.len());
    in_time("who was told is let go", async {
        while told[0].write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_closes_what_is_idle() {
    let service = Service::start().await;
    service.open_with("a", "1").await;
    let mut idle = service.connect().await;
    let mut halfway = service.connect().await;
    halfway
        .write_all(b"POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    // The service has begun to read the body once it asks for it.
    assert_eq!(&read_first::<25>(&mut halfway).await, b"HTTP/1.1 100 Continue\r\n\r\n");
    let address = service.address;
    // Kept beyond the service: the request in flight needs it.
    let mut service = service;
    let bank = service.bank.take().unwrap();
    let serving = service.begin_stop();
    assert!(read_to_end(&mut idle).await.is_empty());
    halfway.write_all(b"{\"amount\":1}").await.unwrap();
    let bytes = read_to_end(&mut halfway).await;
    let (reply, _) = Reply::parse(&bytes).expect("a reply");
    assert_eq!((reply.status.as_u16(), reply.header("connection")), (201, "close"));
    assert_eq!(in_time("it stops", serving).await.unwrap(), Drained { connections_cut: 0 });
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    bank.stop();
}

#[tokio::test]
async fn stopping_cuts_off_who_does_not_come_to_an_end() {
    let limits = Limits { drain_time_max: Duration::from_millis(50), ..Limits::default() };
    let mut service = Service::start_with(limits).await;
    let mut halfway = service.connect().await;
    halfway
        .write_all(
            b"POST /accounts HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\nexpect: 100-continue\r\n\r\n",
        )
        .await
        .unwrap();
    read_first::<25>(&mut halfway).await;
    let bank = service.bank.take().unwrap();
    assert_eq!(in_time("it stops", service.begin_stop()).await.unwrap(), Drained { connections_cut: 1 });
    bank.stop();
}

#[tokio::test]
async fn who_does_not_read_its_replies_is_cut_off() {
    let limits = Limits { write_stall_time_max: Duration::from_millis(100), ..Limits::default() };
    let service = Service::start_with(limits).await;
    // Large replies, and such as are sent together with others.
    for path in ["/problems", "/healthz"] {
        let mut stream = service.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").repeat(100);
        // It writes requests and never reads; sooner or later both directions are full, and then it is cut off.
        in_time("it is cut off", async { while stream.write_all(request.as_bytes()).await.is_ok() {} }).await;
    }
    service.stop().await;
}

/// How many bytes of a connection wait for the other side to take them, as the system has it.
fn bytes_not_taken(from: SocketAddr, to: SocketAddr) -> u64 {
    let address = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("{address} is of version 4") };
        format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
    };
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let ends = format!(" {} {} ", address(from), address(to));
    let (_, rest) = connections.lines().find_map(|line| line.split_once(&ends)).expect("it is connected");
    let waiting = rest.split_whitespace().nth(1).and_then(|queues| queues.split(':').next());
    u64::from_str_radix(waiting.expect("a queue"), 16).expect("a number")
}

#[tokio::test]
async fn who_reads_late_gets_every_reply_once_and_in_order() {
    const REQUESTS: usize = 60_000;
    let service = Service::start().await;
    let stream = connect_with_little_room(&service).await;
    let (client, server) = (stream.local_addr().expect("bound"), service.address);
    let (mut from, mut to) = stream.into_split();
    let writing = tokio::spawn(async move {
        for number in 0..REQUESTS {
            let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: {number}\r\n\r\n");
            to.write_all(request.as_bytes()).await.expect("taken");
        }
        to.shutdown().await.expect("shut down");
    });
    // Until nothing more is answered, since there is no room for replies: the system keeps some that it cannot hand over.
    let answered = async || {
        let text = service.get("/metrics").await.text().to_owned();
        let line =
            text.lines().find(|line| line.starts_with("teller_http_requests_total{route=\"/healthz\""));
        line.map(|line| {
            line.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok()).expect("a count")
        })
    };
    let mut before = answered().await;
    let until = Instant::now() + TIME_MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = answered().await;
        if now.is_some() && now == before && bytes_not_taken(server, client) > 0 {
            break;
        }
        assert!(Instant::now() < until, "there is always room: {now:?}");
        before = now;
    }
    assert!(before < Some(REQUESTS), "there is room for all replies");
    let bytes = read_to_end(&mut from).await;
    writing.await.expect("no panic");
    let mut rest = &bytes[..];
    for number in 0..REQUESTS {
        let (reply, behind) = Reply::parse(rest).expect("a reply");
        assert_eq!((reply.status.as_u16(), reply.header("x-request-id")), (200, number.to_string().as_str()));
        rest = behind;
    }
    assert!(rest.is_empty());
    service.stop().await;
}

/// So many deposits to an account.
fn deposits(bank: &Bank, account: &AccountSelector, amount: Quantity, count: usize) -> BatchItems {
    let mut items = BatchItems::expecting(count);
    for _ in 0..count {
        let account = bank.place(account.clone());
        let operation = Operation::Deposit { account, amount, note: Note::default() };
        items.push(BatchItem { operation, conditions: Vec::new(), key: None }, bank);
    }
    items
}

/// A version that reads or cuts a list otherwise may have used its key: then it is another list, not the end of the process.
#[tokio::test]
async fn a_list_whose_key_has_other_results_is_another_one() {
    let MemoryBank { bank, .. } = &MemoryBank::start(1);
    let currency = bank.currency();
    let name = AccountName::parse("alice").expect("valid");
    let key = Some(IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [2; 16] });
    let origin = |key| Origin { key, request_id: "".into() };
    bank.open(Opening::plain(name.clone(), currency, None), origin(None)).await.expect("opened");
    let account = AccountSelector::Name(name);
    let amount = Quantity::of(Amount::from_minor_units(100).expect("in range"), currency);
    let batch = async |count: usize| {
        let items = deposits(bank, &account, amount, count);
        bank.batch(items, false, true, origin(key)).await.map(|outcome| outcome.results.len())
    };
    assert!(matches!(batch(2).await, Ok(2)));
    for other in [1, 3] {
        assert!(matches!(batch(other).await, Err(BatchRefusal::Refused(Refusal::KeyReused))));
    }
    assert!(matches!(batch(2).await, Ok(2)));
}

/// P7: what waits for compaction is bounded, because batches settle at its pace.
#[tokio::test(start_paused = true)]
async fn batches_wait_for_compaction_and_single_requests_do_not() {
    let MemoryBank { bank, brake, .. } = &MemoryBank::start(1);
    let currency = bank.currency();
    let name = AccountName::parse("alice").expect("valid");
    let account = AccountSelector::Name(name.clone());
    let amount = Quantity::of(Amount::from_minor_units(100).expect("in range"), currency);
    let origin = Origin { key: None, request_id: "".into() };
    bank.open(Opening::plain(name, currency, None), origin.clone()).await.expect("opened");
    let batch = || async {
        let items = deposits(bank, &account, amount, 100);
        bank.batch(items, false, true, origin.clone()).await.map(|outcome| outcome.results.len())
    };
    let deposit = || bank.post(account.clone(), None, Direction::Deposit, amount, origin.clone());

    let start = Instant::now();
    assert!(matches!(batch().await, Ok(100)), "few generations wait");
    assert!(matches!(batch().await, Ok(100)), "and batches cost nothing");
    brake.set(1000);
    assert!(matches!(batch().await, Ok(100)), "nobody is to be waited for");
    deposit().await.expect("it passes");
    assert_eq!(start.elapsed(), Duration::ZERO);
    let (waits, is_sent_away) = tokio::join!(batch(), async {
        let refused = batch().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        refused
    });
    assert!(matches!(waits, Ok(100)));
    assert!(start.elapsed() >= Duration::from_secs(2), "as long as one costs at the most");
    assert!(matches!(is_sent_away, Err(BatchRefusal::Refused(Refusal::Overloaded))), "{is_sent_away:?}");
    brake.set(0);
    assert!(matches!(batch().await, Ok(100)));
}
