//! A file that is open for writing in every copy of the journal.

use super::Mirrors;
use crate::disk::{Disk, DiskFile};
use crate::sync::{Mutex, RwLock};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Files = Vec<Option<Arc<dyn DiskFile>>>;

/// What is known of an open file: a copy that is completed later joins in here.
#[derive(Debug)]
pub struct Handle {
    /// As the first copy calls it now.
    path: Mutex<PathBuf>,
    /// In the order of the copies; none where it is not open.
    files: RwLock<Files>,
}

impl Handle {
    pub fn renamed(&self, from: &Path, to: &Path) {
        let mut path = self.path.lock();
        if *path == from {
            *path = to.to_path_buf();
        }
    }

    pub fn path(&self) -> PathBuf {
        self.path.lock().clone()
    }

    pub fn is_open(&self, index: usize) -> bool {
        self.files.read().get(index).is_some_and(Option::is_some)
    }

    /// Takes in the file as it is in a copy that was made complete.
    pub fn join(&self, index: usize, file: Option<Arc<dyn DiskFile>>) {
        if let Some(slot) = self.files.write().get_mut(index) {
            *slot = file;
        }
    }
}

#[derive(Debug)]
pub struct MirrorFile {
    mirrors: Arc<Mirrors>,
    handle: Arc<Handle>,
}

fn not_open() -> io::Error {
    io::Error::other("the file is not open in this copy of the journal")
}

impl MirrorFile {
    /// The caller holds the gate, so that no copy is completed between the opening and this.
    pub fn open(mirrors: &Mirrors, path: &Path, files: Files) -> io::Result<Arc<dyn DiskFile>> {
        let mirrors = mirrors.me.upgrade().ok_or_else(|| io::Error::other("the journal is gone"))?;
        let handle = Arc::new(Handle { path: Mutex::new(path.to_path_buf()), files: RwLock::new(files) });
        let mut handles = mirrors.handles.lock();
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(&handle));
        drop(handles);
        Ok(Arc::new(MirrorFile { mirrors, handle }))
    }

    /// Does `work` to the file in every copy that counts: see [`Mirrors::in_good`].
    fn each<T: Send + 'static>(
        &self,
        work: impl Fn(&dyn DiskFile) -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<Vec<(usize, io::Result<T>)>> {
        self.mirrors.check()?;
        let files = self.handle.files.read();
        Ok(self.mirrors.in_good(|index| {
            let (file, work) = (files.get(index).cloned().flatten(), work.clone());
            move |_: &dyn Disk| file.map_or_else(|| Err(not_open()), |file| work(file.as_ref()))
        }))
    }

    fn change(
        &self,
        work: impl Fn(&dyn DiskFile) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<()> {
        let _gate = self.mirrors.gate.read();
        let path = self.handle.path();
        self.mirrors.touch(&path);
        let outcomes = self.each(work)?;
        self.mirrors.judge(&path, outcomes)
    }

    fn sync(
        &self,
        work: impl Fn(&dyn DiskFile) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<()> {
        let _gate = self.mirrors.gate.read();
        let outcomes = self.each(work)?;
        self.mirrors.judge(&self.handle.path(), outcomes)
    }

    /// Writes to one copy after the other, in the caller's thread.
    fn write_here(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let _gate = self.mirrors.gate.read();
        self.mirrors.check()?;
        let path = self.handle.path();
        self.mirrors.touch(&path);
        let files = self.handle.files.read();
        let file = |index: usize| files.get(index).and_then(Option::as_deref);
        let write = |index| file(index).map_or_else(|| Err(not_open()), |file| file.write_at(offset, bytes));
        let outcomes = self.mirrors.good().map(|index| (index, write(index))).collect();
        self.mirrors.judge(&path, outcomes)
    }
}

impl DiskFile for MirrorFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _gate = self.mirrors.gate.read();
        let files = self.handle.files.read();
        let mut outcome = Err(not_open());
        for file in self.mirrors.good().filter_map(|index| files.get(index)?.as_ref()) {
            outcome = file.read_at(offset, buf);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Into the system's memory, which is quicker than a thread, as long as no copy's disk is slow.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.mirrors.is_slow() {
            return self.write_here(offset, bytes);
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.change(move |file| file.write_at(offset, &bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(|file| file.sync_all())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(move |file| file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        let _gate = self.mirrors.gate.read();
        let lens = self.each(|file| file.len())?;
        // The shortest, so that what is filled up to a length is filled up in every copy.
        let least = lens.iter().filter_map(|(_, len)| len.as_ref().ok()).min().copied();
        self.mirrors.judge(&self.handle.path(), lens).map(|len| least.unwrap_or(len))
    }
}
