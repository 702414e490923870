//! The open engine: sled's three trees, and the few ways in which the rest of the engine touches them.
//!
//! Invariants: pages change only through [`Core::put`] and [`Core::delete`], which keep the accounts; after a failed
//! write nothing more is read or written (sled's own state is unknown then).

use super::accounts::Writer;
use super::place::Place;
use crate::engine::{Figures, PowerLoss};
use crate::error::{Error, Result};
use crate::page::PageView;
use parking_lot::Mutex;
use sled::IVec;
use std::ops::Bound;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A read that takes longer went to the disk, or at least to the system's cache of it; a hit takes two or three.
const COLD: Duration = Duration::from_micros(8);
/// How often a leaf that was read from the disk is accessed once more; see [`Core::settle_cache`].
const TOUCHES: usize = 7;
/// How much may wait to be written, in bytes of pages and chunks (sled's rewriting of leaves adds as much again).
const MAX_UNWRITTEN: usize = 8 << 20;

pub(super) struct Core {
    pub place: Place,
    pub db: sled::Db,
    pub pages: sled::Tree,
    /// Chunks of values that are too large for a page.
    pub values: sled::Tree,
    pub meta: sled::Tree,
    pub page_bytes: usize,
    /// The longest value that is kept in a page.
    pub inline_limit: usize,
    /// One writer at a time; taken by readers only to tell a hole from a race.
    pub writer: Mutex<Writer>,
    /// The writer's figures as of its last completed call, so that asking for them does not wait for a long one.
    pub figures: Mutex<Option<Figures>>,
    pub applied: AtomicU64,
    pub power_loss: PowerLoss,
    pub failed: OnceLock<Error>,
    /// About how many bytes were written since sled was last made to write them out; only the writer counts.
    pub unwritten: AtomicUsize,
    /// How many writes to sled may still happen, so that a test can stop in the middle of any of them.
    #[cfg(test)]
    pub writes_left: std::sync::atomic::AtomicI64,
}

/// A page as sled gave it.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub key: IVec,
    pub bytes: IVec,
}

impl Image {
    pub fn new((key, bytes): (IVec, IVec)) -> Image {
        Image { key, bytes }
    }
}

impl Core {
    /// An error if an earlier write failed.
    #[inline]
    pub fn check(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Has sled write out what waits to be written, if that is much: it puts no bound on that itself, so that a run
    /// applied to a slow disk would pile up in memory whole.
    fn bound_unwritten(&self, bytes: usize) -> Result<()> {
        let unwritten = self.unwritten.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unwritten > MAX_UNWRITTEN {
            self.unwritten.store(0, Ordering::Relaxed);
            self.write("flush the shard", || self.db.flush())?;
        }
        Ok(())
    }

    /// Calls sled to change something; a failure is final.
    pub fn write<T>(&self, what: &str, f: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        self.check()?;
        #[cfg(test)]
        let f = || match self.writes_left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) {
            ..=0 => Err(sled::Error::Io(std::io::Error::other("stopped by the test"))),
            _ => f(),
        };
        self.place.call(what, f).map_err(|error| self.fail(error))
    }

    /// Stops the engine for good because of `error`, which it returns.
    #[cold]
    pub fn fail(&self, error: Error) -> Error {
        let sticky = Error::new(error.kind(), "the shard's engine stopped after a failed write")
            .remedy("remove the cause, then reopen the shard or rebuild it")
            .caused_by(error.clone());
        let _ = self.failed.set(self.place.locate(sticky));
        error
    }

    /// The page with the greatest bound at or below `bound`.
    #[inline]
    pub fn floor(&self, bound: &[u8]) -> Result<Option<Image>> {
        self.page(|| self.pages.range(..=bound).next_back())
    }

    /// The page with the least bound above `bound`.
    pub fn after(&self, bound: &[u8]) -> Result<Option<Image>> {
        let range = (Bound::Excluded(bound), Bound::Unbounded);
        self.page(|| self.pages.range::<&[u8], _>(range).next())
    }

    /// The page that a walk over the pages comes to.
    #[inline]
    pub fn page(&self, step: impl FnOnce() -> Option<sled::Result<(IVec, IVec)>>) -> Result<Option<Image>> {
        let start = Instant::now();
        let found = self.place.call("read a page", || step().transpose())?.map(Image::new);
        if let Some(image) = &found
            && start.elapsed() > COLD
        {
            self.settle_cache(&self.pages, &image.key)?;
        }
        Ok(found)
    }

    /// A chunk of a large value.
    pub fn chunk(&self, chunk_key: &[u8]) -> Result<Option<IVec>> {
        let start = Instant::now();
        let found = self.place.call("read a large value", || self.values.get(chunk_key))?;
        if start.elapsed() > COLD {
            self.settle_cache(&self.values, chunk_key)?;
        }
        Ok(found)
    }

    pub fn put_chunk(&self, chunk_key: &[u8], chunk: &[u8]) -> Result<()> {
        self.write("write a large value", || self.values.insert(chunk_key, chunk))?;
        self.bound_unwritten(chunk.len())
    }

    /// Makes sled take note of a leaf that it has just read from the disk.
    ///
    /// sled's cache spreads its leaves over 256 lists and looks at a list only after 64 accesses to it: random reads,
    /// each of another leaf, leave up to 16,384 leaves in memory that its capacity does not know of. A few more
    /// accesses to each divide that.
    #[cold]
    fn settle_cache(&self, tree: &sled::Tree, key: &[u8]) -> Result<()> {
        for _ in 0..TOUCHES {
            self.place.call("read a page", || tree.contains_key(key))?;
        }
        Ok(())
    }

    #[inline]
    pub fn view<'a>(&self, key: &[u8], bytes: &'a [u8]) -> Result<PageView<'a>> {
        PageView::open(key, bytes).map_err(|error| self.place.locate(error))
    }

    pub fn put(&self, writer: &mut Writer, key: &[u8], page: &[u8]) -> Result<()> {
        let old = self.write("write a page", || self.pages.insert(key, page))?;
        writer.account(key, old.as_deref(), Some(page));
        self.bound_unwritten(key.len() + page.len())
    }

    pub fn delete(&self, writer: &mut Writer, key: &[u8]) -> Result<()> {
        let old = self.write("remove a page", || self.pages.remove(key))?;
        writer.account(key, old.as_deref(), None);
        Ok(())
    }

    /// The page at or below `bound` lacks what should be there.
    #[cold]
    pub fn hole(&self, bound: &[u8]) -> Error {
        self.place.corruption(format!(
            "expected a page that holds the key bound {bound:02x?}, found none: a page is lost"
        ))
    }
}

/// Whether `upper`, the fence of a page, is above `bound`.
pub(super) fn reaches_over(upper: Option<&[u8]>, bound: &[u8]) -> bool {
    upper.is_none_or(|upper| upper > bound)
}
