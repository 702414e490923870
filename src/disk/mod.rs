//! The disk seam: every file that is not an engine's own goes through here, so that tests can lose, tear and reorder
//! writes, and fail syncs, without a real disk.
//!
//! Invariant of every implementation: what was not synced (a file's bytes by its `sync`, a name by its directory's
//! `sync_dir`) may be gone, wholly or in parts, after a power cut; what was synced is there.

mod cached;
mod hands;
mod limited;
mod mounts;
pub mod power_loss;
mod real;
pub(crate) mod sim;
mod watched;

pub use hands::{Hands, together};
pub use limited::Limited;
pub use mounts::mounts;
pub use real::RealDisk;
pub use sim::{Fault, OpenEnds, OpenFile, OpenNames, Operation, PowerCut, SimDisk};
pub use watched::while_it_answers;

use crate::plants;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file, to read and write; an existing one is an error.
    CreateNew,
    /// An existing file, to write past the system's cache: a write returns when its own bytes are durable, and says
    /// nothing of others. Offset, length and place in memory are multiples of `BLOCK`. An error where the system
    /// cannot; `InvalidInput` or `Unsupported` if that shows only when it is written to.
    Through,
}

/// A file system's number, the same for all paths on it, and its free bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    pub device: u64,
    pub free: u64,
}

/// What writes past the system's cache are in multiples of, in bytes.
pub const BLOCK: usize = 4096;

/// The most that is read of a file at once, in bytes: more than the manifest of the largest store, and less than what
/// a length that is damaged makes the system refuse, which ends the process.
const MOST_READ: u64 = 1 << 30;

/// How many bytes of a locked file say who holds the lock: always as many, so that one write replaces another.
const HOLDER_BYTES: usize = 11;

/// Makes a directory's own name durable, in the one that holds it.
fn sync_name<D: Disk + ?Sized>(disk: &D, dir: &Path) -> io::Result<()> {
    match dir.parent() {
        None => Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => disk.sync_dir(Path::new(".")),
        Some(parent) => disk.sync_dir(parent),
    }
}

fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

fn holder_text(process: u32) -> String {
    format!("{process:<width$}\n", width = HOLDER_BYTES - 1)
}

/// A file system, or a simulation of one. Errors are bare `io::Error`s; the caller adds the path.
pub trait Disk: Send + Sync + Debug {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// The path with links resolved; an error if it does not exist.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The same for several, in any order, or beside each other. An error names the directory that could not be synced; others may not have been.
    fn sync_dirs(&self, dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        dirs.iter().try_for_each(|dir| self.sync_dir(dir).map_err(|e| (dir.clone(), e)))
    }
    /// Takes an exclusive lock on a file (created if absent), held until the value is dropped; `WouldBlock` if taken. The number
    /// of the process is written into it, if that can be done.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// The process that took a lock on the file last, by what it wrote there: for people, since it may have ended, and another
    /// one may have the lock and not have written yet.
    fn holder(&self, path: &Path) -> Option<u32> {
        let mut bytes = [0; HOLDER_BYTES];
        let read = self.open(path, OpenMode::Read).and_then(|file| file.read_at(0, &mut bytes)).ok()?;
        std::str::from_utf8(bytes.get(..read)?).ok()?.trim().parse().ok()
    }

    /// The numbers of the copies that the disk keeps of every file and that are complete, in the order in which they are read.
    fn copies(&self) -> Vec<usize> {
        vec![0]
    }

    /// Opens a file to read, as it is in one of the copies.
    fn open_copy(&self, path: &Path, copy: usize) -> io::Result<Arc<dyn DiskFile>> {
        let _ = copy;
        self.open(path, OpenMode::Read)
    }

    /// Told that one copy of a file does not have at `offset` what it should: `bytes`, which have passed their checksum as they
    /// lie in the copy `from`. Says whether it has them now, and can be read on. If not, it counts no more, as far as that can be
    /// made known.
    fn mend_copy(&self, path: &Path, copy: usize, from: usize, offset: u64, bytes: &[u8]) -> bool {
        let _ = (path, copy, from, offset, bytes);
        false
    }

    /// A value that changes with every start of the machine. While it stays the same, no power cut has happened.
    fn boot_id(&self) -> u128;

    /// The file system that a path lies on, which need not exist yet, and how much is free there; none where that is not
    /// known.
    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        let _ = path;
        Ok(None)
    }

    /// Creates a directory and those above it that do not exist, durably: a name is safe only once the directory that
    /// holds it has been synced. So each is made when the one above it is safe; the lowest that is there may have been made by somebody
    /// who was interrupted then.
    fn create_dir_durably(&self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty()) {
            if self.exists(ancestor)? {
                match sync_name(self, ancestor) {
                    // Who may not even look there, or cannot change anything, has made nothing there; and where nothing can be synced,
                    // nothing is gained by refusing what is there already.
                    Err(e) if is_out_of_reach(&e) => {}
                    synced => synced?,
                }
                break;
            }
            missing.push(ancestor);
        }
        for made in missing.into_iter().rev() {
            self.create_dir_all(made)?;
            sync_name(self, made)?;
        }
        Ok(())
    }

    /// The length of a file, in bytes; none for a directory.
    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.open(path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(None),
            file => file?.len().map(Some),
        }
    }

    /// A whole file; none if it does not exist. `InvalidData` if it is longer than any that is read like this.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let len = file.len()?;
        if len > MOST_READ {
            let text = format!("the file is {len} bytes long, and none of its kind has over {MOST_READ}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// The lengths of all files in a directory and below it, together; 0 if it does not exist.
    fn bytes_below(&self, dir: &Path) -> io::Result<u64> {
        let names = match self.list(dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            // Not a directory.
            Err(_) => return self.open(dir, OpenMode::Read)?.len(),
        };
        names.iter().map(|name| self.bytes_below(&dir.join(name))).sum()
    }

    /// Replaces a whole file so that, whenever the power fails, it holds the old bytes or the new ones, and on return
    /// the new ones durably: temporary file, sync, rename, sync of the directory.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        match self.remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.open(&temporary, OpenMode::CreateNew)?;
        file.write_at(0, bytes)?;
        if !plants::is("small-file-not-synced") {
            file.sync_all()?;
        }
        self.rename(&temporary, path)?;
        if plants::is("small-file-name-not-synced") {
            return Ok(());
        }
        self.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }
}

/// An open file. Offsets and lengths are in bytes.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync + Debug {
    /// Reads until `buf` is full or the file ends; returns how much was read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// The same, if it can be had without waiting for the disk: none where it cannot, where there is less of it, or where nobody can say.
    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.read_at(offset, buf).map(Some)
    }
    /// Writes all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes durable (and the length, where it grew).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the bytes and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
}
