//! Counting again: a full pass that reads every page and every node from the disk, verifies them, and finds the figures.

use super::core::Core;
use super::root::Which;
use super::writer::{Recount, Writer, added, figures_of};
use crate::engine::{Figures, Recounted};
use crate::error::Result;

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
        let mut left = pages.max(1);
        while let Some(next) = &recount.next
            && left > 0
        {
            let counted;
            (recount.next, counted) = self.count_pages(&mut writer, &mut recount.sum, next, left)?;
            left -= counted;
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

    /// Counts up to `most` pages of the node that holds `next`; returns where to go on, if anywhere, and how many.
    fn count_pages(
        &self,
        writer: &mut Writer,
        sum: &mut Figures,
        next: &[u8],
        most: usize,
    ) -> Result<(Option<Vec<u8>>, usize)> {
        self.drain(writer)?;
        let node = self.node(Which::Holds(next))?.ok_or_else(|| self.hole(next))?;
        let first = node.find(next);
        if first == 0 {
            self.verify_stored(&node)?;
        }
        // A page that began at `next` may have been joined with the one before since, which is counted.
        let first = if node.lower(first) < next { first + 1 } else { first };
        let last = node.len().min(first + most);
        for index in first..last {
            let Some(wanted) = node.page(index) else { break };
            let frame = self.read_frame(&wanted)?;
            self.check_frame(&node, index, &frame)?;
            self.pool.give_back(frame);
            *sum = added(*sum, figures_of(node.lower(index), &wanted));
        }
        let end = if last < node.len() { Some(node.lower(last)) } else { node.end() };
        Ok((end.map(<[u8]>::to_vec), last.saturating_sub(first).max(1)))
    }
}
