//! The open engine: the page file, the index over it, and the few ways in which the rest of the engine touches them.
//!
//! Invariants: a page is never changed in place, and its space is used again only after a commit of an index that no
//! longer refers to it; after a failed write nothing more is read or written (what is on the disk is unknown then).

use super::cache::PageCache;
use super::frame::{self, Page};
use super::node::{Node, PageRef};
use super::patient::Readers;
use super::place::Place;
use super::pool::{Frame, Pool};
use super::rest::Rest;
use super::root::{Absent, Located, Root, Search, Which};
use super::space::UNIT;
use super::writer::Writer;
use crate::disk::DiskFile;
use crate::engine::{Figures, PowerLoss};
use crate::error::{Error, ErrorKind, Result};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(super) struct Core {
    pub place: Place,
    pub db: sled::Db,
    /// Nodes by number.
    pub index: sled::Tree,
    pub meta: sled::Tree,
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    pub root: Root,
    pub cache: PageCache,
    /// Of keys, for what nodes know of their pages. With a seed, so that who chooses the keys cannot choose their hashes.
    pub hasher: RandomState,
    pub pool: Arc<Pool>,
    /// Memory for nodes and pages together.
    pub cache_bytes: AtomicU64,
    pub page_bytes: usize,
    /// One writer at a time. Readers never wait for it.
    pub writer: Mutex<Writer>,
    /// The writer's figures as of its last completed call, so that asking for them does not wait for a long one.
    pub figures: Mutex<Option<Figures>>,
    pub applied: AtomicU64,
    /// What records took when it could last be asked without waiting for the writer.
    pub live_bytes: AtomicU64,
    pub power_loss: PowerLoss,
    /// Where nothing else keeps what it commits in order.
    pub rest: Option<Arc<Rest>>,
    pub failed: OnceLock<Error>,
    /// How long sled may take to answer.
    pub patience: Duration,
    /// For those who wait less long.
    pub readers: Readers,
    #[cfg(test)]
    pub stops: Arc<super::calls::Stops>,
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

    /// The same for a reader: for want of space, or of the right to write, what is there is as good as it was. The index refers
    /// to nothing that is not in the file, and what was replaced is given up only when the index without it is durable.
    #[inline]
    pub fn check_readable(&self) -> Result<()> {
        match self.failed.get() {
            Some(error) if !error.is_refusal_to_write() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Changes the page file; a failure is final.
    pub fn write_file<T>(&self, what: &str, f: impl FnOnce(&dyn DiskFile) -> io::Result<T>) -> Result<T> {
        self.check()?;
        #[cfg(test)]
        let f = |file: &dyn DiskFile| self.stops.pass().and_then(|()| f(file));
        f(self.file.as_ref()).map_err(|e| self.fail(Error::io(what, &self.path, e).on(self.place.shard)))
    }

    /// Stops the engine for good because of `error`, which it returns, unless that is damage: damage is put right in place, and this only
    /// by opening the engine anew.
    #[cold]
    pub fn fail(&self, error: Error) -> Error {
        let damage = error.kind() == ErrorKind::Corruption;
        let kind = if damage { ErrorKind::Io } else { error.kind() };
        let sticky = Error::new(kind, "the shard's engine stopped after a failed write")
            .remedy("remove the cause, then reopen the shard or rebuild it")
            .caused_by(error.clone());
        let sticky = self.place.locate(sticky);
        let _ = self.failed.set(sticky.clone());
        if damage { sticky } else { error }
    }

    /// Reads the frame of a page from the file, without believing it.
    pub fn read_frame(&self, page: &PageRef) -> Result<Frame> {
        self.pool.frame(page.bytes as usize, |bytes| self.read_into(page, bytes))
    }

    /// The same into a buffer of the frame's length.
    pub fn read_into(&self, page: &PageRef, bytes: &mut [u8]) -> Result<()> {
        let offset = page.unit.saturating_mul(UNIT);
        let read = self
            .file
            .read_at(offset, bytes)
            .map_err(|e| Error::io("read a page", &self.path, e).on(self.place.shard))?;
        bytes[read..].fill(0);
        Ok(())
    }

    pub fn verify(&self, page: &PageRef, frame: Frame) -> Result<Page> {
        Page::verify(page, frame).map_err(|error| self.damaged(error))
    }

    /// Verifies a frame where it lies, and tells where its page starts.
    pub fn verified(&self, page: &PageRef, frame: &[u8]) -> Result<usize> {
        frame::verify(page, frame).map_err(|error| self.damaged(error))
    }

    /// What is said of a page that failed its checks.
    #[cold]
    pub fn damaged(&self, error: Error) -> Error {
        error.at(&self.path).on(self.place.shard).remedy("repair the shard from its replicas or a checkpoint")
    }

    /// A page, from memory or from the file.
    pub fn load(&self, page: &PageRef) -> Result<Page> {
        if let Some(slot) = self.cache.find(page.id)
            && let Some(found) = self.cache.with(slot, page.id, Page::clone)
        {
            return Ok(found);
        }
        let found = self.verify(page, self.read_frame_soon(page)?)?;
        self.cache.insert(page.id, &found);
        Ok(found)
    }

    /// Where the page lies that holds `key`; see [`Root::page`] for what `doubted` says.
    #[inline]
    pub fn locate(&self, key: &[u8], doubted: bool) -> Result<Located> {
        loop {
            match self.root.page(key, doubted, || self.hasher.hash_one(key)) {
                Some(Search::Found(page)) => return Ok(page),
                Some(Search::Load(absent)) => self.load_node(&absent)?,
                None => return Err(self.hole(key)),
            }
        }
    }

    pub fn node(&self, which: Which<'_>) -> Result<Option<Arc<Node>>> {
        loop {
            match self.root.node(which) {
                Some(Search::Found(node)) => return Ok(Some(node)),
                Some(Search::Load(absent)) => self.load_node(&absent)?,
                None => return Ok(None),
            }
        }
    }

    /// Brings a node into memory, unless it has changed meanwhile.
    #[cold]
    fn load_node(&self, absent: &Absent) -> Result<()> {
        let found =
            self.node_soon(absent.number).and_then(|node| self.checked_node(absent.number, absent.crc, node));
        match (found, self.root.slot(&absent.lower)) {
            (Ok(node), _) => {
                self.root.keep(absent, Arc::new(node));
                Ok(())
            }
            // It was replaced while it was being read: the next search finds what took its place.
            (Err(_), slot)
                if slot.as_ref().is_none_or(|(number, crc, dirty)| {
                    dirty.is_some() || (*number, *crc) != (absent.number, absent.crc)
                }) =>
            {
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A node as sled has it, which must be the one with this checksum.
    pub fn stored_node(&self, number: u64, crc: u32) -> Result<Node> {
        let bytes = self.place.call("read the index", || self.index.get(number.to_be_bytes()))?;
        self.checked_node(number, crc, bytes)
    }

    fn checked_node(&self, number: u64, crc: u32, bytes: Option<sled::IVec>) -> Result<Node> {
        let Some(bytes) = bytes else {
            return Err(self.place.corruption(format!("expected node {number} of the index, found none")));
        };
        if super::node::stored_checksum(&bytes) != crc {
            return Err(self.place.corruption(format!(
                "expected node {number} of the index with checksum {crc:08x}, found an older one"
            )));
        }
        Node::decode(number, &bytes).map_err(|error| self.place.locate(error))
    }

    /// Shares the memory out again: what the index does not take is for pages.
    pub fn balance(&self) {
        let bytes = self.cache_bytes.load(Ordering::Relaxed);
        let nodes = self.root.resident().min(bytes / 2);
        self.cache.set_capacity(bytes - nodes);
    }

    #[cold]
    pub fn hole(&self, key: &[u8]) -> Error {
        self.place.corruption(format!(
            "expected a page that holds the key {key:02x?}, found none: the index has a hole"
        ))
    }
}
