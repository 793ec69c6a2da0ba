//! Reads the file of an import and checks all of it, so that nothing is sent of a file that is wrong anywhere.
//!
//! What always holds:
//!
//! - an error names the line and what is wrong there; the first one ends the reading;
//! - columns are found by their names, in any order; those that nothing was read of are told, since a misspelt name of one
//!   that may be missing would else go unseen;
//! - amounts are read as decimals, never through a float, and refused if the currency has fewer, where the file tells it;
//! - each transaction has a digest of its account and its id in the file, which two of them never share.
//!
//! Left out: files that do not fit into memory; see [`FILE_BYTES_MAX`].

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use csv::{ErrorKind, Position, StringRecord};

use super::beginning;
use crate::ledger::{AccountName, Currency, Direction, ExcessDecimals, Quantity, Reference};

/// The largest file, in bytes. While it is read it takes 1.5 to 7 times as much memory: the shorter its lines, the more.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How many of a file's columns are shown where one is missing.
const COLUMNS_SHOWN_MAX: usize = 20;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transactions {
    /// In the order in which the file comes to them.
    pub(super) accounts: Vec<Account>,
    /// In the file's order.
    pub(super) rows: Vec<Row>,
    /// The columns that nothing was read of, the beginnings of their names.
    pub(super) unused_columns: Vec<String>,
}

/// An account that the file names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: AccountName,
    /// Its currency, if the file says it.
    pub(super) currency: Option<Currency>,
    /// The line of its first transaction.
    pub(super) line: u64,
    /// How many transactions it has; at least one.
    pub(super) rows: u64,
}

/// One transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Where it stands; the line of the names is 1.
    pub(super) line: u64,
    /// Its account's place among all accounts.
    pub(super) account: usize,
    /// What tells it from all other transactions.
    pub(super) digest: Digest,
    pub(super) direction: Direction,
    /// More than zero, with no more decimals than the account's currency has if that is known.
    pub(super) amount: Quantity,
    pub(super) reference: Option<Reference>,
}

/// A digest of an account's name and an id in it. In place of the texts, because they are of any length; as wide as the
/// digest of a key that the server remembers.
pub(super) type Digest = [u8; 16];

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The system refused.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Too much of it.
    #[error("has more than {bytes_max} bytes: split it, keeping each account's transactions in one order")]
    TooLarge { bytes_max: u64 },
    /// The first line does not name the columns.
    #[error("line 1: {0}")]
    Header(String),
    /// A line is not a transaction.
    #[error("line {line}: {what}")]
    Line { line: u64, what: String },
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Transactions, FileError> {
    parse(File::open(path)?, FILE_BYTES_MAX)
}

fn parse(source: impl Read, bytes_max: u64) -> Result<Transactions, FileError> {
    // One byte more than allowed tells a file that is too large from one that just fits.
    let mut reader = csv::Reader::from_reader(Watch::new(source.take(bytes_max + 1)));
    let header = reader.headers().cloned();
    check(&reader, bytes_max)?;
    let header = header.map_err(|error| csv_error(error, |_| 1))?;
    let columns = Columns::find(&header)?;
    let mut builder = Builder::default();
    builder.read.unused_columns = columns.unused(&header);
    let mut record = StringRecord::new();
    loop {
        let more = reader.read_record(&mut record);
        check(&reader, bytes_max)?;
        let lines = reader.get_mut();
        if !more.map_err(|error| csv_error(error, |position| lines.line_at(position)))? {
            return Ok(builder.read);
        }
        let line = lines.line_at(record.position());
        builder.add(line, &columns, &record).map_err(|what| FileError::Line { line, what })?;
    }
}

/// Refuses what the parser lets through, as far as it has read.
fn check<R: Read>(reader: &csv::Reader<Watch<R>>, bytes_max: u64) -> Result<(), FileError> {
    let byte = reader.position().byte();
    if byte > bytes_max {
        return Err(FileError::TooLarge { bytes_max });
    }
    match &reader.get_ref().wrong_quote {
        Some((quote, what)) if quote.byte < byte => {
            Err(FileError::Line { line: quote.line, what: (*what).to_owned() })
        }
        _ => Ok(()),
    }
}

fn csv_error(error: csv::Error, line_at: impl FnOnce(Option<&Position>) -> u64) -> FileError {
    let line = line_at(error.position());
    let what = match error.into_kind() {
        ErrorKind::Io(error) => return FileError::Io(error),
        ErrorKind::Utf8 { err, .. } => format!("column {} is not UTF-8", err.field() + 1),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} columns where the first line names {expected_len}")
        }
        other => format!("is not CSV: {other:?}"),
    };
    FileError::Line { line, what }
}

/// Passes bytes through and notes where lines start that are not empty, and the first quote that is wrong.
///
/// The parser's own line numbers are of the place where it began to look for a record: they are too small
/// after `\r\n` and after empty lines. And it refuses no quote: one that is never closed makes all lines behind it
/// one field, whose transactions would be missing without a word.
struct Watch<R> {
    inner: R,
    byte: u64,
    line: u64,
    in_line: bool,
    /// A line ends with `\r`, `\n`, or both in this order, as the parser has it.
    behind_return: bool,
    /// Byte and line of the starts that lie ahead of the last record that was asked for.
    starts: VecDeque<(u64, u64)>,
    place: Place,
    wrong_quote: Option<(Quote, &'static str)>,
}

/// Where in a record the next byte stands, as the parser takes it.
#[derive(Clone, Copy)]
enum Place {
    FieldStart,
    Unquoted,
    Quoted(Quote),
    /// Behind a quote in a quoted field: the first of two, or the closing one.
    BehindQuote(Quote),
}

/// A quote that opens a field.
#[derive(Clone, Copy)]
struct Quote {
    byte: u64,
    line: u64,
}

/// What the parser passes over where a file begins with it.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl<R> Watch<R> {
    fn new(inner: R) -> Watch<R> {
        Watch {
            inner,
            byte: 0,
            line: 1,
            in_line: false,
            behind_return: false,
            starts: VecDeque::new(),
            place: Place::FieldStart,
            wrong_quote: None,
        }
    }

    /// The line of the record that the parser found from this position on.
    fn line_at(&mut self, position: Option<&Position>) -> u64 {
        let byte = position.map_or(0, Position::byte);
        while self.starts.pop_front_if(|(start, _)| *start < byte).is_some() {}
        self.starts.front().map_or(self.line, |(_, line)| *line)
    }

    /// Where the byte behind this one stands.
    fn behind(&mut self, byte: u8) -> Place {
        match (self.place, byte) {
            (Place::FieldStart, b'"') => Place::Quoted(Quote { byte: self.byte, line: self.line }),
            (Place::Quoted(quote), b'"') => Place::BehindQuote(quote),
            (Place::Quoted(quote), _) | (Place::BehindQuote(quote), b'"') => Place::Quoted(quote),
            (_, b',' | b'\r' | b'\n') => Place::FieldStart,
            (Place::FieldStart, _) if self.is_byte_order_mark(byte) => Place::FieldStart,
            (Place::FieldStart | Place::Unquoted, _) => Place::Unquoted,
            (Place::BehindQuote(quote), _) => {
                self.refuse(
                    quote,
                    "a quote that is opened here is closed before the end of its column: a quote within a column is \
                     written twice",
                );
                Place::Unquoted
            }
        }
    }

    fn is_byte_order_mark(&self, byte: u8) -> bool {
        usize::try_from(self.byte).is_ok_and(|at| BYTE_ORDER_MARK.get(at) == Some(&byte))
    }

    fn refuse(&mut self, quote: Quote, what: &'static str) {
        self.wrong_quote.get_or_insert((quote, what));
    }
}

impl<R: Read> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Place::Quoted(quote) = self.place
            && count == 0
            && !buffer.is_empty()
        {
            self.refuse(quote, "a quote that is opened here is never closed");
        }
        for &byte in &buffer[..count] {
            self.place = self.behind(byte);
            let of_one_end = byte == b'\n' && self.behind_return;
            self.behind_return = byte == b'\r';
            match byte {
                b'\n' | b'\r' => {
                    self.line += u64::from(!of_one_end);
                    self.in_line = false;
                }
                _ if !self.in_line => {
                    self.in_line = true;
                    self.starts.push_back((self.byte, self.line));
                }
                _ => {}
            }
            self.byte += 1;
        }
        Ok(count)
    }
}

/// Where the columns are.
struct Columns {
    id: usize,
    account: usize,
    kind: usize,
    amount: usize,
    currency: Option<usize>,
    reference: Option<usize>,
}

impl Columns {
    fn find(header: &StringRecord) -> Result<Columns, FileError> {
        let find = |name: &str| {
            let mut found = header.iter().enumerate().filter(|(_, column)| *column == name);
            match (found.next(), found.next()) {
                (Some(_), Some(_)) => Err(FileError::Header(format!("the column {name:?} is there twice"))),
                (found, _) => Ok(found.map(|(index, _)| index)),
            }
        };
        let need = |name: &str| {
            find(name)?.ok_or_else(|| {
                let there: Vec<&str> = header.iter().map(beginning).take(COLUMNS_SHOWN_MAX).collect();
                FileError::Header(format!(
                    "there is no column {name:?} in {there:?}; the columns id, account, type and amount are needed"
                ))
            })
        };
        Ok(Columns {
            id: need("id")?,
            account: need("account")?,
            kind: need("type")?,
            amount: need("amount")?,
            currency: find("currency")?,
            reference: find("reference")?,
        })
    }

    /// The names of all other columns.
    fn unused(&self, header: &StringRecord) -> Vec<String> {
        let needed = [self.id, self.account, self.kind, self.amount].map(Some);
        let used =
            |index| needed.contains(&Some(index)) || [self.currency, self.reference].contains(&Some(index));
        let unused = header.iter().enumerate().filter(|(index, _)| !used(*index));
        unused.map(|(_, name)| beginning(name).to_owned()).collect()
    }
}

/// Collects the checked lines.
#[derive(Default)]
struct Builder {
    read: Transactions,
    of_account: HashMap<AccountName, usize>,
    /// The line of each transaction.
    lines: HashMap<Digest, u64>,
}

impl Builder {
    fn add(&mut self, line: u64, columns: &Columns, record: &StringRecord) -> Result<(), String> {
        let field = |index: usize| record.get(index).unwrap_or_default();
        let optional = |index: Option<usize>| index.map(field).filter(|text| !text.is_empty());
        let id = field(columns.id);
        if id.is_empty() {
            return Err("the id is empty".to_owned());
        }
        let name = field(columns.account);
        let name =
            AccountName::parse(name).map_err(|error| format!("the account {:?} {error}", beginning(name)))?;
        let digest = digest(&name, id);
        match self.lines.entry(digest) {
            Entry::Occupied(first) => {
                return Err(format!(
                    "the account {name:?} has the id {:?} on line {} already",
                    beginning(id),
                    first.get()
                ));
            }
            Entry::Vacant(free) => free.insert(line),
        };
        let direction = match field(columns.kind) {
            "deposit" => Direction::Deposit,
            "withdrawal" => Direction::Withdrawal,
            other => {
                let other = beginning(other);
                return Err(format!("the type {other:?} is neither \"deposit\" nor \"withdrawal\""));
            }
        };
        let code = optional(columns.currency);
        let currency = code
            .map(|code| {
                let currency = Currency::from_code(code.as_bytes());
                currency.ok_or_else(|| {
                    format!("the currency {:?} is no code of ISO 4217 such as \"USD\"", beginning(code))
                })
            })
            .transpose()?;
        let amount = Builder::amount(field(columns.amount), currency)?;
        let reference = optional(columns.reference)
            .map(|text| {
                Reference::parse(text).map_err(|error| format!("the reference {:?} {error}", beginning(text)))
            })
            .transpose()?;
        let account = self.account(name, currency, line)?;
        self.read.rows.push(Row { line, account, digest, direction, amount, reference });
        Ok(())
    }

    fn amount(text: &str, currency: Option<Currency>) -> Result<Quantity, String> {
        let shown = beginning(text);
        let wrong = |error| format!("the amount {shown:?} {error}");
        let amount = Quantity::parse(text, ExcessDecimals::Refuse).map_err(wrong)?;
        if let Some(currency) = currency {
            amount.to_amount(currency).map_err(wrong)?;
        }
        if !amount.is_positive() {
            return Err(format!("the amount {shown:?} is not more than 0"));
        }
        Ok(amount)
    }

    /// The place of an account that has a transaction on this line.
    fn account(&mut self, name: AccountName, currency: Option<Currency>, line: u64) -> Result<usize, String> {
        match self.of_account.get(&name) {
            Some(&place) => {
                let account = &mut self.read.accounts[place];
                if account.currency != currency {
                    let told = |currency: Option<Currency>| {
                        currency.map_or("no currency".to_owned(), |currency| currency.to_string())
                    };
                    return Err(format!(
                        "the account {name:?} is in {} here, in {} on line {}",
                        told(currency),
                        told(account.currency),
                        account.line
                    ));
                }
                account.rows += 1;
                Ok(place)
            }
            None => {
                let place = self.read.accounts.len();
                self.of_account.insert(name.clone(), place);
                self.read.accounts.push(Account { name, currency, line, rows: 1 });
                Ok(place)
            }
        }
    }
}

/// The digest of a transaction. Keys are made from it: another digest would play a file twice.
pub(super) fn digest(account: &AccountName, id: &str) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(account.len() as u64).to_le_bytes()).update(account.as_bytes()).update(id.as_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Transactions, String> {
        parse(text, 4096).map_err(|error| error.to_string())
    }

    #[test]
    fn columns_are_found_by_name_and_the_order_stays() {
        let read_file = read(
            b"\xEF\xBB\xBFdate,amount,type,account,id\r\n\
              x,1.00,deposit,alice,1\r\n\
              x,2,deposit,\"Bob, \"\"B\"\"\",2\r\n\
              \r\n\
              x,0.50,withdrawal,\"Bob, \"\"B\"\"\",3\r\n",
        )
        .expect("valid");
        let rows = read_file
            .rows
            .iter()
            .map(|row| (row.line, row.account, row.direction, row.amount.text(2).to_string()));
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [
                (2, 0, Direction::Deposit, "1.00".to_owned()),
                (3, 1, Direction::Deposit, "2.00".to_owned()),
                (5, 1, Direction::Withdrawal, "0.50".to_owned()),
            ]
        );
        let accounts = read_file.accounts.iter().map(|account| (&*account.name, account.line, account.rows));
        assert_eq!(accounts.collect::<Vec<_>>(), [("alice", 2, 1), ("Bob, \"B\"", 3, 2)]);
        assert!(read_file.accounts.iter().all(|account| account.currency.is_none()));
        assert_eq!(read_file.unused_columns, ["date"]);
        assert_eq!(read(b"id,account,type,amount\n").expect("valid"), Transactions::default());
    }

    #[test]
    fn currencies_and_references_are_read_where_they_are() {
        let read_file = read(
            b"id,account,type,amount,balance,created,kind,currency,reference\n\
              1,a,deposit,12,12,0,deposit,JPY,invoice 7\n\
              2,a,withdrawal,2,10,0,transfer,JPY,\n\
              2,b,deposit,0.125,0.125,0,transfer,KWD,\n\
              3,c,deposit,1,1.00,0,deposit,,\n",
        )
        .expect("valid");
        let currencies =
            read_file.accounts.iter().map(|account| account.currency.map(|currency| currency.to_string()));
        assert_eq!(currencies.collect::<Vec<_>>(), [Some("JPY".to_owned()), Some("KWD".to_owned()), None]);
        let references = read_file.rows.iter().map(|row| row.reference.as_deref());
        assert_eq!(references.collect::<Vec<_>>(), [Some("invoice 7"), None, None, None]);
        assert_eq!(read_file.unused_columns, ["balance", "created", "kind"]);
    }

    /// It was refused with the reason that no ledger could hold it; but what comes and goes is never there at once.
    #[test]
    fn amounts_may_come_to_more_than_a_ledger_holds() {
        let lines = "1,a,deposit,9000000000000000000000000\n2,a,withdrawal,9000000000000000000000000\n";
        let read_file = read(format!("id,account,type,amount\n{lines}").as_bytes()).expect("no mistake");
        assert_eq!(read_file.rows.len(), 2);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        for (lines, told) in [
            ("1,a,deposit,1\n,a,deposit,1\n", "line 3: the id is empty"),
            (
                "1,a,deposit,1\n1,b,deposit,1\n1,a,deposit,1\n",
                "line 4: the account \"a\" has the id \"1\" on line 2 already",
            ),
            ("1,,deposit,1\n", "line 2: the account \"\" must not be empty"),
            ("1,a,Deposit,1\n", "line 2: the type \"Deposit\" is neither \"deposit\" nor \"withdrawal\""),
            ("1,a,deposit,1.23456\n", "line 2: the amount \"1.23456\" has more than 4 decimals"),
            ("1,a,deposit,\n", "line 2: the amount \"\" is not a decimal number such as 12.34"),
            ("1,a,deposit, 1\n", "line 2: the amount \" 1\" is not a decimal number such as 12.34"),
            ("1,a,deposit,0\n", "line 2: the amount \"0\" is not more than 0"),
            ("1,a,deposit,-1\n", "line 2: the amount \"-1\" is not more than 0"),
            ("1,a,deposit\n", "line 2: has 3 columns where the first line names 4"),
            ("\n\n1,a,deposit,1\n\n2,a,deposit\n", "line 6: has 3 columns where the first line names 4"),
            ("1,\"a\nb\",deposit,1\n", "line 2: the account \"a\\nb\" must not contain control characters"),
            ("1,a,deposit,1\n2,\"b\n", "line 3: a quote that is opened here is never closed"),
            ("1,a,deposit\n2,\"b\n", "line 2: has 3 columns where the first line names 4"),
        ] {
            let text = format!("id,account,type,amount\n{lines}");
            assert_eq!(read(text.as_bytes()).expect_err(lines), told, "{lines}");
        }
        for (lines, told) in [
            ("1,a,deposit,1.234,USD,\n", "line 2: the amount \"1.234\" has more than 2 decimals"),
            ("1,a,deposit,1.5,JPY,\n", "line 2: the amount \"1.5\" has more than 0 decimals"),
            ("1,a,deposit,1,usd,\n", "line 2: the currency \"usd\" is no code of ISO 4217 such as \"USD\""),
            (
                "1,a,deposit,1,USD,\n2,a,deposit,1,EUR,\n",
                "line 3: the account \"a\" is in EUR here, in USD on line 2",
            ),
            (
                "1,a,deposit,1,USD,\n2,a,deposit,1,,\n",
                "line 3: the account \"a\" is in no currency here, in USD on line 2",
            ),
            ("1,a,deposit,1,USD,\"x\ny\"\n", "line 2: the reference \"x\\ny\" has a control character"),
        ] {
            let text = format!("id,account,type,amount,currency,reference\n{lines}");
            assert_eq!(read(text.as_bytes()).expect_err(lines), told, "{lines}");
        }
        let closed = "a quote that is opened here is closed before the end of its column: a quote within a column is \
                      written twice";
        for (lines, told) in [
            // All behind it was one column that nobody looks at, and missing in the ledger.
            (
                "1,a,deposit,1,\n2,a,deposit,1,\"15 inch\n3,a,deposit,1,\n4,b,deposit,1,\n",
                "line 3: a quote that is opened here is never closed",
            ),
            (
                "1,a,deposit,1,\"15 inch\n2,a,deposit,1,\n3,a,deposit,1,\"17 inch\"\n",
                &format!("line 2: {closed}"),
            ),
            ("1,a,deposit,1,\"x\ny\" z\n", &format!("line 2: {closed}")),
            ("1,a,deposit,1,\"x\"\"\n", "line 2: a quote that is opened here is never closed"),
        ] {
            let text = format!("id,account,type,amount,note\n{lines}");
            assert_eq!(read(text.as_bytes()).expect_err(lines), told, "{lines}");
        }
        // A line's end may be any that the parser takes for one.
        for end in ["\r", "\r\n", "\n"] {
            let lines =
                ["id,account,type,amount", "1,a,deposit,1", "", "2,\"b\",deposit,1", "3,a,deposit,0", ""];
            let told = read(lines.join(end).as_bytes()).expect_err(end);
            assert_eq!(told, "line 5: the amount \"0\" is not more than 0", "{end:?}");
        }
        let names = read(b"\xEF\xBB\xBF\"id,account,type,amount\n1,a,deposit,1\n");
        assert_eq!(names.expect_err("open"), "line 1: a quote that is opened here is never closed");
        let not_utf8 = read(b"id,account,type,amount\n1,a,deposit,1\n2,\xFF,deposit,1\n");
        assert_eq!(not_utf8.expect_err("not UTF-8"), "line 3: column 2 is not UTF-8");
    }

    /// A field of megabytes was told in full.
    #[test]
    fn of_a_long_field_the_beginning_is_told() {
        let long = "\u{e9}".repeat(5000);
        let read = |text: String| parse(text.as_bytes(), 1 << 20).expect_err("it is refused").to_string();
        for line in [
            format!("1,{long},deposit,1,,"),
            format!("{long},a,deposit,1,,\n{long},a,deposit,1,,"),
            format!("1,a,{long},1,,"),
            format!("1,a,deposit,{long},,"),
            format!("1,a,deposit,1,{long},"),
            format!("1,a,deposit,1,,{long}"),
        ] {
            let told = read(format!("id,account,type,amount,currency,reference\n{line}\n"));
            assert!(told.chars().count() < 320, "{told}");
        }
        let told = read(format!("{}\n", vec![long; 50].join(",")));
        assert!(told.chars().count() < 20 * 210, "{told}");
    }

    #[test]
    fn quotes_that_are_right_may_have_lines_and_quotes_within() {
        let read_file = read(
            b"\xEF\xBB\xBF\"id\",account,type,amount,note\n\
              1,a,deposit,1,\"a\nb\"\n\
              2,a,deposit,1,\"\"\r\n\
              3,a,deposit,1,15\" of \"\"it\n\
              4,a,deposit,1,\"\"\"x\"\",\"\"\"",
        )
        .expect("valid");
        let lines = read_file.rows.iter().map(|row| row.line);
        assert_eq!(lines.collect::<Vec<_>>(), [2, 4, 5, 6]);
    }

    #[test]
    fn the_first_line_must_name_each_column_once() {
        for (text, told) in [
            ("", "line 1: there is no column \"id\" in []"),
            ("id,account,amount\n", "line 1: there is no column \"type\""),
            ("id,account,type,amount,id\n", "line 1: the column \"id\" is there twice"),
            ("currency,id,account,type,amount,currency\n", "line 1: the column \"currency\" is there twice"),
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn a_file_may_be_as_large_as_allowed_and_no_larger() {
        let text = "id,account,type,amount\n1,a,deposit,1\n";
        assert!(parse(text.as_bytes(), text.len() as u64).is_ok());
        let error = parse(text.as_bytes(), text.len() as u64 - 1).expect_err("too large");
        assert!(matches!(error, FileError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn the_sample_is_valid() {
        let sample = super::read(Path::new("data/samples/berka-1993.csv")).expect("valid");
        assert_eq!((sample.accounts.len(), sample.rows.len()), (638, 24_070));
    }

    /// Servers remember keys that are made from these digests.
    #[test]
    fn the_digests_are_pinned_and_tell_accounts_apart() {
        let digest =
            |account: &str, id: &str| super::digest(&AccountName::parse(account).expect("valid"), id);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&digest("alice", "232960")),
            "4a9987dc2caaa339f403518c8ea82d09"
        );
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }
}
