//! The identity file of a shard's directory: whose it is, and a copy of the manifest. With it an unmounted disk is
//! *missing*, never *empty*, and another store's shard is refused.

use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file in the shard's directory.
pub const FILE: &str = "IDENTITY";

pub const KIND: Kind = Kind {
    magic: b"ANNULUSI",
    version: 4,
    oldest: 1,
    name: "identity file",
    remedy: "the directory cannot be trusted without it: rebuild the shard from its replicas",
};

/// What is written where the manifest has nothing that its version 5 brought.
const WITHOUT_MOUNTS: Kind = Kind { version: 3, ..KIND };

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(with = "hex128")]
    pub store: u128,
    pub shard: ShardId,
    /// The manifest as it was last written; none while the store is being created.
    pub manifest: Option<Manifest>,
}

impl Identity {
    /// Reads the identity of the directory; none if it has none.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>> {
        let path = dir.join(FILE);
        match disk.read(&path).map_err(|e| envelope::unread(KIND, &path, e))? {
            Some(bytes) => envelope::decode(KIND, &path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Makes this the directory's identity, durably.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = self.encode()?;
        disk.replace(&path, &bytes).map_err(|e| Error::io("replace the identity file", &path, e))
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let new = self.manifest.as_ref().is_some_and(Manifest::tells_mounts);
        envelope::encode(if new { KIND } else { WITHOUT_MOUNTS }, self)
    }

    /// Errors unless the directory is that shard of that store.
    pub fn expect(&self, dir: &Path, store: u128, shard: ShardId) -> Result<()> {
        if self.store != store {
            let text =
                format!("the directory belongs to store {:032x}, not to store {store:032x}", self.store);
            return Err(Error::new(ErrorKind::Foreign, text)
                .at(dir)
                .remedy(
                    "give each store directories of its own; where the directory of the store that it belongs to is lost, with its \
                     journal, accept_journal_loss(true) opens it from its shards; if the journal was moved elsewhere, accept_journal and \
                     journal_dir with that directory do",
                ));
        }
        if self.shard != shard {
            let text = format!("the directory holds shard {}, not shard {shard}", self.shard);
            return Err(Error::new(ErrorKind::Foreign, text)
                .at(dir)
                .on(shard)
                .remedy("two shards' directories seem to be swapped: mount them where they were"));
        }
        Ok(())
    }
}
