//! Changes of the topology at moments that no test driving whole steps can reach: a gate holds one operation of one shard
//! while everything else goes on.

mod begun;
mod flushes;
mod gate;
mod mends;
mod readers;
mod sweeps;

use self::gate::{At, Gated, Gates};
use super::{Step, begin, step};
use crate::disk::{Fault, RealDisk, SimDisk};
use crate::engine::{MemoryFactory, MemoryOperation, SledFactory};
use crate::error::{Error, ErrorKind};
use crate::ids::{KeyspaceId, Seq, ShardId};
use crate::manifest::ChangeStep;
use crate::options::{Durability, Options, ShardOptions};
use crate::record::RunRecord;
use crate::shard::seal::Seal;
use crate::state::change::{Mover, Phase};
use crate::state::healing::Wish;
use crate::state::{Background, Seams, State};
use crate::store::Store;
use crate::testing;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const KEYS: u32 = 300;
/// The shard that most tests drain: flushes come to it last, since without background threads they go by index.
const LAST: ShardId = ShardId(3);
/// How long something is watched that must not happen.
const NEVER: Duration = Duration::from_millis(150);

type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    gates: Gates,
}

impl World {
    fn new() -> World {
        World { disk: SimDisk::new(1), factory: MemoryFactory::new(), gates: Gates::default() }
    }

    fn open(&self, options: Options) -> Store {
        let factory = Gated { inner: Arc::new(self.factory.clone()), gates: self.gates.clone() };
        let seams = Seams {
            disk: Arc::new(self.disk.clone()),
            factory: Arc::new(factory),
            background: Background::Off,
        };
        let options = options.memory_budget(8 << 20).journal_segment_bytes(256 << 10);
        testing::open(Path::new("/store"), &options, seams).unwrap()
    }

    /// Four shards with everything in them and nothing in memory.
    fn filled(&self, replicas: usize) -> (Store, Content) {
        let store = self.open(Options::new().shards(4).replication_factor(replicas).virtual_nodes(64));
        let mut content = Content::new();
        (0..KEYS).for_each(|n| put(&store, &mut content, n, "first"));
        store.flush().unwrap();
        (store, content)
    }
}

fn state(store: &Store) -> &State {
    &store.handle.state
}

fn key(n: u32) -> Vec<u8> {
    format!("key/{n:05}").into_bytes()
}

fn put(store: &Store, content: &mut Content, n: u32, value: &str) {
    let seq = store.insert(key(n), value).unwrap();
    content.insert(key(n), (value.as_bytes().to_vec(), seq));
}

fn remove(store: &Store, content: &mut Content, n: u32) {
    store.remove(key(n)).unwrap();
    content.remove(&key(n));
}

/// Removes a third of the keys and writes another third anew.
fn stir(store: &Store, content: &mut Content, value: &str) {
    for n in 0..KEYS {
        match n % 3 {
            0 => remove(store, content, n),
            1 => put(store, content, n, value),
            _ => {}
        }
    }
}

/// Gives every key 64 KiB, so that what a shard moves is several chunks.
fn enlarge(store: &Store, content: &mut Content) {
    let large = "x".repeat(64 << 10);
    for n in 0..KEYS {
        put(store, content, n, &large);
        if n % 20 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
}

fn drain(store: &Store, shard: ShardId) {
    store.apply(store.plan().drain_shard(shard).preview().unwrap()).unwrap();
}

/// A key that a shard is the first to be asked for.
fn key_of(store: &Store, shard: ShardId) -> Vec<u8> {
    (0..KEYS).map(key).find(|key| store.ring().preference_list(key)[0] == shard).unwrap()
}

fn held(store: &Store, shard: ShardId) -> Vec<(Vec<u8>, Seq)> {
    testing::held_by(store, KeyspaceId(0), shard).unwrap()
}

fn check_reads(store: &Store, content: &Content) {
    let found: Vec<_> =
        store.iter().map(|item| item.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    let expected: Vec<_> = content.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
    for n in 0..KEYS {
        let found = store.get_versioned(key(n)).unwrap().map(|(v, seq)| (v.to_vec(), seq));
        assert_eq!(found.as_ref(), content.get(&key(n)), "key {n}");
    }
}

fn check_placed(store: &Store, content: &Content) {
    store.flush().unwrap();
    let ring = store.ring();
    for shard in ring.members() {
        let owned = content.iter().filter(|(key, _)| ring.preference_list(key).contains(&shard.id));
        let owned: Vec<_> = owned.map(|(key, (_, seq))| (key.clone(), *seq)).collect();
        let held = held(store, shard.id);
        assert_eq!(held.len(), owned.len(), "shard {}", shard.id);
        assert!(held == owned, "shard {}", shard.id);
    }
}

/// No shard holds what has been removed, or an old version: also those whose copies nobody asks for yet.
fn check_nothing_old(store: &Store, content: &Content) {
    for shard in &state(store).layout().shards {
        for (key, seq) in held(store, shard.id) {
            let newest = content.get(&key).map(|(_, seq)| *seq);
            assert_eq!(newest, Some(seq), "{} on shard {}", String::from_utf8_lossy(&key), shard.id);
        }
    }
}

fn settle(store: &Store) {
    for _ in 0..10_000 {
        if !testing::change_step(store).unwrap() {
            assert!(store.change().is_none());
            return;
        }
    }
    panic!("it does not come to an end");
}

fn step_to(store: &Store, phase: Phase) {
    let change = store.change().unwrap();
    while change.progress().phase != phase {
        assert!(testing::change_step(store).unwrap());
    }
}

/// Copies all, and compares nothing yet.
fn copy_all(store: &Store) {
    let step = || state(store).manifest.lock().change.as_ref().map(|change| change.step);
    while step() != Some(ChangeStep::Verifying) {
        assert!(testing::change_step(store).unwrap());
    }
}
