//! Real transactions through the real program: 24,070 of a Czech bank, which recorded every balance itself.
//!
//! The import is killed, the server is killed under it, the ledger is killed, proven, exported, and imported
//! into another one. At the end of each, every account stands where its amounts add up to, and the 211 accounts
//! in which the bank did not round show every balance that the bank recorded, in turn.

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use process::{DataDir, POLL_INTERVAL, Running, Server, TIME_MAX, cents, get, history, json, program};

const ACCOUNTS: usize = 638;
const EXACT_ACCOUNTS: usize = 211;
const TRANSACTIONS: usize = 24_070;

/// An account of the file.
#[derive(Default)]
struct Recorded {
    /// Amounts in order, withdrawals negative, with the balance that the bank recorded.
    rows: Vec<(i64, i64)>,
    /// Every recorded balance follows from the one before.
    exact: bool,
}

fn sample_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples/berka-1993.csv")
}

/// The file, by account.
fn sample() -> BTreeMap<String, Recorded> {
    let mut accounts: BTreeMap<String, Recorded> = BTreeMap::new();
    for row in csv::Reader::from_path(sample_path()).expect("it is there").deserialize() {
        let row: BTreeMap<String, String> = row.expect("a row");
        let in_cents = |column: &str| cents(&row[column].clone().into());
        let sign = if row["type"] == "deposit" { 1 } else { -1 };
        let account = accounts.entry(row["account"].clone()).or_default();
        account.rows.push((sign * in_cents("amount"), in_cents("bank_balance")));
        account.exact = row["exact"] == "1";
    }
    assert_eq!(accounts.len(), ACCOUNTS);
    assert_eq!(accounts.values().filter(|account| account.exact).count(), EXACT_ACCOUNTS);
    accounts
}

/// Starts `teller import` of a file.
fn start_import(server: &Server, file: &Path) -> Running {
    start_import_to(&server.url(), file, "4")
}

fn start_import_to(url: &str, file: &Path, connections: &str) -> Running {
    let file = file.to_str().expect("UTF-8");
    let arguments =
        ["import", file, "--url", url, "--connections", connections, "--overdraft-limit", "10000"];
    Running::start(program(&arguments))
}

/// A wire to a server that is slow in its direction, so that an import takes long enough to be killed in the middle of
/// it. Returns its URL. Its threads end with their connections.
fn slow_wire(server: &Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let server = server.address().to_owned();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // While the server is away, so is the wire.
            let Ok(far) = TcpStream::connect(&server) else { continue };
            let (near_too, far_too) = (near.try_clone().expect("open"), far.try_clone().expect("open"));
            thread::spawn(move || carry(near, far, WIRE_PAUSE));
            thread::spawn(move || carry(far_too, near_too, Duration::ZERO));
        }
    });
    url
}

/// How long each portion on the slow wire waits: some hundred of them make some seconds.
const WIRE_PAUSE: Duration = Duration::from_millis(10);

fn carry(mut from: TcpStream, mut to: TcpStream, pause: Duration) {
    let mut portion = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut portion) {
        thread::sleep(pause);
        if to.write_all(&portion[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// The account of the file's row with this number, from 1, and the account's version behind it.
fn version_behind(row: usize) -> (String, u64) {
    let rows = csv::Reader::from_path(sample_path()).expect("it is there").into_deserialize();
    let names = rows.map(|row: Result<BTreeMap<String, String>, _>| row.expect("a row")["account"].clone());
    let names: Vec<String> = names.take(row).collect();
    let name = names.last().expect("it has rows").clone();
    let count = names.iter().filter(|other| **other == name).count();
    (name, count as u64 + 1)
}

/// The numbers that the import's summary tells, by line.
fn summary(stdout: &str) -> BTreeMap<&str, &str> {
    stdout.lines().filter_map(|line| line.split_once(' ')).map(|(name, rest)| (name, rest.trim())).collect()
}

/// Waits until the ledger has the file's row with this number; the import must still be under way then.
fn wait_for_row(server: &Server, import: &mut Running, row: usize) {
    let client = server.client(1);
    let (name, version) = version_behind(row);
    let until = Instant::now() + TIME_MAX;
    loop {
        let account = json(&get(&client, &format!("/v2/accounts/name:{name}")));
        assert!(!import.has_ended(), "the import ended by itself");
        if account["version"].as_u64().unwrap_or(0) >= version {
            return;
        }
        assert!(Instant::now() < until, "the import does not get on: {account}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Asserts that the ledger holds the file, nothing less and nothing twice.
fn assert_holds_the_sample(server: &Server, accounts: &BTreeMap<String, Recorded>) {
    let client = server.client(4);
    process::block_on(async {
        let mut transactions = 0;
        let mut total = 0;
        for (name, recorded) in accounts {
            let view = json(&client.get(&format!("/accounts/{name}")).await.expect("a reply"));
            let id = view["id"].as_str().unwrap_or_else(|| panic!("{name:?} is not there: {view}"));
            let entries = history(&client, id, 0, 500).await;
            let amounts: Vec<i64> = entries.iter().map(|entry| entry.cents).collect();
            let expected: Vec<i64> = recorded.rows.iter().map(|(amount, _)| *amount).collect();
            assert_eq!(amounts, expected, "the amounts of {name:?}, in order");
            let sum: i64 = expected.iter().sum();
            assert_eq!(cents(&view["balance"]), sum, "{view}");
            assert_eq!(entries.last().map(|entry| entry.balance), Some(sum), "{name:?}");
            if recorded.exact {
                let balances: Vec<i64> = entries.iter().map(|entry| entry.balance).collect();
                let banks: Vec<i64> = recorded.rows.iter().map(|(_, balance)| *balance).collect();
                assert_eq!(balances, banks, "the bank's own balances of {name:?}");
            }
            transactions += entries.len();
            total += sum;
        }
        assert_eq!(transactions, TRANSACTIONS);
        let balance = json(&client.get("/v2/trial-balance").await.expect("a reply"));
        let line = &balance["currencies"][0];
        assert_eq!(balance["balanced"], true, "{balance}");
        assert_eq!(line["accounts"], ACCOUNTS, "{balance}");
        assert_eq!(cents(&line["world"]), -total, "{balance}");
    });
}

/// Name and balance of every account, as `teller export` prints them.
fn exported_balances(data: &DataDir) -> BTreeMap<String, String> {
    let text = data.run(&["export", "--what=accounts", "--format=csv"]).succeeded();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows = reader.deserialize().map(|row| row.expect("a row"));
    rows.map(|row: BTreeMap<String, String>| (row["name"].clone(), row["balance"].clone())).collect()
}

#[test]
fn the_sample_survives_every_kill_and_every_move() {
    let accounts = sample();
    let data = DataDir::new();
    let flags = &["--shards=2", "--journal-mib=1", "--disk-reserve-mib=0"];
    let mut server = data.serve(flags);

    // The import is killed.
    let wire = slow_wire(&server);
    let mut import = start_import_to(&wire, &sample_path(), "1");
    wait_for_row(&server, &mut import, 6000);
    assert_eq!(import.kill().code, None);

    // Run again, it goes on; the server is killed under it, and comes back at the same address.
    let mut import = start_import_to(&wire, &sample_path(), "1");
    wait_for_row(&server, &mut import, 14_000);
    let port = format!("--port={}", server.address().rsplit(':').next().expect("a port"));
    server.kill();
    assert!(!import.has_ended(), "it waits for the server");
    let arguments: Vec<&str> = ["serve", &port].into_iter().chain(flags.iter().copied()).collect();
    server = Server::launch(data.command(&arguments));
    server.wait_until_ready();
    let ran = import.output();
    let stdout = ran.succeeded();
    let told = summary(&stdout);
    assert!(told["accounts"].starts_with("638 ("), "{stdout}");
    // What the killed import had done is found to be done.
    let parts = |line: &str| -> (u64, u64) {
        let number = |text: &str| text.replace(',', "").parse().expect("a number");
        let (_, rest) = line.split_once('(').expect("details");
        let (applied, rest) = rest.split_once(" applied, ").expect("details");
        (number(applied), number(rest.strip_suffix(" replayed)").expect("details")))
    };
    let (deposits, withdrawals) = (parts(told["deposits"]), parts(told["withdrawals"]));
    assert!(deposits.1 + withdrawals.1 > 0, "{stdout}");
    assert_eq!(deposits.0 + deposits.1 + withdrawals.0 + withdrawals.1, TRANSACTIONS as u64, "{stdout}");
    assert_holds_the_sample(&server, &accounts);

    // Once more: nothing is applied.
    let stdout = start_import(&server, &sample_path()).output().succeeded();
    let told = summary(&stdout);
    assert_eq!(told["accounts"], "638 (0 opened, 638 already there)");
    assert_eq!((parts(told["deposits"]).0, parts(told["withdrawals"]).0), (0, 0), "{stdout}");

    // After a kill -9 of the server, the same.
    server.kill();
    let server = data.serve(flags);
    assert_holds_the_sample(&server, &accounts);
    server.stop();
    let proof = data.run(&["verify"]).succeeded();
    assert!(proof.contains("638 accounts"), "{proof}");

    // Its export makes the same ledger elsewhere, on another number of shards.
    let csv = data.path().join("export.csv");
    let export = data.run(&["export", "--format=csv"]).succeeded();
    assert_eq!(export.lines().count(), TRANSACTIONS + 1);
    fs::write(&csv, export).expect("written");
    let second = DataDir::new();
    let server = second.serve(&["--shards=3", "--disk-reserve-mib=0"]);
    start_import(&server, &csv).output().succeeded();
    assert_holds_the_sample(&server, &accounts);
    server.stop();
    let (balances, moved) = (exported_balances(&data), exported_balances(&second));
    assert_eq!(balances.len(), ACCOUNTS);
    assert_eq!(balances, moved);
    for (name, recorded) in accounts.iter().filter(|(_, recorded)| recorded.exact) {
        let last = recorded.rows.last().expect("an account has rows").1;
        assert_eq!(moved[name], process::amount(last), "the bank's own balance of {name:?}");
    }
    second.run(&["verify"]).succeeded();
}
