//! The composition root: the order of start and shutdown, and the only place that names concrete parts.
//!
//! Start: lock the data directory, bind the address (both fail at once if they are taken), answer `/healthz`
//! and `/readyz`, recover the shards, start their threads, open for business.
//!
//! Shutdown, on SIGTERM or Ctrl-C: refuse new connections, finish the requests under way, stop the shards,
//! snapshot, exit 0. A second signal exits at once with code 130; nothing acknowledged is lost by that either.
//!
//! Besides the shards' threads four work in the background. The *keeper* opens generations ahead, and has a thread
//! turn sealed ones into snapshots and archive segments, which stands back for requests. The *housekeeper* looks once a
//! second whether there is room for more, and makes the watermarks durable. The *grower* keeps the files of the logs some
//! way ahead of small commits. The *watchdog* looks once a second whether a commit hangs; it does nothing that could hang
//! with it, and waits for nobody who does.

use std::cell::Cell;
use std::cmp::Reverse;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{mem, process, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, tick};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use crate::bank::{Bank, BankShard, Brake};
use crate::clock;
use crate::config::{CoreUse, ListenAddress, ServeSettings};
use crate::cores::{Cores, Place};
use crate::http::{self, Api};
use crate::ledger::{OverdraftDefault, SHARDS_MAX, ShardId};
use crate::memory;
use crate::progress::Progress;
use crate::shard::batch::ShardRules;
use crate::shard::commit::{COMMIT_TIME_MAX, CommitWatch};
use crate::shard::handle::ShardHandle;
use crate::shard::worker::{Network, ShardThreads};
use crate::storage::StorageError;
use crate::storage::in_flight;
use crate::storage::journal::{JournalOptions, wake_spare_threads};
use crate::storage::log::{CompactionLimits, Recovered, ShardFiles, ShardJournal, ShardLog, recover};
use crate::storage::manifest::{Birth, DataDirectory};
use crate::storage::pace::{self, Hurry};

/// The exit code after the log failed, of sysexits' EX_IOERR: restart, and recovery tells what is on the disk.
const EXIT_LOG_FAILURE: i32 = 74;
/// How long the process waits for the last lines of its log before it ends. Whoever collects them may hang, with this
/// very disk maybe, and clients wait for an answer that the next process can give.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);
/// The exit code after a second signal.
const EXIT_INTERRUPTED: i32 = 130;
/// How often housekeeper and watchdog look around: rarely enough to cost nothing on an idle machine.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How long the grower rests between two steps: some ten commits, of which one has written the step.
const GROWTH_REST: Duration = Duration::from_millis(5);

/// After what time a commit is suspected to hang.
const COMMIT_TIME_LONG: Duration = Duration::from_secs(1);

/// How far the clock may be behind the ledger's last event without a word: what setting a clock right moves it.
const CLOCK_BEHIND_MS_MAX: u64 = 60_000;

/// How many connections wait to be accepted: all that a restart brings back at once. The system may allow fewer.
const LISTEN_BACKLOG: u32 = 4096;

/// File descriptors that connections leave to everything else: standard streams, runtime, manifest, readers of
/// history; and to each shard, whose journal has some generations open, and its compaction some files.
const DESCRIPTORS_RESERVED: u64 = 128;
const DESCRIPTORS_PER_SHARD: u64 = 96;
/// And to each thread that serves connections, for its event queue and its ring.
const DESCRIPTORS_PER_HTTP_THREAD: u64 = 8;
/// With room for fewer connections than this the server does not start.
const CONNECTIONS_MIN: u64 = 16;

/// How many sealed generations of a shard may wait for the keeper. Each is an open database of up to 110 MB; when
/// there are more, the keeper has failed or cannot follow, and changes are refused as if the disk were full.
const SEALED_GENERATIONS_MAX: usize = 32;

/// With more sealed generations of a shard than this a compaction hurries, by one for each: they take 40 MB of memory
/// each until they are compacted. If that does not do, batches are slowed down: see [`Brake`].
const SEALED_GENERATIONS_UNHURRIED_MAX: usize = 2;

/// Why the server does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The address.
    #[error(
        "cannot listen on {address}: {source}; stop what uses it, or choose another with --host and --port"
    )]
    Bind {
        /// The address.
        address: ListenAddress,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system allows too few open files.
    #[error(
        "{allowed} open files are too few for {shards} shards; allow at least {needed}, with `ulimit -n {needed}`"
    )]
    Descriptors {
        /// How many it allows.
        allowed: u64,
        /// How many shards there are.
        shards: usize,
        /// How many would do.
        needed: u64,
    },
    /// The system gives no thread, signal handler or socket.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ServerError {
    fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> ServerError {
        move |source| ServerError::System { action, source }
    }
}

/// Creates the data directory and nothing else.
///
/// # Errors
/// If it is there already but cannot be used, or cannot be created.
pub fn bootstrap(settings: &ServeSettings) -> Result<(), ServerError> {
    let directory = open_directory(settings)?;
    tracing::info!(path = %directory.path().display(), shards = directory.shards(), "the data directory is ready");
    Ok(())
}

/// Serves until a signal asks it to end.
///
/// # Errors
/// If it cannot start, or cannot write the last snapshot.
pub fn run(settings: &ServeSettings) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServerError::system("start the runtime"))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &ServeSettings) -> Result<(), ServerError> {
    // Before anything else, so that a signal during the start is heard.
    let mut wishes = Wishes::new()?;
    let directory = open_directory(settings)?;
    let listener = bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(ServerError::system("read the listening address"))?;
    tracing::info!(%address, data = %directory.path().display(), shards = directory.shards(), "starting");

    let http_threads = settings.http_threads.unwrap_or_else(half_of_the_cores);
    let connections_max = connections_max(directory.shards(), http_threads)?;
    let cores = match settings.cores {
        CoreUse::Split => Cores::split(http_threads, directory.shards()),
        CoreUse::Shared => Cores::shared(),
    };
    let limits = http::Limits { connections_max, ..http::Limits::default() };
    let api = Arc::new(Api::new());
    let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();
    let threads =
        http::Threads::start(http_threads, cores).map_err(ServerError::system("start the HTTP threads"))?;
    let http = tokio::spawn(http::serve(listener, Arc::clone(&api), limits, threads, async {
        let _ = http_stopped.await;
    }));

    let settings_for_start = settings.clone();
    let api_for_start = Arc::clone(&api);
    let start = tokio::task::spawn_blocking(move || {
        Running::start(directory, &settings_for_start, cores, api_for_start)
    });
    let running = tokio::select! {
        running = start => running.expect("recovery does not panic")?,
        // Recovery has changed nothing that the next one does not do again.
        () = wishes.end() => process::exit(0),
    };
    api.ready(Arc::new(running.bank(settings.overdraft_default())));
    // It serves although nobody reads this; `println` would panic, which ends the process.
    let _ = writeln!(std::io::stdout(), "teller listens on http://{address}");

    while wishes.next().await == Wish::Snapshot {
        running.snapshot();
    }
    tracing::info!("ending");
    api.ending();
    let _ = stop_http.send(());
    let end = async {
        // The listener only ends when it is told to, and then within its own time limit.
        let _ = http.await;
        tokio::task::spawn_blocking(move || running.stop()).await.expect("shutdown does not panic")
    };
    tokio::select! {
        result = end => result?,
        () = wishes.end() => process::exit(EXIT_INTERRUPTED),
    }
    tracing::info!("ended");
    Ok(())
}

/// Listens on the first of the addresses that can be had.
async fn bind(address: &ListenAddress) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address: address.clone(), source };
    let mut error = std::io::ErrorKind::AddrNotAvailable.into();
    for resolved in address.resolve().map_err(failed)? {
        match listen(resolved) {
            Ok(listener) => return Ok(listener),
            Err(source) => error = source,
        }
    }
    Err(failed(error))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// How many connections the system has descriptors for, once it has been asked for as many as it allows.
fn connections_max(shards: usize, http_threads: usize) -> Result<usize, ServerError> {
    let wanted = http::Limits::default().connections_max as u64;
    let reserved = DESCRIPTORS_RESERVED
        + DESCRIPTORS_PER_SHARD * shards as u64
        + DESCRIPTORS_PER_HTTP_THREAD * http_threads as u64;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised =
        Rlimit { current: Some(hard.min(wanted + reserved).max(limit.current.unwrap_or(hard))), ..limit };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    let allowed = allowed.unwrap_or(u64::MAX);
    let connections = wanted.min(allowed.saturating_sub(reserved));
    if connections < CONNECTIONS_MIN {
        return Err(ServerError::Descriptors { allowed, shards, needed: reserved + CONNECTIONS_MIN });
    }
    if connections < wanted {
        tracing::warn!(
            connections,
            open_files = allowed,
            "fewer connections: the system allows few open files"
        );
    }
    Ok(connections as usize)
}

#[expect(clippy::disallowed_methods, reason = "the composition root draws the ledger's id")]
fn open_directory(settings: &ServeSettings) -> Result<DataDirectory, ServerError> {
    let birth =
        Birth { shards: half_of_the_cores().min(SHARDS_MAX), ledger: Uuid::new_v4(), created: clock::now() };
    Ok(DataDirectory::open(&settings.location.directory(), settings.shards, &birth)?)
}

/// How many shards there are, and how many threads serve connections, if nobody says so: a durable deposit takes about
/// as much of the ones and their commits as of the others. Two shards on two cores took half as much again for each.
pub(crate) fn half_of_the_cores() -> usize {
    (thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

/// The shards, recovered and running, and what keeps house for them.
struct Running {
    shards: Vec<RunningShard>,
    /// Asks the keeper for a snapshot.
    snapshot: Sender<()>,
    /// What the keeper slows batches down with.
    brake: Brake,
    keeper: Background,
    /// Ends when the keeper has.
    compaction: Background,
    housekeeper: Background,
    grower: Background,
    watchdog: Background,
    /// Locked until everything else has ended.
    directory: DataDirectory,
}

struct RunningShard {
    threads: ShardThreads<ShardJournal>,
    log: Arc<ShardLog>,
}

impl Running {
    fn start(
        directory: DataDirectory,
        settings: &ServeSettings,
        cores: Cores,
        api: Arc<Api>,
    ) -> Result<Running, ServerError> {
        let (keeper_wake, keeper_woken) = bounded(1);
        let options = JournalOptions {
            generation_bytes_max: settings.generation_bytes_max,
            sealed: Some(keeper_wake.clone()),
        };
        let rules = ShardRules {
            overdraft: settings.overdraft_default(),
            key_retention_ms: settings.idempotency_retention.as_millis() as u64,
            keys_max: (settings.idempotency_keys_max as usize).div_ceil(directory.shards()),
        };
        let recovered = recover_all(&directory, &options)?;
        // One for each shard's commit. What is written of the generation that is made behind everyone's back is so little
        // that a commit may wait for it.
        if let Some((_, first)) = recovered.first() {
            first.log.rest_spare_threads(recovered.len());
        }
        let mut network = Network::new(recovered.len());
        let shards: Vec<RunningShard> = recovered
            .into_iter()
            .map(|(id, Recovered { ledger, journal, log })| RunningShard {
                threads: ShardThreads::start(
                    id,
                    ledger,
                    rules,
                    journal,
                    clock::now,
                    Arc::new(on_log_failure),
                    &mut network,
                ),
                log,
            })
            .collect();
        cores.keep_off(&["shard-", "sled-io-"]);
        cores.have_wait("shard-");
        // Before it starts what works in the background.
        cores.wait_for_turn();
        let reserve = Arc::new(DiskReserve {
            path: directory.path().to_owned(),
            bytes_min: settings.disk_reserve_bytes,
        });
        let kept = || -> Vec<Kept> {
            let kept = |shard: &RunningShard| (shard.threads.handle().clone(), Arc::clone(&shard.log));
            shards.iter().map(kept).collect()
        };
        let (snapshot, asked) = bounded(1);
        let brake = Brake::default();
        let clients = Clients {
            api,
            shards: shards.iter().map(|shard| shard.threads.handle().clone()).collect(),
            cores,
            cores_of_shards: cores.of_shards(),
            place: Cell::new(Place::Anywhere),
        };
        let (compactor, compaction) = Compactor::start(kept(), Arc::clone(&reserve), clients)?;
        let keeper = {
            let (shards, brake) = (kept(), brake.clone());
            let interval = settings.snapshot_interval;
            // Woken once at the start: the next generations are opened ahead, and what an earlier life left is
            // compacted.
            let _ = keeper_wake.try_send(());
            Background::start("keeper", move |stop| {
                keep(&shards, &compactor, &brake, interval, &keeper_woken, &asked, stop);
            })?
        };
        let (grower_wake, grower_woken) = bounded(1);
        let housekeeper = {
            let shards = kept();
            look_for_room(&shards, &reserve);
            let reserve = Arc::clone(&reserve);
            Background::start("housekeeper", move |stop| {
                keep_house(&shards, &reserve, &grower_wake, &keeper_wake, stop);
            })?
        };
        let grower = {
            let shards = kept();
            Background::start("grower", move |stop| grow(&shards, &reserve, &grower_woken, stop))?
        };
        let watchdog = {
            let watches: Vec<CommitWatch> = shards.iter().map(|shard| shard.threads.commit_watch()).collect();
            Background::start("watchdog", move |stop| watch(&watches, stop))?
        };
        cores.roam();
        Ok(Running { shards, snapshot, brake, keeper, compaction, housekeeper, grower, watchdog, directory })
    }

    fn bank(&self, overdraft: OverdraftDefault) -> Bank {
        let shard = |shard: &RunningShard| BankShard {
            handle: shard.threads.handle().clone(),
            log: Arc::clone(&shard.log) as _,
        };
        Bank::new(self.shards.iter().map(shard).collect(), overdraft).braked_by(self.brake.clone())
    }

    /// Has the keeper take a snapshot of every shard. One that is asked for already stands for this one.
    fn snapshot(&self) {
        tracing::info!("a snapshot was asked for");
        let _ = self.snapshot.try_send(());
    }

    fn stop(self) -> Result<(), ServerError> {
        let mut stopped = Vec::new();
        self.shards.iter().for_each(|shard| shard.threads.ask_to_stop());
        for shard in self.shards {
            let (ledger, journal) = shard.threads.stop()?;
            stopped.push((ledger, journal, shard.log));
        }
        self.housekeeper.stop();
        self.grower.stop();
        self.watchdog.stop();
        // Ended before the last snapshots: one thread compacts at a time.
        self.keeper.stop();
        self.compaction.stop();
        let started = Instant::now();
        for (ledger, journal, log) in stopped {
            let (accounts, last) = (ledger.accounts().len(), ledger.last().get());
            log.finish(journal, &ledger)?;
            tracing::info!(
                accounts,
                last,
                elapsed_ms = started.elapsed().as_millis() as u64,
                "snapshot written"
            );
        }
        drop(self.directory);
        Ok(())
    }
}

/// A thread that works until it is told to stop.
struct Background {
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Background {
    /// Starts a thread; its receiver is disconnected when it shall end.
    fn start(
        name: &'static str,
        work: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> Result<Background, ServerError> {
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&stopped))
            .map_err(ServerError::system("start a thread"))?;
        Ok(Background { stop, thread })
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("background work does not panic");
    }
}

/// Recovers all shards, as many at a time as there are cores.
fn recover_all(
    directory: &DataDirectory,
    options: &JournalOptions,
) -> Result<Vec<(ShardId, Recovered)>, ServerError> {
    let progress = Progress::new("recovering", "events", None);
    let mut recovered = Vec::with_capacity(directory.shards());
    let settled = recover_each(directory, options, &progress, &mut recovered)
        .and_then(|()| settle_in_flight(&mut recovered));
    progress.finish();
    let settled = match settled {
        Ok(settled) => settled,
        Err(error) => {
            abandon(recovered);
            return Err(error.into());
        }
    };
    if settled > 0 {
        tracing::info!(settled, "applied what one shard had decided and another had not yet applied");
    }
    let newest = recovered.iter().map(|(_, shard)| shard.ledger.time().millis()).max().unwrap_or_default();
    let ahead_ms = newest.saturating_sub(clock::now().millis());
    if ahead_ms > CLOCK_BEHIND_MS_MAX {
        tracing::warn!(
            ahead_ms,
            "the ledger's last event is later than the clock: its time stands still until then"
        );
    }
    let accounts: usize = recovered.iter().map(|(_, shard)| shard.ledger.accounts().len()).sum();
    let elapsed_ms = progress.elapsed().as_millis() as u64;
    tracing::info!(accounts, replayed = progress.done(), elapsed_ms, "recovered");
    Ok(recovered)
}

/// Adds the shards that can be recovered, until one cannot.
fn recover_each(
    directory: &DataDirectory,
    options: &JournalOptions,
    progress: &Progress,
    recovered: &mut Vec<(ShardId, Recovered)>,
) -> Result<(), StorageError> {
    let ids: Vec<ShardId> = (0..directory.shards()).filter_map(ShardId::new).collect();
    let parallelism = thread::available_parallelism().map_or(1, usize::from);
    for ids in ids.chunks(parallelism) {
        let results: Vec<Result<Recovered, StorageError>> = thread::scope(|scope| {
            let recover = |&id: &ShardId| {
                let (files, options) = (ShardFiles::new(directory, id), options.clone());
                scope.spawn(move || recover(&files, options, progress))
            };
            let threads: Vec<_> = ids.iter().map(recover).collect();
            threads.into_iter().map(|thread| thread.join().expect("recovery does not panic")).collect()
        });
        let mut failed = Ok(());
        for (&id, result) in ids.iter().zip(results) {
            match result {
                Ok(shard) => recovered.push((id, shard)),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed?;
    }
    Ok(())
}

/// Leaves the shards of a start that has failed as they were found, or every attempt would leave each a generation that
/// the next ones have to read.
fn abandon(recovered: Vec<(ShardId, Recovered)>) {
    for (id, shard) in recovered {
        if let Err(error) = shard.abandon() {
            tracing::warn!(shard = id.index(), %error, "an empty generation is left in the journal");
        }
    }
}

/// Finishes what was in flight between shards when the last process ended: before any account answers.
fn settle_in_flight(recovered: &mut [(ShardId, Recovered)]) -> Result<usize, StorageError> {
    let mut sides: Vec<_> = recovered.iter_mut().map(|(_, shard)| shard.side()).collect();
    in_flight::settle(&mut sides, clock::now())
}

type Kept = (ShardHandle, Arc<ShardLog>);

/// What the keeper has compact the logs: a thread of its own, for it takes its time, and a full generation must not wait
/// for it. It is one for all compactions, since the allocator keeps for each thread what that has freed, up to 250 MB of
/// a large ledger's; when there is nothing left to compact, that goes back to the system.
struct Compactor {
    /// Has it begin; without its other end, it ends.
    begin: Sender<()>,
    /// Tells of the end, and whether it got on with any log.
    done: Receiver<bool>,
    hurry: Hurry,
    /// Whether it is to leave what it has not begun.
    ending: Arc<AtomicBool>,
}

impl Compactor {
    fn start(
        shards: Vec<Kept>,
        reserve: Arc<DiskReserve>,
        clients: Clients,
    ) -> Result<(Compactor, Background), ServerError> {
        let (begin, begun) = bounded(1);
        let (tell_done, done) = bounded(1);
        let compactor = Compactor { begin, done, hurry: Hurry::default(), ending: Arc::default() };
        let (hurry, ending) = (compactor.hurry.clone(), Arc::clone(&compactor.ending));
        let thread = Background::start("compaction", move |_| {
            pace::stand_back(&hurry, clients);
            while begun.recv().is_ok() {
                let got_on = compact_all(&shards, &reserve, &ending);
                let is_done = shards.iter().all(|(_, log)| log.sealed_generations() == 0);
                if is_done && got_on && !ending.load(Ordering::Relaxed) {
                    pace::pause();
                    memory::give_back();
                }
                let _ = tell_done.send(got_on);
            }
        })?;
        Ok((compactor, thread))
    }
}

/// Those whom compaction stands back for: clients, and the shards, which serve them.
struct Clients {
    api: Arc<Api>,
    shards: Vec<ShardHandle>,
    cores: Cores,
    /// How many cores the shards have; 0 if cores are not split.
    cores_of_shards: usize,
    /// Where compaction is.
    place: Cell<Place>,
}

impl pace::Others for Clients {
    fn requests(&self) -> u64 {
        self.api.requests()
    }

    fn are_there(&self) -> bool {
        // Where the cores are not its own, who else wants them is not known.
        self.cores_of_shards == 0 || self.api.requests_in_flight() > 0
    }

    fn make_way(&self, goes_on: bool) {
        let busy = || self.shards.iter().filter(|shard| shard.is_busy()).count();
        let place = if !goes_on {
            Place::Anywhere
        } else if busy() >= self.cores_of_shards {
            Place::Serving
        } else {
            Place::Other
        };
        if self.place.replace(place) != place {
            self.cores.keep_on(place);
        }
    }
}

/// Has the logs compacted whenever a generation is sealed; has the generations sealed every `interval`, and when it is
/// asked. The keeper itself only opens the next generations ahead, and says how much hurry there is.
fn keep(
    shards: &[Kept],
    compactor: &Compactor,
    brake: &Brake,
    interval: Duration,
    sealed: &Receiver<()>,
    asked: &Receiver<()>,
    stop: &Receiver<()>,
) {
    let due = tick(interval);
    let roll_all = || shards.iter().for_each(|(handle, _)| handle.roll());
    let mut is_compacting = false;
    let mut is_due = false;
    loop {
        let mut goes_on = false;
        select! {
            recv(stop) -> _ => {
                // What is under way is waited for, and nobody is left to stand back for.
                compactor.hurry.set(Hurry::MAX);
                compactor.ending.store(true, Ordering::Relaxed);
                return;
            }
            recv(sealed) -> _ => is_due = true,
            // What an earlier compaction could not do has no sealing of its own to wait for.
            recv(due) -> _ => { roll_all(); is_due = true; }
            recv(asked) -> _ => { roll_all(); is_due = true; }
            recv(compactor.done) -> got_on => { is_compacting = false; goes_on = got_on == Ok(true); }
        }
        for (index, (_, log)) in shards.iter().enumerate() {
            if let Err(error) = log.prepare() {
                tracing::error!(shard = index, %error, "cannot open the next generation ahead");
            }
        }
        let waiting = shards.iter().map(|(_, log)| log.sealed_generations()).max().unwrap_or(0);
        compactor.hurry.set(waiting.saturating_sub(SEALED_GENERATIONS_UNHURRIED_MAX) as u32);
        brake.set(waiting);
        is_due |= goes_on && waiting > 0;
        if is_due && !is_compacting {
            is_due = false;
            is_compacting = compactor.begin.send(()).is_ok();
        }
    }
}

/// Takes each log a step further, the longest first; those that it has not begun are left when the process is ending.
/// Whether it got on with any.
fn compact_all(shards: &[Kept], reserve: &DiskReserve, ending: &AtomicBool) -> bool {
    let mut order: Vec<(usize, &ShardLog)> =
        shards.iter().enumerate().map(|(index, (_, log))| (index, &**log)).collect();
    order.sort_by_key(|(_, log)| Reverse(log.sealed_generations()));
    let mut got_on = false;
    for (index, log) in order {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        match compact(log, reserve) {
            Ok(worked) => got_on |= worked,
            // The log stays complete, only longer; the next time tries again.
            Err(error) => tracing::error!(shard = index, %error, "cannot compact the log"),
        }
    }
    got_on
}

/// Takes a log a step further, if there is anything to do, and room for that.
fn compact(log: &ShardLog, reserve: &DiskReserve) -> Result<bool, StorageError> {
    let limits = CompactionLimits::default();
    let needed = log.compaction_bytes(&limits)?;
    if needed > 0 && !reserve.has_room_for(needed) {
        tracing::warn!(needed, "there is no room to compact the log; making room is the operator's");
        return Ok(false);
    }
    log.compact(&limits)
}

/// Keeps the files of the logs some way ahead of small commits, in steps with rests, whenever there is `work`.
fn grow(shards: &[Kept], reserve: &DiskReserve, work: &Receiver<()>, stop: &Receiver<()>) {
    loop {
        select! {
            recv(stop) -> _ => return,
            // Who tells of it ends before this does.
            recv(work) -> told => if told.is_err() { return },
        }
        for (index, (_, log)) in shards.iter().enumerate() {
            loop {
                match log.grow(&|bytes| reserve.has_room_for(bytes)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        // Commits go on, only slower; and if it is the disk, they will hear of it.
                        tracing::error!(shard = index, %error, "cannot make room ahead of the log");
                        break;
                    }
                }
                if stop.recv_timeout(GROWTH_REST) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        }
    }
}

/// Looks after room and watermarks, and wakes the grower if there may be something to do: at rest it sleeps. The keeper
/// is woken when only compaction can let changes in again: without changes nothing is sealed, which else wakes it.
fn keep_house(
    shards: &[Kept],
    reserve: &DiskReserve,
    grower: &Sender<()>,
    keeper: &Sender<()>,
    stop: &Receiver<()>,
) {
    let mut appended = vec![0; shards.len()];
    while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if look_for_room(shards, reserve) == Room::Uncompacted {
            let _ = keeper.try_send(());
        }
        for (index, (handle, log)) in shards.iter().enumerate() {
            let before = mem::replace(&mut appended[index], handle.durable().get());
            if appended[index] > before {
                // One notice stands for any number.
                let _ = grower.try_send(());
            }
            if let Err(error) = log.sync_watermark() {
                end_without_the_log(move || tracing::error!(shard = index, %error, "ending the process"));
            }
        }
    }
}

/// What stands against changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Nothing.
    Enough,
    /// The disk is full.
    DiskFull,
    /// In some shard, the generations that wait to be compacted; there is room to do it.
    Uncompacted,
}

/// Tells each shard how much of it waits to be compacted, and whether it may record anything: the log must never meet a
/// full disk, because what reached it then would be unknown until the next start.
fn look_for_room(shards: &[Kept], reserve: &DiskReserve) -> Room {
    let disk_full = !reserve.has_room_for(0);
    let mut room = if disk_full { Room::DiskFull } else { Room::Enough };
    for (index, (handle, log)) in shards.iter().enumerate() {
        let sealed = log.sealed_generations();
        handle.set_generations_waiting(sealed);
        let full = disk_full || sealed > SEALED_GENERATIONS_MAX;
        if full && !disk_full {
            room = Room::Uncompacted;
        }
        if handle.set_disk_full(full) != full {
            tracing::warn!(
                shard = index,
                full,
                reserve_bytes = reserve.bytes_min,
                sealed,
                "room for changes"
            );
        }
    }
    room
}

/// Ends the process when a commit hangs. Before, it has the journal try with all its threads.
fn watch(watches: &[CommitWatch], stop: &Receiver<()>) {
    while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        for (index, watch) in watches.iter().enumerate() {
            let Some(time) = watch.busy_for().filter(|time| *time > COMMIT_TIME_LONG) else {
                continue;
            };
            let woken = wake_spare_threads();
            if woken > 0 {
                tell(move || {
                    tracing::warn!(
                        shard = index,
                        woken,
                        "a commit takes long: the journal gets all its threads"
                    );
                });
            }
            if time > COMMIT_TIME_MAX {
                end_without_the_log(move || {
                    tracing::error!(shard = index, limit = ?COMMIT_TIME_MAX, "a commit hangs; ending the process");
                });
            }
        }
    }
}

/// The free space that is kept.
struct DiskReserve {
    path: PathBuf,
    bytes_min: u64,
}

impl DiskReserve {
    /// Whether so many bytes more would leave the reserve untouched.
    fn has_room_for(&self, bytes: u64) -> bool {
        match rustix::fs::statvfs(&self.path) {
            Ok(space) => {
                space.f_bavail.saturating_mul(space.f_frsize) >= self.bytes_min.saturating_add(bytes)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the free disk space");
                true
            }
        }
    }
}

/// The log is in an unknown state and the ledger ahead of it: there is nothing to go on with (P1).
fn on_log_failure(shard: ShardId, error: &StorageError) {
    let error = error.to_string();
    end_without_the_log(move || {
        tracing::error!(shard = shard.index(), %error, "the log failed; ending the process. Restart to recover");
    });
}

/// Ends the process because its journal is not to be trusted, whether the reason can be told or not.
fn end_without_the_log(words: impl FnOnce() + Send + 'static) -> ! {
    tell(words);
    process::exit(EXIT_LOG_FAILURE);
}

/// Writes something into the process's log, from a thread of its own, and waits for that, but not for ever.
fn tell(words: impl FnOnce() + Send + 'static) {
    let (told, heard) = bounded::<()>(0);
    let teller = move || {
        words();
        drop(told);
    };
    // Without a thread it remains untold.
    if thread::Builder::new().name("last words".into()).spawn(teller).is_ok() {
        let _ = heard.recv_timeout(LAST_WORDS_TIME_MAX);
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// SIGTERM or SIGINT: end.
    End,
    /// SIGUSR1: take a snapshot.
    Snapshot,
}

/// The signals that the server hears.
struct Wishes {
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
}

impl Wishes {
    fn new() -> Result<Wishes, ServerError> {
        let listen = |kind| signal(kind).map_err(ServerError::system("listen to signals"));
        Ok(Wishes {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::End,
            _ = self.terminate.recv() => Wish::End,
            _ = self.user.recv() => Wish::Snapshot,
        }
    }

    async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountName, Amount, Command, Currency};
    use crate::shard::batch::Request;

    /// How long anything may take before it counts as hanging.
    const TIME_MAX: Duration = Duration::from_secs(30);

    #[track_caller]
    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + TIME_MAX;
        while !is_so() {
            assert!(Instant::now() < until, "{what}: not within {TIME_MAX:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A ledger of one shard, in a directory that goes with it.
    fn start(
        options: &JournalOptions,
    ) -> (tempfile::TempDir, DataDirectory, ShardThreads<ShardJournal>, Arc<ShardLog>) {
        let temporary = tempfile::tempdir().expect("a directory");
        let birth = Birth { shards: 1, ledger: Uuid::nil(), created: clock::now() };
        let directory =
            DataDirectory::open(&temporary.path().join("ledger"), None, &birth).expect("a directory");
        let (id, Recovered { ledger, journal, log }) =
            recover_all(&directory, options).expect("recovered").pop().expect("one shard");
        let overdraft = OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO };
        let rules = ShardRules { overdraft, key_retention_ms: 1000, keys_max: 10 };
        let mut network = Network::new(1);
        let threads = ShardThreads::start(
            id,
            ledger,
            rules,
            journal,
            clock::now,
            Arc::new(|_, error| panic!("the log failed: {error}")),
            &mut network,
        );
        (temporary, directory, threads, log)
    }

    /// Has the shard record something, and seal it.
    fn seal_one(threads: &ShardThreads<ShardJournal>, log: &ShardLog) {
        let before = log.sealed_generations();
        let name = AccountName::parse(&format!("a{before}")).expect("a name");
        let command = Command::Open { name, currency: Currency::USD, overdraft_limit: None };
        let opening = Request::Execute { command, key: None, request_id: Box::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(threads.handle().ask(opening)).expect("a reply");
        threads.handle().roll();
        wait_until("one more is sealed", || log.sealed_generations() != before);
    }

    /// With a collector of the log that hung the watchdog hung, too, and the process it was to end lived on.
    #[test]
    fn what_cannot_be_told_keeps_nobody() {
        let (told, heard) = bounded(1);
        tell(move || told.send(()).expect("it listens"));
        assert_eq!(heard.try_recv(), Ok(()), "what can be told is, before it returns");
        let (_collector, stuck) = bounded::<()>(0);
        let (returned, returns) = bounded(1);
        thread::spawn(move || {
            tell(move || {
                let _ = stuck.recv();
            });
            let _ = returned.send(());
        });
        returns.recv_timeout(TIME_MAX).expect("it does not wait for ever");
    }

    /// Changes stayed refused after a compaction that failed could go on, up to the next snapshot that was due: nothing
    /// woke the keeper, as nothing could be sealed.
    #[test]
    fn the_keeper_is_woken_while_changes_are_refused_for_want_of_compaction() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        (0..=SEALED_GENERATIONS_MAX).for_each(|_| seal_one(&threads, &log));
        let kept = vec![(threads.handle().clone(), Arc::clone(&log))];
        let reserve = |bytes_min| DiskReserve { path: directory.path().to_owned(), bytes_min };
        assert_eq!(look_for_room(&kept, &reserve(u64::MAX)), Room::DiskFull);
        let reserve = reserve(0);
        let (grower, _work) = bounded(1);
        let (keeper, woken) = bounded(1);
        let housekeeper = Background::start("housekeeper", {
            let kept = kept.clone();
            move |stop| keep_house(&kept, &reserve, &grower, &keeper, stop)
        })
        .expect("a thread");
        for _ in 0..2 {
            woken.recv_timeout(TIME_MAX).expect("it is woken");
        }
        let seen = kept[0].0.figures();
        assert_eq!((seen.refuses_changes, seen.generations_waiting), (true, SEALED_GENERATIONS_MAX + 1));
        assert!(kept[0].0.set_disk_full(true), "changes are refused");
        while log.compact(&CompactionLimits::default()).expect("compacted") {}
        wait_until("changes are taken again", || !kept[0].0.set_disk_full(true));
        housekeeper.stop();
        threads.stop().expect("no log fails");
    }

    /// Each attempt to start a ledger with a damaged shard left one more empty generation in every other shard, and cost the
    /// next attempts the time to read it.
    #[test]
    fn a_start_that_fails_leaves_the_other_shards_as_they_were() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("ledger");
        let birth = Birth { shards: 2, ledger: Uuid::nil(), created: clock::now() };
        let directory = DataDirectory::open(&path, None, &birth).expect("a directory");
        let journal = |shard: usize| path.join(format!("shard-{shard:04}/journal"));
        std::fs::create_dir_all(journal(1).join("odd")).expect("created");
        for _ in 0..3 {
            let error = recover_all(&directory, &JournalOptions::default()).err().expect("it fails");
            assert!(error.to_string().contains("odd"), "{error}");
            assert_eq!(std::fs::read_dir(journal(0)).expect("read").count(), 0);
        }
        std::fs::remove_dir(journal(1).join("odd")).expect("removed");
        recover_all(&directory, &JournalOptions::default()).expect("it starts");
    }

    #[test]
    fn compaction_makes_way_for_the_shards_and_else_for_those_that_serve() {
        for cores_of_shards in [2, 3] {
            let clients = Clients {
                api: Arc::new(Api::new()),
                shards: vec![ShardHandle::of_nobody(), ShardHandle::of_nobody()],
                cores: Cores::shared(),
                cores_of_shards,
                place: Cell::new(Place::Anywhere),
            };
            let place = |goes_on| {
                pace::Others::make_way(&clients, goes_on);
                clients.place.get()
            };
            let _replies = [0, 1].map(|shard| {
                assert_eq!(place(true), Place::Other, "one of them has its core free");
                clients.shards[shard].ask(Request::TrialBalance)
            });
            assert_eq!(place(true), if cores_of_shards == 2 { Place::Serving } else { Place::Other });
            assert_eq!(place(false), Place::Anywhere);
        }
    }

    #[test]
    fn the_keeper_says_how_much_hurry_there_is_and_slows_batches_down() {
        let (sealed, woken) = bounded(1);
        let (_temporary, _directory, threads, log) =
            start(&JournalOptions { sealed: Some(sealed), ..JournalOptions::default() });
        (0..9).for_each(|_| seal_one(&threads, &log));

        let (begin, begun) = bounded(1);
        let (tell_done, done) = bounded(1);
        let compactor = Compactor { begin, done, hurry: Hurry::default(), ending: Arc::default() };
        let (hurry, brake) = (compactor.hurry.clone(), Brake::default());
        let kept = vec![(threads.handle().clone(), Arc::clone(&log))];
        // While this is there, nobody has asked for a snapshot.
        let (_ask, asked) = bounded(1);
        let keeper = brake.clone();
        let keeper = Background::start("keeper", move |stop| {
            keep(&kept, &compactor, &keeper, Duration::from_secs(3600), &woken, &asked, stop);
        })
        .expect("a thread");

        begun.recv_timeout(TIME_MAX).expect("there is something to do");
        assert!(brake.is_on());
        assert_eq!(hurry.level(), 7);
        assert!(log.compact(&CompactionLimits::default()).expect("compacted"), "it got on");
        assert_eq!(log.sealed_generations(), 5);
        tell_done.send(true).expect("it listens");
        begun.recv_timeout(TIME_MAX).expect("there is more to do");
        assert!(!brake.is_on());
        assert_eq!(hurry.level(), 3);
        keeper.stop();
        assert_eq!(hurry.level(), Hurry::MAX, "what is under way is waited for");
        threads.stop().expect("no log fails");
    }
}
