//! Everything on disk: journal, snapshots, archive, manifest, and the recovery that reads them back.

pub mod archive;
pub mod codec;
mod error;
pub mod files;
pub mod journal;
pub mod manifest;
#[cfg(test)]
mod samples;
pub mod snapshot;

pub use error::{RESTORE_BACKUP, StorageError};
