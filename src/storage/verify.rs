//! The proof, offline, that a ledger's files are what the service wrote (P9).
//!
//! Each shard's history is replayed from its first record. On the way, every checksum, every link of the chain, every
//! sequence, every entry's balance, version and links are checked, and that the shard sums to zero; where the
//! replay passes a snapshot, the snapshot has to hold that very state; and the log has to reach the watermark.
//!
//! Then the shards are compared, pair by pair: what one applied is to the byte what the other decided for it, and all
//! of it up to a point. What was decided behind that point is in flight: a crash leaves such decisions, and the next
//! start applies them. Each part has to fit the shard that it is for, as it will have to then; and with them the
//! clearing parts of all shards sum to zero (P3).
//!
//! To compare, each replay adds up the digests of the decisions sent to each shard and of those applied from each; that
//! every decision names the one before, which the replays check, gives their order. Only what is in flight is read once
//! more, and taken out of the one sum. Simplified: sums of 128 bits tell any mishap, but not a forger who has weeks to
//! search for decisions whose digests add up alike; the chain of hashes in each log is the protection against that.
//!
//! Nothing is changed.

use std::collections::BTreeMap;

use super::codec::Malformed;
use super::in_flight::{self, Decided};
use super::journal::record::{Record, decision_digest};
use super::log::{ShardFiles, StoredLog, replay_event, state_at_rest};
use super::{RESTORE_BACKUP, StorageError, Watermark, snapshot};
use crate::ledger::{Change, Currency, Ledger, Sequence, ShardId, Timestamp, Total, TransactionId};
use crate::progress::Progress;

/// What was proven of a ledger.
#[derive(Clone, Debug)]
pub struct VerifiedLedger {
    /// Each of its shards.
    pub shards: Vec<Verified>,
    /// How many parts of decisions are in flight: the next start applies them.
    pub in_flight: u64,
}

/// What was proven of a shard.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its accounts, closed ones too.
    pub accounts: u64,
    /// Its last event.
    pub last: Sequence,
    /// How many records its log has.
    pub records: u64,
    /// How many snapshots agree with the log.
    pub snapshots: u64,
    /// Its accounts, `@world` and its clearing part added up, by currency: zero.
    pub totals: BTreeMap<Currency, Total>,
    /// What it exchanged with other shards.
    pub exchanged: Exchanged,
}

/// What a shard exchanged with others.
#[derive(Clone, Debug, Default)]
pub struct Exchanged {
    /// The decisions of this shard for each other one.
    sent: BTreeMap<ShardId, Flow>,
    /// The decisions of each other shard that were applied.
    received: BTreeMap<ShardId, Flow>,
    /// The clearing part.
    clearing: BTreeMap<Currency, Total>,
}

/// The decisions of one shard for another, added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    last: Sequence,
    count: u64,
    digests: u128,
}

impl Flow {
    const NONE: Flow = Flow { last: Sequence::NONE, count: 0, digests: 0 };

    fn add(&mut self, by: TransactionId, digest: u128) {
        *self = Flow { last: by.sequence, count: self.count + 1, digests: self.digests.wrapping_add(digest) };
    }

    /// The flow without its last decisions, back to `last`.
    fn without(self, last: Sequence, in_flight: &[Decided]) -> Flow {
        let digests = in_flight.iter().map(|decided| decision_digest(decided.by, &decided.decision));
        Flow {
            last,
            count: self.count.wrapping_sub(in_flight.len() as u64),
            digests: digests.fold(self.digests, u128::wrapping_sub),
        }
    }
}

/// A shard as the others see it, proven by itself.
#[derive(Clone, Copy)]
struct Side<'a> {
    files: &'a ShardFiles,
    last: Sequence,
    exchanged: &'a Exchanged,
}

impl<'a> Side<'a> {
    fn new(files: &'a ShardFiles, verified: &'a Verified) -> Side<'a> {
        Side { files, last: verified.last, exchanged: &verified.exchanged }
    }

    fn shard(&self) -> ShardId {
        self.files.shard
    }

    fn received_from(&self, sender: Side<'_>) -> Flow {
        self.exchanged.received.get(&sender.shard()).copied().unwrap_or(Flow::NONE)
    }

    fn disagrees(&self, what: String) -> StorageError {
        disagreement(self.files, self.last, what)
    }
}

/// Proves a ledger: each of its shards, and then all of them together.
///
/// # Errors
/// The first thing that is not as it should be, with its place.
pub fn verify_ledger(files: &[ShardFiles], progress: &Progress) -> Result<VerifiedLedger, StorageError> {
    let shards: Vec<Verified> =
        files.iter().map(|files| verify(files, progress)).collect::<Result<_, _>>()?;
    let sides: Vec<Side<'_>> =
        files.iter().zip(&shards).map(|(files, verified)| Side::new(files, verified)).collect();
    let in_flight = prove_in_flight_fits(files, compare(&sides)?, progress)?;
    Ok(VerifiedLedger { shards, in_flight })
}

/// How many parts of decisions are in flight, for who reads a ledger without a proof of its history: its logs are only
/// seen to lead to what was acknowledged, and the parts to fit the shards that they are for.
///
/// # Errors
/// If anything is not as it was written, as far as a start would see it.
pub fn prove_in_flight(files: &[ShardFiles], progress: &Progress) -> Result<u64, StorageError> {
    let ends = files.iter().map(|files| {
        let ledger = state_at_rest(files, progress)?;
        Ok((ledger.sent().clone(), ledger.received().clone()))
    });
    let ends: Vec<(BTreeMap<_, _>, BTreeMap<_, _>)> = ends.collect::<Result<_, StorageError>>()?;
    let mut all_in_flight = BTreeMap::<ShardId, Vec<Decided>>::new();
    for (from, (sent, _)) in files.iter().zip(&ends) {
        for (to, (_, received)) in files.iter().zip(&ends) {
            let sent = sent.get(&to.shard).copied().unwrap_or(Sequence::NONE);
            let received = received.get(&from.shard).copied().unwrap_or(Sequence::NONE);
            if sent != received {
                let log = StoredLog::open(from)?;
                let in_flight = in_flight::between(from.shard, &log, sent, to.shard, received)?;
                all_in_flight.entry(to.shard).or_default().extend(in_flight);
            }
        }
    }
    prove_in_flight_fits(files, all_in_flight, progress)
}

/// Proves a shard by itself.
///
/// # Errors
/// The first thing that is not as it should be, with its place.
pub fn verify(files: &ShardFiles, progress: &Progress) -> Result<Verified, StorageError> {
    let mut stored = StoredLog::open_archive(files)?;
    stored.verify_archive(u64::MAX)?;
    let acknowledged = Watermark::inspect(&files.watermark, files.ledger, files.shard)?;
    let mut snapshots = snapshot::list(&files.snapshots)?.into_iter().peekable();
    let mut ledger = Ledger::new(files.shard);
    let mut exchanged = Exchanged::default();
    let mut records = 0;
    let mut compared = 0;
    let mut acknowledged_found = acknowledged == files.genesis();
    let mut wrong_snapshot = None;
    let end = stored.read(files.genesis(), &mut |record, after| {
        replay(&mut ledger, &mut exchanged, record)?;
        records += 1;
        progress.add(after.last.get() - record.first().get() + 1);
        acknowledged_found |= acknowledged == *after;
        if let Some((_, path)) = snapshots.next_if(|(at, _)| *at <= after.last) {
            let same = snapshot::read(&path, files.ledger, files.shard)
                .map(|(state, position)| position == *after && state.to_parts() == ledger.to_parts());
            match same {
                Ok(true) => compared += 1,
                Ok(false) => wrong_snapshot = Some(differs(&path, after.last)),
                Err(error) => wrong_snapshot = Some(error),
            }
            if wrong_snapshot.is_some() {
                return Err(Malformed { offset: 0, what: "a snapshot is wrong".into() });
            }
        }
        Ok(())
    });
    if let Some(error) = wrong_snapshot {
        return Err(error);
    }
    let end = end?;
    if let Some((at, path)) = snapshots.next() {
        return Err(differs(&path, at));
    }
    if !acknowledged_found {
        let what = format!("the log ends, but up to sequence {} it was acknowledged", acknowledged.last);
        return Err(StorageError::at_sequence(&files.journal, end.last.next(), what, RESTORE_BACKUP));
    }
    stored.warn_of_lost_end();
    let totals = ledger.totals();
    if let Some((currency, total)) = totals.iter().find(|(_, total)| !total.is_zero()) {
        let what = format!("{currency} does not sum to zero but to {}", total.to_text(*currency));
        return Err(StorageError::at_sequence(&files.journal, end.last, what, RESTORE_BACKUP));
    }
    exchanged.clearing = ledger.clearing().clone();
    Ok(Verified {
        accounts: ledger.accounts().len() as u64,
        last: end.last,
        records,
        snapshots: compared,
        totals,
        exchanged,
    })
}

/// Applies a record's events, and adds up what they exchange.
fn replay(ledger: &mut Ledger, exchanged: &mut Exchanged, record: &Record<'_>) -> Result<(), Malformed> {
    let shard = record.shard();
    record.each_event(|sequence, event| {
        replay_event(ledger, sequence, event)?;
        match &event.change {
            Change::Decided { decision, .. } => {
                let mut others =
                    decision.parts.iter().map(|part| part.shard).filter(|to| *to != shard).peekable();
                if others.peek().is_some() {
                    let by = TransactionId { time: event.time, shard, sequence };
                    let digest = decision_digest(by, decision);
                    others.for_each(|to| exchanged.sent.entry(to).or_insert(Flow::NONE).add(by, digest));
                }
            }
            Change::Settled { by, decision, .. } => {
                let flow = exchanged.received.entry(by.shard).or_insert(Flow::NONE);
                flow.add(*by, decision_digest(*by, decision));
            }
            _ => {}
        }
        Ok(())
    })
}

/// Proves that the shards agree on what they exchanged, and says what of it is in flight to each.
fn compare(sides: &[Side<'_>]) -> Result<BTreeMap<ShardId, Vec<Decided>>, StorageError> {
    let mut clearing = BTreeMap::<Currency, Total>::new();
    for (currency, part) in sides.iter().flat_map(|side| &side.exchanged.clearing) {
        clearing.entry(*currency).or_default().add_total(*part);
    }
    prove_senders_are_there(sides)?;
    let mut all_in_flight = BTreeMap::<ShardId, Vec<Decided>>::new();
    for sender in sides {
        for (to, in_flight) in prove_received(*sender, sides)? {
            in_flight.iter().for_each(|decided| clear(&mut clearing, decided, to));
            all_in_flight.entry(to).or_default().extend(in_flight);
        }
        prove_nothing_is_made_up(*sender, sides)?;
    }
    prove_clearing_is_zero(&clearing, sides)?;
    Ok(all_in_flight)
}

/// Proves that the next start can apply what is in flight: the files of a shard that are older than what others decided
/// on its accounts tell nothing else of it. The states are made once more, since what is in flight is seldom anything.
/// Says how many parts there are.
fn prove_in_flight_fits(
    files: &[ShardFiles],
    in_flight: BTreeMap<ShardId, Vec<Decided>>,
    progress: &Progress,
) -> Result<u64, StorageError> {
    let mut count = 0;
    for (to, in_flight) in in_flight.into_iter().filter(|(_, in_flight)| !in_flight.is_empty()) {
        let receiver = files.iter().find(|files| files.shard == to).expect("it was compared");
        count += in_flight.len() as u64;
        // Whether they fit does not depend on when it is.
        in_flight::apply_all(&mut state_at_rest(receiver, progress)?, in_flight, Timestamp::default())?;
    }
    Ok(count)
}

/// Proves that no shard has applied decisions of one that there is not.
fn prove_senders_are_there(sides: &[Side<'_>]) -> Result<(), StorageError> {
    for side in sides {
        for from in side.exchanged.received.keys() {
            if sides.iter().all(|other| other.shard() != *from) {
                return Err(
                    side.disagrees(format!("it has applied decisions of shard {from}, which is not there"))
                );
            }
        }
    }
    Ok(())
}

/// Proves that what others have applied of a shard's decisions is what it decided. What they have not applied
/// yet, by each of them.
fn prove_received(
    sender: Side<'_>,
    sides: &[Side<'_>],
) -> Result<Vec<(ShardId, Vec<Decided>)>, StorageError> {
    // Opened only when something is in flight, which is seldom.
    let mut log = None;
    let mut by_receiver = Vec::new();
    for (to, sent) in &sender.exchanged.sent {
        let Some(receiver) = sides.iter().find(|side| side.shard() == *to) else {
            let what = format!("it is for shard {to}, which is not there");
            return Err(disagreement(sender.files, sent.last, what));
        };
        let received = receiver.received_from(sender);
        let mut in_flight = Vec::new();
        if sent.last != received.last {
            let log = match &mut log {
                Some(log) => log,
                None => log.insert(StoredLog::open(sender.files)?),
            };
            in_flight = in_flight::between(sender.shard(), log, sent.last, *to, received.last)?;
        }
        if sent.without(received.last, &in_flight) != received {
            return Err(receiver.disagrees(format!(
                "what it applied of the decisions of shard {} up to {} is not what that decided",
                sender.shard(),
                received.last
            )));
        }
        by_receiver.push((*to, in_flight));
    }
    Ok(by_receiver)
}

/// Proves that no shard has applied decisions of one that has none for it.
fn prove_nothing_is_made_up(sender: Side<'_>, sides: &[Side<'_>]) -> Result<(), StorageError> {
    let from = sender.shard();
    for side in sides {
        let never_sent = !sender.exchanged.sent.contains_key(&side.shard());
        if never_sent && side.exchanged.received.contains_key(&from) {
            return Err(
                side.disagrees(format!("it has applied decisions of shard {from}, which has none for it"))
            );
        }
    }
    Ok(())
}

/// Proves that what the shards owe one another adds up to nothing, with what is in flight.
fn prove_clearing_is_zero(
    clearing: &BTreeMap<Currency, Total>,
    sides: &[Side<'_>],
) -> Result<(), StorageError> {
    let (Some((currency, total)), Some(first)) =
        (clearing.iter().find(|(_, total)| !total.is_zero()), sides.first())
    else {
        return Ok(());
    };
    let journal = &first.files.journal;
    let ledger = journal.parent().and_then(|shard| shard.parent()).unwrap_or(journal);
    Err(StorageError::Corrupt {
        path: ledger.to_owned(),
        position: "the end of all logs".into(),
        what: format!(
            "what its shards owe one another in {currency} does not sum to zero but to {}",
            total.to_text(*currency)
        ),
        next_step: RESTORE_BACKUP,
    })
}

/// Adds what the part for `to` will move once it is applied.
fn clear(clearing: &mut BTreeMap<Currency, Total>, decided: &Decided, to: ShardId) {
    let decision = &decided.decision;
    let Some(part) = decision.part(to).filter(|_| !decision.is_with_world()) else {
        return;
    };
    for effect in &part.effects {
        clearing.entry(effect.currency).or_default().add(effect.change.posted().negated());
    }
}

fn disagreement(files: &ShardFiles, at: Sequence, what: String) -> StorageError {
    StorageError::at_sequence(&files.journal, at, what, in_flight::RESTORE_TOGETHER)
}

fn differs(path: &std::path::Path, at: Sequence) -> StorageError {
    StorageError::at_sequence(path, at, "it is not the state that the log leads to", snapshot::FALL_BACK)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ledger::Event;
    use crate::storage::journal::record::Draft;
    use crate::storage::journal::{Journal, JournalOptions};
    use crate::storage::log::recover;
    use crate::storage::manifest::{Birth, DataDirectory};
    use crate::storage::samples::{Exchange, LEDGER};

    fn progress() -> Progress {
        Progress::new("testing", "events", None)
    }

    /// A ledger's files with these events, and the first of `snapshots` shards' with a snapshot and archive.
    fn stored(path: &Path, events: &[Vec<Event>], snapshots: usize) -> Vec<ShardFiles> {
        let birth = Birth { shards: events.len(), ledger: LEDGER, created: Timestamp::default() };
        let directory = DataDirectory::open(path, None, &birth).expect("created");
        let mut all = Vec::new();
        for (number, events) in events.iter().enumerate() {
            let shard = ShardId::new(number).expect("in range");
            let files = ShardFiles::new(&directory, shard);
            let mut recovered = recover(&files, JournalOptions::default(), &progress()).expect("recovers");
            let mut position = recovered.journal.position();
            for event in events {
                recovered.ledger.replay(event).expect("follows");
                let draft = Draft::new(position.last.next(), event);
                recovered.journal.append(&draft.seal(shard, &mut position)).expect("follows");
            }
            recovered.journal.sync().expect("works");
            if number < snapshots {
                recovered.log.finish(recovered.journal, &recovered.ledger).expect("finished");
            }
            all.push(files);
        }
        all
    }

    fn verified(events: &[Vec<Event>]) -> Result<u64, String> {
        let temporary = tempfile::tempdir().expect("a directory");
        let files = stored(temporary.path(), events, events.len() / 2);
        let ledger = verify_ledger(&files, &progress()).map_err(|error| error.to_string())?;
        assert_eq!(ledger.shards.len(), events.len());
        let counted = prove_in_flight(&files, &progress()).expect("whole");
        assert_eq!(counted, ledger.in_flight);
        Ok(ledger.in_flight)
    }

    fn exchange() -> Exchange {
        let mut exchange = Exchange::new(3);
        let by = exchange.transfer(2, &[(0, -100), (1, 60), (2, 40)]);
        exchange.settle(0, by);
        exchange.settle(1, by);
        let by = exchange.transfer(0, &[(0, -5), (1, 5)]);
        exchange.settle(1, by);
        exchange.transfer(1, &[(1, 70)]);
        exchange
    }

    #[test]
    fn shards_that_agree_are_proven_and_what_is_in_flight_is_counted() {
        let mut exchange = exchange();
        assert_eq!(verified(&exchange.events), Ok(0));
        exchange.transfer(0, &[(0, -1), (1, 1)]);
        exchange.transfer(2, &[(2, -3), (1, 3)]);
        let by = exchange.transfer(2, &[(2, -4), (0, 4)]);
        exchange.settle(0, by);
        exchange.transfer(2, &[(2, -5), (0, 3), (1, 2)]);
        exchange.transfer(2, &[(1, 9)]);
        assert_eq!(verified(&exchange.events), Ok(5));
        let mut alone = Exchange::new(1);
        alone.transfer(0, &[(0, 9)]);
        assert_eq!(verified(&alone.events), Ok(0));
    }

    #[test]
    fn a_copy_that_is_not_what_was_decided_is_refused() {
        let mut exchange = exchange();
        // Another time, which no sum of money tells.
        let changed = exchange.events[1].iter_mut().find_map(|event| match &mut event.change {
            Change::Settled { by, decision, .. } if by.shard.index() == 0 => Some(decision),
            _ => None,
        });
        std::sync::Arc::make_mut(changed.expect("it is there")).note.reference =
            Some(crate::ledger::Reference::parse("another").expect("valid"));
        let error = verified(&exchange.events).expect_err("another copy");
        assert!(
            error.contains("shard-0001") && error.contains("of the decisions of shard 0 up to 3 is not what"),
            "{error}"
        );
    }

    #[test]
    fn a_shard_that_is_older_than_what_others_have_of_it_is_refused() {
        let mut set_back = exchange();
        set_back.events[0].truncate(2);
        let error = verified(&set_back.events).expect_err("shard 0 has not sent anything");
        assert!(
            error.contains("shard-0001") && error.contains("decisions of shard 0, which has none for it"),
            "{error}"
        );
        let mut exchange = exchange();
        let by = exchange.transfer(0, &[(0, -1), (1, 1)]);
        exchange.settle(1, by);
        exchange.events[0].pop();
        let error = verified(&exchange.events).expect_err("shard 0 has not sent the last one");
        assert!(error.contains("shard 1 has applied decision 4 of shard 0"), "{error}");
        assert!(error.contains("restore all shards from one backup"), "{error}");
    }

    /// Of a ledger with one shard's files from an older backup both said that the next start applies what is in flight, a
    /// proof and an export; that start refused.
    #[test]
    fn what_is_in_flight_to_a_shard_that_it_does_not_fit_is_refused() {
        let mut exchange = Exchange::new(2);
        exchange.transfer(1, &[(1, 70)]);
        exchange.transfer(0, &[(0, -5), (1, 5)]);
        assert_eq!(verified(&exchange.events), Ok(1));
        // The transfer was decided on what the deposit had left.
        exchange.events[1].truncate(1);
        let temporary = tempfile::tempdir().expect("a directory");
        let files = stored(temporary.path(), &exchange.events, 1);
        let proofs =
            [verify_ledger(&files, &progress()).map(drop), prove_in_flight(&files, &progress()).map(drop)];
        for proof in proofs {
            let error = proof.expect_err("shard 1 is older").to_string();
            assert!(error.contains("does not fit shard 1, which has to apply it"), "{error}");
            assert!(error.contains("restore all shards from one backup"), "{error}");
        }
    }

    #[test]
    fn a_shard_that_is_missing_is_refused() {
        let mut exchange = exchange();
        exchange.transfer(0, &[(0, -1), (1, 1)]);
        let temporary = tempfile::tempdir().expect("a directory");
        let files = stored(temporary.path(), &exchange.events, 0);
        for missing in 0..3 {
            let mut some = files.clone();
            some.remove(missing);
            let error = verify_ledger(&some, &progress()).expect_err("a shard is missing").to_string();
            assert!(error.contains(&format!("shard {missing}, which is not there")), "{error}");
        }
    }
}
