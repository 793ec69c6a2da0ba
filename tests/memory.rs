//! What compaction has freed goes back to the system. A program of its own, so that nothing else changes what is measured.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs;

use teller::memory::give_back;

/// The memory that this process has, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn what_was_freed_between_pieces_that_live_on_goes_back_to_the_system() {
    const PIECES: usize = 64 * 1024;
    let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; 1024]).collect();
    let all = resident();
    let mut place = 0;
    pieces.retain(|_| {
        place += 1;
        place % 64 == 0
    });
    let freed = resident();
    assert!(freed + 8 * 1024 > all, "or there is nothing to do: {all} to {freed} KiB");
    give_back();
    let left = resident();
    assert!(left + 48 * 1024 < freed, "of 63 MiB: {freed} to {left} KiB");
    assert_eq!(pieces.len(), PIECES / 64);
}
