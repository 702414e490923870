//! Which shards there are and who owns what, at one moment: the ring that answers reads, the shards behind its indexes, and
//! while the topology changes the ring to come, whose owners are written to as well.
//!
//! Invariants: a layout never changes; another one takes its place. Whoever reads or writes by one holds it until done, so
//! that what it alone refers to is taken away only when nobody is left who could ask for it. What runs on a shard's worker has a
//! copy of its own: a disk that hangs must not keep a change from ending that replaces it.

use super::{Shard, Worker};
use crate::error::{Error, Result};
use crate::ids::{ShardId, VirtualNode};
use crate::manifest::{Manifest, ShardEntry};
use crate::ring::{Position, Ring};
use std::sync::Arc;

/// The shards of a store, and who owns what.
#[derive(Debug)]
pub struct Layout {
    pub ring: Ring,
    /// The ring's members in the order of its indexes, then those that are only joining.
    pub shards: Vec<Arc<Shard>>,
    /// One for each shard.
    pub workers: Vec<Arc<Worker>>,
    pub next: Option<NextRing>,
    /// Whether each shard may hold records that it does not own by `ring`, and that nobody keeps up: scans leave those out.
    pub stale: Vec<bool>,
}

/// The ring that a change of the topology leads to.
#[derive(Debug)]
pub struct NextRing {
    pub ring: Ring,
    /// From an index of this ring to one of the layout's shards.
    pub places: Vec<u16>,
}

impl Layout {
    /// The layout that a manifest describes, of shards that `find` finds.
    pub fn of(
        manifest: &Manifest,
        mut find: impl FnMut(&ShardEntry) -> Result<(Arc<Shard>, Arc<Worker>)>,
    ) -> Result<Layout> {
        let ring = Ring::new(manifest.topology.clone())?;
        let next = manifest.change.as_ref().map(|change| Ring::new(change.next.clone())).transpose()?;
        let mut layout = Layout {
            ring: ring.clone(),
            shards: Vec::new(),
            workers: Vec::new(),
            next: None,
            stale: Vec::new(),
        };
        let joining = next.iter().flat_map(Ring::members);
        for member in ring.members().iter().chain(joining) {
            if layout.index_of(member.id).is_some() {
                continue;
            }
            let missing = || Error::corruption("the ring names a shard that has no directory").on(member.id);
            let entry = manifest.entry(member.id).ok_or_else(missing)?;
            let (shard, worker) = find(entry)?;
            layout.shards.push(shard);
            layout.workers.push(worker);
            layout.stale.push(entry.stale);
        }
        if let Some(ring) = next {
            // Every member was just given a place; there are at most 1,024 on each side.
            let places = ring
                .members()
                .iter()
                .filter_map(|m| layout.index_of(m.id))
                .map(|place| place as u16)
                .collect();
            layout.next = Some(NextRing { ring, places });
        }
        Ok(layout)
    }

    /// The same with other shards marked.
    pub fn with_stale(&self, stale: Vec<bool>) -> Layout {
        let next = self.next.as_ref();
        Layout {
            ring: self.ring.clone(),
            shards: self.shards.clone(),
            workers: self.workers.clone(),
            next: next.map(|n| NextRing { ring: n.ring.clone(), places: n.places.clone() }),
            stale,
        }
    }

    /// The same for a job on a shard's worker, which may hang with it: nothing waits for this one to be let go.
    pub fn apart(&self) -> Arc<Layout> {
        Arc::new(self.with_stale(self.stale.clone()))
    }

    /// The index of a shard.
    pub fn index_of(&self, id: ShardId) -> Option<usize> {
        self.shards.iter().position(|shard| shard.id == id)
    }

    /// The ring that the shards are on their way to: the next one, or the one at hand.
    pub fn aim(&self) -> &Ring {
        self.next.as_ref().map_or(&self.ring, |next| &next.ring)
    }

    /// The owners of a virtual node of that ring, as indexes of the layout.
    pub fn aimed_owners(&self, node: VirtualNode) -> Vec<u16> {
        match &self.next {
            None => self.ring.owner_indexes(node).to_vec(),
            Some(next) => {
                let owners = next.ring.owner_indexes(node).iter();
                owners.filter_map(|owner| next.places.get(usize::from(*owner)).copied()).collect()
            }
        }
    }

    /// The shards that own a position now, as indexes.
    pub fn owners_at(&self, position: Position) -> &[u16] {
        self.ring.owner_indexes_at(position)
    }

    /// The shards that will own a position, as indexes; none unless a change is under way.
    pub fn next_owners_at(&self, position: Position) -> impl Iterator<Item = usize> + '_ {
        self.next.iter().flat_map(move |next| {
            let owners = next.ring.owner_indexes_at(position).iter();
            owners.filter_map(|owner| next.places.get(usize::from(*owner)).map(|place| usize::from(*place)))
        })
    }

    /// Whether a shard answers for a position, now.
    pub fn owns(&self, index: usize, position: Position) -> bool {
        self.ring.owns(index, position)
    }

    /// Whether writes at a position go to a shard: it owns it, or will.
    pub fn is_written(&self, index: usize, position: Position) -> bool {
        let next = || !crate::plants::is("next-owners-not-written-to");
        self.owns(index, position) || next() && self.next_owners_at(position).any(|owner| owner == index)
    }

    /// Whether a shard gets a position by the change under way and does not have it yet.
    pub fn gains(&self, index: usize, position: Position) -> bool {
        !self.owns(index, position) && self.next_owners_at(position).any(|owner| owner == index)
    }
}
