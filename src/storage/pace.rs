//! How background work stands back: for the threads that serve, which share its cores and its disk.
//!
//! It is a property of a thread, as its priority is: one that has called [`stand_back`] works in short stretches and
//! rests after each several times as long, in `rest`, which everything that handles much calls between one piece
//! and the next; unless it is told to [`Hurry`]. A low priority alone does not do: the system lets a thread finish its time slice, milliseconds in
//! which a core is missing where a commit takes a tenth of one; and who has once lowered it may not raise it again.
//! With rests, the slowest hundredth of the deposits is as fast while a snapshot is written as without; without them
//! it took three to five times as long, at a low priority three.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a stretch of work is at least: a third of what a request takes that meets it.
const WORK_MIN: Duration = Duration::from_micros(200);

/// How many times as long as it has worked a thread rests.
const REST_RATIO: u32 = 4;

/// Whether those who stand back have to get on.
#[derive(Clone, Debug, Default)]
pub struct Hurry(Arc<AtomicBool>);

impl Hurry {
    /// Says whether they have to, from now on.
    pub fn set(&self, hurry: bool) {
        self.0.store(hurry, Ordering::Relaxed);
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
        if !hurry.0.load(Ordering::Relaxed) {
            // What took much longer was the disk, or a thread that went first.
            thread::sleep(worked.min(10 * WORK_MIN) * REST_RATIO);
        }
        *since = Instant::now();
    });
}
