//! Deciding and applying in memory, against a bare `HashMap` of as many names; encoding and decoding records,
//! against the checksum and the hash that any chained log pays.

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use support::{Arena, Feed, name, shard, sized, timed};
use teller::ledger::{AccountName, Change, Command, Event, IdempotencyKey, Sequence};
use teller::random::Random;
use teller::storage::journal::record::{Draft, LogPosition, Record};

/// How many operations are made up before the clock runs.
const CHUNK: u64 = 1000;

/// As many keys are remembered all the time: each new one lets one expire.
const KEYS: usize = 100_000;

/// The events of a small, a middling and a nearly full record: about 60 bytes, 6 and 40 KiB of them.
const RECORD_EVENTS: [usize; 3] = [1, 256, 1024];

fn main() {
    let mut arena = Arena::new();
    decide_and_apply(&mut arena, "1k accounts", 1000);
    decide_and_apply(&mut arena, "1M accounts", sized(1_000_000, 1000));
    records(&mut arena);
    arena.finish();
}

fn decide_and_apply(arena: &mut Arena, group: &str, accounts: usize) {
    let mut feed = Feed::new(accounts, |_, _| {});
    let mut bare = Bare::new(accounts);
    for keyed in [false, true] {
        if keyed {
            for _ in 0..sized(KEYS, 100) {
                let (deposit, key) = (feed.deposit(), feed.key());
                feed.happen(deposit, Some(key));
            }
        }
        let with = if keyed { ", with a key" } else { "" };
        arena.duel(
            group,
            &format!("deposit{with}"),
            1,
            |count| run(&mut feed, count, keyed, Feed::deposit),
            |count| bare.run(count),
        );
        arena.duel(
            group,
            &format!("refused withdrawal{with}"),
            1,
            |count| run(&mut feed, count, keyed, Feed::unpayable),
            |count| bare.run(count),
        );
    }
}

fn run(feed: &mut Feed, count: u64, keyed: bool, make: fn(&mut Feed) -> Command) -> Duration {
    in_chunks(count, |count| {
        let work: Vec<(Command, Option<IdempotencyKey>)> =
            (0..count).map(|_| (make(feed), keyed.then(|| feed.key()))).collect();
        timed(|| {
            for (command, key) in &work {
                black_box(one(feed, command, *key));
            }
        })
    })
}

/// What a shard does for a request, less its records and replies.
fn one(feed: &mut Feed, command: &Command, key: Option<IdempotencyKey>) -> Option<Sequence> {
    feed.tick();
    if let Some(key) = &key {
        black_box(feed.ledger.key_status(key, feed.terms.now));
    }
    let change = match (feed.ledger.decide(command, &feed.terms), key) {
        (Ok(change), _) => change,
        (Err(rejection), Some(_)) => Change::Refused { rejection, request_id: "0123456789abcdef".into() },
        (Err(rejection), None) => {
            black_box(rejection);
            return None;
        }
    };
    let key = key.map(|key| feed.terms.key_use(key));
    Some(feed.ledger.apply(&Event { time: feed.terms.now, key, change }))
}

/// A `HashMap` of names and balances: the least that a ledger by name can cost.
struct Bare {
    balances: HashMap<AccountName, i128>,
    random: Random,
}

impl Bare {
    fn new(accounts: usize) -> Bare {
        Bare { balances: (0..accounts).map(|number| (name(number), 0)).collect(), random: Random::new(1) }
    }

    fn run(&mut self, count: u64) -> Duration {
        in_chunks(count, |count| {
            let names: Vec<AccountName> =
                (0..count).map(|_| name(self.random.below(self.balances.len() as u64) as usize)).collect();
            timed(|| {
                for name in &names {
                    if let Some(balance) = self.balances.get_mut(name) {
                        *balance += 1;
                    }
                }
            })
        })
    }
}

fn in_chunks(count: u64, mut run: impl FnMut(u64) -> Duration) -> Duration {
    let whole: Duration = (0..count / CHUNK).map(|_| run(CHUNK)).sum();
    whole + run(count % CHUNK)
}

fn records(arena: &mut Arena) {
    let mut feed = Feed::new(1000, |_, _| {});
    for count in RECORD_EVENTS {
        let events: Vec<(Sequence, Event)> = (0..count).map(|_| feed.next_event()).collect();
        let mut before = LogPosition::genesis(support::LEDGER, shard());
        before.last = Sequence::new(events[0].0.get() - 1).expect("in range");
        let record = seal(&events, before);
        let floor = |count| {
            timed(|| {
                for _ in 0..count {
                    black_box(crc32c::crc32c(black_box(&record[4..])));
                    black_box(blake3::hash(black_box(&record)));
                }
            })
        };
        let elements = count as u64;
        arena.duel(
            "encode an event",
            &format!("{count} a record"),
            elements,
            |count| {
                timed(|| {
                    for _ in 0..count {
                        black_box(seal(black_box(&events), before));
                    }
                })
            },
            floor,
        );
        arena.duel(
            "decode an event",
            &format!("{count} a record"),
            elements,
            |count| {
                timed(|| {
                    for _ in 0..count {
                        let record = Record::parse(black_box(&record)).expect("it was sealed");
                        black_box(record.follow(shard(), &before).expect("it follows"));
                        for event in record.events() {
                            black_box(event.expect("it was encoded"));
                        }
                    }
                })
            },
            floor,
        );
    }
}

fn seal(events: &[(Sequence, Event)], mut before: LogPosition) -> Vec<u8> {
    let (sequence, event) = &events[0];
    let mut draft = Draft::new(*sequence, event);
    for (_, event) in &events[1..] {
        assert!(draft.push(event), "they fit a record");
    }
    draft.seal(shard(), &mut before)
}
