//! Hints to processor and system about where accounts are in memory.
//!
//! Of a million accounts hardly one is in the processor's caches, and of their pages hardly one among those that it knows the
//! place of. Waiting for both was two fifths of a transfer's time in the shard. So what will be needed soon is
//! [fetched](fetch) by an instruction that waits for nothing, many at a time, and accounts stand in [huge
//! pages](use_huge_pages), of which there are 512 times fewer to be found. `benches/README.md` has what each bought.
//!
//! What always holds: a hint changes no value, here or anywhere. Where system or processor do not take it, it is only slower.
//!
//! Left out: the index of names and what accounts have on the heap, small pieces that the allocator puts where it likes.

/// Has the processor fetch the line of its caches that a value begins on.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no safe function has it; what it buys is in the module's essay")]
pub(super) fn fetch<T: Copy>(value: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: It reads and writes nothing, whatever the address, and every such processor has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
}

/// The same by reading it, which does wait, but for several at a time where there is little to do between them.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn fetch<T: Copy>(value: &T) {
    std::hint::black_box(*value);
}

/// Asks the system to use huge pages for what a vector has room for and does not use yet, as far as that has whole ones.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe library has it; what it buys is in the module's essay")]
pub(super) fn use_huge_pages<T>(vector: &mut Vec<T>) {
    use rustix::mm::{Advice, madvise};
    /// On x86-64, and on most others.
    const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

    let room = vector.spare_capacity_mut();
    let before = room.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES);
    let bytes = size_of_val(room).saturating_sub(before) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if bytes == 0 {
        return;
    }
    let begin = room.as_mut_ptr().cast::<u8>().wrapping_add(before);
    // SAFETY: The range is within the vector's own memory, and this advice leaves what is in it as it is.
    let _ = unsafe { madvise(begin.cast(), bytes, Advice::LinuxHugepage) };
}

/// Does nothing.
#[cfg(not(target_os = "linux"))]
pub(super) fn use_huge_pages<T>(_: &mut Vec<T>) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    /// Whether the system is to use huge pages at this address, as it says itself: the flag `hg` of a mapping.
    fn is_advised(address: usize) -> bool {
        let mappings = fs::read_to_string("/proc/self/smaps").expect("Linux has it");
        let mut is_inside = false;
        mappings.lines().any(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((begin, end)) = range
                && let (Ok(begin), Ok(end)) =
                    (usize::from_str_radix(begin, 16), usize::from_str_radix(end, 16))
            {
                is_inside = (begin..end).contains(&address);
            }
            is_inside && line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "hg")
        })
    }

    #[test]
    fn what_a_vector_has_room_for_is_in_huge_pages_and_what_is_around_it_is_not() {
        if !fs::exists("/sys/kernel/mm/transparent_hugepage").expect("it is known") {
            return;
        }
        const BYTES: usize = 64 * 1024 * 1024;
        let mut advised = Vec::<u8>::with_capacity(BYTES);
        let other = Vec::<u8>::with_capacity(BYTES);
        use_huge_pages(&mut advised);
        assert!(is_advised(advised.as_ptr() as usize + BYTES / 2));
        assert!(!is_advised(other.as_ptr() as usize + BYTES / 2));
        // No whole page.
        use_huge_pages(&mut Vec::<u8>::with_capacity(4096));
        use_huge_pages(&mut Vec::<u8>::new());
    }
}
