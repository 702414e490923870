//! Putting the journal into a repository, piece by piece.
//!
//! Invariants: what is archived is durable in the source; pieces follow each other without a gap, unless the journal was trimmed
//! meanwhile, or is damaged, or what they ended with was damaged, which is said; one history alone goes into an archive; the journal is not trimmed beyond what
//! is archived, up to its bound.

mod end;
mod marks;
mod untold;

pub use marks::{mark, note, of as marks_of};

use crate::backup::archive::Chain;
use crate::backup::checkpoint::Body;
use crate::backup::lineage::Kin;
use crate::backup::piece::{Head, Mark, Named, Piece, put};
use crate::backup::repository::BackupRepository;
use crate::backup::unread::Unread;
use crate::backup::when::When;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::Cursor;
use crate::state::State;
use crate::state::archives::ArchiveHold;
use crate::sync::Mutex;
use end::end;
use untold::{Begun, untold};

/// How many checkpoints are told of that may be of another history.
const TOLD: usize = 8;
/// What a piece holds, in bytes of commits, unless one is larger.
const PIECE: usize = 4 << 20;

/// Archives everything up to now. Of the marks those that went into a piece are taken out, and of the others those of a rest that has not ended
/// stay. Returns what the archive is complete up to; `Gap` where it is not, for want of what the journal no longer had, or has damaged.
pub fn archive(state: &State, repository: &BackupRepository) -> Result<Seq> {
    state.check_open()?;
    let marks = marks::of(state, repository.id);
    let turn = state.archives.turn(repository.id);
    let _turn = turn.lock();
    in_turn(state, repository, &marks).inspect_err(|_| {
        // Whoever tries again and again notes a moment each time, and no piece begins before the journal.
        let first = state.journal.first();
        marks.lock().retain(|mark| mark.seq.next() >= first);
    })
}

fn in_turn(state: &State, repository: &BackupRepository, marks: &Mutex<Vec<Mark>>) -> Result<Seq> {
    let store = state.manifest.lock().store;
    let found = found(state, repository, store)?;
    let now = {
        // Taken under the lock, as others note theirs meanwhile.
        let mut marks = marks.lock();
        let now = mark(state);
        marks::look_at_clock(found.last.as_ref().and_then(|head| head.marks.last()), now);
        note(&mut marks, now);
        now
    };
    // No further than that: when a later write was there nobody would know, should the store rest behind it.
    let until = now.seq;
    state.sync_to(until)?;
    let telling = state.archives.telling(repository.id);
    // An archive without pieces lacks all that the journal does not have any more.
    let mut next = found.archived.unwrap_or(Seq::ZERO).next();
    if next < state.journal.first() && found.archived.is_some() {
        // What is passed over here is lost to the archive for good.
        state.complete_journal()?;
    }
    let first = state.journal.first();
    let mut gap = found.chain.newest_gap();
    if next < first {
        gap = Some((next, Seq(first.0.saturating_sub(1))));
        next = first;
    }
    // Where something lies between, it was dropped there for all that anybody knows.
    let goes_on = found.last.filter(|piece| piece.last.next() == next);
    let mut untold = goes_on.map_or_else(Vec::new, |piece| untold(state, &piece, until));
    state.archives.reached(repository.id, Seq(next.0.saturating_sub(1)))?;
    let (mut cursor, mut passed) = (Cursor::at(next), None);
    while cursor.next() <= until {
        let begin = cursor.next();
        telling.told(Seq(begin.0.saturating_sub(1)));
        let (mut commits, mut begun) = (Vec::new(), Begun::new());
        let mut visit = |seq, ops: &[u8]| {
            put(&mut commits, ops);
            if !untold.is_empty() {
                untold::look(&mut begun, seq, ops);
            }
            Ok(())
        };
        let read = read_twice(state, &mut cursor, until, &mut visit);
        let last = Seq(cursor.next().0.saturating_sub(1));
        // Whatever the journal lacks, this it has.
        if last >= begin {
            let known = marks.lock().clone();
            let head = head(state, (begin, last), &known, &mut untold, &begun);
            repository.add_piece(&head, &commits)?;
            // Again, since the journal is trimmed by what counts as archived: its disk may have gone since.
            repository.check_there()?;
            // What was noted meanwhile is told by the next one.
            marks.lock().retain(|mark| mark.seq > last || (mark.seq == last && !known.contains(mark)));
            state.archives.reached(repository.id, last)?;
        }
        let Err(damage) = read else { continue };
        let lacks = pass(state, &mut cursor, until, damage, &mut passed)?;
        // Of these moments nobody knows what they were; and nothing is known to have been there since.
        if let Some((from, to)) = lacks {
            marks.lock().retain(|mark| mark.seq < from || mark.seq > to);
            untold.clear();
            gap = lacks;
        }
    }
    // Whether the store has rested up to then, and the clock went back meanwhile, shows with the next write, in the piece that has that one.
    marks.lock().retain(|mark| mark.seq >= until);
    check_gaps(state, repository, &found.chain, gap)?;
    Ok(until)
}

/// Reads a piece of the journal, and what cannot be read once more.
fn read_twice(
    state: &State,
    cursor: &mut Cursor,
    until: Seq,
    visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
) -> Result<()> {
    let read = state.journal.replay(cursor, until, PIECE, visit);
    match read {
        Err(error) if is_damage(&error) => state.journal.replay(cursor, until, PIECE, visit).map(drop),
        read => read.map(drop),
    }
}

/// Whether something of the journal is not what was written, or may be a sector that cannot be read: that is known once something behind it can.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io)
}

/// Goes on behind what is damaged in the journal, and says which sequences that is. Where nothing of the journal behind it can be read, or
/// nothing could where it was gone on from last, that is the error: what is written later tells where it ends.
fn pass(
    state: &State,
    cursor: &mut Cursor,
    until: Seq,
    damage: Error,
    passed: &mut Option<Seq>,
) -> Result<Option<(Seq, Seq)>> {
    if !is_damage(&damage) {
        return Err(damage);
    }
    let behind = match nearest(state, cursor, until)? {
        Some(behind) if *passed != Some(behind.next()) => behind,
        _ => return Err(damage),
    };
    let (from, to) = (cursor.next(), Seq(behind.next().0.saturating_sub(1)));
    *passed = Some(behind.next());
    *cursor = behind;
    // It may be read after all, though not by who comes from before it.
    if from > to {
        return Ok(None);
    }
    log::error!("the writes with sequences {from} to {to} cannot be archived: {damage}");
    Ok(Some((from, to)))
}

/// A cursor behind what is damaged. What is passed over is lost to the archive for good: it is searched for once more, since it may be what a disk did not
/// give out that was away when the search began, and back when it ended.
fn nearest(state: &State, cursor: &Cursor, until: Seq) -> Result<Option<Cursor>> {
    let first = state.journal.behind(cursor, until)?;
    if first.as_ref().is_none_or(|behind| behind.next() <= cursor.next()) {
        return Ok(first);
    }
    let second = state.journal.behind(cursor, until)?;
    Ok(first.into_iter().chain(second).min_by_key(Cursor::next))
}

/// What there is of the store in an archive.
struct Found {
    chain: Chain,
    archived: Option<Seq>,
    /// The head of the last piece that can be read.
    last: Option<Head>,
}

/// Looks at an archive, and holds the journal for it. An error if it is of another history of the store.
fn found(state: &State, repository: &BackupRepository, store: u128) -> Result<Found> {
    let known = state.archives.get(repository.id);
    if known.is_none() {
        state.archives.begin(repository.id)?;
    }
    let look = || {
        check_given_up(known)?;
        repository.check_there()?;
        // Once is enough: what this store has come to is all that its checkpoints can have.
        if state.archives.is_to_be_compared(repository.id) {
            check_checkpoints(state, repository, store)?;
        }
        let chain = repository.chain(store)?;
        if let Some(begin) = chain.pieces.first() {
            // What was pruned, or taken away, is a gap like any other before its beginning.
            state.archives.mended(repository.id, |last| last < begin.first);
        }
        let end = end(repository, store, &chain)?;
        // What is listed may be of a process that ended before it was durable.
        repository.storage.settle()?;
        if let Some(piece) = &end.piece {
            check_history(state, repository.id, piece, known.map(|known| known.upto))?;
        }
        let mut archived = end.piece.as_ref().map(|piece| piece.head.last);
        match end.damaged {
            None if end.piece.is_some() => state.archives.compared(repository.id),
            None => {}
            Some(damaged) => {
                let (from, to) = damaged.lacks(archived, state.journal.first(), state.memory.last())?;
                if from <= to {
                    state.archives.found_damaged(repository.id, from, to);
                }
                archived = Some(to);
            }
        }
        Ok(Found { chain, archived, last: end.piece.map(|piece| piece.head) })
    };
    // Nothing is kept for an archive that nothing can be added to.
    look().inspect_err(|_| {
        if known.is_none() {
            state.archives.give_up(repository.id)
        }
    })
}

fn other_history(what: &str) -> Error {
    Error::new(ErrorKind::Mismatch, format!("the archive is of another history of the store: {what}"))
        .remedy("another copy of the store has been archived there, or a part of the journal was given up: use another repository")
}

fn check_given_up(known: Option<ArchiveHold>) -> Result<()> {
    match known {
        Some(hold) if hold.given_up => {
            Err(other_history("it has writes that this store has given up with a part of its journal"))
        }
        _ => Ok(()),
    }
}

/// Errors if the newest checkpoint of the store has more than that has come to: it was taken before an older copy of the store was put back, or of
/// another one that lives on, and what comes now would be laid over it as soon as it has as many writes. One that is older than the newest is known
/// by that.
fn check_checkpoints(state: &State, repository: &BackupRepository, store: u128) -> Result<()> {
    let mut all = repository.of_history(store)?;
    let Some(newest) = all.next().transpose()? else { return Ok(()) };
    let until = state.memory.last();
    let kin = |body: &Body| match body.seq > until {
        true => Kin::Other,
        false => state.archives.kin(body.seq, body.owner()),
    };
    if kin(&newest) != Kin::Other {
        return Ok(());
    }
    let (id, seq) = (newest.id, newest.seq);
    let why = match seq > until {
        true => format!("the store has come to {until} only"),
        false => "and that was written by another copy of the store, or has been given up since".to_owned(),
    };
    let text = format!("checkpoint {id} is of another history of the store: it goes up to {seq}, {why}");
    // With the newest gone those before would pass for the store's as soon as it has as much; while it is there, nothing is put beside them.
    let (mut certain, mut possible) = (vec![outlined(&newest)], Vec::new());
    for body in all {
        let body = body?;
        match possible.len() {
            _ if kin(&body) == Kin::Same => break,
            0 if kin(&body) == Kin::Other => certain.push(outlined(&body)),
            TOLD => {
                possible.push("and older ones".to_owned());
                break;
            }
            _ => possible.push(outlined(&body)),
        }
    }
    let possible = match possible.is_empty() {
        true => String::new(),
        false => format!("; and of those before as many as that is true of: {}", possible.join(", ")),
    };
    let remedy = format!(
        "an older copy of the store was put in its place, or lives on beside it: use another repository, or, where nothing of them is needed, delete all checkpoints that were taken since that copy was made, the newest last: {}{possible}",
        certain.join(", ")
    );
    Err(Error::new(ErrorKind::Mismatch, text).at(repository.storage.describe(&id.name())).remedy(remedy))
}

/// A checkpoint, so that people can tell whether they want it gone.
fn outlined(body: &Body) -> String {
    format!("{} (sequence {} at {})", body.id, body.seq, When(body.taken))
}

/// Errors if a repository has an archive or a checkpoint of another history of the store, which a restore would put together with this one. Where journal and
/// archive have nothing left to compare, or it is damaged, that keeps nobody from a checkpoint; an archive that cannot be read, as little as the rest of its repository,
/// does.
pub fn check_same_history(state: &State, repository: &BackupRepository) -> Result<()> {
    let known = state.archives.get(repository.id);
    check_given_up(known)?;
    let known = known.map(|known| known.upto);
    let store = state.manifest.lock().store;
    check_checkpoints(state, repository, store)?;
    let chain = repository.chain(store)?;
    for listed in chain.pieces.iter().rev() {
        if known == Some(listed.last) && !state.archives.is_to_be_compared(repository.id) {
            return Ok(());
        }
        let checked = match repository.piece_or_why(store, listed) {
            Ok(piece) => check_history(state, repository.id, &piece, known),
            Err(Unread { error, of_all: true }) => return Err(error),
            Err(Unread { error, .. }) => {
                log::error!("the archive beside the checkpoint is damaged: {error}");
                continue;
            }
        };
        match checked {
            Ok(()) if Some(listed) == chain.pieces.last() => state.archives.compared(repository.id),
            Err(error) if error.kind() == ErrorKind::Mismatch => return Err(error),
            Err(error) => {
                log::error!("the archive beside the checkpoint cannot be compared with the journal: {error}")
            }
            Ok(()) => {}
        }
        return Ok(());
    }
    Ok(())
}

/// Errors if what the archive ends with is not what the journal has there, as far as it has it. `known`: what this store is known to have
/// archived there itself.
fn check_history(state: &State, repository: u128, piece: &Piece, known: Option<Seq>) -> Result<()> {
    let last = piece.head.last;
    let until = state.memory.last();
    if last > until {
        let text = format!("it goes up to {last}, the store has come to {until} only");
        return Err(other_history(&text));
    }
    if state.archives.kin(last, piece.head.history.owner(last)) == Kin::Other {
        return Err(other_history(&format!("the write with sequence {last} is not the store's")));
    }
    if known == Some(last) && !state.archives.is_to_be_compared(repository) {
        return Ok(());
    }
    let unseen = known.map_or(Seq::ZERO, Seq::next).min(last);
    let from = unseen.max(piece.head.first).max(state.journal.first());
    let commits: Vec<(Seq, &[u8])> = piece.commits().collect::<Result<_>>()?;
    let mut compare = |seq: Seq, ops: &[u8]| match commits.binary_search_by_key(&seq, |(seq, _)| *seq) {
        Ok(at) if commits[at].1 == ops => Ok(()),
        _ => Err(other_history(&format!("the write with sequence {seq} is not the store's"))),
    };
    let (mut cursor, mut passed) = (Cursor::at(from), None);
    while cursor.next() <= last {
        let damage = match state.journal.replay(&mut cursor, last, PIECE, &mut compare) {
            Err(error) if is_damage(&error) => error,
            read => {
                read?;
                continue;
            }
        };
        // What lies behind the damage, if anything does, tells as well whose history it is.
        match state.journal.behind(&cursor, last)? {
            Some(behind) if passed != Some(behind.next()) => {
                passed = Some(behind.next());
                cursor = behind;
            }
            // Nobody but this store has added to it since.
            _ if known == Some(last) => break,
            _ => return Err(damage),
        }
    }
    Ok(())
}

/// Called when the commits have been read: what they are of had been made by then.
fn head(
    state: &State,
    (first, last): (Seq, Seq),
    marks: &[Mark],
    untold: &mut Vec<Named>,
    begun: &Begun,
) -> Head {
    let history = state.archives.told(state.opened.seq);
    let manifest = state.manifest.lock();
    let live = manifest.keyspaces.iter().filter(|keyspace| !keyspace.dropped);
    let live = live.map(|keyspace| Named { id: keyspace.id, name: keyspace.name.clone(), dropped: None });
    let mut keyspaces: Vec<Named> = live.collect();
    // From the moment before it on: a checkpoint of that moment may have it.
    for gone in state.archives.dropped_since(Seq(first.0.saturating_sub(1))) {
        // As far as anybody knows by now: a drop of one that is there came to nothing.
        if keyspaces.iter().chain(&*untold).all(|keyspace| keyspace.id != gone.id) {
            keyspaces.push(Named { id: gone.id, name: gone.name, dropped: Some(gone.at) });
        }
    }
    untold::end(untold, &keyspaces, begun);
    keyspaces.extend(untold.iter().cloned());
    // The next piece tells from its end on.
    untold.retain(|gone| gone.dropped >= Some(last));
    keyspaces.sort_unstable_by_key(|keyspace| keyspace.id);
    Head {
        store: manifest.store,
        first,
        last,
        marks: marks::of_piece(marks, first, last),
        keyspaces,
        next_keyspace: manifest.next_keyspace,
        history: history.within(first, last),
    }
}

/// Errors unless a checkpoint lies behind all that an archive lacks, the newest of which is `gap` by the names of its pieces: whoever goes on
/// from that one does not need it.
fn check_gaps(
    state: &State,
    repository: &BackupRepository,
    chain: &Chain,
    gap: Option<(Seq, Seq)>,
) -> Result<()> {
    let store = state.manifest.lock().store;
    let damaged = state.archives.damaged(repository.id).into_iter().map(|gap| (gap, true));
    let mut gaps: Vec<_> = gap.map(|gap| (gap, false)).into_iter().chain(damaged).collect();
    gaps.sort_unstable_by_key(|((_, to), _)| std::cmp::Reverse(*to));
    for ((from, to), is_damage) in gaps {
        // A checkpoint behind the newest one lies behind all.
        if is_bridged(state, repository, store, to)? {
            break;
        }
        if is_damage && has(repository, store, chain, (from, to))? {
            state.archives.mended(repository.id, |last| last == to);
            continue;
        }
        let why = match is_damage {
            true => "since its pieces there are damaged",
            false => "which the journal no longer had, or not whole",
        };
        let text = format!(
            "the archive lacks the writes with sequences {from} to {to}, {why}, and no checkpoint lies behind them. All others are archived"
        );
        log::error!("{text}");
        return Err(Error::new(ErrorKind::Gap, text)
            .remedy("take a checkpoint now: a restore that begins with it needs none of them"));
    }
    Ok(())
}

/// Whether a checkpoint of the store lies behind these sequences. The one that was seen there last may have been deleted since.
fn is_bridged(state: &State, repository: &BackupRepository, store: u128, to: Seq) -> Result<bool> {
    if let Some(id) = state.archives.bridge(repository.id, to) {
        // In a copy of the repository the number may be another's.
        if repository.usable(id)?.is_some_and(|body| body.store == store && body.seq >= to) {
            return Ok(true);
        }
    }
    for body in repository.of_history(store)? {
        let body = body?;
        if body.seq >= to {
            state.archives.bridged(repository.id, body.seq, body.id);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the pieces of an archive have these sequences, after all: what was damaged has been put back.
fn has(repository: &BackupRepository, store: u128, chain: &Chain, (from, to): (Seq, Seq)) -> Result<bool> {
    let mut next = from;
    let mut before: Option<Piece> = None;
    for listed in chain.from(from) {
        // One that a piece reaches into may show that it is of another history.
        let upto = before.as_ref().map_or(to, |before| before.head.last.max(to));
        if listed.first > upto {
            break;
        }
        match repository.piece_or_why(store, listed) {
            Ok(piece) if piece.head.first <= next => {
                if let Some(before) = &before
                    && let Err(error) = piece.check_goes_on(before)
                {
                    log::error!("a piece of the archive counts as damaged: {error}");
                    return Ok(false);
                }
                next = next.max(piece.head.last.next());
                before = Some(piece);
            }
            Err(Unread { error, of_all: true }) => return Err(error),
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(next > to)
}

#[cfg(test)]
mod tests;
