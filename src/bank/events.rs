//! Events: all that happens to accounts, in one order, read from the logs of all shards.
//!
//! # What is an event
//! A decision about accounts, once: from the log of the shard that decided it. The copies that other shards keep
//! ([`Change::Settled`]) are not events, nor is what the service keeps for itself (refusals and ends of batches that
//! are remembered for a key, claims). Nothing is taken from replies or from memory: an event is shown from its record,
//! and only when the shard says that the record is durable (P1).
//!
//! # Why a decision may be shown before its settlements are durable (P2)
//! Who has seen an event may read any of its accounts at once and has to find its effect there. In the deciding shard
//! it is applied before it is recorded. In each other shard the accounts are locked from before the decision until
//! the settlement is applied, and whoever asks for a locked account waits for that; the answer leaves when the
//! settlement is durable. After a crash the settlements that are missing are made before any account answers. So the
//! decision's own durability is enough, and from then on nothing can undo it.
//!
//! # In which order
//! 1. The events of one shard come as its log has them.
//! 2. An event comes after all that it could have depended on. Between shards that is known from the logs: the copy of
//!    a decision stands in a log before all that was decided there with knowledge of it, so the log is not read past
//!    the copy before the decision has been shown; and each account that a decision has a part in, in whatever shard,
//!    is shown at the version before first. A version that a copy tells is shown with the decision that it is a copy of,
//!    wherever in its log the copy stands.
//! 3. Of what is free to come, the earliest comes first, and at one time that of the lower shard.
//!
//! The moment of deciding strictly follows both 1 and 2: a shard decides in the order of its log; an account is locked from
//! grant to settlement, so what it was before a grant had been decided, and stood in its log, before what was decided on
//! it; and what several decisions of one work have made of it one after the other stands in the log of the shard that
//! decided them all. Only *their* copies come into the log of the account's shard later than that, and behind copies of
//! what was decided after them: so not copies are waited for, but decisions. Hence of the events not yet shown the one that
//! was decided first is always free: the merge never stands still. Times never run backwards along 1 and 2, so 3 makes a
//! stream ordered by time; the times alone would not do, as many events have one millisecond.
//!
//! Rule 3 makes the order the same for all readers, if each waits until it knows that no shard will come up with
//! something earlier. A shard that has an event to show has nothing earlier behind it. A shard with nothing is asked
//! for its [horizon](Request::Horizon): its last event, told when that is durable, and a time before which it will
//! decide nothing any more, so an idle shard holds nobody up. If it cannot say so within [`HORIZON_TIME_MAX`] (the
//! clock was set back, a disk hangs), it is not waited for: then, and when a clock runs backwards between a horizon and
//! an event, two readers may see events of two shards that have nothing to do with each other in different orders.
//! Rules 1 and 2, and that each event comes exactly once, do not depend on any clock.
//!
//! # Where a reader is
//! A [`Position`] is the last event passed in each shard's log. It needs no memory of the service's: a reader may come
//! back with it after a day or a crash, and with another filter.
//!
//! # How far a log is read ahead
//! What an event depends on in another shard is looked for in that shard's log, up to the event's time. As a rule that is
//! the rest of a millisecond; but after a clock that leapt was set right all events have one time until it has caught up. So
//! a log is read ahead by `EVENTS_AHEAD_MAX` events at most. An event of which it is not known by then whether it is free
//! waits, and others of its time come before it: those that the log waits for, and then the log itself, which gets further.
//! Only if none of these is known to be free either, as mail between three shards took as long as so many events, is more
//! read. To end the reading there would not do: whoever goes on from the position reads the same ahead again. In such a
//! time, events that have nothing to do with each other may come in another order for who began elsewhere.
//!
//! Simplified: each reader merges for itself, so a hundred live readers decode each event a hundred times. One merge
//! for all would have to keep what the slowest has not seen, or let it fall back to this one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Bank, Executed, Refusal};
use crate::ledger::{
    AccountId, AccountNumber, Change, Currency, Event, Sequence, ShardId, Timestamp, TransactionId,
    TransactionType,
};
use crate::shard::handle::ShardError;
use crate::shard::request::{Reply, Request};
use crate::storage::codec::Malformed;
use crate::storage::journal::JournalReader;
use crate::storage::journal::record::Record;
use crate::storage::{RESTORE_BACKUP, StorageError};

/// How many events one reading looks at, whatever its filter leaves of them: some ten milliseconds of work where
/// records have many, up to half a second where each has a block of the archive to be read.
const EVENTS_SCANNED_MAX: usize = 20_000;

/// How many events of a log are read ahead, and some more to the end of a record, while others are known to come first. In
/// memory they take up to some 15 MB. Far more than one millisecond has, so that the order does not depend on it.
const EVENTS_AHEAD_MAX: u64 = 20_000;

/// How long a shard is waited for that does not say up to when all is decided.
pub const HORIZON_TIME_MAX: Duration = Duration::from_secs(1);

/// How soon it is asked again: after the millisecond in which it could not say.
const HORIZON_PAUSE: Duration = Duration::from_millis(2);

/// Of how many accounts currency and opening time are kept, which the short events leave out: some 4 MB.
const ACCOUNTS_KNOWN_MAX: usize = 65_536;

/// How far a reader has come: the last event passed in each shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Arc<[Sequence]>);

impl Position {
    /// The position behind these events, one of each shard.
    pub fn new(passed: Vec<Sequence>) -> Position {
        Position(passed.into())
    }

    /// The last events passed, in the order of the shards.
    pub fn passed(&self) -> &[Sequence] {
        &self.0
    }
}

/// Which events a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those with an effect on one of these accounts; if there are none, on any.
    pub accounts: Vec<AccountId>,
    /// Those of these kinds; if there are none, of any.
    pub kinds: Vec<TransactionType>,
}

impl EventFilter {
    fn matches(&self, kind: TransactionType, shard: ShardId, change: &Change) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.accounts.is_empty()
                || self.accounts.iter().any(|account| match change.decision() {
                    Some(decision) => decision
                        .effects()
                        .any(|(shard, effect)| (shard, effect.account) == (account.shard, account.number)),
                    None => account.shard == shard && change.entry(shard, account.number).is_some(),
                }))
    }
}

/// An event, and where a reader is who has seen it.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// What was executed.
    pub executed: Executed,
    /// The position behind it.
    pub after: Position,
}

/// What one reading found.
#[derive(Debug)]
pub struct EventPage {
    /// The events, in order.
    pub events: Vec<Happened>,
    /// Whether there may be more already: the reading ended because it was long enough.
    pub more: bool,
}

/// A reader's way through the logs.
#[derive(Debug)]
pub struct Feed {
    /// One a shard, in their order.
    lanes: Vec<Lane>,
}

/// The log of one shard, as far as it is read ahead.
#[derive(Debug)]
struct Lane {
    shard: ShardId,
    /// The last event that was passed.
    passed: Sequence,
    /// The last event that was read, and its time.
    read: Sequence,
    read_time: Timestamp,
    /// The last event that is known to be durable. Nothing behind it is read.
    durable: Sequence,
    /// Nothing behind `durable` is of an earlier time.
    horizon: Timestamp,
    /// The shard was waited for long enough.
    is_waived: bool,
    /// The events behind `passed`, up to `read`.
    window: VecDeque<(Sequence, Event)>,
    /// The accounts with entries in the window.
    ahead: HashMap<AccountNumber, Ahead>,
}

/// The entries of an account in a window.
#[derive(Debug)]
struct Ahead {
    /// The version after the first; after each further one it is one more.
    first: u64,
    /// Of each, the decision that it is a copy of, if it is one.
    copies: VecDeque<Option<TransactionId>>,
    /// How many of them, from the first on, are known to be copies of decisions that have been shown.
    shown: usize,
}

/// What the merge does with an event.
enum Role {
    /// It is not for clients.
    Aside,
    /// It is the copy of this decision.
    Copy(TransactionId),
    Shown(TransactionType),
}

/// Whether the first event of a lane may be shown as far as other shards go.
enum Freedom {
    Free,
    /// Something that it may depend on comes before.
    Waits,
    /// That may be further ahead in another log than was read.
    Unknown,
}

/// An event that was chosen, as it is in the log.
struct Found {
    shard: ShardId,
    sequence: Sequence,
    event: Event,
    after: Position,
}

/// Which event is to be shown next.
enum Next {
    /// The first one of this lane.
    Of(usize),
    /// While it was looked for, a shard has got more to read: it has to be looked for again.
    Unsure,
    /// That is not known, or there is none.
    Halt(Halt),
}

/// Why a merge stops.
#[derive(Debug, PartialEq)]
enum Halt {
    /// It was long enough.
    Full,
    /// Nothing more is durable.
    Empty,
    /// It is not known that these shards have nothing before these times.
    Horizon(Vec<(ShardId, Timestamp)>),
}

/// What a merge reads: a log and what is durable of it, by shard.
trait Source {
    fn log(&self, shard: ShardId) -> &dyn JournalReader;
    fn durable(&self, shard: ShardId) -> Sequence;
}

impl Feed {
    fn new(after: &Position) -> Feed {
        let lane = |(index, passed): (usize, &Sequence)| Lane {
            shard: ShardId::new(index).expect("a position has as many shards as the ledger"),
            passed: *passed,
            read: *passed,
            read_time: Timestamp::default(),
            durable: *passed,
            horizon: Timestamp::default(),
            is_waived: false,
            window: VecDeque::new(),
            ahead: HashMap::new(),
        };
        Feed { lanes: after.0.iter().enumerate().map(lane).collect() }
    }

    /// Where the reader is.
    pub fn position(&self) -> Position {
        Position(self.lanes.iter().map(|lane| lane.passed).collect())
    }

    fn has_passed(&self, position: &Position) -> bool {
        self.lanes.iter().zip(&*position.0).all(|(lane, sequence)| lane.passed >= *sequence)
    }

    /// Passes events until `found` has `count`; `scanned` counts all that were passed.
    fn advance(
        &mut self,
        source: &dyn Source,
        filter: &EventFilter,
        count: usize,
        found: &mut Vec<Found>,
        scanned: &mut usize,
    ) -> Result<Halt, StorageError> {
        for lane in &mut self.lanes {
            lane.durable = lane.durable.max(source.durable(lane.shard));
        }
        loop {
            self.pass_what_is_not_shown(source, scanned)?;
            if found.len() >= count || *scanned >= EVENTS_SCANNED_MAX {
                return Ok(Halt::Full);
            }
            match self.next_shown(source)? {
                Next::Halt(halt) => return Ok(halt),
                Next::Unsure => {}
                Next::Of(index) => {
                    let (sequence, event) = self.lanes[index].pass();
                    *scanned += 1;
                    let shard = self.lanes[index].shard;
                    if let Role::Shown(kind) = role(&event)
                        && filter.matches(kind, shard, &event.change)
                    {
                        found.push(Found { shard, sequence, event, after: self.position() });
                    }
                }
            }
        }
    }

    /// Looks for the event that is to be shown next, when what is not shown before it has been passed.
    fn next_shown(&mut self, source: &dyn Source) -> Result<Next, StorageError> {
        let empty = self.empty_lanes();
        let chosen = self.choose(source)?;
        if self.empty_lanes() < empty {
            // Looking for what an event depends on has read a shard that had nothing: that may come first now.
            return Ok(Next::Unsure);
        }
        let Some((time, chosen)) = chosen else {
            return match self.lanes.iter().find(|lane| !lane.window.is_empty()) {
                None => Ok(Next::Halt(Halt::Empty)),
                Some(lane) => Err(lane.corrupt("the logs of the shards do not lead to one another")),
            };
        };
        let unknown = self.unknown_before(time, chosen, source);
        if !unknown.is_empty() {
            return Ok(Next::Halt(Halt::Horizon(unknown)));
        }
        if self.lanes.iter().any(Lane::has_more_to_read) {
            // A shard has moved on while it was looked at.
            return Ok(Next::Unsure);
        }
        Ok(Next::Of(chosen))
    }

    fn empty_lanes(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.window.is_empty()).count()
    }

    /// Passes what is not for clients, and the copies of decisions that have been shown.
    fn pass_what_is_not_shown(
        &mut self,
        source: &dyn Source,
        scanned: &mut usize,
    ) -> Result<(), StorageError> {
        let mut moved = true;
        while moved {
            moved = false;
            for index in 0..self.lanes.len() {
                while *scanned < EVENTS_SCANNED_MAX {
                    let lane = &mut self.lanes[index];
                    lane.fill(source)?;
                    let Some((_, event)) = lane.window.front() else { break };
                    match role(event) {
                        Role::Shown(_) => break,
                        Role::Aside => {}
                        Role::Copy(by) => {
                            let Some(other) = self.lanes.get_mut(by.shard.index()) else {
                                return Err(
                                    self.lanes[index].corrupt("a shard that there is not has decided")
                                );
                            };
                            if other.passed < by.sequence {
                                // The copy is durable, so its decision is.
                                moved |= other.durable < by.sequence;
                                other.durable = other.durable.max(by.sequence);
                                break;
                            }
                        }
                    }
                    self.lanes[index].pass();
                    *scanned += 1;
                    moved = true;
                }
            }
        }
        Ok(())
    }

    /// The lane whose first event is to be shown next, and the event's time.
    fn choose(&mut self, source: &dyn Source) -> Result<Option<(Timestamp, usize)>, StorageError> {
        let shown = |(index, lane): (usize, &Lane)| {
            let (_, event) = lane.window.front()?;
            matches!(role(event), Role::Shown(_)).then_some((event.time, index))
        };
        let mut heads: Vec<_> = self.lanes.iter().enumerate().filter_map(shown).collect();
        heads.sort_unstable();
        let mut ahead_max = EVENTS_AHEAD_MAX;
        loop {
            let mut unknown = None;
            for &(time, index) in &heads {
                if unknown.is_some_and(|unknown| unknown < time) {
                    // It would be shown before something of an earlier time.
                    break;
                }
                match self.freedom(index, ahead_max, source)? {
                    Freedom::Free => return Ok(Some((time, index))),
                    Freedom::Waits => {}
                    Freedom::Unknown => unknown = unknown.or(Some(time)),
                }
            }
            if unknown.is_none() {
                return Ok(None);
            }
            ahead_max *= 2;
        }
    }

    /// How many of these entries, from the first on, are copies of decisions that have been shown.
    fn shown(&self, ahead: &Ahead) -> usize {
        let is_shown = |copy: &&Option<TransactionId>| {
            copy.is_some_and(|by| {
                self.lanes.get(by.shard.index()).is_some_and(|lane| lane.passed >= by.sequence)
            })
        };
        ahead.shown + ahead.copies.range(ahead.shown..).take_while(is_shown).count()
    }

    /// Whether all accounts of the first event of a lane have been shown at the version before it. No log is read ahead
    /// further than by so many events.
    fn freedom(
        &mut self,
        index: usize,
        ahead_max: u64,
        source: &dyn Source,
    ) -> Result<Freedom, StorageError> {
        let lane = &self.lanes[index];
        let (_, event) = lane.window.front().expect("the lane has an event");
        let Some(decision) = event.change.decision() else {
            return Ok(Freedom::Free);
        };
        let (own, time) = (lane.shard, event.time);
        let elsewhere: Vec<_> = decision
            .effects()
            .filter(|(shard, _)| *shard != own)
            .map(|(shard, effect)| (shard, effect.account, effect.after.version))
            .collect();
        let mut freedom = Freedom::Free;
        for (shard, account, version) in elsewhere {
            let other = shard.index();
            if other >= self.lanes.len() {
                return Err(self.lanes[index].corrupt("a shard that there is not has a part in a decision"));
            }
            // What the decision saw was durable before it was.
            self.lanes[other].durable = self.lanes[other].durable.max(source.durable(shard));
            loop {
                let shown = self.lanes[other].ahead.get(&account).map(|ahead| self.shown(ahead));
                let lane = &mut self.lanes[other];
                if let Some((ahead, shown)) = lane.ahead.get_mut(&account).zip(shown) {
                    ahead.shown = shown;
                    if ahead.first + shown as u64 >= version {
                        break;
                    }
                    if shown < ahead.copies.len() {
                        return Ok(Freedom::Waits);
                    }
                }
                if lane.read_time > time || lane.read >= lane.durable {
                    break;
                }
                if lane.read.get() - lane.passed.get() >= ahead_max {
                    freedom = Freedom::Unknown;
                    break;
                }
                lane.read_record(source)?;
            }
        }
        Ok(freedom)
    }

    /// The shards that may still come up with something that would have to be shown before what was chosen.
    fn unknown_before(
        &mut self,
        time: Timestamp,
        chosen: usize,
        source: &dyn Source,
    ) -> Vec<(ShardId, Timestamp)> {
        let mut unknown = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.window.is_empty() || lane.is_waived {
                continue;
            }
            let needed = if index > chosen { time } else { Timestamp::from_millis(time.millis() + 1) };
            if lane.horizon >= needed {
                continue;
            }
            let durable = source.durable(lane.shard);
            if durable > lane.durable {
                lane.durable = durable;
            } else {
                unknown.push((lane.shard, needed));
            }
        }
        unknown
    }
}

impl Lane {
    fn has_more_to_read(&self) -> bool {
        self.window.is_empty() && self.read < self.durable
    }

    /// Reads on if nothing is there.
    fn fill(&mut self, source: &dyn Source) -> Result<(), StorageError> {
        if self.window.is_empty() { self.read_record(source) } else { Ok(()) }
    }

    /// Reads the rest of one record, if it is durable.
    fn read_record(&mut self, source: &dyn Source) -> Result<(), StorageError> {
        if self.read >= self.durable {
            return Ok(());
        }
        let wanted = self.read.next();
        let malformed = |lane: &Lane, error: Malformed| lane.corrupt(&error.to_string());
        let Some(bytes) = source.log(self.shard).record(wanted)? else {
            return Err(self.corrupt("a durable event is missing"));
        };
        let record = Record::parse(&bytes).map_err(|error| malformed(self, error))?;
        for event in record.events() {
            let (sequence, event) = event.map_err(|error| malformed(self, error))?;
            if sequence < wanted || sequence > self.durable {
                continue;
            }
            let copy = match role(&event) {
                Role::Copy(by) => Some(by),
                _ => None,
            };
            for (account, version) in entries(&event.change, self.shard) {
                let none = || Ahead { first: version, copies: VecDeque::new(), shown: 0 };
                self.ahead.entry(account).or_insert_with(none).copies.push_back(copy);
            }
            (self.read, self.read_time) = (sequence, event.time);
            self.window.push_back((sequence, event));
        }
        assert!(self.read >= wanted, "the record of an event has it");
        Ok(())
    }

    /// Takes the first event out.
    fn pass(&mut self) -> (Sequence, Event) {
        let (sequence, event) = self.window.pop_front().expect("the lane has an event");
        assert_eq!(sequence, self.passed.next(), "no event is left out");
        self.passed = sequence;
        for (account, version) in entries(&event.change, self.shard) {
            let ahead = self.ahead.get_mut(&account).expect("it was noted when it was read");
            assert_eq!(ahead.first, version, "an account's entries follow one another");
            ahead.first += 1;
            ahead.shown = ahead.shown.saturating_sub(1);
            ahead.copies.pop_front();
            if ahead.copies.is_empty() {
                self.ahead.remove(&account);
            }
        }
        (sequence, event)
    }

    fn corrupt(&self, what: &str) -> StorageError {
        let log = format!("the log of shard {}", self.shard);
        StorageError::at_sequence(log, self.passed.next(), what, RESTORE_BACKUP)
    }
}

fn role(event: &Event) -> Role {
    let kind = match &event.change {
        Change::Opened { .. } => Some(TransactionType::Opening),
        Change::Posted { direction, .. } => Some(match direction {
            crate::ledger::Direction::Deposit => TransactionType::Deposit,
            crate::ledger::Direction::Withdrawal => TransactionType::Withdrawal,
        }),
        Change::Closed { .. } => Some(TransactionType::Closing),
        Change::Decided { decision, .. } => TransactionType::of(&decision.kind),
        Change::Settled { by, .. } => return Role::Copy(*by),
        Change::Refused { .. } | Change::Claimed => None,
    };
    kind.map_or(Role::Aside, Role::Shown)
}

/// The accounts of the shard that have an entry here, and their versions after it.
fn entries(change: &Change, shard: ShardId) -> impl Iterator<Item = (AccountNumber, u64)> {
    let short = match change {
        Change::Opened { account, .. } => Some((*account, 1)),
        Change::Posted { account, entry, .. } | Change::Closed { account, entry } => {
            Some((*account, entry.version))
        }
        _ => None,
    };
    let part = change.decision().and_then(|decision| decision.part(shard));
    let effects = part.into_iter().flat_map(|part| &part.effects);
    short.into_iter().chain(effects.map(|effect| (effect.account, effect.after.version)))
}

/// What short events leave out: when accounts were opened, and their currencies. Neither changes, so it is never out
/// of date; when it is full it starts again.
#[derive(Debug, Default)]
pub(super) struct AccountsKnown(Mutex<HashMap<(ShardId, AccountNumber), (Timestamp, Currency)>>);

impl AccountsKnown {
    fn get(&self, shard: ShardId, account: AccountNumber) -> Option<(Timestamp, Currency)> {
        self.0.lock().get(&(shard, account)).copied()
    }

    fn insert(&self, shard: ShardId, account: AccountNumber, terms: (Timestamp, Currency)) {
        let mut known = self.0.lock();
        if known.len() >= ACCOUNTS_KNOWN_MAX {
            known.clear();
        }
        known.insert((shard, account), terms);
    }
}

/// The logs of a bank.
struct Logs(Vec<(Arc<dyn JournalReader>, crate::shard::handle::ShardHandle)>);

impl Source for Logs {
    fn log(&self, shard: ShardId) -> &dyn JournalReader {
        &*self.0[shard.index()].0
    }

    fn durable(&self, shard: ShardId) -> Sequence {
        self.0[shard.index()].1.durable()
    }
}

impl Bank {
    /// Before all events.
    pub fn beginning(&self) -> Position {
        Position(self.shards.iter().map(|_| Sequence::NONE).collect())
    }

    /// Behind all events that are durable now.
    pub fn present(&self) -> Position {
        Position(self.shards.iter().map(|shard| shard.handle.durable()).collect())
    }

    /// A reader's way on from a position; `None` if that is not one of this ledger.
    pub fn feed(&self, after: &Position) -> Option<Feed> {
        let is_of_this = after.0.len() == self.shards.len()
            && after.0.iter().zip(&self.shards).all(|(passed, shard)| *passed <= shard.handle.durable());
        is_of_this.then(|| Feed::new(after))
    }

    /// What is called whenever there may be new events. See
    /// [`any_moved_on`](crate::shard::handle::ShardHandle::any_moved_on).
    pub fn any_moved_on(&self) -> &Arc<Notify> {
        self.shards[0].handle.any_moved_on()
    }

    /// Reads on: up to `count` events that the filter lets through. It may be fewer, even none, when the filter leaves
    /// little of what there is. What is durable when it begins is read, unless there are more than `count`.
    ///
    /// # Errors
    /// See [`Refusal`]. The feed is lost then; another one goes on from the position of the last event that was shown.
    pub async fn read_events(
        &self,
        mut feed: Feed,
        filter: &Arc<EventFilter>,
        count: usize,
    ) -> Result<(Feed, EventPage), Refusal> {
        let mut found = Vec::new();
        let mut scanned = 0;
        let patience = Instant::now() + HORIZON_TIME_MAX;
        feed.lanes.iter_mut().for_each(|lane| lane.is_waived = false);
        let present = self.present();
        let more = loop {
            let filter = Arc::clone(filter);
            let logs = self.shards.iter().map(|shard| (Arc::clone(&shard.log), shard.handle.clone()));
            let logs = Logs(logs.collect());
            let read = self.readers.read(move || {
                let halt = feed.advance(&logs, &filter, count, &mut found, &mut scanned)?;
                Ok((feed, found, scanned, halt))
            });
            let halt;
            (feed, found, scanned, halt) = read.await?;
            match halt {
                Halt::Full => break true,
                Halt::Empty => break false,
                // Whoever has a reply finds its event; what came later need not hold that up.
                Halt::Horizon(_) if !found.is_empty() && feed.has_passed(&present) => break true,
                Halt::Horizon(unknown) => self.ask_horizons(&mut feed, unknown, patience).await?,
            }
        };
        let mut events = Vec::with_capacity(found.len());
        for found in found {
            events.push(self.happened(found).await?);
        }
        Ok((feed, EventPage { events, more }))
    }

    /// Asks shards up to which time all is decided.
    async fn ask_horizons(
        &self,
        feed: &mut Feed,
        unknown: Vec<(ShardId, Timestamp)>,
        patience: Instant,
    ) -> Result<(), Refusal> {
        let mut is_short = false;
        for (shard, needed) in unknown {
            let lane = &mut feed.lanes[shard.index()];
            let asked = self.shard(shard).handle.ask(Request::Horizon);
            match tokio::time::timeout_at(patience, asked).await {
                Ok(Ok(Reply::Horizon { last, time })) => {
                    lane.durable = lane.durable.max(last);
                    lane.horizon = lane.horizon.max(time);
                }
                Ok(Ok(reply)) => unreachable!("a horizon was asked for, not {reply:?}"),
                Ok(Err(ShardError::Ended)) => return Err(Refusal::Ended),
                Ok(Err(ShardError::Overloaded)) | Err(_) => {}
            }
            lane.is_waived = lane.horizon < needed && Instant::now() >= patience;
            is_short |= lane.horizon < needed;
        }
        if is_short {
            tokio::time::sleep(HORIZON_PAUSE).await;
        }
        Ok(())
    }

    /// An event in the form of all others.
    async fn happened(&self, found: Found) -> Result<Happened, Refusal> {
        let Found { shard, sequence, event, after } = found;
        let id = TransactionId { time: event.time, shard, sequence };
        if let Change::Decided { decision, .. } = event.change {
            return Ok(Happened { executed: Executed { id, decision }, after });
        }
        let (opened, currency) = match &event.change {
            Change::Posted { account, .. } | Change::Closed { account, .. } => {
                match self.accounts_known.get(shard, *account) {
                    Some(known) => known,
                    None => {
                        let view = self.view(shard, Request::AccountByNumber(*account)).await?;
                        self.accounts_known.insert(shard, *account, (view.id.opened, view.currency));
                        (view.id.opened, view.currency)
                    }
                }
            }
            Change::Opened { currency, .. } => (event.time, *currency),
            _ => unreachable!("only what happens to accounts is shown"),
        };
        Ok(Happened { executed: super::executed_short(shard, sequence, &event, opened, currency), after })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::operation::{Item, Operation, Place, Sum};
    use crate::ledger::workspace::{Needs, Workspace};
    use crate::ledger::{
        AccountName, AccountRef, Amount, Command, ExcessDecimals, ItemOutcome, Ledger, Note,
        OverdraftDefault, Quantity, Rejection, Target, Terms,
    };
    use crate::storage::journal::record::{Draft, LogPosition};
    use crate::storage::journal::{Journal, MemoryJournal, MemoryReader};

    /// Logs. What is durable of each at one look after the other; the last stays.
    struct Growing {
        logs: Vec<MemoryReader>,
        durable: Vec<Mutex<VecDeque<u64>>>,
    }

    impl Growing {
        fn new(benches: &[Bench], durable: &[&[u64]]) -> Growing {
            Growing {
                logs: benches.iter().map(|bench| bench.journal.reader()).collect(),
                durable: durable.iter().map(|looks| Mutex::new(looks.iter().copied().collect())).collect(),
            }
        }
    }

    impl Source for Growing {
        fn log(&self, shard: ShardId) -> &dyn JournalReader {
            &self.logs[shard.index()]
        }

        fn durable(&self, shard: ShardId) -> Sequence {
            let mut looks = self.durable[shard.index()].lock();
            let now = if looks.len() > 1 { looks.pop_front() } else { looks.front().copied() };
            now.and_then(Sequence::new).expect("a sequence")
        }
    }

    struct Bench {
        ledger: Ledger,
        journal: MemoryJournal,
    }

    impl Bench {
        fn new(shard: usize) -> Bench {
            let shard = ShardId::new(shard).expect("in range");
            let journal = MemoryJournal::new(shard, LogPosition::genesis(uuid::Uuid::nil(), shard));
            Bench { ledger: Ledger::new(shard), journal }
        }

        fn happen(&mut self, event: &Event) {
            let sequence = self.ledger.apply(event);
            let mut position = self.journal.position();
            let record = Draft::new(sequence, event).seal(self.ledger.shard(), &mut position);
            self.journal.append(&record).expect("it follows");
        }

        fn execute(&mut self, command: &Command, now: u64) {
            let terms = terms(now);
            let change = self.ledger.decide(command, &terms).expect("accepted");
            self.happen(&Event { time: terms.now, key: None, change });
        }

        fn open(&mut self, name: &str) {
            let open = Command::Open { name: named(name), currency: Currency::USD, overdraft_limit: None };
            self.execute(&open, 1);
        }

        fn deposit(&mut self, name: &str, now: u64) {
            let target = Target { account: AccountRef::Name(named(name)), version: None };
            self.execute(&Command::Deposit { target, amount: one() }, now);
        }
    }

    fn terms(now: u64) -> Terms {
        let overdraft = OverdraftDefault { currency: Currency::USD, limit: Amount::ZERO };
        Terms { now: Timestamp::from_millis(now), overdraft, key_retention_ms: 100, keys_max: 100 }
    }

    fn named(name: &str) -> AccountName {
        AccountName::parse(name).expect("a name")
    }

    fn one() -> Quantity {
        Quantity::parse("1", ExcessDecimals::Refuse).expect("a quantity")
    }

    /// Has one of the shards decide several transfers of one as one work, each between two accounts given with their shards.
    /// Those that have a part in it may [settle](settle) them later.
    fn decide_all(
        benches: &mut [Bench],
        decider: usize,
        transfers: &[[(usize, &str); 2]],
    ) -> Vec<(TransactionId, Event)> {
        let place = |&(shard, name): &(usize, &str)| Place {
            shard: benches[shard].ledger.shard(),
            account: AccountRef::Name(named(name)),
        };
        let items: Vec<Item> = transfers
            .iter()
            .map(|[from, to]| {
                let (amount, note) = (Sum::Exactly(one()), Note::default());
                let operation = Operation::Transfer { from: place(from), to: place(to), amount, note };
                Item { operation, conditions: Vec::new(), key: None }
            })
            .collect();
        let mut needs: BTreeMap<usize, Needs> = BTreeMap::new();
        for side in transfers.iter().flatten() {
            let (accounts, account) = (&mut needs.entry(side.0).or_default().accounts, place(side).account);
            if !accounts.contains(&account) {
                accounts.push(account);
            }
        }
        let grants = needs.iter().map(|(shard, needs)| benches[*shard].ledger.grant(needs, &[], &terms(NOW)));
        let ledger = &benches[decider].ledger;
        let next = ledger.last().next();
        let mut workspace = Workspace::new(ledger.shard(), terms(NOW), next, grants.collect());
        for item in &items {
            let outcome = workspace.execute(item, "r");
            assert!(matches!(outcome, Ok(ItemOutcome::Done { .. })), "{outcome:?}");
        }
        let decisions = workspace.into_decided().into_iter().map(|decided| {
            let event = benches[decider].ledger.decided(decided, Timestamp::from_millis(NOW));
            benches[decider].happen(&event);
            let ledger = &benches[decider].ledger;
            (TransactionId { time: event.time, shard: ledger.shard(), sequence: ledger.last() }, event)
        });
        decisions.collect()
    }

    const NOW: u64 = 7;

    /// Which shards' events are found first, as far as the logs are known to lead.
    fn order(source: &Growing, prepared: &[u64]) -> Vec<usize> {
        let before = prepared.iter().map(|&last| Sequence::new(last).expect("a sequence")).collect();
        let (mut feed, mut found) = (Feed::new(&Position::new(before)), Vec::new());
        let halt = feed.advance(source, &EventFilter::default(), 9, &mut found, &mut 0);
        assert!(matches!(halt, Ok(Halt::Horizon(_))), "{halt:?}");
        found.iter().map(|found: &Found| found.shard.index()).collect()
    }

    /// Looking for what a transfer depends on finds that its payee's shard, of which nothing was durable, has an event of
    /// the same time that has nothing to do with it. That comes first, as it does for whoever looks later.
    #[test]
    fn what_is_found_while_looking_for_what_an_event_depends_on_may_come_before_it() {
        let mut benches = [Bench::new(0), Bench::new(1)];
        benches[0].open("payee");
        benches[0].open("other");
        benches[1].open("payer");
        benches[1].deposit("payer", 1);
        decide(&mut benches, 1, [(1, "payer"), (0, "payee")]);
        benches[0].deposit("other", NOW);
        for looks in [&[3][..], &[2, 3]] {
            let found = order(&Growing::new(&benches, &[looks, &[3]]), &[2, 2]);
            assert_eq!(found.first(), Some(&0));
        }
    }

    /// The same of one transfer.
    fn decide(benches: &mut [Bench], decider: usize, sides: [(usize, &str); 2]) -> (TransactionId, Event) {
        decide_all(benches, decider, &[sides]).remove(0)
    }

    /// Applies a decision of another shard.
    fn settle(benches: &mut [Bench], at: usize, (by, decided): &(TransactionId, Event)) {
        let decision = decided.change.decision().expect("it is one");
        let copy = benches[at].ledger.settled(*by, decision, decided.time);
        benches[at].happen(&copy.expect("it follows").expect("it is new"));
    }

    /// A transfer with a key is decided by the shard that keeps the key, which need not have a part in it: between two
    /// accounts of another shard it has a single part. It was shown before the deposit that paid for it, when that deposit's
    /// log could not be read on in the same millisecond.
    #[test]
    fn a_decision_about_one_other_shard_comes_after_what_it_depends_on() {
        let mut benches = [Bench::new(0), Bench::new(1), Bench::new(2)];
        benches[0].open("payer");
        benches[0].open("payee");
        benches[0].open("other");
        benches[2].open("third");
        benches[2].deposit("third", 1);
        let blocks = decide(&mut benches, 2, [(2, "third"), (0, "other")]);
        settle(&mut benches, 0, &blocks);
        benches[0].deposit("payer", NOW);
        decide(&mut benches, 1, [(0, "payer"), (0, "payee")]);
        // So that nobody is asked what may still come from there.
        benches[0].deposit("other", NOW + 1);
        benches[2].deposit("third", NOW + 1);
        let found = order(&Growing::new(&benches, &[&[6], &[1], &[4]]), &[3, 0, 2]);
        assert_eq!(found, [2, 0, 1]);
    }

    /// Two works of two decisions each, under way at once in three shards. The copies of the first decisions lay behind those
    /// of the second ones of the other work, and the reading ended for good with an error: as if a log was corrupt.
    #[test]
    fn decisions_of_one_work_do_not_wait_for_their_copies() {
        let mut benches = [Bench::new(0), Bench::new(1), Bench::new(2)];
        for (shard, name) in [(0, "payer"), (0, "third"), (1, "payer"), (1, "payee"), (2, "payee")] {
            benches[shard].open(name);
        }
        benches[0].deposit("payer", 1);
        benches[0].deposit("payer", 1);
        benches[1].deposit("payer", 1);
        benches[1].deposit("payer", 1);
        let prepared = benches.each_ref().map(|bench| bench.ledger.last().get());
        let first = decide_all(&mut benches, 1, &[[(0, "payer"), (1, "payee")]; 2]);
        let second =
            decide_all(&mut benches, 2, &[[(1, "payer"), (2, "payee")], [(1, "payer"), (0, "third")]]);
        second.iter().for_each(|decision| settle(&mut benches, 1, decision));
        settle(&mut benches, 0, &second[1]);
        first.iter().for_each(|decision| settle(&mut benches, 0, decision));
        let expected: Vec<_> = [(1, 1), (1, 2), (2, 1), (2, 2)]
            .into_iter()
            .map(|(shard, number): (usize, u64)| (shard, prepared[shard] + number))
            .collect();
        // Whoever reads before a copy is durable has the same order.
        let last = benches.each_ref().map(|bench| bench.ledger.last().get());
        for copies in prepared[0]..=last[0] {
            let (events, _) = read_in_pages_to(&benches, &prepared, &[copies, last[1], last[2]]);
            assert_eq!(events, expected, "up to {copies}");
        }
    }

    /// All events behind these, shard and sequence of each, read with a new feed for each page; and how many of one log
    /// were read ahead at most.
    fn read_in_pages(benches: &[Bench], prepared: &[u64]) -> (Vec<(usize, u64)>, usize) {
        let last: Vec<_> = benches.iter().map(|bench| bench.ledger.last().get()).collect();
        read_in_pages_to(benches, prepared, &last)
    }

    /// The same up to these.
    fn read_in_pages_to(benches: &[Bench], prepared: &[u64], last: &[u64]) -> (Vec<(usize, u64)>, usize) {
        const PAGE: usize = 1000;
        let last: Vec<_> = last.iter().map(std::slice::from_ref).collect();
        let source = Growing::new(benches, &last);
        let before = prepared.iter().map(|&last| Sequence::new(last).expect("a sequence")).collect();
        let (mut position, mut events, mut ahead) = (Position::new(before), Vec::new(), 0);
        loop {
            let (mut feed, mut found) = (Feed::new(&position), Vec::new());
            // Nobody is asked what may still come.
            feed.lanes.iter_mut().for_each(|lane| lane.is_waived = true);
            let halt = feed.advance(&source, &EventFilter::default(), PAGE, &mut found, &mut 0);
            ahead = feed.lanes.iter().map(|lane| lane.window.len()).max().max(Some(ahead)).expect("a lane");
            events.extend(found.iter().map(|found| (found.shard.index(), found.sequence.get())));
            position = feed.position();
            match halt.expect("the logs are whole") {
                Halt::Full => assert!(!found.is_empty(), "each page gets on"),
                Halt::Empty => return (events, ahead),
                Halt::Horizon(_) => panic!("nobody is waited for"),
            }
        }
    }

    /// The same with `payer`, `payee` and `other` in shard 0, `payee` and `other` in shard 1, and `payer`, which has
    /// something, in shard 2.
    fn three() -> ([Bench; 3], [u64; 3]) {
        let mut benches = [Bench::new(0), Bench::new(1), Bench::new(2)];
        ["payer", "payee", "other"].iter().for_each(|name| benches[0].open(name));
        ["payee", "other"].iter().for_each(|name| benches[1].open(name));
        benches[1].deposit("payee", 1);
        benches[2].open("payer");
        (0..9).for_each(|_| benches[2].deposit("payer", 1));
        let prepared = benches.each_ref().map(|bench| bench.ledger.last().get());
        (benches, prepared)
    }

    /// While the time stands still, all that happens has one time. A transfer that waited for what it depends on had all of
    /// it read ahead and kept.
    #[test]
    fn while_time_stands_still_a_log_is_not_read_ahead_without_a_bound() {
        const MANY: u64 = 2 * EVENTS_AHEAD_MAX;
        let (mut benches, prepared) = three();
        // What shard 0 waits with comes late in the log of shard 2.
        (0..1500).for_each(|_| benches[2].deposit("payer", NOW));
        let blocks = decide(&mut benches, 2, [(2, "payer"), (0, "other")]);
        settle(&mut benches, 0, &blocks);
        (0..MANY).for_each(|_| benches[0].deposit("other", NOW));
        benches[0].deposit("payer", NOW);
        let paid = benches[0].ledger.last().get();
        decide(&mut benches, 1, [(0, "payer"), (0, "payee")]);
        let (events, ahead) = read_in_pages(&benches, &prepared);
        assert!(ahead as u64 <= EVENTS_AHEAD_MAX, "{ahead} were read ahead");
        assert_eq!(events.len() as u64, 1500 + 1 + MANY + 1 + 1, "each comes once");
        let place = |event| events.iter().position(|found| *found == event).expect("it is shown");
        assert!(place((0, paid)) < place((1, prepared[1] + 1)));
    }

    /// Where mail between shards took longer than so many events, of no event it is known that it comes first. Then more is
    /// read.
    #[test]
    fn a_log_is_read_ahead_as_far_as_it_takes_to_get_on() {
        const MANY: u64 = EVENTS_AHEAD_MAX + 1;
        let (three, prepared) = three();
        let mut benches: Vec<_> = three.into_iter().chain([Bench::new(3)]).collect();
        // It depends on nothing, but is of a later time.
        benches[3].open("other");
        benches[3].deposit("other", NOW + 1);
        let prepared: Vec<_> = prepared.into_iter().chain([1]).collect();
        let late = decide(&mut benches, 2, [(2, "payer"), (1, "other")]);
        let blocks = decide(&mut benches, 2, [(2, "payer"), (0, "other")]);
        settle(&mut benches, 0, &blocks);
        let crossing = decide(&mut benches, 1, [(1, "payee"), (0, "payee")]);
        (0..MANY).for_each(|_| benches[0].deposit("other", NOW));
        settle(&mut benches, 0, &crossing);
        (0..MANY).for_each(|_| benches[1].deposit("payee", NOW));
        settle(&mut benches, 1, &late);
        let (events, ahead) = read_in_pages(&benches, &prepared);
        assert!(ahead as u64 > EVENTS_AHEAD_MAX);
        assert_eq!(events.len() as u64, 3 + 2 * MANY + 1, "each comes once");
        assert_eq!(events.last(), Some(&(3, 2)));
    }

    /// P7: what a filter leaves out, and what is not for clients, takes as long to read as what is shown.
    #[test]
    fn a_reading_ends_behind_so_many_events_though_it_found_nothing() {
        let refused = Change::Refused { rejection: Rejection::AccountNotFound, request_id: "r".into() };
        let refused = Event { time: Timestamp::from_millis(NOW), key: None, change: refused };
        for is_shown in [true, false] {
            let mut bench = Bench::new(0);
            bench.open("payee");
            (0..=EVENTS_SCANNED_MAX).for_each(|_| match is_shown {
                true => bench.deposit("payee", NOW),
                false => bench.happen(&refused),
            });
            let source = Growing::new(&[bench], &[&[EVENTS_SCANNED_MAX as u64 + 2]]);
            let filter = EventFilter { kinds: vec![TransactionType::Closing], ..EventFilter::default() };
            let mut feed = Feed::new(&Position::new(vec![Sequence::NONE]));
            for (passed, end) in [(EVENTS_SCANNED_MAX, Halt::Full), (2, Halt::Empty)] {
                let (mut found, mut scanned) = (Vec::new(), 0);
                let halt = feed.advance(&source, &filter, 1, &mut found, &mut scanned);
                assert_eq!((halt.expect("the log is whole"), scanned), (end, passed));
                assert!(found.is_empty());
            }
        }
    }

    #[test]
    fn of_so_many_accounts_at_most_the_terms_are_kept() {
        let known = AccountsKnown::default();
        let shard = ShardId::new(0).expect("in range");
        let terms = |number| (Timestamp::from_millis(number), Currency::USD);
        for number in 0..=ACCOUNTS_KNOWN_MAX as u32 {
            let account = AccountNumber::new(number);
            known.insert(shard, account, terms(number.into()));
            assert_eq!(known.get(shard, account), Some(terms(number.into())));
            assert!(known.0.lock().len() <= ACCOUNTS_KNOWN_MAX);
        }
    }
}
