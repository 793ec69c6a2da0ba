//! A teller to be measured: one of our own, or one that runs already; with accounts that the load can use.

use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;

use super::BenchError;
use super::children::{Child, Directory, Interrupt, this_program};
use super::generator::Totals;
use super::load::{AMOUNT_CENTS, account_name};
use crate::client::{BaseUrl, Client, ClientError, Response};
use crate::progress::Progress;

/// The line that says where a server listens begins so.
const LISTENS: &str = "teller listens on http://";

/// What `/metrics` calls the events in a shard's log.
const EVENTS: &str = "teller_shard_events_total";
/// And its group commits.
const COMMITS: &str = "teller_shard_commit_seconds_count";

/// How long one batch may take.
const BATCH_TIME_MAX: Duration = Duration::from_secs(30);
/// How many batches are under way while a ledger is filled: enough for a server never to wait for one.
const BATCHES_UNDER_WAY: usize = 4;
/// Items of one batch then.
const ITEMS_A_BATCH: u64 = 8_000;
/// Deposits of one batch, where it is the journal that is filled: what comes during a commit goes into one record, so that
/// these have 16 to 64 events. Single requests make records of 1 to 60; batches of thousands make some of a thousand, which
/// cost less to read.
const DEPOSITS_A_BATCH: u64 = 16;

/// What each account is given where the load takes money from it: more than any load can take.
const FUNDS_CENTS: u64 = 100_000_000;

/// A server.
pub(super) struct Teller {
    /// None if it ran before.
    child: Option<Child>,
    base: BaseUrl,
    address: std::net::SocketAddr,
    shards: usize,
    acknowledged: Acknowledged,
}

/// What a server has acknowledged, which its ledger has to have in the end.
#[derive(Clone, Copy, Default)]
pub(super) struct Acknowledged {
    /// How many events its log had before.
    events_before: u64,
    /// How many changes it has acknowledged since. Each is one event at least; a transfer between shards is several.
    changes: u64,
    /// What its accounts were given by them, in cents.
    paid_in_cents: i128,
}

/// How a server of our own is started.
pub(super) struct Start<'a> {
    pub(super) directory: &'a Directory,
    /// The ledger, a directory in it.
    pub(super) ledger: &'a str,
    pub(super) shards: usize,
    /// Whatever else `serve` shall be told.
    pub(super) flags: &'a [String],
}

impl Teller {
    /// Starts a server and waits until it serves.
    pub(super) fn start(start: &Start<'_>, interrupt: &Interrupt) -> Result<Teller, BenchError> {
        let Start { directory, ledger, shards, flags } = start;
        let log = directory.path().join(format!("{ledger}.log"));
        let mut arguments = vec![
            "serve".to_owned(),
            "--host=127.0.0.1".to_owned(),
            "--port=0".to_owned(),
            format!("--data-dir={}", directory.path().display()),
            format!("--db-name={ledger}"),
            format!("--shards={shards}"),
            "--log=warn".to_owned(),
        ];
        arguments.extend_from_slice(flags);
        let program = this_program()?;
        let (child, address) = Child::start_server(&program, &arguments, log, b"", LISTENS, interrupt)?;
        let base = BaseUrl::parse(&format!("http://{address}")).expect("it is one");
        let (child, shards, acknowledged) = (Some(child), *shards, Acknowledged::default());
        let teller = Teller { child, base, address, shards, acknowledged };
        teller.check_ready()?;
        Ok(teller)
    }

    /// Uses a server that runs.
    pub(super) fn running(base: BaseUrl) -> Result<Teller, BenchError> {
        let address = base.loopback_address()?;
        let mut teller =
            Teller { address, child: None, base, shards: 0, acknowledged: Acknowledged::default() };
        teller.check_ready()?;
        let events = teller.of_each_shard(EVENTS)?;
        teller.shards = events.len();
        teller.acknowledged.events_before = events.iter().sum();
        Ok(teller)
    }

    fn check_ready(&self) -> Result<(), BenchError> {
        let reply = runtime()?.block_on(self.client().get("/readyz"))?;
        if reply.status == 200 { Ok(()) } else { Err(unexpected("/readyz", &reply)) }
    }

    /// How many shards it has.
    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// What stands in a request's `host`, and what comes before its path.
    pub(super) fn authority_and_base(&self) -> (&str, &str) {
        let rest = self.base.as_str().strip_prefix("http://").expect("every base URL begins so");
        rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash))
    }

    /// The process, if it is our own.
    pub(super) fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Gives the process up, to be ended in a way of the caller's.
    pub(super) fn into_child(self) -> Child {
        self.child.expect("only what was started here is ended")
    }

    /// Opens accounts; with funds, pays money into each. On a server that ran before they may be there.
    pub(super) fn open(
        &mut self,
        accounts: u64,
        funded: bool,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let progress = Progress::new("opening", "accounts", Some(accounts));
        let each = if funded { 2 } else { 1 };
        let write = |number: u64, lines: &mut String| {
            let name = account_name(number);
            lines.push_str(&format!("{{\"type\":\"open\",\"name\":\"{name}\"}}\n"));
            if funded {
                let (whole, cents) = (FUNDS_CENTS / 100, FUNDS_CENTS % 100);
                lines.push_str(&format!(
                    "{{\"type\":\"deposit\",\"account\":\"name:{name}\",\"amount\":\"{whole}.{cents:02}\"}}\n"
                ));
            }
        };
        let result = self.post_all(accounts, ITEMS_A_BATCH / each, &write, &progress, interrupt);
        progress.finish();
        self.acknowledged.changes += result?;
        if funded {
            self.acknowledged.paid_in_cents += i128::from(accounts) * i128::from(FUNDS_CENTS);
        }
        Ok(())
    }

    /// Pays into so many accounts in turn, in small batches.
    pub(super) fn deposit(
        &mut self,
        deposits: u64,
        accounts: u64,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let progress = Progress::new("paying in", "deposits", Some(deposits));
        let write = |number: u64, lines: &mut String| {
            // A step that shares no factor with most counts, so that neighbours are far apart.
            let name = account_name(number.wrapping_mul(7_919) % accounts);
            lines.push_str(&format!(
                "{{\"type\":\"deposit\",\"account\":\"name:{name}\",\"amount\":\"0.01\"}}\n"
            ));
        };
        let result = self.post_all(deposits, DEPOSITS_A_BATCH, &write, &progress, interrupt);
        progress.finish();
        self.acknowledged.changes += result?;
        self.acknowledged.paid_in_cents += i128::from(deposits);
        Ok(())
    }

    /// Sends items in batches. How many were executed.
    fn post_all(
        &self,
        count: u64,
        a_batch: u64,
        write: &dyn Fn(u64, &mut String),
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<u64, BenchError> {
        let client = self.client();
        let may_exist = self.child.is_none();
        runtime()?.block_on(async {
            let mut under_way = JoinSet::new();
            let (mut next, mut executed) = (0, 0);
            loop {
                interrupt.check()?;
                while next < count && under_way.len() < BATCHES_UNDER_WAY {
                    let end = (next + a_batch).min(count);
                    let mut lines = String::new();
                    (next..end).for_each(|number| write(number, &mut lines));
                    let (client, numbers) = (client.clone(), end - next);
                    next = end;
                    under_way.spawn(async move {
                        let reply = client.post_ndjson("/v2/batches?results=refused", lines).await?;
                        Ok::<_, ClientError>((reply, numbers))
                    });
                }
                let Some(ended) = under_way.join_next().await else { return Ok(executed) };
                let (reply, numbers) = ended.expect("sending does not panic")?;
                executed += check_batch(&reply, may_exist)?;
                progress.add(numbers);
            }
        })
    }

    /// What it has acknowledged, for a server that goes on with its ledger.
    pub(super) fn acknowledged(&self) -> Acknowledged {
        self.acknowledged
    }

    /// Counts what was acknowledged before this server was started on the ledger.
    pub(super) fn goes_on_from(&mut self, before: Acknowledged) {
        self.acknowledged = before;
    }

    /// Counts what a run did.
    pub(super) fn has_done(&mut self, totals: &Totals) {
        let net = i128::from(totals.deposits) - i128::from(totals.withdrawals);
        self.acknowledged.changes += totals.deposits + totals.withdrawals + totals.transfers;
        self.acknowledged.paid_in_cents += net * i128::from(AMOUNT_CENTS);
    }

    /// Proves that the ledger has what it acknowledged: a figure of a server that loses changes or money is none. There
    /// are at least as many new events as changes, which transfers are seen by. And the accounts have what they were
    /// given, no more and no less: only of a ledger that nobody else uses.
    pub(super) fn check_ledger(&self) -> Result<(), BenchError> {
        self.acknowledged.check_events(self.of_each_shard(EVENTS)?.iter().sum())?;
        if self.child.is_none() {
            return Ok(());
        }
        let reply = runtime()?.block_on(self.client().get("/v2/trial-balance"))?;
        let balance: TrialBalance =
            serde_json::from_slice(&reply.body).map_err(|_| unexpected("/v2/trial-balance", &reply))?;
        let world = balance.currencies.first().map_or("0.00", |line| &line.world);
        let expected = -self.acknowledged.paid_in_cents;
        if !balance.balanced || !is_worth(world, expected) {
            return Err(BenchError::Balance { world: world.to_owned(), expected: in_units(expected) });
        }
        Ok(())
    }

    /// How many group commits there were since it was started.
    pub(super) fn commits(&self) -> Result<u64, BenchError> {
        Ok(self.of_each_shard(COMMITS)?.iter().sum())
    }

    /// A figure that `/metrics` has of each shard.
    fn of_each_shard(&self, name: &str) -> Result<Vec<u64>, BenchError> {
        let reply = runtime()?.block_on(self.client().get("/metrics"))?;
        let text = String::from_utf8_lossy(&reply.body);
        of_each_shard(&text, name).ok_or_else(|| unexpected("/metrics", &reply))
    }

    fn client(&self) -> Client {
        Client::new(self.base.clone(), BATCHES_UNDER_WAY, BATCH_TIME_MAX)
    }
}

impl Acknowledged {
    fn check_events(&self, events_now: u64) -> Result<(), BenchError> {
        let Acknowledged { events_before, changes, .. } = *self;
        match events_now.saturating_sub(events_before) {
            events if events >= changes => Ok(()),
            events => Err(BenchError::Events { events, changes }),
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[derive(Deserialize)]
struct TrialBalance {
    balanced: bool,
    currencies: Vec<TrialBalanceLine>,
}

#[derive(Deserialize)]
struct TrialBalanceLine {
    world: String,
}

#[derive(Deserialize)]
struct BatchReply {
    executed: u64,
    results: Vec<ItemResult>,
}

#[derive(Deserialize)]
struct ItemResult {
    problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
}

/// Whether an amount, with as many decimals as its currency has, comes to so many hundredths.
fn is_worth(amount: &str, cents: i128) -> bool {
    let shortest = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    shortest(amount) == shortest(&in_units(cents))
}

/// Hundredths as an amount.
fn in_units(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

/// The samples `name{shard="..."} value`; none if there is none.
fn of_each_shard(metrics: &str, name: &str) -> Option<Vec<u64>> {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{shard="));
    let values: Vec<u64> =
        samples.map(|rest| rest.rsplit(' ').next()?.parse().ok()).collect::<Option<_>>()?;
    (!values.is_empty()).then_some(values)
}

/// How many items of a batch were executed, where all were that are not there already.
fn check_batch(reply: &Response, may_exist: bool) -> Result<u64, BenchError> {
    let wrong = || unexpected("/v2/batches", reply);
    if reply.status != 200 {
        return Err(wrong());
    }
    let batch: BatchReply = serde_json::from_slice(&reply.body).map_err(|_| wrong())?;
    let is_there = |result: &ItemResult| {
        may_exist && result.problem.as_ref().is_some_and(|problem| problem.code == "account-exists")
    };
    if batch.results.iter().all(is_there) { Ok(batch.executed) } else { Err(wrong()) }
}

fn unexpected(path: &str, reply: &Response) -> BenchError {
    const SHOWN: usize = 300;
    let text = String::from_utf8_lossy(&reply.body);
    BenchError::Unexpected {
        path: path.to_owned(),
        status: reply.status.as_u16(),
        body: text.chars().take(SHOWN).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that acknowledged transfers and did nothing was called right: they leave the outside world as it is.
    #[test]
    fn a_server_that_only_acknowledges_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    let body = format!("{EVENTS}{{shard=\"0\"}} 7\n");
                    let length = body.len();
                    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(reply.as_bytes()).expect("it listens");
                }
            }
        });
        let base = BaseUrl::parse(&format!("http://{address}")).expect("a URL");
        let mut teller = Teller::running(base).expect("it runs");
        teller.check_ledger().expect("it was asked for nothing");
        teller.has_done(&Totals { transfers: 3, ..Totals::default() });
        let error = teller.check_ledger().expect_err("nothing was done").to_string();
        assert!(error.contains("grew by 0 events where 3 changes were acknowledged"), "{error}");
    }

    #[test]
    fn each_change_is_an_event_at_least() {
        let acknowledged = Acknowledged { events_before: 10, changes: 5, paid_in_cents: 0 };
        for (events, is_right) in [(0, false), (10, false), (14, false), (15, true), (30, true)] {
            assert_eq!(acknowledged.check_events(events).is_ok(), is_right, "{events} events");
        }
    }

    #[test]
    fn the_figures_are_of_each_shard() {
        let text =
            "# TYPE a_total counter\na_total{shard=\"0\"} 7\na_total{shard=\"1\"} 5\nb{shard=\"0\"} 1\n";
        assert_eq!(of_each_shard(text, "a_total"), Some(vec![7, 5]));
        assert_eq!(of_each_shard(text, "a"), None);
        assert_eq!(of_each_shard("a_total{shard=\"0\"} many\n", "a_total"), None);
    }

    /// A ledger of a currency with three decimals, or with none, was called wrong.
    #[test]
    fn balances_are_compared_whatever_decimals_the_currency_has() {
        for (amount, cents, worth) in [
            ("-12.34", -1234, true),
            ("-12.340", -1234, true),
            ("-12.341", -1234, false),
            ("-1.234", -1234, false),
            ("-12", -1200, true),
            ("-12", -12, false),
            ("0.00", 0, true),
            ("-0.50", -50, true),
            ("0.50", -50, false),
            ("", 0, false),
        ] {
            assert_eq!(is_worth(amount, cents), worth, "{amount} and {cents}");
        }
    }

    #[test]
    fn what_was_expected_has_its_sign_below_one_too() {
        assert_eq!([-50, 50, -1234, 0].map(in_units), ["-0.50", "0.50", "-12.34", "0.00"]);
    }
}
