//! What a bench prints: a table for people, or one JSON object for programs. The help text of `bench` documents the
//! members of that object; a name once given keeps its meaning.
//!
//! No float is used: ratios are counted in thousandths.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::num::NonZeroU64;
use std::time::Duration;

use indicatif::HumanCount;
use serde::{Serialize, Serializer};

use super::generator::{Measured, Totals};
use super::load::Spec;
use super::machine::Conditions;
use super::pairs::{self, Pair};

/// A ratio, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ratio(u64);

impl Ratio {
    /// `part` to `whole`. To nothing there is none: as 0 it would pass every bar that says "at most".
    pub(super) fn of(part: u128, whole: u128) -> Option<Ratio> {
        let thousandths = (part * 1000 + whole / 2).checked_div(whole)?;
        Some(Ratio(u64::try_from(thousandths).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Read as a number again by serde_json, which prints the shortest text that means it.
        let number: serde_json::Number = self.to_string().parse().map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

/// The median of some ratios, and how far they lie apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: Ratio,
    pub(super) lowest: Ratio,
    pub(super) highest: Ratio,
}

impl Spread {
    /// Of at least one ratio. With one missing there is none: the others are not what was measured.
    pub(super) fn of(ratios: impl IntoIterator<Item = Option<Ratio>>) -> Option<Spread> {
        let mut ratios: Vec<Ratio> = ratios.into_iter().collect::<Option<_>>()?;
        ratios.sort_unstable();
        Some(Spread {
            median: Ratio(median_or_mean(ratios.iter().map(|ratio| ratio.0))),
            lowest: *ratios.first().expect("there is a round"),
            highest: *ratios.last().expect("there is a round"),
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} to {})", self.median, self.lowest, self.highest)
    }
}

/// What there may be none of.
fn or_none(what: &Option<impl fmt::Display>) -> String {
    what.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// The middle one; of two in the middle their mean. The lower one would be in favour of whatever is better low, such as
/// a latency, and against what is better high.
pub(super) fn median_or_mean(values: impl IntoIterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = values.into_iter().collect();
    sorted.sort_unstable();
    let (lower, higher) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    lower + (higher - lower).div_ceil(2)
}

/// The middle one; of two in the middle the lower one, for what has no mean or needs none.
pub(super) fn median<T: Copy + Ord>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
}

/// Latencies, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
    pub(super) max: u64,
}

/// One round of one side.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Round {
    pub(super) per_second: u64,
    /// How many requests the latencies are of.
    pub(super) requests: u64,
    pub(super) latency_ns: Latencies,
    /// Of an open loop, and 0 otherwise: requests that were due and never sent; that the generator sent late, or never
    /// though it could have.
    pub(super) unsent: u64,
    pub(super) late: u64,
    #[serde(flatten)]
    pub(super) machine: Conditions,
}

impl Round {
    pub(super) fn of(measured: &Measured, machine: Conditions) -> Round {
        let ns = |latency: Duration| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let latencies = &measured.latencies;
        Round {
            per_second: measured.per_second(),
            requests: latencies.count(),
            latency_ns: Latencies {
                p50: ns(latencies.percentile(5_000)),
                p90: ns(latencies.percentile(9_000)),
                p99: ns(latencies.percentile(9_900)),
                p99_9: ns(latencies.percentile(9_990)),
                max: ns(latencies.max()),
            },
            unsent: measured.unsent,
            late: measured.late,
            machine,
        }
    }
}

/// One of the things that were measured in turn.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) settings: Spec,
    pub(super) per_second: u64,
    pub(super) latency_ns: Latencies,
    pub(super) rounds: Vec<Round>,
    /// All that was acknowledged, what did not count included.
    pub(super) totals: Totals,
    pub(super) errors: BTreeMap<String, u64>,
}

impl Side {
    /// The medians of the rounds; the longest latency of all.
    pub(super) fn summarise(rounds: &[Round]) -> (u64, Latencies) {
        let of = |pick: fn(&Round) -> u64| median_or_mean(rounds.iter().map(pick));
        let latencies = Latencies {
            p50: of(|round| round.latency_ns.p50),
            p90: of(|round| round.latency_ns.p90),
            p99: of(|round| round.latency_ns.p99),
            p99_9: of(|round| round.latency_ns.p99_9),
            max: rounds.iter().map(|round| round.latency_ns.max).max().unwrap_or_default(),
        };
        (of(|round| round.per_second), latencies)
    }
}

/// The first side beside another.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) with: String,
    #[serde(flatten)]
    pub(super) ratios: Ratios,
    pub(super) pairs: PairCounts,
    /// The alike pairs, by how far the cores were apart; none where that cannot be measured.
    pub(super) by_cores_apart: Vec<Group>,
}

/// How many pairs of rounds a comparison has.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PairCounts {
    pub(super) asked: usize,
    pub(super) measured: usize,
    pub(super) alike: usize,
    /// How many the ratios are of: the alike ones; all where fewer than half of what was asked for are.
    pub(super) counted: usize,
}

/// The pairs in one state of the machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Group {
    pub(super) cores_apart_ns: NonZeroU64,
    pub(super) pairs: usize,
    #[serde(flatten)]
    pub(super) ratios: Ratios,
}

/// What one side has to what the other has, over some pairs of rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Ratios {
    pub(super) throughput_ratio: Option<Spread>,
    pub(super) p99_ratio: Option<Spread>,
}

impl Comparison {
    pub(super) fn of(first: &Side, other: &Side, asked: usize) -> Comparison {
        let all: Vec<Pair<'_>> = pairs::pairs(&first.rounds, &other.rounds).collect();
        let alike: Vec<Pair<'_>> = all.iter().copied().filter(Pair::is_alike).collect();
        let counted = if pairs::are_too_few(alike.len(), asked) { &all } else { &alike };
        let group = |(cores_apart_ns, pairs): (NonZeroU64, Vec<Pair<'_>>)| Group {
            cores_apart_ns,
            pairs: pairs.len(),
            ratios: Ratios::of(&pairs),
        };
        Comparison {
            with: other.name.clone(),
            ratios: Ratios::of(counted),
            pairs: PairCounts { asked, measured: all.len(), alike: alike.len(), counted: counted.len() },
            by_cores_apart: pairs::by_cores_apart(&alike).into_iter().map(group).collect(),
        }
    }
}

impl Ratios {
    fn of(pairs: &[Pair<'_>]) -> Ratios {
        let of = |pick: fn(&Round) -> u64| Spread::of(pairs.iter().map(|pair| pair.ratio(pick)));
        Ratios { throughput_ratio: of(|round| round.per_second), p99_ratio: of(|round| round.latency_ns.p99) }
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "throughput {}, p99 {}", or_none(&self.throughput_ratio), or_none(&self.p99_ratio))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PairCounts { measured, alike, counted, .. } = self.pairs;
        writeln!(f, "{}: {}", self.with, self.ratios)?;
        write!(f, "  the machine was alike in {alike} of {measured} pairs of rounds")?;
        match counted == alike {
            true => writeln!(f),
            false => {
                writeln!(f, ", too few: ALL COUNT, and these ratios say as much about it as about the sides")
            }
        }?;
        if self.by_cores_apart.len() > 1 {
            for Group { cores_apart_ns, pairs, ratios } in &self.by_cores_apart {
                let s = if *pairs == 1 { "" } else { "s" };
                writeln!(f, "  cores {cores_apart_ns} ns apart: {ratios}, {pairs} pair{s}")?;
            }
        }
        Ok(())
    }
}

/// All of a load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LoadReport {
    pub(super) row: &'static str,
    pub(super) seed: u64,
    pub(super) duration_ms: u64,
    pub(super) sides: Vec<Side>,
    pub(super) comparisons: Vec<Comparison>,
}

impl LoadReport {
    /// How many replies were not as they should be, by the side and by what was wrong.
    pub(super) fn wrong_replies(&self) -> impl Iterator<Item = (String, u64)> {
        let of = |side: &Side, (what, count): (&String, &u64)| (format!("{}: {what}", side.name), *count);
        self.sides.iter().flat_map(move |side| side.errors.iter().map(move |error| of(side, error)))
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.sides[0];
        let Spec { accounts, connections, shards, .. } = first.settings;
        writeln!(
            f,
            "{}: {} accounts, {connections} connections, {shards} shard{}; {} rounds of {} ms, medians; seed {}\n",
            self.row,
            HumanCount(accounts),
            if shards == 1 { "" } else { "s" },
            first.rounds.len(),
            self.duration_ms,
            self.seed,
        )?;
        let mut table = Table::new(&["", "a second", "of", "p50", "p90", "p99", "p99.9", "max", "errors"]);
        for side in &self.sides {
            let Latencies { p50, p90, p99, p99_9, max } = side.latency_ns;
            let mut row = vec![side.name.clone(), HumanCount(side.per_second).to_string(), side.unit.into()];
            row.extend([p50, p90, p99, p99_9, max].map(time));
            row.push(HumanCount(side.errors.values().sum()).to_string());
            table.row(row);
        }
        write!(f, "{table}")?;
        for comparison in &self.comparisons {
            write!(f, "\n{} / {comparison}", first.name)?;
        }
        for (what, count) in self.wrong_replies() {
            writeln!(f, "\n{what}: {}", HumanCount(count))?;
        }
        for side in &self.sides {
            let sum = |pick: fn(&Round) -> u64| side.rounds.iter().map(pick).sum::<u64>();
            let (unsent, late) = (sum(|round| round.unsent), sum(|round| round.late));
            let requests = sum(|round| round.requests);
            if unsent * UNSENT_OR_LATE_SHARE > requests {
                writeln!(
                    f,
                    "\n{}: {} requests were due and never sent: it did not keep up with the rate",
                    side.name,
                    HumanCount(unsent)
                )?;
            }
            if late * UNSENT_OR_LATE_SHARE > requests {
                writeln!(
                    f,
                    "\n{}: the generator sent {} requests late or never: it could not keep up itself, so the latencies say \
                     too much; lower --rate, or give it --threads",
                    side.name,
                    HumanCount(late)
                )?;
            }
        }
        Ok(())
    }
}

/// One request in so many that was never sent is the server's failure, one that was late the generator's. Fewer are due
/// in the last moment of a round.
const UNSENT_OR_LATE_SHARE: u64 = 100;

/// A time as people read it.
pub(super) fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} us", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// A table whose columns are as wide as they have to be; the first is aligned to the left.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&str]) -> Table {
        Table { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(line, "  {cell:>width$}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A figure of a row that is no load.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// The name in JSON, which says the unit.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: Value,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Count(u64),
    Bytes(u64),
    Nanoseconds(u64),
    Ratio(Option<Ratio>),
    Ratios(Option<Spread>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{}", HumanCount(*count)),
            Value::Bytes(bytes) if *bytes < 10_000 => write!(f, "{bytes} B"),
            Value::Bytes(bytes) => write!(f, "{} MiB", or_none(&Ratio::of((*bytes).into(), 1 << 20))),
            Value::Nanoseconds(ns) => f.write_str(&time(*ns)),
            Value::Ratio(ratio) => f.write_str(&or_none(ratio)),
            Value::Ratios(spread) => f.write_str(&or_none(spread)),
        }
    }
}

/// All of a row that is no load.
#[derive(Clone, Debug)]
pub(super) struct FiguresReport {
    pub(super) row: &'static str,
    pub(super) figures: Vec<Figure>,
}

impl Serialize for FiguresReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(self.figures.len() + 1))?;
        map.serialize_entry("row", self.row)?;
        for figure in &self.figures {
            map.serialize_entry(figure.name, &figure.value)?;
        }
        map.end()
    }
}

impl fmt::Display for FiguresReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.figures.iter().map(|figure| figure.label.len()).max().unwrap_or(0);
        writeln!(f, "{}\n", self.row)?;
        for Figure { label, value, .. } in &self.figures {
            writeln!(f, "{label:<width$}  {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_rounded_to_thousandths_and_printed_as_numbers() {
        assert_eq!(or_none(&Ratio::of(2, 3)), "0.667");
        let spread = Spread::of([Ratio::of(1, 1), Ratio::of(3, 2), Ratio::of(1, 8), Ratio::of(0, 1)]);
        assert_eq!(or_none(&spread), "0.563 (0.000 to 1.500)");
        let json = serde_json::to_string(&spread).expect("JSON");
        assert_eq!(json, r#"{"median":0.563,"lowest":0.0,"highest":1.5}"#);
    }

    /// A reference that had answered nothing was 0 times as slow, which every bar let through.
    #[test]
    fn to_nothing_there_is_no_ratio_and_with_one_missing_no_spread() {
        assert_eq!(Ratio::of(7, 0), None);
        let spread = Spread::of([Ratio::of(1, 1), Ratio::of(7, 0)]);
        assert_eq!(or_none(&spread), "none");
        assert_eq!(serde_json::to_string(&Value::Ratios(spread)).expect("JSON"), "null");
    }

    /// Of 24 rounds, as many as there are by default, the median of a latency was the lower and better one of two.
    #[test]
    fn of_two_in_the_middle_the_median_is_their_mean() {
        assert_eq!(median_or_mean([30, 10, 20]), 20);
        assert_eq!(median_or_mean([40, 10, 30, 20]), 25);
        assert_eq!(median_or_mean([u64::MAX, u64::MAX - 1]), u64::MAX);
        let p99 = [Ratio::of(1, 1), Ratio::of(3, 1), Ratio::of(2, 1), Ratio::of(9, 1)];
        assert_eq!(or_none(&Spread::of(p99)), "2.500 (1.000 to 9.000)");
    }

    /// A side whose rounds have these throughputs, with the cores so far apart.
    fn side(name: &str, rounds: &[(u64, u64)]) -> Side {
        let latency_ns = Latencies { p50: 1, p90: 2, p99: 3, p99_9: 4, max: 5 };
        let round = |(per_second, apart): &(u64, u64)| Round {
            per_second: *per_second,
            requests: 1,
            latency_ns,
            unsent: 0,
            late: 0,
            machine: Conditions { cores_apart_ns: [NonZeroU64::new(*apart); 2], stolen: Ratio::of(1, 50) },
        };
        let shape = crate::cli::bench::load::Shape::default();
        let spec = Spec::new(crate::cli::bench::load::Workload::Deposit, &shape, 1).expect("valid");
        Side {
            name: name.into(),
            unit: "deposits",
            settings: spec,
            per_second: 1,
            latency_ns,
            rounds: rounds.iter().map(round).collect(),
            totals: Totals::default(),
            errors: BTreeMap::new(),
        }
    }

    #[test]
    fn a_comparison_is_of_alike_pairs_and_shows_each_state_of_the_machine() {
        let first = side("teller", &[(60, 50), (90, 55), (80, 480), (99, 50), (70, 470)]);
        let other = side("bare", &[(100, 50), (100, 50), (100, 470), (1, 480), (100, 500)]);
        let comparison = Comparison::of(&first, &other, 4);
        assert_eq!(
            comparison.to_string(),
            "bare: throughput 0.750 (0.600 to 0.900), p99 1.000 (1.000 to 1.000)\n  \
             the machine was alike in 4 of 5 pairs of rounds\n  \
             cores 50 ns apart: throughput 0.750 (0.600 to 0.900), p99 1.000 (1.000 to 1.000), 2 pairs\n  \
             cores 470 ns apart: throughput 0.750 (0.700 to 0.800), p99 1.000 (1.000 to 1.000), 2 pairs\n"
        );
        let json = serde_json::to_value(&comparison).expect("JSON");
        let pairs = serde_json::json!({"asked": 4, "measured": 5, "alike": 4, "counted": 4});
        assert_eq!(json["pairs"], pairs);
        assert_eq!(json["by_cores_apart"][1]["cores_apart_ns"], 470);
        let round = serde_json::to_value(first.rounds[0]).expect("JSON");
        assert_eq!(
            (&round["cores_apart_ns"], &round["stolen"]),
            (&serde_json::json!([50, 50]), &0.02.into())
        );
    }

    #[test]
    fn where_few_pairs_are_alike_all_count_and_that_is_told() {
        let first = side("teller", &[(60, 50), (90, 480), (80, 480)]);
        let other = side("bare", &[(100, 50), (100, 50), (100, 50)]);
        let comparison = Comparison::of(&first, &other, 3);
        let PairCounts { alike, counted, .. } = comparison.pairs;
        assert_eq!((alike, counted), (1, 3));
        let text = comparison.to_string();
        assert!(text.starts_with("bare: throughput 0.800 (0.600 to 0.900)"), "{text}");
        assert!(text.contains("alike in 1 of 3 pairs of rounds, too few: ALL COUNT"), "{text}");
    }

    /// One request that was due in the last microsecond made a server one that does not keep up.
    #[test]
    fn a_rate_that_was_not_kept_is_told_from_one_request_in_a_hundred_on() {
        for (unsent, late, told) in [(1, 1, [false, false]), (2, 1, [true, false]), (1, 2, [false, true])] {
            let mut side = side("teller", &[(60, 50)]);
            side.rounds[0] = Round { requests: 100, unsent, late, ..side.rounds[0] };
            let report = LoadReport {
                row: "deposit",
                seed: 1,
                duration_ms: 1,
                sides: vec![side],
                comparisons: vec![],
            };
            let text = report.to_string();
            let found =
                ["did not keep up with the rate", "could not keep up itself"].map(|why| text.contains(why));
            assert_eq!(found, told, "{text}");
        }
    }

    #[test]
    fn times_have_at_least_two_digits() {
        let times = [9_999, 10_000, 9_999_999, 10_000_000, 10_000_000_000].map(time);
        assert_eq!(times, ["9999 ns", "10 us", "9999 us", "10 ms", "10 s"]);
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["", "x", "long head"]);
        table.row(vec!["name".into(), "1,000".into(), String::new()]);
        assert_eq!(table.to_string(), "          x  long head\nname  1,000\n");
    }
}
