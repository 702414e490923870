//! Reading one layer of a checkpoint, from chunk to chunk.
//!
//! Invariants: every object has its hash before a record of it is given out; a layer's keys ascend, whatever lies in the place of its
//! chunks; memory is one chunk. Damage ends the reading, unless it is asked for what is left: then each gap is told, with the keys that it
//! covers. An object that cannot be read, while others can, is a gap as well.

use super::checkpoint::{CheckpointId, Layer};
use super::chunk::{BlockCursor, ChunkRecord, ChunkView, PlainBlock, RecordCursor};
use super::damage::{Damage, Loss};
use super::hash::ObjectId;
use super::index::{self, ChunkRef};
use super::leftover;
use super::progress::Watch;
use super::storage::{Storage, advised};
use super::unread::{gives_others, twice};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// Reads an object and sees that it has its hash.
pub fn fetch(storage: &dyn Storage, id: &ObjectId) -> Result<Vec<u8>> {
    let name = id.name();
    let at = || storage.describe(&name);
    let remedy = "restore another checkpoint, or salvage what is left of this one";
    let Some(bytes) = storage.read(&name).map_err(|error| advised(error, remedy))? else {
        return Err(Error::corruption("an object of the checkpoint is missing").at(at()).remedy(remedy));
    };
    let found = ObjectId::of(&bytes);
    if found != *id && !crate::plants::is("object-hash-not-checked") {
        let text = format!("an object of the checkpoint is damaged: its bytes have the hash {found}");
        return Err(Error::corruption(text).at(at()).remedy(remedy));
    }
    Ok(bytes)
}

/// What a reading is of, and what has been found to be wrong.
#[derive(Debug)]
pub struct Reading {
    pub storage: Arc<dyn Storage>,
    pub checkpoint: CheckpointId,
    /// Whether gaps are told and passed over.
    pub salvage: bool,
    pub damage: Vec<Damage>,
    /// Objects and bytes read.
    pub objects: u64,
    pub bytes: u64,
    /// Who is told of each object.
    pub watch: Watch,
}

impl Reading {
    pub fn new(storage: Arc<dyn Storage>, checkpoint: CheckpointId, salvage: bool) -> Reading {
        let watch = Watch::default();
        Reading { storage, checkpoint, salvage, damage: Vec::new(), objects: 0, bytes: 0, watch }
    }

    pub fn watched(self, watch: &Watch) -> Reading {
        Reading { watch: watch.clone(), ..self }
    }

    /// Reads an object, or says what is wrong with it. An error if that is not this object's alone.
    fn fetch(&mut self, id: &ObjectId) -> Result<Result<Vec<u8>>> {
        let read = || fetch(self.storage.as_ref(), id);
        let fetched = if self.salvage { twice(read) } else { read() };
        match &fetched {
            Ok(bytes) => {
                self.objects += 1;
                self.bytes += bytes.len() as u64;
                self.watch.more(1, bytes.len() as u64)?;
            }
            Err(error) => self.check_alone(id, error)?,
        }
        Ok(fetched)
    }

    /// Errors if nothing else can be read either.
    fn check_alone(&self, id: &ObjectId, error: &Error) -> Result<()> {
        let of_system = self.salvage && error.kind() == ErrorKind::Io;
        match of_system && !gives_others(self.storage.as_ref(), &id.name()) {
            true => Err(error.clone()),
            false => Ok(()),
        }
    }
}

/// One layer of a keyspace, record by record.
#[derive(Debug)]
pub struct LayerReader {
    keyspace: Arc<str>,
    layer: Layer,
    /// What older layers know the keys of a gap to be.
    loss: Loss,
    next_index: usize,
    chunks: VecDeque<ChunkRef>,
    chunk: Option<Open>,
    block: Option<PlainBlock<'static>>,
    cursor: RecordCursor,
    /// No record of the block has been looked at yet.
    fresh: bool,
    /// The last key that was given out, or is known to have been passed.
    before: Vec<u8>,
    /// The last gap has no end yet.
    open_gap: Option<usize>,
    ended: bool,
    seen: u64,
    /// Something of it was passed over.
    has_gap: bool,
}

#[derive(Debug)]
struct Open {
    entry: ChunkRef,
    bytes: Vec<u8>,
    blocks: BlockCursor,
    records: u32,
    /// It does not have its hash.
    broken: Option<Error>,
    /// Where blocks of it lie that are whole and may be another chunk's.
    passed: BTreeSet<usize>,
    /// A block of it was passed over.
    gap: bool,
}

/// Goes past a key, never back: one that is out of order would let others follow that were given out already.
fn pass(before: &mut Vec<u8>, key: &[u8]) {
    if key > before.as_slice() {
        before.clear();
        before.extend_from_slice(key);
    }
}

/// The least key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl LayerReader {
    /// `older`: what the layer below is complete up to; none: there is none.
    pub fn new(keyspace: &str, layer: &Layer, older: Option<Seq>) -> LayerReader {
        LayerReader {
            keyspace: keyspace.into(),
            layer: layer.clone(),
            loss: older.map_or(Loss::Missing, Loss::AsOf),
            next_index: 0,
            chunks: VecDeque::new(),
            chunk: None,
            block: None,
            cursor: RecordCursor::default(),
            fresh: false,
            before: Vec::new(),
            open_gap: None,
            ended: false,
            seen: 0,
            has_gap: false,
        }
    }

    /// The record that was gone on to last.
    #[inline]
    pub fn record(&self) -> Option<ChunkRecord<'_>> {
        self.block.as_ref().map(|block| self.cursor.record(block))
    }

    /// Goes on to the next record; false at the end.
    #[inline]
    pub fn advance(&mut self, reading: &mut Reading) -> Result<bool> {
        loop {
            if let Some(block) = &self.block {
                match self.cursor.advance(block) {
                    Ok(true) => {
                        let record = self.cursor.record(block);
                        // Within a block keys ascend; the first one comes after the block before.
                        let below = std::mem::take(&mut self.fresh) && record.key <= self.before.as_slice();
                        if below || record.seq > self.layer.upto {
                            let error = Error::corruption("a record is out of order");
                            self.block_failed(reading, 0, error)?;
                            continue;
                        }
                        self.seen += 1;
                        if self.open_gap.is_some() {
                            self.end_gap(reading);
                        }
                        return Ok(true);
                    }
                    Ok(false) => self.end_block(),
                    Err(error) => self.block_failed(reading, 0, error)?,
                }
                continue;
            }
            if self.ended || !self.next_block(reading)? {
                self.ended = true;
                return Ok(false);
            }
        }
    }

    fn end_block(&mut self) {
        if let Some(block) = self.block.take() {
            pass(&mut self.before, self.cursor.record(&block).key);
        }
        self.cursor = RecordCursor::default();
    }

    fn end_gap(&mut self, reading: &mut Reading) {
        let first = self.record().map(|record| Bytes::copy_from_slice(record.key));
        if let Some(damage) = self.open_gap.take().and_then(|at| reading.damage.get_mut(at)) {
            damage.to = first;
        }
    }

    fn next_block(&mut self, reading: &mut Reading) -> Result<bool> {
        let Some(chunk) = &mut self.chunk else { return self.next_chunk(reading) };
        let view = ChunkView::parse(&chunk.bytes)?;
        let mut blocks = chunk.blocks;
        let next = view.next_block(&mut blocks).map(|(at, block)| (at, block.map(PlainBlock::into_owned)));
        chunk.blocks = blocks;
        match next {
            Some((at, Ok(_))) if chunk.passed.contains(&at) => {
                let text = "a block of a damaged chunk has its checksum, and may be of another chunk";
                self.block_failed(reading, at, Error::corruption(text))?;
            }
            Some((_, Ok(block))) => {
                (self.cursor, self.fresh) = (block.start(), true);
                self.block = Some(block);
            }
            Some((at, Err(error))) => self.block_failed(reading, at, error)?,
            None => self.end_chunk(reading)?,
        }
        Ok(true)
    }

    /// What a chunk's entry says of it must be so.
    fn end_chunk(&mut self, reading: &mut Reading) -> Result<()> {
        let Some(Open { entry, bytes, records, broken, gap, .. }) = self.chunk.take() else { return Ok(()) };
        self.open_gap = None;
        let same =
            records == entry.records && bytes.len() == entry.bytes as usize && self.before == entry.last;
        pass(&mut self.before, &entry.last);
        if gap || same && broken.is_none() {
            return Ok(());
        }
        let error = broken.unwrap_or_else(|| Error::corruption("a chunk is not what its index says"));
        // Something lies behind the chunk, which is whole.
        let lost = same.then_some(0);
        self.gap(reading, &entry.id, error, (entry.first, Some(after(&entry.last))), lost)
    }

    fn place(&self, reading: &Reading, id: &ObjectId) -> PathBuf {
        reading.storage.describe(&id.name())
    }

    fn next_chunk(&mut self, reading: &mut Reading) -> Result<bool> {
        let Some(entry) = self.chunks.pop_front() else { return self.next_index(reading) };
        let fetched = reading.fetch(&entry.id)?.and_then(|bytes| {
            let view = ChunkView::parse(&bytes)?;
            let (blocks, records) = (view.start(), view.records);
            Ok((bytes, blocks, records))
        });
        match fetched {
            Ok((bytes, blocks, records)) => {
                let passed = BTreeSet::new();
                self.chunk = Some(Open { entry, bytes, blocks, records, broken: None, passed, gap: false });
            }
            Err(error) => self.chunk_failed(reading, entry, error)?,
        }
        Ok(true)
    }

    /// A chunk does not have its hash, or is gone, or cannot be read. What blocks of it have their checksums are given out all the same, unless
    /// they may be another's.
    fn chunk_failed(&mut self, reading: &mut Reading, entry: ChunkRef, error: Error) -> Result<()> {
        let id = entry.id;
        let bounds = (entry.first.clone(), Some(after(&entry.last)));
        if error.kind() != ErrorKind::Corruption || !reading.salvage {
            pass(&mut self.before, &entry.last);
            return self.gap(reading, &id, error, bounds, Some(u64::from(entry.records)));
        }
        let mut bytes = match reading.storage.read(&id.name()) {
            Ok(read) => read.unwrap_or_default(),
            // Longer than any object, or not to be read again: nothing of it can be had.
            Err(again) => {
                if again.kind() != ErrorKind::Corruption {
                    reading.check_alone(&id, &again)?;
                }
                Vec::new()
            }
        };
        let more = bytes.len() > entry.bytes as usize;
        let (broken, passed) =
            if bytes.get(..entry.bytes as usize).is_some_and(|whole| ObjectId::of(whole) == id) {
                // It was read wrongly the first time, or something lies behind it.
                bytes.truncate(entry.bytes as usize);
                (more.then_some(error), Some(BTreeSet::new()))
            } else {
                (Some(error), leftover::passed(&bytes, &entry, self.layer.upto).unwrap_or_default())
            };
        let header = ChunkView::parse(&bytes).map(|view| (view.start(), view.records));
        match (header, passed, broken) {
            (Ok((blocks, records)), Some(passed), broken) => {
                self.chunk = Some(Open { entry, bytes, blocks, records, broken, passed, gap: false });
                Ok(())
            }
            (_, _, broken) => {
                pass(&mut self.before, &entry.last);
                let error = broken.unwrap_or_else(|| Error::corruption("a chunk is damaged"));
                self.gap(reading, &id, error, bounds, Some(u64::from(entry.records)))
            }
        }
    }

    /// A block is passed over: what it had lies between the record before and the next one that is read. Those that follow each other are
    /// one gap.
    fn block_failed(&mut self, reading: &mut Reading, at: usize, error: Error) -> Result<()> {
        // The record at which it failed is not given out.
        let failed = self.block.as_ref().map(|block| self.cursor.record(block).key);
        let failed = failed.filter(|key| *key > self.before.as_slice()).map(<[u8]>::to_vec);
        self.end_block();
        let Some(chunk) = &mut self.chunk else { return Err(error) };
        chunk.gap = true;
        if self.open_gap.is_some() {
            return Ok(());
        }
        let id = chunk.entry.id;
        let before = || match self.before < chunk.entry.first {
            true => chunk.entry.first.clone(),
            false => after(&self.before),
        };
        let from = failed.unwrap_or_else(before);
        let error = error.at(reading.storage.describe(&id.name()));
        let error = if at > 0 { error.offset(at as u64) } else { error };
        let to = Some(after(&chunk.entry.last));
        self.gap(reading, &id, error, (from, to), None)?;
        self.open_gap = Some(reading.damage.len() - 1);
        Ok(())
    }

    fn next_index(&mut self, reading: &mut Reading) -> Result<bool> {
        let Some(id) = self.layer.indexes.get(self.next_index).copied() else {
            return self.end(reading).map(|()| false);
        };
        self.next_index += 1;
        let listed = reading.fetch(&id)?.and_then(|bytes| {
            let chunks = index::decode(&bytes)?;
            let above = chunks.first().is_some_and(|chunk| chunk.first > self.before);
            if above { Ok(chunks) } else { Err(Error::corruption("two indexes overlap")) }
        });
        match listed {
            Ok(chunks) => {
                if let Some(at) = self.open_gap.take()
                    && let (Some(damage), Some(first)) = (reading.damage.get_mut(at), chunks.first())
                {
                    damage.to = Some(first.first.clone().into());
                }
                self.chunks = chunks.into();
            }
            Err(error) => {
                let from = if self.before.is_empty() { Vec::new() } else { after(&self.before) };
                self.gap(reading, &id, error, (from, None), None)?;
                self.open_gap = Some(reading.damage.len() - 1);
            }
        }
        Ok(true)
    }

    /// A layer has as many records as its manifest says, unless it is known why not.
    fn end(&mut self, reading: &mut Reading) -> Result<()> {
        let (seen, says) = (self.seen, self.layer.records);
        if seen == says || self.has_gap {
            return Ok(());
        }
        let text =
            format!("a layer of keyspace {:?} has {seen} records, its manifest says {says}", self.keyspace);
        let file = reading.storage.describe(&reading.checkpoint.name());
        let lost = says.checked_sub(seen);
        self.tell(reading, file, Error::corruption(text), (Vec::new(), None), lost)
    }

    /// Tells of a gap, or fails with its cause.
    fn gap(
        &mut self,
        reading: &mut Reading,
        id: &ObjectId,
        error: Error,
        bounds: (Vec<u8>, Option<Vec<u8>>),
        records: Option<u64>,
    ) -> Result<()> {
        self.has_gap = true;
        let file = self.place(reading, id);
        self.tell(reading, file, error, bounds, records)
    }

    fn tell(
        &self,
        reading: &mut Reading,
        file: PathBuf,
        error: Error,
        (from, to): (Vec<u8>, Option<Vec<u8>>),
        records: Option<u64>,
    ) -> Result<()> {
        let error = if error.path().is_some() { error } else { error.at(&file) };
        // What this release cannot read is not lost.
        if !reading.salvage || !matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io) {
            return Err(error);
        }
        reading.damage.push(Damage {
            checkpoint: reading.checkpoint,
            file,
            keyspace: Some(self.keyspace.to_string()),
            from: from.into(),
            to: to.map(Bytes::from),
            records,
            loss: self.loss,
            error,
        });
        Ok(())
    }
}
