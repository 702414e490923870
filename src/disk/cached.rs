//! Whether the system has a part of a file in its memory: `cachestat`, of Linux 6.5.
//!
//! `RWF_NOWAIT` alone does not say it. A read with that flag which finds a page missing begins to read ahead before it gives up, and for that
//! btrfs, for one, reads its own trees from the disk: it hung there in `lab hang`.

use std::fs::File;

/// None: it does not say.
#[cfg(target_os = "linux")]
pub fn has(file: &File, offset: u64, len: usize) -> Option<bool> {
    use std::os::fd::AsRawFd;

    /// The number of the call, the same on every kind of machine.
    const CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Counts {
        cached: u64,
        dirty: u64,
        under_writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let page = rustix::param::page_size() as u64;
    let last = offset.checked_add(len as u64)?.checked_sub(1)?;
    let pages = last / page - offset / page + 1;
    let (range, mut counts) = (Range { offset, len: len as u64 }, Counts::default());
    // SAFETY: the call reads one range and writes one set of counts, both laid out as the kernel has them (include/uapi/linux/mman.h), and both live
    // to its end; the descriptor is open as long as the file is borrowed. A kernel that does not know the call touches nothing.
    #[expect(
        unsafe_code,
        reason = "measured: without it every page outside the own cache is read by a thread, at four times the cost"
    )]
    let outcome = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0) };
    (outcome == 0).then_some(counts.cached >= pages)
}

#[cfg(not(target_os = "linux"))]
pub fn has(_: &File, _: u64, _: usize) -> Option<bool> {
    None
}
