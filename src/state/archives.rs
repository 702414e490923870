//! The archives that the journal goes to: how far each has got, and what was dropped since. The journal is kept for the one that is behind the
//! furthest.
//!
//! Invariants: a small file in the store's directory has what an opening must know, so that the journal is kept from its first moment on; it is
//! never ahead of an archive; nothing is written there once the store has been closed. One at a time adds to an archive.

mod lacking;
mod stretches;

use crate::backup::CheckpointId;
use crate::backup::piece::Mark;
use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stretches::Stretches;

/// The name of the file in the store's directory.
pub const FILE: &str = "ARCHIVES";

const KIND: Kind = Kind {
    magic: b"ANNULUSH",
    version: 2,
    oldest: 1,
    name: "list of archives",
    // Without it nothing would be kept, and what is not archived yet would be gone with the next flush.
    remedy: "leave it: it is written anew when the store is archived next, and all of the journal is kept until then",
};

/// What is written while no archive is known to have damaged pieces: such a list has nothing that version 2 brought.
const WITHOUT_DAMAGE: Kind = Kind { version: 1, ..KIND };

/// The most archives of one store.
const MOST: usize = 64;

/// An archive that a store's journal is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArchiveHold {
    /// The repository that it lies in, by the number that was drawn for it.
    #[serde(with = "hex128")]
    pub repository: u128,
    /// What it is complete up to; the journal is kept from behind that on, up to its bound.
    pub upto: Seq,
    /// It has writes that this store has given up since, with a part of its journal: nothing is added to it, and nothing kept for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

/// A keyspace that has been dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    pub id: KeyspaceId,
    pub name: String,
    /// What the log had come to; [`Seq::MAX`] until that is known.
    pub at: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(with = "hex128")]
    store: u128,
    archives: Vec<ArchiveHold>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<Dropped>,
    /// Since version 2, which is written only where there is such a thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<lacking::Damaged>,
}

/// The archives of an open store.
#[derive(Debug)]
pub struct Archives {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Who archives into a repository, one at a time.
    turns: Mutex<HashMap<u128, Arc<Mutex<()>>>>,
    /// What was noted of the time that no piece tells yet, of each. Held for a moment.
    marks: Mutex<HashMap<u128, Arc<Mutex<Vec<Mark>>>>>,
    /// What each of them is complete up to, for those who must not wait for the file that `inner` is held over. A leaf under that.
    ends: Mutex<Vec<Seq>>,
    /// What the journal begins with, or less.
    begins: AtomicU64,
    /// Who wrote the log. Held over its file; comes before `inner`.
    stretches: Mutex<Stretches>,
}

#[derive(Debug)]
struct Inner {
    saved: Saved,
    /// What there was could not be read, so nobody knows how far the archives are: all of the journal is kept until one of them is heard of.
    unknown: bool,
    /// There is one that the file does not have.
    unsaved: bool,
    /// Of something that was dropped the file does not have up to which write it was there.
    drops_unsaved: bool,
    /// Those whose last commits have been seen to be this store's, in this opening.
    compared: HashSet<u128>,
    /// Up to where what they lack has been seen to lie before a checkpoint, and before which.
    bridged: HashMap<u128, (Seq, CheckpointId)>,
    /// Of each that is being added to what the pieces have that come before the one that is being made: that one may have been read
    /// when the journal no longer has what it is of.
    telling: HashMap<u128, Seq>,
    closed: bool,
}

/// Somebody is about to tell an archive what was dropped. Made by [`Archives::telling`].
#[derive(Debug)]
pub struct Telling<'a> {
    archives: &'a Archives,
    repository: u128,
}

impl Telling<'_> {
    /// Of all that was dropped before this it has told.
    pub fn told(&self, before: Seq) {
        self.archives.inner.lock().telling.insert(self.repository, before);
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.archives.inner.lock().telling.remove(&self.repository);
    }
}

impl Inner {
    fn get(&mut self, repository: u128) -> Option<&mut ArchiveHold> {
        self.saved.archives.iter_mut().find(|hold| hold.repository == repository)
    }

    /// What each is complete up to that anything is kept for.
    fn ends(&self) -> Vec<Seq> {
        if self.unknown {
            return vec![Seq::ZERO];
        }
        self.saved.archives.iter().filter(|hold| !hold.given_up).map(|hold| hold.upto).collect()
    }
}

impl Archives {
    /// As an earlier opening left them; `live`: the keyspaces that exist. What cannot be read is no reason not to open the store.
    ///
    /// # Errors
    /// `Unsupported` if another release wrote the file.
    pub fn load(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        store: u128,
        live: &HashSet<KeyspaceId>,
    ) -> Result<Archives> {
        let path = dir.join(FILE);
        let read = match disk.read(&path) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => envelope::decode::<Saved>(KIND, &path, &bytes).map(Some),
            Err(e) => Err(Error::io("read the list of archives", &path, e)),
        };
        let (saved, unknown) = match read {
            Ok(saved) => {
                let found = saved.is_some();
                let ours = saved.filter(|saved| saved.store == store);
                let unknown = found && ours.is_none();
                (ours, unknown)
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(error) => {
                log::error!("all of the journal is kept until an archive is added to: {error}");
                (None, true)
            }
        };
        let mut saved =
            saved.unwrap_or(Saved { store, archives: Vec::new(), dropped: Vec::new(), damaged: Vec::new() });
        // The process may have ended between the word and the deed.
        saved.dropped.retain(|dropped| !live.contains(&dropped.id));
        let inner = Inner {
            saved,
            unknown,
            unsaved: false,
            drops_unsaved: false,
            compared: HashSet::new(),
            bridged: HashMap::new(),
            telling: HashMap::new(),
            closed: false,
        };
        let ends = Mutex::new(inner.ends());
        let stretches = Mutex::new(Stretches::load(disk.as_ref(), dir, store)?);
        let (disk, inner) = (disk.clone(), Mutex::new(inner));
        let (turns, marks) = (Mutex::default(), Mutex::default());
        Ok(Archives { disk, path, inner, turns, marks, ends, begins: AtomicU64::new(0), stretches })
    }

    /// What all archives are complete up to that need nothing older than `from`; [`Seq::MAX`]: there is none.
    pub fn least(&self, from: Seq) -> Seq {
        self.ends(from).into_iter().min().unwrap_or(Seq::MAX)
    }

    /// What each of them is complete up to.
    pub fn ends(&self, from: Seq) -> Vec<Seq> {
        self.ends.lock().iter().copied().filter(|end| end.next() >= from).collect()
    }

    /// Keeps what was dropped for whoever adds to an archive, however far the journal is trimmed meanwhile.
    pub fn telling(&self, repository: u128) -> Telling<'_> {
        self.inner.lock().telling.insert(repository, Seq::ZERO);
        Telling { archives: self, repository }
    }

    /// The turn to add to the archive in a repository. Held over all that it takes.
    pub fn turn(&self, repository: u128) -> Arc<Mutex<()>> {
        self.turns.lock().entry(repository).or_default().clone()
    }

    /// What is noted of the time for the archive in a repository, by whoever archives there; the first one is `opened`.
    pub fn marks(&self, repository: u128, opened: Mark) -> Arc<Mutex<Vec<Mark>>> {
        let begin = || Arc::new(Mutex::new(vec![opened]));
        self.marks.lock().entry(repository).or_insert_with(begin).clone()
    }

    pub fn list(&self) -> Vec<ArchiveHold> {
        self.inner.lock().saved.archives.clone()
    }

    pub fn get(&self, repository: u128) -> Option<ArchiveHold> {
        self.inner.lock().get(repository).copied()
    }

    /// The journal has nothing before this, durably: no archive that is new here could tell of what was dropped before.
    pub fn log_begins(&self, first: Seq) {
        self.begins.store(first.0, Ordering::Release);
    }

    /// What the archive that is furthest has, and its repository: what is archived was synced before.
    pub fn furthest(&self) -> Option<(Seq, u128)> {
        let inner = self.inner.lock();
        let holds = inner.saved.archives.iter().filter(|hold| !hold.given_up);
        holds.map(|hold| (hold.upto, hold.repository)).max()
    }

    /// The log ends here, at an opening: archives that have more of it have what was given up, which the file says on return.
    ///
    /// # Errors
    /// `Io`: it does not say so of an archive.
    pub fn log_ends(&self, last: Seq) -> Result<()> {
        self.goes_on_after(last);
        let mut inner = self.inner.lock();
        let (mut news, mut given_up) = (false, false);
        // What was dropped later, as a log had it that is lost, is gone before the writes that get its numbers now.
        for dropped in inner.saved.dropped.iter_mut().filter(|dropped| dropped.at > last) {
            (dropped.at, news) = (last, true);
        }
        inner.drops_unsaved |= news;
        for hold in inner.saved.archives.iter_mut().filter(|hold| hold.upto > last && !hold.given_up) {
            (hold.given_up, given_up) = (true, true);
            log::error!(
                "the archive in repository {:032x} has this store's writes up to {}, and the journal has been given up after {last}",
                hold.repository,
                hold.upto
            );
        }
        match news || given_up {
            true => self.save(&mut inner).or_else(|error| {
                // Of a drop it is in memory now, and written down with whatever is written next.
                log::error!("{error}");
                if given_up { Err(error) } else { Ok(()) }
            }),
            false => Ok(()),
        }
    }

    /// Nothing more of the journal is let go, until it is known how far an archive that is new here has got.
    ///
    /// # Errors
    /// `Refused` if there are too many.
    pub fn begin(&self, repository: u128) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.saved.archives.len() >= MOST {
            let text = format!("the journal is kept for {MOST} archives already");
            let remedy = "forget those that are added to no more: archives() lists them";
            return Err(Error::new(ErrorKind::Refused, text).at(&self.path).remedy(remedy));
        }
        inner.saved.archives.push(ArchiveHold { repository, upto: Seq::ZERO, given_up: false });
        inner.unsaved = true;
        self.publish(&inner);
        Ok(())
    }

    /// It has come to nothing.
    pub fn give_up(&self, repository: u128) {
        let mut inner = self.inner.lock();
        inner.saved.archives.retain(|hold| hold.repository != repository);
        inner.saved.damaged.retain(|damaged| damaged.repository != repository);
        self.publish(&inner);
    }

    /// An archive is complete up to here, durably. That is durable on return.
    ///
    /// # Errors
    /// `Io`: the archive counts as less far at the next opening. `Closed`.
    pub fn reached(&self, repository: u128, upto: Seq) -> Result<()> {
        let mut inner = self.inner.lock();
        // Forgotten meanwhile: nothing is known by that of the others.
        let Some(hold) = inner.get(repository) else { return Ok(()) };
        let has_moved = std::mem::replace(&mut hold.upto, upto) != upto;
        let news = std::mem::take(&mut inner.unknown) || inner.unsaved;
        if !has_moved && !news {
            return Ok(());
        }
        self.publish(&inner);
        self.save(&mut inner)
    }

    /// Whether the end of an archive has yet to be seen to be of this store's history.
    pub fn is_to_be_compared(&self, repository: u128) -> bool {
        !self.inner.lock().compared.contains(&repository)
    }

    pub fn compared(&self, repository: u128) {
        self.inner.lock().compared.insert(repository);
    }

    /// Keeps nothing for an archive any more, durably; whether anything was. Whoever is adding to it goes on, and is not heard of any more.
    ///
    /// # Errors
    /// `Io`: it is as it was. `Closed`.
    pub fn forget(&self, repository: u128) -> Result<bool> {
        let mut inner = self.inner.lock();
        let Some(at) = inner.saved.archives.iter().position(|hold| hold.repository == repository) else {
            return Ok(false);
        };
        let before = inner.saved.clone();
        inner.saved.archives.remove(at);
        inner.saved.damaged.retain(|damaged| damaged.repository != repository);
        if let Err(error) = self.save(&mut inner) {
            inner.saved = before;
            return Err(error);
        }
        inner.compared.remove(&repository);
        inner.bridged.remove(&repository);
        self.publish(&inner);
        Ok(true)
    }

    /// A keyspace is about to be dropped: an archive that is behind, or has yet to begin, still has to tell of it. That is durable on return.
    ///
    /// # Errors
    /// `Io`, `Closed`: it is not to be dropped.
    pub fn dropping(&self, dropped: Dropped) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.saved.dropped.push(dropped);
        self.save(&mut inner).inspect_err(|_| drop(inner.saved.dropped.pop()))
    }

    /// It was not dropped after all.
    pub fn not_dropped(&self, id: KeyspaceId) {
        let mut inner = self.inner.lock();
        let before = inner.saved.dropped.len();
        inner.saved.dropped.retain(|dropped| dropped.id != id);
        // Where that fails, the next opening sees that the keyspace is there.
        if inner.saved.dropped.len() < before
            && let Err(error) = self.save(&mut inner)
        {
            log::warn!("{error}");
        }
    }

    /// It was dropped, and this is what the log had come to. What cannot be written down of it takes the drop back no more: the file says that it
    /// was there up to the log's end at the next opening.
    pub fn dropped(&self, id: KeyspaceId, at: Seq) {
        let mut inner = self.inner.lock();
        for dropped in inner.saved.dropped.iter_mut().filter(|dropped| dropped.id == id) {
            dropped.at = at;
        }
        inner.drops_unsaved = true;
        if let Err(error) = self.save(&mut inner) {
            log::warn!("{error}");
        }
    }

    /// Writes down what could not be: of two keyspaces of one name the file is to say up to which write the first was there.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub fn write_drops(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.drops_unsaved { self.save(&mut inner) } else { Ok(()) }
    }

    /// The keyspaces that were dropped at this sequence or later.
    pub fn dropped_since(&self, seq: Seq) -> Vec<Dropped> {
        let inner = self.inner.lock();
        inner.saved.dropped.iter().filter(|dropped| dropped.at >= seq).cloned().collect()
    }

    /// From here on nothing is written: the file is the next opening's.
    pub fn close(&self) {
        // Whoever is about to write that file has ended then.
        let _stretches = self.stretches.lock();
        self.inner.lock().closed = true;
    }

    fn publish(&self, inner: &Inner) {
        *self.ends.lock() = inner.ends();
    }

    fn save(&self, inner: &mut Inner) -> Result<()> {
        if inner.closed {
            return Err(closed());
        }
        // A list that is damaged says to keep everything, which one without the archives that it had would not.
        if inner.unknown {
            return Ok(());
        }
        // No piece that is yet to be made begins before the journal, whatever the archive lacks that it goes to. At its beginning: a checkpoint of
        // that very moment may have it.
        let begins = Seq(self.begins.load(Ordering::Acquire).saturating_sub(1));
        let told = inner.telling.values().copied().fold(begins, Seq::min);
        let mut next = inner.saved.clone();
        next.dropped.retain(|dropped| dropped.at >= told);
        let kind = if next.damaged.is_empty() { WITHOUT_DAMAGE } else { KIND };
        let bytes = envelope::encode(kind, &next)?;
        self.disk
            .replace(&self.path, &bytes)
            .map_err(|e| Error::io("write the list of archives", &self.path, e))?;
        (inner.saved, inner.unsaved, inner.drops_unsaved) = (next, false, false);
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store has been closed").remedy("open it again")
}

#[cfg(test)]
mod tests;
