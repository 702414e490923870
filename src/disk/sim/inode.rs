//! One simulated file: the bytes as a reader sees them, and what a power cut would put back.
//!
//! Invariants: `undo` and `ghosts` together hold the durable bytes of exactly the sectors that differ from the disk.
//! `between`, where it is kept, has what else such a sector may hold on the disk: what was written over before it was
//! synced, since a system writes its pages when it likes.

use super::{Mood, Rng};
use std::collections::BTreeMap;
use std::ops::Range;

pub const SECTOR: usize = 512;

/// What a sector may hold.
pub type Sector = [u8; SECTOR];

#[derive(Debug, Clone, Default)]
pub struct Inode {
    bytes: Vec<u8>,
    durable_len: usize,
    /// Sectors that a sync would write, with their durable bytes.
    undo: BTreeMap<usize, [u8; SECTOR]>,
    /// Sectors that a failed sync gave up on: a later sync does not write them, a power cut always puts them back.
    ghosts: BTreeMap<usize, [u8; SECTOR]>,
    /// None where nobody asks for it.
    between: Option<BTreeMap<usize, Vec<Sector>>>,
}

/// What a power cut leaves open of one file.
#[derive(Debug, Clone)]
pub struct OpenFile {
    pub number: u64,
    /// What is there if all that is not synced is lost, as long as the longest of `lens`.
    pub durable: Vec<u8>,
    /// The lengths that the file may have, the durable one first.
    pub lens: Vec<usize>,
    /// Sectors that may hold something else than `durable` has there, and what.
    pub sectors: Vec<(usize, Vec<Sector>)>,
}

impl Inode {
    /// One whose sectors' versions are kept from now on, for [`open_ends`](Self::open_ends).
    pub fn with_versions() -> Self {
        Inode { between: Some(BTreeMap::new()), ..Inode::default() }
    }

    /// One that has these bytes, durably.
    pub fn durable(bytes: Vec<u8>, versions: bool) -> Self {
        Inode { durable_len: bytes.len(), bytes, between: versions.then(BTreeMap::new), ..Inode::default() }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = self.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            self.keep(sector);
        }
        self.grow(end);
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
    }

    /// Remembers a sector's durable bytes before its first change.
    fn keep(&mut self, sector: usize) {
        let is_dirty = self.undo.contains_key(&sector) || self.ghosts.contains_key(&sector);
        if is_dirty && self.between.is_some() {
            let now = self.sector(sector);
            self.between.iter_mut().for_each(|between| between.entry(sector).or_default().push(now));
        }
        if let Some(ghost) = self.ghosts.remove(&sector) {
            self.undo.insert(sector, ghost);
        } else if !self.undo.contains_key(&sector) {
            let old = self.sector(sector);
            self.undo.insert(sector, old);
        }
    }

    fn sector(&self, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR];
        self.read((sector * SECTOR) as u64, &mut bytes);
        bytes
    }

    /// What a power cut now leaves open; of what was written over as well, if that is kept.
    pub fn open_ends(&self, number: u64) -> OpenFile {
        let mut left = self.clone();
        left.bytes.resize(self.bytes.len().max(self.durable_len), 0);
        let mut sectors = Vec::new();
        for (sector, old) in self.undo.iter().chain(&self.ghosts) {
            left.put_back(*sector, old);
            let between = self.between.as_ref().and_then(|between| between.get(sector));
            let mut versions = vec![self.sector(*sector)];
            for version in between.into_iter().flatten().rev() {
                if !versions.contains(version) {
                    versions.push(*version);
                }
            }
            versions.retain(|version| version != old);
            if !versions.is_empty() {
                sectors.push((*sector, versions));
            }
        }
        let mut lens = vec![self.durable_len, self.bytes.len()];
        lens.dedup();
        OpenFile { number, durable: left.bytes, lens, sectors }
    }

    pub fn set_len(&mut self, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        for sector in len / SECTOR..self.bytes.len().div_ceil(SECTOR) {
            self.keep(sector);
        }
        self.bytes.truncate(len);
        self.grow(len);
    }

    /// By what the system fills memory with: where tests are hardly optimized, `resize` goes byte by byte.
    fn grow(&mut self, len: usize) {
        if let Some(more) = len.checked_sub(self.bytes.len()).filter(|more| *more > 0) {
            self.bytes.extend_from_slice(&vec![0; more]);
        }
    }

    /// Makes the sectors of these bytes durable; where they reach to the end, the length as well.
    pub fn sync(&mut self, bytes: Range<u64>) {
        let dirty = self.take_dirty(&bytes);
        if let Some(between) = &mut self.between {
            between.retain(|sector, _| !dirty.contains_key(sector));
        }
        if bytes.end >= self.len() {
            self.durable_len = self.bytes.len();
        }
    }

    pub fn sync_failed(&mut self, bytes: Range<u64>) {
        for (sector, old) in self.take_dirty(&bytes) {
            self.ghosts.entry(sector).or_insert(old);
        }
    }

    fn take_dirty(&mut self, bytes: &Range<u64>) -> BTreeMap<usize, [u8; SECTOR]> {
        let sector = |at: u64| usize::try_from(at / SECTOR as u64).unwrap_or(usize::MAX);
        let mut dirty = self.undo.split_off(&sector(bytes.start));
        let behind = dirty.split_off(&sector(bytes.end));
        self.undo.extend(behind);
        dirty
    }

    pub fn lose(&mut self, rng: &mut Rng) {
        let mood = Mood::pick(rng);
        let grown = self.bytes.len();
        let shrunk = grown < self.durable_len;
        if shrunk {
            self.bytes.resize(self.durable_len, 0);
        }
        for (sector, old) in std::mem::take(&mut self.undo) {
            if !mood.spares(rng) {
                self.put_back(sector, &old);
            }
        }
        for (sector, old) in std::mem::take(&mut self.ghosts) {
            self.put_back(sector, &old);
        }
        if grown != self.durable_len {
            let len = match rng.below(3) {
                0 => grown,
                1 => self.durable_len,
                _ if shrunk => grown,
                _ => self.durable_len + rng.below((grown - self.durable_len) as u64) as usize,
            };
            self.bytes.resize(len, 0);
        }
        self.durable_len = self.bytes.len();
        if let Some(between) = &mut self.between {
            between.clear();
        }
    }

    fn put_back(&mut self, sector: usize, old: &[u8; SECTOR]) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.bytes.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(start..end), old.get(..end.saturating_sub(start)))
        {
            to.copy_from_slice(from);
        }
    }

    pub fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.bytes);
        self.sync(0..u64::MAX);
        self.ghosts.clear();
        if let Some(between) = &mut self.between {
            between.clear();
        }
    }
}
