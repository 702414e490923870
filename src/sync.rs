//! Locks, conditions, atomics, channels, threads and the clock: the seam that lets a test choose which thread goes on.
//!
//! In every ordinary build these are `parking_lot`'s and the standard library's own, and nothing lies between. In a build
//! with `--cfg annulus_schedules` they are those of `shuttle`, under the same names: its threads take turns, one at a time, and
//! a scheduler chooses whose turn it is at each of these calls, from a seed (`tests/schedules`). There every atomic is
//! sequentially consistent, a wait with a limit may end at once, and the clock shows how often it was asked.
//!
//! Invariant: whoever may hold a lock while another thread of the store waits for it takes the lock from here. A lock that
//! the scheduler does not know, held over one that it does, stops all of its threads.

#[cfg(not(annulus_schedules))]
mod real {
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};
    pub use std::sync::{atomic, mpsc};
    pub use std::thread;
    pub use std::time::Instant;
}

#[cfg(not(annulus_schedules))]
pub use real::*;

#[cfg(annulus_schedules)]
mod chosen;

#[cfg(annulus_schedules)]
pub use chosen::*;
