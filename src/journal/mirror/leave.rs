//! Leaving copies out.
//!
//! Invariant: a copy that lacks something is no longer called complete, durably and in every copy that is, before the operation that it lacks has
//! succeeded; see `words`.

use super::Mirrors;
use super::words::{Given, Word};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::Ordering;
use std::path::Path;

impl Mirrors {
    /// Makes it durably known that some copies are not complete, then leaves them out.
    pub fn drop_copies(&self, causes: Vec<(usize, Error)>) -> Result<()> {
        let mut given = self.given.lock();
        let dropped = |index: &usize| causes.iter().any(|(failed, _)| failed == index);
        let good: Vec<usize> = self.good().filter(|index| !dropped(index)).collect();
        if good.len() == self.good().count() {
            return Ok(());
        }
        // A copy that has done it may have been left out meanwhile: then what failed has failed in all that count.
        if let Some((_, cause)) = causes.first().filter(|_| good.is_empty()) {
            return Err(cause.clone());
        }
        let more = match crate::plants::is("copy-left-out-without-a-word") {
            false => self.give_word(&mut given, good)?,
            true => Vec::new(),
        };
        for (index, cause) in causes.into_iter().chain(more) {
            self.leave_out(index, cause);
        }
        Ok(())
    }

    pub fn leave_out(&self, index: usize, cause: Error) {
        let Some(copy) = self.copies.get(index) else { return };
        if copy.good.swap(false, Ordering::AcqRel) {
            log::error!("a copy of the journal is left behind, and is made anew when it can be: {cause}");
            self.tell(|| left_behind(&copy.dir, &cause));
        }
        copy.mended.store(0, Ordering::Relaxed);
        *copy.cause.lock() = Some(cause);
    }

    /// Begins an epoch in which the copies `good`, and the one that is being left, are complete and no others; returns those
    /// that had to be left out in their turn, since they did not take the word. None is given where the locks have been released: what it says
    /// of this opening would be taken for what the next one has done.
    pub fn give_word(&self, given: &mut Given, mut good: Vec<usize>) -> Result<Vec<(usize, Error)>> {
        let mut lost = Vec::new();
        loop {
            self.locks.check()?;
            given.epoch = given.epoch.saturating_add(1);
            let kept = || good.iter().filter_map(|index| Some((*index, self.copies.get(*index)?)));
            let leaving = given.leaving.iter().map(|(id, _)| *id);
            let ids = leaving.chain(kept().map(|(_, copy)| copy.id)).collect();
            let mut word = Word { store: self.store, mirror: None, epoch: given.epoch, good: ids };
            if word.good.is_empty() {
                let nothing =
                    || Error::new(ErrorKind::Io, "no complete copy of the journal is left").at(&self.home);
                return Err(lost.pop().map_or_else(nothing, |(_, cause)| cause));
            }
            if !self.tell_leaving(given, &mut word) {
                continue;
            }
            let before = lost.len();
            let stored = self.in_copies(&good, |index| {
                let (mut word, copy) = (word.clone(), self.copies.get(index));
                word.mirror = copy.map(|copy| copy.id);
                let dir = copy.map(|copy| copy.dir.clone());
                move |disk: &dyn Disk| Ok(dir.map_or(Ok(()), |dir| word.store(disk, &dir)))
            });
            lost.extend(stored.into_iter().filter_map(|(index, stored)| {
                let silent = |e| Error::io("write the word on the journal's copies", self.dir_of(index), e);
                stored.map_err(silent).flatten().err().map(|e| (index, e))
            }));
            if lost.len() == before && given.deferred {
                return Ok(lost);
            }
            if lost.len() == before {
                word.mirror = None;
                return word.store(self.disk.as_ref(), &self.home).map(|()| lost);
            }
            good.retain(|index| lost.iter().all(|(failed, _)| failed != index));
        }
    }

    /// Gives the word to the copy that is being left, before all others: they are not in the manifest, so that without it
    /// none that is would be of the new epoch. False if it does not take it; it is not named from then on, and what it says, with
    /// the store's directory, stays so until the manifest lists the others.
    fn tell_leaving(&self, given: &mut Given, word: &mut Word) -> bool {
        let Some((id, dir)) = &given.leaving else { return true };
        word.mirror = Some(*id);
        let Err(e) = word.store(self.disk.as_ref(), dir) else { return true };
        log::warn!("the copy of the journal that is left takes no word of those in its place: {e}");
        (given.leaving, given.deferred) = (None, true);
        false
    }

    /// Lets go of the copy that was named beside those which take its place, or took no word of them. To be called when the manifest
    /// lists them, and before anything is written.
    ///
    /// # Errors
    /// `Io`: no word of it can be given.
    pub fn let_go(&self) -> Result<()> {
        let mut given = self.given.lock();
        let (deferred, left) = (std::mem::take(&mut given.deferred), given.leaving.take());
        if left.is_none() && !deferred {
            return Ok(());
        }
        for (lost, cause) in self.give_word(&mut given, self.good().collect())? {
            self.leave_out(lost, cause);
        }
        // It says itself that it was left: an older manifest may come back, and the word in the store's directory be lost. Nobody waits for it.
        if let Some((id, dir)) = left {
            let good = self.good().filter_map(|index| Some(self.copies.get(index)?.id)).collect();
            let word = Word { store: self.store, mirror: Some(id), epoch: given.epoch, good };
            if let Err(e) = word.store(self.disk.as_ref(), &dir) {
                log::warn!("the copy of the journal that was left takes no word of that: {e}");
            }
        }
        Ok(())
    }
}

pub fn left_behind(dir: &Path, cause: &Error) -> String {
    format!("the copy at {} is left behind: {cause}", dir.display())
}
