//! Names for things that are numbered, so that one number is never taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The version of a write: every commit gets the next one, over all shards and keyspaces. The first is 1.
    Seq(u64)
);
number!(
    /// The number of a shard, unique in its store and never used again.
    ShardId(u32)
);
number!(
    /// The number of a keyspace, unique in its store and never used again. 0 is the default keyspace.
    KeyspaceId(u32)
);
number!(
    /// The index of one of the ring's equal arcs, from 0 up to, and without, the number of virtual nodes.
    VirtualNode(u32)
);
number!(
    /// The version of the topology: every change of it gets the next one. The first is 1.
    Epoch(u64)
);

impl Seq {
    /// Before the first write.
    pub const ZERO: Seq = Seq(0);
    /// After every write.
    pub const MAX: Seq = Seq(u64::MAX);

    /// The next version.
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}
