//! Other embedded stores, each with its defaults, closed in order before it is damaged.

use super::records::{Found, RECORDS, key, read, value};
use crate::Result;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

pub const NAMES: [&str; 3] = ["sled", "redb", "fjall"];

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("items");
/// fjall's first records go to a table, the last ones stay in its journal.
const IN_JOURNAL: u32 = RECORDS / 4;

/// Waits for sled's lock: it lets go of it a little after its last handle.
fn sled_at(dir: &Path) -> sled::Result<sled::Db> {
    loop {
        match sled::Config::new().path(dir).cache_capacity(8 << 20).flush_every_ms(None).open() {
            Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                std::thread::yield_now()
            }
            opened => return opened,
        }
    }
}

fn fjall_at(dir: &Path) -> fjall::Result<(fjall::Database, fjall::Keyspace)> {
    let db = fjall::Database::builder(dir).open()?;
    let items = db.keyspace("items", fjall::KeyspaceCreateOptions::default)?;
    Ok((db, items))
}

/// Makes a store with all records in it, or opens and closes it once more.
pub fn make(name: &str, dir: &Path, again: bool) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let all = if again { 0..0 } else { 0..RECORDS };
    match name {
        "sled" => {
            let db = sled_at(dir)?;
            for n in all {
                db.insert(key(n), value(n, 0))?;
            }
            db.flush()?;
        }
        "redb" => {
            let db = redb::Database::create(dir.join("items.redb"))?;
            let writing = db.begin_write()?;
            let mut table = writing.open_table(TABLE)?;
            for n in all {
                table.insert(&key(n)[..], &value(n, 0)[..])?;
            }
            drop(table);
            writing.commit()?;
        }
        "fjall" => {
            let (db, items) = fjall_at(dir)?;
            for n in all {
                items.insert(key(n), value(n, 0))?;
                if n == RECORDS - IN_JOURNAL {
                    items.rotate_memtable_and_wait()?;
                }
            }
            db.persist(fjall::PersistMode::SyncAll)?;
        }
        _ => return Err(format!("no store {name}").into()),
    }
    Ok(())
}

/// Opens what was damaged and reads it whole, by gets and by a scan.
pub fn look(name: &str, dir: &Path) -> (Found, String) {
    let looked = match name {
        "sled" => look_at_sled(dir),
        "redb" => look_at_redb(dir),
        _ => look_at_fjall(dir),
    };
    looked.unwrap_or_else(|error| (Found::Error, error.to_string()))
}

/// The worse of what gets found and what a scan did.
fn with_scan(gets: (Found, String), scanned: usize, failed: Option<String>) -> (Found, String) {
    let scan = match failed {
        Some(error) => (Found::Error, error),
        None if scanned < RECORDS as usize => (Found::Missing, format!("a scan has {scanned} records")),
        None => (Found::Whole, String::new()),
    };
    if scan.0 < gets.0 { scan } else { gets }
}

fn look_at_sled(dir: &Path) -> Result<(Found, String)> {
    let db = sled_at(dir)?;
    let gets = read(|key| db.get(key).map(|v| v.map(|v| v.to_vec())).map_err(|e| e.to_string()));
    let items: Vec<_> = db.iter().collect();
    let failed = items.iter().find_map(|item| item.as_ref().err().map(|e| e.to_string()));
    Ok(with_scan(gets, items.len(), failed))
}

fn look_at_redb(dir: &Path) -> Result<(Found, String)> {
    let path = dir.join("items.redb");
    // `open`, since `create` would make a new one in the place of one that is gone.
    let db = redb::Database::open(path)?;
    let table = db.begin_read()?.open_table(TABLE)?;
    let gets = read(|key| table.get(key).map(|v| v.map(|v| v.value().to_vec())).map_err(|e| e.to_string()));
    let (mut scanned, mut failed) = (0, None);
    for item in table.iter()? {
        match item {
            Ok(_) => scanned += 1,
            Err(error) => failed = Some(error.to_string()),
        }
    }
    Ok(with_scan(gets, scanned, failed))
}

fn look_at_fjall(dir: &Path) -> Result<(Found, String)> {
    let (_db, items) = fjall_at(dir)?;
    let gets = read(|key| items.get(key).map(|v| v.map(|v| v.to_vec())).map_err(|e| e.to_string()));
    let (mut scanned, mut failed) = (0, None);
    for item in items.iter() {
        match item.into_inner() {
            Ok(_) => scanned += 1,
            Err(error) => failed = Some(error.to_string()),
        }
    }
    Ok(with_scan(gets, scanned, failed))
}
