//! Progress of long work: a bar on a terminal, a log line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often work that is not watched on a terminal says how far it is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How far some long work is. Shared by the threads that do it.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: Option<u64>,
    bar: ProgressBar,
    started: Instant,
    done: AtomicU64,
    /// When the next log line is due, in milliseconds after `started`.
    next_line_ms: AtomicU64,
}

impl Progress {
    /// Progress of `what`, counted in `unit` ("records", say), of a total if that is known.
    pub fn new(what: &'static str, unit: &'static str, total: Option<u64>) -> Progress {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let template = match total {
            Some(_) => "{prefix} {bar:30} {human_pos}/{human_len} {msg} eta {eta}",
            None => "{prefix} {spinner} {human_pos} {msg} {elapsed}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        bar.set_prefix(what);
        bar.set_message(unit);
        Progress {
            what,
            unit,
            total,
            bar,
            started: Instant::now(),
            done: AtomicU64::new(0),
            next_line_ms: AtomicU64::new(LOG_INTERVAL.as_millis() as u64),
        }
    }

    /// `count` more is done.
    pub fn add(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        if std::io::stderr().is_terminal() {
            self.bar.set_position(done);
            return;
        }
        let elapsed_ms = self.started.elapsed().as_millis() as u64;
        let due = self.next_line_ms.load(Ordering::Relaxed);
        let next = elapsed_ms + LOG_INTERVAL.as_millis() as u64;
        let won =
            |due| self.next_line_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if elapsed_ms >= due && won(due) {
            tracing::info!(done, total = self.total, unit = self.unit, "{}", self.what);
        }
    }

    /// How much is done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// For how long the work has been going on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The work is over: the bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
