//! What was: an account at a moment or a version, and statements.

use std::borrow::Cow;

use hyper::header::{CONTENT_DISPOSITION, HeaderValue, VARY};
use serde_json::{Value, json};

use crate::bank::{AccountSelector, PAGE_ENTRIES_MAX, Point};
use crate::clock;
use crate::http::call::Call;
use crate::http::headers;
use crate::http::operation::{BANK, EVERY, IF_NONE_MATCH, Operation, REFERRED, ReplyHeader, Success};
use crate::http::problem::{Code, Place, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::moments::{Moment, PointText};
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::statements::{self, PastAccount, PastAccountPage};
use crate::http::wire::{Account, AccountPage};
use crate::ledger::Timestamp;

const CSV: &str = "text/csv; charset=utf-8; header=present";
const TEXT: &str = "text/plain; charset=utf-8";

/// The representations of a statement as `Accept` names them; the first is that of clients who do not care.
const MEDIA_TYPES: [&str; 3] = ["application/json", "text/csv", "text/plain"];

pub(in crate::http) static STATEMENT: Operation = Operation {
    endpoint: Endpoint::Statement,
    id: "readStatement",
    summary: "Read an account's statement",
    details: "What changed the balance from one moment on and before another: opening balance, lines, closing \
        balance, which add up. As JSON, CSV or text: `format` says which, or else the Accept header. A statement \
        covers at most 10,000 entries of the account.",
    query: StatementQuery::SHAPE,
    headers: IF_NONE_MATCH,
    success: Success {
        status: 200,
        meaning: "The statement.",
        body: Some((JSON, statements::Statement::describe)),
        other_bodies: &[(CSV, any_text), (TEXT, any_text)],
        headers: &[ReplyHeader::ETag, ReplyHeader::CacheControl, ReplyHeader::Vary],
        headers_at_times: &[ReplyHeader::ContentDisposition],
        ..Success::EMPTY
    },
    problems: &[
        EVERY,
        BANK,
        REFERRED,
        &[Code::InvalidParameter, Code::StatementTooLong, Code::NotAcceptable],
    ],
    ..Operation::PLAIN
};

pub(super) fn any_text(_: &mut Schemas) -> Value {
    json!({ "type": "string" })
}

/// An account as it is now, or, with `at`, as it was.
pub(super) fn account_now_or_then(schemas: &mut Schemas) -> Value {
    json!({ "anyOf": [Account::describe(schemas), PastAccount::describe(schemas)] })
}

/// A page of accounts as they are now, or, with `at`, as they were.
pub(super) fn accounts_now_or_then(schemas: &mut Schemas) -> Value {
    json!({ "anyOf": [AccountPage::describe(schemas), PastAccountPage::describe(schemas)] })
}

parameters! {
    /// When.
    pub(super) struct AtQuery {
        /// The account as it was then: what had happened up to that moment, or up to that version. Without it, as it
        /// is now.
        at: Option<PointText>,
    }
}

parameters! {
    /// Which statement.
    struct StatementQuery {
        /// From this moment on, which must not be in the future. Without it from the account's opening, or from `to` if that
        /// is before.
        from: Option<Moment>,
        /// Before this moment, which must not be in the future; until now without it.
        to: Option<Moment>,
        /// How it is written. Without it the Accept header says.
        format: Option<Format>,
    }
}

/// How a statement is written: the place of its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format(usize);

/// In the order of the media types.
const FORMATS: [&str; 3] = ["json", "csv", "text"];

impl Describe for Format {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "enum": FORMATS })
    }
}

impl Parameter for Format {
    fn parse(text: &str) -> Result<Format, Cow<'static, str>> {
        let place = FORMATS.iter().position(|format| *format == text);
        place.map(Format).ok_or(Cow::Borrowed("must be json, csv or text"))
    }
}

impl Call<'_> {
    /// The account as it is now, or as it was.
    pub(super) async fn account_then(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let Some(PointText(point)) = AtQuery::read(query)?.at else {
            return self.account_now().await;
        };
        if let Point::Time(moment) = point {
            not_in_the_future("at", moment)?;
        }
        // A version never changes. A name may stop to find the account, and before a moment in the past the account
        // may not have been known; what is there stays.
        let caching = match (&account, point) {
            (AccountSelector::Id(_), Point::Version(_)) => Caching::Forever,
            _ => Caching::Ask,
        };
        let past = bank.account_at(account, point).await?;
        Ok(Content::json(&PastAccount::of(&past)).reply(self.headers(), caching))
    }

    pub(super) async fn statement(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let StatementQuery { from, to, format } = StatementQuery::read(query)?;
        let (from, to) = between(from, to)?;
        for (name, moment) in [("from", from), ("to", to)] {
            moment.map_or(Ok(()), |moment| not_in_the_future(name, moment))?;
        }
        let format = match format {
            Some(Format(place)) => place,
            None => headers::preferred(self.headers(), &MEDIA_TYPES)
                .ok_or_else(|| Problem::plain(Code::NotAcceptable))?,
        };
        self.look_for_room(PAGE_ENTRIES_MAX)?;
        let statement = bank.statement(account, from, to).await?;
        let content = match FORMATS[format] {
            "csv" => Content::new(CSV, statements::csv(&statement).into_bytes()),
            "text" => Content::new(TEXT, statements::plain_text(&statement).into_bytes()),
            _ => Content::json(&statements::Statement::of(&statement)),
        };
        let mut reply = content.reply(self.headers(), Caching::Ask);
        reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        if FORMATS[format] == "csv" {
            let name = format!("attachment; filename=\"statement-{}.csv\"", statement.account.id.to_uuid());
            let name = HeaderValue::try_from(name).expect("an id fits in a header");
            reply.headers_mut().insert(CONTENT_DISPOSITION, name);
        }
        Ok(reply)
    }
}

/// The bounds of a time, which must not end before it begins.
pub(super) fn between(
    from: Option<Moment>,
    to: Option<Moment>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), Problem> {
    let (from, to) = (from.map(Moment::ceiling), to.map(Moment::ceiling));
    if let (Some(from), Some(to)) = (from, to)
        && to < from
    {
        let place = Place::Parameter("to".into());
        return Err(Problem::at(Code::InvalidParameter, place, "must not be before from"));
    }
    Ok((from, to))
}

/// What has not been yet cannot be read.
pub(super) fn not_in_the_future(name: &'static str, moment: Timestamp) -> Result<(), Problem> {
    if moment > clock::now() {
        let place = Place::Parameter(name.into());
        return Err(Problem::at(Code::InvalidParameter, place, "must not be in the future"));
    }
    Ok(())
}
