//! Gives memory back to the system.
//!
//! What a thread frees the allocator keeps for it, as it should: it will be wanted again at once. Compaction is the
//! exception. It has some hundred megabytes for the time in which it works, of a large ledger half a gigabyte, in pieces
//! between which others live on, so that glibc never gives them back by itself. So compaction asks for that when it is
//! done with all there was to do: ten million accounts then take 1.33 GiB instead of 1.86.
//!
//! Left out: other allocators than glibc's, which have no such call or need none; nothing is done there.

/// Gives back whatever the allocator keeps and nobody has. Took 3 to 31 ms, in which who allocates from the same part of
/// the heap waits.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe library has it; what it buys is in the module's essay")]
pub fn give_back() {
    let started = std::time::Instant::now();
    // SAFETY: It takes a number, and may be called by any thread at any time (malloc_trim(3): MT-Safe).
    unsafe { libc::malloc_trim(0) };
    tracing::debug!(took_us = started.elapsed().as_micros() as u64, "gave memory back to the system");
}

/// Does nothing.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
