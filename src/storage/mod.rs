//! Everything on disk: journal, snapshots, archive, manifest, and the recovery that reads them back.

pub mod codec;
mod error;
pub mod history;
pub mod journal;
mod watermark;

pub use error::{RESTORE_BACKUP, StorageError};
pub use watermark::{Watermark, WatermarkHealth};
