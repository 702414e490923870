//! What is noted of the time while a log goes on, and what a piece of it tells of that.
//!
//! Invariants: marks are in the order in which they were made, whoever made them; what a mark says is true: by its time the log had come to its
//! sequence. Every piece tells when the log had come to its end, or the first moment that was noted when it had come to more, and no later time than
//! the next piece does, unless the clock went back. No time is told that nobody noted.

use crate::backup::checkpoint::now;
use crate::backup::piece::{CLOCK_STEP, Mark};
use crate::ids::Seq;
use crate::state::State;
use crate::sync::Mutex;
use std::sync::Arc;

/// What the log has come to, now.
pub fn mark(state: &State) -> Mark {
    // In this order: what is up to the sequence was there at that time.
    let seq = state.memory.last();
    Mark { time: now(), seq }
}

/// Those of the archive in a repository that no piece tells yet, from what the log had come to when the store was opened on. They are its own, and
/// not those of who made them: what one caller had noted before another one archived would be told behind that.
pub fn of(state: &State, repository: u128) -> Arc<Mutex<Vec<Mark>>> {
    state.archives.marks(repository, state.opened)
}

/// Notes another moment behind those that were noted before. Of a rest the first and the last one stay, so that it is known for one, and the earliest
/// and the latest, so that it is known that the clock went back meanwhile.
pub fn note(marks: &mut Vec<Mark>, mark: Mark) {
    look_at_clock(marks.last(), mark);
    marks.push(mark);
    let begin = marks.iter().rposition(|before| before.seq != mark.seq).map_or(0, |before| before + 1);
    let rest = marks.split_off(begin);
    let by_time = |at: &usize| rest[*at].time;
    let earliest = (0..rest.len()).min_by_key(by_time);
    let latest = (0..rest.len()).max_by_key(by_time);
    let stays = |at: usize| at == 0 || at + 1 == rest.len() || Some(at) == earliest || Some(at) == latest;
    marks.extend((0..rest.len()).filter(|at| stays(*at)).map(|at| rest[at]));
}

/// Says so where the clock went back: restores to the times that it has shown twice are refused.
pub fn look_at_clock(before: Option<&Mark>, now: Mark) {
    if let Some(before) = before.filter(|before| before.time > now.time.saturating_add(CLOCK_STEP)) {
        log::warn!(
            "the clock went back by {} s between the writes with sequences {} and {}: see that it is right before the store is opened. A restore names a moment since then by its sequence, unless its time is later than before",
            (before.time - now.time) / 1000,
            before.seq,
            now.seq
        );
    }
}

/// Those that a piece tells. It is called when the commits have been read: they had been made by then.
pub fn of_piece(marks: &[Mark], first: Seq, last: Seq) -> Vec<Mark> {
    // Of what lies before that, earlier pieces tell, or nobody: the journal no longer had it.
    let mut told: Vec<Mark> =
        marks.iter().filter(|mark| first <= mark.seq.next() && mark.seq <= last).copied().collect();
    if told.last().is_none_or(|mark| mark.seq < last) {
        // It had come to the end by then as well, but may have come to that hours before: with its own sequence it says so, should nobody come to
        // archive what lies behind.
        told.extend(marks.iter().find(|mark| mark.seq > last));
    }
    told
}
