//! A histogram of latencies, log-linear: of fixed size, exact to less than a hundredth, and cheap to add to.
//!
//! Every power of two is divided into 128 steps of equal width, so a value is known to 1/128 of itself whatever its
//! size. A percentile is told as the largest value that its step may hold, never less than what was measured.

use std::time::Duration;

/// Steps a power of two, as a power of two.
const STEP_BITS: u32 = 7;

/// Enough for every number of 64 bits.
const BUCKETS: usize = ((64 - STEP_BITS as usize) + 1) << STEP_BITS;

/// How often which latency occurred.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Histogram {
    /// An empty one.
    pub(super) fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into(), count: 0, max_ns: 0 }
    }

    /// Adds one latency.
    pub(super) fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all latencies of another histogram.
    pub(super) fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The latency that so many in 10,000 do not exceed. Zero without any latency.
    pub(super) fn percentile(&self, in_ten_thousand: u64) -> Duration {
        let rank = (u128::from(self.count) * u128::from(in_ten_thousand)).div_ceil(10_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Duration::from_nanos(last_of(bucket).min(self.max_ns));
            }
        }
        Duration::ZERO
    }

    /// The longest, to the nanosecond.
    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }
}

fn bucket(ns: u64) -> usize {
    let shift = shift(ns);
    ((shift as usize) << STEP_BITS) + (ns >> shift) as usize
}

/// By how many bits a value is cut to its step.
fn shift(ns: u64) -> u32 {
    (u64::BITS - ns.leading_zeros()).saturating_sub(STEP_BITS + 1)
}

/// The largest value in a bucket.
fn last_of(bucket: usize) -> u64 {
    let shift = (bucket >> STEP_BITS).saturating_sub(1) as u32;
    let step = (bucket - ((shift as usize) << STEP_BITS)) as u64;
    (step << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn percentiles_are_those_of_a_sorted_list_to_a_hundredth() {
        let mut random = Random::new(7);
        for size in [1, 2, 10, 999, 20_000] {
            // Of all magnitudes alike.
            let mut values: Vec<u64> = (0..size).map(|_| random.number() >> random.below(64)).collect();
            let mut halves = [Histogram::new(), Histogram::new()];
            for (index, value) in values.iter().enumerate() {
                halves[index % 2].record(*value);
            }
            let [mut histogram, other] = halves;
            histogram.merge(&other);
            values.sort_unstable();
            assert_eq!(histogram.count(), size);
            assert_eq!(histogram.max(), Duration::from_nanos(values[values.len() - 1]));
            for part in [1, 2500, 5000, 9000, 9900, 9990, 9999, 10_000] {
                let rank = (size * part).div_ceil(10_000).max(1);
                let exact = values[rank as usize - 1];
                let told = histogram.percentile(part).as_nanos() as u64;
                assert!(told >= exact && told - exact <= exact / 128, "{part} of {size}: {told}, {exact}");
            }
        }
    }

    #[test]
    fn every_value_is_in_a_bucket_that_ends_with_it_or_behind() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
        for bucket_number in 0..BUCKETS {
            let last = last_of(bucket_number);
            assert_eq!(bucket(last), bucket_number);
            assert!(last == u64::MAX || bucket(last + 1) == bucket_number + 1);
        }
        assert_eq!(Histogram::new().percentile(5000), Duration::ZERO);
    }
}
