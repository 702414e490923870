//! Which shards a scan reads: as few as hold every virtual node between them.
//!
//! Invariant: every virtual node has an owner in the cover, so the union of the covered shards is the whole store; what
//! two of them both hold is the same record and is seen once.

use crate::ids::VirtualNode;
use crate::ring::Ring;
use crate::shard::Layout;
use std::sync::{Arc, Weak};

/// The cover computed last, and what it was computed from.
#[derive(Default)]
pub struct Cover {
    version: u64,
    // Not held: what a layout alone refers to must go when nobody reads by it any more.
    layout: Weak<Layout>,
    shards: Option<Arc<[usize]>>,
}

impl Cover {
    /// The cover for this layout and version of the shards' health, from `make` if it is not the one at hand.
    pub fn get(
        &mut self,
        layout: &Arc<Layout>,
        version: u64,
        make: impl FnOnce() -> Option<Vec<usize>>,
    ) -> Option<Arc<[usize]>> {
        if self.version != version || self.layout.as_ptr() != Arc::as_ptr(layout) {
            self.shards = make().map(Arc::from);
            self.version = version;
            self.layout = Arc::downgrade(layout);
        }
        self.shards.clone()
    }
}

/// A small set of the serving shards that holds every virtual node; none if there is no such set.
pub fn cover(ring: &Ring, serves: &[bool]) -> Option<Vec<usize>> {
    if first_uncovered(ring, serves).is_some() {
        return None;
    }
    let mut chosen = serves.to_vec();
    // Leaving out one shard after another while the rest still covers: with R owners for each virtual node, spread
    // evenly, that leaves about S - R + 1, which is the least.
    for index in 0..chosen.len() {
        if chosen[index] {
            chosen[index] = false;
            if first_uncovered(ring, &chosen).is_some() {
                chosen[index] = true;
            }
        }
    }
    Some(chosen.iter().enumerate().filter_map(|(i, c)| c.then_some(i)).collect())
}

/// The first virtual node that no chosen shard holds.
pub fn first_uncovered(ring: &Ring, chosen: &[bool]) -> Option<VirtualNode> {
    let held = |node: &VirtualNode| {
        ring.owner_indexes(*node).iter().any(|i| chosen.get(usize::from(*i)).copied().unwrap_or(false))
    };
    (0..ring.virtual_nodes()).map(VirtualNode).find(|node| !held(node))
}
