//! What is sent: the workloads, what can be set about them, and their requests, ready in memory.
//!
//! # Notation
//! A load is a workload and a [`Shape`]; `--compare` names another load by what is different about it: the name of
//! another workload, settings of the shape as `name=value`, or several of these with commas between them. What it
//! does not name is as in the first load, where it means something there. The settings are read by the same
//! definition as the flags, so whatever can be a flag can be compared.
//!
//! # Requests
//! A [`Template`] is the whole request with places for account numbers. A connection copies it once and from then
//! on only writes other numbers into the places: names have a fixed width for that. A batch of 8,000 transfers is
//! 800 KB, of which 160 KB are written anew each time, which costs a hundredth of what a server takes for it.

use std::ops::RangeInclusive;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use super::reply::Protocol;
use crate::config::{SHARDS, whole};
use crate::ledger::AccountName;
use crate::random::Random;
use crate::router::Router;

/// More accounts than any machine of today has memory for; their numbers have ten digits.
const ACCOUNTS: RangeInclusive<u64> = 2..=1_000_000_000;
/// More connections than this the server refuses.
pub(super) const CONNECTIONS: RangeInclusive<u64> = 1..=10_000;
/// More threads only take cores from the server.
const THREADS: RangeInclusive<u64> = 1..=64;
/// As many items as the server takes; of transfers so many are within its limit of bytes.
const BATCH_SIZE: RangeInclusive<u64> = 1..=10_000;
/// Ten million requests a second are more than one machine sends.
const RATE: RangeInclusive<u64> = 1..=10_000_000;

const ACCOUNTS_DEFAULT: u64 = 10_000;
const CONNECTIONS_DEFAULT: usize = 256;
/// A batch keeps a server busy for milliseconds: a few are enough that it never waits for the next one.
const BATCH_CONNECTIONS_DEFAULT: usize = 4;
const BATCH_SIZE_DEFAULT: usize = 8_000;

/// The digits of an account's number, and its name before them: 16 bytes in all.
const DIGITS: usize = 10;
const NAME_PREFIX: &str = "bench-";

/// What one deposit or withdrawal moves, in cents.
pub(super) const AMOUNT_CENTS: u64 = 100;
/// What a transfer moves, as text.
const TRANSFER_AMOUNT: &str = "0.01";

/// What is done all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Workload {
    Deposit,
    Read,
    Transfer,
    Hot,
    Batch,
    Mixed,
}

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Workload::Deposit => "deposit",
            Workload::Read => "read",
            Workload::Transfer => "transfer",
            Workload::Hot => "hot",
            Workload::Batch => "batch",
            Workload::Mixed => "mixed",
        }
    }

    /// What its throughput counts.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Workload::Deposit => "deposits",
            Workload::Read => "reads",
            Workload::Transfer | Workload::Hot | Workload::Batch => "transfers",
            Workload::Mixed => "requests",
        }
    }

    /// Whether it takes money out of accounts, which therefore have to have some.
    pub(super) fn spends(self) -> bool {
        !matches!(self, Workload::Deposit | Workload::Read)
    }

    fn chooses_pairs(self) -> bool {
        matches!(self, Workload::Transfer | Workload::Batch)
    }
}

/// Which two accounts a transfer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Pairs {
    /// Any two.
    Any,
    /// Two on different shards.
    CrossShard,
    /// One and the same account, and any other; half of them in each direction.
    Hot,
}

/// What can be set about a load, by a flag or in --compare.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// How many accounts there are, 2 to 1000000000, each as likely as another. [default: 10000]
    #[arg(long, value_name = "COUNT", value_parser = whole::<u64>(ACCOUNTS))]
    pub(super) accounts: Option<u64>,

    /// How many connections there are, 1 to 10000, each with one request under way. [default: 256, for batches 4]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(CONNECTIONS))]
    pub(super) connections: Option<usize>,

    /// How many shards the server gets, 1 to 1024; with --url it has those that it has, and no other number is taken.
    /// [default: half the number of cores; with --url as many as it has]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(SHARDS))]
    pub(super) shards: Option<usize>,

    /// Which two accounts a transfer has: any, two on different shards, or the same one in all. [default: any]
    #[arg(long, value_name = "WHICH", value_enum, hide_possible_values = false)]
    pub(super) pairs: Option<Pairs>,

    /// How many transfers a batch has, 1 to 10000. [default: 8000]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(BATCH_SIZE))]
    pub(super) batch_size: Option<usize>,

    /// How many requests are due a second, 1 to 10000000, whatever the server does (open loop). A request's latency
    /// counts from when it was due. [default: each connection sends when it has its reply (closed loop)]
    #[arg(long, value_name = "PER-SECOND", value_parser = whole::<u64>(RATE))]
    pub(super) rate: Option<u64>,

    /// How many threads make the load, 1 to 64, and no more than there are connections. More of them take cores from the
    /// server. [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(THREADS))]
    pub(super) threads: Option<usize>,
}

/// What a load is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// A server that does nothing but answer.
    Bare,
    /// Redis.
    Redis,
    /// Another load.
    Load(Change),
}

/// What is different about another load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    text: String,
    workload: Option<Workload>,
    shape: Shape,
}

/// The settings of a change, read as flags are.
#[derive(Parser, Debug)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct ChangedShape {
    #[command(flatten)]
    shape: Shape,
}

impl Against {
    /// Reads what stands behind `--compare`.
    pub(super) fn parse(text: &str) -> Result<Against, String> {
        match text {
            "bare" => return Ok(Against::Bare),
            "redis" => return Ok(Against::Redis),
            _ => {}
        }
        let (settings, words): (Vec<&str>, Vec<&str>) =
            text.split(',').map(str::trim).partition(|word| word.contains('='));
        let mut workload = None;
        for word in words {
            let known = Workload::from_str(word, false).map_err(|_| {
                format!("{word:?} is not bare, redis, a workload, or a setting such as accounts=1000000")
            })?;
            if workload.replace(known).is_some() {
                return Err("names two workloads".into());
            }
        }
        let flags = settings.iter().map(|setting| format!("--{setting}"));
        let ChangedShape { shape } = ChangedShape::try_parse_from(flags).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        })?;
        Ok(Against::Load(Change { text: text.to_owned(), workload, shape }))
    }
}

/// A load, with everything about it settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Spec {
    /// What it is called in a report.
    #[serde(skip)]
    pub(super) name: String,
    pub(super) workload: Workload,
    pub(super) accounts: u64,
    pub(super) connections: usize,
    pub(super) shards: usize,
    pub(super) pairs: Pairs,
    pub(super) batch_size: usize,
    pub(super) rate: Option<u64>,
    pub(super) threads: usize,
}

impl Spec {
    /// Settles a load, for a server that has so many shards unless it is told.
    ///
    /// # Errors
    /// If a setting means nothing for the workload, or contradicts another.
    pub(super) fn new(workload: Workload, shape: &Shape, shards: usize) -> Result<Spec, String> {
        if shape.pairs.is_some() && !workload.chooses_pairs() {
            return Err(format!("--pairs means nothing for {}", workload.name()));
        }
        if shape.batch_size.is_some() && workload != Workload::Batch {
            return Err(format!("--batch-size means nothing for {}", workload.name()));
        }
        Spec::settle(workload.name().to_owned(), workload, shape, shards)
    }

    /// The load that is different in what a change names. What else was set counts where it means something.
    pub(super) fn changed(
        workload: Workload,
        shape: &Shape,
        change: &Change,
        shards: usize,
    ) -> Result<Spec, String> {
        let workload = change.workload.unwrap_or(workload);
        // What the change itself says has to mean something.
        Spec::new(workload, &change.shape, shards)?;
        let own = change.shape.clone();
        let merged = Shape {
            accounts: own.accounts.or(shape.accounts),
            connections: own.connections.or(shape.connections),
            shards: own.shards.or(shape.shards),
            pairs: own.pairs.or(shape.pairs).filter(|_| workload.chooses_pairs()),
            batch_size: own.batch_size.or(shape.batch_size),
            rate: own.rate.or(shape.rate),
            threads: own.threads.or(shape.threads),
        };
        Spec::settle(change.text.clone(), workload, &merged, shards)
    }

    fn settle(name: String, workload: Workload, shape: &Shape, shards: usize) -> Result<Spec, String> {
        let batch = workload == Workload::Batch;
        let connections_default = if batch { BATCH_CONNECTIONS_DEFAULT } else { CONNECTIONS_DEFAULT };
        let connections = shape.connections.unwrap_or(connections_default);
        let threads = shape.threads.unwrap_or(1);
        if threads > connections {
            return Err(format!("{threads} threads are more than there are connections, {connections}"));
        }
        let pairs = match workload {
            Workload::Hot => Pairs::Hot,
            _ => shape.pairs.unwrap_or(Pairs::Any),
        };
        let spec = Spec {
            name,
            workload,
            accounts: shape.accounts.unwrap_or(ACCOUNTS_DEFAULT),
            connections,
            shards: shape.shards.unwrap_or(shards),
            pairs,
            batch_size: if batch { shape.batch_size.unwrap_or(BATCH_SIZE_DEFAULT) } else { 1 },
            rate: shape.rate,
            threads,
        };
        if pairs == Pairs::CrossShard && spec.shards == 1 {
            return Err(
                "with one shard no two accounts are on different ones: --shards 2 starts a server with two"
                    .into(),
            );
        }
        Ok(spec)
    }
}

/// The name of the account with this number.
pub(super) fn account_name(number: u64) -> String {
    format!("{NAME_PREFIX}{number:0DIGITS$}")
}

/// What a request does, which says what it does to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Deposit,
    Withdraw,
    Transfer,
}

/// A request with places for the numbers of accounts.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) action: Action,
    bytes: Vec<u8>,
    places: Vec<usize>,
    /// How often of a hundred it is sent.
    share: u64,
    /// The status of a reply that is as it should be.
    pub(super) status: u16,
    /// What the body of such a reply begins with.
    pub(super) body_begin: Vec<u8>,
    /// How many operations it asks for.
    pub(super) operations: u64,
}

/// A place for an account's number in the text of a template.
const PLACE: &str = "##########";

impl Template {
    fn new(action: Action, status: u16, text: String) -> Template {
        let places = text.match_indices(PLACE).map(|(at, _)| at).collect();
        Template {
            action,
            bytes: text.into_bytes(),
            places,
            share: 100,
            status,
            body_begin: Vec::new(),
            operations: 1,
        }
    }

    fn shared(self, share: u64) -> Template {
        Template { share, ..self }
    }
}

/// All requests of a load.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) protocol: Protocol,
    pub(super) templates: Vec<Template>,
    accounts: u64,
    pairs: Pairs,
    /// The shard of each account, where pairs have to know.
    shards: Vec<u16>,
}

impl Load {
    /// The requests of a load to a teller at this authority (`127.0.0.1:3000`), below this path.
    ///
    /// # Errors
    /// If all accounts are on one shard, and should not be.
    pub(super) fn to_teller(spec: &Spec, authority: &str, base: &str) -> Result<Load, String> {
        let account = format!("{NAME_PREFIX}{PLACE}");
        let amount = format!(r#"{{"amount": {}.{:02}}}"#, AMOUNT_CENTS / 100, AMOUNT_CENTS % 100);
        let post = |path: &str, media_type: &str, body: &str| {
            let length = body.len();
            format!(
                "POST {base}{path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: {media_type}\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
        };
        let json = "application/json";
        let read = || {
            let text = format!("GET {base}/accounts/{account} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
            Template::new(Action::Read, 200, text)
        };
        let deposit = || {
            Template::new(Action::Deposit, 201, post(&format!("/accounts/{account}/deposit"), json, &amount))
        };
        let withdraw = || {
            Template::new(
                Action::Withdraw,
                201,
                post(&format!("/accounts/{account}/withdraw"), json, &amount),
            )
        };
        let pair = format!(r#""from":"name:{account}","to":"name:{account}","amount":"{TRANSFER_AMOUNT}""#);
        let transfer =
            || Template::new(Action::Transfer, 201, post("/v2/transfers", json, &format!("{{{pair}}}")));
        let templates = match spec.workload {
            Workload::Deposit => vec![deposit()],
            Workload::Read => vec![read()],
            Workload::Transfer | Workload::Hot => vec![transfer()],
            Workload::Batch => {
                let size = spec.batch_size;
                let body = format!("{{\"type\":\"transfer\",{pair}}}\n").repeat(size);
                let path = "/v2/batches?results=refused";
                vec![Template {
                    operations: size as u64,
                    body_begin: format!(r#"{{"count":{size},"executed":{size},"refused":0,"#).into_bytes(),
                    ..Template::new(Action::Transfer, 200, post(path, "application/x-ndjson", &body))
                }]
            }
            Workload::Mixed => {
                vec![read().shared(50), deposit().shared(20), withdraw().shared(10), transfer().shared(20)]
            }
        };
        let mut shards = Vec::new();
        if spec.pairs == Pairs::CrossShard {
            let router = Router::new(spec.shards);
            let shard = |number| {
                let name = AccountName::parse(&account_name(number)).expect("a name");
                router.of_name(&name).index() as u16
            };
            shards = (0..spec.accounts).map(shard).collect();
            if shards.iter().all(|shard| *shard == shards[0]) {
                return Err("so few accounts are all on one shard: take more".into());
            }
        }
        Ok(Load { protocol: Protocol::Http, templates, accounts: spec.accounts, pairs: spec.pairs, shards })
    }

    /// The same work asked of Redis: the script with this digest, on an account's balance and the log of all.
    pub(super) fn to_redis(spec: &Spec, digest: &str) -> Load {
        let key = format!("{NAME_PREFIX}{PLACE}");
        let amount = AMOUNT_CENTS.to_string();
        let words = ["EVALSHA", digest, "2", &key, "log", &amount];
        let text = super::redis::command(&words);
        let templates = vec![Template::new(Action::Deposit, 200, text)];
        let (accounts, pairs) = (spec.accounts, Pairs::Any);
        Load { protocol: Protocol::Redis, templates, accounts, pairs, shards: Vec::new() }
    }

    /// Makes the next request.
    pub(super) fn prepare(&self, request: &mut Request, random: &mut Random) {
        let mut ticket = if self.templates.len() > 1 { random.below(100) } else { 0 };
        let mut chosen = 0;
        while ticket >= self.templates[chosen].share {
            ticket -= self.templates[chosen].share;
            chosen += 1;
        }
        let template = &self.templates[chosen];
        if request.template != Some(chosen) {
            request.template = Some(chosen);
            request.bytes.clear();
            request.bytes.extend_from_slice(&template.bytes);
        }
        match template.action {
            Action::Transfer => {
                for pair in template.places.chunks_exact(2) {
                    let (from, to) = self.pair(random);
                    write_number(&mut request.bytes[pair[0]..], from);
                    write_number(&mut request.bytes[pair[1]..], to);
                }
            }
            Action::Read | Action::Deposit | Action::Withdraw => {
                let account = random.below(self.accounts);
                for place in &template.places {
                    write_number(&mut request.bytes[*place..], account);
                }
            }
        }
    }

    fn pair(&self, random: &mut Random) -> (u64, u64) {
        let other = |random: &mut Random, one: u64| {
            let other = random.below(self.accounts - 1);
            if other >= one { other + 1 } else { other }
        };
        match self.pairs {
            Pairs::Any => {
                let from = random.below(self.accounts);
                (from, other(random, from))
            }
            Pairs::Hot => {
                let (hot, other) = (0, other(random, 0));
                if random.below(2) == 0 { (hot, other) } else { (other, hot) }
            }
            Pairs::CrossShard => {
                // There are two shards with accounts, so this ends.
                loop {
                    let (from, to) = (random.below(self.accounts), random.below(self.accounts));
                    if self.shards[from as usize] != self.shards[to as usize] {
                        return (from, to);
                    }
                }
            }
        }
    }
}

/// A request that is made over and over again in the same place.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The whole of it.
    pub(super) bytes: Vec<u8>,
    /// Which of the load's templates it is.
    pub(super) template: Option<usize>,
}

/// Writes all digits of a number over the first bytes.
fn write_number(bytes: &mut [u8], mut number: u64) {
    for byte in bytes[..DIGITS].iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(workload: Workload, shape: &Shape, text: &str) -> Result<Spec, String> {
        let Against::Load(change) = Against::parse(text)? else { panic!("{text} is no load") };
        Spec::changed(workload, shape, &change, 2)
    }

    #[test]
    fn a_comparison_names_what_is_different() {
        assert_eq!(Against::parse("bare"), Ok(Against::Bare));
        assert_eq!(Against::parse("redis"), Ok(Against::Redis));
        let shape = Shape { accounts: Some(1000), pairs: Some(Pairs::CrossShard), ..Shape::default() };
        let first = Spec::new(Workload::Transfer, &shape, 2).expect("valid");
        assert_eq!((first.connections, first.pairs, first.batch_size), (256, Pairs::CrossShard, 1));
        let deposit = changed(Workload::Transfer, &shape, "deposit").expect("valid");
        let expected =
            Spec { name: "deposit".into(), workload: Workload::Deposit, pairs: Pairs::Any, ..first.clone() };
        assert_eq!(deposit, expected);
        let batch = changed(Workload::Transfer, &shape, "batch, pairs=hot,batch-size=10").expect("valid");
        assert_eq!((batch.connections, batch.pairs, batch.batch_size), (4, Pairs::Hot, 10));
        assert_eq!(batch.accounts, 1000);
        let more =
            changed(Workload::Transfer, &shape, "accounts=5,connections=64,rate=10,threads=2,shards=3");
        let more = more.expect("valid");
        assert_eq!((more.accounts, more.connections, more.shards), (5, 64, 3));
        assert_eq!((more.rate, more.threads, more.pairs), (Some(10), 2, Pairs::CrossShard));
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for (text, told) in [
            ("", "is not bare, redis, a workload"),
            ("barely", "is not bare, redis, a workload"),
            ("deposit,read", "two workloads"),
            ("accounts=1", "2 to 1000000000"),
            ("accounts", "is not bare, redis, a workload"),
            ("pairs=two", "pairs"),
            ("speed=9", "--speed"),
            ("=", "unexpected"),
            ("accounts=5,accounts=6", "--accounts"),
        ] {
            let error = Against::parse(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
        let plain = Shape::default();
        assert!(changed(Workload::Deposit, &plain, "pairs=hot").expect_err("no pairs").contains("--pairs"));
        assert!(changed(Workload::Deposit, &plain, "transfer,pairs=cross-shard,shards=1").is_err());
        assert!(
            changed(Workload::Deposit, &plain, "batch-size=3")
                .expect_err("no batch")
                .contains("--batch-size")
        );
        let hot = Shape { pairs: Some(Pairs::Any), ..Shape::default() };
        assert!(Spec::new(Workload::Hot, &hot, 2).is_err());
        let threads = Shape { threads: Some(5), ..Shape::default() };
        assert!(Spec::new(Workload::Batch, &threads, 2).expect_err("too many").contains("threads"));
    }

    fn load(workload: Workload, shape: &Shape) -> (Spec, Load) {
        let spec = Spec::new(workload, shape, 3).expect("valid");
        let load = Load::to_teller(&spec, "localhost", "").expect("requests");
        (spec, load)
    }

    #[test]
    fn requests_say_how_long_they_are_and_name_accounts_that_exist() {
        let shape = Shape { accounts: Some(30), ..Shape::default() };
        for workload in Workload::value_variants() {
            let (_, load) = load(*workload, &shape);
            let (mut request, mut random) = (Request::default(), Random::new(1));
            for _ in 0..50 {
                load.prepare(&mut request, &mut random);
                let text = std::str::from_utf8(&request.bytes).expect("UTF-8");
                let (head, body) = text.split_once("\r\n\r\n").expect("a head");
                let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.trim());
                assert_eq!(length, body.len().to_string(), "{head}");
                for (at, _) in text.match_indices(NAME_PREFIX) {
                    let number: u64 = text[at + NAME_PREFIX.len()..][..DIGITS].parse().expect("a number");
                    assert!(number < 30, "{text}");
                }
            }
        }
    }

    #[test]
    fn pairs_are_two_accounts_as_they_were_asked_for() {
        for pairs in [Pairs::Any, Pairs::CrossShard, Pairs::Hot] {
            let shape = Shape { accounts: Some(20), pairs: Some(pairs), ..Shape::default() };
            let (_, load) = load(Workload::Transfer, &shape);
            let mut random = Random::new(3);
            let mut met = [[0; 20]; 2];
            for _ in 0..2000 {
                let (from, to) = load.pair(&mut random);
                assert_ne!(from, to);
                met[0][from as usize] += 1;
                met[1][to as usize] += 1;
                match pairs {
                    Pairs::Any => {}
                    Pairs::Hot => assert!(from == 0 || to == 0),
                    Pairs::CrossShard => assert_ne!(load.shards[from as usize], load.shards[to as usize]),
                }
            }
            assert!(met.as_flattened().iter().all(|count| *count > 10), "{pairs:?}: {met:?}");
        }
    }

    #[test]
    fn a_mix_has_the_shares_that_it_says() {
        let (_, load) = load(Workload::Mixed, &Shape::default());
        assert_eq!(load.templates.iter().map(|template| template.share).sum::<u64>(), 100);
        let (mut request, mut random, mut counts) = (Request::default(), Random::new(5), [0_u64; 4]);
        for _ in 0..10_000 {
            load.prepare(&mut request, &mut random);
            counts[request.template.expect("one was chosen")] += 1;
        }
        for (count, template) in counts.iter().zip(&load.templates) {
            assert!(count.abs_diff(template.share * 100) < 300, "{counts:?}");
        }
    }

    #[test]
    fn names_have_sixteen_bytes() {
        assert_eq!(account_name(0), "bench-0000000000");
        let mut text = *b"##########x";
        write_number(&mut text, 1_234_567_890);
        assert_eq!(&text, b"1234567890x");
    }
}
