//! The program as its operator meets it: what it refuses to start on and how it says so, and how it ends.

mod process;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use process::directory::copy;
use process::{
    DataDir, POLL_INTERVAL, Running, Server, TIME_MAX, block_on, get, hangups_are_heard, json, post, run,
};
use serde_json::Value;
use teller::client::{BaseUrl, Client};

const FLAGS: &[&str] = &["--shards=2", "--disk-reserve-mib=0"];

#[test]
fn a_second_server_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let data = DataDir::new();
    let first = data.serve(FLAGS);
    let told = format!("{} is in use by another process; stop that first", data.ledger().display());
    data.run(&["serve", "--port=0"]).refused(&told);
    // What reads the files offline would not see a ledger that stands still either.
    data.run(&["verify"]).refused(&told);
    data.run(&["export"]).refused(&told);
    assert_eq!(post(&first.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    first.stop();
    data.run(&["verify"]).succeeded();
}

#[test]
fn a_killed_server_leaves_no_lock_behind() {
    let data = DataDir::new();
    data.serve(FLAGS).kill();
    data.serve(FLAGS).stop();
}

/// Where nothing can be written to: a device that is full, and a pipe that nobody reads.
fn full_and_broken() -> [Stdio; 2] {
    let full = File::options().write(true).open("/dev/full").expect("Linux");
    let (_, broken) = io::pipe().expect("a pipe");
    [full.into(), broken.into()]
}

/// Its one line on stdout was printed with a panic for an error, and a panic ends the process.
#[test]
fn a_server_serves_where_its_stdout_takes_nothing() {
    for stdout in full_and_broken() {
        let data = DataDir::new();
        let mut server = Server::launch_into(data.command(&["serve", "--port=0", "--shards=1"]), stdout);
        server.wait_for_log("starting address=");
        let log = server.log();
        let (_, rest) = log.split_once("starting address=").expect("it was waited for");
        let (address, _) = rest.split_once(' ').expect("more stands behind it");
        let url = BaseUrl::parse(&format!("http://{address}")).expect("a URL");
        let client = Client::new(url, 1, TIME_MAX);
        let until = Instant::now() + TIME_MAX;
        while !block_on(client.get("/readyz")).is_ok_and(|reply| reply.status == 200) {
            assert!(Instant::now() < until, "it does not serve");
            thread::sleep(POLL_INTERVAL);
        }
        server.interrupt();
        server.assert_ends_well();
    }
}

#[test]
fn a_proof_that_cannot_be_told_is_an_error_unless_nobody_listens() {
    let data = DataDir::new();
    let server = data.serve(FLAGS);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    assert_eq!(post(&server.client(1), "/accounts/a/deposit", r#"{"amount":1}"#, None).status, 201);
    server.stop();
    for arguments in
        [&["verify"][..], &["export"], &["export", "--format=ndjson"], &["export", "--format=hledger"]]
    {
        let [full, broken] =
            full_and_broken().map(|stdout| Running::start_into(data.command(arguments), stdout).output());
        full.refused("cannot write to the standard output: No space left on device");
        assert_eq!(broken.code, Some(0), "{broken:?}");
    }
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
    let data = DataDir::new();
    fs::create_dir(data.ledger()).expect("created");
    fs::write(data.ledger().join("thesis.txt"), "three years of work").expect("written");
    data.run(&["serve", "--port=0"])
        .refused("is not a ledger's data directory: it has no manifest.json, but");
    data.run(&["serve", "--bootstrap=1"]).refused("is not a ledger's data directory");
    assert_eq!(fs::read_to_string(data.ledger().join("thesis.txt")).expect("read"), "three years of work");
    assert!(!data.ledger().join("manifest.json").exists());
}

#[test]
fn a_file_in_place_of_the_directory_is_refused_and_left_as_it_is() {
    let data = DataDir::new();
    fs::write(data.ledger(), "not a directory").expect("written");
    // "File exists" was all that was told.
    let refused = data.run(&["serve", "--port=0"]);
    refused.refused(&data.ledger().display().to_string());
    refused.refused("what has that name is no directory: move it away, or name another one");
    data.run(&["verify"]).refused(&data.ledger().display().to_string());
    assert_eq!(fs::read_to_string(data.ledger()).expect("read"), "not a directory");
    // The same one level higher, where the directory of all ledgers should be.
    let inside = format!("--data-dir={}", data.ledger().display());
    data.run(&["serve", "--port=0", &inside]).refused(&data.ledger().display().to_string());
    let dangling = data.path().join("dangling");
    symlink("nowhere", &dangling).expect("made");
    data.run(&["serve", "--port=0", "--db-name=dangling"]).refused("what has that name is no directory");
    let none = data.command_of_anyone(&["serve", "--port=0", "--db-name=new"]);
    fs::set_permissions(data.path(), Permissions::from_mode(0o500)).expect("set");
    let refused = run(none);
    fs::set_permissions(data.path(), Permissions::from_mode(0o700)).expect("set");
    refused.refused(&format!("and {} is user ", data.path().display()));
}

/// The last line, which says why it ends, was plain text without a time: a collector of JSON left it out.
#[test]
fn of_a_log_in_json_the_last_line_is_json_too() {
    let data = DataDir::new();
    data.serve(FLAGS).stop();
    let path = data.ledger().join("manifest.json");
    fs::write(&path, "damaged").expect("written");
    let told = format!("{} is corrupt at ", path.display());
    for arguments in [
        &["serve", "--port=0", "--log-format=json"][..],
        // It is told whatever the log leaves out.
        &["verify", "--log-format=json", "--log=off"],
    ] {
        let ran = data.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let lines: Result<Vec<Value>, _> = ran.stderr.lines().map(serde_json::from_str).collect();
        let lines = lines.unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let last = lines.last().expect("it says why");
        assert_eq!(last["level"], "ERROR", "{last}");
        assert!(last["timestamp"].is_string(), "{last}");
        assert!(last["message"].as_str().is_some_and(|message| message.starts_with(&told)), "{last}");
        assert_eq!(lines.iter().filter(|line| line["level"] == "ERROR").count(), 1, "{ran:?}");
    }
}

/// Whoever mistyped the directory was served an empty ledger without a word, and every client heard that there are no
/// accounts.
#[test]
fn that_a_ledger_was_not_there_and_a_new_one_is_made_is_told_once() {
    let data = DataDir::new();
    let told = format!("there was no ledger in {}: a new, empty one was made; ", data.ledger().display());
    for is_new in [true, false] {
        let mut server = data.serve(&["--shards=1"]);
        // Its log is complete when it has ended.
        server.terminate();
        server.assert_ends_well();
        server.wait_for_log("ended");
        assert_eq!(server.log().matches(&told).count(), usize::from(is_new), "{}", server.log());
    }
}

#[test]
fn another_number_of_shards_is_refused_with_the_way_to_change_it() {
    let data = DataDir::new();
    data.serve(FLAGS).stop();
    let refused = data.run(&["serve", "--port=0", "--shards=3"]);
    refused.refused("has 2 shards, not 3, and every id in it says which; start with --shards 2 or without");
    refused.refused("If `teller verify` counts 0 events in it, deleting that directory does as well");
    assert!(data.run(&["verify"]).succeeded().contains("2 shards, 0 accounts, 0 events"));
    // The environment is where nobody looks who is told of a flag that is not there.
    let mut command = data.command(&["serve", "--port=0"]);
    command.env("MZ_WORKERS", "1");
    run(command).refused(
        "has 2 shards, not 1, and every id in it says which; the environment variable MZ_WORKERS asks for the other \
         number: start without it, or with --shards 2. To change",
    );
    data.serve(&["--disk-reserve-mib=0"]).stop();
    let single = DataDir::new();
    single.run(&["--bootstrap=1", "--shards=1"]).succeeded();
    single.run(&["--bootstrap=1", "--shards=2"]).refused("has 1 shard, not 2, and");
}

#[test]
fn a_port_in_use_is_refused_and_the_ledger_is_free_again() {
    let data = DataDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let port = format!("--port={}", address.port());
    data.run(&["serve", &port]).refused(&format!("cannot listen on {address}: "));
    data.serve(&[]).stop();
}

#[test]
fn a_damaged_manifest_is_refused_with_its_place() {
    let data = DataDir::new();
    data.serve(FLAGS).stop();
    let path = data.ledger().join("manifest.json");
    let intact = fs::read(&path).expect("read");
    let mut damaged = intact.clone();
    damaged[intact.len() / 3] ^= 1;
    fs::write(&path, &damaged).expect("written");
    for subcommand in [&["serve", "--port=0"][..], &["verify"], &["export"]] {
        data.run(subcommand).refused(&format!("{} is corrupt at ", path.display()));
    }
    assert_eq!(fs::read(&path).expect("read"), damaged, "nothing is repaired behind the operator's back");
    fs::write(&path, &intact).expect("written");
    data.serve(FLAGS).stop();
}

#[test]
fn bootstrap_makes_a_ledger_that_can_be_served() {
    let data = DataDir::new();
    assert_eq!(data.run(&["--bootstrap=1", "--shards=3"]).succeeded(), "");
    // Once more changes nothing.
    let manifest = fs::read(data.ledger().join("manifest.json")).expect("created");
    data.run(&["--bootstrap=1"]).succeeded();
    assert_eq!(fs::read(data.ledger().join("manifest.json")).expect("there"), manifest);
    data.serve(&["--shards=3"]).stop();
    assert!(data.run(&["verify"]).succeeded().contains("3 shards"));
}

/// `serve` and `--bootstrap` had made an empty bank inside of the ledger, and clients found none of their accounts there.
#[test]
fn a_ledger_that_is_named_as_the_directory_of_all_is_refused_with_the_right_flags() {
    let data = DataDir::new();
    data.run(&["--bootstrap=1", "--shards=1"]).succeeded();
    let (ledger, all) = (data.ledger().display().to_string(), data.path().display().to_string());
    let told = format!("{ledger} is itself a ledger: use --data-dir {all} --db-name teller");
    let wrong = format!("--data-dir={ledger}");
    for arguments in [&["serve", "--port=0"][..], &["serve", "--bootstrap=1"], &["verify"], &["export"]] {
        data.run(&[arguments, &[wrong.as_str()]].concat()).refused(&told);
    }
    assert!(!data.ledger().join("teller").exists());
    data.run(&["verify", "--data-dir", &all, "--db-name", "teller"]).succeeded();
}

#[test]
fn offline_tools_say_where_there_is_no_ledger() {
    let data = DataDir::new();
    let told = format!("there is no ledger in {}; name its directory", data.ledger().display());
    data.run(&["verify"]).refused(&told);
    data.run(&["export"]).refused(&told);
    assert!(!data.ledger().exists(), "they create nothing");
}

/// Recovering many shards takes its time, so the signal comes in the midst of it; if the machine was faster, the
/// next attempt has more of them.
#[test]
fn sigterm_during_recovery_exits_0_and_the_next_start_recovers() {
    for shards in [16, 64, 256] {
        let data = DataDir::new();
        let shards = format!("--shards={shards}");
        data.run(&["--bootstrap=1", &shards]).succeeded();
        let mut server = data.launch(&["--disk-reserve-mib=0"]);
        server.wait_for_log("starting");
        server.terminate();
        server.assert_ends_well();
        if !server.had_served() {
            data.serve(&["--disk-reserve-mib=0"]).stop();
            return;
        }
    }
    panic!("256 shards were recovered before a signal arrived");
}

#[test]
fn with_the_disk_full_changes_are_refused_and_reads_go_on() {
    let data = DataDir::new();
    let server = data.serve(FLAGS);
    let client = server.client(1);
    assert_eq!(post(&client, "/accounts", r#"{"name":"a"}"#, Some("open")).status, 201);
    assert_eq!(post(&client, "/accounts/a/deposit", r#"{"amount":5}"#, Some("pay")).status, 201);
    server.stop();

    let server = data.serve(&["--disk-reserve-mib=1073741824"]);
    server.wait_for_log("changes are refused: the disk of ");
    let client = server.client(1);
    let account = get(&client, "/accounts/a");
    for (path, body, key) in [
        ("/accounts", r#"{"name":"b"}"#, None),
        ("/accounts", r#"{"name":"b"}"#, Some("open b")),
        ("/accounts/a/deposit", r#"{"amount":1}"#, Some("pay more")),
        ("/accounts/a/withdraw", r#"{"amount":1}"#, None),
    ] {
        let refused = post(&client, path, body, key);
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(json(&refused)["code"], "disk-full");
        assert_eq!(json(&refused)["retryable"], true);
        assert_eq!(refused.headers["retry-after"], "10");
    }
    // What was done before the disk was full is still told.
    let replay = post(&client, "/accounts/a/deposit", r#"{"amount":5}"#, Some("pay"));
    assert_eq!(
        (replay.status.as_u16(), &replay.headers["idempotent-replayed"]),
        (201, &"true".parse().expect("a value"))
    );
    assert_eq!(get(&client, "/readyz").status, 200);
    assert_eq!(account.status, 200);
    assert_eq!(get(&client, "/accounts/a").body, account.body);
    assert_eq!(get(&client, "/accounts/b").status, 404);
    let id = json(&account)["id"].as_str().expect("an id").to_owned();
    assert_eq!(json(&get(&client, &format!("/v2/accounts/{id}/transactions")))["count"], 1);
    server.stop();

    // With room again, what was refused can be done, under its key.
    let server = data.serve(FLAGS);
    let done = post(&server.client(1), "/accounts/a/deposit", r#"{"amount":1}"#, Some("pay more"));
    assert_eq!(done.status, 201);
    assert!(!done.headers.contains_key("idempotent-replayed"));
    server.stop();
}

/// A connection on which every byte is ours.
fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(TIME_MAX)).expect("set");
    stream
}

/// Asks something on a connection that stays open, and reads the whole reply.
fn ask(mut stream: &TcpStream, method: &str, path: &str, body: &str) -> io::Result<String> {
    let length = body.len();
    // In one piece: the system waits before it sends a second small one.
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    read_reply(stream)
}

/// Reads the reply that is the only one under way.
fn read_reply(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut reply = String::new();
    while !reply.ends_with("\r\n\r\n") {
        if reader.read_line(&mut reply)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = reply.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    reader.take(length.unwrap_or_else(|| panic!("{reply:?}"))).read_to_string(&mut reply)?;
    Ok(reply)
}

fn has_reply(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    let came = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("set");
    came.is_ok_and(|count| count > 0)
}

#[track_caller]
fn wait_until(server: &Server, what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TIME_MAX;
    while !is_so() {
        assert!(Instant::now() < until, "not {what}:\n{}", server.log());
        thread::sleep(POLL_INTERVAL);
    }
}

/// How many names a directory of the only shard has, but for what is in the making.
fn count(data: &DataDir, directory: &str) -> usize {
    let directory = data.ledger().join("shard-0000").join(directory);
    let entries = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("an entry"));
    let is_whole = |name: &str| ![".tmp", ".creating", ".removed"].iter().any(|end| name.ends_with(end));
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_whole)).count()
}

/// Reads until what was read ends with a text.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("{error} after {:?}", String::from_utf8_lossy(&bytes));
        });
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}

const DEPOSIT: &str = r#"{"amount": 12.5}"#;

/// Sends a deposit without its body, and waits until the server is at work on it.
fn begin_deposit(server: &Server) -> TcpStream {
    let mut stream = connect(server);
    let length = DEPOSIT.len();
    write!(
        stream,
        "POST /accounts/a/deposit HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nidempotency-key: slow\r\nexpect: 100-continue\r\n\r\n"
    )
    .expect("sent");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 100 "));
    stream
}

/// The order of things tells that nothing waits for the idle client: it is disconnected while the slow one is
/// still being served, which the server gives up on only after several seconds.
#[test]
fn at_the_end_idle_connections_are_closed_at_once_and_a_slow_request_is_finished() {
    let data = DataDir::new();
    let mut server = data.serve(FLAGS);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    let mut idle = connect(&server);
    write!(idle, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    read_until(&mut idle, "}");
    let mut fresh = connect(&server);
    let mut slow = begin_deposit(&server);

    server.terminate();
    for connection in [&mut idle, &mut fresh] {
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).expect("closed in order");
        assert_eq!(rest, b"");
    }
    assert!(TcpStream::connect(server.address()).is_err(), "it accepts no more connections");
    slow.write_all(DEPOSIT.as_bytes()).expect("sent");
    let mut reply = String::new();
    slow.read_to_string(&mut reply).expect("a reply, then the end");
    assert!(reply.starts_with("HTTP/1.1 201 ") && reply.contains(r#""balance":12.50"#), "{reply}");
    server.assert_ends_well();

    // And it was kept.
    let server = data.serve(FLAGS);
    let client = server.client(1);
    assert_eq!(json(&get(&client, "/accounts/a"))["balance"].to_string(), "12.5");
    let again = post(&client, "/accounts/a/deposit", DEPOSIT, Some("slow"));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    server.stop();
}

/// P7: whoever is connected is served, the next ones wait for room; and nothing spins meanwhile.
#[test]
fn without_descriptors_the_connected_are_served_and_the_next_ones_wait() {
    const ROOM: usize = 4;
    const ACCEPT_PAUSE_MS: u128 = 100;
    let data = DataDir::new();
    let flags =
        ["--shards=1", "--http-threads=1", "--disk-reserve-mib=0", "--log=info,teller::storage=debug"];
    let server = data.serve(&flags);
    let held = connect(&server);
    let opened = ask(&held, "POST", "/accounts", r#"{"name":"a"}"#).expect("a reply");
    assert!(opened.starts_with("HTTP/1.1 201 "), "{opened}");
    // From then on nothing else takes any. That it has its name does not tell: directories are opened behind that.
    server.wait_for_log("the next generation is open ahead");

    let began = Instant::now();
    let allowed = server.allow_open_files(Some(server.open_files_and(ROOM)));
    let told = || server.log().matches("cannot accept a connection").count() as u128;
    let mut accepted = vec![held];
    let waiting = loop {
        assert!(accepted.len() <= 64, "it accepts more than there is room for");
        let mut stream = connect(&server);
        write!(stream, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
        wait_until(&server, "accepted or told of", || has_reply(&stream) || told() > 0);
        if told() > 0 {
            // This one may have the last descriptor: the system asks for one before it looks whether somebody waits.
            let mut next = connect(&server);
            write!(next, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            break [stream, next];
        }
        read_reply(&stream).expect("a reply");
        accepted.push(stream);
    };
    assert!(accepted.len() > 2, "it had room for {ROOM}:\n{}", server.log());
    for number in 0..20 {
        let stream = &accepted[number % accepted.len()];
        let reply = ask(stream, "POST", "/accounts/a/deposit", r#"{"amount":1}"#).expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    }
    // Counted before the time is taken, and a sleep is never shorter: that holds on any machine.
    let told = told();
    let elapsed_ms = began.elapsed().as_millis();
    assert!(told <= elapsed_ms / ACCEPT_PAUSE_MS + 1, "{told} times in {elapsed_ms} ms");

    accepted.truncate(accepted.len() - waiting.len());
    for stream in &waiting {
        let reply = read_reply(stream).expect("its turn has come");
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }
    server.allow_open_files(allowed);
    server.stop();
}

/// A server of one shard and one HTTP thread that its shell lets have so many descriptors.
fn with_open_files(data: &DataDir, open_files: u64) -> Command {
    let flags = ["--port=0", "--shards=1", "--http-threads=1", "--disk-reserve-mib=0"];
    let mut command = shell_with_open_files(data, open_files);
    command.args(flags);
    command
}

/// `teller serve`, without flags yet, which its shell lets have so many descriptors.
fn shell_with_open_files(data: &DataDir, open_files: u64) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"ulimit -n "$0" && exec "$@""#, &open_files.to_string()]);
    command.args([env!("CARGO_BIN_EXE_teller"), "serve"]);
    command.env_clear().env("MZ_DATA_DIR", data.path()).stdin(Stdio::null());
    command
}

/// A start with more shards than the system has open files for had made a ledger of so many, and no start with fewer got
/// past that. One with an address that it cannot have left a ledger behind, too.
#[test]
fn a_start_that_fails_makes_no_ledger() {
    let data = DataDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = format!("--port={}", taken.local_addr().expect("bound").port());
    for (flags, told) in [
        (&["--port=0", "--shards=1024"][..], "open files are too few for 1024 shards"),
        (&["--bootstrap=1", "--shards=1024"], "open files are too few for 1024 shards"),
        (&["--shards=7", &port], "cannot listen on 127.0.0.1"),
        // TEST-NET-1 of RFC 5737: no machine has it.
        (&["--port=0", "--shards=7", "--host=192.0.2.1"], "cannot listen on 192.0.2.1"),
    ] {
        let mut command = shell_with_open_files(&data, 4096);
        command.args(flags);
        run(command).refused(told);
        data.run(&["verify"]).refused("there is no ledger in ");
    }
    data.serve(FLAGS).stop();
    assert!(data.run(&["verify"]).succeeded().contains("2 shards"));
    // What is there already is no matter of what the system allows today.
    let mut bootstrap = shell_with_open_files(&data, 64);
    bootstrap.arg("--bootstrap=1");
    run(bootstrap).succeeded();
}

/// P7: what connections may not have is enough for all the rest, also where there is just enough for a few of them.
#[test]
fn with_too_few_descriptors_it_does_not_start_and_with_just_enough_it_lacks_none() {
    const CONNECTIONS: usize = 16;
    let data = DataDir::new();
    let refused = run(with_open_files(&data, 24));
    refused.refused("with `ulimit -n ");
    let needed = refused.stderr.trim_end().trim_end_matches('`').rsplit(' ').next();
    let needed: u64 = needed.and_then(|needed| needed.parse().ok()).expect("it says how many do");
    let less = needed - 1;
    run(with_open_files(&data, less)).refused(&format!(
        "{less} open files are too few for 1 shard; allow at least {needed}, with `ulimit -n {needed}`"
    ));

    let mut server = Server::launch(with_open_files(&data, needed));
    server.wait_until_ready();
    let mut held = Vec::new();
    // A connection that was closed just now may still have its place.
    wait_until(&server, "served", || {
        let stream = connect(&server);
        let reply = ask(&stream, "GET", "/healthz", "");
        held.extend(reply.is_ok_and(|reply| reply.starts_with("HTTP/1.1 200 ")).then_some(stream));
        held.len() == CONNECTIONS
    });
    // Some of them are told so, the rest are closed; all may be there at once.
    let crowd: Vec<_> = (0..100).map(|_| connect(&server)).collect();
    let reply = read_reply(&crowd[0]).expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("too-many-connections"), "{reply}");
    for (path, body) in [("/accounts", r#"{"name":"a"}"#), ("/accounts/a/deposit", r#"{"amount":1}"#)] {
        let reply = ask(&held[0], "POST", path, body).expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    }
    server.ask_for_snapshot();
    wait_until(&server, "archived", || count(&data, "snapshots") == 1 && count(&data, "archive") == 1);
    for stream in &held {
        let reply = ask(stream, "GET", "/v2/accounts/name:a/transactions", "").expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains(r#""count":1,"#), "{reply}");
    }
    let log = server.log();
    assert!(!log.contains("os error"), "{log}");
    server.stop();
}

#[test]
fn a_second_signal_does_not_wait_and_loses_nothing() {
    let data = DataDir::new();
    let mut server = data.serve(FLAGS);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    let _slow = begin_deposit(&server);
    server.terminate();
    server.wait_for_log("ending");
    server.terminate();
    assert_eq!(server.wait().code(), Some(130), "{}", server.log());
    let server = data.serve(FLAGS);
    let account = json(&get(&server.client(1), "/accounts/a"));
    assert_eq!(account["balance"].to_string(), "0.0", "half a request is none");
    server.stop();
}

/// What it tells of its only shard's newest snapshot.
fn snapshot_secs(server: &Server) -> i64 {
    let metrics = get(&server.client(1), "/metrics");
    let metrics = String::from_utf8(metrics.body.to_vec()).expect("UTF-8");
    let line = "teller_shard_snapshot_timestamp_seconds{shard=\"0\"} ";
    let told = metrics.lines().find_map(|told| told.strip_prefix(line)?.parse().ok());
    told.unwrap_or_else(|| panic!("{metrics}"))
}

#[test]
fn sigusr1_takes_a_snapshot_while_serving() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=1", "--disk-reserve-mib=0"]);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    assert_eq!(count(&data, "snapshots"), 0);
    assert_eq!(snapshot_secs(&server), 0);
    server.ask_for_snapshot();
    wait_until(&server, "a snapshot", || count(&data, "snapshots") == 1);
    let snapshots = data.ledger().join("shard-0000/snapshots");
    let snapshot = fs::read_dir(snapshots).expect("there").next().expect("one").expect("readable").path();
    let written = fs::metadata(snapshot).expect("there").mtime();
    wait_until(&server, "told", || snapshot_secs(&server) == written);
    assert_eq!(get(&server.client(1), "/accounts/a").status, 200);
    server.kill();
    let server = data.serve(&[]);
    assert_eq!(snapshot_secs(&server), written, "a start knows");
    server.stop();
}

/// It ended the process at once, without a word and a snapshot, with an exit code that is written nowhere.
#[test]
fn a_terminal_that_is_closed_ends_the_server_as_sigterm_does() {
    if !hangups_are_heard() {
        return;
    }
    let data = DataDir::new();
    let mut server = data.serve(&["--shards=1", "--disk-reserve-mib=0"]);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    server.hang_up();
    server.wait_for_log("ending");
    // The shell has sent one to its job, and now the system does.
    server.hang_up();
    server.assert_ends_well();
    assert_eq!(count(&data, "snapshots"), 1);
}

/// That is how `nohup` starts it.
#[test]
fn a_server_that_is_to_ignore_sighup_does() {
    let data = DataDir::new();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"trap "" HUP && exec "$@""#, "sh", env!("CARGO_BIN_EXE_teller")]);
    command.args(["serve", "--port=0", "--shards=1", "--disk-reserve-mib=0"]);
    command.env_clear().env("MZ_DATA_DIR", data.path()).stdin(Stdio::null());
    let mut server = Server::launch(command);
    server.wait_until_ready();
    server.hang_up();
    server.ask_for_snapshot();
    server.wait_for_log("a snapshot was asked for");
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    server.stop();
}

/// After a restore as another user the start succeeded, and from then on each snapshot failed: the journal grew, and only
/// the log said so.
#[test]
fn a_shard_that_can_make_no_snapshots_or_segments_does_not_start() {
    let data = DataDir::new();
    data.serve(FLAGS).stop();
    for directory in ["snapshots", "archive"] {
        let directory = data.ledger().join("shard-0001").join(directory);
        fs::set_permissions(&directory, Permissions::from_mode(0o500)).expect("set");
        let refused = run(data.command_of_anyone(&["serve", "--port=0", "--disk-reserve-mib=0"]));
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).expect("set");
        refused.refused(&format!("cannot create {}/writable.tmp: Permission denied", directory.display()));
        refused.refused("change the mode, or what else forbids it");
    }
    data.serve(&["--disk-reserve-mib=0"]).stop();
}

/// The first shard that could not end in order kept all others from their last snapshot.
#[test]
fn at_the_end_each_shard_has_its_snapshot_whatever_becomes_of_the_others() {
    let data = DataDir::new();
    let mut server = data.serve(&["--shards=2"]);
    let client = server.client(1);
    for number in 0..20 {
        let body = format!(r#"{{"name":"a{number}"}}"#);
        assert_eq!(post(&client, "/accounts", &body, None).status, 201);
    }
    drop(client);
    let snapshots = |shard: usize| data.ledger().join(format!("shard-000{shard}/snapshots"));
    fs::remove_dir(snapshots(0)).expect("none is taken yet");
    fs::write(snapshots(0), "in the way").expect("written");
    server.terminate();
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    assert_eq!(fs::read_dir(snapshots(1)).expect("it is there").count(), 1);
    fs::remove_file(snapshots(0)).expect("removed");
    fs::create_dir(snapshots(0)).expect("created");
    let server = data.serve(&[]);
    let read = |number: usize| get(&server.client(1), &format!("/accounts/a{number}")).status;
    assert!((0..20).all(|number| read(number) == 200));
    server.stop();
}

/// "No snapshot written" it said, when there was one, and ended with 1.
#[test]
fn at_the_end_the_snapshot_is_what_counts_and_what_cannot_be_archived_is_left_to_the_next_start() {
    let data = DataDir::new();
    let mut server = data.serve(&["--shards=1"]);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    let inside = |directory: &str| data.ledger().join("shard-0000").join(directory);
    let count = |directory: &str| fs::read_dir(inside(directory)).expect("it is there").count();
    let obstacle = inside("archive").join(format!("{:020}.segment.tmp", 1));
    fs::create_dir(&obstacle).expect("in the way of the segment in the making");
    server.terminate();
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(log.contains("snapshot written") && !log.contains("no snapshot written"), "{log}");
    assert!(log.contains("cannot archive the log") && log.contains("segment.tmp"), "{log}");
    fs::remove_dir(&obstacle).expect("removed");
    assert_eq!((count("snapshots"), count("archive")), (1, 0));
    assert!(count("journal") > 0, "what is not archived is there");
    let server = data.serve(&[]);
    assert_eq!(get(&server.client(1), "/accounts/a").status, 200);
    server.stop();
    assert_eq!((count("snapshots"), count("archive"), count("journal")), (1, 1, 0));
    data.run(&["verify"]).succeeded();
}

/// The system may have none to give: a container bounds how many there are. Reading history then ended the process.
#[test]
fn no_request_takes_a_thread_that_is_not_there_before_it() {
    let data = DataDir::new();
    let server = data.serve(FLAGS);
    let client = server.client(1);
    // Those that the journal opens its next generation with come and go.
    let lasting = || {
        let of_requests =
            |name: &String| ["history", "http", "tokio"].iter().any(|kind| name.starts_with(kind));
        let mut names: Vec<_> = server.threads().map(|(name, _)| name).filter(of_requests).collect();
        names.sort();
        names
    };
    // A thread has its parent's name until it has run.
    let until = Instant::now() + TIME_MAX;
    while lasting().iter().filter(|name| *name == "history").count() < 16 {
        assert!(Instant::now() < until, "{:?}", lasting());
        thread::sleep(POLL_INTERVAL);
    }
    let before = lasting();
    assert_eq!(post(&client, "/accounts", r#"{"name":"a"}"#, None).status, 201);
    assert_eq!(post(&client, "/accounts/a/deposit", r#"{"amount":1}"#, None).status, 201);
    assert_eq!(json(&get(&client, "/v2/accounts/name:a/transactions"))["count"], 1);
    assert_eq!(lasting(), before);
    // Recovery's, which is the one that ends the service.
    assert_eq!(before.iter().filter(|name| name.starts_with("tokio")).count(), 1);
    server.stop();
}

#[test]
fn a_commit_wakes_no_more_of_the_journals_threads_than_are_needed() {
    let data = DataDir::new();
    let server = data.serve(FLAGS);
    let client = server.client(1);
    assert_eq!(post(&client, "/accounts", r#"{"name":"a"}"#, None).status, 201);
    let before = server.sleeps("sled-io");
    for _ in 0..20 {
        assert_eq!(post(&client, "/accounts/a/deposit", r#"{"amount":1}"#, None).status, 201);
    }
    let after = server.sleeps("sled-io");
    assert!(before.keys().eq(after.keys()) && before.len() == 7, "{before:?} {after:?}");
    // One for each of two shards; all where a commit took more than a second, and then it says so.
    let awake = before.iter().filter(|(name, sleeps)| after[*name] > **sleeps).count();
    assert!(awake >= 1, "{before:?} {after:?}");
    if awake > 2 {
        eprintln!("{awake} threads have slept: {before:?} {after:?}");
        server.wait_for_log("a commit takes long");
    }
    server.stop();
    data.run(&["verify"]).succeeded();
}

/// With one shard one of the journal's threads does all its writing, while further generations are made, sealed ones
/// compacted, and what one commit writes passes sled's segments.
#[test]
fn one_thread_writes_large_lists_over_several_generations() {
    const LISTS: usize = 16;
    const ITEMS: usize = 1500;
    let data = DataDir::new();
    let flags = ["--shards=1", "--disk-reserve-mib=0", "--journal-mib=8"];
    let server = data.serve(&flags);
    let client = server.client(1);
    assert_eq!(post(&client, "/accounts", r#"{"name":"a"}"#, None).status, 201);
    let note = "x".repeat(250);
    let item = format!(
        r#"{{"type":"deposit","account":"name:a","amount":"1","metadata":{{"a":"{note}","b":"{note}","c":"{note}"}}}}"#
    );
    let list = format!(r#"{{"items":[{}]}}"#, vec![item; ITEMS].join(","));
    for _ in 0..LISTS {
        let reply = post(&client, "/v2/batches?results=refused", &list, None);
        assert_eq!(json(&reply)["executed"], ITEMS, "{reply:?}");
    }
    let account = json(&get(&client, "/v2/accounts/name:a"));
    assert_eq!(account["version"], LISTS * ITEMS + 1);
    server.kill();
    data.run(&["verify"]).succeeded();
    data.serve(&flags).stop();
}

/// Every file and directory in one, with its mode and when it or its names last changed.
fn stamps(directory: &Path) -> BTreeMap<PathBuf, (u32, i64, i64)> {
    let mut stamps = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::metadata(&path).expect("there");
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        }
        stamps.insert(path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec()));
    }
    stamps
}

fn set_modes<'a>(paths: impl Iterator<Item = (&'a PathBuf, u32)>) {
    paths.for_each(|(path, mode)| fs::set_permissions(path, Permissions::from_mode(mode)).expect("set"));
}

/// A copy of each generation was made in the ledger: a backup that is read-only could not be proven, and where root had
/// looked at the ledger of another user the service could not delete what was left of that.
#[test]
fn what_reads_a_ledger_offline_writes_nothing_there() {
    let data = DataDir::new();
    let server = data.serve(FLAGS);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    server.kill();
    // What a start leaves that is killed is no more theirs to delete than it is theirs to read.
    let journal = data.ledger().join("shard-0000/journal");
    let generations = fs::read_dir(&journal).expect("readable").map(|entry| entry.expect("readable").path());
    let generation = generations.filter(|path| path.extension().is_none()).min().expect("one");
    fs::create_dir_all(generation.join("reading/7")).expect("created");
    let copies = data.path().join("copies");
    fs::create_dir(&copies).expect("created");
    let before = stamps(&data.ledger());
    set_modes(before.iter().map(|(path, (mode, ..))| (path, mode & 0o555)));
    let read_only = stamps(&data.ledger());
    let runs =
        [&["verify"][..], &["export"], &["export", "--what=accounts"], &["export", "--format=hledger"]].map(
            |arguments| {
                let command = |directory: &Path| {
                    let mut command = data.command_of_anyone(arguments);
                    command.env("TMPDIR", directory);
                    command
                };
                (run(command(&copies)), run(command(&data.path().join("nowhere"))))
            },
        );
    let after = stamps(&data.ledger());
    set_modes(before.iter().map(|(path, (mode, ..))| (path, *mode)));
    for (ran, refused) in runs {
        ran.succeeded();
        refused.refused("cannot make a working copy, where TMPDIR says, in ");
    }
    assert_eq!(after, read_only);
    assert_eq!(fs::read_dir(&copies).expect("readable").count(), 0, "none is left");
    data.serve(&["--disk-reserve-mib=0"]).stop();
    assert!(!generation.exists(), "a start sweeps and archives");
}

/// P6: an export stands for the ledger, so it must not be shorter than what was acknowledged.
#[test]
fn a_log_that_ends_too_soon_is_not_exported() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=1", "--disk-reserve-mib=0"]);
    assert_eq!(post(&server.client(1), "/accounts", r#"{"name":"a"}"#, None).status, 201);
    server.kill();
    let early = DataDir::new();
    copy(&data.ledger(), &early.ledger());
    let server = data.serve(&["--disk-reserve-mib=0"]);
    assert_eq!(post(&server.client(1), "/accounts/a/deposit", r#"{"amount":10}"#, None).status, 201);
    server.stop();
    let watermark = "shard-0000/watermark";
    fs::copy(data.ledger().join(watermark), early.ledger().join(watermark)).expect("copied");
    for arguments in [&["export"][..], &["export", "--what=accounts"], &["export", "--format=hledger"]] {
        data.run(arguments).succeeded();
        let ran = early.run(arguments);
        ran.refused("the log ends, but everything up to sequence 2 was acknowledged");
        assert_eq!(ran.stdout, "");
    }
}
