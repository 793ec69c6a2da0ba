//! Is there one order of these operations that explains every reply? The search of Wing and Gong, with Lowe's
//! memory of what was tried.
//!
//! An operation takes effect at one moment between its sending and its reply. A history is linearizable if such
//! moments can be chosen so that a serial [`Model`] gives every reply that was seen. With one object that is the
//! whole bank, that is strict serializability.
//!
//! What always holds:
//! - an operation that ended before another was sent comes before it; equal moments count as concurrent, so the
//!   resolution of the clock never makes a false alarm;
//! - an operation without a reply took effect once, between its sending and the moment up to which it could, or
//!   never;
//! - a configuration (what has been placed, and the state) is tried once. States are compared whole, not by a
//!   hash: a collision would be a false alarm.
//!
//! Left out on purpose: models with several possible states after an operation. The bank has none, because what
//! its replies leave open (which transfer comes first) is what the search is about. Histories are not cut into
//! independent parts: transfers link all accounts. The search is exponential in the operations under way at the
//! same time, so histories are short.

use std::collections::HashSet;
use std::fmt::{self, Display, Write};
use std::hash::Hash;

/// The most operations in a history: one bit each in a set of them.
pub(crate) const OPERATIONS_MAX: usize = 128;

/// How many configurations are tried before the search gives up. A history of our workload has some hundreds;
/// this many take some seconds and less than a GiB.
const CONFIGURATIONS_MAX: usize = 1_000_000;

/// The same where a search only makes a counterexample shorter: it is repeated for every operation.
const CONFIGURATIONS_SHORTENING_MAX: usize = 20_000;

/// How many operations a counterexample lists at the point where the order ends.
const STUCK_SHOWN_MAX: usize = 12;

/// A serial object: what an operation does to a state, and whether a reply is right.
pub(crate) trait Model {
    /// What the object holds.
    type State: Clone + Eq + Hash + Display;
    /// What is asked.
    type Op: Display;
    /// What is answered.
    type Output: Display;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after the operation, if this is a right answer to it; without an answer, whatever it would be.
    fn step(&self, state: &Self::State, op: &Self::Op, output: Option<&Self::Output>) -> Option<Self::State>;

    /// The right answers in a state, for the reader of a counterexample.
    fn answers(&self, state: &Self::State, op: &Self::Op) -> String;

    /// Whether the operation never changes anything.
    fn is_read(&self, op: &Self::Op) -> bool;
}

/// A moment of the one clock of a history, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// Never, as the end of what may happen at any time.
    pub(crate) const NEVER: Moment = Moment(u64::MAX);
}

impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Moment::NEVER {
            return f.write_str("?");
        }
        write!(f, "{}.{:03}", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// What a client did.
#[derive(Clone, Debug)]
pub(crate) struct Operation<O, A> {
    /// Whose it is; for the reader only.
    pub(crate) client: usize,
    /// What was asked.
    pub(crate) op: O,
    /// Not later than its sending.
    pub(crate) invoked: Moment,
    /// How it ended.
    pub(crate) outcome: Outcome<A>,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome<A> {
    /// With a reply, which was there at this moment at the latest.
    Replied {
        /// When.
        at: Moment,
        /// What it says.
        output: A,
    },
    /// Without one. If it took effect, then before this moment.
    Unanswered {
        /// When it could not any more.
        until: Moment,
    },
}

/// A history of a model.
pub(crate) type History<M> = [Operation<<M as Model>::Op, <M as Model>::Output>];

/// What a search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// An order explains every reply.
    Linearizable,
    /// None does; [`counterexample`] says why.
    NotLinearizable,
    /// Too many configurations: nothing is known.
    Undecided,
}

/// Searches for an order.
pub(crate) fn check<M: Model>(model: &M, history: &History<M>) -> Verdict {
    check_within(model, history, CONFIGURATIONS_MAX)
}

fn check_within<M: Model>(model: &M, history: &History<M>, configurations_max: usize) -> Verdict {
    assert!(history.len() <= OPERATIONS_MAX, "a history of {} operations is too long", history.len());
    match Part::WHOLE.view(history).search(model, configurations_max) {
        Found::Order => Verdict::Linearizable,
        Found::NoOrder(_) => Verdict::NotLinearizable,
        Found::Nothing => Verdict::Undecided,
    }
}

/// A set of operations.
type Set = u128;

fn bit(index: usize) -> Set {
    1 << index
}

/// An operation, as a search sees it.
struct Item<'h, O, A> {
    operation: &'h Operation<O, A>,
    /// Its place in the history.
    index: usize,
    /// Not given: any answer will do.
    output: Option<&'h A>,
    /// It has to be placed.
    required: bool,
    /// It takes effect before this moment.
    latest: Moment,
}

/// What is looked at of a history.
#[derive(Clone, Copy)]
struct Part {
    /// Replies behind this moment have not come yet.
    end: Moment,
    /// The operations of which the replies are left out.
    forgotten: Set,
    /// The operations that are left out.
    dropped: Set,
}

/// A history, or a part of one, ready to be searched.
struct View<'h, M: Model> {
    items: Vec<Item<'h, M::Op, M::Output>>,
}

enum Found {
    Order,
    /// With the longest order that explains the replies in it, by places in the view.
    NoOrder(Vec<usize>),
    /// Too many configurations.
    Nothing,
}

/// One step of the search: what was placed to get here, and which item is to be tried next.
struct Frame<S> {
    placed: Option<usize>,
    set: Set,
    state: S,
    next: usize,
}

impl Part {
    const WHOLE: Part = Part { end: Moment::NEVER, forgotten: 0, dropped: 0 };

    fn view<M: Model>(self, history: &History<M>) -> View<'_, M> {
        let mut items = Vec::new();
        for (index, operation) in history.iter().enumerate() {
            if operation.invoked > self.end || self.dropped & bit(index) != 0 {
                continue;
            }
            let (output, required, latest) = match &operation.outcome {
                Outcome::Replied { at, output } if *at <= self.end => {
                    (Some(output).filter(|_| self.forgotten & bit(index) == 0), true, *at)
                }
                Outcome::Replied { .. } => (None, false, Moment::NEVER),
                Outcome::Unanswered { until } => (None, false, *until),
            };
            items.push(Item { operation, index, output, required, latest });
        }
        // The likely order first; what may never have happened is tried last.
        items.sort_by_key(|item| (!item.required, item.latest, item.operation.invoked));
        View { items }
    }
}

impl<M: Model> View<'_, M> {
    /// Depth first, without recursion.
    fn search(&self, model: &M, configurations_max: usize) -> Found {
        let required = self.required();
        let mut tried: HashSet<(Set, M::State)> = HashSet::new();
        let mut frames = vec![Frame { placed: None, set: 0, state: model.initial(), next: 0 }];
        let mut longest = (0, Vec::new());
        while let Some(frame) = frames.last_mut() {
            if required & !frame.set == 0 {
                return Found::Order;
            }
            let Some(index) = self.next_possible(frame.set, frame.next) else {
                frames.pop();
                continue;
            };
            frame.next = index + 1;
            let item = &self.items[index];
            let Some(state) = model.step(&frame.state, &item.operation.op, item.output) else { continue };
            if !item.required && state == frame.state {
                // The same as never.
                continue;
            }
            let set = frame.set | bit(index);
            if !tried.insert((set, state.clone())) {
                continue;
            }
            if tried.len() > configurations_max {
                return Found::Nothing;
            }
            frames.push(Frame { placed: Some(index), set, state, next: 0 });
            let explained = (set & required).count_ones();
            if explained > longest.0 {
                longest = (explained, frames.iter().filter_map(|frame| frame.placed).collect());
            }
        }
        Found::NoOrder(longest.1)
    }

    /// The first item, from a place on, that may be the next in time after those in the set.
    fn next_possible(&self, set: Set, from: usize) -> Option<usize> {
        let mut earliest_end = Moment::NEVER;
        let mut newest_start = Moment(0);
        for (index, item) in self.items.iter().enumerate() {
            if set & bit(index) != 0 {
                newest_start = newest_start.max(item.operation.invoked);
            } else if item.required {
                earliest_end = earliest_end.min(item.latest);
            }
        }
        (from..self.items.len()).find(|&index| {
            let item = &self.items[index];
            // Not behind something that has to be first and is not placed, nor too late for itself.
            set & bit(index) == 0 && item.operation.invoked <= earliest_end && newest_start <= item.latest
        })
    }

    fn required(&self) -> Set {
        let places = self.items.iter().enumerate().filter(|(_, item)| item.required);
        places.fold(0, |set, (index, _)| set | bit(index))
    }
}

/// Says why a history is not linearizable, with as little of it as will do.
///
/// What is left out cannot have been the reason: first all that came after the first reply that no order
/// explains (a beginning of a linearizable history is linearizable), then one reply after the other that is not
/// needed for the contradiction, and with its reply a read goes whole.
///
/// # Panics
/// If it is.
pub(crate) fn counterexample<M: Model>(model: &M, history: &History<M>) -> String {
    let search = |part: Part, configurations_max| match part.view(history).search(model, configurations_max) {
        Found::NoOrder(longest) => Some((part, longest)),
        Found::Order | Found::Nothing => None,
    };
    let fails = |part| search(part, CONFIGURATIONS_SHORTENING_MAX);
    let mut replies: Vec<(Moment, usize)> = Vec::new();
    for (index, operation) in history.iter().enumerate() {
        if let Outcome::Replied { at, .. } = operation.outcome {
            replies.push((at, index));
        }
    }
    replies.sort_unstable();
    let shorter = replies.iter().find_map(|&(end, _)| fails(Part { end, ..Part::WHOLE }));
    let failing = shorter.or_else(|| search(Part::WHOLE, CONFIGURATIONS_MAX));
    let (mut part, mut longest) = failing.expect("the history is not linearizable");
    let end = part.end;
    for &(_, index) in replies.iter().filter(|(at, _)| *at <= end) {
        let less = if model.is_read(&history[index].op) {
            Part { dropped: part.dropped | bit(index), ..part }
        } else {
            Part { forgotten: part.forgotten | bit(index), ..part }
        };
        if let Some(less) = fails(less) {
            (part, longest) = less;
        }
    }
    let mut text = String::new();
    part.view(history).write_stuck(&mut text, model, &longest).expect("memory takes what is written to it");
    text
}

impl<M: Model> View<'_, M> {
    fn write_stuck(&self, out: &mut String, model: &M, longest: &[usize]) -> fmt::Result {
        writeln!(out, "No order of these operations explains their replies. The longest that does:")?;
        let mut state = model.initial();
        let mut set = 0;
        for &index in longest {
            let item = &self.items[index];
            writeln!(out, "  {}", self.line(index))?;
            state = model.step(&state, &item.operation.op, item.output).expect("it was a step of the search");
            set |= bit(index);
        }
        writeln!(out, "That leaves: {state}")?;
        writeln!(out, "Then none of these fits:")?;
        let mut from = 0;
        let mut shown = 0;
        while let Some(index) = self.next_possible(set, from) {
            from = index + 1;
            let item = &self.items[index];
            if item.required && shown < STUCK_SHOWN_MAX {
                let right = model.answers(&state, &item.operation.op);
                writeln!(out, "  {}; here it would be {right}", self.line(index))?;
                shown += 1;
            }
        }
        let open: Vec<usize> = (0..self.items.len())
            .filter(|&index| set & bit(index) == 0 && !self.items[index].required)
            .collect();
        if !open.is_empty() {
            writeln!(out, "And these, which may or may not have happened by then, do not help:")?;
            for index in open {
                writeln!(out, "  {}", self.line(index))?;
            }
        }
        Ok(())
    }

    fn line(&self, index: usize) -> String {
        let item = &self.items[index];
        let Operation { client, op, invoked, .. } = item.operation;
        let head = format!("#{} client {client}, {invoked} to {} ms: {op}", item.index, item.latest);
        match (item.output, item.required) {
            (Some(output), _) => format!("{head} -> {output}"),
            (None, true) => format!("{head} -> (any reply)"),
            (None, false) => format!("{head} -> (no reply)"),
        }
    }
}

/// A whole history, in the order of sending.
pub(crate) fn print<O: Display, A: Display>(history: &[Operation<O, A>]) -> String {
    let mut lines: Vec<_> = history.iter().enumerate().collect();
    lines.sort_by_key(|(_, operation)| operation.invoked);
    let mut text = String::new();
    for (index, Operation { client, op, invoked, outcome }) in lines {
        let end = match outcome {
            Outcome::Replied { at, output } => format!("{at} ms: {op} -> {output}"),
            Outcome::Unanswered { until } => format!("{until} ms: {op} -> (no reply)"),
        };
        writeln!(text, "  #{index} client {client}, {invoked} to {end}").expect("memory takes it");
    }
    text
}

/// Histories that are known to be right or wrong, over two registers.
#[cfg(test)]
mod tests {
    use super::*;

    struct Registers;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Pair(i64, i64);

    #[derive(Clone, Copy, Debug)]
    enum Op {
        AddX(i64),
        AddY(i64),
        Double,
        Transfer(i64),
        ReadX,
        ReadY,
        ReadBoth,
    }
    use Op::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Answer {
        Done,
        One(i64),
        Both(i64, i64),
    }
    use Answer::{Both, Done, One};

    impl Display for Pair {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "x {} y {}", self.0, self.1)
        }
    }

    impl Display for Op {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl Display for Answer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self:?}")
        }
    }

    fn run(Pair(x, y): &Pair, op: Op) -> (Pair, Answer) {
        let (x, y) = (*x, *y);
        match op {
            AddX(amount) => (Pair(x + amount, y), One(x + amount)),
            AddY(amount) => (Pair(x, y + amount), One(y + amount)),
            Double => (Pair(2 * x, y), Done),
            Transfer(amount) => (Pair(x - amount, y + amount), Done),
            ReadX => (Pair(x, y), One(x)),
            ReadY => (Pair(x, y), One(y)),
            ReadBoth => (Pair(x, y), Both(x, y)),
        }
    }

    impl Model for Registers {
        type State = Pair;
        type Op = Op;
        type Output = Answer;

        fn initial(&self) -> Pair {
            Pair(0, 0)
        }

        fn step(&self, state: &Pair, op: &Op, output: Option<&Answer>) -> Option<Pair> {
            let (after, right) = run(state, *op);
            // `Done` to an addition is a reply that tells nothing of the sum.
            output.is_none_or(|seen| *seen == right || *seen == Done).then_some(after)
        }

        fn answers(&self, state: &Pair, op: &Op) -> String {
            run(state, *op).1.to_string()
        }

        fn is_read(&self, op: &Op) -> bool {
            matches!(op, ReadX | ReadY | ReadBoth)
        }
    }

    /// An operation of a client that got a reply.
    fn done(client: usize, (invoked, at): (u64, u64), op: Op, output: Answer) -> Operation<Op, Answer> {
        let outcome = Outcome::Replied { at: Moment(at), output };
        Operation { client, op, invoked: Moment(invoked), outcome }
    }

    /// One that got none, and may have happened until a moment.
    fn lost(client: usize, (invoked, until): (u64, u64), op: Op) -> Operation<Op, Answer> {
        let outcome = Outcome::Unanswered { until: Moment(until) };
        Operation { client, op, invoked: Moment(invoked), outcome }
    }

    #[track_caller]
    fn right(history: &[Operation<Op, Answer>]) {
        assert_eq!(check(&Registers, history), Verdict::Linearizable);
    }

    #[track_caller]
    fn wrong(history: &[Operation<Op, Answer>]) {
        assert_eq!(check(&Registers, history), Verdict::NotLinearizable);
    }

    #[test]
    fn one_after_the_other_is_right() {
        right(&[
            done(0, (0, 1), AddX(5), One(5)),
            done(1, (2, 3), Transfer(2), Done),
            done(0, (4, 5), ReadBoth, Both(3, 2)),
        ]);
        right(&[]);
    }

    #[test]
    fn what_is_concurrent_may_come_in_any_order() {
        right(&[
            done(0, (0, 10), AddX(5), One(6)),
            done(1, (0, 10), AddX(1), One(1)),
            done(2, (0, 10), ReadX, One(0)),
            done(3, (0, 10), ReadX, One(6)),
            done(4, (0, 10), ReadX, One(1)),
        ]);
    }

    #[test]
    fn a_lost_update_is_found() {
        wrong(&[
            done(0, (0, 10), AddX(5), One(5)),
            done(1, (0, 10), AddX(1), One(1)),
            done(2, (11, 12), ReadX, One(5)),
        ]);
    }

    /// Serializable (the read first), but not strictly: it was sent after the reply to the change.
    #[test]
    fn a_stale_read_is_found() {
        wrong(&[done(0, (0, 1), AddX(5), One(5)), done(1, (2, 3), ReadX, One(0))]);
        // At the same moment it is concurrent.
        right(&[done(0, (0, 2), AddX(5), One(5)), done(1, (2, 3), ReadX, One(0))]);
    }

    /// The new value, and after it the old one.
    #[test]
    fn a_read_that_goes_back_is_found() {
        wrong(&[
            done(0, (0, 100), AddX(5), One(5)),
            done(1, (10, 20), ReadX, One(5)),
            done(2, (30, 40), ReadX, One(0)),
        ]);
    }

    #[test]
    fn a_torn_transfer_is_found() {
        wrong(&[
            done(0, (0, 1), AddX(5), One(5)),
            done(1, (10, 50), Transfer(5), Done),
            done(2, (20, 30), ReadBoth, Both(0, 0)),
        ]);
        // By two reads of one side each: x is already paid, y has not got it.
        wrong(&[
            done(0, (0, 1), AddX(5), One(5)),
            done(1, (10, 50), Transfer(5), Done),
            done(2, (20, 25), ReadX, One(0)),
            done(2, (26, 30), ReadY, One(0)),
        ]);
        // The other way round the transfer may have come between.
        right(&[
            done(0, (0, 1), AddX(5), One(5)),
            done(1, (10, 50), Transfer(5), Done),
            done(2, (20, 25), ReadY, One(0)),
            done(2, (26, 30), ReadX, One(0)),
        ]);
    }

    /// Two clients see two independent changes in different orders, each account alone being linearizable.
    #[test]
    fn two_orders_across_two_accounts_are_found() {
        wrong(&[
            done(0, (0, 100), AddX(1), Done),
            done(1, (0, 100), AddY(1), Done),
            done(2, (10, 20), ReadX, One(1)),
            done(2, (30, 40), ReadY, One(0)),
            done(3, (10, 20), ReadY, One(1)),
            done(3, (30, 40), ReadX, One(0)),
        ]);
    }

    #[test]
    fn a_long_fork_is_found() {
        wrong(&[
            done(0, (0, 100), AddX(1), Done),
            done(1, (0, 100), AddY(1), Done),
            done(2, (10, 90), ReadBoth, Both(1, 0)),
            done(3, (10, 90), ReadBoth, Both(0, 1)),
        ]);
    }

    #[test]
    fn what_had_no_reply_happened_once_or_never() {
        let unanswered = lost(0, (0, u64::MAX), AddX(5));
        right(&[unanswered.clone(), done(1, (10, 20), ReadX, One(0))]);
        right(&[unanswered.clone(), done(1, (10, 20), ReadX, One(5))]);
        right(&[unanswered.clone(), done(1, (10, 20), ReadX, One(0)), done(1, (30, 40), ReadX, One(5))]);
        wrong(&[unanswered.clone(), done(1, (10, 20), ReadX, One(5)), done(1, (30, 40), ReadX, One(0))]);
        wrong(&[unanswered, done(1, (10, 20), ReadX, One(10))]);
    }

    #[test]
    fn what_had_no_reply_did_not_happen_before_it_was_sent_or_after_its_end() {
        wrong(&[done(1, (0, 1), ReadX, One(5)), lost(0, (10, u64::MAX), AddX(5))]);
        let history = |until| {
            [lost(0, (0, until), AddX(5)), done(1, (10, 20), ReadX, One(0)), done(1, (30, 40), ReadX, One(5))]
        };
        right(&history(25));
        right(&history(10));
        wrong(&history(9));
    }

    /// The same operations in another order are another state: the memory must tell them apart.
    #[test]
    fn the_memory_tells_states_apart() {
        right(&[
            done(0, (0, 9), AddX(1), Done),
            done(1, (0, 10), Double, Done),
            done(2, (20, 30), ReadX, One(2)),
        ]);
        right(&[
            done(0, (0, 10), AddX(1), Done),
            done(1, (0, 9), Double, Done),
            done(2, (20, 30), ReadX, One(2)),
        ]);
        right(&[
            done(0, (0, 9), AddX(1), Done),
            done(1, (0, 10), Double, Done),
            done(2, (20, 30), ReadX, One(1)),
        ]);
        wrong(&[
            done(0, (0, 9), AddX(1), Done),
            done(1, (0, 10), Double, Done),
            done(2, (20, 30), ReadX, One(3)),
        ]);
    }

    /// Without the memory these are 16 factorial orders.
    #[test]
    fn many_at_once_are_decided() {
        let mut history: Vec<_> = (0..16).map(|client| done(client, (0, 10), AddX(1), Done)).collect();
        history.push(done(16, (20, 30), ReadX, One(17)));
        wrong(&history);
        history.push(lost(17, (0, 30), AddX(1)));
        right(&history);
    }

    #[test]
    fn too_many_at_once_are_left_undecided() {
        let mut history: Vec<_> =
            (0..40).map(|client| done(client, (0, 10), AddX(1 << client), Done)).collect();
        history.push(done(40, (20, 30), ReadX, One(-1)));
        assert_eq!(check_within(&Registers, &history, 10_000), Verdict::Undecided);
    }

    #[test]
    fn a_counterexample_has_only_what_it_needs() {
        let history = [
            done(0, (0, 1_000_000), AddX(5), One(5)),
            done(1, (2_000_000, 3_000_000), AddY(7), One(7)),
            done(1, (4_000_000, 5_000_000), ReadY, One(7)),
            done(2, (6_000_000, 7_000_000), ReadX, One(0)),
            done(2, (8_000_000, 9_000_000), ReadX, One(1)),
            lost(3, (0, u64::MAX), AddY(1)),
        ];
        assert_eq!(
            counterexample(&Registers, &history),
            "No order of these operations explains their replies. The longest that does:\n  \
             #0 client 0, 0.000 to 1.000 ms: AddX(5) -> (any reply)\n  \
             #1 client 1, 2.000 to 3.000 ms: AddY(7) -> (any reply)\n\
             That leaves: x 5 y 7\n\
             Then none of these fits:\n  \
             #3 client 2, 6.000 to 7.000 ms: ReadX -> One(0); here it would be One(5)\n\
             And these, which may or may not have happened by then, do not help:\n  \
             #5 client 3, 0.000 to ? ms: AddY(1) -> (no reply)\n"
        );
    }
}
