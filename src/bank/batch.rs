//! Batches: many operations in one request.
//!
//! A batch is cut into *chunks*, each a work of its own: decided in one go and written down in one record, so
//! a chunk happens whole or not at all, and its operations one after the other with nothing of others in
//! between. A batch that is all or nothing is one chunk. Without keys, all chunks are under way at once and
//! are decided in turn; no chunk waits for the disk because of the one before. With an idempotency key, each
//! chunk has a key derived from it, remembered with how each of its items ended: a retry finds the chunks
//! that are done and goes on with the rest.

use std::mem;
use std::sync::atomic::Ordering;

use super::holds::Budget;
use super::{Bank, Done, Executed, KeyHome, Origin, Refusal, item_refusal, refusal};
use crate::ledger::operation::{Condition, HomedKey, Item, Operation, PlainTransfer};
use crate::ledger::{
    HoldId, IdempotencyKey, ItemOutcome, KeyDigest, Kind, Metadata, Note, Outcome, Sequence, ShardId,
    TransactionId,
};
use crate::shard::request::Reply;
use crate::shard::work::{ItemReply, PlainList, WorkReply, WorkRequest};

/// The most items of a batch.
pub const BATCH_ITEMS_MAX: usize = 10_000;
/// The most items of a batch that is all or nothing, and of a chunk.
pub const BATCH_ATOMIC_ITEMS_MAX: usize = 1000;

/// How many bytes the events of a chunk take at most, by the estimate below: what a record has room for, less the one
/// event that says how all ended.
const CHUNK_BYTES_MAX: usize = 896 * 1024;

/// What an item's key adds to its event.
const KEY_BYTES_EXPECTED: usize = 36;

/// One item.
#[derive(Clone, Debug)]
pub struct BatchItem {
    /// What is to be done.
    pub operation: Operation,
    /// What has to be true then.
    pub conditions: Vec<Condition>,
    /// The item's own idempotency key.
    pub key: Option<IdempotencyKey>,
}

/// The items of a batch, cut into chunks as they come, always in the same way.
#[derive(Debug, Default)]
pub struct BatchItems {
    chunks: Vec<Chunk>,
    /// What the events of the last chunk take at most.
    bytes: usize,
    /// What all events take, more or less.
    bytes_expected: usize,
    with_keys: bool,
    /// How many more are expected.
    expected: usize,
}

/// The items of a chunk.
#[derive(Debug)]
enum Chunk {
    /// Plain transfers between accounts of one shard, as long as there is nothing else.
    Plain(PlainList),
    Any(Vec<Item>),
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk::Any(Vec::new())
    }
}

/// How a batch ended.
#[derive(Debug)]
pub struct BatchOutcome {
    /// How the items did, each with its place, in order. With `told` unset, those that were executed may be left out.
    pub results: Vec<(usize, BatchResult)>,
    /// If an earlier request with the same key did all of it, that request's id, which its reply showed.
    pub first_request_id: Option<Box<str>>,
}

/// How an item ended.
#[derive(Debug)]
pub enum BatchResult {
    /// It was executed, now or by an earlier request or item with the same key.
    Done(Done<Executed>),
    /// It was not.
    Refused(Refusal),
    /// The batch is all or nothing, and another item was refused.
    NotAttempted,
}

/// Why a batch as a whole is not executed.
#[derive(Debug)]
pub enum BatchRefusal {
    /// It is all or nothing, and too large for one record.
    TooLarge,
    /// As any request.
    Refused(Refusal),
}

/// A chunk on its way.
struct ChunkPlan {
    /// How many items it has.
    count: usize,
    /// The holds that items end, and the places of those.
    holds: Vec<(usize, HoldId)>,
    /// Whether it has a key, under which it can be asked again how it ended.
    has_key: bool,
    /// Whether each of its items is told of.
    told: bool,
}

impl From<Refusal> for BatchRefusal {
    fn from(refusal: Refusal) -> BatchRefusal {
        BatchRefusal::Refused(refusal)
    }
}

impl Chunk {
    /// A chunk that begins with this one, with room for so many.
    fn beginning_with(first: Result<(ShardId, PlainTransfer), Item>, expected: usize) -> Chunk {
        match first {
            Ok((shard, transfer)) => {
                let mut transfers = Vec::with_capacity(expected);
                transfers.push(transfer);
                Chunk::Plain(PlainList { shard, transfers })
            }
            Err(item) => {
                let mut items = Vec::with_capacity(expected);
                items.push(item);
                Chunk::Any(items)
            }
        }
    }

    fn push(&mut self, next: Result<(ShardId, PlainTransfer), Item>) {
        match (self, next) {
            (Chunk::Plain(list), Ok((shard, transfer))) if shard == list.shard => {
                list.transfers.push(transfer)
            }
            (Chunk::Any(items), Err(item)) => items.push(item),
            (chunk, next) => {
                let mut items = mem::take(chunk).into_items();
                items.push(next.map_or_else(|item| item, |(shard, transfer)| transfer.into_item(shard)));
                *chunk = Chunk::Any(items);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Chunk::Plain(list) => list.transfers.len(),
            Chunk::Any(items) => items.len(),
        }
    }

    /// Its items, with room for as many as it had room for.
    fn into_items(self) -> Vec<Item> {
        match self {
            Chunk::Plain(list) => {
                let mut items = Vec::with_capacity(list.transfers.capacity());
                items.extend(list.into_items());
                items
            }
            Chunk::Any(items) => items,
        }
    }
}

impl BatchItems {
    /// None so far, with room for so many.
    pub fn expecting(items: usize) -> BatchItems {
        BatchItems { expected: items, ..BatchItems::default() }
    }

    /// Adds the next one.
    pub fn push(&mut self, item: BatchItem, bank: &Bank) {
        let BatchItem { operation, conditions, key } = item;
        let key = key.map(|key| bank.homed(key, KeyHome::Key));
        self.with_keys |= key.is_some();
        self.expected = self.expected.saturating_sub(1);
        let Bytes { expected, max: more } = recorded_bytes(&operation);
        self.bytes_expected += expected + if key.is_some() { KEY_BYTES_EXPECTED } else { 0 };
        let says_no_more = conditions.is_empty() && key.is_none();
        let next = if says_no_more { PlainTransfer::of(operation) } else { Err(operation) };
        let next = next.map_err(|operation| Item { operation, conditions, key });
        let has_room =
            |chunk: &Chunk| chunk.len() < BATCH_ATOMIC_ITEMS_MAX && self.bytes + more <= CHUNK_BYTES_MAX;
        match self.chunks.last_mut().filter(|chunk| has_room(chunk)) {
            Some(chunk) => {
                self.bytes += more;
                chunk.push(next);
            }
            None => {
                let expected = self.expected.min(BATCH_ATOMIC_ITEMS_MAX);
                self.chunks.push(Chunk::beginning_with(next, expected));
                self.bytes = more;
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl Bank {
    /// Executes a batch. With `told`, it is told what each item changed.
    ///
    /// # Errors
    /// If nothing was executed; or, with an idempotency key, if not all was: the same request again goes on with it.
    pub async fn batch(
        &self,
        items: BatchItems,
        atomic: bool,
        told: bool,
        origin: Origin,
    ) -> Result<BatchOutcome, BatchRefusal> {
        let BatchItems { chunks, with_keys, bytes_expected, .. } = items;
        if atomic && chunks.len() > 1 {
            return Err(BatchRefusal::TooLarge);
        }
        self.brake.wait(bytes_expected).await?;
        if chunks.len() > 1 && origin.key.is_none() && !with_keys {
            let results = self.chunks_in_turn(chunks, told, &origin).await?;
            return Ok(BatchOutcome { results, first_request_id: None });
        }
        Ok(self.chunks_one_by_one(chunks, atomic, told, &origin).await?)
    }

    /// Executes chunks, each when the one before has ended. One that is refused stops those behind it.
    async fn chunks_one_by_one(
        &self,
        chunks: Vec<Chunk>,
        atomic: bool,
        told: bool,
        origin: &Origin,
    ) -> Result<BatchOutcome, Refusal> {
        let mut outcome = BatchOutcome { results: Vec::new(), first_request_id: None };
        let mut all_replayed = true;
        let mut chunks = chunks.into_iter().enumerate();
        let mut first = 0;
        while let Some((number, chunk)) = chunks.next() {
            let count = chunk.len();
            let key = origin.key.map(|key| self.homed(chunk_key(key, number), KeyHome::Key));
            let (request, plan) = self.plan_chunk(chunk, key, atomic, told, origin.request_id.clone());
            match self.end_chunk(plan, self.ask_work(request)).await {
                Ok((results, first_request_id)) => {
                    outcome.results.extend(behind(first, results));
                    all_replayed &= first_request_id.is_some();
                    outcome.first_request_id = first_request_id.filter(|_| all_replayed);
                }
                Err(refusal) if number == 0 || key.is_some() => return Err(refusal),
                Err(refusal) => {
                    // What was executed has to be told, so the rest is told one by one.
                    let rest = count + chunks.map(|(_, chunk)| chunk.len()).sum::<usize>();
                    outcome.results.extend(behind(first, all_refused(rest, &refusal)));
                    break;
                }
            }
            first += count;
        }
        Ok(outcome)
    }

    /// Executes chunks without keys, all under way at once. Their turn keeps them in order, and one shard decides them
    /// all, so that of a batch that a crash cuts short, a first part is there; unless a chunk turns out to need an account
    /// of a higher shard, which then decides it. One that is refused, as there is no room for it, stops no other.
    async fn chunks_in_turn(
        &self,
        chunks: Vec<Chunk>,
        told: bool,
        origin: &Origin,
    ) -> Result<Vec<(usize, BatchResult)>, Refusal> {
        let plan = |chunk| self.plan_chunk(chunk, None, false, told, origin.request_id.clone());
        let (requests, plans): (Vec<_>, Vec<_>) = chunks.into_iter().map(plan).unzip();
        let needs = requests.iter().flat_map(|request| &request.needs);
        let mut shards: Vec<_> = needs.map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        // Each is in the inbox, in order, before the first is waited for.
        let asked = requests.into_iter().map(|mut request| {
            request.take_turn(turn, &shards);
            self.ask_work(request)
        });
        let asked: Vec<_> = asked.collect();
        let mut results = Vec::new();
        let mut first = 0;
        let mut refused = None;
        let mut executed = false;
        for (plan, asked) in plans.into_iter().zip(asked) {
            let count = plan.count;
            match self.end_chunk(plan, asked).await {
                Ok((ended, _)) => {
                    executed = true;
                    results.extend(behind(first, ended));
                }
                Err(refusal) => {
                    results.extend(behind(first, all_refused(count, &refusal)));
                    refused.get_or_insert(refusal);
                }
            }
            first += count;
        }
        // What was executed has to be told, so what was not is told one by one.
        match refused {
            Some(refusal) if !executed => Err(refusal),
            _ => Ok(results),
        }
    }

    fn plan_chunk(
        &self,
        chunk: Chunk,
        key: Option<HomedKey>,
        atomic: bool,
        told: bool,
        request_id: Box<str>,
    ) -> (WorkRequest, ChunkPlan) {
        let (count, has_key) = (chunk.len(), key.is_some());
        let mut holds = Vec::new();
        let mut items = match chunk {
            // One by itself is fetched from memory together with the single requests beside it.
            Chunk::Plain(list) if count > 1 && !(atomic || has_key) => {
                return (WorkRequest::plain(list, told), ChunkPlan { count, holds, has_key, told });
            }
            chunk => chunk.into_items(),
        };
        for (place, item) in items.iter_mut().enumerate() {
            if let Operation::Capture { hold, .. } | Operation::Void { hold, .. } = &mut item.operation {
                holds.push((place, *hold));
                if hold.shard.index() >= self.shards.len() {
                    // No shard here can have it. It is looked for in vain like any other, so keys remember that.
                    *hold = HoldId { shard: ShardId::FIRST, ..HoldId::NOBODYS };
                }
            }
        }
        let work = WorkRequest::of(items.into(), key, atomic, false, request_id, self.shards.len());
        (WorkRequest { told, ..work }, ChunkPlan { count, holds, has_key, told })
    }

    /// Waits for a chunk. How its items ended, and the id of the request that ended them, if that was an earlier one.
    async fn end_chunk(
        &self,
        plan: ChunkPlan,
        asked: impl Future<Output = Result<WorkReply, Refusal>>,
    ) -> Result<(Vec<(usize, BatchResult)>, Option<Box<str>>), Refusal> {
        let ChunkPlan { count, holds, has_key, told } = plan;
        let reply = asked.await?;
        let is_untold = matches!(reply, WorkReply::Untold(_));
        let mut first_request_id = None;
        let ended: Vec<(usize, ItemReply)> = match reply {
            WorkReply::Items(items) => items.into_iter().enumerate().collect(),
            WorkReply::Untold(others) => {
                others.into_iter().map(|(place, outcome)| (place, ItemReply::Not(outcome))).collect()
            }
            WorkReply::Settled(outcome) => {
                let (settled, request_id) = self.settled_chunk(outcome).await?;
                // A version that cuts lists otherwise may have had the key.
                if settled.len() != count {
                    return Err(Refusal::KeyReused);
                }
                first_request_id = Some(request_id);
                settled.into_iter().enumerate().collect()
            }
            reply => return Err(refusal(Reply::Worked(reply))),
        };
        // Who is told of no refusal was executed, so none may be lost on the way.
        let is_whole = if is_untold { !told && ended.len() <= count } else { ended.len() == count };
        assert!(is_whole, "of {count} items {} ended", ended.len());
        let mut results = Vec::with_capacity(ended.len());
        for (place, reply) in ended {
            let result = match reply {
                ItemReply::Done { id, decision } => {
                    BatchResult::Done(Done { value: Executed { id, decision }, replayed: false })
                }
                ItemReply::Not(outcome) => match self.not_done(outcome).await {
                    Ok(result) => result,
                    // Others have been executed: who heard that nothing was done would send them again.
                    Err(refusal) if !has_key => BatchResult::Refused(refusal),
                    Err(refusal) => return Err(refusal),
                },
            };
            results.push((place, result));
        }
        self.tell_of_holds(&holds, has_key, &mut results).await?;
        Ok((results, first_request_id))
    }

    /// Tells of holds that ended long ago that they ended; all of a chunk share what one request may examine.
    ///
    /// # Errors
    /// If that was not found out in time, and the chunk has a key: what is told under a key is told again to the letter, and
    /// the next request, which finds the chunk settled, looks further. Without a key the item says so; and where history
    /// cannot be read it does in any case, or the batch would never tell what became of the others.
    async fn tell_of_holds(
        &self,
        holds: &[(usize, HoldId)],
        has_key: bool,
        results: &mut [(usize, BatchResult)],
    ) -> Result<(), Refusal> {
        let mut budget = Budget::default();
        for (place, hold) in holds {
            let Ok(found) = results.binary_search_by_key(place, |(place, _)| *place) else { continue };
            let BatchResult::Refused(refusal @ Refusal::Rejected { .. }) = &mut results[found].1 else {
                continue;
            };
            let untold = mem::replace(refusal, Refusal::Overloaded);
            match self.told_of_hold(*hold, untold, &mut budget).await {
                told @ Refusal::Rejected { .. } => *refusal = told,
                unknown @ (Refusal::Overloaded | Refusal::Ended) if has_key => return Err(unknown),
                unknown => *refusal = unknown,
            }
        }
        Ok(())
    }

    /// How the items of an earlier request ended, and its id.
    async fn settled_chunk(&self, outcome: Outcome) -> Result<(Vec<ItemReply>, Box<str>), Refusal> {
        let Outcome { shard, sequence } = outcome;
        let event = self.read_history(shard, move |history| history.event(sequence)).await?;
        let event = event.expect("the outcome of a key is in the log as long as the key is remembered");
        let end = event.transaction_id(shard, sequence);
        let Some(Kind::Batch { results, request_id }) =
            event.change.decision().map(|decision| &decision.kind)
        else {
            unreachable!("a key's fingerprint binds it to its kind of request");
        };
        let sequences: Vec<_> = results
            .iter()
            .filter_map(|result| match result {
                ItemOutcome::Done { back } => Sequence::new(end.sequence.get() - u64::from(*back)),
                _ => None,
            })
            .collect();
        let read = self.read_history(end.shard, move |history| {
            sequences
                .into_iter()
                .map(|sequence| Ok((sequence, history.event(sequence)?)))
                .collect::<Result<Vec<_>, _>>()
        });
        let mut events = read.await?.into_iter();
        let mut replayed = Vec::with_capacity(results.len());
        for result in results {
            replayed.push(match result {
                ItemOutcome::Done { .. } => {
                    let (sequence, event) = events.next().expect("each was read");
                    let event = event.expect("what a list ended with is behind its items");
                    let id = TransactionId { time: event.time, shard: end.shard, sequence };
                    let decision = event.change.decision().expect("an item was decided").clone();
                    // As its first reply said: that it is repeated, the reply as a whole says.
                    ItemReply::Done { id, decision }
                }
                outcome => ItemReply::Not(outcome.clone()),
            });
        }
        Ok((replayed, request_id.clone()))
    }

    async fn not_done(&self, outcome: ItemOutcome) -> Result<BatchResult, Refusal> {
        Ok(match outcome {
            ItemOutcome::NotAttempted => BatchResult::NotAttempted,
            ItemOutcome::Settled(outcome) => match self.settled(outcome).await {
                Ok(done) => BatchResult::Done(done),
                Err(refusal @ Refusal::Rejected { .. }) => BatchResult::Refused(refusal),
                Err(refusal) => return Err(refusal),
            },
            outcome => BatchResult::Refused(item_refusal(outcome)),
        })
    }
}

/// How so many items ended, of chunks that were refused as a whole.
fn all_refused(count: usize, refusal: &Refusal) -> impl Iterator<Item = (usize, BatchResult)> {
    (0..count).map(|place| (place, BatchResult::Refused(refusal.again())))
}

/// The same results, behind so many items of other chunks.
fn behind(
    items: usize,
    results: impl IntoIterator<Item = (usize, BatchResult)>,
) -> impl Iterator<Item = (usize, BatchResult)> {
    results.into_iter().map(move |(place, result)| (items + place, result))
}

/// How many bytes the events of an item take in a record.
struct Bytes {
    /// If it meets nothing out of the ordinary, more or less.
    expected: usize,
    /// More than they take, whatever it meets.
    max: usize,
}

fn recorded_bytes(operation: &Operation) -> Bytes {
    /// What is expected: a transfer takes 45 bytes.
    const EVENT_EXPECTED: usize = 13;
    const ACCOUNT_EXPECTED: usize = 16;
    /// An event without its accounts and texts: kind, times, a key with its home, or a refusal with its request's id.
    const EVENT: usize = 320;
    /// An account in an event.
    const ACCOUNT: usize = 96;
    /// The pulls of overdraft protection that one debit can cause: three transfers.
    const PULLS: usize = 3 * (64 + 2 * ACCOUNT);
    let bytes = |accounts, debits, texts| Bytes {
        expected: EVENT_EXPECTED + accounts * ACCOUNT_EXPECTED + texts,
        max: EVENT + accounts * ACCOUNT + debits * PULLS + texts,
    };
    let (accounts, debits, note) = match operation {
        Operation::Open { opening, .. } => {
            let texts = opening.name.len()
                + metadata_bytes(&opening.metadata)
                + opening.reference.as_ref().map_or(0, |reference| reference.len());
            return bytes(1, 0, texts);
        }
        Operation::Deposit { note, .. } | Operation::Void { note, .. } => (1, 0, note),
        Operation::Withdraw { note, .. } => (1, 1, note),
        Operation::Transfer { note, .. } | Operation::Hold { note, .. } => (2, 1, note),
        Operation::Capture { note, .. } => (2, 0, note),
        Operation::MultiTransfer { legs, note } => {
            (legs.len(), legs.iter().filter(|(_, amount)| !amount.is_positive()).count(), note)
        }
        Operation::Reverse { legs, note, .. } => (legs.len(), 0, note),
        Operation::Amend { .. }
        | Operation::Close { .. }
        | Operation::Link { .. }
        | Operation::Unlink { .. } => {
            unreachable!("it is no operation of a batch")
        }
    };
    bytes(accounts, debits, note_bytes(note))
}

fn note_bytes(note: &Note) -> usize {
    note.reference.as_ref().map_or(0, |reference| reference.len()) + metadata_bytes(&note.metadata)
}

fn metadata_bytes(metadata: &Metadata) -> usize {
    metadata.entries().iter().map(|(key, value)| key.len() + value.len() + 4).sum()
}

/// The key of a chunk.
fn chunk_key(key: IdempotencyKey, number: usize) -> IdempotencyKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"teller chunk");
    hasher.update(&key.digest.0);
    hasher.update(&(number as u64).to_le_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    IdempotencyKey { digest: KeyDigest(digest), fingerprint: key.fingerprint }
}
