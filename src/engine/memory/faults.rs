//! Faults that tests inject: what fails, panics or hangs, what cannot be read, and what a shard loses or forgets without a
//! word. All by the shard's id, at any moment, from any thread.
//!
//! Invariants: a call that hangs holds no lock, so others of the same shard go on; what is changed without a word leaves the
//! figures as they are, so a recount finds it; what cannot be read is found by verifying.

use super::MemoryFactory;
use super::shard::{self, Shard, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::KeyRange;
use crate::sync::{Condvar, Mutex};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long a test waits for a call to hang before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a test can make fail, panic or hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Open,
    Get,
    /// Opening a cursor, each of its steps, and copying versions out.
    Cursor,
    /// Copying versions out alone.
    Versions,
    /// And removing a range. Half of the run is applied first. The engine then stays failed until it is opened again, as
    /// sled's does.
    Apply,
    /// Nothing is changed. The engine then stays failed until it is opened again, as sled's does.
    Replace,
    /// The engine then stays failed until it is opened again, as sled's does.
    Sync,
    Verify,
    /// Asking what is damaged.
    Damaged,
    Recount,
    /// Asking for the size on disk.
    Size,
    /// Closing by name; a drop closes in any case.
    Close,
}

/// What an operation does instead of its work, or before it.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    what: What,
    /// How often; none: for good.
    left: Option<u32>,
}

#[derive(Debug, Clone)]
enum What {
    Io,
    Panic,
    Hang(Gate),
    Slow(Duration),
}

/// Where calls hang until it is opened. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<Passage>, Condvar)>);

#[derive(Debug, Default)]
struct Passage {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// Waits until at least so many calls hang here; false after a minute in vain.
    pub fn wait_for(&self, calls: usize) -> bool {
        let mut passage = self.0.0.lock();
        let wanted = |passage: &mut Passage| passage.waiting < calls;
        !self.0.1.wait_while_for(&mut passage, wanted, PATIENCE).timed_out()
    }

    /// How many calls hang here now.
    pub fn waiting(&self) -> usize {
        self.0.0.lock().waiting
    }

    /// Lets all calls go on that hang here, and all that come later through.
    pub fn release(&self) {
        self.0.0.lock().open = true;
        self.0.1.notify_all();
    }

    /// False if it was not opened within `limit`.
    fn pass(&self, limit: Option<Duration>) -> bool {
        let mut passage = self.0.0.lock();
        passage.waiting += 1;
        self.0.1.notify_all();
        match limit {
            Some(limit) => {
                self.0.1.wait_while_for(&mut passage, |passage: &mut Passage| !passage.open, limit);
            }
            None => {
                while !passage.open {
                    self.0.1.wait(&mut passage);
                }
            }
        }
        passage.waiting -= 1;
        self.0.1.notify_all();
        passage.open
    }
}

impl MemoryFactory {
    /// From now on, `operation` fails on `shard` with an I/O error.
    pub fn fail(&self, shard: ShardId, operation: Operation) {
        self.inject(shard, operation, What::Io, None);
    }

    /// The next `times` times `operation` is called on `shard`, it fails with an I/O error.
    pub fn fail_times(&self, shard: ShardId, operation: Operation, times: u32) {
        self.inject(shard, operation, What::Io, Some(times));
    }

    /// The next `times` times `operation` is called on `shard`, it panics, before it has done anything.
    pub fn panic_times(&self, shard: ShardId, operation: Operation, times: u32) {
        self.inject(shard, operation, What::Panic, Some(times));
    }

    /// From now on, `operation` hangs on `shard`, before it has done anything, until the gate is opened or the shard healed.
    pub fn hang(&self, shard: ShardId, operation: Operation) -> Gate {
        let gate = Gate::default();
        self.inject(shard, operation, What::Hang(gate.clone()), None);
        gate
    }

    /// From now on, `operation` takes so much longer on `shard`.
    pub fn slow(&self, shard: ShardId, operation: Operation, longer: Duration) {
        self.inject(shard, operation, What::Slow(longer), None);
    }

    fn inject(&self, shard: ShardId, operation: Operation, what: What, left: Option<u32>) {
        let before = self.0.lock().faults.insert((shard, operation), Fault { what, left });
        // Nobody could open it any more.
        if let Some(Fault { what: What::Hang(gate), .. }) = before {
            gate.release();
        }
    }

    /// From now on, whatever meets `key` on `shard` reports corruption.
    pub fn corrupt(&self, shard: ShardId, key: &[u8]) {
        self.corrupt_range(shard, KeyRange { lo: key.to_vec(), hi: Some([key, &[0]].concat()) });
    }

    /// From now on, whatever meets `range` on `shard` reports corruption, as if it were one page that cannot be read. What
    /// replaces the whole of it puts it right. Damage that it meets is of the same page from then on.
    pub fn corrupt_range(&self, shard: ShardId, mut range: KeyRange) {
        let damage = &mut self.0.lock().damage;
        let asked = range.clone();
        // Pages have no key in common: what meets is one page, or nothing could replace the whole of either.
        for (_, met) in damage.extract_if(.., |(on, met)| *on == shard && shard::meet(met, &asked)) {
            range.lo = range.lo.min(met.lo);
            range.hi = range.hi.zip(met.hi).map(|(a, b)| a.max(b));
        }
        damage.push((shard, range));
    }

    /// From now on whoever reads what is damaged on `shard` gets an error of the disk, as of a sector that it cannot read; who
    /// looks for damage finds it.
    pub fn mute(&self, shard: ShardId) {
        self.0.lock().mute.insert(shard);
    }

    /// The same for the range from `around` keys before `key` up to, and without, the one that comes `around` keys and one
    /// after it, or to the ends. Returns the range.
    pub fn corrupt_page(&self, shard: ShardId, key: &[u8], around: usize) -> KeyRange {
        let mut range = KeyRange { lo: Vec::new(), hi: None };
        self.each(shard, |shard| {
            let before = shard.records.range(..key.to_vec()).rev().nth(around.wrapping_sub(1));
            let lo = if around == 0 { Some(key.to_vec()) } else { before.map(|(key, _)| key.clone()) };
            let after = shard.records.range([key, &[0]].concat()..).nth(around);
            range = KeyRange { lo: lo.unwrap_or_default(), hi: after.map(|(key, _)| key.clone()) };
        });
        self.corrupt_range(shard, range.clone());
        range
    }

    /// The shard loses all that it holds in `range`, without a word. Returns how many keys that were.
    pub fn lose(&self, shard: ShardId, range: &KeyRange) -> usize {
        let mut lost = 0;
        self.each(shard, |shard| {
            let before = shard.records.len();
            shard.records.retain(|key, _| !range.contains(key));
            shard.undo.retain(|key, _| !range.contains(key));
            lost += before - shard.records.len();
        });
        lost
    }

    /// The shard goes back to what it held of `key` before that last changed, without a word. False if it never did.
    pub fn turn_back(&self, shard: ShardId, key: &[u8]) -> bool {
        let mut turned = false;
        self.each(shard, |shard| {
            if let Some(before) = shard.before.remove(key) {
                shard.forge(key, before);
                turned = true;
            }
        });
        turned
    }

    /// From now on the shard holds these versions of `key` (newest first), without a word.
    pub fn forge(&self, shard: ShardId, key: &[u8], versions: &[(Seq, Option<&[u8]>)]) {
        let copied = |(seq, value): &(Seq, Option<&[u8]>)| (*seq, value.map(Bytes::copy_from_slice));
        let versions: Vec<Version> = versions.iter().map(copied).collect();
        self.each(shard, |shard| shard.forge(key, versions.clone()));
    }

    /// Takes back all faults and all corruption of `shard`, and lets go on what hangs. One that has failed must be opened
    /// again.
    pub fn heal(&self, shard: ShardId) {
        let mut world = self.0.lock();
        world.faults.retain(|(failing, _), fault| {
            if *failing == shard
                && let What::Hang(gate) = &fault.what
            {
                gate.release();
            }
            *failing != shard
        });
        world.damage.retain(|(damaged, _)| *damaged != shard);
    }

    /// How often `operation` has been called on `shard`.
    pub fn calls(&self, shard: ShardId, operation: Operation) -> u64 {
        self.0.lock().calls.get(&(shard, operation)).copied().unwrap_or(0)
    }

    /// What `shard` has that is open; if nothing is, all that it has.
    fn each(&self, shard: ShardId, mut f: impl FnMut(&mut Shard)) {
        let shards = self.shards();
        let of = |state: &Shard| state.id == shard && state.life > 0;
        let any_open = shards.iter().any(|(_, held)| {
            let state = held.lock();
            of(&state) && state.open
        });
        for (_, held) in shards {
            let mut state = held.lock();
            if of(&state) && (state.open || !any_open) {
                f(&mut state);
            }
        }
    }

    /// What has been injected into `operation`. Called without a lock, by who waits no longer than `limit` for what hangs.
    pub(super) fn fault(&self, shard: ShardId, operation: Operation, limit: Option<Duration>) -> Result<()> {
        let what = {
            let mut world = self.0.lock();
            *world.calls.entry((shard, operation)).or_default() += 1;
            let Some(fault) = world.faults.get_mut(&(shard, operation)) else { return Ok(()) };
            let what = (fault.left != Some(0)).then(|| fault.what.clone());
            fault.left = fault.left.map(|left| left.saturating_sub(1));
            what
        };
        match what {
            None => Ok(()),
            Some(What::Io) => {
                let injected = std::io::Error::other("a fault injected by a test");
                Err(Error::new(ErrorKind::Io, format!("cannot {operation:?}")).on(shard).caused_by(injected))
            }
            Some(What::Panic) => {
                let text = format!("a panic injected by a test into {operation:?} of {shard}");
                std::panic::resume_unwind(Box::new(text))
            }
            Some(What::Hang(gate)) if gate.pass(limit) => Ok(()),
            Some(What::Hang(_)) => {
                Err(Error::new(ErrorKind::Io, format!("{operation:?} has not answered for {limit:?}"))
                    .on(shard))
            }
            Some(What::Slow(longer)) => {
                crate::sync::thread::sleep(longer);
                Ok(())
            }
        }
    }

    /// The damaged range that a walk from the beginning of `within` to its end comes to first, or the other way round.
    pub(super) fn damage(&self, shard: ShardId, within: &KeyRange, reverse: bool) -> Option<KeyRange> {
        let world = self.0.lock();
        let met = world.damage.iter().filter(|(on, range)| *on == shard && shard::meet(range, within));
        let met = met.map(|(_, range)| range);
        if reverse { met.max_by_key(|range| &range.lo) } else { met.min_by_key(|range| &range.lo) }.cloned()
    }

    /// An error if something damaged lies in `within`.
    pub(super) fn check(&self, shard: ShardId, within: &KeyRange) -> Result<()> {
        let Some(range) = self.damage(shard, within, false) else { return Ok(()) };
        Err(match self.0.lock().mute.contains(&shard) {
            true => Error::new(ErrorKind::Io, "a sector that cannot be read, injected by a test").on(shard),
            false => unreadable(shard, &range),
        })
    }

    /// Takes damage away that lies in `range`; an error, and nothing is changed, if some lies only partly in it.
    pub(super) fn put_right(&self, shard: ShardId, range: &KeyRange) -> Result<Vec<KeyRange>> {
        let mut world = self.0.lock();
        let met = |(on, damaged): &(ShardId, KeyRange)| *on == shard && shard::meet(damaged, range);
        if let Some((_, cut)) = world.damage.iter().find(|item| met(item) && !shard::covers(range, &item.1)) {
            return Err(unreadable(shard, cut));
        }
        Ok(world.damage.extract_if(.., |item| met(item)).map(|(_, range)| range).collect())
    }
}

pub(super) fn unreadable(shard: ShardId, range: &KeyRange) -> Error {
    Error::corruption(format!(
        "expected records from {:02x?} to {:02x?}, found corruption injected by a test",
        range.lo, range.hi
    ))
    .on(shard)
}
