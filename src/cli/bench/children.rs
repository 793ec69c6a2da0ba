//! What a bench starts, makes and hears, and how all of it goes away again.
//!
//! What always holds: a child is ended through its own handle, and by its own id: asked to (SIGTERM), and killed if it
//! has not ended in time. Children have a process group of their own, so a Ctrl-C at the terminal is the bench's alone
//! to answer; and a death signal, so a bench that is killed leaves none behind. The directory goes when the children
//! have gone, after an error and after Ctrl-C too; only a killed bench leaves it.
//!
//! CPU time and memory are read from `/proc`: where there is none (not Linux), what needs them says so.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FsWord;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

use super::BenchError;
use crate::signals::EndSignals;

/// How long a child may take to end before it is killed. A server with a large ledger would take longer for its last
/// snapshot, which nobody reads.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a child may take to say where it listens: a restart with tens of millions of accounts.
const START_TIME_MAX: Duration = Duration::from_secs(600);
/// How often something is looked at that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How much of a failed child's log is shown, in lines.
const LOG_LINES_SHOWN: usize = 5;

/// A server counts as quiet when it used less than a fiftieth of a core for so long: what the last round left to do,
/// such as compacting, must not be done in the next one's time.
const QUIET_WINDOW: Duration = Duration::from_millis(200);
/// How long to wait for that.
const QUIET_TIME_MAX: Duration = Duration::from_secs(60);

/// What `statfs` says of file systems that are in memory.
const TMPFS_MAGIC: FsWord = 0x0102_1994;
const RAMFS_MAGIC: FsWord = 0x8584_58f6;

/// Hears Ctrl-C, SIGTERM and SIGHUP, and remembers it.
#[derive(Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to listen. From now on a signal ends nothing by itself.
    pub(super) fn listen() -> io::Result<Interrupt> {
        let heard = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            EndSignals::listen()?
        };
        let hears = Arc::clone(&heard);
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(signals.next());
            hears.store(true, Ordering::Relaxed);
            // Its handlers stay: a second signal does not keep the first from cleaning up, which is bounded.
        })?;
        Ok(Interrupt(heard))
    }

    /// What is set when there was a signal.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// An error if there was a signal.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        if self.0.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    /// Waits, unless there is a signal.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), BenchError> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL_INTERVAL * 4));
        }
    }
}

/// A directory that is removed at the end, and those above it that were made for it.
pub(super) struct Directory {
    path: PathBuf,
    /// They go after it, as fields are dropped after what has them.
    _above: Levels,
}

/// Directories that were made here, each in the one before. They are removed at the end, where nothing else is in them
/// by then.
struct Levels(Vec<PathBuf>);

impl Levels {
    /// Makes a directory and all that are missing above it.
    fn make(path: &Path) -> Result<Levels, BenchError> {
        let is_missing = |level: &&Path| !level.as_os_str().is_empty() && !level.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        let mut made = Levels(Vec::new());
        for level in missing.into_iter().rev() {
            match fs::create_dir(level) {
                Ok(()) => made.0.push(level.to_owned()),
                // Somebody else has made it meanwhile: it is theirs.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_make(level)(error)),
            }
        }
        Ok(made)
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        // The first that stays has something in it, and so have all above.
        let _ = self.0.iter().rev().try_for_each(fs::remove_dir);
    }
}

impl Directory {
    /// Makes a new directory in `parent`.
    pub(super) fn new(parent: &Path) -> Result<Directory, BenchError> {
        let above = Levels::make(parent)?;
        let process = std::process::id();
        let mut number = 0;
        loop {
            let path = parent.join(format!("bench-{process}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Directory { path, _above: above }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(cannot_make(&path)(error)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file system is in memory, so that syncing it costs nothing.
    pub(super) fn is_in_memory(&self) -> bool {
        rustix::fs::statfs(&self.path).is_ok_and(|system| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&system.f_type))
    }
}

/// The error of a directory that cannot be made.
pub(super) fn cannot_make(path: &Path) -> impl FnOnce(io::Error) -> BenchError {
    BenchError::cannot(format!("make the directory {}", path.display()))
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what the bench has made");
        }
    }
}

/// This very program, which is what most children are, and what becomes the others.
pub(super) fn this_program() -> Result<PathBuf, BenchError> {
    std::env::current_exe().map_err(BenchError::cannot("find this program's own file"))
}

/// A process that was started here and ends here.
pub(super) struct Child {
    process: Process,
    log: PathBuf,
    /// Where it said that it listens: kept open, so that it may say more.
    stdout: Option<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts a program, with what it says in its log. Only the main thread may: the death signal, see [`under`], is
    /// for the end of the thread that started it.
    pub(super) fn start(program: &Path, arguments: &[String], log: PathBuf) -> Result<Child, BenchError> {
        Child::spawn(program, arguments, log, false).map(|(child, _)| child)
    }

    /// Starts a program that says on its first line where it listens, behind `prefix`, and waits until it does.
    pub(super) fn start_server(
        program: &Path,
        arguments: &[String],
        log: PathBuf,
        stdin: &[u8],
        prefix: &str,
        interrupt: &Interrupt,
    ) -> Result<(Child, SocketAddr), BenchError> {
        let (mut child, stdout) = Child::spawn(program, arguments, log, true)?;
        // What a child reads is a reply of a few hundred bytes: a pipe takes it at once.
        child.process.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(stdin))?;
        let mut stdout = BufReader::new(stdout.expect("it is piped"));
        let reader = thread::Builder::new().name("stdout".into()).spawn(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).map(|_| (line, stdout))
        })?;
        let until = Instant::now() + START_TIME_MAX;
        while !reader.is_finished() {
            interrupt.check()?;
            if Instant::now() > until {
                return Err(child.failed());
            }
            thread::sleep(POLL_INTERVAL);
        }
        let (line, stdout) = reader.join().expect("reading a line does not panic")?;
        child.stdout = Some(stdout);
        match line.trim_end().strip_prefix(prefix).and_then(|address| address.parse().ok()) {
            Some(address) => Ok((child, address)),
            None => Err(child.failed()),
        }
    }

    fn spawn(
        program: &Path,
        arguments: &[String],
        log: PathBuf,
        piped: bool,
    ) -> Result<(Child, Option<ChildStdout>), BenchError> {
        let cannot_log = || BenchError::cannot(format!("make the file {}", log.display()));
        let file = File::create(&log).map_err(cannot_log())?;
        let this = this_program()?;
        let mut command = Command::new(&this);
        command.args(["bench", "under", "--parent"]).arg(std::process::id().to_string()).arg("--");
        command.arg(program).args(arguments);
        // Whatever the operator has set for a server of their own is not for this one.
        std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("MZ_"))
            .for_each(|(name, _)| _ = command.env_remove(name));
        command.process_group(0).stderr(file.try_clone().map_err(cannot_log())?);
        match piped {
            true => command.stdin(Stdio::piped()).stdout(Stdio::piped()),
            false => command.stdin(Stdio::null()).stdout(file),
        };
        let cannot_start = BenchError::cannot(format!("start {}", this.display()));
        let mut process = command.spawn().map_err(cannot_start)?;
        let stdout = process.stdout.take();
        Ok((Child { process, log, stdout: None }, stdout))
    }

    /// The error that a child which did not do what it should is, with the end of its log.
    pub(super) fn failed(&mut self) -> BenchError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        let status = self.process.try_wait().ok().flatten();
        let end =
            status.map_or("runs, but does not answer".to_owned(), |status| format!("ended with {status}"));
        BenchError::Child { end, log: shown }
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|status| status.is_some())
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        // It was not waited for, so its id is still its own.
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    /// Ends it as `kill -9` does.
    pub(super) fn kill(mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }

    /// Asks it to end and waits until it has, however long that takes. Not to end well is an error: what it was to
    /// leave behind, such as a last snapshot, is not there.
    pub(super) fn end(mut self, interrupt: &Interrupt) -> Result<(), BenchError> {
        self.signal(Signal::TERM)?;
        while !self.has_ended() {
            interrupt.sleep(POLL_INTERVAL)?;
        }
        if self.process.wait()?.success() { Ok(()) } else { Err(self.failed()) }
    }

    /// The CPU time that its threads have used, to the nanosecond; that of threads which have ended is missing.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // A thread may end while its turn comes.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(total))
    }

    /// The CPU time of all that it has done, threads that have ended included, in steps of the system's ticks of 10 ms.
    pub(super) fn cpu_time_whole(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let ticks = ticks(&stat).ok_or_else(|| io::Error::other("/proc says nothing about CPU time"))?;
        Ok(Duration::from_nanos(ticks * 1_000_000_000 / clock_ticks_per_second()))
    }

    /// The memory that it has, in bytes.
    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that it ever had, in bytes.
    pub(super) fn peak_bytes(&self) -> io::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib =
            line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc says nothing about memory"))
    }

    /// Waits until it has nothing left to do. Where there is no `/proc`, or it does not come to rest, that is told.
    pub(super) fn wait_until_quiet(&self, interrupt: &Interrupt) -> Result<(), BenchError> {
        Child::wait_until_all_quiet(&[self], QUIET_WINDOW, interrupt)
    }

    /// Waits until none of them has had anything to do for so long.
    pub(super) fn wait_until_all_quiet(
        children: &[&Child],
        window: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let until = Instant::now() + QUIET_TIME_MAX;
        let times = || children.iter().map(|child| child.cpu_time()).collect::<io::Result<Vec<_>>>();
        let Ok(mut before) = times() else { return Ok(()) };
        loop {
            interrupt.sleep(window)?;
            let Ok(now) = times() else { return Ok(()) };
            let is_quiet = |(now, before): (&Duration, &Duration)| now.saturating_sub(*before) * 50 < window;
            if now.iter().zip(&before).all(is_quiet) {
                return Ok(());
            }
            if Instant::now() > until {
                tracing::warn!("a server does not come to rest between two rounds");
                return Ok(());
            }
            before = now;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.has_ended() || self.signal(Signal::TERM).is_err() {
            return;
        }
        let until = Instant::now() + END_TIME_MAX;
        while !self.has_ended() {
            if Instant::now() > until {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The time in user mode and in the kernel, of a process's line in `/proc`. Its second word is the program's name, in
/// parentheses, and may have blanks and parentheses in it.
fn ticks(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || words.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Becomes another program that is killed when the process which asked for this ends
#[derive(clap::Args, Debug)]
pub(super) struct UnderArgs {
    /// The process that asks.
    #[arg(long)]
    parent: u32,
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Becomes the program. Without `unsafe` a child cannot be told between its fork and its begin to end with its parent;
/// this program can tell itself, and remains told when it becomes another.
pub(super) fn under(args: &UnderArgs) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if std::os::unix::process::parent_id() != args.parent {
        return io::Error::other("the bench has ended");
    }
    Command::new(&args.command[0]).args(&args.command[1..]).exec()
}

/// A port that nobody uses just now, for a program that cannot choose one itself.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads that read a journal and end were missing in what a restart had cost.
    #[test]
    fn cpu_time_is_of_all_threads_that_there_were() {
        let line = "7 (a) b (c) R 1 7 7 0 -1 4194304 1 0 0 0 250 31 9 9 20 0 3 0 100 1000000 200";
        assert_eq!(ticks(line), Some(281));
        assert_eq!(ticks("7 (teller) R 1"), None);
    }

    /// A server that could not write its last snapshot was restarted without one, and the time told as with one.
    #[test]
    fn a_child_that_does_not_end_well_is_an_error() {
        let root = Directory::new(&std::env::temp_dir()).expect("made");
        let log = root.path().join("log");
        fs::write(&log, "no room for the snapshot\n").expect("written");
        let process = Command::new("sh").args(["-c", "exit 3"]).spawn().expect("it starts");
        let child = Child { process, log, stdout: None };
        let error = child.end(&Interrupt(Arc::default())).expect_err("it fails").to_string();
        assert!(error.contains("ended with") && error.contains("no room for the snapshot"), "{error}");
    }

    #[test]
    fn a_directory_goes_with_all_that_was_made_for_it_and_nothing_else() {
        let root = Directory::new(&std::env::temp_dir()).expect("made");
        let parent = root.path().join("a");
        let first = Directory::new(&parent).expect("made");
        let second = Directory::new(&parent).expect("made");
        assert_ne!(first.path(), second.path());
        drop(first);
        assert!(second.path().exists());
        drop(second);
        assert!(parent.exists(), "the second did not make it");
        let nested = Directory::new(&root.path().join("b/c/d")).expect("made");
        drop(nested);
        assert!(!root.path().join("b").exists(), "all three were made for it");
        let nested = Directory::new(&root.path().join("b/c/d")).expect("made");
        fs::write(root.path().join("b/thesis.txt"), "three years of work").expect("written");
        drop(nested);
        assert!(root.path().join("b/thesis.txt").exists() && !root.path().join("b/c").exists());
        let path = root.path().to_owned();
        drop(root);
        assert!(!path.exists());
    }
}
