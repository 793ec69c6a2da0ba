//! The primitives of everything on disk: little-endian integers, LEB128 varints, length-prefixed bytes.
//!
//! A varint has one spelling: a reader refuses padding zeros, so equal values have equal bytes.

/// Bytes that cannot be what they should be, and where among the bytes given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Malformed {
    /// The offset of the first byte that is wrong.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

/// Appends `value` as a varint: 7 bits a byte, low ones first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value as a varint, its sign in the lowest bit.
pub fn put_signed(out: &mut Vec<u8>, value: i128) {
    let mut value = ((value << 1) ^ (value >> 127)) as u128;
    while value > u128::from(u64::MAX) {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    // What is left fits a register, as nearly every value does from the start.
    put_varint(out, value as u64);
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, offset: 0 }
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.offset == self.bytes.len()
    }

    /// An error at the current offset.
    // Out of line, as all that makes errors is: what reads a field is then short enough to become part of its caller.
    #[cold]
    #[inline(never)]
    pub fn malformed(&self, what: impl Into<String>) -> Malformed {
        Malformed { offset: self.offset, what: what.into() }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    #[inline(always)]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes[self.offset..].get(..count) {
            Some(taken) => {
                self.offset += count;
                Ok(taken)
            }
            None => Err(self.missing(count)),
        }
    }

    #[cold]
    fn missing(&self, count: usize) -> Malformed {
        let left = self.bytes.len() - self.offset;
        self.malformed(format!("{count} bytes are missing, {left} are left"))
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    #[inline(always)]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// If there is none.
    #[inline(always)]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A varint.
    ///
    /// # Errors
    /// If it is cut short, longer than its value needs, or past 64 bits.
    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.varint_narrow() {
            Some(value) => Ok(value),
            None => self.varint_slowly(),
        }
    }

    /// A signed varint.
    ///
    /// # Errors
    /// If it is cut short, longer than its value needs, or past 128 bits.
    #[inline(always)]
    pub fn signed(&mut self) -> Result<i128, Malformed> {
        match self.varint_narrow() {
            Some(value) => Ok(i128::from((value >> 1) as i64 ^ -((value & 1) as i64))),
            None => self.varint_widest().map(|value| (value >> 1) as i128 ^ -((value & 1) as i128)),
        }
    }

    /// Bytes behind their length.
    ///
    /// # Errors
    /// If fewer are left than the length says.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let at = self.clone();
        let length = usize::try_from(self.varint()?).map_err(|_| at.malformed("a length is out of range"))?;
        self.take(length)
    }

    /// Text behind its length.
    ///
    /// # Errors
    /// If it is cut short or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let at = self.clone();
        std::str::from_utf8(self.bytes()?).map_err(|_| at.malformed("a text is not UTF-8"))
    }

    /// A varint of at most nine bytes, 63 bits: almost every number there is; a third of a replay is reading numbers.
    /// `None` for longer ones, and where something is wrong.
    #[inline(always)]
    fn varint_narrow(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (index, &byte) in self.bytes[self.offset..].iter().take(9).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if byte == 0 && index > 0 {
                    return None;
                }
                self.offset += index + 1;
                return Some(value);
            }
        }
        None
    }

    #[cold]
    fn varint_slowly(&mut self) -> Result<u64, Malformed> {
        let at = self.clone();
        u64::try_from(self.varint_widest()?).map_err(|_| at.malformed("a number has more than 64 bits"))
    }

    #[cold]
    fn varint_widest(&mut self) -> Result<u128, Malformed> {
        let at = self.clone();
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(at.malformed("a number is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(at.malformed("a number has more than 128 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_at_every_width() {
        for shift in 0..128 {
            for value in [1i128 << shift, (1i128 << shift).wrapping_sub(1), (1i128 << shift).wrapping_neg()] {
                let mut out = Vec::new();
                put_signed(&mut out, value);
                assert!(Reader::new(&out[..out.len() - 1]).signed().is_err());
                let length = out.len();
                for behind in [&[][..], &[0; 8], &[0xff; 8]] {
                    out.truncate(length);
                    out.extend_from_slice(behind);
                    let mut reader = Reader::new(&out);
                    assert_eq!(reader.signed(), Ok(value));
                    assert_eq!(reader.offset(), length);
                }
            }
        }
        for shift in 0..64 {
            for value in [1 << shift, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(Reader::new(&out).varint(), Ok(value));
                out.extend_from_slice(&[0x80; 8]);
                assert_eq!(Reader::new(&out).varint(), Ok(value));
            }
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        for length in 1..9 {
            let mut padded = vec![0x81; length];
            padded.push(0);
            assert!(Reader::new(&padded).varint().is_err(), "{length} bytes and a zero");
            padded.extend_from_slice(&[0; 8]);
            let mut reader = Reader::new(&padded);
            let error = reader.varint().expect_err("others behind it");
            assert_eq!(error, Malformed { offset: 0, what: "a number is longer than it needs to be".into() });
        }
        assert!(Reader::new(&[0xff; 19]).signed().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03]).varint().is_err());
        assert!(Reader::new(&[5, b'a']).bytes().is_err());
        assert!(Reader::new(&[1, 0xff]).text().is_err());
    }
}
