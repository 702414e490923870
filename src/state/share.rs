//! Sharing the memory budget out: what memtables do not hold now, caches may.
//!
//! Invariant: memtables and caches together stay inside the budget, but for what is written between two looks, for which
//! some room is left free.

use super::State;
use crate::sync::atomic::Ordering;

/// The share of the budget that shards' caches keep however much memtables hold (these stop at half of it), and the most that they
/// and single records get however little: buffers that caches give up are not all given back to the system at once.
const LEAST_SHARE: u64 = 4;
const MOST: (u64, u64) = (14, 16);
/// How finely memory is shared out, as a part of what memtables may hold: caches need not follow every write.
const STEPS: u64 = 16;

impl State {
    /// Gives the shards' caches what the memtables leave.
    pub fn share_memory(&self) {
        let step = (self.settings.memtable_bytes / STEPS).max(1);
        let (active, frozen) = self.memory.bytes();
        // What is held, rounded up, and two steps of what may come before the next look.
        let held = ((active + frozen) / step + 3) * step;
        let budget = self.settings.memory_budget;
        let records = self.records.share(budget);
        if self.shared.swap(held, Ordering::AcqRel) == held
            && self.shared_records.swap(records, Ordering::AcqRel) == records
        {
            return;
        }
        self.shared_records.store(records, Ordering::Release);
        self.records.set_capacity(records);
        let caches = (budget - records).saturating_sub(held);
        let caches = caches.clamp(budget / LEAST_SHARE, budget / MOST.1 * MOST.0 - records);
        let layout = self.layout();
        let shards = layout.shards.len().max(1) as u64;
        for shard in &layout.shards {
            shard.set_cache(caches / shards, budget / LEAST_SHARE / shards);
        }
    }

    /// Whether the memtables have grown or shrunk by a step since the memory was shared out.
    pub fn memory_moved(&self) -> bool {
        let step = (self.settings.memtable_bytes / STEPS).max(1);
        let (active, frozen) = self.memory.bytes();
        self.shared.load(Ordering::Relaxed) != ((active + frozen) / step + 3) * step
    }
}
