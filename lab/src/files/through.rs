//! A file system that hands everything on to a directory, and fails, forgets or falsifies what it is told to.
//!
//! Invariants:
//! - Without an armed fault it is what the directory is.
//! - What a failed sync was for is gone: the file is as it was after the last sync that succeeded. So is all that was not synced on a
//!   device that dies.
//! - A name is durable as soon as it is there.
//! - What is read, written and synced is so under the lock under which it was judged: no other operation comes between.

use super::fault::{Armed, Fault, Operation, Target};
use crate::Random;
use crate::fuse::lock;
use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo};
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

/// A write that no sync has followed: what was there before, and how long the file was.
struct Undo {
    offset: u64,
    before: Vec<u8>,
    length: u64,
}

impl Undo {
    /// What has been written durably over it stays when it is undone.
    fn settle(&mut self, offset: u64, bytes: &[u8]) {
        let from = self.offset.max(offset);
        let to = (self.offset + self.before.len() as u64).min(offset + bytes.len() as u64);
        if from < to {
            let within = |start: u64| (from - start) as usize..(to - start) as usize;
            self.before[within(self.offset)].copy_from_slice(&bytes[within(offset)]);
        }
    }
}

/// A file that is open.
pub struct Open {
    pub file: File,
    pub ino: u64,
    /// What it writes is durable at once.
    through: bool,
}

#[derive(Default)]
struct Node {
    /// None once it has been deleted.
    path: Option<String>,
    unsynced: Vec<Undo>,
    /// Something that was not synced is gone, and nobody has been told: as with a real system, the next who waits for the disk is.
    lost: bool,
}

struct State {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<String, u64>,
    next: u64,
    open: HashMap<u64, Arc<Open>>,
    armed: Option<Armed>,
    struck: u64,
    random: Random,
}

impl State {
    /// The path of an open file; one that was deleted has none, and nothing befalls it.
    fn name(&self, open: &Open) -> String {
        self.nodes.get(&open.ino).and_then(|node| node.path.clone()).unwrap_or_default()
    }

    /// Whether something of it is gone that nobody has been told of; whoever asks tells it.
    fn has_lost(&mut self, open: &Open) -> bool {
        self.nodes.get_mut(&open.ino).is_some_and(|node| std::mem::take(&mut node.lost))
    }
}

/// What is done with an operation.
pub enum Verdict {
    Pass,
    Fail(Errno),
    Silently(Fault),
}

impl Verdict {
    fn passed(self) -> Result<(), Errno> {
        match self {
            Verdict::Fail(error) => Err(error),
            Verdict::Pass | Verdict::Silently(_) => Ok(()),
        }
    }
}

/// What the file system hands on to, and what goes wrong.
pub struct Backing {
    root: PathBuf,
    target: Target,
    /// The system may keep what it has read and written.
    pub cached: bool,
    state: Mutex<State>,
}

impl Backing {
    pub fn new(root: &Path, target: Target, cached: bool, random: Random) -> Backing {
        let mut state = State {
            nodes: HashMap::new(),
            numbers: HashMap::new(),
            next: 2,
            open: HashMap::new(),
            armed: None,
            struck: 0,
            random,
        };
        state.nodes.insert(1, Node { path: Some(String::new()), ..Node::default() });
        state.numbers.insert(String::new(), 1);
        Backing { root: root.to_owned(), target, cached, state: Mutex::new(state) }
    }

    pub fn arm(&self, armed: Armed) {
        lock(&self.state).armed = Some(armed);
    }

    pub fn lift(&self) {
        lock(&self.state).armed = None;
    }

    /// How many operations it has befallen.
    pub fn struck(&self) -> u64 {
        lock(&self.state).struck
    }

    /// Whether it befalls nothing any more.
    pub fn is_spent(&self) -> bool {
        lock(&self.state).armed.as_ref().is_none_or(Armed::is_spent)
    }

    /// Whether the file system looks full to who asks for what is free at this path.
    pub fn is_full(&self, path: &str) -> bool {
        let state = lock(&self.state);
        let is_full = |armed: &Armed| matches!(armed.fault, Fault::NoSpace | Fault::Quota);
        self.target.is_on_disk_of(path) && state.struck > 0 && state.armed.as_ref().is_some_and(is_full)
    }

    pub fn path_of(&self, ino: u64) -> Result<String, Errno> {
        lock(&self.state).nodes.get(&ino).and_then(|node| node.path.clone()).ok_or(Errno::ENOENT)
    }

    pub fn child_of(&self, parent: u64, name: &std::ffi::OsStr) -> Result<String, Errno> {
        let parent = self.path_of(parent)?;
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        Ok(if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") })
    }

    pub fn real(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The number of what has this path.
    pub fn number(&self, path: &str) -> u64 {
        let mut state = lock(&self.state);
        if let Some(number) = state.numbers.get(path) {
            return *number;
        }
        let number = state.next;
        state.next += 1;
        state.numbers.insert(path.to_owned(), number);
        state.nodes.insert(number, Node { path: Some(path.to_owned()), ..Node::default() });
        number
    }

    /// Something has another name from now on, or none; what lies below it as well.
    pub fn renamed(&self, from: &str, to: Option<&str>) {
        let mut state = lock(&self.state);
        if let Some(gone) = to.and_then(|to| state.numbers.remove(to))
            && let Some(node) = state.nodes.get_mut(&gone)
        {
            node.path = None;
        }
        let below = format!("{from}/");
        let moved: Vec<String> =
            state.numbers.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
        for path in moved {
            let Some(number) = state.numbers.remove(&path) else { continue };
            let new = to.map(|to| format!("{to}{}", &path[from.len()..]));
            if let Some(new) = &new {
                state.numbers.insert(new.clone(), number);
            }
            if let Some(node) = state.nodes.get_mut(&number) {
                node.path = new;
            }
        }
    }

    /// What is to become of an operation on this path. What is done by it follows under the same lock where a device must not die in between.
    fn judge(&self, state: &mut State, path: &str, operation: Operation) -> Verdict {
        if !self.target.has(path) {
            return Verdict::Pass;
        }
        let Some(armed) = &mut state.armed else { return Verdict::Pass };
        if !armed.strikes(operation) {
            return Verdict::Pass;
        }
        let fault = armed.fault;
        state.struck += 1;
        if fault == Fault::Dead && state.struck == 1 {
            self.lose_all(state);
        }
        match fault {
            Fault::NoSpace => Verdict::Fail(Errno::ENOSPC),
            Fault::Quota => Verdict::Fail(Errno::EDQUOT),
            fault if fault.is_silent() => Verdict::Silently(fault),
            _ => Verdict::Fail(Errno::EIO),
        }
    }

    /// The same, where it either goes on or fails, and no matter when.
    pub fn pass(&self, path: &str, operation: Operation) -> Result<(), Errno> {
        self.judge(&mut lock(&self.state), path, operation).passed()
    }

    pub fn open(&self, path: &str, flags: i32, create: Option<u32>) -> Result<(u64, u64), Errno> {
        let flags = OFlag::from_bits_truncate(flags);
        let writes = flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(writes).truncate(writes && flags.contains(OFlag::O_TRUNC));
        if let Some(mode) = create {
            let new = flags.contains(OFlag::O_EXCL);
            options.create(!new).create_new(new).mode(mode);
        }
        let file = options.open(self.real(path)).map_err(Errno::from)?;
        let through = flags.intersects(OFlag::O_DSYNC | OFlag::O_SYNC);
        let ino = self.number(path);
        let mut state = lock(&self.state);
        let handle = state.next;
        state.next += 1;
        state.open.insert(handle, Arc::new(Open { file, ino, through }));
        Ok((ino, handle))
    }

    pub fn opened(&self, handle: FileHandle) -> Result<Arc<Open>, Errno> {
        lock(&self.state).open.get(&u64::from(handle)).cloned().ok_or(Errno::EBADF)
    }

    pub fn close(&self, handle: FileHandle) {
        lock(&self.state).open.remove(&u64::from(handle));
    }

    pub fn read(&self, open: &Open, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut state = lock(&self.state);
        let path = state.name(open);
        self.judge(&mut state, &path, Operation::Read).passed()?;
        let mut out = vec![0; length];
        let mut done = 0;
        while done < length {
            match open.file.read_at(&mut out[done..], offset + done as u64).map_err(Errno::from)? {
                0 => break,
                read => done += read,
            }
        }
        out.truncate(done);
        Ok(out)
    }

    pub fn write(&self, open: &Open, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let path = state.name(open);
        let length = open.file.metadata().map_err(Errno::from)?.len();
        let grows = offset + bytes.len() as u64 > length;
        let operation = Operation::Write { grows, through: open.through };
        let verdict = self.judge(&mut state, &path, operation);
        if let Verdict::Fail(error) = verdict {
            return Err(error);
        }
        if open.through && state.has_lost(open) {
            return Err(Errno::EIO);
        }
        let (mut bytes, mut offset) = (bytes.to_vec(), offset);
        if let Verdict::Silently(fault) = verdict {
            match fault {
                Fault::Lost => return Ok(()),
                Fault::Flipped => {
                    let at = state.random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << state.random.below(8);
                }
                _ => {
                    let places = length.saturating_sub(bytes.len() as u64) / 512;
                    offset = state.random.below(places + 1) * 512;
                }
            }
        }
        if self.target.has(&path) && !open.through {
            let mut before = vec![0; bytes.len()];
            let read = open.file.read_at(&mut before, offset).map_err(Errno::from)?;
            before.truncate(read);
            if let Some(node) = state.nodes.get_mut(&open.ino) {
                node.unsynced.push(Undo { offset, before, length });
            }
        }
        if open.through {
            let unsynced = state.nodes.get_mut(&open.ino).map(|node| &mut node.unsynced);
            unsynced.into_iter().flatten().for_each(|undo| undo.settle(offset, &bytes));
        }
        open.file.write_all_at(&bytes, offset).map_err(Errno::from)
    }

    pub fn sync(&self, open: &Open) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let path = state.name(open);
        let told = if state.has_lost(open) { Err(Errno::EIO) } else { Ok(()) };
        let verdict = self.judge(&mut state, &path, Operation::Sync).passed().and(told);
        let unsynced = state.nodes.get_mut(&open.ino).map(|node| std::mem::take(&mut node.unsynced));
        if verdict.is_err() {
            undo(&open.file, unsynced.unwrap_or_default());
        }
        verdict
    }

    /// What was not synced is gone.
    fn lose_all(&self, state: &mut State) {
        for node in state.nodes.values_mut() {
            let unsynced = std::mem::take(&mut node.unsynced);
            node.lost |= !unsynced.is_empty();
            let Some(path) = node.path.as_ref().filter(|_| !unsynced.is_empty()) else { continue };
            if let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(self.root.join(path)) {
                undo(&file, unsynced);
            }
        }
    }

    pub fn attributes(&self, ino: u64, handle: Option<FileHandle>) -> Result<FileAttr, Errno> {
        let about = match (handle.and_then(|handle| self.opened(handle).ok()), self.path_of(ino)) {
            (Some(open), _) => open.file.metadata(),
            (None, Ok(path)) => std::fs::symlink_metadata(self.real(&path)),
            (None, Err(error)) => {
                // Deleted, and open still.
                let open = lock(&self.state).open.values().find(|open| open.ino == ino).cloned();
                open.ok_or(error)?.file.metadata()
            }
        };
        about.map(|about| attributes(ino, &about)).map_err(Errno::from)
    }

    pub fn resize(&self, ino: u64, handle: Option<FileHandle>, length: u64) -> Result<(), Errno> {
        let resized = match handle.and_then(|handle| self.opened(handle).ok()) {
            Some(open) => open.file.set_len(length),
            None => {
                let path = self.real(&self.path_of(ino)?);
                std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(length))
            }
        };
        resized.map_err(Errno::from)
    }
}

fn undo(file: &File, unsynced: Vec<Undo>) {
    for write in unsynced.into_iter().rev() {
        // Of a directory that the test owns: what fails here shows in what is found later.
        let _ = file.write_all_at(&write.before, write.offset).and_then(|()| file.set_len(write.length));
    }
}

fn attributes(ino: u64, about: &std::fs::Metadata) -> FileAttr {
    let time = |time: io::Result<std::time::SystemTime>| time.unwrap_or(UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(ino),
        size: about.len(),
        blocks: about.blocks(),
        atime: time(about.accessed()),
        mtime: time(about.modified()),
        ctime: time(about.modified()),
        crtime: UNIX_EPOCH,
        kind: if about.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (about.permissions().mode() & 0o7777) as u16,
        nlink: about.nlink() as u32,
        uid: about.uid(),
        gid: about.gid(),
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_durably_over_a_write_that_is_undone_stays() {
        let mut undo = Undo { offset: 10, before: vec![0; 10], length: 100 };
        undo.settle(15, &[7; 20]);
        assert_eq!(undo.before, [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
        undo.settle(0, &[8; 12]);
        assert_eq!(undo.before, [8, 8, 0, 0, 0, 7, 7, 7, 7, 7]);
        undo.settle(20, &[9; 5]);
        undo.settle(0, &[9; 10]);
        assert_eq!(undo.before, [8, 8, 0, 0, 0, 7, 7, 7, 7, 7]);
    }
}
