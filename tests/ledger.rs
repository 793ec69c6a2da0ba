//! The ledger against a plain model: any commands, in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use teller::ledger::{
    AccountName, AccountRef, Amount, Change, Command, Currency, Event, IdempotencyKey, KeyDigest, KeyStatus,
    Ledger, Rejection, Sequence, Target, Terms, Timestamp, Total,
};

const OVERDRAFT_LIMIT: i128 = 5000;

/// The whole ledger as a beginner would write it: a map.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<String, ModelAccount>,
}

struct ModelAccount {
    balance: i128,
    limit: Option<i128>,
    closed: bool,
    history: Vec<i128>,
    version: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8, Option<u16>),
    Deposit(u8, i128),
    Withdraw(u8, i128),
    Close(u8),
}

fn amount() -> impl Strategy<Value = i128> {
    prop_oneof![
        8 => 1..20_000i128,
        1 => Just(Amount::MAX.minor_units()),
        1 => (Amount::MAX.minor_units() - 10_000)..=Amount::MAX.minor_units(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..8u8, proptest::option::of(0..20_000u16)).prop_map(|(name, limit)| Step::Open(name, limit)),
        5 => (0..8u8, amount()).prop_map(|(name, amount)| Step::Deposit(name, amount)),
        5 => (0..8u8, amount()).prop_map(|(name, amount)| Step::Withdraw(name, amount)),
        1 => (0..8u8).prop_map(Step::Close),
    ]
}

fn units(units: i128) -> Amount {
    Amount::from_minor_units(units).expect("in range")
}

fn name(name: u8) -> AccountName {
    AccountName::parse(&format!("account-{name}")).expect("valid")
}

fn target(account: u8) -> Target {
    Target { account: AccountRef::Name(name(account)), version: None }
}

fn command(step: &Step) -> Command {
    match *step {
        Step::Open(account, limit) => {
            Command::Open { name: name(account), overdraft_limit: limit.map(|limit| units(limit.into())) }
        }
        Step::Deposit(account, amount) => Command::Deposit { target: target(account), amount: units(amount) },
        Step::Withdraw(account, amount) => {
            Command::Withdraw { target: target(account), amount: units(amount) }
        }
        Step::Close(account) => Command::Close { target: target(account) },
    }
}

impl Model {
    fn run(&mut self, step: &Step) -> Result<(), Rejection> {
        let in_range = |sum: i128| sum.abs() <= Amount::MAX.minor_units();
        let outside: i128 = self.accounts.values().map(|account| account.balance).sum();
        let (key, change) = match *step {
            Step::Open(account, limit) => {
                let fresh = ModelAccount {
                    balance: 0,
                    limit: limit.map(i128::from),
                    closed: false,
                    history: vec![],
                    version: 1,
                };
                return match self.accounts.entry(name(account).to_string()) {
                    std::collections::btree_map::Entry::Occupied(_) => Err(Rejection::AccountExists),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(fresh);
                        Ok(())
                    }
                };
            }
            Step::Deposit(account, amount) => (account, Some(amount)),
            Step::Withdraw(account, amount) => (account, Some(-amount)),
            Step::Close(account) => (account, None),
        };
        let account = self
            .accounts
            .get_mut(&*name(key))
            .filter(|account| !account.closed)
            .ok_or(Rejection::AccountNotFound)?;
        match change {
            None if account.balance != 0 => {
                return Err(Rejection::AccountNotEmpty { balance: units(account.balance) });
            }
            None => account.closed = true,
            Some(change) => {
                let available = (account.balance + account.limit.unwrap_or(OVERDRAFT_LIMIT))
                    .min(Amount::MAX.minor_units());
                if -change > available {
                    return Err(Rejection::InsufficientFunds {
                        available: units(available),
                        required: units(-change),
                    });
                }
                if !in_range(account.balance + change) || !in_range(outside + change) {
                    return Err(Rejection::BalanceOutOfRange);
                }
                account.balance += change;
                account.history.push(account.balance);
            }
        }
        account.version += 1;
        Ok(())
    }
}

fn terms(now: u64) -> Terms {
    Terms {
        now: Timestamp::from_millis(now),
        overdraft_limit: units(OVERDRAFT_LIMIT),
        key_retention_ms: 100,
        keys_max: 1000,
    }
}

/// Runs the steps, and returns the ledger with the events that made it.
fn run(
    steps: &[Step],
    mut compare: impl FnMut(usize, &Ledger, Result<&Change, &Rejection>),
) -> (Ledger, Vec<Event>) {
    let mut ledger = Ledger::new();
    let mut events = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let terms = terms(1_000_000 + index as u64);
        let decided = ledger.decide(&command(step), &terms);
        if let Ok(change) = &decided {
            let event = Event { time: terms.now, key: None, change: change.clone() };
            ledger.apply(&event);
            events.push(event);
        }
        compare(index, &ledger, decided.as_ref());
    }
    (ledger, events)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P3, P4: the ledger agrees with the model on every result and every balance, sums to zero at every
    /// moment, and takes nobody below the limit by a withdrawal.
    #[test]
    fn the_ledger_agrees_with_a_plain_map(steps in proptest::collection::vec(step(), 1..200)) {
        let mut model = Model::default();
        run(&steps, |index, ledger, result| {
            let expected = model.run(&steps[index]);
            assert_eq!(result.map(|_| ()), expected.as_ref().copied(), "step {index}: {:?}", steps[index]);
            assert!(ledger.totals().values().all(|total| total.is_zero()), "step {index}");
            let sum = |sign: i128| {
                let mut sum = Total::default();
                let balances = model.accounts.values().map(|account| account.balance);
                balances.filter(|balance| balance.signum() == sign).for_each(|balance| sum.add(units(balance)));
                sum
            };
            if let Some(sums) = ledger.sums().get(&Currency::USD) {
                assert_eq!(sums.accounts as usize, model.accounts.len());
                assert_eq!((sums.credit, sums.debit), (sum(1), sum(-1)));
            }
            for account in ledger.accounts() {
                let expected = &model.accounts[&*account.name];
                assert_eq!(account.posted.minor_units(), expected.balance);
                assert_eq!(account.version, expected.version);
                assert_eq!(account.closed().is_some(), expected.closed);
                assert!(expected.balance >= -expected.limit.unwrap_or(OVERDRAFT_LIMIT));
            }
        });
    }

    /// P8: the fold of the events is the state; and a state taken apart and put together again is the same.
    #[test]
    fn replay_gives_the_same_state(steps in proptest::collection::vec(step(), 1..200)) {
        let (ledger, events) = run(&steps, |_, _, _| {});
        let mut replayed = Ledger::new();
        for event in &events {
            replayed.replay(event).expect("the event follows");
        }
        prop_assert_eq!(replayed.to_parts(), ledger.to_parts());
        let rebuilt = Ledger::from_parts(ledger.to_parts()).expect("consistent");
        prop_assert_eq!(rebuilt.to_parts(), ledger.to_parts());
        prop_assert_eq!(rebuilt.sums(), ledger.sums());
    }

    /// P9: every balance is explained by the chain of entries that leads to it.
    #[test]
    fn every_balance_is_explained_by_its_entries(steps in proptest::collection::vec(step(), 1..200)) {
        let mut model = Model::default();
        for step in &steps {
            let _ = model.run(step);
        }
        let (ledger, events) = run(&steps, |_, _, _| {});
        for account in ledger.accounts() {
            let mut at = account.chain.newest();
            let mut balances = Vec::new();
            while at != Sequence::NONE {
                let event = &events[at.get() as usize - 1];
                let (number, entry) = event.change.account().expect("an entry");
                assert_eq!(number, account.number);
                if let Change::Posted { entry, .. } = &event.change {
                    balances.push(entry.balance.minor_units());
                }
                at = entry.map_or(Sequence::NONE, |entry| entry.links.previous);
            }
            balances.reverse();
            prop_assert_eq!(&balances, &model.accounts[&*account.name].history);
        }
    }

    /// An event that does not follow from the state is refused by replay, and leaves the state as it was.
    #[test]
    fn replay_refuses_what_does_not_follow(
        steps in proptest::collection::vec(step(), 20..100),
        at in any::<proptest::sample::Index>(),
        by in prop_oneof![-10..-1i128, 1..10i128],
    ) {
        let (_, mut events) = run(&steps, |_, _, _| {});
        let postings: Vec<usize> = (0..events.len())
            .filter(|&index| matches!(events[index].change, Change::Posted { .. }))
            .collect();
        prop_assume!(!postings.is_empty());
        let at = postings[at.index(postings.len())];
        if let Change::Posted { entry, .. } = &mut events[at].change {
            entry.balance = Amount::from_minor_units(entry.balance.minor_units() + by).unwrap_or(Amount::ZERO);
        }
        let mut ledger = Ledger::new();
        for event in &events[..at] {
            ledger.replay(event).expect("the event follows");
        }
        let before = ledger.to_parts();
        prop_assert!(ledger.replay(&events[at]).is_err());
        prop_assert_eq!(ledger.to_parts(), before);
    }
}

fn opened() -> Ledger {
    let mut ledger = Ledger::new();
    let change = ledger.decide(&command(&Step::Open(1, None)), &terms(1)).expect("opens");
    ledger.apply(&Event { time: Timestamp::from_millis(1), key: None, change });
    ledger
}

#[test]
fn of_two_reasons_a_client_hears_the_first() {
    let mut ledger = opened();
    let withdraw =
        |version| Command::Withdraw { target: Target { version, ..target(1) }, amount: units(9999) };
    let available = units(OVERDRAFT_LIMIT);
    assert_eq!(
        ledger.decide(&withdraw(Some(7)), &terms(2)),
        Err(Rejection::VersionMismatch { version: 1 }),
        "the version comes before the funds"
    );
    assert_eq!(
        ledger.decide(&withdraw(Some(1)), &terms(2)),
        Err(Rejection::InsufficientFunds { available, required: units(9999) })
    );
    let change = ledger.decide(&command(&Step::Close(1)), &terms(2)).expect("closes");
    ledger.apply(&Event { time: Timestamp::from_millis(2), key: None, change });
    assert_eq!(ledger.decide(&withdraw(Some(7)), &terms(3)), Err(Rejection::AccountNotFound));
    let account =
        AccountRef::Number { number: ledger.accounts()[0].number, opened: Timestamp::from_millis(1) };
    let by_id = Command::Close { target: Target { account, version: Some(7) } };
    assert_eq!(
        ledger.decide(&by_id, &terms(3)),
        Err(Rejection::AccountClosed),
        "closed comes before the version"
    );
}

#[test]
fn a_lowered_limit_refuses_withdrawals_and_keeps_the_account() {
    let mut ledger = opened();
    let change = ledger.decide(&command(&Step::Withdraw(1, 5000)), &terms(2)).expect("within the limit");
    ledger.apply(&Event { time: Timestamp::from_millis(2), key: None, change });
    let lowered = Terms { overdraft_limit: Amount::ZERO, ..terms(3) };
    assert_eq!(
        ledger.decide(&command(&Step::Withdraw(1, 1)), &lowered),
        Err(Rejection::InsufficientFunds { available: units(-5000), required: units(1) })
    );
    assert!(ledger.decide(&command(&Step::Deposit(1, 1)), &lowered).is_ok());
}

#[test]
fn a_key_is_remembered_until_it_expires_and_then_forgotten() {
    let mut ledger = opened();
    let key = IdempotencyKey { digest: KeyDigest([1; 16]), fingerprint: [2; 16] };
    let other = IdempotencyKey { fingerprint: [3; 16], ..key };
    let deposit = |ledger: &mut Ledger, now: u64, key: Option<IdempotencyKey>| {
        let terms = terms(now);
        let change = ledger.decide(&command(&Step::Deposit(1, 5)), &terms).expect("deposits");
        ledger.apply(&Event { time: terms.now, key: key.map(|key| terms.key_use(key)), change })
    };
    let at = |millis| Timestamp::from_millis(millis);
    let outcome = deposit(&mut ledger, 10, Some(key));
    assert_eq!(ledger.key_status(&key, at(109)), KeyStatus::Settled(outcome));
    assert_eq!(ledger.key_status(&other, at(109)), KeyStatus::Reused);
    assert_eq!(ledger.key_status(&key, at(110)), KeyStatus::New, "expired, though still there");
    assert_eq!(ledger.keys().len(), 1);
    let renewed = deposit(&mut ledger, 110, Some(key));
    assert_eq!(ledger.key_status(&key, at(200)), KeyStatus::Settled(renewed));
    deposit(&mut ledger, 211, None);
    assert!(ledger.keys().is_empty(), "an expired key takes no memory once something else happens");
}

/// Keys once waited in a queue in order of use. With a retention that was lowered between two starts, a key
/// that lived long held back those behind it, but not in a state that came from a snapshot: two machines with
/// the same events disagreed on how many keys there are.
#[test]
fn keys_expire_alike_in_a_live_and_in_a_restored_state_whatever_the_retention_was() {
    let mut live = opened();
    let key = |number| IdempotencyKey { digest: KeyDigest([number; 16]), fingerprint: [0; 16] };
    let event = |ledger: &Ledger, now: u64, key_retention_ms, key: Option<IdempotencyKey>, step: &Step| {
        let terms = Terms { key_retention_ms, ..terms(now) };
        let change = ledger.decide(&command(step), &terms).expect("is done");
        Event { time: terms.now, key: key.map(|key| terms.key_use(key)), change }
    };
    let deposit = Step::Deposit(1, 5);
    for (now, retention, number) in [(10, 1000, 1), (11, 10, 2), (12, 5, 3), (13, 5, 1)] {
        let event = event(&live, now, retention, Some(key(number)), &deposit);
        live.apply(&event);
    }
    let mut restored = Ledger::from_parts(live.to_parts()).expect("consistent");
    for now in [16, 17, 18, 25] {
        let event = event(&live, now, 10, None, &deposit);
        live.apply(&event);
        restored.replay(&event).expect("it follows");
        assert_eq!(live.to_parts(), restored.to_parts(), "at {now}");
        assert_eq!(live.keys().len(), restored.keys().len(), "at {now}");
        assert_eq!(live.keys().len(), live.to_parts().keys.len(), "at {now}");
    }
    assert!(live.keys().is_empty());
}
