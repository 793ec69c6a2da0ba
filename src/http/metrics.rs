//! Counters for `/metrics`, in the text format of Prometheus. Atomics only: counting never waits.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::routes::ROUTES;
use super::stream::Streams;

/// Upper ends of the latency buckets, in microseconds, and how Prometheus spells them in seconds.
const BUCKETS: [(u64, &str); 8] = [
    (250, "0.00025"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (10_000, "0.01"),
    (50_000, "0.05"),
    (250_000, "0.25"),
    (1_000_000, "1"),
    (10_000_000, "10"),
];

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
    counts: [[AtomicU64; BUCKETS.len() + 1]; CLASSES],
    micros: AtomicU64,
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
        let bucket = BUCKETS.iter().position(|(end, _)| micros <= *end).unwrap_or(BUCKETS.len());
        route.counts[class][bucket].fetch_add(1, Relaxed);
        route.micros.fetch_add(micros, Relaxed);
    }

    /// Writes everything; routes that nobody has asked for are left out.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let routes = || {
            let patterns = ROUTES.iter().map(|route| route.pattern).chain(["none"]);
            patterns.zip(&self.routes).filter(|(_, route)| route.count() > 0)
        };
        out.write_str("# TYPE teller_http_requests_total counter\n")?;
        for (pattern, route) in routes() {
            for class in 0..CLASSES {
                let count = route.of_class(class);
                if count > 0 {
                    writeln!(
                        out,
                        "teller_http_requests_total{{route=\"{pattern}\",status=\"{}xx\"}} {count}",
                        class + 1
                    )?;
                }
            }
        }
        out.write_str("# TYPE teller_http_request_seconds histogram\n")?;
        let name = "teller_http_request_seconds";
        for (pattern, route) in routes() {
            let mut sum = 0;
            let ends = BUCKETS.iter().map(|(_, end)| *end).chain(["+Inf"]);
            for (bucket, end) in ends.enumerate() {
                sum += route.counts.iter().map(|class| class[bucket].load(Relaxed)).sum::<u64>();
                writeln!(out, "{name}_bucket{{route=\"{pattern}\",le=\"{end}\"}} {sum}")?;
            }
            let micros = route.micros.load(Relaxed);
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            writeln!(out, "{name}_sum{{route=\"{pattern}\"}} {seconds}.{fraction:06}")?;
            writeln!(out, "{name}_count{{route=\"{pattern}\"}} {sum}")?;
        }
        for (name, kind, value) in [
            ("teller_http_requests_in_flight", "gauge", self.in_flight()),
            ("teller_http_connections", "gauge", self.connections.load(Relaxed)),
            ("teller_http_connections_refused_total", "counter", self.connections_refused.load(Relaxed)),
            ("teller_http_streams", "gauge", self.streams.open.load(Relaxed)),
            ("teller_http_stream_events_total", "counter", self.streams.events.load(Relaxed)),
            ("teller_http_stream_readers_dropped_total", "counter", self.streams.dropped.load(Relaxed)),
        ] {
            writeln!(out, "# TYPE {name} {kind}\n{name} {value}")?;
        }
        Ok(())
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

    #[test]
    fn requests_are_counted_by_route_class_and_time() {
        let metrics = Metrics::new(Arc::default());
        let inside = metrics.enter();
        assert_eq!(metrics.requests(), 1);
        metrics.answered(Some(0), 201, Duration::from_micros(250));
        metrics.answered(Some(0), 201, Duration::from_micros(1500));
        metrics.answered(None, 404, Duration::from_secs(60));
        let mut text = String::new();
        metrics.write(&mut text).unwrap();
        for line in [
            "teller_http_requests_total{route=\"/accounts\",status=\"2xx\"} 2\n",
            "teller_http_requests_total{route=\"none\",status=\"4xx\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"0.00025\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"0.001\"} 1\n",
            "teller_http_request_seconds_bucket{route=\"/accounts\",le=\"+Inf\"} 2\n",
            "teller_http_request_seconds_sum{route=\"/accounts\"} 0.001750\n",
            "teller_http_request_seconds_bucket{route=\"none\",le=\"10\"} 0\n",
            "teller_http_request_seconds_count{route=\"none\"} 1\n",
            "teller_http_requests_in_flight 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(inside);
        text.clear();
        metrics.write(&mut text).unwrap();
        assert!(text.contains("teller_http_requests_in_flight 0\n"), "{text}");
    }
}
