//! A segment that is missing in the copy which another one is made from, and is in that: it goes back before anything is removed.
//!
//! Invariant: only where it is the same one for certain: the target has the next one as well, which is the source's by its header and its first frame,
//! and its own frames lead up to that without damage.

use super::copy::{Copying, Failed, Outcome};
use super::whole::header;
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use crate::frame::{Header, Kind};
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{self, BODY, Name, Origin, SegmentHeader};
use crate::sync::RwLock;
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

    /// Puts back what the source lacks between its segments, and before the oldest of them. Only while no journal is open: what was freed in one
    /// copy alone comes back too, and goes with the next trim.
    pub fn fill(&self) -> Outcome<()> {
        self.fill_gaps()?;
        let (wanted, found) = self.names()?;
        let (wanted, found) = (generations(&wanted), generations(&found));
        let mut oldest = wanted.first().copied();
        while let Some(before) = oldest.and_then(|oldest| oldest.checked_sub(1)).filter(|n| found.contains(n))
        {
            let put = self.leads_on(before).and_then(|leads| match leads {
                true => self.put_back(&segment::name(before)).map(|()| Some(before)),
                false => Ok(None),
            });
            oldest = put.unwrap_or_else(|failed| {
                // A log that begins later is one as well.
                log::warn!(
                    "older segments of the journal are not put into a copy that lacks them: {}",
                    Error::from(failed)
                );
                None
            });
        }
        Ok(())
    }

    fn put_back(&self, name: &str) -> Outcome<()> {
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
    fn leads_on(&self, generation: u64) -> Outcome<bool> {
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
    fn begins(&self, dir: &Path, generation: u64) -> Result<Option<(SegmentHeader, Header)>> {
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
