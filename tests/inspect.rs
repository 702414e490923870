//! Looking at a store without opening it: what is seen, of which damage, and that nothing is changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{ErrorKind, Inspection, Options, Seq, ShardId, ShardOptions, Store, inspect};
use common::copy;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn filled(dir: &Path, options: &Options) -> Store {
    let store = options.open(dir).unwrap();
    store.keyspace("notes").unwrap();
    for n in 0..3000_u32 {
        store.insert(n.to_be_bytes(), [7; 50]).unwrap();
    }
    store
}

/// Every file and directory with its bytes, its length and the time of its last change.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let mut bytes = Vec::new();
        if metadata.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            bytes = std::fs::read(&path).unwrap();
        }
        found.insert(path, (metadata.modified().unwrap(), bytes));
    }
    found
}

/// Looks, and sees to it that nothing was changed by it.
fn look(dir: &Path) -> annulus::Result<Inspection> {
    let before = everything(dir);
    let found = inspect(dir);
    assert!(before == everything(dir), "inspecting changed something in {}", dir.display());
    found
}

#[test]
fn a_store_is_described_and_not_one_byte_or_time_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (place, far) = (dir.path().join("store"), dir.path().join("far"));
    let options = (0..3).fold(options(), |options, n| {
        options.shard(ShardOptions::new(far.join(n.to_string())).zone(format!("zone {n}")).weight(1.0))
    });
    let store = filled(&place, &options);
    let while_open = inspect(&place).unwrap();
    assert_eq!(while_open.opened_by, Some(std::process::id()));
    let (last, ring) = (store.stats().unwrap().last_seq, store.ring());
    store.close().unwrap();
    std::fs::remove_file(place.join("LOCK")).unwrap();

    let before = everything(&far);
    let found = look(&place).unwrap();
    assert!(before == everything(&far), "inspecting changed a shard");
    assert_eq!(found.problems(), Vec::<String>::new());
    assert_eq!(found.opened_by, None);
    assert_eq!((found.replication_factor, found.virtual_nodes), (2, ring.virtual_nodes()));
    assert_eq!(found.keyspaces, ["default", "notes"]);
    assert_eq!((found.under_replicated, found.unavailable), (0, 0));
    assert_eq!(found.ring().unwrap().to_svg(), ring.to_svg());
    assert_eq!(found.shards.len(), 3);
    for (n, shard) in found.shards.iter().enumerate() {
        assert_eq!(shard.id, ShardId(n as u32));
        assert_eq!(shard.path, far.canonicalize().unwrap().join(n.to_string()));
        assert_eq!((shard.zone.clone(), shard.weight), (format!("zone {n}"), 1.0));
        assert_eq!((shard.applied, shard.applying, shard.filling), (Some(last), false, false));
    }
    let records: u64 = found.shards.iter().map(|shard| shard.records.unwrap()).sum();
    assert_eq!(records, 6000, "two copies of each");
    let all: usize =
        everything(&place).values().chain(everything(&far).values()).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(found.bytes, all as u64);

    let text = serde_json::to_string(&found).unwrap();
    let back: Inspection = serde_json::from_str(&text).unwrap();
    assert_eq!((back.store, back.shards.clone()), (found.store, found.shards));
    assert!(back.ring().is_none());
}

#[test]
fn each_kind_of_damage_is_said_of_the_shard_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, place) = (dir.path().join("whole"), dir.path().join("store"));
    filled(&whole, &options().shards(3)).close().unwrap();
    let shard = |n: u32| place.join(format!("shards/{n:04}"));
    let flip = |path: PathBuf| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let damages: [(&str, &dyn Fn()); 6] = [
        ("seal is damaged", &|| flip(shard(1).join("SEAL"))),
        ("seal is missing", &|| std::fs::remove_file(shard(1).join("SEAL")).unwrap()),
        ("identity file is damaged", &|| flip(shard(1).join("IDENTITY"))),
        ("is missing", &|| std::fs::remove_dir_all(shard(1)).unwrap()),
        ("engine that the seal names is missing", &|| {
            std::fs::remove_dir_all(shard(1).join("engine")).unwrap();
        }),
        ("holds shard 2, not shard 1", &|| copy(&shard(2), &shard(1))),
    ];
    for (expected, damage) in damages {
        copy(&whole, &place);
        damage();
        let found = look(&place).unwrap();
        let said = found.shards[1].damage.clone().unwrap_or_default();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(found.shards[0].damage.is_none() && found.shards[2].damage.is_none());
        assert_eq!(found.unavailable, 0);
        let lacking = found.shards[1].virtual_nodes;
        assert_eq!(found.under_replicated, lacking, "{expected}");
        assert!(found.problems()[0].starts_with("shard 1: "), "{:?}", found.problems());
    }
    copy(&whole, &place);
    (0..2).for_each(|n| std::fs::remove_dir_all(shard(n)).unwrap());
    let found = look(&place).unwrap();
    assert!(found.unavailable > 0 && found.problems().len() == 3, "{:?}", found.problems());

    copy(&whole, &place);
    std::fs::remove_dir_all(place.join("journal")).unwrap();
    assert!(look(&place).unwrap().problems()[0].contains("journal"));
}

#[test]
fn a_lost_manifest_is_read_from_a_shard_and_what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    filled(&place, &options().shards(3)).close().unwrap();
    let whole = look(&place).unwrap();
    std::fs::write(place.join("MANIFEST"), b"ANNULUSM and no more").unwrap();
    let damaged = look(&place).unwrap();
    std::fs::remove_file(place.join("MANIFEST")).unwrap();
    let gone = look(&place).unwrap();
    for (found, expected) in [(damaged, "damaged"), (gone, "gone")] {
        assert_eq!((found.store, found.generation), (whole.store, whole.generation));
        assert!(found.manifest.ends_with("IDENTITY"));
        assert!(found.problems()[0].contains(expected), "{:?}", found.problems());
    }
    let refused = |dir: &Path| inspect(dir).map(drop).unwrap_err().kind();
    std::fs::write(place.join("RESTORING"), b"").unwrap();
    assert_eq!(look(&place).map(drop).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(refused(&dir.path().join("absent")), ErrorKind::NotFound);
    assert!(!dir.path().join("absent").exists());
    assert_eq!(look(dir.path()).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_second_opener_is_told_which_process_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process ({})", std::process::id())), "{error}");
    // Only the lock counts, whatever the file says.
    std::fs::write(dir.path().join("LOCK"), "1\n").unwrap();
    let error = Store::open(dir.path()).map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Locked && error.to_string().contains("process 1"), "{error}");
    std::fs::write(dir.path().join("LOCK"), "").unwrap();
    assert_eq!(Store::open(dir.path()).map(drop).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(store.insert("a", "b").unwrap(), Seq(1));
    store.close().unwrap();
    std::fs::write(dir.path().join("LOCK"), "1\n").unwrap();
    drop(Store::open(dir.path()).unwrap());
}
