//! Which checkpoint and how much of the log a point in time comes to.

use super::At;
use crate::backup::BackupRepository;
use crate::backup::checkpoint::{Body, KeyspaceLayers};
use crate::backup::piece::{Listed, Named};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::manifest::KeyspaceEntry;
use std::time::UNIX_EPOCH;

/// The checkpoint to begin with, and the sequence to go on to; none: it is that already. It is the one that was named, if it is not later and the
/// archive leads from it to there.
pub fn base(repository: &BackupRepository, named: Body, at: At) -> Result<(Body, Option<Seq>)> {
    let store = named.store;
    let mut of_store = Vec::new();
    for id in repository.ids()? {
        match repository.load(id) {
            Ok(body) if body.store == store => of_store.push(body),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => log::error!("checkpoint {id} cannot be used: {error}"),
        }
    }
    let target = match at {
        At::Seq(seq) => seq,
        At::Time(time) => {
            let time = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let time = u64::try_from(time).unwrap_or(u64::MAX);
            let taken = of_store.iter().filter(|body| body.taken <= time).map(|body| body.seq).max();
            taken.max(latest_mark(repository, store, time)?).ok_or_else(too_early)?
        }
    };
    if named.seq <= target && repository.reaches(store, named.seq)? >= target {
        let until = (target > named.seq).then_some(target);
        return Ok((named, until));
    }
    let base = of_store.into_iter().filter(|body| body.seq <= target).max_by_key(|body| (body.seq, body.id));
    let base = base.ok_or_else(too_early)?;
    let until = (target > base.seq).then_some(target);
    Ok((base, until))
}

fn too_early() -> Error {
    Error::new(ErrorKind::NotFound, "every checkpoint of the store is later than the time asked for")
        .remedy("list() tells when the first one was taken")
}

/// The last sequence that the archive knows to have been there at a time.
fn latest_mark(repository: &BackupRepository, store: u128, time: u64) -> Result<Option<Seq>> {
    for listed in repository.chain(store)?.pieces.iter().rev() {
        let piece = repository.piece(store, listed)?;
        let marks = piece.head.marks.iter().filter(|mark| mark.time <= time);
        if let Some(seq) = marks.map(|mark| mark.seq).max() {
            return Ok(Some(seq));
        }
    }
    Ok(None)
}

/// The keyspaces that a manifest lists.
pub fn listed(body: &Body) -> Vec<KeyspaceEntry> {
    let entry = |k: &KeyspaceLayers| KeyspaceEntry { id: k.id, name: k.name.clone(), dropped: false };
    body.keyspaces.iter().map(entry).collect()
}

/// The keyspaces that there were at the sequence to go on to. One that was dropped after that write, and before the next, comes back, rather than
/// one being lost.
pub fn keyspaces(
    repository: &BackupRepository,
    body: &Body,
    until: Option<Seq>,
) -> Result<Vec<KeyspaceEntry>> {
    let Some(until) = until else { return Ok(listed(body)) };
    let chain = repository.chain(body.store)?;
    let Some(at) = chain.begun(until).checked_sub(1) else { return Ok(listed(body)) };
    let piece = repository.piece(body.store, &chain.pieces[at])?;
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
) -> Result<Vec<KeyspaceEntry>> {
    let mut found = Vec::new();
    for listed_piece in pieces.iter().rev().take(2) {
        let piece = repository.piece(body.store, listed_piece)?;
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
