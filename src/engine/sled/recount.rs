//! Counting again: a full pass that reads every page and every node from the disk, verifies them, and finds the figures.

use super::core::Core;
use super::root::Which;
use super::writer::{Recount, Writer, added, figures_of};
use crate::engine::{Figures, Recounted};
use crate::error::Result;

/// A slice ends after so many bytes as well: large values have large pages, and whoever waits for it, and the writer, has a limit in time.
const MAX_READ: u64 = 16 << 20;

impl Core {
    /// Counts about `pages` pages on.
    pub fn recount(&self, pages: usize) -> Result<Recounted> {
        self.check()?;
        let mut writer = self.writer.lock();
        let mut recount = writer
            .recount
            .take()
            .unwrap_or_else(|| Recount { sum: Figures::default(), next: Some(Vec::new()) });
        // An error ends the pass: the next call starts a new one, which finds the damage again or finds it repaired.
        let mut left = (pages.max(1), MAX_READ);
        while let Some(next) = &recount.next
            && left.0 > 0
            && left.1 > 0
        {
            recount.next = self.count_pages(&mut writer, &mut recount.sum, next, &mut left)?;
        }
        if recount.next.is_some() {
            writer.recount = Some(recount);
            return Ok(Recounted::Further);
        }
        let (kept_up, was_known) = (writer.figures, writer.counted);
        writer.figures = recount.sum;
        writer.counted = true;
        *self.figures.lock() = writer.known();
        if was_known && kept_up != recount.sum {
            return Ok(Recounted::Differs(self.place.corruption(format!(
                "expected {} pages with {} records and set hash {:032x}, counted {} with {} and {:032x}: pages are lost or old",
                kept_up.pages, kept_up.records, kept_up.set_hash, recount.sum.pages, recount.sum.records, recount.sum.set_hash
            ))));
        }
        Ok(Recounted::Whole)
    }

    /// Counts pages of the node that holds `next`, as far as they and their bytes are `left`, of which it takes what it counts; returns where
    /// to go on, if anywhere.
    fn count_pages(
        &self,
        writer: &mut Writer,
        sum: &mut Figures,
        next: &[u8],
        left: &mut (usize, u64),
    ) -> Result<Option<Vec<u8>>> {
        self.drain(writer)?;
        let node = self.node(Which::Holds(next))?.ok_or_else(|| self.hole(next))?;
        let first = node.find(next);
        if first == 0 {
            self.verify_stored(&node)?;
        }
        // A page that began at `next` may have been joined with the one before since, which is counted.
        let mut index = if node.lower(first) < next { first + 1 } else { first };
        while index < node.len() && left.0 > 0 && left.1 > 0 {
            let Some(wanted) = node.page(index) else { break };
            let frame = self.read_frame(&wanted)?;
            self.check_frame(&node, index, &frame)?;
            self.pool.give_back(frame);
            *sum = added(*sum, figures_of(node.lower(index), &wanted));
            *left = (left.0 - 1, left.1.saturating_sub(u64::from(wanted.bytes)));
            index += 1;
        }
        let end = if index < node.len() { Some(node.lower(index)) } else { node.end() };
        Ok(end.map(<[u8]>::to_vec))
    }
}
