//! Faults of files under a running store: a file system of ours (through.rs) stands between a store and a directory, and at a random
//! moment fails, forgets or falsifies what is asked of one kind of files. The store has three shards, two replicas. Then all is
//! well again; the store is closed or killed, opened, and held against what had been acknowledged.

mod device;
mod fault;
mod serve;
mod table;
mod through;
mod work;

use crate::trials::{self, Ended, Settings, Told, keep, verdict};
use crate::{Random, Result, plants};
use device::Device;
use fault::{Armed, Fault, Target};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use through::Backing;

pub const FAULTS: usize = 200;
/// Nothing that looks at a store takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(400);
/// How long a fault may wait for an operation that it befalls.
const WAIT: Duration = Duration::from_millis(1500);
/// Tests' plants that this must catch as well.
const ALSO: [&str; 2] = ["journal-poison-forgotten", "copy-left-out-without-a-word"];

/// What a fault came to.
#[derive(Debug)]
pub struct Trial {
    pub target: Target,
    pub fault: Fault,
    /// Operations that it befell.
    pub struck: u64,
    /// Batches acknowledged, and reads and writes refused.
    pub acknowledged: u64,
    pub refused: u64,
    /// The journal has taken no more writes, or the store does not open, saying why.
    pub stopped: bool,
    pub broken: Option<String>,
}

pub fn run(settings: Settings) -> Result<bool> {
    if settings.plants {
        return plants::run_each("files", &ALSO, &settings);
    }
    println!("seed {}", settings.seed);
    let dir = settings.dir.clone().or_else(trials::in_memory).unwrap_or_else(std::env::temp_dir);
    let scratch = crate::powercut::Scratch(dir.join(format!("annulus-files-{}", std::process::id())));
    let able = crate::child::own_mounts().and_then(|()| {
        let place = scratch.0.join("able");
        std::fs::create_dir_all(place.join("behind"))?;
        std::fs::create_dir_all(place.join("mnt"))?;
        let backing = Backing::new(&place.join("behind"), Target::Shard, false, Random::new(1));
        drop(serve::mount(Arc::new(backing), &place.join("mnt"))?);
        drop(Device::new(&place)?);
        Ok(())
    });
    match able {
        Err(error) if !settings.require => {
            println!("skipped: faults of files need root, /dev/fuse and loop devices ({error})");
            return Ok(true);
        }
        able => able?,
    }
    let all: Vec<(Target, Fault)> = Fault::ALL
        .into_iter()
        .flat_map(|fault| Target::ALL.map(|target| (target, fault)))
        // A store that is open reads pages, and of its index what is not in memory.
        .filter(|(target, fault)| {
            let is_read = matches!(target, Target::Pages | Target::Index | Target::Shard);
            let can_be =
                target.is_device() == (*fault == Fault::Shutdown) && (*fault != Fault::ReadError || is_read);
            // What nobody was told of one copy, when the other is lost, nobody can know.
            can_be && !(*target == Target::LastCopy && fault.is_silent())
        })
        .collect();
    let trial = |number: usize, random: Random| {
        let place = scratch.0.join(format!("trial-{number}"));
        let trial = try_one(&settings, number, &place, all[number % all.len()], random)?;
        std::fs::remove_dir_all(&place)?;
        Ok(trial)
    };
    let done: Vec<Trial> = settings.run(trial, |trial| trial.broken.is_none())?.into_values().collect();
    table::print(&done);
    let broken = done.iter().filter(|trial| trial.broken.is_some()).count();
    // A fault that nothing came by has tried nothing.
    let met = done.iter().filter(|trial| trial.struck > 0).count();
    println!("{}", verdict("faults", met, broken));
    Ok(broken == 0)
}

/// What a fault comes from.
struct Trouble {
    backing: Arc<Backing>,
    device: Option<Device>,
    died: Cell<bool>,
}

impl Trouble {
    fn arm(&self, target: Target, fault: Fault, random: &mut Random) -> Result<()> {
        match &self.device {
            Some(device) => {
                device.die(random.below(3))?;
                self.died.set(true);
            }
            None => self.backing.arm(Armed::draw(target, fault, random)),
        }
        Ok(())
    }

    /// How many operations it has befallen; those of a device that died are not counted.
    fn struck(&self) -> u64 {
        self.backing.struck() + u64::from(self.died.get())
    }

    /// Whether it befalls nothing any more.
    fn is_spent(&self) -> bool {
        self.backing.is_spent()
    }

    fn lift(&self) -> Result<()> {
        self.backing.lift();
        self.device.as_ref().map_or(Ok(()), Device::come_back)
    }
}

/// What the child has said.
#[derive(Default)]
struct Heard {
    last: BTreeMap<String, u64>,
    /// How often it said that something was written.
    wrote: u64,
    full: u64,
    refused: Vec<String>,
    wrong: Vec<String>,
    unsettled: Option<String>,
    poisoned: bool,
    settled: bool,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "wrote" => {
                let (writer, n) = rest.split_once(' ').unwrap_or_default();
                self.last.insert(writer.to_owned(), n.parse().unwrap_or(0));
                self.wrote += 1;
            }
            "full" => self.full += 1,
            "refused" => self.refused.push(rest.to_owned()),
            "wrong" => self.wrong.push(rest.to_owned()),
            "unsettled" => self.unsettled = Some(rest.to_owned()),
            "poisoned" => self.poisoned = true,
            "settled" => self.settled = true,
            _ => {}
        }
    }

    fn acknowledged(&self) -> u64 {
        self.last.values().sum()
    }

    /// What of it is no way to behave under such a fault.
    fn broken(&self, target: Target, killed: bool) -> Option<String> {
        if let Some(wrong) = self.wrong.first() {
            return Some(format!("wrong: {wrong}"));
        }
        let is_clean = |text: &str| {
            let kinds = ["Io: ", "Poisoned: ", "Closed: ", "Full: "];
            text.strip_prefix("a write: ").is_some_and(|text| kinds.iter().any(|kind| text.starts_with(kind)))
                && (text.contains("journal") || text.contains("Closed"))
        };
        // A keyspace that was dropped or not, nobody knows: then nothing more is written (docs/ARCHITECTURE.md).
        let is_undecided =
            |text: &str| target == Target::Small && text.contains("cannot replace the manifest");
        let is_right = |text: &str| is_clean(text) && (target.may_refuse() || is_undecided(text));
        let unclean = self.refused.iter().find(|text| !is_right(text));
        if let Some(text) = unclean {
            return Some(format!("refused: {text}"));
        }
        if self.full > 0 && !target.may_refuse() {
            return Some("refused: as full".into());
        }
        if let Some(text) = &self.unsettled {
            return Some(format!("when all was well again: {text}"));
        }
        (!killed && !self.settled && !self.poisoned).then(|| "ended by itself".to_owned())
    }
}

fn try_one(
    settings: &Settings,
    number: usize,
    place: &Path,
    (target, fault): (Target, Fault),
    mut random: Random,
) -> Result<Trial> {
    let [behind, mnt, signs] = ["behind", "mnt", "signs"].map(|name| place.join(name));
    for dir in [&behind, &mnt, &signs] {
        std::fs::create_dir_all(dir)?;
    }
    let cached = random.below(2) == 0;
    let backing = Arc::new(Backing::new(&behind, target, cached, random.clone()));
    let session = serve::mount(backing.clone(), &mnt)?;
    let device = if target.is_device() { Some(Device::new(place)?) } else { None };
    let trouble = Trouble { backing: backing.clone(), device, died: Cell::new(false) };
    let killed = random.below(3) == 0 || target == Target::LastCopy;
    let (heard, complaint) = live(place, (target, fault), killed, &trouble, &mut random)?;
    let mut broken = heard.broken(target, killed).map(|text| format!("{text}: {complaint}"));
    let mut stopped = heard.poisoned;
    if target == Target::LastCopy {
        std::fs::remove_dir_all(behind.join("store/journal-b"))?;
    }
    if broken.is_none() {
        (broken, stopped) = match look(place, &behind, &heard)? {
            // The copy that is left has all of it, or is known to be incomplete.
            Some(text) if target == Target::LastCopy && trouble.struck() > 0 && is_left_out(&text) => {
                (None, true)
            }
            // Of the only copy: it says what is damaged, and where.
            Some(text) if target.may_refuse() && fault.is_silent() && is_told(&text) => (None, true),
            found => (found, stopped),
        };
    }
    drop(session);
    let struck = trouble.struck();
    if let Some(text) = &broken {
        let kept = keep("files", settings, number, &behind)?;
        let how = if cached { "cached" } else { "direct" };
        println!(
            "{}: {}, {struck} times, {how}: {text} (--seed {} --trial {number}){kept}",
            target.name(),
            fault.name(),
            settings.seed
        );
    }
    let refused = heard.full + heard.refused.len() as u64;
    Ok(Trial { target, fault, struck, acknowledged: heard.acknowledged(), refused, stopped, broken })
}

/// Whether it is a refusal to open that names the place of the damage in the journal.
fn is_told(text: &str) -> bool {
    text.starts_with("does not open: Corruption") && text.contains("/journal") && text.contains(", byte ")
}

/// Whether it is a refusal to open with a copy of the journal that was left out.
fn is_left_out(text: &str) -> bool {
    text.starts_with("does not open: Refused")
        && text.contains("no copy of the journal is known to be complete")
}

/// Lets a store live through a fault.
fn live(
    place: &Path,
    (target, fault): (Target, Fault),
    killed: bool,
    trouble: &Trouble,
    random: &mut Random,
) -> Result<(Heard, String)> {
    let (store, signs) = (place.join("mnt/store"), place.join("signs"));
    let which = Target::ALL.iter().position(|t| *t == target).unwrap_or(0).to_string();
    let seed = random.draw().to_string();
    let arguments: [&std::ffi::OsStr; 5] =
        ["files-child".as_ref(), store.as_ref(), signs.as_ref(), which.as_ref(), seed.as_ref()];
    let mut child = Told::start(&arguments, place, false)?;
    let (sender, lines) = std::sync::mpsc::channel();
    let out = child.lines()?;
    let reader = std::thread::spawn(move || out.for_each(|line| drop(sender.send(line))));
    let mut heard = Heard::default();
    let mut pause = |heard: &mut Heard, limit: Duration, until: &dyn Fn(&Heard) -> bool| -> Result<()> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !until(heard) && !child.has_ended()? {
            if let Ok(line) = lines.recv_timeout(Duration::from_micros(500)) {
                heard.hear(&line);
            }
        }
        Ok(())
    };
    // Everything has been flushed once or twice.
    let warm = 60 + random.below(200);
    pause(&mut heard, LIMIT, &|heard| heard.acknowledged() > warm)?;
    trouble.arm(target, fault, random)?;
    pause(&mut heard, WAIT, &|_| trouble.struck() > 0)?;
    if killed && fault.is_silent() && target.may_refuse() {
        // Of the only copy nobody can miss its end: something must follow what was lost. What a writer had begun by then does not count.
        let refuses = |heard: &Heard| !heard.refused.is_empty();
        pause(&mut heard, LIMIT, &|heard| trouble.is_spent() || refuses(heard))?;
        lines.try_iter().for_each(|line| heard.hear(&line));
        let enough = heard.wrote + crate::model::WRITERS + 1;
        pause(&mut heard, LIMIT, &|heard| heard.wrote >= enough || refuses(heard))?;
    }
    let rest = Duration::from_millis(50 + random.below(300));
    pause(&mut heard, rest, &|_| false)?;
    if killed {
        child.kill()?;
        trouble.lift()?;
    } else {
        // The journal's stays dead for the store that uses it, which says so and ends: mounted before that, it is the dead one again.
        let late = target == Target::JournalDevice;
        if !late {
            trouble.lift()?;
        }
        std::fs::write(signs.join("lifted"), "")?;
        let deadline = Instant::now() + LIMIT;
        while !child.has_ended()? {
            lines.try_iter().for_each(|line| heard.hear(&line));
            if Instant::now() > deadline {
                child.kill()?;
                heard.unsettled = Some(format!("hangs: not done after {LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if late {
            trouble.lift()?;
        }
    }
    reader.join().map_err(|_| "a reader panicked")?;
    lines.try_iter().for_each(|line| heard.hear(&line));
    Ok((heard, child.last_words()))
}

/// Has a child open the store, where it really lies, and hold it against what was acknowledged; says what is broken.
fn look(place: &Path, behind: &Path, heard: &Heard) -> Result<Option<String>> {
    let acks: Vec<String> = heard.last.iter().map(|(writer, n)| format!("wrote {writer} {n}")).collect();
    let list = place.join("acks");
    std::fs::write(&list, acks.join("\n"))?;
    let arguments: [&std::ffi::OsStr; 10] = [
        "child".as_ref(),
        "annulus".as_ref(),
        "check".as_ref(),
        "-".as_ref(),
        behind.as_ref(),
        "-".as_ref(),
        "2".as_ref(),
        "write".as_ref(),
        "1".as_ref(),
        list.as_ref(),
    ];
    Ok(match Told::start(&arguments, place, true)?.finish(LIMIT)?.0 {
        Ended::Hung => Some(format!("hangs: not done after {LIMIT:?}")),
        Ended::Exited(Some(0), _) => None,
        Ended::Exited(_, words) => {
            Some(words.strip_prefix("annulus-lab: ").map_or(format!("panics: {words}"), str::to_owned))
        }
    })
}

/// `STORE SIGNS TARGET SEED`.
pub fn child(arguments: &[String]) -> Result<()> {
    let [store, signs, target, seed] = arguments else { return Err("no task".into()) };
    let target = *Target::ALL.get(target.parse::<usize>()?).ok_or("no such files")?;
    work::work(&work::Task {
        store: PathBuf::from(store),
        signs: PathBuf::from(signs),
        target,
        seed: seed.parse()?,
    })
}
