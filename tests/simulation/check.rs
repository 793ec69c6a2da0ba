//! One order of everything that happened, and a plain map that has to agree with all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use teller::ledger::operation::{Condition, Item, Opening, Operation, Place, Requirement, Sum};
use teller::ledger::{
    AccountId, Change, Command, Decision, Event, Hold, HoldId, HoldStatus, ItemOutcome, KeyDigest, Kind,
    Metadata, Note, Reference, ShardId, Timestamp, TransactionId,
};
use teller::shard::request::{AccountView, HoldView, HoldsView, Reply, Request};
use teller::shard::work::{ItemReply, WorkReply};

use super::model::{self, Expected, Model, amount, kind_name, same_refusal};
use super::overdraft;

/// A reply that somebody got.
#[derive(Debug)]
pub(crate) struct Observation {
    /// When it was made.
    pub(crate) step: u64,
    pub(crate) now: Timestamp,
    /// Which shard was asked.
    pub(crate) shard: ShardId,
    pub(crate) request: Request,
    pub(crate) reply: Reply,
}

/// What was decided at each step, by one shard each, and survived.
#[derive(Default)]
pub(crate) struct Timeline {
    steps: BTreeMap<u64, Vec<(TransactionId, Event)>>,
    settled: Vec<(ShardId, TransactionId, Arc<Decision>)>,
}

impl Timeline {
    pub(crate) fn decided(&mut self, step: u64, id: TransactionId, event: Event) {
        self.steps.entry(step).or_default().push((id, event));
    }

    pub(crate) fn settled(&mut self, shard: ShardId, by: TransactionId, decision: &Decision) {
        self.settled.push((shard, by, Arc::new(decision.clone())));
    }

    /// Replays everything, with each reply in the place where it was made.
    pub(crate) fn check(
        mut self,
        observations: Vec<Observation>,
        tally: &mut BTreeMap<String, u64>,
    ) -> Model {
        let mut seen = BTreeMap::<u64, Vec<Observation>>::new();
        let mut model = Model::new(overdraft());
        let mut effects = BTreeMap::<KeyDigest, u32>::new();
        let mut decisions = BTreeMap::new();
        for observation in observations {
            observation.count(tally);
            seen.entry(observation.step).or_default().push(observation);
        }
        let mut steps: Vec<u64> = self.steps.keys().chain(seen.keys()).copied().collect();
        steps.sort_unstable();
        steps.dedup();
        let mut pulled = 0;
        for step in steps {
            let events = self.steps.remove(&step).unwrap_or_default();
            let observations = seen.remove(&step).unwrap_or_default();
            let mut states = vec![];
            for (id, event) in &events {
                if !observations.is_empty() {
                    states.push(model.clone());
                }
                let parts = event.change.decision().map_or(&[][..], |decision| &decision.parts);
                for used in event.key.iter().chain(parts.iter().filter_map(|part| part.key.as_ref())) {
                    *effects.entry(used.key.digest).or_default() += 1;
                }
                if let Some(decision) = event.change.decision() {
                    decisions.insert((id.shard, id.sequence), Arc::new(decision.clone()));
                    *tally.entry(kind_name(&decision.kind).into()).or_default() += 1;
                    pulled = if decision.kind == Kind::Protection { pulled + 1 } else { 0 };
                    if pulled == 2 {
                        *tally.entry("chained protection".into()).or_default() += 1;
                    }
                }
                model.note(*id, event);
            }
            if !observations.is_empty() {
                states.push(model.clone());
            }
            observations.iter().for_each(|observation| observation.check(&states, &events));
        }
        for (key, effects) in effects {
            assert_eq!(effects, 1, "one key, one effect (P5): {key:?}");
        }
        for (shard, by, copy) in self.settled {
            let decision = decisions.get(&(by.shard, by.sequence)).expect("a settlement has its decision");
            assert_eq!(**decision, copy, "a settlement is a copy of its decision");
            assert!(shard != by.shard && copy.part(shard).is_some());
        }
        model
    }
}

impl Observation {
    fn count(&self, tally: &mut BTreeMap<String, u64>) {
        let mut count = |what: &str| *tally.entry(what.into()).or_default() += 1;
        let first_word = |text: String| text.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
        match &self.reply {
            Reply::Settled(_) | Reply::Worked(WorkReply::Settled(_)) => count("settled key"),
            Reply::KeyReused | Reply::Worked(WorkReply::KeyReused) => count("key reused"),
            Reply::KeysExhausted | Reply::Worked(WorkReply::KeysExhausted) => count("keys exhausted"),
            Reply::Refused(rejection) => count(&first_word(format!("{rejection:?}"))),
            Reply::Worked(WorkReply::Items(items)) => {
                if matches!(&self.request, Request::Work(work) if work.dry_run) {
                    count("dry run");
                }
                for item in items {
                    if let ItemReply::Not(ItemOutcome::Refused(rejected)) = item {
                        count(&first_word(format!("{:?}", rejected.rejection)));
                    }
                }
                if let (Request::Work(work), [.., ItemReply::Not(ItemOutcome::Settled(_))]) =
                    (&self.request, &items[..])
                    && let [before @ .., last] = &work.items[..]
                    && before.iter().zip(items).any(|(item, reply)| {
                        item.key == last.key && !matches!(reply, ItemReply::Not(ItemOutcome::Settled(_)))
                    })
                {
                    count("item repeated in its list");
                }
            }
            _ => {}
        }
    }

    /// There has to be a moment within the step in which the plain map gives the very reply.
    fn check(&self, states: &[Model], events: &[(TransactionId, Event)]) {
        let mut reasons = Vec::new();
        for (place, state) in states.iter().enumerate() {
            match self.holds(state, &states[place..], &events[place..]) {
                Ok(()) => return,
                Err(reason) => reasons.push(reason),
            }
        }
        panic!("no state explains a reply: {self:#?}\n{}", reasons.join("\n"));
    }

    fn holds(&self, model: &Model, after: &[Model], events: &[(TransactionId, Event)]) -> Result<(), String> {
        match (&self.request, &self.reply) {
            (Request::Account(reference), Reply::Account(view)) => {
                let id = model.find(self.shard, reference);
                same(&id.map(|id| id.number), &view.as_ref().map(|view| view.id.number))?;
                view.as_ref().map_or(Ok(()), |view| self.same_account(model, view))
            }
            (Request::AccountByNumber(number), Reply::Account(view)) => {
                let known = model.accounts.keys().any(|id| (id.shard, id.number) == (self.shard, *number));
                same(&known, &view.is_some())?;
                view.as_ref().map_or(Ok(()), |view| self.same_account(model, view))
            }
            (Request::AccountEverNamed(name), Reply::Account(view)) => {
                let known = model
                    .accounts
                    .iter()
                    .find(|(id, account)| id.shard == self.shard && account.name == *name);
                same(&known.map(|(id, _)| id.number), &view.as_ref().map(|view| view.id.number))?;
                view.as_ref().map_or(Ok(()), |view| self.same_account(model, view))
            }
            (Request::Hold(id), Reply::Hold(view)) => {
                same(&model.holds.contains_key(id), &view.is_some())?;
                view.as_ref().map_or(Ok(()), |view| same_hold(model, view))
            }
            (Request::Holds { account, from, count, pending }, Reply::Holds(found)) => {
                let id = model.find(self.shard, account);
                same(&id, &found.as_ref().map(|found| found.account.id))?;
                let Some(HoldsView { account: view, holds, next }) = found.as_deref() else { return Ok(()) };
                self.same_account(model, view)?;
                let is_asked_for = |(key, hold): &(&HoldId, &model::Hold)| {
                    Some(model.account_of(**key)) == id
                        && key.version >= *from
                        && pending.is_none_or(|pending| pending == hold.outcome.is_none())
                };
                let mut all: Vec<HoldId> =
                    model.holds.iter().filter(is_asked_for).map(|(key, _)| *key).collect();
                all.sort_unstable_by_key(|key| key.version);
                let ids: Vec<HoldId> = holds.iter().map(|hold| hold.id).collect();
                same(&all[..all.len().min(*count)], &ids[..])?;
                same(&(all.len() <= *count || next.is_some()), &true)?;
                holds.iter().try_for_each(|hold| same_hold(model, hold))
            }
            (Request::Reversal(transfer), Reply::Reversal(by)) => {
                let of = |id: &&TransactionId| (id.shard, id.sequence) == (self.shard, *transfer);
                same(&model.reversed.keys().find(of).and_then(|id| model.reversed[id]), by)
            }
            (Request::Reference { account, reference }, Reply::Reference(by)) => {
                let of = |(id, used): &&(AccountId, Reference)| {
                    (id.shard, id.number) == (self.shard, *account) && used == reference
                };
                same(&model.references.keys().find(of).and_then(|used| model.references[used]), by)
            }
            (Request::Accounts { from, count, filter }, Reply::Accounts { accounts, .. }) => {
                let mut expected: Vec<_> = model
                    .accounts
                    .iter()
                    .filter(|(id, account)| {
                        id.shard == self.shard
                            && id.number >= *from
                            && filter.currency.is_none_or(|currency| account.currency == currency)
                            && filter.closed.is_none_or(|closed| account.closed == closed)
                    })
                    .map(|(id, _)| *id)
                    .collect();
                expected.sort_unstable_by_key(|id| id.number);
                expected.truncate(*count);
                same(&expected, &accounts.iter().map(|view| view.id).collect())?;
                accounts.iter().try_for_each(|view| self.same_account(model, view))
            }
            (Request::TrialBalance, Reply::TrialBalance(balance)) => {
                same(&true, &balance.lines.values().all(|line| line.sum().is_zero()))
            }
            (Request::Execute { command, key, .. }, reply) => {
                let item = item_of(self.shard, command);
                match reply {
                    Reply::Executed { sequence, event, .. } => {
                        let (id, found) = events.first().ok_or("nothing was written down")?;
                        same(&(id.sequence, found), &(*sequence, event))?;
                        let mut model = model.clone();
                        let expected = model.execute(&item.operation, &item.conditions, event.time);
                        let expected =
                            expected.map_err(|refusal| format!("it should be refused: {refusal:?}"))?;
                        same(&expected, &vec![expected_of(&after[0], *id, event)])?;
                        same_state(&model, &after[1])
                    }
                    Reply::Refused(rejection) => {
                        let expected = model.clone().execute(&item.operation, &item.conditions, self.now);
                        same_end(&expected.map(|_| ()), rejection)
                    }
                    Reply::Worked(WorkReply::Items(replies)) => {
                        let keyed = [(item, key.is_some())];
                        self.same_work(model, after, events, &keyed, false, false, replies)
                    }
                    Reply::Worked(_) | Reply::Settled(_) | Reply::KeyReused | Reply::KeysExhausted => Ok(()),
                    reply => Err(format!("it is no reply to a command: {reply:?}")),
                }
            }
            (Request::Work(work), Reply::Worked(WorkReply::Items(replies))) => {
                let items: Vec<_> =
                    work.items.iter().map(|item| (item.clone(), item.key.is_some())).collect();
                let ends = work.key.is_some();
                if work.dry_run {
                    return self.same_work(model, &[], &[], &items, work.atomic, false, replies);
                }
                self.same_work(model, after, events, &items, work.atomic, ends, replies)
            }
            (Request::Work(_), Reply::Worked(WorkReply::Untold(_))) => {
                Err("what is done is to be told".into())
            }
            (Request::Work(_), Reply::Worked(_)) => Ok(()),
            (request, reply) => Err(format!("{request:?} was answered by {reply:?}")),
        }
    }

    /// Whether the map decides a list of operations as the shards did.
    #[expect(clippy::too_many_arguments, reason = "all that is known of a work")]
    fn same_work(
        &self,
        model: &Model,
        after: &[Model],
        events: &[(TransactionId, Event)],
        items: &[(Item, bool)],
        atomic: bool,
        ends: bool,
        replies: &[ItemReply],
    ) -> Result<(), String> {
        let is_real = !after.is_empty();
        let before = model;
        let mut model = model.clone();
        let mut written = Vec::new();
        same(&items.len(), &replies.len())?;
        // What an earlier request with its key has ended keeps that end, and does not stand in the way of the others.
        let refused = |reply: &ItemReply| {
            matches!(reply, ItemReply::Not(outcome)
                if !matches!(outcome, ItemOutcome::NotAttempted | ItemOutcome::Settled(_)))
        };
        let is_off = atomic && replies.iter().any(refused);
        for ((item, has_key), reply) in items.iter().zip(replies) {
            match reply {
                ItemReply::Done { id, decision } => {
                    same(&false, &is_off)?;
                    let expected = model.execute(&item.operation, &item.conditions, self.now);
                    written.extend(expected.map_err(|refusal| format!("it should be refused: {refusal:?}"))?);
                    same(written.last().expect("there is one"), &Expected::of(decision))?;
                    if decision.parts.is_empty() && !has_key {
                        // A link that was there.
                        written.pop();
                    } else if is_real {
                        let (found, event) =
                            events.get(written.len() - 1).ok_or("too little was written down")?;
                        same(&(found, event.change.decision()), &(id, Some(decision)))?;
                    }
                }
                ItemReply::Not(ItemOutcome::Refused(rejected)) => {
                    let expected = model.execute(&item.operation, &item.conditions, self.now);
                    same_end(&expected.map(|_| ()), &rejected.rejection)?;
                    if *has_key {
                        written.push(Expected::new("refusal"));
                    }
                }
                ItemReply::Not(ItemOutcome::NotAttempted) if is_off => {
                    // Those before the one that was refused would have been executed.
                    let _ = model.execute(&item.operation, &item.conditions, self.now);
                }
                ItemReply::Not(
                    ItemOutcome::Settled(_)
                    | ItemOutcome::KeyReused
                    | ItemOutcome::KeyInFlight
                    | ItemOutcome::KeysExhausted,
                ) => {
                    same(&true, has_key)?;
                }
                ItemReply::Not(outcome) => return Err(format!("it ended as {outcome:?}")),
            }
            if is_off && refused(reply) {
                break;
            }
        }
        if is_off {
            let behind = items.iter().zip(replies).skip_while(|(_, reply)| !refused(reply)).skip(1);
            for ((_, has_key), reply) in behind {
                match reply {
                    ItemReply::Not(ItemOutcome::NotAttempted) => {}
                    ItemReply::Not(ItemOutcome::Settled(_)) => same(&true, has_key)?,
                    reply => return Err(format!("behind a refused item one ended as {reply:?}")),
                }
            }
            written.clear();
            model = before.clone();
        }
        let passes = |reply: &ItemReply| {
            matches!(reply, ItemReply::Not(ItemOutcome::KeyInFlight | ItemOutcome::KeysExhausted))
        };
        if ends && !(atomic && replies.iter().any(passes)) {
            written.push(Expected::new("batch"));
        }
        if !is_real {
            return Ok(());
        }
        let found: Option<Vec<_>> = events
            .get(..written.len())
            .map(|events| events.iter().map(|(id, event)| expected_of(before, *id, event)).collect());
        same(&Some(written.clone()), &found)?;
        same_state(&model, &after[written.len()])
    }

    fn same_account(&self, model: &Model, view: &AccountView) -> Result<(), String> {
        let account = model.accounts.get(&view.id).ok_or("there is no such account")?;
        same(
            &(&account.name, account.currency, account.version),
            &(&view.name, view.currency, view.version),
        )?;
        same(&(amount(account.posted), amount(account.held)), &(view.posted, view.held))?;
        same(&amount(model.available(view.id)), &view.available)?;
        same(&amount(model.limit(account)), &view.overdraft_limit)?;
        same(&(account.frozen, account.closed), &(view.frozen, view.closed.is_some()))?;
        let details = view.details.clone().unwrap_or_default();
        let metadata: Vec<_> = account.metadata.clone().into_iter().collect();
        same(&metadata[..], details.metadata.entries())?;
        same(&(&account.links, account.unique_reference), &(&details.links, details.unique_reference))?;
        same(&account.velocity.allowance(&account.spent, self.now), &view.allowance)
    }
}

fn same_hold(model: &Model, view: &HoldView) -> Result<(), String> {
    let expected = model.holds.get(&view.id).ok_or("there is no such hold")?;
    let Hold { amount: sum, to, expires, status, .. } = view.hold;
    let outcome = if let HoldStatus::Ended { outcome, .. } = status { Some(outcome) } else { None };
    same(expected, &model::Hold { amount: sum.minor_units(), to, expires, outcome })
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("expected {expected:?}\n   found {found:?}")) }
}

fn same_end(
    expected: &Result<(), teller::ledger::Rejection>,
    found: &teller::ledger::Rejection,
) -> Result<(), String> {
    match expected {
        Err(expected) if same_refusal(expected, found) => Ok(()),
        expected => Err(format!("expected {expected:?}\n   found a refusal: {found:?}")),
    }
}

fn same_state(expected: &Model, found: &Model) -> Result<(), String> {
    same(&expected.holds, &found.holds)?;
    same(&expected.accounts, &found.accounts)
}

/// What an event says, in the form of what the model expects.
fn expected_of(before: &Model, id: TransactionId, event: &Event) -> Expected {
    let number = match &event.change {
        Change::Opened { currency, .. } => {
            let decision = event.change.to_decision(id.shard, event.time, *currency);
            return Expected::of(&decision.expect("it changes an account"));
        }
        Change::Posted { account, .. } | Change::Closed { account, .. } => *account,
        Change::Decided { decision, .. } => return Expected::of(decision),
        Change::Refused { .. } => return Expected::new("refusal"),
        Change::Settled { .. } | Change::Claimed => return Expected::new("nothing"),
    };
    let of = |account: &&AccountId| (account.shard, account.number) == (id.shard, number);
    let Some(account) = before.accounts.keys().find(of) else { return Expected::new("nothing") };
    let currency = before.accounts[account].currency;
    Expected::of(
        &event.change.to_decision(id.shard, account.opened, currency).expect("it changes an account"),
    )
}

/// A command, as the operation that does the same.
fn item_of(shard: ShardId, command: &Command) -> Item {
    let (operation, target) = match command {
        Command::Open { name, currency, overdraft_limit } => {
            let opening = Opening {
                name: name.clone(),
                currency: *currency,
                overdraft_limit: *overdraft_limit,
                reference: None,
                metadata: Metadata::default(),
                unique_reference: false,
                velocity: Default::default(),
            };
            (Operation::Open { shard, opening: Box::new(opening) }, None)
        }
        Command::Deposit { target, amount } => {
            let account = Place { shard, account: target.account.clone() };
            (Operation::Deposit { account, amount: *amount, note: Note::default() }, Some(target))
        }
        Command::Withdraw { target, amount } => {
            let account = Place { shard, account: target.account.clone() };
            let amount = Sum::Exactly(*amount);
            (Operation::Withdraw { account, amount, note: Note::default() }, Some(target))
        }
        Command::Close { target } => {
            (Operation::Close { account: Place { shard, account: target.account.clone() } }, Some(target))
        }
    };
    let condition = target.and_then(|target| {
        let requirement = Requirement::Match(target.version?);
        Some(Condition { account: Place { shard, account: target.account.clone() }, requirement })
    });
    Item { operation, conditions: condition.into_iter().collect(), key: None }
}
