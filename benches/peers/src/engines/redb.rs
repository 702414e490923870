//! redb 4 with its defaults; its cache is the whole budget.
//!
//! Its unit is a write transaction, one at a time. At the level `process` transactions are `Durability::None`, with one
//! `Immediate` every so often, without which freed pages would not be used again. A single write is a transaction, a bulk
//! is one too.

use super::{Engine, Latencies, Opening, READS_A_TRANSACTION, Reads, Session, Span, Write, note};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const ITEMS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("items");

/// Single writes between two that are `Immediate`.
const SINGLES: u64 = 1_000;
/// Bulks between two that are `Immediate`.
const BULKS: u64 = 100;

pub fn open(dir: &Path, opening: Opening) -> Box<dyn Engine> {
    std::fs::create_dir_all(dir).expect("redb: directory");
    let cache = opening.budget as usize;
    let db = Database::builder().set_cache_size(cache).create(dir.join("items.redb")).expect("redb: open");
    let redb = Redb { db, singles: AtomicU64::new(0), bulks: AtomicU64::new(0) };
    // Reading a table that was never made is an error.
    redb.write(Durability::Immediate, |_| ());
    Box::new(redb)
}

struct Redb {
    db: Database,
    singles: AtomicU64,
    bulks: AtomicU64,
}

impl Redb {
    fn write(&self, durability: Durability, fill: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>)) {
        let mut transaction = self.db.begin_write().expect("redb: begin");
        transaction.set_durability(durability).expect("redb: durability");
        {
            let mut table = transaction.open_table(ITEMS).expect("redb: table");
            fill(&mut table);
        }
        transaction.commit().expect("redb: commit");
    }
}

impl Engine for Redb {
    fn session(&self, reads: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle { redb: self, reads, table: None, left: 0 })
    }

    fn settle(&self) {
        self.write(Durability::Immediate, |_| ());
    }

    fn close(self: Box<Self>) {
        self.settle();
    }
}

struct Handle<'a> {
    redb: &'a Redb,
    reads: Reads,
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    left: u32,
}

impl Handle<'_> {
    fn table(&mut self) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        if self.left == 0 || self.reads == Reads::AmongWrites {
            let transaction = self.redb.db.begin_read().expect("redb: begin read");
            self.table = Some(transaction.open_table(ITEMS).expect("redb: table"));
            self.left = READS_A_TRANSACTION;
        }
        self.left -= 1;
        self.table.as_ref().expect("just opened")
    }

    /// Lets go of what is being read: pages that a reader sees are not used again.
    fn end_read(&mut self) {
        (self.table, self.left) = (None, 0);
    }
}

fn every(count: &AtomicU64, period: u64) -> Durability {
    match (count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(period) {
        true => Durability::Immediate,
        false => Durability::None,
    }
}

fn apply(table: &mut redb::Table<'_, &[u8], &[u8]>, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => drop(table.insert(key, value).expect("redb: insert")),
        None => drop(table.remove(key).expect("redb: remove")),
    }
}

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        let found = self.table().get(key).expect("redb: get");
        seen(found.as_ref().map(|v| v.value()));
        if self.reads == Reads::AmongWrites {
            self.end_read();
        }
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.end_read();
        let durability = every(&self.redb.singles, SINGLES);
        self.redb.write(durability, |table| apply(table, key, Some(value)));
    }

    /// The last write's time includes the commit's.
    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        self.end_read();
        let mut last = Instant::now();
        self.redb.write(every(&self.redb.bulks, BULKS), |table| {
            for (i, w) in writes.iter().enumerate() {
                apply(table, &w.key, w.value.as_deref());
                if i + 1 < writes.len() {
                    note(latencies, last);
                    last = Instant::now();
                }
            }
        });
        note(latencies, last);
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.end_read();
        self.redb.write(Durability::Immediate, |table| apply(table, key, Some(value)));
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        self.end_read();
        self.redb.write(Durability::Immediate, |table| {
            writes.iter().for_each(|w| apply(table, &w.key, w.value.as_deref()));
        });
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        let range = self.table().range::<&[u8]>(span.bounds()).expect("redb: range");
        span.show(range, |item| {
            let (key, value) = item.expect("redb: scan");
            each(key.value(), value.value());
        });
        if self.reads == Reads::AmongWrites {
            self.end_read();
        }
    }
}
