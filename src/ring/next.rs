//! What a next ring is asked to be, all of it at once: several changes planned together move less than one after
//! another.

use super::topology::{Member, Topology, validate, validate_tolerance};
use crate::error::{Error, Result};
use crate::ids::ShardId;

/// Everything that decides the next ring beside the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// All members that there are to be.
    pub members: Vec<Member>,
    /// How many members are to own each virtual node.
    pub replication_factor: usize,
    /// As many as before, or more by a power of two. Doubling moves nothing by itself; the finer loads may.
    pub virtual_nodes: u32,
    /// Old members, which go, each with the new member that takes over what it owns.
    pub replacements: Vec<(ShardId, ShardId)>,
    /// How far a load may lie from its share, as a part of it, if that saves movement: from 0, where balance is all
    /// that counts, to 1.
    pub tolerance: f64,
}

impl Next {
    /// The same as there is, to be changed field by field.
    pub(super) fn like(topology: &Topology) -> Next {
        Next {
            members: topology.members.clone(),
            replication_factor: topology.replication_factor,
            virtual_nodes: topology.virtual_nodes,
            replacements: Vec::new(),
            tolerance: topology.tolerance,
        }
    }

    /// An error if anything is outside its limits, or a replacement does not lead from a member that goes to one that
    /// comes.
    pub(super) fn validate(&self, before: &[Member]) -> Result<()> {
        validate(&self.members, self.replication_factor, self.virtual_nodes)?;
        validate_tolerance(self.tolerance)?;
        let is_in = |members: &[Member], id: ShardId| members.iter().any(|member| member.id == id);
        for (at, (old, new)) in self.replacements.iter().enumerate() {
            let earlier = &self.replacements[..at];
            let refuse = |shard: ShardId, what: String, remedy: &str| {
                Err(Error::invalid(what).on(shard).remedy(remedy.to_owned()))
            };
            if !is_in(before, *old) {
                return refuse(
                    *old,
                    "the shard to be replaced is not a member".into(),
                    "replace one that is",
                );
            }
            if is_in(&self.members, *old) {
                return refuse(
                    *old,
                    "a shard that is replaced is to stay".into(),
                    "leave it out of the next members",
                );
            }
            if is_in(before, *new) || !is_in(&self.members, *new) {
                return refuse(
                    *new,
                    format!("the successor of shard {old} is not a new member"),
                    "give it a new id",
                );
            }
            if earlier.iter().any(|(other, successor)| other == old || successor == new) {
                return refuse(
                    *new,
                    format!("shard {old} or its successor is named twice"),
                    "replace one by one",
                );
            }
        }
        Ok(())
    }
}
