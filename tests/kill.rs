//! A child process writes to a store and is killed by SIGKILL at a random moment, over and over, on one directory. The
//! parent reopens the store each time: every acknowledged write is there, and no batch by halves.
//!
//! `ANNULUS_KILL_ROUNDS` sets the number of rounds (20 unless set), `ANNULUS_SEED` the moments.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{Durability, Options, Store, WriteBatch};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "ANNULUS_KILL_CHILD";
const WRITERS: u64 = 3;
const SLOTS: u64 = 64;
const BATCH: u64 = 24;

fn options() -> Options {
    // Little memory, so that flushes, rotations and trims run all the time.
    Options::new().shards(4).replication_factor(2).memory_budget(8 << 20).journal_segment_bytes(1 << 20)
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
    let store = options().open(dir).unwrap();
    let log = store.keyspace("log").unwrap();
    let out = std::sync::Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
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

/// Runs the child for `life` after its first write, kills it, and returns the last acknowledged number of each writer.
fn run_child(dir: &Path, life: Duration) -> HashMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
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

#[test]
fn every_acknowledged_write_survives_sigkill() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let rounds = number("ANNULUS_KILL_ROUNDS", 20);
    let mut random = number("ANNULUS_SEED", 1);
    let dir = tempfile::tempdir().unwrap();
    let mut acked = HashMap::new();
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let life = Duration::from_millis((random >> 33) % 700);
        for (writer, n) in run_child(dir.path(), life) {
            acked.insert(writer, n);
        }
        let store = options().open(dir.path()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        check(&store, &acked);
        for writer in 0..WRITERS {
            let there = store.get(format!("last/{writer}")).unwrap().as_deref().map_or(0, self::number);
            acked.insert(writer, there);
        }
        // Every other time the parent closes in order, or leaves the tail to the child's opening.
        if round % 2 == 0 {
            store.close().unwrap();
        }
    }
    assert!(acked.values().sum::<u64>() > rounds, "hardly anything was written");
}
