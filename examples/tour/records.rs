//! Files and their lines: loaded, read back and compared byte by byte, scanned, and committed together.

use crate::show::{Progress, count, per_second, size};
use crate::{File, Outcome};
use annulus::{Durability, Store, WriteBatch};
use std::time::Instant;

/// The key of a line in the index: its file, and its number so that lines sort in order.
fn line_key(file: &str, line: u32) -> Vec<u8> {
    let mut key = file.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&line.to_be_bytes());
    key
}

/// Where each line of a file begins, and how long it is.
fn lines(content: &[u8]) -> impl Iterator<Item = (u32, [u8; 16])> {
    let mut at = 0u64;
    (1..).zip(content.split_inclusive(|b| *b == b'\n')).map(move |(number, line)| {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&at.to_le_bytes());
        place[8..].copy_from_slice(&(line.len() as u64).to_le_bytes());
        at += line.len() as u64;
        (number, place)
    })
}

pub fn load(store: &Store, files: &[File]) -> Outcome<()> {
    let index = store.keyspace("lines")?;
    let mut progress = Progress::new("Load", files.len());
    let (started, mut records, mut bytes) = (Instant::now(), 0u64, 0u64);
    for file in files {
        let content = std::fs::read(&file.path)?;
        // A file and its lines appear together, whatever shards they fall on.
        let mut batch = WriteBatch::new();
        batch.insert(&file.key, &content);
        for (number, place) in lines(&content) {
            batch.insert_in(&index, line_key(&file.key, number), place);
        }
        records += batch.len() as u64;
        bytes += batch.byte_len() as u64;
        store.commit(batch)?;
        progress.step();
    }
    let acknowledged = started.elapsed();
    store.flush()?;
    let all = started.elapsed();
    progress.end(&format!(
        "{} records, {}: {}/s acknowledged, {}/s with both copies on disk",
        count(records),
        size(bytes),
        count(per_second(records, acknowledged)),
        count(per_second(records, all)),
    ));
    Ok(())
}

pub fn verify(store: &Store, files: &[File]) -> Outcome<()> {
    let index = store.keyspace("lines")?;
    let mut progress = Progress::new("Verify", files.len());
    let (started, mut records) = (Instant::now(), 0u64);
    for file in files {
        let content = std::fs::read(&file.path)?;
        let stored = store.get(&file.key)?.ok_or_else(|| format!("{} is missing", file.key))?;
        if stored != content {
            return Err(format!("{} is not what was loaded", file.key).into());
        }
        let mut expected = lines(&content);
        let mut prefix = file.key.clone().into_bytes();
        prefix.push(0);
        for item in index.scan_prefix(&prefix) {
            let (key, place) = item?;
            let (number, bytes) =
                expected.next().ok_or_else(|| format!("{} has too many lines", file.key))?;
            if key != line_key(&file.key, number) || place[..] != bytes {
                return Err(format!("line {number} of {} is not what was loaded", file.key).into());
            }
            records += 1;
        }
        if expected.next().is_some() {
            return Err(format!("{} lacks lines", file.key).into());
        }
        records += 1;
        progress.step();
    }
    let rate = per_second(records, started.elapsed());
    progress.end(&format!("{} records, every byte as loaded: {}/s", count(records), count(rate)));
    Ok(())
}

pub fn scan(store: &Store, files: &[File]) -> Outcome<()> {
    let middle = &files[files.len() / 2].key;
    let prefix = format!("{}/", middle.split('/').next().unwrap_or_default());
    let started = Instant::now();
    let (mut found, mut bytes) = (0u64, 0u64);
    for item in store.scan_prefix(&prefix) {
        let (_, content) = item?;
        found += 1;
        bytes += content.len() as u64;
    }
    let expected = files.iter().filter(|f| f.key.starts_with(&prefix)).count() as u64;
    if found != expected {
        return Err(format!("the scan of {prefix} found {found} files, not {expected}").into());
    }
    println!("Scan     {} files, {} below {prefix} in {:.1?}", count(found), size(bytes), started.elapsed());
    let started = Instant::now();
    let lines = store.keyspace("lines")?.len()?;
    println!("         {} lines counted at {}/s", count(lines), count(per_second(lines, started.elapsed())));
    Ok(())
}

pub fn commit(store: &Store) -> Outcome<()> {
    let counters = store.keyspace("counters")?;
    let mut batch = WriteBatch::new();
    for i in 0..1000 {
        batch.insert_in(&counters, format!("counter/{i}"), b"1");
    }
    batch.insert("tour/committed", b"1000 counters");
    let started = Instant::now();
    let seq = store.commit_with(batch, Durability::Sync)?;
    let took = started.elapsed();
    let found = counters.len()?;
    if found != 1000 || store.get_versioned("tour/committed")?.map(|(_, s)| s) != Some(seq) {
        return Err("the batch is not there as a whole".into());
    }
    println!(
        "Batch    1,001 records over 4 shards and 2 keyspaces, atomic and on disk in {took:.1?} (version {seq})"
    );
    Ok(())
}
