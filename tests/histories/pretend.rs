//! A bank that only pretends, with a mistake of one's choice: proof that the workload and the checker find it.
//!
//! Clients, crashes and retries are steps of one seeded sequence without threads, so every seed replays exactly.
//! The clock counts steps. Without a mistake every history has to pass; with one, many have to fail.

use crate::checker::{self, Moment, Verdict};
use crate::model::{
    AccountNumber, Answer, Bank, BankModel, BankOperation, Op, Output, answered, check, seen, unanswered,
};
use crate::random::Random;
use crate::workload::{EVERYTHING, Holds, Workload};

const CLIENTS: usize = 5;
const ACCOUNTS: usize = 5;
const REQUESTS: usize = 45;
const HISTORIES: u64 = 60;
/// In how many of these a mistake has to show, or the test would hang on one lucky seed.
const HISTORIES_FOUND_MIN: u64 = 5;

/// What the bank does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    Nothing,
    /// A change is computed from what was there when the request came.
    LostUpdate,
    /// A read shows what was there some changes ago.
    StaleRead,
    /// The sides of a transfer happen one after the other.
    TornTransfer,
    /// An atomic batch keeps the items before the one that was refused.
    TornBatch,
    /// A request that is sent again is done again.
    DoubledRetry,
    /// A crash takes the last change, answered or not.
    LostChange,
    /// A crash takes what was set aside.
    LostHold,
    /// A request of a client that gave up is done after the restart.
    LateEffect,
    ForgottenCondition,
    ForgottenLimit,
    /// A transfer between accounts is refused for what another has not got.
    WrongRefusal,
    /// A transfer's first account is left with a cent less than the reply says.
    LostCent,
    /// The account that a hold pays to gets no version.
    MissingVersion,
    /// What one account pays for another is not taken from it.
    FreeHelp,
}

enum Client {
    Idle,
    /// Sent, and not done.
    Sent {
        op: Op,
        invoked: Moment,
        before: Bank,
    },
    /// One side of it is done.
    Half {
        op: Op,
        invoked: Moment,
        after: Bank,
        output: Output,
    },
    /// Done, and not answered.
    Done {
        op: Op,
        invoked: Moment,
        output: Output,
    },
}

struct Pretence {
    mistake: Mistake,
    random: Random,
    workload: Workload,
    holds: Holds,
    bank: Bank,
    past: Vec<Bank>,
    clients: Vec<Client>,
    late: Vec<Op>,
    history: Vec<BankOperation>,
    now: u64,
}

/// A history of such a bank.
fn history(mistake: Mistake, seed: u64) -> Vec<BankOperation> {
    let mut pretence = Pretence {
        mistake,
        random: Random::new(seed),
        workload: Workload { accounts: ACCOUNTS, kinds: EVERYTHING },
        holds: Holds::default(),
        bank: Bank::default(),
        past: Vec::new(),
        clients: (0..CLIENTS).map(|_| Client::Idle).collect(),
        late: Vec::new(),
        history: Vec::new(),
        now: 0,
    };
    for account in 0..ACCOUNTS {
        let op = pretence.workload.open(&mut pretence.random, AccountNumber(account));
        pretence.alone(op);
    }
    let mut sent = 0;
    let mut idle = false;
    while sent < REQUESTS || !idle {
        if pretence.random.below(40) == 0 {
            pretence.crash();
        }
        let client = pretence.random.below(CLIENTS as u64) as usize;
        sent += usize::from(pretence.step(client, sent < REQUESTS));
        idle = pretence.clients.iter().all(|client| matches!(client, Client::Idle));
    }
    for account in 0..ACCOUNTS {
        pretence.alone(Op::Read { account: AccountNumber(account) });
    }
    pretence.history
}

impl Pretence {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now * 1000)
    }

    /// One step of a client; says whether it sent something new.
    fn step(&mut self, number: usize, may_send: bool) -> bool {
        let moment = self.tick();
        let client = std::mem::replace(&mut self.clients[number], Client::Idle);
        let is_new = matches!(client, Client::Idle) && may_send;
        self.clients[number] = match client {
            Client::Idle if may_send => {
                // A pair of reads is two requests; the second one of them is as good as any later one.
                let op = self.workload.next(&mut self.random, &mut self.holds).swap_remove(0);
                Client::Sent { op, invoked: moment, before: self.bank.clone() }
            }
            Client::Idle => Client::Idle,
            Client::Sent { op, invoked, before } => self.execute(op, invoked, &before),
            Client::Half { op, invoked, after, output } => {
                self.overwrite(&op, &after, 1..);
                Client::Done { op, invoked, output }
            }
            Client::Done { op, invoked, output } => {
                self.learn(&op, &output);
                self.history.push(answered(number, invoked, moment, op, output));
                Client::Idle
            }
        };
        is_new
    }

    fn execute(&mut self, op: Op, invoked: Moment, before: &Bank) -> Client {
        self.past.push(self.bank.clone());
        let mut after = self.bank.clone();
        let mut asked = op.clone();
        match self.mistake {
            Mistake::StaleRead if self.random.percent(30) && matches!(op, Op::Read { .. }) => {
                let back = (1 + self.random.below(12) as usize).min(self.past.len());
                let output = output(&self.past[self.past.len() - back].clone().execute(&op));
                return Client::Done { op, invoked, output };
            }
            Mistake::LostUpdate => {
                let mut stale = before.clone();
                let answer = stale.execute(&op);
                if let (Op::Deposit { .. } | Op::Withdraw { .. }, Answer::Done(_)) = (&op, &answer) {
                    self.overwrite(&op, &stale, 0..);
                    return Client::Done { op, invoked, output: output(&answer) };
                }
            }
            Mistake::ForgottenCondition => {
                if let Op::Transfer { conditions, .. } = &mut asked {
                    conditions.clear();
                }
            }
            Mistake::ForgottenLimit => {
                after.accounts.values_mut().for_each(|account| account.overdraft_limit += 100_000);
            }
            Mistake::WrongRefusal if self.random.percent(5) && matches!(op, Op::Transfer { .. }) => {
                let refusal = crate::model::Refusal::InsufficientFunds { available: None };
                return Client::Done { op, invoked, output: Output::Refused(refusal) };
            }
            _ => {}
        }
        let answer = after.execute(&asked);
        match (self.mistake, &answer, &op) {
            (Mistake::ForgottenLimit, ..) => {
                after.accounts.values_mut().for_each(|account| account.overdraft_limit -= 100_000);
            }
            (Mistake::TornTransfer, Answer::Done(_), Op::Transfer { .. }) => {
                self.overwrite(&op, &after, ..1);
                return Client::Half { op, invoked, after, output: output(&answer) };
            }
            (Mistake::TornBatch, Answer::Refused(_), Op::Batch { items, .. }) => {
                for item in items {
                    if matches!(after.execute(item), Answer::Refused(_)) {
                        break;
                    }
                }
            }
            (Mistake::LostCent, Answer::Done(accounts), Op::Transfer { .. }) => {
                after.accounts.get_mut(&accounts[0].0).expect("it was changed").posted -= 1;
            }
            (Mistake::MissingVersion, Answer::Done(accounts), Op::Capture { .. }) if accounts.len() == 2 => {
                after.accounts.get_mut(&accounts[1].0).expect("it was changed").version -= 1;
            }
            (Mistake::FreeHelp, Answer::Done(_), _) => {
                let helped = |account: &AccountNumber| after.protections.get(account).copied();
                let payers = match &op {
                    Op::Withdraw { account, .. } | Op::Hold { account, .. } => vec![*account],
                    Op::Transfer { legs, .. } if legs.len() == 2 => vec![legs[0].account],
                    _ => vec![],
                };
                for source in payers.iter().filter_map(helped).collect::<Vec<_>>() {
                    if !accounts_of(&answer).contains(&source) {
                        after.accounts.insert(source, self.bank.accounts[&source]);
                    }
                }
            }
            _ => {}
        }
        self.bank = after;
        Client::Done { op, invoked, output: output(&answer) }
    }

    /// Takes some of the accounts that an operation changes, and nothing else, from another state of the bank.
    fn overwrite(
        &mut self,
        op: &Op,
        from: &Bank,
        which: impl std::slice::SliceIndex<[AccountNumber], Output = [AccountNumber]>,
    ) {
        let accounts: Vec<AccountNumber> = match op {
            Op::Transfer { legs, .. } => legs.iter().map(|leg| leg.account).collect(),
            Op::Deposit { account, .. } | Op::Withdraw { account, .. } => vec![*account],
            other => unreachable!("{other} is not done in parts"),
        };
        for account in &accounts[which] {
            self.bank.accounts.insert(*account, from.accounts[account]);
        }
    }

    /// Ends the server; some clients try again and others give up.
    fn crash(&mut self) {
        let late = std::mem::take(&mut self.late);
        let moment = self.tick();
        match self.mistake {
            Mistake::LostChange => {
                if let Some(before) = self.past.last() {
                    self.bank = before.clone();
                }
            }
            Mistake::LostHold => self.bank.accounts.values_mut().for_each(|account| account.held = 0),
            _ => {}
        }
        for number in 0..CLIENTS {
            let client = std::mem::replace(&mut self.clients[number], Client::Idle);
            let keyed = self.random.percent(50);
            self.clients[number] = match client {
                Client::Idle => Client::Idle,
                Client::Done { op, invoked, .. } if keyed && self.mistake == Mistake::DoubledRetry => {
                    Client::Sent { op, invoked, before: self.bank.clone() }
                }
                // The answer is the one for ever; what was not done is done now.
                client @ (Client::Done { .. } | Client::Sent { .. }) if keyed => client,
                Client::Sent { op, invoked, .. } | Client::Done { op, invoked, .. } => {
                    if self.mistake == Mistake::LateEffect && matches!(op, Op::Deposit { .. }) {
                        self.late.push(op.clone());
                    }
                    self.history.push(unanswered(number, invoked, moment, op));
                    Client::Idle
                }
                // Recovery ends what was begun before anybody is answered.
                Client::Half { op, invoked, after, .. } => {
                    self.overwrite(&op, &after, 1..);
                    self.history.push(unanswered(number, invoked, moment, op));
                    Client::Idle
                }
            };
        }
        for op in late {
            self.bank.execute(&op);
        }
    }

    /// Asks and is answered with nobody beside.
    fn alone(&mut self, op: Op) {
        let invoked = self.tick();
        let output = output(&self.bank.execute(&op));
        let at = self.tick();
        self.history.push(answered(CLIENTS, invoked, at, op, output));
    }

    /// What is answered is known.
    fn learn(&mut self, op: &Op, output: &Output) {
        match (op, output) {
            (Op::Hold { hold, .. }, Output::Done(_)) => self.holds.made(*hold),
            (Op::Batch { items, .. }, Output::Items(outputs)) => {
                for (item, output) in items.iter().zip(outputs) {
                    self.learn(item, output);
                }
            }
            _ => {}
        }
    }
}

fn accounts_of(answer: &Answer) -> Vec<AccountNumber> {
    match answer {
        Answer::Done(accounts) => accounts.iter().map(|(account, _)| *account).collect(),
        Answer::Refused(_) | Answer::Items(_) => vec![],
    }
}

fn output(answer: &Answer) -> Output {
    match answer {
        Answer::Done(accounts) => Output::Done(accounts.iter().map(seen).collect()),
        Answer::Refused(refusals) => Output::Refused(refusals[0].clone()),
        Answer::Items(answers) => Output::Items(answers.iter().map(output).collect()),
    }
}

/// How many of the histories with a mistake are found to be wrong.
fn found(mistake: Mistake) -> u64 {
    let wrong = (0..HISTORIES).filter(|seed| {
        let verdict = checker::check(&BankModel, &history(mistake, *seed));
        assert_ne!(verdict, Verdict::Undecided, "{mistake:?}, seed {seed}");
        verdict == Verdict::NotLinearizable
    });
    wrong.count() as u64
}

#[test]
fn a_bank_without_mistakes_passes() {
    for seed in 0..HISTORIES {
        check(&history(Mistake::Nothing, seed)).unwrap_or_else(|text| panic!("seed {seed}: {text}"));
    }
}

#[test]
fn every_mistake_is_found() {
    let mut missed = Vec::new();
    for mistake in [
        Mistake::LostUpdate,
        Mistake::StaleRead,
        Mistake::TornTransfer,
        Mistake::TornBatch,
        Mistake::DoubledRetry,
        Mistake::LostChange,
        Mistake::LostHold,
        Mistake::LateEffect,
        Mistake::ForgottenCondition,
        Mistake::ForgottenLimit,
        Mistake::WrongRefusal,
        Mistake::LostCent,
        Mistake::MissingVersion,
        Mistake::FreeHelp,
    ] {
        let found = found(mistake);
        eprintln!("{mistake:?}: {found} of {HISTORIES} histories are found to be wrong");
        if found < HISTORIES_FOUND_MIN {
            missed.push(mistake);
        }
    }
    assert!(missed.is_empty(), "too few histories show {missed:?}");
}
