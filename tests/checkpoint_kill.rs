//! A child process takes checkpoints, prunes and restores beside writers, and is killed by SIGKILL at a random moment, over and over on one
//! store and one repository. The parent looks each time: every checkpoint that was acknowledged is there and whole, and keeps what
//! belongs together; a directory that was being restored into is whole or no store.
//!
//! `ANNULUS_KILL_ROUNDS` sets the number of rounds (12 unless set), `ANNULUS_SEED` the moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{
    BackupRepository, CheckpointId, CheckpointOptions, ErrorKind, Options, Retention, Store, WriteBatch,
};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "ANNULUS_CHECKPOINT_KILL_CHILD";
const SLOTS: u64 = 4_000;

fn options() -> Options {
    Options::new().shards(3).replication_factor(2).memory_budget(8 << 20).journal_segment_bytes(1 << 20)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Every batch writes one number under two keys and in two keyspaces.
fn write(store: &Store, random: &mut Random) {
    let n = random.below(1 << 40);
    let slot = random.below(SLOTS);
    let mirror = store.keyspace("mirror").unwrap();
    let value: Vec<u8> = n.to_le_bytes().iter().copied().cycle().take(40 + (n % 200) as usize).collect();
    let mut batch = WriteBatch::new();
    batch.insert(format!("slot/{slot}"), &value);
    batch.insert_in(&mirror, format!("{slot}/mirrored"), &value);
    store.commit(batch).unwrap();
}

fn check(store: &Store) -> u64 {
    let mirror = store.keyspace("mirror").unwrap();
    let mut records = 0;
    for item in store.iter() {
        let (key, value) = item.unwrap();
        let slot = std::str::from_utf8(&key).unwrap().strip_prefix("slot/").unwrap();
        assert_eq!(mirror.get(format!("{slot}/mirrored")).unwrap(), Some(value), "slot {slot}");
        records += 1;
    }
    assert_eq!(mirror.len().unwrap(), records);
    records
}

/// Not a test by itself: the child of the test below.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let mut random = Random(std::env::var("ANNULUS_SEED").unwrap().parse().unwrap());
    let store = options().open(dir.join("live")).unwrap();
    let repo = BackupRepository::open(dir.join("backup")).unwrap();
    let say = |what: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{what}").unwrap();
        out.flush().unwrap();
    };
    std::thread::scope(|scope| {
        let store = &store;
        for writer in 0..2 {
            let mut random = Random(random.0 ^ (writer + 1) << 17);
            scope.spawn(move || {
                loop {
                    write(store, &mut random);
                }
            });
        }
        for round in 0.. {
            let options = CheckpointOptions::new().full(random.below(4) == 0);
            let id = store.checkpoint_with(&repo, options).unwrap();
            say(format!("took {id}"));
            if random.below(3) == 0 {
                let pruned = repo.prune(Retention::keep_last(3)).unwrap();
                say(format!("pruned {}", pruned.checkpoints.iter().map(|c| c.0).max().unwrap_or(0)));
            }
            if random.below(2) == 0 {
                let new = dir.join(format!("new-{round}-{}", random.below(1 << 30)));
                drop(repo.restore(id).unwrap().memory_for_tests().open(new).unwrap());
            }
        }
    });
}

trait Small {
    fn memory_for_tests(self) -> Self;
}

impl Small for annulus::Restore {
    fn memory_for_tests(self) -> Self {
        self.options(Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(1 << 20))
    }
}

#[test]
fn checkpoints_prunes_and_restores_survive_being_killed() {
    let rounds: u64 = std::env::var("ANNULUS_KILL_ROUNDS").map_or(12, |v| v.parse().unwrap());
    let seed = std::env::var("ANNULUS_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
        |v| v.parse().unwrap(),
    );
    println!("ANNULUS_SEED={seed}");
    let mut random = Random(seed);
    let mut place = tempfile::tempdir().unwrap();
    place.disable_cleanup(std::env::var("ANNULUS_KEEP").is_ok());
    let dir = place.path();
    let store = options().open(dir.join("live")).unwrap();
    (0..3_000).for_each(|_| write(&store, &mut random));
    drop(store);
    let (mut acknowledged, mut unfinished, mut finished) = (BTreeSet::new(), 0, 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir)
            .env("ANNULUS_SEED", random.below(1 << 30).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (life, begun) = (Duration::from_millis(150 + random.below(1_200)), Instant::now());
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<String>>());
        while begun.elapsed() < life {
            std::thread::sleep(Duration::from_millis(5));
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            if let Some(id) = line.strip_prefix("took ") {
                acknowledged.insert(CheckpointId(id.parse().unwrap()));
            } else if let Some(id) = line.strip_prefix("pruned ") {
                let id = id.parse().unwrap();
                acknowledged.retain(|checkpoint| checkpoint.0 > id);
            }
        }
        let repo = BackupRepository::open(dir.join("backup")).unwrap();
        let found: Vec<CheckpointId> = repo.list().unwrap().iter().map(|c| c.id).collect();
        // A prune that was not acknowledged may have taken some of the oldest; it kept the last three.
        let newest: Vec<&CheckpointId> = acknowledged.iter().rev().take(3).collect();
        assert!(newest.iter().all(|id| found.contains(id)), "round {round}: {found:?}, {acknowledged:?}");
        acknowledged.retain(|id| found.contains(id));
        let verified = repo.verify_all().unwrap();
        assert!(verified.is_whole(), "round {round}: {:?}", verified.damage);
        if let Some(id) = found.get(random.below(found.len().max(1) as u64) as usize) {
            let new = dir.join("checked");
            let store = repo.restore(*id).unwrap().memory_for_tests().open(&new).unwrap();
            assert!(check(&store) > 1_000);
            drop(store);
            std::fs::remove_dir_all(new).unwrap();
        }
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_str().unwrap().starts_with("new-") {
                continue;
            }
            match Options::new().memory_budget(8 << 20).existing_only(true).open(&path) {
                Ok(store) => {
                    finished += 1;
                    assert!(check(&store) > 1_000);
                }
                Err(error) => {
                    unfinished += 1;
                    let kinds = [ErrorKind::Refused, ErrorKind::NotFound];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    // There again, on top of what is left.
                    if let Some(id) = found.last() {
                        let store = repo.restore(*id).unwrap().memory_for_tests().open(&path).unwrap();
                        assert!(check(&store) > 1_000);
                    }
                }
            }
            std::fs::remove_dir_all(path).unwrap();
        }
        check(&options().open(dir.join("live")).unwrap());
    }
    println!("{finished} restores done, {unfinished} interrupted, {} checkpoints left", acknowledged.len());
}
