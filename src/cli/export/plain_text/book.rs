//! Every account of a ledger, as it stands at the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{AccountName, AccountNumber, Amount, Currency, Ledger, ShardId, Timestamp, Total};
use crate::progress::Progress;
use crate::storage::StorageError;
use crate::storage::log::{ShardFiles, state_at_rest};

/// What an export says of an account.
pub(in super::super) struct Account {
    pub(super) number: AccountNumber,
    pub(super) name: AccountName,
    pub(super) currency: Currency,
    pub(super) posted: Amount,
    pub(super) opened: Timestamp,
    pub(super) closed: Option<Timestamp>,
}

/// The accounts of all shards. Much less than the shards' states: neither histories nor keys.
#[derive(Default)]
pub(super) struct Book {
    /// By shard and number.
    pub(super) shards: Vec<Vec<Account>>,
    /// What all shards' parts of `@world` come to, with the opposite sign.
    pub(super) world_negated: BTreeMap<Currency, Total>,
    /// The time of the last event.
    pub(super) end: Timestamp,
}

impl Book {
    /// Reads the state of every shard, one after the other.
    pub(super) fn read(shards: &[ShardFiles], progress: &Progress) -> Result<Book, StorageError> {
        let mut book = Book::default();
        for files in shards {
            book.add(&state_at_rest(files, progress)?);
        }
        Ok(book)
    }

    /// Adds the next shard.
    fn add(&mut self, ledger: &Ledger) {
        let accounts = ledger.accounts().iter().map(|account| Account {
            number: account.number,
            name: account.name.clone(),
            currency: account.currency,
            posted: account.posted,
            opened: account.opened,
            closed: account.closed(),
        });
        self.shards.push(accounts.collect());
        for (currency, world) in ledger.world() {
            self.world_negated.entry(*currency).or_default().add_total(world.negated());
        }
        self.end = self.end.max(ledger.time());
    }

    /// The accounts by shard.
    pub(super) fn shards(&self) -> impl Iterator<Item = (ShardId, &[Account])> {
        let ids = (0..).map_while(ShardId::new);
        ids.zip(self.shards.iter().map(Vec::as_slice))
    }

    pub(super) fn account(&self, shard: ShardId, number: AccountNumber) -> &Account {
        &self.shards[shard.index()][number.index()]
    }

    /// The number of the account with this name, in the shard that such names belong to.
    pub(super) fn find(&self, shard: ShardId, name: &AccountName) -> Option<AccountNumber> {
        let account = self.shards[shard.index()].iter().find(|account| account.name == *name);
        account.map(|account| account.number)
    }

    /// The currencies of all accounts.
    pub(super) fn currencies(&self) -> BTreeSet<Currency> {
        self.shards.iter().flatten().map(|account| account.currency).collect()
    }
}
