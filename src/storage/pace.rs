//! How background work stands back: for the threads that serve, which share its cores and its disk.
//!
//! It is a property of a thread, as its priority is: one that has called [`stand_back`] works in short stretches and
//! rests after each several times as long, in `rest`, which everything that handles much calls between one piece
//! and the next. The more it has to [`Hurry`], the shorter it rests, and in the end it only lets others have
//! a turn between its stretches: those that serve do not take a core from it (`cores`), and would wait for its whole
//! time slice.
//!
//! A low priority alone does not do: the system lets a thread finish its time slice, milliseconds in which a core is
//! missing where a commit takes a tenth of one; and who has once lowered it may not raise it again. With rests, the
//! slowest hundredth of the deposits takes a quarter to two fifths longer while a snapshot is written; without them it
//! took three to five times as long, at a low priority three.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a stretch of work is at least: a third of what a request takes that meets it.
const WORK_MIN: Duration = Duration::from_micros(200);

/// How many times as long as it has worked a thread rests.
const REST_RATIO: u32 = 8;

/// How much those who stand back have to get on.
#[derive(Clone, Debug, Default)]
pub struct Hurry(Arc<AtomicU32>);

impl Hurry {
    /// From here on there are no rests.
    pub const MAX: u32 = 5;

    /// Says how much, from now on: 0 is not at all, and each one more halves the rests, until from [`Hurry::MAX`] on
    /// there are none. So work that falls behind catches up, without being all at once a load like any other.
    pub fn set(&self, hurry: u32) {
        self.0.store(hurry, Ordering::Relaxed);
    }

    /// How long who has worked so long rests.
    fn rest_after(&self, worked: Duration) -> Option<Duration> {
        let hurry = self.0.load(Ordering::Relaxed);
        (hurry < Hurry::MAX).then(|| worked * REST_RATIO / (1 << hurry))
    }
}

thread_local! {
    /// What a thread that stands back listens to, and since when it has been working.
    static WORKING: RefCell<Option<(Hurry, Instant)>> = const { RefCell::new(None) };
}

/// Has this thread stand back for all others from now on, whenever there is no hurry.
pub fn stand_back(hurry: &Hurry) {
    WORKING.set(Some((hurry.clone(), Instant::now())));
}

/// Rests, if this thread stands back and has worked long enough.
pub(super) fn rest() {
    WORKING.with_borrow_mut(|working| {
        let Some((hurry, since)) = working else { return };
        let worked = since.elapsed();
        if worked < WORK_MIN {
            return;
        }
        // What took much longer was the disk, or a thread that went first.
        match hurry.rest_after(worked.min(10 * WORK_MIN)) {
            Some(rest) => thread::sleep(rest),
            None => thread::yield_now(),
        }
        *since = Instant::now();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_hurry_the_shorter_the_rests() {
        let hurry = Hurry::default();
        let rests: Vec<_> = (0..=Hurry::MAX + 1)
            .map(|level| {
                hurry.set(level);
                hurry.rest_after(Duration::from_millis(1)).map(|rest| rest.as_micros())
            })
            .collect();
        assert_eq!(rests, [Some(8000), Some(4000), Some(2000), Some(1000), Some(500), None, None]);
    }
}
