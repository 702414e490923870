//! Points in time: a checkpoint and the archived journal come back as the store was after any write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "archive/beyond.rs"]
mod beyond;
#[path = "archive/dropped.rs"]
mod dropped;
#[path = "archive/dropping.rs"]
mod dropping;
#[path = "archive/endless.rs"]
mod endless;
#[path = "archive/forks.rs"]
mod forks;
#[path = "archive/histories.rs"]
mod histories;
#[path = "archive/holds.rs"]
mod holds;
#[path = "archive/hooked.rs"]
mod hooked;
#[path = "archive/lacking.rs"]
mod lacking;
#[path = "archive/late.rs"]
mod late;
#[path = "archive/lengths.rs"]
mod lengths;
#[path = "archive/proven.rs"]
mod proven;
#[path = "archive/replays.rs"]
mod replays;
#[path = "archive/sectors.rs"]
mod sectors;
#[path = "archive/verified.rs"]
mod verified;

mod common;

use annulus::{At, BackupRepository, ErrorKind, Heal, Options, Retention, Seq, Store, WriteBatch};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

type Content = BTreeMap<(String, Vec<u8>), (Vec<u8>, Seq)>;

fn options() -> Options {
    Options::new().shards(3).virtual_nodes(64).memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn content(store: &Store) -> Content {
    let mut content = Content::new();
    for name in store.list_keyspaces().unwrap() {
        let keyspace = store.keyspace(&name).unwrap();
        for item in keyspace.iter() {
            let (key, value) = item.unwrap();
            let (_, seq) = keyspace.get_versioned(&key).unwrap().unwrap();
            content.insert((name.clone(), key.to_vec()), (value.to_vec(), seq));
        }
    }
    content
}

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    repo: BackupRepository,
    /// What there was after some of the writes.
    moments: Vec<(Seq, SystemTime, Content)>,
    n: u32,
}

impl Place {
    fn new() -> Place {
        Place::with(&options())
    }

    fn with(options: &Options) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path().join("live")).unwrap();
        let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
        Place { dir, store, repo, moments: Vec::new(), n: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&mut self, count: u32) {
        let notes = self.store.keyspace("notes").unwrap();
        for _ in 0..count {
            self.n += 1;
            let n = self.n;
            let mut batch = WriteBatch::new();
            batch.insert(format!("k{}", n * 7 % 97), vec![n as u8; (n % 400) as usize]);
            batch.insert_in(&notes, format!("{}", n % 31), n.to_le_bytes());
            if n.is_multiple_of(5) {
                batch.remove(format!("k{}", n % 97));
            }
            self.store.commit(batch).unwrap();
        }
    }

    fn moment(&mut self) {
        let seq = self.store.stats().unwrap().last_seq;
        self.moments.push((seq, SystemTime::now(), content(&self.store)));
        // The next write is in another millisecond.
        let now = SystemTime::now();
        while now.elapsed().unwrap() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
    }

    /// Every moment that was noted comes back.
    fn check_moments(&self, when: &str) {
        for (number, (seq, _, expected)) in self.moments.iter().enumerate() {
            let store = self.restored(At::Seq(*seq), &number.to_string()).unwrap();
            assert_eq!(&content(&store), expected, "moment {number}, sequence {seq}, {when}");
        }
    }

    fn restored(&self, at: At, name: &str) -> annulus::Result<Store> {
        self.repo.restore_latest()?.options(options().shards(2)).until(at).open(self.path(name))
    }
}

#[test]
fn pieces_that_were_cut_off_are_swept_by_a_prune() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    let archive = std::fs::read_dir(place.path("backup/archive")).unwrap().next().unwrap().unwrap().path();
    let names = || {
        let entries = std::fs::read_dir(&archive).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = names();
    // Left by processes that were killed in the middle of a piece; the other name is none of ours.
    for name in ["0000000000000031-0000000000000047.tmp", "0000000000000048.tmp"] {
        std::fs::write(archive.join(name), [7; 3_000]).unwrap();
    }
    std::fs::write(archive.join("notes.txt"), b"a user's").unwrap();
    let pruned = place.repo.prune(Retention::keep_last(1)).unwrap();
    assert_eq!((pruned.checkpoints.len(), pruned.objects, pruned.bytes), (0, 2, 6_000));
    std::fs::remove_file(archive.join("notes.txt")).unwrap();
    assert_eq!(names(), before);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    let (seq, _, expected) = place.moments[0].clone();
    assert_eq!(content(&place.restored(At::Seq(seq), "new").unwrap()), expected);
}

#[test]
fn every_moment_of_an_archived_store_comes_back() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    for round in 0..6 {
        place.write(50);
        place.moment();
        if round % 2 == 0 {
            place.store.flush().unwrap();
        }
        if round == 3 {
            place.store.checkpoint(&place.repo).unwrap();
            place.store.keyspace("later").unwrap().insert("made", "after the checkpoint").unwrap();
            place.moment();
        }
        place.store.archive(&place.repo).unwrap();
        // Nothing new is nothing to archive.
        place.store.archive(&place.repo).unwrap();
    }
    let last = place.store.stats().unwrap().last_seq;
    place.write(5);
    for (number, (seq, time, expected)) in place.moments.iter().enumerate() {
        let store = place.restored(At::Seq(*seq), &format!("seq-{number}")).unwrap();
        let mut found = content(&store);
        if !expected.keys().any(|(keyspace, _)| keyspace == "later") {
            found.retain(|(keyspace, _), _| keyspace != "later");
        }
        assert_eq!(&found, expected, "sequence {seq}");
        assert_eq!(store.insert("next", "write").unwrap(), seq.next());
        // The archive's last word before that time was at the write itself.
        let store = place.restored(At::Time(*time), &format!("time-{number}")).unwrap();
        let found = store.stats().unwrap().last_seq;
        assert!(found <= *seq, "{found} is later than {seq}");
    }
    let error = place.restored(At::Seq(last.next()), "beyond").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!place.path("beyond/MANIFEST").exists());
    let error = place.restored(At::Seq(Seq(3)), "before").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = place.restored(At::Time(SystemTime::UNIX_EPOCH), "before").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // A damaged piece ends what can be had, and is named.
    let pieces = walk(place.path("backup/archive"));
    let bytes = std::fs::read(&pieces[1]).unwrap();
    std::fs::write(&pieces[1], &bytes[..bytes.len() - 1]).unwrap();
    let (seq, _, _) = place.moments[0];
    let error = place.restored(At::Seq(seq), "damaged").unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&pieces[1]), "{error}");
    std::fs::remove_file(&pieces[1]).unwrap();
    assert_eq!(place.restored(At::Seq(seq), "gone").unwrap_err().kind(), ErrorKind::NotFound);
    // With the first checkpoint goes what only it needs.
    place.repo.prune(Retention::keep_last(1)).unwrap();
    assert!(walk(place.path("backup/archive")).len() < pieces.len() - 1);
    let (seq, _, expected) = place.moments.last().unwrap();
    assert_eq!(&content(&place.restored(At::Seq(*seq), "pruned").unwrap()), expected);
}

fn walk(dir: PathBuf) -> Vec<PathBuf> {
    let store = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_journal_waits_for_the_archive_and_an_archiver_keeps_up() {
    let mut place = Place::new();
    place.write(20);
    let id = place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    // Flushes would trim all of it.
    for _ in 0..4 {
        place.write(3_000);
        place.store.flush().unwrap();
    }
    place.moment();
    assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    place.write(2_000);
    place.store.flush().unwrap();
    place.moment();
    assert_eq!(archiver.stop().unwrap(), place.moments[1].0);
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let restore = place.repo.restore(id).unwrap().options(options()).until(At::Seq(*seq));
        assert_eq!(&content(&restore.open(place.path(&number.to_string())).unwrap()), expected);
    }
}

/// Much that is written is not left to the journal's disk alone for a minute, which is after what time a little is archived.
#[test]
fn an_archiver_adds_a_piece_whenever_enough_was_written() {
    let place = Place::new();
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    let list = |dir| std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let pieces = || list(place.path("backup/archive")).flat_map(list).count();
    for round in 0..2u8 {
        let before = pieces();
        for n in 0..80u8 {
            place.store.insert([round, n], vec![n; 64 << 10]).unwrap();
        }
        let written = Instant::now();
        while pieces() == before {
            assert!(written.elapsed() < Duration::from_secs(45), "nothing was archived of 5 MiB");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert_eq!(archiver.stop().unwrap(), place.store.stats().unwrap().last_seq);
}

#[test]
fn shards_without_a_replica_come_back_from_checkpoint_archive_and_journal() {
    let mut place = Place::new();
    place.write(300);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.write(400);
    place.store.flush().unwrap();
    place.store.archive(&place.repo).unwrap();
    place.write(50);
    place.store.sync().unwrap();
    let expected = content(&place.store);
    let live = place.path("live");
    place.store.close().unwrap();
    let whole = Options::new().repair_from(&place.repo, &live).unwrap();
    assert!(whole.shards.is_empty(), "nothing is lost yet");
    // Of three shards with two copies each, two are gone: one without a trace, one is damaged.
    std::fs::remove_dir_all(live.join("shards/0000")).unwrap();
    std::fs::write(live.join("shards/0002/SEAL"), b"rubbish").unwrap();
    let kept = std::fs::metadata(live.join("shards/0001/engine/pages")).unwrap().modified().unwrap();
    let open = || options().existing_only(true).open(&live);
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Unavailable);
    let repaired = options().repair_from(&place.repo, &live).unwrap();
    assert_eq!(repaired.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(), [0, 2]);
    let modified = std::fs::metadata(live.join("shards/0001/engine/pages")).unwrap().modified().unwrap();
    assert_eq!(modified, kept, "the whole one is left alone");
    let store = open().unwrap();
    assert!(store.stats().unwrap().warnings.is_empty(), "{:?}", store.stats().unwrap().warnings);
    assert_eq!(content(&store), expected);
    drop(store);
    // The others are read as well: each of them alone has what it should.
    std::fs::remove_dir_all(live.join("shards/0001")).unwrap();
    assert_eq!(content(&open().unwrap()), expected);
}

#[test]
fn a_store_that_loses_shards_while_it_is_open_takes_them_back() {
    // It is not to make anything in the directories while they are deleted.
    let mut place = Place::with(&options().heal(Heal::Manual));
    place.write(300);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.write(400);
    place.store.sync().unwrap();
    let (expected, live) = (content(&place.store), place.path("live"));
    let lost = ["shards/0000", "shards/0002"].map(|name| live.join(name));
    lost.iter().for_each(|dir| std::fs::remove_dir_all(dir).unwrap());
    let _ = place.store.flush();
    let other = place.store.clone();
    let (store, repaired) = place.store.clone().repair_from(&place.repo).unwrap();
    assert_eq!(repaired.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(content(&store), expected);
    assert_eq!(other.get("anything").unwrap_err().kind(), ErrorKind::Closed);
    assert!(store.stats().unwrap().warnings.is_empty(), "{:?}", store.stats().unwrap().warnings);
}

#[test]
fn a_repair_that_would_lack_writes_is_refused_and_changes_nothing() {
    let mut place = Place::new();
    place.write(300);
    place.store.checkpoint(&place.repo).unwrap();
    for _ in 0..3 {
        place.write(2_000);
        place.store.flush().unwrap();
    }
    let live = place.path("live");
    place.store.close().unwrap();
    std::fs::remove_dir_all(live.join("shards/0000")).unwrap();
    std::fs::remove_dir_all(live.join("shards/0001")).unwrap();
    let error = options().repair_from(&place.repo, &live).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(!live.join("shards/0000").exists());
}
