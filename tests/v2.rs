//! Version 2 over HTTP, a file a resource, each test a script: what a client sends, and what it gets.
//!
//! The server is the program itself with three shards, and the accounts of a script are named so that they lie in the
//! shards that it asks for. Nothing here waits for a time to pass but the tests of what expires.

#[path = "v2/accounts.rs"]
mod accounts;
#[path = "v2/batches.rs"]
mod batches;
#[path = "v2/crashes.rs"]
mod crashes;
#[path = "support/document.rs"]
mod document;
#[path = "v2/holds.rs"]
mod holds;
#[path = "v2/limits.rs"]
mod limits;
#[path = "v2/links.rs"]
mod links;
mod process;
#[path = "v2/races.rs"]
mod races;
#[path = "v2/reversals.rs"]
mod reversals;
#[path = "v2/teller.rs"]
mod teller;
#[path = "v2/transfers.rs"]
mod transfers;
