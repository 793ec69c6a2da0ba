//! The one place that reads the clock. Everything else gets the time as a value (P8).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ledger::Timestamp;

/// The time now. A clock before 1970 reads as 1970: a shard's time never runs backwards, so a wrong clock can
/// make times wrong but not out of order.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
