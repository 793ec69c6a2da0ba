//! `teller bench`: what this server does on this machine, beside a reference measured in the same minutes.
//!
//! # Why a subcommand
//! Whoever is to believe a figure must be able to repeat it with one command, with the program that they run and on the
//! disk that they use. So the load, the references and the arithmetic are in the binary, and everything that a row needs
//! is started by it: a server of its own (this very program, with a temporary ledger), the bare server, Redis.
//!
//! # What a figure is worth
//! - Absolute values say how fast a machine was in one minute; it may be half as fast in the next. So all sides are
//!   measured in turn, a round of each, the next time the other way round, and the *ratio* of each pair of rounds is what
//!   counts: its median, and how far the rounds lie apart. On a virtual machine it may change from one round to the next
//!   as well: [`machine`] measures that, and [`pairs`] says which pairs count.
//! - The load is on the same machine and takes its part of the cores: [`generator`] says what it does to take little, and
//!   when latencies count. It takes the same from every side.
//! - Between rounds everything that was started comes to rest: what one round left to do, such as a snapshot, is not done
//!   in the next one's time. So where rounds are short, most compaction is in nobody's: it takes 0.1 to 0.3 us a
//!   transaction, a fiftieth of what a deposit over HTTP does. `--duration 2` has it inside.
//! - The ledger is on the disk of the data directory. In memory `fdatasync` would cost nothing: that is warned of.
//! - A reply that is not as it should be makes the exit code 1, and so does a ledger that in the end does not have what it
//!   acknowledged: fewer new events than changes, or, of a server of its own, another sum of all money. A wrong server
//!   can be as fast as it likes.
//!
//! # Parts
//! [`load`] what is sent, and the notation of `--compare`; [`generator`] how, with [`reply`] and [`histogram`];
//! [`duel`] rounds of several sides in turn, with [`pairs`] and [`machine`]; [`rows`] what is no load: memory, restart,
//! snapshot, idle; [`teller`], [`bare`] and [`redis`] what is measured; [`children`] processes and directories, and that
//! they go; [`report`] tables and JSON.
//!
//! Left out: other machines' servers, TLS, and graphs. The load of a server somewhere else is a load tool's job.

mod bare;
mod children;
mod duel;
mod generator;
mod histogram;
mod load;
mod machine;
mod pairs;
mod redis;
mod reply;
mod report;
mod rows;
mod teller;

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use crate::client::{BaseUrl, BaseUrlError, ClientError};
use crate::config::{LedgerLocation, LocationArgs, LogArgs, parse_data_dir, whole};
use children::{Directory, Interrupt};
use load::{Against, Shape, Spec, Workload};

const LONG_ABOUT: &str = "\
Measures a server on this machine under a load, beside references that are measured in the same minutes.

It starts a server of its own, this very program with a temporary ledger in the data directory, opens accounts, and \
measures; the server and the ledger are gone afterwards, after an error or Ctrl-C too. With --url it loads a server \
that runs already, and WRITES TO ITS LEDGER: accounts bench-0000000000 and so on, and their transactions, which stay. \
It keeps the shards that it has: what can be compared there is another load.

--compare measures something else as well, in turn with the first, and prints the ratio of each pair of rounds: median \
(of two in the middle their mean), lowest and highest, or none where the other side has answered nothing. A pair \
counts if the machine was alike in both rounds: its first two cores as far apart before and after each, by the time in \
which they hand one another a cache line, and no more than 3 % of the time of all cores taken by the host. Others are \
measured again, up to three times as many turns as asked for. It may be given several times:
  bare        a server that only gives the reply that teller gave, on its best number of threads
  redis       Redis with appendonly and appendfsync always, adding to a balance and a log in one script
  a change    another load, told by what is different: a workload, settings as NAME=VALUE, or several with commas \
between, such as accounts=1000000 or deposit,connections=64

Results go to stdout: a table, or with --json one object:
  row, seed, duration_ms
  sides[]: name, unit, settings, totals, errors (by what was wrong), rounds[], and of these the medians: per_second, \
latency_ns {p50, p90, p99, p99_9}, with max, the longest of all rounds. A round has these, requests, unsent and late \
(0 without --rate; late are those too that the load itself never sent), and of the machine cores_apart_ns [before, \
after] and stolen, a part of 1; null where that cannot be measured
  comparisons[]: with, throughput_ratio and p99_ratio {median, lowest, highest}, always the first side's to the \
other's, null where that is nothing; pairs {asked, measured, alike, counted}: the alike ones count, or all if fewer than half of those asked for \
are alike; by_cores_apart[]: the alike ones by state of the machine: cores_apart_ns, pairs, and both ratios
The rows that are no loads have one member a figure; _ns is nanoseconds, _bytes bytes:
  memory    row, accounts, shards, opening_ns, empty_bytes (with no account), resident_after_opening_bytes, \
resident_bytes (at rest), peak_bytes, bytes_per_account
  restart   row, accounts, deposits, commits, shards, snapshot_only_ns (a restart without a journal), restart_ns (with \
it), replay_ns and replay_cpu_ns (the difference), resident_bytes, and where the difference is large enough to be one \
replayed_per_second, replayed_per_second_and_core
  snapshot  row, accounts, connections, shards, snapshots, slices (of 250 ms, with a snapshot), and of the snapshots \
the medians snapshot_ns, worst_p99_with_ns, worst_p99_without_ns (of their slices, and of as many without), \
worst_p99_ratio {median, lowest, highest}, null where that is nothing
  idle      row, shards, watched_ns, cpu_ns, cpu_percent (of one core), resident_bytes

Needs Linux, since it reads /proc, and room in the data directory. Build it with --release.";

const AFTER_HELP: &str = "\
Examples:
  teller bench deposit --compare bare
  teller bench read --connections 64 --compare bare
  teller bench transfer --shards 2 --pairs cross-shard --compare deposit
  teller bench batch --accounts 1000000 --compare accounts=10000
  teller bench batch --pairs hot --compare pairs=any
  teller bench deposit --rate 20000 --json
  teller bench deposit -- --journal-mib 64          flags for the server behind --

Exit codes: 0 measured; 1 a reply was not as it should be, the ledger does not have what it acknowledged, something \
cannot be started, or it was interrupted (told on stderr); 2 wrong usage.";

/// A round shorter than this is all start and end.
const DURATION_MS: std::ops::RangeInclusive<u64> = 10..=600_000;
const ROUNDS: std::ops::RangeInclusive<u64> = 1..=1_000;

/// Measure a server on this machine
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    row: Row,
}

#[derive(Subcommand, Debug)]
enum Row {
    /// Durable deposits to random accounts, version 1 of the wire
    Deposit(LoadArgs),
    /// Reads of random accounts, version 1 of the wire
    Read(LoadArgs),
    /// Single transfers between two accounts
    Transfer(LoadArgs),
    /// Single transfers that all have one account in them: `transfer --pairs hot`
    Hot(LoadArgs),
    /// Transfers in batches: POST /v2/batches, one item a line
    Batch(LoadArgs),
    /// 50 % reads, 20 % deposits, 20 % transfers, 10 % withdrawals
    Mixed(LoadArgs),
    /// Memory of a server with many accounts
    Memory(rows::MemoryArgs),
    /// Time of a restart, from the start of the process until /readyz says 200, its files in the cache; and how much of
    /// a journal is replayed in a second, and in a second of CPU time
    Restart(rows::RestartArgs),
    /// Latency of deposits while a snapshot is being written
    Snapshot(rows::SnapshotArgs),
    /// CPU and memory of an empty server that nobody asks anything
    Idle(rows::IdleArgs),
    #[command(hide = true)]
    Bare(bare::Args),
    #[command(hide = true)]
    Under(children::UnderArgs),
}

/// What all rows have.
#[derive(clap::Args, Debug)]
struct CommonArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    log: LogArgs,

    /// Flags for the servers that are started, as `teller help serve` has them: all but --host, --port, --data-dir,
    /// --db-name, --shards and --log. They win over what a row sets itself (restart and snapshot: --journal-mib 1024
    /// and --snapshot-minutes 1440).
    #[arg(last = true, value_name = "SERVE-FLAGS")]
    serve_flags: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct PlaceArgs {
    /// The directory in which temporary ledgers are made: on the disk that is to be measured.
    /// [env: MZ_DATA_DIR] [default: data]
    #[arg(long, value_name = "DIRECTORY", value_parser = parse_data_dir)]
    data_dir: Option<std::path::PathBuf>,
}

/// What the loads have.
#[derive(clap::Args, Debug)]
struct LoadArgs {
    #[command(flatten)]
    shape: Shape,

    /// What is measured in turn with it: bare, redis, or a change such as accounts=1000000. More than one is allowed.
    #[arg(long, value_name = "WHAT", value_parser = Against::parse)]
    compare: Vec<Against>,

    /// Load this server, which runs on this machine, and write to its ledger.
    #[arg(long, value_parser = BaseUrl::parse)]
    url: Option<BaseUrl>,

    #[command(flatten)]
    rounds: RoundArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// For how long, and how often.
#[derive(clap::Args, Clone, Copy, Debug)]
struct RoundArgs {
    /// How many rounds each side has, 1 to 1000; compared, how many pairs of rounds in which the machine was alike.
    /// [default: 24; of batches and with --rate 5]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(ROUNDS))]
    rounds: Option<usize>,

    /// How long a round is, in seconds from 0.01 to 600, such as 2 or 0.5. [default: 0.2; of batches and with --rate 2]
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    duration: Option<Duration>,

    /// For how long each side is loaded before the first round, in seconds from 0.01 to 600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_duration)]
    warm_up: Duration,

    /// What the random choices are made from, 0 to 18446744073709551615; printed, so that a run can be repeated.
    #[arg(long, default_value = "1")]
    seed: u64,
}

/// The same, with what was not given as it suits the load.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    count: usize,
    duration: Duration,
    warm_up: Duration,
    seed: u64,
}

impl RoundArgs {
    /// Many short rounds are worth more than a few long ones: the machine changes within fewer of them, and one in
    /// which it does is one of many. But where little is sent, as batches are, or as a rate says, a short round would
    /// count its begin and its end.
    fn settle(&self, little: bool) -> Rounds {
        let (count, millis) = if little { (5, 2_000) } else { (24, 200) };
        Rounds {
            count: self.rounds.unwrap_or(count),
            duration: self.duration.unwrap_or(Duration::from_millis(millis)),
            warm_up: self.warm_up,
            seed: self.seed,
        }
    }
}

/// Seconds with up to three decimals.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let millis = format!("{whole}{decimals:0<3}").parse().ok();
    millis
        .filter(|millis| {
            digits(whole) && digits(decimals) && decimals.len() <= 3 && DURATION_MS.contains(millis)
        })
        .map(Duration::from_millis)
        .ok_or_else(|| "must be seconds from 0.01 to 600, such as 2 or 0.5".into())
}

/// Why there is no figure, or none to be believed.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// The system, in what says itself what it is about.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The system, which says why but not of what.
    #[error("cannot {what}: {source}")]
    Cannot { what: String, source: io::Error },
    /// A setting that only turned out to be wrong with the others.
    #[error("{0}")]
    Setting(String),
    /// `--url`.
    #[error("--url {0}")]
    Url(#[from] BaseUrlError),
    /// No reply to a request that prepares something.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another reply than expected to a request that prepares something.
    #[error("{path} answered {status}: {body}")]
    Unexpected { path: String, status: u16, body: String },
    /// A child.
    #[error("a process that was started here {end}; its log ends with:\n{log}")]
    Child { end: String, log: String },
    /// There is no Redis.
    #[error(
        "no redis-server is on the PATH; install it (Debian: apt-get install redis-server), or leave out --compare redis"
    )]
    NoRedis,
    /// Money was lost or made.
    #[error(
        "the ledger is wrong: the outside world stands at {world} where acknowledged requests make it {expected}"
    )]
    Balance { world: String, expected: String },
    /// Changes were lost, or never made.
    #[error("the ledger is wrong: its log grew by {events} events where {changes} changes were acknowledged")]
    Events { events: u64, changes: u64 },
    /// Replies that are not as they should be.
    #[error("{count} replies were not as they should be ({which}): these figures are of no use")]
    WrongReplies { count: u64, which: String },
    /// Something that was waited for.
    #[error("{0}")]
    TimedOut(String),
    /// Ctrl-C.
    #[error("interrupted; the servers that were started here and their ledgers are gone")]
    Interrupted,
}

impl BenchError {
    /// Makes an error of the system's one that says what could not be done.
    fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
        let what = what.into();
        |source| BenchError::Cannot { what, source }
    }
}

impl Args {
    /// Looks for contradictions before anything is started.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_load()?;
        let said = self.common().map_or(&[][..], |common| &common.serve_flags);
        said.iter().try_for_each(|flag| check_serve_flag(flag))
    }

    fn check_load(&self) -> Result<(), String> {
        let Some((workload, args)) = self.load() else { return Ok(()) };
        // A server that runs is asked how many it has; until then it may have several.
        let shards = if args.url.is_some() { crate::ledger::SHARDS_MAX } else { default_shards() };
        Spec::new(workload, &args.shape, shards)?;
        for against in &args.compare {
            match against {
                Against::Bare if workload == Workload::Mixed => {
                    return Err("bare gives one reply, and mixed has several".into());
                }
                Against::Bare => {}
                Against::Redis if workload != Workload::Deposit => {
                    return Err("redis does what a deposit does: compare it with deposit".into());
                }
                Against::Redis => {}
                Against::Load(change) => {
                    Spec::changed(workload, &args.shape, change, shards)?;
                }
            }
        }
        match &args.url {
            Some(_) if !args.common.serve_flags.is_empty() => {
                Err("--url names a server that runs already: it takes no flags".into())
            }
            Some(url) => url.loopback_address().map(drop).map_err(|error| format!("--url {error}")),
            None => Ok(()),
        }
    }

    fn load(&self) -> Option<(Workload, &LoadArgs)> {
        match &self.row {
            Row::Deposit(args) => Some((Workload::Deposit, args)),
            Row::Read(args) => Some((Workload::Read, args)),
            Row::Transfer(args) => Some((Workload::Transfer, args)),
            Row::Hot(args) => Some((Workload::Hot, args)),
            Row::Batch(args) => Some((Workload::Batch, args)),
            Row::Mixed(args) => Some((Workload::Mixed, args)),
            _ => None,
        }
    }

    fn common(&self) -> Option<&CommonArgs> {
        match &self.row {
            Row::Memory(args) => Some(&args.common),
            Row::Restart(args) => Some(&args.common),
            Row::Snapshot(args) => Some(&args.common),
            Row::Idle(args) => Some(&args.common),
            _ => self.load().map(|(_, args)| &args.common),
        }
    }

    /// How to log; the parts that a bench starts of itself do not.
    pub(super) fn log(&self) -> Option<&LogArgs> {
        self.common().map(|common| &common.log)
    }

    /// Where temporary ledgers are to be.
    pub(super) fn location(&self) -> LocationArgs {
        let data_dir = self.common().and_then(|common| common.place.data_dir.clone());
        LocationArgs { data_dir, ..LocationArgs::default() }
    }
}

/// The name of a flag, which may have its value behind it; none of what is a value.
fn flag_name(flag: &str) -> Option<&str> {
    flag.strip_prefix("--").map(|rest| rest.split_once('=').map_or(rest, |(name, _)| name))
}

/// Refuses a flag for the servers that a bench has to choose itself.
fn check_serve_flag(flag: &str) -> Result<(), String> {
    let reason = match flag_name(flag) {
        Some("host" | "port") => "it listens on 127.0.0.1, on a port that nobody else uses",
        Some("data-dir" | "db-name") => {
            "its ledger is a temporary one; --data-dir before -- says on which disk it is made"
        }
        Some("shards") => "--shards before -- says how many it has",
        Some("log") => "what it logs is shown where it fails; --log before -- is for what the bench logs",
        _ => return Ok(()),
    };
    Err(format!("{flag} behind -- is not for a server that a bench starts: {reason}"))
}

/// Measures what the command line asks for.
pub(super) fn run(args: &Args, location: &LedgerLocation) -> Result<(), Box<dyn Error>> {
    match &args.row {
        Row::Bare(args) => return bare::run(args),
        Row::Under(args) => return Err(children::under(args).into()),
        _ => {}
    }
    if cfg!(debug_assertions) {
        tracing::warn!("this is a debug build: its figures mean nothing");
    }
    allow_connections();
    let interrupt = Interrupt::listen()?;
    let bench = Bench { interrupt, directory: Directory::new(&location.data_dir)? };
    if bench.directory.is_in_memory() {
        tracing::warn!(
            path = %location.data_dir.display(),
            "this file system is in memory: nothing there is durable, and syncing costs nothing; choose a disk with \
             --data-dir"
        );
    }
    if let Some((workload, args)) = args.load() {
        let report = duel::run(workload, args, &bench)?;
        print(&report, args.common.json)?;
        return Ok(check_replies(report.wrong_replies())?);
    }
    let (report, json) = match &args.row {
        Row::Memory(args) => (rows::memory(args, &bench)?, args.common.json),
        Row::Restart(args) => (rows::restart(args, &bench)?, args.common.json),
        Row::Snapshot(args) => (rows::snapshot(args, &bench)?, args.common.json),
        Row::Idle(args) => (rows::idle(args, &bench)?, args.common.json),
        _ => unreachable!("all others have been dealt with"),
    };
    print(&report, json)?;
    Ok(())
}

/// An error if some replies were not as they should be, told by what was wrong with how many.
fn check_replies(wrong: impl IntoIterator<Item = (String, u64)>) -> Result<(), BenchError> {
    let (which, counts): (Vec<String>, Vec<u64>) =
        wrong.into_iter().map(|(what, count)| (format!("{what}: {count}"), count)).unzip();
    match counts.iter().sum() {
        0 => Ok(()),
        count => Err(BenchError::WrongReplies { count, which: which.join(", ") }),
    }
}

/// What every row works with. The directory goes when this does, so it must outlive all that was started in it.
struct Bench {
    interrupt: Interrupt,
    directory: Directory,
}

fn print(report: &(impl Display + Serialize), json: bool) -> Result<(), Box<dyn Error>> {
    let mut text = if json { serde_json::to_string_pretty(report)? } else { report.to_string() };
    if json {
        text.push('\n');
    }
    Ok(super::print(&text)?)
}

/// As many as a new ledger gets.
fn default_shards() -> usize {
    crate::server::half_of_the_cores().min(crate::ledger::SHARDS_MAX)
}

/// Asks for as many open files as the system allows: each connection of the load is one.
fn allow_connections() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, connecting will say what is missing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_longer_rounds_unless_told() {
        let args = RoundArgs { rounds: None, duration: None, warm_up: Duration::ZERO, seed: 1 };
        assert!(args.settle(true).duration > args.settle(false).duration);
        assert!(args.settle(true).count < args.settle(false).count);
        let told = RoundArgs { rounds: Some(7), duration: Some(Duration::from_secs(1)), ..args };
        for batches in [true, false] {
            let Rounds { count, duration, .. } = told.settle(batches);
            assert_eq!((count, duration), (7, Duration::from_secs(1)));
        }
    }

    /// The row of snapshots said "see the table", and had none.
    #[test]
    fn what_was_wrong_with_replies_is_told_with_how_many_there_were() {
        check_replies([]).expect("none is wrong");
        let error = check_replies([("status 503".to_owned(), 2), ("no reply in time".to_owned(), 1)]);
        let told = error.expect_err("some are wrong").to_string();
        assert_eq!(
            told,
            "3 replies were not as they should be (status 503: 2, no reply in time: 1): these figures are of no use"
        );
    }

    #[test]
    fn durations_are_seconds_with_up_to_three_decimals() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("0.01", 10), ("1.25", 1250), ("600", 600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0.009", "600.001", "-1", "1.2345", ".5", "1.", "2s", "1e3", "+1"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
