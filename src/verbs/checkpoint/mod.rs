//! Taking a checkpoint: the state at one sequence, over all shards and keyspaces, into a repository, while writes go on.
//!
//! Invariants:
//! - A snapshot is held from before the first record is read until after the last, so what is read is of one sequence and
//!   every batch in it is whole.
//! - What the checkpoint says is durable in the source as well: a power cut never makes the source older than its backup.
//! - It lies beside no archive of another history of the store, as far as anybody can tell.
//! - It builds upon an earlier checkpoint only if this opening of the store took that one and knows every key that was
//!   written since, and no shard has been put right since it began; what those keys are now is laid over it as one more layer. Else
//!   it reads everything.

pub mod archive;
mod delta;
mod export;
mod pace;

pub use export::export;

use crate::backup::checkpoint::{Body, CheckpointId, KeyspaceLayers, Source, now};
use crate::backup::chunk::Coding;
use crate::backup::hash::ObjectId;
use crate::backup::lineage::Lineage;
use crate::backup::repository::BackupRepository;
use crate::backup::writer::LayerWriter;
use crate::backup::{CheckpointOptions, Pour, Versions};
use crate::envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::manifest::{KeyspaceEntry, Manifest};
use crate::record::KeyRange;
use crate::state::changed::Base;
use crate::state::{Snapshot, State};
use pace::Pace;
use std::collections::HashSet;

/// The longest label, in bytes.
const MAX_LABEL: usize = 4 << 10;

/// Scans a range as of a snapshot that is held.
pub type Scan<'a> = &'a dyn Fn(KeyRange, Seq) -> Result<Box<dyn Versions>>;

/// The same, to be poured into chunks.
pub type Pouring<'a> = &'a dyn Fn(KeyRange, Seq) -> Result<Box<dyn Pour>>;

/// A snapshot, and when all that is in it was there, in milliseconds since 1970.
fn snapshot(state: &State) -> (Snapshot<'_>, u64) {
    (state.memory.snapshot(), now())
}

/// All keys of a keyspace.
fn whole(id: KeyspaceId) -> KeyRange {
    let hi = id.0.checked_add(1).map(|next| next.to_be_bytes().to_vec());
    KeyRange { lo: id.0.to_be_bytes().to_vec(), hi }
}

/// The keyspaces that exist, in order of their numbers.
fn keyspaces(manifest: &Manifest) -> Vec<KeyspaceEntry> {
    let mut live: Vec<KeyspaceEntry> = manifest.keyspaces.iter().filter(|k| !k.dropped).cloned().collect();
    live.sort_unstable_by_key(|keyspace| keyspace.id);
    live
}

/// Takes a checkpoint.
pub fn checkpoint(
    state: &State,
    repository: &BackupRepository,
    options: &CheckpointOptions,
    pouring: Pouring<'_>,
) -> Result<CheckpointId> {
    state.check_open()?;
    if options.label.len() > MAX_LABEL {
        return Err(Error::invalid(format!("a checkpoint's label has at most {MAX_LABEL} bytes")));
    }
    archive::check_same_history(state, repository)?;
    let session = repository.begin()?;
    let id = session.next_id()?;
    // Before the snapshot: what is written after it is then known to the next checkpoint.
    let begun = state.changed.begin();
    let (snapshot, taken) = snapshot(state);
    state.changed.begun_before(snapshot.at);
    let manifest = state.manifest.lock().clone();
    let base = if options.full { None } else { delta::base(state, repository, snapshot.at) };
    let reusable = match &base {
        None if !options.full => repository.reusable()?,
        _ => HashSet::new(),
    };
    let coding = coding(options);
    let writer =
        LayerWriter::new(repository.storage.clone(), reusable, coding, state.seams.background.schedules());
    let mut taking = Taking { state, at: snapshot.at, writer, pace: Pace::new(options), pouring };
    let keyspaces = match base {
        Some(base) => taking.on(&base, keyspaces(&manifest))?,
        None => taking.all(keyspaces(&manifest))?,
    };
    let Taking { writer, .. } = taking;
    let written = writer.written.written;
    drop(writer);
    let at = snapshot.at;
    drop(snapshot);
    state.sync_to(at)?;
    if !crate::plants::is("checkpoint-named-before-its-objects") {
        repository.storage.settle()?;
    }
    let body = Body {
        repository: repository.id,
        id,
        written,
        history: state.archives.told(state.opened.seq).upto(at),
        ..describe(&manifest, (at, taken), keyspaces, &options.label)
    };
    let bytes = envelope::encode(crate::backup::checkpoint::KIND, &body)?;
    repository.storage.write(&id.name(), &bytes)?;
    session.end()?;
    state.changed.took(repository.id, Base { number: id.0, hash: ObjectId::of(&bytes).0 }, begun);
    Ok(id)
}

#[cfg(feature = "lz4")]
fn coding(options: &CheckpointOptions) -> Coding {
    if options.uncompressed { Coding::Plain } else { Coding::Lz4 }
}

#[cfg(not(feature = "lz4"))]
fn coding(_: &CheckpointOptions) -> Coding {
    Coding::Plain
}

/// What is said of a store that is saved, but for where.
fn describe(
    manifest: &Manifest,
    (seq, taken): (Seq, u64),
    keyspaces: Vec<KeyspaceLayers>,
    label: &str,
) -> Body {
    let topology = &manifest.topology;
    Body {
        repository: 0,
        id: CheckpointId(0),
        store: manifest.store,
        seq,
        taken,
        label: label.to_owned(),
        next_keyspace: manifest.next_keyspace,
        keyspaces,
        source: Source {
            shards: topology.members.len(),
            replication_factor: topology.replication_factor,
            virtual_nodes: topology.virtual_nodes,
            partitioner: topology.partitioner,
            page_bytes: manifest.page_bytes,
        },
        written: 0,
        history: Lineage::default(),
    }
}

/// A checkpoint that is being taken.
struct Taking<'a> {
    state: &'a State,
    at: Seq,
    writer: LayerWriter,
    pace: Pace<'a>,
    pouring: Pouring<'a>,
}

impl Taking<'_> {
    /// Reads every record of the keyspaces.
    fn all(&mut self, keyspaces: Vec<KeyspaceEntry>) -> Result<Vec<KeyspaceLayers>> {
        let mut taken = Vec::with_capacity(keyspaces.len());
        for KeyspaceEntry { id, name, .. } in keyspaces {
            match self.scan_whole(id) {
                Ok(()) => {
                    let layer = self.writer.end_layer(self.at)?;
                    let layers = if layer.records > 0 { vec![layer] } else { Vec::new() };
                    taken.push(KeyspaceLayers { id, name, layers });
                }
                // Dropped meanwhile: it is as if it had been dropped before.
                Err(error) if self.is_for_a_drop(id, &error) => self.writer.drop_layer()?,
                Err(error) => return Err(error),
            }
            self.pace.after(&self.writer.written)?;
        }
        Ok(taken)
    }

    /// Whether a keyspace could not be read since it is gone. Who asked for an end is to have it all the same.
    fn is_for_a_drop(&self, id: KeyspaceId, error: &Error) -> bool {
        error.kind() != ErrorKind::Cancelled && self.state.check_keyspace(id).is_err()
    }

    fn scan_whole(&mut self, id: KeyspaceId) -> Result<()> {
        let at =
            if crate::plants::is("checkpoint-of-many-moments") { self.state.memory.last() } else { self.at };
        let mut source = (self.pouring)(whole(id), at)?;
        loop {
            let (more, ended) = self.writer.take_from(source.as_mut())?;
            if ended {
                self.pace.after(&self.writer.written)?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}
