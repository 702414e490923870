//! What file systems say of places: where a directory really lies, on which file system, and how much is free there.
//!
//! Invariant: each place is asked by a thread of its own, so one that hangs (a network mount) holds up nobody longer than he says;
//! while it has not answered nobody asks there again.

use super::Worker;
use super::paths;
use crate::disk::{Disk, FreeSpace};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The answer of a file system.
#[derive(Debug)]
pub struct Place {
    /// The absolute path with links resolved.
    pub real: PathBuf,
    pub space: Option<FreeSpace>,
}

/// Those who have asked and not been answered.
#[derive(Debug, Default)]
pub struct Places(Mutex<Vec<(PathBuf, Worker)>>);

impl Places {
    /// Asks for all directories at once, of shards that there are or are to be, and waits for `limit` in all.
    pub fn ask(
        &self,
        disk: &Arc<dyn Disk>,
        dirs: &[(ShardId, PathBuf)],
        background: bool,
        limit: Duration,
    ) -> Vec<Result<Place>> {
        let begin = |(shard, dir): &(ShardId, PathBuf)| {
            if self.is_silent(dir) {
                return Err(silence(*shard, dir));
            }
            let worker = Worker::start(*shard, background)?;
            let (disk, of) = (disk.clone(), dir.clone());
            let ticket = worker.run(move || {
                let real = paths::resolve(disk.as_ref(), &of)?;
                let space = disk.space(&real).unwrap_or_default();
                Ok(Place { real, space })
            });
            Ok((worker, ticket))
        };
        let asked: Vec<_> = dirs.iter().map(begin).collect();
        let end = |(asked, (shard, dir)): (Result<_>, &(ShardId, PathBuf))| {
            let (worker, ticket): (Worker, _) = asked?;
            let answer = worker.wait(&ticket, limit, &AtomicU64::new(0));
            match worker.is_stuck() {
                true => {
                    self.0.lock().push((dir.clone(), worker));
                    Err(silence(*shard, dir))
                }
                false => answer,
            }
        };
        asked.into_iter().zip(dirs).map(end).collect()
    }

    /// Whether somebody still waits for an answer from there.
    fn is_silent(&self, dir: &Path) -> bool {
        let mut unanswered = self.0.lock();
        unanswered.retain(|(_, worker)| worker.is_stuck());
        unanswered.iter().any(|(path, _)| path == dir)
    }
}

fn silence(shard: ShardId, dir: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, "the file system of the shard's directory does not answer")
        .at(dir)
        .on(shard)
        .remedy("look at its disk, or the network it is mounted over, and the kernel log")
}
