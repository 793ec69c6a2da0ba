//! How operations are written as requests and read from replies: all that this test knows of the wire.
//!
//! What always holds: a reply that is not understood ends the test with that reply; it is never taken for one
//! that tells nothing.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use teller::client::Response;
use teller::ledger::AccountName;
use teller::router::Router;

use crate::model::{AccountNumber, Condition, HoldNumber, Leg, Op, Output, Refusal, Seen};
use crate::process::{amount, cents};
use crate::random::Random;

/// What the server calls the accounts and holds of a history.
pub(crate) struct Book {
    names: Vec<String>,
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    accounts: HashMap<String, AccountNumber>,
    ids: HashMap<AccountNumber, String>,
    holds: HashMap<HoldNumber, String>,
}

/// What is sent. Without a body it is a GET, else a POST, or a PUT.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) is_put: bool,
    pub(crate) path: String,
    pub(crate) body: Option<String>,
}

impl Book {
    /// Names for so many accounts, the shards in turn.
    pub(crate) fn new(prefix: &str, accounts: usize, shards: usize) -> Book {
        let router = Router::new(shards);
        let lives_at = |name: &String, shard| {
            router.of_name(&AccountName::parse(name).expect("a valid name")).index() == shard
        };
        let name = |account| {
            (0..)
                .map(|suffix| format!("{prefix}-a{account}-{suffix}"))
                .find(|name| lives_at(name, account % shards))
                .expect("a shard has names")
        };
        Book { names: (0..accounts).map(name).collect(), learned: Mutex::default() }
    }

    fn name(&self, account: AccountNumber) -> &str {
        &self.names[account.0]
    }

    fn learned(&self) -> std::sync::MutexGuard<'_, Learned> {
        self.learned.lock().expect("no client panics with it")
    }

    fn reference(&self, account: AccountNumber) -> String {
        format!("name:{}", self.name(account))
    }

    fn hold(&self, hold: HoldNumber) -> String {
        self.learned().holds.get(&hold).expect("only holds that were answered are used").clone()
    }

    /// Takes the ids from a reply, and gives the holds that were made.
    pub(crate) fn learn(&self, op: &Op, response: &Response) -> Vec<HoldNumber> {
        if !response.status.is_success() {
            return Vec::new();
        }
        let mut holds = Vec::new();
        self.learn_item(op, &crate::process::json(response), &mut holds);
        holds
    }

    fn learn_item(&self, op: &Op, body: &Value, holds: &mut Vec<HoldNumber>) {
        let id = |body: &Value| body["id"].as_str().map(str::to_owned);
        match op {
            Op::Open { account, .. } | Op::Read { account } => {
                if let Some(id) = id(body) {
                    let mut learned = self.learned();
                    learned.accounts.insert(id.clone(), *account);
                    learned.ids.insert(*account, id);
                }
            }
            Op::Hold { hold, .. } => {
                if let Some(id) = id(body) {
                    self.learned().holds.insert(*hold, id);
                    holds.push(*hold);
                }
            }
            Op::Batch { items, .. } => {
                for (item, result) in items.iter().zip(results(body)) {
                    if succeeded(result) {
                        self.learn_item(item, &result["result"], holds);
                    }
                }
            }
            _ => {}
        }
    }

    /// The account that a part of a reply is about.
    fn account(&self, value: &Value) -> AccountNumber {
        let id = value["account_id"].as_str().or(value["id"].as_str()).expect("an account's id");
        *self.learned().accounts.get(id).unwrap_or_else(|| panic!("nobody opened the account of {value}"))
    }
}

/// Writes a request.
pub(crate) fn request(op: &Op, book: &Book, random: &mut Random) -> Request {
    let post = |path: &str, body: Value| Request {
        is_put: false,
        path: path.to_owned(),
        body: Some(body.to_string()),
    };
    // Version 1 takes an amount as text too.
    let money = |cents: &i64| json!({ "amount": amount(*cents) });
    match op {
        Op::Open { .. } => post("/v2/accounts", item(op, book)),
        Op::Deposit { account, cents } => {
            post(&format!("/accounts/{}/deposit", book.name(*account)), money(cents))
        }
        Op::Withdraw { account, cents } => {
            post(&format!("/accounts/{}/withdraw", book.name(*account)), money(cents))
        }
        Op::Transfer { .. } => post("/v2/transfers", item(op, book)),
        Op::Hold { .. } => post("/v2/holds", item(op, book)),
        Op::Capture { hold, cents } => {
            let body = cents.as_ref().map_or(json!({}), money);
            post(&format!("/v2/holds/{}/capture", book.hold(*hold)), body)
        }
        Op::Void { hold } => post(&format!("/v2/holds/{}/void", book.hold(*hold)), json!({})),
        Op::Read { account } => {
            let id = book.learned().ids.get(account).cloned();
            let path = match id.filter(|_| random.percent(75)) {
                Some(id) => format!("/v2/accounts/{id}"),
                None => format!("/accounts/{}", book.name(*account)),
            };
            Request { is_put: false, path, body: None }
        }
        Op::Protect { account, by } => {
            let path = format!("/v2/accounts/{}/links/{}", book.reference(*account), book.reference(*by));
            let body = json!({ "kind": "overdraft-protection" }).to_string();
            Request { is_put: true, path, body: Some(body) }
        }
        Op::Batch { atomic, items } => {
            let items: Vec<Value> = items.iter().map(|op| typed_item(op, book)).collect();
            post("/v2/batches", json!({ "atomic": atomic, "items": items }))
        }
    }
}

/// The body of a request of version 2.
fn item(op: &Op, book: &Book) -> Value {
    match op {
        Op::Open { account, overdraft_limit } => {
            json!({ "name": book.name(*account), "overdraft_limit": amount(*overdraft_limit) })
        }
        Op::Deposit { account, cents } | Op::Withdraw { account, cents } => {
            json!({ "account": book.reference(*account), "amount": amount(*cents) })
        }
        Op::Transfer { legs, conditions } => {
            let mut body = transfer(legs, book);
            if !conditions.is_empty() {
                body["conditions"] = conditions.iter().map(|each| condition(each, book)).collect();
            }
            body
        }
        Op::Hold { account, cents, to, .. } => {
            let mut body = json!({ "account": book.reference(*account), "amount": amount(*cents) });
            if let Some(to) = to {
                body["to"] = book.reference(*to).into();
            }
            body
        }
        Op::Capture { hold, cents } => {
            let mut body = json!({ "hold": book.hold(*hold) });
            if let Some(cents) = cents {
                body["amount"] = amount(*cents).into();
            }
            body
        }
        Op::Void { hold } => json!({ "hold": book.hold(*hold) }),
        Op::Read { .. } | Op::Protect { .. } | Op::Batch { .. } => {
            unreachable!("{op} has no body of this kind")
        }
    }
}

/// An item of a batch.
fn typed_item(op: &Op, book: &Book) -> Value {
    let name = match op {
        Op::Open { .. } => "open",
        Op::Deposit { .. } => "deposit",
        Op::Withdraw { .. } => "withdraw",
        Op::Transfer { .. } => "transfer",
        Op::Hold { .. } => "hold",
        Op::Capture { .. } => "capture",
        Op::Void { .. } => "void",
        Op::Read { .. } | Op::Protect { .. } | Op::Batch { .. } => unreachable!("{op} is no item"),
    };
    let mut body = item(op, book);
    body["type"] = name.into();
    body
}

fn transfer(legs: &[Leg], book: &Book) -> Value {
    if let [from, to] = legs
        && from.cents < 0
    {
        let (from, to, cents) = (book.reference(from.account), book.reference(to.account), to.cents);
        return json!({ "from": from, "to": to, "amount": amount(cents) });
    }
    let leg = |leg: &Leg| json!({ "account": book.reference(leg.account), "amount": amount(leg.cents) });
    json!({ "legs": legs.iter().map(leg).collect::<Value>() })
}

fn condition(condition: &Condition, book: &Book) -> Value {
    json!({
        "account": book.reference(condition.account),
        "available_gte": amount(condition.available_gte),
    })
}

/// Whether a reply says that nothing was done and that the same request may be sent again.
pub(crate) fn is_retryable(response: &Response) -> bool {
    !response.status.is_success() && crate::process::json(response)["retryable"] == true
}

/// Reads a reply. All ids of the history have to be known by then.
pub(crate) fn read(op: &Op, response: &Response, book: &Book) -> Output {
    let body = crate::process::json(response);
    if !response.status.is_success() {
        return Output::Refused(refusal(&body));
    }
    match (op, response.headers.get("etag")) {
        // Version 1 shows the version in this header only.
        (Op::Read { account }, Some(tag)) if body["posted"].is_null() => {
            let version = tag.to_str().expect("ASCII").trim_matches('"').parse().expect("a version");
            let posted = cents(&body["balance"]);
            Output::Done(vec![Seen { account: *account, posted, held: None, version: Some(version) }])
        }
        _ => success(op, &body, book),
    }
}

fn success(op: &Op, body: &Value, book: &Book) -> Output {
    match op {
        Op::Open { account, .. } | Op::Read { account } => Output::Done(vec![whole(*account, body)]),
        // On its own it is asked for in version 1, which shows the balance only.
        Op::Deposit { account, .. } | Op::Withdraw { account, .. } if body["accounts"].is_null() => {
            Output::Done(vec![Seen {
                account: *account,
                posted: cents(&body["balance"]),
                held: None,
                version: body["version"].as_u64(),
            }])
        }
        Op::Deposit { .. }
        | Op::Withdraw { .. }
        | Op::Transfer { .. }
        | Op::Hold { .. }
        | Op::Capture { .. }
        | Op::Void { .. } => {
            let accounts = body["accounts"].as_array().unwrap_or_else(|| panic!("no accounts in {body}"));
            Output::Done(accounts.iter().map(|value| after(book.account(value), value)).collect())
        }
        Op::Protect { .. } => Output::Done(vec![]),
        Op::Batch { items, .. } => {
            let results = results(body);
            assert_eq!(items.len(), results.len(), "one result an item: {body}");
            if let Op::Batch { atomic: true, .. } = op
                && let Some(refused) =
                    results.iter().find(|result| !succeeded(result) && was_attempted(result))
            {
                assert!(!results.iter().any(succeeded), "all or nothing: {body}");
                return Output::Refused(refusal(refused));
            }
            let output = |(item, result): (&Op, &Value)| match succeeded(result) {
                true => success(item, &result["result"], book),
                false => Output::Refused(refusal(result)),
            };
            Output::Items(items.iter().zip(results).map(output).collect())
        }
    }
}

/// An account as version 2 shows it. What it has available is what is posted and not held, and its limit.
fn whole(account: AccountNumber, body: &Value) -> Seen {
    let (posted, held) = (cents(&body["posted"]), cents(&body["held"]));
    assert_eq!(cents(&body["available"]), posted - held + cents(&body["overdraft_limit"]), "{body}");
    Seen { account, posted, held: Some(held), version: Some(body["version"].as_u64().expect("a version")) }
}

/// An account as the reply to a change shows it.
fn after(account: AccountNumber, value: &Value) -> Seen {
    Seen {
        account,
        posted: cents(&value["posted"]),
        held: value.get("held").map(cents),
        version: Some(value["version"].as_u64().expect("a version")),
    }
}

fn results(body: &Value) -> &[Value] {
    body["results"].as_array().unwrap_or_else(|| panic!("no results in {body}"))
}

fn succeeded(result: &Value) -> bool {
    result["status"].as_u64().is_some_and(|status| (200..300).contains(&status))
}

/// Whether an item was looked at; else another one is why it was not done.
fn was_attempted(result: &Value) -> bool {
    result["problem"]["code"] != "not-attempted"
}

fn refusal(problem: &Value) -> Refusal {
    let problem = if problem["problem"].is_object() { &problem["problem"] } else { problem };
    match problem["code"].as_str() {
        Some("account-exists") => Refusal::AccountExists,
        Some("account-not-found") => Refusal::AccountNotFound,
        Some("insufficient-funds") => {
            Refusal::InsufficientFunds { available: problem.get("available").map(cents) }
        }
        Some("condition-not-met") => Refusal::ConditionFailed,
        Some("hold-not-found") => Refusal::HoldNotFound,
        Some("hold-ended") => Refusal::HoldSettled,
        Some("link-cycle" | "link-chain-too-long" | "links-exhausted") => Refusal::NotProtected,
        Some("hold-exceeded") => Refusal::CaptureTooLarge,
        _ => panic!("not a refusal that the model has: {problem}"),
    }
}
