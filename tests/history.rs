//! History from the outside: filters and pages, accounts as they were, statements, transactions with all their sides.

mod random;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use random::Random;
use serde_json::{Value, json};
use support::{MemoryBank, Reply, Service, in_time};
use teller::http::Limits;
use teller::ledger::Sequence;
use teller::storage::StorageError;
use teller::storage::journal::JournalReader;
use tokio::task::JoinSet;

/// Posts a body that has to be taken.
async fn made(service: &Service, path: &str, body: Value) -> Value {
    let reply = service.post(path, &body.to_string()).await;
    assert!(reply.status.is_success(), "{path} {body}: {reply:?}");
    reply.json()
}

async fn open(service: &Service, body: Value) -> String {
    text(&made(service, "/v2/accounts", body).await, "id")
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}")).to_owned()
}

async fn read(service: &Service, path: &str) -> Value {
    let reply = service.get(path).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    reply.json()
}

/// All items of a list, page by page.
async fn all(service: &Service, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = path.to_owned();
    loop {
        let page = service.get(&next).await;
        assert_eq!(page.status, 200, "{next}: {page:?}");
        let page = page.json();
        let here = page["items"].as_array().expect("items");
        assert_eq!(page["count"], here.len());
        items.extend(here.iter().cloned());
        match page["_links"]["next"]["href"].as_str() {
            Some(href) => next = href.to_owned(),
            None => {
                assert_eq!(page["next"], Value::Null);
                return items;
            }
        }
    }
}

fn of(items: &[Value], name: &str) -> Vec<String> {
    items.iter().map(|item| item[name].as_str().unwrap_or("-").to_owned()).collect()
}

/// The minor units of an amount with two decimals.
fn cents(value: &Value) -> i64 {
    value.as_str().expect("an amount").replace('.', "").parse().expect("digits")
}

/// Lets the clock move on, so that what comes next has a later time.
async fn tick() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

const ALL_TYPES: &str = "deposit,withdrawal,transfer,protection,reversal,hold,capture,void,expiry,opening,amendment,\
    closing,linking,unlinking";

#[tokio::test]
async fn an_entry_says_what_happened_to_its_account_and_to_others() {
    let service = Service::start().await;
    let a = open(&service, json!({"name": "a"})).await;
    let b = open(&service, json!({"name": "b"})).await;
    let shop = open(&service, json!({"name": "shop"})).await;
    let noted = json!({"amount": "100", "reference": "pay-1", "metadata": {"k": "v"}});
    let deposit = made(&service, &format!("/v2/accounts/{a}/deposits"), noted).await;
    let transfer = json!({"from": "name:a", "to": "name:b", "amount": "30", "reference": "t-1"});
    let transfer = made(&service, "/v2/transfers", transfer).await;
    let reverse = format!("/v2/transfers/{}/reverse", text(&transfer, "id"));
    let reversal = made(&service, &reverse, json!({"amount": "10"})).await;
    let hold = json!({"account": "name:a", "amount": "40", "to": "name:shop"});
    let hold = made(&service, "/v2/holds", hold).await;
    let hold_id = text(&hold, "id");
    made(&service, &format!("/v2/holds/{hold_id}/capture"), json!({"amount": "15"})).await;
    let second = made(&service, "/v2/holds", json!({"account": "name:a", "amount": "5"})).await;
    let second_id = text(&second, "id");
    let void = service.send("POST", &format!("/v2/holds/{second_id}/void"), &[], "{}").await;
    assert!(void.status.is_success(), "{void:?}");
    let patched = service.send("PATCH", &format!("/v2/accounts/{a}"), &[], r#"{"frozen":true}"#).await;
    assert_eq!(patched.status, 200, "{patched:?}");

    let items = all(&service, &format!("/v2/accounts/{a}/transactions?order=asc&limit=3")).await;
    let row = |item: &Value| {
        ["type", "amount", "held_change", "balance", "held"].map(|name| text(item, name)).join(" ")
    };
    assert_eq!(
        items.iter().map(row).collect::<Vec<_>>(),
        [
            "deposit 100.00 0.00 100.00 0.00",
            "transfer -30.00 0.00 70.00 0.00",
            "reversal 10.00 0.00 80.00 0.00",
            "hold 0.00 40.00 80.00 40.00",
            "capture -15.00 -40.00 65.00 0.00",
            "hold 0.00 5.00 65.00 5.00",
            "void 0.00 -5.00 65.00 0.00",
        ]
    );
    assert_eq!(items[0], deposit);
    assert_eq!((&items[0]["reference"], &items[0]["metadata"]), (&json!("pay-1"), &json!({"k": "v"})));
    assert_eq!(items[0]["counterparties"], json!([]));
    let to_b = json!([{"account_id": b, "currency": "USD", "amount": "30.00"}]);
    assert_eq!((&items[1]["id"], &items[1]["counterparties"]), (&transfer["id"], &to_b));
    assert_eq!((&items[2]["id"], &items[2]["reversal_of"]), (&reversal["id"], &transfer["id"]));
    assert_eq!((&items[3]["hold_id"], &items[4]["hold_id"]), (&json!(hold_id), &json!(hold_id)));
    assert_eq!(items[3]["_links"]["hold"]["href"], format!("/v2/holds/{hold_id}"));
    assert_eq!(items[4]["counterparties"][0]["account_id"], shop);
    assert_eq!(items[6]["hold_id"], second_id);
    let versions: Vec<_> = items.iter().map(|item| item["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7, 8]);
    // What is about the account itself is there for those who ask.
    let about =
        all(&service, &format!("/v2/accounts/{a}/transactions?types=opening,amendment,closing")).await;
    assert_eq!(of(&about, "type"), ["amendment", "opening"]);
    let everything = all(&service, &format!("/v2/accounts/{a}/transactions?types={ALL_TYPES}")).await;
    assert_eq!(everything.len(), 9);
    // The other side of the transfer is the same transaction.
    let others = all(&service, &format!("/v2/accounts/{b}/transactions")).await;
    assert_eq!(of(&others, "type"), ["reversal", "transfer"]);
    assert_eq!(others[1]["id"], items[1]["id"]);
    assert_eq!((&others[1]["amount"], &others[1]["created"]), (&json!("30.00"), &items[1]["created"]));
    service.stop().await;
}

#[tokio::test]
async fn a_transaction_has_all_its_sides_and_is_cached_for_as_long_as_it_cannot_change() {
    let service = Service::start().await;
    for name in ["a", "b", "c"] {
        open(&service, json!({"name": name})).await;
    }
    let deposit = made(&service, "/v2/accounts/name:a/deposits", json!({"amount": "50"})).await;
    let legs = json!({"legs": [
        {"account": "name:a", "amount": "-30"},
        {"account": "name:b", "amount": "10"},
        {"account": "name:c", "amount": "20"},
    ], "metadata": {"why": "rent"}});
    let transfer = made(&service, "/v2/transfers", legs).await;
    let path = format!("/v2/transactions/{}", text(&transfer, "id"));
    let before = service.get(&path).await;
    assert_eq!(before.header("cache-control"), "no-cache");
    let detail = before.json();
    assert_eq!(detail["accounts"].as_array().unwrap().len(), 3);
    let amounts = of(detail["accounts"].as_array().unwrap(), "amount");
    assert_eq!((amounts[0].as_str(), amounts.len()), ("-30.00", 3));
    assert_eq!((&detail["type"], &detail["metadata"]), (&json!("transfer"), &json!({"why": "rent"})));
    assert_eq!((&detail["reversal_of"], &detail["reversed_by"]), (&Value::Null, &Value::Null));
    assert!(detail["_links"]["reverse"].is_object());
    let tag = before.header("etag").to_owned();
    assert_eq!(service.send("GET", &path, &[("if-none-match", &tag)], "").await.status, 304);

    let reversal =
        made(&service, &format!("/v2/transfers/{}/reverse", text(&transfer, "id")), json!({})).await;
    // The tag of what can change changes with it; what cannot change any more is kept for ever.
    let after = service.send("GET", &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((after.status.as_u16(), after.json()["reversed_by"].clone()), (200, reversal["id"].clone()));
    assert!(after.json()["_links"]["reverse"].is_null());
    assert!(after.header("cache-control").contains("immutable"));
    for (id, of) in [(&reversal["id"], &transfer["id"]), (&deposit["id"], &Value::Null)] {
        let reply = service.get(&format!("/v2/transactions/{}", id.as_str().unwrap())).await;
        assert_eq!((&reply.json()["reversal_of"], reply.status.as_u16()), (of, 200));
        assert!(reply.header("cache-control").contains("immutable"));
    }
    // Openings and the like are transactions too; version 1 knows deposits and withdrawals only.
    let opening = all(&service, "/v2/accounts/name:a/transactions?types=opening").await.remove(0);
    let id = text(&opening, "id");
    assert_eq!(read(&service, &format!("/v2/transactions/{id}")).await["type"], "opening");
    assert_eq!(service.get(&format!("/transactions/{id}")).await.code(), "transaction-not-found");
    assert_eq!(service.get(&format!("/transactions/{}", text(&deposit, "id"))).await.status, 200);
    assert_eq!(
        service.get(&format!("/transactions/{}", text(&transfer, "id"))).await.code(),
        "transaction-not-found"
    );
    service.stop().await;
}

/// Does something at random, somewhere.
async fn something(service: &Service, random: &mut Random, holds: &mut Vec<String>) {
    let name = |random: &mut Random| format!("name:{}", ["a", "b", "c", "d"][random.below(4) as usize]);
    let (one, other) = (name(random), name(random));
    let amount = format!("{}.{:02}", random.below(20), 1 + random.below(99));
    let mut body = json!({"amount": amount});
    if random.percent(40) {
        body["reference"] = json!(format!("r{}", random.below(4)));
    }
    if random.percent(50) {
        body["metadata"] = json!({"k": format!("{}", random.below(3)), "l": format!("{}", random.below(2))});
    }
    let (path, body) = match random.below(8) {
        0 | 1 => (format!("/v2/accounts/{one}/deposits"), body),
        2 => (format!("/v2/accounts/{one}/withdrawals"), body),
        3 | 4 => {
            (body["from"], body["to"]) = (json!(one), json!(other));
            ("/v2/transfers".to_owned(), body)
        }
        5 => {
            body["account"] = json!(one);
            ("/v2/holds".to_owned(), body)
        }
        what => match holds.pop() {
            Some(hold) if what == 6 => (format!("/v2/holds/{hold}/capture"), json!({})),
            Some(hold) => (format!("/v2/holds/{hold}/void"), json!({})),
            None => return,
        },
    };
    // Some are refused; that leaves no trace.
    let reply = service.post(&path, &body.to_string()).await;
    assert!(!reply.status.is_server_error(), "{reply:?}");
    if path == "/v2/holds" && reply.status.is_success() {
        holds.push(text(&reply.json(), "id"));
    }
}

/// Every filter, alone and with others, in both orders and any pages, finds what a look at all entries finds.
#[tokio::test]
async fn filters_find_what_a_look_at_everything_finds() {
    let seed = random::setting("TELLER_HISTORY_SEED").unwrap_or(7);
    let mut random = Random::new(seed);
    let service = Service::start().await;
    for name in ["a", "b", "c", "d"] {
        open(&service, json!({"name": name, "overdraft_limit": "1000"})).await;
    }
    let mut holds = Vec::new();
    for _ in 0..300 {
        something(&service, &mut random, &mut holds).await;
        if random.percent(20) {
            tick().await;
        }
    }
    for round in 0..200 {
        let name = ["a", "b", "c", "d"][random.below(4) as usize];
        let path = format!("/v2/accounts/name:{name}/transactions");
        let everything = all(&service, &format!("{path}?types={ALL_TYPES}&order=asc&limit=1000")).await;
        let mut query = Vec::new();
        let mut wanted = everything.clone();
        let types: Vec<&str> = ["deposit", "transfer", "hold", "void", "capture", "withdrawal", "opening"]
            .into_iter()
            .filter(|_| random.percent(40))
            .collect();
        if types.is_empty() {
            wanted.retain(|item| item["type"] != "opening");
        } else {
            query.push(format!("types={}", types.join(",")));
            wanted.retain(|item| types.contains(&item["type"].as_str().unwrap()));
        }
        let some = everything[random.below(everything.len() as u64) as usize].clone();
        let other = everything[random.below(everything.len() as u64) as usize].clone();
        let (from, to) = (text(&some, "created"), text(&other, "created"));
        let (from, to) = if from <= to { (from, to) } else { (to, from) };
        if random.percent(40) {
            query.push(format!("from={from}"));
            wanted.retain(|item| item["created"].as_str().unwrap() >= from.as_str());
        }
        if random.percent(40) {
            query.push(format!("to={to}"));
            wanted.retain(|item| item["created"].as_str().unwrap() < to.as_str());
        }
        let size = |item: &Value| match cents(&item["amount"]).abs() {
            0 => cents(&item["held_change"]).abs(),
            amount => amount,
        };
        let (min, max) = (&some["amount"], &other["amount"]);
        let (min, max) = if cents(min).abs() <= cents(max).abs() { (min, max) } else { (max, min) };
        if random.percent(30) {
            query.push(format!("amount_min={}", min.as_str().unwrap().trim_start_matches('-')));
            wanted.retain(|item| size(item) >= cents(min).abs());
        }
        if random.percent(30) {
            query.push(format!("amount_max={}", max.as_str().unwrap().trim_start_matches('-')));
            wanted.retain(|item| size(item) <= cents(max).abs());
        }
        if random.percent(20) {
            query.push("reference=r1".to_owned());
            wanted.retain(|item| item["reference"] == "r1");
        }
        if random.percent(20) {
            query.push("metadata[k]=1".to_owned());
            wanted.retain(|item| item["metadata"]["k"] == "1");
        }
        if random.percent(20) {
            query.push("metadata%5Bl%5D=%30".to_owned());
            wanted.retain(|item| item["metadata"]["l"] == "0");
        }
        query.push(format!("limit={}", 1 + random.below(9)));
        if random.percent(50) {
            query.push("order=asc".to_owned());
        } else {
            wanted.reverse();
        }
        let path = format!("{path}?{}", query.join("&"));
        let found = all(&service, &path).await;
        assert_eq!(of(&found, "id"), of(&wanted, "id"), "seed {seed}, round {round}: {path}");
        assert_eq!(found, wanted);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_cursor_belongs_to_one_list() {
    let service = Service::start().await;
    let a = service.open_with("a", "1").await;
    service.open_with("b", "1").await;
    for _ in 0..5 {
        service.post("/accounts/a/deposit", r#"{"amount":1}"#).await;
    }
    let path = format!("/v2/accounts/{}/transactions", text(&a, "id"));
    let page = read(&service, &format!("{path}?limit=2&types=deposit&metadata[a]=&metadata[b]=")).await;
    assert_eq!((&page["count"], &page["next"]), (&json!(0), &Value::Null));
    let page = read(&service, &format!("{path}?limit=2&types=deposit&amount_min=1&from=0")).await;
    let cursor = text(&page, "next");
    // The limit may change, and the filters may stand in another order.
    for query in ["limit=3&types=deposit&amount_min=1&from=0", "from=0&limit=2&amount_min=1&types=deposit"] {
        assert_eq!(service.get(&format!("{path}?{query}&cursor={cursor}")).await.status, 200);
    }
    assert_eq!(
        service
            .get(&format!(
                "/v2/accounts/name:a/transactions?from=0&amount_min=1&types=deposit&cursor={cursor}"
            ))
            .await
            .status,
        200
    );
    for query in [
        "types=deposit&amount_min=1",
        "types=deposit&amount_min=2&from=0",
        "types=deposit&amount_min=1&from=0&order=asc",
        "types=deposit&amount_min=1&from=0&reference=x",
        "types=deposit&amount_min=1&from=0&metadata[a]=b",
        "",
    ] {
        let refused = service.get(&format!("{path}?{query}&cursor={cursor}")).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "invalid-cursor"), "{query}");
    }
    let other = format!("/v2/accounts/name:b/transactions?types=deposit&amount_min=1&from=0&cursor={cursor}");
    assert_eq!(service.get(&other).await.code(), "invalid-cursor");
    assert_eq!(service.get(&format!("/v2/accounts?cursor={cursor}")).await.code(), "invalid-cursor");
    service.stop().await;
}

/// A + in a query was taken for itself: what curl's --data-urlencode and most libraries send found nothing.
#[tokio::test]
async fn a_plus_in_a_query_is_a_space() {
    let service = Service::start().await;
    open(&service, json!({"name": "a b"})).await;
    let deposit = json!({"amount": "1", "reference": "rent june", "metadata": {"paid by": "c+d e"}});
    made(&service, "/v2/accounts/name:a%20b/deposits", deposit).await;
    // In a path it is itself.
    assert_eq!(service.get("/v2/accounts/name:a+b").await.code(), "account-not-found");
    let path = "/v2/accounts/name:a%20b/transactions";
    for query in ["reference=rent+june", "reference=rent%20june", "metadata[paid+by]=c%2Bd+e"] {
        assert_eq!(read(&service, &format!("{path}?{query}")).await["count"], 1, "{query}");
    }
    assert_eq!(read(&service, &format!("{path}?reference=rent%2Bjune")).await["count"], 0);
    let page = read(&service, &format!("{path}?metadata[paid+by]=c%2Bd+e&from=0&limit=1")).await;
    let link = text(&page["_links"]["self"], "href");
    assert_eq!(read(&service, &link).await, page);
    assert_eq!(read(&service, "/v2/accounts?prefix=a+").await["count"], 1);
    assert_eq!(read(&service, "/v2/events?account=name:a+b&types=deposit").await["count"], 1);
    service.stop().await;
}

/// A filter that finds little does not keep a reader busy without end: the page is short, and says where to go on.
#[tokio::test]
async fn a_page_examines_a_bounded_number_of_entries() {
    let service = Service::start().await;
    let first = json!({"name": "a"});
    open(&service, first).await;
    made(&service, "/v2/accounts/name:a/deposits", json!({"amount": "1", "reference": "first"})).await;
    for _ in 0..11 {
        let item = json!({"type": "deposit", "account": "name:a", "amount": "1"});
        let items: Vec<&Value> = std::iter::repeat_n(&item, 1000).collect();
        let body = json!({"items": items}).to_string();
        let reply = service.post("/v2/batches?results=none", &body).await;
        assert!(reply.status.is_success(), "{reply:?}");
    }
    let path = "/v2/accounts/name:a/transactions?reference=first";
    let page = read(&service, path).await;
    assert_eq!((&page["count"], page["next"].is_string()), (&json!(0), true), "{page}");
    let found = all(&service, path).await;
    assert_eq!(of(&found, "reference"), ["first"]);
    let page = read(&service, &format!("{path}&order=asc")).await;
    assert_eq!((&page["count"], page["next"].is_string()), (&json!(1), true), "{page}");
    assert_eq!(all(&service, &format!("{path}&order=asc")).await, found);
    // A statement of as much is refused, and one of less is made.
    let refused = service.get("/v2/accounts/name:a/statement").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "statement-too-long"));
    let from = text(&read(&service, "/v2/accounts/name:a").await, "updated");
    let statement = read(&service, &format!("/v2/accounts/name:a/statement?from={from}")).await;
    assert_eq!(statement["closing_balance"], "11001.00");
    service.stop().await;
}

#[tokio::test]
async fn a_unique_reference_finds_the_one() {
    let service = Service::start().await;
    open(&service, json!({"name": "a", "unique_reference": true})).await;
    open(&service, json!({"name": "b"})).await;
    let first = json!({"amount": "10", "reference": "one / 1"});
    let deposit = made(&service, "/v2/accounts/name:a/deposits", first.clone()).await;
    let transfer = json!({"from": "name:b", "to": "name:a", "amount": "2", "reference": "two"});
    let transfer = made(&service, "/v2/transfers", transfer).await;
    let refused = service.post("/v2/accounts/name:a/deposits", &first.to_string()).await;
    assert_eq!((refused.code().as_str(), &refused.json()["used_by"]), ("reference-used", &deposit["id"]));
    let path = "/v2/accounts/name:a/transactions";
    for (query, expected) in [
        ("reference=one%20%2F%201", vec![&deposit["id"]]),
        ("reference=two", vec![&transfer["id"]]),
        ("reference=two&order=asc&limit=1", vec![&transfer["id"]]),
        ("reference=two&types=transfer&amount_min=2&amount_max=2", vec![&transfer["id"]]),
        ("reference=two&types=deposit", vec![]),
        ("reference=two&amount_min=2.01", vec![]),
        ("reference=two&to=1", vec![]),
        ("reference=Two", vec![]),
        ("reference=tw", vec![]),
    ] {
        let found = all(&service, &format!("{path}?{query}")).await;
        assert_eq!(found.iter().map(|item| &item["id"]).collect::<Vec<_>>(), expected, "{query}");
    }
    // In other accounts a reference is only a filter, and there may be several.
    assert_eq!(all(&service, "/v2/accounts/name:b/transactions?reference=two").await.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn an_account_is_read_as_it_was() {
    let service = Service::start().await;
    let before =
        read(&service, &format!("/v2/accounts/{}", open(&service, json!({"name": "z"})).await)).await;
    tick().await;
    let a = open(&service, json!({"name": "a"})).await;
    let path = format!("/v2/accounts/{a}");
    let mut stages = vec![read(&service, &path).await];
    for (action, body) in [
        ("deposits", json!({"amount": "100"})),
        ("withdrawals", json!({"amount": "30"})),
        ("deposits", json!({"amount": "0.5", "reference": "r"})),
    ] {
        tick().await;
        made(&service, &format!("{path}/{action}"), body).await;
        stages.push(read(&service, &path).await);
    }
    tick().await;
    made(&service, "/v2/holds", json!({"account": a, "amount": "20"})).await;
    stages.push(read(&service, &path).await);
    for stage in &stages {
        let (updated, version) = (text(stage, "updated"), stage["version"].as_u64().unwrap());
        let versioned = service.get(&format!("{path}?at=v{version}")).await;
        assert_eq!(versioned.header("cache-control"), "private, max-age=31536000, immutable");
        let timed = service.get(&format!("{path}?at={updated}")).await;
        assert_eq!(timed.header("cache-control"), "no-cache");
        assert_eq!(timed.json(), versioned.json());
        let tag = timed.header("etag").to_owned();
        let headers = [("if-none-match", tag.as_str())];
        assert_eq!(service.send("GET", &format!("{path}?at={updated}"), &headers, "").await.status, 304);
        for name in ["id", "name", "currency", "posted", "held", "version", "created", "updated", "closed"] {
            assert_eq!(timed.json()[name], stage[name], "{name}");
        }
        assert_eq!(timed.json()["at"], updated);
        // By name, in Unix milliseconds, and a little later it is the same.
        let by_name = service.get(&format!("/v2/accounts/name:a?at=v{version}")).await;
        assert_eq!((by_name.header("cache-control"), by_name.json()), ("no-cache", timed.json()));
        let later = updated.replace('Z', "9Z");
        assert_eq!(read(&service, &format!("{path}?at={later}")).await["posted"], stage["posted"]);
    }
    let early = text(&before, "created");
    for at in
        [early.as_str(), "0", "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "v6", "v9223372036854775808"]
    {
        let refused = service.get(&format!("{path}?at={at}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (404, "account-not-there-yet"),
            "{at}"
        );
    }
    for at in [
        "",
        "now",
        "v0",
        "v",
        "V2",
        "-1",
        "2026-11-22",
        "2100-01-01T00:00:00Z",
        "4102444800000",
        "999999999999999",
    ] {
        let refused = service.get(&format!("{path}?at={at}")).await;
        assert_eq!(
            (refused.code().as_str(), refused.places()),
            ("invalid-parameter", vec!["?at".to_owned()]),
            "{at}"
        );
    }
    assert_eq!(service.get("/v2/accounts/name:nobody?at=v1").await.code(), "account-not-found");
    service.stop().await;
}

#[tokio::test]
async fn a_closed_account_was_open_before() {
    let service = Service::start().await;
    let a = open(&service, json!({"name": "a"})).await;
    tick().await;
    assert_eq!(service.send("DELETE", &format!("/v2/accounts/{a}"), &[], "").await.status, 204);
    let closed = read(&service, &format!("/v2/accounts/{a}")).await;
    let at = |at: &str| format!("/v2/accounts/{a}?at={at}");
    assert_eq!(read(&service, &at("v1")).await["closed"], Value::Null);
    assert_eq!(read(&service, &at("v2")).await["closed"], closed["closed"]);
    assert_eq!(read(&service, &at(&text(&closed, "created"))).await["closed"], Value::Null);
    assert_eq!(read(&service, &at(&text(&closed, "closed"))).await["closed"], closed["closed"]);
    // By name it is not found any more, whatever the moment.
    assert_eq!(service.get("/v2/accounts/name:a?at=v1").await.code(), "account-not-found");
    let created = text(&closed, "created");
    for (query, expected) in [
        (format!("at={created}"), 1),
        (format!("at={created}&closed=false"), 1),
        (format!("at={created}&closed=true"), 0),
        (format!("at={}&closed=true", text(&closed, "closed")), 1),
        (format!("at={}&closed=false", text(&closed, "closed")), 0),
    ] {
        assert_eq!(all(&service, &format!("/v2/accounts?{query}")).await.len(), expected, "{query}");
    }
    service.stop().await;
}

/// At every moment all accounts sum to what had come from outside by then: a transfer is seen whole or not at all.
#[tokio::test]
async fn the_list_of_accounts_at_a_moment_adds_up() {
    let service = Service::start().await;
    let mut moments = BTreeMap::new();
    let mut total = 0;
    for number in 0..7 {
        open(&service, json!({"name": format!("n{number}")})).await;
        tick().await;
        let deposit =
            made(&service, &format!("/v2/accounts/name:n{number}/deposits"), json!({"amount": "10"})).await;
        total += 1000;
        moments.insert(text(&deposit, "created"), (number + 1, total));
        for other in 0..number {
            let from = format!("name:n{number}");
            let transfer = json!({"from": from, "to": format!("name:n{other}"), "amount": "1.11"});
            let transfer = made(&service, "/v2/transfers", transfer).await;
            moments.insert(text(&transfer, "created"), (number + 1, total));
        }
        tick().await;
    }
    for (moment, (count, total)) in &moments {
        let path = format!("/v2/accounts?at={moment}&limit=2");
        let accounts = all(&service, &path).await;
        assert_eq!(accounts.len(), *count, "{moment}");
        assert_eq!(accounts.iter().map(|account| cents(&account["posted"])).sum::<i64>(), *total, "{moment}");
        for account in &accounts {
            let alone = read(&service, &format!("/v2/accounts/{}?at={moment}", text(account, "id"))).await;
            assert_eq!(&alone, account);
        }
    }
    let (last, _) = moments.last_key_value().unwrap();
    assert_eq!(all(&service, &format!("/v2/accounts?at={last}&prefix=n3")).await.len(), 1);
    assert_eq!(all(&service, &format!("/v2/accounts?at={last}&currency=EUR")).await.len(), 0);
    assert_eq!(all(&service, "/v2/accounts?at=0").await.len(), 0);
    for (query, place) in
        [("at=v1", "?at"), ("at=2100-01-01T00:00:00Z", "?at"), ("at=0&metadata[a]=b", "?metadata")]
    {
        let refused = service.get(&format!("/v2/accounts?{query}")).await;
        assert_eq!(
            (refused.code().as_str(), refused.places()),
            ("invalid-parameter", vec![place.to_owned()])
        );
    }
    let page = service.get(&format!("/v2/accounts?at={last}&limit=2")).await;
    let cursor = text(&page.json(), "next");
    assert_eq!(service.get(&format!("/v2/accounts?limit=2&cursor={cursor}")).await.code(), "invalid-cursor");
    service.stop().await;
}

/// P7: a page of a thousand accounts searched all of their histories, which took one of few readers for seconds.
#[tokio::test]
async fn a_page_of_accounts_with_long_histories_as_they_were_is_a_short_one() {
    const ACCOUNTS: usize = 1000;
    let service = Service::start().await;
    let batch = async |item: &dyn Fn(usize) -> Value, times: usize| {
        let lines: String =
            (0..ACCOUNTS * times).map(|number| format!("{}\n", item(number % ACCOUNTS))).collect();
        let ndjson = [("content-type", "application/x-ndjson")];
        let done = service.send("POST", "/v2/batches?results=none", &ndjson, &lines).await.json();
        assert_eq!(done["executed"], ACCOUNTS * times);
    };
    batch(&|number| json!({ "type": "open", "name": format!("n{number}") }), 1).await;
    let deposit = |number| json!({ "type": "deposit", "account": format!("name:n{number}"), "amount": "1" });
    batch(&deposit, 10).await;
    let last = made(&service, "/v2/accounts/name:n0/deposits", json!({ "amount": "1" })).await;
    tick().await;
    for _ in 0..3 {
        batch(&deposit, 10).await;
    }
    let path = format!("/v2/accounts?at={}&limit=1000", text(&last, "created"));
    let first = service.get(&path).await.json();
    let count = first["count"].as_u64().expect("a number");
    assert!((100..1000).contains(&count), "{count} accounts on one page");
    let accounts = all(&service, &path).await;
    assert_eq!(accounts.len(), ACCOUNTS);
    let names: BTreeSet<_> = accounts.iter().map(|account| text(account, "name")).collect();
    assert_eq!(names.len(), ACCOUNTS, "each once");
    assert_eq!(accounts.iter().map(|account| cents(&account["posted"])).sum::<i64>(), 100 * (10 * 1000 + 1));
    service.stop().await;
}

/// A log whose reader waits as long as the gate is closed.
struct Gated {
    log: Arc<dyn JournalReader>,
    is_closed: Arc<AtomicBool>,
}

impl JournalReader for Gated {
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError> {
        while self.is_closed.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.log.record(sequence)
    }
}

/// P7: who found all readers busy waited for as long as they were: a retried payment behind long searches.
#[tokio::test]
async fn who_waits_for_a_reader_of_history_for_long_is_sent_away() {
    const READERS: usize = 16;
    let is_closed = Arc::<AtomicBool>::default();
    let gated = |log| Arc::new(Gated { log, is_closed: Arc::clone(&is_closed) }) as Arc<dyn JournalReader>;
    let bank = MemoryBank::start_with(1, 100, gated);
    let service = Arc::new(Service::over(bank, Limits::default()).await);
    open(&service, json!({ "name": "a" })).await;
    let mut requests = JoinSet::new();
    is_closed.store(true, SeqCst);
    for _ in 0..=READERS {
        let service = Arc::clone(&service);
        requests.spawn(async move { service.get("/v2/accounts/name:a/transactions").await });
    }
    let first = in_time("one too many is answered", requests.join_next()).await;
    let first = first.expect("there are some").expect("no panic");
    assert_eq!((first.status.as_u16(), first.code().as_str()), (503, "overloaded"));
    let metrics = service.get("/metrics").await;
    assert!(metrics.text().contains(&format!("\nteller_http_history_readings {READERS}\n")), "{metrics:?}");
    is_closed.store(false, SeqCst);
    while let Some(reply) = requests.join_next().await {
        assert_eq!(reply.expect("no panic").status, 200);
    }
    Arc::into_inner(service).expect("nobody else has it").stop().await;
}

/// The rows of a CSV, by RFC 4180.
fn csv(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut characters = text.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let row = rows.last_mut().expect("there is one");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                row.last_mut().expect("there is one").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(String::new()),
            '\r' if !quoted => {
                assert_eq!(characters.next(), Some('\n'));
                rows.push(vec![String::new()]);
            }
            other => row.last_mut().expect("there is one").push(other),
        }
    }
    assert_eq!(rows.pop(), Some(vec![String::new()]), "the last record ends like all others");
    rows
}

#[tokio::test]
async fn a_statement_adds_up_in_every_format() {
    let service = Service::start().await;
    let a = open(&service, json!({"name": "Zoë, \"Z\""})).await;
    let shop = open(&service, json!({"name": "shop"})).await;
    let path = format!("/v2/accounts/{a}");
    let deposits = format!("{path}/deposits");
    made(&service, &deposits, json!({"amount": "100", "reference": "a, \"b\""})).await;
    tick().await;
    let transfer = json!({"from": a, "to": shop, "amount": "30.25", "reference": "ñ"});
    let transfer = made(&service, "/v2/transfers", transfer).await;
    let hold = made(&service, "/v2/holds", json!({"account": a, "amount": "5"})).await;
    tick().await;
    let capture = format!("/v2/holds/{}/capture", text(&hold, "id"));
    let capture = made(&service, &capture, json!({})).await;
    tick().await;
    let last = made(&service, &deposits, json!({"amount": "7"})).await;

    let whole = read(&service, &format!("{path}/statement")).await;
    assert_eq!(
        ["opening_balance", "paid_in", "paid_out", "closing_balance"].map(|name| text(&whole, name)),
        ["0.00", "107.00", "35.25", "71.75"]
    );
    let lines = whole["lines"].as_array().unwrap();
    assert_eq!(of(lines, "type"), ["deposit", "transfer", "capture", "deposit"]);
    assert_eq!(of(lines, "amount"), ["100.00", "-30.25", "-5.00", "7.00"]);
    assert_eq!(of(lines, "balance"), ["100.00", "69.75", "64.75", "71.75"]);
    assert_eq!(lines[1]["counterparty_id"], shop);
    assert_eq!((&whole["to"], &whole["count"]), (&Value::Null, &json!(4)));
    // From is the first moment that is in, to the first that is not.
    let (from, to) = (text(&transfer, "created"), text(&last, "created"));
    let part = read(&service, &format!("{path}/statement?from={from}&to={to}")).await;
    assert_eq!(
        ["opening_balance", "paid_in", "paid_out", "closing_balance"].map(|name| text(&part, name)),
        ["100.00", "0.00", "35.25", "64.75"]
    );
    assert_eq!(of(part["lines"].as_array().unwrap(), "id"), [text(&transfer, "id"), text(&capture, "id")]);
    for link in ["self", "account", "transactions"] {
        assert_eq!(service.get(part["_links"][link]["href"].as_str().unwrap()).await.status, 200);
    }
    assert_eq!(read(&service, part["_links"]["self"]["href"].as_str().unwrap()).await, part);
    let empty = read(&service, &format!("{path}/statement?from={from}&to={from}")).await;
    assert_eq!(
        (&empty["count"], text(&empty, "opening_balance"), text(&empty, "closing_balance")),
        (&json!(0), "100.00".to_owned(), "100.00".to_owned())
    );
    let early = read(&service, &format!("{path}/statement?from=0&to=1")).await;
    assert_eq!((&early["count"], &early["closing_balance"]), (&json!(0), &json!("0.00")));

    // It began at the opening, after its end, and its links were refused.
    let before = read(&service, &format!("{path}/statement?to=1")).await;
    assert_eq!((&before["from"], &before["to"]), (&early["to"], &early["to"]));
    for link in ["self", "account", "transactions"] {
        assert_eq!(service.get(before["_links"][link]["href"].as_str().unwrap()).await.status, 200, "{link}");
    }

    let get = async |query: &str, accept: &str| {
        service.send("GET", &format!("{path}/statement{query}"), &[("accept", accept)], "").await
    };
    let as_csv = get("", "text/csv").await;
    assert_eq!(as_csv.header("content-type"), "text/csv; charset=utf-8; header=present");
    assert_eq!(as_csv.header("content-disposition"), format!("attachment; filename=\"statement-{a}.csv\""));
    assert_eq!((as_csv.header("vary"), as_csv.header("cache-control")), ("accept", "no-cache"));
    let rows = csv(as_csv.text());
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|row| row.len() == 9));
    assert_eq!(rows[0][..4], ["created", "type", "amount", "balance"]);
    assert_eq!(rows[1][1..4], ["opening-balance", "", "0.00"]);
    assert_eq!(rows[2][1..6], ["deposit", "100.00", "100.00", "USD", "a, \"b\""]);
    assert_eq!(rows[3][5..8], ["ñ".to_owned(), shop, text(&transfer, "id")]);
    assert_eq!(rows[6][1..4], ["closing-balance", "", "71.75"]);
    let as_text = get("?format=text", "application/json").await;
    assert_eq!(as_text.header("content-type"), "text/plain; charset=utf-8");
    let ends: Vec<_> = as_text.text().lines().filter(|line| line.contains("USD")).collect();
    assert_eq!(ends.len(), 1, "{}", as_text.text());
    let columns: Vec<_> = as_text.text().lines().skip(3).take(7).collect();
    let end_of_balance = columns[0].find("balance").unwrap() + "balance".len();
    for (line, balance) in columns[1..].iter().zip(["0.00", "100.00", "69.75", "64.75", "71.75", "71.75"]) {
        assert!(line[..end_of_balance].ends_with(balance), "{}", as_text.text());
    }
    assert!(as_text.text().ends_with("\npaid in   107.00\npaid out   35.25\n"), "{}", as_text.text());
    for (query, accept, expected) in [
        ("", "*/*", "application/json"),
        ("?format=json", "text/csv", "application/json"),
        ("?format=csv", "image/png", "text/csv; charset=utf-8; header=present"),
        ("", "text/plain;q=0.5, text/csv;q=0.4", "text/plain; charset=utf-8"),
    ] {
        let reply = get(query, accept).await;
        assert_eq!(reply.header("content-type"), expected);
        let tag = reply.header("etag").to_owned();
        let headers = [("accept", accept), ("if-none-match", tag.as_str())];
        let again = service.send("GET", &format!("{path}/statement{query}"), &headers, "").await;
        assert_eq!((again.status.as_u16(), again.header("vary")), (304, "accept"));
    }
    // Each representation has a tag of its own.
    let tag = as_csv.header("etag").to_owned();
    let headers = [("accept", "application/json"), ("if-none-match", tag.as_str())];
    assert_eq!(service.send("GET", &format!("{path}/statement"), &headers, "").await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_place() {
    let service = Service::start().await;
    let a = service.open_with("a", "1").await;
    let account = format!("/v2/accounts/{}", text(&a, "id"));
    let refused = |reply: &Reply| (reply.status.as_u16(), reply.code(), reply.places().join(" "));
    for (query, code, places) in [
        ("types=", "invalid-parameter", "?types"),
        ("types=deposits", "invalid-parameter", "?types"),
        ("types=deposit,", "invalid-parameter", "?types"),
        ("types=deposit,%20hold", "invalid-parameter", "?types"),
        ("types=refusal", "invalid-parameter", "?types"),
        ("types=deposit&types=holds", "invalid-parameter", "?types"),
        ("types=deposit%2C", "invalid-parameter", "?types"),
        ("type=deposit", "unknown-parameter", "?type"),
        ("from=", "invalid-parameter", "?from"),
        ("from=yesterday", "invalid-parameter", "?from"),
        ("from=2026-02-30T00:00:00Z", "invalid-parameter", "?from"),
        ("from=v1", "invalid-parameter", "?from"),
        ("from=2&to=1", "invalid-parameter", "?to"),
        ("amount_min=-1", "invalid-parameter", "?amount_min"),
        ("amount_min=1e2", "invalid-parameter", "?amount_min"),
        ("amount_min=0.00001", "invalid-parameter", "?amount_min"),
        ("amount_max=01", "invalid-parameter", "?amount_max"),
        ("amount_max=%221%22", "invalid-parameter", "?amount_max"),
        ("amount_max=", "invalid-parameter", "?amount_max"),
        ("amount_max=99999999999999999999999999999999999999999", "invalid-parameter", "?amount_max"),
        ("amount_min=1.01&amount_max=1", "invalid-parameter", "?amount_max"),
        ("reference=", "invalid-parameter", "?reference"),
        ("reference=%0a", "invalid-parameter", "?reference"),
        ("reference=%ff", "invalid-parameter", "?reference"),
        ("metadata=a", "invalid-parameter", "?metadata"),
        ("metadata[]=a", "invalid-parameter", "?metadata"),
        ("metadata[a]=1&metadata%5Ba%5D=2", "invalid-parameter", "?metadata"),
        ("metadata[a]=%00", "invalid-parameter", "?metadata"),
        ("metadata[a=1", "unknown-parameter", "?metadata[a"),
        ("limit[a]=1", "unknown-parameter", "?limit[a]"),
        ("from=x&to=y&amount_min=z", "invalid-parameter", "?from ?to ?amount_min"),
    ] {
        let reply = service.get(&format!("{account}/transactions?{query}")).await;
        assert_eq!(refused(&reply), (400, code.to_owned(), places.to_owned()), "{query}");
    }
    for (query, detail) in [
        ("metadata[]=a", "has a key that must not be empty"),
        (
            "metadata[a]=b&metadata[c]=%00",
            "has a value for the key \"c\" that must not contain control characters",
        ),
    ] {
        let reply = service.get(&format!("{account}/transactions?{query}")).await;
        assert_eq!(reply.json()["errors"][0]["detail"], detail);
    }
    let seventeen: Vec<_> = (0..17).map(|number| format!("metadata[{number}]=x")).collect();
    let reply = service.get(&format!("{account}/transactions?{}", seventeen.join("&"))).await;
    assert_eq!(refused(&reply), (400, "invalid-parameter".into(), "?metadata".into()));
    // More decimals than the currency has are no mistake in a bound.
    for (query, count) in [
        ("amount_min=0.9999&amount_max=1.0001", 1),
        ("amount_min=1.0001", 0),
        ("amount_min=10000000000000000000000000", 0),
        ("amount_max=10000000000000000000000000", 1),
        ("from=2100-01-01T00:00:00Z", 0),
        ("to=2100-01-01T00:00:00Z", 1),
        ("from=1970-01-01T00:00:00+01:00", 1),
        ("from=1970-01-01T00:00:00%2B01:00", 1),
        ("from=1970-01-01T00:00:00%2001:00", 1),
    ] {
        assert_eq!(
            read(&service, &format!("{account}/transactions?{query}")).await["count"],
            count,
            "{query}"
        );
    }
    for (query, code, places) in [
        ("?to=2100-01-01T00:00:00Z", "invalid-parameter", "?to"),
        ("?from=2100-01-01T00:00:00Z", "invalid-parameter", "?from"),
        ("?from=2&to=1", "invalid-parameter", "?to"),
        ("?format=xml", "invalid-parameter", "?format"),
        ("?format=JSON", "invalid-parameter", "?format"),
        ("?at=v1", "unknown-parameter", "?at"),
        ("?limit=1", "unknown-parameter", "?limit"),
    ] {
        let reply = service.get(&format!("{account}/statement{query}")).await;
        assert_eq!(refused(&reply), (400, code.to_owned(), places.to_owned()), "{query}");
    }
    for accept in ["image/png", "text/csv;q=0", "nonsense", "application/*;q=0, text/*;q=0.000"] {
        let reply = service.send("GET", &format!("{account}/statement"), &[("accept", accept)], "").await;
        assert_eq!(refused(&reply), (406, "not-acceptable".into(), String::new()), "{accept}");
    }
    let nobody = "/v2/accounts/name:nobody/statement";
    assert_eq!(refused(&service.get(nobody).await), (404, "account-not-found".into(), String::new()));
    assert_eq!(service.post(&format!("{account}/statement"), "{}").await.code(), "method-not-allowed");
    service.stop().await;
}
