//! sled 0.34 with its defaults: no compression, a flush every 500 ms. Its cache is the whole budget.

use super::{Engine, Latencies, Opening, Reads, Session, Span, Write, one_by_one};
use sled::{Batch, Config, Db};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn open(dir: &Path, opening: Opening) -> Box<dyn Engine> {
    Box::new(Sled { db: open_db(dir, opening.budget), dir: dir.into() })
}

pub fn open_db(dir: &Path, cache: u64) -> Db {
    Config::new().path(dir).cache_capacity(cache).use_compression(false).open().expect("sled: open")
}

/// Waits until sled's threads have let go of the files: its drop can return before.
pub fn wait_until_closed(dir: &Path) {
    let file = std::fs::File::open(dir.join("db")).expect("sled: its file");
    for _ in 0..10_000 {
        if file.try_lock().is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("sled: {} is still locked 10 s after the drop", dir.display());
}

pub fn to_batch(writes: &[Write]) -> Batch {
    let mut batch = Batch::default();
    for w in writes {
        match &w.value {
            Some(value) => batch.insert(&*w.key, value.as_slice()),
            None => batch.remove(&*w.key),
        }
    }
    batch
}

struct Sled {
    db: Db,
    dir: PathBuf,
}

impl Engine for Sled {
    fn session(&self, _: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle(&self.db))
    }

    fn settle(&self) {
        self.db.flush().expect("sled: flush");
    }

    fn close(self: Box<Self>) {
        let Sled { db, dir } = *self;
        db.flush().expect("sled: flush");
        drop(db);
        wait_until_closed(&dir);
    }
}

struct Handle<'a>(&'a Db);

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        seen(self.0.get(key).expect("sled: get").as_deref());
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key, value).expect("sled: insert");
    }

    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        one_by_one(writes, latencies, |key, value| {
            match value {
                Some(value) => self.0.insert(key, value).expect("sled: insert"),
                None => self.0.remove(key).expect("sled: remove"),
            };
        });
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key, value).expect("sled: insert");
        self.0.flush().expect("sled: flush");
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        self.0.apply_batch(to_batch(writes)).expect("sled: batch");
        self.0.flush().expect("sled: flush");
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        span.show(self.0.range::<&[u8], _>(span.bounds()), |item| {
            let (key, value) = item.expect("sled: scan");
            each(&key, &value);
        });
    }
}
