//! The command line: parse it, run it, print the error, tell by the exit code how it went.

use std::error::Error;
use std::panic;
use std::process::{self, ExitCode};
use std::thread;

use clap::Parser;

use teller::cli::{self, Cli};
use teller::storage::journal::GUARDED_THREAD;

fn main() -> ExitCode {
    fail_closed();
    // A usage error, and help, end here: clap prints them and exits with 2 or 0.
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::tell(&with_causes(error.as_ref()));
            ExitCode::from(cli::exit_code(error.as_ref()))
        }
    }
}

/// The error and what caused it, a line each. Some errors tell their cause in their own words already; it is
/// not told twice.
fn with_causes(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told.push_str("\n  because: ");
            told.push_str(&text);
        }
        cause = error.source();
    }
    told
}

/// Ends the process at a panic in any thread: an assertion that failed means that the state in memory is not to
/// be trusted, and what is on the disk is (P6).
///
/// One panic is no mistake of ours: the store's, when it opens a damaged file. Its thread is a guarded one, which
/// makes an error of it that says more than the panic does.
fn fail_closed() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !thread::current().name().is_some_and(|name| name.starts_with(GUARDED_THREAD)) {
            report(panic);
            process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use rustix::process::{Resource, Rlimit, Signal, setrlimit};

    use super::*;

    /// Of the program that this test starts, which is itself: the name of the thread that panics there.
    const PANICS: &str = "TELLER_TEST_PANIC";

    /// P6: but for the threads whose panics become errors.
    #[test]
    fn a_panic_in_any_thread_ends_the_process() {
        if let Ok(name) = env::var(PANICS) {
            return panic_in(name);
        }
        for (name, signal) in [("shard-0", Some(Signal::ABORT.as_raw())), (GUARDED_THREAD, None)] {
            let mut child = Command::new(env::current_exe().expect("it runs"))
                .args(["--exact", "tests::a_panic_in_any_thread_ends_the_process", "--nocapture"])
                .env(PANICS, name)
                .env_remove("RUST_BACKTRACE")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts");
            let ended = wait(&mut child).expect("it ends");
            let mut told = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
            assert_eq!((ended.signal(), ended.success()), (signal, signal.is_none()), "{told}");
            assert_eq!(told.contains("a mistake of ours"), signal.is_some(), "{told}");
        }
    }

    fn panic_in(name: String) {
        // An abort is what is wanted, and no file of it.
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).expect("less is allowed");
        fail_closed();
        let thread = thread::Builder::new().name(name).spawn(|| panic!("a mistake of ours"));
        thread.expect("it starts").join().expect_err("it panics");
    }

    /// Waits for its end; kills one that hangs.
    fn wait(child: &mut Child) -> Option<process::ExitStatus> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match child.try_wait().expect("a child can be waited for") {
                None if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                None => {
                    child.kill().expect("a child can be killed");
                    child.wait().expect("a killed child ends");
                    return None;
                }
                ended => return ended,
            }
        }
    }
}
