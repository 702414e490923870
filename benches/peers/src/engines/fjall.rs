//! fjall 3 with its defaults, without compression (no value here can be compressed). Half of the budget is its block
//! cache, a quarter a memtable: one is filled while another is written out (64 MiB, its default, at 256 MiB).

use super::{Engine, Latencies, Opening, Reads, Session, Span, Write, one_by_one};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

pub fn open(dir: &Path, opening: Opening) -> Box<dyn Engine> {
    let db = Database::builder(dir).cache_size(opening.budget / 2).open().expect("fjall: open");
    let options = || KeyspaceCreateOptions::default().max_memtable_size(opening.budget / 4);
    let items = db.keyspace("items", options).expect("fjall: keyspace");
    Box::new(Fjall { items, db })
}

struct Fjall {
    items: Keyspace,
    db: Database,
}

impl Engine for Fjall {
    fn session(&self, _: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle(self))
    }

    fn settle(&self) {
        self.items.rotate_memtable_and_wait().expect("fjall: flush");
        self.db.persist(PersistMode::SyncAll).expect("fjall: persist");
    }

    fn close(self: Box<Self>) {
        self.db.persist(PersistMode::SyncAll).expect("fjall: persist");
    }
}

struct Handle<'a>(&'a Fjall);

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        seen(self.0.items.get(key).expect("fjall: get").as_deref());
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.items.insert(key, value).expect("fjall: insert");
    }

    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        one_by_one(writes, latencies, |key, value| match value {
            Some(value) => self.0.items.insert(key, value).expect("fjall: insert"),
            None => self.0.items.remove(key).expect("fjall: remove"),
        });
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.0.items.insert(key, value).expect("fjall: insert");
        self.0.db.persist(PersistMode::SyncData).expect("fjall: persist");
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        let mut batch = self.0.db.batch().durability(Some(PersistMode::SyncData));
        for w in writes {
            match &w.value {
                Some(value) => batch.insert(&self.0.items, &*w.key, value.as_slice()),
                None => batch.remove(&self.0.items, &*w.key),
            }
        }
        batch.commit().expect("fjall: durable batch");
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        span.show(self.0.items.range::<&[u8], _>(span.bounds()), |item| {
            let (key, value) = item.into_inner().expect("fjall: scan");
            each(&key, &value);
        });
    }
}
