//! What an opening asks of the copies of a journal that takes one of them as it is, or goes on with that.
//!
//! Invariant: what is asked here changes nothing; so a copy that is damaged within is refused before it is given a word.

use super::open::{Found, end_of_age};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::{Journal, Known};
use std::path::Path;

impl Found {
    /// Whether none was believed, and one was accepted in this opening.
    pub fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// The epoch of the first word that this opening gives.
    pub fn next_epoch(&self) -> u64 {
        self.epoch.saturating_add(1)
    }

    /// Whether the copies that are believed are those of an acceptance that began with this epoch, or of what came after it.
    pub fn goes_by(&self, epoch: u64) -> bool {
        !self.accepted && self.heard >= epoch
    }

    /// Whether nothing came after it: an opening that passes it over gives words of a later age.
    pub fn is_of_age(&self, epoch: u64) -> bool {
        self.heard <= end_of_age(epoch)
    }

    /// An opening that goes on with it must not give words of a later age: the next one would pass it over.
    ///
    /// # Errors
    /// `Refused`: it would have to, since a directory that is new has one.
    pub fn keep_to_age(&self, epoch: u64) -> Result<()> {
        if self.next_epoch() <= end_of_age(epoch) {
            return Ok(());
        }
        let text = "a copy of the journal that was accepted is being put into the shards, and a directory that is named now has a later word, of an \
                    opening that came to nothing";
        Err(Error::new(ErrorKind::Refused, text)
            .at(&self.home)
            .remedy("open the store once without naming new directories for the journal"))
    }

    /// This opening goes on with such an acceptance.
    pub fn go_on_accepting(&mut self) {
        self.unfinished = true;
    }

    /// An acceptance that began with this epoch does not count: a copy that has got its word, and is away, must not be taken for newer than
    /// those that go on now.
    pub fn pass_over(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(end_of_age(epoch));
        self.settled = false;
    }

    /// The last write in the copy that reaches furthest, whatever the shards have.
    ///
    /// # Errors
    /// As [`Journal::open`], if it fails in all copies.
    pub fn last(&self) -> Result<Seq> {
        let mut last = None;
        let mut failed = Ok(Seq::ZERO);
        for (_, place) in self.believed() {
            let (disk, dir) = (self.disk.as_ref(), &place.dir);
            let end = |first: Result<Seq>, lenient| {
                let before = Seq(first?.0.saturating_sub(1));
                self.reach(dir, before, Known::default(), lenient)
            };
            let found = end(Journal::first_retained(disk, dir, self.store), false).or_else(|e| {
                // Damage to what nothing is replayed of says nothing of the end.
                match e.kind() == ErrorKind::Corruption {
                    true => end(Journal::newest_beginning(disk, dir, self.store), true).map_err(|_| e),
                    false => Err(e),
                }
            });
            match found {
                Ok(extent) => last = last.max(Some(Seq(extent.end.0.saturating_sub(1)))),
                Err(e) => failed = failed.and(Err(e)),
            }
        }
        last.map_or(failed, Ok)
    }

    /// Whether the user takes a copy as it is that is believed.
    pub fn believes(&self, dir: &Path) -> bool {
        self.believed().any(|(_, place)| place.dir == dir)
    }

    /// Whether a copy can be read from here on, and has all that is known of.
    pub fn has(&self, from: Seq, known: Known) -> bool {
        self.believed().any(|(_, place)| self.reach(&place.dir, from, known, true).is_ok())
    }

    /// Whether a session begins with this write in a copy.
    ///
    /// # Errors
    /// As [`Journal::begins_with`], if it fails in all copies.
    pub fn begins_with(&self, next: Seq) -> Result<bool> {
        let (mut answered, mut failed) = (false, Ok(false));
        for (_, place) in self.believed() {
            match Journal::begins_with(self.disk.as_ref(), &place.dir, self.store, next) {
                Ok(true) => return Ok(true),
                Ok(false) => answered = true,
                Err(e) => failed = Err(e),
            }
        }
        if answered { Ok(false) } else { failed }
    }
}
