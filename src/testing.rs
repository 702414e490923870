//! What tests, benches and fuzz targets need and users do not: no promise is made about any of it.

#![allow(missing_docs)]

use crate::backup::BackupRepository;
use crate::backups::Restore;
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq, ShardId};
use crate::options::Options;
use crate::record::RunBuffer;
use crate::state::State;
use crate::store::Store;
use crate::verbs;
use crate::verbs::restore::Repaired;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use crate::disk::power_loss::mark_synchronous;
pub use crate::disk::{
    Disk, DiskFile, Fault, FreeSpace, OpenEnds, OpenFile, OpenMode, OpenNames, Operation, PowerCut, RealDisk,
    SimDisk,
};
pub use crate::engine::{Gate, MemoryFactory, MemoryOperation as EngineOperation, SledFactory};
pub use crate::frame::{HEADER_BYTES, Header, Kind, Payload, Salt, encode, find, frame_bytes};
pub use crate::journal::segment::{Origin, SegmentHeader};
pub use crate::journal::{Appender, Cursor, Handoff, Journal, JournalConfig, JournalStats, ReplayReport};
pub use crate::plants::{PLANTS, Plant};
pub use crate::state::{Background, Seams};

/// The memtable's table, and the lists of them.
pub mod memtable {
    pub use crate::memtable::{OrderedTable, Table};
    use crate::record::KeyRange;
    pub use crate::state::{Memory, Recent, Tables};

    /// The keys from `lo` up to the end.
    pub fn range_from(lo: &[u8]) -> KeyRange {
        KeyRange { lo: lo.to_vec(), hi: None }
    }
}

/// The layout of a page.
pub mod page {
    pub use crate::page::{Content, Entry, PageView, checksum, encode};
}

/// A node of the index over a shard's pages.
pub mod node {
    pub use crate::engine::{Listed, Node, PageRef};
}

/// Plans of a ring in all that can be asked at once.
pub mod ring {
    use crate::error::Result;
    use crate::ring::Ring;
    pub use crate::ring::{Next, least_copies};

    /// What a next ring that is to be like this one is asked to be.
    pub fn next(ring: &Ring) -> Next {
        ring.next()
    }

    pub fn replan(ring: &Ring, next: Next) -> Result<Ring> {
        ring.replan_with(next)
    }
}

/// The small files of a store and its shards.
pub mod small_file {
    use crate::envelope::{self, Kind};
    use crate::error::Result;
    use crate::manifest::{self, Manifest};
    use crate::ring::Ring;
    use crate::shard::{identity, seal};
    use std::path::Path;

    #[derive(Debug, Clone, Copy)]
    pub enum Name {
        Manifest,
        Identity,
        Seal,
    }

    /// The file with this body, whatever it is, under a header that is right.
    pub fn wrap(name: Name, body: &[u8]) -> Result<Vec<u8>> {
        let kind: Kind = match name {
            Name::Manifest => manifest::KIND,
            Name::Identity => identity::KIND,
            Name::Seal => seal::KIND,
        };
        envelope::wrap(kind, body)
    }

    /// Reads the file, and writes what it was understood to say.
    pub fn rewrite(name: Name, bytes: &[u8]) -> Result<Vec<u8>> {
        let path = Path::new("file");
        match name {
            Name::Manifest => Manifest::decode(path, bytes)?.encode(),
            Name::Identity => {
                let identity: identity::Identity = envelope::decode(identity::KIND, path, bytes)?;
                identity.encode()
            }
            Name::Seal => {
                let seal: seal::Seal = envelope::decode(seal::KIND, path, bytes)?;
                envelope::encode(seal::KIND, &seal)
            }
        }
    }

    /// The ring of a manifest.
    pub fn ring(bytes: &[u8]) -> Result<Ring> {
        Ring::new(Manifest::decode(Path::new("file"), bytes)?.topology)
    }
}

/// The formats of a backup.
pub mod backup {
    use crate::backup::Versions;
    use crate::backup::buffers::Buffers;
    use crate::backup::builder::ChunkBuilder;
    use crate::backup::checkpoint::{Body, CheckpointId, KIND};
    use crate::backup::chunk::{self, ChunkRecord, ChunkView, Coding};
    use crate::backup::index;
    use crate::backup::stream::StreamReader;
    use crate::envelope;
    use crate::error::Result;
    use crate::ids::Seq;
    use std::path::Path;

    /// Key, sequence and value.
    pub type Records = Vec<(Vec<u8>, Seq, Option<Vec<u8>>)>;

    /// The bytes with a chunk's magic, version and checksums put right.
    pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
        chunk::with_checksums(bytes)
    }

    pub fn read_chunk(bytes: &[u8]) -> Result<Records> {
        let view = ChunkView::parse(bytes)?;
        let (mut blocks, mut records) = (view.start(), Records::new());
        while let Some((_, block)) = view.next_block(&mut blocks) {
            let block = block?;
            let mut at = block.start();
            while at.advance(&block)? {
                let record = at.record(&block);
                if records.last().is_some_and(|(before, _, _)| before.as_slice() >= record.key) {
                    return Err(crate::error::Error::corruption("a record is out of order"));
                }
                records.push((record.key.to_vec(), record.seq, record.value.map(<[u8]>::to_vec)));
            }
        }
        Ok(records)
    }

    /// One chunk of all records, whatever it would be cut to.
    pub fn write_chunk(records: &Records) -> Vec<u8> {
        let mut builder = ChunkBuilder::default();
        for (key, seq, value) in records {
            builder.push(ChunkRecord { key, seq: *seq, value: value.as_deref() });
        }
        builder.finish().map(|chunk| chunk.encode(Coding::Plain, &Buffers::default())).unwrap_or_default()
    }

    pub fn read_index(bytes: &[u8]) -> Result<usize> {
        index::decode(bytes).map(|chunks| chunks.len())
    }

    pub fn read_stream(bytes: &[u8]) -> Result<usize> {
        let mut stream = StreamReader::new(bytes)?;
        let mut records = 0;
        while let Some(record) = stream.next() {
            record?;
            records += 1;
        }
        Ok(records)
    }

    pub fn wrap_manifest(body: &[u8]) -> Vec<u8> {
        envelope::wrap(KIND, body).unwrap_or_default()
    }

    pub fn rewrite_manifest(bytes: &[u8]) -> Result<Vec<u8>> {
        envelope::encode(KIND, &Body::decode(Path::new("file"), bytes, 0, CheckpointId(0))?)
    }
}

/// Opens a store on the parts that a test brings.
pub fn open(dir: &Path, options: &Options, seams: Seams) -> Result<Store> {
    Store::open_with(dir, options, seams)
}

/// A repository in a directory of a disk that a test brings.
pub fn repository(disk: Arc<dyn Disk>, dir: &Path) -> Result<BackupRepository> {
    BackupRepository::on_disk(disk, dir)
}

/// Restores onto the parts that a test brings.
pub fn restore(restore: Restore, dir: &Path, seams: Seams) -> Result<Store> {
    restore.run(dir, seams, false).map(|(store, _)| store)
}

/// Imports onto the parts that a test brings.
pub fn import(options: &Options, reader: impl Read, dir: &Path, seams: Seams) -> Result<Store> {
    crate::backups::import(options, reader, dir, seams)
}

/// Repairs a store from a repository, on the parts that a test brings.
pub fn repair_from(
    options: &Options,
    repository: &BackupRepository,
    dir: &Path,
    seams: &Seams,
) -> Result<Repaired> {
    crate::backups::repair(options, repository, dir, seams)
}

/// Freezes the active memtable.
pub fn freeze(store: &Store) {
    store.handle.state.memory.freeze();
}

/// Flushes the oldest frozen memtable, if there is one.
pub fn flush_oldest(store: &Store) -> Result<bool> {
    verbs::flush::flush_oldest(&store.handle.state)
}

/// What the background thread does for the journal.
pub fn tick(store: &Store) -> Result<()> {
    store.handle.state.journal.write_buffered()?;
    store.handle.state.journal.provision().map(|_| ())
}

/// Tries the journal's copies that are behind; how many are complete again.
pub fn mend(store: &Store) -> usize {
    store.handle.state.mend()
}

/// Purges dropped keyspaces, in the smallest parts; whether there were any that could be.
pub fn purge(store: &Store) -> Result<bool> {
    let mut any = false;
    while purge_part(store)? {
        any = true;
    }
    Ok(any)
}

/// Purges a part of a dropped keyspace, as small as one can be.
pub fn purge_part(store: &Store) -> Result<bool> {
    verbs::purge::purge_part(&store.handle.state, 1)
}

/// One slice of the recount that an unclean shutdown asks for.
pub fn recount(store: &Store) -> Result<bool> {
    verbs::recount::recount(&store.handle.state, 2)
}

/// The flush that a step waits for; who waits for the step is told if it fails.
fn flush_first(store: &Store, tell: fn(&State, &Error)) -> Result<bool> {
    store.flush().inspect_err(|error| tell(&store.handle.state, error)).map(|()| true)
}

/// One step of a change of the topology, flushing where that must come first. Returns whether there is more to do.
pub fn change_step(store: &Store) -> Result<bool> {
    match verbs::reshard::step(&store.handle.state)? {
        verbs::reshard::Step::Idle => Ok(false),
        verbs::reshard::Step::NeedsFlush => flush_first(store, verbs::reshard::not_flushed),
        _ => Ok(true),
    }
}

/// One step of healing; whether there was, or soon will be, something to do.
pub fn heal_step(store: &Store) -> Result<bool> {
    match verbs::heal::step(&store.handle.state)? {
        verbs::heal::Step::Idle => Ok(false),
        verbs::heal::Step::NeedsFlush => flush_first(store, verbs::heal::not_flushed),
        verbs::heal::Step::Later(_) => {
            store.handle.state.healing.forget_rests();
            Ok(true)
        }
        verbs::heal::Step::Worked(_) => Ok(true),
    }
}

/// One step of a scrub; whether there may be more.
pub fn scrub_step(store: &Store) -> Result<bool> {
    match verbs::scrub::step(&store.handle.state)? {
        verbs::scrub::Step::Idle => Ok(false),
        verbs::scrub::Step::NeedsFlush => flush_first(store, verbs::scrub::not_flushed),
        _ => Ok(true),
    }
}

/// The keys of a keyspace that a shard holds, whoever owns them, with the versions of their newest values.
pub fn held_by(store: &Store, keyspace: KeyspaceId, shard: ShardId) -> Result<Vec<(Vec<u8>, Seq)>> {
    let layout = store.handle.state.layout();
    let index = layout.index_of(shard).unwrap_or(usize::MAX);
    let missing = || Error::new(ErrorKind::NotFound, "no such shard").on(shard);
    let engine = layout.shards.get(index).ok_or_else(missing)?.engine()?;
    let mut copied = RunBuffer::default();
    let mut of_keyspace = |key: &[u8]| batch::keyspace_of(key) == keyspace;
    engine.versions(&[], usize::MAX, &mut of_keyspace, &mut copied)?;
    let mut held: Vec<(Vec<u8>, Seq)> = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    for record in copied.records() {
        if last.as_deref() != Some(record.key) && record.value.is_some() {
            held.push((batch::user_key(record.key).to_vec(), record.seq));
        }
        last = Some(record.key.to_vec());
    }
    Ok(held)
}

/// Whether something is still in a call of a shard that nobody waits for any more.
pub fn hangs(store: &Store) -> bool {
    store.handle.state.layout().workers.iter().any(|worker| worker.is_stuck())
}

/// Takes a shard offline, as a failed write to it would.
pub fn fail_shard(store: &Store, shard: ShardId) {
    let state = &store.handle.state;
    let layout = state.layout();
    if let Some(index) = layout.index_of(shard) {
        let error = Error::new(ErrorKind::Io, "a test took the shard offline");
        state.shard_failed(&layout.shards[index], &error);
    }
}
