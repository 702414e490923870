//! What goes on beside the histories: one shard after another dies in every way that a shard can, and is healed, and shards come, go
//! and are copied once more.

use super::random::Random;
use annulus::testing::{Disk, EngineOperation as Op, MemoryFactory, SimDisk};
use annulus::{ErrorKind, Planner, ShardId, ShardOptions, Store};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(150);
const OPERATIONS: [Op; 8] =
    [Op::Get, Op::Cursor, Op::Versions, Op::Apply, Op::Apply, Op::Sync, Op::Replace, Op::Close];

/// How often what has happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Troubles {
    pub failed: u32,
    pub panicked: u32,
    pub hung: u32,
    pub erased: u32,
    pub damaged: u32,
    pub moves: u32,
}

pub struct Trouble<'a> {
    pub store: &'a Store,
    pub disk: SimDisk,
    pub factory: MemoryFactory,
    pub random: Random,
    pub done: Troubles,
    added: u32,
}

impl<'a> Trouble<'a> {
    pub fn new(store: &'a Store, disk: SimDisk, factory: MemoryFactory, random: Random) -> Trouble<'a> {
        Trouble { store, disk, factory, random, done: Troubles::default(), added: 0 }
    }

    /// One thing goes wrong, or one change is made, and is over when this returns.
    pub fn step(&mut self) {
        let shards = self.store.health().unwrap().shards;
        let victim = &shards[self.random.below(shards.len() as u64) as usize];
        let (shard, dir) = (victim.id, victim.path.clone());
        let operation = OPERATIONS[self.random.below(OPERATIONS.len() as u64) as usize];
        let times = 1 + self.random.below(3) as u32;
        match self.random.below(12) {
            0 | 1 => {
                self.factory.fail_times(shard, operation, times);
                self.done.failed += 1;
                self.wait_a_little();
            }
            2 => {
                self.factory.fail(shard, operation);
                self.done.failed += 1;
                self.wait_a_little();
            }
            3 | 4 => {
                self.factory.panic_times(shard, operation, times);
                self.done.panicked += 1;
                self.wait_a_little();
            }
            5 => {
                let gate = self.factory.hang(shard, if times == 1 { Op::Sync } else { Op::Apply });
                self.done.hung += 1;
                self.wait_a_little();
                gate.release();
            }
            6 | 7 => self.erase(shard, dir),
            8 => {
                let key =
                    [&[0; 4][..], super::key(self.random.below(super::POOL) as usize).as_bytes()].concat();
                self.factory.corrupt_page(shard, &key, 2);
                self.done.damaged += 1;
                self.wait_a_little();
            }
            _ => self.change(),
        }
        self.factory.heal(shard);
        // What has failed in a flush that is under way is known when that is over.
        self.store.flush().unwrap();
        self.wait_until_good();
    }

    fn erase(&mut self, shard: ShardId, dir: PathBuf) {
        self.factory.erase(&dir);
        if Disk::remove_dir_all(&self.disk, &dir).is_ok() {
            let _ = Disk::sync_dir(&self.disk, dir.parent().unwrap());
        }
        self.done.erased += 1;
        self.wait_a_little();
        if let Err(error) = self.store.repair(shard) {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        }
    }

    fn change(&mut self) {
        let topology = self.store.topology();
        let members: Vec<ShardId> =
            self.store.health().unwrap().shards.iter().map(|shard| shard.id).collect();
        let planner: Planner = self.store.plan();
        let any = members[self.random.below(members.len() as u64) as usize];
        self.added += 1;
        let new = || ShardOptions::new(format!("/store/shards/more-{}", self.added));
        let planner = match self.random.below(4) {
            0 if members.len() < 7 => planner.add_shard(new()),
            1 if members.len() > 4 => planner.drain_shard(any),
            2 => planner.replace_shard(any, new()),
            _ => planner.set_replication_factor(if topology.replication_factor == 2 { 3 } else { 2 }),
        };
        let change = match self.store.apply(planner.preview().unwrap().accept_problems()) {
            Ok(change) => change,
            // A shard is not drained while it is being rid of what an earlier change took from it.
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        };
        if self.random.below(4) == 0 {
            self.wait_a_little();
            // What serves already, or is over, is not taken back.
            if let Err(error) = change.cancel() {
                let kinds = [ErrorKind::InvalidInput, ErrorKind::Stale, ErrorKind::NotFound];
                assert!(kinds.contains(&error.kind()), "{error}");
            }
        }
        change.wait().unwrap();
        self.done.moves += 1;
    }

    fn wait_a_little(&mut self) {
        std::thread::sleep(Duration::from_millis(1 + self.random.below(30)));
    }

    /// Once more shards were to die than replicas stand for, errors would be right; one is over before the next.
    fn wait_until_good(&self) {
        let begun = Instant::now();
        while !self.store.health().unwrap().is_good() || self.store.change().is_some() {
            assert!(begun.elapsed() < LIMIT, "not healed: {:#?}", self.store.health().unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
