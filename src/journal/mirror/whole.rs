//! Looking for damage in a segment before it takes the place of another copy's.
//!
//! Invariants:
//! - A frame is put into a copy only where that lacks it for certain: the log has gone on behind it, in the segment or in the next one, and
//!   none of the journal's openings has cut it there. A place where the log ends is no damage, whatever lies there in a copy that was
//!   left behind.
//! - And only where it is the same frame for certain. A generation is used again where an opening cut all of its segment, so what lies in a
//!   copy that was away may have been written in another life of that: the headers must be the same, some frame of both must be, and what is
//!   put back must end where the copy's own next frame begins.
//! - What may be the only whole frame there is, and cannot be told to be the same, is not replaced.

use super::align::{Patch, patch};
use super::copy::{Copying, Failed, Outcome};
use crate::disk::{DiskFile, OpenMode};
use crate::error::Error;
use crate::frame::{self, Header, Kind};
use crate::ids::Seq;
use crate::journal::scan::{Item, Reader};
use crate::journal::segment::{self, BODY, Name, Origin, SegmentHeader};
use crate::sync::RwLock;

/// What a segment of the source came to.
#[derive(Debug, Default)]
struct Looked {
    /// What the target has where the source is damaged.
    better: Vec<Patch>,
    /// Some frame is the same in both.
    alike: bool,
    /// Where the source is damaged and the target is no better.
    damaged: Option<u64>,
    /// Where the target has a frame that nothing shows to be the one that the source lacks.
    doubtful: Option<u64>,
}

impl Looked {
    fn is_whole(&self) -> bool {
        self.better.is_empty() && self.damaged.is_none() && self.doubtful.is_none()
    }

    fn doubtful(&self) -> Option<u64> {
        let unproven = self.better.first().filter(|_| !self.alike).map(|patch| patch.at);
        self.doubtful.or(unproven)
    }

    /// The target's frames do not end where the source goes on.
    fn leave(&mut self, hole: &mut Vec<Patch>) {
        self.doubtful = self.doubtful.or(hole.first().map(|patch| patch.at));
        hole.clear();
    }
}

impl Copying<'_> {
    /// Refuses a segment of the source that has damage. Where that is to be made do with it is mended from the target's, which is about to be
    /// replaced, and copied as it is where the target has no more of it.
    pub fn look_after(&self, name: &str) -> Outcome<()> {
        let Name::Segment(generation) = segment::parse_name(name) else { return Ok(()) };
        let looked = match crate::plants::is("damage-spread-to-the-whole-copy") {
            false => self.look_through(name, generation)?,
            true => Looked::default(),
        };
        if looked.is_whole() {
            return Ok(());
        }
        // Somebody may have been about to write there, or have freed it; and its file may not become another one meanwhile.
        let _gate = self.gate.map(RwLock::write);
        let looked = self.look_through(name, generation)?;
        let damage = |at, text| {
            let error = Error::corruption(text).at(self.from.join(name)).offset(at);
            Err(Failed::Source(error.remedy(
                "nothing is to be done where a flush comes to its end: the segment goes; else restore from a checkpoint what cannot be read",
            )))
        };
        if !self.make_do && !looked.is_whole() {
            return damage(0, "a segment of the journal is damaged, and another copy is looked for");
        }
        if let Some(at) = looked.doubtful() {
            let text = "a segment of the journal is damaged, and what the copy that is to be made anew has in that place may be the only whole one, or that of \
                        another opening: it is kept";
            return damage(at, text);
        }
        patch(self.disk, self.from, &looked.better).map_err(Failed::Source)
    }

    fn look_through(&self, name: &str, generation: u64) -> Outcome<Looked> {
        let mut looked = Looked::default();
        let Some(file) = self.open(name)? else { return Ok(looked) };
        let other = self.disk.open(&self.to.join(name), OpenMode::Read).ok();
        let theirs = other.as_ref().and_then(|other| header(other.as_ref(), generation).ok().flatten());
        let header = match header(file.as_ref(), generation).map_err(|e| self.source(e, name))? {
            Some(header) => header,
            None => {
                let Some(theirs) = theirs else { return Ok(Looked { damaged: Some(0), ..looked }) };
                looked.better.push(Patch { name: name.to_owned(), at: 0, bytes: theirs.encode_page() });
                theirs
            }
        };
        let mut ours = Reader::new(file, &self.from.join(name), header, Vec::new());
        let other = other.filter(|_| theirs == Some(header));
        let mut theirs = other.map(|other| Reader::new(other, &self.to.join(name), header, Vec::new()));
        let mut expected = match header.origin {
            Origin::Start { first } => Some(first),
            Origin::Continuation => None,
        };
        let (mut at, mut hole) = (BODY, Vec::new());
        loop {
            self.go_on()?;
            let frame = match ours.item(at).map_err(Failed::Source)? {
                Item::Frame(frame, _) => Some(frame),
                Item::Torn(_) | Item::Nothing => None,
            };
            if let Some(frame) = frame {
                if expected == Some(frame.seq) {
                    looked.better.append(&mut hole);
                }
                looked.leave(&mut hole);
                if frame.kind != Kind::Commit {
                    return Ok(looked);
                }
                match theirs.as_mut().and_then(|theirs| commit(theirs, at)) {
                    Some((other, _)) if other == frame => looked.alike = true,
                    // It is of another life from here on, or was from the beginning.
                    Some(_) => theirs = None,
                    None => {}
                }
                (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                continue;
            }
            let found = theirs.as_mut().and_then(|theirs| commit(theirs, at));
            let found = found.filter(|(frame, _)| expected.is_none_or(|expected| expected == frame.seq));
            let seq = expected.or_else(|| found.as_ref().map(|(frame, _)| frame.seq));
            let goes_on = self.goes_on(&mut ours, generation, at, seq)?;
            match found.filter(|_| goes_on) {
                Some((frame, bytes)) => {
                    hole.push(Patch { name: name.to_owned(), at, bytes });
                    (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                }
                None => {
                    looked.damaged = Some(at).filter(|_| goes_on);
                    looked.leave(&mut hole);
                    return Ok(looked);
                }
            }
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

/// The frame of a commit that lies there.
fn commit(theirs: &mut Reader, at: u64) -> Option<(Header, Vec<u8>)> {
    let salt = theirs.salt();
    let Ok(Item::Frame(frame, payload)) = theirs.item(at) else { return None };
    if frame.kind != Kind::Commit {
        return None;
    }
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, &frame, salt, payload);
    Some((frame, bytes))
}
