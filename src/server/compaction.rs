//! Sealed generations become snapshots and archive segments.
//!
//! The *keeper* says when, and how much hurry there is: it is woken by each generation that is sealed, has
//! them sealed when a snapshot is due or asked for, and opens the next ones ahead. The *compactor* does the
//! work, on a thread of its own that stands back for [`Clients`]. Of all logs one is compacted at a time.
//!
//! What a compaction does to a log is told in `storage/log.rs`, how it stands back in `storage/pace.rs`. One
//! that fails is logged and tried again when the next is due: the log stays complete, only longer.

use std::cell::Cell;
use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};

use super::ServerError;
use super::background::{Background, Kept};
use super::housekeeping::DiskReserve;
use crate::bank::Brake;
use crate::cores::{Cores, Place};
use crate::http::Api;
use crate::memory;
use crate::shard::handle::ShardHandle;
use crate::storage::StorageError;
use crate::storage::log::{CompactionLimits, ShardLog};
use crate::storage::pace::{self, Hurry};

/// With more sealed generations of a shard than this a compaction hurries, by one for each: they take 40 MB of memory
/// each until they are compacted. If that does not do, batches are slowed down: see [`Brake`].
const SEALED_GENERATIONS_UNHURRIED_MAX: usize = 2;

/// Has the logs compacted whenever a generation is sealed; has the generations sealed every `interval`, and when it is
/// asked. The keeper itself only opens the next generations ahead, and says how much hurry there is.
pub(super) struct Keeper {
    pub(super) shards: Arc<[Kept]>,
    pub(super) compactor: Compactor,
    /// What it slows batches down with.
    pub(super) brake: Brake,
    pub(super) interval: Duration,
    /// Hears of sealed generations.
    pub(super) sealed: Receiver<()>,
    /// Hears of snapshots that are asked for.
    pub(super) asked: Receiver<()>,
}

impl Keeper {
    pub(super) fn start(self) -> Result<Background, ServerError> {
        Background::start("keeper", move |stop| self.keep(stop))
    }

    fn keep(&self, stop: &Receiver<()>) {
        let due = tick(self.interval);
        let roll_all = || self.shards.iter().for_each(|(handle, _)| handle.roll());
        let mut is_compacting = false;
        let mut is_due = false;
        loop {
            let mut goes_on = false;
            select! {
                recv(stop) -> _ => {
                    // What is under way is waited for, and nobody is left to stand back for.
                    self.compactor.hurry.set(Hurry::MAX);
                    self.compactor.ending.store(true, Ordering::Relaxed);
                    return;
                }
                recv(self.sealed) -> _ => is_due = true,
                // What an earlier compaction could not do has no sealing of its own to wait for.
                recv(due) -> _ => { roll_all(); is_due = true; }
                recv(self.asked) -> _ => { roll_all(); is_due = true; }
                recv(self.compactor.done) -> got_on => { is_compacting = false; goes_on = got_on == Ok(true); }
            }
            for (index, (_, log)) in self.shards.iter().enumerate() {
                if let Err(error) = log.prepare() {
                    tracing::error!(shard = index, %error, "cannot open the next generation ahead");
                }
            }
            let waiting = self.shards.iter().map(|(_, log)| log.sealed_generations()).max().unwrap_or(0);
            self.compactor.hurry.set(waiting.saturating_sub(SEALED_GENERATIONS_UNHURRIED_MAX) as u32);
            self.brake.set(waiting);
            is_due |= goes_on && waiting > 0;
            if is_due && !is_compacting {
                is_due = false;
                is_compacting = self.compactor.begin.send(()).is_ok();
            }
        }
    }
}

/// What the keeper has compact the logs: a thread of its own, for it takes its time, and a full generation must not wait
/// for it. It is one for all compactions, since the allocator keeps for each thread what that has freed, up to 250 MB of
/// a large ledger's; when there is nothing left to compact, that goes back to the system.
pub(super) struct Compactor {
    /// Has it begin; without its other end, it ends.
    begin: Sender<()>,
    /// Tells of the end, and whether it got on with any log.
    done: Receiver<bool>,
    hurry: Hurry,
    /// Whether it is to leave what it has not begun.
    ending: Arc<AtomicBool>,
}

impl Compactor {
    pub(super) fn start(
        shards: Arc<[Kept]>,
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
        match compact(log, &reserve.path, &|bytes| reserve.has_room_for(bytes)) {
            Ok(worked) => got_on |= worked,
            // The log stays complete, only longer; the next time tries again.
            Err(error) => tracing::error!(shard = index, %error, "cannot compact the log"),
        }
    }
    got_on
}

/// Takes a log a step further, if there is anything to do, and room for that; where there is little, by one generation,
/// for each frees room for the next. Whether it got on.
fn compact(log: &ShardLog, path: &Path, has_room: &dyn Fn(u64) -> bool) -> Result<bool, StorageError> {
    let whole = CompactionLimits::default();
    let mut needed = 0;
    for generations in [whole.generations, 1] {
        let limits = CompactionLimits { generations, ..whole };
        needed = log.compaction_bytes(&limits)?;
        if needed == 0 || has_room(needed) {
            return log.compact(&limits, has_room);
        }
    }
    let path = path.display();
    tracing::warn!(needed, %path, "there is no room to compact the log; making room is the operator's");
    Ok(false)
}

/// Those whom compaction stands back for: clients, and the shards, which serve them.
pub(super) struct Clients {
    api: Arc<Api>,
    shards: Vec<ShardHandle>,
    cores: Cores,
    /// How many cores the shards have; 0 if cores are not split.
    cores_of_shards: usize,
    /// Where compaction is.
    place: Cell<Place>,
}

impl Clients {
    pub(super) fn new(api: Arc<Api>, shards: &[Kept], cores: Cores) -> Clients {
        Clients {
            api,
            shards: shards.iter().map(|(handle, _)| handle.clone()).collect(),
            cores,
            cores_of_shards: cores.of_shards(),
            place: Cell::new(Place::Anywhere),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::logged::logged;
    use crate::server::samples::{TIME_MAX, seal_one, start};
    use crate::shard::request::Request;
    use crate::storage::journal::JournalOptions;

    #[test]
    fn compaction_makes_way_for_the_shards_and_else_for_those_that_serve() {
        for cores_of_shards in [2, 3] {
            let clients = Clients {
                api: Arc::new(Api::default()),
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

    /// One old snapshot that could not be deleted kept everything from the archive, and snapshots piled up.
    #[test]
    fn an_old_snapshot_that_stays_keeps_nothing_else() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        let snapshots = directory.path().join("shard-0000/snapshots");
        let names = || -> BTreeSet<_> {
            let entries = fs::read_dir(&snapshots).expect("it is there");
            entries.map(|entry| entry.expect("readable").path()).collect()
        };
        (0..5).for_each(|_| seal_one(&threads, &log));
        let limits = CompactionLimits { generations: 1, ..CompactionLimits::default() };
        let compact = || assert!(log.compact(&limits, &|_| true).expect("compacted"));
        compact();
        let oldest = names().pop_first().expect("one is there");
        compact();
        fs::remove_file(&oldest).expect("removed");
        fs::create_dir(&oldest).expect("no file, which could be deleted");
        for left in [2, 1, 0] {
            compact();
            assert_eq!(log.sealed_generations(), left);
            assert_eq!((names().len(), names().first()), (3, Some(&oldest)));
        }
        threads.stop().expect("no log fails");
    }

    /// With room for one generation and not for four nothing was compacted, until changes had to be refused, though each
    /// would have made room for the next.
    #[test]
    fn where_there_is_little_room_one_generation_is_compacted_at_a_time() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        let segments = || fs::read_dir(directory.path().join("shard-0000/archive")).expect("read").count();
        (0..4).for_each(|_| seal_one(&threads, &log));
        let one = CompactionLimits { generations: 1, ..CompactionLimits::default() };
        for left in [3, 2] {
            let needed = log.compaction_bytes(&one).expect("looked at");
            assert!(
                needed > 0 && needed < log.compaction_bytes(&CompactionLimits::default()).expect("looked at")
            );
            let (got_on, told) = logged(|| compact(&log, directory.path(), &|bytes| bytes < needed));
            assert!(!got_on.expect("nothing fails"), "not even one fits");
            let path = directory.path().display();
            assert!(told.contains(&format!("needed={needed} path={path}")), "{told}");
            // Once it has begun there is none for anything else: a merge may always wait.
            let questions = Cell::new(0);
            let has_room = |bytes| {
                questions.set(questions.get() + 1);
                questions.get() <= 2 && bytes <= needed
            };
            assert!(compact(&log, directory.path(), &has_room).expect("compacted"), "it gets on");
            assert_eq!((log.sealed_generations(), segments()), (left, 4 - left));
        }
        assert!(compact(&log, directory.path(), &|_| true).expect("compacted"));
        assert_eq!((log.sealed_generations(), segments()), (0, 1), "all fits, and what has waited is merged");
        assert!(!compact(&log, directory.path(), &|_| false).expect("nothing to do"));
        threads.stop().expect("no log fails");
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
        let shards: Arc<[Kept]> = Arc::new([(threads.handle().clone(), Arc::clone(&log))]);
        // While this is there, nobody has asked for a snapshot.
        let (_ask, asked) = bounded(1);
        let interval = Duration::from_secs(3600);
        let keeper = Keeper { shards, compactor, brake: brake.clone(), interval, sealed: woken, asked };
        let keeper = keeper.start().expect("a thread");

        begun.recv_timeout(TIME_MAX).expect("there is something to do");
        assert!(brake.is_on());
        assert_eq!(hurry.level(), 7);
        assert!(log.compact(&CompactionLimits::default(), &|_| true).expect("compacted"), "it got on");
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
