//! A journal that is lost in every directory it had: another is begun there, or in those that are named now, behind all that the shards
//! have, as the user has accepted.
//!
//! ```text
//!   mark, `kept` --> a journal in each directory --> words --> the manifest lists them --> as `given_up` goes on from `kept`
//! ```
//! Invariants:
//! - Nothing is changed as long as any of the directories has a segment, is on a disk that is not mounted, or does not say what it has.
//! - No shard is sealed before the first word that counts, or where there are none, before the journal in the store's own directory has begun
//!   where the mark says: up to there, one that turns up after all is believed as ever. From there on it is not, and every opening goes on
//!   with what was accepted.
//! - A journal that was begun by an opening that was interrupted is begun again with the same write.

use super::anew;
use super::covered::check_covered;
use super::journals::{OWN, Wanted, check_accepted};
use crate::disk::{Disk, mounts};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, VirtualNode};
use crate::journal::mirror::{Locks, Mirrors, Place};
use crate::journal::{Journal, JournalConfig, Left};
use crate::manifest::{GivenUp, Kept, Manifest};
use crate::options::Options;
use crate::shard::Layout;
use crate::shard::paths::{self, JOURNAL_DIR};
use std::path::Path;
use std::sync::Arc;

/// What the replacement of a lost journal works on.
pub struct Losing<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub dir: &'a Path,
    pub options: &'a Options,
    pub layout: &'a Layout,
    pub locks: &'a Locks,
    pub config: JournalConfig,
}

/// Begins a journal in the place of one that is lost, if it is, and the user has accepted that. Returns the copies that there are to be
/// then; `wanted` as it is, where nothing is to be done.
///
/// # Errors
/// `Refused`: a disk is not mounted, or a directory that is named now has a journal. `Unavailable`: shards are away that the store cannot do
/// without. What making a journal gives.
pub fn replace(at: Losing<'_>, manifest: &mut Manifest, wanted: Option<Wanted>) -> Result<Option<Wanted>> {
    let disk = at.disk.as_ref();
    if !at.options.accept_journal_loss {
        return Ok(wanted);
    }
    let places = places(&at, wanted.as_ref())?;
    let mark = manifest.given_up.filter(|mark| mark.kept.is_some());
    let Some(begun) = begun(&at, &places, manifest)? else {
        return Ok(wanted);
    };
    // Nothing is begun without shards that could never come back to it.
    check_covered(at.layout)?;
    let implicit = manifest.journals.is_empty();
    let known = manifest.given_up.map_or(0, |mark| mark.epoch);
    let epoch = match Mirrors::newest_word(disk, at.dir, manifest.store, &places) {
        // Where there never was one, the journal is believed without.
        None if implicit => 0,
        said => Mirrors::afresh_after(said.unwrap_or(0).max(known)),
    };
    let kept = match mark.and_then(|mark| mark.kept) {
        Some(kept) if !begun.is_empty() => kept,
        before => {
            let kept = kept(at.layout, before)?;
            manifest.given_up = Some(GivenUp { epoch, kept: Some(kept) });
            manifest.store_next(disk, at.dir)?;
            kept
        }
    };
    let here = |place: &Place| if implicit { place.implicit } else { place.listed };
    let places: Vec<Place> = places.into_iter().filter(here).collect();
    // One that was begun stays, with its word if it has one: from there on every opening goes on with it.
    for place in places.iter().filter(|place| !begun.contains(&place.id)) {
        Mirrors::begin_afresh(at.disk, &place.dir, at.locks, at.config, kept.next)?;
    }
    log::warn!(
        "the journal of {} is lost, after {} at the earliest, and is begun anew with {}",
        at.dir.display(),
        kept.end,
        kept.next
    );
    if epoch > 0 {
        Mirrors::vouch_afresh(disk, manifest.store, &places, epoch)?;
    }
    match wanted {
        Some(Wanted { entries, accept, .. }) if !implicit => {
            if manifest.journals != entries {
                manifest.journals.clone_from(&entries);
                manifest.store_next(disk, at.dir)?;
            }
            let places = places.into_iter().map(|place| Place { known: true, ..place }).collect();
            Ok(Some(Wanted { places, entries, accept }))
        }
        wanted => Ok(wanted),
    }
}

/// Whether it is lost, as far as is known: nothing is changed.
///
/// # Errors
/// `Refused`: a disk is not mounted, a directory that is named now has a journal, or the journal was moved to where nobody knows of.
pub fn is_lost(at: &Losing<'_>, manifest: &Manifest, wanted: Option<&Wanted>) -> Result<bool> {
    Ok(begun(at, &places(at, wanted)?, manifest)?.is_some())
}

/// The copies; the store's own directory for the journal, where no other was ever named.
fn places(at: &Losing<'_>, wanted: Option<&Wanted>) -> Result<Vec<Place>> {
    if let Some(wanted) = wanted {
        return Ok(wanted.places.clone());
    }
    let dir = paths::resolve(at.disk.as_ref(), &at.dir.join(JOURNAL_DIR))?;
    Ok(vec![Place { id: OWN, dir, known: true, listed: true, implicit: true, mounts: 0 }])
}

/// Which copies an interrupted opening has begun in the place of what is lost, as the mark says; none: it is not lost, as far as is known.
fn begun(at: &Losing<'_>, places: &[Place], manifest: &Manifest) -> Result<Option<Vec<u32>>> {
    let (disk, store) = (at.disk.as_ref(), manifest.store);
    let before = manifest.given_up.and_then(|mark| mark.kept);
    let (mut begun, mut other) = (Vec::new(), None);
    for place in places {
        match Journal::left(disk, &place.dir, store, before.map(|kept| kept.next)) {
            Ok(Left::Nothing) => {}
            Ok(Left::Begun) => begun.push(place.id),
            Ok(Left::Segments) if place.known => return Ok(None),
            Ok(Left::Segments) => other = other.or(Some(&place.dir)),
            // What is wrong there is said where it is read.
            Err(e) => {
                log::warn!("whether the journal is lost is not known: {e}");
                return Ok(None);
            }
        }
    }
    match other {
        Some(_) if at.options.accept_journal.is_some() => return Ok(None),
        Some(dir) => {
            let text = "the journal is lost in the directories that it had, and this one, which is new, has a journal of the store";
            return Err(Error::new(ErrorKind::Refused, text).at(dir).remedy(
                "if the newest writes are there, take it with Options::accept_journal; if not, name an empty or new directory",
            ));
        }
        None => {}
    }
    let copies: Vec<&Path> = places.iter().map(|place| place.dir.as_path()).collect();
    check_accepted(disk, at.options, &copies)?;
    let known: Vec<u32> = places.iter().filter(|place| place.known).map(|place| place.id).collect();
    // With a mark it may be the word of what was begun. One that cannot be read says nothing.
    if before.is_none() && matches!(Mirrors::is_elsewhere(disk, at.dir, store, &known), Ok(true)) {
        let text = "the journal may not be lost: the manifest lists none of the copies that the word in the store's directory calls complete, so that \
                    it was moved since to a directory that is not known";
        return Err(Error::new(ErrorKind::Refused, text).at(at.dir).remedy(
            "name the directory that it was moved to with Options::journal_dir; where that is lost as well, move the file MIRRORS in this one away",
        ));
    }
    for Place { dir, mounts: before, .. } in places.iter().filter(|place| place.known) {
        let now =
            mounts(disk, at.dir, dir).map_err(|e| Error::io("look whether a disk is mounted", dir, e))?;
        if now < *before {
            let text = format!(
                "the disk of a copy of the journal is not mounted, so that it may not be lost: {now} file systems begin on the way there, and there were {before}"
            );
            return Err(Error::new(ErrorKind::Refused, text).at(dir).remedy(
                "mount it; where it is lost, mount another one there, which may be empty, and open the store again",
            ));
        }
    }
    Ok(Some(begun))
}

/// What is left, with the number that writes go on with. `before`: as an opening has put it down that came to nothing.
fn kept(layout: &Layout, before: Option<Kept>) -> Result<Kept> {
    let applied = layout.shards.iter().map(|shard| shard.applied()).max().unwrap_or_default();
    let sealed = before.map_or(Seq::ZERO, |kept| Seq(kept.next.0.saturating_sub(1)));
    let end = before.map_or(applied, |kept| kept.end.min(applied));
    Ok(Kept { end, level: level(layout), next: anew::first_after(applied.max(sealed))? })
}

/// How far a shard must have got to count as it is. Nothing can tell the others any more what they lack: they are made anew, but for those
/// that the store cannot do without.
pub fn level(layout: &Layout) -> Seq {
    let Layout { ring, shards, .. } = layout;
    let covered = |level: Seq| {
        let has = |i: &u16| shards.get(usize::from(*i)).is_some_and(|s| s.serves() && s.applied() >= level);
        (0..ring.virtual_nodes()).all(|node| ring.owner_indexes(VirtualNode(node)).iter().any(has))
    };
    let reached = shards.iter().filter(|shard| shard.serves()).map(|shard| shard.applied());
    reached.filter(|level| covered(*level)).max().unwrap_or_default()
}

/// Takes shards out of use that have not got as far as this, when a part of the journal is given up.
pub fn fail_behind(layout: &Layout, level: Seq) {
    for shard in layout.shards.iter().filter(|s| s.is_open() && s.applied() < level) {
        let applied = shard.applied();
        let text = format!(
            "the shard holds writes up to {applied}, and a part of the journal was given up after it"
        );
        let error = Error::corruption(text).at(&shard.dir).on(shard.id);
        shard.fail(&error.remedy("rebuild it from its replicas"));
    }
}
