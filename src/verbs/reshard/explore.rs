//! What is asked of file systems before a change is planned or begun.
//!
//! Invariant: it is asked before any lock is taken, and waited for no longer than a shard may take; what those that do not answer
//! would say of room is not known, and a shard that joins on one is refused.

use crate::disk::FreeSpace;
use crate::error::Result;
use crate::ids::ShardId;
use crate::manifest::{Manifest, ShardEntry, ShardState};
use crate::plan::Request;
use crate::shard::{Place, paths};
use crate::state::State;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the file systems have said.
#[derive(Debug)]
pub struct Explored {
    /// The store's own directory, with links resolved.
    base: PathBuf,
    device: Option<u64>,
    places: BTreeMap<PathBuf, Result<Place>>,
    joining: Vec<PathBuf>,
}

/// Asks for the directories of all shards, and of those that are to join.
pub fn explore(state: &State, requests: &[Request]) -> Result<Explored> {
    let disk = &state.seams.disk;
    // Where the manifest lies: that one hangs with everything else.
    let base = paths::resolve(disk.as_ref(), &state.dir)?;
    let device = disk.space(&base).ok().flatten().map(|space| space.device);
    let (there, next) = {
        let manifest = state.written();
        let entries = manifest.shards.iter();
        let there: Vec<_> = entries.map(|entry| (entry.id, state.dir.join(&entry.path))).collect();
        (there, manifest.next_shard)
    };
    let new = requests.iter().filter_map(|request| match request {
        Request::AddShard(options) | Request::ReplaceShard(_, options) => Some(options.path.clone()),
        _ => None,
    });
    let joining: Vec<_> = (next..=u32::MAX).map(ShardId).zip(new.clone()).collect();
    let mut places = BTreeMap::new();
    for (dirs, limit) in [(joining, state.settings.shard_timeout), (there, state.patience())] {
        let answers = state.change.places.ask(disk, &dirs, state.seams.background.has_workers(), limit);
        places.extend(dirs.into_iter().map(|(_, dir)| dir).zip(answers));
    }
    Ok(Explored { base, device, places, joining: new.collect() })
}

impl Explored {
    /// The file system of a directory, and what is free there, as far as that is known.
    pub fn space(&self, dir: &Path) -> Option<FreeSpace> {
        self.places.get(dir)?.as_ref().ok()?.space
    }

    /// Where a directory of a shard that there is really lies; of one that does not answer, where it did when the shard was made.
    pub fn real(&self, dir: &Path, kept: &Path) -> PathBuf {
        match self.places.get(dir) {
            Some(Ok(place)) => place.real.clone(),
            _ => self.base.join(kept),
        }
    }

    /// A shard that was given up, and whose directory, not cleared yet, is where one is to join.
    pub fn left_behind<'a>(&self, state: &State, manifest: &'a Manifest) -> Option<&'a ShardEntry> {
        let given_up = |entry: &&ShardEntry| entry.state == ShardState::Abandoned;
        manifest.shards.iter().filter(given_up).find(|entry| {
            let left = self.real(&state.dir.join(&entry.path), &entry.path);
            let joins = |dir| {
                self.places
                    .get(dir)
                    .is_some_and(|place| place.as_ref().is_ok_and(|p| paths::overlap(&p.real, &left)))
            };
            self.joining.iter().any(joins)
        })
    }

    /// Where the shards that join are to lie, as the manifest keeps it, and whether that is on another file system than the store's.
    pub fn place(&self, taken: Vec<PathBuf>, joining: &[(ShardId, PathBuf)]) -> Result<Vec<(PathBuf, bool)>> {
        let mut asked = Vec::with_capacity(joining.len());
        let mut own = Vec::with_capacity(joining.len());
        for (_, dir) in joining {
            // Those of a plan have been asked.
            if let Some(place) = self.places.get(dir) {
                let place = place.as_ref().map_err(Clone::clone)?;
                asked.push((dir.as_path(), place.real.clone()));
                own.push(place.space.zip(self.device).is_some_and(|(space, store)| space.device != store));
            }
        }
        Ok(paths::place(&self.base, taken, &asked)?.into_iter().zip(own).collect())
    }
}
