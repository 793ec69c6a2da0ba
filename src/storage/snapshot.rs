//! Snapshots: a shard's whole state at a position of its log, in one file.
//!
//! `<shard>/snapshots/<sequence of the last event, 20 digits>.snapshot`:
//!
//! ```text
//! offset size
//!   0     8  "TELLERSN"
//!   8     1  format version, 2; snapshots of version 1 are still read
//!   9     1  reserved, 0
//!  10     2  shard
//!  12    16  ledger's id
//!  28     8  sequence of the last event in the state
//!  36    32  BLAKE3 of the last record: with the sequence, the position that the log goes on from
//!  68     8  time of the last event, milliseconds since the Unix epoch
//!  76    72  how many items of each kind there are, 8 bytes each, in the order of the table below
//! 148     4  CRC32C of the 148 bytes before
//! 152        blocks
//!   ?     4  0: no further block
//!   ?    32  BLAKE3 of all the bytes before
//! ```
//!
//! A block is 4 bytes of length (1 to 65,536), 4 bytes of CRC32C of the length and the items, and the items. An
//! item does not span blocks. The items, kind by kind (`amount`, `time` and so on as in `storage::fields`; a
//! time counts from the epoch if nothing else is said):
//!
//! ```text
//! world      currency, signed part of @world
//! clearing   currency, signed part
//! sent       shard, sequence of the last decision for it
//! received   shard, sequence of the last decision from it that was applied
//! account    name, currency, 1 byte flags (1 overdraft limit, 2 something held, 4 frozen, 8 closed, 16 details),
//!            amount overdraft limit if so, amount balance, amount held if so, varint time of opening,
//!            varint milliseconds from there to the last change, varint version, varint number of chain roots, each
//!            as a varint: sequence * 64 + rank; details if so
//! details    1 byte flags (1 reference, 2 metadata, 4 references are unique, 8 velocity limits, 16 spent, 32 links,
//!            64 protects) and, if they say so, reference; metadata; velocity; varint day, amount that day, varint
//!            month, amount that month, varint window, varint debits in it; varint number of links, each an
//!            account id and 1 byte (1 related, 2 overdraft protection); varint number of accounts, account ids
//! hold       account, varint version, 1 byte status (0 pending, 1 captured, 2 voided, 3 expired; +4 for an account),
//!            amount, time of placing, time of expiry after that, account id if there is one, time of ending after
//!            the placing if it has ended, amount captured if it was
//! reversal   sequence of the transfer, transaction that reversed it
//! reference  account, reference, transaction that has it
//! key        key, varint sequence of the outcome (0 if only claimed), varint time of expiry
//! ```
//!
//! Each kind is in order: of currency, shard, account, of the hold's account and version, of the transfer, of the
//! reference's account and text; keys are in order of expiry.
//!
//! Version 1 has other counts behind the time, its checksum, and blocks from byte 100 on: 4 bytes number of
//! currencies, 8 bytes number of accounts, 8 bytes number of keys. Its accounts are
//!
//! ```text
//! account    name, currency, 0 or 1 + overdraft limit, amount balance, varint time of opening, varint milliseconds
//!            from there to the last change, 1 byte status (0 open, 1 closed), varint version, chain roots as above
//! ```
//!
//! Integers are little-endian, varints LEB128, texts behind their length in bytes.
//!
//! What always holds:
//!
//! - the same state gives the same bytes (P8);
//! - a file that [`write()`] or [`rewrite()`] has returned is durable under its name, which it got when it had been read
//!   back, decoded item by item and found to be that state;
//! - every byte is covered by a checksum: the blocks' tell where, the last one misses nothing;
//! - reading takes memory in proportion to the file's length, whatever the counts in it say.
//!
//! Left out: when to take one, and which to fall back to; the journal and the archive hold what is missing then.
//! Compression too: balances and chains hardly shrink, and a restart is better off without the work.
//!
//! A snapshot is made of the one before without the state in memory: [`read_excerpt()`] takes the accounts that have
//! changed since, and [`rewrite()`] puts them among the others, whose bytes it copies. What is not an account is in
//! memory whole: money by currency, shards, and holds, reversals, references and keys.
//!
//! Simplified: reading back compares bytes and adds up money and holds, but asks no index whether a name is there
//! twice. [`rewrite()`] asks whether an account of the base has the name of one that was opened since.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use uuid::Uuid;

use super::StorageError;
use super::codec::{Malformed, Reader};
use super::fields::read_name;
use super::files::{self, AtomicFile, HashedFile, TEMPORARY_SUFFIX};
use super::journal::record::{ChainHash, LogPosition};
use super::pace;
use crate::ledger::{
    Account, AccountNumber, AccountSet, Accounts, AccountsBuilder, Currency, HoldStatus, Ledger, LedgerParts,
    NameTaken, Sequence, ShardId, Timestamp, Total,
};

mod item;

use item::{
    Item, Kind, account_number, pass_account_state, put_account_state, put_hold, put_key_record, put_mark,
    put_part, put_reversal, put_used_reference,
};

/// The next step for a snapshot that cannot be read: nothing is only in a snapshot.
pub const FALL_BACK: &str =
    "move the file away: the server then rebuilds the state from the older snapshot and the archive";

const MAGIC: &[u8; 8] = b"TELLERSN";
const FORMAT_VERSION: u8 = 2;
const FORMAT_FIRST: u8 = 1;
/// What all versions have before the counts.
const COUNTS_OFFSET: usize = 76;
const HEADER_BYTES: usize = COUNTS_OFFSET + 8 * Kind::ALL.len() + 4;
const HEADER_BYTES_FIRST: usize = 100;
const SUFFIX: &str = ".snapshot";

/// The most bytes of items in a block: what an error leaves in doubt, and what reading holds at once.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// The fewest bytes that an account takes, which bounds how many a file can hold: a name of one character, a
/// chain of one root, and every number a single byte.
const ACCOUNT_BYTES_MIN: u64 = 12;

/// How many bytes an account takes that has a name of 16 and a few transactions: what room is made for.
const ACCOUNT_BYTES_TYPICAL: usize = 35;

/// How many decoded blocks wait for the thread that puts them together: 250 KB each.
const BLOCKS_AHEAD_MAX: usize = 8;

/// Writes the snapshot of a shard's state at `position`, reads it back, gives it its name, and returns its path.
///
/// # Errors
/// If it cannot be written, or does not read back as the same state. Then there is none.
///
/// # Panics
/// If the state is not the one at `position`.
pub fn write(
    directory: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    ledger: &Ledger,
    position: &LogPosition,
) -> Result<PathBuf, StorageError> {
    assert_eq!(ledger.last(), position.last, "a state has one position");
    write_merged(directory, ledger_id, shard, ledger, position, None)
}

/// As [`write()`], of the accounts of `excerpt` and those of the snapshot `base` that are not among them.
///
/// # Errors
/// As [`write()`], and if `base` is not intact.
///
/// # Panics
/// If the state is not the one at `position`.
pub fn rewrite(
    directory: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    base: &Path,
    excerpt: &Ledger,
    position: &LogPosition,
) -> Result<PathBuf, StorageError> {
    assert_eq!(excerpt.last(), position.last, "a state has one position");
    write_merged(directory, ledger_id, shard, excerpt, position, Some(base))
}

fn write_merged(
    directory: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    ledger: &Ledger,
    position: &LogPosition,
    base: Option<&Path>,
) -> Result<PathBuf, StorageError> {
    let name = file_name(position.last);
    let mut file = AtomicFile::create(directory, &name)?;
    encode(ledger_id, shard, ledger, position, base, &mut |bytes| file.write(bytes))?;
    let hash = file.hash();
    file.write(hash.as_bytes())?;
    file.commit_checked(&name, |path| read_back(path, ledger_id, shard, hash))
}

/// Reads a snapshot, checking all of it.
///
/// # Errors
/// [`StorageError::Corrupt`] if it is not to the byte what was written, has an unknown format, or belongs to
/// another ledger, shard or sequence than it should.
pub fn read(path: &Path, ledger_id: Uuid, shard: ShardId) -> Result<(Ledger, LogPosition), StorageError> {
    decode(path, ledger_id, shard, None)
}

/// As [`read()`], with a thread of its own that reads and decodes ahead of this one, which puts the accounts where they
/// belong: half of the work each. For a start, beside which nothing else wants to run.
///
/// # Errors
/// As [`read()`], or if the system gives no thread.
pub fn read_ahead(
    path: &Path,
    ledger_id: Uuid,
    shard: ShardId,
) -> Result<(Ledger, LogPosition), StorageError> {
    let mut decoder = Decoder::open(path, ledger_id, shard, None)?;
    let mut assembly = decoder.assembly();
    let (sender, receiver) = crossbeam_channel::bounded(BLOCKS_AHEAD_MAX);
    thread::scope(|scope| {
        let decoder = thread::Builder::new()
            .name(format!("snapshot-{shard}"))
            .spawn_scoped(scope, move || {
                while let Some(block) = decoder.next_block()? {
                    // Whoever drops the receiver has an error of its own.
                    if sender.send(block).is_err() {
                        break;
                    }
                }
                Ok(decoder)
            })
            .map_err(StorageError::io("start a thread to read", path))?;
        let added = receiver.into_iter().try_for_each(|block| assembly.add(block));
        let decoder = decoder.join().unwrap_or_else(|panic| resume_unwind(panic));
        // What the reader found may be why nothing more came, but stands behind what was found here.
        added?;
        decoder?.finish(assembly)
    })
}

/// Reads a snapshot, checking all of it, and keeps only these accounts: what [`rewrite()`] makes the next one of.
///
/// # Errors
/// As [`read()`].
pub fn read_excerpt(
    path: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    accounts: &AccountSet,
) -> Result<(Ledger, LogPosition), StorageError> {
    decode(path, ledger_id, shard, Some(accounts))
}

fn decode(
    path: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    wanted: Option<&AccountSet>,
) -> Result<(Ledger, LogPosition), StorageError> {
    let mut decoder = Decoder::open(path, ledger_id, shard, wanted)?;
    let mut assembly = decoder.assembly();
    while let Some(block) = decoder.next_block()? {
        assembly.add(block)?;
    }
    decoder.finish(assembly)
}

/// Reads what has just been written. It must be to the byte what was meant, and every item must be what its bytes
/// decode to; money and holds must add up.
fn read_back(
    path: &Path,
    ledger_id: Uuid,
    shard: ShardId,
    written: blake3::Hash,
) -> Result<(), StorageError> {
    let mut source = Source::open(path, ledger_id, shard)?;
    let mut items = Items::of(source.header);
    let mut money = BTreeMap::<Currency, Total>::new();
    let mut held = BTreeMap::<AccountNumber, Total>::new();
    let mut again = Vec::new();
    while let Some(block) = source.next_block()? {
        let mut reader = Reader::new(block.items);
        while !reader.is_empty() {
            let at = reader.clone();
            let item = items.read(&mut reader).map_err(|error| malformed(path, block.start, error))?;
            again.clear();
            item.put(&mut again);
            if again != block.items[at.offset()..reader.offset()] {
                let error = at.malformed("an item does not read back as what was written");
                return Err(malformed(path, block.start, error));
            }
            match item {
                Item::World(currency, part) | Item::Clearing(currency, part) => {
                    money.entry(currency).or_default().add_total(part);
                }
                Item::Account(account) => {
                    money.entry(account.currency).or_default().add(account.posted);
                    if !account.held.is_zero() {
                        held.entry(account.number).or_default().add(account.held);
                    }
                }
                Item::Hold(key, hold) if hold.status == HoldStatus::Pending => {
                    held.entry(key.account).or_default().add(hold.amount.negated());
                }
                _ => {}
            }
        }
    }
    let end = source.file.length();
    items.finish().map_err(|what| corrupt(path, end, &what))?;
    if !money.values().chain(held.values()).all(|total| total.is_zero()) {
        return Err(corrupt(path, end, "its money or its holds do not add up"));
    }
    if source.hash != Some(written) {
        return Err(corrupt(path, 0, "it does not read back as the state that was written"));
    }
    Ok(())
}

/// A snapshot that is being read, block by block.
struct Source {
    file: HashedFile,
    header: Header,
    items: Vec<u8>,
    /// What all bytes before the last checksum hash to, once that was read.
    hash: Option<blake3::Hash>,
}

/// The items of a block, and where in the file they start.
struct Block<'a> {
    start: u64,
    items: &'a [u8],
}

impl Source {
    fn open(path: &Path, ledger_id: Uuid, shard: ShardId) -> Result<Source, StorageError> {
        let mut file = HashedFile::open(path, FALL_BACK)?;
        let header = header_of(path, &mut file, ledger_id, shard)?;
        Ok(Source { file, header, items: vec![0; BLOCK_BYTES_MAX], hash: None })
    }

    /// The next block, its checksum checked. There is none when all of the file is what was written.
    fn next_block(&mut self) -> Result<Option<Block<'_>>, StorageError> {
        let file = &mut self.file;
        let start = file.offset();
        let length = file.array::<4>()?;
        let count = u32::from_le_bytes(length) as usize;
        if count == 0 {
            let end = file.offset();
            let hash = file.hash();
            if file.array()? != *hash.as_bytes() {
                return Err(file.corrupt(end, "the checksum of the file does not match"));
            }
            if file.offset() != file.length() {
                return Err(file.corrupt(file.offset(), "bytes follow the end of the snapshot"));
            }
            self.hash = Some(hash);
            return Ok(None);
        }
        if count > BLOCK_BYTES_MAX {
            return Err(file.corrupt(start, "a block is longer than any block"));
        }
        let checksum = u32::from_le_bytes(file.array()?);
        let items = &mut self.items[..count];
        file.read(items)?;
        if block_checksum(length, items) != checksum {
            return Err(file.corrupt(start, "the checksum of a block does not match"));
        }
        Ok(Some(Block { start: start + 8, items }))
    }
}

/// Checks that a snapshot's bytes are those that were written, without decoding them: what an older one needs, which
/// nothing reads until the newest is lost.
///
/// # Errors
/// [`StorageError::Corrupt`] if a byte is not what it was, the file is shorter or longer, or another's.
pub fn check(path: &Path, ledger_id: Uuid, shard: ShardId) -> Result<(), StorageError> {
    let mut file = HashedFile::open(path, FALL_BACK)?;
    header_of(path, &mut file, ledger_id, shard)?;
    let Some(hash_offset) = file.length().checked_sub(blake3::OUT_LEN as u64) else {
        return Err(file.corrupt(0, "the file is shorter than its checksum"));
    };
    let mut buffer = vec![0; BLOCK_BYTES_MAX];
    while file.offset() < hash_offset {
        let left = usize::try_from(hash_offset - file.offset()).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        file.read(&mut buffer[..count])?;
    }
    let hash = file.hash();
    if file.array()? != *hash.as_bytes() {
        return Err(file.corrupt(hash_offset, "the checksum of the file does not match"));
    }
    Ok(())
}

/// The snapshots in a directory, oldest first.
///
/// # Errors
/// If the directory cannot be read, or has a file that is neither a snapshot nor one in the making.
pub fn list(directory: &Path) -> Result<Vec<(Sequence, PathBuf)>, StorageError> {
    let names = files::finished_names(directory)?;
    names
        .iter()
        .map(|name| {
            let path = directory.join(name);
            match parse_file_name(name) {
                Some(sequence) => Ok((sequence, path)),
                None => Err(files::unexpected_name(&path)),
            }
        })
        .collect()
}

/// Deletes all but the newest `keep` snapshots, oldest first, and returns which.
///
/// # Errors
/// As [`list`], or if a file cannot be deleted; the others are.
///
/// # Panics
/// If none is to be kept.
pub fn prune(directory: &Path, keep: usize) -> Result<Vec<PathBuf>, StorageError> {
    assert!(keep > 0, "the newest snapshot is what a restart begins with");
    let snapshots = list(directory)?;
    let excess = snapshots.len().saturating_sub(keep);
    let old: Vec<_> = snapshots.into_iter().take(excess).map(|(_, path)| path).collect();
    if !old.is_empty() {
        files::remove(directory, &old)?;
    }
    Ok(old)
}

fn file_name(sequence: Sequence) -> String {
    format!("{:020}{SUFFIX}", sequence.get())
}

fn parse_file_name(name: &str) -> Option<Sequence> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    Sequence::new(number).filter(|&sequence| file_name(sequence) == name)
}

/// Reads the header, if it is this shard's, and the name is the file's own, or is going to be.
fn header_of(
    path: &Path,
    file: &mut HashedFile,
    ledger_id: Uuid,
    shard: ShardId,
) -> Result<Header, StorageError> {
    let start = file.array::<COUNTS_OFFSET>()?;
    let mut bytes = start.to_vec();
    let rest = match Header::version(&start).map_err(|error| malformed(path, 0, error))? {
        FORMAT_FIRST => HEADER_BYTES_FIRST - COUNTS_OFFSET,
        _ => HEADER_BYTES - COUNTS_OFFSET,
    };
    bytes.resize(COUNTS_OFFSET + rest, 0);
    file.read(&mut bytes[COUNTS_OFFSET..])?;
    let header = Header::parse(&bytes).map_err(|error| malformed(path, 0, error))?;
    if header.ledger != ledger_id || header.shard != shard {
        let what = format!("it belongs to shard {} of the ledger {}", header.shard, header.ledger);
        return Err(corrupt(path, 10, &what));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.map(|name| name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name));
    if name != Some(&file_name(header.position.last)) {
        let what = format!("it is the snapshot of sequence {}, not of its name", header.position.last);
        return Err(corrupt(path, 28, &what));
    }
    Ok(header)
}

fn corrupt(path: &Path, offset: u64, what: &str) -> StorageError {
    StorageError::at_byte(path, offset, what, FALL_BACK)
}

fn malformed(path: &Path, base: u64, error: Malformed) -> StorageError {
    StorageError::malformed(path, base, error, FALL_BACK)
}

fn block_checksum(length: [u8; 4], items: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), items)
}

/// What the header says.
#[derive(Clone, Copy, Debug)]
struct Header {
    version: u8,
    shard: ShardId,
    ledger: Uuid,
    position: LogPosition,
    time: Timestamp,
    /// How many items of each kind.
    counts: [u64; Kind::ALL.len()],
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[self.version, 0]);
        bytes.extend_from_slice(&(self.shard.index() as u16).to_le_bytes());
        bytes.extend_from_slice(self.ledger.as_bytes());
        bytes.extend_from_slice(&self.position.last.get().to_le_bytes());
        bytes.extend_from_slice(&self.position.chain.0);
        bytes.extend_from_slice(&self.time.millis().to_le_bytes());
        assert_eq!(bytes.len(), COUNTS_OFFSET, "the header is as long as it is drawn");
        for count in self.counts {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(bytes.len(), HEADER_BYTES, "the header is as long as it is drawn");
        bytes
    }

    /// The version, which says how long the header is.
    fn version(start: &[u8; COUNTS_OFFSET]) -> Result<u8, Malformed> {
        if !start.starts_with(MAGIC) {
            return Err(Malformed { offset: 0, what: "it is not a snapshot".into() });
        }
        match start[8] {
            version @ FORMAT_FIRST..=FORMAT_VERSION => Ok(version),
            version => Err(Malformed { offset: 8, what: format!("it has the unknown format {version}") }),
        }
    }

    /// Reads a header of the length that its version has.
    fn parse(bytes: &[u8]) -> Result<Header, Malformed> {
        let wrong = |offset, what: &str| Malformed { offset, what: what.into() };
        let summed = bytes.len() - 4;
        if bytes[summed..] != crc32c::crc32c(&bytes[..summed]).to_le_bytes() {
            return Err(wrong(0, "the checksum of the header does not match"));
        }
        let mut reader = Reader::new(bytes);
        reader.take(8)?;
        let version = reader.byte()?;
        let reserved = reader.byte()?;
        let shard = ShardId::new(usize::from(u16::from_le_bytes(reader.array()?)));
        let ledger = Uuid::from_bytes(reader.array()?);
        let last = Sequence::new(u64::from_le_bytes(reader.array()?));
        let chain = ChainHash(reader.array()?);
        let time = u64::from_le_bytes(reader.array()?);
        let (0, Some(shard), Some(last), true) = (reserved, shard, last, time <= Timestamp::MAX.millis())
        else {
            return Err(wrong(9, "the header has a number that is out of range"));
        };
        let mut counts = [0; Kind::ALL.len()];
        if version == FORMAT_FIRST {
            counts[Kind::World as usize] = u64::from(u32::from_le_bytes(reader.array()?));
            counts[Kind::Account as usize] = u64::from_le_bytes(reader.array()?);
            counts[Kind::Key as usize] = u64::from_le_bytes(reader.array()?);
        } else {
            for count in &mut counts {
                *count = u64::from_le_bytes(reader.array()?);
            }
        }
        let position = LogPosition { last, chain };
        Ok(Header { version, shard, ledger, position, time: Timestamp::from_millis(time), counts })
    }
}

/// Where encoded bytes go.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), StorageError> + 'a;

/// Encodes all but the last checksum, one block at a time. Accounts that `ledger` does not have are those of `base`.
fn encode(
    ledger_id: Uuid,
    shard: ShardId,
    ledger: &Ledger,
    position: &LogPosition,
    base: Option<&Path>,
    sink: &mut Sink<'_>,
) -> Result<(), StorageError> {
    let references: usize = ledger.references().values().map(|used| used.len()).sum();
    let mut counts = [0; Kind::ALL.len()];
    for (kind, count) in [
        (Kind::World, ledger.world().len()),
        (Kind::Clearing, ledger.clearing().len()),
        (Kind::Sent, ledger.sent().len()),
        (Kind::Received, ledger.received().len()),
        (Kind::Account, ledger.accounts().len()),
        (Kind::Hold, ledger.holds().iter().len()),
        (Kind::Reversal, ledger.reversals().len()),
        (Kind::Reference, references),
        (Kind::Key, ledger.keys().len()),
    ] {
        counts[kind as usize] = count as u64;
    }
    let (version, time) = (FORMAT_VERSION, ledger.time());
    let header = Header { version, shard, ledger: ledger_id, position: *position, time, counts };
    sink(&header.to_bytes())?;
    let mut blocks = Blocks { items: Vec::with_capacity(BLOCK_BYTES_MAX), item: Vec::new(), sink };
    for (currency, part) in ledger.world().iter().chain(ledger.clearing()) {
        blocks.push(|item| put_part(item, *currency, *part))?;
    }
    for (shard, sequence) in ledger.sent().iter().chain(ledger.received()) {
        blocks.push(|item| put_mark(item, *shard, *sequence))?;
    }
    match base {
        None => {
            for account in ledger.accounts() {
                blocks.push(|item| put_account_state(item, account))?;
            }
        }
        Some(base) => merge_accounts(Source::open(base, ledger_id, shard)?, base, ledger, &mut blocks)?,
    }
    for (key, hold) in ledger.holds().iter() {
        blocks.push(|item| put_hold(item, *key, hold))?;
    }
    for (transfer, by) in ledger.reversals() {
        blocks.push(|item| put_reversal(item, *transfer, *by))?;
    }
    for (account, used) in ledger.references() {
        for (reference, by) in used {
            blocks.push(|item| put_used_reference(item, *account, reference, *by))?;
        }
    }
    for (digest, record) in ledger.keys().in_order() {
        blocks.push(|item| put_key_record(item, digest, record))?;
    }
    blocks.flush()?;
    sink(&0u32.to_le_bytes())
}

/// Writes the accounts of a snapshot, those in the excerpt as they are now, and then those that were opened since.
fn merge_accounts(
    mut base: Source,
    path: &Path,
    excerpt: &Ledger,
    blocks: &mut Blocks<'_, '_>,
) -> Result<(), StorageError> {
    let base_header = base.header;
    let is_copied = base_header.version == FORMAT_VERSION;
    let before = base_header.counts[Kind::Account as usize] as usize;
    let has_opened = excerpt.accounts().len() > before;
    let mut items = Items::of(base_header);
    while let Some(block) = base.next_block()? {
        let mut reader = Reader::new(block.items);
        // What follows the accounts is only read for its checksums.
        while !reader.is_empty() && items.next().is_some_and(|(kind, _)| kind <= Kind::Account) {
            let at = reader.clone();
            let item = items.pass(&mut reader).map_err(|error| malformed(path, block.start, error))?;
            let Some(number) = item else { continue };
            if has_opened {
                let name = read_name(&mut at.clone()).map_err(|error| malformed(path, block.start, error))?;
                if excerpt.account_ever_named(&name).is_some() {
                    let error = at.malformed("the name of an account has been given to another one");
                    return Err(malformed(path, block.start, error));
                }
            }
            if let Some(changed) = excerpt.account_by_number(number) {
                blocks.push(|item| put_account_state(item, changed))?;
                continue;
            }
            let bytes = &block.items[at.offset()..reader.offset()];
            if is_copied {
                blocks.push(|item| item.extend_from_slice(bytes))?;
            } else {
                let mut reader = Reader::new(bytes);
                let account = Item::read(Kind::Account, u64::from(number.get()), &base_header, &mut reader);
                let account = account.map_err(|error| malformed(path, block.start, error))?;
                blocks.push(|item| account.put(item))?;
            }
        }
    }
    for account in excerpt.accounts().range(before..excerpt.accounts().len()) {
        blocks.push(|item| put_account_state(item, account))?;
    }
    Ok(())
}

struct Blocks<'a, 'b> {
    items: Vec<u8>,
    item: Vec<u8>,
    sink: &'a mut Sink<'b>,
}

impl Blocks<'_, '_> {
    fn push(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), StorageError> {
        self.item.clear();
        put(&mut self.item);
        assert!(self.item.len() <= BLOCK_BYTES_MAX, "any one item fits a block");
        if self.items.len() + self.item.len() > BLOCK_BYTES_MAX {
            self.flush()?;
        }
        self.items.extend_from_slice(&self.item);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.items.is_empty() {
            return Ok(());
        }
        let length = (self.items.len() as u32).to_le_bytes();
        (self.sink)(&length)?;
        (self.sink)(&block_checksum(length, &self.items).to_le_bytes())?;
        (self.sink)(&self.items)?;
        self.items.clear();
        Ok(())
    }
}

/// Which items are to come, by what the header says.
struct Items {
    header: Header,
    missing: [u64; Kind::ALL.len()],
}

impl Items {
    fn of(header: Header) -> Items {
        Items { header, missing: header.counts }
    }

    /// The kind of the next item, and its place among those of its kind.
    fn next(&self) -> Option<(Kind, u64)> {
        let missing = |kind: Kind| self.missing[kind as usize];
        let kind = Kind::ALL.into_iter().find(|kind| missing(*kind) > 0)?;
        Some((kind, self.header.counts[kind as usize] - missing(kind)))
    }

    /// Passes over the next item; of an account, whose name comes first, says the number. That is what most accounts need
    /// when a snapshot is made of the one before.
    fn pass(&mut self, reader: &mut Reader<'_>) -> Result<Option<AccountNumber>, Malformed> {
        match self.next() {
            Some((Kind::Account, place)) if self.header.version == FORMAT_VERSION => {
                self.missing[Kind::Account as usize] -= 1;
                let number = account_number(reader, place)?;
                pass_account_state(reader)?;
                Ok(Some(number))
            }
            _ => match self.read(reader)? {
                Item::Account(account) => Ok(Some(account.number)),
                _ => Ok(None),
            },
        }
    }

    /// Reads the next item.
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<Item, Malformed> {
        let Some((kind, place)) = self.next() else {
            return Err(reader.malformed("it has more items than its header says"));
        };
        self.missing[kind as usize] -= 1;
        Item::read(kind, place, &self.header, reader)
    }

    /// Whether all items have come.
    fn finish(&self) -> Result<(), String> {
        let missing = Kind::ALL.into_iter().filter(|kind| self.missing[*kind as usize] > 0);
        let missing: Vec<String> =
            missing.map(|kind| format!("{} {}", self.missing[kind as usize], kind.plural())).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{} are missing before this", missing.join(" and ")))
        }
    }
}

/// A snapshot that is being decoded, and how much of it is still to come.
struct Decoder<'a> {
    path: &'a Path,
    source: Source,
    items: Items,
    /// Which accounts are kept; all, if nothing is said.
    wanted: Option<&'a AccountSet>,
}

/// What a block decodes to.
struct DecodedBlock {
    /// Where in the file its items start.
    start: u64,
    accounts: Vec<Account>,
    others: Vec<Item>,
    /// What is wrong with the item behind these.
    error: Option<StorageError>,
}

impl<'a> Decoder<'a> {
    fn open(
        path: &'a Path,
        ledger_id: Uuid,
        shard: ShardId,
        wanted: Option<&'a AccountSet>,
    ) -> Result<Decoder<'a>, StorageError> {
        let source = Source::open(path, ledger_id, shard)?;
        let items = Items::of(source.header);
        Ok(Decoder { path, source, items, wanted })
    }

    /// The next block's items. There is none when all of the file is what was written.
    fn next_block(&mut self) -> Result<Option<DecodedBlock>, StorageError> {
        let Decoder { path, source, items, wanted } = self;
        let Some(Block { start, items: bytes }) = source.next_block()? else {
            return Ok(None);
        };
        let accounts = Vec::with_capacity(bytes.len() / ACCOUNT_BYTES_TYPICAL);
        let mut block = DecodedBlock { start, accounts, others: Vec::new(), error: None };
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() && block.error.is_none() {
            match next_item(items, *wanted, &mut reader) {
                Ok(None) => {}
                Ok(Some(Item::Account(account))) => block.accounts.push(account),
                Ok(Some(item)) => block.others.push(item),
                // Told behind what is wrong with those before it, which may be why it cannot be read.
                Err(error) => block.error = Some(malformed(path, start, error)),
            }
        }
        Ok(Some(block))
    }

    /// What is to become of it, still empty.
    fn assembly(&self) -> Assembly<'a> {
        let header = self.source.header;
        let accounts =
            header.counts[Kind::Account as usize].min(self.source.file.length() / ACCOUNT_BYTES_MIN) as usize;
        Assembly {
            path: self.path,
            accounts: match self.wanted {
                None => AccountsBuilder::with_capacity(accounts),
                Some(wanted) => AccountsBuilder::excerpt_of(accounts, wanted),
            },
            parts: LedgerParts {
                shard: header.shard,
                last: header.position.last,
                time: header.time,
                world: BTreeMap::new(),
                clearing: BTreeMap::new(),
                sent: BTreeMap::new(),
                received: BTreeMap::new(),
                accounts: Accounts::default(),
                holds: Vec::new(),
                reversals: BTreeMap::new(),
                references: BTreeMap::new(),
                keys: Vec::new(),
            },
        }
    }

    /// The whole state, and the position that the log goes on from, if its parts are all there and agree.
    fn finish(self, assembly: Assembly<'_>) -> Result<(Ledger, LogPosition), StorageError> {
        let Assembly { accounts, mut parts, .. } = assembly;
        let made = self.items.finish().and_then(|()| {
            parts.accounts = accounts
                .finish(&mut pace::rest)
                .map_err(|NameTaken| "a name belongs to two accounts".to_owned())?;
            let made = match self.wanted {
                None => Ledger::from_parts(parts, &mut pace::rest),
                Some(_) => Ledger::excerpt_from_parts(parts, &mut pace::rest),
            };
            made.map_err(|error| format!("the state contradicts itself: {error}"))
        });
        let ledger = made.map_err(|what| corrupt(self.path, self.source.file.length(), &what))?;
        Ok((ledger, self.source.header.position))
    }
}

/// Reads the next item, or passes over an account that is not wanted.
fn next_item(
    items: &mut Items,
    wanted: Option<&AccountSet>,
    reader: &mut Reader<'_>,
) -> Result<Option<Item>, Malformed> {
    if let Some(wanted) = wanted
        && let Some((Kind::Account, place)) = items.next()
        && !wanted.contains(account_number(reader, place)?)
    {
        return items.pass(reader).map(|_| None);
    }
    items.read(reader).map(Some)
}

/// The state in the making.
struct Assembly<'a> {
    path: &'a Path,
    accounts: AccountsBuilder,
    /// All else.
    parts: LedgerParts,
}

impl Assembly<'_> {
    /// Adds what a block has.
    fn add(&mut self, block: DecodedBlock) -> Result<(), StorageError> {
        let DecodedBlock { start, accounts, others, error } = block;
        accounts.into_iter().for_each(|account| self.accounts.push(account));
        for item in others {
            let kind = item.kind();
            if !self.put(item) {
                let what = format!("its {} are not in order", kind.plural());
                return Err(corrupt(self.path, start, &what));
            }
        }
        error.map_or(Ok(()), Err)
    }

    /// Puts an item where it belongs; whether it is behind those of its kind that are there.
    fn put(&mut self, item: Item) -> bool {
        let parts = &mut self.parts;
        match item {
            Item::World(currency, part) => add(&mut parts.world, (currency, part)),
            Item::Clearing(currency, part) => add(&mut parts.clearing, (currency, part)),
            Item::Sent(shard, sequence) => add(&mut parts.sent, (shard, sequence)) && sequence <= parts.last,
            Item::Received(shard, sequence) => add(&mut parts.received, (shard, sequence)),
            Item::Account(_) => unreachable!("accounts are added together"),
            Item::Hold(key, hold) => {
                let in_order = parts.holds.last().is_none_or(|(last, _)| *last < key);
                parts.holds.push((key, hold));
                in_order
            }
            Item::Reversal(transfer, by) => add(&mut parts.reversals, (transfer, by)),
            Item::Reference(account, reference, by) => {
                let last = parts.references.last_key_value().map(|(last, _)| *last);
                let used = parts.references.entry(account).or_default();
                add(used, (reference, by)) && last.is_none_or(|last| last <= account)
            }
            Item::Key(digest, record) => {
                parts.keys.push((digest, record));
                true
            }
        }
    }
}

/// Adds an entry; whether it is behind those that are there.
fn add<K: Ord, V>(map: &mut BTreeMap<K, V>, (key, value): (K, V)) -> bool {
    let in_order = map.last_key_value().is_none_or(|(last, _)| *last < key);
    map.insert(key, value);
    in_order
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ledger::{AccountStatus, Amount};
    use crate::storage::journal::record::Record;
    use crate::storage::samples::{LEDGER, OTHER_LEDGER, Sample, first_sample, fixture, sample, shard};

    const FIXTURE_FIRST: &str = "snapshot-1.bin";
    const FIXTURE: &str = "snapshot-2.bin";

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn write_sample(directory: &Path, sample: &Sample) -> PathBuf {
        write(directory, LEDGER, shard(), &sample.ledger, &sample.position).expect("written")
    }

    /// Reads bytes under the name that the sample's snapshot has, in both ways, which have to come to the same.
    fn read_bytes(path: &Path, bytes: &[u8]) -> Result<(Ledger, LogPosition), StorageError> {
        // A new file: some file systems sync one that is truncated and written again.
        let _ = fs::remove_file(path);
        fs::write(path, bytes).expect("written");
        let (alone, ahead) = (read(path, LEDGER, shard()), read_ahead(path, LEDGER, shard()));
        match (&alone, &ahead) {
            (Ok((alone, at)), Ok((ahead, same))) => {
                assert!(at == same && alone.accounts() == ahead.accounts());
            }
            (Err(alone), Err(ahead)) => assert_eq!(alone.to_string(), ahead.to_string()),
            _ => panic!("alone {:?}, ahead {:?}", alone.is_ok(), ahead.is_ok()),
        }
        alone
    }

    fn assert_refused(path: &Path, bytes: &[u8], why: &str) {
        let error = read_bytes(path, bytes).expect_err(why).to_string();
        let name = path.file_name().and_then(|name| name.to_str()).expect("named");
        assert!(error.contains(name) && error.contains("corrupt at byte"), "{why}: {error}");
        assert!(error.contains(FALL_BACK), "{why}: {error}");
    }

    /// Gives changed blocks and header the checksums that they would have.
    fn resum(bytes: &mut [u8]) {
        let header_bytes = if bytes[8] == FORMAT_FIRST { HEADER_BYTES_FIRST } else { HEADER_BYTES };
        let header = crc32c::crc32c(&bytes[..header_bytes - 4]).to_le_bytes();
        bytes[header_bytes - 4..header_bytes].copy_from_slice(&header);
        let mut at = header_bytes;
        while let Some(length) = bytes[at..].first_chunk::<4>().copied() {
            let end = at + 8 + u32::from_le_bytes(length) as usize;
            if length == [0; 4] || end > bytes.len() {
                break;
            }
            let checksum = block_checksum(length, &bytes[at + 8..end]).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&checksum);
            at = end;
        }
        let end = bytes.len() - 32;
        let hash = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(hash.as_bytes());
    }

    #[test]
    fn a_state_reads_back_and_has_one_spelling() {
        let temporary = temporary();
        for rounds in [0, 40, 20_000] {
            let sample = sample(rounds, 10);
            let path = write_sample(temporary.path(), &sample);
            let (ledger, position) = read(&path, LEDGER, shard()).expect("readable");
            assert_eq!(ledger.to_parts(), sample.ledger.to_parts());
            assert_eq!(position, sample.position);
            let bytes = fs::read(&path).expect("readable");
            write_sample(temporary.path(), &Sample { ledger, ..sample });
            assert_eq!(fs::read(&path).expect("readable"), bytes);
        }
    }

    #[test]
    fn many_accounts_stand_in_many_blocks_and_none_at_all_in_none() {
        use crate::ledger::{AccountName, Change, Currency, Event};
        let temporary = temporary();
        let mut ledger = Ledger::new(shard());
        let mut position = LogPosition::genesis(LEDGER, shard());
        let path = write(temporary.path(), LEDGER, shard(), &ledger, &position).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").len(), 188);
        for number in 0..5000 {
            ledger.apply(&Event {
                time: Timestamp::from_millis(number),
                key: None,
                change: Change::Opened {
                    account: AccountNumber::new(number as u32),
                    name: AccountName::parse(&format!("{number:0>255}")).expect("valid"),
                    currency: Currency::USD,
                    overdraft_limit: None,
                },
            });
        }
        position.last = ledger.last();
        let path = write(temporary.path(), LEDGER, shard(), &ledger, &position).expect("written");
        assert!(fs::metadata(&path).expect("there").len() > 20 * BLOCK_BYTES_MAX as u64);
        assert_eq!(read(&path, LEDGER, shard()).expect("readable").0.to_parts(), ledger.to_parts());
    }

    #[test]
    fn a_snapshot_is_the_fold_of_the_records_that_it_covers() {
        let temporary = temporary();
        let sample = sample(200, 7);
        let (read, _) = read(&write_sample(temporary.path(), &sample), LEDGER, shard()).expect("readable");
        let mut replayed = Ledger::new(shard());
        for record in &sample.records {
            for event in Record::parse(record).expect("valid").events() {
                replayed.replay(&event.expect("valid").1).expect("it follows");
            }
        }
        assert_eq!(read.to_parts(), replayed.to_parts());
    }

    /// The state after so many of the sample's events, and a position there.
    fn state_after(sample: &Sample, events: usize) -> (Ledger, LogPosition) {
        let mut ledger = Ledger::new(shard());
        for event in &sample.events[..events] {
            ledger.replay(event).expect("it follows");
        }
        let position = LogPosition { last: ledger.last(), ..sample.position };
        (ledger, position)
    }

    #[test]
    fn a_snapshot_made_of_the_one_before_is_the_one_made_of_the_state() {
        let (bases, whole, merged) = (temporary(), temporary(), temporary());
        let sample = sample(300, 10);
        for start in (1..sample.events.len()).step_by(23) {
            let (ledger, position) = state_after(&sample, start);
            let base = write(bases.path(), LEDGER, shard(), &ledger, &position).expect("written");
            let end = sample.events.len().min(start + start % 50);
            let mut changed = AccountSet::default();
            for event in &sample.events[start..end] {
                event.change.note_accounts(shard(), &mut changed);
            }
            let (mut excerpt, _) = read_excerpt(&base, LEDGER, shard(), &changed).expect("readable");
            let kept = ledger.accounts().iter().filter(|account| changed.contains(account.number)).count();
            assert_eq!(excerpt.accounts().iter().count(), kept);
            for event in &sample.events[start..end] {
                excerpt.replay(event).expect("it follows");
            }
            let (ledger, position) = state_after(&sample, end);
            let expected = write(whole.path(), LEDGER, shard(), &ledger, &position).expect("written");
            let made = rewrite(merged.path(), LEDGER, shard(), &base, &excerpt, &position).expect("written");
            assert!(fs::read(made).expect("readable") == fs::read(expected).expect("readable"), "{start}");
        }
    }

    #[test]
    fn a_snapshot_of_the_first_format_becomes_one_of_this_one() {
        let (bases, whole, merged) = (temporary(), temporary(), temporary());
        let sample = first_sample(40, 10);
        let base = bases.path().join(file_name(sample.position.last));
        fs::copy(fixture(FIXTURE_FIRST), &base).expect("copied");
        let (ledger, position) = read(&base, LEDGER, shard()).expect("readable");
        let expected = write(whole.path(), LEDGER, shard(), &ledger, &position).expect("written");
        for changed in [AccountSet::default(), [AccountNumber::new(1)].into_iter().collect()] {
            let (excerpt, _) = read_excerpt(&base, LEDGER, shard(), &changed).expect("readable");
            let made = rewrite(merged.path(), LEDGER, shard(), &base, &excerpt, &position).expect("written");
            assert_eq!(fs::read(made).expect("readable"), fs::read(&expected).expect("readable"));
        }
    }

    #[test]
    fn a_name_given_twice_is_found_though_only_one_of_them_is_in_memory() {
        use crate::ledger::{Change, Event};
        let temporary = temporary();
        let sample = sample(20, 10);
        let base = write_sample(temporary.path(), &sample);
        for changed in [AccountSet::default(), [AccountNumber::new(0)].into_iter().collect()] {
            let (mut excerpt, mut position) =
                read_excerpt(&base, LEDGER, shard(), &changed).expect("readable");
            let name = sample.ledger.accounts()[0].name.clone();
            let account = AccountNumber::new(sample.ledger.accounts().len() as u32);
            let change = Change::Opened { account, name, currency: Currency::USD, overdraft_limit: None };
            excerpt.apply(&Event { time: excerpt.time(), key: None, change });
            position.last = excerpt.last();
            let error =
                rewrite(temporary.path(), LEDGER, shard(), &base, &excerpt, &position).expect_err("twice");
            assert!(error.to_string().contains("has been given to another one"), "{error}");
        }
    }

    /// P3: an excerpt cannot tell by itself whether money adds up, but the snapshot that is made with it has to.
    #[test]
    fn a_snapshot_made_of_the_one_before_has_no_name_unless_its_money_adds_up() {
        let (bases, merged) = (temporary(), temporary());
        let sample = sample(20, 10);
        let base = write_sample(bases.path(), &sample);
        let changed = [AccountNumber::new(0)].into_iter().collect();
        for (units, adds_up) in [(1, false), (0, true)] {
            let (excerpt, position) = read_excerpt(&base, LEDGER, shard(), &changed).expect("readable");
            let mut parts = excerpt.to_parts();
            let world = parts.world.get_mut(&Currency::USD).expect("it has some");
            world.add(Amount::from_minor_units(units).expect("in range"));
            let excerpt = Ledger::excerpt_from_parts(parts, &mut || {}).expect("consistent in itself");
            let made = rewrite(merged.path(), LEDGER, shard(), &base, &excerpt, &position);
            assert_eq!(fs::read_dir(merged.path()).expect("there").count(), usize::from(adds_up));
            match made {
                Ok(_) => assert!(adds_up),
                Err(error) => assert!(!adds_up && error.to_string().contains("do not add up"), "{error}"),
            }
        }
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_refused() {
        let temporary = temporary();
        let path = write_sample(temporary.path(), &sample(0, 10));
        let bytes = fs::read(&path).expect("readable");
        for at in 0..bytes.len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut flipped = bytes.clone();
                flipped[at] ^= flip;
                assert_refused(&path, &flipped, &format!("byte {at} flipped by {flip}"));
            }
            assert_refused(&path, &bytes[..at], &format!("cut at {at}"));
        }
        assert_refused(&path, &[&bytes[..], b"x"].concat(), "one byte more");
        assert!(read_bytes(&path, &bytes).is_ok());
    }

    #[test]
    fn damage_is_told_by_the_block_that_has_it() {
        let temporary = temporary();
        let path = write_sample(temporary.path(), &sample(0, 10));
        let bytes = fs::read(&path).expect("readable");
        for (range, expected) in [
            (10..HEADER_BYTES, "at byte 0: the checksum of the header"),
            (HEADER_BYTES + 4..bytes.len() - 36, "at byte 152: the checksum of a block"),
        ] {
            for at in range {
                let mut flipped = bytes.clone();
                flipped[at] ^= 4;
                let error = read_bytes(&path, &flipped).expect_err(expected).to_string();
                assert!(error.contains(expected), "byte {at}: {error}");
            }
        }
        let end = bytes.len() - 32;
        let mut flipped = bytes;
        flipped[end] ^= 4;
        let error = read_bytes(&path, &flipped).expect_err("the hash").to_string();
        assert!(error.contains(&format!("at byte {end}: the checksum of the file")), "{error}");
    }

    #[test]
    fn hostile_bytes_behind_valid_checksums_are_errors_and_never_panics() {
        let temporary = temporary();
        let sample = sample(20, 10);
        let path = write_sample(temporary.path(), &sample);
        let bytes = fs::read(&path).expect("readable");
        for at in 8..bytes.len() - 32 {
            for value in [0, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
                let mut hostile = bytes.clone();
                hostile[at] = value;
                resum(&mut hostile);
                // A change may make another valid state, such as one with another name; that has one spelling too.
                if let Ok((ledger, position)) = read_bytes(&path, &hostile) {
                    write(temporary.path(), LEDGER, shard(), &ledger, &position).expect("written");
                    let written = fs::read(&path).expect("readable");
                    // Keys are put in order of expiry as they are read; no one reads them from the file in another.
                    let keys_differ = ledger.keys().in_order().ne(sample.ledger.keys().in_order());
                    assert!(keys_differ || written == hostile, "byte {at} set to {value}");
                }
            }
        }
        // Counts that no memory has room for.
        for kind in 0..Kind::ALL.len() {
            let mut hostile = bytes.clone();
            let at = COUNTS_OFFSET + 8 * kind;
            hostile[at..at + 8].fill(0xff);
            resum(&mut hostile);
            assert_refused(&path, &hostile, "a count that lies");
        }
        let mut money = sample.ledger.to_parts();
        money.world.values_mut().for_each(|part| part.add(Amount::MAX));
        assert!(Ledger::from_parts(money, &mut || {}).is_err(), "what the reader relies on");
    }

    #[test]
    fn hostile_bytes_of_the_first_format_are_errors_and_never_panics() {
        let temporary = temporary();
        let frozen = fs::read(fixture(FIXTURE_FIRST)).expect("the fixture is there");
        let path = temporary.path().join(file_name(first_sample(40, 10).position.last));
        for at in 8..frozen.len() - 32 {
            for value in [0, 0x7f, 0x80, 0xff, frozen[at] ^ 1] {
                let mut hostile = frozen.clone();
                hostile[at] = value;
                resum(&mut hostile);
                let _ = read_bytes(&path, &hostile);
            }
        }
        for count in [76..80, 80..88, 88..96] {
            let mut hostile = frozen.clone();
            hostile[count].fill(0xff);
            resum(&mut hostile);
            assert_refused(&path, &hostile, "a count that lies");
        }
    }

    #[test]
    fn a_header_that_contradicts_the_items_is_refused() {
        let temporary = temporary();
        let path = write_sample(temporary.path(), &sample(0, 10));
        let bytes = fs::read(&path).expect("readable");
        for (at, change, expected) in [
            (8, 1, "unknown format 3"),
            (8, -2, "unknown format 0"),
            (9, 1, "out of range"),
            (11, 4, "out of range"),
            (12, 1, "belongs to shard 3 of the ledger"),
            (28, 1, "not of its name"),
            (35, 8, "out of range"),
            (69, -1, "an account changed after the last event"),
            (75, 1, "out of range"),
            (76, -1, "its shards sent to are not in order"),
            (76, 1, "its currencies of @world are not in order"),
            (140, 1, "corrupt at byte"),
            (140, -1, "more items than its header says"),
        ] {
            let mut forged = bytes.clone();
            forged[at] = forged[at].wrapping_add_signed(change);
            resum(&mut forged);
            let error = read_bytes(&path, &forged).expect_err(expected).to_string();
            assert!(error.contains(expected), "byte {at} changed by {change}: {error}");
        }
        let mut forged = bytes;
        forged[140] += 1;
        resum(&mut forged);
        let error = read_bytes(&path, &forged).expect_err("a key less").to_string();
        assert!(error.contains("1 keys are missing before this"), "{error}");
    }

    #[test]
    fn an_ordinary_account_takes_no_more_than_in_the_first_format() {
        let sample = sample(200, 10);
        let bytes = |account: &Account| {
            let mut out = Vec::new();
            put_account_state(&mut out, account);
            out.len()
        };
        let alice = &sample.ledger.accounts()[0];
        let plain = Account { details: None, held: Amount::ZERO, frozen: false, ..alice.clone() };
        // The flags take the place of the status and of the byte that said whether there is a limit.
        let roots = plain.chain.to_packed().len();
        assert!(bytes(&plain) <= 6 + 3 + 1 + 4 + 6 + 2 + 2 + 1 + 3 * roots, "{}", bytes(&plain));
        assert!(bytes(&sample.ledger.accounts()[4]) > bytes(&plain));
    }

    #[test]
    fn another_ledgers_shards_or_sequences_snapshot_is_refused() {
        let temporary = temporary();
        let sample = sample(0, 10);
        let path = write_sample(temporary.path(), &sample);
        assert!(read(&path, OTHER_LEDGER, shard()).is_err());
        assert!(read(&path, LEDGER, ShardId::new(4).expect("in range")).is_err());
        let renamed = temporary.path().join(file_name(sample.position.last.next()));
        fs::rename(&path, &renamed).expect("renamed");
        let error = read(&renamed, LEDGER, shard()).expect_err("another sequence").to_string();
        assert!(error.contains("not of its name"), "{error}");
    }

    #[test]
    fn snapshots_are_listed_by_age_and_the_oldest_are_pruned() {
        let temporary = temporary();
        let directory = temporary.path();
        for rounds in [30, 0, 10, 20] {
            write_sample(directory, &sample(rounds, 5));
        }
        fs::write(directory.join("00000000000000000007.snapshot.tmp"), b"half").expect("written");
        let listed = list(directory).expect("listed");
        assert_eq!(listed.len(), 4);
        assert!(listed.is_sorted());
        assert_eq!(prune(directory, 2).expect("pruned"), [listed[0].1.clone(), listed[1].1.clone()]);
        assert_eq!(list(directory).expect("listed"), listed[2..]);
        assert!(prune(directory, 2).expect("pruned").is_empty());
        // One that cannot be deleted does not keep the others.
        let stuck = directory.join(file_name(Sequence::FIRST));
        fs::create_dir(&stuck).expect("created");
        prune(directory, 1).expect_err("a directory is no file");
        assert_eq!(list(directory).expect("listed"), [(Sequence::FIRST, stuck.clone()), listed[3].clone()]);
        fs::remove_dir(stuck).expect("removed");
        fs::copy(&listed[3].1, &listed[2].1).expect("copied");
        assert_eq!(files::remove_leftovers(directory).expect("removed"), 1);
        assert_eq!(list(directory).expect("listed"), listed[2..]);
        for name in ["7.snapshot", "notes", "0000000000000000007x.snapshot", "99999999999999999999.snapshot"]
        {
            fs::write(directory.join(name), b"").expect("written");
            let error = list(directory).expect_err("unexpected").to_string();
            assert!(error.contains(name), "{error}");
            fs::remove_file(directory.join(name)).expect("removed");
        }
    }

    #[test]
    fn the_frozen_snapshot_of_the_first_format_opens() {
        let temporary = temporary();
        let sample = first_sample(40, 10);
        let path = temporary.path().join(file_name(sample.position.last));
        let frozen = fs::read(fixture(FIXTURE_FIRST)).expect("the fixture is there");
        let (ledger, position) = read_bytes(&path, &frozen).expect("readable");
        // The records were of the first format too, so the chain is another one.
        assert_eq!(position.last, sample.position.last);
        assert_eq!(ledger.to_parts(), sample.ledger.to_parts());
        let account = |index: usize| &ledger.accounts()[index];
        assert_eq!(
            (&*account(0).name, account(0).posted.minor_units(), account(0).version),
            ("alice", 998_949, 30)
        );
        assert_eq!((&*account(1).name, account(1).posted.minor_units()), ("Kateřina Nováková", -42_994));
        assert_eq!((account(2).status, account(2).version), (AccountStatus::Closed, 4));
        check(&path, LEDGER, shard()).expect("intact");
    }

    #[test]
    fn the_frozen_snapshot_opens_and_is_what_is_written_today() {
        let temporary = temporary();
        let sample = sample(40, 10);
        let path = temporary.path().join(file_name(sample.position.last));
        let frozen = fs::read(fixture(FIXTURE)).expect("the fixture is there");
        let (ledger, position) = read_bytes(&path, &frozen).expect("readable");
        assert_eq!(position, sample.position);
        assert_eq!(ledger.to_parts(), sample.ledger.to_parts());
        let parts = ledger.to_parts();
        assert!(!parts.clearing.is_empty() && !parts.reversals.is_empty() && !parts.references.is_empty());
        assert!(parts.holds.iter().any(|(_, hold)| hold.status == HoldStatus::Pending));
        write_sample(temporary.path(), &sample);
        assert_eq!(fs::read(&path).expect("readable"), frozen);
    }

    #[test]
    #[ignore = "writes the fixture of a new format; a frozen one is never written again"]
    fn write_the_fixture() {
        let temporary = temporary();
        let path = write_sample(temporary.path(), &sample(40, 10));
        fs::create_dir_all(fixture("")).expect("created");
        fs::copy(path, fixture(FIXTURE)).expect("copied");
    }
}
