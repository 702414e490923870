//! Reading a journal back: which segments there are, where the log ends, and what its frames say.
//!
//! Invariants:
//! - [`Survey`] and [`Walk`] change nothing on the disk; a damaged journal is left as it was found.
//! - Every frame that is visited has been verified, lies below the cut, and its predecessor was visited before it. One
//!   pass suffices, since the log ends at the first place that is not right, whatever lies behind it.

use super::cases::{Case, Limit, Observation, Stop};
use super::known::Known;
use super::scan::{Evidence, Item, Reader};
use super::segment::{self, BODY, HeaderDefect, Name, Origin, SegmentHeader};
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Kind;
use crate::ids::Seq;
use std::path::{Path, PathBuf};

const WAY_OUT: &str =
    "put the journal's files back from a copy, or restore the store from a checkpoint; nothing was changed";
/// What is left where all is lost.
const FLUSHED: &str = "; or, if it is lost for good, go on with what was flushed to the shards, with Options::accept_journal_loss";
/// What is left where the end alone is lost.
const WITHOUT: &str = "; or go on without the writes that are lost, for good, with Options::accept_journal and the journal's directory";

/// So often the first frame of a segment is read, if that fails: without it all of the segment counts as not there for an archive.
const READS: usize = 3;

/// A segment that is there, with a valid header.
#[derive(Debug, Clone)]
pub struct Segment {
    pub path: PathBuf,
    pub header: SegmentHeader,
    /// The first sequence it was begun with; none if its first frame cannot be read.
    pub first: Option<Seq>,
}

/// What lies in a journal's directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// By generation, without gaps.
    pub segments: Vec<Segment>,
    /// Segments from before a gap, all of them below what is asked for: an interrupted trim left them.
    pub leftovers: Vec<PathBuf>,
    pub spares: Vec<u64>,
    pub temporaries: Vec<PathBuf>,
    pub poisoned: bool,
    pub repaired_headers: u64,
}

impl Survey {
    pub fn read(disk: &dyn Disk, dir: &Path, store_id: u128, from: Seq) -> Result<Survey> {
        let names = match disk.list(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|e| Error::io("list the journal's directory", dir, e))?,
        };
        let mut survey = Survey::default();
        for text in names {
            let path = dir.join(&text);
            match segment::parse_name(&text) {
                Name::Segment(generation) => {
                    let (header, repaired) = read_header(disk, &path, generation, store_id)?;
                    survey.repaired_headers += u64::from(repaired);
                    let first = match header.origin {
                        Origin::Start { first } => Some(first),
                        // Whoever asks for what is in there meets it again.
                        Origin::Continuation => first_seq(&open(disk, &path, header, Vec::new())?),
                    };
                    survey.segments.push(Segment { path, header, first });
                }
                Name::Misnamed => {
                    return Err(Error::corruption("a file in the journal has no segment's name")
                        .at(path)
                        .remedy("give it back its name (16 hexadecimal digits and .seg), or move it away"));
                }
                Name::Spare(number) => survey.spares.push(number),
                Name::Temporary => survey.temporaries.push(path),
                Name::Poisoned => survey.poisoned = true,
                Name::Other => {}
            }
        }
        survey.check_gaps(disk, dir, from)?;
        Ok(survey)
    }

    /// Only an interrupted trim leaves gaps, and it never touches what a replay asks for. Nor is it asked for where the oldest segment
    /// begins, if it cannot be read and a later one says that it begins early enough.
    fn check_gaps(&mut self, disk: &dyn Disk, dir: &Path, from: Seq) -> Result<()> {
        let gap = self.segments.windows(2).rposition(|pair| match pair {
            [before, after] => before.header.generation.checked_add(1) != Some(after.header.generation),
            _ => false,
        });
        let cut = gap.map_or(0, |at| at + 1);
        let rest = self.segments.get(cut..).unwrap_or_default();
        let Some(oldest) = rest.first() else {
            return Err(Error::corruption("the journal has no segment, and a journal always has one")
                .at(dir)
                .remedy(format!("{WAY_OUT}{FLUSHED}")));
        };
        let begins = rest.iter().find_map(|segment| segment.first);
        if begins.is_none_or(|first| first > from.next()) {
            let Some(first) = oldest.first else {
                // That it cannot be read at all is another matter.
                open(disk, &oldest.path, oldest.header, Vec::new())?.first_seq()?;
                return Err(Error::corruption("the first frame of the oldest segment is damaged")
                    .at(&oldest.path)
                    .offset(BODY)
                    .remedy(WAY_OUT));
            };
            return Err(Error::corruption(format!(
                "segments are missing: the oldest begins with sequence {first}, sequence {} is needed",
                from.next()
            ))
            .at(&oldest.path)
            .remedy(WAY_OUT));
        }
        self.leftovers = self.segments.drain(..cut).map(|segment| segment.path).collect();
        Ok(())
    }

    /// The oldest sequence that is known to be there.
    pub fn begins(&self) -> Option<Seq> {
        self.segments.iter().find_map(|segment| segment.first)
    }
}

/// None if that cannot be read, however often: what is known of the segment then is known until the journal is opened again.
fn first_seq(segment: &Reader) -> Option<Seq> {
    let read = || segment.first_seq().inspect_err(|e| log::warn!("{e}")).ok();
    std::iter::repeat_with(read).take(READS).flatten().next().flatten()
}

/// The header of a segment that an opening takes for one, and whether its copy had to be read.
pub fn read_header(
    disk: &dyn Disk,
    path: &Path,
    generation: u64,
    store_id: u128,
) -> Result<(SegmentHeader, bool)> {
    let io = |e| Error::io("read the journal", path, e);
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let mut page = vec![0; BODY as usize];
    let read = file.read_at(0, &mut page).map_err(io)?;
    page.truncate(read);
    let damaged = |what: String| Error::corruption(what).at(path).remedy(WAY_OUT);
    let (header, repaired) = match SegmentHeader::decode_page(&page) {
        Ok(found) => found,
        Err(HeaderDefect::Damaged) => {
            return Err(damaged("a journal segment's header and its copy are both damaged".into()).offset(0));
        }
        Err(HeaderDefect::Version(version)) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the journal has format {version}, this release reads {}", segment::FORMAT_VERSION),
            )
            .at(path)
            .remedy("use the release that wrote it, or a newer one"));
        }
    };
    if header.store_id != store_id {
        return Err(Error::new(
            ErrorKind::Foreign,
            format!("the segment belongs to store {:032x}, not to {store_id:032x}", header.store_id),
        )
        .at(path)
        .remedy("move it back to the store it came from"));
    }
    if header.generation != generation {
        return Err(damaged(format!(
            "the segment's name says generation {generation:016x}, its header {:016x}",
            header.generation
        ))
        .offset(0));
    }
    let len = file.len().map_err(io)?;
    if len < header.len && !crate::plants::is("short-segment-believed") {
        return Err(
            damaged(format!("the segment has {len} bytes, its header says {}", header.len)).offset(len)
        );
    }
    Ok((header, repaired))
}

pub fn open(disk: &dyn Disk, path: &Path, header: SegmentHeader, buf: Vec<u8>) -> Result<Reader> {
    let file = disk.open(path, OpenMode::Read).map_err(|e| Error::io("open the journal", path, e))?;
    Ok(Reader::new(file, path, header, buf))
}

/// How far the frames of one segment are part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The segment's index in the survey.
    pub index: usize,
    /// Where its last frame ends, in bytes.
    pub end: u64,
    /// An end marker is there.
    pub ended: bool,
}

/// Where the log ends, and the way there.
#[derive(Debug, Clone)]
pub struct Walk {
    pub parts: Vec<Part>,
    /// The first sequence that is not in the log.
    pub end: Seq,
    pub case: Case,
    /// How far frames seem to have been written; above `end` where unsynced ones were lost.
    pub reach: Seq,
}

/// Where a walk begins: at the last segment that begins at or below `from` + 1; or one before it, where that one's end marker
/// alone leads to the first frame that is asked for. All before is durable, and the marker may not be: without it the log ends
/// there, now and for whoever asks for older frames later.
pub fn start(segments: &[Segment], from: Seq) -> usize {
    let asked = asked(segments, from);
    let is_led_to = segments
        .get(asked)
        .is_some_and(|s| s.header.origin == Origin::Continuation && s.first == Some(from.next()));
    asked.saturating_sub(usize::from(is_led_to))
}

/// The last segment that begins at or below `from` + 1.
pub fn asked(segments: &[Segment], from: Seq) -> usize {
    let next = from.next();
    segments.iter().rposition(|s| s.first.is_some_and(|first| first <= next)).unwrap_or(0)
}

/// Finds the end of the log, and hands the frames above `from` to `visit` on the way.
pub struct Walker<'a> {
    pub disk: &'a dyn Disk,
    pub segments: &'a [Segment],
    pub boot_id: u128,
    /// A write or a sync failed in the life before: what was handed to the system since the last sync may be gone.
    pub poisoned: bool,
    /// It may be a copy that was being made, one segment after the other: then a last one that is full is its end.
    pub unfinished: bool,
    pub from: Seq,
    pub at_least: Known,
    pub visit: &'a mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    /// How many frames were visited, and the bytes of their payloads.
    pub visited: (u64, u64),
    pub buf: Vec<u8>,
}

impl Walker<'_> {
    /// Walks from the segment at [`start`]. Damage that it meets refuses, even where nobody asks for what is damaged: another copy
    /// may be without it.
    pub fn walk(&mut self) -> Result<Walk> {
        self.go(false)
    }

    /// As [`walk`](Self::walk), but passes over damage to a segment that it enters for its end marker alone, where the log is known
    /// to go on behind it.
    pub fn walk_to_what_is_asked(&mut self) -> Result<Walk> {
        self.go(true)
    }

    fn go(&mut self, lenient: bool) -> Result<Walk> {
        let (next, asked) = (self.from.next(), asked(self.segments, self.from));
        let mut index = start(self.segments, self.from);
        let first = self.segments.get(index).and_then(|s| s.first);
        let mut expected = match first {
            Some(first) => first,
            // It held frames up to `from`, which are durable: that the first one cannot be read is damage and no cut.
            None if lenient && index < asked => {
                log::warn!("{}, which is passed over", self.unreadable(index));
                index = asked;
                next
            }
            None => return Err(self.unreadable(index).remedy(WAY_OUT)),
        };
        let mut seen = Evidence::default();
        let mut parts = Vec::new();
        loop {
            let (part, mut stop) = self.scan(index, &mut expected, &mut seen)?;
            if self.unfinished && stop == Stop::EndAlone && index + 1 >= self.segments.len() {
                stop = Stop::Open;
            }
            parts.push(part);
            let limit = self.limit(index);
            let mut o = Observation {
                limit: match limit {
                    None => Limit::None,
                    Some((_, first)) if first <= expected => Limit::Here,
                    Some(_) => Limit::Above,
                },
                stop,
                reached: false,
                proven: seen.proven >= expected,
                applied: self.at_least.upto() >= expected
                    && !crate::plants::is("journal-shorter-than-the-shards"),
                same_boot: self.same_boot(index),
            };
            let mut reach = expected;
            if o.limit == Limit::None && stop == Stop::Open {
                let beyond = self.beyond(&part, expected)?;
                reach = reach.max(beyond.reach);
                o.reached = beyond.reach > expected;
                o.proven |= beyond.proven >= expected;
            }
            let mut case = Case::of(&o);
            if matches!(case, Case::F | Case::G) && crate::plants::is("journal-hole-taken-for-the-end") {
                case = Case::E;
            }
            index = match (case, limit) {
                (Case::A, Some((next, _))) => next,
                (Case::C, _) => index + 1,
                (Case::E | Case::H, _) => return Ok(Walk { parts, end: expected, case, reach }),
                // Frames up to `from` are durable, so below `next` this is damage and never a cut; at `next` itself these rows
                // say that the frame was part of the log. Above it one was visited, and none may be twice.
                (Case::B | Case::F | Case::G | Case::I, _)
                    if lenient && index < asked && expected <= next =>
                {
                    let damage = self.damage(&o, &part, expected, reach, limit);
                    log::warn!("{damage}: passed over, since nothing from there is asked for");
                    // What is kept of the way would have an end marker put where the damage is.
                    parts.clear();
                    (expected, seen) = (next, Evidence::default());
                    asked
                }
                _ => {
                    let damage = self.damage(&o, &part, expected, reach, limit);
                    return Err(damage.remedy(way_out(&o, expected, self.at_least)));
                }
            };
        }
    }

    /// Follows one segment's frames up to where they stop, or a later session begins.
    fn scan(&mut self, index: usize, expected: &mut Seq, seen: &mut Evidence) -> Result<(Part, Stop)> {
        let limit = self.limit(index).map(|(_, first)| first);
        let mut part = Part { index, end: BODY, ended: false };
        let mut reader = self.reader(index)?;
        let mut stop = Stop::Open;
        loop {
            // A marker may stand where the log was cut, too: it is looked at before the limit is.
            let item = reader.item(part.end)?;
            let marks_end = matches!(item, Item::Frame(h, _) if h.kind == Kind::End && h.seq == *expected);
            part.ended = marks_end;
            if marks_end {
                stop = if self.follows(index, *expected) { Stop::EndFollowed } else { Stop::EndAlone };
            }
            if limit.is_some_and(|first| first <= *expected) {
                break;
            }
            match item {
                Item::Frame(header, payload) if header.kind == Kind::Commit && header.seq == *expected => {
                    if header.seq > self.from {
                        (self.visit)(header.seq, payload)?;
                        self.visited.0 += 1;
                        self.visited.1 += payload.len() as u64;
                    }
                    seen.proven = seen.proven.max(header.durable);
                    part.end += header.frame_bytes() as u64;
                    *expected = expected.next();
                }
                _ => break,
            }
        }
        self.buf = reader.into_buffer();
        Ok((part, stop))
    }

    fn reader(&mut self, index: usize) -> Result<Reader> {
        let Some(segment) = self.segments.get(index) else {
            return Err(Error::corruption("the journal has no such segment"));
        };
        open(self.disk, &segment.path, segment.header, std::mem::take(&mut self.buf))
    }

    /// The next session's first segment and first sequence.
    fn limit(&self, index: usize) -> Option<(usize, Seq)> {
        self.segments.iter().enumerate().skip(index + 1).find_map(|(at, s)| match s.header.origin {
            Origin::Start { first } => Some((at, first)),
            Origin::Continuation => None,
        })
    }

    fn follows(&self, index: usize, expected: Seq) -> bool {
        self.segments.get(index + 1).is_some_and(|next| match next.header.origin {
            Origin::Start { first } => first == expected,
            Origin::Continuation => true,
        })
    }

    /// Every segment says in which run of the machine it was written, and a session ends with the machine's. After a failed
    /// write or sync that proves nothing: the system may have given up what it held in memory.
    fn same_boot(&self, index: usize) -> bool {
        let boot = self.segments.get(index).map_or(0, |segment| segment.header.boot_id);
        !self.poisoned && boot != 0 && boot == self.boot_id
    }

    /// What valid frames beyond the end of `part` say: in the same segment, and in those after it.
    fn beyond(&mut self, part: &Part, expected: Seq) -> Result<Evidence> {
        let mut sum = Evidence::default();
        for index in part.index..self.segments.len() {
            let mut reader = self.reader(index)?;
            let found = if index == part.index {
                reader.evidence(part.end, Some(expected))?
            } else {
                reader.evidence(BODY, None)?
            };
            self.buf = reader.into_buffer();
            sum.reach = sum.reach.max(found.reach);
            sum.proven = sum.proven.max(found.proven);
        }
        Ok(sum)
    }

    fn unreadable(&self, index: usize) -> Error {
        let path = self.segments.get(index).map(|s| s.path.clone()).unwrap_or_default();
        let next = self.from.next();
        Error::corruption(format!("the first frame of the segment that leads to sequence {next} is damaged"))
            .at(path)
            .offset(BODY)
    }

    fn damage(
        &self,
        o: &Observation,
        part: &Part,
        expected: Seq,
        reach: Seq,
        limit: Option<(usize, Seq)>,
    ) -> Error {
        let case = Case::of(o);
        let to =
            |end: Seq| if end.0 > expected.next().0 { format!(" to {}", end.0 - 1) } else { String::new() };
        let what = match (case, limit) {
            (Case::D, _) => {
                format!("the segment after this one is missing; it held sequence {expected} and up")
            }
            (Case::I, _) => {
                format!("the journal ends below sequence {expected}, but {}", self.at_least.proof(expected))
            }
            (Case::B, Some((_, first))) => {
                format!("no valid frame where sequence {expected}{} was acknowledged", to(first))
            }
            _ => format!(
                "no valid frame where sequence {expected}{} was, and later writes are there",
                to(reach)
            ),
        };
        let path = self.segments.get(part.index).map(|s| s.path.clone()).unwrap_or_default();
        Error::corruption(format!("{what} (case {case:?} of the journal's recovery)"))
            .at(path)
            .offset(part.end)
    }
}

/// What to do about damage. A failed write or sync of which no note could be left looks like it until the machine is started anew;
/// only who knows of one may take that way, since it gives up writes.
fn way_out(o: &Observation, expected: Seq, known: Known) -> String {
    let case = Case::of(o);
    if case != Case::F || o.proven || o.applied {
        let from_archive = known.way_out(expected).map_or_else(String::new, |way| format!("{way}, or "));
        let without = if case == Case::I { WITHOUT } else { "" };
        return format!("{from_archive}{WAY_OUT}{without}");
    }
    format!(
        "nothing shows that a synced write is missing: if a write or sync of the journal failed in this run of the machine, \
         and only then, start the machine anew and open the store again, which gives up the writes from sequence {expected} on; \
         if none failed, {WAY_OUT}"
    )
}
