//! A disk some of whose directories lie on disks that may hang: what is asked for there is given up after a while.
//!
//! Invariant: a lock that was taken here is given back when nothing is going on any more that was given up in its directory: what the disk does when
//! it answers it does to files that are still those of who asked for it.

use super::hands::Hands;
use super::{Disk, DiskFile, FreeSpace, OpenMode};
use crate::sync::RwLock;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is done in the directories that were [named](Limited::watch) is done by threads, and takes no longer than a limit.
#[derive(Debug)]
pub struct Limited {
    disk: Arc<dyn Disk>,
    limit: Duration,
    watched: RwLock<Vec<(PathBuf, Arc<Hands>)>>,
}

#[derive(Debug)]
struct LimitedFile {
    file: Arc<dyn DiskFile>,
    hands: Arc<Hands>,
    limit: Duration,
}

/// A lock, and where it is left.
struct Held {
    lock: Option<Box<dyn Send + Sync>>,
    hands: Arc<Hands>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.hands.leave(lock);
        }
    }
}

impl Limited {
    pub fn new(disk: Arc<dyn Disk>, limit: Duration) -> Limited {
        Limited { disk, limit, watched: RwLock::default() }
    }

    /// From now on for this directory as well, and what is below it; the innermost counts. Returns whose threads ask there.
    pub fn watch(&self, dir: &Path) -> Arc<Hands> {
        let mut watched = self.watched.write();
        if let Some((_, hands)) = watched.iter().find(|(other, _)| other == dir) {
            return hands.clone();
        }
        let hands = Arc::<Hands>::default();
        watched.push((dir.to_path_buf(), hands.clone()));
        hands
    }

    /// How long the disk is waited for.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The disk without a limit.
    pub fn below(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whose threads ask for something at a path; what lies above a directory may lie on its disk, too.
    fn hands(&self, path: &Path) -> Option<Arc<Hands>> {
        let watched = self.watched.read();
        let around = watched.iter().filter(|(dir, _)| path.starts_with(dir));
        let innermost = around.max_by_key(|(dir, _)| dir.components().count());
        let above = || watched.iter().find(|(dir, _)| dir.starts_with(path));
        innermost.or_else(above).map(|(_, hands)| hands.clone())
    }

    /// Whether something in a directory was given up that has not ended.
    pub fn is_silent(&self, dir: &Path) -> bool {
        self.hands(dir).is_some_and(|hands| hands.is_silent())
    }

    /// Drops a lock when nothing is going on any more that was given up in a directory.
    pub fn leave(&self, dir: &Path, lock: Box<dyn Send + Sync>) {
        match self.hands(dir) {
            Some(hands) => hands.leave(lock),
            None => drop(lock),
        }
    }

    /// Does something at a path, with the disk below.
    ///
    /// # Errors
    /// `TimedOut`: see [`Hands::run`].
    pub fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(hands) = self.hands(path) else { return work(self.disk.as_ref()) };
        let disk = self.disk.clone();
        hands.run(self.limit, move || work(disk.as_ref()))
    }

    fn at<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&dyn Disk, &Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let at = path.to_path_buf();
        self.ask(path, move |disk| work(disk, &at))
    }
}

impl Disk for Limited {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk, dir| disk.create_dir_all(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.at(dir, |disk, dir| disk.list(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(path, |disk, path| disk.exists(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(path, |disk, path| disk.canonicalize(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.at(path, move |disk, path| disk.open(path, mode))?;
        let Some(hands) = self.hands(path) else { return Ok(file) };
        Ok(Arc::new(LimitedFile { file, hands, limit: self.limit }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = from.to_path_buf();
        self.at(to, move |disk, to| disk.rename(&from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(path, |disk, path| disk.remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk, dir| disk.remove_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |disk, dir| disk.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let lock = self.at(path, |disk, path| disk.lock(path))?;
        let Some(hands) = self.hands(path) else { return Ok(lock) };
        Ok(Box::new(Held { lock: Some(lock), hands }))
    }

    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        self.at(path, |disk, path| disk.space(path))
    }
}

impl LimitedFile {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn DiskFile) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = self.file.clone();
        self.hands.run(self.limit, move || work(file.as_ref()))
    }
}

impl DiskFile for LimitedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len();
        let bytes = self.run(move |file| {
            let mut bytes = vec![0; len];
            let read = file.read_at(offset, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        })?;
        let read = bytes.len();
        if let Some(buf) = buf.get_mut(..read) {
            buf.copy_from_slice(&bytes);
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let bytes = bytes.to_vec();
        self.run(move |file| file.write_at(offset, &bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.run(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.run(|file| file.sync_all())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(move |file| file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.run(|file| file.len())
    }
}
