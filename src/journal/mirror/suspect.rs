//! Which copies may be in memory what they are not on their disks, after a failed write or sync, when a store is opened.
//!
//! Invariant: that one copy cannot be asked has no other one made anew: those that are whole would be fewer for as long as that takes.

use super::copy;
use super::open::{Found, Place};
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use crate::journal::segment;
use std::path::Path;

impl Found {
    /// The believed copies of which the system may hold bytes in memory that it no longer means to write, which comparing would not show: all
    /// where one has the note of that, and the one that serves gets it, so that the journal writes it again. One that cannot be asked may
    /// have it; that says nothing of the others, which were asked themselves.
    pub(super) fn suspects(&self, best: usize, serves: &Path) -> Result<Vec<(usize, Error)>> {
        let noted = |dir: &Path| self.disk.exists(&dir.join(segment::POISONED));
        let (mut all, mut unread) = (self.accepted, Vec::new());
        for (index, place) in self.believed() {
            match noted(&place.dir) {
                Ok(noted) => all |= noted,
                Err(e) if index != best => {
                    let error = Error::io("look for the note of a failed sync of the journal", &place.dir, e);
                    unread.push((index, error));
                }
                Err(_) => all = true,
            }
        }
        if !all {
            return Ok(unread);
        }
        if let Ok(false) = noted(serves) {
            let io = |e| Error::io("note a failed sync in a copy of the journal", serves, e);
            self.disk.open(&serves.join(segment::POISONED), OpenMode::CreateNew).map_err(io)?;
            copy::sync_dir(self.disk.as_ref(), serves)?;
        }
        let failed = |place: &Place| Error::corruption("a sync of the journal has failed").at(&place.dir);
        Ok(self.believed().map(|(index, place)| (index, failed(place))).collect())
    }
}
