//! Account names, parsed once at the edge.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

/// The longest name, in bytes of UTF-8; the original service's column was as wide.
pub const NAME_BYTES_MAX: usize = 255;

/// The name of an account: 1 to 255 bytes of UTF-8 without control characters, compared byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(Box<str>);

impl AccountName {
    /// Reads a name.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<AccountName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(AccountName(text.into()))
    }
}

impl Deref for AccountName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for AccountName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is not an account name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("has {bytes} bytes of UTF-8; at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// A character of Unicode's category Cc, such as a line break.
    #[error("must not contain control characters")]
    ControlCharacter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_hold_at_their_edges() {
        assert!(AccountName::parse("a").is_ok());
        assert!(AccountName::parse("Kateřina Nováková / 1").is_ok());
        assert!(AccountName::parse(&"x".repeat(255)).is_ok());
        assert_eq!(AccountName::parse(""), Err(NameError::Empty));
        assert_eq!(AccountName::parse(&"x".repeat(256)), Err(NameError::TooLong { bytes: 256 }));
        assert_eq!(AccountName::parse(&"é".repeat(128)), Err(NameError::TooLong { bytes: 256 }));
        for text in ["a\nb", "\0", "\u{7f}", "\u{85}"] {
            assert_eq!(AccountName::parse(text), Err(NameError::ControlCharacter));
        }
    }
}
