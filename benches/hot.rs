//! Keys that are written over and over: `cargo bench --bench hot`.
//!
//! One thread writes random keys of 8 bytes with values of 100, of a thousand, of a hundred thousand and of three million, into four shards
//! without replicas. Printed are the writes a second, and how large the journal is afterwards, which an opening would replay: the memtable of
//! a few keys hardly grows, and is flushed for what it takes in the journal.
//!
//! `ANNULUS_WRITES` sets how many writes (4 million unless set). To compare two states of the library run this in both, in turns. Every key
//! is read at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::Options;
use std::time::Instant;

fn main() {
    let writes: u64 = std::env::var("ANNULUS_WRITES").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000_000);
    println!("| keys | thousand writes a second | journal, MiB |\n|---:|---:|---:|");
    for keys in [1_000_u64, 100_000, 3_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().shards(4).replication_factor(1).open(dir.path().join("store")).unwrap();
        let mut last = std::collections::HashMap::new();
        let mut n = 1_u64;
        let begun = Instant::now();
        for round in 0..writes {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (n >> 20) % keys;
            store.insert(key.to_be_bytes(), [round as u8; 100]).unwrap();
            if key < 1000 {
                last.insert(key, round as u8);
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let journal = store.stats().unwrap().journal.bytes >> 20;
        println!("| {keys} | {:.0} | {journal} |", writes as f64 / took / 1000.0);
        for (key, round) in last {
            assert_eq!(store.get(key.to_be_bytes()).unwrap().as_deref(), Some(&[round; 100][..]));
        }
    }
}
