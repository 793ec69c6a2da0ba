//! `POST /v2/transfers`.

use serde_json::{Value, json};

use crate::teller::{Teller, relations, side, sides, text};

#[test]
fn money_moves_between_any_two_shards() {
    let teller = Teller::start();
    for (round, (from, to)) in [(0, 1), (1, 0), (0, 2), (2, 1), (1, 1)].into_iter().enumerate() {
        let payer = teller.open(from, &format!("payer{round}"), "10");
        let payee = teller.open(to, &format!("payee{round}"), "1");
        let body = json!({ "from": payer, "to": payee, "amount": "2.5" });
        let made = teller.post("/v2/transfers", body);
        let transfer = made.is(201);
        assert_eq!(transfer["type"], "transfer");
        assert_eq!(sides(&transfer), [side("-2.50", "7.50", "0.00", 3), side("2.50", "3.50", "0.00", 3)]);
        assert_eq!(transfer["accounts"][0]["account_id"], teller.id(&payer));
        assert_eq!(transfer["accounts"][1]["account_id"], teller.id(&payee));
        assert_eq!(made.header("location"), transfer["_links"]["self"]["href"]);
        assert_eq!(relations(&transfer), ["reverse", "self"]);
        assert_eq!(teller.posted([&payer, &payee]), ["7.50", "3.50"]);
        let id = text(&transfer["id"]);
        assert_eq!(teller.get(&format!("/v2/transfers/{id}")).is(200), transfer);
    }
    teller.end();
}

#[test]
fn accounts_are_named_by_id_as_well() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let body = json!({ "from": teller.id(&a), "to": b, "amount": "1" });
    teller.post("/v2/transfers", body).is(201);
    for to in [a.clone(), teller.id(&a)] {
        let body = json!({ "from": a, "to": to, "amount": "1" });
        teller.post("/v2/transfers", body).refused_at(422, "account-repeated", "/to");
    }
    assert_eq!(teller.posted([&a, &b]), ["9.00", "1.00"]);
    teller.end();
}

#[test]
fn everything_available_is_swept() {
    let teller = Teller::start();
    let a = teller.open_as(2, "overdrawn", "10", json!({ "overdraft_limit": "5" }));
    let [_, b] = teller.open_each([(0, "0"), (1, "0")]);
    teller.post("/v2/holds", json!({ "account": a, "amount": "3" })).is(201);
    let swept = teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "all" })).is(201);
    assert_eq!(sides(&swept), [side("-12.00", "-2.00", "3.00", 4), side("12.00", "12.00", "0.00", 2)]);
    let nothing = teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "all" }));
    let problem = nothing.refused_at(422, "nothing-available", "/from");
    assert_eq!(problem["available"], "0.00");
    teller.end();
}

#[test]
fn legs_of_several_shards_and_currencies_balance_in_each() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let yen = json!({ "currency": "JPY" });
    let c = teller.open_as(2, "c", "1000", yen.clone());
    let d = teller.open_as(0, "d", "0", yen);
    let legs = |yen: &str| {
        json!({ "legs": [
            { "account": d, "amount": "300" },
            { "account": a, "amount": "-1.25" },
            { "account": c, "amount": yen },
            { "account": b, "amount": "1.25" },
        ] })
    };
    let moved = teller.post("/v2/transfers", legs("-300")).is(201);
    let mut seen = sides(&moved);
    seen.sort();
    assert_eq!(
        seen,
        [
            side("-1.25", "8.75", "0.00", 3),
            side("-300", "700", "0", 3),
            side("1.25", "11.25", "0.00", 3),
            side("300", "300", "0", 2),
        ]
    );
    let before = teller.everything();
    let problem = teller.post("/v2/transfers", legs("-299")).refused_at(422, "legs-unbalanced", "/legs");
    assert!(text(&problem["detail"]).contains("JPY"), "{problem}");
    let crossed = json!({ "legs": [{ "account": a, "amount": "-1" }, { "account": d, "amount": "1" }] });
    teller.post("/v2/transfers", crossed).refused_at(422, "legs-unbalanced", "/legs");
    let mismatch = json!({ "from": a, "to": d, "amount": "1" });
    teller.post("/v2/transfers", mismatch).refused_at(422, "currency-mismatch", "/to");
    let fraction = json!({ "from": c, "to": d, "amount": "0.5" });
    teller.post("/v2/transfers", fraction).refused_at(422, "too-many-decimals", "/amount");
    let poor = json!({ "legs": [
        { "account": b, "amount": "9" }, { "account": a, "amount": "-9" },
    ] });
    let problem = teller.post("/v2/transfers", poor).refused_at(422, "insufficient-funds", "/legs/1/account");
    assert_eq!((&problem["available"], &problem["required"]), (&json!("8.75"), &json!("9.00")));
    let repeated = json!({ "legs": [
        { "account": a, "amount": "-1" }, { "account": b, "amount": "2" }, { "account": teller.id(&a), "amount": "-1" },
    ] });
    teller.post("/v2/transfers", repeated).refused_at(422, "account-repeated", "/legs/2/account");
    let nobody =
        json!({ "legs": [{ "account": a, "amount": "-1" }, { "account": "name:nobody", "amount": "1" }] });
    teller.post("/v2/transfers", nobody).refused_at(404, "account-not-found", "/legs/1/account");
    assert_eq!(teller.everything(), before);
    teller.end();
}

#[test]
fn sixty_four_legs_happen_together() {
    let teller = Teller::start();
    let payer = teller.open(0, "payer", "100");
    let payees: Vec<String> =
        (0..63).map(|number| teller.open(number % 3, &format!("p{number}"), "0")).collect();
    let mut legs: Vec<Value> =
        payees.iter().map(|payee| json!({ "account": payee, "amount": "1" })).collect();
    legs.push(json!({ "account": payer, "amount": "-63" }));
    let moved = teller.post("/v2/transfers", json!({ "legs": legs })).is(201);
    assert_eq!(sides(&moved).len(), 64);
    assert_eq!(teller.account(&payer)["posted"], "37.00");
    assert!(payees.iter().all(|payee| teller.account(payee)["posted"] == "1.00"));
    teller.end();
}

#[test]
fn conditions_are_checked_with_the_transfer() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(0, "10"), (1, "0"), (2, "7")]);
    let transfer = |conditions: Value| {
        teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "1", "conditions": conditions }))
    };
    let before = teller.everything();
    let enough = json!({ "account": a, "available_gte": "10" });
    let too_much = json!({ "account": c, "available_gte": "7.01" });
    let problem = transfer(json!([enough, too_much])).refused_at(422, "condition-not-met", "/conditions/1");
    assert_eq!((&problem["available"], &problem["version"]), (&json!("7.00"), &json!(2)));
    let version = json!({ "account": c, "version": 3 });
    transfer(json!([version, enough])).refused_at(422, "condition-not-met", "/conditions/0");
    // One condition may ask for two things; the next one is still the next one.
    let both = json!({ "account": a, "available_gte": "10", "version": 2 });
    transfer(json!([both, too_much])).refused_at(422, "condition-not-met", "/conditions/1");
    let nobody = json!({ "account": "name:nobody", "version": 1 });
    let nothing = json!({ "account": "name:nobody" });
    transfer(json!([both, nothing])).refused_at(400, "invalid-request", "/conditions/1");
    transfer(json!([both, nobody])).refused_at(404, "account-not-found", "/conditions/1/account");
    let decimals = json!({ "account": a, "available_gte": "1.001" });
    transfer(json!([both, decimals])).refused_at(422, "too-many-decimals", "/conditions/1/available_gte");
    assert_eq!(teller.everything(), before);
    // Of an account that has no part in it, too.
    let other = json!({ "account": c, "available_gte": "7", "version": 2 });
    transfer(json!([both, other])).is(201);
    transfer(json!([both])).refused(422, "condition-not-met");
    let debt = json!({ "account": b, "available_gte": "-5" });
    transfer(json!([debt])).is(201);
    transfer(json!([])).is(201);
    teller.end();
}

/// A closed account stands at zero and keeps its overdraft limit: by that it met `available_gte`, and money moved.
#[test]
fn no_condition_is_met_by_a_closed_account() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let closed = teller.open_as(2, "closed", "0", json!({ "overdraft_limit": "50" }));
    let id = teller.id(&closed);
    assert_eq!(teller.account(&id)["available"], "50.00");
    teller.delete(&format!("/v2/accounts/{closed}")).is(204);
    let account = teller.account(&id);
    assert_eq!((&account["available"], &account["overdraft_limit"]), (&json!("0.00"), &json!("50.00")));
    let listed = teller.everything();
    assert_eq!(listed[&id], account);
    for says in [json!({ "available_gte": "50" }), json!({ "available_gte": "-1" }), json!({ "version": 2 })]
    {
        let mut condition = says.clone();
        condition["account"] = json!(id);
        let with = |mut body: Value| {
            body["conditions"] = json!([{ "account": a, "version": 2 }, condition]);
            body
        };
        let refused = |path: &str, body: Value| {
            teller.post(path, with(body)).refused_at(409, "account-closed", "/conditions/1/account")
        };
        refused("/v2/holds", json!({ "account": a, "amount": "1" }));
        refused("/v2/transfers", json!({ "from": a, "to": b, "amount": "1" }));
        let item = with(json!({ "type": "withdraw", "account": a, "amount": "1" }));
        let batch = teller.post("/v2/batches", json!({ "items": [item] })).is(200);
        let problem = &batch["results"][0]["problem"];
        assert_eq!((&problem["code"], &batch["executed"]), (&json!("account-closed"), &json!(0)), "{says}");
    }
    assert_eq!(teller.everything(), listed);
    teller.end();
}

#[test]
fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(1, "10"), (0, "0")]);
    let before = teller.everything();
    let path = "/v2/transfers?dry_run=true";
    let body = json!({ "from": a, "to": b, "amount": "4", "reference": "r" });
    let would = teller.post_keyed(path, "k", body.clone());
    let transfer = would.is(200);
    assert_eq!((&transfer["id"], &transfer["dry_run"]), (&Value::Null, &json!(true)));
    assert_eq!(sides(&transfer), [side("-4.00", "6.00", "0.00", 3), side("4.00", "4.00", "0.00", 2)]);
    assert_eq!((relations(&transfer), would.header("location")), (vec![], ""));
    let poor = json!({ "from": b, "to": a, "amount": "4" });
    teller.post(path, poor).refused_at(422, "insufficient-funds", "/from");
    let hold = json!({ "account": a, "amount": "4" });
    let held = teller.post("/v2/holds?dry_run=true", hold).is(200);
    assert_eq!((&held["id"], sides(&held)), (&Value::Null, vec![side("0.00", "10.00", "4.00", 3)]));
    assert_eq!(teller.everything(), before);
    // It does not use up the key.
    let made = teller.post_keyed("/v2/transfers?dry_run=false", "k", body.clone());
    made.is(201);
    teller.post_keyed("/v2/transfers?dry_run=false", "k", body).repeats(&made);
    teller.end();
}

#[test]
fn what_cannot_pay_does_not_and_what_is_closed_is_told() {
    let teller = Teller::start();
    let [a, b, closed] = teller.open_each([(0, "10"), (1, "10"), (2, "0")]);
    let id = teller.id(&closed);
    teller.delete(&format!("/v2/accounts/{closed}")).is(204);
    teller.patch(&format!("/v2/accounts/{a}"), json!({ "frozen": true })).is(200);
    let transfer =
        |from: &str, to: &str| teller.post("/v2/transfers", json!({ "from": from, "to": to, "amount": "1" }));
    transfer(&a, &b).refused_at(422, "account-frozen", "/from");
    transfer(&b, &a).is(201);
    transfer(&b, &id).refused_at(409, "account-closed", "/to");
    transfer(&id, &b).refused_at(409, "account-closed", "/from");
    transfer(&b, &closed).refused_at(404, "account-not-found", "/to");
    transfer("name:nobody", &b).refused_at(404, "account-not-found", "/from");
    let problem = transfer(&b, "name:nobody").refused_at(404, "account-not-found", "/to");
    assert_eq!(problem["retryable"], false);
    teller.end();
}

#[test]
fn a_repeated_transfer_is_answered_as_the_first_time() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(2, "10"), (0, "0")]);
    let body = json!({ "from": a, "to": b, "amount": "6", "reference": "r-1", "metadata": { "k": "v" } });
    let first = teller.post_keyed("/v2/transfers", "key", body.clone());
    first.is(201);
    let refused = teller.post_keyed("/v2/transfers", "poor", body.clone());
    refused.refused_at(422, "insufficient-funds", "/from");
    teller.post(&format!("/v2/accounts/{a}/deposits"), json!({ "amount": "100" })).is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        teller.post_keyed("/v2/transfers", "key", body.clone()).repeats(&first);
        teller.post_keyed("/v2/transfers", "poor", body.clone()).repeats(&refused);
        let other = json!({ "from": a, "to": b, "amount": "7" });
        teller.post_keyed("/v2/transfers", "key", other).refused(422, "idempotency-key-reused");
    }
    assert_eq!(teller.posted([&a, &b]), ["104.00", "6.00"]);
    teller.end();
}

#[test]
fn a_unique_reference_is_used_once_an_account() {
    let mut teller = Teller::start();
    let a = teller.open_as(0, "unique", "10", json!({ "unique_reference": true }));
    let [_, b, c] = teller.open_each([(0, "0"), (1, "10"), (2, "0")]);
    let transfer = |teller: &Teller, from: &str, to: &str, reference: &str| {
        let body = json!({ "from": from, "to": to, "amount": "1", "reference": reference });
        teller.post("/v2/transfers", body)
    };
    let first = transfer(&teller, &a, &b, "r").is(201);
    assert_eq!(first["reference"], "r");
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let problem = transfer(&teller, &a, &c, "r").refused_at(409, "reference-used", "/from");
        assert_eq!(problem["used_by"], first["id"]);
        transfer(&teller, &b, &a, "r").refused_at(409, "reference-used", "/to");
        transfer(&teller, &b, &c, "r").is(201);
    }
    transfer(&teller, &a, &c, "r2").is(201);
    // Within one batch as well.
    let item =
        |reference: &str| json!({ "type": "deposit", "account": a, "amount": "1", "reference": reference });
    let batch = teller.post("/v2/batches", json!({ "items": [item("r3"), item("r3"), item("r4")] })).is(200);
    let status = |index: usize| batch["results"][index]["status"].as_u64();
    assert_eq!([status(0), status(1), status(2)], [Some(201), Some(409), Some(201)]);
    assert_eq!(batch["results"][1]["problem"]["errors"][0]["pointer"], "/account");
    teller.end();
}

/// It said that the reference was used, and not by which of up to 64 accounts.
#[test]
fn a_used_reference_is_refused_with_the_account_that_has_it() {
    let mut teller = Teller::start();
    let unique = json!({ "unique_reference": true });
    let a = teller.open_as(0, "unique", "10", unique.clone());
    let b = teller.open_as(1, "also-unique", "10", unique);
    let [_, c] = teller.open_each([(0, "0"), (2, "10")]);
    let id = teller.id(&a);
    let used = |mut body: Value| {
        body["reference"] = json!("r");
        body
    };
    let path = format!("/v2/accounts/{a}/deposits");
    teller.post(&path, used(json!({ "amount": "1" }))).is(201);
    // One account only: nothing of the body names it, as with `account-closed`.
    let problem = teller.post(&path, used(json!({ "amount": "1" }))).refused(409, "reference-used");
    assert_eq!(problem["errors"], Value::Null);
    let legs = used(json!({ "legs": [
        { "account": c, "amount": "-2" }, { "account": b, "amount": "1" }, { "account": a, "amount": "1" },
    ] }));
    teller.post("/v2/transfers", legs.clone()).refused_at(409, "reference-used", "/legs/2/account");
    let hold = used(json!({ "account": a, "amount": "1" }));
    teller.post("/v2/holds", hold).refused_at(409, "reference-used", "/account");
    let hold = teller.post("/v2/holds", used(json!({ "account": c, "amount": "1", "to": a }))).is(201);
    let capture = format!("/v2/holds/{}/capture", text(&hold["id"]));
    let problem = teller.post(&capture, used(json!({}))).refused(409, "reference-used");
    assert_eq!(problem["detail"], "The reference is used (the one that is to be paid)");
    let made = teller.post("/v2/transfers", json!({ "from": c, "to": a, "amount": "1" })).is(201);
    let reverse = format!("/v2/transfers/{}/reverse", text(&made["id"]));
    let refused = teller.post_keyed(&reverse, "k", used(json!({})));
    let problem = refused.refused(409, "reference-used");
    assert_eq!(problem["detail"], format!("The reference is used ({id})"));
    let items = json!([
        used(json!({ "type": "transfer", "from": a, "to": c, "amount": "1" })),
        used(json!({ "type": "transfer", "legs": legs["legs"] })),
        used(json!({ "type": "withdraw", "account": a, "amount": "1" })),
        used(json!({ "type": "hold", "account": a, "amount": "1" })),
        used(json!({ "type": "capture", "hold": hold["id"] })),
    ]);
    let batch = teller.post("/v2/batches", json!({ "items": items })).is(200);
    let pointers: Vec<_> =
        (0..5).map(|place| batch["results"][place]["problem"]["errors"][0]["pointer"].clone()).collect();
    assert_eq!(json!(pointers), json!(["/from", "/legs/2/account", "/account", "/account", "/hold"]));
    teller.restart();
    teller.post_keyed(&reverse, "k", used(json!({}))).repeats(&refused);
    teller.end();
}

#[test]
fn reading_a_transfer_is_cached_until_it_is_reversed() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let made = teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "1" })).is(201);
    let path = format!("/v2/transfers/{}", text(&made["id"]));
    let read = teller.get(&path);
    let tag = read.header("etag").to_owned();
    assert_eq!(teller.send("GET", &path, &[("if-none-match", &tag)], "").is(304), Value::Null);
    let reversal = teller.post(&format!("{path}/reverse"), json!({})).is(201);
    let reversed = teller.send("GET", &path, &[("if-none-match", &tag)], "").is(200);
    assert_eq!(reversed["reversed_by"], reversal["id"]);
    // An event tells what happened then, and not that it may be reversed, which it cannot any more.
    let events = teller.get("/v2/events?types=transfer,reversal").is(200);
    for event in events["items"].as_array().expect("a list") {
        assert_eq!((event.get("reversed_by"), relations(event)), (None, vec!["self"]), "{event}");
    }
    assert_eq!(relations(&reversed), ["self"]);
    teller.end();
}
