//! Which of the believed copies serves.
//!
//! Invariant: of copies that reach as far, none is held to be wrong because another cannot be read.

use super::align;
use super::copy::{Copying, Failed};
use super::open::{Found, nothing_left};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::journal::Known;
use crate::sync::atomic::AtomicBool;

/// From where to where a copy goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    /// The oldest sequence that is known to be there.
    pub begins: Seq,
    /// Where the log ends.
    pub end: Seq,
    /// That a replay begins with.
    pub generation: u64,
}

/// How far one copy goes.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    pub index: usize,
    pub extent: Extent,
    pub listed: bool,
}

impl Reach {
    /// Of those that reach as far, one that is kept.
    fn key(&self) -> (Seq, bool) {
        (self.extent.end, self.listed)
    }
}

/// Those that reach as far as any, and of which one serves.
pub fn as_far(ranked: &[Reach]) -> impl Iterator<Item = &Reach> {
    ranked.iter().filter(|reach| ranked.first().is_some_and(|best| reach.key() == best.key()))
}

impl Found {
    /// Of the copies that reach as far as any, the first one that can be read wherever the others are compared with it; and which of those
    /// stay believed as they are.
    pub fn choose(&self, ranked: &[Reach]) -> Result<(Reach, Vec<usize>)> {
        let mut first = None;
        for reach in as_far(ranked) {
            let (same, unread) = self.compare(reach, ranked);
            if unread.is_none() {
                return Ok((*reach, same));
            }
            first = first.or(Some((*reach, same)));
        }
        first.ok_or_else(|| nothing_left(&self.home))
    }

    /// Which copies are as the one that would serve, or cannot be held against it, since that cannot be read somewhere: why, is the
    /// other that is returned.
    fn compare(&self, source: &Reach, ranked: &[Reach]) -> (Vec<usize>, Option<Error>) {
        let (mut same, mut unread) = (Vec::new(), None);
        let Some((from, _)) = self.places.get(source.index) else { return (same, unread) };
        for (index, place) in self.believed().filter(|(index, _)| *index != source.index) {
            let stop = AtomicBool::new(false);
            let copying = Copying {
                disk: self.disk.as_ref(),
                from: &from.dir,
                to: &place.dir,
                stop: &stop,
                gate: None,
                make_do: true,
            };
            match align::compare(&copying, source.extent.generation) {
                Ok(false) => same.push(index),
                Ok(true) | Err(Failed::Target(_)) => {}
                Err(Failed::Source(e)) => {
                    log::warn!("copies of the journal cannot be compared: {e}");
                    unread = Some(e);
                    if ranked
                        .iter()
                        .any(|reach| reach.index == index && reach.extent.end == source.extent.end)
                    {
                        same.push(index);
                    }
                }
            }
        }
        (same, unread)
    }

    /// How far each copy goes that can be read, and what is wrong with others.
    fn reaching(&self, from: Seq, at_least: Known, lenient: bool) -> (Vec<Reach>, Vec<(usize, Error)>) {
        let (mut reaching, mut failed) = (Vec::new(), Vec::new());
        for (index, place) in self.believed() {
            match self.reach(&place.dir, from, at_least, lenient) {
                Ok(extent) => reaching.push(Reach { index, extent, listed: place.listed }),
                Err(e) => {
                    log::warn!("a copy of the journal cannot be used: {e}");
                    failed.push((index, e));
                }
            }
        }
        (reaching, failed)
    }

    /// The undamaged copies, those first that reach furthest, and of these those that begin first; where there is none, those whose damage nobody asks for.
    pub fn ranked(&self, from: Seq, at_least: Known) -> Result<Vec<Reach>> {
        // A single one is read by the journal itself, which says what is wrong with it; but not before it gets the word that it alone is
        // complete, which leaves all others behind.
        if let [(index, place)] = self.believed().collect::<Vec<_>>().as_slice() {
            let extent = match self.settled {
                true => Extent::default(),
                false => self.reach(&place.dir, from, at_least, true)?,
            };
            return Ok(vec![Reach { index: *index, extent, listed: place.listed }]);
        }
        let (mut ranked, mut failed) = self.reaching(from, at_least, false);
        let error = failed.first().map(|(_, e)| e.clone());
        if ranked.is_empty() {
            // What no copy has whole refuses no more than it does in a single directory.
            (ranked, failed) = self.reaching(from, at_least, true);
        }
        if !self.shorter {
            self.bring_back(&mut ranked, &failed, from, at_least)?;
        }
        if ranked.is_empty() {
            return Err(error.unwrap_or_else(|| nothing_left(&self.home)));
        }
        // What only one of them has of old segments is not given up: a shard or an archive that is behind may need it.
        ranked.sort_by_key(|reach| (std::cmp::Reverse(reach.key()), reach.extent.begins));
        if crate::plants::is("shortest-copy-wins") {
            ranked.reverse();
        }
        Ok(ranked)
    }
}
