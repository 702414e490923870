//! A disk that is shown every operation first: what shall happen in the middle of another thing happens there.

use super::*;
use crate::disk::{DiskFile, FreeSpace};
use std::fmt;
use std::io;

type Hook = dyn Fn(Operation, &Path) -> io::Result<()> + Send + Sync;

/// Clones share the disk and who looks at it. An operation of which that says an error is not done.
#[derive(Clone)]
pub struct Hooked {
    disk: SimDisk,
    before: Arc<Hook>,
    /// Bytes that cannot be read, until they are written.
    bad: Arc<Mutex<Vec<(PathBuf, u64)>>>,
}

#[derive(Debug)]
struct HookedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: Hooked,
}

impl Hooked {
    pub fn new(
        disk: &SimDisk,
        before: impl Fn(Operation, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> Hooked {
        Hooked { disk: disk.clone(), before: Arc::new(before), bad: Arc::default() }
    }

    pub fn spoil(&self, path: &Path, at: u64) {
        self.bad.lock().push((path.to_path_buf(), at));
    }

    fn at(&self, operation: Operation, path: &Path) -> io::Result<&SimDisk> {
        (self.before)(operation, path).map(|()| &self.disk)
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Disk for Hooked {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(Operation::Create, dir)?.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.at(Operation::Look, dir)?.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(Operation::Look, path)?.exists(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(Operation::Look, path)?.canonicalize(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let operation = if mode == OpenMode::CreateNew { Operation::Create } else { Operation::Look };
        let file = self.at(operation, path)?.open(path, mode)?;
        Ok(Arc::new(HookedFile { file, path: path.to_path_buf(), disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(Operation::Rename, from)?.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(Operation::Remove, path)?.remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(Operation::Remove, dir)?.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(Operation::SyncDir, dir)?.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.at(Operation::Look, path)?.lock(path)
    }

    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        self.disk.space(path)
    }
}

impl HookedFile {
    fn at(&self, operation: Operation) -> io::Result<&dyn DiskFile> {
        (self.disk.before)(operation, &self.path).map(|()| self.file.as_ref())
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = offset..offset + buf.len() as u64;
        if self.disk.bad.lock().iter().any(|(path, at)| *path == self.path && read.contains(at)) {
            return Err(io::Error::other("a sector cannot be read"));
        }
        self.at(Operation::Read)?.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = offset..offset + bytes.len() as u64;
        let file = self.at(Operation::Write)?;
        self.disk.bad.lock().retain(|(path, at)| *path != self.path || !written.contains(at));
        file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.at(Operation::Sync)?.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.at(Operation::Sync)?.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.at(Operation::SetLen)?.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
