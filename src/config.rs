//! Settings: flags, then `MZ_*` environment variables, then defaults, parsed once into validated types.
//!
//! A flag wins over the environment; an empty environment variable counts as not set. Whatever is wrong is
//! refused before anything starts, with the flag's or the variable's name, the value, and what is allowed.
//! The environment comes in as a function, so that nothing below [`crate::cli`] reads the process's own.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::ledger::{Amount, Currency, ExcessDecimals, OverdraftDefault, Quantity, SHARDS_MAX};
use crate::storage::journal::GENERATION_BYTES_MAX;

const HOST_DEFAULT: &str = "127.0.0.1";
const PORT_DEFAULT: u16 = 3000;
const DATA_DIR_DEFAULT: &str = "data";
const DB_NAME_DEFAULT: &str = "teller";
const LOG_DEFAULT: LevelFilter = LevelFilter::INFO;

const CURRENCY_DEFAULT: Currency = Currency::USD;

/// The original service's, in whichever currency: its decimals are zero, so it is an amount of each.
const MAX_OVERDRAFT_DEFAULT: &str = "50.00";

/// The longest host name, in bytes: the limit of DNS.
const HOST_BYTES_MAX: usize = 253;

/// The longest ledger name, in bytes: short enough that every file system takes it with room for a suffix.
const DB_NAME_BYTES_MAX: usize = 128;

const PORTS: RangeInclusive<u64> = 0..=u16::MAX as u64;
pub(crate) const SHARDS: RangeInclusive<u64> = 1..=SHARDS_MAX as u64;

/// More would only wait for one another.
const HTTP_THREADS_MAX: u64 = 256;

pub(crate) const IDEMPOTENCY_HOURS_DEFAULT: u64 = 24;
/// A month. A key costs about 120 bytes of memory for as long as it is kept.
const IDEMPOTENCY_HOURS_MAX: u64 = 720;

/// 4 million keys are about 480 MB, and 24 hours of 46 requests a second.
const IDEMPOTENCY_KEYS_DEFAULT: u64 = 4_000_000;
/// Shards share them out and index them with 32 bits.
const IDEMPOTENCY_KEYS_MAX: u64 = u32::MAX as u64;

/// The size up to which opening and reading a generation takes a fraction of a second.
const JOURNAL_MIB_DEFAULT: u64 = GENERATION_BYTES_MAX >> 20;
/// A store of a gibibyte takes seconds to open, and more than its own size in memory.
const JOURNAL_MIB_MAX: u64 = 1024;

const SNAPSHOT_MINUTES_DEFAULT: u64 = 10;
/// A day: beyond that the time to restart grows for no gain.
const SNAPSHOT_MINUTES_MAX: u64 = 1440;

/// Room for the snapshot and the archive segment that are being written when the disk fills up, and for those with which
/// the process ends.
const DISK_RESERVE_MIB_DEFAULT: u64 = 256;
/// A pebibyte, so that the count of bytes stays far inside 64 bits.
const DISK_RESERVE_MIB_MAX: u64 = 1 << 30;

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// All that `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// Where the ledger is.
    pub location: LedgerLocation,
    /// How many shards were asked for. `None`: as many as the ledger has, or, for a new one, half as many as the
    /// machine has cores.
    pub shards: Option<ShardsAsked>,
    /// How many threads serve connections, 1 to 256. `None`: half as many as the machine has cores.
    pub http_threads: Option<usize>,
    /// Which threads run on which cores.
    pub cores: CoreUse,
    /// The currency of accounts that are opened without one.
    pub currency: Currency,
    /// How far below zero an account of that currency without a limit of its own may go; not negative.
    pub max_overdraft: Amount,
    /// Make the ledger, if there is none, and end.
    pub bootstrap: bool,
    /// For how long an idempotency key is remembered.
    pub idempotency_retention: Duration,
    /// How many idempotency keys the whole server remembers at most; at least 1.
    pub idempotency_keys_max: u64,
    /// How many bytes of records a shard's journal takes before it goes into a snapshot and the archive.
    pub generation_bytes_max: u64,
    /// How long after a snapshot the next one is taken.
    pub snapshot_interval: Duration,
    /// With less free disk space than this, what would be recorded is refused.
    pub disk_reserve_bytes: u64,
}

impl ServeSettings {
    /// The overdraft limit of accounts that have none of their own, whatever their currency.
    pub fn overdraft_default(&self) -> OverdraftDefault {
        OverdraftDefault { currency: self.currency, limit: self.max_overdraft }
    }
}

/// A number of shards that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardsAsked {
    /// 1 to [`SHARDS_MAX`].
    pub count: usize,
    /// What asked for it, so that whoever has to be told of a wrong number is told where it stands.
    pub by: Setting,
}

/// Which threads run on which cores.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreUse {
    /// Those that serve connections on some, shards on the others, each waiting for its turn.
    #[default]
    Split,
    /// All on all.
    Shared,
}

/// The flags of `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// The address or host name to listen on. 0.0.0.0 is every IPv4 address of the machine, :: every address.
    /// There is no authentication: open it only to a network that you trust.
    /// [env: MZ_HOST] [default: 127.0.0.1]
    #[arg(long, value_name = "HOST", value_parser = parse_host)]
    pub host: Option<String>,

    /// The TCP port to listen on, 0 to 65535; 0 lets the system choose one, which the first log lines tell.
    /// [env: MZ_PORT] [default: 3000]
    #[arg(long, value_name = "PORT", value_parser = whole::<u16>(PORTS))]
    pub port: Option<u16>,

    /// How many shards a new ledger gets, 1 to 1024. Each is a worker with its own log. A ledger keeps the
    /// number that it was made with: another number is then refused.
    /// [env: MZ_WORKERS] [default: half the number of cores]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(SHARDS))]
    pub shards: Option<usize>,

    /// How many threads serve connections, 1 to 256. [default: half the number of cores]
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(1..=HTTP_THREADS_MAX))]
    pub http_threads: Option<usize>,

    /// Whether the threads that serve connections and the shards have cores of their own, and wait for their turn there
    /// instead of interrupting others. "split" lets them run anywhere while another program computes on those cores, for
    /// a minute and then longer; with "shared" the system decides, as it does where there are fewer cores than such
    /// threads, or where the process has a share of the time of more cores. [default: split]
    #[arg(long, value_name = "USE", hide_possible_values = true)]
    pub cores: Option<CoreUse>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help text of the group")]
    pub location: LocationArgs,

    /// The currency of accounts that are opened without one: a code of ISO 4217 such as EUR, in capital letters.
    /// [env: MZ_CURRENCY] [default: USD]
    #[arg(long, value_name = "CODE", value_parser = parse_currency)]
    pub currency: Option<Currency>,

    /// How far below zero an account of that currency without a limit of its own may go; an account of another
    /// currency then may not. The sign is ignored. [env: MZ_MAX_OVERDRAFT] [default: 50.00]
    // The text: how many decimals it may have is only known with the currency.
    #[arg(long, value_name = "AMOUNT", value_parser = parse_overdraft_text, allow_negative_numbers = true)]
    pub max_overdraft: Option<String>,

    /// With 1: make an empty ledger if it is not there, and exit 0 without serving. Its number of shards, --shards or the
    /// default, is fixed from then on. `serve` makes what it needs by itself, so this is only for scripts that expect
    /// the step. [env: MZ_BOOTSTRAP] [default: 0]
    #[arg(long, value_name = "0|1", value_parser = parse_switch, num_args = 0..=1, require_equals = true,
          default_missing_value = "1")]
    pub bootstrap: Option<bool>,

    /// For how many hours an Idempotency-Key is remembered, 1 to 720. [default: 24]
    #[arg(long, value_name = "HOURS", value_parser = whole::<u64>(1..=IDEMPOTENCY_HOURS_MAX))]
    pub idempotency_hours: Option<u64>,

    /// How many Idempotency-Keys the server remembers at most, 1 to 4294967295, an equal share of them by each
    /// shard, about 120 bytes of memory each. While it remembers that many, requests with a new key are refused with 503.
    /// [default: 4000000]
    #[arg(long, value_name = "COUNT", value_parser = whole::<u64>(1..=IDEMPOTENCY_KEYS_MAX))]
    pub idempotency_keys_max: Option<u64>,

    /// How many MiB of records a shard's journal takes before they go into a snapshot and the archive, 1 to
    /// 1024. More makes snapshots rarer, a restart longer and memory larger. [default: 32]
    #[arg(long, value_name = "MIB", value_parser = whole::<u64>(1..=JOURNAL_MIB_MAX))]
    pub journal_mib: Option<u64>,

    /// How many minutes after a snapshot the next one is taken, 1 to 1440. [default: 10]
    #[arg(long, value_name = "MINUTES", value_parser = whole::<u64>(1..=SNAPSHOT_MINUTES_MAX))]
    pub snapshot_minutes: Option<u64>,

    /// With less than so many MiB of disk space free, 0 to 1073741824, what would be recorded is refused with
    /// 503, and reads go on. [default: 256]
    #[arg(long, value_name = "MIB", value_parser = whole::<u64>(0..=DISK_RESERVE_MIB_MAX))]
    pub disk_reserve_mib: Option<u64>,
}

impl ServeArgs {
    /// The settings that these flags and this environment make.
    ///
    /// # Errors
    /// If an environment variable that counts has a wrong value, or the overdraft limit, wherever it is from, is no
    /// amount of the currency. In all else flags have been checked already.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<ServeSettings, SettingError> {
        let host = pick(self.host.clone(), "MZ_HOST", parse_host, environment)?;
        let port = pick(self.port, "MZ_PORT", whole(PORTS), environment)?;
        let by = self.shards.map_or(Setting::Variable("MZ_WORKERS"), |_| Setting::Flag("--shards"));
        let shards = pick(self.shards, "MZ_WORKERS", whole(SHARDS), environment)?;
        let shards = shards.map(|count| ShardsAsked { count, by });
        let currency =
            pick(self.currency, "MZ_CURRENCY", parse_currency, environment)?.unwrap_or(CURRENCY_DEFAULT);
        let max_overdraft = self.max_overdraft(currency, environment)?;
        let bootstrap = pick(self.bootstrap, "MZ_BOOTSTRAP", parse_switch, environment)?;
        let hours = self.idempotency_hours.unwrap_or(IDEMPOTENCY_HOURS_DEFAULT);
        let minutes = self.snapshot_minutes.unwrap_or(SNAPSHOT_MINUTES_DEFAULT);
        Ok(ServeSettings {
            listen: ListenAddress {
                host: host.unwrap_or_else(|| HOST_DEFAULT.to_owned()),
                port: port.unwrap_or(PORT_DEFAULT),
            },
            location: self.location.resolve(environment)?,
            shards,
            http_threads: self.http_threads,
            cores: self.cores.unwrap_or_default(),
            currency,
            max_overdraft,
            bootstrap: bootstrap.unwrap_or(false),
            idempotency_retention: Duration::from_secs(hours * 60 * 60),
            idempotency_keys_max: self.idempotency_keys_max.unwrap_or(IDEMPOTENCY_KEYS_DEFAULT),
            generation_bytes_max: self.journal_mib.unwrap_or(JOURNAL_MIB_DEFAULT) << 20,
            snapshot_interval: Duration::from_secs(minutes * 60),
            disk_reserve_bytes: self.disk_reserve_mib.unwrap_or(DISK_RESERVE_MIB_DEFAULT) << 20,
        })
    }

    fn max_overdraft(
        &self,
        currency: Currency,
        environment: Environment<'_>,
    ) -> Result<Amount, SettingError> {
        let parse = |text: &str| parse_overdraft(text, currency);
        if let Some(text) = &self.max_overdraft {
            return parse(text).map_err(|reason| SettingError {
                setting: Setting::Flag("--max-overdraft"),
                value: text.clone(),
                reason,
            });
        }
        let limit = pick(None, "MZ_MAX_OVERDRAFT", parse, environment)?;
        Ok(limit.unwrap_or_else(|| parse(MAX_OVERDRAFT_DEFAULT).expect("it is an amount of every currency")))
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The port; 0 lets the system choose.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket addresses that this stands for; asks the system's resolver for a host name.
    ///
    /// # Errors
    /// If the resolver does not know the host name.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a ledger is: a directory under the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLocation {
    /// The directory of all ledgers.
    pub data_dir: PathBuf,
    /// The ledger's name: one path segment.
    pub db_name: DbName,
}

impl LedgerLocation {
    /// The ledger's own directory.
    pub fn directory(&self) -> PathBuf {
        self.data_dir.join(Path::new(self.db_name.as_str()))
    }
}

/// The flags that say where a ledger is.
#[derive(Args, Clone, Debug, Default)]
pub struct LocationArgs {
    /// The directory that holds the ledgers, each in a directory of its name. [env: MZ_DATA_DIR] [default: data]
    #[arg(long, value_name = "DIRECTORY", value_parser = parse_data_dir)]
    pub data_dir: Option<PathBuf>,

    /// The ledger's name: letters, digits, `.`, `_` and `-`, not starting with a dot.
    /// [env: MZ_DB_NAME] [default: teller]
    #[arg(long, value_name = "NAME", value_parser = parse_db_name)]
    pub db_name: Option<DbName>,
}

impl LocationArgs {
    /// The place that these flags and this environment name.
    ///
    /// # Errors
    /// If an environment variable that counts has a wrong value.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<LedgerLocation, SettingError> {
        let data_dir = pick(self.data_dir.clone(), "MZ_DATA_DIR", parse_data_dir, environment)?;
        let db_name = pick(self.db_name.clone(), "MZ_DB_NAME", parse_db_name, environment)?;
        Ok(LedgerLocation {
            data_dir: data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT)),
            db_name: db_name.unwrap_or_else(|| DbName(DB_NAME_DEFAULT.to_owned())),
        })
    }
}

/// The name of a ledger: 1 to 128 letters, digits, `.`, `_` and `-`, not starting with a dot, so that it is
/// one visible path segment on every file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbName(String);

impl DbName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What goes to the log, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Which lines.
    pub filter: Targets,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, the error by which a run ends among them. Wrong usage, and a mistake of the program's own,
    /// are told as text.
    Json,
}

/// The flags of the log, which goes to stderr.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// What to log to stderr: off, error, warn, info, debug or trace, also by module, such as
    /// `info,teller::http=debug`. [env: MZ_LOG] [default: info]
    #[arg(long, value_name = "FILTER", value_parser = parse_log_filter)]
    pub log: Option<Targets>,

    /// How to write a line of the log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl LogArgs {
    /// The settings that these flags and this environment make.
    ///
    /// # Errors
    /// If MZ_LOG counts and has a wrong value.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<LogSettings, SettingError> {
        let filter = pick(self.log.clone(), "MZ_LOG", parse_log_filter, environment)?;
        Ok(LogSettings {
            filter: filter.unwrap_or_else(|| Targets::new().with_default(LOG_DEFAULT)),
            format: self.log_format,
        })
    }
}

/// An environment variable, or a flag that is judged together with others, has a wrong value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {value:?} for {setting}: {reason}")]
pub struct SettingError {
    setting: Setting,
    value: String,
    reason: String,
}

/// Where a value was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// By a flag, with its dashes.
    Flag(&'static str),
    /// By an environment variable.
    Variable(&'static str),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Flag(flag) => write!(f, "'{flag}'"),
            Setting::Variable(variable) => write!(f, "the environment variable {variable}"),
        }
    }
}

/// The flag's value, else the environment's.
fn pick<T>(
    flag: Option<T>,
    variable: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
    environment: Environment<'_>,
) -> Result<Option<T>, SettingError> {
    if flag.is_some() {
        return Ok(flag);
    }
    let Some(value) = environment(variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let parsed = match value.to_str() {
        Some(text) => parse(text),
        None => Err("must be UTF-8".to_owned()),
    };
    parsed.map(Some).map_err(|reason| SettingError {
        setting: Setting::Variable(variable),
        value: value.to_string_lossy().into_owned(),
        reason,
    })
}

/// Reads a whole number: digits only, so that `+5`, ` 5` and `5.0` are told apart from 5.
pub(crate) fn whole<T: TryFrom<u64>>(
    allowed: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text: &str| {
        let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Digits that do not fit 64 bits are out of every range.
        let number = all_digits.then(|| text.parse().unwrap_or(u64::MAX));
        number
            .filter(|number| allowed.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("must be a whole number from {} to {}", allowed.start(), allowed.end()))
    }
}

fn parse_host(text: &str) -> Result<String, String> {
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if unbracketed.parse::<IpAddr>().is_ok() {
        return Ok(unbracketed.to_owned());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if text.len() <= HOST_BYTES_MAX && text.split('.').all(label) && !numeric {
        return Ok(text.to_owned());
    }
    let example = Ipv4Addr::LOCALHOST;
    Err(format!(
        "must be an IP address such as {example} or ::1, or a host name such as localhost, without scheme and port"
    ))
}

fn parse_currency(text: &str) -> Result<Currency, String> {
    Currency::from_code(text.as_bytes()).ok_or_else(|| {
        let example = CURRENCY_DEFAULT;
        format!("must be the ISO 4217 code of a currency, three capital letters such as {example}")
    })
}

/// Reads an overdraft limit in a currency. Its sign does not matter.
fn parse_overdraft(text: &str, currency: Currency) -> Result<Amount, String> {
    match Amount::parse(text, currency, ExcessDecimals::Refuse) {
        Ok(amount) => Ok(amount.magnitude()),
        Err(error) => Err(format!(
            "{error}; allowed is an amount such as {MAX_OVERDRAFT_DEFAULT} in {currency}, whose sign is ignored"
        )),
    }
}

/// Checks an overdraft limit as far as that can be done without knowing its currency.
fn parse_overdraft_text(text: &str) -> Result<String, String> {
    parse_overdraft_quantity(text).map(|_| text.to_owned())
}

/// Reads an overdraft limit of no currency in particular. Its sign does not matter.
pub(crate) fn parse_overdraft_quantity(text: &str) -> Result<Quantity, String> {
    match Quantity::parse(text, ExcessDecimals::Refuse) {
        Ok(limit) => Ok(limit.magnitude()),
        Err(error) => Err(format!(
            "{error}; allowed is an amount such as {MAX_OVERDRAFT_DEFAULT}, whose sign is ignored"
        )),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("must be 1 or true, 0 or false".to_owned()),
    }
}

pub(crate) fn parse_data_dir(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("must be the path of a directory".to_owned()),
        text if text.contains('\0') => Err("must not contain a NUL character".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}

fn parse_db_name(text: &str) -> Result<DbName, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=DB_NAME_BYTES_MAX).contains(&text.len());
    if fits && !text.starts_with('.') && text.bytes().all(allowed) {
        return Ok(DbName(text.to_owned()));
    }
    Err(format!(
        "must be 1 to {DB_NAME_BYTES_MAX} letters (a-z, A-Z), digits, '.', '_' or '-', not starting with a dot"
    ))
}

fn parse_log_filter(text: &str) -> Result<Targets, String> {
    const ALLOWED: &str = "allowed are off, error, warn, info, debug and trace, also by module as in \
                           info,teller::http=debug";
    let level = |word: &str| {
        match word.parse::<LevelFilter>() {
            // Numbers would be levels, too, and so would nothing.
            Ok(level) if word.starts_with(|first: char| first.is_ascii_alphabetic()) => Ok(level),
            _ => Err(format!("{word:?} is not a level; {ALLOWED}")),
        }
    };
    text.split(',').try_fold(Targets::new(), |filter, part| {
        let Some((module, word)) = part.split_once('=') else { return Ok(filter.with_default(level(part)?)) };
        // What names no module would be no error, and turn nothing on.
        let names_a_module = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        if module.is_empty() || !module.bytes().all(names_a_module) {
            return Err(format!("{module:?} is not a module; {ALLOWED}"));
        }
        Ok(filter.with_target(module, level(word)?))
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct Probe {
        #[command(flatten)]
        serve: ServeArgs,
        #[command(flatten)]
        log: LogArgs,
    }

    fn settings(flags: &[&str], variables: &[(&str, &str)]) -> Result<(ServeSettings, LogSettings), String> {
        let arguments = ["teller"].iter().chain(flags);
        let probe = Probe::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let serve = probe.serve.resolve(&environment).map_err(|error| error.to_string())?;
        let log = probe.log.resolve(&environment).map_err(|error| error.to_string())?;
        Ok((serve, log))
    }

    #[test]
    fn without_flags_and_environment_the_defaults_hold() {
        let (serve, log) = settings(&[], &[]).expect("valid");
        assert_eq!(serve.listen.to_string(), "127.0.0.1:3000");
        assert_eq!(serve.location.directory(), Path::new("data/teller"));
        assert_eq!(serve.shards, None);
        assert_eq!(serve.http_threads, None);
        assert_eq!(serve.currency, Currency::USD);
        assert_eq!(serve.max_overdraft.minor_units(), 5000);
        assert!(!serve.bootstrap);
        assert_eq!(serve.idempotency_retention, Duration::from_secs(86_400));
        assert_eq!(serve.idempotency_keys_max, 4_000_000);
        assert_eq!(serve.generation_bytes_max, 33_554_432);
        assert_eq!(serve.snapshot_interval, Duration::from_secs(600));
        assert_eq!(serve.disk_reserve_bytes, 268_435_456);
        assert_eq!(
            (log.filter, log.format),
            (Targets::new().with_default(LevelFilter::INFO), LogFormat::Text)
        );
    }

    #[test]
    fn the_help_tells_the_defaults_that_hold() {
        let defaults = settings(&[], &[]).expect("valid");
        let mut told = 0;
        for argument in Probe::command().get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let Some((_, rest)) = help.split_once("[default: ") else {
                continue;
            };
            let value = rest.trim_end_matches(']');
            if !["shards", "http_threads"].contains(&argument.get_id().as_str()) {
                let flag = format!("--{}={value}", argument.get_long().expect("a long flag"));
                assert_eq!(settings(&[&flag], &[]).expect("valid"), defaults, "{flag}");
            }
            told += 1;
        }
        assert_eq!(told, 16);
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_an_empty_variable_counts_as_not_set() {
        let port = |flags: &[&str], value: &str| {
            let (serve, _) = settings(flags, &[("MZ_PORT", value)]).expect("valid");
            serve.listen.port()
        };
        assert_eq!(port(&[], "4000"), 4000);
        assert_eq!(port(&["--port=5000"], "4000"), 5000);
        assert_eq!(port(&["--port", "5000"], "nonsense"), 5000);
        assert_eq!(port(&[], ""), 3000);
    }

    #[test]
    fn every_variable_is_heeded() {
        let (serve, log) = settings(
            &[],
            &[
                ("MZ_HOST", "::1"),
                ("MZ_PORT", "0"),
                ("MZ_WORKERS", "1024"),
                ("MZ_DB_NAME", "b-1_x.y"),
                ("MZ_DATA_DIR", "/srv/x"),
                ("MZ_CURRENCY", "KWD"),
                ("MZ_MAX_OVERDRAFT", "-12.5"),
                ("MZ_BOOTSTRAP", "1"),
                ("MZ_LOG", "warn,teller=trace"),
            ],
        )
        .expect("valid");
        assert_eq!(serve.listen.to_string(), "[::1]:0");
        assert_eq!(serve.shards, Some(ShardsAsked { count: 1024, by: Setting::Variable("MZ_WORKERS") }));
        assert_eq!(serve.location.directory(), Path::new("/srv/x/b-1_x.y"));
        assert_eq!(serve.currency.code(), "KWD");
        assert_eq!(serve.max_overdraft.minor_units(), 12_500);
        assert!(serve.bootstrap);
        let filter = Targets::new().with_default(LevelFilter::WARN).with_target("teller", LevelFilter::TRACE);
        assert_eq!(log.filter, filter);
    }

    #[test]
    fn a_wrong_flag_says_which_why_and_what_is_allowed() {
        for (flag, told) in [
            ("--host=http://x", "without scheme and port"),
            ("--host=1.2.3", "must be an IP address"),
            ("--host=", "must be an IP address"),
            ("--port=65536", "from 0 to 65535"),
            ("--port=+80", "from 0 to 65535"),
            ("--port=-1", "from 0 to 65535"),
            ("--port=3000.0", "from 0 to 65535"),
            ("--port=99999999999999999999999", "from 0 to 65535"),
            ("--shards=0", "from 1 to 1024"),
            ("--shards=1025", "from 1 to 1024"),
            ("--http-threads=0", "from 1 to 256"),
            ("--http-threads=257", "from 1 to 256"),
            ("--cores=none", "split, shared"),
            ("--db-name=../x", "not starting with a dot"),
            ("--db-name=.x", "not starting with a dot"),
            ("--db-name=a/b", "not starting with a dot"),
            ("--currency=", "three capital letters such as USD"),
            ("--currency=usd", "three capital letters such as USD"),
            ("--currency=XAU", "must be the ISO 4217 code of a currency"),
            ("--max-overdraft=1.23456", "has more than 4 decimals; allowed is an amount such as 50.00"),
            ("--max-overdraft=1.234", "has more than 2 decimals; allowed is an amount such as 50.00"),
            ("--max-overdraft=fifty", "is not a decimal number"),
            ("--bootstrap=yes", "must be 1 or true, 0 or false"),
            ("--idempotency-hours=0", "from 1 to 720"),
            ("--idempotency-hours=721", "from 1 to 720"),
            ("--idempotency-keys-max=0", "from 1 to 4294967295"),
            ("--journal-mib=0", "from 1 to 1024"),
            ("--journal-mib=1025", "from 1 to 1024"),
            ("--snapshot-minutes=1441", "from 1 to 1440"),
            ("--disk-reserve-mib=1e3", "from 0 to 1073741824"),
            ("--log=inof", "\"inof\" is not a level; allowed are off"),
            ("--log=", "\"\" is not a level"),
            ("--log=3", "\"3\" is not a level"),
            ("--log=info,", "\"\" is not a level"),
            ("--log=teller=loud", "\"loud\" is not a level; allowed are off"),
            ("--log=teller", "\"teller\" is not a level"),
            ("--log=info, teller=debug", "\" teller\" is not a module; allowed are off"),
            ("--log==debug", "\"\" is not a module"),
            ("--log=a=b=info", "\"b=info\" is not a level"),
            ("--log-format=xml", "[possible values: text, json]"),
        ] {
            let error = settings(&[flag], &[]).expect_err(flag);
            let name = flag.split('=').next().expect("a name");
            assert!(error.contains(name) && error.contains(told), "{flag}: {error}");
        }
    }

    #[test]
    fn a_wrong_variable_says_which_why_and_what_is_allowed() {
        for (variable, value, told) in [
            ("MZ_HOST", "a b", "must be an IP address"),
            ("MZ_PORT", "http", "from 0 to 65535"),
            ("MZ_WORKERS", "many", "from 1 to 1024"),
            ("MZ_DB_NAME", "..", "not starting with a dot"),
            ("MZ_CURRENCY", "dollars", "must be the ISO 4217 code of a currency"),
            ("MZ_MAX_OVERDRAFT", "1.234", "has more than 2 decimals"),
            ("MZ_MAX_OVERDRAFT", "1,5", "is not a decimal number"),
            ("MZ_BOOTSTRAP", "on", "must be 1 or true, 0 or false"),
            ("MZ_LOG", "loud", "is not a level"),
        ] {
            let error = settings(&[], &[(variable, value)]).expect_err(variable);
            let start = format!("invalid value {value:?} for the environment variable {variable}: ");
            assert!(error.starts_with(&start) && error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_overdraft_limit_is_read_as_the_currency_of_accounts_writes_it() {
        let read = |currency: &str, limit: &str| {
            let flags = [format!("--currency={currency}"), format!("--max-overdraft={limit}")];
            let (by_flag, _) = settings(&[&flags[0], &flags[1]], &[])?;
            let variables = [("MZ_CURRENCY", currency), ("MZ_MAX_OVERDRAFT", limit)];
            let (by_variable, _) = settings(&[], &variables).expect("what the flags take");
            assert_eq!(by_flag, by_variable);
            Ok::<i128, String>(by_flag.max_overdraft.minor_units())
        };
        for (currency, limit, minor_units) in [
            ("USD", "50", 5000),
            ("JPY", "50", 50),
            ("JPY", "50.00", 50),
            ("KWD", "-1.234", 1234),
            ("CLF", "1.2345", 12_345),
        ] {
            assert_eq!(read(currency, limit), Ok(minor_units), "{limit} {currency}");
        }
        for (currency, limit, told) in [
            ("JPY", "50.50", "\"50.50\" for '--max-overdraft': has more than 0 decimals"),
            ("EUR", "1.234", "has more than 2 decimals; allowed is an amount such as 50.00 in EUR"),
        ] {
            let error = read(currency, limit).expect_err(limit);
            assert!(error.contains(told), "{error}");
        }
        for currency in Currency::ALL {
            let (serve, _) = settings(&[&format!("--currency={currency}")], &[]).expect("valid");
            let text = serve.max_overdraft.text(*currency).to_string();
            assert!(text.starts_with("50") && text[2..].bytes().all(|byte| b".0".contains(&byte)), "{text}");
            assert_eq!(serve.overdraft_default().for_currency(*currency), serve.max_overdraft);
        }
    }

    #[test]
    fn the_spellings_that_scripts_use_are_taken() {
        let overdraft = |flags: &[&str]| settings(flags, &[]).expect("valid").0.max_overdraft.minor_units();
        assert_eq!(overdraft(&["--max-overdraft", "-50.5"]), 5050);
        assert_eq!(overdraft(&["--max-overdraft=-50.5"]), 5050);
        for (flag, expected) in [("--bootstrap", true), ("--bootstrap=1", true), ("--bootstrap=0", false)] {
            assert_eq!(settings(&[flag], &[]).expect("valid").0.bootstrap, expected, "{flag}");
        }
        let host = |flag: &str| settings(&[flag], &[]).expect("valid").0.listen.to_string();
        assert_eq!(host("--host=[::1]"), "[::1]:3000");
        assert_eq!(host("--host=localhost"), "localhost:3000");
    }
}
