//! The accounts of a shard, by number and by name.
//!
//! What always holds:
//!
//! - an account stays where it was put: nothing is moved when there are more, so ten million cost no more in the
//!   moment in which there is one more;
//! - no two have the same name; each name is stored once, in its account.
//!
//! An *excerpt* has some of a shard's accounts and knows how many there are in all. What happens to those can be
//! replayed on it, and that more are opened, as on the whole: that is how a snapshot is made of the one before. Of names
//! it knows those of the accounts that were opened since; who makes one looks after the others.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::iter::Flatten;
use std::ops::{Index, Range};
use std::slice::Iter;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::account_set::RankedAccounts;
use super::{Account, AccountName, AccountNumber, AccountRef, AccountSet, hints};

/// How many accounts stand together: 32 MiB, all of it but the edges in huge pages. What is reserved for none takes
/// addresses, and one huge page of memory at most; and as no allocator keeps pieces that large, they are given back as soon
/// as nobody has them.
const SEGMENT_ACCOUNTS: usize = 256 * 1024;

/// In how many tables the names are: each grows by itself, so that growing never moves more than some ten thousand
/// names at once, and never needs more than one of them twice.
const NAME_TABLES: usize = 256;

/// The accounts of a shard, or an excerpt of them.
#[derive(Clone, Default)]
pub struct Accounts {
    /// All but the last are full. A segment never grows past its first capacity, but in a clone, which nobody adds to.
    segments: Vec<Vec<Account>>,
    names: NameIndex,
    /// Below this number there are only some, each in the place that its rank says. In the whole there is none below it.
    excerpt_below: usize,
    excerpt: RankedAccounts,
}

/// Another account has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameTaken;

impl Accounts {
    /// An excerpt of so many accounts: those of them that are in the set, none of which has been added so far.
    pub fn excerpt_of(accounts: usize, wanted: &AccountSet) -> Accounts {
        let excerpt = RankedAccounts::below(accounts, wanted);
        Accounts { excerpt_below: accounts, excerpt, ..Accounts::default() }
    }

    /// How many accounts the shard has: the number of the next one.
    pub fn len(&self) -> usize {
        self.excerpt_below + self.held().saturating_sub(self.excerpt.len())
    }

    /// Whether the shard has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The account with this number.
    pub fn get(&self, number: usize) -> Option<&Account> {
        at(&self.segments, self.place(number)?)
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Account> {
        let place = self.place(number)?;
        self.segments.get_mut(place / SEGMENT_ACCOUNTS)?.get_mut(place % SEGMENT_ACCOUNTS)
    }

    /// The account with this name.
    pub fn find(&self, name: &AccountName) -> Option<&Account> {
        self.names.find(name, &self.segments)
    }

    /// The accounts that these mean, closed ones too.
    pub(super) fn find_all(&self, references: &[&AccountRef]) -> Vec<Option<&Account>> {
        let places = self.fetched_places(references);
        let account = |(reference, place): (&&AccountRef, Option<usize>)| {
            let account = at(&self.segments, place?)?;
            match reference {
                AccountRef::Name(name) if account.name == *name => Some(account),
                AccountRef::Name(name) => self.find(name),
                AccountRef::Number { opened, .. } => {
                    Some(account).filter(|account| account.opened == *opened)
                }
            }
        };
        references.iter().zip(places).map(account).collect()
    }

    /// Has the processor fetch accounts that are about to be asked for, each with both of its lines, what the index has
    /// of them, and the end of the chain of their entries, so that it waits for all of them at once. Of a deposit's time in
    /// the shard, waiting was half.
    pub fn fetch(&self, references: &[&AccountRef]) {
        self.fetched_places(references);
    }

    /// As [`Accounts::fetch`], the accounts with these numbers.
    pub(super) fn fetch_numbers(&self, numbers: &[AccountNumber]) {
        let place = |number: &AccountNumber| self.with_lines_fetched(self.place(number.index()));
        let places: Vec<_> = numbers.iter().map(place).collect();
        self.fetch_chains(&places);
    }

    /// Where the accounts are that these mean, unless those are others: of a name, the index knows only a part of the hash.
    /// All that will be needed of them is being fetched.
    ///
    /// First all hashes are made, then the index is looked at for all: no look depends on the one before, so the processor
    /// waits for several of them at once, and for the accounts that they led to. Of a million accounts none is in its
    /// caches.
    fn fetched_places(&self, references: &[&AccountRef]) -> Vec<Option<usize>> {
        let hash = |reference: &&AccountRef| match reference {
            AccountRef::Name(name) => self.names.hash(name),
            AccountRef::Number { .. } => 0,
        };
        let hashes: Vec<u64> = references.iter().map(hash).collect();
        let place = |(reference, hash): (&&AccountRef, u64)| {
            self.with_lines_fetched(match reference {
                AccountRef::Name(_) => self.names.likely_place(hash),
                AccountRef::Number { number, .. } => self.place(number.index()),
            })
        };
        let places: Vec<_> = references.iter().zip(hashes).map(place).collect();
        self.fetch_chains(&places);
        places
    }

    /// This place; both lines of the account there are being fetched.
    fn with_lines_fetched(&self, place: Option<usize>) -> Option<usize> {
        if let Some(account) = place.and_then(|place| at(&self.segments, place)) {
            hints::fetch(&account.version);
            hints::fetch(&account.posted);
        }
        place
    }

    /// Has the ends of the chains of these accounts fetched. They are in the heap, once there are some entries, and only the
    /// accounts tell where; those are on their way by now.
    fn fetch_chains(&self, places: &[Option<usize>]) {
        let accounts = places.iter().filter_map(|place| at(&self.segments, (*place)?));
        accounts.filter_map(|account| account.chain.to_packed().last()).for_each(hints::fetch);
    }

    /// The accounts that are here, by number.
    pub fn iter(&self) -> Flatten<Iter<'_, Vec<Account>>> {
        self.segments.iter().flatten()
    }

    /// Those with these numbers.
    pub fn range(&self, numbers: Range<usize>) -> impl Iterator<Item = &Account> {
        numbers.map_while(|number| self.get(number))
    }

    /// Adds an account: the next of those that an excerpt shall have, and when it has them, the one with the next number.
    ///
    /// # Errors
    /// If its name belongs to another one here.
    ///
    /// # Panics
    /// If it is another one.
    pub fn push(&mut self, account: Account) -> Result<(), NameTaken> {
        let place = self.next_place(&account);
        if self.is_indexed(&account) {
            self.names.insert(self.names.hash(&account.name), || &account.name, place, &self.segments)?;
        }
        self.keep(place, account);
        Ok(())
    }

    /// The place of the next account, which has to be this one.
    fn next_place(&self, account: &Account) -> usize {
        let place = self.held();
        assert_eq!(self.place(account.number.index()), Some(place), "accounts are added in order");
        place
    }

    /// Whether an account is found by its name: in an excerpt, only one that was opened since.
    fn is_indexed(&self, account: &Account) -> bool {
        account.number.index() >= self.excerpt_below
    }

    fn keep(&mut self, place: usize, account: Account) {
        if place.is_multiple_of(SEGMENT_ACCOUNTS) {
            let mut segment = Vec::with_capacity(SEGMENT_ACCOUNTS);
            hints::use_huge_pages(&mut segment);
            self.segments.push(segment);
        }
        self.segments.last_mut().expect("there is one").push(account);
    }

    /// How many there are here.
    fn held(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT_ACCOUNTS;
        full + self.segments.last().map_or(0, Vec::len)
    }

    fn place(&self, number: usize) -> Option<usize> {
        if number >= self.excerpt_below {
            return Some(number - self.excerpt_below + self.excerpt.len());
        }
        self.excerpt.rank(AccountNumber::new(u32::try_from(number).ok()?))
    }
}

/// Many accounts on their way to become [`Accounts`], whose names are put into the index at the end.
///
/// Of ten million names none would be where the processor has it, and each would be waited for. At the end they are put
/// there table by table, and a table fits into its caches: a start of such a ledger takes 6.1 s instead of 15. It costs
/// 16 bytes an account until then.
#[derive(Debug)]
pub struct AccountsBuilder {
    accounts: Accounts,
    /// For each table, the names' hashes and places.
    names: Vec<Vec<(u64, u32)>>,
}

impl AccountsBuilder {
    /// None so far, with room for the names of so many.
    pub fn with_capacity(accounts: usize) -> AccountsBuilder {
        let names = (0..NAME_TABLES).map(|_| Vec::with_capacity(share_of(accounts))).collect();
        AccountsBuilder { accounts: Accounts::default(), names }
    }

    /// An excerpt of so many, as [`Accounts::excerpt_of`]; it needs no index.
    pub fn excerpt_of(accounts: usize, wanted: &AccountSet) -> AccountsBuilder {
        AccountsBuilder {
            accounts: Accounts::excerpt_of(accounts, wanted),
            ..AccountsBuilder::with_capacity(0)
        }
    }

    /// Adds an account, the next one.
    ///
    /// # Panics
    /// If it is another one.
    pub fn push(&mut self, account: Account) {
        let place = self.accounts.next_place(&account);
        if self.accounts.is_indexed(&account) {
            let hash = self.accounts.names.hash(&account.name);
            self.names[table_of(hash)].push((hash, number_of(place)));
        }
        self.accounts.keep(place, account);
    }

    /// All of them. `pause` is called after each table: who has others to think of may stand back for them there.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn finish(mut self, pause: &mut dyn FnMut()) -> Result<Accounts, NameTaken> {
        let Accounts { names: index, segments, .. } = &mut self.accounts;
        for names in self.names {
            if let Some((hash, _)) = names.first() {
                index.reserve_in(table_of(*hash), names.len());
            }
            for (hash, place) in names {
                let name = || &at(segments, place as usize).expect("it was kept").name;
                index.insert(hash, name, place as usize, segments)?;
            }
            pause();
        }
        Ok(self.accounts)
    }
}

impl<'a> IntoIterator for &'a Accounts {
    type Item = &'a Account;
    type IntoIter = Flatten<Iter<'a, Vec<Account>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Index<usize> for Accounts {
    type Output = Account;

    fn index(&self, number: usize) -> &Account {
        self.get(number).expect("there is an account with this number")
    }
}

impl PartialEq for Accounts {
    fn eq(&self, other: &Accounts) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Accounts {}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn at(segments: &[Vec<Account>], place: usize) -> Option<&Account> {
    segments.get(place / SEGMENT_ACCOUNTS)?.get(place % SEGMENT_ACCOUNTS)
}

/// Names to places.
///
/// The hash is keyed at random, so that nobody can choose names that collide; it decides where in memory a
/// number stands and nothing else, so the state remains a pure function of the events. It is SipHash: clients choose
/// the names, and hashes that cost a fifth of it promise less against that.
#[derive(Clone, Default)]
struct NameIndex {
    /// None before the first name, then [`NAME_TABLES`].
    tables: Vec<HashTable<u32>>,
    hasher: RandomState,
}

impl NameIndex {
    fn make_tables(&mut self) {
        if self.tables.is_empty() {
            self.tables.resize_with(NAME_TABLES, HashTable::new);
        }
    }

    /// Makes room in a table that is still empty.
    fn reserve_in(&mut self, table: usize, names: usize) {
        self.make_tables();
        self.tables[table].reserve(names, |_| unreachable!("it is empty"));
    }

    fn hash(&self, name: &AccountName) -> u64 {
        hash_of(&self.hasher, name)
    }

    /// Where the account is whose name has this hash, unless that is another one: seven bits of the hash are alike.
    fn likely_place(&self, hash: u64) -> Option<usize> {
        self.tables.get(table_of(hash))?.iter_hash(hash).next().map(|place| *place as usize)
    }

    fn find<'a>(&self, name: &AccountName, segments: &'a [Vec<Account>]) -> Option<&'a Account> {
        let hash = self.hash(name);
        let is_named =
            |place: &u32| at(segments, *place as usize).is_some_and(|account| account.name == *name);
        let place = self.tables.get(table_of(hash))?.find(hash, is_named)?;
        at(segments, *place as usize)
    }

    /// Adds a name, which has this hash, at a place. It is asked for only if there is one whose hash is alike: it may be far
    /// from where the processor has it.
    fn insert<'n>(
        &mut self,
        hash: u64,
        name: impl Fn() -> &'n AccountName,
        place: usize,
        segments: &[Vec<Account>],
    ) -> Result<(), NameTaken> {
        self.make_tables();
        let is_named =
            |place: &u32| at(segments, *place as usize).is_some_and(|account| account.name == *name());
        let Self { tables, hasher } = self;
        let rehash = |place: &u32| {
            at(segments, *place as usize).map_or(hash, |account| hash_of(hasher, &account.name))
        };
        match tables[table_of(hash)].entry(hash, is_named, rehash) {
            Entry::Occupied(_) => Err(NameTaken),
            Entry::Vacant(entry) => {
                entry.insert(number_of(place));
                Ok(())
            }
        }
    }
}

/// Of the name's bytes alone: nothing follows that a length would have to tell them from.
fn hash_of(hasher: &RandomState, name: &AccountName) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(name.as_bytes());
    hasher.finish()
}

fn number_of(place: usize) -> u32 {
    u32::try_from(place).expect("accounts are numbered with 32 bits")
}

/// How many of so many names a table gets at most, or nearly so.
fn share_of(names: usize) -> usize {
    let share = names / NAME_TABLES;
    share + share / 32
}

/// Which table a hash belongs to: by bits that a table itself does not look at, which are the highest and the lowest.
fn table_of(hash: u64) -> usize {
    (hash >> 40) as usize % NAME_TABLES
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::ledger::{AccountStatus, Amount, Chain, Currency, Timestamp};

    fn account(number: usize) -> Account {
        Account {
            number: AccountNumber::new(number as u32),
            name: AccountName::parse(&format!("account {number}")).expect("valid"),
            currency: Currency::USD,
            overdraft_limit: None,
            posted: Amount::ZERO,
            held: Amount::ZERO,
            frozen: false,
            opened: Timestamp::default(),
            updated: Timestamp::default(),
            status: AccountStatus::Open,
            version: 1,
            chain: Chain::default(),
            details: None,
        }
    }

    fn name(number: usize) -> AccountName {
        account(number).name
    }

    #[test]
    fn an_account_takes_two_lines_of_the_processors_caches() {
        assert_eq!(size_of::<Account>(), 128);
        // `Accounts::with_lines_fetched` names one field on each.
        assert_ne!(offset_of!(Account, posted) / 64, offset_of!(Account, version) / 64);
    }

    #[test]
    fn accounts_are_found_by_number_and_name_across_segments() {
        const COUNT: usize = SEGMENT_ACCOUNTS + 2;
        let mut made = AccountsBuilder::with_capacity(COUNT);
        (0..COUNT).for_each(|number| made.push(account(number)));
        let mut added = Accounts::default();
        for number in 0..COUNT {
            added.push(account(number)).expect("a new name");
        }
        for mut accounts in [added, made.finish(&mut || {}).expect("new names")] {
            assert_eq!(accounts.len(), COUNT);
            for number in 0..COUNT {
                assert_eq!(accounts[number].number.index(), number);
                assert_eq!(accounts.find(&name(number)), accounts.get(number));
            }
            assert_eq!((accounts.get(COUNT), accounts.find(&name(COUNT))), (None, None));
            let twice = Account { name: name(7), ..account(COUNT) };
            assert_eq!(accounts.push(twice), Err(NameTaken));
            assert_eq!(accounts.len(), COUNT);
            let around = SEGMENT_ACCOUNTS - 1..SEGMENT_ACCOUNTS + 2;
            assert!(accounts.range(around.clone()).map(|account| account.number.index()).eq(around));
            assert_eq!(accounts.range(COUNT - 2..COUNT + 5).count(), 2);
            assert_eq!(accounts.iter().count(), COUNT);
        }
    }

    #[test]
    fn a_builder_makes_what_adding_one_by_one_makes() {
        const COUNT: usize = SEGMENT_ACCOUNTS + 1;
        let wanted = AccountSet::default();
        for (from, new) in [(0, 0), (0, 1), (0, COUNT), (9, COUNT)] {
            let builder = || match from {
                0 => AccountsBuilder::with_capacity(new),
                _ => AccountsBuilder::excerpt_of(from, &wanted),
            };
            let mut made = builder();
            (from..from + new).for_each(|number| made.push(account(number)));
            let mut pauses = 0;
            let made = made.finish(&mut || pauses += 1).expect("new names");
            assert_eq!(pauses, NAME_TABLES);
            assert_eq!(made.len(), from + new);
            for number in from..from + new {
                assert_eq!(made.find(&name(number)), Some(&account(number)));
            }
            let mut twice = builder();
            (from..from + COUNT).for_each(|number| twice.push(account(number)));
            twice.push(Account { name: name(from + 7), ..account(from + COUNT) });
            assert_eq!(twice.finish(&mut || {}).err(), Some(NameTaken));
        }
    }

    #[test]
    fn an_excerpt_has_some_accounts_and_the_new_ones() {
        // An account that is wanted but not there yet: it is opened while the set is made.
        let wanted = [3, 50, 99, 101].map(AccountNumber::new).into_iter().collect();
        let mut excerpt = Accounts::excerpt_of(100, &wanted);
        assert_eq!(excerpt.len(), 100);
        for number in [3, 50, 99, 100, 101] {
            excerpt.push(account(number)).expect("a new name");
        }
        assert_eq!(excerpt.len(), 102);
        for number in 0..105 {
            let expected = [3, 50, 99, 100, 101].contains(&number);
            assert_eq!(excerpt.get(number).is_some(), expected, "{number}");
            let named = excerpt.get(number).filter(|account| account.number.index() >= 100);
            assert_eq!(named, excerpt.find(&name(number)), "of the new ones it knows the names");
        }
    }
}
