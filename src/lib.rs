//! teller, an account ledger service: clients open accounts by name, deposit, withdraw, transfer and hold money, and
//! read balances, history, statements and live events over REST.
//!
//! `ARCHITECTURE.md` has the map. Imports go one way only: [`ledger`] knows nobody.

pub mod bank;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod cores;
pub mod http;
pub mod ledger;
#[cfg(test)]
mod logged;
pub mod memory;
pub mod progress;
pub mod random;
pub mod router;
pub mod server;
pub mod shard;
pub mod signals;
pub mod storage;
