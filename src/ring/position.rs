//! Where a key lies on the ring: SHA-1 of its routing part, as Dynamo and Riak place keys.
//!
//! Invariant: a position is a function of the routing part alone, pinned for ever by a golden file. Changing it would
//! strand every key that was ever stored.

use sha1::{Digest, Sha1};

/// A point on the ring: the first 8 bytes of a SHA-1 digest, big-endian.
///
/// The ring is the whole range of `u64`, so that the leading bits alone name the virtual node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position(pub u64);

impl Position {
    /// The position of a routing part.
    #[inline]
    pub fn of(routing_part: &[u8]) -> Position {
        let digest = Sha1::digest(routing_part);
        let mut leading = [0; 8];
        leading.copy_from_slice(&digest[..8]);
        Position(u64::from_be_bytes(leading))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The examples of FIPS 180 (one block, two blocks, a million bytes), and the empty message.
    #[test]
    fn sha1_agrees_with_the_published_vectors() {
        let million = vec![b'a'; 1_000_000];
        let long = b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
        let vectors: [(&[u8], &str); 5] = [
            (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            (long, "a49b2446a02c645bf419f995b67091253a04a259"),
            (&million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ];
        for (message, digest) in vectors {
            assert_eq!(hex(&Sha1::digest(message)), digest);
            assert_eq!(Position::of(message).0, u64::from_str_radix(&digest[..16], 16).unwrap());
        }
    }
}
