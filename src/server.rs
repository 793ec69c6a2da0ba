//! The composition root.

use std::error::Error;

use crate::config::ServeSettings;

/// Serves until a signal ends it.
///
/// # Errors
/// Always: the parts are not wired yet.
pub fn run(_settings: &ServeSettings) -> Result<(), Box<dyn Error>> {
    Err("the server is not wired yet".into())
}
