//! What an archive ends with, as far as that can be read, and where it is gone on with behind what cannot.
//!
//! Invariant: of what a piece may have that cannot be read, all that the journal still has is archived anew, or the piece's name tells where it
//! ends, and the next one begins behind that: what lies between is told as missing.

use crate::backup::archive::Chain;
use crate::backup::piece::{Listed, Piece};
use crate::backup::repository::BackupRepository;
use crate::backup::unread::Unread;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;

/// What an archive ends with.
pub struct End {
    /// The last piece that can be read.
    pub piece: Option<Piece>,
    pub damaged: Option<Damaged>,
}

/// The pieces that an archive ends with and that are damaged.
pub struct Damaged {
    first: Listed,
    last: Listed,
    /// What is wrong with the last one.
    error: Error,
}

impl Damaged {
    /// The sequences that are lost with them, where the piece before them has those up to `whole`, the journal begins with `journal`, and the store
    /// has come to `until`: none, if the first is behind the last. Archiving goes on behind the last. An error if they begin, or end, where the store
    /// has not come to, or before they begin: what were put behind that would lie upon something else.
    pub fn lacks(self, whole: Option<Seq>, journal: Seq, until: Seq) -> Result<(Seq, Seq)> {
        let Damaged { first, last, error } = self;
        // Where its name does not say where it ends, the journal is archived anew from where it begins.
        let to = match last.is_open() {
            true => Seq(last.first.max(journal).0.saturating_sub(1)),
            false => last.last,
        };
        let is_backwards = !last.is_open() && to < last.first;
        if last.first > until || to > until || is_backwards {
            return Err(error.remedy(
                "take this file away and archive again: what the journal no longer has of it needs a checkpoint behind it",
            ));
        }
        Ok((whole.map_or(first.first, |whole| whole.next().max(first.first)), to))
    }
}

/// Looks for the last piece that can be read. What cannot be while nothing else can, or is of a later release, does not pass for damaged.
pub fn end(repository: &BackupRepository, store: u128, chain: &Chain) -> Result<End> {
    let mut damaged: Option<Damaged> = None;
    for listed in chain.pieces.iter().rev() {
        let Unread { error, of_all } = match repository.piece_or_why(store, listed) {
            Ok(piece) => return Ok(End { piece: Some(piece), damaged }),
            Err(unread) => unread,
        };
        if of_all || !matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Foreign | ErrorKind::Io) {
            return Err(error);
        }
        log::error!("the archive ends with a piece that is damaged: {error}");
        let (last, error) = damaged.map_or((*listed, error), |behind| (behind.last, behind.error));
        damaged = Some(Damaged { first: *listed, last, error });
    }
    Ok(End { piece: None, damaged })
}
