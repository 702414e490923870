//! The shared state of an open store, and every lock in it.
//!
//! **Lock order.** A thread takes locks only downwards in this list, and may skip any:
//!
//! 0. `archives.turn`, for each repository: the turn to add to the archive there. Held over its I/O, also over a network: nobody else wants it but
//!    who archives there. Under it, or alone, for a moment: what was noted of the time for that archive (`archives.marks`), under which `memory` is taken.
//! 1. `change.mover`: the turn to take a step of a change of the topology. Held over its I/O: nobody else wants it but who
//!    begins, cancels or sweeps up after one.
//! 2. `manifest`: changes of the manifest, one at a time. Held over the writing of the file, since the file must follow
//!    the same order as the changes.
//! 3. `flushing`: flushes and purges, one at a time. Held over I/O: it *is* the turn to write to the shards; neither
//!    readers nor writers of records take it, but for a reader that puts right a page of which every copy is damaged elsewhere.
//! 4. `moving`: the beginning of a flush, a purge, and one chunk of records on its way from shard to shard exclude each other,
//!    so that a chunk never brings back what a flush has just removed. Held over the I/O of a chunk, some tens of
//!    milliseconds; a flush that has begun does not hold it.
//! 5. the journal's appender: the order of commits. Held while a frame gets its place, never over a write or sync of
//!    frames: those come after all locks of this list have been let go.
//! 6. the memtables (`memory`): taken while the appender is still held, then the appender is released, so that commits
//!    enter the memtable in the order of the journal while the next frame is written.
//! 7. the turn to look whether some virtual node has no shard left (`gaps`): what was looked at first must not be noted last. Under it only
//!    `layout` and the shards' own are taken.
//! 8. the turn to write the scrub's file (`scrub.saving`), held over the writing of it, so that the newest is written last. Under it only
//!    `scrub` is taken.
//! 9. leaves, under which nothing else is taken: `archives` (held over the writing of its file, since the file must follow the same order), `pace`, `scrub`, `signals`, `keyspaces`, `layout`, `cover`, `change`, `changed`, `purged`, the gate of
//!    `records`, and each shard's own.

pub mod archives;
mod beside;
pub mod caught;
pub mod change;
pub mod changed;
mod copied;
mod cover;
pub mod events;
pub mod foreground;
mod gaps;
pub mod healing;
mod kept;
pub mod limited;
mod look;
mod memory;
mod pace;
mod read;
mod records;
pub mod scrub;
mod seams;
mod share;
mod signals;
pub mod transfer;

pub use beside::Asked;
pub use copied::{Copied, Said, Seen};
pub use memory::{Memory, Recent, Snapshot, Tables};
pub use pace::Pace;
pub use read::ATTEMPTS;
pub use records::Records;
pub use seams::{Background, Seams};
pub use signals::Signals;

use crate::backup::checkpoint::now;
use crate::backup::piece::Mark;
use crate::batch;
use crate::disk::Hands;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::journal::Journal;
use crate::journal::mirror::Mirrors;
use crate::manifest::Manifest;
use crate::options::{Durability, Heal};
use crate::ring::Ring;
use crate::shard::{Health, Layout, Shard, stays_readable};
use crate::sync::Instant;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use archives::Archives;
use change::Control;
use changed::Changed;
use cover::Cover;
use events::{EventKind, Hub};
use gaps::Gaps;
use healing::Healing;
use scrub::Scrubbing;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the options came to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub durability: Durability,
    pub memory_budget: u64,
    /// Bytes that all memtables together may hold.
    pub memtable_bytes: u64,
    /// Bytes of journal kept for shards that are offline, and for archives that are behind.
    pub journal_retention: u64,
    pub heal: Heal,
    /// How long a shard may take for a step before it is given up.
    pub shard_timeout: Duration,
    /// How long who writes waits for the store's own disk.
    pub write_timeout: Option<Duration>,
    /// Bytes of damaged engines that are kept of each shard.
    pub quarantine_limit: u64,
    /// How often everything is scrubbed.
    pub scrub_every: Option<Duration>,
}

impl Settings {
    /// The memory for caches that each of so many shards is opened with, before it is shared out by what memtables hold.
    pub fn opening_cache(&self, shards: usize) -> u64 {
        (self.memory_budget - self.memtable_bytes) / shards.max(1) as u64
    }
}

/// What the last opening did.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    pub replayed_frames: u64,
    pub replayed_bytes: u64,
    pub took: Duration,
}

/// An open store.
#[derive(Debug)]
pub struct State {
    pub dir: PathBuf,
    /// Tells the handles of this opening from those of any other in the process.
    pub instance: u64,
    pub seams: Seams,
    pub settings: Settings,
    pub opening: Opening,
    pub manifest: Mutex<Manifest>,
    pub flushing: Mutex<()>,
    /// The keyspace that is being purged, and where that goes on: what lies below is gone from all shards.
    pub purged: Mutex<Option<(KeyspaceId, Vec<u8>)>>,
    pub journal: Arc<Journal>,
    /// Who writes for those that wait no longer than was set.
    pub writers: Hands,
    /// The journal's copies, where there are several.
    pub mirrors: Option<Arc<Mirrors>>,
    pub memory: Memory,
    pub pace: Pace,
    pub signals: Signals,
    pub moving: Mutex<()>,
    /// The change of the topology that is under way, if one is.
    pub change: Control,
    pub healing: Healing,
    pub scrub: Scrubbing,
    /// Where it is told what happens to the store.
    pub events: Arc<Hub>,
    pub flushes: AtomicU64,
    pub records: Records,
    /// What has been written since the last checkpoint.
    pub changed: Changed,
    /// What the journal is archived in, and kept for.
    pub archives: Archives,
    /// What the log had come to when the store was opened, for archives: nothing had been written meanwhile.
    pub opened: Mark,
    // What the memtables held when the memory was shared out last.
    shared: AtomicU64,
    // The share of single records as of then.
    shared_records: AtomicU64,
    keyspaces: RwLock<HashSet<KeyspaceId>>,
    // Counts the keyspaces that were dropped, so that who looked before a drop knows it.
    drops: AtomicU64,
    // The manifest as it was last written, for those who copy it.
    written: RwLock<Arc<Manifest>>,
    layout: RwLock<Arc<Layout>>,
    cover: Mutex<Cover>,
    // Counts changes of shards' health, so that what was derived from it is known to be old.
    health_version: AtomicU64,
    // Whether some virtual node may have no serving owner; then writes look before they leap.
    gaps: Gaps,
    closed: AtomicBool,
    lock: Mutex<Option<Lock>>,
}

/// The lock on the store's directory, held until it is dropped.
struct Lock(#[expect(dead_code, reason = "it is held, not read")] Box<dyn Send + Sync>);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

/// The parts that a [`State`] is put together from.
pub struct Parts {
    pub dir: PathBuf,
    pub seams: Seams,
    pub settings: Settings,
    pub opening: Opening,
    pub manifest: Manifest,
    pub journal: Journal,
    pub mirrors: Option<Arc<Mirrors>>,
    pub memory: Memory,
    pub layout: Arc<Layout>,
    pub scrub: Scrubbing,
    pub archives: Archives,
    pub lock: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for Cover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cover")
    }
}

/// The standard library's own: tests of schedules that run side by side share it, and shuttle's must not be shared so.
static INSTANCES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl State {
    pub fn new(parts: Parts) -> State {
        let live = parts.manifest.keyspaces.iter().filter(|k| !k.dropped).map(|k| k.id).collect();
        let records = parts.settings.memory_budget;
        let replayed = parts.memory.last();
        let state = State {
            dir: parts.dir,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            seams: parts.seams,
            pace: Pace::new(parts.settings.memtable_bytes),
            settings: parts.settings,
            opening: parts.opening,
            flushing: Mutex::new(()),
            purged: Mutex::default(),
            journal: Arc::new(parts.journal),
            writers: Hands::keeping(limited::WRITERS),
            mirrors: parts.mirrors,
            memory: parts.memory,
            signals: Signals::default(),
            moving: Mutex::new(()),
            change: Control::new(parts.manifest.change.as_ref(), replayed),
            healing: Healing::default(),
            scrub: parts.scrub,
            events: Arc::default(),
            flushes: AtomicU64::new(0),
            records: Records::new(records),
            changed: Changed::new(records),
            archives: parts.archives,
            opened: Mark { time: now(), seq: replayed },
            shared: AtomicU64::new(0),
            shared_records: AtomicU64::new(0),
            written: RwLock::new(Arc::new(parts.manifest.clone())),
            keyspaces: RwLock::new(live),
            drops: AtomicU64::new(0),
            layout: RwLock::new(parts.layout),
            cover: Mutex::new(Cover::default()),
            health_version: AtomicU64::new(1),
            gaps: Gaps::default(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(Lock(parts.lock))),
            manifest: Mutex::new(parts.manifest),
        };
        for shard in &state.layout().shards {
            state.tell_fault(shard);
        }
        if let Some(mirrors) = &state.mirrors {
            let events = state.events.clone();
            mirrors.listen(move |text| events.tell(None, EventKind::Journal { text }));
        }
        state.health_changed();
        state.share_memory();
        state
    }

    /// The ring as it is now.
    pub fn ring(&self) -> Ring {
        self.layout.read().ring.clone()
    }

    /// The shards, and who owns what, as of now. A read takes it after it has looked into the memtables: what is in none of
    /// them is in the owners of the layout of that moment, and of every later one.
    pub fn layout(&self) -> Arc<Layout> {
        self.layout.read().clone()
    }

    /// Puts another layout in the place of the one at hand, which it returns: those who hold that one may go on for a
    /// while. The caller has the turn to flush.
    pub fn replace_layout(&self, layout: Layout) -> Arc<Layout> {
        let before = std::mem::replace(&mut *self.layout.write(), Arc::new(layout));
        self.health_changed();
        // Another number of shards has other shares.
        self.shared.store(0, Ordering::Release);
        self.share_memory();
        before
    }

    /// Errors once the store has been closed.
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed(&self.dir));
        }
        Ok(())
    }

    /// Marks the store closed; false if it was already.
    pub fn begin_close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first {
            self.events.close();
            self.scrub.close();
            if let Some(mirrors) = &self.mirrors {
                mirrors.stop();
            }
            self.healing.close(&closed(&self.dir));
        }
        first
    }

    /// Lets another process, or another handle, open the store: as soon as nothing of it is written to.
    pub fn release_lock(&self) {
        let lock = self.lock.lock().take();
        if let Some(lock) = lock {
            self.journal.leave(Box::new(lock));
        }
    }

    /// Errors if the keyspace has been dropped.
    pub fn check_keyspace(&self, id: KeyspaceId) -> Result<()> {
        if id == KeyspaceId(0) || self.keyspaces.read().contains(&id) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "the keyspace has been dropped")
            .remedy("ask the store for it by name anew"))
    }

    pub fn keyspace_added(&self, id: KeyspaceId) {
        self.keyspaces.write().insert(id);
    }

    /// Nothing is committed to the keyspace from here on. Returns what the log has come to: nothing behind that is of it.
    pub fn keyspace_dropped(&self, id: KeyspaceId) -> Seq {
        // Who has looked, and not committed yet, looks again once it has the appender.
        let _appender = self.journal.lock();
        self.keyspaces.write().remove(&id);
        self.drops.fetch_add(1, Ordering::Release);
        self.memory.last()
    }

    /// Asked for before it is looked whether a keyspace is there: while it stays the same, all that were there still are.
    pub fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// The numbers of the keyspaces that exist.
    pub fn live_keyspaces(&self) -> HashSet<KeyspaceId> {
        self.keyspaces.read().clone()
    }

    /// The manifest as it was last written: without waiting for who changes it, or gives it to the shards.
    pub fn written(&self) -> Arc<Manifest> {
        self.written.read().clone()
    }

    /// A copy of that.
    pub fn manifest_copy(&self) -> Manifest {
        self.written().as_ref().clone()
    }

    /// Makes `next` the manifest: durable in the store's directory first, then copied to the shards, then in memory.
    pub fn replace_manifest(&self, manifest: &mut Manifest, next: Manifest) -> Result<()> {
        self.save_progress(manifest, next)?;
        self.copy_manifest(manifest, |_| true);
        Ok(())
    }

    /// Gives the shards that have not got it their copies of the manifest, as after the death of a process between it and them. A
    /// copy that is newer is left alone: it is all that there is of what it says.
    pub fn complete_copies(&self) {
        let manifest = self.manifest.lock();
        self.copy_manifest(&manifest, |shard| shard.copied() < manifest.generation);
    }

    fn copy_manifest(&self, manifest: &Manifest, wanted: impl Fn(&Shard) -> bool) {
        let layout = self.layout();
        let wanted = |(_, shard): &(usize, &Arc<Shard>)| shard.is_flushed() && wanted(shard);
        let copy = Arc::new(manifest.clone());
        let give = |(index, shard): (usize, &Arc<Shard>)| {
            let copy = copy.clone();
            (shard.id, self.ask(&layout, index, move |shard| shard.write_identity(&copy)))
        };
        // All at once: those whose disk hangs are waited for together.
        let given: Vec<_> = layout.shards.iter().enumerate().filter(wanted).map(give).collect();
        for (shard, asked) in given {
            // The copies are for the day the store's own directory is lost; one that is behind is still a good one.
            if let Err(error) = self.answer(asked) {
                log::warn!("the manifest could not be copied to shard {shard}: {error}");
            }
        }
    }

    /// The same for what only says how far a change has got: the shards' copies do without it.
    pub fn save_progress(&self, manifest: &mut Manifest, mut next: Manifest) -> Result<()> {
        // Under its lock: once the store has been closed the file is another's.
        self.check_open()?;
        if let Err(error) = next.store_next(self.seams.disk.as_ref(), &self.dir) {
            return Err(self.keep_manifest(manifest, error));
        }
        *self.written.write() = Arc::new(next.clone());
        *manifest = next;
        Ok(())
    }

    /// After a failed replacement the file may be the new one or the old one, and a power cut may still choose. Writes go
    /// on by the old one, so it is written again; where that fails as well, nothing more may be acknowledged.
    fn keep_manifest(&self, manifest: &mut Manifest, error: Error) -> Error {
        let disk = self.seams.disk.as_ref();
        if Manifest::load(disk, &self.dir).is_ok_and(|found| found.as_ref() == Some(&*manifest)) {
            return error;
        }
        // Above the number that the failed one carries.
        manifest.generation += 2;
        match manifest.store(disk, &self.dir) {
            Ok(()) => error,
            Err(again) => self.journal.poison(again),
        }
    }

    /// A shard failed: it goes offline and its replicas take over.
    pub fn shard_failed(&self, shard: &Shard, error: &Error) {
        let was_open = shard.is_open();
        let news = shard.fail(error);
        // What is tried again and again with one that is offline changes nothing.
        if was_open || news {
            self.health_changed();
        }
        if news {
            // Others answer for it, who may know better.
            self.changed.corrected();
            self.tell_fault(shard);
            self.signals.want_change();
        }
    }

    /// A shard could not be flushed to: it is offline, or, where it was refused the writing alone or met a damaged page, goes
    /// on being read for as long as nothing is forgotten that it lacks.
    pub fn flush_failed(&self, shard: &Shard, error: &Error) {
        if !stays_readable(error) {
            return self.shard_failed(shard, error);
        }
        let before = (shard.is_open(), shard.is_stalled());
        let news = shard.stall(error);
        if news {
            self.tell_fault(shard);
        }
        if news || before != (shard.is_open(), shard.is_stalled()) {
            self.health_changed();
        }
        self.signals.want_change();
    }

    /// A shard could not be written to beside its flushes. One that was only refused the writing lacks nothing, nor does one that met
    /// a damaged page, which is put right while the others are read.
    pub fn write_failed(&self, shard: &Shard, error: &Error) {
        match error.kind() {
            _ if error.is_refusal_to_write() => self.flush_failed(shard, error),
            ErrorKind::Corruption if shard.serves() => self.read_failed(shard, error),
            _ => self.shard_failed(shard, error),
        }
    }

    /// Tells what is wrong with a shard, if anything is.
    pub fn tell_fault(&self, shard: &Shard) {
        let kind = match shard.health() {
            Health::Offline(cause) => EventKind::Offline { cause },
            Health::Degraded(cause) => EventKind::Degraded { cause },
            Health::Rebuilding => EventKind::Rebuilding { cause: "it was being filled".to_owned() },
            _ => return,
        };
        self.events.tell(Some(shard.id), kind);
    }

    /// Changes whenever other shards may serve than before.
    pub fn health_version(&self) -> u64 {
        self.health_version.load(Ordering::Acquire)
    }

    /// Recomputes what depends on which shards serve.
    pub fn health_changed(&self) {
        self.health_version.fetch_add(1, Ordering::AcqRel);
        self.records.clear();
        self.gaps.note(|| self.first_uncovered().is_some());
    }

    /// Every write up to this one has left the memtables, and what shards that are read hold is complete up to there. It is more when the next
    /// flush is done: who has the turn to flush knows that it stays so.
    pub fn forgotten_up_to(&self) -> Seq {
        self.memory.forgotten()
    }

    /// A virtual node of which no shard holds everything, among those `counts` counts.
    pub fn first_without(&self, counts: impl Fn(&Shard) -> bool) -> Option<crate::ids::VirtualNode> {
        let layout = self.layout();
        let counted: Vec<bool> = layout.shards.iter().map(|shard| counts(shard)).collect();
        cover::first_uncovered(&layout.ring, &counted)
    }

    /// A virtual node that no serving shard holds, if there is one.
    pub fn first_uncovered(&self) -> Option<crate::ids::VirtualNode> {
        self.first_without(Shard::serves)
    }

    /// Errors if no serving shard holds the internal key, so that a write is not taken that could never be flushed.
    pub fn check_writable(&self, key: &[u8]) -> Result<()> {
        if !self.gaps.any() {
            return Ok(());
        }
        let layout = self.layout();
        let owners = layout.owners_at(layout.ring.position(batch::user_key(key)));
        if owners.iter().any(|i| layout.shards.get(usize::from(*i)).is_some_and(|s| s.serves())) {
            return Ok(());
        }
        Err(unavailable(&layout, owners, None))
    }

    /// Records a duration in the log when it is long enough to be asked about.
    pub fn log_slow(&self, what: &str, since: Instant) {
        let took = since.elapsed();
        if took.as_secs() >= 5 {
            log::warn!("{what} took {:.1} s at {}", took.as_secs_f64(), self.dir.display());
        }
    }
}

fn closed(dir: &std::path::Path) -> Error {
    Error::new(ErrorKind::Closed, "the store has been closed").at(dir).remedy("open it again")
}

/// The error for a key none of whose owners can answer.
fn unavailable(layout: &Layout, owners: &[u16], cause: Option<Error>) -> Error {
    let names: Vec<String> = owners
        .iter()
        .filter_map(|i| layout.shards.get(usize::from(*i)))
        .map(|s| format!("shard {} at {}", s.id, s.dir.display()))
        .collect();
    let text = format!("no shard that holds the key can answer: {}", names.join(", "));
    let error = Error::new(ErrorKind::Unavailable, text)
        .remedy("bring one of them back; the rest of the store goes on");
    match cause {
        Some(cause) => error.caused_by(cause),
        None => error,
    }
}
