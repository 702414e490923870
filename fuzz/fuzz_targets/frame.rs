//! Arbitrary bytes are no frame; a frame with any one byte changed is none, or the padding was hit.
#![no_main]

use annulus::Seq;
use annulus::testing::{HEADER_BYTES, Header, Payload, Salt, encode, find};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let generation = data.first().copied().map_or(0, u64::from);
    let salt = Salt::new(0x5eed, generation);
    if let Some((at, header)) = find(data, 0, salt, generation) {
        assert_eq!(&header.encode(salt)[..], &data[at..at + HEADER_BYTES]);
    }
    let Some((place, data)) = data.split_first_chunk::<4>() else { return };
    let Some((flip, payload)) = data.split_first() else { return };
    let Some(header) = Header::commit(generation, Seq(1 << 40), Seq(7), &Payload::new(payload)) else { return };
    let mut bytes = Vec::new();
    encode(&mut bytes, &header, salt, payload);
    let body = HEADER_BYTES + payload.len();
    let at = u32::from_le_bytes(*place) as usize % bytes.len();
    bytes[at] ^= flip;
    let passes = Header::decode(&bytes, salt, generation).is_some_and(|h| h.matches(&bytes[HEADER_BYTES..body]));
    assert_eq!(passes, *flip == 0 || at >= body);
});
