//! Reading a segment's frames.
//!
//! Invariants: nothing is believed before its checksum; memory is bounded by the longest frame, whatever the bytes say.

use super::segment::{BODY, SegmentHeader};
use crate::disk::{BLOCK, DiskFile};
use crate::error::{Error, Result};
use crate::frame::{self, HEADER_BYTES, Header, Kind, Salt};
use crate::ids::Seq;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// How many blocks of a segment may be such as cannot be read; where it is more, the disk is away.
const UNREAD: usize = CHUNK / BLOCK;

/// What could not be read of a segment.
#[derive(Debug, Default)]
struct Unread {
    blocks: usize,
    error: Option<Error>,
    /// Some could.
    others: bool,
}

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
    /// As long as the longest read was: what grows is filled with zeros first, which need not be done for every read.
    buf: Vec<u8>,
    /// Where in the segment the buffer begins, and how many of its bytes have been read there.
    start: u64,
    held: usize,
    /// No more is read than is asked for.
    narrow: bool,
}

impl Reader {
    pub fn new(file: Arc<dyn DiskFile>, path: &Path, header: SegmentHeader, buf: Vec<u8>) -> Self {
        Reader { file, path: path.to_path_buf(), header, buf, start: 0, held: 0, narrow: false }
    }

    /// Forgets what it holds, and from here on reads nothing but what is asked for: what lies behind it may be what cannot be
    /// read.
    pub fn narrow(&mut self) {
        self.held = 0;
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
        let into = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = match into {
            Some(skip) if skip.saturating_add(count) <= self.held => skip,
            _ => {
                let want = if self.narrow { count } else { count.max(CHUNK).min(left) };
                if self.buf.len() < want {
                    self.buf = vec![0; want];
                }
                // What was not read is not held.
                (self.start, self.held) = (at, 0);
                let place = self.buf.get_mut(..want).unwrap_or_default();
                let read = self.file.read_at(at, place);
                self.held =
                    read.map_err(|e| Error::io("read the journal", &self.path, e).offset(at))?.min(want);
                0
            }
        };
        let end = self.held.min(skip + count);
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

    /// Where the whole commit with the least of these sequences lies, at `at` or behind it, as far as it can be read.
    ///
    /// # Errors
    /// `Io` where nothing can be read, or more cannot than there are sectors that go bad.
    pub fn least_commit(&mut self, at: u64, seqs: Range<Seq>) -> Result<Option<(u64, Seq)>> {
        let mut least: Option<(u64, Seq)> = None;
        let (mut at, mut in_blocks, mut unread) = (at, false, Unread::default());
        while at.saturating_add(HEADER_BYTES as u64) <= self.header.len {
            let found = match in_blocks {
                true => self.commits_of_block(&mut at, &seqs, &mut unread)?,
                false => match self.commits(at, CHUNK, &seqs) {
                    // The next chunk begins where a header could begin that did not fit into this one.
                    Ok((found, count)) => {
                        let step = count.saturating_sub(HEADER_BYTES) / frame::ALIGN * frame::ALIGN;
                        at = if step == 0 { self.header.len } else { at + step as u64 };
                        found
                    }
                    Err(_) => {
                        self.narrow();
                        in_blocks = true;
                        continue;
                    }
                },
            };
            for (place, seq) in found {
                if least.is_none_or(|(_, least)| seq < least) && self.is_whole(place, seq) {
                    least = Some((place, seq));
                }
            }
            // The first may be what is lost; nothing that lies further on is nearer than the second.
            if least.is_some_and(|(_, seq)| seq <= seqs.start.next()) {
                break;
            }
        }
        match unread.error {
            // Nothing of the segment can be read, as far as anybody asked.
            Some(error) if !unread.others && self.bytes(0, BLOCK).is_err() => Err(error),
            _ => Ok(least),
        }
    }

    /// The commits with these sequences whose headers lie in so many bytes, and how many of these there are.
    fn commits(&mut self, at: u64, count: usize, seqs: &Range<Seq>) -> Result<(Vec<(u64, Seq)>, usize)> {
        let (salt, generation) = (self.header.salt(), self.header.generation);
        let bytes = self.bytes(at, count)?;
        let (mut from, mut found) = (0, Vec::new());
        while let Some((offset, header)) = frame::find(bytes, from, salt, generation) {
            if header.kind == Kind::Commit && seqs.contains(&header.seq) {
                found.push((at + offset as u64, header.seq));
            }
            from = offset + frame::ALIGN;
        }
        Ok((found, bytes.len()))
    }

    /// Those whose headers begin in the rest of the block at `at`, if that can be read; `at` is behind it then.
    fn commits_of_block(
        &mut self,
        at: &mut u64,
        seqs: &Range<Seq>,
        unread: &mut Unread,
    ) -> Result<Vec<(u64, Seq)>> {
        let begin = *at;
        *at = (begin / BLOCK as u64 + 1) * BLOCK as u64;
        let count = (*at - begin) as usize;
        let with_next = self.commits(begin, count + HEADER_BYTES, seqs);
        // Of one that can be read, the next may be the one that cannot.
        match with_next.or_else(|_| self.commits(begin, count, seqs)) {
            Ok((found, _)) => {
                unread.others = true;
                Ok(found)
            }
            Err(error) if unread.blocks == UNREAD => Err(error),
            Err(error) => {
                unread.blocks += 1;
                unread.error = Some(error);
                Ok(Vec::new())
            }
        }
    }

    /// Whether a whole commit lies at a place. What cannot be read is none.
    fn is_whole(&mut self, place: u64, seq: Seq) -> bool {
        let is_it = |item: Item<'_>| matches!(item, Item::Frame(header, _) if header.seq == seq);
        if let Ok(item) = self.item(place) {
            return is_it(item);
        }
        // What lies behind it may be what cannot be read.
        self.narrow();
        self.item(place).is_ok_and(is_it)
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
