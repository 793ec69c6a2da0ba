//! Velocity limits.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::TIME_MAX;
use crate::teller::{Teller, text};

const WINDOW_SECONDS_MAX: u64 = 2_678_400;
const DAY: Duration = Duration::from_secs(86_400);

/// A server, on a day that does not end before a test does. Months and the longest windows begin with a day, UTC, so
/// none of them ends either.
fn start() -> Teller {
    let since_epoch = Duration::from_millis(::teller::clock::now().millis());
    let left = DAY - Duration::from_secs(since_epoch.as_secs() % DAY.as_secs());
    if left <= TIME_MAX {
        thread::sleep(left);
    }
    Teller::start()
}

fn allowance(teller: &Teller, account: &str) -> Value {
    teller.account(account)["allowance"].clone()
}

#[test]
fn what_leaves_in_a_day_or_month_is_limited() {
    let mut teller = start();
    let limits = json!({ "velocity_limits": { "per_day": "10", "per_month": "12" } });
    let a = teller.open_as(0, "a", "100", limits);
    let [b] = teller.open_each([(1, "0")]);
    let path = format!("/v2/accounts/{a}");
    let left = |day: &str, month: &str| json!({ "per_day": day, "per_month": month, "debits": null });
    teller.post(&format!("{path}/withdrawals"), json!({ "amount": "3" })).is(201);
    teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "3" })).is(201);
    // A hold counts when it is placed; its capture does not count again.
    let hold = teller.post("/v2/holds", json!({ "account": a, "amount": "2", "to": b })).is(201);
    assert_eq!(allowance(&teller, &a), left("2.00", "4.00"));
    teller.post(&text(&hold["_links"]["capture"]["href"]), json!({})).is(201);
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        assert_eq!(allowance(&teller, &a), left("2.00", "4.00"));
        let problem = teller.post(&format!("{path}/withdrawals"), json!({ "amount": "2.01" }));
        let problem = problem.refused(422, "velocity-limit");
        assert_eq!((&problem["required"], &problem["allowance"]), (&json!("2.01"), &left("2.00", "4.00")));
        let transfer = json!({ "from": a, "to": b, "amount": "2.01" });
        teller.post("/v2/transfers", transfer).refused_at(422, "velocity-limit", "/from");
        let hold = json!({ "account": a, "amount": "2.01" });
        teller.post("/v2/holds", hold).refused_at(422, "velocity-limit", "/account");
        let legs =
            json!({ "legs": [{ "account": b, "amount": "2.01" }, { "account": a, "amount": "-2.01" }] });
        teller.post("/v2/transfers", legs).refused_at(422, "velocity-limit", "/legs/1/account");
    }
    teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "2" })).is(201);
    teller.post(&format!("{path}/deposits"), json!({ "amount": "1" })).is(201);
    assert_eq!(allowance(&teller, &a), left("0.00", "2.00"));
    // What has left stays counted when the limits change.
    teller.patch(&path, json!({ "velocity_limits": { "per_day": "11" } })).is(200);
    assert_eq!(allowance(&teller, &a), left("1.00", "2.00"));
    teller.patch(&path, json!({ "velocity_limits": { "per_day": null } })).is(200);
    teller.post(&format!("{path}/withdrawals"), json!({ "amount": "2.01" })).refused(422, "velocity-limit");
    teller.post(&format!("{path}/withdrawals"), json!({ "amount": "2" })).is(201);
    teller.end();
}

/// What a transaction says of the allowance of each of its accounts.
fn allowances(transaction: &Value) -> Vec<Value> {
    let sides = transaction["accounts"].as_array().expect("it has sides");
    sides.iter().map(|side| side["allowance"].clone()).collect()
}

#[test]
fn what_debits_an_account_tells_what_may_still_leave_it() {
    let mut teller = start();
    let debits = json!({ "count": 9, "window_seconds": WINDOW_SECONDS_MAX });
    let limits = json!({ "velocity_limits": { "per_month": "20", "debits": debits } });
    let a = teller.open_as(0, "a", "100", limits);
    let [b] = teller.open_each([(1, "50")]);
    let left = |month: &str, debits: u32| json!({ "per_day": null, "per_month": month, "debits": debits });
    let withdrawals = format!("/v2/accounts/{a}/withdrawals");
    let withdrawal = |keyed: &str| teller.post_keyed(&withdrawals, keyed, json!({ "amount": "1" }));
    let first = withdrawal("w");
    assert_eq!(first.is(201)["allowance"], left("19.00", 8));
    let noted = json!({ "amount": "1", "reference": "r" });
    assert_eq!(teller.post(&withdrawals, noted).is(201)["allowance"], left("18.00", 7));
    let deposits = format!("/v2/accounts/{a}/deposits");
    assert_eq!(teller.post(&deposits, json!({ "amount": "1" })).is(201)["allowance"], Value::Null);
    let transfer = json!({ "from": a, "to": b, "amount": "2" });
    let dry = teller.post("/v2/transfers?dry_run=true", transfer.clone()).is(200);
    let transferred = teller.post_keyed("/v2/transfers", "t", transfer.clone());
    assert_eq!(allowances(&transferred.is(201)), [left("16.00", 6), Value::Null]);
    assert_eq!(allowances(&dry), allowances(&transferred.is(201)));
    let hold = json!({ "account": a, "amount": "3", "to": b });
    let held = teller.post_keyed("/v2/holds", "h", hold.clone());
    assert_eq!(allowances(&held.is(201)), [left("13.00", 5)]);
    // What was held has counted already.
    let captured = teller.post(&text(&held.is(201)["_links"]["capture"]["href"]), json!({})).is(201);
    assert_eq!(allowances(&captured), [Value::Null, Value::Null]);
    let legs = json!([{ "account": b, "amount": "-1" }, { "account": a, "amount": "1" }]);
    let paid = teller.post("/v2/transfers", json!({ "legs": legs })).is(201);
    assert_eq!(allowances(&paid), [Value::Null, Value::Null]);
    let reverse = format!("/v2/transfers/{}/reverse", text(&paid["id"]));
    assert_eq!(allowances(&teller.post(&reverse, json!({})).is(201)), [left("12.00", 4), Value::Null]);
    let items = json!([{ "type": "withdraw", "account": a, "amount": "1" }]);
    teller.post("/v2/batches", json!({ "items": items })).is(200);
    let name = a.trim_start_matches("name:");
    teller.post(&format!("/accounts/{name}/withdraw"), json!({ "amount": 1 })).is(201);
    assert_eq!(allowance(&teller, &a), left("10.00", 2));
    let history = teller.get(&format!("/v2/accounts/{a}/transactions?types=withdrawal&limit=1")).is(200);
    assert_eq!(history["items"][0]["allowance"], left("10.00", 2));
    // Said again, it is what it was, whatever has left since.
    for restart in [false, true] {
        if restart {
            teller.restart();
        }
        teller.post_keyed(&withdrawals, "w", json!({ "amount": "1" })).repeats(&first);
        teller.post_keyed("/v2/transfers", "t", transfer.clone()).repeats(&transferred);
        teller.post_keyed("/v2/holds", "h", hold.clone()).repeats(&held);
        let read = teller.get(&format!("/v2/transactions/{}", text(&first.is(201)["id"]))).is(200);
        assert_eq!(allowances(&read), [left("19.00", 8)]);
    }
    let too_much = |path: &str, amount: Value| {
        let problem = teller.post(path, json!({ "amount": amount })).refused(422, "velocity-limit");
        problem["allowance"].clone()
    };
    assert_eq!(too_much(&withdrawals, json!("10.01")), left("10.00", 2));
    // Amounts of version 1 are numbers.
    let numbers = json!({ "per_day": null, "per_month": 10.00, "debits": 2 });
    assert_eq!(too_much(&format!("/accounts/{name}/withdraw"), json!(10.01)), numbers);
    teller.end();
}

#[test]
fn so_many_debits_are_allowed_in_a_window() {
    let teller = start();
    // The longest window, and the day does not end.
    let debits = json!({ "count": 3, "window_seconds": WINDOW_SECONDS_MAX });
    let a = teller.open_as(2, "a", "100", json!({ "velocity_limits": { "debits": debits } }));
    let [b] = teller.open_each([(0, "0")]);
    let one = json!({ "amount": "1" });
    let withdraw = || teller.post(&format!("/v2/accounts/{a}/withdrawals"), one.clone());
    withdraw().is(201);
    teller.post("/v2/transfers?dry_run=true", json!({ "from": a, "to": b, "amount": "1" })).is(200);
    teller.post("/v2/transfers", json!({ "from": a, "to": b, "amount": "1" })).is(201);
    let poor = json!({ "from": a, "to": b, "amount": "1000" });
    teller.post("/v2/transfers", poor).refused(422, "insufficient-funds");
    assert_eq!(allowance(&teller, &a)["debits"], 1);
    let hold = teller.post("/v2/holds", json!({ "account": a, "amount": "1" })).is(201);
    withdraw().refused(422, "velocity-limit");
    // Giving a hold up gives nothing back until the window is over.
    teller.post(&text(&hold["_links"]["void"]["href"]), json!({})).is(201);
    let problem = withdraw().refused(422, "velocity-limit");
    assert_eq!(problem["allowance"], json!({ "per_day": null, "per_month": null, "debits": 0 }));
    // What it receives does not count.
    teller.post(&format!("/v2/accounts/{a}/deposits"), one.clone()).is(201);
    teller.end();
}

#[test]
fn what_another_account_pulls_counts_too() {
    let teller = start();
    let source = teller.open_as(1, "source", "100", json!({ "velocity_limits": { "per_day": "5" } }));
    let [a] = teller.open_each([(0, "1")]);
    let kind = json!({ "kind": "overdraft-protection" });
    teller.put(&format!("/v2/accounts/{a}/links/{source}"), kind).is(201);
    let withdraw =
        |amount: &str| teller.post(&format!("/v2/accounts/{a}/withdrawals"), json!({ "amount": amount }));
    withdraw("6.01").refused(422, "insufficient-funds");
    withdraw("6").is(201);
    assert_eq!(teller.posted([&a, &source]), ["0.00", "95.00"]);
    withdraw("0.01").refused(422, "insufficient-funds");
    teller.end();
}
