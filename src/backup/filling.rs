//! Records on their way into chunks, from pages and memtables without a stop between.
//!
//! Whoever merges them may find out behind some of them that they must be looked at again: from the last [`begin`](Filling::begin) on
//! everything can be taken out again.
//!
//! Invariants: chunks come out in order, and as if each record had been put in alone; what is held beside the chunk being filled
//! are the chunks that have been ended since the last time they were taken, one mostly.

use super::buffers::Buffers;
use super::builder::{ChunkBuilder, Mark};
use super::chunk::RawChunk;
use crate::batch::KEYSPACE_BYTES;
use crate::ids::Seq;
use std::sync::Arc;

/// A chunk that is being filled, and those that have been ended.
#[derive(Debug)]
pub struct Filling {
    chunk: ChunkBuilder,
    ended: Vec<RawChunk>,
    buffers: Arc<Buffers>,
    keyspace: [u8; KEYSPACE_BYTES],
    /// What was there when the batch began, and what has been added since.
    mark: Mark,
    records: usize,
    bytes: usize,
    /// The batch's last record, where its value is still to come.
    large: Option<(Vec<u8>, Seq)>,
}

impl Filling {
    pub fn new(buffers: Arc<Buffers>) -> Filling {
        Filling {
            chunk: ChunkBuilder::default(),
            ended: Vec::new(),
            buffers,
            keyspace: [0; KEYSPACE_BYTES],
            mark: Mark::default(),
            records: 0,
            bytes: 0,
            large: None,
        }
    }

    /// Begins a batch of records of a keyspace, whose number `key` begins with.
    pub fn begin(&mut self, key: &[u8]) {
        self.keyspace = key.first_chunk().copied().unwrap_or_default();
        self.chunk.mark(&mut self.mark);
        (self.records, self.bytes) = (0, 0);
        self.large = None;
    }

    /// Takes out what has been added since the batch began.
    pub fn take_back(&mut self) {
        if self.records > 0 {
            let first = if self.ended.is_empty() { None } else { Some(self.ended.swap_remove(0)) };
            self.ended.clear();
            let spare = self.chunk.go_back(&self.mark, first);
            self.buffers.give(spare);
        }
        (self.records, self.bytes) = (0, 0);
        self.large = None;
    }

    /// How many records the batch has, and how many bytes of keys and values.
    pub fn added(&self) -> (usize, usize) {
        (self.records, self.bytes)
    }

    /// Whether there is something that should be taken out, or given, first.
    pub fn waits(&self) -> bool {
        !self.ended.is_empty() || self.large.is_some()
    }

    /// The batch's last key, an internal one, in two parts.
    pub fn last_key(&self) -> Option<(&[u8], &[u8])> {
        let last = match &self.large {
            Some((key, _)) => key,
            None if self.records == 0 => return None,
            None => self.chunk.last(),
        };
        Some((&self.keyspace, last))
    }

    /// Adds a record, whose key, an internal one, is in two parts and above the one before. No value: it is to come.
    #[inline]
    pub fn add(&mut self, head: &[u8], tail: &[u8], seq: Seq, value: Option<&[u8]>) {
        let key = match head.get(KEYSPACE_BYTES..) {
            Some(rest) => [rest, tail],
            None => [&[][..], tail.get(KEYSPACE_BYTES - head.len()..).unwrap_or_default()],
        };
        match value {
            Some(_) => self.put(key, seq, value),
            None => self.large = Some((key.concat(), seq)),
        }
    }

    /// The internal key of the record whose value is to come.
    pub fn wanted(&self) -> Option<Vec<u8>> {
        self.large.as_ref().map(|(key, _)| [&self.keyspace[..], key].concat())
    }

    /// Brings the value that is to come.
    pub fn bring(&mut self, value: &[u8]) {
        if let Some((key, seq)) = self.large.take() {
            self.put([&[], &key], seq, Some(value));
        }
    }

    /// Adds a record under a user's key in two parts. No value: a tombstone.
    #[inline]
    pub fn put(&mut self, key: [&[u8]; 2], seq: Seq, value: Option<&[u8]>) {
        let bytes = key[0].len() + key[1].len() + value.map_or(0, <[u8]>::len);
        if self.chunk.is_full_for(bytes) {
            self.end();
        }
        self.records += 1;
        self.bytes += bytes;
        if self.chunk.push_parts(key, seq, value) {
            self.end();
        }
    }

    /// Ends the chunk that is being filled.
    #[cold]
    pub fn end(&mut self) {
        self.ended.extend(self.chunk.finish());
    }

    /// The chunks that have been ended; the batch is over.
    pub fn take_ended(&mut self) -> Vec<RawChunk> {
        std::mem::take(&mut self.ended)
    }

    /// Has the next chunk filled into a buffer that was used, if it has not been begun.
    pub fn refill(&mut self) {
        if self.chunk.is_empty() {
            self.chunk.fill(self.buffers.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::Coding;
    use super::*;
    use proptest::prelude::*;

    fn encoded(filling: &mut Filling) -> Vec<Vec<u8>> {
        let chunks = filling.take_ended().into_iter();
        chunks.map(|chunk| chunk.encode(Coding::Plain, &Buffers::default())).collect()
    }

    fn value(n: u32) -> Vec<u8> {
        // Now and then one that takes the chunk over its limit.
        vec![n as u8; if n.is_multiple_of(401) { 3 << 20 } else { (n * 37 % 4000) as usize }]
    }

    fn add(filling: &mut Filling, n: u32) {
        let key = [&[0, 0, 0, 7][..], &(n / 3).to_be_bytes(), &n.to_be_bytes()].concat();
        let (head, tail) = key.split_at(n as usize % (key.len() + 1));
        let value = value(n);
        if n.is_multiple_of(50) {
            filling.add(head, tail, Seq(u64::from(n)), None);
            assert_eq!(filling.wanted().as_ref(), Some(&key));
        } else {
            filling.add(head, tail, Seq(u64::from(n)), Some(&value));
        }
        let (head, tail) = filling.last_key().unwrap();
        assert_eq!([head, tail].concat(), key);
        filling.bring(&value);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_taken_back_leaves_nothing(batches in prop::collection::vec((1u32..500, 0u32..3), 1..12)) {
            let (mut filling, mut plain) = (Filling::new(Arc::default()), Filling::new(Arc::default()));
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            let mut first = 0;
            for (count, vain) in batches {
                filling.begin(&[0, 0, 0, 7]);
                prop_assert!(filling.last_key().is_none());
                for part in 0..vain {
                    // Other records than those that stay, so that what is left of them shows.
                    (first..first + count / (part + 1)).for_each(|n| add(&mut filling, n * 2 + 1));
                    filling.take_back();
                    prop_assert_eq!(filling.added(), (0, 0));
                    prop_assert!(filling.last_key().is_none() && !filling.waits());
                }
                (first..first + count).for_each(|n| add(&mut filling, n));
                (first..first + count).for_each(|n| {
                    let key = [(n / 3).to_be_bytes(), n.to_be_bytes()].concat();
                    plain.put([&[], &key], Seq(u64::from(n)), Some(&value(n)));
                });
                first += count;
                found.extend(encoded(&mut filling));
                filling.refill();
            }
            filling.end();
            plain.end();
            found.extend(encoded(&mut filling));
            expected.extend(encoded(&mut plain));
            prop_assert!(found == expected, "{} chunks, {} expected", found.len(), expected.len());
        }
    }
}
