//! Several sides, a round of each in turn.

use std::cmp::Reverse;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::bare::LISTENS;
use super::children::{Child, this_program};
use super::generator::{self, Measured, Run, Totals};
use super::load::{Against, Load, Request, Spec, Workload};
use super::machine::Conditions;
use super::reply::Protocol;
use super::report::{Comparison, LoadReport, Round, Side, median};
use super::teller::{Start, Teller};
use super::{Bench, BenchError, LoadArgs, default_shards, pairs, redis};
use crate::client::BaseUrl;
use crate::progress::Progress;
use crate::random::Random;

/// What comes before the window of a round, to get going: a part of the window, and no more than a quarter of a second.
const LEAD_PART: u32 = 5;
const LEAD_MAX: Duration = Duration::from_millis(250);

/// How long all must have had nothing to do before a round: what servers do in the background they do in slices of less
/// than a millisecond, so that this shows it. Longer, the machine would more often be another one in the next round.
const REST_TIME: Duration = Duration::from_millis(100);

/// In how many parts each number of threads is tried for the bare server, in turn: the median of them is less often one
/// of the machine's moods than one long trial.
const TRIALS: u32 = 5;

/// How long one reply may take that is asked for before a run.
const REPLY_TIME_MAX: Duration = Duration::from_secs(10);

/// One of the things that are measured in turn.
struct Contender {
    spec: Spec,
    run: Run,
    /// The teller that it loads, if it is one.
    teller: Option<usize>,
    name: String,
    rounds: Vec<Round>,
    totals: Totals,
    errors: std::collections::BTreeMap<String, u64>,
}

/// Everything that is measured, and what it needs to run.
struct Arena<'a> {
    bench: &'a Bench,
    tellers: Vec<Teller>,
    others: Vec<Child>,
    contenders: Vec<Contender>,
}

/// Measures a load and what it is to be compared with.
pub(super) fn run(workload: Workload, args: &LoadArgs, bench: &Bench) -> Result<LoadReport, BenchError> {
    let mut arena = Arena { bench, tellers: Vec::new(), others: Vec::new(), contenders: Vec::new() };
    let running = args.url.as_ref().map(|url| Teller::running(url.clone())).transpose()?;
    let shards = running.as_ref().map_or_else(default_shards, Teller::shards);
    let first = Spec::new(workload, &args.shape, shards).map_err(BenchError::Setting)?;
    let changed = args.compare.iter().filter_map(|against| match against {
        Against::Load(change) => Some(Spec::changed(workload, &args.shape, change, shards)),
        Against::Bare | Against::Redis => None,
    });
    let changed: Vec<Spec> = changed.collect::<Result<_, _>>().map_err(BenchError::Setting)?;
    if let Some(other) = std::iter::once(&first).chain(&changed).find(|spec| spec.shards != shards)
        && running.is_some()
    {
        let asked = other.shards;
        return Err(BenchError::Setting(format!(
            "--url names a server with shards={shards}, which it keeps: nothing can be measured there with \
             shards={asked}"
        )));
    }
    let is_little = |spec: &Spec| spec.workload == Workload::Batch || spec.rate.is_some();
    let rounds = args.rounds.settle(std::iter::once(&first).chain(&changed).any(is_little));
    arena.start_tellers(&first, &changed, args, running)?;
    for against in &args.compare {
        match against {
            Against::Bare => arena.add_bare(&first, rounds.warm_up)?,
            Against::Redis => arena.add_redis(&first)?,
            Against::Load(_) => {}
        }
    }
    for number in 0..arena.contenders.len() {
        arena.measure(number, rounds.warm_up, rounds.seed, true)?;
    }
    let progress = Progress::new("measuring", "turns", Some(rounds.count as u64));
    let mut turn: u64 = 0;
    while pairs::is_another_needed(&arena.rounds(), rounds.count) {
        let count = arena.contenders.len();
        for place in 0..count {
            let number = if turn.is_multiple_of(2) { place } else { count - 1 - place };
            let seed = Random::new(rounds.seed ^ (turn + 1) << 32).number();
            arena.measure(number, rounds.duration, seed, false)?;
        }
        turn += 1;
        progress.add(pairs::turns_that_count(&arena.rounds()) as u64 - progress.done());
    }
    progress.finish();
    for teller in &arena.tellers {
        // Where replies are missing, nobody knows what it should have.
        if arena.contenders.iter().all(|contender| contender.errors.is_empty()) {
            teller.check_ledger()?;
        }
    }
    let sides: Vec<Side> = arena.contenders.drain(..).map(Contender::into_side).collect();
    let comparisons = sides[1..].iter().map(|other| Comparison::of(&sides[0], other, rounds.count)).collect();
    let duration_ms = rounds.duration.as_millis() as u64;
    Ok(LoadReport { row: workload.name(), seed: rounds.seed, duration_ms, sides, comparisons })
}

impl Arena<'_> {
    /// Starts a server for each number of accounts and shards, and adds the loads.
    /// With one that runs already, adds the loads of that.
    fn start_tellers(
        &mut self,
        first: &Spec,
        changed: &[Spec],
        args: &LoadArgs,
        mut running: Option<Teller>,
    ) -> Result<(), BenchError> {
        let specs: Vec<&Spec> = std::iter::once(first).chain(changed).collect();
        // With --url there is one server for all.
        let kind = |spec: &Spec| if args.url.is_some() { (0, 0) } else { (spec.accounts, spec.shards) };
        let mut kinds = Vec::new();
        for spec in &specs {
            let kind_of_this = kind(spec);
            let known = kinds.iter().position(|known| *known == kind_of_this);
            let teller = match known {
                Some(teller) => teller,
                None => {
                    let of_kind: Vec<_> = specs.iter().filter(|spec| kind(spec) == kind_of_this).collect();
                    let accounts = of_kind.iter().map(|spec| spec.accounts).max().unwrap_or_default();
                    let funded = of_kind.iter().any(|spec| spec.workload.spends());
                    let mut teller = match running.take() {
                        Some(running) => {
                            tracing::warn!(
                                url = args.url.as_ref().map(BaseUrl::as_str),
                                "this server's ledger is written to: accounts and transactions stay in it"
                            );
                            running
                        }
                        None => self.start_teller(spec, args)?,
                    };
                    teller.open(accounts, funded, &self.bench.interrupt)?;
                    self.tellers.push(teller);
                    kinds.push(kind_of_this);
                    self.tellers.len() - 1
                }
            };
            let (authority, base) = self.tellers[teller].authority_and_base();
            let load = Load::to_teller(spec, authority, base).map_err(BenchError::Setting)?;
            let address = self.tellers[teller].address();
            let name = if specs.len() == 1 { "teller".to_owned() } else { spec.name.clone() };
            self.add(spec, load, address, Some(teller), name);
        }
        Ok(())
    }

    fn start_teller(&self, spec: &Spec, args: &LoadArgs) -> Result<Teller, BenchError> {
        let ledger = format!("ledger-{}", self.tellers.len());
        let flags = &args.common.serve_flags;
        let start = Start { directory: &self.bench.directory, ledger: &ledger, shards: spec.shards, flags };
        Teller::start(&start, &self.bench.interrupt)
    }

    /// Adds the bare server, on whichever number of threads it is faster.
    fn add_bare(&mut self, spec: &Spec, warm_up: Duration) -> Result<(), BenchError> {
        let first = &self.contenders[0].run;
        let load = Load::clone(&first.load);
        let reply = ask_once(first.address, &load)?;
        let asked = &load.templates[0];
        let mut totals = Totals::default();
        totals.count(asked.action, asked.operations);
        self.contenders[0].totals.add(&totals);
        self.contenders[0].teller.into_iter().for_each(|teller| self.tellers[teller].has_done(&totals));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let program = this_program()?;
        let mut trials = Vec::new();
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            let log = self.bench.directory.path().join(format!("bare-{threads}.log"));
            let arguments = ["bench", "bare", "--threads", &threads.to_string()].map(str::to_owned);
            let started =
                Child::start_server(&program, &arguments, log, &reply, LISTENS, &self.bench.interrupt)?;
            let (child, address) = started;
            let run = trial(plan(spec, load.clone(), address), warm_up);
            trials.push((threads, child, run, Vec::new()));
        }
        for _ in 0..TRIALS {
            for (_, _, run, reached) in &mut trials {
                let measured = generator::run(run, self.bench.interrupt.flag());
                reached.push(measured.map_err(cannot_load(run))?.per_second());
                self.bench.interrupt.check()?;
            }
        }
        let best = trials.into_iter().max_by_key(|(threads, _, _, reached)| rank(*threads, reached));
        let (threads, child, Run { address, .. }, _) = best.expect("one thread was tried");
        self.others.push(child);
        let s = if threads == 1 { "" } else { "s" };
        self.add(spec, load, address, None, format!("bare, {threads} thread{s}"));
        Ok(())
    }

    fn add_redis(&mut self, spec: &Spec) -> Result<(), BenchError> {
        let (child, address, digest) = redis::start(&self.bench.directory, &self.bench.interrupt)?;
        self.others.push(child);
        let load = Load::to_redis(spec, &digest);
        self.add(spec, load, address, None, "redis".to_owned());
        Ok(())
    }

    fn add(&mut self, spec: &Spec, load: Load, address: SocketAddr, teller: Option<usize>, name: String) {
        let run = plan(spec, load, address);
        self.contenders.push(Contender {
            spec: spec.clone(),
            run,
            teller,
            name,
            rounds: Vec::new(),
            totals: Totals::default(),
            errors: Default::default(),
        });
    }

    /// One round of one contender, once all is quiet.
    fn measure(
        &mut self,
        number: usize,
        window: Duration,
        seed: u64,
        warm_up: bool,
    ) -> Result<(), BenchError> {
        let interrupt = &self.bench.interrupt;
        let children: Vec<&Child> =
            self.tellers.iter().filter_map(Teller::child).chain(&self.others).collect();
        Child::wait_until_all_quiet(&children, REST_TIME, interrupt)?;
        let contender = &mut self.contenders[number];
        contender.run.lead = (window / LEAD_PART).min(LEAD_MAX);
        contender.run.window = window;
        contender.run.seed = seed;
        let (measured, machine) = Conditions::of(|| generator::run(&contender.run, interrupt.flag()));
        let measured = measured.map_err(cannot_load(&contender.run))?;
        interrupt.check()?;
        if let Some(teller) = contender.teller {
            self.tellers[teller].has_done(&measured.totals);
        }
        if !warm_up {
            contender.rounds.push(Round::of(&measured, machine));
        }
        contender.count(measured);
        Ok(())
    }

    /// The rounds of each side.
    fn rounds(&self) -> Vec<&[Round]> {
        self.contenders.iter().map(|contender| &contender.rounds[..]).collect()
    }
}

impl Contender {
    fn count(&mut self, measured: Measured) {
        self.totals.add(&measured.totals);
        for (what, count) in measured.errors {
            *self.errors.entry(what).or_default() += count;
        }
    }

    fn into_side(self) -> Side {
        let (per_second, latency_ns) = Side::summarise(&self.rounds);
        Side {
            name: self.name,
            unit: self.spec.workload.unit(),
            settings: self.spec,
            per_second,
            latency_ns,
            rounds: self.rounds,
            totals: self.totals,
            errors: self.errors,
        }
    }
}

/// What is sent in a round, whenever that is and however long it takes.
fn plan(spec: &Spec, load: Load, address: SocketAddr) -> Run {
    Run {
        address,
        load: Arc::new(load),
        connections: spec.connections,
        threads: spec.threads,
        rate: spec.rate,
        lead: Duration::ZERO,
        window: Duration::ZERO,
        seed: 0,
    }
}

/// A part of trying a number of threads. At a rate every number would reach the same.
fn trial(plan: Run, warm_up: Duration) -> Run {
    Run { window: warm_up / TRIALS, rate: None, ..plan }
}

/// How good a number of threads is that reached so much; of two that reached the same, the fewer leave more to the
/// load.
fn rank(threads: usize, reached: &[u64]) -> (u64, Reverse<usize>) {
    (median(reached), Reverse(threads))
}

/// The error of a load that has no connection, or no thread or timer.
pub(super) fn cannot_load(run: &Run) -> impl FnOnce(io::Error) -> BenchError {
    BenchError::cannot(format!("load {}", run.address))
}

/// Asks one request of a load and returns the whole reply, as it came.
fn ask_once(address: SocketAddr, load: &Load) -> Result<Vec<u8>, BenchError> {
    let mut request = Request::default();
    load.prepare(&mut request, &mut Random::new(0));
    let reply = reply_to(address, &request).map_err(BenchError::cannot(format!("ask {address}")))?;
    reply.ok_or_else(|| BenchError::Setting("the server's reply cannot be read".into()))
}

/// The whole reply to a request; none if it is malformed.
fn reply_to(address: SocketAddr, request: &Request) -> io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect_timeout(&address, REPLY_TIME_MAX)?;
    stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
    stream.write_all(&request.bytes)?;
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        reply.extend_from_slice(&buffer[..read]);
        let whole = match Protocol::Http.head(&reply) {
            Ok(Some(head)) => reply.len() >= head.bytes.saturating_add(head.body_bytes),
            Ok(None) => false,
            Err(_) => return Ok(None),
        };
        if whole {
            return Ok(Some(reply));
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Shape;
    use super::*;

    /// With --rate all numbers of threads reached the rate, and the last of them was called the best.
    #[test]
    fn the_best_number_of_threads_is_found_without_a_rate_and_is_the_fewest_of_equals() {
        let spec = Spec::new(Workload::Deposit, &Shape::default(), 1).expect("valid");
        let plan = Run {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            load: Arc::new(Load::to_redis(&spec, "0")),
            connections: 1,
            threads: 1,
            rate: Some(1000),
            lead: Duration::ZERO,
            window: Duration::ZERO,
            seed: 1,
        };
        let trial = trial(plan, Duration::from_secs(1));
        assert_eq!((trial.rate, trial.window), (None, Duration::from_secs(1) / TRIALS));
        assert!(rank(1, &[7, 5, 5]) > rank(4, &[5, 5, 6]), "the same median");
        assert!(rank(4, &[6, 6, 5]) > rank(1, &[5, 5, 9]));
    }
}
