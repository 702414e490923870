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
    let found = found?;
    if found.is_none() {
        // Looked at after reading: a keyspace that still exists had not lost a record by then.
        state.check_keyspace(batch::keyspace_of(key))?;
    }
    Ok(found)
}

/// The values of many internal keys, in their order, all as of one moment.
pub fn get_many(state: &State, keys: &[Vec<u8>]) -> Result<Vec<Option<Found>>> {
    state.check_open()?;
    let snapshot = state.memory.snapshot();
    let found = get_many_at(state, keys, snapshot.at)?;
    drop(snapshot);
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
    let own = || own.iter().chain(&small).map(|indexes| read(indexes)).collect::<Vec<Result<Part>>>();
    let (own, others) = crate::sync::side_by_side(others, |indexes| read(indexes), own);
    for part in own.into_iter().chain(others.into_iter().map(|part| part.unwrap_or_else(|| Err(panicked()))))
    {
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

#[cfg(test)]
mod tests {
    use crate::disk::SimDisk;
    use crate::engine::MemoryFactory;
    use crate::options::Options;
    use crate::state::{Background, Seams};
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn many_keys_are_read_where_no_thread_can_be_had() {
        crate::sync::NO_THREADS.set(true);
        let seams = Seams {
            disk: Arc::new(SimDisk::new(1)),
            factory: Arc::new(MemoryFactory::new()),
            background: Background::On,
        };
        let options = Options::new().shards(4).replication_factor(2).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let keys: Vec<String> = (0..1000).map(|n| format!("key {n}")).collect();
        for key in &keys {
            store.insert(key, key.as_bytes()).unwrap();
        }
        store.flush().unwrap();
        let found = store.get_many(&keys).unwrap();
        assert!(found.iter().zip(&keys).all(|(found, key)| found.as_deref() == Some(key.as_bytes())));
        assert_eq!(store.stats().unwrap().snapshots, 0);
    }
}
