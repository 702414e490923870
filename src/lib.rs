//! Annulus is an embedded key-value store: a ring of virtual nodes over local sled shards.

mod disk;
mod engine;
mod error;
mod ids;
pub mod limits;
#[allow(dead_code)]
mod memtable;
mod record;
#[allow(dead_code, unused_imports)]
mod ring;

pub use error::{Error, ErrorKind, Result};
pub use ids::{Epoch, KeyspaceId, Seq, ShardId, VirtualNode};
pub use ring::{Balance, Change, LoadLimit, Member, Partitioner, Ring, ShardBalance};
