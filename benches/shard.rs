//! A shard's threads without HTTP: deposits with so many requests in flight, over a journal in memory and the one
//! on disk; against a thread behind the same channels that answers at once, or after a `pwrite` and `fdatasync`
//! of 64 bytes a request for all that had come.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use support::{Arena, BareFile, Feed, LEDGER, dollars, name, opening, rules, shard, sized, timed};
use teller::clock;
use teller::ledger::{AccountName, AccountRef, Command, Ledger, Target};
use teller::progress::Progress;
use teller::random::Random;
use teller::shard::request::{Reply, Request};
use teller::shard::worker::{Network, ShardThreads};
use teller::storage::journal::record::LogPosition;
use teller::storage::journal::{Journal, JournalOptions, MemoryJournal};
use teller::storage::log::{ShardFiles, recover};
use teller::storage::manifest::{Birth, DataDirectory};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const ACCOUNTS: usize = 1000;
const IN_FLIGHT: [usize; 4] = [1, 16, 256, 1024];

fn main() {
    let mut arena = Arena::new();
    let feed = Feed::new(ACCOUNTS, |_, _| {});
    let mut start = LogPosition::genesis(LEDGER, shard());
    start.last = feed.ledger.last();
    let memory = start_shard(feed.ledger, MemoryJournal::new(shard(), start));
    duels(&mut arena, "in memory", &memory, &Echo::start(None));
    memory.stop().expect("memory does not fail");

    let directory = tempfile::tempdir().expect("a directory");
    let birth = Birth { shards: 1, ledger: LEDGER, created: clock::now() };
    let data = DataDirectory::open(&directory.path().join("ledger"), None, &birth).expect("a new ledger");
    let files = ShardFiles::new(&data, shard());
    let recovered = recover(&files, JournalOptions::default(), &Progress::new("bench", "events", None))
        .expect("recovered");
    let disk = start_shard(recovered.ledger, recovered.journal);
    open_accounts(&disk);
    let bare = BareFile::create(&directory.path().join("bare"));
    duels(&mut arena, "on disk", &disk, &Echo::start(Some(bare)));
    disk.stop().expect("the disk works");
    arena.finish();
}

fn start_shard<J: Journal + 'static>(ledger: Ledger, journal: J) -> ShardThreads<J> {
    ShardThreads::start(
        shard(),
        ledger,
        rules(),
        journal,
        clock::now,
        Arc::new(|_, error| {
            eprintln!("{error}");
            std::process::abort();
        }),
        &mut Network::new(1),
    )
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn open_accounts<J: Journal + 'static>(threads: &ShardThreads<J>) {
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for number in 0..ACCOUNTS {
            let handle = threads.handle().clone();
            tasks.spawn(async move { handle.ask(execute(opening(number))).await.expect("it answers") });
        }
        while tasks.join_next().await.is_some() {}
    });
}

fn execute(command: Command) -> Request {
    Request::Execute { command, key: None, request_id: "0123456789abcdef".into() }
}

fn duels<J: Journal + 'static>(arena: &mut Arena, group: &str, threads: &ShardThreads<J>, echo: &Echo) {
    let runtime = runtime();
    let names: Arc<[AccountName]> = (0..ACCOUNTS).map(name).collect();
    for in_flight in sized(&IN_FLIGHT[..], &IN_FLIGHT[..2]) {
        // Every client waits for its reply before it asks again, so an iteration is a request of each.
        arena.duel(
            group,
            &format!("{in_flight} in flight"),
            *in_flight as u64,
            |count| {
                let clients = (0..*in_flight).map(|client| {
                    let (handle, names) = (threads.handle().clone(), Arc::clone(&names));
                    async move {
                        let mut random = Random::new(client as u64);
                        for _ in 0..count {
                            let account =
                                AccountRef::Name(names[random.below(ACCOUNTS as u64) as usize].clone());
                            let target = Target { account, version: None };
                            let reply = handle
                                .ask(execute(Command::Deposit { target, amount: dollars("0.01") }))
                                .await;
                            assert!(matches!(reply, Ok(Reply::Executed { .. })), "{reply:?}");
                        }
                    }
                });
                race(&runtime, clients)
            },
            |count| {
                let clients = (0..*in_flight).map(|_| {
                    let requests = echo.requests.clone();
                    async move {
                        for _ in 0..count {
                            let (to, reply) = oneshot::channel();
                            requests.send(to).expect("the echo lives");
                            reply.await.expect("it answers");
                        }
                    }
                });
                race(&runtime, clients)
            },
        );
    }
}

fn race<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    clients: impl Iterator<Item = F>,
) -> Duration {
    let clients: Vec<F> = clients.collect();
    timed(|| {
        runtime.block_on(async {
            let mut tasks: JoinSet<()> = clients.into_iter().collect();
            while let Some(done) = tasks.join_next().await {
                done.expect("a client does not panic");
            }
        });
    })
}

/// The reference: a thread behind the same kind of channels.
struct Echo {
    requests: Sender<oneshot::Sender<()>>,
}

impl Echo {
    fn start(file: Option<BareFile>) -> Echo {
        let (requests, inbox) = bounded(4096);
        thread::spawn(move || echo(&inbox, file));
        Echo { requests }
    }
}

fn echo(inbox: &Receiver<oneshot::Sender<()>>, mut file: Option<BareFile>) {
    const BYTES: usize = 64;
    while let Ok(first) = inbox.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(inbox.try_iter().take(1023)).collect();
        if let Some(file) = &mut file {
            file.commit(&vec![7; BYTES * batch.len()]);
        }
        for to in batch {
            let _ = to.send(());
        }
    }
}
