//! The whole service over real sockets, durable deposits and reads of an account, against a bare hyper server
//! that gives the very reply, head and body, that the service gave before.
//!
//! Both servers have a runtime of their own like the real one's. The load has one thread and keeps its
//! connections; each has one request under way.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use support::{Arena, LEDGER, Random, bare, name, rules, sized, timed};
use teller::bank::{Bank, BankShard, Origin};
use teller::clock;
use teller::http::{self, Api, Limits, Threads};
use teller::ledger::operation::Opening;
use teller::ledger::{Currency, SHARDS_MAX, ShardId};
use teller::progress::Progress;
use teller::shard::worker::{Network, ShardThreads};
use teller::storage::journal::JournalOptions;
use teller::storage::log::{ShardFiles, recover};
use teller::storage::manifest::{Birth, DataDirectory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const ACCOUNTS: usize = 1000;
const CONNECTIONS: [usize; 2] = [64, 256];

/// What one iteration does, shared by the connections.
const REQUESTS: usize = 4096;

/// A reply and its head are far smaller.
const REPLY_BYTES_MAX: usize = 4096;

type MakeRequest = fn(usize) -> String;

fn main() {
    let mut arena = Arena::new();
    arena.criterion = arena.criterion.sample_size(10).measurement_time(Duration::from_millis(2000));
    let directory = tempfile::tempdir().expect("a directory");
    let service = runtime();
    let ours = service.block_on(start_service(directory.path()));
    let reference = runtime();
    let load = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kinds: [(&str, MakeRequest); 2] = [("durable deposit", deposit), ("read an account", read)];
    for (group, request) in kinds {
        let reply = load.block_on(async {
            let mut connection = Connection::open(ours, 0).await;
            connection.ask(&request(0)).await;
            connection.reply()
        });
        let bare = reference.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(bare::serve(listener, reply));
            address
        });
        for count in sized(&CONNECTIONS[..], &[2]) {
            let mut to_ours = Load::open(&load, ours, *count, request);
            let mut to_bare = Load::open(&load, bare, *count, request);
            arena.duel(
                group,
                &format!("{count} connections"),
                sized(REQUESTS, 2) as u64,
                |rounds| to_ours.run(&load, rounds),
                |rounds| to_bare.run(&load, rounds),
            );
        }
    }
    arena.finish();
    // The servers end with the process: nothing here asks how they would.
    service.shutdown_background();
    reference.shutdown_background();
}

/// A runtime like the server's.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Starts the service as the server composes it, less what only works in the background.
async fn start_service(path: &Path) -> SocketAddr {
    let shards = std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX);
    let birth = Birth { shards, ledger: LEDGER, created: clock::now() };
    let data = DataDirectory::open(&path.join("ledger"), None, &birth).expect("a new ledger");
    let mut network = Network::new(shards);
    let shards = (0..shards).filter_map(ShardId::new).map(|id| {
        let files = ShardFiles::new(&data, id);
        let progress = Progress::new("bench", "events", None);
        let recovered = recover(&files, JournalOptions::default(), &progress).expect("recovered");
        let threads = ShardThreads::start(
            id,
            recovered.ledger,
            rules(),
            recovered.journal,
            clock::now,
            Arc::new(|_, error| {
                eprintln!("{error}");
                std::process::abort();
            }),
            &mut network,
        );
        BankShard { handle: threads.handle().clone(), log: recovered.log }
    });
    let bank = Arc::new(Bank::new(shards.collect(), rules().overdraft));
    for number in 0..ACCOUNTS {
        let origin = Origin { key: None, request_id: "bench".into() };
        bank.open(Opening::plain(name(number), Currency::USD, None), origin).await.expect("opened");
    }
    let api = Arc::new(Api::new());
    api.ready(bank);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let threads = Threads::start(1).expect("a thread");
    tokio::spawn(http::serve(listener, api, Limits::default(), threads, std::future::pending()));
    address
}

fn deposit(account: usize) -> String {
    let body = r#"{"amount": 1.00}"#;
    format!(
        "POST /accounts/{}/deposit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        &*name(account),
        body.len()
    )
}

fn read(account: usize) -> String {
    format!("GET /accounts/{} HTTP/1.1\r\nhost: localhost\r\n\r\n", &*name(account))
}

/// So many connections to one server, each with one request under way.
struct Load {
    connections: Vec<Connection>,
    requests: Arc<[String]>,
}

impl Load {
    fn open(load: &Runtime, address: SocketAddr, count: usize, request: MakeRequest) -> Load {
        let connections = load.block_on(async {
            let mut connections = Vec::new();
            for index in 0..count {
                connections.push(Connection::open(address, index).await);
            }
            connections
        });
        Load { connections, requests: (0..ACCOUNTS).map(request).collect() }
    }

    fn run(&mut self, load: &Runtime, rounds: u64) -> Duration {
        let each = rounds as usize * sized(REQUESTS, 2) / self.connections.len();
        timed(|| {
            self.connections = load.block_on(async {
                let mut tasks = JoinSet::new();
                for mut connection in self.connections.drain(..) {
                    let requests = Arc::clone(&self.requests);
                    tasks.spawn(async move {
                        for _ in 0..each {
                            let account = connection.random.below(requests.len());
                            connection.ask(&requests[account]).await;
                        }
                        connection
                    });
                }
                tasks.join_all().await
            });
        })
    }
}

struct Connection {
    stream: TcpStream,
    random: Random,
    buffer: Box<[u8; REPLY_BYTES_MAX]>,
    /// The bytes of the last reply's head, and of all of it.
    head: usize,
    filled: usize,
}

impl Connection {
    async fn open(address: SocketAddr, index: usize) -> Connection {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let buffer = Box::new([0; REPLY_BYTES_MAX]);
        Connection { stream, random: Random(index as u64), buffer, head: 0, filled: 0 }
    }

    /// Sends a request and reads all of its reply, which must be a success.
    async fn ask(&mut self, request: &str) {
        self.stream.write_all(request.as_bytes()).await.expect("it reads");
        self.filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[self.filled..]).await.expect("it writes");
            assert!(read > 0, "it keeps the connection");
            self.filled += read;
            let bytes = &self.buffer[..self.filled];
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            self.head = end + 4;
            if self.filled >= self.head + content_length(&bytes[..end]) {
                break;
            }
        }
        let bytes = &self.buffer[..self.filled];
        assert!(bytes.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(bytes));
    }

    /// The last reply, as a server gives it.
    fn reply(&self) -> Response<Bytes> {
        let text = |bytes| std::str::from_utf8(bytes).expect("a reply of text");
        let mut lines = text(&self.buffer[..self.head]).lines();
        let status = lines.next().and_then(|line| line.get(9..12)).expect("a status");
        let mut reply = Response::new(Bytes::copy_from_slice(&self.buffer[self.head..self.filled]));
        *reply.status_mut() = status.parse().expect("a status");
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            let name: HeaderName = name.parse().expect("a header");
            // hyper gives these two itself.
            if name != DATE && name != CONTENT_LENGTH {
                reply.headers_mut().append(name, HeaderValue::from_str(value).expect("a header"));
            }
        }
        reply
    }
}

fn content_length(head: &[u8]) -> usize {
    let name = b"content-length: ";
    let start = head.windows(name.len()).position(|window| window == name).expect("a length") + name.len();
    let digits = head[start..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}
