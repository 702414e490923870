//! Reading single keys, and many at once.

use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::record::Found;
use crate::state::foreground::Operation;
use crate::state::{Recent, State};

/// From how many keys a shard on its own thread is worth that thread.
const KEYS_PER_THREAD: usize = 64;

/// The newest version of an internal key.
pub fn get(state: &State, key: &[u8]) -> Result<Option<Found>> {
    state.check_open()?;
    let begun = state.change.foreground.begin();
    let found = state.get_newest(key);
    state.change.foreground.end(Operation::Read, begun);
    found
}

/// The values of many internal keys, in their order, all as of one moment.
pub fn get_many(state: &State, keys: &[Vec<u8>]) -> Result<Vec<Option<Found>>> {
    state.check_open()?;
    let at = state.memory.open_snapshot();
    let found = get_many_at(state, keys, at);
    state.memory.close_snapshot(at);
    let found = found?;
    // Looked at after reading: a keyspace that still exists had not lost a record by then.
    if let Some(key) = keys.first() {
        state.check_keyspace(batch::keyspace_of(key))?;
    }
    Ok(found)
}

/// Values read from one shard, with the index of their keys.
type Part = Vec<(usize, Option<Found>)>;

fn get_many_at(state: &State, keys: &[Vec<u8>], at: Seq) -> Result<Vec<Option<Found>>> {
    let mut found: Vec<Option<Found>> = vec![None; keys.len()];
    let ring = state.ring();
    let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); ring.members().len()];
    for (i, key) in keys.iter().enumerate() {
        match state.memory.get(key, at) {
            Recent::Value(value) => found[i] = Some(value),
            Recent::Removed => {}
            Recent::Unknown => {
                let primary = ring.owner_indexes(ring.virtual_node(batch::user_key(key))).first().copied();
                by_shard.get_mut(usize::from(primary.unwrap_or(0))).into_iter().for_each(|keys| keys.push(i));
            }
        }
    }
    for indexes in &mut by_shard {
        // In key order neighbours share pages, which are in the processor's caches from the key before.
        indexes.sort_unstable_by(|a, b| keys[*a].cmp(&keys[*b]));
    }
    let read = |indexes: &[usize]| -> Result<Part> {
        indexes.iter().map(|i| Ok((*i, state.get_in_shards(&keys[*i], at)?))).collect()
    };
    let (large, small): (Vec<&Vec<usize>>, Vec<_>) =
        by_shard.iter().partition(|i| i.len() >= KEYS_PER_THREAD);
    // The caller's own thread takes one large part and all small ones.
    let (own, others) = large.split_at(large.len().min(1));
    let parts: Vec<Result<Part>> = crate::sync::thread::scope(|scope| {
        let read = &read;
        let threads: Vec<_> = others.iter().map(|indexes| scope.spawn(move || read(indexes))).collect();
        let mut parts: Vec<_> = own.iter().chain(&small).map(|indexes| read(indexes)).collect();
        parts.extend(threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked()))));
        parts
    });
    for part in parts {
        for (i, value) in part? {
            found[i] = value;
        }
    }
    Ok(found)
}

fn panicked() -> Error {
    Error::new(ErrorKind::Io, "a thread that read a shard panicked")
        .remedy("see the log for the panic's text")
}
