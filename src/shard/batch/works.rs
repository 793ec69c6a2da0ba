//! The steps of a work at a shard: it is admitted and granted what it needs, decided where its way ends, and
//! settled in the other shards.
//!
//! A function is a step, and calls the next one if that is for the same shard; else the work leaves in a
//! message. The whole way, and why it is safe, is told in [`crate::shard::work`].
//!
//! What always holds:
//!
//! - a work has all that it needs of a shard, or waits for its turn;
//! - every other shard that it visited hears how it ended, whatever the end: that unlocks what it has there;
//! - deciding, applying and recording are one step, and nothing of others comes in between;
//! - what is decided is sealed with its last event, and its batch requires what the other shards' grants have
//!   seen.
//!
//! Left out: how operations are decided ([`crate::ledger::workspace`]), and who waits for whom
//! ([`crate::shard::locks`]).

use std::mem;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::{Moment, Output, Sealed, Shard, Waiting};
use crate::ledger::operation::{HomedKey, Item};
use crate::ledger::workspace::{Decided, Grant, Missing, Needs, Workspace};
use crate::ledger::{
    AccountNumber, Decision, IdempotencyKey, ItemOutcome, Sequence, ShardId, Terms, Timestamp, TransactionId,
    decide_plain,
};
use crate::shard::locks::{Resource, Resources, Ticket};
use crate::shard::request::Reply;
use crate::shard::work::{
    ATTEMPTS_MAX, Decisions, ItemReply, Message, PlainList, Work, WorkId, WorkReply, WorkRequest,
};
use crate::storage::journal::record::{RECORD_BYTES_MAX, TRANSFER_BYTES_MAX};

/// What other shards have shown, and up to where that has to be durable.
type Requires = SmallVec<[(ShardId, Sequence); 1]>;

/// How a work ends.
struct Ending {
    /// What the client is told.
    reply: WorkReply,
    /// What the other shards are told: each, the decisions with a part for it.
    decisions: Decisions,
    /// The last event here that the reply depends on.
    after: Sequence,
    /// What it depends on elsewhere.
    requires: Requires,
}

impl Ending {
    /// A reply to the client only, which depends on nothing elsewhere.
    fn told(reply: WorkReply, after: Sequence) -> Ending {
        Ending { reply, decisions: Decisions::new(), after, requires: Requires::new() }
    }
}

impl<To> Shard<To> {
    /// Has a work set out.
    pub(super) fn begin(
        &mut self,
        request: Box<WorkRequest>,
        turn: Option<(ShardId, Ticket)>,
        to: To,
        moment: Moment,
        output: &mut Output<To>,
    ) {
        let work = Work::new(self.next_work(), request, turn, to);
        self.set_out(work, moment, output);
    }

    /// Makes a work of a request that has its account to itself: it queues up for that like any other.
    pub(super) fn begin_later(&mut self, request: Box<WorkRequest>, to: To, output: &mut Output<To>) {
        let work = Work::new(self.next_work(), request, None, to);
        output.messages.push((work.next_shard(), Message::Work(work)));
    }

    /// Sends a work to the first of its shards.
    fn set_out(&mut self, work: Box<Work<To>>, moment: Moment, output: &mut Output<To>) {
        let first = work.next_shard();
        if first == self.id {
            self.admit(work, moment, output);
        } else {
            output.messages.push((first, Message::Work(work)));
        }
    }

    /// Locks what a work needs here, or lets it wait.
    pub(super) fn admit(&mut self, mut work: Box<Work<To>>, moment: Moment, output: &mut Output<To>) {
        assert_eq!(work.next_shard(), self.id, "a work knows its way");
        if let Some((reply, after)) = self.transfer_at_once(&work.request, moment, output) {
            return self.finish(work, Ending::told(reply, after), moment, output);
        }
        work.request.spell_out();
        // A key that another request is being worked on with is not waited for: the client is told at once.
        let place = work.grants.len();
        let needs = &mut work.request.needs[place].1;
        let busy: Vec<_> =
            needs.keys.extract_if(.., |key| !self.locks.is_free(&Resource::Key(key.digest))).collect();
        needs.busy_keys.extend(busy);
        let resources = self.needed(needs);
        let found = found(needs, &resources);
        let is_last = place + 1 == work.request.needs.len();
        let are_free = self.locks.are_all_free(&resources);
        if !are_free && self.is_crowded() {
            return self.give_up(work, moment, output);
        }
        if is_last && are_free && !self.is_expiry_due(moment) {
            // It is decided, and its locks would be given back, before anybody else could ask for them. (A hold whose
            // time is over ends with its account locked.)
            return self.grant(work, &found, moment, output);
        }
        let (ticket, granted) = self.locks.acquire(resources, Waiting::Work(work));
        if let Some(Waiting::Work(work)) = granted {
            self.grant_locked(ticket, work, &found, moment, output);
        }
    }

    /// Executes a work that consists of plain transfers between accounts of this shard, if nobody else has one of them
    /// and nothing else stands against it: what became of them, and the last event that this depends on.
    fn transfer_at_once(
        &mut self,
        request: &WorkRequest,
        moment: Moment,
        output: &mut Output<To>,
    ) -> Option<(WorkReply, Sequence)> {
        let WorkRequest { items, plain, atomic, dry_run, told, key, needs, .. } = request;
        let is_simple = needs.len() == 1 && key.is_none() && !(*atomic || *dry_run);
        if !is_simple || moment.disk_full || self.is_expiry_due(moment) {
            return None;
        }
        let terms = self.terms(moment.now);
        let mut transfers = match plain {
            Some(PlainList { shard, transfers }) => {
                assert_eq!(*shard, self.id, "their shard is the only one that is needed");
                self.ledger.plain_transfers(transfers, &terms)
            }
            None => self.ledger.plain_items(items, &terms),
        }?;
        let fits = transfers.len() <= RECORD_BYTES_MAX / TRANSFER_BYTES_MAX;
        if !(fits && self.locks.are_free(transfers.accounts())) {
            return None;
        }
        let mut after = transfers.seen();
        let room = transfers.len() * TRANSFER_BYTES_MAX;
        let mut joins = output.batch.drafts.last().is_some_and(|draft| draft.has_room(room));
        let mut reply = WorkReply::of_items(*told, transfers.len());
        for place in 0..transfers.len() {
            match self.ledger.transfer(&mut transfers, place, &terms) {
                Ok((sequence, event)) => {
                    output.batch.record_joined(sequence, event, &mut joins);
                    after = sequence;
                    let id = TransactionId { time: event.time, shard: self.id, sequence };
                    reply.add_done(id, event.change.decision().expect("it was decided"));
                }
                Err(rejected) => reply.add_not_done(place, ItemOutcome::Refused(rejected)),
            }
        }
        self.at_once += 1;
        Some((reply, after))
    }

    /// Goes on with a work that has come to the head of all the queues it waited in.
    pub(super) fn resume(
        &mut self,
        ticket: Ticket,
        work: Box<Work<To>>,
        moment: Moment,
        output: &mut Output<To>,
    ) {
        let resources = self.needed(work.needs_here());
        // What it waited for may be called otherwise by now: a name may have got an account.
        if self.locks.has_all(ticket, &resources) {
            let found = found(work.needs_here(), &resources);
            self.grant_locked(ticket, work, &found, moment, output);
        } else {
            self.locks.release(ticket, &mut self.runnable);
            self.admit(work, moment, output);
        }
    }

    /// Grants a work what is locked for it with this ticket.
    fn grant_locked(
        &mut self,
        ticket: Ticket,
        work: Box<Work<To>>,
        found: &[Option<AccountNumber>],
        moment: Moment,
        output: &mut Output<To>,
    ) {
        self.granted.insert(work.id, ticket);
        if self.is_expiry_due(moment) {
            let resources = self.locks.resources(ticket).to_vec();
            if !self.expire_among(&resources, moment, output) {
                return self.give_up(work, moment, output);
            }
        }
        self.grant(work, found, moment, output);
    }

    /// Adds what the work asks to know of this shard, which nobody else can change now, and lets it go on.
    fn grant(
        &mut self,
        mut work: Box<Work<To>>,
        found: &[Option<AccountNumber>],
        moment: Moment,
        output: &mut Output<To>,
    ) {
        // A key that was settled a moment ago is not refused as in flight: its first reply may be there already, while
        // the settlement here is not durable yet. What the work answers waits for that, since the grant has seen it.
        work.grants.push(self.ledger.grant(work.needs_here(), found, &self.terms(moment.now)));
        work.disk_full |= moment.disk_full;
        if work.grants.len() < work.request.needs.len() {
            output.messages.push((work.next_shard(), Message::Work(work)));
        } else {
            self.decide(work, moment, output);
        }
    }

    /// Decides a work that has all its grants.
    fn decide(&mut self, mut work: Box<Work<To>>, moment: Moment, output: &mut Output<To>) {
        let grants = mem::take(&mut work.grants);
        let mut after = Sequence::NONE;
        let mut requires = Requires::new();
        let mut now = moment.now;
        for grant in &grants {
            now = now.max(grant.time);
            if grant.shard == self.id {
                after = grant.seen;
            } else {
                requires.push((grant.shard, grant.seen));
            }
        }
        let terms = self.terms(now);
        let first = self.ledger.last().next();
        let (reply, decisions) = match self.decide_plain_transfer(&work, &grants, terms.now, output) {
            Some(decided) => decided,
            None => match self.decide_on_copies(&work, grants, terms, output) {
                Ok(decided) => decided,
                Err(missing) => return self.set_out_again(work, missing, moment, output),
            },
        };
        // What was recorded just now comes after all that the grant has seen.
        if self.ledger.last() >= first {
            after = self.ledger.last();
        }
        self.finish(work, Ending { reply, decisions, after, requires }, moment, output);
    }

    /// Decides a work that is nothing but a plain transfer, without a workspace.
    fn decide_plain_transfer(
        &mut self,
        work: &Work<To>,
        grants: &[Grant],
        time: Timestamp,
        output: &mut Output<To>,
    ) -> Option<(WorkReply, Decisions)> {
        let WorkRequest { items, key, dry_run, told, .. } = &*work.request;
        let is_single = items.len() == 1 && key.is_none() && *told;
        if !is_single || *dry_run || work.disk_full {
            return None;
        }
        let (reply, decisions) = match decide_plain(&items[0], grants)? {
            Ok(decision) => {
                let (id, decision) = self.record_decision(decision, time, output);
                let reply = ItemReply::Done { id, decision: Arc::clone(&decision) };
                (reply, smallvec![(id, decision)])
            }
            Err(rejected) => (ItemReply::Not(ItemOutcome::Refused(rejected)), Decisions::new()),
        };
        Some((WorkReply::Items(smallvec![reply]), decisions))
    }

    /// Decides a work in a workspace; what was decided is applied and recorded, but not in a dry run.
    fn decide_on_copies(
        &mut self,
        work: &Work<To>,
        grants: Vec<Grant>,
        terms: Terms,
        output: &mut Output<To>,
    ) -> Result<(WorkReply, Decisions), Missing> {
        let request = &work.request;
        let first = self.ledger.last().next();
        let mut workspace = Workspace::new(self.id, terms, first, grants);
        if let Some(reply) = request.key.and_then(|key| known_key(&workspace, &key.key)) {
            return Ok((reply, Decisions::new()));
        }
        let ends = decide_items(&mut workspace, request, first)?;
        let is_one_by_one = request.key.is_some() && !(request.atomic || request.dry_run);
        if let Some(reply) = passing(&ends).filter(|_| is_one_by_one) {
            return Ok((reply, Decisions::new()));
        }
        let decided = workspace.into_decided();
        let first_id = TransactionId { time: terms.now, shard: self.id, sequence: first };
        if request.dry_run {
            let decisions = decided.into_iter().map(|decided| Arc::new(decided.decision));
            let decisions = ids_from(first_id).zip(decisions).collect();
            // Of a dry run nobody else is told anything.
            return Ok((items_reply(request, ends, &decisions), Decisions::new()));
        }
        if work.disk_full && decided.iter().any(is_recorded) {
            // Only now: what was done before, under a key, is told all the same, and so are refusals.
            return Ok((WorkReply::DiskFull, Decisions::new()));
        }
        let decisions = self.record_decisions(decided, first_id, output);
        Ok((items_reply(request, ends, &decisions), decisions))
    }

    /// Applies and records a decision that no key comes with.
    fn record_decision(
        &mut self,
        decision: Decision,
        time: Timestamp,
        output: &mut Output<To>,
    ) -> (TransactionId, Arc<Decision>) {
        let event = self.ledger.decided(Decided { decision, key: None }, time);
        let sequence = self.apply(&event, output);
        let decision = event.change.decision().expect("it was decided");
        (TransactionId { time, shard: self.id, sequence }, Arc::clone(decision))
    }

    /// Applies decisions that are nothing without one another, and records them together. `first` is the id
    /// of the first.
    fn record_decisions(
        &mut self,
        decided: Vec<Decided>,
        first: TransactionId,
        output: &mut Output<To>,
    ) -> Decisions {
        let mut events = Vec::with_capacity(decided.len());
        let mut decisions = Decisions::with_capacity(decided.len());
        for (id, decided) in ids_from(first).zip(decided) {
            if !is_recorded(&decided) {
                decisions.push((id, Arc::new(decided.decision)));
                continue;
            }
            let event = self.ledger.decided(decided, first.time);
            self.ledger.apply(&event);
            decisions.push((id, Arc::clone(event.change.decision().expect("it was decided"))));
            events.push(event);
        }
        if !events.is_empty() {
            output.batch.record_together(first.sequence, &events);
        }
        decisions
    }

    /// Tells everyone how a work ended: the client, and the other shards, which are free then.
    #[expect(clippy::boxed_local, reason = "it comes in a box, and would be copied out of it")]
    fn finish(&mut self, work: Box<Work<To>>, ending: Ending, moment: Moment, output: &mut Output<To>) {
        let Ending { reply, decisions, after, requires } = ending;
        let time = self.ledger.time();
        for (shard, _) in work.request.needs.iter().filter(|(shard, _)| *shard != self.id) {
            let concerned = |decision: &Decision| decision.part(*shard).is_some();
            let settlements = decisions.iter().filter(|(_, decision)| concerned(decision)).cloned().collect();
            output.messages.push((*shard, Message::Done { work: work.id, settlements, time }));
        }
        let waits = requires.iter().any(|(_, sequence)| *sequence > Sequence::NONE) || after > moment.durable;
        for (shard, sequence) in requires {
            output.batch.require(shard, sequence);
        }
        let Work { id, turn, to, .. } = *work;
        if waits {
            output.batch.replies.push(Sealed { to, reply: Reply::Worked(reply), after });
        } else {
            output.ready.push((to, Reply::Worked(reply)));
        }
        self.let_go(id);
        match turn {
            Some((shard, ticket)) if shard == self.id => self.locks.release(ticket, &mut self.runnable),
            Some((shard, ticket)) => output.messages.push((shard, Message::TurnOver(ticket))),
            None => {}
        }
    }

    /// Applies and records what another shard has decided for this one, and gives back what was locked for
    /// that.
    pub(super) fn settle(
        &mut self,
        work: WorkId,
        settlements: Decisions,
        time: Timestamp,
        moment: Moment,
        output: &mut Output<To>,
    ) {
        for (by, decision) in settlements {
            let event = self.ledger.settled(by, &decision, moment.now.max(time));
            // None: a repetition. An error would be a mistake of ours, not of the world's.
            if let Some(event) = event.expect("settlements come in the order of their decisions") {
                output.batch.require(by.shard, by.sequence);
                self.apply(&event, output);
            }
        }
        self.let_go(work);
    }

    /// Gives back what is locked here for a work.
    fn let_go(&mut self, work: WorkId) {
        if let Some(ticket) = self.granted.remove(&work) {
            self.locks.release(ticket, &mut self.runnable);
        }
    }

    /// Lets all shards go that have granted something, and tells the client that it was too much.
    fn give_up(&mut self, mut work: Box<Work<To>>, moment: Moment, output: &mut Output<To>) {
        work.request.needs.truncate(work.grants.len());
        work.grants.clear();
        // The refusal tells nothing of any account.
        self.finish(work, Ending::told(WorkReply::Overloaded, Sequence::NONE), moment, output);
    }

    fn set_out_again(
        &mut self,
        mut work: Box<Work<To>>,
        missing: Missing,
        moment: Moment,
        output: &mut Output<To>,
    ) {
        let time = self.ledger.time();
        for (shard, _) in work.request.needs.iter().filter(|(shard, _)| *shard != self.id) {
            output
                .messages
                .push((*shard, Message::Done { work: work.id, settlements: Decisions::new(), time }));
        }
        self.let_go(work.id);
        let shards = work.request.needs.len();
        if !work.request.need_missing(missing) || work.attempts >= ATTEMPTS_MAX {
            return self.give_up(work, moment, output);
        }
        assert!(work.request.needs.len() >= shards, "a work needs no less than before");
        for (_, needs) in &mut work.request.needs {
            let busy = mem::take(&mut needs.busy_keys);
            needs.keys.extend(busy);
        }
        (work.id, work.attempts) = (self.next_work(), work.attempts + 1);
        work.disk_full = false;
        self.set_out(work, moment, output);
    }

    /// What a work needs of this shard, the accounts that it names first and in their order; some of it more than once,
    /// as one account may be named in many operations.
    fn needed(&self, needs: &Needs) -> Resources {
        let mut resources: Resources =
            needs.accounts.iter().map(|account| self.account_resource(account)).collect();
        if !needs.openings.is_empty() {
            resources.push(Resource::Openings);
            resources.extend(needs.openings.iter().map(|name| self.name_resource(name)));
        }
        resources.extend(needs.holds.iter().map(|hold| self.number_resource(hold.account)));
        resources.extend(needs.reversals.iter().map(|transfer| Resource::Transfer(transfer.sequence)));
        resources.extend(needs.keys.iter().map(|key| Resource::Key(key.digest)));
        resources
    }

    fn next_work(&mut self) -> WorkId {
        self.works += 1;
        WorkId { shard: self.id, number: self.works }
    }
}

/// The numbers of the accounts that are needed by name, as far as there are any, among all the resources that are needed.
fn found(needs: &Needs, resources: &[Resource]) -> SmallVec<[Option<AccountNumber>; 2]> {
    let number = |resource: &Resource| match resource {
        Resource::Account(number) => Some(*number),
        _ => None,
    };
    resources[..needs.accounts.len()].iter().map(number).collect()
}

/// How one item of a work ends.
enum ItemEnd {
    /// It is decided: the place of the decision.
    Done(usize),
    /// It is not, and why.
    Not(ItemOutcome),
}

impl ItemEnd {
    /// That of an item which nobody attempts any more, since its list is all or nothing and was refused for another one.
    fn of_unattempted(item: &Item, workspace: &Workspace) -> ItemEnd {
        let known = item.key.and_then(|key| workspace.key_outcome(&key.key)).map(ItemEnd::Not);
        known.filter(ItemEnd::is_settled).unwrap_or(ItemEnd::Not(ItemOutcome::NotAttempted))
    }

    /// Whether an earlier request, or item, has ended it.
    fn is_settled(&self) -> bool {
        matches!(self, ItemEnd::Not(ItemOutcome::Settled(_)))
    }
}

/// Decides the items of a work, one after the other.
fn decide_items(
    workspace: &mut Workspace,
    request: &WorkRequest,
    first: Sequence,
) -> Result<Vec<ItemEnd>, Missing> {
    let mut ends = Vec::with_capacity(request.items.len());
    let mut missing = Missing::default();
    for (place, item) in request.items.iter().enumerate() {
        let end = match workspace.execute(item, &request.request_id) {
            Ok(ItemOutcome::Done { .. }) => ItemEnd::Done(workspace.decided() - 1),
            Ok(outcome) => ItemEnd::Not(outcome),
            Err(more) => {
                missing.extend(more);
                continue;
            }
        };
        // What an earlier request or item with its key has ended is not attempted again, and keeps that end.
        let failed = matches!(end, ItemEnd::Not(_)) && !end.is_settled();
        if failed && request.atomic {
            workspace.discard(first);
            // Of all others it is as if they had not come: but what an earlier request has done of them stays done.
            ends = request.items.iter().map(|item| ItemEnd::of_unattempted(item, workspace)).collect();
            ends[place] = end;
            break;
        }
        ends.push(end);
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let is_kept = !(request.dry_run || (request.atomic && passing(&ends).is_some()));
    if let Some(HomedKey { home, key }) = request.key.filter(|_| is_kept) {
        let last = workspace.decided();
        let outcomes = ends.iter().map(|end| match end {
            ItemEnd::Done(place) => ItemOutcome::Done { back: (last - place) as u32 },
            ItemEnd::Not(outcome) => outcome.clone(),
        });
        workspace.end_batch(outcomes.collect(), &request.request_id, home, key);
    }
    Ok(ends)
}

/// Why some of these items were not executed that may be when they are tried again: what a list's key stands for must
/// not be that another request's key was in flight, or that there were too many of them.
fn passing(ends: &[ItemEnd]) -> Option<WorkReply> {
    ends.iter().find_map(|end| match end {
        ItemEnd::Not(ItemOutcome::KeyInFlight) => Some(WorkReply::KeyInFlight),
        ItemEnd::Not(ItemOutcome::KeysExhausted) => Some(WorkReply::KeysExhausted),
        _ => None,
    })
}

/// What a list's own key says before anything is decided.
fn known_key(workspace: &Workspace, key: &IdempotencyKey) -> Option<WorkReply> {
    match workspace.key_outcome(key)? {
        ItemOutcome::Settled(outcome) => Some(WorkReply::Settled(outcome)),
        ItemOutcome::KeyReused => Some(WorkReply::KeyReused),
        ItemOutcome::KeyInFlight => Some(WorkReply::KeyInFlight),
        ItemOutcome::KeysExhausted => Some(WorkReply::KeysExhausted),
        _ => None,
    }
}

/// Whether a decision makes an event. One with neither parts nor a key changes nothing: it is a link that was
/// there already.
fn is_recorded(decided: &Decided) -> bool {
    !decided.decision.parts.is_empty() || decided.key.is_some()
}

/// The ids of decisions that follow one another, from the first on.
fn ids_from(first: TransactionId) -> impl Iterator<Item = TransactionId> {
    (0..).map(move |place| TransactionId { sequence: first.sequence.plus(place), ..first })
}

/// What a client is told of the items of a work.
fn items_reply(request: &WorkRequest, ends: Vec<ItemEnd>, decisions: &Decisions) -> WorkReply {
    let mut reply = WorkReply::of_items(request.told, ends.len());
    for (place, end) in ends.into_iter().enumerate() {
        match end {
            ItemEnd::Done(decided) => {
                let (id, decision) = &decisions[decided];
                reply.add_done(*id, decision);
            }
            ItemEnd::Not(outcome) => reply.add_not_done(place, outcome),
        }
    }
    reply
}
