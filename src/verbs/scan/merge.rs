//! Merging what shards and memtables hold into one order.
//!
//! Invariants: of each key the newest version alone is shown, and nothing where that is a removal; records leave in the
//! scan's order, whatever source they come from.

use super::sources::Source;
use crate::batch;
use crate::engine::Record;
use crate::error::Error;
use crate::ids::Seq;
use crate::memtable::IterAt;
use crate::page;
use crate::shard::Layout;
use crate::state::{Copied, Said, Seen};
use std::cmp::Ordering;

/// How many bytes of a key its stem has.
const STEM_BYTES: usize = size_of::<u64>();

/// A frozen memtable's records, and the one that comes next.
pub struct Frozen<'a> {
    records: IterAt<'a, 64>,
    head: Option<Seen<'a>>,
}

impl<'a> Frozen<'a> {
    pub fn new(mut records: IterAt<'a, 64>) -> Frozen<'a> {
        let head = records.next().map(Seen::from);
        Frozen { records, head }
    }
}

/// How much a chunk takes, at most, but for the record that reaches the bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub records: usize,
    pub bytes: usize,
    /// Whether records' sequences are carried along.
    pub versions: bool,
}

/// Where merged records go. Keys are internal ones.
pub trait Sink {
    /// Takes out what has come since the last chunk was complete, and makes room for about as much as will come.
    fn prepare(&mut self, limit: Limit);
    fn is_full(&self, limit: Limit) -> bool;
    /// The key that came last, in two parts; none while nothing has come.
    fn last_key(&self) -> Option<(&[u8], &[u8])>;
    fn push(&mut self, prefix: &[u8], record: Record<'_>, seq: Seq);
    fn push_whole(&mut self, key: &[u8], said: Said<'_>, seq: Seq);
}

/// The merge of one chunk. Sources are numbered: the shards, what was copied of the active table, the frozen tables.
pub struct Merge<'a> {
    pub reverse: bool,
    pub stem_from: usize,
    pub limit: Limit,
    pub layout: &'a Layout,
    pub shards: &'a mut [Source],
    pub copied: &'a Copied,
    /// The copied record that comes next, and whether there are no others than the copied ones.
    pub copied_at: &'a mut usize,
    pub copied_all: bool,
    pub frozen: Vec<Frozen<'a>>,
    /// The stem of what each source comes to next; the greatest where there is nothing.
    pub stems: &'a mut Vec<u64>,
    /// The last key, where it was a removed one.
    pub removed: Option<Vec<u8>>,
}

/// A shard's index, and why it cannot be read.
pub type Failed = (usize, Error);

/// Whether the record that comes next is its shard's own, and not an old copy that nobody keeps up.
#[inline]
fn is_own(layout: &Layout, source: &Source) -> bool {
    !layout.stale[source.index] || crate::plants::is("old-copies-seen-by-scans") || {
        let (head, tail) = source.block.key(source.at);
        let key = [head, tail].concat();
        layout.owns(source.index, layout.ring.position(batch::user_key(&key)))
    }
}

impl Merge<'_> {
    /// Fills `chunk`, which is empty; whether the sources came to their end.
    pub fn run<S: Sink>(&mut self, chunk: &mut S) -> Result<bool, Failed> {
        self.stems.clear();
        for shard in self.shards.iter() {
            self.stems.push(shard.stem());
        }
        let copied = self.copied_stem();
        self.stems.push(copied);
        for table in 0..self.frozen.len() {
            let stem = self.frozen_stem(table);
            self.stems.push(stem);
        }
        let mut before = None;
        let mut empty = None;
        loop {
            if chunk.is_full(self.limit) {
                return Ok(false);
            }
            if let Some(shard) = empty.take() {
                let shard: usize = shard;
                let source = &mut self.shards[shard];
                source.refill()?;
                self.stems[shard] = source.stem();
            }
            let (mut place, least, decided) = least(self.stems);
            if !decided || least == u64::MAX {
                match self.one_of_twins(place, least)?.or_else(|| self.first_of(least)) {
                    Some(first) => place = first,
                    None => return Ok(true),
                }
            }
            let repeated = before == Some(least) && self.is_last(place, chunk);
            before = Some(least);
            if let Some(source) = self.shards.get_mut(place) {
                if !repeated && is_own(self.layout, source) {
                    self.removed = None;
                    let (block, at) = (&source.block, source.at);
                    chunk.push(block.prefix(), block.record(at), block.seq(at));
                }
                source.at += 1;
                self.stems[place] = source.stem();
                if source.at == source.block.len() {
                    empty = Some(place);
                }
            } else if !self.take_recent(place, repeated, chunk) {
                return Ok(false);
            }
        }
    }

    /// Takes a memtable's record; false where what comes after it has not been copied yet.
    fn take_recent<S: Sink>(&mut self, place: usize, repeated: bool, chunk: &mut S) -> bool {
        let Some(seen) = self.recent(place) else { return true };
        if !repeated {
            match seen.said {
                Said::Removed => self.removed = Some(seen.key.to_vec()),
                said => {
                    chunk.push_whole(seen.key, said, seen.seq);
                    self.removed = None;
                }
            }
        }
        let table = place - self.shards.len();
        if table == 0 {
            *self.copied_at += 1;
            self.stems[place] = self.copied_stem();
            return self.copied_all || *self.copied_at < self.copied.len();
        }
        if let Some(table) = self.frozen.get_mut(table - 1) {
            table.head = table.records.next().map(Seen::from);
        }
        self.stems[place] = self.frozen_stem(table - 1);
        true
    }

    fn copied_stem(&self) -> u64 {
        self.copied.get(*self.copied_at).map_or(u64::MAX, |seen| self.stem(seen.key))
    }

    fn frozen_stem(&self, table: usize) -> u64 {
        self.frozen.get(table).and_then(|table| table.head).map_or(u64::MAX, |seen| self.stem(seen.key))
    }

    fn stem(&self, key: &[u8]) -> u64 {
        page::stem(key, self.stem_from, self.reverse)
    }

    /// What the source at `place`, which is not a shard, comes to next.
    fn recent(&self, place: usize) -> Option<Seen<'_>> {
        match place.checked_sub(self.shards.len())? {
            0 => self.copied.get(*self.copied_at),
            table => self.frozen.get(table - 1)?.head,
        }
    }

    fn key(&self, place: usize) -> Option<(&[u8], &[u8])> {
        match self.shards.get(place) {
            Some(source) => (source.at < source.block.len()).then(|| source.block.key(source.at)),
            None => self.recent(place).map(|seen| (seen.key, &[][..])),
        }
    }

    fn seq(&self, place: usize) -> Seq {
        match self.shards.get(place) {
            Some(source) => source.block.seq(source.at),
            None => self.recent(place).map(|seen| seen.seq).unwrap_or_default(),
        }
    }

    /// Where a stem is that of two shards, the first of them `place`, and both come to the same key: the one with the newer
    /// version. The other goes on. Most ties are replicas of one record, and this settles one with a single comparison.
    #[inline]
    fn one_of_twins(&mut self, place: usize, stem: u64) -> Result<Option<usize>, Failed> {
        let mut others = (place + 1..self.stems.len()).filter(|other| self.stems[*other] == stem);
        let (Some(other), None) = (others.next(), others.next()) else { return Ok(None) };
        let (Some(a), Some(b)) = (self.shards.get(place), self.shards.get(other)) else { return Ok(None) };
        let live = |shard: &Source| shard.at < shard.block.len() && !self.layout.stale[shard.index];
        if !live(a) || !live(b) || !same_key(a.block.key(a.at), b.block.key(b.at), self.stem_from) {
            return Ok(None);
        }
        let newer = a.block.seq(a.at) >= b.block.seq(b.at);
        let (kept, passed) = if newer { (place, other) } else { (other, place) };
        let source = &mut self.shards[passed];
        source.at += 1;
        source.refill()?;
        self.stems[passed] = source.stem();
        Ok(Some(kept))
    }

    /// Among the sources with this stem the one that is first: by its whole key, of one key the newest version.
    fn first_of(&self, stem: u64) -> Option<usize> {
        let mut first = None;
        for place in (0..self.stems.len()).filter(|place| self.stems[*place] == stem) {
            let Some(key) = self.key(place) else { continue };
            let before = |other: usize| {
                let order = self.key(other).map_or(Ordering::Less, |other| cmp_parts(key, other));
                let order = if self.reverse { order.reverse() } else { order };
                order.then_with(|| self.seq(other).cmp(&self.seq(place))).is_lt()
            };
            if first.is_none_or(before) {
                first = Some(place);
            }
        }
        first
    }

    /// Whether the key at `place` is the one that was taken last.
    fn is_last<S: Sink>(&self, place: usize, chunk: &S) -> bool {
        let last = self.removed.as_deref().map(|key| (key, &[][..])).or_else(|| chunk.last_key());
        last.zip(self.key(place)).is_some_and(|(last, key)| cmp_parts(key, last).is_eq())
    }
}

/// The place of the least stem, it, and whether it is alone. Without a branch on which of two is less: that is not to be
/// foretold where records lie in the shards at random.
#[inline]
fn least(stems: &[u64]) -> (usize, u64, bool) {
    let (mut place, mut least, mut times) = (0, u64::MAX, 0u32);
    for (index, stem) in stems.iter().enumerate() {
        let less = *stem < least;
        times = if less { 0 } else { times } + u32::from(*stem <= least);
        place = if less { index } else { place };
        least = if less { *stem } else { least };
    }
    (place, least, times < 2)
}

/// Whether two keys in two parts each are one, given that their stems from `stem_from` are, and what is before them.
#[inline]
fn same_key(a: (&[u8], &[u8]), b: (&[u8], &[u8]), stem_from: usize) -> bool {
    let len = a.0.len() + a.1.len();
    if len != b.0.len() + b.1.len() {
        return false;
    }
    // Of keys of one length that have equal stems the eight bytes are equal, and not only padded to be.
    let known = stem_from + STEM_BYTES;
    match (known.checked_sub(a.0.len()), known.checked_sub(b.0.len())) {
        _ if len <= known => true,
        (Some(a_from), Some(b_from)) => a.1.get(a_from..) == b.1.get(b_from..),
        _ => cmp_parts(a, b).is_eq(),
    }
}

/// How two keys compare that are in two parts each.
pub fn cmp_parts(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> Ordering {
    if a.0.len() > b.0.len() {
        return cmp_parts(b, a).reverse();
    }
    let (start, rest) = b.0.split_at(a.0.len());
    a.0.cmp(start).then_with(|| match a.1.split_at_checked(rest.len()) {
        Some((middle, tail)) => middle.cmp(rest).then_with(|| tail.cmp(b.1)),
        None => a.1.cmp(rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_compare_as_the_wholes(
            a in proptest::collection::vec(0u8..3, 0..8), b in proptest::collection::vec(0u8..3, 0..8),
            x: prop::sample::Index, y: prop::sample::Index,
        ) {
            let (pa, pb) = (a.split_at(x.index(a.len() + 1)), b.split_at(y.index(b.len() + 1)));
            prop_assert_eq!(cmp_parts(pa, pb), a.cmp(&b));
        }

        #[test]
        fn what_follows_the_stems_tells_keys_apart(
            a in proptest::collection::vec(0u8..2, 0..24), other in proptest::collection::vec(0u8..2, 0..24),
            stem_from in 0usize..12, keep: prop::sample::Index, x: prop::sample::Index, y: prop::sample::Index,
        ) {
            // Mostly the two share what a walk and equal stems say that they do.
            let mut b = a.clone();
            b.truncate(keep.index(a.len() + 1));
            b.extend(other.iter().skip(b.len()));
            let shared = a.get(..stem_from.min(a.len())) == b.get(..stem_from.min(a.len()));
            let stem = |key: &[u8]| page::stem(key, stem_from, false);
            if shared && stem(&a) == stem(&b) {
                let (pa, pb) = (a.split_at(x.index(a.len() + 1)), b.split_at(y.index(b.len() + 1)));
                prop_assert_eq!(same_key(pa, pb, stem_from), a == b);
            }
        }

        #[test]
        fn the_least_is_found(stems in proptest::collection::vec(prop_oneof![0u64..5, Just(u64::MAX)], 1..6)) {
            let (place, found, alone) = least(&stems);
            let expected = *stems.iter().min().unwrap();
            prop_assert_eq!(found, expected);
            let times = stems.iter().filter(|stem| **stem == expected).count();
            prop_assert_eq!(alone, times == 1);
            if expected < u64::MAX {
                prop_assert_eq!(stems[place], expected);
            }
        }
    }
}
