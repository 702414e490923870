//! Changing the topology of a store while it serves: from a plan to the new placement, or back.
//!
//! ```text
//!   preview --> begin --> copy ... --> compare ... --> flip --> sweep ... --> over
//!                 |         |              |
//!                 +---------+--------------+--> cancel --> sweep ... --> over
//! ```
//! | step | what is true after it | found at an opening |
//! |---|---|---|
//! | prepare (`begin`) | the manifest names the shards that join; nothing is written to them but empty engines | rolled back |
//! | install (`begin`) | every flush writes to old and new owners | goes on with `copy` |
//! | copy | records below a position are on their new owners, durably, and kept up by every flush | goes on from the position |
//! | compare | what the new owners hold equals their sources | begins again |
//! | flip (`finish`) | the new ring answers; flushes write to its owners alone | goes on with `sweep` |
//! | sweep | no shard holds what it does not own; shards that left are closed | begins again |
//!
//! Invariants:
//! - At every moment every virtual node has as many complete owners as before: reads go by one ring until the copies of the
//!   next have been compared, and nothing is removed before all who read by the old one are done.
//! - A chunk of records and the beginning of a flush exclude each other, and a chunk carries along what the memtable that
//!   is being flushed says of its keys: so a removal is never undone by an older copy.
//! - Copies are in step with their sources because both get every flush whole: a shard that gains starts level with the
//!   others, and one that misses a flush is offline and stops the change.

mod begin;
mod compare;
mod copy;
mod explore;
mod finish;
mod preview;
mod retire;
mod step;
mod sweep;
#[cfg(test)]
mod tests;

pub use begin::begin;
pub use finish::cancel;
pub use preview::preview;
pub use retire::drop_shard;
pub use step::{Step, not_flushed, step};
