//! R sled databases that each hold everything, written one after the other: what a user would write by hand to have
//! copies. The budget is divided among them; reads go to the first; a durable write flushes each.

use super::sled::{open_db, to_batch, wait_until_closed};
use super::{Engine, Latencies, Opening, Reads, Session, Span, Write, one_by_one};
use sled::Db;
use std::path::{Path, PathBuf};

pub fn open(dir: &Path, opening: Opening, copies: usize) -> Box<dyn Engine> {
    let dirs: Vec<PathBuf> = (0..copies).map(|i| dir.join(format!("copy-{i}"))).collect();
    let dbs = dirs.iter().map(|dir| open_db(dir, opening.budget / copies as u64)).collect();
    Box::new(ByHand { dbs, dirs })
}

struct ByHand {
    dbs: Vec<Db>,
    dirs: Vec<PathBuf>,
}

impl Engine for ByHand {
    fn session(&self, _: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle(&self.dbs))
    }

    fn settle(&self) {
        Handle(&self.dbs).flush();
    }

    fn close(self: Box<Self>) {
        self.settle();
        let ByHand { dbs, dirs } = *self;
        drop(dbs);
        dirs.iter().for_each(|dir| wait_until_closed(dir));
    }
}

struct Handle<'a>(&'a [Db]);

impl Handle<'_> {
    fn flush(&self) {
        for db in self.0 {
            db.flush().expect("sled: flush");
        }
    }
}

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        seen(self.0[0].get(key).expect("sled: get").as_deref());
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.iter().for_each(|db| drop(db.insert(key, value).expect("sled: insert")));
    }

    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        one_by_one(writes, latencies, |key, value| match value {
            Some(value) => self.insert(key, value),
            None => self.0.iter().for_each(|db| drop(db.remove(key).expect("sled: remove"))),
        });
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.insert(key, value);
        self.flush();
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        self.0.iter().for_each(|db| db.apply_batch(to_batch(writes)).expect("sled: batch"));
        self.flush();
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        span.show(self.0[0].range::<&[u8], _>(span.bounds()), |item| {
            let (key, value) = item.expect("sled: scan");
            each(&key, &value);
        });
    }
}
