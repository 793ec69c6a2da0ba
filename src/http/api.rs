//! The service as HTTP sees it: from a request to its reply, whatever the connection is like.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use super::URI_BYTES_MAX;
use super::call::Call;
use super::headers::{self, Headers, RequestId, X_REQUEST_ID};
use super::listener::{Limits, Received, Vigil};
use super::metrics::Metrics;
use super::operation::WITHOUT_OPERATION;
use super::problem::{Code, Problem};
use super::query::{Query, QueryShape};
use super::reply::{self, Reply};
use super::routes::{self, Found};
use super::stream::Streams;
use super::wire::Version;
use crate::bank::Bank;

/// The HTTP API. It answers from the start; the bank comes when recovery is done.
#[derive(Debug)]
pub struct Api {
    bank: OnceLock<BankCell>,
    ending: AtomicBool,
    pub(super) metrics: Metrics,
    pub(super) streams: Arc<Streams>,
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

/// A reply, and what the connection should know.
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// The client may still be sending a body that nobody will read.
    pub(super) body_unread: bool,
}

impl Default for Api {
    fn default() -> Self {
        Api::new()
    }
}

impl Api {
    /// An API without a bank: it says that it is starting.
    pub fn new() -> Api {
        let streams = Arc::<Streams>::default();
        let metrics = Metrics::new(Arc::clone(&streams));
        Api { bank: OnceLock::new(), ending: AtomicBool::new(false), metrics, streams }
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
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        vigil: &Arc<Vigil>,
        limits: &Limits,
    ) -> Answer {
        let began = Instant::now();
        let _in_flight = self.metrics.enter();
        let (parts, body) = request.into_parts();
        let mut body = Received::new(body, vigil);
        let headers = Headers::of(&parts.headers);
        let request_id = RequestId::of(&headers);
        let found = routes::find(parts.uri.path());
        let version = found.map_or(Version::One, |found| found.route.version);
        let result = self.dispatch(&parts, &headers, &mut body, found, &request_id, limits).await;
        let mut reply = match result {
            Ok(reply) => reply,
            Err(problem) => {
                if let Some(inside) = &problem.inside {
                    tracing::error!(request_id = request_id.as_str(), "{inside}");
                }
                // Not in release builds: a client is better served by a reply that the document leaves out than
                // by none.
                debug_assert!(
                    match found.and_then(|found| found.route.operation(&parts.method)) {
                        Some(operation) => operation.may_answer(problem.code),
                        None => WITHOUT_OPERATION.contains(&problem.code),
                    },
                    "{} {} is not documented to answer {:?}",
                    parts.method,
                    parts.uri.path(),
                    problem.code
                );
                let mut reply = problem.respond(version, request_id.as_str());
                if problem.code == Code::MethodNotAllowed
                    && let Some(found) = found
                {
                    reply.headers_mut().insert(ALLOW, found.route.allow());
                }
                reply
            }
        };
        let body_unread = !body.is_end_stream();
        if body_unread {
            // The rest of the body cannot be told from a next request, short of reading it all.
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let took = began.elapsed();
        let status = reply.status();
        self.metrics.answered(found.map(|found| found.index), status.as_u16(), took);
        let route = found.map_or("none", |found| found.route.pattern);
        if status.is_server_error() {
            tracing::warn!(
                request_id = request_id.as_str(),
                method = parts.method.as_str(),
                route,
                status = status.as_u16(),
                took_us = took.as_micros() as u64,
                "request failed"
            );
        } else {
            tracing::debug!(
                request_id = request_id.as_str(),
                method = parts.method.as_str(),
                route,
                status = status.as_u16(),
                took_us = took.as_micros() as u64,
                "request"
            );
        }
        reply.headers_mut().insert(X_REQUEST_ID.clone(), request_id.into_header());
        Answer { reply, body_unread }
    }

    /// The checks that every request passes, in the order in which their refusals win; see the module.
    async fn dispatch(
        &self,
        parts: &Parts,
        headers: &Headers<'_>,
        body: &mut Received,
        found: Option<Found<'_>>,
        request_id: &RequestId,
        limits: &Limits,
    ) -> Result<Reply, Problem> {
        let uri_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if uri_bytes > URI_BYTES_MAX {
            return Err(Problem::plain(Code::UriTooLong));
        }
        if parts.version == hyper::Version::HTTP_11 {
            headers::check_host(headers)?;
        }
        let found = found.ok_or_else(|| Problem::plain(Code::NotFound))?;
        if parts.method == Method::OPTIONS {
            Query::split(parts.uri.query(), QueryShape::NONE)?;
            let mut reply = reply::empty(StatusCode::NO_CONTENT);
            reply.headers_mut().insert(ALLOW, found.route.allow());
            return Ok(reply);
        }
        let operation =
            found.route.operation(&parts.method).ok_or_else(|| Problem::plain(Code::MethodNotAllowed))?;
        Call { api: self, limits, found, operation, parts, headers, body, request_id }.answer().await
    }
}
