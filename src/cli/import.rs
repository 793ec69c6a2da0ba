//! `teller import`: plays the transactions of a CSV file through a server's public HTTP API.
//!
//! [`mod@file`] reads and checks the whole file before the first request; [`play`] sends it. What always holds:
//! an account's transactions are applied in the file's order, none behind one that is refused; each bears an
//! idempotency key made from the file's own ids, so that repeating a request, or the whole import, changes
//! nothing twice for as long as the server remembers the keys, 24 hours if it is not told otherwise. Later everything
//! is applied a second time.

mod file;
mod play;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::Mutex;

use crate::client::{BaseUrl, Client};
use crate::config::{LogArgs, parse_overdraft_quantity, whole};
use crate::ledger::{Currency, Quantity, QuantityTotal};
use crate::signals::EndSignals;
use file::FileError;
use play::{Board, Count, PlayError, Player, Tally};

/// More connections than this only wait for one another: each has a batch of hundreds under way.
const CONNECTIONS_MAX: u64 = 64;

/// How long one request may take before it is repeated.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// For how long nothing may succeed before the import gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the progress bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// How often progress is logged where there is no terminal for a bar.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

const LONG_ABOUT: &str = "\
Plays deposits and withdrawals from a CSV file through a running server's HTTP API.

The file's first line names its columns. Needed are, in any order:
  id         the transaction's own id, unique within its account, in this file and in all others that are imported \
into this ledger
  account    the account's name, 1 to 255 bytes
  type       `deposit` or `withdrawal`
  amount     more than 0, with no more decimals than the currency has, such as 12.34
These are used where they are there and not empty:
  currency   the account's currency, such as USD; without it the server's own for accounts that it opens
  reference  a text to keep with the transaction, 1 to 255 bytes
Other columns are not used, which is logged with their names. The file is UTF-8 and at most 1 GiB: split a larger \
one. It is held in memory, where it takes 1.5 to 7 times its size, the more the shorter its lines are. All of it is \
checked before the first request, and a mistake is told with its line, a quote that is not closed with the line on \
which it is opened; only the decimals of amounts without a currency are left to the server.

Each account is opened first; one that is there already is used as it is, with the overdraft limit that it has, \
whatever --overdraft-limit says, and refused if the file names another currency. An account's transactions are applied in the file's order. They are sent \
in batches of up to 500 to POST /v2/batches, on each connection one batch at a time.

Safe to repeat: every item has an idempotency key made from the file's accounts and ids, so running the same command \
again, after it was killed or after the server was, goes on where it stopped and applies nothing twice. The \
server remembers the keys from their first use on for its --idempotency-hours (24 by default): repeat an \
import within that time, since later it applies everything a second time. It remembers up to 4,000,000 keys, those \
of other requests included: a file with more transactions and accounts needs more \
(`teller serve --idempotency-keys-max`).

An overloaded or restarting server is waited for, until nothing has succeeded for 60 s. Any refusal stops the \
import and is told with its line; of that account nothing behind it is applied. Ctrl-C, SIGTERM or SIGHUP (a closed \
terminal; not under nohup) stops after the batches under way; a second one at once.

Needs a running server.";

const AFTER_HELP: &str = "\
Example:
  teller import data/samples/berka-1993.csv --overdraft-limit 10000

Prints a summary to stdout: accounts, deposits, withdrawals (`replayed` ones had been applied before), their \
total, seconds, transactions/s.

Exit codes: 0 all of the file is in the ledger; 1 the file has a mistake, a transaction was refused, the server \
cannot be reached (told on stderr); 2 wrong usage; 129, 130 or 143 it was stopped by SIGHUP, Ctrl-C or SIGTERM: the \
same command again goes on.";

/// Play a CSV file of transactions through a server
#[derive(clap::Args, Debug)]
#[command(long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct Args {
    /// The CSV file.
    file: PathBuf,

    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:3000", value_parser = BaseUrl::parse)]
    url: BaseUrl,

    /// How far below zero the accounts that this import opens may go; the sign is ignored. Without it, the
    /// server's own limit holds. Accounts that are there keep theirs: it is for the first run into a ledger. Those that
    /// it opens keep this limit as their own, until each gets another with PATCH /v2/accounts/{account} and
    /// {"overdraft_limit": ...}; null is the server's.
    #[arg(long, value_name = "AMOUNT", value_parser = parse_overdraft_quantity, allow_negative_numbers = true)]
    overdraft_limit: Option<Quantity>,

    /// How many batches are under way at one time, each on a connection of its own, 1 to 64.
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = whole::<usize>(1..=CONNECTIONS_MAX))]
    connections: usize,

    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Why an import did not finish.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    /// The file cannot be used. Nothing was sent.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: FileError },
    /// The server refused, is gone, or the user stopped it.
    #[error("{}: {error}", path.display())]
    Play {
        path: PathBuf,
        #[source]
        error: PlayError,
    },
}

/// The exit code of an import that a signal has stopped, as a shell expects it.
pub(super) fn exit_code(error: &(dyn Error + 'static)) -> Option<u8> {
    match error.downcast_ref() {
        Some(ImportError::Play { error: PlayError::Interrupted { by }, .. }) => Some(by.exit_code()),
        _ => None,
    }
}

/// Imports a file.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let path = || args.file.clone();
    let transactions = file::read(&args.file).map_err(|error| ImportError::File { path: path(), error })?;
    if !transactions.unused_columns.is_empty() {
        tracing::info!(columns = ?transactions.unused_columns, "these columns of the file are not used");
    }
    let rows = transactions.rows.len() as u64;
    let client = Client::new(args.url.clone(), args.connections, REQUEST_TIME_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = Instant::now();
    let (tally, result) = runtime.block_on(async {
        let board = Arc::new(Board::default());
        let report = tokio::spawn(report(Arc::clone(&board), rows));
        let player = Player::new(client, transactions, args.overdraft_limit, PATIENCE, Arc::clone(&board));
        // The same for each: it knows what has been heard. Without handlers a signal ends the process by itself, which is no
        // less safe.
        let signals = Mutex::new(EndSignals::listen().ok());
        let interrupt = || async {
            match &mut *signals.lock().await {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        let result = player.play(args.connections, interrupt).await;
        report.abort();
        // It clears its bar when it is dropped.
        let _ = report.await;
        (board.tally(), result)
    });
    let printed = super::print(&summary(&tally, started.elapsed()));
    // Where both failed, only one is told: that the ledger lacks something counts for more.
    result.map_err(|error| ImportError::Play { path: path(), error })?;
    Ok(printed?)
}

/// How much of a text of somebody else's is shown, in characters.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// The beginning of a text of any length, as much as fits a message.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARACTERS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// Shows how far the import is, until it is aborted.
async fn report(board: Arc<Board>, rows: u64) {
    if io::stderr().is_terminal() {
        let template =
            "{elapsed_precise} [{bar:40}] {human_pos}/{human_len} transactions, {per_sec} {wide_msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ClearedBar(ProgressBar::new(rows).with_style(style));
        let mut interval = tokio::time::interval(BAR_INTERVAL);
        loop {
            interval.tick().await;
            bar.0.set_position(board.tally().transactions());
            bar.0.set_message(match board.waiting() {
                Some(reason) => format!("waiting: {reason}"),
                None => String::new(),
            });
        }
    }
    let mut interval = tokio::time::interval(LOG_INTERVAL);
    interval.tick().await;
    loop {
        interval.tick().await;
        let done = board.tally().transactions();
        match board.waiting() {
            Some(reason) => tracing::warn!(done, of = rows, reason, "waiting for the server"),
            None => tracing::info!(done, of = rows, "importing"),
        }
    }
}

/// A progress bar that leaves no trace.
struct ClearedBar(ProgressBar);

impl Drop for ClearedBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn summary(tally: &Tally, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let per_second = u128::from(tally.transactions()) * 1000 / millis;
    let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    let moved = |count: &Count| {
        let (applied, replayed) = (HumanCount(count.applied), HumanCount(count.replayed));
        format!("{} ({applied} applied, {replayed} replayed)", HumanCount(count.all()))
    };
    let accounts = HumanCount(tally.accounts_opened + tally.accounts_existing);
    format!(
        "accounts        {accounts} ({} opened, {} already there)\n\
         deposits        {}\n\
         withdrawals     {}\n\
         total           {}\n\
         seconds         {}.{:03}\n\
         transactions/s  {}\n",
        HumanCount(tally.accounts_opened),
        HumanCount(tally.accounts_existing),
        moved(&tally.deposits),
        moved(&tally.withdrawals),
        totals(&tally.totals),
        millis / 1000,
        millis % 1000,
        HumanCount(per_second),
    )
}

/// Such as `12.34`, or `12.34 EUR, -5 JPY`.
fn totals(totals: &BTreeMap<Option<Currency>, QuantityTotal>) -> String {
    let text = |(currency, total): (&Option<Currency>, &QuantityTotal)| match currency {
        Some(currency) => format!("{} {currency}", total.text(currency.scale())),
        None => total.text(Currency::USD.scale()).to_string(),
    };
    match totals.is_empty() {
        true => text((&None, &QuantityTotal::default())),
        false => totals.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ExcessDecimals;

    #[test]
    fn the_summary_counts_and_adds_up() {
        let quantity =
            |text| QuantityTotal::from(Quantity::parse(text, ExcessDecimals::Refuse).expect("valid"));
        let mut tally = Tally {
            accounts_opened: 600,
            accounts_existing: 38,
            deposits: Count { applied: 10_000, replayed: 5 },
            withdrawals: Count { applied: 14_000, replayed: 65 },
            totals: BTreeMap::from([(None, quantity("-12345.67"))]),
        };
        assert_eq!(
            summary(&tally, Duration::from_millis(2005)),
            "accounts        638 (600 opened, 38 already there)\n\
             deposits        10,005 (10,000 applied, 5 replayed)\n\
             withdrawals     14,065 (14,000 applied, 65 replayed)\n\
             total           -12345.67\n\
             seconds         2.005\n\
             transactions/s  12,004\n"
        );
        let currency = |code: &str| Currency::from_code(code.as_bytes());
        tally.totals.extend([(currency("KWD"), quantity("1.5")), (currency("JPY"), quantity("-7"))]);
        assert_eq!(totals(&tally.totals), "-12345.67, -7 JPY, 1.500 KWD");
        assert_eq!(totals(&BTreeMap::new()), "0.00");
        let mut most = QuantityTotal::from(Quantity::MAX);
        most.add(Quantity::MAX);
        assert_eq!(totals(&BTreeMap::from([(None, most)])), format!("2{}.00", "0".repeat(25)));
    }
}
