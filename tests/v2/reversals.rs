//! `POST /v2/transfers/{id}/reverse`.

use serde_json::{Value, json};

use crate::teller::{Teller, relations, side, sides, text};

fn transfer(teller: &Teller, body: Value) -> String {
    text(&teller.post("/v2/transfers", body).is(201)["id"])
}

#[test]
fn a_transfer_is_paid_back_once() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let id = transfer(&teller, json!({ "from": a, "to": b, "amount": "4" }));
    let path = format!("/v2/transfers/{id}/reverse");
    let made = teller.post_keyed(&path, "k", json!({ "reference": "sorry" }));
    let reversal = made.is(201);
    assert_eq!((&reversal["type"], &reversal["reversal_of"]), (&json!("reversal"), &json!(id)));
    assert_eq!(sides(&reversal), [side("-4.00", "0.00", "0.00", 3), side("4.00", "10.00", "0.00", 4)]);
    assert_eq!((&reversal["reference"], relations(&reversal)), (&json!("sorry"), vec!["self"]));
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let problem = teller.post(&path, json!({})).refused(409, "already-reversed");
        assert_eq!(problem["reversed_by"], reversal["id"]);
        teller.send("POST", &path, &[], "").refused(409, "already-reversed");
        teller.post_keyed(&path, "k", json!({ "reference": "sorry" })).repeats(&made);
        teller.post_keyed(&path, "k", json!({})).refused(422, "idempotency-key-reused");
        assert_eq!(teller.get(&format!("/v2/transfers/{id}")).is(200)["reversed_by"], reversal["id"]);
    }
    teller.end();
}

/// It was answered that there was no such transaction, also of a reversal that the very path without `/reverse` reads.
#[test]
fn what_is_no_transfer_is_not_reversed_and_said_to_be_what_it_is() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let id = transfer(&teller, json!({ "from": a, "to": b, "amount": "4" }));
    let reversal = teller.post(&format!("/v2/transfers/{id}/reverse"), json!({})).is(201);
    let deposit = teller.post(&format!("/v2/accounts/{a}/deposits"), json!({ "amount": "1" })).is(201);
    let hold = teller.post("/v2/holds", json!({ "account": a, "amount": "1" })).is(201);
    let capture = teller.post(&format!("/v2/holds/{}/capture", text(&hold["id"])), json!({})).is(201);
    let of = |transaction: &Value| text(&transaction["id"]);
    let opening = teller.get(&format!("/v2/accounts/{a}/transactions?types=opening")).is(200);
    let others = [
        (of(&deposit), "deposit"),
        (text(&hold["transaction_id"]), "hold"),
        (of(&capture), "capture"),
        (of(&opening["items"][0]), "opening"),
    ];
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        for (other, kind) in others.iter().cloned().chain([(of(&reversal), "reversal")]) {
            for query in ["", "?dry_run=true"] {
                let reply = teller.post(&format!("/v2/transfers/{other}/reverse{query}"), json!({}));
                let problem = reply.refused(422, "not-reversible");
                assert_eq!(problem["detail"], format!("its type is {kind}; only a transfer is reversed"));
                assert_eq!(problem["retryable"], false);
            }
        }
        teller.get(&format!("/v2/transfers/{}", of(&reversal))).is(200);
        // Where a collection does not have it, it says where it is.
        for (other, kind) in &others {
            let problem = teller.get(&format!("/v2/transfers/{other}")).refused(404, "transaction-not-found");
            assert_eq!(problem["detail"], format!("its type is {kind}: /v2/transactions/{other} reads it"));
        }
        for (other, kind) in [(&id, "transfer"), (&of(&reversal), "reversal")] {
            let problem = teller.get(&format!("/transactions/{other}")).refused(404, "transaction-not-found");
            assert_eq!(problem["detail"], format!("its type is {kind}: /v2/transactions/{other} reads it"));
        }
        let nobodys = "00000000-0000-0000-0000-000000000000";
        for reply in [
            teller.post(&format!("/v2/transfers/{nobodys}/reverse"), json!({})),
            teller.get(&format!("/v2/transfers/{nobodys}")),
            teller.get(&format!("/transactions/{nobodys}")),
        ] {
            let problem = reply.refused(404, "transaction-not-found");
            assert_eq!(problem["detail"], problem["title"]);
        }
    }
    teller.end();
}

#[test]
fn a_part_is_paid_back_if_there_are_two_legs() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(2, "10"), (0, "0"), (1, "0")]);
    let id = transfer(&teller, json!({ "from": a, "to": b, "amount": "4" }));
    let path = format!("/v2/transfers/{id}/reverse");
    let problem =
        teller.post(&path, json!({ "amount": "4.01" })).refused_at(422, "reversal-exceeded", "/amount");
    assert_eq!(problem["transferred"], "4.00");
    teller.post(&path, json!({ "amount": "0.001" })).refused_at(422, "too-many-decimals", "/amount");
    let would = teller.post(&format!("{path}?dry_run=true"), json!({ "amount": "1" })).is(200);
    assert_eq!(would["dry_run"], true);
    teller.post(&path, json!({ "amount": "1" })).is(201);
    assert_eq!(teller.posted([&a, &b]), ["7.00", "3.00"]);
    teller.post(&path, json!({ "amount": "1" })).refused(409, "already-reversed");
    let legs = json!({ "legs": [
        { "account": a, "amount": "-3" }, { "account": b, "amount": "1" }, { "account": c, "amount": "2" },
    ] });
    let path = format!("/v2/transfers/{}/reverse", transfer(&teller, legs));
    teller.post(&path, json!({ "amount": "1" })).refused_at(422, "reversal-not-partial", "/amount");
    teller.send("POST", &path, &[], "").is(201);
    assert_eq!(teller.posted([&a, &b, &c]), ["7.00", "3.00", "0.00"]);
    teller.end();
}

#[test]
fn who_was_paid_has_to_have_the_funds() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(1, "10"), (2, "0"), (0, "0")]);
    let id = transfer(&teller, json!({ "from": a, "to": b, "amount": "4" }));
    let path = format!("/v2/transfers/{id}/reverse");
    transfer(&teller, json!({ "from": b, "to": c, "amount": "1" }));
    let problem = teller.post(&path, json!({})).refused(422, "insufficient-funds");
    assert_eq!((&problem["available"], &problem["required"]), (&json!("3.00"), &json!("4.00")));
    assert_eq!(problem["detail"], format!("4.00 is required, 3.00 is available ({})", teller.id(&b)));
    assert_eq!(teller.get(&format!("/v2/transfers/{id}")).is(200)["reversed_by"], Value::Null);
    teller.post(&format!("/v2/accounts/{b}/deposits"), json!({ "amount": "1" })).is(201);
    teller.patch(&format!("/v2/accounts/{b}"), json!({ "frozen": true })).is(200);
    teller.post(&path, json!({})).refused(422, "account-frozen");
    teller.patch(&format!("/v2/accounts/{b}"), json!({ "frozen": false })).is(200);
    teller.post(&path, json!({})).is(201);
    let id = transfer(&teller, json!({ "from": c, "to": b, "amount": "1" }));
    teller.delete(&format!("/v2/accounts/{c}")).is(204);
    teller.post(&format!("/v2/transfers/{id}/reverse"), json!({})).refused(409, "account-closed");
    teller.end();
}

/// A reversal names no account in its body, and its refusal did not say which of up to 64 met it.
#[test]
fn a_reversal_that_is_refused_says_which_account_refused_it() {
    let mut teller = Teller::start();
    let [a, b, c] = teller.open_each([(2, "3"), (0, "0"), (1, "0")]);
    let ids = [&a, &b, &c].map(|account| teller.id(account));
    let legs = json!({ "legs": [
        { "account": a, "amount": "-3" }, { "account": b, "amount": "1" }, { "account": c, "amount": "2" },
    ] });
    let path = format!("/v2/transfers/{}/reverse", transfer(&teller, legs));
    let frozen = |account: &str, frozen: bool| {
        teller.patch(&format!("/v2/accounts/{account}"), json!({ "frozen": frozen })).is(200);
    };
    for (account, id) in [(&b, &ids[1]), (&c, &ids[2])] {
        frozen(account, true);
        let problem = teller.post(&path, json!({})).refused(422, "account-frozen");
        assert_eq!(problem["detail"], format!("The account is frozen ({id})"));
        frozen(account, false);
    }
    teller.delete(&format!("/v2/accounts/{a}")).is(204);
    let refused = teller.post_keyed(&path, "k", json!({}));
    let problem = refused.refused(409, "account-closed");
    assert_eq!(problem["detail"], format!("The account is closed ({})", ids[0]));
    teller.restart();
    teller.post_keyed(&path, "k", json!({})).repeats(&refused);
    teller.end();
}
