//! Every refusal that a client can meet, and the only place that gives one a status (RFC 9457).
//!
//! The codes are one closed table. Each has a page at its `type` (`/problems/{code}`), made from the same line,
//! so a reply never points at a document that does not exist. Nothing of the inside is told to clients: what
//! happened goes to the log, under the request id that the reply shows.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::json;
use uuid::Uuid;

use super::reply::{self, Reply};
use super::wire::schema::{Describe, Schemas, with_meaning};
use super::wire::write::{self, Id, MoneyNumber, MoneyText, Object, Write};
use super::wire::{AllowanceLeft, AllowanceLeftV1, Version};
use crate::bank::Refusal;
use crate::ledger::workspace::CONDITION_PLACES_FROM;
use crate::ledger::{Allowance, Amount, Currency, HoldOutcome, Quantity, Rejected, Rejection};

/// How many wrong fields one reply lists. A body of 64 KiB can have thousands of unknown fields; nobody reads
/// more than these.
pub(super) const FIELD_ERRORS_MAX: usize = 16;

/// What a client should do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will be refused again until something else changes.
    Never,
    /// The same request, with the same key, may succeed after so many seconds (`Retry-After`).
    After(u16),
}

macro_rules! codes {
    ($($variant:ident $slug:literal $status:ident $retry:expr, $title:literal, $meaning:literal;)*) => {
        /// A refusal's code: stable, and all that a program should look at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The code as clients see it, such as `account-not-found`.
            pub const fn slug(self) -> &'static str {
                match self { $(Code::$variant => $slug,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status,)* }
            }

            /// Whether to try again.
            pub const fn retry(self) -> Retry {
                match self { $(Code::$variant => $retry,)* }
            }

            /// A summary that is the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// What it means and what to do.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)* }
            }
        }
    };
}

use Retry::{After, Never};

codes! {
    AccountExists "account-exists" CONFLICT Never,
        "The account's name is taken",
        "An account has, or had, this name: closing an account does not free it. Choose another name, or use the account.";
    AccountNotFound "account-not-found" NOT_FOUND Never,
        "There is no such account",
        "No open account has this name, or no account has this id. A closed account is found by id only.";
    TransactionNotFound "transaction-not-found" NOT_FOUND Never,
        "There is no such transaction here",
        "No transaction has this id, or it is of a type that this path does not have, and `detail` says which: `/v2/transactions/{id}` reads any, `/v2/transfers/{id}` transfers and reversals, `/transactions/{id}` deposits and withdrawals.";
    AccountNotThereYet "account-not-there-yet" NOT_FOUND Never,
        "The account was not there yet",
        "The account was opened after the moment that `at` names, or has not reached that version.";
    StatementTooLong "statement-too-long" UNPROCESSABLE_ENTITY Never,
        "The statement would be too long",
        "A statement covers at most 10,000 entries of the account, holds and the like included. Ask for a shorter time, or read the list of transactions page by page.";
    NotAcceptable "not-acceptable" NOT_ACCEPTABLE Never,
        "There is no such representation",
        "The Accept header allows none of the media types that the resource has: application/json everywhere, text/csv and text/plain for statements (where `format` wins over it), text/event-stream for events.";
    AccountClosed "account-closed" CONFLICT Never,
        "The account is closed",
        "The account was closed and only its history is left. Nothing can change it any more.";
    AccountNotEmpty "account-not-empty" CONFLICT Never,
        "The account still has a balance",
        "Only an account that stands at zero can be closed; `balance` says what it stands at. Withdraw or deposit that first.";
    VersionMismatch "version-mismatch" PRECONDITION_FAILED Never,
        "The account has changed",
        "The account is not at the version that If-Match asks for; `version` says which it is at. Read it again, then decide again.";
    InsufficientFunds "insufficient-funds" UNPROCESSABLE_ENTITY Never,
        "The account does not have the funds",
        "The withdrawal would pass the account's overdraft limit: `required` was asked for, `available` can be withdrawn.";
    AccountFrozen "account-frozen" UNPROCESSABLE_ENTITY Never,
        "The account is frozen",
        "A frozen account receives money but does not pay. Unfreeze it with PATCH `{\"frozen\": false}`, or use another account.";
    AccountHasHolds "account-has-holds" CONFLICT Never,
        "The account still has money held",
        "Only an account without pending holds can be closed; `held` says how much they reserve. Capture or void them first.";
    NothingAvailable "nothing-available" UNPROCESSABLE_ENTITY Never,
        "Nothing is available",
        "All that is available was asked for, and `available` is not more than zero.";
    VelocityLimit "velocity-limit" UNPROCESSABLE_ENTITY Never,
        "A velocity limit would be passed",
        "The account may not pay so much, or so often, in one day, month or window: `allowance` says what may still leave it in each. Days and months are those of UTC.";
    TooManyDecimals "too-many-decimals" UNPROCESSABLE_ENTITY Never,
        "The amount has more decimals than the currency",
        "Amounts are never rounded. Send one with as many decimals as the account's currency has: two for USD, none for JPY, three for KWD.";
    CurrencyMismatch "currency-mismatch" UNPROCESSABLE_ENTITY Never,
        "The accounts have different currencies",
        "Money of two currencies is never mixed. Use accounts of one currency, or a transfer of several legs that sums to zero in each.";
    LegsUnbalanced "legs-unbalanced" UNPROCESSABLE_ENTITY Never,
        "The legs do not sum to zero",
        "What some accounts get the others have to pay: the amounts of the legs sum to zero in each currency.";
    AccountRepeated "account-repeated" UNPROCESSABLE_ENTITY Never,
        "One account is named more than once",
        "Each account can take part in an operation once, whether it is referred to by id or by name.";
    MetadataFull "metadata-full" UNPROCESSABLE_ENTITY Never,
        "The account can have no more metadata",
        "An account has at most 16 entries of metadata, with those that the request adds. Remove some by setting them to null.";
    ConditionNotMet "condition-not-met" UNPROCESSABLE_ENTITY Never,
        "A condition is not met",
        "A condition of the request was not true of its account when it was to be executed: `available` and `version` say how that stands. Nothing was done.";
    HoldNotFound "hold-not-found" NOT_FOUND Never,
        "There is no such hold",
        "No hold has this id.";
    HoldEnded "hold-ended" CONFLICT Never,
        "The hold has ended",
        "A hold is captured, voided or expires once: `hold_status` says which came first, `captured` how much was paid then.";
    HoldExceeded "hold-exceeded" UNPROCESSABLE_ENTITY Never,
        "The hold is smaller",
        "At most what the hold reserves can be captured: `held` says how much that is.";
    HoldsExhausted "holds-exhausted" UNPROCESSABLE_ENTITY Never,
        "The account can have no more holds",
        "An account can place holds in its first thousand million changes. Open another account.";
    AlreadyReversed "already-reversed" CONFLICT Never,
        "The transfer has been reversed",
        "A transfer is reversed at most once, whole or in part; `reversed_by` is the transfer that did it.";
    NotReversible "not-reversible" UNPROCESSABLE_ENTITY Never,
        "The transaction cannot be reversed",
        "Transfers alone are reversed: `detail` says of which type this transaction is. Undo it by another transfer, deposit or withdrawal; give up a hold with `/void`.";
    ReversalNotPartial "reversal-not-partial" UNPROCESSABLE_ENTITY Never,
        "The transfer can only be reversed whole",
        "A part of a transfer can be paid back if it has two legs. Leave `amount` away.";
    ReversalExceeded "reversal-exceeded" UNPROCESSABLE_ENTITY Never,
        "The transfer was smaller",
        "At most what was transferred can be paid back: `transferred` says how much that was.";
    ReferenceUsed "reference-used" CONFLICT Never,
        "The reference is used",
        "The account has `unique_reference`, and a transaction with this reference: `used_by`.";
    LinkNotFound "link-not-found" NOT_FOUND Never,
        "There is no such link",
        "The account is not linked to that other account.";
    LinkCycle "link-cycle" UNPROCESSABLE_ENTITY Never,
        "The accounts would protect each other",
        "The other account's overdraft is protected, directly or through others, by this one.";
    LinkChainTooLong "link-chain-too-long" UNPROCESSABLE_ENTITY Never,
        "The chain of protection would be too long",
        "A chain of overdraft protection has at most 4 accounts, from the one that pays to the last that helps out.";
    LinksExhausted "links-exhausted" UNPROCESSABLE_ENTITY Never,
        "The account can have no further link of this kind",
        "An account has at most one overdraft protection, protects at most 16 accounts, and has at most 16 links. Remove one first.";
    BatchTooLarge "batch-too-large" PAYLOAD_TOO_LARGE Never,
        "The batch is too large to be all or nothing",
        "A batch with `atomic` has at most 1,000 items, and its references, metadata and legs have to fit in one record of 1 MiB. Send it in parts, or without `atomic`.";
    NotAttempted "not-attempted" FAILED_DEPENDENCY Never,
        "The item was not attempted",
        "The batch is all or nothing, and another of its items was refused: this request did nothing.";
    BalanceOutOfRange "balance-out-of-range" UNPROCESSABLE_ENTITY Never,
        "A balance would go out of range",
        "The account's balance, or what is held of it, would pass 10^25 minor units. Use a smaller amount.";
    AccountsExhausted "accounts-exhausted" SERVICE_UNAVAILABLE Never,
        "No more accounts can be opened",
        "The part of the service that would own this account has no number left for it. Only its operator can help.";
    IdempotencyKeyReused "idempotency-key-reused" UNPROCESSABLE_ENTITY Never,
        "The idempotency key belongs to another request",
        "The key was used for a request with another method, path or body. Use a new key for a new request.";
    IdempotencyKeyInFlight "idempotency-key-in-flight" CONFLICT After(1),
        "The first request with this key is still being worked on",
        "Wait for as long as Retry-After says, then send the same request with the same key to get its outcome.";
    IdempotencyKeysExhausted "idempotency-keys-exhausted" SERVICE_UNAVAILABLE After(60),
        "No further idempotency keys can be remembered now",
        "Nothing was done, but of a batch with a key its first items may have been executed. Room comes back as older keys expire; retry after Retry-After with the same key: a batch goes on where it stopped.";
    InvalidIdempotencyKey "invalid-idempotency-key" BAD_REQUEST Never,
        "The Idempotency-Key header is not valid",
        "Send the header once, with 1 to 255 printable ASCII characters, bare or as a quoted string.";
    InvalidIfMatch "invalid-if-match" BAD_REQUEST Never,
        "The If-Match header is not valid",
        "Send the header once, with the ETag of the account as it was read (such as \"7\"), or with *. Only deposits, withdrawals, and PATCH and DELETE of an account take it; other changes are refused with it, because they would be made whether or not it is true.";
    InvalidIfNoneMatch "invalid-if-none-match" BAD_REQUEST Never,
        "The request takes no If-None-Match header",
        "Only what reads takes the header. A change is refused with it, because it would be made whether or not it is true.";
    InvalidHost "invalid-host" BAD_REQUEST Never,
        "The Host header is missing, repeated or not valid",
        "HTTP/1.1 requires exactly one Host header, and HTTP/1.0 takes at most one: a name or an address of IP, and perhaps a port. So must be the host that a target names in full.";
    CrossSite "cross-site" FORBIDDEN Never,
        "The request comes from a page of another site",
        "A browser says with Sec-Fetch-Site, or with Origin, that a page which is not from here asks for this. Such a page may change nothing.";
    NotFound "not-found" NOT_FOUND Never,
        "There is nothing at this path",
        "No resource has this path. Paths are case-sensitive and have no trailing slash; a slash in an account's name is written %2F.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED Never,
        "The resource does not have this method",
        "The Allow header lists the methods that it has.";
    UnknownParameter "unknown-parameter" BAD_REQUEST Never,
        "A query parameter is unknown",
        "The resource does not have this query parameter. It is refused rather than ignored, because the reply would not be what was asked for.";
    InvalidParameter "invalid-parameter" BAD_REQUEST Never,
        "A query parameter is not valid",
        "`errors` says which parameter, and what it may be.";
    InvalidCursor "invalid-cursor" BAD_REQUEST Never,
        "The cursor is not valid here",
        "A cursor continues the list that gave it: the same account, order and filters, or of events the same ledger. Use `next` as it came, or start without a cursor.";
    InvalidId "invalid-id" BAD_REQUEST Never,
        "The id is not a UUID",
        "An id has 32 hexadecimal digits in groups of 8-4-4-4-12.";
    InvalidAccountName "invalid-account-name" BAD_REQUEST Never,
        "The path does not hold an account's name",
        "A name is 1 to 255 bytes of UTF-8 without control characters, percent-encoded once.";
    MalformedJson "malformed-json" BAD_REQUEST Never,
        "The body is not JSON",
        "The body could not be read as JSON in UTF-8; `detail` says where it stops being that.";
    InvalidRequest "invalid-request" BAD_REQUEST Never,
        "The body does not have the right fields",
        "The body is JSON but not what is asked for here: `errors` lists what is wrong with which field.";
    InvalidBody "invalid-body" BAD_REQUEST Never,
        "The body cannot be read",
        "The connection ended, or the chunked encoding broke, before the end of the body; or its headers do not say clearly what it is: Content-Type and Content-Encoding are sent at most once, and the only transfer coding is chunked. Nothing was done.";
    UnexpectedBody "unexpected-body" BAD_REQUEST Never,
        "The request has a body",
        "This request is complete without a body. Send none.";
    PayloadTooLarge "payload-too-large" PAYLOAD_TOO_LARGE Never,
        "The body is too large",
        "A body has at most 65,536 bytes, that of a batch 8 MiB.";
    UriTooLong "uri-too-long" URI_TOO_LONG Never,
        "The URI is too long",
        "A path with its query has at most 8,192 bytes.";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE Never,
        "The body's media type is not supported",
        "Send application/json in UTF-8 without a content encoding. PATCH takes application/merge-patch+json too, and a batch application/x-ndjson.";
    RequestTimeout "request-timeout" REQUEST_TIMEOUT After(1),
        "The body took too long to arrive",
        "The body did not arrive in time. Nothing was done.";
    Overloaded "overloaded" SERVICE_UNAVAILABLE After(1),
        "Too much is waiting or being read already",
        "There is no room for the request, or for a long reply beside others that have not been read. Nothing was done, but of a batch with a key its first items may have been executed. Retry after Retry-After with the same key: a batch goes on where it stopped.";
    TooManyConnections "too-many-connections" SERVICE_UNAVAILABLE After(1),
        "Too many connections are open",
        "Nothing was read from this connection. Reuse connections, or retry after Retry-After.";
    TooManyStreams "too-many-streams" SERVICE_UNAVAILABLE After(5),
        "Too many streams are open",
        "The service bounds how many readers it serves live. Read `/v2/events` page by page, or retry after Retry-After.";
    DiskFull "disk-full" SERVICE_UNAVAILABLE After(10),
        "There is no room for changes",
        "Nothing was done, but of a batch with a key its first items may have been executed; with the same key it goes on where it stopped. The disk is full, or one more file cannot be made, or what waits to be compacted is too much. The last ends by itself as a rule; else nothing can be changed until the operator makes room: the service's log says for what. Reading still works.";
    Starting "starting" SERVICE_UNAVAILABLE After(1),
        "The service is starting",
        "The service is still reading its log. Nothing was done; retry after Retry-After.";
    Ending "ending" SERVICE_UNAVAILABLE After(1),
        "The service is ending",
        "What was asked may or may not have been done. Retry with the same idempotency key to find out.";
    InternalError "internal-error" INTERNAL_SERVER_ERROR Never,
        "The service has failed",
        "The log of the service says why; give its operator the request id.";
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    pub(super) place: Place,
    pub(super) detail: Cow<'static, str>,
}

/// Where in a request something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the body: an RFC 6901 pointer.
    Pointer(Cow<'static, str>),
    /// In the query.
    Parameter(Cow<'static, str>),
    /// In a header.
    Header(&'static str),
}

/// Which part of an operation met a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    /// The account with this number in the operation.
    Account(u16),
    /// The amount that moves there.
    Amount(u16),
    /// A part of the requirement with this number; one condition of a body may have two.
    Requirement(usize, RequirementPart),
}

/// Which part of a requirement met a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequirementPart {
    /// All of it: it is not met.
    Whole,
    /// Its account.
    Account,
    /// The amount that has to be available.
    Available,
}

/// A fact about the refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Amount(&'static str, Amount, Currency),
    Version(u64),
    Text(&'static str, &'static str),
    Id(&'static str, Uuid),
    Allowance(Allowance, Currency),
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    facts: Vec<Fact>,
    /// The request that was refused first, if this is a repetition of it.
    first_request_id: Option<Box<str>>,
    /// Which of the accounts that the request names met it, if it names several.
    pub(super) party: Option<u16>,
    /// How many decimals an amount may have, if one has more.
    decimals_max: Option<u8>,
    /// What the log should know and the client should not.
    pub(super) inside: Option<String>,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            facts: Vec::new(),
            first_request_id: None,
            party: None,
            decimals_max: None,
            inside: None,
        }
    }

    /// A refusal whose title says everything.
    pub(super) fn plain(code: Code) -> Problem {
        Problem::new(code, code.title())
    }

    /// A refusal of `found` parts of the request, of which the first 16 are told.
    pub(super) fn with_errors(code: Code, mut errors: Vec<FieldError>, found: usize) -> Problem {
        errors.truncate(FIELD_ERRORS_MAX);
        let detail = match found {
            1 => Cow::from(match &errors[0].place {
                Place::Pointer(pointer) if pointer.is_empty() => format!("the body {}", errors[0].detail),
                Place::Pointer(pointer) => format!("{pointer} {}", errors[0].detail),
                Place::Parameter(name) => format!("the parameter {name:?} {}", errors[0].detail),
                Place::Header(name) => format!("the header {name} {}", errors[0].detail),
            }),
            _ => Cow::from(format!("{found} things are wrong; see errors")),
        };
        Problem { errors, ..Problem::new(code, detail) }
    }

    /// A refusal of one part of the request.
    pub(super) fn at(code: Code, place: Place, detail: impl Into<Cow<'static, str>>) -> Problem {
        let detail = detail.into();
        Problem::with_errors(code, vec![FieldError { place, detail }], 1)
    }

    /// Points to the part of the body that met it, if it is that of one of several accounts.
    pub(super) fn pointing(mut self, pointer: impl Fn(Party) -> Cow<'static, str>) -> Problem {
        let Some(party) = self.party.take() else { return self };
        let pointer = pointer(match (party.checked_sub(CONDITION_PLACES_FROM), self.code) {
            (Some(number), code) => Party::Requirement(
                number.into(),
                match code {
                    Code::AccountNotFound | Code::AccountClosed => RequirementPart::Account,
                    Code::TooManyDecimals => RequirementPart::Available,
                    _ => RequirementPart::Whole,
                },
            ),
            (None, Code::TooManyDecimals) => Party::Amount(party),
            (None, _) => Party::Account(party),
        });
        self.pointing_at(pointer)
    }

    /// Points to this part of the body.
    fn pointing_at(mut self, pointer: impl Into<Cow<'static, str>>) -> Problem {
        let detail = self.detail.clone();
        self.errors.push(FieldError { place: Place::Pointer(pointer.into()), detail });
        self
    }

    /// Points to the amount of a body that has one and names no account, if its decimals are what is wrong.
    pub(super) fn pointing_to_amount(self) -> Problem {
        match self.code {
            Code::TooManyDecimals => Problem { party: Some(0), ..self }.pointing(|_| "/amount".into()),
            _ => self,
        }
    }

    /// Points to those of an account's limits, each with where it stands, whose decimals are what is wrong.
    pub(super) fn pointing_to_limits(
        mut self,
        limits: impl IntoIterator<Item = (&'static str, Option<Quantity>)>,
    ) -> Problem {
        let Some(decimals_max) = self.decimals_max else { return self };
        let is_too_fine =
            |limit: &Option<Quantity>| limit.is_some_and(|limit| limit.truncated(decimals_max) != limit);
        for (pointer, _) in limits.into_iter().filter(|(_, limit)| is_too_fine(limit)) {
            self = self.pointing_at(pointer);
        }
        self
    }

    /// Says which account met it, where no body names it: `accounts` are those that take part, in their order.
    pub(super) fn naming(mut self, accounts: &[impl AsRef<str>]) -> Problem {
        let party = self.party.take();
        match party.and_then(|party| accounts.get(usize::from(party))) {
            Some(account) => self.about(account.as_ref()),
            None => self,
        }
    }

    /// Says which account it is about.
    pub(super) fn about(self, account: &str) -> Problem {
        Problem { detail: format!("{} ({account})", self.detail).into(), ..self }
    }

    /// Whether an earlier request was refused with it, and this one repeats that.
    pub(super) fn is_repeated(&self) -> bool {
        self.first_request_id.is_some()
    }

    fn fact(mut self, fact: Fact) -> Problem {
        self.facts.push(fact);
        self
    }

    /// The reply. `request_id` is this request's; the body of a repeated refusal shows the first one's.
    pub(super) fn respond(&self, version: Version, request_id: &str) -> Reply {
        let mut response = reply::new(self.code.status(), self.body(version, request_id).into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Retry::After(seconds) = self.code.retry() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_repeated() {
            super::idempotency::mark_replayed(headers);
        }
        response
    }

    pub(super) fn body(&self, version: Version, request_id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(384);
        let mut object = Object::begin(&mut out);
        object.quoted("type", format_args!("/problems/{}", self.code.slug()));
        object.quoted("title", self.code.title());
        object.plain("status", self.code.status().as_u16());
        object.text("detail", &self.detail);
        object.quoted("code", self.code.slug());
        object.text("request_id", self.first_request_id.as_deref().unwrap_or(request_id));
        object.plain("retryable", self.code.retry() != Retry::Never);
        for fact in &self.facts {
            match (*fact, version) {
                (Fact::Amount(name, amount, currency), Version::One) => {
                    MoneyNumber(amount, currency).write(object.key(name));
                }
                (Fact::Amount(name, amount, currency), Version::Two) => {
                    MoneyText(amount, currency).write(object.key(name));
                }
                (Fact::Version(version), _) => object.plain("version", version),
                (Fact::Text(name, text), _) => object.quoted(name, text),
                (Fact::Id(name, id), _) => Id(id).write(object.key(name)),
                (Fact::Allowance(allowance, currency), Version::One) => {
                    AllowanceLeftV1::of(allowance, currency).write(object.key("allowance"));
                }
                (Fact::Allowance(allowance, currency), Version::Two) => {
                    AllowanceLeft::of(allowance, currency).write(object.key("allowance"));
                }
            }
        }
        if !self.errors.is_empty() {
            write::array(object.key("errors"), &self.errors, |out, error| {
                let mut item = Object::begin(out);
                match &error.place {
                    Place::Pointer(pointer) => item.text("pointer", pointer),
                    Place::Parameter(name) => item.text("parameter", name),
                    Place::Header(name) => item.text("header", name),
                }
                item.text("detail", &error.detail);
                item.end();
            });
        }
        object.end();
        out
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Rejected { rejected, first_request_id } => {
                Problem { first_request_id, ..Problem::from(*rejected) }
            }
            Refusal::TransactionNotFound => Problem::plain(Code::TransactionNotFound),
            Refusal::OfAnotherType { id, found } => Problem::new(
                Code::TransactionNotFound,
                format!("its type is {}: /v2/transactions/{} reads it", found.name(), id.to_uuid()),
            ),
            Refusal::NotReversible(found) => Problem::new(
                Code::NotReversible,
                format!("its type is {}; only a transfer is reversed", found.name()),
            ),
            Refusal::NotThere => Problem::plain(Code::AccountNotThereYet),
            Refusal::StatementTooLong => Problem::plain(Code::StatementTooLong),
            Refusal::KeyReused => Problem::plain(Code::IdempotencyKeyReused),
            Refusal::KeyInFlight => Problem::plain(Code::IdempotencyKeyInFlight),
            Refusal::KeysExhausted => Problem::plain(Code::IdempotencyKeysExhausted),
            Refusal::DiskFull => Problem::plain(Code::DiskFull),
            Refusal::Overloaded => Problem::plain(Code::Overloaded),
            Refusal::Ended => Problem::plain(Code::Ending),
            Refusal::Storage(error) => {
                Problem { inside: Some(error.to_string()), ..Problem::plain(Code::InternalError) }
            }
        }
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Problem {
        let party = rejected.at;
        Problem { party, ..Problem::from(rejected.rejection) }
    }
}

/// Some refusals are about a member that every request has which is refused for it, `legs` or `amount`: they point to it here.
/// Without an `amount` nothing can be too much.
impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Problem {
        match rejection {
            Rejection::AccountExists => Problem::plain(Code::AccountExists),
            Rejection::AccountNotFound => Problem::plain(Code::AccountNotFound),
            Rejection::AccountClosed => Problem::plain(Code::AccountClosed),
            Rejection::AccountFrozen => Problem::plain(Code::AccountFrozen),
            Rejection::AccountNotEmpty { balance, currency } => Problem::new(
                Code::AccountNotEmpty,
                format!("the balance is {}, not zero", balance.text(currency)),
            )
            .fact(Fact::Amount("balance", balance, currency)),
            Rejection::AccountHasHolds { held, currency } => {
                Problem::new(Code::AccountHasHolds, format!("{} is held", held.text(currency)))
                    .fact(Fact::Amount("held", held, currency))
            }
            Rejection::VersionMismatch { version } => {
                Problem::new(Code::VersionMismatch, format!("the account is at version {version}"))
                    .fact(Fact::Version(version))
            }
            Rejection::InsufficientFunds { available, required, currency } => Problem::new(
                Code::InsufficientFunds,
                format!("{} is required, {} is available", required.text(currency), available.text(currency)),
            )
            .fact(Fact::Amount("available", available, currency))
            .fact(Fact::Amount("required", required, currency)),
            Rejection::NothingAvailable { available, currency } => {
                Problem::new(Code::NothingAvailable, format!("{} is available", available.text(currency)))
                    .fact(Fact::Amount("available", available, currency))
            }
            Rejection::VelocityLimit { allowance, required, currency } => {
                Problem::new(Code::VelocityLimit, passed_limits(allowance, required, currency))
                    .fact(Fact::Amount("required", required, currency))
                    .fact(Fact::Allowance(allowance, currency))
            }
            Rejection::BalanceOutOfRange => Problem::plain(Code::BalanceOutOfRange),
            Rejection::AccountsExhausted => Problem::plain(Code::AccountsExhausted),
            Rejection::HoldsExhausted => Problem::plain(Code::HoldsExhausted),
            Rejection::TooManyDecimals { currency } => Problem {
                decimals_max: Some(currency.scale()),
                ..Problem::new(
                    Code::TooManyDecimals,
                    format!("an amount of {currency} has at most {} decimals", currency.scale()),
                )
            },
            Rejection::CurrencyMismatch { expected, found } => {
                Problem::new(Code::CurrencyMismatch, format!("the account is in {found}, not in {expected}"))
            }
            Rejection::LegsUnbalanced { currency } => Problem::new(
                Code::LegsUnbalanced,
                format!("the amounts of the legs in {currency} do not sum to zero"),
            )
            .pointing_at("/legs"),
            Rejection::AccountRepeated => Problem::plain(Code::AccountRepeated),
            Rejection::MetadataFull => Problem::plain(Code::MetadataFull),
            Rejection::ConditionNotMet { available, version, currency } => Problem::new(
                Code::ConditionNotMet,
                format!("{} is available, at version {version}", available.text(currency)),
            )
            .fact(Fact::Amount("available", available, currency))
            .fact(Fact::Version(version)),
            Rejection::HoldNotFound => Problem::plain(Code::HoldNotFound),
            Rejection::HoldEnded { outcome, currency } => {
                let (detail, captured) = match outcome {
                    HoldOutcome::Captured(amount) => ("captured", Some(amount)),
                    HoldOutcome::Voided => ("voided", None),
                    HoldOutcome::Expired => ("expired", None),
                };
                let mut problem = Problem::new(Code::HoldEnded, format!("the hold is {detail}"))
                    .fact(Fact::Text("hold_status", detail));
                if let Some(amount) = captured {
                    problem = problem.fact(Fact::Amount("captured", amount, currency));
                }
                problem
            }
            Rejection::HoldExceeded { held, required, currency } => Problem::new(
                Code::HoldExceeded,
                format!("{} is held, {} was to be captured", held.text(currency), required.text(currency)),
            )
            .fact(Fact::Amount("held", held, currency))
            .fact(Fact::Amount("required", required, currency))
            .pointing_at("/amount"),
            Rejection::AlreadyReversed { by } => {
                Problem::plain(Code::AlreadyReversed).fact(Fact::Id("reversed_by", by.to_uuid()))
            }
            Rejection::ReversalNotPartial => Problem::plain(Code::ReversalNotPartial).pointing_at("/amount"),
            Rejection::ReversalExceeded { transferred, currency } => Problem::new(
                Code::ReversalExceeded,
                format!("{} was transferred", transferred.text(currency)),
            )
            .fact(Fact::Amount("transferred", transferred, currency))
            .pointing_at("/amount"),
            Rejection::ReferenceUsed { by } => {
                Problem::plain(Code::ReferenceUsed).fact(Fact::Id("used_by", by.to_uuid()))
            }
            Rejection::LinkNotFound => Problem::plain(Code::LinkNotFound),
            Rejection::LinkCycle => Problem::plain(Code::LinkCycle),
            Rejection::LinkChainTooLong => Problem::plain(Code::LinkChainTooLong),
            Rejection::LinksExhausted => Problem::plain(Code::LinksExhausted),
        }
    }
}

/// Which velocity limits a debit would pass: the amount may be the least of them. Short, for each item of a batch may be
/// refused so.
fn passed_limits(allowance: Allowance, required: Amount, currency: Currency) -> String {
    let mut text = format!("{} was to leave the account", required.text(currency));
    for (left, period) in [(allowance.in_day, "today"), (allowance.in_month, "this month")] {
        if let Some(left) = left.filter(|left| required > *left) {
            text.push_str(&format!("; {} may leave it {period}", left.text(currency)));
        }
    }
    if allowance.debits == Some(0) {
        text.push_str("; it may make no further debit in this window");
    }
    text
}

impl Code {
    /// The code with this slug.
    pub fn from_slug(slug: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.slug() == slug)
    }
}

impl Describe for Problem {
    fn describe(schemas: &mut Schemas) -> serde_json::Value {
        schemas.named::<Self>("Problem", |schemas| {
            let text = |meaning: &str| json!({ "type": "string", "description": meaning });
            let amount = |meaning: &str| {
                json!({ "type": ["string", "number"], "description": meaning })
            };
            let fact = "An amount: a text in version 2, a number in version 1.";
            let id = |schemas: &mut Schemas, meaning| with_meaning(Id::describe(schemas), meaning);
            let (by_reversal, by_reference) = (
                id(schemas, "The transfer that paid it back."),
                id(schemas, "The transaction that has the reference."),
            );
            let allowance = [AllowanceLeft::describe(schemas), AllowanceLeftV1::describe(schemas)];
            json!({
                "type": "object",
                "description": "Why a request was refused (RFC 9457). Only `code` is for programs to decide by.",
                "properties": {
                    "type": {
                        "type": "string",
                        "format": "uri-reference",
                        "description": "The page that says what the problem means.",
                    },
                    "title": text("A summary that is the same for every occurrence."),
                    "status": { "type": "integer", "description": "The HTTP status." },
                    "detail": text("What is wrong this time."),
                    "code": Code::describe(schemas),
                    "request_id": text("The id of the request; of the first one, if this repeats its refusal."),
                    "retryable": {
                        "type": "boolean",
                        "description": "Whether the same request with the same key may succeed later.",
                    },
                    "available": amount(fact),
                    "required": amount(fact),
                    "balance": amount(fact),
                    "held": amount(fact),
                    "captured": amount(fact),
                    "transferred": amount(fact),
                    "hold_status": {
                        "type": "string",
                        "enum": ["captured", "voided", "expired"],
                        "description": "How the hold ended.",
                    },
                    "reversed_by": by_reversal,
                    "used_by": by_reference,
                    "allowance": {
                        "anyOf": allowance,
                        "description": "What may still leave the account: with texts in version 2, numbers in version 1.",
                    },
                    "version": { "type": "integer", "description": "The version that the account is at." },
                    "errors": {
                        "type": "array",
                        "maxItems": FIELD_ERRORS_MAX,
                        "description": "What is wrong with which part of the request.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "pointer": text("In the body: a JSON pointer (RFC 6901)."),
                                "parameter": text("In the query: the parameter's name."),
                                "header": text("In the head: the header's name."),
                                "detail": text("What is wrong with it."),
                            },
                            "required": ["detail"],
                        },
                    },
                },
                "required": ["type", "title", "status", "detail", "code", "request_id", "retryable"],
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: &Problem, version: Version) -> String {
        String::from_utf8(problem.body(version, "r-1")).unwrap()
    }

    #[test]
    fn codes_are_unique_and_say_what_they_mean() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_slug(code.slug()), Some(*code));
            assert_eq!(Code::ALL.iter().position(|other| other == code), Some(index));
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(code.meaning().len() > 10 && !code.title().contains(['"', '\\']));
            assert!(code.slug().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        }
    }

    /// Operators' retry loops and dashboards depend on these.
    #[test]
    fn what_is_only_busy_says_when_to_come_back() {
        for code in Code::ALL {
            if code.status() == StatusCode::SERVICE_UNAVAILABLE && *code != Code::AccountsExhausted {
                assert!(matches!(code.retry(), Retry::After(_)), "{}", code.slug());
            }
        }
    }

    #[test]
    fn amounts_are_numbers_in_version_one_and_text_in_version_two() {
        let amount = |cents| Amount::from_minor_units(cents).unwrap();
        let problem = Problem::from(Rejection::InsufficientFunds {
            available: amount(5000),
            required: amount(5001),
            currency: Currency::USD,
        });
        assert_eq!(
            body(&problem, Version::One),
            r#"{"type":"/problems/insufficient-funds","title":"The account does not have the funds","status":422,"detail":"50.01 is required, 50.00 is available","code":"insufficient-funds","request_id":"r-1","retryable":false,"available":50.00,"required":50.01}"#
        );
        assert!(body(&problem, Version::Two).ends_with(r#""available":"50.00","required":"50.01"}"#));
    }

    /// It said that the amount was more than might leave, also where one debit too many was the reason.
    #[test]
    fn a_velocity_limit_that_is_passed_is_named() {
        let amount = |cents| Amount::from_minor_units(cents).unwrap();
        let detail = |in_day, in_month, debits| {
            let allowance = Allowance { in_day, in_month, debits };
            let (required, currency) = (amount(501), Currency::USD);
            Problem::from(Rejection::VelocityLimit { allowance, required, currency }).detail
        };
        let (enough, little) = (Some(amount(501)), Some(amount(500)));
        let begin = "5.01 was to leave the account";
        let (of_day, of_month) = ("; 5.00 may leave it today", "; 5.00 may leave it this month");
        let of_count = "; it may make no further debit in this window";
        assert_eq!(detail(little, enough, Some(1)), format!("{begin}{of_day}"));
        assert_eq!(detail(enough, little, None), format!("{begin}{of_month}"));
        assert_eq!(detail(enough, None, Some(0)), format!("{begin}{of_count}"));
        assert_eq!(detail(little, little, Some(0)), format!("{begin}{of_day}{of_month}{of_count}"));
    }

    #[test]
    fn a_repeated_refusal_shows_the_first_request() {
        let problem = Problem::from(Refusal::Rejected {
            rejected: Box::new(
                Rejection::AccountNotEmpty {
                    balance: Amount::from_minor_units(-1).unwrap(),
                    currency: Currency::USD,
                }
                .into(),
            ),
            first_request_id: Some("r-0".into()),
        });
        let text = body(&problem, Version::One);
        assert!(text.contains(r#""request_id":"r-0""#) && text.ends_with(r#""balance":-0.01}"#), "{text}");
        let reply = problem.respond(Version::One, "r-1");
        assert_eq!(reply.headers()["idempotent-replayed"], "true");
    }

    #[test]
    fn every_refusal_of_the_bank_has_its_status() {
        let (zero, currency) = (Amount::ZERO, Currency::USD);
        let storage = crate::storage::StorageError::Locked { path: "x".into() };
        for (problem, status, code, retry_after) in [
            (Rejection::AccountExists.into(), 409, "account-exists", ""),
            (Rejection::AccountNotFound.into(), 404, "account-not-found", ""),
            (Rejection::AccountClosed.into(), 409, "account-closed", ""),
            (Rejection::AccountNotEmpty { balance: zero, currency }.into(), 409, "account-not-empty", ""),
            (Rejection::VersionMismatch { version: 1 }.into(), 412, "version-mismatch", ""),
            (
                Rejection::InsufficientFunds { available: zero, required: zero, currency }.into(),
                422,
                "insufficient-funds",
                "",
            ),
            (Rejection::BalanceOutOfRange.into(), 422, "balance-out-of-range", ""),
            (Rejection::AccountsExhausted.into(), 503, "accounts-exhausted", ""),
            (Problem::from(Refusal::TransactionNotFound), 404, "transaction-not-found", ""),
            (Refusal::KeyReused.into(), 422, "idempotency-key-reused", ""),
            (Refusal::KeyInFlight.into(), 409, "idempotency-key-in-flight", "1"),
            (Refusal::KeysExhausted.into(), 503, "idempotency-keys-exhausted", "60"),
            (Refusal::DiskFull.into(), 503, "disk-full", "10"),
            (Refusal::Overloaded.into(), 503, "overloaded", "1"),
            (Refusal::Ended.into(), 503, "ending", "1"),
            (Refusal::Storage(storage).into(), 500, "internal-error", ""),
        ] {
            let reply = problem.respond(Version::Two, "r-1");
            let header = |name: &str| reply.headers().get(name).map_or("", |value| value.to_str().unwrap());
            assert_eq!((reply.status().as_u16(), problem.code.slug()), (status, code));
            assert_eq!(header("retry-after"), retry_after, "{code}");
            assert_eq!(header("cache-control"), "no-store");
        }
    }

    #[test]
    fn the_inside_stays_inside() {
        let error = crate::storage::StorageError::Locked { path: "/secret".into() };
        let problem = Problem::from(Refusal::Storage(error));
        assert!(!body(&problem, Version::One).contains("secret"));
        assert!(problem.inside.unwrap().contains("secret"));
    }

    #[test]
    fn a_reply_lists_a_bounded_number_of_errors() {
        let errors =
            vec![FieldError { place: Place::Pointer("/x".into()), detail: "is unknown".into() }; 5000];
        let problem = Problem::with_errors(Code::InvalidRequest, errors, 5000);
        assert_eq!(problem.errors.len(), FIELD_ERRORS_MAX);
        assert_eq!(problem.detail, "5000 things are wrong; see errors");
    }
}
