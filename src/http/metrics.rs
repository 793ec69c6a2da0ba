//! Counters for `/metrics`, in the text format of Prometheus. Atomics only: counting never waits.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::routes::ROUTES;
use super::stream::Streams;
use crate::shard::figures::{COMMIT_MICROS_ENDS, ShardFigures};

/// Upper ends of the classes of how long requests take, in microseconds; above the last one is one more.
const REQUEST_MICROS_ENDS: [u64; 8] = [250, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000];

/// Status classes, 1xx to 5xx.
const CLASSES: usize = 5;

/// What is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    /// By place in the table of routes; behind them, requests that found no route.
    routes: Vec<RouteMetrics>,
    /// All requests that have come, and those that are done with: what is between them is in flight.
    requests: AtomicU64,
    ended: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    streams: Arc<Streams>,
}

#[derive(Debug, Default)]
struct RouteMetrics {
    /// By class of status, then by time: each request is counted in one place, and printing adds them up.
    counts: [[AtomicU64; REQUEST_MICROS_ENDS.len() + 1]; CLASSES],
    micros: AtomicU64,
}

/// What requests have taken just now of what there is for all of them together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Of the places of large batches.
    pub(super) large_batches: usize,
    /// Of the room of large replies, in bytes.
    pub(super) reply_bytes: usize,
    /// Of the places of readings of history.
    pub(super) history_readings: usize,
}

impl Metrics {
    pub(super) fn new(streams: Arc<Streams>) -> Metrics {
        Metrics {
            routes: (0..=ROUTES.len()).map(|_| RouteMetrics::default()).collect(),
            requests: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            streams,
        }
    }

    /// Counts a request as being worked on until the guard is dropped, be it because the client went away.
    pub(super) fn enter(&self) -> InFlight<'_> {
        self.requests.fetch_add(1, Relaxed);
        InFlight(&self.ended)
    }

    /// How many requests have come.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// How many of them are being worked on.
    pub(super) fn in_flight(&self) -> u64 {
        // In this order: what has come is never behind what has ended.
        let ended = self.ended.load(Acquire);
        self.requests() - ended
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, route: Option<usize>, status: u16, took: Duration) {
        let route = &self.routes[route.unwrap_or(ROUTES.len())];
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = REQUEST_MICROS_ENDS.partition_point(|end| *end < micros);
        route.counts[class][bucket].fetch_add(1, Relaxed);
        route.micros.fetch_add(micros, Relaxed);
    }

    /// Writes everything, with what there is to see of the shards; none until they have started. Routes that nobody has
    /// asked for are left out.
    pub(super) fn write(&self, taken: Taken, shards: &[ShardFigures], out: &mut String) -> fmt::Result {
        self.write_routes(out)?;
        let Taken { large_batches, reply_bytes, history_readings } = taken;
        for (name, kind, value, help) in [
            ("requests_in_flight", "gauge", self.in_flight(), "Requests that are being worked on."),
            ("connections", "gauge", self.connections.load(Relaxed), "Open connections."),
            (
                "connections_refused_total",
                "counter",
                self.connections_refused.load(Relaxed),
                "Connections for which there was no place.",
            ),
            (
                "large_batches",
                "gauge",
                large_batches as u64,
                "Batches that have one of the places of large ones.",
            ),
            (
                "large_reply_bytes",
                "gauge",
                reply_bytes as u64,
                "Bytes of the room of large replies that are taken, by what is read and by batches for their results.",
            ),
            (
                "history_readings",
                "gauge",
                history_readings as u64,
                "Readings of history that are under way or wait for a thread.",
            ),
            ("streams", "gauge", self.streams.open.load(Relaxed), "Streams of events that are being read."),
            (
                "stream_events_total",
                "counter",
                self.streams.events.load(Relaxed),
                "Events that were handed to readers of streams.",
            ),
            (
                "stream_readers_dropped_total",
                "counter",
                self.streams.dropped.load(Relaxed),
                "Readers of streams that were cut off for not making room in time for more.",
            ),
        ] {
            family(out, &format!("teller_http_{name}"), kind, help)?;
            writeln!(out, "teller_http_{name} {value}")?;
        }
        write_shards(shards, out)
    }

    fn write_routes(&self, out: &mut String) -> fmt::Result {
        let routes = || {
            let patterns = ROUTES.iter().map(|route| route.pattern).chain(["none"]);
            patterns.zip(&self.routes).filter(|(_, route)| route.count() > 0)
        };
        let name = "teller_http_requests_total";
        family(out, name, "counter", "Requests that were answered, by route and class of status.")?;
        for (pattern, route) in routes() {
            for class in 0..CLASSES {
                let count = route.of_class(class);
                if count > 0 {
                    writeln!(out, "{name}{{route=\"{pattern}\",status=\"{}xx\"}} {count}", class + 1)?;
                }
            }
        }
        let name = "teller_http_request_seconds";
        family(out, name, "histogram", "How long requests took, from the end of the head to the reply.")?;
        for (pattern, route) in routes() {
            let in_bucket =
                |bucket: usize| route.counts.iter().map(|class| class[bucket].load(Relaxed)).sum();
            let counts = (0..=REQUEST_MICROS_ENDS.len()).map(in_bucket);
            let label = format!("route=\"{pattern}\"");
            histogram(out, name, &label, &REQUEST_MICROS_ENDS, counts, route.micros.load(Relaxed))?;
        }
        Ok(())
    }
}

fn write_shards(shards: &[ShardFigures], out: &mut String) -> fmt::Result {
    /// What is one number of a shard: name, kind, value, help.
    type Single = (&'static str, &'static str, fn(&ShardFigures) -> u64, &'static str);
    const SINGLES: [Single; 8] = [
        (
            "requests_waiting",
            "gauge",
            |shard| shard.requests_waiting as u64,
            "Requests in the shard's inbox.",
        ),
        ("events_total", "counter", |shard| shard.durable.get(), "Events in the shard's log, all durable."),
        (
            "refuses_changes",
            "gauge",
            |shard| shard.refuses_changes.into(),
            "1 while the disk, the log's next file, or what waits to be compacted leaves no room for changes; else 0.",
        ),
        (
            "generations_waiting",
            "gauge",
            |shard| shard.generations_waiting as u64,
            "Sealed generations of the journal that wait to be compacted; many slow batches down.",
        ),
        (
            "snapshot_timestamp_seconds",
            "gauge",
            |shard| shard.snapshot_secs,
            "When the newest snapshot was written, in seconds since 1970; 0 before the first. Old is only worth an alarm \
             while generations wait.",
        ),
        (
            "idempotency_keys",
            "gauge",
            |shard| shard.keys as u64,
            "Idempotency keys that the shard remembers, with expired ones until changes displace them.",
        ),
        (
            "idempotency_keys_max",
            "gauge",
            |shard| shard.keys_max as u64,
            "Idempotency keys that the shard remembers at most; then requests with new ones are refused.",
        ),
        ("commit_bytes_total", "counter", |shard| shard.commits.bytes, "Bytes of records made durable."),
    ];
    if shards.is_empty() {
        return Ok(());
    }
    for (name, kind, value, help) in SINGLES {
        family(out, &format!("teller_shard_{name}"), kind, help)?;
        for (id, shard) in shards.iter().enumerate() {
            writeln!(out, "teller_shard_{name}{{shard=\"{id}\"}} {}", value(shard))?;
        }
    }
    let name = "teller_shard_commit_seconds";
    family(out, name, "histogram", "How long group commits took: everything in one is durable at its end.")?;
    for (id, ShardFigures { commits, .. }) in shards.iter().enumerate() {
        let label = format!("shard=\"{id}\"");
        histogram(out, name, &label, &COMMIT_MICROS_ENDS, commits.classes.into_iter(), commits.micros)?;
    }
    Ok(())
}

/// Begins a family of samples.
fn family(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// Writes one histogram of times: how many there are up to each end, and above the last one.
fn histogram(
    out: &mut String,
    name: &str,
    label: &str,
    ends: &[u64],
    counts: impl Iterator<Item = u64>,
    micros: u64,
) -> fmt::Result {
    let ends = ends.iter().map(|end| Seconds(*end).to_string()).chain(["+Inf".to_owned()]);
    let mut sum = 0;
    for (end, count) in ends.zip(counts) {
        sum += count;
        writeln!(out, "{name}_bucket{{{label},le=\"{end}\"}} {sum}")?;
    }
    writeln!(out, "{name}_sum{{{label}}} {}\n{name}_count{{{label}}} {sum}", Seconds(micros))
}

/// So many microseconds, as a number of seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl RouteMetrics {
    fn of_class(&self, class: usize) -> u64 {
        self.counts[class].iter().map(|count| count.load(Relaxed)).sum()
    }

    fn count(&self) -> u64 {
        (0..CLASSES).map(|class| self.of_class(class)).sum()
    }
}

/// A request that is being worked on for as long as this lives.
pub(super) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

/// Something that is counted for as long as this lives.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn raise(gauge: &'a AtomicU64) -> Gauge<'a> {
        gauge.fetch_add(1, Relaxed);
        Gauge(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Sequence;
    use crate::shard::figures::CommitFigures;

    #[test]
    fn requests_are_counted_by_route_class_and_time() {
        let metrics = Metrics::new(Arc::default());
        let inside = metrics.enter();
        assert_eq!(metrics.requests(), 1);
        metrics.answered(Some(0), 201, Duration::from_micros(250));
        metrics.answered(Some(0), 201, Duration::from_micros(1500));
        metrics.answered(None, 404, Duration::from_secs(60));
        let mut text = String::new();
        metrics.write(Taken::default(), &[], &mut text).unwrap();
        for line in [
            "teller_http_requests_total{route=\"/accounts\",status=\"2xx\"} 2\n",
            "teller_http_requests_total{route=\"none\",status=\"4xx\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"0.00025\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"0.001\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"+Inf\"} 2\n",
            "teller_http_request_seconds_sum{route=\"/accounts\"} 0.00175\n",
            "teller_http_request_seconds_bucket{route=\"none\",le=\"10\"} 0\n",
            "teller_http_request_seconds_count{route=\"none\"} 1\n",
            "teller_http_requests_in_flight 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(inside);
        text.clear();
        metrics.write(Taken::default(), &[], &mut text).unwrap();
        assert!(text.contains("teller_http_requests_in_flight 0\n"), "{text}");
        assert!(!text.contains("teller_shard_"), "before they have started there are no shards");
    }

    #[test]
    fn what_there_is_to_see_of_each_shard_is_told() {
        let idle = ShardFigures {
            requests_waiting: 0,
            durable: Sequence::NONE,
            refuses_changes: false,
            generations_waiting: 0,
            snapshot_secs: 0,
            keys: 0,
            keys_max: 7,
            commits: CommitFigures::default(),
        };
        let mut busy = ShardFigures {
            requests_waiting: 3,
            durable: Sequence::new(12).expect("in range"),
            refuses_changes: true,
            generations_waiting: 2,
            snapshot_secs: 1_763_800_000,
            keys: 5,
            keys_max: 7,
            commits: CommitFigures { micros: 1_500_000, bytes: 4096, ..idle.commits },
        };
        (busy.commits.classes[1], busy.commits.classes[9]) = (5, 1);
        let mut text = String::new();
        let taken = Taken { large_batches: 3, reply_bytes: 4096, history_readings: 5 };
        Metrics::new(Arc::default()).write(taken, &[idle, busy], &mut text).unwrap();
        for line in [
            "teller_http_large_batches 3\n",
            "teller_http_large_reply_bytes 4096\n",
            "teller_http_history_readings 5\n",
            "# TYPE teller_shard_requests_waiting gauge\n",
            "teller_shard_requests_waiting{shard=\"0\"} 0\n",
            "teller_shard_requests_waiting{shard=\"1\"} 3\n",
            "teller_shard_events_total{shard=\"1\"} 12\n",
            "teller_shard_refuses_changes{shard=\"0\"} 0\n",
            "teller_shard_refuses_changes{shard=\"1\"} 1\n",
            "teller_shard_generations_waiting{shard=\"1\"} 2\n",
            "# TYPE teller_shard_snapshot_timestamp_seconds gauge\n",
            "teller_shard_snapshot_timestamp_seconds{shard=\"0\"} 0\n",
            "teller_shard_snapshot_timestamp_seconds{shard=\"1\"} 1763800000\n",
            "# TYPE teller_shard_idempotency_keys gauge\n",
            "teller_shard_idempotency_keys{shard=\"0\"} 0\n",
            "teller_shard_idempotency_keys{shard=\"1\"} 5\n",
            "teller_shard_idempotency_keys_max{shard=\"1\"} 7\n",
            "teller_shard_commit_bytes_total{shard=\"1\"} 4096\n",
            "teller_shard_commit_seconds_bucket{shard=\"1\",le=\"0.0001\"} 0\n",
            "teller_shard_commit_seconds_bucket{shard=\"1\",le=\"0.00025\"} 5\n",
            "teller_shard_commit_seconds_bucket{shard=\"1\",le=\"10\"} 5\n",
            "teller_shard_commit_seconds_bucket{shard=\"1\",le=\"+Inf\"} 6\n",
            "teller_shard_commit_seconds_sum{shard=\"1\"} 1.5\n",
            "teller_shard_commit_seconds_count{shard=\"1\"} 6\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let family = line.split(['{', ' ']).next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| family.strip_suffix(end))
                .unwrap_or(family);
            assert!(text.contains(&format!("# HELP {family} ")), "{line}");
        }
    }
}
