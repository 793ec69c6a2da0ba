//! Idempotency keys: which were used, for what, and until when that must be remembered.
//!
//! A key costs 64 bytes in the table (digest, fingerprint, sequence, expiry) and 24 in the order of expiry,
//! about 120 with their slack; the outcome itself is the event at `sequence`. The number of keys is bounded by
//! [`super::Terms::keys_max`].

use std::collections::{BTreeSet, HashMap};

use super::{Event, KeyUse, Sequence, Timestamp};

/// How many expired keys one event forgets at most. One event adds one at most, so the number of keys does not
/// grow; and after an idle day no single request pays for a day's keys.
const FORGOTTEN_PER_EVENT_MAX: usize = 16;

/// 128 bits of a cryptographic hash of a key and its scope. The ledger never sees the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 16]);

/// A key and the request that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Which key.
    pub digest: KeyDigest,
    /// 128 bits of a cryptographic hash of the request: the same key with another fingerprint is refused.
    pub fingerprint: [u8; 16],
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// It was not used, or so long ago that it has been forgotten.
    New,
    /// It was reserved for this very request, which has no outcome in this shard yet.
    Claimed,
    /// This very request has its outcome in the event with this sequence.
    Settled(Sequence),
    /// It was used for another request.
    Reused,
}

impl KeyStatus {
    /// The key's request is being worked on: its outcome is not there to be told yet.
    pub const IN_FLIGHT: KeyStatus = KeyStatus::Settled(Sequence::NONE);
}

/// What is remembered of a used key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The request's fingerprint.
    pub fingerprint: [u8; 16],
    /// The event with the outcome, or [`Sequence::NONE`] for a key that is only claimed.
    pub outcome: Sequence,
    /// From when on it may be forgotten.
    pub expires: Timestamp,
}

/// The keys of a shard.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    records: HashMap<KeyDigest, KeyRecord>,
    /// The keys by the time at which they may be forgotten: exactly one entry a record.
    by_expiry: BTreeSet<(Timestamp, KeyDigest)>,
}

impl Keys {
    /// How many keys are held, expired ones that are not yet forgotten too.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether another key would be one more than `keys_max`. With an expired one among them it is not: the event
    /// that brings the other one forgets that.
    pub fn is_full(&self, keys_max: usize, now: Timestamp) -> bool {
        self.len() >= keys_max && self.by_expiry.first().is_none_or(|(expires, _)| *expires > now)
    }

    /// What is known of `key` at a time.
    pub fn status(&self, key: &IdempotencyKey, now: Timestamp) -> KeyStatus {
        match self.records.get(&key.digest) {
            None => KeyStatus::New,
            Some(record) if record.expires <= now => KeyStatus::New,
            Some(record) if record.fingerprint != key.fingerprint => KeyStatus::Reused,
            Some(record) if record.outcome == Sequence::NONE => KeyStatus::Claimed,
            Some(record) => KeyStatus::Settled(record.outcome),
        }
    }

    /// Takes note of an event, and forgets some of the keys that have expired by its time.
    pub(super) fn apply(&mut self, event: &Event, outcome: Sequence) {
        for _ in 0..FORGOTTEN_PER_EVENT_MAX {
            match self.by_expiry.first().copied() {
                Some((expires, digest)) if expires <= event.time => {
                    self.by_expiry.pop_first();
                    self.records.remove(&digest);
                }
                _ => break,
            }
        }
        if let Some(KeyUse { key, expires }) = event.key {
            self.insert(key.digest, KeyRecord { fingerprint: key.fingerprint, outcome, expires });
        }
    }

    /// Adds or replaces the record of a key.
    pub(super) fn insert(&mut self, digest: KeyDigest, record: KeyRecord) {
        if let Some(before) = self.records.insert(digest, record) {
            self.by_expiry.remove(&(before.expires, digest));
        }
        self.by_expiry.insert((record.expires, digest));
    }

    /// The keys in order of expiry: what a snapshot keeps, the same bytes for the same events.
    pub fn in_order(&self) -> impl Iterator<Item = (KeyDigest, KeyRecord)> {
        self.by_expiry.iter().filter_map(|(_, digest)| Some((*digest, *self.records.get(digest)?)))
    }
}
