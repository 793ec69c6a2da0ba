//! The reference for the figures of `benches/README.md`: hyper without anything behind it, which gives every
//! request the reply to a deposit. `cargo run --release --example bare_hyper`, then load 127.0.0.1:3001.

#[path = "../benches/support/bare.rs"]
mod bare;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};

const HEADERS: [(HeaderName, &str); 3] = [
    (CONTENT_TYPE, "application/json"),
    (LOCATION, "/transactions/019334a1-7c00-8000-8000-00000000002a"),
    (HeaderName::from_static("x-request-id"), "079cf59d-5624-4c04-b5b3-3267c6882349"),
];

const REPLY: &str = r#"{"id":"019334a1-7c00-8000-8000-00000000002a","account":"account-0000001","type":"DEPOSIT","amount":1.00,"balance":100.00,"created":1732297450}"#;

fn main() -> std::io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
        println!("bare hyper listens on http://{}", listener.local_addr()?);
        let mut reply = Response::new(Bytes::from_static(REPLY.as_bytes()));
        for (name, value) in HEADERS {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        bare::serve(listener, reply).await;
        Ok(())
    })
}
