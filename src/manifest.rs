//! The manifest: what the store is (its shards, its ring, its keyspaces), in one small file that is replaced whole.
//!
//! Invariants: the manifest is written last when a store is created, so a directory with one is a whole store; every
//! change of it goes through [`Manifest::store`], which has made it durable on return; numbers of shards and keyspaces
//! are never used again.

use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, ShardId};
use crate::limits;
use crate::ring::Topology;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the file in the store's directory.
pub const FILE: &str = "MANIFEST";

/// The name of keyspace 0, which the methods of the store itself use and which always exists.
pub const DEFAULT_KEYSPACE: &str = "default";

pub const KIND: Kind = Kind {
    magic: b"ANNULUSM",
    version: 1,
    name: "manifest",
    remedy: "restore it from a copy: every shard's IDENTITY file carries the manifest as it was last written",
};

/// The body of the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Drawn at random when the store was created.
    #[serde(with = "hex128")]
    pub store: u128,
    /// Counts the writings of this file, so that the newest of several copies is known.
    pub generation: u64,
    /// The engine that keeps the shards.
    pub engine: String,
    pub page_bytes: usize,
    pub shards: Vec<ShardEntry>,
    pub keyspaces: Vec<KeyspaceEntry>,
    pub next_keyspace: u32,
    pub next_shard: u32,
    pub topology: Topology,
}

/// Where a shard lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    pub id: ShardId,
    /// Relative to the store's directory if it lies inside it, so that the whole store can be moved.
    pub path: PathBuf,
}

/// A keyspace, or one that was dropped and still has records in the shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceEntry {
    pub id: KeyspaceId,
    pub name: String,
    #[serde(default)]
    pub dropped: bool,
}

impl Manifest {
    /// Reads and checks the manifest of the store in `dir`; none if there is no such file.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE);
        let Some(bytes) = disk.read(&path).map_err(|e| Error::io("read the manifest", &path, e))? else {
            return Ok(None);
        };
        Self::decode(&path, &bytes).map(Some)
    }

    /// Decodes and checks the bytes of a manifest.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = envelope::decode(KIND, path, bytes)?;
        manifest.check().map_err(|what| {
            Error::corruption(format!("the manifest contradicts itself: {what}")).at(path).remedy(KIND.remedy)
        })?;
        Ok(manifest)
    }

    /// Makes this the store's manifest, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = envelope::encode(KIND, self)?;
        disk.replace(&path, &bytes).map_err(|e| Error::io("replace the manifest", &path, e))
    }

    /// The keyspace of that name, if it exists.
    pub fn keyspace(&self, name: &str) -> Option<&KeyspaceEntry> {
        self.keyspaces.iter().find(|k| k.name == name && !k.dropped)
    }

    /// Adds a keyspace and returns its number; the caller has seen that there is none of that name.
    pub fn add_keyspace(&mut self, name: &str) -> Result<KeyspaceId> {
        if self.keyspaces.len() >= limits::MAX_KEYSPACES {
            let message = format!("the store has its most keyspaces, {}", limits::MAX_KEYSPACES);
            return Err(Error::invalid(message).remedy("drop one that is no longer used"));
        }
        let id = KeyspaceId(self.next_keyspace);
        self.next_keyspace = self.next_keyspace.checked_add(1).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "every number for a keyspace has been used in this store")
        })?;
        self.keyspaces.push(KeyspaceEntry { id, name: name.to_owned(), dropped: false });
        Ok(id)
    }

    fn check(&self) -> Result<(), String> {
        self.topology.validate().map_err(|e| e.to_string())?;
        let mut members: Vec<ShardId> = self.topology.members.iter().map(|m| m.id).collect();
        let mut shards: Vec<ShardId> = self.shards.iter().map(|s| s.id).collect();
        members.sort_unstable();
        shards.sort_unstable();
        if members.iter().any(|id| shards.binary_search(id).is_err()) {
            return Err("the ring names a shard that has no directory".into());
        }
        if shards.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two shards have the same number".into());
        }
        if shards.last().is_some_and(|id| id.0 >= self.next_shard) {
            return Err("a shard has a number that has not been given out".into());
        }
        let mut ids: Vec<u32> = self.keyspaces.iter().map(|k| k.id.0).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1])
            || ids.last().is_some_and(|id| *id >= self.next_keyspace)
        {
            return Err("the numbers of the keyspaces are not unique".into());
        }
        let live = self.keyspaces.iter().filter(|k| !k.dropped);
        let mut names: Vec<&str> = live.map(|k| k.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two keyspaces have the same name".into());
        }
        if !(256..=32 << 10).contains(&self.page_bytes) {
            return Err(format!("page_bytes is {}", self.page_bytes));
        }
        Ok(())
    }
}

/// Checks the name of a keyspace against the limits.
pub fn check_keyspace_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > limits::MAX_KEYSPACE_NAME_BYTES {
        let most = limits::MAX_KEYSPACE_NAME_BYTES;
        return Err(Error::invalid(format!("a keyspace's name has 1 to {most} bytes, not {}", name.len())));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid("a keyspace's name has no control characters"));
    }
    Ok(())
}
