//! What an operation is: all that the [document](super::openapi) says of it, and what the code asks of it.
//!
//! Each is declared next to its handler. A reply that its declaration does not allow is a bug, which tests meet as
//! a failed assertion.

use super::BODY_BYTES_MAX;
use super::problem::Code;
use super::query::QueryShape;
use super::routes::Endpoint;
use super::wire::read::Read;
use super::wire::schema::Describer;

/// One method of one route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// What is done.
    pub(super) endpoint: Endpoint,
    /// Its name, which no other operation has.
    pub(super) id: &'static str,
    /// What it is for, in a few words.
    pub(super) summary: &'static str,
    /// What else there is to know about it.
    pub(super) details: &'static str,
    /// Its query parameters.
    pub(super) query: QueryShape,
    /// The headers that mean something to it.
    pub(super) headers: &'static [RequestHeader],
    /// Its body, if it has one.
    pub(super) request: Option<RequestBody>,
    /// What comes of it.
    pub(super) success: Success,
    /// What can be in its way, in groups, but for what can be wrong with an idempotency key: see [`Operation::codes`].
    pub(super) problems: &'static [&'static [Code]],
    /// Where its reply leads: operation, its parameter, and where in the reply that is.
    pub(super) leads_to: &'static [(&'static str, &'static str, &'static str)],
}

impl Operation {
    /// A simple one, for a declaration to differ from.
    pub(super) const PLAIN: Operation = Operation {
        endpoint: Endpoint::Health,
        id: "",
        summary: "",
        details: "",
        query: QueryShape::NONE,
        headers: &[],
        request: None,
        success: Success::EMPTY,
        problems: &[EVERY],
        leads_to: &[],
    };

    /// Whether its replies may name this problem.
    pub(super) fn may_answer(&self, code: Code) -> bool {
        self.codes().any(|answered| answered == code)
    }

    /// The problems that its replies may name: its own, and if it takes an idempotency key, what can be wrong with that.
    pub(super) fn codes(&self) -> impl Iterator<Item = Code> {
        let of_keys = self.is_keyed().then_some(KEYS);
        self.problems.iter().copied().chain(of_keys).flatten().copied()
    }

    /// Whether its reply can be one that the client has already.
    pub(super) fn is_conditional(&self) -> bool {
        self.headers.contains(&RequestHeader::IfNoneMatch)
    }

    /// Whether it may be repeated with an idempotency key.
    pub(super) fn is_keyed(&self) -> bool {
        self.headers.contains(&RequestHeader::IdempotencyKey)
    }

    /// Whether it can be asked what would happen. That is answered with 200.
    pub(super) fn has_dry_run(&self) -> bool {
        self.query.names.contains(&DRY_RUN)
    }
}

/// The parameter that asks for a dry run.
const DRY_RUN: &str = "dry_run";

/// A body that an operation takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestBody {
    pub(super) media_type: &'static str,
    pub(super) bytes_max: usize,
    pub(super) describe: Describer,
    /// The other media types that it may have, and what it looks like then.
    pub(super) other_types: &'static [(&'static str, Describer)],
    /// Whether it may be left away.
    pub(super) is_optional: bool,
    /// Whether this is such a body: the examples are tried with it.
    #[cfg(test)]
    pub(super) check: fn(&[u8]) -> Result<(), super::problem::Problem>,
}

impl RequestBody {
    /// A body of JSON.
    pub(super) const fn json<T: Read>() -> RequestBody {
        RequestBody {
            media_type: "application/json",
            bytes_max: BODY_BYTES_MAX,
            describe: T::describe,
            other_types: &[],
            is_optional: false,
            #[cfg(test)]
            check: |body| super::wire::read::read_body::<T>(body).map(drop),
        }
    }

    /// The media types that it may have.
    pub(super) fn media_types(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        [self.media_type].into_iter().chain(self.other_types.iter().map(|(media_type, _)| *media_type))
    }

    /// The same body under another media type.
    pub(super) const fn of_type(self, media_type: &'static str) -> RequestBody {
        RequestBody { media_type, ..self }
    }

    /// The same body, or one of these.
    pub(super) const fn or(self, other_types: &'static [(&'static str, Describer)]) -> RequestBody {
        RequestBody { other_types, ..self }
    }

    /// The same body, which may be left away.
    pub(super) const fn optional(self) -> RequestBody {
        RequestBody { is_optional: true, ..self }
    }

    /// The same body with another bound, in bytes.
    pub(super) const fn up_to(self, bytes_max: usize) -> RequestBody {
        RequestBody { bytes_max, ..self }
    }
}

/// What comes of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Success {
    pub(super) status: u16,
    /// What it means.
    pub(super) meaning: &'static str,
    /// Another status that the same reply may have, and what that means.
    pub(super) or: Option<(u16, &'static str)>,
    /// The body's media type and schema, if there is a body.
    pub(super) body: Option<(&'static str, Describer)>,
    /// The same for other representations, which the client can ask for.
    pub(super) other_bodies: &'static [(&'static str, Describer)],
    /// The headers that it has for certain.
    pub(super) headers: &'static [ReplyHeader],
    /// The headers that it has at times.
    pub(super) headers_at_times: &'static [ReplyHeader],
}

impl Success {
    /// It is done, and there is nothing to say.
    pub(super) const EMPTY: Success = Success {
        status: 204,
        meaning: "Done.",
        or: None,
        body: None,
        other_bodies: &[],
        headers: &[],
        headers_at_times: &[ReplyHeader::IdempotentReplayed],
    };

    /// Here it is, unless the client has it already.
    pub(super) const READ: Success = Success {
        status: 200,
        headers: &[ReplyHeader::ETag, ReplyHeader::CacheControl],
        headers_at_times: &[],
        ..Success::EMPTY
    };
}

/// A header that means something in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestHeader {
    /// In every request.
    XRequestId,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    LastEventId,
}

/// A header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyHeader {
    /// In every reply.
    RequestId,
    CacheControl,
    Allow,
    AcceptPatch,
    ETag,
    Location,
    Link,
    RetryAfter,
    IdempotentReplayed,
    ContentDisposition,
    Vary,
    ContentSecurityPolicy,
    ContentTypeOptions,
    ReferrerPolicy,
}

/// The headers of whatever changes something.
pub(super) const KEYED: &[RequestHeader] = &[RequestHeader::IdempotencyKey];
/// The headers of whatever changes an account.
pub(super) const KEYED_IF_MATCH: &[RequestHeader] = &[RequestHeader::IdempotencyKey, RequestHeader::IfMatch];
/// The headers of whatever a client may have already.
pub(super) const IF_NONE_MATCH: &[RequestHeader] = &[RequestHeader::IfNoneMatch];

/// What can be in the way of any request.
pub(super) const EVERY: &[Code] =
    &[Code::InvalidHost, Code::UriTooLong, Code::UnknownParameter, Code::TooManyConnections];
/// What can be in the way of asking the bank.
pub(super) const BANK: &[Code] = &[Code::Starting, Code::Ending, Code::Overloaded, Code::InternalError];
/// What can be in the way of any change.
pub(super) const CHANGE: &[Code] = &[
    Code::CrossSite,
    Code::InvalidIfMatch,
    Code::InvalidIfNoneMatch,
    Code::DiskFull,
    Code::InvalidBody,
    Code::PayloadTooLarge,
    Code::RequestTimeout,
];
/// What can be in the way of a change that takes an idempotency key, besides.
const KEYS: &[Code] = &[
    Code::InvalidIdempotencyKey,
    Code::IdempotencyKeyReused,
    Code::IdempotencyKeyInFlight,
    Code::IdempotencyKeysExhausted,
];
/// What can be wrong with a body of JSON.
pub(super) const JSON_BODY: &[Code] =
    &[Code::UnsupportedMediaType, Code::MalformedJson, Code::InvalidRequest];
/// What an `If-Match` that is valid can meet.
pub(super) const IF_MATCH: &[Code] = &[Code::VersionMismatch];
/// What can be wrong with an account's name in a path.
pub(super) const NAMED: &[Code] = &[Code::InvalidAccountName, Code::AccountNotFound];
/// What can be wrong with an account reference in a path.
pub(super) const REFERRED: &[Code] = &[Code::InvalidId, Code::InvalidAccountName, Code::AccountNotFound];
/// What the ledger can refuse when money moves between accounts.
pub(super) const MOVING: &[Code] = &[
    Code::AccountNotFound,
    Code::AccountClosed,
    Code::AccountFrozen,
    Code::AccountRepeated,
    Code::BalanceOutOfRange,
    Code::ConditionNotMet,
    Code::CurrencyMismatch,
    Code::InsufficientFunds,
    Code::NothingAvailable,
    Code::ReferenceUsed,
    Code::TooManyDecimals,
    Code::VelocityLimit,
];
/// What can be in the way of an item of a batch, which is told in its result.
pub(super) const ITEM: &[&[Code]] = &[
    MOVING,
    &[
        Code::AccountExists,
        Code::AccountsExhausted,
        Code::DiskFull,
        Code::Ending,
        Code::HoldEnded,
        Code::HoldExceeded,
        Code::HoldNotFound,
        Code::HoldsExhausted,
        Code::IdempotencyKeyInFlight,
        Code::IdempotencyKeyReused,
        Code::IdempotencyKeysExhausted,
        Code::InternalError,
        Code::InvalidRequest,
        Code::LegsUnbalanced,
        Code::MalformedJson,
        Code::NotAttempted,
        Code::Overloaded,
    ],
];
/// What can be wrong with a hold's id in a path.
pub(super) const HOLD: &[Code] = &[Code::InvalidId, Code::HoldNotFound];
/// What can be wrong with a transaction's id in a path.
pub(super) const TRANSACTION: &[Code] = &[Code::InvalidId, Code::TransactionNotFound];
/// The problems of requests that have not found an operation.
pub(super) const WITHOUT_OPERATION: &[Code] =
    &[Code::NotFound, Code::MethodNotAllowed, Code::InvalidHost, Code::UriTooLong, Code::TooManyConnections];
