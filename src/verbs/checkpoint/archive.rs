//! Putting the journal into a repository, piece by piece.
//!
//! Invariants: what is archived is durable in the source; pieces follow each other without a gap, unless the journal was trimmed
//! meanwhile, which is said; while archiving is on, the journal is not trimmed beyond what is archived, up to its bound.

use super::keyspaces;
use crate::backup::archive::{Head, Mark, Named, put};
use crate::backup::checkpoint::now;
use crate::backup::repository::BackupRepository;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::Cursor;
use crate::manifest::KeyspaceEntry;
use crate::state::State;

/// What a piece holds, in bytes of commits, unless one is larger.
const PIECE: usize = 4 << 20;

/// What the log has come to, now.
pub fn mark(state: &State) -> Mark {
    // In this order: what is up to the sequence was there at that time.
    let seq = state.memory.last();
    Mark { time: now(), seq }
}

/// Archives everything up to now. `marks` were made since the last call; those that went into a piece are taken out. Returns what the
/// archive is complete up to.
pub fn archive(state: &State, repository: &BackupRepository, marks: &mut Vec<Mark>) -> Result<Seq> {
    state.check_open()?;
    let manifest = state.manifest.lock().clone();
    let archived = repository.archived(manifest.store)?;
    marks.push(mark(state));
    let until = state.memory.last();
    if archived.is_some_and(|archived| archived > until) {
        let text = format!(
            "the archive holds this store's log up to {}, the store has come to {until} only",
            archived.unwrap_or_default()
        );
        return Err(Error::new(ErrorKind::Mismatch, text)
            .remedy("another copy of the store has been archived there: use another repository"));
    }
    state.journal.sync_to(until)?;
    let first = state.journal.first();
    let mut next = archived.map_or(first, Seq::next);
    if next < first {
        log::error!(
            "the journal begins with {first}, the archive ends before {next}: what is between is lost to it"
        );
        next = first;
    }
    state.hold_for_archive(Seq(next.0.saturating_sub(1)));
    let mut cursor = Cursor::at(next);
    while cursor.next() <= until {
        let begin = cursor.next();
        let mut commits = Vec::new();
        state.journal.replay(&mut cursor, until, PIECE, &mut |_, ops| {
            put(&mut commits, ops);
            Ok(())
        })?;
        let last = Seq(cursor.next().0.saturating_sub(1));
        let named = |KeyspaceEntry { id, name, .. }| Named { id, name };
        let head = Head {
            store: manifest.store,
            first: begin,
            last,
            marks: marks.iter().filter(|mark| mark.seq <= last).copied().collect(),
            keyspaces: keyspaces(&manifest).into_iter().map(named).collect(),
            next_keyspace: manifest.next_keyspace,
        };
        repository.add_piece(&head, &commits)?;
        marks.retain(|mark| mark.seq > last);
        state.hold_for_archive(last);
    }
    marks.clear();
    Ok(until)
}

/// The journal need not be kept for an archive any more.
pub fn end(state: &State) {
    state.hold_for_archive(Seq::MAX);
}
