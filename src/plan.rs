//! A plan: what a change of the topology would do, as plain data to be looked at before anything happens.
//!
//! Invariant: a plan holds what was asked for and what it came to; applying it computes the second from the first again, so
//! that nothing is done that no preview showed.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ShardId, VirtualNode};
use crate::options::ShardOptions;
use crate::ring::{Balance, Move};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// One change of the topology that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// A new shard.
    AddShard(ShardOptions),
    /// Another weight for a shard.
    SetWeight(ShardId, f64),
    /// Another failure domain for a shard, as when its disk has moved.
    SetZone(ShardId, String),
    /// A shard is to hold nothing any more, and to leave.
    DrainShard(ShardId),
    /// A shard is to leave, and a new one to take its place.
    ReplaceShard(ShardId, ShardOptions),
    /// Another number of copies of every key.
    SetReplicationFactor(usize),
    /// More virtual nodes.
    SetVirtualNodes(u32),
    /// How far loads may be from what the weights ask for, to move less.
    SetTolerance(f64),
}

/// What a change of the topology would do. Made by [`Planner::preview`](crate::Planner::preview), carried out by
/// [`Store::apply`](crate::Store::apply). `Display` draws a table; with serde it is plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    #[serde(with = "crate::envelope::hex128")]
    pub(crate) store: u128,
    pub(crate) epoch: Epoch,
    pub(crate) next_epoch: Epoch,
    pub(crate) requests: Vec<Request>,
    pub(crate) replication_factor: (usize, usize),
    pub(crate) virtual_nodes: (u32, u32),
    pub(crate) shards: Vec<PlannedShard>,
    pub(crate) moves: Vec<Move>,
    pub(crate) bytes: u64,
    pub(crate) balance: (Balance, Balance),
    pub(crate) zone_violations: Vec<VirtualNode>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) accepted: bool,
}

/// One shard's part of a [`Plan`]. Bytes are estimates: a shard's live bytes, shared out evenly over its virtual nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedShard {
    /// Its number; a new shard's is the one that it will have.
    pub id: ShardId,
    /// Its directory.
    pub path: PathBuf,
    /// Its failure domain afterwards.
    pub zone: String,
    /// Its weight afterwards.
    pub weight: f64,
    /// What becomes of it.
    pub role: Role,
    /// The virtual nodes that it holds before and afterwards.
    pub virtual_nodes: (u32, u32),
    /// Virtual nodes that it gets copies of.
    pub gained: u32,
    /// Virtual nodes that leave it.
    pub lost: u32,
    /// Bytes on disk of what it gains.
    pub bytes_gained: u64,
    /// Bytes on disk of what it loses.
    pub bytes_lost: u64,
    /// Free bytes on its file system; none where that is not known.
    pub free: Option<u64>,
}

/// What becomes of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// It is and stays a member of the ring.
    Stays,
    /// It becomes one.
    Joins,
    /// It leaves when it holds nothing any more.
    Leaves,
}

/// Why what was asked for cannot be had in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// There will be fewer shards than copies were asked for; as many are kept as there are shards.
    TooFewShards {
        /// Copies asked for, or kept so far.
        replicas: usize,
        /// Shards that there will be.
        shards: usize,
    },
    /// There will be fewer failure domains than copies, so that some domains hold several copies of a key.
    TooFewZones {
        /// Copies of every key.
        replicas: usize,
        /// Failure domains that there will be.
        zones: usize,
    },
    /// Zones, or the number of shards, keep a shard from the load that its weight asks for.
    Unbalanced {
        /// The shard.
        shard: ShardId,
        /// Its load, in virtual nodes.
        load: u32,
        /// The load that its weight asks for.
        proportional: f64,
    },
    /// A file system has less space than what would land on it.
    TooSmall {
        /// The shards on it that gain something.
        shards: Vec<ShardId>,
        /// Bytes that they gain, and a quarter more.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A shard that is to give or take copies is offline.
    Offline {
        /// The shard.
        shard: ShardId,
    },
}

impl Plan {
    /// What must be copied and removed, for each virtual node that changes its owners.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Bytes on disk that are to be copied, as estimated from the sizes of the shards.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies of virtual nodes that move.
    pub fn copies(&self) -> usize {
        self.moves.iter().map(|change| change.gained.len()).sum()
    }

    /// The loads as they are.
    pub fn balance_before(&self) -> &Balance {
        &self.balance.0
    }

    /// The loads as they will be.
    pub fn balance_after(&self) -> &Balance {
        &self.balance.1
    }

    /// The virtual nodes whose copies will lie in fewer zones than they could.
    pub fn zone_violations(&self) -> &[VirtualNode] {
        &self.zone_violations
    }

    /// All shards, those that join or leave included.
    pub fn shards(&self) -> &[PlannedShard] {
        &self.shards
    }

    /// What was asked for.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The topology that the plan was made for. Once it has changed the plan is stale.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Why what was asked for cannot be had in full. With any, [`Store::apply`](crate::Store::apply) refuses the plan unless
    /// they were [accepted](Self::accept_problems).
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// An error that names the first problem, unless they were accepted.
    pub(crate) fn check_accepted(&self) -> Result<()> {
        match self.problems.first() {
            Some(problem) if !self.accepted => Err(refused(problem)),
            _ => Ok(()),
        }
    }

    /// The same plan, to be carried out in spite of its [problems](Self::problems).
    pub fn accept_problems(mut self) -> Plan {
        self.accepted = true;
        self
    }
}

/// The error of a plan that cannot be carried out in full.
pub(crate) fn refused(problem: &Problem) -> Error {
    Error::new(ErrorKind::Refused, format!("the plan cannot be carried out in full: {problem}"))
        .remedy("remove the cause, or accept the plan's problems")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::TooFewShards { replicas, shards } => {
                write!(f, "{replicas} copies of each key need as many shards, but there will be {shards}")
            }
            Problem::TooFewZones { replicas, zones } => write!(
                f,
                "{replicas} copies of each key in {zones} zones: the loss of one zone may take several of them"
            ),
            Problem::Unbalanced { shard, load, proportional } => write!(
                f,
                "shard {shard} will hold {load} virtual nodes, not the {proportional:.0} that its weight asks for"
            ),
            Problem::TooSmall { shards, needed, free } => {
                let names: Vec<String> = shards.iter().map(ToString::to_string).collect();
                let (needed, free) = (size(*needed), size(*free));
                write!(f, "the file system of shard {} has {free} free for {needed}", names.join(", "))
            }
            Problem::Offline { shard } => write!(f, "shard {shard} is offline"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((r, next_r), (q, next_q)) = (self.replication_factor, self.virtual_nodes);
        writeln!(
            f,
            "epoch {} -> {}, replication factor {}, {} virtual nodes",
            self.epoch,
            self.next_epoch,
            changed(r, next_r),
            changed(q, next_q)
        )?;
        let row = |cells: [&str; 8]| {
            let [shard, role, zone, weight, nodes, gains, loses, free] = cells;
            format!(
                "{shard:>5}  {role:<6}  {zone:<12}  {weight:>7}  {nodes:>14}  {gains:>18}  {loses:>18}  {free:>10}"
            )
        };
        let head = ["shard", "", "zone", "weight", "virtual nodes", "gains", "loses", "disk free"];
        writeln!(f, "{}", row(head))?;
        for shard in &self.shards {
            let role = match shard.role {
                Role::Stays => "",
                Role::Joins => "joins",
                Role::Leaves => "leaves",
            };
            let part = |nodes: u32, bytes: u64| match nodes {
                0 => String::new(),
                _ => format!("{nodes} ({})", size(bytes)),
            };
            let cells = [
                &shard.id.to_string(),
                role,
                &shard.zone,
                &format!("{:.2}", shard.weight),
                &changed(shard.virtual_nodes.0, shard.virtual_nodes.1),
                &part(shard.gained, shard.bytes_gained),
                &part(shard.lost, shard.bytes_lost),
                &shard.free.map_or_else(String::new, size),
            ];
            writeln!(f, "{}", row(cells.map(|cell: &str| cell)).trim_end())?;
        }
        writeln!(
            f,
            "moves {} copies of virtual nodes, {}; fullest over mean {:.4} -> {:.4}, zone violations: {}",
            self.copies(),
            size(self.bytes),
            self.balance.0.max_over_mean,
            self.balance.1.max_over_mean,
            self.zone_violations.len()
        )?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}

fn changed<T: PartialEq + fmt::Display>(before: T, after: T) -> String {
    if before == after { before.to_string() } else { format!("{before} -> {after}") }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
