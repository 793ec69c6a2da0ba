//! What concurrent clients of a real server see, checked for strict serializability.
//!
//! Clients over HTTP open accounts on several shards, move money and read, while the server is killed with
//! SIGKILL and started again, up to twice a history. Every reply, with its balances and versions, has to be
//! explained by one order of all operations of the history that respects real time (P1, P2, P5): see
//! `histories/checker.rs` for the search, `model.rs` for the bank as one serial object, `recorder.rs` for how
//! histories are made, `workload.rs` for what is asked, `wire.rs` for the JSON.
//! `pretend.rs` shows that mistakes are found: a bank in memory that makes one of them on purpose.
//!
//! `TELLER_HISTORIES=200 cargo test --release --test histories -- --nocapture` checks 200 histories;
//! `TELLER_HISTORIES_SEED` says from which seed on. A seed repeats the requests of a history and the requests at
//! which the server is killed. It does not repeat what the threads and the disk make of that: a failure may take
//! many runs of its seed to come again, so all that was recorded is printed.

#[path = "histories/checker.rs"]
mod checker;
#[path = "histories/model.rs"]
mod model;
#[path = "histories/pretend.rs"]
mod pretend;
mod process;
mod random;
#[path = "histories/recorder.rs"]
mod recorder;
#[path = "histories/wire.rs"]
mod wire;
#[path = "histories/workload.rs"]
mod workload;

use std::time::{Instant, SystemTime};

use random::setting;
use recorder::{Recorder, Tally};

const HISTORIES_DEFAULT: u64 = 6;

/// So many more there are at most until a kill has met a request under way: most kills do, and two histories of three
/// have one.
const MORE_HISTORIES_MAX: u64 = 20;

/// After so many the ledger is proven and a new one begun: every kill leaves journals behind, and the next starts
/// have to read them.
const HISTORIES_PER_LEDGER: u64 = 5;

#[test]
fn what_concurrent_clients_see_over_crashes_is_strictly_serializable() {
    let histories = setting("TELLER_HISTORIES").unwrap_or(HISTORIES_DEFAULT);
    let first = setting("TELLER_HISTORIES_SEED").unwrap_or_else(seed_of_now);
    eprintln!("{histories} histories from seed {first} on");
    let began = Instant::now();
    let mut recorder = Recorder::new();
    let mut tally = Tally::default();
    for seed in first..first + histories + MORE_HISTORIES_MAX {
        if seed >= first + histories && tally.met_by_kills() > 0 {
            break;
        }
        if seed > first && (seed - first).is_multiple_of(HISTORIES_PER_LEDGER) {
            std::mem::replace(&mut recorder, Recorder::new()).end();
        }
        let _seed = Seed(seed);
        let recorded = recorder.record(seed);
        if let Err(text) = model::check(&recorded.history) {
            panic!("the history of seed {seed} is wrong.\n{text}");
        }
        tally += recorded.tally;
    }
    recorder.end();
    eprintln!("{tally:#?} in {:?}", began.elapsed());
    assert!(tally.concurrent_pairs > tally.operations / 4, "clients hardly met: {tally:?}");
    assert!(tally.refused > 0, "nothing was refused: {tally:?}");
    assert!(tally.met_by_kills() > 0, "no kill met a request under way: {tally:?}");
}

/// Says how to repeat whatever failed in its time.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "To repeat the requests of this history, though not the timing of its threads:\nTELLER_HISTORIES=1 \
                 TELLER_HISTORIES_SEED={} cargo test --release --test histories what_concurrent -- --nocapture",
                self.0
            );
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "seeds that differ from run to run")]
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").subsec_nanos().into()
}
