//! The seal: a small file of ours beside the engine's, replaced after every synced flush, that says what the shard must
//! hold. An engine that opens with less has lost its tail without a word.

use crate::disk::Disk;
use crate::engine::Figures;
use crate::envelope::{self, Kind, hex_bytes, hex128};
use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file in the shard's directory.
pub const FILE: &str = "SEAL";

pub const KIND: Kind = Kind {
    magic: b"ANNULUSS",
    version: 2,
    oldest: 1,
    name: "seal",
    remedy: "the shard cannot be trusted without it: rebuild it from its replicas",
};

/// What a shard must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    #[serde(with = "hex128")]
    pub store: u128,
    pub shard: ShardId,
    /// Every write up to this one is in the shard, durably.
    pub applied: Seq,
    /// Whether pages may have been changed since: then the figures are of before those changes.
    pub applying: bool,
    /// None while they have not been counted again after a crash.
    pub figures: Option<SealedFigures>,
    /// Which engine counts, of those that lie in the directory. Since version 2.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u32,
    /// How far an engine that was begun anew has been filled; none for one that is whole. Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
}

/// An internal key: records below it are there, durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled(#[serde(with = "hex_bytes")] pub Vec<u8>);

fn is_first(generation: &u32) -> bool {
    *generation == 0
}

/// [`Figures`] as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFigures {
    pub pages: u64,
    pub records: u64,
    #[serde(with = "hex128")]
    pub set_hash: u128,
}

impl From<Figures> for SealedFigures {
    fn from(f: Figures) -> Self {
        SealedFigures { pages: f.pages, records: f.records, set_hash: f.set_hash }
    }
}

impl From<SealedFigures> for Figures {
    fn from(f: SealedFigures) -> Self {
        Figures { pages: f.pages, records: f.records, set_hash: f.set_hash }
    }
}

impl Seal {
    /// Reads the seal of the shard in `dir`; none if there is no such file.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Seal>> {
        let path = dir.join(FILE);
        match disk.read(&path).map_err(|e| envelope::unread(KIND, &path, e))? {
            Some(bytes) => envelope::decode(KIND, &path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Makes this the shard's seal, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = envelope::encode(KIND, self)?;
        disk.replace(&path, &bytes).map_err(|e| Error::io("replace the seal", &path, e))
    }
}
