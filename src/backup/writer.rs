//! Records to chunks to objects.
//!
//! Invariants: a layer's indexes name its chunks in order; what a layer names is in the storage, or was already, when it has
//! been ended; a few chunks at a time are in memory, whatever comes.

use super::Pour;
use super::buffers::Buffers;
use super::checkpoint::Layer;
use super::chunk::{ChunkRecord, Coding, RawChunk};
use super::filling::Filling;
use super::hash::ObjectId;
use super::index::{ChunkRef, IndexBuilder, Outline};
use super::storage::Storage;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How many threads hash and write chunks beside the one that is being filled. Mostly they wait for the storage.
const WRITERS: usize = 4;
/// How many bytes they have in hand at most, unless it is one chunk.
const UNDER_WAY: usize = 12 << 20;

/// What has been written, and what was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub records: u64,
    /// Bytes of keys and values.
    pub size: u64,
    pub objects: u64,
    /// Bytes of objects that were put into the storage.
    pub written: u64,
    /// Bytes of objects that were there.
    pub shared: u64,
}

/// A chunk whose bytes are on their way.
struct Pending {
    outline: Outline,
    size: usize,
    outcome: Receiver<Result<Done>>,
}

struct Done {
    id: ObjectId,
    bytes: u32,
    new: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that hash and write. They end with the value.
struct Writers {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(count: usize) -> Writers {
        let (jobs, taken) = sync_channel::<Job>(count);
        let taken = Arc::new(Mutex::new(taken));
        let work = |taken: Arc<Mutex<Receiver<Job>>>| {
            move || {
                loop {
                    let job = taken.lock().recv();
                    let Ok(job) = job else { return };
                    job();
                }
            }
        };
        let spawn = |_| {
            let builder = std::thread::Builder::new().name("annulus-backup".to_owned());
            builder.spawn(work(taken.clone())).ok()
        };
        let threads: Vec<JoinHandle<()>> = (0..count).filter_map(spawn).collect();
        // Without a thread everything is done by the caller.
        Writers { jobs: (!threads.is_empty()).then_some(jobs), threads }
    }

    fn run(&self, job: Job) {
        match &self.jobs {
            // The threads live as long as this, and catch nothing: one that panics takes its job's answer with it.
            Some(jobs) => drop(jobs.send(job)),
            None => job(),
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Writes layers into a storage.
pub struct LayerWriter {
    storage: Arc<dyn Storage>,
    /// What need not be written.
    reusable: Arc<HashSet<ObjectId>>,
    coding: Coding,
    filling: Filling,
    index: IndexBuilder,
    pending: VecDeque<Pending>,
    /// Bytes of what is pending.
    under_way: usize,
    buffers: Arc<Buffers>,
    layer: Layer,
    pub written: Written,
    writers: Writers,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

fn empty(upto: Seq) -> Layer {
    Layer { upto, records: 0, bytes: 0, indexes: Vec::new() }
}

impl LayerWriter {
    /// `background`: whether threads may help.
    pub fn new(
        storage: Arc<dyn Storage>,
        reusable: HashSet<ObjectId>,
        coding: Coding,
        background: bool,
    ) -> LayerWriter {
        let buffers = Arc::<Buffers>::default();
        LayerWriter {
            storage,
            reusable: Arc::new(reusable),
            coding,
            filling: Filling::new(buffers.clone()),
            index: IndexBuilder::default(),
            pending: VecDeque::new(),
            under_way: 0,
            buffers,
            layer: empty(Seq::ZERO),
            written: Written::default(),
            writers: Writers::start(if background { WRITERS } else { 0 }),
        }
    }

    /// Adds a record; its key is above the one before in the layer. Whether a chunk has been ended.
    pub fn push(&mut self, record: ChunkRecord<'_>) -> Result<bool> {
        self.written.size += (record.key.len() + record.value.map_or(0, <[u8]>::len)) as u64;
        self.filling.put([&[], record.key], record.seq, record.value);
        self.send_ended()
    }

    /// Adds the records that come next in `source`. Whether there may be more, and whether a chunk has been ended.
    pub fn take_from(&mut self, source: &mut dyn Pour) -> Result<(bool, bool)> {
        let more = source.pour(&mut self.filling)?;
        self.written.size += self.filling.added().1 as u64;
        Ok((more, self.send_ended()?))
    }

    fn send_ended(&mut self) -> Result<bool> {
        if !self.filling.waits() {
            return Ok(false);
        }
        for chunk in self.filling.take_ended() {
            self.send(chunk)?;
        }
        self.filling.refill();
        Ok(true)
    }

    fn send(&mut self, chunk: RawChunk) -> Result<()> {
        let (outline, size) = (Outline::of(&chunk), chunk.size());
        // Room first: a chunk in hand counts from here on.
        while self.pending.len() >= WRITERS || (self.under_way > 0 && self.under_way + size > UNDER_WAY) {
            self.take_one()?;
        }
        let (answer, outcome) = sync_channel(1);
        let (storage, reusable, coding) = (self.storage.clone(), self.reusable.clone(), self.coding);
        let buffers = self.buffers.clone();
        self.writers.run(Box::new(move || {
            // A caller that failed meanwhile needs no answer.
            let bytes = chunk.encode(coding, &buffers);
            let done = put(storage.as_ref(), &reusable, &bytes);
            buffers.give(bytes);
            let _ = answer.send(done);
        }));
        self.pending.push_back(Pending { outline, size, outcome });
        self.under_way += size;
        Ok(())
    }

    /// Waits for the oldest chunk that is under way.
    fn take_one(&mut self) -> Result<()> {
        let Some(Pending { outline, size, outcome }) = self.pending.pop_front() else { return Ok(()) };
        self.under_way -= size;
        let gone = || {
            Error::new(ErrorKind::Io, "a thread that wrote a backup panicked")
                .remedy("see the log for the panic's text")
        };
        let done = outcome.recv().unwrap_or_else(|_| Err(gone()))?;
        let Outline { records, first, last } = outline;
        self.layer.records += u64::from(records);
        self.written.records += u64::from(records);
        self.count(&done);
        if self.index.push(&ChunkRef { id: done.id, bytes: done.bytes, records, first, last }) {
            self.end_index()?;
        }
        Ok(())
    }

    fn count(&mut self, done: &Done) {
        let bytes = u64::from(done.bytes);
        self.layer.bytes += bytes;
        self.written.objects += 1;
        *if done.new { &mut self.written.written } else { &mut self.written.shared } += bytes;
    }

    fn end_index(&mut self) -> Result<()> {
        let Some(index) = self.index.finish() else { return Ok(()) };
        let done = put(self.storage.as_ref(), &self.reusable, &index)?;
        self.count(&done);
        self.layer.indexes.push(done.id);
        Ok(())
    }

    /// Ends a layer that is complete up to `upto`, and begins another. What it names is written, and durable when the storage
    /// has been settled.
    pub fn end_layer(&mut self, upto: Seq) -> Result<Layer> {
        self.filling.end();
        self.send_ended()?;
        while !self.pending.is_empty() {
            self.take_one()?;
        }
        self.end_index()?;
        Ok(Layer { upto, ..std::mem::replace(&mut self.layer, empty(Seq::ZERO)) })
    }

    /// Gives up what has been put into the layer: its objects are left to be swept.
    pub fn drop_layer(&mut self) -> Result<()> {
        self.end_layer(Seq::ZERO).map(|_| ())
    }
}

fn put(storage: &dyn Storage, reusable: &HashSet<ObjectId>, bytes: &[u8]) -> Result<Done> {
    let id = ObjectId::of(bytes);
    let new = !reusable.contains(&id);
    if new {
        storage.write(&id.name(), bytes)?;
    }
    let bytes = u32::try_from(bytes.len()).map_err(|_| Error::invalid("an object is over 4 GiB"))?;
    Ok(Done { id, bytes, new })
}
