//! Which checkpoint and how much of the log a point in time comes to.

use super::At;
use super::times::{self, Checkpoints};
use crate::backup::BackupRepository;
use crate::backup::checkpoint::{Body, KeyspaceLayers};
use crate::backup::history::Told;
use crate::backup::piece::{Listed, Named};
use crate::backup::progress::Watch;
use crate::backup::unread::Unread;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::manifest::KeyspaceEntry;
use std::time::UNIX_EPOCH;

/// A moment that a restore can come to.
pub struct Point {
    /// The checkpoint to begin with.
    pub body: Body,
    /// The sequence to go on to; none: it is that already.
    pub until: Option<Seq>,
    /// What there was then.
    pub keyspaces: Vec<KeyspaceEntry>,
}

impl Point {
    /// The moment of a checkpoint, as that tells it.
    pub fn of(body: Body) -> Point {
        Point { keyspaces: listed(&body), body, until: None }
    }
}

/// How to come to a moment with the keyspaces that there were, or with that of the name `only`. From the checkpoint that was named, if it is not
/// later and the archive leads from it to there; a checkpoint that lacks a keyspace of that moment is passed over. `watch` is told of what is read to know what a
/// time comes to.
pub fn point(
    repository: &BackupRepository,
    named: Body,
    at: At,
    only: Option<&str>,
    watch: &Watch,
) -> Result<Point> {
    let store = named.store;
    let (mut of_store, mut given_up, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for told in repository.newest_first(store)? {
        match told? {
            Told::Body(body) => of_store.push(body),
            Told::GivenUp(body) => given_up.push(body),
            Told::Unread(id, error) => unread.push((id, error)),
        }
    }
    if given_up.iter().any(|body| body.id == named.id) {
        return Err(other_history(&named, "and nothing that came later goes on from it"));
    }
    let target = match at {
        At::Seq(seq) => seq,
        At::Time(time) => {
            let time = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let time = u64::try_from(time).unwrap_or(u64::MAX);
            times::sequence_at(
                repository,
                store,
                time,
                Checkpoints { of_store: &of_store, given_up: &given_up, unread },
                watch,
            )?
        }
    };
    of_store.retain(|body| body.seq <= target);
    of_store.sort_unstable_by_key(|body| std::cmp::Reverse((body.seq, body.id)));
    let leads = named.seq <= target && repository.reaches(store, named.seq)? >= target;
    let candidates = leads.then_some(named).into_iter().chain(of_store);
    let mut lacks = None;
    for body in candidates {
        // From none that is older either, then.
        if lacks.is_some() && repository.reaches(store, body.seq)? < target {
            break;
        }
        let until = (target > body.seq).then_some(target);
        let keyspaces = keyspaces(repository, &body, until).map_err(|unread| unread.error)?;
        let known = match until {
            Some(_) => keyspaces.clone(),
            None => soon_after(repository, &body)?,
        };
        match known.into_iter().find(|k| is_lacking(&body, k) && only.is_none_or(|only| only == k.name)) {
            None => return Ok(Point { body, until, keyspaces }),
            Some(keyspace) => lacks = lacks.or(Some((body.id, keyspace.name))),
        }
    }
    Err(lacks.map_or_else(too_early, |(id, name)| {
        let text = format!(
            "the keyspace {name:?} was there at sequence {target}, but was dropped before checkpoint {id} came to it, and no earlier one leads there"
        );
        let remedy = "restore that checkpoint itself, a moment after the drop, or by its name each keyspace that you need";
        Error::new(ErrorKind::NotFound, text).remedy(remedy)
    }))
}

/// Whether a checkpoint was begun when a keyspace had been made, and does not have it: that was dropped before its turn came.
fn is_lacking(body: &Body, keyspace: &KeyspaceEntry) -> bool {
    keyspace.id.0 < body.next_keyspace && body.keyspaces.iter().all(|has| has.id != keyspace.id)
}

/// The keyspaces that there still were at the write after a checkpoint's, as far as the archive tells: all of them were there at its own.
fn soon_after(repository: &BackupRepository, body: &Body) -> Result<Vec<KeyspaceEntry>> {
    if repository.reaches(body.store, body.seq)? == body.seq {
        return Ok(Vec::new());
    }
    match keyspaces(repository, body, Some(body.seq.next())) {
        Err(Unread { error, of_all: true }) => Err(error),
        Err(Unread { error, .. }) => {
            // The checkpoint needs nothing of the archive.
            log::error!(
                "it is not known whether checkpoint {} has all keyspaces of its moment: {error}",
                body.id
            );
            Ok(Vec::new())
        }
        Ok(told) => Ok(told),
    }
}

/// A checkpoint of a history that was given up is asked for.
pub fn other_history(body: &Body, why: &str) -> Error {
    let text = format!(
        "checkpoint {} is of a history of the store that was given up, since a later one ends before its sequence {}, or has other writes up to there, {why}",
        body.id, body.seq
    );
    Error::new(ErrorKind::Mismatch, text)
        .remedy("restore that checkpoint itself, by its number and not up to a moment; or name a moment by its sequence (At::Seq)")
}

pub fn too_early() -> Error {
    Error::new(ErrorKind::NotFound, "every checkpoint of the store is later than the time asked for")
        .remedy("list() tells when the first one was taken")
}

/// The keyspaces that a manifest lists.
pub fn listed(body: &Body) -> Vec<KeyspaceEntry> {
    let entry = |k: &KeyspaceLayers| KeyspaceEntry { id: k.id, name: k.name.clone(), dropped: false };
    body.keyspaces.iter().map(entry).collect()
}

/// The keyspaces that there were at the sequence to go on to. One that was dropped after that write, and before the next, comes back, rather than
/// one being lost.
fn keyspaces(
    repository: &BackupRepository,
    body: &Body,
    until: Option<Seq>,
) -> Result<Vec<KeyspaceEntry>, Unread> {
    let Some(until) = until else { return Ok(listed(body)) };
    let chain = repository.chain(body.store).map_err(|error| Unread { error, of_all: true })?;
    let Some(at) = chain.begun(until).checked_sub(1) else { return Ok(listed(body)) };
    let piece = repository.piece_or_why(body.store, &chain.pieces[at])?;
    if !piece.tells_drops {
        return keyspaces_of_old(repository, body, &chain.pieces[..=at]);
    }
    let there = |named: &&Named| named.dropped.is_none_or(|dropped| until <= dropped);
    let mut found: Vec<KeyspaceEntry> = Vec::new();
    let named = piece.head.keyspaces.iter().filter(there).map(entry);
    // What was dropped before anything was archived is known to nobody but the checkpoint.
    let only_there = |k: &KeyspaceEntry| piece.head.keyspaces.iter().all(|named| named.id != k.id);
    let begins = piece.head.first <= body.seq.next();
    let checkpointed = listed(body).into_iter().filter(|k| begins && only_there(k));
    for keyspace in named.chain(checkpointed) {
        // Dropped later, and made again under the same name: the earlier one had it.
        if !found.iter().any(|other| other.name == keyspace.name) {
            found.push(keyspace);
        }
    }
    found.sort_unstable_by_key(|keyspace| keyspace.id);
    Ok(found)
}

fn entry(named: &Named) -> KeyspaceEntry {
    KeyspaceEntry { id: named.id, name: named.name.clone(), dropped: false }
}

/// The same by pieces of version 1, which tell what there was when they were written: those of the last piece and of the one before, or of the
/// checkpoint.
fn keyspaces_of_old(
    repository: &BackupRepository,
    body: &Body,
    pieces: &[Listed],
) -> Result<Vec<KeyspaceEntry>, Unread> {
    let mut found = Vec::new();
    for listed_piece in pieces.iter().rev().take(2) {
        let piece = repository.piece_or_why(body.store, listed_piece)?;
        found.extend(piece.head.keyspaces.iter().map(entry));
        if listed_piece.first <= body.seq.next() {
            found.extend(listed(body));
            break;
        }
    }
    found.sort_by_key(|keyspace: &KeyspaceEntry| keyspace.id);
    found.dedup_by_key(|keyspace| keyspace.id);
    // Dropped and made again under the same name: the later one has it.
    let names: Vec<String> = found.iter().map(|keyspace| keyspace.name.clone()).collect();
    let mut index = 0;
    found.retain(|keyspace| {
        index += 1;
        !names[index..].contains(&keyspace.name)
    });
    Ok(found)
}

#[cfg(test)]
mod tests;
