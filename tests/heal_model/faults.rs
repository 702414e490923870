//! What goes wrong with a shard.

use super::world::{World, internal};
use annulus::testing::{self, Disk, EngineOperation as Op, Fault, Operation};
use annulus::{Seq, ShardId};
use proptest::prelude::*;
use std::io::ErrorKind;
use std::path::PathBuf;

pub const OPERATIONS: [Op; 11] = [
    Op::Open,
    Op::Get,
    Op::Cursor,
    Op::Versions,
    Op::Apply,
    Op::Replace,
    Op::Sync,
    Op::Verify,
    Op::Damaged,
    Op::Recount,
    Op::Close,
];

const DISK: [Operation; 9] = [
    Operation::Look,
    Operation::Read,
    Operation::Create,
    Operation::Write,
    Operation::Write,
    Operation::Sync,
    Operation::Rename,
    Operation::Remove,
    Operation::SyncDir,
];

const ERRORS: [ErrorKind; 4] =
    [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];

/// The shard's own small files: what the first letter stands for.
const FILES: [&str; 3] = ["SEAL", "IDENTITY", ""];

#[derive(Debug, Clone)]
pub enum Harm {
    Fails(usize),
    FailsTimes(usize, u8),
    Panics(usize, u8),
    /// Only where a store has threads that it can leave behind.
    Hangs(usize),
    Key(u8),
    Page(u8, u8),
    /// Operations of the disk on one of the shard's own files.
    Disk {
        operation: usize,
        error: usize,
        file: usize,
        after: u8,
        times: Option<u8>,
        short: bool,
    },
    /// One of the two small files is overwritten, cut off or removed.
    Small {
        seal: bool,
        how: u8,
    },
    Erased,
}

impl Harm {
    fn name(&self) -> &'static str {
        match self {
            Harm::Fails(_) => "fails",
            Harm::FailsTimes(..) => "times",
            Harm::Panics(..) => "panics",
            Harm::Hangs(_) => "hangs",
            Harm::Key(_) => "key",
            Harm::Page(..) => "page",
            Harm::Disk { .. } => "disk",
            Harm::Small { .. } => "small",
            Harm::Erased => "erased",
        }
    }
}

pub fn harm() -> impl Strategy<Value = Harm> {
    let operation = 0..OPERATIONS.len();
    prop_oneof![
        3 => operation.clone().prop_map(Harm::Fails),
        3 => (operation.clone(), 1..4u8).prop_map(|(o, n)| Harm::FailsTimes(o, n)),
        3 => (operation, 1..4u8).prop_map(|(o, n)| Harm::Panics(o, n)),
        2 => any::<u8>().prop_map(Harm::Key),
        2 => (any::<u8>(), 1..5u8).prop_map(|(n, around)| Harm::Page(n, around)),
        5 => (0..DISK.len(), 0..ERRORS.len(), 0..FILES.len(), 0..4u8, prop::option::of(1..4u8), any::<bool>())
            .prop_map(|(operation, error, file, after, times, short)| Harm::Disk {
                operation, error, file, after, times, short
            }),
        2 => (any::<bool>(), any::<u8>()).prop_map(|(seal, how)| Harm::Small { seal, how }),
        1 => Just(Harm::Erased),
    ]
}

pub fn hanging() -> impl Strategy<Value = Harm> {
    (0..OPERATIONS.len()).prop_map(Harm::Hangs)
}

/// A key of which a shard holds, without a word, what it held once.
pub struct Doubt {
    pub key: Vec<u8>,
    /// How much had been committed by then.
    pub made: usize,
}

impl World {
    /// The shard that something may go wrong with: one more, or one of those that it has gone wrong with already.
    pub fn victim(&self, which: u8) -> Option<ShardId> {
        let shards: Vec<ShardId> = self.store().health().unwrap().shards.iter().map(|s| s.id).collect();
        let open = self.touched.len() + 1 < self.replicas;
        let picked = match open {
            true => shards.get(usize::from(which) % shards.len()).copied(),
            false => self.touched.keys().nth(usize::from(which) % self.touched.len().max(1)).copied(),
        };
        picked.filter(|_| self.doubts.is_empty())
    }

    pub fn dir(&self, shard: ShardId) -> PathBuf {
        self.store().health().unwrap().shards.iter().find(|s| s.id == shard).unwrap().path.clone()
    }

    pub fn harm(&mut self, which: u8, harm: &Harm) {
        if std::env::var("ANNULUS_HEAL_MODEL_HARM").is_ok_and(|only| !only.contains(harm.name())) {
            return;
        }
        let Some(shard) = self.victim(which) else { return };
        self.touched.entry(shard).or_default();
        let dir = self.dir(shard);
        match harm {
            Harm::Fails(o) => self.factory.fail(shard, OPERATIONS[*o]),
            Harm::FailsTimes(o, n) => self.factory.fail_times(shard, OPERATIONS[*o], u32::from(*n)),
            Harm::Panics(o, n) => self.factory.panic_times(shard, OPERATIONS[*o], u32::from(*n)),
            Harm::Hangs(o) => self.gates.push(self.factory.hang(shard, OPERATIONS[*o])),
            Harm::Key(n) => self.factory.corrupt(shard, &internal(*n)),
            Harm::Page(n, around) => {
                self.factory.corrupt_page(shard, &internal(*n), usize::from(*around));
            }
            Harm::Disk { operation, error, file, after, times, short } => {
                let file = FILES[*file];
                let mut fault = Fault::on(DISK[*operation])
                    .at(move |path| {
                        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        path.starts_with(&dir) && name.starts_with(file)
                    })
                    .after(u64::from(*after))
                    .times(times.map_or(u64::MAX, u64::from))
                    .error(ERRORS[*error]);
                if *short {
                    fault = fault.short();
                }
                self.disk_faults.push(fault.clone());
                self.disk.inject(fault);
            }
            Harm::Small { seal, how } => {
                // Of a directory that neither says whose it is, it is left to a human to decide.
                let hit = self.touched.get_mut(&shard).unwrap();
                if hit.is_some_and(|was| was != *seal) {
                    return;
                }
                *hit = Some(*seal);
                let path = dir.join(if *seal { "SEAL" } else { "IDENTITY" });
                let _ = match how % 4 {
                    0 => Disk::remove_file(&self.disk, &path).and_then(|()| Disk::sync_dir(&self.disk, &dir)),
                    1 => self.disk.damage(&path, |bytes| bytes.truncate(usize::from(*how) / 4)),
                    2 => self.disk.damage(&path, |bytes| bytes.fill(*how)),
                    _ => self.disk.damage(&path, |bytes| {
                        let at = usize::from(*how) * 7 % bytes.len().max(1);
                        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
                    }),
                };
            }
            Harm::Erased => {
                self.factory.erase(&dir);
                if Disk::remove_dir_all(&self.disk, &dir).is_ok() {
                    let _ = Disk::sync_dir(&self.disk, dir.parent().unwrap());
                }
            }
        }
    }

    /// A shard loses keys, or goes back in time, without a word; nothing else is wrong meanwhile.
    pub fn be_silent(&mut self, which: u8, what: &[(u8, u8)]) {
        let quiet = self.touched.is_empty() || !self.doubts.is_empty();
        if !quiet || self.store().change().is_some() || !self.store().health().unwrap().is_good() {
            return;
        }
        self.close_iters();
        self.flush();
        // A compaction counts anew what it copies: it is over before.
        for _ in 0..3000 {
            if !testing::heal_step(self.store()).unwrap() {
                break;
            }
        }
        // As the background does at once after an opening: before that nothing tells what is right.
        while testing::recount(self.store()).unwrap() {}
        let shards = self.store().health().unwrap().shards;
        let shard = match self.touched.keys().next() {
            Some(shard) => *shard,
            None => shards[usize::from(which) % shards.len()].id,
        };
        for (n, how) in what {
            let key = internal(*n);
            let earlier: Vec<(Seq, Option<Vec<u8>>)> = self.history(&key[4..]);
            if earlier.is_empty() || !self.store().ring().preference_list(&key[4..]).contains(&shard) {
                continue;
            }
            self.touched.entry(shard).or_default();
            match how % 3 {
                0 => self.factory.forge(shard, &key, &[]),
                1 => {
                    let (seq, value) = &earlier[usize::from(*how) % earlier.len()];
                    let versions = value.as_deref().map(|value| (*seq, Some(value)));
                    self.factory.forge(shard, &key, versions.as_slice());
                }
                _ => {
                    self.factory.turn_back(shard, &key);
                }
            }
            self.doubts.push(Doubt { key: key[4..].to_vec(), made: self.log.len() });
        }
    }

    /// What fails does so no longer, on every shard and in every way.
    pub fn take_back(&mut self) {
        for shard in self.store().health().unwrap().shards {
            OPERATIONS.iter().for_each(|o| self.factory.fail_times(shard.id, *o, 0));
        }
        for shard in self.touched.keys() {
            OPERATIONS.iter().for_each(|o| self.factory.fail_times(*shard, *o, 0));
        }
        self.gates.drain(..).for_each(|gate| gate.release());
        self.disk_faults.clear();
        self.disk.heal();
    }
}
