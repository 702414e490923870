//! What the fuzz targets `chunk` and `checkpoint` do, over seeded inputs: damaged ones and arbitrary ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::backup;
use annulus::{Options, Seq};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// `bytes` with a few of them changed, cut short or made longer, or something else altogether.
    fn spoilt(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.below(4) == 0 {
            return self.bytes(400);
        }
        let mut bytes = bytes.to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.splice(at..at, self.bytes(9)).for_each(drop),
                // Lengths and counts are small numbers: these are the interesting ones.
                2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        bytes
    }
}

/// A seed of the clock's, printed, or the one that `ANNULUS_SEED` asks for.
fn seed() -> Random {
    let asked = std::env::var("ANNULUS_SEED").ok().map(|seed| seed.parse().unwrap());
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = asked.unwrap_or_else(now);
    println!("ANNULUS_SEED={seed}");
    Random(seed)
}

#[test]
fn chunks_indexes_and_streams_are_read_or_refused() {
    let mut random = seed();
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().shards(1).replication_factor(1).open(dir.path().join("store")).unwrap();
    let mut records = Vec::new();
    for n in 0..200u32 {
        let key = [&b"key/"[..], &n.to_be_bytes()].concat();
        let value = (n % 7 != 3).then(|| random.bytes(40));
        store.insert(&key, value.as_deref().unwrap_or_default()).unwrap();
        records.push((key, Seq(u64::from(n)), value));
    }
    let chunk = backup::write_chunk(&records);
    let mut stream = Vec::new();
    store.export(&mut stream).unwrap();
    assert_eq!(backup::read_chunk(&chunk).unwrap(), records);
    assert!(backup::read_stream(&stream).is_ok());
    let mut read = 0;
    for _ in 0..30_000 {
        // One without records is never written.
        if let Ok(records) = backup::read_chunk(&backup::with_checksums(&random.spoilt(&chunk)))
            && !records.is_empty()
        {
            read += 1;
            let again =
                backup::read_chunk(&backup::write_chunk(&records)).expect("what was read can be written");
            assert_eq!(again, records);
        }
        let bytes = random.spoilt(&chunk);
        drop(backup::read_index(&bytes));
        drop(backup::read_stream(&random.spoilt(&stream)));
    }
    // Else all were refused at once, and nothing was tried.
    assert!(read > 1_000, "{read}");
}

#[test]
fn manifests_are_read_or_refused_and_come_back_the_same() {
    let mut random = seed();
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().shards(1).replication_factor(1).open(dir.path().join("store")).unwrap();
    store.insert("key", "value").unwrap();
    let repo = annulus::BackupRepository::open(dir.path().join("backup")).unwrap();
    store.checkpoint(&repo).unwrap();
    let file = std::fs::read_dir(dir.path().join("backup/checkpoints")).unwrap().next().unwrap().unwrap();
    let manifest = std::fs::read(file.path()).unwrap();
    // As if of repository 0, which is the one that the target reads manifests of.
    let start = 20;
    let mut body: serde_json::Value =
        serde_json::Deserializer::from_slice(&manifest[start..]).into_iter().next().unwrap().unwrap();
    for (field, value) in body.as_object_mut().unwrap() {
        match field.as_str() {
            "repository" | "id" if value.is_string() => *value = format!("{:032x}", 0).into(),
            "repository" | "id" => *value = 0.into(),
            _ => {}
        }
    }
    let body = serde_json::to_vec(&body).unwrap();
    let manifest = backup::wrap_manifest(&body);
    backup::rewrite_manifest(&manifest).unwrap();
    let mut read = 0;
    for _ in 0..30_000 {
        let data = random.spoilt(&body);
        // Behind a right header first, so that the body is reached.
        for bytes in [backup::wrap_manifest(&data), random.spoilt(&manifest)] {
            if let Ok(written) = backup::rewrite_manifest(&bytes) {
                read += 1;
                let again = backup::rewrite_manifest(&written).expect("what was written is read");
                assert_eq!(again, written);
            }
        }
    }
    assert!(read > 1_000, "{read}");
}
