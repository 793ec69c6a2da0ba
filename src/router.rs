//! Which shard owns an account.
//!
//! The hash is pinned: it decides where every account lives, for ever. The manifest names it
//! ([`crate::storage::manifest::HASH`]), and a ledger with another one is refused.

use xxhash_rust::xxh3::xxh3_64;

use crate::ledger::{AccountName, KeyDigest, ShardId};

/// Maps names and keys to shards.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    shards: u64,
}

impl Router {
    /// A router over so many shards.
    ///
    /// # Panics
    /// With no shard, or more than [`crate::ledger::SHARDS_MAX`].
    pub fn new(shards: usize) -> Router {
        assert!((1..=crate::ledger::SHARDS_MAX).contains(&shards), "1 to 1024 shards");
        Router { shards: shards as u64 }
    }

    /// The shard that owns the account with this name.
    pub fn of_name(&self, name: &AccountName) -> ShardId {
        self.pick(name.as_bytes())
    }

    /// The home shard of an idempotency key that belongs to no account.
    pub fn of_key(&self, digest: &KeyDigest) -> ShardId {
        self.pick(&digest.0)
    }

    fn pick(&self, bytes: &[u8]) -> ShardId {
        // Of one shard there is nothing to choose, and a name's hash takes longer than all else here.
        let shard = if self.shards == 1 { 0 } else { xxh3_64(bytes) % self.shards };
        ShardId::new(shard as usize).expect("below the number of shards")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The accounts of existing ledgers are where these say. A change here loses them.
    #[test]
    fn the_routing_is_pinned() {
        let router = Router::new(1000);
        let shard = |name: &str| router.of_name(&AccountName::parse(name).expect("valid")).index();
        assert_eq!(["alice", "bob", "Kateřina", "1"].map(shard), [80, 397, 494, 464]);
    }
}
