//! What a believed copy shows that cannot be read as a whole: the log may reach further than another copy goes, which could serve.
//!
//! Invariants:
//! - No copy serves that ends below what a believed one shows was synced, whatever keeps that one from being read: it would be made like the
//!   other, and what it alone has would be gone.
//! - Before that refuses an opening, the damaged copy is mended from the others: in every place that is read, or in none. Whole segments that it
//!   lacks are put into it first, and go again where that does not have it read.

use super::align::{Patch, patch};
use super::choose::Reach;
use super::copy::{self, Copying};
use super::open::{Found, Place};
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::journal::Known;
use crate::journal::recovery::{self, Segment, Survey};
use crate::journal::scan::{Evidence, Reader};
use crate::journal::segment::{self, BODY, Name, Origin, SegmentHeader};
use crate::sync::atomic::AtomicBool;
use std::collections::BTreeSet;
use std::path::Path;

/// Of a file without a header, as much is looked at: its length may be anything.
const LONGEST: u64 = 4 << 30;

impl Found {
    /// Nobody asks for what a damaged copy shows behind the end of the others: the user accepts that.
    pub fn without_the_rest(mut self) -> Found {
        self.shorter = true;
        self
    }

    /// Of the copies that cannot be read those are mended that show more than the `ranked` ones have, if they can be, and ranked as well.
    ///
    /// # Errors
    /// `Corruption`: one shows that something was synced which no copy has that can be read.
    pub(super) fn bring_back(
        &self,
        ranked: &mut Vec<Reach>,
        failed: &[(usize, Error)],
        from: Seq,
        at_least: Known,
    ) -> Result<()> {
        let end = |ranked: &[Reach]| ranked.iter().map(|reach| reach.extent.end).max().unwrap_or(Seq::ZERO);
        let mut left = Vec::new();
        for (index, cause) in failed {
            let Some((place, _)) = self.places.get(*index) else { continue };
            let shown = self.shown(&place.dir);
            if shown.reach.max(shown.proven.next()) <= end(ranked) {
                continue;
            }
            let generation = ranked.iter().map(|reach| reach.extent.generation).min().unwrap_or(0);
            let before = self.fetch(*index, place, from);
            self.mend_from_others(*index, place, from, generation);
            let strict = self.reach(&place.dir, from, at_least, false);
            match strict.or_else(|_| self.reach(&place.dir, from, at_least, true)) {
                Ok(extent) => ranked.push(Reach { index: *index, extent, listed: place.listed }),
                Err(_) => {
                    if let Some(before) = before {
                        self.between(&place.dir, &place.dir, &AtomicBool::new(false)).withdraw(&before);
                    }
                    left.push((place, cause, shown.proven));
                }
            }
        }
        let end = end(ranked);
        match left.into_iter().find(|(.., proven)| *proven >= end && end > Seq::ZERO) {
            Some((place, cause, proven)) => {
                let others = ranked.iter().filter_map(|reach| self.places.get(reach.index));
                let others: Vec<String> = others.map(|(place, _)| place.dir.display().to_string()).collect();
                Err(Error::corruption(format!(
                    "a copy of the journal is damaged ({cause}), and shows that writes up to {proven} were synced; those that can be read \
                     have none from {end} on: {}",
                    others.join(", ")
                ))
                .at(&place.dir)
                .remedy(
                    "put that copy's files back from a backup, or restore the store from a checkpoint; or, to go on without the writes that are \
                     lost, for good, move that copy's directory away",
                ))
            }
            None => Ok(()),
        }
    }

    /// What whole frames anywhere in a copy say.
    fn shown(&self, dir: &Path) -> Evidence {
        let named = copy::names(self.disk.as_ref(), dir).unwrap_or_default();
        // None before the newest that says anything says more.
        let newest = named
            .iter()
            .rev()
            .filter_map(|name| self.shown_in(dir, name))
            .find(|shown| shown.reach > Seq::ZERO);
        // One that was given another name may be newer than all, and would go with that.
        let misnamed = copy::misnamed(self.disk.as_ref(), dir).unwrap_or_default();
        let misnamed = misnamed.iter().filter_map(|name| self.shown_in(dir, name));
        misnamed.chain(newest).fold(Evidence::default(), |most, shown| Evidence {
            reach: most.reach.max(shown.reach),
            proven: most.proven.max(shown.proven),
        })
    }

    fn shown_in(&self, dir: &Path, name: &str) -> Option<Evidence> {
        let named = match segment::parse_name(name) {
            Name::Segment(generation) => Some(generation),
            Name::Misnamed => None,
            _ => return None,
        };
        let path = dir.join(name);
        let file = self.disk.open(&path, OpenMode::Read).ok()?;
        let len = file.len().ok()?;
        let mut page = vec![0; BODY as usize];
        let read = file.read_at(0, &mut page).unwrap_or(0);
        let header = SegmentHeader::decode_page(page.get(..read)?).ok().map(|(header, _)| header);
        let header = match header {
            Some(header) if header.store_id != self.store => return None,
            Some(header) if named.is_some_and(|generation| generation != header.generation) => return None,
            Some(header) => SegmentHeader { len: header.len.min(len), ..header },
            // Frames say of themselves whose they are.
            None => SegmentHeader {
                store_id: self.store,
                generation: named?,
                boot_id: 0,
                len: len.min(LONGEST),
                origin: Origin::Continuation,
            },
        };
        let mut shown = Reader::new(file, &path, header, Vec::new()).evidence_left();
        if let Origin::Start { first } = header.origin {
            // All before it was durable when it was made.
            shown.reach = shown.reach.max(first);
            shown.proven = shown.proven.max(Seq(first.0.saturating_sub(1)));
        }
        Some(shown)
    }

    fn between<'a>(&'a self, from: &'a Path, to: &'a Path, stop: &'a AtomicBool) -> Copying<'a> {
        Copying { disk: self.disk.as_ref(), from, to, stop, gate: None, make_do: true }
    }

    /// Puts whole segments into a damaged copy that others have, down to what is replayed; the names that were there before, if any are missing
    /// or cannot be told to be there.
    fn fetch(&self, index: usize, place: &Place, from: Seq) -> Option<BTreeSet<String>> {
        let survey = Survey::read(self.disk.as_ref(), &place.dir, self.store, from);
        let before = survey.is_err().then(|| copy::names(self.disk.as_ref(), &place.dir).ok()).flatten()?;
        let believed: Vec<&Path> = self.believed().map(|(_, place)| place.dir.as_path()).collect();
        for (_, other) in self.believed().filter(|(other, _)| *other != index) {
            let stop = AtomicBool::new(false);
            if let Err(failed) = self.between(&place.dir, &other.dir, &stop).fill(from, &believed) {
                let e = Error::from(failed);
                log::warn!("segments of the journal are not put into a damaged copy that lacks them: {e}");
            }
        }
        Some(before)
    }

    /// Puts into a damaged copy what others have of it, if that is all that an opening reads. `generation`: that another begins with.
    fn mend_from_others(&self, index: usize, place: &Place, from: Seq, generation: u64) {
        let survey = Survey::read(self.disk.as_ref(), &place.dir, self.store, from);
        let begins = match &survey {
            Ok(Survey { segments, .. }) => {
                let generation = |at| segments.get(at).map_or(generation, |s: &Segment| s.header.generation);
                // What is entered for its end marker alone may be left damaged.
                [recovery::start(segments, from), recovery::asked(segments, from)].map(generation)
            }
            Err(_) => [generation; 2],
        };
        let named = copy::names(self.disk.as_ref(), &place.dir).unwrap_or_default();
        // Of a segment that is not replayed the header and the length are read, too.
        let is_refused = |name: &str, at| {
            let path = place.dir.join(name);
            survey.is_err() && recovery::read_header(self.disk.as_ref(), &path, at, self.store).is_err()
        };
        let patches = begins.into_iter().find_map(|begin| {
            let is_read = |name: &&String| {
                matches!(segment::parse_name(name), Name::Segment(at) if at >= begin || is_refused(name, at))
            };
            let remedies = named.iter().filter(is_read).map(|name| self.remedy(index, &place.dir, name));
            remedies.collect::<Option<Vec<_>>>()
        });
        let patches: Vec<Patch> = patches.into_iter().flatten().flatten().collect();
        if let Err(e) = patch(self.disk.as_ref(), &place.dir, &patches, false) {
            log::warn!("a copy of the journal is damaged, and not mended: {e}");
        }
    }

    /// What a segment of a copy lacks that another copy has, if there is one that has it all.
    fn remedy(&self, index: usize, dir: &Path, name: &str) -> Option<Vec<Patch>> {
        let mut others = self.believed().filter(|(other, _)| *other != index);
        others.find_map(|(_, other)| {
            let stop = AtomicBool::new(false);
            self.between(dir, &other.dir, &stop).remedy(name).ok().flatten()
        })
    }
}
