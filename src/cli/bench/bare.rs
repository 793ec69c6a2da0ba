//! The reference: an empty hyper server, as hyper's own examples have it. It reads a request, whatever it is, and always
//! gives the same reply; with the same hyper, the same runtime and the same reply, head and body, as teller gave.

use std::convert::Infallible;
use std::error::Error;
use std::io::{Read, Write};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime;

use super::reply::Protocol;

/// The line that says where it listens begins so.
pub(super) const LISTENS: &str = "bare listens on http://";

/// The reference server of `teller bench`: gives every request the reply that comes on stdin
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How many threads it has.
    #[arg(long, default_value = "1")]
    threads: usize,
}

/// Serves until it is ended.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut reply = Vec::new();
    std::io::stdin().lock().read_to_end(&mut reply)?;
    let reply = reply_of(&reply).ok_or("stdin has no reply")?;
    // One thread has a runtime of its own, as each of teller's has: at 64 connections up to 2 % faster.
    let runtime = match args.threads {
        1 => runtime::Builder::new_current_thread().enable_all().build()?,
        threads => runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "{LISTENS}{}", listener.local_addr()?)?;
        serve(listener, reply).await;
        Ok(())
    })
}

async fn serve(listener: TcpListener, reply: Response<Bytes>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let reply = reply.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let reply = reply.clone().map(Full::new);
                async move {
                    // Whether the body came whole is the client's affair; here it only has to be read.
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(reply)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A reply as it came, as a server gives it.
fn reply_of(bytes: &[u8]) -> Option<Response<Bytes>> {
    let head = Protocol::Http.head(bytes).ok()??;
    let text = std::str::from_utf8(&bytes[..head.bytes]).ok()?;
    let mut reply = Response::new(Bytes::copy_from_slice(bytes.get(head.bytes..)?));
    *reply.status_mut() = head.status.try_into().ok()?;
    for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
        let name: HeaderName = name.parse().ok()?;
        // hyper gives these two itself.
        if name != DATE && name != CONTENT_LENGTH {
            reply.headers_mut().append(name, HeaderValue::from_str(value.trim()).ok()?);
        }
    }
    (reply.body().len() == head.body_bytes).then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_is_given_as_it_came() {
        let text = b"HTTP/1.1 201 Created\r\nlocation: /a:b\r\ncontent-length: 2\r\ndate: today\r\n\r\n{}";
        let reply = reply_of(text).expect("a reply");
        assert_eq!((reply.status().as_u16(), &reply.body()[..]), (201, &b"{}"[..]));
        assert_eq!(reply.headers().len(), 1);
        assert_eq!(reply.headers()["location"], "/a:b");
        assert!(reply_of(&text[..text.len() - 1]).is_none());
        assert!(reply_of(b"").is_none());
    }
}
