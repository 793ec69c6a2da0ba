//! The service's overdraft limit, and whose it is.

use super::{Amount, Currency};

/// The overdraft limit of accounts that have none of their own: `limit` in `currency`, zero in any other.
///
/// One number cannot be a limit in all currencies (50 dollars are two orders of magnitude from 50 yen), and the
/// service knows no exchange rates. So it counts for accounts of its own currency, the one that accounts get when
/// they are opened without one; another currency's accounts go below zero only by a limit of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverdraftDefault {
    /// The currency that the limit is in.
    pub currency: Currency,
    /// The limit; not negative.
    pub limit: Amount,
}

impl OverdraftDefault {
    /// The limit of an account of `currency` without one of its own.
    pub fn for_currency(self, currency: Currency) -> Amount {
        if currency == self.currency { self.limit } else { Amount::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accounts_of_its_currency_have_it() {
        let limit = Amount::from_minor_units(50_00).unwrap();
        let default = OverdraftDefault { currency: Currency::USD, limit };
        for currency in Currency::ALL {
            let expected = if currency.code() == "USD" { limit } else { Amount::ZERO };
            assert_eq!(default.for_currency(*currency), expected, "{currency}");
        }
    }
}
