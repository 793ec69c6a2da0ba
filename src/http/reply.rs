//! Replies, and how long a client may keep them.

use std::cell::RefCell;
use std::fmt::Write as _;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use super::headers::{self, Headers};
use super::idempotency;
use super::stream::{Body, FRAME_BYTES_MAX};
use uuid::Uuid;

use super::wire::write::Write;
use crate::bank::Done;

/// Room for the usual reply, so that writing it takes one allocation: a transfer's is some 700 bytes, an account's 1,000.
const REPLY_BYTES_TYPICAL: usize = 1024;

/// How many bytes of a hash tell two contents apart.
const CONTENT_TAG_BYTES: usize = 16;

pub(super) const JSON: &str = "application/json";

pub(super) type Reply = Response<Body>;

/// For how long a client may use a reply without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Not at all: it was true once.
    Never,
    /// Each time only after asking whether it still holds.
    Ask,
    /// For an hour: it changes with the program.
    Hour,
    /// For ever, by this client only.
    Forever,
}

impl Caching {
    fn header(self) -> HeaderValue {
        // Of constants, which are looked through when the program is made.
        match self {
            Caching::Never => const { HeaderValue::from_static("no-store") },
            Caching::Ask => const { HeaderValue::from_static("no-cache") },
            Caching::Hour => const { HeaderValue::from_static("public, max-age=3600") },
            Caching::Forever => const { HeaderValue::from_static("private, max-age=31536000, immutable") },
        }
    }
}

thread_local! {
    /// Header maps of requests that are understood, emptied, for the replies of the same thread. A reply's goes on to the
    /// connection's next request; so none is made anew.
    static SPARE_HEADERS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// How many header maps a thread keeps at most: many more than are emptied before a reply takes one.
const SPARE_HEADERS_MAX: usize = 64;
/// For how many headers the largest that is kept has room: more than browsers and proxies send, 5 KB at most.
const SPARE_HEADERS_ROOM_MAX: usize = 48;

/// Keeps a request's header map for a reply.
pub(super) fn reuse(mut headers: HeaderMap) {
    if headers.capacity() <= SPARE_HEADERS_ROOM_MAX {
        headers.clear();
        SPARE_HEADERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE_HEADERS_MAX {
                spare.push(headers);
            }
        });
    }
}

/// A reply without headers.
pub(super) fn new(status: StatusCode, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    *reply.headers_mut() = SPARE_HEADERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    reply
}

/// A reply that is complete without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    new(status, Body::default())
}

/// A resource as it is sent.
fn written(resource: &impl Write) -> Vec<u8> {
    let mut out = Vec::with_capacity(REPLY_BYTES_TYPICAL);
    resource.write(&mut out);
    out
}

/// The same bytes in no more memory than they need, if they may be kept until a slow reader has taken them: as they were
/// written, it may have grown to twice as much.
fn fitted(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() > FRAME_BYTES_MAX {
        bytes.shrink_to_fit();
    }
    bytes
}

/// A reply with a resource.
pub(super) fn json(status: StatusCode, resource: &impl Write) -> Reply {
    let mut reply = new(status, Body::from(fitted(written(resource))));
    reply.headers_mut().insert(CONTENT_TYPE, const { HeaderValue::from_static(JSON) });
    reply
}

/// A resource that is true only now.
pub(super) fn fresh(resource: &impl Write) -> Reply {
    let mut reply = json(StatusCode::OK, resource);
    reply.headers_mut().insert(CACHE_CONTROL, Caching::Never.header());
    reply
}

/// A resource with a tag of its own, which the client that sent `request` may have already.
pub(super) fn tagged(
    request: &Headers<'_>,
    etag: HeaderValue,
    caching: Caching,
    resource: &impl Write,
) -> Reply {
    let known = headers::if_none_match(request, &etag);
    let mut reply = if known { empty(StatusCode::NOT_MODIFIED) } else { json(StatusCode::OK, resource) };
    reply.headers_mut().insert(ETAG, etag);
    reply.headers_mut().insert(CACHE_CONTROL, caching.header());
    reply
}

/// A resource with a tag that is good for `If-Match` only: the resource changes where its tag does not, so a client
/// never has it already.
pub(super) fn tagged_for_if_match(etag: HeaderValue, resource: &impl Write) -> Reply {
    let mut reply = fresh(resource);
    reply.headers_mut().insert(ETAG, etag);
    reply
}

/// Content whose tag is its hash.
#[derive(Debug)]
pub(super) struct Content {
    media_type: &'static str,
    bytes: Bytes,
    etag: HeaderValue,
}

impl Content {
    pub(super) fn new(media_type: &'static str, bytes: Vec<u8>) -> Content {
        let hash = blake3::hash(&bytes);
        let tag = BASE64URL_NOPAD.encode(&hash.as_bytes()[..CONTENT_TAG_BYTES]);
        let etag = HeaderValue::try_from(format!("\"{tag}\"")).expect("base64 fits in a header");
        Content { media_type, bytes: Bytes::from(fitted(bytes)), etag }
    }

    pub(super) fn json(resource: &impl Write) -> Content {
        Content::new(JSON, written(resource))
    }

    /// The reply to the client that sent `request`, which may have it already.
    pub(super) fn reply(&self, request: &Headers<'_>, caching: Caching) -> Reply {
        let known = headers::if_none_match(request, &self.etag);
        let mut reply = if known {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            let mut reply = new(StatusCode::OK, Body::from(self.bytes.clone()));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
            reply
        };
        reply.headers_mut().insert(ETAG, self.etag.clone());
        reply.headers_mut().insert(CACHE_CONTROL, caching.header());
        reply
    }
}

/// A text that is true only now.
pub(super) fn fresh_text(media_type: &'static str, text: String) -> Reply {
    let mut reply = new(StatusCode::OK, Body::from(text.into_bytes()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply.headers_mut().insert(CACHE_CONTROL, Caching::Never.header());
    reply
}

/// Marks a reply that was given before.
pub(super) fn marked<T>(mut reply: Reply, done: &Done<T>) -> Reply {
    if done.replayed {
        idempotency::mark_replayed(reply.headers_mut());
    }
    reply
}

/// The path of a new resource that has an id, for the header of that name; `collection` ends with a slash.
pub(super) fn location_of(collection: &'static str, id: Uuid) -> HeaderValue {
    // Of the exact size, or it would be copied or counted once more to become a header.
    let mut text = String::with_capacity(collection.len() + uuid::fmt::Hyphenated::LENGTH);
    text.push_str(collection);
    text.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    HeaderValue::try_from(text).expect("an id fits in a header")
}

/// The path of any new resource, for the header of that name.
pub(super) fn location(path: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut text = String::with_capacity(64);
    text.write_fmt(path).expect("memory takes what is written to it");
    HeaderValue::try_from(text).expect("an encoded path fits in a header")
}

#[cfg(test)]
mod tests {
    use hyper::header::{COOKIE, HOST};

    use super::*;

    #[test]
    fn a_reply_has_nothing_of_the_request_whose_header_map_it_has() {
        let mut headers = HeaderMap::with_capacity(8);
        let room = headers.capacity();
        headers.insert(HOST, HeaderValue::from_static("here"));
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        reuse(headers);
        let mut large = HeaderMap::with_capacity(100);
        large.insert(HOST, HeaderValue::from_static("there"));
        reuse(large);
        let reply = empty(StatusCode::NO_CONTENT);
        assert!(reply.headers().is_empty() && reply.headers().get(COOKIE).is_none());
        assert_eq!(reply.headers().capacity(), room, "the large one is not kept");
        assert_eq!(empty(StatusCode::OK).headers().capacity(), 0, "each is used once");
    }

    #[test]
    fn no_more_header_maps_are_kept_than_there_is_room_for() {
        (0..2 * SPARE_HEADERS_MAX).for_each(|_| reuse(HeaderMap::with_capacity(8)));
        assert_eq!(SPARE_HEADERS.with_borrow(Vec::len), SPARE_HEADERS_MAX);
    }
}
