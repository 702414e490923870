//! The machine whose power fails: disks that are mounted, a child that works on them, one that looks at what is left, and what is kept
//! of a failure.

use crate::Result;
use crate::disk::{Disk, Image};
use crate::fuse::lock;
use crate::mount::{Kind, Mounted};
use crate::powercut::{Lab, POINTS};
use crate::report::{Cell, Outcome};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A life of the workload is this long at most.
const LIFE: Duration = Duration::from_secs(12);
/// Nothing that looks at a store takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(400);
/// Failures that are kept.
const KEPT: usize = 4;

impl Lab {
    fn mount(&self, kind: Kind, disk: Arc<Mutex<Disk>>, point: &str) -> Result<Mounted<'_>> {
        Mounted::new(&self.rack, kind, disk, &self.scratch.0.join(point))
    }

    /// Mounts all disks of a machine: the first one, with what it is to take down, and others beside it.
    pub fn mount_all(
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

    /// Lets a child work until all moments have been taken down. Returns what it failed with by itself.
    pub fn work(
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
    pub fn check(
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
                whole: figure("whole in "),
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
    pub fn keep(
        &mut self,
        name: &str,
        cell: &Cell,
        mode: &str,
        acks: &[String],
        images: &[Image],
    ) -> Result<String> {
        if self.kept == KEPT
            || std::env::var_os("ANNULUS_PLANT").is_some()
            || self.config.subject != "annulus"
        {
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

    pub fn recheck(&mut self, dir: &Path) -> Result<bool> {
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
