//! Opening a store that exists, or making one that does not.

mod adopt;
mod anew;
mod asking;
mod copies;
mod covered;
mod create;
mod given_up;
mod journals;
mod lock;
mod lost;
mod recover;
mod replay;
mod take_up;

pub use adopt::check_finished;
pub use copies::check_newest;
pub use create::{Contents, LOCK, RESTORING, SHARDS_DIR};
pub use lock::locked;
pub use recover::{OPENING, open, restore};
