//! What can be done with a store, a file a verb. Verbs do not call each other: what two of them need lies in the state
//! or below it.

pub mod checkpoint;
pub mod close;
pub mod flush;
pub mod heal;
pub mod keyspaces;
pub mod open;
pub mod purge;
pub mod read;
pub mod recount;
pub mod reshard;
pub mod restore;
pub mod scan;
pub mod scrub;
pub mod stats;
pub mod write;
