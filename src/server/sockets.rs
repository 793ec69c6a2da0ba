//! What serving takes from the system: an address to listen on, and descriptors for connections.
//!
//! Both are asked for before recovery begins, which may take long: whoever starts the server by hand learns
//! at once that the port is taken, or that `ulimit -n` is too low; and before a ledger is made, which keeps its shards.

use std::io;
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

/// How much of what is sent waits in the system for a client, in bytes, which counts for twice as much with what the
/// system needs beside it. Left to itself it takes up to 4 MB for whoever reads slowly, of memory that all programs
/// share, and would call a client ready for more only when a third of that is free: who read 40 kB a second was cut off
/// as if it read nothing. This is enough for a megabyte a second over a tenth of a second there and back.
const SEND_BUFFER_BYTES: u32 = 128 * 1024;

/// Listens at an address.
pub(super) async fn bind(address: &ListenAddress) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address: address.clone(), source };
    first_of(address.resolve().map_err(failed)?).map_err(failed)
}

/// Listens on the first of the addresses that this machine has. If that is taken it is not another one that is wanted:
/// whoever has it may be serving another ledger there, and clients would reach one or the other.
fn first_of(addresses: impl IntoIterator<Item = SocketAddr>) -> io::Result<TcpListener> {
    let mut error = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match listen(address) {
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => error = source,
            done => return done,
        }
    }
    Err(error)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // The connections that it accepts have the same.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_not_passed_over_for_the_next_one() {
        let first = first_of([any()]).expect("a free port");
        let taken = first.local_addr().expect("bound");
        let refused = first_of([taken, any()]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::AddrInUse));
        // One that this machine does not have is: TEST-NET-1 of RFC 5737.
        first_of([SocketAddr::from(([192, 0, 2, 1], 0)), any()]).expect("the second one");
    }

    /// P7: what the system keeps for each client that does not read.
    #[tokio::test]
    async fn what_waits_in_the_system_for_a_client_is_bounded() {
        let listener = first_of([any()]).expect("a free port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("accepted");
        let bytes = rustix::net::sockopt::socket_send_buffer_size(&accepted).expect("it has one");
        assert_eq!(bytes, 2 * SEND_BUFFER_BYTES as usize);
    }
}
