//! A checkpoint is taken while a thread writes; the store is destroyed, restored on another topology, and proved equal.

use crate::show::{count, per_second, size};
use crate::{File, Outcome, records};
use annulus::{BackupRepository, Store};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What accounts hold together, however it is moved between them.
const TOTAL: u64 = 1_000_000;
const ACCOUNTS: u64 = 100;

/// Takes the store away, and gives back the one that was restored in its place.
pub fn destroy_and_restore(store: Store, place: &Path, files: &[File]) -> Outcome<Store> {
    let repository = BackupRepository::open(place.with_extension("backup"))?;
    let accounts = store.keyspace("accounts")?;
    for n in 0..ACCOUNTS {
        accounts.insert(n.to_be_bytes(), (TOTAL / ACCOUNTS).to_be_bytes())?;
    }
    let stop = AtomicBool::new(false);
    let (id, took, moved) = std::thread::scope(|scope| -> Outcome<_> {
        let writer = scope.spawn(|| move_money(&store, &stop));
        let begun = Instant::now();
        let id = store.checkpoint(&repository);
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let moved = writer.join().map_err(|_| "the writer panicked")??;
        Ok((id?, took, moved))
    })?;
    let checkpoint = repository.get(id)?;
    println!(
        "Backup   {} records, {} in {took:.2?} beside {} transfers: {}/s",
        count(checkpoint.records),
        size(checkpoint.bytes),
        count(moved),
        size(per_second(checkpoint.bytes, took)),
    );
    let begun = Instant::now();
    let report = repository.verify(id)?;
    if !report.is_whole() {
        return Err(format!("the checkpoint is damaged: {report:?}").into());
    }
    println!("         every byte of it verified in {:.2?}", begun.elapsed());
    drop(accounts);
    store.close()?;
    drop(store);
    std::fs::remove_dir_all(place)?;
    println!("         rm -r {}", place.display());
    let begun = Instant::now();
    let store = repository.restore(id)?.shards(6).replication_factor(2).open(place)?;
    println!("         restored onto 6 shards in {:.2?}", begun.elapsed());
    records::verify(&store, files)?;
    let mut total = 0;
    for item in store.keyspace("accounts")?.iter() {
        total += u64::from_be_bytes(item?.1.as_ref().try_into()?);
    }
    if total != TOTAL {
        return Err(format!("the accounts hold {total}: a transfer was torn").into());
    }
    println!("         {ACCOUNTS} accounts hold {} together, as they always did", count(total));
    Ok(store)
}

/// Moves money from account to account, each time in one batch, until told to end.
fn move_money(store: &Store, stop: &AtomicBool) -> annulus::Result<u64> {
    let accounts = store.keyspace("accounts")?;
    let held = |account: u64| -> annulus::Result<u64> {
        let found = accounts.get(account.to_be_bytes())?;
        Ok(found.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    };
    let mut moved = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = (moved * 7 % ACCOUNTS, (moved * 13 + 1) % ACCOUNTS);
        let amount = held(from)?.min(10);
        if from != to {
            let mut batch = annulus::WriteBatch::new();
            batch.insert_in(&accounts, from.to_be_bytes(), (held(from)? - amount).to_be_bytes());
            batch.insert_in(&accounts, to.to_be_bytes(), (held(to)? + amount).to_be_bytes());
            store.commit(batch)?;
        }
        moved += 1;
    }
    Ok(moved)
}
