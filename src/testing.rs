//! What the benches measure below the face of the crate. No part of its interface: it changes without notice.

/// The memtable's table.
pub mod memtable {
    pub use crate::memtable::{OrderedTable, Table};
    pub use crate::record::{KeyRange, RunRecord};
}
