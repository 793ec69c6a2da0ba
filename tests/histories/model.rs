//! The whole bank as one serial object: what each operation does to it, and which replies are right.
//!
//! What always holds: every change of an account is one version, its opening the first; a refused operation
//! changes nothing; an operation is refused exactly if one of its refusals applies, and with any one of those
//! that apply (in which order the service looks is not the model's business).
//!
//! What is available is what is posted, less what is held, plus the overdraft limit.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use crate::checker::{self, Moment, Operation, Outcome, Verdict};
use crate::process;

/// An account of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AccountNumber(pub(crate) usize);

/// A hold of a history, named by whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HoldNumber(pub(crate) usize);

/// What is asked of the bank. Amounts are positive cents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Opens an account.
    Open { account: AccountNumber, overdraft_limit: i64 },
    /// Pays in.
    Deposit { account: AccountNumber, cents: i64 },
    /// Pays out.
    Withdraw { account: AccountNumber, cents: i64 },
    /// Moves money; the legs sum to zero, and each account has one.
    Transfer { legs: Vec<Leg>, conditions: Vec<Condition> },
    /// Sets money aside.
    Hold { hold: HoldNumber, account: AccountNumber, cents: i64, to: Option<AccountNumber> },
    /// Pays out what a hold set aside, or a part of it, and releases the rest.
    Capture { hold: HoldNumber, cents: Option<i64> },
    /// Releases what a hold set aside.
    Void { hold: HoldNumber },
    /// From now on the other account pays what this one lacks.
    Protect { account: AccountNumber, by: AccountNumber },
    /// Reads an account.
    Read { account: AccountNumber },
    /// Several of these at one moment, one after the other; if atomic, all or none.
    Batch { atomic: bool, items: Vec<Op> },
}

/// One side of a transfer: positive is received, negative is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) account: AccountNumber,
    pub(crate) cents: i64,
}

/// What has to be so for a transfer to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) account: AccountNumber,
    pub(crate) available_gte: i64,
}

/// What was answered. What a reply does not tell is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Done, and this is how it left the accounts; how it found the account, of a read.
    Done(Vec<Seen>),
    /// Refused; nothing has changed.
    Refused(Refusal),
    /// An answer to each item of a batch.
    Items(Vec<Output>),
}

/// An account as a reply shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) account: AccountNumber,
    pub(crate) posted: i64,
    pub(crate) held: Option<i64>,
    pub(crate) version: Option<u64>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AccountExists,
    AccountNotFound,
    /// With what was available, if the reply tells.
    InsufficientFunds {
        available: Option<i64>,
    },
    ConditionFailed,
    HoldNotFound,
    /// It was captured or voided before.
    HoldSettled,
    /// More than was held.
    CaptureTooLarge,
    /// The account has another protection, or the chain would be too long or a circle.
    NotProtected,
}

/// The right answer in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(Vec<(AccountNumber, Account)>),
    /// Any of these.
    Refused(Vec<Refusal>),
    Items(Vec<Answer>),
}

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    pub(crate) posted: i64,
    pub(crate) held: i64,
    pub(crate) overdraft_limit: i64,
    pub(crate) version: u64,
}

/// Money set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hold {
    pub(crate) account: AccountNumber,
    pub(crate) cents: i64,
    pub(crate) to: Option<AccountNumber>,
    pub(crate) pending: bool,
}

/// The accounts of the longest chain of protection.
const PROTECTION_CHAIN_MAX: usize = 4;

/// The bank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Bank {
    pub(crate) accounts: BTreeMap<AccountNumber, Account>,
    pub(crate) holds: BTreeMap<HoldNumber, Hold>,
    /// Who pays what an account lacks.
    pub(crate) protections: BTreeMap<AccountNumber, AccountNumber>,
}

/// The serial object of the checker.
pub(crate) struct BankModel;

/// An operation of a client of the bank.
pub(crate) type BankOperation = Operation<Op, Output>;

impl checker::Model for BankModel {
    type State = Bank;
    type Op = Op;
    type Output = Output;

    fn initial(&self) -> Bank {
        Bank::default()
    }

    fn step(&self, state: &Bank, op: &Op, output: Option<&Output>) -> Option<Bank> {
        let mut after = state.clone();
        let answer = after.execute(op);
        output.is_none_or(|seen| answer.admits(seen)).then_some(after)
    }

    fn answers(&self, state: &Bank, op: &Op) -> String {
        state.clone().execute(op).to_string()
    }

    fn is_read(&self, op: &Op) -> bool {
        matches!(op, Op::Read { .. })
    }
}

impl Account {
    fn available(&self) -> i64 {
        self.posted - self.held + self.overdraft_limit
    }
}

/// What one operation does to one account.
#[derive(Clone, Copy)]
struct Change {
    account: AccountNumber,
    posted: i64,
    held: i64,
}

impl Change {
    fn of(account: AccountNumber, posted: i64, held: i64) -> Change {
        Change { account, posted, held }
    }
}

impl Bank {
    /// Does it, or refuses it.
    pub(crate) fn execute(&mut self, op: &Op) -> Answer {
        match op {
            Op::Open { account, .. } if self.accounts.contains_key(account) => {
                Answer::Refused(vec![Refusal::AccountExists])
            }
            Op::Open { account, overdraft_limit } => {
                let opened = Account { posted: 0, held: 0, overdraft_limit: *overdraft_limit, version: 1 };
                self.accounts.insert(*account, opened);
                Answer::Done(vec![(*account, opened)])
            }
            Op::Read { account } => match self.accounts.get(account) {
                Some(found) => Answer::Done(vec![(*account, *found)]),
                None => Answer::Refused(vec![Refusal::AccountNotFound]),
            },
            Op::Deposit { account, cents } => self.change(&[Change::of(*account, *cents, 0)], &[], vec![]),
            Op::Withdraw { account, cents } => self.change(&[Change::of(*account, -cents, 0)], &[], vec![]),
            Op::Transfer { legs, conditions } => {
                let changes: Vec<_> = legs.iter().map(|leg| Change::of(leg.account, leg.cents, 0)).collect();
                self.change(&changes, conditions, vec![])
            }
            Op::Hold { hold, account, cents, to } => {
                // Nothing changes where the money will go to, but it has to be there.
                let to_exists = to.is_none_or(|to| self.accounts.contains_key(&to));
                let known = if to_exists { vec![] } else { vec![Refusal::AccountNotFound] };
                let answer = self.change(&[Change::of(*account, 0, *cents)], &[], known);
                if matches!(answer, Answer::Done(_)) {
                    let made = Hold { account: *account, cents: *cents, to: *to, pending: true };
                    self.holds.insert(*hold, made);
                }
                answer
            }
            Op::Capture { hold, cents } => self.settle(*hold, |held| cents.unwrap_or(held)),
            Op::Void { hold } => self.settle(*hold, |_| 0),
            Op::Protect { account, by } => self.protect(*account, *by),
            Op::Batch { atomic, items } => self.batch(*atomic, items),
        }
    }

    /// Links accounts; each of the two gets a version.
    fn protect(&mut self, account: AccountNumber, by: AccountNumber) -> Answer {
        if !self.accounts.contains_key(&account) || !self.accounts.contains_key(&by) {
            return Answer::Refused(vec![Refusal::AccountNotFound]);
        }
        if self.protections.get(&account) == Some(&by) {
            return Answer::Done(vec![]);
        }
        let below = self.chain(by);
        let above = self.protections.keys().map(|first| self.chain(*first));
        let above =
            above.filter_map(|chain| chain.iter().position(|each| *each == account)).max().unwrap_or(0) + 1;
        let impossible = self.protections.contains_key(&account)
            || below.contains(&account)
            || above + below.len() > PROTECTION_CHAIN_MAX;
        if impossible {
            return Answer::Refused(vec![Refusal::NotProtected]);
        }
        self.protections.insert(account, by);
        for each in [account, by] {
            self.apply(Change::of(each, 0, 0));
        }
        Answer::Done(vec![])
    }

    /// An account, the one that protects it, and so on.
    fn chain(&self, account: AccountNumber) -> Vec<AccountNumber> {
        std::iter::successors(Some(account), |account| self.protections.get(account).copied()).collect()
    }

    /// Pays to an account what it lacks from the one that protects it, which may get it from its own; each payment is a
    /// version of both. Says whether there was enough; if not, some may have been paid.
    fn pull(&mut self, account: AccountNumber, lacking: i64) -> bool {
        let Some(source) = self.protections.get(&account).copied() else {
            return false;
        };
        let available = self.accounts[&source].available();
        if lacking > available && !self.pull(source, lacking - available) {
            return false;
        }
        self.apply(Change::of(source, -lacking, 0));
        self.apply(Change::of(account, lacking, 0));
        true
    }

    /// Ends a hold and pays out a part of it.
    fn settle(&mut self, number: HoldNumber, paid: impl Fn(i64) -> i64) -> Answer {
        let Some(hold) = self.holds.get(&number).copied() else {
            return Answer::Refused(vec![Refusal::HoldNotFound]);
        };
        if !hold.pending {
            return Answer::Refused(vec![Refusal::HoldSettled]);
        }
        let paid = paid(hold.cents);
        if paid > hold.cents {
            return Answer::Refused(vec![Refusal::CaptureTooLarge]);
        }
        let mut changes = vec![Change::of(hold.account, -paid, -hold.cents)];
        if let Some(to) = hold.to.filter(|_| paid > 0) {
            changes.push(Change::of(to, paid, 0));
        }
        let answer = self.change(&changes, &[], vec![]);
        assert!(matches!(answer, Answer::Done(_)), "what is held can be paid: {answer}");
        self.holds.insert(number, Hold { pending: false, ..hold });
        answer
    }

    fn batch(&mut self, atomic: bool, items: &[Op]) -> Answer {
        let before = self.clone();
        let mut answers = Vec::new();
        for item in items {
            let answer = self.execute(item);
            if atomic && matches!(answer, Answer::Refused(_)) {
                *self = before;
                return answer;
            }
            answers.push(answer);
        }
        Answer::Items(answers)
    }

    /// Changes accounts, all or none; none if there is a refusal already.
    fn change(&mut self, changes: &[Change], conditions: &[Condition], known: Vec<Refusal>) -> Answer {
        let mut refusals = known;
        for condition in conditions {
            match self.accounts.get(&condition.account) {
                None => refusals.push(Refusal::AccountNotFound),
                Some(account) if account.available() < condition.available_gte => {
                    refusals.push(Refusal::ConditionFailed);
                }
                Some(_) => {}
            }
        }
        if changes.iter().any(|change| !self.accounts.contains_key(&change.account)) {
            refusals.push(Refusal::AccountNotFound);
        }
        let lacking = |bank: &Bank, change: &Change| {
            let available = bank.accounts.get(&change.account)?.available();
            let required = change.held - change.posted;
            Some(required - available).filter(|lacking| required > 0 && *lacking > 0)
        };
        let before = self.clone();
        let insufficient = |change: &Change| Refusal::InsufficientFunds {
            available: Some(before.accounts[&change.account].available()),
        };
        if !refusals.is_empty() {
            let poor = changes.iter().filter(|change| lacking(self, change).is_some());
            refusals.extend(poor.map(insufficient));
            return Answer::Refused(refusals);
        }
        for change in changes {
            let poor = lacking(self, change).is_some_and(|lacking| !self.pull(change.account, lacking));
            if poor {
                let refusal = insufficient(change);
                *self = before;
                return Answer::Refused(vec![refusal]);
            }
        }
        // What one account has paid for another it may lack itself now.
        if let Some(change) = changes.iter().find(|change| lacking(self, change).is_some()) {
            let refusal = insufficient(change);
            *self = before;
            return Answer::Refused(vec![refusal]);
        }
        Answer::Done(changes.iter().map(|change| (change.account, self.apply(*change))).collect())
    }

    fn apply(&mut self, change: Change) -> Account {
        let account = self.accounts.get_mut(&change.account).expect("it was looked for");
        account.posted += change.posted;
        account.held += change.held;
        account.version += 1;
        *account
    }
}

impl Answer {
    /// Whether this reply is the right one.
    pub(crate) fn admits(&self, output: &Output) -> bool {
        match (self, output) {
            (Answer::Done(accounts), Output::Done(seen)) => {
                accounts.len() == seen.len()
                    && seen.iter().all(|seen| accounts.iter().any(|account| seen.shows(account)))
            }
            (Answer::Refused(refusals), Output::Refused(seen)) => {
                refusals.iter().any(|refusal| refusal == seen || refusal.without_amount() == *seen)
            }
            (Answer::Items(answers), Output::Items(outputs)) => {
                answers.len() == outputs.len()
                    && answers.iter().zip(outputs).all(|(answer, output)| answer.admits(output))
            }
            _ => false,
        }
    }
}

impl Seen {
    fn shows(&self, (number, account): &(AccountNumber, Account)) -> bool {
        self.account == *number
            && self.posted == account.posted
            && self.held.is_none_or(|held| held == account.held)
            && self.version.is_none_or(|version| version == account.version)
    }
}

impl Refusal {
    fn without_amount(&self) -> Refusal {
        match self {
            Refusal::InsufficientFunds { .. } => Refusal::InsufficientFunds { available: None },
            other => other.clone(),
        }
    }
}

/// Checks a history of the bank, and gives the counterexample with the whole history behind it.
pub(crate) fn check(history: &[BankOperation]) -> Result<(), String> {
    let failure = match checker::check(&BankModel, history) {
        Verdict::Linearizable => return Ok(()),
        Verdict::NotLinearizable => checker::counterexample(&BankModel, history),
        Verdict::Undecided => "The search for an order was given up.\n".to_owned(),
    };
    Err(format!("{failure}The whole history:\n{}", checker::print(history)))
}

/// An operation that was answered.
pub(crate) fn answered(client: usize, invoked: Moment, at: Moment, op: Op, output: Output) -> BankOperation {
    Operation { client, op, invoked, outcome: Outcome::Replied { at, output } }
}

/// One whose client never got an answer.
pub(crate) fn unanswered(client: usize, invoked: Moment, until: Moment, op: Op) -> BankOperation {
    Operation { client, op, invoked, outcome: Outcome::Unanswered { until } }
}

impl Display for AccountNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

impl Display for HoldNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

fn listed<T>(f: &mut fmt::Formatter<'_>, items: &[T], item: impl Fn(&T) -> String) -> fmt::Result {
    f.write_str(&items.iter().map(item).collect::<Vec<_>>().join(", "))
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let money = |cents: &i64| process::amount(*cents);
        match self {
            Op::Open { account, overdraft_limit } => {
                write!(f, "open {account} (limit {})", money(overdraft_limit))
            }
            Op::Deposit { account, cents } => write!(f, "deposit {} to {account}", money(cents)),
            Op::Withdraw { account, cents } => write!(f, "withdraw {} from {account}", money(cents)),
            Op::Transfer { legs, conditions } => {
                f.write_str("transfer ")?;
                listed(f, legs, |leg| format!("{} {}", leg.account, money(&leg.cents)))?;
                if !conditions.is_empty() {
                    f.write_str(" if ")?;
                    listed(f, conditions, |condition| {
                        format!("{} has {}", condition.account, money(&condition.available_gte))
                    })?;
                }
                Ok(())
            }
            Op::Hold { hold, account, cents, to } => {
                write!(f, "hold {hold}: {} of {account}", money(cents))?;
                to.map_or(Ok(()), |to| write!(f, " for {to}"))
            }
            Op::Capture { hold, cents: None } => write!(f, "capture {hold}"),
            Op::Capture { hold, cents: Some(cents) } => write!(f, "capture {} of {hold}", money(cents)),
            Op::Void { hold } => write!(f, "void {hold}"),
            Op::Protect { account, by } => write!(f, "protect {account} by {by}"),
            Op::Read { account } => write!(f, "read {account}"),
            Op::Batch { atomic, items } => {
                f.write_str(if *atomic { "atomic batch [" } else { "batch [" })?;
                listed(f, items, Op::to_string)?;
                f.write_str("]")
            }
        }
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Done(seen) => listed(f, seen, |seen| {
                let mut text = format!("{} {}", seen.account, process::amount(seen.posted));
                if let Some(held) = seen.held.filter(|held| *held != 0) {
                    text += &format!(" held {}", process::amount(held));
                }
                if let Some(version) = seen.version {
                    text += &format!(" v{version}");
                }
                text
            }),
            Output::Refused(refusal) => write!(f, "{refusal}"),
            Output::Items(outputs) => {
                f.write_str("[")?;
                listed(f, outputs, Output::to_string)?;
                f.write_str("]")
            }
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::InsufficientFunds { available: Some(available) } => {
                write!(f, "refused: {} available", process::amount(*available))
            }
            Refusal::InsufficientFunds { available: None } => f.write_str("refused: insufficient funds"),
            Refusal::AccountExists => f.write_str("refused: account exists"),
            Refusal::AccountNotFound => f.write_str("refused: no such account"),
            Refusal::ConditionFailed => f.write_str("refused: condition failed"),
            Refusal::HoldNotFound => f.write_str("refused: no such hold"),
            Refusal::HoldSettled => f.write_str("refused: hold is settled"),
            Refusal::CaptureTooLarge => f.write_str("refused: more than was held"),
            Refusal::NotProtected => f.write_str("refused: no such protection can be"),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Refused(refusals) => {
                f.write_str(&refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join(" or "))
            }
            Answer::Done(accounts) => write!(f, "{}", Output::Done(accounts.iter().map(seen).collect())),
            Answer::Items(answers) => {
                f.write_str("[")?;
                listed(f, answers, Answer::to_string)?;
                f.write_str("]")
            }
        }
    }
}

/// An account as a reply that tells everything shows it.
pub(crate) fn seen((number, account): &(AccountNumber, Account)) -> Seen {
    Seen {
        account: *number,
        posted: account.posted,
        held: Some(account.held),
        version: Some(account.version),
    }
}

impl Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts: Vec<_> = self.accounts.iter().map(|(number, account)| (*number, *account)).collect();
        write!(f, "{}", Answer::Done(accounts))?;
        for (number, hold) in self.holds.iter().filter(|(_, hold)| hold.pending) {
            write!(f, "; {number} holds {} of {}", process::amount(hold.cents), hold.account)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AccountNumber = AccountNumber(0);
    const B: AccountNumber = AccountNumber(1);
    const HOLD: HoldNumber = HoldNumber(1);

    /// Two accounts with a limit of 1.00; the first has 5.00.
    fn bank() -> Bank {
        let mut bank = Bank::default();
        for account in [A, B] {
            bank.execute(&Op::Open { account, overdraft_limit: 100 });
        }
        bank.execute(&Op::Deposit { account: A, cents: 500 });
        bank
    }

    fn transfer(cents: i64, conditions: Vec<Condition>) -> Op {
        Op::Transfer { legs: vec![Leg { account: A, cents: -cents }, Leg { account: B, cents }], conditions }
    }

    fn shows(account: AccountNumber, posted: i64, held: i64, version: u64) -> Seen {
        Seen { account, posted, held: Some(held), version: Some(version) }
    }

    #[track_caller]
    fn is_refused(bank: &Bank, op: &Op, refusal: Refusal) {
        let mut after = bank.clone();
        assert_eq!(after.execute(op), Answer::Refused(vec![refusal]));
        assert_eq!(after, *bank, "a refused operation changes nothing");
    }

    #[test]
    fn a_reply_has_to_be_right_in_all_that_it_tells() {
        let answer = bank().execute(&transfer(200, vec![]));
        let (a, b) = (shows(A, 300, 0, 3), shows(B, 200, 0, 2));
        assert!(answer.admits(&Output::Done(vec![a, b])));
        assert!(answer.admits(&Output::Done(vec![b, Seen { held: None, version: None, ..a }])));
        for wrong in [
            Output::Done(vec![a]),
            Output::Done(vec![a, a, b]),
            Output::Done(vec![Seen { posted: 301, ..a }, b]),
            Output::Done(vec![Seen { held: Some(1), ..a }, b]),
            Output::Done(vec![a, Seen { version: Some(3), ..b }]),
            Output::Done(vec![a, Seen { account: A, ..b }]),
            Output::Items(vec![Output::Done(vec![a, b])]),
            Output::Refused(Refusal::AccountNotFound),
        ] {
            assert!(!answer.admits(&wrong), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_has_to_be_one_that_applies() {
        let op = transfer(601, vec![Condition { account: A, available_gte: 601 }]);
        let answer = bank().execute(&op);
        assert!(answer.admits(&Output::Refused(Refusal::ConditionFailed)));
        assert!(answer.admits(&Output::Refused(Refusal::InsufficientFunds { available: None })));
        assert!(answer.admits(&Output::Refused(Refusal::InsufficientFunds { available: Some(600) })));
        assert!(!answer.admits(&Output::Refused(Refusal::InsufficientFunds { available: Some(500) })));
        assert!(!answer.admits(&Output::Refused(Refusal::AccountNotFound)));
        assert!(!answer.admits(&Output::Done(vec![shows(A, -101, 0, 3), shows(B, 601, 0, 2)])));
    }

    #[test]
    fn refused_operations_change_nothing() {
        let bank = bank();
        let missing = AccountNumber(9);
        let available = Some(600);
        is_refused(&bank, &Op::Open { account: A, overdraft_limit: 0 }, Refusal::AccountExists);
        is_refused(&bank, &Op::Deposit { account: missing, cents: 1 }, Refusal::AccountNotFound);
        is_refused(&bank, &Op::Read { account: missing }, Refusal::AccountNotFound);
        let withdraw = Op::Withdraw { account: A, cents: 601 };
        is_refused(&bank, &withdraw, Refusal::InsufficientFunds { available });
        let conditions = vec![Condition { account: B, available_gte: 101 }];
        is_refused(&bank, &transfer(1, conditions), Refusal::ConditionFailed);
        let hold = |cents, to| Op::Hold { hold: HOLD, account: A, cents, to };
        is_refused(&bank, &hold(601, None), Refusal::InsufficientFunds { available });
        is_refused(&bank, &hold(1, Some(missing)), Refusal::AccountNotFound);
        is_refused(&bank, &Op::Void { hold: HOLD }, Refusal::HoldNotFound);
        let items = vec![transfer(100, vec![]), withdraw];
        let available = Some(500);
        is_refused(&bank, &Op::Batch { atomic: true, items }, Refusal::InsufficientFunds { available });
    }

    #[test]
    fn a_hold_is_paid_or_released_once() {
        let mut bank = bank();
        let made = bank.execute(&Op::Hold { hold: HOLD, account: A, cents: 400, to: Some(B) });
        assert!(made.admits(&Output::Done(vec![shows(A, 500, 400, 3)])));
        let withdraw = Op::Withdraw { account: A, cents: 201 };
        is_refused(&bank, &withdraw, Refusal::InsufficientFunds { available: Some(200) });
        let capture = |cents| Op::Capture { hold: HOLD, cents: Some(cents) };
        is_refused(&bank, &capture(401), Refusal::CaptureTooLarge);
        let mut voided = bank.clone();
        let answer = voided.execute(&Op::Void { hold: HOLD });
        assert!(answer.admits(&Output::Done(vec![shows(A, 500, 0, 4)])));
        let answer = bank.execute(&capture(300));
        assert!(answer.admits(&Output::Done(vec![shows(A, 200, 0, 4), shows(B, 300, 0, 2)])));
        for bank in [bank, voided] {
            is_refused(&bank, &capture(1), Refusal::HoldSettled);
            is_refused(&bank, &Op::Void { hold: HOLD }, Refusal::HoldSettled);
        }
    }

    #[test]
    fn the_items_of_a_batch_come_one_after_the_other() {
        let mut bank = bank();
        let withdraw = |cents| Op::Withdraw { account: B, cents };
        let items = vec![withdraw(200), transfer(100, vec![]), withdraw(200)];
        let answer = bank.execute(&Op::Batch { atomic: false, items });
        let right = Output::Items(vec![
            Output::Refused(Refusal::InsufficientFunds { available: Some(100) }),
            Output::Done(vec![shows(A, 400, 0, 3), shows(B, 100, 0, 2)]),
            Output::Done(vec![shows(B, -100, 0, 3)]),
        ]);
        assert!(answer.admits(&right), "{answer}");
    }
}
