//! The whole ledger as a beginner would write it: one map of accounts, whatever shards they are in, and one request
//! after the other.
//!
//! It decides operations by itself ([`Model::execute`]) and it takes note of decisions ([`Model::apply`]), without any
//! of the ledger's code but for the types of what is asked and answered, the reading of quantities and the counters of
//! velocity limits, which have tests of their own.

#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;

use teller::ledger::operation::{Condition, Operation, PROTECTION_CHAIN_MAX, Place, Requirement, Sum};
use teller::ledger::{
    AccountChange, AccountId, AccountName, AccountRef, Allowance, Amount, AmountError, Change, Currency,
    Decision, Event, HoldId, HoldOutcome, Kind, LINKS_MAX, Link, LinkKind, OverdraftDefault, Quantity,
    Reference, Rejection, ShardId, Spent, Timestamp, TransactionId, VelocityLimits,
};

/// All accounts.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) overdraft: OverdraftDefault,
    pub(crate) accounts: BTreeMap<AccountId, Account>,
    pub(crate) holds: BTreeMap<HoldId, Hold>,
    names: BTreeMap<AccountName, AccountId>,
    /// How many accounts each shard has.
    opened: BTreeMap<ShardId, u32>,
    /// By what transfers were reversed; not known for those that this model has decided itself.
    pub(crate) reversed: BTreeMap<TransactionId, Option<TransactionId>>,
    pub(crate) references: BTreeMap<(AccountId, Reference), Option<TransactionId>>,
}

/// An account.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Account {
    pub(crate) name: AccountName,
    pub(crate) currency: Currency,
    pub(crate) limit: Option<i128>,
    pub(crate) posted: i128,
    pub(crate) held: i128,
    pub(crate) version: u64,
    pub(crate) frozen: bool,
    pub(crate) closed: bool,
    pub(crate) metadata: BTreeMap<Box<str>, Box<str>>,
    pub(crate) unique_reference: bool,
    pub(crate) velocity: VelocityLimits,
    pub(crate) spent: Spent,
    pub(crate) links: Vec<Link>,
}

/// A hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hold {
    pub(crate) amount: i128,
    pub(crate) to: Option<AccountId>,
    pub(crate) expires: Timestamp,
    pub(crate) outcome: Option<HoldOutcome>,
}

/// What the model expects to be written down for one decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) kind: &'static str,
    /// The accounts, and version, balance and held after it; in order of the accounts.
    pub(crate) after: Vec<(AccountId, u64, i128, i128)>,
}

type Refusable<T> = Result<T, Rejection>;

pub(crate) fn amount(units: i128) -> Amount {
    Amount::from_minor_units(units).expect("in range")
}

/// A name for what a decision is.
pub(crate) fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Opening => "opening",
        Kind::Deposit => "deposit",
        Kind::Withdrawal => "withdrawal",
        Kind::Transfer => "transfer",
        Kind::Protection => "protection",
        Kind::Reversal { .. } => "reversal",
        Kind::Hold => "hold",
        Kind::Capture { .. } => "capture",
        Kind::Void { .. } => "void",
        Kind::Expiry { .. } => "expiry",
        Kind::Amendment => "amendment",
        Kind::Closing => "closing",
        Kind::Linking => "linking",
        Kind::Unlinking => "unlinking",
        Kind::Refusal { .. } => "refusal",
        Kind::Batch { .. } => "batch",
    }
}

impl Expected {
    pub(crate) fn new(kind: &'static str) -> Expected {
        Expected { kind, after: Vec::new() }
    }

    /// What was written down, in the same form.
    pub(crate) fn of(decision: &Decision) -> Expected {
        let mut expected = Expected::new(kind_name(&decision.kind));
        for (shard, effect) in decision.effects() {
            let after = effect.after;
            let (balance, held) = (after.balance.minor_units(), after.held.minor_units());
            expected.after.push((effect.account_id(shard), after.version, balance, held));
        }
        expected.after.sort_unstable();
        expected
    }
}

impl Model {
    pub(crate) fn new(overdraft: OverdraftDefault) -> Model {
        Model {
            overdraft,
            accounts: BTreeMap::new(),
            holds: BTreeMap::new(),
            names: BTreeMap::new(),
            opened: BTreeMap::new(),
            reversed: BTreeMap::new(),
            references: BTreeMap::new(),
        }
    }

    /// What an account can pay.
    pub(crate) fn available(&self, id: AccountId) -> i128 {
        let account = &self.accounts[&id];
        if account.closed {
            return 0;
        }
        account.posted - account.held + self.limit(account)
    }

    /// How far below zero an account may go.
    pub(crate) fn limit(&self, account: &Account) -> i128 {
        let default =
            if account.currency == self.overdraft.currency { self.overdraft.limit } else { Amount::ZERO };
        account.limit.unwrap_or(default.minor_units())
    }

    /// The account that a reference finds: by name an open one only.
    pub(crate) fn find(&self, shard: ShardId, reference: &AccountRef) -> Option<AccountId> {
        match reference {
            AccountRef::Name(name) => {
                let id = self.names.get(name)?;
                (!self.accounts[id].closed && id.shard == shard).then_some(*id)
            }
            AccountRef::Number { number, opened } => {
                let id = AccountId { opened: *opened, shard, number: *number };
                self.accounts.contains_key(&id).then_some(id)
            }
        }
    }

    /// Decides an operation, and does it. Returns what is to be written down, the operation's own last.
    pub(crate) fn execute(
        &mut self,
        operation: &Operation,
        conditions: &[Condition],
        now: Timestamp,
    ) -> Refusable<Vec<Expected>> {
        let before = self.clone();
        let mut events = Vec::new();
        let result = self.met(conditions).and_then(|()| self.operation(operation, now, &mut events));
        match result {
            Ok(mut last) => {
                last.after.sort_unstable();
                let mut used = Vec::new();
                if let Some(reference) = operation.reference() {
                    let unique = last.after.iter().filter(|(id, ..)| self.accounts[id].unique_reference);
                    used.extend(unique.map(|(id, ..)| (*id, reference.clone())));
                }
                let by: Vec<_> = used.iter().filter_map(|used| self.references.get(used)).copied().collect();
                if !by.is_empty() {
                    *self = before;
                    // Of several, which one is told is not the model's concern.
                    let by = if by.len() == 1 { by[0] } else { None };
                    return Err(Rejection::ReferenceUsed { by: by.unwrap_or(UNKNOWN) });
                }
                self.references.extend(used.into_iter().map(|used| (used, None)));
                events.push(last);
                Ok(events)
            }
            Err(rejection) => {
                *self = before;
                Err(rejection)
            }
        }
    }

    fn met(&self, conditions: &[Condition]) -> Refusable<()> {
        for Condition { account, requirement } in conditions {
            let id = self.place(account)?;
            let account = &self.accounts[&id];
            let (available, version, currency) = (self.available(id), account.version, account.currency);
            match requirement {
                _ if account.closed => return Err(Rejection::AccountClosed),
                Requirement::Match(wanted) if *wanted != version => {
                    return Err(Rejection::VersionMismatch { version });
                }
                Requirement::Match(_) => continue,
                Requirement::Version(wanted) if *wanted == version => continue,
                Requirement::AvailableAtLeast(least) if available >= units(*least, currency)? => continue,
                Requirement::Version(_) | Requirement::AvailableAtLeast(_) => {
                    return Err(Rejection::ConditionNotMet {
                        available: amount(available),
                        version,
                        currency,
                    });
                }
            }
        }
        Ok(())
    }

    fn operation(
        &mut self,
        operation: &Operation,
        now: Timestamp,
        events: &mut Vec<Expected>,
    ) -> Refusable<Expected> {
        match operation {
            Operation::Open { shard, opening } => {
                if self.names.contains_key(&opening.name) {
                    return Err(Rejection::AccountExists);
                }
                let currency = opening.currency;
                let limit = opening.overdraft_limit.map(|limit| units(limit, currency)).transpose()?;
                let velocity =
                    opening.velocity.in_currency(currency).map_err(|error| misfit(error, currency))?;
                let number = self.opened.get(shard).copied().unwrap_or(0);
                let id = AccountId {
                    opened: now,
                    shard: *shard,
                    number: teller::ledger::AccountNumber::new(number),
                };
                let metadata = opening.metadata.entries().iter().cloned().collect();
                let unique_reference = opening.unique_reference;
                self.insert(id, opening.name.clone(), currency, limit, metadata, unique_reference, velocity);
                let mut event = Expected::new("opening");
                self.touch(&mut event, id, |_| {});
                Ok(event)
            }
            Operation::Deposit { account, amount, .. } => {
                let id = self.open(account)?;
                let sum = units(*amount, self.accounts[&id].currency)?;
                let mut event = Expected::new("deposit");
                self.touch(&mut event, id, |account| account.posted += sum);
                Ok(event)
            }
            Operation::Withdraw { account, amount, .. } => {
                let id = self.payer(account)?;
                let sum = self.sum(id, *amount)?;
                self.ensure_funds(id, sum, now, events)?;
                let mut event = Expected::new("withdrawal");
                self.pay(&mut event, id, sum, now)?;
                Ok(event)
            }
            Operation::Transfer { from, to, amount, .. } => {
                let (payer, payee) = (self.payer(from)?, self.open(to)?);
                if payer == payee {
                    return Err(Rejection::AccountRepeated);
                }
                self.same_currency(payer, payee)?;
                let sum = self.sum(payer, *amount)?;
                self.ensure_funds(payer, sum, now, events)?;
                let mut event = Expected::new("transfer");
                self.pay(&mut event, payer, sum, now)?;
                self.touch(&mut event, payee, |account| account.posted += sum);
                Ok(event)
            }
            Operation::MultiTransfer { legs, .. } => {
                let mut sums = BTreeMap::new();
                let mut totals = BTreeMap::<Currency, i128>::new();
                let mut order = Vec::new();
                for (place, quantity) in legs {
                    let id = if quantity.is_positive() { self.open(place)? } else { self.payer(place)? };
                    let currency = self.accounts[&id].currency;
                    if sums.contains_key(&id) {
                        return Err(Rejection::AccountRepeated);
                    }
                    let sum = units(*quantity, currency)?;
                    sums.insert(id, sum);
                    order.push((id, sum));
                    *totals.entry(currency).or_default() += sum;
                }
                if let Some((&currency, _)) = totals.iter().find(|(_, total)| **total != 0) {
                    return Err(Rejection::LegsUnbalanced { currency });
                }
                let before = self.clone();
                for &(id, sum) in order.iter().filter(|(_, sum)| *sum < 0) {
                    self.ensure_funds(id, -sum, now, events)
                        .map_err(|refusal| self.told_before(&before, refusal, id, now))?;
                }
                let mut event = Expected::new("transfer");
                for &(id, sum) in &order {
                    self.move_all(&mut event, &[(id, sum)], now)
                        .map_err(|refusal| self.told_before(&before, refusal, id, now))?;
                }
                Ok(event)
            }
            Operation::Reverse { transfer, legs, amount: partly, .. } => {
                if let Some(by) = self.reversed.get(transfer) {
                    return Err(Rejection::AlreadyReversed { by: by.unwrap_or(UNKNOWN) });
                }
                let mut order = Vec::new();
                for (place, sum) in legs {
                    let id = self.open(place)?;
                    let currency = self.accounts[&id].currency;
                    let mut back = -sum.minor_units();
                    if let Some(quantity) = partly {
                        if legs.len() != 2 {
                            return Err(Rejection::ReversalNotPartial);
                        }
                        let part = units(*quantity, currency)?;
                        if part > back.abs() {
                            return Err(Rejection::ReversalExceeded {
                                transferred: amount(back.abs()),
                                currency,
                            });
                        }
                        back = part * back.signum();
                    }
                    order.push((id, back));
                }
                let mut event = Expected::new("reversal");
                self.move_all(&mut event, &order, now)?;
                self.reversed.insert(*transfer, None);
                Ok(event)
            }
            Operation::Hold { account, amount, to, expires_in_ms, .. } => {
                let id = self.payer(account)?;
                let mut payee = None;
                if let Some(to) = to {
                    let to = self.open(to)?;
                    if to == id {
                        return Err(Rejection::AccountRepeated);
                    }
                    self.same_currency(id, to)?;
                    payee = Some(to);
                }
                let sum = self.sum(id, *amount)?;
                self.ensure_funds(id, sum, now, events)?;
                let mut event = Expected::new("hold");
                self.debit(id, sum, now)?;
                self.touch(&mut event, id, |account| account.held += sum);
                let version = self.accounts[&id].version as u32;
                let hold = HoldId { time: now, shard: id.shard, account: id.number, version };
                let expires = Timestamp::from_millis(now.millis() + expires_in_ms);
                self.holds.insert(hold, Hold { amount: sum, to: payee, expires, outcome: None });
                Ok(event)
            }
            Operation::Capture { hold, amount: part, .. } => {
                let (id, pending) = self.pending(*hold)?;
                let Account { currency, frozen, .. } = self.accounts[&id];
                if frozen {
                    return Err(Rejection::AccountFrozen);
                }
                let sum = part.map_or(Ok(pending.amount), |part| units(part, currency))?;
                if sum > pending.amount {
                    let (held, required) = (amount(pending.amount), amount(sum));
                    return Err(Rejection::HoldExceeded { held, required, currency });
                }
                if pending.to.is_some_and(|to| self.accounts[&to].closed) {
                    return Err(Rejection::AccountClosed);
                }
                let mut event = Expected::new("capture");
                self.end(&mut event, *hold, HoldOutcome::Captured(amount(sum)));
                if let Some(to) = pending.to {
                    self.touch(&mut event, to, |account| account.posted += sum);
                }
                Ok(event)
            }
            Operation::Void { hold, .. } => {
                self.pending(*hold)?;
                let mut event = Expected::new("void");
                self.end(&mut event, *hold, HoldOutcome::Voided);
                Ok(event)
            }
            Operation::Amend { account, amendment } => {
                let id = self.open(account)?;
                let currency = self.accounts[&id].currency;
                let limit = amendment
                    .overdraft_limit
                    .map(|limit| limit.map(|limit| units(limit, currency)).transpose());
                let limit = limit.transpose()?;
                let velocity = match &amendment.velocity {
                    None => None,
                    Some(None) => Some(VelocityLimits::default()),
                    Some(Some(change)) => {
                        let limits = change.of(self.accounts[&id].velocity, currency);
                        Some(limits.map_err(|error| misfit(error, currency))?)
                    }
                };
                let mut metadata = self.accounts[&id].metadata.clone();
                match &amendment.metadata {
                    None => {}
                    Some(None) => metadata.clear(),
                    Some(Some(changes)) => {
                        for (key, value) in changes {
                            match value {
                                Some(value) => metadata.insert(key.clone(), value.clone()),
                                None => metadata.remove(key),
                            };
                        }
                    }
                }
                let mut event = Expected::new("amendment");
                self.touch(&mut event, id, |account| {
                    account.limit = limit.unwrap_or(account.limit);
                    account.frozen = amendment.frozen.unwrap_or(account.frozen);
                    account.metadata = metadata;
                    account.set_velocity(velocity);
                });
                Ok(event)
            }
            Operation::Close { account } => {
                let id = self.open(account)?;
                let Account { posted, held, currency, .. } = self.accounts[&id];
                if posted != 0 {
                    return Err(Rejection::AccountNotEmpty { balance: amount(posted), currency });
                }
                if held != 0 {
                    return Err(Rejection::AccountHasHolds { held: amount(held), currency });
                }
                let mut event = Expected::new("closing");
                self.touch(&mut event, id, |account| account.closed = true);
                Ok(event)
            }
            Operation::Link { account, to, kind } => {
                let (id, to) = (self.open(account)?, self.open(to)?);
                self.link(id, to, *kind)
            }
            Operation::Unlink { account, to } => {
                let id = self.open(account)?;
                let to = self.place(to)?;
                let link = self.accounts[&id].links.iter().find(|link| link.to == to).copied();
                let link = link.ok_or(Rejection::LinkNotFound)?;
                let mut event = Expected::new("unlinking");
                self.touch(&mut event, id, |account| account.links.retain(|link| link.to != to));
                if link.kind == LinkKind::OverdraftProtection && !self.accounts[&to].closed {
                    self.touch(&mut event, to, |_| {});
                }
                Ok(event)
            }
        }
    }

    fn link(&mut self, id: AccountId, to: AccountId, kind: LinkKind) -> Refusable<Expected> {
        if id == to {
            return Err(Rejection::AccountRepeated);
        }
        let links = &self.accounts[&id].links;
        let before = links.iter().find(|link| link.to == to).map(|link| link.kind);
        if before.is_none() && links.len() >= LINKS_MAX {
            return Err(Rejection::LinksExhausted);
        }
        let mut event = Expected::new("linking");
        if before == Some(kind) {
            return Ok(event);
        }
        if kind == LinkKind::OverdraftProtection {
            self.same_currency(id, to)?;
            let protected =
                |id: &AccountId| self.accounts.values().filter(|of| of.protection() == Some(*id)).count();
            if self.protection(id).is_some() || protected(&to) >= LINKS_MAX {
                return Err(Rejection::LinksExhausted);
            }
            let mut below = 1;
            let mut at = to;
            while let Some(next) = self.protection(at) {
                if next == id {
                    return Err(Rejection::LinkCycle);
                }
                below += 1;
                at = next;
            }
            if self.longest_above(id) + below > PROTECTION_CHAIN_MAX {
                return Err(Rejection::LinkChainTooLong);
            }
        }
        self.touch(&mut event, id, |account| account.set_link(Link { to, kind }));
        let is = |kind| kind == LinkKind::OverdraftProtection;
        if before.is_some_and(is) != is(kind) {
            self.touch(&mut event, to, |_| {});
        }
        Ok(event)
    }

    fn longest_above(&self, id: AccountId) -> usize {
        let above = self.accounts.iter().filter(|(_, account)| account.protection() == Some(id));
        1 + above.map(|(above, _)| self.longest_above(*above)).max().unwrap_or(0)
    }

    fn protection(&self, id: AccountId) -> Option<AccountId> {
        self.accounts[&id].protection()
    }

    fn place(&self, place: &Place) -> Refusable<AccountId> {
        self.find(place.shard, &place.account).ok_or(Rejection::AccountNotFound)
    }

    fn open(&self, place: &Place) -> Refusable<AccountId> {
        let id = self.place(place)?;
        if self.accounts[&id].closed { Err(Rejection::AccountClosed) } else { Ok(id) }
    }

    fn payer(&self, place: &Place) -> Refusable<AccountId> {
        let id = self.open(place)?;
        if self.accounts[&id].frozen { Err(Rejection::AccountFrozen) } else { Ok(id) }
    }

    fn same_currency(&self, one: AccountId, other: AccountId) -> Refusable<()> {
        let (expected, found) = (self.accounts[&one].currency, self.accounts[&other].currency);
        if expected == found { Ok(()) } else { Err(Rejection::CurrencyMismatch { expected, found }) }
    }

    fn sum(&self, id: AccountId, sum: Sum) -> Refusable<i128> {
        let currency = self.accounts[&id].currency;
        match sum {
            Sum::Exactly(quantity) => units(quantity, currency),
            Sum::All if self.available(id) > 0 => Ok(self.available(id)),
            Sum::All => Err(Rejection::NothingAvailable { available: amount(self.available(id)), currency }),
        }
    }

    fn ensure_funds(
        &mut self,
        id: AccountId,
        sum: i128,
        now: Timestamp,
        events: &mut Vec<Expected>,
    ) -> Refusable<()> {
        let available = self.available(id);
        if sum <= available {
            return Ok(());
        }
        let (before, count) = (self.clone(), events.len());
        if self.pull(id, sum - available, 1, now, events) {
            return Ok(());
        }
        *self = before;
        events.truncate(count);
        Err(self.lacking(id, sum))
    }

    fn lacking(&self, id: AccountId, required: i128) -> Rejection {
        let (available, currency) = (amount(self.available(id)), self.accounts[&id].currency);
        Rejection::InsufficientFunds { available, required: amount(required), currency }
    }

    /// A leg's refusal, as it reads before other legs pulled anything from its account: that is asked of it as well.
    fn told_before(&self, before: &Model, refusal: Rejection, id: AccountId, now: Timestamp) -> Rejection {
        let pulled = (before.available(id) - self.available(id)).max(0);
        let more = |required: Amount, sum: i128| amount(required.minor_units() + sum);
        match refusal {
            Rejection::InsufficientFunds { required, currency, .. } => Rejection::InsufficientFunds {
                available: amount(before.available(id)),
                required: more(required, pulled),
                currency,
            },
            Rejection::VelocityLimit { allowance, required, currency } => {
                let account = &before.accounts[&id];
                let had = account.velocity.allowance(&account.spent, now);
                let left = |of: Allowance| of.in_day.or(of.in_month).map_or(0, Amount::minor_units);
                let spent = left(had) - left(allowance);
                Rejection::VelocityLimit {
                    allowance: Allowance { debits: allowance.debits, ..had },
                    required: more(required, pulled.max(spent)),
                    currency,
                }
            }
            refusal => refusal,
        }
    }

    fn pull(
        &mut self,
        id: AccountId,
        lacks: i128,
        number: usize,
        now: Timestamp,
        events: &mut Vec<Expected>,
    ) -> bool {
        let Some(source) = self.protection(id).filter(|_| number < PROTECTION_CHAIN_MAX) else {
            return false;
        };
        if self.accounts[&source].closed || self.accounts[&source].frozen {
            return false;
        }
        let more = lacks - self.available(source);
        if more > 0 && !self.pull(source, more, number + 1, now, events) {
            return false;
        }
        let mut event = Expected::new("protection");
        if self.pay(&mut event, source, lacks, now).is_err() {
            return false;
        }
        self.touch(&mut event, id, |account| account.posted += lacks);
        event.after.sort_unstable();
        events.push(event);
        true
    }

    /// Checks whether so much may leave, and counts it.
    fn debit(&mut self, id: AccountId, sum: i128, now: Timestamp) -> Refusable<()> {
        let account = &self.accounts[&id];
        let currency = account.currency;
        if account.frozen {
            return Err(Rejection::AccountFrozen);
        }
        if sum > self.available(id) {
            return Err(self.lacking(id, sum));
        }
        let allowance = account.velocity.allowance(&account.spent, now);
        if !allowance.covers(amount(sum)) {
            return Err(Rejection::VelocityLimit { allowance, required: amount(sum), currency });
        }
        self.accounts.get_mut(&id).expect("it is there").count_debit(amount(sum), now);
        Ok(())
    }

    fn pay(&mut self, event: &mut Expected, id: AccountId, sum: i128, now: Timestamp) -> Refusable<()> {
        self.debit(id, sum, now)?;
        self.touch(event, id, |account| account.posted -= sum);
        Ok(())
    }

    fn move_all(
        &mut self,
        event: &mut Expected,
        order: &[(AccountId, i128)],
        now: Timestamp,
    ) -> Refusable<()> {
        for &(id, sum) in order {
            if sum > 0 {
                self.touch(event, id, |account| account.posted += sum);
            } else {
                self.pay(event, id, -sum, now)?;
            }
        }
        Ok(())
    }

    /// A hold that has not ended. That its time is over ends it when its shard records that, not before.
    fn pending(&self, id: HoldId) -> Refusable<(AccountId, Hold)> {
        let hold = *self.holds.get(&id).ok_or(Rejection::HoldNotFound)?;
        let account = self.account_of(id);
        let currency = self.accounts[&account].currency;
        match hold.outcome {
            Some(outcome) => Err(Rejection::HoldEnded { outcome, currency }),
            None => Ok((account, hold)),
        }
    }

    /// The account of a hold.
    pub(crate) fn account_of(&self, id: HoldId) -> AccountId {
        let of = |account: &&AccountId| (account.shard, account.number) == (id.shard, id.account);
        *self.accounts.keys().find(of).expect("a hold has an account")
    }

    fn end(&mut self, event: &mut Expected, id: HoldId, outcome: HoldOutcome) {
        let account = self.account_of(id);
        let hold = self.holds.get_mut(&id).expect("it is there");
        assert_eq!(hold.outcome, None, "a hold ends once");
        hold.outcome = Some(outcome);
        let (held, paid) =
            (hold.amount, if let HoldOutcome::Captured(sum) = outcome { sum.minor_units() } else { 0 });
        assert!(paid <= held);
        self.touch(event, account, |account| {
            account.held -= held;
            account.posted -= paid;
        });
    }

    /// Changes an account by one entry.
    fn touch(&mut self, event: &mut Expected, id: AccountId, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.get_mut(&id).expect("it is there");
        assert!(!account.closed, "nothing happens to a closed account");
        change(account);
        account.version += 1;
        event.after.push((id, account.version, account.posted, account.held));
    }

    #[expect(clippy::too_many_arguments, reason = "all that an account has")]
    fn insert(
        &mut self,
        id: AccountId,
        name: AccountName,
        currency: Currency,
        limit: Option<i128>,
        metadata: BTreeMap<Box<str>, Box<str>>,
        unique_reference: bool,
        velocity: VelocityLimits,
    ) {
        let opened = self.opened.entry(id.shard).or_default();
        assert_eq!(*opened, id.number.get(), "accounts are numbered in order");
        *opened += 1;
        assert!(self.names.insert(name.clone(), id).is_none(), "a name is used once");
        let account = Account {
            name,
            currency,
            limit,
            posted: 0,
            held: 0,
            version: 0,
            frozen: false,
            closed: false,
            metadata,
            unique_reference,
            velocity,
            spent: Spent::default(),
            links: Vec::new(),
        };
        self.accounts.insert(id, account);
    }

    /// Takes note of an event that is no settlement: of `shard`, with this id.
    pub(crate) fn note(&mut self, by: TransactionId, event: &Event) {
        let account_of = |number: &teller::ledger::AccountNumber| {
            let of = |id: &&AccountId| id.shard == by.shard && id.number == *number;
            self.accounts.keys().find(of).copied()
        };
        let number = match &event.change {
            Change::Opened { account, .. }
            | Change::Posted { account, .. }
            | Change::Closed { account, .. } => account,
            Change::Decided { decision, .. } => return self.apply(by, decision),
            Change::Settled { .. } => panic!("a settlement is a copy"),
            Change::Refused { .. } | Change::Claimed => return,
        };
        let (opened, currency) = match &event.change {
            Change::Opened { currency, .. } => (event.time, *currency),
            _ => {
                let id = account_of(number).expect("the account is there");
                (id.opened, self.accounts[&id].currency)
            }
        };
        let decision = event.change.to_decision(by.shard, opened, currency).expect("it changes an account");
        self.apply(by, &decision);
    }

    /// Takes note of a decision, and checks what it says about itself.
    pub(crate) fn apply(&mut self, by: TransactionId, decision: &Decision) {
        let mut event = Expected::new(kind_name(&decision.kind));
        let mut totals = BTreeMap::<Currency, i128>::new();
        for (shard, effect) in decision.effects() {
            let id = effect.account_id(shard);
            *totals.entry(effect.currency).or_default() += effect.change.posted().minor_units();
            let before = self.accounts.get(&id).map(|account| account.posted - account.held);
            match &effect.change {
                AccountChange::Opened(opened) => {
                    let limit = opened.overdraft_limit.map(Amount::minor_units);
                    let metadata = opened.metadata.entries().iter().cloned().collect();
                    let (unique, velocity) = (opened.unique_reference, opened.velocity);
                    self.insert(id, opened.name.clone(), effect.currency, limit, metadata, unique, velocity);
                    self.touch(&mut event, id, |_| {});
                }
                AccountChange::Posted { amount } => {
                    self.touch(&mut event, id, |account| account.posted += amount.minor_units());
                }
                AccountChange::Held { amount, to, expires } => {
                    self.touch(&mut event, id, |account| account.held += amount.minor_units());
                    let version = effect.after.version as u32;
                    let hold = HoldId { time: by.time, shard, account: id.number, version };
                    let (amount, to, expires) = (amount.minor_units(), *to, *expires);
                    self.holds.insert(hold, Hold { amount, to, expires, outcome: None });
                }
                AccountChange::Released { hold, outcome } => {
                    let of = |id: &&HoldId| id.shard == shard && id.key() == *hold;
                    let hold = *self.holds.keys().find(of).expect("the hold is there");
                    self.end(&mut event, hold, *outcome);
                }
                AccountChange::Amended(amended) => self.touch(&mut event, id, |account| {
                    if let Some(limit) = amended.overdraft_limit {
                        account.limit = limit.map(Amount::minor_units);
                    }
                    account.frozen = amended.frozen.unwrap_or(account.frozen);
                    if let Some(metadata) = &amended.metadata {
                        account.metadata = metadata.entries().iter().cloned().collect();
                    }
                    account.set_velocity(amended.velocity);
                }),
                AccountChange::Linked(link) => self.touch(&mut event, id, |account| account.set_link(*link)),
                AccountChange::Unlinked { to } => {
                    self.touch(&mut event, id, |account| account.links.retain(|link| link.to != *to));
                }
                AccountChange::Protects { .. } => self.touch(&mut event, id, |_| {}),
                AccountChange::Closed => {
                    assert_eq!((self.accounts[&id].posted, self.accounts[&id].held), (0, 0));
                    self.touch(&mut event, id, |account| account.closed = true);
                }
            }
            let account = self.accounts.get_mut(&id).expect("it is there");
            if let Some(sum) = effect.change.debit() {
                assert!(!account.frozen, "a frozen account does not pay");
                account.count_debit(sum, by.time);
            }
            let limited = effect.change.debit().filter(|_| !account.velocity.is_empty());
            let left = limited.map(|_| account.velocity.allowance(&account.spent, by.time));
            assert_eq!(effect.allowance.as_deref(), left.as_ref(), "a debit tells what may still leave");
            let account = &self.accounts[&id];
            assert_eq!(account.currency, effect.currency);
            if before.is_some_and(|before| account.posted - account.held < before) {
                assert!(self.available(id) >= 0, "nobody is overdrawn (P4)");
            }
            let unique = account.unique_reference;
            if let Some(reference) = decision.note.reference.clone().filter(|_| unique) {
                let used = self.references.insert((id, reference), Some(by));
                assert_eq!(used, None, "a reference is used once");
            }
        }
        event.after.sort_unstable();
        assert_eq!(event, Expected::of(decision), "a decision says what it leaves");
        let with_world = matches!(decision.kind, Kind::Deposit | Kind::Withdrawal)
            || (matches!(decision.kind, Kind::Capture { .. }) && event.after.len() == 1);
        assert!(with_world || totals.values().all(|total| *total == 0), "what moves is balanced (P3)");
        if let Kind::Reversal { of } = &decision.kind {
            assert_eq!(self.reversed.insert(*of, Some(by)), None, "a transfer is reversed once");
        }
    }
}

/// Stands for the id of a transaction that the model has decided itself.
pub(crate) const UNKNOWN: TransactionId = TransactionId {
    time: Timestamp::from_millis(0),
    shard: ShardId::FIRST,
    sequence: teller::ledger::Sequence::NONE,
};

impl Account {
    fn protection(&self) -> Option<AccountId> {
        self.links.iter().find(|link| link.kind == LinkKind::OverdraftProtection).map(|link| link.to)
    }

    fn set_link(&mut self, link: Link) {
        match self.links.iter_mut().find(|known| known.to == link.to) {
            Some(known) => *known = link,
            None => self.links.push(link),
        }
    }

    fn count_debit(&mut self, sum: Amount, now: Timestamp) {
        if !self.velocity.is_empty() {
            self.spent = self.spent.plus(&self.velocity, now, sum);
        }
    }

    fn set_velocity(&mut self, velocity: Option<VelocityLimits>) {
        if let Some(velocity) = velocity {
            self.velocity = velocity;
            if velocity.is_empty() {
                self.spent = Spent::default();
            }
        }
    }
}

fn units(quantity: Quantity, currency: Currency) -> Refusable<i128> {
    quantity.to_amount(currency).map(Amount::minor_units).map_err(|error| misfit(error, currency))
}

fn misfit(error: AmountError, currency: Currency) -> Rejection {
    match error {
        AmountError::TooManyDecimals { .. } => Rejection::TooManyDecimals { currency },
        AmountError::NotANumber | AmountError::TooLong { .. } | AmountError::TooLarge => {
            Rejection::BalanceOutOfRange
        }
    }
}

/// Whether two refusals are the same, but for ids that the model cannot know.
pub(crate) fn same_refusal(expected: &Rejection, found: &Rejection) -> bool {
    match (expected, found) {
        (Rejection::ReferenceUsed { by }, Rejection::ReferenceUsed { by: found })
        | (Rejection::AlreadyReversed { by }, Rejection::AlreadyReversed { by: found }) => {
            *by == UNKNOWN || by == found
        }
        _ => expected == found,
    }
}
