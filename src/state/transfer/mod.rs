//! Records on their way from shard to shard: what a change of the topology gives to new owners, and what a shard lacks
//! that is being filled.
//!
//! Invariants:
//! - A chunk of records and the beginning of a flush exclude each other, and a chunk carries along what the memtable that
//!   is being flushed says of its keys: so a removal is never undone by an older copy.
//! - Copies are in step with their sources because both get every flush whole: a shard that gets records starts level with
//!   the others, and one that misses a flush is offline and stops the work.

mod chunk;
mod compare;
mod copy;
mod level;
mod mend;
mod reconcile;
mod sources;

pub use compare::compare_chunk;
pub use copy::{SEAL_EVERY, copy_chunk};
pub use level::{level, not_flushed, uneven};
pub use mend::verify_and_mend;
pub use reconcile::{Counted, reconcile_chunk};
pub use sources::{Sources, no_source};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::{Seq, VirtualNode};
use crate::record::RunRecord;
use crate::ring::Position;
use crate::shard::{Layout, Session, Shard};
use crate::state::State;
use std::sync::Arc;

/// Who gets records, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The change of the topology that is under way: new owners get what they do not have.
    Change,
    /// The shard at that index of the layout has an engine that is to get all that is written to the shard.
    Filling(usize),
    /// Some of what the shard at that index holds cannot be read, and is put in anew.
    Mending(usize),
}

impl Purpose {
    /// Whether a shard gets what lies at a position.
    pub fn wants(self, layout: &Layout, shard: usize, position: Position) -> bool {
        match self {
            Purpose::Change => layout.gains(shard, position),
            Purpose::Filling(index) | Purpose::Mending(index) => {
                shard == index && layout.is_written(shard, position)
            }
        }
    }

    /// The shards that get something.
    pub fn targets(self, layout: &Layout) -> Vec<usize> {
        match self {
            Purpose::Change => gaining(layout),
            Purpose::Filling(index) | Purpose::Mending(index) => vec![index],
        }
    }

    /// The engine of a target that is compared with its sources.
    fn engine(self, shard: &Shard) -> Result<Arc<dyn Engine>> {
        match self {
            Purpose::Change | Purpose::Mending(_) => shard.engine(),
            Purpose::Filling(_) => shard.filling(),
        }
    }

    /// A target could not be written to: it is offline from here on, unless what failed is only to take its engine's place.
    pub fn failed(self, state: &State, shard: &Shard, error: &Error) {
        match self {
            Purpose::Filling(_) if shard.serves() => shard.drop_aside(error),
            _ => state.write_failed(shard, error),
        }
    }

    /// Says that the targets are about to be changed.
    pub fn begin(self, state: &State, layout: &Arc<Layout>) -> Result<()> {
        // One beside an engine that serves has no seal of its own yet.
        let has_seal = |target: &usize| self == Purpose::Change || !layout.shards[*target].serves();
        let targets: Vec<usize> = self.targets(layout).into_iter().filter(has_seal).collect();
        // Nothing is written to the others each time that it is tried again.
        for target in &targets {
            let answers = state.answers(layout, *target);
            answers.inspect_err(|error| self.failed(state, &layout.shards[*target], error))?;
        }
        let (mut begun, mut outcome): (Vec<(usize, Session)>, _) = (Vec::new(), Ok(()));
        for (target, session) in state.beside_all(layout, &targets, Shard::begin_apply) {
            match session {
                Ok(session) => begun.push((target, session)),
                Err(error) => {
                    self.failed(state, &layout.shards[target], &error);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        // All of them are begun or none: else the others' seals would say for ever that they are being changed.
        // Not waited for: one may hang in the seal of a flush meanwhile.
        outcome.inspect_err(|_| {
            for (target, session) in begun {
                drop(state.ask(layout, target, move |_| {
                    session.leave();
                    Ok(())
                }));
            }
        })
    }

    /// Makes what the targets have been given durable, all at once: whoever ends a change holds the turn to flush meanwhile. One that fails is no
    /// reason for the others' seals to say for ever that they are being changed.
    pub fn seal(self, state: &State, layout: &Arc<Layout>) -> Result<()> {
        // Of one shard alone that is filled, or mended.
        let aside = |target: &usize| self != Purpose::Change && layout.shards[*target].serves();
        let (beside, own): (Vec<usize>, Vec<usize>) = self.targets(layout).into_iter().partition(aside);
        let mut sealed = state.beside_all(layout, &own, |shard| shard.seal(shard.applied()));
        sealed.extend(state.beside_all(layout, &beside, Shard::sync_aside));
        let mut outcome = Ok(());
        for (target, sealed) in sealed {
            outcome = outcome.and(sealed.inspect_err(|e| self.failed(state, &layout.shards[target], e)));
        }
        outcome
    }

    fn apply(self, shard: &Shard, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        match self {
            Purpose::Change | Purpose::Mending(_) => shard.apply(run, live),
            Purpose::Filling(_) => shard.fill(run, live),
        }
    }
}

/// The shards that gain something by the change under way.
fn gaining(layout: &Layout) -> Vec<usize> {
    let Some(next) = &layout.next else { return Vec::new() };
    let children = (next.ring.virtual_nodes() / layout.ring.virtual_nodes().max(1)).max(1);
    let mut gains = vec![false; layout.shards.len()];
    for node in 0..next.ring.virtual_nodes() {
        let owners = layout.ring.owner_indexes(VirtualNode(node / children));
        for place in layout.aimed_owners(VirtualNode(node)) {
            gains[usize::from(place)] |= !owners.contains(&place);
        }
    }
    (0..gains.len()).filter(|index| gains[*index]).collect()
}
