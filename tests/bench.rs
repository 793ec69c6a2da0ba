//! `teller bench`: what it counts is what the ledger has, and nothing that it starts outlives it. How fast anything is,
//! is no test's business.

mod process;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use process::{DataDir, POLL_INTERVAL, Ran, Running, Server, TIME_MAX, get, json, program, run};
use serde_json::Value;

const QUICK: [&str; 6] =
    ["--accounts=20", "--connections=4", "--rounds=2", "--warm-up=0.05", "--json", "--log=warn"];

/// How long a round lasts, and how long once more where nothing was answered in one: a disk that the other tests write to
/// takes longer over a commit at times.
const DURATIONS: [&str; 4] = ["--duration=0.1", "--duration=0.5", "--duration=2.5", "--duration=12.5"];

fn bench(arguments: &[&str], more: &[&str]) -> Ran {
    run(program(&[&["bench"], arguments, &QUICK, more].concat()))
}

/// The report of a run with something answered in every round.
fn measured(run: impl FnMut(&'static str) -> Value) -> Value {
    let answered = |round: &Value| number(&round["per_second"]) > 0;
    let rounds = |side: &Value| side["rounds"].as_array().expect("a list").clone();
    let in_all = |report: &Value| {
        report["sides"].as_array().expect("a list").iter().flat_map(rounds).all(|round| answered(&round))
    };
    DURATIONS.into_iter().map(run).find(in_all).expect("something is answered in each round")
}

fn report(ran: Ran) -> Value {
    let text = ran.succeeded();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// How many changes all accounts have seen: their openings, and each side of each transaction.
fn changes(server: &Server) -> u64 {
    let reply = get(&server.client(1), "/v2/accounts?limit=1000");
    json(&reply)["items"].as_array().expect("a list").iter().map(|account| number(&account["version"])).sum()
}

#[test]
fn every_workload_counts_what_the_ledger_has() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=2"]);
    let url = format!("--url={}", server.url());
    for (arguments, unit, funded) in [
        (&["deposit"][..], "deposits", false),
        (&["read"], "reads", false),
        (&["transfer"], "transfers", true),
        (&["transfer", "--pairs=cross-shard", "--shards=2"], "transfers", true),
        (&["hot"], "transfers", true),
        (&["batch", "--batch-size=10"], "transfers", true),
        (&["batch", "--batch-size=10", "--pairs=hot"], "transfers", true),
        (&["mixed"], "requests", true),
        (&["deposit", "--rate=2000", "--threads=2"], "deposits", false),
    ] {
        let report = measured(|duration| {
            let before = changes(&server);
            let report = report(bench(arguments, &[&url, duration]));
            let side = &report["sides"][0];
            assert_eq!(side["unit"], unit, "{arguments:?}");
            assert_eq!(side["errors"], serde_json::json!({}), "{arguments:?}");
            assert_eq!(side["rounds"].as_array().map(Vec::len), Some(2), "{arguments:?}");
            let total = |name: &str| number(&side["totals"][name]);
            // The first run opens the accounts; a later one finds them, and gives money once more where it takes some.
            let opened = if before == 0 { 20 } else { 0 };
            let given = if funded { 20 } else { 0 };
            let made = total("deposits") + total("withdrawals") + 2 * total("transfers");
            assert_eq!(changes(&server), before + opened + given + made, "{arguments:?}: {report}");
            report
        });
        let side = &report["sides"][0];
        assert!(number(&side["per_second"]) > 0, "{report}");
        let latency = |name: &str| number(&side["latency_ns"][name]);
        assert!(latency("p50") > 0 && latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
    }
    let balance = json(&get(&server.client(1), "/v2/trial-balance"));
    assert_eq!(balance["balanced"], true);
    server.stop();
}

/// It was compared with itself under another name, and given the number of shards that a new one would get here.
#[test]
fn a_server_that_runs_has_the_shards_that_it_has() {
    let data = DataDir::new();
    let server = data.serve(&["--shards=3"]);
    let url = format!("--url={}", server.url());
    for other in ["--shards=2", "--compare=shards=2", "--compare=read,shards=4"] {
        let ran = bench(&["deposit"], &[&url, other]);
        ran.refused("--url names a server with shards=3, which it keeps");
    }
    assert_eq!(changes(&server), 0, "nothing was written before that");
    let more = [&url, "--compare=shards=3,pairs=any", DURATIONS[0]];
    let report = report(bench(&["transfer", "--pairs=cross-shard"], &more));
    for side in report["sides"].as_array().expect("a list") {
        assert_eq!(side["settings"]["shards"], 3, "{report}");
    }
    server.stop();
}

#[test]
fn a_server_of_its_own_is_compared_and_gone_afterwards() {
    let root = DataDir::new();
    let place = root.path().join("data/ledgers");
    let flag = format!("--data-dir={}", place.display());
    let compare = ["--compare=bare", "--compare=read,accounts=30", "--compare=connections=2", &flag];
    let report = measured(|duration| {
        let more = [&compare[..], &[duration, "--", "--max-overdraft=0"]].concat();
        report(bench(&["deposit"], &more))
    });
    let sides = report["sides"].as_array().expect("a list");
    let names: Vec<&str> = sides.iter().filter_map(|side| side["name"].as_str()).collect();
    assert_eq!((names.len(), &names[..3]), (4, &["deposit", "read,accounts=30", "connections=2"][..]));
    assert!(names[3].starts_with("bare, "), "{names:?}");
    assert_eq!(
        (&sides[1]["settings"]["accounts"], &sides[2]["settings"]["connections"]),
        (&30.into(), &2.into())
    );
    let comparisons = report["comparisons"].as_array().expect("a list");
    assert_eq!(comparisons.len(), 3);
    for comparison in comparisons {
        assert!(comparison["throughput_ratio"]["median"].is_number(), "{comparison}");
        assert!(comparison["p99_ratio"]["highest"].is_number(), "{comparison}");
        let pairs = |name: &str| number(&comparison["pairs"][name]);
        assert_eq!(pairs("asked"), 2);
        assert!((2..=6).contains(&pairs("measured")), "{comparison}");
        let counted = if pairs("alike") > 0 { pairs("alike") } else { pairs("measured") };
        assert_eq!(pairs("counted"), counted, "{comparison}");
        for side in sides {
            let rounds = side["rounds"].as_array().expect("a list");
            assert_eq!(rounds.len() as u64, pairs("measured"), "every round is told");
            assert!(rounds.iter().all(|round| round["cores_apart_ns"].as_array().map(Vec::len) == Some(2)));
        }
    }
    assert_eq!(entries(root.path()), 0, "the directories were made for it");
}

#[test]
fn the_rows_that_are_no_loads_print_their_figures() {
    let root = DataDir::new();
    let flag = format!("--data-dir={}", root.path().display());
    let help = run(program(&["help", "bench"])).succeeded();
    // The rows set this one themselves.
    let said = &["--", "--journal-mib", "512"][..];
    for (arguments, names) in [
        (&["memory", "--accounts=100"][..], &["resident_bytes", "peak_bytes", "bytes_per_account"][..]),
        (&["restart", "--accounts=100", "--deposits=300"], &["commits", "restart_ns", "replay_ns"]),
        (&["snapshot", "--accounts=100", "--connections=4", "--rounds=1"], &["worst_p99_with_ns", "slices"]),
        (&["idle", "--duration=0.1"], &["cpu_ns", "resident_bytes"]),
    ] {
        let ran = run(program(
            &[&["bench"], arguments, &["--shards=2", "--json", "--log=warn", &flag], said].concat(),
        ));
        let report = report(ran);
        assert_eq!(report["row"], arguments[0]);
        for name in report.as_object().expect("an object").keys() {
            let is_name = |word: &str| word.trim_matches([',', '(', ')']) == name;
            assert!(help.split_whitespace().any(is_name), "{name} in the help");
        }
        for name in names {
            assert!(report[name].is_number(), "{name} in {report}");
        }
        assert_eq!(entries(root.path()), 0, "{arguments:?}");
    }
}

#[test]
fn what_goes_wrong_is_told_and_cleaned_up() {
    let root = DataDir::new();
    let flag = format!("--data-dir={}", root.path().display());
    // Nothing can be recorded on a disk with so large a reserve.
    let ran = bench(&["deposit"], &[&flag, DURATIONS[0], "--", "--disk-reserve-mib=1000000000"]);
    ran.refused("disk-full");
    let ran = bench(&["deposit"], &[&flag, DURATIONS[0], "--", "--no-such-flag"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("--no-such-flag"), "{ran:?}");
    let ran = bench(&["read"], &[&flag, "--url=http://127.0.0.1:1"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("teller: http://127.0.0.1:1 cannot be reached"), "{ran:?}");
    assert_eq!(entries(root.path()), 0);
    // "No such file or directory" was all that was told.
    let file = root.path().join("file");
    fs::write(&file, "").expect("written");
    let place = file.join("ledgers").display().to_string();
    run(program(&["bench", "idle", "--data-dir", &place]))
        .refused(&format!("cannot make the directory {place}: Not a directory"));
}

#[test]
fn an_interrupt_leaves_no_process_and_no_directory() {
    let root = DataDir::new();
    let (bench, child) = endless(root.path());
    bench.interrupt();
    bench.output().refused("interrupted");
    assert!(!is_alive(child), "the server has ended before the bench");
    assert_eq!(entries(root.path()), 0);
}

#[test]
fn a_bench_that_is_killed_takes_its_server_with_it() {
    let root = DataDir::new();
    let (bench, child) = endless(root.path());
    bench.kill();
    wait_until("the server has ended", || !is_alive(child));
}

/// A bench in the midst of its work, and its server.
fn endless(directory: &Path) -> (Running, u32) {
    let flag = format!("--data-dir={}", directory.display());
    let arguments = ["bench", "deposit", "--accounts=20", "--connections=4", "--duration=600", &flag];
    let bench = Running::start(program(&arguments));
    let mut child = None;
    wait_until("there is a server with accounts", || {
        child = child_of(bench.id());
        let journal = || fs::read_dir(directory).ok()?.find_map(|bench| manifest(&bench.ok()?.path()));
        child.is_some() && journal().is_some()
    });
    (bench, child.expect("it was found"))
}

fn manifest(bench: &Path) -> Option<()> {
    bench.join("ledger-0/manifest.json").exists().then_some(())
}

/// The process that another has started.
fn child_of(parent: u32) -> Option<u32> {
    let parent_of = |process: u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let processes = fs::read_dir("/proc").expect("Linux");
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.into_iter().find(|process| parent_of(*process) == Some(parent))
}

/// Whether a process runs. One that has ended and that nobody waits for does not.
fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("it is there").count()
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TIME_MAX;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {TIME_MAX:?}");
        thread::sleep(POLL_INTERVAL);
    }
}
