//! Links between accounts.

use hyper::StatusCode;

use crate::bank::{AccountSelector, KeyHome, Origin};
use crate::http::call::Call;
use crate::http::idempotency::{self, Scope};
use crate::http::operation::{
    BANK, CHANGE, EVERY, IF_NONE_MATCH, JSON_BODY, KEYED, Operation, REFERRED, RequestBody, Success,
};
use crate::http::problem::{Code, Problem};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::account_links::{AccountLink, AccountLinkList, LinkRequest};
use crate::http::wire::read::read_body;
use crate::http::wire::schema::Describe;
use crate::http::wire::values::NAME_PREFIX;
use crate::http::wire::write::Id;
use crate::ledger::AccountId;
use crate::ledger::operation::Operation as LedgerOperation;
use crate::shard::request::AccountView;

pub(in crate::http) static PUT: Operation = Operation {
    endpoint: Endpoint::PutLink,
    id: "linkAccount",
    summary: "Link an account to another",
    details: "Or change what the link is for: 201 if there was none before, else 200. The same request again changes \
        nothing, so it needs no `Idempotency-Key`, and takes no notice of one.",
    request: Some(RequestBody::json::<LinkRequest>()),
    success: Success {
        status: 201,
        meaning: "The link, which is new.",
        or: Some((200, "The link, which was there before, perhaps of another kind.")),
        body: Some((JSON, AccountLink::describe)),
        headers_at_times: &[],
        ..Success::EMPTY
    },
    problems: &[
        EVERY,
        BANK,
        CHANGE,
        JSON_BODY,
        REFERRED,
        &[
            Code::AccountClosed,
            Code::AccountRepeated,
            Code::CurrencyMismatch,
            Code::LinkCycle,
            Code::LinkChainTooLong,
            Code::LinksExhausted,
        ],
    ],
    ..Operation::PLAIN
};

pub(in crate::http) static GET: Operation = Operation {
    endpoint: Endpoint::ReadLink,
    id: "readLink",
    summary: "Read a link",
    headers: IF_NONE_MATCH,
    success: Success { meaning: "The link.", body: Some((JSON, AccountLink::describe)), ..Success::READ },
    problems: &[EVERY, BANK, REFERRED, &[Code::LinkNotFound]],
    ..Operation::PLAIN
};

pub(in crate::http) static LIST: Operation = Operation {
    endpoint: Endpoint::Links,
    id: "listLinks",
    summary: "Read an account's links",
    headers: IF_NONE_MATCH,
    success: Success { meaning: "The links.", body: Some((JSON, AccountLinkList::describe)), ..GET.success },
    problems: &[EVERY, BANK, REFERRED],
    ..Operation::PLAIN
};

pub(in crate::http) static DELETE: Operation = Operation {
    endpoint: Endpoint::DeleteLink,
    id: "unlinkAccount",
    summary: "Remove a link",
    headers: KEYED,
    success: Success { meaning: "The link is removed.", ..Success::EMPTY },
    problems: &[
        EVERY,
        BANK,
        CHANGE,
        REFERRED,
        &[Code::AccountClosed, Code::LinkNotFound, Code::UnexpectedBody],
    ],
    ..Operation::PLAIN
};

/// The accounts of a link, in their order. By where they stand, so that a repeated request which refers to them in another
/// way is told what the first one was.
const IN_THE_PATH: [&str; 2] = ["the first one in the path", "the second one in the path"];

impl Call<'_> {
    pub(super) async fn put_link(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let (account, to) = (self.account()?, self.other_account()?);
        let body = self.read_taken().await?;
        let LinkRequest { kind } = read_body(&body)?;
        let operation =
            LedgerOperation::Link { account: bank.place(account.clone()), to: bank.place(to.clone()), kind };
        // What is changed does not say what was there before. Simplified: of two who at one moment link the same accounts
        // in two ways, both may hear that their link is new.
        let (before, to) = (self.first_account(account).await?, self.id_of(to).await?);
        let was_there = links_of(&before).iter().any(|link| link.to == to);
        // Putting is idempotent by itself: the same request again finds the link there.
        let origin = Origin { key: None, request_id: self.request_id.as_str().into() };
        let done = bank.operate(operation, Vec::new(), KeyHome::Key, false, origin).await;
        let done = done.map_err(|refusal| Problem::from(refusal).naming(&IN_THE_PATH))?;
        let is_new = !was_there && done.value.decision.effects().next().is_some();
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        Ok(reply::json(status, &AccountLink::of(before.id, to, kind)))
    }

    pub(super) async fn read_link(&self) -> Result<Reply, Problem> {
        let account = self.first_account(self.account()?).await?;
        let to = self.id_of(self.other_account()?).await?;
        let link = links_of(&account).iter().find(|link| link.to == to);
        let link = link.ok_or_else(|| Problem::plain(Code::LinkNotFound))?;
        let resource = AccountLink::of(account.id, link.to, link.kind);
        Ok(Content::json(&resource).reply(self.headers(), Caching::Ask))
    }

    pub(super) async fn links(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(self.account()?).await?;
        let items: Vec<_> =
            links_of(&account).iter().map(|link| AccountLink::of(account.id, link.to, link.kind)).collect();
        let protects = account.details.as_deref().map_or(&[][..], |details| &details.protects);
        let protects = protects.iter().map(|account| Id(account.to_uuid())).collect();
        let list = AccountLinkList::of(account.id, items, protects);
        Ok(Content::json(&list).reply(self.headers(), Caching::Ask))
    }

    pub(super) async fn delete_link(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let (account, to) = (self.account()?, self.other_account()?);
        self.read_nothing().await?;
        let place = bank.place(account.clone());
        // The other account is a part of the request, whichever way it is referred to: a name is one account's for ever.
        // Simplified: what an earlier program kept for a reference by id, or one that was encoded, is another request now.
        let other = match idempotency::is_sent(self.headers()) {
            true => format!("{NAME_PREFIX}{}", &*self.name_of(&to).await.map_err(missing(1))?),
            false => String::new(),
        };
        let origin = self.account_origin(&account, other.as_bytes()).await.map_err(missing(0))?;
        let home = KeyHome::Shard(place.shard);
        let operation = LedgerOperation::Unlink { account: place, to: bank.place(to) };
        let done = bank.operate(operation, Vec::new(), home, false, origin).await;
        let done = done.map_err(|refusal| Problem::from(refusal).naming(&IN_THE_PATH))?;
        Ok(reply::marked(reply::empty(StatusCode::NO_CONTENT), &done))
    }

    async fn first_account(&self, account: AccountSelector) -> Result<AccountView, Problem> {
        self.bank()?.account(account).await.map_err(|refusal| missing(0)(refusal.into()))
    }

    /// The id of the second account.
    async fn id_of(&self, account: AccountSelector) -> Result<AccountId, Problem> {
        match account {
            AccountSelector::Id(id) => Ok(id),
            name @ AccountSelector::Name(_) => {
                let account = self.bank()?.account(name).await;
                Ok(account.map_err(|refusal| missing(1)(refusal.into()))?.id)
            }
        }
    }

    /// Who asks, with an idempotency key that belongs to an account.
    pub(super) async fn account_origin(
        &self,
        account: &AccountSelector,
        body: &[u8],
    ) -> Result<Origin, Problem> {
        if !idempotency::is_sent(self.headers()) {
            return Ok(Origin { key: None, request_id: Box::default() });
        }
        let name = self.name_of(account).await?;
        self.origin(Scope::Account(&name), body)
    }
}

/// Says of an account that is not there which one of the path it is.
fn missing(party: usize) -> impl FnOnce(Problem) -> Problem {
    move |problem| match problem.code {
        Code::AccountNotFound => problem.about(IN_THE_PATH[party]),
        _ => problem,
    }
}

fn links_of(account: &AccountView) -> &[crate::ledger::Link] {
    account.details.as_deref().map_or(&[], |details| &details.links)
}
