//! The archive: a store's log in pieces, so that a restore can go on from a checkpoint to any later write. See docs/FORMAT.md.
//!
//! Invariants: a piece is written whole and never changed: its name says what it has, so one that arrives late takes nothing away; it holds
//! consecutive sequences, all durable in the source when it was written. Of pieces that overlap those count that reach further.

use super::checkpoint::Body;
use super::piece::{self, BETWEEN_HISTORIES, Head, Listed, Piece, prefix};
use super::progress::Watch;
use super::repository::BackupRepository;
use super::storage::{Object, advised};
use super::sweep::Swept;
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use std::collections::HashSet;

/// What has been read of a store's log, or of a checkpoint: up to where, and which opening wrote that.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    pub seq: Seq,
    pub owner: Option<u128>,
}

impl Reached {
    pub fn by(body: &Body) -> Reached {
        Reached { seq: body.seq, owner: body.owner() }
    }

    /// Errors if a piece that goes on from here, or from before, has another write here.
    fn check_goes_on(&self, piece: &Piece) -> Result<()> {
        let has = piece.head.first <= self.seq.next() && self.seq <= piece.head.last;
        let other = piece.head.history.owner(self.seq);
        if has && self.owner.is_some() && other.is_some() && self.owner != other {
            let text = format!(
                "a piece of the archive does not go on from the write with sequence {} that there is, but from that of another history of the store",
                self.seq
            );
            return Err(Error::new(ErrorKind::Mismatch, text).remedy(BETWEEN_HISTORIES));
        }
        Ok(())
    }
}

/// The pieces of a store's log that something can be had of, in order: both their first and their last commits ascend.
#[derive(Debug, Default)]
pub struct Chain {
    pub pieces: Vec<Listed>,
}

impl Chain {
    fn new(all: Vec<Listed>) -> Chain {
        let mut chain = Chain::default();
        for piece in Listed::in_order(all) {
            match chain.pieces.last_mut() {
                Some(before) if piece.replaces(before) => *before = piece,
                // It lies wholly within that one.
                Some(before) if piece.last <= before.last => {}
                _ => chain.pieces.push(piece),
            }
        }
        chain
    }

    /// Of the objects under the prefix of a store.
    pub fn of(store: u128, objects: &[Object]) -> Chain {
        Chain::new(objects.iter().filter_map(|object| Listed::of(store, &object.name)).collect())
    }

    /// How many of the pieces begin at or before a sequence. The last of these is the one that has it, if any does.
    pub fn begun(&self, seq: Seq) -> usize {
        self.pieces.partition_point(|piece| piece.first <= seq)
    }

    /// The pieces from the one on that has a sequence.
    pub fn from(&self, seq: Seq) -> &[Listed] {
        self.pieces.get(self.begun(seq).saturating_sub(1)..).unwrap_or_default()
    }

    /// The first and the last of the sequences that are missing before the newest piece that does not go on where the one before ends, or, of
    /// the first one, where the log began.
    pub fn newest_gap(&self) -> Option<(Seq, Seq)> {
        let begin = Seq::ZERO.next();
        let ends = self.pieces.iter().map(|piece| piece.last.next());
        let pairs = std::iter::once(begin).chain(ends).zip(&self.pieces);
        let (from, piece) = pairs.filter(|(from, piece)| piece.first > *from).last()?;
        Some((from, Seq(piece.first.0.saturating_sub(1))))
    }
}

impl BackupRepository {
    /// The number that was drawn for it when it was created. A store keeps its journal for the archives in repositories by these
    /// ([`Store::archives`](crate::Store::archives)).
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The pieces of a store's log.
    pub(crate) fn chain(&self, store: u128) -> Result<Chain> {
        Ok(Chain::of(store, &self.storage.list(&prefix(store))?))
    }

    pub(crate) fn piece(&self, store: u128, listed: &Listed) -> Result<Piece> {
        let name = listed.name(store);
        let path = self.storage.describe(&name);
        let bytes =
            self.storage.read(&name).map_err(|error| advised(error, piece::REMEDY))?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "a piece of the archive is missing").at(&path)
            })?;
        Piece::decode(&path, bytes, store, listed)
    }

    /// Adds a piece, durably.
    pub(crate) fn add_piece(&self, head: &Head, commits: &[u8]) -> Result<()> {
        let name = Listed::new(head.first, head.last).name(head.store);
        self.storage.write(&name, &Piece::encode(head, commits)?)?;
        self.storage.settle()
    }

    /// How far the archive leads from a sequence on without a gap.
    pub(crate) fn reaches(&self, store: u128, from: Seq) -> Result<Seq> {
        let mut upto = from;
        for piece in self.chain(store)?.from(from.next()) {
            if piece.first > upto.next() {
                break;
            }
            if !piece.is_open() {
                upto = upto.max(piece.last);
                continue;
            }
            match self.piece(store, piece) {
                Ok(piece) => upto = upto.max(piece.head.last),
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                // It leads nowhere; who needs it is told why.
                Err(_) => {}
            }
        }
        Ok(upto)
    }

    /// Removes pieces that lie before every checkpoint of their store, since nothing that is left could use them: `oldest` is the first of
    /// these, none where there is none. And files that never got their names.
    pub(crate) fn prune_archive(&self, store: u128, oldest: Option<Seq>, watch: &Watch) -> Result<Swept> {
        let objects = self.storage.list(&prefix(store))?;
        let chain = Chain::of(store, &objects);
        // The piece that the checkpoint's next write lies in stays.
        let needed = oldest.and_then(|oldest| chain.from(oldest.next()).first().copied());
        let is_needless = |object: &Object| {
            // An archiver that is writing one of them writes it again.
            object.name.ends_with(".tmp")
                || Listed::of(store, &object.name)
                    .is_some_and(|piece| needed.is_some_and(|needed| piece.first < needed.first))
        };
        let mut swept = Swept::default();
        for object in objects.iter().filter(|object| is_needless(object)) {
            self.storage.delete(&object.name)?;
            swept.objects += 1;
            swept.bytes += object.bytes;
            watch.more(1, object.bytes)?;
        }
        self.storage.settle()?;
        Ok(swept)
    }

    /// How many bytes the pieces have that a replay reads.
    pub(crate) fn replayed_bytes(&self, store: u128, from: Seq, until: Seq) -> Result<u64> {
        let objects = self.storage.list(&prefix(store))?;
        let chain = Chain::of(store, &objects);
        let pieces = chain.from(from.next());
        let read = pieces.partition_point(|piece| piece.last < until) + 1;
        let names: HashSet<String> = pieces.iter().take(read).map(|piece| piece.name(store)).collect();
        Ok(objects.iter().filter(|object| names.contains(&object.name)).map(|object| object.bytes).sum())
    }

    /// Hands the commits of a store after `at`, up to `until`, to `visit`, and says in `at` how far it has come; an error if one is not there, or is of another
    /// history than the one before. `watch` is told of every piece.
    pub(crate) fn replay(
        &self,
        store: u128,
        at: &mut Reached,
        until: Seq,
        watch: &Watch,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut until = until;
        if crate::plants::is("restore-stops-before-the-end") {
            until = Seq(until.0.saturating_sub(1));
        }
        let mut next = at.seq.next();
        let mut before: Option<Piece> = None;
        for listed in self.chain(store)?.from(next) {
            if next > until || listed.first > next {
                break;
            }
            let piece = self.piece(store, listed)?;
            watch.more(1, piece.size())?;
            if let Some(before) = &before {
                piece.check_goes_on(before).map_err(|e| e.at(self.storage.describe(&listed.name(store))))?;
            }
            at.check_goes_on(&piece).map_err(|e| e.at(self.storage.describe(&listed.name(store))))?;
            for commit in piece.commits() {
                let (seq, ops) = commit?;
                // What another one has as well that begins before this ends is taken from there, and compared first.
                if seq == next && seq <= until.min(listed.last) {
                    batch::decode(ops).try_for_each(|op| op.map(drop))?;
                    visit(seq, ops)?;
                    *at = Reached { seq, owner: piece.head.history.owner(seq) };
                    next = next.next();
                }
            }
            before = Some(piece);
        }
        if next <= until {
            let text =
                format!("the archive has nothing of the store at sequence {next}; asked for was {until}");
            return Err(Error::new(ErrorKind::NotFound, text)
                .at(self.storage.describe(&prefix(store)))
                .remedy("restore up to a write before it, or from a later checkpoint"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(chain: &Chain) -> Vec<(u64, u64)> {
        chain.pieces.iter().map(|piece| (piece.first.0, piece.last.0)).collect()
    }

    #[test]
    fn of_pieces_that_overlap_those_count_that_reach_further() {
        let all = [(1, 10), (11, 15), (11, 30), (16, 25), (28, 40), (51, 60), (51, 55)];
        let chain = Chain::new(all.iter().map(|(a, b)| Listed::new(Seq(*a), Seq(*b))).collect());
        assert_eq!(ends(&chain), [(1, 10), (11, 30), (28, 40), (51, 60)]);
        assert_eq!(chain.newest_gap(), Some((Seq(41), Seq(50))));
        assert_eq!(chain.from(Seq(29))[0].first, Seq(28));
        assert_eq!(chain.from(Seq(70)).len(), 1);
        assert_eq!((chain.begun(Seq(0)), chain.begun(Seq(11))), (0, 2));
        assert_eq!(Chain::new(Vec::new()).from(Seq(1)), []);
        let gap = |all: &[(u64, u64)]| {
            Chain::new(all.iter().map(|(a, b)| Listed::new(Seq(*a), Seq(*b))).collect()).newest_gap()
        };
        assert_eq!(gap(&[(3, 4)]), Some((Seq(1), Seq(2))));
        assert_eq!((gap(&[(1, 4), (5, 6)]), gap(&[(0, 4)]), gap(&[])), (None, None, None));
    }

    #[test]
    fn a_piece_that_does_not_say_where_it_ends_gives_way_to_those_that_were_written_from_its_beginning_on() {
        let all = |names: &[&str]| {
            let objects = names.iter().map(|name| Object { name: format!("{}{name}", prefix(7)), bytes: 1 });
            let chain = Chain::of(7, &objects.collect::<Vec<_>>());
            chain.pieces.iter().map(|piece| piece.name(7)[prefix(7).len()..].to_owned()).collect::<Vec<_>>()
        };
        let (old, last) = ("0000000000000001", "0000000000000009");
        let new = ["0000000000000009-000000000000000b", "000000000000000c-0000000000000010"];
        assert_eq!(all(&[old, last]), [old, last]);
        assert_eq!(all(&[old, last, new[0], new[1]]), [old, new[0], new[1]]);
        assert_eq!(all(&[old, last, new[0]]), [old, new[0]]);
        // From further on it counts up to there.
        assert_eq!(all(&[old, last, new[1]]), [old, last, new[1]]);
    }
}
