//! A page: neighbouring records packed together, found by the page's lower bound.
//!
//! ```text
//!  0       4         5       6        10        18
//!  +-------+---------+-------+--------+---------+----------------+---------+-------------+---------------+----------+
//!  | CRC32 | version | flags | count  | min seq | [upper fence]  | prefix  | stems       | offsets       | records  |
//!  | u32   | u8      | u8    | u32    | u64     | varint + bytes | varint+ | count x u16 | count x u16   | count of |
//!  |       |         |       |        |         | unless last    | bytes   |             | (or u32)      | them     |
//!  +-------+---------+-------+--------+---------+----------------+---------+-------------+---------------+----------+
//!  stem:   the first two bytes of the suffix, zeros where it is shorter, as a number (the first byte counts more)
//!  record: kind u8 | suffix varint + bytes | seq - min seq varint | content
//!  content: value: varint + bytes; tombstone: nothing
//! ```
//! A search runs through the stems, which lie together, and touches one or two records instead of one at every step.
//! Little-endian. The checksum covers the key that the page is stored under and every byte after the checksum, and both
//! it and the version byte stay where they are in every later version, so that a damaged page is told from a new one.
//!
//! Invariants: records are sorted by key, then newest first; all lie at or above the key the page is stored under and
//! below the upper fence, which is the key of the next page. Reading any bytes at all never panics, and allocates
//! nothing. docs/FORMAT.md is the specification.

mod encode;
mod entry;
mod rows;
#[cfg(test)]
mod tests;
pub(crate) mod varint;
mod view;

pub use encode::encode;
pub(crate) use encode::{cost, shared};
pub(crate) use entry::same_bytes;
pub use entry::{Content, Entry};
pub use rows::{LEFT_OUT, Row, Rows, Wanted, stem};
pub use view::PageView;
pub(crate) use view::stamp;

/// The version of the layout above.
const VERSION: u8 = 1;
/// The bytes before the first field of varying length.
pub(crate) const FIXED_BYTES: usize = 18;
const FLAG_UNBOUNDED: u8 = 1;
const FLAG_WIDE: u8 = 2;
const KNOWN_FLAGS: u8 = FLAG_UNBOUNDED | FLAG_WIDE;
/// Bit 7 of a kind is reserved for a record that carries a time of expiry; no other bit has a meaning yet.
const KIND_VALUE: u8 = 0;
const KIND_TOMBSTONE: u8 = 1;

/// The checksum of `page` (its first four bytes aside) under `lower`.
pub fn checksum(lower: &[u8], page: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lower);
    hasher.update(page.get(4..).unwrap_or(&[]));
    hasher.finalize()
}
