//! Opening a store that exists, or making one that does not.

mod create;
mod recover;

pub use create::{JOURNAL_DIR, LOCK};
pub use recover::open;
