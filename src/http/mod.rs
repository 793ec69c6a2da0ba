//! The HTTP edge: bytes of a socket in, calls of the [bank](crate::bank) in the middle, JSON out.
//!
//! [`Api`] is the service as HTTP sees it; [`serve`] puts it on a socket. A request goes through
//! `listener` (connections and their bounds, with `vigil` and `patient_stream`), `api` (what all requests have in
//! common), `routes` (the table), `handlers` (what each operation does), with `call`, `path`, `query`, `headers`,
//! `idempotency` and `wire` to read it, `wire` and `reply` to answer it, and `problem` for every refusal. `openapi` tells
//! all of this to clients: it is made from the same declarations (`operation`) that the code runs by.
//!
//! To add a resource: its bodies and resources in a file of `wire` (`body!`, `resource!`), its operations and what
//! they do in a file of `handlers` (an `Operation` each), an `Endpoint` each, and a line a path in `routes`. The
//! document, the page and the links of `GET /` follow.
//!
//! What always holds:
//!
//! - a reply has an `X-Request-Id`, the client's or a new one; every log line about it has the same;
//! - a refusal is `application/problem+json` with a [`Code`] of one closed table, which has a page of its own
//!   under `/problems/`. Three answers come without one, because the HTTP library gives them before there is a
//!   request: an empty 400 for what is not HTTP, an empty 431 for a head that is too long, and a closed
//!   connection for a head that does not come in time or whole, or that speaks HTTP/2;
//! - nothing is guessed: what is not understood and would change the meaning of a request (a query parameter,
//!   a field, a condition, a second idempotency key) is refused;
//! - no amount passes through a float;
//! - everything is bounded: connections, heads, URIs, bodies, pages, and each wait for the client.
//!
//! Of several things wrong with a request, the client hears the first of these: the URI's length; `Host`; path;
//! method; query parameters that are unknown; for changes, whether it is for a page of another site; a condition that is
//! not known there; whether the service has started; name or id in the path, and the other parameters; `If-Match`;
//! `Idempotency-Key`; media type; the body's size and arrival, which come before its type where it may be left away; its
//! syntax; its fields, all at once; and only then what the bank says.
//!
//! A request that has reached the bank takes effect whether or not its client waits for the reply; a client
//! that lost the connection asks again with the same idempotency key.
//!
//! A reply is complete when it leaves, but for the events that a client asks to hear as they happen (`stream`).
//!
//! Left out on purpose: TLS, authentication and compression (a proxy's), and HTTP/2, which buys nothing for
//! small replies behind one.

mod api;
mod call;
mod cursor;
mod handlers;
mod headers;
mod idempotency;
mod listener;
mod metrics;
mod openapi;
mod operation;
mod outbox;
mod path;
mod patient_stream;
mod problem;
mod query;
mod reply;
mod routes;
mod stream;
mod threads;
mod vigil;
mod wire;

pub use api::Api;
pub use listener::{Drained, Limits, serve};
pub use problem::{Code, Retry};
pub use threads::Threads;
pub(crate) use wire::write::Rfc3339;

/// The longest body, in bytes, but for batches. A transfer among 64 accounts with names of 255 bytes, as many conditions
/// and all of its metadata has some 45,000, and other requests less. Where every character is written as an escape of 6
/// bytes for each of its own, such a transfer is too long; it can name the accounts by id.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest path with its query, in bytes. An encoded name has at most 765, a list's cursor 40. What needs as much is a
/// position among the events of 1,024 shards (`wire/events.rs`); and with that a second time, as `Last-Event-ID`, there is
/// room left in a head.
pub const URI_BYTES_MAX: usize = 8 * 1024;

/// The longest head of a request, in bytes: what browsers and proxies add fits several times over.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
