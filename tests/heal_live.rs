//! Damage of every kind to the files of up to R - 1 shards of a live store, at random moments, under a workload of checked
//! reads, writes, removals and scans: no answer is wrong, none is refused, nothing is lost, and the store heals itself.
//!
//! `ANNULUS_SEED` repeats a run, `ANNULUS_HEAL_ROUNDS` makes it longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/live.rs"]
mod live;

use annulus::{ErrorKind, EventKind, Health, Options, ShardId};
use live::{Live, Random, number, seed};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// So many bits are flipped at once.
const FLIPS: u64 = 10;

fn options(shards: usize, replicas: usize) -> Options {
    Options::new()
        .shards(shards)
        .replication_factor(replicas)
        .virtual_nodes(128)
        .memory_budget(8 << 20)
        .journal_segment_bytes(256 << 10)
        .page_bytes(1024)
}

fn shard_dir(dir: &Path, shard: usize) -> PathBuf {
    dir.join(format!("shards/{shard:04}"))
}

/// The files of a shard, without what has been set aside.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name.starts_with("quarantine-") => {}
            true => found.extend(files(&path)),
            false if name.ends_with(".tmp") || name == "PROBE" => {}
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// What is done to a file or a shard. Files may go while this is at it: then it was not done.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Flip,
    Truncate,
    Garbage,
    Zeros,
    Empty,
    Delete,
    DeleteDirectory,
    DeleteEngine,
    DeleteIdentity,
    DeleteSeal,
}

const FAULTS: [Fault; 11] = [
    Fault::Flip,
    Fault::Truncate,
    Fault::Flip,
    Fault::Garbage,
    Fault::Zeros,
    Fault::Empty,
    Fault::Delete,
    Fault::DeleteDirectory,
    Fault::DeleteEngine,
    Fault::DeleteIdentity,
    Fault::DeleteSeal,
];

fn inject(dir: &Path, fault: Fault, turn: usize, random: &mut Random) -> std::io::Result<String> {
    let found = files(dir);
    let path = &found[turn % found.len()];
    let name = path.strip_prefix(dir).unwrap().display().to_string();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(path);
    let write = |bytes: &[u8]| -> std::io::Result<()> {
        let file = open()?;
        let at = random_at(file.metadata()?.len(), turn);
        file.write_all_at(bytes, at)
    };
    match fault {
        Fault::Flip => {
            for _ in 0..FLIPS {
                let path = &found[random.below(found.len())];
                let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else {
                    continue;
                };
                let at = random.below(file.metadata()?.len() as usize) as u64;
                let mut byte = [0];
                if file.read_at(&mut byte, at)? == 1 {
                    file.write_all_at(&[byte[0] ^ 1 << random.below(8)], at)?;
                }
            }
            return Ok("all files".into());
        }
        Fault::Truncate => open()?.set_len(random_at(path.metadata()?.len(), random.below(1 << 30)))?,
        Fault::Garbage => {
            write(&std::iter::repeat_with(|| random.next() as u8).take(512).collect::<Vec<_>>())?
        }
        Fault::Zeros => write(&[0; 4096])?,
        Fault::Empty => open()?.set_len(0)?,
        Fault::Delete => std::fs::remove_file(path)?,
        Fault::DeleteDirectory => std::fs::remove_dir_all(dir)?,
        Fault::DeleteEngine => delete(dir, "engine"),
        Fault::DeleteIdentity => std::fs::remove_file(dir.join("IDENTITY"))?,
        Fault::DeleteSeal => std::fs::remove_file(dir.join("SEAL"))?,
    }
    Ok(name)
}

fn random_at(len: u64, seed: usize) -> u64 {
    Random::new(seed as u64 + 99).next() % len.max(1)
}

/// Asks for a shard to be made whole; a shard that is being healed already needs not be asked.
fn repair(live: &Live, shard: usize) {
    let asked = live.with(|store| store.repair(ShardId(shard as u32)));
    if let Err(error) = asked {
        assert_eq!(error.kind(), ErrorKind::Busy, "shard {shard}: {error}; {:#?}", live.last_events());
    }
}

fn run(name: &str, shards: usize, replicas: usize, rounds: usize) {
    let seed = seed(name);
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random::new(seed));
    let mut live = Live::start(dir.path().join("store"), options(shards, replicas), seed);
    let verbose = std::env::var("ANNULUS_VERBOSE").is_ok();
    let mut turn = random.below(100);
    for round in 0..rounds {
        live.with(|store| store.flush().unwrap());
        let mut hit = BTreeSet::new();
        while hit.len() < replicas - 1 {
            hit.insert(random.below(shards));
        }
        for shard in &hit {
            let fault = FAULTS[(round + shard) % FAULTS.len()];
            turn += 1;
            let path = shard_dir(&live.dir, *shard);
            let done = inject(&path, fault, turn, &mut random);
            if verbose {
                println!("round {round}: shard {shard}: {fault:?} of {done:?}");
            }
            live.figures.faults += 1;
            live.figures.flips += if fault == Fault::Flip { FLIPS } else { 0 };
            live.operations(20 + random.below(400) as u64);
        }
        let begun = std::time::Instant::now();
        // Half of the time it must be noticed in a flush or a read; whatever is left is looked for.
        if round % 2 == 0 {
            live.operations(600);
        }
        live.with(|store| store.flush().unwrap());
        hit.iter().for_each(|shard| repair(&live, *shard));
        live.wait_until_good();
        let healed = begun.elapsed();
        live.healed(healed);
        live.check_copies_in_time();
        // What only an opening reads may be damaged still.
        live.reopen(|| ());
        live.wait_until_good();
        live.check_copies();
        if verbose {
            println!("round {round}: healed in {healed:?}, all in {:?}", begun.elapsed());
        }
    }
    live.finish(name);
}

#[test]
fn two_replicas_of_three_shards() {
    run("R = 2, 3 shards", 3, 2, number("ANNULUS_HEAL_ROUNDS", 40));
}

#[test]
fn three_replicas_of_five_shards() {
    run("R = 3, 5 shards", 5, 3, number("ANNULUS_HEAL_ROUNDS", 30));
}

#[test]
fn two_replicas_of_eight_shards() {
    run("R = 2, 8 shards", 8, 2, number("ANNULUS_HEAL_ROUNDS", 20));
}

/// At once, so that nobody finds neither in between.
fn swap(a: &Path, b: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

fn is_offline(live: &Live, shard: usize) -> bool {
    live.with(|store| matches!(store.health().unwrap().shards[shard].health, Health::Offline(_)))
}

/// Two directories change places, while the store is closed or while it is open: neither is written to by the other's
/// shard, and when they are back where they were the shards are taken back.
#[test]
fn two_directories_that_are_swapped_are_left_alone() {
    for closed in [true, false] {
        let seed = seed("swapped directories");
        let dir = tempfile::tempdir().unwrap();
        let mut live = Live::start(dir.path().join("store"), options(5, 3), seed);
        live.operations(2000);
        live.with(|store| store.flush().unwrap());
        let (one, other) = (shard_dir(&live.dir, 1), shard_dir(&live.dir, 3));
        match closed {
            true => live.reopen(|| swap(&one, &other)),
            false => {
                swap(&one, &other);
                // Each shard is to have a copy of what that changes.
                live.with(|store| store.keyspace("made meanwhile").map(drop).unwrap());
            }
        }
        live.operations(2000);
        live.with(|store| store.flush().unwrap());
        live.operations(200);
        live.wait_for("not noticed", |_| is_offline(&live, 1) && is_offline(&live, 3));
        // Closing it, a shard waits for the lock of the files that lie in its place now.
        live.wait_for("not refused", |store| {
            let refused = store.repair(ShardId(1)).unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::Foreign | ErrorKind::Locked), "{refused}");
            refused.kind() == ErrorKind::Foreign
        });
        live.operations(1000);
        swap(&one, &other);
        for shard in [1, 3] {
            repair(&live, shard);
        }
        live.wait_until_good();
        for shard in [1, 3] {
            let rebuilt = live.saw(ShardId(shard), |e| matches!(e, EventKind::Rebuilding { .. }));
            assert!(
                !rebuilt,
                "shard {shard} was written to while it lay elsewhere: {:#?}",
                live.last_events()
            );
        }
        live.figures.faults += 2;
        live.check_copies();
        live.reopen(|| ());
        live.wait_until_good();
        live.finish(if closed {
            "directories swapped while closed"
        } else {
            "directories swapped while open"
        });
    }
}

/// The seals or the identities of two shards change places.
#[test]
fn small_files_that_are_swapped_are_found_out() {
    for name in ["SEAL", "IDENTITY"] {
        for closed in [true, false] {
            let seed = seed("swapped small files");
            let dir = tempfile::tempdir().unwrap();
            let mut live = Live::start(dir.path().join("store"), options(5, 3), seed);
            live.operations(1000);
            live.with(|store| store.flush().unwrap());
            let (one, other) = (shard_dir(&live.dir, 0).join(name), shard_dir(&live.dir, 2).join(name));
            match closed {
                true => live.reopen(|| swap(&one, &other)),
                false => swap(&one, &other),
            }
            live.operations(1000);
            live.with(|store| store.flush().unwrap());
            if name == "IDENTITY" && closed {
                assert!(is_offline(&live, 0) && is_offline(&live, 2));
                swap(&one, &other);
            }
            for shard in [0, 2] {
                repair(&live, shard);
            }
            live.wait_until_good();
            live.check_copies();
            if name == "IDENTITY" && !closed {
                live.reopen(|| swap(&one, &other));
            } else {
                live.reopen(|| ());
            }
            live.wait_until_good();
            live.figures.faults += 2;
            live.finish(&format!("{name} swapped, {}", if closed { "closed" } else { "open" }));
        }
    }
}

/// Files that may not be changed (as root no permission forbids it, this attribute does).
#[test]
fn a_shard_that_may_not_be_written_to_comes_back_by_itself() {
    let seed = seed("an immutable shard");
    let dir = tempfile::tempdir().unwrap();
    let mut live = Live::start(dir.path().join("store"), options(3, 2), seed);
    let path = shard_dir(&live.dir, 1);
    let mark = |how: &str| {
        Command::new("chattr").args(["-R", "-f", how]).arg(&path).output().is_ok_and(|o| o.status.success())
    };
    if !mark("+i") {
        println!("skipped: files cannot be made immutable here");
        return;
    }
    for _ in 0..2 {
        mark("+i");
        live.operations(1000);
        live.with(|store| store.flush().unwrap());
        live.wait_for("not noticed", |store| !store.health().unwrap().is_good());
        live.operations(3000);
        live.with(|store| store.flush().unwrap());
        mark("-i");
        live.figures.faults += 1;
        live.wait_until_good();
        live.check_copies();
    }
    assert!(
        !live.saw(ShardId(1), |e| matches!(e, EventKind::Rebuilding { .. })),
        "{:#?}",
        live.last_events()
    );
    live.reopen(|| ());
    live.finish("an immutable shard");
}

/// Removes a directory that somebody still writes into.
fn remove(dir: &Path) {
    while let Err(error) = std::fs::remove_dir_all(dir) {
        match error.kind() {
            std::io::ErrorKind::DirectoryNotEmpty => {}
            std::io::ErrorKind::NotFound => return,
            _ => panic!("{}: {error}", dir.display()),
        }
    }
}

/// Deletes the files of that name of a shard's engine, all of the engine, or (without a name) all of the shard.
fn delete(dir: &Path, what: &str) {
    let engine =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("engine"));
    match what {
        "" => remove(dir),
        "engine" => {
            let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            all.filter(|path| engine(path)).for_each(|path| remove(&path));
        }
        name => {
            let found = files(dir).into_iter().filter(|path| path.ends_with(name));
            assert!(found.map(|path| std::fs::remove_file(path).unwrap()).count() > 0, "{name}");
        }
    }
}

/// Files that are deleted while they are open go on answering, up to the next opening: it must be noticed before that.
#[test]
fn files_that_are_deleted_are_missed_while_the_store_is_open() {
    let seed = seed("deleted files");
    let dir = tempfile::tempdir().unwrap();
    let mut live = Live::start(dir.path().join("store"), options(3, 2), seed);
    for what in ["", "engine", "pages", "db", "conf"] {
        for shard in 0..3 {
            live.operations(500);
            let seen = |live: &Live| {
                let mut events = live.with(|store| store.events());
                std::iter::from_fn(|| events.try_next())
                    .filter(|e| {
                        e.shard == Some(ShardId(shard as u32))
                            && matches!(e.kind, EventKind::Rebuilding { .. })
                    })
                    .count()
            };
            let before = seen(&live);
            delete(&shard_dir(&live.dir, shard), what);
            live.figures.faults += 1;
            live.operations(200);
            live.with(|store| store.flush().unwrap());
            live.wait_for("not missed", |_| seen(&live) > before);
            if what == "db" {
                // What is left is kept for whoever wants to look into it.
                live.wait_for("not kept", |store| {
                    let kept = store.health().unwrap().quarantined;
                    kept.iter().any(|q| q.shard.0 == shard as u32 && q.path.join("pages").exists())
                });
            }
            live.wait_until_good();
            live.check_copies();
        }
    }
    live.reopen(|| ());
    assert!(live.with(|store| store.health().unwrap().is_good()));
    live.finish("deleted files");
}

/// A compaction gives back what records took that are no more, and says how much; who asks for it waits for its end.
#[test]
fn what_a_compaction_gives_back_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = options(2, 2).open(dir.path().join("store")).unwrap();
    for n in 0..2000_u32 {
        store.insert(n.to_be_bytes(), n.to_be_bytes().repeat(500)).unwrap();
    }
    store.flush().unwrap();
    (0..2000_u32).filter(|n| n % 20 != 0).for_each(|n| assert!(store.remove(n.to_be_bytes()).is_ok()));
    store.flush().unwrap();
    let bytes = || store.stats().unwrap().shards[1].disk_bytes;
    let full = bytes();
    store.compact(ShardId(1)).unwrap();
    let mut events = store.events();
    let told = std::iter::from_fn(|| events.try_next()).find_map(|event| match event.kind {
        EventKind::Compacted { before, after } => Some((event.shard, before, after)),
        _ => None,
    });
    let (shard, before, after) = told.unwrap();
    assert_eq!((shard, before, after), (Some(ShardId(1)), full, bytes()));
    assert!(after < before / 2 && after > 100 * 2000, "{before} bytes before, {after} after");
    assert!(store.health().unwrap().is_good());
    for n in 0..2000_u32 {
        let due = (n % 20 == 0).then(|| n.to_be_bytes().repeat(500));
        assert_eq!(store.get(n.to_be_bytes()).unwrap().as_deref(), due.as_deref(), "{n}");
    }
}
