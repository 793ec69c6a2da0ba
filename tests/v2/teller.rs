//! A server with three shards and a client of it, in the words of the scripts.

use std::cell::OnceCell;
use std::collections::HashMap;

use ::teller::client::{Client, Response};
use ::teller::ledger::AccountName;
use ::teller::router::Router;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::process::{DataDir, Server, TIME_MAX};

const SHARDS: usize = 3;
const FLAGS: &[&str] = &["--shards=3", "--journal-mib=1", "--disk-reserve-mib=0", "--log=warn"];

/// A server, and what it answers.
pub(crate) struct Teller {
    data: DataDir,
    /// None while it starts anew.
    server: Option<Server>,
    client: Client,
    runtime: tokio::runtime::Runtime,
    /// Its OpenAPI document, once a reply was checked against it.
    document: OnceCell<Value>,
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Reply {
    what: String,
    response: Response,
}

impl Teller {
    /// A server over an empty ledger.
    pub(crate) fn start() -> Teller {
        let data = DataDir::new();
        let server = data.serve(FLAGS);
        let client = server.client(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        Teller { data, server: Some(server), client, runtime, document: OnceCell::new() }
    }

    /// A client for another thread.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.client.base().clone(), 1, TIME_MAX)
    }

    /// Ends the server in peace and starts it again.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.server.take().expect("it runs").stop();
        self.serve();
    }

    /// Ends the server as `kill -9` does and starts it again.
    #[track_caller]
    pub(crate) fn crash(&mut self) {
        self.server.take().expect("it runs").kill();
        self.serve();
    }

    fn serve(&mut self) {
        let server = self.data.serve(FLAGS);
        self.client = server.client(1);
        self.server = Some(server);
    }

    /// Ends the server in peace and proves the ledger.
    #[track_caller]
    pub(crate) fn end(mut self) {
        let balance = self.get("/v2/trial-balance").is(200);
        assert_eq!(balance["balanced"], true, "{balance}");
        self.server.take().expect("it runs").stop();
        let proof = self.data.run(&["verify"]).succeeded();
        assert!(proof.contains("is proven"), "{proof}");
    }

    /// Sends a request with these headers. What comes back has to be what the document says.
    #[track_caller]
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(self.client.uri(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a valid request");
        let response = self.runtime.block_on(self.client.send(request));
        let what = format!("{method} {path}");
        let response = response.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        if path != "/openapi.json" {
            let document = self.document.get_or_init(|| self.get("/openapi.json").is(200));
            let Response { status, headers, body } = &response;
            crate::document::check(document, method, path, *status, headers, body);
        }
        Reply { what, response }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[], body.to_string())
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: Value) -> Reply {
        self.send("PUT", path, &[], body.to_string())
    }

    #[track_caller]
    pub(crate) fn patch(&self, path: &str, body: Value) -> Reply {
        self.send("PATCH", path, &[("content-type", "application/merge-patch+json")], body.to_string())
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "")
    }

    /// The same as `post` with an idempotency key.
    #[track_caller]
    pub(crate) fn post_keyed(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send("POST", path, &[("idempotency-key", key)], body.to_string())
    }

    /// Opens an account in a shard that can go below zero by nothing and has so much; gives its reference by name.
    #[track_caller]
    pub(crate) fn open(&self, shard: usize, label: &str, amount: &str) -> String {
        self.open_as(shard, label, amount, json!({}))
    }

    /// The same with further members of the request.
    #[track_caller]
    pub(crate) fn open_as(&self, shard: usize, label: &str, amount: &str, more: Value) -> String {
        let name = name_in(shard, label);
        let mut body = json!({ "name": name, "overdraft_limit": "0" });
        for (member, value) in more.as_object().expect("an object") {
            body[member] = value.clone();
        }
        self.post("/v2/accounts", body).is(201);
        let reference = format!("name:{name}");
        if amount != "0" {
            self.post(&format!("/v2/accounts/{reference}/deposits"), json!({ "amount": amount })).is(201);
        }
        reference
    }

    /// Opens an account in each of these shards with so much in each.
    #[track_caller]
    pub(crate) fn open_each<const N: usize>(&self, accounts: [(usize, &str); N]) -> [String; N] {
        let mut labels = ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter();
        accounts.map(|(shard, amount)| self.open(shard, labels.next().expect("a label"), amount))
    }

    /// An account.
    #[track_caller]
    pub(crate) fn account(&self, reference: &str) -> Value {
        self.get(&format!("/v2/accounts/{reference}")).is(200)
    }

    /// The id of an account.
    #[track_caller]
    pub(crate) fn id(&self, reference: &str) -> String {
        text(&self.account(reference)["id"])
    }

    /// The balances of accounts.
    #[track_caller]
    pub(crate) fn posted<const N: usize>(&self, references: [&String; N]) -> [String; N] {
        references.map(|reference| text(&self.account(reference)["posted"]))
    }

    /// All events of a type. Pages and streams tell the same of them, and so do the transactions themselves, but for who
    /// reversed them; and each account's history says what was changed in the same words.
    #[track_caller]
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let path = format!("/v2/events?types={kind}");
        let page = self.get(&path).is(200);
        let events = page["items"].as_array().expect("a list").clone();
        let path = format!("{path}&limit={}", events.len());
        let stream = self.send("GET", &path, &[("accept", "text/event-stream")], "");
        let data = stream.text().lines().filter_map(|line| line.strip_prefix("data: "));
        let streamed: Vec<Value> = data.map(|data| serde_json::from_str(data).expect("JSON")).collect();
        assert_eq!(streamed, events);
        for event in &events {
            let mut transaction = self.get(&text(&event["_links"]["self"]["href"])).is(200);
            transaction.as_object_mut().expect("an object").remove("reversed_by");
            assert_eq!(transaction, *event);
            for side in event["accounts"].as_array().expect("a list") {
                let path = format!("/v2/accounts/{}/transactions?types={kind}", text(&side["account_id"]));
                let history = self.get(&path).is(200);
                let mut entries = history["items"].as_array().expect("a list").iter();
                let entry = entries.find(|entry| entry["id"] == event["id"]).expect("it is there");
                for member in ["changes", "link"] {
                    assert_eq!(entry.get(member), event.get(member), "{entry}");
                }
            }
        }
        events
    }

    /// Everything that a list of the accounts shows, by id: to be compared.
    #[track_caller]
    pub(crate) fn everything(&self) -> HashMap<String, Value> {
        let page = self.get("/v2/accounts?limit=1000").is(200);
        assert_eq!(page["next"], Value::Null);
        let accounts = page["items"].as_array().expect("a list");
        accounts.iter().map(|account| (text(&account["id"]), account.clone())).collect()
    }
}

impl Reply {
    /// Asserts the status, and gives the body; null if it has none.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.response.status, status, "{}: {}", self.what, self.text());
        if self.response.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.response.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the refusal, and gives the problem.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.is(status);
        assert_eq!(problem["code"], code, "{}: {problem}", self.what);
        assert_eq!(self.header("content-type"), "application/problem+json");
        problem
    }

    /// Asserts the refusal and the one place that it points at.
    #[track_caller]
    pub(crate) fn refused_at(&self, status: u16, code: &str, pointer: &str) -> Value {
        let problem = self.refused(status, code);
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem} points nowhere"));
        let pointers: Vec<_> = errors.iter().map(|error| &error["pointer"]).collect();
        assert_eq!(pointers, [pointer], "{problem}");
        problem
    }

    /// Asserts that this is the same reply as an earlier one, said again.
    #[track_caller]
    pub(crate) fn repeats(&self, first: &Reply) {
        assert_eq!(self.response.status, first.response.status, "{}: {}", self.what, self.text());
        assert_eq!(self.text(), first.text(), "{}", self.what);
        assert_eq!(self.header("location"), first.header("location"), "{}", self.what);
        assert_eq!((first.header("idempotent-replayed"), self.header("idempotent-replayed")), ("", "true"));
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.response.body).expect("UTF-8")
    }
}

/// A name that lies in a shard.
pub(crate) fn name_in(shard: usize, label: &str) -> String {
    let router = Router::new(SHARDS);
    let lies_there =
        |name: &String| router.of_name(&AccountName::parse(name).expect("a name")).index() == shard;
    let names = (0..).map(|number| format!("{label}-{number}"));
    names.into_iter().find(lies_there).expect("a shard has names")
}

/// A text of a body.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// The members of each side of a transaction that a script looks at: amount, posted, held, version.
#[track_caller]
pub(crate) fn sides(transaction: &Value) -> Vec<(String, String, String, u64)> {
    let accounts = transaction["accounts"].as_array().unwrap_or_else(|| panic!("no sides in {transaction}"));
    let side = |side: &Value| {
        let version = side["version"].as_u64().expect("a version");
        (text(&side["amount"]), text(&side["posted"]), text(&side["held"]), version)
    };
    accounts.iter().map(side).collect()
}

/// One side as [`sides`] gives it.
pub(crate) fn side(amount: &str, posted: &str, held: &str, version: u64) -> (String, String, String, u64) {
    (amount.into(), posted.into(), held.into(), version)
}

/// The relations of a resource's links, in order of the alphabet.
#[track_caller]
pub(crate) fn relations(resource: &Value) -> Vec<&str> {
    let links = resource["_links"].as_object().unwrap_or_else(|| panic!("no links in {resource}"));
    let mut names: Vec<_> = links.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
