//! Account names, parsed once at the edge.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// The longest name, in bytes of UTF-8; the original service's column was as wide.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest name that stands in the value itself: then it is as large as one behind a pointer, 24 bytes.
const INLINE_BYTES_MAX: usize = 22;

/// The name of an account: 1 to 255 bytes of UTF-8 without control characters, compared byte for byte.
///
/// Most names are short. One that stands in the account itself takes nothing from the heap, 32 to 48 bytes less for
/// each of millions, and is compared without another look into memory.
#[derive(Clone)]
pub struct AccountName(Text);

#[derive(Clone)]
enum Text {
    Inline { length: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Boxed(Box<str>),
}

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
        // Of all bytes, without a way out between: they are looked at sixteen at a time then.
        let has_control = text.bytes().fold(false, |any, byte| any | byte.is_ascii_control());
        if has_control || (!text.is_ascii() && text.chars().any(char::is_control)) {
            return Err(NameError::ControlCharacter);
        }
        Ok(AccountName(if text.len() <= INLINE_BYTES_MAX {
            let mut bytes = [0; INLINE_BYTES_MAX];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            Text::Inline { length: text.len() as u8, bytes }
        } else {
            Text::Boxed(text.into())
        }))
    }

    /// The name's bytes. What only compares or hashes them needs no more.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Text::Boxed(text) => text.as_bytes(),
        }
    }
}

impl Deref for AccountName {
    type Target = str;
    fn deref(&self) -> &str {
        match &self.0 {
            Text::Inline { .. } => str::from_utf8(self.as_bytes()).expect("it was made of a text"),
            Text::Boxed(text) => text,
        }
    }
}

impl PartialEq for AccountName {
    fn eq(&self, other: &AccountName) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for AccountName {}

impl PartialOrd for AccountName {
    fn partial_cmp(&self, other: &AccountName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AccountName {
    fn cmp(&self, other: &AccountName) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As a `str` is hashed, which it can be looked up by.
impl Hash for AccountName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl Borrow<str> for AccountName {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
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
        // Around the longest that stands in the value itself.
        for text in
            ["x".repeat(22), "x".repeat(23), format!("{}é", "x".repeat(20)), format!("{}é", "x".repeat(21))]
        {
            assert_eq!(*AccountName::parse(&text).expect("valid"), *text);
        }
        assert_eq!(size_of::<AccountName>(), 24);
        for text in ["a\nb", "\0", "\u{7f}", "\u{85}"] {
            assert_eq!(AccountName::parse(text), Err(NameError::ControlCharacter));
        }
    }
}
