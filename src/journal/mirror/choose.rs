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

/// How far one copy goes.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    pub index: usize,
    /// Where the log ends.
    end: Seq,
    /// Where it begins, without a gap.
    first: Seq,
    /// That a replay begins with.
    pub generation: u64,
    listed: bool,
}

impl Reach {
    /// Of those that reach as far, one that is kept.
    fn key(&self) -> (Seq, bool) {
        (self.end, self.listed)
    }
}

impl Found {
    /// Of the copies that reach as far as any, the first one that can be read wherever the others are compared with it; and which of those
    /// stay believed as they are.
    pub fn choose(&self, ranked: &[Reach]) -> Result<(Reach, Vec<usize>)> {
        let mut first = None;
        let as_far = |reach: &&Reach| ranked.first().is_some_and(|best| reach.key() == best.key());
        for reach in ranked.iter().filter(as_far) {
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
            match align::compare(&copying, source.generation) {
                Ok(false) => same.push(index),
                Ok(true) | Err(Failed::Target(_)) => {}
                Err(Failed::Source(e)) => {
                    log::warn!("copies of the journal cannot be compared: {e}");
                    unread = Some(e);
                    if ranked.iter().any(|reach| reach.index == index && reach.end == source.end) {
                        same.push(index);
                    }
                }
            }
        }
        (same, unread)
    }

    /// How far each copy goes that can be read, and what is wrong with another.
    fn reaching(&self, from: Seq, at_least: Known, lenient: bool) -> (Vec<Reach>, Option<Error>) {
        let (mut reaching, mut first_error) = (Vec::new(), None);
        for (index, place) in self.believed() {
            match self.reach(&place.dir, from, at_least, lenient) {
                Ok((end, first, generation)) => {
                    reaching.push(Reach { index, end, first, generation, listed: place.listed });
                }
                Err(e) => {
                    log::warn!("a copy of the journal cannot be used: {e}");
                    first_error = first_error.or(Some(e));
                }
            }
        }
        (reaching, first_error)
    }

    /// The undamaged copies, those first that reach furthest, and of these those that begin earliest; where there is none, those whose damage nobody asks for.
    pub fn ranked(&self, from: Seq, at_least: Known) -> Result<Vec<Reach>> {
        // A single one is read by the journal itself, which says what is wrong with it.
        if let [(index, place)] = self.believed().collect::<Vec<_>>().as_slice() {
            let listed = place.listed;
            return Ok(vec![Reach {
                index: *index,
                end: Seq::ZERO,
                first: Seq::ZERO,
                generation: 0,
                listed,
            }]);
        }
        let (mut ranked, error) = self.reaching(from, at_least, false);
        if ranked.is_empty() {
            // What no copy has whole refuses no more than it does in a single directory.
            ranked = self.reaching(from, at_least, true).0;
        }
        if ranked.is_empty() {
            return Err(error.unwrap_or_else(|| nothing_left(&self.home)));
        }
        // A segment that only one has lost leaves a gap as an interrupted trim does: what that has more does no harm.
        ranked.sort_by_key(|reach| (std::cmp::Reverse(reach.key()), reach.first));
        if crate::plants::is("shortest-copy-wins") {
            ranked.reverse();
        }
        Ok(ranked)
    }
}
