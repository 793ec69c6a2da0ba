//! Transactions: deposits and withdrawals, one by one and as an account's history.

use std::borrow::Cow;

use futures_util::FutureExt;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use serde_json::{Value, json};

use super::pages::{Cursor, PageLimit, Pages, listed};
use super::statements::between;
use crate::bank::{AccountSelector, EntryFilter, Order};
use crate::http::api::{Api, Wait};
use crate::http::call::Call;
use crate::http::headers;
use crate::http::idempotency::Scope;
use crate::http::operation::{
    BANK, CHANGE, EVERY, IF_MATCH, IF_NONE_MATCH, JSON_BODY, KEYED_IF_MATCH, NAMED, Operation, REFERRED,
    ReplyHeader, RequestBody, Success, TRANSACTION,
};
use crate::http::problem::{Code, Place, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::detail::TransactionDetail;
use crate::http::wire::metadata::MetadataFilter;
use crate::http::wire::moments::Moment;
use crate::http::wire::read::read_body;
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::transfers::note;
use crate::http::wire::values::LimitText;
use crate::http::wire::{Posting, PostingV1, Transaction, TransactionPage, TransactionV1};
use crate::ledger::{Direction, Kind, Reference, TransactionType};

pub(in crate::http) static DEPOSIT_V1: Operation = Operation {
    endpoint: Endpoint::DepositV1,
    id: "depositV1",
    summary: "Pay into an account (version 1)",
    ..POST_V1
};

pub(in crate::http) static WITHDRAW_V1: Operation = Operation {
    endpoint: Endpoint::WithdrawV1,
    id: "withdrawV1",
    summary: "Pay out of an account (version 1)",
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, IF_MATCH, NAMED, POSTING, PAYING],
    ..POST_V1
};

const POST_V1: Operation = Operation {
    headers: KEYED_IF_MATCH,
    request: Some(RequestBody::json::<PostingV1>()),
    success: Success {
        status: 201,
        meaning: "The transaction.",
        body: Some((JSON, TransactionV1::describe)),
        headers: &[ReplyHeader::Location],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, IF_MATCH, NAMED, POSTING],
    leads_to: &[("readTransactionV1", "id", "$response.body#/id")],
    ..Operation::PLAIN
};

pub(in crate::http) static READ_V1: Operation = TRANSACTION_V1;

pub(in crate::http) static READ_V1_SINGULAR: Operation = Operation {
    id: "readTransactionV1Singular",
    details: "The original service's path; the other one reads the same.",
    ..TRANSACTION_V1
};

const TRANSACTION_V1: Operation = Operation {
    endpoint: Endpoint::TransactionV1,
    id: "readTransactionV1",
    summary: "Read a transaction (version 1)",
    headers: IF_NONE_MATCH,
    success: Success { body: Some((JSON, TransactionV1::describe)), ..TRANSACTION_FOUND },
    problems: &[EVERY, BANK, TRANSACTION],
    ..Operation::PLAIN
};

pub(in crate::http) static DEPOSIT: Operation =
    Operation { endpoint: Endpoint::Deposit, id: "deposit", summary: "Pay into an account", ..POST };

pub(in crate::http) static WITHDRAW: Operation = Operation {
    endpoint: Endpoint::Withdraw,
    id: "withdraw",
    summary: "Pay out of an account",
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, IF_MATCH, REFERRED, POSTING, NOTED, PAYING],
    ..POST
};

const POST: Operation = Operation {
    request: Some(RequestBody::json::<Posting>()),
    success: Success { body: Some((JSON, Transaction::describe)), ..POST_V1.success },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, IF_MATCH, REFERRED, POSTING, NOTED],
    leads_to: &[
        ("readTransaction", "id", "$response.body#/id"),
        ("readAccount", "account", "$response.body#/account_id"),
    ],
    ..POST_V1
};

pub(in crate::http) static READ: Operation = Operation {
    endpoint: Endpoint::Transaction,
    id: "readTransaction",
    summary: "Read a transaction",
    details: "Of any type, with all its sides. A transfer can still be reversed; all others, and one that was, never \
        change.",
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "The transaction.",
        body: Some((JSON, TransactionDetail::describe)),
        ..TRANSACTION_FOUND
    },
    problems: &[EVERY, BANK, TRANSACTION],
    ..Operation::PLAIN
};

const TRANSACTION_FOUND: Success =
    Success { meaning: "The transaction, which never changes.", ..Success::READ };

pub(in crate::http) static LIST: Operation = Operation {
    endpoint: Endpoint::History,
    id: "listTransactions",
    summary: "Read an account's history",
    details: "Page by page: `next`, and the Link header, lead on. Later transactions do not move a page that was \
        begun. All filters that are given have to be true of a transaction. One page looks at no more than 10,000 \
        transactions: it may have less than `limit` of them, even none, and yet a next one.",
    query: HistoryQuery::SHAPE,
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "A page of the history.",
        body: Some((JSON, TransactionPage::describe)),
        headers_at_times: &[ReplyHeader::Link],
        ..Success::READ
    },
    problems: &[EVERY, BANK, REFERRED, &[Code::InvalidParameter, Code::InvalidCursor]],
    ..Operation::PLAIN
};

const POSTING: &[Code] = &[Code::BalanceOutOfRange, Code::TooManyDecimals];
const PAYING: &[Code] = &[Code::InsufficientFunds, Code::AccountFrozen, Code::VelocityLimit];
const NOTED: &[Code] = &[Code::AccountClosed, Code::ReferenceUsed];

parameters! {
    /// Which part of a history.
    struct HistoryQuery {
        /// How many transactions the page has at most.
        limit: PageLimit,
        /// Newest first, or oldest first.
        order: Order,
        /// Where to go on: `next` of the page before, as it came. Limit may change on the way; nothing else may.
        cursor: Option<Cursor>,
        /// Of these types, separated by commas or one a parameter. Without it, of all that are about money: all but
        /// opening, amendment, closing, linking and unlinking.
        types: Option<Types>,
        /// From this moment on.
        from: Option<Moment>,
        /// Before this moment.
        to: Option<Moment>,
        /// Those that move at least so much, in or out; or hold or release so much, if they move nothing.
        amount_min: Option<LimitText>,
        /// The same: at most so much, and not less than `amount_min`.
        amount_max: Option<LimitText>,
        /// With exactly this reference.
        reference: Option<Reference>,
        /// With these values in their metadata: `metadata[invoice]=7`.
        metadata: Option<MetadataFilter>,
    }
}

impl Call<'_> {
    /// Asks for a deposit or withdrawal; what is returned waits for the reply.
    pub(super) async fn post_v1<'s>(
        &mut self,
        api: &'s Api,
        direction: Direction,
    ) -> Result<impl Wait<'s> + use<'s>, Problem> {
        let bank = api.bank()?;
        let name = self.name()?;
        let version = headers::if_match(self.headers())?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Account(&name), &body)?;
        let posting: PostingV1 = read_body(&body)?;
        let account = AccountSelector::Name(name.clone());
        let posted = bank.post(account, version, direction, posting.amount.0, origin);
        Ok(posted.map(move |posted| {
            let posted = posted.map_err(|refusal| Problem::from(refusal).pointing_to_amount())?;
            let transaction = TransactionV1::of(&posted.value, &name, posted.value.currency);
            let mut reply = reply::json(StatusCode::CREATED, &transaction);
            let location = reply::location_of("/transactions/", posted.value.id.to_uuid());
            reply.headers_mut().insert(LOCATION, location);
            Ok(reply::marked(reply, &posted))
        }))
    }

    pub(super) async fn post(&mut self, direction: Direction) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let version = headers::if_match(self.headers())?;
        let body = self.read_taken().await?;
        let origin = self.account_origin(&account, &body).await?;
        let posting: Posting = read_body(&body)?;
        let note = note(&posting.reference, &posting.metadata);
        let posted = bank.post_noted(account, version, direction, posting.amount.0, note, origin).await;
        let posted = posted.map_err(|refusal| Problem::from(refusal).pointing_to_amount())?;
        let mut reply = reply::json(StatusCode::CREATED, &Transaction::of(&posted.value));
        let location = reply::location_of("/v2/transactions/", posted.value.executed.id.to_uuid());
        reply.headers_mut().insert(LOCATION, location);
        Ok(reply::marked(reply, &posted))
    }

    pub(super) async fn transaction_v1(&self) -> Result<Reply, Problem> {
        let (transaction, account) = self.bank()?.transaction(self.transaction_id()?).await?;
        let resource = TransactionV1::of(&transaction, &account.name, account.currency);
        Ok(reply::tagged(self.headers(), etag_of(&transaction), Caching::Forever, &resource))
    }

    pub(super) async fn transaction(&self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let executed = bank.executed(self.transaction_id()?).await?;
        let reversed_by = match executed.decision.kind {
            Kind::Transfer => bank.reversal_of(executed.id).await?,
            _ => None,
        };
        let caching = match executed.decision.kind {
            Kind::Transfer if reversed_by.is_none() => Caching::Ask,
            _ => Caching::Forever,
        };
        Ok(Content::json(&TransactionDetail::of(&executed, reversed_by)).reply(self.headers(), caching))
    }

    pub(super) async fn history(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let read = HistoryQuery::read(query)?;
        let (from, to) = between(read.from, read.to)?;
        if let (Some(min), Some(max)) = (read.amount_min, read.amount_max)
            && max.0 < min.0
        {
            let place = Place::Parameter("amount_max".into());
            return Err(Problem::at(Code::InvalidParameter, place, "must not be less than amount_min"));
        }
        let filter = EntryFilter {
            types: read.types.map(|types| types.0),
            from,
            to,
            amount_min: read.amount_min.map(|amount| amount.0),
            amount_max: read.amount_max.map(|amount| amount.0),
            reference: read.reference,
            metadata: read.metadata.map(|metadata| metadata.0).unwrap_or_default(),
        };
        let (PageLimit(limit), order) = (read.limit, read.order);
        let id = listed(bank, account).await?;
        let path = format!("/v2/accounts/{}/transactions", id.to_uuid());
        self.look_for_room(limit)?;
        let pages = Pages::of(query, path, limit, Some(order_text(order)));
        let start = pages.start(read.cursor.as_ref())?;
        let page = bank.history(AccountSelector::Id(id), filter, order, start, limit).await?;
        Ok(pages.reply(self.headers(), read.cursor.as_ref(), page.next, |next, links| {
            let items = page.entries.iter().map(Transaction::of).collect();
            Content::json(&TransactionPage { count: page.entries.len() as u64, items, next, links })
        }))
    }
}

/// A transaction never changes: its id is tag enough.
fn etag_of(transaction: &crate::bank::Transaction) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", transaction.id.to_uuid())).expect("an id fits in a header")
}

impl Describe for Order {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "enum": ["asc", "desc"], "default": "desc" })
    }
}

impl Parameter for Order {
    fn parse(text: &str) -> Result<Order, Cow<'static, str>> {
        match text {
            "asc" => Ok(Order::Ascending),
            "desc" => Ok(Order::Descending),
            _ => Err("must be asc or desc".into()),
        }
    }

    fn absent() -> Option<Order> {
        Some(Order::Descending)
    }
}

fn order_text(order: Order) -> &'static str {
    match order {
        Order::Ascending => "asc",
        Order::Descending => "desc",
    }
}

/// Some types of transactions, each once.
pub(super) struct Types(pub(super) Vec<TransactionType>);

impl Describe for Types {
    fn describe(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": TransactionType::describe(schemas) })
    }
}

impl Parameter for Types {
    const LISTED: bool = true;

    fn parse_list(values: &[Cow<'_, str>]) -> Result<Types, Cow<'static, str>> {
        let mut types = Vec::new();
        for name in values.iter().flat_map(|value| value.split(',')) {
            let known = TransactionType::ALL.into_iter().find(|known| known.name() == name);
            let found = known.ok_or_else(|| {
                let known = TransactionType::ALL.map(TransactionType::name).join(", ");
                Cow::from(format!("has a type that is unknown; known are: {known}"))
            })?;
            if !types.contains(&found) {
                types.push(found);
            }
        }
        Ok(Types(types))
    }
}

impl Parameter for Reference {
    fn parse(text: &str) -> Result<Reference, Cow<'static, str>> {
        Reference::parse(text).map_err(|error| error.to_string().into())
    }
}
