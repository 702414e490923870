//! Verifying pages where they lie, a stretch of the file at a time, and naming the keys of those that are damaged.
//!
//! The cache of verified pages is not asked, and what it holds of a damaged page is left there: a page in memory has passed
//! its checksum, and no other page ever has its id, so it answers rightly for as long as it is there, and what replaces the
//! page takes it out.
//!
//! Invariants: a page counts as damaged only if the index still names it, in its old place, after it was read: then nobody
//! has written there meanwhile. The range that is named is the one that the index gives the page.

use super::core::Core;
use super::frame::{self, HEADER};
use super::node::Node;
use super::root::Which;
use super::space::{BLOCK_UNITS, UNIT, units};
use crate::engine::Damage;
use crate::error::Result;
use crate::page::PageView;
use crate::record::KeyRange;
use std::ops::Range;

/// How much is read at once, at most, unless one page is more.
const MAX_READ: u64 = 256 << 10;

impl Core {
    /// See [`Engine::verify`](crate::engine::Engine::verify).
    pub fn verify_from(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        let mut left = (bytes as u64).max(1);
        let mut next = from.to_vec();
        let mut buffer = Vec::new();
        loop {
            let node = self.node(Which::Holds(&next))?.ok_or_else(|| self.hole(&next))?;
            let mut index = node.find(&next);
            if index == 0 {
                self.verify_stored(&node)?;
            }
            while index < node.len() && left > 0 {
                let (pages, len) = stretch(&node, index, left.min(MAX_READ));
                self.verify_stretch(&node, pages.clone(), len, &mut buffer, bad)?;
                left = left.saturating_sub(len);
                index = pages.end;
            }
            let end = if index < node.len() { Some(node.lower(index)) } else { node.end() };
            match end {
                Some(end) if left > 0 => next = end.to_vec(),
                end => return Ok(end.map(<[u8]>::to_vec)),
            }
        }
    }

    /// Verifies neighbouring pages that lie one behind the other in the file.
    fn verify_stretch(
        &self,
        node: &Node,
        pages: Range<usize>,
        len: u64,
        buffer: &mut Vec<u8>,
        bad: &mut Vec<Damage>,
    ) -> Result<()> {
        let Some(first) = node.page(pages.start) else { return Ok(()) };
        if buffer.len() < len as usize {
            buffer.resize(len as usize, 0);
        }
        let bytes = &mut buffer[..len as usize];
        let read = self.file.read_at(first.unit.saturating_mul(UNIT), bytes);
        // The last frame's unit need not be there whole.
        bytes[read.as_ref().map_or(0, |read| *read)..].fill(0);
        for index in pages {
            let Some(page) = node.page(index) else { break };
            let start = ((page.unit - first.unit) * UNIT) as usize;
            let frame = bytes.get(start..start + page.bytes as usize).unwrap_or_default();
            // Where all of them could not be read at once, each has a try of its own.
            if (read.is_err() || self.check_frame(node, index, frame).is_err())
                && let Some(damage) = self.damage_at(node.lower(index))?
                && bad.last().is_none_or(|last| last.range != damage.range)
            {
                bad.push(damage);
            }
        }
        Ok(())
    }

    /// What is wrong with the page that holds `key`, if anything is.
    pub fn damage_at(&self, key: &[u8]) -> Result<Option<Damage>> {
        let mut tried = None;
        loop {
            let node = self.node(Which::Holds(key))?.ok_or_else(|| self.hole(key))?;
            let index = node.find(key);
            let wanted = node.page(index).ok_or_else(|| self.hole(key))?;
            let checked = self.read_frame(&wanted).and_then(|frame| {
                let checked = self.check_frame(&node, index, &frame);
                self.pool.give_back(frame);
                checked
            });
            match checked {
                Ok(()) => return Ok(None),
                Err(error) if tried == Some(wanted) => {
                    let upper = node.upper(index).map(<[u8]>::to_vec);
                    let range = KeyRange { lo: node.lower(index).to_vec(), hi: upper };
                    return Ok(Some(Damage { range, error }));
                }
                // It may have been replaced while it was read: then the index has another by now.
                Err(_) => tried = Some(wanted),
            }
        }
    }

    /// Whether a frame is the page that the node has at `index`, in every particular.
    pub fn check_frame(&self, node: &Node, index: usize, frame: &[u8]) -> Result<()> {
        let (lower, upper) = (node.lower(index), node.upper(index));
        let wanted = node.page(index).ok_or_else(|| self.hole(lower))?;
        let start = frame::verify_whole(&wanted, frame).map_err(|error| self.damaged(error))?;
        let (found, bytes) = (&frame[HEADER..start], &frame[start..]);
        let view = PageView::verified(bytes)?;
        let counted = view.check(found, view.upper()).and_then(|()| self.kept_count(&view, upper));
        let counted = counted.map_err(|error| self.place.locate(error))?;
        let reaches = match (view.upper(), upper) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(fence), Some(upper)) => fence >= upper,
        };
        if found != lower || counted != wanted.records as usize || !reaches {
            return Err(self.place.corruption(format!(
                "expected page {} with {} records from {lower:02x?} to {upper:02x?}, found {counted} from {found:02x?} to {:02x?}",
                wanted.id,
                wanted.records,
                view.upper()
            )));
        }
        Ok(())
    }

    /// Whether sled has the node as it is in memory, or the node has changed meanwhile.
    pub fn verify_stored(&self, node: &Node) -> Result<()> {
        let lower = node.lower(0);
        let Some((number, crc, None)) = self.root.slot(lower) else { return Ok(()) };
        match self.stored_node(number, crc) {
            Err(error) if matches!(self.root.slot(lower), Some((n, c, None)) if (n, c) == (number, crc)) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// Pages of a node from `index` on that lie one behind the other, give or take a part of a block, up to `most` bytes and at
/// least one, and the bytes from the first to the end of the last.
fn stretch(node: &Node, index: usize, most: u64) -> (Range<usize>, u64) {
    let pages = node.pages().get(index..).unwrap_or_default();
    let Some(first) = pages.first() else { return (index..index + 1, 0) };
    let (mut count, mut len, mut end) = (1, u64::from(first.bytes), first.unit + units(first.bytes));
    for page in &pages[1..] {
        let whole = page.unit.saturating_sub(first.unit) * UNIT + u64::from(page.bytes);
        if !(end..end + BLOCK_UNITS).contains(&page.unit) || whole > most {
            break;
        }
        (count, len, end) = (count + 1, whole, page.unit + units(page.bytes));
    }
    (index..index + count, len)
}
