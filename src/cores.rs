//! Which threads run on which cores.
//!
//! The threads that serve connections stay on some of the cores, as many as there are of them, and those that a deposit
//! waits for, the shards' workers and the journal's, stay on the others. Left to itself the system moves both about: a
//! thread that is woken runs where the waker does, and one core then did all the work for a while, and the other little.
//! With 64 connections the split gives a sixth more deposits, with 256 a thirtieth (`benches/README.md`). All other threads
//! run anywhere: with what commits large batches, and what compacts, on the shards' cores too, transfers in batches were
//! a third fewer.
//!
//! What always holds:
//!
//! - cores are split only if every thread that serves, and every shard, can have one of its own, and if the cores that
//!   the process is allowed are its own: where it has a share of the time of many, it stays on all;
//! - what the operator allows the process (`taskset`, a container's set of cores) is never exceeded;
//! - if the system refuses, threads run anywhere: it is only slower.
//!
//! Left out: which cores are halves of one (SMT) or near one another; the first ones serve. And weights by which a
//! container shares all cores with others: they cannot be seen, and `--cores shared` is for those.

use std::{fs, thread};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of the process, split or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cores(Option<Split>);

#[derive(Clone, Copy, Debug)]
struct Split {
    all: CpuSet,
    serving: CpuSet,
    other: CpuSet,
}

impl Cores {
    /// All for all.
    pub fn shared() -> Cores {
        Cores(None)
    }

    /// Split for so many threads that serve and so many shards, if that goes.
    pub fn split(serving: usize, shards: usize) -> Cores {
        // Of which it may use so many at a time.
        let own = thread::available_parallelism().map_or(1, usize::from);
        Cores(sched_getaffinity(None).ok().and_then(|allowed| Split::of(&allowed, own, serving, shards)))
    }

    /// Keeps this thread, and those that it will start, on the cores that serve.
    pub fn serve(&self) {
        self.keep(None, |split| &split.serving);
    }

    /// Lets this thread, which one that serves has started, run anywhere.
    pub fn roam(&self) {
        self.keep(None, |split| &split.all);
    }

    /// Keeps those threads that there are, and whose names begin in one of these ways, on the cores that do not serve.
    pub fn keep_off(&self, names: &[&str]) {
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        for thread in threads {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let id = thread.file_name().to_str().and_then(|id| Pid::from_raw(id.parse().ok()?));
            if id.is_some() && names.iter().any(|beginning| name.starts_with(beginning)) {
                self.keep(id, |split| &split.other);
            }
        }
    }

    /// Keeps a thread, this one if none is named, on some cores.
    fn keep(&self, thread: Option<Pid>, cores: impl Fn(&Split) -> &CpuSet) {
        if let Some(split) = &self.0
            && let Err(error) = sched_setaffinity(thread, cores(split))
        {
            tracing::debug!(%error, "a thread cannot be kept on some cores");
        }
    }
}

impl Split {
    fn of(allowed: &CpuSet, own: usize, serving: usize, shards: usize) -> Option<Split> {
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        if cores.len() != own || serving + shards > own {
            return None;
        }
        let set = |cores: &[usize]| {
            let mut set = CpuSet::new();
            cores.iter().for_each(|core| set.set(*core));
            set
        };
        let (serving, other) = cores.split_at(serving);
        Some(Split { all: *allowed, serving: set(serving), other: set(other) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cores: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
        set
    }

    #[test]
    fn cores_are_split_where_every_thread_can_have_one() {
        for (own, serving, shards, expected) in [
            (4, 1, 1, Some((vec![3], vec![5, 6, 9]))),
            (4, 2, 2, Some((vec![3, 5], vec![6, 9]))),
            (4, 3, 1, Some((vec![3, 5, 6], vec![9]))),
            (4, 3, 2, None),
            (4, 1, 4, None),
            // A share of the time of four.
            (2, 1, 1, None),
        ] {
            let split = Split::of(&set(&[3, 5, 6, 9]), own, serving, shards);
            let expected = expected.map(|(serving, other)| (set(&serving), set(&other)));
            assert_eq!(
                split.map(|split| (split.serving, split.other)),
                expected,
                "{serving} and {shards} on {own}"
            );
        }
    }

    #[test]
    fn threads_stay_where_they_are_told_to() {
        let all = sched_getaffinity(None).expect("it is known");
        let numbers: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        let (serving, other) = (set(&numbers[..1]), set(&numbers[numbers.len() - 1..]));
        let cores = Cores(Some(Split { all, serving, other }));
        let mine = || sched_getaffinity(None).expect("it is known");
        let serve = move || {
            cores.serve();
            assert_eq!(thread::spawn(mine).join().expect("no panic"), serving);
            cores.roam();
            assert_eq!(mine(), all);
            Cores::shared().serve();
            assert_eq!(mine(), all, "nothing is split");
        };
        thread::spawn(serve).join().expect("no panic");
        let kept = move || {
            cores.keep_off(&["to be kept", "no such name"]);
            mine()
        };
        let spawn = |name: &str| thread::Builder::new().name(name.into()).spawn(kept).expect("a thread");
        assert_eq!(spawn("to be kept off").join().expect("no panic"), other);
        assert_eq!(spawn("another").join().expect("no panic"), all);
    }
}
