//! The shard without threads, clocks or disks: requests and messages in; records, sealed replies and messages
//! out.
//!
//! Whoever drives a [`Shard`] brings the [`Moment`], which is the time and how far the log is durable, and
//! gets an [`Output`]. The threads of [`super::worker`] do so; and the simulation does, with crashes, clocks
//! that leap and disks that are full, on the very code that runs in production.
//!
//! What always holds:
//!
//! - every reply, a refusal too, is sealed with the last event that it depends on: nothing is told that a
//!   crash could take back (P1);
//! - an event is applied and recorded in one turn, so the records are the history of the state, complete and
//!   in order (P2);
//! - a hold whose time is over, by the clock of its shard, ends before anyone looks at its account, as long as the
//!   disk has room to record that; until then it is shown as it was, and nobody is told that it has ended. What
//!   another shard decides of it after the time, on a grant from before, is in time: nobody could look in between;
//! - nobody sees or changes an account that a work has locked: who asks for it waits, and is served in the
//!   order of asking (P2);
//! - what waits is counted, and so is what one request looks at (P7).
//!
//! Works concern accounts of several shards: what they do at each is in `batch/works.rs`. What a request may
//! do to an account is for [`Ledger`] to decide.
//!
//! Left out: threads, clocks, disks, and any way back. If the log fails, the state here is ahead of it, and
//! the only remedy is to end and start again from the log ([`super::commit`]).

mod works;

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;
use smallvec::smallvec;

use super::locks::{Locks, Resource, Resources, Ticket};
use super::request::{AccountFilter, AccountView, HoldView, HoldsView, Reply, Request, TrialBalance};
use super::work::{Message, Work, WorkId, WorkReply, WorkRequest};
use crate::ledger::operation::{Condition, HomedKey, Item, Operation, Place, Sum};
use crate::ledger::{
    Account, AccountId, AccountName, AccountNumber, AccountRef, Change, Command, Event, Hold, HoldKey,
    HoldStatus, IdempotencyKey, KeyStatus, Ledger, Note, OverdraftDefault, Rejection, Sequence, ShardId,
    Terms, Timestamp,
};
use crate::storage::journal::record::Draft;

/// How many requests and works wait for locked accounts at most.
const WAITING_MAX: usize = 4096;

/// How many accounts and the like all those wait for at most, together: a list of accounts waits for ten thousand, a part
/// of a batch for two thousand. Each takes some 40 bytes, so these take 40 MB.
const PLACES_WAITING_MAX: usize = 1 << 20;

/// How many accounts one request for a list looks at, so that a filter that finds little does not stop the shard.
const ACCOUNTS_SCANNED_MAX: usize = 10_000;

/// The same of an account's holds.
const HOLDS_SCANNED_MAX: usize = 10_000;

/// How many holds expire in one turn, unless someone asks about their accounts.
const EXPIRIES_PER_TURN_MAX: usize = 256;

/// How many that are over are looked at in one turn, for those of accounts that are free.
const EXPIRIES_SCANNED_MAX: usize = 4 * EXPIRIES_PER_TURN_MAX;

/// How many a request ends of those of its accounts. Where more are due, it is refused, and the next one goes on.
const EXPIRIES_PER_REQUEST_MAX: usize = 4096;

/// What a shard is set to; the same for all shards.
#[derive(Clone, Copy, Debug)]
pub struct ShardRules {
    /// The overdraft limit of accounts without one of their own.
    pub overdraft: OverdraftDefault,
    /// For how long an idempotency key is kept, in milliseconds.
    pub key_retention_ms: u64,
    /// How many idempotency keys a shard keeps at most.
    pub keys_max: usize,
}

/// A reply and what it waits for.
#[derive(Debug)]
pub struct Sealed<To> {
    /// Whom it is for.
    pub to: To,
    /// The reply.
    pub reply: Reply,
    /// The last event that it depends on: it may leave once that is durable.
    pub after: Sequence,
}

/// The work of one group commit.
#[derive(Debug)]
pub struct Batch<To> {
    /// The records, in order.
    pub drafts: Vec<Draft>,
    /// The replies that wait for them, or for those of batches before.
    pub replies: Vec<Sealed<To>>,
    /// What has to be durable in other shards before any of this is appended, and before any reply leaves.
    pub requires: BTreeMap<ShardId, Sequence>,
}

impl<To> Default for Batch<To> {
    fn default() -> Self {
        Batch { drafts: Vec::new(), replies: Vec::new(), requires: BTreeMap::new() }
    }
}

impl<To> Batch<To> {
    /// Whether there is nothing to commit and nobody to answer.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty() && self.replies.is_empty()
    }

    /// How many bytes its events take.
    pub fn bytes(&self) -> usize {
        self.drafts.iter().map(Draft::bytes).sum()
    }

    fn record(&mut self, sequence: Sequence, event: &Event) {
        if !self.drafts.last_mut().is_some_and(|draft| draft.push(event)) {
            self.drafts.push(Draft::new(sequence, event));
        }
    }

    /// Records events that are nothing without one another: in one record.
    fn record_together(&mut self, first: Sequence, events: &[Event]) {
        if let [event] = events {
            return self.record(first, event);
        }
        if !self.drafts.last_mut().is_some_and(|draft| draft.push_all(events)) {
            let draft = Draft::group(first, events);
            self.drafts.push(draft.expect("a list of operations is cut to fit a record"));
        }
    }

    /// Records the next event of a list that is nothing without the others, one at a time. `joins` says whether it goes
    /// into the last record, as all do behind the first.
    fn record_joined(&mut self, sequence: Sequence, event: &Event, joins: &mut bool) {
        match self.drafts.last_mut().filter(|_| *joins) {
            Some(draft) => draft.push_joined(event),
            None => self.drafts.push(Draft::new(sequence, event)),
        }
        *joins = true;
    }

    fn require(&mut self, shard: ShardId, sequence: Sequence) {
        if sequence > Sequence::NONE {
            let required = self.requires.entry(shard).or_insert(sequence);
            *required = sequence.max(*required);
        }
    }
}

/// What comes out of a shard's work.
#[derive(Debug)]
pub struct Output<To> {
    /// What has to be committed.
    pub batch: Batch<To>,
    /// The replies that need not wait.
    pub ready: Vec<(To, Reply)>,
    /// What other shards are told, in order.
    pub messages: Vec<(ShardId, Message<To>)>,
}

impl<To> Default for Output<To> {
    fn default() -> Self {
        Output { batch: Batch::default(), ready: Vec::new(), messages: Vec::new() }
    }
}

/// What a shard knows of the world at the moment of a request.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// The last event known to be durable.
    pub durable: Sequence,
    /// Whether the disk has no room for further events.
    pub disk_full: bool,
}

/// What waits for a lock.
#[derive(Debug)]
enum Waiting<To> {
    Request(Request, To),
    Work(Box<Work<To>>),
    Turn(Box<WorkRequest>, To),
}

/// A shard's state and its rules.
#[derive(Debug)]
pub struct Shard<To> {
    id: ShardId,
    ledger: Ledger,
    rules: ShardRules,
    locks: Locks<Waiting<To>>,
    /// The locks of works that went on to other shards.
    granted: HashMap<WorkId, Ticket>,
    /// Who has got its locks and has not been served yet.
    runnable: VecDeque<(Ticket, Waiting<To>)>,
    works: u64,
    at_once: u64,
}

impl<To> Shard<To> {
    /// A shard that goes on from this ledger.
    ///
    /// # Panics
    /// If it is another shard's.
    pub fn new(id: ShardId, ledger: Ledger, rules: ShardRules) -> Shard<To> {
        assert_eq!(ledger.shard(), id, "a shard has its own ledger");
        Shard {
            id,
            ledger,
            rules,
            locks: Locks::default(),
            granted: HashMap::new(),
            runnable: VecDeque::new(),
            works: 0,
            at_once: 0,
        }
    }

    /// How many works were executed without locks and copies so far.
    pub fn executed_at_once(&self) -> u64 {
        self.at_once
    }

    /// The state.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The state, for who goes on with it.
    pub fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// Whether some work has locked something here.
    pub fn is_locked(&self) -> bool {
        !self.locks.is_empty()
    }

    /// When the next hold expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.ledger.holds().next_expiry()
    }

    /// How many idempotency keys are remembered, and whether that is as many as may be.
    pub fn keys(&self, now: Timestamp) -> (usize, bool) {
        let (keys, Terms { now, keys_max, .. }) = (self.ledger.keys(), self.terms(now));
        (keys.len(), keys.is_full(keys_max, now))
    }

    /// Serves a request.
    pub fn serve(&mut self, request: Request, to: To, moment: Moment, output: &mut Output<To>) {
        match request {
            Request::Work(request) => match request.turn {
                None => self.begin(request, None, to, moment, output),
                Some(_) if self.is_crowded() => {
                    output.ready.push((to, Reply::Worked(WorkReply::Overloaded)));
                }
                Some(turn) => {
                    let (ticket, granted) =
                        self.locks.acquire(smallvec![Resource::Turn(turn)], Waiting::Turn(request, to));
                    self.runnable.extend(granted.map(|waiting| (ticket, waiting)));
                }
            },
            request => self.wait_or_answer(request, to, moment, output),
        }
        self.run(moment, output);
    }

    /// Gets ready for requests that will be served one after the other. Changes nothing.
    pub fn foresee<'a>(&self, requests: impl Iterator<Item = &'a Request>) {
        let accounts: Vec<&AccountRef> = requests.flat_map(Request::accounts).collect();
        if accounts.len() > 1 {
            self.ledger.accounts().fetch(&accounts);
        }
    }

    /// An account as [`Request::Account`] would read it, if that changes nothing, waits for nobody, and tells
    /// nothing that is not durable.
    pub fn glance(&self, account: &AccountRef, moment: Moment) -> Option<AccountView> {
        if self.is_locked() || self.is_expiry_due(moment) {
            return None;
        }
        let account = self.ledger.account(account)?;
        (account.chain.newest() <= moment.durable).then(|| self.view(account, moment))
    }

    /// Hears what another shard has to say.
    pub fn hear(&mut self, message: Message<To>, moment: Moment, output: &mut Output<To>) {
        match message {
            Message::Work(work) => self.admit(work, moment, output),
            Message::Done { work, settlements, time } => {
                self.settle(work, settlements, time, moment, output);
            }
            Message::TurnOver(ticket) => self.locks.release(ticket, &mut self.runnable),
        }
        self.run(moment, output);
    }

    /// Ends the holds whose time is over.
    pub fn expire(&mut self, moment: Moment, output: &mut Output<To>) {
        if !self.is_expiry_due(moment) {
            return;
        }
        let free = |key: &HoldKey| self.locks.is_free(&Resource::Account(key.account));
        let looked_at = self.ledger.holds().due(self.now(moment)).take(EXPIRIES_SCANNED_MAX);
        let due: Vec<_> = looked_at.filter(free).take(EXPIRIES_PER_TURN_MAX).collect();
        due.into_iter().for_each(|key| self.expire_hold(key, moment, output));
    }

    fn expire_hold(&mut self, key: HoldKey, moment: Moment, output: &mut Output<To>) {
        let event = self.ledger.expired(key, self.now(moment));
        self.apply(&event, output);
    }

    /// Whether some hold's time is over, and its end can be recorded.
    fn is_expiry_due(&self, moment: Moment) -> bool {
        !moment.disk_full && self.next_expiry().is_some_and(|expires| expires <= self.now(moment))
    }

    /// Ends the holds of those of these resources that are accounts, which someone is about to look at. Whoever calls
    /// this has them locked, or knows that nobody has. Says whether all have ended whose time is over.
    #[must_use]
    fn expire_among(&mut self, resources: &[Resource], moment: Moment, output: &mut Output<To>) -> bool {
        let holds = self.ledger.holds();
        let accounts = resources.iter().filter_map(|resource| match resource {
            Resource::Account(account) => Some(*account),
            _ => None,
        });
        let due = accounts.flat_map(|account| holds.due_of(account, self.now(moment)));
        let mut due: Vec<_> = due.take(EXPIRIES_PER_REQUEST_MAX + 1).collect();
        let are_all = due.len() <= EXPIRIES_PER_REQUEST_MAX;
        due.truncate(EXPIRIES_PER_REQUEST_MAX);
        due.sort_unstable();
        due.dedup();
        due.into_iter().for_each(|key| self.expire_hold(key, moment, output));
        are_all
    }

    fn apply(&mut self, event: &Event, output: &mut Output<To>) -> Sequence {
        let sequence = self.ledger.apply(event);
        output.batch.record(sequence, event);
        sequence
    }

    /// The time of what is done now: that of the last event if the clock was set back behind it.
    fn now(&self, moment: Moment) -> Timestamp {
        moment.now.max(self.ledger.time())
    }

    fn terms(&self, now: Timestamp) -> Terms {
        Terms {
            now: now.max(self.ledger.time()),
            overdraft: self.rules.overdraft,
            key_retention_ms: self.rules.key_retention_ms,
            keys_max: self.rules.keys_max,
        }
    }

    /// Serves those whose turn has come.
    fn run(&mut self, moment: Moment, output: &mut Output<To>) {
        while let Some((ticket, waiting)) = self.runnable.pop_front() {
            match waiting {
                Waiting::Request(request, to) => {
                    // What it waited for may be called otherwise by now: a name may have got an account. A list may
                    // look at one more than there was when it asked, and would do so each time if it asked anew.
                    if self.locks.has_or_are_free(ticket, &self.resources_of(&request)) {
                        self.answer(request, to, moment, output);
                        self.locks.release(ticket, &mut self.runnable);
                    } else {
                        self.locks.release(ticket, &mut self.runnable);
                        self.wait_or_answer(request, to, moment, output);
                    }
                }
                Waiting::Turn(request, to) => {
                    self.begin(request, Some((self.id, ticket)), to, moment, output);
                }
                Waiting::Work(work) => self.resume(ticket, work, moment, output),
            }
        }
    }

    /// Answers a request about accounts that nobody has locked; else it waits for its turn.
    fn wait_or_answer(&mut self, request: Request, to: To, moment: Moment, output: &mut Output<To>) {
        if self.locks.is_empty() {
            return self.answer(request, to, moment, output);
        }
        let resources = self.resources_of(&request);
        if self.locks.are_all_free(&resources) {
            return self.answer(request, to, moment, output);
        }
        if self.is_crowded() {
            output.ready.push((to, Reply::Overloaded));
            return;
        }
        let (ticket, granted) = self.locks.acquire(resources, Waiting::Request(request, to));
        self.runnable.extend(granted.map(|waiting| (ticket, waiting)));
    }

    /// What a request looks at or changes.
    fn resources_of(&self, request: &Request) -> Resources {
        match request {
            Request::Execute { command, .. } => match command {
                Command::Open { name, .. } => smallvec![Resource::Openings, self.name_resource(name)],
                Command::Deposit { target, .. }
                | Command::Withdraw { target, .. }
                | Command::Close { target } => {
                    smallvec![self.account_resource(&target.account)]
                }
            },
            Request::Account(account) | Request::Holds { account, .. } => {
                smallvec![self.account_resource(account)]
            }
            Request::AccountByNumber(number) | Request::Reference { account: number, .. } => {
                smallvec![self.number_resource(*number)]
            }
            Request::AccountEverNamed(name) => smallvec![self.name_resource(name)],
            Request::Hold(id) => smallvec![self.number_resource(id.account)],
            Request::Reversal(transfer) => smallvec![Resource::Transfer(*transfer)],
            Request::Accounts { from, count, filter } => {
                // What the filter leaves out says something too: that it does not fit.
                let (_, end) = self.page(*from, *count, filter);
                let looked_at =
                    (from.get()..end as u32).map(|number| Resource::Account(AccountNumber::new(number)));
                let is_last = end == self.ledger.accounts().len();
                looked_at.chain(is_last.then_some(Resource::Openings)).collect()
            }
            // The sums of a shard hold at every event (P3), whatever the others are at.
            Request::TrialBalance | Request::Horizon | Request::Work(_) => Resources::new(),
        }
    }

    fn name_resource(&self, name: &AccountName) -> Resource {
        match self.ledger.account_ever_named(name) {
            Some(account) => Resource::Account(account.number),
            None => Resource::Name(name.clone()),
        }
    }

    fn account_resource(&self, account: &AccountRef) -> Resource {
        match account {
            AccountRef::Name(name) => self.name_resource(name),
            AccountRef::Number { number, .. } => self.number_resource(*number),
        }
    }

    /// An account that is not there may have been opened by a decision that this shard has not heard of yet, and
    /// whoever asks for it may have: it waits for the end of the opening.
    fn number_resource(&self, number: AccountNumber) -> Resource {
        match self.ledger.account_by_number(number) {
            Some(_) => Resource::Account(number),
            None => Resource::Openings,
        }
    }

    /// Whether nobody else may wait.
    fn is_crowded(&self) -> bool {
        self.locks.waiting() >= WAITING_MAX || self.locks.places_waiting() >= PLACES_WAITING_MAX
    }

    /// Answers a request about accounts that are free, or locked for it.
    fn answer(&mut self, request: Request, to: To, moment: Moment, output: &mut Output<To>) {
        if self.is_expiry_due(moment) {
            let resources = self.resources_of(&request);
            if !self.expire_among(&resources, moment, output) {
                return output.ready.push((to, Reply::Overloaded));
            }
        }
        let (reply, after) = match request {
            Request::Execute { command, key, request_id } => {
                match self.execute(&command, key, request_id, moment, output) {
                    Ok(answer) => answer,
                    Err(request) => return self.begin_later(request, to, output),
                }
            }
            Request::Work(_) => unreachable!("a work sets out"),
            Request::Account(reference) => self.read(self.ledger.account(&reference), moment),
            Request::AccountByNumber(number) => self.read(self.ledger.account_by_number(number), moment),
            Request::AccountEverNamed(name) => self.read(self.ledger.account_ever_named(&name), moment),
            Request::Hold(id) => {
                let hold = self.ledger.holds().get(&id).copied();
                let account = self.ledger.account_by_number(id.account).filter(|_| hold.is_some());
                let after = account.map_or(self.ledger.last(), |account| account.chain.newest());
                let view = account.zip(hold).map(|(account, hold)| self.hold_view(account, id.key(), hold));
                (Reply::Hold(view), after)
            }
            Request::Holds { account, from, count, pending } => match self.ledger.account(&account) {
                None => (Reply::Holds(None), self.ledger.last()),
                Some(account) => {
                    let (holds, next) = self.holds_of(account, from, count, pending);
                    let view = HoldsView { account: self.view(account, moment), holds, next };
                    (Reply::Holds(Some(Box::new(view))), account.chain.newest())
                }
            },
            Request::Reversal(transfer) => {
                let by = self.ledger.reversals().get(&transfer).copied();
                // By whom may not be durable yet, or it may have a part in another shard that is not.
                (Reply::Reversal(by), self.ledger.last())
            }
            Request::Reference { account, reference } => {
                let used = self.ledger.references().get(&account);
                let by = used.and_then(|used| used.get(&reference)).copied();
                let account = self.ledger.account_by_number(account);
                (Reply::Reference(by), account.map_or(self.ledger.last(), |account| account.chain.newest()))
            }
            Request::Accounts { from, count, filter } => {
                let (page, end) = self.page(from, count, &filter);
                let looked_at = self.ledger.accounts().range(from.index()..end);
                let after = looked_at.map(|account| account.chain.newest()).max().unwrap_or(Sequence::NONE);
                let accounts = page.into_iter().map(|account| self.view(account, moment)).collect();
                let next = (end < self.ledger.accounts().len()).then(|| AccountNumber::new(end as u32));
                (Reply::Accounts { accounts, next }, after)
            }
            Request::TrialBalance => {
                (Reply::TrialBalance(TrialBalance::of(&self.ledger)), self.ledger.last())
            }
            Request::Horizon => {
                let last = self.ledger.last();
                (Reply::Horizon { last, time: self.now(moment) }, last)
            }
        };
        if after <= moment.durable {
            output.ready.push((to, reply));
        } else {
            output.batch.replies.push(Sealed { to, reply, after });
        }
    }

    /// Executes a command, or says which work it takes, if it takes more than one account.
    fn execute(
        &mut self,
        command: &Command,
        key: Option<IdempotencyKey>,
        request_id: Box<str>,
        moment: Moment,
        output: &mut Output<To>,
    ) -> Result<(Reply, Sequence), Box<WorkRequest>> {
        let terms = self.terms(moment.now);
        if let Some(key) = &key {
            if !self.locks.is_empty() && !self.locks.is_free(&Resource::Key(key.digest)) {
                return Ok((Reply::KeyInFlight, Sequence::NONE));
            }
            match self.ledger.key_status(key, terms.now) {
                // The use that filled it may be the newest event.
                KeyStatus::New if self.ledger.keys().is_full(terms.keys_max, terms.now) => {
                    return Ok((Reply::KeysExhausted, self.ledger.last()));
                }
                // Decided here, so the first reply waits as well. With another shard's help it may be there already.
                KeyStatus::Settled(sequence)
                    if sequence > moment.durable && self.protection(command).is_none() =>
                {
                    return Ok((Reply::KeyInFlight, Sequence::NONE));
                }
                KeyStatus::Settled(sequence) => return Ok((Reply::Settled(sequence), sequence)),
                // The use that contradicts this one may not be durable: it is the newest event at the latest.
                KeyStatus::Reused => return Ok((Reply::KeyReused, self.ledger.last())),
                KeyStatus::New | KeyStatus::Claimed => {}
            }
        }
        if moment.disk_full {
            return Ok((Reply::DiskFull, Sequence::NONE));
        }
        if self.tells_allowance(command) {
            return Err(Box::new(self.withdrawal(command, key, &request_id)));
        }
        let key_use = key.map(|key| terms.key_use(key));
        let (change, rejection) = match (self.ledger.decide(command, &terms), &key_use) {
            (Ok(change), _) => (change, None),
            (Err(rejection), key_use) => {
                if let Some(work) = self.with_protection(command, &rejection, key, &request_id) {
                    return Err(Box::new(work));
                }
                if key_use.is_none() {
                    let seen = self.seen_by(command, &rejection);
                    return Ok((Reply::Refused(rejection), seen));
                }
                (Change::Refused { rejection: rejection.clone(), request_id }, Some(rejection))
            }
        };
        let event = Event { time: terms.now, key: key_use, change };
        let sequence = self.apply(&event, output);
        let reply = match rejection {
            Some(rejection) => Reply::Refused(rejection),
            None => {
                let account = match &event.change {
                    Change::Opened { account, .. }
                    | Change::Posted { account, .. }
                    | Change::Closed { account, .. } => self.ledger.account_by_number(*account),
                    _ => None,
                };
                let account = account.expect("a command is about an account");
                let (opened, currency) = (account.opened, account.currency);
                Reply::Executed { sequence, event, opened, currency }
            }
        };
        Ok((reply, sequence))
    }

    /// The work that does what a command could not do alone, if another account protects this one's overdraft.
    fn with_protection(
        &self,
        command: &Command,
        rejection: &Rejection,
        key: Option<IdempotencyKey>,
        request_id: &str,
    ) -> Option<WorkRequest> {
        let Rejection::InsufficientFunds { .. } = rejection else {
            return None;
        };
        let protection = self.protection(command)?;
        let mut request = self.withdrawal(command, key, request_id);
        request.need_accounts(&[protection]);
        Some(request)
    }

    /// Whether what a command does has to tell what may still leave its account, for which a short event has no room.
    fn tells_allowance(&self, command: &Command) -> bool {
        let Command::Withdraw { target, .. } = command else {
            return false;
        };
        self.ledger.account(&target.account).is_some_and(Account::has_velocity_limits)
    }

    /// The work that a withdrawal becomes when it takes more than a short event.
    fn withdrawal(&self, command: &Command, key: Option<IdempotencyKey>, request_id: &str) -> WorkRequest {
        let Command::Withdraw { target, amount } = command else {
            unreachable!("only a withdrawal takes more");
        };
        let account = Place { shard: self.id, account: target.account.clone() };
        let conditions = Condition::matching(&account, target.version);
        let operation = Operation::Withdraw { account, amount: Sum::Exactly(*amount), note: Note::default() };
        let key = key.map(|key| HomedKey { home: self.id, key });
        let item = Item { operation, conditions, key };
        WorkRequest::of(smallvec![item], None, false, false, request_id.into(), 1)
    }

    /// The account that helps out if this command lacks funds.
    fn protection(&self, command: &Command) -> Option<AccountId> {
        let Command::Withdraw { target, .. } = command else {
            return None;
        };
        self.ledger.account(&target.account)?.details.as_ref()?.protection()
    }

    /// The last event that a refusal of `command` depended on: the account's newest if the account alone decided,
    /// else the shard's. A name that finds nothing may have been closed a moment ago.
    fn seen_by(&self, command: &Command, rejection: &Rejection) -> Sequence {
        let account = match (command, rejection) {
            (_, Rejection::BalanceOutOfRange) | (Command::Open { .. }, _) => None,
            (
                Command::Deposit { target, .. }
                | Command::Withdraw { target, .. }
                | Command::Close { target },
                _,
            ) => self.ledger.account(&target.account),
        };
        account.map_or(self.ledger.last(), |account| account.chain.newest())
    }

    /// The accounts of a page, and the end of those that were looked at for it.
    fn page(&self, from: AccountNumber, count: usize, filter: &AccountFilter) -> (Vec<&Account>, usize) {
        let accounts = self.ledger.accounts();
        let end = accounts.len().min(from.index().saturating_add(ACCOUNTS_SCANNED_MAX));
        let mut page = Vec::new();
        for account in accounts.range(from.index()..end) {
            if page.len() == count {
                return (page, account.number.index());
            }
            if filter.matches(account) {
                page.push(account);
            }
        }
        (page, end)
    }

    /// A page of an account's holds, and the version that the next one starts at.
    fn holds_of(
        &self,
        account: &Account,
        from: u32,
        count: usize,
        pending: Option<bool>,
    ) -> (Vec<HoldView>, Option<u32>) {
        let mut page = Vec::new();
        for (place, (key, hold)) in self.ledger.holds().of_account(account.number, from).enumerate() {
            if page.len() == count || place == HOLDS_SCANNED_MAX {
                return (page, Some(key.version));
            }
            if pending.is_none_or(|pending| pending == (hold.status == HoldStatus::Pending)) {
                page.push(self.hold_view(account, *key, *hold));
            }
        }
        (page, None)
    }

    fn read(&self, account: Option<&Account>, moment: Moment) -> (Reply, Sequence) {
        // Nothing to be seen may mean "closed a moment ago".
        let after = account.map_or(self.ledger.last(), |account| account.chain.newest());
        (Reply::Account(account.map(|account| Box::new(self.view(account, moment)))), after)
    }

    fn hold_view(&self, account: &Account, key: HoldKey, hold: Hold) -> HoldView {
        HoldView {
            id: key.id(self.id, hold.created),
            account: AccountId { opened: account.opened, shard: self.id, number: account.number },
            currency: account.currency,
            hold,
        }
    }

    fn view(&self, account: &Account, moment: Moment) -> AccountView {
        let now = self.now(moment);
        let allowance =
            account.details.as_ref().map(|details| details.velocity.allowance(&details.spent, now));
        AccountView {
            id: AccountId { opened: account.opened, shard: self.id, number: account.number },
            name: account.name.clone(),
            currency: account.currency,
            posted: account.posted,
            held: account.held,
            available: account.available(self.rules.overdraft),
            overdraft_limit: account.limit(self.rules.overdraft),
            frozen: account.frozen,
            opened: account.opened,
            updated: account.updated,
            closed: account.closed(),
            version: account.version,
            newest: account.chain.newest(),
            details: account.details.clone(),
            allowance: allowance.unwrap_or_default(),
        }
    }
}
