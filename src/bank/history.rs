//! Reading what was: pages of an account's history, accounts as they were, statements, transactions by id.
//!
//! What always holds:
//!
//! - an account's entries are in the order of its versions, and their times never run backwards, so a time range is a
//!   range of versions; its ends are found through the skip pointers, in O(log n) reads;
//! - what a request reads is bounded: a page, of entries or of accounts as they were, examines some
//!   [`ENTRIES_EXAMINED_MAX`] entries at most and then says where to go on, a statement of more than
//!   [`STATEMENT_ENTRIES_MAX`] is refused;
//! - a moment is read only once the clock has passed it, so nothing can be booked in it any more; that is waited for a
//!   second, and then refused.
//!
//! Left out on purpose: an index by type, amount or metadata. Such a filter reads the entries one after the other.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{AccountSelector, Bank, Executed, PAGE_ENTRIES_MAX, Refusal, refusal};
use crate::clock;
use crate::ledger::{
    AccountChange, AccountId, AccountName, AccountNumber, Amount, Change, Currency, Effect, HoldId, HoldKey,
    Kind, Quantity, Reference, Sequence, ShardId, Timestamp, Total, TransactionId, TransactionType,
};
use crate::shard::request::{AccountFilter, AccountView, Reply, Request};
use crate::storage::StorageError;
use crate::storage::history::{HistoryEntry, HistoryReader};

/// How many entries one page examines at most, so that a filter that finds little does not keep a reader busy: some
/// 0.3 s of work where each is in another block of the archive, 35 us, and far less where they are together.
pub const ENTRIES_EXAMINED_MAX: u64 = 10_000;

/// How many entries are read at a time, so that a page in ascending order does not keep all that it examines.
pub(super) const ENTRIES_READ_MAX: u64 = 1000;

/// How many entries a statement covers at most: some hundred printed pages.
pub const STATEMENT_ENTRIES_MAX: u64 = 10_000;

/// How long to wait before looking whether the clock has passed the present millisecond.
const MOMENT: Duration = Duration::from_millis(1);

/// How long to wait for the clock to pass a moment at most. It passes the present one in a millisecond, but one that has
/// been set back may take hours.
const MOMENT_WAIT_MAX: Duration = Duration::from_secs(1);

/// In which order a list comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Descending,
    /// Oldest first.
    Ascending,
}

/// Which of an account's entries are wanted. Each that is given has to be true of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryFilter {
    /// Of these types; without it, of those that are about money.
    pub types: Option<Vec<TransactionType>>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// What they move, or what they hold or release if they move nothing: at least so much, either way.
    pub amount_min: Option<Quantity>,
    /// The same: at most so much.
    pub amount_max: Option<Quantity>,
    /// With exactly this reference.
    pub reference: Option<Reference>,
    /// With these values in their metadata.
    pub metadata: Vec<(Box<str>, Box<str>)>,
}

/// An entry of an account's history: what an operation did to this account.
///
/// Always: the operation has an effect on the account.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountEntry {
    /// The account.
    pub account: AccountId,
    /// The operation.
    pub executed: Executed,
    /// By how much it changed what the account's pending holds reserve.
    pub held_change: Amount,
}

/// A part of an account's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The account, as it is now.
    pub account: AccountView,
    /// The entries.
    pub entries: Vec<AccountEntry>,
    /// The version at which the next page starts, if there is more, or there may be.
    pub next: Option<u64>,
}

/// A point in an account's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// What had happened up to this moment.
    Time(Timestamp),
    /// This version.
    Version(u64),
}

/// An account as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct PastAccount {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: AccountName,
    /// Its currency.
    pub currency: Currency,
    /// Its balance then.
    pub posted: Amount,
    /// What its pending holds reserved then.
    pub held: Amount,
    /// Its version then.
    pub version: u64,
    /// The moment that was asked about; that of the version, if a version was.
    pub at: Timestamp,
    /// When it had last changed.
    pub updated: Timestamp,
    /// When it had been closed, if it had.
    pub closed: Option<Timestamp>,
}

/// What an account got and paid in a time.
///
/// Always: the opening balance and the lines' amounts sum to the closing balance; so do `paid_in` less `paid_out`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The account, as it is now.
    pub account: AccountView,
    /// The time from which on it is.
    pub from: Timestamp,
    /// The time before which it ends, if not now.
    pub to: Option<Timestamp>,
    /// The balance before its first line.
    pub opening: Amount,
    /// The balance after its last line.
    pub closing: Amount,
    /// All amounts above zero.
    pub paid_in: Total,
    /// All amounts below zero, without their sign.
    pub paid_out: Total,
    /// Whatever changed the balance, oldest first.
    pub lines: Vec<StatementLine>,
}

/// A line of a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct StatementLine {
    /// The transaction's id.
    pub id: TransactionId,
    /// Its type.
    pub entry_type: TransactionType,
    /// What it added to the balance.
    pub amount: Amount,
    /// The balance after it.
    pub balance: Amount,
    /// The account's version after it.
    pub version: u64,
    /// The client's reference.
    pub reference: Option<Reference>,
    /// The other account, if there is exactly one.
    pub counterparty: Option<AccountId>,
}

impl AccountEntry {
    /// What happened to the account.
    pub fn effect(&self) -> &Effect {
        let mut effects = self.executed.decision.effects();
        let own = effects.find(|(shard, effect)| effect.account_id(*shard) == self.account);
        own.expect("an entry is about its account").1
    }

    /// What happened to other accounts.
    pub fn others(&self) -> impl Iterator<Item = (AccountId, &Effect)> {
        let effects = self.executed.decision.effects();
        effects
            .map(|(shard, effect)| (effect.account_id(shard), effect))
            .filter(|(account, _)| *account != self.account)
    }

    /// What kind of thing happened.
    pub fn entry_type(&self) -> TransactionType {
        self.executed.transaction_type()
    }

    /// The hold that was placed, or that ended.
    pub fn hold(&self) -> Option<HoldId> {
        match self.executed.decision.kind {
            Kind::Capture { hold } | Kind::Void { hold } | Kind::Expiry { hold } => Some(hold),
            Kind::Hold => {
                let effect = self.effect();
                let version =
                    u32::try_from(effect.after.version).expect("holds are placed at early versions");
                Some(
                    HoldKey { account: effect.account, version }
                        .id(self.account.shard, self.executed.id.time),
                )
            }
            _ => None,
        }
    }

    /// When it happened.
    pub fn created(&self) -> Timestamp {
        self.executed.id.time
    }

    /// What it moved, or what it held or released if it moved nothing; without a sign.
    fn size(&self) -> Amount {
        let posted = self.effect().change.posted();
        if posted.is_zero() { self.held_change.magnitude() } else { posted.magnitude() }
    }
}

impl EntryFilter {
    fn has_type(&self, entry: TransactionType) -> bool {
        match &self.types {
            Some(types) => types.contains(&entry),
            None => entry.is_about_money(),
        }
    }

    /// All but the time, which the range of versions takes care of.
    fn matches(&self, entry: &AccountEntry, currency: Currency) -> bool {
        let note = &entry.executed.decision.note;
        self.has_type(entry.entry_type())
            && self.reference.as_ref().is_none_or(|reference| note.reference.as_ref() == Some(reference))
            && self.metadata.iter().all(|(key, value)| note.metadata.get(key) == Some(value))
            && self.amount_min.is_none_or(|min| min.cmp_amount(entry.size(), currency).is_le())
            && self.amount_max.is_none_or(|max| max.cmp_amount(entry.size(), currency).is_ge())
    }
}

impl Bank {
    /// Reads a page of an account's history, of at most `count` entries, from the version `from` on; without `from`,
    /// from its newest or oldest. A page may have fewer entries than asked for, even none, and yet a next one.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn history(
        &self,
        account: AccountSelector,
        filter: EntryFilter,
        order: Order,
        from: Option<u64>,
        count: usize,
    ) -> Result<Page, Refusal> {
        let count = count.clamp(1, PAGE_ENTRIES_MAX);
        let account = self.account(account).await?;
        let mut versions = 1..=account.version;
        if let Some(from) = from {
            match order {
                Order::Descending => versions = 1..=from.min(account.version),
                Order::Ascending => versions = from.max(1)..=account.version,
            }
        }
        // Where references are unique, the one is known without a search.
        if let Some(reference) = &filter.reference
            && account.details.as_ref().is_some_and(|details| details.unique_reference)
        {
            let only = self.version_of(&account, reference.clone()).await?;
            let Some(only) = only.filter(|version| versions.contains(version)) else {
                return Ok(Page { account, entries: Vec::new(), next: None });
            };
            versions = only..=only;
        }
        let chain = Chain::of(&account);
        let (entries, next) = self
            .read_history(chain.id.shard, move |history| {
                let versions = chain.between(history, versions, filter.from, filter.to)?;
                chain.search(history, versions, order, count, |entry| filter.matches(entry, chain.currency))
            })
            .await?;
        Ok(Page { account, entries, next })
    }

    /// Reads an account as it was.
    ///
    /// # Errors
    /// [`Refusal::NotThere`] before its opening, or at a version that it has not reached; else see [`Refusal`].
    pub async fn account_at(&self, account: AccountSelector, point: Point) -> Result<PastAccount, Refusal> {
        if let Point::Time(moment) = point {
            passed(moment, clock::now).await?;
        }
        let account = self.account(account).await?;
        let chain = Chain::of(&account);
        let past = self.read_history(chain.id.shard, move |history| chain.at(history, point)).await?;
        past.map(|past| past.of(&account)).ok_or(Refusal::NotThere)
    }

    /// Reads a page of all accounts that there were at a moment, as [`Bank::accounts`] does, of fewer accounts where their
    /// histories are long. The filter is asked about the accounts as they were, but for their metadata, of which the ledger
    /// knows today's.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn accounts_at(
        &self,
        filter: &AccountFilter,
        from: (ShardId, AccountNumber),
        count: usize,
        moment: Timestamp,
    ) -> Result<(Vec<PastAccount>, Option<(ShardId, AccountNumber)>), Refusal> {
        passed(moment, clock::now).await?;
        let open_or_closed = AccountFilter { closed: None, ..filter.clone() };
        let (accounts, mut next) = self.accounts(Arc::new(open_or_closed), from, count).await?;
        let mut there = Vec::with_capacity(accounts.len());
        let mut examined = 0;
        for accounts in accounts.chunk_by(|one, other| one.id.shard == other.id.shard) {
            let shard = accounts[0].id.shard;
            let chains: Vec<_> =
                accounts.iter().map(|account| (account.opened, Chain::of(account))).collect();
            let look = move |history: &mut HistoryReader<'_>| {
                let mut pasts = Vec::with_capacity(chains.len());
                for (opened, chain) in chains {
                    if examined + history.examined() >= ENTRIES_EXAMINED_MAX {
                        break;
                    }
                    let is_there = opened <= moment;
                    pasts.push(if is_there { chain.at(history, Point::Time(moment))? } else { None });
                }
                Ok((pasts, examined + history.examined()))
            };
            let pasts;
            (pasts, examined) = self.read_history(shard, look).await?;
            let rest = accounts.get(pasts.len());
            let pasts = accounts.iter().zip(pasts);
            there.extend(pasts.filter_map(|(account, past)| past.map(|past| past.of(account))));
            if let Some(account) = rest {
                next = Some((shard, account.id.number));
                break;
            }
        }
        there.retain(|account| filter.closed.is_none_or(|closed| account.closed.is_some() == closed));
        Ok((there, next))
    }

    /// Makes a statement: all that changed an account's balance from one moment on and before another; from its
    /// opening, until now.
    ///
    /// # Errors
    /// [`Refusal::StatementTooLong`] if it is of too many entries; else see [`Refusal`].
    pub async fn statement(
        &self,
        account: AccountSelector,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Statement, Refusal> {
        let account = self.account(account).await?;
        let chain = Chain::of(&account);
        let statement = self
            .read_history(chain.id.shard, move |history| {
                let versions = chain.between(history, 1..=account.version, from, to)?;
                chain.statement(history, versions, account, from, to)
            })
            .await?;
        statement.ok_or(Refusal::StatementTooLong)
    }

    /// The version of the account at which a reference was used that can be used once.
    async fn version_of(&self, account: &AccountView, reference: Reference) -> Result<Option<u64>, Refusal> {
        let AccountId { shard, number, .. } = account.id;
        let by = match self.shard(shard).handle.ask(Request::Reference { account: number, reference }).await?
        {
            Reply::Reference(by) => by,
            reply => return Err(refusal(reply)),
        };
        let Some(by) = by else { return Ok(None) };
        let executed = self.executed(by).await?;
        let entry = AccountEntry { account: account.id, executed, held_change: Amount::ZERO };
        Ok(Some(entry.effect().after.version))
    }

    /// Reads a shard's log on a thread that may block.
    pub(super) async fn read_history<T: Send + 'static>(
        &self,
        shard: ShardId,
        read: impl FnOnce(&mut HistoryReader<'_>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let log = Arc::clone(&self.shard(shard).log);
        self.readers.read(move || read(&mut HistoryReader::new(shard, &*log))).await
    }
}

/// Waits until a moment is over, by this clock: what is booked later has a later time.
///
/// # Errors
/// [`Refusal::Overloaded`] if it is not over in [`MOMENT_WAIT_MAX`]: what the moment ends with is not known yet.
async fn passed(moment: Timestamp, now: impl Fn() -> Timestamp) -> Result<(), Refusal> {
    let is_over = async {
        while now() <= moment {
            tokio::time::sleep(MOMENT).await;
        }
    };
    tokio::time::timeout(MOMENT_WAIT_MAX, is_over).await.map_err(|_| Refusal::Overloaded)
}

/// Where an account's history begins to be read: at its newest entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    id: AccountId,
    currency: Currency,
    newest: Sequence,
    pub(super) version: u64,
}

/// What an entry says of its account.
#[derive(Clone, Copy, Debug)]
struct Past {
    posted: Amount,
    held: Amount,
    version: u64,
    at: Timestamp,
    updated: Timestamp,
    is_closed: bool,
}

impl Past {
    fn of(self, account: &AccountView) -> PastAccount {
        PastAccount {
            id: account.id,
            name: account.name.clone(),
            currency: account.currency,
            posted: self.posted,
            held: self.held,
            version: self.version,
            at: self.at,
            updated: self.updated,
            closed: self.is_closed.then_some(self.updated),
        }
    }
}

impl Chain {
    pub(super) fn of(account: &AccountView) -> Chain {
        Chain { id: account.id, currency: account.currency, newest: account.newest, version: account.version }
    }

    /// The newest entry before a moment.
    pub(super) fn before(
        &self,
        history: &mut HistoryReader<'_>,
        moment: Timestamp,
    ) -> Result<Option<HistoryEntry>, StorageError> {
        match moment.millis().checked_sub(1).map(Timestamp::from_millis) {
            Some(last) => history.entry_at(self.id.number, self.newest, self.version, last),
            None => Ok(None),
        }
    }

    /// Which of these versions came about in a time: at `from` or later, and before `to`.
    fn between(
        &self,
        history: &mut HistoryReader<'_>,
        versions: RangeInclusive<u64>,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<RangeInclusive<u64>, StorageError> {
        let (mut low, mut high) = versions.into_inner();
        if let Some(from) = from.filter(|from| low <= high && *from > self.id.opened) {
            let before = self.before(history, from)?.map_or(0, |entry| entry.version());
            low = low.max(before + 1);
        }
        if let Some(to) = to.filter(|_| low <= high) {
            let last = self.before(history, to)?.map_or(0, |entry| entry.version());
            high = high.min(last);
        }
        Ok(low..=high)
    }

    /// So many entries from a version downwards, newest first. Fewer if that is all.
    pub(super) fn entries(
        &self,
        history: &mut HistoryReader<'_>,
        from: u64,
        count: u64,
    ) -> Result<Vec<AccountEntry>, StorageError> {
        // One more: an entry says what is held after it, and the one before says what was.
        let found = history.entries(self.id.number, self.newest, self.version, from, count as usize + 1)?;
        let mut found = found.into_iter().peekable();
        let mut entries = Vec::with_capacity(count as usize);
        while let Some(entry) = found.next() {
            if entries.len() as u64 == count {
                break;
            }
            let (balance, held) = found
                .peek()
                .map_or_else(Default::default, |before| (before.entry.balance, before.entry.held));
            let after = entry.entry.after();
            let held_change = after.held.checked_sub(held).expect("what is held is not negative");
            let entry = self.to_entry(entry, held_change);
            assert_eq!(
                balance.checked_add(entry.effect().change.posted()),
                Some(after.balance),
                "an entry's balance is the one before and what it moved"
            );
            entries.push(entry);
        }
        Ok(entries)
    }

    fn to_entry(self, entry: HistoryEntry, held_change: Amount) -> AccountEntry {
        let HistoryEntry { sequence, event, .. } = entry;
        let shard = self.id.shard;
        let id = event.transaction_id(shard, sequence);
        let decision = match event.change {
            Change::Decided { decision, .. } | Change::Settled { decision, .. } => decision,
            short => {
                let decision = short.to_decision(shard, self.id.opened, self.currency);
                Arc::new(decision.expect("an account's entry is about the account"))
            }
        };
        let executed = Executed { id, decision };
        AccountEntry { account: self.id, executed, held_change }
    }

    /// Searches some versions in an order, for `count` entries at most; with the version to go on at.
    fn search(
        &self,
        history: &mut HistoryReader<'_>,
        versions: RangeInclusive<u64>,
        order: Order,
        count: usize,
        wanted: impl Fn(&AccountEntry) -> bool,
    ) -> Result<(Vec<AccountEntry>, Option<u64>), StorageError> {
        let (mut low, mut high) = versions.into_inner();
        let mut found = Vec::new();
        let mut left = ENTRIES_EXAMINED_MAX;
        // One more than is wanted tells whether there is a next page. What does not match is made up for by reading
        // twice as many each time.
        let mut step = count as u64 + 1;
        while low <= high {
            if left == 0 {
                let next = match order {
                    Order::Descending => high,
                    Order::Ascending => low,
                };
                return Ok((found, Some(next)));
            }
            let few = step.min(ENTRIES_READ_MAX).min(left).min(high - low + 1);
            let top = match order {
                Order::Descending => high,
                Order::Ascending => low + few - 1,
            };
            let mut entries = self.entries(history, top, few)?;
            assert_eq!(entries.len() as u64, few, "an account has an entry for each of its versions");
            if order == Order::Ascending {
                entries.reverse();
            }
            for entry in entries {
                if wanted(&entry) {
                    if found.len() == count {
                        let next = entry.effect().after.version;
                        return Ok((found, Some(next)));
                    }
                    found.push(entry);
                }
            }
            match order {
                Order::Descending => high -= few,
                Order::Ascending => low += few,
            }
            left -= few;
            step *= 2;
        }
        Ok((found, None))
    }

    /// How the account was.
    fn at(&self, history: &mut HistoryReader<'_>, point: Point) -> Result<Option<Past>, StorageError> {
        let (account, newest, version) = (self.id.number, self.newest, self.version);
        let entry = match point {
            Point::Time(moment) => history.entry_at(account, newest, version, moment)?,
            Point::Version(wanted) => history.entries(account, newest, version, wanted, 1)?.pop(),
        };
        let past = entry.map(|entry| {
            let after = entry.entry.after();
            let updated = entry.time();
            let at = match point {
                Point::Time(moment) => moment,
                Point::Version(_) => updated,
            };
            // A closed account has no further entry, so only the last one need be looked at.
            let is_closed = after.version == version && {
                let entry = self.to_entry(entry, Amount::ZERO);
                entry.effect().change == AccountChange::Closed
            };
            Past { posted: after.balance, held: after.held, version: after.version, at, updated, is_closed }
        });
        Ok(past)
    }

    /// The statement of some versions; `None` if they are too many.
    fn statement(
        &self,
        history: &mut HistoryReader<'_>,
        versions: RangeInclusive<u64>,
        account: AccountView,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Option<Statement>, StorageError> {
        let (mut low, high) = versions.into_inner();
        if high.saturating_sub(low) >= STATEMENT_ENTRIES_MAX {
            return Ok(None);
        }
        let balance_at = |history: &mut HistoryReader<'_>, version: u64| {
            let entry = history.entries(self.id.number, self.newest, self.version, version, 1)?.pop();
            Ok(entry.map_or(Amount::ZERO, |entry| entry.entry.balance))
        };
        let opening = balance_at(history, low - 1)?;
        let closing = if low <= high { balance_at(history, high)? } else { opening };
        let (mut paid_in, mut paid_out) = (Total::default(), Total::default());
        let mut lines = Vec::new();
        let mut balance = opening;
        while low <= high {
            let few = ENTRIES_READ_MAX.min(high - low + 1);
            let mut entries = self.entries(history, low + few - 1, few)?;
            entries.reverse();
            for entry in &entries {
                let Some(line) = StatementLine::of(entry) else { continue };
                let side = if line.amount.is_positive() { &mut paid_in } else { &mut paid_out };
                side.add(line.amount.magnitude());
                assert_eq!(
                    balance.checked_add(line.amount),
                    Some(line.balance),
                    "a line continues the line before"
                );
                balance = line.balance;
                lines.push(line);
            }
            low += few;
        }
        assert_eq!(balance, closing, "a statement adds up");
        assert_eq!(
            paid_in.minor_units() - paid_out.minor_units(),
            closing.minor_units() - opening.minor_units(),
            "a statement adds up"
        );
        // What ends before the account was opened does not begin after its end.
        let opened = to.map_or(account.opened, |to| to.min(account.opened));
        let from = from.unwrap_or(opened);
        Ok(Some(Statement { account, from, to, opening, closing, paid_in, paid_out, lines }))
    }
}

impl StatementLine {
    /// The line of an entry that changes the balance.
    fn of(entry: &AccountEntry) -> Option<StatementLine> {
        let effect = entry.effect();
        let amount = effect.change.posted();
        if amount.is_zero() {
            return None;
        }
        let mut others = entry.others().map(|(account, _)| account);
        let counterparty = others.next().filter(|_| others.next().is_none());
        Some(StatementLine {
            id: entry.executed.id,
            entry_type: entry.entry_type(),
            amount,
            balance: effect.after.balance,
            version: effect.after.version,
            reference: entry.executed.decision.note.reference.clone(),
            counterparty,
        })
    }

    /// When it was booked.
    pub fn created(&self) -> Timestamp {
        self.id.time
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// P7: a clock that was set back by an hour was waited for, for an hour.
    #[tokio::test(start_paused = true)]
    async fn a_moment_is_waited_for_as_long_as_it_takes_but_no_longer_than_a_second() {
        let present = Timestamp::from_millis(1_764_547_200_000);
        // A clock that shows the moment's end only to those who look so often.
        let clock = |set_back_by: u64, looks_needed: u64| {
            let looks = Cell::new(0);
            move || {
                looks.set(looks.get() + 1);
                assert!(looks.get() < 10_000, "it is waited for for ever");
                let is_over = looks.get() >= looks_needed;
                Timestamp::from_millis(present.millis() + u64::from(is_over) - set_back_by)
            }
        };
        for looks_needed in [1, 3] {
            let began = Instant::now();
            assert!(passed(present, clock(0, looks_needed)).await.is_ok());
            assert_eq!(began.elapsed(), MOMENT * (looks_needed as u32 - 1));
        }
        for set_back_by in [0, 3_600_000] {
            let began = Instant::now();
            let refused = passed(present, clock(set_back_by, u64::MAX)).await;
            assert!(matches!(refused, Err(Refusal::Overloaded)), "{refused:?}");
            assert_eq!(began.elapsed(), MOMENT_WAIT_MAX);
        }
    }
}
