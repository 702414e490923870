//! What of Annulus's tests needs root, FUSE, loop devices or hours. See the README beside `Cargo.toml`.

mod annulus;
mod child;
mod damage;
mod disk;
mod files;
mod fuse;
mod hang;
mod kept;
mod kill;
mod machine;
mod model;
mod mount;
mod mutants;
mod plants;
mod powercut;
mod report;
mod schedules;
mod sled;
mod states;
mod tests;
mod trials;

use child::Task;
use lexopt::prelude::*;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
powercut          cuts the power of a disk under a file system under a store, and looks at what is left
  --cuts N        how many cuts, over all file systems and numbers of replicas [ANNULUS_POWER_CUTS, else 150]
  --minutes M     stop after so many, however many cuts that were
  --seed S        what is done and when [the clock's; printed]
  --fs A,B        ext4 xfs btrfs [all]
  --replicas A,B  [1,2,3]; plain sled has none
  --modes A,B     what goes on when the cut strikes: write move checkpoint heal [all]
  --subject S     annulus, sled, or marked-sled: in a directory that is marked synchronous, as Annulus does; ext4 and xfs [annulus]
  --lie           the disk ignores flushes: there must be losses
  --until-caught  stop at the first violation
  --plants        runs bugs that are planted on purpose, one by one, until they are caught; --cuts bounds each
  --only A,B      with --plants: these alone
  --recheck DIR   looks again at what a cut left that broke a promise
  --require       fail, in place of a word, where it cannot be run

states            cuts the power of the simulated disk before every operation, and recovers from every disk that this may leave
  --states N      how many crash states of the journal; of the rest in proportion [ANNULUS_CRASH_STATES, else 20000000]
  --seed S        what is done [1]
  --threads N     [as many as the machine has]
  --parts A,B     journal small store [all]
  --script P:N    only the script N of the part P, as a failure names it
  --plants        runs bugs that are planted on purpose, one by one, until they are caught; --states bounds each
  --only A,B      with --plants: these alone

schedules         builds Annulus's tests so that a scheduler chooses which thread goes on, and tries many schedules
  --seconds N     of each of the ten tests [ANNULUS_SCHEDULES_SECONDS, else 18: 90 s on two cores]
  --seed S        what is tried [the clock's]
  --no-run        only builds them
  --plants        with bugs that are planted on purpose, one by one
  --only A,B      with --plants: these alone

damage            damages one file of a store, opens it, and looks at what is left; beside sled, redb and fjall
  --trials N      how many files, over all kinds of damage and of files [ANNULUS_DAMAGE_TRIALS, else 350]
  --only A,B      these files or stores alone, or with --plants these bugs
  --trial N       this one alone, again
  --jobs N        trials side by side [4]
  --dir D         where the stores lie [the system's directory for temporary files; of `files`: in memory]
  --seed, --minutes, --until-caught, --plants, --require as above

kill              kills a process that works on a store, over and over, and looks at what is left
  --kills N       how many, over all that goes on meanwhile and numbers of replicas [ANNULUS_KILLS, else 150]
  --trial N       one store and its kills alone, again
  --seed, --jobs, --dir, --minutes, --until-caught, --plants, --only, --require as above

files             lets operations on files of a running store fail, be lost or falsified, and looks at what it does and what is left
  --faults N      how many, over all kinds of faults and of files [ANNULUS_FILE_FAULTS, else 200]
  --seed, --trial, --jobs, --dir, --minutes, --until-caught, --plants, --only, --require as above

hang              has a disk under a store, a shard's or the store's own, answer nothing for a while, and looks at how long calls take meanwhile
  --fs A,B        ext4 xfs btrfs [all]
  --seed, --require as above

plants            builds Annulus's tests with bugs that are planted on purpose, and runs those that must catch them, one by one
  --only A,B      these alone

mutants           changes Annulus's source in every way that cargo-mutants (which must be installed) knows of, and runs the tests that
                  must notice, one by one; what was tried before is not tried again
  --sample N      so many, drawn at random [all]
  --seed S        which ones [1]
  --jobs N        so many at once [2]
  --minutes M     stop after so many
  --only A,B      those alone whose names contain one of these
  --again         those alone that nothing noticed before";

/// A generator of random numbers (xorshift) that a seed determines.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Every bit of the seed counts in the very first draw (what SplitMix64 makes of a number): seeds often differ in their upper bits alone.
    pub fn new(seed: u64) -> Random {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((mixed ^ mixed >> 31).max(1))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// So many bytes, six of each draw: what fills values is drawn more often than anything else.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 6);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.draw().to_le_bytes()[..6]);
        }
        bytes.truncate(count);
        bytes
    }
}

fn main() {
    let code = match start() {
        Ok(sound) => i32::from(!sound),
        Err(error) => {
            eprintln!("annulus-lab: {error}");
            2
        }
    };
    std::process::exit(code);
}

/// Whether all promises were kept.
fn start() -> Result<bool> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(name)) if name == "powercut" => powercut::run(parse(parser)?),
        Some(Value(name)) if name == "damage" => {
            let trials = how_many("ANNULUS_DAMAGE_TRIALS", damage::TRIALS)?;
            damage::run(trials::Settings::parse(parser, trials, called("damage"))?)
        }
        Some(Value(name)) if name == "kill" => {
            let kills = how_many("ANNULUS_KILLS", kill::KILLS)?;
            kill::run(trials::Settings::parse(parser, kills, called("kill"))?)
        }
        Some(Value(name)) if name == "files" => {
            let faults = how_many("ANNULUS_FILE_FAULTS", files::FAULTS)?;
            files::run(trials::Settings::parse(parser, faults, called("files"))?)
        }
        Some(Value(name)) if name == "hang" => run_hang(parser),
        Some(Value(name)) if name == "plants" => run_plants(parser),
        Some(Value(name)) if name == "mutants" => run_mutants(parser),
        Some(Value(name)) if name == "states" => run_states(parser),
        Some(Value(name)) if name == "schedules" => run_schedules(parser),
        Some(Value(name)) if name == "files-child" => files::child(&rest(parser)).map(|()| true),
        Some(Value(name)) if name == "damage-child" => damage::child(&rest(parser)).map(|()| true),
        Some(Value(name)) if name == "child" => run_child(parser).map(|()| true),
        _ => {
            println!("{HELP}");
            Ok(true)
        }
    }
}

/// What the trials of a harness are called on its command line.
fn called(harness: &str) -> &'static str {
    match harness {
        "kill" => "kills",
        "files" => "faults",
        _ => "trials",
    }
}

/// All that is left of a command line.
fn rest(mut parser: lexopt::Parser) -> Vec<String> {
    std::iter::from_fn(|| parser.value().ok()).map(|value| value.to_string_lossy().into_owned()).collect()
}

fn run_plants(mut parser: lexopt::Parser) -> Result<bool> {
    let mut only = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => only = Some(list(&parser.value()?)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    tests::run_all(only.as_deref())
}

fn run_hang(mut parser: lexopt::Parser) -> Result<bool> {
    let mut config = hang::Config { kinds: mount::Kind::ALL.to_vec(), seed: 1, require: false };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("fs") => config.kinds = kinds(&parser.value()?)?,
            Long("seed") => config.seed = parser.value()?.parse()?,
            Long("require") => config.require = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    hang::run(&config)
}

fn kinds(value: &std::ffi::OsStr) -> Result<Vec<mount::Kind>> {
    let named = |name: String| {
        let known = mount::Kind::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("no file system {name}").into())
    };
    list(value).into_iter().map(named).collect()
}

fn run_mutants(mut parser: lexopt::Parser) -> Result<bool> {
    let mut config =
        mutants::Config { sample: None, seed: 1, jobs: 2, only: None, minutes: None, again: false };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("sample") => config.sample = Some(parser.value()?.parse()?),
            Long("seed") => config.seed = parser.value()?.parse()?,
            Long("jobs") => config.jobs = parser.value()?.parse()?,
            Long("minutes") => config.minutes = Some(parser.value()?.parse()?),
            Long("only") => config.only = Some(list(&parser.value()?)),
            Long("again") => config.again = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    mutants::run(&config)
}

/// The size of a run, from the environment if it says so: a soak is the same code.
fn how_many<N: std::str::FromStr>(variable: &str, otherwise: N) -> Result<N>
where
    N::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(variable) {
        Ok(number) => number.parse().map_err(|e| format!("{variable}: {e}").into()),
        Err(_) => Ok(otherwise),
    }
}

fn run_states(mut parser: lexopt::Parser) -> Result<bool> {
    let states = how_many("ANNULUS_CRASH_STATES", 20_000_000)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut config = states::Config { states, seed: 1, threads, script: None, parts: None };
    let (mut plants, mut only) = (false, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("states") => config.states = parser.value()?.parse()?,
            Long("seed") => config.seed = parser.value()?.parse()?,
            Long("threads") => config.threads = parser.value()?.parse()?,
            Long("parts") => config.parts = Some(list(&parser.value()?)),
            Long("script") => {
                let text = parser.value()?.to_string_lossy().into_owned();
                let (part, number) = text.split_once(':').ok_or("--script takes PART:NUMBER")?;
                config.script = Some((part.to_owned(), number.parse()?));
            }
            Long("plants") => plants = true,
            Long("only") => only = Some(list(&parser.value()?)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    if plants { states::run_plants(&config, only.as_deref()) } else { states::run(&config) }
}

fn run_schedules(mut parser: lexopt::Parser) -> Result<bool> {
    let seconds = how_many("ANNULUS_SCHEDULES_SECONDS", 18)?;
    let mut config = schedules::Config { seconds, seed: None, plants: false, only: None, no_run: false };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => config.seconds = parser.value()?.parse()?,
            Long("seed") => config.seed = Some(parser.value()?.parse()?),
            Long("plants") => config.plants = true,
            Long("only") => config.only = Some(list(&parser.value()?)),
            Long("no-run") => config.no_run = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    schedules::run(&config)
}

fn list(value: &std::ffi::OsStr) -> Vec<String> {
    value.to_string_lossy().split(',').map(str::to_owned).collect()
}

fn parse(mut parser: lexopt::Parser) -> Result<powercut::Config> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut config = powercut::Config::new(clock.as_nanos() as u64 >> 10 & 0xffff_ffff);
    config.cuts = how_many("ANNULUS_POWER_CUTS", config.cuts)?;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("cuts") => config.cuts = parser.value()?.parse()?,
            Long("minutes") => config.minutes = Some(parser.value()?.parse()?),
            Long("seed") => config.seed = parser.value()?.parse()?,
            Long("fs") => config.kinds = kinds(&parser.value()?)?,
            Long("replicas") => {
                let numbers =
                    list(&parser.value()?).iter().map(|n| n.parse()).collect::<std::result::Result<_, _>>();
                config.replicas = numbers?;
            }
            Long("modes") => config.modes = list(&parser.value()?),
            Long("subject") => config.subject = parser.value()?.parse()?,
            Long("lie") => config.lie = true,
            Long("until-caught") => config.until_caught = true,
            Long("require") => config.require = true,
            Long("plants") => config.plants = true,
            Long("only") => config.only = Some(list(&parser.value()?)),
            Long("recheck") => config.recheck = Some(PathBuf::from(parser.value()?)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    if config.subject == sled::MARKED {
        config.kinds.retain(|kind| kind.honours_the_mark());
    }
    if config.subject != "annulus" {
        (config.replicas, config.modes) = (vec![1], vec!["write".to_owned()]);
    }
    Ok(config)
}

/// `child SUBJECT work|check BOOT DIR JOURNAL REPLICAS MODE SEED ACKS`, the last one a file.
fn run_child(parser: lexopt::Parser) -> Result<()> {
    let values = rest(parser);
    let [subject, what, boot, dir, journal, replicas, mode, seed, acks] = &values[..] else {
        return Err("a child needs nine arguments".into());
    };
    let acks = std::fs::read_to_string(acks)?.lines().map(str::to_owned).collect();
    let journal = (journal != "-").then(|| PathBuf::from(journal));
    let (replicas, seed) = (replicas.parse()?, seed.parse()?);
    let only_dies = boot == "-";
    let task = Task { dir: dir.into(), journal, replicas, mode: mode.clone(), seed, acks, only_dies };
    if !only_dies {
        child::start_anew(boot.as_ref())?;
    }
    match (subject.as_str(), what.as_str()) {
        ("annulus", "work") => annulus::work(&task),
        ("annulus", "check") => annulus::check(&task),
        ("sled" | sled::MARKED, "work") => sled::work(&task, subject == sled::MARKED),
        ("sled" | sled::MARKED, "check") => sled::check(&task, subject == sled::MARKED),
        _ => Err("no such child".into()),
    }
}
