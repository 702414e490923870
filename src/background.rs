//! The background threads. They only schedule: everything they do can be called by hand.

use crate::error::{Error, ErrorKind, Result};
use crate::state::State;
use crate::sync::Instant;
use crate::sync::thread::JoinHandle;
use crate::verbs;
use crate::verbs::heal::Step as Healed;
use crate::verbs::reshard::Step;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a write of `Durability::Memory` stays in this process: half of what is promised.
const TICK: Duration = Duration::from_millis(50);
/// How long a failed flush rests before it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often the journal's copies are looked at, and how long one that is behind rests before it is tried again, at first.
const MEND: Duration = Duration::from_secs(5);
/// The longest rest of such a copy: each try may have to read the whole journal to come to nothing.
const MEND_AT_MOST: Duration = Duration::from_secs(160);
/// How soon readers of before a change are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often the latency of reads and writes decides anew how much a change of the topology rests.
const LOOK_AT_FOREGROUND: Duration = Duration::from_millis(50);
/// How often shards' directories are looked at while nothing else is to be done.
const LOOK_AT_SHARDS: Duration = Duration::from_secs(10);
/// Pages counted in one slice of a recount, so that a flush never waits long for it.
const RECOUNT_PAGES: usize = 256;

/// The threads of an open store.
#[derive(Debug, Default)]
pub struct Threads {
    /// They end as soon as they are told to.
    pub prompt: Vec<JoinHandle<()>>,
    /// It writes to a disk that may hang without being missed: its turn of the journal is what a close waits for.
    pub mender: Option<JoinHandle<()>>,
}

/// Starts the threads of an open store.
pub fn start(state: &Arc<State>) -> Result<Threads> {
    if !state.seams.background.schedules() {
        return Ok(Threads::default());
    }
    let spawn = |name: &str, work: fn(&State)| {
        let state = state.clone();
        crate::sync::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&state))
            .map_err(|e| Error::new(ErrorKind::Io, "cannot start a background thread").caused_by(e))
    };
    let prompt = vec![
        spawn("annulus-flush", flusher)?,
        spawn("annulus-journal", ticker)?,
        spawn("annulus-segment", provider)?,
        spawn("annulus-change", mover)?,
    ];
    let several = state.mirrors.as_ref().is_some_and(|mirrors| mirrors.copies().len() > 1);
    let mender = if several { Some(spawn("annulus-mend", mender)?) } else { None };
    Ok(Threads { prompt, mender })
}

fn flusher(state: &State) {
    // Openings leave work behind: replayed tables, dropped keyspaces, shards to be counted.
    let mut limit = Some(Duration::ZERO);
    while state.signals.next_flush(limit) {
        // Writers that wait for room would wait for ever on a thread that is gone.
        let outcome = catch_unwind(AssertUnwindSafe(|| round(state))).unwrap_or_else(|_| {
            let error =
                Error::new(ErrorKind::Io, "a background flush panicked").remedy("see the log, then reopen");
            state.pace.stuck(&error);
            Err(error)
        });
        limit = match outcome {
            Ok(true) => Some(Duration::ZERO),
            Ok(false) => None,
            // It was closed in the middle of it: there is nothing to be told.
            Err(error) if error.kind() == ErrorKind::Closed => Some(RETRY),
            Err(error) => {
                log::error!("background work failed, and is tried again: {error}");
                Some(RETRY)
            }
        };
    }
}

/// One round of background work; whether there is more.
fn round(state: &State) -> Result<bool> {
    Ok(verbs::flush::flush_oldest(state)?
        || verbs::purge::purge(state)?
        || verbs::recount::recount(state, RECOUNT_PAGES)?)
}

/// Not the ticker: making a segment takes as long as writing it full, and what waits in memory is to be written soon.
fn provider(state: &State) {
    let mut short = false;
    loop {
        let provided = state.journal.provision();
        if let (Err(error), false) = (&provided, short) {
            // Writes make their own room when none was prepared; they report what is wrong.
            log::warn!("no journal segment could be prepared: {error}");
        }
        short = provided.is_err();
        if !state.signals.next_segment() {
            return;
        }
    }
}

fn ticker(state: &State) {
    while state.signals.next_tick() {
        state.signals.want_segment();
        state.share_memory();
        state.signals.pause(TICK);
        if let Err(error) = state.journal.write_buffered() {
            log::error!("the journal could not be written: {error}");
        }
    }
}

/// Not the ticker: making a copy of the journal takes as long as it is large.
fn mender(state: &State) {
    let Some(mirrors) = &state.mirrors else { return };
    let behind = || mirrors.copies().into_iter().filter(|copy| !copy.good).map(|copy| copy.dir).collect();
    let mut tries = Tries::default();
    loop {
        if tries.is_due(behind(), Instant::now()) {
            state.mend();
            tries.after(behind(), Instant::now());
        }
        if !state.signals.next_mend(MEND) {
            return;
        }
    }
}

/// When copies of the journal that are behind are tried again.
#[derive(Debug, Default)]
struct Tries {
    /// Which were behind after the last try.
    behind: Vec<PathBuf>,
    /// When the next one is due, and how long the rest before it is.
    rest: Option<(Instant, Duration)>,
}

impl Tries {
    /// At once where other copies are behind than were: what became of those says nothing of these.
    fn is_due(&self, behind: Vec<PathBuf>, now: Instant) -> bool {
        behind != self.behind || self.rest.is_none_or(|(due, _)| now >= due)
    }

    /// After a try that has left these behind.
    fn after(&mut self, behind: Vec<PathBuf>, now: Instant) {
        let rest = match self.rest {
            Some((_, rest)) if behind == self.behind && !behind.is_empty() => (rest * 2).min(MEND_AT_MOST),
            _ => MEND,
        };
        (self.behind, self.rest) = (behind, Some((now + rest, rest)));
    }
}

fn mover(state: &State) {
    // An opening may find a change to go on with, or old copies to be removed.
    let mut limit = Duration::ZERO;
    let mut turns = Turns::default();
    while let Some(wished) = state.signals.next_change(Some(limit)) {
        let foreground = &state.change.foreground;
        let begun = Instant::now();
        if wished {
            turns.begin_anew();
        }
        let held = turns.left(begun).is_some();
        foreground.set_working(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| move_round(state, held))).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Io, "a step of a change of the topology panicked")
                .remedy("see the log; cancel the change, or reopen the store");
            state.change.failed(&error);
            Err(error)
        });
        foreground.set_working(false);
        limit = match outcome {
            Ok(round) => turns.after(state, &round, begun, Instant::now()),
            Err(error) if error.kind() == ErrorKind::Closed => RETRY,
            Err(error) => {
                log::error!(
                    "a step of healing, or of a change of the topology, failed, and is tried again: {error}"
                );
                RETRY
            }
        };
    }
}

/// What a round of the mover came to.
#[derive(Debug)]
enum Round {
    /// Healing went through so many bytes.
    Healed(u64),
    /// A change or a scrub went through so many, to be paid for at the rate that was asked for, if one was. Healing has its turn in
    /// `heal`, however long that takes.
    Worked { bytes: u64, rate: Option<u64>, heal: Duration },
    /// There was nothing to heal, and nothing else had its turn; healing has its next one in so long.
    Held(Duration),
    /// Something else must come first, and is looked for again soon.
    Waiting,
    /// How soon to look again.
    Idle(Duration),
}

/// One step of healing, or, where there is none to be taken, and they are not `held` back, of a change of the topology, or of a
/// scrub. A rate is for what it was asked for alone: a shard that is slow to be healed is one that is missing.
fn move_round(state: &State, held: bool) -> Result<Round> {
    let heal = match verbs::heal::step(state)? {
        Healed::Idle => LOOK_AT_SHARDS,
        Healed::Later(rest) => rest,
        Healed::Worked(bytes) => return Ok(Round::Healed(bytes)),
        Healed::NeedsFlush => {
            verbs::flush::flush(state).inspect_err(|error| verbs::heal::not_flushed(state, error))?;
            return Ok(Round::Waiting);
        }
    };
    if held {
        return Ok(Round::Held(heal));
    }
    match verbs::reshard::step(state)? {
        Step::Idle => {}
        Step::Worked(bytes) => return Ok(Round::Worked { bytes, rate: state.change.rate(), heal }),
        Step::Waiting => return Ok(Round::Waiting),
        Step::NeedsFlush => {
            verbs::flush::flush(state).inspect_err(|error| verbs::reshard::not_flushed(state, error))?;
            return Ok(Round::Waiting);
        }
    }
    match verbs::scrub::step(state)? {
        verbs::scrub::Step::Worked(bytes) => Ok(Round::Worked { bytes, rate: state.scrub.rate(), heal }),
        verbs::scrub::Step::NeedsFlush => {
            verbs::flush::flush(state).inspect_err(|error| verbs::scrub::not_flushed(state, error))?;
            Ok(Round::Waiting)
        }
        verbs::scrub::Step::Idle => Ok(Round::Idle(heal)),
        verbs::scrub::Step::Later(rest) => Ok(Round::Idle(heal.min(rest))),
    }
}

/// When the mover works again, and whether at more than healing.
#[derive(Default)]
struct Turns {
    effort: Effort,
    /// Since when, and for how long, a change or a scrub rests from its last step.
    held: Option<(Instant, Duration)>,
}

impl Turns {
    /// Something was asked for, as may be another rate: nobody is held back any more for what was asked before.
    fn begin_anew(&mut self) {
        self.held = None;
    }

    /// How long a change or a scrub is still held back; none if it is not.
    fn left(&self, now: Instant) -> Option<Duration> {
        let (since, rest) = self.held?;
        rest.checked_sub(now - since).filter(|left| !left.is_zero())
    }

    /// How long to rest after a round.
    fn after(&mut self, state: &State, round: &Round, begun: Instant, now: Instant) -> Duration {
        let worked = now - begun;
        match *round {
            Round::Healed(bytes) => self.effort.after(state, None, bytes, worked),
            Round::Worked { bytes, rate, heal } => {
                let rest = self.effort.after(state, rate, bytes, worked);
                self.held = Some((now, rest));
                heal.min(rest)
            }
            Round::Held(heal) => heal.min(self.left(now).unwrap_or_default()),
            Round::Waiting => LOOK_AGAIN,
            Round::Idle(rest) => {
                self.effort = Effort::default();
                rest
            }
        }
    }
}

/// How hard the mover works.
struct Effort {
    /// Rest in relation to work, where no rate is set.
    rest: f64,
    looked: Instant,
}

impl Default for Effort {
    /// Half of the time, until it has been seen whether somebody minds.
    fn default() -> Effort {
        Effort { rest: 1.0, looked: Instant::now() }
    }
}

impl Effort {
    /// How long to rest after a step.
    fn after(&mut self, state: &State, rate: Option<u64>, bytes: u64, worked: Duration) -> Duration {
        if let Some(rate) = rate {
            return Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64).saturating_sub(worked);
        }
        if self.looked.elapsed() >= LOOK_AT_FOREGROUND {
            self.rest = state.change.foreground.rest(self.rest);
            self.looked = Instant::now();
        }
        worked.mul_f64(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, SimDisk};
    use crate::engine::{MemoryFactory, MemoryOperation};
    use crate::options::Options;
    use crate::state::healing::Wish;
    use crate::state::{Background, Seams};
    use std::path::Path;

    /// A copy that cannot be made costs less and less, and one that has only just been left behind is tried at once, whatever the rest of
    /// another.
    #[test]
    fn copies_that_stay_behind_are_tried_less_and_less_often() {
        let behind = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mut now = Instant::now();
        let mut tries = Tries::default();
        let mut next = |which: &[&str]| {
            assert!(tries.is_due(behind(which), now));
            tries.after(behind(which), now);
            let begun = now;
            while !tries.is_due(behind(which), now) {
                assert!(tries.is_due(behind(&["/other"]), now));
                now += MEND;
            }
            (now - begun).as_secs()
        };
        let rests: Vec<u64> = (0..8).map(|_| next(&["/b"])).collect();
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 160, 160]);
        assert_eq!([next(&["/b", "/c"]), next(&["/b", "/c"]), next(&["/c"])], [5, 10, 5]);
        assert_eq!([next(&[]), next(&[]), next(&["/c"]), next(&["/c"])], [5, 5, 5, 10]);
    }

    /// A step that brought so much rests for as long as that takes at the rate that was asked for, less what it took. What was
    /// asked of one thing is not asked of another, nor of what comes after it.
    #[test]
    fn the_rate_that_was_asked_for_is_kept() {
        let (disk, factory) = (SimDisk::new(1), MemoryFactory::new());
        let seams = Seams { disk: Arc::new(disk), factory: Arc::new(factory), background: Background::Off };
        let options = Options::new().shards(2).replication_factor(1).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let state = &store.handle.state;
        let rest = |rate, bytes, worked| {
            let worked = Duration::from_millis(worked);
            Effort { rest: 3.0, looked: Instant::now() }.after(state, rate, bytes, worked).as_millis()
        };
        assert_eq!(rest(None, 1 << 20, 100), 300, "nobody has asked for a rate");
        let rate = Some(1 << 20);
        assert_eq!([rest(rate, 2 << 20, 500), rest(rate, 1 << 20, 1500), rest(rate, 0, 10)], [1500, 0, 0]);
        let rate = || match move_round(state, false).unwrap() {
            Round::Worked { rate, .. } => rate,
            Round::Healed(_) => None,
            other => panic!("{other:?}"),
        };
        for n in 0..100_u32 {
            store.insert(n.to_be_bytes(), [7; 100]).unwrap();
        }
        store.flush().unwrap();
        let scrub = store.scrub().unwrap();
        scrub.set_rate(7 << 20).unwrap();
        assert_eq!(rate(), Some(7 << 20));
        let plan = store.plan().set_replication_factor(2).preview().unwrap();
        let change = store.apply(plan).unwrap();
        assert_eq!(rate(), None, "a scrub's rate is not a change's");
        change.set_rate(1 << 18).unwrap();
        assert_eq!(rate(), Some(1 << 18));
        crate::testing::fail_shard(&store, crate::ids::ShardId(1));
        assert_eq!(rate(), None, "nor is a change's that of healing");
        while crate::testing::heal_step(&store).unwrap() || crate::testing::change_step(&store).unwrap() {}
        assert_eq!(rate(), Some(7 << 20));
        while crate::testing::scrub_step(&store).unwrap() {}
        assert_eq!(state.scrub.rate(), None);
        store.scrub().unwrap();
        assert_eq!(rate(), None, "it was asked of another scrub");
    }

    /// Two shards, each with what no other has.
    fn two_shards() -> (SimDisk, crate::store::Store) {
        let (disk, factory) = (SimDisk::new(1), MemoryFactory::new());
        let seams =
            Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory), background: Background::Off };
        let options = Options::new().shards(2).replication_factor(1).memory_budget(16 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        write(&store, 0);
        store.flush().unwrap();
        (disk, store)
    }

    /// The disk of one gets full, and it lacks what the other has got of a flush.
    fn fill_up(disk: &SimDisk, store: &crate::store::Store) {
        let full = std::io::ErrorKind::StorageFull;
        let dir = store.handle.state.layout().shards[1].dir.clone();
        disk.inject(Fault::on_any_change().at(move |path| path.starts_with(&dir)).error(full));
        write(store, 1);
        store.flush().unwrap_err();
        let applied = |shard: usize| store.handle.state.layout().shards[shard].applied();
        assert!(applied(0) > applied(1), "they are level");
    }

    fn write(store: &crate::store::Store, value: u8) {
        (0..100_u32).for_each(|n| _ = store.insert(n.to_be_bytes(), [value; 100]).unwrap());
    }

    fn wait_until_good(store: &crate::store::Store) {
        let is_good = |_| {
            store.handle.state.healing.forget_rests();
            // It may have to wait for a flush that fails as yet.
            let _ = crate::testing::heal_step(store);
            store.health().unwrap().is_good()
        };
        assert!((0..100).any(is_good), "{:?}", store.health());
    }

    /// A disk may stay full for long, and what is to be done waits for a flush each time that it is tried: each would take a chunk of memory, and
    /// the time of every read.
    #[test]
    fn a_flush_that_fails_again_and_again_cuts_off_no_table_each_time() {
        let (disk, store) = two_shards();
        let state = &store.handle.state;
        fill_up(&disk, &store);
        store.scrub().unwrap();
        let mut failed = 0;
        for n in 0..100_u32 {
            store.insert(n.to_be_bytes(), [2; 100]).unwrap();
            failed += u32::from(move_round(state, false).is_err());
            // Nor does one that a user asks for.
            store.flush().unwrap_err();
            assert!(state.memory.frozen() <= 2, "{} tables after {n}", state.memory.frozen());
        }
        assert!(failed > 50, "nothing waited for a flush: {failed}");
        disk.heal();
        wait_until_good(&store);
        store.flush().unwrap();
        assert!(state.memory.is_empty());
        while crate::testing::scrub_step(&store).unwrap() {}
        assert!((0..100_u32).all(|n| store.get(n.to_be_bytes()).unwrap().as_deref() == Some(&[2; 100][..])));
    }

    /// Else he waits until there is room on another shard's disk, which may be never: also where it has been begun.
    #[test]
    fn who_asks_for_what_waits_for_a_flush_is_told_that_it_fails() {
        let one = crate::ids::ShardId(0);
        for (wish, begun) in [(Wish::Compact, false), (Wish::Repair, false), (Wish::Compact, true)] {
            let (disk, store) = two_shards();
            let state = &store.handle.state;
            let wish_for = || state.healing.wish(one, wish).unwrap();
            let mut outcome = wish_for();
            if begun {
                move_round(state, false).unwrap();
                assert!(state.layout().shards[0].is_filling());
                fill_up(&disk, &store);
            } else {
                fill_up(&disk, &store);
                outcome = wish_for();
            }
            assert!((0..10).any(|_| move_round(state, false).is_err()), "{wish:?}: it waited for no flush");
            let error = outcome.get().unwrap().as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(!state.layout().shards[0].is_filling(), "its new engine gets every flush");
            disk.heal();
            wait_until_good(&store);
            let outcome = wish_for();
            while crate::testing::heal_step(&store).unwrap() {}
            assert!(outcome.get().unwrap().is_ok(), "{wish:?}");
        }
    }

    /// The same of who waits for a change, or for a scrub.
    #[test]
    fn who_waits_for_a_change_or_a_scrub_is_told_of_a_flush_that_fails() {
        let (disk, store) = two_shards();
        let state = &store.handle.state;
        fill_up(&disk, &store);
        let scrub = store.scrub().unwrap();
        assert!((0..10).any(|_| move_round(state, false).is_err()), "it waited for no flush");
        assert!(scrub.progress().error.is_some());
        let error = scrub.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("flushed first"), "{error}");
        disk.heal();
        wait_until_good(&store);
        while crate::testing::scrub_step(&store).unwrap() {}
        assert!(scrub.wait().unwrap().is_some());

        let plan = store.plan().add_shard(crate::ShardOptions::new("/new")).preview().unwrap();
        let change = store.apply(plan).unwrap();
        fill_up(&disk, &store);
        assert!((0..10).any(|_| move_round(state, false).is_err()), "it waited for no flush");
        let error = change.wait_for(Duration::from_secs(20)).unwrap_err();
        assert!(error.to_string().contains("flushed first"), "{error}");
        disk.heal();
        let is_flushed = |_| {
            state.healing.forget_rests();
            let _ = crate::testing::heal_step(&store);
            let is_online = store.health().unwrap().shards[1].health == crate::Health::Online;
            store.flush().is_ok() && is_online
        };
        assert!((0..100).any(is_flushed), "{:?}", store.health());
        while crate::testing::change_step(&store).unwrap() {}
        assert_eq!(change.wait().unwrap(), crate::Phase::Completed);
    }

    /// Whether a scrub is slow, as it is asked to be, or is due in a year: a disk that is back is not left waiting for that.
    #[test]
    fn a_slow_rate_holds_back_what_it_was_asked_for_and_not_healing() {
        let (disk, factory) = (SimDisk::new(1), MemoryFactory::new());
        let seams =
            Seams { disk: Arc::new(disk), factory: Arc::new(factory.clone()), background: Background::Off };
        let options = Options::new().shards(3).replication_factor(2).memory_budget(8 << 20);
        let options = options.scrub_every(crate::limits::MAX_SCRUB_PERIOD);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let state = &store.handle.state;
        for n in 0..1000_u32 {
            store.insert(n.to_be_bytes(), [7; 100]).unwrap();
        }
        store.flush().unwrap();
        let scrub = store.scrub().unwrap();
        scrub.set_rate(1).unwrap();
        let mut turns = Turns::default();
        let begun = Instant::now();
        // All is well: shards' directories are looked at as often as ever.
        let round = move_round(state, false).unwrap();
        assert!(matches!(round, Round::Worked { bytes: 10_000.., rate: Some(1), .. }), "{round:?}");
        assert_eq!(turns.after(state, &round, begun, begun), LOOK_AT_SHARDS);
        // One cannot be opened for now, and is soon tried again.
        let away = crate::ids::ShardId(2);
        factory.fail(away, MemoryOperation::Open);
        crate::testing::fail_shard(&store, away);
        let soon = |round| matches!(round, Round::Held(rest) if rest < LOOK_AT_SHARDS);
        assert!((0..100).any(|_| soon(move_round(state, true).unwrap())));
        turns.begin_anew();
        let before = scrub.progress().report;
        let round = move_round(state, false).unwrap();
        assert!(matches!(round, Round::Worked { bytes: 10_000.., rate: Some(1), .. }), "{round:?}");
        let rest = turns.after(state, &round, begun, begun);
        assert!(rest < LOOK_AT_SHARDS, "{rest:?}");
        let after = scrub.progress().report;
        assert_ne!(after, before);
        // The disk is back: healing goes on step by step, and the scrub not at all.
        factory.heal(away);
        state.healing.forget_rests();
        let mut now = begun + rest;
        while !store.health().unwrap().is_good() {
            assert!(turns.left(now).is_some());
            let round = move_round(state, true).unwrap();
            let rest = turns.after(state, &round, now, now);
            assert!(rest < LOOK_AT_SHARDS, "{round:?} {rest:?}");
            now += rest;
        }
        let left = turns.left(now).unwrap();
        assert_eq!(turns.after(state, &Round::Held(left * 2), now, now), left, "then it is the scrub's turn");
        assert_eq!(scrub.progress().report, after);
        assert_eq!(turns.left(now + left), None);
        turns.begin_anew();
        assert_eq!(turns.left(now), None, "somebody asked for something");
        assert!((0..100).any(|_| matches!(move_round(state, false).unwrap(), Round::Idle(_))));
        let round = move_round(state, false).unwrap();
        assert_eq!(turns.after(state, &round, now, now), LOOK_AT_SHARDS, "the next scrub is due in years");
    }
}
