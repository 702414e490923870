//! Annulus: 4 shards, all defaults otherwise. Where records are read by group it is told so (`Partitioner::Prefix`).

use super::{Engine, Latencies, Opening, Reads, Session, Span, Write, one_by_one};
use annulus::{Durability, Options, Partitioner, Store, WriteBatch};
use std::path::Path;

pub fn open(dir: &Path, opening: Opening, replicas: usize) -> Box<dyn Engine> {
    let mut options = Options::new()
        .shards(replicas.max(4))
        .replication_factor(replicas)
        .memory_budget(opening.budget)
        .durability(Durability::Process);
    if opening.grouped {
        options = options.partitioner(Partitioner::Prefix(8));
    }
    Box::new(Annulus(options.open(dir).expect("annulus: open")))
}

struct Annulus(Store);

impl Engine for Annulus {
    fn session(&self, _: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle(&self.0))
    }

    fn settle(&self) {
        self.0.flush().expect("annulus: flush");
    }

    fn close(self: Box<Self>) {
        self.0.close().expect("annulus: close");
    }
}

struct Handle<'a>(&'a Store);

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        seen(self.0.get(key).expect("annulus: get").as_deref());
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key, value).expect("annulus: insert");
    }

    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        one_by_one(writes, latencies, |key, value| {
            match value {
                Some(value) => self.0.insert(key, value).expect("annulus: insert"),
                None => self.0.remove(key).expect("annulus: remove"),
            };
        });
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert_with(key, value, Durability::Sync).expect("annulus: durable insert");
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        let mut batch = WriteBatch::new();
        for w in writes {
            match &w.value {
                Some(value) => batch.insert(&*w.key, value),
                None => batch.remove(&*w.key),
            };
        }
        self.0.commit_with(batch, Durability::Sync).expect("annulus: durable batch");
    }

    /// Borrowed records, as the others give them out.
    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        let mut range = self.0.range::<&[u8]>(span.bounds());
        for _ in 0..span.limit {
            let record = if span.reverse { range.next_back_ref() } else { range.next_ref() };
            let Some(record) = record else { break };
            let (key, value) = record.expect("annulus: scan");
            each(key, value);
        }
    }
}
