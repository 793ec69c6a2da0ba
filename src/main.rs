//! The command line: parse it, run it, print the error, tell by the exit code how it went.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use teller::cli::{self, Cli};

fn main() -> ExitCode {
    // A usage error, and help, end here: clap prints them and exits with 2 or 0.
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teller: {}", with_causes(error.as_ref()));
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
