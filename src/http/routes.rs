//! All that the service answers to: one table.
//!
//! Paths are matched as they came, still percent-encoded; only then is the one variable segment decoded, once.
//! So an encoded slash belongs to the segment, and `%2541` is `%41` and not `A`.

use std::borrow::Cow;
use std::sync::LazyLock;

use hyper::Method;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::problem::{Code, FieldError, Place, Problem};
use super::wire::Version;

/// What is done at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    OpenAccount,
    AccountByName,
    CloseByName,
    Deposit,
    Withdraw,
    Transaction,
    AccountById,
    CloseById,
    History,
    TrialBalance,
    Health,
    Readiness,
    Metrics,
    Problems,
    ProblemByCode,
}

/// A path and what can be done there.
#[derive(Debug)]
pub(super) struct Route {
    /// The path; a name in braces stands for any one segment.
    pub(super) pattern: &'static str,
    /// The wire that is spoken there.
    pub(super) version: Version,
    endpoints: &'static [(Method, Endpoint)],
}

const fn route(pattern: &'static str, version: Version, endpoints: &'static [(Method, Endpoint)]) -> Route {
    Route { pattern, version, endpoints }
}

/// All routes. `HEAD` and `OPTIONS` come by themselves.
pub(super) static ROUTES: &[Route] = {
    use Endpoint::*;
    use Version::{One, Two};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const DELETE: Method = Method::DELETE;
    &[
        route("/accounts", One, &[(POST, OpenAccount)]),
        route("/accounts/{name}", One, &[(GET, AccountByName), (DELETE, CloseByName)]),
        route("/accounts/{name}/deposit", One, &[(POST, Deposit)]),
        route("/accounts/{name}/withdraw", One, &[(POST, Withdraw)]),
        route("/transaction/{id}", One, &[(GET, Transaction)]),
        route("/transactions/{id}", One, &[(GET, Transaction)]),
        route("/v2/accounts", Two, &[(POST, OpenAccount)]),
        route("/v2/accounts/{id}", Two, &[(GET, AccountById), (DELETE, CloseById)]),
        route("/v2/accounts/{id}/transactions", Two, &[(GET, History)]),
        route("/v2/trial-balance", Two, &[(GET, TrialBalance)]),
        route("/healthz", One, &[(GET, Health)]),
        route("/readyz", One, &[(GET, Readiness)]),
        route("/metrics", One, &[(GET, Metrics)]),
        route("/problems", One, &[(GET, Problems)]),
        route("/problems/{code}", One, &[(GET, ProblemByCode)]),
    ]
};

/// A route that a path has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'p> {
    /// Its place in [`ROUTES`].
    pub(super) index: usize,
    /// The route.
    pub(super) route: &'static Route,
    /// What stands in the path for its variable segment, still encoded; empty if it has none.
    pub(super) segment: &'p str,
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
    let segment = found.params.iter().next().map_or("", |(_, segment)| segment);
    Some(Found { index, route: &ROUTES[index], segment })
}

impl Route {
    /// What a method does here.
    pub(super) fn endpoint(&self, method: &Method) -> Option<Endpoint> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let (_, endpoint) = self.endpoints.iter().find(|(known, _)| known == method)?;
        Some(*endpoint)
    }

    /// The methods that are allowed here, for the header of that name.
    pub(super) fn allow(&self) -> HeaderValue {
        let mut methods: Vec<&str> = Vec::new();
        for (method, _) in self.endpoints {
            methods.push(method.as_str());
            if method == Method::GET {
                methods.push("HEAD");
            }
        }
        methods.push("OPTIONS");
        HeaderValue::from_str(&methods.join(", ")).expect("methods fit in a header")
    }
}

/// Decodes a segment of a path, or a part of a query.
///
/// # Errors
/// If a percent sign is not followed by two hexadecimal digits, or the bytes are not UTF-8.
pub(super) fn decode(encoded: &str) -> Result<Cow<'_, str>, &'static str> {
    let mut rest = encoded.as_bytes();
    while let Some(percent) = rest.iter().position(|&byte| byte == b'%') {
        let digits = rest.get(percent + 1..percent + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err("has a % without two hexadecimal digits after it");
        }
        rest = &rest[percent + 3..];
    }
    percent_decode_str(encoded).decode_utf8().map_err(|_| "is not UTF-8 once it is decoded")
}

/// Encodes a text as a segment of a path. Only what RFC 3986 calls unreserved stays as it is.
///
/// But for `.` and `..`, which clients would resolve away: there the dots are encoded too.
pub(super) fn encode(text: &str) -> impl std::fmt::Display + '_ {
    const DOTS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');
    const RESERVED: &AsciiSet = &DOTS.remove(b'.');
    utf8_percent_encode(text, if matches!(text, "." | "..") { DOTS } else { RESERVED })
}

/// Reads a query's parameters, each at most once, none but the known.
pub(super) fn parameters<'q, const N: usize>(
    query: Option<&'q str>,
    known: &'static [&'static str; N],
) -> Result<[Option<Cow<'q, str>>; N], Problem> {
    let mut values = [const { None }; N];
    let Some(query) = query else {
        return Ok(values);
    };
    let mut unknown = Vec::new();
    let mut invalid = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).unwrap_or(Cow::Borrowed(name));
        match known.iter().position(|known| *known == name) {
            None => unknown.push(FieldError {
                place: Place::Parameter(name.into_owned().into()),
                detail: if N == 0 {
                    "is unknown; there are none here".into()
                } else {
                    format!("is unknown; known are: {}", known.join(", ")).into()
                },
            }),
            Some(index) => {
                let detail = match decode(value) {
                    Ok(_) if values[index].is_some() => "stands there more than once",
                    Err(detail) => detail,
                    Ok(value) => {
                        values[index] = Some(value);
                        continue;
                    }
                };
                invalid
                    .push(FieldError { place: Place::Parameter(known[index].into()), detail: detail.into() });
            }
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::with_errors(Code::UnknownParameter, unknown));
    }
    if !invalid.is_empty() {
        return Err(Problem::with_errors(Code::InvalidParameter, invalid));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_finds_itself() {
        for (index, route) in ROUTES.iter().enumerate() {
            let found = find(route.pattern).expect("found");
            assert_eq!(found.index, index);
            assert_eq!(found.segment.is_empty(), !route.pattern.contains('{'));
            for (method, endpoint) in route.endpoints {
                assert_eq!(route.endpoint(method), Some(*endpoint));
            }
            assert_eq!(route.endpoint(&Method::HEAD), route.endpoint(&Method::GET));
            assert_eq!(route.endpoint(&Method::PATCH), None);
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
        ] {
            assert_eq!(find(path).expect(path).segment, segment);
        }
        for path in [
            "",
            "/",
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

    #[test]
    fn decoding_happens_once_and_strictly() {
        assert_eq!(decode("a%2Fb%20c").unwrap(), "a/b c");
        assert_eq!(decode("%2541").unwrap(), "%41");
        assert_eq!(decode("a+b").unwrap(), "a+b");
        assert_eq!(decode("Kate%C5%99ina").unwrap(), "Kateřina");
        for bad in ["%", "%4", "%zz", "a%", "%%41", "%4g", "%ff", "%c5", "%ed%a0%80"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        for name in ["a/b c", "%41", "Kateřina", "..", "a+b?#"] {
            assert_eq!(decode(&encode(name).to_string()).unwrap(), name);
        }
    }

    #[test]
    fn parameters_are_known_and_single() {
        let parse = |query| parameters(Some(query), &["limit", "order"]);
        assert_eq!(parse("limit=1&order=a%20b").unwrap(), [Some("1".into()), Some("a b".into())]);
        assert_eq!(parse("").unwrap(), [None, None]);
        assert_eq!(parse("order").unwrap(), [None, Some("".into())]);
        for (query, code) in [
            ("x=1", Code::UnknownParameter),
            ("Limit=1", Code::UnknownParameter),
            ("limit=1&limit=1", Code::InvalidParameter),
            ("limit=%zz", Code::InvalidParameter),
            ("limit=%zz&x", Code::UnknownParameter),
        ] {
            assert_eq!(parse(query).expect_err(query).code, code);
        }
        assert!(parameters(Some("x"), &[]).is_err());
    }
}
