//! Velocity limits: how much may leave an account in a day, in a month, and how often.
//!
//! A day and a month are the calendar's, in UTC; the window of the number of debits is a stretch of so many
//! seconds, counted from the epoch. What counts is money that leaves: withdrawals, transfers, and holds when they
//! are placed; capturing a hold does not count again, and voiding it gives nothing back until the period is over.
//! So a limit errs on the safe side, and an account needs three counters, however much it moves.

use super::{Amount, Timestamp};

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// The longest window, in seconds: 31 days.
pub const WINDOW_SECONDS_MAX: u32 = 31 * SECONDS_PER_DAY as u32;

/// An account's limits; each is optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VelocityLimits {
    /// The most that may leave in a calendar day, UTC.
    pub per_day: Option<Amount>,
    /// The most that may leave in a calendar month, UTC.
    pub per_month: Option<Amount>,
    /// How many debits there may be in a window.
    pub debits: Option<DebitLimit>,
}

/// How many debits there may be in each window of so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebitLimit {
    /// How many.
    pub count: u32,
    /// The length of a window, 1 to 2,678,400 (31 days). Windows follow one another from the epoch on.
    pub window_seconds: u32,
}

/// What has left an account in the periods that it was last in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Days since the epoch.
    pub day: u64,
    /// What has left on that day.
    pub in_day: Amount,
    /// Months since the epoch.
    pub month: u64,
    /// What has left in that month.
    pub in_month: Amount,
    /// Windows since the epoch. By this alone it is known when a count is over: a window of nearly the same length may have
    /// the same number, and then the count goes on. That errs on the safe side, and logs tell what it left.
    pub window: u64,
    /// How many debits there were in that window.
    pub debits: u32,
}

/// What may still leave; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Today.
    pub in_day: Option<Amount>,
    /// This month.
    pub in_month: Option<Amount>,
    /// How many debits in this window.
    pub debits: Option<u32>,
}

impl VelocityLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == VelocityLimits::default()
    }

    /// What may still leave at a time.
    pub fn allowance(&self, spent: &Spent, now: Timestamp) -> Allowance {
        let spent = spent.at(self, now);
        let left =
            |limit: Amount, spent: Amount| limit.checked_sub(spent).unwrap_or(Amount::ZERO).max(Amount::ZERO);
        Allowance {
            in_day: self.per_day.map(|limit| left(limit, spent.in_day)),
            in_month: self.per_month.map(|limit| left(limit, spent.in_month)),
            debits: self.debits.map(|limit| limit.count.saturating_sub(spent.debits)),
        }
    }
}

impl Allowance {
    /// Whether so much may leave in one debit.
    pub fn covers(&self, amount: Amount) -> bool {
        self.in_day.is_none_or(|left| amount <= left)
            && self.in_month.is_none_or(|left| amount <= left)
            && self.debits != Some(0)
    }
}

impl Spent {
    /// The counters at a time: those of periods that are over start again.
    fn at(mut self, limits: &VelocityLimits, now: Timestamp) -> Spent {
        let day = now.seconds() / SECONDS_PER_DAY;
        let month = month_of(day);
        let window = limits.debits.map_or(0, |limit| now.seconds() / u64::from(limit.window_seconds.max(1)));
        if self.day != day {
            (self.day, self.in_day) = (day, Amount::ZERO);
        }
        if self.month != month {
            (self.month, self.in_month) = (month, Amount::ZERO);
        }
        if self.window != window {
            (self.window, self.debits) = (window, 0);
        }
        self
    }

    /// Counts a debit.
    #[must_use]
    pub fn plus(self, limits: &VelocityLimits, now: Timestamp, amount: Amount) -> Spent {
        let mut spent = self.at(limits, now);
        // Past the range nothing is allowed any more anyway.
        spent.in_day = spent.in_day.checked_add(amount).unwrap_or(Amount::MAX);
        spent.in_month = spent.in_month.checked_add(amount).unwrap_or(Amount::MAX);
        spent.debits = spent.debits.saturating_add(1);
        spent
    }
}

/// Months since January 1970, of a day since the epoch: the civil calendar by Howard Hinnant's `civil_from_days`.
fn month_of(day: u64) -> u64 {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let year_from_march = year_of_era + era * 400;
    // March 0000 is month 0 here; January 1970 is 1970 * 12 months after January 0000.
    year_from_march * 12 + month_from_march + 2 - 1970 * 12
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn units(units: i128) -> Amount {
        Amount::from_minor_units(units).expect("in range")
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        for (day, month) in [
            (0, 0),
            (30, 0),
            (31, 1),
            (58, 1),
            (59, 2),
            (364, 11),
            (365, 12),
            // 29 February and 1 March 2000.
            (11_016, 30 * 12 + 1),
            (11_017, 30 * 12 + 2),
            // 31 December 2026 and 1 January 2027.
            (20_818, 56 * 12 + 11),
            (20_819, 57 * 12),
        ] {
            assert_eq!(month_of(day), month, "day {day}");
        }
    }

    #[test]
    fn what_has_left_counts_until_its_period_is_over() {
        let limits = VelocityLimits {
            per_day: Some(units(100)),
            per_month: Some(units(150)),
            debits: Some(DebitLimit { count: 2, window_seconds: 60 }),
        };
        let spent = Spent::default().plus(&limits, at(30), units(80));
        let left = limits.allowance(&spent, at(59));
        assert_eq!((left.in_day, left.in_month, left.debits), (Some(units(20)), Some(units(70)), Some(1)));
        assert!(left.covers(units(20)) && !left.covers(units(21)));
        let spent = spent.plus(&limits, at(59), units(20));
        assert!(!limits.allowance(&spent, at(59)).covers(units(0)), "no debit is left in the window");
        let left = limits.allowance(&spent, at(60));
        assert_eq!((left.in_day, left.debits), (Some(Amount::ZERO), Some(2)));
        let next_day = limits.allowance(&spent, at(SECONDS_PER_DAY));
        assert_eq!((next_day.in_day, next_day.in_month), (Some(units(100)), Some(units(50))));
        let next_month = limits.allowance(&spent, at(31 * SECONDS_PER_DAY));
        assert_eq!(next_month.in_month, Some(units(150)));
    }

    /// Logs tell what was left: if this changed, a start would refuse those that were written before.
    #[test]
    fn debits_go_on_counting_in_a_window_of_the_same_number() {
        let day = 20_788 * SECONDS_PER_DAY;
        let limits = |window_seconds| VelocityLimits {
            debits: Some(DebitLimit { count: 3, window_seconds }),
            ..VelocityLimits::default()
        };
        for (second, length, left) in
            [(50_000, 86_400, 2), (50_000, 86_401, 2), (50_000, 86_410, 3), (7, 86_401, 3)]
        {
            let spent = Spent::default().plus(&limits(86_400), at(day + second), units(1));
            let now = limits(length).allowance(&spent, at(day + second));
            assert_eq!(now.debits, Some(left), "second {second} of the day, windows of {length}");
        }
    }
}
