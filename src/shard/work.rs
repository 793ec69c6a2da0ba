//! Works: operations on accounts of several shards, decided by one of them.
//!
//! # The way of a work
//! 1. It visits the shards that it needs something of, in ascending order. Each locks what is its own, waiting for
//!    its turn, and adds a *grant*: copies of the accounts. Ascending order, so no two works wait for one another.
//! 2. The last of them, the *executor*, decides all operations on the copies, applies and records its own parts, hands
//!    the replies over to be let go when that is durable, and tells each other shard what was decided. If nobody has what
//!    it needs of its own, and no hold's time is over, it takes no locks: it has decided before anybody else could ask.
//! 3. Each other shard applies and records its part, a *settlement*, and unlocks. Whoever asks for a locked account is
//!    answered after that: the settle barrier (P2).
//!
//! If deciding finds that it needs an account that nobody knew of (overdraft protection, the payee of a hold), or whether
//! a reference is used in one, it lets all shards go, and the work sets out again with that too, at most eight times.
//!
//! A work that needs one shard only, and is made of plain transfers between accounts that are free there, is executed at
//! once, without locks and copies ([`crate::ledger::PlainTransfers`]). Nothing can come in between, and nobody sees a
//! difference. A single plain transfer that goes the way above, as it does between two shards, is decided on its two copies
//! without a workspace ([`crate::ledger::decide_plain`]).
//!
//! Works of one list, the chunks of a batch, are decided in their order: before one sets out it takes the list's *turn*
//! at its first shard, and keeps it until it is decided or given up, also while it sets out again. It asks for nothing
//! else before it has that, so a turn adds no circle.
//!
//! # What is durable when (P1, P3)
//! Memory runs ahead of the logs, and settlements do not wait for decisions to be durable. The logs must not
//! contradict one another after a crash, so a batch *requires* others: one with a decision requires what its grants
//! showed, one with a settlement requires the decision. It is not appended before those are durable. A batch takes only
//! what had arrived when it was begun, so a requirement always leads to a batch that was begun earlier: there is no
//! circle. This is sound because all shards share one process, which loses all memory at once or none; shards on
//! several machines would have to wait for the decision to be durable before they settle.
//!
//! # Exactly once (P5)
//! A decision's part for a shard names the decision before it for that shard. A shard remembers the last one that it
//! has settled from each other, the high-water mark: what is not beyond it is a repetition, and what does not
//! continue it is a mistake. Both numbers are in the logs and snapshots of the two shards, so after a crash the
//! difference is exactly what has to be settled still ([`crate::storage::in_flight`]); that happens before any account
//! answers.
//!
//! # After a crash
//!
//! | durable at the crash | what a start finds | the outcome |
//! |---|---|---|
//! | nothing, or grants in memory only | nothing | it did not happen; nobody was told anything |
//! | what the grants showed, no decision | nothing | the same |
//! | the decision, no settlement | the executor's last decision for the shard is beyond what the shard has settled | the start settles it; the reply may have left |
//! | the decision, the settlements of some shards | the same, for the others | the start settles those |
//! | the decision, all settlements | nothing to do | it happened |
//! | a settlement, but not its decision | cannot be: the settlement's batch requires the decision | the start refuses (P6) |
//! | the decision, but not what its grants showed | cannot be: the decision's batch requires that | the start refuses (P6) if the decision has a part in that shard, or that shard's watermark is beyond its log |

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::locks::Ticket;
use crate::ledger::operation::{Condition, HomedKey, Item, Operation, PlainTransfer};
use crate::ledger::workspace::{Grant, Missing, Needs, ReferenceAccount};
use crate::ledger::{
    AccountId, AccountRef, Decision, ItemOutcome, Outcome, ShardId, Timestamp, TransactionId,
};

/// How often a work sets out at most. A chain of protection and a payee need four times, two chains that a link joins five,
/// however many operations have one; more means that the links change faster than they can be followed, or that each of
/// many operations takes what protected the one before.
pub(super) const ATTEMPTS_MAX: u8 = 8;

/// What a client asks for, before it sets out.
#[derive(Clone, Debug)]
pub struct WorkRequest {
    /// What is to be done, in order.
    pub items: SmallVec<[Item; 1]>,
    /// What is to be done instead, in less than a third of the memory, all of which goes from one core to another: what the
    /// largest batches consist of. Of their accounts nothing is said among the needs, where their shard stands.
    pub plain: Option<PlainList>,
    /// All of it or nothing.
    pub atomic: bool,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Whether the client is told what each item changed.
    pub told: bool,
    /// The number of the list of works that this is one of: they are decided one after the other.
    pub turn: Option<u64>,
    /// The idempotency key of the whole.
    pub key: Option<HomedKey>,
    /// The request's id, recorded with a refusal that is kept for a key.
    pub request_id: Box<str>,
    /// What it needs, by shard, in ascending order.
    pub needs: SmallVec<[(ShardId, Needs); 2]>,
}

/// Plain transfers between accounts of one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainList {
    /// The shard.
    pub shard: ShardId,
    /// The transfers, in order.
    pub transfers: Vec<PlainTransfer>,
}

/// What became of a work.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkReply {
    /// Its items were decided, each as it says.
    Items(SmallVec<[ItemReply; 1]>),
    /// Its items were decided, and the client does not want to know more of those that were executed: the places of the
    /// others, and why they were not.
    Untold(Vec<(usize, ItemOutcome)>),
    /// It was decided before, with the same idempotency key: that event is in the log.
    Settled(Outcome),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The first request with this idempotency key is not durable yet.
    KeyInFlight,
    /// No further idempotency key can be remembered now.
    KeysExhausted,
    /// Nothing can be written now: the disk is full.
    DiskFull,
    /// Too much waits for the same accounts, or they change too fast. Nothing was done.
    Overloaded,
}

impl WorkReply {
    /// The reply to a work of so many items, of which none has been decided so far.
    pub(super) fn of_items(told: bool, count: usize) -> WorkReply {
        match told {
            true => WorkReply::Items(SmallVec::with_capacity(count)),
            false => WorkReply::Untold(Vec::new()),
        }
    }

    /// Adds that the next item was executed.
    pub(super) fn add_done(&mut self, id: TransactionId, decision: &Arc<Decision>) {
        if let WorkReply::Items(items) = self {
            items.push(ItemReply::Done { id, decision: Arc::clone(decision) });
        }
    }

    /// Adds that the next item, which is at this place, was not.
    pub(super) fn add_not_done(&mut self, place: usize, outcome: ItemOutcome) {
        match self {
            WorkReply::Items(items) => items.push(ItemReply::Not(outcome)),
            WorkReply::Untold(refused) => refused.push((place, outcome)),
            _ => unreachable!("it is about items"),
        }
    }
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemReply {
    /// It was executed, or in a dry run would be.
    Done {
        /// The event; in a dry run, the one that it would be.
        id: TransactionId,
        /// What changed.
        decision: Arc<Decision>,
    },
    /// It was not, and why.
    Not(ItemOutcome),
}

/// A work, unique among those under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkId {
    /// The shard where it set out.
    pub(super) shard: ShardId,
    /// The how-manieth there.
    pub(super) number: u64,
}

/// A work on its way.
#[derive(Debug)]
pub struct Work<To> {
    pub(super) id: WorkId,
    pub(super) request: Box<WorkRequest>,
    /// What it holds, where it set out, until it is decided: the turn among those of its list.
    pub(super) turn: Option<(ShardId, Ticket)>,
    pub(super) grants: Vec<Grant>,
    /// Whether one of the shards that granted may record nothing.
    pub(super) disk_full: bool,
    pub(super) attempts: u8,
    pub(super) to: To,
}

/// Decisions and their ids. Most works are a single one.
pub type Decisions = SmallVec<[(TransactionId, Arc<Decision>); 1]>;

/// What shards tell one another.
#[derive(Debug)]
pub enum Message<To> {
    /// A work comes for its grant, or to be decided.
    Work(Box<Work<To>>),
    /// A work has been decided, or given up.
    Done {
        /// Which.
        work: WorkId,
        /// What was decided with a part for the receiver, in order.
        settlements: Decisions,
        /// The time at which it was decided.
        time: Timestamp,
    },
    /// A work of a list, which set out at the receiver, has been decided or given up: the next one's turn has come.
    TurnOver(Ticket),
}

impl<To> Work<To> {
    /// A work that sets out.
    pub(super) fn new(
        id: WorkId,
        request: Box<WorkRequest>,
        turn: Option<(ShardId, Ticket)>,
        to: To,
    ) -> Box<Work<To>> {
        let grants = Vec::with_capacity(request.needs.len());
        Box::new(Work { id, request, turn, grants, disk_full: false, attempts: 1, to })
    }

    /// The shard that it has to visit next.
    pub(super) fn next_shard(&self) -> ShardId {
        self.request.needs[self.grants.len()].0
    }

    /// What it needs of the shard that it is at.
    pub(super) fn needs_here(&self) -> &Needs {
        &self.request.needs[self.grants.len()].1
    }
}

impl PlainList {
    /// The same as items.
    pub fn into_items(self) -> impl Iterator<Item = Item> {
        let PlainList { shard, transfers } = self;
        transfers.into_iter().map(move |transfer| transfer.into_item(shard))
    }
}

impl WorkRequest {
    /// The work that executes these items in a ledger of so many shards.
    pub fn of(
        items: SmallVec<[Item; 1]>,
        key: Option<HomedKey>,
        atomic: bool,
        dry_run: bool,
        request_id: Box<str>,
        shards: usize,
    ) -> WorkRequest {
        // Of two accounts an item, about.
        let room = 2 * items.len() / shards;
        let mut needs = SmallVec::with_capacity(shards.min(2 * items.len()));
        for item in &items {
            let reference = item.operation.reference();
            for place in item.operation.places() {
                let needs = needs_of(&mut needs, place.shard, room);
                let account = ReferenceAccount::At(needs.accounts.len());
                needs.references.extend(reference.map(|reference| (account, reference.clone())));
                needs.accounts.push(place.account.clone());
            }
            for Condition { account: place, .. } in &item.conditions {
                needs_of(&mut needs, place.shard, room).accounts.push(place.account.clone());
            }
            match &item.operation {
                Operation::Open { shard, opening } => {
                    needs_of(&mut needs, *shard, room).openings.push(opening.name.clone());
                }
                Operation::Capture { hold, .. } | Operation::Void { hold, .. } => {
                    let needs = needs_of(&mut needs, hold.shard, room);
                    let account = ReferenceAccount::Numbered(hold.account);
                    needs.references.extend(reference.map(|reference| (account, reference.clone())));
                    needs.holds.push(*hold);
                }
                Operation::Reverse { transfer, .. } => {
                    needs_of(&mut needs, transfer.shard, room).reversals.push(*transfer);
                }
                _ => {}
            }
            if let Some(HomedKey { home, key }) = item.key {
                needs_of(&mut needs, home, room).keys.push(key);
            }
        }
        if let Some(HomedKey { home, key }) = key {
            needs_of(&mut needs, home, room).keys.push(key);
        }
        for (_, needs) in &mut needs {
            needs.holds.sort_unstable();
            needs.holds.dedup();
            let mut known = HashSet::new();
            needs.keys.retain(|key| known.insert(*key));
        }
        WorkRequest { items, plain: None, atomic, dry_run, told: true, turn: None, key, request_id, needs }
    }

    /// The work that executes plain transfers.
    pub fn plain(list: PlainList, told: bool) -> WorkRequest {
        let needs = smallvec![(list.shard, Needs::default())];
        let nothing = WorkRequest::of(SmallVec::new(), None, false, false, Box::default(), 1);
        WorkRequest { needs, plain: Some(list), told, ..nothing }
    }

    /// Says of plain transfers what is said of any others: what they do and what they need.
    pub(super) fn spell_out(&mut self) {
        let Some(list) = self.plain.take() else { return };
        let place = self.needs.iter().position(|(needed, _)| *needed == list.shard);
        let accounts = &mut self.needs[place.expect("their shard is needed")].1.accounts;
        accounts.extend(list.transfers.iter().flat_map(|of| [of.from.clone(), of.to.clone()]));
        self.items.extend(list.into_items());
    }

    /// Makes this work one of a list. They are decided in the order in which they are sent, each when the one before has
    /// been decided; and by the same shard, the last of these, all of which each visits, so that its log has a first
    /// part of the list whenever the process ends. Only one that turns out to need a higher shard is decided there.
    pub fn take_turn(&mut self, turn: u64, shards: &[ShardId]) {
        self.turn = Some(turn);
        if shards.len() > 1 {
            // Nothing is done at once that others have to be asked for, and a shard has better to do than to spell it out.
            self.spell_out();
        }
        for (place, shard) in shards.iter().enumerate() {
            if self.needs.get(place).is_none_or(|(known, _)| known != shard) {
                self.needs.insert(place, (*shard, Needs::default()));
            }
        }
        assert_eq!(self.needs.len(), shards.len(), "all that is needed is among the list's");
    }

    /// Adds what is missing to what is needed. Returns whether any of it was not needed before.
    pub(super) fn need_missing(&mut self, missing: Missing) -> bool {
        let mut added = self.need_accounts(&missing.accounts);
        for (shard, account, reference) in missing.references {
            // The account is among those that are needed, or its terms would not be known.
            let needed = (ReferenceAccount::Numbered(account), reference);
            needs_of(&mut self.needs, shard, 0).references.push(needed);
            added = true;
        }
        added
    }

    /// Adds accounts to what is needed. Returns whether any was not needed before.
    pub(super) fn need_accounts(&mut self, accounts: &[AccountId]) -> bool {
        let mut added = false;
        for id in accounts {
            let reference = AccountRef::Number { number: id.number, opened: id.opened };
            let needs = needs_of(&mut self.needs, id.shard, 0);
            if !needs.accounts.contains(&reference) {
                needs.accounts.push(reference);
                added = true;
            }
        }
        added
    }
}

/// What is needed of a shard; what was nothing gets room for so many accounts.
fn needs_of(
    needs: &mut SmallVec<[(ShardId, Needs); 2]>,
    shard: ShardId,
    accounts_expected: usize,
) -> &mut Needs {
    let place = match needs.binary_search_by_key(&shard, |(shard, _)| *shard) {
        Ok(place) => place,
        Err(place) => {
            let accounts = SmallVec::with_capacity(accounts_expected);
            needs.insert(place, (shard, Needs { accounts, ..Needs::default() }));
            place
        }
    };
    &mut needs[place].1
}
