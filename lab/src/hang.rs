//! Disks that do not answer: real file systems on loop devices on files of ours, whose requests are kept from some moment on until they are let go.
//! Whoever asks such a disk for something is in a call of the system's that cannot be ended, not even by a kill. Held against it is how long
//! the calls of a store take meanwhile, what they answer, and what there is when the disk is back.

use crate::disk::Disk;
use crate::fuse::Rack;
use crate::mount::{Kind, Mounted};
use crate::{Random, Result};
use annulus::{Durability, ErrorKind, Options, ShardId, ShardOptions, Store};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the stores are opened with for shards and for writes.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a call may take beyond what it was told: the machine may be busy.
const SLACK: Duration = Duration::from_secs(4);
/// After so long a call counts as one that never returns.
const NEVER: Duration = Duration::from_secs(90);
/// More than the stores have caches for.
const RECORDS: u32 = 60_000;
const SHARD: ShardId = ShardId(1);

#[derive(Debug)]
pub struct Config {
    pub kinds: Vec<Kind>,
    pub seed: u64,
    pub require: bool,
}

/// What hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Shard,
    Own,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Shard => "a shard's disk",
            Part::Own => "that of the store's directory and journal",
        }
    }
}

/// How long calls of one kind took, at the most.
#[derive(Debug, Default)]
struct Took {
    rows: Vec<(&'static str, Duration, Duration)>,
    broken: Vec<String>,
}

impl Took {
    /// Does something on a thread of its own, since it may never return, and notes how long it took, of which it may take `limit`.
    fn call<T: Send + 'static>(
        &mut self,
        what: &'static str,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let begun = Instant::now();
        let (done, outcome) = channel();
        std::thread::spawn(move || done.send(work()));
        let outcome = outcome.recv_timeout(NEVER).ok();
        self.note(what, limit, begun.elapsed());
        if outcome.is_none() {
            self.broken.push(format!("{what} does not return"));
        }
        outcome
    }

    fn note(&mut self, what: &'static str, limit: Duration, took: Duration) {
        if took > limit + SLACK {
            self.broken.push(format!("{what} took {took:?}, and may take {limit:?}"));
        }
        match self.rows.iter_mut().find(|(name, ..)| *name == what) {
            Some((_, _, longest)) => *longest = took.max(*longest),
            None => self.rows.push((what, limit, took)),
        }
    }

    fn must(&mut self, is: bool, what: impl FnOnce() -> String) {
        if !is {
            self.broken.push(what());
        }
    }
}

pub fn run(config: &Config) -> Result<bool> {
    println!("seed {}", config.seed);
    let scratch =
        crate::powercut::Scratch(std::env::temp_dir().join(format!("annulus-hang-{}", std::process::id())));
    let able = crate::child::own_mounts().and_then(|()| {
        let racks = scratch.0.join("rack");
        std::fs::create_dir_all(&racks)?;
        Ok(Rack::mount(&racks)?)
    });
    let rack = match able {
        Err(error) if !config.require => {
            println!("skipped: disks that hang need root, /dev/fuse and loop devices ({error})");
            return Ok(true);
        }
        able => able?,
    };
    println!("| file system | what hangs | longest calls | broken promises |\n|---|---|---|---:|");
    let mut all = Vec::new();
    for kind in &config.kinds {
        let image = match kind.fresh(&scratch.0) {
            Err(error) if !config.require => {
                println!("skipped: {} cannot be made here ({error})", kind.name());
                continue;
            }
            image => image?,
        };
        for part in [Part::Shard, Part::Own] {
            let place = scratch.0.join(format!("{}-{part:?}", kind.name()));
            let point = place.join("mnt");
            std::fs::create_dir_all(&point)?;
            let disk = Arc::new(Mutex::new(Disk::new(image.clone(), Vec::new(), Vec::new(), false)));
            let mounted = Mounted::new(&rack, *kind, disk, &point)?;
            let mut took = Took::default();
            let outcome = match part {
                Part::Shard => shard(&place, &mounted, config.seed, &mut took),
                Part::Own => own(&place, &mounted, config.seed, &mut took),
            };
            mounted.answer();
            if let Err(error) = outcome {
                took.broken.push(error.to_string());
            }
            let calls: Vec<String> = took
                .rows
                .iter()
                .map(|(what, _, longest)| format!("{what} {:.1} s", longest.as_secs_f32()))
                .collect();
            println!("| {} | {} | {} | {} |", kind.name(), part.name(), calls.join(", "), took.broken.len());
            all.extend(took.broken.iter().map(|text| format!("{}: {}: {text}", kind.name(), part.name())));
            drop(mounted);
            let _ = std::fs::remove_dir_all(&place);
        }
    }
    all.iter().for_each(|text| println!("{text}"));
    println!(
        "{}",
        if all.is_empty() {
            "no promise was broken".to_owned()
        } else {
            format!("{} promises were broken", all.len())
        }
    );
    Ok(all.is_empty())
}

fn options(place: &Path, shard: &Path) -> Options {
    let plain = |name: &str| ShardOptions::new(place.join(name));
    Options::new()
        .shard(plain("shard-0"))
        .shard(ShardOptions::new(shard))
        .shard(plain("shard-2"))
        .replication_factor(2)
        .memory_budget(8 << 20)
        .journal_segment_bytes(1 << 20)
        .shard_timeout(PATIENCE)
        .write_timeout(PATIENCE)
}

fn key(n: u32) -> [u8; 4] {
    n.wrapping_mul(2_654_435_761).to_be_bytes()
}

fn value(n: u32) -> Vec<u8> {
    let mut value = vec![b'v'; 180];
    value.extend_from_slice(&n.to_be_bytes());
    value
}

fn fill(store: &Store) -> Result<()> {
    for n in 0..RECORDS {
        store.insert(key(n), value(n))?;
    }
    store.flush()?;
    Ok(())
}

/// Takes everything out of the system's memory that can be read again.
fn forget() -> Result<()> {
    nix::unistd::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}

/// Gets and a scan, each of which must be right.
fn read(store: &Store, random: &mut Random, took: &mut Took, each: Duration) {
    for _ in 0..300 {
        let n = random.below(u64::from(RECORDS)) as u32;
        let of = store.clone();
        match took.call("get", each, move || of.get(key(n))) {
            Some(Ok(Some(found))) => took.must(found[..] == value(n), || format!("{n} has a wrong value")),
            Some(other) => took.broken.push(format!("{n}: {other:?}")),
            None => return,
        }
    }
    let of = store.clone();
    let scanned = took.call("scan", each * 3, move || {
        of.iter().map(|record| record.map(drop)).collect::<annulus::Result<Vec<()>>>()
    });
    match scanned {
        Some(Ok(all)) => {
            took.must(all.len() >= RECORDS as usize, || format!("a scan has {} records", all.len()))
        }
        Some(Err(error)) => took.broken.push(format!("a scan: {error}")),
        None => {}
    }
}

fn ask(store: &Store, took: &mut Took) {
    let of = store.clone();
    let _ = took.call("health", Duration::from_secs(1), move || of.health());
    let of = store.clone();
    let _ = took.call("stats", Duration::from_secs(1), move || of.stats());
}

fn all_is_there(store: &Store, took: &mut Took) -> Result<()> {
    for n in 0..RECORDS {
        let found = store.get(key(n))?;
        took.must(found.as_deref() == Some(&value(n)[..]), || format!("{n} is lost or wrong"));
    }
    Ok(())
}

fn shard(place: &Path, disk: &Mounted<'_>, seed: u64, took: &mut Took) -> Result<()> {
    let mut random = Random::new(seed);
    let options = options(place, &disk.point().join("shard-1"));
    let store = options.open(place.join("store"))?;
    fill(&store)?;
    forget()?;
    disk.silence();
    read(&store, &mut random, took, PATIENCE);
    let health = store.health()?;
    let offline = health
        .shards
        .iter()
        .any(|shard| shard.id == SHARD && matches!(shard.health, annulus::Health::Offline(_)));
    took.must(offline, || format!("the shard that hangs is not told of: {health:?}"));
    for n in 0..100 {
        let of = store.clone();
        if let Some(Err(error)) =
            took.call("insert, synced", PATIENCE, move || of.insert_with(key(n), value(n), Durability::Sync))
        {
            took.broken.push(format!("a write: {error}"));
        }
    }
    let of = store.clone();
    if let Some(Err(error)) = took.call("flush", PATIENCE, move || of.flush()) {
        took.broken.push(format!("a flush: {error}"));
    }
    ask(&store, took);
    let of = store.clone();
    let dropped = took.call("drop_quarantined", PATIENCE, move || of.drop_quarantined(SHARD));
    // There is nothing to drop, which the system may know without its disk: whoever has asked for sizes lately had the directory read.
    let known = match &dropped {
        Some(Ok(())) => true,
        Some(Err(error)) => error.kind() == ErrorKind::Unavailable,
        None => false,
    };
    took.must(known, || format!("drop_quarantined: {dropped:?}"));
    let (of, again) = (store.clone(), options.clone());
    let closed = took.call("close", PATIENCE * 10, move || of.close());
    took.must(matches!(&closed, Some(Err(error)) if error.kind() == ErrorKind::Unavailable), || {
        format!("close: {closed:?}")
    });
    let at = place.join("store");
    let opened = took.call("open", PATIENCE * 12, move || again.open(at));
    let Some(store) = opened else { return Ok(()) };
    let store = store?;
    read(&store, &mut random, took, PATIENCE);
    disk.answer();
    let begun = Instant::now();
    while !store.health()?.is_good() {
        if begun.elapsed() > NEVER {
            took.broken.push(format!("the shard is not taken back: {:?}", store.health()?));
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    all_is_there(&store, took)?;
    store.close()?;
    Ok(())
}

/// Opens a store that whoever gave up may not have let go.
fn when_unlocked(options: &Options, dir: &Path) -> Result<Store> {
    let begun = Instant::now();
    loop {
        match options.open(dir) {
            Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < NEVER => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return Ok(opened?),
        }
    }
}

fn own(place: &Path, disk: &Mounted<'_>, seed: u64, took: &mut Took) -> Result<()> {
    let mut random = Random::new(seed);
    let options = options(place, &place.join("shard-1"));
    let dir = disk.point().join("store");
    let shards = place.join("another");
    let (other, another) = (self::options(&shards, &shards.join("shard-1")), disk.point().join("another"));
    let store = other.open(&another)?;
    store.insert("key", "value")?;
    drop(store);
    let store = options.open(&dir)?;
    fill(&store)?;
    forget()?;
    disk.silence();
    let of = store.clone();
    let first =
        took.call("insert, synced", PATIENCE, move || of.insert_with("late", "value", Durability::Sync));
    let told = |outcome: &Option<annulus::Result<()>>| matches!(outcome, Some(Err(error)) if error.kind() == ErrorKind::Unavailable);
    let first = first.map(|outcome| outcome.map(drop));
    took.must(told(&first), || format!("a write: {first:?}"));
    let of = store.clone();
    let next = took.call("the next insert", Duration::ZERO, move || of.insert("refused", "value").map(drop));
    took.must(told(&next), || format!("the next write: {next:?}"));
    let of = store.clone();
    let synced = took.call("sync", Duration::ZERO, move || of.sync());
    took.must(told(&synced), || format!("a sync: {synced:?}"));
    let of = store.clone();
    let flushed = took.call("flush", PATIENCE, move || of.flush());
    took.must(told(&flushed), || format!("a flush: {flushed:?}"));
    let of = store.clone();
    let made = took.call("keyspace", PATIENCE, move || of.keyspace("made").map(drop));
    took.must(told(&made), || format!("a keyspace: {made:?}"));
    read(&store, &mut random, took, PATIENCE);
    ask(&store, took);
    let of = store.clone();
    let closed = took.call("close", PATIENCE * 10, move || of.close());
    took.must(told(&closed), || format!("close: {closed:?}"));
    drop(store);
    let (of, at) = (other.clone(), another.clone());
    let opened = took.call("open", PATIENCE * 10, move || of.open(at).map(drop));
    took.must(told(&opened), || format!("open: {opened:?}"));
    disk.answer();
    let store = when_unlocked(&other, &another)?;
    took.must(store.get("key")?.is_some(), || "a store that was opened when its disk hung is empty".into());
    store.close()?;
    let store = when_unlocked(&options, &dir)?;
    all_is_there(&store, took)?;
    took.must(store.get("refused")?.is_none(), || "what was refused is there".into());
    store.insert_with("last", "value", Durability::Sync)?;
    store.close()?;
    Ok(())
}
