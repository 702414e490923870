//! Several copies of the journal, in directories that best lie on disks of their own.
//!
//! [`Mirrors`] is a disk below the journal that does everything in each of the copies' directories; the journal knows
//! nothing of it. Rooms: `words` (which copies are complete, durably), `file` (an open file of all copies), `copy` (making
//! one copy like another), `vacant` (where one may be made), `whole` and `gaps` (damage, and losses, that are not to be spread so), `align` (comparing two that are both believed), `leave` (leaving copies out, durably), `locks` (whose they are while they are open), `open` (which copies to believe, and mending them), `choose` (which of them serves), `shown` (what one shows that cannot be read), `suspect` (what may be in memory alone), `accepted` (one that is not complete), `afresh` (where all are lost), `rebuild`,
//! `spared` and `spot` (while the store serves: all of a copy, what it alone has of old segments, and a frame of it).
//!
//! Invariants:
//! - An operation has succeeded when every copy that counts has done it. A copy that failed where another did not counts no more,
//!   and word of that is durable before the operation returns: nothing is acknowledged while a copy that lacks it
//!   could be taken for a complete one.
//! - Where every copy that counts fails, none is dropped: it is the journal's failure, as with a single directory. There is
//!   no word that names no copy.
//! - A copy is complete again only when all of it has been copied and synced, and nothing was written meanwhile.
//! - A copy whose disk does not answer while another one's has is one that failed. Where none answers the journal waits, as with a single
//!   directory.
//!
//! Lock order: the journal's own locks, `gate`, `handles`, a handle's files, `given`. No operation of a disk is called by one that
//! holds the gate already.

mod accepted;
mod afresh;
mod align;
mod choose;
mod claims;
mod copy;
mod file;
mod gaps;
mod leave;
mod locks;
mod open;
mod rebuild;
mod shown;
mod spared;
mod spot;
mod suspect;
mod vacant;
mod whole;
mod words;

pub use locks::Locks;
pub use open::{Found, Place};
pub use spared::Older;

use crate::disk::{Disk, DiskFile, FreeSpace, Hands, Limited, OpenMode, together};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Mutex, RwLock};
use file::{Handle, MirrorFile};
use leave::left_behind;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use words::Given;

/// One copy's directory.
#[derive(Debug)]
struct Mirror {
    id: u32,
    dir: PathBuf,
    /// How many file systems begin on the way there while its disk is mounted.
    mounts: u32,
    /// It is complete, and gets whatever is done.
    good: AtomicBool,
    /// Why it is not.
    cause: Mutex<Option<Error>>,
    rebuilding: AtomicBool,
    /// In how many places it was mended since it is complete.
    mended: AtomicU32,
    /// Ask its disk; none where everything is to happen in the caller's thread.
    hands: Option<Arc<Hands>>,
}

/// How a copy of the journal is.
#[derive(Debug, Clone)]
pub struct CopyState {
    pub dir: PathBuf,
    pub good: bool,
    pub rebuilding: bool,
    pub cause: Option<Error>,
}

/// A disk that keeps every file of the journal's directory several times. Paths are those of the first copy.
#[derive(Debug)]
pub struct Mirrors {
    me: Weak<Mirrors>,
    /// [`limited`](Self::limited), if there is one.
    disk: Arc<dyn Disk>,
    /// Of which the hands are.
    limited: Option<Arc<Limited>>,
    /// The store's directory.
    home: PathBuf,
    store: u128,
    copies: Vec<Mirror>,
    /// Held, shared, over every operation, and alone where nothing may happen between two looks.
    gate: RwLock<()>,
    given: Mutex<Given>,
    locks: Arc<Locks>,
    /// A copy may have word that it is complete, and is not: nothing may be acknowledged any more.
    broken: OnceLock<Error>,
    /// Files that are open for writing.
    handles: Mutex<Vec<Weak<Handle>>>,
    /// While a copy is made: the files that have changed since it was begun.
    touched: Mutex<Option<BTreeSet<PathBuf>>>,
    rebuild: Mutex<()>,
    /// No copy is made any more.
    stop: AtomicBool,
    listener: OnceLock<Listener>,
}

/// Who is told when a copy counts no more, or counts again.
struct Listener(Box<dyn Fn(String) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Mirrors {
    /// `places`: the copies, and why those that are not complete are not. At least one.
    fn new(
        disk: Arc<dyn Disk>,
        home: &Path,
        store: u128,
        places: Vec<(Place, Option<Error>)>,
        given: Given,
        limited: Option<Arc<Limited>>,
        locks: Arc<Locks>,
    ) -> Arc<Mirrors> {
        let copies = places.into_iter().map(|(Place { id, dir, mounts, .. }, cause)| Mirror {
            id,
            mounts,
            good: AtomicBool::new(cause.is_none()),
            cause: Mutex::new(cause),
            rebuilding: AtomicBool::new(false),
            mended: AtomicU32::new(0),
            hands: limited.as_ref().map(|limited| limited.watch(&dir)),
            dir,
        });
        let copies = copies.collect();
        Arc::new_cyclic(|me| Mirrors {
            me: me.clone(),
            disk,
            limited,
            home: home.to_path_buf(),
            store,
            copies,
            gate: RwLock::new(()),
            given: Mutex::new(given),
            locks,
            broken: OnceLock::new(),
            handles: Mutex::new(Vec::new()),
            touched: Mutex::new(None),
            rebuild: Mutex::new(()),
            stop: AtomicBool::new(false),
            listener: OnceLock::new(),
        })
    }

    /// Has `listener` told of each copy that does not count now, and from here on whenever one counts no more or counts again. Called under
    /// locks: it waits for nothing.
    pub fn listen(&self, listener: impl Fn(String) + Send + Sync + 'static) {
        for copy in self.copies.iter().filter(|copy| !copy.good.load(Ordering::Acquire)) {
            if let Some(cause) = &*copy.cause.lock() {
                listener(left_behind(&copy.dir, cause));
            }
        }
        let _ = self.listener.set(Listener(Box::new(listener)));
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if let Some(Listener(listener)) = self.listener.get() {
            listener(text());
        }
    }

    /// The directory by which the journal calls all of them.
    pub fn dir(&self) -> &Path {
        self.dir_of(0)
    }

    /// How the copies are.
    pub fn copies(&self) -> Vec<CopyState> {
        let state = |copy: &Mirror| CopyState {
            dir: copy.dir.clone(),
            good: copy.good.load(Ordering::Acquire),
            rebuilding: copy.rebuilding.load(Ordering::Relaxed),
            cause: copy.cause.lock().clone(),
        };
        self.copies.iter().map(state).collect()
    }

    fn check(&self) -> Result<()> {
        self.broken.get().map_or_else(|| self.locks.check(), |cause| Err(cause.clone()))
    }

    /// The indexes of the copies that count.
    fn good(&self) -> impl Iterator<Item = usize> + '_ {
        self.copies.iter().enumerate().filter(|(_, c)| c.good.load(Ordering::Acquire)).map(|(index, _)| index)
    }

    /// Does `work` in every copy that counts.
    fn each(
        &self,
        path: &Path,
        work: impl Fn(&dyn Disk, &Path) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<()> {
        let _gate = self.gate.read();
        self.touch(path);
        let work = |index| {
            let (path, work) = (self.place(index, path), work.clone());
            move |disk: &dyn Disk| work(disk, &path)
        };
        let outcomes = self.in_good(work);
        self.judge(path, outcomes)
    }

    /// Does in every copy that counts what `work` makes for it; side by side where there are several, and threads for them. With a single one
    /// there is nothing to gain by not waiting for it.
    fn in_good<T: Send + 'static, W: FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static>(
        &self,
        work: impl Fn(usize) -> W,
    ) -> Vec<(usize, io::Result<T>)> {
        self.in_copies(&self.good().collect::<Vec<_>>(), work)
    }

    fn in_copies<T: Send + 'static, W: FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static>(
        &self,
        those: &[usize],
        work: impl Fn(usize) -> W,
    ) -> Vec<(usize, io::Result<T>)> {
        match &self.limited {
            Some(limited) if those.len() > 1 => {
                let hands = those.iter().filter_map(|index| self.copies.get(*index)?.hands.as_deref());
                let work = |index: &usize| {
                    let (disk, work) = (limited.below().clone(), work(*index));
                    move || work(disk.as_ref())
                };
                let works: Vec<_> = hands.zip(those.iter().map(work)).collect();
                those.iter().copied().zip(together(works, limited.limit())).collect()
            }
            _ => those.iter().map(|index| (*index, work(*index)(self.below()))).collect(),
        }
    }

    /// Whether the disk of a copy that counts is slow.
    fn is_slow(&self) -> bool {
        let hands = |index: usize| self.copies.get(index)?.hands.as_ref();
        self.good().filter_map(hands).any(|hands| hands.is_slow())
    }

    /// The disk without a limit.
    fn below(&self) -> &dyn Disk {
        self.limited.as_ref().map_or(&self.disk, |limited| limited.below()).as_ref()
    }

    /// The disk to read a copy with: with a limit if there is another copy to be read in its place.
    fn to_read(&self, index: usize) -> &dyn Disk {
        if self.good().all(|good| good == index) { self.below() } else { self.disk.as_ref() }
    }

    /// What still goes on in a copy's directory, or the store's, though it was given up: none of their locks is given back meanwhile.
    pub fn silent(&self) -> Option<Error> {
        let limited = self.limited.as_ref()?;
        let dirs = self.copies.iter().map(|copy| &copy.dir).chain([&self.home]);
        let dir = dirs.into_iter().find(|dir| limited.is_silent(dir))?;
        let text = "the disk of a copy of the journal does not answer";
        Some(
            Error::new(ErrorKind::Unavailable, text)
                .at(dir)
                .remedy("look at it and the kernel log; without it the store opens in this process meanwhile if other copies are complete"),
        )
    }

    fn dir_of(&self, index: usize) -> &Path {
        self.copies.get(index).map_or(&self.home, |copy| &copy.dir)
    }

    /// Where a path of the journal's lies in a copy.
    fn place(&self, index: usize, path: &Path) -> PathBuf {
        let Some(copy) = self.copies.get(index) else { return path.to_path_buf() };
        match path.strip_prefix(self.dir()) {
            Ok(rest) if rest.as_os_str().is_empty() => copy.dir.clone(),
            Ok(rest) => copy.dir.join(rest),
            // Creating a journal syncs the directory that holds it.
            Err(_) if Some(path) == self.dir().parent() => copy.dir.parent().unwrap_or(path).to_path_buf(),
            Err(_) => path.to_path_buf(),
        }
    }

    /// Notes that a file changes. Before it does: whoever makes a copy looks only while nothing is going on.
    fn touch(&self, path: &Path) {
        if let Some(touched) = self.touched.lock().as_mut() {
            touched.insert(path.to_path_buf());
        }
    }

    /// What an operation has come to, from what it came to in each copy: those that failed alone count no more.
    fn judge<T>(&self, path: &Path, outcomes: Vec<(usize, io::Result<T>)>) -> io::Result<T> {
        let (mut done, mut failed) = (None, Vec::new());
        for (index, outcome) in outcomes {
            match outcome {
                Ok(value) => done = done.or(Some(value)),
                Err(e) => failed.push((index, e)),
            }
        }
        if let Some(value) = done {
            if failed.is_empty() {
                return Ok(value);
            }
            let full = failed.iter().map(|(_, e)| e.kind()).find(|kind| is_full(*kind));
            let causes = failed.into_iter().map(|(index, e)| {
                (index, Error::io("keep a copy of the journal", self.place(index, path), e))
            });
            // Without word of it the operation has failed: what it was for is not acknowledged.
            let dropped = self.drop_copies(causes.collect());
            return dropped
                .map(|()| value)
                .map_err(|e| io::Error::new(full.unwrap_or(io::ErrorKind::Other), e));
        }
        let error = failed.into_iter().next().map(|(_, e)| e);
        Err(error.unwrap_or_else(|| io::Error::other("no copy of the journal is left")))
    }

    /// The first answer that any copy gives. Who is asked last is waited for.
    fn first<T>(&self, path: &Path, work: impl Fn(&dyn Disk, &Path) -> io::Result<T>) -> io::Result<T> {
        let _gate = self.gate.read();
        let mut outcome = Err(io::Error::other("no copy of the journal is left"));
        let good: Vec<usize> = self.good().collect();
        for index in &good {
            let disk = if Some(index) == good.last() { self.below() } else { self.disk.as_ref() };
            outcome = work(disk, &self.place(*index, path));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Disk for Mirrors {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.each(dir, |disk, dir| disk.create_dir_all(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.first(dir, |disk, dir| disk.list(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.first(path, |disk, path| disk.exists(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.first(path, |disk, path| disk.canonicalize(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        match mode {
            OpenMode::Read => self.first(path, |disk, path| disk.open(path, mode)),
            // A write past the cache would wait for one copy after the other; syncs run side by side.
            OpenMode::Through => Err(io::ErrorKind::Unsupported.into()),
            OpenMode::Write | OpenMode::CreateNew => {
                let _gate = self.gate.read();
                self.touch(path);
                // One copy may have it from before: it says what it says by being there.
                let is_note = path.ends_with(crate::journal::segment::POISONED);
                let opened = self.in_good(|index| {
                    let path = self.place(index, path);
                    move |disk: &dyn Disk| match disk.open(&path, mode) {
                        Err(e) if is_note && e.kind() == io::ErrorKind::AlreadyExists => {
                            disk.open(&path, OpenMode::Write)
                        }
                        opened => opened,
                    }
                });
                let mut files: Vec<Option<Arc<dyn DiskFile>>> = vec![None; self.copies.len()];
                let mut outcomes = Vec::new();
                for (index, outcome) in opened {
                    let slot = files.get_mut(index);
                    outcomes.push((index, outcome.map(|file| slot.map_or((), |slot| *slot = Some(file)))));
                }
                self.judge(path, outcomes)?;
                MirrorFile::open(self, path, files)
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _gate = self.gate.read();
        self.touch(to);
        let outcomes = self.in_good(|index| {
            let (from, to) = (self.place(index, from), self.place(index, to));
            move |disk: &dyn Disk| disk.rename(&from, &to)
        });
        self.judge(to, outcomes)?;
        for handle in self.handles.lock().iter().filter_map(Weak::upgrade) {
            handle.renamed(from, to);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _gate = self.gate.read();
        let removals = self.in_good(|index| {
            let path = self.place(index, path);
            move |disk: &dyn Disk| disk.remove_file(&path)
        });
        let removed = removals.iter().any(|(_, outcome)| outcome.is_ok());
        // Gone is gone: that is an answer, and no reason to refuse when another copy gives none.
        let answer = |outcome: io::Result<()>| match outcome {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        let outcomes = removals.into_iter().map(|(index, outcome)| (index, answer(outcome))).collect();
        self.judge(path, outcomes)?;
        if removed { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.each(dir, |disk, dir| disk.remove_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.each(dir, |disk, dir| disk.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }

    fn copies(&self) -> Vec<usize> {
        self.good().collect()
    }

    fn open_copy(&self, path: &Path, copy: usize) -> io::Result<Arc<dyn DiskFile>> {
        let _gate = self.gate.read();
        self.to_read(copy).open(&self.place(copy, path), OpenMode::Read)
    }

    fn mend_copy(&self, path: &Path, copy: usize, from: usize, offset: u64, bytes: &[u8]) -> bool {
        self.mend_spot(path, copy, from, offset, bytes)
    }

    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }

    /// The most that any copy has: the others are left out when they are full.
    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        let spaces: Vec<_> = self.good().map(|index| self.disk.space(&self.place(index, path))).collect();
        let known = spaces.iter().filter_map(|space| space.as_ref().ok().copied().flatten());
        match known.max_by_key(|space| space.free) {
            Some(most) => Ok(Some(most)),
            None => spaces.into_iter().find(Result::is_err).unwrap_or(Ok(None)),
        }
    }
}
