//! Taking up what an interrupted process has left of a change of the topology.
//!
//! Invariant: shards are opened by a manifest of which nothing is rolled back any more; what is to be cleared is not among them.

use super::asking::Asking;
use super::copies::{self, Read};
use crate::disk::Disk;
use crate::error::Result;
use crate::manifest::{ChangeStep, Manifest, ShardState};
use crate::shard::identity::Identity;
use crate::shard::paths;
use crate::shard::{Shard, ShardSpec};
use std::path::{Path, PathBuf};

/// The manifest without a change whose shards were still being made: they are given up. Nothing is changed on the disk.
pub fn rolled_back(mut manifest: Manifest) -> Manifest {
    if manifest.change.as_ref().is_some_and(|change| change.step == ChangeStep::Preparing) {
        manifest.change = None;
        let joining = manifest.shards.iter_mut().filter(|entry| entry.state == ShardState::Joining);
        joining.for_each(|entry| entry.state = ShardState::Abandoned);
    }
    manifest
}

/// Rolls back what is to be, and clears the directories of shards that were given up. Nothing is cleared where a shard has a newer
/// manifest than was `read`: by that one it may have joined. What is returned is to be stored, if it is not what is there.
pub fn take_up(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    read: Read<'_>,
    asking: &Asking,
) -> Result<Manifest> {
    let mut next = rolled_back(manifest.clone());
    let dirs: Vec<PathBuf> = next.shards.iter().map(|entry| dir.join(&entry.path)).collect();
    let store = dir.to_path_buf();
    let find = move |disk: &dyn Disk, shard: &Path| {
        // Only a directory that is there says where it lies.
        let identity = copies::known(Identity::load(disk, shard))?;
        Ok(identity.map(|identity| (identity, paths::is_on_another_disk(disk, &store, shard))))
    };
    let found = asking.each(&dirs, find).into_iter().map(Option::transpose).collect::<Result<Vec<_>>>()?;
    for ((entry, place), found) in next.shards.iter_mut().zip(&dirs).zip(&found) {
        if let Some(Some((identity, own_disk))) = found {
            read.check_identity(place, identity)?;
            entry.own_disk = *own_disk;
        }
    }
    let mut answered = found.iter().map(Option::is_some);
    next.shards.retain(|entry| {
        let answers = answered.next().unwrap_or(false);
        if entry.state != ShardState::Abandoned || !answers {
            return true;
        }
        let cleared = Shard::clear(disk, &ShardSpec::of(dir, manifest, entry, 0));
        // Its disk may be away: it is tried again at the next opening.
        cleared
            .inspect_err(|e| log::warn!("shard {} did not join and is not cleared: {e}", entry.id))
            .is_err()
    });
    Ok(next)
}
