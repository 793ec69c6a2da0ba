//! What operations need of which shards.

use std::collections::{BTreeMap, HashSet};

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
        items: Vec<Item>,
        key: Option<HomedKey>,
        atomic: bool,
        dry_run: bool,
        request_id: Box<str>,
    ) -> Result<WorkRequest, Refusal> {
        let mut needs = BTreeMap::<ShardId, Needs>::new();
        let mut references = Vec::new();
        for item in &items {
            for place in item.operation.places().chain(item.conditions.iter().map(|of| &of.account)) {
                needs.entry(place.shard).or_default().accounts.push(place.account.clone());
            }
            match &item.operation {
                Operation::Open { shard, opening } => {
                    needs.entry(*shard).or_default().openings.push(opening.name.clone());
                }
                Operation::Capture { hold, .. } | Operation::Void { hold, .. } => {
                    if hold.shard.index() >= self.shards.len() {
                        return Err(Rejection::HoldNotFound.into());
                    }
                    needs.entry(hold.shard).or_default().holds.push(*hold);
                }
                Operation::Reverse { transfer, .. } => {
                    needs.entry(transfer.shard).or_default().reversals.push(*transfer);
                }
                _ => {}
            }
            if let Some(HomedKey { home, key }) = item.key {
                needs.entry(home).or_default().keys.push(key);
            }
            references.extend(item.operation.reference().cloned());
        }
        if let Some(HomedKey { home, key }) = key {
            needs.entry(home).or_default().keys.push(key);
        }
        references.sort_unstable();
        references.dedup();
        for needs in needs.values_mut() {
            needs.holds.sort_unstable();
            needs.holds.dedup();
            // Of two uses of one key in a list, the first decides what it stands for.
            let mut known = HashSet::new();
            needs.keys.retain(|key| known.insert(key.digest));
            if !(needs.accounts.is_empty() && needs.holds.is_empty()) {
                needs.references.clone_from(&references);
            }
        }
        Ok(WorkRequest {
            items,
            atomic,
            dry_run,
            told: true,
            turn: None,
            key,
            request_id,
            needs: needs.into_iter().collect(),
        })
    }
}
