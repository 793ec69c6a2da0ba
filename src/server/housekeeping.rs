//! Room: on the disk, in the logs, and ahead of them.
//!
//! The *housekeeper* looks once a second whether there is room for more, and refuses changes while there is
//! not, which it tells with the cause. It tells when a shard remembers as many idempotency keys as it may, makes the
//! watermarks durable, and sees whether others want the cores of threads ([`Contention`]). The *grower* keeps the files of
//! the logs some way ahead of small commits. Neither it nor compaction begins what would take of the [`DiskReserve`]. That
//! is for what had begun when changes used up the rest, for commits until that is seen, and for the snapshots with which
//! the process ends.
//!
//! But for that look both sleep while nothing is appended. To make room is left to compaction, or to the
//! operator.

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};

use super::ServerError;
use super::background::{Background, HOUSEKEEPING_INTERVAL, Kept};
use super::contention::Contention;
use super::last_words::end_without_the_log;

/// How long the grower rests between two steps: some ten commits, of which one has written the step.
const GROWTH_REST: Duration = Duration::from_millis(5);

/// How many sealed generations of a shard may wait for the keeper. Each is an open database of up to 110 MB; when
/// there are more, the keeper has failed or cannot follow, and changes are refused as if the disk were full.
const SEALED_GENERATIONS_MAX: usize = 32;

/// Looks after room and watermarks, and wakes the grower if there may be something to do: at rest it sleeps. The keeper
/// is woken when only it can let changes in again: without changes nothing is sealed, which else wakes it.
pub(super) struct Housekeeper {
    pub(super) shards: Arc<[Kept]>,
    pub(super) reserve: Arc<DiskReserve>,
    /// Wakes the grower.
    pub(super) grower: Sender<()>,
    /// Wakes the keeper.
    pub(super) keeper: Sender<()>,
    /// Sees whether others want the cores on which threads are kept.
    pub(super) contention: Contention,
}

impl Housekeeper {
    /// Starts its thread. It has looked for room once before this returns, and so before anything is served.
    pub(super) fn start(mut self) -> Result<Background, ServerError> {
        let mut lacks = vec![None; self.shards.len()];
        look_for_room(&self.shards, &self.reserve, &mut lacks);
        Background::start("housekeeper", move |stop| self.keep_house(stop, lacks))
    }

    fn keep_house(&mut self, stop: &Receiver<()>, mut lacks: Vec<Option<Lack>>) {
        let mut appended = vec![0; self.shards.len()];
        let mut keys_full = vec![false; self.shards.len()];
        while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            look_for_room(&self.shards, &self.reserve, &mut lacks);
            if lacks.iter().flatten().any(|lack| *lack != Lack::Space) {
                let _ = self.keeper.try_send(());
            }
            look_for_full_keys(&self.shards, &mut keys_full);
            self.contention.look();
            for (index, (handle, log)) in self.shards.iter().enumerate() {
                let before = mem::replace(&mut appended[index], handle.durable().get());
                if appended[index] > before {
                    // One notice stands for any number.
                    let _ = self.grower.try_send(());
                }
                if let Err(error) = log.sync_watermark() {
                    end_without_the_log(move || tracing::error!(shard = index, %error, "ending the process"));
                }
            }
        }
    }
}

/// Keeps the files of the logs some way ahead of small commits, in steps with rests, whenever something was
/// appended.
pub(super) struct Grower {
    pub(super) shards: Arc<[Kept]>,
    pub(super) reserve: Arc<DiskReserve>,
    /// Hears of appends.
    pub(super) work: Receiver<()>,
}

impl Grower {
    pub(super) fn start(self) -> Result<Background, ServerError> {
        Background::start("grower", move |stop| self.grow(stop))
    }

    fn grow(&self, stop: &Receiver<()>) {
        loop {
            select! {
                recv(stop) -> _ => return,
                // Who tells of it ends before this does.
                recv(self.work) -> told => if told.is_err() { return },
            }
            for (index, (_, log)) in self.shards.iter().enumerate() {
                loop {
                    match log.grow(&|bytes| self.reserve.has_room_for(bytes)) {
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
}

/// What a shard lacks to take changes. But for space it is the keeper's to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Space on the disk, besides the reserve.
    Space,
    /// Compaction: too many generations wait for it.
    Compaction,
    /// The log's next generation, which could not be opened.
    NextGeneration,
}

impl Lack {
    /// Why changes are refused, and what to do about it.
    fn told(self, reserve: &DiskReserve, sealed: usize) -> String {
        match self {
            Lack::Space => format!(
                "the disk of {} has less than {} MiB free; make room there, or start the server with a smaller \
                 --disk-reserve-mib",
                reserve.path.display(),
                reserve.bytes_min / (1024 * 1024)
            ),
            Lack::Compaction => format!(
                "{sealed} files of the log wait to be compacted, more than {SEALED_GENERATIONS_MAX}; if an error \
                 before this says why, see to that, else wait: it goes on by itself"
            ),
            Lack::NextGeneration => {
                "the log's next file cannot be made; see to what the error before this says, such as \
                 no inodes or too few open files (`ulimit -n`): it is tried again by itself"
                    .to_owned()
            }
        }
    }
}

/// Tells each shard how much of it waits to be compacted, when it had its newest snapshot, and whether it may record
/// anything: the log must never meet a full disk, because what reached it then would be unknown until the next start. That
/// the next generation cannot be opened has other causes too: no inodes, no descriptors. `lacks` is what each shard lacked
/// before, and then lacks.
fn look_for_room(shards: &[Kept], reserve: &DiskReserve, lacks: &mut [Option<Lack>]) {
    let disk_full = !reserve.has_room_for(0);
    for (index, ((handle, log), lack)) in shards.iter().zip(lacks).enumerate() {
        let sealed = log.sealed_generations();
        handle.set_generations_waiting(sealed);
        handle.set_snapshot_secs(log.snapshot_secs());
        let now = if disk_full {
            Some(Lack::Space)
        } else if sealed > SEALED_GENERATIONS_MAX {
            Some(Lack::Compaction)
        } else if log.lacks_next() {
            Some(Lack::NextGeneration)
        } else {
            None
        };
        handle.set_disk_full(now.is_some());
        if mem::replace(lack, now) == now {
            continue;
        }
        match now {
            Some(lack) => {
                tracing::warn!(shard = index, "changes are refused: {}", lack.told(reserve, sealed));
            }
            None => tracing::info!(shard = index, "changes are taken again"),
        }
    }
}

/// Tells once of each shard that it remembers as many idempotency keys as it may; and again only after a tenth of them has
/// been free, for as they expire one by one it would be as full again every moment. `told` is which are.
fn look_for_full_keys(shards: &[Kept], told: &mut [bool]) {
    for (index, ((handle, _), told)) in shards.iter().zip(told).enumerate() {
        let (were_full, figures) = (handle.take_keys_were_full(), handle.figures());
        if were_full && !*told {
            tracing::warn!(
                shard = index,
                keys = figures.keys,
                "requests with a new Idempotency-Key are refused: the shard remembers as many keys as it may; they expire by \
                 themselves, or start the server with a larger --idempotency-keys-max, or fewer --idempotency-hours"
            );
        }
        *told = (*told || were_full) && figures.keys > figures.keys_max - figures.keys_max.div_ceil(10);
    }
}

/// The free space that is kept.
pub(super) struct DiskReserve {
    pub(super) path: PathBuf,
    pub(super) bytes_min: u64,
}

impl DiskReserve {
    /// Whether so many bytes more would leave the reserve untouched.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::cores::Cores;
    use crate::logged::logged;
    use crate::server::samples::{TIME_MAX, open_keyed, seal_one, start, wait_until};
    use crate::shard::request::Reply;
    use crate::storage::journal::JournalOptions;
    use crate::storage::log::CompactionLimits;

    /// Changes stayed refused after a compaction that failed could go on, up to the next snapshot that was due: nothing
    /// woke the keeper, as nothing could be sealed.
    #[test]
    fn the_keeper_is_woken_while_changes_are_refused_for_want_of_compaction() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        (0..=SEALED_GENERATIONS_MAX).for_each(|_| seal_one(&threads, &log));
        let kept: Arc<[Kept]> = Arc::new([(threads.handle().clone(), Arc::clone(&log))]);
        let reserve = |bytes_min| DiskReserve { path: directory.path().to_owned(), bytes_min };
        let mut lacks = [None];
        look_for_room(&kept, &reserve(u64::MAX), &mut lacks);
        assert_eq!(lacks, [Some(Lack::Space)]);
        look_for_room(&kept, &reserve(0), &mut lacks);
        assert_eq!(lacks, [Some(Lack::Compaction)]);
        let (grower, _work) = bounded(1);
        let (keeper, woken) = bounded(1);
        let (shards, reserve) = (Arc::clone(&kept), Arc::new(reserve(0)));
        let contention = Contention::new(Cores::shared());
        let housekeeper = Housekeeper { shards, reserve, grower, keeper, contention };
        let housekeeper = housekeeper.start().expect("a thread");
        for _ in 0..2 {
            woken.recv_timeout(TIME_MAX).expect("it is woken");
        }
        let seen = kept[0].0.figures();
        assert_eq!((seen.refuses_changes, seen.generations_waiting), (true, SEALED_GENERATIONS_MAX + 1));
        assert!(kept[0].0.set_disk_full(true), "changes are refused");
        while log.compact(&CompactionLimits::default(), &|_| true).expect("compacted") {}
        wait_until("changes are taken again", || !kept[0].0.set_disk_full(true));
        housekeeper.stop();
        threads.stop().expect("no log fails");
    }

    /// Without inodes, the log went on until it was twice as long as it may be, and then ended the process, which could
    /// not start any more either.
    #[test]
    fn changes_are_refused_while_the_next_generation_cannot_be_opened() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        let kept: Arc<[Kept]> = Arc::new([(threads.handle().clone(), Arc::clone(&log))]);
        let reserve = DiskReserve { path: directory.path().to_owned(), bytes_min: 0 };
        let mut lacks = [None];
        look_for_room(&kept, &reserve, &mut lacks);
        assert_eq!(lacks, [None]);
        fs::write(directory.path().join("shard-0000/journal/0000000002"), "in the way").expect("written");
        log.prepare().expect_err("its name is taken");
        look_for_room(&kept, &reserve, &mut lacks);
        assert_eq!(lacks, [Some(Lack::NextGeneration)]);
        assert!(kept[0].0.set_disk_full(true), "changes are refused");
        log.prepare().expect("another name is free");
        look_for_room(&kept, &reserve, &mut lacks);
        assert_eq!(lacks, [None]);
        assert!(!kept[0].0.set_disk_full(false), "changes are taken");
        threads.stop().expect("no log fails");
    }

    /// A shard that remembered as many keys as it may said nothing but 503 to its clients, up to a day long.
    #[test]
    fn that_a_shard_has_no_room_for_keys_is_told_once_until_it_has_had_some() {
        let (_temporary, _directory, threads, log) = start(&JournalOptions::default());
        let kept: Arc<[Kept]> = Arc::new([(threads.handle().clone(), log)]);
        let mut told = [false];
        let mut look = || logged(|| look_for_full_keys(&kept, &mut told)).1;
        let (mut keys, mut refused) = (0, 0);
        let mut open = |count| {
            for key in keys..keys + count {
                refused += usize::from(matches!(open_keyed(&threads, key), Reply::KeysExhausted));
            }
            keys += count;
            refused
        };
        assert_eq!(open(9), 0);
        assert_eq!(look(), "");
        assert_eq!((threads.handle().figures().keys, threads.handle().figures().keys_max), (9, 10));
        assert_eq!(open(2), 1);
        let line = look();
        let cause = "requests with a new Idempotency-Key are refused: ";
        assert!(
            line.contains(" WARN ") && line.contains(cause) && line.contains("shard=0 keys=10"),
            "{line}"
        );
        assert_eq!(open(2), 3);
        assert_eq!(look(), "");
        // As full again a moment after some have expired.
        let handle = threads.handle();
        handle.set_keys(10, true);
        assert_eq!(look(), "");
        handle.set_keys(9, false);
        assert_eq!(look(), "");
        handle.set_keys(10, true);
        assert!(look().contains(cause), "a tenth had been free");
        threads.stop().expect("no log fails");
    }

    /// What was told had the same words for both directions, and neither a cause nor what to do. Whoever made room on the
    /// disk saw changes refused all the same, for what had piled up, and nothing of that.
    #[test]
    fn that_changes_are_refused_is_told_with_the_cause_once_and_so_is_the_end() {
        let (_temporary, directory, threads, log) = start(&JournalOptions::default());
        let kept: Arc<[Kept]> = Arc::new([(threads.handle().clone(), Arc::clone(&log))]);
        let reserve = |bytes_min| DiskReserve { path: directory.path().to_owned(), bytes_min };
        let mut lacks = [None];
        let mut look = |bytes_min| logged(|| look_for_room(&kept, &reserve(bytes_min), &mut lacks)).1;
        assert_eq!(look(0), "");
        (0..=SEALED_GENERATIONS_MAX).for_each(|_| seal_one(&threads, &log));
        let told = look(u64::MAX);
        for part in [" WARN ", "changes are refused: the disk of ", "--disk-reserve-mib", "shard=0"] {
            assert!(told.contains(part), "{part:?} in {told:?}");
        }
        assert_eq!(look(u64::MAX), "");
        let told = look(0);
        let cause =
            "changes are refused: 33 files of the log wait to be compacted, more than 32; if an error";
        assert!(told.contains(" WARN ") && told.contains(cause), "{told:?}");
        assert_eq!(look(0), "");
        while log.compact(&CompactionLimits::default(), &|_| true).expect("compacted") {}
        let told = look(0);
        assert!(told.contains(" INFO ") && told.contains("changes are taken again shard=0"), "{told:?}");
        assert_eq!(look(0), "");
        threads.stop().expect("no log fails");
    }
}
