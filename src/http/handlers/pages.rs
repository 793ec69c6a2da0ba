//! Lists that are read page by page: how long a page is, where it starts, and where the next one is.

use std::borrow::Cow;

use hyper::header::LINK;
use serde_json::{Value, json};

use crate::bank::{AccountSelector, Bank, PAGE_ENTRIES_MAX, Refusal};
use crate::http::cursor::{self, CURSOR_PATTERN, ListDigest};
use crate::http::headers::Headers;
use crate::http::problem::Problem;
use crate::http::query::{Parameter, Query};
use crate::http::reply::{Caching, Content, Reply};
use crate::http::wire::links::PageLinks;
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::write::Text;
use crate::ledger::AccountId;

/// How many items a page has if the client does not say.
const PAGE_ENTRIES_DEFAULT: usize = 100;

/// A list, as its cursors and links know it.
pub(super) struct Pages {
    /// Its address with all but a cursor.
    address: String,
    digest: ListDigest,
}

impl Pages {
    /// The list at a path with what is asked of it, in pages of so many, in this order if there are several: that makes it
    /// another list, as its filters do.
    pub(super) fn of(query: &Query<'_>, path: String, limit: usize, order: Option<&'static str>) -> Pages {
        let filters = query.canonical(&["limit", "order", "cursor"]);
        let parts = [path.as_str()].into_iter().chain(order).chain(filters.iter().map(String::as_str));
        let digest = ListDigest::of(parts);
        let order = order.map(|order| format!("order={order}"));
        let mut address = format!("{path}?limit={limit}");
        for parameter in order.iter().chain(&filters) {
            address.push('&');
            address.push_str(parameter);
        }
        Pages { address, digest }
    }

    /// The place at which the page starts that a cursor asks for.
    ///
    /// # Errors
    /// If it is not a cursor of this list.
    pub(super) fn start(&self, cursor: Option<&Cursor>) -> Result<Option<u64>, Problem> {
        cursor.map(|Cursor(text)| cursor::decode(text, self.digest)).transpose()
    }

    /// The reply with the page that `cursor` asked for: `page` makes it of the cursor of the one that starts at `next`, and of
    /// its links.
    pub(super) fn reply(
        &self,
        request: &Headers<'_>,
        cursor: Option<&Cursor>,
        next: Option<u64>,
        page: impl FnOnce(Option<Text<'_>>, PageLinks) -> Content,
    ) -> Reply {
        let next = next.map(|place| cursor::encode(self.digest, place));
        let at = |cursor: &str| format!("{}&cursor={cursor}", self.address);
        let this = cursor.map_or_else(|| self.address.clone(), |Cursor(text)| at(text));
        let links = PageLinks { this, next: next.as_deref().map(at) };
        let link = links.header();
        let mut reply = page(next.as_deref().map(Text), links).reply(request, Caching::Ask);
        reply.headers_mut().extend(link.map(|link| (LINK, link)));
        reply
    }
}

/// The id of an account whose list is read: a cursor belongs to it, for a name has one only as long as the account is open.
pub(super) async fn listed(bank: &Bank, account: AccountSelector) -> Result<AccountId, Refusal> {
    match account {
        AccountSelector::Id(id) => Ok(id),
        AccountSelector::Name(_) => Ok(bank.account(account).await?.id),
    }
}

/// How many items a page has at most.
pub(super) struct PageLimit(pub(super) usize);

impl Describe for PageLimit {
    fn describe(_: &mut Schemas) -> Value {
        json!({
            "type": "integer",
            "minimum": 1,
            "maximum": PAGE_ENTRIES_MAX,
            "default": PAGE_ENTRIES_DEFAULT,
        })
    }
}

impl Parameter for PageLimit {
    fn parse(text: &str) -> Result<PageLimit, Cow<'static, str>> {
        Some(text)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|limit| (1..=PAGE_ENTRIES_MAX).contains(limit))
            .map(PageLimit)
            .ok_or_else(|| format!("must be a number from 1 to {PAGE_ENTRIES_MAX}").into())
    }

    fn absent() -> Option<PageLimit> {
        Some(PageLimit(PAGE_ENTRIES_DEFAULT))
    }
}

/// A cursor, still text: what it says depends on the list.
pub(super) struct Cursor(pub(super) String);

impl Describe for Cursor {
    fn describe(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": CURSOR_PATTERN })
    }
}

impl Parameter for Cursor {
    fn parse(text: &str) -> Result<Cursor, Cow<'static, str>> {
        Ok(Cursor(text.to_owned()))
    }
}
