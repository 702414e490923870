//! The ring: from a key to the shards that own it. Pure computation: no files, locks or clocks.
//!
//! | room | what it is for |
//! |---|---|
//! | `partitioner` | which part of a key decides where it lives |
//! | `position` | the point on the ring that a routing part is hashed to |
//! | `table` | [`Ring`]: from a position to its virtual node and owners |
//! | `next` | what a next ring is asked to be: members, replicas, virtual nodes, replacements, tolerance |
//! | `topology` | what the manifest remembers: members and assignment, and the limits of both |
//! | `assignment` | planning a placement, and its four steps: |
//! | `cluster`, `share` | how much each member should hold |
//! | `draw` | a placement from scratch |
//! | `flow`, `swaps` | the placement with the least movement from another |
//! | `primary` | which owner comes first |
//! | `check` | all rules again, from the result alone |
//! | `balance` | what a placement came to |
//! | `bound` | how little any placement could move, to measure the planner by |
//! | `svg` | the ring, and what a next one moves, as pictures |
//! | `pairs`, `random` | helpers of the planners |

mod assignment;
mod balance;
mod bound;
mod check;
mod cluster;
mod draw;
mod flow;
mod next;
mod pairs;
mod partitioner;
mod position;
mod primary;
mod random;
mod share;
mod svg;
mod swaps;
mod table;
mod topology;

#[cfg(test)]
mod tests;

pub use balance::{Balance, ShardBalance};
pub use partitioner::Partitioner;
pub use share::LoadLimit;
pub use table::{Move, Ring};
pub use topology::Member;

pub use bound::least_copies;
pub use next::Next;

pub(crate) use position::Position;
pub(crate) use topology::Topology;
