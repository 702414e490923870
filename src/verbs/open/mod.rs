//! Opening a store that exists, or making one that does not.

mod create;
mod recover;

pub use recover::open;
