//! The least that an HTTP server can do: read the request, give always the same reply.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Answers every request with `reply`, for ever.
pub(crate) async fn serve(listener: TcpListener, reply: Response<Bytes>) {
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
