//! A checkpoint's manifest: what it is of, and which objects it is made of.

use super::hash::{ObjectId, kind};
use super::lineage::Lineage;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::ring::Partitioner;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The directory of manifests.
pub const CHECKPOINTS: &str = "checkpoints/";

pub const KIND: Kind = Kind {
    version: 2,
    ..kind(
        b"ANNULUSP",
        "checkpoint's manifest",
        "restore another checkpoint; delete this one by its number when it is of no more use",
    )
};

/// The number of a checkpoint in its repository; later ones have higher ones, and none is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckpointId(pub u64);

impl CheckpointId {
    /// The manifest's name in a repository.
    pub(crate) fn name(self) -> String {
        format!("{CHECKPOINTS}{:016x}", self.0)
    }

    pub(crate) fn from_name(name: &str) -> Option<CheckpointId> {
        let id = CheckpointId(u64::from_str_radix(name.strip_prefix(CHECKPOINTS)?, 16).ok()?);
        (id.name() == name).then_some(id)
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the source of a checkpoint was. A restored store is like it where nothing else is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub shards: usize,
    pub replication_factor: usize,
    pub virtual_nodes: u32,
    pub partitioner: Partitioner,
    pub page_bytes: usize,
}

/// What a keyspace held at some sequence, or what had changed since the layer before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub upto: Seq,
    pub records: u64,
    pub bytes: u64,
    pub indexes: Vec<ObjectId>,
}

/// A keyspace in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceLayers {
    pub id: KeyspaceId,
    pub name: String,
    pub layers: Vec<Layer>,
}

/// The body of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    #[serde(with = "hex128")]
    pub repository: u128,
    pub id: CheckpointId,
    #[serde(with = "hex128")]
    pub store: u128,
    pub seq: Seq,
    /// Milliseconds since 1970.
    pub taken: u64,
    pub label: String,
    pub next_keyspace: u32,
    pub keyspaces: Vec<KeyspaceLayers>,
    pub source: Source,
    pub written: u64,
    /// Which openings wrote what it has. Since version 2.
    #[serde(default, skip_serializing_if = "Lineage::is_empty")]
    pub history: Lineage,
}

impl Body {
    /// Reads a manifest of the repository, found under the number `id`.
    pub fn decode(path: &Path, bytes: &[u8], repository: u128, id: CheckpointId) -> Result<Body> {
        let body: Body = envelope::decode(KIND, path, bytes)?;
        if body.repository != repository {
            let text = format!(
                "the checkpoint belongs to repository {:032x}, not to {repository:032x}",
                body.repository
            );
            return Err(Error::new(ErrorKind::Foreign, text).at(path).remedy("put it back where it was"));
        }
        if body.id != id {
            let text = format!("the file under number {id} is the manifest of checkpoint {}", body.id);
            return Err(Error::new(ErrorKind::Foreign, text).at(path).remedy("give it its own name"));
        }
        body.check().map_err(|what| {
            Error::corruption(format!("the checkpoint's manifest contradicts itself: {what}")).at(path)
        })?;
        Ok(body)
    }

    pub fn check(&self) -> Result<(), &'static str> {
        let ids: Vec<KeyspaceId> = self.keyspaces.iter().map(|keyspace| keyspace.id).collect();
        if !ids.windows(2).all(|pair| pair[0] < pair[1]) || ids.first() != Some(&KeyspaceId(0)) {
            return Err("its keyspaces are not in order");
        }
        if ids.last().is_some_and(|id| id.0 >= self.next_keyspace) {
            return Err("a keyspace has a number that has not been given out");
        }
        self.history.check(self.seq)?;
        let layers = |keyspace: &KeyspaceLayers| {
            keyspace.layers.windows(2).all(|pair| pair[0].upto <= pair[1].upto)
                && keyspace.layers.iter().all(|layer| layer.upto <= self.seq)
        };
        if !self.keyspaces.iter().all(layers) {
            return Err("its layers are not in order");
        }
        let total = |of: fn(&Layer) -> u64| self.layers().map(of).try_fold(0u64, u64::checked_add);
        if total(|layer| layer.records).is_none() || total(|layer| layer.bytes).is_none() {
            return Err("its layers have more than there can be");
        }
        Ok(())
    }

    /// The stretch of the log that its last write is of.
    pub fn owner(&self) -> Option<u128> {
        self.history.owner(self.seq)
    }

    /// All indexes that it names.
    pub fn indexes(&self) -> impl Iterator<Item = &ObjectId> {
        self.layers().flat_map(|layer| &layer.indexes)
    }

    /// All its layers.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.keyspaces.iter().flat_map(|keyspace| &keyspace.layers)
    }

    /// What a user sees of it.
    pub fn outline(&self) -> Checkpoint {
        let layers = || self.layers();
        Checkpoint {
            id: self.id,
            seq: self.seq,
            taken: UNIX_EPOCH + Duration::from_millis(self.taken),
            label: self.label.clone(),
            store: self.store,
            keyspaces: self.keyspaces.iter().map(|keyspace| keyspace.name.clone()).collect(),
            records: layers().map(|layer| layer.records).sum(),
            bytes: layers().map(|layer| layer.bytes).sum(),
            bytes_written: self.written,
            layers: self.keyspaces.iter().map(|keyspace| keyspace.layers.len()).max().unwrap_or_default(),
        }
    }
}

/// A checkpoint in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Its number in the repository.
    pub id: CheckpointId,
    /// It is the state after this write and before the next.
    pub seq: Seq,
    /// When that state was, by the clock of the machine that took it: not when it was done.
    pub taken: SystemTime,
    /// What it was called when it was taken.
    pub label: String,
    /// The id of the store that it is of.
    pub store: u128,
    /// The names of its keyspaces.
    pub keyspaces: Vec<String>,
    /// Records in its objects. Where a checkpoint is made of several layers, those that a later layer replaces, and marks of
    /// removals, are counted as well.
    pub records: u64,
    /// Bytes of all objects that it is made of, also those that it shares with others.
    pub bytes: u64,
    /// Bytes of objects that were written for it.
    pub bytes_written: u64,
    /// How many layers are laid over each other to make it: 1 after a full one.
    pub layers: usize,
}

/// Milliseconds since 1970, now.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
