//! All that the service answers to: one table. The document at `/openapi.json` is made from it, and so are the
//! links of `GET /`.
//!
//! Paths are matched as they came, still percent-encoded; only then is each variable segment decoded, once.
//! So an encoded slash belongs to the segment, and `%2541` is `%41` and not `A`.

use std::sync::LazyLock;

use hyper::Method;
use hyper::header::HeaderValue;

use super::handlers::{
    account_links, accounts, batches, events, holds, service, statements, transactions, transfers,
};
use super::operation::Operation;
use super::query::QueryShape;
use super::wire::Version;

/// How many variable segments a path has at most.
const SEGMENTS_MAX: usize = 2;

/// What is done at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    OpenAccountV1,
    AccountV1,
    CloseV1,
    DepositV1,
    WithdrawV1,
    TransactionV1,
    OpenAccount,
    Accounts,
    UpdateAccount,
    Transfer,
    ReadTransfer,
    Reverse,
    Hold,
    ReadHold,
    Holds,
    Capture,
    Void,
    PutLink,
    ReadLink,
    Links,
    DeleteLink,
    Batch,
    Account,
    Close,
    Deposit,
    Withdraw,
    Transaction,
    History,
    Statement,
    Events,
    TrialBalance,
    Service,
    OpenApi,
    Docs,
    Problems,
    Problem,
    Health,
    Readiness,
    Metrics,
}

/// A path and what can be done there.
#[derive(Debug)]
pub(super) struct Route {
    /// The path; a name in braces stands for any one segment.
    pub(super) pattern: &'static str,
    /// Under which name `GET /` links to it; the original service's paths are not linked.
    pub(super) relation: Option<&'static str>,
    /// The wire that is spoken there.
    pub(super) version: Version,
    /// By method.
    pub(super) operations: &'static [(Method, &'static Operation)],
}

const fn v1(pattern: &'static str, operations: &'static [(Method, &'static Operation)]) -> Route {
    Route { pattern, relation: None, version: Version::One, operations }
}

const fn v2(
    pattern: &'static str,
    relation: &'static str,
    operations: &'static [(Method, &'static Operation)],
) -> Route {
    Route { pattern, relation: Some(relation), version: Version::Two, operations }
}

/// All routes. `HEAD` and `OPTIONS` come by themselves.
pub(super) static ROUTES: &[Route] = {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    &[
        v1("/accounts", &[(POST, &accounts::OPEN_V1)]),
        v1("/accounts/{name}", &[(GET, &accounts::READ_V1), (DELETE, &accounts::CLOSE_V1)]),
        v1("/accounts/{name}/deposit", &[(POST, &transactions::DEPOSIT_V1)]),
        v1("/accounts/{name}/withdraw", &[(POST, &transactions::WITHDRAW_V1)]),
        v1("/transaction/{id}", &[(GET, &transactions::READ_V1_SINGULAR)]),
        v1("/transactions/{id}", &[(GET, &transactions::READ_V1)]),
        v2("/v2/accounts", "accounts", &[(GET, &accounts::LIST), (POST, &accounts::OPEN)]),
        v2(
            "/v2/accounts/{account}",
            "account",
            &[(GET, &accounts::READ), (PATCH, &accounts::UPDATE), (DELETE, &accounts::CLOSE)],
        ),
        v2("/v2/accounts/{account}/holds", "account-holds", &[(GET, &holds::LIST)]),
        v2("/v2/accounts/{account}/links", "account-links", &[(GET, &account_links::LIST)]),
        v2(
            "/v2/accounts/{account}/links/{other}",
            "account-link",
            &[(GET, &account_links::GET), (PUT, &account_links::PUT), (DELETE, &account_links::DELETE)],
        ),
        v2("/v2/transfers", "transfers", &[(POST, &transfers::TRANSFER)]),
        v2("/v2/transfers/{id}", "transfer", &[(GET, &transfers::READ)]),
        v2("/v2/transfers/{id}/reverse", "reverse-transfer", &[(POST, &transfers::REVERSE)]),
        v2("/v2/holds", "holds", &[(POST, &holds::PLACE)]),
        v2("/v2/holds/{hold}", "hold", &[(GET, &holds::READ)]),
        v2("/v2/holds/{hold}/capture", "capture-hold", &[(POST, &holds::CAPTURE)]),
        v2("/v2/holds/{hold}/void", "void-hold", &[(POST, &holds::VOID)]),
        v2("/v2/batches", "batches", &[(POST, &batches::EXECUTE)]),
        v2("/v2/accounts/{account}/deposits", "deposits", &[(POST, &transactions::DEPOSIT)]),
        v2("/v2/accounts/{account}/withdrawals", "withdrawals", &[(POST, &transactions::WITHDRAW)]),
        v2("/v2/accounts/{account}/transactions", "transactions", &[(GET, &transactions::LIST)]),
        v2("/v2/accounts/{account}/statement", "statement", &[(GET, &statements::STATEMENT)]),
        v2("/v2/transactions/{id}", "transaction", &[(GET, &transactions::READ)]),
        v2("/v2/events", "events", &[(GET, &events::LIST)]),
        v2("/v2/trial-balance", "trial-balance", &[(GET, &service::TRIAL_BALANCE)]),
        v2("/", "self", &[(GET, &service::SERVICE)]),
        v2("/openapi.json", "openapi", &[(GET, &service::OPENAPI)]),
        v2("/docs", "docs", &[(GET, &service::DOCS)]),
        v2("/problems", "problems", &[(GET, &service::PROBLEMS)]),
        v2("/problems/{code}", "problem", &[(GET, &service::PROBLEM)]),
        v2("/healthz", "health", &[(GET, &service::HEALTH)]),
        v2("/readyz", "readiness", &[(GET, &service::READINESS)]),
        v2("/metrics", "metrics", &[(GET, &service::METRICS)]),
    ]
};

/// A route that a path has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'p> {
    /// Its place in [`ROUTES`].
    pub(super) index: usize,
    /// The route.
    pub(super) route: &'static Route,
    /// What stands in the path for its variable segments, in order and still encoded; empty where it has none.
    pub(super) segments: [&'p str; SEGMENTS_MAX],
}

/// Finds the route of a path.
pub(super) fn find(path: &str) -> Option<Found<'_>> {
    static TREE: LazyLock<matchit::Router<usize>> = LazyLock::new(|| {
        let mut tree = matchit::Router::new();
        for (index, route) in ROUTES.iter().enumerate() {
            tree.insert(route.pattern, index).expect("the table has no conflict");
        }
        tree
    });
    let found = TREE.at(path).ok()?;
    let index = *found.value;
    let mut segments = [""; SEGMENTS_MAX];
    for (place, (_, segment)) in segments.iter_mut().zip(found.params.iter()) {
        *place = segment;
    }
    Some(Found { index, route: &ROUTES[index], segments })
}

/// The methods that are allowed somewhere, for the header `Allow`.
pub(super) fn allow_anywhere() -> HeaderValue {
    allow(ROUTES.iter().flat_map(|route| route.operations).map(|(method, _)| method))
}

/// Methods as the header `Allow` has them, each once, with those that come by themselves.
fn allow<'m>(methods: impl Iterator<Item = &'m Method>) -> HeaderValue {
    let mut names = Vec::new();
    for method in methods {
        if !names.contains(&method.as_str()) {
            names.push(method.as_str());
            if method == Method::GET {
                names.push("HEAD");
            }
        }
    }
    names.push("OPTIONS");
    HeaderValue::from_str(&names.join(", ")).expect("methods fit in a header")
}

impl Route {
    /// What a method does here.
    pub(super) fn operation(&self, method: &Method) -> Option<&'static Operation> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let (_, operation) = self.operations.iter().find(|(known, _)| known == method)?;
        Some(operation)
    }

    /// The methods that are allowed here, for the header of that name.
    pub(super) fn allow(&self) -> HeaderValue {
        allow(self.operations.iter().map(|(method, _)| method))
    }

    /// The media types that a PATCH may have here, for the header `Accept-Patch` (RFC 5789, 3.1), if there is one.
    pub(super) fn accept_patch(&self) -> Option<HeaderValue> {
        let request = self.operation(&Method::PATCH)?.request?;
        let media_types: Vec<&str> = request.media_types().collect();
        Some(HeaderValue::from_str(&media_types.join(", ")).expect("media types fit in a header"))
    }

    /// Its address as an RFC 6570 template, with the parameters of reading.
    pub(super) fn template(&self) -> String {
        let query = self.operation(&Method::GET).map_or(QueryShape::NONE, |operation| operation.query);
        // A template cannot say that a name has a key.
        let named = query.names.iter().zip(query.keyed).filter(|(_, keyed)| !**keyed);
        let names: Vec<&str> = named.map(|(name, _)| *name).collect();
        if names.is_empty() {
            return self.pattern.to_owned();
        }
        format!("{}{{?{}}}", self.pattern, names.join(","))
    }

    /// The names in braces.
    pub(super) fn variables(&self) -> impl Iterator<Item = &'static str> {
        self.pattern.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_finds_itself() {
        for (index, route) in ROUTES.iter().enumerate() {
            let found = find(route.pattern).expect("found");
            assert_eq!(found.index, index);
            let variables = route.variables().count();
            assert!(variables <= SEGMENTS_MAX);
            assert_eq!(found.segments.iter().filter(|segment| !segment.is_empty()).count(), variables);
            for (method, operation) in route.operations {
                assert_eq!(route.operation(method).map(|found| found.id), Some(operation.id));
            }
            let id = |method| route.operation(method).map(|operation| operation.id);
            assert_eq!(id(&Method::HEAD), id(&Method::GET));
            assert_eq!(id(&Method::TRACE), None);
        }
    }

    #[test]
    fn a_segment_is_what_stands_between_two_slashes() {
        for (path, segment) in [
            ("/accounts/alice", "alice"),
            ("/accounts/a%2Fb", "a%2Fb"),
            ("/accounts/a%2Fb/deposit", "a%2Fb"),
            ("/accounts/deposit", "deposit"),
            ("/accounts/deposit/deposit", "deposit"),
            ("/accounts/Kateřina", "Kateřina"),
            ("/accounts/{name}", "{name}"),
            ("/accounts/..", ".."),
            ("/v2/accounts/name:a%2Fb/deposits", "name:a%2Fb"),
        ] {
            assert_eq!(find(path).expect(path).segments, [segment, ""]);
        }
        for path in [
            "",
            "*",
            "/accounts/",
            "/accounts//",
            "/accounts//deposit",
            "/accounts/a/",
            "/accounts/a/deposit/",
            "/accounts/a/b/deposit",
            "/Accounts/a",
            "//accounts",
            "/accounts/a/Deposit",
            "/v2",
            "/v2/accounts/",
            "/v2/trial-balance/",
            "/healthz/",
            "//",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn the_allow_header_lists_what_is_there() {
        let allow = |path| find(path).expect("found").route.allow();
        assert_eq!(allow("/accounts"), "POST, OPTIONS");
        assert_eq!(allow("/accounts/a"), "GET, HEAD, DELETE, OPTIONS");
    }
}
