//! Counters for `/metrics`, in the text format of Prometheus. Atomics only: counting never waits.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
    /// All that have come.
    requests: AtomicU64,
    in_flight: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    streams: Arc<Streams>,
}

#[derive(Debug, Default)]
struct RouteMetrics {
    by_class: [AtomicU64; CLASSES],
    /// Each request is counted in one bucket; printing adds them up.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Metrics {
    pub(super) fn new(streams: Arc<Streams>) -> Metrics {
        Metrics {
            routes: (0..=ROUTES.len()).map(|_| RouteMetrics::default()).collect(),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            streams,
        }
    }

    /// Counts a request as being worked on until the guard is dropped, be it because the client went away.
    pub(super) fn enter(&self) -> Gauge<'_> {
        self.requests.fetch_add(1, Relaxed);
        Gauge::raise(&self.in_flight)
    }

    /// How many requests have come.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, route: Option<usize>, status: u16, took: Duration) {
        let route = &self.routes[route.unwrap_or(ROUTES.len())];
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        route.by_class[class].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|(end, _)| micros <= *end).unwrap_or(BUCKETS.len());
        route.buckets[bucket].fetch_add(1, Relaxed);
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
            for (class, count) in route.by_class.iter().enumerate() {
                let count = count.load(Relaxed);
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
            for (end, count) in ends.zip(&route.buckets) {
                sum += count.load(Relaxed);
                writeln!(out, "{name}_bucket{{route=\"{pattern}\",le=\"{end}\"}} {sum}")?;
            }
            let micros = route.micros.load(Relaxed);
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            writeln!(out, "{name}_sum{{route=\"{pattern}\"}} {seconds}.{fraction:06}")?;
            writeln!(out, "{name}_count{{route=\"{pattern}\"}} {sum}")?;
        }
        for (name, kind, value) in [
            ("teller_http_requests_in_flight", "gauge", &self.in_flight),
            ("teller_http_connections", "gauge", &self.connections),
            ("teller_http_connections_refused_total", "counter", &self.connections_refused),
            ("teller_http_streams", "gauge", &self.streams.open),
            ("teller_http_stream_events_total", "counter", &self.streams.events),
            ("teller_http_stream_readers_dropped_total", "counter", &self.streams.dropped),
        ] {
            writeln!(out, "# TYPE {name} {kind}\n{name} {}", value.load(Relaxed))?;
        }
        Ok(())
    }
}

impl RouteMetrics {
    fn count(&self) -> u64 {
        self.by_class.iter().map(|count| count.load(Relaxed)).sum()
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
        let _inside = metrics.enter();
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
    }
}
