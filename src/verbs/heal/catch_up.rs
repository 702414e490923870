//! Catching up: what a shard missed is in the journal, which is the hint of every hinted handoff (Dynamo) that there could be.

use super::step::{Step, healed};
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::Cursor;
use crate::memtable::Table;
use crate::shard::{Layout, Run, Turns, beat};
use crate::state::State;
use crate::state::caught::Caught;
use crate::state::change::Mover;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Instant, MutexGuard};
use std::sync::Arc;

/// Bytes of the journal that are replayed at once.
const PIECE: usize = 8 << 20;

/// Gives a shard the next piece of what it lacks; when there is none, it serves.
///
/// Flushes go on meanwhile, whatever its disk takes for it: they do not go to the shard, and what it lacks stays in the journal. They wait where they
/// bring the others more than it is given.
pub fn piece(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    let now = || (state.forgotten_up_to(), shard.applied());
    let (mut until, applied) = now();
    let begun = mover.caught.take_if(|caught| caught.shard == shard.id);
    let mut caught = begun.unwrap_or_else(|| Caught::begin(shard.id, until, applied));
    let mut grown = caught.look(until, applied);
    let mut turn = None;
    if caught.is_outrun() {
        turn = Some(take_turn(state));
        // The flush that it waited for.
        until = state.forgotten_up_to();
        grown += caught.look(until, applied);
    }
    mover.caught = Some(caught);
    let mut from = applied.next();
    if crate::plants::is("catch-up-one-commit-late") {
        from = from.next();
    }
    // More than has been flushed since the piece before, or it would never end beside one who writes.
    let target = if turn.is_some() { Seq(from.0.saturating_add(2 * grown)) } else { from };
    let target = target.min(until);
    let mut bytes = 0;
    while from <= target {
        bytes += replay(state, layout, index, from, until)?;
        from = shard.applied().next();
    }
    // What leaves the memtables from here on goes to it as well.
    let _turn = match turn {
        None if from > until => take_turn(state),
        None => return Ok(Step::Worked(bytes)),
        Some(turn) => turn,
    };
    // Another flush may have come in between.
    if from > state.forgotten_up_to() {
        shard.caught_up();
        mover.level = false;
        // It answers again, and may know better than those that did meanwhile.
        state.changed.corrected();
        let copy = state.manifest_copy();
        if let Err(error) = state.beside(layout, index, move |shard| shard.write_identity(&copy)) {
            log::warn!("the manifest could not be copied to shard {}: {error}", shard.id);
        }
        state.health_changed();
        if let Some(place) = mover.left.iter().position(|(id, _)| *id == shard.id) {
            let (_, error) = mover.left.swap_remove(place);
            state.read_failed(shard, &error);
        } else if shard.serves() {
            healed(state, shard);
        }
    }
    Ok(Step::Worked(bytes))
}

/// The turn to flush.
fn take_turn(state: &State) -> (MutexGuard<'_, ()>, MutexGuard<'_, ()>) {
    (state.flushing.lock(), state.moving.lock())
}

/// Gives a shard as much of the journal as is replayed at once; returns the bytes of it.
fn replay(state: &State, layout: &Arc<Layout>, index: usize, from: Seq, until: Seq) -> Result<u64> {
    let shard = &layout.shards[index];
    let read = read(state, from, until).inspect_err(|error| {
        // It was trimmed, or is damaged: the shard is begun anew from its replicas. So it is where the disk goes on refusing to give it
        // out, and meanwhile it keeps nothing in the journal beyond what that may hold.
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corruption | ErrorKind::Io) {
            let text = "what the shard lacks cannot be read from the journal";
            state.shard_failed(shard, &Error::corruption(text).on(shard.id).caused_by(error.clone()));
        }
    })?;
    // No shard is ever ahead of what recovery can replay to its replicas.
    state.sync_to(read.last)?;
    let bytes = read.table.payload_bytes() as u64;
    apply(state, layout, index, read).inspect_err(|error| state.shard_failed(shard, error))?;
    Ok(bytes)
}

/// What a piece of the journal comes to.
struct Piece {
    table: Table,
    /// The last sequence of it.
    last: Seq,
}

fn read(state: &State, from: Seq, until: Seq) -> Result<Piece> {
    let (keyspaces, live) = (state.live_keyspaces(), state.memory.live());
    let mut piece = Piece { table: Table::new(), last: from };
    state.journal.replay(&mut Cursor::at(from), until, PIECE, &mut |seq, ops| {
        for op in batch::decode(ops) {
            let op = op?;
            if keyspaces.contains(&batch::keyspace_of(op.key)) {
                piece.table.insert(op.key, seq, op.value, &live)?;
            }
        }
        piece.last = seq;
        Ok(())
    })?;
    Ok(piece)
}

fn apply(state: &State, layout: &Arc<Layout>, index: usize, piece: Piece) -> Result<()> {
    let (shard, worker) = (layout.shards[index].clone(), &layout.workers[index]);
    let last = piece.last;
    let run = Run::new(Arc::new(piece.table), layout.apart(), state.memory.live(), state.live_keyspaces());
    let turns = Turns::here(state.pace.haste(), state.settings.shard_timeout);
    let (beats, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let beating = beats.clone();
    let ticket = worker.run(move || {
        run.apply(index, &shard, &turns, &|_| beat(&beating, begun))?;
        // The last of it may have been nobody's, as the records of a dropped keyspace are.
        if shard.applied() < last {
            beat(&beating, begun);
            shard.begin_apply()?;
            shard.seal(last)?;
        }
        Ok(())
    });
    // As in a flush: what is slow and gets further would be given up each time, and begin where it began before.
    let limit = state.settings.shard_timeout;
    worker.wait(&ticket, limit, &beats).map_err(|error| error.on(layout.shards[index].id))
}
