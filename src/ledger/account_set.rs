//! A set of a shard's accounts, by number.

use super::AccountNumber;

/// Account numbers, a bit for each up to the highest: of ten million accounts any set takes 1.25 MB.
///
/// Numbers are given out in order, so a hash table of them would hash what is an index already; and only a bit set tells
/// how many members are below a number, which is what an excerpt of the accounts needs.
#[derive(Clone, Debug, Default)]
pub struct AccountSet {
    words: Vec<u64>,
}

/// A set that does not change any more, and knows the rank of each member.
#[derive(Clone, Debug, Default)]
pub(super) struct RankedAccounts {
    members: AccountSet,
    /// How many members are below each word.
    before: Vec<u32>,
}

impl AccountSet {
    /// Adds an account.
    pub fn insert(&mut self, account: AccountNumber) {
        let (word, bit) = place(account);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Whether it is there.
    pub fn contains(&self, account: AccountNumber) -> bool {
        let (word, bit) = place(account);
        self.words.get(word).is_some_and(|members| members & bit != 0)
    }

    /// How many there are, counted anew.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

impl Extend<AccountNumber> for AccountSet {
    fn extend<T: IntoIterator<Item = AccountNumber>>(&mut self, accounts: T) {
        accounts.into_iter().for_each(|account| self.insert(account));
    }
}

impl FromIterator<AccountNumber> for AccountSet {
    fn from_iter<T: IntoIterator<Item = AccountNumber>>(accounts: T) -> AccountSet {
        let mut set = AccountSet::default();
        set.extend(accounts);
        set
    }
}

impl RankedAccounts {
    /// Those of a set whose numbers are below a bound.
    pub(super) fn below(bound: usize, set: &AccountSet) -> RankedAccounts {
        let mut words = set.words.clone();
        words.truncate(bound.div_ceil(64));
        if let (Some(last), 1..) = (words.get_mut(bound / 64), bound % 64) {
            *last &= (1 << (bound % 64)) - 1;
        }
        let before = words.iter().scan(0, |members, word| {
            let before = *members;
            *members += word.count_ones();
            Some(before)
        });
        RankedAccounts { before: before.collect(), members: AccountSet { words } }
    }

    /// How many members have a lower number, if it is one itself.
    pub(super) fn rank(&self, account: AccountNumber) -> Option<usize> {
        if !self.members.contains(account) {
            return None;
        }
        let (word, bit) = place(account);
        let lower = self.members.words[word] & (bit - 1);
        Some(self.before[word] as usize + lower.count_ones() as usize)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.words.last().map_or(0, |word| word.count_ones() as usize)
            + self.before.last().map_or(0, |before| *before as usize)
    }
}

/// The word in which an account's bit is, and the bit.
fn place(account: AccountNumber) -> (usize, u64) {
    (account.index() / 64, 1 << (account.index() % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_set_has_its_members_and_tells_their_ranks() {
        let numbers = [0, 1, 62, 63, 64, 127, 128, 200, 1000, 1001];
        let twice = numbers.iter().rev().chain(&numbers);
        let set: AccountSet = twice.map(|number| AccountNumber::new(*number)).collect();
        assert_eq!(set.len(), numbers.len());
        assert!(!set.is_empty() && AccountSet::default().is_empty());
        let members: BTreeSet<u32> = numbers.into();
        for bound in [0, 1, 2, 63, 64, 65, 128, 129, 200, 201, 1001, 1002, 5000] {
            let ranked = RankedAccounts::below(bound, &set);
            assert_eq!(ranked.len(), members.range(..bound as u32).count(), "below {bound}");
            for number in 0..1100 {
                let account = AccountNumber::new(number);
                assert_eq!(set.contains(account), members.contains(&number));
                let is_member = members.contains(&number) && (number as usize) < bound;
                let rank = is_member.then(|| members.range(..number).count());
                assert_eq!(ranked.rank(account), rank, "{number} below {bound}");
            }
        }
    }
}
