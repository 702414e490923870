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
    /// as another. Then without the shards that the others can stand in for: each that is read is gone through whole.
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
                    let level = shard.applied() >= layout.shards[mended].applied();
                    index != mended && (level || crate::plants::is("mended-from-one-that-is-behind"))
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
        let owners = |node: usize| layout.ring.owner_indexes(VirtualNode(node as u32 / children));
        spare(&mut of, &mut loads, &owners, &usable);
        let shards = (0..loads.len()).filter(|index| loads[*index] > 0).collect();
        Ok(Sources { of, shards })
    }

    /// Whether a shard is the one that a position is copied from.
    pub fn is(&self, layout: &Layout, shard: usize, position: Position) -> bool {
        let node = layout.aim().virtual_node_at(position);
        self.of.get(node.0 as usize).is_some_and(|source| usize::from(*source) == shard)
    }
}

/// Leaves out, one after another, each shard that others which are read anyway can stand in for.
fn spare<'a>(of: &mut [u16], loads: &mut [u32], owners: &dyn Fn(usize) -> &'a [u16], usable: &[bool]) {
    let mut read: Vec<usize> = (0..loads.len()).filter(|index| loads[*index] > 0).collect();
    read.sort_by_key(|index| loads[*index]);
    for left_out in read {
        let stand_in = |node: usize, loads: &[u32]| {
            let others = owners(node).iter().map(|owner| usize::from(*owner));
            let others = others.filter(|o| *o != left_out && usable[*o] && loads[*o] > 0);
            others.min_by_key(|owner| loads[*owner])
        };
        let nodes: Vec<usize> = (0..of.len()).filter(|node| usize::from(of[*node]) == left_out).collect();
        if nodes.iter().all(|node| stand_in(*node, loads).is_some()) {
            for node in nodes {
                let Some(other) = stand_in(node, loads) else { continue };
                of[node] = other as u16;
                loads[other] += 1;
            }
            loads[left_out] = 0;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_others_can_stand_in_for_are_not_read() {
        // Pairs of four shards: three hold one of each.
        let pairs: Vec<[u16; 2]> =
            (0..4).flat_map(|a| (0..4).filter(move |b| *b != a).map(move |b| [a, b])).collect();
        let owners = |node: usize| &pairs[node][..];
        let first = || pairs.iter().map(|pair| pair[0]).collect::<Vec<u16>>();
        let (mut of, mut loads) = (first(), vec![3; 4]);
        spare(&mut of, &mut loads, &owners, &[true; 4]);
        assert_eq!(loads.iter().filter(|load| **load > 0).count(), 3);
        assert_eq!(loads.iter().sum::<u32>(), 12);
        for (node, source) in of.iter().enumerate() {
            assert!(pairs[node].contains(source) && loads[usize::from(*source)] > 0);
        }
        // Nobody may stand in for those that hold what a shard which cannot be read holds besides.
        let (mut of, mut loads) = (first(), vec![3; 4]);
        of.iter_mut().zip(&pairs).filter(|(of, _)| **of == 0).for_each(|(of, pair)| *of = pair[1]);
        loads = loads
            .iter()
            .enumerate()
            .map(|(i, _)| of.iter().filter(|o| usize::from(**o) == i).count() as u32)
            .collect();
        let before = of.clone();
        spare(&mut of, &mut loads, &owners, &[false, true, true, true]);
        assert_eq!(of, before);
    }
}
