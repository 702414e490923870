//! Power cuts: a child works on a store on a file system on a disk of ours; at moments that a seed chooses we take down what a cut
//! would find, durable blocks and those that were not flushed, and what had been acknowledged by then. From each such moment a
//! cut makes a disk, which is mounted afresh, and another child opens the store on it and holds it against what was
//! acknowledged. The next round goes on from one of the disks that were cut, so stores grow old, and openings after a cut are cut, too.
//!
//! Taking a moment down is a cut: nothing that comes later reaches that disk. The child is killed after the last moment.

use crate::Result;
use crate::disk::{Cut, Disk, Image, Trigger};
use crate::fuse::{Rack, lock};
use crate::mount::{Kind, Mounted};
use crate::report::{Cell, Outcome};
use crate::{Random, plants};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Moments of one life of the workload.
const MOMENTS: usize = 4;
/// A life is this long at most.
const LIFE: Duration = Duration::from_secs(12);
/// Rounds before a new file system is begun.
const ROUNDS: usize = 12;
/// Nothing that looks at a store takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(180);
/// Where the disks of a machine are mounted: all but the journal, and the journal where it has a disk of its own.
const POINTS: [&str; 2] = ["mnt", "mnt-1"];
/// Disks that are kept of violations.
const KEPT: usize = 4;

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
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Lab {
    config: Config,
    // Unmounted before the directory is removed.
    rack: Rack,
    scratch: Scratch,
    boots: AtomicU64,
    kept: usize,
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

    fn mount(&self, kind: Kind, disk: Arc<Mutex<Disk>>, point: &str) -> Result<Mounted<'_>> {
        Mounted::new(&self.rack, kind, disk, &self.scratch.0.join(point))
    }

    /// Mounts all disks of a machine: the first one, with what it is to take down, and others beside it.
    fn mount_all(
        &self,
        kind: Kind,
        first: Disk,
        others: Vec<Image>,
    ) -> Result<(Arc<Mutex<Disk>>, Vec<Mounted<'_>>)> {
        let first = Arc::new(Mutex::new(first));
        let plain = |image| Arc::new(Mutex::new(Disk::new(image, Vec::new(), Vec::new(), self.config.lie)));
        let others: Vec<_> = others.into_iter().map(plain).collect();
        // Before the first one is mounted, which writes to it already.
        lock(&first).beside = others.first().cloned();
        let disks = [first.clone()].into_iter().chain(others).zip(POINTS);
        let mounted = disks.map(|(disk, point)| self.mount(kind, disk, point)).collect::<Result<_>>()?;
        Ok((first, mounted))
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
            let sound = matches!(outcome, Outcome::Sound { .. });
            cell.count(mode, Some(cut), moment.unflushed(), outcome);
            if sound && at >= go_on && next.is_none() {
                next = Some(Line { images, acks: moment.acks, rounds: start.rounds + 1, calm });
            }
        }
        Ok(next)
    }

    /// Lets a child work until all moments have been taken down. Returns what it failed with by itself.
    fn work(
        &self,
        cell: &Cell,
        mode: &str,
        seed: u64,
        disks: usize,
        disk: &Arc<Mutex<Disk>>,
    ) -> Result<Option<String>> {
        let mut child = self.child("work", cell, mode, (seed, disks), &[])?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let heard = disk.clone();
        let reader = std::thread::spawn(move || {
            let mut failed = None;
            for line in lines.map_while(std::result::Result::ok) {
                match line.strip_prefix("failed ") {
                    Some(error) => failed = Some(error.to_owned()),
                    None => lock(&heard).acknowledged(line),
                }
            }
            failed
        });
        let deadline = Instant::now() + LIFE;
        let mut ended = None;
        while ended.is_none() && !lock(disk).is_done() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            ended = child.try_wait()?;
        }
        child.kill()?;
        child.wait()?;
        let failed = reader.join().map_err(|_| "a reader panicked")?;
        Ok(failed.or_else(|| ended.map(|status| format!("{status}: {}", self.last_words()))))
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(self.scratch.0.join("stderr")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
        lines[lines.len().saturating_sub(3)..].join(" / ").chars().take(600).collect()
    }

    fn child(
        &self,
        what: &str,
        cell: &Cell,
        mode: &str,
        (seed, disks): (u64, usize),
        acks: &[String],
    ) -> Result<Child> {
        let at = |name: &str| self.scratch.0.join(name);
        std::fs::write(at("acks"), acks.join("\n"))?;
        let boot = self.boots.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}-0000-4000-8000-{:012x}\n", self.config.seed as u32, boot);
        std::fs::write(at("boot"), id)?;
        let mut command = Command::new(std::env::current_exe()?);
        if what == "check" {
            // What looks is sound, whatever is planted in what works.
            command.env_remove("ANNULUS_PLANT");
        }
        let stderr = std::fs::File::create(at("stderr"))?;
        let child = command
            .args(["child", &self.config.subject, what])
            .args([at("boot"), at(POINTS[0]), if disks > 1 { at(POINTS[1]) } else { "-".into() }])
            .args([&cell.replicas.to_string(), mode, &seed.to_string()])
            .arg(at("acks"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        Ok(child)
    }

    /// Mounts what a cut left, and has a child look at it.
    fn check(
        &mut self,
        cell: &Cell,
        mode: &str,
        seed: u64,
        acks: &[String],
        images: Vec<Image>,
    ) -> Result<Outcome> {
        let disks = images.len();
        let mut images = images.into_iter();
        let first = Disk::new(images.next().ok_or("no disk")?, Vec::new(), Vec::new(), false);
        let (_, mounted) = match self.mount_all(cell.kind, first, images.collect()) {
            Ok(mounted) => mounted,
            Err(error) => return Ok(Outcome::NoFileSystem(error.to_string())),
        };
        let mut child = self.child("check", cell, mode, (seed, disks), acks)?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let reader = std::thread::spawn(move || lines.map_while(std::result::Result::ok).collect::<Vec<_>>());
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        drop(mounted);
        let said = reader.join().map_err(|_| "a reader panicked")?;
        let figure = |prefix: &str| {
            let found = said.iter().find_map(|line| line.strip_prefix(prefix));
            found.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        };
        Ok(match status {
            None => Outcome::Broken(format!("hangs: not done after {LIMIT:?}")),
            Some(status) if status.success() => Outcome::Sound {
                opened: figure("opened in "),
                reconciled: figure("reconciled "),
                unwell: said.iter().find_map(|line| line.strip_prefix("unwell ").map(str::to_owned)),
            },
            Some(_) => {
                let words = self.last_words();
                let text =
                    words.strip_prefix("annulus-lab: ").map_or(format!("panics: {words}"), str::to_owned);
                Outcome::Broken(text)
            }
        })
    }

    /// Keeps a disk that broke a promise; returns how to look at it again.
    fn keep(
        &mut self,
        name: &str,
        cell: &Cell,
        mode: &str,
        acks: &[String],
        images: &[Image],
    ) -> Result<String> {
        if self.kept == KEPT || std::env::var_os("ANNULUS_PLANT").is_some() || self.config.subject == "sled" {
            return Ok(String::new());
        }
        self.kept += 1;
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("failures").join(name);
        std::fs::create_dir_all(&dir)?;
        for (n, image) in images.iter().enumerate() {
            image.save(&dir.join(format!("disk-{n}")))?;
        }
        std::fs::write(dir.join("acks"), acks.join("\n"))?;
        let task = [cell.kind.name(), &cell.replicas.to_string(), mode].join(" ");
        std::fs::write(dir.join("task"), task)?;
        Ok(format!("; again: powercut --recheck {}", dir.display()))
    }

    fn recheck(&mut self, dir: &Path) -> Result<bool> {
        let task = std::fs::read_to_string(dir.join("task"))?;
        let [kind, replicas, mode] = task.split(' ').collect::<Vec<_>>()[..] else {
            return Err("no task".into());
        };
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or("no such file system")?;
        let acks: Vec<String> =
            std::fs::read_to_string(dir.join("acks"))?.lines().map(str::to_owned).collect();
        let cell = Cell::new(kind, replicas.parse()?);
        let paths = (0..).map(|n| dir.join(format!("disk-{n}"))).take_while(|path| path.exists());
        let images = paths.map(|path| Image::load(&path)).collect::<std::io::Result<_>>()?;
        let outcome = self.check(&cell, mode, self.config.seed, &acks, images)?;
        println!("{outcome:?}");
        Ok(matches!(outcome, Outcome::Sound { .. }))
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
