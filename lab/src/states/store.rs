//! Whole stores on the simulated disk, with engines in memory that lose what was not synced: every state is opened, read
//! whole, cut again while it opens or afterwards, opened and read once more.

use super::explore::{Counts, Judge, Seen, explore};
use super::image::Image;
use super::{Limits, Part, locked};
use crate::Random;
use annulus::testing::{self, Background, Disk, Fault, MemoryFactory, Operation, PowerCut, Seams, SimDisk};
use annulus::{Durability, Options, Store, WriteBatch};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

const DIR: &str = "/store";
const KEYS: u64 = 24;

type Commit = Vec<(u8, Option<Vec<u8>>)>;
type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(number: u8) -> Vec<u8> {
    format!("{}/{number}", number % 5).into_bytes()
}

/// What is there after the first commits of a log.
fn content(log: &[Commit]) -> Content {
    let mut content = Content::new();
    for (number, value) in log.iter().flatten() {
        match value {
            Some(value) => content.insert(key(*number), value.clone()),
            None => content.remove(&key(*number)),
        };
    }
    content
}

/// The last commit that is there, and all records.
type Found = (u64, Content);

fn open(disk: &SimDisk, factory: &MemoryFactory, options: &Options) -> Result<Store, String> {
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    testing::open(Path::new(DIR), options, seams).map_err(|error| format!("does not open: {error}"))
}

fn look(store: &Store) -> Result<Found, String> {
    let text = |error: annulus::Error| format!("cannot be read: {error}");
    let last = store.stats().map_err(text)?.last_seq.0;
    let mut content = Content::new();
    for record in store.iter() {
        let (key, value) = record.map_err(text)?;
        let got = store.get(&key).map_err(text)?;
        if got.as_deref() != Some(&value[..]) {
            return Err(format!("a scan and a get differ at {key:?}"));
        }
        content.insert(key.to_vec(), value.to_vec());
    }
    Ok((last, content))
}

struct Recovery<'a> {
    log: &'a [Commit],
    floor: usize,
    factory: &'a MemoryFactory,
    options: &'a Options,
    random: Mutex<Random>,
    second: Mutex<u64>,
}

impl Judge for Recovery<'_> {
    type Outcome = Result<[Found; 2], String>;

    fn reads(&self, path: &Path) -> bool {
        path.extension().is_none_or(|e| e == "seg")
    }

    fn recover(&self, image: &Image) -> Self::Outcome {
        let mut random = locked(&self.random);
        let contents = image.contents();
        let files: Vec<(&Path, &[u8])> =
            contents.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
        let disk = SimDisk::with_files(random.draw(), image.boot as u64, &image.dirs, &files);
        let factory = self.factory.fork();
        factory.crash(random.draw());
        let first = if random.below(2) == 0 {
            disk.stop_after(random.below(60));
            let opened = open(&disk, &factory, self.options);
            *locked(&self.second) += 1;
            match opened {
                Ok(store) => Some(look(&store)?),
                Err(error) if !disk.stopped() => return Err(error),
                Err(_) => None,
            }
        } else {
            Some(look(&open(&disk, &factory, self.options)?)?)
        };
        let again = disk.crash(PowerCut { seed: random.draw() });
        factory.crash(random.draw());
        let second = look(&open(&again, &factory, self.options)?)?;
        Ok([first.unwrap_or_else(|| second.clone()), second])
    }

    fn check(&self, outcome: &Self::Outcome) -> Result<(), String> {
        let [first, second] = outcome.as_ref().map_err(String::clone)?;
        if first != second {
            return Err(format!("recovered {} first, and {} after another cut", first.0, second.0));
        }
        let last = first.0 as usize;
        if last < self.floor || last > self.log.len() {
            return Err(format!("lost: {} were promised, {last} came back", self.floor));
        }
        if content(&self.log[..last]) != first.1 {
            return Err(format!("foreign: not what the first {last} commits leave"));
        }
        Ok(())
    }
}

struct Watched {
    log: Vec<Commit>,
    synced: usize,
    process: usize,
    factory: MemoryFactory,
    options: Options,
    counts: Counts,
    random: Random,
    recovering: bool,
    failure: Option<String>,
}

impl Watched {
    fn look(&mut self, disk: &SimDisk, limits: Limits) {
        if self.failure.is_some() {
            return;
        }
        let ends = disk.open_ends(limits.cut.names, self.random.draw());
        let judge = Recovery {
            log: &self.log,
            floor: self.synced,
            factory: &self.factory,
            options: &self.options,
            random: Mutex::new(Random::new(self.random.draw())),
            second: Mutex::new(0),
        };
        let (mut seen, before) = (Seen::default(), self.counts.states);
        let bounds = (limits.cut, &mut self.random);
        let outcome = explore(&ends, 0, disk.boot_id() + 1, &judge, &mut seen, bounds, &mut self.counts);
        self.counts.second +=
            if self.recovering { self.counts.states - before } else { *locked(&judge.second) };
        self.failure = outcome.err();
    }
}

struct Run {
    disk: SimDisk,
    watched: Arc<Mutex<Watched>>,
    random: Random,
}

impl Run {
    fn failure(&self) -> Result<(), String> {
        locked(&self.watched).failure.clone().map_or(Ok(()), Err)
    }

    /// Opens the store and checks that what is there is right.
    fn open(&mut self) -> Result<Store, String> {
        let (factory, options) = {
            let watched = locked(&self.watched);
            (watched.factory.clone(), watched.options.clone())
        };
        let store = open(&self.disk, &factory, &options);
        self.failure()?;
        let store = store?;
        let found = look(&store)?;
        let mut watched = locked(&self.watched);
        let last = found.0 as usize;
        if last < watched.process || last > watched.log.len() || content(&watched.log[..last]) != found.1 {
            return Err(format!("{last} of {} commits came back, or others", watched.process));
        }
        watched.log.truncate(last);
        (watched.process, watched.synced, watched.recovering) = (last, last, false);
        Ok(store)
    }

    fn commit(&mut self, store: &Store) -> annulus::Result<()> {
        let (mut batch, mut commit) = (WriteBatch::new(), Commit::new());
        for _ in 0..1 + self.random.below(5) {
            let number = self.random.below(KEYS) as u8;
            let value = (self.random.below(10) < 7).then(|| {
                let len = if self.random.below(30) == 0 { 9_000 } else { self.random.below(400) };
                vec![self.random.draw() as u8; len as usize]
            });
            match &value {
                Some(value) => batch.insert(key(number), value),
                None => batch.remove(key(number)),
            };
            commit.push((number, value));
        }
        let count = {
            let mut watched = locked(&self.watched);
            watched.log.push(commit);
            watched.log.len()
        };
        let durability =
            [Durability::Memory, Durability::Process, Durability::Sync][self.random.below(3) as usize];
        let outcome = store.commit_with(batch, durability);
        let mut watched = locked(&self.watched);
        match outcome {
            Ok(_) if durability == Durability::Sync => (watched.process, watched.synced) = (count, count),
            Ok(_) if durability == Durability::Process => watched.process = count,
            Ok(_) => {}
            Err(error) => {
                drop(watched);
                let placed = store.stats().is_ok_and(|stats| stats.last_seq.0 as usize == count);
                if !placed {
                    locked(&self.watched).log.pop();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn step(&mut self, store: &Store) -> annulus::Result<()> {
        match self.random.below(16) {
            0..10 => self.commit(store),
            10 => {
                let count = locked(&self.watched).log.len();
                store.sync()?;
                let mut watched = locked(&self.watched);
                (watched.process, watched.synced) = (count, count);
                Ok(())
            }
            11 => {
                testing::freeze(store);
                Ok(())
            }
            12 => testing::flush_oldest(store).map(drop),
            13 => store.flush(),
            14 => testing::tick(store),
            _ => testing::recount(store).map(drop),
        }
    }

    fn session(&mut self, faulty: bool) -> Result<(), String> {
        let store = self.open()?;
        if faulty {
            let fault = Fault::on(Operation::Sync).after(self.random.below(8)).times(1);
            // By the directory: a segment's file is known by the name that it was made under.
            self.disk.inject(fault.at(|path| path.to_string_lossy().contains("/journal/")));
        }
        for _ in 0..3 + self.random.below(9) {
            let outcome = self.step(&store);
            self.failure()?;
            match outcome {
                Ok(()) => {}
                Err(_) if faulty => {
                    locked(&self.watched).counts.failed += 1;
                    if self.commit(&store).is_ok() && self.commit(&store).is_err() {
                        return Err("acknowledged, and then not any more".into());
                    }
                    break;
                }
                Err(error) => return Err(format!("refused: {error}")),
            }
        }
        if self.random.below(4) == 0 && store.clone().close().is_ok() {
            let mut watched = locked(&self.watched);
            let count = watched.log.len();
            (watched.process, watched.synced) = (count, count);
        }
        self.failure()?;
        let cut = self.random.below(2) == 0;
        let seed = self.random.draw();
        self.disk = if cut { self.disk.crash(PowerCut { seed }) } else { self.disk.kill() };
        drop(store);
        let mut watched = locked(&self.watched);
        if cut {
            watched.factory.crash(seed);
            watched.process = watched.synced;
        }
        watched.recovering = cut;
        Ok(())
    }
}

/// Runs one script, and says what it went through.
pub fn script(seed: u64, limits: Limits) -> Part {
    let mut random = Random::new(seed);
    let shards = 1 + random.below(3) as usize;
    let mut options = Options::new()
        .shards(shards)
        .replication_factor(shards.min(1 + random.below(2) as usize))
        .virtual_nodes(64)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10);
    let disk = SimDisk::new(seed);
    disk.keep_versions();
    if random.below(2) == 0 {
        options = options.journal_dirs(["/a/journal", "/b/journal"]);
    }
    for dir in ["/a", "/b"] {
        if let Err(error) = disk.create_dir_all(Path::new(dir)).and_then(|()| disk.sync_dir(Path::new("/"))) {
            return (Counts::default(), Err(error.to_string()));
        }
    }
    let watched = Arc::new(Mutex::new(Watched {
        log: Vec::new(),
        synced: 0,
        process: 0,
        factory: MemoryFactory::new(),
        options,
        counts: Counts::default(),
        random: random.clone(),
        recovering: false,
        failure: None,
    }));
    let looked = watched.clone();
    disk.watch(move |disk| locked(&looked).look(disk, limits));
    let mut run = Run { disk, watched, random };
    let mut outcome = Ok(());
    for _ in 0..3 {
        let faulty = run.random.below(3) == 0;
        outcome = run.session(faulty);
        if outcome.is_err() {
            break;
        }
    }
    let counts = locked(&run.watched).counts;
    (counts, outcome)
}
