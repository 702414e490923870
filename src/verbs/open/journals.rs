//! Where the journal lies: in the store's own directory, or in those that the user names.
//!
//! Invariant: what the manifest lists is what the options of the last opening came to, and the words of the copies say
//! the same before it is written.

use super::asking::Asking;
use super::given_up::Way;
use crate::disk::{Disk, Limited, mounts};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::mirror::{Found, Locks, Mirrors, Place};
use crate::journal::{Journal, JournalConfig, Known};
use crate::manifest::{JournalEntry, Manifest};
use crate::options::Options;
use crate::shard::paths::{self, JOURNAL_DIR};
use crate::state::Seams;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The number of what lies in the store's own directory, where no manifest has given it one.
pub const OWN: u32 = 0;

/// The disk as the journal's copies see it: what is asked of one takes no longer than one step of a shard may. Without background threads it is
/// waited for.
#[derive(Clone)]
pub struct Below {
    pub disk: Arc<dyn Disk>,
    limited: Option<Arc<Limited>>,
    home: PathBuf,
}

impl Below {
    pub fn new(dir: &Path, seams: &Seams, options: &Options) -> Below {
        let limit = options.shard_timeout_or_default();
        let limited = seams.background.schedules().then(|| Arc::new(Limited::new(seams.disk.clone(), limit)));
        let disk = match &limited {
            Some(limited) => limited.clone(),
            None => seams.disk.clone(),
        };
        let below = Below { disk, limited, home: dir.to_path_buf() };
        below.watch(dir);
        below
    }

    fn watch(&self, dir: &Path) {
        if let Some(limited) = &self.limited {
            limited.watch(dir);
        }
    }
}

/// The locks of a store and its journal's directories. They go together, whoever still has a hand in the journal.
pub struct Locked {
    store: Option<Box<dyn Send + Sync>>,
    journals: Arc<Locks>,
    below: Below,
}

impl Locked {
    pub fn new(store: Box<dyn Send + Sync>, journals: Arc<Locks>, below: &Below) -> Locked {
        Locked { store: Some(store), journals, below: below.clone() }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let Some(limited) = &self.below.limited else { return self.journals.release() };
        self.journals.leave(limited);
        if let Some(store) = self.store.take() {
            limited.leave(&self.below.home, store);
        }
    }
}

/// The copies that were, and that are to be.
#[derive(Debug)]
pub struct Wanted {
    pub places: Vec<Place>,
    /// What the manifest is to list.
    pub entries: Vec<JournalEntry>,
    /// The copy that the user takes as it is.
    pub accept: Option<PathBuf>,
}

/// The entries of a store that is created.
pub fn of_new(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    shards: &[PathBuf],
) -> Result<Vec<JournalEntry>> {
    let base = paths::resolve(disk, dir)?;
    let shards: Vec<PathBuf> =
        shards.iter().map(|path| paths::resolve(disk, &dir.join(path))).collect::<Result<_>>()?;
    let paths = resolved(disk, &base, &options.journals, &shards)?;
    let entry = |(id, path): (u32, PathBuf)| entry(disk, &base, id, path);
    Ok((0..).zip(paths).map(entry).collect())
}

/// The directories of a new store's journal, found fit and locked before anything of the store is made.
pub struct Reserved {
    places: Vec<Place>,
    locks: Arc<Locks>,
}

impl Reserved {
    /// Gives the lock of one back.
    pub fn let_go(&self, dir: &Path) {
        self.locks.let_go(dir);
    }
}

/// Finds them fit.
pub fn reserve(dir: &Path, manifest: &Manifest, below: &Below) -> Result<Reserved> {
    let places = manifest.journals.iter().map(|entry| Place {
        id: entry.id,
        dir: dir.join(&entry.path),
        known: true,
        listed: true,
        implicit: false,
        mounts: entry.mounts,
    });
    let places: Vec<Place> = places.collect();
    places.iter().for_each(|place| below.watch(&place.dir));
    let locks = Mirrors::reserve(below.disk.as_ref(), manifest.store, &places)?;
    Ok(Reserved { places, locks })
}

/// Makes the copies of a new store's journal.
pub fn create(
    dir: &Path,
    reserved: Reserved,
    config: JournalConfig,
    below: &Below,
    first: Seq,
) -> Result<()> {
    let Reserved { places, locks } = reserved;
    let (disk, limited) = (below.disk.clone(), below.limited.clone());
    let mirrors = Mirrors::create(disk, dir, config.store_id, places, limited, locks)?;
    let at = mirrors.dir().to_path_buf();
    Journal::create(mirrors.clone(), &at, config, first)?.close()?;
    mirrors.vouch()
}

/// What an existing store's manifest and the options come to; none: the journal lies in the store's own directory, and
/// nothing says that it was ever moved.
pub fn wanted(
    below: &Below,
    dir: &Path,
    manifest: &Manifest,
    options: &Options,
    asking: &Asking,
) -> Result<Option<Wanted>> {
    let disk = below.disk.as_ref();
    let implicit = manifest.journals.is_empty();
    options.accept_journal.iter().for_each(|path| below.watch(path));
    if implicit && options.journals.is_empty() {
        check_accepted(disk, options, &[&paths::resolve(disk, &dir.join(JOURNAL_DIR))?])?;
        if !has_left(disk, dir, manifest.store)? {
            return Ok(None);
        }
    }
    let known = match implicit {
        true => vec![JournalEntry { id: OWN, path: JOURNAL_DIR.into(), mounts: 0 }],
        false => manifest.journals.clone(),
    };
    // As they are called, and, below, as they are called with links resolved.
    known.iter().for_each(|entry| below.watch(&dir.join(&entry.path)));
    options.journals.iter().for_each(|path| below.watch(path));
    let mut places = Vec::new();
    for entry in known {
        let path = paths::resolve(disk, &dir.join(&entry.path))?;
        let mounts = entry.mounts;
        below.watch(&path);
        places.push(Place { id: entry.id, dir: path, known: true, listed: false, implicit, mounts });
    }
    let base = paths::resolve(disk, dir)?;
    let shards = asking.where_they_lie(dir, &base, manifest)?;
    let mut asked = resolved(disk, &base, &options.journals, &shards)?;
    if asked.is_empty() {
        asked = places.iter().map(|place| place.dir.clone()).collect();
    }
    asked.iter().for_each(|path| below.watch(path));
    let mut next = places.iter().map(|place| place.id.saturating_add(1)).max().unwrap_or(0);
    let mut entries = Vec::new();
    for path in asked {
        let index = match places.iter().position(|place| place.dir == path) {
            Some(index) => index,
            None => {
                // Not where one was: the directory itself says which copy it is, if it is one that was moved.
                let moved = Mirrors::identify(disk, dir, &path, manifest.store)?;
                let away = |p: &Place| Some(p.id) == moved && !p.listed && Mirrors::is_away(disk, &p.dir);
                match places.iter().position(away) {
                    Some(index) => index,
                    None => {
                        // Before anything is made there, be it a lock.
                        Mirrors::check_vacant(disk, &path, manifest.store)?;
                        let place = Place {
                            id: next,
                            dir: path.clone(),
                            known: false,
                            listed: true,
                            implicit: false,
                            mounts: mounts(disk, &base, &path).unwrap_or(0),
                        };
                        next = next.saturating_add(1);
                        places.push(place);
                        places.len() - 1
                    }
                }
            }
        };
        if let Some(place) = places.get_mut(index) {
            if place.dir != path {
                place.mounts = mounts(disk, &base, &path).unwrap_or(0);
            }
            (place.listed, place.dir) = (true, path.clone());
            entries.push(JournalEntry { id: place.id, path: relative(&base, path), mounts: place.mounts });
        }
    }
    places.sort_by_key(|place| entries.iter().position(|entry| entry.id == place.id).unwrap_or(usize::MAX));
    let accept = options.accept_journal.as_deref().map(|path| paths::resolve(disk, path)).transpose()?;
    Ok(Some(Wanted { places, entries, accept }))
}

/// Whether the journal may have left the store's own directory: what lies there then is what was left behind, and a manifest that lists nothing
/// is an old one. The word in the store's directory says so, or what was left does. A word that is damaged is heard with those of the copies.
fn has_left(disk: &dyn Disk, dir: &Path, store: u128) -> Result<bool> {
    let says = |dir: &Path| match Mirrors::is_elsewhere(disk, dir, store, &[OWN]) {
        Err(error) if error.kind() == ErrorKind::Corruption => Ok(true),
        left => left,
    };
    Ok(says(dir)? || says(&dir.join(JOURNAL_DIR))?)
}

/// Errors where the user takes a copy as it is that is none of these, and it is there: a manifest that was taken from a shard, or put back, may be
/// of before the journal was moved, and the user knows better.
pub fn check_accepted(disk: &dyn Disk, options: &Options, copies: &[&Path]) -> Result<()> {
    let Some(asked) = &options.accept_journal else { return Ok(()) };
    let path = paths::resolve(disk, asked)?;
    if copies.contains(&path.as_path()) || !Journal::is_in(disk, &path)? {
        return Ok(());
    }
    let text = "the journal that is to be taken as it is lies in none of the directories that the store has for it, or that are named";
    Err(Error::new(ErrorKind::Refused, text).at(asked).remedy(
        "name the directory with Options::journal_dir as well; or, where another is meant, leave Options::accept_journal out",
    ))
}

/// Whether the user takes a copy of the journal as it is that is believed.
pub fn accepts(disk: &dyn Disk, dir: &Path, options: &Options, found: Option<&Found>) -> Result<bool> {
    let Some(asked) = &options.accept_journal else { return Ok(false) };
    let asked = paths::resolve(disk, asked)?;
    match found {
        Some(found) => Ok(found.believes(&asked)),
        None => Ok(paths::resolve(disk, &dir.join(JOURNAL_DIR))? == asked),
    }
}

/// The copies of the journal, made alike, with the manifest that lists them; `found` is with what that is to list.
pub fn serve(
    found: Option<(Found, Vec<JournalEntry>)>,
    way: Way,
    (from, at_least): (Seq, Known),
    manifest: &mut Manifest,
    dir: &Path,
    seams: &Seams,
    below: &Below,
) -> Result<Option<Arc<Mirrors>>> {
    let disk = seams.disk.as_ref();
    // Before the words that begin it: one that is interrupted between them must not pass for a journal that is whole.
    if way.mark().is_some() && manifest.given_up != way.mark() {
        manifest.given_up = way.mark();
        manifest.store_next(disk, dir)?;
    }
    let mut next = manifest.clone();
    // Who accepts the end of what can be read asks for nothing that a damaged copy shows behind it.
    let found = match way {
        Way::Shorter => found.map(|(found, entries)| (found.without_the_rest(), entries)),
        _ => found,
    };
    let mut mirrors = None;
    if let Some((found, mut entries)) = found {
        entries.iter_mut().for_each(|entry| entry.mounts = found.mounts(entry.id));
        mirrors = Some(found.serve(from, at_least, below.limited.clone())?);
        next.journals = entries;
    }
    // A mark that came to nothing goes when the words say so and the journal has opened: until then it may be what says why it does not.
    if way != Way::Whole {
        next.given_up = way.mark();
    }
    if *manifest != next {
        *manifest = next;
        manifest.store_next(disk, dir)?;
    }
    if let Some(mirrors) = &mirrors {
        mirrors.let_go()?;
    }
    Ok(mirrors)
}

/// The disk and the directory that the journal works on. A single copy is written to as if it were the store's own.
pub fn below(seams: &Seams, dir: &Path, mirrors: Option<&Arc<Mirrors>>) -> (Arc<dyn Disk>, PathBuf) {
    match mirrors {
        None => (seams.disk.clone(), dir.join(JOURNAL_DIR)),
        Some(mirrors) if mirrors.copies().len() == 1 => (seams.disk.clone(), mirrors.dir().to_path_buf()),
        Some(mirrors) => (mirrors.clone(), mirrors.dir().to_path_buf()),
    }
}

/// An entry for a directory that the user names, which is taken to lie where it is to.
fn entry(disk: &dyn Disk, base: &Path, id: u32, path: PathBuf) -> JournalEntry {
    let mounts = mounts(disk, base, &path).unwrap_or(0);
    JournalEntry { id, path: relative(base, path), mounts }
}

fn relative(base: &Path, path: PathBuf) -> PathBuf {
    path.strip_prefix(base).map(Path::to_path_buf).unwrap_or(path)
}

/// The absolute paths of the directories, checked against each other and where the store and the shards lie.
fn resolved(disk: &dyn Disk, base: &Path, asked: &[PathBuf], shards: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = Vec::new();
    for asked in asked {
        let path = paths::resolve(disk, asked)?;
        let touches = |other: &PathBuf| path.starts_with(other) || other.starts_with(&path);
        let taken = if path == base || base.starts_with(&path) {
            "is, or holds, the store's own"
        } else if all.iter().any(touches) {
            "is named twice, or lies inside another"
        } else if shards.iter().any(touches) {
            "is, holds or lies inside that of a shard"
        } else {
            all.push(path);
            continue;
        };
        return Err(Error::new(ErrorKind::InvalidInput, format!("a directory for the journal {taken}"))
            .at(asked)
            .remedy("give each copy of the journal a directory of its own"));
    }
    Ok(all)
}
