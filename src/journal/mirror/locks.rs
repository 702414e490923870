//! The locks of the copies' directories: a store's own lock does not keep a copy of the store from the same journal.
//!
//! Invariants:
//! - Nothing in a copy's directory is changed, nor its word believed, before its lock is held, unless it cannot be had for another reason
//!   than that somebody has it, or that its disk does not answer. That is the lock of what lies there by then: one of the directory that a disk was
//!   mounted over since is none.
//! - A lock that a closed opening has left, since its disk does not answer, counts as a disk that does not answer: who has it does nothing there
//!   any more but wait, so nobody has that copy open. It is known of the openings of this process alone; any other lock is somebody's.

use crate::disk::{Disk, Limited};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// The name of the file in each of the directories.
pub const FILE: &str = "LOCK";

/// Each with the file system that its directory lay on, where that is known.
type Held = BTreeMap<PathBuf, (Option<u64>, Box<dyn Send + Sync>)>;

/// The directories of which closed openings have left the locks, with whose journal lies there.
static LEFT: std::sync::Mutex<Vec<(u128, PathBuf)>> = std::sync::Mutex::new(Vec::new());

/// Makes it known that a lock was left, until this is dropped, which is before the lock is given back.
struct Left(u128, PathBuf);

impl Left {
    fn new(store: u128, dir: &Path) -> Left {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push((store, dir.to_path_buf()));
        Left(store, dir.to_path_buf())
    }

    fn is(store: u128, dir: &Path) -> bool {
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.iter().any(|(of, at)| *of == store && at == dir)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let this = left.iter().position(|(of, at)| *of == self.0 && *at == self.1);
        this.map(|at| left.swap_remove(at));
    }
}

/// Held until they are released, or this is dropped.
#[derive(Default)]
pub struct Locks {
    store: u128,
    held: Mutex<Held>,
    /// Those whose disks did not answer; with an error: not to a closed opening, which has left the lock.
    silent: Mutex<BTreeMap<PathBuf, Option<Error>>>,
    /// Beside them, since whoever takes one may hold them for as long as a disk hangs.
    released: AtomicBool,
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.lock();
        f.debug_tuple("Locks").field(&held.keys().collect::<Vec<_>>()).field(&self.released).finish()
    }
}

impl Locks {
    /// None yet; `store` is whose journal lies in the directories.
    pub fn new(store: u128) -> Locks {
        Locks { store, ..Locks::default() }
    }

    /// Takes the lock of a directory. One that cannot be reached is no reason to refuse: what can be had of it shows when it
    /// is read.
    ///
    /// # Errors
    /// `Locked`: another opening has it. `Closed`: all locks were released. `Io`: the disk does not answer, which it may do by the time that
    /// something is changed there. `Unavailable`: nor does it to an opening of this process that was closed, which has the lock.
    pub fn take(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        self.ask(disk, dir)?.map_or(Ok(()), Err)
    }

    /// As [`take`](Self::take); one whose disk does not answer is to be taken before anything is read or changed there.
    ///
    /// # Errors
    /// `Locked`, `Closed`.
    pub fn take_early(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        if let Some(e) = self.ask(disk, dir)? {
            log::debug!("the journal's directory {} is not locked yet: {e}", dir.display());
        }
        Ok(())
    }

    /// Takes one whose disk did not answer when that was tried first.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_late(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let silent = self.silent.lock().contains_key(dir);
        if silent { self.take(disk, dir) } else { Ok(()) }
    }

    /// Takes that of what lies in a directory by now, if it is not held: there was no such directory before, or a disk was mounted over the one
    /// whose lock was taken.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_there(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        // Not given back for want of an answer: that may be what hangs.
        let now = device(disk, dir).map_err(|e| Error::io("look which disk is mounted", dir, e))?;
        let other = self.held.lock().get(dir).is_some_and(|(then, _)| *then != now);
        if other {
            self.let_go(dir);
        }
        self.take(disk, dir)
    }

    /// Why no copy can be had, if a closed opening has left the lock of one when it was asked for last.
    pub fn left(&self) -> Option<Error> {
        self.silent.lock().values().flatten().next().cloned()
    }

    /// Whether the lock of a directory, which cannot be had, is one that a closed opening of this process has left.
    fn is_left(&self, disk: &dyn Disk, dir: &Path) -> bool {
        // What the file says shows that another directory lies there by now; where it cannot be read it says nothing.
        let holder = || disk.holder(&dir.join(FILE)).is_none_or(|process| process == std::process::id());
        Left::is(self.store, dir) && holder()
    }

    /// Takes it; returns why it is not known whether somebody has it, or that nobody has who has the store open.
    fn ask(&self, disk: &dyn Disk, dir: &Path) -> Result<Option<Error>> {
        let mut held = self.held.lock();
        self.check().map_err(|e| e.at(dir))?;
        if held.contains_key(dir) {
            return Ok(None);
        }
        let path = dir.join(FILE);
        // Before the lock: what is mounted between them must not pass for what was locked.
        let device = device(disk, dir).ok().flatten();
        match disk.lock(&path) {
            Ok(lock) => {
                held.insert(dir.to_path_buf(), (device, lock));
                self.silent.lock().remove(dir);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.is_left(disk, dir) => {
                self.silent.lock().insert(dir.to_path_buf(), Some(left(ErrorKind::Locked, dir)));
                return Ok(Some(left(ErrorKind::Unavailable, dir)));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(taken(dir, disk.holder(&path))),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                // Looking whose it is may have been the first thing that was not answered.
                self.silent.lock().entry(dir.to_path_buf()).or_default();
                return Ok(Some(Error::io("lock the journal's directory", dir, e)));
            }
            Err(e) => log::debug!("the journal's directory {} is not locked: {e}", dir.display()),
        }
        Ok(None)
    }

    /// Whether it is held.
    pub fn holds(&self, dir: &Path) -> bool {
        self.held.lock().contains_key(dir)
    }

    /// Gives one of them back.
    pub fn let_go(&self, dir: &Path) {
        let held = self.held.lock().remove(dir);
        drop(held);
    }

    /// As [`release`](Self::release), at the end of an opening that waits for the disks no longer than `limited` says.
    pub fn leave(&self, limited: &Limited) {
        let dirs: Vec<PathBuf> = self.held.lock().keys().cloned().collect();
        // Before the locks, so that it goes before them.
        dirs.iter().for_each(|dir| limited.leave(dir, Box::new(Left::new(self.store, dir))));
        self.release();
    }

    /// Gives all of them back; none is taken any more.
    pub fn release(&self) {
        self.released.store(true, Ordering::Release);
        let held = std::mem::take(&mut *self.held.lock());
        drop(held);
    }

    /// Whether the directories are still this opening's.
    ///
    /// # Errors
    /// `Closed`: all locks were released; what is there may be the next opening's.
    pub fn check(&self) -> Result<()> {
        match self.released.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                let text = "the store has been closed, and its journal may be that of another opening";
                Err(Error::new(ErrorKind::Closed, text).remedy("open the store again"))
            }
        }
    }
}

fn device(disk: &dyn Disk, dir: &Path) -> io::Result<Option<u64>> {
    disk.space(dir).map(|space| space.map(|space| space.device))
}

fn left(kind: ErrorKind, dir: &Path) -> Error {
    let text = "a store that was closed in this process still waits for the disk of its journal's directory";
    Error::new(kind, text)
        .at(dir)
        .remedy("look at the disk and the kernel log; what is waited for ends when it answers")
}

fn taken(dir: &Path, process: Option<u32>) -> Error {
    let whose = match process {
        Some(id) if id == std::process::id() => {
            format!("a store that is open already, by another handle in this process ({id})")
        }
        Some(id) => format!("a store that is open in another process: process {id}"),
        None => "a store that is open in another process, or by another handle in this one".to_owned(),
    };
    let text = format!("the directory holds the journal of {whose}");
    Error::new(ErrorKind::Locked, text)
        .at(dir)
        .remedy("close it there, or, if it was closed or has ended, see whether its disk hangs; where a store's directory was copied, only one of the two may be open")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    #[test]
    fn a_lock_that_a_closed_opening_has_left_is_told_from_one_that_is_held() {
        let home = tempfile::tempdir().unwrap();
        let (dir, file, store) = (home.path(), home.path().join(FILE), 0xa11_u128);
        let limited = Limited::new(Arc::new(RealDisk), Duration::from_millis(50));
        limited.watch(dir);
        let open = Locks::new(store);
        open.take(&limited, dir).unwrap();
        let refused = |store| {
            let locks = Locks::new(store);
            assert_eq!(locks.take_early(&RealDisk, dir).unwrap_err().kind(), ErrorKind::Locked);
            assert!(locks.left().is_none());
        };
        refused(store);
        let (answer, answered) = channel();
        let hangs = move || answered.recv().map_err(io::Error::other);
        assert!(limited.ask(dir, move |_| hangs()).is_err());
        refused(store);
        open.leave(&limited);
        let next = Locks::new(store);
        next.take_early(&RealDisk, dir).unwrap();
        assert_eq!(next.left().unwrap().kind(), ErrorKind::Locked);
        assert_eq!(next.take_late(&RealDisk, dir).unwrap_err().kind(), ErrorKind::Unavailable);
        // Another store's, or where another process has written its number.
        refused(store + 1);
        let written = std::fs::read(&file).unwrap();
        std::fs::write(&file, (std::process::id() + 1).to_string()).unwrap();
        refused(store);
        std::fs::write(&file, written).unwrap();
        answer.send(()).unwrap();
        let begun = Instant::now();
        while let Err(e) = next.take_late(&RealDisk, dir) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{e}");
            std::thread::yield_now();
        }
        assert!(next.left().is_none() && !Left::is(store, dir));
        refused(store);
        next.release();
        Locks::new(store).take(&RealDisk, dir).unwrap();
    }

    /// Whoever has it may be writing there: nothing is read or changed before it is known.
    #[test]
    fn a_lock_on_a_disk_that_does_not_answer_is_to_be_taken_later() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let limited = Limited::new(Arc::new(RealDisk), Duration::from_millis(50));
        limited.watch(dir);
        let (answer, answered) = channel();
        let hangs = move || answered.recv().map_err(io::Error::other);
        assert!(limited.ask(dir, move |_| hangs()).is_err());
        let locks = Locks::new(0xa11);
        locks.take_late(&limited, dir).unwrap();
        assert_eq!(locks.take(&limited, dir).unwrap_err().io_kind(), Some(io::ErrorKind::TimedOut));
        locks.take_early(&limited, dir).unwrap();
        assert!(!locks.holds(dir) && locks.left().is_none());
        assert_eq!(locks.take_late(&limited, dir).unwrap_err().io_kind(), Some(io::ErrorKind::TimedOut));
        answer.send(()).unwrap();
        let begun = Instant::now();
        while let Err(e) = locks.take_late(&limited, dir) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{e}");
            std::thread::yield_now();
        }
        assert!(locks.holds(dir));
    }
}
