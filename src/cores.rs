//! Which threads run on which cores, and that none of those that serve takes a core from another thread.
//!
//! The threads that serve connections stay on some of the cores, as many as there are of them, and those that a deposit
//! waits for, the shards' workers and the journal's, stay on the others. Left to itself the system moves both about: a
//! thread that is woken runs where the waker does, and one core then did all the work for a while, and the other little.
//! With 64 connections the split gives a sixth more deposits, with 256 a thirtieth (`benches/README.md`). All other threads
//! run anywhere (but see below): with what commits large batches, and what compacts, on the shards' cores too, transfers
//! in batches were a third fewer.
//!
//! A thread that is woken usually takes the core from the one that runs there, if that has had more of it. Between a
//! client, the threads that serve and the shards, each of which wakes the next for a piece of work, that made many small
//! pieces of a few large ones: the shard interrupted the client that was about to send more. So where the cores are split,
//! the threads that serve and the shards' workers are in the batch class (`SCHED_BATCH`, sched(7)): they have the same
//! share of the time, but wait for their turn. With 256 connections and a client like wrk on the same two cores that gives
//! an eighth more deposits, and the server takes a tenth less of the processor for each. What works in the background is
//! in it as well, or it would interrupt them. What a commit waits for, the committers' and the journal's threads, is not.
//!
//! Compaction that goes on without rests, as it does behind batches, picks its cores itself ([`Cores::keep_on`]): those
//! that serve while shards are at work on all the others, and else the others. Left to the system it waited on the core of
//! a shard while the others slept, for a sleep of some milliseconds is too short for the system to see it.
//!
//! All this is for cores that are ours and our clients'. Another program that computes on the shards' core has it for a
//! slice of the scheduler's each time, and a commit waits for the core three times: with one such program on two cores,
//! deposits with 64 connections fell from 90,000 a second to 4,000, and threads that may move make 55,000. So the threads
//! are let go while that is so ([`Cores::let_go`]; `server/contention.rs` sees when).
//!
//! What always holds:
//!
//! - cores are split only if every thread that serves, and every shard, can have one of its own, and if the cores that
//!   the process is allowed are its own: where it has a share of the time of many, it stays on all;
//! - what the operator allows the process (`taskset`, a container's set of cores) is never exceeded, and a class that the
//!   operator chose (`chrt`) stays;
//! - if the system refuses, threads run anywhere: it is only slower.
//!
//! Left out: which cores are halves of one (SMT) or near one another; the first ones serve. And weights by which a
//! container shares all cores with others: they cannot be seen, and `--cores shared` is for those.

use std::{fs, io, thread};

use libc::{SCHED_BATCH, SCHED_OTHER, SYS_sched_getscheduler, SYS_sched_setscheduler, c_int, c_long};
use rustix::process::{Pid, getpid};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// How the names of the threads that serve begin, by which they are found.
pub const SERVING: &str = "http";

/// The same of the shards' workers.
pub const WORKERS: &str = "shard-";

/// The same of the committers.
pub const COMMITTERS: &str = "commit-";

/// And of the journal's threads.
const JOURNALS: &str = "sled-io-";

/// Those that a deposit waits for, and that are kept on the shards' cores.
const WORKING: &[&str] = &[WORKERS, JOURNALS];

/// Some of the cores of the process, if they are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All.
    Anywhere,
    /// Those on which connections are served.
    Serving,
    /// The others: the shards'.
    Other,
}

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

    /// Split for so many threads that serve and so many shards, if there is a core for each; else all for
    /// all.
    pub fn split(serving: usize, shards: usize) -> Cores {
        // Of which it may use so many at a time.
        let own = thread::available_parallelism().map_or(1, usize::from);
        Cores(sched_getaffinity(None).ok().and_then(|allowed| Split::of(&allowed, own, serving, shards)))
    }

    /// Keeps this thread, and those that it will start, on the cores that serve, and has them wait for their turn.
    pub fn serve(&self) {
        self.keep_on(Place::Serving);
        self.wait_for_turn();
    }

    /// Has this thread, and those that it will start, wait for their turn.
    pub fn wait_for_turn(&self) {
        self.put(gettid(), SCHED_BATCH);
    }

    /// How many cores the shards have for themselves; 0 if cores are not split.
    pub fn of_shards(&self) -> usize {
        self.0.map_or(0, |split| (0..CpuSet::MAX_CPU).filter(|core| split.other.is_set(*core)).count())
    }

    /// Keeps this thread on some cores, in the class that it is in.
    pub fn keep_on(&self, place: Place) {
        self.keep(None, place);
    }

    /// Lets this thread run anywhere and at once, as the process was started.
    pub fn roam(&self) {
        self.keep_on(Place::Anywhere);
        self.put(gettid(), SCHED_OTHER);
    }

    /// Keeps the threads that serve, the shards' workers and the journal's on their cores, as many as there are by now.
    pub fn keep_apart(&self) {
        self.keep_named(&[SERVING], Place::Serving);
        self.keep_named(WORKING, Place::Other);
    }

    /// Lets the same threads run anywhere. They wait for their turn all the same.
    pub fn let_go(&self) {
        self.keep_named(&[SERVING], Place::Anywhere);
        self.keep_named(WORKING, Place::Anywhere);
    }

    fn keep_named(&self, names: &[&str], place: Place) {
        threads_named(names).for_each(|id| self.keep(Some(id), place));
    }

    /// The threads that serve and the shards' workers, if they are kept on cores.
    pub fn kept(&self) -> Vec<Pid> {
        self.0.iter().flat_map(|_| threads_named(&[SERVING, WORKERS])).collect()
    }

    /// The threads that these wait for: the journal's, and the committers, but for that of an only shard, which commits what
    /// is small itself (`shard/commit.rs`).
    pub fn waited_for(&self) -> Vec<Pid> {
        let is_several = threads_named(&[WORKERS]).nth(1).is_some();
        let names = if is_several { &[JOURNALS, COMMITTERS][..] } else { &[JOURNALS] };
        self.0.iter().flat_map(|_| threads_named(names)).collect()
    }

    /// Has those threads that there are, and whose names begin so, wait for their turn.
    pub fn have_wait(&self, name: &str) {
        threads_named(&[name]).for_each(|id| self.put(id, SCHED_BATCH));
    }

    /// Keeps a thread, this one if none is named, on some cores.
    fn keep(&self, thread: Option<Pid>, place: Place) {
        let Some(split) = &self.0 else { return };
        let cores = match place {
            Place::Anywhere => &split.all,
            Place::Serving => &split.serving,
            Place::Other => &split.other,
        };
        if let Err(error) = sched_setaffinity(thread, cores) {
            tracing::debug!(%error, "a thread cannot be kept on some cores");
        }
    }

    /// Puts a thread into a class, where the operator has not chosen another one than the usual.
    fn put(&self, thread: Pid, wanted: c_int) {
        let put = || match class(getpid())? {
            SCHED_OTHER => scheduler(SYS_sched_setscheduler, thread, wanted),
            chosen => Ok(chosen),
        };
        if self.0.is_some()
            && let Err(error) = put()
        {
            tracing::debug!(%error, "a thread cannot be put into a class");
        }
    }
}

/// The threads of the process whose names begin in one of these ways.
fn threads_named(beginnings: &[&str]) -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        beginnings.iter().find(|beginning| name.starts_with(**beginning))?;
        Pid::from_raw(thread.file_name().to_str()?.parse().ok()?)
    })
}

/// Makes the one call that tells the class of a thread, which ignores `class`, or the one that changes it.
#[expect(
    unsafe_code,
    reason = "no safe library changes the class alone; what it buys is in the module's essay"
)]
fn scheduler(call: c_long, thread: Pid, class: c_int) -> io::Result<c_int> {
    // What Linux calls `struct sched_param`: zero in the classes that are used here.
    let priority: c_int = 0;
    let id = thread.as_raw_nonzero().get();
    // SAFETY: The one call looks at no memory, the other reads an integer, which is there until it returns.
    let result = unsafe { libc::syscall(call, id, class, &raw const priority) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

/// The class of a thread. That of the process's first one is the operator's choice.
fn class(thread: Pid) -> io::Result<c_int> {
    scheduler(SYS_sched_getscheduler, thread, 0)
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
    use std::sync::mpsc;

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
            let shards_cores = expected.as_ref().map_or(0, |(_, other)| other.len());
            assert_eq!(Cores(split).of_shards(), shards_cores);
            let expected = expected.map(|(serving, other)| (set(&serving), set(&other)));
            assert_eq!(
                split.map(|split| (split.serving, split.other)),
                expected,
                "{serving} and {shards} on {own}"
            );
        }
    }

    #[test]
    fn the_journals_threads_and_several_shards_committers_are_waited_for() {
        let cores = Cores(Split::of(&set(&[0, 1]), 2, 1, 1));
        // So that none ends before they are looked for.
        let (tell, told) = mpsc::channel();
        let names = ["http", "shard-0", "shard-1", "commit-0", "sled-io-0", "compaction"];
        let threads = names.map(|name| {
            let (end, ends) = mpsc::channel::<()>();
            let tell = tell.clone();
            let wait = move || {
                tell.send((name, gettid())).expect("awaited");
                let _ = ends.recv();
            };
            (end, thread::Builder::new().name(name.into()).spawn(wait).expect("a thread"))
        });
        let ids: Vec<_> = told.iter().take(names.len()).collect();
        let those_of = |found: Vec<Pid>| -> Vec<&str> {
            let is_found = |name: &&str| ids.iter().any(|(of, id)| of == name && found.contains(id));
            names.into_iter().filter(is_found).collect()
        };
        assert_eq!(those_of(cores.kept()), ["http", "shard-0", "shard-1"]);
        assert_eq!(those_of(cores.waited_for()), ["commit-0", "sled-io-0"]);
        assert!(Cores::shared().waited_for().is_empty());
        for (end, thread) in threads {
            drop(end);
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn threads_stay_where_they_are_told_to() {
        let all = sched_getaffinity(None).expect("it is known");
        let numbers: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        let (serving, other) = (set(&numbers[..1]), set(&numbers[numbers.len() - 1..]));
        let cores = Cores(Some(Split { all, serving, other }));
        let mine = || sched_getaffinity(None).expect("it is known");
        let usual = class(getpid()).expect("it is known");
        let patient = if usual == SCHED_OTHER { SCHED_BATCH } else { usual };
        let mine = move || (mine(), class(gettid()).expect("it is known"));
        let serve = move || {
            cores.serve();
            assert_eq!(thread::spawn(mine).join().expect("no panic"), (serving, patient));
            cores.roam();
            assert_eq!(mine(), (all, usual));
            Cores::shared().serve();
            assert_eq!(mine(), (all, usual), "nothing is split");
        };
        thread::spawn(serve).join().expect("no panic");
        let placed = move || {
            for (place, expected) in
                [(Place::Serving, serving), (Place::Other, other), (Place::Anywhere, all)]
            {
                cores.keep_on(place);
                assert_eq!(mine(), (expected, usual), "{place:?}");
            }
        };
        thread::spawn(placed).join().expect("no panic");
        let kept = move || {
            cores.keep_named(&["to be kept", "no such name"], Place::Other);
            cores.have_wait("to be kept off");
            mine()
        };
        let spawn = |name: &str| thread::Builder::new().name(name.into()).spawn(kept).expect("a thread");
        assert_eq!(spawn("to be kept off").join().expect("no panic"), (other, patient));
        assert_eq!(spawn("to be kept").join().expect("no panic"), (other, usual));
        assert_eq!(spawn("another").join().expect("no panic"), (all, usual));
    }
}
