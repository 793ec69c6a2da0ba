//! Everything on disk: journal, snapshots, archive, manifest, and the recovery that reads them back.

pub mod archive;
pub mod codec;
mod error;
mod fields;
pub mod files;
pub mod history;
pub mod in_flight;
pub mod journal;
pub mod log;
pub mod manifest;
pub mod pace;
#[cfg(test)]
mod samples;
pub mod snapshot;
pub mod verify;
mod watermark;

pub(crate) use error::plural;
pub use error::{RESTORE_BACKUP, StorageError};
pub use watermark::{UnsyncedWatermark, Watermark};
