//! The machine under a measurement: how far apart its cores are, and what the host took of them.
//!
//! # Why
//! The host of a virtual machine moves its cores about. Measured: a cache line goes from one core to the other and back
//! in 45 to 60 ns, as between cores that share a cache, or in 410 to 600 ns, as between such that share none; and it
//! changes several times a second, or every few seconds, without a word to the guest. A server whose threads talk to
//! one another is half as fast in the one state as in the other, the reference too, and not by quite the same factor.
//! So a round of one side in the one state beside a round of another side in the other says something about the machine
//! and nothing about the sides. The state is therefore measured before and after each round; [`super::pairs`] says what
//! is done with it.
//!
//! # What is measured
//! - *Cores apart*: two threads, each kept on a core of its own, hand a number to and fro. The time of a round trip is
//!   the median of many samples, each so short that a thread which has to wait for its core spoils one of them.
//! - *Stolen*: the part of all cores' time that the host gave to others, as `/proc/stat` has it.
//!
//! Left out: what changes and changes back within a round; cores other than the first two that this process may use;
//! and what other processes on this machine do.

use std::fs;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use super::report::{Ratio, median};

/// Round trips a sample: 5 to 60 us, far less than between two ticks of the scheduler.
const TRIPS: u32 = 100;
/// Samples a probe: 0.2 to 2 ms in all, which is nothing beside a round.
const SAMPLES: u32 = 31;
/// How long a probe may take before it is given up: a core that is not there for so long is a state of its own.
const PROBE_TIME_MAX: Duration = Duration::from_millis(100);
/// After so many looks at the number, one at the clock: it would cost as much as the look.
const LOOKS: u32 = 1024;

/// In one state of the machine a probe is at most so many percent of another: within one they lie up to 40 % apart, and
/// the states by a factor of eight.
const ALIKE_PERCENT: u64 = 160;
/// How much of the cores' time the host may take of a round that is like others.
const STOLEN_PERCENT_MAX: u128 = 3;

/// How the machine was around and during one round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Conditions {
    /// A round trip between two cores before the round and after it, if that can be measured here.
    pub(super) cores_apart_ns: [Option<NonZeroU64>; 2],
    /// The part of the cores' time that the host took during the round, if that is known here.
    pub(super) stolen: Option<Ratio>,
}

impl Conditions {
    /// Does something, and tells how the machine was.
    pub(super) fn of<T>(work: impl FnOnce() -> T) -> (T, Conditions) {
        let before = cores_apart();
        let times = CoreTimes::now();
        let done = work();
        let stolen = times.zip(CoreTimes::now()).and_then(|(begin, end)| end.stolen_since(begin));
        (done, Conditions { cores_apart_ns: [before, cores_apart()], stolen })
    }

    /// Whether the machine was in one state throughout both. What cannot be measured here never is, and says nothing;
    /// what could be measured only some of the times was disturbed.
    pub(super) fn is_like(&self, other: &Conditions) -> bool {
        let probes = [self.cores_apart_ns, other.cores_apart_ns];
        let known: Vec<NonZeroU64> = probes.as_flattened().iter().copied().flatten().collect();
        let one_state = match (known.iter().min(), known.iter().max()) {
            (Some(lowest), Some(highest)) => {
                known.len() == probes.as_flattened().len() && are_alike(*lowest, *highest)
            }
            _ => true,
        };
        // None is less than any.
        let calm = |stolen: Option<Ratio>| stolen <= Ratio::of(STOLEN_PERCENT_MAX, 100);
        one_state && calm(self.stolen) && calm(other.stolen)
    }
}

/// Whether two round trips are of one state of the machine; the shorter one first.
pub(super) fn are_alike(lower: NonZeroU64, higher: NonZeroU64) -> bool {
    higher.get() * 100 <= lower.get() * ALIKE_PERCENT
}

/// How long the first two cores that this process may use take to hand one another a cache line, there and back. None
/// with one core, where threads cannot be kept on one, and where a core did not come for too long.
fn cores_apart() -> Option<NonZeroU64> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (near, far) = (cores.next()?, cores.next()?);
    let ball = Ball { number: AtomicU32::new(0), deadline: Instant::now() + PROBE_TIME_MAX };
    // Threads of their own, which take their restriction with them when they end.
    thread::scope(|scope| {
        let start = |name: &str| thread::Builder::new().name(name.into());
        let back = start("probe-back").spawn_scoped(scope, || ball.give_back(far)).ok()?;
        let there = start("probe").spawn_scoped(scope, || ball.play(near)).ok()?;
        let took = there.join().expect("a probe does not panic");
        back.join().expect("a probe does not panic")?;
        took
    })
}

/// What two cores hand to and fro: a number that each adds one to. With a cache line of its own, and of its neighbour,
/// which some processors fetch along with it.
#[repr(align(128))]
struct Ball {
    number: AtomicU32,
    deadline: Instant,
}

impl Ball {
    fn play(&self, core: usize) -> Option<NonZeroU64> {
        keep_on(core)?;
        let mut samples = Vec::with_capacity(SAMPLES as usize);
        for sample in 0..SAMPLES {
            let started = Instant::now();
            for trip in 0..TRIPS {
                let number = 2 * (sample * TRIPS + trip);
                self.number.store(number + 1, Ordering::Release);
                self.wait_for(number + 2)?;
            }
            samples.push(started.elapsed() / TRIPS);
        }
        NonZeroU64::new(median(&samples).as_nanos() as u64)
    }

    fn give_back(&self, core: usize) -> Option<()> {
        keep_on(core)?;
        for trip in 0..SAMPLES * TRIPS {
            self.wait_for(2 * trip + 1)?;
            self.number.store(2 * trip + 2, Ordering::Release);
        }
        Some(())
    }

    fn wait_for(&self, number: u32) -> Option<()> {
        loop {
            for _ in 0..LOOKS {
                if self.number.load(Ordering::Acquire) == number {
                    return Some(());
                }
                std::hint::spin_loop();
            }
            if Instant::now() > self.deadline {
                return None;
            }
        }
    }
}

/// Keeps the calling thread on one core, until it ends.
fn keep_on(core: usize) -> Option<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).ok()
}

/// What all cores have done since the start of the machine, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CoreTimes {
    all: u64,
    stolen: u64,
}

impl CoreTimes {
    fn now() -> Option<CoreTimes> {
        CoreTimes::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; the time of guests, behind them, is in
    /// that of user and nice already.
    fn parse(text: &str) -> Option<CoreTimes> {
        let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let mut all = 0;
        let mut last = 0;
        for _ in 0..8 {
            last = words.next()?.parse().ok()?;
            all += last;
        }
        Some(CoreTimes { all, stolen: last })
    }

    /// The part that was stolen of the time since then, if there was any. The kernel may take some of it back later.
    fn stolen_since(self, begin: CoreTimes) -> Option<Ratio> {
        let stolen = self.stolen.saturating_sub(begin.stolen);
        Ratio::of(stolen.into(), self.all.saturating_sub(begin.all).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(before: u64, after: u64, stolen: u128) -> Conditions {
        let cores_apart_ns = [before, after].map(NonZeroU64::new);
        Conditions { cores_apart_ns, stolen: Ratio::of(stolen, 100) }
    }

    #[test]
    fn rounds_are_alike_in_one_state_of_a_machine_that_was_there() {
        let near = conditions(90, 110, 0);
        for (other, alike) in [
            (conditions(100, 90, 3), true),
            (conditions(144, 90, 0), true),
            (conditions(145, 90, 0), false),
            (conditions(90, 470, 0), false),
            (conditions(480, 470, 0), false),
            (conditions(90, 100, 4), false),
            // A core that did not come in time, although cores can be measured here.
            (conditions(90, 0, 0), false),
        ] {
            assert_eq!(near.is_like(&other), alike, "{other:?}");
            assert_eq!(other.is_like(&near), alike, "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_measured_keeps_nothing_from_counting() {
        let one_core = conditions(0, 0, 1);
        assert!(one_core.is_like(&one_core));
        assert!(!one_core.is_like(&conditions(0, 0, 4)), "but time was stolen");
        assert!(Conditions::default().is_like(&Conditions::default()));
    }

    #[test]
    fn stolen_time_is_a_part_of_all() {
        let parse = CoreTimes::parse;
        let begin = parse("cpu  10 20 30 400 50 6 7 80 5 5\ncpu0 1\n").expect("a line");
        assert_eq!(begin, CoreTimes { all: 603, stolen: 80 });
        let end = parse("cpu  20 20 30 440 50 6 7 130 5 5\n").expect("a line");
        assert_eq!(end.stolen_since(begin), Ratio::of(1, 2));
        let back = CoreTimes { all: 703, stolen: 79 };
        assert_eq!(back.stolen_since(begin), Ratio::of(0, 1), "it is never less than nothing");
        assert_eq!(begin.stolen_since(begin), None);
        assert_eq!(parse("cpu0 1 2 3 4 5 6 7 8"), None);
        assert_eq!(parse("cpu  1 2 3"), None);
    }

    #[test]
    fn a_probe_leaves_the_cores_of_whoever_asks_alone() {
        let before = sched_getaffinity(None).expect("Linux");
        let (done, conditions) = Conditions::of(|| 7);
        assert_eq!(done, 7);
        assert!(sched_getaffinity(None).expect("Linux") == before);
        if before.count() == 1 {
            assert_eq!(conditions.cores_apart_ns, [None, None]);
        }
    }
}
