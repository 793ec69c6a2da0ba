//! What every journal promises, as one suite that each runs on itself with [`suite!`].

use std::sync::Arc;

use uuid::Uuid;

use super::record::{ChainHash, Draft, LogPosition, RECORD_BYTES_MAX, RECORD_BYTES_TYPICAL_MAX};
use super::{Journal, JournalReader};
use crate::ledger::{Change, Event, Rejection, Sequence, ShardId, Timestamp};

/// A journal under test, with what it takes to restart it.
pub(super) trait Bed: Sized {
    fn start(shard: ShardId, position: LogPosition) -> Self;
    /// As it is in production, where tests otherwise make something smaller.
    fn start_full_size(shard: ShardId, position: LogPosition) -> Self {
        Self::start(shard, position)
    }
    fn journal(&mut self) -> &mut dyn Journal;
    fn reader(&self) -> Arc<dyn JournalReader>;
    /// Ends this life, keeping what was synced at least, and starts the next.
    fn restart(self) -> Self;
}

/// Makes records that follow one another.
#[derive(Clone)]
pub(super) struct Chain {
    pub(super) shard: ShardId,
    pub(super) position: LogPosition,
}

impl Chain {
    pub(super) fn new() -> Chain {
        let shard = ShardId::new(3).expect("in range");
        Chain { shard, position: LogPosition::genesis(Uuid::from_u128(7), shard) }
    }

    /// The next record, with so many small events.
    pub(super) fn record(&mut self, count: u64) -> Vec<u8> {
        self.record_of(count, 3)
    }

    /// The next record, with so many events of about `bytes` bytes.
    pub(super) fn record_of(&mut self, count: u64, bytes: usize) -> Vec<u8> {
        let first = self.position.last.next();
        let event = |index: u64| {
            let number = (first.get() + index).to_string();
            let request_id = format!("{}{number}", "0".repeat(bytes.saturating_sub(number.len()))).into();
            let change = Change::Refused { rejection: Rejection::AccountNotFound, request_id };
            Event { time: Timestamp::from_millis(1_000_000), key: None, change }
        };
        let events: Vec<Event> = (0..count).map(event).collect();
        let draft = Draft::group(first, &events).expect("the record has room");
        draft.seal(self.shard, &mut self.position)
    }
}

pub(super) fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("in range")
}

/// The suite as tests of the module that calls this.
macro_rules! suite {
    ($bed:ty) => {
        #[test]
        fn contract_every_event_finds_its_record() {
            $crate::storage::journal::contract::every_event_finds_its_record::<$bed>();
        }

        #[test]
        fn contract_a_record_of_any_size_is_one_record() {
            $crate::storage::journal::contract::a_record_of_any_size_is_one_record::<$bed>();
        }

        #[test]
        fn contract_what_does_not_follow_is_refused_for_good() {
            $crate::storage::journal::contract::what_does_not_follow_is_refused_for_good::<$bed>();
        }

        #[test]
        fn contract_what_was_synced_survives() {
            $crate::storage::journal::contract::what_was_synced_survives::<$bed>();
        }

        #[test]
        fn contract_rolling_changes_nothing_for_readers() {
            $crate::storage::journal::contract::rolling_changes_nothing_for_readers::<$bed>();
        }
    };
}
pub(super) use suite;

fn append_all(journal: &mut dyn Journal, records: &[Vec<u8>]) {
    for record in records {
        journal.append(record).expect("follows");
    }
}

/// Checks that sequences 1 to `records`' last, and no others, find their records.
fn assert_reads(reader: &dyn JournalReader, records: &[(u64, u64, Vec<u8>)]) {
    for (first, last, bytes) in records {
        for number in *first..=*last {
            let found = reader.record(sequence(number)).expect("readable");
            assert_eq!(found.as_ref(), Some(bytes), "sequence {number}");
        }
    }
    let end = records.last().map_or(0, |(_, last, _)| *last);
    for number in [0, end + 1, end + 2, end + 1000, Sequence::MAX.get() - 1] {
        assert_eq!(reader.record(sequence(number)).expect("readable"), None);
    }
}

fn records(chain: &mut Chain, counts: &[u64]) -> Vec<(u64, u64, Vec<u8>)> {
    counts
        .iter()
        .map(|&count| {
            let first = chain.position.last.next().get();
            let bytes = chain.record(count);
            (first, first + count - 1, bytes)
        })
        .collect()
}

pub(super) fn every_event_finds_its_record<B: Bed>() {
    let mut chain = Chain::new();
    let mut bed = B::start(chain.shard, chain.position);
    let reader = bed.reader();
    assert_eq!(bed.journal().position(), chain.position);
    assert_reads(&*reader, &[]);
    bed.journal().sync().expect("nothing to sync is fine");

    let written = records(&mut chain, &[1, 5, 1, 2, 40, 1, 1, 3]);
    for (index, (_, last, bytes)) in written.iter().enumerate() {
        bed.journal().append(bytes).expect("follows");
        assert_eq!(bed.journal().position().last, sequence(*last));
        assert_reads(&*reader, &written[..=index]);
        if index % 2 == 0 {
            bed.journal().sync().expect("works");
        }
    }
    assert_eq!(bed.journal().position(), chain.position);
}

pub(super) fn a_record_of_any_size_is_one_record<B: Bed>() {
    let mut chain = Chain::new();
    let mut bed = B::start_full_size(chain.shard, chain.position);
    let typical = RECORD_BYTES_TYPICAL_MAX;
    let sizes =
        [500, typical - 1, typical, typical + 1, 500, 2 * typical, 7 * typical + 5, RECORD_BYTES_MAX, 500];
    let mut written = Vec::new();
    for size in sizes {
        let first = chain.position.last.next().get();
        let overhead = chain.clone().record_of(1, size - 80).len() - (size - 80);
        let bytes = chain.record_of(1, size - overhead);
        assert_eq!(bytes.len(), size);
        bed.journal().append(&bytes).expect("follows");
        written.push((first, first, bytes));
        // And one of several large events, so that a lookup ends in a later piece.
        let bytes = chain.record_of(3, size / 4);
        bed.journal().append(&bytes).expect("follows");
        written.push((first + 1, first + 3, bytes));
        assert_reads(&*bed.reader(), &written);
    }
    bed.journal().sync().expect("works");
    bed = bed.restart();
    assert_eq!(bed.journal().position(), chain.position);
    assert_reads(&*bed.reader(), &written);
}

pub(super) fn what_does_not_follow_is_refused_for_good<B: Bed>() {
    let mut chain = Chain::new();
    let start = chain.position;
    let first = chain.record(2);
    let after_first = chain.position;
    let second = chain.record(2);
    let third = chain.record(1);
    let mut elsewhere = Chain { shard: ShardId::new(4).expect("in range"), position: after_first };
    let mut unlinked =
        Chain { shard: chain.shard, position: LogPosition { chain: ChainHash([9; 32]), ..after_first } };
    let mut garbage = second.clone();
    garbage[70] ^= 1;
    let wrong = [
        ("a record twice", first.clone()),
        ("a record ahead", third),
        ("of another shard", elsewhere.record(1)),
        ("not linked", unlinked.record(1)),
        ("a flipped bit", garbage),
        ("cut", second[..second.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("too large", vec![0; RECORD_BYTES_MAX + 1]),
    ];
    let mut bed = B::start(chain.shard, start);
    bed.journal().append(&first).expect("follows");
    bed.journal().sync().expect("works");
    for (what, bytes) in wrong {
        assert!(bed.journal().append(&bytes).is_err(), "{what}");
        assert_eq!(bed.journal().position(), after_first, "{what}");
        assert!(bed.journal().append(&second).is_err(), "after {what}");
        assert!(bed.journal().sync().is_err(), "after {what}");
        assert!(bed.journal().roll().is_err(), "after {what}");
        bed = bed.restart();
        assert_eq!(bed.journal().position(), after_first, "{what}");
    }
    bed.journal().append(&second).expect("follows");
}

pub(super) fn what_was_synced_survives<B: Bed>() {
    let mut chain = Chain::new();
    let mut bed = B::start(chain.shard, chain.position);
    let mut written = Vec::new();
    for life in 1..=3 {
        let more = records(&mut chain, &[life, 3, 1]);
        append_all(bed.journal(), &more.iter().map(|(_, _, bytes)| bytes.clone()).collect::<Vec<_>>());
        bed.journal().sync().expect("works");
        written.extend(more);
        bed = bed.restart();
        assert_eq!(bed.journal().position(), chain.position);
        assert_reads(&*bed.reader(), &written);
    }
    bed = bed.restart();
    assert_eq!(bed.journal().position(), chain.position);
    assert_reads(&*bed.reader(), &written);
}

pub(super) fn rolling_changes_nothing_for_readers<B: Bed>() {
    let mut chain = Chain::new();
    let mut bed = B::start(chain.shard, chain.position);
    let reader = bed.reader();
    bed.journal().roll().expect("an empty journal rolls");
    let written = records(&mut chain, &[2, 2, 2, 2, 2, 2]);
    for (index, (_, _, bytes)) in written.iter().enumerate() {
        bed.journal().append(bytes).expect("follows");
        if index % 2 == 1 {
            bed.journal().roll().expect("rolls without a sync");
            bed.journal().roll().expect("rolls twice");
        }
        assert_reads(&*reader, &written[..=index]);
    }
    assert_eq!(bed.journal().position(), chain.position);
    bed = bed.restart();
    assert_eq!(bed.journal().position(), chain.position, "rolling made all durable");
    assert_reads(&*bed.reader(), &written);
}
