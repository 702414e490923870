//! What is read for somebody who waits no longer than the engine's patience.
//!
//! What the system has in memory the caller reads by himself. For all else a thread waits for the disk, since nobody can be called
//! back from a system call; when it takes too long the caller goes on without it. On a file system that does not say what it has in
//! memory every page that is in no cache of ours is read by a thread.
//!
//! Invariant: while a disk is silent, nothing more is read from it for anybody: who asks is told so at once.

use super::core::Core;
use super::node::PageRef;
use super::pool::Frame;
use super::space::UNIT;
use crate::disk::Hands;
use crate::error::{Error, ErrorKind, Result};
use std::io;
use std::path::Path;
use std::time::Duration;

/// So many of the threads that read are kept for a while when they have nothing to do.
const KEPT: usize = 8;

/// Who reads for those who wait.
#[derive(Debug)]
pub(super) struct Readers {
    pub hands: Hands,
    pub patience: Duration,
}

impl Readers {
    pub fn new(patience: Duration) -> Readers {
        Readers { hands: Hands::keeping(KEPT), patience }
    }
}

impl Core {
    /// The frame of a page, which is not believed.
    pub fn read_frame_soon(&self, page: &PageRef) -> Result<Frame> {
        self.pool.frame(page.bytes as usize, |bytes| self.read_into_soon(page, bytes))
    }

    /// The same into a buffer of the frame's length.
    pub fn read_into_soon(&self, page: &PageRef, bytes: &mut [u8]) -> Result<()> {
        self.read_soon("read a page", page.unit.saturating_mul(UNIT), bytes)
    }

    /// Fills `bytes` with what lies at `offset` of the page file, and with zeros behind its end.
    pub fn read_soon(&self, what: &str, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let read = match self.file.read_ready(offset, bytes) {
            Ok(None) => self.read_by_thread(offset, bytes),
            ready => ready.map(|read| read.unwrap_or_default()),
        };
        let read = read.map_err(|error| self.unread(what, &self.path, error))?;
        bytes[read..].fill(0);
        Ok(())
    }

    #[cold]
    fn read_by_thread(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if crate::plants::is("reads-wait-for-ever") {
            return self.file.read_at(offset, bytes);
        }
        let (file, len) = (self.file.clone(), bytes.len());
        let read = self.readers.hands.run(self.readers.patience, move || {
            let mut read = vec![0; len];
            let got = file.read_at(offset, &mut read)?;
            read.truncate(got);
            Ok(read)
        })?;
        bytes[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    /// What sled has of a node. It does not say what it has in memory; but a node that is in none of ours was not used for long.
    pub fn node_soon(&self, number: u64) -> Result<Option<sled::IVec>> {
        let (place, index) = (self.place.clone(), self.index.clone());
        #[cfg(test)]
        let stops = self.stops.clone();
        let read = self.readers.hands.run(self.readers.patience, move || {
            #[cfg(test)]
            drop(stops.nodes.lock());
            Ok(place.call("read the index", || index.get(number.to_be_bytes())))
        });
        read.unwrap_or_else(|error| Err(self.unread("read the index", &self.place.dir, error)))
    }

    #[cold]
    fn unread(&self, what: &str, path: &Path, error: io::Error) -> Error {
        if error.kind() != io::ErrorKind::TimedOut {
            return Error::io(what, path, error).on(self.place.shard);
        }
        let patience = self.readers.patience;
        Error::new(ErrorKind::Io, format!("cannot {what}: the disk has not answered for {patience:?}"))
            .at(path)
            .on(self.place.shard)
            .remedy("look at the disk and the kernel log; the shard is taken back when it answers")
            .caused_by(error)
    }
}
