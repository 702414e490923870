//! Looking for damage in a segment before it takes the place of another copy's.
//!
//! Invariant: a frame is put into a copy only where that lacks it for certain: the log has gone on behind it, in the segment or in the next
//! one, and none of the journal's openings has cut it there. A place where the log ends is no damage, whatever lies there in a copy that was
//! left behind.

use super::align::{Patch, patch};
use super::copy::{Copying, Failed, Outcome};
use crate::disk::{DiskFile, OpenMode};
use crate::error::Error;
use crate::frame::{self, Kind};
use crate::ids::Seq;
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{self, BODY, Name, Origin, SegmentHeader};
use crate::sync::RwLock;

/// What a segment of the source came to.
#[derive(Debug, Default)]
struct Looked {
    /// What the target has where the source is damaged.
    better: Vec<Patch>,
    /// Where it is damaged, and the target is no better.
    damaged: Option<u64>,
}

impl Copying<'_> {
    /// Mends a segment of the source from the target's, which is about to be replaced by it. Damage that the target has too is an error of the
    /// source, unless it is to be copied as it is.
    pub fn look_after(&self, name: &str) -> Outcome<()> {
        let Name::Segment(generation) = segment::parse_name(name) else { return Ok(()) };
        let is_whole = |looked: &Looked| looked.better.is_empty() && looked.damaged.is_none();
        if crate::plants::is("damage-spread-to-the-whole-copy")
            || is_whole(&self.look_through(name, generation)?)
        {
            return Ok(());
        }
        // Somebody may have been about to write there, or have freed it; and its file may not become another one meanwhile.
        let _gate = self.gate.map(RwLock::write);
        let looked = self.look_through(name, generation)?;
        patch(self.disk, self.from, &looked.better).map_err(Failed::Source)?;
        match looked.damaged {
            Some(at) if !self.as_it_is => {
                let text = "a segment of the journal is damaged, and so is what another copy has of it";
                Err(Failed::Source(Error::corruption(text).at(self.from.join(name)).offset(at)))
            }
            _ => Ok(()),
        }
    }

    fn look_through(&self, name: &str, generation: u64) -> Outcome<Looked> {
        let mut looked = Looked::default();
        let Some(file) = self.open(name)? else { return Ok(looked) };
        let other = self.disk.open(&self.to.join(name), OpenMode::Read).ok();
        let header = match header(file.as_ref(), generation).map_err(|e| self.source(e, name))? {
            Some(header) => header,
            None => {
                let theirs =
                    other.as_ref().and_then(|other| header(other.as_ref(), generation).ok().flatten());
                let Some(theirs) = theirs else { return Ok(Looked { damaged: Some(0), ..looked }) };
                looked.better.push(Patch { name: name.to_owned(), at: 0, bytes: theirs.encode_page() });
                theirs
            }
        };
        let mut ours = Reader::new(file, &self.from.join(name), header, Vec::new());
        let mut theirs = other.map(|other| Reader::new(other, &self.to.join(name), header, Vec::new()));
        let first = match header.origin {
            Origin::Start { first } => Some(first),
            Origin::Continuation => None,
        };
        let (mut at, mut expected) = (BODY, first);
        loop {
            self.go_on()?;
            match ours.item(at).map_err(Failed::Source)? {
                Item::Frame(frame, _) if frame.kind == Kind::Commit => {
                    (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                    continue;
                }
                Item::Frame(..) => return Ok(looked),
                Item::Torn(_) | Item::Nothing => {}
            }
            let found = theirs.as_mut().and_then(|theirs| commit(theirs, at, expected));
            let seq = expected.or_else(|| found.as_ref().map(|(seq, _)| *seq));
            if !self.goes_on(&mut ours, generation, at, seq)? {
                return Ok(looked);
            }
            let Some((seq, bytes)) = found else { return Ok(Looked { damaged: Some(at), ..looked }) };
            let begin = at;
            (at, expected) = (at + bytes.len() as u64, Some(seq.next()));
            looked.better.push(Patch { name: name.to_owned(), at: begin, bytes });
        }
    }

    /// Whether the source's log has the frame `seq` for certain, which is not to be found at `at`.
    fn goes_on(&self, ours: &mut Reader, generation: u64, at: u64, seq: Option<Seq>) -> Outcome<bool> {
        let name = segment::name(generation.saturating_add(1));
        let lies_above = |first: Seq| seq.is_none_or(|seq| first > seq);
        if let Some(next) = self.open(&name)? {
            let path = self.from.join(&name);
            let Some(header) =
                header(next.as_ref(), generation.saturating_add(1)).map_err(|e| self.source(e, &name))?
            else {
                // Where the log went on cannot be told.
                return Ok(false);
            };
            match header.origin {
                Origin::Start { first } => return Ok(lies_above(first)),
                Origin::Continuation => {
                    let first = Reader::new(next, &path, header, Vec::new()).first_seq();
                    if first.map_err(Failed::Source)?.is_some_and(lies_above) {
                        return Ok(true);
                    }
                }
            }
        }
        let reach = ours.evidence(at, seq).map_err(Failed::Source)?.reach;
        Ok(seq.map_or(reach > Seq::ZERO, |seq| reach > seq))
    }
}

/// The header of the segment of that generation, if this is it.
fn header(file: &dyn DiskFile, generation: u64) -> std::io::Result<Option<SegmentHeader>> {
    let mut page = vec![0; BODY as usize];
    let read = file.read_at(0, &mut page)?;
    page.truncate(read);
    let header = SegmentHeader::decode_page(&page).ok().map(|(header, _)| header);
    Ok(header.filter(|header| header.generation == generation))
}

/// The frame of a commit that lies there, if it is the one that is expected.
fn commit(theirs: &mut Reader, at: u64, expected: Option<Seq>) -> Option<(Seq, Vec<u8>)> {
    let salt = theirs.salt();
    let Ok(Item::Frame(frame, payload)) = theirs.item(at) else { return None };
    if frame.kind != Kind::Commit || expected.is_some_and(|expected| expected != frame.seq) {
        return None;
    }
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, &frame, salt, payload);
    Some((frame.seq, bytes))
}
