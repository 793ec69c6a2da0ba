//! Reading replies: as much of HTTP/1.1 and of Redis's protocol as the load meets, and strictly.
//!
//! What always holds: nothing is guessed. A reply that does not say how long it is, that says it twice, or that has
//! another form than a server's reply to this load has, is malformed; the caller counts it and gives the connection
//! up. Nothing here allocates, and no length is believed beyond what a number holds.

/// The longest head of a reply, in bytes: several times what teller sends.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How the two sides talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// RESP, Redis's own. An integer counts as status 200, an error as 500: the load asks for nothing else.
    Redis,
}

/// The begin of a reply, up to its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The status.
    pub(super) status: u16,
    /// The bytes up to the body.
    pub(super) bytes: usize,
    /// The bytes of the body.
    pub(super) body_bytes: usize,
}

/// Bytes that are no reply to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Protocol {
    /// Reads the head at the begin of `bytes`; `None` if it has not come whole.
    pub(super) fn head(self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let head = match self {
            Protocol::Http => http(bytes)?,
            Protocol::Redis => redis(bytes)?,
        };
        match head {
            None if bytes.len() >= HEAD_BYTES_MAX => Err(Malformed),
            head => Ok(head),
        }
    }
}

fn http(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    const VERSION: &[u8] = b"HTTP/1.1 ";
    let Some((line, mut at)) = line(bytes, 0)? else { return Ok(None) };
    let rest = line.strip_prefix(VERSION).ok_or(Malformed)?;
    let &[a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', ref reason @ ..] = rest else {
        return Err(Malformed);
    };
    if !matches!(reason, [] | [b' ', ..]) {
        return Err(Malformed);
    }
    let status = [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let mut body_bytes = None;
    loop {
        let Some((field, next)) = self::line(bytes, at)? else { return Ok(None) };
        at = next;
        if field.is_empty() {
            break;
        }
        let colon = field.iter().position(|&byte| byte == b':').ok_or(Malformed)?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        // The length of the name tells almost all others apart.
        let is_malformed = match name.len() {
            0 => true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                body_bytes.replace(length(value)?).is_some()
            }
            17 => name.eq_ignore_ascii_case(b"transfer-encoding"),
            10 => name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close"),
            _ => false,
        };
        if is_malformed {
            return Err(Malformed);
        }
    }
    let body_bytes = match (status, body_bytes) {
        (204 | 304, None) => 0,
        (204 | 304, Some(_)) | (_, None) => return Err(Malformed),
        (_, Some(bytes)) => bytes,
    };
    Ok(Some(Head { status, bytes: at, body_bytes }))
}

fn redis(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some((line, next)) = line(bytes, 0)? else { return Ok(None) };
    let status = match line {
        [b':', digits @ ..] => {
            length(digits.strip_prefix(b"-").unwrap_or(digits))?;
            200
        }
        [b'-', _, ..] => 500,
        _ => return Err(Malformed),
    };
    Ok(Some(Head { status, bytes: next, body_bytes: 0 }))
}

/// The line at a place, without its end, and where the next one begins. Only CR LF ends a line.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    let line = rest[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    Ok(Some((line, at + end + 1)))
}

fn length(digits: &[u8]) -> Result<usize, Malformed> {
    if digits.is_empty() {
        return Err(Malformed);
    }
    digits.iter().try_fold(0_usize, |length, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10).ok_or(Malformed)?;
        length.checked_mul(10).and_then(|length| length.checked_add(usize::from(digit))).ok_or(Malformed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_reply_is_read_as_soon_as_its_head_is_there() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length:  12 \r\nx-a: b: c\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(Protocol::Http.head(&text[..end]), Ok(None), "{end}");
        }
        let head = Head { status: 201, bytes: text.len(), body_bytes: 12 };
        assert_eq!(Protocol::Http.head(text), Ok(Some(head)));
        assert_eq!(Protocol::Http.head(&[&text[..], b"{\"a\": \"b\"}\r\n"].concat()), Ok(Some(head)));
        for (text, status, body_bytes) in [
            ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, 0),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, 0),
            (
                "HTTP/1.1 503 \r\nCONTENT-LENGTH:18446744073709551615\r\nconnection: keep-alive\r\n\r\n",
                503,
                usize::MAX,
            ),
        ] {
            let head = Head { status, bytes: text.len(), body_bytes };
            assert_eq!(Protocol::Http.head(text.as_bytes()), Ok(Some(head)), "{text:?}");
        }
        let head = |status, bytes| Ok(Some(Head { status, bytes, body_bytes: 0 }));
        assert_eq!(Protocol::Redis.head(b":-12\r\nx"), head(200, 6));
        assert_eq!(Protocol::Redis.head(b"-ERR no\r\n"), head(500, 9));
        assert_eq!(Protocol::Redis.head(b":12\r"), Ok(None));
    }

    #[test]
    fn hostile_replies_are_malformed() {
        for text in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\ncontent-length: 0\n\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
            "\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(Protocol::Http.head(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        assert_eq!(Protocol::Http.head(&[b'x'; HEAD_BYTES_MAX]), Err(Malformed));
        for text in ["+OK\r\n", "$3\r\nabc\r\n", ":\r\n", ":-\r\n", ":1x\r\n", "-\r\n", ":1\n", "\r\n"] {
            assert_eq!(Protocol::Redis.head(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }

    /// A reply with a few bytes changed is read or refused, never worse, and never as longer than it is.
    #[test]
    fn damaged_replies_are_read_or_refused() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let mut damaged = text.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(damaged.len() as u64) as usize;
                damaged[at] = random.number() as u8;
            }
            damaged.truncate(random.below(damaged.len() as u64 + 1) as usize);
            for protocol in [Protocol::Http, Protocol::Redis] {
                if let Ok(Some(head)) = protocol.head(&damaged) {
                    assert!(head.bytes <= damaged.len());
                }
            }
        }
    }
}
