//! An ordered multi-version map with its bytes in an arena.
//!
//! Invariants: the versions of a key are newest first; of each key the newest version is there, and every older one that
//! a snapshot saw when it was covered; a removed key keeps its entry, so that it hides what the shards hold.

use super::entry::{Entries, Version};
use super::index::Index;
use super::iter::{Cursor, Iter, IterAt, Records, Span};
use super::tree::Tree;
use crate::error::Result;
use crate::ids::Seq;
use crate::record::KeyRange;
use std::hash::{BuildHasher, RandomState};

/// The table as the store uses it: with nodes of 64 keys.
pub type Table = OrderedTable<64>;

/// A table with at most `N` keys in a node.
///
/// Writing needs `&mut`, reading `&`: the owner keeps it behind a lock. It never shrinks, and does not compact itself:
/// what an overwrite leaves behind is used again by later ones, or counted in [`bytes`](Self::bytes) until the owner
/// freezes and flushes the table.
#[derive(Debug)]
pub struct OrderedTable<const N: usize> {
    entries: Entries,
    tree: Tree<N>,
    index: Index,
    first: Option<Seq>,
    last: Seq,
}

impl<const N: usize> Default for OrderedTable<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> OrderedTable<N> {
    /// A table that hashes with a seed of its own.
    pub fn new() -> Self {
        Self::with_seed(RandomState::new().hash_one(0))
    }

    /// A table that hashes with this seed: the same writes give the same table, to the byte.
    pub fn with_seed(seed: u64) -> Self {
        OrderedTable {
            entries: Entries::default(),
            tree: Tree::new(),
            index: Index::new(seed),
            first: None,
            last: Seq::ZERO,
        }
    }

    /// Writes a version of `key`: a value, or (none) its removal. The sequence must not be below the one that the key
    /// has; where it is the same, the version is replaced. Replaced also is a version that none of the snapshots `live`
    /// (ascending) sees.
    ///
    /// # Errors
    /// `InvalidInput`, and nothing is changed, if key or value is longer than its [limit](crate::limits), the sequence
    /// is below the key's, or 16 GiB of places are used up (see [`is_full`](Self::is_full)).
    pub fn insert(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>, live: &[Seq]) -> Result<()> {
        Entries::check(key, value)?;
        let hash = self.index.hash(key);
        match self.index.find(hash, |entry| self.entries.key(entry) == key) {
            Some(entry) => self.entries.put(entry, seq, value, live)?,
            None => {
                let entry = self.entries.add(key, seq, value)?;
                self.tree.insert(&self.entries, key, entry);
                self.index.add(hash, entry);
            }
        }
        self.first.get_or_insert(seq);
        self.last = self.last.max(seq);
        Ok(())
    }

    /// The newest version of `key` at or below `at`.
    pub fn get(&self, key: &[u8], at: Seq) -> Option<Version<'_>> {
        let entry = self.index.find(self.index.hash(key), |entry| self.entries.key(entry) == key)?;
        Some(self.entries.version_at(entry, at)?.1)
    }

    /// The keys of `range` with all their versions, from both ends.
    pub fn iter(&self, range: &KeyRange) -> Iter<'_, N> {
        Iter::new(&self.entries, self.span(range))
    }

    /// The newest version at or below `at` of each key in `range` that has one, removals included.
    pub fn iter_at(&self, range: &KeyRange, at: Seq, reverse: bool) -> IterAt<'_, N> {
        IterAt::new(&self.entries, self.span(range), at, reverse)
    }

    /// All versions of all keys: key ascending, sequence descending.
    pub fn records(&self) -> Records<'_, N> {
        self.records_from(Cursor::START)
    }

    /// The records from where another iterator [stood](Records::cursor). As long as nothing is written in between it
    /// costs no search.
    pub fn records_from(&self, cursor: Cursor) -> Records<'_, N> {
        Records::new(&self.entries, &self.tree, cursor)
    }

    /// The number of keys, removed ones included.
    pub fn len(&self) -> usize {
        self.entries.keys()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of versions of all keys.
    pub fn versions(&self) -> usize {
        self.entries.versions()
    }

    /// What the table holds of the process's memory, in bytes: keys, values, order, and what lies unused in its pieces.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.entries.bytes() + self.tree.bytes() + self.index.bytes()
    }

    /// The bytes of all keys, and of the values of all versions.
    pub fn payload_bytes(&self) -> usize {
        self.entries.payload()
    }

    /// The sequence of the first write, also if it has been overwritten since.
    pub fn min_seq(&self) -> Option<Seq> {
        self.first
    }

    /// The sequence of the last write.
    pub fn max_seq(&self) -> Option<Seq> {
        self.first.map(|_| self.last)
    }

    /// Whether the table must be frozen, whatever its owner's budget: 12 GiB of keys and small values have been put in.
    /// Beyond that there is room for the largest batch, but not for many.
    pub fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    fn span(&self, range: &KeyRange) -> Span<'_, N> {
        if range.is_empty() {
            return Span::new(&self.entries, &self.tree, self.tree.first(), self.tree.first());
        }
        let front = match range.lo.as_slice() {
            [] => self.tree.first(),
            lo => self.tree.seek(&self.entries, lo),
        };
        let back = match &range.hi {
            None => self.tree.end(),
            Some(hi) => self.tree.seek(&self.entries, hi),
        };
        Span::new(&self.entries, &self.tree, front, back)
    }

    /// Panics where an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.tree.check(&self.entries), self.len());
    }
}
