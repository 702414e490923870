//! Keeps the allocator from letting memory go to waste, so that the memory budget means what it says.
//!
//! glibc serves large blocks by mappings of their own, which go back to the system when they are freed. But each time
//! such a block is freed it raises the size from which it does so, up to 32 MiB. sled allocates a buffer of 512 KiB for
//! every 512 KiB it writes; after the first one these come from the heap, lie between the small long-lived blocks of its
//! cache, and leave holes that nothing fits into. Loading 2.5 million records with a budget of 256 MiB took 807 MiB
//! resident so, and 376 MiB with the limit held where it starts (live were about 300 MiB in both).
//!
//! Invariant: the limit is only ever set to glibc's own initial value, and not at all where the user has set one.

/// Holds glibc's limit for blocks with mappings of their own at its initial 128 KiB, for the whole process. Elsewhere, and
/// with another allocator, nothing happens.
pub fn hold_mapping_threshold() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::sync::Once;
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_some()
                || std::env::var_os("GLIBC_TUNABLES").is_some()
            {
                return;
            }
            // SAFETY: mallopt takes two integers, locks the allocator itself, and may be called at any time; a refusal
            // changes nothing.
            #[expect(unsafe_code, reason = "measured: it halves what a loading process holds")]
            let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
        });
    }
}
