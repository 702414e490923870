//! Checkpoints of a store whose shards fail, and stores that are made of them.

use super::world::{Commit, Content, World, content_of};
use annulus::testing::{self, Disk, MemoryFactory, Seams};
use annulus::{BackupRepository, CheckpointId, CheckpointOptions, Retention, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A repository, and the commits that each of its checkpoints must come back as.
pub struct Backups {
    dir: PathBuf,
    taken: BTreeMap<CheckpointId, Vec<Commit>>,
    restored: usize,
}

impl Backups {
    pub fn new(dir: &str) -> Backups {
        Backups { dir: dir.into(), taken: BTreeMap::new(), restored: 0 }
    }
}

impl World {
    fn repository(&self) -> BackupRepository {
        testing::repository(Arc::new(self.disk.clone()), &self.backups.dir).unwrap()
    }

    pub fn checkpoint(&mut self, full: bool) {
        // Of what is lost without a word a checkpoint is as silent as a scan.
        if !self.doubts.is_empty() {
            return;
        }
        let options = CheckpointOptions::new().full(full);
        match self.store().checkpoint_with(&self.repository(), options) {
            Ok(id) => {
                assert!(self.backups.taken.keys().all(|before| *before < id));
                self.backups.taken.insert(id, self.log.clone());
            }
            Err(error) => assert!(!self.touched.is_empty(), "a checkpoint: {error}"),
        }
    }

    pub fn prune(&mut self, keep: u8) {
        self.repository().prune(Retention::keep_last(usize::from(keep))).unwrap();
        while self.backups.taken.len() > usize::from(keep) {
            self.backups.taken.pop_first();
        }
    }

    pub fn restore(&mut self, which: u8, shards: usize, replicas: usize, move_in: bool) {
        let count = self.backups.taken.len().max(1);
        let Some((id, log)) = self.backups.taken.iter().nth(usize::from(which) % count) else { return };
        let (id, log) = (*id, log.clone());
        self.backups.restored += 1;
        let dir = PathBuf::from(format!("/restored/{}", self.backups.restored));
        let factory = MemoryFactory::new();
        let store = self.make(id, &dir, &factory, shards, replicas);
        assert!(content(&store) == content_of(&log), "checkpoint {id} over {shards} shards");
        store.close().unwrap();
        drop(store);
        if move_in {
            self.move_into(dir, factory, log, replicas);
        } else {
            Disk::remove_dir_all(&self.disk, &dir).unwrap();
        }
    }

    fn make(
        &self,
        id: CheckpointId,
        dir: &Path,
        factory: &MemoryFactory,
        shards: usize,
        replicas: usize,
    ) -> Store {
        let seams = Seams { factory: Arc::new(factory.clone()), ..self.seams() };
        let restore = self.repository().restore(id).unwrap().options(self.options.clone());
        let restore = restore.shards(shards).replication_factor(replicas);
        testing::restore(restore, dir, seams).unwrap()
    }

    /// The old store is given up with all that was wrong with it.
    fn move_into(&mut self, dir: PathBuf, factory: MemoryFactory, log: Vec<Commit>, replicas: usize) {
        self.take_back();
        self.iters.clear();
        drop(self.store.take());
        (self.dir, self.factory, self.replicas) = (dir, factory, replicas);
        (self.process, self.synced) = (log.len(), log.len());
        self.log = log;
        self.touched.clear();
        self.doubts.clear();
        self.left_touched = false;
        self.backups.dir = format!("/backup-{}", self.backups.restored).into();
        self.backups.taken.clear();
        self.open();
    }

    /// Every checkpoint is what it was when it was taken, whatever has happened since.
    pub fn check_backups(&mut self) {
        let repository = self.repository();
        let listed: Vec<CheckpointId> = repository.list().unwrap().iter().map(|c| c.id).collect();
        assert_eq!(listed, self.backups.taken.keys().copied().collect::<Vec<_>>());
        let verified = repository.verify_all().unwrap();
        assert!(verified.is_whole(), "{:?}", verified.damage);
        for which in 0..self.backups.taken.len() as u8 {
            self.restore(which, 3 + usize::from(which) % 4, 2, false);
        }
    }
}

fn content(store: &Store) -> Content {
    let versioned = |item: annulus::Result<(annulus::Bytes, annulus::Bytes)>| {
        let (key, value) = item.unwrap();
        let (_, seq) = store.get_versioned(&key).unwrap().unwrap();
        (key.to_vec(), (value.to_vec(), seq))
    };
    store.iter().map(versioned).collect()
}
