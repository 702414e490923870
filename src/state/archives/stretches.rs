//! Which openings wrote the store's log: what a checkpoint and a piece of an archive say of that, and what theirs are compared with.
//!
//! Invariants: nothing is told to a repository that is not written down in the store's directory first, so a copy of the store has all that was told of
//! what it holds; from the first time on that something is told each opening draws a number before it writes anything.

use super::{Archives, closed};
use crate::backup::lineage::{Kin, Lineage};
use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

/// The name of the file in the store's directory.
pub const FILE: &str = "HISTORY";

const KIND: Kind = Kind {
    magic: b"ANNULUSY",
    version: 1,
    oldest: 1,
    name: "list of the openings that wrote to the store",
    remedy: "leave it: it is written anew with the next checkpoint, and what lies before is not told from another history then",
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(with = "hex128")]
    store: u128,
    stretches: Lineage,
}

/// The stretches of a store's log.
#[derive(Debug, Default)]
pub struct Stretches {
    lineage: Lineage,
    /// Where the stretch of this opening begins, if it has one.
    begun: Option<Seq>,
    /// The file has it.
    saved: bool,
}

impl Stretches {
    /// As an earlier opening left them. What cannot be read is no reason not to open the store.
    ///
    /// # Errors
    /// `Unsupported` if another release wrote the file.
    pub fn load(disk: &dyn Disk, dir: &Path, store: u128) -> Result<Stretches> {
        let path = dir.join(FILE);
        let read = match disk.read(&path) {
            Ok(None) => return Ok(Stretches::default()),
            Ok(Some(bytes)) => envelope::decode::<Saved>(KIND, &path, &bytes),
            Err(e) => Err(envelope::unread(KIND, &path, e)),
        };
        match read {
            Ok(saved) if saved.store == store && saved.stretches.check(Seq::MAX).is_ok() => {
                Ok(Stretches { lineage: saved.stretches, ..Stretches::default() })
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
            unusable => {
                let why =
                    unusable.err().map_or_else(|| "it is another store's".to_owned(), |e| e.to_string());
                log::error!(
                    "{}: checkpoints and archives of before are not told from another history of the store: {why}",
                    path.display()
                );
                Ok(Stretches::default())
            }
        }
    }

    /// This opening writes from behind `from` on. Once is enough, unless the log turns out to end earlier.
    fn begin(&mut self, from: Seq) {
        if self.begun.is_none_or(|begun| from < begun) {
            self.lineage.begin(random(), from);
            (self.begun, self.saved) = (Some(from), false);
        }
    }
}

impl Archives {
    /// The log ends here, at an opening, and goes on with other writes: what it had behind that is of what is given up. Without a file nothing was told
    /// of it.
    ///
    /// # Errors
    /// `Io`: what is given up would pass for the store's own.
    pub fn parts_after(&self, last: Seq) -> Result<()> {
        let mut stretches = self.stretches.lock();
        if stretches.lineage.is_empty() {
            return Ok(());
        }
        stretches.begin(last);
        self.save_stretches(&mut stretches)
    }

    /// The same where nothing is given up: what cannot be written down now is when something is told.
    pub(super) fn goes_on_after(&self, last: Seq) {
        if let Err(error) = self.parts_after(last) {
            log::error!("{error}");
        }
    }

    /// What a repository may be told, by an opening that began with `opened`; none where it cannot be written down.
    pub fn told(&self, opened: Seq) -> Lineage {
        let mut stretches = self.stretches.lock();
        stretches.begin(opened);
        match self.save_stretches(&mut stretches) {
            Ok(()) => stretches.lineage.clone(),
            Err(error) => {
                log::warn!("what is saved does not tell of which history of the store it is: {error}");
                Lineage::default()
            }
        }
    }

    /// What this store is to what has the write `seq`, of the stretch `owner`.
    pub fn kin(&self, seq: Seq, owner: Option<u128>) -> Kin {
        self.stretches.lock().lineage.kin(seq, owner)
    }

    fn save_stretches(&self, stretches: &mut Stretches) -> Result<()> {
        if stretches.saved {
            return Ok(());
        }
        let (closed_by_now, store) = {
            let inner = self.inner.lock();
            (inner.closed, inner.saved.store)
        };
        if closed_by_now {
            return Err(closed());
        }
        let path = self.path.with_file_name(FILE);
        let saved = Saved { store, stretches: stretches.lineage.clone() };
        let bytes = envelope::encode(KIND, &saved)?;
        self.disk
            .replace(&path, &bytes)
            .map_err(|e| Error::io(&format!("write the {}", KIND.name), &path, e))?;
        stretches.saved = true;
        Ok(())
    }
}

/// 128 bits from the operating system's random numbers, by way of the standard library's hash keys.
fn random() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use std::collections::HashSet;
    use std::sync::Arc;

    fn load(disk: &Arc<dyn Disk>) -> Archives {
        Archives::load(disk, Path::new("/store"), 7, &HashSet::new()).unwrap()
    }

    fn opened(disk: &Arc<dyn Disk>, last: u64) -> Archives {
        let archives = load(disk);
        archives.log_ends(Seq(last)).unwrap();
        archives
    }

    fn new() -> Arc<dyn Disk> {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/store")).unwrap();
        Arc::new(disk)
    }

    #[test]
    fn every_opening_has_a_stretch_of_its_own_once_something_was_told() {
        let disk = new();
        let read = || disk.read(&Path::new("/store").join(FILE)).unwrap();
        opened(&disk, 5);
        assert!(read().is_none(), "nothing was told, and something is written");
        let first = opened(&disk, 10).told(Seq(10));
        assert!(read().is_some());
        assert_eq!((first.owner(Seq(10)), first.owner(Seq(11)).is_some()), (None, true));
        // It tells nothing, and what it writes is its own all the same.
        opened(&disk, 20);
        let third = opened(&disk, 30).told(Seq(30));
        let owners: Vec<_> = [11, 20, 21, 30, 31].iter().map(|seq| third.owner(Seq(*seq))).collect();
        assert_eq!((owners[0], owners[2]), (owners[1], owners[3]));
        assert!(owners[0] == first.owner(Seq(11)) && owners[0] != owners[2] && owners[2] != owners[4]);
        // Of two copies that are opened neither has what the other writes.
        let (one, other) = (opened(&disk, 40), opened(&disk, 40));
        let (one, other) = (one.told(Seq(40)), other);
        assert_eq!(other.kin(Seq(41), one.owner(Seq(41))), Kin::Other);
        assert_eq!(other.kin(Seq(40), one.owner(Seq(40))), Kin::Same);
    }

    /// As docs/FORMAT.md says, for ever.
    #[test]
    fn a_list_of_the_first_version_is_read_and_gone_on_with() {
        let disk = new();
        let digits = |id: u128| format!("{id:032x}");
        let stretch = |id, from| format!(r#"{{"id":"{}","from":{from}}}"#, digits(id));
        let body =
            format!(r#"{{"store":"{}","stretches":[{},{}]}}"#, digits(7), stretch(5, 0), stretch(6, 10));
        let mut bytes = b"ANNULUSY".to_vec();
        let (version, length) = (1u32.to_le_bytes(), (body.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        [&version[..], &length, body.as_bytes()].into_iter().for_each(|part| crc.update(part));
        for part in [&version[..], &length, &crc.finalize().to_le_bytes(), body.as_bytes()] {
            bytes.extend_from_slice(part);
        }
        let path = Path::new("/store").join(FILE);
        disk.replace(&path, &bytes).unwrap();
        let told = opened(&disk, 20).told(Seq(20));
        assert_eq!(
            [0, 1, 10, 11, 20].map(|seq| told.owner(Seq(seq))),
            [None, Some(5), Some(5), Some(6), Some(6)]
        );
        let written = disk.read(&path).unwrap().unwrap();
        assert!(written[20..].starts_with(&body.as_bytes()[..body.len() - 2]) && written[8..12] == version);
    }

    #[test]
    fn what_was_given_up_is_another_history_though_numbers_go_on_behind_it() {
        let disk = new();
        let before = opened(&disk, 0).told(Seq(0));
        let after = load(&disk);
        after.parts_after(Seq(20)).unwrap();
        // What the journal begins with then.
        after.log_ends(Seq(1 << 32)).unwrap();
        assert_eq!(after.kin(Seq(20), before.owner(Seq(20))), Kin::Same);
        assert_eq!(after.kin(Seq(40), before.owner(Seq(40))), Kin::Other);
        let later = opened(&disk, (1 << 32) + 9);
        assert_eq!(later.kin(Seq(40), before.owner(Seq(40))), Kin::Other);
        assert_eq!(later.kin(Seq(20), before.owner(Seq(20))), Kin::Same);
    }

    #[test]
    fn a_list_that_is_damaged_tells_nothing_and_one_of_a_later_release_is_left_alone() {
        let disk = new();
        let before = opened(&disk, 0).told(Seq(0));
        let path = Path::new("/store").join(FILE);
        let whole = disk.read(&path).unwrap().unwrap();
        for bytes in [whole[..whole.len() - 1].to_vec(), Vec::new()] {
            disk.replace(&path, &bytes).unwrap();
            let damaged = opened(&disk, 40);
            assert_eq!(damaged.kin(Seq(40), before.owner(Seq(40))), Kin::Unknown);
            let anew = damaged.told(Seq(40));
            assert_eq!((anew.owner(Seq(40)), anew.owner(Seq(41)).is_some()), (None, true));
        }
        let later = Saved { store: 7, stretches: before.clone() };
        disk.replace(&path, &envelope::encode(Kind { version: 2, ..KIND }, &later).unwrap()).unwrap();
        let error = Archives::load(&disk, Path::new("/store"), 7, &HashSet::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        disk.replace(&path, &envelope::encode(KIND, &Saved { store: 8, ..later }).unwrap()).unwrap();
        assert_eq!(load(&disk).kin(Seq(1), before.owner(Seq(1))), Kin::Unknown);
    }
}
