//! Which checkpoint and how much of the log a point in time comes to.

use super::At;
use crate::backup::BackupRepository;
use crate::backup::checkpoint::{Body, KeyspaceLayers};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::manifest::KeyspaceEntry;
use std::time::UNIX_EPOCH;

/// The checkpoint to begin with, and the sequence to go on to; none: it is that already.
pub fn base(repository: &BackupRepository, body: Body, at: At) -> Result<(Body, Option<Seq>)> {
    let store = body.store;
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
    for first in repository.pieces(store)?.into_iter().rev() {
        let piece = repository.piece(store, first)?;
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

/// The keyspaces that there were at the sequence to go on to: those of the piece that it lies in, and of the one before, or of the
/// checkpoint. One that was dropped within the time of a piece comes back, rather than one being lost.
pub fn keyspaces(
    repository: &BackupRepository,
    body: &Body,
    until: Option<Seq>,
) -> Result<Vec<KeyspaceEntry>> {
    let Some(until) = until else { return Ok(listed(body)) };
    let pieces = repository.pieces(body.store)?;
    let last = pieces.partition_point(|first| *first <= until);
    let mut found = Vec::new();
    for first in pieces.iter().take(last).rev().take(2) {
        let piece = repository.piece(body.store, *first)?;
        let entry = |k: &crate::backup::archive::Named| KeyspaceEntry {
            id: k.id,
            name: k.name.clone(),
            dropped: false,
        };
        found.extend(piece.head.keyspaces.iter().map(entry));
        if *first <= body.seq.next() {
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
