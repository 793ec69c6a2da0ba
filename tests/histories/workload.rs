//! What clients ask for: a seeded mixture over a few accounts, so that operations meet.
//!
//! Holds are named by the client that asks for one; only holds whose making was answered are used, because only
//! then does anybody know them.

use crate::model::{AccountNumber, Condition, HoldNumber, Leg, Op};
use crate::random::Random;

/// Amounts are up to this many cents: often more than an account has.
const CENTS_MAX: u64 = 900;

/// Overdraft limits are below this many cents.
const OVERDRAFT_LIMIT_END: u64 = 400;

const LEGS_MAX: u64 = 4;
const BATCH_ITEMS_MAX: u64 = 5;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Deposit,
    Withdraw,
    Read,
    /// Two reads, one after the other.
    ReadPair,
    Transfer,
    ManyLegs,
    ConditionalTransfer,
    Hold,
    /// Captures or voids a hold.
    Settle,
    /// Has one account pay what another one lacks.
    Protect,
    Batch,
    AtomicBatch,
}

/// How often each kind comes.
const WEIGHTS: &[(Kind, u64)] = &[
    (Kind::Open, 3),
    (Kind::Deposit, 14),
    (Kind::Withdraw, 12),
    (Kind::Read, 10),
    (Kind::ReadPair, 10),
    (Kind::Transfer, 16),
    (Kind::ManyLegs, 8),
    (Kind::ConditionalTransfer, 7),
    (Kind::Hold, 11),
    (Kind::Settle, 14),
    (Kind::Protect, 4),
    (Kind::Batch, 5),
    (Kind::AtomicBatch, 6),
];

/// All kinds; the server has them all.
pub(crate) const EVERYTHING: &[Kind] = &[
    Kind::Open,
    Kind::Deposit,
    Kind::Withdraw,
    Kind::Read,
    Kind::ReadPair,
    Kind::Transfer,
    Kind::ManyLegs,
    Kind::ConditionalTransfer,
    Kind::Hold,
    Kind::Settle,
    Kind::Protect,
    Kind::Batch,
    Kind::AtomicBatch,
];

/// The kinds that can be an item of a batch.
const IN_BATCHES: &[Kind] = &[
    Kind::Open,
    Kind::Deposit,
    Kind::Withdraw,
    Kind::Transfer,
    Kind::ManyLegs,
    Kind::ConditionalTransfer,
    Kind::Hold,
    Kind::Settle,
];

/// A source of operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// How many accounts there are.
    pub(crate) accounts: usize,
    /// Which kinds are asked for.
    pub(crate) kinds: &'static [Kind],
}

/// The holds of a history.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    asked_for: usize,
    known: Vec<HoldNumber>,
}

impl Holds {
    fn next(&mut self) -> HoldNumber {
        self.asked_for += 1;
        HoldNumber(self.asked_for)
    }

    /// From now on clients may use it.
    pub(crate) fn made(&mut self, hold: HoldNumber) {
        self.known.push(hold);
    }
}

impl Workload {
    /// What opens an account.
    pub(crate) fn open(&self, random: &mut Random, account: AccountNumber) -> Op {
        Op::Open { account, overdraft_limit: random.below(OVERDRAFT_LIMIT_END) as i64 }
    }

    /// What a client asks next, one after the other.
    pub(crate) fn next(&self, random: &mut Random, holds: &mut Holds) -> Vec<Op> {
        match pick(random, self.kinds) {
            Kind::ReadPair => {
                let (first, second) = self.two(random);
                vec![Op::Read { account: first }, Op::Read { account: second }]
            }
            kind => vec![self.one(random, holds, kind)],
        }
    }

    fn one(&self, random: &mut Random, holds: &mut Holds, kind: Kind) -> Op {
        let cents = 1 + random.below(CENTS_MAX) as i64;
        let account = self.any(random);
        match kind {
            Kind::Open => self.open(random, account),
            Kind::Deposit => Op::Deposit { account, cents },
            Kind::Withdraw => Op::Withdraw { account, cents },
            Kind::Read | Kind::ReadPair => Op::Read { account },
            Kind::Transfer => Op::Transfer { legs: self.two_legs(random, cents), conditions: vec![] },
            Kind::ManyLegs => Op::Transfer { legs: self.many_legs(random), conditions: vec![] },
            Kind::ConditionalTransfer => {
                let available_gte = random.below(CENTS_MAX) as i64;
                let condition = Condition { account, available_gte };
                Op::Transfer { legs: self.two_legs(random, cents), conditions: vec![condition] }
            }
            Kind::Hold => {
                let to = self.any(random);
                let to = Some(to).filter(|to| *to != account && random.percent(50));
                Op::Hold { hold: holds.next(), account, cents, to }
            }
            Kind::Settle => self.settle(random, holds, cents),
            Kind::Protect => {
                let (account, by) = self.two(random);
                Op::Protect { account, by }
            }
            Kind::Batch | Kind::AtomicBatch => {
                let kinds: Vec<Kind> =
                    IN_BATCHES.iter().copied().filter(|kind| self.kinds.contains(kind)).collect();
                let count = 1 + random.below(BATCH_ITEMS_MAX);
                let items = (0..count).map(|_| {
                    let kind = pick(random, &kinds);
                    self.one(random, holds, kind)
                });
                Op::Batch { items: items.collect(), atomic: kind == Kind::AtomicBatch }
            }
        }
    }

    /// One of the newest holds, perhaps settled already; a deposit if there is none.
    fn settle(&self, random: &mut Random, holds: &Holds, cents: i64) -> Op {
        let newest = &holds.known[holds.known.len().saturating_sub(3)..];
        if newest.is_empty() {
            return Op::Deposit { account: self.any(random), cents };
        }
        let hold = newest[random.below(newest.len() as u64) as usize];
        match random.below(3) {
            0 => Op::Void { hold },
            1 => Op::Capture { hold, cents: None },
            _ => Op::Capture { hold, cents: Some(cents) },
        }
    }

    fn two_legs(&self, random: &mut Random, cents: i64) -> Vec<Leg> {
        let (from, to) = self.two(random);
        vec![Leg { account: from, cents: -cents }, Leg { account: to, cents }]
    }

    /// From one account to several, or the other way round.
    fn many_legs(&self, random: &mut Random) -> Vec<Leg> {
        let sign = if random.percent(50) { 1 } else { -1 };
        let count = (3 + random.below(LEGS_MAX - 2)).min(self.accounts as u64);
        let first = random.below(self.accounts as u64) as usize;
        let mut legs: Vec<Leg> = (1..count as usize)
            .map(|step| Leg {
                account: AccountNumber((first + step) % self.accounts),
                cents: sign * (1 + random.below(CENTS_MAX / 2) as i64),
            })
            .collect();
        let sum: i64 = legs.iter().map(|leg| leg.cents).sum();
        legs.push(Leg { account: AccountNumber(first), cents: -sum });
        legs
    }

    fn any(&self, random: &mut Random) -> AccountNumber {
        AccountNumber(random.below(self.accounts as u64) as usize)
    }

    /// Two that differ.
    fn two(&self, random: &mut Random) -> (AccountNumber, AccountNumber) {
        let first = random.below(self.accounts as u64) as usize;
        let step = 1 + random.below(self.accounts as u64 - 1) as usize;
        (AccountNumber(first), AccountNumber((first + step) % self.accounts))
    }
}

/// One of these kinds, by their weights.
fn pick(random: &mut Random, kinds: &[Kind]) -> Kind {
    let weights = WEIGHTS.iter().filter(|(kind, _)| kinds.contains(kind));
    let mut number = random.below(weights.clone().map(|(_, weight)| weight).sum());
    for (kind, weight) in weights {
        if number < *weight {
            return *kind;
        }
        number -= weight;
    }
    unreachable!("the number is below the sum of the weights")
}
