//! Reading a segment's frames.
//!
//! Invariants: nothing is believed before its checksum; memory is bounded by the longest frame, whatever the bytes say.

use super::segment::{BODY, SegmentHeader};
use crate::disk::{BLOCK, DiskFile};
use crate::error::{Error, Result};
use crate::frame::{self, HEADER_BYTES, Header, Kind, Salt};
use crate::ids::Seq;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole frame.
    Frame(Header, &'a [u8]),
    /// A header that is valid and a payload that is not.
    Torn(Header),
    Nothing,
}

/// What is known of frames beyond a place where the log seems to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Every frame below this was once handed to the operating system.
    pub reach: Seq,
    /// Every frame up to this was once known to be synced.
    pub proven: Seq,
}

impl Evidence {
    pub fn add(&mut self, header: &Header) {
        let reach = if header.kind == Kind::Commit { header.seq.next() } else { header.seq };
        self.reach = self.reach.max(reach);
        self.proven = self.proven.max(header.durable);
    }
}

/// Reads one segment. The buffer is handed on from one to the next.
#[derive(Debug)]
pub struct Reader {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    header: SegmentHeader,
    buf: Vec<u8>,
    start: u64,
    /// No more is read than is asked for.
    narrow: bool,
}

impl Reader {
    pub fn new(file: Arc<dyn DiskFile>, path: &Path, header: SegmentHeader, mut buf: Vec<u8>) -> Self {
        buf.clear();
        Reader { file, path: path.to_path_buf(), header, buf, start: 0, narrow: false }
    }

    /// Forgets what it holds, and from here on reads nothing but what is asked for: what lies behind it may be what cannot be
    /// read.
    pub fn narrow(&mut self) {
        self.buf.clear();
        self.narrow = true;
    }

    /// What the checksums of its frames are begun from.
    pub fn salt(&self) -> Salt {
        self.header.salt()
    }

    pub fn into_buffer(self) -> Vec<u8> {
        self.buf
    }

    /// `count` bytes at `at`; fewer where the segment ends.
    fn bytes(&mut self, at: u64, count: usize) -> Result<&[u8]> {
        let left = usize::try_from(self.header.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let held = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = match held {
            Some(skip) if skip.saturating_add(count) <= self.buf.len() => skip,
            _ => {
                let want = if self.narrow { count } else { count.max(CHUNK).min(left) };
                self.buf.resize(want, 0);
                self.start = at;
                let read = self.file.read_at(at, &mut self.buf);
                // What was not read is not held.
                self.buf.truncate(*read.as_ref().unwrap_or(&0));
                read.map_err(|e| Error::io("read the journal", &self.path, e).offset(at))?;
                0
            }
        };
        let end = self.buf.len().min(skip + count);
        Ok(self.buf.get(skip..end).unwrap_or_default())
    }

    /// What is at `at`.
    pub fn item(&mut self, at: u64) -> Result<Item<'_>> {
        let (salt, generation) = (self.header.salt(), self.header.generation);
        let Some(header) = Header::decode(self.bytes(at, HEADER_BYTES)?, salt, generation) else {
            return Ok(Item::Nothing);
        };
        let bytes = self.bytes(at, HEADER_BYTES + header.length as usize)?;
        let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
        Ok(if header.matches(payload) { Item::Frame(header, payload) } else { Item::Torn(header) })
    }

    /// The first sequence that the segment held when it was begun, if its first frame can be read.
    pub fn first_seq(&self) -> Result<Option<Seq>> {
        let mut head = [0; HEADER_BYTES];
        let read = self.file.read_at(BODY, &mut head);
        let read = read.map_err(|e| Error::io("read the journal", &self.path, e).offset(BODY))?;
        let (salt, generation) = (self.header.salt(), self.header.generation);
        let head = head.get(..read).unwrap_or_default();
        Ok(Header::decode(head, salt, generation).map(|header| header.seq))
    }

    /// What valid frames say anywhere in the segment, where it can be read.
    pub fn evidence_left(&mut self) -> Evidence {
        self.narrow();
        let mut evidence = Evidence::default();
        let end = self.header.len;
        for at in (BODY..end).step_by(CHUNK) {
            if self.sift(at, CHUNK, &mut evidence).is_err() {
                let blocks = (at..end.min(at.saturating_add(CHUNK as u64))).step_by(BLOCK);
                for at in blocks {
                    // Of one that can be read, the next may be the one that cannot.
                    let sifted = self.sift(at, BLOCK, &mut evidence);
                    let alone = |_| self.sift(at, BLOCK - HEADER_BYTES, &mut evidence);
                    let _unreadable = sifted.or_else(alone);
                }
            }
        }
        evidence
    }

    /// Looks for headers that begin in so many bytes.
    fn sift(&mut self, at: u64, count: usize, evidence: &mut Evidence) -> Result<()> {
        let (salt, generation) = (self.header.salt(), self.header.generation);
        let bytes = self.bytes(at, count + HEADER_BYTES)?;
        let mut from = 0;
        while let Some((found, header)) = frame::find(bytes, from, salt, generation) {
            evidence.add(&header);
            from = found + frame::ALIGN;
        }
        Ok(())
    }

    /// Looks for valid frames anywhere from `at` on. A frame with the sequence `torn` at `at` itself is passed over.
    pub fn evidence(&mut self, at: u64, torn: Option<Seq>) -> Result<Evidence> {
        let mut evidence = Evidence::default();
        let (salt, generation) = (self.header.salt(), self.header.generation);
        let mut chunk_at = at;
        while chunk_at.saturating_add(HEADER_BYTES as u64) <= self.header.len {
            let bytes = self.bytes(chunk_at, CHUNK)?;
            let mut from = 0;
            while let Some((found, header)) = frame::find(bytes, from, salt, generation) {
                let itself = chunk_at + found as u64 == at && Some(header.seq) == torn;
                if !(itself && header.kind == Kind::Commit) {
                    evidence.add(&header);
                }
                from = found + frame::ALIGN;
            }
            // The next chunk begins where a header could begin that did not fit into this one.
            let step = bytes.len().saturating_sub(HEADER_BYTES) / frame::ALIGN * frame::ALIGN;
            if step == 0 {
                break;
            }
            chunk_at += step as u64;
        }
        Ok(evidence)
    }
}
