//! Events: what readers see of what happens, in which order, exactly once, page by page and live.

mod process;
mod support;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use process::{DataDir, TIME_MAX};
use serde_json::Value;
use support::{MemoryBank, Service, in_time};
use teller::bank::events::{EventFilter, HORIZON_TIME_MAX, Happened, Position};
use teller::bank::{
    AccountSelector, Bank, BankShard, BatchItem, BatchItems, BatchResult, KeyHome, Origin, Readers,
};
use teller::http::Limits;
use teller::ledger::operation::{Opening, Operation, Sum};
use teller::ledger::{
    AccountName, Amount, Currency, Direction, Ledger, Metadata, Note, OverdraftDefault, Quantity, ShardId,
    TransactionType,
};
use teller::shard::batch::ShardRules;
use teller::shard::worker::{Network, ShardThreads};
use teller::storage::StorageError;
use teller::storage::journal::record::LogPosition;
use teller::storage::journal::{Journal, MemoryJournal};

/// One event of a stream, as it came over the wire.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    id: String,
    kind: String,
    data: Value,
}

/// A reader of a stream. It speaks HTTP/1.0, so that what comes is the stream itself and ends with the connection.
struct Reader {
    lines: BufReader<TcpStream>,
    head: String,
    /// The cursor that the service told last, with an event or without.
    id: String,
    /// How often it told one without an event.
    heartbeats: usize,
}

impl Reader {
    fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> Reader {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(TIME_MAX)).expect("a time limit");
        let mut request = format!("GET {path} HTTP/1.0\r\nhost: teller\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).expect("it reads");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        Reader { lines, head, id: String::new(), heartbeats: 0 }
    }

    /// Goes on behind a cursor.
    fn resume(address: &str, path: &str, id: &str) -> Reader {
        Reader::open(address, path, &[("last-event-id", id)])
    }

    /// What comes next: an event, `Err` for a heartbeat, and nothing at the end. What was cut off does not count.
    fn next(&mut self) -> Option<Result<Told, ()>> {
        let (mut kind, mut data) = (String::new(), String::new());
        let mut id = None;
        loop {
            let mut line = String::new();
            unless_gone(self.lines.read_line(&mut line))?;
            if !line.ends_with('\n') {
                return None;
            }
            match line.trim_end_matches('\n').split_once(':') {
                Some(("id", value)) => id = Some(value.trim().to_owned()),
                Some(("event", value)) => kind = value.trim().to_owned(),
                Some(("data", value)) => data = value.trim().to_owned(),
                Some(("" | "retry", _)) => {}
                None if line == "\n" => break,
                _ => panic!("{line:?}"),
            }
        }
        self.id = id.expect("everything has a cursor");
        if data.is_empty() {
            self.heartbeats += 1;
            return Some(Err(()));
        }
        let data = serde_json::from_str(&data).expect("JSON");
        Some(Ok(Told { id: self.id.clone(), kind, data }))
    }

    fn next_event(&mut self) -> Option<Told> {
        loop {
            if let Ok(told) = self.next()? {
                return Some(told);
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<Told> {
        (0..count).map(|_| self.next_event().expect("it goes on")).collect()
    }

    fn until_end(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.next_event()).collect()
    }
}

/// What was read, or nothing if the server has gone. One that is there and silent fails the test.
fn unless_gone(read: io::Result<usize>) -> Option<usize> {
    let is_silent = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!read.as_ref().is_err_and(is_silent), "nothing came within {TIME_MAX:?}");
    read.ok()
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Told>) -> Vec<String> {
    events.into_iter().map(|told| told.data["id"].as_str().expect("an id").to_owned()).collect()
}

/// Each event once, each account version after version.
fn assert_in_order<'a>(events: impl IntoIterator<Item = &'a Value>) {
    let mut seen = HashSet::new();
    let mut versions = BTreeMap::<String, u64>::new();
    let mut time = String::new();
    for event in events {
        assert!(seen.insert(event["id"].to_string()), "twice: {event}");
        let created = event["created"].as_str().expect("a time").to_owned();
        assert!(created >= time, "{event} before {time}");
        time = created;
        for side in event["accounts"].as_array().expect("a list") {
            let version = versions.entry(side["account_id"].to_string()).or_default();
            assert_eq!(side["version"], *version + 1, "{event}");
            *version += 1;
        }
    }
}

fn origin() -> Origin {
    Origin { key: None, request_id: "r".into() }
}

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("valid")
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text, teller::ledger::ExcessDecimals::Refuse).expect("valid")
}

async fn open(bank: &Bank, text: &str) {
    let limit = Some(quantity("1000000"));
    let opening = Opening::plain(name(text), Currency::USD, limit);
    in_time("an account", bank.open(opening, origin())).await.expect("opened");
}

async fn deposit(bank: &Bank, text: &str) {
    let account = AccountSelector::Name(name(text));
    let deposit = bank.post(account, None, Direction::Deposit, quantity("1"), origin());
    in_time("a deposit", deposit).await.expect("deposited");
}

fn transfer_of_one(bank: &Bank, from: &str, to: &str, note: Note) -> Operation {
    let place = |text: &str| bank.place(AccountSelector::Name(name(text)));
    Operation::Transfer { from: place(from), to: place(to), amount: Sum::Exactly(quantity("1")), note }
}

async fn transfer(bank: &Bank, from: &str, to: &str, note: Note) {
    let operation = transfer_of_one(bank, from, to, note);
    let transfer = bank.operate(operation, Vec::new(), KeyHome::Key, false, origin());
    in_time("a transfer", transfer).await.expect("transferred");
}

/// Transfers in one work, decided one behind the other before any shard but one knows of it.
async fn transfers(bank: &Bank, sides: &[(String, String)]) {
    let mut items = BatchItems::default();
    for (from, to) in sides {
        let operation = transfer_of_one(bank, from, to, Note::default());
        items.push(BatchItem { operation, conditions: Vec::new(), key: None }, bank);
    }
    let outcome = in_time("a batch", bank.batch(items, false, true, origin())).await.expect("executed");
    assert!(outcome.results.iter().all(|(_, result)| matches!(result, BatchResult::Done(_))));
}

/// Reads all that there is, in pages.
async fn read_all(bank: &Bank, from: Position, filter: &EventFilter, count: usize) -> Vec<Happened> {
    let filter = Arc::new(filter.clone());
    let mut feed = bank.feed(&from).expect("a position");
    let mut all = Vec::new();
    loop {
        let (back, page) = bank.read_events(feed, &filter, count).await.expect("read");
        assert!(page.events.len() <= count);
        all.extend(page.events);
        if !page.more {
            return all;
        }
        feed = back;
    }
}

/// How many events [`load`] makes.
fn load_events(tasks: usize, each: usize) -> usize {
    let lists = (0..each).filter(|step| step % 4 == 1).count();
    tasks * (each + 2 * lists)
}

/// A load of deposits, transfers and lists of three transfers over all shards by many tasks at once.
async fn load(bank: &Arc<Bank>, accounts: usize, tasks: usize, each: usize) {
    let mut running = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let bank = Arc::clone(bank);
        running.spawn(async move {
            for step in 0..each {
                let from = (task * 7 + step * 3) % accounts;
                let name = |number: usize| format!("a{}", number % accounts);
                let to = name(from + 1 + step % (accounts - 1));
                let from = name(from);
                match step % 4 {
                    0 => deposit(&bank, &from).await,
                    1 => {
                        let third = name(task + step);
                        let second = if third == from { to.clone() } else { third };
                        let sides = [(from.clone(), to.clone()), (from.clone(), second), (to, from)];
                        transfers(&bank, &sides).await;
                    }
                    _ => transfer(&bank, &from, &to, Note::default()).await,
                }
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("no task panics");
    }
}

/// What is checked of a whole history that was read: each event once, and no account's version before the one
/// before it, whatever shards had a part in it.
fn assert_order_of(events: &[Happened]) {
    let mut seen = HashSet::new();
    let mut versions = BTreeMap::new();
    for event in events {
        assert!(seen.insert(event.executed.id), "twice");
        for (shard, effect) in event.executed.decision.effects() {
            let version = versions.entry((shard, effect.account)).or_insert(0);
            assert_eq!(effect.after.version, *version + 1, "{event:?}");
            *version += 1;
        }
    }
    assert!(events.windows(2).all(|pair| pair[0].executed.id.time <= pair[1].executed.id.time));
}

/// Whoever reads while it happens, by pages of whatever size, or afterwards, sees the same events in the same order,
/// in which nothing comes before what it depends on, though most of it is decided in the same milliseconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_readers_see_one_order() {
    let memory = MemoryBank::start(4);
    let bank = Arc::clone(&memory.bank);
    for account in 0..12 {
        open(&bank, &format!("a{account}")).await;
    }
    let all = EventFilter::default();
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for count in [1, 7, 1000] {
        let (bank, done, all) = (Arc::clone(&bank), Arc::clone(&done), all.clone());
        readers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut position = bank.beginning();
            loop {
                let last = done.load(Ordering::SeqCst);
                // Each time from the position only, as a client does that comes back.
                let events = read_all(&bank, position, &all, count).await;
                seen.extend(events);
                position = seen.last().map_or(bank.beginning(), |event: &Happened| event.after.clone());
                if last {
                    return seen;
                }
            }
        }));
    }
    load(&bank, 12, 16, 150).await;
    done.store(true, Ordering::SeqCst);
    let whole = read_all(&bank, bank.beginning(), &all, 1000).await;
    assert_eq!(whole.len(), 12 + load_events(16, 150));
    assert_order_of(&whole);
    let across = whole.iter().filter(|event| event.executed.decision.parts.len() > 1).count();
    assert!(across > 500, "only {across} events had parts in several shards");
    let ids = |events: &[Happened]| -> Vec<_> { events.iter().map(|event| event.executed.id).collect() };
    for reader in readers {
        assert_eq!(ids(&reader.await.expect("no reader panics")), ids(&whole));
    }
    // From any position the rest is the rest.
    for place in [0, 1, 500, 1111, whole.len() - 1] {
        let rest = read_all(&bank, whole[place].after.clone(), &all, 300).await;
        assert_eq!(ids(&rest), ids(&whole[place + 1..]));
    }
    memory.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_only_leave_out() {
    let memory = MemoryBank::start(3);
    let bank = Arc::clone(&memory.bank);
    for account in 0..6 {
        open(&bank, &format!("a{account}")).await;
    }
    load(&bank, 6, 4, 100).await;
    let whole = read_all(&bank, bank.beginning(), &EventFilter::default(), 1000).await;
    let account = bank.account(AccountSelector::Name(name("a3"))).await.expect("it is there").id;
    let concerns = |event: &Happened| {
        event.executed.decision.effects().any(|(shard, effect)| effect.account_id(shard) == account)
    };
    let kind = |event: &Happened| TransactionType::of(&event.executed.decision.kind).expect("an event");
    for (filter, expected) in [
        (
            EventFilter { accounts: vec![account], kinds: Vec::new() },
            whole.iter().filter(|event| concerns(event)).cloned().collect::<Vec<_>>(),
        ),
        (
            EventFilter { accounts: Vec::new(), kinds: vec![TransactionType::Transfer] },
            whole.iter().filter(|event| kind(event) == TransactionType::Transfer).cloned().collect(),
        ),
        (
            EventFilter {
                accounts: vec![account],
                kinds: vec![TransactionType::Opening, TransactionType::Deposit],
            },
            whole
                .iter()
                .filter(|event| concerns(event) && kind(event) != TransactionType::Transfer)
                .cloned()
                .collect(),
        ),
        (EventFilter { accounts: Vec::new(), kinds: vec![TransactionType::Expiry] }, Vec::new()),
    ] {
        let found = read_all(&bank, bank.beginning(), &filter, 10).await;
        let id = |event: &Happened| event.executed.clone();
        assert_eq!(found.iter().map(id).collect::<Vec<_>>(), expected.iter().map(id).collect::<Vec<_>>());
    }
    memory.stop();
}

/// A journal whose syncs wait while it is held.
struct HeldJournal {
    journal: MemoryJournal,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Journal for HeldJournal {
    fn position(&self) -> LogPosition {
        self.journal.position()
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        self.journal.append(record)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let (held, released) = &*self.held;
        released.wait_while(&mut held.lock(), |held| *held);
        self.journal.sync()
    }

    fn roll(&mut self) -> Result<(), StorageError> {
        self.journal.roll()
    }
}

/// Waits until the log of the first shard has something behind this, durable or not.
async fn in_log(bank: &Bank, passed: &Position) {
    let next = passed.passed()[0].next();
    in_time("it is in the log", async {
        while bank.shards()[0].log.record(next).expect("readable").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// P1: an event that is not durable is not shown, though it is decided, and in the log already; and what comes after it
/// in another shard waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_that_is_not_durable() {
    let rules = ShardRules {
        overdraft: OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO },
        key_retention_ms: 1000,
        keys_max: 100,
    };
    let mut network = Network::new(2);
    let mut gates = Vec::new();
    let (threads, ways): (Vec<_>, Vec<_>) = (0..2)
        .map(|index| {
            let id = ShardId::new(index).expect("in range");
            let journal = MemoryJournal::new(id, LogPosition::genesis(uuid::Uuid::nil(), id));
            let log = Arc::new(journal.reader());
            let held = Arc::new((Mutex::new(false), Condvar::new()));
            gates.push(Arc::clone(&held));
            let threads = ShardThreads::start(
                id,
                Ledger::new(id),
                rules,
                HeldJournal { journal, held },
                teller::clock::now,
                Arc::new(|_, error| panic!("{error}")),
                &mut network,
            );
            let handle = threads.handle().clone();
            (threads, BankShard { handle, log })
        })
        .unzip();
    let bank = Arc::new(Bank::new(ways, rules.overdraft, Readers::start().expect("threads")));
    // An account in each shard.
    let mut accounts = BTreeMap::new();
    for number in 0.. {
        let text = format!("a{number}");
        open(&bank, &text).await;
        let id = bank.account(AccountSelector::Name(name(&text))).await.expect("opened").id;
        accounts.entry(id.shard.index()).or_insert(text);
        if accounts.len() == 2 {
            break;
        }
    }
    let start = bank.present();
    let all = Arc::new(EventFilter::default());
    let set = |shard: usize, held: bool| {
        let gate: &(Mutex<bool>, Condvar) = &gates[shard];
        *gate.0.lock() = held;
        gate.1.notify_all();
    };

    set(0, true);
    let waiting = tokio::spawn({
        let (bank, account) = (Arc::clone(&bank), accounts[&0].clone());
        async move { deposit(&bank, &account).await }
    });
    in_log(&bank, &start).await;
    let shown = in_time("it waits for nothing", read_all(&bank, start.clone(), &all, 10)).await;
    assert!(shown.is_empty());
    // Later, in the other shard: it waits for what may still come before it.
    tokio::time::sleep(Duration::from_millis(5)).await;
    deposit(&bank, &accounts[&1]).await;
    let (second, third) = (Arc::clone(&bank), Arc::clone(&all));
    let from = start.clone();
    let began = Instant::now();
    let reading = tokio::spawn(async move { read_all(&second, from, &third, 10).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // On a machine that is so busy that the reader's patience has ended, it may have gone on alone, as below.
    let is_late = || began.elapsed() >= HORIZON_TIME_MAX;
    assert!((!reading.is_finished() || is_late()) && !waiting.is_finished());
    set(0, false);
    let shown = in_time("what was held is shown", reading).await.expect("it reads");
    let shards: Vec<_> = shown.iter().map(|event| event.executed.id.shard.index()).collect();
    assert!(shards == [0, 1] || is_late(), "{shards:?}");
    in_time("it is durable", waiting).await.expect("it is told");

    // A shard that does not come to an end with a commit holds the others up for a while, and not for ever; what it
    // holds comes when it is durable.
    let start = bank.present();
    set(0, true);
    let waiting = tokio::spawn({
        let (bank, account) = (Arc::clone(&bank), accounts[&0].clone());
        async move { deposit(&bank, &account).await }
    });
    in_log(&bank, &start).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // The currency of the other's accounts is known already, so nobody else is asked.
    deposit(&bank, &accounts[&1]).await;
    let shown = in_time("the other is shown", read_all(&bank, start, &all, 10)).await;
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].executed.id.shard.index(), 1);
    set(0, false);
    in_time("it is durable", waiting).await.expect("it is told");
    let rest = read_all(&bank, shown[0].after.clone(), &all, 10).await;
    assert_eq!(rest.iter().map(|event| event.executed.id.shard.index()).collect::<Vec<_>>(), [0]);

    drop(bank);
    threads.iter().for_each(ShardThreads::ask_to_stop);
    for thread in threads {
        thread.stop().expect("a journal in memory does not fail");
    }
}

/// A service with a load on it, for readers over HTTP.
async fn served(limits: Limits) -> (Service, Arc<Bank>) {
    let memory = MemoryBank::start(3);
    let bank = Arc::clone(&memory.bank);
    for account in 0..6 {
        open(&bank, &format!("a{account}")).await;
    }
    (Service::over(memory, limits).await, bank)
}

/// All events in pages of `limit`, over HTTP.
async fn pages(service: &Service, query: &str, limit: usize) -> Vec<Value> {
    let mut path = format!("/v2/events?limit={limit}{query}");
    let mut all = Vec::new();
    loop {
        let reply = service.get(&path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("cache-control"), "no-store");
        let page = reply.json();
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= limit);
        assert_eq!(page["count"], items.len());
        all.extend_from_slice(items);
        let next = page["_links"]["next"]["href"].as_str().expect("there is always a next page");
        assert_eq!(reply.header("link"), format!("<{next}>; rel=\"next\""));
        assert!(next.ends_with(&format!("&after={}", page["next"].as_str().expect("a cursor"))));
        if page["more"] == false {
            return all;
        }
        path = next.to_owned();
    }
}

/// What makes an event of 5 KB.
fn long_note() -> Note {
    let text = "x".repeat(256);
    let entries = (0..16).map(|number| (format!("k{number}").into(), text.as_str().into())).collect();
    Note { reference: None, metadata: Metadata::new(entries).expect("in bounds") }
}

fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_tells_what_pages_tell_as_it_happens() {
    let (service, bank) = served(Limits::default()).await;
    let address = service.address.to_string();
    let mut live = Reader::open(&address, "/v2/events", &[]);
    assert!(live.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", live.head);
    assert!(live.head.contains("content-type: text/event-stream\r\n"), "{}", live.head);
    assert!(live.head.contains("cache-control: no-store\r\n"), "{}", live.head);
    let mut from_now = Reader::open(&address, "/v2/events?after=now", &[]);
    assert_eq!(from_now.next(), Some(Err(())), "it learns at once where it is");
    let listening = tokio::task::spawn_blocking(move || (live.take(6 + load_events(8, 60)), live));
    load(&bank, 6, 8, 60).await;
    let (told, mut live) = listening.await.expect("it listens");
    assert_in_order(told.iter().map(|told| &told.data));
    assert!(told.iter().all(|told| told.data["type"] == *told.kind));

    // Pages say the same, and so does a stream from the beginning or from anywhere.
    for limit in [13, 1000] {
        assert_eq!(
            pages(&service, "", limit).await,
            told.iter().map(|told| told.data.clone()).collect::<Vec<_>>()
        );
    }
    blocking(|| {
        for place in [0, 100, told.len() - 21] {
            let mut reader = Reader::resume(&address, "/v2/events?limit=20", &told[place].id);
            assert_eq!(reader.until_end(), told[place + 1..place + 21]);
        }
        // All but the openings, which came before; at one moment the shard decides which event is shown first.
        let since: Vec<_> = told.iter().filter(|told| told.kind != "opening").cloned().collect();
        assert_eq!(ids(&from_now.take(load_events(8, 60))), ids(&since));
        // A browser comes back to the address that it began with.
        let path = format!("/v2/events?after={}", told[3].id);
        assert_eq!(Reader::resume(&address, &path, &told[40].id).take(2), told[41..43]);
        let filtered =
            Reader::open(&address, "/v2/events?types=opening&limit=6&account=name:a1,name:a2", &[]).take(2);
        assert!(filtered.iter().all(|told| told.kind == "opening"));
    });
    assert_eq!(pages(&service, "&types=opening&types=deposit&account=name:a1", 50).await.len(), {
        let opened = &bank.account(AccountSelector::Name(name("a1"))).await.expect("it is there").id;
        let id = opened.to_uuid().to_string();
        let concerns =
            |told: &&Told| told.data["accounts"][0]["account_id"] == *id && told.kind != "transfer";
        told.iter().filter(concerns).count()
    });

    // What comes later is told too, and the cursor of a page that has nothing new goes on there.
    let empty = service.get("/v2/events?after=now").await.json();
    assert_eq!((empty["count"].as_u64(), empty["more"].as_bool()), (Some(0), Some(false)));
    deposit(&bank, "a5").await;
    let page = service.get(empty["_links"]["next"]["href"].as_str().expect("a link")).await.json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(blocking(|| live.next_event()).expect("it goes on").data, page["items"][0]);
    let read = service.get(page["items"][0]["_links"]["self"]["href"].as_str().expect("a link")).await;
    assert_eq!((read.status.as_u16(), &read.json()["id"]), (200, &page["items"][0]["id"]));

    let metrics = service.get("/metrics").await.text().to_owned();
    assert!(metrics.contains("teller_http_stream_events_total "), "{metrics}");
    drop((live, from_now));
    let until = Instant::now() + TIME_MAX;
    while !service.get("/metrics").await.text().contains("\nteller_http_streams 0\n") {
        assert!(Instant::now() < until, "streams stay open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(bank);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_says_that_it_is_there_and_where() {
    let limits = Limits { stream_heartbeat: Duration::from_millis(20), ..Limits::default() };
    let (service, bank) = served(limits).await;
    let mut reader = Reader::open(&service.address.to_string(), "/v2/events?types=deposit", &[]);
    let first = blocking(|| {
        assert_eq!(reader.next(), Some(Err(())));
        let first = reader.id.clone();
        // Six openings are passed that it does not want to hear of.
        while reader.id == first {
            assert_eq!(reader.next(), Some(Err(())));
        }
        first
    });
    assert_ne!(reader.id, first);
    deposit(&bank, "a1").await;
    blocking(|| while !matches!(reader.next(), Some(Ok(_))) {});
    blocking(|| assert_eq!(reader.next(), Some(Err(()))));
    drop((bank, reader));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_and_end_with_the_service() {
    let limits = Limits { streams_max: 2, drain_time_max: Duration::from_secs(600), ..Limits::default() };
    let (service, bank) = served(limits).await;
    let address = service.address.to_string();
    let mut first = Reader::open(&address, "/v2/events", &[]);
    let second = Reader::open(&address, "/v2/events", &[]);
    let refused = service.send("GET", "/v2/events", &[("accept", "text/event-stream")], "").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "too-many-streams"));
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(service.get("/v2/events").await.status, 200, "pages are read all the same");
    drop(second);
    let until = Instant::now() + TIME_MAX;
    loop {
        let reply = service.send("HEAD", "/v2/events", &[("accept", "text/event-stream")], "").await;
        if reply.status == 200 {
            assert_eq!(reply.header("content-type"), "text/event-stream");
            assert!(reply.body.is_empty());
            break;
        }
        assert!(Instant::now() < until, "a reader that has gone keeps its place");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The one that is open does not hold the end up: it would for ten minutes.
    blocking(|| assert_eq!(first.take(6).len(), 6));
    drop(bank);
    let stopped = tokio::time::timeout(TIME_MAX, service.stop()).await.expect("it ends");
    assert_eq!(stopped.connections_cut, 0);
    assert_eq!(blocking(|| first.until_end()), []);
}

/// A reader that does not read loses its stream; what it has read is good, and it goes on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_reader_is_dropped_and_resumes() {
    let limits = Limits { stream_stall_time_max: Duration::from_millis(100), ..Limits::default() };
    let (service, bank) = served(limits).await;
    let address = service.address.to_string();
    let mut slow = Reader::open(&address, "/v2/events", &[]);
    // More than the buffers of both sides hold.
    let note = long_note();
    let mut running = tokio::task::JoinSet::new();
    for task in 0..16 {
        let (bank, note) = (Arc::clone(&bank), note.clone());
        running.spawn(async move {
            for step in 0..250 {
                let from = (task + step) % 6;
                transfer(&bank, &format!("a{from}"), &format!("a{}", (from + 1) % 6), note.clone()).await;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("no task panics");
    }
    let until = Instant::now() + TIME_MAX;
    while !service.get("/metrics").await.text().contains("\nteller_http_stream_readers_dropped_total 1\n") {
        assert!(Instant::now() < until, "it is not dropped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = 6 + 16 * 250;
    let told = blocking(|| {
        let mut told = slow.until_end();
        assert!(told.len() < count, "it was told everything");
        while told.len() < count {
            let id = told.last().expect("it was told what its buffers held").id.clone();
            let rest = (count - told.len()).min(1000);
            told.extend(Reader::resume(&address, &format!("/v2/events?limit={rest}"), &id).until_end());
        }
        told
    });
    assert_eq!(told.len(), count);
    assert_in_order(told.iter().map(|told| &told.data));
    drop((bank, slow));
    service.stop().await;
}

/// P7: a hundred events of many kilobytes went out in one piece of megabytes, into a buffer that its connection kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_large_events_comes_in_small_pieces() {
    let (service, bank) = served(Limits::default()).await;
    for _ in 0..60 {
        transfer(&bank, "a0", "a1", long_note()).await;
    }
    let address = service.address.to_string();
    let body = blocking(|| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(TIME_MAX)).expect("a time limit");
        let request = "GET /v2/events?limit=66 HTTP/1.1\r\nhost: teller\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("text, and an end");
        reply.split_once("\r\n\r\n").expect("a head").1.to_owned()
    });
    let (mut rest, mut events) = (body.as_str(), 0);
    loop {
        let (size, behind) = rest.split_once("\r\n").expect("a piece");
        let size = usize::from_str_radix(size, 16).expect("its size");
        assert!(size < 80_000, "a piece of {size} bytes");
        let (piece, behind) = behind.split_at(size);
        events += piece.matches("\ndata: ").count();
        rest = behind.strip_prefix("\r\n").expect("the end of a piece");
        if size == 0 {
            break;
        }
    }
    assert_eq!((events, rest), (66, ""));
    drop(bank);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused() {
    let (service, bank) = served(Limits::default()).await;
    let cursor =
        service.get("/v2/events?limit=3").await.json()["next"].as_str().expect("a cursor").to_owned();
    let other = MemoryBank::start(2);
    let foreign = Service::over(other, Limits::default()).await;
    let of_two = foreign.get("/v2/events").await.json()["next"].as_str().expect("a cursor").to_owned();
    foreign.stop().await;
    let (fresh, _) = served(Limits::default()).await;
    load(&bank, 6, 1, 8).await;
    let ahead = service.get("/v2/events").await.json()["next"].as_str().expect("a cursor").to_owned();
    let json: &[(&str, &str)] = &[];
    let stream: &[(&str, &str)] = &[("accept", "text/event-stream")];
    let with_id = |id| [("accept", "text/event-stream"), ("last-event-id", id)];
    let seventeen = format!("account={}", vec!["name:a1"; 17].join(","));
    for (query, headers, status, code) in [
        ("after=x", json, 400, "invalid-cursor"),
        ("after=", json, 400, "invalid-cursor"),
        (&format!("after={of_two}"), json, 400, "invalid-cursor"),
        (&format!("after={of_two}"), stream, 400, "invalid-cursor"),
        (&format!("after={}", &cursor[1..]), json, 400, "invalid-cursor"),
        (&format!("after={cursor}&after={cursor}"), json, 400, "invalid-parameter"),
        ("", &with_id("x"), 400, "invalid-cursor"),
        ("", &with_id("now"), 400, "invalid-cursor"),
        ("", &[("last-event-id", &*cursor)], 400, "invalid-cursor"),
        ("limit=0", json, 400, "invalid-parameter"),
        ("limit=1001", json, 400, "invalid-parameter"),
        ("limit=+1", stream, 400, "invalid-parameter"),
        ("types=nothing", json, 400, "invalid-parameter"),
        ("types=deposit,", json, 400, "invalid-parameter"),
        ("types=", stream, 400, "invalid-parameter"),
        ("types=refusal", json, 400, "invalid-parameter"),
        ("type=deposit", json, 400, "unknown-parameter"),
        ("account=", json, 400, "invalid-parameter"),
        ("account=a1", json, 400, "invalid-parameter"),
        ("account=name:", json, 400, "invalid-parameter"),
        ("account=name:a1,%zz", json, 400, "invalid-parameter"),
        (&seventeen, json, 400, "invalid-parameter"),
        ("account=name:nobody", json, 404, "account-not-found"),
        ("account=name:a1&account=019aab5e-8c00-8400-8000-000000000000", stream, 404, "account-not-found"),
        ("", &[("accept", "text/html")], 406, "not-acceptable"),
        ("", &[("accept", "application/json;q=0")], 406, "not-acceptable"),
    ] {
        let reply = service.send("GET", &format!("/v2/events?{query}"), headers, "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{query} {headers:?}");
    }
    let reply = fresh.get(&format!("/v2/events?after={ahead}")).await;
    assert_eq!(reply.code(), "invalid-cursor", "it is ahead of that ledger");
    assert_eq!(service.send("POST", "/v2/events", &[], "").await.status, 405);
    let named = service.post("/v2/accounts", r#"{"name": "a, b"}"#).await;
    assert_eq!(named.status, 201);
    let reply = service.get("/v2/events?account=name:a%2C%20b,name:a1&types=opening").await;
    assert_eq!(reply.json()["count"], 2);
    drop(bank);
    fresh.stop().await;
    service.stop().await;
}

/// A comma that came encoded, as from `URLSearchParams`, Python's requests and curl's `--data-urlencode`, was part of a
/// type or an id, which none has; history took it for a comma.
#[tokio::test]
async fn a_list_is_the_same_whether_its_commas_are_encoded_or_not() {
    let (service, bank) = served(Limits::default()).await;
    for name in ["a, b", "c"] {
        assert_eq!(service.post("/v2/accounts", &format!(r#"{{"name": "{name}"}}"#)).await.status, 201);
    }
    let id = |page: &Value| page["id"].as_str().expect("an id").to_owned();
    let a = id(&service.get("/v2/accounts/name:a%2C%20b").await.json());
    let c = id(&service.get("/v2/accounts/name:c").await.json());
    for account in [&a, &c] {
        let deposits = format!("/v2/accounts/{account}/deposits");
        assert_eq!(service.post(&deposits, r#"{"amount": "1"}"#).await.status, 201);
    }
    for (query, count) in [
        ("types=opening%2Cdeposit&account=name:c", 2),
        ("types=opening%2cdeposit,closing&types=linking&account=name:c", 2),
        ("types=deposit%2Cdeposit&account=name:c", 1),
        (&format!("account={a}%2C{c}"), 4),
        (&format!("account={a}%2Cname%3Ac"), 4),
        ("account=name:a%2C%20b", 2),
        ("account=name%3Aa%2C+b", 2),
        ("account=name:a%2C%20b,name:c", 4),
        ("account=name:a%2C%20b&account=name:c", 4),
    ] {
        let page = service.get(&format!("/v2/events?{query}")).await;
        assert_eq!(page.json()["count"], count, "{query}: {}", page.text());
    }
    for (query, count) in [
        ("types=opening,deposit", 2),
        ("types=opening%2Cdeposit", 2),
        ("types=opening&types=deposit", 2),
        ("types=opening%2Cclosing&types=deposit,deposit", 2),
    ] {
        let page = service.get(&format!("/v2/accounts/{c}/transactions?limit=1&{query}")).await.json();
        let next = service.get(page["_links"]["next"]["href"].as_str().expect("a link")).await.json();
        let told = page["count"].as_u64().zip(next["count"].as_u64()).map(|(first, second)| first + second);
        assert_eq!(told, Some(count), "{query}");
    }
    // What stands behind a comma has to be something.
    for query in ["types=deposit%2C", "account=%2C", &format!("account={a}%2C"), "account=name:c,%2C"] {
        assert_eq!(service.get(&format!("/v2/events?{query}")).await.code(), "invalid-parameter", "{query}");
    }
    drop(bank);
    service.stop().await;
}

/// A browser comes back to the address that it began with. When the account in it had been closed meanwhile, it got 404,
/// which it takes for the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_named_account_resumes_after_its_closing() {
    let (service, bank) = served(Limits::default()).await;
    for name in ["a", "b", "c"] {
        assert_eq!(service.post("/v2/accounts", &format!(r#"{{"name": "{name}"}}"#)).await.status, 201);
    }
    let address = service.address.to_string();
    let path = "/v2/events?account=name:a,name:b";
    let told = blocking(|| Reader::open(&address, path, &[]).take(2));
    for name in ["c", "a"] {
        assert_eq!(service.send("DELETE", &format!("/v2/accounts/name:{name}"), &[], "").await.status, 204);
    }
    let rest = blocking(|| Reader::resume(&address, path, &told[0].id).take(2));
    assert_eq!((&rest[0], rest[1].kind.as_str()), (&told[1], "closing"));
    let page = service.get("/v2/events?account=name:a&types=closing").await.json();
    assert_eq!((&page["count"], &page["items"][0]), (&Value::from(1), &rest[1].data));
    let reply = service.get("/v2/events?account=name:a,name:d").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (404, "account-not-found"));
    drop(bank);
    service.stop().await;
}

/// P1, P5: readers that come back with their last id see each event once, over any number of kills of the server, and
/// everything that a client was told of.
#[test]
fn a_reader_misses_nothing_and_gets_nothing_twice_over_kills() {
    let data = DataDir::new();
    let mut told: Vec<Told> = Vec::new();
    let mut acknowledged = HashSet::new();
    for round in 0..4 {
        let mut server = data.serve(&["--shards=3"]);
        let address = server.address().to_owned();
        let id = told.last().map(|told| told.id.clone());
        let reader = std::thread::spawn({
            let address = address.clone();
            move || {
                let mut reader = match id {
                    Some(id) => Reader::resume(&address, "/v2/events", &id),
                    None => Reader::open(&address, "/v2/events", &[]),
                };
                reader.until_end()
            }
        });
        let (tell, hear) = std::sync::mpsc::channel();
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (address, tell) = (address.clone(), tell.clone());
                std::thread::spawn(move || {
                    for step in 0.. {
                        let account = |number: i32| format!("r{round}-c{client}-{number}");
                        let (this, before) = (account(step / 20), account(step / 20 - 1));
                        let (path, body) = match step % 20 {
                            0 => ("/v2/accounts".to_owned(), format!("{{\"name\":\"{this}\"}}")),
                            // Most pairs are in two shards.
                            2.. if step > 20 && step % 2 == 0 => (
                                "/v2/transfers".to_owned(),
                                format!(r#"{{"from":"name:{this}","to":"name:{before}","amount":"0.01"}}"#),
                            ),
                            _ => {
                                (format!("/v2/accounts/name:{this}/deposits"), r#"{"amount":"1"}"#.to_owned())
                            }
                        };
                        let Some(reply) = post_bare(&address, &path, &body) else { return };
                        let id = reply["id"].as_str().expect("an id").to_owned();
                        if step % 20 != 0 {
                            tell.send(id).expect("someone counts");
                        }
                    }
                })
            })
            .collect();
        drop(tell);
        acknowledged.extend((0..300).map(|_| hear.recv_timeout(TIME_MAX).expect("it is answered")));
        server.kill_without_waiting();
        // What was answered before the end, too.
        acknowledged.extend(hear.iter());
        clients.into_iter().for_each(|client| client.join().expect("no client panics"));
        told.extend(reader.join().expect("no reader panics"));
        server.kill();
    }
    let server = data.serve(&["--shards=3"]);
    let client = server.client(1);
    let mut whole = Vec::new();
    let mut path = "/v2/events?limit=1000".to_owned();
    loop {
        let page = process::json(&process::get(&client, &path));
        whole.extend_from_slice(page["items"].as_array().expect("a list"));
        if page["more"] == false {
            break;
        }
        path = page["_links"]["next"]["href"].as_str().expect("a link").to_owned();
    }
    assert_in_order(&whole);
    let rest = whole.len() - told.len();
    let id = told.last().expect("it was told something").id.clone();
    told.extend(Reader::resume(server.address(), "/v2/events", &id).take(rest));
    // The same events, each once. Those that have nothing to do with one another may stand in another order: a shard
    // that is slow to say how far it is, as after a start on a busy machine, is not waited for without end.
    let mut as_streamed: Vec<_> = told.iter().map(|told| told.data.clone()).collect();
    assert_in_order(&as_streamed);
    let by_id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
    as_streamed.sort_by_key(by_id);
    whole.sort_by_key(by_id);
    assert_eq!(as_streamed, whole);
    let known: HashSet<String> = ids(&told).into_iter().collect();
    assert!(acknowledged.len() >= 1200 && acknowledged.is_subset(&known));
    // An open stream does not hold the end up.
    let mut open = Reader::open(server.address(), "/v2/events?after=now", &[]);
    server.stop();
    assert_eq!(open.until_end(), []);
}

/// Posts a body on a connection of its own; nothing if the server has gone.
fn post_bare(address: &str, path: &str, body: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIME_MAX)).expect("a time limit");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: teller\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = Vec::new();
    unless_gone(stream.read_to_end(&mut reply))?;
    let text = String::from_utf8(reply).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 201"), "{text}");
    serde_json::from_str(body).ok()
}
