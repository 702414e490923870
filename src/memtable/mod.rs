//! The memtable's table: the newest versions of keys, ordered, in memory, until they are flushed to the shards.
//!
//! - [`table`]: what the floors above use: insert, get, scan, and the figures of a [`Table`].
//! - [`iter`]: scans in both directions, and the records of a flush.
//! - [`tree`] and [`node`]: the order of the keys, a B+tree.
//! - [`index`]: keys by hash.
//! - [`entry`]: a key and its versions, as bytes.
//! - [`arena`]: the bytes, in big pieces.
//!
//! Invariants: a table is a plain value without locks (its owner has one around it); what `bytes` says is what the
//! process shows resident; it is made and freed in big pieces; it grows piece by piece, so that no single write pays
//! for copying it.

mod arena;
mod entry;
mod index;
mod iter;
mod node;
mod table;
mod tree;

#[cfg(test)]
mod tests;

#[allow(unused_imports)]
pub use self::{
    entry::Version,
    iter::{Cursor, Iter, IterAt, Records, Versions},
    table::{OrderedTable, Table},
};
