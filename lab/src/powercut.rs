//! Power cuts: a child works on a store on a file system on a disk of ours; at moments that a seed chooses we take down what a cut
//! would find, durable blocks and those that were not flushed, and what had been acknowledged by then. From each such moment a
//! cut makes a disk, which is mounted afresh, and another child opens the store on it and holds it against what was
//! acknowledged. The next round goes on from one of the disks that were cut, so stores grow old, and openings after a cut are cut, too.
//!
//! Taking a moment down is a cut: nothing that comes later reaches that disk. The child is killed after the last moment.

use crate::Result;
use crate::disk::{Cut, Disk, Image, Trigger};
use crate::fuse::{Rack, lock};
use crate::mount::Kind;
use crate::report::{Cell, Outcome};
use crate::{Random, plants};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Moments of one life of the workload.
const MOMENTS: usize = 4;
/// Rounds before a new file system is begun.
const ROUNDS: usize = 12;
/// An opening, or making whole, that takes longer is told, in milliseconds.
const SLOW: u64 = 10_000;
/// Where the disks of a machine are mounted: all but the journal, and the journal where it has a disk of its own.
pub const POINTS: [&str; 2] = ["mnt", "mnt-1"];

pub struct Config {
    pub cuts: usize,
    /// No round begins later.
    pub minutes: Option<u64>,
    pub seed: u64,
    pub kinds: Vec<Kind>,
    pub replicas: Vec<usize>,
    pub modes: Vec<String>,
    pub subject: String,
    pub lie: bool,
    pub until_caught: bool,
    pub require: bool,
    pub plants: bool,
    pub only: Option<Vec<String>>,
    pub recheck: Option<PathBuf>,
}

impl Config {
    pub fn new(seed: u64) -> Config {
        Config {
            cuts: 150,
            minutes: None,
            seed,
            kinds: Kind::ALL.to_vec(),
            replicas: vec![1, 2, 3],
            modes: ["write", "move", "checkpoint", "heal"].map(str::to_owned).to_vec(),
            subject: "annulus".to_owned(),
            lie: false,
            until_caught: false,
            require: false,
            plants: false,
            only: None,
            recheck: None,
        }
    }

    /// What may go on: with one replica nothing heals; where a cut may cost a shard, one of two must not be taken away as well.
    fn modes(&self, kind: Kind, replicas: usize) -> Vec<&str> {
        let heals = replicas > if kind == Kind::Btrfs { 2 } else { 1 };
        self.modes.iter().map(String::as_str).filter(|mode| *mode != "heal" || heals).collect()
    }
}

/// A directory of ours, removed when dropped.
pub struct Scratch(pub PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Lab {
    pub config: Config,
    // Unmounted before the directory is removed.
    pub rack: Rack,
    pub scratch: Scratch,
    pub boots: AtomicU64,
    pub kept: usize,
}

/// Where a store has got to: its disks, and what was acknowledged on them.
struct Line {
    images: Vec<Image>,
    acks: Vec<String>,
    rounds: usize,
    /// Nothing has been moved or healed in it.
    calm: bool,
}

pub fn run(config: Config) -> Result<bool> {
    if config.plants {
        return plants::run_all(&config);
    }
    let require = config.require;
    let mut lab = match Lab::new(config) {
        Ok(lab) => lab,
        Err(error) if !require => {
            println!("skipped: power cuts need root, /dev/fuse and loop devices ({error})");
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    if let Some(dir) = lab.config.recheck.clone() {
        return lab.recheck(&dir);
    }
    lab.run()
}

impl Lab {
    fn new(config: Config) -> Result<Lab> {
        crate::child::own_mounts()?;
        let scratch = Scratch(std::env::temp_dir().join(format!("annulus-lab-{}", std::process::id())));
        for name in ["disks"].iter().chain(&POINTS) {
            std::fs::create_dir_all(scratch.0.join(name))?;
        }
        let rack = Rack::mount(&scratch.0.join("disks"))?;
        let lab = Lab { config, rack, scratch, boots: AtomicU64::new(0), kept: 0 };
        // Whether it can be done here at all.
        let image = Kind::Ext4.fresh(&lab.scratch.0)?;
        drop(lab.mount_all(Kind::Ext4, Disk::new(image, Vec::new(), Vec::new(), false), Vec::new())?);
        Ok(lab)
    }

    fn run(&mut self) -> Result<bool> {
        println!("powercut: --seed {}", self.config.seed);
        let mut cells: Vec<(Cell, Vec<Image>, Option<Line>)> = Vec::new();
        for kind in self.config.kinds.clone() {
            // Each made by itself: btrfs does not mount two of one identity at once.
            match POINTS.iter().map(|_| kind.fresh(&self.scratch.0)).collect::<Result<Vec<Image>>>() {
                Ok(fresh) => {
                    let of = |replicas: &usize| (Cell::new(kind, *replicas), fresh.clone(), None);
                    cells.extend(self.config.replicas.iter().map(of));
                }
                Err(error) if !self.config.require => println!("skipped: {} ({error})", kind.name()),
                Err(error) => return Err(error),
            }
        }
        let (mut round, mut done, mut caught) = (0u64, 0, false);
        let end = self.config.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let in_time = || end.is_none_or(|end| Instant::now() < end);
        while done < self.config.cuts
            && in_time()
            && !cells.is_empty()
            && !(caught && self.config.until_caught)
        {
            let at = round as usize % cells.len();
            let (cell, fresh, line) = &mut cells[at];
            let start = line.take().filter(|line| line.rounds < ROUNDS);
            let seed = self.config.seed.wrapping_mul(1_000_003).wrapping_add(round);
            // Half of the stores have their journal on a disk of its own: a sync of the journal does not flush the shards' disk then.
            let disks = if self.config.subject == "annulus" { 1 + seed as usize / 2 % 2 } else { 1 };
            let fresh = || fresh.iter().take(disks).cloned().collect();
            let start =
                start.unwrap_or_else(|| Line { images: fresh(), acks: Vec::new(), rounds: 0, calm: true });
            let left = self.config.cuts - done;
            let before = cell.cuts();
            *line = self.round(cell, start, seed, left)?;
            done += cell.cuts() - before;
            caught |= cell.violations() > 0;
            round += 1;
            if round.is_multiple_of(25) {
                eprintln!("{done} cuts");
            }
        }
        let cells: Vec<Cell> = cells.into_iter().map(|(cell, _, _)| cell).collect();
        crate::report::print(&self.config.subject, &cells);
        Ok(cells.iter().all(|cell| cell.violations() == 0))
    }

    /// One life of the workload, and the cuts in it. Returns where the next one goes on.
    fn round(&mut self, cell: &mut Cell, start: Line, seed: u64, most: usize) -> Result<Option<Line>> {
        let mut random = Random::new(seed);
        let modes = self.config.modes(cell.kind, cell.replicas);
        let mode = modes[random.below(modes.len() as u64) as usize].to_owned();
        let calm = start.calm && ["write", "checkpoint"].contains(&mode.as_str());
        let triggers = triggers(&mut random);
        let mut images = start.images.into_iter();
        let first = images.next().ok_or("no disk")?;
        let first = Disk::new(first, start.acks.clone(), triggers, self.config.lie);
        let (disk, mounted) = self.mount_all(cell.kind, first, images.collect())?;
        let failed = self.work(cell, &mode, seed, mounted.len(), &disk)?;
        drop(mounted);
        let moments = std::mem::take(&mut lock(&disk).moments);
        drop(disk);
        if let Some(error) = failed {
            cell.count(&mode, None, 0, Outcome::Broken(format!("the workload failed: {error}")));
            println!(
                "{} R={} {mode}: the workload failed: {error} (round seed {seed})",
                cell.kind.name(),
                cell.replicas
            );
        }
        let told = start.acks.len();
        let (go_on, mut next) = (random.below(moments.len() as u64) as usize, None);
        for (at, moment) in moments.into_iter().take(most).enumerate() {
            // Not open yet: what was cut is the recovery from the cut before, or the making of the store.
            let opening = moment.acks.get(told..).is_none_or(<[String]>::is_empty);
            let mode = if opening { "opening" } else { &mode };
            let cut = Cut::ALL[random.below(4) as usize];
            let granules = cell.kind.granules();
            let granule = granules[random.below(granules.len() as u64) as usize];
            let images = moment.cut(cut, granule, &mut random);
            let outcome = self.check(cell, mode, seed, &moment.acks, images.clone())?;
            let outcome = outcome.of(calm && cell.kind != Kind::Btrfs);
            if let Outcome::Broken(text) = &outcome {
                let name = format!("{}-{seed}-{at}", self.config.subject);
                let kept = self.keep(&name, cell, mode, &moment.acks, &images)?;
                let (kind, replicas) = (cell.kind.name(), cell.replicas);
                let lost = moment.unflushed();
                println!(
                    "{kind} R={replicas} {mode}, cut {} of {lost} blocks of {granule}: {text} (round seed {seed}){kept}",
                    cut.name()
                );
            }
            // No promise is broken, but somebody should look.
            if let Outcome::Sound { opened, whole, .. } = &outcome
                && opened.max(whole).is_some_and(|longest| longest > SLOW)
            {
                let kept = self.keep(&format!("slow-{seed}-{at}"), cell, mode, &moment.acks, &images)?;
                let (kind, replicas) = (cell.kind.name(), cell.replicas);
                println!("{kind} R={replicas} {mode}: slow: {outcome:?} (seed {seed}){kept}");
            }
            let sound = matches!(outcome, Outcome::Sound { .. });
            cell.count(mode, Some(cut), moment.unflushed(), outcome);
            if sound && at >= go_on && next.is_none() {
                next = Some(Line { images, acks: moment.acks, rounds: start.rounds + 1, calm });
            }
        }
        Ok(next)
    }
}

/// When the power fails: half of the lives are cut while the store opens as well.
fn triggers(random: &mut Random) -> Vec<Trigger> {
    let mut writes = 0;
    (0..MOMENTS)
        .map(|n| {
            let early = n == 0 && random.below(2) == 0;
            writes += 1 + random.below(if early { 60 } else { 1500 });
            Trigger { writes, at_ack: !early && random.below(2) == 0 }
        })
        .collect()
}
