//! Purging: the records of dropped keyspaces leave the shards, in the background.
//!
//! Invariant: a keyspace's entry leaves the manifest only when every shard has been rid of its records, durably; its
//! number is never given out again.

use crate::batch::KEYSPACE_BYTES;
use crate::error::Result;
use crate::ids::KeyspaceId;
use crate::record::KeyRange;
use crate::state::State;

/// Purges the dropped keyspaces. Returns whether there were any that could be purged.
pub fn purge(state: &State) -> Result<bool> {
    let dropped: Vec<KeyspaceId> =
        state.manifest.lock().keyspaces.iter().filter(|k| k.dropped).map(|k| k.id).collect();
    // A shard that is offline would bring the records back: the entries wait for it.
    if dropped.is_empty() || !state.layout().shards.iter().all(|s| s.is_complete()) {
        return Ok(false);
    }
    {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        // Tables that were frozen before the drop may still hold records of it; flushes leave those out.
        let layout = state.layout();
        for (index, shard) in layout.shards.iter().enumerate() {
            for id in &dropped {
                let range = range_of(*id);
                state
                    .beside(&layout, index, move |shard| shard.remove_range(&range))
                    .inspect_err(|error| state.write_failed(shard, error))?;
            }
        }
    }
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    next.keyspaces.retain(|k| !dropped.contains(&k.id));
    state.replace_manifest(&mut manifest, next)?;
    Ok(true)
}

/// All internal keys of a keyspace.
fn range_of(id: KeyspaceId) -> KeyRange {
    let hi = id.0.checked_add(1).map(|next| next.to_be_bytes().to_vec());
    let lo = id.0.to_be_bytes().to_vec();
    debug_assert_eq!(lo.len(), KEYSPACE_BYTES);
    KeyRange { lo, hi }
}
