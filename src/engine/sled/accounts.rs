//! The accounts of a shard: how many pages and records, and the set hash, kept up by every page written or removed.
//!
//! Invariant: with a recount under way, pages below its position are in its sum and pages at or above it are not, so
//! writes in between keep the sum right.

use crate::digest::page_digest;
use crate::engine::Figures;
use crate::page;

/// What only the writer sees.
#[derive(Debug)]
pub(super) struct Writer {
    /// None until a recount has found them.
    pub figures: Option<Figures>,
    pub recount: Option<Recount>,
    /// Whether a crash may have left a page that reaches over its neighbour's lower bound.
    pub overlaps: bool,
    /// A page under construction; kept to spare an allocation for each.
    pub scratch: Vec<u8>,
}

/// A recount under way.
#[derive(Debug)]
pub(super) struct Recount {
    /// What was counted below [`Stage::Pages`]' position.
    pub sum: Figures,
    pub stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Counting pages; the next one has this bound.
    Pages(Vec<u8>),
    /// All pages are counted; values that no page refers to are being removed, from this chunk on.
    Values(Vec<u8>),
}

impl Writer {
    pub fn new(figures: Option<Figures>) -> Writer {
        Writer { overlaps: figures.is_none(), figures, recount: None, scratch: Vec::new() }
    }

    /// Takes note that the page under `key` was `old` and is `new`.
    pub fn account(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let counted = self.recount.as_ref().is_some_and(|recount| match &recount.stage {
            Stage::Pages(next) => key < next.as_slice(),
            Stage::Values(_) => true,
        });
        if self.figures.is_none() && !counted {
            return;
        }
        let (old, new) = (figures_of(key, old), figures_of(key, new));
        let change = |figures: &mut Figures| {
            figures.pages = figures.pages.wrapping_add(new.pages).wrapping_sub(old.pages);
            figures.records = figures.records.wrapping_add(new.records).wrapping_sub(old.records);
            figures.set_hash = figures.set_hash.wrapping_add(new.set_hash).wrapping_sub(old.set_hash);
        };
        if let Some(figures) = &mut self.figures {
            change(figures);
        }
        if let Some(recount) = self.recount.as_mut().filter(|_| counted) {
            change(&mut recount.sum);
        }
    }
}

/// What one page adds to the figures.
pub(super) fn figures_of(key: &[u8], page: Option<&[u8]>) -> Figures {
    page.and_then(page::stamp).map_or_else(Figures::default, |stamp| Figures {
        pages: 1,
        records: u64::from(stamp.records),
        set_hash: page_digest(key, stamp.crc),
    })
}
