//! The workspace: copies of the accounts that a list of operations needs, on which it is decided what they change.
//!
//! The accounts may belong to any shards. Each shard says in a [`Grant`] how its own stand, and does not change them
//! until it hears what was decided; so deciding is a matter of plain values, one operation after the other, each on
//! what those before it left. What always holds:
//!
//! - an operation that is refused has changed no copy;
//! - what was decided is balanced: see [`super::decision`];
//! - a hold is pending until its own shard has recorded that it has ended, whatever time it is where it is decided;
//! - an account that nobody asked for is never guessed at: [`Stop::Missing`] names it, and the whole list is decided
//!   again when its copy is there too. So that a long list is not decided again for each of them, those that are missing
//!   for all of it are gathered: each operation is tried on what those before it left that missed nothing.
//!
//! Left out: locks, shards, messages. [`crate::shard`] has those.

use std::collections::{BTreeMap, HashSet};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::account::available;
use super::decision::{
    AccountChange, After, Amended, Decision, Effect, Effects, ItemOutcome, Kind, Opened, Outcome, Part,
};
use super::operation::{
    Amendment, Condition, Item, MetadataChange, Opening, Operation, PROTECTION_CHAIN_MAX, Place, Requirement,
    Sum,
};
use super::{
    AccountId, AccountName, AccountNumber, AccountRef, Allowance, Amount, AmountError, Currency, Details,
    Hold, HoldId, HoldKey, HoldOutcome, HoldStatus, IdempotencyKey, KeyDigest, KeyStatus, KeyUse, LINKS_MAX,
    Link, LinkKind, Metadata, Note, NoteError, Quantity, Reference, Rejected, Rejection, Sequence, ShardId,
    Terms, Timestamp, Total, TransactionId, VelocityLimits,
};
use super::{HOLD_VERSION_MAX, METADATA_ENTRIES_MAX, state};

/// From which number on [`Rejected::at`] counts the accounts of the conditions.
pub const CONDITION_PLACES_FROM: u16 = 1000;

/// What a list of operations needs from one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Accounts.
    pub accounts: SmallVec<[AccountRef; 2]>,
    /// Names of accounts that are to be opened.
    pub openings: Vec<AccountName>,
    /// Holds, with their accounts.
    pub holds: Vec<HoldId>,
    /// Transfers that are to be reversed.
    pub reversals: Vec<TransactionId>,
    /// Idempotency keys.
    pub keys: Vec<IdempotencyKey>,
    /// Those that another request is being worked on with: they are not locked.
    pub busy_keys: Vec<IdempotencyKey>,
    /// References, each with an account that it will be used in, if that wants each used once. Not all with all: a list of
    /// a thousand would ask a million times.
    pub references: Vec<(ReferenceAccount, Reference)>,
}

/// Which account a reference will be used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceAccount {
    /// The one at this place among those that are needed.
    At(usize),
    /// The one with this number: that of a hold, or one that was found to be needed.
    Numbered(AccountNumber),
}

/// How what a shard was asked for stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The shard.
    pub shard: ShardId,
    /// The accounts, those of holds too.
    pub accounts: GrantedAccounts,
    /// Which names of those to be opened are taken.
    pub taken: Vec<AccountName>,
    /// The number of the next account that is opened, if any is to be.
    pub next_number: Option<usize>,
    /// The holds.
    pub holds: Vec<(HoldId, Option<Hold>)>,
    /// The transfers, and by what they were reversed.
    pub reversals: Vec<(TransactionId, Option<TransactionId>)>,
    /// The keys.
    pub keys: Vec<(IdempotencyKey, KeyStatus)>,
    /// Whether the shard can remember no further key.
    pub keys_full: bool,
    /// The references that were asked for, in accounts that want each used once, and by which transaction it is.
    pub references: Vec<(AccountNumber, Reference, Option<TransactionId>)>,
    /// The last event that any of this depends on.
    pub seen: Sequence,
    /// The time of the shard's last event: what is decided on this is not before it.
    pub time: Timestamp,
}

/// Copies of accounts, each behind what it was asked for as. Most shards are asked for one.
pub type GrantedAccounts = SmallVec<[(AccountRef, Option<AccountState>); 1]>;

/// A copy of an account, as far as deciding needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountState {
    /// Its id.
    pub id: AccountId,
    /// Its currency.
    pub currency: Currency,
    /// How far below zero it may go.
    pub limit: Amount,
    /// Its balance.
    pub posted: Amount,
    /// What its pending holds reserve.
    pub held: Amount,
    /// Its version.
    pub version: u64,
    /// Whether it is closed.
    pub closed: bool,
    /// Whether it is frozen.
    pub frozen: bool,
    /// What else it has.
    pub details: Option<Box<Details>>,
}

impl AccountState {
    /// What it can pay.
    pub fn available(&self) -> Amount {
        available(self.posted, self.held, self.limit)
    }

    /// Whether it wants each reference used once.
    fn has_unique_references(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details.unique_reference)
    }

    fn after(&self) -> After {
        After { version: self.version, balance: self.posted, held: self.held }
    }
}

/// Why an operation is not decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// It is refused.
    Rejected(Box<Rejected>),
    /// Something is needed that nobody asked for.
    Missing(Missing),
}

/// What else is needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Missing {
    /// Accounts.
    pub accounts: Vec<AccountId>,
    /// Whether references are used in accounts that are here.
    pub references: Vec<(ShardId, AccountNumber, Reference)>,
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Stop {
        Stop::Rejected(Box::new(rejection.into()))
    }
}

impl Missing {
    fn account(id: AccountId) -> Stop {
        Stop::Missing(Missing { accounts: vec![id], ..Missing::default() })
    }

    fn reference(shard: ShardId, account: AccountNumber, reference: Reference) -> Stop {
        Stop::Missing(Missing { references: vec![(shard, account, reference)], ..Missing::default() })
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.references.is_empty()
    }

    /// Adds what else is.
    pub fn extend(&mut self, more: Missing) {
        self.accounts.extend(more.accounts);
        self.references.extend(more.references);
    }
}

/// A refusal because of one of the accounts that an operation names.
pub(super) fn rejected_at(rejection: Rejection, place: usize) -> Rejected {
    Rejected { rejection, at: u16::try_from(place).ok() }
}

fn at(rejection: Rejection, place: usize) -> Stop {
    Stop::Rejected(Box::new(rejected_at(rejection, place)))
}

/// What a shard has granted of the accounts that it was asked about.
#[derive(Debug)]
struct Granted {
    shard: ShardId,
    /// In the order in which they were asked for: the places of their copies.
    accounts: Vec<(AccountRef, Option<usize>)>,
    /// Behind the one that was looked for last.
    next: usize,
    /// The same by account, once one was looked for that was not the next.
    places: HashMap<AccountRef, usize>,
}

impl Granted {
    /// Accounts are mostly looked for as they were asked for, one operation after the other: so the next one is looked
    /// at before a table of thousands of names is made.
    fn find(&mut self, account: &AccountRef) -> Option<Option<usize>> {
        if self.accounts.get(self.next).is_none_or(|(next, _)| next != account) {
            if self.places.is_empty() {
                let places = self.accounts.iter().enumerate();
                self.places = places.map(|(place, (account, _))| (account.clone(), place)).collect();
            }
            self.next = *self.places.get(account)?;
        }
        self.next += 1;
        Some(self.accounts[self.next - 1].1)
    }
}

/// A decision, and the key that the deciding shard itself remembers with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// What changes.
    pub decision: Decision,
    /// The key.
    pub key: Option<KeyUse>,
}

/// The copies, and what has been decided on them.
#[derive(Debug)]
pub struct Workspace {
    here: ShardId,
    terms: Terms,
    /// The sequence of the next decision.
    next: Sequence,
    accounts: Vec<AccountState>,
    /// How many of them were granted; the others were opened here.
    accounts_granted: usize,
    numbers: HashMap<(ShardId, AccountNumber), usize>,
    /// The accounts of each shard as they were asked for.
    granted: Vec<Granted>,
    /// Those that were opened here.
    opened: HashMap<Place, usize>,
    taken: HashSet<AccountName>,
    next_numbers: BTreeMap<ShardId, usize>,
    holds: HashMap<HoldId, Option<Hold>>,
    reversals: HashMap<TransactionId, Option<TransactionId>>,
    /// Those that were asked for, or used here, and by what.
    references: HashMap<(ShardId, AccountNumber, Reference), Option<TransactionId>>,
    keys: HashMap<IdempotencyKey, (KeyStatus, ShardId)>,
    /// Those that were used in this very list: by which request, and where its outcome stands.
    used_keys: HashMap<KeyDigest, (IdempotencyKey, Outcome)>,
    keys_full: HashSet<ShardId>,
    decided: Vec<Decided>,
    /// The copies as they were before the operation under way.
    undo: Vec<(usize, AccountState)>,
    undo_holds: Vec<(HoldId, Option<Hold>)>,
}

impl Workspace {
    /// A workspace of the shard `here`, whose next event has the sequence `next`.
    pub fn new(here: ShardId, terms: Terms, next: Sequence, grants: Vec<Grant>) -> Workspace {
        let mut workspace = Workspace {
            here,
            terms,
            next,
            accounts: Vec::new(),
            accounts_granted: 0,
            numbers: HashMap::new(),
            granted: Vec::with_capacity(grants.len()),
            opened: HashMap::new(),
            taken: HashSet::new(),
            next_numbers: BTreeMap::new(),
            holds: HashMap::new(),
            reversals: HashMap::new(),
            references: HashMap::new(),
            keys: HashMap::new(),
            used_keys: HashMap::new(),
            keys_full: HashSet::new(),
            decided: Vec::new(),
            undo: Vec::new(),
            undo_holds: Vec::new(),
        };
        grants.into_iter().for_each(|grant| workspace.add(grant));
        workspace.accounts_granted = workspace.accounts.len();
        workspace
    }

    fn add(&mut self, grant: Grant) {
        let shard = grant.shard;
        self.accounts.reserve(grant.accounts.len());
        self.numbers.reserve(grant.accounts.len());
        let found = grant.accounts.into_iter().map(|(account, state)| {
            let index = state.map(|state| {
                *self.numbers.entry((shard, state.id.number)).or_insert_with(|| {
                    self.accounts.push(state);
                    self.accounts.len() - 1
                })
            });
            (account, index)
        });
        let accounts = found.collect();
        self.granted.push(Granted { shard, accounts, next: 0, places: HashMap::new() });
        self.taken.extend(grant.taken);
        self.next_numbers.extend(grant.next_number.map(|number| (shard, number)));
        self.holds.extend(grant.holds);
        self.reversals.extend(grant.reversals);
        self.references.extend(
            grant.references.into_iter().map(|(account, reference, by)| ((shard, account, reference), by)),
        );
        self.keys.extend(grant.keys.into_iter().map(|(key, status)| (key, (status, shard))));
        if grant.keys_full {
            self.keys_full.insert(shard);
        }
    }

    /// What has been decided, in order.
    pub fn into_decided(self) -> Vec<Decided> {
        self.decided
    }

    /// How many decisions there are.
    pub fn decided(&self) -> usize {
        self.decided.len()
    }

    /// How an account stands by now.
    pub fn account(&self, id: AccountId) -> Option<&AccountState> {
        self.numbers.get(&(id.shard, id.number)).map(|&index| &self.accounts[index])
    }

    /// What is known of a key: how the request that it comes with is to be answered at once, if it is.
    pub fn key_outcome(&self, key: &IdempotencyKey) -> Option<ItemOutcome> {
        if let Some((used, outcome)) = self.used_keys.get(&key.digest) {
            // The same item again stands for what became of the first, as it would in a later list. Where the key's own shard
            // writes that down nobody knows yet, so what is told is the decision; it is there before any reply is.
            return Some(if used == key { ItemOutcome::Settled(*outcome) } else { ItemOutcome::KeyReused });
        }
        let (status, home) = self.keys.get(key).expect("each key is asked for");
        match *status {
            KeyStatus::New if self.keys_full.contains(home) => Some(ItemOutcome::KeysExhausted),
            KeyStatus::New | KeyStatus::Claimed => None,
            // By another request, elsewhere.
            KeyStatus::IN_FLIGHT => Some(ItemOutcome::KeyInFlight),
            KeyStatus::Settled(sequence) => Some(ItemOutcome::Settled(Outcome { shard: *home, sequence })),
            KeyStatus::Reused => Some(ItemOutcome::KeyReused),
        }
    }

    /// Decides one operation. A refusal is written down if it has a key.
    ///
    /// # Errors
    /// [`Missing`] if it needs what is not here: then this workspace can only tell what else is missing.
    pub fn execute(&mut self, item: &Item, request_id: &str) -> Result<ItemOutcome, Missing> {
        if let Some(key) = &item.key
            && let Some(outcome) = self.key_outcome(&key.key)
        {
            return Ok(outcome);
        }
        let before = self.decided.len();
        match self.conditions(&item.conditions).and_then(|()| self.operation(&item.operation)) {
            Ok(decision) => {
                self.undo.clear();
                self.undo_holds.clear();
                let key = item.key.map(|key| (key.home, self.terms.key_use(key.key)));
                self.push(decision, key);
                Ok(ItemOutcome::Done { back: 0 })
            }
            Err(Stop::Missing(missing)) => {
                self.roll_back(before);
                Err(missing)
            }
            Err(Stop::Rejected(rejected)) => {
                self.roll_back(before);
                if let Some(key) = item.key {
                    let kind = Kind::Refusal { rejected: (*rejected).clone(), request_id: request_id.into() };
                    let decision = Decision { kind, note: Note::default(), parts: Vec::new() };
                    self.push(decision, Some((key.home, self.terms.key_use(key.key))));
                }
                Ok(ItemOutcome::Refused(*rejected))
            }
        }
    }

    /// Writes down how a list with a key of its own ended.
    pub fn end_batch(
        &mut self,
        results: Vec<ItemOutcome>,
        request_id: &str,
        home: ShardId,
        key: IdempotencyKey,
    ) {
        let kind = Kind::Batch { results, request_id: request_id.into() };
        let decision = Decision { kind, note: Note::default(), parts: Vec::new() };
        self.push(decision, Some((home, self.terms.key_use(key))));
    }

    /// Takes back all decisions: a list that is all or nothing has been refused. The copies are worth nothing then; keys can
    /// still be asked about, and the list can be [ended](Workspace::end_batch).
    pub fn discard(&mut self, next: Sequence) {
        self.decided.clear();
        self.used_keys.clear();
        self.next = next;
    }

    /// The id of the next decision.
    fn next_id(&self) -> TransactionId {
        TransactionId { time: self.terms.now, shard: self.here, sequence: self.next }
    }

    fn push(&mut self, mut decision: Decision, key: Option<(ShardId, KeyUse)>) {
        let id = self.next_id();
        let mut own_key = None;
        if let Some((home, key)) = key {
            if home == self.here {
                own_key = Some(key);
            } else {
                part_of(&mut decision.parts, home).key = Some(key);
            }
            let outcome = Outcome { shard: self.here, sequence: self.next };
            self.used_keys.insert(key.key.digest, (key.key, outcome));
        }
        if let Some(reference) = &decision.note.reference {
            for part in &decision.parts {
                for effect in &part.effects {
                    if self.accounts[self.numbers[&(part.shard, effect.account)]].has_unique_references() {
                        self.references.insert((part.shard, effect.account, reference.clone()), Some(id));
                    }
                }
            }
        }
        decision.parts.sort_by_key(|part| part.shard);
        self.decided.push(Decided { decision, key: own_key });
        self.next = self.next.next();
    }

    /// Puts the copies back as they were before the operation under way.
    fn roll_back(&mut self, decided: usize) {
        // The oldest copy of each is the one that counts.
        while let Some((index, state)) = self.undo.pop() {
            self.accounts[index] = state;
        }
        while let Some((id, hold)) = self.undo_holds.pop() {
            self.holds.insert(id, hold);
        }
        while self.decided.len() > decided {
            self.decided.pop();
            self.next = Sequence::new(self.next.get() - 1).expect("it was one further");
        }
    }

    fn conditions(&mut self, conditions: &[Condition]) -> Result<(), Stop> {
        for (index, condition) in conditions.iter().enumerate() {
            let (place, is_precondition) = match condition.requirement {
                Requirement::Match(_) => (0, true),
                _ => (usize::from(CONDITION_PLACES_FROM) + index, false),
            };
            let index = self.find(&condition.account, place)?;
            let account = &self.accounts[index];
            // Its overdraft limit stays, which nobody can use: nothing about it is a reason to move money.
            if account.closed {
                return Err(at(Rejection::AccountClosed, place));
            }
            let met = match condition.requirement {
                Requirement::Match(version) | Requirement::Version(version) => account.version == version,
                Requirement::AvailableAtLeast(quantity) => {
                    account.available() >= in_currency(quantity, account.currency, place)?
                }
            };
            if !met && is_precondition {
                return Err(at(Rejection::VersionMismatch { version: account.version }, place));
            }
            if !met {
                let (available, version, currency) = (account.available(), account.version, account.currency);
                return Err(at(Rejection::ConditionNotMet { available, version, currency }, place));
            }
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Operation) -> Result<Decision, Stop> {
        match operation {
            Operation::Open { shard, opening } => self.open(*shard, opening),
            Operation::Deposit { account, amount, note } => self.deposit(account, *amount, note),
            Operation::Withdraw { account, amount, note } => self.withdraw(account, *amount, note),
            Operation::Transfer { from, to, amount, note } => self.transfer(from, to, *amount, note),
            Operation::MultiTransfer { legs, note } => self.multi_transfer(legs, note),
            Operation::Reverse { transfer, legs, amount, note } => {
                self.reverse(*transfer, legs, *amount, note)
            }
            Operation::Hold { account, amount, to, expires_in_ms, note } => {
                self.hold(account, *amount, to.as_ref(), *expires_in_ms, note)
            }
            Operation::Capture { hold, amount, note } => self.capture(*hold, *amount, note),
            Operation::Void { hold, note } => self.void(*hold, note),
            Operation::Amend { account, amendment } => self.amend(account, amendment),
            Operation::Close { account } => self.close(account),
            Operation::Link { account, to, kind } => self.link(account, to, *kind),
            Operation::Unlink { account, to } => self.unlink(account, to),
        }
    }

    fn open(&mut self, shard: ShardId, opening: &Opening) -> Result<Decision, Stop> {
        if self.taken.contains(&opening.name) {
            return Err(Rejection::AccountExists.into());
        }
        let currency = opening.currency;
        let fits = |error: AmountError| state::amount_error(error, currency);
        let overdraft_limit =
            opening.overdraft_limit.map(|limit| limit.to_amount(currency)).transpose().map_err(fits)?;
        let velocity = opening.velocity.in_currency(currency).map_err(fits)?;
        let next = self.next_numbers.get_mut(&shard).expect("a number is asked for with a name");
        let number = u32::try_from(*next).map_err(|_| Rejection::AccountsExhausted)?;
        *next += 1;
        let number = AccountNumber::new(number);
        let opened = Opened {
            name: opening.name.clone(),
            overdraft_limit,
            reference: opening.reference.clone(),
            metadata: opening.metadata.clone(),
            unique_reference: opening.unique_reference,
            velocity,
        };
        let id = AccountId { opened: self.terms.now, shard, number };
        self.accounts.push(AccountState {
            id,
            currency,
            limit: overdraft_limit.unwrap_or_else(|| self.terms.overdraft.for_currency(currency)),
            posted: Amount::ZERO,
            held: Amount::ZERO,
            version: 0,
            closed: false,
            frozen: false,
            details: opened.details(),
        });
        let index = self.accounts.len() - 1;
        self.numbers.insert((shard, number), index);
        self.opened.insert(Place { shard, account: AccountRef::Name(opening.name.clone()) }, index);
        self.taken.insert(opening.name.clone());
        let mut draft = new_draft(Kind::Opening, &Note::default());
        self.effect(&mut draft, index, AccountChange::Opened(Box::new(opened)), |_| {});
        Ok(draft)
    }

    fn deposit(&mut self, account: &Place, amount: Quantity, note: &Note) -> Result<Decision, Stop> {
        let index = self.open_account(account, 0)?;
        let amount = in_currency(amount, self.accounts[index].currency, 0)?;
        let mut draft = new_draft(Kind::Deposit, note);
        self.credit(&mut draft, index, amount, 0)?;
        self.finish(draft, [index])
    }

    fn withdraw(&mut self, account: &Place, amount: Sum, note: &Note) -> Result<Decision, Stop> {
        let index = self.payer(account, 0)?;
        let amount = self.sum(index, amount, 0)?;
        self.ensure_funds(index, amount, 0)?;
        let mut draft = new_draft(Kind::Withdrawal, note);
        self.debit(&mut draft, index, amount, 0)?;
        self.finish(draft, [index])
    }

    fn transfer(&mut self, from: &Place, to: &Place, amount: Sum, note: &Note) -> Result<Decision, Stop> {
        let payer = self.payer(from, 0)?;
        let payee = self.payee(to, payer)?;
        let amount = self.sum(payer, amount, 0)?;
        self.ensure_funds(payer, amount, 0)?;
        let mut draft = new_draft(Kind::Transfer, note);
        self.debit(&mut draft, payer, amount, 0)?;
        self.credit(&mut draft, payee, amount, 1)?;
        self.finish(draft, [payer, payee])
    }

    fn multi_transfer(&mut self, legs: &[(Place, Quantity)], note: &Note) -> Result<Decision, Stop> {
        let mut amounts = Vec::with_capacity(legs.len());
        let mut totals = BTreeMap::<Currency, Total>::new();
        for (place, (account, quantity)) in legs.iter().enumerate() {
            let pays = !quantity.is_positive();
            let index = if pays { self.payer(account, place)? } else { self.open_account(account, place)? };
            if amounts.iter().any(|&(known, _)| known == index) {
                return Err(at(Rejection::AccountRepeated, place));
            }
            let currency = self.accounts[index].currency;
            let amount = in_currency(*quantity, currency, place)?;
            totals.entry(currency).or_default().add(amount);
            amounts.push((index, amount));
        }
        if let Some((&currency, _)) = totals.iter().find(|(_, total)| !total.is_zero()) {
            return Err(Rejection::LegsUnbalanced { currency }.into());
        }
        let before: Vec<_> = amounts.iter().map(|&(index, _)| self.means(index)).collect();
        self.ensure_all_funds(&amounts).map_err(|stop| self.told_before(stop, &amounts, &before))?;
        let mut draft = new_draft(Kind::Transfer, note);
        self.move_all(&mut draft, &amounts).map_err(|stop| self.told_before(stop, &amounts, &before))?;
        self.finish(draft, amounts.iter().map(|&(index, _)| index))
    }

    /// What an account could pay.
    fn means(&self, index: usize) -> Means {
        let account = &self.accounts[index];
        let allowance = account
            .details
            .as_ref()
            .map(|details| details.velocity.allowance(&details.spent, self.terms.now));
        Means { available: account.available(), allowance: allowance.unwrap_or_default() }
    }

    /// A refusal that tells what a leg's account could pay before the transfer, and asks of it what other legs pulled from
    /// it as well: it may protect one of them, and what that had left then is a state that never was.
    fn told_before(&self, mut stop: Stop, legs: &[(usize, Amount)], before: &[Means]) -> Stop {
        let Stop::Rejected(rejected) = &mut stop else { return stop };
        let Some(leg) = rejected.at.map(usize::from) else { return stop };
        let had = before[leg];
        let pulled = had.available.checked_sub(self.accounts[legs[leg].0].available());
        let pulled = pulled.filter(|pulled| pulled.is_positive()).unwrap_or(Amount::ZERO);
        match &mut rejected.rejection {
            Rejection::InsufficientFunds { available, required, .. } => {
                *available = had.available;
                *required = required.checked_add(pulled).unwrap_or(*required);
            }
            // What was pulled counts, also where the account was given as much; and each pull is a debit.
            Rejection::VelocityLimit { allowance, required, .. } => {
                let left = |of: &Allowance| of.in_day.or(of.in_month);
                let spent = left(&had.allowance).zip(left(allowance));
                let spent = spent.and_then(|(had, left)| had.checked_sub(left)).unwrap_or(Amount::ZERO);
                *required = required.checked_add(spent.max(pulled)).unwrap_or(*required);
                *allowance = Allowance { debits: allowance.debits, ..had.allowance };
            }
            _ => {}
        }
        stop
    }

    fn reverse(
        &mut self,
        transfer: TransactionId,
        legs: &[(Place, Amount)],
        partly: Option<Quantity>,
        note: &Note,
    ) -> Result<Decision, Stop> {
        if let Some(by) = self.reversals.get(&transfer).expect("it is asked for") {
            return Err(Rejection::AlreadyReversed { by: *by }.into());
        }
        let mut amounts = Vec::with_capacity(legs.len());
        for (place, (account, amount)) in legs.iter().enumerate() {
            let index = self.open_account(account, place)?;
            let mut back = amount.negated();
            if let Some(quantity) = partly {
                if legs.len() != 2 {
                    return Err(Rejection::ReversalNotPartial.into());
                }
                let currency = self.accounts[index].currency;
                let part = in_currency(quantity, currency, place)?;
                if part > amount.magnitude() {
                    return Err(
                        Rejection::ReversalExceeded { transferred: amount.magnitude(), currency }.into()
                    );
                }
                back = if back.is_positive() { part } else { part.negated() };
            }
            amounts.push((index, back));
        }
        let mut draft = new_draft(Kind::Reversal { of: transfer }, note);
        self.move_all(&mut draft, &amounts)?;
        part_of(&mut draft.parts, transfer.shard).reverses = Some(transfer.sequence);
        let by = self.next_id();
        let decision = self.finish(draft, amounts.iter().map(|&(index, _)| index))?;
        self.reversals.insert(transfer, Some(by));
        Ok(decision)
    }

    fn move_all(&mut self, draft: &mut Decision, amounts: &[(usize, Amount)]) -> Result<(), Stop> {
        for (place, &(index, amount)) in amounts.iter().enumerate() {
            if amount.is_positive() {
                self.credit(draft, index, amount, place)?;
            } else {
                self.debit(draft, index, amount.negated(), place)?;
            }
        }
        Ok(())
    }

    fn hold(
        &mut self,
        account: &Place,
        amount: Sum,
        to: Option<&Place>,
        expires_in_ms: u64,
        note: &Note,
    ) -> Result<Decision, Stop> {
        let index = self.payer(account, 0)?;
        let to = match to {
            None => None,
            Some(to) => Some(self.payee(to, index)?),
        };
        let to = to.map(|payee| self.accounts[payee].id);
        let amount = self.sum(index, amount, 0)?;
        self.ensure_funds(index, amount, 0)?;
        self.check_debit(index, amount, 0)?;
        let now = self.terms.now;
        let account = &self.accounts[index];
        let version = account.version + 1;
        if version > HOLD_VERSION_MAX {
            return Err(at(Rejection::HoldsExhausted, 0));
        }
        let held = account.held.checked_add(amount).ok_or(at(Rejection::BalanceOutOfRange, 0))?;
        let expires = Timestamp::from_millis(now.millis().saturating_add(expires_in_ms));
        let id = HoldKey { account: account.id.number, version: version as u32 }.id(account.id.shard, now);
        self.undo_holds.push((id, None));
        let hold = Hold { created: now, amount, to, expires, status: HoldStatus::Pending };
        self.holds.insert(id, Some(hold));
        let mut draft = new_draft(Kind::Hold, note);
        self.effect(&mut draft, index, AccountChange::Held { amount, to, expires }, |account| {
            account.held = held
        });
        self.finish(draft, [index])
    }

    fn capture(&mut self, id: HoldId, amount: Option<Quantity>, note: &Note) -> Result<Decision, Stop> {
        let (index, hold) = self.pending_hold(id)?;
        let (currency, frozen) = (self.accounts[index].currency, self.accounts[index].frozen);
        if frozen {
            return Err(at(Rejection::AccountFrozen, 0));
        }
        let amount = match amount {
            None => hold.amount,
            Some(quantity) => in_currency(quantity, currency, 0)?,
        };
        if amount > hold.amount {
            return Err(Rejection::HoldExceeded { held: hold.amount, required: amount, currency }.into());
        }
        let payee = match hold.to {
            None => None,
            Some(to) => Some(self.open_account(&place_of(to), 1)?),
        };
        let mut draft = new_draft(Kind::Capture { hold: id }, note);
        self.release(&mut draft, index, id, HoldOutcome::Captured(amount))?;
        if let Some(payee) = payee {
            self.credit(&mut draft, payee, amount, 1)?;
        }
        self.finish(draft, [index].into_iter().chain(payee))
    }

    fn void(&mut self, hold: HoldId, note: &Note) -> Result<Decision, Stop> {
        let (index, _) = self.pending_hold(hold)?;
        let mut draft = new_draft(Kind::Void { hold }, note);
        self.release(&mut draft, index, hold, HoldOutcome::Voided)?;
        self.finish(draft, [index])
    }

    fn amend(&mut self, account: &Place, amendment: &Amendment) -> Result<Decision, Stop> {
        let index = self.open_account(account, 0)?;
        let currency = self.accounts[index].currency;
        let fits = |error: AmountError| state::amount_error(error, currency);
        let overdraft_limit = match amendment.overdraft_limit {
            None => None,
            Some(limit) => Some(limit.map(|limit| limit.to_amount(currency)).transpose().map_err(fits)?),
        };
        let velocity = match &amendment.velocity {
            None => None,
            Some(None) => Some(VelocityLimits::default()),
            Some(Some(change)) => {
                let before = self.accounts[index].details.as_ref().map(|details| details.velocity);
                Some(change.of(before.unwrap_or_default(), currency).map_err(fits)?)
            }
        };
        let metadata = match &amendment.metadata {
            None => None,
            Some(None) => Some(Metadata::default()),
            Some(Some(changes)) => {
                let before = self.accounts[index].details.as_ref().map(|details| &details.metadata);
                Some(merged(before, changes).map_err(|_| Rejection::MetadataFull)?)
            }
        };
        let amended = Amended { overdraft_limit, frozen: amendment.frozen, metadata, velocity };
        let default_limit = self.terms.overdraft.for_currency(currency);
        let mut draft = new_draft(Kind::Amendment, &Note::default());
        let applied = amended.clone();
        self.effect(&mut draft, index, AccountChange::Amended(Box::new(amended)), |account| {
            if let Some(limit) = applied.overdraft_limit {
                account.limit = limit.unwrap_or(default_limit);
            }
            account.frozen = applied.frozen.unwrap_or(account.frozen);
            applied.to_details(&mut account.details);
        });
        Ok(draft)
    }

    fn close(&mut self, account: &Place) -> Result<Decision, Stop> {
        let index = self.open_account(account, 0)?;
        let state = &self.accounts[index];
        let currency = state.currency;
        if !state.posted.is_zero() {
            return Err(Rejection::AccountNotEmpty { balance: state.posted, currency }.into());
        }
        if !state.held.is_zero() {
            return Err(Rejection::AccountHasHolds { held: state.held, currency }.into());
        }
        let mut draft = new_draft(Kind::Closing, &Note::default());
        self.effect(&mut draft, index, AccountChange::Closed, |account| account.closed = true);
        Ok(draft)
    }

    fn link(&mut self, account: &Place, to: &Place, kind: LinkKind) -> Result<Decision, Stop> {
        let index = self.open_account(account, 0)?;
        let other = self.open_account(to, 1)?;
        if index == other {
            return Err(at(Rejection::AccountRepeated, 1));
        }
        let other_id = self.accounts[other].id;
        let links = self.links(index);
        let before = links.iter().find(|link| link.to == other_id).map(|link| link.kind);
        if before.is_none() && links.len() >= LINKS_MAX {
            return Err(at(Rejection::LinksExhausted, 0));
        }
        let mut draft = new_draft(Kind::Linking, &Note::default());
        if before == Some(kind) {
            // It is there already: nothing changes, and nothing is written down.
            return Ok(draft);
        }
        if kind == LinkKind::OverdraftProtection {
            self.same_currency(index, other, 1)?;
            if self.protection(index).is_some() {
                return Err(at(Rejection::LinksExhausted, 0));
            }
            if self.protects(other).len() >= LINKS_MAX {
                return Err(at(Rejection::LinksExhausted, 1));
            }
            let below = self.chain_below(other, index);
            let above = self.chain_above(index, PROTECTION_CHAIN_MAX);
            let (below, above) = both(below, above)?;
            if above + below > PROTECTION_CHAIN_MAX {
                return Err(Rejection::LinkChainTooLong.into());
            }
        }
        let link = Link { to: other_id, kind };
        self.effect(&mut draft, index, AccountChange::Linked(link), |account| {
            account.details.get_or_insert_default().link(link);
        });
        let was = before == Some(LinkKind::OverdraftProtection);
        let is = kind == LinkKind::OverdraftProtection;
        if was != is {
            self.protect(&mut draft, other, self.accounts[index].id, is);
        }
        Ok(draft)
    }

    fn unlink(&mut self, account: &Place, to: &Place) -> Result<Decision, Stop> {
        let index = self.open_account(account, 0)?;
        // The other end may be closed by now.
        let other = self.find(to, 1)?;
        let other_id = self.accounts[other].id;
        let link = self.links(index).iter().find(|link| link.to == other_id).copied();
        let link = link.ok_or(Stop::from(Rejection::LinkNotFound))?;
        let mut draft = new_draft(Kind::Unlinking, &Note::default());
        self.effect(&mut draft, index, AccountChange::Unlinked { to: other_id }, |account| {
            account.details.get_or_insert_default().unlink(other_id);
        });
        if link.kind == LinkKind::OverdraftProtection && !self.accounts[other].closed {
            self.protect(&mut draft, other, self.accounts[index].id, false);
        }
        Ok(draft)
    }

    fn protect(&mut self, draft: &mut Decision, index: usize, account: AccountId, on: bool) {
        self.effect(draft, index, AccountChange::Protects { account, on }, |state| {
            state.details.get_or_insert_default().protect(account, on);
        });
    }

    fn links(&self, index: usize) -> &[Link] {
        self.accounts[index].details.as_ref().map_or(&[], |details| &details.links)
    }

    fn protection(&self, index: usize) -> Option<AccountId> {
        self.accounts[index].details.as_ref().and_then(|details| details.protection())
    }

    fn protects(&self, index: usize) -> &[AccountId] {
        self.accounts[index].details.as_ref().map_or(&[], |details| &details.protects)
    }

    /// How many accounts the chain of protection has from this one on, itself counted, if `avoid` is not in it. It ends
    /// before one that is closed, which pays for nobody.
    fn chain_below(&self, index: usize, avoid: usize) -> Result<usize, Stop> {
        let mut count = 1;
        let mut at = index;
        while let Some(next) = self.protection(at) {
            at = self.known(next)?;
            if at == avoid {
                return Err(Rejection::LinkCycle.into());
            }
            if self.accounts[at].closed {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// How many accounts the longest chain of protection has down to this one, itself counted. One that is closed needs
    /// no protection.
    fn chain_above(&self, index: usize, count_max: usize) -> Result<usize, Stop> {
        if count_max == 0 {
            return Ok(1);
        }
        let mut missing = Missing::default();
        let mut longest = 0;
        for id in self.protects(index) {
            let above = self.known(*id).and_then(|above| match self.accounts[above].closed {
                true => Ok(0),
                false => self.chain_above(above, count_max - 1),
            });
            match above {
                Ok(above) => longest = longest.max(above),
                Err(Stop::Missing(more)) => missing.extend(more),
                Err(stop) => return Err(stop),
            }
        }
        if missing.is_empty() { Ok(longest + 1) } else { Err(Stop::Missing(missing)) }
    }

    /// The copy of an account that another one names.
    fn known(&self, id: AccountId) -> Result<usize, Stop> {
        self.numbers.get(&(id.shard, id.number)).copied().ok_or_else(|| Missing::account(id))
    }

    fn find(&mut self, place: &Place, number: usize) -> Result<usize, Stop> {
        let found = match &place.account {
            AccountRef::Number { number, opened } => match self.numbers.get(&(place.shard, *number)).copied()
            {
                Some(index) => Some(index).filter(|&index| self.accounts[index].id.opened == *opened),
                None if self.asked(place).is_some() => None,
                None => {
                    let id = AccountId { opened: *opened, shard: place.shard, number: *number };
                    return Err(Missing::account(id));
                }
            },
            AccountRef::Name(_) => {
                let opened = (!self.opened.is_empty()).then(|| self.opened.get(place)).flatten();
                let found = match opened {
                    Some(&index) => Some(index),
                    None => self.asked(place).expect("every name is asked for"),
                };
                found.filter(|&index| !self.accounts[index].closed)
            }
        };
        found.ok_or_else(|| at(Rejection::AccountNotFound, number))
    }

    /// What was granted for this place, if it was asked for.
    fn asked(&mut self, place: &Place) -> Option<Option<usize>> {
        self.granted.iter_mut().find(|granted| granted.shard == place.shard)?.find(&place.account)
    }

    fn open_account(&mut self, place: &Place, number: usize) -> Result<usize, Stop> {
        let index = self.find(place, number)?;
        if self.accounts[index].closed {
            return Err(at(Rejection::AccountClosed, number));
        }
        Ok(index)
    }

    fn payer(&mut self, place: &Place, number: usize) -> Result<usize, Stop> {
        let index = self.open_account(place, number)?;
        if self.accounts[index].frozen {
            return Err(at(Rejection::AccountFrozen, number));
        }
        Ok(index)
    }

    /// Who gets what `payer` pays: another account in the same currency.
    fn payee(&mut self, place: &Place, payer: usize) -> Result<usize, Stop> {
        let index = self.open_account(place, 1)?;
        if index == payer {
            return Err(at(Rejection::AccountRepeated, 1));
        }
        self.same_currency(payer, index, 1)?;
        Ok(index)
    }

    fn same_currency(&self, first: usize, second: usize, number: usize) -> Result<(), Stop> {
        let (expected, found) = (self.accounts[first].currency, self.accounts[second].currency);
        if expected == found {
            Ok(())
        } else {
            Err(at(Rejection::CurrencyMismatch { expected, found }, number))
        }
    }

    fn sum(&self, index: usize, sum: Sum, number: usize) -> Result<Amount, Stop> {
        let account = &self.accounts[index];
        match sum {
            Sum::Exactly(quantity) => in_currency(quantity, account.currency, number),
            Sum::All => {
                let (available, currency) = (account.available(), account.currency);
                let refusal = || at(Rejection::NothingAvailable { available, currency }, number);
                Some(available).filter(|available| available.is_positive()).ok_or_else(refusal)
            }
        }
    }

    /// Pulls what an account lacks from the account that protects it, which may pull from its own.
    ///
    /// Each pull is a decision of its own, before the one that needed it.
    fn ensure_funds(&mut self, index: usize, required: Amount, number: usize) -> Result<(), Stop> {
        let available = self.accounts[index].available();
        if required <= available {
            return Ok(());
        }
        let currency = self.accounts[index].currency;
        let refusal = || at(Rejection::InsufficientFunds { available, required, currency }, number);
        let pulled = match required.checked_sub(available) {
            Some(shortfall) => self.pull(index, shortfall, 1),
            None => Ok(false),
        };
        match pulled {
            Ok(true) => Ok(()),
            Ok(false) | Err(Stop::Rejected(_)) => Err(refusal()),
            Err(missing) => Err(missing),
        }
    }

    /// The same for all that pay. A payer may be what protects another one, and lack again what that pulls from it: so all
    /// are looked at until nothing was pulled, which is as often as a chain is long, whatever their order.
    fn ensure_all_funds(&mut self, amounts: &[(usize, Amount)]) -> Result<(), Stop> {
        for _ in 0..PROTECTION_CHAIN_MAX {
            let pulled = self.decided.len();
            let mut missing = Missing::default();
            for (place, &(index, amount)) in amounts.iter().enumerate() {
                if amount.is_positive() {
                    continue;
                }
                match self.ensure_funds(index, amount.negated(), place) {
                    Ok(()) => {}
                    Err(Stop::Missing(more)) => missing.extend(more),
                    // What is missing may be what this one lacks.
                    Err(_) if !missing.is_empty() => {}
                    Err(stop) => return Err(stop),
                }
            }
            if !missing.is_empty() {
                return Err(Stop::Missing(missing));
            }
            if self.decided.len() == pulled {
                break;
            }
        }
        Ok(())
    }

    /// Whether the chain of protection could give so much to an account.
    fn pull(&mut self, index: usize, shortfall: Amount, links: usize) -> Result<bool, Stop> {
        let Some(source) = self.protection(index).filter(|_| links < PROTECTION_CHAIN_MAX) else {
            return Ok(false);
        };
        let source = self.known(source)?;
        let state = &self.accounts[source];
        if state.closed || state.frozen {
            return Ok(false);
        }
        let available = state.available();
        if shortfall > available {
            let Some(lacking) = shortfall.checked_sub(available) else {
                return Ok(false);
            };
            if !self.pull(source, lacking, links + 1)? {
                return Ok(false);
            }
        }
        let mut draft = new_draft(Kind::Protection, &Note::default());
        self.debit(&mut draft, source, shortfall, 0)?;
        self.credit(&mut draft, index, shortfall, 0)?;
        self.push(draft, None);
        Ok(true)
    }

    fn check_debit(&self, index: usize, amount: Amount, number: usize) -> Result<(), Stop> {
        let account = &self.accounts[index];
        let currency = account.currency;
        if account.frozen {
            return Err(at(Rejection::AccountFrozen, number));
        }
        if amount > account.available() {
            let available = account.available();
            return Err(at(Rejection::InsufficientFunds { available, required: amount, currency }, number));
        }
        if let Some(details) = &account.details {
            let allowance = details.velocity.allowance(&details.spent, self.terms.now);
            if !allowance.covers(amount) {
                return Err(at(Rejection::VelocityLimit { allowance, required: amount, currency }, number));
            }
        }
        Ok(())
    }

    fn debit(
        &mut self,
        draft: &mut Decision,
        index: usize,
        amount: Amount,
        number: usize,
    ) -> Result<(), Stop> {
        self.check_debit(index, amount, number)?;
        self.move_money(draft, index, amount.negated(), number)
    }

    fn credit(
        &mut self,
        draft: &mut Decision,
        index: usize,
        amount: Amount,
        number: usize,
    ) -> Result<(), Stop> {
        self.move_money(draft, index, amount, number)
    }

    fn move_money(
        &mut self,
        draft: &mut Decision,
        index: usize,
        amount: Amount,
        number: usize,
    ) -> Result<(), Stop> {
        let posted = self.accounts[index].posted.checked_add(amount);
        let posted = posted.ok_or_else(|| at(Rejection::BalanceOutOfRange, number))?;
        self.effect(draft, index, AccountChange::Posted { amount }, |account| account.posted = posted);
        Ok(())
    }

    fn pending_hold(&mut self, id: HoldId) -> Result<(usize, Hold), Stop> {
        let hold = self.holds.get(&id).expect("every hold is asked for").ok_or(Rejection::HoldNotFound)?;
        let index = self.numbers[&(id.shard, id.account)];
        let currency = self.accounts[index].currency;
        match hold.status {
            HoldStatus::Ended { outcome, .. } => Err(Rejection::HoldEnded { outcome, currency }.into()),
            // Whether its time is over, its own shard has said: the deciding one's may be ahead.
            HoldStatus::Pending => Ok((index, hold)),
        }
    }

    fn release(
        &mut self,
        draft: &mut Decision,
        index: usize,
        id: HoldId,
        outcome: HoldOutcome,
    ) -> Result<(), Stop> {
        let hold = self.holds[&id].expect("it is pending");
        let change = AccountChange::Released { hold: id.key(), outcome };
        let account = &self.accounts[index];
        let held = account.held.checked_sub(hold.amount).expect("what is held is the sum of the holds");
        let posted = account.posted.checked_add(change.posted());
        let posted = posted.ok_or_else(|| at(Rejection::BalanceOutOfRange, 0))?;
        self.effect(draft, index, change, |account| (account.held, account.posted) = (held, posted));
        self.undo_holds.push((id, Some(hold)));
        let status = HoldStatus::Ended { at: self.terms.now, outcome };
        self.holds.insert(id, Some(Hold { status, ..hold }));
        Ok(())
    }

    /// Changes a copy, and adds the effect to the draft.
    fn effect(
        &mut self,
        draft: &mut Decision,
        index: usize,
        change: AccountChange,
        apply: impl FnOnce(&mut AccountState),
    ) {
        let now = self.terms.now;
        let account = &mut self.accounts[index];
        self.undo.push((index, account.clone()));
        let allowance = account.details.as_ref().and_then(|details| details.allowance_after(&change, now));
        if let (Some(amount), Some(details)) = (change.debit(), &mut account.details) {
            details.count_debit(now, amount);
        }
        apply(account);
        account.version += 1;
        let (number, opened, currency) = (account.id.number, account.id.opened, account.currency);
        let after = account.after();
        let effect = Effect { account: number, opened, currency, change, after, allowance };
        part_of(&mut draft.parts, account.id.shard).effects.push(effect);
    }

    /// Refuses what has a reference that one of its accounts has had before, if that wants each used once. `accounts` are
    /// those that it changes, in the order in which the operation names them.
    fn finish(
        &self,
        decision: Decision,
        accounts: impl IntoIterator<Item = usize>,
    ) -> Result<Decision, Stop> {
        if let Some(reference) = &decision.note.reference {
            for (place, index) in accounts.into_iter().enumerate() {
                if let Some(by) = self.reference_used(index, reference)? {
                    return Err(at(Rejection::ReferenceUsed { by }, place));
                }
            }
        }
        Ok(decision)
    }

    /// By what a reference is used in an account that wants each used once.
    fn reference_used(&self, index: usize, reference: &Reference) -> Result<Option<TransactionId>, Stop> {
        let account = &self.accounts[index];
        if !account.has_unique_references() {
            return Ok(None);
        }
        let AccountId { shard, number, .. } = account.id;
        match self.references.get(&(shard, number, reference.clone())) {
            Some(by) => Ok(*by),
            // It is a hold's payee, which the capture does not say.
            None if index < self.accounts_granted => {
                Err(Missing::reference(shard, number, reference.clone()))
            }
            // It was opened here.
            None => Ok(None),
        }
    }
}

/// Two results, or all that either of them is missing: where one was asked for after the other, a work would set out as
/// often as for both in sum.
fn both<T, U>(first: Result<T, Stop>, second: Result<U, Stop>) -> Result<(T, U), Stop> {
    match (first, second) {
        (Err(Stop::Missing(mut missing)), Err(Stop::Missing(more))) => {
            missing.extend(more);
            Err(Stop::Missing(missing))
        }
        (first, second) => Ok((first?, second?)),
    }
}

/// What an account could pay at one moment.
#[derive(Clone, Copy)]
struct Means {
    available: Amount,
    allowance: Allowance,
}

/// A decision in the making, which changes nothing so far.
fn new_draft(kind: Kind, note: &Note) -> Decision {
    Decision { kind, note: note.clone(), parts: Vec::with_capacity(2) }
}

/// The part of a shard, which is made if there is none yet.
fn part_of(parts: &mut Vec<Part>, shard: ShardId) -> &mut Part {
    let place = parts.iter().position(|part| part.shard == shard).unwrap_or_else(|| {
        parts.push(Part::new(shard, Effects::new()));
        parts.len() - 1
    });
    &mut parts[place]
}

fn place_of(id: AccountId) -> Place {
    Place { shard: id.shard, account: AccountRef::Number { number: id.number, opened: id.opened } }
}

fn in_currency(quantity: Quantity, currency: Currency, place: usize) -> Result<Amount, Stop> {
    state::in_currency(quantity, currency).map_err(|rejection| at(rejection, place))
}

fn merged(before: Option<&Metadata>, changes: &[MetadataChange]) -> Result<Metadata, NoteError> {
    let mut entries: Vec<(Box<str>, Box<str>)> =
        before.map_or_else(Vec::new, |metadata| metadata.entries().to_vec());
    for (key, value) in changes {
        entries.retain(|(known, _)| known != key);
        if let Some(value) = value {
            entries.push((key.clone(), value.clone()));
        }
    }
    assert!(entries.len() <= 2 * METADATA_ENTRIES_MAX, "a patch has no more entries than metadata");
    Metadata::new(entries)
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::super::{ExcessDecimals, OverdraftDefault};
    use super::*;

    fn shard() -> ShardId {
        ShardId::new(3).expect("in range")
    }

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).expect("valid")
    }

    fn place() -> Place {
        Place { shard: shard(), account: AccountRef::Name(name("a")) }
    }

    fn one() -> Quantity {
        Quantity::parse("1", ExcessDecimals::Refuse).expect("a quantity")
    }

    /// A workspace with one account, whose shard opens the next one with this number.
    fn workspace(version: u64, next_number: usize) -> Workspace {
        let id = AccountId { opened: Timestamp::default(), shard: shard(), number: AccountNumber::new(0) };
        let state = AccountState {
            id,
            currency: Currency::USD,
            limit: Amount::from_minor_units(1000).expect("in range"),
            posted: Amount::ZERO,
            held: Amount::ZERO,
            version,
            closed: false,
            frozen: false,
            details: None,
        };
        let grant = Grant {
            shard: shard(),
            accounts: smallvec![(place().account, Some(state))],
            taken: Vec::new(),
            next_number: Some(next_number),
            holds: Vec::new(),
            reversals: Vec::new(),
            keys: Vec::new(),
            keys_full: false,
            references: Vec::new(),
            seen: Sequence::FIRST,
            time: Timestamp::default(),
        };
        let terms = Terms {
            now: Timestamp::from_millis(1),
            overdraft: OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO },
            key_retention_ms: 1,
            keys_max: 1,
        };
        Workspace::new(shard(), terms, Sequence::FIRST.next(), vec![grant])
    }

    fn execute(workspace: &mut Workspace, operation: Operation) -> Result<(), Rejected> {
        let item = Item { operation, conditions: Vec::new(), key: None };
        match workspace.execute(&item, "r-1") {
            Ok(ItemOutcome::Done { .. }) => Ok(()),
            Ok(ItemOutcome::Refused(rejected)) => Err(rejected),
            other => panic!("{other:?}"),
        }
    }

    /// P7: a hold's id has 30 bits for the version of its account that it made.
    #[test]
    fn an_account_takes_holds_up_to_the_version_that_their_ids_have_room_for() {
        let hold = || {
            let (account, amount, note) = (place(), Sum::Exactly(one()), Note::default());
            Operation::Hold { account, amount, to: None, expires_in_ms: 1000, note }
        };
        let mut workspace = workspace(HOLD_VERSION_MAX - 1, 1);
        assert_eq!(execute(&mut workspace, hold()), Ok(()));
        assert_eq!(execute(&mut workspace, hold()), Err(rejected_at(Rejection::HoldsExhausted, 0)));
        let deposit = Operation::Deposit { account: place(), amount: one(), note: Note::default() };
        assert_eq!(execute(&mut workspace, deposit), Ok(()), "all else goes on");
        let made = HoldKey { account: AccountNumber::new(0), version: HOLD_VERSION_MAX as u32 };
        assert!(workspace.holds.keys().all(|id| id.key() == made) && workspace.holds.len() == 1);
        assert_eq!(workspace.accounts[0].version, HOLD_VERSION_MAX + 1);
    }

    /// P7: an account's number has 32 bits.
    #[test]
    fn accounts_are_opened_as_long_as_there_are_numbers_for_them() {
        let open = |text: &str| {
            let opening = Box::new(Opening::plain(name(text), Currency::USD, None));
            Operation::Open { shard: shard(), opening }
        };
        let mut workspace = workspace(1, u32::MAX as usize);
        assert_eq!(execute(&mut workspace, open("last")), Ok(()));
        let refused = Err(Rejection::AccountsExhausted.into());
        assert_eq!(execute(&mut workspace, open("one more")), refused);
        assert_eq!(execute(&mut workspace, open("last")), Err(Rejection::AccountExists.into()));
        assert_eq!(execute(&mut workspace, open("one more")), refused);
        let numbers: Vec<_> = workspace.accounts.iter().map(|account| account.id.number.get()).collect();
        assert_eq!(numbers, [0, u32::MAX]);
    }
}
