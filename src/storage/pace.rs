//! How background work stands back: for the threads that serve, which share its cores and its disk.
//!
//! It is a property of a thread, as its priority is: a thread that has called [`stand_back`] works in short stretches
//! and rests after each several times as long, in [`rest`], which everything that handles much calls between one
//! piece and the next. A priority alone does not do: the system lets a thread of the lowest finish its time slice,
//! milliseconds in which a core is missing where a commit takes a tenth of one. With it, the worst hundredth of the
//! deposits took three times as long while a snapshot was written.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// The priority of a thread that stands back, on the scale of `nice`.
const NICENESS: i32 = 10;

/// How long a stretch of work is at least: a third of what a request takes that meets it.
const WORK_MIN: Duration = Duration::from_micros(200);

/// How many times as long as it has worked a thread rests.
const REST_RATIO: u32 = 4;

thread_local! {
    /// When the stretch of work began; none in a thread that does not stand back.
    static WORKING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has this thread stand back for all others, to its end.
pub fn stand_back() {
    // Of this thread alone. Where it may not be set the rests still do.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the background works at the usual priority");
    }
    WORKING_SINCE.set(Some(Instant::now()));
}

/// Rests, if this thread stands back and has worked long enough.
pub(super) fn rest() {
    let Some(since) = WORKING_SINCE.get() else { return };
    let worked = since.elapsed();
    if worked >= WORK_MIN {
        // What took much longer was the disk, or a thread that went first.
        thread::sleep(worked.min(10 * WORK_MIN) * REST_RATIO);
        WORKING_SINCE.set(Some(Instant::now()));
    }
}
