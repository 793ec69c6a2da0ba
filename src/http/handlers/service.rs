//! The service itself: where to start, how it is, what its problems mean, whether its books balance.

use std::sync::LazyLock;

use super::statements::any_text;
use crate::http::api::Stage;
use crate::http::call::{Call, LARGE_BODIES_MAX};
use crate::http::metrics::Taken;
use crate::http::openapi::{self, docs};
use crate::http::operation::{BANK, EVERY, IF_NONE_MATCH, Operation, ReplyHeader, Success};
use crate::http::problem::{Code, Problem};
use crate::http::reply::{self, Caching, Content, JSON, Reply};
use crate::http::routes::{Endpoint, ROUTES, Route};
use crate::http::wire::schema::{Describe, Schemas};
use crate::http::wire::write::Text;
use crate::http::wire::{Catalog, ProblemList, ProblemPage, Service, Status, TrialBalance};

/// The text format of Prometheus.
const METRICS_MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

pub(in crate::http) static SERVICE: Operation = Operation {
    endpoint: Endpoint::Service,
    id: "readService",
    summary: "Find everything else",
    details: "The one address that a client has to know.",
    success: Success { body: Some((JSON, Service::describe)), ..STABLE },
    ..STABLE_OPERATION
};

pub(in crate::http) static OPENAPI: Operation = Operation {
    endpoint: Endpoint::OpenApi,
    id: "readOpenApi",
    summary: "Read this document",
    problems: &[EVERY, &[Code::Overloaded]],
    success: Success { meaning: "An OpenAPI 3.1 document.", body: Some((JSON, any_object)), ..STABLE },
    ..STABLE_OPERATION
};

pub(in crate::http) static DOCS: Operation = Operation {
    endpoint: Endpoint::Docs,
    id: "readDocs",
    summary: "Read this document as a page",
    problems: &[EVERY, &[Code::Overloaded]],
    success: Success {
        meaning: "A page without scripts.",
        body: Some((HTML, any_text)),
        headers: &[
            ReplyHeader::ETag,
            ReplyHeader::CacheControl,
            ReplyHeader::ContentSecurityPolicy,
            ReplyHeader::ContentTypeOptions,
            ReplyHeader::ReferrerPolicy,
        ],
        ..STABLE
    },
    ..STABLE_OPERATION
};

pub(in crate::http) static PROBLEMS: Operation = Operation {
    endpoint: Endpoint::Problems,
    id: "listProblems",
    summary: "Read what can go wrong",
    success: Success { body: Some((JSON, ProblemList::describe)), ..STABLE },
    ..STABLE_OPERATION
};

pub(in crate::http) static PROBLEM: Operation = Operation {
    endpoint: Endpoint::Problem,
    id: "readProblem",
    summary: "Read what a problem means",
    details: "The `type` of every problem leads here.",
    success: Success { body: Some((JSON, ProblemPage::describe)), ..STABLE },
    problems: &[EVERY, &[Code::NotFound]],
    ..STABLE_OPERATION
};

pub(in crate::http) static HEALTH: Operation = Operation {
    endpoint: Endpoint::Health,
    id: "readHealth",
    summary: "See whether the process answers",
    success: Success { body: Some((JSON, Status::describe)), ..FRESH },
    ..Operation::PLAIN
};

pub(in crate::http) static READINESS: Operation = Operation {
    endpoint: Endpoint::Readiness,
    id: "readReadiness",
    summary: "See whether requests should be sent here",
    success: Success { body: Some((JSON, Status::describe)), ..FRESH },
    problems: &[EVERY, &[Code::Starting, Code::Ending]],
    ..Operation::PLAIN
};

pub(in crate::http) static METRICS: Operation = Operation {
    endpoint: Endpoint::Metrics,
    id: "readMetrics",
    summary: "Read counters",
    details: "In the text format of Prometheus: requests by route; and of each shard what waits, what is durable, how \
              long commits take, whether it has room, and when its newest snapshot was written.",
    success: Success { body: Some((METRICS_MEDIA_TYPE, any_text)), ..FRESH },
    ..Operation::PLAIN
};

pub(in crate::http) static TRIAL_BALANCE: Operation = Operation {
    endpoint: Endpoint::TrialBalance,
    id: "readTrialBalance",
    summary: "Add up all accounts",
    details: "Every currency's sum is zero, or the ledger is broken.",
    headers: IF_NONE_MATCH,
    success: Success { meaning: "The totals.", body: Some((JSON, TrialBalance::describe)), ..STABLE },
    problems: &[EVERY, BANK],
    ..Operation::PLAIN
};

const STABLE_OPERATION: Operation = Operation { headers: IF_NONE_MATCH, ..Operation::PLAIN };

const STABLE: Success = Success { meaning: "It changes with the program only.", ..Success::READ };

const FRESH: Success = Success {
    status: 200,
    meaning: "It is true only now.",
    headers: &[ReplyHeader::CacheControl],
    headers_at_times: &[],
    ..Success::EMPTY
};

fn any_object(_: &mut Schemas) -> serde_json::Value {
    serde_json::json!({ "type": "object" })
}

impl Call<'_> {
    pub(super) fn service(&self) -> Reply {
        static CONTENT: LazyLock<Content> = LazyLock::new(|| {
            let linked = |route: &'static Route| Some((route.relation?, route.template()));
            Content::json(&Service {
                name: Text(env!("CARGO_PKG_NAME")),
                version: Text(env!("CARGO_PKG_VERSION")),
                links: Catalog(ROUTES.iter().filter_map(linked).collect()),
            })
        });
        CONTENT.reply(self.headers(), Caching::Hour)
    }

    pub(super) fn openapi(&self) -> Reply {
        static CONTENT: LazyLock<Content> =
            LazyLock::new(|| Content::new(JSON, openapi::document().to_string().into_bytes()));
        CONTENT.reply(self.headers(), Caching::Hour)
    }

    pub(super) fn docs(&self) -> Reply {
        static CONTENT: LazyLock<Content> =
            LazyLock::new(|| Content::new(HTML, docs::page(&openapi::document()).into_bytes()));
        let mut reply = CONTENT.reply(self.headers(), Caching::Hour);
        docs::protect(reply.headers_mut());
        reply
    }

    pub(super) fn problems(&self) -> Reply {
        static CONTENT: LazyLock<Content> = LazyLock::new(|| Content::json(&ProblemList::all()));
        CONTENT.reply(self.headers(), Caching::Hour)
    }

    pub(super) fn problem(&self) -> Result<Reply, Problem> {
        let code = Code::from_slug(self.segment()).ok_or_else(|| Problem::plain(Code::NotFound))?;
        Ok(Content::json(&ProblemPage::of(code)).reply(self.headers(), Caching::Hour))
    }

    pub(super) fn health(&self) -> Reply {
        reply::fresh(&Status { status: Text("ok") })
    }

    pub(super) fn readiness(&self) -> Result<Reply, Problem> {
        match self.api.stage() {
            Stage::Starting => Err(Problem::plain(Code::Starting)),
            Stage::Ready => Ok(reply::fresh(&Status { status: Text("ready") })),
            Stage::Ending => Err(Problem::plain(Code::Ending)),
        }
    }

    pub(super) fn metrics(&self) -> Reply {
        let mut text = String::new();
        let bank = self.api.bank().ok();
        let shards = bank.map(|bank| bank.shard_figures()).unwrap_or_default();
        let taken = Taken {
            large_batches: LARGE_BODIES_MAX - self.api.large_body_places.available_permits(),
            reply_bytes: self.api.reply_room.taken(),
            history_readings: bank.map(|bank| bank.history_readings()).unwrap_or_default(),
        };
        self.api.metrics.write(taken, &shards, &mut text).expect("memory takes what is written to it");
        reply::fresh_text(METRICS_MEDIA_TYPE, text)
    }

    pub(super) async fn trial_balance(&self) -> Result<Reply, Problem> {
        let balance = self.bank()?.trial_balance().await?;
        Ok(Content::json(&TrialBalance::of(&balance)).reply(self.headers(), Caching::Ask))
    }
}
