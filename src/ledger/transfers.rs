//! Plain transfers: those that say nothing but how much, between open accounts that have nothing but money. They are
//! decided without a workspace.
//!
//! The largest batches consist of transfers between two accounts of one shard. Each is decided on what the one before
//! has left and is applied at once: no copies, no locks, nothing from the heap, less than half of the instructions. One
//! by itself that is not executed so, mostly for its accounts are of two shards, is decided on what was granted. What
//! always holds:
//!
//! - what is decided, refused and recorded is what [`super::workspace`] would have: `tests/ledger.rs` compares them;
//! - nothing is changed before it is certain that all of a list can be decided so. What might take more than the two
//!   accounts (overdraft protection, velocity limits, unique references) is among the details that they must not have.

use std::sync::Arc;

use smallvec::smallvec;

use super::operation::{Item, Operation, Place, PlainTransfer, Sum};
use super::state::in_currency;
use super::workspace::{AccountState, Grant, rejected_at};
use super::{
    Account, AccountChange, AccountId, AccountNumber, AccountRef, AccountStatus, After, Amount, Change,
    Currency, Decision, Effect, Effects, Event, Kind, Ledger, Note, Part, PartLinks, Quantity, Rejected,
    Rejection, Sequence, ShardId, Terms,
};

/// Plain transfers between accounts of one ledger, as it stands.
#[derive(Debug)]
pub struct PlainTransfers {
    /// Payer and payee of each.
    accounts: Vec<[AccountNumber; 2]>,
    amounts: Vec<Quantity>,
    /// The last event that any of the accounts depends on.
    seen: Sequence,
    /// The event of the next one. There is one for all: who wants to keep what it says clones its decision.
    event: Event,
}

impl PlainTransfers {
    /// The accounts, payer and payee of each in turn.
    pub fn accounts(&self) -> impl Iterator<Item = AccountNumber> {
        self.accounts.iter().flatten().copied()
    }

    /// The last event that any of the accounts depends on, as they were found.
    pub fn seen(&self) -> Sequence {
        self.seen
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.amounts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.amounts.is_empty()
    }
}

impl Ledger {
    /// These transfers, if their accounts are open and have nothing but money.
    pub fn plain_transfers(&self, transfers: &[PlainTransfer], terms: &Terms) -> Option<PlainTransfers> {
        self.found_plain(transfers.iter().map(|of| Some(([&of.from, &of.to], of.amount))), terms)
    }

    /// These items, if they are plain transfers between open accounts of this ledger that have nothing but money.
    pub fn plain_items(&self, items: &[Item], terms: &Terms) -> Option<PlainTransfers> {
        let here = |place: &Place| place.shard == self.shard();
        let plain = |item| {
            let (places, amount) = as_plain(item)?;
            places.into_iter().all(here).then(|| (places.map(|place| &place.account), amount))
        };
        self.found_plain(items.iter().map(plain), terms)
    }

    /// Transfers whose accounts can be found, if all are plain and their accounts, too.
    fn found_plain<'a>(
        &self,
        transfers: impl ExactSizeIterator<Item = Option<([&'a AccountRef; 2], Quantity)>>,
        terms: &Terms,
    ) -> Option<PlainTransfers> {
        let count = transfers.len();
        let mut references = Vec::with_capacity(2 * count);
        let mut amounts = Vec::with_capacity(count);
        for transfer in transfers {
            let (accounts, amount) = transfer?;
            references.extend(accounts);
            amounts.push(amount);
        }
        let mut seen = Sequence::NONE;
        let mut accounts = Vec::with_capacity(count);
        for pair in self.accounts().find_all(&references).chunks_exact(2) {
            let plain = |account: Option<&Account>| {
                let account = account.filter(|account| account.status == AccountStatus::Open)?;
                seen = seen.max(account.chain.newest());
                account.details.is_none().then_some(account.number)
            };
            let [payer, payee] = [pair[0], pair[1]].map(plain);
            accounts.push([payer?, payee?]);
        }
        let parts = vec![Part::new(self.shard(), Effects::with_capacity(2))];
        let decision = Decision { kind: Kind::Transfer, note: Note::default(), parts };
        let change = Change::Decided { decision: Arc::new(decision), links: PartLinks::new() };
        let event = Event { time: terms.now, key: None, change };
        Some(PlainTransfers { accounts, amounts, seen, event })
    }

    /// Executes one of these transfers. The event is the same one for all of them.
    ///
    /// # Errors
    /// The refusal; nothing has changed then.
    pub fn transfer<'e>(
        &mut self,
        transfers: &'e mut PlainTransfers,
        place: usize,
        terms: &Terms,
    ) -> Result<(Sequence, &'e Event), Rejected> {
        let [payer, payee] = transfers.accounts[place].map(|number| &self.accounts()[number.index()]);
        let sides = [payer, payee].map(|account| Side::of(account, self.shard(), terms));
        let [paid, got] = decide(sides, transfers.amounts[place])?;
        let Change::Decided { decision, links } = &mut transfers.event.change else {
            unreachable!("it was made so");
        };
        let effects = &mut Arc::make_mut(decision).parts[0].effects;
        effects.clear();
        effects.extend([paid, got]);
        links.clear();
        links.extend([payer.chain.links(), payee.chain.links()]);
        Ok((self.apply(&transfers.event), &transfers.event))
    }
}

/// Decides an item on what was granted, if it is a plain transfer.
///
/// # Errors
/// The refusal.
pub fn decide_plain(item: &Item, grants: &[Grant]) -> Option<Result<Decision, Rejected>> {
    let (places, amount) = as_plain(item)?;
    let granted = |place: &Place| {
        let grant = grants.iter().find(|grant| grant.shard == place.shard)?;
        let (_, account) = grant.accounts.iter().find(|(account, _)| *account == place.account)?;
        account.as_ref().filter(|account| !account.closed && account.details.is_none()).map(Side::from)
    };
    let [payer, payee] = places.map(granted);
    let sides = [payer?, payee?];
    Some(decide(sides, amount).map(|effects| {
        let [payer, payee] = places.map(|place| place.shard);
        let parts = match effects {
            effects if payer == payee => vec![Part::new(payer, effects.into_iter().collect())],
            [paid, got] if payer < payee => {
                vec![Part::new(payer, smallvec![paid]), Part::new(payee, smallvec![got])]
            }
            [paid, got] => vec![Part::new(payee, smallvec![got]), Part::new(payer, smallvec![paid])],
        };
        Decision { kind: Kind::Transfer, note: Note::default(), parts }
    }))
}

/// Payer, payee and amount of an item that is a transfer and says nothing else.
fn as_plain(item: &Item) -> Option<([&Place; 2], Quantity)> {
    match item {
        Item {
            operation: Operation::Transfer { from, to, amount: Sum::Exactly(amount), note },
            conditions,
            key: None,
        } if conditions.is_empty() && note.is_empty() => Some(([from, to], *amount)),
        _ => None,
    }
}

/// What deciding needs to know of an account.
struct Side {
    id: AccountId,
    currency: Currency,
    posted: Amount,
    held: Amount,
    available: Amount,
    version: u64,
    frozen: bool,
}

impl Side {
    fn of(account: &Account, shard: ShardId, terms: &Terms) -> Side {
        Side {
            id: AccountId { opened: account.opened, shard, number: account.number },
            currency: account.currency,
            posted: account.posted,
            held: account.held,
            available: account.available(terms.overdraft),
            version: account.version,
            frozen: account.frozen,
        }
    }
}

impl From<&AccountState> for Side {
    fn from(account: &AccountState) -> Side {
        Side {
            id: account.id,
            currency: account.currency,
            posted: account.posted,
            held: account.held,
            available: account.available(),
            version: account.version,
            frozen: account.frozen,
        }
    }
}

/// What a transfer changes. The order of the checks is that of the workspace.
fn decide([payer, payee]: [Side; 2], amount: Quantity) -> Result<[Effect; 2], Rejected> {
    if payer.frozen {
        return Err(rejected_at(Rejection::AccountFrozen, 0));
    }
    if payer.id == payee.id {
        return Err(rejected_at(Rejection::AccountRepeated, 1));
    }
    let currency = payer.currency;
    if currency != payee.currency {
        return Err(rejected_at(
            Rejection::CurrencyMismatch { expected: currency, found: payee.currency },
            1,
        ));
    }
    let amount = in_currency(amount, currency).map_err(|rejection| rejected_at(rejection, 0))?;
    let available = payer.available;
    if amount > available {
        return Err(rejected_at(Rejection::InsufficientFunds { available, required: amount, currency }, 0));
    }
    let effect = |account: &Side, amount: Amount, place| {
        let balance = account.posted.checked_add(amount);
        let balance = balance.ok_or_else(|| rejected_at(Rejection::BalanceOutOfRange, place))?;
        let version = account.version + 1;
        Ok::<_, Rejected>(Effect {
            account: account.id.number,
            opened: account.id.opened,
            currency,
            change: AccountChange::Posted { amount },
            after: After { version, balance, held: account.held },
            allowance: None,
        })
    };
    Ok([effect(&payer, amount.negated(), 0)?, effect(&payee, amount, 1)?])
}
