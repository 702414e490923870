//! Counting again: a full pass that verifies every page, every fence and every large value, finds the figures, repairs
//! what a crash left half done, and removes values that no page refers to.

use super::accounts::{Recount, Stage, Writer, figures_of};
use super::bound;
use super::core::{Core, Image, reaches_over};
use super::values::ValueId;
use crate::engine::Figures;
use crate::error::Result;
use crate::page::{self, Content, PageView};
use std::ops::Bound;

impl Core {
    /// Counts about `pages` pages on; returns whether the pass is over.
    pub fn recount(&self, pages: usize) -> Result<bool> {
        self.check()?;
        let mut writer = self.writer.lock();
        let mut recount = writer
            .recount
            .take()
            .unwrap_or_else(|| Recount { sum: Figures::default(), stage: Stage::Pages(Vec::new()) });
        // An error ends the pass: the next call starts a new one, which finds the damage again or finds it repaired.
        let over = match std::mem::replace(&mut recount.stage, Stage::Pages(Vec::new())) {
            Stage::Pages(next) => {
                recount.stage = self.count_pages(&mut writer, &mut recount.sum, next, pages.max(1))?;
                false
            }
            Stage::Values(next) => match self.sweep_values(next, pages.max(1))? {
                Some(next) => {
                    recount.stage = Stage::Values(next);
                    false
                }
                None => true,
            },
        };
        if !over {
            writer.recount = Some(recount);
            return Ok(false);
        }
        let kept_up = writer.figures.replace(recount.sum);
        writer.overlaps = false;
        *self.figures.lock() = writer.figures;
        match kept_up {
            Some(kept_up) if kept_up != recount.sum => Err(self.place.corruption(format!(
                "expected {} pages with {} records and set hash {:032x}, counted {} with {} and {:032x}: pages are lost or old",
                kept_up.pages, kept_up.records, kept_up.set_hash, recount.sum.pages, recount.sum.records, recount.sum.set_hash
            ))),
            _ => Ok(true),
        }
    }

    fn count_pages(
        &self,
        writer: &mut Writer,
        sum: &mut Figures,
        next: Vec<u8>,
        pages: usize,
    ) -> Result<Stage> {
        let Some(next) = self.settled_edge(next)? else { return Ok(Stage::Values(Vec::new())) };
        let mut walk = self.pages.range(next.as_slice()..);
        let mut step = || self.page(|| walk.next());
        let mut current: Option<Image> = step()?;
        let mut edge = next;
        for _ in 0..pages {
            let Some(image) = current.take().filter(|image| *image.key == *edge) else {
                return Err(self.hole(&edge));
            };
            let view = self.view(&image.key, &image.bytes)?;
            let following: Option<Image> = step()?;
            let overlap = following.as_ref().filter(|following| reaches_over(view.upper(), &following.key));
            let counted = match overlap {
                Some(following) => {
                    let page = self.clamped(&view, &image.key, &following.key)?;
                    self.put(writer, &image.key, &page)?;
                    edge = following.key.to_vec();
                    figures_of(&image.key, Some(&page))
                }
                None => {
                    self.verify(&view, &image.key, view.upper())?;
                    let Some(upper) = view.upper() else {
                        *sum = added(*sum, figures_of(&image.key, Some(&image.bytes)));
                        return Ok(Stage::Values(Vec::new()));
                    };
                    edge = upper.to_vec();
                    figures_of(&image.key, Some(&image.bytes))
                }
            };
            *sum = added(*sum, counted);
            current = following;
        }
        Ok(Stage::Pages(edge))
    }

    /// Where to go on: the page at `next` may have been merged into its left neighbour since, which is counted.
    fn settled_edge(&self, next: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let image = self.floor(&next)?.ok_or_else(|| self.hole(&next))?;
        if *image.key == *next {
            return Ok(Some(next));
        }
        match self.view(&image.key, &image.bytes)?.upper() {
            Some(upper) if upper > next.as_slice() => Ok(Some(upper.to_vec())),
            Some(_) => Err(self.hole(&next)),
            None => Ok(None),
        }
    }

    /// The page without what lies at or above `upper`, where a crash left it reaching over its neighbour.
    fn clamped(&self, view: &PageView<'_>, key: &[u8], upper: &[u8]) -> Result<Vec<u8>> {
        let count = view.lower_bound(&bound::decode(upper)?)?;
        let entries = (0..count).map(|index| view.entry(index)).collect::<Result<Vec<_>>>();
        let entries = entries.map_err(|error| self.place.locate(error))?;
        let mut page = Vec::new();
        page::encode(key, Some(upper), &entries, &mut page);
        self.verify(&self.view(key, &page)?, key, Some(upper))?;
        Ok(page)
    }

    fn verify(&self, view: &PageView<'_>, lower: &[u8], upper: Option<&[u8]>) -> Result<()> {
        let whole = || {
            let upper = upper.map(bound::decode).transpose()?;
            view.check(&bound::decode(lower)?, upper.as_deref())
        };
        whole().map_err(|error| self.place.locate(error))?;
        for index in (0..view.len()).filter(|_| view.has_overflow()) {
            let entry = view.entry(index)?;
            if let Content::Overflow(overflow) = entry.content
                && self.read_value(&entry.key(), entry.seq, overflow)?.is_none()
            {
                return Err(self.value_gone(&entry));
            }
        }
        Ok(())
    }

    /// Removes large values that no page refers to, `steps` chunks on from `next`; where to go on, if anywhere.
    fn sweep_values(&self, next: Vec<u8>, steps: usize) -> Result<Option<Vec<u8>>> {
        let range = (Bound::Included(next.as_slice()), Bound::Unbounded);
        let mut walk = self.values.range::<&[u8], _>(range);
        for _ in 0..steps {
            let found = self.place.call("read a large value", || walk.next().transpose())?;
            let Some((chunk_key, chunk)) = found else { return Ok(None) };
            match ValueId::parse(&chunk_key) {
                Some((id, 0)) if self.refers(id, &self.owner_of(&chunk_key, &chunk)?)? => {
                    // Its other chunks were verified with the page.
                    let mut last = id.chunk(u32::MAX).to_vec();
                    last.push(0);
                    walk = self.values.range(last..);
                }
                _ => {
                    self.write("remove a large value", || self.values.remove(&chunk_key))?;
                }
            }
        }
        let found = self.place.call("read a large value", || walk.next().transpose())?;
        Ok(found.map(|(chunk_key, _)| chunk_key.to_vec()))
    }

    /// Whether the record of `key` at the value's sequence says that its value lies there.
    fn refers(&self, id: ValueId, key: &[u8]) -> Result<bool> {
        let bound = bound::encode(key);
        let image = self.floor(&bound)?.ok_or_else(|| self.hole(&bound))?;
        let view = self.view(&image.key, &image.bytes)?;
        let entry = view.find(key, id.seq()).map_err(|error| self.place.locate(error))?;
        Ok(entry.is_some_and(|entry| {
            matches!(entry.content, Content::Overflow(_)) && ValueId::new(key, entry.seq) == id
        }))
    }
}

fn added(sum: Figures, page: Figures) -> Figures {
    Figures {
        pages: sum.pages + page.pages,
        records: sum.records + page.records,
        set_hash: sum.set_hash.wrapping_add(page.set_hash),
    }
}
