//! Arbitrary bytes as a chunk, an index and a stream: they are read or refused, without a panic and without asking for much memory; what is
//! read of a chunk comes back the same when it is written again.
#![no_main]

use annulus::testing::backup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            // One without records is never written.
            if let Ok(records) = backup::read_chunk(&backup::with_checksums(bytes))
                && !records.is_empty()
            {
                let again = backup::read_chunk(&backup::write_chunk(&records)).expect("what was read can be written");
                assert_eq!(again, records);
            }
        }
        1 => drop(backup::read_index(bytes)),
        _ => drop(backup::read_stream(bytes)),
    }
});
