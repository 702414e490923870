//! Which copies of a journal are to be believed, which of them serves, and mending the others, when a store is opened.
//!
//! | what is found | what is done |
//! |---|---|
//! | copies whose word is of the newest epoch and names them, as the store's directory does if its word is as new | believed; the undamaged one that reaches furthest serves, of several the one that begins first |
//! | one believed copy, and the words do not say yet that it is alone | read first: damaged it leaves no other one behind |
//! | a believed copy that differs from it, or is damaged | made like it before the store opens; not counted complete meanwhile |
//! | a believed copy that has the note of a failed sync | the one that serves gets it as well, and all others are made anew |
//! | one that cannot be asked for it | made anew, or left out; the others stay as they are |
//! | a file that ends as a segment's name does, and is none, in one of them | the others serve, and it goes from that one; refused where it shows more than they have |
//! | a damaged one that shows more than the undamaged have | mended from the others first, if these have all that is damaged or missing in there, frames, headers or segments; it serves then |
//! | if not, and it shows that a write was synced which the others lack | refused, unless the user accepts the end of the others; or moves that copy away |
//! | damage in all of them to a segment that is read for its end marker alone | passed over, as with one directory |
//! | damage in the copy that serves where nothing is replayed, and not in another | that is mended from the other |
//! | an old segment that a copy which may serve lacks, and another has | put into it first; from one that is left out, where a shard or an archive needs it, before a shard is given up for lacking it |
//! | the copy that serves cannot be read in some place | another that reaches as far serves; if there is none, what cannot be compared stays believed |
//! | a copy of an older epoch, without a word, or absent | left out, and made anew while the store serves |
//! | a directory that the manifest does not list, whatever its word | never believed, nor heard: a move that was not finished may have left it |
//! | such a one, to which the journal may have been moved, since the manifest was taken from a shard | none is believed |
//! | words of the newest epoch that differ, and none of that epoch in the store's directory | none is believed: each may have gone on alone |
//! | a copy whose disk does not answer, be it to an opening of this process that was closed and has its lock still | left out likewise |
//! | none that is believed | refused, unless the user accepts one; where such a lock is the reason it is locked |
//! | no word in the store's directory, and a copy is absent | refused likewise: the absent one may have gone on alone |
//! | all believed copies damaged | one is mended from the others, where these have all of its damaged frames; else the error that the journal has with one directory |

use super::choose::{Extent, Reach};
use super::copy::{Copying, Failed};
use super::words::{Given, Word};
use super::{Locks, Mirror, Mirrors, align, claims, copy};
use crate::disk::{Disk, Limited, mounts};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::recovery::{Survey, Walker};
use crate::journal::{Journal, Known};
use crate::sync::atomic::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a copy lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub id: u32,
    pub dir: PathBuf,
    /// The manifest knew it before this opening; another one is never believed.
    pub known: bool,
    /// It is to be kept. If not, it may serve this opening, and is left alone then.
    pub listed: bool,
    /// The store's own directory of before it had copies, which may have no word yet.
    pub implicit: bool,
    /// How many file systems begin on the way there, as it was last seen. Fewer: its disk is not mounted.
    pub mounts: u32,
}

/// What lies in the places.
#[derive(Debug)]
pub struct Found {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) locks: Arc<Locks>,
    pub(super) home: PathBuf,
    pub(super) store: u128,
    /// With why a copy is not believed; none: it is.
    pub(super) places: Vec<(Place, Option<Error>)>,
    /// After which the words of this opening come.
    pub(super) epoch: u64,
    /// The newest of the words that count.
    pub(super) heard: u64,
    /// The words say of every copy what it is.
    pub(super) settled: bool,
    /// A copy was accepted that may have been left behind after a failed sync.
    pub(super) accepted: bool,
    /// The user accepts where the copies end that can be read, whatever a damaged one shows behind it.
    pub(super) shorter: bool,
    /// An accepted one, in this opening or one before that did not come to its end, may lack segments that it was about to get.
    pub(super) unfinished: bool,
    /// What is older comes back from no copy that is left out.
    pub(super) needed: Seq,
}

impl Mirrors {
    /// Finds the directories fit for the copies of a new store's journal, and locks those that are there: nothing else is changed.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn reserve(disk: &dyn Disk, store: u128, places: &[Place]) -> Result<Arc<Locks>> {
        let vacant = || places.iter().try_for_each(|place| Mirrors::check_vacant(disk, &place.dir, store));
        // Before anything is made there, be it a lock.
        vacant()?;
        let locks = Found::lock(disk, store, places)?;
        // Another may have had the lock, and have made its journal there meanwhile.
        vacant()?;
        Ok(locks)
    }

    /// Makes the directories for the copies of a new store's journal. What an interrupted creation has left is taken over. `limited` is `disk`,
    /// where its disks are not to be waited for longer than that says; `locks` are those that were taken before.
    ///
    /// # Errors
    /// `Foreign`: a directory holds other files. `Locked`: an open store has its journal there. `Io`.
    pub fn create(
        disk: Arc<dyn Disk>,
        home: &Path,
        store: u128,
        places: Vec<Place>,
        limited: Option<Arc<Limited>>,
        locks: Arc<Locks>,
    ) -> Result<Arc<Self>> {
        for Place { dir, .. } in &places {
            let io = |e| Error::io("make the journal's directory", dir, e);
            Mirrors::check_vacant(disk.as_ref(), dir, store)?;
            disk.create_dir_durably(dir).map_err(io)?;
            locks.take(disk.as_ref(), dir)?;
            // Another may have had the lock, and have made its journal there meanwhile.
            Mirrors::check_vacant(disk.as_ref(), dir, store)?;
        }
        let places = places.into_iter().map(|place| (place, None)).collect();
        Ok(Mirrors::new(disk, home, store, places, Given::new(0, None), limited, locks))
    }

    /// Which copy a directory says that it holds. One of a newer epoch than the store's directory `home` may have been begun by a
    /// move that was not finished, and its number be another's by now.
    ///
    /// # Errors
    /// `Foreign`: it is another store's.
    pub fn identify(disk: &dyn Disk, home: &Path, dir: &Path, store: u128) -> Result<Option<u32>> {
        let word = match Word::load(disk, dir, store) {
            Err(e) if e.kind() == ErrorKind::Foreign => return Err(e),
            word => word.ok().flatten(),
        };
        let in_home = Word::load(disk, home, store).ok().flatten();
        let newest = in_home.map_or(u64::MAX, |word| word.epoch);
        Ok(word.filter(|word| word.epoch <= newest).and_then(|word| word.mirror))
    }

    /// Says for the first time that all copies are complete.
    ///
    /// # Errors
    /// `Io`: one is not.
    pub fn vouch(&self) -> Result<()> {
        let lost = self.give_word(&mut self.given.lock(), (0..self.copies.len()).collect())?;
        let causes = self.copies.iter().filter_map(|copy| copy.cause.lock().clone());
        lost.into_iter().map(|(_, cause)| cause).chain(causes).next().map_or(Ok(()), Err)
    }
}

impl Found {
    /// Locks every copy that is there, for those who may not even look before. What is there later is locked when it is made, or, as what does
    /// not answer yet, when its word is read.
    ///
    /// # Errors
    /// `Locked`: an open store has its journal in one of them.
    pub fn lock(disk: &dyn Disk, store: u128, places: &[Place]) -> Result<Arc<Locks>> {
        let locks = Locks::new(store);
        places.iter().try_for_each(|place| locks.take_early(disk, &place.dir))?;
        Ok(Arc::new(locks))
    }

    /// Reads every copy's word; `locks` are theirs, and what could not be locked yet is now, or not believed. `accept`: a copy that the user takes as it is, should none be believed.
    /// `adopted`: what the manifest lists may be what it listed once, since it was taken from a shard.
    ///
    /// # Errors
    /// `Refused`: no copy is believed. `Foreign`: a directory is another store's. `Locked`: no copy is believed, since an opening that was closed
    /// still waits for the disk of one.
    pub fn look(
        disk: Arc<dyn Disk>,
        home: &Path,
        store: u128,
        places: Vec<Place>,
        accept: Option<&Path>,
        adopted: bool,
        locks: Arc<Locks>,
    ) -> Result<Found> {
        let word_in_home = match Word::load(disk.as_ref(), home, store) {
            // What cannot be read is not absent for that; but nor is what is damaged: both ask for every copy's word.
            Err(e) if matches!(e.kind(), ErrorKind::Corruption | ErrorKind::Io) => {
                log::warn!("{e}");
                None
            }
            word => word?,
        };
        let mut words = Vec::new();
        for place in &places {
            match hear(disk.as_ref(), &locks, place, store) {
                Err(e) if matches!(e.kind(), ErrorKind::Foreign | ErrorKind::Locked | ErrorKind::Closed) => {
                    return Err(e);
                }
                word => words.push(word),
            }
        }
        let said = places
            .iter()
            .zip(&words)
            .filter_map(|(place, word)| Some((place, word.as_ref().ok()?.as_ref()?)));
        let last_said = said.clone().map(|(_, word)| word.epoch).max().unwrap_or(0);
        let all = adopted && word_in_home.is_none();
        let heard = said.filter(|(place, _)| place.known || all).map(|(_, word)| word).chain(&word_in_home);
        let epoch = heard.clone().map(|word| word.epoch).max().unwrap_or(0);
        let newest: Vec<&Word> = heard.filter(|word| word.epoch == epoch).collect();
        let named = complete(word_in_home.as_ref().filter(|word| word.epoch == epoch), &newest);
        let mut known: Vec<u32> = newest.iter().flat_map(|word| word.good.iter().copied()).collect();
        let all_heard =
            places.iter().zip(&words).all(|(place, word)| !place.known || matches!(word, Ok(Some(_))));
        let fresh = epoch == 0 && places.iter().any(|place| place.implicit);
        let certain = word_in_home.is_some() || all_heard || fresh;
        let claims = if adopted { claims::of(disk.as_ref(), &places, &words) } else { Vec::new() };
        let mut judged: Vec<(Place, Option<Error>)> = places
            .into_iter()
            .zip(words)
            .map(|(place, word)| {
                let cause =
                    if certain { doubt(&place, word, epoch, &named) } else { Some(uncertain(&place, word)) };
                (place, cause)
            })
            .collect();
        claims::weigh(&claims, &mut judged);
        let accepted = judged.iter().all(|(_, cause)| cause.is_some());
        if accepted {
            // Who only has to wait is asked for nothing.
            if let Some(e) = locks.left().filter(|_| accept.is_none()) {
                return Err(e);
            }
            accept_one(disk.as_ref(), &locks, &mut judged, accept)?;
        }
        // One that is believed is where it belongs.
        for (place, _) in judged.iter_mut().filter(|(place, cause)| place.known && cause.is_none()) {
            place.mounts = mounts(disk.as_ref(), home, &place.dir).unwrap_or(place.mounts);
        }
        // Above whatever lies in a directory that is to be listed from now on.
        let last_said = last_said.max(epoch);
        let given = if accepted { end_of_age(last_said) } else { last_said };
        let none_is_new = judged.iter().all(|(place, _)| place.known || !place.listed);
        let good = |(place, cause): &(Place, Option<Error>)| cause.is_none() && place.listed;
        let mut believed: Vec<u32> = judged.iter().filter(|p| good(p)).map(|(place, _)| place.id).collect();
        believed.sort_unstable();
        known.sort_unstable();
        known.dedup();
        let settled = epoch > 0
            && !accepted
            && none_is_new
            && known == believed
            && word_in_home.is_some_and(|word| word.epoch == epoch);
        Ok(Found {
            disk,
            locks,
            home: home.to_path_buf(),
            store,
            places: judged,
            epoch: given,
            heard: epoch,
            settled,
            accepted,
            shorter: false,
            unfinished: accepted,
            needed: Seq::ZERO,
        })
    }

    /// Whoever reads the journal once it is open needs nothing before `needed`; where nobody says so, everything.
    pub fn needed_from(mut self, needed: Seq) -> Found {
        self.needed = needed;
        self
    }

    /// How many file systems begin on the way to a copy.
    pub fn mounts(&self, id: u32) -> u32 {
        let place = self.places.iter().find(|(place, _)| place.id == id);
        place.map_or(0, |(place, _)| place.mounts)
    }

    pub(super) fn believed(&self) -> impl Iterator<Item = (usize, &Place)> {
        let all = self.places.iter().enumerate();
        all.filter(|(_, (_, cause))| cause.is_none()).map(|(index, (place, _))| (index, place))
    }

    /// The oldest sequence that a replay could begin with.
    ///
    /// # Errors
    /// As [`Journal::first_retained`], if it fails in all copies.
    pub fn first_retained(&self) -> Result<Seq> {
        let first =
            |(_, place): (usize, &Place)| Journal::first_retained(self.disk.as_ref(), &place.dir, self.store);
        let firsts: Vec<Result<Seq>> = self.believed().map(first).collect();
        let least = firsts.iter().filter_map(|first| first.as_ref().ok()).min().copied();
        least.map_or_else(|| firsts.into_iter().collect::<Result<Vec<_>>>().map(|_| Seq::ZERO), Ok)
    }

    /// Finds the copy that reaches furthest, and makes the other believed ones like it; what is returned is the disk for
    /// [`Journal::open`] with the same `from` and `at_least`, once the manifest lists the copies and [`Mirrors::let_go`] was called.
    ///
    /// # Errors
    /// As [`Journal::open`], if it fails in all copies.
    pub fn serve(
        self,
        from: Seq,
        at_least: impl Into<Known>,
        limited: Option<Arc<Limited>>,
    ) -> Result<Arc<Mirrors>> {
        let disk = self.disk.clone();
        let ranked = self.ranked(from, at_least.into())?;
        self.fill(&ranked);
        let (Reach { index: best, extent: Extent { generation, .. }, .. }, compared) =
            self.choose(&ranked)?;
        let Some((source, _)) = self.places.get(best).cloned() else { return Err(nothing_left(&self.home)) };
        let suspects = self.suspects(best, &source.dir)?;
        let (mut good, mut mend, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (place, mut cause)) in self.places.into_iter().enumerate().filter(|(_, (p, _))| p.listed)
        {
            let at = places.len();
            let suspect = suspects.iter().find(|(suspect, _)| *suspect == index);
            if index == best {
                good.insert(0, at);
            } else if let (None, Some((_, why))) = (&cause, suspect) {
                mend.push((at, true));
                cause = Some(why.clone());
            } else if cause.is_none() && compared.contains(&index) {
                good.push(at);
            } else if cause.is_none() {
                mend.push((at, false));
                cause = Some(Error::corruption("it differs from another copy").at(&place.dir));
            } else if !source.listed {
                mend.push((at, true));
            }
            places.push((place, cause));
        }
        let settled = self.settled && mend.is_empty();
        let leaving = (!source.listed).then(|| (source.id, source.dir.clone()));
        let given = Given::new(self.epoch, leaving);
        let mirrors = Mirrors::new(disk, &self.home, self.store, places, given, limited, self.locks);
        if !settled {
            mirrors.settle(&source.dir, generation, good, mend)?;
        }
        Ok(mirrors)
    }

    /// How far one copy goes. `lenient`: damage is passed over where the journal
    /// passes it over, and what nobody asks for there is not replayed.
    pub(super) fn reach(&self, dir: &Path, from: Seq, at_least: Known, lenient: bool) -> Result<Extent> {
        let survey = Survey::read(self.disk.as_ref(), dir, self.store, from)?;
        let mut walker = Walker {
            disk: self.disk.as_ref(),
            segments: &survey.segments,
            boot_id: self.disk.boot_id(),
            // One that was left behind had a failed write or sync; the note of it is made when it serves.
            poisoned: survey.poisoned || self.accepted,
            unfinished: self.unfinished,
            from,
            at_least: at_least.and_applied(from),
            visit: &mut |_, _| Ok(()),
            visited: (0, 0),
            buf: Vec::new(),
        };
        let walk = if lenient { walker.walk_to_what_is_asked()? } else { walker.walk()? };
        let begins = walk.parts.first().and_then(|part| survey.segments.get(part.index));
        let generation = begins.map_or(0, |segment| segment.header.generation);
        Ok(Extent { begins: survey.begins().unwrap_or(walk.end), end: walk.end, generation })
    }
}

impl Mirrors {
    /// Gives word that the copies `good`, and the one that is being left, are complete and no others, then mends those to
    /// be mended (true: from scratch), and gives word of them too. Where there is none to give the first word to, those to be mended
    /// lose theirs.
    fn settle(
        &self,
        from: &Path,
        generation: u64,
        mut good: Vec<usize>,
        mend: Vec<(usize, bool)>,
    ) -> Result<()> {
        let mut given = self.given.lock();
        let mut unheard = false;
        match self.give_word(&mut given, good.clone()) {
            Ok(lost) => {
                for (lost, cause) in lost {
                    good.retain(|index| *index != lost);
                    self.leave_out(lost, cause);
                }
            }
            // Only the one that is being left is complete by now, and it may lie on a disk that takes no writes.
            Err(e) if good.is_empty() => {
                log::warn!("{e}");
                unheard = true;
            }
            Err(e) => return Err(e),
        }
        if mend.is_empty() && !good.is_empty() {
            return Ok(());
        }
        for (index, anew) in mend {
            let Some(mirror) = self.copies.get(index) else { continue };
            let taken_back = if unheard { Word::remove(self.disk.as_ref(), &mirror.dir) } else { Ok(()) };
            match taken_back.and_then(|()| self.mend_one(from, mirror, generation, anew)) {
                Ok(()) => {
                    log::warn!("the copy of the journal at {} was mended", mirror.dir.display());
                    good.push(index);
                }
                Err(e) => *mirror.cause.lock() = Some(e),
            }
        }
        let lost = match good.is_empty() {
            true => Vec::new(),
            false => self.give_word(&mut given, good.clone())?,
        };
        let taken = |index: &usize| lost.iter().all(|(failed, _)| failed != index);
        for mirror in good.iter().filter(|index| taken(index)).filter_map(|index| self.copies.get(*index)) {
            *mirror.cause.lock() = None;
            mirror.good.store(true, Ordering::Release);
        }
        // Not even when the one that is being left has taken the word: nobody would write to it.
        let none = !good.iter().any(taken);
        lost.into_iter().for_each(|(index, cause)| self.leave_out(index, cause));
        if none {
            let cause = self.copies.iter().find_map(|mirror| mirror.cause.lock().clone());
            return Err(cause.unwrap_or_else(|| nothing_left(&self.home)));
        }
        Ok(())
    }

    fn mend_one(&self, from: &Path, mirror: &Mirror, generation: u64, anew: bool) -> Result<()> {
        let (disk, to, stop) = (self.disk.as_ref(), mirror.dir.as_path(), &self.stop);
        let copying = Copying { disk, from, to, stop, gate: None, make_do: true };
        if !anew {
            return align::mend(&copying, generation);
        }
        self.make_dir(mirror)?;
        copying.check_room(false)?;
        let (_, before) = copying.names()?;
        // Not what came from a source that can be read no further, since it may be all that is left of it.
        copying.all().inspect_err(|failed| {
            if matches!(failed, Failed::Target(_)) {
                copying.withdraw(&before);
            }
        })?;
        Ok(())
    }
}

/// The copies that are complete by the words of the newest epoch. One that was given in part before the process ended is
/// followed by one of the same number if the copies that have it are away then; only the store's directory tells which
/// of the two was given to the end.
fn complete(in_home: Option<&Word>, newest: &[&Word]) -> Vec<u32> {
    let agreed = || newest.first().copied().filter(|first| newest.iter().all(|word| word.good == first.good));
    in_home.or_else(agreed).map(|word| word.good.clone()).unwrap_or_default()
}

/// The epoch after which one begins that no copy which is away can have got to: what was accepted in its place must not be
/// taken for older than it.
pub(super) fn end_of_age(epoch: u64) -> u64 {
    epoch | u64::from(u32::MAX)
}

/// The word of a copy that is locked, as far as it can be. An error that is not of the word says that somebody may have it: whatever can be read
/// there by now may not be what it says a moment later.
fn hear(disk: &dyn Disk, locks: &Locks, place: &Place, store: u128) -> Result<Option<Word>> {
    locks.take_late(disk, &place.dir)?;
    let word = Word::load(disk, &place.dir, store)?;
    if word.is_none() && !place.implicit {
        return Ok(None);
    }
    // What is there may have been mounted since the locks were taken.
    locks.take_there(disk, &place.dir)?;
    Word::load(disk, &place.dir, store)
}

/// Why a copy is not believed, if so. `named`: the copies that are complete in the newest epoch.
fn doubt(place: &Place, word: Result<Option<Word>>, epoch: u64, named: &[u32]) -> Option<Error> {
    let behind = |text: String| Error::new(ErrorKind::Unavailable, text).at(&place.dir);
    match word {
        Err(e) => Some(e),
        _ if !place.known => Some(behind("the copy of the journal is new".into())),
        Ok(None) if place.implicit && epoch == 0 => None,
        Ok(None) => Some(behind("there is no copy of the journal, or no word that it is complete".into())),
        Ok(Some(word)) if word.mirror != Some(place.id) => {
            Some(behind("the directory holds another copy of the journal than it should".into()))
        }
        Ok(Some(word))
            if (word.epoch < epoch || !word.good.contains(&place.id))
                && !crate::plants::is("copy-left-behind-is-believed") =>
        {
            Some(behind(format!(
                "the copy of the journal is not complete: its word is of epoch {}, writes went on without it in epoch {epoch}",
                word.epoch
            )))
        }
        Ok(Some(word)) if word.epoch == epoch && !named.contains(&place.id) => Some(behind(format!(
            "the copy of the journal is not known to be complete: other words of its epoch, {epoch}, do not name it"
        ))),
        Ok(Some(_)) => None,
    }
}

fn uncertain(place: &Place, word: Result<Option<Word>>) -> Error {
    let text = match word {
        Err(e) => return e,
        Ok(None) => "there is no copy of the journal, or no word that it is complete",
        Ok(Some(_)) => {
            "a copy of the journal is here, but writes may have gone on without it in one that is absent"
        }
    };
    Error::new(ErrorKind::Unavailable, text).at(&place.dir)
}

/// Believes the copy that the user accepts, or says which there are.
fn accept_one(
    disk: &dyn Disk,
    locks: &Locks,
    places: &mut [(Place, Option<Error>)],
    accept: Option<&Path>,
) -> Result<()> {
    let chosen = places.iter_mut().find(|(place, _)| Some(place.dir.as_path()) == accept);
    if let Some((place, cause)) = chosen
        && copy::names(disk, &place.dir).is_ok_and(|names| !names.is_empty())
    {
        locks.take_there(disk, &place.dir)?;
        log::warn!("the copy of the journal at {} is taken as it is, as was asked for", place.dir.display());
        *cause = None;
        return Ok(());
    }
    let causes: Vec<String> =
        places.iter().filter_map(|(_, cause)| Some(cause.as_ref()?.to_string())).collect();
    let text = format!("no copy of the journal is known to be complete: {}", causes.join("; "));
    // What does not answer is not lost, and may be what is complete.
    let silent = |(_, cause): &(Place, Option<Error>)| {
        cause.as_ref().and_then(Error::io_kind) == Some(io::ErrorKind::TimedOut)
    };
    if places.iter().all(silent) {
        let remedy = "look at the disks and the kernel log, and try again when they answer";
        return Err(Error::new(ErrorKind::Unavailable, text).remedy(remedy));
    }
    let nothing = |(place, _): &(Place, Option<Error>)| matches!(Journal::is_in(disk, &place.dir), Ok(false));
    let first = match places.iter().any(silent) {
        true => "look at the disk that does not answer, and try again when it does",
        false => "bring the missing copies back",
    };
    let last = match places.iter().all(nothing) {
        true => {
            "or, if all are lost for good, go on with what was flushed to the shards, with Options::accept_journal_loss"
        }
        false => "or go on without the writes that may be missing, with Options::accept_journal",
    };
    Err(Error::new(ErrorKind::Refused, text).remedy(format!("{first}; {last}")))
}

pub(super) fn nothing_left(home: &Path) -> Error {
    Error::corruption("no copy of the journal is there").at(home).remedy("bring one of them back")
}
