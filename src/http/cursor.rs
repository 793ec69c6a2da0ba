//! Where a list goes on: opaque to clients, bound to one account and one order.
//!
//! ```text
//! byte  0       1, the format
//!       1       0 descending, 1 ascending
//!       2..18   the account's id
//!      18..26   the version at which the page starts, big endian
//!      26..30   CRC32C of the bytes before
//! ```
//!
//! The checksum tells a mangled cursor from a good one. It is no signature: a forged cursor reads what its
//! client may read anyway.

use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;

use crate::bank::Order;
use crate::ledger::{AccountId, AccountNumber, ShardId};

const FORMAT: u8 = 1;
const CURSOR_BYTES: usize = 30;
const CHECKED_BYTES: usize = 26;

/// The cursor of the page of `account` that starts at `version`.
pub(super) fn encode(account: AccountId, order: Order, version: u64) -> String {
    let mut bytes = [0; CURSOR_BYTES];
    bytes[0] = FORMAT;
    bytes[1] = order_byte(order);
    bytes[2..18].copy_from_slice(account.to_uuid().as_bytes());
    bytes[18..CHECKED_BYTES].copy_from_slice(&version.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
    bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The version that a cursor names.
///
/// # Errors
/// Says why it is not a cursor of this list.
pub(super) fn decode(text: &str, account: AccountId, order: Order) -> Result<u64, &'static str> {
    const MANGLED: &str = "is not one that a reply has given";
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| MANGLED)?;
    let bytes: [u8; CURSOR_BYTES] = bytes.try_into().map_err(|_| MANGLED)?;
    let (checked, checksum) = bytes.split_at(CHECKED_BYTES);
    if crc32c::crc32c(checked).to_be_bytes() != checksum || checked[0] != FORMAT {
        return Err(MANGLED);
    }
    if Uuid::from_slice(&checked[2..18]) != Ok(account.to_uuid()) {
        return Err("continues the list of another account");
    }
    if checked[1] != order_byte(order) {
        return Err("continues the list in the other order");
    }
    Ok(checked[18..].iter().fold(0, |version, &byte| version << 8 | u64::from(byte)))
}

/// The cursor of the page of all accounts that starts at a number of a shard:
///
/// ```text
/// byte 0      2, the format
///      1..3   the shard, big endian
///      3..7   the number, big endian
///      7..11  CRC32C of the bytes before
/// ```
pub(super) fn encode_list(shard: ShardId, number: AccountNumber) -> String {
    let mut bytes = [0; LIST_CURSOR_BYTES];
    bytes[0] = LIST_FORMAT;
    bytes[1..3].copy_from_slice(&(shard.index() as u16).to_be_bytes());
    bytes[3..LIST_CHECKED_BYTES].copy_from_slice(&number.get().to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..LIST_CHECKED_BYTES]);
    bytes[LIST_CHECKED_BYTES..].copy_from_slice(&checksum.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// Where a cursor of all accounts leads, if it is one.
pub(super) fn decode_list(text: &str) -> Option<(ShardId, AccountNumber)> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let bytes: [u8; LIST_CURSOR_BYTES] = bytes.try_into().ok()?;
    let (checked, checksum) = bytes.split_at(LIST_CHECKED_BYTES);
    if crc32c::crc32c(checked).to_be_bytes() != checksum || checked[0] != LIST_FORMAT {
        return None;
    }
    let shard = ShardId::new(usize::from(u16::from_be_bytes([checked[1], checked[2]])))?;
    let number = u32::from_be_bytes([checked[3], checked[4], checked[5], checked[6]]);
    Some((shard, AccountNumber::new(number)))
}

const LIST_FORMAT: u8 = 2;
const LIST_CURSOR_BYTES: usize = 11;
const LIST_CHECKED_BYTES: usize = 7;

fn order_byte(order: Order) -> u8 {
    match order {
        Order::Descending => 0,
        Order::Ascending => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Timestamp;

    #[test]
    fn a_cursor_continues_its_own_list_only() {
        let account = |number| AccountId {
            opened: Timestamp::from_millis(7),
            shard: ShardId::new(1).unwrap(),
            number: AccountNumber::new(number),
        };
        let cursor = encode(account(1), Order::Descending, u64::MAX - 1);
        assert_eq!(cursor.len(), 40);
        assert_eq!(decode(&cursor, account(1), Order::Descending), Ok(u64::MAX - 1));
        assert!(decode(&cursor, account(2), Order::Descending).is_err());
        assert!(decode(&cursor, account(1), Order::Ascending).is_err());
        for position in 0..cursor.len() {
            let mut mangled = cursor.clone().into_bytes();
            mangled[position] = if mangled[position] == b'A' { b'B' } else { b'A' };
            let mangled = String::from_utf8(mangled).unwrap();
            assert!(decode(&mangled, account(1), Order::Descending).is_err(), "{mangled}");
        }
        for garbage in ["", "x", "%", &cursor[..39], "====", &format!("{cursor}AAAA")] {
            assert!(decode(garbage, account(1), Order::Descending).is_err());
        }
    }
}
