//! The command line: one file a subcommand.
//!
//! What always holds: nothing is started before all settings are known to be right; results go to stdout, the
//! log, progress and errors to stderr; the exit code is 0 for success, 1 for an error, 2 for wrong usage. A server has
//! others besides (`serve`), and so has what a signal stops (`import`).

mod bench;
mod export;
mod import;
mod logging;
mod serve;
mod verify;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use self::logging::tell;
use crate::config::{LogArgs, SettingError};

const LONG_ABOUT: &str = "\
A bank-account ledger service. REST clients open accounts, deposit, withdraw, transfer and hold money, and read \
balances, history, statements and live events; every change is on the disk before anyone is told of it.

Without a subcommand it serves, like `teller serve`.";

const AFTER_HELP: &str = "\
Examples:
  teller                                    serve on 127.0.0.1:3000, with the ledger in data/teller
  teller import data/samples/berka-1993.csv --overdraft-limit 10000
  teller verify                             prove a ledger's files, offline
  teller export --format csv                print a ledger's transactions, offline
  teller bench deposit --compare bare       measure this machine

`teller help SUBCOMMAND` has the details of each.

Exit codes: 0 success, 1 an error (told on stderr), 2 wrong usage.
Serving has more: `teller help serve`. So has an import that a signal stops.";

/// A bank-account ledger service
#[derive(Parser, Debug)]
#[command(name = "teller", version, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::Args),
    Import(import::Args),
    Export(export::Args),
    Verify(verify::Args),
    Bench(bench::Args),
}

/// Runs what the command line asks for. Ends the process with exit code 2 if the environment has a wrong
/// setting, as the parser does for a wrong flag.
///
/// # Errors
/// Whatever went wrong, for the person at the terminal.
pub fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => {
            start_log(&args.log);
            serve::run(&valid(args.serve.resolve(&environment)))
        }
        Command::Import(args) => {
            start_log(&args.log);
            import::run(&args)
        }
        Command::Export(args) => {
            if let Err(contradiction) = args.check() {
                usage_error("export", ErrorKind::ArgumentConflict, &contradiction);
            }
            start_log(&args.log);
            export::run(&args, &valid(args.location.resolve(&environment)))
        }
        Command::Verify(args) => {
            start_log(&args.log);
            verify::run(&valid(args.location.resolve(&environment)))
        }
        Command::Bench(args) => {
            if let Err(contradiction) = args.check() {
                usage_error("bench", ErrorKind::ArgumentConflict, &contradiction);
            }
            args.log().into_iter().for_each(start_log);
            bench::run(&args, &valid(args.location().resolve(&environment)))
        }
    }
}

/// The exit code of a run that has failed.
pub fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    import::exit_code(error).unwrap_or(1)
}

fn environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

fn start_log(args: &LogArgs) {
    logging::start(&valid(args.resolve(&environment)));
}

fn valid<T>(setting: Result<T, SettingError>) -> T {
    setting.unwrap_or_else(|error| usage_error("", ErrorKind::ValueValidation, &error))
}

/// Stdout does not take what was to be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to the standard output: {0}; what it has got is not whole")]
struct StdoutError(String);

/// Prints a result, unless whoever reads stdout has seen enough.
fn print(text: &str) -> Result<(), StdoutError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| StdoutError(error.to_string())),
    }
}

/// Ends the process as the parser does when it refuses a command line, with the usage of this subcommand, or of none.
fn usage_error(subcommand: &str, kind: ErrorKind, error: &dyn Display) -> ! {
    let mut command = Cli::command();
    // Until then a subcommand does not know whose it is.
    command.build();
    match command.find_subcommand_mut(subcommand) {
        Some(subcommand) => subcommand.error(kind, error).exit(),
        None => command.error(kind, error).exit(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_subcommand_is_serve_and_takes_its_flags() {
        let cli = Cli::try_parse_from(["teller", "--port=4000"]).expect("valid");
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.serve.port, Some(4000));
        let cli = Cli::try_parse_from(["teller", "serve", "--port=4000"]).expect("valid");
        assert!(matches!(cli.command, Some(Command::Serve(args)) if args.serve.port == Some(4000)));
        assert!(Cli::try_parse_from(["teller", "--port=4000", "verify"]).is_err());
    }

    #[test]
    fn every_number_is_told_with_its_range() {
        let mut ranges = 0;
        let mut commands: Vec<(Vec<String>, clap::Command)> = vec![(vec!["teller".into()], Cli::command())];
        while let Some((words, command)) = commands.pop() {
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                let words = words.iter().cloned().chain([inner.get_name().to_owned()]);
                commands.push((words.collect(), inner.clone()));
            }
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let flag = format!("--{}=x", argument.get_long().expect("it has one"));
                let Err(refused) = Cli::try_parse_from(words.iter().chain([&flag])) else { continue };
                let refused = refused.to_string();
                let Some((_, range)) = refused.split_once(" from ") else { continue };
                let range: Vec<&str> = range.split([' ', ',', '\n']).take(3).collect();
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&range.join(" ")), "{range:?} of {flag} of {words:?}: {help}");
                ranges += 1;
            }
        }
        assert!(ranges > 60, "{ranges}");
    }

    /// A script that has read no other page took 74 and 134 for impossible.
    #[test]
    fn the_help_of_all_says_that_serving_has_further_exit_codes_and_where_they_are() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Serving has more: `teller help serve`"), "{help}");
        let mut all = Cli::command();
        let serve = all.find_subcommand_mut("serve").expect("it is one").render_long_help().to_string();
        assert!(["74", "130", "134"].iter().all(|code| serve.contains(code)), "{serve}");
    }

    #[test]
    fn every_subcommand_tells_an_example_and_its_exit_codes() {
        for command in Cli::command().get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            for part in ["Example", "Exit codes:", "Needs"] {
                assert!(help.contains(part), "{part} in the help of {}", command.get_name());
            }
        }
    }
}
