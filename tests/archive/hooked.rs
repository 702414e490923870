//! A storage that tells a test what is asked of it, and fails where the test wants that.

use crate::Place;
use annulus::testing::RealDisk;
use annulus::{BackupRepository, DirStorage, Error, ErrorKind, Object, Result, Storage};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What is asked of the storage, before it is done.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    List(&'a str),
    Read(&'a str),
    Write(&'a str, &'a [u8]),
    Settle,
}

type Hook = dyn Fn(Call<'_>) -> Result<()> + Send + Sync;

/// A directory with a hook before everything.
#[derive(Clone)]
pub struct Hooked {
    pub inner: Arc<DirStorage>,
    hook: Arc<Mutex<Arc<Hook>>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Hooked {
    pub fn new(dir: &Path) -> Hooked {
        let inner = Arc::new(DirStorage::new(Arc::new(RealDisk), dir));
        Hooked { inner, hook: Arc::new(Mutex::new(Arc::new(|_: Call<'_>| Ok(())))) }
    }

    /// A place whose repository lies in one.
    pub fn place() -> (Place, Hooked) {
        let mut place = Place::new();
        let storage = Hooked::new(&place.path("backup"));
        place.repo = storage.repository();
        (place, storage)
    }

    pub fn repository(&self) -> BackupRepository {
        BackupRepository::open_with(Arc::new(self.clone())).unwrap()
    }

    pub fn on(&self, hook: impl Fn(Call<'_>) -> Result<()> + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Arc::new(hook);
    }

    pub fn off(&self) {
        self.on(|_| Ok(()));
    }

    /// Pieces of the archive cannot be written, until it is turned off.
    pub fn fail_pieces(&self) {
        self.on(|call| match call {
            Call::Write(name, _) if name.starts_with("archive/") => Err(out_of_order()),
            _ => Ok(()),
        });
    }

    /// The same behind so many of them.
    pub fn fail_pieces_after(&self, count: usize) {
        let left = AtomicUsize::new(count);
        let is_over = move || {
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        };
        self.on(move |call| match call {
            Call::Write(name, _) if name.starts_with("archive/") && is_over() => Err(out_of_order()),
            _ => Ok(()),
        });
    }

    fn before(&self, call: Call<'_>) -> Result<()> {
        let hook = self.hook.lock().unwrap().clone();
        hook(call)
    }
}

/// An error of a disk.
pub fn out_of_order() -> Error {
    let storage = DirStorage::new(Arc::new(RealDisk), "/dev/null/nowhere");
    let error = storage.write("x", b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    error
}

impl Storage for Hooked {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.before(Call::List(prefix))?;
        self.inner.list(prefix)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.before(Call::Read(name))?;
        self.inner.read(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.before(Call::Write(name, bytes))?;
        self.inner.write(name, bytes)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn settle(&self) -> Result<()> {
        self.before(Call::Settle)?;
        self.inner.settle()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.inner.describe(name)
    }
}
