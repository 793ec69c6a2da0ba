//! Transfers: made, read, reversed.

use std::borrow::Cow;

use futures_util::FutureExt;
use hyper::StatusCode;
use hyper::header::LOCATION;
use serde_json::{Value, json};

use crate::bank::{Done, Executed, KeyHome};
use crate::http::api::{Api, Wait};
use crate::http::call::Call;
use crate::http::idempotency::Scope;
use crate::http::operation::{
    BANK, CHANGE, EVERY, IF_NONE_MATCH, JSON_BODY, KEYED, MOVING, Operation, ReplyHeader, RequestBody,
    Success, TRANSACTION,
};
use crate::http::problem::{Code, Problem};
use crate::http::query::{Parameter, Query, parameters};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::detail::TransactionDetail;
use crate::http::wire::read::{read_body, read_optional_body};
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::transfers::{Reversal, Transfer, note};
use crate::http::wire::values::Flag;
use crate::ledger::{Effect, Kind, ShardId};

pub(in crate::http) static TRANSFER: Operation = Operation {
    endpoint: Endpoint::Transfer,
    id: "transfer",
    summary: "Move money between accounts",
    details: "All or nothing, whichever accounts they are: whoever has seen one side can see the other. If the payer \
        lacks funds, accounts that protect its overdraft help out; those pulls are transactions of their own, which come \
        before it: the reply does not show them, but its versions count them. A dry run says what would happen, changes \
        nothing, and is answered with 200; it does not show the pulls that there would be either, and counts them.",
    query: DryRunQuery::SHAPE,
    headers: KEYED,
    request: Some(RequestBody::json::<Transfer>()),
    success: MADE,
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, MOVING, &[Code::LegsUnbalanced, Code::InvalidParameter]],
    leads_to: &[
        ("readTransfer", "id", "$response.body#/id"),
        ("readTransaction", "id", "$response.body#/id"),
        ("reverseTransfer", "id", "$response.body#/id"),
    ],
};

pub(in crate::http) static READ: Operation = Operation {
    endpoint: Endpoint::ReadTransfer,
    id: "readTransfer",
    summary: "Read a transfer or reversal",
    details: "Only being reversed changes it.",
    headers: IF_NONE_MATCH,
    success: Success {
        meaning: "The transfer.",
        body: Some((JSON, TransactionDetail::describe)),
        ..Success::READ
    },
    problems: &[EVERY, BANK, TRANSACTION],
    ..Operation::PLAIN
};

pub(in crate::http) static REVERSE: Operation = Operation {
    endpoint: Endpoint::Reverse,
    id: "reverseTransfer",
    summary: "Pay a transfer back",
    details: "Once: whole, or a part of a transfer with two legs. Who was paid has to have the funds. The body may be \
        left away.",
    query: DryRunQuery::SHAPE,
    headers: KEYED,
    request: Some(RequestBody::json::<Reversal>().optional()),
    success: MADE,
    problems: &[
        EVERY,
        BANK,
        CHANGE,
        JSON_BODY,
        TRANSACTION,
        MOVING,
        &[
            Code::AlreadyReversed,
            Code::NotReversible,
            Code::ReversalNotPartial,
            Code::ReversalExceeded,
            Code::InvalidParameter,
        ],
    ],
    ..Operation::PLAIN
};

/// What an operation has made: a transaction.
pub(in crate::http) const MADE: Success = Success {
    status: 201,
    meaning: "The transaction, with each account as it stands after it.",
    body: Some((JSON, TransactionDetail::describe)),
    headers: &[],
    headers_at_times: &[ReplyHeader::Location, ReplyHeader::IdempotentReplayed],
    ..Success::EMPTY
};

parameters! {
    /// How an operation is to be taken.
    pub(in crate::http) struct DryRunQuery {
        /// Whether only to say what would happen. The idempotency key counts for nothing then.
        dry_run: DryRun,
    }
}

/// Whether only to say what would happen.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct DryRun(pub(in crate::http) bool);

impl Describe for DryRun {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "boolean", "default": false })
    }
}

impl Parameter for DryRun {
    fn parse(text: &str) -> Result<DryRun, Cow<'static, str>> {
        Flag::parse(text).map(|Flag(dry_run)| DryRun(dry_run))
    }

    fn absent() -> Option<DryRun> {
        Some(DryRun(false))
    }
}

impl Call<'_> {
    /// Asks for a transfer; what is returned waits for the reply.
    pub(super) async fn transfer<'s>(
        &mut self,
        api: &'s Api,
        query: &Query<'_>,
    ) -> Result<impl Wait<'s> + use<'s>, Problem> {
        let bank = api.bank()?;
        let DryRunQuery { dry_run: DryRun(dry_run) } = DryRunQuery::read(query)?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Collection("transfers"), &body)?;
        let transfer: Transfer = read_body(&body)?;
        let (operation, conditions) = transfer.to_operation(bank);
        let places = transfer.into_places();
        let done = bank.operate(operation, conditions, KeyHome::Key, dry_run, origin);
        Ok(done.map(move |done| match done {
            Ok(done) => Ok(made(&done, dry_run)),
            Err(refusal) => Err(Problem::from(refusal).pointing(|party| places.pointer(party))),
        }))
    }

    pub(super) async fn read_transfer(&self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let id = self.transaction_id()?;
        let executed = bank.executed(id).await?;
        if !matches!(executed.decision.kind, Kind::Transfer | Kind::Reversal { .. }) {
            return Err(executed.of_another_type().into());
        }
        let reversed_by = bank.reversal_of(id).await?;
        let content = Content::json(&TransactionDetail::of(&executed, reversed_by));
        Ok(content.reply(self.headers(), Caching::Ask))
    }

    pub(super) async fn reverse(&mut self, query: &Query<'_>) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let id = self.transaction_id()?;
        let DryRunQuery { dry_run: DryRun(dry_run) } = DryRunQuery::read(query)?;
        let body = self.read_taken().await?;
        let origin = self.origin(Scope::Transfer(&id.to_uuid().to_string()), &body)?;
        let Reversal { amount, reference, metadata } = read_optional_body(&body)?;
        let amount = amount.map(|amount| amount.0);
        let transfer = bank.executed(id).await?;
        let done = bank.reverse(&transfer, amount, note(&reference, &metadata), dry_run, origin).await;
        let done = done
            .map_err(|refusal| Problem::from(refusal).pointing_to_amount().naming(&accounts_of(&transfer)))?;
        Ok(made(&done, dry_run))
    }
}

/// The ids of those that a transaction is about, in the ledger's order.
fn accounts_of(executed: &Executed) -> Vec<String> {
    let id = |(shard, effect): (ShardId, &Effect)| effect.account_id(shard).to_uuid().to_string();
    executed.decision.effects().map(id).collect()
}

/// The reply to what has made a transaction, or would have.
pub(super) fn made(done: &Done<Executed>, dry_run: bool) -> Reply {
    if dry_run {
        return reply::json(StatusCode::OK, &TransactionDetail::dry(&done.value));
    }
    let mut reply = reply::json(StatusCode::CREATED, &TransactionDetail::of(&done.value, None));
    let location = reply::location_of("/v2/transactions/", done.value.id.to_uuid());
    reply.headers_mut().insert(LOCATION, location);
    reply::marked(reply, done)
}
