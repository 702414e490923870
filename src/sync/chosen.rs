//! What `parking_lot` and the standard library have, over shuttle's.

use shuttle::rand::Rng;
use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut, Sub};
use std::sync::PoisonError;
use std::time::Duration;

pub use shuttle::sync::mpsc;

/// Shuttle's, and the orderings.
pub mod atomic {
    pub use shuttle::sync::atomic::*;
}

/// Shuttle's threads; and how many processors there are: two.
pub mod thread {
    pub use shuttle::thread::*;
    use std::num::NonZeroUsize;

    /// Two, wherever it runs.
    pub fn available_parallelism() -> std::io::Result<NonZeroUsize> {
        Ok(NonZeroUsize::MIN.saturating_add(1))
    }
}

/// A lock whose holders' panics poison nothing.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// None only while a condition is waited for.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    lock: &'a shuttle::sync::Mutex<T>,
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A lock over a value.
    pub const fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It, if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        use std::sync::TryLockError;
        match self.0.try_lock() {
            Ok(guard) => Some(self.held(guard)),
            Err(TryLockError::Poisoned(error)) => Some(self.held(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn held<'a>(&'a self, guard: shuttle::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { lock: &self.0, held: Some(guard) }
    }

    /// The value, which nobody else can have.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.held {
            Some(guard) => guard,
            None => unreachable!("a guard is used while it waits"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.held {
            Some(guard) => guard,
            None => unreachable!("a guard is used while it waits"),
        }
    }
}

/// Many may read, or one write.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

use shuttle::sync::RwLockReadGuard;
pub use shuttle::sync::RwLockWriteGuard;

impl<T> RwLock<T> {
    /// A lock over a value.
    pub const fn new(value: T) -> Self {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    /// Waits to read.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits to write.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

/// Whether the limit has passed.
#[derive(Debug, Clone, Copy)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the limit has passed.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// One that nobody waits for.
    pub const fn new() -> Self {
        Condvar(shuttle::sync::Condvar::new())
    }

    /// Waits to be woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.held.take() {
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Lets others have a turn, and says by chance that the limit has passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
        drop(guard.held.take());
        shuttle::thread::yield_now();
        guard.held = Some(guard.lock.lock().unwrap_or_else(PoisonError::into_inner));
        WaitTimeoutResult(shuttle::rand::thread_rng().gen_bool(0.5))
    }

    /// As [`wait_for`](Self::wait_for).
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, Duration::ZERO)
    }

    /// Waits as long as the condition holds; the limit never passes.
    pub fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        _: Duration,
    ) -> WaitTimeoutResult {
        while condition(guard) {
            self.wait(guard);
        }
        WaitTimeoutResult(false)
    }

    /// Wakes one of those that wait; whether it did is not known here.
    pub fn notify_one(&self) -> bool {
        self.0.notify_one();
        true
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) -> usize {
        self.0.notify_all();
        0
    }
}

/// A moment: how often the clock had been asked by then, a microsecond each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

thread_local! {
    // All threads of one execution are in one of the system's.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

impl Instant {
    /// The next moment.
    pub fn now() -> Instant {
        ASKED.set(ASKED.get() + 1);
        Instant(Duration::from_micros(ASKED.get()))
    }

    /// Since then.
    pub fn elapsed(&self) -> Duration {
        Instant::now().0.saturating_sub(self.0)
    }

    /// So much later; none beyond all time.
    pub fn checked_add(&self, length: Duration) -> Option<Instant> {
        self.0.checked_add(length).map(Instant)
    }

    /// Since an earlier moment; none if it is later.
    pub fn checked_duration_since(&self, earlier: Instant) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, more: Duration) -> Instant {
        Instant(self.0.saturating_add(more))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
