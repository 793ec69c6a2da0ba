//! The currencies that an account can have, and how many decimals each has.
//!
//! They are all of ISO 4217 "List one" (current currency and funds codes, by SIX, the maintenance agency) in the
//! edition published on 2026-01-01 that have a minor unit. Left out are those for which the list gives none:
//! metals, bond market units, the units of account of international institutions, `XTS` and `XXX`.
//!
//! The table only ever grows. Ledgers on disk hold its codes, and their amounts are counts of minor units: a code
//! that ISO retires stays, and a scale that ISO changes is not changed here, because either would turn a ledger
//! into another one, or into one that does not open.

use std::fmt;

/// A currency of ISO 4217 that has a minor unit. Ordered by code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    // Kept beside the code, so that reading or printing an amount looks nothing up.
    scale: u8,
}

impl Currency {
    /// All currencies, by code.
    pub const ALL: &'static [Currency] = &TABLE;

    /// The largest scale of all: no amount of any currency has more decimals.
    pub const SCALE_MAX: u8 = 4;

    /// The United States dollar.
    pub const USD: Currency = Currency::with_code(*b"USD");

    /// The currency with this alphabetic code, three capital letters, if the ledger knows it.
    pub fn from_code(code: &[u8]) -> Option<Currency> {
        let code: [u8; 3] = code.try_into().ok()?;
        let place = PLACES.get(place_of(code)?).copied().filter(|place| *place != NO_PLACE)?;
        Some(TABLE[usize::from(place)])
    }

    /// The alphabetic code, three capital letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("a code is three capital letters")
    }

    /// The code as bytes, for what only writes them down.
    pub const fn code_bytes(&self) -> [u8; 3] {
        self.code
    }

    /// How many decimals an amount has: how often 10 divides the major unit into the minor one. At most
    /// [`Currency::SCALE_MAX`].
    pub const fn scale(self) -> u8 {
        self.scale
    }

    const fn with_code(code: [u8; 3]) -> Currency {
        let scale = match &code {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF"
            | b"UGX" | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            b"CLF" | b"UYW" => 4,
            _ => 2,
        };
        Currency { code, scale }
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The codes of all currencies, by the alphabet.
const CODES: &[u8] = b"\
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD \
    CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP \
    GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR \
    KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN \
    MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD \
    SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX \
    USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

/// How far apart two codes start: three letters and a space.
const CODE_STRIDE: usize = 4;

static TABLE: [Currency; CODES.len().div_ceil(CODE_STRIDE)] = {
    let mut table = [Currency::USD; CODES.len().div_ceil(CODE_STRIDE)];
    let mut index = 0;
    while index < table.len() {
        let start = index * CODE_STRIDE;
        table[index] = Currency::with_code([CODES[start], CODES[start + 1], CODES[start + 2]]);
        index += 1;
    }
    table
};

/// Where in [`TABLE`] each combination of three letters is: 17 KiB instead of a search, which was an eighth of loading
/// a snapshot.
static PLACES: [u8; LETTERS * LETTERS * LETTERS] = {
    let mut places = [NO_PLACE; LETTERS * LETTERS * LETTERS];
    let mut index = 0;
    while index < TABLE.len() {
        if let Some(place) = place_of(TABLE[index].code) {
            places[place] = index as u8;
        }
        index += 1;
    }
    places
};

const LETTERS: usize = 26;
const NO_PLACE: u8 = u8::MAX;
const _: () = assert!(TABLE.len() < NO_PLACE as usize);

const fn place_of(code: [u8; 3]) -> Option<usize> {
    if !(code[0].is_ascii_uppercase() && code[1].is_ascii_uppercase() && code[2].is_ascii_uppercase()) {
        return None;
    }
    let [first, second, third] = [code[0] - b'A', code[1] - b'A', code[2] - b'A'];
    Some((first as usize * LETTERS + second as usize) * LETTERS + third as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The story this would tell: a currency taken out of the table, or given another scale, and a ledger that
    /// no longer opens, or whose every balance is ten times what it was. Adding currencies changes the count only.
    #[test]
    fn the_table_is_the_list_of_2026() {
        assert_eq!(Currency::ALL.len(), 165);
        let of_scale = |scale: u8| {
            let codes = Currency::ALL.iter().filter(|currency| currency.scale() == scale).map(Currency::code);
            codes.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of_scale(0), "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF");
        assert_eq!(of_scale(1), "");
        assert_eq!(of_scale(3), "BHD IQD JOD KWD LYD OMR TND");
        assert_eq!(of_scale(4), "CLF UYW");
        assert!(Currency::ALL.iter().all(|currency| currency.scale() <= Currency::SCALE_MAX));
    }

    #[test]
    fn codes_are_in_order_and_each_finds_its_currency() {
        assert!(Currency::ALL.is_sorted_by(|before, after| before < after));
        for currency in Currency::ALL {
            let code = currency.code();
            assert!(code.len() == 3 && code.bytes().all(|letter| letter.is_ascii_uppercase()), "{code}");
            assert_eq!(Currency::from_code(code.as_bytes()), Some(*currency), "{code}");
        }
        assert_eq!(Currency::from_code(b"USD"), Some(Currency::USD));
    }

    #[test]
    fn what_is_no_code_of_a_currency_with_a_minor_unit_is_refused() {
        for code in ["", "US", "USDX", "usd", "Usd", " USD", "US ", "AAA", "ZZZ", "XAU", "XDR", "XTS", "XXX"]
        {
            assert_eq!(Currency::from_code(code.as_bytes()), None, "{code:?}");
        }
        assert_eq!(Currency::from_code(b"\xff\xff\xff"), None);
    }
}
