//! The state of a shard's ledger: the fold of its events.
//!
//! The next event is made by [`Ledger::decide`], [`Ledger::decided`], [`Ledger::settled`] or
//! [`Ledger::expired`], none of which changes anything. Two functions take it in. [`Ledger::apply`] is for an
//! event that was made on this very state: it cannot fail, and panics at what can only be our own mistake.
//! [`Ledger::replay`] is for one that was read from a log: it first checks that the event continues this
//! state, and applies it only then. It checks sums and order, not every reason that there was to refuse: the
//! overdraft limit of an account without one of its own is a setting, which may have been another one then.
//!
//! [`LedgerParts`] are the whole state, in the order in which a snapshot keeps it. An *excerpt* is a state
//! that has only some of the accounts: compaction replays on one what has changed, so it need not have
//! millions of accounts in memory that have not. The *sums* are the accounts added up, kept as they change: a
//! trial balance must not cost a walk over all of them.
//!
//! What always holds, after every event:
//!
//! - in each currency the balances, the shard's part of `@world` and its clearing part sum to zero: an event
//!   that changes one of them changes another by the opposite (P3); of an excerpt this is not to be seen;
//! - nothing is in the state but what the events say: the same ones give the same parts, to the byte, and so
//!   the same snapshot (P8);
//! - the sums are those of the accounts that are there, and what an account has held is the sum of its
//!   pending holds;
//! - a decision for another shard names the one before it, and what another shard has decided is applied
//!   once, in the order of its decisions (P5).
//!
//! Left out: deciding about several accounts ([`super::workspace`], [`super::transfers`]), how accounts are
//! found ([`super::accounts`]), and how all this is spelled in bytes (the storage's).

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::workspace::{AccountState, Decided, Grant, GrantedAccounts, Needs, ReferenceAccount};
use super::{
    Account, AccountChange, AccountId, AccountName, AccountNumber, AccountRef, AccountStatus, Accounts,
    After, Amount, AmountError, Chain, Change, Command, Currency, Decision, Direction, Effect, Entry, Event,
    Hold, HoldId, HoldKey, HoldOutcome, HoldStatus, Holds, IdempotencyKey, KeyDigest, KeyRecord, KeyStatus,
    Keys, Kind, Note, Part, PartLinks, Quantity, Reference, Rejection, Sequence, ShardId, Target, Terms,
    Timestamp, Total, TransactionId,
};

/// The accounts of one shard and its part of `@world`.
#[derive(Clone, Debug)]
pub struct Ledger {
    shard: ShardId,
    accounts: Accounts,
    /// What `@world` has given this shard's accounts, by currency, with the sign that makes the sum zero.
    world: BTreeMap<Currency, Total>,
    /// What other shards' accounts were given by this shard's, less what they gave, by currency, with the sign that
    /// makes the sum zero. Over all shards it is what is in flight between them.
    clearing: BTreeMap<Currency, Total>,
    /// The last decision of this shard that has a part for each other shard.
    sent: BTreeMap<ShardId, Sequence>,
    /// The last decision of each other shard whose part for this one was applied: the high-water mark (P5).
    received: BTreeMap<ShardId, Sequence>,
    holds: Holds,
    /// The transfers decided here that were reversed, and by what. 56 bytes each, for ever.
    reversals: BTreeMap<Sequence, TransactionId>,
    /// The references that must not be used again, of the accounts that want that.
    references: BTreeMap<AccountNumber, BTreeMap<Reference, TransactionId>>,
    /// The accounts added up, kept as they change: a trial balance must not cost a walk over millions of them.
    sums: BTreeMap<Currency, AccountSums>,
    keys: Keys,
    last: Sequence,
    time: Timestamp,
}

/// The accounts of one currency, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountSums {
    /// How many accounts there are, closed ones too.
    pub accounts: u64,
    /// Their balances above zero, added up.
    pub credit: Total,
    /// Their balances below zero, added up.
    pub debit: Total,
}

impl AccountSums {
    /// Counts a balance; with a negated one, takes it out again.
    fn add(&mut self, balance: Amount, taken: Amount) {
        let side = if balance.is_positive() { &mut self.credit } else { &mut self.debit };
        side.add(taken);
    }
}

/// All that a ledger's state consists of, in the order in which a snapshot keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerParts {
    /// The shard.
    pub shard: ShardId,
    /// The last event that was applied.
    pub last: Sequence,
    /// Its time.
    pub time: Timestamp,
    /// The shard's part of `@world`.
    pub world: BTreeMap<Currency, Total>,
    /// The shard's clearing part.
    pub clearing: BTreeMap<Currency, Total>,
    /// The last decision sent to each other shard.
    pub sent: BTreeMap<ShardId, Sequence>,
    /// The last decision of each other shard that was applied.
    pub received: BTreeMap<ShardId, Sequence>,
    /// The accounts by number.
    pub accounts: Accounts,
    /// The holds by account.
    pub holds: Vec<(HoldKey, Hold)>,
    /// The reversed transfers.
    pub reversals: BTreeMap<Sequence, TransactionId>,
    /// The references that must not be used again.
    pub references: BTreeMap<AccountNumber, BTreeMap<Reference, TransactionId>>,
    /// The idempotency keys in order of expiry.
    pub keys: Vec<(KeyDigest, KeyRecord)>,
}

impl Ledger {
    /// The ledger of a shard before any event.
    pub fn new(shard: ShardId) -> Ledger {
        Ledger {
            shard,
            clearing: BTreeMap::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            holds: Holds::default(),
            reversals: BTreeMap::new(),
            references: BTreeMap::new(),
            accounts: Accounts::default(),
            world: BTreeMap::new(),
            sums: BTreeMap::new(),
            keys: Keys::default(),
            last: Sequence::NONE,
            time: Timestamp::default(),
        }
    }

    /// The ledger made of these parts. `pause` is called again and again: who has others to think of may stand back for
    /// them there.
    ///
    /// # Errors
    /// If they contradict one another: a chain of another length than the account's version, holds that are not what
    /// an account has held, or a currency that does not sum to zero.
    pub fn from_parts(parts: LedgerParts, pause: &mut dyn FnMut()) -> Result<Ledger, ReplayError> {
        let ledger = Ledger::excerpt_from_parts(parts, pause)?;
        let mut totals = ledger.outside();
        for (currency, sums) in &ledger.sums {
            let total = totals.entry(*currency).or_default();
            total.add_total(sums.credit);
            total.add_total(sums.debit);
        }
        for (currency, total) in totals {
            ensure(total.is_zero(), || {
                format!("{currency} does not sum to zero but to {}", total.to_text(currency))
            })?;
        }
        Ok(ledger)
    }

    /// A ledger with an excerpt of the accounts. It can replay what happens to those, and new ones; what it says of all
    /// accounts ([`Ledger::totals`], [`Ledger::sums`]) is of those that it has.
    ///
    /// # Errors
    /// As [`Ledger::from_parts`], as far as that can be told.
    pub fn excerpt_from_parts(parts: LedgerParts, pause: &mut dyn FnMut()) -> Result<Ledger, ReplayError> {
        let mut ledger = Ledger {
            world: parts.world,
            clearing: parts.clearing,
            sent: parts.sent,
            received: parts.received,
            reversals: parts.reversals,
            references: parts.references,
            last: parts.last,
            time: parts.time,
            ..Ledger::new(parts.shard)
        };
        let mut held = BTreeMap::<AccountNumber, Total>::new();
        for (key, hold) in paused(parts.holds, pause) {
            ensure(key.account.index() < parts.accounts.len(), || {
                format!("a hold belongs to account number {}, which is not there", key.account.get())
            })?;
            if hold.status == HoldStatus::Pending {
                held.entry(key.account).or_default().add(hold.amount);
            }
            ledger.holds.insert(key, hold);
        }
        for account in paused(&parts.accounts, pause) {
            let newest = account.chain.newest();
            ensure(
                Chain::from_packed(account.chain.to_packed(), account.version).is_some()
                    && newest <= ledger.last
                    && newest > Sequence::NONE,
                || format!("the history of account number {} does not fit its version", account.number.get()),
            )?;
            let mut difference = held.get(&account.number).copied().unwrap_or_default();
            difference.add(account.held.negated());
            ensure(difference.is_zero(), || {
                format!("the holds of account number {} are not what it has held", account.number.get())
            })?;
            ledger.count_account(account);
        }
        ledger.accounts = parts.accounts;
        for (digest, record) in paused(parts.keys, pause) {
            ledger.keys.insert(digest, record);
        }
        Ok(ledger)
    }

    /// The ledger's parts.
    pub fn to_parts(&self) -> LedgerParts {
        LedgerParts {
            shard: self.shard,
            last: self.last,
            time: self.time,
            world: self.world.clone(),
            clearing: self.clearing.clone(),
            sent: self.sent.clone(),
            received: self.received.clone(),
            holds: self.holds.iter().map(|(key, hold)| (*key, *hold)).collect(),
            reversals: self.reversals.clone(),
            references: self.references.clone(),
            accounts: self.accounts.clone(),
            keys: self.keys.in_order().collect(),
        }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's clearing part, by currency.
    pub fn clearing(&self) -> &BTreeMap<Currency, Total> {
        &self.clearing
    }

    /// The last decision of this shard that has a part for each other one.
    pub fn sent(&self) -> &BTreeMap<ShardId, Sequence> {
        &self.sent
    }

    /// The last decision of each other shard whose part for this one was applied.
    pub fn received(&self) -> &BTreeMap<ShardId, Sequence> {
        &self.received
    }

    /// The last decision of this shard that has a part for another one.
    pub fn sent_to(&self, shard: ShardId) -> Sequence {
        self.sent.get(&shard).copied().unwrap_or(Sequence::NONE)
    }

    /// The last decision of another shard whose part for this one was applied.
    pub fn received_from(&self, shard: ShardId) -> Sequence {
        self.received.get(&shard).copied().unwrap_or(Sequence::NONE)
    }

    /// The holds.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The transfers decided here that were reversed, and by what.
    pub fn reversals(&self) -> &BTreeMap<Sequence, TransactionId> {
        &self.reversals
    }

    /// The references that must not be used again, and the transactions that have them.
    pub fn references(&self) -> &BTreeMap<AccountNumber, BTreeMap<Reference, TransactionId>> {
        &self.references
    }

    /// The last event that was applied.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The time of the last event.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The accounts, closed ones too.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The idempotency keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The shard's part of `@world`, by currency.
    pub fn world(&self) -> &BTreeMap<Currency, Total> {
        &self.world
    }

    /// The accounts added up, by currency.
    pub fn sums(&self) -> &BTreeMap<Currency, AccountSums> {
        &self.sums
    }

    /// The account, if there is one.
    pub fn account(&self, account: &AccountRef) -> Option<&Account> {
        match account {
            AccountRef::Name(name) => {
                self.find_name(name).filter(|account| account.status == AccountStatus::Open)
            }
            AccountRef::Number { number, opened } => {
                self.accounts.get(number.index()).filter(|account| account.opened == *opened)
            }
        }
    }

    /// For each currency, all accounts, `@world` and the clearing part added up: zero, always (P3).
    pub fn totals(&self) -> BTreeMap<Currency, Total> {
        let mut totals = self.outside();
        for account in &self.accounts {
            totals.entry(account.currency).or_default().add(account.posted);
        }
        totals
    }

    /// What no account here has: the shard's parts of the outside world and of what is in flight, added up.
    fn outside(&self) -> BTreeMap<Currency, Total> {
        let mut totals = BTreeMap::<Currency, Total>::new();
        for (currency, part) in self.world.iter().chain(&self.clearing) {
            totals.entry(*currency).or_default().add_total(*part);
        }
        totals
    }

    /// The account with this number.
    pub fn account_by_number(&self, number: AccountNumber) -> Option<&Account> {
        self.accounts.get(number.index())
    }

    /// The account that has, or had, this name.
    pub fn account_ever_named(&self, name: &AccountName) -> Option<&Account> {
        self.find_name(name)
    }

    /// What is known of an idempotency key.
    pub fn key_status(&self, key: &IdempotencyKey, now: Timestamp) -> KeyStatus {
        self.keys.status(key, now)
    }

    /// What `command` would change.
    ///
    /// # Errors
    /// The refusal. The order of the checks is part of the interface: of two reasons, a client hears the first.
    pub fn decide(&self, command: &Command, terms: &Terms) -> Result<Change, Rejection> {
        match command {
            Command::Open { name, currency, overdraft_limit } => {
                if self.find_name(name).is_some() {
                    return Err(Rejection::AccountExists);
                }
                let number = u32::try_from(self.accounts.len()).map_err(|_| Rejection::AccountsExhausted)?;
                let overdraft_limit =
                    overdraft_limit.map(|limit| in_currency(limit, *currency)).transpose()?;
                Ok(Change::Opened {
                    account: AccountNumber::new(number),
                    name: name.clone(),
                    currency: *currency,
                    overdraft_limit,
                })
            }
            Command::Deposit { target, amount } => {
                self.decide_posting(target, Direction::Deposit, *amount, terms)
            }
            Command::Withdraw { target, amount } => {
                self.decide_posting(target, Direction::Withdrawal, *amount, terms)
            }
            Command::Close { target } => {
                let account = self.target(target)?;
                let currency = account.currency;
                if !account.posted.is_zero() {
                    return Err(Rejection::AccountNotEmpty { balance: account.posted, currency });
                }
                if !account.held.is_zero() {
                    return Err(Rejection::AccountHasHolds { held: account.held, currency });
                }
                Ok(Change::Closed { account: account.number, entry: next_entry(account, account.posted) })
            }
        }
    }

    fn decide_posting(
        &self,
        target: &Target,
        direction: Direction,
        amount: Quantity,
        terms: &Terms,
    ) -> Result<Change, Rejection> {
        assert!(amount.is_positive(), "amounts are checked where they are read");
        let account = self.target(target)?;
        let currency = account.currency;
        assert!(
            direction == Direction::Deposit || !account.has_velocity_limits(),
            "what is debited within limits tells what is left of them: it is decided in a workspace"
        );
        if direction == Direction::Withdrawal && account.frozen {
            return Err(Rejection::AccountFrozen);
        }
        let amount = in_currency(amount, currency)?;
        if direction == Direction::Withdrawal {
            let available = account.available(terms.overdraft);
            if amount > available {
                return Err(Rejection::InsufficientFunds { available, required: amount, currency });
            }
        }
        let moved = direction.signed(amount);
        let balance = account.posted.checked_add(moved).ok_or(Rejection::BalanceOutOfRange)?;
        Ok(Change::Posted { account: account.number, direction, amount, entry: next_entry(account, balance) })
    }

    /// The event that makes what was decided in a workspace, here and now.
    ///
    /// # Panics
    /// If it was not decided on this very state of this shard's accounts.
    pub fn decided(&self, decided: Decided, time: Timestamp) -> Event {
        let Decided { mut decision, key } = decided;
        for part in decision.parts.iter_mut().filter(|part| part.shard != self.shard) {
            part.previous = self.sent_to(part.shard);
        }
        let links = self.part_links(&decision);
        Event { time, key, change: Change::Decided { decision: Arc::new(decision), links } }
    }

    /// The event that applies this shard's part of what another shard decided, or `None` if that was applied before.
    ///
    /// # Errors
    /// If a decision is missing between the last one from there and this one.
    pub fn settled(
        &self,
        by: TransactionId,
        decision: &Arc<Decision>,
        now: Timestamp,
    ) -> Result<Option<Event>, ReplayError> {
        let received = self.received_from(by.shard);
        if by.sequence <= received {
            return Ok(None);
        }
        let part = decision.part(self.shard).filter(|part| part.previous == received);
        let part = part.ok_or_else(|| {
            ReplayError(format!(
                "decision {} of shard {} does not follow {received}, the last one that was applied",
                by.sequence, by.shard
            ))
        })?;
        let (key, links) = (part.key, self.part_links(decision));
        let change = Change::Settled { by, decision: Arc::clone(decision), links };
        Ok(Some(Event { time: now.max(self.time).max(by.time), key, change }))
    }

    /// The event that ends a pending hold whose time is over.
    ///
    /// # Panics
    /// If there is no such hold.
    pub fn expired(&self, key: HoldKey, time: Timestamp) -> Event {
        let account = &self.accounts[key.account.index()];
        let hold = self.holds.pending_at(key).expect("the hold is there");
        let after = After {
            version: account.version + 1,
            balance: account.posted,
            held: account.held.checked_sub(hold.amount).expect("what is held is the sum of the holds"),
        };
        let effect = Effect {
            account: account.number,
            opened: account.opened,
            currency: account.currency,
            change: AccountChange::Released { hold: key, outcome: HoldOutcome::Expired },
            after,
            allowance: None,
        };
        let part = Part::new(self.shard, smallvec![effect]);
        let kind = Kind::Expiry { hold: key.id(self.shard, hold.created) };
        let decision = Decision { kind, note: Note::default(), parts: vec![part] };
        self.decided(Decided { decision, key: None }, time)
    }

    /// What a list of operations asks this shard about.
    ///
    /// `found` are the numbers of the accounts that it names, in their order, as far as they have been looked up.
    pub fn grant(&self, needs: &Needs, found: &[Option<AccountNumber>], terms: &Terms) -> Grant {
        let (mut accounts, accounts_seen) = self.look_up_accounts(needs, found, terms);
        let (holds, holds_seen) = self.look_up_holds(needs, terms, &mut accounts);
        let (taken, next_number, openings_seen) = self.look_up_openings(needs);
        let (reversals, reversals_seen) = self.look_up_reversals(needs);
        let (keys, keys_full, keys_seen) = self.look_up_keys(needs, terms);
        let (references, references_seen) = self.look_up_references(needs, &accounts);
        let seen = accounts_seen
            .max(holds_seen)
            .max(openings_seen)
            .max(reversals_seen)
            .max(keys_seen)
            .max(references_seen);
        Grant {
            shard: self.shard,
            accounts,
            taken,
            next_number,
            holds,
            reversals,
            keys,
            keys_full,
            references,
            seen,
            time: self.time,
        }
    }

    /// Copies of the accounts that are needed, and the last event that they depend on.
    fn look_up_accounts(
        &self,
        needs: &Needs,
        found: &[Option<AccountNumber>],
        terms: &Terms,
    ) -> (GrantedAccounts, Sequence) {
        let mut seen = Sequence::NONE;
        let mut accounts = GrantedAccounts::with_capacity(needs.accounts.len() + needs.holds.len());
        for (place, reference) in needs.accounts.iter().enumerate() {
            let account = match (reference, found.get(place)) {
                (AccountRef::Name(_), Some(Some(number))) => {
                    self.account_by_number(*number).filter(|account| account.status == AccountStatus::Open)
                }
                _ => self.account(reference),
            };
            seen = seen.max(self.seen_with(account));
            accounts.push((reference.clone(), account.map(|account| self.state_of(account, terms))));
        }
        (accounts, seen)
    }

    /// The holds that are needed, and the last event that they depend on. Their accounts join the others.
    fn look_up_holds(
        &self,
        needs: &Needs,
        terms: &Terms,
        accounts: &mut GrantedAccounts,
    ) -> (Vec<(HoldId, Option<Hold>)>, Sequence) {
        let mut seen = Sequence::NONE;
        let mut holds = Vec::with_capacity(needs.holds.len());
        for id in &needs.holds {
            let hold = self.holds.get(id).copied();
            let account = self.accounts.get(id.account.index()).filter(|_| hold.is_some());
            seen = seen.max(self.seen_with(account));
            if let Some(account) = account {
                let reference = AccountRef::Number { number: account.number, opened: account.opened };
                accounts.push((reference, Some(self.state_of(account, terms))));
            }
            holds.push((*id, hold));
        }
        (holds, seen)
    }

    /// Which of the names that are to be opened are taken, the number that the next account gets, and the
    /// last event that this depends on.
    fn look_up_openings(&self, needs: &Needs) -> (Vec<AccountName>, Option<usize>, Sequence) {
        if needs.openings.is_empty() {
            return (Vec::new(), None, Sequence::NONE);
        }
        let taken = needs.openings.iter().filter(|name| self.find_name(name).is_some());
        (taken.cloned().collect(), Some(self.accounts.len()), self.last)
    }

    /// By what the transfers were reversed that are to be, and the last event that this depends on.
    fn look_up_reversals(&self, needs: &Needs) -> (Vec<(TransactionId, Option<TransactionId>)>, Sequence) {
        let reversed_by = |transfer: &TransactionId| self.reversals.get(&transfer.sequence).copied();
        let reversals: Vec<_> =
            needs.reversals.iter().map(|transfer| (*transfer, reversed_by(transfer))).collect();
        let is_any_reversed = reversals.iter().any(|(_, by)| by.is_some());
        (reversals, if is_any_reversed { self.last } else { Sequence::NONE })
    }

    /// What is known of the keys, whether no further one can be remembered, and the last event that this
    /// depends on.
    fn look_up_keys(
        &self,
        needs: &Needs,
        terms: &Terms,
    ) -> (Vec<(IdempotencyKey, KeyStatus)>, bool, Sequence) {
        let mut keys: Vec<_> =
            needs.keys.iter().map(|key| (*key, self.keys.status(key, terms.now))).collect();
        keys.extend(needs.busy_keys.iter().map(|key| (*key, KeyStatus::IN_FLIGHT)));
        let keys_full = !keys.is_empty() && self.keys.is_full(terms.keys_max, terms.now);
        let mut seen = if keys_full { self.last } else { Sequence::NONE };
        for (_, status) in &keys {
            match status {
                KeyStatus::New | KeyStatus::Claimed => {}
                KeyStatus::Settled(sequence) => seen = seen.max(*sequence),
                KeyStatus::Reused => seen = self.last,
            }
        }
        (keys, keys_full, seen)
    }

    /// Which references are used in those of their accounts that want each used once, and by what, and the last event that
    /// this depends on.
    fn look_up_references(
        &self,
        needs: &Needs,
        accounts: &GrantedAccounts,
    ) -> (Vec<(AccountNumber, Reference, Option<TransactionId>)>, Sequence) {
        let mut references = Vec::new();
        let mut seen = Sequence::NONE;
        for (account, reference) in &needs.references {
            let number = match *account {
                ReferenceAccount::At(place) => accounts[place].1.as_ref().map(|account| account.id.number),
                ReferenceAccount::Numbered(number) => Some(number),
            };
            let account = number.and_then(|number| self.account_by_number(number));
            let Some(account) = account.filter(|account| account.has_unique_references()) else { continue };
            let used = self.references.get(&account.number);
            let by = used.and_then(|used| used.get(reference)).copied();
            if by.is_some() {
                seen = self.last;
            }
            references.push((account.number, reference.clone(), by));
        }
        (references, seen)
    }

    /// The last event that a look for an account depends on. Nothing to be seen may mean "closed a moment
    /// ago".
    fn seen_with(&self, account: Option<&Account>) -> Sequence {
        account.map_or(self.last, |account| account.chain.newest())
    }

    fn state_of(&self, account: &Account, terms: &Terms) -> AccountState {
        AccountState {
            id: AccountId { opened: account.opened, shard: self.shard, number: account.number },
            currency: account.currency,
            limit: account.limit(terms.overdraft),
            posted: account.posted,
            held: account.held,
            version: account.version,
            closed: account.status == AccountStatus::Closed,
            frozen: account.frozen,
            details: account.details.clone(),
        }
    }

    /// The links of this shard's part.
    fn part_links(&self, decision: &Decision) -> PartLinks {
        let Some(part) = decision.part(self.shard) else {
            return PartLinks::new();
        };
        let links = |effect: &Effect| {
            self.accounts
                .get(effect.account.index())
                .map_or_else(Default::default, |account| account.chain.links())
        };
        part.effects.iter().map(links).collect()
    }

    /// The account that a command is about, if it is in a state to be changed.
    fn target(&self, target: &Target) -> Result<&Account, Rejection> {
        let account = self.account(&target.account).ok_or(Rejection::AccountNotFound)?;
        if account.status == AccountStatus::Closed {
            return Err(Rejection::AccountClosed);
        }
        if target.version.is_some_and(|version| version != account.version) {
            return Err(Rejection::VersionMismatch { version: account.version });
        }
        Ok(account)
    }

    /// Applies an event that was decided on this very state, and returns its sequence.
    ///
    /// # Panics
    /// If the event does not follow from this state; [`Ledger::replay`] is for events of less certain origin.
    pub fn apply(&mut self, event: &Event) -> Sequence {
        assert!(event.time >= self.time, "time does not run backwards");
        let sequence = self.last.next();
        let outcome = if event.change == Change::Claimed { Sequence::NONE } else { sequence };
        self.keys.apply(event, outcome);
        match &event.change {
            Change::Opened { account, name, currency, overdraft_limit } => {
                let new = Account::new(*account, name.clone(), *currency, event.time, sequence);
                self.insert_account(Account { overdraft_limit: *overdraft_limit, ..new });
            }
            Change::Posted { account, direction, amount, entry } => {
                let account = self.advance(*account, entry, event.time, sequence);
                let currency = account.currency;
                self.world.entry(currency).or_default().add(direction.signed(*amount).negated());
            }
            Change::Closed { account, entry } => {
                self.advance(*account, entry, event.time, sequence).status = AccountStatus::Closed;
            }
            Change::Decided { decision, links } => {
                let by = TransactionId { time: event.time, shard: self.shard, sequence };
                self.apply_part(decision, links, by, sequence);
                for part in decision.parts.iter().filter(|part| part.shard != self.shard) {
                    assert_eq!(
                        part.previous,
                        self.sent_to(part.shard),
                        "decisions for a shard follow one another"
                    );
                    self.sent.insert(part.shard, sequence);
                }
            }
            Change::Settled { by, decision, links } => {
                self.apply_part(decision, links, *by, sequence);
                self.received.insert(by.shard, by.sequence);
            }
            Change::Refused { .. } | Change::Claimed => {}
        }
        self.holds.forget(event.time);
        self.last = sequence;
        self.time = event.time;
        sequence
    }

    /// Applies this shard's part of a decision.
    fn apply_part(&mut self, decision: &Decision, links: &PartLinks, by: TransactionId, sequence: Sequence) {
        let Some(part) = decision.part(self.shard) else {
            return;
        };
        let with_world = decision.is_with_world();
        for (effect, links) in part.effects.iter().zip(links) {
            let number = effect.account;
            if let AccountChange::Opened(opened) = &effect.change {
                let new = Account::new(number, opened.name.clone(), effect.currency, by.time, sequence);
                let (overdraft_limit, details) = (opened.overdraft_limit, opened.details());
                self.insert_account(Account { overdraft_limit, details, ..new });
                continue;
            }
            let account = self.advance(number, &Entry::new(effect.after, *links), by.time, sequence);
            if let (Some(amount), Some(details)) = (effect.change.debit(), &mut account.details) {
                details.count_debit(by.time, amount);
            }
            match &effect.change {
                AccountChange::Opened(_) | AccountChange::Posted { .. } => {}
                AccountChange::Held { amount, to, expires } => {
                    let key = HoldKey { account: number, version: account.version as u32 };
                    let (amount, to, expires) = (*amount, *to, *expires);
                    let hold = Hold { created: by.time, amount, to, expires, status: HoldStatus::Pending };
                    self.holds.insert(key, hold);
                }
                AccountChange::Released { hold, outcome } => self.holds.end(*hold, by.time, *outcome),
                AccountChange::Amended(amended) => {
                    account.overdraft_limit = amended.overdraft_limit.unwrap_or(account.overdraft_limit);
                    account.frozen = amended.frozen.unwrap_or(account.frozen);
                    amended.to_details(&mut account.details);
                }
                AccountChange::Linked(link) => account.details.get_or_insert_default().link(*link),
                AccountChange::Unlinked { to } => account.details.get_or_insert_default().unlink(*to),
                AccountChange::Protects { account: other, on } => {
                    account.details.get_or_insert_default().protect(*other, *on);
                }
                AccountChange::Closed => account.status = AccountStatus::Closed,
            }
            let moved = effect.change.posted();
            let side = if with_world { &mut self.world } else { &mut self.clearing };
            if !moved.is_zero() {
                side.entry(effect.currency).or_default().add(moved.negated());
            }
            if let Some(reference) = decision.note.reference.as_ref()
                && self.accounts[number.index()].has_unique_references()
            {
                self.references.entry(number).or_default().insert(reference.clone(), by);
            }
        }
        if let Some(transfer) = part.reverses {
            self.reversals.insert(transfer, by);
        }
    }

    /// Checks this shard's part of a decision that was made at `time`.
    fn check_part(&self, decision: &Decision, links: &PartLinks, time: Timestamp) -> Result<(), ReplayError> {
        // Of very few currencies, and for every decision: a map would be a good part of replaying it.
        let mut totals = SmallVec::<[(Currency, Total); 2]>::new();
        for (_, effect) in decision.effects() {
            let moved = effect.change.posted();
            match totals.iter_mut().find(|(currency, _)| *currency == effect.currency) {
                Some((_, total)) => total.add(moved),
                None => {
                    let mut total = Total::default();
                    total.add(moved);
                    totals.push((effect.currency, total));
                }
            }
        }
        ensure(decision.is_with_world() || totals.iter().all(|(_, total)| total.is_zero()), || {
            "what it moves between accounts does not sum to zero".to_owned()
        })?;
        ensure(decision.parts.windows(2).all(|pair| pair[0].shard < pair[1].shard), || {
            "its parts are not in order".to_owned()
        })?;
        let Some(part) = decision.part(self.shard) else {
            return ensure(links.is_empty(), || "it has links but no part here".to_owned());
        };
        ensure(part.effects.len() == links.len(), || "its links are not those of its part".to_owned())?;
        let mut opened = 0;
        for (place, (effect, links)) in part.effects.iter().zip(links).enumerate() {
            ensure(part.effects[..place].iter().all(|before| before.account != effect.account), || {
                "it changes an account twice".to_owned()
            })?;
            if let AccountChange::Opened(account) = &effect.change {
                ensure(effect.account.index() == self.accounts.len() + opened, || {
                    format!(
                        "it opens account number {}, but the next is {}",
                        effect.account.get(),
                        self.accounts.len() + opened
                    )
                })?;
                let opens_it = |before: &Effect| match &before.change {
                    AccountChange::Opened(opened) => opened.name == account.name,
                    _ => false,
                };
                let is_taken = self.find_name(&account.name).is_some();
                ensure(!is_taken && !part.effects[..place].iter().any(opens_it), || {
                    format!("the name {:?} is taken", account.name)
                })?;
                ensure(
                    effect.after == After { version: 1, balance: Amount::ZERO, held: Amount::ZERO }
                        && effect.allowance.is_none()
                        && *links == Default::default(),
                    || "it opens an account that is not new".to_owned(),
                )?;
                opened += 1;
                continue;
            }
            self.check_effect(effect, &Entry::new(effect.after, *links), time)?;
        }
        ensure(part.reverses.is_none_or(|transfer| !self.reversals.contains_key(&transfer)), || {
            "it reverses a transfer for the second time".to_owned()
        })
    }

    fn check_effect(&self, effect: &Effect, entry: &Entry, time: Timestamp) -> Result<(), ReplayError> {
        let account = self.open_account(effect.account)?;
        ensure(account.opened == effect.opened && account.currency == effect.currency, || {
            format!("account number {} is another one", effect.account.get())
        })?;
        let mut held = Some(account.held);
        match &effect.change {
            AccountChange::Held { amount, .. } => {
                ensure(amount.is_positive(), || "it holds nothing".to_owned())?;
                held = account.held.checked_add(*amount);
            }
            AccountChange::Released { hold: key, outcome } => {
                let hold = self.holds.pending_at(*key);
                ensure(key.account == effect.account && hold.is_some(), || {
                    "it ends a hold that is not pending".to_owned()
                })?;
                let amount = hold.map_or(Amount::ZERO, |hold| hold.amount);
                let captured = match outcome {
                    HoldOutcome::Captured(captured) => *captured,
                    HoldOutcome::Voided | HoldOutcome::Expired => Amount::ZERO,
                };
                ensure(captured <= amount, || "it captures more than was held".to_owned())?;
                held = account.held.checked_sub(amount);
            }
            AccountChange::Closed => {
                ensure(account.posted.is_zero() && account.held.is_zero(), || {
                    "it closes an account that is not empty".to_owned()
                })?;
            }
            _ => {}
        }
        let balance = account.posted.checked_add(effect.change.posted());
        ensure(balance == Some(entry.balance) && held == Some(entry.held), || {
            "its balance is not the sum".to_owned()
        })?;
        if let (Some(_), Some(limit)) = (effect.change.debit(), account.overdraft_limit) {
            let available = super::account::available(entry.balance, entry.held, limit);
            ensure(available >= Amount::ZERO, || "it passes the account's overdraft limit".to_owned())?;
        }
        let details = account.details.as_ref();
        let allowance = details.and_then(|details| details.allowance_after(&effect.change, time));
        ensure(effect.allowance == allowance, || {
            "what may still leave the account is not what its velocity limits leave".to_owned()
        })?;
        ensure(*entry == (Entry { held: entry.held, ..next_entry(account, entry.balance) }), || {
            format!("its entry does not continue the history of account number {}", account.number.get())
        })
    }

    /// Has the processor fetch the accounts that these events change, before they are replayed: waiting for one
    /// after the other was a sixth of a compaction with 10,000 accounts.
    pub fn fetch(&self, events: &[Event]) {
        let mut accounts = SmallVec::<[AccountNumber; 64]>::new();
        events.iter().for_each(|event| event.change.note_accounts(self.shard, &mut accounts));
        self.accounts.fetch_numbers(&accounts);
    }

    /// Checks an event from a log against this state, then applies it.
    ///
    /// # Errors
    /// Says how the event contradicts the state; nothing has been applied then.
    pub fn replay(&mut self, event: &Event) -> Result<Sequence, ReplayError> {
        ensure(event.time >= self.time, || "its time is before that of the event before".to_owned())?;
        match &event.change {
            Change::Opened { account, name, .. } => {
                ensure(account.index() == self.accounts.len(), || {
                    format!(
                        "it opens account number {}, but the next is {}",
                        account.get(),
                        self.accounts.len()
                    )
                })?;
                ensure(self.find_name(name).is_none(), || format!("the name {name:?} is taken"))?;
            }
            Change::Posted { account, direction, amount, entry } => {
                ensure(amount.is_positive(), || "its amount is not positive".to_owned())?;
                let account = self.open_account(*account)?;
                let moved = direction.signed(*amount);
                let balance = account.posted.checked_add(moved);
                ensure(balance == Some(entry.balance), || "its balance is not the sum".to_owned())?;
                ensure(*direction == Direction::Deposit || !account.has_velocity_limits(), || {
                    "it does not tell what it leaves of the account's velocity limits".to_owned()
                })?;
                let own_limit = account.overdraft_limit.filter(|_| *direction == Direction::Withdrawal);
                let covers =
                    |limit| super::account::available(entry.balance, entry.held, limit) >= Amount::ZERO;
                ensure(own_limit.is_none_or(covers), || {
                    "it passes the account's overdraft limit".to_owned()
                })?;
                ensure_entry(account, entry)?;
            }
            Change::Closed { account, entry } => {
                let account = self.open_account(*account)?;
                ensure(account.posted.is_zero() && account.held.is_zero(), || {
                    "it closes an account that is not empty".to_owned()
                })?;
                ensure_entry(account, entry)?;
            }
            Change::Decided { decision, links } => {
                for part in decision.parts.iter().filter(|part| part.shard != self.shard) {
                    ensure(part.previous == self.sent_to(part.shard), || {
                        format!("it does not follow the last decision for shard {}", part.shard)
                    })?;
                }
                self.check_part(decision, links, event.time)?;
            }
            Change::Settled { by, decision, links } => {
                let received = self.received_from(by.shard);
                let part = decision.part(self.shard);
                ensure(
                    by.shard != self.shard
                        && by.sequence > received
                        && by.time <= event.time
                        && part.is_some_and(|part| part.previous == received && part.key == event.key),
                    || format!("it does not follow {received}, the last decision from shard {}", by.shard),
                )?;
                self.check_part(decision, links, by.time)?;
            }
            Change::Refused { .. } | Change::Claimed => {
                ensure(event.key.is_some(), || "it records an idempotency key but has none".to_owned())?;
            }
        }
        Ok(self.apply(event))
    }

    fn open_account(&self, number: AccountNumber) -> Result<&Account, ReplayError> {
        self.accounts
            .get(number.index())
            .filter(|account| account.status == AccountStatus::Open)
            .ok_or_else(|| ReplayError(format!("account number {} is not open", number.get())))
    }

    /// Moves an account on by one entry.
    fn advance(
        &mut self,
        number: AccountNumber,
        entry: &Entry,
        time: Timestamp,
        sequence: Sequence,
    ) -> &mut Account {
        let account = self.accounts.get_mut(number.index()).expect("an entry is of an account that is there");
        assert_eq!(entry.version, account.version + 1, "an account's entries follow one another");
        let sums = self.sums.entry(account.currency).or_default();
        sums.add(account.posted, account.posted.negated());
        sums.add(entry.balance, entry.balance);
        account.posted = entry.balance;
        account.held = entry.held;
        account.version = entry.version;
        account.updated = time;
        account.chain.push(sequence);
        account
    }

    fn find_name(&self, name: &AccountName) -> Option<&Account> {
        self.accounts.find(name)
    }

    fn insert_account(&mut self, account: Account) {
        assert_eq!(account.number.index(), self.accounts.len(), "accounts are numbered in order");
        self.count_account(&account);
        self.accounts.push(account).expect("a name is given once");
    }

    fn count_account(&mut self, account: &Account) {
        let sums = self.sums.entry(account.currency).or_default();
        sums.accounts += 1;
        sums.add(account.posted, account.posted);
    }
}

fn next_entry(account: &Account, balance: Amount) -> Entry {
    Entry { version: account.version + 1, balance, held: account.held, links: account.chain.links() }
}

pub(super) fn in_currency(quantity: Quantity, currency: Currency) -> Result<Amount, Rejection> {
    quantity.to_amount(currency).map_err(|error| amount_error(error, currency))
}

pub(super) fn amount_error(error: AmountError, currency: Currency) -> Rejection {
    match error {
        AmountError::TooManyDecimals { .. } => Rejection::TooManyDecimals { currency },
        AmountError::NotANumber | AmountError::TooLong { .. } | AmountError::TooLarge => {
            Rejection::BalanceOutOfRange
        }
    }
}

/// After so many items there is a pause: what a processor does in a tenth of a millisecond.
const ITEMS_A_PAUSE: usize = 512;

/// The same items, with a call of `pause` between some of them.
fn paused<'a, I: IntoIterator<IntoIter: 'a>>(
    items: I,
    pause: &'a mut dyn FnMut(),
) -> impl Iterator<Item = I::Item> + 'a {
    items.into_iter().enumerate().map(move |(index, item)| {
        if index % ITEMS_A_PAUSE == ITEMS_A_PAUSE - 1 {
            pause();
        }
        item
    })
}

fn ensure_entry(account: &Account, entry: &Entry) -> Result<(), ReplayError> {
    ensure(*entry == next_entry(account, entry.balance), || {
        format!("its entry does not continue the history of account number {}", account.number.get())
    })
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<(), ReplayError> {
    if condition { Ok(()) } else { Err(ReplayError(message())) }
}

/// How an event or a snapshot contradicts itself or what came before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReplayError(pub String);
