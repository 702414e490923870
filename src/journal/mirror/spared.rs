//! Old segments that are lost from the copies that count, and that one which is left out has: before that is made anew they come back.
//!
//! Invariants:
//! - A copy is not made anew, which removes them, as long as it has what somebody lacks and no copy that counts has: it is tried again, and its
//!   cause says so. Whoever may lack them is bounded as for what is kept of the journal.
//! - What comes back is in every copy that counts, durably, before the journal has it; else it is taken out again of those that got it. What an
//!   interruption leaves is what an interrupted trim leaves.
//! - Only what is the same log for certain (`gaps`), so nothing that is damaged.

use super::copy::{self, Copying};
use super::leave::left_behind;
use super::{Mirror, Mirrors};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::regain::Regained;
use crate::journal::segment::{self, Origin};
use crate::sync::atomic::Ordering;
use std::path::Path;

/// What is known of the open journal, and of those that read it.
pub trait Older {
    /// The generation of its oldest segment.
    fn oldest(&self) -> Option<u64>;
    /// What it does not have any more, and somebody begins to read with for whom it would be kept with so many bytes more of it.
    fn lacked(&self, more: u64) -> Vec<Seq>;
    /// Takes in a segment before the oldest; false if it does not lead up to that any more.
    fn regain(&self, segment: Regained) -> bool;
}

impl Mirrors {
    /// Puts what somebody lacks, and a copy has that does not count, into those that do.
    ///
    /// # Errors
    /// There is such a copy, or may be, and it could not be.
    pub fn complete(&self, older: &dyn Older) -> Result<()> {
        if older.lacked(0).is_empty() {
            return Ok(());
        }
        let Some(_turn) = self.rebuild.try_lock() else {
            let text =
                "a copy of the journal is being made anew, which may have what is lacked of its beginning";
            return Err(Error::new(ErrorKind::Unavailable, text)
                .at(self.dir())
                .remedy("try again when it is made"));
        };
        let behind = self.copies.iter().filter(|copy| !copy.good.load(Ordering::Acquire));
        // One that is not there has nothing for now.
        let there = behind.filter(|copy| self.make_dir(copy).is_ok());
        there.map(|copy| self.spare(copy, older)).fold(Ok(()), Result::and)
    }

    /// Puts what somebody lacks, and this copy has, into those that count, the newest first.
    ///
    /// # Errors
    /// It could not be: the copy is to stay as it is.
    pub(super) fn spare(&self, mirror: &Mirror, older: &dyn Older) -> Result<()> {
        let Err(e) = self.bring_back(mirror, older) else { return Ok(()) };
        let text = "the copy has old segments of the journal that a shard or an archive lacks, and no other copy has: it is kept until they are back";
        let error = Error::new(ErrorKind::Unavailable, text).at(&mirror.dir).caused_by(e).remedy(
            "make room where the other copies are, and they come back by themselves; or let go of who lacks them: forget the archive, or have the shard made of its replicas",
        );
        // Each time anew it would be no news.
        if mirror.cause.lock().as_ref().is_none_or(|before| before.to_string() != error.to_string()) {
            log::error!("a copy of the journal is not made anew: {error}");
            self.tell(|| left_behind(&mirror.dir, &error));
            *mirror.cause.lock() = Some(error.clone());
        }
        Err(error)
    }

    fn bring_back(&self, mirror: &Mirror, older: &dyn Older) -> Result<()> {
        let good: Vec<&Path> = self.good().map(|index| self.dir_of(index)).collect();
        let lacked = older.lacked(0);
        let (Some(from), Some(oldest), false) = (good.first(), older.oldest(), lacked.is_empty()) else {
            return Ok(());
        };
        for segment in self.spared(from, &mirror.dir, oldest, &lacked, older)? {
            let name = segment::name(segment.generation);
            if !self.between(from, &mirror.dir).has_room(&name, &good)? {
                let error = Error::new(ErrorKind::Full, "there is no room for an old segment of the journal");
                return Err(error.at(from.join(name)));
            }
            let put = good.iter().try_for_each(|dir| self.between(dir, &mirror.dir).put_back(&name));
            if put.is_ok() && older.regain(segment) {
                continue;
            }
            good.iter().for_each(|dir| self.take_out(dir, &name));
            put?;
            let text = "the journal has freed what comes after an old segment, or takes none any more";
            return Err(Error::new(ErrorKind::Unavailable, text).at(from.join(name)));
        }
        Ok(())
    }

    /// What a copy has before the `oldest` segment of those that count, down to where somebody begins to read, the newest first. Nothing where it does not
    /// reach down to there, or is damaged on the way, or where nobody is waited for as long as that.
    fn spared(
        &self,
        from: &Path,
        to: &Path,
        oldest: u64,
        lacked: &[Seq],
        older: &dyn Older,
    ) -> Result<Vec<Regained>> {
        let names = copy::names(self.disk.as_ref(), to)?;
        let generations =
            (0..oldest).rev().take_while(|generation| names.contains(&segment::name(*generation)));
        let within = self.between(to, to);
        let mut chain = Vec::new();
        for generation in generations {
            let Some((header, frame)) = within.begins(to, generation)? else { break };
            let start = header.origin != Origin::Continuation;
            chain.push(Regained { generation, first: frame.seq, len: header.len, start });
        }
        let reached = chain.last().map_or(Seq::MAX, |segment| segment.first);
        let Some(wanted) = lacked.iter().filter(|seq| **seq >= reached).min() else { return Ok(Vec::new()) };
        let count = chain.iter().take_while(|segment| segment.first > *wanted).count().saturating_add(1);
        chain.truncate(count);
        if !older.lacked(chain.iter().map(|segment| segment.len).sum()).contains(wanted) {
            return Ok(Vec::new());
        }
        for Regained { generation, .. } in &chain {
            let after = if generation.saturating_add(1) == oldest { from } else { to };
            if !self.between(after, to).leads_on(*generation)? {
                return Ok(Vec::new());
            }
        }
        Ok(chain)
    }

    fn between<'a>(&'a self, from: &'a Path, to: &'a Path) -> Copying<'a> {
        Copying { disk: self.disk.as_ref(), from, to, stop: &self.stop, gate: None, make_do: true }
    }

    /// Not all have it, or nobody asks for it any more.
    fn take_out(&self, dir: &Path, name: &str) {
        let removed = copy::remove(self.disk.as_ref(), &dir.join(name));
        if let Err(e) = removed.and_then(|()| copy::sync_dir(self.disk.as_ref(), dir)) {
            log::warn!("an old segment stays in a copy of the journal until the next opening: {e}");
        }
    }
}
