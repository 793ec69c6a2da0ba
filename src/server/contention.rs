//! Whether keeping threads on cores of their own is worth it just now.
//!
//! It is while those who use these cores give them back soon, as clients do. It is not while another program computes
//! there: then a thread that may not leave waits for the end of a slice of the scheduler's, up to 3 ms, each time that it
//! has something to do ([`Cores`]). The system says of each thread how long it has waited for a core, and how often
//! (`/proc/self/task/ID/schedstat`: Linux, `Documentation/scheduler/sched-stats.rst`); where it does not, nothing changes.
//!
//! What always holds:
//!
//! - threads that have waited for too long, on the average of a second, are let go, and kept apart again later: after a
//!   minute, and after twice as long each time that it was no better then;
//! - what they wait for is not what this process does besides: an only shard's batches are committed, and all are
//!   compacted, on the same cores, and no slower for it, beside another program either. What is done because a deposit
//!   waits for it is not besides: the journal's work, and that of several shards' committers ([`Cores::waited_for`]). There
//!   is much of it whenever there is much to do, and no wait would count then;
//! - at rest nothing is changed, and a look costs some microseconds.
//!
//! Simplified: of several shards' committers, which commit batches as well as deposits, all time counts as waited for.
//!
//! Left out: who the other program is. A client of a thousand connections keeps a core for half a millisecond, and its
//! requests are the last thing to be slow about: [`WAIT_MAX`] lies above that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{io, mem};

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::cores::Cores;

/// For how long a thread may wait for its core each time, on the average. It is 3 to 230 us with 64 and 256 connections of
/// a client on the same cores, 0.3 to 0.6 ms with a thousand, and 0.9 to 3 ms beside a program that computes.
const WAIT_MAX: Duration = Duration::from_micros(700);

/// Fewer waits than this say nothing.
const WAITS_MIN: u64 = 50;

/// Nor do those in a second in which the process used more of the processors than this besides: for other threads than these
/// and those that they wait for.
const BESIDE_MAX: Duration = Duration::from_millis(200);

/// After what time threads are kept apart again: at first, and at most. In the second in which they find that it is too
/// early they are slow, so it must not come often.
const TRUCE_MIN: Duration = Duration::from_secs(60);
const TRUCE_MAX: Duration = Duration::from_secs(3600);

/// Watches the threads that are kept on cores.
pub(super) struct Contention {
    cores: Cores,
    kept: Vec<Told>,
    /// The threads that these wait for.
    waited_for: Vec<Told>,
    /// How much of the processors all threads of the process have used.
    used: Duration,
    truce: Truce,
}

/// What the system says of a thread, in a file that stays open, and what it said last.
struct Told(File, Waits);

/// How long a thread has had a core, how long it has waited for one, in nanoseconds, and how often it had one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waits {
    run: u64,
    waited: u64,
    count: u64,
}

/// When threads are kept apart.
#[derive(Debug)]
struct Truce {
    /// Until when they are let go; `None` while they are kept apart.
    until: Option<Instant>,
    /// Since when they are kept apart, if they are.
    since: Instant,
    /// For how long they are let go the next time.
    time: Duration,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    LetGo,
    KeepApart,
}

impl Contention {
    pub(super) fn new(cores: Cores) -> Contention {
        let told_of = |threads: Vec<Pid>| threads.into_iter().filter_map(|id| Told::of(id).ok()).collect();
        let (kept, waited_for) = (told_of(cores.kept()), told_of(cores.waited_for()));
        Contention { cores, kept, waited_for, used: used(), truce: Truce::new(Instant::now()) }
    }

    /// How long threads that are kept have waited for their cores since the last look, and how much of the processors the
    /// process, which has `used` so much in all, has used besides.
    fn seen(&mut self, used: Duration) -> (Duration, Duration) {
        let before = mem::replace(&mut self.used, used);
        let (longest, kept) = look_at(&mut self.kept);
        let (_, waited_for) = look_at(&mut self.waited_for);
        (longest, used.saturating_sub(before).saturating_sub(kept + waited_for))
    }

    /// Looks, and does what is to be done.
    pub(super) fn look(&mut self) {
        let (longest, beside) = self.seen(used());
        let wait_us = longest.as_micros() as u64;
        match self.truce.order(longest > WAIT_MAX && beside <= BESIDE_MAX, Instant::now()) {
            Some(Order::LetGo) => {
                tracing::info!(
                    wait_us,
                    "other programs compute on the cores of threads: these run anywhere for a while"
                );
                self.cores.let_go();
            }
            Some(Order::KeepApart) => {
                tracing::info!("threads are kept on their cores again");
                self.cores.keep_apart();
            }
            None => {}
        }
    }
}

impl Told {
    fn of(thread: Pid) -> io::Result<Told> {
        let file = File::open(format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero()))?;
        let waits = waits_in(&file);
        Ok(Told(file, waits))
    }
}

/// The longest of the threads' average waits since the last look, and for how long they had cores, all together.
fn look_at(threads: &mut [Told]) -> (Duration, Duration) {
    let (mut longest, mut run) = (Duration::ZERO, 0);
    for Told(file, before) in threads {
        let now = waits_in(file);
        longest = longest.max(now.average_since(*before));
        run += now.run.saturating_sub(before.run);
        *before = now;
    }
    (longest, Duration::from_nanos(run))
}

fn waits_in(file: &File) -> Waits {
    // Three numbers of up to twenty digits.
    let mut line = [0; 64];
    let count = file.read_at(&mut line, 0).unwrap_or_default();
    let line = str::from_utf8(&line[..count]).unwrap_or_default();
    let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or_default();
    Waits { run: next(), waited: next(), count: next() }
}

fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Waits {
    /// How long each wait since then was, on the average; nothing if there were few.
    fn average_since(self, before: Waits) -> Duration {
        let count = self.count.saturating_sub(before.count);
        if count < WAITS_MIN {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.waited.saturating_sub(before.waited) / count)
    }
}

impl Truce {
    fn new(now: Instant) -> Truce {
        Truce { until: None, since: now, time: TRUCE_MIN }
    }

    fn order(&mut self, waits_too_long: bool, now: Instant) -> Option<Order> {
        match self.until {
            None if waits_too_long => {
                self.until = Some(now + self.time);
                self.time = (2 * self.time).min(TRUCE_MAX);
                Some(Order::LetGo)
            }
            None => {
                // Well for half as long as they would be let go now: as long as the last time, as a rule.
                if now.duration_since(self.since) >= self.time / 2 {
                    self.time = TRUCE_MIN;
                }
                None
            }
            Some(until) if now >= until => {
                (self.until, self.since) = (None, now);
                Some(Order::KeepApart)
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::thread::gettid;

    use super::*;

    #[test]
    fn threads_that_wait_for_long_are_let_go_and_ever_longer() {
        let begin = Instant::now();
        let mut truce = Truce::new(begin);
        let mut now = begin;
        let mut after = |seconds: u64, waits_too_long: bool| {
            now += Duration::from_secs(seconds);
            truce.order(waits_too_long, now)
        };
        assert_eq!(after(1, false), None);
        for time in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert_eq!(after(1, true), Some(Order::LetGo));
            // Whatever is seen meanwhile: they are where they find a core.
            assert_eq!((after(time - 1, true), after(1, false)), (None, Some(Order::KeepApart)), "{time}");
        }
        // An hour later it is as if nothing had been.
        assert_eq!((after(3599, false), after(1, false)), (None, None));
        assert_eq!(after(1, true), Some(Order::LetGo));
        assert_eq!((after(59, false), after(1, false)), (None, Some(Order::KeepApart)));
    }

    #[test]
    fn waits_are_the_longer_ones_of_many() {
        let before = Waits { run: 0, waited: 1_000_000, count: 10 };
        let after = |waited, count| Waits { run: 0, waited, count }.average_since(before);
        assert_eq!(after(101_000_000, 60), Duration::from_millis(2));
        assert_eq!(after(101_000_000, 59), Duration::ZERO, "too few");
        // A thread that has ended tells nothing.
        assert_eq!(Waits::default().average_since(before), Duration::ZERO);
    }

    /// With several shards every commit is made by a thread of its own. Its time counted as besides, so nothing that the
    /// shards waited for under load did, and they stayed beside another program.
    #[test]
    fn what_a_deposit_waits_for_is_not_besides() {
        let directory = tempfile::tempdir().expect("a directory");
        let told = |name: &str, now: &str| {
            let path = directory.path().join(name);
            fs::write(&path, now).expect("written");
            Told(File::open(path).expect("it is there"), Waits { run: 100_000_000, waited: 0, count: 0 })
        };
        let mut contention = Contention {
            cores: Cores::shared(),
            kept: vec![told("http", "500000000 0 100\n"), told("shard-0", "300000000 100000000 100\n")],
            waited_for: vec![told("commit-0", "250000000 900000000 100\n")],
            used: Duration::from_secs(1),
            truce: Truce::new(Instant::now()),
        };
        let second = contention.seen(Duration::from_millis(1800));
        assert_eq!(second, (Duration::from_millis(1), Duration::from_millis(50)));
        assert_eq!(
            contention.seen(Duration::from_millis(1900)),
            (Duration::ZERO, Duration::from_millis(100))
        );
    }

    #[test]
    fn the_system_tells_how_often_a_thread_had_a_core() {
        let Told(file, seen) = Told::of(gettid()).expect("Linux");
        // Some are built without that.
        if seen != Waits::default() {
            std::thread::sleep(Duration::from_millis(5));
            assert!(waits_in(&file).count > seen.count);
        }
    }
}
