//! A store as the first version of every format wrote it, committed as a fixture: it opens, for ever, with what was put
//! in. `ANNULUS_WRITE_GOLDEN=1 cargo test --test golden` writes it anew, which only a new version of a format may do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::testing::{self, Background, RealDisk, Seams, SledFactory};
use annulus::{
    BackupRepository, Durability, Options, Partitioner, Phase, ShardId, ShardOptions, ShardRole, Store,
    WriteBatch,
};
use common::copy;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RECORDS: u32 = 400;

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/store-v{version}"))
}

fn key(n: u32) -> String {
    format!("{}/item/{n:05}", n % 7)
}

fn value(n: u32) -> Vec<u8> {
    let length = if n == 77 { 9_000 } else { n as usize % 60 };
    (0..length).map(|i| (i as u32 * 7 + n) as u8).collect()
}

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn write(place: &Path) {
    let _ = std::fs::remove_dir_all(place);
    let store = options()
        .shards(2)
        .replication_factor(2)
        .virtual_nodes(32)
        .page_bytes(1024)
        .partitioner(Partitioner::Delimiter(b'/'))
        .open(place)
        .unwrap();
    let notes = store.keyspace("notes").unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
        notes.insert(n.to_be_bytes(), value(n + 1)).unwrap();
    }
    store.flush().unwrap();
    // The journal's tail: a batch that overwrites, removes and adds, not in any shard.
    let mut batch = WriteBatch::new();
    batch.insert(key(1), b"overwritten").remove(key(2)).insert("tail", b"in the journal");
    batch.remove_in(&notes, 3u32.to_be_bytes());
    store.commit_with(batch, Durability::Sync).unwrap();
}

#[test]
fn a_store_of_the_first_version_opens() {
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        write(&fixture(1));
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    copy(&fixture(1), &place);
    let store = options().existing_only(true).open(&place).unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.warnings.is_empty(), "{:?}", stats.warnings);
    assert_eq!(stats.opening.replayed_commits, 1);
    assert_eq!(stats.last_seq.0, u64::from(RECORDS) * 2 + 1);
    let notes = store.keyspace("notes").unwrap();
    for n in 0..RECORDS {
        let expected = match n {
            1 => Some(b"overwritten".to_vec()),
            2 => None,
            n => Some(value(n)),
        };
        assert_eq!(store.get(key(n)).unwrap().map(|v| v.to_vec()), expected, "record {n}");
        let expected = (n != 3).then(|| value(n + 1));
        assert_eq!(notes.get(n.to_be_bytes()).unwrap().map(|v| v.to_vec()), expected, "note {n}");
    }
    assert_eq!(store.get("tail").unwrap().as_deref(), Some(&b"in the journal"[..]));
    assert_eq!(store.len().unwrap(), u64::from(RECORDS));
    // Each shard alone holds everything.
    store.close().unwrap();
    for lost in ["shards/0000", "shards/0001"] {
        let place = dir.path().join("one");
        let _ = std::fs::remove_dir_all(&place);
        copy(&dir.path().join("store"), &place);
        std::fs::remove_dir_all(place.join(lost)).unwrap();
        let store = options().open(&place).unwrap();
        assert_eq!(store.len().unwrap(), u64::from(RECORDS));
        assert_eq!(store.keyspace("notes").unwrap().len().unwrap(), u64::from(RECORDS) - 1);
    }
}

/// Opens a store whose every step is taken by hand, so that it can be left in the middle of a change.
fn by_hand(place: &Path, options: &Options) -> Store {
    let seams = Seams {
        disk: Arc::new(RealDisk),
        factory: Arc::new(SledFactory::default()),
        background: Background::Off,
    };
    testing::open(place, options, seams).unwrap()
}

/// A store of which a shard has been replaced, and which is left while another change compares its copies.
fn write_changing(place: &Path) {
    let _ = std::fs::remove_dir_all(place);
    let store = by_hand(place, &options().shards(2).replication_factor(1).virtual_nodes(16).page_bytes(512));
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    let shard = |name: &str| ShardOptions::new(place.join("shards").join(name));
    let plan = store.plan().replace_shard(ShardId(1), shard("second")).preview().unwrap();
    store.apply(plan).unwrap();
    while testing::change_step(&store).unwrap() {}
    let plan = store.plan().add_shard(shard("third")).preview().unwrap();
    let change = store.apply(plan).unwrap();
    while change.progress().phase != Phase::Verifying {
        testing::change_step(&store).unwrap();
    }
    store.close().unwrap();
}

#[test]
fn a_store_of_the_second_version_goes_on_with_its_change() {
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        write_changing(&fixture(2));
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    copy(&fixture(2), &place);
    let store = by_hand(&place, &options());
    let roles: Vec<_> = store.topology().shards.iter().map(|shard| (shard.id.0, shard.role)).collect();
    let expected = [ShardRole::Member, ShardRole::Retired, ShardRole::Member, ShardRole::Joining];
    assert_eq!(roles, (0..).zip(expected).collect::<Vec<_>>());
    assert!(store.change().unwrap().progress().records_copied > 0);
    while testing::change_step(&store).unwrap() {}
    assert_eq!(store.ring().members().len(), 3);
    store.drop_shard(ShardId(1)).unwrap();
    for n in 0..RECORDS {
        assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "{n}");
    }
    store.close().unwrap();
}

/// A store whose journal lies in two directories, with a tail in it.
fn write_mirrored(place: &Path) {
    let _ = std::fs::remove_dir_all(place);
    let journals = ["journal", "journal-b"].map(|name| place.join(name));
    let options = options().shards(2).virtual_nodes(16).page_bytes(512).journal_dirs(journals);
    let store = by_hand(place, &options);
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
        if n == RECORDS / 2 {
            store.flush().unwrap();
        }
    }
    store.sync().unwrap();
}

#[test]
fn a_store_of_the_third_version_opens_with_either_copy_of_its_journal() {
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        write_mirrored(&fixture(3));
    }
    for lost in [None, Some("journal"), Some("journal-b")] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        copy(&fixture(3), &place);
        if let Some(lost) = lost {
            std::fs::remove_dir_all(place.join(lost)).unwrap();
        }
        let store = by_hand(&place, &options());
        let mirrors = store.stats().unwrap().journal.mirrors;
        let expected = ["journal", "journal-b"].map(|name| Some(name) != lost);
        assert_eq!(mirrors.iter().map(|mirror| mirror.good).collect::<Vec<_>>(), expected);
        for n in 0..RECORDS {
            assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "{n}");
        }
        assert_eq!(testing::mend(&store), usize::from(lost.is_some()));
        store.close().unwrap();
    }
}

/// A store of which a shard is being filled anew, and which has been scrubbed before.
fn write_filling(place: &Path) {
    let _ = std::fs::remove_dir_all(place);
    let options = options().shards(2).replication_factor(2).virtual_nodes(16).page_bytes(512);
    let store = by_hand(place, &options);
    for n in 0..RECORDS {
        store.insert(key(n), value(n)).unwrap();
    }
    store.flush().unwrap();
    let scrub = store.scrub().unwrap();
    while scrub.progress().running {
        testing::scrub_step(&store).unwrap();
    }
    store.rebuild(ShardId(1)).unwrap();
    testing::heal_step(&store).unwrap();
    store.drop_quarantined(ShardId(1)).unwrap();
}

#[test]
fn a_shard_of_the_second_version_of_the_seal_goes_on_being_filled() {
    let fixture = fixture(3).with_file_name("store-v3-filling");
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        write_filling(&fixture);
    }
    let seal = std::fs::read(fixture.join("shards/0001/SEAL")).unwrap();
    let seal = String::from_utf8_lossy(&seal);
    assert!(seal.contains(r#""generation":1,"filled":"""#), "{seal}");
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    copy(&fixture, &place);
    let store = by_hand(&place, &options());
    assert_eq!(store.stats().unwrap().shards[1].health, annulus::Health::Rebuilding);
    assert_eq!(store.scrub().unwrap().progress().report.records_compared, 0, "another one begins");
    while testing::heal_step(&store).unwrap() {}
    assert!(store.health().unwrap().is_good());
    std::fs::remove_dir_all(place.join("shards/0000")).unwrap();
    store.close().unwrap();
    let store = by_hand(&place, &options());
    for n in 0..RECORDS {
        assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "{n}");
    }
}

/// A copy of the journal that lay on a disk of its own is on none in this fixture: it is told so from the manifest, and from what a shard has of that.
#[test]
fn where_the_copies_of_the_journal_lie_is_read_from_the_fifth_version() {
    for name in ["MANIFEST", "IDENTITY"] {
        let file = fixture(3).with_file_name(format!("{}-mounts", name.to_lowercase()));
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        copy(&fixture(3), &place);
        let written = std::fs::read(&file).unwrap();
        assert_eq!(written[8], if name == "MANIFEST" { 5 } else { 4 });
        assert!(String::from_utf8_lossy(&written).contains(r#""path":"journal-b","mounts":3}"#));
        match name {
            "MANIFEST" => std::fs::write(place.join(name), &written).unwrap(),
            _ => {
                std::fs::write(place.join("shards/0000").join(name), &written).unwrap();
                std::fs::remove_file(place.join("MANIFEST")).unwrap();
            }
        }
        let away = place.join("journal-b");
        std::fs::rename(&away, place.join("elsewhere")).unwrap();
        let store = by_hand(&place, &options());
        assert_eq!(testing::mend(&store), 0);
        let warnings = store.stats().unwrap().warnings.join(" ");
        assert!(
            warnings.contains("not mounted: 0 file systems begin on the way there, and there were 3"),
            "{warnings}"
        );
        store.close().unwrap();
        assert!(!away.exists());
        assert_eq!(std::fs::read(place.join("MANIFEST")).unwrap()[8], 5);
        // It is to lie there, on no disk of its own: what is written is what earlier releases read.
        by_hand(&place, &options().journal_dirs([place.join("journal")])).close().unwrap();
        let store = by_hand(&place, &options().journal_dirs([place.join("journal"), away]));
        assert_eq!(testing::mend(&store), 1);
        store.close().unwrap();
        let versions =
            ["MANIFEST", "shards/0000/IDENTITY"].map(|path| std::fs::read(place.join(path)).unwrap()[8]);
        assert_eq!(versions, [3, 3]);
    }
}

/// The archives that the journal is kept for are known again, and written down again as they were read.
#[test]
fn lists_of_archives_of_either_version_are_read() {
    for version in [1, 2] {
        let file = fixture(3).with_file_name(format!("archives-v{version}"));
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        copy(&fixture(3), &place);
        if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
            let store = by_hand(&place, &options());
            let repository = BackupRepository::open(dir.path().join("1")).unwrap();
            store.archive(&repository).unwrap();
            if version == 2 {
                let under = |dir: PathBuf| std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
                std::fs::write(under(under(dir.path().join("1/archive"))), b"rubbish").unwrap();
                store.archive(&repository).unwrap_err();
            }
            store.keyspace("gone").unwrap();
            store.drop_keyspace("gone").unwrap();
            store.close().unwrap();
            std::fs::copy(place.join("ARCHIVES"), &file).unwrap();
            copy(&fixture(3), &place);
        }
        let written = std::fs::read(&file).unwrap();
        std::fs::write(place.join("ARCHIVES"), &written).unwrap();
        let store = by_hand(&place, &options());
        let upto = store.stats().unwrap().last_seq;
        let [held] = store.archives().unwrap()[..] else { panic!("there is one") };
        assert_eq!((held.upto, held.given_up), (upto, false));
        let body = |bytes: &[u8]| String::from_utf8(bytes[20..].to_vec()).unwrap();
        let before = body(&written);
        assert!(before.contains(&format!("{:032x}", held.repository)), "{before}");
        // One more is added, and taken away again.
        let other = BackupRepository::open(dir.path().join("2")).unwrap();
        store.archive(&other).unwrap();
        assert_ne!(std::fs::read(place.join("ARCHIVES")).unwrap(), written);
        store.forget_archive(other.id()).unwrap();
        store.close().unwrap();
        let after = std::fs::read(place.join("ARCHIVES")).unwrap();
        assert_eq!(after[..12], [&b"ANNULUSH"[..], &[version, 0, 0, 0]].concat());
        assert_eq!(body(&after), before);
        assert!(before.contains(r#""name":"gone""#), "{before}");
        assert_eq!(before.contains(r#""damaged":["#), version == 2, "{before}");
    }
}

/// A scrub that was under way goes on where it was, and is written down again as it was read.
#[test]
fn a_scrub_of_either_version_goes_on_where_it_was() {
    for (version, stage, shards_verified) in [(1, "verifying shard 1", 1), (2, "comparing replicas", 2)] {
        let written = std::fs::read(fixture(3).with_file_name(format!("scrub-v{version}"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("store");
        copy(&fixture(3).with_file_name("store-v3-filling"), &place);
        std::fs::write(place.join("SCRUB"), &written).unwrap();
        let store = by_hand(&place, &options());
        let progress = store.scrub().unwrap().progress();
        assert_eq!((progress.running, progress.stage.as_str()), (true, stage));
        let report = progress.report;
        assert_eq!((report.started, report.finished), (1_795_653_214, None));
        assert_eq!(
            (report.shards_verified, report.pages_repaired, report.pages_left),
            (shards_verified, 2, 1)
        );
        assert_eq!(
            (report.records_compared, report.records_reconciled, report.records_unsettled),
            (123, 4, 1)
        );
        store.close().unwrap();
        let saved = std::fs::read(place.join("SCRUB")).unwrap();
        assert_eq!(saved[..12], *b"ANNULUSX\x02\0\0\0");
        // The body of version 1 means the same in version 2.
        assert_eq!(saved[20..], written[20..], "{}", String::from_utf8_lossy(&saved[20..]));
    }
}

/// The manifest beside it is older than what the shards may have: the opening is one that takes it from a shard, to its end.
#[test]
fn a_manifest_that_was_being_taken_from_a_shard_is_gone_on_with() {
    let file = fixture(3).with_file_name("adopting-v1").join("ADOPTING");
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        copy(&fixture(3), &place);
        ["MANIFEST", "MIRRORS"].iter().for_each(|name| std::fs::remove_file(place.join(name)).unwrap());
        std::fs::remove_dir_all(place.join("journal-b")).unwrap();
        by_hand_refused(&place);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(place.join("ADOPTING"), &file).unwrap();
        std::fs::remove_dir_all(&place).unwrap();
    }
    copy(&fixture(3), &place);
    let written = std::fs::read(&file).unwrap();
    assert_eq!(written[..12], *b"ANNULUSO\x01\0\0\0");
    std::fs::write(place.join("ADOPTING"), &written).unwrap();
    let store = by_hand(&place, &options());
    for n in 0..RECORDS {
        assert_eq!(store.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "{n}");
    }
    store.close().unwrap();
    assert!(!place.join("ADOPTING").exists());
    let manifest = std::fs::read(place.join("MANIFEST")).unwrap();
    let manifest = String::from_utf8(manifest[20..].to_vec()).unwrap();
    let number = manifest.split(r#""generation":"#).nth(1).unwrap();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    assert!(digits.parse::<u64>().unwrap() >= 1 << 32, "it counts more than what was lost: {manifest}");
}

fn by_hand_refused(place: &Path) {
    let seams = Seams {
        disk: Arc::new(RealDisk),
        factory: Arc::new(SledFactory::default()),
        background: Background::Off,
    };
    let error = testing::open(place, &options(), seams).map(drop).unwrap_err();
    assert_eq!(error.kind(), annulus::ErrorKind::Refused, "{error}");
}
