//! The composition root: the order of start and shutdown, and the only place that names concrete parts.
//!
//! Start: lock the data directory, bind the address (both fail at once if they are taken), see that enough files may be
//! open, answer `/healthz` and `/readyz`, make a ledger if there is none, recover the shards, start their threads, open
//! for business. A ledger's number of shards is for good: so none is made by a start that can be told to fail.
//!
//! Shutdown, on SIGTERM, Ctrl-C or SIGHUP: refuse new connections, finish the requests under way, stop the shards,
//! snapshot, exit 0. A second signal exits at once with code 130; nothing acknowledged is lost by that either.
//!
//! Besides the shards' threads four work in the background. The *keeper* opens generations ahead, and has a
//! thread turn sealed ones into snapshots and archive segments (`server/compaction.rs`). The *housekeeper* looks
//! for room and makes the watermarks durable, the *grower* keeps the files of the logs some way ahead of small
//! commits (`server/housekeeping.rs`). The *watchdog* ends the process when a commit hangs (`server/watchdog.rs`).

mod background;
mod compaction;
mod contention;
mod housekeeping;
mod last_words;
mod recovery;
#[cfg(test)]
mod samples;
mod signals;
mod sockets;
mod watchdog;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{process, thread};

use crossbeam_channel::{Sender, bounded};
use uuid::Uuid;

use self::background::{Background, Kept};
use self::compaction::{Clients, Compactor, Keeper};
use self::contention::Contention;
use self::housekeeping::{DiskReserve, Grower, Housekeeper};
use self::last_words::on_log_failure;
use self::recovery::recover_all;
use self::signals::{Wish, Wishes};
use self::sockets::{bind, connections_max};
use crate::bank::{Bank, BankShard, Brake, Readers};
use crate::clock;
use crate::config::{CoreUse, ListenAddress, ServeSettings, Setting, ShardsAsked};
use crate::cores::{Cores, WORKERS};
use crate::http::{self, Api, Drained};
use crate::ledger::{OverdraftDefault, SHARDS_MAX, ShardId};
use crate::shard::batch::ShardRules;
use crate::shard::worker::{Network, ShardThreads};
use crate::storage::journal::JournalOptions;
use crate::storage::log::{Recovered, ShardJournal, ShardLog};
use crate::storage::manifest::{Birth, ClaimedDirectory, DataDirectory};
use crate::storage::{StorageError, plural};

/// The exit code after a second signal.
const EXIT_INTERRUPTED: i32 = 130;

/// Why the server does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ledger has another number of shards than was asked for.
    #[error("{error}; {}. To change the number, `teller export` this ledger and `teller import` it into one of another --db-name; `teller help export` says what that leaves out. If `teller verify` counts 0 events in it, deleting that directory does as well", with_so_many_shards(*has, *by))]
    ShardCount {
        /// Which ledger, and how many.
        error: StorageError,
        /// How many it has.
        has: usize,
        /// What asked for another number.
        by: Setting,
    },
    /// The address.
    #[error("cannot listen on {address}: {source}; {}", before_listening(source))]
    Bind {
        /// The address.
        address: ListenAddress,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system allows too few open files.
    #[error(
        "{allowed} open files are too few for {shards} shard{}; allow at least {needed}, with `ulimit -n {needed}`",
        plural(*shards)
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

/// How to start a ledger of so many shards where this asked for another number.
fn with_so_many_shards(shards: usize, by: Setting) -> String {
    match by {
        Setting::Flag(flag) => format!("start with {flag} {shards} or without {flag}"),
        Setting::Variable(_) => {
            format!("{by} asks for the other number: start without it, or with --shards {shards}")
        }
    }
}

/// What to do about an address that cannot be had.
fn before_listening(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop what uses it, or choose another with --host and --port",
        _ => "choose an address of this machine with --host, and a port with --port",
    }
}

impl ServerError {
    fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> ServerError {
        move |source| ServerError::System { action, source }
    }
}

/// Makes an empty ledger if there is none, and does not serve it.
///
/// # Errors
/// If it is there already but cannot be used, or cannot be created, or the system allows too few open files to serve it.
pub fn bootstrap(settings: &ServeSettings) -> Result<(), ServerError> {
    let claimed = claim(settings)?;
    if claimed.is_empty() {
        // As a start does; what is there already is left for that to judge.
        connections_max(claimed.shards(), http_threads(settings))?;
    }
    let directory = open(claimed)?;
    tracing::info!(
        path = %directory.path().display(),
        shards = directory.shards(),
        "the ledger is ready, and keeps its number of shards"
    );
    Ok(())
}

/// How long the thread that starts the shards waits for the end, to stop them: always. The system might have no other
/// one to give by then.
const ENDER_WAITS: Duration = Duration::from_secs(u32::MAX as u64);

/// Serves until a signal asks it to end.
///
/// # Errors
/// If it cannot start, or cannot write the last snapshot, or a log is damaged.
pub fn run(settings: &ServeSettings) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(ENDER_WAITS)
        .build()
        .map_err(ServerError::system("start the runtime"))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &ServeSettings) -> Result<(), ServerError> {
    // Before anything else, so that a signal during the start is heard.
    let mut wishes = Wishes::new()?;
    let claimed = claim(settings)?;
    let shards = claimed.shards();
    let listener = bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(ServerError::system("read the listening address"))?;
    tracing::info!(%address, data = %claimed.path().display(), shards, "starting");

    let http_threads = http_threads(settings);
    let connections_max = connections_max(shards, http_threads)?;
    let cores = match settings.cores {
        CoreUse::Split => Cores::split(http_threads, shards),
        CoreUse::Shared => Cores::shared(),
    };
    let limits = http::Limits { connections_max, ..http::Limits::default() };
    let api = Arc::new(Api::new(&limits));
    let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();
    let threads =
        http::Threads::start(http_threads, cores).map_err(ServerError::system("start the HTTP threads"))?;
    let http = tokio::spawn(http::serve(listener, Arc::clone(&api), limits, threads, async {
        let _ = http_stopped.await;
    }));

    let settings_for_start = settings.clone();
    let api_for_start = Arc::clone(&api);
    let start = tokio::task::spawn_blocking(move || {
        Running::start(open(claimed)?, &settings_for_start, cores, api_for_start)
    });
    let running = tokio::select! {
        running = start => running.expect("recovery does not panic")?,
        // Recovery has changed nothing that the next one does not do again.
        () = wishes.end() => process::exit(0),
    };
    api.ready(Arc::new(running.bank(settings.overdraft_default())?));
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
        if let Ok(Drained { connections_cut: connections @ 1.. }) = http.await {
            tracing::warn!(connections, "cut off: they were not done in time");
        }
        tokio::task::spawn_blocking(move || running.stop()).await.expect("shutdown does not panic")
    };
    tokio::select! {
        result = end => result?,
        () = wishes.end() => process::exit(EXIT_INTERRUPTED),
    }
    tracing::info!("ended");
    Ok(())
}

/// Locks the ledger's directory. No ledger is made yet.
#[expect(clippy::disallowed_methods, reason = "the composition root draws the ledger's id")]
fn claim(settings: &ServeSettings) -> Result<ClaimedDirectory, ServerError> {
    let birth =
        Birth { shards: half_of_the_cores().min(SHARDS_MAX), ledger: Uuid::new_v4(), created: clock::now() };
    let shards = settings.shards.map(|asked| asked.count);
    let claimed = DataDirectory::claim(&settings.location.directory(), shards, &birth);
    claimed.map_err(|error| match (&error, settings.shards) {
        (&StorageError::ShardCount { has, .. }, Some(ShardsAsked { by, .. })) => {
            ServerError::ShardCount { error, has, by }
        }
        _ => error.into(),
    })
}

/// Opens the ledger, or makes a new one.
fn open(claimed: ClaimedDirectory) -> Result<DataDirectory, ServerError> {
    let is_new = claimed.is_empty();
    let directory = claimed.open()?;
    if is_new {
        // Whoever mistypes the place of a ledger is served an empty one, in which every account is missing.
        tracing::info!(
            "there was no ledger in {}: a new, empty one was made; if there should be one, check --data-dir and --db-name",
            directory.path().display()
        );
    }
    Ok(directory)
}

fn http_threads(settings: &ServeSettings) -> usize {
    settings.http_threads.unwrap_or_else(half_of_the_cores)
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

impl RunningShard {
    /// Starts the threads of all shards.
    fn start_all(recovered: Vec<(ShardId, Recovered)>, rules: ShardRules) -> Vec<RunningShard> {
        // One for each shard's commit. What is written of the generation that is made behind everyone's back is so little
        // that a commit may wait for it.
        if let Some((_, first)) = recovered.first() {
            first.log.rest_spare_threads(recovered.len());
        }
        let mut network = Network::new(recovered.len());
        let start = |(id, Recovered { ledger, journal, log })| {
            let on_failure = Arc::new(on_log_failure);
            let threads =
                ShardThreads::start(id, ledger, rules, journal, clock::now, on_failure, &mut network);
            RunningShard { threads, log }
        };
        recovered.into_iter().map(start).collect()
    }
}

impl Running {
    fn start(
        directory: DataDirectory,
        settings: &ServeSettings,
        cores: Cores,
        api: Arc<Api>,
    ) -> Result<Running, ServerError> {
        let (wake_keeper, sealed) = bounded(1);
        let (wake_grower, work) = bounded(1);
        let (snapshot, asked) = bounded(1);

        let recovered = recover_all(&directory, &journal_options(settings, wake_keeper.clone()))?;
        let shards = RunningShard::start_all(recovered, shard_rules(settings, directory.shards()));
        cores.keep_apart();
        cores.have_wait(WORKERS);
        // Before it starts what works in the background.
        cores.wait_for_turn();

        let kept = |shard: &RunningShard| (shard.threads.handle().clone(), Arc::clone(&shard.log));
        let kept: Arc<[Kept]> = shards.iter().map(kept).collect();
        let reserve = Arc::new(DiskReserve {
            path: directory.path().to_owned(),
            bytes_min: settings.disk_reserve_bytes,
        });
        let clients = Clients::new(api, &kept, cores);
        let (compactor, compaction) = Compactor::start(Arc::clone(&kept), Arc::clone(&reserve), clients)?;
        let brake = Brake::default();
        // Woken once at the start: the next generations are opened ahead, and what an earlier life left is
        // compacted.
        let _ = wake_keeper.try_send(());
        let keeper = Keeper {
            shards: Arc::clone(&kept),
            compactor,
            brake: brake.clone(),
            interval: settings.snapshot_interval,
            sealed,
            asked,
        }
        .start()?;
        let housekeeper = Housekeeper {
            shards: Arc::clone(&kept),
            reserve: Arc::clone(&reserve),
            grower: wake_grower,
            keeper: wake_keeper,
            contention: Contention::new(cores),
        }
        .start()?;
        let grower = Grower { shards: kept, reserve, work }.start()?;
        let watchdog = watchdog::start(shards.iter().map(|shard| shard.threads.commit_watch()).collect())?;
        cores.roam();
        Ok(Running { shards, snapshot, brake, keeper, compaction, housekeeper, grower, watchdog, directory })
    }

    fn bank(&self, overdraft: OverdraftDefault) -> Result<Bank, ServerError> {
        let shard = |shard: &RunningShard| BankShard {
            handle: shard.threads.handle().clone(),
            log: Arc::clone(&shard.log) as _,
        };
        let shards = self.shards.iter().map(shard).collect();
        let readers = Readers::start().map_err(ServerError::system("start the readers of history"))?;
        Ok(Bank::new(shards, overdraft, readers).braked_by(self.brake.clone()))
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
        let mut finished = Ok(());
        for (shard, (ledger, journal, log)) in stopped.into_iter().enumerate() {
            let (accounts, last) = (ledger.accounts().len(), ledger.last().get());
            match log.finish(journal, &ledger) {
                Ok(()) => tracing::info!(
                    accounts,
                    last,
                    elapsed_ms = started.elapsed().as_millis() as u64,
                    "snapshot written"
                ),
                // The others end all the same.
                Err(error) => {
                    tracing::error!(shard, %error, "the log has not ended in order");
                    finished = finished.and(Err(error.into()));
                }
            }
        }
        drop(self.directory);
        finished
    }
}

fn journal_options(settings: &ServeSettings, sealed: Sender<()>) -> JournalOptions {
    JournalOptions { generation_bytes_max: settings.generation_bytes_max, sealed: Some(sealed) }
}

fn shard_rules(settings: &ServeSettings, shards: usize) -> ShardRules {
    ShardRules {
        overdraft: settings.overdraft_default(),
        key_retention_ms: settings.idempotency_retention.as_millis() as u64,
        keys_max: (settings.idempotency_keys_max as usize).div_ceil(shards),
    }
}
