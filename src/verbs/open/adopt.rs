//! A store whose own directory, or whose manifest, is lost: every shard carries a copy of the manifest.
//!
//! Invariants: nothing is taken over before the user has accepted what is lost with the journal, if that was in the directory,
//! too; the manifest comes behind that, so that an opening that is interrupted can be done again; a marker file stands beside
//! it until the opening has come to its end, so that one that was refused, or interrupted, makes no later one believe of an older copy
//! what only the file that was lost could say.

use super::anew;
use super::asking::Asking;
use super::copies;
use super::covered::check_covered;
use super::create::{self, RESTORING};
use super::journals::Wanted;
use super::lost::{self, Losing};
use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::Journal;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::shard::paths::JOURNAL_DIR;
use crate::state::Seams;
use crate::state::archives::Archives;
use crate::state::scrub::Scrubbing;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Stands beside a manifest that was taken from a shard until the opening that took it, or a later one, has succeeded.
pub const MARKER: &str = "ADOPTING";

const KIND: Kind = Kind {
    magic: b"ANNULUSO",
    version: 1,
    oldest: 1,
    name: "marker of a manifest taken from a shard",
    remedy: "open the store with the version that wrote it",
};

/// By how much less than this the attempts at one adoption raise the number of the manifest: each does by a few.
const ATTEMPTS: u64 = 1 << 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    #[serde(with = "hex128")]
    store: u128,
    /// Of the copy that was taken: what attempts have written since is no newer than that.
    generation: u64,
}

/// The newest copy of the manifest in the shards that the options name, or that lie in the store's directory; none if there
/// is none, or a creation or a restore was interrupted there.
pub fn from_shards(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    asking: &Asking,
) -> Result<Option<Manifest>> {
    if [create::MARKER, RESTORING].iter().any(|marker| disk.exists(&dir.join(marker)).unwrap_or(true)) {
        return Ok(None);
    }
    let inside = dir.join(create::SHARDS_DIR);
    let names = disk.list(&inside).unwrap_or_default();
    let named = options.shard.iter().map(|shard| shard.path.clone());
    let places: Vec<PathBuf> = named.chain(names.into_iter().map(|name| inside.join(name))).collect();
    let mut newest: Option<Manifest> = None;
    for (place, copy) in copies::all(places, asking)? {
        let Some(best) = &newest else {
            newest = Some(copy);
            continue;
        };
        if best.store != copy.store {
            let text = format!(
                "the shards' directories belong to several stores: {:032x} and {:032x}",
                best.store, copy.store
            );
            return Err(Error::new(ErrorKind::Foreign, text)
                .at(place)
                .remedy("name the directories of one store"));
        }
        if copy.generation > best.generation {
            newest = Some(copy);
        }
    }
    // Without the journal it may as well be a store that lies elsewhere: only who says so is believed, or where it was moved to.
    let lost = |manifest: &Manifest| {
        manifest.journals.is_empty() && !Journal::is_in(disk, &dir.join(JOURNAL_DIR)).unwrap_or(true)
    };
    let moved = || {
        let accepted = options.accept_journal.as_ref();
        accepted.is_some_and(|path| matches!(asking.one(path, Journal::is_in), Some(Ok(true))))
    };
    Ok(newest.filter(|manifest| options.accept_journal_loss || !lost(manifest) || moved()))
}

/// The number of the copy that the manifest in the directory was taken from, if that was done by an opening that has not come to its end. A marker of
/// another store says nothing of this one. Of a manifest that no attempt can have written, one that was put back for one, its own number counts.
pub fn unfinished(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<Option<u64>> {
    let path = dir.join(MARKER);
    let bytes = disk.read(&path).map_err(|e| envelope::unread(KIND, &path, e))?;
    let own = manifest.generation;
    let taken = match bytes.map(|bytes| envelope::decode::<Marker>(KIND, &path, &bytes)) {
        None => return Ok(None),
        Some(Ok(marker)) if marker.store != manifest.store => return Ok(None),
        Some(Ok(Marker { generation, .. })) => match own.checked_sub(generation) {
            Some(raised) if raised < ATTEMPTS => generation,
            _ => own,
        },
        // Believed too little the manifest loses nothing.
        Some(Err(error)) if error.kind() == ErrorKind::Corruption => {
            log::warn!("{error}");
            own
        }
        Some(Err(error)) => return Err(error),
    };
    let text = "was taken from its shards by an opening that was not completed, which is gone on with";
    log::warn!("the manifest of {} {text}", dir.display());
    Ok(Some(taken))
}

/// As [`unfinished`], where the shards can be asked: a copy that is the manifest in all shows that no attempt has written it, since they give the
/// shards none. So it was put back, and its own number counts.
pub fn taken_as(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    options: &Options,
    asking: &Asking,
) -> Result<Option<u64>> {
    let own = manifest.generation;
    let taken = unfinished(disk, dir, manifest)?;
    if taken.is_none_or(|taken| taken == own) {
        return Ok(taken);
    }
    let copies = copies::all(copies::places(dir, manifest, options), asking)?;
    Ok(if copies.iter().any(|(_, copy)| copy == manifest) { Some(own) } else { taken })
}

/// Errors where the manifest was so taken, for those who go by it and do not open the store.
pub fn check_finished(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<()> {
    match unfinished(disk, dir, manifest)? {
        None => Ok(()),
        Some(_) => {
            let text = "the manifest was taken from a shard by an opening that was not completed, and may be older than the store";
            Err(Error::new(ErrorKind::Refused, text).at(dir).remedy(
                "open the store first; where that fails for the shards that are lost, restore into a new directory",
            ))
        }
    }
}

/// Makes what was `taken`, with that number, from a shard the store's manifest: as what it was found as, since a shard that does not answer yet may
/// have a newer one, and this opening may be refused still.
pub fn begin(disk: &dyn Disk, dir: &Path, manifest: &Manifest, taken: u64) -> Result<()> {
    let marker = dir.join(MARKER);
    let bytes = envelope::encode(KIND, &Marker { store: manifest.store, generation: taken })?;
    disk.replace(&marker, &bytes)
        .map_err(|e| Error::io("mark the manifest as taken from a shard", &marker, e))?;
    manifest.store(disk, dir)
}

/// What is written of a manifest that was taken from a shard counts more than the file that was lost, and than the copy of a shard that is away, should
/// they come back: of these one does not know the numbers, so many are left out.
pub fn outrank(disk: &dyn Disk, dir: &Path, manifest: &mut Manifest) -> Result<()> {
    manifest.generation |= u64::from(u32::MAX);
    manifest.store_next(disk, dir)?;
    let marker = dir.join(MARKER);
    disk.remove_file(&marker)
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|e| Error::io("remove the marker of a manifest taken from a shard", &marker, e))
}

/// Makes a new journal in the place of one that is lost with the store's directory, as the user has accepted. Where it was, now or by an opening
/// that was interrupted, the shards are to be compared, durably before there is a journal: what was lost shows no more from then on.
///
/// # Errors
/// As [`lost::is_lost`], before anything is changed: the copy that was taken may be of before the journal was moved. What making it gives.
pub fn replace_journal(
    at: &Losing<'_>,
    manifest: &Manifest,
    wanted: Option<&Wanted>,
    archives: &Archives,
    scrub: &Scrubbing,
    seams: &Seams,
) -> Result<()> {
    let Losing { dir, options, layout, .. } = *at;
    let journal = dir.join(JOURNAL_DIR);
    let disk = seams.disk.as_ref();
    if !manifest.journals.is_empty() {
        return Ok(());
    }
    if Journal::is_in(disk, &journal)? {
        // Whether the journal was there all along, nobody knows: to compare the shards once more does no harm.
        return match options.accept_journal_loss {
            true => anew::compare(layout, scrub, disk, dir),
            false => Ok(()),
        };
    }
    // It was there, or was accepted as lost, when the manifest was taken: the user says it anew.
    if !options.accept_journal_loss || !lost::is_lost(at, manifest, wanted)? {
        return Ok(());
    }
    let last = layout.shards.iter().map(|shard| shard.applied()).max().unwrap_or_default();
    let next = anew::first_after(last)?;
    // The new numbers do not tell which archive has more than that.
    archives.parts_after(last)?;
    archives.log_ends(last)?;
    lost::fail_behind(layout, lost::level(layout));
    anew::level(layout, Seq(next.0.saturating_sub(1)));
    check_covered(layout)?;
    // Before the scrub's file: beside the journal's directory that is of a store whose manifest is gone, alone it is a foreign one.
    disk.create_dir_durably(&journal).map_err(|e| Error::io("make the journal's directory", &journal, e))?;
    anew::compare(layout, scrub, disk, dir)?;
    Journal::create(seams.disk.clone(), &journal, at.config, next)?.close()?;
    disk.sync_dir(dir).map_err(|e| Error::io("sync the store's directory", dir, e))?;
    log::warn!(
        "the journal of {} was lost after {last} at the earliest, and is begun anew with {next}",
        dir.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::engine::MemoryFactory;
    use crate::state::Background;
    use std::sync::Arc;

    #[test]
    fn what_a_marker_says_counts_for_what_attempts_have_written_since() {
        let (disk, dir) = (SimDisk::new(1), Path::new("/store"));
        let seams = Seams {
            disk: Arc::new(disk.clone()),
            factory: Arc::new(MemoryFactory::new()),
            background: Background::Off,
        };
        let options = Options::new().shards(1).replication_factor(1);
        drop(crate::testing::open(dir, &options, seams).unwrap());
        let manifest = Manifest::load(&disk, dir).unwrap().unwrap();
        let taken = |raised: u64, manifest: &Manifest| {
            let mut attempt = manifest.clone();
            attempt.generation += raised;
            unfinished(&disk, dir, &attempt).unwrap().map(|taken| taken - manifest.generation)
        };
        assert_eq!(taken(0, &manifest), None);
        begin(&disk, dir, &manifest, manifest.generation).unwrap();
        assert_eq!(taken(0, &manifest), Some(0));
        assert_eq!(taken(ATTEMPTS - 1, &manifest), Some(0));
        // No attempt has written that.
        assert_eq!(taken(ATTEMPTS, &manifest), Some(ATTEMPTS));
        let older = Manifest { generation: manifest.generation - 1, ..manifest.clone() };
        assert_eq!(taken(0, &older), Some(0));
        assert_eq!(taken(0, &Manifest { store: manifest.store ^ 1, ..manifest.clone() }), None);
        assert_eq!(check_finished(&disk, dir, &manifest).unwrap_err().kind(), ErrorKind::Refused);
        // A damaged one says that there was one.
        let marker = dir.join(MARKER);
        disk.damage(&marker, |bytes| *bytes.last_mut().unwrap() ^= 1).unwrap();
        assert_eq!(taken(5, &manifest), Some(5));
        disk.inject(crate::disk::Fault::on(crate::disk::Operation::Read).at(move |path| path == marker));
        assert_eq!(unfinished(&disk, dir, &manifest).unwrap_err().kind(), ErrorKind::Io);
    }
}
