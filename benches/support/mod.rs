//! What the benches share: duels of one thing against a reference, and a ledger that makes up events.
//!
//! A duel measures both sides in turn, a sample of the one, then a sample of the other, and the next time the
//! other way round: what else the machine does in the meantime meets both, and the ratio of each pair says more
//! than either figure. criterion keeps the figures of our side; the reference and the ratios are printed here.

#![allow(dead_code, reason = "each bench uses its own part of this")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use teller::ledger::{
    AccountName, AccountRef, Amount, Command, Currency, Event, ExcessDecimals, IdempotencyKey, KeyDigest,
    Ledger, OverdraftDefault, Quantity, Sequence, ShardId, Target, Terms, Timestamp,
};
use teller::random::Random;
use teller::shard::batch::ShardRules;
use teller::storage::journal::record::{Draft, LogPosition};
use uuid::Uuid;

/// The ledger's id in all benches.
pub(crate) const LEDGER: Uuid = Uuid::from_u128(0x7e11e4);

/// The time at which all benches begin: any will do that is not at the edge of the range.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Whether the benches only have to show that they run, as under `cargo test --all-targets`: then everything is
/// small.
pub(crate) fn is_trial() -> bool {
    !std::env::args().any(|argument| argument == "--bench")
}

/// `full`, or `trial` where the benches only have to show that they run.
pub(crate) fn sized<T>(full: T, trial: T) -> T {
    if is_trial() { trial } else { full }
}

/// The shard that all benches use.
pub(crate) fn shard() -> ShardId {
    ShardId::new(0).expect("the first shard")
}

/// The rules that the server has by default.
pub(crate) fn rules() -> ShardRules {
    let limit = Amount::from_minor_units(5_000).expect("in range");
    let overdraft = OverdraftDefault { currency: Currency::USD, limit };
    ShardRules { overdraft, key_retention_ms: 24 * 3600 * 1000, keys_max: 4_000_000 }
}

/// So many dollars, as a client writes them.
pub(crate) fn dollars(text: &str) -> Quantity {
    Quantity::parse(text, ExcessDecimals::Refuse).expect("a quantity")
}

/// The opening of the account with this number.
pub(crate) fn opening(number: usize) -> Command {
    Command::Open { name: name(number), currency: Currency::USD, overdraft_limit: None }
}

/// The reference of a log on disk: a file that is written over and over, so that its syncs need no change of its size.
pub(crate) struct BareFile {
    file: File,
    bytes: u64,
    offset: u64,
}

impl BareFile {
    pub(crate) fn create(path: &Path) -> BareFile {
        let file = OpenOptions::new().write(true).create_new(true).open(path).expect("a file");
        let bytes = sized(32 * 1024 * 1024, 256 * 1024);
        file.write_all_at(&vec![0; bytes as usize], 0).expect("written");
        file.sync_all().expect("synced");
        BareFile { file, bytes, offset: 0 }
    }

    /// Writes behind what was written before, and syncs.
    pub(crate) fn commit(&mut self, bytes: &[u8]) {
        if self.offset + bytes.len() as u64 > self.bytes {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += bytes.len() as u64;
    }
}

/// Runs the duels of one bench file and prints what came of them.
pub(crate) struct Arena {
    pub(crate) criterion: Criterion,
    /// How many iterations one side does before it is the other's turn; a whole sample at the most.
    pub(crate) turn: u64,
    rows: Vec<String>,
}

impl Arena {
    /// An arena for `title`, set up by the command line.
    pub(crate) fn new() -> Arena {
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(1500))
            .sample_size(15)
            .configure_from_args();
        Arena { criterion, turn: u64::MAX, rows: Vec::new() }
    }

    /// Runs `ours` against `reference`. Each does so many iterations of `elements` pieces of work and says how
    /// long that took.
    pub(crate) fn duel(
        &mut self,
        group: &str,
        name: &str,
        elements: u64,
        mut ours: impl FnMut(u64) -> Duration,
        mut reference: impl FnMut(u64) -> Duration,
    ) {
        let mut pairs = Vec::new();
        let turn = self.turn;
        {
            let mut group: BenchmarkGroup<'_, WallTime> = self.criterion.benchmark_group(group);
            group.throughput(Throughput::Elements(elements)).sampling_mode(SamplingMode::Flat);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let (mut our_time, mut their_time) = (Duration::ZERO, Duration::ZERO);
                    let mut left = iterations;
                    while left > 0 {
                        let count = turn.min(left);
                        left -= count;
                        if (pairs.len() as u64 + left).is_multiple_of(2) {
                            our_time += ours(count);
                            their_time += reference(count);
                        } else {
                            their_time += reference(count);
                            our_time += ours(count);
                        }
                    }
                    pairs.push((iterations, our_time.as_nanos().max(1), their_time.as_nanos().max(1)));
                    our_time
                });
            });
            group.finish();
        }
        // The warm-up has other, smaller samples.
        let Some(&(iterations, ..)) = pairs.last() else { return };
        pairs.retain(|pair| pair.0 == iterations);
        let per_element = u128::from(iterations * elements);
        let our_ns = quartiles(pairs.iter().map(|pair| pair.1 * 10 / per_element));
        let their_ns = quartiles(pairs.iter().map(|pair| pair.2 * 10 / per_element));
        let ratio = quartiles(pairs.iter().map(|pair| pair.1 * 100 / pair.2));
        let row = format!(
            "| {group}, {name} | {} | {} | {} | {} | {} to {} |",
            time_text(our_ns[1]),
            rate_text(our_ns[1]),
            time_text(their_ns[1]),
            fixed(ratio[1], 100),
            fixed(ratio[0], 100),
            fixed(ratio[2], 100),
        );
        println!("{row}\n");
        self.rows.push(row);
    }

    /// Prints the table.
    pub(crate) fn finish(self) {
        self.criterion.final_summary();
        println!(
            "\n| what | teller, each | a second | reference, each | times the reference | middle half |"
        );
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            println!("{row}");
        }
    }
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(values: impl Iterator<Item = u128>) -> [u128; 3] {
    let mut values: Vec<u128> = values.collect();
    values.sort_unstable();
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn fixed(value: u128, unit: u128) -> String {
    let digits = if unit == 100 { 2 } else { 1 };
    format!("{}.{:0digits$}", value / unit, value % unit)
}

/// A time in tenths of nanoseconds.
fn time_text(tenths: u128) -> String {
    match tenths {
        0..10_000 => format!("{} ns", fixed(tenths, 10)),
        10_000..10_000_000 => format!("{} us", fixed(tenths / 1000, 10)),
        _ => format!("{} ms", fixed(tenths / 1_000_000, 10)),
    }
}

fn rate_text(tenths: u128) -> String {
    match 10_000_000_000 / tenths.max(1) {
        rate @ 0..10_000 => format!("{rate}"),
        rate @ 10_000..10_000_000 => format!("{} k", rate / 1000),
        rate => format!("{} M", rate / 1_000_000),
    }
}

/// How long something takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The name of the account with this number.
pub(crate) fn name(number: usize) -> AccountName {
    AccountName::parse(&format!("account-{number:07}")).expect("a valid name")
}

/// A ledger with open accounts, and the means to make up what happens next.
pub(crate) struct Feed {
    pub(crate) ledger: Ledger,
    pub(crate) random: Random,
    pub(crate) terms: Terms,
    accounts: usize,
    made: u64,
}

impl Feed {
    /// A ledger whose accounts have been opened, and the events that did it given to `visit`.
    pub(crate) fn new(accounts: usize, mut visit: impl FnMut(Sequence, Event)) -> Feed {
        let rules = rules();
        let mut feed = Feed {
            ledger: Ledger::new(shard()),
            random: Random::new(accounts as u64),
            terms: Terms {
                now: Timestamp::from_millis(EPOCH_MS),
                overdraft: rules.overdraft,
                key_retention_ms: 1000,
                keys_max: rules.keys_max,
            },
            accounts,
            made: 0,
        };
        for number in 0..accounts {
            let (sequence, event) = feed.happen(opening(number), None);
            visit(sequence, event);
        }
        feed
    }

    /// A target: any account, by name.
    pub(crate) fn target(&mut self) -> Target {
        let number = self.random.below(self.accounts as u64) as usize;
        Target { account: AccountRef::Name(name(number)), version: None }
    }

    /// A deposit of one cent to 100.00.
    pub(crate) fn deposit(&mut self) -> Command {
        let cents = 1 + self.random.below(10_000);
        let amount = dollars(&format!("{}.{:02}", cents / 100, cents % 100));
        Command::Deposit { target: self.target(), amount }
    }

    /// A withdrawal that no account of the benches can pay.
    pub(crate) fn unpayable(&mut self) -> Command {
        Command::Withdraw { target: self.target(), amount: dollars("184467440737095516.15") }
    }

    /// A key that was not used before.
    pub(crate) fn key(&mut self) -> IdempotencyKey {
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&self.random.number().to_le_bytes());
        digest[8..].copy_from_slice(&self.random.number().to_le_bytes());
        IdempotencyKey { digest: KeyDigest(digest), fingerprint: digest }
    }

    /// Moves the time on as 100,000 events a second would.
    pub(crate) fn tick(&mut self) {
        self.made += 1;
        self.terms.now = Timestamp::from_millis(EPOCH_MS + self.made / 100);
    }

    /// Does what nothing speaks against.
    pub(crate) fn happen(&mut self, command: Command, key: Option<IdempotencyKey>) -> (Sequence, Event) {
        self.tick();
        let change = self.ledger.decide(&command, &self.terms).expect("nothing speaks against it");
        let key = key.map(|key| self.terms.key_use(key));
        let event = Event { time: self.terms.now, key, change };
        (self.ledger.apply(&event), event)
    }

    /// Makes a deposit happen.
    pub(crate) fn next_event(&mut self) -> (Sequence, Event) {
        let deposit = self.deposit();
        self.happen(deposit, None)
    }

    /// The finished record of the next so many deposits.
    pub(crate) fn record(&mut self, events: usize, position: &mut LogPosition) -> Vec<u8> {
        let (sequence, event) = self.next_event();
        let mut draft = Draft::new(sequence, &event);
        for _ in 1..events {
            assert!(draft.push(&self.next_event().1), "they fit a record");
        }
        draft.seal(shard(), position)
    }
}
