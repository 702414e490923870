//! Locks, conditions, atomics, channels, threads and the clock: the seam that lets a test choose which thread goes on.
//!
//! In every ordinary build these are `parking_lot`'s and the standard library's own, and nothing lies between. In a build
//! with `--cfg annulus_schedules` they are those of `shuttle`, under the same names: its threads take turns, one at a time, and
//! a scheduler chooses whose turn it is at each of these calls, from a seed (`tests/schedules`). There every atomic is
//! sequentially consistent, a wait with a limit may end at once, and the clock shows how often it was asked.
//!
//! Invariant: whoever may hold a lock while another thread of the store waits for it takes the lock from here. A lock that
//! the scheduler does not know, held over one that it does, stops all of its threads. Statics are never of these: shuttle's belong to
//! one thread of the system, on which all of its threads take turns.

#[cfg(not(annulus_schedules))]
mod real {
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};
    pub use std::sync::{atomic, mpsc};
    pub use std::thread;
    pub use std::time::Instant;

    /// Starts `f` on a thread of its own; gives what it is for back where none can be had.
    pub(super) fn start<'scope, 'env, T: Copy + Send + 'scope, R: Send + 'scope>(
        scope: &'scope thread::Scope<'scope, 'env>,
        f: &'scope (impl Fn(T) -> R + Sync),
        item: T,
    ) -> Result<thread::ScopedJoinHandle<'scope, R>, T> {
        #[cfg(test)]
        if super::NO_THREADS.get() {
            return Err(item);
        }
        thread::Builder::new().spawn_scoped(scope, move || f(item)).map_err(|_| item)
    }
}

#[cfg(not(annulus_schedules))]
pub use real::*;

#[cfg(annulus_schedules)]
mod chosen;

#[cfg(annulus_schedules)]
pub use chosen::*;

#[cfg(annulus_schedules)]
fn start<'scope, 'env, T: Copy + Send + 'scope, R: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    f: &'scope (impl Fn(T) -> R + Sync),
    item: T,
) -> Result<thread::ScopedJoinHandle<'scope, R>, T> {
    Ok(scope.spawn(move || f(item)))
}

#[cfg(test)]
thread_local! {
    /// Whether the system has no threads left for what this one starts.
    pub static NO_THREADS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Calls `f` with each of `items`, on a thread each, and meanwhile `own` on this one. Where no thread can be had, this one does that
/// as well. Returns what `own` came to, and the others in their order: none where `f` panicked.
pub fn side_by_side<T: Sync, R: Send, O>(
    items: &[T],
    f: impl Fn(&T) -> R + Sync,
    own: impl FnOnce() -> O,
) -> (O, Vec<Option<R>>) {
    let f = &f;
    thread::scope(|scope| {
        let started: Vec<_> = items.iter().map(|item| start(scope, f, item)).collect();
        let own = own();
        let end = |one: Result<thread::ScopedJoinHandle<'_, R>, &T>| match one {
            Ok(thread) => thread.join().ok(),
            Err(item) => Some(f(item)),
        };
        (own, started.into_iter().map(end).collect())
    })
}

/// The same for a single other thing.
pub fn with_another<T: Sync + ?Sized, R: Send, O>(
    item: &T,
    f: impl Fn(&T) -> R + Sync,
    own: impl FnOnce() -> O,
) -> (O, Option<R>) {
    let (own, others) = side_by_side(&[item], |item| f(item), own);
    (own, others.into_iter().next().flatten())
}
