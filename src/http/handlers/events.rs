//! Events: what happened to all accounts, page by page or as it happens.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::transactions::Types;
use crate::bank::events::{EventFilter, Position};
use crate::bank::{AccountSelector, Bank, PAGE_ENTRIES_MAX, Refusal};
use crate::http::call::Call;
use crate::http::headers;
use crate::http::operation::{BANK, EVERY, Operation, ReplyHeader, RequestHeader, Success};
use crate::http::problem::{Code, Place, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{self, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::stream::{FRAME_BYTES_MAX, StreamWriter};
use crate::http::wire::detail::TransactionDetail;
use crate::http::wire::events::{
    Cursor, EventPage, describe_stream, parse_cursor, write_event, write_position,
};
use crate::http::wire::links::PageLinks;
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::values::{NAME_PREFIX, parse_reference};
use crate::http::wire::write::Text;

/// How many events a page has if the client does not say.
const PAGE_EVENTS_DEFAULT: usize = 100;

/// How many accounts a reader names at most. Each event is compared with all of them.
const ACCOUNTS_MAX: usize = 16;

/// How many events a stream reads at a time, and sends in one chunk if they are as small as most: some 50 kB.
const CHUNK_EVENTS_MAX: usize = 100;

/// How long a stream lets events gather once it was woken, so that under load it reads them by the hundred and not
/// by the commit.
const GATHER_TIME: Duration = Duration::from_millis(5);

/// How long a stream waits when too many others read.
const OVERLOADED_PAUSE: Duration = Duration::from_millis(250);

/// After how many milliseconds a client should come back when its stream has ended.
const RETRY_MS: u32 = 1000;

const EVENT_STREAM: &str = "text/event-stream";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(in crate::http) static LIST: Operation = Operation {
    endpoint: Endpoint::Events,
    id: "listEvents",
    summary: "Read what happened, page by page or live",
    details: "All events of all accounts, in an order that is the same for everyone: what could have led to \
        something comes before it. Without `after` from the first. `next` goes on, from the last page too; it never expires, and the filter \
        may change on the way.\n\n\
        With `Accept: text/event-stream` the same events come as they happen. The `id` of each is the cursor behind \
        it: a client that lost its stream sends the last as `Last-Event-ID`, which counts more than `after`, and \
        misses nothing and gets nothing twice. A reader that does not follow is cut off and comes back in the same way. \
        With `limit` the stream ends after so many events.",
    query: EventsQuery::SHAPE,
    headers: &[RequestHeader::LastEventId],
    success: Success {
        status: 200,
        meaning: "Events.",
        body: Some((JSON, EventPage::describe)),
        other_bodies: &[(EVENT_STREAM, describe_stream)],
        headers: &[ReplyHeader::CacheControl],
        headers_at_times: &[ReplyHeader::Link],
        ..Success::EMPTY
    },
    problems: &[
        EVERY,
        BANK,
        &[
            Code::InvalidParameter,
            Code::InvalidCursor,
            Code::AccountNotFound,
            Code::NotAcceptable,
            Code::TooManyStreams,
        ],
    ],
    ..Operation::PLAIN
};

parameters! {
    /// Which events, and from where.
    struct EventsQuery {
        /// Where to go on: `next` of a page, or the `id` of an event; or `now`, behind all that has happened.
        after: Option<After>,
        /// Only events of these accounts, at most 16, separated by commas or one a parameter. A comma in a name is
        /// written %2C: who encodes all commas names each account in a parameter of its own, unless by id. Closed
        /// accounts are found by name, too.
        account: Accounts,
        /// Only events of these types, separated by commas or one a parameter.
        types: Option<Types>,
        /// How many events the page has at most; or after how many the stream ends.
        limit: Option<Limit>,
    }
}

impl Call<'_> {
    pub(super) async fn events(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let EventsQuery { after, account: Accounts(accounts), types, limit } = EventsQuery::read(query)?;
        let kinds = types.map(|Types(types)| types).unwrap_or_default();
        let limit = limit.map(|Limit(limit)| limit);
        let offered = [JSON, EVENT_STREAM];
        let preferred = headers::preferred(self.headers(), &offered);
        let is_stream =
            offered[preferred.ok_or_else(|| Problem::plain(Code::NotAcceptable))?] == EVENT_STREAM;
        let position = self.position(bank, after, is_stream)?;
        let mut filter = EventFilter { accounts: Vec::with_capacity(accounts.len()), kinds };
        for account in accounts {
            // A reader that comes back names accounts that may have been closed meanwhile, as the last of their events.
            let found = bank.account_id(account.clone()).await;
            filter.accounts.push(found.map_err(|refusal| not_found(&account, refusal))?);
        }
        if is_stream {
            return self.event_stream(bank, position, filter, limit);
        }
        self.event_page(bank, position, filter, limit.unwrap_or(PAGE_EVENTS_DEFAULT)).await
    }

    /// Where the reader is.
    fn position(&self, bank: &Bank, after: Option<After>, is_stream: bool) -> Result<Position, Problem> {
        let invalid = |place, detail| Problem::at(Code::InvalidCursor, place, detail);
        let mut ids = self.headers().all.get_all(&LAST_EVENT_ID).iter();
        let (place, cursor) = match (ids.next(), ids.next()) {
            (Some(id), None) if is_stream => {
                // A browser comes back to the address that it began with, `after` and all: the header is newer.
                let text = id.to_str().unwrap_or_default();
                (Place::Header("Last-Event-ID"), text.to_owned())
            }
            (None, _) => match after {
                None => return Ok(bank.beginning()),
                Some(After::Now) => return Ok(bank.present()),
                Some(After::Cursor(text)) => (Place::Parameter("after".into()), text),
            },
            (_, more) => {
                let detail =
                    if more.is_some() { "must be sent once" } else { "is for streams; a page takes after" };
                return Err(invalid(Place::Header("Last-Event-ID"), detail));
            }
        };
        parse_cursor(&cursor)
            .filter(|position| bank.feed(position).is_some())
            .ok_or_else(|| invalid(place, "is not one that this ledger has given"))
    }

    async fn event_page(
        &self,
        bank: &Bank,
        from: Position,
        filter: EventFilter,
        limit: usize,
    ) -> Result<Reply, Problem> {
        let feed = bank.feed(&from).expect("the position was checked");
        let filter = Arc::new(filter);
        self.look_for_room(limit)?;
        let (feed, page) = bank.read_events(feed, &filter, limit).await?;
        let next = Cursor(&feed.position()).to_string();
        let address = |cursor: &dyn std::fmt::Display| address(&filter, limit, cursor);
        let links = PageLinks { this: address(&Cursor(&from)), next: Some(address(&next)) };
        let link = links.header();
        let mut reply = reply::fresh(&EventPage {
            count: page.events.len() as u64,
            items: page.events.iter().map(|event| TransactionDetail::event(&event.executed)).collect(),
            next: Text(&next),
            more: page.more,
            links,
        });
        reply.headers_mut().extend(link.map(|link| (LINK, link)));
        Ok(reply)
    }

    fn event_stream(
        &self,
        bank: &Arc<Bank>,
        position: Position,
        filter: EventFilter,
        limit: Option<usize>,
    ) -> Result<Reply, Problem> {
        let limits = self.limits;
        let (writer, body) = self.api.streams.begin(limits.streams_max, limits.stream_stall_time_max)?;
        let mut reply = reply::new(StatusCode::OK, body);
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.parts.method != Method::HEAD {
            let follower = Follower {
                bank: Arc::clone(bank),
                filter: Arc::new(filter),
                position,
                left: limit.unwrap_or(usize::MAX),
                heartbeat: limits.stream_heartbeat,
                said: Instant::now(),
            };
            tokio::spawn(follower.run(writer, self.request_id.as_str().to_owned()));
        }
        Ok(reply)
    }
}

/// A reader of a stream.
struct Follower {
    bank: Arc<Bank>,
    filter: Arc<EventFilter>,
    /// Behind all that it was told.
    position: Position,
    /// How many events it still wants.
    left: usize,
    heartbeat: Duration,
    /// When it was last told something.
    said: Instant,
}

impl Follower {
    async fn run(mut self, writer: StreamWriter, request_id: String) {
        tokio::select! {
            () = writer.is_over() => {}
            result = self.follow(&writer) => {
                if let Err(Refusal::Storage(error)) = result {
                    tracing::error!(request_id, "a stream ends: {error}");
                }
            }
        }
    }

    /// Tells the reader what there is and what comes, until it wants no more or does not take it.
    async fn follow(&mut self, writer: &StreamWriter) -> Result<(), Refusal> {
        let mut hello = format!("retry: {RETRY_MS}\n").into_bytes();
        write_position(&mut hello, &self.position);
        if !self.tell(writer, hello, 0).await {
            return Ok(());
        }
        let bank = Arc::clone(&self.bank);
        loop {
            let mut feed = bank.feed(&self.position).ok_or(Refusal::Ended)?;
            loop {
                let mut moved_on = pin!(bank.any_moved_on().notified());
                // From here on nothing is missed.
                moved_on.as_mut().enable();
                let count = self.left.min(CHUNK_EVENTS_MAX);
                let page = match bank.read_events(feed, &self.filter, count).await {
                    Ok((back, page)) => {
                        feed = back;
                        page
                    }
                    Err(Refusal::Overloaded) => break,
                    Err(refusal) => return Err(refusal),
                };
                self.position = feed.position();
                let mut events = page.events.iter();
                while events.len() > 0 {
                    let (before, mut chunk) = (events.len(), Vec::new());
                    while chunk.len() < FRAME_BYTES_MAX
                        && let Some(event) = events.next()
                    {
                        write_event(&mut chunk, event);
                    }
                    let told = before - events.len();
                    self.left -= told;
                    if !self.tell(writer, chunk, told).await || self.left == 0 {
                        return Ok(());
                    }
                }
                if !page.more {
                    tokio::select! {
                        () = moved_on => tokio::time::sleep(GATHER_TIME).await,
                        () = tokio::time::sleep_until(self.said + self.heartbeat) => {}
                    }
                }
                if self.said.elapsed() >= self.heartbeat {
                    let mut heartbeat = Vec::new();
                    write_position(&mut heartbeat, &self.position);
                    if !self.tell(writer, heartbeat, 0).await {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(OVERLOADED_PAUSE).await;
        }
    }

    async fn tell(&mut self, writer: &StreamWriter, chunk: Vec<u8>, events: usize) -> bool {
        self.said = Instant::now();
        writer.send(chunk, events).await
    }
}

/// The refusal to look for events of an account that is not there.
fn not_found(account: &AccountSelector, refusal: Refusal) -> Problem {
    let problem = Problem::from(refusal);
    if problem.code != Code::AccountNotFound {
        return problem;
    }
    let account = match account {
        AccountSelector::Name(name) => format!("{NAME_PREFIX}{}", &**name),
        AccountSelector::Id(id) => id.to_uuid().to_string(),
    };
    let detail = format!("names an account that is not there: {account}");
    Problem::at(Code::AccountNotFound, Place::Parameter("account".into()), detail)
}

/// The address of a page.
fn address(filter: &EventFilter, limit: usize, cursor: &dyn std::fmt::Display) -> String {
    let mut address = format!("/v2/events?limit={limit}");
    let mut list = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            address += &format!("&{name}={}", values.join(","));
        }
    };
    list("account", filter.accounts.iter().map(|account| account.to_uuid().to_string()).collect());
    list("types", filter.kinds.iter().map(|kind| kind.name().to_owned()).collect());
    address += &format!("&after={cursor}");
    address
}

/// Where to go on.
enum After {
    Now,
    /// A cursor, still text: whether it is one of this ledger the bank knows.
    Cursor(String),
}

impl Describe for After {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "anyOf": [{ "const": "now" }, { "pattern": "^[A-Za-z0-9_-]+$" }] })
    }
}

impl Parameter for After {
    fn parse(text: &str) -> Result<After, Cow<'static, str>> {
        Ok(if text == "now" { After::Now } else { After::Cursor(text.to_owned()) })
    }
}

/// Accounts.
struct Accounts(Vec<AccountSelector>);

impl Describe for Accounts {
    fn describe(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "maxItems": ACCOUNTS_MAX, "items": AccountSelector::describe(schemas) })
    }
}

impl Parameter for Accounts {
    const LISTED: bool = true;

    fn parse_list(values: &[Cow<'_, str>]) -> Result<Accounts, Cow<'static, str>> {
        // A name may have commas, an id has none.
        let references = values
            .iter()
            .flat_map(|value| value.splitn(if value.starts_with(NAME_PREFIX) { 1 } else { usize::MAX }, ','));
        let accounts = references
            .map(|reference| parse_reference(reference).map_err(|error| Cow::from(error.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        if accounts.len() > ACCOUNTS_MAX {
            return Err(
                format!("names {} accounts; at most {ACCOUNTS_MAX} are allowed", accounts.len()).into()
            );
        }
        Ok(Accounts(accounts))
    }

    fn absent() -> Option<Accounts> {
        Some(Accounts(Vec::new()))
    }
}

/// How many events at most.
struct Limit(usize);

impl Describe for Limit {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 1, "maximum": PAGE_ENTRIES_MAX })
    }
}

impl Parameter for Limit {
    fn parse(text: &str) -> Result<Limit, Cow<'static, str>> {
        Some(text)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|limit| (1..=PAGE_ENTRIES_MAX).contains(limit))
            .map(Limit)
            .ok_or_else(|| format!("must be a number from 1 to {PAGE_ENTRIES_MAX}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HEAD_BYTES_MAX, URI_BYTES_MAX};
    use crate::ledger::{AccountId, SHARDS_MAX, Sequence, TransactionType};

    /// From some 600 shards on, `next` was an address that the service itself refused: 414.
    #[test]
    fn the_address_of_a_next_page_fits_whatever_the_filter_with_however_many_shards() {
        let longest = |shards: usize, passed: u64| {
            let position = Position::new(vec![Sequence::new(passed).expect("in range"); shards]);
            let account = AccountId::parse("019aab5e-8c00-8400-8000-000000000000");
            let filter = EventFilter {
                accounts: vec![account.expect("an account's id"); ACCOUNTS_MAX],
                kinds: TransactionType::ALL.to_vec(),
            };
            let cursor = Cursor(&position).to_string();
            (address(&filter, PAGE_ENTRIES_MAX, &cursor).len(), cursor.len())
        };
        let (address, cursor) = longest(SHARDS_MAX, (1 << 35) - 1);
        assert!(cursor == 6836 && address <= URI_BYTES_MAX, "{address} {cursor}");
        assert!(address + cursor + 1900 < HEAD_BYTES_MAX, "and comes a second time, with what browsers add");
        assert!(longest(619, Sequence::MAX.get()).0 <= URI_BYTES_MAX);
        // As the documents have it.
        assert!(longest(SHARDS_MAX, 1 << 35).0 > URI_BYTES_MAX);
        assert!(longest(620, Sequence::MAX.get()).0 > URI_BYTES_MAX);
    }
}
