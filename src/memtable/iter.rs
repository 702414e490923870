//! Walking a table: scans in both directions, and the records of a flush.
//!
//! Invariant: an iterator holds positions in leaves, which its borrow of the table keeps right. A [`Cursor`] outlives
//! the borrow, so it is checked when it is used.

use super::arena::Place;
use super::entry::{Entries, Version};
use super::tree::{Position, Tree};
use crate::ids::Seq;
use crate::record::RunRecord;

/// The most entries that are called into the processor's caches ahead of a scan.
const AHEAD: u32 = 32;

/// The entries between two positions, from both ends.
///
/// Neighbours in key order lie anywhere in the arena, so each would cost the wait for memory. A scan therefore touches
/// a few entries ahead together, and more the longer it goes on: the waits overlap.
#[derive(Debug, Clone)]
pub(super) struct Span<'t, const N: usize> {
    entries: &'t Entries,
    tree: &'t Tree<N>,
    front: Position,
    back: Position,
    /// How many entries have been touched that are still to come, and how many are touched next.
    ahead: u32,
    step: u32,
    /// The cache lines that are touched of each.
    lines: usize,
}

impl<'t, const N: usize> Span<'t, N> {
    pub fn new(entries: &'t Entries, tree: &'t Tree<N>, front: Position, back: Position) -> Self {
        Span { entries, tree, front, back, ahead: 0, step: 4, lines: entries.lines() }
    }

    /// Counts an entry, with the ones that follow it on its leaf at hand.
    #[inline]
    fn count<'p>(&mut self, following: impl DoubleEndedIterator<Item = &'p Place> + ExactSizeIterator) {
        if self.ahead > 0 {
            self.ahead -= 1;
            return;
        }
        let count = following.len().min(self.step as usize);
        self.entries.touch(following.take(count), self.lines);
        self.ahead = (count as u32).saturating_sub(1);
        self.step = (2 * self.step).min(AHEAD);
    }
}

impl<const N: usize> Iterator for Span<'_, N> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        loop {
            let places = self.tree.places(self.front.leaf);
            let at = self.front.at as usize;
            let end = if self.front.leaf == self.back.leaf { self.back.at as usize } else { places.len() };
            if at < end {
                self.count(places[at..end].iter());
                self.front.at += 1;
                return Some(places[at]);
            }
            if self.front.leaf == self.back.leaf {
                return None;
            }
            self.front = self.tree.next(self.front.leaf)?;
            self.ahead = 0;
        }
    }
}

impl<const N: usize> DoubleEndedIterator for Span<'_, N> {
    #[inline]
    fn next_back(&mut self) -> Option<Place> {
        loop {
            let places = self.tree.places(self.back.leaf);
            let at = self.back.at as usize;
            let start = if self.front.leaf == self.back.leaf { self.front.at as usize } else { 0 };
            if start < at {
                self.count(places[start..at].iter().rev());
                self.back.at -= 1;
                return Some(places[at - 1]);
            }
            if self.front.leaf == self.back.leaf {
                return None;
            }
            self.back = self.tree.previous(self.back.leaf)?;
            self.ahead = 0;
        }
    }
}

/// The versions of a key, newest first.
#[derive(Debug, Clone)]
pub struct Versions<'t> {
    entries: &'t Entries,
    next: Place,
}

impl<'t> Iterator for Versions<'t> {
    type Item = Version<'t>;

    fn next(&mut self) -> Option<Version<'t>> {
        if self.next == Place::NONE {
            return None;
        }
        let version = self.entries.version(self.next);
        self.next = self.entries.older(self.next);
        Some(version)
    }
}

/// Keys in order, each with its versions.
#[derive(Debug, Clone)]
pub struct Iter<'t, const N: usize> {
    entries: &'t Entries,
    span: Span<'t, N>,
}

impl<'t, const N: usize> Iter<'t, N> {
    pub(super) fn new(entries: &'t Entries, span: Span<'t, N>) -> Self {
        Iter { entries, span }
    }

    fn item(&self, entry: Place) -> (&'t [u8], Versions<'t>) {
        let versions = Versions { entries: self.entries, next: self.entries.newest(entry) };
        (self.entries.key(entry), versions)
    }
}

impl<'t, const N: usize> Iterator for Iter<'t, N> {
    type Item = (&'t [u8], Versions<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.span.next()?;
        Some(self.item(entry))
    }
}

impl<const N: usize> DoubleEndedIterator for Iter<'_, N> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entry = self.span.next_back()?;
        Some(self.item(entry))
    }
}

/// One version of each key, as a snapshot sees them.
#[derive(Debug, Clone)]
pub struct IterAt<'t, const N: usize> {
    entries: &'t Entries,
    span: Span<'t, N>,
    at: Seq,
    reverse: bool,
}

impl<'t, const N: usize> IterAt<'t, N> {
    pub(super) fn new(entries: &'t Entries, span: Span<'t, N>, at: Seq, reverse: bool) -> Self {
        IterAt { entries, span, at, reverse }
    }
}

impl<'t, const N: usize> Iterator for IterAt<'t, N> {
    type Item = RunRecord<'t>;

    #[inline]
    fn next(&mut self) -> Option<RunRecord<'t>> {
        loop {
            let entry = if self.reverse { self.span.next_back()? } else { self.span.next()? };
            if let Some((_, Version { seq, value })) = self.entries.version_at(entry, self.at) {
                return Some(RunRecord { key: self.entries.key(entry), seq, value });
            }
        }
    }
}

/// Where a [`Records`] stands. It belongs to one table, and stays right when that is written to: it goes on behind the
/// same key, or with the version that comes next, or the newest older one that is left.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    /// The entry that was last looked at and where it lay; none at the start.
    seen: Option<(Place, Position)>,
    /// Its version that comes next; none: the next entry's newest.
    version: Option<Seq>,
}

impl Cursor {
    /// Before the first record.
    pub const START: Cursor = Cursor { seen: None, version: None };
}

/// All versions of all keys: key ascending, sequence descending.
#[derive(Debug, Clone)]
pub struct Records<'t, const N: usize> {
    entries: &'t Entries,
    span: Span<'t, N>,
    entry: Option<Place>,
    /// The version of `entry` that comes next; [`Place::NONE`]: the next entry's newest.
    version: Place,
}

impl<'t, const N: usize> Records<'t, N> {
    pub(super) fn new(entries: &'t Entries, tree: &'t Tree<N>, cursor: Cursor) -> Self {
        let span = Span::new(entries, tree, tree.first(), tree.end());
        let mut records = Records { entries, span, entry: None, version: Place::NONE };
        if let Some((entry, mut position)) = cursor.seen {
            if tree.places(position.leaf).get(position.at as usize) != Some(&entry) {
                position = tree.seek(entries, entries.key(entry));
            }
            records.span.front = Position { at: position.at + 1, ..position };
            records.entry = Some(entry);
            if let Some(seq) = cursor.version {
                records.version = entries.version_at(entry, seq).map_or(Place::NONE, |(place, _)| place);
            }
        }
        records
    }

    /// Where the iterator stands, to go on from there after the table has been let go.
    pub fn cursor(&self) -> Cursor {
        let position = Position { at: self.span.front.at.saturating_sub(1), ..self.span.front };
        Cursor {
            seen: self.entry.map(|entry| (entry, position)),
            version: (self.version != Place::NONE).then(|| self.entries.version(self.version).seq),
        }
    }
}

impl<'t, const N: usize> Iterator for Records<'t, N> {
    type Item = RunRecord<'t>;

    #[inline]
    fn next(&mut self) -> Option<RunRecord<'t>> {
        let (entry, place) = match (self.entry, self.version) {
            (None, _) | (_, Place::NONE) => {
                let entry = self.span.next()?;
                self.entry = Some(entry);
                (entry, self.entries.newest(entry))
            }
            (Some(entry), place) => (entry, place),
        };
        self.version = self.entries.older(place);
        let Version { seq, value } = self.entries.version(place);
        Some(RunRecord { key: self.entries.key(entry), seq, value })
    }
}
