//! The real file system, as plain calls of the standard library.
//!
//! Invariant: every call is positioned (no shared cursor), so that one handle serves many threads. Nothing is cached.

use super::cached;
use super::{Disk, DiskFile, FreeSpace, OpenMode};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How many directories are synced beside each other, each by a thread that waits for it.
const SYNCED_AT_ONCE: usize = 16;

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours; it shows up mangled, and is left alone by every reader.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::Through => write_through(options.write(true))?,
        }
        Ok(Arc::new(RealFile::new(options.open(path)?)))
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        let absolute = std::path::absolute(path)?;
        for ancestor in absolute.ancestors() {
            // One that does not answer is no reason to take what lies above it for it.
            if ancestor.try_exists()? {
                return free_space(ancestor);
            }
        }
        Ok(None)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    /// Without opening it, so that neither rights nor a want of handles are in the way.
    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        let found = std::fs::metadata(path)?;
        Ok((!found.is_dir()).then_some(found.len()))
    }

    /// Beside each other: the system then waits for the disk once for several, in place of once for each.
    fn sync_dirs(&self, dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        dirs.chunks(SYNCED_AT_ONCE).try_for_each(sync_together)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(hold(path)?))
    }

    fn boot_id(&self) -> u128 {
        static BOOT: OnceLock<u128> = OnceLock::new();
        *BOOT.get_or_init(read_boot_id)
    }
}

/// A lock that is held.
#[derive(Debug)]
struct Held {
    file: RealFile,
    process: u32,
}

impl Drop for Held {
    /// Given back in so many words: closing the file would not do, while a process that is just being started has a copy of it. A copy
    /// of this in a process that was forked off gives back nothing.
    fn drop(&mut self) {
        if self.process == std::process::id() {
            let _ = self.file.file.unlock();
        }
    }
}

fn hold(path: &Path) -> io::Result<Held> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            let held = Held { file: RealFile::new(file), process: std::process::id() };
            // For people alone: a disk that is full or broken must not keep the lock from being taken.
            let _ = held.file.write_at(0, super::holder_text(held.process).as_bytes());
            Ok(held)
        }
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn sync_together(dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    let sync = |dir: &PathBuf| sync_dir(dir).map_err(|e| (dir.clone(), e));
    let [first, rest @ ..] = dirs else { return Ok(()) };
    std::thread::scope(|scope| {
        let start = |dir| std::thread::Builder::new().spawn_scoped(scope, move || sync(dir)).map_err(|_| dir);
        let started: Vec<_> = rest.iter().map(start).collect();
        let panicked =
            |_| Err((first.clone(), io::Error::other("a thread that synced directories panicked")));
        started.into_iter().fold(sync(first), |done, one| {
            // Without a thread it is done here.
            let one = one.map_or_else(sync, |thread| thread.join().unwrap_or_else(panicked));
            done.and(one)
        })
    })
}

/// O_DSYNC makes the system flush the disk's own cache with each write, or write around that as well.
#[cfg(target_os = "linux")]
fn write_through(options: &mut OpenOptions) -> io::Result<()> {
    use rustix::fs::OFlags;
    let flags = i32::try_from((OFlags::DIRECT | OFlags::DSYNC).bits()).map_err(io::Error::other)?;
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn write_through(_: &mut OpenOptions) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    // An empty parent is what `Path` gives for a bare file name; it means the current directory.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

// Windows has no handle that syncs a directory's names; NTFS journals them itself.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// 0 where the system has no such value: readers then take every start for a start of the machine.
fn read_boot_id() -> u128 {
    let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return 0 };
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Whether it lies in memory alone, once somebody has asked.
    in_memory: OnceLock<bool>,
}

impl RealFile {
    fn new(file: File) -> RealFile {
        RealFile { file, in_memory: OnceLock::new() }
    }

    fn is_in_memory(&self) -> bool {
        *self.in_memory.get_or_init(|| is_in_memory(&self.file))
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match read_once(&self.file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// An error may be one of a file system's that cannot say what it has: who then reads and waits is told of any other.
    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if !cached::has(&self.file, offset, buf.len()).unwrap_or_else(|| self.is_in_memory()) {
            return Ok(None);
        }
        // What has been let go since then is not waited for either.
        match read_cached(&self.file, buf, offset) {
            Ok(read) => Ok((read == buf.len()).then_some(read)),
            Err(e) if e.kind() == io::ErrorKind::Unsupported && self.is_in_memory() => {
                self.read_at(offset, buf).map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match write_once(&self.file, rest, offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// What the system has in memory of it.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut bufs = [io::IoSliceMut::new(buf)];
    Ok(rustix::io::preadv2(file, &mut bufs, offset, rustix::io::ReadWriteFlags::NOWAIT)?)
}

/// Whether a file lies on tmpfs, which waits for nothing and cannot say so.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|system| u64::try_from(system.f_type) == Ok(TMPFS_MAGIC))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &File) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
fn write_once(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(windows)]
fn write_once(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

#[cfg(unix)]
fn free_space(path: &Path) -> io::Result<Option<FreeSpace>> {
    let system = rustix::fs::statvfs(path)?;
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path)?);
    Ok(Some(FreeSpace { device, free: system.f_bavail.saturating_mul(system.f_frsize) }))
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> io::Result<Option<FreeSpace>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_read_renamed_and_replaced() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let disk = RealDisk;
        let sub = dir.path().join("a/b");
        disk.create_dir_all(&sub)?;
        let path = sub.join("file");
        let file = disk.open(&path, OpenMode::CreateNew)?;
        assert!(disk.open(&path, OpenMode::CreateNew).is_err(), "CreateNew must refuse an existing file");
        file.write_at(5, b"hello")?;
        file.sync_data()?;
        assert_eq!(file.len()?, 10);
        let mut buf = [9; 8];
        assert_eq!(file.read_at(4, &mut buf)?, 6, "a read stops at the end of the file");
        assert_eq!(&buf[..6], b"\0hello");
        disk.rename(&path, &sub.join("other"))?;
        disk.sync_dirs(&[]).map_err(|(_, e)| e)?;
        disk.sync_dirs(&[sub.clone(), dir.path().join("a")]).map_err(|(_, e)| e)?;
        let missing = dir.path().join("c");
        for dirs in [[missing.clone(), sub.clone()], [sub.clone(), missing.clone()]] {
            assert_eq!(disk.sync_dirs(&dirs).unwrap_err().0, missing);
        }
        disk.replace(&sub.join("whole"), b"first")?;
        disk.replace(&sub.join("whole"), b"second")?;
        assert_eq!(disk.read(&sub.join("whole"))?.as_deref(), Some(&b"second"[..]));
        assert_eq!(disk.read(&sub.join("none"))?, None);
        assert_eq!(disk.list(&sub)?, ["other", "whole"]);
        disk.remove_dir_all(&dir.path().join("a"))?;
        assert!(!disk.exists(&sub)?);
        Ok(())
    }

    /// What is not in the system's memory is not waited for, as far as the file system can tell.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_would_have_to_be_waited_for_is_not_ready() -> io::Result<()> {
        let memory = Path::new("/dev/shm");
        let dirs =
            [Some(tempfile::tempdir()?), memory.is_dir().then(|| tempfile::tempdir_in(memory)).transpose()?];
        for dir in dirs.into_iter().flatten() {
            let path = dir.path().join("file");
            let file = RealDisk.open(&path, OpenMode::CreateNew)?;
            file.write_at(0, &[7; 8192])?;
            file.sync_data()?;
            let bare = File::open(&path)?;
            let mut buf = [0; 4096];
            let before = file.read_ready(4096, &mut buf)?;
            assert!(before.is_none() || buf == [7; 4096]);
            rustix::fs::fadvise(&bare, 0, None, rustix::fs::Advice::DontNeed)?;
            let after = file.read_ready(4096, &mut [0; 4096])?;
            if is_in_memory(&bare) {
                assert_eq!((before, after), (Some(4096), Some(4096)), "nobody waits for memory");
            } else if before.is_some() {
                assert_eq!(after, None, "{path:?}");
                assert_eq!(file.read_at(4096, &mut buf)?, 4096);
                assert_eq!(file.read_ready(4096, &mut buf)?, Some(4096));
                assert_eq!(file.read_ready(6000, &mut buf)?, None, "there is less of it");
            } else {
                println!("{path:?}: the file system does not say what it has in memory");
            }
        }
        Ok(())
    }

    #[test]
    fn a_lock_is_exclusive_and_goes_with_its_value() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        let held = RealDisk.lock(&path)?;
        assert_eq!(RealDisk.lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        assert_eq!(RealDisk.holder(&path), Some(std::process::id()));
        drop(held);
        std::fs::write(&path, "4294967295\n")?;
        assert_eq!(RealDisk.holder(&path), Some(u32::MAX));
        RealDisk.lock(&path).map(drop)?;
        assert_eq!(
            RealDisk.holder(&path),
            Some(std::process::id()),
            "it stays, and replaces a longer one whole"
        );
        for other in ["", "-1", "12 of 34", "99999999999999999999", "\u{fffd}"] {
            std::fs::write(&path, other)?;
            assert_eq!(RealDisk.holder(&path), None, "{other:?}");
        }
        assert_eq!(RealDisk.holder(dir.path()), None);
        Ok(())
    }

    /// As a process has it that another thread is just starting.
    #[test]
    fn a_lock_is_given_back_while_somebody_has_a_copy_of_its_file() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("lock");
        let held = hold(&path)?;
        let copy = held.file.file.try_clone()?;
        assert_eq!(RealDisk.lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        RealDisk.lock(&path).map(drop)?;
        drop(copy);
        Ok(())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_boot_id_is_known_and_stays() {
        assert_ne!(RealDisk.boot_id(), 0);
        assert_eq!(RealDisk.boot_id(), read_boot_id());
    }
}
