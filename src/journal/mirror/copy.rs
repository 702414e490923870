//! Making one copy's directory like another's.
//!
//! Invariants:
//! - The copy that is changed is not counted complete while this goes on; on return all of it is durable. After a failed sync the
//!   system may hold bytes in memory that it no longer means to write, so what is copied from scratch is copied into new files.
//! - A file of the target is replaced only when all of the source's has been read: the target may be all that is left.
//! - Nor by damage: what the target has in such a place is put into the source before.
//! - Nor by what is no longer the source's: a file that was freed and used again while it was copied takes no place.
//! - Whatever ends it, the target can be accepted: its segments are replaced in the order of the log, and it is never without one.
//! - What an error says of the source is not held against the target.
//! - Where the target fails, what was added to it goes again, but for the one segment that takes the place of a log which has gone: about as
//!   much is free as was before.

use super::whole;
use crate::disk::{Disk, DiskFile, FreeSpace, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::scan::Reader;
use crate::journal::segment::{self, Name, Origin};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How much is copied at a time.
const STEP: usize = 256 << 10;
/// How the name of a file ends that is being copied.
const UNFINISHED: &str = ".copy";

/// Which of the two directories has not done its part.
#[derive(Debug)]
pub enum Failed {
    Source(Error),
    Target(Error),
}

pub type Outcome<T> = std::result::Result<T, Failed>;

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Source(e) | Failed::Target(e) => e,
        }
    }
}

/// The journal's own files in a directory.
pub fn names(disk: &dyn Disk, dir: &Path) -> Result<BTreeSet<String>> {
    let listed = disk.list(dir).map_err(|e| Error::io("list a copy of the journal", dir, e))?;
    Ok(listed.into_iter().filter(|name| is_ours(name)).collect())
}

/// Those that end as a segment's name does, and are none.
pub fn misnamed(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    let mut listed = disk.list(dir).map_err(|e| Error::io("list a copy of the journal", dir, e))?;
    listed.retain(|name| segment::parse_name(name) == Name::Misnamed);
    Ok(listed)
}

fn is_ours(name: &str) -> bool {
    !matches!(segment::parse_name(name), Name::Other | Name::Misnamed)
}

/// Whether the bytes of such a file mean nothing to whoever finds it: only he knows them who has it open.
pub fn is_blank(name: &str) -> bool {
    matches!(segment::parse_name(name), Name::Spare(_) | Name::Temporary)
}

pub fn is_segment(name: &str) -> bool {
    matches!(segment::parse_name(name), Name::Segment(_))
}

/// Whether it is what an interrupted copying has left.
pub fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(is_ours)
}

/// Whether it is that, or has a name that is no segment's.
fn is_left(name: &str) -> bool {
    segment::parse_name(name) == Name::Misnamed || is_unfinished(name)
}

pub fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove a file from a copy of the journal", path, e))
        }
        _ => Ok(()),
    }
}

pub fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(|e| Error::io("sync a copy of the journal", dir, e))
}

/// From one directory into the other.
pub struct Copying<'a> {
    pub disk: &'a dyn Disk,
    pub from: &'a Path,
    pub to: &'a Path,
    /// Set where it is to end as soon as it can.
    pub stop: &'a AtomicBool,
    /// Held alone where nobody may be writing to the source; none: nobody is.
    pub gate: Option<&'a RwLock<()>>,
    /// Damage of the source is mended from the target, or copied as it is.
    pub make_do: bool,
}

impl Copying<'_> {
    pub fn source(&self, e: io::Error, name: &str) -> Failed {
        Failed::Source(Error::io("read a copy of the journal", self.from.join(name), e))
    }

    pub fn target(&self, e: io::Error, name: &str) -> Failed {
        Failed::Target(Error::io("make a copy of the journal", self.to.join(name), e))
    }

    pub fn go_on(&self) -> Outcome<()> {
        match self.stop.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                Err(Failed::Target(Error::new(ErrorKind::Closed, "the store is being closed").at(self.to)))
            }
        }
    }

    /// The names in both.
    pub fn names(&self) -> Outcome<(BTreeSet<String>, BTreeSet<String>)> {
        let wanted = names(self.disk, self.from).map_err(Failed::Source)?;
        Ok((wanted, names(self.disk, self.to).map_err(Failed::Target)?))
    }

    /// Removes from the target what an interrupted copying has left, and files of a name that is no segment's: they would keep the
    /// journal from opening.
    pub fn sweep(&self) -> Outcome<()> {
        for name in self.listed()?.iter().filter(|name| is_left(name)) {
            let path = self.to.join(name);
            remove(self.disk, &path).map_err(Failed::Target)?;
            if segment::parse_name(name) == Name::Misnamed {
                log::warn!(
                    "{} had no segment's name, and is removed from a copy of the journal",
                    path.display()
                );
            }
        }
        self.sync()
    }

    /// Removes from the target what was being made or copied when it was left out: it is of no use there, whether or not there is room now for what is.
    pub fn discard(&self) -> Outcome<()> {
        let of_no_use = |name: &&String| is_unfinished(name) || segment::parse_name(name) == Name::Temporary;
        for name in self.listed()?.iter().filter(of_no_use) {
            remove(self.disk, &self.to.join(name)).map_err(Failed::Target)?;
        }
        Ok(())
    }

    fn listed(&self) -> Outcome<Vec<String>> {
        let failed = |e| Failed::Target(Error::io("list a copy of the journal", self.to, e));
        self.disk.list(self.to).map_err(failed)
    }

    /// Refuses, before anything is changed, where the target has no room for what the source holds: to fill the disk to the last byte
    /// takes the room of whoever else writes there, and makes no copy. More is asked for than the files have now, since each is there twice for a
    /// moment and, beside those who `write`, they grow in number meanwhile. Where it is not known how much is free, that is no reason to refuse.
    pub fn check_room(&self, write: bool) -> Outcome<()> {
        let Ok(Some(FreeSpace { free, .. })) = self.disk.space(self.to) else { return Ok(()) };
        let (mut all, mut longest) = (0_u64, 0);
        for name in names(self.disk, self.from).map_err(Failed::Source)? {
            if let Some(file) = self.open(&name)? {
                let len = file.len().map_err(|e| self.source(e, &name))?;
                (all, longest) = (all.saturating_add(len), len.max(longest));
            }
        }
        let len = |name: &String| self.disk.open(&self.to.join(name), OpenMode::Read)?.len();
        let ours = |name: &&String| is_ours(name) || is_left(name);
        // What cannot be looked at may not make room either.
        let held = self.listed()?.iter().filter(ours).filter_map(|name| len(name).ok()).sum::<u64>();
        let growth = if write { (all / 4).saturating_add(longest) } else { 0 };
        let needed = all.saturating_add(longest).saturating_add(growth);
        let there = free.saturating_add(held);
        if needed <= there {
            return Ok(());
        }
        let text = format!(
            "a copy of the journal needs about {needed} bytes, and no more than {there} are free, or taken by it already"
        );
        let error = Error::new(ErrorKind::Full, text).at(self.to);
        Err(Failed::Target(error.remedy("free space there: the copy is made by itself when it has room")))
    }

    /// Removes the names that were not there `before`: a part of a copy is of no use, and takes the room of whoever else writes there. Where
    /// nothing is left of the log that was there, the oldest segment of what was added stays in its place.
    pub fn withdraw(&self, before: &BTreeSet<String>) {
        let removed = names(self.disk, self.to)
            .and_then(|names| {
                let lost = before.iter().any(|name| is_segment(name))
                    && !names.intersection(before).any(|name| self.has_frames(name));
                let stays = names.difference(before).find(|name| lost && is_segment(name));
                let added: Vec<&String> =
                    names.difference(before).filter(|name| Some(*name) != stays).collect();
                // From the end: what is left if this fails is a log without gaps.
                added.into_iter().rev().try_for_each(|name| remove(self.disk, &self.to.join(name)))
            })
            .and_then(|()| sync_dir(self.disk, self.to));
        if let Err(e) = removed {
            log::debug!("a part of a copy of the journal stays until it is made: {e}");
        }
    }

    pub fn remove(&self, name: &str) -> Outcome<()> {
        remove(self.disk, &self.to.join(name)).map_err(Failed::Target)
    }

    pub fn sync(&self) -> Outcome<()> {
        sync_dir(self.disk, self.to).map_err(Failed::Target)
    }

    /// Opens a file of the source; none if it is not there (any more).
    pub fn open(&self, name: &str) -> Outcome<Option<Arc<dyn DiskFile>>> {
        match self.disk.open(&self.from.join(name), OpenMode::Read) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.source(e, name)),
        }
    }

    /// Puts a new file in the place of the target's, like the source's. False if that is not there (any more). `is_open`: somebody may be
    /// writing to it.
    pub fn renew(&self, name: &str, is_open: bool) -> Outcome<bool> {
        self.look_after(name)?;
        self.renew_as_it_is(name, is_open)
    }

    /// As [`renew`](Self::renew), of what was looked through.
    pub fn renew_as_it_is(&self, name: &str, is_open: bool) -> Outcome<bool> {
        let Some(file) = self.open(name)? else { return Ok(false) };
        let put = if is_blank(name) && !is_open {
            let len = file.len().map_err(|e| self.source(e, name))?;
            self.put(name, |copy| self.zero(copy, name, len))?
        } else {
            self.put(name, |copy| self.copy(&*file, copy, name, 0))?
        };
        if put && is_segment(name) {
            // For good before the next one: a power cut must not leave a gap.
            self.sync()?;
        }
        Ok(put)
    }

    /// Whether the source has the file: if so, what was read of it before is what has that name. A name goes before a byte changes.
    fn is_there(&self, name: &str) -> Outcome<bool> {
        self.disk.exists(&self.from.join(name)).map_err(|e| self.source(e, name))
    }

    /// Makes a new file, and gives it its name when it is whole, unless the source's has lost it meanwhile: then false. What comes to nothing takes no
    /// room.
    pub fn put(&self, name: &str, fill: impl FnOnce(&dyn DiskFile) -> Outcome<()>) -> Outcome<bool> {
        let temporary = self.to.join(format!("{name}{UNFINISHED}"));
        remove(self.disk, &temporary).map_err(Failed::Target)?;
        let failed = |e| self.target(e, name);
        let copy = self.disk.open(&temporary, OpenMode::CreateNew).map_err(failed)?;
        let made = fill(copy.as_ref())
            .and_then(|()| copy.sync_all().map_err(failed))
            .and_then(|()| self.is_there(name))
            .and_then(|there| match there {
                true => self.disk.rename(&temporary, &self.to.join(name)).map_err(failed).map(|()| true),
                false => Ok(false),
            });
        if !matches!(made, Ok(true)) {
            drop(self.disk.remove_file(&temporary));
        }
        made
    }

    fn zero(&self, copy: &dyn DiskFile, name: &str, len: u64) -> Outcome<()> {
        let zeros = vec![0; STEP];
        let mut at = 0;
        while at < len {
            self.go_on()?;
            let count = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
            copy.write_at(at, zeros.get(..count).unwrap_or(&zeros)).map_err(|e| self.target(e, name))?;
            at += count as u64;
        }
        Ok(())
    }

    /// Copies what there is from `at` on.
    pub fn copy(&self, file: &dyn DiskFile, copy: &dyn DiskFile, name: &str, mut at: u64) -> Outcome<()> {
        let mut buf = vec![0; STEP];
        loop {
            self.go_on()?;
            let count = file.read_at(at, &mut buf).map_err(|e| self.source(e, name))?;
            copy.write_at(at, buf.get(..count).unwrap_or_default()).map_err(|e| self.target(e, name))?;
            at += count as u64;
            if count < buf.len() {
                return Ok(());
            }
        }
    }

    /// Makes the target's file like the source's where they differ; says whether they did. With `change` unset it only looks.
    pub fn level(&self, name: &str, change: bool) -> Outcome<bool> {
        let (source, target) = (|e| self.source(e, name), |e| self.target(e, name));
        let file = self.disk.open(&self.from.join(name), OpenMode::Read).map_err(source)?;
        let mode = if change { OpenMode::Write } else { OpenMode::Read };
        let copy = self.disk.open(&self.to.join(name), mode).map_err(target)?;
        let len = file.len().map_err(source)?;
        if copy.len().map_err(target)? != len {
            return if change { self.renew(name, true) } else { Ok(true) };
        }
        let (mut ours, mut theirs) = (vec![0; STEP], vec![0; STEP]);
        let (mut at, mut differs) = (0, false);
        while at < len {
            self.go_on()?;
            let count = file.read_at(at, &mut ours).map_err(source)?;
            let bytes = ours.get(..count).unwrap_or_default();
            // What cannot be read is written again.
            let found = copy.read_at(at, &mut theirs).unwrap_or(0);
            if theirs.get(..found) != Some(bytes) {
                differs = true;
                if !change || !self.is_there(name)? {
                    return Ok(true);
                }
                copy.write_at(at, bytes).map_err(target)?;
            }
            if count == 0 {
                break;
            }
            at += count as u64;
        }
        if change {
            copy.sync_all().map_err(target)?;
        }
        Ok(differs)
    }

    /// Removes from the target what the source does not have. Where nothing of the source's log is in it yet, one segment of its own
    /// stays, the newest with frames, until that is [`dropped`](Self::drop_last): should the source be lost, it is all that there is.
    pub fn clear(&self, wanted: &BTreeSet<String>, found: &BTreeSet<String>) -> Outcome<Option<String>> {
        let gone: Vec<&String> = found.difference(wanted).collect();
        let last = match found.intersection(wanted).any(|name| self.has_frames(name)) {
            true => None,
            false => gone.iter().rev().find(|name| self.has_frames(name)).map(|name| name.to_string()),
        };
        let gone = gone.into_iter().filter(|name| Some(*name) != last.as_ref());
        gone.into_iter().try_for_each(|name| self.remove(name))?;
        Ok(last)
    }

    /// Whether it is a segment of the target's from which a log could be read.
    fn has_frames(&self, name: &str) -> bool {
        let Name::Segment(generation) = segment::parse_name(name) else { return false };
        let path = self.to.join(name);
        let Ok(file) = self.disk.open(&path, OpenMode::Read) else { return false };
        let Ok(Some(header)) = whole::header(file.as_ref(), generation) else { return false };
        match header.origin {
            Origin::Start { .. } => true,
            Origin::Continuation => {
                let first = Reader::new(file, &path, header, Vec::new()).first_seq();
                first.is_ok_and(|first| first.is_some())
            }
        }
    }

    /// Removes what [`clear`](Self::clear) has left, now that something else is there.
    pub fn drop_last(&self, last: &mut Option<String>) -> Outcome<()> {
        last.take().map_or(Ok(()), |name| self.remove(&name))
    }

    /// Makes all of the target anew.
    pub fn all(&self) -> Outcome<()> {
        self.sweep()?;
        let (wanted, found) = self.names()?;
        let mut last = self.clear(&wanted, &found)?;
        for name in &wanted {
            self.renew(name, false)?;
            if is_segment(name) {
                self.drop_last(&mut last)?;
            }
        }
        self.drop_last(&mut last)?;
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_copying_has_left_is_known_by_its_name() {
        let segment = segment::name(7);
        for left in [format!("{segment}{UNFINISHED}"), "copy of 1.seg".to_owned()] {
            assert!(is_left(&left), "{left}");
        }
        for other in [&segment, "LOCK", "notes", "notes.copy"] {
            assert!(!is_left(other), "{other}");
        }
        assert!(is_unfinished(&format!("{segment}{UNFINISHED}")) && !is_unfinished("copy of 1.seg"));
    }
}
