//! Arbitrary bytes as a checkpoint's manifest: read or refused; what is read comes back the same.
#![no_main]

use annulus::testing::backup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Behind a right header first, so that the body is reached.
    for bytes in [backup::wrap_manifest(data), data.to_vec()] {
        if let Ok(written) = backup::rewrite_manifest(&bytes) {
            assert_eq!(backup::rewrite_manifest(&written).expect("what was written is read"), written);
        }
    }
});
