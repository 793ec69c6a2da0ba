//! The real program as its operator has it: started, signalled, killed, and asked over HTTP.
//!
//! What always holds: everything has a time limit, so a server that hangs fails the test; only processes that
//! were started here are ended, through their own handles, and none outlives its test.

#![allow(dead_code, reason = "each test file uses a part of it")]

#[path = "../directory/mod.rs"]
pub(crate) mod directory;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use directory::Directory;
use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, getrlimit, kill_process, prlimit};
use serde_json::Value;
use teller::client::{BaseUrl, Client, Response};

/// How long anything may take before it counts as hanging. A loaded machine with a debug build and a slow disk
/// stays far below it.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(60);

/// How long to wait before looking again.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A directory of ledgers, removed at the end, unless the test fails.
pub(crate) struct DataDir {
    root: Directory,
}

impl DataDir {
    /// An empty one.
    pub(crate) fn new() -> DataDir {
        DataDir { root: Directory::new() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// The directory of the ledger that is served without `--db-name`.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path().join("teller")
    }

    /// The program with these arguments and this data directory, and nothing of the tester's environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("MZ_DATA_DIR", self.path());
        command
    }

    /// The same, by someone who may do only what the modes of files say, as root is not.
    pub(crate) fn command_of_anyone(&self, arguments: &[&str]) -> Command {
        if !geteuid().is_root() {
            return self.command(arguments);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--inh-caps=-all", "--bounding-set=-all", env!("CARGO_BIN_EXE_teller")])
            .args(arguments);
        command.env_clear().env("MZ_DATA_DIR", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments))
    }

    /// Starts a server on a port that the system chooses, and waits until it serves.
    pub(crate) fn serve(&self, flags: &[&str]) -> Server {
        let mut server = self.launch(flags);
        server.wait_until_ready();
        server
    }

    /// Starts a server and does not wait.
    pub(crate) fn launch(&self, flags: &[&str]) -> Server {
        let mut arguments = vec!["serve", "--port=0"];
        arguments.extend(flags);
        Server::launch(self.command(&arguments))
    }
}

/// Whether programs that are started here hear SIGHUP: under `nohup` they do not, and what tests it is skipped.
pub(crate) fn hangups_are_heard() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it says so");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    let are_heard = ignored & 1 << (Signal::HUP.as_raw() - 1) == 0;
    if !are_heard {
        // A test's `println` is only shown where it fails.
        let _ = writeln!(io::stderr(), "SIGHUP is ignored here: what tests it is SKIPPED");
    }
    are_heard
}

/// The program with these arguments and an empty environment.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teller"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// What a subcommand did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it told.
    pub(crate) stderr: String,
}

impl Ran {
    /// Asserts that it ended well, and returns what it printed.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts that it ended with exit code 1 and told this.
    #[track_caller]
    pub(crate) fn refused(&self, told: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("teller: ") && last.contains(told), "{told:?} in {self:?}");
    }
}

/// Runs a program to its end.
pub(crate) fn run(mut command: Command) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    Running(Some(child)).output()
}

/// A program under way; killed if the test ends before it.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Starts a program.
    pub(crate) fn start(mut command: Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        Running(Some(child))
    }

    /// Starts a program whose stdout is something else than a pipe to here.
    pub(crate) fn start_into(mut command: Command, stdout: impl Into<Stdio>) -> Running {
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it starts");
        Running(Some(child))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut().expect("it was not waited for");
        child.try_wait().expect("it can be asked").is_some()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().expect("it was not waited for").id()
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().expect("it was not waited for");
        kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) -> Ran {
        self.0.as_mut().expect("it was not waited for").kill().expect("it can be killed");
        self.output()
    }

    /// Waits for its end.
    pub(crate) fn output(mut self) -> Ran {
        let mut child = self.0.take().expect("it was not waited for");
        let pid = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = (drain(stdout), drain(stderr));
        let status = wait(&mut child);
        let output = Output {
            status: status.unwrap_or_else(|| panic!("process {pid:?} does not end")),
            stdout: stdout.join().expect("a reader does not panic"),
            stderr: stderr.join().expect("a reader does not panic"),
        };
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.map(|mut pipe| pipe.read_to_end(&mut bytes).expect("a pipe can be read"));
        bytes
    })
}

/// Waits for a child's end; after [`TIME_MAX`] kills it and returns nothing.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + TIME_MAX;
    loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => return Some(status),
            None if Instant::now() > until => {
                child.kill().expect("a child can be killed");
                child.wait().expect("a killed child ends");
                return None;
            }
            None => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// A server, killed if the test ends before it.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    address: Option<String>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server.
    pub(crate) fn launch(command: Command) -> Server {
        Server::launch_into(command, Stdio::piped())
    }

    /// Starts a server whose stdout is something else than a pipe to here: only its log says where it listens.
    pub(crate) fn launch_into(mut command: Command, stdout: impl Into<Stdio>) -> Server {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it starts");
        let (line, lines) = channel();
        if let Some(stdout) = child.stdout.take().map(BufReader::new) {
            thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        }
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                let mut log = writer.lock().expect("no reader panics");
                log.push_str(&text);
                log.push('\n');
            }
        });
        Server { child, lines, address: None, log }
    }

    /// Waits until it says where it listens, and that it is ready.
    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self) {
        let line = match self.lines.recv_timeout(TIME_MAX) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("it does not start:\n{}", self.log()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = wait(&mut self.child);
                panic!("it ended with {status:?} instead of starting:\n{}", self.log())
            }
        };
        let address = line.strip_prefix("teller listens on http://");
        self.address = Some(address.unwrap_or_else(|| panic!("{line:?}")).to_owned());
        assert_eq!(get(&self.client(1), "/readyz").status, 200);
    }

    /// Waits until its log has a text.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        let until = Instant::now() + TIME_MAX;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "no {text:?} in the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// Whether a server that has ended had said that it serves. Nobody must have waited for that before.
    pub(crate) fn had_served(&self) -> bool {
        match self.lines.recv_timeout(TIME_MAX) {
            Ok(_) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("its output is still open"),
        }
    }

    /// Its address, such as `127.0.0.1:4711`.
    #[track_caller]
    pub(crate) fn address(&self) -> &str {
        self.address.as_deref().expect("it is ready")
    }

    /// Its URL.
    #[track_caller]
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A client of it that keeps so many connections.
    #[track_caller]
    pub(crate) fn client(&self, connections: usize) -> Client {
        Client::new(BaseUrl::parse(&self.url()).expect("a URL"), connections, TIME_MAX)
    }

    /// How often each of its threads with such a name has slept, by name.
    pub(crate) fn sleeps(&self, name: &str) -> BTreeMap<String, u64> {
        let of = |(called, thread): (String, PathBuf)| {
            let status = fs::read_to_string(thread.join("status")).ok()?;
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((called, count.trim().parse().ok()?))
        };
        self.threads().filter(|(called, _)| called.starts_with(name)).filter_map(of).collect()
    }

    /// The name of each of its threads, and where the system tells of it.
    pub(crate) fn threads(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(tasks).expect("it runs").map(|entry| entry.expect("readable").path());
        // One that has ended meanwhile is none.
        threads.filter_map(|thread| {
            Some((fs::read_to_string(thread.join("comm")).ok()?.trim().to_owned(), thread))
        })
    }

    /// Lets it have no descriptors but those below this number, and returns which it was allowed before.
    pub(crate) fn allow_open_files(&self, current: Option<u64>) -> Option<u64> {
        // What it may be allowed at most is what we may.
        let limit = Rlimit { current, ..getrlimit(Resource::Nofile) };
        let before = prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit);
        before.expect("a child can be limited").current
    }

    /// The limit that leaves it so many descriptors more.
    pub(crate) fn open_files_and(&self, more: usize) -> u64 {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let numbers = open.map(|entry| entry.expect("readable").file_name().to_str()?.parse().ok());
        let open: BTreeSet<Option<u64>> = numbers.collect();
        (0..).filter(|number| !open.contains(&Some(*number))).nth(more).expect("numbers do not end")
    }

    /// Asks for a snapshot, as `kill -USR1` does.
    pub(crate) fn ask_for_snapshot(&self) {
        self.signal(Signal::USR1);
    }

    /// Asks it to end, as `kill` does.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to end, as a terminal does that is closed.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        // The child was not waited for yet, so its id is still its own.
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        let _ = self.child.wait();
    }

    /// Sends SIGKILL and does not wait for the end.
    pub(crate) fn kill_without_waiting(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("it does not end:\n{}", self.log()))
    }

    /// Asks it to end and asserts that it does, with exit code 0.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.terminate();
        self.assert_ends_well();
    }

    /// Asserts that it ends, with exit code 0.
    #[track_caller]
    pub(crate) fn assert_ends_well(&mut self) {
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}:\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Runs one thing that waits, from a test that does not.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(future)
}

/// Gets a path, once, on a connection of its own runtime.
#[track_caller]
pub(crate) fn get(client: &Client, path: &str) -> Response {
    block_on(client.get(path)).unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
}

/// Posts a body, once.
#[track_caller]
pub(crate) fn post(client: &Client, path: &str, body: &str, key: Option<&str>) -> Response {
    let reply = block_on(client.post_json(path, body.to_owned(), key));
    reply.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
}

/// A reply's body.
#[track_caller]
pub(crate) fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// An amount such as `-12.34`, in cents.
#[track_caller]
pub(crate) fn cents(amount: &Value) -> i64 {
    let text = match amount {
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, "00"));
    let digits = format!("{whole}{decimals:0<2}");
    digits.parse().unwrap_or_else(|_| panic!("{text:?} is not an amount"))
}

/// Cents as an amount.
pub(crate) fn amount(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

/// One entry of an account's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The transaction's id.
    pub(crate) id: String,
    /// Deposits are positive, withdrawals negative.
    pub(crate) cents: i64,
    /// The balance after it.
    pub(crate) balance: i64,
    /// The account's version after it.
    pub(crate) version: u64,
}

/// Reads an account's history behind a version, in pages of at most `limit`, and returns it oldest first.
///
/// # Panics
/// If a page is not as it should be: newest first, one version after the other.
pub(crate) async fn history(client: &Client, account: &str, behind: u64, limit: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut path = format!("/v2/accounts/{account}/transactions?limit={limit}");
    loop {
        let response = client.get(&path).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"));
        assert_eq!(response.status, 200, "{path}: {response:?}");
        let page = json(&response);
        let items = page["items"].as_array().expect("a list");
        assert_eq!(page["count"], items.len(), "{path}");
        for item in items {
            let entry = Entry {
                id: item["id"].as_str().expect("an id").to_owned(),
                cents: cents(&item["amount"]),
                balance: cents(&item["balance"]),
                version: item["version"].as_u64().expect("a version"),
            };
            assert_eq!(item["account_id"], account);
            let alone = if entry.cents > 0 { "deposit" } else { "withdrawal" };
            assert!(item["type"] == alone || item["type"] == "transfer", "{item}");
            if let Some(newer) = entries.last() {
                assert_eq!(entry.version + 1, newer.version, "{path}: {item}");
                assert_eq!(entry.balance + newer.cents, newer.balance, "{path}: {item}");
            }
            if entry.version > behind {
                entries.push(entry);
            } else {
                entries.reverse();
                return entries;
            }
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v2/accounts/{account}/transactions?limit={limit}&cursor={next}"),
            None => {
                entries.reverse();
                return entries;
            }
        }
    }
}
