//! Digests: short stand-ins for what a shard holds, so that two states can be compared without the states.
//!
//! Invariant: a set hash is a sum modulo 2^128, so it does not depend on the order in which pages came and went, and
//! removing a page takes out exactly what adding it put in (Bellare and Micciancio's AdHash).

use sha1::{Digest, Sha1};

/// The first 128 bits of SHA-1 over `parts`, each preceded by its length so that no two lists of parts read alike.
pub fn hash128(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}

/// What a page adds to its shard's set hash.
pub fn page_digest(key: &[u8], crc: u32) -> u128 {
    hash128(&[key, &crc.to_le_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_between_parts_count() {
        assert_ne!(hash128(&[b"ab", b"c"]), hash128(&[b"a", b"bc"]));
        assert_ne!(page_digest(b"a", 1), page_digest(b"a", 2));
        assert_ne!(page_digest(b"a", 1), page_digest(b"b", 1));
    }

    #[test]
    fn the_digest_is_the_one_that_seals_on_disk_were_made_with() {
        // Fixed for ever: a seal written by an older release must still match.
        assert_eq!(page_digest(b"", 0), EMPTY);
    }

    const EMPTY: u128 = 0x458f_f572_4f43_227a_e8d2_f5da_5299_1432;
}
