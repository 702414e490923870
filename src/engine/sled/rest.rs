//! Rest: of a store's shards whose file systems do not keep sled's writes in order, one at a time writes its index.
//!
//! There a power cut in the middle of a commit can cost what was synced long before, in that shard. Between its commits everything
//! that sled has written is synced, and nothing can happen to it.
//!
//! Invariants: one shard at a time is between the first write of a commit and its last sync, so of the owners of a virtual node all
//! but one rest at any moment, whatever for they are written to: a flush, a move, a rebuild, an opening. Who hangs holds up the
//! others for a while and not for ever; from then on the next one has its place.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where nobody says how long a shard may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many times as long as one shard may hold up the others, one that waits for its place waits at the most.
const QUEUE: u32 = 4;

/// Who is writing, of the shards of a store.
#[derive(Debug)]
pub(super) struct Rest {
    inner: Mutex<Inner>,
    left: Condvar,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    /// The one that is writing, and since when.
    writing: Option<(u64, Instant)>,
    next: u64,
    #[cfg(test)]
    waiting: usize,
}

/// The others rest until it is dropped.
#[derive(Debug)]
pub(super) struct Unrest {
    rest: Arc<Rest>,
    number: u64,
}

impl Default for Rest {
    fn default() -> Self {
        Rest::new(PATIENCE)
    }
}

impl Rest {
    /// Whoever writes for longer than `patience` is taken to hang.
    pub fn new(patience: Duration) -> Rest {
        Rest { inner: Mutex::default(), left: Condvar::new(), patience }
    }

    /// Waits until the others rest.
    pub fn begin(self: &Arc<Rest>) -> Unrest {
        let latest = Instant::now() + self.patience * QUEUE;
        let mut inner = self.inner.lock();
        #[cfg(test)]
        {
            inner.waiting += 1;
        }
        while let Some((_, since)) = inner.writing {
            // Of whoever is writing now: it may be one that has waited as well, and has just begun.
            let until = latest.min(since + self.patience);
            if Instant::now() < until {
                self.left.wait_until(&mut inner, until);
            } else {
                log::warn!(
                    "a shard has been writing its index for {:?}, and another one begins beside it: until they are done a power cut may cost both",
                    since.elapsed()
                );
                break;
            }
        }
        #[cfg(test)]
        {
            inner.waiting -= 1;
        }
        inner.next += 1;
        let number = inner.next;
        inner.writing = Some((number, Instant::now()));
        Unrest { rest: self.clone(), number }
    }

    /// How many wait for the one that is writing.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting
    }
}

impl Drop for Unrest {
    fn drop(&mut self) {
        let mut inner = self.rest.inner.lock();
        // Where it hung another one has its place.
        if inner.writing.is_some_and(|(number, _)| number == self.number) {
            inner.writing = None;
            self.rest.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two that wait for one that hangs the second waits for the first.
    #[test]
    fn those_that_wait_for_one_that_hangs_go_on_one_after_another() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let patience = Duration::from_secs(20);
        let rest = Arc::new(Rest::new(patience));
        let hanging = rest.begin();
        let (inside, through) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let place = rest.begin();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "both at once");
                    // The first one lets go when the second has been seen to wait for it.
                    while through.load(Ordering::SeqCst) == 0 && rest.waiting() != 1 {
                        assert_eq!(inside.load(Ordering::SeqCst), 1, "both at once");
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    through.fetch_add(1, Ordering::SeqCst);
                    drop(place);
                });
            }
            while rest.waiting() != 2 {
                std::thread::yield_now();
            }
            // It has been at it for as long as anybody waits.
            let long_ago = Instant::now().checked_sub(patience).expect("a machine that runs for so long");
            rest.inner.lock().writing = Some((hanging.number, long_ago));
            rest.left.notify_all();
        });
        assert_eq!(through.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn who_hangs_is_waited_for_once_and_its_end_disturbs_nobody() {
        let rest = Arc::new(Rest::new(Duration::from_millis(20)));
        let hanging = rest.begin();
        // Comes back although the first one never ends.
        let second = rest.begin();
        assert_ne!(hanging.number, second.number);
        drop(hanging);
        let writing = || rest.inner.lock().writing.map(|(number, _)| number);
        assert_eq!(writing(), Some(second.number));
        drop(second);
        assert_eq!(writing(), None);
    }
}
