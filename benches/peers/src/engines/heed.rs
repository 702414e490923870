//! LMDB through heed, with its defaults and a map of 1 TiB of addresses.
//!
//! It has no cache of its own to be given a budget: it reads the operating system's pages where they lie. Its unit is a
//! write transaction, one at a time. At the level `process` commits do not wait for the disk (`MDB_NOSYNC`), at `sync`
//! they do. A single write is a transaction, a bulk is one too.

use super::{Engine, Latencies, Opening, READS_A_TRANSACTION, Reads, Session, Span, Write, note};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, RoTxn, RwTxn, WithTls};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

type Items = Database<'static, Bytes, Bytes>;

pub fn open(dir: &Path, _: Opening) -> Box<dyn Engine> {
    std::fs::create_dir_all(dir).expect("heed: directory");
    // SAFETY: the directory is this process's own, and nothing else maps or changes the file. Without syncing, only a
    // power cut could damage it, and then the run is over.
    let env = unsafe {
        let mut options = EnvOpenOptions::new();
        options.map_size(1 << 40).flags(EnvFlags::NO_SYNC);
        options.open(dir).expect("heed: open")
    };
    let transaction = env.write_txn().expect("heed: begin");
    let made: heed::Result<_> = env.create_databases_and_commit(transaction, |opener, transaction| {
        opener.create_database::<Bytes, Bytes>(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    });
    let items = made.expect("heed: database").unwrap_commit();
    Box::new(Lmdb { env, items, syncing: AtomicBool::new(false) })
}

struct Lmdb {
    env: Env,
    items: Items,
    syncing: AtomicBool,
}

impl Lmdb {
    /// Workloads are of one level: this changes between them, not within one.
    fn set_syncing(&self, on: bool) {
        if self.syncing.swap(on, Ordering::AcqRel) == on {
            return;
        }
        let mode = if on { FlagSetMode::Disable } else { FlagSetMode::Enable };
        // SAFETY: the flag may be changed at any time (mdb_env_set_flags); see `open` for what it means.
        unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode).expect("heed: flags") };
        if on {
            self.env.force_sync().expect("heed: sync");
        }
    }

    fn write(&self, sync: bool, fill: impl FnOnce(&mut RwTxn<'_>)) {
        self.set_syncing(sync);
        let mut transaction = self.env.write_txn().expect("heed: begin");
        fill(&mut transaction);
        transaction.commit().expect("heed: commit");
    }

    fn apply(&self, transaction: &mut RwTxn<'_>, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.items.put(transaction, key, value).expect("heed: put"),
            None => drop(self.items.delete(transaction, key).expect("heed: delete")),
        }
    }
}

impl Engine for Lmdb {
    fn session(&self, reads: Reads) -> Box<dyn Session + '_> {
        Box::new(Handle { lmdb: self, reads, transaction: None, left: 0 })
    }

    fn settle(&self) {
        self.env.force_sync().expect("heed: sync");
    }

    fn close(self: Box<Self>) {
        self.settle();
        self.env.prepare_for_closing().wait();
    }
}

struct Handle<'a> {
    lmdb: &'a Lmdb,
    reads: Reads,
    transaction: Option<RoTxn<'a, WithTls>>,
    left: u32,
}

impl<'a> Handle<'a> {
    fn transaction(&mut self) -> &RoTxn<'a, WithTls> {
        if self.left == 0 || self.reads == Reads::AmongWrites {
            // A thread has one at a time: the old one goes first.
            self.transaction = None;
            self.transaction = Some(self.lmdb.env.read_txn().expect("heed: begin read"));
            self.left = READS_A_TRANSACTION;
        }
        self.left -= 1;
        self.transaction.as_ref().expect("just opened")
    }

    /// Lets go of what is being read: pages that a reader sees are not used again.
    fn end_read(&mut self) {
        (self.transaction, self.left) = (None, 0);
    }
}

impl Session for Handle<'_> {
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>)) {
        let items = self.lmdb.items;
        seen(items.get(self.transaction(), key).expect("heed: get"));
        if self.reads == Reads::AmongWrites {
            self.end_read();
        }
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.end_read();
        self.lmdb.write(false, |t| self.lmdb.apply(t, key, Some(value)));
    }

    /// The last write's time includes the commit's.
    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies) {
        self.end_read();
        let mut last = Instant::now();
        self.lmdb.write(false, |transaction| {
            for (i, w) in writes.iter().enumerate() {
                self.lmdb.apply(transaction, &w.key, w.value.as_deref());
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
        self.lmdb.write(true, |t| self.lmdb.apply(t, key, Some(value)));
    }

    fn batch_sync(&mut self, writes: &[Write]) {
        self.end_read();
        self.lmdb.write(true, |t| writes.iter().for_each(|w| self.lmdb.apply(t, &w.key, w.value.as_deref())));
    }

    fn scan(&mut self, span: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8])) {
        let items = self.lmdb.items;
        let transaction = self.transaction();
        let mut show = |item: heed::Result<(&[u8], &[u8])>| {
            let (key, value) = item.expect("heed: scan");
            each(key, value);
        };
        if span.reverse {
            let range = items.rev_range(transaction, &span.bounds()).expect("heed: range");
            range.take(span.limit).for_each(&mut show);
        } else {
            let range = items.range(transaction, &span.bounds()).expect("heed: range");
            range.take(span.limit).for_each(&mut show);
        }
        if self.reads == Reads::AmongWrites {
            self.end_read();
        }
    }
}
