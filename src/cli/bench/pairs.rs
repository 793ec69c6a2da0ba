//! Which rounds are compared: pairs of one turn in which the machine was alike.
//!
//! What always holds:
//! - A pair is a round of the first side and one of another side in the same turn. Nothing else is ever compared.
//! - A pair whose rounds were [not alike](super::machine::Conditions::is_like) is measured again: turns go on until
//!   there are as many alike pairs of each comparison as rounds were asked for, or [`TURNS_MAX_FACTOR`] times as many
//!   turns.
//! - Only the machine's state decides whether a pair counts, never what was measured in it. (A side that leaves much to
//!   do behind it disturbs the probe after its round, and is measured again the more often.)
//! - Where fewer than half of what was asked for is alike, all pairs count, and that is told: a choice among so few
//!   would be worse than none.

use std::num::NonZeroU64;

use super::machine::are_alike;
use super::report::{Ratio, Round, median};

/// How many times as many turns as asked for there may be. Where the machine changes several times a second, a third to
/// two thirds of the pairs were alike; and a run that takes half a minute on a calm machine takes two at most.
const TURNS_MAX_FACTOR: usize = 3;

/// A round of the first side and one of another, of one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    first: &'a Round,
    other: &'a Round,
}

/// All pairs of two sides.
pub(super) fn pairs<'a>(first: &'a [Round], other: &'a [Round]) -> impl Iterator<Item = Pair<'a>> {
    first.iter().zip(other).map(|(first, other)| Pair { first, other })
}

impl Pair<'_> {
    /// Whether the machine was alike in both.
    pub(super) fn is_alike(&self) -> bool {
        self.first.machine.is_like(&self.other.machine)
    }

    /// How far the cores were apart in them.
    fn cores_apart_ns(&self) -> Option<NonZeroU64> {
        let probes = [self.first, self.other].map(|round| round.machine.cores_apart_ns);
        let known: Vec<NonZeroU64> = probes.as_flattened().iter().copied().flatten().collect();
        (!known.is_empty()).then(|| median(&known))
    }

    /// What the first side has of something, to what the other has.
    pub(super) fn ratio(&self, pick: fn(&Round) -> u64) -> Option<Ratio> {
        Ratio::of(pick(self.first).into(), pick(self.other).into())
    }
}

/// Whether another turn is needed, after these rounds of each side. A side on its own has no pairs.
pub(super) fn is_another_needed(sides: &[&[Round]], asked: usize) -> bool {
    turns_that_count(sides) < asked && sides[0].len() < asked * TURNS_MAX_FACTOR
}

/// Whether so few pairs are alike, of as many as were asked for, that all count.
pub(super) fn are_too_few(alike: usize, asked: usize) -> bool {
    alike * 2 < asked
}

/// How many alike pairs every comparison has.
pub(super) fn turns_that_count(sides: &[&[Round]]) -> usize {
    let alike = |other: &&[Round]| pairs(sides[0], other).filter(Pair::is_alike).count();
    sides[1..].iter().map(alike).min().unwrap_or(sides[0].len())
}

/// Pairs by how far the cores were apart in them, nearest first: a new group begins where the next pair is no longer
/// like the one before. Each with its median.
pub(super) fn by_cores_apart<'a>(alike: &[Pair<'a>]) -> Vec<(NonZeroU64, Vec<Pair<'a>>)> {
    let mut known: Vec<_> = alike.iter().filter_map(|pair| Some((pair.cores_apart_ns()?, *pair))).collect();
    known.sort_by_key(|(apart, _)| *apart);
    let groups = known.chunk_by(|(before, _), (next, _)| are_alike(*before, *next));
    let of_group = |group: &[(NonZeroU64, Pair<'a>)]| {
        let apart: Vec<NonZeroU64> = group.iter().map(|(apart, _)| *apart).collect();
        (median(&apart), group.iter().map(|(_, pair)| *pair).collect())
    };
    groups.map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::super::machine::Conditions;
    use super::super::report::Latencies;
    use super::*;

    const NEAR: [u64; 2] = [50, 60];
    const FAR: [u64; 2] = [450, 500];
    const TURNING: [u64; 2] = [50, 500];
    const UNKNOWN: [u64; 2] = [0, 0];

    fn round(cores_apart_ns: [u64; 2]) -> Round {
        Round {
            per_second: 1000 / cores_apart_ns[0].max(1),
            requests: 1,
            latency_ns: Latencies { p50: 1, p90: 1, p99: 1, p99_9: 1, max: 1 },
            unsent: 0,
            late: 0,
            machine: Conditions { cores_apart_ns: cores_apart_ns.map(NonZeroU64::new), stolen: None },
        }
    }

    fn rounds(probes: &[[u64; 2]]) -> Vec<Round> {
        probes.iter().copied().map(round).collect()
    }

    #[test]
    fn alike_pairs_are_enough() {
        let (first, other) = (rounds(&[NEAR, FAR, NEAR]), rounds(&[NEAR, FAR, NEAR]));
        assert!(is_another_needed(&[&first[..2], &other[..2]], 3));
        assert!(!is_another_needed(&[&first, &other], 3));
    }

    #[test]
    fn unlike_pairs_are_measured_again_up_to_a_bound() {
        let (mut first, mut other) = (rounds(&[NEAR, NEAR, FAR]), rounds(&[FAR, NEAR, TURNING]));
        assert_eq!(turns_that_count(&[&first, &other]), 1);
        assert!(is_another_needed(&[&first, &other], 2));
        first.push(round(FAR));
        other.push(round(FAR));
        assert!(!is_another_needed(&[&first, &other], 2));
        // Never alike.
        let (first, other) = (rounds(&[NEAR; 6]), rounds(&[FAR; 6]));
        assert!(is_another_needed(&[&first[..5], &other[..5]], 2));
        assert!(!is_another_needed(&[&first, &other], 2));
    }

    #[test]
    fn on_one_core_every_pair_counts() {
        let rounds = rounds(&[UNKNOWN; 3]);
        assert!(is_another_needed(&[&rounds[..2], &rounds[..2]], 3));
        assert!(!is_another_needed(&[&rounds, &rounds], 3));
        let alike: Vec<Pair<'_>> = pairs(&rounds, &rounds).collect();
        assert!(by_cores_apart(&alike).is_empty());
    }

    #[test]
    fn of_several_sides_each_needs_its_pairs_with_the_first() {
        let first = rounds(&[NEAR, NEAR, FAR, FAR]);
        let often = rounds(&[NEAR, NEAR, FAR, FAR]);
        let seldom = rounds(&[NEAR, FAR, NEAR, FAR]);
        assert_eq!(turns_that_count(&[&first, &often, &seldom]), 2);
        assert!(!is_another_needed(&[&first, &often, &seldom], 2));
        assert!(is_another_needed(&[&first, &often, &seldom], 3));
        assert!(!is_another_needed(&[&first, &often], 3));
    }

    #[test]
    fn a_side_on_its_own_has_the_rounds_that_were_asked_for() {
        let rounds = rounds(&[TURNING, NEAR]);
        assert!(is_another_needed(&[&rounds[..1]], 2));
        assert!(!is_another_needed(&[&rounds], 2));
    }

    #[test]
    fn groups_are_pairs_in_one_state_of_the_machine() {
        let probes = [FAR, NEAR, [470, 470], FAR, [70, 80]];
        let (first, other) = (rounds(&probes), rounds(&probes));
        let all: Vec<Pair<'_>> = pairs(&first, &other).collect();
        let groups = by_cores_apart(&all);
        let told: Vec<(u64, usize)> =
            groups.iter().map(|(apart, pairs)| (apart.get(), pairs.len())).collect();
        assert_eq!(told, [(50, 2), (450, 3)]);
        assert!(groups[0].1.iter().all(|pair| pair.first.machine.cores_apart_ns[0] < NonZeroU64::new(100)));
    }
}
