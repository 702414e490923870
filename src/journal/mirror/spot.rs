//! Putting a frame into one copy again that another copy has: whoever reads beside the writers has found it damaged.
//!
//! Invariants:
//! - Nobody writes meanwhile, and no file gets another name: two copies of a file are the same then, but for damage.
//! - The copy that is written to still counts, and takes every write. So it goes on counting only if it is the same as the other
//!   afterwards, as far around as one damaged block reaches, and is left out for whatever else is found.

use super::Mirrors;
use crate::disk::{BLOCK, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::health::note_failure;
use crate::sync::atomic::Ordering;
use std::path::Path;

/// In so many places a copy is mended; one that is damaged in more is made anew.
const MOST: u32 = 16;

impl Mirrors {
    /// Puts `bytes` into a file again as it lies in one copy, as they lie in another; says whether that went well. If not, the copy
    /// is left out, unless no word can be given of it: then it counts as before, since it has all that was written and can be told
    /// from a whole one by whoever reads it.
    pub fn mend_spot(&self, path: &Path, index: usize, from: usize, offset: u64, bytes: &[u8]) -> bool {
        let _gate = self.gate.write();
        let counts = |index| self.good().any(|good| good == index);
        // Left out meanwhile, or freed: then it is not missed.
        let there = self.disk.exists(&self.place(from, path)).unwrap_or(false);
        if self.check().is_err() || !counts(index) || !counts(from) || !there {
            return false;
        }
        self.touch(path);
        let Err(cause) = self.put_in(path, index, from, offset, bytes) else { return true };
        let unsynced = cause.kind() == ErrorKind::Io;
        if let Err(e) = self.drop_copies(vec![(index, cause)]) {
            if unsynced {
                // It may have it in memory alone, and the next opening is not to take that for durable.
                note_failure(self.disk.as_ref(), self.dir_of(index));
            }
            log::warn!(
                "a copy of the journal is damaged, and counts on, since no word of it can be given: {e}"
            );
        }
        false
    }

    fn put_in(&self, path: &Path, index: usize, from: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (here, there) = (self.place(index, path), self.place(from, path));
        let failed = |e| Error::io("mend a copy of the journal", &here, e).offset(offset);
        let damaged = |what: &str| Error::corruption(what).at(&here).offset(offset);
        let mended = self.copies.get(index).map_or(0, |copy| copy.mended.fetch_add(1, Ordering::Relaxed));
        if mended >= MOST {
            return Err(damaged("the copy of the journal is damaged in many places"));
        }
        let copy = self.disk.open(&here, OpenMode::Write).map_err(failed)?;
        let len = copy.len().map_err(failed)?;
        // That the other cannot be read in some other place is nothing to be held against this one.
        let whole = self.disk.open(&there, OpenMode::Read).ok();
        if whole.as_ref().and_then(|whole| whole.len().ok()).is_some_and(|whole| whole != len) {
            return Err(damaged("the file has another length in another copy of the journal"));
        }
        copy.write_at(offset, bytes).map_err(failed)?;
        copy.sync_data().map_err(failed)?;
        let begin = offset - offset % BLOCK as u64;
        let end = (offset + bytes.len() as u64).next_multiple_of(BLOCK as u64);
        let (mut ours, mut theirs) = (vec![0; BLOCK], vec![0; BLOCK]);
        for at in (begin..end).step_by(BLOCK) {
            let found = copy.read_at(at, &mut ours).map_err(failed)?;
            let wanted = whole.as_ref().and_then(|whole| whole.read_at(at, &mut theirs).ok());
            if wanted.is_some_and(|wanted| ours.get(..found) != theirs.get(..wanted)) {
                return Err(damaged("the copy of the journal is damaged around this place"));
            }
        }
        log::warn!(
            "the copy of the journal at {} was damaged at byte {offset}, and is mended",
            here.display()
        );
        Ok(())
    }
}
