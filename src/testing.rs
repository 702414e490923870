//! What the benches measure below the face of the crate. No part of its interface: it changes without notice.

/// The memtable's table.
pub mod memtable {
    pub use crate::memtable::{OrderedTable, Table};
    use crate::record::KeyRange;

    /// The keys from `lo` up to the end.
    pub fn range_from(lo: &[u8]) -> KeyRange {
        KeyRange { lo: lo.to_vec(), hi: None }
    }
}
