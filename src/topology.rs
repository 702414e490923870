//! Planning a change of the topology, carrying it out, and watching it: the face of `verbs::reshard`.

use crate::error::Result;
use crate::handle::Handle;
use crate::ids::{Epoch, ShardId};
use crate::manifest::ShardState;
use crate::options::ShardOptions;
use crate::plan::{Plan, Request};
use crate::ring::{Partitioner, Ring};
use crate::state::change::{Phase, Progress};
use crate::verbs;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Gathers what is to change, and shows what it would come to. Made by [`Store::plan`](crate::Store::plan).
///
/// Several changes planned together move less data than one after another.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use annulus::{Options, Phase, ShardOptions, Store};
///
/// let store = Options::new().shards(3).open(dir.path().join("orders"))?;
/// (0..1000).try_for_each(|i| store.insert(format!("order/{i}"), b"2 apples").map(|_| ()))?;
///
/// let plan = store.plan().add_shard(ShardOptions::new(dir.path().join("disk-b")).weight(2.0)).preview()?;
/// println!("{plan}"); // nothing has happened yet
/// assert!(plan.problems().is_empty());
///
/// let change = store.apply(plan)?; // the work goes on in the background, beside reads and writes
/// assert_eq!(change.wait()?, Phase::Completed);
/// assert_eq!(store.ring().members().len(), 4);
/// assert_eq!(store.iter().count(), 1000);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is planned before `preview`"]
pub struct Planner {
    handle: Arc<Handle>,
    requests: Vec<Request>,
}

impl Planner {
    pub(crate) fn new(handle: Arc<Handle>) -> Planner {
        Planner { handle, requests: Vec::new() }
    }

    fn with(mut self, request: Request) -> Planner {
        self.requests.push(request);
        self
    }

    /// A new shard, in a directory that is empty or does not exist.
    pub fn add_shard(self, shard: ShardOptions) -> Planner {
        self.with(Request::AddShard(shard))
    }

    /// Another weight for a shard: its share of the data, relative to the others. Finite and above 0.
    pub fn set_weight(self, shard: ShardId, weight: f64) -> Planner {
        self.with(Request::SetWeight(shard, weight))
    }

    /// Another failure domain for a shard, as when its disk hangs on another controller now.
    pub fn set_zone(self, shard: ShardId, zone: impl Into<String>) -> Planner {
        self.with(Request::SetZone(shard, zone.into()))
    }

    /// Empties a shard, after which it leaves. Its directory stays until [`Store::drop_shard`](crate::Store::drop_shard).
    pub fn drain_shard(self, shard: ShardId) -> Planner {
        self.with(Request::DrainShard(shard))
    }

    /// Puts a new shard in the place of another, which leaves. It may be offline, if every key has another copy. Where the
    /// options name no zone, and no weight other than 1, the new shard has those of the old one; then nothing else moves.
    pub fn replace_shard(self, shard: ShardId, by: ShardOptions) -> Planner {
        self.with(Request::ReplaceShard(shard, by))
    }

    /// Another number of copies of every key, from 1 to 16.
    pub fn set_replication_factor(self, factor: usize) -> Planner {
        self.with(Request::SetReplicationFactor(factor))
    }

    /// More virtual nodes: the number there is, times a power of two. That alone moves nothing; the finer steps may even
    /// out loads.
    pub fn set_virtual_nodes(self, count: u32) -> Planner {
        self.with(Request::SetVirtualNodes(count))
    }

    /// How far loads may be from what the weights ask for, as a part of it, where that saves movement: from 0, the default,
    /// where balance is all that counts, to 1. It is kept for the plans to come.
    pub fn set_tolerance(self, tolerance: f64) -> Planner {
        self.with(Request::SetTolerance(tolerance))
    }

    /// Works out what the changes come to, with the least data moved. Nothing is changed. Costs up to some tens of
    /// milliseconds with many shards; where a file system does not answer up to a second, or `shard_timeout` for that of a shard that is to
    /// join, and what is free there is not known.
    ///
    /// # Errors
    /// `InvalidInput` for a number outside its limits, also one of copies above 16 where there are fewer shards. `NotFound` for a shard that is no member, or that leaves by the plan that it
    /// joins by. `Busy` while a change is
    /// under way. What merely cannot be had in full is no error: see [`Plan::problems`].
    pub fn preview(&self) -> Result<Plan> {
        Ok(verbs::reshard::preview(&self.handle.state, &self.requests)?.0)
    }

    /// The ring that the changes lead to: to ask where a key would lie, or to draw what moves with
    /// [`Ring::to_svg_of_moves`]. Nothing is changed.
    ///
    /// # Errors
    /// As [`preview`](Self::preview).
    pub fn preview_ring(&self) -> Result<Ring> {
        Ok(verbs::reshard::preview(&self.handle.state, &self.requests)?.1)
    }
}

/// A change of the topology, under way or over. Cheap to clone. Dropping it does nothing: the change goes on, also after the
/// store has been closed and opened again, where [`Store::change`](crate::Store::change) finds it.
#[derive(Debug, Clone)]
pub struct TopologyChange {
    handle: Arc<Handle>,
    epoch: Epoch,
}

impl TopologyChange {
    /// Begins what a plan shows.
    pub(crate) fn begin(handle: &Arc<Handle>, plan: &Plan) -> Result<TopologyChange> {
        plan.check_accepted()?;
        // What memtables hold of before the change reaches its owners in their order.
        verbs::flush::flush(&handle.state)?;
        let epoch = verbs::reshard::begin(&handle.state, plan)?;
        handle.state.signals.want_change();
        Ok(TopologyChange { handle: handle.clone(), epoch })
    }

    pub(crate) fn current(handle: &Arc<Handle>) -> Option<TopologyChange> {
        let epoch = handle.state.change.current()?;
        Some(TopologyChange { handle: handle.clone(), epoch })
    }

    /// The epoch that it leads to, which no other change has.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far it has got.
    pub fn progress(&self) -> Progress {
        self.handle.state.change.progress(self.epoch)
    }

    /// Waits until it is over, and returns how it ended: [`Phase::Completed`] or [`Phase::Cancelled`].
    ///
    /// # Errors
    /// The cause, as soon as a step fails, or a flush that must come first: a shard that is offline, a full disk, a damaged copy. The
    /// change is then still under way, and tried again; wait again, or cancel it. `Closed` if the store is closed meanwhile.
    pub fn wait(&self) -> Result<Phase> {
        loop {
            if let Some(phase) = self.wait_for(Duration::from_millis(200))? {
                return Ok(phase);
            }
        }
    }

    /// The same for at most `limit`; none if it is not over by then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for(&self, limit: Duration) -> Result<Option<Phase>> {
        let state = &self.handle.state;
        match state.change.wait(self.epoch, Some(limit))? {
            Some(phase) => Ok(Some(phase)),
            None => state.check_open().map(|()| None),
        }
    }

    /// Goes back to the placement of before. Copies made so far are removed in the background; nothing is lost.
    ///
    /// # Errors
    /// `NotFound` if it is over. `InvalidInput` if the new placement serves already: plan the way back then. `Io` if the
    /// manifest cannot be written: then the change goes on.
    pub fn cancel(&self) -> Result<()> {
        verbs::reshard::cancel(&self.handle.state, self.epoch)?;
        self.handle.state.signals.want_change();
        Ok(())
    }

    /// Makes it rest until it is [resumed](Self::resume), or the store is opened again. Writes still go to old and new owners; where the
    /// new placement serves already, old copies stay.
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn pause(&self) -> Result<()> {
        self.handle.state.change.pause(self.epoch, true)
    }

    /// Ends a [pause](Self::pause).
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn resume(&self) -> Result<()> {
        self.handle.state.change.pause(self.epoch, false)?;
        self.handle.state.signals.want_change();
        Ok(())
    }

    /// Bounds its speed, in bytes of keys and values a second; none: it gives way to reads and writes by itself, as it does
    /// from the beginning. Holds until the store is opened again.
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn set_rate(&self, bytes_per_second: impl Into<Option<u64>>) -> Result<()> {
        self.handle.state.change.set_rate(self.epoch, bytes_per_second.into())?;
        self.handle.state.signals.want_change();
        Ok(())
    }
}

/// The topology of a store at one moment, as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TopologyView {
    /// Its version.
    pub epoch: Epoch,
    /// Copies of every key.
    pub replication_factor: usize,
    /// The number of virtual nodes.
    pub virtual_nodes: u32,
    /// Which part of a key is hashed.
    pub partitioner: Partitioner,
    /// How far loads may be from what the weights ask for, as a part of it.
    pub tolerance: f64,
    /// All shards: members, those that are joining, and those that have left and were not dropped.
    pub shards: Vec<ShardPlace>,
    /// The change that is under way, if one is.
    pub change: Option<Progress>,
}

/// One shard in a [`TopologyView`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardPlace {
    /// Its number.
    pub id: ShardId,
    /// Its directory.
    pub path: PathBuf,
    /// What it is to the ring.
    pub role: ShardRole,
    /// Its failure domain; empty for one that has left.
    pub zone: String,
    /// Its weight; 0 for one that has left.
    pub weight: f64,
}

/// What a shard is to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ShardRole {
    /// It owns virtual nodes.
    Member,
    /// It will when the change under way is done.
    Joining,
    /// It has left; its directory is kept until it is dropped.
    Retired,
}

impl TopologyView {
    pub(crate) fn of(handle: &Handle) -> TopologyView {
        let state = &handle.state;
        let manifest = state.written();
        let (topology, next) = (&manifest.topology, manifest.change.as_ref().map(|change| &change.next));
        let shards = manifest.shards.iter().filter_map(|entry| {
            let mut members = topology.members.iter().chain(next.iter().flat_map(|next| &next.members));
            let member = members.find(|member| member.id == entry.id);
            let role = match entry.state {
                ShardState::Member => ShardRole::Member,
                ShardState::Joining => ShardRole::Joining,
                ShardState::Retired => ShardRole::Retired,
                ShardState::Abandoned => return None,
            };
            Some(ShardPlace {
                id: entry.id,
                path: state.dir.join(&entry.path),
                role,
                zone: member.map(|m| m.zone.clone()).unwrap_or_default(),
                weight: member.map_or(0.0, |m| m.weight),
            })
        });
        TopologyView {
            epoch: topology.epoch,
            replication_factor: topology.replication_factor,
            virtual_nodes: topology.virtual_nodes,
            partitioner: topology.partitioner,
            tolerance: topology.tolerance,
            shards: shards.collect(),
            change: state.change.current().map(|epoch| state.change.progress(epoch)),
        }
    }
}
