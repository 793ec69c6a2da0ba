//! The text of paths and queries: percent-encoding, undone once and done right.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Decodes a segment of a path.
///
/// # Errors
/// If a percent sign is not followed by two hexadecimal digits, or the bytes are not UTF-8.
pub(super) fn decode(encoded: &str) -> Result<Cow<'_, str>, &'static str> {
    // Segments are short: a loop over the bytes is done before a search for longer texts is ready to begin.
    if encoded.bytes().all(|byte| byte != b'%') {
        return Ok(Cow::Borrowed(encoded));
    }
    let mut rest = encoded.as_bytes();
    while let Some(percent) = rest.iter().position(|&byte| byte == b'%') {
        let digits = rest.get(percent + 1..percent + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err("has a % without two hexadecimal digits after it");
        }
        rest = &rest[percent + 3..];
    }
    percent_decode_str(encoded).decode_utf8().map_err(|_| "is not UTF-8 once it is decoded")
}

/// Decodes a part of a query. There a + is a space, as forms have it (WHATWG URL, 5.1): so curl (`-G --data-urlencode`),
/// browsers and most libraries write one, and what was asked for with a + of its own is not found by that.
///
/// # Errors
/// As [`decode`] has them.
pub(super) fn decode_query(encoded: &str) -> Result<Cow<'_, str>, &'static str> {
    if !encoded.contains('+') {
        return decode(encoded);
    }
    decode(&encoded.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
}

/// Encodes a text as a segment of a path. Only what RFC 3986 calls unreserved stays as it is.
///
/// But for `.` and `..`, which clients would resolve away: there the dots are encoded too.
pub(super) fn encode(text: &str) -> impl std::fmt::Display + '_ {
    const DOTS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');
    const RESERVED: &AsciiSet = &DOTS.remove(b'.');
    utf8_percent_encode(text, if matches!(text, "." | "..") { DOTS } else { RESERVED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_happens_once_and_strictly() {
        assert_eq!(decode("a%2Fb%20c").unwrap(), "a/b c");
        assert_eq!(decode("%2541").unwrap(), "%41");
        assert_eq!(decode("a+b").unwrap(), "a+b");
        assert_eq!(decode_query("a+b%2Bc%20d").unwrap(), "a b+c d");
        assert_eq!(decode("Kate%C5%99ina").unwrap(), "Kateřina");
        for bad in ["%", "%4", "%zz", "a%", "%%41", "%4g", "%ff", "%c5", "%ed%a0%80"] {
            assert!(decode(bad).is_err() && decode_query(&format!("+{bad}")).is_err(), "{bad}");
        }
        for name in ["a/b c", "%41", "Kateřina", "..", "a+b?#"] {
            assert_eq!(decode(&encode(name).to_string()).unwrap(), name);
        }
    }
}
