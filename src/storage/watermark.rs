//! The watermark: a shard's note of how far it has acknowledged, beside the journal.
//!
//! A journal that lost its tail looks like one that never had it. The watermark tells the two apart: recovery
//! that ends before it must not serve (P6). It is written after every sync and before the replies that the
//! sync allows, so it never claims more than what is durable.
//!
//! ```text
//! file: 8192 bytes          slot, 512 bytes: one sector, so that a power cut tears at most the one written
//!    0  slot 0               0   4  CRC32C of the 508 bytes that follow
//!  512  zeros                4   8  "tellerWM"
//! 4096  slot 1              12   2  format version, 1
//! 4608  zeros               14   2  shard
//!                           16  16  the ledger's id
//!                           32   8  counter: 1, 2, 3 ...; odd ones are in slot 0, even ones in slot 1
//!                           40   8  sequence of the last acknowledged event
//!                           48  32  hash of the record that holds it
//!                           80 432  zeros
//! ```
//!
//! Integers are little-endian. The slots are on pages of their own, which the kernel may write back at
//! different times: after a power cut, the counters can be any distance apart, and slot 1 be still all zero.
//!
//! Simplified: writing is not syncing. That costs nothing when the process dies, as the kernel has the bytes;
//! a power cut may take the watermark back to where it was last synced, about a second before. Only what
//! was acknowledged since is then without this guard, on top of the journal's own.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::ledger::{Sequence, ShardId};
use crate::storage::codec::{Malformed, Reader};
use crate::storage::journal::record::{ChainHash, LogPosition};
use crate::storage::{RESTORE_BACKUP, StorageError, files};

const FILE_BYTES: usize = 8192;
const SLOT_BYTES: usize = 512;
/// A page, so that the slots are written back one by one.
const SLOT_STRIDE: usize = 4096;
const USED_BYTES: usize = 80;
const MAGIC: [u8; 8] = *b"tellerWM";
const FORMAT_VERSION: u16 = 1;

/// A shard's note of the last event that it acknowledged.
#[derive(Debug)]
pub struct Watermark {
    path: PathBuf,
    file: Arc<File>,
    ledger: Uuid,
    shard: ShardId,
    counter: u64,
    /// The counter at the last sync.
    synced: u64,
    position: LogPosition,
}

/// What a watermark has noted since it was last synced. Made to be synced without the watermark, which its owner
/// goes on writing meanwhile.
#[derive(Debug)]
pub struct UnsyncedWatermark {
    path: PathBuf,
    file: Arc<File>,
}

impl UnsyncedWatermark {
    /// Makes it durable against a power cut as well.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn sync(self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::io("sync", &self.path))
    }
}

impl Watermark {
    /// Creates the watermark of a new shard, at the position before its first record. It is durable when this
    /// returns. What a crash cut short of a former attempt is overwritten.
    ///
    /// # Errors
    /// If there is one already, or the system refuses.
    pub fn create(path: &Path, ledger: Uuid, shard: ShardId) -> Result<Watermark, StorageError> {
        if path.exists() {
            let taken = std::io::ErrorKind::AlreadyExists.into();
            return Err(StorageError::io("create", path)(taken));
        }
        let creating = path.with_extension("creating");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&creating)
            .map_err(StorageError::io("create", &creating))?;
        let mut watermark = Watermark {
            path: creating,
            file: Arc::new(file),
            ledger,
            shard,
            counter: 0,
            synced: 0,
            position: LogPosition::genesis(ledger, shard),
        };
        watermark.file.set_len(FILE_BYTES as u64).map_err(StorageError::io("create", &watermark.path))?;
        watermark.acknowledge(watermark.position)?;
        watermark.file.sync_all().map_err(StorageError::io("sync", &watermark.path))?;
        fs::rename(&watermark.path, path).map_err(StorageError::io("rename", &watermark.path))?;
        watermark.path = path.to_owned();
        if let Some(directory) = path.parent() {
            files::sync_directory(directory)?;
        }
        Ok(watermark)
    }

    /// Opens a shard's watermark. With it, what was wrong with one of the two slots, which has been written anew then, for
    /// the other one counts. A power cut in the midst of a write does this, and so does a failing disk: worth a line in the
    /// log.
    ///
    /// # Errors
    /// If it is missing, another shard's, or so damaged that it does not say anything for certain.
    pub fn open(
        path: &Path,
        ledger: Uuid,
        shard: ShardId,
    ) -> Result<(Watermark, Option<Malformed>), StorageError> {
        let (mut watermark, damage) = Watermark::read(path, ledger, shard, true)?;
        if damage.is_some() {
            // The next counter belongs in the damaged slot, as it is not the one of the valid slot.
            watermark.acknowledge(watermark.position)?;
            watermark.unsynced().map_or(Ok(()), UnsyncedWatermark::sync)?;
        }
        Ok((watermark, damage))
    }

    /// The position in a shard's watermark; one slot may be damaged. Changes nothing.
    ///
    /// # Errors
    /// As [`Watermark::open`].
    pub fn peek(path: &Path, ledger: Uuid, shard: ShardId) -> Result<LogPosition, StorageError> {
        Ok(Watermark::read(path, ledger, shard, false)?.0.position)
    }

    /// The position in a shard's watermark, for a tool that changes nothing.
    ///
    /// # Errors
    /// As [`Watermark::open`], and if one slot is damaged.
    pub fn inspect(path: &Path, ledger: Uuid, shard: ShardId) -> Result<LogPosition, StorageError> {
        match Watermark::read(path, ledger, shard, false)? {
            (watermark, None) => Ok(watermark.position),
            (_, Some(damage)) => {
                let what = format!("one of its two slots is damaged: {}", damage.what);
                let next_step = "the other slot is intact: starting the server writes this one anew";
                Err(StorageError::at_byte(path, damage.offset as u64, what, next_step))
            }
        }
    }

    /// Reads the file; with it, what is wrong with one slot if the other one is intact.
    fn read(
        path: &Path,
        ledger: Uuid,
        shard: ShardId,
        writable: bool,
    ) -> Result<(Watermark, Option<Malformed>), StorageError> {
        let file = match OpenOptions::new().read(true).write(writable).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(corrupt(path, 0, "the file is missing"));
            }
            Err(error) => return Err(StorageError::io("open", path)(error)),
        };
        let mut bytes = [0; FILE_BYTES];
        let length = file.metadata().map_err(StorageError::io("read", path))?.len();
        if length != FILE_BYTES as u64 {
            return Err(corrupt(path, length, &format!("the file has {length} bytes, not {FILE_BYTES}")));
        }
        file.read_exact_at(&mut bytes, 0).map_err(StorageError::unreadable(path, 0, RESTORE_BACKUP))?;
        for (offset, &byte) in bytes.iter().enumerate() {
            if byte != 0 && offset % SLOT_STRIDE >= SLOT_BYTES {
                return Err(corrupt(path, offset as u64, "a byte that is never written is not zero"));
            }
        }
        let slots = [0, 1].map(|index| {
            let base = index * SLOT_STRIDE;
            let found = decode(&bytes[base..base + SLOT_BYTES], index as u64, ledger, shard);
            found.map_err(|error| Malformed { offset: base + error.offset, what: error.what })
        });
        let (newest, damage) = match slots {
            [Ok(Slot::Ours(first)), Ok(Slot::Ours(second))] => {
                let (older, newer) =
                    if first.counter < second.counter { (first, second) } else { (second, first) };
                if older.position.last > newer.position.last {
                    return Err(corrupt(path, 0, "the newer slot is behind the older one"));
                }
                (newer, None)
            }
            [Ok(Slot::Ours(only)), Ok(Slot::Empty)] => (only, None),
            [Ok(Slot::Ours(valid)), Err(damage)] | [Err(damage), Ok(Slot::Ours(valid))] => {
                (valid, Some(damage))
            }
            // Slot 0 is written before the file gets its name.
            [Ok(Slot::Empty), Ok(Slot::Ours(valid))] => {
                let what = "the slot was wiped".to_owned();
                (valid, Some(Malformed { offset: 0, what }))
            }
            [Ok(Slot::Foreign(offset, what)), _] => return Err(corrupt(path, offset, &what)),
            [_, Ok(Slot::Foreign(offset, what))] => {
                return Err(corrupt(path, SLOT_STRIDE as u64 + offset, &what));
            }
            [Err(damage), _] | [_, Err(damage)] => {
                let what = format!("neither slot is intact: {}", damage.what);
                return Err(corrupt(path, damage.offset as u64, &what));
            }
            [Ok(Slot::Empty), Ok(Slot::Empty)] => {
                return Err(corrupt(path, 0, "neither slot was ever written"));
            }
        };
        let watermark = Watermark {
            path: path.to_owned(),
            file: Arc::new(file),
            ledger,
            shard,
            counter: newest.counter,
            synced: 0,
            position: newest.position,
        };
        Ok((watermark, damage))
    }

    /// Notes that everything up to `position` is durable and may be acknowledged. To be called behind a sync of
    /// the journal and before the replies. Survives the end of the process, and a power cut from the next
    /// [`UnsyncedWatermark::sync`] on.
    ///
    /// # Errors
    /// If it cannot be written: then nothing may be acknowledged.
    ///
    /// # Panics
    /// If `position` is before the last one.
    pub fn acknowledge(&mut self, position: LogPosition) -> Result<(), StorageError> {
        assert!(position.last >= self.position.last, "a watermark only rises");
        self.counter += 1;
        self.position = position;
        let slot = encode(self.counter, &self.position, self.ledger, self.shard);
        let index = slot_of(self.counter);
        self.file
            .write_all_at(&slot, index * SLOT_STRIDE as u64)
            .map_err(StorageError::io("write", &self.path))
    }

    /// What is to be synced, if anything was noted since the last time: about once a second, and at the end.
    pub fn unsynced(&mut self) -> Option<UnsyncedWatermark> {
        if self.synced == self.counter {
            return None;
        }
        self.synced = self.counter;
        Some(UnsyncedWatermark { path: self.path.clone(), file: Arc::clone(&self.file) })
    }
}

#[derive(Clone, Copy)]
struct Written {
    counter: u64,
    position: LogPosition,
}

enum Slot {
    Empty,
    Ours(Written),
    /// Intact, but not of this shard, or not of a known format: the byte, and what is there.
    Foreign(u64, String),
}

/// Where the counter is written: 0 or 1.
fn slot_of(counter: u64) -> u64 {
    (counter + 1) % 2
}

fn encode(counter: u64, position: &LogPosition, ledger: Uuid, shard: ShardId) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[4..12].copy_from_slice(&MAGIC);
    slot[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    slot[14..16].copy_from_slice(&(shard.index() as u16).to_le_bytes());
    slot[16..32].copy_from_slice(ledger.as_bytes());
    slot[32..40].copy_from_slice(&counter.to_le_bytes());
    slot[40..48].copy_from_slice(&position.last.get().to_le_bytes());
    slot[48..USED_BYTES].copy_from_slice(&position.chain.0);
    let checksum = crc32c::crc32c(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn decode(slot: &[u8], index: u64, ledger: Uuid, shard: ShardId) -> Result<Slot, Malformed> {
    if slot.iter().all(|&byte| byte == 0) {
        return Ok(Slot::Empty);
    }
    let mut reader = Reader::new(slot);
    let checksum = u32::from_le_bytes(reader.array()?);
    if checksum != crc32c::crc32c(&slot[4..]) {
        return Err(Malformed { offset: 0, what: "the checksum of a slot does not match".into() });
    }
    let magic: [u8; 8] = reader.array()?;
    let format = u16::from_le_bytes(reader.array()?);
    let found_shard = usize::from(u16::from_le_bytes(reader.array()?));
    let found_ledger = Uuid::from_bytes(reader.array()?);
    let counter = u64::from_le_bytes(reader.array()?);
    let last = Sequence::new(u64::from_le_bytes(reader.array()?));
    let chain = ChainHash(reader.array()?);
    if magic != MAGIC || format != FORMAT_VERSION {
        let what = format!("the format {format} is unknown to this version");
        return Ok(Slot::Foreign(4, what));
    }
    if found_shard != shard.index() {
        return Ok(Slot::Foreign(14, format!("it belongs to shard {found_shard}")));
    }
    if found_ledger != ledger {
        return Ok(Slot::Foreign(16, format!("it belongs to the ledger {found_ledger}")));
    }
    let is_rest_zero = slot[USED_BYTES..].iter().all(|&byte| byte == 0);
    match last {
        Some(last) if counter > 0 && slot_of(counter) == index && is_rest_zero => {
            Ok(Slot::Ours(Written { counter, position: LogPosition { last, chain } }))
        }
        _ => Ok(Slot::Foreign(32, "a slot contradicts itself".into())),
    }
}

fn corrupt(path: &Path, byte: u64, what: &str) -> StorageError {
    StorageError::at_byte(path, byte, what, RESTORE_BACKUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEDGER: Uuid = Uuid::from_u128(0x1234_5678);

    fn shard() -> ShardId {
        ShardId::new(2).expect("in range")
    }

    fn at(number: u64) -> LogPosition {
        LogPosition { last: Sequence::new(number).expect("in range"), chain: ChainHash([number as u8; 32]) }
    }

    /// The watermark, its position, and the first byte of a slot that was damaged.
    fn open(path: &Path) -> Result<(Watermark, LogPosition, Option<usize>), StorageError> {
        let (watermark, damage) = Watermark::open(path, LEDGER, shard())?;
        let position = watermark.position;
        Ok((watermark, position, damage.map(|damage| damage.offset)))
    }

    #[test]
    fn the_last_acknowledgement_is_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        let mut watermark = Watermark::create(&path, LEDGER, shard()).expect("created");
        assert!(Watermark::create(&path, LEDGER, shard()).is_err());
        let genesis = LogPosition::genesis(LEDGER, shard());
        let (_, found, damage) = open(&path).expect("opens");
        assert_eq!((found, damage), (genesis, None));
        for number in [1, 2, 3, 3, 9, 700] {
            watermark.acknowledge(at(number)).expect("written");
            let (mut reopened, found, damage) = open(&path).expect("opens");
            assert_eq!((found, damage), (at(number), None));
            // The next life goes on counting.
            reopened.acknowledge(at(number)).expect("written");
            reopened.unsynced().expect("something was noted").sync().expect("synced");
            assert!(reopened.unsynced().is_none(), "nothing was noted since");
            watermark = reopened;
        }
        assert!(Watermark::open(&path, Uuid::from_u128(1), shard()).is_err());
        assert!(Watermark::open(&path, LEDGER, ShardId::new(1).expect("in range")).is_err());
    }

    #[test]
    fn the_format_is_pinned() {
        let slot = encode(5, &at(3), LEDGER, shard());
        let expected = concat!(
            "98212678",
            "74656c6c6572574d",
            "0100",
            "0200",
            "00000000000000000000000012345678",
            "0500000000000000",
            "0300000000000000",
            "0303030303030303030303030303030303030303030303030303030303030303",
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&slot[..USED_BYTES]), expected);
        assert_eq!(slot[USED_BYTES..], [0; SLOT_BYTES - USED_BYTES]);
    }

    #[test]
    fn one_flipped_byte_costs_at_most_one_acknowledgement_and_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        let mut watermark = Watermark::create(&path, LEDGER, shard()).expect("created");
        watermark.acknowledge(at(5)).expect("written");
        watermark.acknowledge(at(8)).expect("written");
        drop(watermark);
        // Slot 0 has the newest, 8; slot 1 has 5.
        let intact = fs::read(&path).expect("readable");
        for offset in 0..FILE_BYTES {
            let mut bytes = intact.clone();
            bytes[offset] ^= 0x10;
            fs::write(&path, &bytes).expect("writable");
            if offset % SLOT_STRIDE >= SLOT_BYTES {
                let message = open(&path).expect_err("a stray byte").to_string();
                assert!(message.contains(&format!("byte {offset}:")), "{message}");
                continue;
            }
            let (_, found, damage) = open(&path).expect("the other slot is intact");
            let newest_is_hit = offset < SLOT_BYTES;
            assert_eq!(found, if newest_is_hit { at(5) } else { at(8) }, "byte {offset}");
            assert_eq!(damage, Some(if newest_is_hit { 0 } else { SLOT_STRIDE }));
            let (_, again, damage) = open(&path).expect("rebuilt");
            assert_eq!((again, damage), (found, None));
        }
        for offset in 0..SLOT_BYTES {
            let mut bytes = intact.clone();
            bytes[offset] ^= 1;
            bytes[SLOT_STRIDE + SLOT_BYTES - 1 - offset] ^= 0x80;
            fs::write(&path, &bytes).expect("writable");
            assert!(open(&path).is_err(), "both slots are damaged");
            assert_eq!(fs::read(&path).expect("readable"), bytes, "nothing was changed");
        }
    }

    #[test]
    fn a_wiped_slot_is_rebuilt_and_two_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        let mut watermark = Watermark::create(&path, LEDGER, shard()).expect("created");
        watermark.acknowledge(at(5)).expect("written");
        let mut bytes = fs::read(&path).expect("readable");
        bytes[..SLOT_BYTES].fill(0);
        fs::write(&path, &bytes).expect("writable");
        let (_, found, damage) = open(&path).expect("slot 1 is intact");
        assert_eq!((found, damage), (at(5), Some(0)));
        fs::write(&path, [0; FILE_BYTES]).expect("writable");
        assert!(open(&path).is_err());
    }

    /// Neither says how far the shard has acknowledged if the later one says less.
    #[test]
    fn two_slots_of_which_the_newer_is_behind_the_older_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        // Once the newer one is the second slot, and once the first.
        for older in [1, 2] {
            for (newest, follows) in [(5, false), (9, true)] {
                let mut bytes = [0; FILE_BYTES];
                for (counter, number) in [(older, 9), (older + 1, newest)] {
                    let start = slot_of(counter) as usize * SLOT_STRIDE;
                    let slot = encode(counter, &at(number), LEDGER, shard());
                    bytes[start..start + SLOT_BYTES].copy_from_slice(&slot);
                }
                fs::write(&path, bytes).expect("writable");
                match open(&path) {
                    Ok((_, found, damage)) => assert!(follows && (found, damage) == (at(9), None)),
                    Err(error) => {
                        assert!(!follows && error.to_string().contains("behind the older one"), "{error}");
                        assert_eq!(fs::read(&path).expect("readable"), bytes, "nothing was changed");
                    }
                }
            }
        }
    }

    #[test]
    fn a_missing_cut_or_longer_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        let message = open(&path).expect_err("missing").to_string();
        assert!(message.contains("missing") && message.contains("restore a backup"), "{message}");
        let mut watermark = Watermark::create(&path, LEDGER, shard()).expect("created");
        watermark.acknowledge(at(5)).expect("written");
        let intact = fs::read(&path).expect("readable");
        for length in (0..FILE_BYTES).step_by(512) {
            fs::write(&path, &intact[..length]).expect("writable");
            assert!(open(&path).is_err(), "{length} bytes");
        }
        fs::write(&path, [&intact[..], &[0]].concat()).expect("writable");
        assert!(open(&path).is_err());
    }

    #[test]
    fn an_unknown_format_is_refused_even_if_the_other_slot_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        let mut watermark = Watermark::create(&path, LEDGER, shard()).expect("created");
        watermark.acknowledge(at(5)).expect("written");
        let mut bytes = fs::read(&path).expect("readable");
        bytes[12] = 2;
        let checksum = crc32c::crc32c(&bytes[4..SLOT_BYTES]).to_le_bytes();
        bytes[..4].copy_from_slice(&checksum);
        fs::write(&path, &bytes).expect("writable");
        let message = open(&path).expect_err("unknown").to_string();
        assert!(message.contains("format 2"), "{message}");
    }
}
