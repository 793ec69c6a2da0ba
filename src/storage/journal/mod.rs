//! The journal: a shard's log of records, appended to and synced by one thread, read by many.
//!
//! A journal is told what to append and where, and refuses a record that is not the next; it answers when what
//! it was given is durable; it gives any record back by the sequence of an event in it. What is in the records
//! is not its concern beyond their checksum and their place in the chain.
//!
//! [`Journal`] is a trait because there are several: sled on disk, memory for simulations, and room for
//! a replicated log whose appends are fenced by the expected sequence. One contract suite tests them all.

#[cfg(test)]
mod contract;
mod memory;
pub mod record;
mod sled;

pub use self::memory::{MemoryJournal, MemoryReader};
pub use self::sled::{
    Copies, GENERATION_BYTES_MAX, GENERATION_OVERRUN, GUARDED_THREAD, Generation, Generations,
    JournalOptions, SledJournal, VisitRecord, list_generations, read_generations, sweep_generations,
    wake_spare_threads,
};

use crate::ledger::Sequence;
use crate::storage::StorageError;

use record::LogPosition;

/// The writing side of a shard's log. One thread owns it.
pub trait Journal: Send {
    /// Where the log stands: the next record has to continue this.
    fn position(&self) -> LogPosition;

    /// Appends a sealed record. It is readable at once and durable after the next [`Journal::sync`].
    ///
    /// # Errors
    /// If the record does not continue [`Journal::position`], or cannot be written. After an error the journal
    /// takes no further record: what reached the disk is unknown until the next recovery.
    fn append(&mut self, record: &[u8]) -> Result<(), StorageError>;

    /// Makes durable all that was appended.
    ///
    /// # Errors
    /// If that failed. It must not be tried again: the kernel may have dropped the very pages (P1).
    fn sync(&mut self) -> Result<(), StorageError>;

    /// Ends the part of the log that is being written, so that what it holds can be compacted; makes it
    /// durable first. It goes on if it is empty, or the next one cannot be opened, say on a full disk; a journal without
    /// parts only goes on.
    ///
    /// # Errors
    /// If that failed; then as after [`Journal::append`].
    fn roll(&mut self) -> Result<(), StorageError>;
}

/// The reading side of a shard's log. Any number of threads share it.
pub trait JournalReader: Send + Sync {
    /// The record that holds the event with this sequence; `None` behind the end of the log.
    ///
    /// # Errors
    /// If the record should be there but is not, or is not intact.
    fn record(&self, sequence: Sequence) -> Result<Option<Vec<u8>>, StorageError>;
}
