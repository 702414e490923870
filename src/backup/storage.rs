//! Where a repository's bytes are: a small seam, so that a repository may lie on object storage. A local directory is the
//! default.
//!
//! Invariants of the directory: whoever returns from `settle` without an error finds every name durable that was made, removed or listed
//! before, by whomever, with the directories above it; what is there and cannot be looked at does not pass for gone.

use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A name in a storage, and how many bytes stand behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// The whole name, with `/` between its parts.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Whole objects under names: what a [`BackupRepository`](crate::BackupRepository) needs of the place it lies in.
///
/// Names are ASCII letters, digits, `.` and `-`, in parts that `/` separates. Objects have at most about 65 MiB, but for
/// pieces of an archive, which have one commit at least: up to 130 MiB.
///
/// What an implementation promises: a reader finds under a name all the bytes of one `write`, or none, whenever power or the
/// process fails; after [`settle`](Self::settle) every write and deletion before it is durable, and what `list` has shown, whoever
/// wrote it; a name that was written is listed at once. Where a lock can be lost while it is held, `delete`, and `write` of what is neither in
/// `objects/` nor in `archive/`, fail from then on until it is dropped.
pub trait Storage: Send + Sync + Debug {
    /// What there is directly under `prefix` (no further `/` in the rest of the name), in order of the names. A prefix ends
    /// with `/`, or is empty.
    ///
    /// # Errors
    /// `Io` where the place cannot be asked, or something in it not be looked at: what is left out counts as gone, and what only it needs is
    /// deleted. A prefix under which nothing lies is not an error.
    fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// All bytes of an object; none if there is none of that name.
    ///
    /// # Errors
    /// `Io`; `Corruption` for one that is longer than any can be, if that is found before it is read.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Puts an object there, in the place of one of that name.
    ///
    /// # Errors
    /// `Io`: then the name has what it had. Over a network that may not be known: then it has the one or the other. `Locked` if the lock
    /// was lost.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Takes an object away. One that is not there is not an error.
    ///
    /// # Errors
    /// `Io`; `Locked` if the lock was lost.
    fn delete(&self, name: &str) -> Result<()>;

    /// Makes everything before durable. Nothing to do where `write` and `delete` return only then.
    ///
    /// # Errors
    /// `Io`: then what was written since the last call is not to be believed.
    fn settle(&self) -> Result<()>;

    /// Keeps every other writer out until the value is dropped, or the process dies, or for a bounded time after that.
    ///
    /// # Errors
    /// `Locked` if somebody has it, `Io`.
    fn lock(&self) -> Result<Box<dyn Send + Sync>>;

    /// What to call an object in an error: a path or an address.
    fn describe(&self, name: &str) -> PathBuf;
}

/// Says of an object that was found to be damaged before it was read what is to be done about it.
pub fn advised(error: Error, remedy: &str) -> Error {
    if error.kind() == ErrorKind::Corruption { error.remedy(remedy) } else { error }
}

const LOCK: &str = "LOCK";

/// A directory.
#[derive(Debug)]
pub struct DirStorage {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    names: Mutex<Names>,
    /// Held over a sync of directories: whoever comes second waits for what the first has taken.
    settling: Mutex<()>,
}

/// What is known of the names in the directory and below it.
#[derive(Debug, Default)]
struct Names {
    /// Directories with names that may not be durable yet.
    unsettled: BTreeSet<PathBuf>,
    /// Directories whose own names are durable, and those of all above them.
    durable: BTreeSet<PathBuf>,
    /// The directory itself has been made, or was there, durably.
    begun: bool,
}

impl DirStorage {
    /// The directory `dir` of a disk. It is created by the first write.
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> DirStorage {
        DirStorage { disk, dir: dir.into(), names: Mutex::default(), settling: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        name.split('/').fold(self.dir.clone(), |path, part| path.join(part))
    }

    /// The directory that a path lies in, made if need be. Its own name is durable when it has been settled.
    fn parent(&self, path: &Path) -> Result<PathBuf> {
        let parent = path.parent().unwrap_or(&self.dir).to_path_buf();
        let failed = |e| Error::io("create the directory", &parent, e);
        if !self.names.lock().begun {
            self.disk.create_dir_durably(&self.dir).map_err(failed)?;
            self.names.lock().begun = true;
        }
        if !self.disk.exists(&parent).map_err(failed)? {
            // Whoever removed it has taken those below it along.
            self.names.lock().durable.retain(|dir| !dir.starts_with(&parent));
            self.disk.create_dir_all(&parent).map_err(failed)?;
        }
        Ok(parent)
    }

    /// Notes that names in a directory may not be durable. Nor may its own be, and those above it, when this is the first that is heard of
    /// it: they may have been made by a process that ended before it synced them.
    fn unsettle(&self, dir: PathBuf) {
        let mut names = self.names.lock();
        if !names.durable.contains(&dir) {
            let above = dir.ancestors().skip(1).take_while(|above| above.starts_with(&self.dir));
            names.unsettled.extend(above.map(Path::to_path_buf));
        }
        names.unsettled.insert(dir);
    }
}

/// How often a file is written whose temporary one is swept meanwhile.
const WRITES: u32 = 4;

/// The name that an object has until all its bytes are durable.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

impl Storage for DirStorage {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let dir = if prefix.is_empty() { self.dir.clone() } else { self.path(prefix.trim_end_matches('/')) };
        let failed = |e| Error::io("list the directory", &dir, e);
        let names = match self.disk.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names.map_err(failed)?,
        };
        self.unsettle(dir.clone());
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            let path = dir.join(&name);
            match self.disk.file_len(&path) {
                Ok(None) => {}
                Ok(Some(bytes)) => objects.push(Object { name: format!("{prefix}{name}"), bytes }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // What is there and cannot be looked at is not to pass for gone: others would be deleted for want of its word.
                Err(e) => return Err(Error::io("look at the file", path, e)),
            }
        }
        Ok(objects)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        self.disk.read(&path).map_err(|e| match e.kind() {
            // The disk has nothing to do with it: asked again it says the same.
            io::ErrorKind::InvalidData => {
                Error::corruption(format!("a file of the repository is damaged: {e}")).at(path)
            }
            _ => Error::io("read the file", path, e),
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let parent = self.parent(&path)?;
        let from = temporary(&path);
        let write = || {
            match self.disk.remove_file(&from) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = self.disk.open(&from, OpenMode::CreateNew)?;
            file.write_at(0, bytes)?;
            file.sync_all()?;
            self.disk.rename(&from, &path)
        };
        let mut written = write();
        for _ in 1..WRITES {
            match &written {
                // A prune took what archivers write for what one of them had left behind.
                Err(e) if e.kind() == io::ErrorKind::NotFound => written = write(),
                _ => break,
            }
        }
        written.map_err(|e| {
            // What cannot be removed either is left to those who sweep.
            let _ = self.disk.remove_file(&from);
            Error::io("write the file", &path, e)
        })?;
        self.unsettle(parent);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match self.disk.remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(|e| Error::io("remove the file", &path, e))?;
                self.unsettle(path.parent().unwrap_or(&self.dir).to_path_buf());
                Ok(())
            }
        }
    }

    fn settle(&self) -> Result<()> {
        let _turn = self.settling.lock();
        let dirs = std::mem::take(&mut self.names.lock().unsettled);
        let synced = self.disk.sync_dirs(&dirs.iter().cloned().collect::<Vec<_>>());
        let names = &mut *self.names.lock();
        match synced {
            Ok(()) => {
                names.durable.extend(dirs);
                Ok(())
            }
            Err((dir, e)) => {
                // What failed here is to fail, or to be done, for all others that rely on it; but not for ever where there is nothing left.
                let is_gone = e.kind() == io::ErrorKind::NotFound;
                names.unsettled.extend(dirs.into_iter().filter(|other| !is_gone || *other != dir));
                Err(Error::io("sync the directory", dir, e))
            }
        }
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        let path = self.path(LOCK);
        self.parent(&path)?;
        self.disk.lock(&path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                let who =
                    self.disk.holder(&path).map_or("somebody else".to_owned(), |id| format!("process {id}"));
                let text = format!(
                    "{who} is writing to the backup repository: a checkpoint or a prune is under way"
                );
                Error::new(ErrorKind::Locked, text).at(&self.dir).remedy("try again when it is done")
            }
            _ => Error::io("lock the repository", path, e),
        })
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.path(name)
    }
}
