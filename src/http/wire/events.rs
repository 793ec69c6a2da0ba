//! Events on the wire: pages of them, single ones in a stream, and the cursor between the two.
//!
//! ```text
//! byte  0       1, the format
//!       1..     how many shards there are, then the last event passed of each, LEB128
//!       last 4  CRC32C of the bytes before, big endian
//! ```
//!
//! in base64url. The checksum tells a mangled cursor from a good one; it is no signature, as a forged cursor reads
//! what its client may read anyway. With a few shards a cursor has some twenty characters. With 1,024, the most that there
//! are, it has 6,836 while none of them has more than 2^35 events, and then fits into a URI with every filter; what fits
//! whatever they have is 619 shards.

use std::fmt::{self, Display};
use std::io::Write as _;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::detail::TransactionDetail;
use super::links::PageLinks;
use super::schema::Schemas;
use super::write::{Text, Write, resource};
use crate::bank::events::{Happened, Position};
use crate::ledger::{SHARDS_MAX, Sequence, TransactionType};
use crate::storage::codec::{Reader, put_varint};

const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

resource! {
    /// Events, in the order in which they happened.
    pub(in crate::http) struct EventPage<'a> {
        /// How many events are on this page.
        count: u64,
        /// The events.
        items: Vec<TransactionDetail<'a>>,
        /// The cursor to go on from, also when there is nothing more yet.
        next: Text<'a>,
        /// Whether there may be more already. A page can have less than the limit, even nothing, and more behind it.
        more: bool,
        /// This page and the next.
        links as "_links": PageLinks,
    }
}

/// What stands in a stream, as OpenAPI describes it: a text.
pub(in crate::http) fn describe_stream(_: &mut Schemas) -> Value {
    json!({
        "type": "string",
        "description": "Server-sent events. Each has as `id` the cursor behind it, as `event` its type, and as `data` \
            what stands in `items` of a page.",
    })
}

/// A position, as its cursor.
#[derive(Clone, Copy)]
pub(in crate::http) struct Cursor<'a>(pub(in crate::http) &'a Position);

impl Display for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.0.passed();
        let mut bytes = Vec::with_capacity(3 + 4 * passed.len() + CHECKSUM_BYTES);
        bytes.push(FORMAT);
        put_varint(&mut bytes, passed.len() as u64);
        passed.iter().for_each(|sequence| put_varint(&mut bytes, sequence.get()));
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        f.write_str(&BASE64URL_NOPAD.encode(&bytes))
    }
}

/// The position of a cursor, if it is one.
pub(in crate::http) fn parse_cursor(text: &str) -> Option<Position> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let (checked, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    let mut reader = Reader::new(checked);
    if crc32c::crc32c(checked).to_be_bytes() != checksum || reader.byte().ok()? != FORMAT {
        return None;
    }
    let shards = usize::try_from(reader.varint().ok()?).ok().filter(|shards| *shards <= SHARDS_MAX)?;
    let passed = (0..shards).map(|_| Sequence::new(reader.varint().ok()?)).collect::<Option<_>>()?;
    reader.is_empty().then(|| Position::new(passed))
}

/// Writes an event as one of a stream.
pub(in crate::http) fn write_event(out: &mut Vec<u8>, happened: &Happened) {
    let kind = TransactionType::of(&happened.executed.decision.kind).map_or("", TransactionType::name);
    let began = write!(out, "id: {}\nevent: {kind}\ndata: ", Cursor(&happened.after));
    began.expect("memory takes what is written to it");
    // JSON as it is written here has no line breaks.
    TransactionDetail::event(&happened.executed).write(out);
    out.extend_from_slice(b"\n\n");
}

/// Writes where a reader is, which is not an event: the client hears nothing of it, but comes back with it.
pub(in crate::http) fn write_position(out: &mut Vec<u8>, position: &Position) {
    let written = write!(out, ": still here\nid: {}\n\n", Cursor(position));
    written.expect("memory takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(passed: &[u64]) -> Position {
        Position::new(passed.iter().map(|number| Sequence::new(*number).unwrap()).collect())
    }

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        for passed in [&[0][..], &[0, 0, 0], &[1, 300, 70_000_000_000, Sequence::MAX.get()]] {
            let position = position(passed);
            let text = Cursor(&position).to_string();
            assert_eq!(parse_cursor(&text), Some(position));
            for at in 0..text.len() {
                let mut mangled = text.clone().into_bytes();
                mangled[at] = if mangled[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(parse_cursor(&String::from_utf8(mangled).unwrap()), None);
                assert_eq!(parse_cursor(&text[..at]), None);
            }
            assert_eq!(parse_cursor(&format!("{text}AAAA")), None);
        }
        assert_eq!(Cursor(&position(&[1_000_000; 4])).to_string().len(), 24);
        // Well formed, but of no position.
        for bytes in [vec![2, 1, 0], vec![1, 1], vec![1, 1, 0, 0], vec![1, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            let checksum = crc32c::crc32c(&bytes).to_be_bytes();
            let text = BASE64URL_NOPAD.encode(&[&bytes[..], &checksum].concat());
            assert_eq!(parse_cursor(&text), None, "{bytes:?}");
        }
    }
}
