//! A journal that is begun in directories of one that is lost in all it had.
//!
//! Invariant: a directory loses the word that it had before a journal is begun there, and gets its new one when one was begun in each: no word
//! ever calls a journal complete that it was not given for.

use super::open::{Place, end_of_age};
use super::words::Word;
use super::{Locks, Mirrors};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::journal::{Journal, JournalConfig};
use std::path::Path;
use std::sync::Arc;

impl Mirrors {
    /// The epoch of the newest word in the store's directory and the `places`; none if there is no word.
    pub fn newest_word(disk: &dyn Disk, home: &Path, store: u128, places: &[Place]) -> Option<u64> {
        let dirs = places.iter().map(|place| place.dir.as_path()).chain([home]);
        dirs.filter_map(|dir| Word::load(disk, dir, store).ok().flatten()).map(|word| word.epoch).max()
    }

    /// The epoch of such a journal's first words, of an age that no copy which is away can have got to, as far as is known. The first one of an age
    /// is that of a copy that is accepted.
    pub fn afresh_after(newest: u64) -> u64 {
        end_of_age(newest).saturating_add(2)
    }

    /// Begins a journal in `dir` whose first write will be `next`; what there was goes, and must have been found to have none. On return
    /// that is durable.
    ///
    /// # Errors
    /// `Locked`, `Io`, `Unavailable`, `Full`; `Foreign`: there are writes.
    pub fn begin_afresh(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        locks: &Locks,
        config: JournalConfig,
        next: Seq,
    ) -> Result<()> {
        disk.create_dir_durably(dir).map_err(|e| Error::io("make the journal's directory", dir, e))?;
        locks.take(disk.as_ref(), dir)?;
        Word::remove(disk.as_ref(), dir)?;
        Journal::create(disk.clone(), dir, config, next)?.close()
    }

    /// Says in each of the `places` that all of them are complete, and no others.
    ///
    /// # Errors
    /// `Io`.
    pub fn vouch_afresh(disk: &dyn Disk, store: u128, places: &[Place], epoch: u64) -> Result<()> {
        let good: Vec<u32> = places.iter().map(|place| place.id).collect();
        let word = |place: &Place| Word { store, mirror: Some(place.id), epoch, good: good.clone() };
        places.iter().try_for_each(|place| word(place).store(disk, &place.dir))
    }
}
