//! A B+tree of entries, ordered by key. It only grows: a removed key keeps its entry, with a tombstone.
//!
//! Nodes lie in slabs and are named by number. Leaves are chained both ways, so that a scan never looks at inner nodes.
//! A separator is the entry that was first in its right half when a node was split: entries never move, so it needs no
//! bytes of its own.
//!
//! Invariants: every key of child `i` is below separator `i`, every key of child `i + 1` is not; all leaves are at the
//! same depth; no node but the only leaf is empty.

use super::arena::Place;
use super::entry::Entries;
use super::node::Keys;

/// Nodes in one allocation: about 200 KiB of leaves of 64 keys.
const SLAB: usize = 256;
const NO_LEAF: u32 = u32::MAX;

/// Nodes in allocations of [`SLAB`], so that growing copies nothing.
#[derive(Debug)]
struct Slab<T> {
    blocks: Vec<Vec<T>>,
    each: usize,
}

impl<T> Slab<T> {
    fn new(each: usize) -> Self {
        debug_assert!(each.is_power_of_two());
        Slab { blocks: Vec::new(), each }
    }

    fn push(&mut self, value: T) -> u32 {
        if self.blocks.last().is_none_or(|block| block.len() == self.each) {
            self.blocks.push(Vec::with_capacity(self.each));
        }
        let index = self.blocks.len() - 1;
        let block = &mut self.blocks[index];
        block.push(value);
        (index * self.each + block.len() - 1) as u32
    }

    #[inline]
    fn get(&self, number: u32) -> &T {
        &self.blocks[number as usize / self.each][number as usize % self.each]
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.blocks[number as usize / self.each][number as usize % self.each]
    }

    fn bytes(&self) -> usize {
        self.blocks.len() * self.each * size_of::<T>() + self.blocks.capacity() * size_of::<Vec<T>>()
    }
}

#[derive(Debug)]
struct Leaf<const N: usize> {
    keys: Keys<N>,
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Inner<const N: usize> {
    /// The separators, one fewer than there are children; so at most `N - 1`.
    keys: Keys<N>,
    children: [u32; N],
}

/// A position between keys: before key `at` of `leaf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub leaf: u32,
    pub at: u32,
}

#[derive(Debug)]
pub(super) struct Tree<const N: usize> {
    leaves: Slab<Leaf<N>>,
    inners: Slab<Inner<N>>,
    root: u32,
    /// How many inner nodes lie on the way to a leaf.
    height: usize,
    last: u32,
    /// The way down that the last `insert` took: inner nodes and which child was chosen.
    path: Vec<(u32, u32)>,
}

impl<const N: usize> Tree<N> {
    pub fn new() -> Self {
        const { assert!(N >= 4 && N < 1 << 15) };
        let mut leaves = Slab::new(SLAB);
        let root = leaves.push(Leaf { keys: Keys::new(), previous: NO_LEAF, next: NO_LEAF });
        Tree { leaves, inners: Slab::new(SLAB / 16), root, height: 0, last: root, path: Vec::new() }
    }

    pub fn bytes(&self) -> usize {
        self.leaves.bytes() + self.inners.bytes()
    }

    /// The first position whose key is not below `key`.
    pub fn seek(&self, entries: &Entries, key: &[u8]) -> Position {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            let (at, found) = inner.keys.search(entries, key);
            node = inner.children[at + usize::from(found)];
        }
        let (at, _) = self.leaves.get(node).keys.search(entries, key);
        Position { leaf: node, at: at as u32 }
    }

    /// Puts in `entry`, whose key is `key`, which is not there.
    pub fn insert(&mut self, entries: &Entries, key: &[u8], entry: Place) {
        self.path.clear();
        let mut leaf = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(leaf);
            let (at, found) = inner.keys.search(entries, key);
            let child = at + usize::from(found);
            self.path.push((leaf, child as u32));
            leaf = inner.children[child];
        }
        let (mut at, _) = self.leaves.get(leaf).keys.search(entries, key);
        if self.leaves.get(leaf).keys.is_full() {
            // Keys that arrive in order would leave every leaf half empty.
            let middle = if leaf == self.last && at == N { N - 1 } else { N / 2 };
            let right = self.split_leaf(entries, leaf, middle);
            if at > middle {
                (leaf, at) = (right, at - middle);
            }
        }
        self.leaves.get_mut(leaf).keys.insert(entries, at, key, entry);
    }

    /// Moves a leaf's keys from `middle` on into a new leaf on its right.
    fn split_leaf(&mut self, entries: &Entries, left: u32, middle: usize) -> u32 {
        let old = self.leaves.get_mut(left);
        let keys = old.keys.split_off(middle, 0);
        let separator = keys.place(0);
        let next = old.next;
        let right = self.leaves.push(Leaf { keys, previous: left, next });
        self.leaves.get_mut(left).next = right;
        match next {
            NO_LEAF => self.last = right,
            next => self.leaves.get_mut(next).previous = right,
        }
        let (low, high) = self.fences(entries, self.path.len());
        let between = Some(entries.key(separator));
        self.leaves.get_mut(left).keys.set_fences(entries, low, between);
        self.leaves.get_mut(right).keys.set_fences(entries, between, high);
        self.add_child(entries, separator, right);
        right
    }

    /// Gives the new node `child` to the parents on the path, splitting them where they are full.
    fn add_child(&mut self, entries: &Entries, mut separator: Place, mut child: u32) {
        for depth in (0..self.path.len()).rev() {
            let (mut number, at) = self.path[depth];
            let mut at = at as usize;
            let full = self.inners.get(number).keys.len() == N - 1;
            let mut risen = None;
            if full {
                let middle = if at == N - 1 { N - 2 } else { (N - 1) / 2 };
                let (up, right) = self.split_inner(entries, depth, number, middle);
                risen = Some((up, right));
                if at > middle {
                    (number, at) = (right, at - middle - 1);
                }
            }
            let inner = self.inners.get_mut(number);
            let len = inner.keys.len();
            inner.keys.insert(entries, at, entries.key(separator), separator);
            inner.children.copy_within(at + 1..len + 1, at + 2);
            inner.children[at + 1] = child;
            match risen {
                None => return,
                Some(next) => (separator, child) = next,
            }
        }
        let mut keys = Keys::new();
        keys.insert(entries, 0, entries.key(separator), separator);
        let mut children = [0; N];
        (children[0], children[1]) = (self.root, child);
        self.root = self.inners.push(Inner { keys, children });
        self.height += 1;
    }

    /// Splits an inner node around separator `middle`, which rises; returns it and the new right node.
    fn split_inner(&mut self, entries: &Entries, depth: usize, left: u32, middle: usize) -> (Place, u32) {
        let old = self.inners.get_mut(left);
        let up = old.keys.place(middle);
        let count = old.keys.len() - middle;
        let mut children = [0; N];
        children[..count].copy_from_slice(&old.children[middle + 1..middle + 1 + count]);
        let keys = old.keys.split_off(middle, 1);
        let right = self.inners.push(Inner { keys, children });
        let (low, high) = self.fences(entries, depth);
        let between = Some(entries.key(up));
        self.inners.get_mut(left).keys.set_fences(entries, low, between);
        self.inners.get_mut(right).keys.set_fences(entries, between, high);
        (up, right)
    }

    /// The separators around the node at `depth` of the path: the nearest ones above it.
    fn fences<'e>(&self, entries: &'e Entries, depth: usize) -> (Option<&'e [u8]>, Option<&'e [u8]>) {
        let above = || {
            self.path[..depth].iter().rev().map(|(number, at)| (&self.inners.get(*number).keys, *at as usize))
        };
        let low = above().find(|(_, at)| *at > 0).map(|(keys, at)| entries.key(keys.place(at - 1)));
        let high = above().find(|(keys, at)| *at < keys.len()).map(|(keys, at)| entries.key(keys.place(at)));
        (low, high)
    }

    pub fn first(&self) -> Position {
        // The first leaf is never replaced: splits make new nodes on the right.
        Position { leaf: 0, at: 0 }
    }

    /// Behind the last key.
    pub fn end(&self) -> Position {
        Position { leaf: self.last, at: self.leaves.get(self.last).keys.len() as u32 }
    }

    /// The entries of a leaf, in order.
    #[inline]
    pub fn places(&self, leaf: u32) -> &[Place] {
        self.leaves.get(leaf).keys.places()
    }

    /// The start of the next leaf.
    pub fn next(&self, leaf: u32) -> Option<Position> {
        let next = self.leaves.get(leaf).next;
        (next != NO_LEAF).then_some(Position { leaf: next, at: 0 })
    }

    /// The end of the previous leaf.
    pub fn previous(&self, leaf: u32) -> Option<Position> {
        let previous = self.leaves.get(leaf).previous;
        (previous != NO_LEAF).then(|| Position { leaf: previous, at: self.places(previous).len() as u32 })
    }

    /// Panics where an invariant does not hold. Returns the number of keys.
    #[cfg(test)]
    pub fn check(&self, entries: &Entries) -> usize {
        let mut leaves = Vec::new();
        self.check_node(entries, self.root, self.height, None, None, &mut leaves);
        let mut chained = vec![self.first().leaf];
        while let Some(next) = self.next(chained[chained.len() - 1]) {
            assert_eq!(self.previous(next.leaf).map(|p| p.leaf), chained.last().copied());
            chained.push(next.leaf);
        }
        assert_eq!(leaves, chained);
        assert_eq!(chained.last(), Some(&self.last));
        leaves.iter().map(|leaf| self.places(*leaf).len()).sum()
    }

    #[cfg(test)]
    fn check_node(
        &self,
        entries: &Entries,
        node: u32,
        height: usize,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
        leaves: &mut Vec<u32>,
    ) {
        if height == 0 {
            let keys = &self.leaves.get(node).keys;
            assert!(keys.len() > 0 || self.height == 0);
            keys.check(entries, low, high);
            leaves.push(node);
            return;
        }
        let inner = self.inners.get(node);
        inner.keys.check(entries, low, high);
        let separators: Vec<&[u8]> = inner.keys.places().iter().map(|place| entries.key(*place)).collect();
        for child in 0..=separators.len() {
            let low = if child == 0 { low } else { Some(separators[child - 1]) };
            let high = separators.get(child).copied().or(high);
            self.check_node(entries, inner.children[child], height - 1, low, high, leaves);
        }
    }
}
