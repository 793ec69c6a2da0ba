//! The types of transactions, by the names that the world knows them by.

use super::Kind;

/// What kind of thing happened to accounts: a [`Kind`] without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionType {
    /// See [`Kind::Deposit`].
    Deposit,
    /// See [`Kind::Withdrawal`].
    Withdrawal,
    /// See [`Kind::Transfer`].
    Transfer,
    /// See [`Kind::Protection`].
    Protection,
    /// See [`Kind::Reversal`].
    Reversal,
    /// See [`Kind::Hold`].
    Hold,
    /// See [`Kind::Capture`].
    Capture,
    /// See [`Kind::Void`].
    Void,
    /// See [`Kind::Expiry`].
    Expiry,
    /// See [`Kind::Opening`].
    Opening,
    /// See [`Kind::Amendment`].
    Amendment,
    /// See [`Kind::Closing`].
    Closing,
    /// See [`Kind::Linking`].
    Linking,
    /// See [`Kind::Unlinking`].
    Unlinking,
}

impl TransactionType {
    /// All of them.
    pub const ALL: [TransactionType; 14] = [
        TransactionType::Deposit,
        TransactionType::Withdrawal,
        TransactionType::Transfer,
        TransactionType::Protection,
        TransactionType::Reversal,
        TransactionType::Hold,
        TransactionType::Capture,
        TransactionType::Void,
        TransactionType::Expiry,
        TransactionType::Opening,
        TransactionType::Amendment,
        TransactionType::Closing,
        TransactionType::Linking,
        TransactionType::Unlinking,
    ];

    /// The type of an operation; `None` for book-keeping, which is no account's.
    pub fn of(kind: &Kind) -> Option<TransactionType> {
        Some(match kind {
            Kind::Deposit => TransactionType::Deposit,
            Kind::Withdrawal => TransactionType::Withdrawal,
            Kind::Transfer => TransactionType::Transfer,
            Kind::Protection => TransactionType::Protection,
            Kind::Reversal { .. } => TransactionType::Reversal,
            Kind::Hold => TransactionType::Hold,
            Kind::Capture { .. } => TransactionType::Capture,
            Kind::Void { .. } => TransactionType::Void,
            Kind::Expiry { .. } => TransactionType::Expiry,
            Kind::Opening => TransactionType::Opening,
            Kind::Amendment => TransactionType::Amendment,
            Kind::Closing => TransactionType::Closing,
            Kind::Linking => TransactionType::Linking,
            Kind::Unlinking => TransactionType::Unlinking,
            Kind::Refusal { .. } | Kind::Batch { .. } => return None,
        })
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            TransactionType::Deposit => "deposit",
            TransactionType::Withdrawal => "withdrawal",
            TransactionType::Transfer => "transfer",
            TransactionType::Protection => "protection",
            TransactionType::Reversal => "reversal",
            TransactionType::Hold => "hold",
            TransactionType::Capture => "capture",
            TransactionType::Void => "void",
            TransactionType::Expiry => "expiry",
            TransactionType::Opening => "opening",
            TransactionType::Amendment => "amendment",
            TransactionType::Closing => "closing",
            TransactionType::Linking => "linking",
            TransactionType::Unlinking => "unlinking",
        }
    }

    /// Whether it is about money, and not about the account itself.
    pub const fn is_about_money(self) -> bool {
        !matches!(
            self,
            TransactionType::Opening
                | TransactionType::Amendment
                | TransactionType::Closing
                | TransactionType::Linking
                | TransactionType::Unlinking
        )
    }
}
