//! Which write a time comes to, by what checkpoints and the archive know of times.
//!
//! Invariants: what is found is not later than the time. It is earlier by more than [`CLOSE`] only where nothing was written since, as far as
//! anybody knows for certain, or nothing was archived yet: then a checkpoint is all that there is, and none that cannot be read is passed over; or not all of it, when that is
//! the end of what was archived. Where the clock contradicts itself nobody guesses.

use crate::backup::BackupRepository;
use crate::backup::archive::Chain;
use crate::backup::checkpoint::{Body, CheckpointId};
use crate::backup::piece::{CLOCK_STEP, Listed, Mark};
use crate::backup::progress::Watch;
use crate::backup::unread::Unread;
use crate::backup::when::When;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use std::fmt;

/// How much older than asked for, in milliseconds, may be what is found in an archive that knows of later writes. An archiver notes the time
/// every second, but not while it writes a piece.
const CLOSE: u64 = 60_000;

/// A clock that shows less has not been set: no store is as old. The first of 2024.
const SET: u64 = 1_704_067_200_000;
/// How long before the time a checkpoint was taken that no piece before it is asked any more: a clock that was wrong by less, and went back to where
/// it is right, is told from the pieces in between, and one that has not been set shows something else.
const SETTLED: std::ops::RangeInclusive<u64> = 86_400_000..=32 * 86_400_000;

/// By then the log had come to this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    seq: Seq,
    /// Milliseconds since 1970.
    time: u64,
    /// What whoever says so has of it: less than `seq` where a piece ends before that. Whether the writes up to `seq` that lie in others are of the
    /// same history it does not show, as they were not archived when it was written.
    has: Seq,
    /// It had come to that and no further. What an earlier release says of the end of a piece is not known to be.
    is_exact: bool,
}

impl Known {
    /// What has all of it.
    fn whole(seq: Seq, time: u64) -> Known {
        Known { seq, time, has: seq, is_exact: true }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {} at {}", self.seq, When(self.time))
    }
}

/// Sequences of which nothing is known but that they were archived, or not even that.
struct Hole {
    first: Seq,
    last: Seq,
    error: Error,
}

/// What a repository knows of a store's times.
struct Times {
    chain: Chain,
    known: Vec<Known>,
    /// What of it is of the archive, in the order in which it was noted.
    noted: Vec<Known>,
    /// By a clock that had not been set.
    unset: Vec<Known>,
    /// The newest first.
    holes: Vec<Hole>,
    /// What the archive goes up to, by the pieces that were read.
    end: Option<Seq>,
}

/// The checkpoints of a repository, as far as they may be of a store.
pub struct Checkpoints<'a> {
    /// Of its history.
    pub of_store: &'a [Body],
    /// Of one that was given up.
    pub given_up: &'a [Body],
    /// Those that cannot be read, whatever they are of, and why.
    pub unread: Vec<(CheckpointId, Error)>,
}

impl Checkpoints<'_> {
    /// One that cannot be read and may have been taken after `found` and before anything that came later: later checkpoints have higher numbers.
    fn unread_behind(self, found: Option<Known>) -> Option<Error> {
        let is_before = |body: &&Body| found.is_some_and(|found| body.seq <= found.seq);
        let (before, after): (Vec<_>, Vec<_>) = self.of_store.iter().partition(is_before);
        let last = before.iter().map(|body| body.id).max();
        let next = after.iter().map(|body| body.id).min();
        let may_be =
            |id: CheckpointId| last.is_none_or(|last| last < id) && next.is_none_or(|next| id < next);
        let (id, error) = self.unread.into_iter().find(|(id, _)| may_be(*id))?;
        Some(unread(last, id, error))
    }
}

impl Times {
    fn of(
        repository: &BackupRepository,
        store: u128,
        time: u64,
        checkpoints: &[Body],
        watch: &Watch,
    ) -> Result<Times> {
        let chain = repository.chain(store)?;
        let mut known: Vec<Known> =
            checkpoints.iter().map(|body| Known::whole(body.seq, body.taken)).collect();
        let settled = settled(&mut known, time);
        let (mut holes, mut end, mut noted) = (Vec::new(), None, Vec::new());
        let mut behind: Option<&Listed> = None;
        for listed in chain.pieces.iter().rev() {
            // What lies before the first piece was not archived.
            if let Some(behind) = behind
                && behind.first > listed.last.next()
            {
                holes.push(missing(listed.last.next(), behind.first));
            }
            behind = Some(listed);
            if settled.is_some_and(|settled| listed.last <= settled) {
                break;
            }
            match repository.piece_or_why(store, listed) {
                Ok(piece) => {
                    watch.more(1, piece.size())?;
                    end = end.max(Some(piece.head.last));
                    let last = piece.head.last;
                    let known = |(mark, is_exact): (&Mark, bool)| Known {
                        has: mark.seq.min(last),
                        is_exact,
                        ..Known::whole(mark.seq, mark.time)
                    };
                    noted.extend(piece.marks().rev().map(known));
                }
                Err(Unread { error, of_all: true }) => return Err(error),
                Err(Unread { error, .. }) => {
                    watch.more(1, 0)?;
                    holes.push(Hole { first: listed.first, last: listed.last, error })
                }
            }
        }
        noted.reverse();
        known.extend_from_slice(&noted);
        known.sort_unstable();
        known.dedup();
        // Of a clock that is never set one time may be asked for as well as another.
        let is_set = |known: &Known| known.time >= SET || time < SET;
        noted.retain(is_set);
        let (known, unset) = known.into_iter().partition(is_set);
        Ok(Times { chain, known, noted, unset, holes, end })
    }

    /// The last sequence that is known to have been there at a time.
    fn at(self, time: u64, checkpoints: Checkpoints<'_>) -> Result<Seq> {
        self.check_clock(time)?;
        let later = self.known.iter().position(|known| known.time > time).unwrap_or(self.known.len());
        let (before, after) = self.known.split_at(later);
        let (found, next) = (before.last().copied(), after.first().copied());
        // It was there, and nothing that is left of the history since then has it.
        let since = |body: &&Body| found.is_none_or(|found| found.time < body.taken);
        if let Some(body) = checkpoints.given_up.iter().filter(|body| body.taken <= time).find(since) {
            return Err(super::point::other_history(body, "and was taken last before the time asked for"));
        }
        // All of that was there, too.
        let from = before.iter().map(|known| known.has).max().unwrap_or_default();
        // It had come to no more by the time asked for than it had then.
        let bound = after.iter().find(|known| known.is_exact);
        let upto = bound.map_or(Seq::MAX, |bound| bound.seq);
        // One of these might know of a later write that was there by then.
        if let Some(hole) = self.holes.into_iter().find(|hole| hole.last > from && hole.first <= upto) {
            return Err(hole.error);
        }
        let is_sure = |known: &&Known| known.is_exact && known.seq <= from;
        if before.iter().rfind(is_sure).is_some_and(|sure| time - sure.time <= CLOSE) {
            return Ok(from);
        }
        if let Some(unset) = self.unset.iter().find(|unset| from < unset.seq && unset.seq <= upto) {
            return Err(by_no_clock(found, *unset));
        }
        let (first, last) = (self.chain.pieces.first(), self.chain.pieces.last());
        let is_archived = found.zip(first).is_some_and(|(found, first)| first.first <= found.seq.next());
        let is_within = is_archived && last.is_some_and(|last| from <= last.last);
        let has_rested = found.zip(bound).is_some_and(|(found, bound)| bound.seq <= found.seq);
        // What nobody archived the checkpoints alone tell of.
        if !is_within
            && !has_rested
            && let Some(error) = checkpoints.unread_behind(found)
        {
            return Err(error);
        }
        let found = found.ok_or_else(super::point::too_early)?;
        let end = self.end.filter(|end| *end > from);
        if found.seq > from {
            if next.is_some() || end.is_some() {
                return Err(gone_on(found, from, end));
            }
            log::warn!(
                "the store had come to {found}, and of that what lies behind sequence {from} is not in the repository"
            );
            return Ok(from);
        }
        if has_rested {
            return Ok(found.seq);
        }
        match after.iter().find(|known| known.seq > found.seq) {
            Some(more) if is_archived => Err(between(found, *more)),
            Some(_) => Ok(found.seq),
            None => {
                // Pieces of releases that did not note when the log had come to their end.
                if let Some(end) = end {
                    return Err(behind(found, end));
                }
                // Where its disk has burnt, that is all that there is of it; where its archiver comes to nothing, it is not.
                log::warn!(
                    "the last that is known of the store is {found}: what it wrote between then and the time asked for is not in the repository"
                );
                Ok(found.seq)
            }
        }
    }

    /// Errors if what is of that time by its own clock comes after something of a later time.
    fn check_clock(&self, time: u64) -> Result<()> {
        let Some(at) = self.known.iter().rposition(|known| known.time <= time) else { return Ok(()) };
        let found = self.known[at];
        let before = self.known[..at].iter().filter(|known| known.seq < found.seq);
        if let Some(ahead) = before.max_by_key(|known| known.time)
            && is_ahead(*ahead, found)
        {
            return Err(went_back(*ahead, found));
        }
        // It may be the first write of a rest in which the clock went back to before that write: the time was shown before that, too.
        let mut rest = self.noted.iter().filter(|noted| noted.seq == found.seq);
        if let Some(begin) = rest.next().filter(|begin| begin.time > time)
            && let Some(later) = rest.find(|later| later.time <= time && is_ahead(*begin, **later))
        {
            return Err(went_back(*begin, *later));
        }
        Ok(())
    }
}

/// Whether the clock went back between these.
fn is_ahead(before: Known, after: Known) -> bool {
    before.time > after.time.saturating_add(CLOCK_STEP)
}

/// The sequence of a checkpoint that all pieces which are asked for a time lie behind, if there is one. `known`: of all checkpoints.
fn settled(known: &mut [Known], time: u64) -> Option<Seq> {
    known.sort_unstable();
    let (mut latest, mut settled) = (0, None);
    for known in known {
        if known.time >= latest && SETTLED.contains(&time.saturating_sub(known.time)) {
            settled = Some(known.seq);
        }
        latest = latest.max(known.time);
    }
    settled
}

/// The last sequence that a store is known to have come to by a time. An error if a piece that cannot be read, or one that is missing, might know
/// of a later one, or a checkpoint that cannot be read where nothing was archived, if writes were archived without anybody noting the time, if the clock went back or had not been set, or if a checkpoint that was
/// given up was the last by then. `watch` is told of every piece.
pub fn sequence_at(
    repository: &BackupRepository,
    store: u128,
    time: u64,
    checkpoints: Checkpoints<'_>,
    watch: &Watch,
) -> Result<Seq> {
    Times::of(repository, store, time, checkpoints.of_store, watch)?.at(time, checkpoints)
}

fn missing(from: Seq, behind: Seq) -> Hole {
    let to = Seq(behind.0.saturating_sub(1));
    let text = format!(
        "the archive lacks the writes with sequences {from} to {to}, and which of them were there at the time asked for is not known"
    );
    let error = Error::new(ErrorKind::NotFound, text).remedy(
        "restore up to the write before them, by its sequence (At::Seq), or to a time when all of them were there",
    );
    Hole { first: from, last: to, error }
}

fn between(found: Known, next: Known) -> Error {
    let why = match found.is_exact {
        true => "since nobody noted the time meanwhile",
        false => {
            "since the release that archived the first one may have noted that time when the store had come to more"
        }
    };
    let text = format!(
        "the store had come to {found}, and to {next}, and which writes between these were there at the time asked for is not known, {why}"
    );
    Error::new(ErrorKind::NotFound, text)
        .remedy("restore up to one of these writes, or one between them, by its sequence (At::Seq), or to one of these times")
}

/// `end`: what is archived, where that is more than `has`, which is archived of `found`.
fn gone_on(found: Known, has: Seq, end: Option<Seq>) -> Error {
    let text = format!(
        "the store had come to {found}, but who noted that did not come to archive more of it than up to sequence {has}: whether what others archived behind that is what was there at the time asked for is not known"
    );
    let upto = end.unwrap_or(has).min(found.seq);
    let remedy = format!(
        "restore up to sequence {upto} or one before it, by that sequence (At::Seq): it is of that moment unless an older copy of the store was put back since, or its log had lost its end"
    );
    Error::new(ErrorKind::NotFound, text).remedy(remedy)
}

fn behind(found: Known, end: Seq) -> Error {
    let text = format!(
        "the last that is known of the store is {found}, and which of the writes behind that, which are archived up to sequence {end}, were there at the time asked for is not known, since nobody noted the time"
    );
    let remedy = format!(
        "restore all that is archived, up to sequence {end}, or what is known, up to sequence {}, by that sequence (At::Seq)",
        found.seq
    );
    Error::new(ErrorKind::NotFound, text).remedy(remedy)
}

fn unread(before: Option<CheckpointId>, id: CheckpointId, error: Error) -> Error {
    let text = format!(
        "whether the store came to checkpoint {id} before the time asked for is not known, since that cannot be read"
    );
    let remedy = match before {
        Some(before) => {
            format!("restore checkpoint {before}, the one before it that can be read, by its number")
        }
        None => "restore one of those that list() tells, by its number".to_owned(),
    };
    let told = Error::new(error.kind(), text).remedy(remedy);
    let told = if let Some(path) = error.path() { told.at(path) } else { told };
    told.caused_by(error)
}

const BY_SEQ: &str = "restore up to the write that you mean, by its sequence (At::Seq)";

fn went_back(ahead: Known, found: Known) -> Error {
    let text = format!(
        "the clock of the store went back: it had come to {ahead}, and later to {found}, and what was there at the time asked for is not known"
    );
    Error::new(ErrorKind::NotFound, text).remedy(BY_SEQ)
}

fn by_no_clock(found: Option<Known>, unset: Known) -> Error {
    let before = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
    let text = format!(
        "the store had come to {unset}, by a clock that had not been set, and whether that was before the time asked for is not known; what is known of before is {before}"
    );
    Error::new(ErrorKind::NotFound, text).remedy(BY_SEQ)
}
