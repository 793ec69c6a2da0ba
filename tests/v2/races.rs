//! Several clients at once. What they see is checked in full by the histories; here is what those leave out.

use std::thread;

use serde_json::{Value, json};

use crate::process;
use crate::teller::Teller;

/// Sends requests one after the other, on a thread of its own, and gives the replies.
fn client(
    teller: &Teller,
    requests: Vec<(String, Option<String>, Value)>,
) -> thread::JoinHandle<Vec<(u16, Value)>> {
    let client = teller.client();
    thread::spawn(move || {
        let send = |(path, key, body): (String, Option<String>, Value)| {
            let reply = process::post(&client, &path, &body.to_string(), key.as_deref());
            (reply.status.as_u16(), process::json(&reply))
        };
        requests.into_iter().map(send).collect()
    })
}

#[test]
fn a_request_that_is_sent_twice_at_once_takes_effect_once() {
    let teller = Teller::start();
    let [a, b] = teller.open_each([(0, "100"), (2, "0")]);
    for round in 0..25 {
        let transfer = json!({ "from": a, "to": b, "amount": "1" });
        let request = ("/v2/transfers".to_owned(), Some(format!("key {round}")), transfer);
        let clients = [(); 3].map(|()| client(&teller, vec![request.clone()]));
        let mut made = Vec::new();
        for client in clients {
            match client.join().expect("it does not panic").remove(0) {
                (201, transfer) => made.push(transfer),
                (409, problem) => assert_eq!(problem["code"], "idempotency-key-in-flight"),
                other => panic!("{other:?}"),
            }
        }
        assert!(!made.is_empty() && made.iter().all(|transfer| *transfer == made[0]), "{made:?}");
    }
    assert_eq!(teller.posted([&a, &b]), ["75.00", "25.00"]);
    teller.end();
}

/// Chains of protection cross one another and change while money is asked for from all sides: every request is
/// answered, and nothing is lost.
#[test]
fn pulls_that_cross_one_another_end() {
    let teller = Teller::start();
    let accounts = teller.open_each([(0, "50"), (1, "50"), (2, "50"), (1, "50"), (0, "50"), (2, "50")]);
    let protect = |account: usize, by: usize| {
        let path = format!("/v2/accounts/{}/links/{}", accounts[account], accounts[by]);
        teller.put(&path, json!({ "kind": "overdraft-protection" }))
    };
    for (account, by) in [(0, 1), (1, 2), (5, 4), (4, 3)] {
        protect(account, by).is(201);
    }
    let requests = |number: usize| {
        let request = |step: usize| {
            let (from, to) = (&accounts[(number + step) % 6], &accounts[(number * 5 + step * 2 + 1) % 6]);
            let amount = format!("{}.5", (step * 7 + number * 13) % 60);
            match step % 3 {
                _ if from == to => ("/v2/holds".to_owned(), json!({ "account": from, "amount": "0.01" })),
                0 => (format!("/v2/accounts/{from}/withdrawals"), json!({ "amount": "1.5" })),
                1 => ("/v2/transfers".to_owned(), json!({ "from": from, "to": to, "amount": amount })),
                _ => ("/v2/transfers".to_owned(), json!({ "from": from, "to": to, "amount": "all" })),
            }
        };
        (0..60).map(request).map(|(path, body)| (path, None, body)).collect::<Vec<_>>()
    };
    let clients = [0, 1, 2, 3].map(|number| client(&teller, requests(number)));
    for _ in 0..30 {
        teller.delete(&format!("/v2/accounts/{}/links/{}", accounts[1], accounts[2])).is(204);
        protect(1, 3).is(201);
        teller.delete(&format!("/v2/accounts/{}/links/{}", accounts[1], accounts[3])).is(204);
        protect(1, 2).is(201);
    }
    for client in clients {
        for (status, reply) in client.join().expect("it does not panic") {
            assert!(matches!(status, 201 | 422), "{status}: {reply}");
        }
    }
    teller.end();
}
