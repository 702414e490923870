//! The change of the topology that is under way: what it is at, what its handles ask of it, and how hard it may work.
//!
//! Invariants: one change at a time; what has become of the last ones is remembered, so that a handle that waits late still
//! learns it; a step that failed leaves its cause here until one succeeds.

use super::caught::Caught;
use super::foreground::Foreground;
use super::transfer::Counted;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Seq, ShardId};
use crate::manifest::{ChangeEntry, ChangeStep};
use crate::shard::{Layout, Places, Shard, Worker};
use crate::sync::{Condvar, Instant, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Of so many ended changes it is remembered what became of them; an older one counts as completed.
const REMEMBERED: usize = 1024;

/// What a change of the topology is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// New owners get copies of what they gain, and every write.
    Copying,
    /// The copies are compared with their sources.
    Verifying,
    /// The new placement serves; what its shards no longer own is removed from them.
    Cleaning,
    /// All is done.
    Completed,
    /// It was cancelled, and the old placement stands.
    Cancelled,
}

/// How far a change of the topology has got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The epoch that the change leads to.
    pub epoch: Epoch,
    /// What it is at.
    pub phase: Phase,
    /// Whether it rests until it is resumed.
    pub paused: bool,
    /// Keys and values copied so far, in bytes, over all target shards.
    pub bytes_copied: u64,
    /// Versions of records copied so far.
    pub records_copied: u64,
    /// What is to be copied in all, in bytes, as estimated by the plan.
    pub bytes_planned: u64,
    /// How much of all work has been done, from 0 to 1; an estimate.
    pub fraction: f64,
    /// The limit that was set, in bytes a second; none: it gives way to reads and writes by itself.
    pub rate: Option<u64>,
    /// Why it cannot go on at the moment, if so; it is tried again.
    pub error: Option<String>,
}

/// What is remembered of the change under way.
#[derive(Debug)]
pub struct Control {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The turn to take a step: the first lock of all. Held over its I/O.
    pub mover: Mutex<Mover>,
    pub foreground: Foreground,
    pub places: Places,
}

#[derive(Debug, Default)]
struct Inner {
    current: Option<Epoch>,
    phase: Option<Phase>,
    paused: bool,
    rate: Option<u64>,
    bytes: u64,
    records: u64,
    planned: u64,
    compared: u64,
    /// Which part of the old copies is gone.
    cleaned: f64,
    error: Option<Error>,
    ended: BTreeMap<Epoch, Progress>,
}

/// What only the one who takes the steps sees.
#[derive(Debug, Default)]
pub struct Mover {
    /// Where to go on in the phase at hand.
    pub position: Vec<u8>,
    /// Bytes copied since the targets were sealed last.
    pub unsealed: u64,
    /// Whether the targets' seals say that they are being changed.
    pub begun: bool,
    /// The newest write that the opening replayed: a shard may have it, or be given it, while others do not.
    pub replayed: Seq,
    /// Whether all shards have been seen to be complete up to one sequence, since the store was opened.
    pub level: bool,
    /// Whether all copies have been found equal to their sources.
    pub compared: bool,
    /// Shards with damage that nobody can put right for now, and what is said of it once they serve.
    pub left: Vec<(ShardId, Error)>,
    /// Layouts that were replaced and may still be read by.
    pub grace: Vec<Grace>,
    /// The shards that are being rid of what they do not own.
    pub sweeps: Vec<Sweep>,
    /// The shards that are being filled: of each how far, so that one which fails again and again takes nothing of that from another.
    pub fills: Vec<Fill>,
    /// Those for which the last step of healing found that a flush must come first.
    pub unflushed: Vec<ShardId>,
    /// Those whose pages are being verified.
    pub menders: Vec<Mender>,
    /// Those that are to be filled from others, which are being verified first.
    pub proofs: Vec<Proof>,
    /// A shard that fails, and in which no damage was found: it is to be begun anew if those have been verified that it is to be filled from.
    pub anew: Option<ShardId>,
    /// What the scrub under way knows from counting shards' pages.
    pub counted: Counted,
    /// Shards that have been, durably, since they lost something last, and are yet to be said to be clean.
    pub swept: Vec<ShardId>,
    /// Of the shard that was given a piece of the journal last.
    pub caught: Option<Caught>,
    /// When the directories of shards that were given up could not be cleared last.
    pub unsettled: Option<Instant>,
    /// The workers of shards that are in no layout yet, or any more: what hangs on one is known from it.
    pub beside: Vec<(ShardId, Arc<Worker>)>,
}

impl Mover {
    /// How far a shard has been gone through, if that has begun.
    pub fn sweep_of(&mut self, shard: ShardId) -> Option<&mut Sweep> {
        self.sweeps.iter_mut().find(|sweep| sweep.shard == shard)
    }

    /// How far a shard has been filled; where that begins, or goes on after a failure, from there.
    pub fn fill_of(&mut self, shard: ShardId, from: impl FnOnce() -> Vec<u8>) -> &mut Fill {
        let found = self.fills.iter().position(|fill| fill.shard == shard);
        let place = found.unwrap_or(self.fills.len());
        if found.is_none() {
            self.fills.push(Fill::of(shard, from()));
        }
        &mut self.fills[place]
    }

    /// Ends the filling of a shard, for now or for good.
    pub fn end_fill(&mut self, shard: ShardId) -> Option<Fill> {
        let place = self.fills.iter().position(|fill| fill.shard == shard)?;
        Some(self.fills.swap_remove(place))
    }

    /// How far a shard has been looked through; from the beginning, where that begins.
    pub fn mender_of(&mut self, shard: ShardId, health: u64) -> &mut Mender {
        let found = self.menders.iter().position(|mender| mender.shard == shard);
        let place = found.unwrap_or(self.menders.len());
        if found.is_none() {
            self.menders.push(Mender::of(shard, health));
        }
        &mut self.menders[place]
    }

    /// Whether a shard is being looked through.
    pub fn is_mending(&self, shard: ShardId) -> bool {
        self.menders.iter().any(|mender| mender.shard == shard)
    }

    /// Ends that.
    pub fn end_mending(&mut self, shard: ShardId) -> Option<Mender> {
        let place = self.menders.iter().position(|mender| mender.shard == shard)?;
        Some(self.menders.swap_remove(place))
    }

    /// What is known of those that a shard is to be filled from.
    pub fn proof_of(&mut self, shard: ShardId) -> &mut Proof {
        let found = self.proofs.iter().position(|proof| proof.of == shard);
        let place = found.unwrap_or(self.proofs.len());
        if found.is_none() {
            self.proofs.push(Proof::of(shard));
        }
        &mut self.proofs[place]
    }

    /// Nothing of that is needed any more, or right; or it is put off, and what has been verified long ago says nothing of then.
    pub fn end_proof(&mut self, shard: ShardId) {
        self.proofs.retain(|proof| proof.of != shard);
    }

    /// Forgets what was begun for shards that are none of the ring's any more.
    pub fn forget_others(&mut self, is_there: impl Fn(ShardId) -> bool) {
        self.fills.retain(|fill| is_there(fill.shard));
        self.menders.retain(|mender| is_there(mender.shard));
        self.proofs.retain(|proof| is_there(proof.of));
        self.anew.take_if(|shard| !is_there(*shard));
    }

    /// A shard lost what it had been given since it was last sealed, or began anew.
    pub fn reopened(&mut self, shard: ShardId, change: Option<&ChangeEntry>) {
        (self.level, self.compared, self.begun) = (false, false, false);
        self.position = match change {
            Some(change) if change.step == ChangeStep::Copying => change.position.clone(),
            _ => Vec::new(),
        };
        self.sweeps.retain(|sweep| sweep.shard != shard);
        self.left.retain(|(id, _)| *id != shard);
        self.fills.retain(|fill| fill.shard != shard);
        self.menders.retain(|mender| mender.shard != shard);
        self.anew.take_if(|anew| *anew == shard);
        let names =
            |proof: &Proof| proof.of == shard || proof.at == Some(shard) || proof.whole.contains_key(&shard);
        self.proofs.retain(|proof| !names(proof));
        // How much was flushed since it was given the journal last says nothing of now.
        self.caught.take_if(|caught| caught.shard == shard);
    }

    /// The worker of a shard that is in no layout; there is one from here on.
    pub fn worker_beside(&mut self, shard: ShardId, background: bool) -> Result<Arc<Worker>> {
        if let Some((_, worker)) = self.beside.iter().find(|(id, _)| *id == shard) {
            return Ok(worker.clone());
        }
        let worker = Arc::new(Worker::start(shard, background)?);
        self.beside.push((shard, worker.clone()));
        Ok(worker)
    }

    /// Takes note of a layout that was replaced, whatever for: whoever reads by it does so until done, also when yet another
    /// has taken the place of the one after it.
    pub fn replaced(&mut self, layout: &Arc<Layout>, leaving: Vec<(Arc<Shard>, Arc<Worker>)>) {
        self.grace.retain(|grace| grace.layout.strong_count() > 0 || !grace.leaving.is_empty());
        self.grace.push(Grace { layout: Arc::downgrade(layout), leaving });
    }
}

/// A layout that was replaced, and the shards that only it names: they are closed when nobody reads by it any more.
#[derive(Debug)]
pub struct Grace {
    pub layout: Weak<Layout>,
    pub leaving: Vec<(Arc<Shard>, Arc<Worker>)>,
}

/// How far a shard has been rid of what it does not own.
#[derive(Debug)]
pub struct Sweep {
    pub shard: ShardId,
    /// Where to go on.
    pub position: Vec<u8>,
}

/// A shard whose pages are being verified, and replaced where they are damaged.
#[derive(Debug)]
pub struct Mender {
    pub shard: ShardId,
    pub position: Vec<u8>,
    pub repaired: u64,
    pub left: u64,
    /// How many of those for want of a replica that has them.
    pub lacking: u64,
    /// Why pages were left.
    pub cause: Option<Error>,
    /// The [health of the shards](super::State::health_version) when it was begun.
    pub health: u64,
    /// How long has been worked at it.
    pub worked: Duration,
}

impl Mender {
    fn of(shard: ShardId, health: u64) -> Mender {
        let (position, worked) = (Vec::new(), Duration::ZERO);
        Mender { shard, position, repaired: 0, left: 0, lacking: 0, cause: None, health, worked }
    }
}

/// What is known of those that a shard is to be filled from.
#[derive(Debug)]
pub struct Proof {
    pub of: ShardId,
    /// They have been verified; how often damage had been met in each when that was begun.
    pub whole: BTreeMap<ShardId, u64>,
    /// The one that is being verified, the same of it, and where to go on in it.
    pub at: Option<ShardId>,
    pub met: u64,
    pub position: Vec<u8>,
}

impl Proof {
    fn of(shard: ShardId) -> Proof {
        Proof { of: shard, whole: BTreeMap::new(), at: None, met: 0, position: Vec::new() }
    }
}

/// A shard that is being filled.
#[derive(Debug)]
pub struct Fill {
    pub shard: ShardId,
    /// What lies below it has been copied, or compared.
    pub position: Vec<u8>,
    pub comparing: bool,
    /// Bytes that were copied since the shard was sealed last.
    pub unsealed: u64,
    /// Whether its seal says that it is being changed.
    pub begun: bool,
    pub level: bool,
    pub bytes: u64,
    pub since: Instant,
}

impl Fill {
    fn of(shard: ShardId, position: Vec<u8>) -> Fill {
        Fill {
            shard,
            position,
            comparing: false,
            unsealed: 0,
            begun: false,
            level: false,
            bytes: 0,
            since: Instant::now(),
        }
    }
}

impl Control {
    /// With the change that was found at an opening, if there was one, and the newest write that it replayed.
    pub fn new(found: Option<&ChangeEntry>, replayed: Seq) -> Control {
        let control = Control {
            inner: Mutex::default(),
            changed: Condvar::new(),
            mover: Mutex::new(Mover { replayed, ..Mover::default() }),
            foreground: Foreground::default(),
            places: Places::default(),
        };
        if let Some(change) = found {
            control.begin(change.next.epoch, (change.records, change.bytes), change.planned);
        }
        control
    }

    /// The epoch that the change under way leads to.
    pub fn current(&self) -> Option<Epoch> {
        self.inner.lock().current
    }

    /// A change begins, or goes on after an opening, with so much copied and in all to copy.
    pub fn begin(&self, epoch: Epoch, (records, bytes): (u64, u64), planned: u64) {
        let mut inner = self.inner.lock();
        let ended = std::mem::take(&mut inner.ended);
        let phase = Some(Phase::Copying);
        *inner = Inner { current: Some(epoch), phase, records, bytes, planned, ended, ..Inner::default() };
        self.foreground.watch(true);
        self.changed.notify_all();
    }

    /// So many versions of records, and bytes of them, have been copied.
    pub fn copied_more(&self, records: u64, bytes: u64) {
        self.worked(Phase::Copying, |inner| {
            inner.records += records;
            inner.bytes += bytes;
        });
    }

    /// So many bytes have been compared.
    pub fn compared_more(&self, bytes: u64) {
        self.worked(Phase::Verifying, |inner| inner.compared += bytes);
    }

    /// Old copies are being removed, and such a part of them is gone.
    pub fn clean(&self, part: f64) {
        self.worked(Phase::Cleaning, |inner| inner.cleaned = part);
    }

    fn worked(&self, phase: Phase, f: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        if inner.current.is_some() {
            inner.phase = Some(phase);
            inner.error = None;
            f(&mut inner);
        }
    }

    /// Versions of records, and bytes of them, copied so far.
    pub fn copied(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.records, inner.bytes)
    }

    /// A step failed.
    pub fn failed(&self, error: &Error) {
        self.inner.lock().error = Some(error.clone());
        self.changed.notify_all();
    }

    /// The change is over, one way or the other.
    pub fn end(&self, phase: Phase) {
        let mut inner = self.inner.lock();
        if let Some(epoch) = inner.current.take() {
            let progress = Progress { paused: false, error: None, ..inner.progress(epoch, phase) };
            inner.ended.insert(epoch, progress);
            while inner.ended.len() > REMEMBERED {
                inner.ended.pop_first();
            }
        }
        (inner.phase, inner.error) = (None, None);
        self.foreground.watch(false);
        self.changed.notify_all();
    }

    pub fn pause(&self, epoch: Epoch, paused: bool) -> Result<()> {
        self.with_current(epoch, |inner| inner.paused = paused)
    }

    pub fn set_rate(&self, epoch: Epoch, rate: Option<u64>) -> Result<()> {
        self.with_current(epoch, |inner| inner.rate = rate)
    }

    fn with_current(&self, epoch: Epoch, f: impl FnOnce(&mut Inner)) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.current != Some(epoch) {
            return Err(over(epoch, inner.phase_of(epoch)));
        }
        f(&mut inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Errors unless the change that leads to `epoch` is under way.
    pub fn check_current(&self, epoch: Epoch) -> Result<()> {
        self.with_current(epoch, |_| ())
    }

    /// Whether there is one, and it rests.
    pub fn is_paused(&self) -> bool {
        let inner = self.inner.lock();
        inner.paused && inner.current.is_some()
    }

    pub fn rate(&self) -> Option<u64> {
        self.inner.lock().rate
    }

    /// How far the change that leads, or led, to `epoch` has got.
    pub fn progress(&self, epoch: Epoch) -> Progress {
        let inner = self.inner.lock();
        match inner.ended.get(&epoch) {
            Some(progress) => progress.clone(),
            None if inner.current == Some(epoch) => {
                inner.progress(epoch, inner.phase.unwrap_or(Phase::Copying))
            }
            None => Inner::default().progress(epoch, Phase::Completed),
        }
    }

    /// Waits until the change that leads to `epoch` is over, or `limit` has passed: then none. An error if a step failed;
    /// the change is then still under way.
    pub fn wait(&self, epoch: Epoch, limit: Option<Duration>) -> Result<Option<Phase>> {
        // One beyond all time is none.
        let end = limit.and_then(|limit| crate::sync::Instant::now().checked_add(limit));
        let mut inner = self.inner.lock();
        loop {
            if inner.current != Some(epoch) {
                return Ok(Some(inner.phase_of(epoch)));
            }
            if let Some(error) = &inner.error {
                return Err(error.clone());
            }
            match end {
                None => self.changed.wait(&mut inner),
                Some(end) if self.changed.wait_until(&mut inner, end).timed_out() => return Ok(None),
                Some(_) => {}
            }
        }
    }
}

impl Inner {
    /// How far the change has got that these figures are of.
    fn progress(&self, epoch: Epoch, phase: Phase) -> Progress {
        Progress {
            epoch,
            phase,
            paused: self.paused,
            bytes_copied: self.bytes,
            records_copied: self.records,
            bytes_planned: self.planned,
            fraction: fraction(phase, self),
            rate: self.rate,
            error: self.error.as_ref().map(ToString::to_string),
        }
    }

    /// How a change that is over ended.
    fn phase_of(&self, epoch: Epoch) -> Phase {
        self.ended.get(&epoch).map_or(Phase::Completed, |progress| progress.phase)
    }
}

/// Copying is about two thirds of the work, comparing and removing a sixth each.
fn fraction(phase: Phase, inner: &Inner) -> f64 {
    let part = |done: u64, of: u64| (done as f64 / of.max(1) as f64).min(1.0);
    match phase {
        Phase::Copying => part(inner.bytes, inner.planned) * 0.66,
        Phase::Verifying => 0.66 + part(inner.compared, inner.bytes) * 0.17,
        Phase::Cleaning => 0.83 + inner.cleaned * 0.17,
        Phase::Completed => 1.0,
        Phase::Cancelled => 0.0,
    }
}

fn over(epoch: Epoch, ended: Phase) -> Error {
    let text = match ended {
        Phase::Cancelled => format!("the change to epoch {epoch} was cancelled"),
        _ => format!("the change to epoch {epoch} is over"),
    };
    Error::new(ErrorKind::NotFound, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_changes_are_remembered_and_the_oldest_is_forgotten_first() {
        let control = Control::new(None, Seq::ZERO);
        let cancel = |epoch: u64| {
            control.begin(Epoch(epoch), (epoch, 10 * epoch), 100 * epoch);
            control.end(Phase::Cancelled);
        };
        (1..=REMEMBERED as u64).for_each(cancel);
        for epoch in [1, 2, REMEMBERED as u64] {
            let progress = control.progress(Epoch(epoch));
            assert_eq!((progress.phase, progress.records_copied), (Phase::Cancelled, epoch));
            assert_eq!(control.wait(Epoch(epoch), None).unwrap(), Some(Phase::Cancelled));
        }
        cancel(REMEMBERED as u64 + 1);
        assert_eq!(control.progress(Epoch(1)).phase, Phase::Completed);
        assert_eq!(control.progress(Epoch(2)).phase, Phase::Cancelled);
    }

    #[test]
    fn a_change_that_is_over_neither_rests_nor_has_failed() {
        let control = Control::new(None, Seq::ZERO);
        control.begin(Epoch(2), (0, 0), 0);
        control.pause(Epoch(2), true).unwrap();
        control.failed(&Error::new(ErrorKind::Io, "a step failed"));
        let progress = control.progress(Epoch(2));
        assert!(progress.paused && progress.error.is_some());
        control.end(Phase::Cancelled);
        let progress = control.progress(Epoch(2));
        assert!(!progress.paused && progress.error.is_none());
        assert_eq!(control.wait(Epoch(2), None).unwrap(), Some(Phase::Cancelled));
    }

    /// What one shard has lost says nothing of others, but for the change, whose targets are sealed together.
    #[test]
    fn a_shard_that_is_opened_again_begins_again_and_others_go_on() {
        let entry = |step| ChangeEntry {
            next: crate::ring::Ring::plan(
                vec![crate::ring::Member::new(ShardId(0))],
                1,
                16,
                crate::ring::Partitioner::Whole,
            )
            .unwrap()
            .topology()
            .clone(),
            step,
            position: b"copied to here".to_vec(),
            records: 0,
            bytes: 0,
            planned: 0,
        };
        let copying = entry(ChangeStep::Copying);
        let verifying = entry(ChangeStep::Verifying);
        for (change, due) in [(Some(&copying), &b"copied to here"[..]), (Some(&verifying), b""), (None, b"")]
        {
            for lost in [1, 2] {
                let shard = ShardId(1);
                let sweep = |shard| Sweep { shard: ShardId(shard), position: Vec::new() };
                let mut mover = Mover {
                    position: b"further".to_vec(),
                    begun: true,
                    level: true,
                    compared: true,
                    sweeps: vec![sweep(1), sweep(3)],
                    fills: [1, 3].map(|shard| Fill::of(ShardId(shard), Vec::new())).into(),
                    menders: [1, 3].map(|shard| Mender::of(ShardId(shard), 0)).into(),
                    proofs: [1, 3].map(|shard| Proof::of(ShardId(shard))).into(),
                    left: [1, 3].map(|shard| (ShardId(shard), Error::corruption("not cleared"))).into(),
                    caught: Some(Caught::begin(shard, Seq(7), Seq(5))),
                    ..Mover::default()
                };
                mover.reopened(ShardId(lost), change);
                assert_eq!((mover.begun, mover.level, mover.compared), (false, false, false));
                assert_eq!(mover.position, due);
                let goes_on = lost != 1;
                for shard in [shard, ShardId(3)] {
                    let goes_on = goes_on || shard == ShardId(3);
                    assert_eq!(mover.end_fill(shard).is_some(), goes_on);
                    assert_eq!(mover.end_mending(shard).is_some(), goes_on);
                    assert_eq!(mover.proofs.iter().any(|proof| proof.of == shard), goes_on);
                    assert_eq!(mover.left.iter().any(|(left, _)| *left == shard), goes_on);
                }
                assert_eq!(mover.caught.is_some(), goes_on);
                assert_eq!(mover.sweep_of(shard).is_some(), goes_on);
                assert!(mover.sweep_of(ShardId(3)).is_some());
            }
        }
    }
}
