//! Which threads run on which cores.
//!
//! The threads that serve connections get some of the cores to themselves, as many as there are of them, and everything
//! else, shards and what works behind them, gets the others. Left to itself the system moves both about: a thread that is
//! woken runs where the waker does, and on two cores with a load beside them one core then did all of HTTP and the load
//! for a while, and the shard waited for it. With 64 connections the split gives a sixth more deposits, with 256 a
//! thirtieth (`benches/README.md`).
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
        self.keep_on(|split| &split.serving);
    }

    /// Keeps this thread, and those that it will start, on the other cores.
    pub fn work(&self) {
        self.keep_on(|split| &split.other);
    }

    /// Keeps all threads that there are, but for those that serve, and whatever they will start, on the other cores.
    pub fn settle(&self) {
        let Some(split) = &self.0 else { return };
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
        for thread in
            threads.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
        {
            if sched_getaffinity(Some(thread)).is_ok_and(|cores| cores != split.serving) {
                told(sched_setaffinity(Some(thread), &split.other));
            }
        }
    }

    fn keep_on(&self, cores: impl Fn(&Split) -> &CpuSet) {
        if let Some(split) = &self.0 {
            told(sched_setaffinity(None, cores(split)));
        }
    }
}

fn told(kept: rustix::io::Result<()>) {
    if let Err(error) = kept {
        tracing::debug!(%error, "a thread cannot be kept on some cores");
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
        Some(Split { serving: set(serving), other: set(other) })
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
    fn a_thread_and_those_it_starts_stay_where_they_are_told_to() {
        let Some(core) =
            (0..CpuSet::MAX_CPU).find(|core| sched_getaffinity(None).expect("it is known").is_set(*core))
        else {
            unreachable!("this runs somewhere")
        };
        let cores = Cores(Some(Split { serving: set(&[core]), other: set(&[core]) }));
        thread::scope(|scope| {
            scope.spawn(|| {
                cores.serve();
                let started = thread::spawn(|| sched_getaffinity(None).expect("it is known"));
                assert_eq!(started.join().expect("no panic"), set(&[core]));
                Cores::shared().work();
                assert_eq!(sched_getaffinity(None).expect("it is known"), set(&[core]));
            });
        });
    }
}
