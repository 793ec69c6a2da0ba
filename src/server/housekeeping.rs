//! Room: on the disk, in the logs, and ahead of them.
//!
//! The *housekeeper* looks once a second whether there is room for more, and refuses changes while there is
//! not; it makes the watermarks durable, and sees whether others want the cores of threads ([`Contention`]). The
//! *grower* keeps the files of the logs some way ahead of small commits. Neither it nor compaction begins what would take of the [`DiskReserve`]. That is for what had begun when
//! changes used up the rest, for commits until that is seen, and for the snapshots with which the process ends.
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
        look_for_room(&self.shards, &self.reserve);
        Background::start("housekeeper", move |stop| self.keep_house(stop))
    }

    fn keep_house(&mut self, stop: &Receiver<()>) {
        let mut appended = vec![0; self.shards.len()];
        while stop.recv_timeout(HOUSEKEEPING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if look_for_room(&self.shards, &self.reserve) == Room::Undone {
                let _ = self.keeper.try_send(());
            }
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

/// What stands against changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Nothing.
    Enough,
    /// The disk is full.
    DiskFull,
    /// In some shard, what is the keeper's to do, and there is room to do it: too many generations wait to be compacted, or
    /// the next one could not be opened.
    Undone,
}

/// Tells each shard how much of it waits to be compacted, and whether it may record anything: the log must never meet a
/// full disk, because what reached it then would be unknown until the next start. That the next generation cannot be
/// opened has other causes too: no inodes, no descriptors.
fn look_for_room(shards: &[Kept], reserve: &DiskReserve) -> Room {
    let disk_full = !reserve.has_room_for(0);
    let mut room = if disk_full { Room::DiskFull } else { Room::Enough };
    for (index, (handle, log)) in shards.iter().enumerate() {
        let sealed = log.sealed_generations();
        handle.set_generations_waiting(sealed);
        let lacks_next = log.lacks_next();
        let full = disk_full || sealed > SEALED_GENERATIONS_MAX || lacks_next;
        if full && !disk_full {
            room = Room::Undone;
        }
        if handle.set_disk_full(full) != full {
            tracing::warn!(
                shard = index,
                full,
                reserve_bytes = reserve.bytes_min,
                sealed,
                lacks_next,
                "room for changes"
            );
        }
    }
    room
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
    use crate::server::samples::{TIME_MAX, seal_one, start, wait_until};
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
        assert_eq!(look_for_room(&kept, &reserve(u64::MAX)), Room::DiskFull);
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
        assert_eq!(look_for_room(&kept, &reserve), Room::Enough);
        fs::write(directory.path().join("shard-0000/journal/0000000002"), "in the way").expect("written");
        log.prepare().expect_err("its name is taken");
        assert_eq!(look_for_room(&kept, &reserve), Room::Undone);
        assert!(kept[0].0.set_disk_full(true), "changes are refused");
        log.prepare().expect("another name is free");
        assert_eq!(look_for_room(&kept, &reserve), Room::Enough);
        threads.stop().expect("no log fails");
    }
}
