//! A store under writes, reads, flushes and what else touches its files, while something goes wrong with one kind of them. What is refused
//! or wrong is said, and not died of: whoever made the fault knows what it may lead to.

use super::fault::Target;
use crate::annulus::{compare_copies, make_whole};
use crate::child::say;
use crate::{Random, Result, model};
use annulus::{Durability, ErrorKind, Keyspace, Options, ShardOptions, Store};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a store may take to make itself whole when nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(150);

/// What the child is told on its command line.
pub struct Task {
    pub store: PathBuf,
    /// Where files lie that say that the time has come: `lifted` when the fault is over.
    pub signs: PathBuf,
    pub target: Target,
    pub seed: u64,
}

fn open(task: &Task) -> annulus::Result<Store> {
    let inside = |name: &str| task.store.join("shards").join(name);
    let device = task.signs.with_file_name("device");
    let shards = match task.target {
        Target::ShardDevice => [inside("0000"), device.join("shard"), inside("0002")],
        _ => ["0000", "0001", "0002"].map(inside),
    };
    let options = shards
        .map(ShardOptions::new)
        .into_iter()
        .fold(Options::new(), Options::shard)
        .replication_factor(2)
        .virtual_nodes(32)
        .memory_budget(8 << 20)
        .journal_segment_bytes(256 << 10)
        .journal_retention(32 << 20)
        .quarantine_limit(1);
    match task.target {
        Target::JournalCopy | Target::LastCopy | Target::Small => {
            options.journal_dirs([task.store.join("journal-a"), task.store.join("journal-b")])
        }
        Target::JournalDevice => options.journal_dir(device.join("journal")),
        _ => options,
    }
    .open(&task.store)
}

fn text(error: &annulus::Error) -> String {
    format!("{error:?}").replace('\n', " ")
}

pub fn work(task: &Task) -> Result<()> {
    let store = open(task)?;
    let log = store.keyspace("log")?;
    say("open");
    let (stop, poisoned) = (AtomicBool::new(false), AtomicBool::new(false));
    let lifted = task.signs.join("lifted");
    std::thread::scope(|scope| {
        for writer in 0..model::WRITERS {
            let (store, log, stop, poisoned) = (&store, &log, &stop, &poisoned);
            let random = Random::new(task.seed ^ writer << 40);
            let only_synced = task.target.may_refuse();
            scope.spawn(move || write(store, log, writer, only_synced, random, (stop, poisoned)));
        }
        scope.spawn(|| look_on(&store, Random::new(task.seed ^ 0x7ead), &stop));
        scope.spawn(|| scan(&store, &stop));
        scope.spawn(|| meddle(&store, task, &stop));
        while !lifted.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Some more of everything when all is well again.
        std::thread::sleep(Duration::from_millis(20));
        stop.store(true, Ordering::Relaxed);
    });
    if poisoned.load(Ordering::Relaxed) {
        say("poisoned");
        // What there is of it must be found by the next opening.
        std::process::exit(0);
    }
    match settle(&store) {
        Ok(()) => say("settled"),
        Err(error) => say(&format!("unsettled {error}").replace('\n', " ")),
    }
    std::process::exit(0);
}

fn write(
    store: &Store,
    log: &Keyspace,
    writer: u64,
    only_synced: bool,
    mut random: Random,
    (stop, poisoned): (&AtomicBool, &AtomicBool),
) {
    let mut n = 1;
    while !stop.load(Ordering::Relaxed) {
        let sync = random.below(2) == 0;
        let durability = if sync { Durability::Sync } else { Durability::Process };
        match store.commit_with(model::batch(log, writer, n), durability) {
            Ok(_) => {
                // Of a disk that fails, with the only copy, nothing is promised for what was not synced.
                if sync || !only_synced {
                    say(&format!("wrote {writer} {n}"));
                }
                n += 1;
            }
            // Nothing was written: it is tried again.
            Err(error) if error.kind() == ErrorKind::Full => {
                say(&format!("full {}", text(&error)));
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                say(&format!("refused a write: {}", text(&error)));
                poisoned.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Reads beside the writes: whatever is there was written, and by a batch that is not above the writer's last.
fn look_on(store: &Store, mut random: Random, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (writer, slot) = (random.below(model::WRITERS), random.below(model::SLOTS));
        let read = || -> annulus::Result<Option<String>> {
            let found = store.get(model::key(writer, slot))?;
            let last = store.get(model::last_key(writer))?.map_or(0, |value| model::number(&value));
            let Some(found) = found else { return Ok(None) };
            let n = model::number(&found);
            let wrong = n > last || found[..] != model::value(writer, n, slot);
            Ok(wrong.then(|| format!("slot {slot} of writer {writer}, at {last}, has {n}")))
        };
        match read() {
            Ok(None) => {}
            Ok(Some(wrong)) => say(&format!("wrong {wrong}")),
            Err(error) => say(&format!("refused a read: {}", text(&error))),
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A scan sees one moment: each writer's batches up to one of them, and no others.
fn scan(store: &Store, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut last = [0; model::WRITERS as usize];
        let mut most = [0; model::WRITERS as usize];
        for item in store.iter() {
            let (key, value) = match item {
                Ok(record) => record,
                Err(error) => {
                    say(&format!("refused a scan: {}", text(&error)));
                    break;
                }
            };
            let parts: Vec<&[u8]> = key.splitn(3, |byte| *byte == b'/').collect();
            let writer =
                parts.get(1).and_then(|part| part.first()).map_or(0, |digit| usize::from(*digit - b'0'));
            let of = if key.starts_with(b"last") { &mut last } else { &mut most };
            of[writer] = model::number(&value).max(of[writer]);
        }
        if last.iter().zip(most).any(|(last, most)| *last < most && *last > 0) {
            say(&format!("wrong a scan has batches up to {most:?}, their last ones are {last:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What else touches files. It may fail while something is wrong with them.
fn meddle(store: &Store, task: &Task, stop: &AtomicBool) {
    let mut random = Random::new(task.seed ^ 0x5eed);
    let mut turn = 0u64;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(random.below(15)));
        turn += 1;
        let is_small = task.target == Target::Small;
        let done = match turn % 16 {
            // Writes word of itself.
            2 => store.scrub().map(drop),
            // Writes the manifest, twice.
            n if is_small && n % 2 == 1 => {
                let name = format!("passing-{}", random.below(4));
                store.keyspace(&name).and_then(|_| store.drop_keyspace(&name))
            }
            _ => store.flush(),
        };
        if let Err(error) = done {
            say(&format!("failed beside: {}", text(&error)));
        }
    }
}

/// With nothing wrong any more the store is whole again, by itself or when it is asked to be, and holds all that it should.
fn settle(store: &Store) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !store.health()?.is_good() {
        if Instant::now() > deadline {
            return Err(format!("does not heal: {:?}", store.health()?).into());
        }
        for shard in store.health()?.shards {
            // Busy where it is being healed already.
            let _ = store.repair(shard.id);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // One that began while something was wrong may say so; the next one finds nothing.
    let _ = store.scrub()?.wait();
    while let Err(error) = make_whole(store) {
        if Instant::now() > deadline {
            return Err(error);
        }
    }
    // What the records are is looked at when it has been opened again.
    compare_copies(store)?;
    store.flush()?;
    Ok(())
}
