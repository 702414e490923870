//! What the journal is kept for: shards and archives that are behind.

use super::State;
use crate::error::Result;
use crate::ids::Seq;
use crate::journal::Regained;
use crate::journal::mirror::Older;
use crate::plants;

/// The journal, for who makes a copy of it anew.
struct Lacking<'a>(&'a State);

impl State {
    /// Up to where nobody needs the journal.
    pub fn free_up_to(&self) -> Option<Seq> {
        let (free, behind) = self.behind(0)?;
        Some(behind.into_iter().fold(free, Seq::min))
    }

    /// Up to where no shard that is open needs the journal, and how far each of those is that it is kept for: shards, also such as are offline, and
    /// archives. Each holds it back up to a bound, from which `more` is taken: who lacks more than that costs the others nothing.
    fn behind(&self, more: u64) -> Option<(Seq, Vec<Seq>)> {
        let layout = self.layout();
        let applied =
            |open: bool| layout.shards.iter().filter(move |s| !open || s.is_open()).map(|s| s.applied());
        let free = applied(true).min().or(applied(false).max())?;
        let from = self.journal.reach(free.next(), self.settings.journal_retention.saturating_sub(more));
        let within = |seq: &Seq| seq.next() >= from;
        let mut behind = Vec::new();
        if !plants::is("archive-not-waited-for") {
            behind.extend(self.archives.ends(from));
        }
        if !plants::is("journal-trimmed-past-a-failed-shard") {
            // What nobody serves is in the journal alone. Asked for now: whoever is about to note that a shard has failed may be held up. And after
            // it was seen which shards are open: one that fails in between was counted among them.
            let everything = self.first_uncovered().is_some();
            behind.extend(applied(false).filter(|seq| everything || within(seq)));
        }
        Some((free, behind))
    }

    /// Tries the journal's copies that are behind; how many are complete again.
    pub fn mend(&self) -> usize {
        let Some(mirrors) = &self.mirrors else { return 0 };
        // Their disks may hang, and a close does not wait for that.
        let _turn = self.journal.turn();
        mirrors.mend_beside(Some(&Lacking(self)))
    }
}

impl State {
    /// Puts back what somebody lacks of the beginning of the journal, where a copy of it has that which is left out.
    ///
    /// # Errors
    /// There is such a copy, or may be, and it could not be.
    pub fn complete_journal(&self) -> Result<()> {
        let Some(mirrors) = &self.mirrors else { return Ok(()) };
        let _turn = self.journal.turn();
        mirrors.complete(&Lacking(self))
    }
}

impl Older for Lacking<'_> {
    fn oldest(&self) -> Option<u64> {
        self.0.journal.oldest()
    }

    fn lacked(&self, more: u64) -> Vec<Seq> {
        let first = self.0.journal.first();
        let behind = self.0.behind(more).map(|(_, behind)| behind).unwrap_or_default();
        behind.into_iter().map(Seq::next).filter(|next| *next < first).collect()
    }

    fn regain(&self, segment: Regained) -> bool {
        let has_it = self.0.journal.regain(segment);
        if has_it {
            self.0.archives.log_begins(self.0.journal.first());
        }
        has_it
    }
}
