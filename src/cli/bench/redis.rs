//! Redis, doing the same work: every operation adds to a balance and appends to a log, in one script, and is on the
//! disk (`appendfsync always`) before it is answered.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::BenchError;
use super::children::{Child, Directory, Interrupt, cannot_make, free_port};

/// A deposit: the account's balance, the log of all, the amount.
const SCRIPT: &str = "local balance = redis.call('INCRBY', KEYS[1], ARGV[1]) \
    redis.call('XADD', KEYS[2], '*', 'account', KEYS[1], 'amount', ARGV[1], 'balance', balance) \
    return balance";

const START_TIME_MAX: Duration = Duration::from_secs(10);
const REPLY_TIME_MAX: Duration = Duration::from_secs(5);

/// A command as Redis reads it.
pub(super) fn command(words: &[&str]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text
}

/// Starts a Redis whose data is in `directory`. Returns it, where it listens, and the digest of the script.
pub(super) fn start(
    directory: &Directory,
    interrupt: &Interrupt,
) -> Result<(Child, SocketAddr, String), BenchError> {
    let program = find().ok_or(BenchError::NoRedis)?;
    let port = free_port().map_err(BenchError::cannot("find a free port of 127.0.0.1"))?;
    let data = directory.path().join("redis");
    std::fs::create_dir_all(&data).map_err(cannot_make(&data))?;
    let data = data.display().to_string();
    let port_text = port.to_string();
    let settings = [
        ["--port", &port_text],
        ["--bind", "127.0.0.1"],
        ["--dir", &data],
        ["--appendonly", "yes"],
        ["--appendfsync", "always"],
        // Its log is never rewritten: that would fall into some rounds and not into others.
        ["--auto-aof-rewrite-percentage", "0"],
        ["--save", ""],
        ["--daemonize", "no"],
    ];
    let arguments: Vec<String> = settings.as_flattened().iter().map(|word| (*word).to_owned()).collect();
    let mut child = Child::start(&program, &arguments, directory.path().join("redis.log"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let until = Instant::now() + START_TIME_MAX;
    loop {
        interrupt.sleep(Duration::from_millis(20))?;
        if child.has_ended() || Instant::now() > until {
            return Err(child.failed());
        }
        // Before it listens, and while it reads its data, there is no digest.
        if let Ok(Some(digest)) = load_script(address) {
            return Ok((child, address, digest));
        }
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join("redis-server")).find(|path| path.is_file())
}

/// Gives it the script; returns its digest, 40 hexadecimal digits.
fn load_script(address: SocketAddr) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&address, REPLY_TIME_MAX)?;
    stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
    stream.write_all(command(&["SCRIPT", "LOAD", SCRIPT]).as_bytes())?;
    let mut reply = [0; b"$40\r\n".len() + 40 + 2];
    stream.read_exact(&mut reply)?;
    let digest = reply.strip_prefix(b"$40\r\n").map(|rest| &rest[..40]);
    Ok(digest
        .filter(|digest| digest.iter().all(u8::is_ascii_hexdigit))
        .map(|digest| digest.iter().map(|byte| char::from(*byte)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_how_long_their_words_are() {
        assert_eq!(command(&["GET", "a b"]), "*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }
}
