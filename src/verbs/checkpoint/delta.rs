//! A checkpoint on top of another: what has become of the keys that were written since.

use super::Taking;
use crate::backup::checkpoint::{Body, CheckpointId, KeyspaceLayers};
use crate::backup::chunk::ChunkRecord;
use crate::backup::repository::BackupRepository;
use crate::batch;
use crate::error::{ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::manifest::KeyspaceEntry;
use crate::state::State;
use crate::state::changed::{KeyCursor, KeyRun};
use std::sync::Arc;

/// How many layers a checkpoint has at most: a restore reads all of them side by side, a chunk of each.
const LAYERS: usize = 9;
/// A base is built upon as long as no more than one key in so many has been written since, and the layers above the first
/// are no more than such a part of it.
const PART: u64 = 4;

/// An earlier checkpoint, and the keys that were written since.
pub struct Base {
    body: Body,
    runs: Vec<Arc<KeyRun>>,
}

/// The checkpoint to build upon, if there is one that is worth it.
pub fn base(state: &State, repository: &BackupRepository, at: Seq) -> Option<Base> {
    let known = state.changed.base(repository.id)?;
    // Any failure here only means that everything is read. In a copy of the repository the number may be another's.
    let body = repository.load_known(CheckpointId(known.number), known.hash).ok()??;
    if body.seq > at || !body.keyspaces.iter().all(has_room) {
        return None;
    }
    // What is in a table now is in it or in a run afterwards.
    state.memory.freeze();
    state.signals.want_flush();
    let tables = state.memory.frozen_tables().tables;
    let mut runs = state.changed.since(body.seq)?;
    for table in tables.iter().filter(|table| table.max_seq().is_some_and(|newest| newest > body.seq)) {
        runs.push(Arc::new(KeyRun::of(table)));
    }
    let records: u64 = body.keyspaces.iter().flat_map(|k| &k.layers).map(|layer| layer.records).sum();
    let count = |run: &Arc<KeyRun>| {
        let mut cursor = run.clone().cursor(body.seq);
        std::iter::from_fn(|| cursor.advance().then_some(())).count() as u64
    };
    let changed: u64 = runs.iter().map(count).sum();
    (changed <= records / PART).then_some(Base { body, runs })
}

fn has_room(keyspace: &KeyspaceLayers) -> bool {
    let Some((first, rest)) = keyspace.layers.split_first() else { return true };
    let above: u64 = rest.iter().map(|layer| layer.records).sum();
    keyspace.layers.len() < LAYERS && above <= first.records / PART
}

/// Keys of several runs in one order, each once.
struct Keys {
    runs: Vec<KeyCursor>,
    key: Vec<u8>,
}

impl Keys {
    fn new(runs: &[Arc<KeyRun>], base: Seq) -> Keys {
        let mut runs: Vec<KeyCursor> = runs.iter().map(|run| run.clone().cursor(base)).collect();
        runs.retain_mut(KeyCursor::advance);
        Keys { runs, key: Vec::new() }
    }

    fn next(&mut self) -> Option<&[u8]> {
        let least = self.runs.iter().map(KeyCursor::key).min()?;
        self.key.clear();
        self.key.extend_from_slice(least);
        let key = &self.key;
        self.runs.retain_mut(|run| run.key() != key.as_slice() || run.advance());
        Some(&self.key)
    }
}

impl Taking<'_> {
    /// Lays what has been written since `base` over it.
    pub fn on(&mut self, base: &Base, keyspaces: Vec<KeyspaceEntry>) -> Result<Vec<KeyspaceLayers>> {
        let known = |id: KeyspaceId| {
            let keyspace = base.body.keyspaces.iter().find(|keyspace| keyspace.id == id);
            keyspace.filter(|keyspace| !keyspace.layers.is_empty())
        };
        let mut keys = Keys::new(&base.runs, base.body.seq);
        let mut key = keys.next().map(<[u8]>::to_vec);
        let mut taken = Vec::with_capacity(keyspaces.len());
        for entry in keyspaces {
            let Some(before) = known(entry.id) else {
                taken.extend(self.all(vec![entry])?);
                continue;
            };
            let mut gone = false;
            while let Some(next) = key.as_mut().filter(|key| batch::keyspace_of(key) <= entry.id) {
                if batch::keyspace_of(next) == entry.id && !gone {
                    match self.put_newest(next, base.body.seq) {
                        Ok(()) => {}
                        Err(error) if self.is_for_a_drop(entry.id, &error) => gone = true,
                        Err(error) => return Err(error),
                    }
                }
                match keys.next() {
                    Some(following) => {
                        next.clear();
                        next.extend_from_slice(following);
                    }
                    None => key = None,
                }
            }
            // Looked at after reading: a keyspace that still exists had not lost a record by then.
            match self.state.check_keyspace(entry.id) {
                Err(error) if error.kind() == ErrorKind::NotFound => self.writer.drop_layer()?,
                other => {
                    other?;
                    let layer = self.writer.end_layer(self.at)?;
                    let mut layers = before.layers.clone();
                    self.writer.written.shared += layers.iter().map(|layer| layer.bytes).sum::<u64>();
                    layers.extend((layer.records > 0).then_some(layer));
                    taken.push(KeyspaceLayers { id: entry.id, name: entry.name, layers });
                }
            }
            self.pace.after(&self.writer.written)?;
        }
        Ok(taken)
    }

    fn put_newest(&mut self, key: &[u8], base: Seq) -> Result<()> {
        let found = self.state.get_at(key, self.at)?;
        // Written since, by a commit that is after the snapshot: as of it nothing has changed.
        if found.as_ref().is_some_and(|found| found.seq <= base) {
            return Ok(());
        }
        let (seq, value) = match &found {
            Some(found) => (found.seq, Some(found.value.as_ref())),
            None => (self.at, None),
        };
        if self.writer.push(ChunkRecord { key: batch::user_key(key), seq, value })? {
            self.pace.after(&self.writer.written)?;
        }
        Ok(())
    }
}
