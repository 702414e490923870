//! What a user asks of the healing: how the shards are, that one be repaired, rebuilt or compacted, and what to do with what
//! has been set aside.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::shard::{self, Quarantined};
use crate::state::State;
use crate::state::healing::Wish;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How the shards of a store are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreHealth {
    /// Every shard of the ring, and those that are joining.
    pub shards: Vec<ShardHealth>,
    /// Virtual nodes that have fewer owners that serve than the replication factor asks for.
    pub under_replicated: u32,
    /// Virtual nodes that no shard serves: their reads and writes fail.
    pub unavailable: u32,
    /// The files of damaged engines that are kept.
    pub quarantined: Vec<Quarantined>,
    /// Shards whose disks did not answer in time: what is kept of theirs is as it was last known. A disk that goes on hanging
    /// takes its shard offline when it is next written to.
    #[serde(default)]
    pub silent: Vec<ShardId>,
}

/// How one shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardHealth {
    /// Its number.
    pub id: ShardId,
    /// Its directory.
    pub path: PathBuf,
    /// What state it is in, and why.
    #[serde(flatten)]
    pub health: shard::Health,
    /// Every write up to this one is in the shard.
    pub applied: Seq,
}

impl StoreHealth {
    /// Whether every shard is online and every virtual node has all its copies.
    pub fn is_good(&self) -> bool {
        self.under_replicated == 0 && self.shards.iter().all(|shard| shard.health == shard::Health::Online)
    }
}

/// How the shards are now.
pub fn health(state: &State) -> Result<StoreHealth> {
    state.check_open()?;
    let layout = state.layout();
    // First: what is told of the shards is not older than this, which may take a while.
    let answered = state.look(&layout, shard::Shard::look_at_quarantined);
    let members = layout.ring.members().len();
    let (mut under_replicated, mut unavailable) = (0, 0);
    for node in (0..layout.ring.virtual_nodes()).map(crate::ids::VirtualNode) {
        let owners = layout.ring.owner_indexes(node);
        let serving = owners.iter().filter(|i| layout.shards[usize::from(**i)].serves()).count();
        under_replicated += u32::from(serving < owners.len());
        unavailable += u32::from(serving == 0);
    }
    let of = |(index, shard): (usize, &std::sync::Arc<shard::Shard>)| ShardHealth {
        id: shard.id,
        path: shard.dir.clone(),
        health: match shard.health() {
            shard::Health::Online if index >= members => shard::Health::Joining,
            health => health,
        },
        applied: shard.applied(),
    };
    let quarantined = layout.shards.iter().flat_map(|shard| shard.quarantined_seen()).collect();
    let silent = layout.shards.iter().zip(answered).filter(|(_, answered)| !answered);
    let silent = silent.map(|(shard, _)| shard.id).collect();
    let shards = layout.shards.iter().enumerate().map(of).collect();
    Ok(StoreHealth { shards, under_replicated, unavailable, quarantined, silent })
}

pub(super) fn change_under_way() -> Error {
    Error::new(ErrorKind::Busy, "a change of the topology is under way").remedy("wait for it, or cancel it")
}

/// Asks for something to be done for a shard; waits for it, for `limit` at the most, where background threads run.
pub fn request(state: &State, id: ShardId, wish: Wish, limit: Option<Duration>) -> Result<()> {
    state.check_open()?;
    let layout = state.layout();
    if layout.index_of(id).is_none() {
        return Err(Error::new(ErrorKind::NotFound, "there is no such shard in the ring")
            .on(id)
            .remedy("see health() for the shards"));
    }
    if wish == Wish::Compact && state.written().change.is_some() {
        return Err(change_under_way());
    }
    let Some(outcome) = state.healing.wish(id, wish) else {
        return Err(Error::new(ErrorKind::Busy, "something else is being done for the shard")
            .on(id)
            .remedy("wait for it"));
    };
    state.signals.want_change();
    if !state.seams.background.schedules() {
        return Ok(());
    }
    state.healing.wait(&outcome, limit).unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Busy, "it is not done yet, and goes on").on(id).remedy("see events()"))
    })
}

/// Deletes what has been set aside of a shard. A disk that does not answer is waited for as long as for a step of a flush.
pub fn drop_quarantined(state: &State, id: ShardId) -> Result<()> {
    state.check_open()?;
    let layout = state.layout();
    let index = layout
        .index_of(id)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such shard in the ring").on(id))?;
    let (shard, worker, limit) =
        (layout.shards[index].clone(), &layout.workers[index], state.settings.shard_timeout);
    let silent = || {
        Error::new(ErrorKind::Unavailable, format!("the shard's disk has not answered for {limit:?}"))
            .at(&layout.shards[index].dir)
            .on(id)
            .remedy("what was begun goes on when it answers; look at the disk and the kernel log")
    };
    // As a look: that it takes long says nothing against the shard.
    let ticket = worker.look(move || shard.drop_quarantined(0)).ok_or_else(silent)?;
    worker.wait_look(&ticket, limit).unwrap_or_else(|| Err(silent()))
}
