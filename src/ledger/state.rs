//! The state of a shard's ledger: decide, then apply.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{
    Account, AccountName, AccountNumber, AccountRef, AccountStatus, Amount, Chain, Change, Command, Currency,
    Direction, Entry, Event, IdempotencyKey, KeyDigest, KeyRecord, KeyStatus, Keys, Rejection, Sequence,
    Target, Terms, Timestamp, Total,
};

/// The accounts of one shard and its part of `@world`.
#[derive(Clone, Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    names: NameIndex,
    /// What `@world` has given this shard's accounts, by currency, with the sign that makes the sum zero.
    world: BTreeMap<Currency, Amount>,
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
    /// The last event that was applied.
    pub last: Sequence,
    /// Its time.
    pub time: Timestamp,
    /// The shard's part of `@world`.
    pub world: BTreeMap<Currency, Amount>,
    /// The accounts by number.
    pub accounts: Vec<Account>,
    /// The idempotency keys in order of expiry.
    pub keys: Vec<(KeyDigest, KeyRecord)>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new()
    }
}

impl Ledger {
    /// The ledger before any event.
    pub fn new() -> Ledger {
        Ledger {
            accounts: Vec::new(),
            names: NameIndex::default(),
            world: BTreeMap::new(),
            sums: BTreeMap::new(),
            keys: Keys::default(),
            last: Sequence::NONE,
            time: Timestamp::default(),
        }
    }

    /// The ledger made of these parts.
    ///
    /// # Errors
    /// If they contradict one another: an account out of place, a name twice, a chain of another length than
    /// the account's version, or a currency that does not sum to zero.
    pub fn from_parts(parts: LedgerParts) -> Result<Ledger, ReplayError> {
        let mut ledger = Ledger { world: parts.world, last: parts.last, time: parts.time, ..Ledger::new() };
        ledger.accounts.reserve_exact(parts.accounts.len());
        for account in parts.accounts {
            let number = account.number;
            ensure(number.index() == ledger.accounts.len(), || {
                format!("account number {} is out of place", number.get())
            })?;
            ensure(ledger.find_name(&account.name).is_none(), || {
                format!("the name {:?} belongs to two accounts", account.name)
            })?;
            let newest = account.chain.newest();
            ensure(
                Chain::from_packed(account.chain.to_packed(), account.version).is_some()
                    && newest <= ledger.last
                    && newest > Sequence::NONE,
                || format!("the history of account number {} does not fit its version", number.get()),
            )?;
            ledger.insert_account(account);
        }
        for (digest, record) in parts.keys {
            ledger.keys.insert(digest, record);
        }
        for (currency, total) in ledger.totals() {
            ensure(total.is_zero(), || {
                format!("{currency} does not sum to zero but to {}", total.to_text(currency))
            })?;
        }
        Ok(ledger)
    }

    /// The ledger's parts.
    pub fn to_parts(&self) -> LedgerParts {
        LedgerParts {
            last: self.last,
            time: self.time,
            world: self.world.clone(),
            accounts: self.accounts.clone(),
            keys: self.keys.in_order().collect(),
        }
    }

    /// The last event that was applied.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The time of the last event.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The accounts by number, closed ones too.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The idempotency keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The shard's part of `@world`, by currency.
    pub fn world(&self) -> &BTreeMap<Currency, Amount> {
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

    /// For each currency, all accounts and `@world` added up: zero, always (P3).
    pub fn totals(&self) -> BTreeMap<Currency, Total> {
        let mut totals = BTreeMap::<Currency, Total>::new();
        for (currency, world) in &self.world {
            totals.entry(*currency).or_default().add(*world);
        }
        for account in &self.accounts {
            totals.entry(account.currency).or_default().add(account.posted);
        }
        totals
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
            Command::Open { name, overdraft_limit } => {
                if self.find_name(name).is_some() {
                    return Err(Rejection::AccountExists);
                }
                let number = u32::try_from(self.accounts.len()).map_err(|_| Rejection::AccountsExhausted)?;
                Ok(Change::Opened {
                    account: AccountNumber::new(number),
                    name: name.clone(),
                    currency: Currency::USD,
                    overdraft_limit: *overdraft_limit,
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
                if !account.posted.is_zero() {
                    return Err(Rejection::AccountNotEmpty { balance: account.posted });
                }
                Ok(Change::Closed { account: account.number, entry: next_entry(account, account.posted) })
            }
            Command::Claim => Ok(Change::Claimed),
        }
    }

    fn decide_posting(
        &self,
        target: &Target,
        direction: Direction,
        amount: Amount,
        terms: &Terms,
    ) -> Result<Change, Rejection> {
        assert!(amount.is_positive(), "amounts are checked where they are read");
        let account = self.target(target)?;
        if direction == Direction::Withdrawal {
            let available = account.available(terms.overdraft_limit);
            if amount > available {
                return Err(Rejection::InsufficientFunds { available, required: amount });
            }
        }
        let moved = direction.signed(amount);
        let balance = account.posted.checked_add(moved).ok_or(Rejection::BalanceOutOfRange)?;
        self.world_part(account.currency).checked_sub(moved).ok_or(Rejection::BalanceOutOfRange)?;
        Ok(Change::Posted { account: account.number, direction, amount, entry: next_entry(account, balance) })
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
                assert_eq!(account.index(), self.accounts.len(), "accounts are numbered in order");
                let mut chain = Chain::default();
                chain.push(sequence);
                self.insert_account(Account {
                    number: *account,
                    name: name.clone(),
                    currency: *currency,
                    overdraft_limit: *overdraft_limit,
                    posted: Amount::ZERO,
                    opened: event.time,
                    updated: event.time,
                    status: AccountStatus::Open,
                    version: 1,
                    chain,
                });
            }
            Change::Posted { account, direction, amount, entry } => {
                let account = self.advance(*account, entry, event.time, sequence);
                let currency = account.currency;
                let world = self.world_part(currency).checked_sub(direction.signed(*amount));
                self.world.insert(currency, world.expect("decided to be in range"));
            }
            Change::Closed { account, entry } => {
                self.advance(*account, entry, event.time, sequence).status = AccountStatus::Closed;
            }
            Change::Refused { .. } | Change::Claimed => {}
        }
        self.last = sequence;
        self.time = event.time;
        sequence
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
                let own_limit = account.overdraft_limit.filter(|_| *direction == Direction::Withdrawal);
                ensure(own_limit.is_none_or(|limit| entry.balance >= limit.negated()), || {
                    "it passes the account's overdraft limit".to_owned()
                })?;
                let world = self.world_part(account.currency).checked_sub(moved);
                ensure(world.is_some(), || "@world goes out of range".to_owned())?;
                ensure_entry(account, entry)?;
            }
            Change::Closed { account, entry } => {
                let account = self.open_account(*account)?;
                ensure(account.posted.is_zero(), || "it closes an account that is not empty".to_owned())?;
                ensure_entry(account, entry)?;
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
        let account = &mut self.accounts[number.index()];
        assert_eq!(entry.version, account.version + 1, "an account's entries follow one another");
        let sums = self.sums.entry(account.currency).or_default();
        sums.add(account.posted, account.posted.negated());
        sums.add(entry.balance, entry.balance);
        account.posted = entry.balance;
        account.version = entry.version;
        account.updated = time;
        account.chain.push(sequence);
        account
    }

    fn world_part(&self, currency: Currency) -> Amount {
        self.world.get(&currency).copied().unwrap_or_default()
    }

    fn find_name(&self, name: &AccountName) -> Option<&Account> {
        self.names.find(name, &self.accounts)
    }

    fn insert_account(&mut self, account: Account) {
        let sums = self.sums.entry(account.currency).or_default();
        sums.accounts += 1;
        sums.add(account.posted, account.posted);
        self.names.insert(&account, &self.accounts);
        self.accounts.push(account);
    }
}

fn next_entry(account: &Account, balance: Amount) -> Entry {
    Entry { version: account.version + 1, balance, links: account.chain.links() }
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

/// Names to account numbers. It holds numbers only: each name is stored once, in its account.
///
/// The hash is keyed at random, so that nobody can choose names that collide; it decides where in memory a
/// number stands and nothing else, so the state remains a pure function of the events.
#[derive(Clone, Debug, Default)]
struct NameIndex {
    numbers: HashTable<AccountNumber>,
    hasher: RandomState,
}

impl NameIndex {
    fn find<'a>(&self, name: &AccountName, accounts: &'a [Account]) -> Option<&'a Account> {
        let hash = self.hasher.hash_one(name);
        let number = self.numbers.find(hash, |number| accounts[number.index()].name == *name)?;
        accounts.get(number.index())
    }

    /// Adds the account that is about to be pushed onto `accounts`.
    fn insert(&mut self, account: &Account, accounts: &[Account]) {
        let hash = self.hasher.hash_one(&account.name);
        let rehash = |number: &AccountNumber| match accounts.get(number.index()) {
            Some(account) => self.hasher.hash_one(&account.name),
            None => hash,
        };
        self.numbers.insert_unique(hash, account.number, rehash);
    }
}
