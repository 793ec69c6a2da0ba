//! `/v2/accounts/{a}/links/{b}`.

use serde_json::{Value, json};

use crate::teller::{Reply, Teller, relations, side, sides, text};

fn protect(teller: &Teller, account: &str, by: &str) -> Reply {
    teller.put(&format!("/v2/accounts/{account}/links/{by}"), json!({ "kind": "overdraft-protection" }))
}

#[test]
fn accounts_are_linked_and_unlinked() {
    let mut teller = Teller::start();
    let [a, b, c] = teller.open_each([(0, "0"), (1, "0"), (2, "0")]);
    let path = format!("/v2/accounts/{a}/links/{b}");
    teller.get(&path).refused(404, "link-not-found");
    let link = teller.put(&path, json!({ "kind": "related" })).is(201);
    assert_eq!(
        (&link["account_id"], &link["linked_account_id"], &link["kind"]),
        (&json!(teller.id(&a)), &json!(teller.id(&b)), &json!("related"))
    );
    assert_eq!(relations(&link), ["account", "linked-account", "self"]);
    assert_eq!(teller.get(&text(&link["_links"]["self"]["href"])).is(200), link);
    let version = teller.account(&a)["version"].clone();
    assert_eq!(teller.put(&path, json!({ "kind": "related" })).is(200), link);
    assert_eq!(teller.account(&a)["version"], version);
    let protected = protect(&teller, &a, &b).is(200);
    assert_eq!(protected["kind"], "overdraft-protection");
    teller.put(&format!("/v2/accounts/{a}/links/{c}"), json!({ "kind": "related" })).is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let list = teller.get(&format!("/v2/accounts/{a}/links"));
        let links = list.is(200);
        assert_eq!((&links["count"], &links["protects"]), (&json!(2), &json!([])));
        assert_eq!(links["items"][0], protected);
        let tag = [("if-none-match", list.header("etag"))];
        teller.send("GET", &format!("/v2/accounts/{a}/links"), &tag, "").is(304);
        let other = teller.get(&format!("/v2/accounts/{b}/links")).is(200);
        assert_eq!((&other["count"], &other["protects"]), (&json!(0), &json!([teller.id(&a)])));
    }
    let key = [("idempotency-key", "k")];
    // Linking needs no key, and takes no notice of one.
    let again = teller.send("PUT", &path, &[("idempotency-key", "\"")], r#"{"kind":"related"}"#);
    again.is(200);
    teller.send("PUT", &path, &key, r#"{"kind":"overdraft-protection"}"#).is(200);
    let removed = teller.send("DELETE", &path, &key, "");
    removed.is(204);
    teller.restart();
    teller.send("DELETE", &path, &key, "").repeats(&removed);
    // The same request, whichever way it names the two.
    let [a_id, b_id] = [&a, &b].map(|account| teller.id(account));
    for path in [format!("/v2/accounts/{a}/links/{b_id}"), format!("/v2/accounts/{a_id}/links/{b}")] {
        teller.send("DELETE", &path, &key, "").repeats(&removed);
    }
    let other = format!("/v2/accounts/{a}/links/{c}");
    teller.send("DELETE", &other, &key, "").refused(422, "idempotency-key-reused");
    teller.delete(&path).refused(404, "link-not-found");
    assert_eq!(teller.get(&format!("/v2/accounts/{b}/links")).is(200)["protects"], json!([]));
    teller
        .put(&format!("/v2/accounts/{a}/links/{a}"), json!({ "kind": "related" }))
        .refused(422, "account-repeated");
    let nobody = format!("/v2/accounts/{a}/links/name:nobody");
    teller.put(&nobody, json!({ "kind": "related" })).refused(404, "account-not-found");
    teller.end();
}

/// Their events said neither who was linked to whom, nor for what.
#[test]
fn linking_and_unlinking_say_what_became_of_the_link() {
    let mut teller = Teller::start();
    // What happens to the protector stands first in the log: its shard has the lower number.
    let [protector, account] = teller.open_each([(0, "0"), (1, "0")]);
    let (id, protector_id) = (teller.id(&account), teller.id(&protector));
    let path = format!("/v2/accounts/{account}/links/{protector}");
    for kind in ["related", "overdraft-protection", "related", "overdraft-protection"] {
        teller.put(&path, json!({ "kind": kind }));
    }
    teller.delete(&path).is(204);
    let link = |kind: Value| json!({ "account_id": id, "linked_account_id": protector_id, "kind": kind });
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let (linkings, unlinkings) = (teller.events("linking"), teller.events("unlinking"));
        let told: Vec<_> = linkings.iter().chain(&unlinkings).map(|event| event["link"].clone()).collect();
        let kinds = [json!("related"), json!("overdraft-protection")];
        let expected: Vec<_> = [&kinds[..], &kinds, &[Value::Null]].concat().into_iter().map(link).collect();
        assert_eq!(told, expected);
        for event in linkings.iter().chain(&unlinkings) {
            assert_eq!((relations(event), event.get("changes")), (vec!["account", "self"], None));
            assert_eq!(event["_links"]["account"]["href"], format!("/v2/accounts/{id}"));
        }
        assert_eq!(sides(&linkings[0]).len(), 1);
        assert_eq!(linkings[1]["accounts"][0]["account_id"], *protector_id, "{}", linkings[1]);
    }
    teller.end();
}

#[test]
fn a_refusal_says_which_of_the_two_accounts_it_is_about() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "0"), (1, "0")]);
    let yen = teller.open_as(2, "yen", "0", json!({ "currency": "JPY" }));
    let closed = teller.id(&b);
    teller.delete(&format!("/v2/accounts/{b}")).is(204);
    let protection = json!({ "kind": "overdraft-protection" });
    for (first, second, status, code, which) in [
        ("name:nobody", &*a, 404, "account-not-found", "first"),
        (&*a, "name:nobody", 404, "account-not-found", "second"),
        (&*closed, &*a, 409, "account-closed", "first"),
        (&*a, &*closed, 409, "account-closed", "second"),
        (&*a, &*yen, 422, "currency-mismatch", "second"),
    ] {
        let path = format!("/v2/accounts/{first}/links/{second}");
        let told = |problem: Value| {
            let detail = text(&problem["detail"]);
            assert!(detail.ends_with(&format!("(the {which} one in the path)")), "{path}: {detail}");
        };
        told(teller.put(&path, protection.clone()).refused(status, code));
        if code == "account-not-found" {
            told(teller.get(&path).refused(status, code));
            told(teller.delete(&path).refused(status, code));
            told(teller.send("DELETE", &path, &[("idempotency-key", "k")], "").refused(status, code));
        }
    }
    teller.end();
}

#[test]
fn a_chain_of_four_helps_out_wherever_its_accounts_are() {
    let mut teller = Teller::start();
    let accounts = teller.open_each([(0, "1"), (2, "2"), (1, "3"), (0, "4"), (1, "50")]);
    let [a, b, c, d, e] = &accounts;
    for (account, by) in [(c, d), (a, b), (b, c)] {
        protect(&teller, account, by).is(201);
    }
    protect(&teller, d, e).refused(422, "link-chain-too-long");
    protect(&teller, e, a).refused(422, "link-chain-too-long");
    // Version 1 asks nobody and is helped too; the pulls are transactions of their own.
    let name = &a["name:".len()..];
    let withdrawal = teller.post(&format!("/accounts/{name}/withdraw"), json!({ "amount": 2 })).is(201);
    assert_eq!((&withdrawal["balance"], &withdrawal["type"]), (&json!(0.0), &json!("WITHDRAWAL")));
    assert_eq!(teller.posted([a, b, c, d]), ["0.00", "1.00", "3.00", "4.00"]);
    assert_eq!(teller.account(a)["version"], 5, "opened, paid in, linked, helped, withdrawn");
    // The whole chain at once.
    let withdraw =
        |amount: &str| teller.post(&format!("/v2/accounts/{a}/withdrawals"), json!({ "amount": amount }));
    let problem = withdraw("8.01").refused(422, "insufficient-funds");
    assert_eq!((&problem["available"], &problem["required"]), (&json!("0.00"), &json!("8.01")));
    let transfer = teller.post("/v2/transfers", json!({ "from": a, "to": e, "amount": "5" })).is(201);
    assert_eq!(sides(&transfer).len(), 2, "{transfer}");
    assert_eq!(sides(&transfer)[0].1, "0.00");
    assert_eq!(teller.posted([a, b, c, d, e]), ["0.00", "0.00", "0.00", "3.00", "55.00"]);
    let hold = teller.post("/v2/holds", json!({ "account": a, "amount": "2" })).is(201);
    assert_eq!(
        sides(&hold),
        [side("0.00", "2.00", "2.00", teller.account(a)["version"].as_u64().expect("a version"))]
    );
    teller.restart();
    let withdraw =
        |amount: &str| teller.post(&format!("/v2/accounts/{a}/withdrawals"), json!({ "amount": amount }));
    withdraw("1.01").refused(422, "insufficient-funds");
    withdraw("1").is(201);
    assert_eq!(teller.posted([a, b, c, d]), ["2.00", "0.00", "0.00", "0.00"]);
    teller.end();
}

#[test]
fn a_refused_operation_has_pulled_nothing() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(0, "1"), (1, "10"), (2, "0")]);
    protect(&teller, &a, &b).is(201);
    let before = teller.everything();
    // A dry run shows what was asked for only, and counts what would be pulled for it: a's version goes from 3 to 5.
    let body = json!({ "from": a, "to": c, "amount": "5" });
    let dry = teller.post("/v2/transfers?dry_run=true", body).is(200);
    assert_eq!(sides(&dry), [side("-5.00", "0.00", "0.00", 5), side("5.00", "5.00", "0.00", 2)]);
    let legs = json!({ "legs": [
        { "account": a, "amount": "-5" }, { "account": c, "amount": "-1" }, { "account": b, "amount": "6" },
    ] });
    teller.post("/v2/transfers", legs).refused_at(422, "insufficient-funds", "/legs/1/account");
    let atomic = json!({ "atomic": true, "items": [
        { "type": "withdraw", "account": a, "amount": "5" }, { "type": "withdraw", "account": c, "amount": "1" },
    ] });
    let batch = teller.post("/v2/batches", atomic).is(200);
    assert_eq!(batch["executed"], 0);
    teller.patch(&format!("/v2/accounts/{b}"), json!({ "frozen": true })).is(200);
    let withdrawal = teller.post(&format!("/v2/accounts/{a}/withdrawals"), json!({ "amount": "5" }));
    withdrawal.refused(422, "insufficient-funds");
    teller.patch(&format!("/v2/accounts/{b}"), json!({ "frozen": false })).is(200);
    let after = teller.everything();
    let posted = |all: &std::collections::HashMap<String, Value>| {
        let mut posted: Vec<_> =
            all.iter().map(|(id, account)| (id.clone(), account["posted"].clone())).collect();
        posted.sort_by(|one, other| one.0.cmp(&other.0));
        posted
    };
    assert_eq!(posted(&after), posted(&before));
    // Asked for all, an account gives what is its own.
    let swept = teller.post("/v2/transfers", json!({ "from": a, "to": c, "amount": "all" })).is(201);
    assert_eq!(sides(&swept)[0].0, "-1.00");
    teller.end();
}

/// However many payers of a transfer lack funds, all that protects them is found; and it is the same whichever of them
/// is named first, also if one of them protects another.
#[test]
fn all_payers_of_a_transfer_may_be_protected() {
    let teller = Teller::start();
    let open = |label: &str, number: usize, amount: &str| {
        teller.open(number % 3, &format!("{label}{number}"), amount)
    };
    let payers: [String; 10] = std::array::from_fn(|number| open("payer", number, "0"));
    let protectors: [String; 10] = std::array::from_fn(|number| open("protector", number, "1"));
    let payee = open("payee", 0, "0");
    for (number, payer) in payers.iter().enumerate() {
        protect(&teller, payer, &protectors[(number + 1) % 10]).is(201);
    }
    let legs = payers.iter().map(|payer| json!({ "account": payer, "amount": "-1" }));
    let legs: Vec<_> = legs.chain([json!({ "account": payee, "amount": "10" })]).collect();
    teller.post("/v2/transfers", json!({ "legs": legs })).is(201);
    assert_eq!(teller.posted([&payee, &payers[9], &protectors[9]]), ["10.00", "0.00", "0.00"]);

    for round in 0..2 {
        let (a, b, c) = (open("a", round, "150"), open("b", round, "0"), open("c", round, "50"));
        protect(&teller, &b, &a).is(201);
        protect(&teller, &a, &c).is(201);
        let leg = |payer: &String| json!({ "account": payer, "amount": "-100" });
        let mut legs = vec![leg(&a), leg(&b), json!({ "account": payee, "amount": "200" })];
        legs.rotate_left(round);
        teller.post("/v2/transfers", json!({ "legs": legs })).is(201);
        assert_eq!(teller.posted([&a, &b, &c]), ["0.00", "0.00", "0.00"]);
    }
    teller.end();
}

#[test]
fn a_repeated_withdrawal_pulls_once() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(2, "1"), (0, "10")]);
    protect(&teller, &a, &b).is(201);
    let path = format!("/v2/accounts/{a}/withdrawals");
    let first = teller.post_keyed(&path, "k", json!({ "amount": "4" }));
    first.is(201);
    let refused = teller.post_keyed(&path, "poor", json!({ "amount": "400" }));
    refused.refused(422, "insufficient-funds");
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        teller.post_keyed(&path, "k", json!({ "amount": "4" })).repeats(&first);
        teller.post_keyed(&path, "poor", json!({ "amount": "400" })).repeats(&refused);
        teller.post_keyed(&path, "k", json!({ "amount": "5" })).refused(422, "idempotency-key-reused");
        assert_eq!(teller.posted([&a, &b]), ["0.00", "7.00"]);
    }
    let version = teller.account(&a)["version"].as_u64().expect("a version");
    let headers = [("if-match", format!("\"{}\"", version - 1))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = json!({ "amount": "1" }).to_string();
    teller.send("POST", &path, &headers, body.clone()).refused(412, "version-mismatch");
    let tag = format!("\"{version}\"");
    teller.send("POST", &path, &[("if-match", &tag)], body).is(201);
    teller.end();
}

#[test]
fn nobody_protects_itself() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(0, "0"), (1, "0"), (2, "0")]);
    protect(&teller, &a, &b).is(201);
    protect(&teller, &b, &a).refused(422, "link-cycle");
    protect(&teller, &b, &c).is(201);
    protect(&teller, &c, &a).refused(422, "link-cycle");
    protect(&teller, &a, &c).refused(422, "links-exhausted");
    protect(&teller, &a, &a).refused(422, "account-repeated");
    let yen = teller.open_as(1, "yen", "0", json!({ "currency": "JPY" }));
    protect(&teller, &c, &yen).refused(422, "currency-mismatch");
    teller.put(&format!("/v2/accounts/{c}/links/{yen}"), json!({ "kind": "related" })).is(201);
    // Without the link in the middle there is no circle any more.
    teller.delete(&format!("/v2/accounts/{b}/links/{c}")).is(204);
    protect(&teller, &c, &a).is(201);
    teller.end();
}

/// It was counted for ever in the chains above and below it, and its links can be changed no more.
#[test]
fn a_closed_account_is_no_part_of_a_chain() {
    let teller = Teller::start();
    let accounts = teller.open_each([(0, "0"), (1, "0"), (2, "0"), (0, "0"), (1, "0"), (2, "0")]);
    let [first, a, b, c, d, last] = &accounts;
    for (account, by) in [(first, a), (a, b), (b, c)] {
        protect(&teller, account, by).is(201);
    }
    protect(&teller, c, d).refused(422, "link-chain-too-long");
    teller.delete(&format!("/v2/accounts/{first}")).is(204);
    protect(&teller, c, d).is(201);
    // Below it, too; and what leads round through it is no circle.
    protect(&teller, d, last).refused(422, "link-chain-too-long");
    teller.delete(&format!("/v2/accounts/{b}")).is(204);
    protect(&teller, d, last).is(201);
    protect(&teller, last, a).is(201);
    teller.end();
}

/// P7: the accounts below were asked for one after the other, and then those above: what would have been told after nine
/// attempts was refused as overloaded after eight, for ever.
#[test]
fn a_chain_that_is_long_on_both_sides_is_refused_for_what_it_is() {
    let teller = Teller::start();
    let chain = |name: &str, closed: usize| {
        let accounts: Vec<_> =
            (0..4).map(|number| teller.open(number % 3, &format!("{name}{number}"), "0")).collect();
        for pair in accounts.windows(2) {
            protect(&teller, &pair[0], &pair[1]).is(201);
        }
        teller.delete(&format!("/v2/accounts/{}", accounts[closed])).is(204);
        accounts
    };
    // Three that are open, and the closed one that has to be looked at to know it.
    let (above, below) = (chain("above", 0), chain("below", 3));
    let [account, by] = teller.open_each([(0, "0"), (1, "0")]);
    protect(&teller, &above[3], &account).is(201);
    protect(&teller, &by, &below[0]).is(201);
    protect(&teller, &account, &by).refused(422, "link-chain-too-long");
    teller.end();
}

/// What was told had been pulled already by another leg, and what was required had not: "50 is required, 120 available".
#[test]
fn a_refusal_tells_what_a_transfer_asks_of_an_account_in_all() {
    let teller = Teller::start();
    let [poor, rich, payee] = teller.open_each([(0, "0"), (1, "120"), (2, "0")]);
    protect(&teller, &poor, &rich).is(201);
    let legs = json!({ "legs": [
        { "account": poor, "amount": "-100" }, { "account": rich, "amount": "-50" }, { "account": payee, "amount": "150" },
    ] });
    let refuse = |code: &str| {
        let reply = teller.post("/v2/transfers", legs.clone());
        reply.refused_at(422, code, "/legs/1/account")
    };
    let problem = refuse("insufficient-funds");
    assert_eq!((&problem["available"], &problem["required"]), (&json!("120.00"), &json!("150.00")));
    teller.post(&format!("/v2/accounts/{rich}/deposits"), json!({ "amount": "880" })).is(201);
    let limited = json!({ "velocity_limits": { "per_day": "100" } });
    teller.patch(&format!("/v2/accounts/{rich}"), limited).is(200);
    let problem = refuse("velocity-limit");
    assert_eq!(
        (&problem["allowance"]["per_day"], &problem["required"]),
        (&json!("100.00"), &json!("150.00"))
    );
    // A limit of how many debits: the one that it may make is the pull.
    let counted = json!({ "velocity_limits": { "per_day": null, "debits": { "count": 1, "window_seconds": 2678400 } } });
    teller.patch(&format!("/v2/accounts/{rich}"), counted).is(200);
    let problem = refuse("velocity-limit");
    assert_eq!(
        problem["detail"],
        "150.00 was to leave the account; it may make no further debit in this window"
    );

    // What is between the two gets as much as it gives.
    let [poor, middle, rich] =
        [("p2", "0"), ("m2", "10"), ("r2", "110")].map(|(name, amount)| teller.open(0, name, amount));
    protect(&teller, &poor, &middle).is(201);
    protect(&teller, &middle, &rich).is(201);
    teller
        .patch(&format!("/v2/accounts/{middle}"), json!({ "velocity_limits": { "per_day": "22" } }))
        .is(200);
    let legs = json!({ "legs": [
        { "account": middle, "amount": "-10" }, { "account": poor, "amount": "-13" }, { "account": payee, "amount": "23" },
    ] });
    let problem = teller.post("/v2/transfers", legs).refused_at(422, "velocity-limit", "/legs/0/account");
    assert_eq!(problem["detail"], "23.00 was to leave the account; 22.00 may leave it today");
    teller.end();
}

#[test]
fn an_account_has_a_bounded_number_of_links() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "0"), (1, "0")]);
    let others: Vec<_> = (0..17).map(|number| teller.open(number % 3, &format!("o{number}"), "0")).collect();
    for other in &others[..16] {
        teller.put(&format!("/v2/accounts/{a}/links/{other}"), json!({ "kind": "related" })).is(201);
        protect(&teller, other, &b).is(201);
    }
    let last = &others[16];
    teller
        .put(&format!("/v2/accounts/{a}/links/{last}"), json!({ "kind": "related" }))
        .refused(422, "links-exhausted");
    protect(&teller, last, &b).refused(422, "links-exhausted");
    assert_eq!(teller.get(&format!("/v2/accounts/{a}/links")).is(200)["count"], 16);
    teller.end();
}
