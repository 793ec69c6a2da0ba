//! What is done at each route: read the request, ask the bank, write the reply.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, LINK, LOCATION, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::api::{Api, Stage};
use super::headers::{self, KeyBinding, RequestId, Scope};
use super::json::{self, Object};
use super::listener::Limits;
use super::metrics::Metrics;
use super::problem::{Code, Place, Problem};
use super::routes::{self, Endpoint, Route};
use super::wire::{self, Version};
use super::{BODY_BYTES_MAX, cursor};
use crate::bank::{AccountSelector, Bank, Done, Order, Origin, PAGE_ENTRIES_MAX};
use crate::ledger::{AccountId, AccountName, Currency, Direction, IdError, TransactionId};

/// How many transactions a page has if the client does not say.
const PAGE_ENTRIES_DEFAULT: usize = 100;

/// Room for the usual reply, so that writing it takes one allocation.
const REPLY_BYTES_TYPICAL: usize = 320;

/// Room for one transaction in a page.
const ITEM_BYTES_TYPICAL: usize = 256;

pub(super) type Reply = Response<Full<Bytes>>;

/// A request that has found what is to be done about it.
pub(super) struct Call<'a> {
    pub(super) api: &'a Api,
    pub(super) limits: &'a Limits,
    pub(super) route: &'static Route,
    pub(super) endpoint: Endpoint,
    /// The variable segment of the path, still encoded.
    pub(super) segment: &'a str,
    pub(super) parts: &'a Parts,
    pub(super) body: &'a mut Incoming,
    pub(super) request_id: &'a RequestId,
}

impl<'a> Call<'a> {
    /// Does it.
    pub(super) async fn answer(mut self) -> Result<Reply, Problem> {
        if self.endpoint == Endpoint::History {
            return self.history().await;
        }
        let [] = routes::parameters(self.parts.uri.query(), &[])?;
        match self.endpoint {
            Endpoint::OpenAccount => self.open().await,
            Endpoint::AccountByName => self.account_by_name().await,
            Endpoint::AccountById => self.account_by_id().await,
            Endpoint::CloseByName | Endpoint::CloseById => self.close().await,
            Endpoint::Deposit => self.post(Direction::Deposit).await,
            Endpoint::Withdraw => self.post(Direction::Withdrawal).await,
            Endpoint::Transaction => self.transaction().await,
            Endpoint::History => unreachable!("it has parameters, and has been answered"),
            Endpoint::TrialBalance => {
                let balance = self.bank()?.trial_balance().await?;
                Ok(fresh(json_reply(StatusCode::OK, |out| {
                    wire::trial_balance(out, &balance);
                })))
            }
            Endpoint::Health => Ok(fresh(json_reply(StatusCode::OK, |out| wire::status(out, "ok")))),
            Endpoint::Readiness => self.readiness(),
            Endpoint::Metrics => Ok(metrics(&self.api.metrics)),
            Endpoint::Problems => Ok(json_reply(StatusCode::OK, |out| {
                let mut list = Object::begin(out);
                list.plain("count", Code::ALL.len());
                json::array(list.key("items"), Code::ALL, |out, code| code.write(out));
                list.null("next");
                list.end();
            })),
            Endpoint::ProblemByCode => Code::from_slug(self.segment)
                .map(|code| json_reply(StatusCode::OK, |out| code.write(out)))
                .ok_or_else(|| Problem::plain(Code::NotFound)),
        }
    }

    async fn open(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let version = self.route.version;
        let body = self.read_json().await?;
        let origin = self.origin(Scope::Accounts, &body)?;
        let open = wire::OpenAccount::parse(&body, version)?;
        let opened = bank.open(open.name, open.overdraft_limit, origin).await?;
        let account = &opened.value;
        let (location, mut reply) = match version {
            Version::One => (
                location(format_args!("/accounts/{}", routes::encode(&account.name))),
                json_reply(StatusCode::CREATED, |out| wire::opened_v1(out, account)),
            ),
            Version::Two => (
                location(format_args!("/v2/accounts/{}", account.id.to_uuid())),
                json_reply(StatusCode::CREATED, |out| wire::opened_v2(out, account)),
            ),
        };
        reply.headers_mut().insert(LOCATION, location);
        reply.headers_mut().insert(ETAG, headers::etag_of_version(1));
        Ok(marked(reply, &opened))
    }

    async fn account_by_name(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(AccountSelector::Name(self.name()?)).await?;
        Ok(self.tagged(headers::etag_of_version(account.version), "no-cache", |out| {
            wire::account_v1(out, &account);
        }))
    }

    async fn account_by_id(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(AccountSelector::Id(self.account_id()?)).await?;
        Ok(self.tagged(headers::etag_of_version(account.version), "no-cache", |out| {
            wire::account_v2(out, &account);
        }))
    }

    async fn close(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = match self.endpoint {
            Endpoint::CloseById => AccountSelector::Id(self.account_id()?),
            _ => AccountSelector::Name(self.name()?),
        };
        let version = headers::if_match(&self.parts.headers)?;
        headers::check_idempotency_key(&self.parts.headers)?;
        if !self.read_body().await?.is_empty() {
            return Err(Problem::plain(Code::UnexpectedBody));
        }
        let name = match &account {
            AccountSelector::Name(name) => name.clone(),
            // A key belongs to the account, whichever way the request names it.
            AccountSelector::Id(_) => bank.account(account.clone()).await?.name,
        };
        let origin = self.origin(Scope::Account(&name), &[])?;
        let closed = bank.close(account, version, origin).await?;
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::NO_CONTENT;
        Ok(marked(reply, &closed))
    }

    async fn post(&mut self, direction: Direction) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let name = self.name()?;
        let version = headers::if_match(&self.parts.headers)?;
        let body = self.read_json().await?;
        let origin = self.origin(Scope::Account(&name), &body)?;
        let amount = wire::parse_posting(&body)?;
        let account = AccountSelector::Name(name.clone());
        let posted = bank.post(account, version, direction, amount, origin).await?;
        let mut reply = json_reply(StatusCode::CREATED, |out| {
            wire::transaction_v1(out, &posted.value, &name, Currency::USD);
        });
        let id = posted.value.id.to_uuid();
        reply.headers_mut().insert(LOCATION, location(format_args!("/transactions/{id}")));
        Ok(marked(reply, &posted))
    }

    async fn transaction(&self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let id = match TransactionId::parse(&self.id()?) {
            Ok(id) => id,
            Err(IdError::Foreign) => return Err(Problem::plain(Code::TransactionNotFound)),
            Err(error @ IdError::NotAUuid) => return Err(invalid_id(error)),
        };
        let (transaction, account) = bank.transaction(id).await?;
        let etag = HeaderValue::from_str(&format!("\"{}\"", id.to_uuid())).expect("an id fits in a header");
        let caching = "private, max-age=31536000, immutable";
        Ok(self.tagged(etag, caching, |out| {
            wire::transaction_v1(out, &transaction, &account.name, account.currency);
        }))
    }

    async fn history(&self) -> Result<Reply, Problem> {
        let [limit, cursor, order] =
            routes::parameters(self.parts.uri.query(), &["limit", "cursor", "order"])?;
        let bank = self.bank()?;
        let id = self.account_id()?;
        let invalid = |name: &'static str, detail: String| {
            Problem::at(Code::InvalidParameter, Place::Parameter(name.into()), detail)
        };
        let limit = match limit.as_deref() {
            None => PAGE_ENTRIES_DEFAULT,
            Some(text) => Some(text)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok())
                .filter(|limit| (1..=PAGE_ENTRIES_MAX).contains(limit))
                .ok_or_else(|| invalid("limit", format!("must be a number from 1 to {PAGE_ENTRIES_MAX}")))?,
        };
        let (order, order_text) = match order.as_deref() {
            None | Some("desc") => (Order::Descending, "desc"),
            Some("asc") => (Order::Ascending, "asc"),
            Some(_) => return Err(invalid("order", "must be asc or desc".to_owned())),
        };
        let from = match cursor {
            None => None,
            Some(text) => Some(cursor::decode(&text, id, order).map_err(|detail| {
                Problem::at(Code::InvalidCursor, Place::Parameter("cursor".into()), detail)
            })?),
        };
        let page = bank.history(AccountSelector::Id(id), order, from, limit).await?;
        let next = page.next.map(|version| cursor::encode(id, order, version));
        let mut out = Vec::with_capacity(REPLY_BYTES_TYPICAL + page.transactions.len() * ITEM_BYTES_TYPICAL);
        wire::page_v2(&mut out, &page.account, &page.transactions, next.as_deref());
        let mut reply = fresh(json_bytes(StatusCode::OK, out));
        if let Some(next) = next {
            let link = format!(
                "</v2/accounts/{}/transactions?limit={limit}&order={order_text}&cursor={next}>; rel=\"next\"",
                id.to_uuid()
            );
            let link = HeaderValue::try_from(link).expect("ids and cursors fit in a header");
            reply.headers_mut().insert(LINK, link);
        }
        Ok(reply)
    }

    fn readiness(&self) -> Result<Reply, Problem> {
        match self.api.stage() {
            Stage::Starting => Err(Problem::plain(Code::Starting)),
            Stage::Ready => Ok(fresh(json_reply(StatusCode::OK, |out| {
                wire::status(out, "ready");
            }))),
            Stage::Ending => Err(Problem::plain(Code::Ending)),
        }
    }

    /// The bank, once it is there. It outlives the call, so what is asked of it does not borrow the call.
    fn bank(&self) -> Result<&'a Bank, Problem> {
        self.api.bank()
    }

    /// The account name in the path.
    fn name(&self) -> Result<AccountName, Problem> {
        let invalid =
            |detail: String| Problem::new(Code::InvalidAccountName, format!("the name in the path {detail}"));
        let name = routes::decode(self.segment).map_err(|detail| invalid(detail.to_owned()))?;
        AccountName::parse(&name).map_err(|error| invalid(error.to_string()))
    }

    /// The id in the path, still text.
    fn id(&self) -> Result<Cow<'_, str>, Problem> {
        routes::decode(self.segment).map_err(|_| invalid_id(IdError::NotAUuid))
    }

    /// The account id in the path. What is a UUID but no account's finds no account.
    fn account_id(&self) -> Result<AccountId, Problem> {
        match AccountId::parse(&self.id()?) {
            Ok(id) => Ok(id),
            Err(IdError::Foreign) => Err(Problem::plain(Code::AccountNotFound)),
            Err(error @ IdError::NotAUuid) => Err(invalid_id(error)),
        }
    }

    /// Checks what the headers say of a JSON body, then reads it.
    async fn read_json(&mut self) -> Result<Bytes, Problem> {
        headers::check_idempotency_key(&self.parts.headers)?;
        headers::check_media_type(&self.parts.headers, self.route.version == Version::Two)?;
        self.read_body().await
    }

    /// Reads the body, within its bounds of size and time.
    async fn read_body(&mut self) -> Result<Bytes, Problem> {
        if self.body.is_end_stream() {
            return Ok(Bytes::new());
        }
        // Any other coding would have to be undone first: its bytes are not the body.
        if self.parts.headers.get_all(TRANSFER_ENCODING).iter().any(|coding| coding != "chunked") {
            return Err(Problem::new(
                Code::InvalidBody,
                "the only transfer coding that is understood is chunked",
            ));
        }
        // The declared length is looked at before the client is asked to go on (Expect: 100-continue).
        if self.body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(Problem::plain(Code::PayloadTooLarge));
        }
        let whole = Limited::new(&mut *self.body, BODY_BYTES_MAX).collect();
        match tokio::time::timeout(self.limits.body_read_time_max, whole).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::plain(Code::PayloadTooLarge)),
            Ok(Err(_)) => Err(Problem::plain(Code::InvalidBody)),
            Err(_) => Err(Problem::plain(Code::RequestTimeout)),
        }
    }

    /// Who asks: the request's id, and its idempotency key.
    fn origin(&self, scope: Scope<'_>, body: &[u8]) -> Result<Origin, Problem> {
        let binding =
            KeyBinding { scope, method: self.parts.method.as_str(), route: self.route.pattern, body };
        Ok(Origin {
            key: headers::idempotency_key(&self.parts.headers, &binding)?,
            request_id: self.request_id.as_str().into(),
        })
    }

    /// A reply that the client may have already.
    fn tagged(&self, etag: HeaderValue, caching: &'static str, write: impl FnOnce(&mut Vec<u8>)) -> Reply {
        let known = etag.to_str().is_ok_and(|etag| headers::if_none_match(&self.parts.headers, etag));
        let mut reply = if known {
            let mut reply = Response::new(Full::default());
            *reply.status_mut() = StatusCode::NOT_MODIFIED;
            reply
        } else {
            json_reply(StatusCode::OK, write)
        };
        reply.headers_mut().insert(ETAG, etag);
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        reply
    }
}

fn invalid_id(error: IdError) -> Problem {
    Problem::new(Code::InvalidId, format!("the id in the path {error}"))
}

fn metrics(metrics: &Metrics) -> Reply {
    let mut text = String::new();
    metrics.write(&mut text).expect("memory takes what is written to it");
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    fresh(reply)
}

/// Marks a reply that was given before.
fn marked<T>(mut reply: Reply, done: &Done<T>) -> Reply {
    if done.replayed {
        headers::mark_replayed(reply.headers_mut());
    }
    reply
}

/// Marks a reply that is true only now.
fn fresh(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn location(path: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut text = String::with_capacity(64);
    text.write_fmt(path).expect("memory takes what is written to it");
    HeaderValue::try_from(text).expect("an encoded path fits in a header")
}

fn json_reply(status: StatusCode, write: impl FnOnce(&mut Vec<u8>)) -> Reply {
    let mut out = Vec::with_capacity(REPLY_BYTES_TYPICAL);
    write(&mut out);
    json_bytes(status, out)
}

fn json_bytes(status: StatusCode, out: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(out)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
