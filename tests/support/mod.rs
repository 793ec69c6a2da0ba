//! A whole service in this process, on a port of its own, over journals in memory; and clients for it: one that
//! speaks HTTP properly and one that sends any bytes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

mod document;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use teller::bank::{Bank, BankShard, Brake, Readers};
use teller::cores::Cores;
use teller::http::{Api, Drained, Limits, Threads, serve};
use teller::ledger::{Amount, Currency, Ledger, OverdraftDefault, ShardId, Timestamp};
use teller::shard::batch::ShardRules;
use teller::shard::worker::{Network, ShardThreads};
use teller::storage::journal::record::LogPosition;
use teller::storage::journal::{JournalReader, MemoryJournal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

/// How long anything may take before it counts as hanging. A loaded machine with a debug build stays far below it.
pub const TIME_MAX: Duration = Duration::from_secs(60);

/// Waits for something, but not for ever.
pub async fn in_time<T>(what: &str, waited_for: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(TIME_MAX, waited_for).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {TIME_MAX:?}"))
}

/// All that comes until the other side closes, in order.
pub async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    in_time("an end", stream.read_to_end(&mut bytes)).await.expect("an end in order");
    bytes
}

/// What comes next, behind what has come.
pub async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) {
    assert!(in_time("more", stream.read_buf(bytes)).await.expect("open") > 0, "it is closed");
}

/// The first so many bytes that come.
pub async fn read_first<const COUNT: usize>(stream: &mut TcpStream) -> [u8; COUNT] {
    let mut bytes = [0; COUNT];
    in_time("an answer", stream.read_exact(&mut bytes)).await.expect("it is answered");
    bytes
}

/// A bank over shards whose journals are in memory.
pub struct MemoryBank {
    pub bank: Arc<Bank>,
    pub brake: Brake,
    shards: Vec<ShardThreads<MemoryJournal>>,
}

impl MemoryBank {
    /// So many shards; accounts may be overdrawn by 50.00.
    pub fn start(shards: usize) -> MemoryBank {
        MemoryBank::start_with(shards, 100_000, |log| log)
    }

    /// The same with a bound on the idempotency keys of a shard, and with another reader of its log.
    pub fn start_with(
        shards: usize,
        keys_max: usize,
        read: impl Fn(Arc<dyn JournalReader>) -> Arc<dyn JournalReader>,
    ) -> MemoryBank {
        MemoryBank::start_at(shards, keys_max, read, teller::clock::now)
    }

    /// The same with another clock.
    pub fn start_at(
        shards: usize,
        keys_max: usize,
        read: impl Fn(Arc<dyn JournalReader>) -> Arc<dyn JournalReader>,
        now: fn() -> Timestamp,
    ) -> MemoryBank {
        let rules = ShardRules {
            overdraft: OverdraftDefault {
                currency: Currency::USD,
                limit: Amount::from_minor_units(5000).expect("in range"),
            },
            key_retention_ms: 24 * 60 * 60 * 1000,
            keys_max,
        };
        let mut network = Network::new(shards);
        let start = |index| {
            let id = ShardId::new(index).expect("a few shards");
            let journal = MemoryJournal::new(id, LogPosition::genesis(uuid::Uuid::nil(), id));
            let log = read(Arc::new(journal.reader()));
            let threads = ShardThreads::start(
                id,
                Ledger::new(id),
                rules,
                journal,
                now,
                Arc::new(|shard, error| panic!("the log of shard {shard} failed: {error}")),
                &mut network,
            );
            let handle = threads.handle().clone();
            (threads, BankShard { handle, log })
        };
        let (shards, ways) = (0..shards).map(start).unzip();
        let brake = Brake::default();
        let bank =
            Bank::new(ways, rules.overdraft, Readers::start().expect("threads")).braked_by(brake.clone());
        MemoryBank { bank: Arc::new(bank), brake, shards }
    }

    /// Ends the shards; the bank answers nothing more.
    pub fn stop(self) {
        self.shards.iter().for_each(ShardThreads::ask_to_stop);
        for shard in self.shards {
            shard.stop().expect("a journal in memory does not fail");
        }
    }
}

/// A running service.
pub struct Service {
    pub address: SocketAddr,
    pub api: Arc<Api>,
    pub bank: Option<MemoryBank>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Drained>,
    client: HyperClient<HttpConnector, Full<Bytes>>,
    /// Its OpenAPI document, once a reply was checked against it.
    document: OnceCell<Value>,
}

impl Service {
    /// A service that is ready.
    pub async fn start() -> Service {
        Service::start_with(Limits::default()).await
    }

    /// A service that is ready, with limits of its own.
    pub async fn start_with(limits: Limits) -> Service {
        Service::over(MemoryBank::start(3), limits).await
    }

    /// A service that is ready, over this bank.
    pub async fn over(bank: MemoryBank, limits: Limits) -> Service {
        let mut service = Service::starting(limits).await;
        service.api.ready(Arc::clone(&bank.bank));
        service.bank = Some(bank);
        service
    }

    /// A service that has not recovered yet.
    pub async fn starting(limits: Limits) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let api = Arc::new(Api::new(&limits));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        Service {
            address,
            serving: tokio::spawn(serve(
                listener,
                Arc::clone(&api),
                limits,
                Threads::start(1, Cores::shared()).expect("a thread"),
                shutdown,
            )),
            api,
            bank: None,
            stop,
            client: HyperClient::builder(TokioExecutor::new()).build_http(),
            document: OnceCell::new(),
        }
    }

    /// Stops serving and waits for the end.
    pub async fn stop(self) -> Drained {
        let Service { stop, serving, bank, client, .. } = self;
        drop(client);
        let _ = stop.send(());
        let drained = in_time("it stops", serving).await.expect("serving does not panic");
        if let Some(bank) = bank {
            bank.stop();
        }
        drained
    }

    /// Tells the service to stop, and gives the way to wait for the end.
    pub fn begin_stop(self) -> JoinHandle<Drained> {
        let _ = self.stop.send(());
        self.serving
    }

    /// Sends a request with headers and a body. What comes back has to be what the document says.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let document = self.document.get_or_init(|| async {
            let document = self.send_unchecked("GET", "/openapi.json", &[], "").await;
            document.json()
        });
        let document = document.await;
        let reply = self.send_unchecked(method, path, headers, body).await;
        document::check(document, method, path, reply.status, &reply.headers, &reply.body);
        reply
    }

    async fn send_unchecked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("valid");
        let response = in_time("an answer", self.client.request(request)).await.expect("an answer");
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: in_time("its body", body.collect()).await.expect("a whole body").to_bytes(),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[], body).await
    }

    /// Opens an account and pays into it.
    pub async fn open_with(&self, name: &str, amount: &str) -> Value {
        let opened = self.post("/v2/accounts", &format!("{{\"name\":{}}}", Value::from(name))).await;
        assert_eq!(opened.status, 201, "{opened:?}");
        let path = opened.header("location").to_owned();
        let account = opened.json();
        let id = account["id"].as_str().expect("an id");
        assert_eq!(path, format!("/v2/accounts/{id}"));
        let deposit = format!("/accounts/{name}/deposit");
        let deposited = self.post(&deposit, &format!("{{\"amount\":{amount}}}")).await;
        assert_eq!(deposited.status, 201, "{deposited:?}");
        account
    }

    /// Sends bytes on a connection of their own, closes that direction if `end`, and reads until the service
    /// closes the other.
    pub async fn send_bytes(&self, bytes: &[u8], end: bool) -> Vec<u8> {
        let mut stream = self.connect().await;
        // The service may stop reading before it has everything; what it says then is what counts.
        let _ = stream.write_all(bytes).await;
        if end {
            let _ = stream.shutdown().await;
        }
        let mut reply = Vec::new();
        let _ = in_time("the connection is closed", stream.read_to_end(&mut reply)).await;
        reply
    }

    /// A bare connection.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the service listens")
    }
}

/// What the service answered.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The problem's code, or nothing.
    pub fn code(&self) -> String {
        if self.header("content-type") != "application/problem+json" {
            return String::new();
        }
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["type"], format!("/problems/{}", problem["code"].as_str().expect("a code")));
        problem["code"].as_str().expect("a code").to_owned()
    }

    /// Where the problem's errors are: pointers as they are, parameters behind `?`, headers behind `:`.
    pub fn places(&self) -> Vec<String> {
        let Ok(problem) = serde_json::from_slice::<Value>(&self.body) else {
            return Vec::new();
        };
        let place = |error: &Value| {
            let text = |name: &str| error[name].as_str().map(str::to_owned);
            text("pointer")
                .or_else(|| text("parameter").map(|name| format!("?{name}")))
                .or_else(|| text("header").map(|name| format!(":{name}")))
                .expect("an error says where")
        };
        problem["errors"].as_array().map(|errors| errors.iter().map(place).collect()).unwrap_or_default()
    }

    /// The first reply in what came over a bare connection, and what came behind it.
    pub fn parse(bytes: &[u8]) -> Option<(Reply, &[u8])> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse::<u16>().ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, value.parse().ok()?);
        }
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.to_str().expect("digits").parse().expect("digits"));
        let body = bytes.get(end..end + length)?;
        let reply =
            Reply { status: StatusCode::from_u16(status).ok()?, headers, body: Bytes::copy_from_slice(body) };
        Some((reply, &bytes[end + length..]))
    }
}
