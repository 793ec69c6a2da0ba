//! The ledger: accounts, money and the rules for both, as pure functions of values.
//!
//! A shard's state is the fold of its events ([`Ledger::apply`]). A request becomes a [`Command`];
//! [`Ledger::decide`] turns it into the [`Change`] it causes or the [`Rejection`] it meets, without touching
//! anything. Applying cannot fail: whatever could refuse has refused in `decide`.
//!
//! What always holds, after every event:
//!
//! - in each currency, the accounts' balances and `@world`'s sum to zero (P3);
//! - a withdrawal never takes an account below its overdraft limit (P4);
//! - an [`IdempotencyKey`] has at most one outcome for as long as it is kept (P5);
//! - the same events give the same state, to the byte, on every machine (P8);
//! - every balance is explained by a chain of entries that ends at the account's opening (P9).
//!
//! Left out on purpose: disks, clocks, threads, randomness, HTTP. Time and ids come in as values. This module
//! imports nothing else of the crate.

mod account;
mod chain;
mod command;
mod currency;
mod event;
mod id;
mod keys;
mod money;
mod name;
mod overdraft;
mod rejection;
mod state;

pub use account::{Account, AccountStatus};
pub use chain::{Chain, Links};
pub use command::{AccountRef, Command, Target, Terms};
pub use currency::Currency;
pub use event::{Change, Direction, Entry, Event, KeyUse};
pub use id::{AccountId, AccountNumber, IdError, SHARDS_MAX, Sequence, ShardId, Timestamp, TransactionId};
pub use keys::{IdempotencyKey, KeyDigest, KeyRecord, KeyStatus, Keys};
pub use money::{Amount, AmountError, ExcessDecimals, Quantity, Total, UnitsText};
pub use name::{AccountName, NameError};
pub use overdraft::OverdraftDefault;
pub use rejection::Rejection;
pub use state::{AccountSums, Ledger, LedgerParts, ReplayError};
