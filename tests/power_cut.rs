//! The power is cut, at any moment, and nothing acknowledged is lost (P1, P5, P6).
//!
//! How it works. `power_cut/shim.c` is compiled with `cc`, which the linker of Rust needs anyway, and preloaded
//! into the real server. It records every change of a file under the data directory, in order, in one trace:
//! names that come, go and change, bytes written, and every fsync and fdatasync with its beginning and its end.
//! HTTP clients open accounts, deposit and withdraw, with and without keys; after each acknowledgement they note
//! how long the trace is by then. The server meanwhile takes snapshots, is killed, restarted, ended by SIGTERM
//! and restarted, all in the one trace.
//!
//! Then the power is cut at many positions of the trace, more than half of them right behind an acknowledgement. What
//! the disk holds there (`power_cut/disk.rs`):
//!
//! - of a file, the writes that had returned before an fsync or fdatasync of that file began which ended before
//!   the cut. `sync_file_range`, which is all that sled does, counts for nothing;
//! - of a directory, the names that came and went before an fsync of that directory, likewise;
//! - of all the rest, in three images: nothing; everything; a random half, each write and each change of a name
//!   for itself, with the file's last write torn at a sector of 512 bytes. And where the bytes of a deleted file have just
//!   been given back, one with all that was written and no change of a name.
//!
//! From each image the ledger is recovered as the server does it, what was in flight between shards too (a few by a
//! real server, asked over HTTP). It has to start; every change acknowledged at or before the cut has to be in the log
//! with the values of its reply, and no change twice; and `verify` has to pass, before a shutdown and after it.
//!
//! The control: the same trace, cut at the same positions, but our own syncs of the journal's `db` files did not
//! happen. Then acknowledged changes have to be missing, or the start refused, after most cuts: what the test
//! relies on is those syncs, and it sees when one is missing.
//!
//! `TELLER_POWER_CUTS=2000` makes that many cuts; `TELLER_POWER_CUT_SEED=17` chooses the same ones again, in a
//! trace that is another one each time, as clients and threads are.
//!
//! And the disk fails: the shim lets one call of a kind, for one kind of file, fail or never return, while the server
//! starts, works, or compacts its logs. Then the power is cut, too, and what a failed sync was for counts as never written.
//! `TELLER_POWER_CUT_STARTS_EVERY=1` has each call of a start fail in turn, and not only some of them.
//!
//! A test that fails keeps its trace, its ledger and some images that have lost something, and says where.
//!
//! Not modelled: a disk that lies about a flush; a sector of which only a part is written; writes that are
//! neither old nor new; a write of several sectors of which a later one arrives and an earlier one does not
//! (whole writes do so); a file system that loses what was synced. No file system loses as much of what was not
//! synced as this does, which most of all forgets the names of files that were synced themselves.

mod directory;
#[path = "power_cut/disk.rs"]
mod disk;
mod random;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use directory::Directory;
use disk::{Trace, Unsynced};
use random::{Random, setting};
use rustix::fs::statvfs;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use teller::ledger::{
    AccountChange, AccountName, Amount, Change, Currency, Direction, ExcessDecimals, KeyDigest, Sequence,
    ShardId, Timestamp, TransactionId,
};
use teller::progress::Progress;
use teller::storage::StorageError;
use teller::storage::in_flight::settle;
use teller::storage::journal::{Journal, JournalOptions};
use teller::storage::log::{Recovered, ShardFiles, StoredLog, recover};
use teller::storage::manifest::{Birth, DataDirectory};
use teller::storage::verify::verify_ledger;
use uuid::Uuid;

/// Kills the server between two of its changes, see `shim.c`.
const KILL: Signal = Signal::USR2;

const CUTS_DEFAULT: u64 = 40;
const CLIENTS: usize = 6;
const ACCOUNTS: u64 = 5;
const SHARDS: usize = 2;
/// So many accounts with 4 KiB of metadata that each shard has more than half a MiB of them.
const FILLERS: usize = 200;
/// What the server ends with when it cannot go on with its log (`README.md`, exit codes).
const EXIT_LOG_FAILURE: i32 = 74;
/// What each client does in each life of the server.
const REQUESTS: u64 = 45;
/// How often the power is cut in the life after one that was killed.
const LATER_CUTS: usize = 6;
/// How often the power is cut right behind the moment when a deleted snapshot's bytes were given back.
const FREED_CUTS: usize = 6;
/// One image in so many is given to a real server.
const SERVED_EVERY: u64 = 12;
/// So many images that have lost something are kept: any of them shows it.
const IMAGES_KEPT_MAX: usize = 3;
const ALL_IMAGES: [Unsynced; 3] = [Unsynced::Lost, Unsynced::Kept, Unsynced::Mixed];
/// Of the calls that a start makes, one in so many fails, each in a start of its own.
const STARTS_EVERY: u64 = 12;
/// So much has to be free where images are in memory: one takes up to 80 MiB, and several tests run at once.
const MEMORY_MIN: u64 = 1 << 30;
/// How often a file that is still held is tried: ten seconds.
const ATTEMPTS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(5);
/// Nothing here takes a fifth of this, on any machine: it only keeps a test that hangs from doing so for ever.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_power_cut_loses_nothing_acknowledged_and_would_without_our_own_syncs() {
    let seed = setting("TELLER_POWER_CUT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let cuts = setting("TELLER_POWER_CUTS").unwrap_or(CUTS_DEFAULT);
    println!("TELLER_POWER_CUT_SEED={seed} TELLER_POWER_CUTS={cuts}");
    let scene = Scene::new();
    let load = Load::default();
    let mut acknowledged = Vec::new();

    // Three lives: one that is killed under load, one that ends well, one that is cut short at its start.
    let server = scene.serve(&[]);
    acknowledged.extend(load.run(&scene, &server, &[Signal::USR1, Signal::USR1, KILL]));
    server.ended();
    let server = scene.serve(&[]);
    acknowledged.extend(load.run(&scene, &server, &[Signal::USR1, Signal::USR1]));
    server.signal(Signal::TERM);
    assert!(server.ended(), "it ends well");
    let server = scene.serve(&[]);
    acknowledged.extend(load.run(&scene, &server, &[Signal::USR1, Signal::USR1, KILL]));
    server.ended();
    // And one in which the journal's files are grown ahead, as they are once there is enough in them.
    let server = scene.serve(&[]);
    fill(&scene, &server);
    acknowledged.extend(load.run(&scene, &server, &[KILL]));
    server.ended();

    let trace = scene.trace();
    println!("{} acknowledgements; {}", acknowledged.len(), trace.summary());
    assert!(!trace.grown().is_empty(), "a file was grown");
    let mut random = Random::new(seed);
    let positions = trace.positions();
    let our_syncs = |path: &str| path.contains("/journal/") && path.ends_with("/db");
    let (mut wrong, mut controls_lost) = (Vec::new(), 0);
    // Some of the few openings take two shards, and nothing else does.
    let opened: Vec<&Acknowledged> =
        acknowledged.iter().filter(|one| matches!(one.what, Reply::Opened(_))).collect();
    for cut in 0..cuts {
        let position = if random.percent(10) {
            opened[random.below(opened.len() as u64) as usize].position
        } else if random.percent(50) {
            acknowledged[random.below(acknowledged.len() as u64) as usize].position
        } else {
            positions[random.below(positions.len() as u64) as usize]
        };
        for unsynced in ALL_IMAGES {
            let served = unsynced == Unsynced::Mixed && cut % SERVED_EVERY == 0;
            let found = scene.cut(&trace, position, unsynced, &mut random, &|image| {
                if served {
                    survives_in_a_server(&scene, image, &acknowledged, position)
                } else {
                    survives(image, &acknowledged, position, cut % 2 == 0)
                }
            });
            wrong.extend(found.err().map(|what| format!("cut {cut}: {what}")));
        }
        let image = scene.image();
        trace.cut(position, &our_syncs).write_to(image.path(), Unsynced::Lost, &mut random);
        controls_lost += u64::from(survives(image.path(), &acknowledged, position, false).is_err());
    }
    // A start reads older snapshots, too, and one that was deleted may be back.
    let freed = trace.freed(".snapshot");
    assert!(!freed.is_empty(), "a snapshot was deleted");
    let freed = &freed[freed.len().saturating_sub(FREED_CUTS)..];
    let images = [Unsynced::NamesLost, Unsynced::Mixed];
    wrong.extend(lost_at(&scene, &trace, freed, &images, &acknowledged));
    println!(
        "{cuts} cuts, {} images: {} lost something; control: {controls_lost} of {cuts} did",
        cuts * 3 + (freed.len() * images.len()) as u64,
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        controls_lost * 2 > cuts,
        "without our own syncs only {controls_lost} of {cuts} cuts lose anything"
    );
}

/// The killed process had renamed a file and not yet synced the directory, or written a record and not yet synced
/// it. The next one finds the name, relies on it, and deletes what the file replaces, or goes on behind the record;
/// neither, however, was ever durable. Recovery has to make it so.
#[test]
fn what_a_killed_process_did_not_sync_is_durable_before_anything_relies_on_it() {
    let mut wrong = Vec::new();
    let renamed = [".segment", ".snapshot", "/manifest.json", "/0000000001", ".removed", "/watermark"];
    let renamed = renamed.map(|name| ("POWER_CUT_KILL_AFTER_RENAME", name));
    for death in renamed.into_iter().chain([("POWER_CUT_KILL_BEFORE_SYNC", "/db")]) {
        let scene = Scene::new();
        let load = Load::default();
        let mut acknowledged = Vec::new();
        // It dies when it first gives such a name: at its start, or when a snapshot is asked for.
        if let Some(server) = scene.try_serve(&[death]) {
            acknowledged.extend(load.run(&scene, &server, &[Signal::USR1]));
            server.ended();
        }
        // Without a snapshot: that would sync the directories in passing.
        let server = scene.serve(&[]);
        let before = acknowledged.len();
        acknowledged.extend(load.run(&scene, &server, &[]));
        server.signal(Signal::TERM);
        assert!(server.ended(), "it ends well");

        let trace = scene.trace();
        let mut random = Random::new(1);
        let step = ((acknowledged.len() - before) / LATER_CUTS).max(1);
        let mut cuts: Vec<u64> =
            acknowledged[before..].iter().step_by(step).map(|one| one.position).collect();
        cuts.push(trace.end());
        for cut in cuts {
            for unsynced in [Unsynced::Lost, Unsynced::Mixed] {
                let found = scene.cut(&trace, cut, unsynced, &mut random, &|image| {
                    survives(image, &acknowledged, cut, false)
                });
                wrong.extend(found.err().map(|what| format!("{death:?}, {what}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The disk refuses a sync. What it was for is lost, for a later one would not write it either; so nobody is told of it,
/// or of anything behind it, and the process ends. In a file with zeros ahead: whoever appends those must not be the one
/// that hears of the error.
#[test]
fn a_sync_that_fails_ends_the_process_and_what_it_was_for_is_not_acknowledged() {
    let scene = Scene::new();
    let load = Load::default();
    // Some way into the load: each filler is a commit of its own.
    let server = scene.serve(&[("POWER_CUT_FAIL", &format!("sync /db {}", FILLERS + 40))]);
    fill(&scene, &server);
    let acknowledged = load.run(&scene, &server, &[]);
    assert_eq!(server.exit_code(), Some(EXIT_LOG_FAILURE));

    let trace = scene.trace();
    let [failed] = trace.failed_syncs()[..] else { panic!("one sync fails: {}", trace.summary()) };
    assert!(trace.grown().contains(&failed), "zeros were appended to that file");
    assert!(!acknowledged.is_empty(), "something was done before");
    assert_eq!(lost_at(&scene, &trace, &[trace.end()], &ALL_IMAGES, &acknowledged), [""; 0]);
}

/// Of the journal or its watermark the disk refuses what a commit writes, or of the watermark the housekeeper's sync,
/// which is the third: the start of each shard has had one.
#[test]
fn a_log_or_a_watermark_that_cannot_be_written_ends_the_process_and_nothing_is_lost() {
    for failing in ["pwrite /watermark 30", "sync /watermark 3", "pwrite /db 40"] {
        let scene = Scene::new();
        let server = scene.serve(&[("POWER_CUT_FAIL", failing)]);
        let acknowledged = Load::default().run(&scene, &server, &[]);
        assert_eq!(server.exit_code(), Some(EXIT_LOG_FAILURE), "{failing}: {}", scene.logged());

        let trace = scene.trace();
        assert_eq!(trace.failures().len(), 1, "{failing}: {}", trace.summary());
        assert!(!acknowledged.is_empty(), "something was done before");
        let lost = lost_at(&scene, &trace, &[trace.end()], &ALL_IMAGES, &acknowledged);
        assert!(lost.is_empty(), "{failing}: {lost:#?}");
    }
}

/// Whoever makes room ahead of the log only makes commits quicker, so it ends nothing.
#[test]
fn without_room_ahead_of_the_log_everything_goes_on() {
    let scene = Scene::new();
    let load = Load::default();
    let server = scene.serve(&[("POWER_CUT_FAIL", "append /db 3")]);
    fill(&scene, &server);
    let acknowledged = load.run(&scene, &server, &[]);
    scene.wait_for_log("cannot make room ahead of the log");
    assert_eq!(load.requests.load(Ordering::Relaxed), CLIENTS as u64 * REQUESTS, "all are answered");
    server.signal(Signal::TERM);
    assert!(server.ended(), "it ends well");

    let trace = scene.trace();
    assert_eq!(trace.failures().len(), 1, "{}", trace.summary());
    assert_eq!(lost_at(&scene, &trace, &[trace.end()], &ALL_IMAGES, &acknowledged), [""; 0]);
}

/// A sync that never returns: its commit holds up the shard, and the watchdog, after ten seconds, the process no longer.
#[test]
fn a_sync_that_hangs_ends_the_process_and_nothing_is_lost() {
    let scene = Scene::new();
    let server = scene.serve(&[("POWER_CUT_FAIL", "hang /db 60")]);
    let acknowledged = Load::default().run(&scene, &server, &[]);
    assert_eq!(server.exit_code(), Some(EXIT_LOG_FAILURE), "{}", scene.logged());
    for told in ["a commit takes long", "a commit hangs"] {
        assert!(scene.logged().contains(told), "{told:?} in {}", scene.logged());
    }
    let trace = scene.trace();
    assert!(!acknowledged.is_empty(), "something was done before");
    assert_eq!(lost_at(&scene, &trace, &[trace.end()], &[Unsynced::Lost], &acknowledged), [""; 0]);
}

/// The disk fails once while the log is compacted. The step is given up, with nothing left of it that looks finished, and
/// what it was to replace stays; the next one does it all. Of the syncs of a directory, the first one of each shard is the
/// start's.
#[test]
fn a_compaction_that_fails_takes_nothing_away_and_the_next_one_gets_on() {
    let failing = [
        ("sync .snapshot.tmp 1", Some(("snapshots", ".snapshot.tmp"))),
        ("rename .snapshot 1", Some(("snapshots", ".snapshot.tmp"))),
        ("sync /snapshots 3", Some(("snapshots", ".snapshot.tmp"))),
        ("sync .segment.tmp 1", Some(("archive", ".segment.tmp"))),
        ("rename .segment 1", Some(("archive", ".segment.tmp"))),
        ("sync /archive 3", Some(("archive", ".segment.tmp"))),
        ("rename .removed 1", None),
    ];
    for (failing, given_up) in failing {
        let scene = Scene::new();
        let load = Load::default();
        let server = scene.serve(&[("POWER_CUT_FAIL", failing)]);
        let mut acknowledged = load.run(&scene, &server, &[Signal::USR1]);
        scene.wait_for_log("cannot compact the log");
        let reply = Client::new(server.address).request("GET", "/accounts/account-0", None, "");
        assert_eq!(reply.map(|reply| reply.status), Some(200), "{failing}: it serves");
        acknowledged.extend(load.run(&scene, &server, &[Signal::USR1]));
        wait_until("both shards have a segment", || scene.segments().iter().all(|&segments| segments > 0));
        server.signal(Signal::TERM);
        assert!(server.ended(), "{failing}: it ends well: {}", scene.logged());

        let trace = scene.trace();
        let [(failed_at, path)] = trace.failures()[..] else { panic!("{failing}: {}", trace.summary()) };
        let shard = &path[..path.find("/shard-").expect("it is in a shard") + "/shard-0000".len()];
        let mut cuts = vec![failed_at, trace.end()];
        // Where a generation has just been deleted for good.
        cuts.extend(trace.removals(shard, ".removed").iter().filter(|&&removed| removed > failed_at));
        let lost = lost_at(&scene, &trace, &cuts, &[Unsynced::Lost, Unsynced::Mixed], &acknowledged);
        assert!(lost.is_empty(), "{failing}: {lost:#?}");
        if let Some((directory, in_the_making)) = given_up {
            // When the next attempt begins, which may be at once if the other shard got on.
            let again = trace.before_creating(failed_at, shard, in_the_making).expect("it is tried again");
            let disk = trace.cut(again, &|_| false);
            assert_eq!(disk.names(&format!("{shard}/{directory}")), [""; 0], "{failing}: nothing is left");
            let generations = disk.names(&format!("{shard}/journal"));
            assert!(generations.contains(&"0000000001"), "{failing}: it stays: {generations:?}");
        }
    }
}

/// Every call by which a start changes the disk, or makes it durable, fails once. The start says so and ends, or goes on
/// where it can; and the next one, on a disk that has recovered, finds all that was acknowledged.
///
/// One shard is recovered after the other, as on one core, so that a number means the same call each time.
#[test]
fn a_start_on_a_disk_that_fails_tells_of_it_and_nothing_is_lost() {
    let seed = setting("TELLER_POWER_CUT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let stride = setting("TELLER_POWER_CUT_STARTS_EVERY").unwrap_or(STARTS_EVERY).max(1);
    println!("TELLER_POWER_CUT_SEED={seed} TELLER_POWER_CUT_STARTS_EVERY={stride}");
    let scene = Scene::new();
    let load = Load::default();
    let server = scene.serve(&[]);
    let mut acknowledged = load.run(&scene, &server, &[Signal::USR1]);
    wait_until("both shards have a segment", || scene.segments().iter().all(|&segments| segments > 0));
    acknowledged.extend(load.run(&scene, &server, &[KILL]));
    server.ended();
    let server = scene.serve(&[]);
    acknowledged.extend(load.run(&scene, &server, &[KILL]));
    server.ended();
    // What processes leave that are killed in the midst of something.
    let shard = data(&scene.path("root")).join("shard-0001");
    for leftover in ["snapshots/left.tmp", "archive/left.tmp", "journal/0000000001.removed/db"] {
        let leftover = shard.join(leftover);
        fs::create_dir_all(leftover.parent().expect("in a directory")).expect("created");
        fs::write(leftover, "left").expect("written");
    }

    let mut wrong = Vec::new();
    let mut starts = 0;
    let mut refused: HashMap<&str, u64> = HashMap::new();
    for call in ["sync", "pwrite", "write", "append", "create", "rename", "unlink"] {
        let mut number = 1 + seed % stride;
        loop {
            starts += 1;
            let failing = format!("{call} * {number}");
            let image = scene.image();
            directory::copy(&scene.path("root"), &image.path().join("root"));
            let started = on_one_core(|| scene.serve_in(image.path(), &[("POWER_CUT_FAIL", &failing)]));
            let traced = image.path().join("trace");
            let (serves, code, until_ready) = match started {
                Ok(server) => {
                    let until_ready = fs::metadata(&traced).expect("the server is traced").len();
                    server.signal(Signal::TERM);
                    (true, server.exit_code(), until_ready)
                }
                Err(code) => (false, code, u64::MAX),
            };
            // Read when it has ended: what is done behind the start's back may have come later.
            let trace = Trace::read(&traced, &image.path().join("root"));
            let log = fs::read_to_string(image.path().join("log")).expect("there is a log");
            let Some(&(failed_at, failed)) = trace.failures().first() else {
                // It has made all its calls.
                if (serves, code) != (true, Some(0)) {
                    wrong.push(format!(
                        "{failing}, which none did: it serves {serves}, exit code {code:?}:\n{log}"
                    ));
                    scene.keep(image);
                }
                break;
            };
            *refused.entry(call).or_default() += 1;
            let last = log.lines().last().unwrap_or_default();
            let names_it = |line: &str| {
                line.contains(image.path().to_str().expect("UTF-8")) && line.contains("Input/output error")
            };
            let is_told = if failed.contains("/reading/") && failed.ends_with(" (deleted)") {
                // What sled still writes to a copy that has been read is nobody's.
                serves && code == Some(0)
            } else if failed_at > until_ready {
                // Its end may fail as well.
                [Some(0), Some(1), Some(EXIT_LOG_FAILURE)].contains(&code) && log.lines().any(names_it)
            } else if serves {
                // What may fail without harm, and is told, is done behind the start's back and tried again: the next
                // generation is opened ahead, and what an earlier life left is compacted.
                code == Some(0) && log.lines().any(names_it)
            } else {
                code == Some(1) && last.starts_with("teller: ") && names_it(last)
            };
            let told = format!("it serves {serves}, exit code {code:?}:\n{log}");
            let found = is_told.then_some(()).ok_or(told).and_then(|()| {
                survives(&image.path().join("root"), &acknowledged, u64::MAX, number.is_multiple_of(2))
            });
            if let Err(what) = found {
                wrong.push(format!("{failing}, {failed:?}: {what}"));
                scene.keep(image);
            }
            number += stride;
        }
    }
    println!("{starts} starts; refused: {refused:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Of each of these a start makes more than twice as many as are left out; of the others there are few.
    let always = ["sync", "create", "rename", "unlink", "pwrite"];
    let always = if stride == 1 { &always[..] } else { &always[..4] };
    let fails = |call: &&str| stride > STARTS_EVERY || refused.contains_key(call);
    assert!(always.iter().all(fails) && !refused.is_empty(), "some of each fail: {refused:?}");
}

/// Has the processes that are started meanwhile run on one core, and this one then where it did before: sled's threads in
/// it stay where they begin.
fn on_one_core<T>(start: impl FnOnce() -> T) -> T {
    let allowed = sched_getaffinity(None).expect("known");
    let first = (0..CpuSet::MAX_CPU).find(|&core| allowed.is_set(core)).expect("it runs somewhere");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("it stays where it may be");
    let started = start();
    sched_setaffinity(None, &allowed).expect("it may be there again");
    started
}

/// Waits for something that is bound to come.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        if is_so() {
            return;
        }
        thread::sleep(PAUSE);
    }
    panic!("waited in vain until {what}");
}

/// A disk, or the memory before it, flips a bit on the way. What is written is read back before it has its name, and
/// nothing that it replaces is deleted before that: so a start finds all as if it had never been, and makes it anew.
#[test]
fn nothing_is_deleted_for_a_file_that_does_not_read_back() {
    for flipped in [".segment.tmp", ".snapshot.tmp"] {
        let scene = Scene::new();
        let server = scene.serve(&[("POWER_CUT_FLIP", flipped)]);
        let acknowledged = Load::default().run(&scene, &server, &[Signal::USR1]);
        server.signal(Signal::TERM);
        assert!(!server.ended(), "it tells that it could not archive");
        let image = scene.path("root");
        let kind = if flipped == ".segment.tmp" { "archive" } else { "snapshots" };
        for shard in ["shard-0000", "shard-0001"] {
            let files = |name: &str| fs::read_dir(data(&image).join(shard).join(name)).expect("read").count();
            assert_eq!(files(kind), 0, "no file has the name of one that is good");
            assert_eq!(files("archive"), 0, "nothing is archived without a snapshot");
        }
        assert_eq!(survives(&image, &acknowledged, u64::MAX, true), Ok(()), "{flipped}");
    }
}

/// What has been lost, or keeps a start from being one, after a power cut at each of these positions.
fn lost_at(
    scene: &Scene,
    trace: &Trace,
    positions: &[u64],
    images: &[Unsynced],
    acknowledged: &[Acknowledged],
) -> Vec<String> {
    let mut random = Random::new(1);
    let mut lost = Vec::new();
    for &position in positions {
        for &unsynced in images {
            let found = scene.cut(trace, position, unsynced, &mut random, &|image| {
                survives(image, acknowledged, position, true)
            });
            lost.extend(found.err());
        }
    }
    lost
}

/// A failure came once in many runs, and all that could have told more of it was deleted with it.
#[test]
fn the_directory_of_a_test_that_fails_stays() {
    let used_by_a_test = |fails: bool| {
        let (tell, told) = mpsc::channel();
        let test = thread::spawn(move || {
            let directory = Directory::new();
            tell.send(directory.path().to_owned()).expect("it listens");
            assert!(!fails, "on purpose");
        });
        assert_eq!(test.join().is_err(), fails);
        told.recv().expect("it has told")
    };
    assert!(!used_by_a_test(false).exists(), "else it is removed");
    let kept = used_by_a_test(true);
    fs::remove_dir(kept).expect("it is still there");
}

/// Recovers an image in this process, and looks for all that was acknowledged before the cut.
fn survives(image: &Path, acknowledged: &[Acknowledged], cut: u64, finish: bool) -> Result<(), String> {
    let birth = Birth { shards: SHARDS, ledger: Uuid::from_u128(1), created: Timestamp::from_millis(1) };
    let progress = Progress::new("recovering", "events", None);
    let open =
        || DataDirectory::open(&data(image), None, &birth).map_err(|error| format!("no start: {error}"));
    let files = |directory: &DataDirectory| -> Vec<ShardFiles> {
        (0..directory.shards()).filter_map(ShardId::new).map(|id| ShardFiles::new(directory, id)).collect()
    };
    {
        let directory = open()?;
        let mut shards = Vec::new();
        for files in files(&directory) {
            let recovered = recover(&files, JournalOptions::default(), &progress)
                .map_err(|error| format!("no start: {error}"))?;
            assert_eq!(recovered.journal.position().last, recovered.ledger.last());
            shards.push(recovered);
        }
        // A key of an opening may be another shard's than the account: acknowledged once it is decided there.
        let mut sides: Vec<_> = shards.iter_mut().map(Recovered::side).collect();
        settle(&mut sides, birth.created).map_err(|error| format!("no start: {error}"))?;
        for shard in shards {
            if finish {
                shard.log.finish(shard.journal, &shard.ledger).map_err(|error| error.to_string())?;
            }
        }
    }
    let directory = open()?;
    let all = files(&directory);
    // In one process only: threads of sled's may hold a generation a moment longer than its journal.
    let mut attempts = 0..ATTEMPTS;
    loop {
        match verify_ledger(&all, &progress) {
            Err(StorageError::Locked { .. }) if attempts.next().is_some() => thread::sleep(PAUSE),
            verified => break drop(verified.map_err(|error| format!("verify: {error}"))?),
        }
    }
    look_for(&all, acknowledged, cut)
}

/// Looks for everything acknowledged in the logs: there, once, with the reply's values.
fn look_for(all: &[ShardFiles], acknowledged: &[Acknowledged], cut: u64) -> Result<(), String> {
    let mut postings = HashMap::new();
    let mut movements = HashMap::new();
    let mut keys: HashMap<KeyDigest, u32> = HashMap::new();
    let mut opened = HashMap::new();
    for files in all {
        let mut names = Vec::new();
        let mut sequence = Sequence::NONE;
        let log = StoredLog::open(files).map_err(|error| error.to_string())?;
        log.walk(files.genesis(), &mut |record, _| {
            for event in record.events() {
                let (at, event) = event?;
                assert_eq!(at, sequence.next(), "the log has no gap");
                sequence = at;
                match event.change {
                    Change::Opened { name, .. } => {
                        names.push(name.clone());
                        *opened.entry(name).or_insert(0) += 1;
                    }
                    Change::Posted { account, direction, amount, entry } => {
                        let name = names[account.index()].clone();
                        *movements.entry((name.clone(), direction_sign(direction), amount)).or_insert(0) += 1;
                        postings.insert((files.shard, at), (name, direction.signed(amount), entry.balance));
                        if let Some(key) = event.key {
                            *keys.entry(key.key.digest).or_insert(0) += 1;
                        }
                    }
                    // What took more than one shard, if only for its key.
                    Change::Decided { ref decision, .. } | Change::Settled { ref decision, .. } => {
                        let id = match &event.change {
                            Change::Settled { by, .. } => (by.shard, by.sequence),
                            _ => (files.shard, at),
                        };
                        if let Some(key) = event.key {
                            *keys.entry(key.key.digest).or_insert(0) += 1;
                        }
                        for effect in decision.part(files.shard).map_or(&[][..], |part| &part.effects) {
                            if let AccountChange::Opened(account) = &effect.change {
                                names.push(account.name.clone());
                                *opened.entry(account.name.clone()).or_insert(0) += 1;
                                continue;
                            }
                            let name = names[effect.account.index()].clone();
                            let amount = effect.change.posted();
                            let sign = if amount.is_positive() { 1 } else { -1 };
                            *movements.entry((name.clone(), sign, amount.magnitude())).or_insert(0) += 1;
                            postings.insert(id, (name, amount, effect.after.balance));
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    }
    for (what, count) in &movements {
        // Every request has an amount of its own.
        if *count > 1 {
            return Err(format!("{what:?} is there {count} times"));
        }
    }
    if let Some((key, count)) = keys.iter().find(|(_, count)| **count > 1) {
        return Err(format!("the key {key:?} has {count} effects"));
    }
    if let Some((name, count)) = opened.iter().find(|(_, count)| **count > 1) {
        return Err(format!("the account {name} is opened {count} times"));
    }
    for acknowledged in acknowledged.iter().filter(|acknowledged| acknowledged.position <= cut) {
        let found = match &acknowledged.what {
            Reply::Opened(name) => opened.contains_key(name),
            Reply::Posted { id, name, amount, balance } => {
                postings.get(&(id.shard, id.sequence)) == Some(&(name.clone(), *amount, *balance))
            }
        };
        if !found {
            return Err(format!("acknowledged, and lost: {acknowledged:?}"));
        }
    }
    Ok(())
}

fn direction_sign(direction: Direction) -> i8 {
    match direction {
        Direction::Deposit => 1,
        Direction::Withdrawal => -1,
    }
}

/// Starts a real server on an image and asks it for what was acknowledged.
fn survives_in_a_server(
    scene: &Scene,
    image: &Path,
    acknowledged: &[Acknowledged],
    cut: u64,
) -> Result<(), String> {
    let server =
        Server::start(&data(image), &[], &scene.log).map_err(|_| "the server does not start".to_owned())?;
    let mut client = Client::new(server.address);
    for acknowledged in acknowledged.iter().filter(|acknowledged| acknowledged.position <= cut) {
        match &acknowledged.what {
            Reply::Opened(name) => {
                let reply = client.request("GET", &format!("/accounts/{name}"), None, "").expect("a reply");
                if reply.status != 200 {
                    return Err(format!("acknowledged, and lost: {acknowledged:?}"));
                }
            }
            what @ Reply::Posted { id, name, .. } => {
                let path = format!("/transactions/{}", id.to_uuid());
                let reply = client.request("GET", &path, None, "").expect("a reply");
                if reply.status != 200 || posted(name, &reply.body).as_ref() != Some(what) {
                    return Err(format!("acknowledged, and lost: {acknowledged:?}, {}", reply.body));
                }
            }
        }
    }
    server.signal(Signal::TERM);
    if !server.ended() {
        return Err("the server does not end well".into());
    }
    survives(image, acknowledged, cut, false)
}

/// A promise of the server's, and how long the trace was when the client had it.
#[derive(Clone, Debug)]
struct Acknowledged {
    position: u64,
    what: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Opened(AccountName),
    Posted { id: TransactionId, name: AccountName, amount: Amount, balance: Amount },
}

/// Opens accounts with much to say of them, until each shard's journal has a file that is grown ahead.
fn fill(scene: &Scene, server: &Server) {
    let mut client = Client::new(server.address);
    let metadata: Vec<String> = (0..16).map(|entry| format!("\"{entry}\":\"{}\"", "x".repeat(250))).collect();
    for number in 0..FILLERS {
        let body = format!("{{\"name\":\"filler-{number}\",\"metadata\":{{{}}}}}", metadata.join(","));
        let reply = client.request("POST", "/v2/accounts", None, &body).expect("it lives");
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    wait_until("all files are grown", || scene.trace_so_far().grown().len() == SHARDS);
}

/// The clients' requests, which never repeat but on purpose.
#[derive(Default)]
struct Load {
    requests: AtomicU64,
    lives: AtomicU64,
}

impl Load {
    /// Runs the clients until they are through or the server has gone. In the midst of it the signals are sent,
    /// evenly spread.
    fn run(&self, scene: &Scene, server: &Server, signals: &[Signal]) -> Vec<Acknowledged> {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let done = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let done = &done;
                    scope.spawn(move || self.client(scene, server, life * 100 + client as u64, done))
                })
                .collect();
            let over = &over;
            let done = &done;
            scope.spawn(move || {
                let interval = CLIENTS as u64 * REQUESTS / (signals.len() as u64 + 1);
                let mut due = (1..).map(|number| number * interval).zip(signals).peekable();
                while !over.load(Ordering::Acquire) {
                    if let Some((_, signal)) =
                        due.next_if(|(after, _)| done.load(Ordering::Relaxed) >= *after)
                    {
                        server.signal(*signal);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let ends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
            over.store(true, Ordering::Release);
            ends.into_iter().flat_map(|end| end.expect("a client does not panic")).collect()
        })
    }

    fn client(&self, scene: &Scene, server: &Server, number: u64, done: &AtomicU64) -> Vec<Acknowledged> {
        let mut random = Random::new(number);
        let mut client = Client::new(server.address);
        let mut acknowledged = Vec::new();
        for round in 0..REQUESTS {
            let request = self.requests.fetch_add(1, Ordering::Relaxed);
            let account = format!("account-{}", random.below(ACCOUNTS));
            let name = AccountName::parse(&account).expect("valid");
            let (path, body) = if round == 0 {
                ("/accounts".to_owned(), format!("{{\"name\":\"{account}\"}}"))
            } else {
                let verb = if random.percent(70) { "deposit" } else { "withdraw" };
                let body = format!("{{\"amount\":{}.{:02}}}", 1 + request / 100, request % 100);
                (format!("/accounts/{account}/{verb}"), body)
            };
            let key = random.percent(50).then(|| format!("key-{request}"));
            // A retry of a key is acknowledged as well.
            for _ in 0..if key.is_some() && random.percent(30) { 2 } else { 1 } {
                let Some(reply) = client.request("POST", &path, key.as_deref(), &body) else {
                    return acknowledged;
                };
                let position = scene.trace_bytes();
                match reply.status {
                    201 if round == 0 => {
                        acknowledged.push(Acknowledged { position, what: Reply::Opened(name.clone()) });
                    }
                    201 => {
                        let what = posted(&name, &reply.body).expect("a transaction");
                        acknowledged.push(Acknowledged { position, what });
                    }
                    404 | 409 | 422 => {}
                    status => panic!("{status}: {}", reply.body),
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged
    }
}

/// A version 1 transaction.
fn posted(name: &AccountName, body: &str) -> Option<Reply> {
    let currency = Currency::USD;
    let field = |name: &str| {
        let (_, rest) = body.split_once(&format!("\"{name}\":"))?;
        Some(rest.split([',', '}']).next()?.trim_matches('"'))
    };
    let amount = |name: &str| Amount::parse(field(name)?, currency, ExcessDecimals::Refuse).ok();
    (field("account")? == name.to_string()).then_some(())?;
    Some(Reply::Posted {
        id: TransactionId::parse(field("id")?).ok()?,
        name: name.clone(),
        amount: amount("amount")?,
        balance: amount("balance")?,
    })
}

/// Temporary directories, the shim, and a trace.
struct Scene {
    directory: Directory,
    log: PathBuf,
    memory: Option<PathBuf>,
    images_kept: AtomicUsize,
}

impl Scene {
    fn new() -> Scene {
        let directory = Directory::new();
        let path = directory.path();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut/shim.c");
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(path.join("shim.so"))
            .arg(&source)
            .args(["-lpthread"])
            .output()
            .expect("there is a C compiler, or Rust could not link");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        fs::create_dir(path.join("root")).expect("created");
        let memory = PathBuf::from("/dev/shm");
        let is_large = statvfs(&memory).is_ok_and(|space| space.f_bavail * space.f_frsize >= MEMORY_MIN);
        let memory = (is_large && tempfile::tempdir_in(&memory).is_ok()).then_some(memory);
        Scene { log: path.join("log"), directory, memory, images_kept: AtomicUsize::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serve(&self, variables: &[(&str, &str)]) -> Server {
        self.try_serve(variables).expect("it starts")
    }

    /// `None` if it ends instead.
    fn try_serve(&self, variables: &[(&str, &str)]) -> Option<Server> {
        self.serve_in(&self.path(""), variables).ok()
    }

    /// Starts a traced server whose root, trace and log are in `place`; or it ends instead, with this exit code.
    fn serve_in(&self, place: &Path, variables: &[(&str, &str)]) -> Result<Server, Option<i32>> {
        let (shim, root, trace) = (self.path("shim.so"), place.join("root"), place.join("trace"));
        let mut all: Vec<(&str, &str)> = vec![
            ("LD_PRELOAD", shim.to_str().expect("UTF-8")),
            ("POWER_CUT_ROOT", root.to_str().expect("UTF-8")),
            ("POWER_CUT_TRACE", trace.to_str().expect("UTF-8")),
        ];
        all.extend(variables);
        Server::start(&data(&root), &all, &place.join("log"))
    }

    fn trace_bytes(&self) -> u64 {
        fs::metadata(self.path("trace")).expect("the server is traced").len()
    }

    /// The trace of servers that have ended.
    fn trace(&self) -> Trace {
        let trace = self.trace_so_far();
        assert!(trace.is_whole(), "nothing is written any more");
        trace
    }

    fn trace_so_far(&self) -> Trace {
        Trace::read(&self.path("trace"), &self.path("root"))
    }

    /// A directory for an image: in memory, if there is such a place with room, as nothing pulls this plug.
    fn image(&self) -> Directory {
        self.memory.as_ref().map_or_else(Directory::new, |memory| Directory::new_in(memory))
    }

    /// Cuts the power, and says what `check` finds wrong with the image; which is then kept as the disk had it.
    fn cut(
        &self,
        trace: &Trace,
        position: u64,
        unsynced: Unsynced,
        random: &mut Random,
        check: &dyn Fn(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let disk = trace.cut(position, &|_| false);
        let image = self.image();
        let mut again = random.clone();
        disk.write_to(image.path(), unsynced, random);
        check(image.path()).map_err(|what| {
            let before = self.image();
            disk.write_to(before.path(), unsynced, &mut again);
            self.keep(before);
            format!("at {position}, unsynced {unsynced:?}: {what}")
        })
    }

    /// Keeps an image that has lost something, if it is among the first.
    fn keep(&self, mut image: Directory) {
        if self.images_kept.fetch_add(1, Ordering::Relaxed) < IMAGES_KEPT_MAX {
            image.keep();
        }
    }

    /// What the servers have logged.
    fn logged(&self) -> String {
        fs::read_to_string(&self.log).expect("there is a log")
    }

    fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log says {text:?}"), || self.logged().contains(text));
    }

    /// How many segments each shard has.
    fn segments(&self) -> [usize; SHARDS] {
        [0, 1].map(|shard| {
            let archive = data(&self.path("root")).join(format!("shard-{shard:04}/archive"));
            let names = fs::read_dir(archive).expect("read").map(|entry| entry.expect("read").file_name());
            names.filter(|name| name.to_string_lossy().ends_with(".segment")).count()
        })
    }
}

impl Drop for Scene {
    /// The test may go on to another scene before it fails.
    fn drop(&mut self) {
        if *self.images_kept.get_mut() > 0 {
            self.directory.keep();
        }
    }
}

/// Where the ledger is in a root.
fn data(root: &Path) -> PathBuf {
    root.join("data/teller")
}

struct Server {
    child: std::sync::Mutex<Child>,
    pid: Pid,
    address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it is ready; or it ends instead, with this exit code, or none if it is killed.
    fn start(data: &Path, variables: &[(&str, &str)], log: &Path) -> Result<Server, Option<i32>> {
        let (root, name) = (data.parent().expect("a parent"), data.file_name().expect("a name"));
        let log = File::options().create(true).append(true).open(log).expect("opened");
        let mut child = Command::new(env!("CARGO_BIN_EXE_teller"))
            .args(["serve", "--port", "0", "--shards", &SHARDS.to_string(), "--data-dir"])
            .arg(root)
            .arg("--db-name")
            .arg(name)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("it runs");
        let stdout = child.stdout.take().expect("piped");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(PATIENCE).unwrap_or_default();
        let pid = Pid::from_child(&child);
        let mut server = Server { child: child.into(), pid, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let Some((_, address)) = line.trim().split_once("http://") else {
            // Its stdout is closed a moment before it ends.
            return Err(server.exit_code());
        };
        server.address = address.parse().expect("an address");
        Ok(server)
    }

    fn signal(&self, signal: Signal) {
        // Under the lock, and only while it has not been waited for: the number is its own until then.
        let mut child = self.child.lock().expect("no panic");
        if child.try_wait().expect("known").is_none() {
            kill_process(self.pid, signal).expect("sent");
        }
    }

    /// Waits for its end, and whether that was a good one.
    fn ended(&self) -> bool {
        self.exit_code() == Some(0)
    }

    /// Waits for its end; `None` if it was killed.
    fn exit_code(&self) -> Option<i32> {
        let mut child = self.child.lock().expect("no panic");
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            if let Some(status) = child.try_wait().expect("known") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
            waited += Duration::from_millis(5);
        }
        panic!("the server does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Also when its user has panicked, or it would outlive the test.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One connection.
struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

struct HttpReply {
    status: u16,
    body: String,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        Client { address, stream: None }
    }

    /// Sends a request; `None` if the server has gone before it answered whole.
    fn request(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> Option<HttpReply> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            stream.set_nodelay(true).expect("set");
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().expect("connected");
        let key = key.map_or(String::new(), |key| format!("idempotency-key: {key}\r\n"));
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bank\r\ncontent-type: application/json\r\n{key}content-length: {length}\r\n\r\n{body}"
        );
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        let mut read_line = |stream: &mut BufReader<TcpStream>| {
            line.clear();
            stream.read_line(&mut line).ok().filter(|&count| count > 0)?;
            Some(line.trim().to_ascii_lowercase())
        };
        let status = read_line(stream)?.split(' ').nth(1)?.parse().ok()?;
        let mut length = 0;
        loop {
            let header = read_line(stream)?;
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        Some(HttpReply { status, body: String::from_utf8(body).ok()? })
    }
}
