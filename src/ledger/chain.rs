//! An account's history as a linked list with one skip pointer an entry.
//!
//! Each entry of an account names the entry before it and one that is further back, so that the entry of any
//! version or moment is found from the newest one in O(log n) steps, while the account in memory holds about
//! log2(n) numbers (E. W. Myers, *An applicative random-access stack*, 1983).
//!
//! The entries form perfect binary trees of 2^k - 1 entries each, youngest tree first, ranks never falling
//! towards the old end except that the two youngest may be equal. A new entry joins the two youngest trees
//! if they are of one rank, and is a tree of its own otherwise; its skip pointer leads to the root behind the
//! tree that it is the root of, so a search either leaves a tree whole or descends into it.

use smallvec::SmallVec;

use super::Sequence;

const RANK_SHIFT: u32 = 58;

/// The roots of the trees in which an account's entries stand, oldest first: six bits of rank, 58 of sequence.
///
/// Two roots stand in the account itself: an account with up to two entries takes nothing from the heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    roots: SmallVec<[u64; 2]>,
}

/// Where an entry points back to. [`Sequence::NONE`] where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The account's entry before.
    pub previous: Sequence,
    /// An entry of the account at or before `previous`.
    pub skip: Sequence,
}

impl Chain {
    /// The account's newest entry.
    pub fn newest(&self) -> Sequence {
        self.roots.last().map_or(Sequence::NONE, |&root| sequence_of(root))
    }

    /// The links of the account's next entry.
    pub fn links(&self) -> Links {
        Links { previous: self.newest(), skip: self.root(if self.joins() { 2 } else { 0 }) }
    }

    /// Adds the account's next entry.
    pub fn push(&mut self, sequence: Sequence) {
        assert!(sequence > self.newest(), "an account's entries follow one another");
        let rank = if self.joins() {
            let rank = self.roots.pop().map_or(0, rank_of);
            self.roots.pop();
            rank + 1
        } else {
            0
        };
        self.roots.push(rank << RANK_SHIFT | sequence.get());
    }

    /// The packed roots, oldest first, for a snapshot.
    pub fn to_packed(&self) -> &[u64] {
        &self.roots
    }

    /// The chain with these packed roots, if they can be those of a chain with `entries` entries.
    pub fn from_packed(roots: &[u64], entries: u64) -> Option<Chain> {
        let sizes = roots.iter().map(|&root| (1u64 << (rank_of(root) + 1).min(63)) - 1);
        let total = sizes.clone().try_fold(0u64, |total, size| total.checked_add(size));
        let ordered = roots.windows(2).all(|pair| sequence_of(pair[0]) < sequence_of(pair[1]));
        let oldest = roots.first().is_none_or(|&root| sequence_of(root) > Sequence::NONE);
        let ranked = roots.windows(2).enumerate().all(|(index, pair)| {
            let youngest_pair = index + 2 == roots.len();
            rank_of(pair[0]) > rank_of(pair[1]) || (youngest_pair && rank_of(pair[0]) == rank_of(pair[1]))
        });
        (total == Some(entries) && ordered && oldest && ranked)
            .then(|| Chain { roots: SmallVec::from_slice(roots) })
    }

    /// Whether the next entry becomes the root over the two youngest trees.
    fn joins(&self) -> bool {
        matches!(self.roots[..], [.., second, youngest] if rank_of(second) == rank_of(youngest))
    }

    /// The root `back` places before the youngest.
    fn root(&self, back: usize) -> Sequence {
        self.roots.iter().rev().nth(back).map_or(Sequence::NONE, |&root| sequence_of(root))
    }
}

fn rank_of(root: u64) -> u64 {
    root >> RANK_SHIFT
}

fn sequence_of(root: u64) -> Sequence {
    Sequence::new(root & Sequence::MAX.get()).unwrap_or(Sequence::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps from the newest of `entries` to the one with sequence `wanted`, by the rule that readers use.
    fn steps(links: &[Links], wanted: u64) -> usize {
        let mut at = links.len() as u64;
        let mut steps = 0;
        while at != wanted {
            let links = links[at as usize - 1];
            at = if links.skip.get() >= wanted { links.skip.get() } else { links.previous.get() };
            steps += 1;
        }
        steps
    }

    #[test]
    fn every_entry_is_found_in_logarithmic_steps_with_logarithmic_memory() {
        let mut chain = Chain::default();
        let mut links = Vec::new();
        for number in 1..=5000u64 {
            links.push(chain.links());
            chain.push(Sequence::new(number).expect("in range"));
            let log2 = 64 - number.leading_zeros() as usize;
            assert!(chain.to_packed().len() <= log2 + 1, "{number} entries");
            assert_eq!(Chain::from_packed(chain.to_packed(), number), Some(chain.clone()));
            if number % 97 == 0 {
                let worst = (1..=number).map(|wanted| steps(&links, wanted)).max();
                assert!(worst <= Some(3 * log2), "{number} entries: {worst:?} steps");
            }
        }
    }

    #[test]
    fn roots_that_no_chain_has_are_refused() {
        assert_eq!(Chain::from_packed(&[], 1), None);
        assert_eq!(Chain::from_packed(&[0], 1), None);
        assert_eq!(Chain::from_packed(&[1], 2), None);
        assert_eq!(Chain::from_packed(&[2, 1], 2), None);
        assert_eq!(Chain::from_packed(&[1, 1 << RANK_SHIFT | 4], 4), None);
        assert_eq!(Chain::from_packed(&[63 << RANK_SHIFT | 4], u64::MAX), None);
        assert!(Chain::from_packed(&[1, 2], 2).is_some());
        assert!(Chain::from_packed(&[1 << RANK_SHIFT | 3, 4], 4).is_some());
    }
}
