//! The promises of the interface: what is refused, what survives, what a second handle sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{Durability, ErrorKind, Options, Partitioner, ShardOptions, Store, WriteBatch, limits};
use std::path::Path;

fn small() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn refused(result: annulus::Result<Store>) -> ErrorKind {
    match result {
        Ok(_) => panic!("the store was opened"),
        Err(error) => {
            assert!(error.to_string().len() > 10, "an error that says nothing: {error}");
            error.kind()
        }
    }
}

fn tree(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn bad_records_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    store.insert("kept", b"1").unwrap();
    let before = store.stats().unwrap().last_seq;
    let long = vec![7u8; limits::MAX_KEY_BYTES + 1];
    let large = vec![7u8; limits::MAX_VALUE_BYTES + 1];
    let kind = |r: annulus::Result<annulus::Seq>| r.unwrap_err().kind();
    assert_eq!(kind(store.insert("", b"x")), ErrorKind::InvalidInput);
    assert_eq!(kind(store.insert(&long, b"x")), ErrorKind::InvalidInput);
    assert_eq!(kind(store.insert("k", &large)), ErrorKind::InvalidInput);
    assert_eq!(kind(store.remove("")), ErrorKind::InvalidInput);
    assert_eq!(store.get("").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.get(&long).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.get_many(["kept", ""]).unwrap_err().kind(), ErrorKind::InvalidInput);

    let mut batch = WriteBatch::new();
    batch.insert("kept", b"2").insert("", b"x").insert("other", b"3");
    assert_eq!(kind(store.commit(batch)), ErrorKind::InvalidInput);
    let mut batch = WriteBatch::new();
    for i in 0..3 {
        batch.insert(format!("{i}"), &large[..limits::MAX_VALUE_BYTES]);
    }
    assert_eq!(kind(store.commit(batch)), ErrorKind::InvalidInput, "over the batch limit");

    assert_eq!(store.stats().unwrap().last_seq, before);
    assert_eq!(store.get("kept").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.len().unwrap(), 1);
}

#[test]
fn the_largest_records_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(2).memory_budget(64 << 20);
    let store = options.open(dir.path().join("data")).unwrap();
    let key = vec![0xffu8; limits::MAX_KEY_BYTES];
    let value: Vec<u8> = (0..limits::MAX_VALUE_BYTES).map(|i| (i / 7) as u8).collect();
    store.insert(&key, &value).unwrap();
    store.insert([0u8], b"").unwrap();
    assert!(store.get(&key).unwrap().unwrap() == value);
    store.flush().unwrap();
    assert!(store.get(&key).unwrap().unwrap() == value);
    store.close().unwrap();
    let store = options.open(dir.path().join("data")).unwrap();
    assert!(store.get(&key).unwrap().unwrap() == value);
    let (first, last) = (store.first().unwrap().unwrap(), store.last().unwrap().unwrap());
    assert_eq!((&first.0[..], first.1.len()), (&[0u8][..], 0));
    assert!(last.0 == key && last.1 == value);
    store.remove(&key).unwrap();
    store.flush().unwrap();
    assert_eq!(store.get(&key).unwrap(), None);
    assert_eq!(store.len().unwrap(), 1);
}

/// Who means "no limit" names a number of bytes that no machine has.
#[test]
fn a_budget_beyond_all_memory_takes_none_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().memory_budget(1 << 50).open(dir.path().join("store")).unwrap();
    store.insert("key", b"value").unwrap();
    store.flush().unwrap();
    assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    store.close().unwrap();
    let error = small().memory_budget(u64::MAX).open(dir.path().join("other")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn bad_options_are_refused_and_create_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let shard = |name: &str| ShardOptions::new(dir.path().join(name));
    let cases: Vec<Options> = vec![
        small().shards(0),
        small().shard_timeout(std::time::Duration::MAX),
        small().shard_timeout(std::time::Duration::ZERO),
        small().shards(2).replication_factor(3),
        small().replication_factor(5),
        small().replication_factor(0),
        small().shards(2000),
        small().virtual_nodes(1000),
        small().virtual_nodes(0),
        small().partitioner(Partitioner::Prefix(0)),
        small().memory_budget(1),
        small().page_bytes(1),
        small().journal_segment_bytes(1),
        small().shards(2).shard(shard("a")),
        small().shard(shard("a").weight(0.0)),
        small().shard(shard("a").weight(-1.0)),
        small().shard(shard("a").weight(f64::NAN)),
        small().shard(shard("a").weight(f64::INFINITY)),
        small().shard(shard("a")).shard(shard("a")),
        small().shard(shard("a")).shard(shard("./b/../a")),
        small().shard(shard("a")).shard(shard("a/inside")),
        small().shard(shard("store")),
        small().shard(shard("store/journal")),
    ];
    for options in cases {
        let kind = refused(options.open(place("store")));
        assert_eq!(kind, ErrorKind::InvalidInput, "{options:?}");
        assert!(
            tree(&place("store")).iter().all(|n| n == "LOCK"),
            "{options:?} left {:?}",
            tree(&place("store"))
        );
    }
    assert!(!place("a").exists());
    small().shard(shard("a")).shard(shard("b")).open(place("store")).unwrap();
}

/// A shard's directory was put on another disk, and a link left where it was: what lies in it is in the way by either name.
#[test]
fn no_shard_joins_inside_one_that_was_moved_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let made = small().shard(ShardOptions::new(place("a"))).shard(ShardOptions::new(place("b")));
    drop(made.open(place("store")).unwrap());
    std::fs::rename(place("a"), place("moved")).unwrap();
    std::os::unix::fs::symlink(place("moved"), place("a")).unwrap();
    let store = small().open(place("store")).unwrap();
    for (name, joins) in [("a/inside", false), ("moved/inside", false), ("beside", true)] {
        let plan = store.plan().add_shard(ShardOptions::new(place(name))).preview().unwrap();
        match store.apply(plan) {
            Ok(change) if joins => drop(change.cancel()),
            Err(error) if !joins => {
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                assert!(error.to_string().contains("inside another"), "{error}");
            }
            other => panic!("{name}: {:?}", other.map(drop)),
        }
        assert!(!place("moved/inside").exists());
    }
}

#[test]
fn an_existing_store_keeps_what_it_was_created_with() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let shard = |name: &str| ShardOptions::new(dir.path().join(name));
    let created = small()
        .shard(shard("a").zone("x").weight(2.0))
        .shard(shard("b").zone("y"))
        .shard(shard("c").zone("z"))
        .replication_factor(2)
        .partitioner(Partitioner::Prefix(3))
        .virtual_nodes(64);
    let store = created.open(&place).unwrap();
    store.insert("k", b"v").unwrap();
    store.close().unwrap();
    let same = || small().shard(shard("a").zone("x").weight(2.0)).shard(shard("b").zone("y"));
    let contradictions = [
        small().replication_factor(3),
        small().partitioner(Partitioner::Whole),
        small().virtual_nodes(128),
        small().shards(4),
        small().page_bytes(8192),
        same(),
        same().shard(shard("elsewhere").zone("z")),
        same().shard(shard("c").zone("other")),
        same().shard(shard("c").zone("z").weight(3.0)),
    ];
    for options in contradictions {
        assert_eq!(refused(options.open(&place)), ErrorKind::Mismatch, "{options:?}");
    }
    // Unspecified options, and the same ones, are fine.
    for options in [small(), created, same().shard(shard("c").zone("z"))] {
        let store = options.open(&place).unwrap();
        assert_eq!(store.ring().replication_factor(), 2);
        assert_eq!(store.ring().virtual_nodes(), 64);
        assert_eq!(store.get("k").unwrap().as_deref(), Some(&b"v"[..]));
        store.close().unwrap();
    }
}

#[test]
fn a_store_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    assert_eq!(refused(small().open(dir.path().join("data"))), ErrorKind::Locked);
    let clone = store.clone();
    clone.insert("k", b"v").unwrap();
    drop(store);
    assert_eq!(refused(small().open(dir.path().join("data"))), ErrorKind::Locked);
    clone.close().unwrap();
    // Closed, although a handle is still there.
    let again = small().open(dir.path().join("data")).unwrap();
    assert_eq!(clone.get("k").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(clone.insert("k", b"w").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(clone.flush().unwrap_err().kind(), ErrorKind::Closed);
    assert!(clone.iter().next().unwrap().is_err());
    clone.close().unwrap();
    assert_eq!(again.get("k").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn directories_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    std::fs::create_dir(place("files")).unwrap();
    std::fs::write(place("files").join("letter.txt"), "dear").unwrap();
    assert_eq!(refused(small().open(place("files"))), ErrorKind::Foreign);
    assert_eq!(tree(&place("files")), ["letter.txt"]);

    let first = small().shard(ShardOptions::new(place("a"))).shard(ShardOptions::new(place("b")));
    first.open(place("one")).unwrap().insert("k", b"v").unwrap();
    let second = small().shard(ShardOptions::new(place("a"))).shard(ShardOptions::new(place("c")));
    assert_eq!(refused(second.open(place("two"))), ErrorKind::Foreign, "a shard of another store");
    let third = small().shard(ShardOptions::new(place("files"))).shard(ShardOptions::new(place("c")));
    assert_eq!(refused(third.open(place("two"))), ErrorKind::Foreign, "a directory with files");
    assert_eq!(first.open(place("one")).unwrap().get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(refused(small().existing_only(true).open(place("nowhere"))), ErrorKind::NotFound);
    assert!(!place("nowhere").exists());
}

#[test]
fn another_format_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    small().open(dir.path()).unwrap().close().unwrap();
    let path = dir.path().join("MANIFEST");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 99;
    let crc = {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[8..16]);
        crc.update(&bytes[20..]);
        crc.finalize()
    };
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = small().open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("99"), "{error}");
    // Not as of a file that cannot be read, which the shards have copies of.
    assert!(
        error.advice().is_some_and(|advice| advice.contains("with the release that wrote it")),
        "{error}"
    );
}

#[test]
fn keyspaces_are_apart_and_drop_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = small().shards(3);
    let store = options.open(dir.path().join("data")).unwrap();
    let (orders, carts) = (store.keyspace("orders").unwrap(), store.keyspace("carts").unwrap());
    for i in 0..500 {
        store.insert(format!("{i}"), b"default").unwrap();
        orders.insert(format!("{i}"), b"order").unwrap();
        carts.insert(format!("{i}"), b"cart").unwrap();
    }
    store.flush().unwrap();
    orders.remove("7").unwrap();
    assert_eq!(store.list_keyspaces().unwrap(), ["carts", "default", "orders"]);
    assert_eq!((store.len().unwrap(), orders.len().unwrap(), carts.len().unwrap()), (500, 499, 500));
    assert_eq!(orders.scan_prefix("49").count(), 11);
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert_eq!(store.keyspace(name).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(store.drop_keyspace("default").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.drop_keyspace("none").unwrap_err().kind(), ErrorKind::NotFound);

    store.drop_keyspace("orders").unwrap();
    assert_eq!(orders.get("1").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(orders.insert("1", b"").unwrap_err().kind(), ErrorKind::NotFound);
    let mut batch = WriteBatch::new();
    batch.insert("1", b"changed").insert_in(&orders, "1", b"");
    assert_eq!(store.commit(batch).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.get("1").unwrap().as_deref(), Some(&b"default"[..]));
    let anew = store.keyspace("orders").unwrap();
    assert!(anew.is_empty().unwrap(), "a keyspace of the same name begins empty");
    anew.insert("1", b"new").unwrap();
    drop((orders, carts, anew, store));

    let store = options.open(dir.path().join("data")).unwrap();
    assert_eq!(store.keyspace("orders").unwrap().len().unwrap(), 1);
    assert_eq!(store.keyspace("carts").unwrap().len().unwrap(), 500);
    let other = options.open(dir.path().join("other")).unwrap();
    let mut batch = WriteBatch::new();
    batch.insert_in(&other.keyspace("orders").unwrap(), "1", b"");
    assert_eq!(
        store.commit(batch).unwrap_err().kind(),
        ErrorKind::InvalidInput,
        "a keyspace of another store"
    );
}

#[test]
fn dropping_a_keyspace_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().shards(2).open(dir.path().join("data")).unwrap();
    let bulk = store.keyspace("bulk").unwrap();
    for i in 0..2000 {
        bulk.insert(format!("{i}"), [1u8; 200]).unwrap();
    }
    store.flush().unwrap();
    let records =
        |store: &Store| store.stats().unwrap().shards.iter().map(|s| s.records.unwrap_or(0)).sum::<u64>();
    assert_eq!(records(&store), 4000);
    store.drop_keyspace("bulk").unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while records(&store) > 0 {
        assert!(std::time::Instant::now() < end, "{} records are left", records(&store));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // What a flush finds of it in memory is not written to begin with.
    let bulk = store.keyspace("bulk").unwrap();
    for i in 0..500 {
        bulk.insert(format!("{i}"), b"waits").unwrap();
    }
    store.drop_keyspace("bulk").unwrap();
    store.insert("kept", b"").unwrap();
    store.flush().unwrap();
    assert_eq!(records(&store), 2);
}

#[test]
fn durability_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    let seq = store.insert_with("a", b"1", Durability::Sync).unwrap();
    assert!(store.stats().unwrap().durable_seq >= seq);
    let seq = store.insert_with("b", b"1", Durability::Memory).unwrap();
    assert!(store.stats().unwrap().durable_seq < seq);
    store.sync().unwrap();
    assert!(store.stats().unwrap().durable_seq >= seq);
    let mut batch = WriteBatch::new();
    batch.insert("c", b"1").remove("a");
    let seq = store.commit_with(batch, Durability::Sync).unwrap();
    assert!(store.stats().unwrap().durable_seq >= seq);
    assert_eq!(store.commit(WriteBatch::new()).unwrap(), seq, "an empty batch is no write");
    assert_eq!(store.get_versioned("c").unwrap().unwrap().1, seq);
    assert!(!store.contains_key("a").unwrap());
}

#[test]
fn an_iterator_outlives_its_store_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    for i in 0..100u8 {
        store.insert([i], [i]).unwrap();
    }
    let mut iter = store.iter();
    iter.next().unwrap().unwrap();
    iter.next_back().unwrap().unwrap();
    drop(store);
    assert_eq!(iter.filter(|item| item.is_ok()).count(), 98);
    small().open(dir.path().join("data")).unwrap();
}

#[test]
fn a_scan_that_rests_does_not_keep_its_store_from_closing() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    for i in 0..3000u32 {
        store.insert(i.to_be_bytes(), [7; 100]).unwrap();
    }
    store.flush().unwrap();
    let mut iter = store.iter();
    for i in 0..40u32 {
        assert_eq!(iter.next_ref().unwrap().unwrap().0, i.to_be_bytes());
        assert_eq!(iter.next_back_ref().unwrap().unwrap().0, (2999 - i).to_be_bytes());
    }
    store.close().unwrap();
    let rest: Vec<_> = iter.by_ref().collect();
    let (last, fetched) = rest.split_last().unwrap();
    assert!(fetched.len() < 2000 && fetched.iter().all(Result::is_ok));
    assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert!(iter.next_ref().is_none() && iter.next_back().is_none());
    assert_eq!(small().open(dir.path().join("data")).unwrap().len().unwrap(), 3000);
}

#[test]
fn a_scan_shows_its_moment_whatever_is_flushed_between_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    let value = |i: u32| vec![i as u8; if i % 500 == 3 { 100_000 } else { i as usize % 300 }];
    for i in 0..4000u32 {
        store.insert(i.to_be_bytes(), value(i)).unwrap();
        if i % 900 == 0 {
            store.flush().unwrap();
        }
    }
    let mut iter = store.iter();
    let (mut low, mut high) = (0u32, 4000u32);
    for turn in 0u32.. {
        // Runs of one end that go over several chunks, and turns in the middle of one.
        for _ in 0..1 + turn * turn % 97 {
            let back = turn % 4 == 3 || turn > 60 && turn % 2 == 0;
            let found = match (back, turn % 3) {
                (false, 0) => iter.next_ref().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))),
                (true, 0) => iter.next_back_ref().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))),
                (false, _) => iter.next().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))),
                (true, _) => iter.next_back().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))),
            };
            if low == high {
                assert!(found.is_none());
                return;
            }
            let i = if back { high - 1 } else { low };
            assert!(found.unwrap().unwrap() == (i.to_be_bytes().to_vec(), value(i)), "record {i}");
            if back { high -= 1 } else { low += 1 }
        }
        for i in (0..4000u32).skip(turn as usize % 11).step_by(37) {
            match (i + turn) % 3 {
                0 => store.remove(i.to_be_bytes()).unwrap(),
                _ => store.insert(i.to_be_bytes(), b"newer").unwrap(),
            };
        }
        store.insert((9000 + turn).to_be_bytes(), b"later").unwrap();
        if turn % 5 < 2 {
            store.flush().unwrap();
        }
    }
}

#[test]
fn records_that_move_to_the_shards_under_a_resting_scan_are_seen() {
    for back in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = small().open(dir.path().join("data")).unwrap();
        // Every other record is in the pages that the scan has at hand, the others come there while it rests.
        for i in (0..2000u32).step_by(2) {
            store.insert(i.to_be_bytes(), b"old").unwrap();
        }
        store.flush().unwrap();
        for i in (1..2000u32).step_by(2) {
            store.insert(i.to_be_bytes(), b"new").unwrap();
        }
        let mut iter = store.iter();
        for i in 0..2000u32 {
            let found = if back { iter.next_back_ref() } else { iter.next_ref() };
            let expected = if back { 1999 - i } else { i };
            assert_eq!(found.unwrap().unwrap().0, expected.to_be_bytes());
            if i == 0 {
                store.flush().unwrap();
            }
        }
        assert!(iter.next().is_none());
    }
}

#[test]
fn records_are_passed_by_from_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = small().open(dir.path().join("data")).unwrap();
    for i in 0..1000u32 {
        store.insert(i.to_be_bytes(), vec![1; if i == 500 { 200_000 } else { 10 }]).unwrap();
    }
    let key = |item: Option<annulus::Result<(annulus::Bytes, annulus::Bytes)>>| {
        u32::from_be_bytes(item.unwrap().unwrap().0[..].try_into().unwrap())
    };
    let mut iter = store.iter();
    assert_eq!((key(iter.nth(300)), key(iter.nth_back(300)), key(iter.next())), (300, 699, 301));
    assert_eq!((key(iter.nth(197)), iter.next_ref().unwrap().unwrap().1.len()), (499, 200_000));
    assert_eq!(iter.count(), 698 - 500);
    assert!(store.iter().nth(1000).is_none() && store.iter().nth_back(1000).is_none());
    assert_eq!(store.range::<&[u8]>(..).skip(999).count(), 1);
}

#[test]
fn options_and_stats_are_serde_types() {
    let options: Options = serde_json::from_str(
        r#"{"shards": 3, "replication_factor": 2, "partitioner": {"delimiter": 47}, "durability": "sync"}"#,
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = options.clone().memory_budget(8 << 20).open(dir.path()).unwrap();
    let stats = store.stats().unwrap();
    let text = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<annulus::Stats>(&text).unwrap(), stats);
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
    assert!(
        serde_json::from_str::<Options>(r#"{"shard_count": 3}"#).is_err(),
        "a typing error is not passed over"
    );
}

#[test]
fn what_a_power_cut_does_is_stated() {
    let memory = Path::new("/dev/shm");
    let Ok(dir) = tempfile::tempdir_in(memory) else {
        println!("skipped: there is no file system in memory here");
        return;
    };
    let warnings = |replicas: usize| {
        let place = dir.path().join(replicas.to_string());
        let store = small().shards(2).replication_factor(replicas).open(place).unwrap();
        store.insert("k", b"v").unwrap();
        store.flush().unwrap();
        let stats = store.stats().unwrap();
        assert!(stats.shards.iter().all(|s| s.power_loss == Some(annulus::PowerLoss::OneOwnerAtRest)));
        stats.warnings
    };
    assert!(warnings(1).iter().all(|w| w.contains("power cut")) && warnings(1).len() == 2);
    assert!(warnings(2).is_empty(), "one owner rests while the other is written");
}

#[test]
fn a_new_disk_has_room_for_a_store_and_other_peoples_files_have_not() {
    for (name, fits) in [
        ("lost+found", true),
        ("notes.txt", false),
        ("CREATING.tmp", true),
        ("other.tmp", false),
        ("ADOPTING.tmp", true),
        ("ADOPTING", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        match name {
            "lost+found" => std::fs::create_dir(dir.path().join(name)).unwrap(),
            _ => std::fs::write(dir.path().join(name), b"x").unwrap(),
        }
        let opened = small().open(dir.path());
        match fits {
            true => drop(opened.unwrap().insert("k", b"v").unwrap()),
            false => assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::Foreign, "{name}"),
        }
    }
}

#[test]
fn shards_that_would_share_a_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (first, second, word) in [
        ("a", "a", "the same directory is named for two shards"),
        ("a", "a/b", "lies inside another's"),
        ("a/b", "a", "lies inside another's"),
        ("a", "store", "cannot be, or hold, the store's own"),
    ] {
        let shards = [first, second].map(|name| ShardOptions::new(dir.path().join(name)));
        let options = shards.into_iter().fold(small(), |options, shard| options.shard(shard));
        let error = options.open(dir.path().join("store")).map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(word), "{error}");
        assert!(!dir.path().join("store/MANIFEST").exists());
    }
}

/// A configuration file says what the methods are called.
#[test]
fn options_are_read_under_the_names_of_their_methods() {
    let text = r#"{
        "shard": [{"path": "/a", "zone": "z", "weight": 2.0}], "shards": 1, "replication_factor": 1, "virtual_nodes": 64,
        "partitioner": "whole", "memory_budget": 8388608, "durability": "sync", "page_bytes": 4096,
        "journal_segment_bytes": 65536, "journal_retention": 1, "journal_dirs": ["/j"], "accept_journal": "/j",
        "accept_journal_loss": true, "existing_only": true, "leave_allocator": true, "heal": "manual",
        "shard_timeout": {"secs": 2, "nanos": 0}, "quarantine_limit": 1, "scrub_every": {"secs": 60, "nanos": 0}
    }"#;
    let read: Options = serde_json::from_str(text).unwrap();
    let second = std::time::Duration::from_secs(1);
    let built = Options::new()
        .shard(annulus::ShardOptions::new("/a").zone("z").weight(2.0))
        .shards(1)
        .replication_factor(1)
        .virtual_nodes(64)
        .partitioner(annulus::Partitioner::Whole)
        .memory_budget(8 << 20)
        .durability(Durability::Sync)
        .page_bytes(4096)
        .journal_segment_bytes(64 << 10)
        .journal_retention(1)
        .journal_dir("/j")
        .accept_journal("/j")
        .accept_journal_loss(true)
        .existing_only(true)
        .leave_allocator(true)
        .heal(annulus::Heal::Manual)
        .shard_timeout(2 * second)
        .quarantine_limit(1)
        .scrub_every(60 * second);
    assert_eq!(read, built);
    let text = serde_json::to_string(&built).unwrap();
    assert!(text.contains("journal_segment_bytes") && text.contains("journal_dirs"), "{text}");
}
