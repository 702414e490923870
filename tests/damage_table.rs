//! What damage to the files of a closed store of 5,000 records comes to, beside a sled database of the same records: what
//! opening and a full read then did. With two replicas: nothing missing, nothing wrong, no panic, no failed opening, all healed.
//!
//! `ANNULUS_DAMAGE_TRIALS` sets how often each kind is tried (3); with more than that the figures are those of
//! docs/RELIABILITY.md, as a table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/live.rs"]
mod live;

use annulus::{Options, ShardId, Store};
use common::copy;
use live::{Random, number, seed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const RECORDS: u32 = 5000;
const SHARDS: u32 = 3;

fn key(n: u32) -> [u8; 20] {
    let mut key = [b'k'; 20];
    key[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    key
}

fn value(n: u32) -> Vec<u8> {
    (0..100u32).map(|i| (n.wrapping_mul(31).wrapping_add(i) >> 2) as u8).collect()
}

fn options() -> Options {
    Options::new()
        .shards(SHARDS as usize)
        .replication_factor(2)
        .memory_budget(8 << 20)
        .journal_segment_bytes(256 << 10)
}

/// What is done to a closed store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Nothing,
    Truncated,
    TailCut,
    Garbage,
    Zeroed,
    Misplaced,
    FlippedFresh,
    FlippedReopened,
    Metadata,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Nothing, "none"),
    (Kind::Truncated, "file truncated at random"),
    (Kind::TailCut, "its last bytes cut off"),
    (Kind::Garbage, "512 bytes of garbage"),
    (Kind::Zeroed, "4 KiB zeroed"),
    (Kind::Misplaced, "block written in the wrong place"),
    (Kind::FlippedFresh, "one bit flipped, fresh data"),
    (Kind::FlippedReopened, "one bit flipped, after a reopening"),
    (Kind::Metadata, "metadata flipped or cut"),
];

/// The files that hold data, and those that say what they mean.
fn files(dir: &Path, metadata: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_data = matches!(name.as_str(), "db" | "pages") || name.starts_with("snap");
        match path.is_dir() {
            true => found.extend(files(&path, metadata)),
            false if is_data != metadata && std::fs::metadata(&path).unwrap().len() > 0 => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// Damages one file below `dir`; a place with something in it, since nobody minds what befalls zeros that nobody reads.
fn damage(dir: &Path, kind: Kind, random: &mut Random) -> String {
    let found = files(dir, kind == Kind::Metadata);
    let path = &found[random.below(found.len())];
    let mut bytes = std::fs::read(path).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |last| last + 1);
    let at = random.below(used);
    match kind {
        Kind::Nothing => return "no damage".into(),
        Kind::Truncated => bytes.truncate(at),
        Kind::TailCut => bytes.truncate(used - 1 - random.below(used.min(100))),
        Kind::Garbage => {
            let end = (at + 512).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8);
        }
        Kind::Zeroed => {
            let end = (at + 4096).min(bytes.len());
            bytes[at..end].fill(0);
        }
        Kind::Misplaced => {
            let length = 512.min(used / 2).max(1);
            let from = random.below(used - length);
            let block = bytes[from..from + length].to_vec();
            let to = at.min(bytes.len() - length);
            bytes[to..to + length].copy_from_slice(&block);
        }
        Kind::Metadata if random.below(2) == 0 => bytes.truncate(at),
        Kind::FlippedFresh | Kind::FlippedReopened | Kind::Metadata => bytes[at] ^= 1 << random.below(8),
    }
    std::fs::write(path, bytes).unwrap();
    format!("{kind:?} of {} at {at}", path.strip_prefix(dir).unwrap().display())
}

/// How a trial ended, from the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Wrong,
    Missing,
    Panic,
    Error,
    Whole,
}

/// Reads every record, and judges.
fn read(get: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, String>) -> Outcome {
    let mut worst = Outcome::Whole;
    for n in 0..RECORDS {
        worst = worst.min(match get(&key(n)) {
            Ok(Some(found)) if found == value(n) => Outcome::Whole,
            Ok(Some(_)) => Outcome::Wrong,
            Ok(None) => Outcome::Missing,
            Err(_) => Outcome::Error,
        });
    }
    worst
}

fn sled_at(dir: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(dir).cache_capacity(8 << 20).flush_every_ms(None).open()
}

fn fill_sled(dir: &Path) {
    let db = sled_at(dir).unwrap();
    for n in 0..RECORDS {
        db.insert(key(n), value(n)).unwrap();
    }
    db.flush().unwrap();
    drop(db);
    // Its threads end a little later than its last handle.
    let file = std::fs::File::options().write(true).open(dir.join("db")).unwrap();
    while file.try_lock().is_err() {
        std::thread::yield_now();
    }
}

/// Waits for sled's lock: it lets go of it a little after its last handle.
fn reopen_sled(dir: &Path) -> sled::Result<sled::Db> {
    loop {
        match sled_at(dir) {
            Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                std::thread::yield_now()
            }
            opened => return opened,
        }
    }
}

fn try_sled(dir: &Path) -> Outcome {
    let run = || match reopen_sled(dir) {
        Ok(db) => read(|key| db.get(key).map(|v| v.map(|v| v.to_vec())).map_err(|e| e.to_string())),
        Err(_) => Outcome::Error,
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Outcome::Panic)
}

fn expect_healed(store: &Store, what: &str) {
    let (mut events, begun) = (store.events(), std::time::Instant::now());
    while !store.health().unwrap().is_good() {
        events.next_within(std::time::Duration::from_millis(20));
        assert!(begun.elapsed().as_secs() < 150, "{what}: not healed: {:#?}", store.health().unwrap());
    }
    let ring = store.ring();
    for shard in store.health().unwrap().shards {
        let held = annulus::testing::held_by(store, annulus::KeyspaceId(0), shard.id).unwrap();
        let due = (0..RECORDS).filter(|n| ring.preference_list(key(*n)).contains(&shard.id)).count();
        assert_eq!(held.len(), due, "{what}: shard {}", shard.id);
    }
}

/// Ours: one shard of three is damaged.
fn try_ours(dir: &Path, what: &str) -> Outcome {
    let run = || {
        let store = match options().open(dir) {
            Ok(store) => store,
            Err(_) => return Outcome::Error,
        };
        let outcome = read(|key| store.get(key).map(|v| v.map(|v| v.to_vec())).map_err(|e| e.to_string()));
        let scanned = store.iter().filter(|item| item.is_ok()).count();
        assert_eq!(scanned, RECORDS as usize, "{what}");
        for shard in 0..SHARDS {
            store.repair(ShardId(shard)).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        expect_healed(&store, what);
        store.close().unwrap();
        outcome
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Outcome::Panic)
}

#[test]
fn no_damage_to_one_shard_is_ever_seen() {
    let trials = number("ANNULUS_DAMAGE_TRIALS", 3);
    let seed = seed("damage");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let (fresh, reopened, bad) = (place("fresh"), place("reopened"), place("bad"));
    let (sled_fresh, sled_reopened, sled_bad) = (place("s-fresh"), place("s-reopened"), place("s-bad"));
    let store = options().open(&fresh).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    store.close().unwrap();
    drop(store);
    copy(&fresh, &reopened);
    options().open(&reopened).unwrap().close().unwrap();
    fill_sled(&sled_fresh);
    copy(&sled_fresh, &sled_reopened);
    drop(reopen_sled(&sled_reopened).unwrap());
    let mut rows = Vec::new();
    let quiet = std::panic::take_hook();
    let is_verbose = std::env::var("ANNULUS_VERBOSE").is_ok();
    std::panic::set_hook(Box::new(move |info| {
        // sled's panics are what is counted here, in its own threads too.
        if is_verbose || info.location().is_some_and(|l| l.file().contains("damage_table")) {
            eprintln!("{info}");
        }
    }));
    for (kind, name) in KINDS {
        let (mut plain, mut ours) = ([0; 5], [0; 5]);
        for _ in 0..trials {
            let is_fresh = kind != Kind::FlippedReopened;
            copy(if is_fresh { &sled_fresh } else { &sled_reopened }, &sled_bad);
            damage(&sled_bad, kind, &mut random);
            let outcome = try_sled(&sled_bad);
            assert!(kind != Kind::Nothing || outcome == Outcome::Whole, "sled, undamaged: {outcome:?}");
            plain[outcome as usize] += 1;
            copy(if is_fresh { &fresh } else { &reopened }, &bad);
            let shard = bad.join(format!("shards/{:04}", random.below(SHARDS as usize)));
            let what = damage(&shard, kind, &mut random);
            let outcome = try_ours(&bad, &what);
            assert!(outcome == Outcome::Whole, "{what}: {outcome:?}");
            ours[outcome as usize] += 1;
        }
        rows.push((name, plain, ours));
    }
    std::panic::set_hook(quiet);
    println!(
        "| damage | trials | plain sled: silently missing | panic | error | nothing lost | Annulus, R = 2: missing, panic, error | all there, and healed |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for (name, plain, ours) in rows {
        let [wrong, missing, panic, error, whole] = plain;
        assert_eq!(wrong, 0, "sled returned a wrong value");
        let bad: i32 = ours[..4].iter().sum();
        println!("| {name} | {trials} | {missing} | {panic} | {error} | {whole} | {bad} | {} |", ours[4]);
    }
}
