//! sled under a workload of its kind: records overwritten over and over, flushed every so many. Plain, or in a directory that is marked
//! synchronous as Annulus marks those of its indexes, which is then to lose nothing.

use crate::child::{Task, say};
use crate::{Random, Result};
use std::path::Path;

const KEYS: u64 = 20_000;
/// Records between two flushes.
const FLUSH: u64 = 4000;

/// The subject with the mark.
pub const MARKED: &str = "marked-sled";

fn open(dir: &Path, marked: bool) -> Result<sled::Db> {
    let dir = dir.join("sled");
    let mark = || match annulus::testing::mark_synchronous(&dir) {
        true => Ok(()),
        false => Err("the file system does not take the mark"),
    };
    if marked {
        std::fs::create_dir_all(&dir)?;
        mark()?;
        // Another fault of sled's, which Annulus takes care of in the same way: it takes a snapshot that is not whole for its newest.
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "generating") {
                std::fs::remove_file(path)?;
            }
        }
    }
    let db = sled::Config::new().path(&dir).flush_every_ms(None).open().map_err(|e| format!("{e:?}"))?;
    if marked {
        mark()?;
    }
    Ok(db)
}

fn key(n: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

fn value(n: u64, round: u64) -> Vec<u8> {
    let mut random = Random::new(n << 32 ^ round);
    let mut value = round.to_le_bytes().to_vec();
    value.extend(random.bytes(92));
    value
}

fn round(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The records of a round: a fifth of all, at random.
fn records(round: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(round ^ 0x51ed << 32);
    (0..FLUSH).map(move |_| random.below(KEYS))
}

pub fn work(task: &Task, marked: bool) -> Result<()> {
    let db = open(&task.dir, marked)?;
    let start = db.get("round")?.map_or(0, |value| round(&value)) + 1;
    say("open");
    for n in start.. {
        for record in records(n) {
            db.insert(key(record), value(record, n))?;
        }
        db.insert("round", &n.to_le_bytes())?;
        db.flush()?;
        say(&format!("wrote 0 {n}"));
    }
    Ok(())
}

pub fn check(task: &Task, marked: bool) -> Result<()> {
    let acked: u64 =
        task.acks.iter().rev().find_map(|ack| ack.strip_prefix("wrote 0 ")?.parse().ok()).unwrap_or(0);
    let db = open(&task.dir, marked).map_err(|e| format!("does not open: {e}"))?;
    let read = |key: &[u8]| db.get(key).map_err(|e| format!("unreadable: {e:?}"));
    let mut newest = vec![0; KEYS as usize];
    (1..=acked).for_each(|n| records(n).for_each(|record| newest[record as usize] = n));
    let mut lost = 0;
    for (record, acked) in newest.iter().enumerate() {
        let found = read(&key(record as u64))?;
        let there = found.as_deref().map_or(0, round);
        lost += u64::from(there < *acked);
        if let Some(found) = found
            && *found != value(record as u64, there)
        {
            return Err("foreign: a value that was never written".into());
        }
    }
    match lost {
        0 => Ok(()),
        lost => Err(format!("lost: {lost} of {KEYS} acknowledged records are missing or old").into()),
    }
}
