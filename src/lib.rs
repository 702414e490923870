//! Annulus is an embedded key-value store: a ring of virtual nodes over local sled shards.

#[allow(dead_code, missing_docs)]
mod disk;
#[allow(dead_code)]
mod engine;
#[allow(dead_code)]
mod error;
#[allow(dead_code, missing_docs)]
mod frame;
mod ids;
#[allow(dead_code, missing_docs)]
mod journal;
pub mod limits;
#[allow(dead_code)]
mod record;

pub use error::{Error, ErrorKind, Result};
pub use ids::{Epoch, KeyspaceId, Seq, ShardId, VirtualNode};

#[doc(hidden)]
pub mod testing;
