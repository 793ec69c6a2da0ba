//! `teller import` through the real program and a real server: what is refused, what is kept, what moves.

mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use process::{DataDir, Ran, Running, Server, get, hangups_are_heard, history, json, post, program, run};
use rustix::process::Signal;

fn write(data: &DataDir, name: &str, text: &str) -> PathBuf {
    let path = data.path().join(name);
    fs::write(&path, text).expect("written");
    path
}

fn import(server: &Server, file: &Path, flags: &[&str]) -> Ran {
    let file = file.to_str().expect("UTF-8");
    let url = server.url();
    run(program(&[&["import", file, "--url", &url], flags].concat()))
}

/// The amounts of an account's history, in cents.
fn amounts(server: &Server, name: &str) -> Vec<i64> {
    let client = server.client(1);
    let account = json(&get(&client, &format!("/v2/accounts/name:{name}")));
    let id = account["id"].as_str().unwrap_or_else(|| panic!("{name:?} is not there: {account}"));
    let entries = process::block_on(history(&client, id, 0, 500));
    entries.into_iter().map(|entry| entry.cents).collect()
}

/// A withdrawal that lacks funds stops all behind it, though a later one could be paid. When the cause is gone, the
/// same command goes on: the server does not remember the refusal.
#[test]
fn nothing_overtakes_a_refused_row_and_a_second_run_goes_on_there() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=2", "--disk-reserve-mib=0", "--max-overdraft=0"]);
    let mut text = "id,account,type,amount\n".to_owned();
    for account in 0..40 {
        text += &format!("1,a{account},deposit,10\n");
    }
    text += "2,a7,withdrawal,10.01\n3,a7,withdrawal,5\n4,a7,deposit,1\n2,a8,deposit,1\n";
    let file = write(&data, "file.csv", &text);
    for _ in 0..2 {
        let ran = import(&server, &file, &["--connections=1"]);
        ran.refused(
            "line 42: the withdrawal of 10.01 for the account \"a7\" was refused: 422 insufficient-funds",
        );
        assert_eq!(amounts(&server, "a7"), [1000]);
        assert_eq!(amounts(&server, "a39"), [1000]);
    }
    let paid = post(&server.client(1), "/accounts/a7/deposit", r#"{"amount":10}"#, None);
    assert_eq!(paid.status, 201, "{paid:?}");
    let told = import(&server, &file, &["--connections=1"]).succeeded();
    assert!(told.contains("deposits        42 (2 applied, 40 replayed)\n"), "{told}");
    assert!(told.contains("withdrawals     2 (2 applied, 0 replayed)\n"), "{told}");
    assert_eq!(amounts(&server, "a7"), [1000, 1000, -1001, -500, 100]);
    assert_eq!(amounts(&server, "a8"), [1000, 100]);
    // A row that says something else now is another transaction with the same id.
    let file = write(&data, "file.csv", &text.replace("4,a7,deposit,1\n", "4,a7,deposit,2\n"));
    let ran = import(&server, &file, &[]);
    ran.refused(
        "line 44: the deposit of 2.00 for the account \"a7\" was refused: 422 idempotency-key-reused",
    );
    ran.refused("give this one an id of its own, and run the same command again");
}

/// Told was only that stdout takes nothing.
#[test]
fn where_stdout_fails_as_well_the_refusal_is_told() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=1", "--disk-reserve-mib=0", "--max-overdraft=0"]);
    let import_to_nowhere = |text: &str| {
        let file = write(&data, "file.csv", text);
        let full = fs::File::options().write(true).open("/dev/full").expect("Linux");
        let command = program(&["import", file.to_str().expect("UTF-8"), "--url", &server.url()]);
        Running::start_into(command, full).output()
    };
    import_to_nowhere("id,account,type,amount\n1,a,withdrawal,1\n").refused("line 2: the withdrawal of 1.00");
    import_to_nowhere("id,account,type,amount\n1,b,deposit,1\n").refused("No space left on device");
}

/// But for Ctrl-C it ended without a word, and nobody heard how to go on.
#[test]
fn an_import_that_a_signal_stops_says_how_to_go_on() {
    let data = DataDir::new();
    let file = write(&data, "file.csv", "id,account,type,amount\n1,a,deposit,1\n");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        if signal == Signal::HUP && !hangups_are_heard() {
            continue;
        }
        let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", nobody.local_addr().expect("bound"));
        let import = Running::start(program(&["import", file.to_str().expect("UTF-8"), "--url", &url]));
        // It listens to signals before it sends.
        let asked = nobody.accept().expect("it asks");
        import.signal(signal);
        drop((asked, nobody));
        let ran = import.output();
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stderr.contains("interrupted; to go on, run the same command again"), "{ran:?}");
    }
}

/// A batch that is all or nothing has to fit one record of the log, whatever its rows say.
#[test]
fn the_longest_rows_fit_a_batch() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=2", "--disk-reserve-mib=0"]);
    let mut text = "id,account,type,amount,reference\n".to_owned();
    for row in 0..600 {
        let (id, name, reference) =
            (format!("{row:\"^300}").replace('"', "\"\""), "n".repeat(255), "\u{e9}".repeat(127));
        text += &format!("\"{id}\",{name},withdrawal,0.01,{reference}\n");
    }
    let told = import(&server, &write(&data, "file.csv", &text), &["--overdraft-limit=6"]).succeeded();
    assert!(told.contains("withdrawals     600 (600 applied, 0 replayed)\n"), "{told}");
    assert!(told.contains("total           -6.00\n"), "{told}");
}

/// That of a fresh ledger was an empty file, which no import takes.
#[test]
fn an_export_without_a_row_names_the_columns_and_can_be_imported() {
    let data = DataDir::new();
    data.serve(&["--shards=2", "--disk-reserve-mib=0"]).stop();
    let [transactions, accounts] =
        ["--what=transactions", "--what=accounts"].map(|what| data.run(&["export", what]).succeeded());
    let server = data.serve(&["--disk-reserve-mib=0"]);
    let told = import(&server, &write(&data, "export.csv", &transactions), &[]).succeeded();
    assert!(told.contains("accounts        0 (0 opened, 0 already there)\n"), "{told}");
    for (path, body) in [
        ("/accounts", r#"{"name":"a"}"#),
        ("/accounts", r#"{"name":"b"}"#),
        ("/accounts/b/deposit", r#"{"amount":1}"#),
    ] {
        assert_eq!(post(&server.client(1), path, body, None).status, 201);
    }
    server.stop();
    assert_eq!(data.run(&["export", "--account=a"]).succeeded(), transactions);
    // With rows it is the same line.
    for (what, names, rows) in [("--what=transactions", transactions, 1), ("--what=accounts", accounts, 2)] {
        let text = data.run(&["export", what]).succeeded();
        assert!(text.starts_with(&names) && text.lines().count() == 1 + rows, "{text}");
    }
}

/// An import elsewhere thaws accounts, and nothing said which had been frozen.
#[test]
fn an_export_of_accounts_says_which_are_frozen_and_what_is_held() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=1", "--disk-reserve-mib=0"]);
    for (path, body) in [
        ("/v2/accounts", r#"{"name":"cold"}"#),
        ("/v2/accounts", r#"{"name":"yen","currency":"JPY"}"#),
        ("/v2/accounts/name:yen/deposits", r#"{"amount":"500"}"#),
        ("/v2/holds", r#"{"account":"name:yen","amount":"120"}"#),
    ] {
        let reply = post(&server.client(1), path, body, None);
        assert_eq!(reply.status, 201, "{path} {body}: {reply:?}");
    }
    freeze(&server, "cold");
    server.stop();
    let csv = data.run(&["export", "--what=accounts"]).succeeded();
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let names = rows.headers().expect("names").iter().skip(9).map(str::to_owned);
    assert_eq!(names.collect::<Vec<_>>(), ["frozen", "held"], "behind all that were there: {csv}");
    let rows = rows.into_records().map(|row| row.expect("a row"));
    let told: Vec<[String; 3]> = rows.map(|row| [1, 9, 10].map(|column| row[column].to_owned())).collect();
    assert_eq!(told, [["cold", "true", "0.00"], ["yen", "false", "120"]], "{csv}");
    let lines = data.run(&["export", "--what=accounts", "--format=ndjson"]).succeeded();
    for (line, told) in
        lines.lines().zip([r#""frozen":true,"held":"0.00"}"#, r#""frozen":false,"held":"120"}"#])
    {
        assert!(line.ends_with(told), "{line}");
    }
}

/// "When its cause is gone, run the same command again" it said, but a closed account comes back under no name.
#[test]
fn an_import_for_an_account_that_was_closed_says_what_can_be_done() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=1", "--disk-reserve-mib=0"]);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"gone"}"#, None).status, 201);
    send(&server, "DELETE /accounts/gone", "", "HTTP/1.1 204");
    let rows = "id,account,type,amount,currency\n1,gone,deposit,1,USD\n";
    let ran = import(&server, &write(&data, "gone.csv", rows), &[]);
    ran.refused("404 account-not-found");
    ran.refused(
        "the account was closed, and its name stays taken: give it another name in the file, or leave its rows out, and \
         run the same command again",
    );
    server.stop();
}

/// The client of these tests, which is that of the import, changes nothing of accounts.
fn freeze(server: &Server, name: &str) {
    send(server, &format!("PATCH /v2/accounts/name:{name}"), r#"{"frozen":true}"#, "HTTP/1.1 200");
}

fn send(server: &Server, what: &str, body: &str, expected: &str) {
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    let request = format!(
        "{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    assert!(reply.starts_with(expected), "{reply}");
}

#[test]
fn an_export_with_transfers_and_currencies_makes_the_same_ledger_elsewhere() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=2", "--disk-reserve-mib=0"]);
    let client = server.client(1);
    let posted = |path: &str, body: &str| {
        let reply = post(&client, path, body, None);
        assert_eq!(reply.status, 201, "{path} {body}: {reply:?}");
    };
    for (name, currency) in [("yen", "JPY"), ("dinar", "KWD"), ("alice", "USD"), ("bob", "USD")] {
        posted("/v2/accounts", &format!(r#"{{"name":"{name}","currency":"{currency}"}}"#));
    }
    posted("/v2/accounts/name:yen/deposits", r#"{"amount":"500","reference":"invoice, \"7\""}"#);
    posted("/v2/accounts/name:dinar/deposits", r#"{"amount":"0.125"}"#);
    posted("/v2/accounts/name:alice/deposits", r#"{"amount":"20"}"#);
    posted("/v2/transfers", r#"{"from":"name:alice","to":"name:bob","amount":"7.50","reference":"rent"}"#);
    server.stop();
    let export = data.run(&["export"]).succeeded();
    let file = write(&data, "export.csv", &export);

    let second = DataDir::new();
    let server = second.serve(&["--shards=3", "--disk-reserve-mib=0", "--currency=EUR"]);
    let ran = import(&server, &file, &[]);
    assert!(ran.stderr.contains(r#"columns=["balance", "created", "kind"]"#), "{ran:?}");
    let told = ran.succeeded();
    assert!(told.contains("total           500 JPY, 0.125 KWD, 20.00 USD\n"), "{told}");
    // Again from another file: what is there in another currency is refused.
    let other = write(&data, "other.csv", "id,account,type,amount,currency\n1,yen,deposit,5,USD\n");
    import(&server, &other, &[]).refused("the file has it in USD, it is there in JPY");
    server.stop();
    let columns = |data: &DataDir| {
        let text = data.run(&["export"]).succeeded();
        let rows = csv::Reader::from_reader(text.as_bytes()).into_records().map(|row| row.expect("a row"));
        let kept = [1, 2, 3, 4, 7, 8];
        let mut rows: Vec<Vec<String>> =
            rows.map(|row| kept.iter().map(|column| row[*column].to_owned()).collect()).collect();
        rows.sort();
        rows
    };
    let moved = columns(&second);
    assert_eq!(moved, columns(&data));
    assert_eq!(moved.len(), 5);
    second.run(&["verify"]).succeeded();
}
