//! The locks of the copies' directories: a store's own lock does not keep a copy of the store from the same journal.
//!
//! Invariant: nothing in a copy's directory is changed before its lock is held, unless it cannot be had for another reason
//! than that somebody has it, or that its disk does not answer.

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the file in each of the directories.
pub const FILE: &str = "LOCK";

type Held = BTreeMap<PathBuf, Box<dyn Send + Sync>>;

/// Held until they are released, or this is dropped.
#[derive(Default)]
pub struct Locks {
    held: Mutex<Held>,
    /// Those whose disks did not answer.
    silent: Mutex<BTreeSet<PathBuf>>,
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
    /// Takes the lock of a directory. One that cannot be reached is no reason to refuse: what can be had of it shows when it
    /// is read.
    ///
    /// # Errors
    /// `Locked`: another opening has it. `Closed`: all locks were released. `Io`: the disk does not answer, which it may do by the time that
    /// something is changed there.
    pub fn take(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let unanswered = |e| Err(Error::io("lock the journal's directory", dir, e));
        self.ask(disk, dir)?.map_or(Ok(()), unanswered)
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
        let silent = self.silent.lock().contains(dir);
        if silent { self.take(disk, dir) } else { Ok(()) }
    }

    /// Takes it; returns why it is not known whether somebody has it.
    fn ask(&self, disk: &dyn Disk, dir: &Path) -> Result<Option<io::Error>> {
        let mut held = self.held.lock();
        self.check().map_err(|e| e.at(dir))?;
        if held.contains_key(dir) {
            return Ok(None);
        }
        let path = dir.join(FILE);
        match disk.lock(&path) {
            Ok(lock) => drop(held.insert(dir.to_path_buf(), lock)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(taken(dir, disk.holder(&path))),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                self.silent.lock().insert(dir.to_path_buf());
                return Ok(Some(e));
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
        .remedy("close it there; where a store's directory was copied, only one of the two may be open")
}
