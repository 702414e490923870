//! Opening a store that exists, or making one that does not.

mod adopt;
mod create;
mod journals;
mod recover;

pub use recover::open;
