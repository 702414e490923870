//! Annulus is an embedded key-value store: a ring of virtual nodes over local sled shards.

mod disk;
mod engine;
mod error;
mod ids;
pub mod limits;
#[allow(dead_code)]
mod memtable;
mod record;
#[doc(hidden)]
pub mod testing;

pub use error::{Error, ErrorKind, Result};
pub use ids::{Epoch, KeyspaceId, Seq, ShardId, VirtualNode};
