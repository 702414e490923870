//! Damage to files: one file of a store is damaged, then it is opened and read whole, by a child, since that may panic, abort or hang.
//! Every kind of damage, on every class of file of Annulus with two replicas and of its backups, and beside it on the files of plain
//! sled, redb and fjall.

mod backup;
mod kind;
mod peers;
mod records;
mod store;
mod table;

use crate::trials::{self, Ended, Settings, Told, copy};
use crate::{Random, Result, plants};
use kind::Kind;
use records::Found;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::State;

pub const TRIALS: usize = 350;
/// Nothing that looks at a store takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(400);
/// The same for the others, which wait for no disk as we do: what has not ended by then goes on for ever, and takes gigabytes meanwhile.
const OTHERS: Duration = Duration::from_secs(60);
/// Tests' plants that this must catch as well.
const ALSO: [&str; 2] = ["page-checksum-not-checked", "journal-payload-not-checked"];

/// What one file of is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Store(usize),
    Backup(usize),
    Peer(usize),
}

impl Subject {
    fn all() -> Vec<Subject> {
        let stores = (0..store::CLASSES.len()).map(Subject::Store);
        let backups = (0..backup::CLASSES.len()).map(Subject::Backup);
        stores.chain(backups).chain((0..peers::NAMES.len()).map(Subject::Peer)).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Subject::Store(class) => store::CLASSES[class].name,
            Subject::Backup(class) => backup::CLASSES[class].0,
            Subject::Peer(peer) => peers::NAMES[peer],
        }
    }

    /// Which store it is damaged in, by the name of its directory.
    fn fixture(self) -> &'static str {
        match self {
            Subject::Store(class) => store::CLASSES[class].state.name(),
            Subject::Backup(_) => "backup",
            Subject::Peer(peer) => peers::NAMES[peer],
        }
    }

    /// Whether what a trial came to is as promised; of others nothing is.
    pub fn is_kept(self, kind: Kind, found: Found) -> bool {
        match self {
            _ if kind == Kind::Nothing => found == Found::Whole,
            Subject::Store(class) => {
                found == Found::Whole || found == Found::Error && store::CLASSES[class].may_refuse
            }
            Subject::Backup(_) => found == Found::Whole || found == Found::Error,
            Subject::Peer(_) => true,
        }
    }

    fn files(self, dir: &Path) -> Result<Vec<PathBuf>> {
        if let Subject::Store(class) = self {
            return store::files(&store::CLASSES[class], dir);
        }
        let all = trials::files(dir)?;
        let is_of = |path: &&PathBuf| {
            let name =
                path.strip_prefix(dir).map_or(String::new(), |path| path.to_string_lossy().into_owned());
            let is_used = path.metadata().is_ok_and(|about| about.len() > 0);
            is_used
                && if let Subject::Backup(class) = self { (backup::CLASSES[class].1)(&name) } else { true }
        };
        Ok(all.iter().filter(is_of).cloned().collect())
    }
}

/// What a trial came to.
#[derive(Debug, Clone)]
pub struct Trial {
    pub subject: Subject,
    pub kind: Kind,
    pub found: Found,
    /// What was done, and what was said of it.
    pub told: String,
}

pub fn run(settings: Settings) -> Result<bool> {
    if settings.plants {
        return plants::run_each("damage", &ALSO, &settings);
    }
    println!("seed {}", settings.seed);
    let scratch =
        crate::powercut::Scratch(settings.place().join(format!("annulus-damage-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    let subjects: Vec<Subject> =
        Subject::all().into_iter().filter(|subject| settings.wants(subject.name())).collect();
    for fixture in subjects.iter().map(|subject| subject.fixture()).collect::<std::collections::BTreeSet<_>>()
    {
        make(&scratch.0, fixture)?;
    }
    let trial = |number: usize, random: Random| {
        // All classes with one kind, then with the next.
        let subject = subjects[number % subjects.len()];
        let kind = Kind::ALL[number / subjects.len() % Kind::ALL.len()];
        try_one(&settings, &scratch.0, number, (subject, kind), random)
    };
    let is_sound = |trial: &Trial| trial.subject.is_kept(trial.kind, trial.found);
    let done: Vec<Trial> = settings.run(trial, is_sound)?.into_values().collect();
    table::print(&done);
    // What was not damaged is the control.
    let is_damaged =
        |trial: &&Trial| trial.kind != Kind::Nothing && !matches!(trial.subject, Subject::Peer(_));
    let ours = done.iter().filter(is_damaged).count();
    let broken = done.iter().filter(|trial| !is_sound(trial)).count();
    println!("{}", trials::verdict("files of Annulus damaged", ours, broken));
    Ok(broken == 0)
}

/// Makes a store to be damaged, and another as it is after one more opening.
fn make(scratch: &Path, fixture: &str) -> Result<()> {
    let (fresh, again) = (scratch.join(fixture), scratch.join(format!("{fixture}-again")));
    let child = |dir: &Path, how: &str| -> Result<()> {
        let arguments = ["damage-child".as_ref(), how.as_ref(), fixture.as_ref(), dir.as_os_str()];
        match Told::start(&arguments, scratch, true)?.finish(LIMIT)?.0 {
            Ended::Exited(Some(0), _) => Ok(()),
            ended => Err(format!("{fixture} could not be made: {ended:?}").into()),
        }
    };
    child(&fresh, "make")?;
    if fixture != "backup" {
        copy(&fresh, &again)?;
        child(&again, "again")?;
    }
    Ok(())
}

fn try_one(
    settings: &Settings,
    scratch: &Path,
    number: usize,
    (subject, kind): (Subject, Kind),
    mut random: Random,
) -> Result<Trial> {
    let place = scratch.join(format!("trial-{number}"));
    let (dir, original) = (place.join("store"), place.join("original"));
    let again = scratch.join(format!("{}-again", subject.fixture()));
    let from =
        if kind == Kind::FlippedReopened && again.exists() { again } else { scratch.join(subject.fixture()) };
    copy(&from, &dir)?;
    let files = subject.files(&dir)?;
    let path = files.get(random.below(files.len() as u64) as usize).ok_or("no file to damage")?;
    std::fs::copy(path, &original)?;
    let damage = kind.strike(path, &mut random)?;
    let damage = format!("{}: {damage}", path.strip_prefix(&dir)?.display());
    let damaged = place.join("damaged");
    if !settings.until_caught {
        copy(&dir, &damaged)?;
    }
    let end = std::fs::read_to_string(scratch.join("backup.end")).unwrap_or_default();
    let arguments = ["damage-child".as_ref(), "look".as_ref(), subject.fixture().as_ref(), dir.as_os_str()];
    let more = [path.as_os_str(), original.as_os_str(), end.as_ref()];
    let told = Told::start(&[&arguments[..], &more[..]].concat(), &place, false)?;
    let limit = if matches!(subject, Subject::Peer(_)) { OTHERS } else { LIMIT };
    let (found, said) = match told.finish(limit)? {
        (Ended::Hung, _) => (Found::Dead, "hangs".to_owned()),
        (Ended::Exited(Some(0), _), lines) => {
            let line = lines.last().cloned().unwrap_or_default();
            let (name, text) = line.split_once(' ').unwrap_or((&line, ""));
            let found =
                Found::ALL.into_iter().find(|found| found.name() == name).ok_or("a child said nothing")?;
            (found, text.to_owned())
        }
        (Ended::Exited(code, words), _) => (Found::Dead, format!("died ({code:?}): {words}")),
    };
    let trial = Trial { subject, kind, found, told: format!("{damage}: {said}") };
    if !subject.is_kept(kind, found) {
        let kept = if damaged.exists() {
            trials::keep("damage", settings, number, &damaged)?
        } else {
            String::new()
        };
        println!(
            "{}, {}: {found:?}: {} (--seed {} --trial {number}){kept}",
            subject.name(),
            kind.name(),
            trial.told,
            settings.seed
        );
    } else if std::env::var_os("ANNULUS_VERBOSE").is_some() {
        eprintln!("{number} {}, {}: {found:?}: {}", subject.name(), kind.name(), trial.told);
    }
    std::fs::remove_dir_all(&place)?;
    Ok(trial)
}

/// `make|again FIXTURE DIR`, or `look FIXTURE DIR DAMAGED ORIGINAL END`.
pub fn child(arguments: &[String]) -> Result<()> {
    let [how, fixture, dir, rest @ ..] = arguments else { return Err("no task".into()) };
    let (dir, is_peer) = (Path::new(dir), peers::NAMES.contains(&fixture.as_str()));
    if how != "look" {
        return match fixture.as_str() {
            name if is_peer => peers::make(name, dir, how == "again"),
            "backup" => backup::make(dir),
            state => store::make(State::of(state)?, dir, how == "again"),
        };
    }
    let [damaged, original, end] = rest else { return Err("no file".into()) };
    let (found, text) = match fixture.as_str() {
        name if is_peer => peers::look(name, dir),
        "backup" => backup::look(dir, annulus::Seq(end.parse()?), Path::new(damaged), Path::new(original)),
        state => store::look(State::of(state)?, dir, Path::new(damaged), Path::new(original)),
    };
    crate::child::say(&format!("{} {}", found.name(), text.replace('\n', " ")));
    // What was dropped may still be closing, which is of no interest here; sled's panics there are not either.
    std::process::exit(0);
}
