//! Verified pages in memory.
//!
//! Invariant: a page is kept under its id, which no other page of the shard ever has while it is open; so what the cache
//! holds is never wrong, only no longer asked for.

use super::frame::Page;
use super::pool::Pool;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, Weighter};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// A page larger than this is read when it is needed: it would push out many.
const MAX_PAGE: usize = 64 << 10;
/// What a page usually takes.
const USUAL: u64 = 4096;

type Pages = Cache<u64, Page, Weigh, Spread, GiveBack>;

pub(super) struct PageCache(Pages);

impl PageCache {
    pub fn new(bytes: u64, pool: Arc<Pool>) -> PageCache {
        let items = (bytes / USUAL).max(16) as usize;
        PageCache(Cache::with(items, bytes, Weigh, Spread, GiveBack(pool)))
    }

    /// The page, which counts as used.
    #[inline]
    pub fn get(&self, id: u64) -> Option<Page> {
        self.0.get(&id)
    }

    /// The page, without a trace of having been asked for.
    pub fn peek(&self, id: u64) -> Option<Page> {
        self.0.peek(&id)
    }

    pub fn insert(&self, id: u64, page: &Page) {
        if page.resident() <= MAX_PAGE {
            self.0.insert(id, page.clone());
        }
    }

    /// Forgets a page.
    pub fn remove(&self, id: u64) -> Option<Page> {
        self.0.remove(&id).map(|(_, page)| page)
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.0.set_capacity(bytes);
    }
}

/// What is pushed out leaves its buffer for what comes in.
#[derive(Clone)]
struct GiveBack(Arc<Pool>);

impl Lifecycle<u64, Page> for GiveBack {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: u64, page: Page) {
        self.0.give_back(page.into_frame());
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<u64, Page> for Weigh {
    fn weight(&self, _: &u64, page: &Page) -> u64 {
        page.resident() as u64
    }
}

/// Page ids are given out in order: a multiplication spreads them (Fibonacci hashing).
#[derive(Debug, Clone, Copy)]
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
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
