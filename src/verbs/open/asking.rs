//! What an opening asks of the file systems that shards lie on, before the shards themselves are opened.
//!
//! Invariant: all are asked at once, each by a thread of its own, and waited for no longer than a shard may take for a step: one that hangs keeps
//! the store from being opened without its shard no more than one that is broken.

use crate::disk::Disk;
use crate::error::Result;
use crate::ids::ShardId;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::shard::{Worker, paths};
use crate::state::Seams;
use crate::sync::atomic::AtomicU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Asks file systems.
pub struct Asking {
    disk: Arc<dyn Disk>,
    background: bool,
    limit: Duration,
}

impl Asking {
    pub fn new(seams: &Seams, options: &Options) -> Asking {
        let limit = options.shard_timeout_or_default();
        Asking { disk: seams.disk.clone(), background: seams.background.has_workers(), limit }
    }

    /// What is found in each of these directories; none where that does not answer.
    pub fn each<T: Send + 'static>(
        &self,
        dirs: &[PathBuf],
        find: impl Fn(&dyn Disk, &Path) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let begin = |(id, dir): (u32, &PathBuf)| {
            let (disk, dir, find) = (self.disk.clone(), dir.clone(), find.clone());
            // Where no thread can be had for it the caller asks himself.
            let start = |background| Worker::start(ShardId(id), background);
            let worker = start(self.background).or_else(|_| start(false)).ok()?;
            let ticket = worker.run(move || Ok(find(disk.as_ref(), &dir)));
            Some((worker, ticket))
        };
        let asked: Vec<_> = (0..).zip(dirs).map(begin).collect();
        let end = |asked: Option<(Worker, _)>| {
            let (worker, ticket) = asked?;
            worker.wait(&ticket, self.limit, &AtomicU64::new(0)).ok()
        };
        asked.into_iter().map(end).collect()
    }

    /// Where shards' directories really lie, of a store in `dir`, which is `base` with links resolved; of those that do not answer, where they did
    /// when they were made.
    pub fn where_they_lie(&self, dir: &Path, base: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
        let dirs: Vec<PathBuf> = manifest.shards.iter().map(|shard| dir.join(&shard.path)).collect();
        let found = self.each(&dirs, paths::resolve);
        let known = found.into_iter().zip(&manifest.shards);
        known.map(|(found, shard)| found.unwrap_or_else(|| Ok(base.join(&shard.path)))).collect()
    }

    /// What is found in one.
    pub fn one<T: Send + 'static>(
        &self,
        dir: &Path,
        find: impl Fn(&dyn Disk, &Path) -> T + Clone + Send + 'static,
    ) -> Option<T> {
        self.each(&[dir.to_path_buf()], find).pop().flatten()
    }
}
