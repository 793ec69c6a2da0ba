//! Transfers on the wire: between two accounts, or with legs.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::metadata::Metadata;
use super::nested::List;
use super::read::{Errors, Parsed, Read, ReadScalar, Value, body, parse_text};
use super::schema::{Describe, Schemas, with_meaning};
use super::values::{AmountText, kept_text_schema, parse_exact, parse_whole, text_schema};
use super::write;
use crate::bank::{AccountSelector, Bank};
use crate::http::problem::{Party, RequirementPart};
use crate::ledger::operation::{CONDITIONS_MAX, Condition, LEGS_MAX, Operation, Requirement, Sum};
use crate::ledger::{Note, NoteError, Quantity, REFERENCE_BYTES_MAX, Reference};

body! {
    /// What moves money from one account to another.
    pub(in crate::http) struct PairTransfer {
        /// Who pays.
        from: AccountSelector,
        /// Who is paid.
        #[example = "name:bob"]
        to: AccountSelector,
        /// How much; `"all"` for what the payer has available.
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
    /// What moves money among accounts, all or nothing.
    pub(in crate::http) struct LegTransfer {
        /// The accounts and what each gets. The amounts sum to zero in each currency.
        #[example = json!([
            { "account": "name:alice", "amount": "-12.34" }, { "account": "name:bob", "amount": "12.34" }
        ])]
        legs: List<Leg, 2, LEGS_MAX>,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
        /// What has to be true for it to happen.
        conditions: Option<Conditions>,
    }
}

body! {
    /// One side of a transfer.
    pub(in crate::http) struct Leg {
        /// The account.
        account: AccountSelector,
        /// What it gets, below zero for what it pays; not zero.
        amount: SignedAmountText,
    }
}

body! {
    /// What has to be true of an account: `available_gte`, `version`, or both. Of a closed account nothing is.
    pub(in crate::http) struct ConditionMembers {
        /// The account.
        account: AccountSelector,
        /// At least so much is `available`, as the account shows it: a frozen account can meet this and not pay.
        available_gte: Option<AvailableText>,
        /// The account is at this version.
        version: Option<VersionNumber>,
    }
}

/// A condition that says something: one that did not would be met by any account, also by one that is not there.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct ConditionBody(ConditionMembers);

impl Describe for ConditionBody {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("ConditionBody", |schemas| {
            let mut schema = schemas.inline(ConditionMembers::describe);
            schema["minProperties"] = 2.into();
            schema
        })
    }
}

impl Read for ConditionBody {
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        let condition = ConditionBody(ConditionMembers::read(value, errors)?);
        if condition.requirements().next().is_none() {
            errors.push(value.at(), "needs available_gte or version");
            return None;
        }
        Some(condition)
    }
}

/// The conditions of an operation.
pub(in crate::http) type Conditions = List<ConditionBody, 0, CONDITIONS_MAX>;

body! {
    /// What pays a transfer back.
    pub(in crate::http) struct Reversal {
        /// How much, if not all. Only of a transfer with two legs.
        amount: Option<AmountText>,
        /// The client's reference.
        reference: Option<Reference>,
        /// Whatever else the client keeps with it.
        metadata: Option<Metadata>,
    }
}

/// What moves money: between two accounts, or with legs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) enum Transfer {
    Pair(PairTransfer),
    Legs(LegTransfer),
}

impl Describe for Transfer {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("Transfer", |schemas| {
            json!({
                "oneOf": [PairTransfer::describe(schemas), LegTransfer::describe(schemas)],
                "description": "Money from one account to another, or among up to 64 in any number of currencies.",
            })
        })
    }
}

impl Read for Transfer {
    fn read(value: Value<'_>, errors: &mut Errors) -> Option<Self> {
        // Whoever writes `legs` means legs: what is wrong is told in those terms.
        if value.peek("legs").is_some() {
            LegTransfer::read(value, errors).map(Transfer::Legs)
        } else {
            PairTransfer::read(value, errors).map(Transfer::Pair)
        }
    }
}

impl Transfer {
    /// The operation and its conditions.
    pub(in crate::http) fn to_operation(&self, bank: &Bank) -> (Operation, Vec<Condition>) {
        match self {
            Transfer::Pair(pair) => {
                let operation = Operation::Transfer {
                    from: bank.place(pair.from.clone()),
                    to: bank.place(pair.to.clone()),
                    amount: pair.amount.0,
                    note: note(&pair.reference, &pair.metadata),
                };
                (operation, conditions(bank, pair.conditions.as_ref()))
            }
            Transfer::Legs(legs) => {
                let operation = Operation::MultiTransfer {
                    legs: legs
                        .legs
                        .0
                        .iter()
                        .map(|leg| (bank.place(leg.account.clone()), leg.amount.0))
                        .collect(),
                    note: note(&legs.reference, &legs.metadata),
                };
                (operation, conditions(bank, legs.conditions.as_ref()))
            }
        }
    }

    /// What of it says where its parts stand.
    pub(in crate::http) fn into_places(self) -> Places {
        match self {
            Transfer::Pair(pair) => Places { is_pair: true, conditions: pair.conditions },
            Transfer::Legs(legs) => Places { is_pair: false, conditions: legs.conditions },
        }
    }
}

/// Where in a transfer's body the parts of its operation stand.
pub(in crate::http) struct Places {
    is_pair: bool,
    conditions: Option<Conditions>,
}

impl Places {
    /// Where the part stands that has met a refusal.
    pub(in crate::http) fn pointer(&self, party: Party) -> Cow<'static, str> {
        match party {
            Party::Account(0) if self.is_pair => "/from".into(),
            Party::Account(_) if self.is_pair => "/to".into(),
            Party::Account(place) => format!("/legs/{place}/account").into(),
            Party::Amount(_) if self.is_pair => "/amount".into(),
            Party::Amount(place) => format!("/legs/{place}/amount").into(),
            Party::Requirement(number, part) => requirement_pointer(self.conditions.as_ref(), number, part),
        }
    }
}

/// What the client says about an operation.
pub(in crate::http) fn note(reference: &Option<Reference>, metadata: &Option<Metadata>) -> Note {
    let metadata = metadata.as_ref().map(super::metadata::kept).unwrap_or_default();
    Note { reference: reference.clone(), metadata }
}

/// The conditions for the bank: of one that says two things, both have to be true.
pub(in crate::http) fn conditions(bank: &Bank, conditions: Option<&Conditions>) -> Vec<Condition> {
    let mut all = Vec::new();
    for condition in conditions.map_or(&[][..], |conditions| &conditions.0) {
        let account = bank.place(condition.0.account.clone());
        let requirements = condition.requirements();
        all.extend(requirements.map(|requirement| Condition { account: account.clone(), requirement }));
    }
    all
}

/// Where in the body the condition, or this part of it, stands that the requirement with this number, of all of
/// [`conditions`], is from. The number may have been stored with an earlier reply: it is nothing to rely on.
pub(in crate::http) fn requirement_pointer(
    conditions: Option<&Conditions>,
    number: usize,
    part: RequirementPart,
) -> Cow<'static, str> {
    let member = match part {
        RequirementPart::Whole => "",
        RequirementPart::Account => "/account",
        RequirementPart::Available => "/available_gte",
    };
    let conditions = conditions.map_or(&[][..], |conditions| &conditions.0).iter().enumerate();
    let mut places = conditions.flat_map(|(place, condition)| condition.requirements().map(move |_| place));
    places.nth(number).map_or("/conditions".into(), |place| format!("/conditions/{place}{member}").into())
}

impl ConditionBody {
    fn requirements(&self) -> impl Iterator<Item = Requirement> + use<> {
        let available = self.0.available_gte.map(|amount| Requirement::AvailableAtLeast(amount.0));
        let version = self.0.version.map(|version| Requirement::Version(version.0));
        [available, version].into_iter().flatten()
    }
}

/// An amount, or all that is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct AmountOrAll(pub(in crate::http) Sum);

impl Describe for AmountOrAll {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("AmountOrAll", |schemas| {
            let amount = AmountText::describe(schemas);
            json!({ "anyOf": [amount, { "const": "all" }], "examples": ["12.34"] })
        })
    }
}

impl ReadScalar for AmountOrAll {
    fn parse(raw: &str) -> Parsed<AmountOrAll> {
        if raw == "\"all\"" {
            return Ok(AmountOrAll(Sum::All));
        }
        AmountText::parse(raw).map(|amount| AmountOrAll(Sum::Exactly(amount.0)))
    }
}

/// An amount that may be below zero, but is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct SignedAmountText(pub(in crate::http) Quantity);

impl Describe for SignedAmountText {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("SignedAmount", |_| {
            with_meaning(
                json!({
                    "type": "string",
                    "pattern": r"^-?([1-9][0-9]{0,20}(\.[0-9]{1,4})?|0\.(0{0,3}[1-9]|0{0,2}[1-9][0-9]|0?[1-9][0-9]{2}|[1-9][0-9]{3}))$",
                    "examples": ["-12.34"],
                }),
                "An amount of money, not zero, with no more decimals than the currency has.",
            )
        })
    }
}

impl ReadScalar for SignedAmountText {
    fn parse(raw: &str) -> Parsed<SignedAmountText> {
        let amount = parse_exact(raw)?;
        if amount == Quantity::ZERO {
            return Err("must not be zero".into());
        }
        Ok(SignedAmountText(amount))
    }
}

/// An amount with which what is available is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct AvailableText(pub(in crate::http) Quantity);

impl Describe for AvailableText {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("Available", |_| {
            with_meaning(
                json!({
                    "type": "string",
                    "pattern": r"^(0|-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,4})?)$",
                    "examples": ["0.00"],
                }),
                "An amount of money, with no more decimals than the currency has.",
            )
        })
    }
}

impl ReadScalar for AvailableText {
    fn parse(raw: &str) -> Parsed<AvailableText> {
        parse_exact(raw).map(AvailableText)
    }
}

/// An account's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct VersionNumber(pub(in crate::http) u64);

impl Describe for VersionNumber {
    fn describe(_: &mut Schemas) -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX, "examples": [7] })
    }
}

impl ReadScalar for VersionNumber {
    fn parse(raw: &str) -> Parsed<VersionNumber> {
        parse_whole(raw, 1, u64::MAX)
            .map(VersionNumber)
            .ok_or_else(|| "must be a whole number, 1 or more".into())
    }
}

impl Describe for Reference {
    fn describe(schemas: &mut Schemas) -> Json {
        schemas.named::<Self>("Reference", |_| {
            let mut schema = text_schema("", 1, REFERENCE_BYTES_MAX);
            schema["examples"] = json!(["invoice-2026-117"]);
            with_meaning(
                schema,
                "The client's own name for it: 1 to 255 bytes of UTF-8 without control characters.",
            )
        })
    }
}

impl ReadScalar for Reference {
    fn parse(raw: &str) -> Parsed<Reference> {
        Reference::parse(&parse_text(raw)?).map_err(note_error)
    }
}

fn note_error(error: NoteError) -> Cow<'static, str> {
    error.to_string().into()
}

impl write::Write for Reference {
    fn write(&self, out: &mut Vec<u8>) {
        write::text(out, self);
    }

    fn describe_field(_: &mut Schemas) -> Json {
        kept_text_schema(1, REFERENCE_BYTES_MAX, "invoice-2026-117")
    }
}
