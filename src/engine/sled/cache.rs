//! Verified pages in memory.
//!
//! A page lies in a slot whose number the index keeps beside the page's place, so a lookup that found the page's place has
//! found the page. The number is a hint: what lies in the slot says which page it is, and a map by id tells where a page
//! is whose hint was lost with its node. Which pages stay is decided by a clock: each is worth as many turns of the hand
//! as it was asked for in between, up to [`MOST_USED`]. While there is room every page is taken in; after that one that is
//! asked for twice within a while (a doorkeeper, as in TinyLFU), so that reads all over the store push nothing out.
//!
//! Invariant: a page is kept under its id, which no other page of the shard ever has while it is open; so what the cache
//! holds is never wrong, only no longer asked for.

use super::frame::Page;
use super::pool::Pool;
use super::slots::{Held, NO_SLOT, Slots};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A page larger than this is read when it is needed: it would push out many.
const MAX_PAGE: usize = 64 << 10;
/// What a page usually takes.
const USUAL: u64 = 4096;
/// Parts of the map: those who take pages in at one time seldom meet.
const MAPS: usize = 16;
/// The turns of the hand that a page stays without being asked for, at most.
const MOST_USED: u8 = 3;
/// The doorkeeper remembers a page for each so many that fit.
const PAGES_A_MARK: u64 = 16;
const LEAST_MARKS: u64 = 1024;
/// They are there from the beginning, however large a cache may become.
const MOST_MARKS: u64 = 1 << 22;

pub(super) struct PageCache {
    slots: Slots,
    /// Page id to slot.
    maps: [RwLock<HashMap<u64, u32, Spread>>; MAPS],
    free: Mutex<Free>,
    hand: AtomicU32,
    bytes: AtomicU64,
    capacity: AtomicU64,
    seen: Box<[AtomicU32]>,
    pool: Arc<Pool>,
}

/// Slots that nobody holds a page in.
#[derive(Debug, Default)]
struct Free {
    vacant: Vec<u32>,
    /// The least number that was never handed out.
    next: u32,
}

impl PageCache {
    pub fn new(bytes: u64, pool: Arc<Pool>) -> PageCache {
        let marks = (bytes / USUAL / PAGES_A_MARK).clamp(LEAST_MARKS, MOST_MARKS);
        PageCache {
            slots: Slots::default(),
            maps: std::array::from_fn(|_| RwLock::default()),
            free: Mutex::default(),
            hand: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            capacity: AtomicU64::new(bytes),
            seen: (0..marks).map(|_| AtomicU32::new(0)).collect(),
            pool,
        }
    }

    fn map(&self, id: u64) -> &RwLock<HashMap<u64, u32, Spread>> {
        // The map's own hasher takes other bits.
        &self.maps[(id % MAPS as u64) as usize]
    }

    /// What `f` makes of the page, if it lies in this slot; it counts as used then.
    #[inline]
    pub fn with<T>(&self, slot: u32, id: u64, f: impl FnOnce(&Page) -> T) -> Option<T> {
        let slot = self.slots.get(slot)?;
        let held = slot.held.read();
        let held = held.as_ref().filter(|held| held.id == id)?;
        // Read first: a line that is only read is not taken from others who read it.
        let used = slot.used.load(Ordering::Relaxed);
        if used < MOST_USED {
            slot.used.store(used + 1, Ordering::Relaxed);
        }
        Some(f(&held.page))
    }

    /// Where the page lies, if it is in memory.
    pub fn find(&self, id: u64) -> Option<u32> {
        self.map(id).read().get(&id).copied()
    }

    /// The page, without a trace of having been asked for.
    pub fn peek(&self, id: u64) -> Option<Page> {
        let held = self.slots.get(self.find(id)?)?.held.read();
        held.as_ref().filter(|held| held.id == id).map(|held| held.page.clone())
    }

    /// Whether a page can be taken in for which no other has to go.
    pub fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) + 2 * USUAL < self.capacity.load(Ordering::Relaxed)
    }

    /// Whether a page that was asked for and is not here should be taken in.
    pub fn admits(&self, id: u64, bytes: u32) -> bool {
        if bytes as usize > MAX_PAGE {
            return false;
        }
        if self.has_room() {
            return true;
        }
        let mixed = spread(id);
        let (mark, place) = ((mixed >> 32) as u32 | 1, mixed as usize % self.seen.len());
        self.seen[place].swap(mark, Ordering::Relaxed) == mark
    }

    /// Takes a page in; returns its slot.
    pub fn insert(&self, id: u64, page: &Page) -> Option<u32> {
        let bytes = page.resident() as u64;
        if bytes > MAX_PAGE as u64 {
            return None;
        }
        if let Some(slot) = self.find(id) {
            return Some(slot);
        }
        if !self.make_room(bytes) {
            return None;
        }
        let number = self.vacant()?;
        let slot = self.slots.make(number)?;
        slot.used.store(1, Ordering::Relaxed);
        // Counted before the hand can find it, and in the map before the hand can look there whether it is.
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut map = self.map(id).write();
        *slot.held.write() = Some(Held { id, page: page.clone() });
        let other = map.insert(id, number);
        drop(map);
        if let Some(other) = other {
            // Two brought it in at one time.
            self.empty(other, id);
        }
        Some(number)
    }

    /// Forgets a page.
    pub fn remove(&self, id: u64) -> Option<Page> {
        let number = self.map(id).write().remove(&id)?;
        self.empty(number, id)
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.capacity.store(bytes, Ordering::Relaxed);
        self.make_room(0);
    }

    fn vacant(&self) -> Option<u32> {
        let mut free = self.free.lock();
        if let Some(number) = free.vacant.pop() {
            return Some(number);
        }
        let number = free.next;
        if number == NO_SLOT {
            return None;
        }
        free.next += 1;
        Some(number)
    }

    /// Takes the page out of a slot if it is this one.
    fn empty(&self, number: u32, id: u64) -> Option<Page> {
        let page = {
            let mut held = self.slots.get(number)?.held.write();
            held.take_if(|held| held.id == id)?.page
        };
        self.bytes.fetch_sub(page.resident() as u64, Ordering::Relaxed);
        self.free.lock().vacant.push(number);
        Some(page)
    }

    /// Lets pages go until there is room for `bytes`; whether there is.
    fn make_room(&self, bytes: u64) -> bool {
        while self.bytes.load(Ordering::Relaxed) + bytes > self.capacity.load(Ordering::Relaxed) {
            if !self.let_one_go() {
                return false;
            }
        }
        true
    }

    /// Turns the hand up to a page that may go; false if there is none.
    fn let_one_go(&self) -> bool {
        let count = self.free.lock().next;
        // In so many steps it passes each as often as any of them can be worth.
        for _ in 0..u64::from(count) * (u64::from(MOST_USED) + 2) {
            let number = self.hand.fetch_add(1, Ordering::Relaxed) % count;
            let Some(slot) = self.slots.get(number) else { continue };
            let used = slot.used.load(Ordering::Relaxed);
            if used > 0 {
                slot.used.store(used - 1, Ordering::Relaxed);
                continue;
            }
            // One that is being read is of use.
            let Some(id) = slot.held.try_read().and_then(|held| held.as_ref().map(|held| held.id)) else {
                continue;
            };
            let mut map = self.map(id).write();
            if map.get(&id) == Some(&number) {
                map.remove(&id);
            }
            drop(map);
            if let Some(page) = self.empty(number, id) {
                self.pool.give_back(page.into_frame());
                return true;
            }
        }
        false
    }
}

/// Page ids are given out in order: a multiplication spreads them (Fibonacci hashing).
#[inline]
fn spread(id: u64) -> u64 {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

#[derive(Debug, Clone, Copy, Default)]
struct Spread;

#[derive(Debug)]
struct SpreadHasher(u64);

impl BuildHasher for Spread {
    type Hasher = SpreadHasher;

    fn build_hasher(&self) -> SpreadHasher {
        SpreadHasher(0)
    }
}

impl Hasher for SpreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.0 = spread(self.0 ^ value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(bytes: u64) -> PageCache {
        PageCache::new(bytes, Arc::new(Pool::default()))
    }

    fn page(cache: &PageCache, byte: u8) -> Page {
        let fill = |bytes: &mut [u8]| {
            bytes.fill(byte);
            Ok::<(), ()>(())
        };
        Page::fresh(cache.pool.frame(4000, fill).unwrap(), 24)
    }

    fn holds(cache: &PageCache, id: u64) -> bool {
        let found = cache.find(id).and_then(|slot| cache.with(slot, id, |page| page.lower().len()));
        assert_eq!(found.is_some(), cache.peek(id).is_some());
        found.is_some()
    }

    #[test]
    fn a_slot_answers_for_the_page_that_is_in_it_alone() {
        let cache = cache(1 << 20);
        let slot = cache.insert(1, &page(&cache, 1)).unwrap();
        assert_eq!(cache.with(slot, 1, Page::len), Some(3976));
        assert_eq!(cache.with(slot, 2, Page::len), None);
        assert_eq!(cache.with(NO_SLOT, 1, Page::len), None);
        assert_eq!(cache.insert(1, &page(&cache, 1)), Some(slot), "it is taken in once");
        assert!(cache.remove(1).is_some() && cache.remove(1).is_none());
        assert_eq!(cache.with(slot, 1, Page::len), None);
        assert_eq!(cache.insert(2, &page(&cache, 2)), Some(slot), "its place is used again");
        assert_eq!(cache.with(slot, 1, Page::len), None, "an old number finds nothing");
    }

    #[test]
    fn what_is_asked_for_stays_and_memory_is_kept_to() {
        let cache = cache(100 * 5000);
        for id in 0..1000 {
            cache.insert(id, &page(&cache, 0));
            assert!(id < 10 || (0..10).all(|hot| holds(&cache, hot)), "{id}");
        }
        let held = |cache: &PageCache| (0..1000).filter(|id| cache.peek(*id).is_some()).count();
        let bytes = cache.bytes.load(Ordering::Relaxed);
        assert!((90..=120).contains(&held(&cache)) && bytes <= 500_000, "{} of {bytes} bytes", held(&cache));
        cache.set_capacity(50_000);
        assert!((5..=11).contains(&held(&cache)), "{}", held(&cache));
        cache.set_capacity(0);
        assert_eq!(cache.insert(1, &page(&cache, 0)), None);
        assert_eq!((held(&cache), cache.bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_full_cache_takes_in_what_is_asked_for_twice() {
        let cache = cache(100 * 5000);
        assert!(cache.admits(1, 4096), "there is room");
        assert!(!cache.admits(1, MAX_PAGE as u32 + 1));
        for id in 0..1000 {
            cache.insert(id, &page(&cache, 0));
        }
        assert!(!cache.admits(5000, 4096));
        assert!(cache.admits(5000, 4096));
    }

    #[test]
    fn many_threads_leave_the_accounts_in_order() {
        let cache = cache(50 * 5000);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..5000u64 {
                        let id = (n * 7 + thread) % 120;
                        match n % 5 {
                            0 => drop(cache.remove(id)),
                            1..3 => {
                                cache.insert(id, &page(cache, id as u8));
                            }
                            _ => {
                                if let Some(slot) = cache.find(id) {
                                    cache.with(slot, id, |page| assert_eq!(page.share()[100], id as u8));
                                }
                            }
                        }
                    }
                });
            }
        });
        let bytes: u64 = (0..120).filter_map(|id| cache.peek(id)).map(|page| page.resident() as u64).sum();
        assert_eq!(bytes, cache.bytes.load(Ordering::Relaxed));
    }
}
