//! Lists that are read page by page: how long a page is, where it starts, and where the next one is.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::bank::PAGE_ENTRIES_MAX;
use crate::http::cursor::{self, CURSOR_PATTERN, ListDigest};
use crate::http::problem::Problem;
use crate::http::query::{Parameter, Query};
use crate::http::wire::links::PageLinks;
use crate::http::wire::schema::{Describe, Schemas};

/// How many transactions a page has if the client does not say.
const PAGE_ENTRIES_DEFAULT: usize = 100;

/// A list, as its cursors and links know it.
pub(super) struct Pages {
    /// Its address with all but a cursor.
    address: String,
    digest: ListDigest,
}

impl Pages {
    /// The list at a path with what is asked of it. `page` are the parameters that each of its pages has, written out;
    /// `order` is in which order it is, if there are several: that makes it another list, as its filters do.
    pub(super) fn of(query: &Query<'_>, path: String, page: &str, order: &str) -> Pages {
        let filters = query.canonical(&["limit", "order", "cursor"]);
        let orders = Some(order).filter(|order| !order.is_empty());
        let parts = [path.as_str()].into_iter().chain(orders).chain(filters.iter().map(String::as_str));
        let digest = ListDigest::of(parts);
        let mut address = format!("{path}?{page}");
        for filter in &filters {
            address.push('&');
            address.push_str(filter);
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

    /// The cursor of the page that starts at `next`, and the links of the one that `cursor` asked for.
    pub(super) fn links(&self, cursor: Option<&Cursor>, next: Option<u64>) -> (Option<String>, PageLinks) {
        let next = next.map(|place| cursor::encode(self.digest, place));
        let at = |cursor: &str| format!("{}&cursor={cursor}", self.address);
        let this = cursor.map_or_else(|| self.address.clone(), |Cursor(text)| at(text));
        let links = PageLinks { this, next: next.as_deref().map(at) };
        (next, links)
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
