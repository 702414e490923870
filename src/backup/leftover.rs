//! What is to be believed of the bytes in a chunk's place that do not have its hash.
//!
//! A block's checksum says that it is whole, not whose it is, so bytes of another chunk, put there by a disk that wrote in the wrong place or by
//! somebody who copied files, look right one by one. Whole blocks beside each other are one *run*: what was written over them ends within a block
//! nearly always, and breaks that. So the blocks of a run are believed, or not, together.
//!
//! Invariants: a whole object that has not the hash is another's; the records of all blocks that are believed ascend, within the keys that the
//! chunk has; a run that lies within one page of the file is not believed, since a single block of the disk may have brought it.

use super::chunk::{ChunkView, PlainBlock};
use super::index::ChunkRef;
use crate::error::Result;
use crate::ids::Seq;
use std::collections::BTreeSet;

/// The most that a disk is thought to misplace at once.
const PAGE: usize = 4096;

/// Whole blocks beside each other.
#[derive(Debug, Default)]
struct Run {
    blocks: Vec<usize>,
    first: Option<Vec<u8>>,
    last: Vec<u8>,
    /// It has a record that the chunk cannot have.
    foreign: bool,
}

impl Run {
    fn add(&mut self, at: usize, block: &PlainBlock<'_>, entry: &ChunkRef, upto: Seq) {
        self.blocks.push(at);
        let mut cursor = block.start();
        loop {
            match cursor.advance(block) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
            let record = cursor.record(block);
            let within = record.key >= &entry.first[..] && record.key <= &entry.last[..];
            if !within || record.key <= &self.last[..] || record.seq > upto {
                break;
            }
            if self.first.is_none() {
                self.first = Some(record.key.to_vec());
            }
            self.last.clear();
            self.last.extend_from_slice(record.key);
        }
        self.foreign = true;
    }

    /// Ends where the next block would begin.
    fn end(mut self, end: usize) -> Run {
        let start = self.blocks.first().copied().unwrap_or(end);
        self.foreign |= start / PAGE == end.saturating_sub(1) / PAGE;
        self
    }

    fn is_before(&self, later: &Run) -> bool {
        later.first.as_ref().is_none_or(|first| self.last < *first)
    }
}

/// Where in `bytes` the blocks lie that are whole and yet to be passed over; none: nothing of it is the chunk's.
pub fn passed(bytes: &[u8], entry: &ChunkRef, upto: Seq) -> Result<Option<BTreeSet<usize>>> {
    let view = ChunkView::parse(bytes)?;
    if view.records != entry.records {
        return Ok(None);
    }
    let (mut cursor, mut whole) = (view.start(), 0);
    let (mut runs, mut run) = (Vec::new(), Run::default());
    while let Some((at, block)) = view.next_block(&mut cursor) {
        match block {
            Ok(block) => {
                whole += 1;
                run.add(at, &block, entry, upto);
            }
            Err(_) => runs.push(std::mem::take(&mut run).end(at)),
        }
    }
    runs.push(run.end(bytes.len()));
    if whole == view.blocks() {
        return Ok(None);
    }
    // Of two that contradict each other nobody knows which is the chunk's.
    let own: Vec<usize> = (0..runs.len()).filter(|at| !runs[*at].foreign).collect();
    let contradicted = |at: usize| {
        own.iter().any(|other| match other.cmp(&at) {
            std::cmp::Ordering::Less => !runs[*other].is_before(&runs[at]),
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => !runs[at].is_before(&runs[*other]),
        })
    };
    let passed = (0..runs.len()).filter(|at| runs[*at].foreign || contradicted(*at));
    Ok(Some(passed.flat_map(|at| runs[at].blocks.iter().copied()).collect()))
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Buffers;
    use super::super::builder::ChunkBuilder;
    use super::super::chunk::{ChunkRecord, Coding};
    use super::super::hash::ObjectId;
    use super::*;

    const RECORDS: u32 = 600;

    /// A chunk of records with these keys, 33 to a block.
    fn chunk(keys: std::ops::Range<u32>, round: u8) -> (ChunkRef, Vec<u8>) {
        let mut builder = ChunkBuilder::default();
        for n in keys {
            let value = vec![n as u8 ^ round; 2_000];
            builder.push(ChunkRecord { key: &n.to_be_bytes(), seq: Seq(300), value: Some(&value) });
        }
        let raw = builder.finish().unwrap();
        let (records, first, last) = (raw.records, raw.first.clone(), raw.last.clone());
        let bytes = raw.encode(Coding::Plain, &Buffers::default());
        (ChunkRef { id: ObjectId::of(&bytes), bytes: bytes.len() as u32, records, first, last }, bytes)
    }

    fn places(bytes: &[u8]) -> Vec<usize> {
        let view = ChunkView::parse(bytes).unwrap();
        let mut cursor = view.start();
        std::iter::from_fn(|| view.next_block(&mut cursor)).map(|(at, _)| at).collect()
    }

    /// The numbers of the whole blocks that are passed over.
    fn numbers(bytes: &[u8], entry: &ChunkRef) -> Option<Vec<usize>> {
        let places = places(bytes);
        let passed = passed(bytes, entry, Seq(300)).unwrap()?;
        Some((0..places.len()).filter(|block| passed.contains(&places[*block])).collect())
    }

    #[test]
    fn a_whole_object_is_anothers_and_a_damaged_one_is_not() {
        let (entry, bytes) = chunk(0..RECORDS, 0);
        let (_, other) = chunk(0..RECORDS, 1);
        let (_, fewer) = chunk(0..RECORDS - 1, 0);
        let places = places(&bytes);
        assert!(places.len() > 12, "{places:?}");
        assert_eq!(numbers(&other, &entry), None);
        for place in &places {
            let flip = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                bytes[place + 5_000] ^= 1;
                bytes
            };
            assert_eq!(numbers(&flip(&bytes), &entry), Some(vec![]));
            assert_eq!(numbers(&flip(&fewer), &entry), None, "another number of records");
        }
        assert_eq!(numbers(&bytes[..places[3] + 9_000], &entry), Some(vec![]), "cut short");
        assert!(passed(&bytes[..20], &entry, Seq(300)).is_err());
    }

    #[test]
    fn blocks_that_the_chunk_cannot_have_are_passed_over_with_those_beside_them() {
        let (entry, bytes) = chunk(0..RECORDS, 0);
        let places = places(&bytes);
        // From within block 4 on up to within block 7, as from another chunk of the same lengths.
        let with = |other: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[places[4] + 500..places[7] + 500].copy_from_slice(&other[places[4] + 500..places[7] + 500]);
            bytes
        };
        let above = chunk(RECORDS..2 * RECORDS, 1).1;
        assert_eq!(numbers(&with(&above), &entry), Some(vec![5, 6]));
        // Of the chunk's own keys, elsewhere: they contradict those after them.
        let shifted = chunk(40..40 + RECORDS, 1).1;
        let found = numbers(&with(&shifted), &entry).unwrap();
        assert!(found.starts_with(&[5, 6]) && !found.contains(&3), "{found:?}");
        let broken = |block: usize| block == 4 || block == 7;
        assert!((8..places.len()).all(|block| found.contains(&block)) && !found.iter().any(|b| broken(*b)));
        // Records that are younger than the layer.
        assert_eq!(
            passed(&with(&above), &entry, Seq(299)).unwrap().map(|all| all.len()),
            Some(places.len() - 2)
        );
    }
}
