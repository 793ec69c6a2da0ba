//! Holds: placed, read, captured, voided.

use hyper::StatusCode;
use hyper::header::LOCATION;

use super::pages::{Cursor, PageLimit, Pages, listed};
use super::transfers::{DryRun, DryRunQuery, MADE, made};
use crate::bank::{AccountSelector, KeyHome};
use crate::http::call::Call;
use crate::http::idempotency::Scope;
use crate::http::operation::{
    BANK, CHANGE, EVERY, HOLD, IF_NONE_MATCH, JSON_BODY, KEYED, MOVING, Operation, REFERRED, ReplyHeader,
    RequestBody, Success,
};
use crate::http::problem::{Code, Problem};
use crate::http::query::{Query, parameters};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::holds::{CaptureRequest, HoldPage, HoldRequest, HoldResource, VoidRequest};
use crate::http::wire::read::{read_body, read_optional_body};
use crate::http::wire::schema::Describe;
use crate::http::wire::transfers::{conditions, note};
use crate::http::wire::values::Flag;
use crate::ledger::operation::Operation as LedgerOperation;

pub(in crate::http) static PLACE: Operation = Operation {
    endpoint: Endpoint::Hold,
    id: "hold",
    summary: "Reserve money",
    details: "It stays in the account but is not available, until it is captured, voided, or its time is over. Its \
        `reference` and `metadata` are kept with the transaction that this is: `transaction_id` of the reply. A dry \
        run says what would happen, changes nothing, and is answered with 200. What overdraft protection pulls for the hold is \
        a transaction of its own before it, which no reply shows, a dry run's neither, but the account's version counts.",
    query: DryRunQuery::SHAPE,
    headers: KEYED,
    request: Some(RequestBody::json::<HoldRequest>()),
    success: Success {
        status: 201,
        meaning: "The hold, as it was placed.",
        body: Some((JSON, HoldResource::describe)),
        ..MADE
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, MOVING, &[Code::HoldsExhausted, Code::InvalidParameter]],
    leads_to: &[
        ("readHold", "hold", "$response.body#/id"),
        ("captureHold", "hold", "$response.body#/id"),
        ("voidHold", "hold", "$response.body#/id"),
    ],
};

pub(in crate::http) static READ: Operation = Operation {
    endpoint: Endpoint::ReadHold,
    id: "readHold",
    summary: "Read a hold",
    details: "Its reference and metadata are in the transaction that placed it, `GET /v2/transactions/{id}`: the reply to that \
        had its id as `transaction_id`, and the account's history has it, with the `hold_id` (`types=hold`). \
        One that ended more than a day ago, or before a million others of its shard, is looked for in its account's \
        history. If that has a great many entries, 503 `overloaded` says that the search is not at its end; the next \
        request goes on with it.",
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "The hold as it is now.",
        body: Some((JSON, HoldResource::describe)),
        ..Success::READ
    },
    problems: &[EVERY, BANK, HOLD],
    ..Operation::PLAIN
};

pub(in crate::http) static LIST: Operation = Operation {
    endpoint: Endpoint::Holds,
    id: "listHolds",
    summary: "Read an account's holds",
    details: "Those that are pending, or ended within a day and among the last million of their shard, the oldest first; \
        page by page: `next`, and the Link header, lead on. A page looks at a bounded number of holds, so it may have few, \
        even none, and still a next one.",
    query: HoldsQuery::SHAPE,
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "A page of the holds.",
        body: Some((JSON, HoldPage::describe)),
        headers_at_times: &[ReplyHeader::Link],
        ..READ.success
    },
    problems: &[EVERY, BANK, REFERRED, &[Code::InvalidParameter, Code::InvalidCursor]],
    ..Operation::PLAIN
};

parameters! {
    /// Which holds.
    struct HoldsQuery {
        /// Only those that are pending, or only those that ended.
        pending: Option<Flag>,
        /// How many holds the page has at most.
        limit: PageLimit,
        /// Where to go on: `next` of the page before, as it came, with the same `pending`.
        cursor: Option<Cursor>,
    }
}

pub(in crate::http) static CAPTURE: Operation = Operation {
    endpoint: Endpoint::Capture,
    id: "captureHold",
    summary: "Pay out what a hold reserves",
    details: "All of it, or `amount`, and then the rest is released. The body may be left away.",
    headers: KEYED,
    request: Some(RequestBody::json::<CaptureRequest>().optional()),
    success: MADE,
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, HOLD, MOVING, &[Code::HoldEnded, Code::HoldExceeded]],
    ..Operation::PLAIN
};

pub(in crate::http) static VOID: Operation = Operation {
    endpoint: Endpoint::Void,
    id: "voidHold",
    summary: "Give a hold up",
    details: "The body may be left away.",
    headers: KEYED,
    request: Some(RequestBody::json::<VoidRequest>().optional()),
    success: MADE,
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, HOLD, MOVING, &[Code::HoldEnded]],
    ..Operation::PLAIN
};

/// The accounts that the end of a hold is about, in their order.
const PARTIES_OF_A_HOLD: [&str; 2] = ["the one whose money is held", "the one that is to be paid"];

impl Call<'_> {
    pub(super) async fn place_hold(&mut self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let DryRunQuery { dry_run: DryRun(dry_run) } = DryRunQuery::read(query)?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Collection("holds"), &body)?;
        let hold: HoldRequest = read_body(&body)?;
        let conditions = conditions(bank, hold.conditions.as_ref());
        let done = bank.operate(hold.to_operation(bank), conditions, KeyHome::Key, dry_run, origin).await;
        let done = done.map_err(|refusal| Problem::from(refusal).pointing(|party| hold.pointer(party)))?;
        let resource = HoldResource::placed(&done.value, dry_run);
        if dry_run {
            return Ok(reply::json(StatusCode::OK, &resource));
        }
        let mut reply = reply::json(StatusCode::CREATED, &resource);
        let id = resource.id.expect("a hold that was placed has an id").0;
        reply.headers_mut().insert(LOCATION, reply::location_of("/v2/holds/", id));
        Ok(reply::marked(reply, &done))
    }

    pub(super) async fn read_hold(&self) -> Result<Reply, Problem> {
        let hold = self.bank()?.hold(self.hold_id()?).await?;
        Ok(Content::json(&HoldResource::of(&hold)).reply(self.headers(), Caching::Ask))
    }

    pub(super) async fn holds(&self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let account = self.account()?;
        let HoldsQuery { pending, limit: PageLimit(limit), cursor } = HoldsQuery::read(query)?;
        let id = listed(bank, account).await?;
        let path = format!("/v2/accounts/{}/holds", id.to_uuid());
        self.look_for_room(limit)?;
        let pages = Pages::of(query, path, limit, None);
        let from =
            pages.start(cursor.as_ref())?.map_or(0, |version| u32::try_from(version).unwrap_or(u32::MAX));
        let page = bank.holds(AccountSelector::Id(id), from, limit, pending.map(|flag| flag.0)).await?;
        Ok(pages.reply(self.headers(), cursor.as_ref(), page.next.map(u64::from), |next, links| {
            let items = page.holds.iter().map(HoldResource::of).collect();
            Content::json(&HoldPage { count: page.holds.len() as u64, items, next, links })
        }))
    }

    pub(super) async fn capture_hold(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let hold = self.hold_id()?;
        let body = self.read_taken().await?;
        let CaptureRequest { amount, reference, metadata } = read_optional_body(&body)?;
        let (amount, note) = (amount.map(|amount| amount.0), note(&reference, &metadata));
        self.end_hold(LedgerOperation::Capture { hold, amount, note }, &body).await
    }

    pub(super) async fn void_hold(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let hold = self.hold_id()?;
        let body = self.read_taken().await?;
        let VoidRequest { reference, metadata } = read_optional_body(&body)?;
        self.end_hold(LedgerOperation::Void { hold, note: note(&reference, &metadata) }, &body).await
    }

    async fn end_hold(&self, operation: LedgerOperation, body: &[u8]) -> Result<Reply, Problem> {
        let hold = self.hold_id()?;
        let origin = self.origin(Scope::Hold(&hold.to_uuid().to_string()), body)?;
        let home = KeyHome::Shard(hold.shard);
        let done = self.bank()?.operate(operation, Vec::new(), home, false, origin).await;
        let done =
            done.map_err(|refusal| Problem::from(refusal).pointing_to_amount().naming(&PARTIES_OF_A_HOLD))?;
        Ok(made(&done, false))
    }
}
