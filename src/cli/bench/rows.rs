//! The rows that are no loads: memory, restart, snapshot, idle. They read `/proc`, and so need Linux.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::children::{Child, Interrupt};
use super::duel::cannot_load;
use super::generator::{self, Run};
use super::load::{CONNECTIONS, Load, Shape, Spec, Workload};
use super::report::{Figure, FiguresReport, Ratio, Spread, Value, median_or_mean};
use super::teller::{Start, Teller};
use super::{
    Bench, BenchError, CommonArgs, ROUNDS, check_replies, default_shards, flag_name, parse_duration,
};
use crate::config::{SHARDS, whole};
use crate::progress::Progress;
use crate::random::Random;

/// How many accounts or deposits there are: a row without any would measure nothing.
const COUNTS: RangeInclusive<u64> = 1..=1_000_000_000;

/// The ledger of all these rows.
const LEDGER: &str = "ledger";

/// Flags with which a server takes no snapshot by itself for as long as a row lasts.
const NO_SNAPSHOTS: [&str; 2] = ["--journal-mib=1024", "--snapshot-minutes=1440"];

/// How long a snapshot of a ledger may take to be written.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(120);
/// Latencies while a snapshot is written are told for each part of it that is so long. Shorter, a p99 is of a handful
/// of requests; longer, a short stall drowns.
const SLICE: Duration = Duration::from_millis(250);
/// So much is deposited before a snapshot is asked for: enough that the load has come to its pace.
const FRESH_SLICES: usize = 8;
/// How long a new server may still be busy with having started.
const SETTLE_TIME: Duration = Duration::from_secs(2);

#[derive(clap::Args, Debug)]
pub(super) struct MemoryArgs {
    /// How many accounts are opened, 1 to 1000000000, with names of 16 bytes.
    #[arg(long, value_name = "COUNT", default_value = "10000000", value_parser = whole::<u64>(COUNTS))]
    accounts: u64,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct RestartArgs {
    /// How many accounts the snapshot has, 1 to 1000000000.
    #[arg(long, value_name = "COUNT", default_value = "10000000", value_parser = whole::<u64>(COUNTS))]
    accounts: u64,
    /// How many deposits are in the journal behind it, 1 to 1000000000, in records as live traffic makes them.
    // Its name was --records.
    #[arg(long, alias = "records", value_name = "COUNT", default_value = "1000000", value_parser = whole::<u64>(COUNTS))]
    deposits: u64,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct SnapshotArgs {
    /// How many accounts the snapshot has, 1 to 1000000000.
    #[arg(long, value_name = "COUNT", default_value = "1000000", value_parser = whole::<u64>(COUNTS))]
    accounts: u64,
    /// On how many connections deposits are made, 1 to 10000.
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = whole::<usize>(CONNECTIONS))]
    connections: usize,
    /// How many snapshots are measured, 1 to 1000; before each there is another one.
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = whole::<usize>(ROUNDS))]
    rounds: usize,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct IdleArgs {
    /// For how long it is watched, in seconds from 0.01 to 600.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(clap::Args, Debug)]
struct ServerArgs {
    /// How many shards the server gets, 1 to 1024. [default: half the number of cores]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(SHARDS))]
    shards: Option<usize>,
}

impl ServerArgs {
    fn shards(&self) -> usize {
        self.shards.unwrap_or_else(default_shards)
    }

    fn start(&self, bench: &Bench, common: &CommonArgs, more: &[&str]) -> Result<Teller, BenchError> {
        let flags = flags(more, &common.serve_flags);
        let directory = &bench.directory;
        let start = Start { directory, ledger: LEDGER, shards: self.shards(), flags: &flags };
        Teller::start(&start, &bench.interrupt)
    }
}

/// What a row sets and what the user says behind `--`. `serve` takes a flag once, so a row's own gives way.
fn flags(own: &[&str], said: &[String]) -> Vec<String> {
    let is_said = |flag: &&&str| said.iter().any(|said| flag_name(said) == flag_name(flag));
    let own = own.iter().filter(|flag| !is_said(flag)).map(|flag| (*flag).to_owned());
    own.chain(said.iter().cloned()).collect()
}

/// The memory of a server with many accounts.
pub(super) fn memory(args: &MemoryArgs, bench: &Bench) -> Result<FiguresReport, BenchError> {
    let mut teller = args.server.start(bench, &args.common, &[])?;
    let empty = child(&teller).resident_bytes()?;
    let started = Instant::now();
    teller.open(args.accounts, false, &bench.interrupt)?;
    let opening_ns = nanos(started.elapsed());
    let opened = child(&teller).resident_bytes()?;
    child(&teller).wait_until_quiet(&bench.interrupt)?;
    let resident = child(&teller).resident_bytes()?;
    let peak = child(&teller).peak_bytes()?;
    let figures = vec![
        count("accounts", args.accounts),
        count_of("shards", args.server.shards()),
        figure("opening_ns", "opened in", Value::Nanoseconds(opening_ns)),
        figure("empty_bytes", "resident, empty", Value::Bytes(empty)),
        figure("resident_after_opening_bytes", "resident, after the last opening", Value::Bytes(opened)),
        figure("resident_bytes", "resident, at rest", Value::Bytes(resident)),
        figure("peak_bytes", "resident, the most until then", Value::Bytes(peak)),
        figure(
            "bytes_per_account",
            "an account",
            Value::Bytes(resident.saturating_sub(empty) / args.accounts),
        ),
    ];
    Ok(FiguresReport { row: "memory", figures })
}

/// A difference of two starts is told as a rate if it is more than one of so many parts of the shorter one.
const DIFFERENCE_TOLD: u32 = 5;

/// The time of a restart: without anything behind the snapshot, then with a journal behind it. Both count from the start
/// of the process to the first reply 200 of `/readyz`, with the files in the system's cache, as after a crash of the
/// process. The difference is what the journal costs, opening the store included. A shard's journal is read by one thread
/// and applied by another, so what it costs a core is the difference in CPU time, and not in time.
pub(super) fn restart(args: &RestartArgs, bench: &Bench) -> Result<FiguresReport, BenchError> {
    let interrupt = &bench.interrupt;
    let mut teller = args.server.start(bench, &args.common, &[])?;
    teller.open(args.accounts, false, interrupt)?;
    let opened = teller.acknowledged();
    // Asked to end, it takes a snapshot of all that it has.
    teller.into_child().end(interrupt)?;
    let start = || -> Result<(Teller, Duration, Duration), BenchError> {
        let started = Instant::now();
        // It says where it listens when it serves; that it does is asked for within this as well.
        let teller = args.server.start(bench, &args.common, &NO_SNAPSHOTS)?;
        let time = started.elapsed();
        let cpu_time = child(&teller).cpu_time_whole()?;
        Ok((teller, time, cpu_time))
    };
    let (mut teller, snapshot_time, snapshot_cpu_time) = start()?;
    teller.goes_on_from(opened);
    teller.deposit(args.deposits, args.accounts, interrupt)?;
    let commits = teller.commits()?;
    child(&teller).wait_until_quiet(interrupt)?;
    let paid_in = teller.acknowledged();
    // Killed, it takes no snapshot: what it wrote since the start is in the journal only.
    teller.into_child().kill()?;
    let (mut teller, time, cpu_time) = start()?;
    let replay = time.saturating_sub(snapshot_time);
    let replay_cpu = cpu_time.saturating_sub(snapshot_cpu_time);
    let resident = child(&teller).resident_bytes()?;
    // Everything is measured: what the journal had is all there.
    teller.goes_on_from(paid_in);
    teller.check_ledger()?;
    let mut figures = vec![
        count("accounts", args.accounts),
        count("deposits", args.deposits),
        figure("commits", "in commits, a record or more each", Value::Count(commits)),
        count_of("shards", args.server.shards()),
        figure("snapshot_only_ns", "restart, snapshot only", Value::Nanoseconds(nanos(snapshot_time))),
        figure("restart_ns", "restart, with the journal", Value::Nanoseconds(nanos(time))),
        figure("replay_ns", "the difference", Value::Nanoseconds(nanos(replay))),
        figure("replay_cpu_ns", "the difference in CPU time", Value::Nanoseconds(nanos(replay_cpu))),
        figure("resident_bytes", "resident afterwards", Value::Bytes(resident)),
    ];
    // Of many accounts and few deposits the difference is less than one start differs from another: no rate then.
    for (name, label, time, without) in [
        ("replayed_per_second", "replayed a second", replay, snapshot_time),
        ("replayed_per_second_and_core", "replayed a second of CPU time", replay_cpu, snapshot_cpu_time),
    ] {
        if time > without / DIFFERENCE_TOLD {
            let per_second = u128::from(args.deposits) * 1_000_000_000 / time.as_nanos();
            figures.push(figure(name, label, Value::Count(per_second as u64)));
        }
    }
    Ok(FiguresReport { row: "restart", figures })
}

/// The worst p99 of deposits in any slice, while snapshots are written and while none is.
pub(super) fn snapshot(args: &SnapshotArgs, bench: &Bench) -> Result<FiguresReport, BenchError> {
    let mut deposits = Deposits::start(args, bench)?;
    let progress = Progress::new("measuring", "snapshots", Some(args.rounds as u64));
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(deposits.round()?);
        progress.add(1);
    }
    progress.finish();
    deposits.teller.check_ledger()?;
    let median_of = |figure: fn(&Round) -> u64| Value::Nanoseconds(median_or_mean(rounds.iter().map(figure)));
    let slices = rounds.iter().map(|round| round.slices).sum();
    let ratios =
        rounds.iter().map(|round| Ratio::of(round.worst_with_ns.into(), round.worst_without_ns.into()));
    let figures = vec![
        count("accounts", args.accounts),
        count_of("connections", args.connections),
        count_of("shards", args.server.shards()),
        count_of("snapshots", args.rounds),
        figure("slices", "slices of 250 ms with a snapshot", Value::Count(slices)),
        figure("snapshot_ns", "a snapshot takes", median_of(|round| round.snapshot_ns)),
        figure("worst_p99_with_ns", "worst p99 with a snapshot", median_of(|round| round.worst_with_ns)),
        figure("worst_p99_without_ns", "worst p99 without", median_of(|round| round.worst_without_ns)),
        figure("worst_p99_ratio", "with / without", Value::Ratios(Spread::of(ratios))),
    ];
    Ok(FiguresReport { row: "snapshot", figures })
}

/// What is measured of one snapshot.
struct Round {
    snapshot_ns: u64,
    /// How many slices it took.
    slices: u64,
    /// The worst p99 of those.
    worst_with_ns: u64,
    /// And of as many without a snapshot.
    worst_without_ns: u64,
}

/// A server, and the deposits that it is asked for slice by slice.
struct Deposits<'a> {
    teller: Teller,
    shards: usize,
    ledger: PathBuf,
    run: Run,
    random: Random,
    interrupt: &'a Interrupt,
}

impl<'a> Deposits<'a> {
    /// Starts the server and opens the accounts.
    fn start(args: &SnapshotArgs, bench: &'a Bench) -> Result<Deposits<'a>, BenchError> {
        let mut teller = args.server.start(bench, &args.common, &NO_SNAPSHOTS)?;
        let accounts = args.accounts.max(2);
        teller.open(accounts, false, &bench.interrupt)?;
        let shape =
            Shape { accounts: Some(accounts), connections: Some(args.connections), ..Shape::default() };
        let shards = args.server.shards();
        let spec = Spec::new(Workload::Deposit, &shape, shards).map_err(BenchError::Setting)?;
        let (authority, base) = teller.authority_and_base();
        let load = Load::to_teller(&spec, authority, base).map_err(BenchError::Setting)?;
        let run = Run {
            address: teller.address(),
            load: Arc::new(load),
            connections: spec.connections,
            threads: 1,
            rate: None,
            lead: Duration::ZERO,
            window: SLICE,
            seed: 0,
        };
        let ledger = bench.directory.path().join(LEDGER);
        Ok(Deposits { teller, shards, ledger, run, random: Random::new(1), interrupt: &bench.interrupt })
    }

    fn round(&mut self) -> Result<Round, BenchError> {
        // What the rounds before have written goes into a snapshot of its own: else each would have more to do than the
        // one before it, and take longer, and have the next one do even more.
        self.take_snapshot(|deposits| deposits.interrupt.sleep(SLICE))?;
        self.come_to_pace()?;
        let (mut slices, mut worst_with_ns) = (0, 0);
        let time = self.take_snapshot(|deposits| {
            worst_with_ns = worst_with_ns.max(deposits.slice()?);
            slices += 1;
            Ok(())
        })?;
        self.come_to_pace()?;
        let mut worst_without_ns = 0;
        for _ in 0..slices {
            worst_without_ns = worst_without_ns.max(self.slice()?);
        }
        Ok(Round { snapshot_ns: nanos(time), slices, worst_with_ns, worst_without_ns })
    }

    /// Makes deposits for as long as a slice. Their p99, in nanoseconds.
    fn slice(&mut self) -> Result<u64, BenchError> {
        self.run.seed = self.random.number();
        let measured = generator::run(&self.run, self.interrupt.flag()).map_err(cannot_load(&self.run))?;
        self.interrupt.check()?;
        check_replies(measured.errors)?;
        self.teller.has_done(&measured.totals);
        Ok(nanos(measured.latencies.percentile(9_900)))
    }

    /// Lets the server finish what it still does, and the load come to its pace.
    fn come_to_pace(&mut self) -> Result<(), BenchError> {
        child(&self.teller).wait_until_quiet(self.interrupt)?;
        for _ in 0..FRESH_SLICES {
            self.slice()?;
        }
        Ok(())
    }

    /// Asks for a snapshot, and does `meanwhile` again and again until every shard has one. How long it took.
    fn take_snapshot(
        &mut self,
        mut meanwhile: impl FnMut(&mut Self) -> Result<(), BenchError>,
    ) -> Result<Duration, BenchError> {
        let newest = |deposits: &Self| {
            let what = format!("read the directory {}", deposits.ledger.display());
            newest_snapshots(&deposits.ledger).map_err(BenchError::cannot(what))
        };
        let before = newest(self)?;
        child(&self.teller).signal(Signal::USR1)?;
        let started = Instant::now();
        loop {
            meanwhile(self)?;
            let now = newest(self)?;
            if now.len() == self.shards && now.iter().all(|(shard, last)| before.get(shard) < Some(last)) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > SNAPSHOT_TIME_MAX {
                let seconds = SNAPSHOT_TIME_MAX.as_secs();
                return Err(BenchError::TimedOut(format!("there is no new snapshot after {seconds} s")));
            }
        }
    }
}

/// The sequence of each shard's newest finished snapshot.
fn newest_snapshots(ledger: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    let mut newest = BTreeMap::new();
    for shard in std::fs::read_dir(ledger)? {
        let shard = shard?;
        let Ok(files) = std::fs::read_dir(shard.path().join("snapshots")) else { continue };
        let sequence = |name: &str| name.strip_suffix(".snapshot").and_then(|digits| digits.parse().ok());
        let last = files.filter_map(|file| sequence(file.ok()?.file_name().to_str()?)).max();
        if let Some(last) = last {
            newest.insert(shard.file_name().to_string_lossy().into_owned(), last);
        }
    }
    Ok(newest)
}

/// What a server does when there is nothing to do.
pub(super) fn idle(args: &IdleArgs, bench: &Bench) -> Result<FiguresReport, BenchError> {
    let teller = args.server.start(bench, &args.common, &[])?;
    bench.interrupt.sleep(SETTLE_TIME)?;
    let (started, before) = (Instant::now(), child(&teller).cpu_time()?);
    bench.interrupt.sleep(args.duration)?;
    let (watched, after) = (started.elapsed(), child(&teller).cpu_time()?);
    let used = after.saturating_sub(before);
    let percent = Ratio::of(used.as_nanos() * 100, watched.as_nanos());
    let figures = vec![
        count_of("shards", args.server.shards()),
        figure("watched_ns", "watched for", Value::Nanoseconds(nanos(watched))),
        figure("cpu_ns", "CPU time", Value::Nanoseconds(nanos(used))),
        figure("cpu_percent", "of one core, percent", Value::Ratio(percent)),
        figure("resident_bytes", "resident", Value::Bytes(child(&teller).resident_bytes()?)),
    ];
    Ok(FiguresReport { row: "idle", figures })
}

fn child(teller: &Teller) -> &Child {
    teller.child().expect("these rows start their own server")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn figure(name: &'static str, label: &'static str, value: Value) -> Figure {
    Figure { name, label, value }
}

fn count(name: &'static str, count: u64) -> Figure {
    figure(name, name, Value::Count(count))
}

fn count_of(name: &'static str, of: usize) -> Figure {
    count(name, of as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help says that flags may stand behind `--`, and the server refused those that the row had set.
    #[test]
    fn what_a_row_sets_gives_way_to_what_is_said_behind_the_dashes() {
        let said = ["--journal-mib", "512", "--cores=shared"].map(str::to_owned);
        assert_eq!(
            flags(&NO_SNAPSHOTS, &said),
            ["--snapshot-minutes=1440", "--journal-mib", "512", "--cores=shared"]
        );
        assert_eq!(flags(&NO_SNAPSHOTS, &[]), NO_SNAPSHOTS);
    }
}
