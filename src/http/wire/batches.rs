//! Batches on the wire: many operations in one request.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::OpenAccount;
use super::detail::TransactionDetail;
use super::holds::{HoldRequest, HoldResource};
use super::metadata::Metadata;
use super::nested::List;
use super::read::{
    Errors, Parsed, Read, ReadScalar, Value, body, kind, parse_text, plain_length, plain_members,
};
use super::schema::{Describe, Describer, Schemas, with_meaning};
use super::transfers::{
    AmountOrAll, Conditions, PairTransfer, Transfer, conditions, note, requirement_pointer,
};
use super::values::{AmountText, Flag, parse_reference};
use super::write::{Object, Write, resource};
use crate::bank::{AccountSelector, BATCH_ITEMS_MAX, Bank};
use crate::http::operation::ITEM;
use crate::http::problem::{Code, Party, Problem};
use crate::http::wire::Version;
use crate::ledger::operation::{Condition, Operation, Sum};
use crate::ledger::{Currency, ExcessDecimals, HoldId, IdError, Note, Quantity, Reference};

/// The members of an item that say what it is. The others are those of the request that it stands for, what is in its path,
/// and a few more for deposits and withdrawals, as the description of [`BatchItem`] says.
const ITEM_MEMBERS: &[&str] = &["type", "key"];

body! {
    /// Many operations, executed in their order.
    pub(in crate::http) struct Batch {
        /// All or nothing: at most 1,000 items then; false without it.
        atomic: Option<Flag>,
        /// The operations.
        #[example = json!([
            { "type": "deposit", "account": "name:alice", "amount": "12.34" },
            { "type": "transfer", "from": "name:alice", "to": "name:bob", "amount": "12.34" }
        ])]
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
                "description": "One operation: `type` says which, the other members are those of its own request, with \
                    `account` or `hold` for what that has in its path. Deposits and withdrawals take `conditions` \
                    besides, and withdrawals the amount `all`.",
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
                errors.check(value);
                None
            }
            Err(detail) => {
                errors.push_member(value.at(), "type", detail.clone());
                errors.check(value);
                None
            }
        };
        Some((item?, key?))
    })
}

/// What may stand around a value of JSON (RFC 8259, 2). Other white space is no more than any other text.
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The items of a batch with one a line, as they are read. Empty lines are none.
///
/// Whoever writes thousands of transfers writes them all alike. What stood around the values of one is expected around
/// those of the next, whose bytes are then compared instead of read: a fifth of the instructions.
#[derive(Debug)]
pub(in crate::http) struct Lines<'a> {
    rest: &'a str,
    /// As the last line was written that was read as a plain transfer.
    shape: Option<Shape<'a>>,
}

/// A line of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::http) struct Line<'a> {
    /// All of it.
    pub(in crate::http) raw: &'a str,
    /// Payer, payee and amount, without their quotes, if it is a transfer that says nothing else.
    pub(in crate::http) plain: Option<[&'a str; 3]>,
}

impl<'a> Lines<'a> {
    pub(in crate::http) fn of(text: &'a str) -> Lines<'a> {
        Lines { rest: text, shape: None }
    }

    /// The next line, if it is written as the one before and nothing else stands in it.
    fn alike(&mut self) -> Option<Line<'a>> {
        let (plain, behind) = self.shape?.values(self.rest)?;
        let raw = &self.rest[..self.rest.len() - behind.len()];
        self.rest = if behind.is_empty() { behind } else { behind.strip_prefix('\n')? };
        Some(Line { raw, plain: Some(plain) })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if let Some(line) = self.alike() {
            return Some(line);
        }
        // All blank lines at once: a body may have millions of them.
        let text = self.rest.trim_start_matches(SPACE);
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        self.rest = rest;
        let raw = line.trim_end_matches(SPACE);
        if raw.is_empty() {
            return None;
        }
        if let Some(values) = plain_values(raw) {
            self.shape = Some(Shape::of(raw, values));
        }
        let plain = self.shape.and_then(|shape| shape.values(raw)).filter(|(_, rest)| rest.is_empty());
        Some(Line { raw, plain: plain.map(|(values, _)| values) })
    }
}

/// What stands around the three values of a plain transfer.
#[derive(Clone, Copy, Debug)]
struct Shape<'a> {
    gaps: [&'a str; 4],
    /// Which value comes first, second and third: 0 payer, 1 payee, 2 amount.
    order: [usize; 3],
}

impl<'a> Shape<'a> {
    /// How this text is written, in which these values stand.
    fn of(raw: &'a str, values: [&'a str; 3]) -> Shape<'a> {
        let start = |value: usize| values[value].as_ptr().addr() - raw.as_ptr().addr();
        let mut order = [0, 1, 2];
        order.sort_unstable_by_key(|value| start(*value));
        let end = |value: usize| start(value) + values[value].len();
        let [first, second, third] = order;
        let gaps = [
            &raw[..start(first)],
            &raw[end(first)..start(second)],
            &raw[end(second)..start(third)],
            &raw[end(third)..],
        ];
        Shape { gaps, order }
    }

    /// The values of what is written like this at the start of a text, and what follows.
    fn values(&self, text: &'a str) -> Option<([&'a str; 3], &'a str)> {
        let mut values = [""; 3];
        let mut rest = text;
        for (gap, value) in self.gaps.iter().zip(self.order) {
            rest = rest.strip_prefix(gap)?;
            (values[value], rest) = rest.split_at(plain_length(rest.as_bytes())?);
        }
        Some((values, rest.strip_prefix(self.gaps[3])?))
    }
}

impl Line<'_> {
    /// The operation, if it is a plain transfer and nothing is wrong or unusual about it.
    pub(in crate::http) fn plain_operation(&self, bank: &Bank) -> Option<Operation> {
        let [from, to, amount] = self.plain?;
        let place = |text| Some(bank.place(parse_reference(text).ok()?));
        let amount = Sum::Exactly(plain_amount(amount)?);
        Some(Operation::Transfer { from: place(from)?, to: place(to)?, amount, note: Note::default() })
    }
}

/// Reads an amount as [`AmountText`] does. `None` leaves the judgement to that.
fn plain_amount(text: &str) -> Option<Quantity> {
    let mut whole = text.len();
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => {}
            b'.' if whole == text.len() => whole = place,
            _ => return None,
        }
    }
    let has_zero_in_front = whole > 1 && text.starts_with('0');
    let decimals_max = usize::from(Currency::SCALE_MAX);
    if whole == 0 || has_zero_in_front || text.len() - whole > decimals_max + 1 {
        return None;
    }
    Quantity::parse(text, ExcessDecimals::Refuse).ok().filter(|amount| amount.is_positive())
}

/// The payer, the payee and the amount of a transfer that says nothing else, without their quotes.
fn plain_values(raw: &str) -> Option<[&str; 3]> {
    Some(plain_transfer(raw)?.map(|text| &text[1..text.len() - 1]))
}

/// Reads a transfer from one account to another that says nothing else, as those of the largest batches do. Whatever
/// is not that, or is wrong, is left to who tells what it is.
fn read_plain_transfer(raw: &str) -> Option<PairTransfer> {
    let [from, to, amount] = plain_transfer(raw)?;
    Some(PairTransfer {
        from: AccountSelector::parse(from).ok()?,
        to: AccountSelector::parse(to).ok()?,
        amount: AmountOrAll::parse(amount).ok()?,
        reference: None,
        metadata: None,
        conditions: None,
    })
}

/// The payer, the payee and the amount of a transfer that says nothing else, as they are written.
fn plain_transfer(raw: &str) -> Option<[&str; 3]> {
    let [kind, from, to, amount] = plain_members(raw, |name| match name {
        r#""type""# => Some(0),
        r#""from""# => Some(1),
        r#""to""# => Some(2),
        r#""amount""# => Some(3),
        _ => None,
    })?;
    if kind != Some(r#""transfer""#) {
        return None;
    }
    let values = [from?, to?, amount?];
    values.iter().all(|value| value.starts_with('"')).then_some(values)
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
    pub(in crate::http) fn into_pointer(self, party: Party) -> Cow<'static, str> {
        let conditions = match self {
            BatchItem::Transfer(transfer) => return transfer.into_places().pointer(party),
            BatchItem::Hold(hold) => return hold.pointer(party),
            BatchItem::Capture(_) if matches!(party, Party::Amount(_)) => return "/amount".into(),
            // It names no account: the hold knows them.
            BatchItem::Capture(_) | BatchItem::Void(_) => return "/hold".into(),
            BatchItem::Open(_) => None,
            BatchItem::Deposit(item) => item.conditions,
            BatchItem::Withdraw(item) => item.conditions,
        };
        match party {
            Party::Account(_) => "/account".into(),
            Party::Amount(_) => "/amount".into(),
            Party::Requirement(number, part) => requirement_pointer(conditions.as_ref(), number, part),
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
        /// How many were executed, now or by an earlier request or item with the same key.
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
    /// Whether an earlier request or item with the same key did it.
    pub(in crate::http) replayed: bool,
    /// The resource or the problem, as JSON.
    pub(in crate::http) body: ItemBody,
}

/// What an item made, or why it was refused. What it made is told as the ledger has it, also where its request would be
/// answered with what one account sees.
pub(in crate::http) enum ItemBody {
    Resource(Vec<u8>),
    Problem(Vec<u8>),
}

impl Describe for ItemResult {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("ItemResult", |schemas| {
            let resources =
                [super::Account::describe(schemas), TransactionDetail::describe(schemas), HoldResource::describe(schemas)];
            let codes: Vec<&str> = ITEM.concat().into_iter().map(Code::slug).collect();
            let problem = json!({
                "allOf": [
                    Problem::describe(schemas),
                    { "type": "object", "properties": { "code": { "enum": codes } } },
                ],
            });
            let meaning = format!("Why it was refused: `{}`.", codes.join("`, `"));
            let made = "What it made: of `open` an `Account`, of `hold` a `HoldResource`, of all others a \
                `TransactionDetail`. The request of its own that a deposit or withdrawal has is answered with a `Transaction`, \
                which is the same as its account sees it: the `balance` there is `posted` of the only one of `accounts` here.";
            json!({
                "type": "object",
                "description": "What became of one item.",
                "properties": {
                    "index": { "type": "integer", "description": "Its place in the batch, from 0." },
                    "status": { "type": "integer", "description": "The status that it would have had as a request." },
                    "replayed": {
                        "type": "boolean",
                        "description": "Whether an earlier request or item with the same key did it.",
                    },
                    "result": { "anyOf": resources, "description": made },
                    "problem": with_meaning(problem, &meaning),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the lines of a text were without knowing how other lines are written.
    fn alone(text: &str) -> Vec<Line<'_>> {
        let lines = text.lines().map(|line| line.trim_matches(SPACE)).filter(|line| !line.is_empty());
        lines.map(|raw| Line { raw, plain: plain_values(raw) }).collect()
    }

    #[test]
    fn lines_are_read_alike_whatever_stands_before_them() {
        let lines = [
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":"1.00"}"#,
            r#"{"type":"transfer","from":"name:a long name","to":"name:another","amount":"100000000.00"}"#,
            r#"{"type":"transfer","from":"","to":"","amount":""}"#,
            r#"{"type":"transfer","from":"name:Kate\u0159ina","to":"name:b","amount":"1.00"}"#,
            r#"{"type":"transfer","from":"name:Kateřina","to":"name:b","amount":"1.00"}"#,
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":"1.00"} "#,
            r#" {"type":"transfer","from":"name:a","to":"name:b","amount":"1.00"}"#,
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":"1.00"}}"#,
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":"1.00""#,
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":"1.00","key":"k"}"#,
            r#"{"type":"transfer","from":"name:a","to":"name:b","amount":1}"#,
            r#"{"amount":"1.00","to":"name:b","type":"transfer","from":"name:a"}"#,
            r#"{ "to": "name:b", "from": "name:a", "amount": "1.00", "type": "transfer" }"#,
            r#"{"type":"withdraw","from":"name:a","to":"name:b","amount":"1.00"}"#,
            r#"{"type":"transfer","from":"name:a	b","to":"name:b","amount":"1.00"}"#,
            "",
            "   ",
            "\u{2003}",
            "{}",
        ];
        for first in lines {
            for second in lines {
                for (between, end) in [("\n", ""), ("\n", "\n"), ("\r\n", "\r\n"), ("\n\n", "\n \n")] {
                    let text = format!("{first}{between}{second}{between}{first}{end}");
                    assert_eq!(Lines::of(&text).collect::<Vec<_>>(), alone(&text), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_text_ends_at_its_first_quote_unless_something_stands_before_it() {
        for special in [b'"', b'\\', b'\n', 0, 0x1f] {
            for place in 0..20 {
                for length in place + 1..24 {
                    let mut bytes = vec![b'a'; length];
                    bytes[place] = special;
                    let expected = (special == b'"').then_some(place);
                    assert_eq!(plain_length(&bytes), expected);
                    bytes[place + 1..].fill(b'"');
                    assert_eq!(plain_length(&bytes), expected);
                    bytes[..place].fill(0xff);
                    assert_eq!(plain_length(&bytes), expected);
                }
            }
        }
        assert_eq!((plain_length(b""), plain_length(b"aaaaaaaaa")), (None, None));
    }

    #[test]
    fn an_amount_is_read_in_the_short_way_as_in_the_long_one_or_not_at_all() {
        for text in ["1", "1.00", "0.01", "12.3456", "99999999999.99", "10000000000000000000000.00"] {
            let long = AmountText::parse(&format!("\"{text}\"")).expect("an amount");
            assert_eq!(plain_amount(text), Some(long.0), "{text}");
        }
        for text in [
            "", "0", "0.00", ".5", "5.", "01", "00.1", "1.00000", "1e3", "-1", "+1", "1.2.3", " 1", "all",
            ".",
        ] {
            assert_eq!(plain_amount(text), None, "{text}");
        }
    }
}
