//! SIGKILLs: a child works on a store and is killed at random moments, over and over on one directory, also while it is being created,
//! opened, or restored. After each kill another child opens the store and holds it against what had been acknowledged.
//!
//! A *line* is a store and its kills, one after the other; lines have nothing to do with each other, and each follows from its seed,
//! but for which of its threads is where at the moment of a kill.

mod moment;
mod restores;
mod table;

pub use restores::{check_restored, restore};

use crate::trials::{Ended, Settings, Told, keep, verdict};
use crate::{Random, Result, plants};
use moment::{Moment, Watched};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub const KILLS: usize = 150;
/// Kills of one line.
const LINE: usize = 6;
/// What goes on while the kill comes.
const MODES: [&str; 6] = ["write", "opening", "move", "checkpoint", "restore", "heal"];
/// At most so many openings are killed in a row before somebody looks.
const IN_A_ROW: u64 = 4;
/// Nothing that looks at a store takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(400);
/// How long a child may take before it does what it is to be killed in.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tests' plants that this must catch as well.
const ALSO: [&str; 2] = ["journal-trimmed-ahead", "flush-drops-tombstones"];

/// What a kill came to.
#[derive(Debug)]
pub struct Kill {
    pub mode: &'static str,
    pub replicas: usize,
    /// Kills since somebody looked: more than one where openings were killed in a row.
    pub kills: usize,
    /// Batches that were acknowledged since.
    pub acknowledged: u64,
    /// Milliseconds that the opening took that looked.
    pub opened: Option<u64>,
    /// Directories that were being restored into: those that were no stores, and those that were whole.
    pub restores: (usize, usize),
    pub broken: Option<String>,
}

pub fn run(settings: Settings) -> Result<bool> {
    if settings.plants {
        return plants::run_each("kill", &ALSO, &settings);
    }
    println!("seed {}", settings.seed);
    let scratch =
        crate::powercut::Scratch(settings.place().join(format!("annulus-kill-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    // A line has some kills more than it was given where openings are killed in a row.
    let lines = Settings { trials: settings.trials.div_ceil(LINE), ..settings };
    let line = |number: usize, random: Random| {
        let dir = scratch.0.join(format!("line-{number}"));
        let kills = Line::new(&lines, number, &dir).run(random)?;
        std::fs::remove_dir_all(&dir)?;
        Ok(kills)
    };
    let is_sound = |kills: &Vec<Kill>| kills.iter().all(|kill| kill.broken.is_none());
    let kills: Vec<Kill> = lines.run(line, is_sound)?.into_values().flatten().collect();
    table::print(&kills, &MODES);
    let broken = kills.iter().filter(|kill| kill.broken.is_some()).count();
    // Where openings were killed in a row, what was looked at is what all of them have left.
    println!("{}", verdict("looks after kills", kills.len(), broken));
    Ok(broken == 0)
}

/// What a child has found that looked.
struct Look {
    opened: Option<u64>,
    restores: (usize, usize),
    broken: Option<String>,
}

/// A store that is killed again and again.
struct Line<'a> {
    settings: &'a Settings,
    number: usize,
    dir: &'a Path,
    /// What the child has been heard to say last, by the words before the last one.
    heard: BTreeMap<String, String>,
}

impl<'a> Line<'a> {
    fn new(settings: &'a Settings, number: usize, dir: &'a Path) -> Line<'a> {
        Line { settings, number, dir, heard: BTreeMap::new() }
    }

    fn run(mut self, mut random: Random) -> Result<Vec<Kill>> {
        std::fs::create_dir_all(self.place())?;
        let replicas = 1 + self.number % 3;
        let modes: Vec<&str> = MODES.into_iter().filter(|mode| replicas > 1 || *mode != "heal").collect();
        let mut kills = Vec::new();
        for round in 0..LINE {
            // By turns, so that all of them are met however short a run is.
            let mode = modes[(self.number / 3 + round) % modes.len()];
            let before = self.written();
            let count = if mode == "opening" { 1 + random.below(IN_A_ROW) } else { 1 };
            let mut broken = None;
            for _ in 0..count {
                broken = broken.or(self.life(mode, replicas, &mut random)?);
            }
            let acknowledged = self.written() - before;
            let Look { opened, restores, broken: found } = self.look(mode, replicas)?;
            let broken = broken.or(found);
            if let Some(text) = &broken {
                let kept = keep("kill", self.settings, self.number, self.dir)?;
                let (seed, number) = (self.settings.seed, self.number);
                println!("R={replicas} {mode}, kill {round}: {text} (--seed {seed} --trial {number}){kept}");
            }
            let stop = broken.is_some();
            kills.push(Kill {
                mode,
                replicas,
                kills: count as usize,
                acknowledged,
                opened,
                restores,
                broken,
            });
            if stop {
                break;
            }
        }
        Ok(kills)
    }

    fn place(&self) -> PathBuf {
        self.dir.join("place")
    }

    /// How many batches all writers have been told of.
    fn written(&self) -> u64 {
        let all = self.heard.iter().filter(|(what, _)| what.starts_with("wrote "));
        all.filter_map(|(_, n)| n.parse::<u64>().ok()).sum()
    }

    fn child(&self, what: &str, mode: &str, replicas: usize, seed: u64) -> Result<Told> {
        let acks = self.dir.join("acks");
        let lines: Vec<String> = self.heard.iter().map(|(what, last)| format!("{what} {last}")).collect();
        std::fs::write(&acks, lines.join("\n"))?;
        let place = self.place();
        let (replicas, seed) = (replicas.to_string(), seed.to_string());
        let arguments: [&std::ffi::OsStr; 10] = [
            "child".as_ref(),
            "annulus".as_ref(),
            what.as_ref(),
            "-".as_ref(),
            place.as_ref(),
            "-".as_ref(),
            replicas.as_ref(),
            mode.as_ref(),
            seed.as_ref(),
            acks.as_ref(),
        ];
        Told::start(&arguments, self.dir, what == "check")
    }

    /// One life of the workload, up to the kill. Returns what was wrong before that.
    fn life(&mut self, mode: &str, replicas: usize, random: &mut Random) -> Result<Option<String>> {
        // A life that is killed while it opens does the plain work, should it get there.
        let workload = if mode == "opening" { "write" } else { mode };
        // Which pages a store has follows from this, and must be the same in all its lives.
        let seed = (self.settings.seed ^ (self.number as u64) << 32) & !1 | (self.number / 3 % 2) as u64;
        let moment = Moment::draw(mode, random);
        let mut watched = Watched::new(&self.place());
        let mut child = self.child("work", workload, replicas, seed ^ random.below(1 << 30) << 1)?;
        let (sender, lines) = channel();
        let out = child.lines()?;
        let reader = std::thread::spawn(move || out.for_each(|line| drop(sender.send(line))));
        let failed = self.listen(&mut child, &lines, &moment, &mut watched)?;
        child.kill()?;
        // What was said before the kill was acknowledged before it.
        reader.join().map_err(|_| "a reader panicked")?;
        let failed = lines.try_iter().fold(failed, |failed, line| failed.or(self.hear(line)));
        Ok(failed.map(|text| format!("the workload failed: {text}: {}", child.last_words())))
    }

    /// Listens to the child until the moment has come.
    fn listen(
        &mut self,
        child: &mut Told,
        lines: &Receiver<String>,
        moment: &Moment,
        watched: &mut Watched,
    ) -> Result<Option<String>> {
        let begun = Instant::now();
        let mut since = (!moment.after_opening).then_some(begun);
        loop {
            match lines.recv_timeout(Duration::from_micros(100)) {
                Ok(line) => {
                    if since.is_none() && line == moment.mark {
                        since = Some(Instant::now());
                        watched.forget()?;
                    }
                    if let Some(failed) = self.hear(line) {
                        return Ok(Some(failed));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Some("it ended by itself".into())),
            }
            watched.look()?;
            if since.is_some_and(|since| moment.has_come(since.elapsed(), watched.changes)) {
                return Ok(None);
            }
            if begun.elapsed() > PATIENCE {
                return Ok(Some(format!("it did not come to `{}` in {PATIENCE:?}", moment.mark)));
            }
            if child.has_ended()? {
                // What it said last is still to be heard.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Takes note of a line; returns what the child has failed with.
    fn hear(&mut self, line: String) -> Option<String> {
        if let Some(error) = line.strip_prefix("failed ") {
            return Some(error.to_owned());
        }
        let (what, last) = line.rsplit_once(' ').unwrap_or(("", &line));
        let what = match what {
            // Each of its own.
            "restored" => line.as_str(),
            what => what,
        };
        self.heard.insert(what.to_owned(), last.to_owned());
        None
    }

    /// Has a child look at what the kill left.
    fn look(&mut self, mode: &str, replicas: usize) -> Result<Look> {
        let (ended, said) = self.child("check", mode, replicas, self.settings.seed)?.finish(LIMIT)?;
        let opened =
            said.iter().find_map(|line| line.strip_prefix("opened in ")?.split(' ').next()?.parse().ok());
        // What the store has done by itself since counts from here on.
        self.heard.retain(|what, _| !what.starts_with("restored"));
        for line in said.iter().filter(|line| line.starts_with("there ")) {
            let words: Vec<&str> = line.split(' ').collect();
            if let [_, writer, n] = words[..] {
                self.heard.insert(format!("wrote {writer}"), n.to_owned());
            }
        }
        let broken = match ended {
            Ended::Hung => Some(format!("hangs: not done after {LIMIT:?}")),
            Ended::Exited(Some(0), _) => None,
            Ended::Exited(_, words) => {
                Some(words.strip_prefix("annulus-lab: ").map_or(format!("panics: {words}"), str::to_owned))
            }
        };
        let count = |what: &str| said.iter().filter(|line| *line == what).count();
        let restores = (count("restore interrupted"), count("restore whole"));
        Ok(Look { opened, restores, broken })
    }
}
