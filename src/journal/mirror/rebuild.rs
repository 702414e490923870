//! Making a copy complete again while the journal is written to.
//!
//! Everything is copied beside the writers first, then, again beside them, what has changed meanwhile; what is still different after
//! that is little, and copied while they wait.

use super::{Mirrors, copy};
use crate::disk::{DiskFile, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// So often what has changed is copied beside the writers.
const ROUNDS: usize = 3;

impl Mirrors {
    /// Tries every copy that is not complete again, and makes it so; says how many are now that were not before. A copy
    /// that cannot be made now keeps the cause, for [`copies`](Self::copies), and costs little until the next time.
    pub fn mend(&self) -> usize {
        let Some(_turn) = self.rebuild.try_lock() else { return 0 };
        let mut mended = 0;
        for (index, mirror) in self.copies.iter().enumerate() {
            if mirror.good.load(Ordering::Acquire) {
                continue;
            }
            mirror.rebuilding.store(true, Ordering::Relaxed);
            let outcome = self.rebuild(index);
            *self.touched.lock() = None;
            mirror.rebuilding.store(false, Ordering::Relaxed);
            match outcome {
                Ok(()) => {
                    log::info!("the copy of the journal at {} is complete", mirror.dir.display());
                    self.tell(|| format!("the copy at {} is complete", mirror.dir.display()));
                    mended += 1;
                }
                Err(e) => *mirror.cause.lock() = Some(e),
            }
        }
        mended
    }

    fn rebuild(&self, index: usize) -> Result<()> {
        let nothing = || Error::new(ErrorKind::Io, "no complete copy of the journal is left");
        let (Some(mirror), disk) = (self.copies.get(index), self.disk.as_ref()) else {
            return Err(nothing());
        };
        let source = self.good().next().and_then(|source| self.copies.get(source)).ok_or_else(nothing)?;
        let (from, to) = (&source.dir, &mirror.dir);
        disk.create_dir_durably(to).map_err(|e| Error::io("make a copy of the journal", to, e))?;
        self.locks.take(disk, to)?;
        self.take_touched();
        copy::clear(disk, to)?;
        for _ in 0..ROUNDS {
            let touched = self.take_touched();
            self.pass(from, to, &touched)?;
        }
        let _gate = self.gate.write();
        let touched = self.touched.lock().replace(BTreeSet::new()).unwrap_or_default();
        self.pass(from, to, &touched)?;
        self.check()?;
        if !source.good.load(Ordering::Acquire) {
            return Err(nothing());
        }
        self.join(index)
    }

    /// What has changed since the last call. No operation is half done at that moment.
    fn take_touched(&self) -> BTreeSet<PathBuf> {
        let _gate = self.gate.write();
        self.touched.lock().replace(BTreeSet::new()).unwrap_or_default()
    }

    /// Copies what the target lacks, and what has changed; removes what is gone.
    fn pass(&self, from: &Path, to: &Path, touched: &BTreeSet<PathBuf>) -> Result<()> {
        let disk = self.disk.as_ref();
        let (wanted, found) = (copy::names(disk, from)?, copy::names(disk, to)?);
        for name in found.difference(&wanted) {
            copy::remove(disk, &to.join(name))?;
        }
        for name in &wanted {
            if !found.contains(name) {
                copy::anew(disk, name, from, to)?;
            } else if touched.contains(&self.dir().join(name)) {
                match copy::level(disk, name, from, to, u64::MAX, true) {
                    // It was freed a moment ago.
                    Err(_) if !disk.exists(&from.join(name)).unwrap_or(true) => {}
                    outcome => drop(outcome?),
                }
            }
        }
        copy::sync_dir(disk, to)
    }

    /// Counts a copy complete that is; nobody writes meanwhile.
    fn join(&self, index: usize) -> Result<()> {
        let Some(mirror) = self.copies.get(index) else { return Ok(()) };
        let handles: Vec<_> = self.handles.lock().iter().filter_map(Weak::upgrade).collect();
        let mut files: Vec<Option<Arc<dyn DiskFile>>> = Vec::new();
        for handle in &handles {
            let path = self.place(index, &handle.path());
            match self.disk.open(&path, OpenMode::Write) {
                Ok(file) => files.push(Some(file)),
                // It was removed while it was open: nobody writes to it any more.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => files.push(None),
                Err(e) => return Err(Error::io("open a copy of the journal", path, e)),
            }
        }
        let mut given = self.given.lock();
        // Where no word can be given now, that shows here, before the copy has one.
        for (lost, cause) in self.give_word(&mut given, self.good().collect())? {
            self.leave_out(lost, cause);
        }
        let good: Vec<usize> = self.good().chain([index]).collect();
        let lost = self.give_word(&mut given, good).inspect_err(|e| drop(self.broken.set(e.clone())))?;
        let mut refused = None;
        for (lost, cause) in lost {
            if lost == index {
                refused = Some(cause);
            } else {
                self.leave_out(lost, cause);
            }
        }
        if let Some(cause) = refused {
            return Err(cause);
        }
        for (handle, file) in handles.iter().zip(files) {
            handle.join(index, file);
        }
        *mirror.cause.lock() = None;
        mirror.good.store(true, Ordering::Release);
        Ok(())
    }
}
