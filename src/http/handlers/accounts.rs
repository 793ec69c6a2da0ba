//! Accounts: opened, read, closed.

use hyper::StatusCode;
use hyper::header::{ETAG, LOCATION};

use crate::bank::AccountSelector;
use crate::http::call::Call;
use crate::http::headers::{self, Scope};
use crate::http::operation::{
    BANK, CHANGE, EVERY, IF_MATCH, IF_NONE_MATCH, JSON_BODY, KEYED, KEYED_IF_MATCH, NAMED, Operation,
    REFERRED, ReplyHeader, RequestBody, Success,
};
use crate::http::path::encode;
use crate::http::problem::{Code, Problem};
use crate::http::reply::{self, Caching, JSON, Reply};
use crate::http::routes::Endpoint;
use crate::http::wire::read::read_body;
use crate::http::wire::schema::Describe;
use crate::http::wire::{Account, AccountV1, OpenAccount, OpenAccountV1};
use crate::ledger::AccountName;
use crate::ledger::operation::Opening;

pub(in crate::http) static OPEN_V1: Operation = Operation {
    endpoint: Endpoint::OpenAccountV1,
    id: "openAccountV1",
    summary: "Open an account (version 1)",
    details: "The account's overdraft limit is the service's.",
    headers: KEYED,
    request: Some(RequestBody::json::<OpenAccountV1>()),
    success: Success {
        status: 201,
        meaning: "The account, as its opening made it.",
        body: Some((JSON, AccountV1::describe)),
        headers: &[ReplyHeader::Location, ReplyHeader::ETag],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, OPENING],
    ..Operation::PLAIN
};

pub(in crate::http) static READ_V1: Operation = Operation {
    endpoint: Endpoint::AccountV1,
    id: "readAccountV1",
    summary: "Read an open account by its name (version 1)",
    headers: IF_NONE_MATCH,
    success: Success { body: Some((JSON, AccountV1::describe)), ..ACCOUNT_NOW },
    problems: &[EVERY, BANK, NAMED],
    ..Operation::PLAIN
};

pub(in crate::http) static CLOSE_V1: Operation = Operation {
    endpoint: Endpoint::CloseV1,
    id: "closeAccountV1",
    summary: "Close an account by its name (version 1)",
    details: CLOSING_DETAILS,
    headers: KEYED_IF_MATCH,
    success: Success { meaning: "The account is closed.", ..Success::EMPTY },
    problems: &[EVERY, BANK, CHANGE, IF_MATCH, NAMED, CLOSING],
    ..Operation::PLAIN
};

pub(in crate::http) static OPEN: Operation = Operation {
    endpoint: Endpoint::OpenAccount,
    id: "openAccount",
    summary: "Open an account",
    headers: KEYED,
    request: Some(RequestBody::json::<OpenAccount>()),
    success: Success {
        status: 201,
        meaning: "The account, as its opening made it.",
        body: Some((JSON, Account::describe)),
        headers: &[ReplyHeader::Location, ReplyHeader::ETag],
        ..Success::EMPTY
    },
    problems: &[EVERY, BANK, CHANGE, JSON_BODY, OPENING],
    leads_to: &[
        ("readAccount", "account", "$response.body#/id"),
        ("listTransactions", "account", "$response.body#/id"),
        ("deposit", "account", "$response.body#/id"),
        ("withdraw", "account", "$response.body#/id"),
        ("closeAccount", "account", "$response.body#/id"),
    ],
    ..Operation::PLAIN
};

pub(in crate::http) static READ: Operation = Operation {
    endpoint: Endpoint::Account,
    id: "readAccount",
    summary: "Read an account",
    details: "By id it finds closed accounts too.",
    headers: IF_NONE_MATCH,
    success: ACCOUNT_NOW,
    problems: &[EVERY, BANK, REFERRED],
    ..Operation::PLAIN
};

pub(in crate::http) static CLOSE: Operation = Operation {
    endpoint: Endpoint::Close,
    id: "closeAccount",
    summary: "Close an account",
    details: CLOSING_DETAILS,
    headers: KEYED_IF_MATCH,
    success: Success { meaning: "The account is closed.", ..Success::EMPTY },
    problems: &[EVERY, BANK, CHANGE, IF_MATCH, REFERRED, CLOSING],
    ..Operation::PLAIN
};

const ACCOUNT_NOW: Success = Success {
    status: 200,
    meaning: "The account as it is now.",
    body: Some((JSON, Account::describe)),
    headers: &[ReplyHeader::ETag, ReplyHeader::CacheControl],
    headers_at_times: &[],
    ..Success::EMPTY
};
const CLOSING_DETAILS: &str = "The account has to stand at zero. Closing is for ever: the name stays taken, and \
    the account can still be read by its id.";
const OPENING: &[Code] = &[Code::AccountExists, Code::AccountsExhausted];
const CLOSING: &[Code] = &[Code::AccountClosed, Code::AccountNotEmpty, Code::UnexpectedBody];

impl Call<'_> {
    pub(super) async fn open_account_v1(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let body = self.read_json().await?;
        let origin = self.origin(Scope::Accounts, &body)?;
        let open: OpenAccountV1 = read_body(&body)?;
        let opened = bank.open(Opening::plain(open.name, bank.currency(), None), origin).await?;
        let location = reply::location(format_args!("/accounts/{}", encode(&opened.value.opened.name)));
        let mut reply = reply::json(StatusCode::CREATED, &AccountV1::opened(&opened.value));
        reply.headers_mut().insert(LOCATION, location);
        reply.headers_mut().insert(ETAG, headers::etag_of_version(1));
        Ok(reply::marked(reply, &opened))
    }

    pub(super) async fn open_account(&mut self) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let body = self.read_json().await?;
        let origin = self.origin(Scope::Accounts, &body)?;
        let open: OpenAccount = read_body(&body)?;
        let limit = open.overdraft_limit.map(|limit| limit.0);
        let opened = bank.open(Opening::plain(open.name, bank.currency(), limit), origin).await?;
        let location = reply::location(format_args!("/v2/accounts/{}", opened.value.id.to_uuid()));
        let mut reply = reply::json(StatusCode::CREATED, &Account::opened(&opened.value));
        reply.headers_mut().insert(LOCATION, location);
        reply.headers_mut().insert(ETAG, headers::etag_of_version(1));
        Ok(reply::marked(reply, &opened))
    }

    pub(super) async fn account_v1(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(AccountSelector::Name(self.name()?)).await?;
        let etag = headers::etag_of_version(account.version);
        Ok(reply::tagged(self.headers(), etag, Caching::Ask, &AccountV1::of(&account)))
    }

    pub(super) async fn account_now(&self) -> Result<Reply, Problem> {
        let account = self.bank()?.account(self.account()?).await?;
        let etag = headers::etag_of_version(account.version);
        Ok(reply::tagged(self.headers(), etag, Caching::Ask, &Account::of(&account)))
    }

    pub(super) async fn close_account_v1(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let account = AccountSelector::Name(self.name()?);
        self.close(account).await
    }

    pub(super) async fn close_account(&mut self) -> Result<Reply, Problem> {
        self.bank()?;
        let account = self.account()?;
        self.close(account).await
    }

    async fn close(&mut self, account: AccountSelector) -> Result<Reply, Problem> {
        let bank = self.bank()?;
        let version = headers::if_match(self.headers())?;
        self.read_nothing().await?;
        let name = self.name_of(&account).await?;
        let origin = self.origin(Scope::Account(&name), &[])?;
        let closed = bank.close(account, version, origin).await?;
        Ok(reply::marked(reply::empty(StatusCode::NO_CONTENT), &closed))
    }

    /// The account's name, which is what an idempotency key belongs to, whichever way the request refers to the
    /// account.
    pub(super) async fn name_of(&self, account: &AccountSelector) -> Result<AccountName, Problem> {
        match account {
            AccountSelector::Name(name) => Ok(name.clone()),
            AccountSelector::Id(_) => Ok(self.bank()?.account(account.clone()).await?.name),
        }
    }
}
