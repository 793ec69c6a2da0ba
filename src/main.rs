//! The command line: parse it, run it, print the error, tell by the exit code how it went.

use std::error::Error;
use std::io::{self, Write};
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
            // The exit code says it where stderr takes nothing any more; `eprintln` would panic.
            let _ = writeln!(io::stderr(), "teller: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
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
