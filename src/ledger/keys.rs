//! Idempotency keys: which were used, for what, and until when that must be remembered.
//!
//! A key costs 48 bytes (digest, fingerprint, sequence, expiry), some 8 in the index and 4 in the order of expiry: 64 in
//! all where a hundred come in a millisecond, some 140 where each has one for itself. The outcome itself is the event at
//! `sequence`. The number of keys is bounded by [`super::Terms::keys_max`].
//!
//! Keys that come with one retention time expire in the order in which they came, so the order of expiry grows at its
//! end and is eaten from its front, and so does the list of places: both stay in the processor's caches, and only the
//! index is visited at random. It is a tree all the same, not a queue: after a change of the retention time, and for
//! keys that other shards have dated, the order is another, and is exactly as good.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

use super::{Event, KeyUse, Sequence, Timestamp};

/// How many expired keys one event forgets at most. One event adds one at most, so the number of keys does not
/// grow; and after an idle day no single request pays for a day's keys.
const FORGOTTEN_PER_EVENT_MAX: usize = 16;

/// How many keys stand in a row: each one that is added moves half of them.
const ROW_KEYS_MAX: usize = 256;

/// 128 bits of a cryptographic hash of a key and its scope. The ledger never sees the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 16]);

impl KeyDigest {
    const MAX: KeyDigest = KeyDigest([0xff; 16]);
}

/// A key and the request that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
///
/// What always holds: each key that is held has one place in `places`, which stands once in `index` and once in
/// `by_expiry`, in the row of its time; all other places are in `vacant`.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    places: Vec<(KeyDigest, KeyRecord)>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    salt: Salt,
    /// The keys by the time from when on they may be forgotten: those of one millisecond in a row, or in several, each
    /// of digests up to the one that it is under and above those of the row before. A row is never empty; its digests
    /// fall, so the one to be forgotten first is the last of the first row.
    by_expiry: BTreeMap<(Timestamp, KeyDigest), SmallVec<[u32; 4]>>,
}

impl Keys {
    /// How many keys are held, expired ones that are not yet forgotten too.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether another key would be one more than `keys_max`. With an expired one among them it is not: the event
    /// that brings the other one forgets that.
    pub fn is_full(&self, keys_max: usize, now: Timestamp) -> bool {
        self.len() >= keys_max
            && self.by_expiry.first_key_value().is_none_or(|((expires, _), _)| *expires > now)
    }

    /// What is known of `key` at a time.
    pub fn status(&self, key: &IdempotencyKey, now: Timestamp) -> KeyStatus {
        let is_it = |place: &u32| self.places[*place as usize].0 == key.digest;
        let place = self.index.find(self.salt.hash(&key.digest), is_it);
        match place.map(|place| &self.places[*place as usize].1) {
            None => KeyStatus::New,
            Some(record) if record.expires <= now => KeyStatus::New,
            Some(record) if record.fingerprint != key.fingerprint => KeyStatus::Reused,
            Some(record) if record.outcome == Sequence::NONE => KeyStatus::Claimed,
            Some(record) => KeyStatus::Settled(record.outcome),
        }
    }

    /// Takes note of an event, and forgets some of the keys that have expired by its time.
    pub(super) fn apply(&mut self, event: &Event, outcome: Sequence) {
        self.forget(event.time);
        if let Some(KeyUse { key, expires }) = event.key {
            self.insert(key.digest, KeyRecord { fingerprint: key.fingerprint, outcome, expires });
        }
    }

    fn forget(&mut self, now: Timestamp) {
        for _ in 0..FORGOTTEN_PER_EVENT_MAX {
            let Some(mut row) = self.by_expiry.first_entry().filter(|row| row.key().0 <= now) else {
                return;
            };
            let place = row.get_mut().pop().expect("a row is not empty");
            if row.get().is_empty() {
                row.remove();
            }
            let hash = self.salt.hash(&self.places[place as usize].0);
            let indexed = self.index.find_entry(hash, |known| *known == place);
            indexed.expect("a key that is held is in the index").remove();
            self.vacant.push(place);
        }
    }

    /// Adds or replaces the record of a key.
    pub(super) fn insert(&mut self, digest: KeyDigest, record: KeyRecord) {
        let (places, salt) = (&mut self.places, &self.salt);
        let is_it = |place: &u32| places[*place as usize].0 == digest;
        let rehash = |place: &u32| salt.hash(&places[*place as usize].0);
        let place = match self.index.entry(salt.hash(&digest), is_it, rehash) {
            Entry::Occupied(known) => {
                let place = *known.get();
                let before = std::mem::replace(&mut places[place as usize].1, record);
                self.leave_row(before.expires, &digest, place);
                place
            }
            Entry::Vacant(entry) => {
                let place = self.vacant.pop().unwrap_or_else(|| {
                    places.push((digest, record));
                    u32::try_from(places.len() - 1).expect("the bound on keys has 32 bits")
                });
                places[place as usize] = (digest, record);
                entry.insert(place);
                place
            }
        };
        let under = self.row_of(record.expires, &digest).unwrap_or((record.expires, KeyDigest::MAX));
        let row = self.by_expiry.entry(under).or_default();
        let at = row.partition_point(|other| self.places[*other as usize].0 > digest);
        row.insert(at, place);
        if row.len() > ROW_KEYS_MAX {
            let lower: SmallVec<_> = row.drain(ROW_KEYS_MAX / 2..).collect();
            let largest = self.places[lower[0] as usize].0;
            self.by_expiry.insert((record.expires, largest), lower);
        }
    }

    /// Under what the row stands that has a key, or would take it.
    fn row_of(&self, expires: Timestamp, digest: &KeyDigest) -> Option<(Timestamp, KeyDigest)> {
        let rows = self.by_expiry.range((expires, *digest)..=(expires, KeyDigest::MAX));
        rows.map(|(under, _)| *under).next()
    }

    /// Takes a place out of its row.
    fn leave_row(&mut self, expires: Timestamp, digest: &KeyDigest, place: u32) {
        let under = self.row_of(expires, digest).expect("a key that is held is in the order of expiry");
        let row = self.by_expiry.get_mut(&under).expect("it was found");
        row.retain(|other| *other != place);
        if row.is_empty() {
            self.by_expiry.remove(&under);
        }
    }

    /// The keys in order of expiry: what a snapshot keeps, the same bytes for the same events.
    pub fn in_order(&self) -> impl Iterator<Item = (KeyDigest, KeyRecord)> {
        let rows = self.by_expiry.values();
        rows.flat_map(|row| row.iter().rev().map(|place| self.places[*place as usize]))
    }
}

/// Makes a hash of a digest, which is one already, by a multiplication. Drawn at random, so that nobody can choose keys
/// that meet in the index; it decides where in memory a number stands and nothing else, so the state remains a pure
/// function of the events.
#[derive(Clone, Copy, Debug)]
struct Salt([u64; 2]);

impl Default for Salt {
    fn default() -> Salt {
        let random = RandomState::new();
        Salt([random.hash_one(0), random.hash_one(1)])
    }
}

impl Salt {
    fn hash(self, digest: &KeyDigest) -> u64 {
        let digest = u128::from_le_bytes(digest.0);
        let halves = [digest as u64 ^ self.0[0], (digest >> 64) as u64 ^ self.0[1]];
        let product = u128::from(halves[0]) * u128::from(halves[1]);
        (product >> 64) as u64 ^ product as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Change;

    /// What the keys are, in the simplest way: all of them in one tree by expiry and digest.
    #[derive(Default)]
    struct Plain(std::collections::BTreeMap<(Timestamp, KeyDigest), KeyRecord>);

    impl Plain {
        fn apply(&mut self, event: &Event, outcome: Sequence) {
            for _ in 0..FORGOTTEN_PER_EVENT_MAX {
                if self.0.first_key_value().is_some_and(|((expires, _), _)| *expires <= event.time) {
                    self.0.pop_first();
                }
            }
            if let Some(KeyUse { key, expires }) = event.key {
                self.0.retain(|(_, digest), _| *digest != key.digest);
                let record = KeyRecord { fingerprint: key.fingerprint, outcome, expires };
                self.0.insert((expires, key.digest), record);
            }
        }
    }

    /// Whatever retention times there are, changing ones too, and whichever keys come again: what is forgotten when, and
    /// the order in a snapshot, are those of a sorted list.
    #[test]
    fn keys_are_forgotten_and_listed_in_order_of_expiry_and_digest() {
        for seed in 1..=40u64 {
            let mut state = seed;
            let mut random = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let (mut keys, mut plain) = (Keys::default(), Plain::default());
            let mut now = 1000;
            let mut retention = 50;
            for step in 1..=1500 {
                now += if random(300) == 0 { 500 } else { random(2) };
                if random(200) == 0 {
                    retention = [0, 1, 20, 50, 400][random(5) as usize];
                }
                let expires = Timestamp::from_millis(now + retention + random(3) * random(2));
                let mut digest = [0; 16];
                digest[15] = random(200) as u8;
                digest[0] = random(2) as u8;
                let key = IdempotencyKey { digest: KeyDigest(digest), fingerprint: [step as u8; 16] };
                let key = (random(8) > 0).then_some(KeyUse { key, expires });
                let event = Event { time: Timestamp::from_millis(now), key, change: Change::Claimed };
                let outcome = Sequence::new(step).expect("in range");
                keys.apply(&event, outcome);
                plain.apply(&event, outcome);
                assert_eq!(keys.len(), plain.0.len());
                if let Some(KeyUse { key, .. }) = key {
                    let known = plain.0.iter().find(|((_, digest), _)| *digest == key.digest);
                    let expected = match known {
                        Some((_, record)) if record.expires > event.time => {
                            KeyStatus::Settled(record.outcome)
                        }
                        _ => KeyStatus::New,
                    };
                    assert_eq!(keys.status(&key, event.time), expected);
                }
                if step % 50 == 0 {
                    assert!(
                        keys.in_order().eq(plain.0.iter().map(|((_, digest), record)| (*digest, *record))),
                        "seed {seed}, step {step}"
                    );
                    let first = plain.0.first_key_value().map(|((expires, _), _)| *expires);
                    let due = first.is_some_and(|expires| expires <= event.time);
                    assert_eq!(keys.is_full(keys.len(), event.time), !due);
                }
            }
        }
    }

    /// A clock that was set back makes thousands of keys expire in one millisecond, and a snapshot lists them in order.
    #[test]
    fn however_many_expire_together_their_rows_are_short_and_in_order() {
        let digest = |number: u64| KeyDigest((u128::from(number) << 64).to_be_bytes());
        let record = |number| KeyRecord {
            fingerprint: [0; 16],
            outcome: Sequence::new(number + 1).expect("in range"),
            expires: Timestamp::from_millis(7),
        };
        let count = 5000;
        let orders: [fn(u64) -> u64; 3] =
            [|number| number, |number| 4999 - number, |number| number * 2029 % 5000];
        for order in orders {
            let mut keys = Keys::default();
            (0..count).map(order).for_each(|number| keys.insert(digest(number), record(number)));
            // Each once more, as a claim is when it is settled.
            (0..count).for_each(|number| keys.insert(digest(number), record(number)));
            assert!(keys.by_expiry.values().all(|row| (1..=ROW_KEYS_MAX).contains(&row.len())));
            assert!(keys.in_order().eq((0..count).map(|number| (digest(number), record(number)))));
            keys.forget(Timestamp::from_millis(7));
            let left = FORGOTTEN_PER_EVENT_MAX as u64..count;
            assert!(keys.in_order().eq(left.map(|number| (digest(number), record(number)))));
        }
    }

    #[test]
    fn a_place_that_was_left_is_taken_again() {
        let mut keys = Keys::default();
        for number in 0..10_000u64 {
            let mut digest = [0; 16];
            digest[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            let key = IdempotencyKey { digest: KeyDigest(digest), fingerprint: [0; 16] };
            let expires = Timestamp::from_millis(number + 100);
            let event = Event {
                time: Timestamp::from_millis(number),
                key: Some(KeyUse { key, expires }),
                change: Change::Claimed,
            };
            keys.apply(&event, Sequence::FIRST);
        }
        assert_eq!((keys.len(), keys.places.len()), (100, 100));
    }
}
