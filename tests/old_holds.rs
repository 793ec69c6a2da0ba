//! Holds that ended more than a day ago, on shards whose clock the test sets.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use support::{MemoryBank, Reply, Service};
use teller::clock;
use teller::http::Limits;
use teller::ledger::{HoldId, Timestamp};

const HOUR_MS: u64 = 60 * 60 * 1000;

fn ahead(by: &AtomicU64) -> Timestamp {
    Timestamp::from_millis(clock::now().millis() + by.load(Ordering::SeqCst))
}

/// A service whose shards have this clock, with an account `a` that has 1,000.00, and `b`.
async fn service(now: fn() -> Timestamp) -> Service {
    let bank = MemoryBank::start_at(3, 100_000, |log| Arc::clone(&log), now);
    let service = Service::over(bank, Limits::default()).await;
    for name in ["a", "b"] {
        service.open_with(name, "1000").await;
    }
    service
}

async fn made(service: &Service, path: &str, body: Value) -> Value {
    let reply = service.post(path, &body.to_string()).await;
    assert!(reply.status.is_success(), "{path} {body}: {reply:?}");
    reply.json()
}

async fn hold(service: &Service, body: Value) -> String {
    let hold = made(service, "/v2/holds", body).await;
    format!("/v2/holds/{}", hold["id"].as_str().expect("an id"))
}

/// Lets enough happen in each shard that it forgets what it may forget.
async fn happen(service: &Service) {
    for number in 0..40 {
        made(service, "/v2/accounts", json!({ "name": format!("{number} of {:?}", clock::now()) })).await;
    }
    for name in ["a", "b"] {
        made(service, &format!("/v2/accounts/name:{name}/deposits"), json!({ "amount": "1" })).await;
    }
}

async fn remembered(service: &Service, account: &str) -> Value {
    service.get(&format!("/v2/accounts/name:{account}/holds")).await.json()["count"].clone()
}

#[track_caller]
fn assert_ended(reply: &Reply, hold: &Value) {
    assert_eq!((reply.status.as_u16(), reply.code()), (409, "hold-ended".to_owned()), "{reply:?}");
    let problem = reply.json();
    assert_eq!((&problem["hold_status"], &problem["captured"]), (&hold["status"], &hold["captured"]));
}

#[tokio::test]
async fn what_ended_long_ago_is_told_as_it_was_and_has_its_outcome_for_ever() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let service = service(|| ahead(&AHEAD)).await;
    let pass = |hours: u64| AHEAD.fetch_add(hours * HOUR_MS, Ordering::SeqCst);
    let body = |amount: &str, hours: u64| json!({ "account": "name:a", "amount": amount, "expires_in": hours * 3600 });
    let mut holds = Vec::new();
    for (amount, hours) in [("1", 240), ("2", 240), ("3", 240), ("4", 1), ("5", 100), ("6", 100)] {
        let mut body = body(amount, hours);
        if amount != "1" {
            body["to"] = json!("name:b");
        }
        holds.push(hold(&service, body).await);
        made(&service, "/v2/accounts/name:a/deposits", json!({ "amount": "1" })).await;
    }
    let pending = hold(&service, body("7", 8000)).await;
    made(&service, &format!("{}/capture", holds[0]), json!({})).await;
    made(&service, &format!("{}/capture", holds[1]), json!({ "amount": "0.5" })).await;
    pass(2);
    made(&service, &format!("{}/void", holds[2]), json!({})).await;
    // The last two are due at one moment, and that is recorded much later.
    pass(200);
    let mut before = Vec::new();
    for path in &holds {
        let hold = service.get(path).await.json();
        assert_ne!(hold["status"], "pending");
        before.push(hold);
    }
    let statuses: Vec<_> = before.iter().map(|hold| hold["status"].as_str().expect("a status")).collect();
    assert_eq!(statuses, ["captured", "captured", "voided", "expired", "expired", "expired"]);
    pass(25);
    happen(&service).await;
    assert_eq!(remembered(&service, "a").await, 1, "all but the pending one are forgotten");
    for (place, (path, before)) in holds.iter().zip(&before).enumerate() {
        for _ in 0..2 {
            assert_eq!(service.get(path).await.json(), *before);
        }
        for action in ["capture", "void"] {
            let path = format!("{path}/{action}");
            assert_ended(&service.post(&path, "{}").await, before);
            let key = format!("{place}-{action}");
            let headers = [("idempotency-key", key.as_str())];
            let keyed = || service.send("POST", &path, &headers, "{}");
            let (first, again) = (keyed().await, keyed().await);
            assert_ended(&first, before);
            assert_eq!((first.body, again.header("idempotent-replayed")), (again.body.clone(), "true"));
        }
        let id = path.rsplit('/').next().expect("an id");
        let items = json!([{ "type": "void", "hold": id }, { "type": "capture", "hold": id }]);
        let batch = made(&service, "/v2/batches", json!({ "items": items })).await;
        for result in batch["results"].as_array().expect("results") {
            assert_eq!((&result["status"], &result["problem"]["code"]), (&json!(409), &json!("hold-ended")));
            assert_eq!(result["problem"]["hold_status"], before["status"]);
        }
    }
    assert_eq!(service.get(&pending).await.json()["status"], "pending");
    made(&service, &format!("{pending}/capture"), json!({})).await;
    service.stop().await;
}

/// A hold of which the end is not found in one go: each request goes on where the one before ended.
#[tokio::test]
async fn the_end_of_a_hold_of_a_busy_account_is_found_by_asking_again() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let service = service(|| ahead(&AHEAD)).await;
    let pass = |hours: u64| AHEAD.fetch_add(hours * HOUR_MS, Ordering::SeqCst);
    let captured = hold(&service, json!({ "account": "name:a", "amount": "1" })).await;
    let expired = hold(&service, json!({ "account": "name:a", "amount": "2", "expires_in": 7200 })).await;
    let deposits = json!({ "type": "deposit", "account": "name:a", "amount": "1" }).to_string() + "\n";
    let busy = async || {
        let body = deposits.repeat(10_000);
        let ndjson = [("content-type", "application/x-ndjson")];
        let reply = service.send("POST", "/v2/batches?results=none", &ndjson, &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    busy().await;
    busy().await;
    made(&service, &format!("{captured}/capture"), json!({})).await;
    pass(3);
    busy().await;
    pass(25);
    happen(&service).await;
    assert_eq!(remembered(&service, "a").await, 0);
    // An expiry stands where its time says, whatever is before and behind it.
    assert_eq!(service.get(&expired).await.json()["status"], "expired");
    let mut asked = 0;
    let found = loop {
        asked += 1;
        let reply = service.get(&captured).await;
        if reply.status == 200 {
            break reply.json();
        }
        assert_eq!((reply.code().as_str(), reply.header("retry-after")), ("overloaded", "1"));
        assert!(asked < 4, "it does not get on");
    };
    assert_eq!((&found["status"], &found["captured"]), (&json!("captured"), &json!("1.00")));
    assert_eq!(asked, 3, "twice ten thousand entries are between, and some");
    // What was found once is found at once.
    assert_eq!(service.get(&captured).await.json(), found);
    assert_ended(&service.post(&format!("{captured}/void"), "{}").await, &found);
    service.stop().await;
}

/// Each hold that was found, or that never was, cost something again with the next request, so a batch of many read about
/// the first ones each time, and never got to the last.
#[tokio::test]
async fn a_batch_of_many_old_holds_gets_on_by_asking_again() {
    const HOLDS: usize = 500;
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let service = service(|| ahead(&AHEAD)).await;
    let mut ended = Vec::new();
    for _ in 0..HOLDS {
        let path = hold(&service, json!({ "account": "name:a", "amount": "1" })).await;
        made(&service, &format!("{path}/capture"), json!({})).await;
        ended.push(HoldId::parse(path.rsplit('/').next().expect("an id")).expect("one of ours"));
    }
    AHEAD.fetch_add(25 * HOUR_MS, Ordering::SeqCst);
    let deposits = json!({ "type": "deposit", "account": "name:a", "amount": "1" }).to_string() + "\n";
    let ndjson = [("content-type", "application/x-ndjson")];
    let busy = service.send("POST", "/v2/batches?results=none", &ndjson, &deposits.repeat(10_000)).await;
    assert_eq!(busy.json()["executed"], 10_000);
    assert_eq!(remembered(&service, "a").await, 0);
    // In front of them, so many ids of holds that would be where there are other entries.
    let never = ended.iter().map(|id| HoldId { version: id.version + 1, ..*id });
    let voids = never.chain(ended.iter().copied());
    let voids: Vec<_> = voids.map(|id| json!({ "type": "void", "hold": id.to_uuid().to_string() })).collect();
    let told_of = async || {
        let batch = made(&service, "/v2/batches", json!({ "items": voids })).await;
        let results = batch["results"].as_array().expect("results");
        assert_eq!(results.len(), 2 * HOLDS);
        let mut told = 0;
        for (place, result) in results.iter().enumerate() {
            let problem = &result["problem"];
            match problem["code"].as_str().expect("a code") {
                "overloaded" => continue,
                "hold-not-found" => assert!(place < HOLDS),
                code => {
                    assert!(place >= HOLDS);
                    assert_eq!((code, &problem["captured"]), ("hold-ended", &json!("1.00")));
                }
            }
            told += 1;
        }
        told
    };
    let mut told = told_of().await;
    assert!((1..2 * HOLDS).contains(&told), "more than one request may read: {told}");
    while told < 2 * HOLDS {
        let before = told;
        told = told_of().await;
        assert!(told >= (before + 100).min(2 * HOLDS), "it does not get on: {told} behind {before}");
    }
    service.stop().await;
}

/// P5: a batch with a key told of a hold whose end it had not found yet that there was no room, in a reply of 200; and when
/// it was repeated, that the hold has ended. Now it is refused until its reply is the one that it keeps.
#[tokio::test]
async fn a_batch_with_a_key_is_told_the_same_of_an_old_hold_each_time() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let service = service(|| ahead(&AHEAD)).await;
    let captured = hold(&service, json!({ "account": "name:a", "amount": "1" })).await;
    let deposits = json!({ "type": "deposit", "account": "name:a", "amount": "1" }).to_string() + "\n";
    let ndjson = [("content-type", "application/x-ndjson")];
    let busy = service.send("POST", "/v2/batches?results=none", &ndjson, &deposits.repeat(10_000)).await;
    assert_eq!(busy.json()["executed"], 10_000);
    made(&service, &format!("{captured}/capture"), json!({})).await;
    AHEAD.fetch_add(25 * HOUR_MS, Ordering::SeqCst);
    happen(&service).await;
    assert_eq!(remembered(&service, "a").await, 0);
    let id = captured.rsplit('/').next().expect("an id");
    let deposit = json!({ "type": "deposit", "account": "name:b", "amount": "1" });
    let body = json!({ "items": [deposit, { "type": "void", "hold": id }] }).to_string();
    let keyed = || service.send("POST", "/v2/batches", &[("idempotency-key", "k")], &body);
    let first = keyed().await;
    assert_eq!((first.status.as_u16(), first.code()), (503, "overloaded".to_owned()), "{first:?}");
    assert_eq!(first.header("retry-after"), "1");
    let (told, again) = (keyed().await, keyed().await);
    assert_eq!(told.status, 200, "it is found by asking again: {told:?}");
    assert_eq!(told.json()["results"][1]["problem"]["code"], "hold-ended");
    assert_eq!(told.body, again.body);
    let executed: Vec<_> = [&told, &again].iter().map(|reply| reply.json()["executed"].clone()).collect();
    assert_eq!(executed, [1, 1]);
    service.stop().await;
}

#[tokio::test]
async fn an_id_that_no_hold_has_finds_nothing_in_history() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let service = service(|| ahead(&AHEAD)).await;
    let path = hold(&service, json!({ "account": "name:a", "amount": "1", "expires_in": 60 })).await;
    AHEAD.fetch_add(HOUR_MS, Ordering::SeqCst);
    assert_eq!(service.get(&path).await.json()["status"], "expired");
    AHEAD.fetch_add(25 * HOUR_MS, Ordering::SeqCst);
    happen(&service).await;
    assert_eq!(service.get(&path).await.status, 200);
    let id = path.rsplit('/').next().expect("an id");
    let forms = (0..id.len()).filter(|&at| id.as_bytes()[at] != b'-').flat_map(|at| {
        ['0', '1', '9', 'f'].map(|digit| {
            let mut forged = id.to_owned();
            forged.replace_range(at..=at, &digit.to_string());
            forged
        })
    });
    for forged in forms.filter(|forged| forged != id) {
        for reply in [
            service.get(&format!("/v2/holds/{forged}")).await,
            service.post(&format!("/v2/holds/{forged}/void"), "{}").await,
        ] {
            let code = reply.code();
            assert!(["hold-not-found", "invalid-id"].contains(&code.as_str()), "{forged}: {reply:?}");
        }
    }
    service.stop().await;
}
