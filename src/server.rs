//! The composition root: the order of start and shutdown, and the only place that names concrete parts.
//!
//! Start: lock the data directory, bind the address (both fail at once if they are taken), answer `/healthz`
//! and `/readyz`, recover the shards, start their threads, open for business.
//!
//! Shutdown, on SIGTERM or Ctrl-C: refuse new connections, finish the requests under way, stop the shards,
//! snapshot, exit 0. A second signal exits at once with code 130; nothing acknowledged is lost by that either.
//!
//! Besides the shards' threads two work in the background. The *keeper* turns sealed generations into snapshots
//! and archive segments. The *housekeeper* looks once a second whether a sync hangs, whether the disk is full,
//! and makes the watermarks durable.

use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select, tick};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use crate::bank::{Bank, BankShard};
use crate::clock;
use crate::config::{ListenAddress, ServeSettings};
use crate::http::{self, Api};
use crate::ledger::{Amount, SHARDS_MAX, ShardId};
use crate::progress::Progress;
use crate::shard::batch::{Shard, ShardRules};
use crate::shard::handle::ShardHandle;
use crate::shard::worker::{SYNC_TIME_MAX, ShardThreads, SyncWatch};
use crate::storage::StorageError;
use crate::storage::journal::JournalOptions;
use crate::storage::log::{Recovered, ShardFiles, ShardJournal, ShardLog, recover};
use crate::storage::manifest::{Birth, DataDirectory};

/// The exit code after the log failed, of sysexits' EX_IOERR: restart, and recovery tells what is on the disk.
const EXIT_LOG_FAILURE: i32 = 74;
/// The exit code after a second signal.
const EXIT_INTERRUPTED: i32 = 130;
/// How often the housekeeper looks around: rarely enough to cost nothing on an idle machine.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("http")
        .build()
        .map_err(ServerError::system("start the HTTP threads"))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &ServeSettings) -> Result<(), ServerError> {
    // Before anything else, so that a signal during the start is heard.
    let mut wishes = Wishes::new()?;
    let directory = open_directory(settings)?;
    let listener = bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(ServerError::system("read the listening address"))?;
    tracing::info!(%address, data = %directory.path().display(), shards = directory.shards(), "starting");

    let api = Arc::new(Api::new());
    let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();
    let http = tokio::spawn(http::serve(listener, Arc::clone(&api), http::Limits::default(), async {
        let _ = http_stopped.await;
    }));

    let settings_for_start = settings.clone();
    let start = tokio::task::spawn_blocking(move || Running::start(directory, &settings_for_start));
    let running = tokio::select! {
        running = start => running.expect("recovery does not panic")?,
        // Recovery has changed nothing that the next one does not do again.
        () = wishes.end() => process::exit(0),
    };
    api.ready(Arc::new(running.bank(settings.max_overdraft)));
    println!("teller listens on http://{address}");

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

async fn bind(address: &ListenAddress) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address: address.clone(), source };
    let resolved = address.resolve().map_err(failed)?;
    TcpListener::bind(&resolved[..]).await.map_err(failed)
}

#[expect(clippy::disallowed_methods, reason = "the composition root draws the ledger's id")]
fn open_directory(settings: &ServeSettings) -> Result<DataDirectory, ServerError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let birth = Birth { shards: cores.min(SHARDS_MAX), ledger: Uuid::new_v4(), created: clock::now() };
    Ok(DataDirectory::open(&settings.location.directory(), settings.shards, &birth)?)
}

/// The shards, recovered and running, and what keeps house for them.
struct Running {
    shards: Vec<RunningShard>,
    keeper: Background,
    housekeeper: Background,
    /// Locked until everything else has ended.
    directory: DataDirectory,
}

struct RunningShard {
    threads: ShardThreads<ShardJournal>,
    log: Arc<ShardLog>,
}

impl Running {
    fn start(directory: DataDirectory, settings: &ServeSettings) -> Result<Running, ServerError> {
        let (keeper_wake, keeper_woken) = bounded(1);
        let options = JournalOptions {
            generation_bytes_max: settings.generation_bytes_max,
            sealed: Some(keeper_wake.clone()),
        };
        let rules = ShardRules {
            overdraft_limit: settings.max_overdraft,
            key_retention_ms: settings.idempotency_retention.as_millis() as u64,
            keys_max: (settings.idempotency_keys_max as usize).div_ceil(directory.shards()),
        };
        let recovered = recover_all(&directory, &options)?;
        let shards: Vec<RunningShard> = recovered
            .into_iter()
            .map(|(id, Recovered { ledger, journal, log })| RunningShard {
                threads: ShardThreads::start(
                    id,
                    Shard::new(id, ledger, rules),
                    journal,
                    clock::now,
                    Arc::new(on_log_failure),
                ),
                log,
            })
            .collect();
        let keeper = {
            let shards: Vec<_> =
                shards.iter().map(|shard| (shard.threads.handle().clone(), Arc::clone(&shard.log))).collect();
            let interval = settings.snapshot_interval;
            // Woken once at the start: the next generations are opened ahead, and what an earlier life left is
            // compacted.
            let _ = keeper_wake.try_send(());
            Background::start("keeper", move |stop| keep(&shards, interval, &keeper_woken, stop))?
        };
        let housekeeper = {
            let shards: Vec<_> = shards
                .iter()
                .map(|shard| {
                    (shard.threads.handle().clone(), shard.threads.sync_watch(), Arc::clone(&shard.log))
                })
                .collect();
            let reserve =
                DiskReserve { path: directory.path().to_owned(), bytes_min: settings.disk_reserve_bytes };
            reserve.apply(shards.iter().map(|(handle, ..)| handle));
            Background::start("housekeeper", move |stop| keep_house(&shards, &reserve, stop))?
        };
        Ok(Running { shards, keeper, housekeeper, directory })
    }

    fn bank(&self, overdraft_limit: Amount) -> Bank {
        let shard = |shard: &RunningShard| BankShard {
            handle: shard.threads.handle().clone(),
            log: Arc::clone(&shard.log) as _,
        };
        Bank::new(self.shards.iter().map(shard).collect(), overdraft_limit)
    }

    /// Has every shard end its generation; the keeper makes the snapshots.
    fn snapshot(&self) {
        tracing::info!("a snapshot was asked for");
        for shard in &self.shards {
            shard.threads.handle().roll();
        }
    }

    fn stop(self) -> Result<(), ServerError> {
        let mut stopped = Vec::new();
        for shard in self.shards {
            let (ledger, journal) = shard.threads.stop()?;
            stopped.push((ledger, journal, shard.log));
        }
        self.housekeeper.stop();
        // Ended before the last snapshots: one thread compacts at a time.
        self.keeper.stop();
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
    let ids: Vec<ShardId> = (0..directory.shards()).filter_map(ShardId::new).collect();
    let progress = Progress::new("recovering", "events", None);
    let parallelism = thread::available_parallelism().map_or(1, usize::from);
    let mut recovered = Vec::with_capacity(ids.len());
    for ids in ids.chunks(parallelism) {
        let results: Vec<Result<Recovered, StorageError>> = thread::scope(|scope| {
            let recover = |&id: &ShardId| {
                let (files, options) = (ShardFiles::new(directory, id), options.clone());
                let progress = &progress;
                scope.spawn(move || recover(&files, options, progress))
            };
            let threads: Vec<_> = ids.iter().map(recover).collect();
            threads.into_iter().map(|thread| thread.join().expect("recovery does not panic")).collect()
        });
        for (&id, result) in ids.iter().zip(results) {
            recovered.push((id, result?));
        }
    }
    progress.finish();
    let accounts: usize = recovered.iter().map(|(_, shard)| shard.ledger.accounts().len()).sum();
    let elapsed_ms = progress.elapsed().as_millis() as u64;
    tracing::info!(accounts, replayed = progress.done(), elapsed_ms, "recovered");
    Ok(recovered)
}

/// Compacts whenever a generation is sealed, and has the generations sealed every `interval`.
fn keep(
    shards: &[(ShardHandle, Arc<ShardLog>)],
    interval: Duration,
    sealed: &Receiver<()>,
    stop: &Receiver<()>,
) {
    let due = if interval.is_zero() { never() } else { tick(interval) };
    loop {
        select! {
            recv(stop) -> _ => return,
            recv(due) -> _ => shards.iter().for_each(|(handle, _)| handle.roll()),
            recv(sealed) -> _ => {
                for (index, (_, log)) in shards.iter().enumerate() {
                    if let Err(error) = log.compact() {
                        // The log stays complete, only longer; the next sealing tries again.
                        tracing::error!(shard = index, %error, "cannot compact the log");
                    }
                }
            }
        }
    }
}

type Housed = (ShardHandle, SyncWatch, Arc<ShardLog>);

/// Watches over syncs, disk space and watermarks.
fn keep_house(shards: &[Housed], reserve: &DiskReserve, stop: &Receiver<()>) {
    while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        reserve.apply(shards.iter().map(|(handle, ..)| handle));
        for (index, (_, watch, log)) in shards.iter().enumerate() {
            if watch.hangs() {
                tracing::error!(shard = index, limit = ?SYNC_TIME_MAX, "the log's sync hangs; ending the process");
                process::exit(EXIT_LOG_FAILURE);
            }
            if let Err(error) = log.sync_watermark() {
                tracing::error!(shard = index, %error, "ending the process");
                process::exit(EXIT_LOG_FAILURE);
            }
        }
    }
}

/// The free space below which nothing is recorded any more: the log must never meet a full disk, because what
/// reached it then would be unknown.
struct DiskReserve {
    path: PathBuf,
    bytes_min: u64,
}

impl DiskReserve {
    fn apply<'a>(&self, shards: impl Iterator<Item = &'a ShardHandle>) {
        let full = match rustix::fs::statvfs(&self.path) {
            Ok(space) => space.f_bavail.saturating_mul(space.f_frsize) < self.bytes_min,
            Err(error) => {
                tracing::warn!(%error, "cannot read the free disk space");
                return;
            }
        };
        for shard in shards {
            if shard.set_disk_full(full) != full {
                tracing::warn!(full, reserve_bytes = self.bytes_min, "the disk reserve");
            }
        }
    }
}

/// The log is in an unknown state and the ledger ahead of it: there is nothing to go on with (P1).
fn on_log_failure(shard: ShardId, error: &StorageError) {
    tracing::error!(shard = shard.index(), %error, "the log failed; ending the process. Restart to recover");
    process::exit(EXIT_LOG_FAILURE);
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
