//! The journal alone: random scripts of appends, syncs, trims and openings, cut before every operation of the disk.

use super::explore::{Bounds, Counts, Judge, Seen, explore};
use super::image::{Image, ImageFile};
use super::{Limits, Part, locked};
use crate::Random;
use annulus::testing::{Disk, Fault, Handoff, Journal, JournalConfig, Operation, Payload, PowerCut, SimDisk};
use annulus::{Error, ErrorKind, Seq};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

const DIR: &str = "/store/journal";
const CONFIG: JournalConfig = JournalConfig { store_id: 0xfeed_beef, segment_bytes: 16 << 10, max_spares: 2 };
/// Of so many disks that differ, one is opened, and cut while that goes on.
const DEEP: u64 = 400;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(5);
    (0..64 << 10).map(|_| random.draw() as u8).collect()
});

/// What is in a frame that says in which life it was written, so that what was cut off and written anew can be told.
fn body(seq: u64, life: u8) -> &'static [u8] {
    let drawn = Random::new(seq << 8 | u64::from(life)).draw();
    let len = match drawn % 64 {
        0 => 18_000,
        1..6 => drawn / 64 % 2500,
        6..20 => drawn / 64 % 1200,
        _ => drawn / 64 % 300,
    } as usize;
    let start = (drawn >> 20) as usize % 40_000;
    &NOISE[start..start + len]
}

fn payload(seq: u64, life: u8) -> Vec<u8> {
    let mut bytes = vec![life];
    bytes.extend_from_slice(body(seq, life));
    bytes
}

fn next_hash(hash: u64, seq: u64, life: u8) -> u64 {
    (hash ^ seq << 8 ^ u64::from(life)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// What the journal has promised so far.
#[derive(Debug, Clone, Default)]
struct Promises {
    /// The life that wrote each sequence, from 1 on: written, or being written.
    lives: Vec<u8>,
    life: u8,
    /// Survives the death of the process.
    handed: u64,
    /// Survives a power cut.
    synced: u64,
    /// Nothing up to this needs to be there.
    from: u64,
}

/// What came back.
#[derive(Debug, Clone)]
enum Outcome {
    Log { last: u64, hash: u64 },
    Error(Error),
}

struct Recovery<'a> {
    promises: &'a Promises,
    floor: u64,
    /// The hash of the right log up to each sequence from `from` on.
    right: Vec<u64>,
    deep: Option<&'a Mutex<Random>>,
}

impl<'a> Recovery<'a> {
    fn new(promises: &'a Promises, floor: u64, deep: Option<&'a Mutex<Random>>) -> Recovery<'a> {
        let mut right = vec![0];
        for (index, life) in promises.lives.iter().enumerate().skip(promises.from as usize) {
            right.push(next_hash(right[right.len() - 1], index as u64 + 1, *life));
        }
        Recovery { promises, floor, right, deep }
    }

    fn salt(&self) -> u128 {
        u128::from(self.promises.from).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

fn recover(disk: &dyn Disk, from: u64) -> Outcome {
    let (mut hash, mut next) = (0, from + 1);
    let mut visit = |seq: Seq, bytes: &[u8]| {
        let life = bytes.first().copied().unwrap_or(0);
        let is_right = seq.0 == next && bytes.get(1..) == Some(body(seq.0, life));
        if !is_right {
            hash ^= 0xdead;
        }
        hash = next_hash(hash, seq.0, life);
        next += 1;
        Ok(())
    };
    match Journal::examine(disk, Path::new(DIR), CONFIG.store_id, Seq(from), Seq(from), &mut visit) {
        Ok(report) => Outcome::Log { last: report.last.0, hash },
        Err(error) => Outcome::Error(error),
    }
}

impl Judge for Recovery<'_> {
    type Outcome = Outcome;

    fn reads(&self, path: &Path) -> bool {
        path.extension().is_some_and(|e| e == "seg")
    }

    fn recover(&self, image: &Image) -> Outcome {
        recover(image, self.promises.from)
    }

    fn check(&self, outcome: &Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Error(error) => Err(format!("does not open: {error}")),
            Outcome::Log { last, .. } if *last < self.floor => {
                Err(format!("lost: {} were promised, {last} came back", self.floor))
            }
            Outcome::Log { last, hash } => {
                let right = last.checked_sub(self.promises.from).and_then(|n| self.right.get(n as usize));
                if right == Some(hash) {
                    Ok(())
                } else {
                    Err(format!("foreign: up to {last} something else came back"))
                }
            }
        }
    }

    /// Opens the disk for good, cut before each of the operations that this takes; and what it found stays found.
    fn deepen(&self, image: &Image, counts: &mut Counts) -> Result<(), String> {
        let Some(random) = self.deep else { return Ok(()) };
        let mut drawn = locked(random);
        if drawn.below(DEEP) > 0 {
            return Ok(());
        }
        let seed = drawn.draw();
        drop(drawn);
        let contents = image.contents();
        let files: Vec<(&Path, &[u8])> =
            contents.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
        let disk = SimDisk::with_files(seed, image.boot as u64, &image.dirs, &files);
        let promises = Promises { handed: self.floor, ..self.promises.clone() };
        let mut run =
            Run::new(disk, promises, Limits { cut: Bounds { states: 24, names: 4 }, deep: false }, seed);
        run.open().map_err(|what| format!("{} (while the cut was recovered from)", String::from(what)))?;
        run.look();
        let found = locked(&run.watched);
        let mut of_this = found.counts;
        (of_this.second, of_this.open) = (of_this.states, 0);
        counts.add(&of_this);
        found.failure.clone().map_or(Ok(()), |what| Err(format!("{what} (a second cut)")))
    }
}

/// What is known to those who look at the disk before each operation.
struct Watched {
    promises: Promises,
    seen: Seen<Outcome>,
    counts: Counts,
    random: Random,
    deep: Mutex<Random>,
    limits: Limits,
    /// The run of the machine after the last power cut in which no journal was opened yet: then a cut is a second one.
    recovering: bool,
    failure: Option<String>,
}

impl Watched {
    /// Cuts the power now; and lets only the process die.
    fn look(&mut self, disk: &SimDisk) {
        if self.failure.is_some() || self.promises.lives.is_empty() && self.promises.life == 0 {
            return;
        }
        let before = self.counts.states;
        let boot = disk.boot_id();
        let ends = disk.open_ends(self.limits.cut.names, self.random.draw());
        let judge =
            Recovery::new(&self.promises, self.promises.synced, self.limits.deep.then_some(&self.deep));
        let bounds = (self.limits.cut, &mut self.random);
        let salt = judge.salt();
        let cut = explore(&ends, salt, boot + 1, &judge, &mut self.seen, bounds, &mut self.counts);
        let lost = recover(&image_now(disk, boot), self.promises.from);
        let killed = Recovery::new(&self.promises, self.promises.handed, None);
        let killed = killed.check(&lost).map_err(|what| format!("{what}, with nothing but the process dead"));
        (self.counts.states, self.counts.killed) = (self.counts.states + 1, self.counts.killed + 1);
        if self.recovering {
            self.counts.second += self.counts.states - before;
        }
        self.failure = cut.and(killed).err();
    }
}

/// The files as they are for a process that starts now.
fn image_now(disk: &SimDisk, boot: u128) -> Image {
    let files = disk.files().into_iter().map(|(path, bytes)| {
        let len = bytes.len();
        (path, ImageFile::new(bytes, len))
    });
    let dirs = ["/", "/store", DIR].map(PathBuf::from).to_vec();
    Image { files: files.collect(), dirs, boot }
}

/// Why a journal was not opened.
enum Unopened {
    /// A promise was broken.
    Broken(String),
    /// It was refused, which a fault may be the reason of.
    Refused(Error),
}

impl From<String> for Unopened {
    fn from(what: String) -> Unopened {
        Unopened::Broken(what)
    }
}

impl From<Unopened> for String {
    fn from(unopened: Unopened) -> String {
        match unopened {
            Unopened::Broken(what) => what,
            Unopened::Refused(error) => format!("does not open: {error}"),
        }
    }
}

/// A script as it runs.
struct Run {
    disk: SimDisk,
    watched: Arc<Mutex<Watched>>,
    journal: Option<Journal>,
    random: Random,
    calm: bool,
}

impl Run {
    fn new(disk: SimDisk, promises: Promises, limits: Limits, seed: u64) -> Run {
        let watched = Arc::new(Mutex::new(Watched {
            promises,
            seen: Seen::default(),
            counts: Counts::default(),
            random: Random::new(seed ^ 1),
            deep: Mutex::new(Random::new(seed ^ 2)),
            limits,
            recovering: false,
            failure: None,
        }));
        let looked = watched.clone();
        disk.watch(move |disk| locked(&looked).look(disk));
        let mut random = Random::new(seed);
        let calm = random.below(3) == 0;
        Run { disk, watched, journal: None, random, calm }
    }

    fn promised<T>(&self, change: impl FnOnce(&mut Promises) -> T) -> T {
        change(&mut locked(&self.watched).promises)
    }

    fn look(&self) {
        locked(&self.watched).look(&self.disk);
    }

    fn failure(&self) -> Result<(), String> {
        locked(&self.watched).failure.clone().map_or(Ok(()), Err)
    }

    /// Opens the journal; what it finds must be what was promised, and is from here on.
    fn open(&mut self) -> Result<(), Unopened> {
        let promises = self.promised(|promises| promises.clone());
        let from = Seq(promises.from);
        let (mut hash, disk) = (0, Arc::new(self.disk.clone()));
        let mut visit = |seq: Seq, bytes: &[u8]| {
            let life = bytes.first().copied().unwrap_or(0);
            if bytes.get(1..) != Some(body(seq.0, life)) {
                hash ^= 0xdead;
            }
            hash = next_hash(hash, seq.0, life);
            Ok(())
        };
        let opened = Journal::open(disk, Path::new(DIR), CONFIG, from, from, &mut visit);
        self.failure()?;
        let (journal, report) = opened.map_err(Unopened::Refused)?;
        let last = report.last.0;
        // Any number, so that frames are not of the same lengths in every script.
        let first = 1 + self.random.below(250) as u8;
        Recovery::new(&promises, promises.handed, None).check(&Outcome::Log { last, hash })?;
        self.promised(|promises| {
            promises.lives.truncate(last as usize);
            (promises.handed, promises.synced) = (last, last);
            promises.life = if promises.life == 0 { first } else { promises.life.wrapping_add(1).max(1) };
        });
        self.journal = Some(journal);
        locked(&self.watched).recovering = false;
        Ok(())
    }

    fn append(&self, journal: &Journal, handoff: Handoff) -> annulus::Result<()> {
        let seq = journal.last().0 + 1;
        let life = self.promised(|promises| {
            promises.lives.truncate(seq as usize - 1);
            promises.lives.push(promises.life);
            promises.life
        });
        journal.append(&Payload::new(&payload(seq, life)), handoff)?;
        if handoff == Handoff::Os {
            self.promised(|promises| promises.handed = seq);
        }
        Ok(())
    }

    fn tick(&self, journal: &Journal) -> annulus::Result<()> {
        journal.write_buffered()?;
        self.promised(|promises| promises.handed = journal.last().0);
        Ok(())
    }

    fn sync_to(&self, journal: &Journal, seq: u64) -> annulus::Result<()> {
        journal.sync_to(Seq(seq))?;
        self.promised(|promises| {
            promises.synced = promises.synced.max(seq);
            promises.handed = promises.handed.max(seq);
        });
        Ok(())
    }

    fn step(&mut self, journal: &Journal) -> annulus::Result<()> {
        // Calm scripts are mostly appends and syncs of one writer, so that these go past the cache.
        let calm = self.calm && self.random.below(16) > 0;
        let draw = if calm {
            [0, 0, 0, 10, 11, 11, 11, 16][self.random.below(8) as usize]
        } else {
            self.random.below(16)
        };
        let last = journal.last().0;
        match draw {
            0..4 => self.append(journal, Handoff::Buffered)?,
            4..10 => self.append(journal, Handoff::Os)?,
            10 => self.tick(journal)?,
            11 | 12 => {
                let back = self.random.below(3).min(last);
                self.sync_to(journal, last - back)?;
            }
            13 => drop(journal.provision()?),
            // What the tick hands over between two frames, the sync of the second must not leave in the cache.
            16 => {
                self.append(journal, Handoff::Buffered)?;
                self.tick(journal)?;
                self.append(journal, Handoff::Buffered)?;
                self.sync_to(journal, journal.last().0)?;
            }
            _ => {
                let back = 1 + self.random.below(12);
                let from = self.promised(|promises| {
                    promises.from = promises.from.max(promises.synced.saturating_sub(back));
                    promises.from
                });
                journal.trim(Seq(from + 1))?;
            }
        }
        Ok(())
    }

    /// A session, up to its end or an error that a fault brought.
    fn session(&mut self, faulty: bool) -> Result<(), String> {
        let strikes_first = faulty && self.random.below(2) == 0;
        if strikes_first {
            let after = self.random.below(16);
            self.disk.inject(match self.random.below(3) {
                0 => Fault::on(Operation::Write).after(after).times(1).short(),
                1 => Fault::on(Operation::Sync).after(after / 2).times(1),
                _ => Fault::on_any_change().after(after).times(1),
            });
        }
        match self.open() {
            // What it has promised before stays promised, to whoever opens it next.
            Err(Unopened::Refused(error)) if strikes_first && error.kind() == ErrorKind::Io => {
                locked(&self.watched).counts.failed += 1;
                self.look();
                self.disk.heal();
                return self.failure();
            }
            opened => opened?,
        }
        let journal = self.journal.take().ok_or("no journal")?;
        let steps = 4 + self.random.below(24);
        if faulty {
            let after = self.random.below(6);
            self.disk.inject(match self.random.below(3) {
                0 => Fault::on(Operation::Write).after(after).times(1).short(),
                _ => Fault::on(Operation::Sync).after(after).times(1),
            });
        }
        for _ in 0..steps {
            let outcome = self.step(&journal);
            self.failure()?;
            match outcome {
                Ok(()) => {}
                Err(error) if faulty && journal.poisoned().is_some() => {
                    locked(&self.watched).counts.failed += 1;
                    return self.poisoned(&journal, &error);
                }
                // A segment that could not be made: nothing has happened.
                Err(error) if faulty && error.kind() != ErrorKind::Poisoned => {
                    locked(&self.watched).counts.failed += 1;
                }
                Err(error) => return Err(format!("refused: {error}")),
            }
        }
        self.disk.heal();
        if self.random.below(3) == 0 {
            journal.close().map_err(|error| format!("does not close: {error}"))?;
            let last = journal.last().0;
            self.promised(|promises| (promises.handed, promises.synced) = (last, last));
        }
        self.look();
        self.failure()?;
        self.damage()
    }

    /// After a failed write or sync nothing is acknowledged any more.
    fn poisoned(&mut self, journal: &Journal, first: &Error) -> Result<(), String> {
        let durable = journal.durable();
        for _ in 0..3 {
            let late = [
                journal.sync_to(Seq::MAX),
                journal.append(&Payload::new(b"late"), Handoff::Os).map(drop),
                journal.append(&Payload::new(b"late"), Handoff::Buffered).map(drop),
                journal.write_buffered(),
                journal.close(),
            ];
            if late[1..].iter().any(Result::is_ok) || late[0].is_ok() && journal.last() > durable {
                return Err(format!("acknowledged after a failure ({first}): {late:?}"));
            }
        }
        if journal.durable() > durable {
            return Err(format!("durable after a failure ({first}): {}", journal.durable()));
        }
        self.look();
        self.disk.heal();
        self.failure()
    }

    /// Bits flip, a block is lost or overwritten by another one, while only the process dies: all comes back, or the journal
    /// is refused by the name of a file.
    fn damage(&mut self) -> Result<(), String> {
        let (boot, promises) = (self.disk.boot_id(), self.promised(|promises| promises.clone()));
        let judge = Recovery::new(&promises, promises.handed, None);
        let files: Vec<_> = self
            .disk
            .files()
            .into_iter()
            .filter(|(path, bytes)| judge.reads(path) && bytes.len() > 8192)
            .collect();
        for _ in 0..24 {
            let image = image_now(&self.disk, boot);
            let (path, bytes) = &files[self.random.below(files.len() as u64) as usize];
            let block = [512, 4096][self.random.below(2) as usize];
            let mut place = |len: usize| self.random.below((len / block) as u64) as usize * block;
            let (at, other) = (place(bytes.len()), place(bytes.len()));
            let bit = self.random.below(bytes.len() as u64 * 8) as usize;
            let what = self.random.below(4);
            {
                let mut content = image.file(path).ok_or("no file")?.content();
                match what {
                    0 | 1 => content.bytes[bit / 8] ^= 1 << (bit % 8),
                    2 => content.bytes[at..at + block].fill(0),
                    _ => content.bytes.copy_within(at..at + block, other),
                }
            }
            let outcome = judge.recover(&image);
            let counts = &mut locked(&self.watched).counts;
            counts.damaged += 1;
            match &outcome {
                Outcome::Error(error) if error.kind() == ErrorKind::Corruption && error.path().is_some() => {
                    counts.refused += 1;
                }
                outcome => judge.check(outcome).map_err(|text| {
                    format!("{text}; damage {what} of {} at {at}, {other}, bit {bit}", path.display())
                })?,
            }
        }
        Ok(())
    }
}

/// Runs one script, and says what it went through.
pub fn script(seed: u64, limits: Limits) -> Part {
    let disk = SimDisk::new(seed);
    disk.keep_versions();
    let made = disk.create_dir_all(Path::new("/store")).and_then(|()| disk.sync_dir(Path::new("/")));
    let created = Journal::create(Arc::new(disk.clone()), Path::new(DIR), CONFIG, Seq(1));
    if let (Err(error), _) | (_, Err(error)) =
        (made.map_err(|e| e.to_string()), created.map_err(|e| e.to_string()))
    {
        return (Counts::default(), Err(error));
    }
    let mut run = Run::new(disk.kill(), Promises::default(), limits, seed);
    let mut outcome = Ok(());
    for _ in 0..2 + run.random.below(3) {
        let faulty = run.random.below(4) == 0;
        outcome = run.session(faulty).and_then(|()| run.failure());
        if outcome.is_err() {
            break;
        }
        let cut = run.random.below(2) == 0;
        run.disk = if cut { run.disk.crash(PowerCut { seed: run.random.draw() }) } else { run.disk.kill() };
        let mut watched = locked(&run.watched);
        watched.recovering = cut;
        if cut {
            watched.promises.handed = watched.promises.synced;
        }
    }
    let counts = locked(&run.watched).counts;
    (counts, outcome)
}
