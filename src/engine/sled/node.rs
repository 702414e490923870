//! A node of the index: neighbouring pages, where each begins and where it lies. A node is one entry of sled's tree.
//!
//! ```text
//!  0       4         5       6        10
//!  +-------+---------+-------+--------+----------------+------------------+
//!  | CRC32 | version | flags | count  | [upper bound]  | page references  |
//!  | u32   | u8      | u8    | u32    | varint + bytes | count of them    |
//!  |       |         |       |        | unless last    |                  |
//!  +-------+---------+-------+--------+----------------+------------------+
//!  page reference: bytes shared with the bound before varint | rest of the lower bound varint + bytes
//!                  | page id varint | unit varint | frame bytes varint | records varint | CRC-32 of the page u32
//! ```
//! Little-endian; the checksum covers the key that the node is stored under and every byte after the checksum. The key is
//! the node's number, 8 bytes big-endian: sled's tree is asked for nodes by number and walked only at open, so nothing
//! depends on how it orders long keys.
//!
//! Invariants: pages are in the order of their bounds; page i holds the keys from its lower bound up to that of page
//! i + 1, the last up to the node's upper bound. A node has at least one page.

use super::absent::Absences;
use super::fences::Fences;
use super::slots::NO_SLOT;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_INTERNAL_KEY_BYTES;
use crate::page::varint;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const VERSION: u8 = 1;
const FLAG_UNBOUNDED: u8 = 1;
const FIXED_BYTES: usize = 10;
/// The most bytes of bounds that a node is believed to have: shared beginnings must not take memory without end.
const MAX_DECODED: usize = 1 << 20;
/// The fewest bytes that a page reference takes.
const MIN_REFERENCE: usize = 10;

/// Where a page lies, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// Given out in order and never twice while a shard is open.
    pub id: u64,
    /// Where its frame begins in the page file, in units.
    pub unit: u64,
    /// The length of its frame.
    pub bytes: u32,
    pub records: u32,
    /// The page's checksum.
    pub crc: u32,
}

/// A page with its lower bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub lower: Vec<u8>,
    pub page: PageRef,
}

/// Neighbouring pages.
#[derive(Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    // What a lookup needs comes first, so that it lies together.
    learnt: Learnt,
    pages: Box<[PageRef]>,
    bounds: Fences,
    upper: Option<Box<[u8]>>,
}

/// What lookups found out about the pages. It is lost with the node in memory.
#[derive(Debug)]
#[repr(C)]
struct Learnt {
    /// Where each page lies in the cache, if the last one who looked there was right.
    slots: Box<[AtomicU32]>,
    /// Which keys pages do not have; made when a key is first missed.
    absences: OnceLock<Box<Absences>>,
}

impl Learnt {
    fn new(pages: usize) -> Learnt {
        let slots = std::iter::repeat_with(|| AtomicU32::new(NO_SLOT)).take(pages).collect();
        Learnt { slots, absences: OnceLock::new() }
    }
}

// It says nothing about what a node is.
impl PartialEq for Learnt {
    fn eq(&self, _: &Learnt) -> bool {
        true
    }
}

impl Eq for Learnt {}

// It is never empty.
#[allow(clippy::len_without_is_empty)]
impl Node {
    pub fn new(listed: &[Listed], upper: Option<&[u8]>) -> Node {
        Node {
            bounds: Fences::new(listed.iter().map(|listed| listed.lower.as_slice())),
            pages: listed.iter().map(|listed| listed.page).collect(),
            upper: upper.map(Box::from),
            learnt: Learnt::new(listed.len()),
        }
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn page(&self, index: usize) -> Option<PageRef> {
        self.pages.get(index).copied()
    }

    /// Where page `index` may lie in the cache.
    #[inline]
    pub(super) fn slot(&self, index: usize) -> u32 {
        self.learnt.slots.get(index).map_or(NO_SLOT, |slot| slot.load(Ordering::Relaxed))
    }

    pub(super) fn note_slot(&self, index: usize, slot: u32) {
        if let Some(hint) = self.learnt.slots.get(index) {
            hint.store(slot, Ordering::Relaxed);
        }
    }

    /// Whether page `index` is known not to have the key with this hash.
    #[inline]
    pub(super) fn lacks(&self, index: usize, hash: impl FnOnce() -> u64) -> bool {
        self.learnt.absences.get().is_some_and(|absences| absences.lacks(index, hash))
    }

    /// Takes note of all keys of page `index`, by their hashes. Returns how many bytes the node has grown by.
    pub(super) fn note_keys(&self, index: usize, hashes: &[u64]) -> usize {
        let mut grown = 0;
        let absences = self.learnt.absences.get_or_init(|| {
            let absences =
                Absences::new(self.len(), self.pages.iter().map(|page| u64::from(page.records)).sum());
            grown = absences.resident();
            Box::new(absences)
        });
        absences.note(index, hashes);
        grown
    }

    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// The lower bound of page `index`.
    pub fn lower(&self, index: usize) -> &[u8] {
        self.bounds.get(index)
    }

    /// The bound up to which page `index` holds keys; none if it is the last page of all.
    pub fn upper(&self, index: usize) -> Option<&[u8]> {
        if index + 1 < self.len() { Some(self.lower(index + 1)) } else { self.upper.as_deref() }
    }

    /// The bound up to which the node holds keys.
    pub fn end(&self) -> Option<&[u8]> {
        self.upper.as_deref()
    }

    /// The page that holds `key`, which is not below the node.
    #[inline]
    pub fn find(&self, key: &[u8]) -> usize {
        self.bounds.floor(key)
    }

    /// The last page that begins below `key`.
    pub fn find_below(&self, key: &[u8]) -> usize {
        self.bounds.below(key)
    }

    pub fn listed(&self) -> Vec<Listed> {
        (0..self.len())
            .map(|index| Listed { lower: self.lower(index).to_vec(), page: self.pages[index] })
            .collect()
    }

    /// Bytes in memory.
    pub fn resident(&self) -> usize {
        let upper = self.upper.as_ref().map_or(0, |upper| upper.len());
        let absences = self.learnt.absences.get().map_or(0, |absences| absences.resident());
        240 + self.bounds.resident() + upper + self.len() * (size_of::<PageRef>() + 4) + absences
    }

    /// The bytes to be stored under `number`.
    pub fn encode(&self, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + self.bounds.resident() + self.len() * 24);
        out.extend_from_slice(&[0; 4]);
        out.push(VERSION);
        out.push(if self.upper.is_none() { FLAG_UNBOUNDED } else { 0 });
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        if let Some(upper) = &self.upper {
            varint::put(&mut out, upper.len() as u64);
            out.extend_from_slice(upper);
        }
        let mut before: &[u8] = &[];
        for (index, page) in self.pages.iter().enumerate() {
            let lower = self.lower(index);
            let shared = lower.iter().zip(before).take_while(|(a, b)| a == b).count();
            varint::put(&mut out, shared as u64);
            varint::put(&mut out, (lower.len() - shared) as u64);
            out.extend_from_slice(&lower[shared..]);
            varint::put(&mut out, page.id);
            varint::put(&mut out, page.unit);
            varint::put(&mut out, u64::from(page.bytes));
            varint::put(&mut out, u64::from(page.records));
            out.extend_from_slice(&page.crc.to_le_bytes());
            before = lower;
        }
        let crc = checksum(number, &out);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Verifies and reads the bytes that were stored under `number`.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Node> {
        if bytes.len() < FIXED_BYTES || stored_checksum(bytes) != checksum(number, bytes) {
            return Err(bad(number, "a wrong checksum"));
        }
        if bytes[4] != VERSION || bytes[5] & !FLAG_UNBOUNDED != 0 {
            let text = format!("expected an index node of version {VERSION}, found version {}", bytes[4]);
            return Err(Error::new(ErrorKind::Unsupported, text)
                .remedy("use the release that wrote it, or a newer one"));
        }
        let (listed, upper) = Self::parse(bytes).ok_or_else(|| bad(number, "no such fields"))?;
        // Before a node is made of them: what searches it may rely on their order.
        let ordered = listed.windows(2).all(|pair| pair[0].lower < pair[1].lower)
            && upper.is_none_or(|upper| listed.last().is_none_or(|last| last.lower.as_slice() < upper));
        if ordered { Ok(Node::new(&listed, upper)) } else { Err(bad(number, "its pages out of order")) }
    }

    fn parse(bytes: &[u8]) -> Option<(Vec<Listed>, Option<&[u8]>)> {
        let count = u32::from_le_bytes(*bytes.get(6..)?.first_chunk()?) as usize;
        let mut at = FIXED_BYTES;
        let upper = if bytes[5] & FLAG_UNBOUNDED == 0 { Some(take(bytes, &mut at)?) } else { None };
        // A count from a disk is never trusted with memory beyond what the bytes can hold.
        (1..=bytes.len() / MIN_REFERENCE).contains(&count).then_some(())?;
        let mut listed: Vec<Listed> = Vec::with_capacity(count);
        let mut total = 0;
        for _ in 0..count {
            let before = listed.last().map_or(&[][..], |listed| &listed.lower);
            let shared = usize::try_from(varint::take(bytes, &mut at)?).ok()?;
            let mut lower = before.get(..shared)?.to_vec();
            lower.extend_from_slice(take(bytes, &mut at)?);
            let page = PageRef {
                id: varint::take(bytes, &mut at)?,
                unit: varint::take(bytes, &mut at)?,
                bytes: u32::try_from(varint::take(bytes, &mut at)?).ok()?,
                records: u32::try_from(varint::take(bytes, &mut at)?).ok()?,
                crc: u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?),
            };
            at += 4;
            total += lower.len();
            (lower.len() <= MAX_INTERNAL_KEY_BYTES && total <= MAX_DECODED).then_some(())?;
            listed.push(Listed { lower, page });
        }
        (at == bytes.len()).then_some((listed, upper))
    }
}

fn take<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(bytes, at)?).ok()?;
    let end = at.checked_add(len)?;
    let part = bytes.get(*at..end)?;
    *at = end;
    Some(part)
}

fn checksum(number: u64, node: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(node.get(4..).unwrap_or(&[]));
    hasher.finalize()
}

/// The checksum that an encoded node carries.
pub(super) fn stored_checksum(node: &[u8]) -> u32 {
    node.first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
}

fn bad(number: u64, what: &str) -> Error {
    Error::corruption(format!("expected node {number} of the shard's index, found {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        let page = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(id, unit, bytes, records, crc)| PageRef { id, unit, bytes, records, crc });
        let key = proptest::collection::vec(0u8..3, 0..6);
        (proptest::collection::btree_map(key, page, 1..20), any::<bool>()).prop_map(|(pages, bounded)| {
            let listed: Vec<Listed> = pages.into_iter().map(|(lower, page)| Listed { lower, page }).collect();
            Node::new(&listed, bounded.then_some(&[9]))
        })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_and_no_change_passes(
            node in node(), number: u64, probe in proptest::collection::vec(0u8..3, 0..6), at: prop::sample::Index, flip in 1u8..,
        ) {
            let mut bytes = node.encode(number);
            prop_assert_eq!(&Node::decode(number, &bytes).unwrap(), &node);
            prop_assert!(Node::decode(number ^ 1, &bytes).is_err());
            prop_assert!(Node::decode(number, &bytes[..at.index(bytes.len())]).is_err());
            let listed = node.listed();
            let below = listed.iter().filter(|listed| listed.lower <= probe).count();
            prop_assert_eq!(node.find(&probe), below.saturating_sub(1));
            let below = listed.iter().filter(|listed| listed.lower < probe).count();
            prop_assert_eq!(node.find_below(&probe), below.saturating_sub(1));
            let place = at.index(bytes.len());
            bytes[place] ^= flip;
            prop_assert!(Node::decode(number, &bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_node(number: u64, mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Node::decode(number, &bytes);
            if bytes.len() >= FIXED_BYTES {
                bytes[4] = VERSION;
                bytes[5] &= 1;
                let crc = checksum(number, &bytes);
                bytes[..4].copy_from_slice(&crc.to_le_bytes());
                let _ = Node::decode(number, &bytes);
            }
        }
    }
}
