//! The store, what it must hold, and the steps.

use super::backups::Backups;
use super::faults::Doubt;
use super::{PATIENCE, SHORT, Shape, Step, Wish};
use annulus::testing::{self, Background, Fault, Gate, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{Durability, ErrorKind, Options, Range, Seq, ShardId, ShardOptions, Store, WriteBatch};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

pub type Commit = Vec<(Vec<u8>, Option<Vec<u8>>)>;
pub type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;
pub type Expected = VecDeque<(Vec<u8>, Vec<u8>)>;

pub struct World {
    pub disk: SimDisk,
    pub factory: MemoryFactory,
    pub options: Options,
    pub store: Option<Store>,
    pub dir: PathBuf,
    pub replicas: usize,
    /// Everything committed, in order: commit `i` has version `i + 1`.
    pub log: Vec<Commit>,
    pub process: usize,
    pub synced: usize,
    pub content: Content,
    pub iters: Vec<(Range, Expected)>,
    /// Shards that something has gone wrong with since all was well, and which of their small files was hit (the seal?).
    pub touched: BTreeMap<ShardId, Option<bool>>,
    /// Those of the disk that have not been taken back: a crash does not end them.
    pub disk_faults: Vec<Fault>,
    pub doubts: Vec<Doubt>,
    /// Whether a shard has left to which something has happened: it may fail to be closed.
    pub left_touched: bool,
    added: usize,
    pub backups: Backups,
    /// Whether calls of shards may hang, and where those do that were told to.
    pub may_hang: bool,
    pub gates: Vec<Gate>,
}

pub fn key(n: u8) -> Vec<u8> {
    let n = n % 160;
    vec![b'a' + n / 16, b'k', n]
}

/// The same as shards have it.
pub fn internal(n: u8) -> Vec<u8> {
    [&[0; 4][..], &key(n)].concat()
}

fn value(n: u8, length: u8) -> Vec<u8> {
    let length = match length {
        240.. => 90_000,
        215.. => 3_000,
        l => usize::from(l) / 4,
    };
    (0..length).map(|i| n.wrapping_add(i as u8)).collect()
}

/// What a log of commits comes to.
pub fn content_of(log: &[Commit]) -> Content {
    let mut content = Content::new();
    log.iter().enumerate().for_each(|(i, commit)| enter(&mut content, commit, Seq(i as u64 + 1)));
    content
}

fn enter(content: &mut Content, commit: &Commit, seq: Seq) {
    for (key, value) in commit {
        match value {
            Some(value) => content.insert(key.clone(), (value.clone(), seq)),
            None => content.remove(key),
        };
    }
}

impl World {
    pub fn new(shape: &Shape) -> World {
        let common = Options::new()
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .journal_retention(if shape.patient { 1 << 30 } else { 0 })
            .shard_timeout(if shape.may_hang { SHORT } else { PATIENCE });
        let created =
            common.clone().shards(shape.shards).replication_factor(shape.replicas).virtual_nodes(64);
        let mut world = World {
            disk: SimDisk::new(shape.seed),
            factory: MemoryFactory::new(),
            options: created,
            store: None,
            dir: "/store".into(),
            replicas: shape.replicas,
            log: Vec::new(),
            process: 0,
            synced: 0,
            content: Content::new(),
            iters: Vec::new(),
            touched: BTreeMap::new(),
            disk_faults: Vec::new(),
            doubts: Vec::new(),
            left_touched: false,
            added: 0,
            backups: Backups::new("/backup"),
            may_hang: shape.may_hang,
            gates: Vec::new(),
        };
        world.open();
        world.options = common;
        world
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn seams(&self) -> Seams {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        // What hangs can be left behind only by who has not begun it himself.
        let background = if self.may_hang { Background::Shards } else { Background::Off };
        Seams { disk, factory, background }
    }

    pub fn open(&mut self) {
        self.store = Some(testing::open(&self.dir, &self.options, self.seams()).unwrap());
        let last = self.store().stats().unwrap().last_seq.0 as usize;
        assert!(last <= self.log.len(), "{last} commits are there, {} were made", self.log.len());
        assert!(last >= self.process, "{last} commits are there, {} were acknowledged", self.process);
        self.log.truncate(last);
        (self.process, self.synced) = (last, self.synced.min(last));
        self.content = content_of(&self.log);
        self.check();
    }

    /// The process is gone, or the power: what the simulations keep is all there is.
    fn crash(&mut self, power_cut: Option<u64>) {
        // Nothing tells any more what is right where the figures are lost as well.
        if !self.doubts.is_empty() {
            self.recover();
        }
        self.iters.clear();
        match power_cut {
            Some(seed) => {
                self.disk = self.disk.crash(PowerCut { seed });
                self.factory.crash(seed);
                self.process = self.synced;
            }
            None => {
                self.disk = self.disk.kill();
                self.factory.kill();
            }
        }
        // In a process that is gone nothing hangs: it finds its engine dead.
        self.gates.drain(..).for_each(|gate| gate.release());
        self.store = None;
        self.disk_faults.iter().for_each(|fault| self.disk.inject(fault.clone()));
        self.open();
    }

    fn reopen(&mut self) {
        self.close_iters();
        let store = self.store.take().unwrap();
        if let Err(error) = store.close() {
            assert!(!self.touched.is_empty() || self.left_touched, "closing: {error}");
        }
        self.left_touched = false;
        drop(store);
        (self.process, self.synced) = (self.log.len(), self.log.len());
        self.open();
    }

    fn commit(&mut self, ops: &[(u8, Option<(u8, u8)>)], sync: bool) {
        let mut batch = WriteBatch::new();
        let mut commit = Commit::new();
        for (n, v) in ops {
            let (key, value) = (key(*n), v.map(|(n, length)| value(n, length)));
            match &value {
                Some(value) => batch.insert(&key, value),
                None => batch.remove(&key),
            };
            commit.push((key, value));
        }
        let durability = if sync { Durability::Sync } else { Durability::Process };
        let seq = self.store().commit_with(batch, durability).unwrap();
        assert_eq!(seq.0 as usize, self.log.len() + 1);
        enter(&mut self.content, &commit, seq);
        self.log.push(commit);
        self.process = self.log.len();
        if sync {
            self.synced = self.log.len();
        }
    }

    pub fn flush(&mut self) {
        self.store().flush().unwrap();
        (self.process, self.synced) = (self.log.len(), self.log.len());
    }

    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Commit(ops, sync) => self.commit(ops, *sync),
            Step::OpenIter(lo, hi) if self.iters.len() < 3 => {
                let (lo, hi) = (key(*lo).min(key(*hi)), key(*lo).max(key(*hi)));
                let due =
                    self.content.range(lo.clone()..hi.clone()).map(|(k, (v, _))| (k.clone(), v.clone()));
                self.iters.push((self.store().range(lo..hi), due.collect()));
            }
            Step::OpenIter(..) => {}
            Step::AdvanceIter(which, steps, back) => self.advance(*which, *steps, *back),
            Step::CloseIter(which) => {
                if !self.iters.is_empty() {
                    let which = usize::from(*which) % self.iters.len();
                    let (iter, due) = self.iters.swap_remove(which);
                    self.check_rest(iter, due);
                }
            }
            Step::Check => self.check(),
            Step::Freeze => testing::freeze(self.store()),
            Step::FlushOldest => {
                testing::flush_oldest(self.store()).unwrap();
            }
            Step::Flush => self.flush(),
            Step::Tick => testing::tick(self.store()).unwrap(),
            Step::Recount => {
                testing::recount(self.store()).unwrap();
            }
            Step::Reopen => self.reopen(),
            Step::Kill => self.crash(None),
            Step::PowerCut(seed) => self.crash(Some(*seed)),
            _ => self.take_care(step),
        }
    }

    /// Steps of what is done for the shards.
    fn take_care(&mut self, step: &Step) {
        match step {
            Step::Fault(which, harm) => self.harm(*which, harm),
            Step::Silent(which, what) => self.be_silent(*which, what),
            Step::TakeBack => self.take_back(),
            Step::Heal(count) => (0..*count).for_each(|_| {
                testing::heal_step(self.store()).unwrap();
            }),
            Step::Scrub(count) => self.scrub(*count),
            Step::Repair(which) => {
                if let Some(shard) = self.any_shard(*which) {
                    self.asked(self.store().repair(shard));
                }
            }
            Step::Rebuild(which) => {
                if let Some(shard) = self.victim(*which) {
                    self.touched.entry(shard).or_default();
                    self.asked(self.store().rebuild(shard));
                }
            }
            // Nothing would tell any more that it has lost something.
            Step::Compact(which) if self.doubts.is_empty() => {
                if let Some(shard) = self.any_shard(*which) {
                    self.asked(self.store().compact(shard));
                }
            }
            Step::Compact(_) => {}
            Step::Change(wishes) if self.doubts.is_empty() => self.change(wishes),
            Step::Change(_) => {}
            Step::ChangeSteps(count) => {
                for _ in 0..*count {
                    match testing::change_step(self.store()) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            // The directory of one that did not join in the end may still be one that fails.
                            let is_expected = !self.touched.is_empty() || !self.disk_faults.is_empty();
                            assert!(is_expected, "a step of the change: {error}");
                            break;
                        }
                    }
                }
                self.forget_those_that_left();
            }
            Step::CancelChange => {
                if let Some(change) = self.store().change()
                    && let Err(error) = change.cancel()
                {
                    let late = error.kind() == ErrorKind::InvalidInput;
                    assert!(late || !self.touched.is_empty(), "cancelling: {error}");
                }
                self.forget_those_that_left();
            }
            Step::Recover => self.recover(),
            Step::Checkpoint(full) => self.checkpoint(*full),
            Step::Prune(keep) => self.prune(*keep),
            Step::Restore { which, shards, replicas, move_in } => {
                self.restore(*which, usize::from(*shards), usize::from(*replicas), *move_in);
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn any_shard(&self, which: u8) -> Option<ShardId> {
        let shards = self.store().health().unwrap().shards;
        Some(shards[usize::from(which) % shards.len()].id)
    }

    fn asked(&self, outcome: annulus::Result<()>) {
        if let Err(error) = outcome {
            assert!(matches!(error.kind(), ErrorKind::Busy | ErrorKind::NotFound), "{error}");
        }
    }

    fn scrub(&mut self, count: u8) {
        self.store().scrub().unwrap();
        for _ in 0..count {
            if let Err(error) = testing::scrub_step(self.store()) {
                assert!(!self.touched.is_empty(), "a step of the scrub: {error}");
            }
        }
    }

    /// A shard that has left the ring is nobody's concern any more.
    pub fn forget_those_that_left(&mut self) {
        let shards: Vec<ShardId> = self.store().health().unwrap().shards.iter().map(|s| s.id).collect();
        self.left_touched |= self.touched.keys().any(|id| !shards.contains(id));
        self.touched.retain(|id, _| shards.contains(id));
    }

    fn change(&mut self, wishes: &[Wish]) {
        let mut members: Vec<ShardId> = self.store().ring().members().iter().map(|m| m.id).collect();
        let mut planner = self.store().plan();
        for wish in wishes {
            let pick = |n: &u8, members: &[ShardId]| members[usize::from(*n) % members.len()];
            let mut new_dir = || {
                self.added += 1;
                ShardOptions::new(format!("/added/{}", self.added))
            };
            planner = match wish {
                Wish::Add(zone, weight) if members.len() < 9 => {
                    planner.add_shard(new_dir().zone(format!("z{zone}")).weight(f64::from(*weight)))
                }
                Wish::Weight(n, weight) => planner.set_weight(pick(n, &members), f64::from(*weight)),
                Wish::Drain(n) if members.len() > self.replicas => {
                    let shard = pick(n, &members);
                    members.retain(|id| *id != shard);
                    planner.drain_shard(shard)
                }
                Wish::Replace(n) if members.len() > 1 => {
                    let shard = pick(n, &members);
                    members.retain(|id| *id != shard);
                    planner.replace_shard(shard, new_dir())
                }
                Wish::Double if self.store().ring().virtual_nodes() < 128 => {
                    planner.set_virtual_nodes(self.store().ring().virtual_nodes() * 2)
                }
                _ => planner,
            };
        }
        let begun = planner.preview().and_then(|plan| self.store().apply(plan.accept_problems()));
        match begun {
            Ok(_) => {}
            Err(error) => {
                let busy = error.kind() == ErrorKind::Busy;
                assert!(busy || !self.touched.is_empty(), "beginning a change: {error}");
            }
        }
        // The flush that comes first may have been all that was done, or not even that.
        self.flush();
    }
}
