//! How hledger and Beancount want things written.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::book::Account;
use crate::http::Rfc3339;
use crate::ledger::{AccountId, AccountName, Currency, ShardId, Timestamp, TransactionId};

/// What the bank has received from outside.
pub(super) const WORLD: &str = "Assets:World";

/// What the bank owes its customers, an account each below it.
pub(super) const ACCOUNTS: &str = "Liabilities:Accounts";

/// One side of a transaction: account, signed amount, currency.
pub(super) type Leg = (String, String, Currency);

/// Accounts with what they come to at the end.
pub(super) type Balances<'a> = &'a mut dyn Iterator<Item = Leg>;

/// A way of writing journals.
pub(in super::super) trait Notation {
    /// The part of an account's name behind [`ACCOUNTS`]: another one for every name, on which the program sees
    /// one account below `Accounts`.
    fn component(&self, name: &AccountName) -> String;

    /// What comes first.
    fn preamble(&self, out: &mut dyn Write, currencies: &BTreeSet<Currency>) -> io::Result<()>;

    /// Declares an account.
    fn account(&self, out: &mut dyn Write, shard: ShardId, account: &Account) -> io::Result<()>;

    fn transaction(&self, out: &mut dyn Write, id: TransactionId, kind: &str, legs: &[Leg])
    -> io::Result<()>;

    /// Asserts what accounts come to behind all transactions, the last of which was at `end`.
    fn balances(&self, out: &mut dyn Write, end: Timestamp, balances: Balances<'_>) -> io::Result<()>;
}

/// The first lines, comments in both notations.
fn head(out: &mut dyn Write, format: &str) -> io::Result<()> {
    write!(
        out,
        "; Written by `teller export --format {format}`: the books of the bank. What accounts hold it owes to its\n\
         ; customers, liabilities; what came in from outside it has, Assets:World. Every amount has the opposite sign\n\
         ; of teller's: an account that holds 10.00 stands at -10.00, and one above zero is overdrawn.\n\n"
    )
}

fn date(time: Timestamp) -> String {
    let text = Rfc3339(time).to_string();
    text.split_once('T').map_or(text.clone(), |(date, _)| date.to_owned())
}

/// The date of the next day.
fn date_after(time: Timestamp) -> String {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    date(Timestamp::from_millis(time.millis() + DAY_MS))
}

fn id(shard: ShardId, account: &Account) -> uuid::Uuid {
    AccountId { opened: account.opened, shard, number: account.number }.to_uuid()
}

/// A text between quotes, with a backslash before quotes and backslashes; names have no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// <https://hledger.org/1.25/hledger.html>
pub(in super::super) struct Hledger;

impl Notation for Hledger {
    /// Percent-encoded are `%`, `:`, which begins a sub-account, `;`, which begins a comment, and all blanks but
    /// a single space between other characters: two end the name, and those at the ends are not part of it.
    fn component(&self, name: &AccountName) -> String {
        let mut component = String::with_capacity(name.len());
        let mut before = ' ';
        let end = name.trim_end_matches(' ').len();
        for (offset, character) in name.char_indices() {
            let plain = match character {
                '%' | ':' | ';' => false,
                ' ' => before != ' ' && offset < end,
                other => !other.is_whitespace(),
            };
            if plain {
                component.push(character);
            } else {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(component, "%{byte:02X}");
                }
            }
            before = character;
        }
        component
    }

    fn preamble(&self, out: &mut dyn Write, currencies: &BTreeSet<Currency>) -> io::Result<()> {
        head(out, "hledger")?;
        // Without this, 1000.000 could be a million.
        writeln!(out, "decimal-mark .")?;
        for currency in currencies {
            // The point is needed even where no decimals follow.
            let zeros = "0".repeat(usize::from(currency.scale()));
            writeln!(out, "commodity 1000.{zeros} {currency}")?;
        }
        writeln!(out, "\naccount {WORLD}  ; type:A\naccount {ACCOUNTS}  ; type:L")
    }

    fn account(&self, out: &mut dyn Write, shard: ShardId, account: &Account) -> io::Result<()> {
        // A comma would end the tag, and what follows could be another one.
        let name = quoted(&account.name).replace(',', "\\u002c");
        let component = self.component(&account.name);
        let id = id(shard, account);
        let closed = account.closed.map_or(String::new(), |time| format!(", closed:{}", Rfc3339(time)));
        writeln!(out, "account {ACCOUNTS}:{component}  ; id:{id}{closed}, name:{name}")
    }

    fn transaction(
        &self,
        out: &mut dyn Write,
        id: TransactionId,
        kind: &str,
        legs: &[Leg],
    ) -> io::Result<()> {
        let (date, time) = (date(id.time), Rfc3339(id.time));
        writeln!(out, "\n{date} ({}) {kind}  ; time:{time}", id.to_uuid())?;
        legs.iter()
            .try_for_each(|(account, amount, currency)| writeln!(out, "    {account}  {amount} {currency}"))
    }

    fn balances(&self, out: &mut dyn Write, end: Timestamp, balances: Balances<'_>) -> io::Result<()> {
        writeln!(out, "\n{} balances", date(end))?;
        for (account, balance, currency) in balances {
            // Two signs: an account has nothing of any other currency either. The world has.
            let equals = if account == WORLD { "=" } else { "==" };
            writeln!(out, "    {account}  0 {currency} {equals} {balance} {currency}")?;
        }
        Ok(())
    }
}

/// <https://beancount.github.io/docs/beancount_language_syntax.html>
pub(in super::super) struct Beancount;

impl Notation for Beancount {
    /// `A-`, because a component begins with a capital letter or a digit, and then the name. Only letters, digits
    /// and dashes are allowed: a dash is written as two, and what is neither a digit nor a Latin letter as its
    /// code point in hexadecimal between two dashes. Other letters are allowed too, but which ones depends on the
    /// version of Unicode that a Beancount knows.
    fn component(&self, name: &AccountName) -> String {
        let mut component = String::with_capacity(name.len() + 2);
        component.push_str("A-");
        for character in name.chars() {
            match character {
                '-' => component.push_str("--"),
                'À'..='Ö' | 'Ø'..='ö' | 'ø'..='ɏ' => component.push(character),
                ascii if ascii.is_ascii_alphanumeric() => component.push(ascii),
                other => {
                    let _ = write!(component, "-{:x}-", u32::from(other));
                }
            }
        }
        component
    }

    fn preamble(&self, out: &mut dyn Write, currencies: &BTreeSet<Currency>) -> io::Result<()> {
        head(out, "beancount")?;
        writeln!(out, "option \"title\" \"teller\"")?;
        for currency in currencies {
            writeln!(out, "option \"operating_currency\" \"{currency}\"")?;
        }
        // No time is before that.
        writeln!(out, "\n{} open {WORLD}", date(Timestamp::default()))
    }

    fn account(&self, out: &mut dyn Write, shard: ShardId, account: &Account) -> io::Result<()> {
        let path = format!("{ACCOUNTS}:{}", self.component(&account.name));
        writeln!(out, "{} open {path} {}", date(account.opened), account.currency)?;
        writeln!(out, "  id: \"{}\"\n  name: {}", id(shard, account), quoted(&account.name))?;
        match account.closed {
            // From the next morning on: Beancount does not close an account on the day that opened it.
            Some(closed) => writeln!(out, "{} close {path}", date_after(closed)),
            None => Ok(()),
        }
    }

    fn transaction(
        &self,
        out: &mut dyn Write,
        id: TransactionId,
        kind: &str,
        legs: &[Leg],
    ) -> io::Result<()> {
        let (date, time) = (date(id.time), Rfc3339(id.time));
        writeln!(out, "\n{date} * \"{kind}\"\n  id: \"{}\"\n  time: \"{time}\"", id.to_uuid())?;
        legs.iter()
            .try_for_each(|(account, amount, currency)| writeln!(out, "  {account}  {amount} {currency}"))
    }

    fn balances(&self, out: &mut dyn Write, end: Timestamp, balances: Balances<'_>) -> io::Result<()> {
        // A balance is that of the morning.
        let date = date_after(end);
        writeln!(out)?;
        for (account, balance, currency) in balances {
            // With a tolerance of its own: by itself Beancount lets the last digit be one off.
            writeln!(out, "{date} balance {account}  {balance} ~ 0 {currency}")?;
        }
        Ok(())
    }
}
