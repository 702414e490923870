//! Backups: a repository of checkpoints, and the formats in it. See "A backup repository" in docs/FORMAT.md.
//!
//! Invariants:
//! - A checkpoint exists from the moment its manifest has its name, and everything that it names was durable before.
//! - Objects are named by a hash of their bytes and never changed. One that no checkpoint names means nothing, and one is
//!   taken over for a new checkpoint only if an earlier one names it: what an interrupted one left is not believed.
//! - One at a time writes to a repository. Objects go only after the manifests that named them have gone durably.
//! - Nothing that is read is believed before its checksum has been seen, and no bytes make a reader panic.
//!
//! | room | what it is for |
//! |---|---|
//! | [`storage`] | the seam: where a repository's bytes are |
//! | `object` | object storage behind it; with the feature `object-store` |
//! | [`hash`] | what names an object |
//! | [`chunk`], [`index`], [`stream`], [`piece`] | the formats |
//! | [`checkpoint`] | manifests |
//! | [`progress`] | how far long work has got |
//! | [`repository`], [`archive`], [`prune`], [`verify`] | what can be done with a repository |
//! | [`history`], [`lineage`] | which checkpoints, and what else, go together |
//! | [`writer`], [`filling`], [`builder`], [`buffers`] | records to chunks |
//! | [`layer`], [`reader`] | and back: one layer, and all of them in one order |
//! | [`leftover`] | what is believed of a chunk that is damaged |
//! | [`unread`] | what is done about files that the system does not give out |
//! | [`when`] | times as people write them |

pub mod archive;
pub mod buffers;
pub mod builder;
pub mod checkpoint;
pub mod chunk;
pub mod damage;
pub mod filling;
pub mod hash;
pub mod history;
pub mod index;
pub mod layer;
pub mod leftover;
pub mod lineage;
#[cfg(feature = "object-store")]
pub mod object;
pub mod options;
pub mod piece;
pub mod progress;
mod prune;
pub mod reader;
pub mod repository;
pub mod storage;
pub mod stream;
mod sweep;
pub mod unread;
mod verify;
pub mod when;
pub mod writer;

pub use checkpoint::{Checkpoint, CheckpointId};
pub use damage::{Damage, Loss};
#[cfg(feature = "object-store")]
pub use object::ObjectStorage;
pub use options::{CheckpointOptions, CheckpointProgress};
pub use progress::BackupProgress;
pub use prune::{Pruned, Retention};
pub use repository::BackupRepository;
pub use storage::{DirStorage, Object, Storage};
pub use verify::Verification;

use crate::error::Result;
use crate::record::RunRecord;
use filling::Filling;

/// Records in the order of their keys, each key once, to be looked at one by one. Keys are internal ones.
pub trait Versions {
    /// The next record, until the next call. After an error it is over.
    fn next(&mut self) -> Option<Result<RunRecord<'_>>>;
}

/// Records of one keyspace in the order of their keys, each key once, to be put into chunks.
pub trait Pour {
    /// Adds those that come next, a bounded number of them; whether there may be more. After an error nothing of it has been added,
    /// and it is over.
    fn pour(&mut self, into: &mut Filling) -> Result<bool>;
}
