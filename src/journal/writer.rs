//! Writing: what waits goes to the operating system, or past its cache to the disk.
//!
//! Invariants:
//! - One write at a time, in the order of the sequences, each ending with markers, so that after the death of the
//!   process what is readable is a prefix. The lock on [`Writer`] is what makes it one at a time.
//! - Frames are written past the cache only when every frame before them is durable: such a write makes its own bytes
//!   durable and no others.
//! - Once a write has failed nothing is acknowledged any more.
//!
//! One write past the cache takes the place of a write and a sync: it costs a copy and the system's looking for dirty
//! pages less. Where others only hand over (`Process`), the cache serves them better, and a sync serves all.

use super::Journal;
use super::chunk::Chunk;
use super::log::{Piece, Taken};
use super::segment::{self, TRAILER_BYTES};
use super::supply::Ready;
use crate::error::{Error, Result};
use crate::frame::Kind;
use crate::ids::Seq;
use crate::plants;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use std::sync::Arc;

/// So many syncs in a row must have found nothing handed over by others before one goes past the cache: a write that only
/// wants to be handed over would have to wait for it.
const CALM: u32 = 2;
/// How often one that wants to hand over looks whether another did it, before it sleeps: a write takes about a
/// microsecond, sleeping and waking several.
const LOOKS: u32 = 32;
/// So many of the looks, the first ones, keep the processor.
const SHORT_LOOKS: u32 = 6;

/// What the writer's lock protects.
#[derive(Debug)]
pub struct Writer {
    /// The buffer that is not in use.
    spare: Chunk,
    /// Full segments with frames that no sync has covered yet, oldest first.
    unsynced: Vec<Arc<Ready>>,
    /// Whether the current segment has such frames.
    dirty: bool,
    /// Whether the last write went past the cache. The next one into the cache is of whole blocks then, since for a part
    /// of one the system would have to read the rest from the disk.
    cold: bool,
    /// How many syncs in a row found nothing handed over by others.
    calm: u32,
    /// What the last markers said is durable.
    marked: Seq,
}

impl Writer {
    pub fn new(durable: Seq) -> Self {
        Writer {
            spare: Chunk::default(),
            unsynced: Vec::new(),
            dirty: false,
            cold: false,
            calm: 0,
            marked: durable,
        }
    }

    fn may_go_through(&self, taken: &Taken) -> bool {
        if acknowledges_early() {
            return false;
        }
        let able = taken.pieces().all(|piece| piece.segment.through.is_some());
        let clean = !self.dirty || plants::is("journal-past-the-cache-before-the-rest");
        able && clean && self.unsynced.is_empty() && self.calm > CALM && !taken.is_empty()
    }
}

fn acknowledges_early() -> bool {
    plants::is("journal-acks-before-sync")
}

impl Journal {
    /// Returns when every frame up to `seq`, an appended one, has been handed to the operating system: by this call, or
    /// together with others by another.
    ///
    /// # Errors
    /// `Poisoned`: this write, or an earlier write or sync, failed; reopen. `Closed`.
    pub fn hand_to(&self, seq: Seq) -> Result<()> {
        let handed = || self.counters.handed.load(Ordering::Acquire) >= seq.0;
        for look in 0..LOOKS {
            if handed() {
                return Ok(());
            }
            if let Some(writer) = self.writer.try_lock() {
                return self.hand_over(writer, seq);
            }
            if look < SHORT_LOOKS {
                (0..1 << look).for_each(|_| std::hint::spin_loop());
            } else {
                crate::sync::thread::yield_now();
            }
        }
        self.hand_over(self.writer.lock(), seq)
    }

    fn hand_over(&self, mut writer: MutexGuard<'_, Writer>, seq: Seq) -> Result<()> {
        if self.counters.handed.load(Ordering::Acquire) >= seq.0 {
            return Ok(());
        }
        let _turn = self.enter()?;
        let taken = self.log.lock().take(&mut writer.spare);
        writer.calm = 0;
        self.write(&mut writer, taken, false).map(drop)
    }

    /// Hands buffered frames to the operating system, and lets it know what has become durable. To be called every
    /// 50 ms or so: it bounds what the death of the process can take of buffered frames.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`.
    pub fn write_buffered(&self) -> Result<()> {
        self.health.check()?;
        let mut writer = self.writer.lock();
        let _turn = self.enter()?;
        let mut log = self.log.lock();
        if !log.waits() && writer.marked >= self.durable() {
            return Ok(());
        }
        let taken = log.take(&mut writer.spare);
        drop(log);
        self.write(&mut writer, taken, false).map(drop)
    }

    /// Writes all that waits and makes it durable. Only whoever leads may call it. Others append meanwhile, and, while
    /// the disk syncs, write.
    pub(super) fn sync_now(&self) -> Result<Seq> {
        let mut writer = self.writer.lock();
        let _turn = self.enter()?;
        let taken = self.log.lock().take(&mut writer.spare);
        writer.calm = writer.calm.saturating_add(1);
        if writer.may_go_through(&taken) {
            return self.write(&mut writer, taken, true);
        }
        let current = taken.last.segment.clone();
        let target = if taken.is_empty() { taken.target() } else { self.write(&mut writer, taken, false)? };
        let mut full = std::mem::take(&mut writer.unsynced);
        if plants::is("journal-full-segment-not-synced") {
            full.clear();
        }
        let dirty = std::mem::take(&mut writer.dirty);
        drop(writer);
        if plants::is("durable-before-the-sync") {
            self.group.raise(target);
        }
        full.iter().chain(dirty.then_some(&current)).try_for_each(|segment| self.sync_segment(segment))?;
        Ok(target)
    }

    fn sync_segment(&self, segment: &Ready) -> Result<()> {
        self.health.check()?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if acknowledges_early() {
            return Ok(());
        }
        match segment.file.sync_data() {
            Err(e) if !plants::is("journal-sync-error-ignored") => {
                Err(self.poison(Error::io("sync the journal", &segment.path, e)))
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable, says so in the file, and keeps more from coming. Only whoever leads may call it.
    pub(super) fn finish(&self) -> Result<Seq> {
        let mut writer = self.writer.lock();
        let _turn = self.enter()?;
        // Held to the end, so that no frame comes in behind what is synced.
        let mut log = self.log.lock();
        let taken = log.take(&mut writer.spare);
        let current = taken.last.segment.clone();
        let target = self.write(&mut writer, taken, false)?;
        for segment in std::mem::take(&mut writer.unsynced) {
            self.sync_segment(&segment)?;
        }
        self.sync_segment(&current)?;
        self.group.raise(target);
        let taken = log.take(&mut writer.spare);
        self.write(&mut writer, taken, false)?;
        self.sync_segment(&current)?;
        self.health.closed.store(true, Ordering::Release);
        Ok(target)
    }

    /// Writes what was taken, with markers; `through`: and waits for the disk.
    fn write(&self, writer: &mut Writer, taken: Taken, through: bool) -> Result<Seq> {
        let target = taken.target();
        for piece in taken.full.into_iter().chain([taken.last]) {
            self.put(writer, piece, through)?;
        }
        // A sync may have failed meanwhile: the system may have given up what lies before these frames.
        self.health.check()?;
        self.counters.handed.store(target.0, Ordering::Release);
        Ok(target)
    }

    fn put(&self, writer: &mut Writer, piece: Piece, through: bool) -> Result<()> {
        let Piece { segment, mut chunk, next, followed } = piece;
        let (header, durable) = (segment.header, self.durable());
        let frames = chunk.pending() > 0;
        let kind = if followed.is_some() { Kind::End } else { Kind::Tail };
        segment::push_trailer(
            chunk.room(TRAILER_BYTES),
            segment.salt,
            header.generation,
            kind,
            next,
            durable,
        );
        let (at, bytes) = if through || writer.cold { chunk.blocks() } else { chunk.tail() };
        let written = match &segment.through {
            Some(file) if through => {
                self.counters.syncs.fetch_add(1, Ordering::Relaxed);
                self.counters.through.fetch_add(1, Ordering::Relaxed);
                file.write_at(at, bytes).inspect_err(|_| {
                    // As after a failed sync: what is readable stays a prefix until the machine stops.
                    let _ = segment.file.write_at(at, bytes);
                })
            }
            _ => segment.file.write_at(at, bytes),
        };
        written.map_err(|e| self.poison(Error::io("write the journal", &segment.path, e).offset(at)))?;
        self.counters.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        writer.marked = durable;
        chunk.clear(0);
        writer.spare = chunk;
        match followed {
            Some(next) => {
                (writer.cold, writer.dirty) = (false, false);
                if !through {
                    writer.unsynced.push(segment);
                }
                self.retained.lock().push_back(next);
            }
            None => {
                writer.cold = through;
                writer.dirty |= frames && !through;
            }
        }
        Ok(())
    }
}
