//! Opening a store that exists, or making one that does not.

mod adopt;
mod create;
mod journals;
mod recover;

pub use create::Contents;
pub use recover::{locked, open, restore};
