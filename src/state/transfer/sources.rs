//! From which shards records are copied.

use super::Purpose;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::ids::VirtualNode;
use crate::ring::Position;
use crate::shard::{Layout, Shard};
use std::sync::Arc;

/// From which shard each virtual node of the ring that is aimed at is copied.
#[derive(Debug)]
pub struct Sources {
    of: Vec<u16>,
    pub shards: Vec<usize>,
}

const NOBODY: u16 = u16::MAX;

impl Sources {
    /// An owner for each virtual node that somebody gets; none of those in `except`. An error names a virtual node that has
    /// none.
    ///
    /// The one that loses it, since a shard that is emptied is best read alone, and whole; where nobody does, each as often
    /// as another.
    ///
    /// What is mended is never taken from one that has applied less: what is replaced has that already, and is not given it
    /// again.
    pub fn choose(layout: &Layout, purpose: Purpose, except: &[usize]) -> Result<Sources, VirtualNode> {
        let aim = layout.aim();
        let children = (aim.virtual_nodes() / layout.ring.virtual_nodes().max(1)).max(1);
        let mut loads = vec![0_u32; layout.shards.len()];
        let is_usable = |(index, shard): (usize, &Arc<Shard>)| {
            let fits = match purpose {
                Purpose::Mending(mended) => {
                    index != mended && shard.applied() >= layout.shards[mended].applied()
                }
                _ => true,
            };
            fits && shard.serves() && !except.contains(&index)
        };
        let usable: Vec<bool> = layout.shards.iter().enumerate().map(is_usable).collect();
        let mut of = vec![NOBODY; aim.virtual_nodes() as usize];
        for (node, source) in of.iter_mut().enumerate() {
            let node = VirtualNode(node as u32);
            let parent = VirtualNode(node.0 / children);
            let owners = layout.ring.owner_indexes(parent);
            let aimed = layout.aimed_owners(node);
            let wanted = match purpose {
                Purpose::Change => aimed.iter().any(|owner| !owners.contains(owner)),
                Purpose::Filling(index) | Purpose::Mending(index) => {
                    owners.contains(&(index as u16)) || aimed.contains(&(index as u16))
                }
            };
            if !wanted {
                continue;
            }
            let rank = |owner: u16| match purpose {
                Purpose::Change => aimed.contains(&owner),
                // One that is written anew beside itself has all that it needs.
                Purpose::Filling(index) => usize::from(owner) != index,
                Purpose::Mending(_) => false,
            };
            let usable = owners.iter().filter(|owner| usable[usize::from(**owner)]);
            let least = usable.min_by_key(|owner| (rank(**owner), loads[usize::from(**owner)]));
            let least = least.ok_or(parent)?;
            loads[usize::from(*least)] += 1;
            *source = *least;
        }
        let shards = (0..loads.len()).filter(|index| loads[*index] > 0).collect();
        Ok(Sources { of, shards })
    }

    /// Whether a shard is the one that a position is copied from.
    pub fn is(&self, layout: &Layout, shard: usize, position: Position) -> bool {
        let node = layout.aim().virtual_node_at(position);
        self.of.get(node.0 as usize).is_some_and(|source| usize::from(*source) == shard)
    }
}

/// The error for a virtual node that nobody can be asked for.
pub fn no_source(layout: &Layout, node: VirtualNode) -> Error {
    let owners: Vec<String> = layout.ring.owners(node).iter().map(ToString::to_string).collect();
    let text = format!(
        "virtual node {node} has no owner that serves to be copied from: shards {}",
        owners.join(", ")
    );
    Error::new(ErrorKind::Unavailable, text).remedy("bring one of them back; nothing has been deleted")
}
