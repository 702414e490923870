//! The archive: a store's log in pieces, so that a restore can go on from a checkpoint to any later write. See docs/FORMAT.md.
//!
//! Invariants: a piece is written whole and never changed; it holds consecutive sequences, all durable in the source when it was written;
//! what comes back of one has its checksum.

use super::repository::BackupRepository;
use super::storage::Object;
use crate::batch;
use crate::envelope::hex128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use serde::{Deserialize, Serialize};
use std::path::Path;

const ARCHIVE: &str = "archive/";
const MAGIC: &[u8; 8] = b"ANNULUSA";
const VERSION: u32 = 1;
const HEADER: usize = 24;

/// At this moment, and not before, the log had come to this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Milliseconds since 1970.
    pub time: u64,
    pub seq: Seq,
}

/// A keyspace that there was when a piece was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub id: KeyspaceId,
    pub name: String,
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
    pub keyspaces: Vec<Named>,
    pub next_keyspace: u32,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub head: Head,
    bytes: Vec<u8>,
    at: usize,
}

fn prefix(store: u128) -> String {
    format!("{ARCHIVE}{store:032x}/")
}

fn name(store: u128, first: Seq) -> String {
    format!("{}{:016x}", prefix(store), first.0)
}

fn first_of(store: u128, object: &Object) -> Option<Seq> {
    let digits = object.name.strip_prefix(&prefix(store))?;
    let first = Seq(u64::from_str_radix(digits, 16).ok()?);
    (name(store, first) == object.name).then_some(first)
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

    pub fn decode(path: &Path, bytes: Vec<u8>, store: u128, first: Seq) -> Result<Piece> {
        let damaged = |what: &str| {
            let remedy = "restore up to a write before it, or another checkpoint";
            Error::corruption(format!("a piece of the archive {what}")).at(path).remedy(remedy)
        };
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("does not begin with its magic bytes"));
        }
        let word = |at| super::chunk::get_u32(&bytes, at).unwrap_or_default();
        let (version, head_len, len) = (word(8), word(16) as usize, word(20) as usize);
        if bytes.len() < HEADER || word(12) != checksum(&bytes) || bytes.len() != HEADER + head_len + len {
            return Err(damaged("is damaged or cut short: it does not have its checksum"));
        }
        if version != VERSION {
            return Err(super::hash::unsupported("piece of the archive", version).at(path));
        }
        let head: Head = serde_json::from_slice(&bytes[HEADER..HEADER + head_len])
            .map_err(|e| damaged("has a head that is none").caused_by(e))?;
        if head.store != store || head.first != first || head.last < first {
            let text = "a piece of the archive is another store's, or under another's name";
            return Err(Error::new(ErrorKind::Foreign, text).at(path).remedy("put it back where it was"));
        }
        Ok(Piece { head, bytes, at: HEADER + head_len })
    }

    /// Its commits, with their sequences.
    pub fn commits(&self) -> impl Iterator<Item = Result<(Seq, &[u8])>> {
        let (mut at, mut seq) = (self.at, self.head.first);
        std::iter::from_fn(move || {
            if at >= self.bytes.len() && seq.0 == self.head.last.0 + 1 {
                return None;
            }
            let next = super::chunk::get_u32(&self.bytes, at)
                .and_then(|length| self.bytes.get(at + 4..)?.get(..length as usize))
                .filter(|_| seq <= self.head.last);
            let Some(ops) = next else {
                (at, seq) = (self.bytes.len(), self.head.last.next());
                return Some(Err(Error::corruption("a piece of the archive contradicts itself")));
            };
            at += 4 + ops.len();
            let this = seq;
            seq = seq.next();
            Some(Ok((this, ops)))
        })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(8..12).unwrap_or_default());
    crc.update(bytes.get(16..).unwrap_or_default());
    crc.finalize()
}

impl BackupRepository {
    /// The first sequences of the pieces of a store's log, in order.
    pub(crate) fn pieces(&self, store: u128) -> Result<Vec<Seq>> {
        let objects = self.storage.list(&prefix(store))?;
        Ok(objects.iter().filter_map(|object| first_of(store, object)).collect())
    }

    pub(crate) fn piece(&self, store: u128, first: Seq) -> Result<Piece> {
        let name = name(store, first);
        let path = self.storage.describe(&name);
        let bytes = self
            .storage
            .read(&name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "a piece of the archive is missing").at(&path))?;
        Piece::decode(&path, bytes, store, first)
    }

    /// Adds a piece, durably.
    pub(crate) fn add_piece(&self, head: &Head, commits: &[u8]) -> Result<()> {
        self.storage.write(&name(head.store, head.first), &Piece::encode(head, commits)?)?;
        self.storage.settle()
    }

    /// What a store's log is archived up to, if anything of it is.
    pub(crate) fn archived(&self, store: u128) -> Result<Option<Seq>> {
        match self.pieces(store)?.last() {
            Some(first) => Ok(Some(self.piece(store, *first)?.head.last)),
            None => Ok(None),
        }
    }

    /// Removes pieces that lie before every checkpoint of their store: nothing that is left could use them.
    pub(crate) fn prune_archive(&self, store: u128, oldest: Seq) -> Result<()> {
        let pieces = self.pieces(store)?;
        // The piece that the checkpoint's next write lies in stays.
        let needed = pieces.partition_point(|first| *first <= oldest.next()).saturating_sub(1);
        for first in pieces.iter().take(needed) {
            self.storage.delete(&name(store, *first))?;
        }
        self.storage.settle()
    }

    /// Hands the commits of a store after `from`, up to `until`, to `visit`; an error if one is not there.
    pub(crate) fn replay(
        &self,
        store: u128,
        from: Seq,
        until: Seq,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut until = until;
        if crate::plants::is("restore-stops-before-the-end") {
            until = Seq(until.0.saturating_sub(1));
        }
        let mut next = from.next();
        let pieces = self.pieces(store)?;
        let start = pieces.partition_point(|first| *first <= next).saturating_sub(1);
        for first in &pieces[start.min(pieces.len())..] {
            if next > until {
                break;
            }
            if *first > next {
                break;
            }
            let piece = self.piece(store, *first)?;
            for commit in piece.commits() {
                let (seq, ops) = commit?;
                if seq == next && seq <= until {
                    batch::decode(ops).try_for_each(|op| op.map(drop))?;
                    visit(seq, ops)?;
                    next = next.next();
                }
            }
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

    fn head() -> Head {
        Head {
            store: 7,
            first: Seq(5),
            last: Seq(6),
            marks: vec![Mark { time: 9, seq: Seq(5) }],
            keyspaces: vec![Named { id: KeyspaceId(0), name: "default".into() }],
            next_keyspace: 1,
        }
    }

    #[test]
    fn a_piece_comes_back_and_every_flip_and_cut_is_found() {
        let mut commits = Vec::new();
        put(&mut commits, b"first");
        put(&mut commits, b"");
        let bytes = Piece::encode(&head(), &commits).unwrap();
        let decode = |bytes: &[u8]| Piece::decode(Path::new("x"), bytes.to_vec(), 7, Seq(5));
        let piece = decode(&bytes).unwrap();
        let found: Vec<(Seq, &[u8])> = piece.commits().map(Result::unwrap).collect();
        assert_eq!(found, [(Seq(5), &b"first"[..]), (Seq(6), b"")]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let other = Piece::decode(Path::new("x"), bytes.clone(), 8, Seq(5)).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Foreign);
        let missing = Piece::encode(&Head { last: Seq(9), ..head() }, &commits).unwrap();
        assert!(decode(&missing).unwrap().commits().any(|commit| commit.is_err()));
    }
}
