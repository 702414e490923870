//! Real damage to the files of a closed store: with two replicas nothing is missing and nothing is wrong; with one there
//! is an error that names the place. Never a panic, never a wrong value, never a silent loss.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::testing::{self, Background, Disk, Fault, MemoryFactory, Operation, Seams, SimDisk};
use annulus::{ErrorKind, Heal, Health, Options, Store};
use common::copy;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RECORDS: u32 = 3000;

fn options(replicas: usize) -> Options {
    Options::new()
        .shards(3)
        .replication_factor(replicas)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
        .page_bytes(1024)
}

fn key(n: u32) -> String {
    format!("key/{:08x}", n.wrapping_mul(0x9e37_79b9))
}

fn value(n: u32) -> Vec<u8> {
    let length = if n.is_multiple_of(500) { 20_000 } else { n as usize % 200 };
    (0..length).map(|i| (i as u32 ^ n) as u8).collect()
}

fn fill(dir: &Path, replicas: usize, flush: bool) {
    let store = options(replicas).open(dir).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    if flush {
        store.close().unwrap();
    }
}

/// Reads everything in every way, and expects all of it.
fn expect_whole(store: &Store) {
    for n in 0..RECORDS {
        assert!(store.get(key(n)).unwrap().as_deref() == Some(&value(n)[..]), "record {n}");
    }
    let mut expected: Vec<(Vec<u8>, u32)> = (0..RECORDS).map(|n| (key(n).into_bytes(), n)).collect();
    expected.sort();
    let mut found = 0;
    for (item, (key, n)) in store.iter().zip(&expected) {
        let (k, v) = item.unwrap();
        assert!(k == *key && v == value(*n), "the scan has something else than record {n}");
        found += 1;
    }
    assert_eq!(found, RECORDS);
    assert_eq!(store.iter().rev().filter(|i| i.is_ok()).count(), RECORDS as usize);
}

/// Waits until the store has healed itself, and looks into every copy of every record.
fn expect_healed(store: &Store) {
    let mut events = store.events();
    let begun = std::time::Instant::now();
    while !store.health().unwrap().is_good() {
        events.next_within(std::time::Duration::from_millis(50));
        assert!(begun.elapsed().as_secs() < 150, "not healed: {:?}", store.health().unwrap());
    }
    store.flush().unwrap();
    let ring = store.ring();
    for shard in store.health().unwrap().shards {
        let held = annulus::testing::held_by(store, annulus::KeyspaceId(0), shard.id).unwrap();
        let due = (0..RECORDS).filter(|n| ring.preference_list(key(*n)).contains(&shard.id)).count();
        let ours = held.iter().filter(|(key, _)| key.starts_with(b"key/")).count();
        assert_eq!(ours, due, "shard {}", shard.id);
    }
}

/// Reads everything; whatever comes is right, or an error.
fn expect_right_or_error(store: &Store) -> (u32, u32) {
    let (mut right, mut errors) = (0, 0);
    for n in 0..RECORDS {
        match store.get(key(n)) {
            Ok(Some(found)) => {
                assert!(found == value(n), "record {n} is wrong");
                right += 1;
            }
            Ok(None) => panic!("record {n} is silently missing"),
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unavailable | ErrorKind::Io),
                    "{error:?}"
                );
                errors += 1;
            }
        }
    }
    let mut last = None;
    for item in store.iter() {
        match item {
            Ok((k, _)) => last = Some(k),
            Err(_) => return (right, errors),
        }
    }
    assert!(errors == 0 || last.is_none(), "a scan passed over what gets cannot read");
    (right, errors)
}

fn shard(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("shards/{n:04}"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The kinds of damage that are done to one file.
fn damage(path: &Path, kind: u32, seed: u64) -> bool {
    let mut bytes = std::fs::read(path).unwrap();
    if bytes.is_empty() {
        return false;
    }
    let at = (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) >> 20) as usize % bytes.len();
    let end = bytes.len();
    match kind {
        0 => bytes[at] ^= 1 << (seed % 8),
        1 => bytes.truncate(at),
        2 => bytes.clear(),
        3 => bytes[at..(at + 4096).min(end)].fill(0),
        4 => bytes[at..(at + 512).min(end)].iter_mut().for_each(|b| *b = b.wrapping_mul(31).wrapping_add(7)),
        5 => {
            let from = (at / 2).min(end.saturating_sub(512));
            let block = bytes[from..(from + 512).min(end)].to_vec();
            let to = at.min(end - block.len());
            bytes[to..to + block.len()].copy_from_slice(&block);
        }
        _ => return std::fs::remove_file(path).is_ok(),
    }
    std::fs::write(path, bytes).unwrap();
    true
}

#[test]
fn any_file_of_one_shard_may_be_damaged_in_any_way() {
    let rounds: u64 = std::env::var("ANNULUS_DAMAGE_ROUNDS").map_or(2, |r| r.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    fill(&good, 2, true);
    let names: Vec<PathBuf> =
        files(&shard(&good, 1)).into_iter().map(|p| p.strip_prefix(&good).unwrap().to_path_buf()).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        for kind in 0..7 {
            for round in 0..rounds {
                copy(&good, &bad);
                if !damage(&bad.join(name), kind, round * 7919 + u64::from(kind)) {
                    continue;
                }
                let store = options(2).open(&bad).unwrap_or_else(|e| {
                    panic!("{} with damage {kind} of round {round}: {e}", name.display())
                });
                expect_whole(&store);
                // The store goes on: what is written now is there as well.
                store.insert("after", b"the damage").unwrap();
                store.flush().unwrap();
                assert_eq!(store.get("after").unwrap().as_deref(), Some(&b"the damage"[..]));
                // Damage that nobody has met yet is met by asking for it.
                store.repair(annulus::ShardId(1)).unwrap();
                expect_healed(&store);
            }
        }
    }
}

#[test]
fn a_shard_may_be_gone_emptied_swapped_or_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad, other) = (dir.path().join("good"), dir.path().join("bad"), dir.path().join("other"));
    fill(&good, 2, true);
    fill(&other, 2, true);
    let cases: [(&str, &dyn Fn()); 4] = [
        ("gone", &|| std::fs::remove_dir_all(shard(&bad, 2)).unwrap()),
        ("emptied", &|| {
            std::fs::remove_dir_all(shard(&bad, 2)).unwrap();
            std::fs::create_dir(shard(&bad, 2)).unwrap();
        }),
        ("foreign", &|| copy(&shard(&other, 2), &shard(&bad, 2))),
        ("its engine gone", &|| std::fs::remove_dir_all(shard(&bad, 2).join("engine")).unwrap()),
    ];
    for (name, change) in cases {
        copy(&good, &bad);
        change();
        let before = if shard(&bad, 2).exists() { files(&shard(&bad, 2)) } else { Vec::new() };
        let store = options(2).heal(Heal::Manual).open(&bad).unwrap_or_else(|e| panic!("{name}: {e}"));
        expect_whole(&store);
        let stats = store.stats().unwrap();
        assert!(matches!(stats.shards[2].health, Health::Offline(_)), "{name}: {:?}", stats.shards[2].health);
        assert!(!stats.warnings.is_empty(), "{name}");
        drop(store);
        let after = if shard(&bad, 2).exists() { files(&shard(&bad, 2)) } else { Vec::new() };
        assert_eq!(before, after, "{name}: an offline shard's directory was touched");
        // Left to itself, the store heals what is its own.
        let store = options(2).open(&bad).unwrap_or_else(|e| panic!("{name}: {e}"));
        expect_whole(&store);
        if name != "foreign" {
            expect_healed(&store);
            drop(store);
            expect_whole(&options(2).open(&bad).unwrap());
            continue;
        }
        let refused = store.repair(annulus::ShardId(2)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Foreign, "{refused}");
        drop(store);
        assert_eq!(after, files(&shard(&bad, 2)), "another store's shard was touched");
    }
    // Two shards swapped are both offline: with two replicas of three shards that is one too many.
    copy(&good, &bad);
    std::fs::rename(shard(&bad, 1), shard(&bad, 9)).unwrap();
    std::fs::rename(shard(&bad, 2), shard(&bad, 1)).unwrap();
    std::fs::rename(shard(&bad, 9), shard(&bad, 2)).unwrap();
    let error = options(2).open(&bad).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("shard 1") && error.to_string().contains("shard 2"), "{error}");
}

#[test]
fn a_shard_that_comes_back_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let (place, aside) = (dir.path().join("store"), dir.path().join("aside"));
    fill(&place, 2, true);
    std::fs::rename(shard(&place, 0), &aside).unwrap();
    let store = options(2).heal(Heal::Manual).open(&place).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n + 1)).unwrap();
    }
    store.close().unwrap();
    std::fs::rename(&aside, shard(&place, 0)).unwrap();
    let store = options(2).open(&place).unwrap();
    assert!(store.stats().unwrap().warnings.is_empty(), "{:?}", store.stats().unwrap().warnings);
    for n in 0..RECORDS {
        assert!(store.get(key(n)).unwrap().as_deref() == Some(&value(n + 1)[..]), "record {n} is old");
    }
    store.close().unwrap();
    // It has caught up for good: the others may go now.
    std::fs::remove_dir_all(shard(&place, 1)).unwrap();
    let store = options(2).open(&place).unwrap();
    for n in 0..RECORDS {
        assert!(store.get(key(n)).unwrap().as_deref() == Some(&value(n + 1)[..]), "record {n} is old");
    }
}

#[test]
fn a_shard_that_the_journal_has_outrun_stays_offline() {
    let dir = tempfile::tempdir().unwrap();
    let (place, aside) = (dir.path().join("store"), dir.path().join("aside"));
    let options = options(2).journal_retention(128 << 10).heal(Heal::Manual);
    options.open(&place).unwrap().insert("old", b"1").unwrap();
    options.open(&place).unwrap().close().unwrap();
    std::fs::rename(shard(&place, 0), &aside).unwrap();
    let store = options.open(&place).unwrap();
    for round in 0..4 {
        for n in 0..RECORDS {
            store.insert(key(n), value(n + round)).unwrap();
        }
        store.flush().unwrap();
    }
    store.close().unwrap();
    std::fs::rename(&aside, shard(&place, 0)).unwrap();
    let store = options.open(&place).unwrap();
    let stats = store.stats().unwrap();
    assert!(matches!(stats.shards[0].health, Health::Offline(_)), "{:?}", stats.shards[0].health);
    for n in 0..RECORDS {
        assert!(store.get(key(n)).unwrap().as_deref() == Some(&value(n + 3)[..]), "record {n} is old");
    }
    // By itself, or when it is asked for, it is rebuilt from its replicas.
    store.repair(stats.shards[0].id).unwrap();
    expect_healed(&store);
    store.close().unwrap();
    std::fs::remove_dir_all(shard(&place, 1)).unwrap();
    let store = options.open(&place).unwrap();
    for n in 0..RECORDS {
        assert!(store.get(key(n)).unwrap().as_deref() == Some(&value(n + 3)[..]), "record {n} is old");
    }
}

#[test]
fn without_replicas_damage_is_an_error_and_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    fill(&good, 1, true);
    let database: Vec<PathBuf> = files(&shard(&good, 1).join("engine"))
        .into_iter()
        .filter(|p| std::fs::metadata(p).unwrap().len() > 10_000)
        .map(|p| p.strip_prefix(&good).unwrap().to_path_buf())
        .collect();
    let mut errors_seen = 0;
    for name in &database {
        for kind in 0..7 {
            for round in 0..2 {
                copy(&good, &bad);
                if !damage(&bad.join(name), kind, round * 104_729 + u64::from(kind)) {
                    continue;
                }
                match options(1).open(&bad) {
                    Ok(store) => errors_seen += expect_right_or_error(&store).1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                        assert!(error.to_string().contains("shard 1"), "{error}");
                        errors_seen += 1;
                    }
                }
            }
        }
    }
    assert!(errors_seen > 0, "no damage was found at all");
}

#[test]
fn a_damaged_journal_or_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    fill(&good, 2, false);
    let segment = files(&good.join("journal")).into_iter().max_by_key(|p| {
        // The segment with the most frames in it: the others are zeros.
        std::fs::read(p).unwrap().iter().filter(|b| **b != 0).count()
    });
    let segment = segment.unwrap().strip_prefix(&good).unwrap().to_path_buf();
    for at in [5000usize, 20_000, 40_000] {
        copy(&good, &bad);
        let mut bytes = std::fs::read(bad.join(&segment)).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(bad.join(&segment), bytes).unwrap();
        // The flip may hit what no frame uses; then everything is there.
        match options(2).open(&bad) {
            Ok(store) => expect_whole(&store),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                assert!(error.path().is_some() && error.advice().is_some(), "{error}");
            }
        }
    }
    copy(&good, &bad);
    std::fs::remove_dir_all(bad.join("journal")).unwrap();
    assert!(options(2).open(&bad).is_err(), "a store without its journal was opened");
    copy(&good, &bad);
    for n in 0..3 {
        std::fs::remove_file(shard(&bad, n).join("IDENTITY")).unwrap();
    }
    std::fs::remove_file(bad.join("MANIFEST")).unwrap();
    let error = options(2).open(&bad).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert!(error.advice().is_some_and(|a| a.contains("IDENTITY")), "{error}");
}

/// Every shard carries a copy of the manifest.
#[test]
fn a_lost_or_damaged_manifest_is_taken_from_the_shards() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    fill(&good, 2, false);
    for kind in 0..7 {
        copy(&good, &bad);
        assert!(damage(&bad.join("MANIFEST"), kind, 12345));
        expect_whole(&options(2).open(&bad).unwrap_or_else(|e| panic!("{kind}: {e}")));
        expect_whole(&options(2).open(&bad).unwrap_or_else(|e| panic!("again, {kind}: {e}")));
    }
}

/// The whole directory of a store is lost, and the shards are on other disks.
#[test]
fn a_store_whose_directory_is_lost_opens_from_its_shards() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let named = |names: [&str; 3]| {
        let at = |name: &str| annulus::ShardOptions::new(dir.path().join(name));
        let options = Options::new().replication_factor(2).memory_budget(8 << 20);
        names.into_iter().fold(options, |options, name| options.shard(at(name)))
    };
    let options = named(["a", "b", "c"]);
    let store = options.open(&place).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    store.keyspace("another").unwrap().insert("k", b"v").unwrap();
    store.close().unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    // What is lost with it is said, and nothing is done before that has been accepted.
    let error = options.open(&place).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.advice().is_some_and(|a| a.contains("accept_journal_loss")), "{error}");
    assert!(!place.join("MANIFEST").exists() && !place.join("journal").exists());
    // Their order is not what tells them from each other, and one of them may be gone as well.
    std::fs::remove_dir_all(dir.path().join("b")).unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    let store = named(["c", "b", "a"]).accept_journal_loss(true).open(&place).unwrap();
    expect_whole(&store);
    expect_healed(&store);
    assert_eq!(store.keyspace("another").unwrap().get("k").unwrap().as_deref(), Some(&b"v"[..]));
    store.insert("after", b"the loss").unwrap();
    store.close().unwrap();
    let store = options.open(&place).unwrap();
    assert_eq!(store.get("after").unwrap().as_deref(), Some(&b"the loss"[..]));
    let other = dir.path().join("other");
    let error = Options::new()
        .shard(annulus::ShardOptions::new(dir.path().join("a")))
        .open(&other)
        .map(|_| ())
        .unwrap_err();
    assert!(!other.join("MANIFEST").exists(), "{error}");
}

/// What takes the place of a lost journal is not complete when the disk is full, or the machine stops: it is begun again.
#[test]
fn a_journal_that_is_replaced_in_part_is_replaced_again() {
    let options = Options::new().shards(2).replication_factor(2).journal_segment_bytes(64 << 10);
    let accepted = options.clone().accept_journal_loss(true);
    let open = |disk: &SimDisk, factory: &MemoryFactory, options: &Options| {
        let (disk, factory) = (Arc::new(disk.clone()), Arc::new(factory.clone()));
        testing::open(Path::new("/store"), options, Seams { disk, factory, background: Background::Off })
    };
    let (lost, shards) = (SimDisk::new(1), MemoryFactory::new());
    let store = open(&lost, &shards, &options).unwrap();
    (0..50).for_each(|n| _ = store.insert(key(n), value(n)).unwrap());
    store.close().unwrap();
    lost.remove_dir_all(Path::new("/store/journal")).unwrap();
    lost.remove_file(Path::new("/store/MANIFEST")).unwrap();
    let lost = lost.kill();
    let check = |disk: &SimDisk, factory: &MemoryFactory, when: &str| {
        // Once there is a journal nothing has to be accepted any more.
        let (alone, shards) = (disk.fork().kill(), factory.fork());
        if let Ok(store) = open(&alone, &shards, &options) {
            assert!(testing::scrub_step(&store).unwrap(), "{when}: the shards are not compared");
        }
        let store = open(disk, factory, &accepted).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(testing::scrub_step(&store).unwrap(), "{when}: the shards are not compared");
        (0..50)
            .for_each(|n| assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "{when}"));
        store.insert(key(50), value(50)).unwrap();
        store.close().unwrap();
        let store = open(disk, factory, &options).unwrap_or_else(|e| panic!("{when}, again: {e}"));
        assert_eq!(store.get(key(50)).unwrap().as_deref(), Some(&value(50)[..]), "{when}");
    };
    for stop in 0.. {
        let (disk, factory) = (lost.fork(), shards.fork());
        disk.stop_after(stop);
        let opened = open(&disk, &factory, &accepted);
        let ended = opened.is_ok();
        let disk = disk.kill();
        drop(opened);
        check(&disk, &factory, &format!("stopped at {stop}"));
        if ended {
            assert!(stop > 10, "{stop}");
            break;
        }
    }
    for operation in [Operation::Create, Operation::Write, Operation::Rename, Operation::SyncDir] {
        let (disk, factory) = (lost.fork(), shards.fork());
        let here = |path: &Path| path.starts_with("/store/journal");
        disk.inject(Fault::on(operation).at(here).times(1).error(std::io::ErrorKind::StorageFull));
        assert!(open(&disk, &factory, &accepted).is_err(), "{operation:?}");
        disk.heal();
        check(&disk, &factory, &format!("{operation:?}"));
    }
}

/// A damaged length, or a hole of terabytes: nobody has the memory for it.
#[test]
fn a_small_file_of_a_huge_length_is_damage_and_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let two = options(2).journal_dirs([dir.path().join("a"), dir.path().join("b")]);
    let store = two.open(&place).unwrap();
    (0..RECORDS).for_each(|n| _ = store.insert(key(n), value(n)).unwrap());
    store.archive(&annulus::BackupRepository::open(dir.path().join("backup")).unwrap()).unwrap();
    store.close().unwrap();
    let grow = |path: PathBuf| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4 << 40).unwrap();
    };
    for name in
        ["MANIFEST", "MIRRORS", "shards/0000/IDENTITY", "shards/0000/SEAL", "SCRUB", "ARCHIVES", "HISTORY"]
    {
        let file = place.join(name);
        if !file.exists() {
            continue;
        }
        let before = std::fs::read(&file).unwrap();
        grow(file.clone());
        let store = two.open(&place).unwrap_or_else(|e| panic!("{name}: {e}"));
        expect_whole(&store);
        store.close().unwrap();
        // One that was taken from a shard is newer than it was.
        if name != "MANIFEST" {
            drop(std::fs::write(&file, before));
        }
    }
    grow(dir.path().join("a/MIRRORS"));
    expect_whole(&two.open(&place).unwrap());
}

/// What makes a shard whole of whose small files one is damaged does so where it is longer than any; where both are, the directory
/// is nobody's, as with any other damage.
#[test]
fn small_files_of_a_shard_of_a_huge_length_are_healed_as_damage() {
    for names in [&["IDENTITY"][..], &["SEAL"], &["IDENTITY", "SEAL"]] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        fill(&place, 2, true);
        for name in names {
            let path = shard(&place, 1).join(name);
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4 << 40).unwrap();
        }
        let store = options(2).open(&place).unwrap_or_else(|e| panic!("{names:?}: {e}"));
        expect_whole(&store);
        let repaired = store.repair(annulus::ShardId(1));
        expect_whole(&store);
        if names.len() == 2 {
            assert_eq!(repaired.unwrap_err().kind(), ErrorKind::Foreign);
            continue;
        }
        repaired.unwrap_or_else(|e| panic!("{names:?}: {e}"));
        store.close().unwrap();
        for name in names {
            let len = std::fs::metadata(shard(&place, 1).join(name)).unwrap().len();
            assert!(len < 1 << 20, "{name} has {len} bytes");
        }
        let store = options(2).open(&place).unwrap();
        expect_whole(&store);
        assert!(store.stats().unwrap().warnings.is_empty(), "{names:?}");
    }
}

/// Changes the seal of a shard, as a program that knows the format could.
fn edit_seal(dir: &Path, from: &str, to: &str) {
    let bytes = std::fs::read(dir.join("SEAL")).unwrap();
    let body = String::from_utf8(bytes[20..].to_vec()).unwrap();
    let edited = body.replace(from, to);
    assert_ne!(body, edited, "the seal says {body}");
    let mut sealed = bytes[..12].to_vec();
    sealed.extend((edited.len() as u32).to_le_bytes());
    let crc = crc32fast::hash(&[&sealed[8..16], edited.as_bytes()].concat());
    sealed.extend(crc.to_le_bytes());
    sealed.extend(edited.as_bytes());
    std::fs::write(dir.join("SEAL"), sealed).unwrap();
}

/// An engine that was put back is found out by what its seal says that it holds; while it was being applied to, by
/// how far its seal says that it had got.
#[test]
fn an_engine_that_went_back_in_time_is_found_by_its_seal() {
    for applying in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (place, aside) = (dir.path().join("store"), dir.path().join("aside"));
        options(2).open(&place).unwrap().close().unwrap();
        copy(&shard(&place, 1).join("engine"), &aside);
        fill(&place, 2, true);
        copy(&aside, &shard(&place, 1).join("engine"));
        if applying {
            edit_seal(&shard(&place, 1), "\"applying\":false", "\"applying\":true");
        }
        let store = options(2).heal(Heal::Manual).open(&place).unwrap();
        expect_whole(&store);
        let health = &store.stats().unwrap().shards[1].health;
        let text = if applying { "tail" } else { "not the one that was sealed" };
        assert!(matches!(health, Health::Offline(cause) if cause.contains(text)), "{health:?}");
    }
}

#[test]
fn a_shard_may_be_mounted_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let at = |a: &str, b: &str| {
        let shard = |name: &str| annulus::ShardOptions::new(place(name));
        Options::new().memory_budget(8 << 20).shard(shard(a)).shard(shard(b)).replication_factor(1)
    };
    at("a", "b").open(place("store")).unwrap().insert("k", b"v").unwrap();
    std::fs::rename(place("a"), place("elsewhere")).unwrap();
    assert_eq!(
        at("elsewhere", "elsewhere").open(place("store")).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let store = at("b", "elsewhere").open(place("store")).unwrap();
    assert_eq!(store.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    drop(store);
    // A shard of another store is none of this one's, whatever its number.
    at("c", "d").open(place("another")).unwrap().close().unwrap();
    for other in ["c", "d", "nothing"] {
        let error = at("b", other).open(place("store")).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains(other), "{error}");
    }
    // It is remembered.
    let store = Options::new().memory_budget(8 << 20).open(place("store")).unwrap();
    assert_eq!(store.get("k").unwrap().as_deref(), Some(&b"v"[..]));
}

/// The copies of the manifest in the shards differ where one could not be written: the newest counts, whichever is named first.
#[test]
fn the_newest_of_the_shards_manifests_counts() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let named = |names: [&str; 3]| {
        let options = Options::new().replication_factor(2).memory_budget(8 << 20);
        names.into_iter().fold(options, |o, name| o.shard(annulus::ShardOptions::new(place(name))))
    };
    let store = named(["a", "b", "c"]).open(place("store")).unwrap();
    let old = std::fs::read(place("a").join("IDENTITY")).unwrap();
    store.keyspace("later").unwrap().insert("k", b"v").unwrap();
    store.close().unwrap();
    assert_ne!(std::fs::read(place("a").join("IDENTITY")).unwrap(), old);
    std::fs::write(place("a").join("IDENTITY"), &old).unwrap();
    for names in [["a", "b", "c"], ["b", "c", "a"]] {
        let _ = std::fs::remove_file(place("store").join("MANIFEST"));
        let store = named(names).open(place("store")).unwrap();
        assert_eq!(store.list_keyspaces().unwrap(), ["default", "later"]);
        assert_eq!(store.keyspace("later").unwrap().get("k").unwrap().as_deref(), Some(&b"v"[..]));
        store.close().unwrap();
        std::fs::write(place("a").join("IDENTITY"), &old).unwrap();
    }
}

/// The store's directory is lost with the journal, in which one of the shards has not got as far as the others.
#[test]
fn shards_that_are_not_level_open_without_their_journal() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let options = ["a", "b"]
        .into_iter()
        .fold(Options::new().replication_factor(2).memory_budget(8 << 20), |options, name| {
            options.shard(annulus::ShardOptions::new(place(name)))
        });
    let store = options.open(place("store")).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    store.flush().unwrap();
    store.close().unwrap();
    let applied = || {
        let found = annulus::inspect(place("store")).unwrap().shards;
        found.iter().map(|shard| shard.applied.unwrap().0).collect::<Vec<_>>()
    };
    let last = applied()[0];
    let (now, before) = (format!("\"applied\":{last}"), format!("\"applied\":{}", last - 1));
    edit_seal(&place("a"), &now, &before);
    std::fs::remove_dir_all(place("store")).unwrap();
    let store = options.accept_journal_loss(true).open(place("store")).unwrap();
    expect_whole(&store);
    let seq = store.insert("after", b"the loss").unwrap();
    assert!(seq.0 > last + (1 << 32), "{seq}");
    store.flush().unwrap();
    // The one that was behind is made anew from the other, which has all.
    expect_healed(&store);
    let level = applied();
    assert!(level[0] == level[1] && level[0] >= seq.0, "{level:?}");
}

/// What an opening has changed in the manifest is in the shards' copies of it.
#[test]
fn where_shards_and_journals_lie_now_is_known_without_the_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (place, elsewhere) = (dir.path().join("store"), dir.path().join("elsewhere"));
    let journals = |names: &[&str]| {
        let dirs = names.iter().map(|name| dir.path().join(name));
        Options::new().memory_budget(8 << 20).journal_dirs(dirs)
    };
    let store = journals(&["j1"]).shards(2).replication_factor(2).open(&place).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    store.close().unwrap();
    std::fs::rename(shard(&place, 1), &elsewhere).unwrap();
    let at = |path: PathBuf| annulus::ShardOptions::new(path);
    let moved =
        Options::new().memory_budget(8 << 20).shard(at(shard(&place, 0))).shard(at(elsewhere.clone()));
    moved.open(&place).unwrap().close().unwrap();
    journals(&["j1", "j2"]).open(&place).unwrap().close().unwrap();
    std::fs::remove_file(place.join("MANIFEST")).unwrap();
    let store = Options::new().memory_budget(8 << 20).open(&place).unwrap();
    let stats = store.stats().unwrap();
    assert_eq!(stats.shards[1].path, elsewhere);
    let names: Vec<_> = stats.journal.mirrors.iter().map(|m| m.path.file_name().unwrap()).collect();
    assert_eq!(names, ["j1", "j2"]);
    expect_whole(&store);
    expect_healed(&store);
}

/// What the store logs.
struct Log;

static LOGGED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOGGED.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// A file system that does not keep writes in order is told of where a power cut could take what no replica has.
#[test]
fn a_store_that_a_power_cut_can_harm_says_so() {
    let Some(memory) = ["/dev/shm"].iter().find_map(|dir| tempfile::tempdir_in(dir).ok()) else {
        println!("skipped: there is no file system in memory");
        return;
    };
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    for replicas in [1, 2] {
        let place = memory.path().join(replicas.to_string());
        let store = Options::new().shards(2).replication_factor(replicas).open(&place).unwrap();
        let of = |line: &&String| line.contains("power cut") && line.contains(place.to_str().unwrap());
        let logged = LOGGED.lock().unwrap().iter().filter(of).count();
        let warned = store.stats().unwrap().warnings.iter().filter(|w| w.contains("power cut")).count();
        let due = if replicas == 1 { 2 } else { 0 };
        assert_eq!((logged, warned), (due, due), "{replicas} replicas");
        store.close().unwrap();
    }
}

/// Where the journal begins after all that any shard has, it is the journal that lacks something.
#[test]
fn a_journal_that_lost_its_beginning_is_named() {
    for replicas in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        // Room for all of it in memory: nothing else is flushed.
        let store = options(replicas).memory_budget(64 << 20).open(&place).unwrap();
        store.insert("first", "flushed").unwrap();
        store.flush().unwrap();
        for n in 0..20_u32 {
            store.insert(n.to_be_bytes(), vec![1; 60 << 10]).unwrap();
        }
        store.sync().unwrap();
        copy(&place, &dir.path().join("copy"));
        drop(store);
        let journal = dir.path().join("copy/journal");
        let mut segments: Vec<PathBuf> = std::fs::read_dir(&journal)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort();
        assert!(segments.len() > 8);
        segments[..5].iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let error = options(replicas).open(dir.path().join("copy")).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.path().is_some_and(|path| path.starts_with(&journal)), "{error}");
    }
}

/// Stores are told apart by 128 random bits.
#[test]
fn no_two_stores_are_called_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut halves = std::collections::HashSet::new();
    for name in ["a", "b"] {
        let place = dir.path().join(name);
        options(1).open(&place).unwrap().close().unwrap();
        let id = annulus::inspect(&place).unwrap().store;
        halves.extend([(id >> 64) as u64, id as u64]);
    }
    assert!(halves.len() == 4 && !halves.contains(&0), "{halves:x?}");
}
