//! What was answered is there after `kill -9`, in every shard that had a part in it.

use serde_json::{Value, json};

use crate::teller::{Reply, Teller, text};

/// All that can be read of the accounts.
#[track_caller]
fn seen(teller: &Teller, accounts: &[&String]) -> Vec<String> {
    let mut seen = vec![teller.get("/v2/trial-balance").is(200).to_string()];
    for account in accounts {
        for what in ["", "/holds", "/links"] {
            let read = teller.get(&format!("/v2/accounts/{account}{what}"));
            read.is(200);
            seen.push(read.text().to_owned());
        }
    }
    seen
}

#[test]
fn every_change_survives_with_its_key() {
    let mut teller = Teller::start();
    let a = teller.open_as(0, "payer", "100", json!({ "unique_reference": true }));
    let b = teller.open_as(
        1,
        "limited",
        "50",
        json!({ "velocity_limits": { "debits": { "count": 9, "window_seconds": 2_678_400 } } }),
    );
    let [_, _, c] = teller.open_each([(0, "0"), (1, "0"), (2, "5")]);
    let accounts = [&a, &b, &c];
    let mut answered: Vec<(String, Value, Reply)> = Vec::new();
    let mut send = |teller: &Teller, path: &str, body: Value, status: u16| -> Value {
        let key = format!("key {}", answered.len());
        let reply = teller.post_keyed(path, &key, body.clone());
        let value = reply.is(status);
        answered.push((path.to_owned(), body, reply));
        value
    };
    teller.put(&format!("/v2/accounts/{c}/links/{a}"), json!({ "kind": "overdraft-protection" })).is(201);
    let transfer = json!({ "from": a, "to": b, "amount": "1", "reference": "r" });
    let transferred = text(&send(&teller, "/v2/transfers", transfer.clone(), 201)["id"]);
    let hold = text(&send(&teller, "/v2/holds", json!({ "account": b, "amount": "10", "to": c }), 201)["id"]);
    send(&teller, &format!("/v2/holds/{hold}/capture"), json!({ "amount": "4" }), 201);
    send(&teller, "/v2/holds", json!({ "account": c, "amount": "9.5" }), 201);
    send(&teller, &format!("/v2/accounts/{c}/withdrawals"), json!({ "amount": "2" }), 201);
    send(&teller, &format!("/v2/transfers/{transferred}/reverse"), json!({}), 201);
    send(&teller, "/v2/transfers", json!({ "from": b, "to": a, "amount": "100" }), 422);
    let item = |from: &str, to: &str| json!({ "type": "transfer", "from": from, "to": to, "amount": "1" });
    let items = json!([item(&a, &b), item(&b, &c), item(&c, &a), { "type": "open", "name": "new" }]);
    send(&teller, "/v2/batches", json!({ "atomic": true, "items": items }), 200);
    let before = seen(&teller, &accounts);
    for _ in 0..2 {
        teller.crash();
        assert_eq!(seen(&teller, &accounts), before);
        for (number, (path, body, first)) in answered.iter().enumerate() {
            teller.post_keyed(path, &format!("key {number}"), body.clone()).repeats(first);
        }
        teller.post("/v2/transfers", transfer.clone()).refused(409, "reference-used");
        let reverse = format!("/v2/transfers/{transferred}/reverse");
        teller.post(&reverse, json!({})).refused(409, "already-reversed");
        assert_eq!(seen(&teller, &accounts), before);
    }
    teller.end();
}

#[test]
fn a_hold_whose_time_ends_while_the_service_is_down_has_ended() {
    let mut teller = Teller::start();
    let [a] = teller.open_each([(1, "10")]);
    let hold = teller.post("/v2/holds", json!({ "account": a, "amount": "10", "expires_in": 1 })).is(201);
    let began = std::time::Instant::now();
    teller.crash();
    std::thread::sleep(std::time::Duration::from_millis(1001).saturating_sub(began.elapsed()));
    // Nobody has read the hold since: it is not asked for that ends it.
    let transfer = json!({ "account": a, "amount": "all" });
    teller.post("/v2/holds", transfer).is(201);
    let read = teller.get(&text(&hold["_links"]["self"]["href"])).is(200);
    assert_eq!(read["status"], "expired");
    assert_eq!(teller.account(&a)["held"], "10.00");
    teller.end();
}
