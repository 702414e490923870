//! The values: bytes that no compressor shrinks and any reader can check.
//!
//! A value is the number of its record (8 bytes), a version (4 bytes), and a stream that follows from both. Whoever reads
//! one learns whose it is and how old, and that no byte of it is wrong.

use crate::keys::mix;

const HEAD: usize = 12;

/// Fills `out` with the value of record `n` at `version`.
pub fn fill(out: &mut [u8], n: u64, version: u32) {
    out[..8].copy_from_slice(&n.to_le_bytes());
    out[8..HEAD].copy_from_slice(&version.to_le_bytes());
    for (chunk, word) in out[HEAD..].chunks_mut(8).zip(stream(n, version)) {
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The number and version of a value, if every byte of it is right and it has `len` bytes.
pub fn check(value: &[u8], len: usize) -> Result<(u64, u32), String> {
    if value.len() != len {
        return Err(format!("a value of {} bytes where {len} were written", value.len()));
    }
    let n = u64::from_le_bytes(value[..8].try_into().expect("8 bytes"));
    let version = u32::from_le_bytes(value[8..HEAD].try_into().expect("4 bytes"));
    let wrong = value[HEAD..].chunks(8).zip(stream(n, version)).position(|(c, w)| *c != w[..c.len()]);
    match wrong {
        None => Ok((n, version)),
        Some(at) => Err(format!("a value that names record {n}, version {version}, is wrong in word {at}")),
    }
}

fn stream(n: u64, version: u32) -> impl Iterator<Item = [u8; 8]> {
    let mut state = mix(n ^ (u64::from(version) << 40));
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).to_le_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_found() {
        for len in [100, 1000, 103] {
            let mut value = vec![0; len];
            fill(&mut value, 77, 3);
            assert_eq!(check(&value, len), Ok((77, 3)));
            for at in 0..len {
                value[at] ^= 1;
                assert_ne!(check(&value, len), Ok((77, 3)), "byte {at} of {len}");
                value[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_shorter_value_is_found() {
        let mut value = vec![0; 100];
        fill(&mut value, 77, 3);
        assert!(check(&value[..99], 100).is_err());
        assert!(check(&[], 100).is_err());
    }

    #[test]
    fn values_do_not_repeat() {
        let mut all = std::collections::HashSet::new();
        for n in 0..1_000 {
            let mut value = [0; 1000];
            fill(&mut value, n, 0);
            all.extend(value[HEAD..].as_chunks::<8>().0.to_vec());
        }
        assert_eq!(all.len(), 1_000 * ((1000 - HEAD) / 8));
    }
}
