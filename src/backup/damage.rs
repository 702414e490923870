//! What is wrong with a checkpoint: where, and what it costs.

use super::checkpoint::CheckpointId;
use crate::error::Error;
use crate::ids::Seq;
use bytes::Bytes;
use std::fmt;
use std::path::PathBuf;

/// What damage does to the records that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// They cannot be read.
    Missing,
    /// What had become of them up to the checkpoint cannot be read: those that an earlier checkpoint had are as of that
    /// sequence, others are missing.
    AsOf(Seq),
    /// They are writes in the archive: from the checkpoint, and from those before it, no restore comes to a moment from the first of these sequences on.
    /// None: nobody knows where they end.
    Archived {
        /// The first.
        from: Seq,
        /// The last.
        to: Option<Seq>,
    },
}

/// A damaged part of a checkpoint, or of the archive that goes on from it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// The checkpoint; of the archive, the last one that a restore would need this part of it from.
    pub checkpoint: CheckpointId,
    /// The file, or the object's address.
    pub file: PathBuf,
    /// The keyspace whose records are hit. None where the whole checkpoint is, since its manifest cannot be read, or the archive.
    pub keyspace: Option<String>,
    /// Records that are hit have keys from here on,
    pub from: Bytes,
    /// and below this; none: up to the last.
    pub to: Option<Bytes>,
    /// How many records it is, where that is known.
    pub records: Option<u64>,
    /// What has become of them.
    pub loss: Loss,
    /// What was found, and where.
    pub error: Error,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Loss::Archived { from, to } = self.loss {
            let file = self.file.display();
            write!(
                f,
                "the archive behind checkpoint {}, {file}, writes from sequence {from}",
                self.checkpoint
            )?;
            match to {
                Some(to) => write!(f, " to {to}")?,
                None => f.write_str(" on")?,
            }
            return write!(f, ": {}", self.error);
        }
        write!(f, "checkpoint {}, {}", self.checkpoint, self.file.display())?;
        if let Some(keyspace) = &self.keyspace {
            let from = self.from.escape_ascii();
            write!(f, ", keyspace {keyspace:?}, keys from \"{from}\"")?;
            match &self.to {
                Some(to) => write!(f, " to below \"{}\"", to.escape_ascii())?,
                None => f.write_str(" to the last")?,
            }
        }
        if let Some(records) = self.records {
            write!(f, " ({records} records)")?;
        }
        if let Loss::AsOf(seq) = self.loss {
            write!(f, ", which are known as of sequence {seq}")?;
        }
        write!(f, ": {}", self.error)
    }
}
