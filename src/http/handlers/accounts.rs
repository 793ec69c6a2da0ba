//! Accounts: opened, read, closed.
//!
//! The tag of an account is its version, which is what `If-Match` asks for, and costs a reader nothing. What velocity
//! limits leave (`allowance`) changes as time passes, without a version; so an account that has some is always sent
//! whole, whatever the client has, and is not to be kept. Its tag is no weak one, which would say the same, because
//! `If-Match` matches no weak tag (RFC 9110, 13.1.1).
//!
//! Simplified: an account without an overdraft limit of its own shows the service's. After a start with another
//! `--max-overdraft`, a client that asks whether its copy of such an account still holds is told so until the
//! account changes. To tell it otherwise, tags would have to be more than versions, for all accounts. What is refused
//! goes by the new limit at once.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{ETAG, LOCATION};
use serde_json::{Value, json};

use super::pages::{Cursor, PageLimit, Pages};
use super::statements::{AtQuery, account_now_or_then, accounts_now_or_then, not_in_the_future};
use crate::bank::{AccountSelector, KeyHome};
use crate::http::call::Call;
use crate::http::headers::{self, MERGE_PATCH};
use crate::http::idempotency::Scope;
use crate::http::operation::{
    BANK, CHANGE, EVERY, IF_MATCH, IF_NONE_MATCH, JSON_BODY, KEYED, KEYED_IF_MATCH, NAMED, Operation,
    REFERRED, ReplyHeader, RequestBody, Success,
};
use crate::http::path::encode;
use crate::http::problem::{Code, Place, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::detail::TransactionDetail;
use crate::http::wire::metadata::MetadataFilter;
use crate::http::wire::moments::Moment;
use crate::http::wire::read::read_body;
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::statements::{PastAccount, PastAccountPage};
use crate::http::wire::values::{Flag, text_schema};
use crate::http::wire::{Account, AccountPage, AccountPatch, AccountV1, OpenAccount, OpenAccountV1};
use crate::ledger::operation::{Condition, Opening, Operation as LedgerOperation};
use crate::ledger::{AccountName, AccountNumber, Currency, NAME_BYTES_MAX, SHARDS_MAX, ShardId};
use crate::shard::request::AccountFilter;

pub(in crate::http) static OPEN_V1: Operation = Operation {
    endpoint: Endpoint::OpenAccountV1,
    id: "openAccountV1",
    summary: "Open an account (version 1)",
    details: "The account's overdraft limit is the service's.",
    headers: KEYED,
    request: Some(RequestBody::json::<OpenAccountV1>()),
    success: Success {
        status: 201,
        meaning: "The account, as its opening made it.",
        body: Some((JSON, AccountV1::describe)),
        headers: &[ReplyHeader::Location, ReplyHeader::ETag],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, OPENING],
    ..Operation::PLAIN
};

pub(in crate::http) static READ_V1: Operation = Operation {
    endpoint: Endpoint::AccountV1,
    id: "readAccountV1",
    summary: "Read an open account by its name (version 1)",
    headers: IF_NONE_MATCH,
    success: Success { body: Some((JSON, AccountV1::describe)), ..ACCOUNT_NOW },
    problems: &[EVERY, BANK, NAMED],
    ..Operation::PLAIN
};

pub(in crate::http) static CLOSE_V1: Operation = Operation {
    endpoint: Endpoint::CloseV1,
    id: "closeAccountV1",
    summary: "Close an account by its name (version 1)",
    details: CLOSING_DETAILS,
    headers: KEYED_IF_MATCH,
    success: Success { meaning: "The account is closed.", ..Success::EMPTY },
    problems: &[EVERY, BANK, CHANGE, IF_MATCH, NAMED, CLOSING],
    ..Operation::PLAIN
};

pub(in crate::http) static OPEN: Operation = Operation {
    endpoint: Endpoint::OpenAccount,
    id: "openAccount",
    summary: "Open an account",
    headers: KEYED,
    request: Some(RequestBody::json::<OpenAccount>()),
    success: Success {
        status: 201,
        meaning: "The account, as its opening made it.",
        body: Some((JSON, Account::describe)),
        headers: &[ReplyHeader::Location, ReplyHeader::ETag],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, OPENING],
    leads_to: &[
        ("readAccount", "account", "$response.body#/id"),
        ("listTransactions", "account", "$response.body#/id"),
        ("deposit", "account", "$response.body#/id"),
        ("withdraw", "account", "$response.body#/id"),
        ("closeAccount", "account", "$response.body#/id"),
    ],
    ..Operation::PLAIN
};

pub(in crate::http) static READ: Operation = Operation {
    endpoint: Endpoint::Account,
    id: "readAccount",
    summary: "Read an account",
    details: "By id it finds closed accounts too. With `at` it is the account as it was then. An account with velocity \
        limits is never answered with 304: its `allowance` changes as time passes, its ETag when the account does. Where \
        an account has no overdraft limit of its own, a change of the service's does not change its ETag either.",
    query: AtQuery::SHAPE,
    headers: IF_NONE_MATCH,
    success: Success { body: Some((JSON, account_now_or_then)), ..ACCOUNT_NOW },
    problems: &[EVERY, BANK, REFERRED, &[Code::InvalidParameter, Code::AccountNotThereYet]],
    ..Operation::PLAIN
};

pub(in crate::http) static CLOSE: Operation = Operation {
    endpoint: Endpoint::Close,
    id: "closeAccount",
    summary: "Close an account",
    details: CLOSING_DETAILS,
    headers: KEYED_IF_MATCH,
    success: Success { meaning: "The account is closed.", ..Success::EMPTY },
    problems: &[EVERY, BANK, CHANGE, IF_MATCH, REFERRED, CLOSING],
    ..Operation::PLAIN
};

pub(in crate::http) static UPDATE: Operation = Operation {
    endpoint: Endpoint::UpdateAccount,
    id: "updateAccount",
    summary: "Change an account's terms",
    details: "A merge patch (RFC 7396): what is null is removed, what is not there stays as it is. Lowering the \
        overdraft limit under what is in use is allowed: the account cannot pay then until it is covered again.",
    headers: KEYED_IF_MATCH,
    request: Some(
        RequestBody::json::<AccountPatch>().of_type(MERGE_PATCH).or(&[(JSON, AccountPatch::describe)]),
    ),
    success: Success {
        status: 200,
        meaning: "What was changed, and how the account stands after it.",
        body: Some((JSON, TransactionDetail::describe)),
        headers: &[ReplyHeader::ETag],
        ..Success::EMPTY
    },
    problems: &[
        EVERY,
        BANK,
        CHANGE,
        JSON_BODY,
        IF_MATCH,
        REFERRED,
        &[Code::AccountClosed, Code::TooManyDecimals, Code::MetadataFull, Code::BalanceOutOfRange],
    ],
    ..Operation::PLAIN
};

pub(in crate::http) static LIST: Operation = Operation {
    endpoint: Endpoint::Accounts,
    id: "listAccounts",
    summary: "Read the accounts",
    details: "Page by page: `next`, and the Link header, lead on. `metadata[key]=value` asks for those that have this \
        entry. A page looks at a bounded number of accounts, so it may have few, even none, and still a next one.",
    query: AccountsQuery::SHAPE,
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "A page of the accounts.",
        body: Some((JSON, accounts_now_or_then)),
        headers_at_times: &[ReplyHeader::Link],
        ..Success::READ
    },
    problems: &[EVERY, BANK, &[Code::InvalidParameter, Code::InvalidCursor]],
    ..Operation::PLAIN
};

parameters! {
    /// Which accounts.
    struct AccountsQuery {
        /// Those whose names begin so.
        prefix: Option<Prefix>,
        /// Those in this currency.
        currency: Option<Currency>,
        /// Only closed ones, or only open ones.
        closed: Option<Flag>,
        /// How many accounts the page has at most.
        limit: PageLimit,
        /// Where to go on: `next` of the page before, as it came, with the same filters.
        cursor: Option<Cursor>,
        /// The accounts that there were at this moment, as they were then.
        at: Option<Moment>,
        /// Those whose metadata has this value: `metadata[key]=value`, for one key or several. Not with `at`.
        metadata: Option<MetadataFilter>,
    }
}

/// The beginning of a name.
struct Prefix(Box<str>);

impl Describe for Prefix {
    fn describe(_: &mut Schemas) -> Value {
        let mut schema = text_schema("", 1, NAME_BYTES_MAX);
        schema["examples"] = json!(["savings-"]);
        schema
    }
}

impl Parameter for Prefix {
    fn parse(text: &str) -> Result<Prefix, Cow<'static, str>> {
        // What begins a name is itself one.
        AccountName::parse(text).map(|name| Prefix((*name).into())).map_err(|error| error.to_string().into())
    }
}

impl Parameter for Currency {
    fn parse(text: &str) -> Result<Currency, Cow<'static, str>> {
        Currency::from_code(text.as_bytes())
            .ok_or_else(|| "is not a currency code of ISO 4217 such as USD".into())
    }
}

const ACCOUNT_NOW: Success =
    Success { meaning: "The account as it is now.", body: Some((JSON, Account::describe)), ..Success::READ };
const CLOSING_DETAILS: &str = "The account has to stand at zero. Closing is for ever: the name stays taken, and \
    the account can still be read by its id.";
const OPENING: &[Code] =
    &[Code::AccountExists, Code::AccountsExhausted, Code::BalanceOutOfRange, Code::TooManyDecimals];
const CLOSING: &[Code] =
    &[Code::AccountClosed, Code::AccountHasHolds, Code::AccountNotEmpty, Code::UnexpectedBody];

/// Where in the list of accounts a cursor leads: shard and number.
fn place_of_cursor(place: u64) -> (ShardId, AccountNumber) {
    // What no shard is, the bank has no accounts of.
    let last = ShardId::new(SHARDS_MAX - 1).expect("in range");
    let shard = usize::try_from(place >> 32).ok().and_then(ShardId::new).unwrap_or(last);
    (shard, AccountNumber::new(place as u32))
}

fn cursor_place(shard: ShardId, number: AccountNumber) -> u64 {
    (shard.index() as u64) << 32 | u64::from(number.get())
}

impl Call<'_> {
    pub(super) async fn open_account_v1(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Accounts, &body)?;
        let open: OpenAccountV1 = read_body(&body)?;
        let opened = bank.open(Opening::plain(open.name, bank.currency(), None), origin).await?;
        let location = reply::location(format_args!("/accounts/{}", encode(&opened.value.opened.name)));
        let mut reply = reply::json(StatusCode::CREATED, &AccountV1::opened(&opened.value));
        reply.headers_mut().insert(LOCATION, location);
        reply.headers_mut().insert(ETAG, headers::etag_of_version(1));
        Ok(reply::marked(reply, &opened))
    }

    pub(super) async fn open_account(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Accounts, &body)?;
        let open: OpenAccount = read_body(&body)?;
        let opened = bank.open(open.to_opening(bank.currency()), origin).await;
        let opened = opened.map_err(|refusal| Problem::from(refusal).pointing_to_limits(open.limits()))?;
        let location = reply::location_of("/v2/accounts/", opened.value.id.to_uuid());
        let mut reply = reply::json(StatusCode::CREATED, &Account::opened(&opened.value));
        reply.headers_mut().insert(LOCATION, location);
        reply.headers_mut().insert(ETAG, headers::etag_of_version(1));
        Ok(reply::marked(reply, &opened))
    }

    pub(super) async fn list_accounts(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let read = AccountsQuery::read(query)?;
        let at = read.at.map(Moment::floor);
        if let Some(moment) = at {
            not_in_the_future("at", moment)?;
            if read.metadata.is_some() {
                let place = Place::Parameter("metadata".into());
                let detail = "is known as it is today: ask without at";
                return Err(Problem::at(Code::InvalidParameter, place, detail));
            }
        }
        let filter = AccountFilter {
            prefix: read.prefix.map(|prefix| prefix.0),
            currency: read.currency,
            closed: read.closed.map(|flag| flag.0),
            metadata: read.metadata.map(|metadata| metadata.0).unwrap_or_default(),
        };
        let PageLimit(limit) = read.limit;
        self.look_for_room(limit)?;
        let pages = Pages::of(query, "/v2/accounts".into(), limit, None);
        let from = place_of_cursor(pages.start(read.cursor.as_ref())?.unwrap_or(0));
        let (mut now, mut then) = (Vec::new(), Vec::new());
        let next = match at {
            None => {
                let (accounts, next) = bank.accounts(filter.into(), from, limit).await?;
                now = accounts;
                next
            }
            Some(moment) => {
                let (accounts, next) = bank.accounts_at(&filter, from, limit, moment).await?;
                then = accounts;
                next
            }
        };
        let next = next.map(|(shard, number)| cursor_place(shard, number));
        Ok(pages.reply(self.headers(), read.cursor.as_ref(), next, |next, links| match at {
            None => {
                let items = now.iter().map(Account::of).collect();
                Content::json(&AccountPage { count: now.len() as u64, items, next, links })
            }
            Some(_) => {
                let items = then.iter().map(PastAccount::of).collect();
                Content::json(&PastAccountPage { count: then.len() as u64, items, next, links })
            }
        }))
    }

    pub(super) async fn update_account(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let version = headers::if_match(self.headers())?;
        let body = self.read_taken().await?;
        let origin = self.account_origin(&account, &body).await?;
        let patch: AccountPatch = read_body(&body)?;
        let place = bank.place(account);
        let conditions = Condition::matching(&place, version);
        let home = KeyHome::Shard(place.shard);
        let operation = LedgerOperation::Amend { account: place, amendment: Box::new(patch.to_amendment()) };
        let done = bank.operate(operation, conditions, home, false, origin).await;
        let done = done.map_err(|refusal| Problem::from(refusal).pointing_to_limits(patch.limits()))?;
        let mut reply = reply::json(StatusCode::OK, &TransactionDetail::of(&done.value, None));
        if let Some((_, effect)) = done.value.decision.effects().next() {
            reply.headers_mut().insert(ETAG, headers::etag_of_version(effect.after.version));
        }
        Ok(reply::marked(reply, &done))
    }

    pub(super) async fn account_v1(&self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = AccountSelector::Name(self.name()?);
        let account = bank.account(account).await?;
        let etag = headers::etag_of_version(account.version);
        Ok(reply::tagged(self.headers(), etag, Caching::Ask, &AccountV1::of(&account)))
    }

    pub(super) async fn account_now(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(self.account()?).await?;
        let etag = headers::etag_of_version(account.version);
        let resource = Account::of(&account);
        Ok(match resource.allowance {
            None => reply::tagged(self.headers(), etag, Caching::Ask, &resource),
            Some(_) => reply::tagged_for_if_match(etag, &resource),
        })
    }

    pub(super) async fn close_account_v1(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let account = AccountSelector::Name(self.name()?);
        self.close(account).await
    }

    pub(super) async fn close_account(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let account = self.account()?;
        self.close(account).await
    }

    async fn close(&mut self, account: AccountSelector) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let version = headers::if_match(self.headers())?;
        self.read_nothing().await?;
        let origin = self.account_origin(&account, &[]).await?;
        let closed = bank.close(account, version, origin).await?;
        Ok(reply::marked(reply::empty(StatusCode::NO_CONTENT), &closed))
    }

    /// The account's name, which is what an idempotency key belongs to, whichever way the request refers to the
    /// account.
    pub(super) async fn name_of(&self, account: &AccountSelector) -> Result<AccountName, Problem> {
        match account {
            AccountSelector::Name(name) => Ok(name.clone()),
            AccountSelector::Id(_) => Ok(self.bank()?.account(account.clone()).await?.name),
        }
    }
}
