//! A request that has found its operation: what all handlers ask of it.
//!
//! What always holds:
//!
//! - what is asked is read strictly, and a refusal says which part of the request it is about;
//! - a body is bounded before it is read, and one that is large takes one of a few [places](LARGE_BODIES_MAX), which it
//!   keeps until it is answered (P7);
//! - an idempotency key is checked before the body has come, and bound to all of it afterwards.
//!
//! Left out: what the operation makes of it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use super::api::Api;
use super::headers::{self, Headers, RequestId};
use super::idempotency::{self, KeyBinding, Scope};
use super::listener::Limits;
use super::operation::{Operation, RequestHeader};
use super::path::decode;
use super::problem::{Code, Place, Problem};
use super::query::Query;
use super::routes::Found;
use super::stream::Room;
use super::vigil::{Received, Vigil};
use super::wire::Version;
use super::wire::values::{NAME_PREFIX, ReferenceError, parse_reference};
use crate::bank::{AccountSelector, Bank, Origin};
use crate::ledger::{AccountName, HoldId, IdError, TransactionId};

/// How many large bodies, those of batches, there are in memory at one time, on their way or being worked on. They come
/// to 512 MiB, where one of each connection would come to 80 GB; and they are executed by a few shards, so more of them
/// at a time would only wait for one another.
///
/// A body is large once more of it has come than any other body may have: what only says that it will be large, or does
/// not say how long it will be, takes no memory, and nobody shuts others out by saying it.
pub(super) const LARGE_BODIES_MAX: usize = 64;

/// How many bytes an entry of a list takes, more or less, if it says as much as it may: a transaction between two accounts
/// with all of its metadata. One of 64 legs takes three times that, and may be found to have no room when it is there.
const ENTRY_BYTES_MAX: usize = 6 * 1024;

/// A request, and what is to be done about it.
pub(super) struct Call<'a> {
    pub(super) api: &'a Api,
    pub(super) limits: &'a Limits,
    pub(super) found: Found<'a>,
    pub(super) operation: &'static Operation,
    pub(super) parts: &'a Parts,
    pub(super) headers: &'a Headers<'a>,
    pub(super) vigil: &'a Vigil,
    pub(super) body: &'a mut Incoming,
    /// Whether the body has been read to its end. One that comes in chunks does not tell by itself.
    pub(super) has_whole_body: bool,
    /// Whether trailers came behind it. They mean nothing here, but the connection ends with the reply.
    pub(super) has_trailers: bool,
    /// What it has taken of what there is for all requests together. Boxed, so that those that take nothing are no larger.
    pub(super) claims: Option<Box<Claims>>,
    pub(super) request_id: &'a RequestId,
}

/// What a request has taken of what there is for all requests together.
#[derive(Default)]
pub(super) struct Claims {
    /// A place among those with large bodies, until it is answered.
    place: Option<OwnedSemaphorePermit>,
    /// Room for its reply, until that has been read.
    pub(super) room: Option<Room>,
}

impl<'a> Call<'a> {
    pub(super) fn headers(&self) -> &'a Headers<'a> {
        self.headers
    }

    /// The query, which has no parameter that the operation does not know.
    pub(super) fn query(&self) -> Result<Query<'a>, Problem> {
        Query::split(self.parts.uri.query(), self.operation.query)
    }

    /// Makes sure of a change that it is no page of another site that wants it, which has a browser send whatever it likes
    /// to this machine; and that there is no condition that the operation does not know: it would have to leave undone
    /// what is asked for if that was false (RFC 9110, 13.1). Reading changes nothing and may pass one over.
    pub(super) fn check_change(&self) -> Result<(), Problem> {
        if self.parts.method.is_safe() {
            return Ok(());
        }
        if self.headers.are_from_another_site() {
            return Err(Problem::plain(Code::CrossSite));
        }
        if self.headers.has_if_match() && !self.operation.headers.contains(&RequestHeader::IfMatch) {
            let detail =
                "is not taken here, but by deposits, withdrawals, and PATCH and DELETE of an account";
            return Err(Problem::at(Code::InvalidIfMatch, Place::Header("If-Match"), detail));
        }
        if self.headers.has_if_none_match() {
            let detail = "is taken only where something is read";
            return Err(Problem::at(Code::InvalidIfNoneMatch, Place::Header("If-None-Match"), detail));
        }
        Ok(())
    }

    /// The bank, once it is there. It outlives the call, so what is asked of it does not borrow the call.
    pub(super) fn bank(&self) -> Result<&'a Arc<Bank>, Problem> {
        self.api.bank()
    }

    /// The first variable segment of the path, still encoded.
    pub(super) fn segment(&self) -> &'a str {
        self.found.segments[0]
    }

    /// The account name in the path.
    pub(super) fn name(&self) -> Result<AccountName, Problem> {
        let name = decode(self.segment()).map_err(invalid_name)?;
        AccountName::parse(&name).map_err(invalid_name)
    }

    /// The account reference in the path. What is a UUID but no account's finds no account.
    pub(super) fn account(&self) -> Result<AccountSelector, Problem> {
        account_in(self.segment())
    }

    /// The second account reference in the path.
    pub(super) fn other_account(&self) -> Result<AccountSelector, Problem> {
        account_in(self.found.segments[1])
    }

    /// The hold id in the path. What is a UUID but no hold's finds no hold.
    pub(super) fn hold_id(&self) -> Result<HoldId, Problem> {
        let text = decode(self.segment()).unwrap_or(Cow::Borrowed(""));
        HoldId::parse(&text).map_err(|error| match error {
            IdError::NotAUuid => invalid_id(error),
            IdError::Foreign => Problem::plain(Code::HoldNotFound),
        })
    }

    /// The transaction id in the path. What is a UUID but no transaction's finds no transaction.
    pub(super) fn transaction_id(&self) -> Result<TransactionId, Problem> {
        let text = decode(self.segment()).unwrap_or(Cow::Borrowed(""));
        TransactionId::parse(&text).map_err(|error| match error {
            IdError::NotAUuid => invalid_id(error),
            IdError::Foreign => Problem::plain(Code::TransactionNotFound),
        })
    }

    /// Checks what the headers say of the body that the operation takes, then reads it. Where it may be left away an empty
    /// one is none, whatever the headers say of it: `curl -d ''` calls it a form.
    pub(super) async fn read_taken(&mut self) -> Result<Bytes, Problem> {
        if self.operation.is_keyed() {
            idempotency::check(self.headers())?;
        }
        if !self.body_is_optional() {
            self.check_media_type()?;
        }
        let body = self.read_body().await?;
        if self.body_is_optional() && !body.is_empty() {
            self.check_media_type()?;
        }
        Ok(body)
    }

    fn body_is_optional(&self) -> bool {
        self.operation.request.is_some_and(|request| request.is_optional)
    }

    fn check_media_type(&self) -> Result<(), Problem> {
        let request = self.operation.request.as_ref().expect("the operation takes a body");
        let is_strict = self.found.route.version == Version::Two;
        headers::check_media_type(self.headers(), is_strict, request.media_types())
    }

    /// Makes sure that there is no body.
    pub(super) async fn read_nothing(&mut self) -> Result<(), Problem> {
        idempotency::check(self.headers())?;
        if self.read_body().await?.is_empty() {
            return Ok(());
        }
        Err(Problem::plain(Code::UnexpectedBody))
    }

    /// Reads the body, within its bounds of size and time.
    async fn read_body(&mut self) -> Result<Bytes, Problem> {
        if self.body.is_end_stream() {
            return Ok(Bytes::new());
        }
        // Any other coding would have to be undone first: its bytes are not the body.
        if self.headers().has_transfer_coding() {
            return Err(Problem::new(
                Code::InvalidBody,
                "the only transfer coding that is understood is chunked",
            ));
        }
        let bytes_max = self.operation.request.map_or(super::BODY_BYTES_MAX, |request| request.bytes_max);
        // The declared length is looked at before the client is asked to go on (Expect: 100-continue).
        if self.body.size_hint().lower() > bytes_max as u64 {
            return Err(Problem::plain(Code::PayloadTooLarge));
        }
        let mut whole = Whole { call: self, bytes_max, pieces: Vec::new() };
        // Almost every body comes with its head, and a timer costs more than reading it; but hyper passes it on only
        // when it has been asked for it, so it is asked twice before one is set.
        let mut is_first = true;
        let at_once = poll_fn(|cx| match Pin::new(&mut whole).poll(cx) {
            Poll::Ready(body) => Poll::Ready(Some(body)),
            Poll::Pending if mem::take(&mut is_first) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(None),
        });
        let body = match at_once.await {
            Some(body) => body,
            None => {
                let in_time = Box::pin(tokio::time::timeout(whole.call.limits.body_read_time_max, whole));
                in_time.await.unwrap_or_else(|_| Err(Problem::plain(Code::RequestTimeout)))
            }
        };
        self.has_whole_body = body.is_ok();
        body
    }

    /// Takes a place among those with large bodies, for a request that is as much work.
    pub(super) fn take_large_body_place(&mut self) -> Result<(), Problem> {
        let claims = self.claims.get_or_insert_default();
        if claims.place.is_none() {
            let place = Arc::clone(&self.api.large_body_places).try_acquire_owned();
            claims.place = Some(place.map_err(|_| Problem::plain(Code::Overloaded))?);
        }
        Ok(())
    }

    /// Takes room for a reply of so many bytes at most.
    pub(super) fn take_reply_room(&mut self, bytes: usize) -> Result<(), Problem> {
        if let Some(room) = self.api.reply_room.take(bytes)? {
            self.claims.get_or_insert_default().room = Some(room);
        }
        Ok(())
    }

    /// Refuses at once to read a list of so many entries if there would hardly be room for the reply.
    pub(super) fn look_for_room(&self, entries: usize) -> Result<(), Problem> {
        self.api.reply_room.look(entries * ENTRY_BYTES_MAX)
    }

    /// Who asks: the request's id, and its idempotency key.
    pub(super) fn origin(&self, scope: Scope<'_>, body: &[u8]) -> Result<Origin, Problem> {
        let binding =
            KeyBinding { scope, method: self.parts.method.as_str(), route: self.found.route.pattern, body };
        let key = idempotency::key_of(self.headers(), &binding)?;
        // Only what is kept for a key is kept with the id of its request.
        let request_id = key.map_or_else(Box::default, |_| self.request_id.as_str().into());
        Ok(Origin { key, request_id })
    }
}

/// All of a body, up to a bound. Nearly every body comes in one piece, which is passed on as it is.
struct Whole<'c, 'a> {
    call: &'c mut Call<'a>,
    bytes_max: usize,
    /// What has come, if it was not all.
    pieces: Vec<u8>,
}

impl Future for Whole<'_, '_> {
    type Output = Result<Bytes, Problem>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Whole { call, bytes_max, pieces } = &mut *self;
        loop {
            let mut received = Received { body: call.body, vigil: call.vigil };
            let Some(frame) = ready!(Pin::new(&mut received).poll_frame(cx)) else { break };
            let Ok(piece) = frame.map_err(|_| Problem::plain(Code::InvalidBody))?.into_data() else {
                call.has_trailers = true;
                continue;
            };
            if piece.len() > *bytes_max - pieces.len() {
                return Poll::Ready(Err(Problem::plain(Code::PayloadTooLarge)));
            }
            if pieces.len() + piece.len() > super::BODY_BYTES_MAX {
                call.take_large_body_place()?;
                // Room for all that is said to come, so that it need not be moved as it grows: what does not come takes no
                // memory.
                let to_come = usize::try_from(call.body.size_hint().lower()).unwrap_or(usize::MAX);
                if to_come > 0 {
                    pieces.reserve_exact(piece.len().saturating_add(to_come).min(*bytes_max - pieces.len()));
                }
            }
            if pieces.is_empty() && call.body.is_end_stream() {
                return Poll::Ready(Ok(piece));
            }
            pieces.extend_from_slice(&piece);
        }
        Poll::Ready(Ok(mem::take(pieces).into()))
    }
}

fn invalid_name(detail: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidAccountName, format!("the name in the path {detail}"))
}

/// The account reference in a segment of the path.
fn account_in(segment: &str) -> Result<AccountSelector, Problem> {
    let not_text = |detail| match segment.starts_with(NAME_PREFIX) {
        true => invalid_name(detail),
        false => invalid_id(ReferenceError::NotAUuid),
    };
    parse_reference(&decode(segment).map_err(not_text)?).map_err(|error| match error {
        ReferenceError::Name(error) => invalid_name(error),
        ReferenceError::NotAUuid => invalid_id(error),
    })
}

fn invalid_id(detail: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidId, format!("the id in the path {detail}"))
}
