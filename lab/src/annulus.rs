//! Annulus under the workload, and what must be left of it.

use crate::child::{Task, say};
use crate::model::{self, Content, Expected};
use crate::{Random, Result};
use annulus::{
    BackupRepository, Durability, ErrorKind, Keyspace, Options, Phase, Retention, ShardOptions, ShardRole,
    Store, testing,
};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a store may take to make itself whole.
const PATIENCE: Duration = Duration::from_secs(150);

fn open(task: &Task) -> annulus::Result<Store> {
    // Little memory, so that flushes, rotations and trims run all the time.
    let mut options = Options::new()
        .memory_budget(8 << 20)
        .journal_segment_bytes(1 << 20)
        .journal_retention(32 << 20)
        .quarantine_limit(1);
    if let Some(journal) = &task.journal {
        options = options.journal_dir(journal.join("journal"));
    }
    let place = task.dir.join("store");
    if place.join("MANIFEST").exists() {
        // The topology may have been changed.
        return options.existing_only(true).open(place);
    }
    // Small pages make a large index, so that a commit of it takes sled several segments; with one copy, in a single shard.
    let small = task.seed.is_multiple_of(2);
    let (page_bytes, shards) = if small { (512, if task.replicas == 1 { 1 } else { 3 }) } else { (4096, 3) };
    let options = options.shards(shards).replication_factor(task.replicas);
    options.virtual_nodes(32).page_bytes(page_bytes).open(place)
}

pub fn work(task: &Task) -> Result<()> {
    let store = open(task)?;
    let log = store.keyspace("log")?;
    say("open");
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for writer in 0..model::WRITERS {
            let (store, log, random) = (&store, &log, Random::new(task.seed ^ writer << 40));
            threads.push(scope.spawn(move || write(store, log, writer, task.only_dies, random)));
        }
        threads.push(scope.spawn(|| meddle(&store, task)));
        if task.only_dies {
            threads.push(scope.spawn(|| look_on(&store, Random::new(task.seed ^ 0x7ead))));
        }
        // None of them ends but by an error.
        while threads.iter().all(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for thread in threads.into_iter().filter(|thread| thread.is_finished()) {
            if let Err(error) = thread.join().unwrap_or_else(|_| Err("a panic".into())) {
                say(&format!("failed {error:?}"));
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

/// `all`: what is acknowledged at `Process` is told as well, since it is not the power that fails.
fn write(store: &Store, log: &Keyspace, writer: u64, all: bool, mut random: Random) -> Result<()> {
    let start = store.get(model::last_key(writer))?.map_or(0, |value| model::number(&value)) + 1;
    for n in start.. {
        let batch = model::batch(log, writer, n);
        let sync = random.below(2) == 0;
        store.commit_with(batch, if sync { Durability::Sync } else { Durability::Process })?;
        if sync || all {
            say(&format!("wrote {writer} {n}"));
        }
    }
    Ok(())
}

/// Reads beside the writes: whatever is there was written, and by a batch that is not above the writer's last.
fn look_on(store: &Store, mut random: Random) -> Result<()> {
    loop {
        let (writer, slot) = (random.below(model::WRITERS), random.below(model::SLOTS));
        let found = store.get(model::key(writer, slot))?;
        let last = store.get(model::last_key(writer))?.map_or(0, |value| model::number(&value));
        if let Some(found) = found
            && (model::number(&found) > last
                || found[..] != model::value(writer, model::number(&found), slot))
        {
            return Err(
                format!("a read of slot {slot} of {writer} at {last}: {}", model::number(&found)).into()
            );
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What goes on beside the writes.
fn meddle(store: &Store, task: &Task) -> Result<()> {
    let mut random = Random::new(task.seed ^ 0x5eed);
    let rest = |random: &mut Random| std::thread::sleep(Duration::from_millis(random.below(25)));
    loop {
        rest(&mut random);
        store.flush()?;
        match task.mode.as_str() {
            "move" => change(store, &task.dir, &mut random)?,
            "checkpoint" => checkpoint(store, &task.dir, &mut random)?,
            "restore" => crate::kill::restore(store, task, &mut random)?,
            "heal" => heal(store, &mut random)?,
            _ => {}
        }
    }
}

fn change(store: &Store, dir: &Path, random: &mut Random) -> Result<()> {
    let ended = |change: annulus::TopologyChange| match change.wait() {
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Some(change) = store.change() {
        ended(change)?;
    }
    for shard in store.topology().shards.iter().filter(|shard| shard.role == ShardRole::Retired) {
        match store.drop_shard(shard.id) {
            Err(error) if error.kind() != ErrorKind::Busy => return Err(error.into()),
            _ => {}
        }
    }
    let members: Vec<_> = store.ring().members().iter().map(|member| member.id).collect();
    let some = members[random.below(members.len() as u64) as usize];
    let new = || -> Result<ShardOptions> {
        let free = (0..1000).map(|n| dir.join(format!("added-{n}"))).find(|path| !path.exists());
        Ok(ShardOptions::new(free.ok_or("no name is free")?))
    };
    let plan = match members.len() {
        ..=3 if random.below(2) == 0 => store.plan().replace_shard(some, new()?),
        ..=3 => store.plan().add_shard(new()?),
        _ => store.plan().drain_shard(some),
    };
    match store.apply(plan.preview()?.accept_problems()) {
        Ok(change) => {
            say("moving");
            ended(change)?;
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub fn checkpoint(store: &Store, dir: &Path, random: &mut Random) -> Result<()> {
    let repository = BackupRepository::open(dir.join("backup"))?;
    let id = store.checkpoint(&repository)?;
    say(&format!("checkpoint {}", id.0));
    if random.below(4) == 0 {
        repository.prune(Retention::keep_last(2))?;
    }
    Ok(())
}

/// Rebuilds a shard, compacts one, or damages one's pages and has them put right.
fn heal(store: &Store, random: &mut Random) -> Result<()> {
    let shards = store.health()?.shards;
    let shard = &shards[random.below(shards.len() as u64) as usize];
    let done = match random.below(3) {
        0 => store.rebuild(shard.id),
        1 => store.compact(shard.id),
        // While another shard is being filled this may be the only one that has what it has: its pages are then not ours to damage.
        _ if !store.health()?.is_good() => return Ok(()),
        _ => {
            let pages = largest(&shard.path)?;
            let file = std::fs::File::options().write(true).open(&pages)?;
            let end = file.metadata()?.len();
            for _ in 0..4 {
                file.write_all_at(&[0x5a; 700], random.below(end.max(1)))?;
            }
            file.sync_all()?;
            say("damaged");
            store.scrub()?.wait().map(drop)
        }
    };
    match done {
        // Something else is being done for the shard, or another one has to be made whole first.
        Err(error) if !matches!(error.kind(), ErrorKind::Busy | ErrorKind::Unavailable) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The largest file below a directory: a shard's pages.
fn largest(dir: &Path) -> Result<PathBuf> {
    let (mut found, mut open) = ((0, PathBuf::new()), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            match about.is_dir() {
                true if path.file_name().is_some_and(|name| name != "index") => open.push(path),
                false if about.len() > found.0 => found = (about.len(), path),
                _ => {}
            }
        }
    }
    Ok(found.1)
}

/// Looks at what is left. An error says which of the promises is broken, in its first words.
pub fn check(task: &Task) -> Result<()> {
    let acked = |writer: u64| {
        let prefix = format!("wrote {writer} ");
        let last = task.acks.iter().rev().find_map(|ack| ack.strip_prefix(&prefix)?.parse().ok());
        last.unwrap_or(0u64)
    };
    if !task.acks.is_empty() && !task.dir.join("store/MANIFEST").exists() {
        return Err("lost: the store was opened, and its manifest is not there".into());
    }
    let begun = Instant::now();
    let store = open(task).map_err(|e| format!("does not open: {e:?}"))?;
    say(&format!("opened in {} ms", begun.elapsed().as_millis()));
    if !store.health()?.is_good() {
        say(&format!("unwell {:?}", store.health()?));
    }
    let mut there = Vec::new();
    for writer in 0..model::WRITERS {
        let last = store.get(model::last_key(writer)).map_err(|e| format!("unreadable: {e:?}"))?;
        there.push(last.map_or(0, |value| model::number(&value)));
        if there[writer as usize] < acked(writer) {
            let (acked, there) = (acked(writer), there[writer as usize]);
            return Err(format!("lost: writer {writer} was told of {acked}, {there} is there").into());
        }
    }
    let expected = Expected::after(&there);
    compare(&store, &expected, "at opening")?;
    let begun = Instant::now();
    make_whole(&store)?;
    say(&format!("whole in {} ms", begun.elapsed().as_millis()));
    compare(&store, &expected, "made whole")?;
    compare_copies(&store)?;
    store.close().map_err(|e| format!("does not close: {e:?}"))?;
    let store = open(task).map_err(|e| format!("does not open again: {e:?}"))?;
    compare(&store, &expected, "opened again")?;
    store.close().map_err(|e| format!("does not close again: {e:?}"))?;
    for (writer, n) in there.iter().enumerate() {
        say(&format!("there {writer} {n}"));
    }
    crate::kill::check_restored(task)?;
    check_backup(task)
}

/// Holds everything, by scans and by gets, against what the writers' last numbers say.
pub fn compare(store: &Store, expected: &Expected, when: &str) -> Result<()> {
    let log = store.keyspace("log")?;
    for (keyspace, expected) in [(&**store, &expected.content), (&log, &expected.whole)] {
        same(keyspace.iter(), expected, &format!("{when}, a scan"))?;
    }
    for key in &expected.keys {
        let found = store.get(key).map_err(|e| format!("unreadable: a get {when}: {e:?}"))?;
        let expected = expected.content.get(key);
        if found.as_deref() != expected.map(|value| &value[..]) {
            return Err(differs(key, found.as_deref(), expected, &format!("{when}, a get")).into());
        }
    }
    Ok(())
}

/// Both are in order, so the first pair that is not the same says what is wrong.
fn same(range: annulus::Range, expected: &Content, when: &str) -> Result<()> {
    let mut wanted = expected.iter();
    for item in range {
        let (key, value) = item.map_err(|e| format!("unreadable: a scan: {e:?}"))?;
        match wanted.next() {
            Some((next, expected)) if next[..] == key[..] && expected[..] == value[..] => {}
            Some((next, expected)) if next[..] < key[..] => {
                return Err(differs(next, None, Some(expected), when).into());
            }
            next => {
                let expected = next.filter(|(next, _)| next[..] == key[..]).map(|(_, value)| value);
                return Err(differs(&key, Some(&value), expected, when).into());
            }
        }
    }
    match wanted.next() {
        Some((next, expected)) => Err(differs(next, None, Some(expected), when).into()),
        None => Ok(()),
    }
}

fn differs(key: &[u8], found: Option<&[u8]>, expected: Option<&Vec<u8>>, when: &str) -> String {
    // Of a long one, whose it is and its number.
    let key = String::from_utf8_lossy(key).into_owned();
    let key = if key.len() > 20 { format!("{}..{}", &key[..7], &key[key.len() - 5..]) } else { key };
    let (found, expected) = (found.map(model::number), expected.map(|value| model::number(value)));
    let what = match (found, expected) {
        (None, _) => "lost",
        (Some(_), None) => "came back",
        (Some(found), Some(expected)) if found < expected => "old",
        _ => "foreign",
    };
    format!("{what}: {when}: {key} has {found:?}, expected {expected:?}")
}

/// Waits for what the store does by itself after a crash, then has it look at everything.
pub fn make_whole(store: &Store) -> Result<()> {
    if let Some(change) = store.change() {
        let phase = change.wait().map_err(|e| format!("does not heal: a move: {e:?}"))?;
        if !matches!(phase, Phase::Completed | Phase::Cancelled) {
            return Err(format!("does not heal: a move ended as {phase:?}").into());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while !store.health()?.is_good() {
        if Instant::now() > deadline {
            return Err(format!("does not heal: {:?}", store.health()?).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let report = store.scrub()?.wait().map_err(|e| format!("does not heal: a scrub: {e:?}"))?;
    let report = report.ok_or("does not heal: a scrub was cancelled")?;
    if report.pages_left > 0 || report.records_unsettled > 0 {
        return Err(format!("does not heal: {report:?}").into());
    }
    if report.records_reconciled > 0 {
        say(&format!("reconciled {}", report.records_reconciled));
    }
    Ok(())
}

/// Every owner holds its records in their newest version, and nobody holds others.
pub fn compare_copies(store: &Store) -> Result<()> {
    while testing::change_step(store)? {}
    store.flush()?;
    let (ring, log) = (store.ring(), store.keyspace("log")?);
    for keyspace in [&**store, &log] {
        let mut content = Vec::new();
        for item in keyspace.iter() {
            let key = item?.0;
            let seq = keyspace.get_versioned(&key)?.ok_or("lost: a get of what a scan has")?.1;
            content.push((key.to_vec(), seq));
        }
        for shard in ring.members() {
            let owned = |key: &[u8]| ring.preference_list(key).contains(&shard.id);
            let owned: Vec<_> = content.iter().filter(|(key, _)| owned(key)).cloned().collect();
            let held = testing::held_by(store, keyspace.id(), shard.id)?;
            if held != owned {
                let (id, held, owned) = (shard.id, held.len(), owned.len());
                return Err(format!("copies differ: shard {id} holds {held} records, {owned} are its").into());
            }
        }
    }
    Ok(())
}

/// Checkpoints that were acknowledged are there, sound, and can be restored to one moment of the store.
fn check_backup(task: &Task) -> Result<()> {
    let acked = task.acks.iter().rev().find_map(|ack| ack.strip_prefix("checkpoint ")?.parse::<u64>().ok());
    let dir = task.dir.join("backup");
    if acked.is_none() && !dir.exists() {
        return Ok(());
    }
    let repository = BackupRepository::open(&dir).map_err(|e| format!("checkpoint: {e:?}"))?;
    let list = repository.list().map_err(|e| format!("checkpoint: {e:?}"))?;
    if let Some(acked) = acked
        && !list.iter().any(|checkpoint| checkpoint.id.0 == acked)
    {
        return Err(format!("checkpoint: {acked} was acknowledged and is not there").into());
    }
    let verified = repository.verify_all().map_err(|e| format!("checkpoint: {e:?}"))?;
    if !verified.damage.is_empty() {
        return Err(format!("checkpoint: {:?}", verified.damage).into());
    }
    if list.is_empty() {
        return Ok(());
    }
    let restored = repository.restore_latest().map_err(|e| format!("checkpoint: {e:?}"))?;
    // A segment is filled with zeros when it is made: small ones.
    let small = Options::new().journal_segment_bytes(1 << 20).memory_budget(8 << 20);
    let restored = restored.options(small).shards(2).replication_factor(1).open(task.dir.join("restored"));
    let restored = restored.map_err(|e| format!("checkpoint: {e:?}"))?;
    let mut there = Vec::new();
    for writer in 0..model::WRITERS {
        there.push(restored.get(model::last_key(writer))?.map_or(0, |value| model::number(&value)));
    }
    compare(&restored, &Expected::after(&there), "restored")?;
    restored.close()?;
    drop(restored);
    Ok(std::fs::remove_dir_all(task.dir.join("restored"))?)
}
