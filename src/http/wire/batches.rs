//! Batches on the wire: many operations in one request.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::OpenAccount;
use super::detail::TransactionDetail;
use super::holds::{HoldRequest, HoldResource};
use super::metadata::Metadata;
use super::nested::List;
use super::read::{Errors, Parsed, Read, ReadScalar, Value, body, kind, parse_text, plain_texts};
use super::schema::{Describe, Describer, Schemas, with_meaning};
use super::transfers::{
    AmountOrAll, Conditions, PairTransfer, Transfer, conditions, note, requirement_pointer,
};
use super::values::{AmountText, Flag};
use super::write::{Object, Write, resource};
use crate::bank::{AccountSelector, BATCH_ITEMS_MAX, Bank};
use crate::http::problem::{Party, Problem};
use crate::http::wire::Version;
use crate::ledger::operation::{Condition, Operation};
use crate::ledger::{HoldId, IdError, Reference};

/// The members of an item that say what it is; the others are those of the request that it stands for.
const ITEM_MEMBERS: &[&str] = &["type", "key"];

body! {
    /// Many operations, executed in their order.
    pub(in crate::http) struct Batch {
        /// All or nothing: at most 1,000 items then; false without it.
        atomic: Option<Flag>,
        /// The operations.
        items: List<RawItem, 1, BATCH_ITEMS_MAX>,
    }
}

/// An item that is still to be read: what is wrong with it is told in its own result.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct RawItem(pub(in crate::http) Box<str>);

impl Describe for RawItem {
    fn describe(schemas: &mut Schemas) -> Json {
        BatchItem::describe(schemas)
    }
}

impl Read for RawItem {
    fn read(value: Value<'_>, _: &mut Errors) -> Option<RawItem> {
        Some(RawItem(value.raw().into()))
    }
}

body! {
    /// A deposit.
    pub(in crate::http) struct DepositItem {
        /// The account.
        account: AccountSelector,
        /// How much.
        amount: AmountText,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
        /// What has to be true for it to happen.
        conditions: Option<Conditions>,
    }
}

body! {
    /// A withdrawal.
    pub(in crate::http) struct WithdrawalItem {
        /// The account.
        account: AccountSelector,
        /// How much; `"all"` for what is available.
        amount: AmountOrAll,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
        /// What has to be true for it to happen.
        conditions: Option<Conditions>,
    }
}

body! {
    /// What captures a hold.
    pub(in crate::http) struct CaptureItem {
        /// The hold.
        hold: HoldId,
        /// How much of it; all without it. The rest is released.
        amount: Option<AmountText>,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
    }
}

body! {
    /// What voids a hold.
    pub(in crate::http) struct VoidItem {
        /// The hold.
        hold: HoldId,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
    }
}

/// One item of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) enum BatchItem {
    Open(OpenAccount),
    Deposit(DepositItem),
    Withdraw(WithdrawalItem),
    Transfer(Transfer),
    Hold(HoldRequest),
    Capture(CaptureItem),
    Void(VoidItem),
}

/// The types of items, and how each is described.
const TYPES: [(&str, Describer); 8] = [
    ("open", OpenAccount::describe),
    ("deposit", DepositItem::describe),
    ("withdraw", WithdrawalItem::describe),
    ("transfer", PairTransfer::describe),
    ("transfer", super::transfers::LegTransfer::describe),
    ("hold", HoldRequest::describe),
    ("capture", CaptureItem::describe),
    ("void", VoidItem::describe),
];

impl Describe for BatchItem {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("BatchItem", |schemas| {
            let items: Vec<Json> = TYPES
                .iter()
                .map(|(name, describe)| {
                    let mut item = schemas.inline(*describe);
                    item["properties"]["type"] = json!({ "const": name });
                    item["properties"]["key"] = with_meaning(
                        json!({ "type": "string", "pattern": "^[ -~]{1,255}$", "examples": ["rent-2026-11"] }),
                        "The item's own idempotency key.",
                    );
                    if let Some(required) = item["required"].as_array_mut() {
                        required.push("type".into());
                    }
                    item
                })
                .collect();
            json!({
                "oneOf": items,
                "description": "One operation: `type` says which, the other members are those of its own request.",
            })
        })
    }
}

/// Reads one item, with its key.
pub(in crate::http) fn read_item(raw: &str) -> Result<(BatchItem, Option<Box<str>>), Problem> {
    if let Some(transfer) = read_plain_transfer(raw) {
        return Ok((BatchItem::Transfer(Transfer::Pair(transfer)), None));
    }
    super::read::read_with(raw.as_bytes(), |value, errors| {
        if !value.starts_with('{') {
            errors.push(value.at(), format!("must be an object, not {}", kind(value.raw())));
            return None;
        }
        let key = match value.peek("key").map(parse_item_key).transpose() {
            Ok(key) => Some(key),
            Err(detail) => {
                errors.push_member(value.at(), "key", detail);
                None
            }
        };
        let rest = value.without(ITEM_MEMBERS);
        let name = value.peek("type").map_or(Err("is missing".into()), |raw| parse_text(raw));
        let item = match name.as_deref() {
            Ok("open") => OpenAccount::read(rest, errors).map(BatchItem::Open),
            Ok("deposit") => DepositItem::read(rest, errors).map(BatchItem::Deposit),
            Ok("withdraw") => WithdrawalItem::read(rest, errors).map(BatchItem::Withdraw),
            Ok("transfer") => Transfer::read(rest, errors).map(BatchItem::Transfer),
            Ok("hold") => HoldRequest::read(rest, errors).map(BatchItem::Hold),
            Ok("capture") => CaptureItem::read(rest, errors).map(BatchItem::Capture),
            Ok("void") => VoidItem::read(rest, errors).map(BatchItem::Void),
            Ok(_) => {
                let known = "must be open, deposit, withdraw, transfer, hold, capture or void";
                errors.push_member(value.at(), "type", known);
                None
            }
            Err(detail) => {
                errors.push_member(value.at(), "type", detail.clone());
                None
            }
        };
        Some((item?, key?))
    })
}

/// Reads a transfer from one account to another that says nothing else, as those of the largest batches do. Whatever
/// is not that, or is wrong, is left to who tells what it is.
fn read_plain_transfer(raw: &str) -> Option<PairTransfer> {
    let [kind, from, to, amount] = plain_texts(raw, |name| match name {
        r#""type""# => Some(0),
        r#""from""# => Some(1),
        r#""to""# => Some(2),
        r#""amount""# => Some(3),
        _ => None,
    })?;
    if kind != Some(r#""transfer""#) {
        return None;
    }
    Some(PairTransfer {
        from: AccountSelector::parse(from?).ok()?,
        to: AccountSelector::parse(to?).ok()?,
        amount: AmountOrAll::parse(amount?).ok()?,
        reference: None,
        metadata: None,
        conditions: None,
    })
}

fn parse_item_key(raw: &str) -> Parsed<Box<str>> {
    let key = parse_text(raw)?;
    let printable = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if key.is_empty() || key.len() > 255 || !printable {
        return Err("must be 1 to 255 printable ASCII characters".into());
    }
    Ok(key.into_owned().into())
}

impl BatchItem {
    /// Where in the item the part of the operation stands that has met a refusal.
    pub(in crate::http) fn pointer(&self, party: Party) -> Cow<'static, str> {
        let conditions = match self {
            BatchItem::Transfer(transfer) => return transfer.pointer(party),
            BatchItem::Hold(hold) => return hold.pointer(party),
            // It names no account: the hold knows them.
            BatchItem::Capture(_) | BatchItem::Void(_) => return "/hold".into(),
            BatchItem::Open(_) => None,
            BatchItem::Deposit(item) => item.conditions.as_ref(),
            BatchItem::Withdraw(item) => item.conditions.as_ref(),
        };
        match party {
            Party::Account(_) => "/account".into(),
            Party::Requirement(place) => requirement_pointer(conditions, place),
        }
    }

    /// The operation and its conditions.
    pub(in crate::http) fn to_operation(&self, bank: &Bank) -> (Operation, Vec<Condition>) {
        match self {
            BatchItem::Open(open) => (bank.opening(open.to_opening(bank.currency())), Vec::new()),
            BatchItem::Deposit(item) => {
                let operation = Operation::Deposit {
                    account: bank.place(item.account.clone()),
                    amount: item.amount.0,
                    note: note(&item.reference, &item.metadata),
                };
                (operation, conditions(bank, item.conditions.as_ref()))
            }
            BatchItem::Withdraw(item) => {
                let operation = Operation::Withdraw {
                    account: bank.place(item.account.clone()),
                    amount: item.amount.0,
                    note: note(&item.reference, &item.metadata),
                };
                (operation, conditions(bank, item.conditions.as_ref()))
            }
            BatchItem::Transfer(transfer) => transfer.to_operation(bank),
            BatchItem::Hold(hold) => (hold.to_operation(bank), conditions(bank, hold.conditions.as_ref())),
            BatchItem::Capture(item) => {
                let operation = Operation::Capture {
                    hold: item.hold,
                    amount: item.amount.map(|amount| amount.0),
                    note: note(&item.reference, &item.metadata),
                };
                (operation, Vec::new())
            }
            BatchItem::Void(item) => {
                let note = note(&item.reference, &item.metadata);
                (Operation::Void { hold: item.hold, note }, Vec::new())
            }
        }
    }
}

impl Describe for HoldId {
    fn describe(schemas: &mut Schemas) -> Json {
        super::write::Id::describe(schemas)
    }
}

impl ReadScalar for HoldId {
    fn parse(raw: &str) -> Parsed<HoldId> {
        match HoldId::parse(&parse_text(raw)?) {
            // What is a UUID but no hold's finds no hold.
            Err(IdError::Foreign) => Ok(HoldId::NOBODYS),
            id => id.map_err(|error| error.to_string().into()),
        }
    }
}

resource! {
    /// What became of a batch.
    pub(in crate::http) struct BatchReply {
        /// How many items it had.
        count: u64,
        /// How many were executed, now or by an earlier request with the same key.
        executed: u64,
        /// How many were refused.
        refused: u64,
        /// What became of the items, in order; which of them, `results` in the query says.
        results: Vec<ItemResult>,
    }
}

/// What became of one item.
pub(in crate::http) struct ItemResult {
    /// Its place in the batch, from 0.
    pub(in crate::http) index: usize,
    /// The status that it would have had as a request.
    pub(in crate::http) status: u16,
    /// Whether an earlier request with the same key did it.
    pub(in crate::http) replayed: bool,
    /// The resource or the problem, as JSON.
    pub(in crate::http) body: ItemBody,
}

/// What an item would have been answered.
pub(in crate::http) enum ItemBody {
    Resource(Vec<u8>),
    Problem(Vec<u8>),
}

impl Describe for ItemResult {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("ItemResult", |schemas| {
            let resources =
                [super::Account::describe(schemas), TransactionDetail::describe(schemas), HoldResource::describe(schemas)];
            json!({
                "type": "object",
                "description": "What became of one item.",
                "properties": {
                    "index": { "type": "integer", "description": "Its place in the batch, from 0." },
                    "status": { "type": "integer", "description": "The status that it would have had as a request." },
                    "replayed": {
                        "type": "boolean",
                        "description": "Whether an earlier request with the same key did it.",
                    },
                    "result": { "anyOf": resources, "description": "What it would have been answered." },
                    "problem": with_meaning(Problem::describe(schemas), "Why it was refused."),
                },
                "required": ["index", "status", "replayed"],
            })
        })
    }
}

impl Write for ItemResult {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        object.plain("index", self.index);
        object.plain("status", self.status);
        object.plain("replayed", self.replayed);
        match &self.body {
            ItemBody::Resource(json) => object.key("result").extend_from_slice(json),
            ItemBody::Problem(json) => object.key("problem").extend_from_slice(json),
        }
        object.end();
    }
}

/// The body of a problem in a result.
pub(in crate::http) fn problem_body(problem: &Problem, request_id: &str) -> ItemBody {
    ItemBody::Problem(problem.body(Version::Two, request_id))
}
