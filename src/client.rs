//! A small HTTP client for the command line and the tests: plain HTTP/1.1 over kept-alive connections.
//!
//! What always holds: a request is answered or given up within its time; a reply is bounded; nothing is
//! retried here, because only the caller knows what may be repeated. Left out on purpose: TLS, redirects,
//! proxies, cookies.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// The largest reply, in bytes. What an import asks for has up to 500 results of half a kilobyte; a page of a thousand
/// entries may have six million bytes.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// For how long an unused connection is kept: less than servers usually keep theirs, so that a request seldom
/// meets one that is being closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The URL of a server: `http://`, a host, perhaps a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<BaseUrl, BaseUrlError> {
        let lower_case = text.to_ascii_lowercase();
        if lower_case.starts_with("https://") {
            return Err(BaseUrlError::Tls);
        }
        if !lower_case.starts_with("http://") {
            return Err(BaseUrlError::Scheme);
        }
        if text.contains(['?', '#']) {
            return Err(BaseUrlError::Query);
        }
        let uri: Uri = text.parse().map_err(|_| BaseUrlError::NotAUrl)?;
        let authority = uri.authority().ok_or(BaseUrlError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(BaseUrlError::User);
        }
        // `port()` is none also for what does not fit a port; the colon shows that there should be one.
        let host_and_colon = authority.host().len() < authority.as_str().len();
        if authority.host().is_empty()
            || (host_and_colon && authority.port_u16().is_none_or(|port| port == 0))
        {
            return Err(BaseUrlError::NotAUrl);
        }
        let path = uri.path().trim_end_matches('/');
        Ok(BaseUrl(format!("http://{authority}{path}")))
    }

    /// The URL, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address of the server, if that is this machine.
    ///
    /// # Errors
    /// If the host is not known, or another machine.
    pub fn loopback_address(&self) -> Result<SocketAddr, BaseUrlError> {
        const PORT_DEFAULT: u16 = 80;
        let uri: Uri = self.0.parse().map_err(|_| BaseUrlError::NotAUrl)?;
        let host = uri.host().ok_or(BaseUrlError::NotAUrl)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(PORT_DEFAULT);
        let mut addresses = (host, port).to_socket_addrs().map_err(|_| BaseUrlError::NotHere)?;
        addresses.find(|address| address.ip().is_loopback()).ok_or(BaseUrlError::NotHere)
    }
}

/// Why a text is not the URL of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// No scheme, or an unknown one.
    #[error("must start with http://, as in http://127.0.0.1:3000")]
    Scheme,
    /// `https://`.
    #[error("https is not spoken here; name the server's own http:// address, or a tunnel's")]
    Tls,
    /// Not readable as a URL.
    #[error("is not a URL such as http://127.0.0.1:3000")]
    NotAUrl,
    /// A user or a password.
    #[error("must not contain a user or a password")]
    User,
    /// A query or a fragment.
    #[error("must not contain a query or a fragment")]
    Query,
    /// Another machine's, where only this one's will do.
    #[error("must be the URL of a server on this machine, as http://127.0.0.1:3000 is")]
    NotHere,
}

/// A client of one server. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: BaseUrl,
    request_time_max: Duration,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// A server's reply.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// Why there is no reply. The request may or may not have been executed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The path, the key or the body cannot be sent.
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
    /// The idempotency key has characters that a header cannot have.
    #[error("the idempotency key cannot be written: {0}")]
    Key(#[from] InvalidHeaderValue),
    /// No connection, or it broke.
    #[error("{url} cannot be reached")]
    Connection {
        /// The server.
        url: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The reply broke off.
    #[error("the reply broke off")]
    Reply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The reply is larger than any that is expected.
    #[error("the reply has more than {REPLY_BYTES_MAX} bytes")]
    ReplyTooLarge,
    /// No reply came in time.
    #[error("no reply within {} s", time_max.as_secs())]
    TimedOut {
        /// The limit.
        time_max: Duration,
    },
}

impl Client {
    /// A client that keeps up to `connections` idle connections and waits up to `request_time_max` for a reply.
    pub fn new(base: BaseUrl, connections: usize, request_time_max: Duration) -> Client {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(request_time_max));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(connections)
            .build(connector);
        Client { base, request_time_max, inner }
    }

    /// The server's URL.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }

    /// Gets what is at a path, which starts with a slash.
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal is a reply, not an error.
    pub async fn get(&self, path: &str) -> Result<Response, ClientError> {
        let request = Request::get(self.uri(path)).body(Full::default())?;
        self.send(request).await
    }

    /// Posts a JSON text to a path, with an idempotency key if one is given.
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal is a reply, not an error.
    pub async fn post_json(
        &self,
        path: &str,
        body: impl Into<Bytes>,
        idempotency_key: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut request = self.post_request(path, "application/json", body.into())?;
        if let Some(key) = idempotency_key {
            request.headers_mut().insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key)?);
        }
        self.send(request).await
    }

    /// Posts a text of JSON lines to a path.
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal is a reply, not an error.
    pub async fn post_ndjson(&self, path: &str, body: impl Into<Bytes>) -> Result<Response, ClientError> {
        self.send(self.post_request(path, "application/x-ndjson", body.into())?).await
    }

    /// Sends any request whose URI was made with [`Client::uri`].
    ///
    /// # Errors
    /// See [`ClientError`]. A refusal is a reply, not an error.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response, ClientError> {
        match tokio::time::timeout(self.request_time_max, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { time_max: self.request_time_max }),
        }
    }

    /// The whole URI of a path, which starts with a slash.
    pub fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str())
    }

    fn post_request(
        &self,
        path: &str,
        media_type: &'static str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        Request::builder()
            .method(Method::POST)
            .uri(self.uri(path))
            .header(CONTENT_TYPE, media_type)
            .body(Full::new(body))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response, ClientError> {
        let response = self.inner.request(request).await.map_err(|source| ClientError::Connection {
            url: self.base.as_str().to_owned(),
            source: source.into(),
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ClientError::ReplyTooLarge
            } else {
                ClientError::Reply(error)
            }
        })?;
        Ok(Response { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn urls_are_read_or_refused_with_the_reason() {
        for (text, expected) in [
            ("http://127.0.0.1:3000", Ok("http://127.0.0.1:3000")),
            ("http://127.0.0.1:3000/", Ok("http://127.0.0.1:3000")),
            ("http://localhost", Ok("http://localhost")),
            ("HTTP://localhost/bank/", Ok("http://localhost/bank")),
            ("http://[::1]:80", Ok("http://[::1]:80")),
            ("https://x", Err(BaseUrlError::Tls)),
            ("ftp://x", Err(BaseUrlError::Scheme)),
            ("127.0.0.1:3000", Err(BaseUrlError::Scheme)),
            ("", Err(BaseUrlError::Scheme)),
            ("http://", Err(BaseUrlError::NotAUrl)),
            ("http://:80", Err(BaseUrlError::NotAUrl)),
            ("http://x:", Err(BaseUrlError::NotAUrl)),
            ("http://x:0", Err(BaseUrlError::NotAUrl)),
            ("http://x:99999", Err(BaseUrlError::NotAUrl)),
            ("http://a b", Err(BaseUrlError::NotAUrl)),
            ("http://user:secret@x", Err(BaseUrlError::User)),
            ("http://x?y", Err(BaseUrlError::Query)),
            ("http://x/#y", Err(BaseUrlError::Query)),
        ] {
            let parsed = BaseUrl::parse(text);
            assert_eq!(parsed.as_ref().map(BaseUrl::as_str).map_err(|error| *error), expected, "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_at_a_loopback_address() {
        let address = |url| BaseUrl::parse(url).expect("valid").loopback_address();
        assert_eq!(address("http://127.0.0.1:3000/x"), Ok(([127, 0, 0, 1], 3000).into()));
        assert_eq!(
            address("http://[::1]").map(|address| (address.is_ipv6(), address.port())),
            Ok((true, 80))
        );
        for url in ["http://192.0.2.1:3000", "http://0.0.0.0:1"] {
            assert_eq!(address(url), Err(BaseUrlError::NotHere), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_with_its_url() {
        let base = BaseUrl::parse("http://127.0.0.1:1").expect("valid");
        let error = Client::new(base, 1, Duration::from_secs(5)).get("/").await.expect_err("nobody listens");
        assert_eq!(error.to_string(), "http://127.0.0.1:1 cannot be reached");
        assert!(matches!(error, ClientError::Connection { .. }));
    }

    /// P7: whatever a server sends takes so much memory at most.
    #[tokio::test]
    async fn a_reply_that_is_too_large_is_an_error() {
        for bytes in [REPLY_BYTES_MAX, REPLY_BYTES_MAX + 1] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let sends = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let request = stream.read(&mut [0; 1024]).await;
                assert!(request.is_ok_and(|bytes| bytes > 0));
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("sent");
                // Whoever has had enough closes the connection.
                let _ = stream.write_all(&vec![b'x'; bytes]).await;
            });
            let client = Client::new(BaseUrl::parse(&url).expect("valid"), 1, Duration::from_secs(60));
            let reply = client.get("/").await.map(|reply| reply.body.len());
            assert!(
                matches!(reply, Ok(REPLY_BYTES_MAX) if bytes == REPLY_BYTES_MAX)
                    || matches!(reply, Err(ClientError::ReplyTooLarge) if bytes > REPLY_BYTES_MAX),
                "{bytes} bytes: {reply:?}"
            );
            drop(client);
            sends.await.expect("no panic");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_reply_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let client = Client::new(BaseUrl::parse(&url).expect("valid"), 1, Duration::from_millis(50));
        let error = client.get("/").await.expect_err("no reply");
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    }
}
