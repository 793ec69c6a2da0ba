//! The brake on batches: it has them wait for compaction when that falls behind.
//!
//! What the log has sealed takes 40 MB of memory a generation until compaction has turned it into snapshot and archive.
//! Single requests do not outrun that, but batches do: a transfer costs less to execute than to compact. So each batch
//! pays for the bytes that it adds to the log, in time: the next one begins when they are paid, in the order in which
//! they came (a virtual queue: the *generic cell rate algorithm* of ITU-T I.371). While few generations wait the price
//! is nothing; then every other one doubles it. So batches settle at the pace of compaction, whatever that is on this
//! disk, with these shards and clients, and do not run until everyone is refused.
//!
//! What always holds:
//!
//! - only batches wait, and before anything of them is done; single requests pass them;
//! - a batch waits for [`WAIT_MAX`] at most, and is refused at once if that would not do. While it waits it has a
//!   connection, as any request does, and how many there are of those bounds how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Refusal;

/// How many generations of a shard may wait at no price.
const GENERATIONS_FREE: usize = 8;

/// The price of the first generation more: 100 MB a second, some two million transfers.
const PRICE_MIN: u64 = 10;

/// What is less than a timer can tell is not waited for; it is paid all the same.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How long a batch waits at most. Also the most that one pays.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The brake. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// What a byte costs, in nanoseconds.
    price: AtomicU64,
    queue: Mutex<Queue>,
}

/// The queue of those who pay; it is no more than the time at which the last one has paid.
#[derive(Debug, Default)]
struct Queue {
    paid: Option<Instant>,
}

impl Brake {
    /// Says how many generations wait in the shard that has most.
    pub fn set(&self, generations_waiting: usize) {
        self.0.price.store(price(generations_waiting), Ordering::Relaxed);
    }

    /// Whether a batch pays anything.
    #[cfg(test)]
    pub(crate) fn is_on(&self) -> bool {
        self.0.price.load(Ordering::Relaxed) > 0
    }

    /// Waits until so many bytes may be added to the log.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] at once if that would take too long.
    pub(super) async fn wait(&self, bytes: usize) -> Result<(), Refusal> {
        let price = self.0.price.load(Ordering::Relaxed);
        if price == 0 {
            return Ok(());
        }
        let wait = self.0.queue.lock().join(Instant::now(), Duration::from_nanos(price * bytes as u64));
        match wait {
            Some(wait) if wait < WAIT_MIN => Ok(()),
            Some(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(Refusal::Overloaded),
        }
    }
}

impl Queue {
    /// Has who pays `cost` join the queue, and says for how long they wait; `None` if they are sent away.
    fn join(&mut self, now: Instant, cost: Duration) -> Option<Duration> {
        let begin = self.paid.map_or(now, |paid| paid.max(now));
        let wait = begin - now;
        if wait > WAIT_MAX {
            return None;
        }
        self.paid = Some(begin + cost.min(WAIT_MAX));
        Some(wait)
    }
}

/// What a byte costs while so many generations wait: doubled by every other one, and in between half as much again.
fn price(generations_waiting: usize) -> u64 {
    match generations_waiting.checked_sub(GENERATIONS_FREE + 1) {
        None => 0,
        Some(more) => (PRICE_MIN / 2 * (2 + more as u64 % 2)) << (more / 2).min(20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_price_rises_with_what_waits() {
        let prices: Vec<_> = [0, 8, 9, 10, 11, 12, 13, 21, 33].map(price).into();
        assert_eq!(prices, [0, 0, 10, 15, 20, 30, 40, 640, 40_960]);
        assert!(price(usize::MAX) >= price(48), "without an overflow");
    }

    #[test]
    fn who_joins_the_queue_waits_until_those_before_have_paid() {
        let mut queue = Queue::default();
        let now = Instant::now();
        assert_eq!(queue.join(now, 30 * MS), Some(Duration::ZERO));
        assert_eq!(queue.join(now, 5 * MS), Some(30 * MS));
        assert_eq!(queue.join(now + 10 * MS, 5 * MS), Some(25 * MS));
        assert_eq!(queue.join(now + 50 * MS, 5 * MS), Some(Duration::ZERO), "nobody is left");
    }

    #[test]
    fn who_would_wait_too_long_is_sent_away_and_pays_nothing() {
        let mut queue = Queue::default();
        let now = Instant::now();
        // However large, one pays no more than others may wait.
        assert_eq!(queue.join(now, 1000 * WAIT_MAX), Some(Duration::ZERO));
        assert_eq!(queue.join(now, MS), Some(WAIT_MAX));
        assert_eq!(queue.join(now, MS), None);
        assert_eq!(queue.join(now, MS), None);
        assert_eq!(queue.join(now + MS, MS), Some(WAIT_MAX));
    }
}
