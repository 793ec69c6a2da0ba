//! The service as HTTP sees it: from a request to its reply, whatever the connection is like.
//!
//! A request is timed, counted and given an id; found in the table of routes; checked for what all have in common, in the
//! order that [`http`](super) gives; done by its handler, which may have to wait for a shard; and becomes a reply, which is
//! counted, logged and given the id.
//!
//! What always holds:
//!
//! - every request that is whole gets exactly one reply, and every refusal of a whole request becomes one here;
//! - what is kept of a request that waits is small (see [`Api::answer`]), for thousands of them wait at a time;
//! - the service answers from the first moment to the last: before there is a bank, and while it ends, what needs none.
//!
//! Left out: how bytes become requests (`listener`), and what operations do (`handlers`).

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tokio::sync::Semaphore;

use super::URI_BYTES_MAX;
use super::call::{Call, LARGE_BODIES_MAX};
use super::headers::{self, ACCEPT_PATCH, Headers, RequestId, X_REQUEST_ID};
use super::listener::Limits;
use super::metrics::{InFlight, Metrics};
use super::operation::{Operation, WITHOUT_OPERATION};
use super::problem::{Code, Problem};
use super::reply::{self, Reply};
use super::routes::{self, Found, ROUTES, Route};
use super::stream::{FRAME_BYTES_MAX, ReplyRoom, Streams};
use super::vigil::Vigil;
use super::wire::Version;
use crate::bank::Bank;

/// The HTTP API. It answers from the start; the bank comes when recovery is done.
#[derive(Debug)]
pub struct Api {
    bank: OnceLock<BankCell>,
    ending: AtomicBool,
    pub(super) metrics: Metrics,
    pub(super) streams: Arc<Streams>,
    pub(super) large_body_places: Arc<Semaphore>,
    pub(super) reply_room: ReplyRoom,
}

struct BankCell(Arc<Bank>);

impl std::fmt::Debug for BankCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bank")
    }
}

/// Where in its life the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Ready,
    Ending,
}

/// What an operation comes to once its request has been understood.
pub(super) enum Answer<L> {
    /// The reply.
    Now(Reply),
    /// The wait for it, which needs nothing more of the request.
    Later(L),
}

/// A wait for a reply.
pub(super) trait Wait<'a>: Future<Output = Result<Reply, Problem>> + Send + 'a {}

impl<'a, F: Future<Output = Result<Reply, Problem>> + Send + 'a> Wait<'a> for F {}

/// What is kept of a request until its reply leaves.
struct Kept<'a> {
    began: Instant,
    _in_flight: InFlight<'a>,
    method: Method,
    /// The place of its route, if it has found one.
    index: Option<usize>,
    request_id: RequestId,
    /// The client may still be sending a body that nobody will read, or it is not sure where its next request begins.
    body_unread: bool,
}

impl Default for Api {
    fn default() -> Self {
        Api::new(&Limits::default())
    }
}

impl Api {
    /// An API without a bank: it says that it is starting.
    pub fn new(limits: &Limits) -> Api {
        let streams = Arc::<Streams>::default();
        let metrics = Metrics::new(Arc::clone(&streams));
        Api {
            bank: OnceLock::new(),
            ending: AtomicBool::new(false),
            metrics,
            streams,
            large_body_places: Arc::new(Semaphore::new(LARGE_BODIES_MAX)),
            reply_room: ReplyRoom::of_kib(limits.replies_kib_max),
        }
    }

    /// Takes the bank, and answers from now on.
    ///
    /// # Panics
    /// If it has one already.
    pub fn ready(&self, bank: Arc<Bank>) {
        assert!(self.bank.set(BankCell(bank)).is_ok(), "there is one bank");
    }

    /// Says at `/readyz` that the service is ending, so that no new work is sent here. What comes is still done.
    pub fn ending(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// How many requests have come so far, of any kind.
    pub fn requests(&self) -> u64 {
        self.metrics.requests()
    }

    /// How many of them are being worked on.
    pub fn requests_in_flight(&self) -> u64 {
        self.metrics.in_flight()
    }

    pub(super) fn stage(&self) -> Stage {
        match (self.ending.load(Ordering::Acquire), self.bank.get()) {
            (true, _) => Stage::Ending,
            (false, None) => Stage::Starting,
            (false, Some(_)) => Stage::Ready,
        }
    }

    pub(super) fn bank(&self) -> Result<&Arc<Bank>, Problem> {
        match self.bank.get() {
            Some(BankCell(bank)) => Ok(bank),
            None if self.stage() == Stage::Ending => Err(Problem::plain(Code::Ending)),
            None => Err(Problem::plain(Code::Starting)),
        }
    }

    /// Answers a request.
    ///
    /// The connection stores what is returned anew for each request, and it stays there while the request waits, with
    /// hundreds of others that want the same caches: so it is kept small. The request is understood in memory of its
    /// own, which is given back, warm, for the next one to be understood in; a request that has to wait for a shard
    /// then keeps what its reply needs, and no more. The sizes that this comes to are asserted below.
    pub(super) fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        vigil: &'a Vigil,
        limits: &'a Limits,
    ) -> impl Future<Output = Result<Reply, Infallible>> + Send + 'a {
        let understood = Box::pin(self.understand(request, vigil, limits));
        async move {
            let (kept, later) = match understood.await {
                (kept, Ok(Answer::Later(later))) => (kept, later),
                (kept, Ok(Answer::Now(reply))) => return Ok(self.finish(kept, Ok(reply), vigil)),
                (kept, Err(problem)) => return Ok(self.finish(kept, Err(problem), vigil)),
            };
            let result = later.await;
            Ok(self.finish(kept, result, vigil))
        }
    }

    /// Reads a request, and does what it asks for or begins to. This is no async function, which would keep the request
    /// beside its parts.
    fn understand<'a>(
        &'a self,
        request: Request<Incoming>,
        vigil: &'a Vigil,
        limits: &'a Limits,
    ) -> impl Future<Output = (Kept<'a>, Result<Answer<impl Wait<'a>>, Problem>)> + Send + 'a {
        vigil.head_came();
        let began = Instant::now();
        let in_flight = self.metrics.enter();
        let (parts, mut body) = request.into_parts();
        async move {
            let headers = Headers::of(&parts.headers);
            let request_id = RequestId::of(&headers);
            let found = routes::find(parts.uri.path());
            let (mut has_whole_body, mut has_trailers) = (false, false);
            let answer = 'answer: {
                let (found, operation) = match check(&parts, &headers, found) {
                    Ok(Asked::Operation(found, operation)) => (found, operation),
                    Ok(Asked::Methods(route)) => break 'answer Ok(Answer::Now(options(route))),
                    Err(problem) => break 'answer Err(problem),
                };
                let (parts, headers, body, request_id) = (&parts, &headers, &mut body, &request_id);
                let mut call = Call {
                    api: self,
                    limits,
                    found,
                    operation,
                    parts,
                    headers,
                    vigil,
                    body,
                    has_whole_body: false,
                    has_trailers: false,
                    claims: None,
                    request_id,
                };
                let answer = call.answer(self).await;
                (has_whole_body, has_trailers) = (call.has_whole_body, call.has_trailers);
                answer
            };
            let index = found.map(|found| found.index);
            // hyper looks for the end of trailers by one rule and reads them by another, which takes a bare line feed for an
            // end: what it has taken for trailers may have been the next request.
            let body_unread = has_trailers || !has_whole_body && !body.is_end_stream();
            if headers.offer_upgrade() || parts.method == Method::CONNECT {
                vigil.upgrade_offered();
            }
            if body_unread {
                vigil.body_left_unread();
            }
            let Parts { method, headers, .. } = parts;
            reply::reuse(headers);
            (Kept { began, _in_flight: in_flight, method, index, request_id, body_unread }, answer)
        }
    }

    /// The reply with the room that it needs until it has been read.
    ///
    /// What was done has to be told: a batch took its room before it began, and what others reply to a change is small. So
    /// are the replies of reads that are answered whatever happens.
    fn given_room(
        &self,
        reply: Reply,
        method: &Method,
        route: Option<&Route>,
        vigil: &Vigil,
    ) -> Result<Reply, Problem> {
        let bytes = match vigil.leaves_early() {
            // Of a document that all share this connection will have a copy of its own.
            true => reply.body().bytes(),
            false => reply.body().bytes_without_room(),
        };
        // Almost every reply is small, and is asked nothing else.
        if bytes <= FRAME_BYTES_MAX || *method != Method::GET {
            return Ok(reply);
        }
        let operation = route.and_then(|route| route.operation(method));
        if !operation.is_some_and(|operation| operation.may_answer(Code::Overloaded)) {
            return Ok(reply);
        }
        let room = self.reply_room.take(bytes)?;
        Ok(reply.map(|body| body.keeping(vigil.keep(room))))
    }

    /// Makes the reply, whatever came of the request.
    fn finish(&self, kept: Kept<'_>, result: Result<Reply, Problem>, vigil: &Vigil) -> Reply {
        let route = kept.index.map(|index| &ROUTES[index]);
        let result = result.and_then(|reply| self.given_room(reply, &kept.method, route, vigil));
        let mut reply = result.unwrap_or_else(|problem| refuse(&problem, &kept, route));
        if kept.body_unread {
            // The rest of the body cannot be told from a next request, short of reading it all.
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let took = kept.began.elapsed();
        let status = reply.status();
        self.metrics.answered(kept.index, status.as_u16(), took);
        let route = route.map_or("none", |route| route.pattern);
        // A refusal is no failure, and under overload there is one a request: a line each would cost a lock and a write.
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(
                request_id = kept.request_id.as_str(),
                method = kept.method.as_str(),
                route,
                status = status.as_u16(),
                took_us = took.as_micros() as u64,
                "request failed"
            );
        } else {
            tracing::debug!(
                request_id = kept.request_id.as_str(),
                method = kept.method.as_str(),
                route,
                status = status.as_u16(),
                took_us = took.as_micros() as u64,
                "request"
            );
        }
        reply.headers_mut().insert(X_REQUEST_ID.clone(), kept.request_id.into_header());
        vigil.answered(&reply, kept.method == Method::HEAD, kept.body_unread);
        reply
    }
}

/// What a request asks for.
enum Asked<'p> {
    /// That something is done.
    Operation(Found<'p>, &'static Operation),
    /// Which methods there are: of a route, or, for `*`, at all (RFC 9110, 9.3.7).
    Methods(Option<&'static Route>),
}

/// The checks that every request passes, in the order in which their refusals win; see the module.
fn check<'p>(parts: &Parts, headers: &Headers<'_>, found: Option<Found<'p>>) -> Result<Asked<'p>, Problem> {
    let uri_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if uri_bytes > URI_BYTES_MAX {
        return Err(Problem::plain(Code::UriTooLong));
    }
    headers::check_host(headers, &parts.uri, parts.version)?;
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        return Ok(Asked::Methods(None));
    }
    let found = found.ok_or_else(|| Problem::plain(Code::NotFound))?;
    if parts.method == Method::OPTIONS {
        // What a query would mean depends on the method that it is for: none of them is asked for here.
        return Ok(Asked::Methods(Some(found.route)));
    }
    let operation =
        found.route.operation(&parts.method).ok_or_else(|| Problem::plain(Code::MethodNotAllowed))?;
    Ok(Asked::Operation(found, operation))
}

/// The reply that says which methods a route has, or all together.
fn options(route: Option<&Route>) -> Reply {
    let mut reply = reply::empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    headers.insert(ALLOW, route.map_or_else(routes::allow_anywhere, Route::allow));
    headers.extend(route.and_then(Route::accept_patch).map(|types| (ACCEPT_PATCH.clone(), types)));
    reply
}

/// The reply to a request that is refused.
fn refuse(problem: &Problem, kept: &Kept<'_>, route: Option<&'static Route>) -> Reply {
    let request_id = kept.request_id.as_str();
    if let Some(inside) = &problem.inside {
        tracing::error!(request_id, "{inside}");
    }
    // Not in release builds: a client is better served by a reply that the document leaves out than by none.
    debug_assert!(
        match route.and_then(|route| route.operation(&kept.method)) {
            Some(operation) => operation.may_answer(problem.code),
            None => WITHOUT_OPERATION.contains(&problem.code),
        },
        "{} {:?} is not documented to answer {:?}",
        kept.method,
        route.map(|route| route.pattern),
        problem.code
    );
    let mut reply = problem.respond(route.map_or(Version::One, |route| route.version), request_id);
    let advice = match problem.code {
        Code::MethodNotAllowed => route.map(|route| (ALLOW, route.allow())),
        Code::UnsupportedMediaType if kept.method == Method::PATCH => {
            route.and_then(Route::accept_patch).map(|types| (ACCEPT_PATCH.clone(), types))
        }
        _ => None,
    };
    reply.headers_mut().extend(advice);
    reply
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::logged::logged;

    /// How large what is made of a request is. None can be made here: only a connection has one.
    fn bytes<F>(_: impl FnOnce(Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each refusal with a 5xx was written to the log as a warning, so that an overloaded service took a lock and wrote a
    /// line for every request that it sent away.
    #[test]
    fn the_log_warns_of_failures_and_not_of_refusals() {
        let (api, vigil) = (Api::default(), Vigil::new(Duration::ZERO));
        let warned: Vec<Code> = Code::ALL
            .iter()
            .copied()
            .filter(|code| {
                let kept = Kept {
                    began: Instant::now(),
                    _in_flight: api.metrics.enter(),
                    method: Method::POST,
                    index: routes::find("/v2/batches").map(|found| found.index),
                    request_id: RequestId::made_up(),
                    body_unread: false,
                };
                let reply = Ok(reply::empty(code.status()));
                !logged(|| api.finish(kept, reply, &vigil)).1.is_empty()
            })
            .collect();
        assert_eq!(warned, [Code::InternalError]);
    }

    /// The compiler decides how futures are laid out: another one may need other numbers. If this fails, look
    /// for what an async function keeps twice, or holds while it waits:
    /// `RUSTC_BOOTSTRAP=1 cargo rustc --lib -- -Zprint-type-sizes` says it.
    #[test]
    fn a_request_that_waits_takes_four_lines_of_the_processors_caches() {
        let (api, vigil, limits) = (Api::default(), Vigil::new(Duration::ZERO), Limits::default());
        assert!(bytes(|request| api.answer(request, &vigil, &limits)) <= 4 * 64);
        // As much as the system's allocator gives out again at once, without looking further.
        assert!(bytes(|request| api.understand(request, &vigil, &limits)) <= 1024);
    }
}
