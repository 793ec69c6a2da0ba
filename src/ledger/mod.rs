//! The ledger: accounts, money and the rules for both, as pure functions of values.
//!
//! A shard's state is the fold of its events ([`Ledger::apply`]). A request about one account becomes a [`Command`];
//! [`Ledger::decide`] turns it into the [`Change`] it causes or the [`Rejection`] it meets, without touching
//! anything. A request about several becomes a list of [`operation`]s, decided in a [`workspace`] on copies of the
//! accounts, whichever shards they are in. Applying cannot fail: whatever could refuse has refused before.
//!
//! What always holds, after every event:
//!
//! - in each currency, the accounts' balances, the shard's part of `@world` and its *clearing* part, which is what
//!   other shards' accounts got from its own less what they gave, sum to zero (P3);
//! - nothing that leaves an account takes it below its overdraft limit, with what its holds reserve (P4);
//! - an [`IdempotencyKey`] has at most one outcome for as long as it is kept (P5);
//! - the same events give the same state, to the byte, on every machine (P8);
//! - every balance is explained by a chain of entries that ends at the account's opening (P9).
//!
//! Left out on purpose: disks, clocks, threads, randomness, HTTP. Time and ids come in as values. This module
//! imports nothing else of the crate.

mod account;
mod account_set;
mod accounts;
mod chain;
mod command;
mod currency;
pub mod decision;
mod event;
mod hints;
mod hold;
mod id;
mod keys;
mod money;
mod name;
mod note;
pub mod operation;
mod overdraft;
mod rejection;
mod state;
mod transaction_type;
mod transfers;
mod velocity;
pub mod workspace;

pub use account::{Account, AccountStatus, Details, LINKS_MAX, Link, LinkKind};
pub use account_set::AccountSet;
pub use accounts::{Accounts, AccountsBuilder, NameTaken};
pub use chain::{Chain, Links};
pub use command::{AccountRef, Command, Target, Terms};
pub use currency::Currency;
pub use decision::{
    AccountChange, After, Amended, Decision, Effect, Effects, ItemOutcome, Kind, Opened, Outcome, Part,
};
pub use event::{Change, Direction, Entry, Event, KeyUse, PartLinks};
pub use hold::{ENDED_HOLD_MEMORY_MS, ENDED_HOLDS_MAX, Hold, HoldKey, HoldOutcome, HoldStatus, Holds};
pub use id::{
    AccountId, AccountNumber, HOLD_VERSION_MAX, HoldId, IdError, SHARDS_MAX, Sequence, ShardId, Timestamp,
    TransactionId,
};
pub use keys::{IdempotencyKey, KeyDigest, KeyRecord, KeyStatus, Keys};
pub use money::{Amount, AmountError, ExcessDecimals, Quantity, QuantityTotal, Total, UnitsText};
pub use name::{AccountName, NAME_BYTES_MAX, NameError};
pub use note::{
    METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, Metadata, Note, NoteError,
    REFERENCE_BYTES_MAX, Reference,
};
pub use overdraft::OverdraftDefault;
pub use rejection::{Rejected, Rejection};
pub use state::{AccountSums, Ledger, LedgerParts, ReplayError};
pub use transaction_type::TransactionType;
pub use transfers::{PlainTransfers, decide_plain};
pub use velocity::{Allowance, DebitLimit, Spent, VelocityLimits, WINDOW_SECONDS_MAX};
