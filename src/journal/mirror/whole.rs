//! Looking for damage in a segment before it takes the place of another copy's.
//!
//! Invariants:
//! - A frame is put into a copy only where that lacks it for certain: the log has gone on behind it, in the segment or in the next one, and
//!   none of the journal's openings has cut it there. A place where the log ends is no damage, whatever lies there in a copy that was
//!   left behind; and a marker in the place of a frame is the end only if the log does not go on behind it.
//! - And only where it is the same frame for certain. A generation is used again where an opening cut all of its segment, so what lies in a
//!   copy that was away may have been written in another life of that: the copy's own header of the frame says so, checksum included; or the
//!   segments' headers are the same, and some frame of both, and what is put back ends where the copy's own next frame begins, which is the same in
//!   the target, or where its next segment does.
//! - What may be the only whole frame there is, and cannot be told to be the same, or to be part of the log, is not replaced; nor is a
//!   place that cannot be read, since nobody knows what is there.

use super::align::{Patch, patch};
use super::copy::{Copying, Failed, Outcome};
use crate::disk::{DiskFile, OpenMode};
use crate::error::{Error, Result};
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
    /// From where on some of that is the same only if the segments are.
    unproven: Option<u64>,
    /// Some frame is the same in both.
    alike: bool,
    /// Where the source is damaged and the target is no better.
    damaged: Option<u64>,
    /// Where the target has a frame that nothing shows to be the one that the source lacks, or may have it.
    doubtful: Option<u64>,
    /// What keeps it from being seen whether the target has it.
    unread: Option<Error>,
}

/// What the target has in one stretch of damage.
#[derive(Debug, Default)]
struct Hole {
    patches: Vec<Patch>,
    /// Where it begins, unless the source's own headers of the frames say that they are these.
    unproven: Option<u64>,
    beyond: Option<Beyond>,
}

/// What is behind a place where the source's frames stop.
#[derive(Debug, Clone, Copy, Default)]
struct Beyond {
    /// Up to which sequence the log reaches there, for certain; zero where nothing shows that it does.
    reach: Seq,
    /// With that a segment begins which an end marker has announced.
    announced: bool,
}

impl Beyond {
    /// Whether a marker with that sequence at the place was covered by what is not there any more.
    fn covers(self, seq: Seq) -> bool {
        self.reach > seq || (self.announced && self.reach == seq)
    }
}

impl Hole {
    fn beyond(&mut self, look: impl FnOnce() -> Outcome<Option<Beyond>>) -> Outcome<Option<Beyond>> {
        if self.beyond.is_none() {
            self.beyond = look()?;
        }
        Ok(self.beyond)
    }
}

impl Looked {
    fn is_whole(&self) -> bool {
        self.better.is_empty() && self.damaged.is_none() && self.doubtful.is_none()
    }

    fn doubtful(&self) -> Option<u64> {
        self.doubtful.or(self.unproven.filter(|_| !self.alike))
    }

    /// The source lacks what is at `at`, and what the target has there cannot be read, if that is so.
    fn untold(&mut self, at: u64, unread: Option<Error>) {
        if unread.is_some() {
            self.doubtful = self.doubtful.or(Some(at));
            self.unread = self.unread.take().or(unread);
        }
    }

    /// It ends where the source goes on.
    fn fill(&mut self, hole: Hole) {
        self.better.extend(hole.patches);
        self.unproven = self.unproven.or(hole.unproven);
    }

    /// It does not.
    fn leave(&mut self, hole: Hole) {
        self.doubtful = self.doubtful.or(hole.patches.first().map(|patch| patch.at));
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
        if looked.is_whole() {
            return Ok(());
        }
        let damage = |at, text, unread: Option<Error>| {
            let error = Error::corruption(text).at(self.from.join(name)).offset(at).remedy(
                "nothing is to be done where a flush comes to its end: the segment goes; else restore from a checkpoint what cannot be read",
            );
            Failed::Source(match unread {
                Some(unread) => error.caused_by(unread),
                None => error,
            })
        };
        if !self.make_do {
            let text = "a segment of the journal is damaged, and another copy is looked for";
            return Err(damage(0, text, None));
        }
        if let Some(at) = looked.doubtful() {
            let text = "a segment of the journal is damaged, and what the copy that is to be made anew has in that place may be the only whole one, or that of \
                        another opening: it is kept";
            return Err(damage(at, text, looked.unread));
        }
        patch(self.disk, self.from, &looked.better, self.gate.is_some()).map_err(Failed::Source)
    }

    /// What the target has of all that a segment of the source lacks, if it has all of it, and something shows that it is the same.
    pub fn remedy(&self, name: &str) -> Outcome<Option<Vec<Patch>>> {
        let Name::Segment(generation) = segment::parse_name(name) else { return Ok(None) };
        let looked = self.look_through(name, generation)?;
        let lacks = looked.damaged.is_some() || looked.doubtful().is_some();
        Ok((!lacks).then_some(looked.better))
    }

    fn look_through(&self, name: &str, generation: u64) -> Outcome<Looked> {
        let mut looked = Looked::default();
        let Some(file) = self.open(name)? else { return Ok(looked) };
        let failed = |e| Error::io("read a copy of the journal", self.to.join(name), e);
        let (other, unopened) = match self.disk.open(&self.to.join(name), OpenMode::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (None, None),
            Err(e) => (None, Some(failed(e))),
            Ok(other) => (Some(other), None),
        };
        let theirs =
            other.as_ref().map_or(Ok(None), |other| header(other.as_ref(), generation).map_err(failed));
        let (theirs, headless) = match theirs {
            Err(e) => (None, Some(e)),
            Ok(theirs) => (theirs, unopened.clone()),
        };
        // One that cannot be read says nothing; frames say of themselves whose they are.
        let another = |header| theirs.is_some_and(|theirs| theirs != header);
        let header = match header(file.as_ref(), generation).map_err(|e| self.source(e, name))? {
            Some(header) => header,
            None => {
                let Some(theirs) = theirs else {
                    looked.damaged = Some(0);
                    looked.untold(0, headless);
                    return Ok(looked);
                };
                looked.better.push(Patch { name: name.to_owned(), at: 0, bytes: theirs.encode_page() });
                looked.unproven = Some(0);
                theirs
            }
        };
        if file.len().map_err(|e| self.source(e, name))? < header.len {
            // What follows the frames is nothing, but has to be there.
            looked.better.push(Patch {
                name: name.to_owned(),
                at: header.len.saturating_sub(1),
                bytes: vec![0],
            });
        }
        let mut ours = Reader::new(file, &self.from.join(name), header, Vec::new());
        let other = other.filter(|_| !another(header));
        let mut theirs = other.map(|other| Reader::new(other, &self.to.join(name), header, Vec::new()));
        let mut expected = match header.origin {
            Origin::Start { first } => Some(first),
            Origin::Continuation => None,
        };
        let (mut at, mut hole) = (BODY, Hole::default());
        loop {
            self.go_on()?;
            let (frame, torn) = match ours.item(at).map_err(Failed::Source)? {
                // One that belongs elsewhere lies in the place of another.
                Item::Frame(frame, _) if expected.is_some_and(|expected| expected != frame.seq) => {
                    (None, None)
                }
                Item::Frame(frame, _) => (Some(frame), None),
                Item::Torn(torn) => (None, Some(torn)),
                Item::Nothing => (None, None),
            };
            let asked = match theirs.as_mut() {
                Some(theirs) => whole(theirs, at),
                None => unopened.clone().map_or(Ok(None), Err),
            };
            let (mut found, unread) = asked.map_or_else(|e| (None, Some(e)), |found| (found, None));
            let stale = match frame.filter(|frame| frame.kind == Kind::Tail) {
                Some(tail) => {
                    let seq = expected.unwrap_or(tail.seq);
                    let beyond = hole.beyond(|| self.beyond(&mut ours, generation, at, Some(seq)))?;
                    if beyond.is_none() {
                        // What the target has in its place may be what belongs there.
                        let kept = found.as_ref().filter(|(frame, _)| frame.kind != Kind::Tail).map(|_| at);
                        looked.doubtful = looked.doubtful.or(kept);
                        looked.untold(at, unread.clone());
                    }
                    let stale = beyond.is_some_and(|beyond| beyond.covers(seq));
                    if stale {
                        expected = Some(seq);
                        // What comes in the place of another frame is none of the target's.
                        found = found.filter(|_| seq == tail.seq);
                    }
                    stale
                }
                None => false,
            };
            if let Some(frame) = frame.filter(|_| !stale) {
                // Where the target was left behind, both may end with the same marker, whatever lies before it.
                let tells = frame.kind != Kind::Tail;
                let same = found
                    .filter(|(other, _)| tells && other.kind == frame.kind)
                    .map(|(other, _)| other == frame);
                let is_known = same == Some(true) || hole.unproven.is_none();
                match expected == Some(frame.seq) && is_known {
                    true => looked.fill(std::mem::take(&mut hole)),
                    false => looked.leave(std::mem::take(&mut hole)),
                }
                if frame.kind != Kind::Commit {
                    return Ok(looked);
                }
                looked.alike |= same == Some(true);
                if same == Some(false) {
                    // It is of another life from here on, or was from the beginning.
                    theirs = None;
                }
                (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                continue;
            }
            let found = found.filter(|(frame, _)| expected.is_none_or(|expected| expected == frame.seq));
            let found = found.filter(|(frame, _)| torn.is_none_or(|torn| torn == *frame));
            let seq = expected.or_else(|| found.as_ref().map(|(frame, _)| frame.seq));
            let Some(Beyond { reach, announced }) =
                hole.beyond(|| self.beyond(&mut ours, generation, at, seq))?
            else {
                // Then nor can it be told whether what the target has belongs there.
                looked.leave(hole);
                let kept = found.filter(|(frame, _)| frame.kind == Kind::Commit).map(|_| at);
                looked.doubtful = looked.doubtful.or(kept);
                looked.untold(at, unread);
                return Ok(looked);
            };
            let goes_on = seq.map_or(reach > Seq::ZERO, |seq| reach > seq);
            match found {
                Some((frame, bytes)) if frame.kind == Kind::Commit && goes_on => {
                    hole.patches.push(Patch { name: name.to_owned(), at, bytes });
                    if torn.is_none() {
                        hole.unproven = hole.unproven.or(Some(at));
                    }
                    (at, expected) = (at + frame.frame_bytes() as u64, Some(frame.seq.next()));
                }
                _ if goes_on => {
                    looked.damaged = looked.damaged.or(Some(at));
                    looked.leave(std::mem::take(&mut hole));
                    looked.untold(at, unread);
                    // What lies behind it is read on, if its header says where that begins.
                    let Some(torn) = torn.filter(|torn| torn.kind == Kind::Commit && Some(torn.seq) == seq)
                    else {
                        return Ok(looked);
                    };
                    (at, expected) = (at + torn.frame_bytes() as u64, Some(torn.seq.next()));
                }
                end => {
                    // The marker that announces the next segment goes with it.
                    let end = end.filter(|(frame, _)| frame.kind == Kind::End && seq == Some(reach));
                    if let Some((_, bytes)) = end {
                        hole.patches.push(Patch { name: name.to_owned(), at, bytes });
                        hole.unproven = hole.unproven.or(Some(at));
                    } else if announced && seq == Some(reach) {
                        looked.damaged = Some(at);
                        looked.untold(at, unread);
                    }
                    match seq == Some(reach) {
                        true => looked.fill(hole),
                        false => looked.leave(hole),
                    }
                    return Ok(looked);
                }
            }
        }
    }

    /// What the source has behind a place where its frames stop, at which `seq` is expected; none where that cannot be told.
    fn beyond(
        &self,
        ours: &mut Reader,
        generation: u64,
        at: u64,
        seq: Option<Seq>,
    ) -> Outcome<Option<Beyond>> {
        let generation = generation.saturating_add(1);
        let name = segment::name(generation);
        if let Some(next) = self.open(&name)? {
            let Some(header) = header(next.as_ref(), generation).map_err(|e| self.source(e, &name))? else {
                return Ok(None);
            };
            match header.origin {
                // What lies behind that in this segment was cut.
                Origin::Start { first } => return Ok(Some(Beyond { reach: first, announced: false })),
                Origin::Continuation => {
                    let first = Reader::new(next, &self.from.join(&name), header, Vec::new()).first_seq();
                    if let Some(reach) = first.map_err(Failed::Source)? {
                        return Ok(Some(Beyond { reach, announced: true }));
                    }
                }
            }
        }
        let reach = ours.evidence(at, seq).map_err(Failed::Source)?.reach;
        Ok(Some(Beyond { reach, announced: false }))
    }
}

/// The header of the segment of that generation, if this is it.
pub fn header(file: &dyn DiskFile, generation: u64) -> std::io::Result<Option<SegmentHeader>> {
    let mut page = vec![0; BODY as usize];
    let read = file.read_at(0, &mut page)?;
    page.truncate(read);
    let header = SegmentHeader::decode_page(&page).ok().map(|(header, _)| header);
    Ok(header.filter(|header| header.generation == generation))
}

/// The frame that lies there, if there is one.
fn whole(theirs: &mut Reader, at: u64) -> Result<Option<(Header, Vec<u8>)>> {
    let salt = theirs.salt();
    let found = |item: Item<'_>| {
        let Item::Frame(frame, payload) = item else { return None };
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, &frame, salt, payload);
        Some((frame, bytes))
    };
    match theirs.item(at) {
        Ok(item) => return Ok(found(item)),
        // What cannot be read may lie behind it.
        Err(_) => theirs.narrow(),
    }
    theirs.item(at).map(found)
}
