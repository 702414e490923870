//! Healing: a shard that failed is taken back when it can be, brought up to date, or made anew from its replicas.
//!
//! ```text
//!              +--> files are good, the journal reaches back --> catching up ----------------------+
//!  offline ----+                                                                                   +--> online
//!              +--> files are damaged or gone, or too old -----> filling: copy ... compare ... ----+
//!  degraded (a page is damaged) --> verified, damaged pages replaced --> online
//!  stalled (full, read-only) --> opened again when it can be written to --> catching up --> online
//!  online  --> compacting: an engine beside the one that serves is filled, and takes its place
//! ```
//! Invariants:
//! - Nothing is given up before something else holds it: a damaged engine is set aside, not deleted; a shard is begun anew
//!   only while every virtual node that it holds has another owner that serves, and one that serves itself, or is not known to be damaged,
//!   only after those have been verified.
//! - A directory that may be another disk's, or another shard's, is never written to.
//! - A shard serves only after it holds every write that has left the memtables: by the journal, which has them all, or by a
//!   copy that has been compared, record by record, with its sources.

mod catch_up;
mod fill;
mod mend;
mod prove;
mod requests;
mod revive;
mod step;
#[cfg(test)]
mod tests;

pub use requests::{ShardHealth, StoreHealth, drop_quarantined, health, request};
pub use step::{Step, not_flushed, step};
