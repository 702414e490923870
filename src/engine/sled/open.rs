//! Opening, syncing and closing a shard's files.
//!
//! Invariants: `applied` is inside sled before the flush that makes it true, and nothing is said to be durable before
//! our own fsync of every file and directory (sled takes sync_file_range for durable, which it is not). A failed fsync
//! is final: what it did not write is gone from the page cache, and asking again would only hide that.

use super::accounts::Writer;
use super::core::Core;
use super::place::Place;
use crate::disk::power_loss;
use crate::engine::{EngineSpec, PowerLoss};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::page;
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Resident bytes for a byte of sled's cache_capacity, as a fraction. Measured with 3 million records in 131,000 pages:
/// 1.8, and some 50 MB for sled's own tables and buffers, which this leaves room for from about 100 MB on.
const CACHE_FACTOR: (u64, u64) = (5, 2);
/// sled wants a shard of its cache to hold something.
const MIN_CACHE_BYTES: u64 = 1 << 20;
/// How long sled may take to let go of its files.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
const STATE_KEY: &[u8] = b"state";
const STATE_VERSION: u8 = 1;

pub(super) fn open(spec: &EngineSpec) -> Result<Core> {
    let place = Place { dir: spec.dir.clone(), shard: spec.shard };
    if spec.create {
        fs::create_dir_all(&spec.dir)
            .map_err(|e| Error::io("create the directory", &spec.dir, e).on(spec.shard))?;
    } else if !spec.dir.join("db").exists() || !spec.dir.join("conf").exists() {
        return Err(place.corruption("expected the files of a shard, found none"));
    }
    // Before sled creates its files, which inherit the attribute.
    power_loss::mark_synchronous(&spec.dir);
    let opened = open_trees(&place, spec);
    if let Err(error) = &opened
        && error.kind() != ErrorKind::Locked
    {
        // sled's threads may hold the lock of a database that failed to open a little longer.
        let _ = wait_until_free(&spec.dir);
    }
    opened
}

fn open_trees(place: &Place, spec: &EngineSpec) -> Result<Core> {
    let config = sled::Config::new()
        .path(&spec.dir)
        .flush_every_ms(None)
        .use_compression(false)
        .cache_capacity((spec.cache_bytes / CACHE_FACTOR.0 * CACHE_FACTOR.1).max(MIN_CACHE_BYTES));
    let db = place.call("open the shard's files", || config.open())?;
    let tree = |name: &str| place.call("open the shard's files", || db.open_tree(name));
    let (pages, values, meta) = (tree("pages")?, tree("values")?, tree("meta")?);
    let core = Core {
        place: place.clone(),
        pages,
        values,
        meta,
        db,
        page_bytes: spec.page_bytes,
        // A leaf of sled's holds up to 17 pages and is written to a file of its own beyond 128 KiB.
        inline_limit: spec.page_bytes.min(6 << 10),
        writer: Mutex::new(Writer::new(spec.resume)),
        figures: Mutex::new(spec.resume),
        applied: AtomicU64::new(0),
        // Again, since it reads the attribute back on the files that exist now.
        power_loss: if power_loss::mark_synchronous(&spec.dir) {
            PowerLoss::SynchronousDirectory
        } else {
            PowerLoss::OneOwnerAtRest
        },
        failed: OnceLock::new(),
        unwritten: AtomicUsize::new(0),
        #[cfg(test)]
        writes_left: std::sync::atomic::AtomicI64::new(i64::MAX),
    };
    core.start(spec.create)?;
    Ok(core)
}

impl Core {
    /// Finds the state that the last sync left, or makes a new shard's.
    fn start(&self, create: bool) -> Result<()> {
        let state = self.place.call("read the shard's state", || self.meta.get(STATE_KEY))?;
        let first = self.place.call("read a page", || self.pages.get([]))?;
        match (state, first) {
            (Some(state), Some(_)) => {
                self.applied.store(self.decode_state(&state)?.0, Ordering::Release);
                Ok(())
            }
            (None, first) if create && (first.is_some() || self.is_empty()?) => {
                let mut writer = self.writer.lock();
                let mut empty = Vec::new();
                page::encode(&[], None, &[], &mut empty);
                // A creation that was cut short left at most the empty first page: nothing is applied before the sync.
                self.put(&mut writer, &[], &empty)?;
                *writer = Writer::new(Some(super::accounts::figures_of(&[], Some(&empty))));
                *self.figures.lock() = writer.figures;
                drop(writer);
                self.sync(Seq::ZERO)?;
                let parent = self.place.dir.parent().unwrap_or(Path::new("."));
                sync_one(parent).map_err(|e| self.fail(Error::io("sync", parent, e)))
            }
            (None, _) => Err(self.place.corruption("expected the shard's state, found none")),
            (_, None) => {
                Err(self.place.corruption("expected the shard's first page, found none: pages are lost"))
            }
        }
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(self.place.call("read a page", || self.pages.iter().next().transpose())?.is_none())
    }

    fn decode_state(&self, state: &[u8]) -> Result<Seq> {
        let bad = |what: &str| {
            self.place
                .corruption(format!("expected the shard's state, found {} bytes with {what}", state.len()))
        };
        let (body, crc) = state.split_last_chunk::<4>().ok_or_else(|| bad("no checksum"))?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return Err(bad("a wrong checksum"));
        }
        match body {
            [STATE_VERSION, applied @ ..] => {
                let applied = applied.try_into().map_err(|_| bad("a wrong length"))?;
                Ok(Seq(u64::from_le_bytes(applied)))
            }
            _ => Err(self.place.locate(
                Error::new(
                    ErrorKind::Unsupported,
                    "the shard's state has a format that this release does not read",
                )
                .remedy("use the release that wrote it, or a newer one"),
            )),
        }
    }

    /// Makes all writes so far durable, and `applied` with them.
    pub fn sync(&self, applied: Seq) -> Result<()> {
        self.check()?;
        let _writer = self.writer.lock();
        let mut state = vec![STATE_VERSION];
        state.extend_from_slice(&applied.0.to_le_bytes());
        state.extend_from_slice(&crc32fast::hash(&state).to_le_bytes());
        self.write("write the shard's state", || self.meta.insert(STATE_KEY, state))?;
        self.write("flush the shard", || self.db.flush())?;
        sync_tree(&self.place.dir)
            .map_err(|(path, error)| self.fail(Error::io("sync", path, error).on(self.place.shard)))?;
        self.applied.store(applied.0, Ordering::Release);
        Ok(())
    }

    pub fn disk_bytes(&self) -> Result<u64> {
        self.check()?;
        let mut total = 0;
        walk(&self.place.dir, &mut |path| {
            let found = fs::symlink_metadata(path)?;
            total += if found.is_file() { found.len() } else { 0 };
            Ok(())
        })
        .map_err(|(path, error)| Error::io("read the size of", path, error).on(self.place.shard))?;
        Ok(total)
    }
}

/// Gives up the files of an engine that nobody uses any more; returns when they are free.
pub(super) fn close(core: std::sync::Arc<Core>) -> Result<()> {
    let place = core.place.clone();
    let deadline = Instant::now() + RELEASE_WAIT;
    let mut core = Some(core);
    while let Some(shared) = core.take() {
        match std::sync::Arc::try_unwrap(shared) {
            Ok(core) => {
                let dropped = catch_unwind(AssertUnwindSafe(move || drop(core)));
                if dropped.is_err() {
                    log::warn!("sled panicked while shard {} was being closed", place.shard);
                }
            }
            Err(shared) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
                core = Some(shared);
            }
            Err(_) => return Err(still_held(&place)),
        }
    }
    if wait_until_free(&place.dir) { Ok(()) } else { Err(still_held(&place)) }
}

fn still_held(place: &Place) -> Error {
    place.locate(
        Error::new(ErrorKind::Locked, format!("the shard's files are still in use after {RELEASE_WAIT:?}"))
            .remedy("drop all cursors, then open the store again"),
    )
}

/// Waits until sled's lock on its file is gone: it outlives the last handle by as long as a background task runs.
fn wait_until_free(dir: &Path) -> bool {
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match is_free(&dir.join("db")) {
            Ok(false) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(false) => return false,
            // A file that is gone or cannot be opened holds nobody up; who opens it next will say so.
            Ok(true) | Err(_) => return true,
        }
    }
}

#[cfg(unix)]
pub(super) fn is_free(path: &Path) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    match flock(File::open(path)?, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(unix))]
pub(super) fn is_free(path: &Path) -> io::Result<bool> {
    match File::open(path)?.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

type At<T> = std::result::Result<T, (PathBuf, io::Error)>;

/// Calls `f` for everything in `dir` and then for `dir`. What disappears meanwhile is skipped: sled removes its old
/// snapshots in the background.
fn walk(dir: &Path, f: &mut impl FnMut(&Path) -> io::Result<()>) -> At<()> {
    let at = |path: &Path, error: io::Error| (path.to_path_buf(), error);
    for entry in fs::read_dir(dir).map_err(|error| at(dir, error))? {
        let entry = entry.map_err(|error| at(dir, error))?;
        let path = entry.path();
        let done = match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, f),
            Ok(_) => f(&path).map_err(|error| at(&path, error)),
            Err(error) => Err(at(&path, error)),
        };
        match done {
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    f(dir).map_err(|error| at(dir, error))
}

fn sync_tree(dir: &Path) -> At<()> {
    walk(dir, &mut sync_one)
}

fn sync_one(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        // A directory cannot be opened there, and a file must be writable to be flushed.
        return if path.is_dir() { Ok(()) } else { File::options().write(true).open(path)?.sync_all() };
    }
    File::open(path)?.sync_all()
}
