//! What only a shard's disk can say, as it was seen last: how large the engine's files are, and what was set aside.
//!
//! Invariant: whoever wants to know it without waiting finds what the last look found, whichever thread that was on; a look that
//! fails leaves it as it was.

use super::{Quarantined, Shard};
use crate::error::Result;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    disk_bytes: u64,
    quarantined: Vec<Quarantined>,
}

impl Shard {
    /// Looks how large the files of the engine are that answers reads. Waits for the disk.
    pub fn look_at_size(&self) -> Result<()> {
        let bytes = self.engine()?.disk_bytes()?;
        self.seen.lock().disk_bytes = bytes;
        Ok(())
    }

    /// Looks what has been set aside in the directory. Waits for the disk.
    pub fn look_at_quarantined(&self) -> Result<()> {
        let found = self.quarantined()?;
        self.seen.lock().quarantined = found;
        Ok(())
    }

    /// The bytes of the engine's files, as they were seen last; 0 if they never were.
    pub fn size_seen(&self) -> u64 {
        self.seen.lock().disk_bytes
    }

    /// What was set aside, as it was seen last.
    pub fn quarantined_seen(&self) -> Vec<Quarantined> {
        self.seen.lock().quarantined.clone()
    }
}
