//! The index in memory: every node's lower bound, and as many of the nodes as fit.
//!
//! Invariants: the nodes tile the key space (the first begins at the empty key, each ends where the next begins, the last
//! is unbounded), so every key has exactly one page. A node that changed and is not yet in sled stays in memory. A
//! node that is loaded again must have the checksum it had: one that sled lost or turned back is found out.
//!
//! The lock is held for a search or a swap, never over I/O.

use super::node::{Node, PageRef};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many nodes one loading looks at for one that may go.
const LOOKS: usize = 32;
/// What a node that is not loaded takes, beside its bound.
const SLOT_BYTES: usize = 112;

type Nodes = BTreeMap<Box<[u8]>, Slot>;

pub(super) struct Root {
    nodes: RwLock<Nodes>,
    /// Bytes of nodes in memory, and how many there may be.
    resident: AtomicU64,
    limit: u64,
    /// Where the next search for a node that may go begins.
    hand: parking_lot::Mutex<Vec<u8>>,
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

/// Which node is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The one that holds the key.
    Holds(&'a [u8]),
    /// The last one that begins below the bound (none: the last of all).
    Below(Option<&'a [u8]>),
}

impl Root {
    pub fn new(nodes: Nodes, limit: u64) -> Root {
        let root = Root {
            nodes: RwLock::new(nodes),
            resident: AtomicU64::new(0),
            limit,
            hand: parking_lot::Mutex::new(Vec::new()),
        };
        let resident = root.nodes.read().iter().map(|(lower, slot)| resident(lower, slot)).sum();
        root.resident.store(resident, Ordering::Relaxed);
        root
    }

    /// Bytes in memory.
    pub fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    pub fn over_limit(&self) -> bool {
        self.resident() > self.limit
    }

    /// The page that holds `key`.
    #[inline]
    pub fn page(&self, key: &[u8]) -> Option<Search<PageRef>> {
        self.search(Which::Holds(key), |node| node.page(node.find(key)))
    }

    /// The node itself.
    pub fn node(&self, which: Which<'_>) -> Option<Search<Arc<Node>>> {
        self.search(which, |node| Some(Arc::clone(node)))
    }

    #[inline]
    fn search<T>(&self, which: Which<'_>, f: impl FnOnce(&Arc<Node>) -> Option<T>) -> Option<Search<T>> {
        let nodes = self.nodes.read();
        let (lower, slot) = match which {
            Which::Holds(key) => nodes.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back(),
            Which::Below(Some(bound)) => {
                nodes.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(bound))).next_back()
            }
            Which::Below(None) => nodes.last_key_value(),
        }?;
        match &slot.node {
            Some(node) => {
                // Read first: a line that only one core writes is not shared by all that read.
                if !slot.used.load(Ordering::Relaxed) {
                    slot.used.store(true, Ordering::Relaxed);
                }
                f(node).map(Search::Found)
            }
            None => Some(Search::Load(Absent { lower: lower.clone(), number: slot.number, crc: slot.crc })),
        }
    }

    /// The slot of the node that begins at `lower`: its number, its checksum, and it, if it is dirty.
    pub fn slot(&self, lower: &[u8]) -> Option<(u64, u32, Option<Arc<Node>>)> {
        let nodes = self.nodes.read();
        let slot = nodes.get(lower)?;
        Some((slot.number, slot.crc, slot.node.clone().filter(|_| slot.dirty)))
    }

    /// Keeps a node that has been loaded, unless it has changed meanwhile, and lets others go if there are too many.
    pub fn keep(&self, absent: &Absent, node: Arc<Node>) {
        let mut nodes = self.nodes.write();
        if let Some(slot) = nodes.get_mut(&absent.lower)
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

    /// Lets nodes go that have not been used since the hand passed them (a clock).
    fn let_go(&self, nodes: &mut Nodes) {
        let mut hand = self.hand.lock();
        let mut freed = 0;
        let mut last: Option<&[u8]> = None;
        for (lower, slot) in
            nodes.range_mut::<[u8], _>((Bound::Excluded(hand.as_slice()), Bound::Unbounded)).take(LOOKS)
        {
            if let Some(node) = slot.node.take_if(|_| !slot.dirty && !*slot.used.get_mut()) {
                freed += node.resident() as u64;
            }
            *slot.used.get_mut() = false;
            last = Some(lower);
        }
        let next = last.map(<[u8]>::to_vec).unwrap_or_default();
        *hand = next;
        self.resident.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Puts changed nodes in the place of the ones that begin at `old`, in one step for readers.
    pub fn replace(&self, old: &[Box<[u8]>], new: Vec<(Box<[u8]>, u64, Node)>) {
        let mut nodes = self.nodes.write();
        let (mut freed, mut added) = (0, 0);
        for lower in old {
            if let Some(slot) = nodes.remove(lower) {
                freed += resident(lower, &slot);
            }
        }
        for (lower, number, node) in new {
            let slot = Slot::new(number, 0, true, Some(Arc::new(node)));
            added += resident(&lower, &slot);
            nodes.insert(lower, slot);
        }
        self.resident.fetch_add(added, Ordering::Relaxed);
        self.resident.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Notes that sled has the node that begins at `lower`, with this checksum.
    pub fn clean(&self, lower: &[u8], crc: u32) {
        if let Some(slot) = self.nodes.write().get_mut(lower) {
            slot.dirty = false;
            slot.crc = crc;
        }
    }
}

fn resident(lower: &[u8], slot: &Slot) -> u64 {
    (SLOT_BYTES + lower.len() + slot.node.as_ref().map_or(0, |node| node.resident())) as u64
}
