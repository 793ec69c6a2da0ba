//! What serving takes from the system: an address to listen on, and descriptors for connections.
//!
//! Both are asked for before recovery begins, which may take long: whoever starts the server by hand learns
//! at once that the port is taken, or that `ulimit -n` is too low.

use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

use super::ServerError;
use crate::config::ListenAddress;
use crate::http;

/// How many connections wait to be accepted: all that a restart brings back at once. The system may allow fewer.
const LISTEN_BACKLOG: u32 = 4096;

/// File descriptors that connections leave to everything else: standard streams, runtime, manifest, readers of
/// history; and to each shard, whose journal has some generations open, and its compaction some files.
const DESCRIPTORS_RESERVED: u64 = 128;
const DESCRIPTORS_PER_SHARD: u64 = 96;
/// And to each thread that serves connections, for its event queue and its ring.
const DESCRIPTORS_PER_HTTP_THREAD: u64 = 8;
/// With room for fewer connections than this the server does not start.
const CONNECTIONS_MIN: u64 = 16;

/// Listens on the first of the addresses that can be had.
pub(super) async fn bind(address: &ListenAddress) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address: address.clone(), source };
    let mut error = std::io::ErrorKind::AddrNotAvailable.into();
    for resolved in address.resolve().map_err(failed)? {
        match listen(resolved) {
            Ok(listener) => return Ok(listener),
            Err(source) => error = source,
        }
    }
    Err(failed(error))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// How many connections the system has descriptors for, once it has been asked for as many as it allows.
pub(super) fn connections_max(shards: usize, http_threads: usize) -> Result<usize, ServerError> {
    let wanted = http::Limits::default().connections_max as u64;
    let reserved = DESCRIPTORS_RESERVED
        + DESCRIPTORS_PER_SHARD * shards as u64
        + DESCRIPTORS_PER_HTTP_THREAD * http_threads as u64;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised =
        Rlimit { current: Some(hard.min(wanted + reserved).max(limit.current.unwrap_or(hard))), ..limit };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    let allowed = allowed.unwrap_or(u64::MAX);
    let connections = wanted.min(allowed.saturating_sub(reserved));
    if connections < CONNECTIONS_MIN {
        return Err(ServerError::Descriptors { allowed, shards, needed: reserved + CONNECTIONS_MIN });
    }
    if connections < wanted {
        tracing::warn!(
            connections,
            open_files = allowed,
            "fewer connections: the system allows few open files"
        );
    }
    Ok(connections as usize)
}
