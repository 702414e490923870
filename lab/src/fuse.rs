//! The disks as files of a small FUSE file system, so that loop devices can stand on them.
//!
//! The loop driver turns a flush of its block device into an fsync of the file, and has no way of its own to write a single
//! block durably (FUA), so the kernel does that with a flush behind it: both arrive here as `fsync`. Requests are answered one
//! after the other by one thread, so whatever was answered before a flush came is in it.

use crate::disk::Disk;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

type Shared = Arc<Mutex<HashMap<u64, Arc<Mutex<Disk>>>>>;
/// The disks that do not answer.
type Silent = Arc<(Mutex<HashSet<u64>>, Condvar)>;

const TTL: Duration = Duration::from_secs(60);

/// A mounted file system of disks; dropped, it is unmounted.
pub struct Rack {
    dir: PathBuf,
    disks: Shared,
    silent: Silent,
    next: AtomicU64,
    _session: fuser::BackgroundSession,
}

impl Rack {
    pub fn mount(dir: &Path) -> io::Result<Rack> {
        let disks = Shared::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("annulus-lab".into())];
        let silent = Silent::default();
        let session = fuser::spawn_mount(Fs(disks.clone(), silent.clone()), dir, &config)?;
        Ok(Rack { dir: dir.to_owned(), disks, silent, next: AtomicU64::new(2), _session: session })
    }

    /// Plugs a disk in; returns the path of its file. No file ever has another one's name, so nothing that the kernel keeps of
    /// one disk is found in the next.
    pub fn plug(&self, disk: Arc<Mutex<Disk>>) -> (u64, PathBuf) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.disks).insert(number, disk);
        (number, self.dir.join(format!("disk-{number}")))
    }

    /// From now on the disk answers nothing, until it is to.
    pub fn silence(&self, number: u64) {
        lock(&self.silent.0).insert(number);
    }

    pub fn answer(&self, number: u64) {
        lock(&self.silent.0).remove(&number);
        self.silent.1.notify_all();
    }

    pub fn unplug(&self, number: u64) {
        lock(&self.disks).remove(&number);
    }
}

pub fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Fs(Shared, Silent);

impl Fs {
    /// Does something with a disk and answers: at once, or, where it is silent, on a thread of its own when it is not any more, so that others are served
    /// meanwhile.
    fn when_it_answers(&self, ino: INodeNo, work: impl FnOnce(Option<Arc<Mutex<Disk>>>) + Send + 'static) {
        let (number, disk) = (u64::from(ino), self.disk(ino));
        if !lock(&self.1.0).contains(&number) {
            return work(disk);
        }
        let silent = self.1.clone();
        std::thread::spawn(move || {
            let mut all = lock(&silent.0);
            while all.contains(&number) {
                all = silent.1.wait(all).unwrap_or_else(PoisonError::into_inner);
            }
            drop(all);
            work(disk);
        });
    }

    fn disk(&self, ino: INodeNo) -> Option<Arc<Mutex<Disk>>> {
        lock(&self.0).get(&u64::from(ino)).cloned()
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let root = ino == INodeNo::ROOT;
        let size = if root { 0 } else { lock(&*self.disk(ino)?).bytes() };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root { FileType::Directory } else { FileType::RegularFile },
            perm: if root { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        })
    }
}

impl Filesystem for Fs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.strip_prefix("disk-")?.parse().ok());
        match number.and_then(|number| self.attributes(INodeNo(number))) {
            Some(found) => reply.entry(&TTL, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk(ino) {
            Some(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.when_it_answers(ino, move |disk| {
            let Some(disk) = disk else { return reply.error(Errno::EIO) };
            let disk = lock(&disk);
            let left = usize::try_from(disk.bytes().saturating_sub(offset)).unwrap_or(0);
            let mut out = vec![0; left.min(size as usize)];
            disk.read(offset, &mut out);
            reply.data(&out);
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if !lock(&self.1.0).contains(&u64::from(ino)) {
            let Some(disk) = self.disk(ino) else { return reply.error(Errno::EIO) };
            lock(&disk).write(offset, data);
            return reply.written(data.len() as u32);
        }
        let data = data.to_vec();
        self.when_it_answers(ino, move |disk| {
            let Some(disk) = disk else { return reply.error(Errno::EIO) };
            lock(&disk).write(offset, &data);
            reply.written(data.len() as u32);
        });
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.when_it_answers(ino, move |disk| {
            let Some(disk) = disk else { return reply.error(Errno::EIO) };
            lock(&disk).flush();
            reply.ok();
        });
    }

    /// Not a flush of the disk: `close` says nothing of durability.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        // Discards and quick zeroing: the kernel writes zeros itself where it must.
        reply.error(Errno::EOPNOTSUPP);
    }
}
