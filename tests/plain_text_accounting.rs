//! What `teller export --format hledger` and `--format beancount` print, given to hledger and Beancount themselves:
//! they accept it and report our balances.
//!
//! A test that finds its program missing says so, past what catches the output of tests, and passes; with
//! `TELLER_PLAIN_TEXT_ACCOUNTING=required` it fails. To run them all (Debian has the programs):
//!
//! ```sh
//! apt-get install hledger beancount
//! TELLER_PLAIN_TEXT_ACCOUNTING=required cargo test --test plain_text_accounting -- --nocapture
//! ```

mod process;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs, thread};

use hyper::Request;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use process::{DataDir, Ran, Running, cents, post, program, run};
use serde_json::Value;
use teller::client::Client;
use teller::ledger::AccountName;
use teller::router::Router;

/// Names that a program could stumble over; the unit tests have more of them.
const HOSTILE: [&str; 7] = [
    "Assets:World",
    "  two  spaces;  ; type:X, date:1 ",
    "\"quoted\\\" (and) [bracketed]",
    "100% 1000.00 USD @ 2 = 3 | *",
    "-dashed--name-",
    "山田 😀 e\u{301}\u{a0}\u{2028}",
    "007",
];

/// Another program, on a terminal of UTF-8; none if it is not installed and need not be.
fn other_program(name: &str) -> Option<Command> {
    let command = || {
        let mut command = Command::new(name);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    };
    let found = command().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        let required = env::var("TELLER_PLAIN_TEXT_ACCOUNTING").is_ok_and(|text| text == "required");
        assert!(!required, "{name} is not installed (Debian: apt-get install hledger beancount)");
        // A test's `println` is only shown where it fails.
        let _ = writeln!(io::stderr(), "{name} is not installed: its part of a test is SKIPPED");
    }
    found.is_ok().then(command)
}

/// Runs another program, which has to succeed silently.
fn accepts(mut command: Command, arguments: &[&str], file: &Path) {
    command.args(arguments).arg(file);
    let started = Instant::now();
    let told = format!("{command:?}");
    let Ran { code, stdout, stderr } = run(command);
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "", ""), "{told}");
    println!("{told}: {:?}", started.elapsed());
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/export/plain_text/golden").join(name)
}

/// A ledger of three shards with the sample, hostile names, an account without a transaction, and a closed one.
fn ledger() -> DataDir {
    let data = DataDir::new();
    let server = data.serve(&["--shards=3", "--disk-reserve-mib=0"]);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples/berka-1993.csv");
    let sample = sample.to_str().expect("UTF-8");
    let import = program(&["import", sample, "--url", &server.url(), "--overdraft-limit", "10000"]);
    Running::start(import).output().succeeded();
    let client = server.client(1);
    for (index, name) in HOSTILE.iter().enumerate() {
        let opened = post(&client, "/v2/accounts", &format!("{{\"name\":{}}}", Value::from(*name)), None);
        assert_eq!(opened.status, 201, "{opened:?}");
        if index == 0 {
            continue;
        }
        let path = format!("/accounts/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
        let pay = |kind, amount| {
            post(&client, &format!("{path}/{kind}"), &format!("{{\"amount\":{amount}}}"), None)
        };
        assert_eq!(pay("deposit", format!("{index}000.07")).status, 201);
        assert_eq!(pay("withdraw", format!("{index}0.0{index}")).status, 201);
    }
    let opened = post(&client, "/v2/accounts", "{\"name\":\"closed\"}", None);
    assert_eq!(opened.status, 201, "{opened:?}");
    let delete = Request::delete(client.uri("/accounts/closed")).body(Default::default()).expect("a request");
    let closed = process::block_on(client.send(delete)).expect("a reply");
    assert_eq!(closed.status, 204, "{closed:?}");
    server.stop();
    data
}

/// Our balances in cents, by name.
fn balances(data: &DataDir) -> BTreeMap<String, i64> {
    let text = data.run(&["export", "--what=accounts", "--format=ndjson"]).succeeded();
    text.lines()
        .map(|line| {
            let account: Value = serde_json::from_str(line).expect("JSON");
            (account["name"].as_str().expect("a name").to_owned(), cents(&account["balance"]))
        })
        .collect()
}

/// Writes an export to a file.
fn exported(data: &DataDir, format: &str, account: Option<&str>) -> (String, PathBuf) {
    let account = account.map(|name| format!("--account={name}"));
    let mut arguments = vec!["export", "--format", format];
    arguments.extend(account.as_deref());
    let started = Instant::now();
    let text = data.run(&arguments).succeeded();
    println!("export as {format}: {} bytes in {:?}", text.len(), started.elapsed());
    assert_eq!(data.run(&arguments).succeeded(), text, "the same ledger gives the same bytes");
    let path = data.path().join(format!("export.{format}"));
    fs::write(&path, &text).expect("written");
    (text, path)
}

/// The balances in a CSV table of accounts and amounts that another program prints; an empty amount is nothing.
fn table(mut command: Command, arguments: &[&str]) -> Vec<(String, i64)> {
    command.args(arguments);
    let text = run(command).succeeded();
    let rows = csv::Reader::from_reader(text.as_bytes()).into_records();
    rows.map(|row| row.expect("a row"))
        .map(|row| {
            let amount = row[1].trim().trim_end_matches(" USD");
            (row[0].trim_end().to_owned(), if amount.is_empty() { 0 } else { cents(&amount.into()) })
        })
        .collect()
}

#[test]
fn the_golden_files_are_accepted() {
    for (name, arguments, ending) in [
        ("hledger", &["check", "--strict", "ordereddates", "--file"][..], "journal"),
        ("bean-check", &["--no-cache"], "beancount"),
    ] {
        for file in ["all", "alice"] {
            if let Some(command) = other_program(name) {
                accepts(command, arguments, &golden(&format!("{file}.{ending}")));
            }
        }
    }
}

#[test]
fn transactions_come_in_the_order_of_their_ids_each_once() {
    let data = ledger();
    let rows = data.run(&["export", "--format=csv"]).succeeded();
    let mut ids: Vec<&str> = rows.lines().skip(1).map(|row| &row[..36]).collect();
    ids.sort_unstable();
    let (hledger, _) = exported(&data, "hledger", None);
    assert!(ids == codes(&hledger));
    let (beancount, _) = exported(&data, "beancount", None);
    let mut lines = beancount.lines();
    let mut booked = Vec::new();
    while lines.any(|line| line.contains(" * \"")) {
        let id = lines.next().expect("an id").trim_start_matches("  id: \"");
        booked.push(id.trim_end_matches('"'));
    }
    assert!(ids == booked);

    for format in ["hledger", "beancount"] {
        data.run(&["export", "--format", format, "--account=nobody"])
            .refused("there is no account \"nobody\"");
    }
}

/// The ids of an hledger export's transactions, in its order.
fn codes(export: &str) -> Vec<&str> {
    let codes = export.lines().filter_map(|line| Some(line.split_once(" (")?.1.split_once(") ")?.0));
    codes.filter(|code| code.len() == 36).collect()
}

/// Those of one account were printed as its shard's log has them: what another shard decided stood where it arrived,
/// behind later ids.
#[test]
fn the_transactions_of_one_account_come_in_the_order_of_their_ids() {
    const EACH: usize = 300;
    let data = DataDir::new();
    let server = data.serve(&["--shards=2", "--disk-reserve-mib=0"]);
    let shard_of = |name: &str| Router::new(2).of_name(&AccountName::parse(name).expect("valid")).index();
    let [one, other] = [0, 1].map(|shard| {
        let mut names = (0..).map(|number| format!("a{number}"));
        names.find(|name| shard_of(name) == shard).expect("there is one")
    });
    let ask = |client: &Client, path: &str, body: &str| {
        let reply = post(client, path, body, None);
        assert_eq!(reply.status, 201, "{reply:?}");
    };
    // One for each thread: a connection belongs to the runtime that made it.
    let clients = [server.client(1), server.client(1)];
    for name in [&one, &other] {
        ask(&clients[0], "/v2/accounts", &format!(r#"{{"name":"{name}","overdraft_limit":"1000"}}"#));
    }
    thread::scope(|scope| {
        // The higher shard decides about both.
        let transfer = format!(r#"{{"from":"name:{other}","to":"name:{one}","amount":"1"}}"#);
        let deposits = format!("/v2/accounts/name:{one}/deposits");
        let [first, second] = &clients;
        scope.spawn(move || (0..EACH).for_each(|_| ask(first, "/v2/transfers", &transfer)));
        scope.spawn(move || (0..EACH).for_each(|_| ask(second, &deposits, r#"{"amount":"1"}"#)));
    });
    server.stop();
    let (export, _) = exported(&data, "hledger", Some(&one));
    let ids = codes(&export);
    assert_eq!(ids.len(), 2 * EACH);
    assert!(ids.is_sorted(), "{ids:?}");
}

#[test]
fn hledger_accepts_the_export_and_reports_our_balances() {
    let Some(command) = other_program("hledger") else { return };
    drop(command);
    let hledger = || other_program("hledger").expect("it was there");
    let data = ledger();
    let balances = balances(&data);
    let (text, path) = exported(&data, "hledger", None);
    accepts(hledger(), &["check", "--strict", "ordereddates", "--file"], &path);
    let path = path.to_str().expect("UTF-8");
    let report =
        &["balance", "--flat", "--empty", "--invert", "--no-total", "--output-format=csv", "--file", path];
    let mut world = None;
    let mut reported = BTreeMap::new();
    for (account, cents) in table(hledger(), report) {
        match account.strip_prefix("Liabilities:Accounts:") {
            Some(name) => {
                let name = percent_decode_str(name).decode_utf8().expect("UTF-8").into_owned();
                assert_eq!(reported.insert(name, cents), None, "{account:?} is there once");
            }
            None if account == "Assets:World" => world = Some(cents),
            None => assert_eq!((account.as_str(), cents), ("Liabilities:Accounts", 0)),
        }
    }
    assert_eq!(world, Some(-balances.values().sum::<i64>()));
    for (name, cents) in &balances {
        assert_eq!(reported.remove(name), Some(*cents), "{name:?}");
    }
    assert_eq!(reported, BTreeMap::new());

    // The assertions are awake: with one cent more somewhere, it is refused.
    let wrong = text.replacen("  0 USD == -", "  0 USD == -1", 1);
    fs::write(path, wrong).expect("written");
    let mut check = hledger();
    check.args(["check", "--file", path]);
    assert_eq!(run(check).code, Some(1));

    for name in HOSTILE {
        let (_, path) = exported(&data, "hledger", Some(name));
        accepts(hledger(), &["check", "--strict", "ordereddates", "--file"], &path);
    }
}

#[test]
fn beancount_accepts_the_export_and_reports_our_balances() {
    let Some(command) = other_program("bean-check") else { return };
    drop(command);
    let check = || other_program("bean-check").expect("it was there");
    let data = ledger();
    let balances = balances(&data);
    let (text, path) = exported(&data, "beancount", None);
    accepts(check(), &["--no-cache"], &path);
    let query = "select getitem(open_meta(account), 'name'), neg(sum(position)) \
                 where account ~ '^Liabilities' group by 1";
    if let Some(command) = other_program("bean-query") {
        let path = path.to_str().expect("UTF-8");
        let reported = table(command, &["--no-errors", "--format=csv", path, query]);
        let count = reported.len();
        let reported: BTreeMap<String, i64> = reported.into_iter().collect();
        assert_eq!(reported.len(), count, "each is there once");
        for (name, cents) in &balances {
            // Beancount lists what has postings; it pads its table, so a name's blanks at the end are gone.
            assert_eq!(*reported.get(name.trim_end()).unwrap_or(&0), *cents, "{name:?}");
        }
        assert!(reported.keys().all(|name| balances.keys().any(|ours| ours.trim_end() == name)));
    }

    // The assertions are awake, to the cent.
    let (before, line) = text.trim_end().rsplit_once(" balance Assets:World  ").expect("the last line");
    let (amount, rest) = line.split_once(" ~ ").expect("a tolerance");
    let wrong = process::amount(cents(&amount.into()) + 1);
    fs::write(&path, format!("{before} balance Assets:World  {wrong} ~ {rest}\n")).expect("written");
    let mut refuses = check();
    refuses.arg("--no-cache").arg(&path);
    assert_eq!(run(refuses).code, Some(1));

    for name in HOSTILE {
        let (_, path) = exported(&data, "beancount", Some(name));
        accepts(check(), &["--no-cache"], &path);
    }
}
