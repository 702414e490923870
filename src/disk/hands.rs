//! Threads that ask one disk for something, so that nobody waits for a disk that does not answer longer than he wants to.
//!
//! Invariants:
//! - Who asks waits at least as long as was said, and after that no longer than it takes to give up.
//! - What was given up goes on until the disk answers: meanwhile nothing else is begun there, and a lock that is left here is held.
//! - That nothing is begun is no answer: where several are asked together, none is given up before one has done what all are asked for.

use crate::sync::thread;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// So many threads that have nothing to do are kept, where nothing else was said.
const IDLE: usize = 2;
/// They end when they have had nothing to do for so long.
const REST: Duration = Duration::from_secs(10);
/// A disk is slow once something has taken so long there.
const SLOW: Duration = Duration::from_millis(100);

type Work = Box<dyn FnOnce() + Send>;
type Lock = Box<dyn Send + Sync>;

/// The threads for one disk. They end when this is dropped, each when the disk has answered.
pub struct Hands(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
    /// How many threads that have nothing to do are kept.
    kept: usize,
}

impl Default for Hands {
    fn default() -> Hands {
        Hands::keeping(IDLE)
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    idle: usize,
    /// What the disk is asked for, and since when. One that was given up has no time.
    asked: Vec<(u64, Option<Instant>)>,
    /// What is begun when nothing is going on any more that was given up.
    later: VecDeque<(u64, Work)>,
    next: u64,
    left: Vec<Lock>,
    over: bool,
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hands").field(&self.0.state.lock().asked).finish()
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.wanted.notify_all();
    }
}

impl State {
    fn is_silent(&self) -> bool {
        self.asked.iter().any(|(_, since)| since.is_none())
    }

    fn begin(&mut self, id: u64, work: Work) {
        self.asked.push((id, Some(Instant::now())));
        self.waiting.push_back(work);
    }

    /// Begins what could not be begun before; returns how much that is.
    fn begin_later(&mut self) -> usize {
        let later = std::mem::take(&mut self.later);
        let count = later.len();
        later.into_iter().for_each(|(id, work)| self.begin(id, work));
        count
    }
}

impl Shared {
    /// Sees to it that somebody does what was begun last.
    fn wake(self: &Arc<Self>, state: MutexGuard<'_, State>) {
        if state.waiting.len() <= state.idle {
            self.wanted.notify_one();
        } else {
            drop(state);
            self.start();
        }
    }

    fn start(self: &Arc<Self>) {
        let shared = self.clone();
        let start = || thread::Builder::new().name("annulus-disk".to_owned()).spawn(move || shared.work());
        #[cfg(test)]
        let start = || match crate::sync::NO_THREADS.get() {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => start(),
        };
        if start().is_err() {
            let work = self.state.lock().waiting.pop_front();
            if let Some(work) = work {
                work();
            }
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                work();
                state = self.state.lock();
            } else if state.over || state.idle >= self.kept {
                return;
            } else {
                state.idle += 1;
                let idle = |state: &mut State| state.waiting.is_empty() && !state.over;
                let rested = self.wanted.wait_while_for(&mut state, idle, REST).timed_out();
                state.idle -= 1;
                if rested && state.waiting.is_empty() {
                    return;
                }
            }
        }
    }
}

impl Hands {
    /// With so many threads that are kept while they have nothing to do.
    pub fn keeping(kept: usize) -> Hands {
        Hands(Arc::new(Shared { state: Mutex::default(), wanted: Condvar::new(), kept }))
    }

    /// Whether something was given up that the disk has not answered yet.
    pub fn is_silent(&self) -> bool {
        self.0.state.lock().is_silent()
    }

    /// Whether the disk has been in something for long.
    pub fn is_slow(&self) -> bool {
        let slow = |since: &Option<Instant>| since.is_none_or(|since| since.elapsed() > SLOW);
        self.0.state.lock().asked.iter().any(|(_, since)| slow(since))
    }

    /// Drops a lock when nothing is going on any more that was given up.
    pub fn leave(&self, lock: Lock) {
        let mut state = self.0.state.lock();
        if state.is_silent() {
            state.left.push(lock);
            return;
        }
        drop(state);
        drop(lock);
    }

    /// Does `work` on a thread, and waits for it no longer than `limit`.
    ///
    /// # Errors
    /// `TimedOut`: the disk has not answered, or what was given up before has not ended.
    pub fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.is_silent() {
            return Err(silent());
        }
        let board = Board::new(1);
        let ticket = self.begin(&board, 0, work);
        board.end(vec![ticket], limit).pop().unwrap_or_else(|| Err(silent()))
    }

    /// Has `work` done, whose outcome goes to a place of the board, as soon as nothing is going on any more that was given up. Where no thread
    /// can be had it is done here.
    fn begin<T: Send + 'static>(
        &self,
        board: &Arc<Board<T>>,
        slot: usize,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Ticket {
        let mut state = self.0.state.lock();
        let id = state.next;
        state.next += 1;
        let asked = Asked { hands: self.0.clone(), id, board: board.clone(), slot };
        let work = Box::new(move || asked.board.fill(asked.slot, work()));
        if state.is_silent() {
            state.later.push_back((id, work));
        } else {
            state.begin(id, work);
            self.0.wake(state);
        }
        Ticket { hands: self.0.clone(), id }
    }
}

/// Does something on several disks at once. It is waited for until one of them has answered, whatever that is, and then no longer than `limit`
/// for the others: a disk that is slow together with all others is not given up. Where something is still going on that was given up before, it is
/// done behind that.
///
/// It waits as long as all of them hang.
///
/// # Errors
/// `TimedOut`, as with [`Hands::run`].
pub fn together<T: Send + 'static, W: FnOnce() -> io::Result<T> + Send + 'static>(
    works: Vec<(&Hands, W)>,
    limit: Duration,
) -> Vec<io::Result<T>> {
    let board = Board::new(works.len());
    let begin = |(slot, (hands, work)): (usize, (&Hands, W))| hands.begin(&board, slot, work);
    let tickets = works.into_iter().enumerate().map(begin).collect();
    let mut slots = board.slots.lock();
    while !slots.is_empty() && slots.iter().all(Option::is_none) {
        board.filled.wait(&mut slots);
    }
    drop(slots);
    board.end(tickets, limit)
}

/// Where outcomes are waited for.
struct Board<T> {
    slots: Mutex<Vec<Option<io::Result<T>>>>,
    filled: Condvar,
}

fn is_missing<T>(slots: &[Option<T>]) -> bool {
    slots.iter().any(Option::is_none)
}

impl<T> Board<T> {
    fn new(len: usize) -> Arc<Board<T>> {
        let slots = std::iter::repeat_with(|| None).take(len).collect();
        Arc::new(Board { slots: Mutex::new(slots), filled: Condvar::new() })
    }

    fn fill(&self, slot: usize, outcome: io::Result<T>) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(slot) {
            *slot = Some(outcome);
        }
        drop(slots);
        self.filled.notify_all();
    }

    /// What there is after no longer than `limit`. What is not there then is given up, and has no place any more: it is gone when the disk is
    /// not silent any more, since it may be a lock.
    fn end(&self, tickets: Vec<Ticket>, limit: Duration) -> Vec<io::Result<T>> {
        let mut slots = self.slots.lock();
        self.filled.wait_while_for(&mut slots, |slots| is_missing(slots), limit);
        let outcomes = std::mem::take(&mut *slots);
        drop(slots);
        let end = |(outcome, ticket): (Option<io::Result<T>>, Ticket)| {
            outcome.unwrap_or_else(|| {
                ticket.give_up();
                Err(silent())
            })
        };
        outcomes.into_iter().zip(tickets).map(end).collect()
    }
}

/// What a disk is asked for.
struct Ticket {
    hands: Arc<Shared>,
    id: u64,
}

impl Ticket {
    fn give_up(&self) {
        let mut state = self.hands.state.lock();
        let later = state.later.iter().position(|(id, _)| *id == self.id);
        if let Some(work) = later.and_then(|at| state.later.remove(at)) {
            drop(state);
            // It says of itself that it has ended.
            drop(work);
            return;
        }
        // Not there: it has ended a moment ago.
        if let Some((_, since)) = state.asked.iter_mut().find(|(id, _)| *id == self.id) {
            *since = None;
        }
    }
}

/// Tells that something has ended, also where it panicked.
struct Asked<T> {
    hands: Arc<Shared>,
    id: u64,
    board: Arc<Board<T>>,
    slot: usize,
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        let mut state = self.hands.state.lock();
        state.asked.retain(|(id, _)| *id != self.id);
        let (left, begun) = match state.is_silent() {
            true => (Vec::new(), 0),
            false => (std::mem::take(&mut state.left), state.begin_later()),
        };
        drop(state);
        drop(left);
        if std::thread::panicking() {
            self.board.fill(self.slot, Err(io::Error::other("what was asked of the disk panicked")));
        }
        (0..begun).for_each(|_| self.hands.wake(self.hands.state.lock()));
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(60);

    /// A disk that says when it has been asked, and answers when it is told to.
    fn hanging() -> (impl FnOnce() -> io::Result<u32> + Send + 'static, Receiver<()>, Sender<u32>) {
        let ((asked, is_asked), (answer, answered)) = (channel(), channel());
        let work = move || {
            asked.send(()).unwrap();
            Ok(answered.recv().unwrap())
        };
        (work, is_asked, answer)
    }

    fn boxed(
        work: impl FnOnce() -> io::Result<u32> + Send + 'static,
    ) -> Box<dyn FnOnce() -> io::Result<u32> + Send> {
        Box::new(work)
    }

    fn kinds(outcomes: Vec<io::Result<u32>>) -> Vec<Result<u32, io::ErrorKind>> {
        outcomes.into_iter().map(|outcome| outcome.map_err(|e| e.kind())).collect()
    }

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < LONG);
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_hangs_is_given_up_once_another_has_answered() {
        let [ours, theirs] = [Hands::default(), Hands::default()];
        let (work, _asked, answer) = hanging();
        let outcomes = together(vec![(&ours, boxed(|| Ok(1))), (&theirs, boxed(work))], SHORT);
        assert_eq!(kinds(outcomes), [Ok(1), Err(io::ErrorKind::TimedOut)]);
        assert!(theirs.is_silent() && theirs.is_slow() && !ours.is_silent());
        // Nothing is begun there until it has answered.
        let refused = theirs.run(LONG, || -> io::Result<()> { panic!("it is begun") });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
        answer.send(2).unwrap();
        until(|| !theirs.is_silent());
        assert_eq!(theirs.run(LONG, || Ok(3)).unwrap(), 3);
        assert!(!theirs.is_slow());
    }

    #[test]
    fn those_that_hang_all_at_once_are_waited_for() {
        let hands = [Hands::default(), Hands::default()];
        let ((one, one_asked, first), (other, other_asked, second)) = (hanging(), hanging());
        let outcomes = std::thread::scope(|scope| {
            let [ours, theirs] = &hands;
            let waiting =
                scope.spawn(move || together(vec![(ours, boxed(one)), (theirs, boxed(other))], SHORT));
            one_asked.recv().unwrap();
            other_asked.recv().unwrap();
            std::thread::sleep(SHORT * 3);
            assert!(!waiting.is_finished() && !hands.iter().any(Hands::is_silent));
            first.send(1).unwrap();
            second.send(2).unwrap();
            waiting.join().unwrap()
        });
        // The second may be a moment later, but not that much.
        assert_eq!(kinds(outcomes)[0], Ok(1));
    }

    /// That a file is not there is an answer as well.
    #[test]
    fn one_that_hangs_is_given_up_when_the_others_fail() {
        let [ours, theirs] = [Hands::default(), Hands::default()];
        let (work, _asked, answer) = hanging();
        let fails = boxed(|| Err(io::ErrorKind::NotFound.into()));
        let outcomes = together(vec![(&ours, fails), (&theirs, boxed(work))], SHORT);
        assert_eq!(kinds(outcomes), [Err(io::ErrorKind::NotFound), Err(io::ErrorKind::TimedOut)]);
        answer.send(5).unwrap();
    }

    /// Asked for something that was given up, and is answered when it is told to.
    fn silenced(hands: &Hands) -> Sender<u32> {
        let (work, asked, answer) = hanging();
        assert!(hands.run(SHORT, work).is_err());
        assert!(hands.is_silent());
        asked.recv().unwrap();
        answer
    }

    #[test]
    fn what_was_given_up_before_is_no_answer_for_those_that_are_asked_together() {
        for both in [false, true] {
            let hands = [Hands::default(), Hands::default()];
            let [ours, theirs] = &hands;
            let before: Vec<_> = hands.iter().take(if both { 2 } else { 1 }).map(silenced).collect();
            let ((one, one_asked, first), (other, other_asked, second)) = (hanging(), hanging());
            let outcomes = std::thread::scope(|scope| {
                let waiting =
                    scope.spawn(move || together(vec![(ours, boxed(one)), (theirs, boxed(other))], LONG));
                std::thread::sleep(SHORT * 3);
                assert!(!waiting.is_finished() && one_asked.try_recv().is_err());
                assert_eq!(other_asked.try_recv().is_err(), both);
                // What was given up has ended: now they are asked.
                before.iter().for_each(|answer| answer.send(0).unwrap());
                one_asked.recv_timeout(LONG).unwrap();
                if both {
                    other_asked.recv_timeout(LONG).unwrap();
                }
                second.send(2).unwrap();
                first.send(1).unwrap();
                waiting.join().unwrap()
            });
            assert_eq!(kinds(outcomes), [Ok(1), Ok(2)], "{both}");
        }
    }

    #[test]
    fn what_could_not_be_begun_in_time_is_never_begun() {
        let [ours, theirs] = [Hands::default(), Hands::default()];
        let before = silenced(&ours);
        let begun = Arc::new(Mutex::new(false));
        let late = begun.clone();
        let work = boxed(move || {
            *late.lock() = true;
            Ok(1)
        });
        let outcomes = together(vec![(&ours, work), (&theirs, boxed(|| Ok(2)))], SHORT);
        assert_eq!(kinds(outcomes), [Err(io::ErrorKind::TimedOut), Ok(2)]);
        before.send(0).unwrap();
        until(|| !ours.is_silent());
        assert_eq!(ours.run(LONG, || Ok(3)).unwrap(), 3);
        assert!(!*begun.lock());
    }

    #[test]
    fn a_lock_is_held_until_what_was_given_up_has_ended() {
        let hands = Hands::default();
        let (lock, (work, _asked, answer)) = (Arc::new(()), hanging());
        let held = |lock: &Arc<()>| Arc::strong_count(lock) > 1;
        hands.leave(Box::new(lock.clone()));
        assert!(!held(&lock), "nothing was given up");
        assert!(hands.run(SHORT, work).is_err());
        hands.leave(Box::new(lock.clone()));
        assert!(held(&lock));
        drop(hands);
        assert!(held(&lock));
        answer.send(1).unwrap();
        until(|| !held(&lock));
    }

    #[test]
    fn what_panics_has_failed_and_others_go_on() {
        let hands = Hands::default();
        let failed: io::Result<u32> = hands.run(LONG, || panic!("of the disk"));
        assert!(failed.unwrap_err().to_string().contains("panicked"));
        assert!(!hands.is_silent());
        assert_eq!(hands.run(LONG, || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn several_are_at_it_at_once_and_few_threads_are_kept() {
        let hands = Hands::default();
        let count = 5;
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..count)
                .map(|_| {
                    let (work, asked, answer) = hanging();
                    (scope.spawn(|| hands.run(LONG, work)), asked, answer)
                })
                .collect();
            // All of them, before any has an answer.
            all.iter().for_each(|(_, asked, _)| asked.recv().unwrap());
            all.iter().for_each(|(_, _, answer)| answer.send(1).unwrap());
        });
        until(|| hands.0.state.lock().idle == IDLE && hands.0.state.lock().asked.is_empty());
    }

    #[test]
    fn where_no_thread_can_be_had_it_is_done_by_who_asks() {
        let hands = Hands::default();
        crate::sync::NO_THREADS.set(true);
        let here = std::thread::current().id();
        let done = hands.run(LONG, move || Ok(std::thread::current().id() == here));
        crate::sync::NO_THREADS.set(false);
        assert!(done.unwrap());
        assert!(hands.run(LONG, move || Ok(std::thread::current().id() != here)).unwrap());
    }
}
