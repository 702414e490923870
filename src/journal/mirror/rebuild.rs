//! Making a copy complete again while the journal is written to.
//!
//! Everything is copied beside the writers first, then, again beside them, what has changed meanwhile; what is still different after
//! that is little, and copied while they wait. File by file: what the copy has had so far is gone only when all that takes its place has been
//! read, from whichever complete copy can be read.

use super::copy::{Copying, Failed, Outcome};
use super::spared::Older;
use super::{Mirror, Mirrors, copy, vacant};
use crate::disk::{DiskFile, OpenMode, mounts};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::RwLockWriteGuard;
use crate::sync::atomic::Ordering;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// So often what has changed is copied beside the writers.
const ROUNDS: usize = 3;

impl Mirrors {
    /// Tries every copy that is not complete again, and makes it so; says how many are now that were not before. A copy
    /// that cannot be made now keeps the cause, for [`copies`](Self::copies), and costs little until the next time. After a
    /// [`stop`](Self::stop) it does nothing. `older` says what somebody lacks of the journal that is open; none: nobody lacks anything.
    pub fn mend_beside(&self, older: Option<&dyn Older>) -> usize {
        let Some(_turn) = self.rebuild.try_lock() else { return 0 };
        let mut mended = 0;
        for (index, mirror) in self.copies.iter().enumerate() {
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            if mirror.good.load(Ordering::Acquire) {
                continue;
            }
            mirror.rebuilding.store(true, Ordering::Relaxed);
            let outcome = self.rebuild(index, older);
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

    /// No copy is made any more, and one that is being made is given up as soon as its disk answers.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn rebuild(&self, index: usize, older: Option<&dyn Older>) -> Result<()> {
        let Some(mirror) = self.copies.get(index) else { return Ok(()) };
        self.make_dir(mirror)?;
        older.map_or(Ok(()), |older| self.spare(mirror, older))?;
        let mut first: Option<Error> = None;
        for make_do in [false, true] {
            first = None;
            let mut damaged = false;
            for source in self.good().collect::<Vec<_>>() {
                match self.rebuild_from(source, index, make_do) {
                    // Another one may be whole where this one is not.
                    Err(Failed::Source(e)) => {
                        damaged |= e.kind() == ErrorKind::Corruption;
                        first = first.or(Some(e));
                    }
                    outcome => return Ok(outcome?),
                }
            }
            // What cannot be read is not made do with.
            if !damaged {
                break;
            }
        }
        Err(first.unwrap_or_else(nothing))
    }

    /// The directory of a copy that is made anew, locked. Not where its disk is not mounted: what is made there would be hidden
    /// when it is, and pass for a copy on a disk of its own meanwhile.
    pub(super) fn make_dir(&self, mirror: &Mirror) -> Result<()> {
        let (disk, dir) = (self.disk.as_ref(), &mirror.dir);
        let io = |e| Error::io("make a copy of the journal", dir, e);
        let begun = mounts(disk, &self.home, dir).map_err(io)?;
        if begun < mirror.mounts && !crate::plants::is("copy-made-under-a-mount-point") {
            let text = format!(
                "the disk of this copy of the journal is not mounted: {begun} file systems begin on the way there, and there were {}",
                mirror.mounts
            );
            return Err(Error::new(ErrorKind::Unavailable, text).at(dir).remedy(
                "mount it; or, if the copy is to be made anew where the directory is now, open the store once with the directories of the other copies, then with this one too",
            ));
        }
        vacant::check_owner(disk, dir, self.store)?;
        disk.create_dir_durably(dir).map_err(io)?;
        self.locks.take_there(disk, dir)
    }

    fn rebuild_from(&self, source: usize, index: usize, make_do: bool) -> Outcome<()> {
        let (Some(source), Some(mirror)) = (self.copies.get(source), self.copies.get(index)) else {
            return Ok(());
        };
        let (disk, stop) = (self.disk.as_ref(), &self.stop);
        let (from, to, gate) = (source.dir.as_path(), mirror.dir.as_path(), Some(&self.gate));
        let copying = Copying { disk, from, to, stop, gate, make_do };
        self.let_go_of_files(index);
        copying.discard()?;
        copying.check_room(true)?;
        let (_, before) = copying.names()?;
        // Not what came from a source that can be read no further, since it may be all that is left of it; nor at the end of a store,
        // which is not to wait for it; and nothing once the copy joins, which may have given it a word.
        let _gate = self.copy_all(&copying).inspect_err(|failed| {
            if matches!(failed, Failed::Target(e) if e.kind() != ErrorKind::Closed) {
                copying.withdraw(&before);
            }
        })?;
        self.check().map_err(Failed::Target)?;
        if !source.good.load(Ordering::Acquire) {
            return Err(Failed::Source(nothing()));
        }
        self.join(index).map_err(Failed::Target)
    }

    /// Closes what is open in a copy that does not count: nobody writes to it, and what is removed there would take room until then.
    fn let_go_of_files(&self, index: usize) {
        let handles: Vec<_> = self.handles.lock().iter().filter_map(Weak::upgrade).collect();
        if handles.iter().any(|handle| handle.is_open(index)) {
            // Whoever has begun before the copy was left out still asks for its files.
            let _gate = self.gate.write();
            handles.iter().for_each(|handle| handle.join(index, None));
        }
    }

    /// Makes all of the target like the source; nobody writes until what is returned is dropped.
    fn copy_all(&self, copying: &Copying<'_>) -> Outcome<RwLockWriteGuard<'_, ()>> {
        self.take_touched();
        copying.sweep()?;
        copying.fill_gaps()?;
        let mut made = BTreeSet::new();
        for _ in 0..ROUNDS {
            let touched = self.take_touched();
            self.pass(copying, &touched, &mut made)?;
        }
        let gate = self.gate.write();
        let touched = self.touched.lock().replace(BTreeSet::new()).unwrap_or_default();
        self.pass(&Copying { gate: None, ..*copying }, &touched, &mut made)?;
        Ok(gate)
    }

    /// What has changed since the last call. No operation is half done at that moment.
    fn take_touched(&self) -> BTreeSet<PathBuf> {
        let _gate = self.gate.write();
        self.touched.lock().replace(BTreeSet::new()).unwrap_or_default()
    }

    /// Which files are open for writing.
    fn open_files(&self) -> BTreeSet<PathBuf> {
        self.handles.lock().iter().filter_map(Weak::upgrade).map(|handle| handle.path()).collect()
    }

    /// Copies what has not been `made`, and what has changed; removes what is gone.
    fn pass(
        &self,
        copying: &Copying<'_>,
        touched: &BTreeSet<PathBuf>,
        made: &mut BTreeSet<String>,
    ) -> Outcome<()> {
        let (wanted, found) = copying.names()?;
        made.retain(|name| wanted.contains(name));
        let mut last = copying.clear(&wanted, &found)?;
        let open = self.open_files();
        for name in wanted {
            copying.go_on()?;
            let path = self.dir().join(&name);
            let is_open = open.contains(&path);
            if !made.contains(&name) {
                if copying.renew(&name, is_open)? {
                    if copy::is_segment(&name) {
                        copying.drop_last(&mut last)?;
                    }
                    made.insert(name);
                }
            } else if touched.contains(&path) && (is_open || !copy::is_blank(&name)) {
                // Not looked through: what was written since the file was made, the target has had from nobody else.
                match copying.level(&name, true) {
                    // It was freed a moment ago.
                    Err(_) if !self.disk.exists(&copying.from.join(&name)).unwrap_or(true) => {}
                    outcome => drop(outcome?),
                }
            }
        }
        if copying.gate.is_none() {
            copying.drop_last(&mut last)?;
        }
        copying.sync()
    }

    /// Opens a file of one copy, as [`MirrorFile`](super::file::MirrorFile) has them.
    fn open_below(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let Some(limited) = &self.limited else { return self.disk.open(path, mode) };
        let at = path.to_path_buf();
        limited.ask(path, move |disk| disk.open(&at, mode))
    }

    /// Counts a copy complete that is; nobody writes meanwhile.
    fn join(&self, index: usize) -> Result<()> {
        let Some(mirror) = self.copies.get(index) else { return Ok(()) };
        let handles: Vec<_> = self.handles.lock().iter().filter_map(Weak::upgrade).collect();
        let mut files: Vec<Option<Arc<dyn DiskFile>>> = Vec::new();
        for handle in &handles {
            let path = self.place(index, &handle.path());
            match self.open_below(&path, OpenMode::Write) {
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

fn nothing() -> Error {
    Error::new(ErrorKind::Io, "no complete copy of the journal is left")
}
