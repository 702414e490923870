//! A simulated disk: files in memory that lose what a real disk may lose, from a seed.
//!
//! Invariants it keeps, and tests rely on:
//! - A power cut keeps what was synced, and of the rest a subset that the seed picks: 512-byte sectors one by one (so
//!   writes are torn and reordered), names one by one. A sector is whole: its old bytes or its new ones.
//! - The death of the process keeps everything that was handed over.
//! - After either, every handle from before fails, and locks are free.
//! - A failed sync leaves the bytes readable but no longer due for writing, as Linux does: only writing them again
//!   and syncing makes them durable.
//! - The same calls with the same seeds give the same bytes.

mod ends;
mod faults;
mod file;
mod inode;
mod names;

use super::{Disk, DiskFile, FreeSpace, OpenMode};
use crate::sync::Mutex;
use faults::Faults;
use file::{SimFile, SimLock};
use inode::Inode;
use names::{Names, Node};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use ends::{OpenEnds, OpenNames};
pub use faults::{Fault, Operation};
pub use inode::OpenFile;

/// A power cut; the seed picks what survives of the bytes and names that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCut {
    pub seed: u64,
}

/// A handle on a simulated disk; clones share it. It belongs to one simulated process: after [`crash`](Self::crash) or
/// [`kill`](Self::kill) it fails every call, and the handle they return is the next process's.
#[derive(Debug, Clone)]
pub struct SimDisk {
    machine: Arc<Mutex<Machine>>,
    process: u64,
}

#[derive(Debug, Clone)]
struct Machine {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: Names,
    process: u64,
    boot: u64,
    locks: BTreeMap<PathBuf, u64>,
    next_lock: u64,
    operations: u64,
    faults: Faults,
    capacity: Option<u64>,
    /// Where other file systems begin.
    mounts: Vec<PathBuf>,
    rng: Rng,
    /// Whether files keep what was written over before it was synced.
    versions: bool,
    watch: Option<Watch>,
}

type Look = dyn Fn(&SimDisk) + Send + Sync;

/// Who looks at the disk before it changes.
#[derive(Clone)]
struct Watch(Arc<Look>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        let machine = Machine {
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: Names::default(),
            process: 1,
            boot: 1,
            locks: BTreeMap::new(),
            next_lock: 1,
            operations: 0,
            faults: Faults::default(),
            capacity: None,
            mounts: Vec::new(),
            rng: Rng(seed),
            versions: false,
            watch: None,
        };
        SimDisk { machine: Arc::new(Mutex::new(machine)), process: 1 }
    }

    /// Cuts the power and starts the machine again: unsynced bytes and names survive by chance, faults are cleared,
    /// the boot id is new. Returns the handle of the process that runs next.
    pub fn crash(&self, cut: PowerCut) -> SimDisk {
        let mut m = self.machine.lock();
        let mut rng = Rng(cut.seed);
        m.names.lose(&mut rng);
        let live = m.names.live_inodes();
        m.inodes.retain(|number, _| live.contains(number));
        for inode in m.inodes.values_mut() {
            inode.lose(&mut rng);
        }
        m.boot += 1;
        self.restart(&mut m)
    }

    /// Ends the process: everything that was handed over stays, as the machine runs on. Faults are cleared.
    pub fn kill(&self) -> SimDisk {
        self.restart(&mut self.machine.lock())
    }

    fn restart(&self, m: &mut Machine) -> SimDisk {
        m.process += 1;
        m.locks.clear();
        m.faults = Faults::default();
        SimDisk { machine: self.machine.clone(), process: m.process }
    }

    /// A disk of its own with the same bytes, names, dirty state and running process; handles of this one stay with it.
    pub fn fork(&self) -> SimDisk {
        SimDisk { machine: Arc::new(Mutex::new(self.machine.lock().clone())), process: self.process }
    }

    /// How many operations that change the disk have been asked for (writes, syncs, lengths, creations, renames,
    /// removals, syncs of directories).
    pub fn operations(&self) -> u64 {
        self.machine.lock().operations
    }

    /// Lets `count` more changing operations through; the next one, if it is a write, stops at a random byte, and from
    /// then on every call fails, until [`crash`](Self::crash) or [`kill`](Self::kill).
    pub fn stop_after(&self, count: u64) {
        let mut m = self.machine.lock();
        m.faults.stop_at = Some(m.operations + count);
    }

    /// Whether [`stop_after`](Self::stop_after) has struck.
    pub fn stopped(&self) -> bool {
        self.machine.lock().faults.stopped
    }

    /// Shows the disk to `look` before every operation that changes it, also between a write past the cache and its own
    /// sync. `look` may ask for what is on the disk, and must not change it.
    pub fn watch(&self, look: impl Fn(&SimDisk) + Send + Sync + 'static) {
        self.machine.lock().watch = Some(Watch(Arc::new(look)));
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.machine.lock().faults.rules.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.machine.lock().faults = Faults::default();
    }

    /// The bytes that all files together may hold; none: any number. A write over it fills the disk, then fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine.lock().capacity = bytes;
    }

    /// From `dir` on it is another file system, for whoever asks; their room is one and the same. One that was unmounted is
    /// back, with all that it had.
    pub fn mount(&self, dir: &Path) {
        let mut m = self.machine.lock();
        m.names.mount(dir);
        if !m.mounts.iter().any(|mount| mount == dir) {
            m.mounts.push(dir.to_path_buf());
        }
    }

    /// Takes the file system that begins with `dir` away: an empty directory is left.
    pub fn unmount(&self, dir: &Path) {
        self.machine.lock().names.unmount(dir);
    }

    /// Changes a file's bytes behind everybody's back, durably: damage.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut m = self.machine.lock();
        let number = m.names.file(path)?;
        m.inode(number)?.damage(change);
        Ok(())
    }

    /// Gives a directory another set of names, durably; each new name takes over the file of an old one. Damage, too.
    pub fn rearrange(&self, dir: &Path, names: &[(&str, &str)]) -> io::Result<()> {
        let mut m = self.machine.lock();
        let mut found = Vec::new();
        for (old, new) in names {
            let number = m.names.file(&dir.join(old))?;
            let copy = m.inode(number)?.clone();
            found.push((dir.join(new), copy));
        }
        m.names.clear_dir(dir);
        for (path, inode) in found {
            let number = m.add(inode);
            m.names.force(&path, number);
        }
        Ok(())
    }

    fn enter(&self, operation: Operation, path: &Path) -> io::Result<crate::sync::MutexGuard<'_, Machine>> {
        let watch = if operation.changes() { self.machine.lock().watch.clone() } else { None };
        if let Some(Watch(look)) = watch {
            look(self);
        }
        let mut m = self.machine.lock();
        m.check(self.process)?;
        m.count(operation)?;
        m.faults.strike(operation, path)?;
        Ok(m)
    }
}

impl Machine {
    fn check(&self, process: u64) -> io::Result<()> {
        if self.process != process {
            return Err(io::Error::other("this handle is from before the simulated crash"));
        }
        if self.faults.stopped {
            return Err(io::Error::other("the simulated process has been stopped"));
        }
        Ok(())
    }

    fn count(&mut self, operation: Operation) -> io::Result<()> {
        if !operation.changes() {
            return Ok(());
        }
        if self.faults.stop_at.is_some_and(|at| self.operations >= at) {
            self.faults.stopped = true;
            if operation != Operation::Write {
                return Err(io::Error::other("the simulated process has been stopped"));
            }
        }
        self.operations += 1;
        Ok(())
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        number
    }

    fn room(&self) -> u64 {
        let Some(capacity) = self.capacity else { return u64::MAX };
        let live = self.names.live_now();
        let used: u64 = live.iter().filter_map(|n| self.inodes.get(n)).map(Inode::len).sum();
        capacity.saturating_sub(used)
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing = self.enter(Operation::Look, dir)?.names.missing_dirs(dir)?;
        for dir in missing {
            self.enter(Operation::Create, &dir)?.names.make_dir(&dir);
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.enter(Operation::Look, dir)?.names.list(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        let machine = self.enter(Operation::Look, path)?;
        let within = |dir: &PathBuf| path.starts_with(dir) && !machine.names.is_away(dir);
        let device = machine.mounts.iter().rposition(within).map_or(1, |index| index as u64 + 2);
        let known = machine.capacity.is_some() || !machine.mounts.is_empty();
        Ok(known.then(|| FreeSpace { device, free: machine.room() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.enter(Operation::Look, path)?.names.get(path).is_some())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        match self.enter(Operation::Look, path)?.names.get(path) {
            Some(_) => Ok(names::normal(path)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let operation = if mode == OpenMode::CreateNew { Operation::Create } else { Operation::Look };
        let mut m = self.enter(operation, path)?;
        let number = match (m.names.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(number)), _) => number,
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, OpenMode::CreateNew) => {
                m.names.check_parent(path)?;
                let inode = if m.versions { Inode::with_versions() } else { Inode::default() };
                let number = m.add(inode);
                m.names.create(path, number);
                number
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        let writable = mode != OpenMode::Read;
        let through = mode == OpenMode::Through;
        Ok(Arc::new(SimFile { disk: self.clone(), path: names::normal(path), number, writable, through }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Operation::Rename, from)?.names.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::Remove, path)?.names.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.enter(Operation::Remove, dir)?.names.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.enter(Operation::SyncDir, dir)?.names.sync(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.exists(path)? {
            drop(self.open(path, OpenMode::CreateNew)?);
        }
        let mut m = self.enter(Operation::Look, path)?;
        let path = names::normal(path);
        if m.locks.contains_key(&path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let token = m.next_lock;
        m.next_lock += 1;
        m.locks.insert(path.clone(), token);
        // At once, and durably: nobody relies on it, and so it takes no part in what a power cut or a fault may hit.
        let holder = super::holder_text(u32::try_from(m.process).unwrap_or(u32::MAX));
        if let Ok(number) = m.names.file(&path) {
            m.inode(number)?.damage(|bytes| *bytes = holder.into_bytes());
        }
        Ok(Box::new(SimLock { machine: self.machine.clone(), path, token }))
    }

    fn boot_id(&self) -> u128 {
        u128::from(self.machine.lock().boot)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

/// How much a power cut spares; picked anew for names and for each file, so that every mixture comes up.
#[derive(Debug, Clone, Copy)]
struct Mood(u64);

impl Mood {
    fn pick(rng: &mut Rng) -> Mood {
        Mood(match rng.below(5) {
            0 => 0,
            1 => 8,
            2 => 4,
            3 => 1,
            _ => 7,
        })
    }

    fn spares(self, rng: &mut Rng) -> bool {
        rng.below(8) < self.0
    }
}

#[cfg(test)]
mod tests;
