//! The requests of the kernel, answered from what stands behind (through.rs).

use super::fault::Operation;
use super::through::Backing;
use fuser::{
    BsdFileFlags, Config, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Nothing is kept by the kernel: a device that has died is dead at once.
const TTL: Duration = Duration::ZERO;
/// What a file system is said to have, in blocks of 4 KiB, and what is free of it unless it is full.
const BLOCKS: u64 = 1 << 20;
const FREE: u64 = 1 << 19;

struct Served(Arc<Backing>);

/// Mounts it; dropped, it is unmounted.
pub fn mount(backing: Arc<Backing>, dir: &Path) -> io::Result<fuser::BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("annulus-lab".into())];
    fuser::spawn_mount(Served(backing), dir, &config)
}

impl Served {
    fn flags(&self) -> FopenFlags {
        if self.0.cached { FopenFlags::empty() } else { FopenFlags::FOPEN_DIRECT_IO }
    }

    fn entry(&self, path: &str) -> Result<fuser::FileAttr, Errno> {
        std::fs::symlink_metadata(self.0.real(path))?;
        self.0.attributes(self.0.number(path), None)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, how: fn(&Path) -> io::Result<()>) -> Result<(), Errno> {
        let path = self.0.child_of(parent.into(), name)?;
        self.0.pass(&path, Operation::Name)?;
        how(&self.0.real(&path))?;
        self.0.renamed(&path, None);
        Ok(())
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.child_of(parent.into(), name).and_then(|path| {
            self.0.pass(&path, Operation::Look)?;
            self.entry(&path)
        });
        match found {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let path = self.0.path_of(ino.into()).unwrap_or_default();
        let found = self.0.pass(&path, Operation::Look).and_then(|()| self.0.attributes(ino.into(), handle));
        match found {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let path = self.0.path_of(ino.into()).unwrap_or_default();
        let done = || -> Result<fuser::FileAttr, Errno> {
            if let Some(size) = size {
                let grows = size > self.0.attributes(ino.into(), handle)?.size;
                self.0.pass(&path, if grows { Operation::Make } else { Operation::Name })?;
                self.0.resize(ino.into(), handle, size)?;
            }
            self.0.attributes(ino.into(), handle)
        };
        match done() {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.0.child_of(parent.into(), name).and_then(|path| {
            self.0.pass(&path, Operation::Make)?;
            std::fs::create_dir(self.0.real(&path))?;
            self.entry(&path)
        });
        match made {
            Ok(made) => reply.entry(&TTL, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, |path| std::fs::remove_file(path)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, |path| std::fs::remove_dir(path)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = || -> Result<(), Errno> {
            if !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let from = self.0.child_of(parent.into(), name)?;
            let to = self.0.child_of(new_parent.into(), new_name)?;
            self.0.pass(&from, Operation::Name)?;
            std::fs::rename(self.0.real(&from), self.0.real(&to))?;
            self.0.renamed(&from, Some(&to));
            Ok(())
        };
        answer(done(), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.0.child_of(parent.into(), name).and_then(|path| {
            self.0.pass(&path, Operation::Make)?;
            let (ino, handle) = self.0.open(&path, flags, Some(mode))?;
            Ok((self.0.attributes(ino, None)?, handle))
        });
        match made {
            Ok((made, handle)) => reply.created(&TTL, &made, Generation(0), FileHandle(handle), self.flags()),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.0.path_of(ino.into()).and_then(|path| {
            self.0.pass(&path, Operation::Look)?;
            self.0.open(&path, flags.0, None)
        });
        match opened {
            Ok((_, handle)) => reply.opened(FileHandle(handle), self.flags()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.opened(handle).and_then(|open| self.0.read(&open, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.opened(handle).and_then(|open| self.0.write(&open, offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.0.opened(handle).and_then(|open| self.0.sync(&open)), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.0.path_of(ino.into()).and_then(|path| self.0.pass(&path, Operation::Sync)), reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.close(handle);
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = || -> Result<Vec<(u64, FileType, String)>, Errno> {
            let path = self.0.path_of(ino.into())?;
            self.0.pass(&path, Operation::Look)?;
            let mut names = Vec::new();
            for entry in std::fs::read_dir(self.0.real(&path))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind =
                    if entry.file_type()?.is_dir() { FileType::Directory } else { FileType::RegularFile };
                let child = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                names.push((self.0.number(&child), kind, name));
            }
            names.sort_by(|a, b| a.2.cmp(&b.2));
            Ok(names)
        };
        match listed() {
            Ok(names) => {
                let dots = [".", ".."].map(|name| (u64::from(ino), FileType::Directory, name.to_owned()));
                let all = dots.into_iter().chain(names).enumerate().skip(offset as usize);
                for (at, (number, kind, name)) in all {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let path = self.0.path_of(ino.into()).unwrap_or_default();
        let free = if self.0.is_full(&path) { 0 } else { FREE };
        reply.statfs(BLOCKS, free, free, BLOCKS, FREE, 4096, 255, 4096);
    }
}
