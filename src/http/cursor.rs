//! Where a list goes on: opaque to clients, bound to the one list that gave it.
//!
//! ```text
//! byte  0       2, the format
//!       1..17   the list: BLAKE3 of whatever makes it another list, such as account, order and filters
//!      17..25   the place at which the page starts, big endian; what it counts is the list's affair
//!      25..29   CRC32C of the bytes before
//! ```
//!
//! The checksum tells a mangled cursor from a good one. It is no signature: a forged cursor reads what its
//! client may read anyway.

use data_encoding::BASE64URL_NOPAD;

use super::problem::{Code, Place, Problem};

const FORMAT: u8 = 2;
const CURSOR_BYTES: usize = 29;
const CHECKED_BYTES: usize = 25;

/// How a cursor is written, as a regular expression.
pub(super) const CURSOR_PATTERN: &str = "^[A-Za-z0-9_-]{39}$";

/// What the hash of a list is keyed with, so that it is no other hash.
const LIST_DOMAIN: &[u8; 32] = b"teller cursor of a list        1";

/// A list that cursors belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListDigest([u8; 16]);

impl ListDigest {
    /// The list of which these parts, in this order, say which it is. They cannot run into one another.
    pub(super) fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> ListDigest {
        let mut hasher = blake3::Hasher::new_keyed(LIST_DOMAIN);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ListDigest(digest)
    }
}

/// The cursor of the page of a list that starts at a place.
pub(super) fn encode(list: ListDigest, place: u64) -> String {
    let mut bytes = [0; CURSOR_BYTES];
    bytes[0] = FORMAT;
    bytes[1..17].copy_from_slice(&list.0);
    bytes[17..CHECKED_BYTES].copy_from_slice(&place.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
    bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The place in a list that a cursor names.
///
/// # Errors
/// If it is not a cursor of this list.
pub(super) fn decode(text: &str, list: ListDigest) -> Result<u64, Problem> {
    place(text, list)
        .map_err(|detail| Problem::at(Code::InvalidCursor, Place::Parameter("cursor".into()), detail))
}

fn place(text: &str, list: ListDigest) -> Result<u64, &'static str> {
    const MANGLED: &str = "is not one that a reply has given";
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| MANGLED)?;
    let bytes: [u8; CURSOR_BYTES] = bytes.try_into().map_err(|_| MANGLED)?;
    let (checked, checksum) = bytes.split_at(CHECKED_BYTES);
    if crc32c::crc32c(checked).to_be_bytes() != checksum || checked[0] != FORMAT {
        return Err(MANGLED);
    }
    if checked[1..17] != list.0 {
        return Err(
            "continues another list: one of another account, in another order, or with other filters",
        );
    }
    Ok(checked[17..].iter().fold(0, |place, &byte| place << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_continues_its_own_list_only() {
        let list = ListDigest::of(["account", "desc"]);
        let cursor = encode(list, u64::MAX - 1);
        assert_eq!(cursor.len(), 39);
        assert_eq!(place(&cursor, list), Ok(u64::MAX - 1));
        for other in [&["account", "asc"][..], &["account"], &["accountdesc"], &["account", "desc", ""]] {
            assert!(place(&cursor, ListDigest::of(other.iter().copied())).is_err());
        }
        for position in 0..cursor.len() {
            let mut mangled = cursor.clone().into_bytes();
            mangled[position] = if mangled[position] == b'A' { b'B' } else { b'A' };
            let mangled = String::from_utf8(mangled).unwrap();
            assert!(place(&mangled, list).is_err(), "{mangled}");
        }
        for garbage in ["", "x", "%", &cursor[..38], "====", &format!("{cursor}AAAA")] {
            assert!(place(garbage, list).is_err());
        }
    }
}
