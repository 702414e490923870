//! An open file of a simulated disk, and a lock on one.

use super::{Machine, Operation, SimDisk};
use crate::disk::{BLOCK, DiskFile};
use crate::sync::{Mutex, MutexGuard};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug)]
pub struct SimFile {
    pub disk: SimDisk,
    pub path: PathBuf,
    pub number: u64,
    pub writable: bool,
    /// Each write is synced at once, by itself.
    pub through: bool,
}

impl SimFile {
    fn enter(&self, operation: Operation) -> io::Result<MutexGuard<'_, Machine>> {
        let m = self.disk.enter(operation, &self.path)?;
        if operation.changes() && !self.writable && operation != Operation::Sync {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(m)
    }

    fn sync(&self, bytes: Range<u64>) -> io::Result<()> {
        match self.enter(Operation::Sync) {
            Ok(mut m) => {
                m.inode(self.number)?.sync(bytes);
                Ok(())
            }
            Err(e) => {
                let mut m = self.disk.machine.lock();
                // A stopped or dead process did not reach the disk; only a sync that failed there drops dirty bytes.
                if m.check(self.disk.process).is_ok() {
                    m.inode(self.number)?.sync_failed(bytes);
                }
                Err(e)
            }
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut m, failure) = match self.enter(Operation::Write) {
            Ok(m) => (m, None),
            Err(e) => {
                let m = self.disk.machine.lock();
                if !m.faults.short {
                    return Err(e);
                }
                (m, Some(e))
            }
        };
        m.faults.short = false;
        let stopped = m.faults.stopped;
        let room = m.room();
        let end = offset + bytes.len() as u64;
        let grown = end.saturating_sub(m.inode(self.number)?.len());
        let fits =
            bytes.len().saturating_sub(usize::try_from(grown.saturating_sub(room)).unwrap_or(usize::MAX));
        let mut count = fits;
        if stopped || failure.is_some() {
            count = count.min(m.rng.below(bytes.len() as u64 + 1) as usize);
        }
        m.inode(self.number)?.write(offset, bytes.get(..count).unwrap_or(bytes));
        match failure {
            Some(e) => Err(e),
            None if stopped => Err(io::Error::other("the simulated process has been stopped")),
            None if fits < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.enter(Operation::Read)?.inode(self.number)?.read(offset, buf))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let whole = |length: u64| length.is_multiple_of(BLOCK as u64);
        let fits = whole(offset) && whole(bytes.len() as u64) && bytes.as_ptr().align_offset(BLOCK) == 0;
        if self.through && !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.write(offset, bytes)?;
        if self.through { self.sync(offset..offset + bytes.len() as u64) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(0..u64::MAX)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(0..u64::MAX)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut m = self.enter(Operation::SetLen)?;
        let grown = len.saturating_sub(m.inode(self.number)?.len());
        if grown > m.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        m.inode(self.number)?.set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.enter(Operation::Look)?.inode(self.number)?.len())
    }
}

pub struct SimLock {
    pub machine: Arc<Mutex<Machine>>,
    pub path: PathBuf,
    pub token: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut m = self.machine.lock();
        // A lock from before a crash must not free the one that the next process holds.
        if m.locks.get(&self.path) == Some(&self.token) {
            m.locks.remove(&self.path);
        }
    }
}
