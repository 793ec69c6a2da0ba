//! The trace of what a server did to its files, and what a disk holds when the power is cut in the midst of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Random;

/// What a disk promises, and all that is torn: a sector.
const SECTOR_BYTES: u64 = 512;

/// A trace, read whole.
pub(crate) struct Trace {
    root: String,
    root_inode: u64,
    bytes: Vec<u8>,
    records: Vec<(u64, Operation)>,
}

#[derive(Debug)]
enum Operation {
    Start,
    Create { path: String, inode: u64 },
    Write { inode: u64, offset: u64, bytes: Range<usize> },
    Zeros { inode: u64, offset: u64, length: u64 },
    Truncate { inode: u64, length: u64 },
    Rename { from: String, to: String },
    Remove { path: String },
    MakeDirectory { path: String, inode: u64 },
    SyncBegin { inode: u64, token: u64, path: String },
    SyncEnd { token: u64 },
    SyncFailed { inode: u64, token: u64, path: String },
    Failed { path: String },
    SyncRange,
}

/// How much of what was not synced is on the disk all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// Nothing.
    Lost,
    /// Everything.
    Kept,
    /// All that was written, and no change of a name.
    NamesLost,
    /// Each write and each change of a name with even odds, and the last write of a file only in part.
    Mixed,
}

impl Trace {
    /// Reads the trace of what was done under `root`.
    pub(crate) fn read(path: &Path, root: &Path) -> Trace {
        let bytes = fs::read(path).expect("the server was traced");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
        let text = |range: Range<usize>| String::from_utf8(bytes[range].to_vec()).expect("paths are UTF-8");
        let mut records = Vec::new();
        let mut at = 0;
        while at + 4 <= bytes.len() {
            let end = at + 4 + length(at);
            if end > bytes.len() {
                break;
            }
            let (kind, a, b) = (bytes[at + 4], number(at + 5), number(at + 13));
            let data = at + 25 + length(at + 21);
            let path = text(at + 25..data);
            let operation = match kind {
                1 => Operation::Start,
                2 => Operation::Create { path, inode: a },
                3 => Operation::Write { inode: a, offset: b, bytes: data..end },
                4 => Operation::Zeros { inode: a, offset: b, length: number(data) },
                5 => Operation::Truncate { inode: a, length: b },
                6 => Operation::Rename { from: path, to: text(data..end) },
                7 | 9 => Operation::Remove { path },
                8 => Operation::MakeDirectory { path, inode: a },
                10 => Operation::SyncBegin { inode: a, token: b, path },
                11 => Operation::SyncEnd { token: b },
                12 => Operation::SyncRange,
                14 => Operation::SyncFailed { inode: a, token: b, path },
                15 => Operation::Failed { path },
                _ => panic!("the server did what the trace has no record for: {path}"),
            };
            records.push((end as u64, operation));
            at = end;
        }
        let root_inode = fs::metadata(root).expect("the root is there").ino();
        Trace { root: root.to_str().expect("UTF-8").to_owned(), root_inode, bytes, records }
    }

    /// Whether nothing of a last record is missing: of one that is being written it may be.
    pub(crate) fn is_whole(&self) -> bool {
        self.records.last().is_some_and(|(end, _)| *end == self.bytes.len() as u64)
    }

    /// The positions between two operations.
    pub(crate) fn positions(&self) -> Vec<u64> {
        self.records.iter().map(|(end, _)| *end).collect()
    }

    /// The files behind whose bytes zeros were written, by inode.
    pub(crate) fn grown(&self) -> HashSet<u64> {
        let grown = |operation: &Operation| match operation {
            Operation::Zeros { inode, offset, length } if *offset > 0 && *length < 1 << 20 => Some(*inode),
            _ => None,
        };
        self.records.iter().filter_map(|(_, operation)| grown(operation)).collect()
    }

    /// The files of which a sync failed, by inode, each as often as it did.
    pub(crate) fn failed_syncs(&self) -> Vec<u64> {
        let failed = |operation: &Operation| match operation {
            Operation::SyncFailed { inode, .. } => Some(*inode),
            _ => None,
        };
        self.records.iter().filter_map(|(_, operation)| failed(operation)).collect()
    }

    /// What was made to fail: the position behind it, and the path of what it was for.
    pub(crate) fn failures(&self) -> Vec<(u64, &str)> {
        let failures = self.records.iter().filter_map(|(end, operation)| match operation {
            Operation::SyncFailed { path, .. } | Operation::Failed { path } => Some((*end, path.as_str())),
            _ => None,
        });
        failures.collect()
    }

    /// The position behind all of it.
    pub(crate) fn end(&self) -> u64 {
        self.records.last().expect("it did something").0
    }

    /// The position before the first file behind this one is created whose path starts and ends so.
    pub(crate) fn before_creating(&self, position: u64, start: &str, ending: &str) -> Option<u64> {
        let is_sought = |operation: &Operation| match operation {
            Operation::Create { path, .. } => path.starts_with(start) && path.ends_with(ending),
            _ => false,
        };
        let index =
            self.records.iter().position(|(end, operation)| *end > position && is_sought(operation))?;
        Some(self.records[index - 1].0)
    }

    /// The positions behind which a name that ends so is gone from below `start`.
    pub(crate) fn removals(&self, start: &str, ending: &str) -> Vec<u64> {
        let removals = self.records.iter().filter_map(|(end, operation)| match operation {
            Operation::Remove { path } if path.starts_with(start) && path.ends_with(ending) => Some(*end),
            _ => None,
        });
        removals.collect()
    }

    /// The positions behind which a file whose name ended so, and was taken away, has been made shorter.
    pub(crate) fn freed(&self, ending: &str) -> Vec<u64> {
        let (mut named, mut nameless) = (HashMap::new(), HashSet::new());
        let mut freed = Vec::new();
        for (end, operation) in &self.records {
            match operation {
                Operation::Create { path, inode } => {
                    nameless.remove(inode);
                    named.insert(path.as_str(), *inode);
                }
                Operation::Rename { from, to } => {
                    let inode = named.remove(from.as_str());
                    named.extend(inode.map(|inode| (to.as_str(), inode)));
                }
                Operation::Remove { path } => {
                    let inode = named.remove(path.as_str());
                    nameless.extend(inode.filter(|_| path.ends_with(ending)));
                }
                Operation::Truncate { inode, .. } if nameless.contains(inode) => freed.push(*end),
                _ => {}
            }
        }
        freed
    }

    /// How many times each kind of operation was seen, for the reader of the test's output.
    pub(crate) fn summary(&self) -> String {
        let mut counts = BTreeMap::new();
        for (_, operation) in &self.records {
            let name = format!("{operation:?}");
            let name = name.split([' ', '{']).next().unwrap_or_default().to_owned();
            *counts.entry(name).or_insert(0) += 1;
        }
        format!("{} bytes, {counts:?}", self.bytes.len())
    }

    /// The disk after a power cut at a position of the trace. A sync of a file for whose path `deaf` is true did
    /// not happen.
    pub(crate) fn cut(&self, position: u64, deaf: &dyn Fn(&str) -> bool) -> Disk<'_> {
        let mut disk =
            Disk { trace: self, objects: vec![Object::directory()], volatile: vec![BTreeMap::new()] };
        let mut inodes = HashMap::from([(self.root_inode, 0)]);
        let mut syncs = HashMap::new();
        for (_, operation) in self.records.iter().take_while(|(end, _)| *end <= position) {
            match operation {
                // Names and bytes are the kernel's: they outlive a process that was killed. Its syncs do not.
                Operation::Start => syncs.clear(),
                Operation::Create { path, inode } => {
                    inodes.insert(*inode, disk.add(path, Object::file()));
                }
                Operation::MakeDirectory { path, inode } => {
                    inodes.insert(*inode, disk.add(path, Object::directory()));
                }
                Operation::Write { inode, offset, bytes } => {
                    disk.write(inodes[inode], Write { offset: *offset, data: Data::Bytes(bytes.clone()) });
                }
                Operation::Zeros { inode, offset, length } => {
                    disk.write(inodes[inode], Write { offset: *offset, data: Data::Zeros(*length) });
                }
                Operation::Truncate { inode, length } => {
                    disk.write(inodes[inode], Write { offset: *length, data: Data::End });
                }
                Operation::Rename { from, to } => disk.rename(from, to),
                Operation::Remove { path } => disk.remove(path),
                Operation::SyncBegin { inode, token, path } => {
                    if !deaf(path) {
                        let object = inodes[inode];
                        syncs.insert(*token, (object, disk.objects[object].changes()));
                    }
                }
                Operation::SyncEnd { token } => {
                    if let Some((object, changes)) = syncs.remove(token) {
                        let object = &mut disk.objects[object];
                        object.durable = object.durable.max(changes);
                    }
                }
                Operation::SyncFailed { token, .. } => {
                    if let Some((object, changes)) = syncs.remove(token) {
                        let object = &mut disk.objects[object];
                        object.dropped.push(object.durable..changes);
                    }
                }
                Operation::SyncRange | Operation::Failed { .. } => {}
            }
        }
        disk
    }
}

/// What was done to the files, and how much of that is durable.
pub(crate) struct Disk<'a> {
    trace: &'a Trace,
    objects: Vec<Object>,
    /// The names as the processes saw them, by directory.
    volatile: Vec<BTreeMap<String, usize>>,
}

/// A file or a directory: what was done to it, in order, of which the first `durable` were synced.
struct Object {
    kind: Kind,
    durable: usize,
    /// What a sync failed for. The kernel may call it clean all the same, and then no later sync writes it.
    dropped: Vec<Range<usize>>,
}

enum Kind {
    File(Vec<Write>),
    Directory(Vec<Entry>),
}

struct Write {
    offset: u64,
    data: Data,
}

enum Data {
    /// Where they are in the trace.
    Bytes(Range<usize>),
    Zeros(u64),
    /// The file ends here.
    End,
}

/// One change of a directory: names go, and one comes.
struct Entry {
    gone: Option<String>,
    come: Option<(String, usize)>,
}

impl Object {
    fn file() -> Object {
        Object { kind: Kind::File(Vec::new()), durable: 0, dropped: Vec::new() }
    }

    fn directory() -> Object {
        Object { kind: Kind::Directory(Vec::new()), durable: 0, dropped: Vec::new() }
    }

    fn changes(&self) -> usize {
        match &self.kind {
            Kind::File(writes) => writes.len(),
            Kind::Directory(entries) => entries.len(),
        }
    }
}

impl<'a> Disk<'a> {
    /// The directory that holds a name, and the name in it.
    fn place<'p>(&self, path: &'p str) -> (usize, &'p str) {
        let inner = path.strip_prefix(&self.trace.root).expect("only what is under the root is traced");
        let mut names: Vec<_> = inner.split('/').filter(|name| !name.is_empty()).collect();
        let last = names.pop().expect("the root itself does not change");
        let directory = names.iter().fold(0, |directory, &name| self.volatile[directory][name]);
        (directory, last)
    }

    fn change(&mut self, directory: usize, entry: Entry) {
        let Kind::Directory(entries) = &mut self.objects[directory].kind else {
            panic!("names are in directories");
        };
        if let Some(gone) = &entry.gone {
            self.volatile[directory].remove(gone);
        }
        if let Some((name, object)) = &entry.come {
            self.volatile[directory].insert(name.clone(), *object);
        }
        entries.push(entry);
    }

    fn add(&mut self, path: &str, object: Object) -> usize {
        let (directory, name) = self.place(path);
        let number = self.objects.len();
        self.objects.push(object);
        self.volatile.push(BTreeMap::new());
        self.change(directory, Entry { gone: None, come: Some((name.to_owned(), number)) });
        number
    }

    fn write(&mut self, object: usize, write: Write) {
        match &mut self.objects[object].kind {
            Kind::File(writes) => writes.push(write),
            Kind::Directory(_) => panic!("bytes are in files"),
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let ((directory, from), (to_directory, to)) = (self.place(from), self.place(to));
        assert_eq!(
            directory, to_directory,
            "a rename across directories is two changes, which no sync joins"
        );
        let object = self.volatile[directory][from];
        self.change(directory, Entry { gone: Some(from.to_owned()), come: Some((to.to_owned(), object)) });
    }

    fn remove(&mut self, path: &str) {
        let (directory, name) = self.place(path);
        self.change(directory, Entry { gone: Some(name.to_owned()), come: None });
    }

    /// The names in a directory as the processes see them.
    pub(crate) fn names(&self, path: &str) -> Vec<&str> {
        let (directory, name) = self.place(path);
        self.volatile[self.volatile[directory][name]].keys().map(String::as_str).collect()
    }

    /// Writes what is on the disk to `target`.
    pub(crate) fn write_to(&self, target: &Path, unsynced: Unsynced, random: &mut Random) {
        self.write_object(0, target, unsynced, random);
    }

    fn write_object(&self, number: usize, target: &Path, unsynced: Unsynced, random: &mut Random) {
        let object = &self.objects[number];
        let mut kept = |index: usize| {
            let is_dropped = object.dropped.iter().any(|dropped| dropped.contains(&index));
            index < object.durable && !is_dropped
                || match unsynced {
                    Unsynced::Lost => false,
                    Unsynced::Kept => true,
                    Unsynced::NamesLost => matches!(object.kind, Kind::File(_)),
                    Unsynced::Mixed => random.percent(50),
                }
        };
        match &object.kind {
            Kind::Directory(entries) => {
                let mut names = BTreeMap::new();
                for (index, entry) in entries.iter().enumerate() {
                    if kept(index) {
                        if let Some(gone) = &entry.gone {
                            names.remove(gone);
                        }
                        if let Some((name, object)) = &entry.come {
                            names.insert(name.clone(), *object);
                        }
                    }
                }
                fs::create_dir_all(target).expect("created");
                for (name, object) in names {
                    self.write_object(object, &target.join(name), unsynced, random);
                }
            }
            Kind::File(writes) => {
                let kept: Vec<usize> = (0..writes.len()).filter(|&index| kept(index)).collect();
                let torn = kept
                    .last()
                    .copied()
                    .filter(|&last| unsynced == Unsynced::Mixed && last >= object.durable);
                let mut bytes = Vec::new();
                for index in kept {
                    let Write { offset, data } = &writes[index];
                    let length = match data {
                        Data::Bytes(range) => range.len() as u64,
                        Data::Zeros(length) => *length,
                        Data::End => {
                            bytes.resize(*offset as usize, 0);
                            continue;
                        }
                    };
                    let mut end = offset + length;
                    if torn == Some(index) {
                        let sectors = end.div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES;
                        let at = (offset / SECTOR_BYTES + random.below(sectors + 1)) * SECTOR_BYTES;
                        end = at.clamp(*offset, end);
                    }
                    let (start, end) = (*offset as usize, end as usize);
                    if end == start {
                        continue;
                    }
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    match data {
                        Data::Bytes(range) => {
                            bytes[start..end]
                                .copy_from_slice(&self.trace.bytes[range.start..range.start + end - start]);
                        }
                        _ => bytes[start..end].fill(0),
                    }
                }
                fs::write(target, bytes).expect("written");
            }
        }
    }
}
