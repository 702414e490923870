//! A child process writes to a store and is killed by SIGKILL at a random moment, over and over, on one directory. The
//! parent reopens the store each time: every acknowledged write is there, and no batch by halves.
//!
//! In the second test the child changes the topology all the while.
//!
//! `ANNULUS_KILL_ROUNDS` sets the number of rounds (20 unless set, 12 in the second test), `ANNULUS_SEED` the moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{
    Durability, ErrorKind, KeyspaceId, Options, Phase, Seq, ShardId, ShardOptions, ShardRole, Store,
    WriteBatch, testing,
};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "ANNULUS_KILL_CHILD";
/// Set in a child that changes the topology: the seed of what it does.
const CHANGES: &str = "ANNULUS_KILL_CHANGES";
const WRITERS: u64 = 3;
const SLOTS: u64 = 64;
const BATCH: u64 = 24;

fn options() -> Options {
    // Little memory, so that flushes, rotations and trims run all the time.
    Options::new().shards(4).replication_factor(2).memory_budget(8 << 20).journal_segment_bytes(1 << 20)
}

/// The same for a store whose topology changes: the options say nothing of it once there is a store.
fn open(dir: &Path, changing: bool) -> annulus::Result<Store> {
    if !changing {
        return options().open(dir);
    }
    let options = Options::new().memory_budget(8 << 20).journal_segment_bytes(1 << 20);
    if dir.join("MANIFEST").exists() {
        return options.existing_only(true).open(dir);
    }
    options.shards(3).replication_factor(2).virtual_nodes(32).open(dir)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The value that operation `n` of `writer` writes: its number first, then bytes that follow from it.
fn value(writer: u64, n: u64) -> Vec<u8> {
    let length = match n % 97 {
        0 => 40_000,
        m if m < 10 => 3_000,
        m => m as usize,
    };
    let mut value = n.to_le_bytes().to_vec();
    value.extend((0..length as u64).map(|i| (i.wrapping_mul(n + 1) ^ writer) as u8));
    value
}

fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

/// Not a test by itself: the child of the test below.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let changes = std::env::var(CHANGES).ok().map(|seed| Random(seed.parse().unwrap()));
    let store = open(Path::new(&dir), changes.is_some()).unwrap();
    let log = store.keyspace("log").unwrap();
    let out = std::sync::Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        if let Some(mut random) = changes {
            let (store, dir) = (&store, Path::new(&dir));
            scope.spawn(move || {
                loop {
                    change(store, dir, &mut random);
                }
            });
        }
        for writer in 0..WRITERS {
            let (store, log, out) = (&store, &log, &out);
            scope.spawn(move || {
                let start = store.get(format!("last/{writer}")).unwrap().map_or(1, |v| number(&v) + 1);
                for n in start.. {
                    let bytes = value(writer, n);
                    let durability = if n % 5 == 0 { Durability::Sync } else { Durability::Process };
                    let mut batch = WriteBatch::new();
                    batch.insert(format!("last/{writer}"), &bytes);
                    if n % 3 == 0 {
                        for i in 0..BATCH {
                            batch.insert_in(log, format!("batch/{writer}/{i}"), n.to_le_bytes());
                        }
                    }
                    if n % 7 == 0 {
                        batch.remove(format!("slot/{writer}/{}", n % SLOTS));
                    } else {
                        batch.insert(format!("slot/{writer}/{}", n % SLOTS), &bytes);
                    }
                    store.commit_with(batch, durability).unwrap();
                    let mut out = out.lock().unwrap();
                    writeln!(out, "\nack {writer} {n}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

/// Makes one change of the topology, or meddles with the one that is under way.
fn change(store: &Store, dir: &Path, random: &mut Random) {
    for shard in store.topology().shards.iter().filter(|shard| shard.role == ShardRole::Retired) {
        // One that has just left may be waited for still.
        if let Err(error) = store.drop_shard(shard.id) {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        }
    }
    if store.change().is_none() && !begin(store, dir, random) {
        // Old copies of a change that was cancelled are being removed.
        std::thread::sleep(Duration::from_millis(2));
        return;
    }
    let Some(change) = store.change() else { return };
    let ended = |error: annulus::Error| {
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput), "{error}");
    };
    match random.below(8) {
        0 => {
            change.wait_for(Duration::from_millis(random.below(40))).unwrap();
            change.cancel().unwrap_or_else(ended);
        }
        1 => {
            change.pause().unwrap_or_else(ended);
            assert!(change.wait_for(Duration::from_millis(random.below(20))).is_ok());
            change.resume().unwrap_or_else(ended);
        }
        2 => change.set_rate(1 << (16 + random.below(8))).unwrap_or_else(ended),
        _ => {
            change.set_rate(None).unwrap_or_else(ended);
            change.wait().unwrap();
        }
    }
}

fn begin(store: &Store, dir: &Path, random: &mut Random) -> bool {
    let ring = store.ring();
    let members: Vec<ShardId> = ring.members().iter().map(|member| member.id).collect();
    let some = members[random.below(members.len() as u64) as usize];
    let paths = (0..).map(|n| dir.with_file_name(format!("added-{n}")));
    let new = || ShardOptions::new(paths.clone().find(|path| !path.exists()).unwrap());
    let plan = store.plan();
    let plan = match random.below(7) {
        0 | 1 if members.len() < 6 => plan.add_shard(new().weight(1.0 + random.below(2) as f64)),
        0 | 2 if members.len() > 2 => plan.drain_shard(some),
        3 => plan.replace_shard(some, new()),
        4 => plan.set_weight(some, 1.0 + random.below(3) as f64),
        5 if ring.virtual_nodes() < 256 => plan.set_virtual_nodes(ring.virtual_nodes() * 2),
        _ => plan.set_replication_factor(1 + random.below(3) as usize),
    };
    match store.apply(plan.preview().unwrap().accept_problems()) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            false
        }
    }
}

/// Runs the child for `life` after its first write, kills it, and returns the last acknowledged number of each writer.
fn run_child(dir: &Path, life: Duration, changes: Option<u64>) -> HashMap<u64, u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.envs(changes.map(|seed| (CHANGES, seed.to_string())));
    let mut child = command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acked = HashMap::new();
    let mut deadline = None;
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        // A line cut short by the kill acknowledges nothing.
        let words: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
        if line.ends_with('\n') && words[0] == "ack" {
            acked.insert(words[1].parse().unwrap(), words[2].parse().unwrap());
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + life);
            if Instant::now() >= deadline {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    let status = child.wait().unwrap();
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert!(
        !status.success() && !errors.contains("panicked"),
        "the child ended by itself: {status} {errors}"
    );
    acked
}

fn check(store: &Store, acked: &HashMap<u64, u64>) {
    let log = store.keyspace("log").unwrap();
    for writer in 0..WRITERS {
        let last = store.get(format!("last/{writer}")).unwrap();
        let there = last.as_deref().map_or(0, number);
        let acknowledged = acked.get(&writer).copied().unwrap_or(0);
        assert!(
            there == acknowledged || there == acknowledged + 1,
            "writer {writer}: {acknowledged} was acknowledged, {there} is there"
        );
        if let Some(last) = last {
            assert!(*last == *value(writer, there), "writer {writer}: the value of {there} is torn");
        }
        for slot in 0..SLOTS {
            // The newest operation on the slot up to the one that is there: batches are whole.
            let expected =
                (0..SLOTS).filter_map(|back| there.checked_sub(back)).find(|n| *n > 0 && n % SLOTS == slot);
            let expected = expected.filter(|n| n % 7 != 0).map(|n| value(writer, n));
            let found = store.get(format!("slot/{writer}/{slot}")).unwrap();
            assert!(
                found.as_deref() == expected.as_deref(),
                "writer {writer} at {there}: slot {slot} has {:?}, expected {:?}",
                found.as_deref().map(number),
                expected.as_deref().map(number)
            );
        }
        let expected = there - there % 3;
        for i in 0..BATCH {
            let found = log.get(format!("batch/{writer}/{i}")).unwrap().as_deref().map_or(0, number);
            assert_eq!(found, expected, "writer {writer} at {there}: half a batch");
        }
    }
}

/// Lets the change under way, and the removal of old copies, come to an end: every record is on its owners in its newest
/// version, and nowhere else.
fn check_placed(store: &Store) {
    if let Some(change) = store.change() {
        assert_eq!(change.wait().unwrap(), Phase::Completed);
    }
    while testing::change_step(store).unwrap() {}
    store.flush().unwrap();
    let (ring, log) = (store.ring(), store.keyspace("log").unwrap());
    for keyspace in [&**store, &log] {
        let content: BTreeMap<Vec<u8>, Seq> = keyspace
            .iter()
            .map(|item| item.unwrap().0)
            .map(|key| (key.to_vec(), keyspace.get_versioned(&key).unwrap().unwrap().1))
            .collect();
        for shard in ring.members() {
            let owned = |key: &[u8]| ring.preference_list(key).contains(&shard.id);
            let owned: Vec<_> = content.clone().into_iter().filter(|(key, _)| owned(key)).collect();
            let id: KeyspaceId = keyspace.id();
            let held = testing::held_by(store, id, shard.id).unwrap();
            assert!(held == owned, "shard {}: {} held, {} owned", shard.id, held.len(), owned.len());
        }
    }
}

fn number_of(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap())
}

fn run(rounds: u64, longest: u64, changing: bool) {
    let mut random = Random(number_of("ANNULUS_SEED", 1));
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut acked = HashMap::new();
    for round in 0..rounds {
        let life = Duration::from_millis(random.below(longest));
        let seed = changing.then(|| random.below(1 << 30));
        acked.extend(run_child(&dir, life, seed));
        let store = open(&dir, changing).unwrap_or_else(|e| panic!("round {round}: {e}"));
        check(&store, &acked);
        store.ring().check().unwrap();
        if round % 3 == 2 || round + 1 == rounds {
            check_placed(&store);
            check(&store, &acked);
        }
        for writer in 0..WRITERS {
            let there = store.get(format!("last/{writer}")).unwrap().as_deref().map_or(0, number);
            acked.insert(writer, there);
        }
        // Every other time the parent closes in order, or leaves the tail to the child's opening.
        if round % 2 == 0 {
            store.close().unwrap();
        }
        if round + 1 == rounds && changing {
            let epoch = store.topology().epoch.0;
            // On a slow machine a life is over before much has been changed.
            assert!(epoch > 3 + rounds / 8, "{epoch} epochs in {rounds} rounds");
        }
    }
    assert!(acked.values().sum::<u64>() > rounds, "hardly anything was written");
}

#[test]
fn every_acknowledged_write_survives_sigkill() {
    if std::env::var(CHILD).is_err() {
        run(number_of("ANNULUS_KILL_ROUNDS", 20), 700, false);
    }
}

#[test]
fn every_acknowledged_write_survives_sigkill_in_the_middle_of_changes() {
    if std::env::var(CHILD).is_err() {
        run(number_of("ANNULUS_KILL_ROUNDS", 12), 2000, true);
    }
}
