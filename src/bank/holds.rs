//! Holds: those that a shard remembers, and those that ended so long ago that only history has them.
//!
//! A shard forgets an ended hold after [`ENDED_HOLD_MEMORY_MS`](crate::ledger::ENDED_HOLD_MEMORY_MS), or behind
//! [`ENDED_HOLDS_MAX`](crate::ledger::ENDED_HOLDS_MAX) others, for memory must not grow with all that ever was. The hold
//! goes on to have its outcome: whoever reads it is told, and whoever would end it once more learns how it ended.
//!
//! # Where a hold is
//! Its id says where it was placed: at that version of that account, at that time. Its end is an entry of the same
//! account behind that, and nothing says which. But the time narrows it down: whoever deals with an account lets the
//! holds expire first that are due. So however late an expiry was recorded (a restart, a full disk), it stands right
//! behind the last entry before that time: between the two are other expiries, and what was decided in the very moment,
//! or by a shard whose time is ahead. There it is looked for first. If it is not there, all entries behind the placing
//! are read, the oldest first, for most holds are ended soon; up to the newest, in case the clock was set back and much
//! happened while it stood still.
//!
//! # What that costs
//! One request examines some [`ENTRIES_EXAMINED_MAX`] entries at most, those on the way to others among them. If it has not
//! found the end then, it is refused as too much work for now, and the bank remembers how far it got: the next request
//! about that hold goes on there. What was found is remembered as well, also that there is no such hold, and costs nothing
//! again. So a client that follows `Retry-After` gets its answer, of a batch of holds too. An index of ended holds would
//! spare the search, and would cost memory for all of them for ever.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use super::history::{Chain, ENTRIES_READ_MAX};
use super::{AccountEntry, AccountSelector, Bank, ENTRIES_EXAMINED_MAX, PAGE_ENTRIES_MAX, Refusal, refusal};
use crate::ledger::operation::Operation;
use crate::ledger::{AccountChange, Hold, HoldId, HoldKey, HoldStatus, Rejected, Rejection};
use crate::shard::request::{HoldView, HoldsView, Reply, Request};
use crate::storage::StorageError;
use crate::storage::history::HistoryReader;

/// How many entries behind a hold's time are looked at before all others: as many as one list of operations makes.
const EXPIRY_NEAR: u64 = 1000;

/// How many entries are read first; it doubles from there on.
const ENTRIES_READ_FIRST: u64 = 16;

/// How many searches the bank remembers; about 150 bytes each. One more, and all of them start anew: a batch that asks
/// for as many holds as it can stays far below.
const SEARCHES_MAX: usize = 50_000;

/// How far searches for the ends of holds have got.
#[derive(Debug, Default)]
pub(super) struct Searches(Mutex<HashMap<HoldId, Progress>>);

/// How far one has got.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// The end is not before this version.
    GoOnAt(u64),
    /// To its end.
    Found(Hold),
    /// No hold was placed there, which stays so.
    NeverPlaced,
}

impl Searches {
    fn get(&self, id: HoldId) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    fn set(&self, id: HoldId, progress: Progress) {
        let mut searches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if searches.len() >= SEARCHES_MAX {
            searches.clear();
        }
        searches.insert(id, progress);
    }
}

/// How many more entries a request may examine.
#[derive(Clone, Copy)]
pub(super) struct Budget(u64);

impl Default for Budget {
    fn default() -> Budget {
        Budget(ENTRIES_EXAMINED_MAX)
    }
}

impl Budget {
    /// What is left of it when the reader has come so far.
    fn left(&self, history: &HistoryReader<'_>) -> u64 {
        self.0.saturating_sub(history.examined())
    }
}

/// What came of a search.
enum Search {
    /// The hold, as it ended.
    Ended(Hold),
    /// No hold was placed there.
    NeverPlaced,
    /// The hold has not ended.
    Nothing,
    /// The end is not before this version, if one is said.
    Unfinished(Option<u64>),
}

/// What came of a search in some versions.
enum Scan {
    Found(AccountEntry),
    Nothing,
    Unfinished(u64),
}

/// The hold that an operation ends.
pub(super) fn ended_by(operation: &Operation) -> Option<HoldId> {
    match operation {
        Operation::Capture { hold, .. } | Operation::Void { hold, .. } => Some(*hold),
        _ => None,
    }
}

impl Bank {
    /// Reads a hold.
    ///
    /// # Errors
    /// See [`Refusal`]; [`Refusal::Overloaded`] also if it ended long ago and was not found yet: the search goes on with
    /// the next request.
    pub async fn hold(&self, id: HoldId) -> Result<HoldView, Refusal> {
        let shard = self.shards.get(id.shard.index()).ok_or(Refusal::from(Rejection::HoldNotFound))?;
        match shard.handle.ask(Request::Hold(id)).await? {
            Reply::Hold(Some(hold)) => Ok(hold),
            Reply::Hold(None) => {
                let ended = self.ended_hold(id, &mut Budget::default()).await?;
                ended.ok_or(Rejection::HoldNotFound.into())
            }
            reply => Err(refusal(reply)),
        }
    }

    /// Reads a page of an account's holds that are pending, or ended a short while ago, the oldest first:
    /// from a version of the account on, only the pending ones or the others if wanted. A page may have less
    /// than `count` (1 to 1000), or nothing, before the last one.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn holds(
        &self,
        account: AccountSelector,
        from: u32,
        count: usize,
        pending: Option<bool>,
    ) -> Result<HoldsView, Refusal> {
        let (shard, account) = self.located(account)?;
        let request = Request::Holds { account, from, count: count.clamp(1, PAGE_ENTRIES_MAX), pending };
        match self.shard(shard).handle.ask(request).await? {
            Reply::Holds(holds) => holds.map(|view| *view).ok_or(Rejection::AccountNotFound.into()),
            reply => Err(refusal(reply)),
        }
    }

    /// The refusal to end a hold, in which one that was forgotten is not unknown but has ended.
    ///
    /// What a key remembers is "not known": that is told in the same way each time, for what has ended stays so.
    pub(super) async fn told_of_hold(&self, id: HoldId, refusal: Refusal, budget: &mut Budget) -> Refusal {
        let Refusal::Rejected { rejected, first_request_id } = refusal else {
            return refusal;
        };
        let Rejected { rejection: Rejection::HoldNotFound, at } = *rejected else {
            return Refusal::Rejected { rejected, first_request_id };
        };
        let rejection = match self.ended_hold(id, budget).await {
            Ok(Some(HoldView { currency, hold, .. })) => match hold.status {
                HoldStatus::Ended { outcome, .. } => Rejection::HoldEnded { outcome, currency },
                HoldStatus::Pending => unreachable!("it was its end that was found"),
            },
            Ok(None) => Rejection::HoldNotFound,
            Err(refusal) => return refusal,
        };
        Refusal::Rejected { rejected: Box::new(Rejected { rejection, at }), first_request_id }
    }

    /// Looks in history for a hold that its shard does not know, so it has ended long ago if it ever was.
    async fn ended_hold(&self, id: HoldId, budget: &mut Budget) -> Result<Option<HoldView>, Refusal> {
        let Some(shard) = self.shards.get(id.shard.index()) else {
            return Ok(None);
        };
        let account = match shard.handle.ask(Request::AccountByNumber(id.account)).await? {
            Reply::Account(Some(account)) => account,
            Reply::Account(None) => return Ok(None),
            reply => return Err(refusal(reply)),
        };
        if id.time < account.opened || id.version == 0 || u64::from(id.version) > account.version {
            return Ok(None);
        }
        let ended = |hold| Ok(Some(HoldView { id, account: account.id, currency: account.currency, hold }));
        let from = match self.hold_searches.get(id) {
            Some(Progress::Found(hold)) => return ended(hold),
            Some(Progress::NeverPlaced) => return Ok(None),
            Some(Progress::GoOnAt(version)) => Some(version),
            None => None,
        };
        if budget.0 == 0 {
            return Err(Refusal::Overloaded);
        }
        let (chain, all) = (Chain::of(&account), *budget);
        let look = move |history: &mut HistoryReader<'_>| {
            Ok((chain.ended_hold(history, id, from, &all)?, Budget(all.left(history))))
        };
        let search;
        (search, *budget) = self.read_history(id.shard, look).await?;
        match search {
            Search::Ended(hold) => {
                self.hold_searches.set(id, Progress::Found(hold));
                ended(hold)
            }
            Search::NeverPlaced => {
                self.hold_searches.set(id, Progress::NeverPlaced);
                Ok(None)
            }
            Search::Nothing => Ok(None),
            Search::Unfinished(next) => {
                if let Some(next) = next {
                    self.hold_searches.set(id, Progress::GoOnAt(next));
                }
                Err(Refusal::Overloaded)
            }
        }
    }
}

impl Chain {
    /// Looks for a hold that has ended; its end not before the version `from`, if that is known.
    fn ended_hold(
        &self,
        history: &mut HistoryReader<'_>,
        id: HoldId,
        from: Option<u64>,
        budget: &Budget,
    ) -> Result<Search, StorageError> {
        let version = u64::from(id.version);
        let placed = self.entries(history, version, 1)?.pop().filter(|placed| placed.created() == id.time);
        let Some(AccountChange::Held { amount, to, expires }) =
            placed.as_ref().map(|placed| &placed.effect().change)
        else {
            return Ok(Search::NeverPlaced);
        };
        let (amount, to, expires) = (*amount, *to, *expires);
        let mut scan = Scan::Nothing;
        if from.is_none() {
            let before = self.before(history, expires)?.map_or(version, |entry| entry.version().max(version));
            let near = before + 1..=before + EXPIRY_NEAR;
            scan = self.end_in(history, id.key(), near, budget)?;
            if let Scan::Unfinished(_) = scan {
                return Ok(Search::Unfinished(None));
            }
        }
        if !matches!(scan, Scan::Found(_)) {
            let versions = from.unwrap_or(version + 1)..=self.version;
            scan = self.end_in(history, id.key(), versions, budget)?;
        }
        Ok(match scan {
            Scan::Found(end) => {
                let AccountChange::Released { outcome, .. } = end.effect().change else {
                    unreachable!("it is an end that was looked for");
                };
                let status = HoldStatus::Ended { at: end.created(), outcome };
                let hold = Hold { created: id.time, amount, to, expires, status };
                Search::Ended(hold)
            }
            Scan::Nothing => Search::Nothing,
            Scan::Unfinished(next) => Search::Unfinished(Some(next)),
        })
    }

    /// Looks for the end of a hold in some versions, the oldest first.
    fn end_in(
        &self,
        history: &mut HistoryReader<'_>,
        hold: HoldKey,
        versions: RangeInclusive<u64>,
        budget: &Budget,
    ) -> Result<Scan, StorageError> {
        let (mut low, high) = versions.into_inner();
        let high = high.min(self.version);
        let mut step = ENTRIES_READ_FIRST;
        let ends = |entry: &AccountEntry| match &entry.effect().change {
            AccountChange::Released { hold: released, .. } => *released == hold,
            _ => false,
        };
        while low <= high {
            let few = step.min(ENTRIES_READ_MAX).min(high - low + 1).min(budget.left(history));
            if few == 0 {
                return Ok(Scan::Unfinished(low));
            }
            let entries = self.entries(history, low + few - 1, few)?;
            if let Some(end) = entries.into_iter().find(ends) {
                return Ok(Scan::Found(end));
            }
            low += few;
            step *= 2;
        }
        Ok(Scan::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountNumber, ShardId, Timestamp};

    #[test]
    fn so_many_searches_at_most_are_remembered() {
        let searches = Searches::default();
        let (time, shard) = (Timestamp::from_millis(1), ShardId::new(0).expect("in range"));
        for version in 1..=SEARCHES_MAX as u32 + 1 {
            let id = HoldId { time, shard, account: AccountNumber::new(0), version };
            searches.set(id, Progress::NeverPlaced);
            assert!(searches.get(id).is_some(), "it is remembered for the next request");
            assert!(searches.0.lock().expect("no panic").len() <= SEARCHES_MAX);
        }
    }
}
