//! Reading one key through memtables and shards: what every verb that reads stands on.
//!
//! Invariants: the memtables are asked before the shards, so a record that moves from one to the other meanwhile is
//! found in at least one; an owner that fails is reported, and the next is asked within the same call; that there is nothing is the word of one who
//! owns the key by a layout that was still the newest when he had said so.

use super::{Recent, State, cover, unavailable};
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, VirtualNode};
use crate::record::Found;
use crate::shard::{Layout, Shard};
use crate::sync::atomic::Ordering;
use std::sync::Arc;

/// How often owners are asked again, of whom none answered, since the shards' health changed meanwhile.
pub const ATTEMPTS: usize = 16;

impl State {
    /// The newest version of an internal key.
    pub fn get_newest(&self, key: &[u8]) -> Result<Option<Found>> {
        // Before the memtables: a table that is forgotten after this ends the turn.
        let asked = self.records.ask(key);
        match self.memory.get(key, Seq::MAX) {
            Recent::Value(found) => return Ok(Some(found)),
            Recent::Removed => return Ok(None),
            Recent::Unknown => {}
        }
        let kept = self.records.get(key, asked);
        if self.records.count(kept.is_some()) {
            self.signals.want_tick();
        }
        if kept.is_some() {
            return Ok(kept);
        }
        let found = self.get_in_shards(key, Seq::MAX)?;
        if let Some(found) = &found {
            self.records.offer(key, found, asked);
        }
        Ok(found)
    }

    /// The newest version of an internal key at or below `at`.
    pub fn get_at(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        match self.memory.get(key, at) {
            Recent::Value(found) => Ok(Some(found)),
            Recent::Removed => Ok(None),
            Recent::Unknown => self.get_in_shards(key, at),
        }
    }

    /// The same from the shards alone; the caller has seen that no memtable has a version.
    pub fn get_in_shards(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        // One owner may have been healed, and another have failed, between the questions to the one and to the other.
        let attempts = if crate::plants::is("owners-asked-once") { 1 } else { ATTEMPTS };
        for _ in 1..attempts {
            let before = self.health_version();
            match self.ask_owners(key, at) {
                Err(error) if error.kind() == ErrorKind::Unavailable && self.health_version() != before => {}
                answer => return answer,
            }
        }
        self.ask_owners(key, at)
    }

    fn ask_owners(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        let layout = self.layout();
        let owners = layout.owners_at(layout.ring.position(batch::user_key(key)));
        let mut cause = None;
        for index in owners {
            let Some(shard) = layout.shards.get(usize::from(*index)) else { continue };
            let ask = || shard.engine().and_then(|engine| engine.get(key, at));
            let answer = match ask() {
                // It has just been put in another's place.
                Err(error) if error.kind() == ErrorKind::Closed => ask(),
                answer => answer,
            };
            match answer {
                // A page that was put right meanwhile has only what its shard owns by the placement of then.
                Ok(None) if !std::ptr::eq(Arc::as_ptr(&layout), Arc::as_ptr(&self.layout.read())) => {
                    return self.ask_owners(key, at);
                }
                Ok(found) => return Ok(found),
                Err(error) => {
                    self.read_failed(shard, &error);
                    if crate::plants::is("replicas-not-asked-after-an-error") {
                        return Err(error);
                    }
                    cause = worse(cause, error);
                }
            }
        }
        self.check_open()?;
        match cause {
            // The bytes are damaged in every copy: that is the news, not that a shard did not answer.
            Some(error) if error.kind() == ErrorKind::Corruption => Err(error),
            cause => Err(unavailable(&layout, owners, cause)),
        }
    }

    /// A read from a shard failed: its state says so from now on.
    pub fn read_failed(&self, shard: &Shard, error: &Error) {
        match error.kind() {
            ErrorKind::Corruption | ErrorKind::Unsupported => {
                if shard.degrade(error) {
                    self.tell_fault(shard);
                    self.signals.want_change();
                }
            }
            // It was offline, or closed, already.
            ErrorKind::Unavailable | ErrorKind::Closed => {}
            _ => {
                // One that cannot be read again and again has a page that cannot be, which opening it does not tell; of those who
                // read at the same time one counts.
                if shard.is_open() && !error.is_refusal_to_write() && shard.unreadable() > 1 {
                    shard.suspect();
                }
                self.shard_failed(shard, error);
            }
        }
    }

    /// The shards of the layout at hand that a scan of the whole store reads, without those in `except`.
    pub fn cover(&self, layout: &Arc<Layout>, except: &[usize]) -> Result<Arc<[usize]>> {
        let serves = || {
            let mut serves: Vec<bool> = layout.shards.iter().map(|s| s.serves()).collect();
            for index in except {
                if let Some(serves) = serves.get_mut(*index) {
                    *serves = false;
                }
            }
            // Those that are only joining hold copies of what the others have.
            serves.truncate(layout.ring.members().len());
            serves
        };
        let found = if except.is_empty() {
            let version = self.health_version.load(Ordering::Acquire);
            self.cover.lock().get(layout, version, || cover::cover(&layout.ring, &serves()))
        } else {
            cover::cover(&layout.ring, &serves()).map(Arc::from)
        };
        found.ok_or_else(|| {
            let serves = serves();
            match cover::first_uncovered(&layout.ring, &serves) {
                Some(node) => unavailable(layout, layout.ring.owner_indexes(node), None),
                None => {
                    Error::new(ErrorKind::Unavailable, "the shards changed while a scan chose among them")
                }
            }
        })
    }

    /// The first serving shard, not in `except`, among the owners of a virtual node.
    pub fn owner_of(&self, layout: &Layout, node: VirtualNode, except: &[usize]) -> Result<usize> {
        let owners = layout.ring.owner_indexes(node);
        let serves = |i: &usize| !except.contains(i) && layout.shards.get(*i).is_some_and(|s| s.serves());
        let found = owners.iter().map(|i| usize::from(*i)).find(serves);
        found.ok_or_else(|| unavailable(layout, owners, None))
    }
}

/// Of two causes the one that says more about the data.
fn worse(before: Option<Error>, now: Error) -> Option<Error> {
    match before {
        Some(before) if before.kind() == ErrorKind::Corruption => Some(before),
        _ => Some(now),
    }
}
