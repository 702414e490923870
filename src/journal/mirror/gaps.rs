//! A segment that is missing in the copy which another one is made from, and is in that: it goes back before anything is removed.
//!
//! Invariants:
//! - Only where it is the same one for certain: the target has the next one as well, which is the source's by its header and its first frame,
//!   and its own frames lead up to that without damage.
//! - While the store serves, a copy is not made where that is not so, since what the target has may be the only one. An opening, which finds what an
//!   interrupted trim has left as well, goes on without.

use super::choose::{Reach, as_far};
use super::copy::{Copying, Failed, Outcome};
use super::open::{Found, Place};
use super::whole::header;
use crate::disk::{FreeSpace, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Header, Kind};
use crate::ids::Seq;
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{self, BODY, Name, Origin, SegmentHeader};
use crate::sync::RwLock;
use crate::sync::atomic::AtomicBool;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The generations of the segments among these names.
fn generations(names: &BTreeSet<String>) -> BTreeSet<u64> {
    let generation = |name: &String| match segment::parse_name(name) {
        Name::Segment(generation) => Some(generation),
        _ => None,
    };
    names.iter().filter_map(generation).collect()
}

/// Those that the target has in a gap of the source's, the newest first; none: there is no gap.
fn missing(wanted: &BTreeSet<String>, found: &BTreeSet<String>) -> Option<Vec<u64>> {
    let wanted = generations(wanted);
    let (first, last) = (*wanted.first()?, *wanted.last()?);
    let whole =
        last.checked_sub(first).is_some_and(|between| between.checked_add(1) == Some(wanted.len() as u64));
    let found = || generations(found).into_iter().filter(|generation| (first..last).contains(generation));
    (!whole).then(|| found().filter(|generation| !wanted.contains(generation)).rev().collect())
}

impl Found {
    /// Puts old segments into each copy that may serve which it lacks and another has, before it is compared with any: what it gets, all are to
    /// have. From one that is left out only what is needed, since that has what was freed without it.
    pub(super) fn fill(&self, ranked: &[Reach]) {
        let may_serve = as_far(ranked).filter_map(|reach| self.places.get(reach.index));
        self.fill_those(may_serve.map(|(place, _)| place));
    }

    /// The same for all that are believed, before it is known which of them reaches furthest.
    pub(super) fn fill_believed(&self) {
        self.fill_those(self.believed().map(|(_, place)| place));
    }

    /// As [`first_retained`](Self::first_retained), for shards of which the one that is furthest behind holds what is up to `held`. Where that asks for
    /// more, it is put back first if a copy has it that is left out: no shard is given up for what is about to come back.
    ///
    /// # Errors
    /// As `first_retained`.
    pub fn first_for(&self, held: Option<Seq>) -> Result<Seq> {
        let first = self.first_retained()?;
        if held.is_none_or(|held| first <= held.next()) {
            return Ok(first);
        }
        self.fill_believed();
        self.first_retained()
    }

    fn fill_those<'a>(&'a self, those: impl Iterator<Item = &'a Place>) {
        let believed: Vec<&Path> = self.believed().map(|(_, place)| place.dir.as_path()).collect();
        for from in those {
            for (place, cause) in self.places.iter().filter(|(place, _)| place != from) {
                let needed = match cause {
                    None => Seq::ZERO,
                    // Nobody else may be changing it meanwhile; and where one is accepted, the others are of another history.
                    Some(_) if place.listed && !self.accepted && self.locks.holds(&place.dir) => self.needed,
                    Some(_) => continue,
                };
                let stop = AtomicBool::new(false);
                let (disk, from, to, stop) = (self.disk.as_ref(), &from.dir, &place.dir, &stop);
                let copying = Copying { disk, from, to, stop, gate: None, make_do: true };
                if let Err(failed) = copying.fill(needed, &believed) {
                    // A log that begins later is one as well.
                    let e = Error::from(failed);
                    log::warn!("older segments of the journal are not put into a copy that lacks them: {e}");
                }
            }
        }
    }
}

impl Copying<'_> {
    /// Puts the segments into the source that it lacks between others, and the target has. A trim leaves no such gap in what is open.
    pub fn fill_gaps(&self) -> Outcome<()> {
        let (wanted, found) = self.names()?;
        if missing(&wanted, &found).is_none() {
            return Ok(());
        }
        // The names may have been listed while segments were freed.
        let _gate = self.gate.map(RwLock::write);
        let (wanted, found) = self.names()?;
        let Some(missing) = missing(&wanted, &found) else { return Ok(()) };
        let refused = |path: PathBuf, text| {
            let error = Error::corruption(text).at(path);
            Err(Failed::Source(error.remedy(
                "put the segment back from the copy that is to be made anew; else open the store again, which gives up what is kept of the journal before it",
            )))
        };
        if !self.make_do {
            return refused(
                self.from.to_path_buf(),
                "a segment of the journal is missing, and another copy is looked for",
            );
        }
        for generation in missing {
            let name = segment::name(generation);
            if !self.leads_on(generation)? {
                let text = "a segment of the journal is missing, and what the copy that is to be made anew has of it may be the only one, \
                            or that of another opening: it is kept";
                return refused(self.from.join(&name), text);
            }
            self.put_back(&name)?;
        }
        Ok(())
    }

    /// Puts back what the source lacks between its segments and before the oldest of them, down to the one that holds `needed`. Only while no
    /// journal is open: what was freed in one copy alone comes back too, and goes with the next trim. All of the `believed` copies have it then, or are to
    /// get it next.
    pub fn fill(&self, needed: Seq, believed: &[&Path]) -> Outcome<()> {
        let (wanted, found) = self.names()?;
        let (wanted, found) = (generations(&wanted), generations(&found));
        let Some(last) = wanted.last() else { return Ok(()) };
        // The newest first: whatever a crash leaves begins later, and has no gap that was not there.
        for generation in found.range(..last).rev().filter(|generation| !wanted.contains(generation)) {
            let next = self.begins(self.from, generation.saturating_add(1)).map_err(Failed::Source)?;
            if next.is_none_or(|(_, first)| first.seq <= needed) {
                break;
            }
            let name = segment::name(*generation);
            let lacking = |kind, text| Err(Failed::Source(Error::new(kind, text).at(self.from.join(&name))));
            if !self.leads_on(*generation)? {
                let text = "a segment of the journal is missing, and what another copy has of it is damaged, or may be that of another opening";
                return lacking(ErrorKind::Corruption, text);
            }
            if !self.has_room(&name, believed)? {
                return lacking(
                    ErrorKind::Full,
                    "a segment of the journal is missing, and there is no room for it",
                );
            }
            self.put_back(&name)?;
        }
        Ok(())
    }

    /// Whether a segment of the target's leaves as much room as the opening takes that goes on there, in every copy that lacks it: what one alone
    /// gets it differs in from the others, which would not count as complete for that. They may lie on one disk.
    pub fn has_room(&self, name: &str, believed: &[&Path]) -> Outcome<bool> {
        let len = self.disk.open(&self.to.join(name), OpenMode::Read).and_then(|file| file.len());
        let len = len.map_err(|e| self.target(e, name))?;
        let lacks = |dir: &&&Path| !self.disk.exists(&dir.join(name)).unwrap_or(false);
        let lacking: Vec<&&Path> = believed.iter().filter(lacks).collect();
        let needed = len.saturating_mul(2 * lacking.len() as u64);
        let fits = |dir: &&Path| match self.disk.space(dir) {
            Ok(Some(FreeSpace { free, .. })) => free >= needed,
            _ => true,
        };
        Ok(lacking.into_iter().all(fits))
    }

    pub fn put_back(&self, name: &str) -> Outcome<()> {
        let back = Copying { from: self.to, to: self.from, gate: None, ..*self };
        back.renew_as_it_is(name, false).map_err(|failed| match failed {
            Failed::Source(e) => Failed::Target(e),
            Failed::Target(e) => Failed::Source(e),
        })?;
        log::warn!(
            "{} was missing in a copy of the journal, and is put back from another",
            self.from.join(name).display()
        );
        Ok(())
    }

    /// Whether the target's segment is whole, and the one before the source's next.
    pub fn leads_on(&self, generation: u64) -> Outcome<bool> {
        let next = generation.saturating_add(1);
        let ours = self.begins(self.from, next).map_err(Failed::Source)?;
        let theirs = self.begins(self.to, next).map_err(Failed::Target)?;
        let (Some((ours, first)), true) = (ours, ours == theirs) else { return Ok(false) };
        let Some((mut reader, header)) = self.reader(self.to, generation).map_err(Failed::Target)? else {
            return Ok(false);
        };
        let (mut at, mut expected) = (BODY, None);
        if let Origin::Start { first } = header.origin {
            expected = Some(first);
        }
        loop {
            self.go_on()?;
            match reader.item(at).map_err(Failed::Target)? {
                Item::Frame(frame, _) if expected.is_some_and(|expected| expected != frame.seq) => {
                    return Ok(false);
                }
                Item::Frame(frame, _) if frame.kind == Kind::Commit => {
                    (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                }
                Item::Frame(frame, _) => {
                    return Ok(frame.kind == Kind::End
                        && ours.store_id == header.store_id
                        && frame.seq == first.seq);
                }
                _ => return Ok(false),
            }
        }
    }

    /// What a segment begins with.
    pub fn begins(&self, dir: &Path, generation: u64) -> Result<Option<(SegmentHeader, Header)>> {
        let Some((mut reader, header)) = self.reader(dir, generation)? else { return Ok(None) };
        Ok(match reader.item(BODY)? {
            Item::Frame(frame, _) => Some((header, frame)),
            _ => None,
        })
    }

    fn reader(&self, dir: &Path, generation: u64) -> Result<Option<(Reader, SegmentHeader)>> {
        let path = dir.join(segment::name(generation));
        let failed = |e| Error::io("read a copy of the journal", &path, e);
        let file = match self.disk.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let header = header(file.as_ref(), generation).map_err(failed)?;
        Ok(header.map(|header| (Reader::new(file, &path, header, Vec::new()), header)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimDisk};
    use crate::frame::{self, Payload};

    const STORE: u128 = 7;
    const OLD: u64 = 4;

    fn header(store_id: u128, generation: u64, origin: Origin) -> SegmentHeader {
        SegmentHeader { store_id, generation, boot_id: 1, len: 16 << 10, origin }
    }

    fn commit(seq: u64) -> (Kind, u64) {
        (Kind::Commit, seq)
    }

    /// Makes a segment of these frames.
    fn write(disk: &SimDisk, dir: &str, header: SegmentHeader, frames: &[(Kind, u64)], said: u8) {
        let mut bytes = header.encode_page();
        for (kind, seq) in frames {
            let (salt, generation, seq) = (header.salt(), header.generation, Seq(*seq));
            match kind {
                Kind::Commit => {
                    let payload = [said; 40];
                    let frame = Header::commit(generation, seq, Seq::ZERO, &Payload::new(&payload)).unwrap();
                    frame::encode(&mut bytes, &frame, salt, &payload);
                }
                _ => segment::push_trailer(&mut bytes, salt, generation, *kind, seq, Seq::ZERO),
            }
        }
        bytes.resize(header.len as usize, 0);
        disk.replace(&Path::new(dir).join(segment::name(header.generation)), &bytes).unwrap();
    }

    /// Whether the old segment of "/b" leads up to the next one of "/a".
    fn leads_on(old: SegmentHeader, frames: &[(Kind, u64)], next: u64, in_both: bool) -> bool {
        let disk = SimDisk::new(1);
        ["/a", "/b"].iter().for_each(|dir| disk.create_dir_all(Path::new(dir)).unwrap());
        let after = header(STORE, OLD + 1, Origin::Continuation);
        write(&disk, "/a", after, &[commit(next)], 1);
        write(&disk, "/b", after, &[commit(next)], if in_both { 1 } else { 2 });
        write(&disk, "/b", old, frames, 1);
        let (stop, from, to) = (AtomicBool::new(false), Path::new("/a"), Path::new("/b"));
        let copying = Copying { disk: &disk, from, to, stop: &stop, gate: None, make_do: true };
        copying.leads_on(OLD).unwrap()
    }

    #[test]
    fn an_old_segment_is_put_back_only_if_it_is_whole_and_the_one_before_the_next() {
        let goes_on = |store| header(store, OLD, Origin::Continuation);
        let begins = |first| header(STORE, OLD, Origin::Start { first: Seq(first) });
        let whole = [commit(1), commit(2), (Kind::End, 3)];
        assert!(leads_on(goes_on(STORE), &whole, 3, true));
        assert!(leads_on(begins(1), &whole, 3, true));
        // It says that it begins with another.
        assert!(!leads_on(begins(2), &whole, 3, true));
        // One is missing in it, or before its end.
        assert!(!leads_on(goes_on(STORE), &[commit(1), commit(3), (Kind::End, 4)], 4, true));
        assert!(!leads_on(goes_on(STORE), &[commit(1), commit(2), (Kind::End, 4)], 4, true));
        // It does not end there, or has no end, or not that of a segment which another follows.
        assert!(!leads_on(goes_on(STORE), &whole, 4, true));
        assert!(!leads_on(goes_on(STORE), &whole[..2], 3, true));
        assert!(!leads_on(goes_on(STORE), &[commit(1), commit(2), (Kind::Tail, 3)], 3, true));
        // It is another store's, or the one after it is another than there.
        assert!(!leads_on(goes_on(STORE + 1), &whole, 3, true));
        assert!(!leads_on(goes_on(STORE), &whole, 3, false));
        // It has another's name.
        let named = header(STORE, OLD + 2, Origin::Continuation);
        assert!(!leads_on(named, &whole, 3, true));
    }
}
