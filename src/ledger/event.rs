//! What happened: the only thing that changes a ledger, and the only thing that is written down.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::{
    AccountChange, AccountName, AccountNumber, After, Amount, Currency, Decision, Effect, IdempotencyKey,
    Kind, Links, Note, Opened, Part, Rejection, Sequence, ShardId, Timestamp, TransactionId,
};

/// One event of a shard's log. Its sequence is its place in the log, not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened; never before the event before it.
    pub time: Timestamp,
    /// The idempotency key that the client sent with the request, if any.
    pub key: Option<KeyUse>,
    /// What it changed.
    pub change: Change,
}

impl Event {
    /// The time of what happened, which is the same in all shards that have a part in it: when it was decided.
    /// Within an account's history it never runs backwards.
    pub fn decided(&self) -> Timestamp {
        match &self.change {
            Change::Settled { by, .. } => by.time,
            _ => self.time,
        }
    }

    /// The id of what happened, also the same in all of them. This event is at `sequence` of `shard`.
    pub fn transaction_id(&self, shard: ShardId, sequence: Sequence) -> TransactionId {
        match &self.change {
            Change::Settled { by, .. } => *by,
            _ => TransactionId { time: self.time, shard, sequence },
        }
    }
}

/// The use of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key, and what it was used for.
    pub key: IdempotencyKey,
    /// From when on the key may be forgotten.
    pub expires: Timestamp,
}

/// What an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An account was opened.
    Opened {
        /// Its number: the next free one.
        account: AccountNumber,
        /// Its name.
        name: AccountName,
        /// Its currency.
        currency: Currency,
        /// Its own overdraft limit, if it has one.
        overdraft_limit: Option<Amount>,
    },
    /// Money moved between an account and `@world`.
    Posted {
        /// The account.
        account: AccountNumber,
        /// Which way.
        direction: Direction,
        /// How much; positive.
        amount: Amount,
        /// The account's entry.
        entry: Entry,
    },
    /// An account was closed.
    Closed {
        /// The account.
        account: AccountNumber,
        /// The account's entry.
        entry: Entry,
    },
    /// A request with an idempotency key was refused. Written down so that a retry is refused alike.
    Refused {
        /// The refusal.
        rejection: Rejection,
        /// The id of the refused request, which its reply showed.
        request_id: Box<str>,
    },
    /// An idempotency key was reserved for a request that another shard executes. Ledgers of the first format have
    /// it; today a key is remembered together with the outcome wherever that is.
    Claimed,
    /// An operation was decided here, and its part for this shard applied.
    Decided {
        /// What it changes, here and elsewhere.
        decision: Arc<Decision>,
        /// The earlier entries of the accounts that this shard's part is about, in its order.
        links: PartLinks,
    },
    /// This shard's part of what another shard decided was applied.
    Settled {
        /// The decision's event.
        by: TransactionId,
        /// A copy of the decision.
        decision: Arc<Decision>,
        /// The earlier entries of the accounts that this shard's part is about, in its order.
        links: PartLinks,
    },
}

/// The links of one part's entries.
pub type PartLinks = SmallVec<[Links; 2]>;

/// The way that money moves, seen from the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From `@world` to the account.
    Deposit,
    /// From the account to `@world`.
    Withdrawal,
}

impl Direction {
    /// The amount with the sign that it has in the account.
    pub fn signed(self, amount: Amount) -> Amount {
        match self {
            Direction::Deposit => amount,
            Direction::Withdrawal => amount.negated(),
        }
    }
}

/// One entry of an account's history. All of it follows from the events before; it is recorded so that history
/// is read without them, and so that replay has something to check itself against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The account's version after it.
    pub version: u64,
    /// The account's balance after it.
    pub balance: Amount,
    /// What its pending holds reserve after it.
    pub held: Amount,
    /// The account's earlier entries.
    pub links: Links,
}

impl Entry {
    /// The entry that leaves an account like this.
    pub fn new(after: After, links: Links) -> Entry {
        Entry { version: after.version, balance: after.balance, held: after.held, links }
    }

    /// How it leaves the account.
    pub fn after(&self) -> After {
        After { version: self.version, balance: self.balance, held: self.held }
    }
}

impl Change {
    /// The decision that was made or applied, if this is one of any size.
    pub fn decision(&self) -> Option<&Arc<Decision>> {
        match self {
            Change::Decided { decision, .. } | Change::Settled { decision, .. } => Some(decision),
            _ => None,
        }
    }

    /// The entry that an account of the shard in whose log this stands has here.
    pub fn entry(&self, shard: ShardId, wanted: AccountNumber) -> Option<Entry> {
        match self {
            Change::Opened { account, .. } if *account == wanted => {
                Some(Entry { version: 1, ..Entry::default() })
            }
            Change::Posted { account, entry, .. } | Change::Closed { account, entry }
                if *account == wanted =>
            {
                Some(*entry)
            }
            Change::Decided { decision, links } | Change::Settled { decision, links, .. } => {
                let part = decision.part(shard)?;
                let place = part.effects.iter().position(|effect| effect.account == wanted)?;
                Some(Entry::new(part.effects[place].after, *links.get(place)?))
            }
            _ => None,
        }
    }

    /// Adds the accounts that have an entry here.
    pub fn note_accounts(&self, shard: ShardId, accounts: &mut impl Extend<AccountNumber>) {
        match self {
            Change::Opened { account, .. }
            | Change::Posted { account, .. }
            | Change::Closed { account, .. } => {
                accounts.extend([*account]);
            }
            Change::Decided { decision, .. } | Change::Settled { decision, .. } => {
                let effects = decision.part(shard).map_or(&[][..], |part| &part.effects[..]);
                accounts.extend(effects.iter().map(|effect| effect.account));
            }
            Change::Refused { .. } | Change::Claimed => {}
        }
    }

    /// What a short event changed, in the form of all others: `opened` and `currency` are its account's.
    pub fn to_decision(&self, shard: ShardId, opened: Timestamp, currency: Currency) -> Option<Decision> {
        let (kind, account, change, after) = match self {
            Change::Opened { account, name, overdraft_limit, .. } => {
                let opened = Opened::plain(name.clone(), *overdraft_limit);
                let after = After { version: 1, balance: Amount::ZERO, held: Amount::ZERO };
                (Kind::Opening, *account, AccountChange::Opened(Box::new(opened)), after)
            }
            Change::Posted { account, direction, amount, entry } => {
                let kind = match direction {
                    Direction::Deposit => Kind::Deposit,
                    Direction::Withdrawal => Kind::Withdrawal,
                };
                (kind, *account, AccountChange::Posted { amount: direction.signed(*amount) }, entry.after())
            }
            Change::Closed { account, entry } => {
                (Kind::Closing, *account, AccountChange::Closed, entry.after())
            }
            Change::Decided { decision, .. } | Change::Settled { decision, .. } => {
                return Some((**decision).clone());
            }
            Change::Refused { .. } | Change::Claimed => return None,
        };
        let effects = smallvec![Effect { account, opened, currency, change, after, allowance: None }];
        Some(Decision { kind, note: Note::default(), parts: vec![Part::new(shard, effects)] })
    }
}
