//! Arbitrary bytes are no manifest, identity or seal; arbitrary bodies under a right header are refused, or understood,
//! and what was understood reads the same once written again.
//!
//! The first byte of the input names the file and says whether the rest is the whole file or a body for it.
#![no_main]

use annulus::ErrorKind;
use annulus::testing::small_file::{Name, rewrite, ring, wrap};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let name = [Name::Manifest, Name::Identity, Name::Seal][usize::from(mode >> 1) % 3];
    let bytes = if mode & 1 == 0 { data.to_vec() } else { wrap(name, data).unwrap() };
    let again = match rewrite(name, &bytes) {
        Ok(again) => again,
        Err(e) => {
            assert!([ErrorKind::Corruption, ErrorKind::Unsupported].contains(&e.kind()), "{e}");
            return;
        }
    };
    assert_eq!(rewrite(name, &again).unwrap(), again);
    if let Name::Manifest = name {
        let ring = ring(&bytes).unwrap();
        let owners = ring.preference_list(data);
        assert!(owners.iter().all(|owner| ring.members().iter().any(|member| member.id == *owner)));
        let _ = (ring.balance(), ring.zone_violations(), ring.check());
    }
});
