//! A piece of an archive: consecutive commits of a store's log, and which keyspaces there were meanwhile. See docs/FORMAT.md.
//!
//! Invariants: what comes back of a piece has its checksum, and lies under the name that says which commits it has.

use super::lineage::Lineage;
use crate::envelope::hex128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use serde::{Deserialize, Serialize};
use std::path::Path;

const ARCHIVE: &str = "archive/";
const MAGIC: &[u8; 8] = b"ANNULUSA";
/// The version that is written; those before it are read as well.
const VERSION: u32 = 3;
const HEADER: usize = 24;
/// What to do about one that is damaged.
pub const REMEDY: &str = "restore up to a write before it, or another checkpoint";

/// What to do where what should follow on each other is of two histories.
pub const BETWEEN_HISTORIES: &str = "restore up to a write before both, or from a checkpoint behind it; take away the piece of the history that was given up";

/// How far a clock may go back for nobody to mind, in milliseconds: it is put right by as much, and of two that look at it at once the first may
/// note it last.
pub const CLOCK_STEP: u64 = 2_000;

/// By this moment the log had come to this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Milliseconds since 1970.
    pub time: u64,
    pub seq: Seq,
}

/// A keyspace that there was at some time between a piece's first commit and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub id: KeyspaceId,
    pub name: String,
    /// What the log had come to when it was dropped, if it was by then. Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Seq>,
}

/// What a piece begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    #[serde(with = "hex128")]
    pub store: u128,
    pub first: Seq,
    pub last: Seq,
    pub marks: Vec<Mark>,
    /// In version 1 those that there were when it was written, in the order of their numbers.
    pub keyspaces: Vec<Named>,
    pub next_keyspace: u32,
    /// Which openings wrote it, from the write before `first` on. Since version 3.
    #[serde(default, skip_serializing_if = "Lineage::is_empty")]
    pub history: Lineage,
}

/// A piece as the list of names tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub first: Seq,
    /// At most this: its name says it, or, of one of version 1, the name of the next one; [`Seq::MAX`] of the last one.
    pub last: Seq,
    /// Whether its own name says where it ends.
    named: bool,
}

/// The directory of a store's pieces.
pub fn prefix(store: u128) -> String {
    format!("{ARCHIVE}{store:032x}/")
}

impl Listed {
    pub fn new(first: Seq, last: Seq) -> Listed {
        Listed { first, last, named: true }
    }

    pub fn name(&self, store: u128) -> String {
        let (prefix, first) = (prefix(store), self.first.0);
        if self.named {
            format!("{prefix}{first:016x}-{:016x}", self.last.0)
        } else {
            format!("{prefix}{first:016x}")
        }
    }

    /// Of the name of an object; none if it is not one of a piece of the store.
    pub fn of(store: u128, name: &str) -> Option<Listed> {
        let digits = name.strip_prefix(&prefix(store))?;
        let number = |digits| u64::from_str_radix(digits, 16).ok().map(Seq);
        let listed = match digits.split_once('-') {
            Some((first, last)) => Listed { first: number(first)?, last: number(last)?, named: true },
            None => Listed { first: number(digits)?, last: Seq::MAX, named: false },
        };
        (listed.name(store) == name).then_some(listed)
    }

    /// In the order of their first commits, of those with the same one the longest first; where names leave the end open, the next one says it.
    pub fn in_order(mut all: Vec<Listed>) -> Vec<Listed> {
        all.sort_by_key(|piece| (piece.first, piece.named));
        let mut next = Seq::MAX;
        for at in (0..all.len()).rev() {
            if !all[at].named && next > all[at].first {
                all[at].last = if next == Seq::MAX { next } else { Seq(next.0 - 1) };
            }
            if at == 0 || all[at - 1].first < all[at].first {
                next = all[at].first;
            }
        }
        all.sort_by_key(|piece| (piece.first, std::cmp::Reverse(piece.last)));
        all
    }

    /// Whether nobody knows where it ends before it has been read.
    pub fn is_open(&self) -> bool {
        !self.named && self.last == Seq::MAX
    }

    /// Whether it takes the place of another one: that does not say where it ends, and could not be read when this one was written from where it begins on.
    pub fn replaces(&self, other: &Listed) -> bool {
        self.named && !other.named && self.first == other.first
    }
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub head: Head,
    /// Its head has every keyspace that there was at a moment within it, and says which were dropped since.
    pub tells_drops: bool,
    /// A mark of its last commit is of a moment at which the log had come to that, and no further. Since version 3: before, the time may be one that was
    /// noted when it had come to more.
    pub tells_end: bool,
    bytes: Vec<u8>,
    at: usize,
}

/// Puts a commit into the bytes of a piece.
pub fn put(bytes: &mut Vec<u8>, ops: &[u8]) {
    bytes.extend_from_slice(&(ops.len() as u32).to_le_bytes());
    bytes.extend_from_slice(ops);
}

impl Piece {
    pub fn encode(head: &Head, commits: &[u8]) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(head)
            .map_err(|e| Error::invalid("a piece's head cannot be written as JSON").caused_by(e))?;
        let mut bytes = Vec::with_capacity(HEADER + head.len() + commits.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(commits.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(commits);
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    pub fn decode(path: &Path, bytes: Vec<u8>, store: u128, listed: &Listed) -> Result<Piece> {
        let damaged =
            |what: &str| Error::corruption(format!("a piece of the archive {what}")).at(path).remedy(REMEDY);
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("does not begin with its magic bytes"));
        }
        let word = |at| super::chunk::get_u32(&bytes, at).unwrap_or_default();
        let (version, head_len, len) = (word(8), word(16) as usize, word(20) as usize);
        if bytes.len() < HEADER || word(12) != checksum(&bytes) || bytes.len() != HEADER + head_len + len {
            return Err(damaged("is damaged or cut short: it does not have its checksum"));
        }
        if !(1..=VERSION).contains(&version) {
            return Err(super::hash::unsupported("piece of the archive", version).at(path));
        }
        let head: Head = serde_json::from_slice(&bytes[HEADER..HEADER + head_len])
            .map_err(|e| damaged("has a head that is none").caused_by(e))?;
        if head.last < head.first || head.last == Seq::MAX {
            return Err(damaged("contradicts itself: it ends before it begins, or never"));
        }
        head.history.check(head.last).map_err(|what| damaged(&format!("contradicts itself: {what}")))?;
        let named = listed.named == (version > 1) && (!listed.named || head.last == listed.last);
        if head.store != store || head.first != listed.first || !named {
            let text = "a piece of the archive is another store's, or under another's name";
            return Err(Error::new(ErrorKind::Foreign, text).at(path).remedy("put it back where it was"));
        }
        let (tells_drops, tells_end) = (version > 1, version > 2);
        Ok(Piece { head, tells_drops, tells_end, bytes, at: HEADER + head_len })
    }

    /// Its marks in their order, each with whether the log had come to no more by then.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = (&Mark, bool)> {
        let count = self.head.marks.len();
        // What may not have been noted is the last one, where it is of the piece's end.
        let is_exact =
            move |at: usize, mark: &Mark| self.tells_end || at + 1 < count || mark.seq > self.head.last;
        (0..count).zip(&self.head.marks).map(move |(at, mark)| (mark, is_exact(at, mark)))
    }

    /// Errors if a piece that reaches into this one has other commits there: then they are of two histories of the store.
    pub fn check_goes_on(&self, before: &Piece) -> Result<()> {
        if before.head.last < self.head.first {
            return Ok(());
        }
        let mut own = self.commits();
        let reaching =
            before.commits().skip_while(|commit| matches!(commit, Ok((seq, _)) if *seq < self.head.first));
        for commit in reaching {
            let (seq, ops) = commit?;
            match own.next().transpose()? {
                Some((_, same)) if same == ops => {}
                Some(_) => return Err(other_history(seq)),
                // It ends before that one does.
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// How many bytes it has in its storage.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Its commits, with their sequences.
    pub fn commits(&self) -> impl Iterator<Item = Result<(Seq, &[u8])>> {
        let (mut at, mut seq) = (self.at, self.head.first);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || at >= self.bytes.len() && seq > self.head.last {
                return None;
            }
            let next = super::chunk::get_u32(&self.bytes, at)
                .and_then(|length| self.bytes.get(at + 4..)?.get(..length as usize))
                .filter(|_| seq <= self.head.last);
            let Some(ops) = next else {
                failed = true;
                return Some(Err(Error::corruption("a piece of the archive contradicts itself")));
            };
            at += 4 + ops.len();
            let this = seq;
            seq = seq.next();
            Some(Ok((this, ops)))
        })
    }
}

fn other_history(seq: Seq) -> Error {
    let text = format!(
        "two pieces of the archive have the write with sequence {seq}, and each another one: they are of two histories of the store"
    );
    Error::new(ErrorKind::Mismatch, text).remedy(BETWEEN_HISTORIES)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(8..12).unwrap_or_default());
    crc.update(bytes.get(16..).unwrap_or_default());
    crc.finalize()
}

/// The bytes of a piece as an earlier version has them, for tests of what they tell.
#[cfg(test)]
pub fn as_version(version: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            store: 7,
            first: Seq(5),
            last: Seq(6),
            marks: vec![Mark { time: 9, seq: Seq(5) }],
            keyspaces: vec![Named { id: KeyspaceId(0), name: "default".into(), dropped: None }],
            next_keyspace: 1,
            history: Lineage::default(),
        }
    }

    fn listed(first: u64, last: u64) -> Listed {
        Listed::new(Seq(first), Seq(last))
    }

    #[test]
    fn a_piece_comes_back_and_every_flip_and_cut_is_found() {
        let mut commits = Vec::new();
        put(&mut commits, b"first");
        put(&mut commits, b"");
        let bytes = Piece::encode(&head(), &commits).unwrap();
        let decode = |bytes: &[u8]| Piece::decode(Path::new("x"), bytes.to_vec(), 7, &listed(5, 6));
        let piece = decode(&bytes).unwrap();
        let found: Vec<(Seq, &[u8])> = piece.commits().map(Result::unwrap).collect();
        assert_eq!(found, [(Seq(5), &b"first"[..]), (Seq(6), b"")]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        for (store, listed) in [(8, listed(5, 6)), (7, listed(5, 7)), (7, listed(4, 6))] {
            let other = Piece::decode(Path::new("x"), bytes.clone(), store, &listed).unwrap_err();
            assert_eq!(other.kind(), ErrorKind::Foreign);
        }
        let missing = Piece::encode(&Head { last: Seq(9), ..head() }, &commits).unwrap();
        let missing = Piece::decode(Path::new("x"), missing, 7, &listed(5, 9)).unwrap();
        assert!(missing.commits().any(|commit| commit.is_err()));
    }

    #[test]
    fn a_piece_tells_by_its_version_whether_the_time_of_its_end_is_exact() {
        let mut commits = Vec::new();
        put(&mut commits, b"one");
        put(&mut commits, b"two");
        let mark = |seq| Mark { time: 9, seq: Seq(seq) };
        let told = |version, last| {
            let marks = vec![mark(4), mark(5), mark(last)];
            let bytes = as_version(version, Piece::encode(&Head { marks, ..head() }, &commits).unwrap());
            let name = if version == 1 { Listed { named: false, ..listed(5, 9) } } else { listed(5, 6) };
            let piece = Piece::decode(Path::new("x"), bytes, 7, &name).unwrap();
            piece.marks().map(|(mark, is_exact)| (mark.seq.0, is_exact)).collect::<Vec<_>>()
        };
        for version in [1, 2] {
            assert_eq!(told(version, 6), [(4, true), (5, true), (6, false)]);
            // Of more than it has nobody has made up a time.
            assert_eq!(told(version, 8), [(4, true), (5, true), (8, true)]);
        }
        assert_eq!(told(3, 6), [(4, true), (5, true), (6, true)]);
        let later = as_version(4, Piece::encode(&head(), &commits).unwrap());
        let error = Piece::decode(Path::new("x"), later, 7, &listed(5, 6)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_piece_that_claims_to_reach_the_end_of_all_numbers_is_refused() {
        let mut commits = Vec::new();
        put(&mut commits, b"one");
        for (first, last) in [(5, u64::MAX), (u64::MAX, u64::MAX), (9, 8)] {
            let bytes = Piece::encode(&Head { first: Seq(first), last: Seq(last), ..head() }, &commits);
            let error = Piece::decode(Path::new("x"), bytes.unwrap(), 7, &listed(first, last)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        }
    }

    #[test]
    fn names_tell_what_pieces_have() {
        let (old, new) = (format!("{}{:016x}", prefix(7), 9), listed(9, 12).name(7));
        assert_eq!(Listed::of(7, &new), Some(listed(9, 12)));
        assert_eq!(Listed::of(7, &old).map(|piece| piece.name(7)), Some(old.clone()));
        for other in [format!("{old}-"), format!("{old}-12"), format!("{new}.tmp"), listed(9, 12).name(8)] {
            assert_eq!(Listed::of(7, &other), None, "{other}");
        }
        let open = |first| Listed { first: Seq(first), last: Seq::MAX, named: false };
        let all = vec![listed(20, 22), open(1), listed(20, 30), open(9), listed(15, 19)];
        let ordered = Listed::in_order(all);
        let ends: Vec<(u64, u64)> = ordered.iter().map(|piece| (piece.first.0, piece.last.0)).collect();
        assert_eq!(ends, [(1, 8), (9, 14), (15, 19), (20, 30), (20, 22)]);
        assert!(Listed::in_order(vec![open(3), open(7)])[1].is_open());
    }
}
