//! What one shard has decided and another one, when the process ended, had not yet applied.
//!
//! A decision is durable in the log of the shard that made it before any other shard writes that it has applied its part
//! (in memory it has at once), and nobody is told of it before that. So a crash can leave decisions *in flight*: they are
//! facts, and their parts are applied at the next start, before any account answers (P2, P5).
//!
//! ```text
//! log of shard A    7 for B    9 for B and C    12 for B          A sent to B up to 12
//!                   ^----------^----------------^                 each names the one before for B
//! log of shard B    settled 7 of A                                B received from A up to 7: 9 and 12 are in flight
//! ```
//!
//! What always holds:
//!
//! - what is found is exactly what was sent and not received, in the order of deciding; a decision that is missing, or
//!   one that was received and not sent, is an error that names both shards and the sequences (P6);
//! - nothing is written before all shards' parts have been found, checked and applied in memory;
//! - a start that ends in the midst of writing leaves less in flight, and the next one goes on with that.
//!
//! Two decisions of different shards that are in flight do not concern the same account: the second one was decided on
//! what the first had left there, and its log waited until that was durable. So only the order of each shard's own
//! decisions matters; they are applied in the order of their times all the same.
//!
//! Left out: which shards wait for what while they run; that is [`crate::shard`]'s.

use std::sync::Arc;

use super::history::HistoryReader;
use super::journal::record::Draft;
use super::journal::{Journal, JournalReader};
use super::{RESTORE_BACKUP, StorageError};
use crate::ledger::{Change, Decision, Event, Ledger, Sequence, ShardId, Timestamp, TransactionId};

/// The next step when the logs of two shards are not of one moment.
pub(super) const RESTORE_TOGETHER: &str = "the files of its shards are not of one moment: \
     keep the directory as it is, and restore all shards from one backup";

/// A shard that has been recovered and does not run yet.
pub struct Side<'a> {
    /// Its state, at the end of its log.
    pub ledger: &'a mut Ledger,
    /// Its log.
    pub log: &'a dyn JournalReader,
    /// Where it goes on.
    pub journal: &'a mut dyn Journal,
}

/// A decision, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// Its event.
    pub by: TransactionId,
    /// What it changes.
    pub decision: Arc<Decision>,
}

/// Applies all that is in flight among all the shards of a ledger, and makes that durable. Says how many parts there
/// were. A part that is applied is an event of its shard from `now`, or from the time of what came before it, or of the
/// decision, if that is later.
///
/// # Errors
/// If the logs contradict one another or cannot be read; then nothing was written. Or if the events cannot be written:
/// then what was is as after a crash.
pub fn settle(sides: &mut [Side<'_>], now: Timestamp) -> Result<usize, StorageError> {
    let mut found: Vec<Vec<Decided>> = Vec::with_capacity(sides.len());
    for side in sides.iter() {
        found.push(find(sides, side.ledger)?);
    }
    let mut events: Vec<Vec<Event>> = Vec::with_capacity(sides.len());
    for (side, decided) in sides.iter_mut().zip(found) {
        events.push(apply_all(side.ledger, decided, now)?);
    }
    for (side, events) in sides.iter_mut().zip(&events) {
        append(side, events)?;
    }
    Ok(events.iter().map(Vec::len).sum())
}

/// What is in flight to a shard, each other one's decisions oldest first.
fn find(sides: &[Side<'_>], to: &Ledger) -> Result<Vec<Decided>, StorageError> {
    for from in to.received().keys() {
        if !sides.iter().any(|side| side.ledger.shard() == *from) {
            let what =
                format!("shard {} has applied decisions of shard {from}, which is not there", to.shard());
            return Err(corrupt(to.shard(), to.last(), what, RESTORE_TOGETHER));
        }
    }
    let mut found = Vec::new();
    for side in sides {
        let from = side.ledger.shard();
        let (sent, received) = (side.ledger.sent_to(to.shard()), to.received_from(from));
        found.extend(between(from, side.log, sent, to.shard(), received)?);
    }
    Ok(found)
}

/// What shard `from` decided for shard `to` behind its decision `received`, up to its decision `sent`, oldest first.
/// Found by walking back from `sent`, because each names the one before.
///
/// # Errors
/// If the log cannot be read, if a decision is missing in it, or if `received` is none of those that it has.
pub fn between(
    from: ShardId,
    log: &dyn JournalReader,
    sent: Sequence,
    to: ShardId,
    received: Sequence,
) -> Result<Vec<Decided>, StorageError> {
    if received > sent {
        let what = format!(
            "shard {to} has applied decision {received} of shard {from}, whose log has none for it behind {sent}"
        );
        return Err(corrupt(from, received, what, RESTORE_TOGETHER));
    }
    let mut reader = HistoryReader::new(from, log);
    let mut found = Vec::new();
    let mut at = sent;
    while at > received {
        let missing = |what: &str| {
            let what = format!(
                "shard {from} sent decisions up to {sent} to shard {to}, which has applied them up to {received}; {what}"
            );
            corrupt(from, at, what, RESTORE_BACKUP)
        };
        let event = reader.event(at)?.ok_or_else(|| missing("the one at this place is missing"))?;
        let Event { time, change: Change::Decided { decision, .. }, .. } = event else {
            return Err(missing("there is no decision at this place"));
        };
        let Some(previous) = decision.part(to).map(|part| part.previous).filter(|previous| *previous < at)
        else {
            return Err(missing("the decision at this place has no part for it"));
        };
        found.push(Decided { by: TransactionId { time, shard: from, sequence: at }, decision });
        at = previous;
    }
    if at != received {
        let what = format!(
            "shard {to} has applied decision {received} of shard {from}, but that is none for it: \
             the one before {} is {at}",
            found.last().map_or(sent, |first| first.by.sequence)
        );
        return Err(corrupt(from, received, what, RESTORE_TOGETHER));
    }
    found.reverse();
    Ok(found)
}

/// Applies all that is in flight to a shard, in memory, and returns the events.
///
/// # Errors
/// If a part does not follow from the state: the logs are not of one moment.
pub(super) fn apply_all(
    ledger: &mut Ledger,
    mut in_flight: Vec<Decided>,
    now: Timestamp,
) -> Result<Vec<Event>, StorageError> {
    // Those of one shard stay in their order: its time does not run backwards.
    in_flight.sort_by_key(|decided| (decided.by.time, decided.by.shard, decided.by.sequence));
    in_flight.iter().map(|decided| apply(ledger, decided, now)).collect()
}

/// Applies a part, and returns the event.
fn apply(ledger: &mut Ledger, decided: &Decided, now: Timestamp) -> Result<Event, StorageError> {
    let Decided { by, decision } = decided;
    let settled = ledger.settled(*by, decision, now).and_then(|event| {
        let event = event.expect("it is behind what was received");
        ledger.replay(&event)?;
        Ok(event)
    });
    settled.map_err(|error| {
        let what =
            format!("the decision does not fit shard {}, which has to apply it: {error}", ledger.shard());
        corrupt(by.shard, by.sequence, what, RESTORE_TOGETHER)
    })
}

/// Writes events that have been applied, and makes them durable.
fn append(side: &mut Side<'_>, mut events: &[Event]) -> Result<(), StorageError> {
    if events.is_empty() {
        return Ok(());
    }
    let mut position = side.journal.position();
    while let Some((first, others)) = events.split_first() {
        let mut draft = Draft::new(position.last.next(), first);
        let count = others.iter().take_while(|event| draft.push(event)).count();
        side.journal.append(&draft.seal(side.ledger.shard(), &mut position))?;
        events = &others[count..];
    }
    side.journal.sync()
}

fn corrupt(shard: ShardId, sequence: Sequence, what: String, next_step: &'static str) -> StorageError {
    StorageError::at_sequence(format!("the log of shard {shard}"), sequence, what, next_step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::journal::record::{LogPosition, Record};
    use crate::storage::journal::{MemoryJournal, MemoryReader};
    use crate::storage::samples::{Exchange, LEDGER};

    /// The shards of an exchange with their logs.
    struct Bench {
        ledgers: Vec<Ledger>,
        journals: Vec<MemoryJournal>,
        readers: Vec<MemoryReader>,
    }

    impl Bench {
        fn new(exchange: &Exchange) -> Bench {
            let mut journals = Vec::new();
            for (ledger, events) in exchange.ledgers.iter().zip(&exchange.events) {
                let mut position = LogPosition::genesis(LEDGER, ledger.shard());
                let mut journal = MemoryJournal::new(ledger.shard(), position);
                for event in events {
                    let draft = Draft::new(position.last.next(), event);
                    journal.append(&draft.seal(ledger.shard(), &mut position)).expect("follows");
                }
                journal.sync().expect("works");
                journals.push(journal);
            }
            let readers = journals.iter().map(MemoryJournal::reader).collect();
            Bench { ledgers: exchange.ledgers.clone(), journals, readers }
        }

        fn settle(&mut self) -> Result<usize, String> {
            let mut sides: Vec<Side<'_>> = self
                .ledgers
                .iter_mut()
                .zip(&mut self.journals)
                .zip(&self.readers)
                .map(|((ledger, journal), log)| Side { ledger, journal, log })
                .collect();
            settle(&mut sides, Timestamp::from_millis(2_000_000_000_000)).map_err(|error| error.to_string())
        }

        /// The state that the durable records lead to.
        fn replayed(&self, shard: usize) -> Ledger {
            let mut ledger = Ledger::new(self.ledgers[shard].shard());
            for bytes in self.journals[shard].durable_records() {
                for event in Record::parse(&bytes).expect("valid").events() {
                    ledger.replay(&event.expect("valid").1).expect("follows");
                }
            }
            ledger
        }

        /// The decisions of other shards that a shard has applied, in its order.
        fn settled(&self, shard: usize) -> Vec<TransactionId> {
            let ledger = &self.ledgers[shard];
            let mut reader = HistoryReader::new(ledger.shard(), &self.readers[shard]);
            (1..=ledger.last().get())
                .filter_map(|number| match reader.event(Sequence::new(number)?).ok()??.change {
                    Change::Settled { by, .. } => Some(by),
                    _ => None,
                })
                .collect()
        }

        fn records(&self) -> Vec<usize> {
            self.journals.iter().map(|journal| journal.durable_records().len()).collect()
        }

        fn assert_is_settled(&mut self) {
            let records = self.records();
            assert_eq!(self.settle(), Ok(0));
            assert_eq!(self.records(), records, "nothing is written when nothing is in flight");
            let mut units = 0;
            for (index, ledger) in self.ledgers.iter().enumerate() {
                assert_eq!(
                    self.replayed(index).to_parts(),
                    ledger.to_parts(),
                    "what is durable is the state"
                );
                units += ledger.clearing().values().map(|total| total.minor_units()).sum::<i128>();
            }
            assert_eq!(units, 0, "nothing is in flight");
        }
    }

    fn balances(bench: &Bench) -> Vec<i128> {
        bench.ledgers.iter().map(|ledger| ledger.accounts()[0].posted.minor_units()).collect()
    }

    #[test]
    fn a_crash_between_decision_and_settlement_is_made_good_once() {
        let mut exchange = Exchange::new(2);
        exchange.transfer(0, &[(0, -500), (1, 500)]);
        let mut bench = Bench::new(&exchange);
        assert_eq!(balances(&bench), [-500, 0]);
        assert_eq!(bench.settle(), Ok(1));
        assert_eq!(balances(&bench), [-500, 500]);
        bench.assert_is_settled();
    }

    #[test]
    fn nothing_in_flight_is_nothing_to_do() {
        let mut exchange = Exchange::new(3);
        let by = exchange.transfer(2, &[(0, -500), (1, 500)]);
        exchange.settle(0, by);
        exchange.settle(1, by);
        let by = exchange.transfer(1, &[(1, -5), (2, 5)]);
        exchange.settle(2, by);
        Bench::new(&exchange).assert_is_settled();
        Bench::new(&Exchange::new(1)).assert_is_settled();
    }

    /// Several decisions of several shards, of which some parts were applied and some not.
    #[test]
    fn all_that_is_in_flight_over_three_shards_is_applied_in_order() {
        let mut exchange = Exchange::new(3);
        let first = exchange.transfer(2, &[(0, -100), (1, 60), (2, 40)]);
        exchange.settle(0, first);
        // Shard 1 has not applied the first when shard 2 decides more for it, and for shard 0.
        exchange.transfer(2, &[(1, -10), (2, 10)]);
        exchange.transfer(2, &[(0, -7), (1, 7)]);
        exchange.transfer(2, &[(0, 3), (2, -3)]);
        let expected = exchange.balances();
        let mut bench = Bench::new(&exchange);
        assert_eq!(bench.settle(), Ok(3 + 2));
        assert_eq!(balances(&bench), expected);
        let settled =
            |shard: usize| -> Vec<u64> { bench.settled(shard).iter().map(|by| by.sequence.get()).collect() };
        assert_eq!(settled(1), [2, 3, 4]);
        assert_eq!(settled(0), [2, 4, 5]);
        assert_eq!(bench.ledgers[1].received_from(bench.ledgers[2].shard()).get(), 4);
        bench.assert_is_settled();
    }

    #[test]
    fn decisions_of_two_shards_for_a_third_are_applied_in_the_order_of_their_times() {
        let mut exchange = Exchange::new(4);
        // The logs are walked in the order of the shards, and shard 3 is the first to decide for shard 2.
        exchange.transfer(3, &[(3, -1), (0, 1)]);
        let in_order = [(3, -4), (1, -2), (3, -8), (1, -16)]
            .map(|(by, units)| exchange.transfer(by, &[(by, units), (2, -units)]));
        let expected = exchange.balances();
        let mut bench = Bench::new(&exchange);
        assert_eq!(bench.settle(), Ok(5));
        assert_eq!(balances(&bench), expected);
        assert_eq!(bench.settled(2), in_order);
        bench.assert_is_settled();
    }

    #[test]
    fn a_start_that_ends_while_it_settles_leaves_the_rest_for_the_next() {
        let mut exchange = Exchange::new(3);
        exchange.transfer(0, &[(0, -30), (1, 10), (2, 20)]);
        let expected = exchange.balances();
        let mut bench = Bench::new(&exchange);
        bench.journals[2].fail_next_sync();
        let error = bench.settle().expect_err("the sync fails");
        assert!(error.contains("sync"), "{error}");
        for journal in &mut bench.journals {
            journal.crash();
        }
        bench.ledgers = (0..3).map(|shard| bench.replayed(shard)).collect();
        assert_eq!(bench.settle(), Ok(1), "shard 1 had been written");
        assert_eq!(balances(&bench), expected);
        bench.assert_is_settled();
    }

    /// A thousand decisions pass the size of one record.
    #[test]
    fn many_in_flight_are_written_in_several_records() {
        let mut exchange = Exchange::new(2);
        for _ in 0..2000 {
            exchange.transfer(0, &[(0, -1), (1, 1)]);
        }
        let mut bench = Bench::new(&exchange);
        assert_eq!(bench.settle(), Ok(2000));
        let records = bench.records()[1];
        assert!((3..10).contains(&records), "{records} records");
        bench.assert_is_settled();
    }

    /// Takes a shard back to what its log had after so many events, as when its files came from an older backup.
    fn set_back(exchange: &mut Exchange, shard: usize, events: usize) {
        exchange.events[shard].truncate(events);
        let mut ledger = Ledger::new(exchange.ledgers[shard].shard());
        for event in &exchange.events[shard] {
            ledger.replay(event).expect("follows");
        }
        exchange.ledgers[shard] = ledger;
    }

    fn refused(exchange: &Exchange) -> String {
        let mut bench = Bench::new(exchange);
        let before = bench.records();
        let error = bench.settle().expect_err("the logs contradict one another");
        assert_eq!(bench.records(), before, "nothing is written: {error}");
        assert!(error.contains("restore"), "it names the next step: {error}");
        error
    }

    #[test]
    fn a_mark_beyond_what_was_sent_is_refused() {
        let mut exchange = Exchange::new(2);
        for _ in 0..2 {
            let by = exchange.transfer(0, &[(0, -1), (1, 1)]);
            exchange.settle(1, by);
        }
        set_back(&mut exchange, 0, 2);
        let error = refused(&exchange);
        assert!(
            error.contains("the log of shard 0 is corrupt at sequence 3")
                && error.contains("shard 1 has applied decision 3 of shard 0")
                && error.contains("none for it behind 2"),
            "{error}"
        );
        // The deciding shard's files are lost altogether, and another shard's stand in their place.
        let mut bench = Bench::new(&exchange);
        bench.ledgers.remove(0);
        let error = bench.settle().expect_err("a shard is missing");
        assert!(error.contains("shard 0, which is not there"), "{error}");
    }

    #[test]
    fn a_mark_that_is_no_decision_for_the_shard_is_refused() {
        let mut exchange = Exchange::new(3);
        let by = exchange.transfer(0, &[(0, -1), (1, 1)]);
        exchange.settle(1, by);
        let before = exchange.clone();
        let by = exchange.transfer(0, &[(0, -1), (1, 1)]);
        exchange.settle(1, by);
        // Shard 0 is from another history: there its third event was for shard 2.
        let mut other = before;
        let by = other.transfer(0, &[(0, -1), (2, 1)]);
        other.settle(2, by);
        other.transfer(0, &[(0, -1), (1, 1)]);
        exchange.ledgers[0] = other.ledgers[0].clone();
        exchange.events[0] = other.events[0].clone();
        exchange.ledgers[2] = other.ledgers[2].clone();
        exchange.events[2] = other.events[2].clone();
        let error = refused(&exchange);
        assert!(
            error.contains("applied decision 3 of shard 0, but that is none for it: the one before 4 is 2"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_decision_is_refused() {
        let mut exchange = Exchange::new(2);
        exchange.transfer(0, &[(0, -1), (1, 1)]);
        exchange.transfer(0, &[(0, -2), (1, 2)]);
        // The state knows of both, the log ends before them or has something else in their place.
        let mut cut = exchange.clone();
        cut.events[0].truncate(1);
        let error = refused(&cut);
        assert!(error.contains("sequence 3") && error.contains("up to 3 to shard 1"), "{error}");
        assert!(error.contains("the one at this place is missing"), "{error}");
        let mut other = Exchange::new(2);
        other.transfer(0, &[(0, -1)]);
        other.transfer(0, &[(0, -1)]);
        let mut exchanged = exchange.clone();
        exchanged.events[0] = other.events[0].clone();
        let error = refused(&exchanged);
        assert!(error.contains("the decision at this place has no part for it"), "{error}");
        let mut opened = exchange;
        opened.events[0] = vec![opened.events[0][0].clone(); 3];
        let error = refused(&opened);
        assert!(error.contains("there is no decision at this place"), "{error}");
    }

    #[test]
    fn a_decision_that_does_not_fit_the_other_shard_is_refused() {
        let mut exchange = Exchange::new(2);
        exchange.transfer(0, &[(0, -1), (1, 1)]);
        // Shard 1 had an entry more when that was decided.
        let mut ahead = Exchange::new(2);
        ahead.transfer(1, &[(1, 5)]);
        exchange.ledgers[1] = ahead.ledgers[1].clone();
        exchange.events[1] = ahead.events[1].clone();
        let error = refused(&exchange);
        assert!(error.contains("does not fit shard 1, which has to apply it"), "{error}");
    }

    #[test]
    fn nothing_is_written_of_parts_that_fit_when_another_shards_part_does_not() {
        let mut exchange = Exchange::new(3);
        exchange.transfer(0, &[(0, -2), (1, 1), (2, 1)]);
        // Shard 2 had an entry more when that was decided.
        let mut ahead = Exchange::new(3);
        ahead.transfer(2, &[(2, 5)]);
        exchange.ledgers[2] = ahead.ledgers[2].clone();
        exchange.events[2] = ahead.events[2].clone();
        let error = refused(&exchange);
        assert!(error.contains("does not fit shard 2, which has to apply it"), "{error}");
    }
}
