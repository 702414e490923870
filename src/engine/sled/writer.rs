//! What only the writer sees: the page file's free space, pages on their way to it, what the next commit has to write,
//! and the accounts of the shard.
//!
//! Invariants:
//! - A page that a committed index may refer to keeps its space until the next commit is over; one written since then is
//!   referred to by nothing on the disk, and gives its space back at once.
//! - With a recount under way, pages below its position are in its sum and pages at or above it are not, so writes in
//!   between keep the sum right.

use super::core::Core;
use super::frame::{self, Page};
use super::node::{Listed, PageRef};
use super::space::{BLOCK_UNITS, Space, UNIT, begins_block, units};
use crate::digest::page_digest;
use crate::engine::Figures;
use crate::error::{Error, ErrorKind, Result};
use crate::page::{self, Entry};
use std::collections::BTreeSet;

/// How much is gathered before it is written to the page file.
const BUFFER: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Writer {
    pub space: Space,
    /// Space to be given back by the next commit: first unit and count.
    pub freed: Vec<(u64, u64)>,
    pub freed_units: u64,
    /// Lower bounds of the nodes that sled does not have yet.
    pub dirty: BTreeSet<Box<[u8]>>,
    pub dirty_bytes: usize,
    /// Bounds and numbers of nodes that sled still has and that are no more.
    pub removed: Vec<(Box<[u8]>, u64)>,
    pub next_page: u64,
    /// The least page id that no committed index refers to.
    pub uncommitted: u64,
    pub next_node: u64,
    /// What the next commit writes counts as a whole or not at all, see [`Core::commit`].
    pub atomic: bool,
    /// The page file has bytes that were not synced.
    pub unsynced: bool,
    /// Frames to be written, and the unit where the first of them lies.
    buffer: Vec<u8>,
    buffer_unit: u64,
    pub figures: Figures,
    /// Whether every page has been verified since the shard was last closed in order, or at least counted since.
    pub counted: bool,
    pub recount: Option<Recount>,
    /// Where moving pages goes on, see [`Core::relocate`].
    pub relocated: Vec<u8>,
}

/// A recount under way.
#[derive(Debug, Default)]
pub(super) struct Recount {
    /// What was counted below `next`.
    pub sum: Figures,
    /// The key from which on pages are not counted yet; none when all are.
    pub next: Option<Vec<u8>>,
}

impl Writer {
    /// Takes note that the page under `lower` came (or went, unless `came`).
    pub fn account(&mut self, lower: &[u8], page: &PageRef, came: bool) {
        let change = figures_of(lower, page);
        self.figures = if came { added(self.figures, change) } else { removed(self.figures, change) };
        if let Some(recount) = &mut self.recount
            && recount.next.as_deref().is_none_or(|next| lower < next)
        {
            recount.sum = if came { added(recount.sum, change) } else { removed(recount.sum, change) };
        }
    }

    /// Gives up the space of a page that the index no longer refers to.
    pub fn free(&mut self, page: &PageRef) {
        let count = units(page.bytes);
        if page.id >= self.uncommitted || crate::plants::is("space-given-up-before-the-commit") {
            self.space.release(page.unit, count);
        } else {
            self.free_later(page.unit, count);
        }
    }

    /// Gives up space that a committed index refers to.
    pub fn free_later(&mut self, unit: u64, count: u64) {
        self.freed.push((unit, count));
        self.freed_units += count;
    }

    /// Gives the memory back that frames waited in, of which there are none.
    pub fn give_buffer_back(&mut self) {
        self.buffer = Vec::new();
    }

    /// Drops the frames that wait to be written.
    pub fn forget_buffer(&mut self) {
        self.buffer.clear();
    }

    pub fn known(&self) -> Option<Figures> {
        self.counted.then_some(self.figures)
    }
}

impl Core {
    /// Writes a page of `entries` to new space; it is on its way to the file when this returns, see [`Core::drain`]. A
    /// warm one is kept in memory too.
    pub fn put(
        &self,
        writer: &mut Writer,
        lower: &[u8],
        upper: Option<&[u8]>,
        entries: &[Entry<'_>],
        warm: bool,
    ) -> Result<Listed> {
        let mut bytes = std::mem::take(&mut writer.buffer);
        // Where the frame begins if it follows the ones before it.
        let aligned = bytes.len().next_multiple_of(UNIT as usize);
        bytes.resize(aligned, 0);
        let start = frame::begin(lower, &mut bytes);
        let page_start = bytes.len();
        page::encode(lower, upper, entries, &mut bytes);
        let id = writer.next_page;
        frame::finish(id, lower, start, &mut bytes);
        let Ok(len) = u32::try_from(bytes.len() - start) else {
            bytes.truncate(aligned);
            writer.buffer = bytes;
            return Err(Error::new(ErrorKind::Unsupported, "the versions of one key take more than 4 GiB")
                .remedy("close old snapshots"));
        };
        let crc = page::stamp(&bytes[page_start..]).map_or(0, |stamp| stamp.crc);
        let unit = writer.space.allocate(units(len));
        let page = PageRef { id, unit, bytes: len, records: entries.len() as u32, crc };
        writer.next_page += 1;
        if warm {
            let copy = |frame: &mut [u8]| {
                frame.copy_from_slice(&bytes[start..]);
                Ok::<(), Error>(())
            };
            self.cache
                .insert(id, &Page::fresh(self.pool.frame(bytes.len() - start, copy)?, page_start - start));
        }
        if start > 0 && unit != writer.buffer_unit + (start as u64) / UNIT {
            let tail = bytes.split_off(start);
            writer.buffer = bytes;
            self.drain(writer)?;
            bytes = tail;
        }
        if bytes.len() == len as usize {
            writer.buffer_unit = unit;
        }
        let end = unit + units(len);
        let rest = end.next_multiple_of(BLOCK_UNITS) - end;
        if begins_block(units(len)) && writer.space.is_free(end, rest) {
            // The whole block is written: the next page follows in the same write, and nothing has to be read before it.
            bytes.resize(((end + rest - writer.buffer_unit) * UNIT) as usize, 0);
        }
        writer.buffer = bytes;
        if writer.buffer.len() >= BUFFER {
            self.drain(writer)?;
        }
        Ok(Listed { lower: lower.to_vec(), page })
    }

    /// Hands what was put to the file; only then may the index refer to it.
    pub fn drain(&self, writer: &mut Writer) -> Result<()> {
        if writer.buffer.is_empty() {
            return Ok(());
        }
        let padded = writer.buffer.len().next_multiple_of(UNIT as usize);
        writer.buffer.resize(padded, 0);
        let offset = writer.buffer_unit * UNIT;
        self.write_file("write pages to", |file| file.write_at(offset, &writer.buffer))?;
        writer.unsynced = true;
        writer.buffer.clear();
        writer.buffer.shrink_to(2 * BUFFER);
        Ok(())
    }
}

/// What one page adds to the figures.
pub(super) fn figures_of(lower: &[u8], page: &PageRef) -> Figures {
    Figures { pages: 1, records: u64::from(page.records), set_hash: page_digest(lower, page.crc) }
}

pub(super) fn added(sum: Figures, page: Figures) -> Figures {
    Figures {
        pages: sum.pages.wrapping_add(page.pages),
        records: sum.records.wrapping_add(page.records),
        set_hash: sum.set_hash.wrapping_add(page.set_hash),
    }
}

fn removed(sum: Figures, page: Figures) -> Figures {
    Figures {
        pages: sum.pages.wrapping_sub(page.pages),
        records: sum.records.wrapping_sub(page.records),
        set_hash: sum.set_hash.wrapping_sub(page.set_hash),
    }
}
