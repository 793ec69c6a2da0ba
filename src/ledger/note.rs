//! What a client says about a movement of money or an account, and the ledger only keeps.

use std::fmt;
use std::ops::Deref;

/// The longest reference, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 255;
/// How many entries metadata has at most.
pub const METADATA_ENTRIES_MAX: usize = 16;
/// The longest key of an entry, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 64;
/// The longest value of an entry, in bytes.
pub const METADATA_VALUE_BYTES_MAX: usize = 256;

/// A client's own name for something, such as an invoice number: 1 to 255 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(Box<str>);

/// Texts by key, in order of their keys: at most 16, keys of 1 to 64 bytes, values of up to 256, none with control
/// characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Box<[(Box<str>, Box<str>)]>);

/// What a client says about one movement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The client's reference.
    pub reference: Option<Reference>,
    /// Whatever else.
    pub metadata: Metadata,
}

/// Why a text or a set of texts is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// A control character.
    #[error("has a control character")]
    ControlCharacter,
    /// More entries than allowed.
    #[error("has more than {METADATA_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// One key twice.
    #[error("has a key more than once")]
    RepeatedKey,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// If it is empty, longer than 255 bytes, or has a control character.
    pub fn parse(text: &str) -> Result<Reference, NoteError> {
        if text.is_empty() {
            return Err(NoteError::Empty);
        }
        check(text, REFERENCE_BYTES_MAX)?;
        Ok(Reference(text.into()))
    }
}

impl Deref for Reference {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Metadata {
    /// Takes the entries, in any order.
    ///
    /// # Errors
    /// If there are too many, a key comes twice, or a text is not allowed.
    pub fn new(mut entries: Vec<(Box<str>, Box<str>)>) -> Result<Metadata, NoteError> {
        if entries.len() > METADATA_ENTRIES_MAX {
            return Err(NoteError::TooManyEntries);
        }
        for (key, value) in &entries {
            Metadata::check_key(key)?;
            check(value, METADATA_VALUE_BYTES_MAX)?;
        }
        entries.sort();
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(NoteError::RepeatedKey);
        }
        Ok(Metadata(entries.into()))
    }

    /// Checks the key of an entry.
    ///
    /// # Errors
    /// If it is empty, too long, or has a control character.
    pub fn check_key(key: &str) -> Result<(), NoteError> {
        if key.is_empty() { Err(NoteError::Empty) } else { check(key, METADATA_KEY_BYTES_MAX) }
    }

    /// The entries, in order of their keys.
    pub fn entries(&self) -> &[(Box<str>, Box<str>)] {
        &self.0
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[place].1)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Note {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.reference.is_none() && self.metadata.is_empty()
    }
}

fn check(text: &str, bytes_max: usize) -> Result<(), NoteError> {
    if text.len() > bytes_max {
        return Err(NoteError::TooLong { bytes_max });
    }
    if text.chars().any(char::is_control) {
        return Err(NoteError::ControlCharacter);
    }
    Ok(())
}
