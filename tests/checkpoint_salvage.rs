//! What a salvage makes of objects that are not what their names say: nothing of it is another's, each key comes once, and all that is
//! lost is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{
    BackupRepository, Bytes, CheckpointId, CheckpointOptions, Damage, ErrorKind, Keyspace, Options, Seq,
    Store,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

type Content = BTreeMap<(String, Bytes), (Bytes, Seq)>;

const PAGE: usize = 4096;

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(256 << 10)
}

fn content(store: &Store) -> Content {
    let records = |name: String| {
        let keyspace = store.keyspace(&name).unwrap();
        let read = |item: annulus::Result<(Bytes, Bytes)>| {
            let (key, value) = item.unwrap();
            let (_, seq) = keyspace.get_versioned(&key).unwrap().unwrap();
            ((name.clone(), key), (value, seq))
        };
        keyspace.iter().map(read).collect::<Vec<_>>()
    };
    store.list_keyspaces().unwrap().into_iter().flat_map(records).collect()
}

/// A chunk of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    keyspace: String,
    first: Bytes,
    records: u64,
    path: PathBuf,
}

impl Chunk {
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    repo: BackupRepository,
}

impl Place {
    /// With so many records in each of these keyspaces: the same keys, values of this length that differ, sequences of two bytes.
    fn new(keyspaces: &[&str], records: u32, length: usize) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = options().shards(2).open(dir.path().join("live")).unwrap();
        let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
        for n in 0..200u32 {
            store.insert("filler", n.to_be_bytes()).unwrap();
        }
        for (number, name) in keyspaces.iter().enumerate() {
            fill(&store.keyspace(name).unwrap(), records, length, number as u32);
        }
        store.remove("filler").unwrap();
        Place { dir, store, repo }
    }

    fn checkpoint(&self) -> CheckpointId {
        let options = CheckpointOptions::new().uncompressed(true).full(true);
        self.store.checkpoint_with(&self.repo, options).unwrap()
    }

    /// Those of the checkpoint's chunks that others do not have, in order.
    fn chunks(&self, id: CheckpointId) -> Vec<Chunk> {
        let of = |digit: u32| std::fs::read_dir(self.dir.path().join(format!("backup/objects/{digit:x}")));
        let files = (0..16).filter_map(|digit| of(digit).ok()).flatten().map(|entry| entry.unwrap().path());
        let mut chunks = Vec::new();
        for path in files {
            let bytes = std::fs::read(&path).unwrap();
            if !bytes.starts_with(b"ANNULUSK") {
                continue;
            }
            // What it is of is told where it is missing.
            std::fs::remove_file(&path).unwrap();
            let mut damage = self.repo.verify(id).unwrap().damage;
            std::fs::write(&path, bytes).unwrap();
            let Some(damage) = damage.pop() else { continue };
            let (keyspace, first) = (damage.keyspace.unwrap(), damage.from);
            chunks.push(Chunk { keyspace, first, records: damage.records.unwrap(), path });
        }
        chunks.sort();
        chunks
    }

    /// Salvages the checkpoint while other bytes lie in the chunk's place. What comes back must be what there was, and the rest told. How
    /// many records are lost, and what is told.
    fn salvaged(&self, id: CheckpointId, chunk: &Chunk, bytes: &[u8]) -> (u64, Vec<Damage>) {
        let whole = chunk.bytes();
        std::fs::write(&chunk.path, bytes).unwrap();
        let found = self.repo.verify(id).unwrap();
        let new = tempfile::tempdir_in(self.dir.path()).unwrap();
        let restore = || self.repo.restore(id).unwrap().options(options());
        let error = restore().open(new.path().join("refused")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        let (store, damage) = restore().salvage(new.path().join("new")).unwrap();
        std::fs::write(&chunk.path, whole).unwrap();
        let (there, here) = (content(&self.store), content(&store));
        for (key, record) in &here {
            assert_eq!(there.get(key), Some(record), "{key:?} is another's: {damage:?}");
        }
        let told = |(keyspace, key): &(String, Bytes)| {
            damage.iter().any(|damage| {
                let below = damage.to.as_ref().is_none_or(|to| key < to);
                damage.keyspace.as_ref() == Some(keyspace) && *key >= damage.from && below
            })
        };
        let lost: Vec<_> = there.keys().filter(|key| !here.contains_key(*key)).collect();
        for key in &lost {
            assert!(told(key), "{key:?} is lost, and not told: {damage:?}");
        }
        let lost = lost.len() as u64;
        assert_eq!(found.records + lost, there.len() as u64, "each record is read once");
        let known: Option<u64> = damage.iter().map(|damage| damage.records).sum();
        assert!(known.is_none_or(|known| known == lost), "{lost} are lost: {damage:?}");
        store.close().unwrap();
        (lost, damage)
    }
}

fn fill(keyspace: &Keyspace, records: u32, length: usize, round: u32) {
    for n in 0..records {
        keyspace.insert(n.to_be_bytes(), vec![(n * 7 + round * 13) as u8; length]).unwrap();
    }
}

#[test]
fn a_chunk_in_the_place_of_another_is_lost_as_a_whole() {
    let place = Place::new(&["left", "right"], 1_500, 100);
    let id = place.checkpoint();
    let chunks = place.chunks(id);
    let [left, right] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(left.bytes().len(), right.bytes().len());
    for (one, other) in [(left, right), (right, left)] {
        let (lost, damage) = place.salvaged(id, one, &other.bytes());
        assert_eq!((lost, damage.len()), (1_500, 1));
        assert_eq!(damage[0].records, Some(1_500), "{}", damage[0]);
        // Written over a longer one that was there.
        let longer = [&other.bytes()[..], &[7; 5_000]].concat();
        assert_eq!(place.salvaged(id, one, &longer).0, 1_500);
    }
}

#[test]
fn an_older_chunk_in_the_place_of_a_newer_is_lost_as_a_whole() {
    let place = Place::new(&["left"], 1_500, 100);
    let old = place.checkpoint();
    fill(&place.store.keyspace("left").unwrap(), 1_500, 100, 5);
    let new = place.checkpoint();
    let (old, chunk) = (place.chunks(old), place.chunks(new));
    assert_eq!((old.len(), chunk.len()), (1, 1));
    assert_eq!(place.salvaged(new, &chunk[0], &old[0].bytes()).0, 1_500);
}

#[test]
fn a_chunk_in_the_place_of_its_neighbour_comes_once() {
    let place = Place::new(&["left"], 8_000, 500);
    let id = place.checkpoint();
    let chunks = place.chunks(id);
    assert!(chunks.len() > 1, "{chunks:?}");
    for (n, chunk) in chunks.iter().enumerate() {
        for (m, other) in chunks.iter().enumerate() {
            if n.abs_diff(m) == 1 {
                let (lost, damage) = place.salvaged(id, chunk, &other.bytes());
                assert_eq!((lost, damage.len(), damage[0].records), (chunk.records, 1, Some(lost)));
            }
        }
    }
}

#[test]
fn a_disk_block_of_another_chunk_brings_no_record_of_it() {
    // The last block of the chunk lies wholly within the file's last page.
    let place = Place::new(&["left", "right"], 2 * 613 + 20, 100);
    let id = place.checkpoint();
    let chunks = place.chunks(id);
    let [left, right] = &chunks[..] else { panic!("{chunks:?}") };
    let (whole, other) = (left.bytes(), right.bytes());
    assert_eq!((whole.len(), whole.len() / PAGE), (other.len(), 32), "{} bytes", whole.len());
    let mut least = u64::MAX;
    for page in [0, 1, 15, 16, 17, 31, 32] {
        let mut bytes = whole.clone();
        let end = whole.len().min((page + 1) * PAGE);
        bytes[page * PAGE..end].copy_from_slice(&other[page * PAGE..end]);
        let (lost, damage) = place.salvaged(id, left, &bytes);
        assert!((1..=2 * 613 + 20).contains(&lost), "page {page}: {lost} are lost");
        assert_eq!(damage.len(), 1, "page {page}: one gap, and not {damage:?}");
        least = least.min(lost);
    }
    assert!(least < 650, "{least} are lost at least, and not one block alone");
}

#[test]
fn blocks_beside_a_damaged_one_come_back() {
    let place = Place::new(&["left"], 3_000, 100);
    let id = place.checkpoint();
    let chunks = place.chunks(id);
    let [chunk] = &chunks[..] else { panic!("{chunks:?}") };
    let whole = chunk.bytes();
    let blocks = whole.len() / (64 << 10);
    assert!(blocks >= 4, "{blocks} blocks");
    for block in 0..blocks {
        let mut bytes = whole.clone();
        bytes[block * (64 << 10) + 30_000] ^= 4;
        let (lost, damage) = place.salvaged(id, chunk, &bytes);
        assert!((600..630).contains(&lost), "block {block}: {lost} are lost");
        assert_eq!(damage.len(), 1, "{damage:?}");
    }
    // Two neighbours are one gap.
    let mut bytes = whole.clone();
    bytes[(64 << 10) + 30_000] ^= 4;
    bytes[(128 << 10) + 30_000] ^= 4;
    let (lost, damage) = place.salvaged(id, chunk, &bytes);
    assert!((1200..1260).contains(&lost), "{lost} are lost");
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].to.as_ref().is_some_and(|to| *to < 2_000u32.to_be_bytes()[..]), "{}", damage[0]);
    // What was appended costs nothing, and is told.
    let (lost, damage) = place.salvaged(id, chunk, &[&whole[..], b"more"].concat());
    assert_eq!((lost, damage.len(), damage[0].records), (0, 1, Some(0)));
}
