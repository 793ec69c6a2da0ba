use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::book::Account;
use super::*;
use crate::ledger::{Timestamp, Total};
use crate::random::cases::cases;

/// What a program could stumble over.
const HOSTILE: [&str; 14] = [
    "alice",
    "Alice",
    "a:b",
    "Assets:World",
    " two  spaces  ",
    "semi;colon  ; type:X, date:1",
    "\"quoted\\\" (and) [bracketed] {braced}",
    "100% 1000.00 USD @ 2 = 3 | * ! ~",
    "007",
    "-dashed--name-",
    "Kateřina Nováková ǅ",
    "山田 😀",
    "e\u{301} \u{a0}\u{2028}.",
    "2d-",
];

fn amount(cents: i128) -> Amount {
    Amount::from_minor_units(cents).unwrap()
}

/// A time in the night from 2028-02-29 to 2028-03-01.
fn time(minutes_past_midnight: i64) -> Timestamp {
    Timestamp::from_millis((1_835_481_600_000 + minutes_past_midnight * 60_000).unsigned_abs())
}

/// Two shards, two transfers over both between deposits and withdrawals, one account closed.
fn book_and_transactions() -> (Book, Vec<Transaction>) {
    let accounts = |names: &[&str], balances: &[i128]| -> Vec<Account> {
        let numbered = (0..).map(AccountNumber::new).zip(names);
        let account = |((number, name), balance): ((AccountNumber, &&str), &i128)| Account {
            number,
            name: AccountName::parse(name).unwrap(),
            currency: Currency::USD,
            posted: amount(*balance),
            opened: time(-60),
            closed: (*name == "2d-").then(|| time(5)),
        };
        numbered.zip(balances).map(account).collect()
    };
    let (first, second) = HOSTILE.split_at(7);
    let mut world = Total::default();
    world.add(amount(100_000));
    let book = Book {
        shards: vec![
            accounts(first, &[75_000, 5_000, -15, 0, 0, 0, 0]),
            accounts(second, &[0, 20_015, 0, 0, 0, 0, 0]),
        ],
        world_negated: [(Currency::USD, world)].into(),
        end: time(5),
    };

    let id = |minutes, shard, sequence| TransactionId {
        time: time(minutes),
        shard: ShardId::new(shard).unwrap(),
        sequence: Sequence::new(sequence).unwrap(),
    };
    let posting = |holder, cents| Posting { holder, amount: amount(cents), currency: Currency::USD };
    let account = |shard, number| Holder::Account(ShardId::new(shard).unwrap(), AccountNumber::new(number));
    let transactions = vec![
        Transaction::new(
            id(-3, 0, 8),
            "deposit",
            vec![posting(account(0, 0), 100_000), posting(Holder::World, -100_000)],
        ),
        Transaction::new(
            id(-2, 0, 9),
            "transfer",
            vec![
                posting(account(0, 0), -25_000),
                posting(account(0, 1), 5_000),
                posting(account(1, 1), 20_000),
            ],
        ),
        Transaction::new(
            id(0, 0, 10),
            "withdrawal",
            vec![posting(account(0, 2), -30), posting(Holder::World, 30)],
        ),
        Transaction::new(
            id(5, 1, 9),
            "transfer",
            vec![posting(account(1, 1), -15), posting(account(0, 2), 15)],
        ),
        Transaction::new(
            id(5, 1, 10),
            "deposit",
            vec![posting(account(1, 1), 30), posting(Holder::World, -30)],
        ),
    ];
    (book, transactions)
}

fn written(notation: &dyn Notation, only: Option<Holder>) -> String {
    let (book, transactions) = book_and_transactions();
    let mut text = Vec::new();
    let mut journal = Journal::begin(&book, only, notation, &mut text).unwrap();
    transactions.iter().try_for_each(|transaction| journal.transaction(transaction)).unwrap();
    journal.end().unwrap();
    String::from_utf8(text).unwrap()
}

/// `tests/plain_text_accounting.rs` gives the same files to the programs.
#[test]
fn hostile_names_and_transfers_are_written_as_the_golden_files_say() {
    let (_, transactions) = book_and_transactions();
    let alice = transactions[0].postings[0].holder;
    for (notation, only, file, golden) in [
        (&Hledger as &dyn Notation, None, "all.journal", include_str!("golden/all.journal")),
        (&Hledger, Some(alice), "alice.journal", include_str!("golden/alice.journal")),
        (&Beancount, None, "all.beancount", include_str!("golden/all.beancount")),
        (&Beancount, Some(alice), "alice.beancount", include_str!("golden/alice.beancount")),
    ] {
        let text = written(notation, only);
        assert!(text == golden, "{file} should be as it is, or reviewed anew:\n{text}");
    }
}

#[test]
fn an_empty_ledger_is_a_journal_without_transactions() {
    let book = Book::default();
    for notation in [&Hledger as &dyn Notation, &Beancount] {
        let mut text = Vec::new();
        Journal::begin(&book, None, notation, &mut text).unwrap().end().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(notation::WORLD) && !text.contains("balance"), "{text}");
    }
}

#[test]
#[should_panic(expected = "sum to zero")]
fn a_transaction_that_does_not_sum_to_zero_is_never_written() {
    let (_, transactions) = book_and_transactions();
    let mut postings = transactions[1].postings.clone();
    postings.pop();
    Transaction::new(transactions[1].id, "transfer", postings);
}

/// Reads what [`Beancount`] writes, and takes nothing that it would not write.
fn beancount_name(component: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = component.strip_prefix("A-")?;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '-' {
            assert!(character.is_alphanumeric(), "{component}");
            name.push(character);
        } else if let Some(behind) = rest.strip_prefix('-') {
            name.push('-');
            rest = behind;
        } else {
            let (code, behind) = rest.split_once('-')?;
            name.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
            rest = behind;
        }
    }
    Some(name)
}

fn assert_spelled_well(name: &str) {
    let Ok(name) = AccountName::parse(name) else { return };
    let hledger = Hledger.component(&name);
    assert_eq!(percent_decode_str(&hledger).decode_utf8().unwrap(), &*name, "{hledger}");
    assert!(!hledger.contains([':', ';']) && !hledger.contains("  "), "{hledger:?}");
    assert_eq!(hledger.trim(), hledger);
    assert!(hledger.chars().all(|character| character == ' ' || !character.is_whitespace()), "{hledger:?}");
    let beancount = Beancount.component(&name);
    assert_eq!(beancount_name(&beancount).as_deref(), Some(&*name), "{beancount}");
}

#[test]
fn no_two_names_are_spelled_alike() {
    let others =
        ["a%3Ab", "a%3ab", "%", "a-3a-b", "a--b", "a-b", "-", "--", " ", "  ", "   ", "a ", "é", "×÷"];
    let names: Vec<&str> = HOSTILE.into_iter().chain(others).collect();
    for notation in [&Hledger as &dyn Notation, &Beancount] {
        let spelled: HashSet<String> =
            names.iter().map(|name| notation.component(&AccountName::parse(name).unwrap())).collect();
        assert_eq!(spelled.len(), names.len());
    }
    names.into_iter().for_each(assert_spelled_well);
}

proptest! {
    #![proptest_config(cases())]

    /// What can be read back is spelled unlike everything else.
    #[test]
    fn every_name_can_be_read_back(name in "[ a-c:;%\\-0-9\u{a0}\u{3000}é]{1,20}|\\PC{1,60}") {
        assert_spelled_well(&name);
    }
}
