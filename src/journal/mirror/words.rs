//! The word on which copies of a journal are complete: a small file in every copy, and one in the store's directory.
//!
//! Invariants: the word of an epoch is in the store's directory and in every copy that it calls complete before anything
//! is acknowledged that the other copies lack. So a copy is believed only if its own word is of the newest epoch found
//! anywhere, and names it, and the one in the store's directory does not say otherwise for that epoch: two words of one
//! epoch may be given, one of them in part. A word in a directory that the manifest does not list is not heard: before anything is
//! acknowledged there the manifest lists it, and the store's directory has that word as well.

use super::Mirrors;
use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the file.
pub const FILE: &str = "MIRRORS";

const KIND: Kind = Kind {
    magic: b"ANNULUSR",
    version: 1,
    oldest: 1,
    name: "word on the journal's copies",
    remedy: "restore it from a copy, or remove it: without it, opening asks for every copy of the journal",
};

/// What one such file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    #[serde(with = "hex128")]
    pub store: u128,
    /// The copy that it lies in; none in the store's directory.
    pub mirror: Option<u32>,
    /// Counts the changes of what is complete.
    pub epoch: u64,
    /// The copies that are complete.
    pub good: Vec<u32>,
}

/// What the words say that were given last.
#[derive(Debug)]
pub struct Given {
    pub epoch: u64,
    /// A complete copy that is not kept, and is named until the manifest lists those that take its place: its number and
    /// directory.
    pub leaving: Option<(u32, PathBuf)>,
    /// It took no word: the store's directory has none either until the manifest lists those that take its place.
    pub deferred: bool,
}

impl Given {
    pub fn new(epoch: u64, leaving: Option<(u32, PathBuf)>) -> Given {
        Given { epoch, leaving, deferred: false }
    }
}

impl Word {
    /// Reads the word in `dir`; none if there is no such file, or no such directory.
    pub fn load(disk: &dyn Disk, dir: &Path, store: u128) -> Result<Option<Word>> {
        let path = dir.join(FILE);
        let failed = |e| envelope::unread(KIND, &path, e);
        let bytes = disk.read(&path).map_err(failed)?;
        let Some(bytes) = bytes else { return Ok(None) };
        let word: Word = envelope::decode(KIND, &path, &bytes)?;
        if word.store != store {
            let text = format!("the directory holds a copy of the journal of store {:032x}", word.store);
            return Err(Error::new(ErrorKind::Foreign, text).at(dir).remedy("name another directory"));
        }
        Ok(Some(word))
    }

    /// Sees to it that there is no word in `dir`, durably.
    pub fn remove(disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let failed = |e| Error::io("take back the word on the journal's copies", &path, e);
        match disk.remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| disk.sync_dir(dir)).map_err(failed),
        }
    }

    /// Makes it the word in `dir`, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = envelope::encode(KIND, self)?;
        disk.replace(&path, &bytes).map_err(|e| Error::io("write the word on the journal's copies", &path, e))
    }
}

impl Mirrors {
    /// Whether the word in the store's directory names none of the copies `known`: the journal was moved from them, and what says so came after
    /// what knows of these alone, since the copy that is left is named until the manifest lists the others.
    ///
    /// # Errors
    /// As [`Word::load`].
    pub fn is_elsewhere(disk: &dyn Disk, home: &Path, store: u128, known: &[u32]) -> Result<bool> {
        let word = Word::load(disk, home, store)?;
        Ok(word.is_some_and(|word| word.good.iter().all(|id| !known.contains(id))))
    }

    /// Whether nothing of a copy is in a directory: a disk that was mounted there, and is elsewhere now, leaves the mount point behind. One that
    /// cannot be looked at counts as there.
    pub fn is_away(disk: &dyn Disk, dir: &Path) -> bool {
        let missing = |path: &Path| matches!(disk.exists(path), Ok(false));
        missing(dir) || missing(&dir.join(FILE)) && matches!(Journal::is_in(disk, dir), Ok(false))
    }
}
