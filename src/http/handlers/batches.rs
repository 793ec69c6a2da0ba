//! Batches: many operations in one request.

use std::borrow::Cow;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::bank::{
    self, BATCH_ATOMIC_ITEMS_MAX, BATCH_ITEMS_MAX, Bank, BatchItems, BatchRefusal, BatchResult, Done,
    Executed, Origin,
};
use crate::http::call::Call;
use crate::http::headers;
use crate::http::idempotency::{self, Scope};
use crate::http::operation::{
    BANK, CHANGE, EVERY, JSON_BODY, KEYED, Operation, ReplyHeader, RequestBody, Success,
};
use crate::http::problem::{Code, Party, Place, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{self, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::Account;
use crate::http::wire::batches::{
    Batch, BatchItem, BatchReply, ItemBody, ItemResult, Lines, RawItem, problem_body, read_item,
};
use crate::http::wire::detail::TransactionDetail;
use crate::http::wire::holds::HoldResource;
use crate::http::wire::read::read_body;
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::values::Flag;
use crate::http::wire::write::Write;
use crate::ledger::{Kind, Quantity};

/// The longest body of a batch, in bytes.
pub(in crate::http) const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many items a batch may have without a place among those with large bodies. An item of three bytes has a result of
/// hundreds, so it is not the body alone that says what a batch comes to.
const SMALL_BATCH_ITEMS_MAX: usize = 1000;

/// How many bytes the result of an item takes at most, besides what it repeats of the item: as many fields may be wrong as
/// are told, and an account with its links and limits takes half of it.
const RESULT_BYTES_MAX: usize = 3 * 1024;

/// The same of a plain transfer that is refused: nothing of it is repeated, and its party alone may be wrong.
const PLAIN_REFUSAL_BYTES_MAX: usize = 1024;

/// How many bytes an item takes while it waits for its shard, more or less: itself, and what it needs.
const ITEM_BYTES: usize = 512;

/// How many bytes of a result come of each byte of its item at most: a leg of 33 bytes becomes an account of 150, and of 250
/// if it has as much money and as many limits as there can be.
const RESULT_BYTES_PER_BYTE: usize = 8;

/// The media type of a batch with one item a line.
pub(in crate::http) const NDJSON: &str = "application/x-ndjson";

pub(in crate::http) static EXECUTE: Operation = Operation {
    endpoint: Endpoint::Batch,
    id: "executeBatch",
    summary: "Execute many operations",
    details: "At most 10,000 in 8 MiB, one after the other in their order; each has a result of its own. An item \
        that is refused, also for lack of room (503), does not keep later ones from being executed. Instead of \
        the JSON object, `application/x-ndjson` has one item a line; `atomic` is a query parameter then. An item may \
        have an idempotency `key` of its own: if an earlier request has ended it, or the same item earlier in the batch, \
        that end counts, also if the others are to be all or nothing. The batch's `Idempotency-Key` counts for all of it. \
        When many large batches come, each may wait up to 2 seconds before it begins, so that the service keeps up with \
        its snapshots; one that would wait longer is refused with 503 `overloaded`. So is one of more than 64 KiB or 1,000 \
        items while the service works on 64 of those; and one whose results might have no room beside other large replies \
        that are made or read, for which 3 KiB an item and eight times the body are counted; with `results=refused` 1 \
        KiB for each line that is a plain transfer, with `results=none` 512 bytes an item.",
    query: BatchQuery::SHAPE,
    headers: KEYED,
    request: Some(RequestBody::json::<Batch>().or(&[(NDJSON, describe_lines)]).up_to(BATCH_BYTES_MAX)),
    success: Success {
        status: 200,
        meaning: "What became of the items.",
        body: Some((JSON, BatchReply::describe)),
        headers: &[],
        headers_at_times: &[ReplyHeader::IdempotentReplayed],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, &[Code::BatchTooLarge, Code::InvalidParameter]],
    ..Operation::PLAIN
};

fn describe_lines(_: &mut Schemas) -> Value {
    let first = r#"{"type":"deposit","account":"name:alice","amount":"12.34"}"#;
    json!({ "type": "string", "description": "Lines, each a `BatchItem`.", "examples": [format!("{first}\n")] })
}

parameters! {
    /// How a batch is to be taken.
    struct BatchQuery {
        /// Which results the reply has: of all items, of those that were refused, or none.
        results: Results,
        /// All or nothing. With a JSON object, that has to say the same if it says anything.
        atomic: Option<Flag>,
    }
}

/// Which results a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Results {
    All,
    Refused,
    None,
}

impl Describe for Results {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "enum": ["all", "refused", "none"], "default": "all" })
    }
}

impl Parameter for Results {
    fn parse(text: &str) -> Result<Results, Cow<'static, str>> {
        match text {
            "all" => Ok(Results::All),
            "refused" => Ok(Results::Refused),
            "none" => Ok(Results::None),
            _ => Err("must be all, refused or none".into()),
        }
    }

    fn absent() -> Option<Results> {
        Some(Results::All)
    }
}

impl Parameter for Flag {
    fn parse(text: &str) -> Result<Flag, Cow<'static, str>> {
        match text {
            "true" => Ok(Flag(true)),
            "false" => Ok(Flag(false)),
            _ => Err("must be true or false".into()),
        }
    }

    fn absent() -> Option<Flag> {
        Some(Flag(false))
    }
}

impl Call<'_> {
    pub(super) async fn batch(&mut self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let BatchQuery { results: wanted, atomic } = BatchQuery::read(query)?;
        let asked_atomic = atomic.is_some_and(|flag| flag.0);
        let body = self.read_taken().await?;
        let batch;
        let is_lines = headers::is_media_type(self.headers(), NDJSON);
        let (read, atomic) = if is_lines {
            (ReadItems::of_lines(&body, bank)?, asked_atomic)
        } else {
            batch = read_body::<Batch>(&body)?;
            let mut read = ReadItems::expecting(batch.items.0.len());
            batch.items.0.iter().for_each(|RawItem(raw)| read.item(raw, bank));
            (read, atomic_of(atomic, batch.atomic)?)
        };
        let ReadItems { raws: items, places, items: read, mut refusals, plain, plain_bytes } = read;
        // Only a key's request is told from others by its body. The same bytes may be one batch as JSON and another one line
        // by line; and what of them can be read may change with a restart with other settings.
        let mut fingerprint = Vec::new();
        if idempotency::is_sent(self.headers()) {
            fingerprint.push(u8::from(asked_atomic) | u8::from(is_lines) << 1);
            fingerprint.extend_from_slice(&body);
            fingerprint.extend(refusals.iter().flat_map(|(place, _)| (*place as u32).to_le_bytes()));
        }
        // Its items may have keys of their own.
        let request_id = self.request_id.as_str().into();
        let origin = Origin { request_id, ..self.origin(Scope::Collection("batches"), &fingerprint)? };
        if items.len() > SMALL_BATCH_ITEMS_MAX {
            self.take_large_body_place()?;
        }
        let reply_bytes_max = match wanted {
            Results::All => items.len() * RESULT_BYTES_MAX + body.len() * RESULT_BYTES_PER_BYTE,
            Results::Refused => {
                plain * PLAIN_REFUSAL_BYTES_MAX
                    + (items.len() - plain) * RESULT_BYTES_MAX
                    + (body.len() - plain_bytes) * RESULT_BYTES_PER_BYTE
            }
            // Nothing is told of them, but they wait in the inboxes, where a batch counts as one request.
            Results::None => RESULT_BYTES_MAX + items.len() * ITEM_BYTES,
        };
        self.take_reply_room(reply_bytes_max)?;
        if atomic && items.len() > BATCH_ATOMIC_ITEMS_MAX {
            return Err(Problem::plain(Code::BatchTooLarge));
        }
        let mut shown = Vec::new();
        let mut first_request_id = None;
        if atomic && !refusals.is_empty() {
            // One of them cannot be executed, so none is.
            refusals.extend(places.into_iter().map(|place| (place, Problem::plain(Code::NotAttempted))));
        } else if !read.is_empty() {
            let outcome = bank.batch(read, atomic, wanted == Results::All, origin).await;
            let outcome = outcome.map_err(|refusal| match refusal {
                BatchRefusal::TooLarge => Problem::plain(Code::BatchTooLarge),
                BatchRefusal::Refused(refusal) => refusal.into(),
            })?;
            first_request_id = outcome.first_request_id;
            for (place, result) in outcome.results {
                let place = places[place];
                match result {
                    BatchResult::Done(done) if wanted == Results::All => {
                        shown.push(executed(place, &done, bank));
                    }
                    BatchResult::Done(_) => {}
                    BatchResult::Refused(refusal) => {
                        let problem = Problem::from(refusal).pointing(|party| pointer(items[place], party));
                        let problem = match problem.code {
                            Code::TooManyDecimals => problem.pointing_to_limits(limits(items[place])),
                            _ => problem,
                        };
                        refusals.push((place, problem));
                    }
                    BatchResult::NotAttempted => refusals.push((place, Problem::plain(Code::NotAttempted))),
                }
            }
        }
        let (count, refused_count) = (items.len() as u64, refusals.len() as u64);
        if wanted != Results::None {
            // A repeated reply is the first one, to the letter.
            let request_id = first_request_id.as_deref().unwrap_or(self.request_id.as_str());
            shown.extend(refusals.iter().map(|(place, problem)| refused(*place, problem, request_id)));
            shown.sort_by_key(|result| result.index);
        }
        let executed = count - refused_count;
        let reply = BatchReply { count, executed, refused: refused_count, results: shown };
        let room = self.claims.take().and_then(|claims| claims.room);
        let reply = reply::json(StatusCode::OK, &reply);
        // Not in release builds: what has been executed is to be told, however long that is.
        debug_assert!(
            reply.body().bytes_without_room() <= reply_bytes_max,
            "it takes no more than was expected"
        );
        let reply = reply.map(|body| body.keeping(room));
        Ok(reply::marked(reply, &Done { value: (), replayed: first_request_id.is_some() }))
    }
}

/// The items of a batch, as far as they have been read.
struct ReadItems<'a> {
    /// All of them.
    raws: Vec<&'a str>,
    /// Those that can be executed.
    items: BatchItems,
    /// Their places among all.
    places: Vec<usize>,
    /// The others, by place.
    refusals: Vec<(usize, Problem)>,
    /// How many are plain transfers, and how many bytes of the body those are.
    plain: usize,
    plain_bytes: usize,
}

impl<'a> ReadItems<'a> {
    /// None so far, with room for so many.
    fn expecting(items: usize) -> ReadItems<'a> {
        ReadItems {
            raws: Vec::with_capacity(items),
            items: BatchItems::expecting(items),
            places: Vec::with_capacity(items),
            refusals: Vec::new(),
            plain: 0,
            plain_bytes: 0,
        }
    }

    /// Reads a body with one item a line.
    fn of_lines(body: &'a [u8], bank: &Bank) -> Result<ReadItems<'a>, Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let detail = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
            Problem::new(Code::MalformedJson, detail)
        })?;
        // As many as there are if all lines are as long as the first. To count them would take a pass over all.
        let first = Lines::of(text).next().map_or(text, |line| line.raw);
        let expected = text.len() / (first.len() + 1) + 1;
        let mut read = ReadItems::expecting(expected.min(BATCH_ITEMS_MAX));
        for line in Lines::of(text).take(BATCH_ITEMS_MAX + 1) {
            match line.plain_operation(bank) {
                Some(operation) => {
                    let item = bank::BatchItem { operation, conditions: Vec::new(), key: None };
                    read.plain += 1;
                    read.plain_bytes += line.raw.len();
                    read.add(line.raw, item, bank);
                }
                None => read.item(line.raw, bank),
            }
        }
        match read.raws.len() {
            0 => Err(wrong_body("has 0 items; at least 1 is needed".to_owned())),
            count if count > BATCH_ITEMS_MAX => {
                Err(wrong_body(format!("has more than {BATCH_ITEMS_MAX} items; at most so many are allowed")))
            }
            _ => Ok(read),
        }
    }

    /// Reads an item.
    fn item(&mut self, raw: &'a str, bank: &Bank) {
        match read_item(raw) {
            Ok((item, key)) => {
                let (operation, conditions) = item.to_operation(bank);
                let key = key.map(|key| idempotency::item_key(&key, raw));
                self.add(raw, bank::BatchItem { operation, conditions, key }, bank);
            }
            Err(problem) => {
                self.refusals.push((self.raws.len(), problem));
                self.raws.push(raw);
            }
        }
    }

    fn add(&mut self, raw: &'a str, item: bank::BatchItem, bank: &Bank) {
        self.items.push(item, bank);
        self.places.push(self.raws.len());
        self.raws.push(raw);
    }
}

/// The refusal of lines that are no batch as a whole.
fn wrong_body(detail: String) -> Problem {
    Problem::at(Code::InvalidRequest, Place::Pointer("".into()), detail)
}

fn atomic_of(query: Option<Flag>, body: Option<Flag>) -> Result<bool, Problem> {
    match (query, body) {
        (Some(query), Some(body)) if query != body => Err(Problem::at(
            Code::InvalidParameter,
            Place::Parameter("atomic".into()),
            "contradicts the body",
        )),
        (query, body) => Ok(query.or(body).is_some_and(|flag| flag.0)),
    }
}

/// Where in an item stands what has met a refusal. Refusals are few: those items are read again rather than all kept.
fn pointer(raw: &str, party: Party) -> Cow<'static, str> {
    read_item(raw).map_or("".into(), |(item, _)| item.into_pointer(party))
}

/// The limits of an account that an item opens.
fn limits(raw: &str) -> impl IntoIterator<Item = (&'static str, Option<Quantity>)> + use<> {
    let open = match read_item(raw) {
        Ok((BatchItem::Open(open), _)) => Some(open),
        _ => None,
    };
    open.into_iter().flat_map(|open| open.limits())
}

fn refused(index: usize, problem: &Problem, request_id: &str) -> ItemResult {
    let status = problem.code.status().as_u16();
    ItemResult { index, status, replayed: problem.is_repeated(), body: problem_body(problem, request_id) }
}

fn executed(index: usize, done: &Done<Executed>, bank: &Bank) -> ItemResult {
    let mut json = Vec::new();
    match done.value.decision.kind {
        Kind::Opening => Account::opened(&bank.opened(&done.value)).write(&mut json),
        Kind::Hold => HoldResource::placed(&done.value, false).write(&mut json),
        _ => TransactionDetail::of(&done.value, None).write(&mut json),
    }
    let status = StatusCode::CREATED.as_u16();
    ItemResult { index, status, replayed: done.replayed, body: ItemBody::Resource(json) }
}
