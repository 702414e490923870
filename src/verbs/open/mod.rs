//! Opening a store that exists, or making one that does not.

mod adopt;
mod create;
mod journals;
mod recover;

pub use create::{Contents, LOCK, RESTORING, SHARDS_DIR};
pub use recover::{locked, open, restore};
