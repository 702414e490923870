//! What the workload writes, so that whoever reads it can tell what must be there.
//!
//! Each writer counts its batches; a batch follows from the writer and its number, and carries that number in every value. So
//! the number under `last` says what all of the writer's keys must hold, exactly: with anything else a write was lost, or came
//! back, or a batch is there by halves.

use crate::Random;
use annulus::{Keyspace, WriteBatch};
use std::collections::BTreeMap;

pub const WRITERS: u64 = 3;
/// Few, so that everything is overwritten all the time.
pub const SLOTS: u64 = 3000;
const TOUCHED: u64 = 40;
/// Keys of the second keyspace, all of which a batch with a number divisible by three writes.
pub const WHOLE: u64 = 6;

pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn random(writer: u64, n: u64, what: u64) -> Random {
    Random::new(writer << 56 ^ n << 20 ^ what)
}

pub fn last_key(writer: u64) -> Vec<u8> {
    format!("last/{writer}").into_bytes()
}

pub fn whole_key(writer: u64, i: u64) -> Vec<u8> {
    format!("whole/{writer}/{i}").into_bytes()
}

/// Long keys, of which eight have all but their end in common: what lies between two pages must be named by most of a key, which
/// makes the index large. It is sled's, and must take several segments.
pub fn key(writer: u64, slot: u64) -> Vec<u8> {
    let mut random = random(writer, 0, slot / 8);
    let mut key = format!("slot/{writer}/").into_bytes();
    let length = 180 + random.below(80) as usize;
    key.extend(random.bytes(length).into_iter().map(|byte| b'a' + byte % 16));
    key.extend_from_slice(format!("/{slot:04}").as_bytes());
    key
}

pub fn value(writer: u64, n: u64, slot: u64) -> Vec<u8> {
    let mut random = random(writer, n, slot + 1);
    let length = if random.below(400) == 0 { 20_000 } else { 16 + random.below(900) };
    let mut value = n.to_le_bytes().to_vec();
    value.extend(random.bytes(length as usize));
    value
}

pub fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The slots that a batch writes, and which of them it removes.
pub fn touched(writer: u64, n: u64) -> Vec<(u64, bool)> {
    let mut random = random(writer, n, 0);
    let mut slots: Vec<u64> = (0..TOUCHED).map(|_| random.below(SLOTS)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots.into_iter().map(|slot| (slot, random.below(6) == 0)).collect()
}

pub fn writes_whole(n: u64) -> bool {
    n.is_multiple_of(3)
}

/// What a writer's keys hold after its batch `n`: in the default keyspace, and in the other one.
pub fn content(writer: u64, n: u64) -> (Content, Content) {
    let mut newest: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    for m in 1..=n {
        newest.extend(touched(writer, m).into_iter().map(|(slot, removed)| (slot, (m, removed))));
    }
    let kept = newest.into_iter().filter(|(_, (_, removed))| !removed);
    let mut content: Content =
        kept.map(|(slot, (m, _))| (key(writer, slot), value(writer, m, slot))).collect();
    let mut whole = Content::new();
    if n > 0 {
        content.insert(last_key(writer), n.to_le_bytes().to_vec());
        let m = n - n % 3;
        if m > 0 {
            whole = (0..WHOLE).map(|i| (whole_key(writer, i), m.to_le_bytes().to_vec())).collect();
        }
    }
    (content, whole)
}

/// What a store must hold after the last batch of each writer.
pub struct Expected {
    pub content: Content,
    /// The second keyspace.
    pub whole: Content,
    /// All keys that are ever written in the default keyspace.
    pub keys: Vec<Vec<u8>>,
}

impl Expected {
    /// `there`: the number of each writer's last batch.
    pub fn after(there: &[u64]) -> Expected {
        let (mut content, mut whole) = (Content::new(), Content::new());
        for (writer, n) in (0..).zip(there) {
            let (more, more_whole) = self::content(writer, *n);
            content.extend(more);
            whole.extend(more_whole);
        }
        let slots = |writer| (0..SLOTS).map(move |slot| key(writer, slot));
        let keys = (0..WRITERS).flat_map(|writer| slots(writer).chain([last_key(writer)])).collect();
        Expected { content, whole, keys }
    }
}

/// The batch that a writer commits as its `n`th.
pub fn batch(log: &Keyspace, writer: u64, n: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (slot, removed) in touched(writer, n) {
        let key = key(writer, slot);
        match removed {
            true => batch.remove(key),
            false => batch.insert(key, value(writer, n, slot)),
        };
    }
    if writes_whole(n) {
        for i in 0..WHOLE {
            batch.insert_in(log, whole_key(writer, i), n.to_le_bytes());
        }
    }
    batch.insert(last_key(writer), n.to_le_bytes());
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_changes_what_it_touches_and_nothing_else() {
        let (before, after) = (content(1, 40).0, content(1, 41).0);
        let touched = touched(1, 41);
        for slot in 0..SLOTS {
            let key = key(1, slot);
            match touched.iter().find(|(touched, _)| *touched == slot) {
                Some((_, true)) => assert_eq!(after.get(&key), None),
                Some((_, false)) => assert_eq!(after.get(&key), Some(&value(1, 41, slot))),
                None => assert_eq!(after.get(&key), before.get(&key)),
            }
        }
        assert_eq!(number(&content(1, 41).1[&whole_key(1, 0)]), 39);
    }
}
