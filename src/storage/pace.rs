//! How background work stands back: for those who are served, with whom it shares its cores and its disk.
//!
//! It is a property of a thread, as its priority is: one that has called [`stand_back`] works in short stretches and
//! rests after each several times as long, in `rest`, which everything that handles much calls between one piece
//! and the next. The more it has to [`Hurry`], the shorter it rests, and in the end it only lets others have
//! a turn between its stretches: those that serve do not take a core from it (`cores`), and would wait for its whole
//! time slice. While nobody is there ([`Others`]) it does not rest either: what batches have left is done in a third of
//! the time.
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

/// After how long without a request nobody is there. The next one may have to wait for the end of a stretch of work, and
/// for what a file in the making has unsynced.
const ALONE_AFTER: Duration = Duration::from_millis(100);

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

    /// What was said.
    #[cfg(test)]
    pub(crate) fn level(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// How long who has worked so long rests.
    fn rest_after(&self, worked: Duration) -> Option<Duration> {
        let hurry = self.0.load(Ordering::Relaxed);
        (hurry < Hurry::MAX).then(|| worked * REST_RATIO / (1 << hurry))
    }
}

/// Those whom a thread stands back for.
pub trait Others {
    /// How many requests they have made so far: while that grows, they are there.
    fn requests(&self) -> u64;

    /// Whether they are there in any case: a request is being worked on, or there are others who do not tell.
    fn are_there(&self) -> bool;

    /// Has this thread be where it is least in their way: called after each stretch of work, with whether the next one
    /// follows at once.
    fn make_way(&self, goes_on: bool);
}

thread_local! {
    /// There if this thread stands back.
    static STANDING_BACK: RefCell<Option<StandingBack>> = const { RefCell::new(None) };
}

struct StandingBack {
    hurry: Hurry,
    others: Box<dyn Others>,
    working_since: Instant,
    requests: u64,
    /// When there was a new one.
    last_request: Instant,
    goes_on: bool,
}

impl StandingBack {
    fn new(hurry: Hurry, others: Box<dyn Others>, now: Instant) -> StandingBack {
        let requests = others.requests();
        StandingBack { hurry, others, working_since: now, requests, last_request: now, goes_on: false }
    }

    /// Whether a stretch of work is over, and how long to rest then.
    fn end_of_stretch(&mut self, now: Instant) -> Option<Option<Duration>> {
        let worked = now - self.working_since;
        if worked < WORK_MIN {
            return None;
        }
        let requests = self.others.requests();
        if requests != self.requests || self.others.are_there() {
            (self.requests, self.last_request) = (requests, now);
        }
        let is_alone = now - self.last_request >= ALONE_AFTER;
        // What took much longer was the disk, or a thread that went first.
        let rest = self.hurry.rest_after(worked.min(10 * WORK_MIN)).filter(|_| !is_alone);
        self.goes_on = rest.is_none();
        self.others.make_way(self.goes_on);
        Some(rest)
    }
}

/// Has this thread stand back for all others from now on, while they are there and it has no full [`Hurry`].
pub fn stand_back(hurry: &Hurry, others: impl Others + 'static) {
    let others = Box::new(others);
    STANDING_BACK.set(Some(StandingBack::new(hurry.clone(), others, Instant::now())));
}

/// Says that this thread, if it stands back, has nothing to do for now: it makes way, and counts as one that
/// rests.
pub fn pause() {
    STANDING_BACK.with_borrow_mut(|standing_back| {
        if let Some(thread) = standing_back {
            thread.goes_on = false;
            thread.others.make_way(false);
        }
    });
}

/// Whether this thread rests between its stretches of work.
pub(super) fn rests() -> bool {
    STANDING_BACK.with_borrow(|standing_back| standing_back.as_ref().is_some_and(|thread| !thread.goes_on))
}

/// Rests, if this thread stands back and has worked long enough.
pub(super) fn rest() {
    STANDING_BACK.with_borrow_mut(|standing_back| {
        let Some(thread) = standing_back else { return };
        match thread.end_of_stretch(Instant::now()) {
            None => return,
            Some(Some(rest)) => thread::sleep(rest),
            Some(None) => thread::yield_now(),
        }
        thread.working_since = Instant::now();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use parking_lot::Mutex;

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

    #[derive(Clone, Default)]
    struct Clients(Arc<Seen>);

    #[derive(Default)]
    struct Seen {
        requests: AtomicU64,
        in_flight: AtomicBool,
        /// What [`Others::make_way`] was told.
        goes_on: Mutex<Vec<bool>>,
    }

    impl Others for Clients {
        fn requests(&self) -> u64 {
            self.0.requests.load(Ordering::Relaxed)
        }

        fn are_there(&self) -> bool {
            self.0.in_flight.load(Ordering::Relaxed)
        }

        fn make_way(&self, goes_on: bool) {
            self.0.goes_on.lock().push(goes_on);
        }
    }

    #[test]
    fn it_rests_after_a_stretch_of_work_while_somebody_asks_and_there_is_no_full_hurry() {
        let (hurry, others) = (Hurry::default(), Clients::default());
        let mut now = Instant::now();
        let mut thread = StandingBack::new(hurry.clone(), Box::new(others.clone()), now);
        let mut after = |passed: Duration, requests: u64| {
            others.0.requests.fetch_add(requests, Ordering::Relaxed);
            now += passed;
            let end = thread.end_of_stretch(now);
            thread.working_since = now;
            end
        };
        let work = Duration::from_millis(1);
        assert_eq!(after(WORK_MIN - Duration::from_nanos(1), 0), None, "it goes on");
        assert_eq!(after(work, 0), Some(Some(8 * work)), "somebody may just have been there");
        assert_eq!(after(ALONE_AFTER, 0), Some(None), "nobody is");
        assert_eq!(after(work, 1), Some(Some(8 * work)));
        // Longer than it counts for.
        assert_eq!(after(ALONE_AFTER - work, 0), Some(Some(80 * WORK_MIN)));
        assert_eq!(after(work, 0), Some(None));
        assert_eq!(after(work, 1), Some(Some(8 * work)));
        others.0.in_flight.store(true, Ordering::Relaxed);
        assert_eq!(after(2 * ALONE_AFTER, 0), Some(Some(80 * WORK_MIN)), "one that takes long");
        others.0.in_flight.store(false, Ordering::Relaxed);
        assert_eq!(after(ALONE_AFTER, 0), Some(None));
        hurry.set(Hurry::MAX);
        assert_eq!(after(work, 1), Some(None));
        assert_eq!(*others.0.goes_on.lock(), [false, true, false, false, true, false, false, true, true]);
    }

    #[test]
    fn who_does_not_stand_back_does_not_rest() {
        assert!(!rests());
        stand_back(&Hurry::default(), Clients::default());
        assert!(rests());
        let hurry = Hurry::default();
        hurry.set(Hurry::MAX);
        stand_back(&hurry, Clients::default());
        thread::sleep(WORK_MIN);
        rest();
        assert!(!rests(), "nor who is in full hurry");
        pause();
        assert!(rests(), "until it is done");
    }
}
