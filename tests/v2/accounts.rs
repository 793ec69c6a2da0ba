//! `/v2/accounts`: opened, listed, changed, closed.

use serde_json::{Value, json};

use crate::teller::{Teller, name_in, relations, side, sides, text};

fn names(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap_or_else(|| panic!("no list: {page}"));
    assert_eq!(page["count"], items.len());
    items.iter().map(|account| text(&account["name"])).collect()
}

#[test]
fn an_account_is_opened_with_all_it_can_have() {
    let mut teller = Teller::start();
    let body = json!({
        "name": "savings",
        "currency": "KWD",
        "overdraft_limit": "1.5",
        "reference": "customer-7",
        "metadata": { "branch": "12", "note": "" },
        "unique_reference": true,
        "velocity_limits": { "per_day": "10", "per_month": "100.001", "debits": { "count": 3, "window_seconds": 60 } },
    });
    let opened = teller.post_keyed("/v2/accounts", "k", body.clone());
    let account = opened.is(201);
    for (member, expected) in [
        ("currency", json!("KWD")),
        ("posted", json!("0.000")),
        ("held", json!("0.000")),
        ("available", json!("1.500")),
        ("overdraft_limit", json!("1.500")),
        ("frozen", json!(false)),
        ("reference", json!("customer-7")),
        ("metadata", json!({ "branch": "12", "note": "" })),
        ("unique_reference", json!(true)),
        ("version", json!(1)),
        ("closed", Value::Null),
        ("allowance", json!({ "per_day": "10.000", "per_month": "100.001", "debits": 3 })),
    ] {
        assert_eq!(account[member], expected, "{member}");
    }
    assert_eq!(account["velocity_limits"]["debits"], json!({ "count": 3, "window_seconds": 60 }));
    assert_eq!(
        (opened.header("etag"), opened.header("location")),
        ("\"1\"", &*text(&account["_links"]["self"]["href"]))
    );
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        assert_eq!(teller.get(opened.header("location")).is(200), account);
        teller.post_keyed("/v2/accounts", "k", body.clone()).repeats(&opened);
        teller.post("/v2/accounts", body.clone()).refused(409, "account-exists");
    }
    let other = json!({ "name": "other" });
    teller.post_keyed("/v2/accounts", "k", other).refused(422, "idempotency-key-reused");
    teller.end();
}

/// An event of an opening said no more than that an account with this id is at zero.
#[test]
fn an_opening_says_what_it_set_and_a_closing_of_which_account() {
    let mut teller = Teller::start();
    let plain = teller.post("/accounts", json!({ "name": "plain" })).is(201);
    let all = json!({
        "name": "all",
        "currency": "KWD",
        "overdraft_limit": "1.500",
        "frozen": false,
        "reference": "customer-7",
        "metadata": { "branch": "12" },
        "unique_reference": true,
        "velocity_limits": { "per_day": "10.000", "per_month": null, "debits": { "count": 3, "window_seconds": 60 } },
    });
    let mut body = all.clone();
    let sent = body.as_object_mut().expect("an object");
    sent.remove("frozen");
    sent["velocity_limits"].as_object_mut().expect("an object").remove("per_month");
    let account = teller.post("/v2/accounts", body).is(201);
    let batch = json!({ "items": [{ "type": "open", "name": "in a batch", "overdraft_limit": "0" }] });
    let in_a_batch = teller.post("/v2/batches", batch).is(200)["results"][0]["result"].clone();
    teller.delete("/accounts/plain").is(204);
    teller.delete(&format!("/v2/accounts/{}", text(&account["id"]))).is(204);
    let set = |name: &str, overdraft_limit: Value| {
        json!({
            "name": name,
            "currency": "USD",
            "overdraft_limit": overdraft_limit,
            "frozen": false,
            "reference": null,
            "metadata": {},
            "unique_reference": false,
            "velocity_limits": null,
        })
    };
    let expected = [
        (&plain["id"], set("plain", Value::Null)),
        (&account["id"], all),
        (&in_a_batch["id"], set("in a batch", json!("0.00"))),
    ];
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        let [openings, closings] = ["opening", "closing"].map(|kind| teller.events(kind));
        assert_eq!((openings.len(), closings.len()), (3, 2));
        for (place, (id, changes)) in expected.iter().enumerate() {
            let path = format!("/v2/accounts/{}", text(id));
            let leads_there = |event: &&Value| event["_links"]["account"]["href"] == path;
            let opening = openings.iter().find(leads_there).expect("it is told");
            assert_eq!((&opening["changes"], &opening["reference"]), (changes, &Value::Null));
            assert_eq!(relations(opening), ["account", "self"]);
            let closing = closings.iter().find(leads_there);
            assert_eq!(closing.is_some(), place < 2, "{path}");
            let said = |closing: &Value| closing.get("changes").or(closing.get("link")).is_some();
            assert!(!closing.is_some_and(said), "{closing:?}");
        }
    }
    teller.end();
}

#[test]
fn each_currency_has_its_own_decimals() {
    let teller = Teller::start();
    for (shard, currency, amount, posted, too_fine) in [
        (0, "JPY", "7", "7", "7.5"),
        (1, "KWD", "7.125", "7.125", "7.1255"),
        (2, "EUR", "7.1", "7.10", "7.125"),
    ] {
        let account = teller.open_as(shard, currency, "0", json!({ "currency": currency }));
        let path = format!("/v2/accounts/{account}/deposits");
        let deposit = teller.post(&path, json!({ "amount": amount })).is(201);
        assert_eq!((&deposit["amount"], &deposit["balance"]), (&json!(posted), &json!(posted)));
        teller.post(&path, json!({ "amount": too_fine })).refused(422, "too-many-decimals");
        let name = format!("fine-{currency}");
        let limit = json!({ "name": name, "currency": currency, "overdraft_limit": too_fine });
        teller.post("/v2/accounts", limit).refused(422, "too-many-decimals");
        assert_eq!(teller.account(&account)["posted"], posted);
    }
    let balance = teller.get("/v2/trial-balance").is(200);
    let sums: Vec<_> =
        balance["currencies"].as_array().expect("a list").iter().map(|line| &line["sum"]).collect();
    assert_eq!(sums, ["0.00", "0", "0.000"]);
    // The service's own limit is in its own currency.
    let default = |currency: &str| {
        let body = json!({ "name": format!("default-{currency}"), "currency": currency });
        text(&teller.post("/v2/accounts", body).is(201)["overdraft_limit"])
    };
    assert_eq!(default("JPY"), "0");
    teller.end();
}

#[test]
fn accounts_are_listed_page_by_page() {
    let teller = Teller::start();
    for number in 0..7 {
        let metadata = json!({ "metadata": { "parity": (number % 2).to_string(), "a b": "x&y" } });
        teller.open_as(number % 3, &format!("p{number}"), "0", metadata);
    }
    let yen = teller.open_as(0, "yen", "0", json!({ "currency": "JPY" }));
    let closed = teller.open(1, "gone", "0");
    teller.delete(&format!("/v2/accounts/{closed}")).is(204);
    let list = |query: &str| teller.get(&format!("/v2/accounts?{query}")).is(200);
    assert_eq!(names(&list("limit=1000")).len(), 9);
    assert_eq!(names(&list("closed=true")), [&closed["name:".len()..]]);
    assert_eq!(names(&list("currency=JPY")), [&yen["name:".len()..]]);
    assert_eq!(names(&list("closed=false&currency=USD")).len(), 7);
    assert_eq!(names(&list("prefix=p")).len(), 7);
    assert_eq!(names(&list("prefix=p3")).len(), 1);
    assert_eq!(names(&list("prefix=P")).len(), 0);
    assert_eq!(names(&list("metadata[parity]=1")).len(), 3);
    assert_eq!(names(&list("metadata%5Bparity%5D=1&metadata[a%20b]=x%26y&prefix=p1")).len(), 1);
    assert_eq!(names(&list("metadata[parity]=1&metadata[a%20b]=x")).len(), 0);
    assert_eq!(names(&list("metadata[none]=1")).len(), 0);
    for (filter, count) in [("", 9), ("&prefix=p", 7), ("&metadata%5Ba%20b%5D=x%26y", 7), ("&closed=true", 1)]
    {
        for limit in [1, 2, 3] {
            let mut seen = Vec::new();
            let mut address = format!("/v2/accounts?limit={limit}{filter}");
            loop {
                let reply = teller.get(&address);
                let page = reply.is(200);
                assert!(names(&page).len() <= limit);
                seen.extend(names(&page));
                assert_eq!(page["_links"]["self"]["href"], address);
                let Some(next) = page["next"].as_str() else {
                    assert_eq!((reply.header("link"), relations(&page)), ("", vec!["self"]));
                    break;
                };
                let leads_on = text(&page["_links"]["next"]["href"]);
                assert_eq!(reply.header("link"), format!("<{leads_on}>; rel=\"next\""));
                assert!(leads_on.contains(next));
                address = leads_on;
            }
            seen.sort();
            let all = seen.len();
            seen.dedup();
            assert_eq!((seen.len(), all), (count, count), "{filter}, {limit} a page");
        }
    }
    let page = teller.get("/v2/accounts?limit=2");
    let headers = [("if-none-match", page.header("etag"))];
    assert_eq!(teller.send("GET", "/v2/accounts?limit=2", &headers, "").is(304), Value::Null);
    teller.end();
}

#[test]
fn a_merge_patch_changes_what_it_names() {
    let mut teller = Teller::start();
    let body = json!({ "metadata": { "a": "1", "b": "2" }, "velocity_limits": { "per_day": "5", "per_month": "9" } });
    let account = teller.open_as(1, "a", "10", body);
    let path = format!("/v2/accounts/{account}");
    let patched = teller.patch(&path, json!({ "overdraft_limit": "3", "metadata": { "b": null, "c": "3" } }));
    let change = patched.is(200);
    // It says what was set, wherever it is read, and what was not set is not there.
    let changes = json!({ "overdraft_limit": "3.00", "metadata": { "a": "1", "c": "3" } });
    assert_eq!((&change["changes"], relations(&change)), (&changes, vec!["account", "self"]));
    assert_eq!(change["_links"]["account"]["href"], format!("/v2/accounts/{}", teller.id(&account)));
    assert_eq!(teller.get(&format!("/v2/transactions/{}", text(&change["id"]))).is(200), change);
    let event = &teller.events("amendment")[0];
    assert_eq!((&event["id"], &event["changes"]), (&change["id"], &changes));
    let other = &teller.events("deposit")[0];
    assert_eq!((other.get("changes"), relations(other)), (None, vec!["self"]));
    assert_eq!((&change["type"], patched.header("etag")), (&json!("amendment"), "\"3\""));
    assert_eq!(sides(&change), [side("0.00", "10.00", "0.00", 3)]);
    let read = teller.account(&account);
    assert_eq!((&read["available"], &read["metadata"]), (&json!("13.00"), &json!({ "a": "1", "c": "3" })));
    assert_eq!(read["velocity_limits"], json!({ "per_day": "5.00", "per_month": "9.00", "debits": null }));
    let debits = json!({ "count": 2, "window_seconds": 3600 });
    let change = json!({ "velocity_limits": { "per_day": null, "debits": debits } });
    let limits = json!({ "per_day": null, "per_month": "9.00", "debits": debits });
    assert_eq!(teller.patch(&path, change).is(200)["changes"], json!({ "velocity_limits": limits }));
    let read = teller.account(&account);
    assert_eq!(read["velocity_limits"], limits);
    // Null goes back to the service's own limit, and takes everything else away.
    let nothing = json!({ "overdraft_limit": null, "metadata": null, "velocity_limits": null });
    let patched = teller.send("PATCH", &path, &[("idempotency-key", "k")], nothing.to_string());
    let changes = json!({ "overdraft_limit": null, "metadata": {}, "velocity_limits": null });
    assert_eq!(patched.is(200)["changes"], changes);
    assert_eq!(teller.patch(&path, json!({})).is(200)["changes"], json!({}));
    teller.restart();
    teller.send("PATCH", &path, &[("idempotency-key", "k")], nothing.to_string()).repeats(&patched);
    let read = teller.account(&account);
    assert_eq!(
        (&read["overdraft_limit"], &read["metadata"], &read["velocity_limits"], &read["allowance"]),
        (&json!("50.00"), &json!({}), &Value::Null, &Value::Null)
    );
    // A limit below what is in use is allowed: nothing can be paid until it is covered.
    teller.post(&format!("{path}/withdrawals"), json!({ "amount": "40" })).is(201);
    teller.patch(&path, json!({ "overdraft_limit": "10" })).is(200);
    assert_eq!(teller.account(&account)["available"], "-20.00");
    let problem = teller.post(&format!("{path}/withdrawals"), json!({ "amount": "0.01" }));
    assert_eq!(problem.refused(422, "insufficient-funds")["available"], "-20.00");
    teller.end();
}

#[test]
fn metadata_is_bounded_also_by_patches() {
    let teller = Teller::start();
    let account = teller.open(2, "a", "0");
    let path = format!("/v2/accounts/{account}");
    let entries = |numbers: std::ops::Range<u32>, value: Value| -> Value {
        let entry = |number: u32| (format!("k{number}"), value.clone());
        json!({ "metadata": numbers.map(entry).collect::<serde_json::Map<_, _>>() })
    };
    teller.patch(&path, entries(0..16, json!("v"))).is(200);
    teller.patch(&path, entries(16..17, json!("v"))).refused(422, "metadata-full");
    teller.patch(&path, entries(0..16, json!("w"))).is(200);
    teller.patch(&path, entries(0..17, json!("w"))).refused(400, "invalid-request");
    teller.patch(&path, entries(0..1, Value::Null)).is(200);
    teller.patch(&path, entries(16..17, json!("v"))).is(200);
    assert_eq!(teller.account(&account)["metadata"].as_object().expect("an object").len(), 16);
    teller.end();
}

#[test]
fn a_patch_may_ask_for_the_version() {
    let mut teller = Teller::start();
    let account = teller.open(0, "a", "1");
    let path = format!("/v2/accounts/{account}");
    let by_id = format!("/v2/accounts/{}", teller.id(&account));
    let patch = |teller: &Teller, path: &str, headers: &[(&str, &str)], frozen: bool| {
        teller.send("PATCH", path, headers, json!({ "frozen": frozen }).to_string())
    };
    let problem = patch(&teller, &path, &[("if-match", "\"1\"")], true).refused(412, "version-mismatch");
    assert_eq!(problem["version"], 2);
    let headers = [("if-match", "\"2\""), ("idempotency-key", "k")];
    let first = patch(&teller, &path, &headers, true);
    first.is(200);
    assert_eq!(first.header("etag"), "\"3\"");
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        // The same request, whichever way it names the account.
        let again = patch(&teller, &by_id, &headers, true);
        again.repeats(&first);
        assert_eq!(again.header("etag"), "\"3\"");
        patch(&teller, &path, &headers, false).refused(422, "idempotency-key-reused");
    }
    patch(&teller, &path, &[("if-match", "*")], false).is(200);
    let read = teller.get(&path);
    assert_eq!(read.header("etag"), "\"4\"");
    teller.send("GET", &path, &[("if-none-match", "\"4\"")], "").is(304);
    teller.send("GET", &path, &[("if-none-match", "\"3\"")], "").is(200);
    teller.end();
}

#[test]
fn a_frozen_account_receives_and_does_not_pay() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "10"), (1, "10")]);
    let path = format!("/v2/accounts/{a}");
    let hold = text(&teller.post("/v2/holds", json!({ "account": a, "amount": "1" })).is(201)["id"]);
    teller.patch(&path, json!({ "frozen": true })).is(200);
    let account = teller.account(&a);
    assert_eq!(account["frozen"], true);
    assert!(!relations(&account).contains(&"withdrawals") && relations(&account).contains(&"deposits"));
    let one = json!({ "amount": "1" });
    teller.post(&format!("{path}/withdrawals"), one.clone()).refused(422, "account-frozen");
    let by_name = format!("/accounts/{}/withdraw", &a["name:".len()..]);
    teller.post(&by_name, json!({ "amount": 1 })).refused(422, "account-frozen");
    teller.post("/v2/holds", json!({ "account": a, "amount": "1" })).refused_at(
        422,
        "account-frozen",
        "/account",
    );
    teller.post(&format!("/v2/holds/{hold}/capture"), json!({})).refused(422, "account-frozen");
    teller.post(&format!("/v2/holds/{hold}/void"), json!({})).is(201);
    teller.post(&format!("{path}/deposits"), one.clone()).is(201);
    teller.post("/v2/transfers", json!({ "from": b, "to": a, "amount": "1" })).is(201);
    teller.patch(&path, json!({ "frozen": false })).is(200);
    teller.post(&format!("{path}/withdrawals"), one).is(201);
    assert_eq!(teller.account(&a)["posted"], "11.00");
    teller.end();
}

#[test]
fn only_an_account_at_zero_without_holds_is_closed() {
    let mut teller = Teller::start();
    let account = teller.open_as(2, "a", "0", json!({ "overdraft_limit": "10" }));
    let (path, id) = (format!("/v2/accounts/{account}"), teller.id(&account));
    assert!(relations(&teller.account(&account)).contains(&"close"));
    let hold = teller.post("/v2/holds", json!({ "account": account, "amount": "4" })).is(201);
    assert!(!relations(&teller.account(&account)).contains(&"close"));
    let problem = teller.delete(&path).refused(409, "account-has-holds");
    assert_eq!(problem["held"], "4.00");
    teller.post(&text(&hold["_links"]["capture"]["href"]), json!({})).is(201);
    let problem = teller.delete(&path).refused(409, "account-not-empty");
    assert_eq!(problem["balance"], "-4.00");
    teller.post(&format!("{path}/deposits"), json!({ "amount": "4" })).is(201);
    teller.send("DELETE", &path, &[("if-match", "\"1\"")], "").refused(412, "version-mismatch");
    teller.send("DELETE", &path, &[("if-match", "\"4\"")], "").is(204);
    teller.restart();
    let closed = teller.account(&id);
    assert!(closed["closed"].is_string());
    assert_eq!(relations(&closed), ["holds", "links", "self", "statement", "transactions"]);
    let by_id = format!("/v2/accounts/{id}");
    teller.delete(&by_id).refused(409, "account-closed");
    teller.patch(&by_id, json!({ "frozen": true })).refused(409, "account-closed");
    teller.get(&path).refused(404, "account-not-found");
    teller.patch(&path, json!({ "frozen": true })).refused(404, "account-not-found");
    teller.post("/v2/accounts", json!({ "name": name_in(2, "a") })).refused(409, "account-exists");
    teller.end();
}
