//! Segments before and after their use: made, kept spare, given out, freed.
//!
//! Invariant: a file gets a segment's name only after its header (and, for a session's first segment, its first
//! markers) are durable in it, and it is given out only after that name is durable. One alone gets its header under its name: see `take_over`.

use super::JournalConfig;
use super::chunk::Chunk;
use super::segment::{self, Origin, SegmentHeader};
use crate::disk::{BLOCK, Disk, DiskFile, OpenMode};
use crate::error::{Error, Result};
use crate::frame::{Kind, Salt};
use crate::ids::Seq;
use crate::plants;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is zeroed at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A segment that is ready for frames.
#[derive(Debug, Clone)]
pub struct Ready {
    pub file: Arc<dyn DiskFile>,
    /// The same file, to be written past the system's cache; none where the system cannot.
    pub through: Option<Arc<dyn DiskFile>>,
    pub path: PathBuf,
    pub header: SegmentHeader,
    /// The header's.
    pub salt: Salt,
}

/// What a session begins with where there is no room for a whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Nothing: it is not begun.
    Refused,
    /// The segment of its name, which is there, has no valid frame, and is of this length; else a small one.
    Small { there: Option<u64> },
}

/// A segment without its name yet.
struct Filled {
    file: Arc<dyn DiskFile>,
    through: Option<Arc<dyn DiskFile>>,
    source: PathBuf,
}

#[derive(Debug)]
pub struct Supply {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub config: JournalConfig,
    // Held while a segment is made, so also while the disk is waited for.
    stock: Mutex<Stock>,
    /// What the stock came to when it was let go last.
    held: Mutex<Held>,
    /// Why the last segment that was wanted could not be made, until one is.
    shortage: Mutex<Option<Error>>,
    // Whether the next segment is missing, for those who only ask and must not wait while one is made.
    hungry: AtomicBool,
}

/// What is on the disk beside the segments in use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    pub spares: usize,
    /// Of the spares, and of the next segment if it is ready.
    pub bytes: u64,
}

/// The stock, in one hand. What it has come to is known to everybody when it is let go.
struct Open<'a> {
    supply: &'a Supply,
    stock: MutexGuard<'a, Stock>,
}

impl Deref for Open<'_> {
    type Target = Stock;

    fn deref(&self) -> &Stock {
        &self.stock
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut Stock {
        &mut self.stock
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.supply.held.lock() = self.stock.held(&self.supply.config);
    }
}

#[derive(Debug)]
struct Stock {
    /// The generation that the log will need next.
    wanted: u64,
    next: Option<Ready>,
    spares: Vec<u64>,
    next_spare: u64,
}

impl Stock {
    fn held(&self, config: &JournalConfig) -> Held {
        let next = self.next.as_ref().map_or(0, |ready| ready.header.len);
        let spares = self.spares.len();
        Held { spares, bytes: spares as u64 * config.segment_bytes + next }
    }
}

/// What went wrong with a new segment: if the disk is full, what that means.
fn no_room(what: &str, path: &Path, len: u64, error: std::io::Error) -> Error {
    if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return Error::io(what, path, error);
    }
    let text = format!(
        "the journal's disk is full: it has no room for a segment of {len} bytes; nothing was written"
    );
    Error::new(crate::error::ErrorKind::Full, text)
        .at(path)
        .remedy("free space there, then write again: no restart is needed, and reads go on meanwhile")
        .caused_by(error)
}

/// What a segment begins with; the first of a session with its first markers.
fn head(header: &SegmentHeader) -> Vec<u8> {
    let mut head = header.encode_page();
    if let Origin::Start { first } = header.origin {
        let durable = Seq(first.0.saturating_sub(1));
        segment::push_trailer(&mut head, header.salt(), header.generation, Kind::Tail, first, durable);
    }
    head
}

impl Supply {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, config: JournalConfig, spares: Vec<u64>) -> Self {
        let next_spare = spares.iter().max().map_or(1, |n| n.saturating_add(1));
        let stock = Stock { wanted: 1, next: None, spares, next_spare };
        Supply {
            disk,
            dir,
            config,
            held: Mutex::new(stock.held(&config)),
            stock: Mutex::new(stock),
            shortage: Mutex::default(),
            hungry: AtomicBool::new(true),
        }
    }

    /// Whether there is no next segment yet.
    pub fn wants_provision(&self) -> bool {
        self.hungry.load(Ordering::Relaxed)
    }

    /// Why no segment can be made, if so.
    pub fn shortage(&self) -> Option<Error> {
        self.shortage.lock().clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn stock(&self) -> Open<'_> {
        Open { supply: self, stock: self.stock.lock() }
    }

    /// Makes the first segment of a session.
    pub fn start(&self, header: SegmentHeader, scarce: Scarce) -> Result<Ready> {
        let mut stock = self.stock();
        let ready = match self.make(&mut stock, header) {
            Err(e) if e.kind() == crate::error::ErrorKind::Full => match scarce {
                Scarce::Refused => Err(e),
                Scarce::Small { there: Some(len) } => self.take_over(SegmentHeader { len, ..header }),
                Scarce::Small { there: None } => {
                    self.make(&mut stock, SegmentHeader { len: segment::MIN_SEGMENT_BYTES, ..header })
                }
            }
            // Nobody can read, nor write, before this one is there.
            .map_err(|e| e.remedy("free space there, then open the store again"))?,
            made => made?,
        };
        stock.wanted = header.generation.saturating_add(1);
        stock.next = None;
        Ok(ready)
    }

    /// Makes the next segment if there is none yet; says whether there was something to do. Waits for the disk.
    pub fn provision(&self) -> Result<bool> {
        let mut stock = self.stock();
        if stock.next.is_some() {
            return Ok(false);
        }
        let header = self.continuation(stock.wanted, self.config.segment_bytes);
        stock.next = Some(self.make(&mut stock, header)?);
        self.hungry.store(false, Ordering::Relaxed);
        Ok(true)
    }

    /// Gives the next segment out, with room for at least `bytes`; makes it first if none is ready.
    pub fn take(&self, bytes: u64) -> Result<Ready> {
        let mut stock = self.stock();
        self.hungry.store(true, Ordering::Relaxed);
        let ready = match stock.next.take() {
            Some(ready) if ready.header.len >= bytes => ready,
            small => {
                let len = self.config.segment_bytes.max(bytes.next_multiple_of(4096));
                let header = self.continuation(stock.wanted, len);
                let filled = self.fill(&mut stock, &header);
                // Once the larger one may have taken the small one's name, the small one must not be used any more.
                if filled.is_err() {
                    stock.next = small;
                }
                self.name(filled?, header)?
            }
        };
        stock.wanted = stock.wanted.saturating_add(1);
        Ok(ready)
    }

    /// Begins a session in the segment of its name, in place: each of the two headers says the same of it before and after, but for who has
    /// written it and when, and one sector is written whole or not at all.
    fn take_over(&self, header: SegmentHeader) -> Result<Ready> {
        let path = self.path(&segment::name(header.generation));
        let io = |e| Error::io("begin in a journal segment", &path, e);
        let file = self.disk.open(&path, OpenMode::Write).map_err(io)?;
        // What was there may have been replaced already, by a file whose name could not be synced.
        let header = SegmentHeader { len: file.len().map_err(io)?, ..header };
        file.write_at(0, &head(&header)).map_err(io)?;
        file.sync_all().map_err(io)?;
        let through = self.open_through(&path, &header)?;
        Ok(Ready { file, through, path, header, salt: header.salt() })
    }

    fn continuation(&self, generation: u64, len: u64) -> SegmentHeader {
        SegmentHeader {
            store_id: self.config.store_id,
            generation,
            boot_id: self.disk.boot_id(),
            len,
            origin: Origin::Continuation,
        }
    }

    fn make(&self, stock: &mut Stock, header: SegmentHeader) -> Result<Ready> {
        let filled = self.fill(stock, &header)?;
        self.name(filled, header)
    }

    /// Gives a filled file its name, and makes that durable.
    fn name(&self, filled: Filled, header: SegmentHeader) -> Result<Ready> {
        let Filled { file, through, source } = filled;
        let path = self.path(&segment::name(header.generation));
        let io = |e| no_room("name a journal segment", &path, header.len, e);
        self.disk.rename(&source, &path).map_err(|e| {
            let _ = self.disk.remove_file(&source);
            io(e)
        })?;
        if !plants::is("journal-name-not-synced") {
            self.disk.sync_dir(&self.dir).map_err(io)?;
        }
        Ok(Ready { file, through, path, header, salt: header.salt() })
    }

    /// Takes a spare, or makes a new file, and writes what a segment begins with.
    fn fill(&self, stock: &mut Stock, header: &SegmentHeader) -> Result<Filled> {
        let spare = if header.len == self.config.segment_bytes { stock.spares.pop() } else { None };
        let source = match spare {
            Some(number) => self.path(&segment::spare_name(number)),
            None => self.path(&segment::temporary_name(header.generation)),
        };
        let written = self.write_head(&source, header, spare.is_none());
        *self.shortage.lock() = written.as_ref().err().cloned();
        match written.and_then(|file| Ok((file, self.open_through(&source, header)?))) {
            Ok((file, through)) => Ok(Filled { file, through, source }),
            Err(e) => {
                // Not to be used again: after a failed sync nobody knows what its bytes are.
                let _ = self.disk.remove_file(&source);
                Err(e)
            }
        }
    }

    /// Writes all of a new file, so that a full disk shows here, and a sync has no metadata to write later.
    fn write_head(&self, source: &Path, header: &SegmentHeader, new: bool) -> Result<Arc<dyn DiskFile>> {
        let io = |e| no_room("make a journal segment", source, header.len, e);
        if new {
            // To fill a disk to its last byte, and find that it was not enough, would take others' room for a moment.
            let space = self.disk.space(&self.dir).ok().flatten();
            if space.is_some_and(|space| space.free < header.len) {
                return Err(io(ErrorKind::StorageFull.into()));
            }
            match self.disk.remove_file(source) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
                _ => {}
            }
        }
        let mode = if new { OpenMode::CreateNew } else { OpenMode::Write };
        let file = self.disk.open(source, mode).map_err(io)?;
        let mut at = if new { 0 } else { file.len().map_err(io)? };
        while at < header.len {
            let count = usize::try_from(header.len - at).unwrap_or(usize::MAX).min(ZEROS.len());
            file.write_at(at, ZEROS.get(..count).unwrap_or(&ZEROS)).map_err(io)?;
            at += count as u64;
        }
        file.write_at(0, &head(header)).map_err(io)?;
        if !plants::is("journal-segment-named-before-it-is-durable") {
            file.sync_all().map_err(io)?;
        }
        Ok(file)
    }

    /// Opens a segment for writes past the system's cache, and tries one. Not every file system can, and some say so only
    /// then.
    fn open_through(&self, source: &Path, header: &SegmentHeader) -> Result<Option<Arc<dyn DiskFile>>> {
        let Ok(file) = self.disk.open(source, OpenMode::Through) else { return Ok(None) };
        let mut head = Chunk::new(0);
        head.room(BLOCK).extend_from_slice(&header.encode_page());
        let (at, bytes) = head.blocks();
        match file.write_at(at, bytes) {
            Ok(()) => Ok(Some(file)),
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(None),
            Err(e) => Err(Error::io("make a journal segment", source, e)),
        }
    }

    /// Frees a segment's file: renamed to a spare while `taken` and those in stock leave a place for it, else removed.
    /// The spare may be used only when its name is durable; see [`restock`](Self::restock).
    pub fn free(&self, generation: u64, len: u64, taken: usize) -> Result<Option<u64>> {
        let path = self.path(&segment::name(generation));
        let number = {
            let mut stock = self.stock();
            let wanted =
                len == self.config.segment_bytes && stock.spares.len() + taken < self.config.max_spares;
            let number = stock.next_spare;
            stock.next_spare = number.saturating_add(u64::from(wanted));
            wanted.then_some(number)
        };
        let Some(number) = number else { return self.remove(&path).map(|()| None) };
        let spare = self.path(&segment::spare_name(number));
        self.disk.rename(&path, &spare).map_err(|e| Error::io("free a journal segment", &path, e))?;
        Ok(Some(number))
    }

    /// Makes the changes of names durable, then takes new spares into stock. In the other order a power cut could
    /// give a file its old name back after it was written to as a new segment.
    pub fn restock(&self, spares: Vec<u64>) -> Result<()> {
        if !plants::is("journal-spare-used-under-its-old-name") {
            self.sync_names()?;
        }
        self.stock().spares.extend(spares);
        Ok(())
    }

    pub fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove_file(path).map_err(|e| Error::io("remove a file of the journal", path, e))
    }

    pub fn sync_names(&self) -> Result<()> {
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync the journal's directory", &self.dir, e))
    }

    /// What is there beside the segments in use; waits for no disk.
    pub fn held(&self) -> Held {
        *self.held.lock()
    }
}
