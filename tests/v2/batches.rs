//! `POST /v2/batches`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use teller::ledger::{AccountNumber, HoldId, ShardId, Timestamp};

use crate::teller::{Reply, Teller, side, sides, text};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn results(batch: &Value) -> &[Value] {
    batch["results"].as_array().unwrap_or_else(|| panic!("no results: {batch}"))
}

/// Each result's status and, if it is refused, code.
fn outcomes(batch: &Value) -> Vec<(u64, String)> {
    let outcome = |result: &Value| {
        let status = result["status"].as_u64().expect("a status");
        (status, result["problem"]["code"].as_str().unwrap_or_default().to_owned())
    };
    results(batch).iter().map(outcome).collect()
}

fn done() -> (u64, String) {
    (201, String::new())
}

fn refused(status: u64, code: &str) -> (u64, String) {
    (status, code.to_owned())
}

fn deposit(account: &str, amount: &str) -> Value {
    json!({ "type": "deposit", "account": account, "amount": amount })
}

fn withdraw(account: &str, amount: &str) -> Value {
    json!({ "type": "withdraw", "account": account, "amount": amount })
}

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

#[test]
fn amounts_that_do_not_fit_are_pointed_at_in_items_that_name_no_currency() {
    let teller = Teller::start();
    let account = teller.open(0, "a", "10");
    let hold = text(&teller.post("/v2/holds", json!({ "account": account, "amount": "2" })).is(201)["id"]);
    let fine = json!({ "per_day": "1", "per_month": "0.001" });
    let items = json!([
        { "type": "capture", "hold": hold, "amount": "0.001" },
        { "type": "capture", "hold": hold, "amount": "9" },
        { "type": "open", "name": "new", "overdraft_limit": "0.001" },
        { "type": "open", "name": "new", "overdraft_limit": "0.01", "velocity_limits": fine },
        { "type": "deposit", "account": account, "amount": "0.001" },
    ]);
    let batch = teller.post("/v2/batches", json!({ "items": items })).is(200);
    let errors = results(&batch).iter().map(|result| result["problem"]["errors"].clone());
    let pointers: Vec<Value> = errors.map(|errors| errors[0]["pointer"].clone()).collect();
    let expected = json!(["/amount", "/amount", "/overdraft_limit", "/velocity_limits/per_month", "/amount"]);
    assert_eq!(json!(pointers), expected, "{batch}");
    teller.end();
}

#[test]
fn items_of_every_kind_come_one_after_the_other() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let hold = |amount: &str| {
        text(&teller.post("/v2/holds", json!({ "account": a, "amount": amount, "to": b })).is(201)["id"])
    };
    let (first, second) = (hold("2"), hold("3"));
    let items = json!([
        { "type": "open", "name": "new", "overdraft_limit": "0", "currency": "USD", "metadata": { "k": "v" } },
        { "type": "withdraw", "account": "name:new", "amount": "1" },
        { "type": "deposit", "account": "name:new", "amount": "4", "reference": "r" },
        { "type": "withdraw", "account": "name:new", "amount": "1.5", "metadata": { "k": "v" } },
        { "type": "transfer", "from": "name:new", "to": b, "amount": "all" },
        { "type": "transfer", "legs": [{ "account": b, "amount": "-2" }, { "account": "name:new", "amount": "2" }] },
        { "type": "hold", "account": "name:new", "amount": "2", "expires_in": 60 },
        { "type": "withdraw", "account": "name:new", "amount": "1" },
        { "type": "capture", "hold": first, "amount": "1" },
        { "type": "void", "hold": second },
        { "type": "void", "hold": second },
        { "type": "open", "name": "new" },
    ]);
    let batch = teller.post("/v2/batches", json!({ "items": items })).is(200);
    assert_eq!((&batch["count"], &batch["executed"], &batch["refused"]), (&json!(12), &json!(8), &json!(4)));
    let poor = || refused(422, "insufficient-funds");
    let mut expected = vec![done(); 12];
    (expected[1], expected[7]) = (poor(), poor());
    (expected[10], expected[11]) = (refused(409, "hold-ended"), refused(409, "account-exists"));
    assert_eq!(outcomes(&batch), expected);
    let indices: Vec<_> =
        results(&batch).iter().map(|result| result["index"].as_u64().expect("a number")).collect();
    assert_eq!(indices, (0..12).collect::<Vec<_>>());
    let result = |index: usize| &results(&batch)[index]["result"];
    assert_eq!((&result(0)["name"], &result(0)["metadata"]), (&json!("new"), &json!({ "k": "v" })));
    assert_eq!(sides(result(4)), [side("-2.50", "0.00", "0.00", 4), side("2.50", "2.50", "0.00", 2)]);
    assert_eq!((&result(6)["status"], &result(6)["amount"]), (&json!("pending"), &json!("2.00")));
    assert_eq!(result(8)["hold_id"], first);
    let problem = &results(&batch)[10]["problem"];
    assert_eq!(problem["hold_status"], "voided");
    assert_eq!(teller.posted([&a, &b]), ["9.00", "1.50"]);
    assert_eq!(results(&batch)[7]["problem"]["errors"][0]["pointer"], "/account");
    // What a batch made is there like anything else.
    assert_eq!(teller.get(&text(&result(2)["_links"]["self"]["href"])).is(200), *result(2));
    teller.end();
}

#[test]
fn one_item_a_line_is_a_batch_too() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(2, "10"), (1, "0")]);
    let body = format!(
        "{}\n\n  {}\r\n{}\nnot JSON\n[1]\n{}\n{{\"type\":\n{{\"type\":\"pay\"}}}}\n\u{2003}{{}}\n\u{a0}\n",
        withdraw(&a, "1"),
        json!({ "type": "transfer", "from": a, "to": b, "amount": "2" }),
        json!({ "type": "pay" }),
        deposit(&b, "0.001"),
    );
    let batch = teller.send("POST", "/v2/batches", &[NDJSON], body.clone()).is(200);
    let invalid = || refused(400, "invalid-request");
    let expected = [
        done(),
        done(),
        invalid(),
        refused(400, "malformed-json"),
        invalid(),
        refused(422, "too-many-decimals"),
        // What is no JSON is told so, also where nothing says which operation it is; so is other space than JSON's.
        refused(400, "malformed-json"),
        refused(400, "malformed-json"),
        refused(400, "malformed-json"),
        refused(400, "malformed-json"),
    ];
    assert_eq!(outcomes(&batch), expected);
    assert_eq!(results(&batch)[2]["problem"]["errors"][0]["pointer"], "/type");
    assert_eq!(teller.posted([&a, &b]), ["7.00", "2.00"]);
    // All or nothing: what cannot be read cannot be done.
    let batch = teller.send("POST", "/v2/batches?atomic=true", &[NDJSON], body).is(200);
    assert_eq!((&batch["executed"], &batch["refused"]), (&json!(0), &json!(10)));
    assert_eq!(outcomes(&batch)[0], refused(424, "not-attempted"));
    assert_eq!(outcomes(&batch)[3], refused(400, "malformed-json"));
    assert_eq!(teller.posted([&a, &b]), ["7.00", "2.00"]);
    teller.end();
}

#[test]
fn the_client_says_which_results_it_wants() {
    let teller = Teller::start();
    let [a] = teller.open_each([(0, "10")]);
    let body =
        json!({ "items": [withdraw(&a, "1"), withdraw(&a, "100"), withdraw(&a, "1"), { "type": "x" }] });
    for (query, shown) in
        [("?results=all", &[0, 1, 2, 3][..]), ("?results=refused", &[1, 3]), ("?results=none", &[])]
    {
        let batch = teller.post(&format!("/v2/batches{query}"), body.clone()).is(200);
        assert_eq!(
            (&batch["count"], &batch["executed"], &batch["refused"]),
            (&json!(4), &json!(2), &json!(2))
        );
        let indices: Vec<_> =
            results(&batch).iter().map(|result| result["index"].as_u64().expect("it")).collect();
        assert_eq!(indices, shown);
    }
    assert_eq!(teller.posted([&a]), ["4.00"]);
    teller.end();
}

#[test]
fn an_atomic_batch_happens_whole_or_not_at_all() {
    let teller = Teller::start();
    let [a, b, c] = teller.open_each([(0, "10"), (1, "0"), (2, "0")]);
    let transfer = |from: &str, to: &str, amount: &str| json!({ "type": "transfer", "from": from, "to": to, "amount": amount });
    let before = teller.everything();
    let items = json!([
        transfer(&a, &b, "10"),
        { "type": "open", "name": "new" },
        { "type": "hold", "account": b, "amount": "10" },
        transfer(&b, &c, "0.01"),
        transfer(&a, &c, "0.01"),
    ]);
    let atomic = |items: &Value| teller.post("/v2/batches", json!({ "atomic": true, "items": items }));
    let batch = atomic(&items).is(200);
    let not = || refused(424, "not-attempted");
    assert_eq!(outcomes(&batch), [not(), not(), not(), refused(422, "insufficient-funds"), not()]);
    assert_eq!((&batch["executed"], &batch["refused"]), (&json!(0), &json!(5)));
    assert_eq!(teller.everything(), before);
    teller.get("/v2/accounts/name:new").refused(404, "account-not-found");
    let items = json!([transfer(&a, &b, "10"), transfer(&b, &c, "4"), transfer(&c, &a, "1")]);
    let batch = atomic(&items).is(200);
    assert_eq!(outcomes(&batch), vec![done(); 3]);
    assert_eq!(teller.posted([&a, &b, &c]), ["1.00", "6.00", "3.00"]);
    // The query and the body have to agree.
    let both = |query: &str, body: bool| {
        let body = json!({ "atomic": body, "items": [withdraw(&c, "100"), withdraw(&a, "1")] });
        teller.post(&format!("/v2/batches?atomic={query}"), body)
    };
    both("true", false).refused(400, "invalid-parameter");
    both("false", true).refused(400, "invalid-parameter");
    assert_eq!(both("true", true).is(200)["executed"], 0);
    assert_eq!(both("false", false).is(200)["executed"], 1);
    teller.end();
}

#[test]
fn a_repeated_batch_is_answered_to_the_letter() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "0")]);
    let hold = text(&teller.post("/v2/holds", json!({ "account": a, "amount": "1" })).is(201)["id"]);
    let items = json!([
        { "type": "open", "name": "new", "metadata": { "k": "v" } },
        { "type": "transfer", "from": a, "to": b, "amount": "3" },
        withdraw(&b, "4"),
        { "type": "deposit", "account": a, "amount": "1", "key": "own" },
        { "type": "hold", "account": a, "amount": "1" },
        { "type": "capture", "hold": hold },
        { "type": "nonsense" },
    ]);
    let send = |teller: &Teller, key: &str, atomic: bool, items: &Value| -> Reply {
        teller.post_keyed("/v2/batches", key, json!({ "atomic": atomic, "items": items }))
    };
    let first = send(&teller, "k", false, &items);
    assert_eq!(first.is(200)["executed"], 5);
    let all_or_nothing = json!([withdraw(&a, "1"), withdraw(&a, "1")]);
    let whole = send(&teller, "whole", true, &all_or_nothing);
    assert_eq!(whole.is(200)["executed"], 2);
    let failing = json!([withdraw(&a, "1"), withdraw(&a, "100"), withdraw(&b, "1")]);
    let nothing = send(&teller, "nothing", true, &failing);
    assert_eq!(nothing.is(200)["executed"], 0);
    let posted = teller.posted([&a, &b]);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        send(&teller, "k", false, &items).repeats(&first);
        send(&teller, "whole", true, &all_or_nothing).repeats(&whole);
        send(&teller, "nothing", true, &failing).repeats(&nothing);
        send(&teller, "k", false, &json!([withdraw(&a, "1")])).refused(422, "idempotency-key-reused");
        send(&teller, "k", true, &all_or_nothing).refused(422, "idempotency-key-reused");
        send(&teller, "whole", false, &all_or_nothing).refused(422, "idempotency-key-reused");
        assert_eq!(teller.posted([&a, &b]), posted);
    }
    teller.end();
}

#[test]
fn an_item_has_a_key_of_its_own() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let item = |account: &str, amount: &str, key: &str| json!({ "type": "withdraw", "account": account, "amount": amount, "key": key });
    let items = [item(&a, "1", "k1"), item(&b, "100", "k2"), item(&a, "2", "k1"), item(&a, "1", "k1")];
    let batch = teller.post("/v2/batches", json!({ "items": items })).is(200);
    let poor = || refused(422, "insufficient-funds");
    assert_eq!(outcomes(&batch)[..3], [done(), poor(), refused(422, "idempotency-key-reused")]);
    assert_eq!((&outcomes(&batch)[3], &results(&batch)[3]["replayed"]), (&done(), &json!(true)));
    teller.post(&format!("/v2/accounts/{b}/deposits"), json!({ "amount": "100" })).is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        // In another batch, at another place, in another form.
        let body = lines(&[withdraw(&b, "1"), items[1].clone(), items[0].clone()]);
        let again = teller.send("POST", "/v2/batches", &[NDJSON], body).is(200);
        assert_eq!(outcomes(&again), [done(), poor(), done()]);
        assert_eq!(results(&again)[2]["result"], results(&batch)[0]["result"]);
        let replayed: Vec<_> = results(&again).iter().map(|result| result["replayed"].clone()).collect();
        assert_eq!(replayed, [false, true, true]);
        // In front of a repeated request, the same key with another one does not decide what it stands for.
        let again = teller.post("/v2/batches", json!({ "items": [items[2], items[0], items[3]] })).is(200);
        let reused = || refused(422, "idempotency-key-reused");
        assert_eq!(outcomes(&again), [reused(), done(), done()]);
    }
    assert_eq!(teller.posted([&a, &b]), ["9.00", "108.00"]);
    teller.end();
}

/// P5: the same item again, in one chunk, was refused with 409 `idempotency-key-in-flight`, "retryable"; of a batch that is
/// all or nothing, or has a key itself, for ever. In a later chunk it was answered as what it is, a repetition.
#[test]
fn an_item_that_comes_twice_in_a_batch_happens_once() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "100"), (1, "0")]);
    let item = |amount: &str, key: &str| json!({ "type": "transfer", "from": a, "to": b, "amount": amount, "key": key });
    let mut batches = Vec::new();
    // So many that some are remembered by each of the three shards.
    for number in 0..8 {
        let (paid, poor) = (item("1", &format!("paid {number}")), item("1000", &format!("poor {number}")));
        let items = [&paid, &withdraw(&a, "1"), &paid, &poor, &poor, &paid];
        let body = json!({ "items": items });
        let reply = teller.post_keyed("/v2/batches", &format!("k {number}"), body.clone());
        let batch = reply.is(200);
        let lacking = || refused(422, "insufficient-funds");
        assert_eq!(outcomes(&batch), [done(), done(), done(), lacking(), lacking(), done()]);
        assert_eq!((&batch["executed"], &batch["refused"]), (&json!(4), &json!(2)));
        let replayed: Vec<_> = results(&batch).iter().map(|result| result["replayed"].clone()).collect();
        assert_eq!(replayed, [false, false, true, false, true, true]);
        let same = |one: usize, other: usize, member: &str| {
            assert_eq!(results(&batch)[one][member], results(&batch)[other][member], "{batch}");
        };
        same(2, 0, "result");
        same(5, 0, "result");
        same(4, 3, "problem");
        batches.push((format!("k {number}"), body, reply));
        let twice = item("1", &format!("whole {number}"));
        let body = json!({ "atomic": true, "items": [twice, twice] });
        assert_eq!(outcomes(&teller.post("/v2/batches", body.clone()).is(200)), [done(), done()]);
        let reply = teller.post_keyed("/v2/batches", &format!("whole {number}"), body.clone());
        assert_eq!(outcomes(&reply.is(200)), [done(), done()]);
        batches.push((format!("whole {number}"), body, reply));
    }
    let posted = || ["76.00".to_owned(), "16.00".to_owned()];
    assert_eq!(teller.posted([&a, &b]), posted());
    teller.crash();
    for (key, body, first) in batches {
        teller.post_keyed("/v2/batches", &key, body).repeats(&first);
    }
    assert_eq!(teller.posted([&a, &b]), posted());
    // In another chunk it is the same.
    let mut items = vec![withdraw(&a, "0.01"); 1001];
    (items[0], items[1000]) = (item("1", "chunks"), item("1", "chunks"));
    let batch = teller.send("POST", "/v2/batches", &[NDJSON], lines(&items)).is(200);
    let seen =
        [0, 1000].map(|place| (outcomes(&batch)[place].clone(), results(&batch)[place]["replayed"].clone()));
    assert_eq!(seen, [(done(), json!(false)), (done(), json!(true))]);
    assert_eq!(teller.posted([&a, &b]), ["65.01", "17.00"]);
    teller.end();
}

#[test]
fn an_atomic_batch_whose_items_were_done_before_is_done() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let item = |account: &str, key: &str| json!({ "type": "withdraw", "account": account, "amount": "1", "key": key });
    let atomic = |items: Value| teller.post("/v2/batches", json!({ "atomic": true, "items": items })).is(200);
    let items = json!([item(&a, "k1"), item(&b, "k2")]);
    let first = atomic(items.clone());
    assert_eq!(outcomes(&first), [done(), done()]);
    let again = atomic(items);
    assert_eq!(outcomes(&again), [done(), done()], "{again}");
    assert_eq!(results(&again)[0]["result"], results(&first)[0]["result"]);
    assert_eq!(teller.posted([&a, &b]), ["9.00", "9.00"]);
    teller.end();
}

/// P5: an item that an earlier request had executed was not attempted, and nothing was done, when another item was refused.
#[test]
fn a_refused_atomic_batch_tells_what_was_done_before_it() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let known = |account: &str, amount: &str, key: &str| json!({ "type": "withdraw", "account": account, "amount": amount, "key": key });
    let (executed, poor) = (known(&a, "1", "k1"), known(&b, "100", "k2"));
    let first = teller.post("/v2/batches", json!({ "items": [executed, poor] })).is(200);
    let too_much = || refused(422, "insufficient-funds");
    assert_eq!(outcomes(&first), [done(), too_much()]);
    let fresh = || known(&a, "1", "k3");
    let orders = [
        json!([executed, fresh(), withdraw(&a, "100"), deposit(&b, "1"), fresh()]),
        json!([withdraw(&a, "100"), fresh(), executed]),
        // A refusal that is kept is no reason to refuse the others, nor changed by one.
        json!([poor, withdraw(&a, "100"), executed, poor]),
    ];
    let not = || refused(424, "not-attempted");
    let expected = [
        vec![done(), not(), too_much(), not(), not()],
        vec![too_much(), not(), done()],
        vec![too_much(), too_much(), done(), too_much()],
    ];
    let send = |teller: &Teller, place: usize, key: &str| {
        teller.post_keyed("/v2/batches", key, json!({ "atomic": true, "items": orders[place] }))
    };
    let replies: Vec<Reply> = (0..3).map(|place| send(&teller, place, &format!("batch {place}"))).collect();
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        for (place, reply) in replies.iter().enumerate() {
            let batch = reply.is(200);
            assert_eq!(outcomes(&batch), expected[place], "{batch}");
            for (item, result) in orders[place].as_array().expect("items").iter().zip(results(&batch)) {
                let is_known = *item == executed || *item == poor;
                assert_eq!(result["replayed"], is_known, "{batch}");
            }
            send(&teller, place, &format!("batch {place}")).repeats(reply);
        }
        assert_eq!(teller.posted([&a, &b]), ["9.00", "10.00"]);
    }
    teller.end();
}

/// P5: the second of two like items stands for the first, which has not happened if the batch is all or nothing and refused.
#[test]
fn an_item_that_comes_twice_in_a_refused_atomic_batch_has_not_happened() {
    let teller = Teller::start();
    let [a] = teller.open_each([(0, "10")]);
    let twice = json!({ "type": "deposit", "account": a, "amount": "1", "key": "twice" });
    let not = || refused(424, "not-attempted");
    let too_much = || refused(422, "insufficient-funds");
    for (items, expected) in [
        (json!([twice, twice, withdraw(&a, "100")]), [not(), not(), too_much()]),
        (json!([twice, withdraw(&a, "100"), twice]), [not(), too_much(), not()]),
    ] {
        let batch = teller.post("/v2/batches", json!({ "atomic": true, "items": items })).is(200);
        assert_eq!(outcomes(&batch), expected, "{batch}");
    }
    assert_eq!(teller.posted([&a]), ["10.00"]);
    let batch = teller.post("/v2/batches", json!({ "items": [twice] })).is(200);
    assert_eq!((&outcomes(&batch)[0], &results(&batch)[0]["replayed"]), (&done(), &json!(false)));
    assert_eq!(teller.posted([&a]), ["11.00"]);
    teller.end();
}

#[test]
fn a_batch_is_bounded() {
    let teller = Teller::start();
    let [a] = teller.open_each([(0, "0")]);
    let items = |count: usize| vec![deposit(&a, "0.01"); count];
    let body = lines(&items(10_000));
    let batch = teller.send("POST", "/v2/batches?results=none", &[NDJSON], body).is(200);
    assert_eq!((&batch["count"], &batch["executed"]), (&json!(10_000), &json!(10_000)));
    assert_eq!(teller.posted([&a]), ["100.00"]);
    let body = lines(&items(10_001));
    teller.send("POST", "/v2/batches", &[NDJSON], body).refused(400, "invalid-request");
    let body = json!({ "items": items(10_001) });
    teller.post("/v2/batches", body).refused_at(400, "invalid-request", "/items");
    teller.post("/v2/batches", json!({ "items": [] })).refused_at(400, "invalid-request", "/items");
    let atomic = |count: usize| {
        teller.post("/v2/batches?results=none", json!({ "atomic": true, "items": items(count) }))
    };
    atomic(1001).refused(413, "batch-too-large");
    assert_eq!(atomic(1000).is(200)["executed"], 1000);
    // One record has room for a MiB.
    let metadata: Value = (0..16).map(|number| (format!("{number:064}"), json!("v".repeat(256)))).collect();
    let large = json!({ "type": "deposit", "account": a, "amount": "0.01", "metadata": metadata });
    let body = json!({ "atomic": true, "items": vec![large.clone(); 300] });
    teller.post("/v2/batches", body).refused(413, "batch-too-large");
    let whole = teller.post("/v2/batches?results=none", json!({ "items": vec![large; 300] })).is(200);
    assert_eq!(whole["executed"], 300);
    let too_large = format!("{}{}", deposit(&a, "0.01"), " ".repeat(8 * 1024 * 1024));
    teller.send("POST", "/v2/batches", &[NDJSON], too_large).refused(413, "payload-too-large");
    let just_fits = deposit(&a, "0.01").to_string();
    let just_fits = format!("{just_fits}{}", " ".repeat(8 * 1024 * 1024 - just_fits.len()));
    assert_eq!(teller.send("POST", "/v2/batches", &[NDJSON], just_fits).is(200)["executed"], 1);
    assert_eq!(teller.posted([&a]), ["113.01"]);
    teller.end();
}

/// So much room is taken for it before it is known (P7); the server asserts that, too.
#[test]
fn the_refusal_of_a_plain_transfer_takes_no_more_than_a_kib() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "1"), (1, "1")]);
    let most = "9999999999999999.99";
    let limits = json!({ "per_day": most, "per_month": most, "debits": { "count": 1_000_000, "window_seconds": 86400 } });
    teller
        .patch(
            &format!("/v2/accounts/{a}"),
            json!({ "velocity_limits": limits, "overdraft_limit": "99999999999999999.99" }),
        )
        .is(200);
    let transfers = [
        json!({ "type": "transfer", "from": a, "to": b, "amount": "99999999999999999.98" }),
        json!({ "type": "transfer", "from": b, "to": a, "amount": "99999999999999999.99" }),
        json!({ "type": "transfer", "from": b, "to": "name:nobody", "amount": "1" }),
        json!({ "type": "transfer", "from": b, "to": b, "amount": "1" }),
        json!({ "type": "transfer", "from": b, "to": a, "amount": "0.001" }),
    ];
    let body = lines(&transfers.iter().cycle().take(300).cloned().collect::<Vec<_>>());
    let request_id = "r".repeat(128);
    let headers = [NDJSON, ("x-request-id", request_id.as_str())];
    let batch = teller.send("POST", "/v2/batches?results=refused", &headers, body).is(200);
    assert_eq!(batch["refused"], 300);
    let told: BTreeSet<_> = outcomes(&batch).into_iter().map(|(_, code)| code).collect();
    assert_eq!(told.len(), transfers.len(), "{told:?}");
    let longest = results(&batch).iter().map(|result| result.to_string().len()).max();
    assert!(longest < Some(1024), "{longest:?}");
    teller.end();
}

#[test]
fn a_repeated_batch_of_many_chunks_goes_on_where_it_was() {
    let mut teller = Teller::start();
    let [a, b] = teller.open_each([(0, "30"), (1, "0")]);
    let transfer = json!({ "type": "transfer", "from": a, "to": b, "amount": "0.01" });
    let body = lines(&vec![transfer; 3500]);
    let headers = [NDJSON, ("idempotency-key", "k")];
    let first = teller.send("POST", "/v2/batches?results=refused", &headers, body.clone());
    let batch = first.is(200);
    assert_eq!((&batch["executed"], &batch["refused"]), (&json!(3000), &json!(500)));
    teller.restart();
    teller.send("POST", "/v2/batches?results=refused", &headers, body).repeats(&first);
    assert_eq!(teller.posted([&a, &b]), ["0.00", "30.00"]);
    teller.end();
}

/// The same bytes can be a batch as JSON and another one line by line. Repeated in the other form, with its key, the batch
/// ended the process: the results of two items stood behind a key that was now asked for one.
#[test]
fn a_repeated_batch_is_read_as_the_first_one_was() {
    let mut teller = Teller::start();
    let [a] = teller.open_each([(0, "10")]);
    let json_headers = |key| [("content-type", "application/json"), ("idempotency-key", key)];
    let line_headers = |key| [NDJSON, ("idempotency-key", key)];
    let item = json!({ "type": "withdraw", "account": a, "amount": "1" });
    // As lines, the first and the last are no items.
    let body = format!("{{\"items\": [\n{item}\n,{item}\n]}}\n");
    let send = |teller: &Teller, headers: &[_]| teller.send("POST", "/v2/batches", headers, body.clone());
    let by_json = send(&teller, &json_headers("first as JSON"));
    assert_eq!(by_json.is(200)["executed"], 2);
    let by_lines = send(&teller, &line_headers("first as lines"));
    assert_eq!((&by_lines.is(200)["executed"], &by_lines.is(200)["refused"]), (&json!(1), &json!(3)));
    for _ in 0..2 {
        send(&teller, &line_headers("first as JSON")).refused(422, "idempotency-key-reused");
        send(&teller, &json_headers("first as lines")).refused(422, "idempotency-key-reused");
        send(&teller, &json_headers("first as JSON")).repeats(&by_json);
        send(&teller, &line_headers("first as lines")).repeats(&by_lines);
        teller.restart();
    }
    assert_eq!(teller.posted([&a]), ["7.00"]);

    // The same number of items, at the same places: here a deposit under a condition, there a transfer without any.
    let conditions = json!([{ "account": a, "version": 1 }]);
    let body = format!(
        "{{\"items\":[1,{{\"type\":\"deposit\",\"account\":\"{a}\",\"amount\":\"1\",\"conditions\":{conditions},\"metadata\":\n\
         {{\"type\":\"transfer\",\"from\":\"name:x\",\"to\":\"name:y\",\"amount\":\"1\"}}\n}},1]}}\n"
    );
    let send = |headers: &[_]| teller.send("POST", "/v2/batches", headers, body.clone());
    let (unreadable, unmet) = (refused(400, "invalid-request"), refused(422, "condition-not-met"));
    let by_json = send(&json_headers("both")).is(200);
    assert_eq!(outcomes(&by_json), [unreadable.clone(), unmet, unreadable]);
    send(&line_headers("both")).refused(422, "idempotency-key-reused");
    teller.end();
}

/// The id of a hold of a shard that is not there.
fn foreign_hold() -> String {
    let (time, shard) = (Timestamp::from_millis(1_764_547_200_000), ShardId::new(900).expect("a shard"));
    HoldId { time, shard, account: AccountNumber::new(0), version: 1 }.to_uuid().to_string()
}

/// P5: no shard was asked about a hold of a shard that is not there, so no key was remembered: a chunk of nothing else could
/// be sent again with another body, and a list with one was no repetition.
#[test]
fn keys_remember_what_was_said_of_holds_that_no_shard_can_have() {
    let mut teller = Teller::start();
    let [a] = teller.open_each([(1, "10")]);
    let void = json!({ "type": "void", "hold": foreign_hold() });
    let keyed = json!({ "type": "capture", "hold": foreign_hold(), "key": "own" });
    let [only, beside] = [json!([void]), json!([void, withdraw(&a, "1"), keyed])];
    let not_found = || refused(404, "hold-not-found");
    let expected = |items: &Value, atomic: bool| match items {
        items if *items == only => vec![not_found()],
        _ if atomic => vec![not_found(), refused(424, "not-attempted"), not_found()],
        _ => vec![not_found(), done(), not_found()],
    };
    let send = |teller: &Teller, key: &str, atomic: bool, items: &Value| {
        teller.post_keyed("/v2/batches", key, json!({ "atomic": atomic, "items": items }))
    };
    let cases = [("1", false, &only), ("2", true, &only), ("3", false, &beside), ("4", true, &beside)];
    let replies = cases.map(|(key, atomic, items)| send(&teller, key, atomic, items));
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        for ((key, atomic, items), first) in cases.into_iter().zip(&replies) {
            assert_eq!(outcomes(&first.is(200)), expected(items, atomic), "{key}");
            send(&teller, key, atomic, items).repeats(first);
            send(&teller, key, atomic, &json!([deposit(&a, "1")])).refused(422, "idempotency-key-reused");
        }
        let other = json!({ "type": "void", "hold": foreign_hold(), "key": "own" });
        let batch = teller.post("/v2/batches", json!({ "items": [other] })).is(200);
        assert_eq!(outcomes(&batch), [refused(422, "idempotency-key-reused")]);
    }
    assert_eq!(teller.posted([&a]), ["9.00"]);
    teller.end();
}

/// Chunks of plain transfers go to their shard in a form of their own, and if the results are not wanted only what was
/// refused comes back: each at its place, whatever became of those around it.
#[test]
fn a_refusal_stands_at_its_place_in_batches_of_many_chunks() {
    for is_marked in [false, true] {
        let teller = Teller::start();
        let [a, b, c, d] = teller.open_each([(0, "100"), (0, "0"), (1, "100"), (1, "0")]);
        if is_marked {
            // Then its transfers are no plain ones, which the shard finds out.
            teller
                .send(
                    "PATCH",
                    &format!("/v2/accounts/{a}"),
                    &[],
                    json!({ "metadata": { "k": "v" } }).to_string(),
                )
                .is(200);
        }
        let pay = |from: &str, to: &str, amount: &str| json!({ "type": "transfer", "from": from, "to": to, "amount": amount });
        let mut items = vec![pay(&c, &d, "0.01"); 1000];
        items.extend(vec![pay(&a, &b, "0.01"); 1500]);
        for (place, from, to) in [(3, &d, &c), (999, &c, &d), (1000, &a, &b), (2499, &b, &a)] {
            items[place] = pay(from, to, "1000");
        }
        items[1700] = json!({ "type": "void", "hold": foreign_hold() });
        items[1800] = json!({ "type": "transfer" });
        let places = [(3, 422), (999, 422), (1000, 422), (1700, 404), (1800, 400), (2499, 422)];
        let expected: Vec<(u64, u64)> = places.to_vec();
        for (round, wanted) in ["all", "refused", "none"].into_iter().enumerate() {
            let reply =
                teller.send("POST", &format!("/v2/batches?results={wanted}"), &[NDJSON], lines(&items));
            let batch = reply.is(200);
            let counts = ["count", "executed", "refused"].map(|member| batch[member].as_u64());
            assert_eq!(counts, [Some(2500), Some(2494), Some(6)]);
            let seen: Vec<(u64, u64)> = results(&batch)
                .iter()
                .map(|result| {
                    (result["index"].as_u64().expect("one"), result["status"].as_u64().expect("one"))
                })
                .collect();
            let of_all = (0..2500).map(|place| {
                expected.iter().find(|(refused, _)| *refused == place).copied().unwrap_or((place, 201))
            });
            match wanted {
                "all" => assert!(seen.iter().copied().eq(of_all), "{seen:?}"),
                "refused" => assert_eq!(seen, expected),
                _ => assert!(seen.is_empty()),
            }
            let moved = |count: u64| format!("{}.{:02}", count / 100, count % 100);
            let (of_a, of_c) = (1496 * (round as u64 + 1), 998 * (round as u64 + 1));
            assert_eq!(teller.posted([&b, &d]), [moved(of_a), moved(of_c)]);
        }
        teller.end();
    }
}
