//! The books of the bank as plain-text accounting: a journal that hledger or Beancount reads.
//!
//! They are written from the bank's side. What an account holds, the bank owes to its customer: a liability,
//! `Liabilities:Accounts:` and the name. What came in from `@world` the bank has: an asset, `Assets:World`. In
//! plain-text accounting what is owed is negative, so every amount has the opposite sign of teller's: an account that
//! holds 10.00 stands at -10.00 there, and an account above zero is overdrawn, its customer owes the bank.
//!
//! What always holds:
//!
//! - a transaction appears once, with all its postings, and they sum to zero in each currency; transactions are in the
//!   order of their ids, which is that of time;
//! - no two accounts have the same spelling, and the spelling is one that the program reads as one account;
//! - the balances at the end are assertions, exact ones, and come from the ledger's state, not from adding up what is
//!   printed here: that they agree is for the other program to prove;
//! - the same ledger gives the same bytes.
//!
//! All accounts are in memory meanwhile, the history never is: each shard is read by a thread of its own that is at
//! most [`TRANSACTIONS_AHEAD`] ahead. So it is for one account, too, although all of its transactions are in the log of
//! its own shard: there, those that other shards decided stand where they arrived, behind some with later ids.
//!
//! Left out on purpose: overdraft limits, freezes and refused requests, which are no movements of money.

mod book;
mod notation;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::book::Book;
use self::notation::{Leg, Notation};
use super::{Source, no_account};
use crate::ledger::{
    AccountName, AccountNumber, Amount, Change, Currency, Event, Sequence, ShardId, TransactionId,
    TransactionType,
};
use crate::storage::StorageError;
use crate::storage::log::ShardFiles;

pub(super) use self::notation::{Beancount, Hledger};

/// How many transactions a shard's reader may be ahead of the printer. Enough that neither waits for the other each
/// time; 1024 shards are then some tens of megabytes.
const TRANSACTIONS_AHEAD: usize = 256;

/// Who takes part in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// `@world`: whatever is outside of the bank.
    World,
    /// An account.
    Account(ShardId, AccountNumber),
}

/// One side of a transaction.
#[derive(Clone, Copy, Debug)]
struct Posting {
    holder: Holder,
    /// With teller's sign: positive for who receives.
    amount: Amount,
    currency: Currency,
}

/// Money that moved. The postings sum to zero in each currency.
#[derive(Clone, Debug)]
struct Transaction {
    id: TransactionId,
    kind: &'static str,
    postings: Vec<Posting>,
}

impl Transaction {
    /// # Panics
    /// If the postings do not sum to zero in each currency (P3): the log was verified, so that would be our mistake.
    fn new(id: TransactionId, kind: &'static str, postings: Vec<Posting>) -> Transaction {
        for Posting { currency, .. } in &postings {
            let amounts = postings.iter().filter(|posting| posting.currency == *currency);
            let sum: i128 = amounts.map(|posting| posting.amount.minor_units()).sum();
            assert_eq!(sum, 0, "the postings of {} sum to zero", id.to_uuid());
        }
        Transaction { id, kind, postings }
    }

    /// The transaction that an event was, if it was one. Each has one event that says so, whatever the number of
    /// shards that it touched.
    fn of(event: &Event, shard: ShardId, sequence: Sequence, book: &Book) -> Option<Transaction> {
        let id = TransactionId { time: event.time, shard, sequence };
        let (opened, currency) = match &event.change {
            Change::Posted { account, .. } => {
                let account = book.account(shard, *account);
                (account.opened, account.currency)
            }
            Change::Decided { .. } => (event.time, Currency::USD),
            // What was settled here is in the deciding shard's log.
            _ => return None,
        };
        let decision = event.change.to_decision(shard, opened, currency)?;
        let mut postings: Vec<_> = decision
            .effects()
            .filter(|(_, effect)| !effect.change.posted().is_zero())
            .map(|(shard, effect)| Posting {
                holder: Holder::Account(shard, effect.account),
                amount: effect.change.posted(),
                currency: effect.currency,
            })
            .collect();
        if decision.is_with_world() {
            let world = |posting: &Posting| Posting {
                holder: Holder::World,
                amount: posting.amount.negated(),
                currency: posting.currency,
            };
            postings.extend(postings.iter().map(world).collect::<Vec<_>>());
        }
        (!postings.is_empty()).then(|| {
            Transaction::new(
                id,
                TransactionType::of(&decision.kind).map_or("", TransactionType::name),
                postings,
            )
        })
    }
}

/// Prints the transactions of all accounts or of one, and the balances at the end.
pub(super) fn export(
    source: &Source,
    only: Option<&AccountName>,
    notation: &dyn Notation,
    stdout: impl Write,
) -> Result<(), Box<dyn Error>> {
    let book = Book::read(&source.shards, &source.progress)?;
    let only = match only {
        None => None,
        Some(name) => {
            let shard = source.shard_of(name).shard;
            let number = book.find(shard, name).ok_or_else(|| no_account(name))?;
            Some(Holder::Account(shard, number))
        }
    };
    let mut journal = Journal::begin(&book, only, notation, stdout)?;
    in_order(source, &book, &mut |transaction| journal.transaction(&transaction))?;
    Ok(journal.end()?)
}

/// Hands over the transactions of all shards in the order of their ids.
fn in_order(
    source: &Source,
    book: &Book,
    take: &mut dyn FnMut(Transaction) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    thread::scope(|scope| {
        let start = |files| {
            let (sender, receiver) = bounded(TRANSACTIONS_AHEAD);
            scope.spawn(move || read(source, files, book, &sender));
            receiver
        };
        // Whichever way this ends, the receivers go then, and the readers end because of it.
        let readers: Vec<Receiver<_>> = source.shards.iter().map(start).collect();
        let mut heads: Vec<Option<Transaction>> = Vec::with_capacity(readers.len());
        let mut order = BinaryHeap::new();
        for (index, reader) in readers.iter().enumerate() {
            let head = reader.recv().ok().transpose()?;
            order.extend(head.iter().map(|head| Reverse((head.id, index))));
            heads.push(head);
        }
        while let Some(Reverse((_, index))) = order.pop() {
            if let Some(head) = heads[index].take() {
                take(head)?;
            }
            heads[index] = readers[index].recv().ok().transpose()?;
            order.extend(heads[index].iter().map(|head| Reverse((head.id, index))));
        }
        Ok(())
    })
}

/// Reads a shard's transactions until its end or until nobody wants them any more.
fn read(
    source: &Source,
    files: &ShardFiles,
    book: &Book,
    sender: &Sender<Result<Transaction, StorageError>>,
) {
    let walked = source.walk(files, &mut |sequence, event| {
        let transaction = Transaction::of(event, files.shard, sequence, book);
        match transaction.map(|transaction| sender.send(Ok(transaction))) {
            Some(Err(_)) => ControlFlow::Break(()),
            Some(Ok(())) | None => ControlFlow::Continue(()),
        }
    });
    if let Err(error) = walked {
        // If nobody wants transactions any more, nobody wants to know why there are no more of them.
        let _ = sender.send(Err(error));
    }
}

/// The accounts that are exported: all, or the one.
fn exported(book: &Book, only: Option<Holder>) -> impl Iterator<Item = Holder> {
    let all = book.shards().flat_map(|(shard, accounts)| {
        accounts.iter().map(move |account| Holder::Account(shard, account.number))
    });
    only.into_iter().chain(all.filter(move |_| only.is_none()))
}

/// A journal under way.
struct Journal<'a, W> {
    book: &'a Book,
    only: Option<Holder>,
    notation: &'a dyn Notation,
    /// By shard and number: whether an account has been introduced.
    introduced: Vec<Vec<bool>>,
    out: W,
}

impl<'a, W: Write> Journal<'a, W> {
    /// Writes what comes before the transactions: the accounts that are exported.
    fn begin(
        book: &'a Book,
        only: Option<Holder>,
        notation: &'a dyn Notation,
        mut out: W,
    ) -> io::Result<Journal<'a, W>> {
        notation.preamble(&mut out, &book.currencies())?;
        let introduced = book.shards().map(|(_, accounts)| vec![false; accounts.len()]).collect();
        let mut journal = Journal { book, only, notation, introduced, out };
        journal.introduce(exported(book, only))?;
        Ok(journal)
    }

    /// Declares the accounts that have not been yet: the other sides of one account's transactions are not known
    /// before they come.
    fn introduce(&mut self, holders: impl Iterator<Item = Holder>) -> io::Result<()> {
        let mut first = true;
        for holder in holders {
            let Holder::Account(shard, number) = holder else { continue };
            let introduced = &mut self.introduced[shard.index()][number.index()];
            if std::mem::replace(introduced, true) {
                continue;
            }
            if std::mem::take(&mut first) {
                writeln!(self.out)?;
            }
            self.notation.account(&mut self.out, shard, self.book.account(shard, number))?;
        }
        Ok(())
    }

    /// Writes a transaction, if it is one of an account that is exported.
    fn transaction(&mut self, transaction: &Transaction) -> io::Result<()> {
        let Transaction { id, kind, postings } = transaction;
        if self.only.is_some_and(|only| postings.iter().all(|posting| posting.holder != only)) {
            return Ok(());
        }
        self.introduce(postings.iter().map(|posting| posting.holder))?;
        let leg = |&Posting { holder, amount, currency }: &Posting| {
            let amount = amount.negated().to_decimal(currency).to_string();
            (spelled(self.book, self.notation, holder), amount, currency)
        };
        let legs: Vec<Leg> = postings.iter().map(leg).collect();
        self.notation.transaction(&mut self.out, *id, kind, &legs)
    }

    /// Writes what comes behind the transactions: the balances.
    fn end(self) -> io::Result<()> {
        let Journal { book, only, notation, mut out, .. } = self;
        let accounts = exported(book, only).filter_map(|holder| match holder {
            Holder::Account(shard, number) => {
                let account = book.account(shard, number);
                let balance = account.posted.negated().to_decimal(account.currency).to_string();
                Some((spelled(book, notation, holder), balance, account.currency))
            }
            Holder::World => None,
        });
        // One account's transactions are not all that `@world` has seen.
        let world = book.world_negated.iter().filter(|_| only.is_none());
        let world =
            world.map(|(currency, total)| (notation::WORLD.to_owned(), total.to_text(*currency), *currency));
        let mut balances = accounts.chain(world).peekable();
        if balances.peek().is_some() {
            notation.balances(&mut out, book.end, &mut balances)?;
        }
        out.flush()
    }
}

/// An account as the journal names it.
fn spelled(book: &Book, notation: &dyn Notation, holder: Holder) -> String {
    match holder {
        Holder::World => notation::WORLD.to_owned(),
        Holder::Account(shard, number) => {
            let component = notation.component(&book.account(shard, number).name);
            format!("{}:{component}", notation::ACCOUNTS)
        }
    }
}

#[cfg(test)]
mod tests;
