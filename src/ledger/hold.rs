//! Holds: money that is reserved in an account until it is captured, voided, or its time is over.
//!
//! What always holds:
//!
//! - an account's `held` is the sum of its pending holds;
//! - a hold has one outcome. Who comes second learns the first: an ended hold is remembered for
//!   [`ENDED_HOLD_MEMORY_MS`], but behind [`ENDED_HOLDS_MAX`] others not even that long; then its account's history tells.
//! - the events alone decide when an ended hold is forgotten, so every replay forgets it at the same one.

use std::collections::{BTreeMap, BTreeSet};

use super::{AccountId, AccountNumber, Amount, HoldId, ShardId, Timestamp};

/// For how long an ended hold stays in memory, in milliseconds: a day, as long as an idempotency key usually does.
pub const ENDED_HOLD_MEMORY_MS: u64 = 24 * 60 * 60 * 1000;

/// How many ended holds a shard remembers at most: some 150 MB of them.
pub const ENDED_HOLDS_MAX: usize = 1_000_000;

/// How many ended holds one event forgets at most; it ends one at most.
const FORGOTTEN_PER_EVENT_MAX: usize = 16;

/// A hold in its shard: its account, and the account's version that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldKey {
    /// The account.
    pub account: AccountNumber,
    /// The version.
    pub version: u32,
}

/// A hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it was placed.
    pub created: Timestamp,
    /// How much it reserves, or reserved; positive.
    pub amount: Amount,
    /// Who is to be paid by a capture; nobody in particular pays `@world`.
    pub to: Option<AccountId>,
    /// When it ends by itself.
    pub expires: Timestamp,
    /// How it stands.
    pub status: HoldStatus,
}

/// How a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldStatus {
    /// It reserves its amount.
    Pending,
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: HoldOutcome,
    },
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldOutcome {
    /// So much of it was paid, and the rest released.
    Captured(Amount),
    /// It was given up.
    Voided,
    /// Its time was over.
    Expired,
}

impl HoldId {
    /// Where the hold is in its shard.
    pub fn key(self) -> HoldKey {
        HoldKey { account: self.account, version: self.version }
    }
}

impl HoldKey {
    /// The id of the hold with this key that was placed at a time in a shard.
    pub fn id(self, shard: ShardId, created: Timestamp) -> HoldId {
        HoldId { time: created, shard, account: self.account, version: self.version }
    }
}

/// The holds of a shard: all pending ones, and the ended ones that are still remembered.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    holds: BTreeMap<HoldKey, Hold>,
    /// The pending ones by the time at which they expire.
    pending: BTreeSet<(Timestamp, HoldKey)>,
    /// The same by account: of some accounts there are millions, most of which have ended.
    pending_of: BTreeSet<(AccountNumber, Timestamp, u32)>,
    /// The ended ones by the time at which they ended.
    ended: BTreeSet<(Timestamp, HoldKey)>,
}

impl Holds {
    /// The hold with this id.
    pub fn get(&self, id: &HoldId) -> Option<&Hold> {
        self.holds.get(&id.key()).filter(|hold| hold.created == id.time)
    }

    /// The pending hold with this key.
    pub(super) fn pending_at(&self, key: HoldKey) -> Option<&Hold> {
        self.holds.get(&key).filter(|hold| hold.status == HoldStatus::Pending)
    }

    /// All holds, by account.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HoldKey, &Hold)> {
        self.holds.iter()
    }

    /// The holds of an account from a version on, oldest first.
    pub fn of_account(&self, account: AccountNumber, from: u32) -> impl Iterator<Item = (&HoldKey, &Hold)> {
        let key = |version| HoldKey { account, version };
        self.holds.range(key(from)..=key(u32::MAX))
    }

    /// How many are pending.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.pending.first().map(|(expires, _)| *expires)
    }

    /// The pending holds whose time is over, the longest first.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = HoldKey> {
        self.pending.iter().take_while(move |(expires, _)| *expires <= now).map(|(_, key)| *key)
    }

    /// Those of an account, the longest first.
    pub fn due_of(&self, account: AccountNumber, now: Timestamp) -> impl Iterator<Item = HoldKey> {
        let range = (account, Timestamp::from_millis(0), 0)..=(account, now, u32::MAX);
        self.pending_of
            .range(range)
            .map(|(account, _, version)| HoldKey { account: *account, version: *version })
    }

    pub(super) fn insert(&mut self, key: HoldKey, hold: Hold) {
        match hold.status {
            HoldStatus::Pending => {
                self.pending.insert((hold.expires, key));
                self.pending_of.insert((key.account, hold.expires, key.version));
            }
            HoldStatus::Ended { at, .. } => drop(self.ended.insert((at, key))),
        }
        self.holds.insert(key, hold);
    }

    /// Ends a pending hold.
    pub(super) fn end(&mut self, key: HoldKey, at: Timestamp, outcome: HoldOutcome) {
        let hold = self.holds.get_mut(&key).expect("only a hold that is there is ended");
        assert_eq!(hold.status, HoldStatus::Pending, "a hold ends once");
        hold.status = HoldStatus::Ended { at, outcome };
        self.pending.remove(&(hold.expires, key));
        self.pending_of.remove(&(key.account, hold.expires, key.version));
        self.ended.insert((at, key));
    }

    /// Forgets some of those that ended long ago, or before too many others.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.forget_beyond(ENDED_HOLDS_MAX, now);
    }

    fn forget_beyond(&mut self, ended_max: usize, now: Timestamp) {
        for _ in 0..FORGOTTEN_PER_EVENT_MAX {
            let is_one_too_many = self.ended.len() > ended_max;
            match self.ended.first().copied() {
                Some((at, key))
                    if is_one_too_many
                        || at.millis().saturating_add(ENDED_HOLD_MEMORY_MS) <= now.millis() =>
                {
                    self.ended.pop_first();
                    self.holds.remove(&key);
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They were remembered for a day, however many: at 500 a second that took gigabytes.
    #[test]
    fn an_ended_hold_is_forgotten_after_a_day_or_behind_many_others() {
        let time = Timestamp::from_millis;
        let key = |version| HoldKey { account: AccountNumber::new(0), version };
        let mut holds = Holds::default();
        for version in 1..=40 {
            let (created, expires) = (time(u64::from(version)), time(1000));
            let amount = Amount::from_minor_units(1).expect("in range");
            holds.insert(
                key(version),
                Hold { created, amount, to: None, expires, status: HoldStatus::Pending },
            );
            if version % 4 != 0 {
                holds.end(key(version), created, HoldOutcome::Voided);
            }
            holds.forget_beyond(10, created);
        }
        let ended = |holds: &Holds| -> Vec<u32> {
            let ended = holds.iter().filter(|(_, hold)| hold.status != HoldStatus::Pending);
            ended.map(|(key, _)| key.version).collect()
        };
        assert_eq!(ended(&holds), [27, 29, 30, 31, 33, 34, 35, 37, 38, 39]);
        assert_eq!((holds.pending(), holds.iter().len()), (10, 20), "what is pending stays");
        holds.forget_beyond(10, time(31 + ENDED_HOLD_MEMORY_MS));
        assert_eq!(ended(&holds), [33, 34, 35, 37, 38, 39]);
        holds.forget_beyond(0, time(0));
        assert!(ended(&holds).is_empty());
    }
}
