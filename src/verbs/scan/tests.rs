//! Long scans, which read ahead where there are threads to spare: whatever happens, they show what they would without.

use super::Pouring;
use crate::backup::Pour;
use crate::backup::buffers::Buffers;
use crate::backup::chunk::Coding;
use crate::backup::filling::Filling;
use crate::error::ErrorKind;
use crate::ids::{Seq, ShardId};
use crate::options::Options;
use crate::record::KeyRange;
use crate::store::Store;
use crate::testing::{self, Background, EngineOperation, MemoryFactory, Seams, SimDisk};
use std::path::Path;
use std::sync::Arc;

const RECORDS: u32 = 60_000;

fn store(factory: &MemoryFactory, replicas: usize, background: Background) -> Store {
    let seams = Seams { disk: Arc::new(SimDisk::new(1)), factory: Arc::new(factory.clone()), background };
    let options = Options::new().shards(3).replication_factor(replicas).memory_budget(64 << 20);
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    for n in 0..RECORDS {
        store.insert(n.to_be_bytes(), n.to_le_bytes()).unwrap();
    }
    store.flush().unwrap();
    store
}

fn state(store: &crate::Keyspace) -> &Arc<crate::state::State> {
    &store.handle.state
}

fn number(record: Option<crate::Result<(&[u8], &[u8])>>) -> Option<u32> {
    record.map(|record| {
        let (key, value) = record.unwrap();
        let number = u32::from_be_bytes(key.try_into().unwrap());
        assert_eq!(value, number.to_le_bytes());
        number
    })
}

#[test]
fn both_ends_take_turns_over_chunks_that_are_read_ahead() {
    for background in [Background::On, Background::Off] {
        let store = store(&MemoryFactory::new(), 1, background);
        // How many records are taken from each end by turns: less than a chunk, several, and enough to read ahead.
        for run in [1_000, 5_000, 25_000, 29_990] {
            let mut range = store.iter();
            let (mut low, mut high, mut back) = (0, RECORDS, false);
            while low < high {
                for _ in 0..run.min(high - low) {
                    if back {
                        high -= 1;
                        assert_eq!(number(range.next_back_ref()), Some(high));
                    } else {
                        assert_eq!(number(range.next_ref()), Some(low));
                        low += 1;
                    }
                }
                back = !back;
                // What is written meanwhile is not of the scan's moment.
                store.insert((RECORDS + low / 1000 * 1000).to_be_bytes(), b"later").unwrap();
                store.flush().unwrap();
            }
            assert_eq!((number(range.next_ref()), number(range.next_back_ref())), (None, None));
            for low in 0..=RECORDS / 1000 {
                store.remove((RECORDS + low * 1000).to_be_bytes()).unwrap();
            }
        }
    }
}

#[test]
fn a_shard_that_fails_under_a_long_scan_is_replaced_or_ends_it() {
    for (replicas, reverse) in [(2, false), (2, true), (1, false), (1, true)] {
        let factory = MemoryFactory::new();
        let store = store(&factory, replicas, Background::On);
        let mut range = store.iter();
        let mut seen = 0;
        let error = loop {
            if seen == 30_000 {
                factory.fail(ShardId(1), EngineOperation::Cursor);
            }
            match if reverse { range.next_back_ref() } else { range.next_ref() } {
                Some(Ok((key, _))) => {
                    let expected = if reverse { RECORDS - 1 - seen } else { seen };
                    assert_eq!(key, expected.to_be_bytes());
                    seen += 1;
                }
                Some(Err(error)) => break Some(error.kind()),
                None => break None,
            }
        };
        if replicas == 2 {
            assert_eq!((seen, error), (RECORDS, None));
        } else {
            assert_eq!(error, Some(ErrorKind::Io));
            assert!((30_000..RECORDS).contains(&seen));
            assert!(range.next_ref().is_none() && range.next_back_ref().is_none());
        }
    }
}

#[test]
fn a_scan_that_reads_ahead_leaves_nothing_behind() {
    let store = store(&MemoryFactory::new(), 1, Background::On);
    for taken in [16_400, 20_000, 59_999] {
        let mut range = store.iter();
        for n in 0..taken {
            assert_eq!(number(range.next_ref()), Some(n));
        }
        assert_eq!(state(&store).memory.live().len(), 1);
        drop(range);
        assert!(state(&store).memory.live().is_empty());
    }
    let mut range = store.iter();
    for n in 0..30_000 {
        assert_eq!(number(range.next_ref()), Some(n));
    }
    let left = Arc::downgrade(state(&store));
    store.close().unwrap();
    let rest: Vec<_> = range.by_ref().collect();
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert!(rest.iter().rev().skip(1).all(Result::is_ok) && rest.len() < 30_000);
    drop((range, store));
    assert_eq!(left.strong_count(), 0);
}

#[test]
fn a_keyspace_that_is_dropped_ends_a_long_scan() {
    let store = store(&MemoryFactory::new(), 1, Background::On);
    let named = store.keyspace("named").unwrap();
    for n in 0..RECORDS {
        named.insert(n.to_be_bytes(), n.to_le_bytes()).unwrap();
    }
    let mut range = named.iter();
    for n in 0..25_000 {
        assert_eq!(number(range.next_ref()), Some(n));
    }
    store.drop_keyspace("named").unwrap();
    let last = range.by_ref().last().unwrap();
    assert_eq!(last.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(range.next().is_none());
}

fn encoded(filling: &mut Filling, chunks: &mut Vec<Vec<u8>>) {
    let ended = filling.take_ended().into_iter();
    chunks.extend(ended.map(|chunk| chunk.encode(Coding::Plain, &Buffers::default())));
}

#[test]
fn a_shard_that_fails_under_a_checkpoint_is_replaced_or_ends_it_without_a_trace() {
    for replicas in [2, 1] {
        let factory = MemoryFactory::new();
        let store = store(&factory, replicas, Background::On);
        let state = state(&store);
        let at = state.memory.last();
        let range = KeyRange { lo: vec![0; 4], hi: Some(vec![0, 0, 0, 1]) };
        let (mut expected, mut chunks) = (Vec::new(), Vec::new());
        let mut plain = Filling::new(Arc::default());
        for n in 0..RECORDS {
            // One record, one commit.
            plain.put([&[], &n.to_be_bytes()], Seq(u64::from(n) + 1), Some(&n.to_le_bytes()));
        }
        plain.end();
        encoded(&mut plain, &mut expected);
        let mut filling = Filling::new(Arc::default());
        let mut source = Pouring::new(state.clone(), range, at).unwrap();
        for batch in 0.. {
            if batch == 5 {
                factory.fail(ShardId(1), EngineOperation::Cursor);
            }
            let poured = source.pour(&mut filling);
            encoded(&mut filling, &mut chunks);
            match poured {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    assert_eq!((replicas, error.kind()), (1, ErrorKind::Io));
                    assert!(batch >= 5 && filling.added() == (0, 0));
                    assert!(!source.pour(&mut filling).unwrap());
                    break;
                }
            }
        }
        drop(source);
        assert!(state.memory.live().is_empty());
        filling.end();
        encoded(&mut filling, &mut chunks);
        assert_eq!(chunks == expected, replicas == 2);
    }
}
