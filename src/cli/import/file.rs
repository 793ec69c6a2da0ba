//! Reads the file of an import and checks all of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use csv::{ErrorKind, Position, StringRecord};

use crate::ledger::{AccountName, Amount, Currency, Direction, ExcessDecimals};

/// The largest file, in bytes. It is held in memory, in about its own size.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The transactions of one account, in the file's order; never empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) account: AccountName,
    pub(super) rows: Vec<Row>,
}

/// One transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Where it stands; the line of the names is 1.
    pub(super) line: u64,
    /// Its own id; not empty.
    pub(super) id: Box<str>,
    pub(super) direction: Direction,
    /// More than zero.
    pub(super) amount: Amount,
}

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

/// Reads a file: the accounts, those with most transactions first, so that no long one starts last.
pub(super) fn read(path: &Path) -> Result<Vec<Stream>, FileError> {
    parse(File::open(path)?, FILE_BYTES_MAX)
}

fn parse(source: impl Read, bytes_max: u64) -> Result<Vec<Stream>, FileError> {
    // One byte more than allowed tells a file that is too large from one that just fits.
    let mut reader = csv::Reader::from_reader(LineStarts::new(source.take(bytes_max + 1)));
    let header = reader.headers().map_err(|error| csv_error(error, |_| 1))?.clone();
    let columns = Columns::find(&header)?;
    let mut builder = Builder::default();
    let mut record = StringRecord::new();
    loop {
        let more = reader.read_record(&mut record);
        if reader.position().byte() > bytes_max {
            return Err(FileError::TooLarge { bytes_max });
        }
        let lines = reader.get_mut();
        if !more.map_err(|error| csv_error(error, |position| lines.line_at(position)))? {
            return Ok(builder.finish());
        }
        let line = lines.line_at(record.position());
        builder.add(line, &columns, &record).map_err(|what| FileError::Line { line, what })?;
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

/// Passes bytes through and notes where lines start that are not empty.
///
/// The parser's own line numbers are of the place where it began to look for a record: they are too small
/// after `\r\n` and after empty lines.
struct LineStarts<R> {
    inner: R,
    byte: u64,
    line: u64,
    in_line: bool,
    /// Byte and line of the starts that lie ahead of the last record that was asked for.
    starts: VecDeque<(u64, u64)>,
}

impl<R> LineStarts<R> {
    fn new(inner: R) -> LineStarts<R> {
        LineStarts { inner, byte: 0, line: 1, in_line: false, starts: VecDeque::new() }
    }

    /// The line of the record that the parser found from this position on.
    fn line_at(&mut self, position: Option<&Position>) -> u64 {
        let byte = position.map_or(0, Position::byte);
        while self.starts.pop_front_if(|(start, _)| *start < byte).is_some() {}
        self.starts.front().map_or(self.line, |(_, line)| *line)
    }
}

impl<R: Read> Read for LineStarts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for &byte in &buffer[..count] {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.in_line = false;
                }
                b'\r' => {}
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
}

impl Columns {
    fn find(header: &StringRecord) -> Result<Columns, FileError> {
        let find = |name: &str| {
            let mut found = header.iter().enumerate().filter(|(_, column)| *column == name);
            match (found.next(), found.next()) {
                (Some((index, _)), None) => Ok(index),
                (Some(_), Some(_)) => Err(FileError::Header(format!("the column {name:?} is there twice"))),
                (None, _) => {
                    let there: Vec<&str> = header.iter().collect();
                    Err(FileError::Header(format!(
                        "there is no column {name:?} in {there:?}; the columns id, account, type and amount are needed"
                    )))
                }
            }
        };
        Ok(Columns {
            id: find("id")?,
            account: find("account")?,
            kind: find("type")?,
            amount: find("amount")?,
        })
    }
}

/// Collects the checked lines.
#[derive(Default)]
struct Builder {
    streams: Vec<Stream>,
    of_account: HashMap<AccountName, usize>,
    /// The line of each id. Digests, because ids of any length would be held twice.
    lines: HashMap<[u8; 16], u64>,
    /// All amounts without their signs: no sum of some of them is larger.
    volume: Amount,
}

impl Builder {
    fn add(&mut self, line: u64, columns: &Columns, record: &StringRecord) -> Result<(), String> {
        let field = |index: usize| record.get(index).unwrap_or_default();
        let id = field(columns.id);
        if id.is_empty() {
            return Err("the id is empty".to_owned());
        }
        match self.lines.entry(digest(id)) {
            Entry::Occupied(first) => {
                return Err(format!("the id {id:?} is on line {} already", first.get()));
            }
            Entry::Vacant(free) => free.insert(line),
        };
        let name = field(columns.account);
        let account = AccountName::parse(name).map_err(|error| format!("the account {name:?} {error}"))?;
        let direction = match field(columns.kind) {
            "deposit" => Direction::Deposit,
            "withdrawal" => Direction::Withdrawal,
            other => {
                return Err(format!("the type {other:?} is neither \"deposit\" nor \"withdrawal\""));
            }
        };
        let text = field(columns.amount);
        let amount = Amount::parse(text, Currency::USD, ExcessDecimals::Refuse)
            .map_err(|error| format!("the amount {text:?} {error}"))?;
        if !amount.is_positive() {
            return Err(format!("the amount {text:?} is not more than 0"));
        }
        self.volume = self
            .volume
            .checked_add(amount)
            .ok_or("up to here the amounts add up to more than a ledger can hold")?;
        let row = Row { line, id: id.into(), direction, amount };
        match self.of_account.get(&account) {
            Some(&index) => self.streams[index].rows.push(row),
            None => {
                self.of_account.insert(account.clone(), self.streams.len());
                self.streams.push(Stream { account, rows: vec![row] });
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<Stream> {
        // Stable: accounts with equally many stay in the file's order.
        self.streams.sort_by_key(|stream| std::cmp::Reverse(stream.rows.len()));
        self.streams
    }
}

fn digest(id: &str) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Stream>, String> {
        parse(text, 4096).map_err(|error| error.to_string())
    }

    #[test]
    fn columns_are_found_by_name_and_accounts_keep_the_files_order() {
        let streams = read(
            b"\xEF\xBB\xBFdate,amount,type,account,id\r\n\
              x,1.00,deposit,alice,1\r\n\
              x,2,deposit,\"Bob, \"\"B\"\"\",2\r\n\
              \r\n\
              x,0.50,withdrawal,\"Bob, \"\"B\"\"\",3\r\n",
        )
        .expect("valid");
        let told: Vec<_> = streams
            .iter()
            .map(|stream| {
                let rows = stream.rows.iter().map(|row| (row.line, &*row.id, row.amount.minor_units()));
                (stream.account.to_string(), rows.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("Bob, \"B\"".to_owned(), vec![(3, "2", 200), (5, "3", 50)]),
                ("alice".to_owned(), vec![(2, "1", 100)])
            ]
        );
        assert_eq!(streams[0].rows[1].direction, Direction::Withdrawal);
        assert_eq!(read(b"id,account,type,amount\n").expect("valid"), []);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let huge = "1,a,deposit,100000000000000000000000\n2,a,withdrawal,1\n";
        for (lines, told) in [
            ("1,a,deposit,1\n,a,deposit,1\n", "line 3: the id is empty"),
            ("1,a,deposit,1\n1,b,deposit,1\n", "line 3: the id \"1\" is on line 2 already"),
            ("1,,deposit,1\n", "line 2: the account \"\" must not be empty"),
            ("1,a,Deposit,1\n", "line 2: the type \"Deposit\" is neither \"deposit\" nor \"withdrawal\""),
            ("1,a,deposit,1.234\n", "line 2: the amount \"1.234\" has more than 2 decimals"),
            ("1,a,deposit,\n", "line 2: the amount \"\" is not a decimal number such as 12.34"),
            ("1,a,deposit, 1\n", "line 2: the amount \" 1\" is not a decimal number such as 12.34"),
            ("1,a,deposit,0\n", "line 2: the amount \"0\" is not more than 0"),
            ("1,a,deposit,-1\n", "line 2: the amount \"-1\" is not more than 0"),
            ("1,a,deposit\n", "line 2: has 3 columns where the first line names 4"),
            ("\n\n1,a,deposit,1\n\n2,a,deposit\n", "line 6: has 3 columns where the first line names 4"),
            ("1,\"a\nb\",deposit,1\n", "line 2: the account \"a\\nb\" must not contain control characters"),
            ("1,a,deposit,1\n2,\"b\n", "line 3: has 2 columns where the first line names 4"),
            (huge, "line 3: up to here the amounts add up to more than a ledger can hold"),
        ] {
            let text = format!("id,account,type,amount\n{lines}");
            assert_eq!(read(text.as_bytes()).expect_err(lines), told, "{lines}");
        }
        let not_utf8 = read(b"id,account,type,amount\n1,a,deposit,1\n2,\xFF,deposit,1\n");
        assert_eq!(not_utf8.expect_err("not UTF-8"), "line 3: column 2 is not UTF-8");
    }

    #[test]
    fn the_first_line_must_name_each_column_once() {
        for (text, told) in [
            ("", "line 1: there is no column \"id\" in []"),
            ("id,account,amount\n", "line 1: there is no column \"type\""),
            ("id,account,type,amount,id\n", "line 1: the column \"id\" is there twice"),
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
        let streams = super::read(Path::new("data/samples/berka-1993.csv")).expect("valid");
        assert_eq!(streams.len(), 638);
        assert_eq!(streams.iter().map(|stream| stream.rows.len()).sum::<usize>(), 24_070);
    }
}
