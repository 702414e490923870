//! The table against a plain map that never forgets a version.

use super::{Cursor, OrderedTable, Table, Version};
use crate::error::ErrorKind;
use crate::ids::Seq;
use crate::limits::{MAX_INTERNAL_KEY_BYTES, MAX_VALUE_BYTES};
use crate::record::{KeyRange, RunRecord, is_needed};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Model = BTreeMap<Vec<u8>, Vec<(Seq, Option<Vec<u8>>)>>;

#[derive(Debug, Clone)]
enum Step {
    Write { key: Vec<u8>, value: Option<Vec<u8>>, same_seq: bool },
    Snapshot,
    Release(prop::sample::Index),
}

/// Keys that share prefixes, end where others go on, and hold the bytes that heads are filled up with.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![Just(0u8), Just(0xff), Just(b'a'), Just(b'b')];
    prop_oneof![
        4 => prop::collection::vec(letter.clone(), 0..5),
        3 => (0u32..3_000).prop_map(|i| format!("user/{i:012}").into_bytes()),
        2 => (0u8..4, prop::collection::vec(letter.clone(), 6..12)).prop_map(|(group, tail)| {
            let mut key = format!("tenant-{group}-with-a-long-name/field-").into_bytes();
            key.extend(tail);
            key
        }),
        1 => (any::<u8>(), 1usize..40).prop_map(|(byte, len)| vec![byte; len]),
        1 => prop::collection::vec(any::<u8>(), 0..24),
    ]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    let filled = |len: usize, byte: u8| Some((0..len).map(|i| byte.wrapping_add(i as u8)).collect());
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Vec::new())),
        8 => (1usize..200, any::<u8>()).prop_map(move |(len, byte)| filled(len, byte)),
        2 => (16_000usize..17_000, any::<u8>()).prop_map(move |(len, byte)| filled(len, byte)),
        1 => (30_000usize..80_000, any::<u8>()).prop_map(move |(len, byte)| filled(len, byte)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (key(), value(), prop::bool::weighted(0.2))
            .prop_map(|(key, value, same_seq)| Step::Write { key, value, same_seq }),
        2 => Just(Step::Snapshot),
        1 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    (key(), prop::option::of(key())).prop_map(|(lo, hi)| KeyRange { lo, hi })
}

/// What the model answers at `at`.
fn seen(versions: &[(Seq, Option<Vec<u8>>)], at: Seq) -> Option<Version<'_>> {
    let (seq, value) = versions.iter().find(|(seq, _)| *seq <= at)?;
    Some(Version { seq: *seq, value: value.as_deref() })
}

struct World<const N: usize> {
    table: OrderedTable<N>,
    model: Model,
    live: Vec<Seq>,
    most_live: usize,
    seq: Seq,
}

impl<const N: usize> World<N> {
    fn new() -> Self {
        World {
            table: OrderedTable::new(),
            model: Model::new(),
            live: Vec::new(),
            most_live: 0,
            seq: Seq::ZERO,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write { key, value, same_seq } => {
                // A snapshot stands between writes, so no write may change what one of its sequence saw.
                if !same_seq || self.seq == Seq::ZERO || self.live.last() == Some(&self.seq) {
                    self.seq = self.seq.next();
                }
                self.table.insert(key, self.seq, value.as_deref(), &self.live).unwrap();
                let versions = self.model.entry(key.clone()).or_default();
                versions.retain(|(seq, _)| *seq < self.seq);
                versions.insert(0, (self.seq, value.clone()));
            }
            Step::Snapshot => {
                if self.live.last() != Some(&self.seq) {
                    self.live.push(self.seq);
                    self.most_live = self.most_live.max(self.live.len());
                }
            }
            Step::Release(index) => {
                if !self.live.is_empty() {
                    self.live.remove(index.index(self.live.len()));
                }
            }
        }
    }

    fn compare(&self, probes: &[Vec<u8>], ranges: &[KeyRange]) {
        self.table.check();
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.table.is_empty(), self.model.is_empty());
        let (first, last) = if self.model.is_empty() { (None, None) } else { (Some(Seq(1)), Some(self.seq)) };
        assert_eq!((self.table.min_seq(), self.table.max_seq()), (first, last));
        let views: Vec<Seq> = self.live.iter().copied().chain([self.seq, Seq::MAX]).collect();
        for key in self.model.keys().chain(probes) {
            let versions = self.model.get(key).map_or(&[][..], Vec::as_slice);
            for at in &views {
                assert_eq!(self.table.get(key, *at), seen(versions, *at), "{key:?} at {at}");
            }
        }
        let all = KeyRange { lo: Vec::new(), hi: None };
        for range in ranges.iter().chain([&all]) {
            for at in &views {
                self.compare_scan(range, *at);
            }
            self.compare_iter(range);
        }
        self.compare_records();
    }

    fn compare_scan(&self, range: &KeyRange, at: Seq) {
        let expected: Vec<RunRecord<'_>> = self
            .model
            .iter()
            .filter(|(key, _)| range.contains(key))
            .filter_map(|(key, versions)| {
                seen(versions, at).map(|Version { seq, value }| RunRecord { key, seq, value })
            })
            .collect();
        let forward: Vec<RunRecord<'_>> = self.table.iter_at(range, at, false).collect();
        assert_eq!(forward, expected, "{range:?} at {at}");
        let mut backward: Vec<RunRecord<'_>> = self.table.iter_at(range, at, true).collect();
        backward.reverse();
        assert_eq!(backward, expected, "{range:?} at {at}, from behind");
    }

    fn compare_iter(&self, range: &KeyRange) {
        let expected: Vec<&[u8]> =
            self.model.keys().filter(|key| range.contains(key)).map(Vec::as_slice).collect();
        // From both ends in turn, so that they meet in the middle.
        let (mut iter, mut front, mut back) = (self.table.iter(range), Vec::new(), Vec::new());
        while let Some((key, _)) = iter.next() {
            front.push(key);
            let Some((key, _)) = iter.next_back() else { break };
            back.push(key);
        }
        assert!(iter.next().is_none() && iter.next_back().is_none());
        front.extend(back.into_iter().rev());
        assert_eq!(front, expected);
    }

    /// Every version that is needed is there, no other than was written, few more than are needed; the figures agree.
    fn compare_records(&self) {
        let records: Vec<RunRecord<'_>> = self.table.records().collect();
        assert!(records.windows(2).all(|pair| {
            pair[0].key < pair[1].key || pair[0].key == pair[1].key && pair[0].seq > pair[1].seq
        }));
        assert_eq!(records.len(), self.table.versions());
        let mut held: BTreeMap<&[u8], BTreeSet<Seq>> = BTreeMap::new();
        for record in &records {
            assert_eq!(
                seen(&self.model[record.key], record.seq),
                Some(Version { seq: record.seq, value: record.value })
            );
            held.entry(record.key).or_default().insert(record.seq);
        }
        for (key, versions) in &self.model {
            let held = &held[key.as_slice()];
            assert!(held.contains(&versions[0].0));
            for pair in versions.windows(2) {
                assert!(!is_needed(&self.live, pair[1].0, pair[0].0) || held.contains(&pair[1].0));
            }
            assert!(held.len() <= 2 * (self.most_live + 1) + 1);
        }
        let values: usize = records.iter().map(|record| record.value.map_or(0, <[u8]>::len)).sum();
        let keys: usize = self.model.keys().map(Vec::len).sum();
        assert_eq!(self.table.payload_bytes(), keys + values);
        assert!(self.table.bytes() >= keys + values);
        // In sections of every small size, each from a cursor.
        for section in [1, 2, 7] {
            let (mut cursor, mut again) = (Cursor::START, Vec::new());
            loop {
                let mut part = self.table.records_from(cursor);
                let before = again.len();
                again.extend(part.by_ref().take(section));
                cursor = part.cursor();
                if again.len() < before + section {
                    break;
                }
            }
            assert_eq!(again, records, "sections of {section}");
        }
    }
}

fn play<const N: usize>(steps: &[Step], probes: &[Vec<u8>], ranges: &[KeyRange]) {
    let mut world = World::<N>::new();
    for (i, step) in steps.iter().enumerate() {
        world.run(step);
        if i % 64 == 0 {
            world.compare(probes, ranges);
        }
    }
    world.compare(probes, ranges);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn answers_as_a_map_that_keeps_all_versions(
        steps in prop::collection::vec(step(), 0..500),
        probes in prop::collection::vec(key(), 8),
        ranges in prop::collection::vec(range(), 4),
    ) {
        play::<4>(&steps, &probes, &ranges);
        play::<16>(&steps, &probes, &ranges);
        play::<64>(&steps, &probes, &ranges);
    }
}

#[test]
fn the_limits_themselves_are_allowed_and_beyond_them_is_refused() {
    let mut table = Table::new();
    let long = vec![0xff; MAX_INTERNAL_KEY_BYTES];
    let big: Vec<u8> = (0..MAX_VALUE_BYTES).map(|i| (i / 4096) as u8).collect();
    table.insert(&long, Seq(1), Some(&big), &[]).unwrap();
    table.insert(b"", Seq(2), Some(b""), &[]).unwrap();
    assert_eq!(table.get(&long, Seq::MAX), Some(Version { seq: Seq(1), value: Some(&big) }));
    assert_eq!(table.get(b"", Seq::MAX), Some(Version { seq: Seq(2), value: Some(b"") }));
    let held = table.bytes();
    let payload = MAX_INTERNAL_KEY_BYTES + MAX_VALUE_BYTES;
    assert!((payload..payload + (1 << 20)).contains(&held), "{held}");

    let longer = vec![0xff; MAX_INTERNAL_KEY_BYTES + 1];
    assert_eq!(table.insert(&longer, Seq(3), None, &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    let bigger = vec![0; MAX_VALUE_BYTES + 1];
    assert_eq!(table.insert(b"k", Seq(3), Some(&bigger), &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!((table.len(), table.bytes(), table.max_seq()), (2, held, Some(Seq(2))));

    table.insert(&long, Seq(3), None, &[]).unwrap();
    assert!(table.bytes() < 2 << 20, "a removed large value is given back at once");
    assert_eq!(table.get(&long, Seq::MAX), Some(Version { seq: Seq(3), value: None }));
}

#[test]
fn keys_of_the_greatest_length_that_differ_in_their_last_bytes() {
    let mut table = OrderedTable::<4>::new();
    let mut key = vec![b'k'; MAX_INTERNAL_KEY_BYTES];
    for seq in 1..=60u64 {
        let end = MAX_INTERNAL_KEY_BYTES - 1 - (seq % 6) as usize;
        key[end] = seq as u8;
        table.insert(&key, Seq(seq), Some(&seq.to_le_bytes()), &[]).unwrap();
        assert_eq!(table.get(&key, Seq::MAX).unwrap().seq, Seq(seq));
    }
    table.check();
    assert_eq!(table.len(), 60);
}

#[test]
fn a_sequence_below_the_keys_newest_is_refused_and_changes_nothing() {
    let mut table = Table::new();
    table.insert(b"key", Seq(5), Some(b"five"), &[]).unwrap();
    let error = table.insert(b"key", Seq(4), Some(b"four"), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(table.get(b"key", Seq::MAX), Some(Version { seq: Seq(5), value: Some(b"five") }));
    assert_eq!((table.min_seq(), table.max_seq(), table.versions()), (Some(Seq(5)), Some(Seq(5)), 1));
}

#[test]
fn overwriting_hot_keys_does_not_grow_the_table() {
    let mut table = Table::new();
    let value = vec![7; 64 << 10];
    let mut after_a_while = 0;
    for seq in 1..300_000u64 {
        // Every size up to 4 KiB in an order that fits badly, and a larger one now and then; sometimes a snapshot.
        let len = if seq % 5_000 == 0 { value.len() } else { (seq * 7_919 % 4_096) as usize };
        let live = [Seq(seq - 1)];
        let live = if seq % 3 == 0 { &live[..] } else { &[] };
        let key = [b'k', (seq % 10) as u8];
        table.insert(&key, Seq(seq), Some(&value[..len]), live).unwrap();
        if seq == 50_000 {
            after_a_while = table.bytes();
        }
    }
    assert_eq!(table.len(), 10);
    assert!(table.versions() <= 50, "{}", table.versions());
    assert!(table.bytes() <= after_a_while + (256 << 10), "{} then {}", after_a_while, table.bytes());
    assert!(table.bytes() < 4 << 20, "{}", table.bytes());
}

#[test]
fn a_long_chain_of_snapshots_stays_right_and_shrinks() {
    // A little beyond what is counted, which is 16,383: from there each write looks at all of them.
    const MANY: u64 = 16_400;
    let mut table = Table::new();
    let mut live = Vec::new();
    for seq in 1..=MANY {
        table.insert(b"key", Seq(seq), Some(&seq.to_le_bytes()), &live).unwrap();
        live.push(Seq(seq));
    }
    assert_eq!(table.versions() as u64, MANY);
    for seq in [1, 2, 10_000, MANY - 1, MANY] {
        let value = seq.to_le_bytes();
        assert_eq!(table.get(b"key", Seq(seq)), Some(Version { seq: Seq(seq), value: Some(&value) }));
    }
    let full = table.bytes();
    table.insert(b"key", Seq(MANY + 1), None, &live[MANY as usize - 1..]).unwrap();
    assert_eq!(table.versions(), 2);
    assert_eq!(table.get(b"key", Seq(MANY)).unwrap().value, Some(&MANY.to_le_bytes()[..]));
    assert_eq!(table.bytes(), full);
}

#[test]
fn keys_in_order_fill_their_nodes() {
    let fill = |keys: &mut dyn Iterator<Item = u32>| {
        let mut table = Table::new();
        for (i, key) in keys.enumerate() {
            table.insert(format!("user/{key:012}").as_bytes(), Seq(i as u64 + 1), Some(b"v"), &[]).unwrap();
        }
        table.check();
        table.bytes()
    };
    let ascending = fill(&mut (0..100_000));
    let shuffled = fill(&mut (0..100_000u64).map(|i| (i * 48_271 % 100_003) as u32));
    assert!(ascending < shuffled, "{ascending} {shuffled}");
}

#[test]
fn a_cursor_stays_right_when_the_table_is_written_to() {
    let mut table = OrderedTable::<4>::new();
    for i in 0..200u32 {
        table.insert(format!("{:04}", i * 10).as_bytes(), Seq(1), Some(b"v"), &[]).unwrap();
    }
    let (mut cursor, mut met) = (Cursor::START, Vec::new());
    for round in 0u32.. {
        let mut part = table.records_from(cursor);
        let Some(record) = part.next() else { break };
        met.push(record.key.to_vec());
        cursor = part.cursor();
        // One key before all that were met, one just behind: the second must be met next.
        table.insert(format!("!{round:04}").as_bytes(), Seq(2), None, &[]).unwrap();
        if round < 100 && round % 2 == 0 {
            let behind = [&met[met.len() - 1][..], b"+"].concat();
            table.insert(&behind, Seq(2), None, &[]).unwrap();
        }
    }
    assert_eq!(met.len(), 250);
    assert!(met.windows(2).all(|pair| pair[0] < pair[1]));
}
