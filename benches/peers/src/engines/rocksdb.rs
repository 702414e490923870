//! RocksDB, opened as its guide to tuning says to begin ("Setup Options and Basic Tuning"): a Bloom filter of 10 bits a
//! key, blocks of 16 KiB, index and filter blocks in the cache and those of level 0 pinned there, `kMinOverlappingRatio`,
//! `bytes_per_sync` of 1 MiB; jobs as many as there are cores. No compression (no value here can be compressed). Half of the
//! budget is its block cache, a quarter a memtable, of which there are two (64 MiB each, its default, at 256 MiB).

use super::{Engine, Latencies, Opening, Reads, Session, Span, Write, one_by_one};
use rocksdb::{
    BlockBasedOptions, Cache, CompactionPri, DB, DBCompressionType, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use std::path::Path;

pub fn open(dir: &Path, opening: Opening) -> Box<dyn Engine> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache((opening.budget / 2) as usize));
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compaction_pri(CompactionPri::MinOverlappingRatio);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(cores().max(2));
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size((opening.budget / 4) as usize);
    options.set_max_write_buffer_number(2);
    Box::new(Rocks(DB::open(&options, dir).expect("RocksDB: open")))
}

fn cores() -> i32 {
    std::thread::available_parallelism().map_or(2, |n| n.get() as i32)
}

struct Rocks(DB);

impl Engine for Rocks {
    fn session(&self, _: Reads) -> Box<dyn Session + '_> {
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        Box::new(Handle { db: &self.0, sync })
    }

    fn settle(&self) {
        self.0.flush().expect("RocksDB: flush");
    }

    fn close(self: Box<Self>) {
        self.0.flush_wal(true).expect("RocksDB: flush of the WAL");
    }
}

struct Handle<'a> {
    db: &'a DB,
    sync: WriteOptions,
}

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        seen(self.db.get_pinned(key).expect("RocksDB: get").as_deref());
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.db.put(key, value).expect("RocksDB: put");
    }

    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        one_by_one(writes, latencies, |key, value| match value {
            Some(value) => self.db.put(key, value).expect("RocksDB: put"),
            None => self.db.delete(key).expect("RocksDB: delete"),
        });
    }

    fn insert_sync(&mut self, key: &[u8], value: &[u8]) {
        self.db.put_opt(key, value, &self.sync).expect("RocksDB: durable put");
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        let mut batch = WriteBatch::default();
        for w in writes {
            match &w.value {
                Some(value) => batch.put(&*w.key, value),
                None => batch.delete(&*w.key),
            }
        }
        self.db.write_opt(batch, &self.sync).expect("RocksDB: durable batch");
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        let mut options = ReadOptions::default();
        if let Some(to) = span.to {
            options.set_iterate_upper_bound(to);
        }
        if let Some(from) = span.from {
            options.set_iterate_lower_bound(from);
        }
        let mut iter = self.db.raw_iterator_opt(options);
        if span.reverse {
            iter.seek_to_last()
        } else {
            iter.seek_to_first()
        }
        let mut left = span.limit;
        while left > 0 && iter.valid() {
            each(iter.key().expect("valid"), iter.value().expect("valid"));
            if span.reverse {
                iter.prev()
            } else {
                iter.next()
            }
            left -= 1;
        }
        iter.status().expect("RocksDB: scan");
    }
}
