//! `/v2/holds`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{self, POLL_INTERVAL, TIME_MAX};
use crate::teller::{Teller, relations, side, sides, text};

fn place(teller: &Teller, body: Value) -> (String, Value) {
    let hold = teller.post("/v2/holds", body).is(201);
    (format!("/v2/holds/{}", text(&hold["id"])), hold)
}

#[test]
fn a_hold_reserves_and_a_capture_pays_a_part_and_releases_the_rest() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (2, "0")]);
    let body = json!({ "account": a, "amount": "6", "to": b, "expires_in": 3600, "reference": "r" });
    let made = teller.post("/v2/holds", body);
    let hold = made.is(201);
    let path = format!("/v2/holds/{}", text(&hold["id"]));
    assert_eq!(made.header("location"), path);
    for (member, expected) in [
        ("account_id", json!(teller.id(&a))),
        ("to", json!(teller.id(&b))),
        ("amount", json!("6.00")),
        ("status", json!("pending")),
        ("captured", Value::Null),
        ("ended", Value::Null),
    ] {
        assert_eq!(hold[member], expected, "{member}");
    }
    assert_eq!(sides(&hold), [side("0.00", "10.00", "6.00", 3)]);
    assert_eq!(relations(&hold), ["account", "capture", "self", "transaction", "void"]);
    let account = teller.account(&a);
    assert_eq!((&account["held"], &account["available"]), (&json!("6.00"), &json!("4.00")));
    let withdrawal = json!({ "amount": "4.01" });
    teller.post(&format!("/v2/accounts/{a}/withdrawals"), withdrawal).refused(422, "insufficient-funds");
    teller.post("/v2/holds", json!({ "account": a, "amount": "4.01" })).refused(422, "insufficient-funds");
    let capture = format!("{path}/capture");
    let problem =
        teller.post(&capture, json!({ "amount": "6.01" })).refused_at(422, "hold-exceeded", "/amount");
    assert_eq!(problem["held"], "6.00");
    teller.post(&capture, json!({ "amount": "0.001" })).refused_at(422, "too-many-decimals", "/amount");
    let captured = teller.post(&capture, json!({ "amount": "2.5", "metadata": { "k": "v" } })).is(201);
    assert_eq!((&captured["type"], &captured["hold_id"]), (&json!("capture"), &hold["id"]));
    assert_eq!(sides(&captured), [side("-2.50", "7.50", "0.00", 4), side("2.50", "2.50", "0.00", 2)]);
    let read = teller.get(&path).is(200);
    assert_eq!((&read["status"], &read["captured"]), (&json!("captured"), &json!("2.50")));
    assert_eq!((read["ended"].is_string(), relations(&read)), (true, vec!["account", "self"]));
    for action in ["capture", "void"] {
        let problem = teller.post(&format!("{path}/{action}"), json!({})).refused(409, "hold-ended");
        assert_eq!((&problem["hold_status"], &problem["captured"]), (&json!("captured"), &json!("2.50")));
    }
    teller.end();
}

/// Nothing of a hold told its reference and metadata, and nothing told in which transaction they are.
#[test]
fn the_reply_to_what_places_a_hold_tells_its_transaction_with_reference_and_metadata() {
    let mut teller = Teller::start();
    let [a] = teller.open_each([(1, "10")]);
    let noted =
        |amount: &str| json!({ "account": a, "amount": amount, "reference": "r", "metadata": { "k": "v" } });
    let told = |hold: &Value| {
        assert_eq!((&hold["reference"], &hold["metadata"]), (&json!("r"), &json!({ "k": "v" })));
        let transaction = teller.get(&text(&hold["_links"]["transaction"]["href"])).is(200);
        for (member, there) in [("id", "transaction_id"), ("hold_id", "id")] {
            assert_eq!(transaction[member], hold[there], "{member}");
        }
        for member in ["reference", "metadata", "created"] {
            assert_eq!(transaction[member], hold[member], "{member}");
        }
        assert_eq!(transaction["type"], "hold");
    };
    let placed = teller.post_keyed("/v2/holds", "k", noted("1"));
    let hold = placed.is(201);
    told(&hold);
    let mut item = noted("2");
    item["type"] = json!("hold");
    told(&teller.post("/v2/batches", json!({ "items": [item] })).is(200)["results"][0]["result"]);
    let (_, plain) = place(&teller, json!({ "account": a, "amount": "1" }));
    assert_eq!((&plain["reference"], &plain["metadata"]), (&Value::Null, &json!({})));
    assert!(plain["transaction_id"].is_string());
    // A dry run has no transaction.
    let dry = teller.post("/v2/holds?dry_run=true", noted("1")).is(200);
    assert_eq!((dry.get("transaction_id"), &dry["reference"]), (Some(&Value::Null), &json!("r")));
    assert_eq!(relations(&dry), ["account"]);
    // Who only reads it is told nothing of them, rather than that there is none.
    let path = format!("/v2/holds/{}", text(&hold["id"]));
    let list = teller.get(&format!("/v2/accounts/{a}/holds")).is(200);
    for read in [teller.get(&path).is(200), list["items"][0].clone()] {
        let told = ["transaction_id", "reference", "metadata"].map(|member| read.get(member).is_some());
        assert_eq!((&read["id"], told), (&hold["id"], [false; 3]));
        assert_eq!(relations(&read), ["account", "capture", "self", "void"]);
    }
    let history = teller.get(&format!("/v2/accounts/{a}/transactions?types=hold&reference=r")).is(200);
    assert_eq!(history["items"][1]["hold_id"], hold["id"]);
    teller.restart();
    teller.post_keyed("/v2/holds", "k", noted("1")).repeats(&placed);
    teller.end();
}

#[test]
fn a_hold_for_nobody_in_particular_is_paid_to_the_outside_world() {
    let teller = Teller::start();
    let [a] = teller.open_each([(1, "10")]);
    let (path, _) = place(&teller, json!({ "account": a, "amount": "all" }));
    assert_eq!(teller.account(&a)["available"], "0.00");
    let captured = teller.send("POST", &format!("{path}/capture"), &[], "").is(201);
    assert_eq!(sides(&captured), [side("-10.00", "0.00", "0.00", 4)]);
    let world = teller.get("/v2/trial-balance").is(200);
    assert_eq!(world["currencies"][0]["world"], "0.00");
    teller.end();
}

#[test]
fn a_voided_hold_gives_everything_back() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(2, "10"), (0, "0")]);
    let (path, hold) = place(&teller, json!({ "account": a, "amount": "6", "to": b }));
    let void = format!("{path}/void");
    let voided = teller.post_keyed(&void, "k", json!({}));
    let transaction = voided.is(201);
    assert_eq!((&transaction["type"], &transaction["hold_id"]), (&json!("void"), &hold["id"]));
    assert_eq!(sides(&transaction), [side("0.00", "10.00", "0.00", 4)]);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        teller.post_keyed(&void, "k", json!({})).repeats(&voided);
        teller.post_keyed(&void, "k", json!({ "reference": "r" })).refused(422, "idempotency-key-reused");
        let problem = teller.post(&format!("{path}/capture"), json!({})).refused(409, "hold-ended");
        assert_eq!((&problem["hold_status"], &problem["captured"]), (&json!("voided"), &Value::Null));
        let read = teller.get(&path);
        assert_eq!(read.is(200)["status"], "voided");
        teller.send("GET", &path, &[("if-none-match", read.header("etag"))], "").is(304);
    }
    teller.end();
}

#[test]
fn the_first_of_two_outcomes_counts() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "100"), (1, "0")]);
    let mut captures = 0;
    for round in 0..20 {
        let to = if round % 2 == 0 {
            json!({ "account": a, "amount": "1" })
        } else {
            json!({ "account": a, "amount": "1", "to": b })
        };
        let (path, _) = place(&teller, to);
        let race = |action: &str| {
            let (client, path) = (teller.client(), format!("{path}/{action}"));
            thread::spawn(move || process::post(&client, &path, "{}", None))
        };
        let racers = [race("capture"), race("void")].map(|racer| racer.join().expect("it does not panic"));
        let [captured, voided] = &racers;
        let statuses = racers.each_ref().map(|reply| reply.status.as_u16());
        let (loser, first) = match statuses {
            [201, 409] => (voided, "captured"),
            [409, 201] => (captured, "voided"),
            other => panic!("{other:?}"),
        };
        let problem = process::json(loser);
        assert_eq!((&problem["code"], &problem["hold_status"]), (&json!("hold-ended"), &json!(first)));
        assert_eq!(teller.get(&path).is(200)["status"], first);
        captures += u32::from(first == "captured");
    }
    assert_eq!(teller.account(&a)["posted"], format!("{}.00", 100 - captures));
    assert_eq!(teller.account(&a)["held"], "0.00");
    teller.end();
}

/// Asks until a hold has ended.
fn await_end(teller: &Teller, path: &str) -> Value {
    let until = Instant::now() + TIME_MAX;
    loop {
        let hold = teller.get(path).is(200);
        if hold["status"] != "pending" {
            return hold;
        }
        assert!(Instant::now() < until, "it does not end: {hold}");
        thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_hold_expires_by_itself_also_over_a_restart() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(1, "10"), (2, "10")]);
    let (first, hold) = place(&teller, json!({ "account": a, "amount": "6", "expires_in": 1 }));
    let (lasting, _) = place(&teller, json!({ "account": a, "amount": "1", "expires_in": 31_622_400 }));
    let expired = await_end(&teller, &first);
    assert_eq!((&expired["status"], &expired["captured"]), (&json!("expired"), &Value::Null));
    assert!(text(&expired["ended"]) >= text(&hold["expires"]), "{expired}");
    assert_eq!(teller.account(&a)["held"], "1.00");
    let problem = teller.post(&format!("{first}/capture"), json!({})).refused(409, "hold-ended");
    assert_eq!(problem["hold_status"], "expired");
    let (second, _) = place(&teller, json!({ "account": b, "amount": "10", "expires_in": 1 }));
    let began = Instant::now();
    teller.restart();
    // By now its time is over, whoever asks.
    thread::sleep(Duration::from_millis(1001).saturating_sub(began.elapsed()));
    teller.post(&format!("/v2/accounts/{b}/withdrawals"), json!({ "amount": "10" })).is(201);
    let problem = teller.post(&format!("{second}/void"), json!({})).refused(409, "hold-ended");
    assert_eq!(problem["hold_status"], "expired");
    assert_eq!(teller.get(&second).is(200)["status"], "expired");
    teller.restart();
    for (path, status) in [(&first, "expired"), (&second, "expired"), (&lasting, "pending")] {
        assert_eq!(teller.get(path).is(200)["status"], status);
    }
    teller.end();
}

#[test]
fn an_account_lists_its_holds() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let path = format!("/v2/accounts/{a}/holds");
    assert_eq!(teller.get(&path).is(200)["items"], json!([]));
    let (first, _) = place(&teller, json!({ "account": a, "amount": "1" }));
    let (second, _) = place(&teller, json!({ "account": a, "amount": "2", "to": b }));
    place(&teller, json!({ "account": b, "amount": "3" }));
    teller.post(&format!("{first}/void"), json!({})).is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let reply = teller.get(&path);
        let list = reply.is(200);
        assert_eq!(list["count"], 2);
        assert_eq!(list["items"], json!([teller.get(&first).is(200), teller.get(&second).is(200)]));
        teller.send("GET", &path, &[("if-none-match", reply.header("etag"))], "").is(304);
    }
    teller.end();
}

#[test]
fn a_hold_is_placed_under_conditions_and_once() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(2, "10"), (0, "5")]);
    let conditions = |amount: &str| {
        let condition = json!([{ "account": b, "available_gte": amount }]);
        json!({ "account": a, "amount": "4", "to": b, "conditions": condition })
    };
    teller.post("/v2/holds", conditions("5.01")).refused_at(422, "condition-not-met", "/conditions/0");
    let first = teller.post_keyed("/v2/holds", "k", conditions("5"));
    first.is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        teller.post_keyed("/v2/holds", "k", conditions("5")).repeats(&first);
        teller.post_keyed("/v2/holds", "k", conditions("4")).refused(422, "idempotency-key-reused");
    }
    let to_itself = json!({ "account": a, "amount": "1", "to": teller.id(&a) });
    teller.post("/v2/holds", to_itself).refused_at(422, "account-repeated", "/to");
    let nobody = json!({ "account": a, "amount": "1", "to": "name:nobody" });
    teller.post("/v2/holds", nobody).refused_at(404, "account-not-found", "/to");
    let yen = teller.open_as(1, "yen", "0", json!({ "currency": "JPY" }));
    let mismatch = json!({ "account": a, "amount": "1", "to": yen });
    teller.post("/v2/holds", mismatch).refused_at(422, "currency-mismatch", "/to");
    teller.end();
}

#[test]
fn a_hold_for_an_account_that_was_closed_can_only_be_given_up() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let (path, _) = place(&teller, json!({ "account": a, "amount": "4", "to": b }));
    teller.delete(&format!("/v2/accounts/{b}")).is(204);
    let problem = teller.post(&format!("{path}/capture"), json!({})).refused(409, "account-closed");
    assert_eq!(problem["detail"], "The account is closed (the one that is to be paid)");
    teller.post(&format!("{path}/void"), json!({})).is(201);
    assert_eq!(teller.account(&a)["available"], "10.00");
    teller.end();
}

/// DESIGN 7: a list that may be long is read page by page; pending holds must not be hidden behind those that ended.
#[test]
fn holds_are_listed_page_by_page_and_pending_ones_alone_if_wanted() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let placed: Vec<String> =
        (0..5).map(|_| place(&teller, json!({ "account": a, "amount": "1" })).0).collect();
    for path in &placed[1..3] {
        teller.post(&format!("{path}/void"), json!({})).is(201);
    }
    let list = format!("/v2/accounts/{a}/holds");
    let all = |query: &str| -> Vec<Vec<usize>> {
        let mut pages = Vec::new();
        let mut next = Some(format!("{list}?limit=2{query}"));
        while let Some(path) = next {
            let reply = teller.get(&path);
            let page = reply.is(200);
            let items = page["items"].as_array().expect("a list");
            assert_eq!(page["count"], items.len());
            let place = |item: &Value| placed.iter().position(|path| path.ends_with(&text(&item["id"])));
            pages.push(items.iter().map(|item| place(item).expect("one of them")).collect());
            next = page["_links"]["next"]["href"].as_str().map(str::to_owned);
            assert_eq!(page["next"].is_string(), next.is_some());
            if let Some(next) = &next {
                assert_eq!(reply.header("link"), format!("<{next}>; rel=\"next\""));
            }
        }
        pages
    };
    assert_eq!(all(""), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(all("&pending=true"), [vec![0, 3], vec![4]]);
    assert_eq!(all("&pending=false").concat(), [1, 2]);
    let next = text(&teller.get(&format!("{list}?limit=2")).is(200)["next"]);
    for other in [
        format!("/v2/accounts/{b}/holds?cursor={next}"),
        format!("{list}?pending=true&cursor={next}"),
        format!("{list}?cursor=x"),
    ] {
        teller.get(&other).refused(400, "invalid-cursor");
    }
    for wrong in ["limit=0", "limit=1001", "pending=maybe"] {
        teller.get(&format!("{list}?{wrong}")).refused(400, "invalid-parameter");
    }
    teller.end();
}
