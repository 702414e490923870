//! Purging: the records of dropped keyspaces leave the shards, in the background, a part of one keyspace at a time.
//!
//! Invariants:
//! - Nothing goes of a keyspace that is still written to: who reads such a one is told of no drop, and a flush brings its records.
//! - A part of a keyspace leaves all shards before anybody may copy records from one to another again: what has been gone through
//!   does not come back.
//! - A keyspace's entry leaves the manifest only when every shard has been rid of its records, durably; its number is never given out
//!   again.

use crate::batch::KEYSPACE_BYTES;
use crate::error::Result;
use crate::ids::KeyspaceId;
use crate::record::KeyRange;
use crate::shard::Health;
use crate::state::State;

/// How much of each shard goes at once, in bytes: flushes wait for it, and the shard's disk must be done with it in time.
const PART: u64 = 32 << 20;

/// Removes a part of a keyspace that was dropped. Returns whether there was one that could be purged.
pub fn purge(state: &State) -> Result<bool> {
    purge_part(state, PART)
}

/// The same with parts of another size.
pub fn purge_part(state: &State, bytes: u64) -> Result<bool> {
    // Once nobody writes to it that stays so: no flush that begins in a later turn brings records of it.
    let Some(id) = dropped(state) else { return Ok(false) };
    {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        // Tables that were frozen before the drop may still hold records of it; flushes leave those out.
        let layout = state.layout();
        let whole = range_of(id);
        let begun = state.purged.lock().take().filter(|(of, _)| *of == id);
        // A shard that is offline would bring the records back: the entry waits for it; and for one that is to be mended first.
        if !layout.shards.iter().all(|shard| shard.is_complete() && shard.health() == Health::Online) {
            return Ok(false);
        }
        let mut part = KeyRange { lo: begun.map_or(whole.lo, |(_, from)| from), hi: whole.hi };
        let mut next = None;
        for (index, shard) in layout.shards.iter().enumerate() {
            let range = part.clone();
            let end = state
                .beside(&layout, index, move |shard| shard.remove_range(&range, bytes))
                .inspect_err(|error| state.write_failed(shard, error))?;
            // The next part begins where the shard that got least far goes on.
            if let Some(end) = end {
                part.hi = Some(end.clone());
                next = Some(end);
            }
        }
        if let Some(next) = next {
            *state.purged.lock() = Some((id, next));
            return Ok(true);
        }
    }
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    next.keyspaces.retain(|k| k.id != id);
    state.replace_manifest(&mut manifest, next)?;
    Ok(true)
}

/// A keyspace that was dropped, and that nobody writes to any more.
fn dropped(state: &State) -> Option<KeyspaceId> {
    // Not under the manifest's lock: who flushes looks here each time. So the manifest may say already that one is dropped to which writes are
    // acknowledged until the shards have been given their copies of that.
    let written = state.written();
    let live = state.live_keyspaces();
    written.keyspaces.iter().find(|k| k.dropped && !live.contains(&k.id)).map(|k| k.id)
}

/// All internal keys of a keyspace.
fn range_of(id: KeyspaceId) -> KeyRange {
    let hi = id.0.checked_add(1).map(|next| next.to_be_bytes().to_vec());
    let lo = id.0.to_be_bytes().to_vec();
    debug_assert_eq!(lo.len(), KEYSPACE_BYTES);
    KeyRange { lo, hi }
}
