//! What operations need of which shards.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::{Bank, KeyHome, Refusal};
use crate::ledger::operation::{HomedKey, Item, Operation};
use crate::ledger::workspace::Needs;
use crate::ledger::{IdempotencyKey, Rejection, ShardId};
use crate::shard::work::WorkRequest;

impl Bank {
    /// A key, and the shard that remembers it.
    pub(super) fn homed(&self, key: IdempotencyKey, home: KeyHome) -> HomedKey {
        let home = match home {
            KeyHome::Shard(shard) => shard,
            KeyHome::Key => self.router.of_key(&key.digest),
        };
        HomedKey { home, key }
    }

    /// The work that executes these items.
    ///
    /// # Errors
    /// If one names what no shard can have.
    pub(super) fn work(
        &self,
        items: SmallVec<[Item; 1]>,
        key: Option<HomedKey>,
        atomic: bool,
        dry_run: bool,
        request_id: Box<str>,
    ) -> Result<WorkRequest, Refusal> {
        // Of two accounts an item, about.
        let accounts_expected = 2 * items.len() / self.shards.len();
        let of_shards = SmallVec::with_capacity(self.shards.len().min(2 * items.len()));
        let mut needs = NeedsByShard { of_shards, accounts_expected };
        let mut references = Vec::new();
        for item in &items {
            for place in item.operation.places().chain(item.conditions.iter().map(|of| &of.account)) {
                needs.of(place.shard).accounts.push(place.account.clone());
            }
            match &item.operation {
                Operation::Open { shard, opening } => {
                    needs.of(*shard).openings.push(opening.name.clone());
                }
                Operation::Capture { hold, .. } | Operation::Void { hold, .. } => {
                    if hold.shard.index() >= self.shards.len() {
                        return Err(Rejection::HoldNotFound.into());
                    }
                    needs.of(hold.shard).holds.push(*hold);
                }
                Operation::Reverse { transfer, .. } => {
                    needs.of(transfer.shard).reversals.push(*transfer);
                }
                _ => {}
            }
            if let Some(HomedKey { home, key }) = item.key {
                needs.of(home).keys.push(key);
            }
            references.extend(item.operation.reference().cloned());
        }
        if let Some(HomedKey { home, key }) = key {
            needs.of(home).keys.push(key);
        }
        references.sort_unstable();
        references.dedup();
        for (_, needs) in &mut needs.of_shards {
            needs.holds.sort_unstable();
            needs.holds.dedup();
            let mut known = HashSet::new();
            needs.keys.retain(|key| known.insert(*key));
            if !(needs.accounts.is_empty() && needs.holds.is_empty()) {
                needs.references.clone_from(&references);
            }
        }
        Ok(WorkRequest {
            items,
            plain: None,
            atomic,
            dry_run,
            told: true,
            turn: None,
            key,
            request_id,
            needs: needs.of_shards,
        })
    }
}

/// What is needed, in the order of the shards.
struct NeedsByShard {
    of_shards: SmallVec<[(ShardId, Needs); 2]>,
    /// Of how many accounts there is to be room in each.
    accounts_expected: usize,
}

impl NeedsByShard {
    fn of(&mut self, shard: ShardId) -> &mut Needs {
        let place = match self.of_shards.binary_search_by_key(&shard, |(shard, _)| *shard) {
            Ok(place) => place,
            Err(place) => {
                let accounts = SmallVec::with_capacity(self.accounts_expected);
                self.of_shards.insert(place, (shard, Needs { accounts, ..Needs::default() }));
                place
            }
        };
        &mut self.of_shards[place].1
    }
}
