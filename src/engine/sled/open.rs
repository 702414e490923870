//! Opening and closing a shard's files.

use super::cache::PageCache;
use super::calls::{OPENING, PATIENCE};
use super::commit::STATE_KEY;
use super::core::Core;
use super::patient::Readers;
use super::place::Place;
use super::pool::Pool;
use super::rest::Rest;
use super::root::Root;
use super::writer::Writer;
use crate::disk::{Disk, DiskFile, OpenMode, RealDisk, power_loss};
use crate::engine::{EngineSpec, PowerLoss};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// sled holds the index alone, of which the engine keeps what it needs itself.
const SLED_CACHE_BYTES: u64 = 1 << 20;
/// The share of the memory at opening that nodes of the index may take.
const NODE_SHARE: u64 = 4;
/// Their share of the least memory that the shard is told it will have. Pages have the other half even then.
pub(super) const NODES_OF_LEAST: u64 = 2;
/// How long sled may take to let go of its files.
pub(super) const RELEASE_WAIT: Duration = Duration::from_secs(10);

pub(super) fn open(spec: &EngineSpec, rest: &Arc<Rest>) -> Result<Core> {
    let place = Place { dir: spec.dir.clone(), shard: spec.shard, panicked: Arc::default() };
    let index_dir = place.index_dir();
    if spec.create {
        fs::create_dir_all(&index_dir)
            .map_err(|e| Error::io("create the directory", &index_dir, e).on(spec.shard))?;
    } else if !index_dir.join("db").exists()
        || !index_dir.join("conf").exists()
        || !place.page_file().exists()
    {
        return Err(place.corruption("expected the files of a shard, found none"));
    }
    // Before sled creates its files, which inherit the attribute.
    let ordered = power_loss::mark_synchronous(&index_dir);
    // sled mends the end of its log while it opens after a crash, and the commit that makes it durable follows. A shard that is
    // being made has nothing to lose yet.
    let alone = (!ordered && !spec.create && spec.resume.is_none()).then(|| rest.begin());
    let opened = open_files(&place, spec, rest);
    drop(alone);
    if let Err(error) = &opened
        && error.kind() != ErrorKind::Locked
    {
        // sled's threads may hold the lock of a database that failed to open a little longer.
        let _ = wait_until_free(&index_dir);
    }
    opened
}

/// Removes snapshots of sled's own that a crash cut short while it wrote them. sled 0.34 takes one of those for its newest and then
/// refuses to open, though the one before is there and the log goes on from it.
fn sweep_snapshots(index_dir: &Path) -> io::Result<()> {
    let unfinished = |name: &str| name.starts_with("snap.") && name.ends_with(".generating");
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(index_dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(unfinished) {
            names.push(entry.path());
        }
    }
    // Whoever has the database open may be writing one now.
    if names.is_empty()
        || crate::plants::is("unfinished-snapshots-left")
        || matches!(is_free(&index_dir.join("db")), Ok(false))
    {
        return Ok(());
    }
    names.iter().try_for_each(fs::remove_file)
}

fn open_files(place: &Place, spec: &EngineSpec, rest: &Arc<Rest>) -> Result<Core> {
    let index_dir = place.index_dir();
    sweep_snapshots(&index_dir)
        .map_err(|e| Error::io("remove unfinished snapshots from", &index_dir, e).on(place.shard))?;
    let config = sled::Config::new()
        .path(&index_dir)
        .flush_every_ms(None)
        .use_compression(false)
        .cache_capacity(SLED_CACHE_BYTES);
    let at = place.clone();
    let (db, index, meta) = place.bounded("open the shard's files", OPENING, move || {
        let db = at.call("open the shard's files", || config.open())?;
        let tree = |name: &str| at.call("open the shard's files", || db.open_tree(name));
        let (index, meta) = (tree("index")?, tree("meta")?);
        Ok((db, index, meta))
    })?;
    let path = place.page_file();
    let file = open_page_file(&path, spec.create).map_err(|e| Error::io("open", &path, e).on(spec.shard))?;
    let pool = Arc::new(Pool::default());
    let mut core = Core {
        place: place.clone(),
        index,
        meta,
        db,
        file,
        path,
        root: Root::new(Vec::new(), 0),
        cache: PageCache::new(spec.cache_bytes, Arc::clone(&pool)),
        hasher: foldhash::fast::RandomState::default(),
        pool,
        cache_bytes: AtomicU64::new(spec.cache_bytes),
        page_bytes: spec.page_bytes,
        writer: Mutex::new(Writer::default()),
        figures: Mutex::new(None),
        applied: AtomicU64::new(0),
        // Again, since it reads the attribute back on the files that exist now.
        power_loss: if power_loss::mark_synchronous(&index_dir) {
            PowerLoss::SynchronousDirectory
        } else {
            PowerLoss::OneOwnerAtRest
        },
        rest: None,
        live_bytes: AtomicU64::new(0),
        failed: OnceLock::new(),
        patience: PATIENCE,
        readers: Readers::new(spec.patience),
        #[cfg(test)]
        stops: Arc::default(),
    };
    core.start(spec)?;
    // Only now: what is committed while it opens has its place already.
    core.rest = (core.power_loss == PowerLoss::OneOwnerAtRest).then(|| rest.clone());
    Ok(core)
}

fn open_page_file(path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
    match RealDisk.open(path, OpenMode::Write) {
        Err(e) if create && e.kind() == io::ErrorKind::NotFound => RealDisk.open(path, OpenMode::CreateNew),
        opened => opened,
    }
}

impl Core {
    /// Finds the state that the last sync left, or makes a new shard's.
    fn start(&mut self, spec: &EngineSpec) -> Result<()> {
        let limit = spec.cache_bytes / NODE_SHARE;
        let state = self.place.call("read the shard's state", || self.meta.get(STATE_KEY))?;
        match state {
            Some(state) => {
                let (applied, next_page) = self.decode_state(&state)?;
                self.applied.store(applied.0, Ordering::Release);
                if !crate::plants::is("intent-not-finished") {
                    self.finish_intent()?;
                }
                let mut loaded = self.read_index(limit)?;
                loaded.writer.next_page = loaded.writer.next_page.max(next_page);
                if let Some(sealed) = spec.resume
                    && sealed != loaded.writer.figures
                    && !crate::plants::is("figures-not-compared")
                {
                    let found = loaded.writer.figures;
                    return Err(self.place.corruption(format!(
                        "expected {} pages with {} records and set hash {:032x}, found {} with {} and {:032x}: the index is not the one that was sealed",
                        sealed.pages, sealed.records, sealed.set_hash, found.pages, found.records, found.set_hash
                    )));
                }
                loaded.writer.counted = spec.resume.is_some();
                self.root = loaded.root;
                if spec.resume.is_none() {
                    self.settle(&mut loaded.writer)?;
                }
                *self.figures.lock() = loaded.writer.known();
                self.writer = Mutex::new(loaded.writer);
                self.balance();
                Ok(())
            }
            // A creation that was cut short left no state, whatever else it left: nothing is applied before the sync.
            None if spec.create => self.make(limit),
            None => Err(self.place.corruption("expected the shard's state, found none")),
        }
    }

    /// Makes a new shard: one empty page that holds every key.
    fn make(&mut self, limit: u64) -> Result<()> {
        self.place.call("clear the index", || self.index.clear())?;
        self.root = Root::new(Vec::new(), limit);
        let mut writer = Writer::default();
        writer.counted = true;
        self.first_page(&mut writer)?;
        self.commit(&mut writer, Some(Seq::ZERO))?;
        *self.figures.lock() = writer.known();
        self.writer = Mutex::new(writer);
        for dir in [Some(self.place.dir.as_path()), self.place.dir.parent()].into_iter().flatten() {
            sync_one(dir).map_err(|e| self.fail(Error::io("sync", dir, e)))?;
        }
        Ok(())
    }
}

/// The lengths of all files of an engine together.
pub(super) fn disk_bytes(place: &Place) -> Result<u64> {
    let mut total = 0;
    walk(&place.dir, &mut |path| {
        let found = fs::symlink_metadata(path)?;
        total += if found.is_file() { found.len() } else { 0 };
        Ok(())
    })
    .map_err(|(path, error)| Error::io("read the size of", path, error).on(place.shard))?;
    Ok(total)
}

/// Gives up the files of an engine that nobody uses any more; returns when they are free.
pub(super) fn close(core: Arc<Core>) -> Result<()> {
    let (place, patience) = (core.place.clone(), core.patience);
    let deadline = Instant::now() + RELEASE_WAIT;
    let mut core = Some(core);
    while let Some(shared) = core.take() {
        match Arc::try_unwrap(shared) {
            Ok(core) => {
                // sled flushes when it is dropped, so this may wait for its threads.
                let drop_it = move || {
                    drop(core);
                    Ok(())
                };
                if let Err(error) = place.bounded("close the index", patience, drop_it) {
                    log::warn!("shard {} was not closed in order: {error}", place.shard);
                    // What it held up may be free nevertheless, if it panicked.
                    if error.kind() != ErrorKind::Corruption {
                        return Err(error);
                    }
                }
            }
            Err(shared) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
                core = Some(shared);
            }
            Err(_) => return Err(still_held(place.shard, &place.dir)),
        }
    }
    if wait_until_free(&place.index_dir()) { Ok(()) } else { Err(still_held(place.shard, &place.dir)) }
}

pub(super) fn still_held(shard: ShardId, dir: &Path) -> Error {
    Error::new(ErrorKind::Locked, format!("the shard's files are still in use after {RELEASE_WAIT:?}"))
        .remedy("drop all cursors, then open the store again")
        .at(dir)
        .on(shard)
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
    let file = File::open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Closing it would not do, while a process that is just being started has a copy of it.
        Ok(()) => flock(&file, FlockOperation::Unlock).map(|()| true).map_err(io::Error::from),
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

pub(super) fn sync_tree(dir: &Path) -> At<()> {
    walk(dir, &mut sync_one)
}

fn sync_one(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        // A directory cannot be opened there, and a file must be writable to be flushed.
        return if path.is_dir() { Ok(()) } else { File::options().write(true).open(path)?.sync_all() };
    }
    File::open(path)?.sync_all()
}
