//! Whether the shards that are there hold everything.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::VirtualNode;
use crate::shard::{Health, Layout, Shard};

/// Errors, naming the shards and their causes, if some virtual node has no serving owner.
pub fn check_covered(layout: &Layout) -> Result<()> {
    let uncovered = without(layout, Shard::serves).count();
    if uncovered == 0 {
        return Ok(());
    }
    let Layout { ring, shards, .. } = layout;
    let causes: Vec<String> = shards
        .iter()
        .filter_map(|s| match s.health() {
            Health::Offline(cause) => Some(format!("shard {}: {cause}", s.id)),
            _ => None,
        })
        .collect();
    let text = format!(
        "{uncovered} of {} virtual nodes have no shard that serves them: {}",
        ring.virtual_nodes(),
        causes.join("; ")
    );
    Err(Error::new(ErrorKind::Unavailable, text)
        .remedy("bring one of these shards back; nothing has been changed"))
}

/// The virtual nodes without an owner that counts.
pub fn without(layout: &Layout, counts: impl Fn(&Shard) -> bool) -> impl Iterator<Item = VirtualNode> {
    let Layout { ring, shards, .. } = layout;
    let nodes = (0..ring.virtual_nodes()).map(VirtualNode);
    nodes.filter(move |node| {
        !ring.owner_indexes(*node).iter().any(|i| shards.get(usize::from(*i)).is_some_and(|s| counts(s)))
    })
}
