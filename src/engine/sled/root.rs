//! The index in memory: every node's lower bound, and as many of the nodes as fit.
//!
//! Invariants: the nodes tile the key space (the first begins at the empty key, each ends where the next begins, the last
//! is unbounded), so every key has exactly one page. A node that changed and is not yet in sled stays in memory. A
//! node that is loaded again must have the checksum it had: one that sled lost or turned back is found out.
//!
//! The lock is held for a search or a swap, never over I/O.

use super::fences::Fences;
use super::node::{Node, PageRef};
use super::slots::NO_SLOT;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a node that is not loaded takes, beside its bound.
const SLOT_BYTES: usize = 112;

/// Nodes in a group, at most; as many are moved when one comes or goes.
const GROUP: usize = 256;

pub(super) struct Root {
    nodes: RwLock<Nodes>,
    /// Bytes of nodes in memory, and how many there may be.
    resident: AtomicU64,
    limit: AtomicU64,
    /// The group from which the next search for nodes that may go begins.
    hand: AtomicUsize,
}

/// All nodes: groups of neighbours, and the groups' own first bounds.
#[derive(Default)]
struct Nodes {
    fences: Fences,
    groups: Vec<Group>,
}

/// Neighbouring nodes.
struct Group {
    fences: Fences,
    slots: Vec<Slot>,
}

/// What is known of a node.
#[derive(Debug)]
pub(super) struct Slot {
    pub number: u64,
    /// The checksum of its bytes in sled; of no meaning while it is dirty.
    pub crc: u32,
    pub dirty: bool,
    node: Option<Arc<Node>>,
    used: AtomicBool,
}

impl Slot {
    pub fn new(number: u64, crc: u32, dirty: bool, node: Option<Arc<Node>>) -> Slot {
        Slot { number, crc, dirty, node, used: AtomicBool::new(true) }
    }
}

/// A node that is not in memory.
#[derive(Debug)]
pub(super) struct Absent {
    pub lower: Box<[u8]>,
    pub number: u64,
    pub crc: u32,
}

/// What a search of the nodes in memory comes to.
pub(super) enum Search<T> {
    Found(T),
    /// This node must be loaded first.
    Load(Absent),
}

/// A page, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    pub page: PageRef,
    /// Where it may lie in the cache.
    pub slot: u32,
    /// It does not have the key.
    pub lacks: bool,
}

/// Which node is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The one that holds the key.
    Holds(&'a [u8]),
    /// The last one that begins below the bound (none: the last of all).
    Below(Option<&'a [u8]>),
}

impl Group {
    fn new(list: Vec<(Box<[u8]>, Slot)>) -> Group {
        let fences = Fences::new(list.iter().map(|(lower, _)| &**lower));
        Group { fences, slots: list.into_iter().map(|(_, slot)| slot).collect() }
    }

    fn into_list(self) -> Vec<(Box<[u8]>, Slot)> {
        let lowers: Vec<Box<[u8]>> =
            (0..self.fences.len()).map(|index| self.fences.get(index).into()).collect();
        lowers.into_iter().zip(self.slots).collect()
    }
}

impl Nodes {
    fn new(list: Vec<(Box<[u8]>, Slot)>) -> Nodes {
        let mut nodes = Nodes { fences: Fences::default(), groups: grouped(list) };
        nodes.fence();
        nodes
    }

    fn fence(&mut self) {
        self.fences = Fences::new(self.groups.iter().map(|group| group.fences.get(0)));
    }

    /// The group and the place in it of the node that is looked for.
    #[inline]
    fn find(&self, which: Which<'_>) -> Option<(usize, usize)> {
        let (group, bound) = match which {
            Which::Holds(key) => (self.fences.floor(key), Some(key)),
            Which::Below(Some(bound)) => (self.fences.below(bound), Some(bound)),
            Which::Below(None) => (self.groups.len().checked_sub(1)?, None),
        };
        let fences = &self.groups.get(group)?.fences;
        let place = match (which, bound) {
            (Which::Holds(_), Some(key)) => fences.floor(key),
            (_, Some(bound)) => fences.below(bound),
            (_, None) => fences.len() - 1,
        };
        Some((group, place))
    }

    /// The node that begins at `lower`.
    fn exact(&self, lower: &[u8]) -> Option<(usize, usize)> {
        let (group, place) = self.find(Which::Holds(lower))?;
        (self.groups[group].fences.get(place) == lower).then_some((group, place))
    }

    fn exact_mut(&mut self, lower: &[u8]) -> Option<&mut Slot> {
        let (group, place) = self.exact(lower)?;
        self.groups[group].slots.get_mut(place)
    }
}

/// Sorted nodes in groups of about equal size.
fn grouped(list: Vec<(Box<[u8]>, Slot)>) -> Vec<Group> {
    let parts = list.len().div_ceil(GROUP).max(1);
    let each = list.len().div_ceil(parts).max(1);
    let mut groups = Vec::with_capacity(parts);
    let mut rest = list.into_iter().peekable();
    while rest.peek().is_some() {
        groups.push(Group::new(rest.by_ref().take(each).collect()));
    }
    groups
}

impl Root {
    /// An index of these nodes, sorted by their bounds.
    pub fn new(nodes: Vec<(Box<[u8]>, Slot)>, limit: u64) -> Root {
        let resident = nodes.iter().map(|(lower, slot)| resident(lower, slot)).sum();
        Root {
            nodes: RwLock::new(Nodes::new(nodes)),
            resident: AtomicU64::new(resident),
            limit: AtomicU64::new(limit),
            hand: AtomicUsize::new(0),
        }
    }

    /// Bytes in memory.
    pub fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// How many bytes there may be from now on. Nodes that are too many go as others come, or with the next commit.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub fn over_limit(&self) -> bool {
        self.resident() > self.limit.load(Ordering::Relaxed)
    }

    /// The page that holds `key`. Whether it is known to lack the key is looked up if it may not be in memory, and if the key is
    /// `doubted`.
    #[inline]
    pub fn page(&self, key: &[u8], doubted: bool, hash: impl FnOnce() -> u64) -> Option<Search<Located>> {
        self.search(Which::Holds(key), |node| {
            let index = node.find(key);
            let (page, slot) = (node.page(index)?, node.slot(index));
            let lacks = (doubted || slot == NO_SLOT) && node.lacks(index, hash);
            Some(Located { page, slot, lacks })
        })
    }

    /// Takes note of where the page that holds `key` lies in the cache, if it is still this one.
    pub fn note_slot(&self, key: &[u8], id: u64, slot: u32) {
        self.search(Which::Holds(key), |node| {
            let index = node.find(key);
            (node.page(index)?.id == id).then(|| node.note_slot(index, slot))
        });
    }

    /// Takes note of all keys of the page that holds `key`, by their hashes, if it is still this one. Returns whether that took
    /// memory.
    pub fn note_keys(&self, key: &[u8], id: u64, hashes: &[u64]) -> bool {
        let grown = self.search(Which::Holds(key), |node| {
            let index = node.find(key);
            let grown = (node.page(index)?.id == id).then(|| node.note_keys(index, hashes) as u64)?;
            // Under the lock, so that what is taken off when the node goes has been added before.
            self.resident.fetch_add(grown, Ordering::Relaxed);
            Some(grown > 0)
        });
        matches!(grown, Some(Search::Found(true)))
    }

    /// The node itself.
    pub fn node(&self, which: Which<'_>) -> Option<Search<Arc<Node>>> {
        self.search(which, |node| Some(Arc::clone(node)))
    }

    #[inline]
    fn search<T>(&self, which: Which<'_>, f: impl FnOnce(&Arc<Node>) -> Option<T>) -> Option<Search<T>> {
        let nodes = self.nodes.read();
        let (group, place) = nodes.find(which)?;
        let group = &nodes.groups[group];
        let slot = group.slots.get(place)?;
        match &slot.node {
            Some(node) => {
                // Read first: a line that only one core writes is not shared by all that read.
                if !slot.used.load(Ordering::Relaxed) {
                    slot.used.store(true, Ordering::Relaxed);
                }
                f(node).map(Search::Found)
            }
            None => {
                let lower = group.fences.get(place).into();
                Some(Search::Load(Absent { lower, number: slot.number, crc: slot.crc }))
            }
        }
    }

    /// The slot of the node that begins at `lower`: its number, its checksum, and it, if it is dirty.
    pub fn slot(&self, lower: &[u8]) -> Option<(u64, u32, Option<Arc<Node>>)> {
        let nodes = self.nodes.read();
        let (group, place) = nodes.exact(lower)?;
        let slot = nodes.groups[group].slots.get(place)?;
        Some((slot.number, slot.crc, slot.node.clone().filter(|_| slot.dirty)))
    }

    /// Keeps a node that has been loaded, unless it has changed meanwhile, and lets others go if there are too many.
    pub fn keep(&self, absent: &Absent, node: Arc<Node>) {
        let mut nodes = self.nodes.write();
        if let Some(slot) = nodes.exact_mut(&absent.lower)
            && slot.node.is_none()
            && (slot.number, slot.crc) == (absent.number, absent.crc)
        {
            self.resident.fetch_add(node.resident() as u64, Ordering::Relaxed);
            slot.node = Some(node);
            slot.used = AtomicBool::new(true);
        }
        if self.over_limit() {
            self.let_go(&mut nodes);
        }
    }

    /// Lets nodes go until there are no more than there may be, or all that are left are used or dirty.
    pub fn trim(&self) {
        let rounds = 2 * self.nodes.read().groups.len();
        for _ in 0..rounds {
            if !self.over_limit() {
                return;
            }
            self.let_go(&mut self.nodes.write());
        }
    }

    /// Lets nodes go that have not been used since the hand passed them (a clock), a group at a time.
    fn let_go(&self, nodes: &mut Nodes) {
        let hand = self.hand.fetch_add(1, Ordering::Relaxed);
        let count = nodes.groups.len().max(1);
        let Some(group) = nodes.groups.get_mut(hand % count) else { return };
        let mut freed = 0;
        for slot in &mut group.slots {
            if let Some(node) = slot.node.take_if(|_| !slot.dirty && !*slot.used.get_mut()) {
                freed += node.resident() as u64;
            }
            *slot.used.get_mut() = false;
        }
        self.resident.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Puts changed nodes in the place of the neighbours that begin at `old`, in one step for readers.
    pub fn replace(&self, old: &[Box<[u8]>], new: Vec<(Box<[u8]>, u64, Node)>) {
        let mut nodes = self.nodes.write();
        let added: Vec<(Box<[u8]>, Slot)> = new
            .into_iter()
            .map(|(lower, number, node)| (lower, Slot::new(number, 0, true, Some(Arc::new(node)))))
            .collect();
        let grown: u64 = added.iter().map(|(lower, slot)| resident(lower, slot)).sum();
        self.resident.fetch_add(grown, Ordering::Relaxed);
        let same = old.iter().eq(added.iter().map(|(lower, _)| lower));
        let freed = if same { swap(&mut nodes, added) } else { splice(&mut nodes, old, added) };
        self.resident.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Notes that sled has the node that begins at `lower`, with this checksum.
    pub fn clean(&self, lower: &[u8], crc: u32) {
        if let Some(slot) = self.nodes.write().exact_mut(lower) {
            slot.dirty = false;
            slot.crc = crc;
        }
    }
}

/// Replaces nodes by others with the same bounds; returns the bytes that went.
fn swap(nodes: &mut Nodes, new: Vec<(Box<[u8]>, Slot)>) -> u64 {
    let mut freed = 0;
    for (lower, slot) in new {
        if let Some(place) = nodes.exact_mut(&lower) {
            freed += resident(&lower, &std::mem::replace(place, slot));
        }
    }
    freed
}

/// Replaces neighbours by others, building the groups they are in anew; returns the bytes that went.
fn splice(nodes: &mut Nodes, old: &[Box<[u8]>], new: Vec<(Box<[u8]>, Slot)>) -> u64 {
    let at = |lower: &[u8]| nodes.find(Which::Holds(lower)).map_or(0, |(group, _)| group);
    let ends = old.first().map(|lower| at(lower)).zip(old.last().map(|lower| at(lower)));
    let (first, last) = ends.unwrap_or((0, 0));
    let last = last.min(nodes.groups.len().saturating_sub(1));
    let range = if nodes.groups.is_empty() { 0..0 } else { first..last + 1 };
    let mut list: Vec<(Box<[u8]>, Slot)> =
        nodes.groups.drain(range.clone()).flat_map(Group::into_list).collect();
    let mut freed = 0;
    list.retain(|(lower, slot)| {
        let goes = old.binary_search(lower).is_ok();
        freed += if goes { resident(lower, slot) } else { 0 };
        !goes
    });
    list.extend(new);
    list.sort_by(|a, b| a.0.cmp(&b.0));
    nodes.groups.splice(range.start..range.start, grouped(list));
    nodes.fence();
    freed
}

fn resident(lower: &[u8], slot: &Slot) -> u64 {
    (SLOT_BYTES + lower.len() + slot.node.as_ref().map_or(0, |node| node.resident())) as u64
}
