//! Annulus is an embedded key-value store for data that must not be lost: it spreads keys over a ring of virtual nodes
//! onto local shards, whose pages are indexed by [sled](https://docs.rs/sled/0.34), keeps replicas, and survives kills, power
//! cuts and dead disks.
//! One process, no server.
//!
//! ```
//! use annulus::{Durability, Store, WriteBatch};
//!
//! # fn main() -> annulus::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let store = Store::open(dir.path().join("data"))?; // 4 shards, 2 copies of every key
//! store.insert("user/42/cart", b"2 apples")?;
//! assert_eq!(store.get("user/42/cart")?.as_deref(), Some(&b"2 apples"[..]));
//!
//! let orders = store.keyspace("orders")?;
//! let mut batch = WriteBatch::new(); // all or nothing, whatever shards it falls on
//! batch.insert_in(&orders, "2026/1", b"2 apples for user/42");
//! batch.remove("user/42/cart");
//! store.commit_with(batch, Durability::Sync)?; // on the disk when it returns
//!
//! for item in orders.scan_prefix("2026/") {
//!     let (key, value) = item?;
//!     println!("{key:?}: {value:?}");
//! }
//! store.close()?;
//! # Ok(()) }
//! ```
//!
//! Where to look:
//! - [`Store`] and [`Keyspace`]: reading and writing. [`WriteBatch`]: atomic writes. [`Range`]: scans.
//! - [`Options`] and [`ShardOptions`]: shards, zones, weights, replicas, memory. [`Durability`]: what a write survives.
//! - [`Ring`] and [`Partitioner`]: where keys live. [`Stats`]: how the store is.
//! - [`Error`] and [`ErrorKind`]: what went wrong and what to do. [`limits`]: every limit.

mod allocator;
mod background;
mod backup;
mod backups;
mod batch;
mod digest;
#[allow(missing_docs)] // Exported to tests alone.
mod disk;
#[allow(missing_docs)] // Exported to tests alone.
mod engine;
mod envelope;
mod error;
#[allow(missing_docs)] // Exported to tests alone.
mod frame;
mod handle;
mod ids;
mod inspection;
#[allow(missing_docs)] // Exported to tests alone.
mod journal;
mod keyspace;
pub mod limits;
mod manifest;
#[allow(missing_docs)] // Exported to tests alone.
mod memtable;
mod options;
#[allow(missing_docs)] // Exported to tests alone.
mod page;
mod plan;
mod plants;
mod range;
#[allow(missing_docs)] // Exported to tests alone.
mod record;
mod ring;
mod scrub;
mod shard;
#[allow(missing_docs)] // Exported to tests alone.
mod state;
mod store;
mod sync;
#[doc(hidden)]
pub mod testing;
mod topology;
mod verbs;

#[cfg(feature = "object-store")]
pub use backup::ObjectStorage;
pub use backup::{
    BackupProgress, BackupRepository, Checkpoint, CheckpointId, CheckpointOptions, CheckpointProgress,
    Damage, DirStorage, Loss, Object, Pruned, Retention, Storage, Verification,
};
pub use backups::{Archiver, At, Restore};
pub use batch::WriteBatch;
pub use bytes::Bytes;
pub use engine::PowerLoss;
pub use error::{Error, ErrorKind, Result};
pub use ids::{Epoch, KeyspaceId, Seq, ShardId, VirtualNode};
pub use inspection::{InspectedJournal, InspectedShard, Inspection, inspect};
pub use keyspace::Keyspace;
/// The crate that [`ObjectStorage`] speaks through, in the release that it takes.
#[cfg(feature = "object-store")]
pub use object_store;
pub use options::{Durability, Heal, Options, ShardOptions};
pub use plan::{Plan, PlannedShard, Problem, Request, Role};
pub use range::Range;
pub use ring::{Balance, LoadLimit, Member, Move, Partitioner, Ring, ShardBalance};
pub use scrub::Scrub;
pub use shard::{Health, Quarantined};
pub use state::archives::ArchiveHold;
pub use state::change::{Phase, Progress};
pub use state::events::{Event, EventKind, Events};
pub use state::scrub::{ScrubProgress, ScrubReport};
pub use store::Store;
pub use topology::{Planner, ShardPlace, ShardRole, TopologyChange, TopologyView};
pub use verbs::heal::{ShardHealth, StoreHealth};
pub use verbs::restore::Repaired;
pub use verbs::stats::{JournalFigures, MirrorFigures, OpeningFigures, ShardStats, Stats};

/// The examples of the README and the guides are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/guides/sharding.md")]
#[doc = include_str!("../docs/guides/replication.md")]
#[doc = include_str!("../docs/guides/rebalancing.md")]
#[doc = include_str!("../docs/guides/healing.md")]
#[doc = include_str!("../docs/guides/tuning.md")]
#[doc = include_str!("../docs/guides/checkpoints.md")]
#[doc = include_str!("../docs/guides/journal.md")]
mod pages {}
