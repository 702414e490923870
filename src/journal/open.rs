//! Creating and opening a journal.
//!
//! Invariant: when `open` returns, what was replayed is durable, and a tail that was cut can never come back: the new
//! session's first segment says, durably, below which sequence the log before it ends.

use super::behind::least_commit;
use super::group::Group;
use super::health::{Health, UNNOTED, note_failure};
use super::known::Known;
use super::log::Log;
use super::recovery::{self, Segment, Survey, Walk, Walker};
use super::scan::Item;
use super::segment::{self, BODY, Origin, SegmentHeader};
use super::supply::{Scarce, Supply};
use super::turns::Turns;
use super::writer::Writer;
use super::{Counters, Journal, JournalConfig, ReplayReport, Retained};
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Kind;
use crate::ids::Seq;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;
use std::sync::Arc;

impl Journal {
    /// Makes an empty journal in `dir`, whose first frame will have the sequence `first` (at least 1). What a creation
    /// that did not finish has left there is replaced.
    ///
    /// # Errors
    /// `Foreign`: the directory has a journal with frames in it. `Io`. `InvalidInput`: see [`JournalConfig`].
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, config: JournalConfig, first: Seq) -> Result<Journal> {
        let config = config.checked()?;
        if first == Seq::ZERO || first == Seq::MAX {
            return Err(Error::invalid("the first sequence of a journal lies between 1 and 2^64 - 2"));
        }
        let io = |e| Error::io("create the journal's directory", dir, e);
        disk.create_dir_all(dir).map_err(io)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).map_err(io)?;
        }
        for name in disk.list(dir).map_err(io)? {
            let path = dir.join(&name);
            match segment::parse_name(&name) {
                segment::Name::Segment(_) if is_blank(disk.as_ref(), &path)? => {}
                segment::Name::Segment(_) | segment::Name::Misnamed => {
                    return Err(Error::new(ErrorKind::Foreign, "the directory has a journal in it already")
                        .at(path)
                        .remedy("open the store it belongs to, or choose another directory"));
                }
                segment::Name::Other => continue,
                _ => {}
            }
            disk.remove_file(&path).map_err(|e| Error::io("remove a file of the journal", &path, e))?;
        }
        let supply = Supply::new(disk, dir.to_path_buf(), config, Vec::new());
        supply.sync_names()?;
        begin(supply, 1, first, VecDeque::new(), Scarce::Refused)
    }

    /// Whether a journal was made in `dir`, and not only begun to be made: one always has a segment.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_in(disk: &dyn Disk, dir: &Path) -> Result<bool> {
        let names = match disk.list(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            names => names.map_err(|e| Error::io("look for the journal", dir, e))?,
        };
        let made = |name: &String| {
            matches!(segment::parse_name(name), segment::Name::Segment(_) | segment::Name::Misnamed)
        };
        Ok(names.iter().any(made))
    }

    /// The oldest sequence that a replay could begin with. Of an oldest segment that cannot be read where it begins, nothing can.
    ///
    /// # Errors
    /// `Corruption`: there is no segment, or none that says where it begins. `Foreign`, `Unsupported`, `Io`.
    pub fn first_retained(disk: &dyn Disk, dir: &Path, store_id: u128) -> Result<Seq> {
        let survey = Survey::read(disk, dir, store_id, Seq::MAX)?;
        Ok(survey.begins().unwrap_or_default())
    }

    /// The newest sequence that a replay could begin with, for who looks for the end of the log and for nothing before.
    ///
    /// # Errors
    /// As [`first_retained`](Self::first_retained).
    pub fn newest_beginning(disk: &dyn Disk, dir: &Path, store_id: u128) -> Result<Seq> {
        let survey = Survey::read(disk, dir, store_id, Seq::MAX)?;
        Ok(survey.segments.iter().rev().find_map(|segment| segment.first).unwrap_or_default())
    }

    /// Opens the journal in `dir`: makes what is there durable, hands every frame above `from` to `visit` in
    /// order up to the end of the log, and begins a new segment. `at_least`: what the log is known to reach.
    ///
    /// # Errors
    /// `Corruption`: frames are missing that were acknowledged; nothing was changed, but frames before the damage may
    /// have been visited (they are valid and durable). `Foreign`, `Unsupported`, `Io`, and whatever `visit` returns.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: JournalConfig,
        from: Seq,
        at_least: impl Into<Known>,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<(Journal, ReplayReport)> {
        let config = config.checked()?;
        let survey = settled(disk.as_ref(), dir, config.store_id, from)?;
        let (walk, report) = read(disk.as_ref(), &survey, (from, at_least.into()), false, visit)?;
        if report.lost > 0 {
            let (lost, last) = (report.lost, report.last);
            log::warn!(
                "the journal ends with {last}: {lost} later writes, which were never synced, are not whole"
            );
        }
        let journal = go_on(disk, dir, config, survey, &walk)?;
        Ok((journal, report))
    }

    /// What [`open`](Self::open) would find, made durable as it does before any of it is handed to `visit`; nothing else is changed.
    /// `unfinished`: it may be a copy that was being made.
    ///
    /// # Errors
    /// As `open`.
    pub fn settle(
        disk: &dyn Disk,
        dir: &Path,
        store_id: u128,
        from: Seq,
        unfinished: bool,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<ReplayReport> {
        let survey = settled(disk, dir, store_id, from)?;
        read(disk, &survey, (from, from.into()), unfinished, visit).map(|(_, report)| report)
    }

    /// What [`open`](Self::open) would find, without a change of anything.
    ///
    /// # Errors
    /// As `open`.
    pub fn examine(
        disk: &dyn Disk,
        dir: &Path,
        store_id: u128,
        from: Seq,
        at_least: impl Into<Known>,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<ReplayReport> {
        let survey = Survey::read(disk, dir, store_id, from)?;
        read(disk, &survey, (from, at_least.into()), false, visit).map(|(_, report)| report)
    }
}

/// Reads the log back, up to its end.
fn read(
    disk: &dyn Disk,
    survey: &Survey,
    (from, at_least): (Seq, Known),
    unfinished: bool,
    visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
) -> Result<(Walk, ReplayReport)> {
    let mut walker = Walker {
        disk,
        segments: &survey.segments,
        boot_id: disk.boot_id(),
        poisoned: survey.poisoned,
        unfinished,
        from,
        at_least: at_least.and_applied(from),
        visit,
        visited: (0, 0),
        buf: Vec::new(),
    };
    let walk = walker.walk_to_what_is_asked()?;
    let (frames, bytes) = walker.visited;
    let report = ReplayReport {
        first: survey.begins().unwrap_or(walk.end),
        last: Seq(walk.end.0.saturating_sub(1)),
        frames,
        bytes,
        segments: walk.parts.len() as u64,
        lost: walk.reach.0.saturating_sub(walk.end.0),
        case: walk.case.letter(),
        repaired_headers: survey.repaired_headers,
    };
    Ok((walk, report))
}

/// What lies in the directory, with what will be read of it durable.
fn settled(disk: &dyn Disk, dir: &Path, store_id: u128, from: Seq) -> Result<Survey> {
    let survey = Survey::read(disk, dir, store_id, from)?;
    if !crate::plants::is("journal-read-before-it-is-durable") {
        settle(disk, dir, &survey, recovery::start(&survey.segments, from))?;
    }
    Ok(survey)
}

/// Makes what will be read durable, before anyone acts on it. Whatever the boot ids say: the files may have been copied
/// here a moment ago.
fn settle(disk: &dyn Disk, dir: &Path, survey: &Survey, start: usize) -> Result<()> {
    for Segment { path, header, .. } in survey.segments.get(start..).unwrap_or_default() {
        let io = |e| Error::io("sync the journal", path, e);
        let file = disk.open(path, OpenMode::Write).map_err(io)?;
        if survey.poisoned && !crate::plants::is("journal-not-written-again") {
            // After a failed sync the system may hold bytes in memory that it no longer means to write.
            let mut buf = vec![0; 256 << 10];
            let mut at = 0;
            while at < header.len {
                let want = usize::try_from(header.len - at).unwrap_or(usize::MAX).min(buf.len());
                let chunk = buf.get_mut(..want).unwrap_or_default();
                if file.read_at(at, chunk).map_err(io)? < want {
                    return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
                }
                file.write_at(at, chunk).map_err(io)?;
                at += want as u64;
            }
        }
        noted(disk, dir, survey.poisoned, file.sync_data().map_err(io))?;
    }
    Ok(())
}

/// Where a write or a sync has failed, the next opening must not trust what the system holds in memory: leaves the note of that, unless
/// there is one.
fn noted(disk: &dyn Disk, dir: &Path, poisoned: bool, outcome: Result<()>) -> Result<()> {
    // Nothing is given up where nothing may be written. A full disk is another matter: where a sync says so, it had bytes to write.
    let refused = |e: &Error| {
        matches!(e.io_kind(), Some(IoErrorKind::ReadOnlyFilesystem | IoErrorKind::PermissionDenied))
    };
    outcome.map_err(|e| match poisoned || note_failure(disk, dir) || refused(&e) {
        true => e,
        false => e.remedy(UNNOTED),
    })
}

/// Clears away what is not part of the log, and begins the new session behind its end.
fn go_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: JournalConfig,
    survey: Survey,
    walk: &Walk,
) -> Result<Journal> {
    let Survey { mut segments, leftovers, mut spares, temporaries, poisoned, .. } = survey;
    let extra = spares.split_off(spares.len().min(config.max_spares));
    let supply = Supply::new(disk, dir.to_path_buf(), config, spares);
    let last = walk.parts.last().copied();
    let index = last.map_or(0, |part| part.index);
    // A segment without a frame of the log is replaced under its own name, so that opening again and again does not
    // pile them up.
    let replaced = last.is_none_or(|part| part.end == BODY);
    let keep = if replaced { index } else { index + 1 };
    let generation =
        segments.get(index).map_or(0, |s| s.header.generation).saturating_add(u64::from(!replaced));
    let anchor = anchor(&supply, &segments, walk, keep)?;
    for path in extra.iter().map(|n| supply.path(&segment::spare_name(*n))).chain(temporaries) {
        supply.remove(&path)?;
    }
    for path in leftovers {
        supply.remove(&path)?;
    }
    // In one that has no frame, not even a lost one, nothing can be mistaken for the new session's: it is used again, which takes no room.
    let blank = walk.reach == walk.end && !poisoned;
    // What has the name of the new session's first goes before it only where no end marker says that it is there.
    let going = if blank && !replaced { keep } else { keep + 1 };
    let mut freed = Vec::new();
    // The newest first, each for good before the next: whatever a crash leaves, no gap is among it.
    while segments.len() > going {
        if let Some(Segment { path, header, .. }) = segments.pop() {
            match blank {
                true => freed.extend(supply.free(header.generation, header.len, freed.len())?),
                false => supply.remove(&path)?,
            }
            if !crate::plants::is("journal-cut-in-any-order") {
                supply.sync_names()?;
            }
        }
    }
    // A spare is written to only when its name is durable.
    supply.restock(freed)?;
    let there = segments.get(keep).filter(|_| blank && replaced).map(|segment| segment.header.len);
    segments.truncate(keep);
    let mut retained = VecDeque::new();
    let mut first_after = walk.end;
    let oldest = segments.iter().position(|segment| segment.first.is_some()).unwrap_or(usize::MAX);
    for (index, Segment { path, header, first, .. }) in segments.iter().enumerate().rev() {
        // One whose first frame cannot be read begins with what can be: else all of it would be missing to an archive. The oldest does not, since
        // nobody is to be given what begins behind damage.
        let readable = || {
            let disk = supply.disk.as_ref();
            least_commit(disk, path, *header, BODY, Seq::ZERO..first_after).ok().flatten()
        };
        let first = match first {
            Some(first) => *first,
            None if index > oldest => readable().map_or(first_after, |(_, seq)| seq),
            None => first_after,
        };
        first_after = first.min(first_after);
        let SegmentHeader { generation, len, origin, .. } = *header;
        let start = origin != Origin::Continuation;
        retained.push_front(Retained { generation, first: first_after, len, start });
    }
    let journal = begin(supply, generation, walk.end, retained, Scarce::Small { there })?;
    if let (Some(at), Some(segment)) = (anchor, segments.last()) {
        end_here(&journal, segment, at, walk.end, poisoned)?;
    }
    if poisoned {
        journal.supply.remove(&journal.supply.path(segment::POISONED))?;
    }
    journal.supply.sync_names()?;
    Ok(journal)
}

/// Where the last kept segment's frames end, in bytes, unless an end marker is there, durably; and what one is to call durable.
fn anchor(supply: &Supply, segments: &[Segment], walk: &Walk, keep: usize) -> Result<Option<(u64, Seq)>> {
    let Some(before) = keep.checked_sub(1) else { return Ok(None) };
    let durable = Seq(walk.end.0.saturating_sub(1));
    if let Some(part) = walk.parts.iter().find(|part| part.index == before) {
        return Ok((!part.ended).then_some((part.end, durable)));
    }
    // The walk began behind it, since nothing in it was asked for; so it has not been synced, and an end marker in it may be that of an
    // opening that came no further.
    let Some(Segment { path, header, first: Some(first) }) = segments.get(before) else { return Ok(None) };
    let mut reader = recovery::open(supply.disk.as_ref(), path, *header, Vec::new())?;
    let (mut at, mut expected) = (BODY, *first);
    loop {
        match reader.item(at)? {
            // The same bytes again: torn between two sectors, others could be neither.
            Item::Frame(frame, _) if frame.kind == Kind::End && frame.seq == walk.end => {
                return Ok(Some((at, frame.durable)));
            }
            Item::Frame(frame, _)
                if frame.seq == expected && frame.kind == Kind::Commit && expected < walk.end =>
            {
                at += frame.frame_bytes() as u64;
                expected = expected.next();
            }
            _ => return Ok((expected == walk.end).then_some((at, durable))),
        }
    }
}

/// Writes the end marker that says that the next segment exists, so that its loss is noticed.
fn end_here(
    journal: &Journal,
    segment: &Segment,
    (at, durable): (u64, Seq),
    end: Seq,
    poisoned: bool,
) -> Result<()> {
    let io = |e| Error::io("end a journal segment", &segment.path, e);
    let header = segment.header;
    let mut bytes = Vec::new();
    segment::push_trailer(&mut bytes, header.salt(), header.generation, Kind::End, end, durable);
    let Supply { disk, dir, .. } = &journal.supply;
    let file = disk.open(&segment.path, OpenMode::Write).map_err(io)?;
    let written = file.write_at(at, &bytes).and_then(|()| file.sync_data());
    noted(disk.as_ref(), dir, poisoned, written.map_err(io))
}

/// Begins a session: everything below `first` is durable.
pub(super) fn begin(
    supply: Supply,
    generation: u64,
    first: Seq,
    mut retained: VecDeque<Retained>,
    scarce: Scarce,
) -> Result<Journal> {
    let header = SegmentHeader {
        store_id: supply.config.store_id,
        generation,
        boot_id: supply.disk.boot_id(),
        len: supply.config.segment_bytes,
        origin: Origin::Start { first },
    };
    let ready = supply.start(header, scarce)?;
    retained.push_back(Retained { generation, first, len: ready.header.len, start: true });
    let durable = Seq(first.0.saturating_sub(1));
    Ok(Journal {
        writer: Mutex::new(Writer::new(durable)),
        log: Mutex::new(Log::new(ready, first)),
        supply,
        freed: Mutex::default(),
        retained: Mutex::new(retained),
        group: Group::new(durable),
        turns: Turns::default(),
        health: Health::default(),
        counters: Counters::new(durable),
    })
}

/// Whether a segment was made and never written to.
fn is_blank(disk: &dyn Disk, path: &Path) -> Result<bool> {
    blank(disk, path).map(|header| header.is_some())
}

/// The header of a segment, if it was made and never written to.
pub(super) fn blank(disk: &dyn Disk, path: &Path) -> Result<Option<SegmentHeader>> {
    let io = |e| Error::io("read the journal", path, e);
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    let mut page = vec![0; BODY as usize];
    let read = file.read_at(0, &mut page).map_err(io)?;
    let Ok((header, _)) = SegmentHeader::decode_page(page.get(..read).unwrap_or_default()) else {
        return Ok(None);
    };
    let first = match header.origin {
        Origin::Start { first } => first,
        Origin::Continuation => Seq::ZERO,
    };
    let reach = recovery::open(disk, path, header, Vec::new())?.evidence(BODY, None)?.reach;
    Ok((reach <= first).then_some(header))
}
