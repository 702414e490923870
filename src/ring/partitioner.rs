//! Which part of a key decides where it lives, so that related keys can be kept together.
//!
//! Invariants: the routing part is a slice of the key and a function of the key alone; [`Partitioner::single_route`]
//! names a route only if every byte string of the range has it, and stays silent only if two of them differ.

use crate::error::{Error, Result};
use crate::limits::MAX_KEY_BYTES;
use serde::{Deserialize, Serialize};

/// Which part of a key is hashed to find its place on the ring. It is fixed when a store is created.
///
/// Keys with the same routing part share their virtual node and so their shards: a scan that stays inside one routing
/// part asks one shard. The price is balance: a routing part with many keys cannot be split.
///
/// ```
/// use annulus::Partitioner;
///
/// assert_eq!(Partitioner::Whole.routing_part(b"cart/17/item"), b"cart/17/item");
/// assert_eq!(Partitioner::Prefix(7).routing_part(b"cart/17/item"), b"cart/17");
/// assert_eq!(Partitioner::Delimiter(b'/').routing_part(b"cart/17/item"), b"cart");
/// assert_eq!(Partitioner::HashTag.routing_part(b"cart/{17}/item"), b"17");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Partitioner {
    /// The whole key: keys spread evenly, whatever they look like.
    #[default]
    Whole,
    /// The first so many bytes, or the whole key if it is shorter. At least 1, at most the length of a key.
    Prefix(usize),
    /// The bytes before the first such byte, or the whole key if it has none.
    Delimiter(u8),
    /// The bytes between the first `{` and the next `}`, if there are any; else the whole key (Redis Cluster's rule).
    HashTag,
}

impl Partitioner {
    /// The part of `key` that decides where it lives.
    #[inline]
    pub fn routing_part<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        match *self {
            Partitioner::Whole => key,
            Partitioner::Prefix(length) => key.get(..length).unwrap_or(key),
            Partitioner::Delimiter(byte) => find(key, byte).map_or(key, |at| &key[..at]),
            Partitioner::HashTag => hash_tag(key).map_or(key, |(start, end)| &key[start..end]),
        }
    }

    /// The routing part that every byte string from `lo` up to, and without, `hi` (none: to the end) has in common;
    /// none if two of them differ, or if the range is empty.
    pub(crate) fn single_route<'a>(&self, lo: &'a [u8], hi: Option<&[u8]>) -> Option<&'a [u8]> {
        if hi.is_some_and(|hi| hi <= lo) {
            return None;
        }
        // The bytes that a key of this route must begin with; none if only the key `lo` itself has its route.
        let shared: Option<(&[u8], &[u8])> = match *self {
            Partitioner::Whole => None,
            Partitioner::Prefix(length) => lo.get(..length).map(|part| (part, part)),
            Partitioner::Delimiter(byte) => match find(lo, byte) {
                Some(at) => Some((&lo[..at], &lo[..=at])),
                // The keys of route `lo` are `lo` and all that begin with `lo` and the delimiter. With a delimiter of
                // zero nothing sorts between the two.
                None if byte == 0 => return self.zero_delimited(lo, hi),
                None => None,
            },
            Partitioner::HashTag => hash_tag(lo).map(|(start, end)| (&lo[start..end], &lo[..=end])),
        };
        match shared {
            Some((route, beginning)) => ends_within(hi, beginning).then_some(route),
            None => hi.is_some_and(|hi| hi.split_last() == Some((&0, lo))).then_some(lo),
        }
    }

    fn zero_delimited<'a>(&self, lo: &'a [u8], hi: Option<&[u8]>) -> Option<&'a [u8]> {
        // `lo` then 0 has the successor `lo` then 1.
        let hi = hi?;
        let within = match hi.strip_prefix(lo) {
            Some(rest) => rest <= [1].as_slice(),
            None => false,
        };
        within.then_some(lo)
    }

    /// An error if a parameter is outside its limits.
    pub(crate) fn validate(&self) -> Result<()> {
        match *self {
            Partitioner::Prefix(length) if length == 0 || length > MAX_KEY_BYTES => Err(Error::invalid(
                format!("the partitioner's prefix has {length} bytes, but must have 1 to {MAX_KEY_BYTES}"),
            )
            .remedy("give a prefix length that real keys reach, or use Partitioner::Whole")),
            _ => Ok(()),
        }
    }
}

fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    bytes.iter().position(|b| *b == byte)
}

/// The bounds of the bytes inside the key's hash tag.
fn hash_tag(key: &[u8]) -> Option<(usize, usize)> {
    let start = find(key, b'{')? + 1;
    let length = find(&key[start..], b'}')?;
    (length > 0).then_some((start, start + length))
}

/// Whether a range that starts at a key with this beginning has no key without it.
fn ends_within(hi: Option<&[u8]>, beginning: &[u8]) -> bool {
    // The first key after all with the beginning: the beginning without its trailing 0xff, the last byte one higher.
    let Some(last) = beginning.iter().rposition(|b| *b != u8::MAX) else {
        return true;
    };
    let Some(hi) = hi else {
        return false;
    };
    match hi.strip_prefix(&beginning[..last]) {
        Some(rest) => rest <= [beginning[last] + 1].as_slice(),
        // It is above `lo`, and differs from it inside the beginning, so it is above the whole beginning.
        None => false,
    }
}
