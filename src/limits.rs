//! Every limit that a user can meet, in one place.

use std::time::Duration;

/// The longest key, in bytes: 64 KiB - 1.
pub const MAX_KEY_BYTES: usize = (64 << 10) - 1;
/// The longest key below the face, in bytes: a user's key and the number of its keyspace.
pub(crate) const MAX_INTERNAL_KEY_BYTES: usize = MAX_KEY_BYTES + 4;
/// The longest value, in bytes: 64 MiB.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// The largest batch, in bytes of its keys, values and a few bytes for each operation: 128 MiB.
pub const MAX_BATCH_BYTES: usize = 128 << 20;
/// The most shards in a store.
pub const MAX_SHARDS: usize = 1024;
/// The most replicas of a key.
pub const MAX_REPLICATION_FACTOR: usize = 16;
/// The fewest virtual nodes.
pub const MIN_VIRTUAL_NODES: u32 = 16;
/// The most virtual nodes.
pub const MAX_VIRTUAL_NODES: u32 = 1 << 20;
/// The smallest memory budget, in bytes: 8 MiB.
pub const MIN_MEMORY_BUDGET: u64 = 8 << 20;
/// The longest name of a keyspace, in bytes of UTF-8.
pub const MAX_KEYSPACE_NAME_BYTES: usize = 255;
/// The most keyspaces that exist at once.
pub const MAX_KEYSPACES: usize = 65_536;
/// The most directories that the journal is written to.
pub const MAX_JOURNALS: usize = 8;

/// The longest time that a shard may be given for a step.
pub const MAX_SHARD_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest time between two scrubs: ten years.
pub const MAX_SCRUB_PERIOD: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
